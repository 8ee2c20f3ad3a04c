"""The daemon's side of the queue: claiming in sets, settling in sets, and leaving no trace of either."""

import hashlib
import itertools
import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from forwarder import spool
from forwarder.errors import StorageError, TryAgainError
from forwarder.spool import Dead, EventQueue, QueueReplacedError, Selection, Settlement, SpoolFullError
from forwarder.spool.sqlite import control, room
from forwarder.spool.sqlite.consumer import Consumer
from forwarder.spool.sqlite.lock import WriterLock
from forwarder.spool.sqlite.room import RESERVE_BYTES
from forwarder.spool.sqlite.view import View

ALL = Selection()
MIB = 1 << 20


def event(number):
    return {"event": "A", "properties": {"distinct_id": "u-1", "number": number}}


@pytest.fixture
def consumer(queue, consumer):
    """A consumer of ten events, ids 1 to 10."""
    queue.put_many(event(number) for number in range(10))
    return consumer


def ids_in(queue_path):
    with View(queue_path) as view:
        return [row.id for row in view.peek(1_000_000)]


# Claiming


def test_claim_is_bounded_whatever_the_rows_are(queue, queue_path, consumer, sql, figures):
    """Bad rows and acked ones count as read: a claim takes no more of them than it may of events, says
    what has died, and the next one goes on."""
    for status in (0, 0, 0, 5, 5):
        sql(queue_path, "INSERT INTO ack_queue_default VALUES (NULL, zeroblob(400000), 1.6e9, ?)", (status,))
    queue.put(event(10))
    claims, after_id = [], 10
    while (claim := consumer.claim_behind(after_id, 100, MIB)).last_id > after_id:
        deleted = figures(queue_path).deleted
        claims.append((list(claim.ids), claim.dead, deleted, bool(claim.reason)))
        after_id = claim.last_id
    assert claims == [([], 2, 0, True), ([], 1, 1, True), ([16], 0, 2, False)]
    sql(queue_path, "INSERT INTO ack_queue_default VALUES (NULL, zeroblob(1), 1.6e9, 0)")
    sql(queue_path, "INSERT INTO ack_queue_default VALUES (NULL, zeroblob(1), 1.6e9, 0)")
    assert consumer.claim_behind(16, 1, MIB).last_id == 17
    assert consumer.claim_behind(17, 1, 0).last_id == 18, "one row is always taken"


def hashes(queue_path):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(queue_path).glob("data.db*")
    }


def test_claim_writes_nothing(consumer, queue_path, sql):
    """Claiming leaves no trace: no byte of the database changes, and the next consumer gets the same."""
    other = sqlite3.connect(f"{queue_path}/data.db")
    other.execute("SELECT * FROM ledger").fetchall()
    version = other.execute("PRAGMA data_version").fetchone()
    before = hashes(queue_path)
    claim = consumer.claim_behind(0, 5, MIB)
    changed = {name for name, digest in hashes(queue_path).items() if before.get(name) != digest}
    assert changed <= {"data.db-shm"}  # the readers' marks
    assert other.execute("PRAGMA data_version").fetchone() == version
    other.close()
    after_a_crash = Consumer(queue_path)
    assert after_a_crash.claim_behind(0, 5, MIB).events == claim.events
    after_a_crash.close()


