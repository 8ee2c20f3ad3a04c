"""N8: the most memory that the daemon takes where what waits is large."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from benchmarks import events
from benchmarks.daemon import MIB, resident_bytes, running, wait_until
from benchmarks.sink import Sink
from benchmarks.table import Number

# So slow that all connections are in use.
DELAY_S = 0.25
CONNECTIONS = 10


def measure(place: str, count: int, delivered: int) -> Iterator[Number]:
    """*count* events of 900 kB waiting, of which *delivered* are delivered while it is watched."""
    path = os.path.join(place, "memory")
    events.fill_large(path, count)
    with Sink(DELAY_S) as sink, running(path, sink.url) as process:
        wait_until(lambda: sink.taken().events >= delivered)
        taken = sink.taken()
        most = resident_bytes(process.pid, most=True) / MIB
    shutil.rmtree(path)
    what = f"memory with {count} events of 900 kB, {taken.most_at_once} requests at once, MiB"
    yield Number("N8", what, most, "<= 100", most)
