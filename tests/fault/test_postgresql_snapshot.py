"""P7 on a server: an old snapshot, of a report or a dump, keeps vacuum away from all that passes meanwhile.

``FORWARDER_CRASH_S=60`` lets a million events pass.
"""

import time
from contextlib import closing

import psycopg

from forwarder.spool import Settlement
from tests.conftest import until
from tests.on_server import CRASH_S, LIMITS, MIB, consumer_of, data, figures

EVENTS = 1_000_000 if CRASH_S else 100_000
BATCH = 2000
# Of the server alone; a command has to start, too.
STATUS_S = 0.1
LEAST_RATE = 0.7
SLOWEST_OF = 5


def pass_through(remote, count):
    """Put, claim and settle so many; returns the rate of claiming and settling, in events per second."""
    records = [data(number) for number in range(BATCH)]
    took_s = 0.0
    with consumer_of(remote.address) as consumer, closing(remote.spool.producer(**LIMITS)) as producer:
        for _ in range(count // BATCH // 5):
            for _ in range(5):
                producer.append(records)
            started_at = time.monotonic()
            consumer.arrivals()
            while (claim := consumer.claim(BATCH, 2 * MIB)).ids:
                consumer.settle(Settlement(claim.ids, size_bytes=claim.size_bytes))
            consumer.maintain(at_rest=False)
            took_s += time.monotonic() - started_at
        # Once a second it notes below which id nothing waits.
        until(lambda: consumer.maintain(at_rest=False) and not consumer._is_stirred, "it is noted")
    return count / took_s


def looking_s(remote):
    """How long the figures take, and a look at what is next: the best of a few, as others use the machine."""
    found = []
    with remote.spool.view() as view:
        for _ in range(SLOWEST_OF):
            started_at = time.monotonic()
            view.figures()
            view.peek(10)
            found.append(time.monotonic() - started_at)
    return min(found)


def first_claim_s(remote):
    """How long a daemon that takes over needs for its first claim."""
    started_at = time.monotonic()
    with consumer_of(remote.address) as consumer:
        consumer.arrivals()
        consumer.claim(BATCH, 2 * MIB)
    return time.monotonic() - started_at


def test_an_old_snapshot_slows_nothing_down(remote):
    """Neither delivery nor looks nor a takeover, though no row that has left can be removed."""
    without = pass_through(remote, EVENTS)
    with psycopg.connect(remote.address.url) as old:
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute(f"SELECT count(*) FROM {remote.address.schema}.control")
        rate = pass_through(remote, EVENTS)
        status_s, claim_s = looking_s(remote), first_claim_s(remote)
        dead_rows = "SELECT pg_relation_size(%s::regclass)"
        with psycopg.connect(remote.address.url) as connection:
            ((size,),) = connection.execute(dead_rows, [f"{remote.address.schema}.queue"]).fetchall()
    print(
        f"\n{EVENTS:,} events, {size / 1e6:.0f} MB of rows that have left: {rate:,.0f} events/s with an old"
        f" snapshot, {without:,.0f} without ({rate / without:.2f})"
        f"; figures and a look {status_s * 1000:.1f} ms, first claim {claim_s * 1000:.1f} ms"
    )
    assert size > EVENTS * 100, "they were removed"
    assert rate >= LEAST_RATE * without
    assert status_s <= STATUS_S
    assert claim_s <= 2 * STATUS_S
    assert figures(remote.address).delivered == 2 * EVENTS
