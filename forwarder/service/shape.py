"""What waits, by name and age, from a sample: at a cost that does not depend on how much waits."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from dataclasses import dataclass

from forwarder.records.kind import Kind
from forwarder.spool import View
from forwarder.text import since

# Where an age column ends, in seconds; what is older is in the last one.
AGES_S = (5, 60, 300, 3600, 86400)
PAGES, PAGE = 20, 100
# No further page is read after so many bytes.
MOST_BYTES = 4 * 1024**2


@dataclass(frozen=True, slots=True)
class Shape:
    """How many wait of each name, the most frequent first: a count for each age of `AGES_S` and one for what
    is older.

    If ``sampled`` is less than what waits, the counts are scaled from that many rows.
    """

    counts: tuple[tuple[str, tuple[int, ...]], ...]
    sampled: int
    is_sample: bool

    @property
    def totals(self) -> tuple[int, ...]:
        """The counts of all names together."""
        return tuple(sum(column) for column in zip(*(ages for _, ages in self.counts), strict=True))


def look(view: View, kind: Kind, due: int, now: float) -> Shape:
    """The shape of what is *due* for delivery, as `Figures.due` counts it.

    It reads pages of rows that are spread over the queue, in short reads.
    """
    found: dict[str, list[int]] = defaultdict(lambda: [0] * (len(AGES_S) + 1))
    seen: set[int] = set()
    read_bytes = 0
    first = next((row.id for row in view.peek(1)), 0)
    span = view.newest_waiting() + 1 - first
    pages = min(PAGES, math.ceil(due / PAGE))
    # In any order, so that few pages of large rows are spread over it, too.
    for page in random.sample(range(pages), pages):
        for row in view.peek(PAGE, first - 1 + span * page // pages):
            if row.id not in seen:
                seen.add(row.id)
                read_bytes += len(row.data)
                age_s = since(row.accepted_at, now)
                found[kind.name_of(row.data)[0]][sum(age_s > end for end in AGES_S)] += 1
        if read_bytes > MOST_BYTES:
            break
    scale = max(due, len(seen)) / max(len(seen), 1)
    counts = {name: tuple(round(count * scale) for count in ages) for name, ages in found.items()}
    ordered = sorted(counts.items(), key=lambda one: (-sum(one[1]), one[0]))
    return Shape(tuple(ordered), len(seen), is_sample=len(seen) < due)
