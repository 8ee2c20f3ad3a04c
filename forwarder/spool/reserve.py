"""Disk space put by for settling, which frees space but needs a little first."""

from __future__ import annotations

import os

from forwarder.spool.turnstile import open_shared

RESERVE_BYTES = 4 * 1024 * 1024


class Reserve:
    """A file of `RESERVE_BYTES` in the queue's directory that is given up when the disk is full."""

    def __init__(self, path: str) -> None:
        self._file = os.path.join(path, "reserve")

    def fill(self) -> bool:
        """Put the space by, unless the disk is too full for it; True if it is there."""
        try:
            if os.path.exists(self._file) and os.stat(self._file).st_size == RESERVE_BYTES:
                return True
            fd = open_shared(self._file)
        except OSError:
            return False
        try:
            os.posix_fallocate(fd, 0, RESERVE_BYTES)
        except OSError:
            os.ftruncate(fd, 0)
            return False
        finally:
            os.close(fd)
        return True

    def release(self) -> bool:
        """Give the space up; False: there was none."""
        try:
            had = os.stat(self._file).st_size > 0
            os.truncate(self._file, 0)
        except OSError:
            return False
        return had
