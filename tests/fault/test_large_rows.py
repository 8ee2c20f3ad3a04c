"""P2, P4 and P8: a row that is far larger than any event may be."""

import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from forwarder.spool.sqlite import control
from forwarder.spool.sqlite.consumer import Consumer
from forwarder.spool.sqlite.view import View

KIB, MIB = 1 << 10, 1 << 20
LARGE_BYTES = 150 * MIB
MOST_MEMORY_KIB = 100 * KIB

# The row is put in a process of its own: it must not make this one large, whose memory children begin with.
PUT = """
import sys, persistqueue
from persistqueue.serializers import json
plain = persistqueue.SQLiteAckQueue(sys.argv[1], serializer=json)
plain.put({"event": "A", "properties": {"number": 1, "text": "x" * int(sys.argv[2])}})
plain.close()
"""
# As `forwarder` runs a command, and then how much memory that took.
RUN = """
import atexit, sys
atexit.register(lambda: print(open("/proc/self/status").read(), file=sys.stderr))
from forwarder.cli import main
main()
"""


def event(number):
    return {"event": "A", "properties": {"distinct_id": "x", "number": number}}


@pytest.fixture
def put_large(queue_path):
    """Has plain persist-queue put an event of so many bytes."""

    def put_large(size_bytes=LARGE_BYTES):
        subprocess.run([sys.executable, "-c", PUT, queue_path, str(size_bytes)], check=True, timeout=60)

    return put_large


@pytest.fixture
def commands_memory_kib(forwarder):
    """Run a command; returns its output, and the most memory it has taken."""

    def run(*arguments, **options):
        done = subprocess.run(
            [sys.executable, "-c", RUN, *arguments], env=forwarder.environ, capture_output=True, **options
        )
        return done.stdout, most_memory_kib(done.stderr.decode())

    return run


def most_memory_kib(status):
    return int(re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)[1])


def mark(queue_path, table, row_id):
    """Size and hash of the data of a row, read in pieces."""
    found, size_bytes = hashlib.sha256(), 0
    with (
        closing(sqlite3.connect(f"file:{queue_path}/data.db?mode=ro", uri=True)) as connection,
        closing(connection.blobopen(table, "data", row_id, readonly=True)) as stored,
    ):
        while piece := stored.read(MIB):
            found.update(piece)
            size_bytes += len(piece)
    return size_bytes, found.hexdigest()


def test_a_large_row_goes_to_the_dead_letters(
    forwarder, server, put_large, queue, queue_path, figures, sql, until
):
    """Put under a running daemon, 150 MB arrive unchanged among the dead letters, with their size as the
    reason, and the neighbours are delivered."""
    control.pause(queue_path)
    daemon = forwarder.daemon()
    queue.put(event(0))
    put_large()
    queue.put(event(2))
    before = mark(queue_path, "ack_queue_default", 2)
    assert before[0] > LARGE_BYTES
    assert forwarder("resume").returncode == 0
    until(lambda: forwarder.json("status")["waiting"] == 0, timeout_s=60)
    assert daemon.stop() == 0
    assert mark(queue_path, "dead_letters", 1) == before
    [letter] = forwarder("dead-letters", "list", "--json").stdout.splitlines()
    assert json.loads(letter)["event_id"] == 2
    assert str(before[0]) in json.loads(letter)["reason"]
    delivered = [json.loads(one.data)["properties"]["number"] for one in server.ledger.events.values()]
    assert sorted(delivered) == [0, 2]
    found = figures(queue_path)
    assert (found.accepted, found.delivered, found.dead_lettered, found.waiting) == (3, 2, 1, 0)


LOOKS = ("status", "dead-letters list", "dead-letters list --json", "dead-letters summary")


