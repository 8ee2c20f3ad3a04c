"""P5 and P4 under all that the server can do: no event becomes a dead letter by a fault that is not its own.

``FORWARDER_CRASH_S=600`` goes on for so many seconds; ``FORWARDER_TEST_SEED=7`` repeats the run of that seed.
"""

import itertools
import json
import os
import random
import time
from dataclasses import dataclass, replace

import pytest

from forwarder import spool
from forwarder.config.settings import Delivery
from forwarder.delivery.dispatcher import Dispatcher
from forwarder.delivery.wire.outcome import Reply, judge
from forwarder.records import EVENTS
from forwarder.records.event import accept
from forwarder.records.verdict import Verdict
from forwarder.sandbox import Fault, Sandbox
from forwarder.sandbox.faults import NAMES
from forwarder.sandbox.intake import Request
from forwarder.service import state as state_file
from forwarder.spool import EventQueue
from forwarder.spool.sqlite.consumer import Consumer
from forwarder.spool.sqlite.view import View
from tests.conftest import each_engine, figures
from tests.on_server import long

TOKEN = "sandbox-token"

# Read before the tests take this host's settings away.
LONG_S = float(os.environ.get("FORWARDER_CRASH_S") or 0)
SEED = int(os.environ.get("FORWARDER_TEST_SEED") or random.SystemRandom().randrange(2**32))

EAGER = {
    "FORWARDER_DELIVERY_RETRY_INITIAL_S": "0.01",
    "FORWARDER_DELIVERY_RETRY_MAX_S": "0.02",
    "FORWARDER_DELIVERY_READ_TIMEOUT_S": "0.5",
}


@dataclass(frozen=True)
class Case:
    """A fault, and what may follow from it.

    Attributes:
        times: In how many requests it has its part; None: in all, until it is cleared.
        taken: The server may keep events that it does not say yes to.
        names: It blames the first event of a batch by its index and its own id: Mixpanel's word against that
            event, which becomes a dead letter. No other fault makes one.
        refuses: It refuses without a reason that can be used.
        miscounts: What it counts does not add up. That is believed when it happens twice.
        chance: In each request.
    """

    fault: Fault
    times: int | None = 2
    taken: bool = False
    names: bool = False
    refuses: bool = False
    miscounts: bool = False
    chance: float = 1.0


NOT_MINE = '{"code":200,"num_records_imported":%d,"status":"OK"}'
CASES = {
    "outage": Case(Fault.outage(60)),
    "slow": Case(Fault.slow(0.05)),
    "hang": Case(Fault.hang(), times=1),
    "hang, taken": Case(Fault.hang(taken=True), times=1, taken=True),
    "reset_before": Case(Fault.reset_before()),
    "reset_after": Case(Fault.reset_after(), taken=True),
    "half_answer": Case(Fault.half_answer(), taken=True),
    "answer: 204": Case(Fault.answer(204)),
    "answer: 400 of another API": Case(Fault.answer(400, '{"error": {"message": "x"}}')),
    "answer: a count of nothing": Case(Fault.answer(200, NOT_MINE % 0), times=1, miscounts=True),
    "answer: a count of too many": Case(Fault.answer(200, NOT_MINE % 9999), times=1, miscounts=True),
    "answer: 413 in passing": Case(Fault.answer(413, "{}"), times=1, refuses=True),
    "server_error": Case(Fault.server_error(500), chance=0.5),
    "server_error 503": Case(Fault.server_error()),
    "throttle": Case(Fault.throttle(retry_after_s=0.1)),
    "too_large": Case(Fault.too_large(), times=None),
    "too_large, html": Case(Fault.too_large(html=True), times=None),
    "too_large, tiny limit": Case(Fault.too_large(limit_bytes=1), times=None),
    "login_page": Case(Fault.login_page(), chance=0.5),
    "redirect": Case(Fault.redirect()),
    "unauthorized": Case(Fault.unauthorized()),
    "forbidden": Case(Fault.forbidden()),
    "not_found": Case(Fault.not_found()),
    "method_not_allowed": Case(Fault.method_not_allowed()),
    "request_timeout": Case(Fault.request_timeout()),
    "bad_request": Case(Fault.bad_request(), times=None),
    "bad_request in passing": Case(Fault.bad_request(), times=1, refuses=True),
    "bad_request, wrong cluster": Case(Fault.bad_request("invalid project id for cluster")),
    "temporary_failure": Case(Fault.temporary_failure()),
    "many_failed_records": Case(Fault.many_failed_records(3), times=None),
    "many_failed_records, large": Case(Fault.many_failed_records(60_000), times=1),
    "failed_records: strings": Case(Fault.failed_records("strings"), times=None),
    "failed_records: out_of_range": Case(
        Fault.failed_records("out_of_range"), times=1, taken=True, refuses=True
    ),
    "failed_records: contradicting": Case(
        Fault.failed_records("contradicting"), times=1, taken=True, refuses=True
    ),
    "failed_records: repeated": Case(Fault.failed_records("repeated"), names=True),
    "control_characters": Case(Fault.control_characters(), names=True),
    "reject": Case(Fault.reject(event="rejected"), times=None),
    "poison": Case(Fault.poison(event="poison"), times=None),
    "drop": Case(Fault.drop(by=1), times=1, taken=True, miscounts=True),
    "rate_limit": Case(Fault.rate_limit(200.0), times=1),
    "clock, ahead": Case(Fault.clock(3 * 3600.0)),
    "clock, behind": Case(Fault.clock(-3 * 3600.0)),
    "huge_answer": Case(Fault.huge_answer(5 * 1024 * 1024), taken=True),
    "odd_yes: 226": Case(Fault.odd_yes(), taken=True),
    "odd_yes: Bad Request": Case(Fault.odd_yes(200, "Bad Request"), taken=True),
}
# These have their part only when such an event, or too many at once, comes by.
UNSURE = {"reject", "poison", "rate_limit"}
# Each by its own content: refused by name, by the faults of that name, as strings (an identity event).
BAD = [("signup", {"time": 1}), ("poison", {}), ("rejected", {}), ("$identify", {})]


