"""Where it goes with a queue, if it goes on as it does: pure functions over the last minutes and the figures.

How far such forecasts were off in recorded runs stands in ``docs/operate.rst``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forwarder.config.settings import Queue
from forwarder.spool import Figures, Period

# How far it looks back: less, if delivery has begun or stopped making progress since. In recorded runs with
# waves of half an hour, longer windows saw the turns too late. The disk is written by others, too.
WINDOW_S, DISK_WINDOW_S = 300.0, 900.0
# So many of the newest minutes are enough for that.
FORECAST_MINUTES = 20
# How many minutes a trend needs; before that, the last minute's rates count.
LEAST_POINTS = 4
# A trend of less than that, measured in the deviations of its points, may be chance.
SURE = 2.0
# Where what waits is only on its way, it is a second older at times.
LEAST_AGEING = 0.01
# Beyond this it is "never, at this rate".
MOST_S = 366 * 86400.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """In how many seconds; 0: it is so now, None: never, at this rate.

    Attributes:
        eta_s: Nothing waits any more.
        full_in_s: The queue reaches ``max_bytes``.
        disk_full_in_s: The disk has only ``min_free_bytes`` left.
        oldest_late_in_s: The oldest waiting event has waited for longer than a limit.
    """

    eta_s: float | None
    full_in_s: float | None
    disk_full_in_s: float | None
    oldest_late_in_s: float | None


def forecast(
    figures: Figures,
    used_bytes: int,
    minutes: Sequence[Period],
    state: str,
    queue: Queue,
    late_s: float,
    now: float,
) -> Forecast:
    """Look ahead.

    Args:
        figures, used_bytes: As of *now*, in seconds since the epoch.
        minutes: The last ones, in the order of recording.
        state: That of delivery.
        late_s: After which time an event that still waits is late.
    """
    is_running = state == "running"
    recent = _recent(minutes, is_running, now, WINDOW_S)
    oldest_s = figures.oldest_waiting_s(now)
    if len(recent) < LEAST_POINTS:
        net = figures.accepted_1m - figures.rate_1m
        grows = net * used_bytes / figures.waiting if figures.waiting else 0.0
        ages = None
    else:
        spent_s = sum(each.lasted_s for each in recent)
        left = sum(each.delivered + each.dead_lettered + each.deleted for each in recent)
        net = (sum(each.accepted for each in recent) - left) / spent_s
        at = [*(each.ended_at for each in recent), now]
        grows = trend(at, [*(each.used_bytes for each in recent), used_bytes])
        ages = trend(at, [*(each.oldest_waiting_s for each in recent), oldest_s])
    free_bytes = figures.disk_free_bytes
    longer, shrinks = _recent(minutes, is_running, now, DISK_WINDOW_S), grows
    if free_bytes is not None and len(longer) >= LEAST_POINTS:
        at = [*(each.ended_at for each in longer), now]
        shrinks = -trend(at, [*(each.disk_free_bytes or 0 for each in longer), free_bytes])
    return Forecast(
        eta_s=_until(figures.due, -net) if is_running or not figures.due else None,
        full_in_s=_until(queue.max_bytes - used_bytes, grows),
        disk_full_in_s=None if free_bytes is None else _until(free_bytes - queue.min_free_bytes, shrinks),
        # While nothing gets through, what waits ages like everything.
        oldest_late_in_s=_until(late_s - oldest_s, _ageing(figures, is_running, ages)),
    )


def _ageing(figures: Figures, is_running: bool, ages: float | None) -> float:
    """By how many seconds a second the oldest waiting event gets older."""
    if not figures.due:
        return 0.0
    if not is_running:
        return 1.0
    if ages is None:
        return 1.0 if not figures.rate_1m else 0.0
    return min(ages, 1.0) if ages >= LEAST_AGEING else 0.0


def _recent(minutes: Sequence[Period], is_running: bool, now: float, window_s: float) -> list[Period]:
    """The last minutes in which delivery made progress, or did not, as now; without a gap."""
    found: list[Period] = []
    begins_at = now
    for each in reversed(minutes):
        is_adjacent = abs(begins_at - each.ended_at) < each.lasted_s + 30
        if not is_adjacent or (each.state == "running") != is_running or each.began_at < now - window_s - 60:
            break
        found.append(each)
        begins_at = each.began_at
    return found[::-1]


def _until(left: float, speed: float) -> float | None:
    if left <= 0:
        return 0.0
    seconds = left / speed if speed > 0 else MOST_S
    return round(seconds, 1) if seconds < MOST_S else None


def trend(at: Sequence[float], values: Sequence[float]) -> float:
    """By how much *values* grow a second, by least squares; 0 if that may be chance."""
    count = len(at)
    middle_at, middle = sum(at) / count, sum(values) / count
    spread = sum((each - middle_at) ** 2 for each in at)
    if not spread:
        return 0.0
    slope = sum((x - middle_at) * (y - middle) for x, y in zip(at, values, strict=True)) / spread
    rest = sum((y - middle - slope * (x - middle_at)) ** 2 for x, y in zip(at, values, strict=True))
    error = (rest / max(count - 2, 1) / spread) ** 0.5
    return slope if abs(slope) > SURE * error else 0.0
