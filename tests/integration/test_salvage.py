"""Salvage: what a damaged database holds comes back, event by event, with the same bytes."""

import json
import os
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import persistqueue
import persistqueue.serializers.json
import pytest

from forwarder import salvage, spool
from forwarder.errors import InputError, StorageError
from forwarder.records import EVENTS, GROUPS, KINDS, PROFILES
from forwarder.salvage.pages import varint
from forwarder.spool import Dead, EventQueue, Settlement
from forwarder.spool.sqlite import set_aside
from forwarder.spool.sqlite.consumer import Consumer

PAGE = 4096


@pytest.fixture
def fill(queue_path):
    """Make a queue of 3,000 events of many sizes, 200 of them delivered and three dead, and close it.

    *with_updates*: and as many updates of profiles, and of groups."""

    def make(keep_log=False, with_updates=False):
        sizes = random.Random(7)
        queue = EventQueue(queue_path, min_free_bytes=0)
        for chunk in range(16):
            queue.put_many(
                {
                    "event": "A",
                    "properties": {"n": chunk * 200 + n, "pad": "x" * sizes.choice([9, 300, 9000])},
                }
                for n in range(200)
            )
            for kind in (PROFILES, GROUPS) if with_updates else ():
                updates = [update(kind, chunk * 200 + n, sizes.choice([9, 300, 9000])) for n in range(200)]
                with closing(spool.at(queue_path, kind).producer(**ROOM)) as producer:
                    producer.append(updates)
        for kind in KINDS.values() if with_updates else (EVENTS,):
            with closing(spool.at(queue_path, kind).consumer()) as consumer:
                claim = consumer.claim(200, 10**9)
                dead = [Dead(claim.ids[n], claim.events[n], "bad", "properties.x", 400) for n in (0, 50, 199)]
                consumer.settle(Settlement(claim.ids, dead))
        consumer = Consumer(queue_path)
        if keep_log:
            for part in ("", "-wal"):
                shutil.copy(f"{queue_path}/data.db{part}", f"{queue_path}/kept{part}")
        consumer.close()
        queue.close()
        if keep_log:
            os.rename(f"{queue_path}/kept", f"{queue_path}/data.db")
            os.rename(f"{queue_path}/kept-wal", f"{queue_path}/data.db-wal")
        return f"{queue_path}/data.db"

    return make


ROOM = {"max_bytes": 1 << 40, "min_free_bytes": 0, "lock_timeout_s": 10.0}


def update(kind, number, size=0):
    """The final bytes of an update."""
    ids = {"$distinct_id": "u"} if kind is PROFILES else {"$group_key": "k", "$group_id": "g"}
    text = {"$token": "t", "$time": 1, **ids, "$set": {"n": number, "pad": "x" * size}}
    return kind.accept(json.dumps(text).encode(), 1)


@pytest.fixture
def fresh(tmp_path):
    """Where the salvaged events go."""
    return str(tmp_path / "fresh")


def stored(file, table="ack_queue_default"):
    with closing(sqlite3.connect(file)) as connection:
        return dict(connection.execute(f"SELECT _id, data FROM {table}"))


def flip(file, offsets):
    with open(file, "r+b") as target:
        for offset in offsets:
            target.seek(offset)
            byte = target.read(1)[0]
            target.seek(offset)
            target.write(bytes([byte ^ 0x5A]))


def numbers(events):
    return sorted(json.loads(data)["properties"]["n"] for data in events)


def test_everything_comes_back_unchanged(fill, fresh, rows, figures):
    """Of a database without damage each waiting event and dead letter comes back, once, byte for byte."""
    file = fill()
    events = stored(file)
    found = salvage.plan(file)
    assert (found.events, found.dead_letters, found.waiting) == (3000, 3, 3000)
    assert (found.losses.pages, found.losses.rows) == ([], 0)
    assert not os.path.exists(fresh)
    salvage.apply(file, fresh)
    assert rows(fresh) == list(events.values())
    totals = figures(fresh)
    assert (totals.accepted, totals.waiting, totals.dead_letters) == (3003, 3000, 3)
    with closing(sqlite3.connect(file)) as old, closing(sqlite3.connect(f"{fresh}/data.db")) as new:
        columns = "data, event, insert_id, reason, field, http_status, accepted_at, dead_at"
        letters = f"SELECT {columns} FROM dead_letters"
        assert new.execute(letters).fetchall() == old.execute(letters).fetchall()
        times = "SELECT data, timestamp FROM ack_queue_default ORDER BY _id"
        assert new.execute(times).fetchall() == old.execute(times).fetchall()


