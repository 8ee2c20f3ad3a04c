"""One writer at a time, in the order of arrival.

SQLite's own busy handler sleeps and polls: of 64 processes that write one row each, some starve for 1.4 s
and more. The kernel queues waiters for a ``flock``: the worst case fell to 0.36 s.
"""

from __future__ import annotations

import _thread
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from forwarder.errors import TryAgainError

LOCK = "writer.lock"  # a file that only the forwarder makes
FILE_MODE = 0o660
# struct flock (fcntl(2), Linux): l_type, l_whence, l_start, l_len, l_pid.
FLOCK = "hhqqi"
_POLL_S = 0.02


class WriterLock:
    """An exclusive lock on a file, between processes and between objects of one process.

    The holder may take it again. Not for two threads at once.

    Attributes:
        is_taken: It may be held.

    Args:
        path: The file; created if missing.
        prepare: Creates its directory if missing.
    """

    def __init__(self, path: str, prepare: Callable[[], None] = lambda: None) -> None:
        self._path = path
        self._prepare = prepare
        self._fd: int | None = None
        self._depth = 0
        self._waiter: _Waiter | None = None
        self.is_taken = False

    @contextmanager
    def held(self, timeout_s: float) -> Iterator[None]:
        """Hold the lock during the block. Raises: as `acquire`."""
        self.acquire(timeout_s)
        try:
            yield
        finally:
            self.release()

    def acquire(self, timeout_s: float) -> None:
        """Take the lock, again if it is held; each call needs a `release`.

        Raises:
            TryAgainError: it was not free within *timeout_s*.
        """
        self.is_taken = True
        until = time.monotonic() + timeout_s
        while self._depth == 0:
            if self._fd is None:
                self._prepare()
                self._fd = open_shared(self._path)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._wait(until, timeout_s)
            # A lock on a deleted file does not keep out later processes.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._fd), os.stat(self._path)):
                    break
            self.close()
        self._depth += 1

    def release(self) -> None:
        """Release it; call it as often as `acquire`."""
        self._depth -= 1
        if self._depth == 0:
            self.let_go()

    def let_go(self) -> None:
        """Release the lock, also if a signal handler raised during `acquire` or `release`."""
        self._depth = 0
        if self._fd is not None:
            # Not by closing it: a forked child may have the same open file and would keep the lock.
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        self.is_taken = False

    def close(self) -> None:
        """Close the file; it is opened again when needed."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def leave(self) -> None:
        """Close the files in a forked child; the parent keeps its locks on them."""
        self.close()
        self._depth = 0
        if self._waiter is not None and self._waiter.is_waiting:
            os.close(self._waiter.fd)
        self._waiter = None

    def _wait(self, until: float, timeout_s: float) -> None:
        # With a stopped holder, waiting threads would add up: one abandoned thread is enough.
        waiter = None if self._waiter and self._waiter.is_waiting else _Waiter.started(self._path)
        if waiter is None:
            self._poll(until, timeout_s)
            return
        self._waiter = waiter
        if not waiter.has_lock(until - time.monotonic()):
            raise _not_free(self._path, timeout_s)
        self.close()
        self._fd, self._waiter = waiter.fd, None

    def _poll(self, until: float, timeout_s: float) -> None:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[arg-type]
                return
            if time.monotonic() >= until:
                raise _not_free(self._path, timeout_s)
            time.sleep(_POLL_S)


class _Waiter:
    """Waits in the kernel's queue, which has no time limit, so that its owner can give up.

    A system thread waits in the kernel, and the owner waits for a pipe. Under gevent `threading` offers only
    greenlets, all of which one waiting in the kernel would stop; `select` lets others run.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.is_waiting = True
        # The side that takes it decides about the lock: a list's pop is atomic between threads.
        self._decision = [True]
        self._news, told = os.pipe()
        self._told = told
        monkey: Any = sys.modules.get("gevent.monkey")
        start: Callable[..., int] = (
            monkey.get_original("_thread", "start_new_thread") if monkey else _thread.start_new_thread
        )
        try:
            start(self._run, ())
        except BaseException:
            for end in (fd, self._news, told):
                os.close(end)
            raise

    @classmethod
    def started(cls, path: str) -> _Waiter | None:
        """A waiter for the lock in *path*; None: no thread can be started."""
        with suppress(RuntimeError, MemoryError):
            return cls(open_shared(path))
        return None

    def _run(self) -> None:
        fcntl.flock(self.fd, fcntl.LOCK_EX)
        if not self._decides():
            fcntl.flock(self.fd, fcntl.LOCK_UN)
            os.close(self.fd)
        self.is_waiting = False
        os.close(self._told)

    def has_lock(self, timeout_s: float) -> bool:
        """Wait for the lock; False: given up, and the lock is released when it comes."""
        import select

        try:
            news = select.poll()
            news.register(self._news, select.POLLIN)
            news.poll(max(timeout_s, 0.0) * 1000)
            return not self._decides()
        except BaseException:
            if not self._decides():
                os.close(self.fd)
            raise
        finally:
            os.close(self._news)

    def _decides(self) -> bool:
        """Whether the caller is first: the thread that got the lock, or the owner that gives up."""
        try:
            return self._decision.pop()
        except IndexError:
            return False


def _not_free(path: str, timeout_s: float) -> TryAgainError:
    return TryAgainError(
        f"the queue has been locked by another process for {timeout_s:.3g} s ({path})",
        "Nothing was stored; try again, or look for a stopped process that has this file open",
    )


def open_shared(path: str) -> int:
    """Open *path* for reading and writing; created for owner and group, whatever the umask is.

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
    with suppress(OSError):  # not every file system supports this
        # Without a name until the group can use it: a kill in between must not leave it closed.
        fd = os.open(os.path.dirname(path), os.O_RDWR | os.O_TMPFILE, FILE_MODE)
        try:
            os.fchmod(fd, FILE_MODE)
            # With a descriptor for the source, Python calls linkat(2) so that it follows the link in /proc.
            os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd)
            return
        finally:
            os.close(fd)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, FILE_MODE)
    try:
        os.fchmod(fd, FILE_MODE)
    finally:
        os.close(fd)
