"""One writer at a time, in the order of arrival, and nobody waits for ever."""

import os
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from forwarder.errors import ConfigError, TryAgainError
from forwarder.spool import AckQueue
from forwarder.spool.sqlite.lock import WriterLock, open_shared


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "writer.lock")


def open_files(path):
    """How many descriptors of this process are of that file."""
    names = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
    return sum(os.path.realpath(name) == path for name in names)


class BrokenOffError(Exception):
    """What the signal handler raises."""


@pytest.fixture
def broken_off():
    """Have a signal handler raise now, as the time limits of task runners do."""

    def handler(*_):
        raise BrokenOffError

    before = signal.signal(signal.SIGUSR1, handler)
    yield lambda: signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


def test_one_passes_at_a_time(path):
    """Of eight that pass at once, each through an object of its own, never two are inside."""
    inside, most = [], []

    def pass_some():
        lock = WriterLock(path)
        for _ in range(50):
            with lock.held(20):
                inside.append(1)
                most.append(len(inside))
                inside.pop()
        lock.close()

    with ThreadPoolExecutor(8) as pool:
        for passed in [pool.submit(pass_some) for _ in range(8)]:
            passed.result()
    assert (len(most), max(most)) == (400, 1)


def test_who_is_inside_may_pass_again(path):
    """The holder passes again without waiting, and holds it until the outermost block ends."""
    one, other = WriterLock(path), WriterLock(path)
    with one.held(0.1):
        with one.held(0.1):
            pass
        with pytest.raises(TryAgainError), other.held(0.05):
            pass
    with other.held(5):
        pass
    one.close()
    other.close()


def test_it_is_free_again_after_an_error(path):
    """An error inside lets the next one pass."""
    one, other = WriterLock(path), WriterLock(path)
    with pytest.raises(KeyError), one.held(1):
        raise KeyError
    with other.held(0.1):
        pass
    one.close()
    other.close()


def test_it_is_free_again_when_the_holder_is_killed(path):
    """A holder that is killed holds nothing any more."""
    code = (
        "import sys; from forwarder.spool.sqlite.lock import WriterLock\n"
        "with WriterLock(sys.argv[1]).held(1): print(flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    lock = WriterLock(path)
    try:
        assert holder.stdout.readline() == b"\n"
        with pytest.raises(TryAgainError), lock.held(0.05):
            pass
        holder.kill()
        with lock.held(20):
            pass
    finally:
        holder.kill()
        holder.communicate()
        lock.close()


def test_a_lock_that_comes_too_late_is_given_back(path, until):
    """Who has given up waiting does not hold the writer lock when it comes free; the next one passes."""
    holder, late, third = WriterLock(path), WriterLock(path), WriterLock(path)
    with holder.held(1), pytest.raises(TryAgainError), late.held(0.05):
        pass
    until(lambda: open_files(path) == 2)
    with third.held(5), pytest.raises(TryAgainError), late.held(0.05):
        pass
    with late.held(5):
        pass
    for lock in (holder, late, third):
        lock.close()


def test_waiting_is_taken_up_again(path, until):
    """Who tries again behind a holder that has stopped takes up no more than one place in the queue."""
    holder, patient = WriterLock(path), WriterLock(path)
    with holder.held(1):
        for _ in range(3):
            with pytest.raises(TryAgainError), patient.held(0.02):
                pass
        assert open_files(path) == 3, "the holder's, its own, and that of one who waits for it"
    with patient.held(5):
        pass
    until(lambda: open_files(path) == 2)
    holder.close()
    patient.close()


def test_broken_off_as_it_waits(path, broken_off, until):
    """A signal handler that raises while a thread waits: the lock that this one gets is given back."""
    holder, lock = WriterLock(path), WriterLock(path)

    def hold():
        with holder.held(5):
            held.set()
            assert leave.wait(20)

    held, leave = threading.Event(), threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(20)
    me = threading.main_thread().ident
    timer = threading.Thread(
        target=lambda: (until(lambda: open_files(path) == 3), signal.pthread_kill(me, signal.SIGUSR1))
    )
    timer.start()
    with pytest.raises(BrokenOffError), lock.held(20):
        pass
    leave.set()
    thread.join()
    timer.join()
    other = WriterLock(path)
    with other.held(5), pytest.raises(TryAgainError), lock.held(0.05):
        pass
    with lock.held(5):
        pass
    for each in (holder, lock, other):
        each.close()
    until(lambda: open_files(path) == 0)


def test_shared_files_are_the_groups_and_private(tmp_path):
    """A shared file is made 0660 whatever the umask, found again, and not inherited by programs."""
    before = os.umask(0o077)
    try:
        fd = open_shared(str(tmp_path / "file"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o660
    assert not os.get_inheritable(fd)
    again = open_shared(str(tmp_path / "file"))
    assert os.path.sameopenfile(fd, again)
    os.close(fd)
    os.close(again)


def test_symbolic_links_are_not_followed(queue_path, tmp_path):
    """A symbolic link where the lock should be is refused: whatever it points to stays as it is."""
    os.mkdir(queue_path)
    (tmp_path / "precious").write_text("mine")
    os.symlink(tmp_path / "precious", f"{queue_path}/writer.lock")
    with pytest.raises(ConfigError):
        AckQueue(queue_path)
    assert (tmp_path / "precious").read_text() == "mine"


def test_where_no_thread_can_be_started(path):
    """A process that may not have one more thread waits for the lock all the same."""
    code = """
import resource, sys
from forwarder.errors import TryAgainError
from forwarder.spool.sqlite.lock import WriterLock
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + (4 << 20),) * 2)
lock = WriterLock(sys.argv[1])
input()
try:
    with lock.held(0.05): pass
except TryAgainError as error: print("locked by another" in str(error) or error, flush=True)
with lock.held(20): print("held", flush=True)
"""
    holder = WriterLock(path)
    command = [sys.executable, "-c", code, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        with holder.held(1):
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "True\n"
        assert process.stdout.readline() == "held\n"
    holder.close()