def test_looking_does_not_load_a_large_row(commands_memory_kib, put_large, queue, queue_path):
    """What inspects a queue with a row of 150 MB, waiting or dead, stays small, and says what there is; what
    deletes it, too."""
    put_large()
    with closing(Consumer(queue_path)) as consumer:
        consumer.claim_behind(0, 10, MIB)
    put_large()
    for command in (*LOOKS, "dead-letters delete 1"):
        output, memory_kib = commands_memory_kib(*command.split(), timeout=60)
        assert output, f"{command} said nothing"
        assert memory_kib < MOST_MEMORY_KIB, command


def test_peek_shows_a_cut_with_the_size(forwarder, put_large, queue):
    """Of a row that is too large for an event its beginning is shown, and how much there is."""
    queue.put(event(0))
    put_large(3 * MIB)
    first, second = map(json.loads, forwarder("peek", "--json").stdout.splitlines())
    assert "size_bytes" not in first
    assert (second["event"], second["size_bytes"] > 3 * MIB) == (None, True)
    assert second["base64"].startswith("eyJldmVudCI6")
    assert "3.0 MiB" in forwarder("peek").stdout


# What SQLite does not know the length of without reading it, and columns that nobody expects to be large.
STRANGE = {
    "text": ("CAST(zeroblob({size}) AS TEXT)", "1.6e9", "0"),
    "text behind a zero": ("char(0) || CAST(zeroblob({size}) AS TEXT)", "1.6e9", "1"),
    "ready": ("zeroblob({size})", "1.6e9", "1"),
    "a large timestamp": ("NULL", "zeroblob({size})", "0"),
    "a large status": ("NULL", "1.6e9", "zeroblob({size})"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_whatever_is_large_in_a_row(queue, queue_path, sql, name, figures):
    """Large text or bytes, in any column, is dead-lettered as it is, delays no neighbour, and can be seen."""
    values = ", ".join(STRANGE[name]).format(size=2 * MIB)
    queue.put(event(0))
    sql(queue_path, f"INSERT INTO ack_queue_default VALUES (NULL, {values})")
    queue.put(event(2))
    [(data,)] = sql(queue_path, "SELECT CAST(data AS BLOB) FROM ack_queue_default WHERE _id = 2")
    with View(queue_path) as view:
        assert [row.id for row in view.peek(10)] == [1, 2, 3]
    with closing(Consumer(queue_path)) as consumer:
        claims, after_id = [], 0
        while (claim := consumer.claim_behind(after_id, 10, 4 * MIB)).last_id > after_id:
            claims += claim.ids
            after_id = claim.last_id
    assert claims == [1, 3]
    assert sql(queue_path, "SELECT CAST(data AS BLOB) FROM dead_letters") == [(data,)]
    assert figures(queue_path).dead_lettered == 1


def test_a_large_row_that_was_acked_is_swept(queue, queue_path, sql, figures):
    """What a plain consumer is done with is no dead letter, however large it is."""
    sql(queue_path, f"INSERT INTO ack_queue_default VALUES (NULL, zeroblob({2 * MIB}), 1.6e9, 5)")
    with closing(Consumer(queue_path)) as consumer:
        assert consumer.claim_behind(0, 10, MIB).dead == 0
    assert (figures(queue_path).deleted, figures(queue_path).dead_lettered) == (1, 0)


def test_a_line_without_end_does_not_fill_the_memory(commands_memory_kib, queue_path, figures):
    """A line of 300 MB on standard input is refused without being held; its neighbours are taken in."""
    line = json.dumps(event(0)).encode()
    giant = b'{"event":"A","properties":{"text":"' + b"x" * MIB
    read, write = os.pipe()
    feeder = os.fork()
    if not feeder:
        os.close(read)
        with open(write, "wb") as pipe:
            pipe.write(line + b"\n" + giant)
            for _ in range(299):
                pipe.write(b"x" * MIB)
            pipe.write(b'"}}\n' + line + b"\n")
            pipe.flush()
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        output, memory_kib = commands_memory_kib("enqueue", stdin=pipe, timeout=60)
    assert os.waitpid(feeder, 0)[1] == 0
    assert memory_kib < MOST_MEMORY_KIB
    assert output
    assert figures(queue_path).accepted == 2
