"""The measurements: the disk's sync, storing events, and delivering them to the sandbox."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from forwarder import spool
from forwarder.cli.scratch import Scratch
from forwarder.records.event import encode
from forwarder.service import state as daemon_state
from forwarder.spool import EventQueue

BATCHES = (1, 10, 100, 1000)
BLOCK_BYTES = 4096
DELIVERED_EVENTS = 100_000
DELIVERY_S = 15.0
# How much disk space they need for a while.
NEEDED_BYTES = 512 * 1024 * 1024
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Spread:
    """How long something takes, in seconds."""

    median_s: float
    p99_s: float
    worst_s: float

    @classmethod
    def of(cls, times: list[float]) -> Spread:
        """From at least one of *times*."""
        ordered = sorted(times)
        return cls(statistics.median(ordered), ordered[len(ordered) * 99 // 100], ordered[-1])


@dataclass(frozen=True, slots=True)
class Intake:
    """Events stored durably, *batch* at once: how many per second, and how long one call takes."""

    batch: int
    events_per_s: float
    spread: Spread


@dataclass(frozen=True, slots=True)
class Delivery:
    """The daemon with the sandbox: events per second, and CPU seconds per million."""

    events_per_s: float
    cpu_s_per_million: float
    cores: float


def sync(directory: str, seconds: float) -> Spread:
    """Append a block to a file in *directory* and sync it, again and again, as a commit does.

    Raises:
        OSError: the disk reports an error.
    """
    fd = os.open(os.path.join(directory, "sync"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:

        def once() -> None:
            os.write(fd, block)
            os.fdatasync(fd)

        block = b"\0" * BLOCK_BYTES
        return Spread.of(_timed(once, seconds))
    finally:
        os.close(fd)


def intake(path: str, seconds: float) -> Iterator[Intake]:
    """Put events into a new queue in *path*, in batches of each size of `BATCHES`.

    Raises:
        ForwarderError: they can't be stored.
    """
    with EventQueue(path, min_free_bytes=0) as queue:
        for batch in BATCHES:
            events = [_event(number) for number in range(batch)]
            began_at = time.perf_counter()
            times = _timed(partial(queue.put_many, events), seconds)
            events_per_s = len(times) * batch / (time.perf_counter() - began_at)
            yield Intake(batch, events_per_s, Spread.of(times))


def delivery(scratch: Scratch) -> Delivery:
    """Let a daemon deliver its own queue to ``forwarder sandbox``, for `DELIVERY_S` at most.

    Raises:
        ForwarderError: it failed.
    """
    with EventQueue(scratch.queue_path, min_free_bytes=0) as queue:
        for first in range(0, DELIVERED_EVENTS, 10_000):
            queue.append([encode(_event(number)) for number in range(first, first + 10_000)])
    place = spool.at(scratch.queue_path)
    place.pause()
    scratch.start("sandbox", ["-m", "forwarder", "sandbox", "--port", "0", "--json"])
    ready = scratch.until(lambda: scratch.read("sandbox.out").partition("\n")[0], "the sandbox is ready")
    sandbox = json.loads(ready)
    scratch.environment |= {"FORWARDER_MIXPANEL_URL": sandbox["url"]}
    scratch.environment |= {"FORWARDER_MIXPANEL_TOKEN": sandbox["token"]}
    daemon = scratch.start("daemon", ["-m", "forwarder", "run"])
    scratch.until(lambda: daemon_state.read(place), "the daemon is ready")
    with place.view() as view:
        cpu_before, began_at = _cpu_s(daemon.pid), time.perf_counter()
        place.resume()
        ends_at = began_at + DELIVERY_S
        scratch.until(lambda: not view.figures().waiting or time.perf_counter() > ends_at, "all is delivered")
        took_s, cpu_s = time.perf_counter() - began_at, _cpu_s(daemon.pid) - cpu_before
        delivered = view.figures().delivered
    return Delivery(delivered / took_s, cpu_s / max(delivered, 1) * 1e6, cpu_s / took_s)


def _timed(step: Callable[[], object], seconds: float) -> list[float]:
    """The duration of each step that began within *seconds*."""
    times = []
    ends_at = time.perf_counter() + seconds
    while (now := time.perf_counter()) < ends_at:
        step()
        times.append(time.perf_counter() - now)
    return times


def _cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _event(number: int) -> dict[str, object]:
    """An event of about 420 bytes."""
    return {
        "event": "Order Completed",
        "properties": {
            "time": 1_700_000_000_000 + number,
            "distinct_id": f"user-{number % 9973:06d}",
            "$insert_id": f"5d1c7a52-0000-4000-8000-{number:012d}",
            "$browser": "Firefox",
            "$os": "Linux",
            "$current_url": "https://shop.example.com/checkout/done?step=4&from=cart",
            "plan": "premium",
            "amount": 129.95,
            "currency": "EUR",
            "items": 3,
            "coupon": None,
            "returning": True,
            "campaign": "spring-newsletter-2026",
            "country": "DE",
            "city": "Heidelberg",
        },
    }
