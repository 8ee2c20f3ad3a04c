"""N11: what waiting events take on disk, what is left when they are gone, and the log in a storm."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

from benchmarks.daemon import MIB, running, wait_until
from benchmarks.events import lines
from benchmarks.sink import Sink
from benchmarks.table import Number
from forwarder.spool import EventQueue
from forwarder.spool.sqlite.view import View

_CONTEXT = multiprocessing.get_context("fork")
CHUNK = 2000
READERS = 4
READ_S = 0.05
DRAINED_BYTES = 10 * MIB


def measure(place: str, count: int, seconds: float) -> Iterator[Number]:
    """*count* events put and drained, then a storm of *seconds*."""
    path = os.path.join(place, "disk")
    events_bytes = put(path, count)
    taken = on_disk(path)
    what = "bytes on disk for a byte waiting, all files, the reserve too"
    yield Number("N11", what, taken / events_bytes, "<= 1.3")
    with Sink() as sink, running(path, sink.url):
        worst_ms = _puts_meanwhile(path)
        left = on_disk(path) / MIB
    yield Number("N11", "on disk after a drain, all files, MiB", left, "<= 10", left)
    what = "the longest put while the queue drains and is tidied, ms"
    yield Number("N11", what, worst_ms, "", worst_ms)
    shutil.rmtree(path)
    log = storm(path, seconds) / MIB
    shutil.rmtree(path)
    yield Number("N11", f"the log in a storm with {READERS} readers, MiB", log, "<= 96", log)


def put(path: str, count: int) -> int:
    """Put events by chunks, as a producer does. Returns their bytes."""
    total = 0
    chunk: list[bytes] = []
    with EventQueue(path, min_free_bytes=0) as queue:
        for line in lines(count):
            chunk.append(line)
            total += len(line)
            if len(chunk) == CHUNK:
                queue.append(chunk)
                chunk = []
        queue.append(chunk)
        # While it is open, for closing it last empties the log.
        return total


def on_disk(path: str) -> int:
    """The bytes of all files of a queue."""
    with os.scandir(path) as found:
        return sum(entry.stat().st_size for entry in found)


def _puts_meanwhile(path: str) -> float:
    """Put an event each 10 ms until the disk is given back. Returns the longest put, in ms."""
    (line,) = lines(1)
    worst_s = 0.0
    deadline = time.monotonic() + 120
    with EventQueue(path, min_free_bytes=0) as queue:
        while on_disk(path) > DRAINED_BYTES and time.monotonic() < deadline:
            started = time.perf_counter()
            queue.append([line])
            worst_s = max(worst_s, time.perf_counter() - started)
            time.sleep(0.01)
    with View(path) as view:
        wait_until(lambda: view.figures().waiting == 0)
    return worst_s * 1e3


def storm(path: str, seconds: float) -> int:
    """Producers, a daemon and readers that overlap. Returns the most bytes of the log."""
    log = os.path.join(path, "data.db-wal")
    with EventQueue(path, min_free_bytes=0), Sink() as sink, running(path, sink.url):
        work = (*[_produce] * 2, *[_read] * READERS)
        members = [_CONTEXT.Process(target=member, args=(path, seconds, n)) for n, member in enumerate(work)]
        for member in members:
            member.start()
        most = 0
        while any(member.is_alive() for member in members):
            most = max(most, os.stat(log).st_size)
            time.sleep(0.02)
        for member in members:
            member.join()
    return most


def _produce(path: str, seconds: float, _number: int) -> None:
    chunk = list(lines(100))
    until = time.monotonic() + seconds
    with EventQueue(path, min_free_bytes=0) as queue:
        while time.monotonic() < until:
            queue.append(chunk)


def _read(path: str, seconds: float, number: int) -> None:
    """Read transactions of 50 ms, with a moment in between, of which one is always open."""
    until = time.monotonic() + seconds
    time.sleep(READ_S / READERS * number)
    file = f"file:{path}/data.db?mode=ro"
    with closing(sqlite3.connect(file, uri=True, isolation_level=None, timeout=10)) as reader:
        while time.monotonic() < until:
            reader.execute("BEGIN")
            reader.execute("SELECT delivered FROM ledger").fetchone()
            time.sleep(READ_S)
            reader.execute("COMMIT")