def test_what_is_only_in_the_log_comes_back(fill, fresh, rows):
    """Events whose pages have not left the write-ahead log yet are read from there."""
    file = fill(keep_log=True)
    copy = shutil.copy(file, fresh + ".db")
    shutil.copy(file + "-wal", copy + "-wal")
    events = list(stored(copy).values())
    assert os.path.getsize(file + "-wal") > 1_000_000
    salvage.apply(file, fresh)
    assert rows(fresh) == events
    assert len(events) == 3000


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("part", ["", "-wal"])
def test_flipped_bytes(fill, fresh, rows, seed, part, figures):
    """A flipped byte costs at most the rows of its page; all others come back, in the queue of their kind,
    and what can't is told."""
    file = fill(keep_log=part != "", with_updates=True)
    copy = shutil.copy(file, fresh + ".db")
    if part:
        shutil.copy(file + part, copy + part)
    before = {kind: set(stored(copy, f"ack_queue_{kind.queue}").values()) for kind in KINDS.values()}
    places = random.Random(seed)
    count = 20
    flip(file + part, [places.randrange(os.path.getsize(file + part)) for _ in range(count)])
    found = salvage.apply(file, fresh)
    lost = 0
    for kind, data in before.items():
        suffix = "" if kind is EVENTS else f"_{kind.queue}"
        after = set(rows(fresh, f"ack_queue_{kind.queue}")) | set(rows(fresh, f"dead_letters{suffix}"))
        lost += len(data - after)
        assert len(data & after) > 2700
        # Delivered ones, a stale version of a page, or a payload that is still JSON: as many as flips, and
        # the page's rows.
        assert len(after - data) <= 3 + count * PAGE // 150
        assert not any(after & others for other, others in before.items() if other is not kind)
        with spool.at(fresh, kind).view() as view:
            assert [finding for finding in view.check() if not finding.ok] == []
    assert lost <= count * PAGE // 150
    if lost > count:
        assert found.losses.pages or found.losses.rows
    figures(fresh)


@pytest.mark.parametrize("head", [16, 100, PAGE], ids=["magic", "header", "first page"])
def test_lost_beginning(fill, fresh, rows, head, figures):
    """Without the header, or the whole first page with the schema, the events can still be read."""
    file = fill()
    events = set(stored(file).values())
    with open(file, "r+b") as target:
        target.write(b"\0" * head)
    found = salvage.apply(file, fresh)
    assert events <= set(rows(fresh))
    assert found.events >= 3000
    figures(fresh)


@pytest.mark.parametrize("at", [0, 8, 16, 20, 24, 28], ids=["magic", "page size", *4 * ["salts and sums"]])
def test_lost_beginning_of_the_log(fill, fresh, rows, at, figures):
    """Whatever is hit in the log's header, the events that are only in the log are read."""
    file = fill(keep_log=True)
    copy = shutil.copy(file, fresh + ".db")
    shutil.copy(file + "-wal", copy + "-wal")
    events = set(stored(copy).values())
    flip(file + "-wal", range(at, at + 4))
    salvage.apply(file, fresh)
    assert events <= set(rows(fresh))
    figures(fresh)


@pytest.mark.parametrize("at", [8, 12], ids=["first salt", "second salt"])
def test_broken_salts_spoil_one_frame(fill, fresh, rows, at):
    """A frame whose salts are hit does not hide those behind it."""
    file = fill(keep_log=True)
    copy = shutil.copy(file, fresh + ".db")
    shutil.copy(file + "-wal", copy + "-wal")
    events = set(stored(copy).values())
    flip(file + "-wal", range(32 + at, 32 + at + 4))
    salvage.apply(file, fresh)
    assert events <= set(rows(fresh))


