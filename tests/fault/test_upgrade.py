"""P1, P2 and P8: a queue of any version that there ever was is gone on with, whole, never half changed."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from forwarder.errors import ConfigError
from forwarder.spool import Consumer, EventQueue, Settlement, View, schema, set_aside
from forwarder.spool.upgrade import STEPS

DATA = Path(__file__).parents[1] / "data"
LAUNCHER = Path(__file__).with_name("crash_points.py")
VERSIONS = range(1, schema.VERSION + 1)
OLDER = VERSIONS[:-1]
WAITING, DEAD = 12, 2
NEW = ("enqueue", "-e", "New", "-d", "")
COMMANDS = [
    *("enqueue -e E -d d", "run", "drain", "status", "status --json", "peek", "pause", "resume"),
    *("check", "dead-letters list", "dead-letters summary", "dead-letters retry --all --no-check --yes"),
    *("dead-letters delete --all --yes", "dead-letters export --all"),
]


@pytest.fixture
def old(queue_path):
    """Puts the database of a version where the queue is; returns what waits in it, and what is dead."""

    def put(version):
        os.mkdir(queue_path)
        shutil.copy(DATA / f"queue-v{version}.db", f"{queue_path}/data.db")
        with closing(sqlite3.connect(f"file:{queue_path}/data.db?immutable=1", uri=True)) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (version,)
            return [
                [bytes(data) for (data,) in connection.execute(f"SELECT data FROM {table}")]
                for table in ("ack_queue_default", "dead_letters")
            ]

    return put


def content(path):
    """Everything in the database, its version too."""
    with closing(sqlite3.connect(f"file:{path}/data.db?mode=ro", uri=True)) as connection:
        return [connection.execute("PRAGMA user_version").fetchone(), *connection.iterdump()]


def layout(path):
    """The columns of each table, and what else there is in the database."""
    with closing(sqlite3.connect(f"file:{path}/data.db?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT type, name, tbl_name FROM sqlite_master").fetchall()
        tables = [name for kind, name, _ in rows if kind == "table"]
        # Where in its table one stands is a matter of when that was made.
        columns = {
            name: sorted(row[1:] for row in connection.execute(f"PRAGMA table_xinfo({name})"))
            for name in tables
        }
        return sorted(rows), columns


def test_a_database_of_each_version_is_kept():
    """There is one for every version, and a step from each to the next; for a new one, see make_queue.py."""
    assert sorted(STEPS) == list(OLDER)
    assert sorted(path.name for path in DATA.glob("*.db")) == [f"queue-v{version}.db" for version in VERSIONS]


# Gone on with


@pytest.mark.parametrize("version", VERSIONS)
def test_what_waits_in_it_is_delivered(version, old, forwarder, far_end, figures, rows, queue_path):
    """Each event that waits in the queue of an earlier version is delivered as it was put, dead letters stay
    as they are, and the totals go on from where they were."""
    waiting, dead = old(version)
    assert (len(waiting), len(dead)) == (WAITING, DEAD)
    done = forwarder("drain", "--timeout", "30")
    assert done.returncode == 0, done.stderr
    taken = [entry.data for entry in far_end.ledger.events.values()]
    ours = [data for data in waiting if b"$insert_id" in data]
    assert len(ours) == WAITING - 1, "the last one is a stranger's, and gets what it lacks"
    assert Counter(taken) & Counter(ours) == Counter(ours)
    assert len(taken) == WAITING
    assert rows(queue_path, "dead_letters") == dead
    found = figures(queue_path)
    assert (found.accepted, found.delivered, found.waiting) == (22, 6 + WAITING, 0)
    assert (found.dead_lettered, found.retried, found.discarded, found.short) == (4, 1, 1, 1)


@pytest.mark.parametrize("version", OLDER)
def test_it_becomes_what_a_new_one_is(version, old, queue_path, tmp_path):
    """Afterwards each table has the columns of one that was made by this version, and nothing is missing."""
    old(version)
    for path in (queue_path, str(tmp_path / "new")):
        EventQueue(path, min_free_bytes=0).close()
    assert layout(queue_path) == layout(str(tmp_path / "new"))


@pytest.mark.parametrize("version", OLDER)
def test_looking_does_not_bring_it_up_to_date(version, old, forwarder, queue_path):
    """A command that only looks says that the queue is of an older version and what changes that, and leaves
    it alone."""
    old(version)
    before = content(queue_path)
    found = forwarder.json("status")
    assert "is of an older version of the forwarder" in found["state_reason"]
    assert "brings it up to date" in found["state_reason"]
    asked = forwarder("status", "--fail-if", "waiting>1000000")
    assert asked.returncode == 1, "a monitor is not to take what nobody knows for good"
    assert "--fail-if can't be told: the queue" in asked.stderr
    assert forwarder("check").returncode == 0
    assert "is of an older version of the forwarder" in forwarder("peek").stderr
    assert content(queue_path) == before


# Refused


@pytest.mark.parametrize("command", COMMANDS)
def test_a_newer_one_is_refused_by_every_command(command, old, forwarder, queue_path, sql):
    """Every command says of a newer version's queue which it is, ends with 78, and changes nothing."""
    old(schema.VERSION)
    sql(queue_path, f"PRAGMA user_version = {schema.VERSION + 1}")
    before = content(queue_path)
    done = forwarder(*command.split())
    assert done.returncode == 78, done.stdout + done.stderr
    told = done.stdout if command == "check" else done.stderr
    sentence = f"has version {schema.VERSION + 1}, this forwarder knows {schema.VERSION}. Nothing was changed"
    assert sentence in told
    assert content(queue_path) == before
    assert set_aside.damaged(queue_path) == []


