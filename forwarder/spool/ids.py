"""Ids of rows: as runs, each the first and the last id; and as the text ``1-2000,2003``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

Run = tuple[int, int]
# No id has more digits.
_run = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?").fullmatch


def runs_of(ids: Sequence[int]) -> list[Run]:
    """The runs of *ids*, which are in ascending order."""
    if isinstance(ids, range):
        return [(ids[0], ids[-1])] if ids else []
    starts = [row_id for before, row_id in pairwise((-1, *ids)) if row_id != before + 1]
    ends = [row_id for row_id, after in pairwise((*ids, -1)) if after != row_id + 1]
    return list(zip(starts, ends, strict=True))


def joined(runs: Iterable[Run]) -> list[Run]:
    """The same ids in as few runs as possible, in ascending order, each id once."""
    found: list[Run] = []
    for first, last in sorted(runs):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


def extend_runs(runs: list[Run], ids: Sequence[int]) -> None:
    """Add *ids* to *runs*; they are larger than all that are there, and in ascending order."""
    for first, last in runs_of(ids):
        if runs and runs[-1][1] + 1 == first:
            runs[-1] = runs[-1][0], last
        else:
            runs.append((first, last))


def count_of(runs: Iterable[Run]) -> int:
    """How many ids there are in *runs*."""
    return sum(last - first + 1 for first, last in runs)


def text_of(runs: Iterable[Run]) -> str:
    """The text of *runs*."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def runs_in(text: str) -> list[Run]:
    """The runs that *text* has, as they stand there.

    Raises:
        ValueError: it is not of that form.
    """
    found = []
    for part in text.split(","):
        match = _run(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise ValueError(f"{part!r} is neither an id nor a range of ids")
        found.append((first, last))
    return found
