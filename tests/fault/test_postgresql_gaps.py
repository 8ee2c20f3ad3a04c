"""P2 on a server: ids are given before commits, and no event is left behind because a later one came first.

``FORWARDER_CRASH_S=60`` tries 25 seeds.
"""

import random
import threading
import time
from contextlib import ExitStack, suppress

import psycopg
import pytest

from forwarder.errors import ForwarderError, StorageError, TryAgainError
from forwarder.sandbox import Fault
from forwarder.spool import EventQueue, Settlement
from forwarder.spool.postgresql import consumer as consumers
from forwarder.spool.postgresql import settling
from forwarder.spool.postgresql.client import Connection
from forwarder.spool.postgresql.gaps import Gaps
from tests.on_server import CRASH_S, MIB, consumer_of, data, dead, deliver, event, figures, number_of, proven

SEEDS = range(25 if CRASH_S else 3)
PRODUCERS, TRANSACTIONS = 12, 25


class Producers:
    """Twelve, each with a connection of its own: eight by SQL in transactions of their own, four as the
    forwarder's.

    Attributes:
        committed: The numbers of the events that were.
    """

    def __init__(self, address, seed):
        self.committed = []
        self._address = address
        self._threads = [threading.Thread(target=self._work, args=(seed, n)) for n in range(PRODUCERS)]
        for thread in self._threads:
            thread.start()

    @property
    def are_at_work(self):
        return any(thread.is_alive() for thread in self._threads)

    def _work(self, seed, producer):
        dice = random.Random(seed * PRODUCERS + producer)
        numbers = iter(range(producer * 10**6, 10**9))
        if producer % 3 == 0:
            with EventQueue(self._address.url, schema=self._address.schema) as queue:
                for _ in range(TRANSACTIONS):
                    some = [next(numbers) for _ in range(dice.randrange(1, 5))]
                    queue.put_many(map(event, some))
                    self.committed += some
            return
        with psycopg.connect(self._address.url) as connection:
            for _ in range(TRANSACTIONS):
                self._transaction(connection, dice, numbers)

    def _transaction(self, connection, dice, numbers):
        done = []
        connection.execute("SELECT 1")  # the transaction begins, and has no number yet
        for _ in range(dice.randrange(1, 4)):
            some = [next(numbers) for _ in range(dice.randrange(1, 4))]
            with connection.transaction():  # a savepoint
                insert(connection, self._address, *some)
                others_first(dice.random() * 0.01)
                if dice.random() < 0.1:
                    raise psycopg.Rollback
                done += some
        others_first(dice.random() * 0.03)
        if dice.random() < 0.1:
            connection.rollback()
            return
        connection.commit()
        self.committed += done


def others_first(seconds):
    """Let others commit first: it is the load, nothing depends on how long it takes."""
    threading.Event().wait(seconds)


def insert(connection, address, *numbers):
    with connection.cursor() as cursor:
        query = f"INSERT INTO {address.schema}.queue (data) VALUES (%s)"
        cursor.executemany(query, [[data(number)] for number in numbers])


@pytest.fixture
def late(monkeypatch):
    """The ids of rows that came late, in gaps."""
    found, fill = [], Gaps.fill

    def noted(self, ids):
        found.extend(ids)
        fill(self, ids)

    monkeypatch.setattr(Gaps, "fill", noted)
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_none_is_missed_and_none_is_claimed_twice(remote, seed, late, until):
    """With random waits before COMMIT, rollbacks and savepoints: by the looks into the gaps, and not because
    all was read again."""
    with consumer_of(remote.address) as consumer:
        producers, found = Producers(remote.address, seed), []
        while producers.are_at_work:
            found += deliver(consumer)
            consumer.maintain(at_rest=True)
        found += deliver(consumer)
        until(lambda: deliver(consumer) == [] and not consumer._gaps, "all gaps are closed")
        assert consumer._openings == 0
    assert late
    assert sorted(map(number_of, found)) == sorted(producers.committed)
    books = figures(remote.address)
    assert (books.delivered, books.waiting) == (len(found), 0)


