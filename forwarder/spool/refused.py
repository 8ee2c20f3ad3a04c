"""How many records producers were refused, by reason: written by the way, and never at a producer's cost.

Counts wait in the producer's memory for its next commit, for the first refusal after a minute, or until it
is closed. Counts that could not be written by then are lost.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping

from forwarder.errors import ForwarderError

WRITE_EACH_S = 60.0
# A refusal must not wait for others for long.
PATIENCE_S = 0.25
_MOST_UNSUMMED = 1000


class Refused:
    """What was refused and is not written yet; for several threads.

    Args:
        save: Writes counts in a commit of its own, within `PATIENCE_S`.
    """

    def __init__(self, save: Callable[[Mapping[str, int]], None]) -> None:
        self._save = save
        self._pid = os.getpid()
        # Its ends are safe among threads and in signal handlers, without a lock.
        self._counts: deque[tuple[str, int]] = deque()
        self._due_at = time.monotonic() + WRITE_EACH_S

    def __bool__(self) -> bool:
        if self._counts and self._pid != os.getpid():
            # They are the parent's, which will write them.
            self._pid = os.getpid()
            self._counts.clear()
        return bool(self._counts)

    def add(self, counts: Mapping[str, int]) -> None:
        """Count more; written here only if that is due. Never raises for it."""
        if not self:
            self._pid = os.getpid()
        self._counts.extend(counts.items())
        if time.monotonic() >= self._due_at:
            self.write()
        elif len(self._counts) > _MOST_UNSUMMED:
            self._counts.extend(self.take().items())

    def take(self) -> Counter[str]:
        """All of it, for whoever writes it."""
        taken: Counter[str] = Counter()
        while self:
            try:
                reason, count = self._counts.popleft()
            except IndexError:  # another thread was faster
                break
            taken[reason] += count
        return taken

    def write(self) -> None:
        """Write all of it in a commit of its own; what can't be written is kept for later."""
        self._due_at = time.monotonic() + WRITE_EACH_S
        if counts := self.take():
            try:
                self._save(counts)
            except ForwarderError:
                self.add(counts)
