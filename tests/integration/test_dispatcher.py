"""The dispatcher on a real queue: what is sent when, and what follows from each reply; time is the test's."""

import itertools
import math
import sqlite3
import sys
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from forwarder.config import Credentials
from forwarder.config.settings import Delivery
from forwarder.delivery.dispatcher import REFUSALS
from forwarder.delivery.report import MOST_POSTPONED
from forwarder.delivery.wire.client import Client
from forwarder.delivery.wire.outcome import Reply
from forwarder.errors import TryAgainError
from forwarder.records import EVENTS
from forwarder.records.verdict import Verdict
from forwarder.sandbox import Fault, Sandbox

sys.path.insert(0, str(Path(__file__).parent))
from trip import HTML, answer, event, judging, named, partly, refusal, trips, unless, yes

trip = pytest.fixture(trips)


@contextmanager
def locked(path):
    """Somebody else is in the middle of writing."""
    with closing(sqlite3.connect(f"{path}/data.db", isolation_level=None)) as external:
        external.execute("BEGIN IMMEDIATE")
        yield
        external.execute("ROLLBACK")


# The outcomes, one by one


def test_delivered_events_leave_the_queue(trip):
    """What Mixpanel has accounted for is gone from the queue, counted, and in the delivery log."""
    t = trip()
    t.offer([event(n) for n in range(3)])
    batch = t.next()
    report = t.settle(batch, replace(yes(batch), took_s=0.25))
    assert (report.outcome.verdict, report.sent, report.delivered) == (Verdict.DELIVERED, 3, 3)
    assert t.counts() == (3, 0, 0)
    (entry,) = t.deliveries()
    assert (entry.ids, entry.delivered, entry.dead, entry.took_s) == ("1-3", 3, 0, 0.25)
    assert (entry.http_status, entry.tries, entry.size_bytes) == (200, 1, sum(map(len, batch.events)) + 3)


def test_partial_success_parts_the_batch(trip):
    """A 400 that names events makes these dead letters with field, message, status; others are delivered."""
    t = trip()
    events = t.offer([event(n) for n in range(5)])
    batch = t.next()
    report = t.settle(batch, partly(batch, [1, 4]))
    assert (report.delivered, report.dead) == (3, 2)
    assert t.counts() == (3, 2, 0)
    found = [(d.data, d.reason, d.field, d.http_status, d.event_id) for d in t.dead()]
    reason = "'properties.time' is invalid"
    assert sorted(found, key=lambda each: each[-1]) == [
        (events[1], reason, "properties.time", 400, 2),
        (events[4], reason, "properties.time", 400, 5),
    ]


LATER = [
    (Reply(None, {}, b"", "DNS: api.mixpanel.com not found"), Verdict.UNREACHABLE, "backing_off"),
    (Reply(408, HTML, b"<title>Request Timeout</title>"), Verdict.UNREACHABLE, "backing_off"),
    (Reply(500, {}, b""), Verdict.UNREACHABLE, "backing_off"),
    (Reply(503, {}, b"upstream connect error"), Verdict.UNREACHABLE, "backing_off"),
    (Reply(200, HTML, b"<title>Sign in</title>"), Verdict.UNREACHABLE, "backing_off"),
    (answer(200, {"status": 0, "error": "a temporary failure occurred"}), Verdict.UNREACHABLE, "backing_off"),
    (Reply(400, HTML, b"<title>Bad Request</title>"), Verdict.UNREACHABLE, "backing_off"),
    (answer(429, {"code": 429, "error": "rate"}), Verdict.THROTTLED, "backing_off"),
    (answer(401, {"code": 401, "error": "Invalid credentials"}), Verdict.MISCONFIGURED, "blocked"),
    (Reply(403, HTML, b"<title>403 Forbidden</title>"), Verdict.MISCONFIGURED, "backing_off"),
    (Reply(404, HTML, b"<title>Not Found</title>"), Verdict.MISCONFIGURED, "blocked"),
    (Reply(405, {}, b""), Verdict.MISCONFIGURED, "blocked"),
    (
        Reply(302, {"location": "https://login.example.invalid/?at=1"}, b""),
        Verdict.MISCONFIGURED,
        "blocked",
    ),
]


@pytest.mark.parametrize(
    ("reply", "kind", "state"), LATER, ids=lambda value: f"{value.status}" if isinstance(value, Reply) else ""
)
def test_what_is_not_about_events_settles_nothing(trip, reply, kind, state):
    """Every other answer closes the gate with its reason; then the same bytes are sent again, until a yes."""
    t = trip()
    events = t.offer([event(n) for n in range(4)])
    batch = t.next()
    assert t.settle(batch, reply).outcome.verdict is kind
    assert (t.state, t.counts()) == (state, (0, 0, 4))
    assert t.dispatcher.condition[1]
    assert t.next() is None
    again = t.next(after_s=t.dispatcher.wait_s(t.now))
    assert (again.events, again.tries) == (events, 2)
    t.settle(again, yes(again))
    assert (t.state, t.dispatcher.condition[1], t.counts()) == ("running", "", (4, 0, 0))


