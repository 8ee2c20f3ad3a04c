"""N2: delivery to a server that is slow for each request."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from benchmarks import delivery, events
from benchmarks.table import Number

DELAY_S = 0.25


def measure(place: str, count: int) -> Iterator[Number]:
    """*count* events, with the defaults' ten connections at most."""
    found = rate(place, count)
    yield Number("N2", "delivery with 250 ms for each request, events/s", found, ">= 30000", found)


def rate(place: str, count: int, delay_s: float = DELAY_S) -> float:
    """Events/s from the first request until *count* have left the queue."""
    path = os.path.join(place, "slow")
    events.fill(path, count)
    try:
        return delivery.by_daemon(path, count, delay_s)[0]
    finally:
        shutil.rmtree(path)
