"""P1 and P2 on three servers: the primary is killed under load again and again, and a standby takes over.

``FORWARDER_CRASH_S=60`` kills 20 times.
"""

import random
import threading
from contextlib import suppress

import psycopg
import pytest

from forwarder.errors import ForwarderError
from forwarder.spool import EventQueue, QueueReplacedError, Settlement
from tests.on_server import CRASH_S, MIB, consumer_of, data, deliver, event, figures, number_of, proven

KILLS = 20 if CRASH_S else 2
PRODUCERS = 4


class Producers:
    """Three of the forwarder's and one by SQL.

    Attributes:
        acknowledged: The numbers of events that were.
        unknown: Those that were offered, and perhaps are accepted.
    """

    def __init__(self, address):
        self.acknowledged, self.unknown = [], []
        self._address = address
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(PRODUCERS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        for thread in self._threads:
            thread.join(40)
            assert not thread.is_alive()

    def _work(self, producer):
        dice, numbers = random.Random(producer), iter(range(producer * 10**6, 10**9))
        address = self._address
        with EventQueue(address.url, schema=address.schema, lock_timeout_s=3) as queue:
            while not self._ended.is_set():
                some = [next(numbers) for _ in range(dice.choice([1, 1, 5, 50]))]
                try:
                    self._by_sql(some) if producer == 0 else queue.put_many(map(event, some))
                    self.acknowledged += some
                except (ForwarderError, psycopg.Error):
                    self.unknown += some

    def _by_sql(self, numbers):
        with psycopg.connect(self._address.url, connect_timeout=2) as connection:
            query = f"INSERT INTO {self._address.schema}.queue (data) VALUES (%s)"
            connection.cursor().executemany(query, [[data(number)] for number in numbers])


@pytest.mark.timeout(120 + 20 * KILLS)
def test_a_killed_primary_loses_no_acknowledged_event(replicated, cluster, server, until):
    """Two daemons and the producers find the new one by the URL; what they were told is in is delivered."""
    daemons = [replicated.daemon(wait=not n) for n in range(2)]
    with Producers(replicated.address) as producers:
        for _ in range(KILLS):
            for progress in (lambda: len(producers.acknowledged), lambda: server.ledger.accepted):
                before = progress()
                until(lambda p=progress, b=before: p() > b + 200, "all goes on", 40)
            old = cluster.primary
            old.kill()
            cluster.fail_over()
            cluster.rejoin(old)
    until(lambda: replicated.figures().waiting == 0, "all is delivered", 40)
    found = proven(replicated.address, server, producers.acknowledged, unknown=producers.unknown)
    assert found.dead_lettered == found.deleted == 0
    assert any(daemon.logged("queue.failed") for daemon in daemons)
    assert all(daemon.process.poll() is None for daemon in daemons)
    offered = f"{len(producers.acknowledged):,} acknowledged, {len(producers.unknown):,} unknown"
    print(f"\n{KILLS} kills: {offered}, {found.delivered:,} delivered, {server.ledger.repeats:,} repeats")


def test_ids_that_only_the_old_primary_had_mean_nothing_on_the_new_one(replicated, cluster, server, until):
    """A COMMIT that was cancelled shows rows that no standby has. A promoted one gives their ids to others:
    those are not settled for the first, and not passed over."""
    address = replicated.address
    with EventQueue(address.url, schema=address.schema) as queue:
        queue.put(event(0))
    with consumer_of(address) as consumer:
        deliver(consumer)
        lost_only = range(100, 150)  # more than the ids that a sequence gives ahead
        for standby in cluster.standbys:
            standby.stop()
        thread = threading.Thread(target=insert_cancelled, args=(address, lost_only))
        thread.start()
        cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        until(lambda: cluster.primary.execute(cancel), "it waits for a standby")
        thread.join(20)
        until(consumer.arrivals, "they show")
        claim = consumer.claim(100, MIB)
        assert [number_of(each) for each in claim.events] == [*lost_only]
        cluster.primary.kill()
        for standby in cluster.standbys:
            standby.start()
        old = next(each for each in cluster.servers if not each.is_running)
        cluster.fail_over()
        cluster.rejoin(old)
        with EventQueue(address.url, schema=address.schema) as queue:
            queue.put_many(map(event, range(1, 50)))
            first = queue.put(event(50)) - 49
        assert first <= claim.ids[-1], "no id was given twice"
        with pytest.raises(QueueReplacedError):
            consumer.settle(Settlement(claim.ids))
    with consumer_of(address) as consumer:
        assert [number_of(each) for each in deliver(consumer)] == [*range(1, 51)]
    found = figures(address)
    assert (found.delivered, found.waiting) == (51, 0)


def insert_cancelled(address, numbers):
    """The program that inserts takes the warning for what it is."""
    with suppress(psycopg.Error), psycopg.connect(address.url) as connection:
        query = f"INSERT INTO {address.schema}.queue (data) SELECT unnest(%s::bytea[])"
        connection.execute(query, [[data(number) for number in numbers]])