def test_while_one_transaction_stays_open_others_are_delivered(remote, server, until):
    """By a daemon, which then delivers what was held up, without a restart."""
    remote.daemon()
    with psycopg.connect(remote.address.url) as connection:
        insert(connection, remote.address, 0)
        with EventQueue(remote.address.url, schema=remote.address.schema) as queue:
            for number in range(1, 20):
                queue.put(event(number))
        until(lambda: remote.figures().delivered == 19, "the others are delivered")
    until(lambda: remote.figures().delivered == 20, "it is delivered")
    assert server.ledger.repeats == 0
    proven(remote.address, server, range(20))


@pytest.mark.parametrize("broken", ["the settlement", "the answer"])
@pytest.mark.parametrize("where", ["behind", "gap"])
def test_a_claim_that_fails_has_claimed_nothing(remote, monkeypatch, broken, where):
    """When what is no event can't be settled, or the server warns with its answer, all is claimed again."""
    address = remote.address
    with consumer_of(address) as consumer, psycopg.connect(address.url) as connection:
        insert(connection, address, 0)
        connection.execute(f"INSERT INTO {address.schema}.queue (data) VALUES ('no event')")
        if where == "gap":
            with EventQueue(address.url, schema=address.schema) as queue:
                queue.put(event(1))
            assert [number_of(each) for each in deliver(consumer)] == [1]
        connection.commit()
        consumer.arrivals()
        with monkeypatch.context() as patch:
            if broken == "the settlement":
                patch.setattr(settling, "settle", fails)
            else:
                patch.setattr(consumer._client, "run", after(consumer._client.run, fails))
            with pytest.raises(ForwarderError):
                consumer.claim(100, MIB)
        claim = consumer.claim(100, MIB)
        assert (list(map(number_of, claim.events)), claim.dead) == ([0], 1)
        consumer.settle(Settlement(claim.ids))
        assert list(consumer.claim(100, MIB).ids) == []
        assert consumer._openings == 0
    assert figures(address).waiting == 0
    assert dead(address) == [b"no event"]


def fails(*_):
    raise TryAgainError("the connection was lost")


def after(step, then):
    def both(*arguments):
        step(*arguments)
        then()

    return both


@pytest.mark.parametrize("gone", [[0], [2], [0, 1, 2]])
@pytest.mark.parametrize("when", ["before", "in flight"])
def test_what_others_delete_counts_as_deleted(remote, server, until, gone, when):
    """Before a daemon starts, and while it is in flight: the books are exact without another event."""
    address = remote.address
    if when == "in flight":
        server.inject(Fault.hang(taken=True), times=1)
        remote.daemon()
    with EventQueue(address.url, schema=address.schema) as queue:
        queue.put_many(map(event, range(3)))
    if when == "in flight":
        server.wait_for(lambda ledger: ledger.accepted == 3)
    content = "convert_from(data, 'UTF8')::jsonb -> 'properties' ->> '$insert_id'"
    with psycopg.connect(address.url) as connection:
        names = [f"id-{number}" for number in gone]
        done = connection.execute(f"DELETE FROM {address.schema}.queue WHERE {content} = ANY(%s)", [names])
        assert done.rowcount == len(gone)
    if when == "in flight":
        server.release()
    else:
        remote.daemon()

    def are_exact():
        with suppress(AssertionError):
            return (found := remote.figures()).waiting == 0 and found

    found = until(are_exact, "the books are exact")
    assert (found.accepted, found.deleted) == (3, len(gone))


def test_what_no_claim_has_found_is_read_again(remote, until, monkeypatch):
    """The net below: a row of which nobody knows waits no longer than seconds, without another event. The log
    says so, as of each error."""
    monkeypatch.setattr(consumers, "MISSED_S", 0.5)
    with consumer_of(remote.address) as consumer:
        with EventQueue(remote.address.url, schema=remote.address.schema) as queue:
            queue.put(event(0))
        consumer.arrivals()
        consumer._position = consumer._newest
        consumer.arrivals()
        with pytest.raises(StorageError, match="no claim has found"):
            until(lambda: not consumer.maintain(at_rest=True), "it looks again")
        assert [number_of(each) for each in deliver(consumer)] == [0]


