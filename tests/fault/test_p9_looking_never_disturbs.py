"""P9: no inspecting command takes a write lock, holds a long read transaction or changes a row."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import psycopg
import pytest

from forwarder import spool
from forwarder.errors import TryAgainError
from forwarder.spool import Dead, EventQueue, Settlement
from tests.conftest import each_engine, place_of, until

LOOKING = [
    "status",
    "status --json --fail-if waiting>1000",
    "status --history",
    "peek -n 500",
    "peek --json",
    "where 1-400",
    "where --json 30-50 200",
    "dead-letters list",
    "dead-letters list --json --reason bad --since 1h",
    "dead-letters summary",
    "dead-letters show 1 2",
    "dead-letters export --all",
    "dead-letters export --all --with-reason",
    "dead-letters retry --all --no-check --dry-run --set properties.x=y",
    "check",
]


def fill(queue_path):
    """400 events, of which 60 are delivered and 40 dead."""
    with EventQueue(queue_path, min_free_bytes=0) as opened:
        opened.put_many({"event": "E", "properties": {"n": n}} for n in range(400))
    consumer = spool.at(queue_path).consumer()
    claim = consumer.claim(100, 10**6)
    letters = [Dead(n, data, "bad") for n, data in zip(claim.ids[:40], claim.events[:40], strict=True)]
    consumer.settle(Settlement(claim.ids, letters))
    consumer.close()


@pytest.fixture
def queue(queue_path):
    """A queue in which events of every status wait, and some are dead; its path."""
    fill(queue_path)
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
    environ = {**os.environ, **place_of(path), "FORWARDER_MIXPANEL_TOKEN": "t"}
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


@pytest.mark.parametrize("queue_path", ["server"], indirect=True)
@pytest.mark.parametrize("command", LOOKING)
def test_looking_on_a_server_may_change_nothing_and_waits_for_nobody(command, postgres, queue_path):
    """Every inspecting command works for a viewer, whom the server lets change nothing, while another has
    locked all that is written to."""
    fill(queue_path)
    viewer = f"viewer_{queue_path.partition('?')[0].rpartition('/')[2]}"
    postgres.execute(f"CREATE ROLE {viewer} LOGIN IN ROLE forwarder_viewer")
    try:
        with psycopg.connect(queue_path) as writer:
            tables = "queue", "intake", "ledger", "held", "dead_letters", "deliveries", "control", "daemon"
            named = ", ".join(f"forwarder.{table}" for table in tables)
            writer.execute(f"LOCK TABLE {named} IN EXCLUSIVE MODE")

            done = look(queue_path.replace("postgres@", f"{viewer}@"), command)

            writer.rollback()
    finally:
        postgres.execute(f"DROP ROLE {viewer}")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout


def is_undisturbed(queue_path):
    """Whether nobody's looking keeps the queue's engine from clearing up: from resetting its log, or removing
    rows that have left."""
    if "://" in queue_path:
        with psycopg.connect(queue_path, autocommit=True) as server:
            held = server.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND (backend_xmin IS NOT NULL OR state <> 'idle')"
            )
            return held.fetchone() == (0,)
    with closing(sqlite3.connect(f"{queue_path}/data.db", timeout=10)) as connection:
        return connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)


@each_engine
@pytest.mark.parametrize(
    "command", ["peek --json -n 1000000", "dead-letters list --json", "dead-letters export --all"]
)
def test_a_slow_reader_of_output_holds_up_nobody(command, queue_path):
    """While an inspecting command waits for its output to be read, the engine can clear up."""
    with EventQueue(queue_path, min_free_bytes=0) as opened:
        opened.put_many({"event": "E", "properties": {"n": n, "pad": "x" * 1000}} for n in range(1500))
        consumer = spool.at(queue_path).consumer()
        claim = consumer.claim(750, 10**7)
        letters = [
            Dead(row_id, data, "b" * 1000) for row_id, data in zip(claim.ids, claim.events, strict=True)
        ]
        consumer.settle(Settlement(claim.ids, letters))
        consumer.close()
        with subprocess.Popen(
            [sys.executable, "-m", "forwarder", *command.split()],
            env={**os.environ, **place_of(queue_path)},
            stdout=subprocess.PIPE,
        ) as process:
            first = process.stdout.readline()
            opened.put({"event": "E", "properties": {}})
            until(lambda: is_undisturbed(queue_path))
            unfinished = process.poll() is None
            rest = process.stdout.read()

    assert unfinished
    assert json.loads(first)
    assert len(rest.splitlines()) >= 749
