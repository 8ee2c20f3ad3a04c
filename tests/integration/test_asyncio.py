"""``EventQueue`` under asyncio, by ``asyncio.to_thread`` and an executor, as the producers' page has it."""

import asyncio
import fcntl
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from forwarder.errors import EventError
from forwarder.spool import EventQueue


def event(number):
    return {"event": "E", "properties": {"distinct_id": "d", "number": number}}


def numbers(rows, queue_path):
    return [json.loads(data)["properties"]["number"] for data in rows(queue_path)]


@contextmanager
def held_up(queue):
    """All writers wait, as behind a stopped one."""
    queue.put(event(-1))  # makes the file
    with Path(queue.path, "writer.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_the_loop_goes_on_while_an_event_waits_for_its_turn(queue, queue_path, rows):
    """The await ends with the id once the event is on disk; what is wrong with an event comes from it."""

    async def handle():
        with held_up(queue):
            pending = asyncio.create_task(asyncio.to_thread(queue.put, event(0)))
            assert await asyncio.wait({pending}, timeout=0.05) == (set(), {pending})
        first = await pending
        with pytest.raises(EventError):
            await asyncio.to_thread(queue.put, {"event": ""})
        return first, await asyncio.to_thread(queue.put, event(1))

    assert asyncio.run(handle()) == (2, 3)
    assert numbers(rows, queue_path) == [-1, 0, 1]


def test_a_cancelled_await_does_not_take_the_event_back(queue, queue_path, rows):
    """Its thread goes on: the event is stored, once, also when the loop ends before."""

    async def handle():
        with held_up(queue):
            begun = threading.Event()

            def put():
                begun.set()
                return queue.put(event(0))

            pending = asyncio.create_task(asyncio.to_thread(put))
            assert await asyncio.to_thread(begun.wait, 10)
            pending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pending
            assert numbers(rows, queue_path) == [-1]

    asyncio.run(handle())
    assert numbers(rows, queue_path) == [-1, 0]


def test_one_worker_keeps_the_order_and_what_has_not_begun_can_be_cancelled(queue, queue_path, rows):
    """Events of many tasks are stored in the order of the calls. One that had not begun is not stored."""

    async def handle():
        loop = asyncio.get_running_loop()
        with held_up(queue):
            pending = [loop.run_in_executor(worker, queue.put, event(number)) for number in range(100)]
            assert pending[50].cancel()
            # The loop's own threads, which look up host names, are free.
            assert await asyncio.to_thread(int, "7") == 7
        await asyncio.gather(*pending, return_exceptions=True)

    with ThreadPoolExecutor(1) as worker:
        asyncio.run(handle())
    assert numbers(rows, queue_path) == [-1, *range(50), *range(51, 100)]


def test_a_burst_that_is_gathered_is_all_there(queue_path, rows):
    """More puts at once than there are threads: each is stored once, in any order."""

    async def handle():
        with EventQueue(queue_path, min_free_bytes=0) as queue:
            return await asyncio.gather(
                *(asyncio.to_thread(queue.put, event(number)) for number in range(200))
            )

    assert sorted(asyncio.run(handle())) == list(range(1, 201))
    assert sorted(numbers(rows, queue_path)) == list(range(200))
