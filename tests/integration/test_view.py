"""Looking never disturbs: what `View` reads is right, and reading it leaves no trace."""

import json
import os
import re
import sqlite3

import pytest

from forwarder import spool
from forwarder.errors import ConfigError, StorageError
from forwarder.spool import Dead, EventQueue, NoQueueError, Selection, Settlement
from forwarder.spool.sqlite import books, reader
from forwarder.spool.sqlite.consumer import Consumer
from forwarder.spool.sqlite.view import View

ALL = Selection()
MIB = 1 << 20


def event(number, name="A"):
    return {"event": name, "properties": {"distinct_id": "u-1", "number": number}}


@pytest.fixture
def busy_path(queue_path):
    """A queue with a history: 20 accepted, 5 delivered, 4 dead, of these 1 retried and 1 deleted."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put_many(event(number, "AB"[number % 2]) for number in range(20))
    consumer = Consumer(queue_path)
    claim = consumer.claim_behind(0, 9, MIB)
    dead = [
        Dead(row_id, claim.events[row_id - 1], reason, "properties.x", 400)
        for row_id, reason in ((2, "Too Long"), (4, "too long"), (5, "blank"), (7, "Too Long"))
    ]
    consumer.settle(Settlement(claim.ids, dead, size_bytes=100, http_status=400))
    spool.at(queue_path).retry_dead_letters([1], lambda data, _: data)
    spool.at(queue_path).delete_dead_letters([2])
    consumer.close()
    return queue_path


def look(view):
    """Everything that a view can be asked."""
    view.figures(), view.peek(100), view.dead_letters(ALL), view.summary(ALL)
    view.count_dead_letters(ALL)
    assert all(finding.ok for finding in books.check(view))


# Disturbing nobody


def test_looking_cannot_write(busy_path):
    """The connection that looks is refused any writing."""
    with View(busy_path) as view, pytest.raises(sqlite3.OperationalError, match="readonly"):
        view.connection.execute("DELETE FROM dead_letters")


def test_looking_holds_nothing_between_calls(busy_path, sql):
    """Between two looks nothing is held: the log can be written back and cut to nothing."""
    with View(busy_path) as view:
        for step in (
            view.figures,
            lambda: view.peek(1),
            lambda: view.dead_letters(ALL, limit=1),
            lambda: view.summary(ALL),
            lambda: books.check(view),
        ):
            sql(busy_path, "UPDATE ledger SET short = short")
            step()
            assert not view.connection.in_transaction
            assert sql(busy_path, "PRAGMA wal_checkpoint(TRUNCATE)") == [(0, 0, 0)]


def test_figures_are_of_one_instant(busy_path):
    """The figures are read in one instant: they balance, whatever others do meanwhile."""
    with View(busy_path) as view, EventQueue(busy_path, min_free_bytes=0) as queue:
        # A statement of its own for each figure would see what is put in between.
        view.connection.set_trace_callback(lambda _: queue.put(event(0)))
        figures = view.figures()
        view.connection.set_trace_callback(None)
        assert figures.waiting == figures.accepted - 9
        assert figures.accepted <= view.figures().accepted


# What is shown


def test_figures_balance(busy_path):
    """accepted = delivered + dead-lettered + deleted + waiting, and each is what has happened."""
    with View(busy_path) as view:
        found = view.figures()
    assert (found.accepted, found.delivered, found.dead_lettered, found.deleted) == (21, 5, 4, 0)
    assert (found.waiting, found.dead_letters, found.retried, found.discarded) == (12, 2, 1, 1)
    assert found.accepted == found.delivered + found.dead_lettered + found.deleted + found.waiting
    assert found.oldest_waiting_at <= found.last_delivery_at
    assert (found.paused, found.short, found.rate_1m) == (False, 0, 5 / 60)
    assert found.db_bytes + found.wal_bytes > 0
    assert found.disk_free_bytes > 0


def test_empty_queue_has_figures(queue_path):
    """A queue that nothing has happened in yet has figures: nothing of everything."""
    EventQueue(queue_path).close()
    with View(queue_path) as view:
        found = view.figures()
        look(view)
        assert (view.peek(5), view.dead_letters(ALL), view.summary(ALL)) == ([], [], [])
    assert (found.accepted, found.waiting, found.oldest_waiting_at, found.last_delivery_at) == (
        0,
        0,
        None,
        None,
    )


def test_peek_shows_the_next_rows(busy_path):
    """The next events are shown in the order of delivery, as they are stored, page by page."""
    with View(busy_path) as view:
        first = view.peek(3)
        assert [row.id for row in first] == [10, 11, 12]
        assert [row.id for row in view.peek(100, after_id=12)] == list(range(13, 22))
    assert [json.loads(row.data)["properties"]["number"] for row in first] == [9, 10, 11]
    assert all(row.status == 1 and row.accepted_at > 1e9 for row in first)


def test_dead_letters_are_looked_through_in_short_reads(queue_path, sql, monkeypatch):
    """However many dead letters there are, listing, counting and summing up read a few at a time."""
    monkeypatch.setattr(reader, "_CHUNK_IDS", 10)
    monkeypatch.setattr(books, "CHUNK_IDS", 10)
    EventQueue(queue_path).close()
    sql(
        queue_path,
        "INSERT INTO dead_letters (id, event_id, data, event, insert_id, reason, field, accepted_at, dead_at)"
        " WITH RECURSIVE n(i) AS (SELECT 50 UNION ALL SELECT i + 1 FROM n WHERE i < 149)"
        " SELECT i, i, x'7b7d', 'A', '', iif(i % 20, 'bad', 'worse'), '', 1.0, 2.0 FROM n",
    )
    statements = []
    worse = Selection(reason="worse")
    with View(queue_path) as view:
        view.connection.set_trace_callback(statements.append)
        assert [letter.id for letter in view.dead_letters(worse)] == [60, 80, 100, 120, 140]
        assert [letter.id for letter in view.dead_letters(worse, after_id=60, limit=2)] == [80, 100]
        assert [letter.id for letter in view.dead_letters(ALL, limit=12)] == list(range(50, 62))
        assert (view.count_dead_letters(worse), view.count_dead_letters(ALL)) == (5, 100)
        assert [group.count for group in view.summary(ALL)] == [95, 5]
        assert view.dead_letters(ALL, after_id=149) == []
        assert not all(finding.ok for finding in books.check(view)), "these are not in the totals"
        view.connection.set_trace_callback(None)
    reads = [one for one in statements if "FROM dead_letters" in one and "BETWEEN" in one]
    spans = [re.search(r"id BETWEEN (\d+) AND (\d+)", one) for one in reads]
    assert len(spans) > 40
    assert max(int(span[2]) - int(span[1]) for span in spans) < 10


def test_summary_groups_what_died_of_the_same(busy_path):
    """Dead letters are summed up by reason, field, HTTP status and event, the largest group first."""
    consumer = Consumer(busy_path)
    claim = consumer.claim_behind(9, 4, MIB)
    consumer.settle(
        Settlement(claim.ids, [Dead(row_id, b'{"event":"Z"}', "blank", "f") for row_id in claim.ids])
    )
    consumer.close()
    with View(busy_path) as view:
        groups = view.summary(ALL)
    assert [(group.reason, group.event, group.count) for group in groups] == [
        ("blank", "Z", 4),
        ("blank", "A", 1),
        ("Too Long", "A", 1),
    ]
    assert groups[0].example_id == 5
    assert groups[0].first_at == groups[0].last_at


# Finding faults


def faults(queue_path):
    with View(queue_path) as view:
        return {finding.name for finding in books.check(view) if not finding.ok}


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        ("DELETE FROM ack_queue_default WHERE _id = 15", {"books: queue"}),
        ("DELETE FROM dead_letters WHERE id = 3", {"books: dead letters"}),
        ("UPDATE ledger SET delivered = delivered + 1", {"books: queue", "books: deliveries"}),
        ("UPDATE ledger SET deleted = deleted - 1", {"books: queue"}),
        ("UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'ack_queue_default'", {"books: queue"}),
        ("UPDATE ledger SET discarded = discarded + 1", {"books: dead letters"}),
    ],
)
def test_books_that_do_not_balance_are_found(busy_path, sql, harm, found):
    """A row that is missing, or a total that is wrong, is found by checking the books."""
    assert faults(busy_path) == set()
    sql(busy_path, harm)
    assert faults(busy_path) == found


def test_books_balance_while_others_go_on(queue_path, monkeypatch):
    """Checking the books in short reads raises no false alarm while events come and go."""
    monkeypatch.setattr(books, "CHUNK_IDS", 10)
    monkeypatch.setattr(reader, "_CHUNK_IDS", 10)
    with EventQueue(queue_path, min_free_bytes=0) as queue, View(queue_path) as view:
        queue.put_many(event(number) for number in range(400))
        consumer = Consumer(queue_path)
        consumer.settle(Settlement(range(1, 201), [Dead(number, b"{}", "bad") for number in range(1, 201)]))
        settled, deleted = iter(range(201, 401)), iter(range(200, -400, -1))

        def go_on(statement):
            queue.put(event(0))
            number = next(settled)
            consumer.settle(Settlement([number], [Dead(number, b"{}", "bad")] if number % 3 == 0 else []))
            spool.at(queue_path).delete_dead_letters([next(deleted), next(deleted)])

        view.connection.set_trace_callback(go_on)
        findings = books.check(view)
        view.connection.set_trace_callback(None)
        consumer.close()
    assert next(settled) > 210
    assert [finding for finding in findings if not finding.ok] == []


def test_damage_is_found(busy_path, sql):
    """A damaged page is found, and looking at it is an error of storage, not a bug."""
    sql(busy_path, "PRAGMA wal_checkpoint(TRUNCATE)")
    [(page,)] = sql(busy_path, "SELECT rootpage FROM sqlite_master WHERE name = 'ack_queue_default'")
    with open(f"{busy_path}/data.db", "r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    assert "integrity" in faults(busy_path)
    with View(busy_path) as view, pytest.raises(StorageError, match="damaged"):
        view.peek(100)


# Where there is nothing to look at


def test_directory_without_a_queue_is_said(queue_path):
    """In an empty directory as well there is no queue, and nothing is put there by looking."""
    os.mkdir(queue_path)
    with pytest.raises(NoQueueError):
        View(queue_path)
    assert os.listdir(queue_path) == []


def test_queue_that_was_not_adopted_yet_is_said(queue_path):
    """A queue that only plain persist-queue has used is no queue of ours yet, and is not made one."""
    import persistqueue.serializers.json

    plain = persistqueue.SQLiteAckQueue(queue_path, serializer=persistqueue.serializers.json)
    plain.put(event(0))
    with pytest.raises(NoQueueError, match="adopts it"):
        View(queue_path)
    assert plain.qsize() == 1
    plain.close()


def test_path_with_odd_characters(tmp_path):
    """Characters that mean something in a URI are ordinary ones in a path."""
    path = str(tmp_path / "a b?c=%41#d")
    EventQueue(path).close()
    with View(path) as view:
        assert view.figures().accepted == 0


def test_database_of_something_else_is_a_setting(queue_path):
    """A path to another program's database is a wrong setting."""
    os.mkdir(queue_path)
    connection = sqlite3.connect(f"{queue_path}/data.db")
    connection.execute("CREATE TABLE users (id)")
    connection.close()
    with pytest.raises(ConfigError, match="made by another program"):
        View(queue_path)
