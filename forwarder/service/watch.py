"""Whether a look into the queue can be saved: it is most of what an idle daemon would cost."""

from __future__ import annotations

import os

from forwarder.spool.directory import LOG

LOOK_S = 1.0
STIRRED_S = 1.0


class Watch:
    """Watches the log that every commit to the queue in a directory is written to.

    A commit can be seen in the database only once its bytes are synced, and the file's time is as coarse as
    the kernel's tick. So the queue is worth a look for `STIRRED_S` after the log has changed, and every
    `LOOK_S` in any case, which is how a commit is found whose sync took longer.
    """

    def __init__(self, path: str) -> None:
        self._log = os.path.join(path, LOG)
        self._seen: tuple[int, int, int] | None = None
        self._stirred_at = self._looked_at = float("-inf")

    def is_quiet(self, now: float) -> bool:
        """Whether there is nothing new to be seen; if not, take a look, and say so by `looked`.

        Args:
            now: Any clock that doesn't go back, in seconds.
        """
        try:
            found = os.stat(self._log)
        except OSError:
            seen = None
        else:
            seen = (found.st_ino, found.st_size, found.st_mtime_ns)
        if seen is None or seen != self._seen:
            self._seen, self._stirred_at = seen, now
        return self._stirred_at + STIRRED_S <= now < self._looked_at + LOOK_S

    def looked(self, now: float) -> None:
        """A look is being taken."""
        self._looked_at = now
