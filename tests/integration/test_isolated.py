"""P4: events over which the server fails, one by one or by the thousand, and what waiting for them costs."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

import forwarder.delivery
from forwarder.delivery.wire.outcome import Reply
from forwarder.records import EVENTS

sys.path.insert(0, str(Path(__file__).parent))
from trip import HTML, answer, event, trips, unless, yes

trip = pytest.fixture(trips)

FORBIDDEN = Reply(403, HTML, b"<title>Forbidden</title>")
PACKAGE = str(Path(forwarder.delivery.__file__).parent)


def forbids(is_bad):
    """A firewall that answers for each batch with a bad event in it; the others are taken."""
    return unless(is_bad, otherwise=lambda batch: FORBIDDEN)


def is_bad(data):
    return b'"bad"' in data


def settle_all(t, count, server=None, **more):
    """Offer so many bad events, and good ones beside them, until all of the bad are isolated."""
    bad = t.offer([event(n, name="bad", **more) for n in range(count)])
    server = server or forbids(is_bad)
    number = 100_000
    while len(t.dispatcher._deferred.alone) < count:
        t.offer([event(number)])
        t.deliver(server, for_s=5)
        number += 1
        assert number < 101_000
    return bad


def test_two_hundred_are_no_more_of_a_burden_than_one(trip):
    """Events that fail for themselves share one schedule: their number does not raise the request rate."""
    t = trip(batch_events=100)
    settle_all(t, 200)
    t.deliver(forbids(is_bad), for_s=600)
    t.sent.clear()
    t.deliver(forbids(is_bad), for_s=3600)
    assert 30 < len(t.sent) < 70, "as one alone"
    assert len({events[0] for events in t.sent}) == len(t.sent), "they take turns"
    assert t.counts()[1:] == (0, 200)


def test_good_events_pass_those_isolated_at_once(trip):
    """With hundreds isolated, and one connection, what is offered goes out without a wait."""
    t = trip(batch_events=100, connections=1)
    settle_all(t, 200)
    for number in range(100):
        t.offer([event(number)])
        delivered = t.counts()[0]
        took_s = t.deliver(forbids(is_bad), until=lambda before=delivered: t.counts()[0] > before, for_s=30)
        assert took_s < 0.1
        t.deliver(forbids(is_bad), for_s=7)
    assert t.state == "running"


def test_all_isolated_go_when_the_first_gets_through(trip):
    """When the firewall is mended the next try shows it, and the others follow at once."""
    t = trip(batch_events=100)
    settle_all(t, 200)
    t.deliver(forbids(is_bad), for_s=600)
    assert t.deliver(yes, for_s=300) < 70
    assert t.counts()[1:] == (0, 0)


def test_those_that_may_pass_do_not_wait_for_those_that_may_not(trip):
    """When a firewall's rule is lifted for half of them, that half is through in minutes, not hours."""
    t = trip(batch_events=100)
    bad = settle_all(t, 200)
    t.deliver(forbids(is_bad), for_s=600)
    still = set(bad[::2])
    t.deliver(forbids(still.__contains__), until=lambda: t.counts()[2] == 100, for_s=1200)
    assert t.counts()[1:] == (0, 100)


def test_flush_tries_all_isolated(trip):
    """`flush` has each of them tried once, soon; those that fail again keep their schedule."""
    t = trip(batch_events=100)
    bad = settle_all(t, 100)
    t.deliver(forbids(is_bad), for_s=600)
    t.sent.clear()
    t.dispatcher.flush()
    t.deliver(forbids(is_bad), for_s=15)
    assert {events[0] for events in t.sent} == set(bad)
    assert len(t.sent) == 100
    t.deliver(forbids(is_bad), for_s=600)
    assert len(t.sent) < 120


