"""P2 where the disk does not keep its word: a damaged database is set aside, intake and delivery go on with a
fresh one, and salvage brings back what can be read."""

import json
import os
import random
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from forwarder import spool
from forwarder.records import GROUPS, PROFILES
from forwarder.records.event import accept
from forwarder.sandbox import Fault
from forwarder.spool import EventQueue
from forwarder.spool.sqlite import set_aside
from tests.conftest import TOKEN


@pytest.fixture
def offer(queue_path):
    """Put so many events into the queue; returns their final bytes."""

    def offer(name, count):
        text = json.dumps({"event": name, "properties": {"distinct_id": "d", "pad": "x" * 300}}).encode()
        events = [accept(text, int(time.time() * 1000)) for _ in range(count)]
        with EventQueue(queue_path, min_free_bytes=0) as queue:
            queue.append(events)
        return events

    return offer


@pytest.fixture
def offer_updates(queue_path):
    """Put half so many updates of profiles, and of groups; returns their final bytes."""

    def offer_updates(name, count):
        ids = {PROFILES: {"$distinct_id": "d"}, GROUPS: {"$group_key": "k", "$group_id": "d"}}
        offered = []
        for kind, known in ids.items():
            texts = (
                {"$token": TOKEN, "$time": 1, **known, "$set": {f"{name} {number}": "x" * 300}}
                for number in range(count // 2)
            )
            updates = [kind.accept(json.dumps(text).encode(), 1) for text in texts]
            with closing(
                spool.at(queue_path, kind).producer(max_bytes=1 << 40, min_free_bytes=0, lock_timeout_s=10)
            ) as producer:
                producer.append(updates)
            offered += updates
        return offered

    return offer_updates


def damage(file, at, content):
    with open(file, "r+b") as target:
        target.seek(at)
        target.write(content)


def flip(file, seed, count=40):
    places = random.Random(seed)
    size = os.path.getsize(file)
    for _ in range(count):
        at = places.randrange(size)
        with open(file, "r+b") as target:
            target.seek(at)
            byte = target.read(1)[0]
            target.seek(at)
            target.write(bytes([byte ^ 1 << places.randrange(8)]))


def misspell(file, word, behind=b""):
    with open(file, "r+b") as target:
        content = target.read()
        target.seek(content.index(word, content.index(behind)))
        target.write(word[::-1])


# What each does to the database, and how many of its 600 events must come back at least.
DAMAGES = {
    "header": (lambda file: damage(file, 0, b"\0" * 100), 600),
    "mark": (lambda file: damage(file, 68, b"\0\0\0\0"), 600),
    "first page": (lambda file: damage(file, 0, b"\xff" * 4096), 600),
    "first pages": (lambda file: damage(file, 0, b"\0" * 8 * 4096), 520),
    "middle": (lambda file: damage(file, os.path.getsize(file) // 8192 * 4096, b"\xff" * 8192), 560),
    "truncated": (lambda file: os.truncate(file, os.path.getsize(file) // 2), 80),
    "emptied": (lambda file: os.truncate(file, 0), 0),
    "text": (lambda file: damage(file, 0, b"this is no database\n" * 5000), 100),
}


def salvaged(forwarder, queue_path, until):
    """What was set aside is told of everywhere, and brought back and delivered; the books balance then."""
    files = set_aside.damaged(queue_path)
    assert _status(forwarder)["set_aside"] == len(files)
    if files:
        check = forwarder("check")
        assert check.returncode == 74
        assert all(f"{file} is damaged" in check.stdout for file in files)
        assert forwarder("salvage").stdout.split() == files
    for file in files:
        done = forwarder("salvage", file, "--apply")
        assert done.returncode == 0, done.stderr
    until(lambda: not _status(forwarder)["waiting"], "what was salvaged is delivered")
    check = forwarder("check")
    assert (check.returncode, "FAIL" in check.stdout) == (0, False), check.stdout
    return files


@pytest.mark.parametrize("damaged", DAMAGES)
def test_a_pause_outlives_the_database(forwarder, server, queue_path, offer, until, damaged):
    """Whoever sets a damaged database aside, delivery stays paused until a person resumes it."""
    old = offer("old", 600)
    assert forwarder("pause").returncode == 0
    DAMAGES[damaged][0](f"{queue_path}/data.db")
    new = offer("new", 5)
    until_set_aside(forwarder, queue_path)
    daemon = forwarder.daemon()
    daemon.wait_for("delivery.paused")
    assert _status(forwarder)["state"] == "paused"
    for file in set_aside.damaged(queue_path):
        assert forwarder("salvage", file, "--apply").returncode == 0
    assert taken(server) == set()
    assert "no longer paused" in forwarder("resume").stdout
    until(lambda: set(new) <= taken(server), "it goes on")
    until(lambda: not _status(forwarder)["waiting"], "to the end")
    assert len(set(old) & taken(server)) >= DAMAGES[damaged][1]
    assert not os.path.exists(f"{queue_path}/paused")


def until_set_aside(forwarder, queue_path):
    """A producer comes by most damage at once, by other damage only an own salvage does."""
    if not set_aside.damaged(queue_path):
        done = forwarder("salvage", f"{queue_path}/data.db", "--apply")
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_pause_and_resume_of_a_damaged_queue(forwarder, queue_path, offer, command):
    """A person who stops or starts delivery is not refused because of the damage."""
    offer("old", 20)
    forwarder("pause")
    DAMAGES["header"][0](f"{queue_path}/data.db")
    done = forwarder(command)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.path.exists(f"{queue_path}/paused") == (command == "pause")


@pytest.mark.parametrize("command", ["status", "check", "peek", "resume", "dead-letters list", "enqueue"])
def test_an_emptied_database_keeps_its_log(forwarder, queue_path, offer, rows, command):
    """Of a database that has lost its content the log, with the events in it, outlives whoever looks; SQLite
    would take it for a leftover and delete it."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put_many([{"event": "A", "properties": {"distinct_id": "d"}}] * 30)
        old = rows(queue_path)
        for part in ("", "-wal"):
            shutil.copy(f"{queue_path}/data.db{part}", f"{queue_path}/kept{part}")
    os.rename(f"{queue_path}/kept", f"{queue_path}/data.db")
    os.rename(f"{queue_path}/kept-wal", f"{queue_path}/data.db-wal")
    os.truncate(f"{queue_path}/data.db", 0)
    done = forwarder(*command.split())
    assert done.returncode == (0 if command in ("resume", "enqueue") else 74), done.stderr
    if done.returncode:
        assert f"`forwarder salvage {queue_path}/data.db --apply`" in done.stderr + done.stdout
    offer("new", 1)
    (file,) = set_aside.damaged(queue_path)
    assert forwarder("salvage", file, "--apply").returncode == 0
    assert set(old) <= set(rows(queue_path))


def _status(forwarder):
    done = forwarder("status", "--json")
    return json.loads(done.stdout) if done.returncode == 0 else {"waiting": -1}


def taken(server):
    return {
        *(entry.data for entry in server.ledger.events.values()),
        *server.users.updates,
        *server.groups.updates,
    }


# Who has it open already does not read the columns' names again.
COLUMN = {"column": (lambda file: misspell(file, b"settled_at", b"CREATE TABLE deliveries ("), 600)}


@pytest.mark.parametrize(("hit", "least"), (DAMAGES | COLUMN).values(), ids=DAMAGES | COLUMN)
def test_damaged_while_nobody_runs(forwarder, server, queue_path, offer, until, hit, least):
    """Producers are let in at once, a daemon starts and delivers, and what can be read comes back."""
    old = offer("old", 600)
    hit(f"{queue_path}/data.db")
    new = offer("new", 50)
    daemon = forwarder.daemon()
    assert daemon.wait_for("queue.damaged")["file"] == set_aside.damaged(queue_path)[0]
    late = offer("late", 50)
    until(lambda: set(late) <= taken(server), "what is put then is delivered")
    assert len(salvaged(forwarder, queue_path, until)) == 1
    assert set(new) <= taken(server)
    assert len(set(old) & taken(server)) >= least
    assert daemon.stop() == 0


@pytest.mark.parametrize(("hit", "least"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_while_the_daemon_runs(forwarder, server, queue_path, offer, sql, until, hit, least):
    """A daemon with the file open finds out, or is told by a producer; it goes on by itself."""
    forwarder("pause")
    daemon = forwarder.daemon()
    old = offer("old", 600)
    sql(queue_path, "PRAGMA wal_checkpoint(TRUNCATE)")
    hit(f"{queue_path}/data.db")
    forwarder("resume")
    new = offer("new", 50)
    # Unless what the others have in memory mends it.
    until(lambda: set_aside.damaged(queue_path) or {*old, *new} <= taken(server), "it has found out")
    late = offer("late", 50)
    until(lambda: set(late) <= taken(server), "what is put then is delivered")
    salvaged(forwarder, queue_path, until)
    assert set(new) <= taken(server)
    assert len(set(old) & taken(server)) >= least
    assert daemon.process.poll() is None
    assert daemon.other_output == []


def test_damaged_while_batches_are_out(forwarder, server, queue_path, offer, sql, until):
    """What was sent before the damage and answered after it is taken for no other events."""
    forwarder.environ["FORWARDER_DELIVERY_BATCH_EVENTS"] = "10"
    daemon = forwarder.daemon()
    server.inject(Fault.slow(1.0))
    old = offer("old", 600)
    sql(queue_path, "PRAGMA wal_checkpoint(TRUNCATE)")
    until(lambda: server.ledger.figures()["in_progress"], "batches are out")
    DAMAGES["middle"][0](f"{queue_path}/data.db")
    DAMAGES["first page"][0](f"{queue_path}/data.db")
    new = offer("new", 50)
    server.clear()
    until(lambda: set_aside.damaged(queue_path), "it is found out")
    until(lambda: set(new) <= taken(server), "what is new is delivered", 40)
    salvaged(forwarder, queue_path, until)
    assert len(set(old) & taken(server)) >= 560
    assert daemon.process.poll() is None
    assert daemon.other_output == []


@pytest.mark.parametrize("seed", range(6))
def test_flipped_bits(forwarder, server, queue_path, offer, offer_updates, rows, until, seed, figures):
    """Whatever is hit, new events and updates are taken and delivered, and only what was hit is missing."""
    old = [*offer("old", 600), *offer_updates("old", 600)]
    flip(f"{queue_path}/data.db", seed)
    new = [*offer("new", 50), *offer_updates("new", 50)]
    daemon = forwarder.daemon()
    # One that is refused now waits until another has passed.
    until(lambda: set_aside.damaged(queue_path) or waiting(forwarder) <= 1, "hit, or passed over")
    late = [*offer("late", 50), *offer_updates("late", 50)]
    until(lambda: set(late) <= taken(server), "what is put then is delivered")
    for file in set_aside.damaged(queue_path):
        assert forwarder("salvage", file, "--apply").returncode == 0
    until(lambda: not waiting(forwarder), "the queues are empty")
    assert set(new) <= taken(server)
    dead = {
        data for suffix in ("", "_engage", "_groups") for data in rows(queue_path, f"dead_letters{suffix}")
    }
    assert len(set(old) - taken(server) - dead) <= 40 * 12
    assert all(map(is_profile, server.users.updates))
    assert not any(map(is_profile, server.groups.updates))
    assert daemon.process.poll() is None
    assert daemon.stop() == 0
    assert not [line for line in daemon.other_output if "Traceback" in line]
    figures(queue_path)


def is_profile(data):
    # With other bits flipped, it may not even be UTF-8.
    return b'"$distinct_id"' in data


def waiting(forwarder):
    """How many records of all kinds; some, if that is not known now."""
    found = _status(forwarder)
    return (
        found["waiting"] + found["engage"]["waiting"] + found["groups"]["waiting"] if "engage" in found else 1
    )


def test_a_copy_put_in_its_place_under_the_daemon(forwarder, server, queue_path, offer, until, figures):
    """A file put in the database's place is gone on with; that the old one held more is said."""
    offer("in both", 30)
    shutil.copy(f"{queue_path}/data.db", f"{queue_path}/copy")
    forwarder("pause")
    daemon = forwarder.daemon()
    offer("only in the old one", 30)
    os.replace(f"{queue_path}/copy", f"{queue_path}/data.db")
    assert "hold 60 events" in daemon.wait_for("queue.replaced")["detail"]
    new = offer("new", 30)
    forwarder("resume")
    until(lambda: set(new) <= taken(server), "what is new is delivered")
    until(lambda: not _status(forwarder)["waiting"], "and all that the copy held")
    assert figures(queue_path).delivered >= 60
    assert daemon.stop() == 0


def test_a_restored_backup_under_the_daemon(forwarder, server, queue_path, offer, until, figures):
    """SQLite's own backup, put back while a batch is out: row numbers mean other events then, and none of
    those is taken for delivered."""
    daemon = forwarder.daemon()
    with (
        closing(sqlite3.connect(f"{queue_path}/data.db")) as live,
        closing(sqlite3.connect(":memory:")) as kept,
    ):
        live.backup(kept)
        server.inject(Fault.slow(1.0))
        offer("old", 20)
        until(lambda: server.ledger.figures()["in_progress"], "a batch is out")
        kept.backup(live)
    new = offer("new", 50)
    server.clear()
    until(lambda: set(new) <= taken(server), "what is new is delivered", 30)
    until(lambda: not _status(forwarder)["waiting"], "and settled")
    assert figures(queue_path).delivered == 50
    assert daemon.logged("queue.failed")
    assert daemon.stop() == 0


def test_a_restored_backup_sends_what_was_delivered_since_again_unchanged(
    forwarder, server, queue_path, tmp_path, until, figures
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
    requests = server.ledger.requests
    shutil.copy(copy, f"{queue_path}/data.db")
    for name in ("data.db-wal", "data.db-shm"):
        Path(queue_path, name).unlink(missing_ok=True)
    assert figures(queue_path).waiting == 50
    assert forwarder("drain", "--timeout", "30").returncode == 0
    assert figures(queue_path).delivered == 50
    assert server.ledger.requests != requests
    entries = server.ledger.events.values()
    assert len(entries) == 50
    assert not any(entry.changed for entry in entries), "a repeat differed"
