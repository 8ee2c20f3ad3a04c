"""P4: one bad event never holds back or takes down a good one."""

import json
import time

import persistqueue.serializers.json
import pytest

from forwarder.records.event import accept
from forwarder.sandbox import Fault, Sandbox
from forwarder.spool import EventQueue
from tests.conftest import each_engine


def event(number, name="signup", **properties):
    """The final bytes of one event, whatever is wrong with it."""
    given = {"time": 1_700_000_000 + number, "$insert_id": f"id-{number}", "distinct_id": "d", **properties}
    text = json.dumps({"event": name, "properties": given}).encode()
    return accept(text, int(time.time() * 1000), rules=False)


def put(queue_path, events):
    """Put final bytes into the queue."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.append(events)


@pytest.fixture
def emptied(queue_path, rows, until):
    """Wait until nothing waits."""
    return lambda timeout_s=40: until(lambda: not rows(queue_path), "the queue is empty", timeout_s)


BAD = {
    "named by Mixpanel": (event(9999, time=1), None),
    "refused without a reason": (event(9999, name="poison"), Fault.poison(event="poison")),
    "too large": (event(9999, pad="x" * 400_000), None),
}


@each_engine
@pytest.mark.parametrize("place", [0, 1234])
@pytest.mark.parametrize("kind", BAD)
def test_bad_event_among_good_ones(forwarder, queue_path, emptied, oracle, rows, kind, place):
    """Wherever it stands in the queue, the bad event becomes a dead letter and all others are delivered."""
    bad, fault = BAD[kind]
    events = [event(number) for number in range(2999)]
    events.insert(place, bad)
    put(queue_path, events)
    with Sandbox(max_body_bytes=350_000) as server:
        if fault:
            injection = server.inject(fault)
        forwarder.environ["FORWARDER_MIXPANEL_URL"] = server.url
        daemon = forwarder.daemon()
        emptied()
        if fault:
            assert injection.used > 1
        assert 400 in [r.status for r in server.ledger.requests] or kind == "too large"
        assert server.ledger.accepted == 2999
        oracle(queue_path, server, events)
        assert rows(queue_path, "dead_letters") == [bad]
        assert daemon.logged("delivery.blocked") == daemon.logged("delivery.backing_off") == []


@each_engine
def test_bad_event_that_waits_holds_nothing_back(forwarder, server, queue_path, emptied, oracle, rows):
    """Bad events keep coming, one in ten, of every kind; the good ones between them all arrive."""
    injection = server.inject(Fault.poison(event="poison"))
    daemon = forwarder.daemon()
    events, bad = [], set()
    for number in range(0, 100, 10):
        name = "poison" if number % 20 else "signup"
        broken = event(number, name=name, **({} if number % 20 else {"time": 1}))
        some = [broken, *(event(number + n) for n in range(1, 10))]
        bad.add(broken)
        events += some
        put(queue_path, some)
    emptied()
    assert injection.used >= 2
    assert set(rows(queue_path, "dead_letters")) == bad
    assert server.ledger.accepted == 90
    oracle(queue_path, server, events)
    assert daemon.logged("delivery.blocked") == []


def test_an_external_producers_rubbish_holds_nothing_back(
    forwarder, server, queue_path, emptied, rows, figures
):
    """Rows that are no events, from plain persist-queue, don't stop what stands before and behind them."""
    queue = persistqueue.SQLiteAckQueue(
        queue_path, auto_commit=True, serializer=persistqueue.serializers.json
    )
    rubbish = ["text", 17, None, {"event": "x"}, {"event": 3, "properties": {}}, {"properties": {}}]
    for number, item in enumerate(rubbish):
        queue.put({"event": "signup", "properties": {"distinct_id": "d", "n": number}})
        queue.put(item)
    queue.put({"event": "signup", "properties": {"distinct_id": "d", "n": len(rubbish)}})
    queue.close()
    forwarder.daemon()
    emptied()
    found = [json.loads(entry.data)["properties"]["n"] for entry in server.ledger.events.values()]
    assert sorted(found) == list(range(len(rubbish) + 1))
    assert [json.loads(data) for data in rows(queue_path, "dead_letters")] == rubbish
    assert figures(queue_path).dead_letters == len(rubbish)
