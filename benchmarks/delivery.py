"""N1 and N3: delivery by the daemon, by the bare loop and by plain persist-queue; the server is free."""

from __future__ import annotations

import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing

from benchmarks import events
from benchmarks.daemon import MIB, cpu_s, resident_bytes, running, wait_until
from benchmarks.sink import Sink
from benchmarks.table import Number
from forwarder.spool.sqlite import control

# Of plain persist-queue, which commits twice for each.
PLAIN_EVENTS = 2000
SHOWER_EVENTS = 2_000_000


def measure(place: str, count: int, rounds: int) -> Iterator[Number]:
    """*rounds* times *count* events, by turns; plain persist-queue once, as it is slower by far."""
    path = os.path.join(place, "delivery")
    ours: list[tuple[float, float, int]] = []
    bare: list[tuple[float, float]] = []
    for number in range(rounds):
        for run in ("ours", "bare") if number % 2 else ("bare", "ours"):
            events.fill(path, count)
            if run == "ours":
                ours.append(by_daemon(path, count))
            else:
                bare.append(_by_loop(path, count))
            shutil.rmtree(path)
    events.fill(path, PLAIN_EVENTS)
    plain = _by_user(path)
    shutil.rmtree(path)
    rates = [statistics.median(run[0] for run in runs) for runs in (ours, bare)]
    used = [statistics.median(run[1] for run in runs) / count * 1e6 for runs in (ours, bare)]
    what = "delivery, events/s against the bare loop"
    yield Number("N1", what, rates[0] / rates[1], ">= 0.7", *rates, plain)
    ceiling = _ceiling()
    what = "the sink alone, events/s against the bare loop"
    yield Number("N1", what, ceiling / rates[1], "", ceiling, rates[1])
    yield Number("N3", "daemon's CPU seconds per million events", used[0], "<= 6", *used)
    most = max(run[2] for run in ours) / MIB
    yield Number("N8", "most memory of the daemon at that rate, MiB", most, "<= 100", most)


def by_daemon(path: str, count: int, delay_s: float = 0.0) -> tuple[float, float, int]:
    """Deliver *count* waiting events: events/s, CPU seconds of the daemon, the most memory it had."""
    control.pause(path)
    with Sink(delay_s) as sink, running(path, sink.url) as process, closing(_reader(path)) as reader:
        before_s = cpu_s(process.pid)
        control.resume(path)
        rate = _rate(reader, sink, count)
        used_s = cpu_s(process.pid) - before_s
        return rate, used_s, resident_bytes(process.pid, most=True)


def _by_loop(path: str, count: int) -> tuple[float, float]:
    """The same by the bare loop: events/s and its CPU seconds."""
    with Sink() as sink, closing(_reader(path)) as reader:
        command = [sys.executable, "-m", "benchmarks.bare", "deliver", path, sink.url.removeprefix("http://")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            rate = _rate(reader, sink, count)
            return rate, float(process.communicate()[0])


def _by_user(path: str) -> float:
    """The same by plain persist-queue: events/s."""
    with Sink() as sink:
        subprocess.run([sys.executable, "-m", "benchmarks.plain", path, sink.url], check=True)
        return sink.taken().rate


def _reader(path: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path}/data.db?mode=ro", uri=True, isolation_level=None)


def _rate(reader: sqlite3.Connection, sink: Sink, count: int) -> float:
    """Events/s from the first request until *count* have left the queue."""
    query = "SELECT min(_id) FROM ack_queue_default"
    (first,) = reader.execute(query).fetchone()

    def have_left() -> bool:
        (oldest,) = reader.execute(query).fetchone()
        return oldest is None or oldest >= first + count

    wait_until(have_left)
    over_at, taken = time.monotonic(), sink.taken()
    return (count - taken.first_events) / (over_at - taken.first_at)


def _ceiling() -> float:
    """How many events/s the sink takes from a program that has them packed already."""
    with Sink() as sink:
        address = sink.url.removeprefix("http://")
        command = [sys.executable, "-m", "benchmarks.bare", "shower", address, str(SHOWER_EVENTS)]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        return sink.taken().rate
