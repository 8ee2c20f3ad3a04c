"""P2 and P3: SIGKILL at any moment loses nothing, changes nothing and leaves the books balanced."""

import random
import time

from forwarder.records.event import accept_many
from forwarder.sandbox import Fault
from forwarder.spool import EventQueue
from tests.conftest import each_engine

EVENTS = 50_000
# On a server each start waits for the lease of the one before.
KILLS = {"directory": 10, "server": 4}


@each_engine
def test_killed_again_and_again(request, forwarder, server, queue_path, oracle, figures, rows, until):
    """Daemons killed during one delivery of 50 000 events: none is lost, none is changed."""
    kills = KILLS[request.node.callspec.params["queue_path"]]
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
    for _ in range(kills):
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
        assert server.ledger.accepted - accepted < EVENTS / kills * 3
        figures(queue_path)
    assert struck >= kills * 3 // 4, "killed while events were in flight"
    assert rows(queue_path), "killed before it was done"
    server.clear()
    last = forwarder.daemon()
    until(lambda: not rows(queue_path), "the queue is empty", 40)
    assert last.stop() == 0
    assert server.ledger.repeats > 0, "something was delivered and not settled before a kill"
    assert server.ledger.accepted == EVENTS
    oracle(queue_path, server, offered)
    found = figures(queue_path)
    assert (found.accepted, found.delivered, found.waiting) == (EVENTS, EVENTS, 0)
