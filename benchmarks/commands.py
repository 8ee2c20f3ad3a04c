"""N4 and N10: `forwarder enqueue` as a whole process, with a long file and with one event."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.daemon import settings
from benchmarks.events import NESTED, TEMPLATE, lines
from benchmarks.table import Number

ONE_EVENT = ("-e", "Order Completed", "-d", "user-000001", "-p", "plan=premium", "-p", "amount:=129.95")


def measure(place: str, count: int, rounds: int) -> Iterator[Number]:
    """*rounds* times a file of *count* flat and one of nested events, and ten times as often one event."""
    path = os.path.join(place, "commands")
    for form, template in (("flat", TEMPLATE), ("nested", NESTED)):
        file = os.path.join(place, f"{form}.ndjson")
        write_lines(file, count, template)
        rates = [count / taken_s for taken_s in _bulk(path, file, rounds)]
        what = f"bulk enqueue of a file, {form} events/s against raw executemany"
        yield Number("N4", what, rates[0] / rates[1], ">= 0.75", *rates)
    yield _one_event(path, rounds * 10)


def _bulk(path: str, file: str, rounds: int) -> tuple[float, float]:
    """How long a file takes, by the command and by the bare loop, by turns."""
    ours: list[float] = []
    bare: list[float] = []
    for number in range(rounds):
        for run in ("ours", "bare") if number % 2 else ("bare", "ours"):
            if run == "ours":
                ours.append(enqueue_s(path, file))
                shutil.rmtree(path)
            else:
                command = [sys.executable, "-m", "benchmarks.bare", "enqueue", file, path + ".db"]
                bare.append(took_s(command, dict(os.environ)))
                os.unlink(path + ".db")
    return statistics.median(ours), statistics.median(bare)


def _one_event(path: str, tries: int) -> Number:
    ours: list[float] = []
    bare: list[float] = []
    enqueue_s(path, *ONE_EVENT)
    for _ in range(tries):
        ours.append(enqueue_s(path, *ONE_EVENT))
        bare.append(took_s([sys.executable, "-c", "pass"], dict(os.environ)))
    middle = [statistics.median(runs) * 1e3 for runs in (ours, bare)]
    what = "`forwarder enqueue` of one event, ms against `python -c pass`"
    return Number("N10", what, middle[0] / middle[1], "<= 9", *middle)


def write_lines(file: str, count: int, template: str = TEMPLATE) -> None:
    """A file of *count* events."""
    with open(file, "wb") as out:
        out.writelines(line + b"\n" for line in lines(count, template))


def enqueue_s(path: str, *arguments: str) -> float:
    """How long ``forwarder enqueue`` takes."""
    return command_s(path, "enqueue", *arguments)


def command_s(path: str, *arguments: str) -> float:
    """How long a command on the queue in *path* takes."""
    # The command as it is installed: `python -m forwarder` would look for the package first.
    program = os.path.join(os.path.dirname(sys.executable), "forwarder")
    return took_s([program, *arguments], settings(path))


def took_s(command: list[str], environ: dict[str, str]) -> float:
    """How long a process takes, from its start to its end."""
    started = time.perf_counter()
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started
