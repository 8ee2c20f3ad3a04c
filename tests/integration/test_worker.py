"""What a turn of the daemon does when the queue under it is moved, replaced or can't be read."""

import glob
import os
from contextlib import ExitStack, suppress
from dataclasses import replace

import pytest

from forwarder import config, spool
from forwarder.errors import ForwarderError
from forwarder.service.daemon_log import DaemonLog
from forwarder.service.state import DaemonState, Publisher
from forwarder.service.worker import Worker
from forwarder.spool import DamagedError, EventQueue
from forwarder.spool.sqlite.presence import Presence

EVENT = {"event": "A", "properties": {}}


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


def test_a_state_that_could_not_be_told_is_told_later():
    """On a full disk the last state may not be told; it is once there is room, though it stays the same."""
    told, has_room = [], False

    class Disk:
        def tell(self, state):
            told.append(state["state"])
            return has_room

    publisher, paused = Publisher(Disk()), DaemonState(1, "paused")
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
