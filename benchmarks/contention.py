"""N6: many processes that enqueue one event at a time, against plain SQLite with a busy timeout."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier

from benchmarks import bare
from benchmarks.events import lines
from benchmarks.table import Number
from forwarder.spool import EventQueue

# Forked, so that what is measured is not the start of 64 interpreters.
_CONTEXT = multiprocessing.get_context("fork")
CROWD = 64


@dataclass(frozen=True)
class Crowd:
    """What each of the processes has seen: seconds for each of its puts."""

    took_s: list[list[float]]

    @property
    def all_ms(self) -> list[float]:
        """Of all of them, in order of size."""
        return sorted(put_s * 1e3 for puts in self.took_s for put_s in puts)

    def percentile(self, part: float) -> float:
        """In ms: so many of a hundred took no longer."""
        times = self.all_ms
        return times[min(int(len(times) * part / 100), len(times) - 1)]

    @property
    def evenness(self) -> float:
        """The fewest puts of a process against the most: 0 is starved, 1 is fair."""
        counts = [len(puts) for puts in self.took_s]
        return min(counts) / max(counts)


def measure(place: str, seconds: float, rounds: int) -> Iterator[Number]:
    """1, 4, 16 and 64 processes, for *seconds* each, *rounds* times by turns."""
    for processes in (1, 4, 16, CROWD):
        ours: list[Crowd] = []
        raw: list[Crowd] = []
        for number in range(rounds):
            for run in (_ours, _raw) if number % 2 else (_raw, _ours):
                path = os.path.join(place, "contention")
                (ours if run is _ours else raw).append(_crowd(run, path, processes, seconds))
                shutil.rmtree(path)
        yield from _numbers(processes, ours, raw)


def _numbers(processes: int, ours: list[Crowd], raw: list[Crowd]) -> Iterator[Number]:
    who = f"{processes} process{'es' if processes > 1 else ''}, one event at a time"
    targets = ("", "<= 200", "<= 600") if processes == CROWD else ("", "", "")
    for name, part, target in zip(("p50", "p99", "worst"), (50, 99, 100), targets, strict=True):
        # The worst is the worst of all rounds, not of a typical one.
        of = max if part == 100 else statistics.median
        found = [of(crowd.percentile(part) for crowd in crowds) for crowds in (ours, raw)]
        yield Number("N6", f"{who}: {name}, ms", found[0], target, *found)
    if processes > 1:
        found = [min(crowd.evenness for crowd in crowds) for crowds in (ours, raw)]
        yield Number("N6", f"{who}: fewest puts to most", found[0], "", *found)


def _crowd(
    run: Callable[[str], Callable[[bytes], object]], path: str, processes: int, seconds: float
) -> Crowd:
    os.mkdir(path)
    run(path)
    ready = _CONTEXT.Barrier(processes)
    pipes = [_CONTEXT.Pipe(duplex=False) for _ in range(processes)]
    # A fork goes on with what is here, the ends of pipes, too.
    members = [
        _CONTEXT.Process(target=lambda end=end: end.send(_puts(run, path, ready, seconds)))
        for _, end in pipes
    ]
    for member in members:
        member.start()
    found = Crowd([pipe.recv() for pipe, _ in pipes])
    for member in members:
        member.join()
    return found


def _puts(
    run: Callable[[str], Callable[[bytes], object]], path: str, ready: Barrier, seconds: float
) -> list[float]:
    put = run(path)
    (line,) = lines(1)
    took_s: list[float] = []
    ready.wait()
    now = time.perf_counter()
    until = now + seconds
    while now < until:
        started = now
        put(line)
        now = time.perf_counter()
        took_s.append(now - started)
    return took_s


def _ours(path: str) -> Callable[[bytes], object]:
    queue = EventQueue(path, min_free_bytes=0)
    return lambda line: queue.put(json.loads(line))


def _raw(path: str) -> Callable[[bytes], object]:
    rows = bare.connect(os.path.join(path, "raw.db"))
    rows.execute(bare.CREATE.replace("TABLE", "TABLE IF NOT EXISTS"))
    return lambda line: rows.execute(bare.INSERT, (line, time.time()))