# Short counts


def test_short_count_is_asked_about_once_more_and_then_believed(trip):
    """Named events are settled at once, the rest is sent once more; short again, it counts as delivered."""
    t = trip()
    events = t.offer([event(n) for n in range(10)])
    batch = t.next()
    first = t.settle(batch, partly(batch, [0], imported=6))
    assert (first.outcome.verdict, first.dead, first.delivered) == (Verdict.SHORT, 1, 0)
    assert t.counts() == (0, 1, 9)
    again = t.next()
    assert again.events == events[1:]
    second = t.settle(again, yes(again, imported=6))
    assert (second.delivered, second.short) == (9, 3)
    assert (t.counts(), t.figures().short, t.dispatcher.is_idle) == ((9, 1, 0), 3, True)
    assert [(entry.delivered, entry.dead, entry.short, entry.tries) for entry in t.deliveries()] == [
        (9, 0, 3, 2),
        (0, 1, 0, 1),
    ]


def test_second_count_that_adds_up_is_no_shortfall(trip):
    """A count that was short only once leaves no trace in the books."""
    t = trip()
    t.offer([event(n) for n in range(10)])
    batch = t.next()
    t.settle(batch, yes(batch, imported=6))
    assert t.counts() == (0, 0, 10)
    again = t.next()
    t.settle(again, yes(again))
    assert (t.counts(), t.figures().short) == ((10, 0, 0), 0)


def test_failures_named_a_few_at_a_time_all_become_dead_letters(trip):
    """A server that names only some of the failed events each time is asked until it names no more."""
    t = trip()
    t.offer([event(n) for n in range(10)])
    bad = {event(n) for n in range(6)}

    def server(batch):
        found = [index for index, data in enumerate(batch.events) if data in bad]
        return partly(batch, found[:2], imported=len(batch) - len(found)) if found else yes(batch)

    t.deliver(server)
    assert (t.counts(), t.figures().short) == ((4, 6, 0), 0)


# Too large, and how large then


def test_named_limit_is_learned(trip):
    """After a 413 that names its limit the batch goes out in parts, and no later batch is larger."""
    t = trip()
    events = t.offer([event(n, pad="x" * 1000) for n in range(1000)])
    limit = 100_000

    def server(batch):
        if batch.size_bytes > limit:
            return answer(413, {"code": 413, "error": f"request exceeds max limit of {limit} bytes"})
        return yes(batch)

    t.deliver(server)
    assert t.counts() == (1000, 0, 0)
    refused = t.outcomes.count(Verdict.TOO_LARGE)
    more = t.offer([event(n, pad="x" * 1000) for n in range(1000, 3000)])
    t.deliver(server)
    assert t.counts() == (3000, 0, 0)
    assert t.outcomes.count(Verdict.TOO_LARGE) == refused, "the limit was known"
    taken = [data for batch in t.sent if sum(map(len, batch)) < limit for data in batch]
    assert sorted(taken) == sorted(events + more)


def test_limit_that_nobody_names_is_found_and_tried_again(trip):
    """A 413 without a limit makes batches smaller for a while, not for ever."""
    t = trip()
    limit = 50_000

    def server(batch):
        return Reply(413, HTML, b"<title>Error 413</title>") if batch.size_bytes > limit else yes(batch)

    t.offer([event(n, pad="x" * 1000) for n in range(1900)])
    t.deliver(server)
    assert t.counts() == (1900, 0, 0)
    assert len(t.sent) < 4 * 1900 * 1100 / limit, "not many more requests than the limit needs"
    limit = math.inf
    t.offer([event(n, pad="x" * 1000) for n in range(10_000, 20_000)])
    t.sent.clear()
    t.deliver(server)
    assert t.counts() == (11_900, 0, 0)
    assert max(map(len, t.sent)) > 300, "batches have grown again"


def test_event_too_large_alone_is_a_dead_letter(trip):
    """413 for one event whose neighbours pass: it is dead-lettered, with the server's words."""
    t = trip()
    big = event(7, pad="x" * 200_000)
    t.offer([event(1), event(2), big, event(3)])
    said = Reply(413, HTML, b"<title>Error 413</title>")
    t.deliver(lambda batch: said if batch.size_bytes > 100_000 else yes(batch))
    assert t.counts() == (3, 1, 0)
    (letter,) = t.dead()
    assert (letter.data, letter.http_status) == (big, 413)
    assert "Error 413" in letter.reason


# One bad event, and blamed


