"""The relay hands each event over once: killed at random under load, and exactly between its two commits;
with the directory restored from an older copy, rows deleted meanwhile, or a commit that no standby has.

``FORWARDER_CRASH_S`` makes it 100 kills; ``FORWARDER_TEST_SEED=7`` repeats the kills of that seed.
"""

import json
import os
import random
import shutil
import signal
import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing

import psycopg
import pytest

from forwarder.spool import EventQueue
from tests.relays import Host

SEED = int(os.environ.get("FORWARDER_TEST_SEED", "20261"))
KILLS = 100 if "FORWARDER_CRASH_S" in os.environ else 12
TOKEN = "0123456789abcdef0123456789abcdef"
# What the producers are ahead of the relay at most.
AHEAD = 3000


@pytest.fixture
def host(postgres, queue_path):
    """A host with a queue of its own and one on a server."""
    with closing(Host(queue_path, postgres, postgres.new_schema_name())) as host:
        host.set_up()
        yield host


@pytest.fixture
def kill_between(host, until):
    """Kill a relay when it has handed over what waits, and not settled it."""

    def kill():
        before, waiting = len(host.insert_ids()), host.here().due
        with closing(psycopg.connect(host.owner.url)) as there, closing(connected(host)) as here:
            there.execute(f"LOCK TABLE {host.schema}.queue IN SHARE MODE")
            relay = host.relay()
            until(host.is_handing_over, "a batch is on its way")
            here.execute("BEGIN IMMEDIATE")
            there.rollback()
            until(lambda: len(host.insert_ids()) == before + waiting, "the server has it")
            relay.kill()
        assert host.here().due == waiting

    return kill


@pytest.fixture
def emptied(host, until):
    """Let a relay run until nothing waits on the host; the books of both sides."""

    def run():
        relay = host.relay()
        until(lambda: host.here().due == 0, "nothing waits", 60)
        assert relay.stop() == 0
        return host.here(), host.there()

    return run


def connected(host):
    return sqlite3.connect(f"{host.queue_path}/data.db", isolation_level=None, timeout=20)


def event(number):
    return {
        "event": "e",
        "properties": {"distinct_id": "d", "$insert_id": f"id-{number}", "time": 1_700_000_000},
    }


def put(host, *numbers):
    """In one commit, so that they are one batch."""
    with EventQueue(host.queue_path, min_free_bytes=0, rules=False) as queue:
        queue.put_many(map(event, numbers))


def ids(*numbers):
    return [f"id-{number}" for number in numbers]


class Producer(threading.Thread):
    """Puts events, and updates of one profile, as long as the relay can follow."""

    def __init__(self, host):
        super().__init__()
        self.host = host
        self.count = self.updates = self.relayed = 0
        self.over = threading.Event()

    def run(self):
        dice = random.Random(SEED)
        with EventQueue(self.host.queue_path, min_free_bytes=0, rules=False) as queue:
            while not self.over.is_set():
                if self.count > self.relayed + AHEAD:
                    self.over.wait(0.01)
                    continue
                many = dice.randrange(1, 300)
                queue.put_many(map(event, range(self.count, self.count + many)))
                self.count += many
                update = {"$token": TOKEN, "$distinct_id": "d", "$append": {"n": self.updates}}
                queue.put_profile(update)
                self.updates += 1


def unsettled(host):
    """How many of the rows that were handed over last are still here."""
    found = 0
    with closing(connected(host)) as here:
        for suffix in ("", "_engage"):
            rows = host.server.execute(f"SELECT ids FROM {host.schema}.sources{suffix}")
            given = json.dumps([row_id for (these,) in rows for row_id in these])
            table = f"ack_queue{suffix or '_default'}"
            query = f"SELECT count(*) FROM {table} WHERE _id IN (SELECT value FROM json_each(?))"
            found += here.execute(query, [given]).fetchone()[0]
    return found


def wait_for_batches(host, count):
    """Wait until the server has taken over that many, and return at once: what is asked for has no pause."""
    before, deadline = None, time.monotonic() + 30
    query = f"SELECT ids FROM {host.schema}.sources"
    with psycopg.connect(host.owner.url, autocommit=True) as server:
        while count:
            assert time.monotonic() < deadline
            found = server.execute(query).fetchall()
            count -= before not in (None, found)
            before = found


