"""Updates in order on a queue in memory: what is sent when, and what each reply leads to."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from forwarder.config.settings import Delivery
from forwarder.delivery import lanes, ordered
from forwarder.delivery.ordered import DOUBTFUL, ENDED, UNREPEATED_MOST, OrderedDispatcher
from forwarder.delivery.wire.outcome import Reply, judge
from forwarder.errors import TryAgainError
from forwarder.records import PROFILES
from forwarder.records.verdict import Verdict
from tests.engine import memory

HTML = {"content-type": "text/html"}
YES = Reply(200, {}, b"1")
NO = Reply(200, {}, b'{"status":0,"error":"not valid"}')
LOST = Reply(None, {}, b"", "no answer in time")
BUSY = Reply(503, {}, b"")
AWAY = Reply(None, {}, b"", "the connection was refused", is_sent=False)
LOGIN = Reply(200, HTML, b"<title>Sign in</title>")
TOO_MANY = Reply(429, {}, b"{}")
WRONG_KEY = Reply(401, {}, b'{"error":"no"}')
WALL = Reply(403, HTML, b"<title>Forbidden</title>")
LARGE = Reply(413, {}, b"")


class Trip:
    """A dispatcher at work on a store in memory."""

    def __init__(self, on_doubt="repeat", **settings):
        self.store = memory.Store()
        self.settings = Delivery(**{"linger_s": 0.0, "connections": 4, **settings})
        self.on_doubt = on_doubt
        self.now = 1000.0
        self.sent = []
        self.restart()

    def restart(self):
        """As after a kill: nothing but the store is left."""
        self.spool = memory.Consumer(self.store)
        self.dispatcher = OrderedDispatcher(
            self.spool, PROFILES, self.settings, self.on_doubt, random=lambda: 0.5
        )
        self.dispatcher.notice(self.now)

    def offer(self, *updates):
        """Updates as "ada set 1", "bob add 2"; returns their ids."""
        ids = []
        for user, operation, value in map(str.split, updates):
            update = {"$token": "t", "$distinct_id": user, f"${operation}": {"n": int(value)}}
            ids.append(self.store.put(PROFILES.accept(json.dumps(update).encode(), 1_700_000_000_000)))
        self.dispatcher.notice(self.now)
        return ids

    def next(self, after_s=0.0):
        """The ids of what is sent *after_s* from now, and the batch; a None is asked again."""
        self.now += after_s
        for _ in range(3):
            if (batch := self.dispatcher.next(self.now)) is not None:
                self.sent.append(list(batch.ids))
                return batch
        return None

    def flight(self):
        """All that is sent now."""
        found = []
        while (batch := self.next()) is not None:
            found.append(batch)
        return found

    def settle(self, batch, reply, after_s=0.0):
        """Act on a reply as the daemon does."""
        self.now += after_s
        return self.dispatcher.settle(batch, judge(PROFILES, reply, batch.events), self.now)

    def deliver(self, server, for_s=600.0):
        """Send and settle what may be sent, until all is settled or the time is over."""
        ends_at = self.now + for_s
        while self.now < ends_at and not self.dispatcher.is_idle:
            flight = self.flight()
            for batch in flight:
                self.settle(batch, server(batch), 0.01)
            if not flight:
                self.now += min(max(self.dispatcher.wait_s(self.now), 0.001), 1.0)
        return self

    @property
    def waiting(self):
        return list(self.store.rows)

    @property
    def dead(self):
        """Reason by id."""
        return {each.event_id: each.reason for each in self.store.letters.values()}


def ids(batches):
    return [list(batch.ids) for batch in batches]


def operations(batch):
    return {name for event in batch.events for name in json.loads(event) if name in ("$set", "$add")}


def opened(trip):
    """*trip* with several connections in use, which take successes."""
    for number in range(16):
        trip.offer(f"opener{number} set 1")
        trip.settle(trip.next(), YES, 0.01)
    trip.sent.clear()
    return trip


# Order, and what goes together


def test_updates_of_one_profile_go_in_order():
    """In one request, or one after the other: nothing is sent before the earlier ones are answered."""
    t = opened(Trip(batch_events=3))
    t.dispatcher.flow._connections.allowed = 4
    first = t.offer("ada set 1", "ada set 2", "ada set 3", "ada set 4", "bob set 1", "bob set 2", "cy set 1")
    batches = t.flight()
    assert ids(batches) == [first[:3], first[4:6], first[6:]]
    t.settle(batches[1], YES)
    assert t.next() is None
    t.settle(batches[0], YES)
    assert ids(t.flight()) == [first[3:4]]


@pytest.mark.parametrize("reply", [BUSY, LOST, AWAY, TOO_MANY, WRONG_KEY, LOGIN, NO, LARGE])
def test_what_is_behind_a_failure_waits_with_it(reply):
    """Whatever the answer, the same updates go before the later ones of the profile."""
    t = Trip()
    first = t.offer("ada set 1", "ada set 2")
    batch = t.next()
    t.offer("ada set 3")
    t.settle(batch, reply)
    t.deliver(lambda _: YES)
    delivered = [row_id for batch in t.sent[1:] for row_id in batch]
    assert delivered == [*first, first[-1] + 1]
    assert (t.waiting, t.dead) == ([], {})


def test_other_profiles_overtake():
    """They are in flight at the same time, and may be answered first."""
    t = opened(Trip())
    t.dispatcher.flow._connections.allowed = 4
    (ada,) = t.offer("ada set 1")
    first = t.next()
    ada2, bob = t.offer("ada set 2", "bob set 1")
    second = t.next()
    assert (ids([first, second]), t.next()) == ([[ada], [bob]], None)
    t.settle(second, YES)
    t.settle(first, YES)
    assert ids(t.flight()) == [[ada2]]


def test_what_counts_twice_goes_in_small_requests_of_its_own():
    """And what is behind it in the same profile waits."""
    t = opened(Trip(connections=4))
    t.dispatcher.flow._connections.allowed = 4
    adds = t.offer(*(f"u{number} add 1" for number in range(UNREPEATED_MOST + 20)))
    sets = t.offer("u0 set 1", "ada set 1", "ada set 2")
    batches = t.flight()
    assert ids(batches) == [adds[:UNREPEATED_MOST], adds[UNREPEATED_MOST:], sets[1:]]
    assert all(len(operations(batch)) == 1 for batch in batches)
    t.settle(batches[0], YES)
    assert ids(t.flight()) == [sets[:1]]


def test_both_kinds_of_one_profile_alternate():
    """In the order in which they were accepted, one request after the other."""
    t = Trip()
    t.offer("ada set 1", "ada add 1", "ada add 1", "ada set 2", "ada set 3", "ada add 1")
    t.deliver(lambda _: YES)
    assert t.sent == [[1], [2, 3], [4, 5], [6]]


def test_requests_keep_their_limits():
    """A count and a size; a single larger one goes alone."""
    t = Trip(batch_events=10, batch_bytes=1024)
    t.offer(*(f"u{number} set 1" for number in range(35)), f"{'x' * 2000} set 1", "ada set 1")
    sizes = []

    def server(batch):
        sizes.append((len(batch), batch.size_bytes))
        return YES

    t.deliver(server)
    assert max(count for count, _ in sizes) == 10
    assert [count for count, size in sizes if size > 1024] == [1]
    assert t.waiting == []


def test_what_lingers_is_sent_together():
    """As for events: the first one waits for company."""
    t = Trip(linger_s=1.0)
    t.dispatcher.notice(t.now)
    t.offer("ada set 1")
    assert (t.next(), t.dispatcher.wait_s(t.now)) == (None, 1.0)
    t.now += 0.5
    t.offer("bob set 1")
    assert t.next() is None
    assert list(t.next(0.5).ids) == [1, 2]


def test_what_a_person_takes_away_is_not_sent():
    """A row that was deleted or held after it was claimed: the next of the profile takes its place."""
    t = Trip(batch_events=2)
    t.offer("ada set 1", "bob set 1", "ada set 2", "bob set 2")
    first = t.next()
    t.next()
    for row_id in (3, 4):
        t.store.rows.pop(row_id)
    t.settle(first, YES)
    assert t.next() is None
    assert t.dispatcher.is_idle
    t.offer("ada set 3")
    assert list(t.next().ids) == [5]


def test_memory_does_not_grow_with_the_backlog(monkeypatch):
    """Only so many rows are claimed, even if none of them may be sent."""
    monkeypatch.setattr(ordered, "MOST_ROWS", 500)
    t = opened(Trip(batch_events=100))
    t.dispatcher.flow._connections.allowed = 4
    t.offer(*["ada set 1"] * 2000)
    assert [len(batch) for batch in t.flight()] == [100]
    for _ in range(100):
        t.next()
    assert 500 <= t.spool._position <= 620


def test_rows_behind_a_stuck_profile_do_not_use_up_the_claim():
    """Others are claimed, although more than a request's rows wait already."""
    t = Trip(batch_events=10)
    t.offer(*["ada set 1"] * 2000, "bob set 1")
    t.deliver(failing_on("ada", BUSY), for_s=600)
    t.offer("cy set 1")
    t.deliver(failing_on("ada", BUSY), for_s=120)
    assert len(t.waiting) == 2000