@pytest.mark.parametrize("place", [0, 999, 1999])
def test_one_poison_event_is_found_by_halving(trip, place):
    """Among 2000 events the one that is refused without a reason is found in about 2·log2(2000) requests."""
    t = trip()
    events = t.offer([event(n) for n in range(2000)])
    took_s = t.deliver(unless(lambda data: data == events[place]))
    assert t.counts() == (1999, 1, 0)
    (letter,) = t.dead()
    assert (letter.data, letter.http_status) == (events[place], 400)
    assert "Bad Request" in letter.reason
    assert len(t.sent) <= 2 * math.ceil(math.log2(2000)) + REFUSALS + 1
    assert took_s < 5, "nothing was held up"


def test_parts_of_what_was_refused_go_out_at_a_pace(trip):
    """However many of a batch are bad, its parts make ten requests a second at most, as each may count."""
    t = trip()
    bad = set(t.offer([event(n) for n in range(64)])[::2])
    server, paced_at = unless(bad.__contains__), []

    def watched(batch):
        if 1 < len(batch) < 64:
            paced_at.append(t.now)
        return server(batch)

    for number in range(300):
        t.offer([event(100 + number)])
        t.deliver(watched, for_s=1)
    assert t.counts()[0] == 332
    assert len(paced_at) > 30
    gaps = [later - sooner for sooner, later in itertools.pairwise(paced_at)]
    assert min(gaps) > 0.09


@pytest.mark.parametrize("count", [3, 20])
def test_neighbouring_poison_events_hold_nothing_up(trip, count):
    """Poison events side by side at the head of the queue are found, and hold up none of the good ones."""
    t = trip()
    events = t.offer([event(n) for n in range(2000)])
    bad = set(events[:count])
    server = unless(bad.__contains__)
    assert t.deliver(server, until=lambda: t.counts()[0] == 2000 - count) < 20
    for number in range(3000, 3060):
        t.offer([event(number)])
        t.deliver(server, for_s=60)
    assert t.counts() == (2060 - count, count, 0)
    assert {letter.data for letter in t.dead()} == bad
    assert t.state == "running"


@pytest.mark.parametrize("status", [400, 413])
@pytest.mark.parametrize("count", [3, 2000, 4500])
def test_refusal_of_everything_is_nobodys_death(trip, count, status):
    """While everything is refused nothing is dead-lettered and delivery blocks; then all is delivered."""
    t = trip()
    t.offer([event(n) for n in range(count)])
    said = refusal() if status == 400 else Reply(413, HTML, b"<title>Error 413</title>")
    t.deliver(lambda batch: said, for_s=3600)
    assert t.counts() == (0, 0, count)
    assert t.state == "blocked"
    assert "every event tried since the last import is refused" in t.dispatcher.condition[1]
    assert len(t.sent) < 150, "tried again slowly"
    t.deliver(yes, for_s=300)
    assert (t.counts(), t.state) == ((count, 0, 0), "running")


@pytest.mark.parametrize("restarts", [False, True], ids=["one run", "a run for each"])
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "lenient"])
def test_events_that_trickle_in_while_everything_is_refused_survive(trip, restarts, strict):
    """Alone in the queue, one after the other or one for each start, none is given up; all are delivered."""
    t = trip()
    for number in range(10):
        if restarts:
            t.restart(strict)
        t.offer([event(number)])
        t.deliver(lambda batch: refusal(), for_s=100)
        assert t.state == "blocked"
    assert t.counts() == (0, 0, 10)
    assert len(t.sent) < 200, "tried again slowly"
    t.deliver(yes, for_s=300)
    assert t.counts() == (10, 0, 0)


def test_server_that_refuses_everything_for_a_while_again_and_again(trip):
    """Spells of refusing everything, with a yes between them, cost a few events each, not the backlog."""
    t = trip()
    for number in range(30):
        t.offer([event(10_000 + number)])
        t.deliver(yes)
    t.offer([event(n) for n in range(6000)])
    for _ in range(3):
        t.deliver(lambda batch: refusal(), for_s=200)
        say = iter([yes])
        t.deliver(lambda batch, say=say: next(say, refusal)(batch), for_s=200)
    t.deliver(yes)
    delivered, dead, waiting = t.counts()
    assert waiting == 0
    assert dead <= 3 * 3
    assert delivered == 6030 - dead


@pytest.mark.parametrize("count", [1, 3, 10])
def test_poison_events_alone_in_the_queue_wait_for_an_import(trip, count):
    """With nothing imported to compare them with, refused events wait, and are asked about slowly."""
    t = trip()
    bad = t.offer([event(n) for n in range(count)])
    server = judging(bad.__contains__)
    t.deliver(server, for_s=3600)
    assert t.counts() == (0, 0, count)
    assert t.state == "blocked"
    assert "every event tried since the last import is refused" in t.dispatcher.condition[1]
    assert len(t.sent) < 200, "tried again slowly"
    t.offer([event(100)])
    t.deliver(server, until=lambda: t.counts()[0] == 1, for_s=1)
    assert t.counts()[0] == 1, "a good one goes out at once"
    t.offer([event(n) for n in range(101, 110)])
    t.deliver(server)
    dead = min(count, 6)
    assert t.counts() == (10, dead, count - dead)
    assert {letter.data for letter in t.dead()} <= set(bad)