def test_claim_needs_no_lock(consumer, queue_path):
    """Claiming and looking for news don't wait for a writer."""
    other = sqlite3.connect(f"{queue_path}/data.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert len(consumer.claim_behind(0, 10, MIB).ids) == 10
    assert consumer.last_id() == 10
    assert not consumer.control().paused
    other.close()


def test_news_are_seen(consumer, queue, queue_path):
    """The version changes when another has written, and only then; last_id is the newest event's."""
    version = consumer.control().version
    consumer.claim_behind(0, 10, MIB)
    consumer.settle(Settlement([1]))
    assert consumer.control().version == version
    queue.put(event(10))
    assert consumer.control().version != version
    assert consumer.last_id() == 11
    control.pause(queue_path)
    before = consumer.control().flush
    control.request_flush(queue_path)
    assert consumer.control().paused
    assert consumer.control().flush != before
    control.resume(queue_path)
    assert not consumer.control().paused


# Settling


def test_settled_events_leave_the_queue(consumer, queue_path, sql, figures):
    """Delivered events are gone and counted, dead ones are in the dead letters with all that is known."""
    claim = consumer.claim_behind(0, 10, MIB)
    dead = Dead(4, claim.events[3], "must not be blank", "properties.x", 400)
    settlement = Settlement(
        claim.ids[:6], [dead], short=1, size_bytes=99, http_status=400, tries=3, took_s=0.5
    )
    consumer.settle(settlement)
    assert ids_in(queue_path) == [7, 8, 9, 10]
    found = figures(queue_path)
    assert (found.accepted, found.delivered, found.dead_lettered, found.waiting) == (10, 5, 1, 4)
    assert (found.short, found.dead_letters, found.deleted) == (1, 1, 0)
    with View(queue_path) as view:
        [letter] = view.dead_letters(ALL)
    assert (letter.event_id, letter.data, letter.reason) == (4, claim.events[3], "must not be blank")
    assert (letter.field, letter.http_status, letter.event) == ("properties.x", 400, "A")
    assert letter.accepted_at <= letter.dead_at
    log = "ids, delivered, dead, short, size_bytes, http_status, tries, took_s, settled_at"
    assert sql(queue_path, f"SELECT {log} FROM deliveries") == [
        ("1-6", 5, 1, 1, 99, 400, 3, 0.5, found.last_delivery_at)
    ]


def test_rate_and_last_delivery_count_what_was_delivered(consumer, queue_path, figures):
    """Dead letters alone are no delivery; the rate is of the last minute."""
    consumer.settle(Settlement([1], [Dead(1, b"{}", "bad")]))
    assert (figures(queue_path).last_delivery_at, figures(queue_path).rate_1m) == (None, 0.0)
    consumer.settle(Settlement([2, 3, 4]))
    assert figures(queue_path).rate_1m == 3 / 60


@pytest.mark.parametrize(
    "ids", [ids for size in (1, 2, 3, 5) for ids in itertools.combinations(range(1, 6), size)], ids=str
)
def test_exactly_the_given_rows_leave(queue, queue_path, sql, ids):
    """Whatever gaps there are between the settled rows, those in gaps stay, and the log says which left."""
    queue.put_many(event(number) for number in range(5))
    consumer = Consumer(queue_path)
    consumer.settle(Settlement(list(ids)))
    assert ids_in(queue_path) == sorted({1, 2, 3, 4, 5} - set(ids))
    [(logged,)] = sql(queue_path, "SELECT ids FROM deliveries")
    runs = [list(map(int, run.split("-"))) for run in logged.split(",")]
    assert [row_id for run in runs for row_id in range(run[0], run[-1] + 1)] == list(ids)
    assert len(runs) == sum(row_id - 1 not in ids for row_id in ids)
    consumer.close()


def test_rows_that_a_neighbour_took_away_cost_no_others(consumer, queue_path, sql):
    """When a neighbour has deleted a row that is in flight, settling it does not take one from a gap."""
    sql(queue_path, "DELETE FROM ack_queue_default WHERE _id = 1")
    consumer.settle(Settlement([1, 3]))
    assert ids_in(queue_path) == [2, *range(4, 11)]


def test_settling_is_all_or_nothing(queue, queue_path, sql, figures):
    """When a part of settling fails, all is as before: rows, dead letters, totals and delivery log."""
    queue.put_many(event(number) for number in range(10))
    before = figures(queue_path)
    sql(
        queue_path, "CREATE TRIGGER deny BEFORE INSERT ON deliveries BEGIN SELECT raise(ABORT, 'denied'); END"
    )
    settlement = Settlement([1, 2, 3], [Dead(2, b"{}", "bad")])
    with (
        closing(Consumer(queue_path)) as hindered,
        pytest.raises(StorageError, match="denied"),
    ):
        hindered.settle(settlement)
    assert ids_in(queue_path) == list(range(1, 11))
    after = figures(queue_path)
    assert (after.delivered, after.dead_lettered) == (before.delivered, before.dead_lettered) == (0, 0)
    sql(queue_path, "DROP TRIGGER deny")
    with closing(Consumer(queue_path)) as later:
        later.settle(settlement)
    assert figures(queue_path).delivered == 2


def test_locked_queue_is_settled_later(queue, queue_path):
    """While a neighbour holds the queue, settling says to try again, and nothing of it is done."""
    queue.put(event(0))
    consumer = Consumer(queue_path, lock_timeout_s=0.1)
    other = sqlite3.connect(f"{queue_path}/data.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(TryAgainError):
        consumer.settle(Settlement([1]))
    other.close()
    assert ids_in(queue_path) == [1]
    consumer.settle(Settlement([1]))
    assert ids_in(queue_path) == []
    consumer.close()


def test_delivery_log_is_bounded(consumer, queue_path, sql):
    """The delivery log keeps the newest 100 000 batches, however many there were."""
    sql(
        queue_path,
        "INSERT INTO deliveries WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE"
        " i < 100000) SELECT i, '1', 1, 0, 0, 0, 200, 1, 0.1, 1e9, NULL, '' FROM n",
    )
    for row_id in (1, 2, 3):
        consumer.settle(Settlement([row_id]))
    assert sql(queue_path, "SELECT count(*), min(id), max(id) FROM deliveries") == [(100_000, 4, 100_003)]


def test_database_that_was_replaced_is_not_settled_in(consumer, queue_path, figures):
    """When another database stands at the path, its rows are not taken for those that were claimed."""
    claim = consumer.claim_behind(0, 10, MIB)
    for name in os.listdir(queue_path):
        if name.startswith("data.db"):
            os.rename(f"{queue_path}/{name}", f"{queue_path}/old.{name}")
    with EventQueue(queue_path, min_free_bytes=0) as other:
        other.put_many(event(number) for number in range(10))
    for step in (
        lambda: consumer.settle(Settlement(claim.ids)),
        lambda: consumer.claim_behind(0, 10, MIB),
        consumer.control,
        lambda: consumer.maintain(at_rest=True),
        lambda: consumer.discard_dead_letters(2e9),
    ):
        with pytest.raises(QueueReplacedError, match="was replaced or restored"):
            step()
    assert (figures(queue_path).waiting, figures(queue_path).delivered) == (10, 0)


def test_database_that_was_changed_for_another_is_not_settled_in(consumer, queue, queue_path, tmp_path):
    """Another queue in the very same file, as after its inode number came back, is noticed too."""
    claim = consumer.claim_behind(0, 10, MIB)
    consumer.close()
    queue.close()
    other = str(tmp_path / "other")
    with EventQueue(other, min_free_bytes=0) as queue:
        queue.put_many(event(number) for number in range(10))
    inode = os.stat(f"{queue_path}/data.db").st_ino
    Path(queue_path, "data.db").write_bytes(Path(other, "data.db").read_bytes())
    assert os.stat(f"{queue_path}/data.db").st_ino == inode
    for step in (lambda: consumer.settle(Settlement(claim.ids)), consumer.control):
        with pytest.raises(QueueReplacedError, match="was replaced or restored"):
            step()
    with View(queue_path) as view:
        assert (view.figures().waiting, view.figures().delivered) == (10, 0)


def test_consumer_is_made_while_the_queue_is_locked(queue, queue_path):
    """A lock, which passes, keeps no consumer from being made."""
    other = sqlite3.connect(f"{queue_path}/data.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    Consumer(queue_path, lock_timeout_s=0.1).close()
    other.close()


# Dead letters


def test_it_is_kept_what_became_of_a_dead_letter(consumer, queue_path, sql):
    """Of a retried one stands there which event it was, and which it is now."""
    consumer.settle(Settlement([1, 2, 3], [Dead(n, b"{}", "bad") for n in (2, 3)]))
    assert spool.at(queue_path).retry_dead_letters([1, 99], lambda data, _: data) == ({1: 11}, [])
    assert sql(queue_path, "SELECT dead_letter_id, event_id, new_event_id FROM retries") == [(1, 2, 11)]


def test_retries_are_bounded(consumer, queue_path, sql):
    """What became of dead letters is kept of the newest 100 000."""
    consumer.settle(Settlement([1, 2], [Dead(n, b"{}", "bad") for n in (1, 2)]))
    sql(
        queue_path,
        "INSERT INTO retries (id, dead_letter_id, event_id, new_event_id, at)"
        " WITH RECURSIVE n(i) AS (SELECT -99999 UNION ALL SELECT i + 1 FROM n WHERE i < 0)"
        " SELECT i, 1, 1, i, 1e9 FROM n",
    )
    assert spool.at(queue_path).retry_dead_letters([1, 2], lambda data, _: data)[0] == {1: 11, 2: 12}
    found = sql(queue_path, "SELECT count(*), min(new_event_id), max(new_event_id) FROM retries")
    assert found == [(100_000, -99_997, 12)]


@pytest.mark.parametrize(("count", "size_bytes"), [(3500, 10), (30, 1_000_000)])
def test_dead_letters_expire_in_steps(queue_path, sql, figures, count, size_bytes):
    """However many dead letters are too old, others can write after each thousand and each few MB."""
    EventQueue(queue_path).close()
    sql(
        queue_path,
        "INSERT INTO dead_letters (event_id, data, event, insert_id, reason, field, accepted_at, dead_at)"
        " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        " SELECT i, zeroblob(?), '', '', 'bad', '', 1.0, iif(i % 10, 100.0, 300.0) FROM n",
        (count, size_bytes),
    )
    sql(queue_path, "UPDATE ledger SET dead_lettered = ?", (count,))
    sql(queue_path, "INSERT INTO sqlite_sequence VALUES ('ack_queue_default', ?)", (count,))
    consumer = Consumer(queue_path)
    statements = []
    consumer._database.connect().set_trace_callback(statements.append)
    assert consumer.discard_dead_letters(200.0) == count * 9 // 10
    consumer._database.connect().set_trace_callback(None)
    consumer.close()
    steps = "\n".join(statements).split("COMMIT")
    deleted = [step.count("DELETE FROM dead_letters") for step in steps]
    assert max(deleted) <= min(1000, 5_000_000 // size_bytes)
    assert (figures(queue_path).discarded, figures(queue_path).dead_letters) == (sum(deleted), count // 10)
    assert sql(queue_path, "SELECT DISTINCT dead_at FROM dead_letters") == [(300.0,)]


# Disk


def test_drained_queue_gives_the_disk_back(queue, queue_path, figures):
    """After everything was delivered, tidying in short steps leaves less than 10 MiB on disk."""
    queue.put_many({"event": "A", "properties": {"text": "x" * 1000}} for _ in range(30_000))
    consumer = Consumer(queue_path)
    after_id = 0
    while (claim := consumer.claim_behind(after_id, 2000, 10 * MIB)).ids:
        consumer.settle(Settlement(claim.ids))
        after_id = claim.last_id
    on_disk = [path.stat().st_size for path in Path(queue_path).iterdir()]
    assert sum(on_disk) > 30 * MIB
    steps = 0
    while consumer.maintain(at_rest=True):
        steps += 1
    assert 2 < steps < 20
    sizes = {path.name: path.stat().st_size for path in Path(queue_path).iterdir()}
    assert sum(sizes.values()) < 10 * MIB + RESERVE_BYTES
    assert sizes["data.db"] + sizes["data.db-wal"] < 10 * MIB
    assert sizes["reserve"] == RESERVE_BYTES
    assert figures(queue_path).delivered == 30_000
    consumer.close()


def test_tidying_hinders_nobody(consumer, queue, queue_path):
    """While somebody reads for long, tidying neither waits for it nor lets producers wait; later it is
    made up for."""
    reader = sqlite3.connect(f"{queue_path}/data.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM ack_queue_default").fetchone()
    queue.put(event(11))
    done = threading.Event()

    def tidy():
        assert consumer.maintain(at_rest=True)
        done.set()

    thread = threading.Thread(target=tidy)
    thread.start()
    assert done.wait(5), "tidying waits for the reader"
    thread.join()
    queue.put(event(12))
    reader.close()
    assert not consumer.maintain(at_rest=True)
    assert os.stat(f"{queue_path}/data.db-wal").st_size == 0
    # And it waits for others again.
    assert consumer._database.connect().execute("PRAGMA busy_timeout").fetchone() == (10_000,)


def test_a_replaced_database_is_never_trusted_again(queue_path):
    """Once its file was replaced a consumer settles in none, not even in one of the old inode number."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put({"event": "A", "properties": {}})
    consumer = Consumer(queue_path)
    claim = consumer.claim_behind(0, 10, 10**6)
    database = Path(queue_path, "data.db")
    first = database.rename(f"{queue_path}/first.db")
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put({"event": "B", "properties": {}})
    with pytest.raises(QueueReplacedError):
        consumer.settle(Settlement(claim.ids))
    first.rename(database)
    with pytest.raises(QueueReplacedError):
        consumer.settle(Settlement(claim.ids))
    consumer.close()


def test_a_restored_backup_is_noticed(consumer, queue, queue_path, figures):
    """Once SQLite has restored an earlier state of this very queue, rows that came later are not taken for
    those that were claimed under their numbers, whenever the backup was made."""
    live = sqlite3.connect(f"{queue_path}/data.db")
    backup = sqlite3.connect(":memory:")
    live.backup(backup)
    queue.put_many(event(number) for number in range(10, 20))
    claim = consumer.claim_behind(0, 100, MIB)
    assert len(claim.ids) == 20
    backup.backup(live)
    live.close()
    backup.close()
    queue.put_many(event(number) for number in range(20, 40))
    for step in (lambda: consumer.settle(Settlement(claim.ids)), consumer.control, consumer._tidy):
        with pytest.raises(QueueReplacedError, match="restored"):
            step()
    assert (figures(queue_path).waiting, figures(queue_path).delivered) == (30, 0)


def test_a_second_consumer_is_noticed(consumer, queue_path):
    """The one that has begun last goes on; the other settles nothing any more."""
    claim = consumer.claim_behind(0, 10, MIB)
    other = Consumer(queue_path)
    with pytest.raises(QueueReplacedError, match="another daemon"):
        consumer.settle(Settlement(claim.ids))
    assert ids_in(queue_path) == list(claim.ids)
    other.settle(Settlement(claim.ids))
    assert ids_in(queue_path) == []
    other.close()


def test_a_change_of_the_tables_costs_no_event(consumer, queue_path, sql):
    """Where an external producer has added an index, the next consumer hands out what this one had."""
    claim = consumer.claim_behind(0, 10, MIB)
    sql(queue_path, "CREATE INDEX by_status ON ack_queue_default (status)")
    with pytest.raises(QueueReplacedError):
        consumer.settle(Settlement(claim.ids))
    with closing(Consumer(queue_path)) as later:
        assert later.claim_behind(0, 10, MIB) == claim


def test_consumer_that_could_not_sign_at_first(queue, queue_path, sql):
    """Begun while the queue was locked, a consumer signs in with what it settles first."""
    queue.put_many(event(number) for number in range(3))
    other = sqlite3.connect(f"{queue_path}/data.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    consumer = Consumer(queue_path, lock_timeout_s=0.1)
    other.close()
    assert sql(queue_path, "SELECT consumer FROM control") == [(None,)]
    consumer.settle(Settlement([1]))
    assert sql(queue_path, "SELECT consumer IS NULL FROM control") == [(0,)]
    consumer.settle(Settlement([2, 3]))
    assert ids_in(queue_path) == []
    consumer.close()


def test_a_row_left_for_want_of_room_that_becomes_an_event_is_not_lost(
    consumer, queue_path, rows, sql, figures, monkeypatch
):
    """A row that a plain consumer had acked, left as there was no room to sweep it, and that this consumer
    gives back: nothing takes it for done, and the next start hands it out with its bytes."""
    stored = rows(queue_path)
    sql(queue_path, "UPDATE ack_queue_default SET status = 5 WHERE _id = 2")
    with monkeypatch.context() as full:
        full.setattr(consumer, "_free", no_room)
        claim = consumer.claim_behind(0, 100, MIB)
    assert 2 not in claim.ids
    sql(queue_path, "UPDATE ack_queue_default SET status = 1 WHERE _id = 2")
    consumer.settle(Settlement(claim.ids))
    monkeypatch.setattr(consumer, "_retry_at", 0.0)
    while consumer.maintain(at_rest=True):
        pass
    assert figures(queue_path).waiting == 1
    with closing(Consumer(queue_path)) as later:
        assert later.claim_behind(0, 100, MIB).events == [stored[1]]


@pytest.mark.parametrize("fails", [False, True])
def test_rows_left_for_want_of_room_are_all_met_again(consumer, queue_path, sql, figures, monkeypatch, fails):
    """Of more than one step of rows that were left, tidying takes out all once there is room, and one step
    that fails for a lock is taken again."""
    sql(queue_path, "UPDATE ack_queue_default SET status = 5")
    sql(
        queue_path,
        "INSERT INTO ack_queue_default (data, timestamp, status)"
        " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500)"
        " SELECT 'no event', 1.6e9, 0 FROM n",
    )
    after_id = 0
    with monkeypatch.context() as full:
        full.setattr(consumer, "_free", no_room)
        while (claim := consumer.claim_behind(after_id, 100, MIB)).last_id > after_id:
            after_id = claim.last_id
            assert (claim.ids, claim.dead, claim.reason) == ([], 0, "")
        assert consumer.maintain(at_rest=True), "there is more to do"
    monkeypatch.setattr(consumer, "_retry_at", 0.0)
    if fails:
        consumer.wait_for_locks(0)
        other = sqlite3.connect(f"{queue_path}/data.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TryAgainError):
            consumer.maintain(at_rest=True)
        other.close()
    while consumer.maintain(at_rest=True):
        pass
    found = figures(queue_path)
    assert (found.waiting, found.deleted, found.dead_lettered) == (0, 10, 2500)


def test_numbers_that_no_row_has_any_more_are_passed_over(consumer, queue_path, sql):
    """Where others have deleted the newest rows, nothing seems to wait behind the claims for ever."""
    sql(queue_path, "DELETE FROM ack_queue_default WHERE _id > 6")
    assert consumer.arrivals() == 10
    assert [*consumer.claim(4, MIB).ids] == [1, 2, 3, 4]
    claim = consumer.claim(4, MIB)
    while claim.left:
        claim = consumer.claim(4, MIB)
        assert len(claim.ids) == 0
    assert consumer.arrivals() == 0


def test_what_is_asked_for_is_of_the_directory_that_was_opened(consumer, queue_path, monkeypatch):
    """Where the directory is moved just then, another one's lack of a pause is not taken for this one's."""
    asked = control.asked

    def move_first(path):
        os.rename(queue_path, f"{queue_path}-moved")
        os.mkdir(queue_path)
        return asked(path)

    control.pause(queue_path)
    monkeypatch.setattr(control, "asked", move_first)
    with pytest.raises(QueueReplacedError):
        consumer.control()


def test_the_log_is_not_emptied_beside_a_writer(consumer, queue, queue_path):
    """Whoever empties the log holds the writer lock: SQLite before 3.51.3 may lose what another writes to a
    log that is begun again just then."""
    statements = []
    consumer.maintain(at_rest=True)
    queue.put(event(11))
    consumer._database.connect().set_trace_callback(statements.append)
    writer = WriterLock(f"{queue_path}/writer.lock")
    with writer.held(5):
        assert consumer.maintain(at_rest=True), "there is more to do"
        assert not queue._producer._database.empty_log()
        assert not [one for one in statements if "wal_checkpoint" in one]
    assert not consumer.maintain(at_rest=True)
    assert [one for one in statements if "wal_checkpoint(TRUNCATE)" in one]
    writer.close()


def no_room(_step):
    raise SpoolFullError("full")


def test_log_is_short_though_readers_are_always_there(consumer, queue, queue_path, monkeypatch):
    """Readers of whom always one is there keep the log from being begun again; then writers wait for them,
    not for long, and it is empty."""
    monkeypatch.setattr(room, "LONG_BYTES", MIB)
    monkeypatch.setattr(room, "RETRY_S", 0.0)
    log = Path(f"{queue_path}/data.db-wal")
    over = threading.Event()
    readers = [threading.Thread(target=read_again_and_again, args=(queue_path, n, over)) for n in range(3)]
    for reader in readers:
        reader.start()
    try:
        while log.stat().st_size < 16 * MIB:  # four times what SQLite would let it become
            queue.put_many(event(number) for number in range(500))
        longest_s = 0.0
        while log.stat().st_size:
            began_at = time.monotonic()
            consumer.maintain(at_rest=False)
            longest_s = max(longest_s, time.monotonic() - began_at)
        assert all(reader.is_alive() for reader in readers)
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert longest_s < 2 * room.PATIENCE_S
    # And it waits for others again.
    assert consumer._database.connect().execute("PRAGMA busy_timeout").fetchone() == (10_000,)


def read_again_and_again(queue_path, number, over):
    """Look at the queue for 30 ms, again and again."""
    over.wait(number / 100)
    with closing(
        sqlite3.connect(f"file:{queue_path}/data.db?mode=ro", uri=True, isolation_level=None)
    ) as reader:
        while not over.is_set():
            reader.execute("BEGIN")
            reader.execute("SELECT delivered FROM ledger").fetchone()
            over.wait(0.03)
            reader.execute("COMMIT")


def test_long_log_waits_for_a_long_reader_ever_more_seldom(consumer, queue, queue_path, monkeypatch):
    """A reader who does not go keeps writers waiting for a fraction of the time only."""
    monkeypatch.setattr(room, "LONG_BYTES", 0)
    monkeypatch.setattr(room, "PATIENCE_S", 0.01)
    monkeypatch.setattr(room, "RETRY_S", 1.0)
    long_log = room.LongLog(queue_path)
    with closing(sqlite3.connect(f"{queue_path}/data.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT delivered FROM ledger").fetchone()
        queue.put(event(11))
        tried_at = []
        for now in range(100):
            if long_log.is_due(now):
                assert not long_log.shorten(queue._producer._database, now)
                tried_at.append(now)
    assert tried_at == [0, 1, 3, 7, 15, 25, 35, 45, 55, 65, 75, 85, 95]
    assert long_log.shorten(queue._producer._database, 105)
    assert not long_log.is_due(105)
