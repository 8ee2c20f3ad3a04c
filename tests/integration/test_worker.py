"""What a turn of the daemon does when the queue under it is moved, replaced or can't be read."""

import glob
import os
import sqlite3
from contextlib import ExitStack, closing, suppress
from dataclasses import replace

import pytest

from forwarder import config, spool
from forwarder.errors import ForwarderError
from forwarder.records import KINDS
from forwarder.records.verdict import Outcome, Verdict
from forwarder.service.daemon_log import DaemonLog
from forwarder.service.state import DaemonState, Publisher
from forwarder.service.worker import Worker
from forwarder.spool import DamagedError, EventQueue, SpoolFullError
from forwarder.spool.sqlite.presence import Presence

EVENT = {"event": "A", "properties": {}}
DELIVERED = Outcome(Verdict.DELIVERED, "", imported=1, status=200)


class Work:
    """A worker driven by hand, with a clock of its own."""

    def __init__(self, path, stack):
        here = config.load(None, {"FORWARDER_QUEUE_PATH": path, "FORWARDER_DELIVERY_LINGER_S": "0"})
        presence = Presence(path)
        stack.callback(presence.release)
        self.worker = Worker(here, presence, DaemonLog(), 1.0)
        stack.callback(self.worker.close)
        self.now, self.sent = 0.0, []

    def turn(self, times=4):
        """Some turns, of which each may fail; what was sent is kept."""
        for _ in range(times):
            self.now += 1.1
            with suppress(ForwarderError):
                self.worker.work(self.now, lambda _, batch: self.sent.append(batch))


@pytest.fixture
def work(queue_path):
    with ExitStack() as stack:
        EventQueue(queue_path, min_free_bytes=0).close()
        yield Work(queue_path, stack)


def put(path):
    with EventQueue(path, min_free_bytes=0) as queue:
        queue.put(EVENT)


def test_a_pause_holds_over_any_number_of_replacements(work, queue_path):
    """Once the pause's own directory is gone it is the daemon that knows; only a flush or resume ends it."""
    spool.at(queue_path).pause()
    put(queue_path)
    work.turn()
    os.rename(queue_path, f"{queue_path}-moved")
    put(queue_path)
    work.turn()
    for file in glob.glob(f"{queue_path}/data.db*"):
        os.unlink(file)
    put(queue_path)
    work.turn()
    assert (work.worker.is_paused, work.sent) == (True, [])
    assert work.worker.orphaned.count("1 events") == 2, "all that only old files hold is still told"
    spool.at(queue_path).resume()
    work.turn()
    assert (work.worker.is_paused, len(work.sent)) == (False, 1)


def test_what_comes_while_the_database_is_opened_again_is_sent(work, queue_path, monkeypatch):
    """After damage that passes nothing waits for the next put to be seen."""
    work.turn()
    with monkeypatch.context() as patched:
        patched.setattr(work.worker.streams["event"].dispatcher, "notice", lambda now: fail())
        put(queue_path)
        work.turn(1)
    work.turn()
    assert len(work.sent) == 1


def fail():
    raise DamagedError("it can't be read just now")


def test_news_is_seen_behind_a_new_connection(work, queue_path):
    """SQLite counts each connection's changes from the same number on."""
    work.turn()
    work.worker.streams["event"].consumer.reopen()
    put(queue_path)
    work.turn()
    assert len(work.sent) == 1


def test_it_starts_where_the_tables_of_one_kind_are_damaged(queue_path):
    """The consumer that finds the damage sets the database aside under those that were opened before it."""
    put(queue_path)
    with closing(sqlite3.connect(f"{queue_path}/data.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'ledger_groups'"
        (page,) = connection.execute(query).fetchone()
    with open(f"{queue_path}/data.db", "r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    with ExitStack() as stack:
        work = Work(queue_path, stack)
        put(queue_path)
        work.turn()
        assert len(work.sent) == 1
    assert len(spool.at(queue_path).set_aside()) == 1


@pytest.mark.parametrize("full", ["settle", "read_again"])
def test_a_kind_that_needs_room_does_not_keep_the_others_from_making_it(work, queue_path, monkeypatch, full):
    """On a full disk dead letters of events may find none until updates that are delivered have left."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put(EVENT)
        queue.put_profile({"$token": "t", "$distinct_id": "u", "$add": {"a": 1}})
        queue.put_group({"$token": "t", "$group_key": "k", "$group_id": "g", "$set": {"a": 1}})
    worker = work.worker
    blocked = "event" if full == "settle" else "profile"
    monkeypatch.setattr(worker.streams[blocked].consumer, full, no_room)
    for _ in range(3):
        work.now += 1.1
        with suppress(SpoolFullError):
            worker.work(work.now, lambda kind, batch: worker.receive(kind, batch, DELIVERED))
    left = []
    for kind in KINDS.values():
        with spool.at(queue_path, kind).view() as view:
            left += [kind.name] * view.figures().waiting
    assert left == [blocked]


def no_room(*_):
    raise SpoolFullError("full")


def test_a_state_that_could_not_be_told_is_told_later():
    """On a full disk the last state may not be told; it is once there is room, though it stays the same."""
    told, has_room = [], False

    class Disk:
        def tell(self, state):
            told.append(state["state"])
            return has_room

    publisher, paused = Publisher(Disk(), dict), DaemonState(1, "paused")
    assert publisher.publish(paused, 0.0)
    assert publisher.publish(paused, 0.1)
    assert len(told) == 1, "not at each turn"
    has_room = True
    publisher.publish(paused, 1.0)
    publisher.publish(paused, 2.0)
    assert told == ["paused", "paused"]
    publisher.publish(replace(paused, state="running"), 2.01)
    assert told[-1] == "running"


def test_who_was_overtaken_leaves_the_others_state(queue_path):
    """One that gives up a moved directory does not take back what its successor at the path has told."""
    first = spool.at(queue_path).take()
    first.announce()
    os.rename(queue_path, f"{queue_path}-moved")
    second = spool.at(queue_path).take()
    second.announce()
    second.tell({"state": "blocked"})
    first.release()
    assert os.path.exists(f"{queue_path}/daemon.json")
    second.release()
    assert not os.path.exists(f"{queue_path}/daemon.json")
