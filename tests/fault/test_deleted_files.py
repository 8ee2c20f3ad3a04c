"""P2 where files are deleted under running programs, and what is only in them can't be saved at once."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from forwarder import salvage
from forwarder.errors import TryAgainError
from forwarder.event import accept
from forwarder.spool import EventQueue, set_aside


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


@pytest.fixture
def turnstile(queue_path):
    """Holds the turnstile until it is closed, as a stopped producer does."""

    def hold():
        holder = open(f"{queue_path}/turnstile", "rb+")  # noqa: SIM115  # closed by the test
        fcntl.flock(holder, fcntl.LOCK_EX)
        return holder

    return hold


def delete_database(path):
    for part in ("", "-wal", "-shm"):
        os.unlink(f"{path}/data.db{part}")


def taken(far_end):
    return {entry.data for entry in far_end.ledger.events.values()}


def salvage_all(forwarder, queue_path):
    files = set_aside.damaged(queue_path)
    for file in files:
        assert forwarder("salvage", file, "--apply").returncode == 0
    return files


def test_daemon_keeps_deleted_files_while_they_can_not_be_saved(
    forwarder, far_end, queue_path, offer, turnstile, until
):
    """While the turnstile is busy the daemon keeps deleted files open and says so; then it saves what they
    hold and goes on."""
    told = offer("old", 50)
    forwarder("pause")
    daemon = forwarder.daemon()
    holder = turnstile()
    delete_database(queue_path)
    until(lambda: any("50 events" in line["detail"] for line in daemon.logged("queue.failed")), "told", 40)
    assert set_aside.damaged(queue_path) == []
    holder.close()
    daemon.wait_for("queue.recovered")
    told += offer("new", 10)
    assert len(salvage_all(forwarder, queue_path)) == 1
    forwarder("resume")
    until(lambda: set(told) <= taken(far_end), "all are delivered")
    assert daemon.stop() == 0
    assert daemon.other_output == []


def test_daemon_that_ends_says_what_is_lost(forwarder, queue_path, offer, turnstile, until):
    """A daemon that is stopped while deleted files can't be saved says how many events go with them."""
    offer("old", 50)
    forwarder("pause")
    daemon = forwarder.daemon()
    with turnstile():
        delete_database(queue_path)
        until(
            lambda: any("50 events" in line["detail"] for line in daemon.logged("queue.failed")), "told", 40
        )
        assert daemon.stop() == 0
    assert "50 events" in daemon.wait_for("queue.lost")["detail"]


@pytest.mark.parametrize("made_anew", [False, True], ids=["daemon first", "others first"])
def test_directory_deleted_under_the_daemon(forwarder, far_end, queue_path, offer, until, made_anew):
    """A whole directory is deleted: it is made anew, and what only the daemon's files hold is saved."""
    told = offer("old", 50)
    forwarder("pause")
    daemon = forwarder.daemon()
    # Otherwise it goes on writing there meanwhile, and what it saves is deleted with the rest.
    daemon.process.send_signal(signal.SIGSTOP)
    shutil.rmtree(queue_path)
    if made_anew:
        told += offer("new", 10)
    daemon.process.send_signal(signal.SIGCONT)
    daemon.wait_for("queue.failed")
    until(lambda: set_aside.damaged(queue_path), "saved")
    daemon.wait_for("queue.recovered")
    told += offer("newer", 10)
    assert len(salvage_all(forwarder, queue_path)) == 1
    forwarder("resume")
    until(lambda: set(told) <= taken(far_end), "all are delivered")
    assert forwarder("check").returncode == 0
    assert daemon.stop() == 0
    assert daemon.other_output == []


def test_producer_keeps_deleted_files_while_they_can_not_be_saved(queue_path, turnstile):
    """To close a queue whose files were deleted is refused while what they hold can't be saved; then it is
    saved."""
    queue = EventQueue(queue_path, min_free_bytes=0, lock_timeout_s=0.2)
    queue.put_many({"event": "A", "properties": {}} for _ in range(20))
    with turnstile():
        delete_database(queue_path)
        for _ in range(2):
            with pytest.raises(TryAgainError, match="20 events, 0 dead letters"):
                queue.close()
    queue.close()
    (file,) = set_aside.damaged(queue_path)
    assert salvage.plan(file).events == 20


def test_directory_deleted_under_a_producer(queue_path):
    """What a producer has put into a directory that is deleted then is saved in a new one as it closes."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put_many({"event": "A", "properties": {}} for _ in range(20))
        shutil.rmtree(queue_path)
    (file,) = set_aside.damaged(queue_path)
    assert salvage.plan(file).events == 20


FORK = """
    import os, sys
    from forwarder import EventQueue
    from forwarder.errors import StorageError
    queue = EventQueue(sys.argv[1], min_free_bytes=0, lock_timeout_s=0.2)
    queue.put_many({"event": "A", "properties": {}} for _ in range(20))
    if len(sys.argv) > 2:
        import fcntl
        holder = open(sys.argv[1] + "/turnstile", "rb+")
        fcntl.flock(holder, fcntl.LOCK_EX)
    for part in ("", "-wal", "-shm"):
        os.unlink(f"{sys.argv[1]}/data.db{part}")
    sys.unraisablehook = lambda *_: None  # Python only prints what its hooks at a fork raise
    child = os.fork()
    if len(sys.argv) > 2:
        fcntl.flock(holder, fcntl.LOCK_UN)
    if not child:
        try:
            queue.put({"event": "A", "properties": {}})
        except StorageError as error:
            os._exit(42 if "could not be closed" in str(error) else 1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    queue.close()
"""


@pytest.mark.parametrize("is_busy", [False, True], ids=["it can be saved", "it can't be saved yet"])
def test_fork_saves_what_deleted_files_hold(queue_path, is_busy):
    """A fork closes files that were deleted when what they hold is saved; else they stay the parent's, and
    the child is refused."""
    command = [sys.executable, "-c", textwrap.dedent(FORK), queue_path, *["busy"] * is_busy]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("42\n" if is_busy else "0\n", "")
    (file,) = set_aside.damaged(queue_path)
    assert salvage.plan(file).events == 20


END = """
    import fcntl, os, sys
    from forwarder import EventQueue
    queue = EventQueue(sys.argv[1], min_free_bytes=0, lock_timeout_s=0.2)
    queue.put_many({"event": "A", "properties": {}} for _ in range(20))
    if len(sys.argv) > 2:
        holder = open(sys.argv[1] + "/turnstile", "rb+")
        fcntl.flock(holder, fcntl.LOCK_EX)
    for part in ("", "-wal", "-shm"):
        os.unlink(f"{sys.argv[1]}/data.db{part}")
"""


@pytest.mark.parametrize("is_busy", [False, True], ids=["it can be saved", "it can't be saved"])
def test_program_that_ends_saves_what_deleted_files_hold(queue_path, is_busy):
    """A program that ends without closing its queue saves what deleted files hold, or says what is lost."""
    command = [sys.executable, "-c", textwrap.dedent(END), queue_path, *["busy"] * is_busy]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ("20 events, 0 dead letters" in done.stderr) == is_busy
    assert bool(done.stderr) == is_busy
    assert [salvage.plan(file).events for file in set_aside.damaged(queue_path)] == [20] * (not is_busy)