def test_several_rounds_of_the_log(queue_path, fresh, rows):
    """Behind the newest round of a log that was begun again, frames of earlier rounds are not believed."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        for first in range(0, 400, 50):
            queue.put_many(numbered(first + n, 500) for n in range(50))
            if first in (100, 300):
                checkpointed = (
                    queue._producer._database.connect().execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
                )
                assert checkpointed[0] == 0
        with closing(Consumer(queue_path)) as consumer:
            consumer.settle(Settlement(consumer.claim_behind(0, 150, 10**9).ids))
            for part in ("", "-wal"):
                shutil.copy(f"{queue_path}/data.db{part}", f"{fresh}.db{part}")
    salvage.apply(f"{fresh}.db", fresh)
    assert numbers(rows(fresh)) == list(range(150, 400))


def numbered(number, size=0):
    return {"event": "A", "properties": {"n": number, "pad": "x" * size}}


@pytest.mark.parametrize("page_bytes", [512, 1024, 8192, 65536])
def test_other_page_sizes(queue_path, fresh, rows, page_bytes):
    """A queue that something else has made, with pages of another size and no map of pointers, is read; an
    event of a megabyte and more, which takes hundreds of pages, too."""
    os.mkdir(queue_path)
    with closing(sqlite3.connect(f"{queue_path}/data.db")) as connection:
        connection.execute(f"PRAGMA page_size = {page_bytes}")
        upstream = persistqueue.SQLiteAckQueue
        connection.execute(
            upstream._SQL_CREATE.format(table_name="ack_queue_default", key_column=upstream._KEY_COLUMN)
        )
    plain_json = persistqueue.serializers.json
    plain = persistqueue.SQLiteAckQueue(queue_path, serializer=plain_json, auto_resume=False)
    for number in range(300):
        plain.put(numbered(number, 1_200_000 if number == 7 else number * 10))
    plain.close()
    EventQueue(queue_path, min_free_bytes=0).close()
    with closing(sqlite3.connect(f"{queue_path}/data.db")) as connection:
        assert connection.execute("PRAGMA page_size").fetchone() == (page_bytes,)
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (0,)
    before = stored(f"{queue_path}/data.db")
    found = salvage.apply(f"{queue_path}/data.db", fresh)
    assert (found.losses.pages, found.losses.rows) == ([], 0)
    assert numbers(before.values()) == list(range(300))
    (large,) = rows(fresh, "dead_letters")  # more than Mixpanel takes
    assert large == before[8]
    assert numbers([*rows(fresh), large]) == list(range(300))


def test_a_damaged_number_hides_no_other_row(queue_path, fresh, rows):
    """A row whose number was hit and is another's now: both come back."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put_many(numbered(n) for n in range(5))
    file = f"{queue_path}/data.db"
    with closing(sqlite3.connect(file)) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'ack_queue_default'"
        ).fetchone()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    with open(file, "r+b") as target:
        content = target.read()
        start = (page - 1) * PAGE
        (offset,) = struct.unpack_from(">H", content, start + 8)  # the first row's cell
        length = 2 if content[start + offset] & 0x80 else 1
        assert content[start + offset + length] == 1
        target.seek(start + offset + length)
        target.write(b"\x03")
    salvage.apply(file, fresh)
    assert numbers(rows(fresh)) == list(range(5))


def test_a_log_alone_comes_back(queue_path, forwarder, rows):
    """Where the database was deleted and the log is all that is left, the next start sets it aside, and its
    events come back."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put_many(numbered(n) for n in range(20))
        for part in ("", "-wal"):
            shutil.copy(f"{queue_path}/data.db{part}", f"{queue_path}/kept{part}")
    os.unlink(f"{queue_path}/kept")
    os.unlink(f"{queue_path}/data.db")
    os.rename(f"{queue_path}/kept-wal", f"{queue_path}/data.db-wal")
    EventQueue(queue_path, min_free_bytes=0).close()
    (file,) = set_aside.damaged(queue_path)
    assert not os.path.exists(file)
    assert forwarder.json("salvage", file)["events"] == 20
    assert forwarder("salvage", file, "--apply").returncode == 0
    assert numbers(rows(queue_path)) == list(range(20))
    assert set_aside.damaged(queue_path) == []


def test_memory_is_bounded(queue_path, fresh):
    """The memory it takes hardly grows with the number of rows."""
    code = """