def event(name="signup", **properties):
    """The final bytes of one event."""
    text = json.dumps({"event": name, "properties": {"distinct_id": "d", **properties}}).encode()
    return accept(text, int(time.time() * 1000), rules=False)


def recorded(fault, named):
    """The same fault, which notes the ids of the events that it blames."""
    if fault.alter is None:
        return fault

    def alter(verdict):
        found = fault.alter(verdict)
        if hasattr(found, "failures"):
            ids = {one.index: one.insert_id for one in verdict.events}
            named.update(ids[one.index] for one in found.failures if ids.get(one.index) == one.insert_id)
        return found

    return replace(fault, alter=alter)


class Exchange:
    """A daemon, a server with faults, and what is offered; `settled` proves that all came out right."""

    def __init__(self, forwarder, server, queue_path, rows, until, oracle):
        self.forwarder, self.server, self.path = forwarder, server, queue_path
        self.rows, self.until, self.oracle = rows, until, oracle
        self.offered, self.bad, self.named = [], set(), set()
        self.injected = self.starts = 0
        self.daemon = None
        server.inject(Fault.poison(event="poison"))
        server.inject(Fault.reject(event="rejected"))

    def start(self):
        """A daemon; the one before is killed."""
        if self.daemon is not None:
            self.daemon.kill()
        self.daemon = self.forwarder.daemon(**EAGER)
        self.starts += 1

    def offer(self, good, *bad):
        """Good events, and among them those given; durable on return."""
        wrong = [event(name, **properties) for name, properties in bad]
        events = [*(event(number=number) for number in range(good)), *wrong]
        random.Random(len(self.offered)).shuffle(events)
        with EventQueue(self.path, min_free_bytes=0) as queue:
            queue.append(events)
        self.offered += events
        self.bad.update(wrong)

    def inject(self, *cases):
        """Put faults in force, beside those that bad events meet at any time."""
        # Those that last come last: the first that decides an answer has its turn until it is spent.
        cases = sorted(cases, key=lambda case: case.times is None)
        found = [
            self.server.inject(recorded(case.fault, self.named), times=case.times, chance=case.chance)
            for case in cases
        ]
        self.injected += len(found)
        return list(zip(cases, found, strict=True))

    def end(self, injections):
        """Take these faults away. Not by `clear`: for a moment, poison would be none."""
        for _, injection in injections:
            injection._times = injection.used
        self.server.release()
        self.server.listen_again()

    def happened(self, injections, tries):
        """Go on offering until each fault has had its part: first those that hide the others."""
        for case, injection in sorted(injections, key=self.hides, reverse=True):
            wanted = tries if case.times is None else case.times
            if case.fault.name == "outage":
                self.until(
                    lambda: state_file.read(spool.at(self.path)).failures >= 2, "tries without success"
                )
                self.server.listen_again()
            elif case.fault.name not in UNSURE:
                had = lambda injection=injection, wanted=wanted: self.used(injection) >= wanted  # noqa: E731
                self.until(had, case.fault.name, 60)
            if case.times is None:
                self.end([(case, injection)])

    @staticmethod
    def hides(one):
        """How far a fault keeps others from having their part."""
        case, _ = one
        return 2 if case.fault.name == "outage" else int(case.times is None)

    def used(self, injection):
        """In how many requests it had its part; there are more to come."""
        if not self.rows(self.path):
            self.offer(3)
        return injection.used

    def is_empty(self):
        """Whether nothing waits. A bad event that is refused alone does, until something else is imported."""
        waiting = self.rows(self.path)
        if waiting and self.bad.issuperset(waiting):
            self.offer(1)
        return not waiting

    def settled(self):
        """With no fault any more everything is delivered, but for the dead, which are exactly the bad."""
        self.until(self.is_empty, "everything is settled", 60)
        dead = set(self.rows(self.path, "dead_letters"))
        named = {data for data in self.offered if json.loads(data)["properties"]["$insert_id"] in self.named}
        assert dead - self.bad - named == set(), "dead by a fault that is not its own"
        assert self.bad - dead == set(), "bad, and not dead"
        self.oracle(self.path, self.server, self.offered)
        assert self.server.ledger.accepted == len(self.offered) - len(dead)
        assert figures(self.path).short == 0


