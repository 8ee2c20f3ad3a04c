"""``python -m benchmarks``: one run, one table, and the same as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sqlite3
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass

from benchmarks import daemon, producer
from benchmarks.events import lines


@dataclass(frozen=True)
class Row:
    """One number: ours, what it stands beside, and what it is to reach."""

    number: str
    what: str
    ours: float
    beside: float | None
    value: float
    target: str
    met: bool


def measure_delivery(place: str, count: int, rounds: int) -> list[Row]:
    """N1 and N3."""
    ours: list[tuple[float, float]] = []
    bare: list[tuple[float, float]] = []
    for number in range(rounds):
        path = os.path.join(place, f"deliver-{number}")
        for run in ("ours", "bare") if number % 2 else ("bare", "ours"):
            daemon.fill(path, count)
            if run == "ours":
                ours.append(daemon.deliver(path, count))
            else:
                bare.append(daemon.deliver_barely(path))
            shutil.rmtree(path)
    rate, bare_rate = (count / statistics.median(wall for wall, _ in runs) for runs in (ours, bare))
    cpu, bare_cpu = (statistics.median(used for _, used in runs) / count * 1e6 for runs in (ours, bare))
    ratio = rate / bare_rate
    return [
        Row("N1", "delivery, events/s against the bare loop", rate, bare_rate, ratio, ">= 0.7", ratio >= 0.7),
        Row("N3", "daemon's CPU seconds per million events", cpu, bare_cpu, cpu, "<= 6", cpu <= 6),
    ]


def measure_enqueue(place: str, count: int, rounds: int) -> list[Row]:
    """N4."""
    file = os.path.join(place, "events.ndjson")
    with open(file, "wb") as out:
        out.writelines(line + b"\n" for line in lines(count))
    ours: list[float] = []
    bare: list[float] = []
    for number in range(rounds):
        path = os.path.join(place, f"enqueue-{number}")
        for run in ("ours", "bare") if number % 2 else ("bare", "ours"):
            if run == "ours":
                ours.append(producer.enqueue(file, path))
            else:
                bare.append(producer.enqueue_barely(file, path + ".db"))
        shutil.rmtree(path)
        os.unlink(path + ".db")
    rate, bare_rate = count / statistics.median(ours), count / statistics.median(bare)
    ratio = rate / bare_rate
    what = "bulk enqueue, events/s against raw executemany"
    return [Row("N4", what, rate, bare_rate, ratio, ">= 0.5", ratio >= 0.5)]


def measure_quiet(place: str, idle_s: float, puts: int) -> list[Row]:
    """N9."""
    share = daemon.idle_share(os.path.join(place, "idle"), idle_s) * 100
    median_s, worst_s = daemon.latency_s(os.path.join(place, "latency"), puts)
    return [
        Row("N9", "idle daemon, percent of a core", share, None, share, "<= 0.3", share <= 0.3),
        Row(
            "N9",
            "enqueue to delivered beyond linger, ms, median",
            median_s * 1e3,
            None,
            median_s * 1e3,
            "",
            True,
        ),
        Row("N9", "the same, worst", worst_s * 1e3, None, worst_s * 1e3, "<= 100", worst_s <= 0.1),
    ]


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle-s", type=float, default=10.0)
    parser.add_argument("--puts", type=int, default=30)
    parser.add_argument("--json", default="bench.json", metavar="FILE")
    arguments = parser.parse_args()
    place = tempfile.mkdtemp(prefix="forwarder-bench-")
    try:
        rows = measure_delivery(place, arguments.events, arguments.rounds)
        rows += measure_enqueue(place, arguments.events, arguments.rounds)
        rows += measure_quiet(place, arguments.idle_s, arguments.puts)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    print(f"{machine}, {arguments.events} events of 420 bytes, median of {arguments.rounds} rounds\n")
    print(f"{'':4} {'':50} {'ours':>10} {'bare loop':>10} {'figure':>8} {'target':>8}")
    for row in rows:
        beside = "" if row.beside is None else f"{row.beside:,.4g}"
        mark = "met" if row.met else "NOT MET"
        figures = f"{row.ours:>10,.4g} {beside:>10} {row.value:>8.3g}"
        print(f"{row.number:4} {row.what:50} {figures} {row.target:>8} {mark}")
    with open(arguments.json, "w", encoding="utf-8") as out:
        json.dump(
            {"machine": machine, "at": time.time(), "rows": [asdict(row) for row in rows]}, out, indent=1
        )
    print(f"\nThe same as JSON: {arguments.json}")


if __name__ == "__main__":
    main()
