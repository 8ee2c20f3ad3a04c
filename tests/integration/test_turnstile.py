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
from forwarder.spool import AckQueue, open_shared
from forwarder.spool import turnstile as turnstile_module
from forwarder.spool.turnstile import Turnstile


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "turnstile")


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
        turnstile = Turnstile(path)
        for _ in range(50):
            with turnstile.passing(20):
                inside.append(1)
                most.append(len(inside))
                inside.pop()
        turnstile.close()

    with ThreadPoolExecutor(8) as pool:
        for passed in [pool.submit(pass_some) for _ in range(8)]:
            passed.result()
    assert (len(most), max(most)) == (400, 1)


def test_who_is_inside_may_pass_again(path):
    """The holder passes again without waiting, and holds it until the outermost block ends."""
    one, other = Turnstile(path), Turnstile(path)
    with one.passing(0.1):
        with one.passing(0.1):
            pass
        with pytest.raises(TryAgainError), other.passing(0.05):
            pass
    with other.passing(5):
        pass
    one.close()
    other.close()


def test_it_is_free_again_after_an_error(path):
    """An error inside lets the next one pass."""
    one, other = Turnstile(path), Turnstile(path)
    with pytest.raises(KeyError), one.passing(1):
        raise KeyError
    with other.passing(0.1):
        pass
    one.close()
    other.close()


def test_it_is_free_again_when_the_holder_is_killed(path):
    """A holder that is killed holds nothing any more."""
    code = (
        "import sys; from forwarder.spool.turnstile import Turnstile\n"
        "with Turnstile(sys.argv[1]).passing(1): print(flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    turnstile = Turnstile(path)
    try:
        assert holder.stdout.readline() == b"\n"
        with pytest.raises(TryAgainError), turnstile.passing(0.05):
            pass
        holder.kill()
        with turnstile.passing(20):
            pass
    finally:
        holder.kill()
        holder.communicate()
        turnstile.close()


def test_a_lock_that_comes_too_late_is_given_back(path, until):
    """Who has given up waiting does not hold the turnstile when it comes free; the next one passes."""
    holder, late, third = Turnstile(path), Turnstile(path), Turnstile(path)
    with holder.passing(1), pytest.raises(TryAgainError), late.passing(0.05):
        pass
    until(lambda: open_files(path) == 2)
    with third.passing(5), pytest.raises(TryAgainError), late.passing(0.05):
        pass
    with late.passing(5):
        pass
    for turnstile in (holder, late, third):
        turnstile.close()


def test_waiting_is_taken_up_again(path):
    """Who tries again is still in the queue from the first time, and passes when its turn comes."""
    holder, patient = Turnstile(path), Turnstile(path)
    with holder.passing(1):
        for _ in range(3):
            with pytest.raises(TryAgainError), patient.passing(0.02):
                pass
        assert open_files(path) == 3, "the holder's, its own, and that of one who waits for it"
        entered = threading.Event()

        def enter():
            with patient.passing(20):
                entered.set()

        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.is_set()
    assert entered.wait(20)
    thread.join()
    with holder.passing(5):
        pass
    holder.close()
    patient.close()


def passes_soon(path):
    """Whether others and those who were broken off get in."""
    other = Turnstile(path)
    with other.passing(5):
        pass
    other.close()


def test_broken_off_as_the_waiting_begins(path, broken_off, monkeypatch, until):
    """A signal handler that raises right when another thread has begun to wait: the lock that this one gets
    is given back."""
    holder, turnstile = Turnstile(path), Turnstile(path)
    start = turnstile_module._Waiter.start

    def start_and_break_off(self):
        start(self)
        until(lambda: self._has_begun)
        broken_off()

    monkeypatch.setattr(turnstile_module._Waiter, "start", start_and_break_off)
    with holder.passing(1), pytest.raises(BrokenOffError), turnstile.passing(5):
        pass
    monkeypatch.undo()
    until(lambda: open_files(path) == 2)
    passes_soon(path)
    with turnstile.passing(5):
        pass
    holder.close()
    turnstile.close()
    assert open_files(path) == 0


def test_broken_off_before_the_waiting_has_begun(path, broken_off, monkeypatch):
    """The same before that thread is there: it never waits."""
    holder, turnstile = Turnstile(path), Turnstile(path)
    monkeypatch.setattr(turnstile_module._Waiter, "start", lambda _: broken_off())
    with holder.passing(1), pytest.raises(BrokenOffError), turnstile.passing(5):
        pass
    monkeypatch.undo()
    assert open_files(path) == 2
    passes_soon(path)
    with turnstile.passing(5):
        passes = True
    assert passes
    holder.close()
    turnstile.close()


def test_broken_off_as_it_is_handed_over(path, broken_off, monkeypatch):
    """A signal handler that raises when the lock has just come, and the file from before is closed: it is
    free for others at once, and for this one again."""
    holder, turnstile = Turnstile(path), Turnstile(path)
    with turnstile.passing(1):
        pass
    close = os.close

    def close_and_break_off(fd):
        close(fd)
        monkeypatch.undo()
        broken_off()

    locked = threading.Event()
    leave = threading.Event()

    def hold():
        with holder.passing(5):
            locked.set()
            assert leave.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert locked.wait(20)
    start = turnstile_module._Waiter.start
    monkeypatch.setattr(turnstile_module._Waiter, "start", lambda self: (start(self), leave.set()))
    monkeypatch.setattr(os, "close", close_and_break_off)
    with pytest.raises(BrokenOffError), turnstile.passing(20):
        pass
    thread.join()
    passes_soon(path)
    with turnstile.passing(5):
        pass
    holder.close()
    turnstile.close()


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
    os.symlink(tmp_path / "precious", f"{queue_path}/turnstile")
    with pytest.raises(ConfigError):
        AckQueue(queue_path)
    assert (tmp_path / "precious").read_text() == "mine"
