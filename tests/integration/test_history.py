"""What the daemon records of each minute, from a real queue and real requests."""

import signal
import time
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace

import pytest

from forwarder import spool
from forwarder.errors import TryAgainError
from forwarder.records import KINDS
from forwarder.sandbox import Fault
from forwarder.service.counters import Counters
from forwarder.service.history import History
from forwarder.spool import EventQueue, SpoolFullError
from tests.conftest import TOKEN, each_engine, until

EVENT = {"event": "A", "properties": {}}
# The sandbox refuses it as Mixpanel does.
BAD = b'{"event":"A","properties":{"time":1700000000,"$insert_id":"not an id!"}}'


def history(queue_path, kind="event"):
    with spool.at(queue_path, KINDS[kind]).view() as view:
        return view.history(1000)


@each_engine
def test_the_end_of_a_daemon_records_what_it_has_done(forwarder, queue_path, figures):
    """Each run is told apart, and the sums are those of the books."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put(EVENT)
        started_at = time.time()
        daemon = forwarder.daemon()
        queue.put_many([EVENT] * 4)
        queue.append([BAD])
        until(lambda: figures(queue_path).waiting == 0)
        assert daemon.stop() == 0
        queue.put_profile({"$token": TOKEN, "$distinct_id": "d", "$set": {"a": 1}})
        daemon = forwarder.daemon()
        until(lambda: spool.at(queue_path, KINDS["profile"]).view().figures().waiting == 0)
        daemon.stop(signal.SIGINT)

    first, second = history(queue_path)
    # One was accepted before.
    assert (first.accepted, first.delivered, first.dead_lettered, first.waiting) == (5, 5, 1, 0)
    assert (second.accepted, second.delivered, second.dead_lettered) == (0, 0, 0)
    assert first.requests["delivered"] >= 1
    assert first.sent_bytes > 5 * len(BAD) / 2
    assert 0 < first.p50_s <= first.p95_s < first.lasted_s < 60
    assert started_at - 1 < first.run < first.ended_at <= second.run < second.ended_at <= time.time()
    assert set(first.states) == {"running"}
    assert (second.requests, second.p50_s, first.reason) == ({}, None, "")
    assert first.used_bytes > 0
    (profile,) = history(queue_path, "profile")
    assert (profile.delivered, profile.requests) == (1, {"delivered": 1})
    assert history(queue_path, "group") == [], "none has ever come"


def test_an_outage_stands_in_it_with_its_reason(forwarder, queue_path, server):
    """The states are those of the whole time, with how long each lasted."""
    server.inject(Fault.server_error())
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put(EVENT)
    daemon = forwarder.daemon()
    until(lambda: server.ledger.request_count > 4 and forwarder.json("status")["state"] == "backing_off")
    assert daemon.stop() == 0
    (period,) = history(queue_path)
    assert period.states["backing_off"] > 0
    assert "HTTP 50" in period.reason
    assert (period.waiting, period.delivered) == (1, 0)
    assert period.requests["unreachable"] > 0
    assert 0 < period.oldest_waiting_s < 60


class Recording:
    """A history over a real queue, driven by hand with a clock of its own."""

    def __init__(self, path):
        self.kinds = {name: {"state": "running", "state_reason": ""} for name in KINDS}
        self.queues = [spool.at(path, kind) for kind in KINDS.values()]
        self.streams = {each.kind.name: SimpleNamespace(consumer=each.consumer()) for each in self.queues}
        self.history = History(self.queues, {name: Counters() for name in KINDS}, 1.0, 0.0)

    def state(self, state, reason=""):
        self.kinds["event"] = {"state": state, "state_reason": reason}

    def turn(self, now):
        if self.history.observe(self.kinds, now):
            self.history.record(self.streams, now)


@pytest.fixture
def recording(queue, queue_path):
    with ExitStack() as stack:
        made = Recording(queue_path)
        for stream in made.streams.values():
            stack.callback(stream.consumer.close)
        yield made


def test_a_row_is_written_when_its_minute_is_over(recording, queue, queue_path):
    """Each has what came in it, and how long delivery was in which state."""
    queue.put(EVENT)
    recording.turn(0.0)
    recording.state("blocked", "a wrong key")
    recording.turn(10.0)
    recording.state("running")
    recording.turn(59.9)
    assert history(queue_path) == []
    queue.put_many([EVENT] * 2)
    recording.turn(60.0)
    queue.put(EVENT)
    for now in (60.1, 119.0, 120.5, 121.0):
        recording.turn(now)
    first, second = history(queue_path)
    assert (first.accepted, first.waiting, first.lasted_s) == (3, 3, 60.0)
    assert (first.states, first.reason) == ({"running": 10.1, "blocked": 49.9}, "a wrong key")
    assert (second.accepted, second.waiting, second.lasted_s) == (1, 4, 60.5)
    assert (second.states, second.reason) == ({"running": 60.5}, "")


def test_what_could_not_be_written_is_in_the_next_row(recording, queue, queue_path, monkeypatch):
    """A full disk costs the minutes their own rows, and no count."""
    consumer = recording.streams["event"].consumer
    recording.turn(0.0)
    queue.put(EVENT)
    with monkeypatch.context() as patched:
        patched.setattr(consumer, "record", partial(fail, SpoolFullError("the disk is full")))
        recording.turn(60.0)
    queue.put(EVENT)
    recording.turn(120.0)
    (row,) = history(queue_path)
    assert (row.accepted, row.lasted_s, row.states) == (2, 120.0, {"running": 120.0})


def test_a_lock_that_others_keep_is_waited_for_once(recording, queue, monkeypatch):
    """Not once for each kind: a daemon that ends has no time for that."""
    queue.put(EVENT)
    queue.put_profile({"$token": TOKEN, "$distinct_id": "d", "$set": {"a": 1}})
    tried = []

    def locked(_, name):
        tried.append(name)
        raise TryAgainError("locked")

    for name, stream in recording.streams.items():
        monkeypatch.setattr(stream.consumer, "record", partial(locked, name=name))
    recording.turn(60.0)
    assert tried == ["event"]


def fail(error, _):
    raise error


def test_a_database_in_place_of_another_begins_its_own_counts(recording, queue, queue_path):
    """What was set aside as damaged took its totals with it."""
    queue.put_many([EVENT] * 5)
    recording.turn(0.0)
    recording.turn(60.0)
    consumer = recording.streams["event"].consumer
    consumer.set_aside()
    consumer.close()
    recording.streams["event"].consumer = spool.at(queue_path).consumer()
    queue.put_many([EVENT] * 3)
    recording.turn(120.0)
    recording.streams["event"].consumer.close()
    (row,) = history(queue_path)
    assert (row.accepted, row.waiting) == (3, 3)


@pytest.mark.parametrize(
    "damage",
    [
        "requests = '{\"deliv'",
        "states = CAST(x'7bff22' AS TEXT)",
        "reason = CAST(x'ff41' AS TEXT)",
        "delivered = x'00'",
        "ended_at = 'text'",
        "states = '{\"running\": []}'",
    ],
)
def test_a_damaged_row_ends_nothing(recording, queue, queue_path, sql, forwarder, damage):
    """It is left out; the figures, and what is recorded later, do not suffer."""
    queue.put(EVENT)
    recording.turn(0.0)
    recording.turn(60.0)
    sql(queue_path, f"UPDATE history SET {damage}")
    recording.turn(120.0)
    assert [row.lasted_s for row in history(queue_path)][-1] == 60.0
    assert forwarder.json("status")["waiting"] == 1
    # In the next hour it is summed up.
    sql(queue_path, "UPDATE history SET ended_at = ended_at - 3600 WHERE id = 2")
    sql(queue_path, f"UPDATE history SET {damage} WHERE id = 1")
    recording.turn(180.0)
    with spool.at(queue_path).view() as view:
        assert len(view.history(10, hourly=True)) == 1
    assert len(history(queue_path)) >= 2
