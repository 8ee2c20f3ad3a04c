"""Ids that were passed without a row: their transactions may commit later.

Ids are given before commits. So a row may come after one with a larger id was claimed. Waiting for the oldest
transaction of the server would stop delivery for as long as anybody has one open; so each gap is looked into
until no transaction is left that may fill it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Gap(NamedTuple):
    """Ids from *first* to *last*, which no transaction above *horizon* fills."""

    first: int
    last: int
    horizon: int


class Gaps:
    """The gaps, in ascending order."""

    def __init__(self) -> None:
        self._gaps: list[Gap] = []

    def __bool__(self) -> bool:
        return bool(self._gaps)

    @property
    def lowest(self) -> int | None:
        """The first id that may still come; None: there is none."""
        return self._gaps[0].first if self._gaps else None

    @property
    def bounds(self) -> tuple[list[int], list[int]]:
        """The first and the last id of each."""
        return [gap.first for gap in self._gaps], [gap.last for gap in self._gaps]

    def add(self, passed: Iterable[tuple[int, int]], horizon: int) -> None:
        """Add gaps behind the others.

        Args:
            passed: First and last ids.
            horizon: The number of a transaction that began after the rows around them were read.
        """
        self._gaps += [Gap(first, last, horizon) for first, last in passed]

    def fill(self, ids: Iterable[int]) -> None:
        """Rows with these ids have come."""
        for row_id in ids:
            place = bisect_right(self._gaps, row_id, key=lambda gap: gap.first) - 1
            first, last, horizon = self._gaps[place]
            parts = [(first, row_id - 1), (row_id + 1, last)]
            self._gaps[place : place + 1] = [Gap(*part, horizon) for part in parts if part[0] <= part[1]]

    def close(self, oldest: int) -> None:
        """Give up those that only transactions below *oldest* fill: all of those have ended.

        *oldest* must have been read before, or with, the rows that were looked for in them last.
        """
        self._gaps = [gap for gap in self._gaps if gap.horizon >= oldest]


def between(ids: Sequence[int], after_id: int) -> list[tuple[int, int]]:
    """The ids from behind *after_id* to the last of *ids*, in ascending order, that are not in it."""
    if isinstance(ids, range):
        return [(after_id + 1, ids[0] - 1)] if ids[0] > after_id + 1 else []
    before = [after_id, *ids]
    return [(low + 1, high - 1) for low, high in zip(before, ids, strict=False) if high > low + 1]