# Never half


@pytest.fixture
def kill(forwarder, tmp_path):
    """Run a command and kill it before its nth statement; False: it has come to its end before."""
    mark = tmp_path / "mark"
    order = {"environ": {**forwarder.environ, "CRASH_MARK": str(mark)}, "point": "statement", "umask": 0o022}
    order |= {"stdout": str(tmp_path / "stdout"), "stderr": str(tmp_path / "stderr")}
    launch = [sys.executable, str(LAUNCHER), "--serve"]
    with subprocess.Popen(launch, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:

        def run(nth, *command):
            mark.unlink(missing_ok=True)
            server.stdin.write(json.dumps({**order, "nth": nth, "arguments": command}) + "\n")
            server.stdin.flush()
            code = json.loads(server.stdout.readline())["code"]
            assert code == (-signal.SIGKILL if mark.exists() else 0), (tmp_path / "stderr").read_text()
            return mark.exists()

        yield run


@pytest.mark.parametrize("version", OLDER)
def test_killed_before_each_statement_it_is_old_or_new(version, old, kill, queue_path, tmp_path, figures):
    """A producer killed before each statement in turn, on a fresh copy each time, leaves the database as it
    was or wholly brought up to date; and the next one goes on."""
    waiting, dead = old(version)
    before, kept = content(queue_path), tmp_path / "kept"
    shutil.copytree(queue_path, kept)
    is_new = []
    while kill(len(is_new) + 1, *NEW):
        found = content(queue_path)
        is_new.append(found[0] != (version,))
        assert found == before or found[0] == (schema.VERSION,)
        with EventQueue(queue_path, min_free_bytes=0) as queue:
            queue.put({"event": "Next", "properties": {"distinct_id": ""}})
        after = figures(queue_path)
        assert (after.waiting, after.dead_letters) == (len(waiting) + 1, len(dead))
        assert set_aside.damaged(queue_path) == []
        shutil.rmtree(queue_path)
        shutil.copytree(kept, queue_path)
    # Each of the steps' statements, those around them, and the commit were died at.
    assert is_new.count(False) > sum(len(STEPS[step]) for step in range(version, schema.VERSION)) + 4
    assert is_new == sorted(is_new)
    assert is_new.count(True) > 2, "it went on behind the commit"


@pytest.fixture
def lock(old, queue_path):
    """Holds the writer lock, through which whoever brings a queue up to date has to pass; returns its file."""
    import fcntl

    old(1)
    file = f"{queue_path}/writer.lock"
    with open(file, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield held


def test_several_at_once_bring_it_up_to_date_once(lock, forwarder, queue_path, until, figures):
    """Four producers that meet a queue of an older version at the same moment all get their event in."""
    producers = [
        subprocess.Popen([sys.executable, "-m", "forwarder", *NEW], env=forwarder.environ) for _ in range(4)
    ]
    inode = f":{os.fstat(lock.fileno()).st_ino} "
    locks = Path("/proc/locks")
    until(
        lambda: sum("->" in line and inode in line for line in locks.read_text().splitlines()) == 4,
        "they wait",
    )
    assert content(queue_path)[0] == (1,)
    lock.close()
    assert [producer.wait(30) for producer in producers] == [0] * 4
    assert figures(queue_path).waiting == WAITING + 4


# Damaged


def _tear(path, table):
    """Overwrite the root page of a table."""
    with closing(sqlite3.connect(f"{path}/data.db")) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with open(f"{path}/data.db", "r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * 64)


def _run_sql(path, statement):
    with closing(sqlite3.connect(f"{path}/data.db")) as connection:
        connection.execute(statement)
        connection.commit()


def _blank_total(path):
    """Leave no value where the table allows none, as a hit in the row would."""
    rule = "'delivered INTEGER NOT NULL', 'delivered INTEGER         '"
    for swapped in (rule, ", ".join(reversed(rule.split(", ")))):
        with closing(sqlite3.connect(f"{path}/data.db")) as connection:
            connection.execute("PRAGMA writable_schema = 1")
            connection.execute(f"UPDATE sqlite_master SET sql = replace(sql, {swapped})")
            connection.commit()
        if swapped == rule:
            _run_sql(path, "UPDATE ledger SET delivered = NULL")


DAMAGE = {
    "blank total": _blank_total,
    "no books": lambda path: _run_sql(path, "DELETE FROM ledger"),
    "no control": lambda path: _run_sql(path, "DELETE FROM control"),
    "table gone": lambda path: _run_sql(path, "DROP TABLE deliveries"),
    "steps taken": lambda path: _run_sql(path, "CREATE TABLE salvages (source TEXT)"),
    "torn books": lambda path: _tear(path, "ledger"),
    "torn control": lambda path: _tear(path, "control"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_one_is_set_aside_as_it_is(damage, old, forwarder, queue_path, figures, rows):
    """What an older version has not made like that is not built on: it is set aside unchanged, intake goes on
    with a fresh one, and salvage brings back what waits in it and what is dead."""
    waiting, dead = old(1)
    DAMAGE[damage](queue_path)
    assert forwarder(*NEW).returncode == 0
    (aside,) = set_aside.damaged(queue_path)
    with closing(sqlite3.connect(f"file:{aside}?immutable=1", uri=True)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert figures(queue_path).waiting == 1
    done = forwarder("salvage", aside, "--apply")
    assert done.returncode == 0, done.stdout + done.stderr
    assert Counter(rows(queue_path)) & Counter(waiting[:-1]) == Counter(waiting[:-1])
    assert sorted(rows(queue_path, "dead_letters")) == sorted(dead)
    assert figures(queue_path).waiting == 1 + len(waiting)


# Side by side

# As programs of version 1 have them.
PUT = "INSERT INTO ack_queue_default (data, timestamp, status) VALUES (?, ?, ?)"
SETTLE = (
    "DELETE FROM ack_queue_default WHERE _id = 11",
    "UPDATE ledger SET delivered = delivered + 1, dead_lettered = dead_lettered + 0, short = short + 0,"
    " last_delivery_at = 1.0",
    "INSERT INTO deliveries (first_id, last_id, delivered, dead, short, size_bytes, http_status, tries,"
    " settled_at) VALUES (11, 11, 1, 0, 0, 10, 200, 1, 1.0)",
)


def test_programs_of_the_old_version_that_have_it_open_go_on(
    old, forwarder, queue_path, figures, far_end, until
):
    """What an older version has open goes on putting and settling beside a new daemon, and it all counts."""
    waiting, _ = old(1)
    event = b'{"event":"E","properties":{"time":1700000000,"$insert_id":"old","distinct_id":""}}'
    with closing(sqlite3.connect(f"{queue_path}/data.db", isolation_level=None, timeout=10)) as producer:
        producer.execute("SELECT count(*) FROM ack_queue_default").fetchone()
        assert forwarder("pause").returncode == 0
        forwarder.daemon()
        assert content(queue_path)[0] == (schema.VERSION,)
        producer.execute("BEGIN IMMEDIATE")
        for statement in SETTLE:
            producer.execute(statement)
        producer.execute(PUT, (event, 1_700_000_000.0, 1))
        producer.execute("COMMIT")
    assert figures(queue_path).waiting == len(waiting)
    assert forwarder("resume").returncode == 0
    until(lambda: figures(queue_path).waiting == 0)
    assert event in {entry.data for entry in far_end.ledger.events.values()}
    assert figures(queue_path).delivered == 6 + len(waiting) + 1


def test_a_daemon_goes_on_while_a_newer_producer_changes_the_version(queue_path, sql):
    """A consumer that has the queue open settles what it has claimed; only who opens it anew is refused."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put_many({"event": "E", "properties": {"n": n}} for n in range(3))
        consumer = Consumer(queue_path)
        claim = consumer.claim(0, 3, 10**6)
        sql(queue_path, "ALTER TABLE control ADD COLUMN later TEXT")
        sql(queue_path, f"PRAGMA user_version = {schema.VERSION + 1}")
        consumer.settle(Settlement(claim.ids))
        assert queue.put({"event": "E", "properties": {}}) == 4
        assert consumer.claim(claim.last_id, 3, 10**6).ids == range(4, 5)
        consumer.close()
    with pytest.raises(ConfigError):
        View(queue_path)


# Backup


def test_a_restored_backup_sends_what_was_delivered_since_again_unchanged(
    forwarder, far_end, queue_path, tmp_path, until, figures
):
    """A copy that SQLite took of a running queue, put back in its place, is sound: what it holds is
    delivered, also if it had been since, with the same bytes; what came in later is not in it."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put_many({"event": "Before", "properties": {"distinct_id": ""}} for _ in range(50))
    daemon = forwarder.daemon(FORWARDER_DELIVERY_LINGER_S="3600", FORWARDER_DELIVERY_BATCH_EVENTS="60")
    copy = tmp_path / "copy.db"
    with (
        closing(sqlite3.connect(f"{queue_path}/data.db")) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
    assert forwarder("flush").returncode == 0
    until(lambda: figures(queue_path).delivered == 50)
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put({"event": "After", "properties": {"distinct_id": ""}})
    assert daemon.stop() == 0
    requests = far_end.ledger.requests
    shutil.copy(copy, f"{queue_path}/data.db")
    for name in ("data.db-wal", "data.db-shm"):
        Path(queue_path, name).unlink(missing_ok=True)
    assert figures(queue_path).waiting == 50
    assert forwarder("drain", "--timeout", "30").returncode == 0
    assert figures(queue_path).delivered == 50
    assert far_end.ledger.requests != requests
    entries = far_end.ledger.events.values()
    assert len(entries) == 50
    assert not any(entry.changed for entry in entries), "a repeat differed"