# What each answer leads to


def test_delivered_updates_leave_the_queue():
    """With one acknowledgement for all, also if some were not valid."""
    t = Trip()
    t.offer("ada set 1", "ada set 2")
    report = t.settle(t.next(), YES)
    assert (report.outcome.verdict, report.sent, report.delivered) == (Verdict.DELIVERED, 2, 2)
    assert (t.waiting, t.store.delivered, t.dispatcher.is_idle) == ([], 2, True)


@pytest.mark.parametrize("operation", ["set", "add"])
@pytest.mark.parametrize("reply", [NO, LARGE])
def test_the_one_that_is_refused_is_found(reply, operation):
    """Nothing of a refused request was stored: it is halved, and the one becomes a dead letter at once."""
    t = Trip("hold")
    t.offer(*(f"u{number % 7} {operation} {number}" for number in range(30)))
    t.deliver(lambda batch: reply if 17 in batch.ids else YES)
    words = "not valid" if reply is NO else "HTTP 413"
    assert {row_id: words in reason for row_id, reason in t.dead.items()} == {17: True}
    assert (t.waiting, t.store.delivered) == ([], 29)
    assert len(t.sent) < 25
    mine = [[row_id for row_id in batch if row_id % 7 == 3] for batch in t.sent]
    assert in_order(mine)


