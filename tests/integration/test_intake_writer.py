"""The group commit: which requests share one, and what each is told."""

import asyncio
import threading
import time

import pytest

from forwarder.errors import ConfigError, StorageError, TryAgainError
from forwarder.intake import writer as module
from forwarder.intake.counters import Counters
from forwarder.intake.intake_log import IntakeLog
from forwarder.intake.writer import Batch, Writer
from forwarder.spool import FateUnknownError, SpoolFullError


class Producer:
    """Stores in memory; waits where a test holds it, and raises what a test has put into *faults*."""

    def __init__(self):
        self.commits, self.refused, self.faults = [], [], []
        self.began, self.may_go = threading.Semaphore(0), threading.Event()
        self.may_go.set()
        self.closed = False

    def append(self, records, dead=()):
        self.began.release()
        assert self.may_go.wait(20)
        if self.faults and (fault := self.faults.pop(0)):
            raise fault
        self.commits.append((list(records), list(dead)))
        return range(1, len(records) + len(dead) + 1)

    def refuse(self, counts):
        self.refused.append(dict(counts))

    def close(self):
        self.closed = True


class Desk:
    """A writer with producers in memory; *told* has what each batch was told, by its name."""

    def __init__(self, loop):
        self.producers = {"event": Producer(), "profile": Producer()}
        self.told = {}
        self.counters = Counters()
        self.writer = Writer(loop, self.producers.__getitem__, self.counters, IntakeLog())
        self.changed = asyncio.Event()

    def submit(self, name, kind="event", dead=(), refused=None, size=0):
        def done(error):
            assert name not in self.told, "told twice"
            self.told[name] = error
            self.changed.set()

        records = [name.encode()]
        batch = Batch(kind, records, dead, refused or {}, done, size)
        self.writer.submit(batch)
        return batch

    async def until_told(self, *names):
        async with asyncio.timeout(10):
            while not set(names) <= self.told.keys():
                self.changed.clear()
                await self.changed.wait()

    async def began(self, kind="event"):
        assert await asyncio.to_thread(self.producers[kind].began.acquire, timeout=10)


@pytest.fixture
def play():
    """Run a scene with a desk."""

    def run(scene):
        async def whole():
            desk = Desk(asyncio.get_running_loop())
            desk.writer.start(list(desk.producers))
            try:
                await scene(desk)
            finally:
                for producer in desk.producers.values():
                    producer.may_go.set()
                await asyncio.to_thread(desk.writer.close)
            return desk

        return asyncio.run(whole())

    return run


def test_what_comes_during_a_commit_is_the_next_one(play):
    """One alone does not wait for others, and those who come meanwhile share one commit."""

    async def scene(desk):
        events = desk.producers["event"]
        events.may_go.clear()
        desk.submit("first")
        await desk.began()
        for name in ("a", "b", "c"):
            desk.submit(name, dead=[(b"x", "why")] if name == "b" else ())
        assert desk.told == {}
        events.may_go.set()
        await desk.until_told("first", "a", "b", "c")
        assert events.commits == [([b"first"], []), ([b"a", b"b", b"c"], [(b"x", "why")])]

    assert set(play(scene).told.values()) == {None}


def test_each_kind_has_a_commit_of_its_own(play):
    """A failure of one does not fail the other."""

    async def scene(desk):
        desk.producers["event"].may_go.clear()
        desk.submit("first")
        await desk.began()
        desk.producers["profile"].faults = [StorageError("disk")]
        desk.submit("update", kind="profile")
        desk.submit("event")
        desk.producers["event"].may_go.set()
        await desk.until_told("update", "event")
        assert str(desk.told["update"]) == "disk"
        assert desk.told["event"] is None

    play(scene)


@pytest.mark.parametrize(
    "fault",
    [StorageError("io"), SpoolFullError("full"), FateUnknownError("cut"), RuntimeError("a bug")],
)
def test_a_failed_commit_fails_its_group_and_no_other(play, fault):
    """Each of the group is told, nothing of it is stored, and the next group tries again."""

    async def scene(desk):
        events = desk.producers["event"]
        events.faults = [None, fault]
        events.may_go.clear()
        desk.submit("before")
        await desk.began()
        desk.submit("a")
        desk.submit("b")
        events.may_go.set()
        await desk.until_told("a", "b")
        assert str(fault) in str(desk.told["a"])
        assert str(fault) in str(desk.told["b"])
        desk.submit("after")
        await desk.until_told("after")
        assert [records for records, _ in events.commits] == [[b"before"], [b"after"]]
        assert desk.told["after"] is None

    play(scene)


