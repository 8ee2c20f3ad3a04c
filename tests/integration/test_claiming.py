"""Rows read in one piece are those that would be read one by one, whatever stands in the table."""

import os
import random
import sqlite3
import uuid
from contextlib import closing

import pytest

from forwarder.records import EVENTS
from forwarder.records.event import accept_many
from forwarder.records.lines import Lines, text_of
from forwarder.spool import EventQueue
from forwarder.spool.origin import Origin
from forwarder.spool.sqlite.claiming import RowReader

MIB = 1 << 20
ORIGIN = Origin(EVENTS, str(uuid.UUID(int=7)), 1_600_000_000.0)


@pytest.fixture
def table(queue_path):
    """The open database of a queue that holds nothing."""
    EventQueue(queue_path, min_free_bytes=0).close()
    with closing(sqlite3.connect(os.path.join(queue_path, "data.db"), isolation_level=None)) as connection:
        yield connection


def own(count, size=10):
    """So many final events."""
    line = b'{"event":"A","properties":{"distinct_id":"u","number":%d,"text":"%s"}}'
    lines = [line % (number, "é".encode() * size) for number in range(count)]
    records, refused = accept_many(lines, 1_700_000_000_000)
    assert not refused
    return records


def insert(table, data, status=1, row_id=None):
    table.execute("INSERT INTO ack_queue_default VALUES (?, ?, 1.6e9, ?)", (row_id, data, status))


def claims(reader, table, max_events, max_bytes):
    """All claims from the first row on, as plain values, by reading until nothing is left."""
    found, after_id = [], 0
    while True:
        claim, dead, acked = reader.read(table, after_id, max_events, max_bytes)
        if claim.last_id == after_id:
            return found
        found.append((list(claim.ids), list(claim.events), claim.size_bytes, claim.last_id, dead, acked))
        after_id = claim.last_id


class OneByOne(RowReader):
    """A reader that never tries a piece."""

    def _in_one_piece(self, *_):
        return None


STRANGE = [
    (b'{"event":"A","properties":{"distinct_id":"d"}}', 0),
    (b'{"event":"A","properties":{"distinct_id":"d"}}', 1),
    (b'{"event":"A",\n"properties":{"time":1,"$insert_id":"x"}}', 1),
    (b'{"event":"A","properties":{"time":1,"$insert_id":"x"}}', 2),
    (b'{"event":"A","properties":{"time":1,"$insert_id":"x"}}', 5),
    (b'{"event":"A","properties":{"time":1,"$insert_id":"x"}}', None),
    (b'{"event":"A","properties":{"time":1,"$insert_id":"x"}}' * 2, 1),
    (b"", 1),
    (None, 1),
    (b"\n", 1),
    (b"\x80\x04K\x01.", 1),
    (b'{"event":"A\x00","properties":{"time":1,"$insert_id":"x"}}', 1),
    ('{"event":"A","properties":{"time":1,"$insert_id":"é"}}', 1),
    (17, 1),
]


@pytest.mark.parametrize("seed", range(20))
def test_both_ways_of_reading_find_the_same(table, seed):
    """With external rows, damaged ones, gaps and events of any size, each claim is the same either way."""
    rng = random.Random(seed)
    rows = [(record, 1) for size in (10, 2000) for record in own(200, size)]
    strange = rng.choice([0, 2, 60])
    for row in rng.choices(STRANGE, k=strange):
        rows.insert(rng.randrange(len(rows)), row)
    table.execute("BEGIN")
    for data, status in rows:
        insert(table, data, status)
    for row_id in rng.sample(range(1, len(rows) + 1), rng.choice([0, 1, 40])):
        table.execute("DELETE FROM ack_queue_default WHERE _id = ?", (row_id,))
    table.execute("COMMIT")
    for most, most_bytes in ((1, MIB), (7, MIB), (50, MIB), (2000, 50_000), (2000, MIB), (3, 0)):
        alone = claims(OneByOne(ORIGIN), table, most, most_bytes)
        assert claims(RowReader(ORIGIN), table, most, most_bytes) == alone
    whole = RowReader(ORIGIN).read(table, 0, 7, MIB)[0].size_bytes
    for most_bytes in (whole, whole - 1):
        assert claims(RowReader(ORIGIN), table, 7, most_bytes) == claims(
            OneByOne(ORIGIN), table, 7, most_bytes
        )
    assert any(ids for ids, *_ in alone)


FINAL = b'{"event":"A","properties":{"time":1,"$insert_id":"x"}}'


@pytest.mark.parametrize(
    "rows",
    [
        [None, FINAL + b"\n" + FINAL],
        [FINAL * 2, b""],
        [FINAL * 2, b"  "],
        [b" " + FINAL, FINAL],
        [FINAL.replace(b"A", b"A" * ((1 << 20) + 1)), FINAL],
        [FINAL.decode(), FINAL],
        [FINAL, FINAL + b" "],
    ],
    ids=range(7),
)
def test_rows_that_make_up_for_each_other_are_told_apart(table, rows):
    """Where one row holds two events and another none, the sums are right; each is read for itself then."""
    for data in rows:
        insert(table, data)
    alone = claims(OneByOne(ORIGIN), table, 2000, 4 * MIB)
    assert claims(RowReader(ORIGIN), table, 2000, 4 * MIB) == alone


def test_own_rows_are_read_in_one_piece(table):
    """Of rows of our own none is looked at by itself: one statement, and the bytes that will be sent."""
    records = own(2000)
    table.execute("BEGIN")
    for record in records:
        insert(table, record)
    table.execute("COMMIT")
    statements = []
    table.set_trace_callback(statements.append)
    claim, dead, acked = RowReader(ORIGIN).read(table, 0, 2000, MIB)
    assert len(statements) == 1
    assert isinstance(claim.events, Lines)
    assert claim.events.text == text_of(records) == b"\n".join(records) + b"\n"
    assert (len(claim.events), list(claim.ids), dead, acked) == (2000, list(range(1, 2001)), [], [])
    assert claim.size_bytes == len(claim.events.text)


def test_large_events_are_not_put_together_in_vain(table):
    """Where the bytes bound a claim, SQLite stops at them, and later claims don't try."""
    table.execute("BEGIN")
    for record in own(60, 100_000):
        insert(table, record)
    table.execute("COMMIT")
    statements = []
    table.set_trace_callback(statements.append)
    reader = RowReader(ORIGIN)
    assert [len(ids) for ids, *_ in claims(reader, table, 2000, 2 * MIB)] == [10] * 6
    assert [statement.startswith("SELECT count(*)") for statement in statements] == [True, *[False] * 6, True]
    assert table.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) > 100 * MIB, "what is larger can be read again"


def test_lines_are_cut_when_one_is_asked_for():
    """Events in one piece are a sequence as any other."""
    events = own(3)
    lines = Lines(b"".join(event + b"\n" for event in events), 3)
    assert (len(lines), lines[1], lines[-1], lines[:2]) == (3, events[1], events[2], events[:2])
    assert lines == events
    assert lines != events[:2]
    assert list(Lines(b"", 0)) == []
