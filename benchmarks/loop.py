"""How long a put holds an asyncio loop: called in it, and by ``asyncio.to_thread``."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator

from benchmarks.commands import write_lines
from benchmarks.daemon import settings
from benchmarks.table import Number
from forwarder.spool import EventQueue

EVENT = {"event": "Seen", "properties": {"distinct_id": "user-1", "plan": "pro"}}
BULK = 400_000
PAUSE_S = 0.001


def measure(place: str, count: int) -> Iterator[Number]:
    """*count* puts each way, alone and beside a bulk `enqueue`."""
    path = os.path.join(place, "loop")
    file = os.path.join(place, "events.ndjson")
    write_lines(file, BULK)
    with EventQueue(path, min_free_bytes=0) as queue:
        for beside in ("alone", "beside a bulk enqueue"):
            bulk = None
            if beside != "alone":
                command = [sys.executable, "-m", "forwarder", "enqueue", file]
                bulk = subprocess.Popen(command, env=settings(path), stdout=subprocess.DEVNULL)
                time.sleep(1)  # its start
            for way, put in (("in the loop", _directly), ("by to_thread", asyncio.to_thread)):
                held = sorted(asyncio.run(_held_ms(queue, put, count)))
                for name, at in (("p50", count // 2), ("p99", count * 99 // 100), ("worst", -1)):
                    yield Number("N5", f"put {way}, {beside}: the loop is held, ms, {name}", held[at])
            if bulk:
                assert bulk.poll() is None, "the bulk had ended before"
                bulk.kill()
                bulk.wait()
    shutil.rmtree(path)


async def _directly(put: Callable[..., int], event: dict[str, object]) -> int:
    return put(event)


async def _held_ms(queue: EventQueue, put: Callable[..., Awaitable[int]], count: int) -> list[float]:
    """The longest time during each put for which the loop ran nothing else."""
    longest = latest = 0.0

    async def tick() -> None:
        nonlocal latest, longest
        while True:
            now = time.perf_counter()
            longest, latest = max(longest, now - latest), now
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    found = []
    for _ in range(count):
        await asyncio.sleep(PAUSE_S)
        longest, latest = 0.0, time.perf_counter()
        await put(queue.put, EVENT)
        await asyncio.sleep(0)
        found.append(longest * 1e3)
    ticking.cancel()
    return found