import re, sys
from forwarder import salvage
found = salvage.plan(sys.argv[1])
# Not getrusage(): what the parent took before the exec counts there, too.
print(found.events, int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""
    with EventQueue(queue_path, min_free_bytes=0):
        pass
    with closing(sqlite3.connect(f"{queue_path}/data.db")) as connection:
        connection.execute(
            "INSERT INTO ack_queue_default (data, timestamp, status)"
            " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000)"
            """ SELECT CAST('{"event":"A","properties":{"n":' || i || '}}' AS BLOB), 1.6e9, 1 FROM n"""
        )
        connection.commit()
    command = [sys.executable, "-c", code, f"{queue_path}/data.db"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    events, mib = map(int, done.stdout.split())
    assert events == 300_000
    assert mib < 80


def frames(log):
    """Page number and commit field of each frame."""
    data = Path(log).read_bytes()
    return [struct.unpack_from(">2I", data, at) for at in range(32, len(data), 24 + PAGE)]


@pytest.mark.parametrize("missing", [1, 2, 5])
def test_log_cut_during_a_commit(queue_path, fresh, rows, missing, figures):
    """Of a log that ends during a commit salvage takes what SQLite would: its would-be dead letters wait."""
    queue, copy = EventQueue(queue_path, min_free_bytes=0), fresh + ".db"
    queue.put_many({"event": "A", "properties": {"n": n, "pad": "x" * 300}} for n in range(600))
    consumer = Consumer(queue_path)
    claim = consumer.claim_behind(0, 60, 10**9)
    dead = [Dead(row_id, data, "bad") for row_id, data in zip(claim.ids, claim.events, strict=True)]
    consumer.settle(Settlement(claim.ids, dead))
    for part in ("", "-wal"):
        shutil.copy(f"{queue_path}/data.db{part}", copy + part)
    consumer.close()
    queue.close()
    assert frames(copy + "-wal")[-1][1], "the last frame commits"
    os.truncate(copy + "-wal", os.path.getsize(copy + "-wal") - missing * (24 + PAGE))
    found = salvage.apply(copy, fresh)
    events = set(rows(fresh)) | set(rows(fresh, "dead_letters"))
    assert (found.events, len(events), len(rows(fresh, "dead_letters"))) == (600, 600, 0)
    figures(fresh)


def test_what_was_never_committed_does_not_come_back(queue_path, fresh, rows):
    """What a transaction has left in the log that was broken off is no event, where another went on, too."""
    queue, copy = EventQueue(queue_path, min_free_bytes=0), fresh + ".db"
    queue.put({"event": "A", "properties": {"n": 0}})
    with closing(sqlite3.connect(f"{queue_path}/data.db", isolation_level=None)) as external:
        # So small a cache that the pages go to the log before the commit.
        external.execute("PRAGMA cache_size = 10")
        external.execute("BEGIN IMMEDIATE")
        row = (b'{"event":"never","properties":{"pad":"%s"}}' % (b"x" * 300), 1.6e9, 1)
        insert = "INSERT INTO ack_queue_default (data, timestamp, status) VALUES (?, ?, ?)"
        external.executemany(insert, [row] * 2000)
        external.execute("ROLLBACK")
    queue.put({"event": "A", "properties": {"n": 1}})
    for part in ("", "-wal"):
        shutil.copy(f"{queue_path}/data.db{part}", copy + part)
    queue.close()
    assert b'"never"' in Path(copy + "-wal").read_bytes()
    salvage.apply(copy, fresh)
    assert numbers(rows(fresh)) == [0, 1]


def test_set_aside_without_hard_links_is_refused(fill, queue_path, monkeypatch):
    """Where no file can have two names, whoever comes by the damage is told what to do; all stays as it was,
    and no empty directory is left."""
    flip(fill(), range(100))
    before = sorted(os.listdir(queue_path))

    def refuse(*_arguments, **_options):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageError, match="local file system with hard links") as told:
        EventQueue(queue_path, min_free_bytes=0).put(numbered(0))
    assert queue_path in str(told.value)
    assert sorted(os.listdir(queue_path)) == before


# The command


def test_command_without_anything_set_aside(forwarder, queue_path):
    """Without a queue, or with nothing set aside, there is nothing to list."""
    for _ in range(2):
        assert forwarder("salvage").stdout == "No damaged database has been set aside.\n"
        done = forwarder("salvage", "--json")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        EventQueue(queue_path, min_free_bytes=0).close()


def test_command_on_what_is_no_database(forwarder, queue_path, tmp_path):
    """A directory is a wrong argument, the queue's own file is refused, another file gives nothing."""
    EventQueue(queue_path, min_free_bytes=0).close()
    assert forwarder("salvage", queue_path).returncode == 64
    own = forwarder("salvage", f"{queue_path}/data.db", "--apply")
    assert own.returncode == 78
    assert "own database" in own.stderr
    (tmp_path / "diary").write_text("dear diary, " * 1000)
    diary = forwarder("salvage", str(tmp_path / "diary"))
    assert diary.returncode == 0
    assert "0 events and 0 dead letters can be read." in diary.stdout
    missing = forwarder("salvage", str(tmp_path / "nowhere"), "--apply")
    assert missing.returncode == 66


def test_command_done_twice(fill, queue_path, forwarder, rows):
    """Done again on the file in its new place, it brings nothing back a second time."""
    fill()
    file = set_aside.set_aside(queue_path)
    assert forwarder("salvage", file, "--apply").returncode == 0
    before = rows(queue_path)
    again = forwarder("salvage", file, "--apply")
    assert again.returncode == 66
    moved = file.replace("damaged-", "salvaged-")
    again = forwarder("salvage", moved, "--apply")
    assert again.returncode == 0
    assert "3,003 of them were recovered by an earlier try." in again.stdout
    assert rows(queue_path) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_command_without_rights(fill, queue_path):
    """Who may not read the file, or not write the queue, is told so, and nothing changes."""
    fill()
    file = set_aside.set_aside(queue_path)
    code = """
import os, sys
# The interpreter's own files may be out of this user's reach.
from forwarder import config, lazy, spool
from forwarder.cli import main, root, salvage
for package in ("forwarder.config", "forwarder.records", "forwarder.records.event", "forwarder.spool"):
    lazy.load(package)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
main(sys.argv[1:])
"""
    environ = {**os.environ, "FORWARDER_QUEUE_PATH": queue_path}
    command = [sys.executable, "-c", code, "salvage", file, "--apply"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode in (66, 77), done.stderr
    assert set_aside.damaged(queue_path) == [file]


def test_command_into_a_full_disk(fill, queue_path, forwarder, tmp_path, rows, figures):
    """On a full disk it says so with 75; when there is room it goes on where it was."""
    events = list(stored(fill()).values())
    file = set_aside.set_aside(queue_path)
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        forwarder.environ["FORWARDER_QUEUE_PATH"] = str(disk / "queue")
        full = forwarder("salvage", file, "--apply")
        assert full.returncode == 75, full.stderr
        assert 0 < len(rows(str(disk / "queue"))) < 3000
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        done = forwarder("salvage", file, "--apply")
        assert (done.returncode, "by an earlier try" in done.stdout) == (0, True), done.stderr
        assert rows(str(disk / "queue")) == events
        figures(str(disk / "queue"))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_truncated(fill, fresh, rows, figures):
    """Of a file that was cut off the rest comes back."""
    file = fill()
    os.truncate(file, os.path.getsize(file) // 2)
    salvage.apply(file, fresh)
    assert 1000 < len(rows(fresh)) < 2000
    figures(fresh)


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"\xff" * 100_000, b"SQLite format 3\0"])
def test_nothing_to_be_read(tmp_path, fresh, content):
    """A file with nothing in it that could be an event is read to its end, and gives nothing."""
    file = tmp_path / "data.db"
    file.write_bytes(content)
    found = salvage.plan(str(file))
    assert (found.events, found.dead_letters, found.waiting) == (0, 0, None)


def test_delivered_events_stay_delivered(fill, fresh, rows):
    """Events that were delivered, and whose pages are free since, do not come back."""
    file = fill()
    with closing(Consumer(os.path.dirname(file))) as consumer:
        claim = consumer.claim_behind(0, 2500, 10**9)
        consumer.settle(Settlement(claim.ids))
    assert salvage.plan(file).events == 500
    salvage.apply(file, fresh)
    assert len(rows(fresh)) == 500


def test_an_external_producers_rows_are_completed_as_the_daemon_would(queue_path, fresh, rows, figures):
    """A row of plain persist-queue gets the bytes that the daemon may have sent; an acked one is left."""
    with EventQueue(queue_path, min_free_bytes=0):
        pass
    plain = persistqueue.SQLiteAckQueue(
        queue_path, serializer=persistqueue.serializers.json, auto_resume=False
    )
    for number in range(4):
        plain.put({"event": "A", "properties": {"n": number}})
    plain.put(["no event"])
    plain.ack(plain.get())
    plain.close()
    with closing(Consumer(queue_path)) as consumer:
        shutil.copy(f"{queue_path}/data.db", fresh + ".db")
        shutil.copy(f"{queue_path}/data.db-wal", fresh + ".db-wal")
        sent = consumer.claim_behind(0, 100, 10**6).events
    salvage.apply(fresh + ".db", fresh)
    assert rows(fresh) == sent
    (letter,) = rows(fresh, "dead_letters")
    assert json.loads(letter) == ["no event"]
    figures(fresh)


def test_broken_off_and_done_again(fill, fresh, rows, figures):
    """Killed during --apply and called again, it goes on: nothing is missing, nothing is there twice."""
    file = fill()
    events = list(stored(file).values())
    code = """
import os, signal, sys
from forwarder import salvage
salvage.apply(sys.argv[1], sys.argv[2], lambda done: done >= 1500 and os.kill(os.getpid(), signal.SIGKILL))
"""
    assert subprocess.run([sys.executable, "-c", code, file, fresh]).returncode == -signal.SIGKILL
    assert len(rows(fresh)) < 3000
    found = salvage.apply(file, fresh)
    assert found.before == 1500
    assert rows(fresh) == events
    assert salvage.apply(file, fresh).before == 3003
    assert rows(fresh) == events
    figures(fresh)


def plain_queue(path, name):
    return persistqueue.SQLiteAckQueue(
        path, name=name, serializer=persistqueue.serializers.json, auto_resume=False
    )


@pytest.fixture
def shared(queue_path, sql):
    """A file of plain persist-queue with 800 events of ours, and as many of another queue from 10,000 on;
    gives it and where each table begins."""
    queues = plain_queue(queue_path, "default"), plain_queue(queue_path, "profiles")
    for number in range(800):
        for first, queue in zip((0, 10_000), queues, strict=True):
            queue.put(numbered(first + number, 300))
    for queue in queues:
        queue.close()
    roots = sql(queue_path, "SELECT name, rootpage FROM sqlite_master WHERE name LIKE 'ack_queue_%'")
    return f"{queue_path}/data.db", dict(roots)


def pages_of(file, table):
    """A table's leaf pages, with the numbers of the events on each."""
    found = {}
    with closing(sqlite3.connect(file)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        data = dict(connection.execute(f"SELECT _id, data FROM {table}"))
    content = Path(file).read_bytes()
    start = (root - 1) * PAGE
    (count,) = struct.unpack_from(">H", content, start + 3)
    places = struct.unpack_from(f">{count}H", content, start + 12)
    lasts = [varint(content, start + place + 4)[0] for place in places]
    leaves = [struct.unpack_from(">I", content, start + place)[0] for place in places]
    for leaf, first, last in zip(leaves, [0, *lasts], lasts, strict=False):
        found[leaf] = numbers(data[row] for row in range(first + 1, last + 1))
    return found


def test_other_queues_in_the_file_are_left(shared, fresh, rows, figures):
    """Of a file that holds another queue of persist-queue, whose rows look alike, ours come back, and none
    of its; on damaged pages of both, too."""
    file, _ = shared
    ours, others = (pages_of(file, f"ack_queue_{name}") for name in ("default", "profiles"))
    assert len(ours) > 20
    assert len(others) > 20
    lost = list(ours)[3], list(ours)[11]
    with open(file, "r+b") as target:
        for page in (*lost, list(others)[5]):
            target.seek((page - 1) * PAGE)
            target.write(b"\x77" * PAGE)
    found = salvage.apply(file, fresh)
    assert numbers(rows(fresh)) == sorted(set(range(800)) - {n for page in lost for n in ours[page]})
    assert found.losses.pages == sorted(lost)
    figures(fresh)


def test_pages_that_no_table_leads_to_are_read(shared, fresh, rows):
    """Where the page is lost that leads to ours, these come back all the same, and none of the other's."""
    file, roots = shared
    with open(file, "r+b") as target:
        target.seek((roots["ack_queue_default"] - 1) * PAGE)
        target.write(bytes(PAGE))
    salvage.apply(file, fresh)
    assert numbers(rows(fresh)) == list(range(800))


def test_a_damaged_number_in_another_queue_takes_nothing_of_ours(shared, fresh, rows):
    """A page of another queue that leads, damaged, to one of ours, does not have it left out."""
    file, roots = shared
    with open(file, "r+b") as target:
        target.seek((roots["ack_queue_profiles"] - 1) * PAGE + 8)  # the last page it leads to
        target.write(struct.pack(">I", list(pages_of(file, "ack_queue_default"))[7]))
    salvage.apply(file, fresh)
    assert set(range(800)) <= set(numbers(rows(fresh)))


def test_another_queue_only_in_the_log(queue_path, fresh, rows):
    """What another queue has put since the last checkpoint is left as well."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        other = plain_queue(queue_path, "profiles")
        for number in range(100):
            queue.put(numbered(number, 300))
            other.put(numbered(10_000 + number, 300))
        for part in ("", "-wal"):
            shutil.copy(f"{queue_path}/data.db{part}", f"{fresh}.db{part}")
        other.close()
    salvage.apply(f"{fresh}.db", fresh)
    assert numbers(rows(fresh)) == list(range(100))


def test_without_a_schema_rows_are_judged_by_their_shape(shared, fresh, rows):
    """Where nothing says whose a page is, rather another queue's events come back than ours don't."""
    file, _ = shared
    with open(file, "r+b") as target:
        target.write(bytes(PAGE))
    salvage.apply(file, fresh)
    assert set(range(800)) <= set(numbers(rows(fresh)))


@pytest.mark.parametrize("column", ["note TEXT", "note TEXT DEFAULT 'x'"])
def test_a_column_that_was_added_is_passed_over(queue_path, fresh, rows, figures, sql, column):
    """Events come back from a table to which somebody has added a column, those put before and since."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put_many(numbered(n) for n in range(50))
    sql(queue_path, f"ALTER TABLE ack_queue_default ADD COLUMN {column}")
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put_many(numbered(n) for n in range(50, 100))
    found = salvage.apply(f"{queue_path}/data.db", fresh)
    assert (found.events, found.waiting, found.missing) == (100, 100, 0)
    assert numbers(rows(fresh)) == list(range(100))
    figures(fresh)


def test_file_that_is_not_there(tmp_path):
    """A name that can't be opened is told."""
    with pytest.raises(InputError, match="nowhere"):
        salvage.plan(str(tmp_path / "nowhere"))


def test_set_aside_listed_and_marked(fill, queue_path, forwarder, rows, figures):
    """`salvage` lists what was set aside, shows what is in it, brings it back, and does not list it again."""
    events = list(stored(fill()).values())
    file = set_aside.set_aside(queue_path)
    assert not os.path.exists(f"{queue_path}/data.db")
    assert forwarder("salvage").stdout == file + "\n"
    shown = forwarder("salvage", file)
    assert "3,000 events and 3 dead letters can be read." in shown.stdout
    assert forwarder.json("salvage", file)["events"] == 3000
    assert not os.path.exists(f"{queue_path}/data.db"), "only looked"
    done = forwarder("salvage", file, "--apply")
    assert (done.returncode, done.stderr) == (0, "")
    assert rows(queue_path) == events
    assert forwarder("salvage").stdout == "No damaged database has been set aside.\n"
    assert os.path.exists(file.replace("damaged-", "salvaged-"))
    figures(queue_path)


def test_command_with_nothing_to_apply(forwarder):
    """--apply without a file is no order that is passed over in silence."""
    done = forwarder("salvage", "--apply")
    assert (done.returncode, done.stdout) == (64, "")
    assert "--apply needs the FILE" in done.stderr


def test_set_aside_by_another_while_it_is_opened(fill, queue_path, rows, monkeypatch):
    """A producer whose database is set aside right as it opens that takes the fresh one."""
    fill()
    connect, elsewhere = sqlite3.connect, []

    def connect_late(*arguments, **options):
        connection = connect(*arguments, **options)
        if not elsewhere:
            elsewhere.append(set_aside.set_aside(queue_path))
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_late)
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put({"event": "A", "properties": {"n": 1}})
    monkeypatch.undo()
    assert set_aside.damaged(queue_path) == elsewhere
    assert numbers(rows(queue_path)) == [1]
