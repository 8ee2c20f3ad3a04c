"""The daemon's memory and the queue's disk are bounded, whatever waits, however large it is and whoever reads
meanwhile. `test_soak` watches the same while everything else goes on.
"""

import os
import re
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from forwarder.sandbox import Sandbox
from forwarder.spool.sqlite.room import LONG_BYTES, PATIENCE_S, RESERVE_BYTES
from tests.conftest import each_engine

MIB = 1 << 20
CONNECTIONS = 10
# Four times as much as the bound; `make bench` does it with five times as many.
LARGE, LARGE_WAITING = 900_000, 400
LARGE_EVENT = '{"event":"E","properties":{"time":1700000000,"distinct_id":"u","$insert_id":"%d","text":"%s"}}'
EVENT = {"event": "E", "properties": {"distinct_id": "u", "text": "x" * 1000}}


@pytest.fixture
def server():
    """A server that keeps a hash of each event."""
    with Sandbox(token="sandbox-token", keep_data=False) as sandbox:
        yield sandbox


@pytest.fixture
def large_events(queue, queue_path):
    """360 MB of events, put into the queue as an external producer does: by SQL alone."""
    queue.close()
    if "://" in queue_path:
        with psycopg.connect(queue_path) as server:
            server.execute(
                "INSERT INTO forwarder.queue (data) SELECT convert_to(format(%s,"
                " n, repeat(md5(random()::text), %s)), 'UTF8') FROM generate_series(1, %s) AS n",
                (LARGE_EVENT.replace("%d", "%s"), LARGE // 32, LARGE_WAITING),
            )
        yield
        return
    with closing(sqlite3.connect(f"{queue_path}/data.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(
            "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?1)"
            " INSERT INTO ack_queue_default (data, timestamp, status)"
            " SELECT CAST(printf(?2, n, hex(randomblob(?3))) AS BLOB), unixepoch(), 1 FROM number",
            (LARGE_WAITING, LARGE_EVENT, LARGE // 2),
        )
        connection.execute("PRAGMA journal_mode = WAL")
    yield
    for name in os.listdir(queue_path):
        os.unlink(f"{queue_path}/{name}")


def most_memory(process):
    """The most that a process has ever had resident, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def size(path):
    """Of a file, or nothing."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


@each_engine
@pytest.mark.usefixtures("large_events")
def test_large_events_take_little_memory(forwarder, server, figures, queue_path, until):
    """400 events of 900 kB each waiting, and all connections busy with them: less than 100 MiB."""
    server.latency_s = 0.4
    forwarder.is_fresh = True
    daemon = forwarder.daemon()
    until(lambda: server.ledger.in_progress == CONNECTIONS, "all are busy", timeout_s=60)
    delivered = server.ledger.accepted
    until(lambda: server.ledger.accepted > delivered + 100, "many more are delivered", timeout_s=60)
    assert most_memory(daemon.process) < 100 * MIB, most_memory(daemon.process) / MIB
    daemon.kill()
    assert figures(queue_path).waiting + figures(queue_path).delivered == LARGE_WAITING


def test_log_is_short_in_a_storm_with_readers(forwarder, queue, queue_path, figures):
    """Events come as fast as they can, and always somebody reads: the log stays short, and no put waits for
    long."""
    forwarder.daemon()
    over = threading.Event()
    readers = [threading.Thread(target=read_again_and_again, args=(queue_path, n, over)) for n in range(3)]
    for reader in readers:
        reader.start()
    longest_log = longest_s = count = 0
    try:
        while count * 1100 < 5 * LONG_BYTES:
            began_at = time.monotonic()
            count += queue.put_many([EVENT] * 200)
            longest_s = max(longest_s, time.monotonic() - began_at)
            longest_log = max(longest_log, size(f"{queue_path}/data.db-wal"))
        assert all(reader.is_alive() for reader in readers)
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert LONG_BYTES < longest_log < 3 * LONG_BYTES, longest_log / MIB
    assert longest_s < 4 * PATIENCE_S, longest_s
    assert figures(queue_path).accepted == count


def read_again_and_again(queue_path, number, over):
    """Look at the queue for 30 ms, again and again."""
    over.wait(number / 100)
    file = f"file:{queue_path}/data.db?mode=ro"
    with closing(sqlite3.connect(file, uri=True, isolation_level=None, timeout=10)) as reader:
        while not over.is_set():
            reader.execute("BEGIN")
            reader.execute("SELECT delivered FROM ledger").fetchone()
            over.wait(0.03)
            reader.execute("COMMIT")


def test_disk_comes_back_and_nobody_waits_for_it(forwarder, queue, queue_path, figures, until):
    """A backlog is delivered while events go on coming: all but 10 MiB of the disk is free again, and no put
    has waited for that."""
    for _ in range(30):
        queue.put_many([EVENT] * 1000)
    before = size(f"{queue_path}/data.db") + size(f"{queue_path}/data.db-wal")
    assert before > 30 * MIB
    forwarder.daemon()
    longest_s = 0.0

    def put_and_look():
        nonlocal longest_s
        began_at = time.monotonic()
        queue.put(EVENT)
        longest_s = max(longest_s, time.monotonic() - began_at)
        return sum(entry.stat().st_size for entry in os.scandir(queue_path)) < 10 * MIB

    until(put_and_look, "the disk has come back", timeout_s=60)
    assert size(f"{queue_path}/reserve") == RESERVE_BYTES
    # What a put may wait for is the log's way into the database, not the whole of the vacuum.
    assert longest_s < 4 * PATIENCE_S, longest_s
    until(lambda: not figures(queue_path).waiting)
