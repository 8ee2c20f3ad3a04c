"""N5: one durable put from Python, against one raw commit of the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing

from benchmarks import bare, plain
from benchmarks.events import lines
from benchmarks.table import Number
from forwarder.spool import EventQueue


def measure(place: str, count: int) -> Iterator[Number]:
    """*count* puts of each kind, one by one and by turns."""
    paths = [os.path.join(place, name) for name in ("puts", "puts.db", "puts-plain")]
    with EventQueue(paths[0], min_free_bytes=0) as queue, closing(bare.connect(paths[1])) as raw:
        raw.execute(bare.CREATE)
        users = plain.opened(paths[2])
        found: dict[str, list[float]] = {"ours": [], "bare": [], "plain": []}
        for number, line in enumerate(lines(count)):
            event = json.loads(line)
            puts: list[tuple[str, Callable[[], object]]] = [
                ("ours", lambda event=event: queue.put(event)),
                ("bare", lambda line=line: raw.execute(bare.INSERT, (line, time.time()))),
                ("plain", lambda event=event: users.put(event)),
            ]
            for name, put in puts if number % 2 else reversed(puts):
                started = time.perf_counter()
                put()
                found[name].append(time.perf_counter() - started)
        users.close()
    middle = [statistics.median(times) * 1e3 for times in found.values()]
    shutil.rmtree(paths[0])
    shutil.rmtree(paths[2])
    yield Number(
        "N5", "one durable put, ms, median against one raw commit", middle[0] / middle[1], "<= 1.3", *middle
    )