def in_order(batches):
    """Whether each is sent only after those before it, where only refusals repeat it."""
    seen = [row_id for batch in batches for row_id in batch]
    return all(row_id <= max(seen[:index], default=0) + 7 for index, row_id in enumerate(seen))


def test_a_size_limit_is_learned():
    """The next requests keep below it."""
    t = Trip()
    t.offer(*(f"u{number} set 1" for number in range(100)))
    too_large = Reply(413, {}, b'{"error":"request exceeds max limit of 2000 bytes"}')
    t.deliver(lambda batch: too_large if batch.size_bytes > 2000 else YES)
    assert (t.waiting, t.dead) == ([], {})
    assert sum(len(batch) > 25 for batch in t.sent) == 1


@pytest.mark.parametrize("on_doubt", ["repeat", "hold"])
@pytest.mark.parametrize("reply", [AWAY, TOO_MANY, WRONG_KEY, WALL, Reply(302, {}, b"")])
def test_what_was_not_processed_waits_and_goes_again(reply, on_doubt):
    """A refused connection, a limited rate, a wrong key or address: no dead letter, however long it lasts."""
    t = Trip(on_doubt)
    t.offer("ada set 1", "ada add 1", "bob add 1", "cy set 1")
    t.deliver(lambda _: reply, for_s=3600)
    assert (len(t.waiting), t.dead, t.store.sent) == (4, {}, set())
    assert len(t.sent) < 150
    assert t.dispatcher.condition[0] in ("backing_off", "blocked")
    t.deliver(lambda _: YES)
    assert (t.waiting, t.dead, t.dispatcher.condition[0]) == ([], {}, "running")


@pytest.mark.parametrize("reply", [LOST, BUSY, LOGIN])
def test_repeatable_updates_go_again_after_a_lost_answer(reply):
    """The same state comes of it; also what is not repeatable, if a person has decided so."""
    t = Trip("repeat")
    t.offer("ada set 1", "bob add 1")
    t.deliver(lambda _: reply, for_s=3600)
    assert (len(t.waiting), t.dead) == (2, {})
    t.deliver(lambda _: YES)
    assert (t.waiting, t.store.delivered) == ([], 2)