@pytest.fixture
def exchange(forwarder, server, queue_path, rows, until, oracle):
    """An exchange without a daemon yet."""
    return Exchange(forwarder, server, queue_path, rows, until, oracle)


def test_every_fault_of_the_sandbox_has_its_case():
    """There is no fault that this page does not say what may follow from."""
    assert {case.fault.name for case in CASES.values()} == set(NAMES)


@each_engine
@pytest.mark.timeout(180)
def test_each_fault_alone(exchange):
    """While and after any one fault only events that are bad themselves die, and all others are delivered."""
    exchange.start()
    for turn, (name, case) in enumerate(CASES.items()):
        print(name)
        named = len(exchange.named)
        injections = exchange.inject(case)
        exchange.offer(3, *(BAD[turn // 3 % len(BAD)],) * (turn % 3 == 0))
        exchange.happened(injections, 5)
        exchange.end(injections)
        exchange.settled()
        assert (len(exchange.named) > named) == case.names, name


def dealt(rng, deck):
    """Some faults that may be in force together, taken from *deck*; what doesn't go with the others stays."""
    cases = [CASES[name] for name in rng.sample(sorted(deck), min(rng.randint(3, 8), len(deck)))]
    # Two such around a yes are evidence against the event, in whoever's eyes.
    refusing = [case for case in cases if case.refuses or case.times is None]
    miscounting = [case for case in cases if case.miscounts]
    cases = [case for case in cases if case not in (*refusing[1:], *miscounting[1:])]
    # What it keeps without a yes, and blames when it comes again, would be both delivered and dead.
    if any(case.taken for case in cases):
        cases = [case for case in cases if not case.names]
    deck.difference_update([name for name, case in CASES.items() if case in cases])
    return cases


# Each fault alone, above, has shown that the engine makes no difference.
@pytest.mark.parametrize("queue_path", ["directory", pytest.param("server", marks=long)], indirect=True)
@pytest.mark.timeout(240 + LONG_S * 2)
def test_faults_in_long_random_sequences(exchange):
    """All faults in any order, overlapping, over kills of the daemon: only events that are bad die."""
    print(f"FORWARDER_TEST_SEED={SEED}")
    rng = random.Random(SEED)
    ends_at, turn, deck, had = time.monotonic() + LONG_S, 0, set(CASES), set()
    while deck or time.monotonic() < ends_at:
        deck = deck or set(CASES)
        cases = dealt(rng, deck)
        print(turn, [case.fault.name for case in cases])
        if turn == 0 or rng.random() < 0.3:
            exchange.start()
        injections = exchange.inject(*cases)
        exchange.offer(rng.randint(5, 60), *rng.choices(BAD, k=rng.randint(0, 3)))
        if rng.random() < 0.3:
            exchange.start()
        exchange.happened(injections, rng.randint(3, 12))
        exchange.end(injections)
        exchange.settled()
        had.update(case.fault.name for case, one in injections if one.used or case.fault.name == "outage")
        turn += 1
    figures = (turn, exchange.injected, len(exchange.offered), len(exchange.bad), exchange.starts)
    print("sequences, faults, events, bad ones, daemons: {}, {}, {}, {}, {}".format(*figures))
    assert set(NAMES) - had <= UNSURE
    assert exchange.daemon.process.poll() is None


ODD = {
    "strings": (Fault.failed_records("strings"), 0),
    "out of range": (Fault.failed_records("out_of_range"), 0),
    "contradicting": (Fault.failed_records("contradicting"), 0),
    "repeated": (Fault.failed_records("repeated"), 1),
    "records for three of twelve, by other ids": (Fault.many_failed_records(3), 0),
    "a count of one less": (Fault.drop(by=1), 0),
    "a count of none": (Fault.answer(200, NOT_MINE % 0), 0),
    "a count of one too many": (Fault.answer(200, NOT_MINE % 13), 0),
}


@each_engine
def test_answer_that_does_not_add_up_is_no_yes(exchange):
    """The events are sent again, not believed to be taken, and no neighbour dies with one that is named."""
    exchange.start()
    for name, (fault, names) in ODD.items():
        named, requests = len(exchange.named), exchange.server.ledger.request_count
        [(_, injection)] = exchange.inject(Case(fault, times=1))
        exchange.offer(12)
        exchange.settled()
        assert injection.used == 1, name
        assert len(exchange.named) - named == names, name
        first, *more = [request.events for request in exchange.server.ledger.requests[requests:]]
        assert first == 12, name
        assert names or sum(more) >= 12, name
    assert len(exchange.rows(exchange.path, "dead_letters")) == len(exchange.named)


# The rule for suspects, in this process and in no time: a server that refuses without a reason, at will.


class Bench:
    """A dispatcher on a real queue, before the stand-in's own judgement; the clock is the test's."""

    def __init__(self, path, events, strict=True, **settings):
        self.server = Sandbox()
        self.queue = EventQueue(path, min_free_bytes=0)
        self.spool = None
        self.settings = Delivery(linger_s=0.0, **settings)
        self.path, self.strict, self.now = path, strict, 1000.0
        self.asked = self.yeses = self.dead = self.worst = 0
        self.queue.append([event(number=number) for number in range(events)])
        self.restart()

    def restart(self):
        """A new daemon, which knows nothing."""
        if self.spool:
            self.spool.close()
        self.spool = Consumer(self.path)
        self.dispatcher = Dispatcher(self.spool, EVENTS, self.settings)
        self.dispatcher.notice(self.now)

    def close(self):
        self.spool.close()
        self.queue.close()

    def reply(self, batch):
        """What the server answers, by the faults in force."""
        query = {"strict": "1" if self.strict else "0"}
        headers = {"authorization": f"Basic {TOKEN}:", "content-type": "application/x-ndjson"}
        request = Request("POST", "/import", query, headers, b"\n".join(batch.events))
        answer = self.server.endpoint.settle(request, self.server.schedule.plan(), time.time()).answer
        return Reply(answer.status, {"content-type": answer.content_type}, answer.body)

    def run(self, rng, requests, before=lambda: None):
        """Send and settle, in any order, so many requests at most; *before* each of them is asked."""
        ends_at, flight = self.now + 36_000, []
        while self.asked < requests and not self.dispatcher.is_idle and self.now < ends_at:
            while (batch := self.dispatcher.next(self.now)) is not None:
                flight.append(batch)
            if not flight:
                self.now += min(max(self.dispatcher.wait_s(self.now), 0.001), 60.0)
                continue
            before()
            batch = flight.pop(rng.randrange(len(flight)))
            outcome = judge(EVENTS, self.reply(batch), batch.events, self.strict)
            report = self.dispatcher.settle(batch, outcome, self.now)
            self.asked += 1
            if report.outcome.verdict in (Verdict.DELIVERED, Verdict.SHORT):
                self.yeses += 1
                self.dead = 0
            self.dead += report.dead
            self.worst = max(self.worst, self.dead)
            self.now += 0.01

    def figures(self):
        with View(self.path) as view:
            return view.figures()


@pytest.fixture
def bench(queue_path):
    """Benches, numbered; all closed in the end."""
    made = []

    def make(events, **settings):
        made.append(Bench(f"{queue_path}-{len(made)}", events, **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


REFUSALS = [
    Fault.bad_request(),
    Fault.too_large(),
    Fault.too_large(html=True),
    Fault.failed_records("strings"),
    Fault.many_failed_records(2),
]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("batch_events", [1, 7, 2000])
def test_refusals_without_a_yes_kill_nothing(bench, strict, batch_events):
    """However refusals and failures follow each other, over restarts: while nothing is taken nothing dies."""
    rng = random.Random(SEED)
    others = [Fault.server_error(), Fault.unauthorized(), Fault.throttle(), Fault.login_page()]
    faults = REFUSALS[:3] if not strict else REFUSALS
    at_work = bench(40, strict=strict, batch_events=batch_events, connections=5)

    def change():
        at_work.server.schedule.clear()
        at_work.server.inject(rng.choice(faults if rng.random() < 0.9 else others))

    for round_ in range(8):
        at_work.run(rng, 60 * (round_ + 1), change)
        at_work.restart()
    found = at_work.figures()
    assert at_work.asked == 480
    assert (found.dead_lettered, found.delivered, found.waiting) == (0, 0, 40), f"seed {SEED}"
    at_work.server.schedule.clear()
    at_work.run(rng, 10_000)
    assert at_work.figures().delivered == 40


@pytest.mark.parametrize("kind", ["contradicting", "out_of_range"])
def test_nonsense_about_every_event_kills_none(bench, kind):
    """A server that judges a probe well, but blames each event by another's id or place, kills none."""
    at_work = bench(40)
    injection = at_work.server.inject(Fault.failed_records(kind))
    at_work.run(random.Random(SEED), 500)
    assert injection.used > 40
    found = at_work.figures()
    assert (found.dead_lettered, found.waiting) == (0, 40)
    at_work.server.schedule.clear()
    at_work.run(random.Random(SEED), 1000)
    assert at_work.figures().delivered == 40


@pytest.mark.parametrize("fault", [Fault.bad_request(), Fault.too_large()], ids=["400", "413"])
@pytest.mark.parametrize("batch_events", [1, 10, 2000])
def test_flapping_server_kills_three_between_yeses(bench, fault, batch_events):
    """A server that refuses at random, without a reason, kills three at most before its next yes."""
    rng = random.Random(SEED)
    worst = {}
    for chance in (0.05, 0.3, 0.5, 0.7, 0.9):
        at_work = bench(100, batch_events=batch_events, connections=rng.choice([1, 4, 10]))
        injection = at_work.server.inject(fault, chance=chance, seed=rng.randrange(10**6))
        at_work.run(rng, 400)
        found = at_work.figures()
        assert at_work.worst <= 3, (chance, SEED)
        assert found.accepted == found.delivered + found.dead_lettered + found.waiting
        worst[chance] = (injection.used, found.dead_lettered, at_work.yeses)
    print(f"seed {SEED}; chance: (refused, dead, yes)", worst)


def test_spells_of_refusals_kill_nothing(bench):
    """Spells in which everything is refused, between spells in which all is taken, make no dead letters."""
    at_work = bench(1000, batch_events=1, connections=1)

    def spell():
        at_work.server.schedule.clear()
        if at_work.asked // 30 % 2:
            at_work.server.inject(Fault.bad_request())

    at_work.run(random.Random(SEED), 900, spell)
    assert at_work.yeses > 100
    assert at_work.figures().dead_lettered == 0, SEED


def test_server_that_refuses_each_second_request_kills_few(bench):
    """Of events that come one at a time most outlive a server that refuses every second request: it looks as
    if it picked its victims."""
    at_work = bench(30, batch_events=1, connections=1)
    turns = itertools.cycle([True, False])
    fault = Fault.bad_request()

    def flap():
        at_work.server.schedule.clear()
        if next(turns):
            at_work.server.inject(fault)

    at_work.run(random.Random(SEED), 2000, flap)
    found = at_work.figures()
    assert found.dead_lettered <= 5
    assert found.delivered == 30 - found.dead_lettered