def test_poison_without_end_is_paid_for_by_imports(trip):
    """Three may die for each import; what is left waits, and holds nothing up."""
    t = trip()
    bad = t.offer([event(n) for n in range(30)])
    server = judging(bad.__contains__)
    t.deliver(server, for_s=5)
    for number in range(100, 200):
        t.offer([event(number)])
        before = t.counts()[0]
        # Many were refused, and nothing was imported: the next try may be two minutes away.
        took_s = t.deliver(server, until=lambda before=before: t.counts()[0] > before, for_s=130)
        assert took_s < (130 if number == 100 else 5)
        t.deliver(server, for_s=5)
        # What got through to show that the server works was a sample of it.
        assert t.counts()[1] <= 3 * (number - 98)
        if not t.counts()[2]:
            break
    assert t.counts() == (number - 99, 30, 0)
    assert t.state == "running"


def test_server_that_was_nonsensical_for_a_while(trip):
    """Where a probe is refused by name and all else without, nothing dies, and all is delivered at last."""
    t = trip()
    t.offer([event(n) for n in range(30)])
    t.deliver(judging(lambda data: True), for_s=3600)
    assert t.counts() == (0, 0, 30)
    t.deliver(yes, for_s=300)
    assert (t.counts(), t.state) == ((30, 0, 0), "running")


@pytest.mark.parametrize("count", [300, 5000])
def test_project_that_takes_nothing(trip, count):
    """Where a probe is judged well and no event imported, nothing dies, and it is soon asked but slowly."""
    t = trip(batch_events=1000)
    t.offer([event(n) for n in range(count)])
    t.deliver(judging(lambda data: True), for_s=3600)
    assert t.counts() == (0, 0, count)
    assert t.state == "blocked"
    assert len(t.sent) < 250
    t.deliver(yes, for_s=300)
    assert (t.counts(), t.state) == ((count, 0, 0), "running")


def test_many_poison_events_ahead_hold_up_the_good_ones_little(trip):
    """Behind hundreds of poison events side by side the good ones are reached and delivered in minutes."""
    t = trip(batch_events=200)
    bad = set(t.offer([event(n) for n in range(500)]))
    t.offer([event(1000 + n) for n in range(1500)])
    took_s = t.deliver(judging(bad.__contains__), until=lambda: t.counts()[0] == 1500, for_s=3600)
    assert t.counts()[0] == 1500
    assert took_s < 1200
    t.deliver(judging(bad.__contains__), for_s=3600)
    _, dead, waiting = t.counts()
    assert dead + waiting == 500


def test_large_events_that_fail_leave_room_for_others(trip):
    """Many large events over which the server fails, at the head of the queue, hold no small ones back."""
    t = trip(connections=1)
    t.offer([event(n, name="large", pad="x" * 900_000) for n in range(12)])
    t.offer([event(100 + n) for n in range(2000)])
    large = unless(lambda data: len(data) > 900_000, otherwise=lambda batch: Reply(500, {}, b""))
    took_s = t.deliver(large, until=lambda: t.counts()[0] == 2000, for_s=7200)
    assert t.counts() == (2000, 0, 12)
    assert took_s < 1800
    t.deliver(yes, for_s=300)
    assert t.counts() == (2012, 0, 0)


def test_one_event_that_fails_in_each_batch(trip):
    """With an event in every batch over which the server fails, the others are delivered within minutes."""
    t = trip(batch_events=500)
    events = t.offer([event(n) for n in range(5000)])
    bad = set(events[250::500])
    fails = unless(bad.__contains__, otherwise=lambda batch: Reply(500, {}, b""))
    took_s = t.deliver(fails, until=lambda: t.counts()[0] == 4990, for_s=7200)
    assert t.counts() == (4990, 0, 10)
    assert took_s < 900


LENIENT = {"no": b"0", "yes": b"1", "verbose": b'{"error":"no valid events","status":0}'}


@pytest.mark.parametrize("said", LENIENT.values(), ids=LENIENT)
def test_probe_without_strict_mode(trip, said):
    """Where Mixpanel says no more than "1" or "0", either one shows that it is Mixpanel who refused."""
    t = trip()
    t.restart(strict=False)
    bad, *_ = t.offer([event(n) for n in range(2)])
    too_large = Reply(413, HTML, b"<title>Error 413</title>")

    def server(batch):
        if batch.events == (EVENTS.probe,):
            return Reply(200, {}, said)
        return too_large if bad in batch.events else Reply(200, {}, b"1")

    t.deliver(server)
    assert t.counts() == (1, 1, 0)


