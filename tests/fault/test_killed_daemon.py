"""P2 and P3: SIGKILL at any moment loses nothing, changes nothing and leaves the books balanced."""

import random
import time

from forwarder.records.event import accept_many
from forwarder.sandbox import Fault
from forwarder.spool import EventQueue
from forwarder.spool.sqlite import books
from forwarder.spool.sqlite.view import View

EVENTS = 100_000
KILLS = 20


def test_killed_again_and_again(forwarder, server, queue_path, oracle, rows, until):
    """Twenty daemons killed during one delivery of 100 000 events: none is lost, none is changed."""
    lines = [
        b'{"event":"e%d","properties":{"distinct_id":"user-%d","n":%d}}' % (n % 7, n % 1000, n)
        for n in range(EVENTS)
    ]
    offered, refused = accept_many(lines, int(time.time() * 1000))
    assert refused == []
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.append(offered)
    # So that most of a daemon's life is spent waiting for an answer.
    server.inject(Fault.slow(0.05))
    dice = random.Random(4711)
    struck = 0
    for _ in range(KILLS):
        daemon = forwarder.daemon(wait=False)
        requests, accepted = server.ledger.request_count, server.ledger.accepted
        # Some are killed before anything is taken, some between the answer and the settling.
        more = dice.choice((0, 0, 1, 1, 2, 3))
        server.wait_for(
            lambda ledger, enough=requests + more: ledger.request_count >= enough and ledger.in_progress, 20
        )
        struck += server.ledger.in_progress > 0
        daemon.kill()
        server.wait_for(lambda ledger: not ledger.in_progress)
        assert server.ledger.accepted - accepted < EVENTS / KILLS * 3
        oracle_of_books(queue_path)
    assert struck >= KILLS * 3 // 4, "killed while events were in flight"
    assert rows(queue_path), "killed before it was done"
    server.clear()
    last = forwarder.daemon()
    until(lambda: not rows(queue_path), "the queue is empty", 40)
    assert last.stop() == 0
    assert server.ledger.repeats > 0, "something was delivered and not settled before a kill"
    assert server.ledger.accepted == EVENTS
    oracle(queue_path, server, offered)
    with View(queue_path) as view:
        figures = view.figures()
    assert (figures.accepted, figures.delivered, figures.waiting) == (EVENTS, EVENTS, 0)


def oracle_of_books(queue_path):
    """The totals agree with the rows that are there, at any moment."""
    with View(queue_path) as view:
        assert [finding for finding in books.check(view) if not finding.ok] == []
