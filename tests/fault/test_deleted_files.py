"""P2 where files are deleted, moved or replaced under running programs: said loudly, and all goes on."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from forwarder.records.event import accept
from forwarder.spool import EventQueue
from forwarder.spool.sqlite import books
from forwarder.spool.sqlite.view import View


@pytest.fixture
def offer(queue_path):
    """Put so many events into the queue; returns their final bytes."""

    def offer(name, count):
        text = json.dumps({"event": name, "properties": {"distinct_id": "d"}}).encode()
        events = [accept(text, int(time.time() * 1000)) for _ in range(count)]
        with EventQueue(queue_path, min_free_bytes=0) as queue:
            queue.append(events)
        return events

    return offer


def delete_database(path):
    for part in ("", "-wal", "-shm"):
        os.unlink(f"{path}/data.db{part}")


def taken(server):
    return {entry.data for entry in server.ledger.events.values()}


def move(path):
    os.rename(path, f"{path}-moved")


def mount_over(path):
    """As a disk does that is mounted on the directory: another one, empty, is there."""
    move(path)
    os.mkdir(path)


def is_sound(path):
    with View(path) as view:
        return all(finding.ok for finding in books.check(view))


@pytest.mark.parametrize("gone", [delete_database, shutil.rmtree, move, mount_over])
def test_under_the_daemon(forwarder, server, queue_path, offer, until, gone):
    """The daemon says what only the old files hold, in its log, in `status` and in `check`, and goes on; a
    pause holds, though nothing at the path says so."""
    offer("old", 50)
    forwarder("pause")
    daemon = forwarder.daemon()
    # Otherwise it goes on writing there meanwhile.
    daemon.process.send_signal(signal.SIGSTOP)
    gone(queue_path)
    daemon.process.send_signal(signal.SIGCONT)
    assert "50 events and 0 dead letters" in daemon.wait_for("queue.replaced")["detail"]
    daemon.wait_for("queue.recovered")
    new = offer("new", 10)
    until(lambda: json.loads(forwarder("status", "--json").stdout)["waiting"] == 10, "the new ones wait")
    found = json.loads(forwarder("status", "--json").stdout)
    assert (found["orphaned"], found["state"]) == ("50 events and 0 dead letters", "paused")
    assert "only the old ones hold 50 events" in forwarder("status").stdout
    assert forwarder("check").returncode == 74
    assert taken(server) == set()
    forwarder("resume")
    until(lambda: set(new) == taken(server), "all are delivered")
    assert is_sound(queue_path)
    assert daemon.stop() == 0


@pytest.fixture
def told(monkeypatch):
    """What the library says, whatever this process's log has been made of."""
    said = []
    logger = logging.getLogger("forwarder")
    monkeypatch.setattr(logger, "error", lambda text, *values: said.append(text % values))
    return said


@pytest.mark.parametrize("gone", [("-wal", "-shm"), ("-wal",), ("-shm",)], ids=" ".join)
def test_log_deleted_under_the_only_user(queue_path, told, gone):
    """Where nobody has begun again, nothing is lost with a deleted log or its index, and nothing is said."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put_many({"event": "A", "properties": {}} for _ in range(20))
        for part in gone:
            os.unlink(f"{queue_path}/data.db{part}")
        queue.put({"event": "A", "properties": {}})
    with View(queue_path) as view:
        assert view.figures().waiting == 21
    assert is_sound(queue_path)
    assert told == []


def test_log_replaced_under_a_producer(queue_path, told):
    """Where others have begun again without the log, they win: what was only in it is said to be lost, and
    the database stays sound."""
    queue = EventQueue(queue_path, min_free_bytes=0)
    queue.put_many({"event": "A", "properties": {}} for _ in range(20))
    for part in ("-wal", "-shm"):
        os.unlink(f"{queue_path}/data.db{part}")
    put = (
        "import sys; from forwarder import EventQueue\n"
        "EventQueue(sys.argv[1], min_free_bytes=0).put({'event': 'B', 'properties': {}})"
    )
    subprocess.run([sys.executable, "-c", put, queue_path], check=True, timeout=60)
    queue.put({"event": "A", "properties": {}})
    queue.close()
    assert "only the old ones hold what was accepted last" in told[0]
    with View(queue_path) as view:
        assert view.figures().waiting == 2
    assert is_sound(queue_path)


PROGRAM = """
    import os, shutil, subprocess, sys
    from forwarder import EventQueue
    queue = EventQueue(sys.argv[1], min_free_bytes=0)
    queue.put_many({"event": "A", "properties": {}} for _ in range(20))
    os.rename(sys.argv[1], sys.argv[1] + "-moved")
    put = "import sys; from forwarder import EventQueue; queue = EventQueue(sys.argv[1], min_free_bytes=0)"
    put += "; queue.put({'event': 'B', 'properties': {}}); import os; os._exit(0)"
    subprocess.run([sys.executable, "-c", put, sys.argv[1]], check=True)
    if sys.argv[2] == "fork":
        child = os.fork()
        queue.put({"event": "A", "properties": {}})
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
    elif sys.argv[2] == "put":
        queue.put({"event": "A", "properties": {}})
"""


@pytest.mark.parametrize(("what", "count"), [("ends", 1), ("put", 2), ("fork", 3)])
def test_directory_moved_under_a_producer(queue_path, what, count):
    """What it does next goes to the directory at the path, whose log it does not delete; it says what the
    moved one holds, which is still in there."""
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), queue_path, what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "only the old ones hold 20 events and 0 dead letters" in done.stderr
    for path, waiting in ((queue_path, count), (f"{queue_path}-moved", 20)):
        with View(path) as view:
            assert view.figures().waiting == waiting
        assert is_sound(path)