@pytest.mark.parametrize("reply", [reply for reply, _, _ in LATER], ids=lambda reply: f"{reply.status}")
def test_probe_that_is_not_judged_condemns_nobody(trip, reply):
    """While the probe meets an outage or a wrong key, the suspect waits as all others; then it is heard."""
    t = trip()
    bad, *_ = t.offer([event(n) for n in range(2)])
    server = unless(bad.__eq__)
    t.deliver(lambda batch: reply if batch.events == (EVENTS.probe,) else server(batch), for_s=1000)
    assert t.counts() == (1, 0, 1)
    assert t.dispatcher.wait_s(t.now) > 0
    t.deliver(yes)
    assert t.counts() == (2, 0, 0)


def test_probe_does_not_keep_others_waiting(trip):
    """While a probe is out, with one connection to use, no new one is begun; it counts as no event."""
    t = trip(connections=1)
    bad, _ = t.offer([event(1), event(2)])
    server = judging(bad.__eq__)
    while (probe := t.next(after_s=0.2)).events != (EVENTS.probe,):
        t.settle(probe, server(probe))
    assert (len(probe), t.dispatcher.in_flight) == (0, 1)
    t.offer([event(3)])
    assert t.next() is None
    t.settle(probe, named(probe))
    assert list(t.next().events) == [bad]


FAILS = {
    "500": Reply(500, {}, b"<title>oops</title>"),
    "504": Reply(504, {}, b""),
    "cut off": Reply(None, {}, b"", "cut"),
    "a firewall's 403": Reply(403, HTML, b"<title>Forbidden</title>"),
    "blame": answer(400, {"code": 400, "error": "unauthorized access: invalid", "status": "Bad Request"}),
}


@pytest.mark.parametrize("fails", FAILS.values(), ids=FAILS)
@pytest.mark.parametrize("later", [0, 500])
def test_event_that_makes_the_server_fail_holds_back_no_other(trip, fails, later):
    """Others overtake it, the batch it is in is divided, and it waits alone, tried again, never dead."""
    t = trip(batch_events=200)
    events = t.offer([event(n) for n in range(500)])
    bad = events[30]
    server = unless(bad.__eq__, otherwise=lambda batch: fails)
    if later:
        t.deliver(server, for_s=30)
        t.offer([event(1000 + n) for n in range(later)])
    t.deliver(server, for_s=1200)
    assert t.counts() == (499 + later, 0, 1)
    asked = len(t.sent)
    t.deliver(server, for_s=3600)
    assert 30 < len(t.sent) - asked < 100, "tried again slowly"
    t.deliver(yes, for_s=200)
    assert (t.counts(), t.state) == ((500 + later, 0, 0), "running")


def test_what_is_deferred_is_reported(trip):
    """With the reason of the last try, and when the next one is; nothing once it is settled."""
    t = trip(batch_events=10)
    events = t.offer([event(n) for n in range(30)])
    assert t.dispatcher.deferred(t.now) == []
    server = unless(events[4].__eq__, otherwise=lambda batch: Reply(503, {}, b""))
    t.deliver(server, for_s=1200)
    (told,) = t.dispatcher.deferred(t.now)
    assert (told.ids, "503" in told.reason) == ("5", True)
    assert told.tries > 5
    assert told.next_s == pytest.approx(t.dispatcher.wait_s(t.now), abs=0.1)
    t.now += 1
    assert t.dispatcher.deferred(t.now)[0].next_s == pytest.approx(told.next_s - 1, abs=0.1)
    t.deliver(yes, for_s=200)
    assert t.dispatcher.deferred(t.now) == []


def test_a_batch_that_failed_is_reported_whole(trip):
    """While all waits for the server, and as many as are worth reading."""
    t = trip(batch_events=10)
    t.offer([event(n) for n in range(20)])
    t.settle(t.next(), Reply(503, {}, b""))
    (told,) = t.dispatcher.deferred(t.now)
    assert (told.ids, told.tries) == ("1-10", 1)
    assert told.next_s == round(t.dispatcher.flow.retry_at - t.now, 1) > 0
    t.offer([event(100 + n) for n in range(300)])
    t.deliver(unless(lambda data: b'5"' in data, otherwise=lambda batch: Reply(503, {}, b"")), for_s=3600)
    assert t.counts()[2] > MOST_POSTPONED
    deferred = t.dispatcher.deferred(t.now)
    assert len(deferred) == MOST_POSTPONED
    assert sum(told.next_s is not None for told in deferred) <= 1, "one has its turn"


def test_suspect_is_asked_again_before_it_is_buried(trip):
    """What was refused while everything was gets another hearing when the server says yes again."""
    t = trip()
    t.offer([event(n) for n in range(3)])
    t.deliver(lambda batch: refusal(), for_s=100)
    (bad,) = t.offer([event(9)])
    t.sent.clear()
    t.deliver(unless(bad.__eq__), for_s=400)
    assert t.counts() == (3, 1, 0)
    assert [letter.data for letter in t.dead()] == [bad]


