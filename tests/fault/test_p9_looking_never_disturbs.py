"""P9: no inspecting command takes a write lock, holds a long read transaction or changes a row."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from forwarder.errors import TryAgainError
from forwarder.spool import Dead, EventQueue, Settlement
from forwarder.spool.sqlite.consumer import Consumer

LOOKING = [
    "status",
    "status --json --fail-if waiting>1000",
    "peek -n 500",
    "peek --json",
    "dead-letters list",
    "dead-letters list --json --reason bad --since 1h",
    "dead-letters summary",
    "dead-letters show 1 2",
    "dead-letters export --all",
    "dead-letters export --all --with-reason",
    "dead-letters retry --all --no-check --dry-run --set properties.x=y",
    "check",
]


@pytest.fixture
def queue(queue_path):
    """A queue in which events of every status wait, and some are dead; its path."""
    with EventQueue(queue_path, min_free_bytes=0) as opened:
        opened.put_many({"event": "E", "properties": {"n": n}} for n in range(400))
    consumer = Consumer(queue_path)
    claim = consumer.claim_behind(0, 100, 10**6)
    letters = [Dead(n, data, "bad") for n, data in zip(claim.ids[:40], claim.events[:40], strict=True)]
    consumer.settle(Settlement(claim.ids, letters))
    consumer.close()
    with closing(sqlite3.connect(f"{queue_path}/data.db")) as connection:
        for status in (0, 2, 5, 9):
            connection.execute(
                "UPDATE ack_queue_default SET status = ? WHERE _id = ?", (status, 150 + status)
            )
        connection.commit()
    return queue_path


def content(path):
    """Everything in the database."""
    with closing(sqlite3.connect(f"file:{path}/data.db?mode=ro", uri=True)) as connection:
        return list(connection.iterdump())


def look(path, command):
    """Run a command as a process of its own."""
    environ = {**os.environ, "FORWARDER_QUEUE_PATH": path, "FORWARDER_MIXPANEL_TOKEN": "t"}
    environ["FORWARDER_QUEUE_MIN_FREE_BYTES"] = "0"
    return subprocess.run(
        [sys.executable, "-m", "forwarder", *command.split()],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
    )


@pytest.mark.parametrize("command", LOOKING)
def test_looking_needs_no_write_lock_and_changes_nothing(command, queue):
    """Every inspecting command works while a writer is at it, sees what is committed, and changes nothing."""
    before = content(queue)
    with closing(sqlite3.connect(f"{queue}/data.db", isolation_level=None, timeout=0)) as writer:
        (version,) = writer.execute("PRAGMA data_version").fetchone()
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM ack_queue_default")
        writer.execute("UPDATE ledger SET delivered = 0")

        done = look(queue, command)

        # The lock was there all the time: who writes could not have got by.
        with pytest.raises(TryAgainError), EventQueue(queue, min_free_bytes=0, lock_timeout_s=0) as late:
            late.put({"event": "E", "properties": {}})
        writer.execute("ROLLBACK")
        assert writer.execute("PRAGMA data_version").fetchone() == (version,)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout
    assert content(queue) == before


@pytest.mark.parametrize(
    "command", ["peek --json -n 1000000", "dead-letters list --json", "dead-letters export --all"]
)
def test_a_slow_reader_of_output_holds_up_nobody(command, queue_path):
    """While an inspecting command waits for its output to be read, the log can be checkpointed and reset."""
    with EventQueue(queue_path, min_free_bytes=0) as opened:
        opened.put_many({"event": "E", "properties": {"n": n, "pad": "x" * 1000}} for n in range(1500))
        consumer = Consumer(queue_path)
        claim = consumer.claim_behind(0, 750, 10**7)
        letters = [
            Dead(row_id, data, "b" * 1000) for row_id, data in zip(claim.ids, claim.events, strict=True)
        ]
        consumer.settle(Settlement(claim.ids, letters))
        consumer.close()
        with subprocess.Popen(
            [sys.executable, "-m", "forwarder", *command.split()],
            env={**os.environ, "FORWARDER_QUEUE_PATH": queue_path},
            stdout=subprocess.PIPE,
        ) as process:
            first = process.stdout.readline()
            opened.put({"event": "E", "properties": {}})
            with closing(sqlite3.connect(f"{queue_path}/data.db", timeout=10)) as connection:
                busy, in_log, written = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            unfinished = process.poll() is None
            rest = process.stdout.read()

    assert unfinished
    assert (busy, in_log, written) == (0, 0, 0)
    assert json.loads(first)
    assert len(rest.splitlines()) >= 749
