"""The three kinds of producers, against a running daemon: the command, `EventQueue`, plain persist-queue."""

import json
import pickle
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import persistqueue.serializers.json
import persistqueue.serializers.pickle
import pytest

from forwarder import EventQueue
from forwarder.sandbox import Fault


def event(number, **properties):
    """An event as a producer has it: without time and $insert_id, unless given."""
    return {"event": "signup", "properties": {"distinct_id": f"user-{number}", "n": number, **properties}}


def stranger_puts(path, *items, serializer=persistqueue.serializers.json):
    """Put items with plain persist-queue, as any script can."""
    queue = persistqueue.SQLiteAckQueue(path, auto_commit=True, serializer=serializer)
    for item in items:
        queue.put(item)
    queue.close()


@pytest.fixture
def emptied(queue_path, rows, until):
    """Wait until nothing waits."""
    return lambda timeout_s=20: until(lambda: not rows(queue_path), "the queue is empty", timeout_s)


def delivered(server):
    """The numbers of the events that the server has, sorted."""
    return sorted(json.loads(entry.data)["properties"]["n"] for entry in server.ledger.events.values())


def test_all_kinds_at_once(forwarder, server, queue_path, emptied):
    """Command, `EventQueue` and plain persist-queue feed one queue side by side; each event arrives once."""
    daemon = forwarder.daemon()
    script = (
        "import sys; from forwarder import EventQueue\n"
        "with EventQueue(sys.argv[1], min_free_bytes=0) as queue:\n"
        "    for n in range(int(sys.argv[2]), int(sys.argv[3])):\n"
        "        queue.put({'event': 'signup', 'properties': {'distinct_id': 'd', 'n': n}})\n"
    )
    plain = (
        "import sys, persistqueue.serializers.json\n"
        "queue = persistqueue.SQLiteAckQueue(\n"
        "    sys.argv[1], auto_commit=True, serializer=persistqueue.serializers.json)\n"
        "for n in range(int(sys.argv[2]), int(sys.argv[3])):\n"
        "    queue.put({'event': 'signup', 'properties': {'distinct_id': 'd', 'n': n}})\n"
    )
    producers = [
        subprocess.Popen([sys.executable, "-c", code, queue_path, str(first), str(first + 100)])
        for code, first in ((script, 0), (script, 100), (plain, 200), (plain, 300))
    ]
    lines = "".join(json.dumps(event(n)) + "\n" for n in range(400, 1400))
    assert forwarder("enqueue", stdin=lines).stdout == "accepted 1,000 events\n"
    assert [producer.wait(60) for producer in producers] == [0] * 4
    emptied()
    assert delivered(server) == list(range(1400))
    assert (server.ledger.repeats, server.ledger.reused) == (0, 0)
    found = forwarder.json("status")
    assert (found["accepted"], found["delivered"], found["waiting"]) == (1400, 1400, 0)
    assert daemon.logged("queue.failed") == []


@pytest.mark.parametrize(
    "fault", [Fault.unauthorized(), Fault.server_error(), None], ids=["401", "503", "paused"]
)
def test_intake_goes_on_when_delivery_does_not(forwarder, server, queue_path, emptied, fault):
    """Blocked, backing off or paused: every kind of producer is served, without waiting for the network."""
    daemon = forwarder.daemon()
    if fault:
        server.inject(fault)
    else:
        forwarder("pause")
        daemon.wait_for("delivery.paused")
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put(event(0))
        if fault:
            daemon.wait_for("delivery.blocked" if fault.name == "unauthorized" else "delivery.backing_off")
        began_at = time.monotonic()
        assert queue.put_many(event(n) for n in range(1, 4)) == 3
    stranger_puts(queue_path, event(4))
    assert time.monotonic() - began_at < 5
    assert forwarder("enqueue", stdin=json.dumps(event(5))).returncode == 0
    assert forwarder.json("status")["waiting"] == 6
    server.clear()
    forwarder("resume")
    emptied()
    assert delivered(server) == list(range(6))


def test_an_external_producers_event_is_completed_the_same_each_time(forwarder, server, queue_path, emptied):
    """What plain persist-queue put gets `time` from its row and an `$insert_id` that no retry changes."""
    server.inject(Fault.reset_after(), times=2)
    before = time.time()
    stranger_puts(queue_path, event(1), event(2, time=1_700_000_000, **{"$insert_id": "mine"}))
    forwarder.daemon()
    emptied()
    assert server.ledger.repeats >= 2
    entries = {json.loads(entry.data)["properties"]["n"]: entry for entry in server.ledger.events.values()}
    assert [entry.changed for entry in entries.values()] == [False, False]
    completed = json.loads(entries[1].data)["properties"]
    assert before - 1 <= completed["time"] / 1000 <= time.time() + 1
    assert completed["$insert_id"]
    assert json.loads(entries[2].data) == event(2, time=1_700_000_000, **{"$insert_id": "mine"})


def test_completing_an_external_producers_event_survives_a_kill(forwarder, server, queue_path, emptied):
    """A daemon killed after sending an external producer's event, and the next one, send the same bytes."""
    stranger_puts(queue_path, *map(event, range(20)))
    server.inject(Fault.hang(taken=True))
    daemon = forwarder.daemon()
    server.wait_for(lambda ledger: ledger.accepted == 20)
    daemon.kill()
    server.clear()
    forwarder.daemon()
    emptied()
    assert delivered(server) == list(range(20))
    assert (server.ledger.repeats, server.ledger.altered, server.ledger.reused) == (20, 0, 0)


def test_queue_that_an_external_producer_made_is_adopted(forwarder, server, queue_path, emptied):
    """A queue that plain persist-queue created, with events in it, is delivered and goes on being a queue."""
    stranger_puts(queue_path, *map(event, range(3)))
    forwarder.daemon()
    emptied()
    stranger_puts(queue_path, event(3))
    assert forwarder("enqueue", stdin=json.dumps(event(4))).returncode == 0
    emptied()
    assert delivered(server) == list(range(5))
    assert forwarder.json("status")["accepted"] == 5


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_what_is_no_event_goes_to_the_dead_letters(forwarder, server, queue_path, emptied, tmp_path):
    """An external producer's pickles and other JSON become dead letters, unopened; the rest is delivered."""
    trap = tmp_path / "sprung"
    daemon = forwarder.daemon()
    stranger_puts(queue_path, event(1), "just text", ["a", "list"], {"event": "no properties"}, event(2))
    stranger_puts(queue_path, Trap(str(trap)), event(7), serializer=persistqueue.serializers.pickle)
    stranger_puts(queue_path, event(3))
    emptied()
    assert delivered(server) == [1, 2, 3]
    with closing(sqlite3.connect(f"file:{queue_path}/data.db?mode=ro", uri=True)) as connection:
        dead = connection.execute("SELECT data, reason FROM dead_letters ORDER BY event_id").fetchall()
    assert len(dead) == 5
    assert all(reason for _, reason in dead)
    assert pickle.loads(dead[-1][0]) == event(7), "kept as it was"
    assert not trap.exists()
    found = forwarder.json("status")
    assert (found["accepted"], found["delivered"], found["dead_lettered"], found["waiting"]) == (8, 3, 5, 0)
    assert daemon.process.poll() is None