@pytest.mark.parametrize("reply", [LOST, BUSY, LOGIN])
def test_what_may_have_counted_is_held_for_a_person(reply):
    """With "hold" it is never sent again. What is behind it goes on."""
    t = Trip("hold")
    t.offer("ada add 1", "bob add 1", "ada set 1")
    report = t.settle(t.next(), reply)
    assert (report.dead, report.delivered) == (2, 0)
    assert set(t.dead) == {1, 2}
    assert t.dead[1] == DOUBTFUL.format(report.outcome.detail)
    assert "may have applied it" in t.dead[1]
    t.deliver(lambda _: YES)
    assert (t.sent[0], t.sent[-1]) == ([1, 2], [3])
    assert t.store.delivered == 1


def test_what_a_person_holds_at_the_last_moment_is_not_sent():
    """Or it would be applied once more when it is released."""
    t = Trip("hold")
    t.offer("ada add 1", "bob add 1")
    mark = t.spool.mark_sent

    def hold_and_mark(ids, **options):
        t.store.held[1] = t.store.rows.pop(1)
        return mark(ids, **options)

    t.spool.mark_sent = hold_and_mark
    assert list(t.next().ids) == [2]


def test_an_outage_costs_no_more_than_what_was_in_flight():
    """While it lasts, an invalid record shows that it does: no other update is put at risk."""
    t = Trip("hold")
    t.offer(*(f"u{number} add 1" for number in range(200)))
    t.deliver(lambda _: BUSY, for_s=3600)
    assert len(t.dead) == UNREPEATED_MOST
    assert (t.sent[0], t.sent[1:]) == ([*range(1, 51)], [[]] * len(t.sent[1:]))
    assert 20 < len(t.sent) < 100
    t.deliver(lambda batch: YES if batch.ids else NO)
    assert (len(t.dead), t.store.delivered) == (50, 150)


# What is written down before it is sent


def test_what_may_count_twice_is_marked_while_it_is_sent():
    """Only with "hold", only what is not repeatable, and only until it is known that it was not processed."""
    t = Trip("hold")
    t.offer("ada add 1", "bob set 1")
    batch = t.next()
    assert (list(batch.ids), t.store.sent) == ([1], {1})
    t.settle(batch, TOO_MANY)
    assert t.store.sent == set()
    t = Trip("repeat")
    t.offer("ada add 1")
    t.next()
    assert t.store.sent == set()


def test_what_was_in_flight_at_a_kill_is_held_for_a_person():
    """The next daemon learns of it when it claims it, and says so; all others are sent."""
    t = Trip("hold")
    t.offer("ada add 1", "bob add 1")
    t.next()
    t.offer("ada add 1", "bob set 1")
    t.restart()
    t.deliver(lambda _: YES)
    assert t.dead == {1: DOUBTFUL.format(ENDED), 2: DOUBTFUL.format(ENDED)}
    assert t.sent[1:] == [[3], [4]]
    assert t.dispatcher.take_dead() == (2, DOUBTFUL.format(ENDED))
    assert t.dispatcher.take_dead() == (0, "")


def test_what_was_in_flight_at_a_kill_is_repeated_if_a_person_has_decided_so():
    """It counts at least once."""
    t = Trip("hold")
    t.offer("ada add 1")
    t.next()
    t.on_doubt = "repeat"
    t.restart()
    t.deliver(lambda _: YES)
    assert (t.dead, t.store.delivered) == ({}, 1)


# What fails does not hold back what does not


def failing_on(user, reply):
    """A server, or a firewall before it, that fails over all requests with an update of *user*."""

    def server(batch):
        users = {json.loads(event).get("$distinct_id") for event in batch.events}
        if batch.ids:
            return reply if user in users else YES
        return NO

    return server