def test_many_gaps_beside_an_open_transaction_cost_little(remote):
    """Each claim looks into all of them: by the index, and not row by row."""
    schema = remote.address.schema
    with consumer_of(remote.address) as consumer, psycopg.connect(remote.address.url) as open_one:
        open_one.execute(f"INSERT INTO {schema}.intake (n) VALUES (0)")
        with psycopg.connect(remote.address.url, autocommit=True) as others:
            for _ in range(1000):
                others.execute("BEGIN")
                others.execute(f"INSERT INTO {schema}.queue (data) VALUES ('x')")
                others.execute("ROLLBACK")
                others.execute(f"INSERT INTO {schema}.queue (data) VALUES (%s)", [data(0)])
        assert len(deliver(consumer)) == 1000
        with EventQueue(remote.address.url, schema=schema) as queue:
            queue.append([data(number) for number in range(20_000)])
        started_at = time.monotonic()
        assert len(deliver(consumer)) == 20_000
        # 281 a second without the index.
        assert time.monotonic() - started_at < 15


@pytest.fixture
def transaction(remote):
    """Opens a transaction, each on a connection of its own."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(psycopg.connect(remote.address.url))


def test_a_gap_stays_for_those_above_the_last_that_ended(remote, transaction):
    """Its horizon is not the snapshot's xmax: transactions with higher numbers may run by then."""
    with consumer_of(remote.address) as consumer:
        first, idle, late = transaction(), transaction(), transaction()
        for each in (first, idle, late):
            each.execute("SELECT pg_current_xact_id()")
        insert(late, remote.address, 1)
        insert(first, remote.address, 2)
        first.commit()
        assert [number_of(each) for each in deliver(consumer)] == [2]
        idle.rollback()
        assert deliver(consumer) == []
        late.commit()
        assert [number_of(each) for each in deliver(consumer)] == [1]


@pytest.mark.parametrize("look", ["arrivals", "claim"])
def test_a_gap_stays_if_its_row_comes_while_it_is_looked_into(remote, transaction, monkeypatch, look):
    """Which transactions are open is read before the rows are, or the last look would come too early."""
    late = transaction()
    insert(late, remote.address, 1)
    with EventQueue(remote.address.url, schema=remote.address.schema) as queue:
        queue.put(event(2))
    with consumer_of(remote.address) as consumer:
        assert [number_of(each) for each in deliver(consumer)] == [2]
        rows = Connection.rows

        def then_it_comes(connection, query, values=()):
            found = rows(connection, query, values)
            if "unnest" in query:
                late.commit()
            return found

        with monkeypatch.context() as patch:
            patch.setattr(Connection, "rows", then_it_comes)
            consumer.arrivals() if look == "arrivals" else consumer.claim(10, MIB)
        assert [number_of(each) for each in deliver(consumer)] == [1]


def test_a_transaction_has_its_number_before_its_first_id(remote, transaction, until):
    """Or a gap would be given up though somebody is about to fill it."""
    with EventQueue(remote.address.url, schema=remote.address.schema) as queue:
        queue.put(event(0))  # from now on, the sequence gives ids without a number
        holder, late = transaction(), transaction()
        holder.execute("SELECT pg_advisory_lock(1)")
        content = f"convert_to('{data(1).decode()}' || left(pg_advisory_lock(1)::text, 0), 'UTF8')"
        query = f"INSERT INTO {remote.address.schema}.queue (data) VALUES ({content})"
        thread = threading.Thread(target=lambda: (late.execute(query), late.commit()))
        thread.start()
        until(lambda: holder.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall(), "it waits")
        queue.put(event(2))
        with consumer_of(remote.address) as consumer:
            assert [number_of(each) for each in deliver(consumer)] == [0, 2]
            assert deliver(consumer) == []
            holder.execute("SELECT pg_advisory_unlock(1)")
            thread.join()
            assert [number_of(each) for each in deliver(consumer)] == [1]
