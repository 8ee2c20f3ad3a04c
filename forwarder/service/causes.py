"""What dead letters died of, summed up: a batch may hold many, and the next one just such."""

from __future__ import annotations

from collections import Counter

from forwarder.log import Repeats

# After so long without another one of its cause, the next is news.
QUIET_S = 600.0
# The far end names them, so there may be any number; those beyond are told of as one.
MOST_CAUSES = 50
OTHER = "other causes"


class Causes:
    """Counts dead letters by their cause, and says which counts are to be told now. For one thread."""

    def __init__(self) -> None:
        self._repeats: dict[str, Repeats] = {}
        self._untold: Counter[str] = Counter()
        self._totals: Counter[str] = Counter()

    def add(self, cause: str, count: int, now: float, words: str = "") -> int:
        """Count *count* more of *cause*.

        Args:
            words: What was said of them; new words are told at once.
            now: Any clock that doesn't go back, in seconds.

        Returns:
            how many to tell of: those since it was last told; 0: none, it was told lately.
        """
        if cause not in self._repeats and len(self._repeats) >= MOST_CAUSES:
            cause = OTHER
        self._untold[cause] += count
        self._totals[cause] += count
        repeats = self._repeats.setdefault(cause, Repeats(quiet_s=QUIET_S))
        if repeats.failed(words, now) is None:
            return 0
        return self._untold.pop(cause)

    def take_totals(self) -> dict[str, int]:
        """How many there were of each cause since the last call, the most frequent first."""
        totals = dict(self._totals.most_common())
        self._totals.clear()
        return totals