@pytest.mark.parametrize(
    ("reply", "on_doubt", "operation"),
    [
        *((reply, "repeat", each) for each in ("set", "add") for reply in (BUSY, LOST, WALL, AWAY)),
        *((reply, "hold", "set") for reply in (BUSY, LOST)),
        *((reply, "hold", "add") for reply in (WALL, AWAY)),
    ],
)
def test_one_update_that_always_fails_holds_back_only_its_profile(reply, on_doubt, operation):
    """Others of the same request get through soon; it is tried alone, less and less often.

    A 403 blocks, so that the first to show otherwise is sent after the longest wait."""
    t = Trip(on_doubt)
    t.offer(*(f"u{number} {operation} 1" for number in range(100)), f"u50 {operation} 2")
    t.deliver(failing_on("u50", reply), for_s=300 if reply is WALL else 60)
    assert (t.waiting, t.dead) == ([51, 101], {})
    t.offer("u1 set 2", "u50 set 3")
    t.deliver(failing_on("u50", reply), for_s=60)
    assert (t.waiting, t.dead) == ([51, 101, 103], {})
    before = len(t.sent)
    t.deliver(failing_on("u50", reply), for_s=3600)
    assert 30 <= len(t.sent) - before <= 120
    assert all(batch in ([51], []) for batch in t.sent[before:])
    (told,) = t.dispatcher.deferred(t.now)
    assert (told.ids, bool(told.reason), told.tries) == ("51", True, sum(51 in batch for batch in t.sent))
    assert told.next_s == pytest.approx(t.dispatcher.wait_s(t.now), abs=0.1)
    t.deliver(lambda batch: YES if batch.ids else NO, for_s=200)
    assert (t.waiting, t.dead, t.dispatcher.deferred(t.now)) == ([], {}, [])


def test_a_refusal_in_mixpanels_words_ends_an_outage():
    """It shows that Mixpanel works, as an acknowledgement does."""
    t = Trip()
    t.offer("ada set 1", "bob set 1")
    t.deliver(lambda _: BUSY, for_s=60)
    assert t.dispatcher.condition[0] == "backing_off"
    t.settle(t.next(t.dispatcher.wait_s(t.now)), YES)
    assert (t.dispatcher.condition[0], len(t.dead)) == ("running", 0)


def test_a_server_that_refuses_everything_makes_no_dead_letters():
    """Each update is refused alone, again and again; once others are applied, the refused one is dead."""
    t = Trip()
    t.offer(*(f"u{number} set 1" for number in range(30)))
    t.deliver(lambda _: NO, for_s=3600)
    assert (t.dead, t.dispatcher.condition[0]) == ({}, "blocked")
    t.deliver(lambda batch: NO if any(b"u7" in event for event in batch.events) else YES, for_s=3600)
    assert list(t.dead) == [8]


def test_the_only_update_waits_if_it_is_refused():
    """Nothing shows that Mixpanel takes any; it is dead once another was applied."""
    t = Trip()
    t.offer("bad set 1")
    t.deliver(lambda _: NO, for_s=3600)
    assert (t.dead, t.waiting) == ({}, [1])
    t.offer("ada set 1")
    t.deliver(lambda batch: NO if b"bad" in batch.events[0] else YES, for_s=3600)
    assert (list(t.dead), t.waiting) == ([1], [])


def test_what_counts_twice_gets_all_the_time_there_is():
    """After quick answers the others are given up earlier, and repeated."""
    t = opened(Trip())
    t.dispatcher.flow._connections.allowed = 4
    t.offer("cy set 1")
    t.settle(t.next(), replace(YES, took_s=0.1))
    t.offer("ada set 1", "bob add 1")
    sets, adds = t.flight()
    assert adds.patience_s == t.settings.read_timeout_s > sets.patience_s


def test_a_failing_profile_is_found_without_any_other_traffic():
    """All that waits is one request, which fails because of one of its updates."""
    t = Trip()
    t.offer(*(f"u{number} set 1" for number in range(40)))
    t.deliver(failing_on("u0", BUSY), for_s=120)
    assert t.waiting == [1]


def test_while_nothing_gets_through_one_request_at_a_time_is_tried():
    """With one update each, after waits that double."""
    t = Trip(connections=10)
    t.offer(*(f"u{number} set 1" for number in range(500)))
    t.deliver(lambda _: BUSY, for_s=3600)
    assert len(t.waiting) == 500
    assert 20 < len(t.sent) < 100
    assert all(len(batch) == 1 for batch in t.sent[5:])
    assert t.dispatcher.condition == ("backing_off", "HTTP 503: an empty body")
    assert t.dispatcher.wait_s(t.now) > 10
    began_at = t.now
    t.deliver(lambda _: YES)
    assert (t.waiting, t.dispatcher.condition[0]) == ([], "running")
    assert t.now - began_at < 200


