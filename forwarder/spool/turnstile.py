"""One writer at a time, in the order of arrival.

SQLite's own busy handler sleeps and polls: of 64 processes writing one row each, some starve for 1.4 s
and more. The kernel queues those who wait for a ``flock``: the worst case fell to 0.36 s.
"""

from __future__ import annotations

import _thread
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from forwarder.errors import TryAgainError

FILE_MODE = 0o660


class Turnstile:
    """An exclusive lock on a file, between processes and between objects of one process.

    Who holds it may pass again. Not to be used by two threads at once.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd: int | None = None
        self._depth = 0
        self._waiter: _Waiter | None = None

    @contextmanager
    def passing(self, timeout_s: float) -> Iterator[None]:
        """Hold the turnstile for the time of the block.

        Raises:
            TryAgainError: it was not free within *timeout_s*.
        """
        depth = self._depth
        try:
            if depth == 0:
                self._enter(timeout_s)
            self._depth = depth + 1
            yield
        finally:
            self._depth = depth
            if depth == 0 and self._fd is not None:
                # Not by closing it: a forked child may have the same open file, and would keep the lock.
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the file back; it is opened again when needed."""
        self._waiter = None
        # Forgotten first: a closed descriptor's number may soon be another file's.
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def leave(self) -> None:
        """Close the files in a forked child; the locks on them are the parent's, and stay."""
        waiter = self._waiter
        self.close()
        if waiter is not None:
            waiter.leave()

    def _enter(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        self._lock(timeout_s)
        # A file that was deleted keeps out nobody who comes later.
        while not self._is_at_path():
            self.close()
            self._lock(max(deadline - time.monotonic(), 0.0))

    def _is_at_path(self) -> bool:
        """Whether the file that is open is the one that others will open."""
        if self._fd is None:
            return False
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._fd), os.stat(self._path))
        return False

    def _lock(self, timeout_s: float) -> None:
        if self._fd is None:
            self._fd = open_shared(self._path)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._wait(timeout_s)

    def _wait(self, timeout_s: float) -> None:
        # One that was walked away from is come back to, or they would add up behind a stopped holder.
        waiter = self._waiter
        is_new = waiter is None or not waiter.is_waiting()
        if waiter is None or is_new:
            waiter = self._waiter = _Waiter(open_shared(self._path))
        try:
            if is_new:
                waiter.start()
            has_lock = waiter.has_lock(timeout_s)
        except BaseException:
            # A signal handler has raised: who does not wait any more must not be given the lock.
            waiter.walk_away()
            raise
        if not has_lock:
            raise TryAgainError(
                f"the queue has been locked by another process for {timeout_s:.3g} s ({self._path})",
                "Nothing was stored; try again, or look for a stopped process that has this file open",
            ) from None
        # Taken over first: a signal handler may raise at the close.
        before, self._fd = self._fd, waiter.fd
        self._waiter = None
        if before is not None:
            os.close(before)


class _Waiter:
    """Waits in the kernel's queue, which knows no time limit, so that its owner can walk away.

    Made of bare locks: an exception from a signal handler can leave `threading`'s events locked for good, and
    its threads half started.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._decision = _thread.allocate_lock()
        self._arrival = _thread.allocate_lock()
        self._arrival.acquire()
        self._has_begun = self._has_lock = self._abandoned = self._is_closed = False

    def start(self) -> None:
        """Begin to wait."""
        _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        with self._decision:
            if self._is_closed:
                return
            self._has_begun = True
        fcntl.flock(self.fd, fcntl.LOCK_EX)
        with self._decision:
            self._has_lock = True
            if self._abandoned:
                self._give_back()
            self._arrival.release()

    def is_waiting(self) -> bool:
        """Whether it can still be waited for; if so, the lock is kept when it comes."""
        with self._decision:
            is_waiting = self._has_begun and not self._is_closed and not self._has_lock
            self._abandoned = self._abandoned and not is_waiting
            return is_waiting

    def walk_away(self) -> None:
        """Wait no more; the lock goes back, now or when it comes."""
        with self._decision:
            self._abandoned = True
            # One that hasn't begun, as the handler has raised amid its start, had better not.
            if self._has_lock or not self._has_begun:
                self._give_back()

    def has_lock(self, timeout_s: float) -> bool:
        """Wait for the lock; False: given up, and the lock goes back when it comes."""
        self._arrival.acquire(True, timeout_s)
        with self._decision:
            self._abandoned = not self._has_lock
            return self._has_lock

    def leave(self) -> None:
        """Close the file in a forked child, in which nobody waits."""
        if not self._is_closed:
            self._is_closed = True
            os.close(self.fd)

    def _give_back(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            fcntl.flock(self.fd, fcntl.LOCK_UN)
            os.close(self.fd)


def open_shared(path: str) -> int:
    """Open *path* for reading and writing, created for owner and group whatever the umask is.

    Returns:
        a file descriptor that child programs don't inherit.

    Raises:
        OSError: as :func:`os.open` does.
    """
    with suppress(FileNotFoundError):
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    with suppress(FileExistsError):
        _make_shared(path)
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW)


def _make_shared(path: str) -> None:
    directory = os.path.dirname(path)
    try:
        # Without a name until it is open to the group: who is killed in between must not leave it closed.
        fd = os.open(directory, os.O_RDWR | os.O_TMPFILE, FILE_MODE)
        is_named = False
    except OSError:  # not every file system can
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, FILE_MODE)
        is_named = True
    try:
        os.fchmod(fd, FILE_MODE)
        if not is_named:
            # With a descriptor for the source, Python calls linkat(2) such that it follows the link in /proc.
            os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd)
    finally:
        os.close(fd)
