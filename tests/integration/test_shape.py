"""What waits by name and age, from a real queue."""

from __future__ import annotations

import time

import pytest

from forwarder import spool
from forwarder.records import EVENTS
from forwarder.service import shape
from forwarder.service.shape import PAGE, PAGES
from tests.conftest import each_engine


def put(queue, count, name="A", **properties):
    queue.put_many({"event": name, "properties": properties} for _ in range(count))


def look(queue_path, now=None):
    with spool.at(queue_path).view() as view:
        return shape.look(view, EVENTS, view.figures().due, now or time.time())


@each_engine
def test_a_short_queue_is_counted_exactly(queue, queue_path):
    """Of as many as are sampled each is counted once, by name, the most frequent first; held ones do not."""
    put(queue, 150)
    put(queue, PAGES * PAGE - 160, "B")
    put(queue, 10, "C")
    spool.at(queue_path).hold(range(1, 51))
    found = look(queue_path)
    assert [(name, sum(ages)) for name, ages in found.counts] == [("B", 1840), ("A", 100), ("C", 10)]
    assert (found.sampled, found.is_sample) == (PAGES * PAGE - 50, False)


@each_engine
def test_of_a_long_queue_a_sample_is_scaled(queue, queue_path):
    """Pages from all over the queue are read, so that what stands last counts as what stands first."""
    put(queue, 3000, "First")
    put(queue, 3000, "Last")
    found = look(queue_path)
    counts = {name: sum(ages) for name, ages in found.counts}
    assert (found.sampled, found.is_sample) == (PAGES * PAGE, True)
    assert counts.keys() == {"First", "Last"}
    assert all(2900 <= count <= 3100 for count in counts.values())
    assert sum(found.totals) == pytest.approx(6000, abs=2)


def test_ages_are_told_apart(queue, queue_path, sql):
    """An age is in the first column that it is not older than; a timestamp from the future is no age."""
    put(queue, 7)
    now = time.time()
    for row_id, age_s in enumerate((-100, 4, 50, 200, 3000, 80_000, 90_000), 1):
        sql(queue_path, "UPDATE ack_queue_default SET timestamp = ? WHERE _id = ?", (now - age_s, row_id))
    assert look(queue_path, now).counts == (("A", (2, 1, 1, 1, 1, 1)),)


def test_large_rows_end_the_sample_early(queue, queue_path):
    """However large the rows are, few bytes are read; the counts are scaled all the same."""
    put(queue, 2 * PAGE * 10, pad="x" * 10_000)
    found = look(queue_path)
    assert found.sampled < 1000
    assert found.is_sample
    assert sum(found.totals) == pytest.approx(2 * PAGE * 10, abs=1)


@each_engine
def test_an_empty_queue_has_no_shape(queue, queue_path):
    """Where nothing waits nothing is counted, and what can't be read as an event has no name."""
    assert look(queue_path) == shape.Shape((), 0, is_sample=False)
    assert look(queue_path).totals == ()
    queue.append([b"\x80not json"])
    assert look(queue_path).counts == (("", (1, 0, 0, 0, 0, 0)),)
