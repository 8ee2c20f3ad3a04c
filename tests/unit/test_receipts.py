"""What became of records, by their ids: the part that is the same for every engine."""

from __future__ import annotations

import random

import pytest

from forwarder.spool import MOST_AHEAD, joined, runs_in, runs_of, text_of
from forwarder.spool.receipts import (
    PAGE_ENTRIES,
    PAGE_IDS,
    PAGE_RUNS,
    Entry,
    Left,
    Letter,
    Oldest,
    Renewal,
    Row,
    find,
)


class Source:
    """Places that a test fills, and how they were read."""

    def __init__(self, newest=1000):
        self.newest, self.waiting, self.held, self.log, self.dead, self.put_back = newest, {}, {}, [], [], []
        self.log_start = self.renewals_start = None
        self.reads = []
        self.between = lambda step: None

    def newest_id(self):
        return self.newest

    def rows(self, runs):
        self.reads.append(runs)
        found = tuple(
            [Row(row_id, at) for row_id, at in sorted(rows.items()) if _has(runs, row_id)]
            for rows in (self.waiting, self.held)
        )
        self.between("rows")
        return found

    def count_rows(self, first, end, most):
        assert most > 0
        return min(sum(first <= row_id < end for row_id in self.waiting), most)

    def letters(self, runs):
        return [letter for letter in self.dead if _has(runs, letter.event_id)]

    def renewals(self, first, last):
        return [renewal for renewal in self.put_back if first <= renewal.event_id <= last]

    def entries(self, before):
        page = [entry for entry in self.log[::-1] if entry.id < before][:PAGE_ENTRIES]
        self.reads.append(len(page))
        return page

    def oldest_renewal(self):
        return self.renewals_start

    def oldest_entry(self):
        self.between("oldest")
        return self.log_start


def _has(runs, row_id):
    return any(first <= row_id <= last for first, last in runs)


def entry(number, ids, dead_ids="", at=None, put_at=None):
    at = number * 10.0 if at is None else at
    return Entry(number, ids, dead_ids, 200, 1, 0.1, at, at - 1 if put_at is None else put_at)


def states(found):
    return [(receipt.first, receipt.last, receipt.state) for receipt in found]


@pytest.mark.parametrize(
    ("ids", "text"),
    [([], ""), ([7], "7"), ([1, 2, 3], "1-3"), (range(1, 2001), "1-2000"), ([1, 3, 4, 9], "1,3-4,9")],
)
def test_ids_as_text(ids, text):
    """Runs and the text of the delivery log are the same ids."""
    assert text_of(runs_of(ids)) == text
    if text:
        assert [row_id for first, last in runs_in(text) for row_id in range(first, last + 1)] == [*ids]


@pytest.mark.parametrize("text", ["", "x", "1-", "-1", "3-1", "1,,2", "1 2", "1-2-3", "1_0", "²", "9" * 19])
def test_what_is_no_text_of_ids(text):
    """It is refused, and not half understood."""
    with pytest.raises(ValueError, match="neither an id nor a range"):
        runs_in(text)


def test_left_gives_each_id_once():
    """Whatever is taken, in any order: what was taken and what is left are the ids that were asked for."""
    rng = random.Random(1)
    for _ in range(300):
        runs = [(first, first + rng.randrange(5)) for first in rng.choices(range(60), k=rng.randrange(1, 9))]
        wanted = {row_id for first, last in runs for row_id in range(first, last + 1)}
        left, taken = Left(runs), []
        while left.runs:
            first = rng.randrange(65)
            last = first + rng.randrange(12)
            is_there = left.has(first, last)
            more = left.take(first, last)
            assert bool(more) == is_there
            assert all(first <= low <= high <= last for low, high in more)
            taken += [row_id for low, high in more for row_id in range(low, high + 1)]
            assert left.runs == joined(left.runs)
            rest = [row_id for low, high in left.runs for row_id in range(low, high + 1)]
            assert sorted(taken + rest) == sorted(wanted)


def test_reads_are_short():
    """However many ids are asked for, one read is of so many ids and so many runs."""
    source = Source(newest=10**6)
    find(source, [(1, 25_000), *((n, n) for n in range(30_000, 35_000, 2))])
    pages = [read for read in source.reads if isinstance(read, list)]
    assert max(map(len, pages)) == PAGE_RUNS
    assert max(sum(last - first + 1 for first, last in page) for page in pages) == PAGE_IDS
    assert sum(last - first + 1 for page in pages for first, last in page) == 27_500


def test_the_log_is_read_as_far_as_needed():
    """Newest first, until all is found."""
    source = Source(newest=10**6)
    source.log = [entry(n, f"{n * 10}-{n * 10 + 9}") for n in range(1, 3 * PAGE_ENTRIES)]
    newest = 3 * PAGE_ENTRIES - 1
    source.reads.clear()
    (found,) = find(source, [(newest * 10 + 2, newest * 10 + 2)])
    assert (found.state, found.request, found.events) == ("delivered", newest, 10)
    assert source.reads[1:] == [PAGE_ENTRIES]
    (found,) = find(source, [(10, 10)])
    assert (found.state, found.request) == ("delivered", 1)


