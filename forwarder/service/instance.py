"""One daemon per queue: the lock, and who holds it."""

from __future__ import annotations

import fcntl
import os
import struct

from forwarder.errors import TryAgainError
from forwarder.spool import open_shared, translated

# struct flock: l_type, l_whence, l_start, l_len, l_pid (fcntl(2), Linux).
_FLOCK = "hhqqi"


class InstanceLock:
    """Held for the life of the daemon; the kernel gives it back, however the daemon ends.

    A POSIX record lock: it belongs to the process, and others can ask who holds it without taking it.
    The file must not be opened a second time in this process, closing it would drop the lock.

    Raises:
        TryAgainError: another process holds it; says which.
    """

    def __init__(self, path: str) -> None:
        with translated(path):
            self._fd = open_shared(_file(path))
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            pid = holder(path)
            raise TryAgainError(
                f"another daemon delivers from {path} already" + (f" (process {pid})" if pid else ""),
                "There is one per queue: stop that one first, or set another queue.path",
            ) from None

    def release(self) -> None:
        """Give the lock back."""
        os.close(self._fd)


def holder(path: str) -> int | None:
    """The process id of the daemon that delivers from the queue in *path*; None: none does."""
    try:
        fd = os.open(_file(path), os.O_RDONLY)
    except OSError:
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    except OSError:
        return None
    finally:
        os.close(fd)
    return None if kind == fcntl.F_UNLCK else int(pid)


def _file(path: str) -> str:
    return os.path.join(path, "daemon.lock")
