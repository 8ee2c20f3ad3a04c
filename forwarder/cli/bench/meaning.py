"""What the figures mean, in plain sentences."""

from __future__ import annotations

from collections.abc import Sequence

from forwarder.cli.bench.measures import Delivery, Intake, Spread
from forwarder.cli.table import duration

# Below this nothing can have been put on a disk or into flash that keeps it: seen with tmpfs, 0.005 ms.
TOO_FAST_S = 0.000_02
SLOW_S = 0.010
# "~30k events per second" and project: Mixpanel's docs, "Rate Limits".
MIXPANEL_EVENTS_PER_S = 30_000
BACKLOG = 10_000_000


def of_disk(sync: Spread) -> list[str]:
    """About the time that a sync takes."""
    if sync.median_s < TOO_FAST_S:
        return [
            "A sync is over too soon for a disk: this is memory, or a file system that does not sync. What "
            "is accepted here does not survive a power cut."
        ]
    if sync.median_s > SLOW_S:
        return [
            "A sync is slow here, and each yes waits for one: hand events over in batches, or put the queue "
            "on a faster disk."
        ]
    return []


def of_intake(intakes: Sequence[Intake]) -> list[str]:
    """About one event at a time, and many."""
    one, many = intakes[0], intakes[-1]
    gain, wait = many.events_per_s / one.events_per_s, ms(one.spread.median_s)
    return [
        f"A program that hands over one event at a time waits {wait} for each yes, and gets "
        f"{one.events_per_s:,.0f} a second in; with {many.batch:,} at a time it is {gain:,.0f} times as many."
    ]


def of_delivery(delivery: Delivery) -> list[str]:
    """About this machine and Mixpanel's limit, and about what waits after an outage."""
    rate, limit = delivery.events_per_s, MIXPANEL_EVENTS_PER_S
    text = f"Mixpanel takes {limit:,} events a second of a project: "
    text += "that is the limit, not this machine." if rate >= limit else "this machine does not reach that."
    return [f"{text} A backlog of {BACKLOG:,} takes {duration(BACKLOG / min(rate, limit))} at least."]


def ms(seconds: float) -> str:
    """``0.24 ms``, ``12 ms``."""
    value = seconds * 1000
    return f"{value:.3g} ms" if value < 100 else f"{value:,.0f} ms"