@pytest.mark.timeout(KILLS * 5 + 90)
def test_killed_at_random(host, emptied, until, capsys):
    """Under load, again and again: each event and update is over once, the updates in order."""
    dice = random.Random(SEED)
    host.environ["FORWARDER_DELIVERY_BATCH_EVENTS"] = "500"
    producer, between, kills = Producer(host), 0, 0
    producer.start()
    try:
        while kills < KILLS or not between:
            relay = host.relay(wait=False)
            wait_for_batches(host, dice.randrange(1, 6))
            producer.over.wait(dice.choice((0, dice.uniform(0, 0.03))))
            relay.process.send_signal(signal.SIGSTOP)
            relay.kill()
            kills += 1
            between += unsettled(host) > 0
            producer.relayed = host.there().accepted
    finally:
        producer.over.set()
        producer.join(60)
    here, there = emptied()
    assert (here.delivered, there.accepted) == (producer.count, producer.count)
    assert sorted(host.insert_ids()) == sorted(ids(*range(producer.count)))
    until(lambda: host.here("profile").due == 0)
    assert [update["$append"]["n"] for update in host.arrived("queue_engage")] == [*range(producer.updates)]
    host.there("profile")
    with capsys.disabled():
        print(f"\nFORWARDER_TEST_SEED={SEED}: {kills} kills, {between} between the commits;", end=" ")
        print(f"{producer.count} events and {producer.updates} updates, each once")


def test_killed_between_the_commits(kill_between, emptied, host):
    """The next relay settles what the server has, and hands over the rest."""
    put(host, *range(500))
    kill_between()
    put(host, *range(500, 700))
    here, there = emptied()
    assert (here.delivered, there.accepted) == (700, 700)
    assert host.insert_ids() == ids(*range(700))


def test_rows_deleted_and_held_between_the_commits(kill_between, emptied, host):
    """What a person deletes counts so here, and was over all the same; what is held goes once more when it is
    released, for Mixpanel to drop."""
    put(host, *range(100))
    kill_between()
    assert host("waiting", "delete", *map(str, range(1, 31)), "--yes").returncode == 0
    assert host("waiting", "hold", *map(str, range(31, 41))).returncode == 0
    put(host, *range(100, 110))
    here, there = emptied()
    assert (here.delivered, here.deleted, here.held, there.accepted) == (70, 30, 10, 110)
    assert host.insert_ids() == ids(*range(110))
    assert host("waiting", "release", "--all").returncode == 0
    emptied()
    assert host.insert_ids() == ids(*range(110), *range(30, 40))


@pytest.mark.parametrize("copied", ["before they came", "while they waited"])
def test_directory_restored(kill_between, emptied, host, tmp_path, copied):
    """From an older copy: new events get ids that the server has noted. None of them is dropped, and what is
    known to be over does not come again."""
    put(host, *range(10))
    emptied()
    if copied == "before they came":
        shutil.copytree(host.queue_path, tmp_path / "copy")
    put(host, *range(10, 30))
    if copied == "while they waited":
        shutil.copytree(host.queue_path, tmp_path / "copy")
        put(host, *range(30, 40))
    kill_between()
    over = len(host.insert_ids())
    ((noted,),) = host.server.execute(f"SELECT ids FROM {host.schema}.sources")
    shutil.rmtree(host.queue_path)
    shutil.copytree(tmp_path / "copy", host.queue_path)
    put(host, *range(100, 110))
    with closing(connected(host)) as here:
        new = here.execute("SELECT _id FROM ack_queue_default WHERE data LIKE '%\"id-10_\"%'").fetchall()
    assert {row_id for (row_id,) in new} <= {*noted}
    emptied()
    assert Counter(host.insert_ids()) == Counter(ids(*range(over), *range(100, 110)))


def test_commit_that_no_standby_has(cluster, queue_path, until):
    """It is not believed until one has it, though the primary shows it; then it is not repeated."""
    cluster.mend()
    with closing(Host(queue_path, cluster.primary, cluster.primary.new_schema_name())) as host:
        host.environ["FORWARDER_QUEUE_STANDBYS"] = "1"
        host.set_up()
        waits = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query = 'COMMIT'"
        relay = host.relay()
        put(host, 0)
        until(lambda: host.here().due == 0, "it hands over")
        for standby in cluster.standbys:
            standby.halt()
        try:
            put(host, *range(1, 50))
            until(lambda: host.server.execute(f"SELECT 1 {waits}"), "the commit waits for a standby")
            host.server.execute(f"SELECT pg_terminate_backend(pid) {waits}")
            until(lambda: len(host.insert_ids()) == 50, "the primary shows it")
            until(lambda: host.server.execute(f"SELECT 1 {waits}"), "the relay asks")
            assert host.here().due == 49
        finally:
            for standby in cluster.standbys:
                standby.go_on()
        until(lambda: host.here().due == 0, "it is settled", 60)
        assert host.insert_ids() == ids(*range(50))
        assert relay.logged("delivery.backing_off")
