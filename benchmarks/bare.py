"""The bare loop: the same rows, SQL and bytes in the fewest lines that could do it. No checks, no records.

``python -m benchmarks.bare deliver QUEUE HOST:PORT`` drains a queue into a sink,
``deliver_rows URL HOST:PORT`` the one of schema ``bench`` on a server, ``enqueue FILE DATABASE``
inserts a file's lines, ``shower HOST:PORT COUNT`` sends the same batch again and again. Each prints the
CPU seconds it took.
"""

from __future__ import annotations

import http.client
import sqlite3
import sys
import time

HEADERS = {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}
CREATE = (
    "CREATE TABLE ack_queue_default"
    " (_id INTEGER PRIMARY KEY AUTOINCREMENT, data BLOB, timestamp FLOAT, status INTEGER)"
)
INSERT = "INSERT INTO ack_queue_default (data, timestamp, status) VALUES (?, ?, 1)"


def connect(path: str, timeout_s: float = 60.0) -> sqlite3.Connection:
    """A database as the forwarder has it: WAL, synced at each commit."""
    connection = sqlite3.connect(path, timeout=timeout_s, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def deliver(path: str, address: str) -> None:
    """Drain a queue into a sink."""
    from isal import igzip

    rows = connect(f"{path}/data.db")
    sink = http.client.HTTPConnection(address)
    while batch := rows.execute("SELECT _id, data FROM ack_queue_default ORDER BY _id LIMIT 2000").fetchall():
        body = igzip.compress(b"\n".join([data for _, data in batch]) + b"\n", 1)
        sink.request("POST", "/import?strict=1", body, HEADERS)
        sink.getresponse().read()
        rows.execute("BEGIN IMMEDIATE")
        rows.execute("DELETE FROM ack_queue_default WHERE _id BETWEEN ? AND ?", (batch[0][0], batch[-1][0]))
        rows.execute("COMMIT")


def deliver_rows(url: str, address: str) -> None:
    """Drain a queue on a server into a sink."""
    import psycopg
    from isal import igzip

    rows = psycopg.connect(url, autocommit=True)
    sink = http.client.HTTPConnection(address)
    select = "SELECT id, data FROM bench.queue ORDER BY id LIMIT 2000"
    while batch := rows.execute(select, binary=True).fetchall():
        body = igzip.compress(b"\n".join([data for _, data in batch]) + b"\n", 1)
        sink.request("POST", "/import?strict=1", body, HEADERS)
        sink.getresponse().read()
        rows.execute("DELETE FROM bench.queue WHERE id BETWEEN %s AND %s", (batch[0][0], batch[-1][0]))


def enqueue(file: str, path: str) -> None:
    """Insert each line of a file, 10 000 a commit."""
    rows = connect(path)
    rows.execute(CREATE)
    with open(file, "rb") as lines:
        while chunk := lines.readlines(4 << 20):
            now = time.time()
            rows.execute("BEGIN IMMEDIATE")
            rows.executemany(INSERT, [(line, now) for line in chunk])
            rows.execute("COMMIT")


def shower(address: str, count: str) -> None:
    """Send *count* events from memory."""
    from isal import igzip

    from benchmarks.events import lines

    body = igzip.compress(b"\n".join(lines(2000)) + b"\n", 1)
    sink = http.client.HTTPConnection(address)
    for _ in range(int(count) // 2000):
        sink.request("POST", "/import?strict=1", body, HEADERS)
        sink.getresponse().read()


if __name__ == "__main__":
    {"deliver": deliver, "deliver_rows": deliver_rows, "enqueue": enqueue, "shower": shower}[sys.argv[1]](
        *sys.argv[2:]
    )
    print(time.process_time())
