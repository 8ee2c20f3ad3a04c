"""What the figures mean, in plain sentences."""

from __future__ import annotations

from collections.abc import Sequence

from forwarder.cli.bench.measures import Delivery, Intake, Spread
from forwarder.text import duration

# No disk or flash can sync faster than this; tmpfs takes 0.005 ms.
TOO_FAST_S = 0.000_02
SLOW_S = 0.010
# "~30k events per second" per project: Mixpanel's docs, "Rate Limits".
MIXPANEL_EVENTS_PER_S = 30_000
BACKLOG = 10_000_000


def of_disk(sync: Spread) -> list[str]:
    """About the duration of a sync."""
    if sync.median_s < TOO_FAST_S:
        return [
            "A sync is too fast for a disk: this is memory, or a file system that does not sync. Events "
            "accepted here do not survive a power cut."
        ]
    if sync.median_s > SLOW_S:
        return [
            "A sync is slow here, and each call waits for one: enqueue events in batches, or put the queue "
            "on a faster disk."
        ]
    return []


def of_intake(intakes: Sequence[Intake]) -> list[str]:
    """About one event at a time, and many."""
    one, many = intakes[0], intakes[-1]
    gain, wait = many.events_per_s / one.events_per_s, ms(one.spread.median_s)
    return [
        f"One event per call: {wait} per call, {one.events_per_s:,.0f} events/s. With {many.batch:,} events "
        f"per call, {gain:,.0f} times as many."
    ]


def of_delivery(delivery: Delivery) -> list[str]:
    """About this machine and Mixpanel's limit, and about the backlog after an outage."""
    rate, limit = delivery.events_per_s, MIXPANEL_EVENTS_PER_S
    text = f"Mixpanel's limit is {limit:,} events/s per project: "
    text += "this machine is faster." if rate >= limit else "this machine is slower."
    return [f"{text} A backlog of {BACKLOG:,} takes at least {duration(BACKLOG / min(rate, limit))}."]


def ms(seconds: float) -> str:
    """``0.24 ms``, ``12 ms``."""
    value = seconds * 1000
    return f"{value:.3g} ms" if value < 100 else f"{value:,.0f} ms"