def test_yes_to_something_sent_before_is_no_evidence(trip):
    """A yes that was on its way when everything began to be refused condemns none."""
    t = trip(batch_events=10)
    t.offer([event(n) for n in range(40)])
    for _ in range(2):
        first = t.next()
        t.settle(first, yes(first))
    left, right = t.next(), t.next()
    t.settle(left, refusal())
    t.settle(right, yes(right))
    t.deliver(lambda batch: refusal(), for_s=1000)
    assert t.counts() == (30, 0, 10)


# Waiting for the server


@pytest.mark.parametrize(("random", "jitter_s"), [(0.0, 1.0), (1.0, 5.0)])
def test_documented_schedule(trip, random, jitter_s):
    """By default: 2 s, doubled with each failure to 60 s, plus 1 to 5 s; from the start after a yes.

    The first of 60 s is drawn out by up to 60 s more, so that those that fail together are not in step.
    """
    t = trip(random=random)
    t.offer([event(1)])
    expected = [2, 4, 8, 16, 32, 60 + 60 * random, 60, 60]

    def waits():
        for _ in expected:
            batch = t.next()
            t.settle(batch, Reply(503, {}, b""))
            wait_s = t.dispatcher.wait_s(t.now)
            assert t.next(after_s=wait_s - 0.01) is None
            t.now += 0.02
            yield round(wait_s - jitter_s, 3)

    assert list(waits()) == expected
    batch = t.next()
    t.settle(batch, yes(batch))
    t.offer([event(2)])
    assert next(waits()) == expected[0]


@pytest.mark.parametrize(("asked_s", "wait_s"), [(None, 5.0), ("2", 5.0), ("100", 100.0)])
def test_retry_after_is_a_floor(trip, asked_s, wait_s):
    """Retry-After makes the wait longer where it asks for more than the schedule, and never shorter."""
    t = trip()
    t.offer([event(1)])
    batch = t.next()
    headers = {} if asked_s is None else {"retry-after": asked_s}
    t.settle(batch, Reply(429, headers, b"{}"))
    assert t.dispatcher.wait_s(t.now) == pytest.approx(wait_s)


def grown(t, connections):
    """Deliver until so many connections are in use."""
    number = 0
    while t.dispatcher.flow.connections < connections:
        t.offer([event(number + n) for n in range(connections)])
        number += connections
        t.deliver(yes)
        assert number < 100_000
    return number


def flight_of(t, count, number):
    """Batches that are out at the same time."""
    t.offer([event(number + n) for n in range(count)])
    flight = [t.next() for _ in range(count)]
    assert all(flight)
    return flight


@pytest.mark.parametrize("reply", [Reply(429, {}, b"{}"), Reply(503, {}, b""), Reply(None, {}, b"", "cut")])
def test_those_that_fail_together_count_as_one_failure(trip, reply):
    """Ten requests that were out together and all failed make one step of backoff."""
    t = trip(batch_events=1)
    flight = flight_of(t, 10, grown(t, 10))
    for batch in flight:
        t.settle(batch, reply)
    assert t.dispatcher.wait_s(t.now) == pytest.approx(2 + 3)
    assert (t.dispatcher.flow.tries, t.dispatcher.in_flight) == (1, 0)


def test_longest_retry_after_of_a_flight_counts(trip):
    """Of several replies that ask for patience the one that asks for most is heard, in any order."""
    t = trip(batch_events=1)
    flight = flight_of(t, 3, grown(t, 4))
    for batch, asked_s in zip(flight, ("20", "90", "40"), strict=True):
        t.settle(batch, Reply(429, {"retry-after": asked_s}, b"{}"))
    assert t.dispatcher.wait_s(t.now) == pytest.approx(90)


def test_yes_to_something_sent_later_ends_the_wait(trip):
    """Only what failed waits while something sent after it gets through; a yes from before says nothing."""
    t = trip(batch_events=1)
    early, failed, late = flight_of(t, 3, grown(t, 4))
    t.settle(failed, Reply(503, {}, b""))
    wait_s = t.dispatcher.wait_s(t.now)
    t.settle(early, yes(early))
    assert t.dispatcher.wait_s(t.now) == wait_s > 0
    t.settle(late, yes(late))
    assert t.next().events == failed.events


def test_fewer_connections_after_failures(trip):
    """Too many requests: half as many connections. Nothing gets through: one. Successes bring them back."""
    t = trip(batch_events=1)
    number = grown(t, 8)
    (batch,) = flight_of(t, 1, number)
    t.settle(batch, Reply(429, {}, b"{}"))
    assert t.dispatcher.flow.connections == 4
    t.deliver(yes)
    t.now += 60  # the pace after a 429
    for more in range(5):
        t.now += 4
        (batch,) = flight_of(t, 1, number + 1 + more)
        t.settle(batch, Reply(503, {}, b""))
    assert t.dispatcher.flow.connections == 1
    t.deliver(yes)
    t.now += 1800
    grown(t, 10)
    assert t.dispatcher.flow.connections == 10


