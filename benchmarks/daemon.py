"""Delivery: the daemon against the bare loop, its CPU, its latency, and what it costs to be idle."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.events import lines
from benchmarks.sink import Sink
from forwarder.service import state
from forwarder.spool import EventQueue, View, control

LINGER_S = 0.2
_TICKS = os.sysconf("SC_CLK_TCK")


def fill(path: str, count: int) -> None:
    """Put *count* events into the queue, in chunks."""
    with EventQueue(path, min_free_bytes=0) as queue:
        chunk: list[bytes] = []
        for line in lines(count):
            chunk.append(line)
            if len(chunk) == 10_000:
                queue.append(chunk)
                chunk = []
        queue.append(chunk)


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used so far, user and system."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@contextmanager
def running(path: str, url: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon for the queue in *path*, once it is ready."""
    settings = {
        "FORWARDER_CONFIG": os.devnull,
        "FORWARDER_QUEUE_PATH": path,
        "FORWARDER_MIXPANEL_TOKEN": "benchmark",
        "FORWARDER_MIXPANEL_URL": url,
        "FORWARDER_DELIVERY_LINGER_S": str(LINGER_S),
        "FORWARDER_LOG_LEVEL": "warning",
        **environ,
    }
    process = subprocess.Popen([sys.executable, "-m", "forwarder", "run"], env={**os.environ, **settings})
    try:
        while state.read(path) is None:
            if process.poll() is not None:
                raise RuntimeError("the daemon did not start")
            time.sleep(0.01)
        yield process
    finally:
        process.terminate()
        process.wait()


def deliver(path: str, count: int) -> tuple[float, float]:
    """Deliver *count* waiting events by the daemon. Returns wall and CPU seconds."""
    control.pause(path)
    with Sink() as sink, running(path, sink.url) as process, View(path) as view:
        before = cpu_s(process.pid)
        started = time.perf_counter()
        control.resume(path)
        while view.figures().waiting:
            time.sleep(0.002)
        wall_s = time.perf_counter() - started
        used_s = cpu_s(process.pid) - before
        assert sink.figures()[0] >= count
    return wall_s, used_s


def deliver_barely(path: str) -> tuple[float, float]:
    """The same by the bare loop."""
    with Sink() as sink:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.bare", "deliver", path, sink.url.removeprefix("http://")],
            capture_output=True,
            check=True,
        )
    wall_s, used_s = done.stdout.split()
    return float(wall_s), float(used_s)


def idle_share(path: str, seconds: float) -> float:
    """The share of a core that an idle daemon takes."""
    with Sink() as sink, running(path, sink.url) as process:
        time.sleep(1.0)  # what start-up leaves over is not idling
        before, started = cpu_s(process.pid), time.perf_counter()
        time.sleep(seconds)
        return (cpu_s(process.pid) - before) / (time.perf_counter() - started)


def latency_s(path: str, count: int) -> tuple[float, float]:
    """From a durable put to the far end, without the linger: median and worst of *count*."""
    beyond: list[float] = []
    with Sink() as sink, running(path, sink.url), EventQueue(path, min_free_bytes=0) as queue:
        for number, line in enumerate(lines(count), 1):
            queue.append([line])
            put_at = time.monotonic()
            while sink.figures()[0] < number:
                time.sleep(0.002)
            beyond.append(sink.figures()[2] - put_at - LINGER_S)
    return statistics.median(beyond), max(beyond)
