"""N9, and N8 at rest: what a daemon costs that has nothing to do, and how fast it notices an event."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator

from benchmarks.daemon import LINGER_S, MIB, exact_cpu_s, resident_bytes, running, wait_until
from benchmarks.events import lines
from benchmarks.sink import Sink
from benchmarks.table import Number
from forwarder.spool import EventQueue

# After a commit the daemon looks at the queue more often for a second; start-up has to be over, too.
SETTLED_S = 2.0


def measure(place: str, seconds: float, puts: int) -> Iterator[Number]:
    """Idle for *seconds*, then *puts* events one by one."""
    path = os.path.join(place, "quiet")
    with Sink() as sink, running(path, sink.url) as process, EventQueue(path, min_free_bytes=0) as queue:
        time.sleep(SETTLED_S)
        before_s, started = exact_cpu_s(process.pid), time.perf_counter()
        time.sleep(seconds)
        percent = (exact_cpu_s(process.pid) - before_s) / (time.perf_counter() - started) * 100
        yield Number("N9", "idle daemon, percent of a core", percent, "<= 0.3", percent)
        resident = resident_bytes(process.pid) / MIB
        yield Number("N8", "memory of an idle daemon, MiB", resident, "<= 50", resident)
        beyond_ms: list[float] = []
        for number, line in enumerate(lines(puts), 1):
            queue.append([line])
            put_at = time.monotonic()
            wait_until(lambda number=number: sink.taken().events >= number)
            beyond_ms.append((sink.taken().last_at - put_at - LINGER_S) * 1e3)
    middle, worst = statistics.median(beyond_ms), max(beyond_ms)
    yield Number("N9", "put to server beyond linger_s, ms, median", middle, "", middle)
    yield Number("N9", f"the same, the worst of {puts}", worst, "<= 100", worst)