def test_blocked_is_tried_slowly_and_at_once_after_flush(trip):
    """A wrong key is tried once more soon, then once a minute, and immediately when somebody asks for it."""
    t = trip()
    t.offer([event(1)])
    for number in range(3):
        batch = t.next()
        t.settle(batch, answer(401, {"code": 401, "error": "Invalid credentials"}))
        if number == 0:
            assert t.dispatcher.wait_s(t.now) == pytest.approx(2 + 3)
            t.dispatcher.flush()
            continue
        assert 60 < t.dispatcher.wait_s(t.now) <= 65
        assert t.next(after_s=59) is None
        t.dispatcher.flush()
        assert t.dispatcher.wait_s(t.now) == 0
    assert t.state == "blocked", "until it has worked"
    batch = t.next()
    t.settle(batch, yes(batch))
    assert (t.state, t.counts()) == ("running", (1, 0, 0))


@pytest.mark.parametrize("reply", [Reply(429, {}, b"{}"), refusal(), Reply(413, {}, b"")])
def test_what_a_sample_meets_settles_nothing(trip, reply):
    """While nothing gets through, a copy of one event asks; whatever becomes of it, the events wait."""
    t = trip()
    t.offer([event(n) for n in range(10)])
    while (batch := t.next(after_s=t.dispatcher.wait_s(t.now))).ids:
        t.settle(batch, Reply(503, {}, b""))
    assert batch.events[0] in [event(n) for n in range(10)]
    t.settle(batch, reply)
    assert t.counts() == (0, 0, 10)
    t.deliver(yes)
    assert (t.counts(), t.dispatcher.is_idle) == ((10, 0, 0), True)


def test_new_settings_are_tried_at_once(trip):
    """After a reload nothing waits, and an old request's 401 that comes in late doesn't block again."""
    t = trip(batch_events=1)
    first, old = flight_of(t, 2, grown(t, 4))
    unauthorized = answer(401, {"code": 401, "error": "Invalid credentials"})
    t.settle(first, unauthorized)
    t.dispatcher.apply(Delivery(batch_events=1, linger_s=0))
    t.settle(old, unauthorized)
    for _ in range(2):
        again = t.next()
        assert again.events in (first.events, old.events)
        t.settle(again, yes(again))
    assert t.state == "running"


# What is sent when


def test_part_filled_batch_waits_for_company(trip):
    """A part-filled batch goes out linger_s after its first event, with what has come meanwhile."""
    t = trip(linger_s=5.0)
    t.offer([event(1)])
    assert t.next() is None
    assert t.dispatcher.wait_s(t.now) == pytest.approx(5.0)
    t.now += 4.9
    t.offer([event(2)])
    assert t.next() is None
    assert t.next(after_s=0.1).events == [event(1), event(2)]
    assert t.next() is None


def test_full_batch_does_not_wait(trip):
    """A full batch goes out at once; what is left over waits no longer than its own first event has."""
    t = trip(linger_s=5.0, batch_events=10)
    t.offer([event(n) for n in range(10)])
    batch = t.next()
    assert len(batch) == 10
    t.settle(batch, yes(batch))
    t.offer([event(n) for n in range(10, 15)])
    assert t.next() is None
    assert len(t.next(after_s=5.0)) == 5


def test_flush_ends_the_wait_for_company(trip):
    """`flush` sends a part-filled batch at once; the next one lingers again."""
    t = trip(linger_s=3600.0)
    t.offer([event(1)])
    t.dispatcher.flush()
    batch = t.next()
    t.settle(batch, yes(batch))
    t.offer([event(2)])
    assert t.next(after_s=3599) is None


def test_nothing_is_sent_while_paused(trip):
    """Paused, nothing goes out, new or waiting, not even after a flush; what is out is settled."""
    t = trip()
    t.offer([event(1)])
    batch = t.next()
    t.dispatcher.paused = True
    t.offer([event(2)])
    t.settle(batch, Reply(503, {}, b""))
    t.dispatcher.flush()
    assert (t.next(after_s=1000), t.dispatcher.wait_s(t.now)) == (None, math.inf)
    t.dispatcher.paused = False
    t.deliver(yes)
    assert t.counts() == (2, 0, 0)


# A queue that can't be written


def said_partly(batch):
    return partly(batch, [0, 2])


def said_short(batch):
    return partly(batch, [0, 2], imported=1)


@pytest.mark.parametrize("say", [yes, said_partly, said_short])
def test_settling_may_be_tried_again(trip, say):
    """When the queue is locked nothing changes, and the same reply settles the batch later, counted once."""
    t = trip()
    t.offer([event(n) for n in range(5)])
    batch = t.next()
    reply = say(batch)
    with locked(t.path):
        for _ in range(2):
            with pytest.raises(TryAgainError):
                t.settle(batch, reply)
            assert (t.counts(), t.dispatcher.in_flight, t.next()) == ((0, 0, 5), 5, None)
    t.settle(batch, reply)
    t.deliver(yes)
    dead = 0 if say is yes else 2
    assert t.counts() == (5 - dead, dead, 0)
    assert (t.figures().short, t.dispatcher.is_idle) == (0, True)


