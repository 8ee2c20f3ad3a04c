"""The relay: from a directory to a server, as real processes, each record once; both books balance."""

import json
import signal
import time
from contextlib import closing
from dataclasses import replace

import psycopg
import pytest
from persistqueue import SQLiteAckQueue
from persistqueue.serializers import json as plain_json

from forwarder import spool
from forwarder.config.settings import Delivery
from forwarder.delivery.handover import HandoverDispatcher
from forwarder.errors import ConfigError, TryAgainError
from forwarder.records import EVENTS, PROFILES
from forwarder.records.verdict import Outcome, Verdict
from forwarder.spool import EventQueue, HandedOver
from forwarder.spool.postgresql.handover import Handover
from forwarder.spool.postgresql.setup import setup
from forwarder.spool.postgresql.tables import Tables
from forwarder.spool.sqlite.consumer import Consumer
from tests.relays import Host

TOKEN = "0123456789abcdef0123456789abcdef"
NOW = int(time.time())


@pytest.fixture
def absent(postgres, queue_path):
    """A host whose server has no queue yet."""
    host = Host(queue_path, postgres, postgres.new_schema_name())
    yield host
    host.close()


@pytest.fixture
def host(absent):
    """A host with both queues."""
    absent.set_up()
    return absent


@pytest.fixture
def emptied(host, until):
    """Wait until nothing waits on the host, and return the books of both sides."""

    def wait(kind="event"):
        until(lambda: host.here(kind).due == 0, "nothing waits")
        return host.here(kind), host.there(kind)

    return wait


def event(number):
    return {
        "event": "signup",
        "properties": {"distinct_id": "ada", "$insert_id": f"id-{number}", "time": NOW},
    }


def lines(*numbers):
    return "".join(json.dumps(event(number)) + "\n" for number in numbers)


def ids(*numbers):
    return [f"id-{number}" for number in numbers]


