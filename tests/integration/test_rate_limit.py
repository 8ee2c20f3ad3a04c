"""The daemon at a server's rate limit: over real HTTP, with the 429s that the sandbox's limit gives."""

import json
import time

from forwarder import spool
from forwarder.records.event import accept
from forwarder.sandbox import Fault
from forwarder.service import state
from forwarder.spool import EventQueue

# Events per second: a machine that is busy with other things comes by more, too.
RATE = 200
FAST = {
    "FORWARDER_DELIVERY_BATCH_EVENTS": "10",
    "FORWARDER_DELIVERY_RETRY_INITIAL_S": "0.5",
    "FORWARDER_DELIVERY_RETRY_MAX_S": "1",
}


def put(queue_path, numbers):
    """Put so many events into the queue; returns their final bytes."""
    now_ms = int(time.time() * 1000)
    given = [
        {"event": "signup", "properties": {"time": now_ms, "$insert_id": f"id-{n}", "distinct_id": "d"}}
        for n in numbers
    ]
    events = [accept(json.dumps(each).encode(), now_ms) for each in given]
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.append(events)
    return events


def test_connections_fall_at_a_rate_limit_and_rise_without_it(
    forwarder, server, queue_path, rows, until, oracle
):
    """They grow until the server says 429, are fewer then, and grow again when it no longer does."""
    server.inject(Fault.slow(0.03))
    limit = server.inject(Fault.rate_limit(RATE))
    offered = put(queue_path, range(2000))
    forwarder.daemon(**FAST)

    def daemon():
        return state.read(spool.at(queue_path))

    seen = []
    until(lambda: seen.append(daemon().connections) or max(seen) >= 3, "connections grow")
    until(
        lambda: (
            seen.append(daemon().connections) or (daemon().state == "backing_off" and seen[-1] < max(seen))
        ),
        "a 429 makes them fewer",
    )
    assert limit.used > 0
    until(lambda: not rows(queue_path), "all is delivered at the limit", 60)
    refused = [request.status for request in server.ledger.requests].count(429)
    assert 0 < refused <= server.ledger.request_count / 2

    server.clear()
    server.inject(Fault.slow(0.03))
    offered += put(queue_path, range(2000, 12_000))
    until(lambda: daemon().connections == 10, "connections rise again", 60)
    until(lambda: not rows(queue_path), "all is delivered", 60)
    oracle(queue_path, server, offered)
