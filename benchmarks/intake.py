"""N12: the HTTP intake, beside a bare loop with the same parser and SQL, and beside raw commits."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from benchmarks import bare
from benchmarks.clients import TOKEN, request
from benchmarks.daemon import MIB, exact_cpu_s, resident_bytes, settings, wait_until
from benchmarks.table import Number

MANY = 64
SECONDS = 3.0
# What an importer sends at once.
LARGE_EVENTS = 2000
COMMITS = 300
SETTLED_S = 2.0


def measure(place: str, rounds: int, idle_s: float) -> Iterator[Number]:
    """*rounds* of clients of each kind, ours and the bare loop by turns."""
    ours, plain = os.path.join(place, "ours.sock"), os.path.join(place, "bare.sock")
    environ = settings(os.path.join(place, "queue"))
    environ |= {"FORWARDER_INTAKE_SOCKET": ours, "FORWARDER_INTAKE_TOKENS": TOKEN}
    bare_command = ["benchmarks.bare_intake", plain, os.path.join(place, "bare.db")]
    began_at = time.perf_counter()
    with _server(["forwarder", "intake"], ours, environ) as intake:
        ready_s = time.perf_counter() - began_at
        yield Number("N12", "intake: start until it answers, s", ready_s, "<= 0.4", ready_s)
        time.sleep(SETTLED_S)
        before_s, started = exact_cpu_s(intake.pid), time.perf_counter()
        time.sleep(idle_s)
        percent = (exact_cpu_s(intake.pid) - before_s) / (time.perf_counter() - started) * 100
        yield Number("N12", "idle intake, percent of a core", percent, "<= 0.1", percent)
        resident = resident_bytes(intake.pid) / MIB
        yield Number("N12", "memory of an idle intake, MiB", resident, "<= 50", resident)
        with _server(bare_command, plain, dict(os.environ)) as other:
            yield from _beside(place, {ours: intake.pid, plain: other.pid}, ours, plain, rounds)
        yield from _large(intake.pid, ours)


def _beside(place: str, pids: dict[str, int], ours: str, plain: str, rounds: int) -> Iterator[Number]:
    rates: dict[str, list[float]] = {ours: [], plain: []}
    cpu_us: dict[str, list[float]] = {ours: [], plain: []}
    singles: list[float] = []
    slowest: list[float] = []
    for _ in range(rounds):
        singles.append(_crowd(ours, 1)["p50_ms"])
        for path in (ours, plain):
            before_s = exact_cpu_s(pids[path])
            found = _crowd(path, MANY)
            rates[path].append(found["count"] / found["seconds"])
            cpu_us[path].append((exact_cpu_s(pids[path]) - before_s) / found["count"] * 1e6)
            if path == ours:
                slowest.append(found["p99_ms"])
    rate, bare_rate = (statistics.median(each) for each in rates.values())
    yield Number(
        "N12",
        f"requests/s of {MANY} clients, against the bare loop",
        rate / bare_rate,
        ">= 0.5",
        rate,
        bare_rate,
    )
    yield Number("N12", f"the same against 5,000/s, {MANY} clients", rate / 5000, ">= 1", rate)
    yield Number("N12", f"p99 of {MANY} clients, ms", statistics.median(slowest), "<= 30", min(slowest))
    our_us, bare_us = (statistics.median(each) for each in cpu_us.values())
    what = f"CPU of the intake an event, us, {MANY} clients"
    yield Number("N12", what, our_us, "<= 60", our_us, bare_us)
    commit_ms, single_ms = _commit_ms(place), statistics.median(singles)
    beyond = (single_ms - 0.3) / commit_ms
    yield Number(
        "N12", "one client: p50 beyond 0.3 ms, against a commit", beyond, "<= 1.5", single_ms, commit_ms
    )


def _large(pid: int, path: str) -> Iterator[Number]:
    """Single events while importers send thousands at once."""
    is_over = threading.Event()
    importers = [threading.Thread(target=_import, args=(path, is_over)) for _ in range(2)]
    for importer in importers:
        importer.start()
    slow = _crowd(path, 8)["p99_ms"]
    is_over.set()
    for importer in importers:
        importer.join()
    yield Number("N12", f"p99 of 8 clients beside imports of {LARGE_EVENTS}, ms", slow, "<= 100", slow)
    most = resident_bytes(pid, most=True) / MIB
    yield Number("N12", "memory of the intake at most, MiB", most, "<= 150", most)


def _import(path: str, is_over: threading.Event) -> None:
    one = json.loads(_data(request(1)))
    one["properties"]["time"] = int(time.time())
    body = json.dumps([one] * LARGE_EVENTS).encode()
    head = (
        f"POST /import?strict=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    )
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(path)
        while not is_over.is_set():
            client.sendall(head + body)
            assert b'"status": "OK"' in client.recv(4096)


def _data(sent: bytes) -> str:
    from urllib.parse import parse_qs

    return parse_qs(sent.partition(b"\r\n\r\n")[2].decode())["data"][0]


def _crowd(path: str, connections: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.clients", path, str(connections), str(SECONDS)]
    done = subprocess.run(command, capture_output=True, check=True)
    return dict(json.loads(done.stdout))


def _commit_ms(place: str) -> float:
    """The median of raw commits of one row."""
    took = []
    with closing(bare.connect(os.path.join(place, "commits.db"))) as raw:
        raw.execute(bare.CREATE)
        for number in range(COMMITS):
            data = _data(request(number))
            started = time.perf_counter()
            raw.execute(bare.INSERT, (data, time.time()))
            took.append(time.perf_counter() - started)
    return statistics.median(took) * 1e3


@contextmanager
def _server(module: Sequence[str], path: str, environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", *module], env=environ)
    try:
        wait_until(lambda: process.poll() is not None or _answers(path), every_s=0.002, timeout_s=20)
        yield process
    finally:
        process.terminate()
        process.wait()


def _answers(path: str) -> bool:
    with closing(socket.socket(socket.AF_UNIX)) as client:
        return client.connect_ex(path) == 0