def test_each_kind_is_handed_over(host, emptied):
    """By the producer's role alone and without a key, in order; both books have it."""
    relay = host.relay()
    assert host("enqueue", stdin=lines(*range(5000))).returncode == 0
    with EventQueue(host.queue_path, min_free_bytes=0) as queue:
        for number in range(50):
            queue.put_profile({"$token": TOKEN, "$distinct_id": "ada", "$set": {"n": number}})
            queue.put_group({"$token": TOKEN, "$group_key": "g", "$group_id": "a", "$set": {"n": number}})
    here, there = emptied()
    assert (here.delivered, there.accepted, there.waiting) == (5000, 5000, 5000)
    assert host.insert_ids() == ids(*range(5000))
    for kind, table in (("profile", "queue_engage"), ("group", "queue_groups")):
        here, there = emptied(kind)
        assert (here.delivered, there.accepted) == (50, 50)
        assert [update["$set"]["n"] for update in host.arrived(table)] == [*range(50)]
    assert relay.stop() == 0
    with psycopg.connect(host.environ["FORWARDER_QUEUE_URL"]) as connection:
        for what in (
            "SELECT 1 FROM {}.sources",
            "DELETE FROM {}.queue",
            "UPDATE {}.control SET paused = true",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(what.format(host.schema))
            connection.rollback()


def test_rows_of_external_producers(host, emptied):
    """Are completed here, before; what is no event is a dead letter here, within reach of the commands."""
    plain = SQLiteAckQueue(host.queue_path, multithreading=True, serializer=plain_json)
    plain.put({"event": "plain", "properties": {"distinct_id": "ada"}})
    plain.put("no event")
    plain.close()
    host.relay()
    here, there = emptied()
    assert (here.delivered, here.dead_lettered, there.accepted) == (1, 1, 1)
    ((properties),) = [found["properties"] for found in host.arrived()]
    assert {"time", "$insert_id"} <= properties.keys()
    assert host.json("dead-letters", "list")["reason"]
    assert host("dead-letters", "delete", "--all", "--yes").returncode == 0
    emptied()


def test_pause_resume_flush(host, emptied, until):
    """Act on this host's relay, and not on the server's daemon."""
    relay = host.relay()
    host("pause")
    relay.wait_for("delivery.paused")
    host("enqueue", stdin=lines(1, 2))
    assert host("waiting", "hold", "1").returncode == 0
    state = host.json("status")
    assert (state["state"], state["waiting"], state["pid"]) == ("paused", 2, relay.process.pid)
    assert not host.there().paused
    assert [json.loads(line)["id"] for line in host("peek", "--json").stdout.splitlines()] == [2]
    assert host("resume").returncode == 0
    emptied()
    assert host.insert_ids() == ids(2)
    assert host("waiting", "release", "1").returncode == 0
    emptied()
    assert host.insert_ids() == ids(2, 1)
    assert host("flush").returncode == 0
    relay.wait_for("delivery.flushed")


def test_server_is_away(host, postgres, emptied, until):
    """Events are accepted meanwhile; it says so once, and goes on by itself, also if it was started then."""
    relay = host.relay()
    host("enqueue", stdin=lines(1))
    emptied()
    postgres.stop()
    try:
        for number in range(2, 7):
            assert host("enqueue", stdin=lines(number)).returncode == 0
        relay.wait_for("delivery.backing_off")
        state = host.json("status")
        assert (state["state"], state["server"]["known"]) == ("backing_off", False)
        assert "can't be reached" in state["server"]["state_reason"]
        assert host("status", "--fail-if", "waiting>100").returncode == 0
        assert host("check").returncode == 0
        assert relay.stop() == 0
        relay = host.relay()
        relay.wait_for("delivery.backing_off")
    finally:
        postgres.start()
    relay.wait_for("delivery.recovered")
    here, _ = emptied()
    assert (here.delivered, host.insert_ids()) == (6, ids(*range(1, 7)))
    assert (len(relay.logged("delivery.backing_off")), len(relay.logged("delivery.recovered"))) == (1, 1)


def test_commands_show_both(host, emptied, until):
    """`status` and `check` are about this host's queue, and the server's as far as this user may look."""
    host("enqueue", stdin=lines(1))
    relay = host.relay()
    emptied()
    until(lambda: host.json("status")["state"] == "running")
    assert "relayed 1 +" in host("status").stdout
    assert host.json("status")["server"]["state_reason"].startswith("the queue on the server can't be seen")
    assert host("check").returncode == 0
    host.environ["FORWARDER_QUEUE_URL"] = host.owner.url
    state = host.json("status")
    assert (state["delivered"], state["server"]["accepted"], state["server"]["waiting"]) == (1, 1, 1)
    shown = host("status").stdout
    assert "relayed 1 +" in shown
    assert "accepted 1 = delivered 0 + dead-lettered 0 + deleted 0 + waiting 1" in shown
    done = host("check", "--json")
    names = [json.loads(line)["name"] for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout
    assert {"relay", "handover", "server: books", "server: daemon"} <= {*names}
    assert '"server": {' in host("report", "-").stdout
    relay.process.send_signal(signal.SIGHUP)
    relay.wait_for("settings.reloaded")


def test_a_server_that_hangs(host, postgres, emptied, until):
    """Does not keep it from ending; the next one hands over what waits, once."""
    relay = host.relay()
    host("enqueue", stdin=lines(1))
    emptied()
    postgres.halt()
    try:
        host("enqueue", stdin=lines(2))
        until(lambda: spool.at(host.queue_path).holder().told["in_flight"], "it hands over")
        began = time.monotonic()
        assert relay.stop() == 0
        assert time.monotonic() < began + 8
    finally:
        postgres.go_on()
    host.relay()
    emptied()
    assert host.insert_ids() == ids(1, 2)


def test_a_server_that_takes_nothing(host, postgres, emptied, until):
    """Though it answers: that is said once, and once that it is over."""
    function = f"FUNCTION {host.schema}.hand_over(text, bigint, bigint[], bigint[], bytea[])"
    relay = host.relay()
    postgres.execute(f"REVOKE EXECUTE ON {function} FROM {host.schema}_producer")
    host("enqueue", stdin=lines(1))
    until(lambda: host.json("status")["requests"].get("misconfigured", 0) > 2, "it has tried three times")
    state = host.json("status")
    assert (state["state"], state["waiting"]) == ("blocked", 1)
    assert not relay.logged("delivery.recovered")
    postgres.execute(f"GRANT EXECUTE ON {function} TO {host.schema}_producer")
    relay.wait_for("delivery.recovered")
    emptied()
    assert (len(relay.logged("delivery.blocked")), len(relay.logged("delivery.recovered"))) == (1, 1)


def test_until_nothing_waits(host, emptied):
    """With --drain it ends then, and beside a relay waits for that one."""
    host("enqueue", stdin=lines(*range(3000)))
    assert host("relay", "--drain").returncode == 0
    assert len(host.insert_ids()) == 3000
    relay = host.relay()
    host("enqueue", stdin=lines(3000))
    assert host("relay", "--drain", "--timeout", "20").returncode == 0
    assert len(host.insert_ids()) == 3001
    assert host("drain").returncode == 77, "it delivers from the server, and this user may not"
    done = host("relay")
    assert (done.returncode, str(relay.process.pid) in done.stderr) == (75, True)


def test_what_it_needs(absent):
    """Without both places, with no queue there, or with a role that may not: a person has to act."""
    for missing in ("URL", "PATH"):
        kept = absent.environ.pop(f"FORWARDER_QUEUE_{missing}")
        done = absent("relay")
        assert (done.returncode, "Set both" in done.stderr) == (78, True), done.stderr
        absent.environ[f"FORWARDER_QUEUE_{missing}"] = kept
    assert absent("relay").returncode == 78
    setup(absent.owner)
    assert absent("relay").returncode == 77
    assert absent("check").returncode == 77
    absent.environ["FORWARDER_QUEUE_URL"] = absent.owner.url
    absent.environ["FORWARDER_QUEUE_STANDBYS"] = "1"
    assert absent("relay").returncode == 78


def test_held_at_the_last_moment(queue, queue_path):
    """What a person holds after it was claimed is not handed over: it will be when it is released."""

    class Meddled(Consumer):
        def mark_sent(self, ids, *, sent=True):
            spool.at(queue_path).hold([2])
            return super().mark_sent(ids, sent=sent)

    queue.put_many(map(event, range(3)))
    with closing(Meddled(queue_path)) as consumer:
        dispatcher = HandoverDispatcher(consumer, PROFILES, Delivery())
        dispatcher.notice(0)
        asks = dispatcher.next(0)
        asks.last = HandedOver(1, {})
        dispatcher.settle(asks, Outcome(Verdict.DELIVERED, ""), 0)
        assert dispatcher.next(0) is None
        assert [*dispatcher.next(0).ids] == [1, 3]


def test_a_server_that_is_there_later_needs_its_standbys(host):
    """A relay looks for them when it asks, not only at its start."""
    address = replace(host.owner, standbys=1)
    with closing(Handover(address, Tables(host.schema, EVENTS))) as way, pytest.raises(ConfigError):
        way.last("a queue")


def test_several_hosts(host, postgres, tmp_path, until):
    """Feed one server, each from its own queue."""
    host("enqueue", stdin=lines(*range(100)))
    host.relay()
    with closing(Host(str(tmp_path / "other"), postgres, host.schema)) as other:
        other.set_up()
        other("enqueue", stdin=lines(*range(100, 200)))
        other.relay()
        until(lambda: host.here().due == other.here().due == 0)
    assert sorted(host.insert_ids()) == sorted(ids(*range(200)))
    assert host.there().accepted == 200


def test_what_an_earlier_turn_has_on_its_way_is_refused(host):
    """So that what a killed relay has sent and the server gets late is not taken over twice."""
    with closing(Handover(host.owner, Tables(host.schema, EVENTS))) as way:
        first = way.last("a queue")
        way.hand_over("a queue", first.turn, [1, 2], [b"{}", b"[]"])
        second = way.last("a queue")
        assert [second.has(*row) for row in ((1, b"{}"), (2, b"[]"), (2, b"{}"), (3, b"{}"))] == [
            True,
            True,
            False,
            False,
        ]
        with pytest.raises(TryAgainError):
            way.hand_over("a queue", first.turn, [3], [b"{}"])
        way.hand_over("a queue", second.turn, [3], [b"{}"])
        assert way.last("a queue").digests.keys() == {3}
        assert way.last("another").digests == {}
    assert host.there().accepted == 3