def test_new_settings_forget_the_waits():
    """There may be another server. What was sent to the old one does not count against it."""
    t = Trip()
    t.offer("ada set 1")
    t.deliver(lambda _: WRONG_KEY, for_s=600)
    t.dispatcher.apply(t.settings)
    batch = t.next()
    t.dispatcher.apply(t.settings)
    report = t.settle(batch, WRONG_KEY)
    assert (report.is_stale, t.dispatcher.condition[0]) == (True, "running")
    assert list(t.next().ids) == [1]


def test_pause_and_flush():
    """Paused, nothing is sent; a flush ends the present wait."""
    t = Trip()
    t.dispatcher.paused = True
    t.offer("ada set 1")
    assert (t.next(), t.dispatcher.wait_s(t.now)) == (None, float("inf"))
    t.dispatcher.paused = False
    t.deliver(lambda _: BUSY, for_s=600)
    assert t.dispatcher.wait_s(t.now) > 1
    t.dispatcher.flush()
    assert t.dispatcher.wait_s(t.now) == 0
    assert t.next() is not None


# A queue that can't be read or written


class Locked:
    """A consumer one verb of which fails, so many times."""

    def __init__(self, consumer, verb, times):
        self._consumer, self._verb, self.left = consumer, verb, times

    def __getattr__(self, name):
        if name == self._verb and self.left:
            self.left -= 1
            raise TryAgainError("locked")
        return getattr(self._consumer, name)


@pytest.mark.parametrize("verb", ["claim", "read_again", "mark_sent", "settle"])
@pytest.mark.parametrize("reply", [YES, NO, LOST, TOO_MANY, BUSY])
def test_a_locked_queue_changes_nothing(verb, reply):
    """The call can be made again with the same, and nothing is lost, or sent out of order."""
    t = Trip("hold")
    t.dispatcher._spool = t.dispatcher._backlog._spool = locked = Locked(t.spool, verb, 0)
    t.offer("ada add 1", "ada set 1", "bob add 1", "bob set 1")
    failures = [0]

    def patiently(call, *given):
        locked.left = 2
        for _ in range(3):
            try:
                return call(*given)
            except TryAgainError:
                failures[0] += 1
        return None

    first = True
    while not t.dispatcher.is_idle:
        batch = patiently(t.next)
        if batch is not None:
            patiently(t.settle, batch, reply if first else YES if batch.ids else NO)
            first = False
        else:
            locked.left = 0
            t.now += max(t.dispatcher.wait_s(t.now), 0.001)
    assert failures[0] > 0
    assert t.waiting == []
    assert set(t.dead) == ({1, 3} if reply in (LOST, BUSY) else set())
    assert t.store.delivered + len(t.dead) == 4


def test_lanes_release_what_they_took():
    """Taken rows bar their lane until it is released; put back, they are the first again."""
    found = lanes.Lanes()
    rows = [lanes.Row(number, number % 2, True, 10) for number in range(6)]
    for row in rows:
        found.add(row)
    taken = found.take(True, 3, 1000)
    assert ([row.id for row in taken], found.count, found.has_free) == ([0, 1, 2], 3, False)
    found.put_back(taken)
    assert [row.id for row in found.take(True, 9, 1000)] == [0, 1, 2, 3, 4, 5]
    found.put_back(rows)
    rows[2].most = 1
    assert [row.id for row in found.take(True, 9, 1000)] == [0, 1]
    found.put_back(rows[:2])
    assert [row.id for row in found.take_one(True, 1.0)] == [1]
    found.put_back(rows[1:2])
    rows[0].most = 1
    assert [row.id for row in found.take(True, 9, 1000)] == [0]


def test_a_report_says_what_happened():
    """Its figures are those of the reply, also of a retry."""
    t = Trip()
    t.offer("ada set 1")
    t.settle(t.next(), BUSY)
    t.now += t.dispatcher.wait_s(t.now)
    batch = t.next()
    assert (t.dispatcher.in_flight, t.dispatcher.has_sent, t.dispatcher.awaits(batch)) == (1, True, True)
    outcome = replace(judge(PROFILES, YES, batch.events), took_s=0.5)
    report = t.dispatcher.settle(batch, outcome, t.now)
    assert (report.is_retry, report.delivered, report.dead, report.short) == (True, 1, 0, 0)
    assert (report.state, report.wait_s) == ("running", float("inf"))
    assert (t.dispatcher.in_flight, t.dispatcher.has_sent, t.dispatcher.awaits(batch)) == (0, False, False)
