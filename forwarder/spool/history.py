"""What happened to the records of a kind, a period of a daemon's life at a time; pure functions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any

HOUR_S = 3600.0
# How many periods are kept: 31 days by the minute and a year by the hour, in which the daemon runs.
MINUTES, HOURS = 31 * 24 * 60, 366 * 24
# How far two periods of one run may be apart, or overlap, before the clock must have been set.
SLACK_S = 5.0


@dataclass(frozen=True, slots=True)
class Period:
    """A minute or an hour of a daemon's life: what happened in it, and how things were at its end.

    ``ended_at`` is by the clock at that time, in seconds since the epoch, and ``lasted_s`` by one that is
    never set. ``run`` is when the daemon started, which tells its periods from those of another.

    Counted in it: records ``accepted``, ``delivered``, ``dead_lettered``, ``deleted``, and ``refused`` to
    producers; ``requests`` by outcome; ``sent_bytes`` of delivered batches, uncompressed. ``p50_s`` and
    ``p95_s``: half, and 95 %, of its requests took no longer; None: there was none. ``states`` has the
    seconds that delivery was in each state, and ``reason`` why it was not running, last.

    At its end: ``waiting``, of them ``held``; ``used_bytes`` and ``disk_free_bytes`` as in the figures.
    ``oldest_waiting_s`` is that of the minute's end; of several minutes, the greatest.
    """

    ended_at: float
    lasted_s: float
    run: float
    accepted: int = 0
    delivered: int = 0
    dead_lettered: int = 0
    deleted: int = 0
    refused: int = 0
    waiting: int = 0
    held: int = 0
    oldest_waiting_s: float = 0.0
    requests: Mapping[str, int] = field(default_factory=dict)
    sent_bytes: int = 0
    p50_s: float | None = None
    p95_s: float | None = None
    used_bytes: int = 0
    disk_free_bytes: int | None = None
    states: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""

    @property
    def began_at(self) -> float:
        """Seconds since the epoch."""
        return self.ended_at - self.lasted_s

    def covers(self, at: float) -> bool:
        """Whether *at*, in seconds since the epoch, is in it."""
        return self.began_at <= at <= self.ended_at

    @property
    def hour(self) -> int:
        """The hour of its end, counted from the epoch."""
        return int(self.ended_at // HOUR_S)

    @property
    def state(self) -> str:
        """The state that delivery was in longest; "": none is known."""
        return max(self.states, key=lambda state: self.states[state], default="")

    def rate(self, name: str) -> float:
        """How many of the figure *name* were counted in it a second."""
        # The end of a daemon may be recorded a moment after its last minute.
        return float(getattr(self, name)) / max(self.lasted_s, 1.0)


COLUMNS = tuple(column.name for column in fields(Period))
TEXTS = ("requests", "states", "reason")
_AS_JSON = [COLUMNS.index(name) for name in TEXTS[:2]]
_MAY_BE_NONE = ("p50_s", "p95_s", "disk_free_bytes")
_SUMS = ("lasted_s", "accepted", "delivered", "dead_lettered", "deleted", "refused", "sent_bytes")


def to_row(period: Period) -> list[object]:
    """The values of its `COLUMNS`, for a table; mappings as JSON."""
    values = [getattr(period, name) for name in COLUMNS]
    for index in _AS_JSON:
        values[index] = json.dumps(values[index])
    return values


def of_rows(rows: Iterable[Sequence[Any]]) -> list[Period]:
    """The periods of which `to_row` has made them, without those that are damaged; text may be bytes."""
    found = []
    for row in rows:
        values: list[Any] = [
            value.decode(errors="replace") if isinstance(value, bytes) else value for value in row
        ]
        with suppress(ValueError, TypeError):
            for index in _AS_JSON:
                values[index] = json.loads(values[index])
            if all(map(_is_fit, COLUMNS, values)):
                found.append(Period(*values))
    return found


def _is_fit(name: str, value: Any) -> bool:
    if name == "reason":
        return isinstance(value, str)
    if isinstance(value, dict):
        return all(isinstance(each, (int, float)) for each in value.values())
    return isinstance(value, (int, float)) or (value is None and name in _MAY_BE_NONE)


def merged(periods: Sequence[Period]) -> Period:
    """Several periods as one, in their order; one at least.

    ``p50_s`` is the middle one of theirs, and ``p95_s`` the greatest.
    """
    sums = {name: sum(getattr(each, name) for each in periods) for name in _SUMS}
    requests: Counter[str] = Counter()
    states: Counter[str] = Counter()
    for each in periods:
        requests.update(each.requests)
        states.update(each.states)
    half = sorted(each.p50_s for each in periods if each.p50_s is not None)
    most = [each.p95_s for each in periods if each.p95_s is not None]
    return replace(
        periods[-1],
        **sums,
        requests=dict(requests),
        states=dict(states),
        oldest_waiting_s=max(each.oldest_waiting_s for each in periods),
        p50_s=half[len(half) // 2] if half else None,
        p95_s=max(most, default=None),
        reason=next((each.reason for each in reversed(periods) if each.reason), ""),
    )


@dataclass(frozen=True, slots=True)
class Gap:
    """A time of which nothing is known, from *since* until *until*, in seconds since the epoch.

    ``was_set``: no time has passed, but the clock was set; back, if *until* is before *since*. Otherwise
    no daemon ran.
    """

    since: float
    until: float
    was_set: bool


def gaps(periods: Sequence[Period], slack_s: float = SLACK_S) -> list[Gap]:
    """What lies between *periods*, which are in the order in which they happened."""
    found = []
    for before, after in pairwise(periods):
        apart_s = after.began_at - before.ended_at
        is_same = after.run == before.run
        if apart_s > slack_s or (is_same and apart_s < -slack_s):
            found.append(Gap(before.ended_at, after.began_at, is_same))
    return found


def binned(periods: Sequence[Period], since: float, until: float, count: int) -> list[Period | None]:
    """*periods* in *count* equal parts of the time from *since* until *until*, each part merged into one.

    A period belongs to the part in which its middle is. A part without one is the period that covers the
    part's middle. None: nothing is known of that part.
    """
    parts: list[list[Period]] = [[] for _ in range(count)]
    for each in periods:
        place = (each.ended_at - each.lasted_s / 2 - since) / (until - since) * count
        if 0 <= place < count:
            parts[int(place)].append(each)
    middles = (since + (index + 0.5) * (until - since) / count for index in range(count))
    return [
        merged(part) if part else next((each for each in periods if each.covers(middle)), None)
        for part, middle in zip(parts, middles, strict=True)
    ]
