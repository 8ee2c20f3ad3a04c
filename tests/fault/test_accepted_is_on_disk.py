"""P1: what a producer was told is accepted is on disk, whatever becomes of the producer; what it was not
told of is there whole or not at all."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest

from forwarder.spool import EventQueue
from forwarder.spool.sqlite.consumer import Consumer
from forwarder.spool.sqlite.view import View


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def numbers(data):
    return [json.loads(one)["properties"]["number"] for one in data]


@pytest.mark.parametrize("after", [1, 7, 40])
def test_killed_between_and_during_puts(queue_path, rows, after, figures):
    """Each put that has returned before its process was killed is there, and at most one more."""
    code = """
        import itertools, sys
        from forwarder import EventQueue
        queue = EventQueue(sys.argv[1], min_free_bytes=0)
        for number in itertools.count():
            queue.put({"event": "A", "properties": {"number": number}})
            print(number, flush=True)
    """
    producer = start(code, queue_path)
    told = [int(producer.stdout.readline()) for _ in range(after)]
    producer.kill()
    told += map(int, producer.communicate()[0].split())
    assert producer.returncode == -signal.SIGKILL
    stored = numbers(rows(queue_path))
    assert stored in (told, [*told, len(told)])
    assert figures(queue_path).accepted == len(stored)


@pytest.mark.parametrize("after", [1, 4])
def test_killed_during_put_many(queue_path, rows, after, figures):
    """Of events that are put together, a killed process leaves all or none."""
    code = """
        import itertools, sys
        from forwarder import EventQueue
        queue = EventQueue(sys.argv[1], min_free_bytes=0)
        for first in itertools.count(0, 500):
            queue.put_many({"event": "A", "properties": {"number": n}} for n in range(first, first + 500))
            print(first, flush=True)
    """
    producer = start(code, queue_path)
    told = [producer.stdout.readline() for _ in range(after)]
    producer.kill()
    told += producer.communicate()[0].split()
    assert producer.returncode == -signal.SIGKILL
    stored = numbers(rows(queue_path))
    assert len(stored) in (500 * len(told), 500 * (len(told) + 1))
    assert stored == list(range(len(stored)))
    assert figures(queue_path).waiting == len(stored)


def test_killed_during_its_transaction(queue_path, rows, figures):
    """A process that is killed inside its transaction leaves nothing, and holds nothing back."""
    code = """
        import sys
        from forwarder.spool import AckQueue
        from forwarder.spool.sqlite.tables import OF_EVENTS
        queue = AckQueue(sys.argv[1])
        with queue.transaction() as connection:
            connection.executemany(OF_EVENTS.insert, [(b"x" * 1000, 1.0, 1)] * 10_000)
            print("inside", flush=True)
            sys.stdin.read()
    """
    producer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), queue_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert producer.stdout.readline() == "inside\n"
    producer.kill()
    producer.communicate()
    assert rows(queue_path) == []
    with EventQueue(queue_path, min_free_bytes=0, lock_timeout_s=5) as queue:
        assert queue.put({"event": "A", "properties": {"number": 1}}) == 1
    assert figures(queue_path).accepted == 1


def test_what_is_in_the_files_is_enough(queue_path, rows, tmp_path, figures):
    """The files as they stand after a put, without anything its process still holds, have the event."""
    copy = tmp_path / "copy"
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        for number in range(5):
            queue.put({"event": "A", "properties": {"number": number}})
            # Not the -shm file: after a power cut it is made again.
            shutil.copytree(queue_path, copy, ignore=shutil.ignore_patterns("*-shm"))
            assert numbers(rows(str(copy))) == list(range(number + 1))
            assert figures(str(copy)).accepted == number + 1
            shutil.rmtree(copy)


def test_consumer_killed_at_each_step_of_settling(queue_path, figures, sql):
    """Settling that is cut short at any of its statements has happened wholly or not at all: rows, dead
    letters, totals and delivery log agree, and what is not settled is claimed again."""
    code = """
        import os, signal, sys
        from forwarder.spool import Dead, EventQueue, Settlement
        from forwarder.spool.sqlite.consumer import Consumer
        path, step = sys.argv[1], int(sys.argv[2])
        consumer = Consumer(path)
        claim = consumer.claim_behind(0, 4, 10**6)
        def trace(statement):
            global step
            step -= 1
            if not step:
                os.kill(os.getpid(), signal.SIGKILL)
        consumer._database.connect().set_trace_callback(trace)
        consumer.settle(Settlement(claim.ids, [Dead(claim.ids[1], claim.events[1], "bad")]))
    """
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put_many({"event": "A", "properties": {"number": number}} for number in range(40))
    step = killed = 0
    while True:
        step += 1
        before = figures(queue_path)
        consumer = start(code, queue_path, step)
        consumer.communicate()
        after = figures(queue_path)
        settled = (after.delivered - before.delivered, after.dead_lettered - before.dead_lettered)
        with View(queue_path) as view:
            ids = [row.id for row in view.peek(100)]
        assert ids == list(range(41 - after.waiting, 41))
        assert sql(queue_path, "SELECT count(*) FROM deliveries") == [(after.dead_lettered,)]
        assert settled in ((0, 0), (3, 1))
        if consumer.returncode == 0:
            break
        assert consumer.returncode == -signal.SIGKILL
        killed += 1
    assert killed >= 6
    assert settled == (3, 1)
    last = Consumer(queue_path)
    assert len(last.claim_behind(0, 100, 10**6).ids) == after.waiting
    last.close()


def test_accepted_outlives_its_queue_object(queue_path, rows, figures):
    """An event is there when the process ends at once after put, without closing or flushing anything."""
    code = """
        import os, sys
        from forwarder import EventQueue
        EventQueue(sys.argv[1], min_free_bytes=0).put({"event": "A", "properties": {"number": 1}})
        os._exit(0)
    """
    producer = start(code, queue_path)
    producer.communicate()
    assert producer.returncode == os.EX_OK
    assert numbers(rows(queue_path)) == [1]
    assert figures(queue_path).waiting == 1