def test_rows_before_are_counted_to_a_limit():
    """What is before an id, held ones not; beyond the limit it is the limit."""
    source = Source(newest=10**6)
    source.waiting = dict.fromkeys(range(5, 300_000), 1.0)
    del source.waiting[20]
    source.held = {20: 1.0}
    found = find(source, [(5, 5), (19, 21), (1000, 1000), (200_000, 200_001), (299_000, 299_000)])
    assert [(receipt.first, receipt.state, receipt.ahead) for receipt in found] == [
        (5, "waiting", 0),
        (19, "waiting", 14),
        (20, "held", None),
        (21, "waiting", 15),
        (1000, "waiting", 994),
        (200_000, "waiting", MOST_AHEAD),
        (299_000, "waiting", MOST_AHEAD),
    ]


def test_a_record_that_moves_meanwhile_is_found():
    """It has left its row after its row was looked for: then it is in the place behind."""
    moves = {
        "delivered": lambda source: source.log.append(entry(1, "5")),
        "dead": lambda source: source.dead.append(Letter(5, 1, "bad", "", 400, "E", 1.0)),
        "retried": lambda source: source.put_back.append(Renewal(5, 1, 9, 1.0)),
    }
    for state, move in moves.items():
        source = Source()
        source.between = lambda step, move=move, source=source: step == "rows" and move(source)
        assert states(find(source, [(5, 5)])) == [(5, 5, state)]


def test_what_is_in_no_place_was_deleted():
    """If all that was ever delivered or put back is known."""
    source = Source()
    source.log, source.log_start = [entry(1, "1-4,6-9")], Oldest(1, 10.0)
    assert states(find(source, [(1, 1), (5, 10)])) == [
        (1, 1, "delivered"), (5, 5, "deleted"), (6, 9, "delivered"), (10, 10, "deleted")
    ]  # fmt: skip


def test_a_log_that_was_shortened():
    """What came after its first entry was deleted; what came before may have been delivered or not."""
    source = Source(newest=100)
    # The entry 3 was accepted before entry 2 was settled, entry 4 after it.
    source.log = [entry(2, "11-14"), entry(3, "15,17-19", put_at=19.0), entry(4, "21-29", put_at=21.0)]
    source.log += [entry(5, "31-39", put_at=35.0)]
    source.log_start = Oldest(2, 20.0)
    found = find(source, [(9, 40)])
    assert states(found) == [
        (9, 10, "unknown"), (11, 14, "delivered"), (15, 15, "delivered"), (16, 16, "unknown"),
        (17, 19, "delivered"), (20, 20, "unknown"), (21, 29, "delivered"), (30, 30, "deleted"),
        (31, 39, "delivered"), (40, 40, "deleted"),
    ]  # fmt: skip
    assert {receipt.at for receipt in found if receipt.state == "unknown"} == {20.0}


def test_a_log_that_is_shortened_meanwhile():
    """What was removed before it was read may have been the entry that was looked for."""
    source = Source()
    source.log, source.log_start = [entry(1, "1"), entry(2, "2")], Oldest(1, 10.0)

    def shorten(step):
        if step == "rows":
            del source.log[0]
            source.log_start = Oldest(2, 20.0)

    source.between = shorten
    assert states(find(source, [(1, 2)])) == [(1, 1, "unknown"), (2, 2, "delivered")]


def test_retries_that_are_no_longer_known():
    """A dead letter that is gone may have been retried, if that was before the first retry that is known."""
    source = Source(newest=100)
    source.log = [entry(1, "1-9", "3"), entry(2, "11-19", "13")]
    source.log_start, source.renewals_start = Oldest(1, 10.0), Oldest(7, 15.0)
    found = find(source, [(3, 4), (13, 13), (20, 20)])
    assert states(found) == [
        (3, 3, "unknown"), (4, 4, "delivered"), (13, 13, "deleted"), (20, 20, "deleted")
    ]  # fmt: skip
    assert found[0].at == 15.0
    source.renewals_start = Oldest(1, 15.0)
    assert states(find(source, [(3, 3)])) == [(3, 3, "deleted")]


def test_an_entry_that_is_damaged_says_nothing():
    """The others are read."""
    source = Source()
    source.log = [entry(1, "1-9"), entry(2, "11-"), entry(3, "12", "x")]
    assert states(find(source, [(9, 9), (12, 12)])) == [(9, 9, "delivered"), (12, 12, "deleted")]


def test_which_were_refused_may_not_be_known():
    """Of a request before these tables had it: then none of its records was delivered for sure."""
    source = Source()
    source.log = [entry(1, "1-3", None), entry(2, "4-5")]
    source.dead = [Letter(2, 9, "bad", "f", 400, "A", 1.0)]
    assert states(find(source, [(1, 5)])) == [
        (1, 1, "unknown"),
        (2, 2, "dead"),
        (3, 3, "unknown"),
        (4, 5, "delivered"),
    ]
