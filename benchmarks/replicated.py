"""N13: the queue on three PostgreSQL servers of this machine, beside a bare psycopg loop on the same rows."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg

from benchmarks import events
from benchmarks.daemon import cpu_s, settings, wait_until
from benchmarks.sink import Sink
from benchmarks.table import Number
from forwarder.records import EVENTS
from forwarder.service import state
from forwarder.spool.postgresql.address import Address
from forwarder.spool.postgresql.engine import Spool
from forwarder.spool.postgresql.setup import setup
from tests.postgres import missing
from tests.postgres_cluster import Cluster

DELAY_S = 0.25
PUT_MANY = 2000


def measure(count: int, rounds: int, puts: int) -> Iterator[Number]:
    """*rounds* times *count* events, by turns; then single puts."""
    if why := missing():
        print(f"replicated: not measured: {why}", file=sys.stderr)
        return
    with closing(Cluster()) as cluster:
        cluster.create()
        address = Address(cluster.url(), "bench")
        setup(address)
        yield from _puts(address, puts)
        yield from _delivery(address, count, rounds)


def _puts(address: Address, count: int) -> Iterator[Number]:
    event = next(events.lines(1))
    ours, bare = [], []
    producer = Spool(address, EVENTS).producer(max_bytes=10**12, min_free_bytes=0, lock_timeout_s=60)
    insert = "INSERT INTO bench.queue (data, status) VALUES (%b, 1) RETURNING id"
    with closing(producer), psycopg.connect(address.url, autocommit=True) as connection:
        for _ in range(count):
            ours.append(_took_s(lambda: producer.append([event])))
            bare.append(_took_s(lambda: connection.execute(insert, [event], prepare=False).fetchone()))
    found = [statistics.median(each) * 1000 for each in (ours, bare)]
    yield Number("N13", "one durable put, p50, ms, against a bare INSERT", found[0] / found[1], "", *found)
    _empty(address)


def _took_s(step: object) -> float:
    started_at = time.perf_counter()
    step()  # type: ignore[operator]
    return time.perf_counter() - started_at


def _delivery(address: Address, count: int, rounds: int) -> Iterator[Number]:
    ours: list[tuple[float, float]] = []
    bare: list[float] = []
    filled: list[float] = []
    for number in range(rounds):
        for run in ("ours", "bare") if number % 2 else ("bare", "ours"):
            filled.append(_fill(address, count))
            if run == "ours":
                ours.append(_by_daemon(address, count))
            else:
                bare.append(_by_loop(address, count))
                _empty(address)
    rates = [statistics.median(run[0] for run in ours), statistics.median(bare)]
    used = statistics.median(run[1] for run in ours) / count * 1e6
    what = f"events/s put by {PUT_MANY}"
    yield Number("N13", what, statistics.median(filled), "")
    what = "delivery, events/s against a bare psycopg loop"
    yield Number("N13", what, rates[0] / rates[1], ">= 0.6", *rates)
    yield Number("N13", "daemon's CPU seconds per million events", used, "<= 7", used)
    _fill(address, count)
    rate, _ = _by_daemon(address, count, DELAY_S)
    yield Number("N13", f"events/s at {DELAY_S * 1000:g} ms a request", rate, ">= 30000", rate)


def _fill(address: Address, count: int) -> float:
    """Put so many: events/s."""
    producer = Spool(address, EVENTS).producer(max_bytes=10**12, min_free_bytes=0, lock_timeout_s=60)
    lines = list(events.lines(count))
    started_at = time.monotonic()
    with closing(producer):
        for first in range(0, count, PUT_MANY):
            producer.append(lines[first : first + PUT_MANY])
    return count / (time.monotonic() - started_at)


def _empty(address: Address) -> None:
    """Take all out as a person would, and have nothing left over from it."""
    with psycopg.connect(address.url, autocommit=True) as connection:
        connection.execute(
            "WITH gone AS (DELETE FROM bench.queue RETURNING 1)"
            " UPDATE bench.ledger SET deleted = deleted + (SELECT count(*) FROM gone)"
        )
        connection.execute("VACUUM bench.queue")


@contextmanager
def _running(address: Address, url: str) -> Iterator[subprocess.Popen[bytes]]:
    environ = settings("", url) | {
        "FORWARDER_QUEUE_URL": address.url,
        "FORWARDER_QUEUE_SCHEMA": address.schema,
    }
    del environ["FORWARDER_QUEUE_PATH"]
    process = subprocess.Popen([sys.executable, "-m", "forwarder", "run"], env=environ)
    try:
        wait_until(lambda: process.poll() is not None or state.read(Spool(address, EVENTS)) is not None, 0.1)
        if process.poll() is not None:
            raise RuntimeError("the daemon did not start")
        yield process
    finally:
        process.terminate()
        process.wait()


def _by_daemon(address: Address, count: int, delay_s: float = 0.0) -> tuple[float, float]:
    """Deliver *count* waiting events: events/s, and the daemon's CPU seconds."""
    spool = Spool(address, EVENTS)
    spool.pause()
    with Sink(delay_s) as sink, _running(address, sink.url) as process:
        before_s = cpu_s(process.pid)
        spool.resume()
        rate = _rate(address, sink, count)
        return rate, cpu_s(process.pid) - before_s


def _by_loop(address: Address, count: int) -> float:
    with Sink() as sink:
        to = sink.url.removeprefix("http://")
        command = [sys.executable, "-m", "benchmarks.bare", "deliver_rows", address.url, to]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL):
            return _rate(address, sink, count)


def _rate(address: Address, sink: Sink, count: int) -> float:
    """Events/s from the first request until all have left the queue."""
    with psycopg.connect(address.url, autocommit=True) as reader:
        query = "SELECT NOT EXISTS (SELECT 1 FROM bench.queue)"
        wait_until(lambda: (reader.execute(query).fetchone() or [False])[0], 0.02)
    over_at, taken = time.monotonic(), sink.taken()
    return (count - taken.first_events) / (over_at - taken.first_at)