def test_burying_may_be_tried_again(trip):
    """A locked queue only delays what becomes of a refused event: it is dead-lettered later, once."""
    t = trip()
    bad, _ = t.offer([event(1), event(2)])
    server = judging(bad.__eq__)
    while True:
        batch = t.next(after_s=0.2)
        if batch.refusals == REFUSALS - 1:
            break
        t.settle(batch, server(batch))
    with locked(t.path):
        for _ in range(3):
            with pytest.raises(TryAgainError):
                t.settle(batch, server(batch))
    assert t.counts() == (1, 0, 1)
    t.settle(batch, server(batch))
    assert (t.counts(), t.dispatcher.is_idle) == ((1, 1, 0), True)


def test_suspect_that_is_gone_is_forgotten(trip):
    """A suspect whose row another program has deleted meanwhile is not sent again."""
    t = trip()
    t.offer([event(1)])
    batch = t.next()
    t.settle(batch, refusal(batch))
    with closing(sqlite3.connect(f"{t.path}/data.db")) as external, external:
        external.execute("DELETE FROM ack_queue_default")
    assert t.next(after_s=t.dispatcher.wait_s(t.now)) is None
    assert t.dispatcher.is_idle


# The same with the stand-in for Mixpanel


@contextmanager
def sent_to(sandbox):
    """Answers a batch by sending it."""
    client = Client(EVENTS, f"{sandbox.url}/import", Credentials("sandbox-token", "", None), read_timeout_s=5)
    try:
        yield lambda batch: client.post(EVENTS.pack(batch.events))
    finally:
        client.close()


@pytest.fixture
def over_http(server):
    """Answers a batch by sending it to the test's server."""
    with sent_to(server) as post:
        yield post


def test_poison_over_http(trip, server, over_http, oracle):
    """Halving over HTTP: the server sees about 2·log2(2000) requests, and each good event exactly once."""
    t = trip()
    events = [event(n) for n in range(1999)]
    events.insert(1234, event(5000, name="poison"))
    t.offer(events)
    server.inject(Fault.poison(event="poison"))
    t.deliver(over_http)
    assert t.counts() == (1999, 1, 0)
    assert 20 <= server.ledger.request_count <= 26
    assert server.ledger.repeats == 0
    oracle(t.path, server, events)


def test_drop_filter_over_http(trip, server, over_http):
    """A drop filter at the server: every event is sent twice at most, and the shortfall is counted."""
    t = trip()
    t.offer([event(n, name="noise" if n % 10 == 0 else "signup") for n in range(2000)])
    server.inject(Fault.drop(event="noise"))
    t.deliver(over_http)
    assert (t.counts(), t.figures().short) == ((2000, 0, 0), 200)
    assert (server.ledger.accepted, server.ledger.repeats, server.ledger.request_count) == (1800, 1800, 2)


def test_limit_over_http(trip, oracle):
    """A server that takes less than a batch names its limit; after the first 413 nothing exceeds it."""
    t = trip()
    events = t.offer([event(n, pad="x" * 1000) for n in range(3000)])
    with Sandbox(max_body_bytes=300_000) as server, sent_to(server) as post:
        t.deliver(post)
    assert t.counts() == (3000, 0, 0)
    requests = server.ledger.requests
    first_yes = next(index for index, request in enumerate(requests) if request.status == 200)
    assert first_yes >= 1
    assert {request.status for request in requests[:first_yes]} == {413}
    assert all(request.size_bytes <= 300_000 for request in requests if request.status == 200)
    oracle(t.path, server, events)


@pytest.mark.parametrize("kind", ["strings", "out_of_range", "repeated", "contradicting"])
def test_odd_failed_records_over_http(trip, server, over_http, oracle, kind):
    """Failed records in shapes that can't be believed lose no event and take none down with another."""
    t = trip()
    events = t.offer([event(n) for n in range(50)])
    injection = server.inject(Fault.failed_records(kind), times=1)
    t.deliver(over_http)
    delivered, dead, waiting = t.counts()
    assert injection.used == 1
    assert (delivered + dead, waiting) == (50, 0)
    assert dead == (1 if kind == "repeated" else 0)
    oracle(t.path, server, events)


def test_large_suspect_leaves_room_for_others(trip):
    """A suspect larger than all the room for batches does not keep the others from being asked about."""
    t = trip(batch_bytes=500_000, connections=1, batch_events=10)
    (bad,) = t.offer([event(0, text="x" * 600_000)])
    t.offer([event(n) for n in range(1, 40)])
    t.deliver(unless(bad.__eq__))
    assert t.counts() == (39, 1, 0)
    assert [letter.data for letter in t.dead()] == [bad]