def test_one_of_those_isolated_is_out_at_a_time(trip):
    """However many connections there are, those on which the server hangs don't take them up."""
    t = trip(batch_events=100)
    settle_all(t, 50)
    t.now += t.dispatcher.wait_s(t.now)
    t.dispatcher.flush()
    out = t.next()
    assert is_bad(out.events[0])
    assert t.next(after_s=100) is None
    t.offer([event(1)])
    assert not is_bad(t.next().events[0])


def test_time_for_those_isolated_is_bounded(trip):
    """One that times out each time, after a minute, has a tenth of one connection's time and no more."""
    t = trip(batch_events=100, connections=1)
    silent = Reply(None, {}, b"", "timed out")
    settle_all(t, 10)
    t.deliver(forbids(is_bad), for_s=600)
    began_at, hung_s = t.now, 0.0
    while t.now < began_at + 36_000:
        batch = t.next()
        if batch is None:
            t.now += max(t.dispatcher.wait_s(t.now), 0.001)
            continue
        t.now += 60
        hung_s += 60
        t.settle(batch, silent)
    assert 0.05 < hung_s / (t.now - began_at) < 0.11


@pytest.mark.parametrize("place", [0, 30])
def test_what_is_isolated_and_gone_is_forgotten(trip, place):
    """One whose row another program has deleted meanwhile is passed over, and costs the others no turn."""
    t = trip(batch_events=100)
    bad = settle_all(t, 31)
    t.sent.clear()
    with closing(sqlite3.connect(f"{t.path}/data.db")) as external, external:
        external.execute("DELETE FROM ack_queue_default WHERE _id NOT IN (?)", (place + 1,))
    t.deliver(yes, for_s=100)
    assert t.dispatcher.is_idle
    assert t.sent == [[bad[place]]]


def test_throttled_is_throttled_for_those_isolated_too(trip):
    """A 429 to one of them makes all wait as it asks, and the event stays isolated."""
    t = trip(batch_events=100)
    settle_all(t, 3)
    batch = t.next(after_s=t.dispatcher.wait_s(t.now))
    assert is_bad(batch.events[0])
    t.settle(batch, Reply(429, {"retry-after": "90"}, b"{}"))
    t.offer([event(1)])
    assert t.next(after_s=89) is None
    t.deliver(forbids(is_bad), for_s=10)
    assert t.counts()[1:] == (0, 3)


def test_refused_by_name_after_all(trip):
    """One that was isolated and is then named by Mixpanel becomes a dead letter as any other."""
    t = trip(batch_events=100)
    bad = settle_all(t, 2)

    def server(batch):
        record = {"index": 0, "message": "'properties.time' is invalid"}
        said = {"code": 400, "error": "failed validation", "failed_records": [record]}
        return answer(400, said | {"num_records_imported": 0}) if is_bad(batch.events[0]) else yes(batch)

    t.deliver(server, for_s=100)
    assert {letter.data for letter in t.dead()} == set(bad)
    assert t.dispatcher.is_idle


# A server that does not judge the probe either


def no_probe(server):
    """The same server, which fails over a probe as well."""
    return lambda batch: FORBIDDEN if batch.events == (EVENTS.probe,) else server(batch)


@pytest.mark.parametrize("places", [[0], [100], [199], range(0, 200, 4), range(50, 150)], ids=str)
def test_batch_that_fails_is_divided_without_a_probe(trip, places):
    """With nothing else to send, and a firewall that forbids the probe, the good events of a batch arrive."""
    t = trip()
    t.offer([event(n, name="bad" if n in places else "signup") for n in range(200)])
    server, good = no_probe(forbids(is_bad)), 200 - len(places)
    took_s = t.deliver(server, until=lambda: t.counts()[0] == good, for_s=36_000)
    assert t.counts() == (good, 0, len(places))
    assert took_s < 1800 * len(places)
    t.deliver(yes, for_s=1000)
    assert t.counts() == (200, 0, 0)