def test_while_others_hold_the_lock_it_tries_again(play):
    """Those whose time is not over don't hear of it."""

    async def scene(desk):
        desk.producers["event"].faults = [TryAgainError("locked")] * 3
        desk.submit("patient")
        await desk.until_told("patient")
        assert desk.told["patient"] is None
        assert desk.producers["event"].commits == [([b"patient"], [])]

    play(scene)


def test_who_has_waited_too_long_leaves_the_group(play, monkeypatch):
    """Also if the lock is never free; its records are not stored when it is."""
    monkeypatch.setattr(module, "PATIENCE_S", 0.3)

    async def scene(desk):
        events = desk.producers["event"]
        events.faults = [TryAgainError("locked")] * 1000
        started_at = time.monotonic()
        desk.submit("late")
        await desk.until_told("late")
        assert 0.3 <= time.monotonic() - started_at < 2
        assert "s: it is locked" in str(desk.told["late"])
        events.faults = []
        desk.submit("next")
        await desk.until_told("next")
        assert [records for records, _ in events.commits] == [[b"next"]]

    play(scene)


def test_who_has_waited_too_long_in_a_commit_that_failed_is_not_tried_again(play, monkeypatch):
    """The client may have gone by the next try, and must not hear two things."""
    monkeypatch.setattr(module, "PATIENCE_S", 0.3)

    async def scene(desk):
        events = desk.producers["event"]
        events.faults = [TryAgainError("locked")]
        events.may_go.clear()
        desk.submit("inside")
        await desk.began()
        desk.submit("behind")
        await desk.until_told("behind")
        events.may_go.set()
        await desk.until_told("inside")
        assert "s: it is locked" in str(desk.told["inside"])
        desk.submit("next")
        await desk.until_told("next")
        assert [records for records, _ in events.commits] == [[b"next"]]

    play(scene)


def test_what_is_in_a_running_transaction_waits_for_its_outcome(play, monkeypatch):
    """It is told the truth, however late; what waits behind it is told no in time, and not stored."""
    monkeypatch.setattr(module, "PATIENCE_S", 0.3)

    async def scene(desk):
        events = desk.producers["event"]
        events.may_go.clear()
        desk.submit("inside")
        await desk.began()
        desk.submit("behind")
        await desk.until_told("behind")
        assert "within 0.3 s" in str(desk.told["behind"])
        assert "inside" not in desk.told
        events.may_go.set()
        await desk.until_told("inside")
        assert desk.told["inside"] is None
        assert [records for records, _ in events.commits] == [[b"inside"]]

    play(scene)


def test_a_large_request_does_not_make_others_part_of_its_commit(play):
    """A group has a size; what is larger alone is a group of its own."""

    async def scene(desk):
        events = desk.producers["event"]
        events.may_go.clear()
        desk.submit("first")
        await desk.began()
        for name, size in (("a", 1), ("large", 50 << 20), ("b", 1), ("c", 1)):
            desk.submit(name, size=size)
        events.may_go.set()
        await desk.until_told("a", "large", "b", "c")
        assert [records for records, _ in events.commits][1:] == [[b"a"], [b"large"], [b"b", b"c"]]

    play(scene)


def test_what_is_refused_is_counted_beside_what_is_stored(play):
    """By a word for the reason; once, also if the commit had to be tried again."""

    async def scene(desk):
        desk.producers["event"].faults = [TryAgainError("locked")]
        desk.submit("a", refused={"time": 2})
        await desk.until_told("a")

    assert play(scene).producers["event"].refused == [{"time": 2}]


def test_what_waits_at_the_end_is_committed(play):
    """The end is not sooner than the last outcome, and the queues are closed."""

    async def scene(desk):
        desk.producers["event"].may_go.clear()
        desk.submit("first")
        await desk.began()
        desk.submit("last")

    desk = play(scene)
    assert [records for records, _ in desk.producers["event"].commits] == [[b"first"], [b"last"]]
    assert desk.producers["event"].closed


def test_a_queue_that_can_never_be_used_is_an_error_at_the_start():
    """What may pass by itself is not: then requests are refused until it does."""

    async def start(fault):
        def open_queue(_kind):
            raise fault

        writer = Writer(asyncio.get_running_loop(), open_queue, Counters(), IntakeLog())
        try:
            writer.start(["event"])
        finally:
            writer.close()

    with pytest.raises(ConfigError):
        asyncio.run(start(ConfigError("another program's")))
    asyncio.run(start(StorageError("disk")))
