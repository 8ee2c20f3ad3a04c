"""Whether a look into the queue can be saved: it is most of what an idle daemon would cost."""

from __future__ import annotations

from collections.abc import Callable

LOOK_S = 1.0
STIRRED_S = 1.0


class Watch:
    """Watches a mark that changes with the queue.

    What has changed may be seen only a little later. So the queue is worth a look for `STIRRED_S` after the
    mark has changed, and every `LOOK_S` in any case.

    Args:
        mark: Gives it; None: there is none.
    """

    def __init__(self, mark: Callable[[], object]) -> None:
        self._mark = mark
        self._seen: object = None
        self._stirred_at = self._looked_at = float("-inf")

    def is_quiet(self, now: float) -> bool:
        """Whether there is nothing new to be seen; if not, take a look, and say so by `looked`.

        Args:
            now: Any clock that doesn't go back, in seconds.
        """
        seen = self._mark()
        if seen is None or seen != self._seen:
            self._seen, self._stirred_at = seen, now
        return self._stirred_at + STIRRED_S <= now < self._looked_at + LOOK_S

    def looked(self, now: float) -> None:
        """A look is being taken."""
        self._looked_at = now
