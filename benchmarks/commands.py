"""N4 and N10: `forwarder enqueue` as a whole process, with a long file and with one event."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from benchmarks.daemon import settings, wait_until
from benchmarks.events import NESTED, TEMPLATE, lines
from benchmarks.table import Number
from forwarder.config.plain import SOCKET

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
    yield from _one_event(place, rounds * 10)


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


def _one_event(place: str, tries: int) -> Iterator[Number]:
    """From an ordinary install: one that is editable takes Python twice as long to start."""
    binaries = _installed(os.path.join(place, "install"))
    path = os.path.join(place, "one")
    for way, target in (("", "<= 6"), (" with the intake", "<= 2.5")):
        with _intake(binaries, path) if way else nullcontext():
            what = f"`forwarder enqueue` of one event{way}, ms against `python -c pass`"
            middle = [found_s * 1e3 for found_s in _one_event_s(binaries, path, tries)]
            yield Number("N10", what, middle[0] / middle[1], target, *middle)


def _one_event_s(binaries: str, path: str, tries: int) -> tuple[float, float]:
    environ = settings(path)
    command = [f"{binaries}/forwarder", "enqueue", *ONE_EVENT]
    took_s(command, environ)
    ours: list[float] = []
    bare: list[float] = []
    for _ in range(tries):
        ours.append(took_s(command, environ))
        bare.append(took_s([f"{binaries}/python", "-c", "pass"], environ))
    return statistics.median(ours), statistics.median(bare)


def _installed(place: str) -> str:
    """Install this project as a user does; returns the directory of the commands."""
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    subprocess.run([f"{place}/bin/pip", "install", "--quiet", root], check=True, stdout=sys.stderr)
    return f"{place}/bin"


@contextmanager
def _intake(binaries: str, path: str) -> Iterator[None]:
    process = subprocess.Popen([f"{binaries}/forwarder", "intake"], env=settings(path))
    try:
        wait_until(lambda: process.poll() is not None or os.path.exists(os.path.join(path, SOCKET)))
        if process.poll() is not None:
            raise RuntimeError("the intake did not start")
        yield
    finally:
        process.terminate()
        process.wait()


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
