"""What producers were refused is counted by reason, by the way."""

from __future__ import annotations

import os
from contextlib import closing

import pytest

from forwarder.errors import EventError, TryAgainError
from forwarder.spool import EventQueue, refused
from forwarder.spool.sqlite.lock import LOCK, WriterLock
from forwarder.spool.sqlite.view import View

GOOD = {"event": "E", "properties": {}}
BAD = {"event": "E", "properties": {"time": "now"}}
NAMELESS = {"event": "", "properties": {}}


def _written(queue_path: str) -> dict[str, int]:
    with View(queue_path) as view:
        return view.refused()


def _refuse(queue: EventQueue, event=BAD) -> None:
    with pytest.raises(EventError):
        queue.put(event)


def test_refusals_go_along_with_the_next_commit(queue, queue_path):
    """A refused put writes nothing; the next accepted one writes how many there were, in its own commit."""
    queue.put(GOOD)
    size = os.path.getsize(f"{queue_path}/data.db-wal")
    for event in (BAD, BAD, NAMELESS):
        _refuse(queue, event)
    with pytest.raises(EventError):
        queue.put_many([GOOD, BAD])
    assert os.path.getsize(f"{queue_path}/data.db-wal") == size
    assert _written(queue_path) == {}
    queue.put(GOOD)
    assert _written(queue_path) == {"event_name": 1, "time": 3}
    queue.put(GOOD)
    assert _written(queue_path) == {"event_name": 1, "time": 3}


def test_a_queue_that_is_closed_writes_what_is_left(queue, queue_path):
    """Without another event, the counts are written when the queue is closed."""
    _refuse(queue)
    queue.close()
    assert _written(queue_path) == {"time": 1}
    _refuse(queue)
    queue.close()
    assert _written(queue_path) == {"time": 2}


def test_a_queue_that_was_moved_away_is_not_made_again(queue, queue_path):
    """Counts are not worth a directory where there is none any more."""
    _refuse(queue)
    os.rename(queue_path, f"{queue_path}-moved")
    queue.close()
    assert not os.path.exists(queue_path)


def test_refusals_alone_are_written_once_a_minute(queue, queue_path, monkeypatch):
    """A producer of which nothing is accepted is seen, and has no commit a refusal."""
    now = refused.time.monotonic()
    monkeypatch.setattr(refused.time, "monotonic", lambda: now)
    for _ in range(3000):
        _refuse(queue)
    assert _written(queue_path) == {}
    now += refused.WRITE_EACH_S
    _refuse(queue)
    assert _written(queue_path) == {"time": 3001}
    _refuse(queue)
    assert _written(queue_path) == {"time": 3001}


def test_a_refusal_does_not_fail_where_it_can_not_be_counted(queue_path, monkeypatch):
    """While the queue is locked or full, the producer gets the refusal alone; it is counted later."""
    now = refused.time.monotonic()
    with EventQueue(queue_path, max_bytes=1, min_free_bytes=0) as full:
        _refuse(full)
        with pytest.raises(TryAgainError):
            full.put(GOOD)
    assert _written(queue_path) == {"time": 1}, "it takes next to no room, and is written when it is closed"

    lock = WriterLock(os.path.join(queue_path, LOCK), lambda: None)
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        with closing(lock), lock.held(10):
            monkeypatch.setattr(refused.time, "monotonic", lambda: now + refused.WRITE_EACH_S + 1)
            _refuse(queue)
            queue.close()
        assert _written(queue_path) == {"time": 1}
        queue.put(GOOD)
        assert _written(queue_path) == {"time": 2}


def test_a_fork_does_not_count_twice(queue, queue_path):
    """What a process was refused before a fork is written by it, and not by its child too."""
    queue.put(GOOD)
    _refuse(queue)
    child = os.fork()
    if child == 0:
        try:
            queue.put(GOOD)
            _refuse(queue, NAMELESS)
            queue.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert _written(queue_path) == {"event_name": 1}
    queue.close()
    assert _written(queue_path) == {"event_name": 1, "time": 1}


def test_the_command_counts_what_it_refuses(forwarder, queue_path):
    """Lines and single events are counted, and `status` says how many; with --check nothing is."""
    lines = '{"event": "E", "properties": {}}\nnot JSON\n[{"event": ""}, {"event": "E", "properties": {}}]\n'
    assert forwarder("enqueue", "--check", stdin=lines).returncode == 65
    assert not os.path.exists(queue_path)
    assert forwarder("enqueue", stdin=lines).stdout == "accepted 2 events, refused 2\n"
    assert _written(queue_path) == {"event_name": 1, "not_json": 1}
    assert forwarder("enqueue", "-e", "E", "-d", "null").returncode == 65
    assert _written(queue_path) == {"distinct_id": 1, "event_name": 1, "not_json": 1}
    assert forwarder.json("status")["refused"] == 3