def test_good_batch_beside_one_that_is_bad_throughout(trip):
    """Of two batches that have failed again and again each has its turn to show that the server works."""
    t = trip(batch_events=50)
    t.offer([event(n, name="bad" if n < 50 else "signup") for n in range(100)])
    t.deliver(lambda batch: FORBIDDEN, for_s=3600)
    t.deliver(no_probe(forbids(is_bad)), until=lambda: t.counts()[0] == 50, for_s=3600)
    assert t.counts() == (50, 0, 50)


@pytest.mark.parametrize("reply", [Reply(503, {}, b""), FORBIDDEN], ids=["503", "403"])
@pytest.mark.parametrize("hours", [0.1, 24])
def test_batches_are_whole_again_after_an_outage(trip, reply, hours):
    """However long nothing gets through: what failed meanwhile is not sent in pieces afterwards."""
    t = trip(batch_events=1000)
    t.offer([event(n) for n in range(5000)])
    t.deliver(lambda batch: reply, for_s=hours * 3600)
    assert (t.counts(), len(t.sent) > hours * 40) == ((0, 0, 5000), True)
    t.sent.clear()
    t.deliver(yes, for_s=100)
    assert t.counts() == (5000, 0, 0)
    assert len(t.sent) <= 6 + 1


@pytest.mark.parametrize("parts", [500, 3])
def test_outage_that_begins_while_a_batch_is_divided(trip, parts):
    """What is left of it goes on as it is: an outage divides nothing, and sets nothing apart."""
    t = trip()
    t.offer([event(n, name="bad" if n == 700 else "signup") for n in range(2000)])
    outage = []

    def server(batch):
        if any(map(is_bad, batch.events)) and 1 < len(batch) <= parts:
            outage.append(batch)
        return Reply(503, {}, b"") if outage else forbids(is_bad)(batch)

    t.deliver(server, for_s=7200)
    assert outage
    assert 1400 < t.counts()[0] < 2000
    assert not t.dispatcher._deferred.alone
    t.sent.clear()
    t.deliver(yes, for_s=300)
    assert t.counts() == (2000, 0, 0)
    assert len(t.sent) < 10


# What one choice costs


def lines_of(do):
    """How many lines of the delivery's code are run by *do*: each look at a batch is one at least."""
    found = 0

    def trace(frame, kind, _):
        nonlocal found
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        found += kind == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        do()
    finally:
        sys.settrace(before)
    return found


def held(t, kind, count):
    """Have so many events wait in the dispatcher: isolated, or to be sent again, at once or later."""
    deferred = t.dispatcher._deferred
    t.offer([event(n) for n in range(count)])
    # As it is when nothing has got through since.
    t.dispatcher._number = 1_000_000
    for _ in range(count):
        batch = t.dispatcher._backlog.claim(1, 10_000)
        batch.number = 1_000_000
        batch.tries = 2
        if kind == "parts":
            deferred.add_parts(batch, now=t.now)
        elif kind in ("ready", "failed"):
            getattr(deferred, f"add_{kind}")(batch)
        else:
            deferred.isolate(getattr(deferred, kind), batch, t.now)


KINDS = ["ready", "failed", "parts", "blamed", "refused", "alone"]


@pytest.mark.parametrize("kind", KINDS)
def test_choice_costs_the_same_however_many_wait(trip, queue_path, kind):
    """With 10 or 10 000 events waiting beside, a good batch is chosen and settled in as many steps."""
    costs = []
    for count in (10, 10_000):
        t = trip(batch_events=10)
        held(t, kind, count)

        def choose(t=t):
            t.now += 0.2
            t.dispatcher.wait_s(t.now)
            batch = t.dispatcher.next(t.now)
            t.settle(batch, yes(batch))
            t.dispatcher.wait_s(t.now)

        t.offer([event(20_000 + n) for n in range(100)])
        # The first sorts them.
        choose()
        costs.append([lines_of(choose) for _ in range(5)])
        with closing(sqlite3.connect(f"{t.path}/data.db")) as external, external:
            external.execute("DELETE FROM ack_queue_default")
    few, many = costs
    assert min(few) > 20
    assert max(many) < 1.5 * max(few)
