"""N7: the same work where many events wait, and where few do."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator

from benchmarks import commands, delivery, events
from benchmarks.daemon import MIB, running
from benchmarks.sink import Sink
from benchmarks.table import Number
from forwarder.errors import StorageError
from forwarder.spool import EventQueue, Settlement
from forwarder.spool.sqlite import control
from forwarder.spool.sqlite.consumer import Consumer

FEW = 10_000
BATCH_EVENTS, BATCH_BYTES = 2000, 2 * MIB
# A row of them is 457 bytes in the database; the log of a bulk enqueue and a margin on top.
ROW_BYTES = 460
MARGIN_BYTES = 1 << 30


class Pair:
    """Two queues, of which one has few events and one has many; what is done to both is done by turns."""

    def __init__(self, place: str, many: int) -> None:
        self.paths = [os.path.join(place, name) for name in ("few", "many")]
        for path, count in zip(self.paths, (FEW, many), strict=True):
            events.fill(path, count)

    def medians(self, tries: int, work: Callable[[str], float]) -> list[float]:
        """What *work* says of the queue in a directory: with few waiting, and with many."""
        found: list[list[float]] = [[], []]
        for number in range(tries):
            for which in (0, 1) if number % 2 else (1, 0):
                found[which].append(work(self.paths[which]))
        return [statistics.median(values) for values in found]


def measure(place: str, many: int, rounds: int, delivered: int) -> Iterator[Number]:
    """*many* waiting, of which *delivered* are delivered in each of the *rounds*.

    Raises:
        StorageError: the disk has no room for them.
    """
    needed, free = many * ROW_BYTES + MARGIN_BYTES, shutil.disk_usage(place).free
    if free < needed:
        what = f"{many:,} events take {needed / 1e9:.1f} GB, and {place} has {free / 1e9:.1f} GB free"
        raise StorageError(what, "Let $TMPDIR name a directory with more room")
    pair = Pair(place, many)
    beside = f"at {many:,} waiting against {FEW:,}"
    for what, (few, at_many) in _calls(pair, rounds):
        yield Number("N7", f"{what}, ms, {beside}", at_many / few, "<= 1.2", at_many * 1e3, few * 1e3)
    yield from _commands(pair, rounds, place, beside)
    yield from _delivery(pair, rounds, delivered, beside)
    for path in pair.paths:
        shutil.rmtree(path)


def _calls(pair: Pair, rounds: int) -> Iterator[tuple[str, list[float]]]:
    """What a producer and the daemon do in their own processes."""
    queues = {path: EventQueue(path, min_free_bytes=0, max_bytes=1 << 40) for path in pair.paths}
    consumers = {path: Consumer(path) for path in pair.paths}
    event = json.loads(next(events.lines(1)))
    settled = dict.fromkeys(pair.paths, 0)

    def settle(path: str) -> float:
        claim = consumers[path].claim_behind(settled[path], 200, BATCH_BYTES)
        settled[path] = claim.last_id
        return _took_s(lambda: consumers[path].settle(Settlement(claim.ids)))

    yield "one put", pair.medians(rounds * 50, lambda path: _took_s(lambda: queues[path].put(event)))
    claim = (0, BATCH_EVENTS, BATCH_BYTES)
    yield (
        "one claim",
        pair.medians(rounds * 20, lambda path: _took_s(lambda: consumers[path].claim_behind(*claim))),
    )
    yield "settling 200 events", pair.medians(rounds * 10, settle)
    for opened in (*queues.values(), *consumers.values()):
        opened.close()


def _commands(pair: Pair, rounds: int, place: str, beside: str) -> Iterator[Number]:
    file = os.path.join(place, "few.ndjson")
    commands.write_lines(file, 50_000)
    few, many = pair.medians(rounds, lambda path: commands.enqueue_s(path, file))
    yield Number("N7", f"bulk enqueue, s, {beside}", many / few, "<= 1.2", many, few)
    few, many = pair.medians(rounds, _start_s)
    yield Number("N7", f"start of the daemon, s, {beside}", many, "<= 1", many, few)
    none = os.path.join(place, "none")
    by_turns = [
        [commands.command_s(path, "status") for path in (none, pair.paths[1])] for _ in range(rounds * 5)
    ]
    yield _status(*(statistics.median(times) * 1e3 for times in zip(*by_turns, strict=True)))


def _status(started_ms: float, looked_ms: float) -> Number:
    """Against the same command where there is no queue, which loads all of it and has nothing to look at."""
    what = "`status` beyond the start of the command, ms"
    return Number("N7", what, looked_ms - started_ms, "<= 100", looked_ms, started_ms)


def _delivery(pair: Pair, rounds: int, count: int, beside: str) -> Iterator[Number]:
    most: list[int] = []
    used_s: dict[str, list[float]] = {path: [] for path in pair.paths}

    def rate(path: str) -> float:
        if path == pair.paths[0]:
            # So that as few are left as there are meant to be.
            shutil.rmtree(path)
            events.fill(path, FEW + count)
        found, cpu_s, memory = delivery.by_daemon(path, count)
        used_s[path].append(cpu_s / count * 1e6)
        most.append(memory)
        return found

    few, many = pair.medians(rounds, rate)
    yield Number("N7", f"delivery, events/s, {beside}", few / many, "<= 1.2", many, few)
    few, many = (statistics.median(used_s[path]) for path in pair.paths)
    yield Number("N7", f"CPU seconds per million delivered, {beside}", many / few, "<= 1.2", many, few)
    resident = max(most) / MIB
    what = f"most memory of the daemon {beside.split(' against')[0]}, MiB"
    yield Number("N8", what, resident, "<= 100", resident)


def _start_s(path: str) -> float:
    control.pause(path)
    with Sink() as sink:
        started = time.perf_counter()
        with running(path, sink.url):
            return time.perf_counter() - started


def _took_s(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
