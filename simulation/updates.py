"""A day of profile updates, drawn by the number of a seed, and what must hold in each.

* Each request has of each profile the first updates that are not settled, in their order; no other request
  in flight has any of that profile.
* All that is accepted ends delivered or dead; only what the server always fails over waits, and what is
  behind it in its profile.
* What leaves the same state when repeated has the state of the accepted updates, each applied once.
* What counts is applied at least once with "repeat". With "hold" it is applied once at most; what was not
  applied is a dead letter.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any

from forwarder.config.settings import Delivery
from forwarder.delivery import ordered
from forwarder.delivery.lanes import Lanes
from forwarder.delivery.ordered import OrderedDispatcher
from forwarder.delivery.wire.outcome import Reply, judge
from forwarder.records import PROFILES
from forwarder.sandbox.updates import users
from forwarder.spool import Claim, Settlement
from simulation.server import AWAY, CUT, HTML
from simulation.world import Forwarder, World

TOKEN = "t"
DAY_S, AFTER_S = 3600.0, 6 * 3600.0
# The server always fails over requests with this in it, and refuses this.
WALLED, INVALID = b'"walled"', b'"invalid"'
YES, NO = Reply(200, {}, b'{"status":1,"error":null}'), Reply(200, {}, b'{"status":0,"error":"not valid"}')
SILENT = Reply(None, {}, b"", "no answer in time", is_cut=True)
# What may come instead of an answer, and whether the updates may have been applied.
FAILURES = [
    (replace(AWAY, is_sent=False), False),
    *(
        (reply, may)
        for reply in (CUT, SILENT, Reply(503, {}, b""), Reply(200, HTML, b"<p>"))
        for may in (0, 1)
    ),
    (Reply(429, {"retry-after": "7"}, b"{}"), False),
    (Reply(401, {}, b'{"error":"no"}'), False),
    (Reply(302, {}, b""), False),
]


class Store:
    """A queue in memory that a kill leaves as it is, and which checks what leaves it."""

    def __init__(self) -> None:
        self.accepted: dict[int, bytes] = {}
        self.rows: dict[int, bytes] = {}
        self.dead: dict[int, str] = {}
        self.sent: set[int] = set()

    def put(self, records: Sequence[bytes]) -> None:
        """Accept *records*."""
        for record in records:
            row_id = len(self.accepted) + 1
            self.accepted[row_id] = self.rows[row_id] = record

    @property
    def delivered(self) -> set[int]:
        """The ids of what was delivered."""
        return self.accepted.keys() - self.rows.keys() - self.dead.keys()


class Consumer:
    """The way out of a store, for one dispatcher."""

    def __init__(self, store: Store) -> None:
        self._store, self._position, self._doubtful = store, 0, frozenset(store.sent)

    def arrivals(self) -> int:
        """How many were not claimed."""
        return len(self._store.accepted) - self._position

    def claim(self, max_events: int, max_bytes: int) -> Claim:
        """The next rows."""
        behind = (row_id for row_id in self._store.rows if row_id > self._position)
        claim = self._claimed([row_id for row_id, _ in zip(behind, range(max_events), strict=False)])
        del max_bytes
        self._position = claim.ids[-1] if claim.ids else len(self._store.accepted)
        claim.left = self.arrivals()
        return claim

    def read_again(self, ids: Sequence[int], _size_bytes: int) -> Claim:
        """Rows that were claimed before."""
        return self._claimed([row_id for row_id in ids if row_id in self._store.rows])

    def _claimed(self, ids: list[int]) -> Claim:
        events = [self._store.rows[row_id] for row_id in ids]
        doubtful = [row_id for row_id in ids if row_id in self._doubtful]
        return Claim(ids, events, sum(map(len, events)) + len(events), doubtful=doubtful)

    def mark_sent(self, ids: Sequence[int], *, sent: bool = True) -> int:
        """They are being sent, or not."""
        (self._store.sent.update if sent else self._store.sent.difference_update)(ids)
        return len(self._store.rows.keys() & set(ids))

    def settle(self, settlement: Settlement) -> None:
        """Rows leave, each once."""
        for row_id in settlement.ids:
            assert self._store.rows.pop(row_id, None) is not None, f"update {row_id} is settled twice"
        for each in settlement.dead:
            assert each.data == self._store.accepted[each.event_id], "another update's death"
            self._store.dead[each.event_id] = each.reason


class Server:
    """Mixpanel and all that is between, which checks the order of what comes."""

    def __init__(self, day: Day) -> None:
        self._day = day
        self.profiles = users(TOKEN)
        self.share = 0.0
        # Whether nothing is stored if one is invalid; Mixpanel stores the others.
        self.is_strict = day.random.random() < 0.5
        self.failures = FAILURES
        self.requests = 0
        # What may have been applied, as far as the forwarder can know.
        self.doubtful: set[bytes] = set()

    def arrive(self, now: float, events: Sequence[bytes], patience_s: float) -> tuple[float, Reply]:
        """How long the answer takes, and what it is."""
        del now
        self.requests += 1
        assert self.requests < 10_000, "too many requests"
        if tuple(events) != (PROFILES.probe,):
            self._day.check_order(events)
        random = self._day.random
        took_s = random.uniform(0.05, 0.5)
        if any(WALLED in event for event in events):
            self.doubtful.update(events)
            return took_s, Reply(503, {}, b"")
        if random.random() < self.share:
            reply, is_applied = random.choice(self.failures)
            if is_applied:
                self.profiles.take(events)
            if judge(PROFILES, reply, events).is_doubtful:
                self.doubtful.update(events)
            return patience_s if reply is SILENT else took_s, reply
        if self.is_strict and any(INVALID in event for event in events):
            return took_s, NO
        valid, _ = self.profiles.take(events)
        return took_s, YES if valid else NO


class Day:
    """One day.

    Args:
        seed: The same seed gives the same day.
    """

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self.random = random = Random(seed + 1)
        self.store = Store()
        self.on_doubt = random.choice(["repeat", "hold", "hold"])
        self.settings = Delivery(
            batch_events=random.choice([1, 3, 20, 200]),
            linger_s=random.choice([0.0, 1.0]),
            connections=random.choice([1, 4, 10]),
            read_timeout_s=20.0,
        )
        self.server = Server(self)
        self._users = [f"u{number}" for number in range(random.choice([1, 5, 40]))]
        self._bad = random.choice([0.0, 0.0, 0.003, 0.01])
        self._number = 0
        self._begin()

    def _begin(self) -> None:
        draw = Random(self.random.random()).random
        consumer: Any = Consumer(self.store)
        dispatcher = OrderedDispatcher(consumer, PROFILES, self.settings, self.on_doubt, draw)
        self.forwarder = Forwarder(dispatcher, self.server, kind=PROFILES)
        self.world.wake(self.forwarder)

    def run(self) -> None:
        """Live through it.

        Raises:
            AssertionError: something does not hold.
        """
        random, world = self.random, self.world
        offers = [random.uniform(0, DAY_S) for _ in range(random.randint(1, 30))]
        for when in offers:
            count = random.choice([1, 1, 3, 30, 150])
            world.at(when, lambda count=count: self._offer(count))  # type: ignore[misc]
        for _ in range(random.choice([0, 1, 3])):
            start = random.uniform(0, DAY_S)
            share = random.choice([0.05, 0.3, 0.7, 1.0])
            failures = random.choice([FAILURES, [random.choice(FAILURES)]])
            world.at(start, lambda share=share, failures=failures: self._fail(share, failures))  # type: ignore[misc]
            world.at(start + random.choice([30, 600, 1800]), lambda: self._fail(0.0, FAILURES))
            if random.random() < 0.6:
                world.at(start + random.uniform(0, 120), self._kill)
        for _ in range(random.choice([0, 0, 2, 5])):
            # At many of them something is in flight.
            world.at(random.choice(offers) + random.uniform(0, 2), self._kill)
        for happen in (self._reload, self._flush):
            for _ in range(random.choice([0, 0, 2])):
                world.at(random.uniform(0, DAY_S), happen)
        world.run(2 * DAY_S)
        self._fail(0.0, FAILURES)
        # An update that is refused alone is dead once others are applied.
        for number in range(1, 40):
            world.at(2 * DAY_S + number * 60, self._offer_good)
        world.run(2 * DAY_S + AFTER_S)
        self._check()

    # What happens

    def _offer(self, count: int) -> None:
        self.store.put([self._update() for _ in range(count)])
        self.world.wake(self.forwarder)

    def _offer_good(self) -> None:
        update = {"$token": TOKEN, "$distinct_id": "other", "$set": {"a": 1}}
        self.store.put([PROFILES.accept(json.dumps(update).encode(), 1_700_000_000_000)])
        self.world.wake(self.forwarder)

    def _update(self) -> bytes:
        random, self._number = self.random, self._number + 1
        name, value = random.choice("abc"), random.randint(0, 9)
        user: str = random.choice(self._users)
        operation: dict[str, object] = random.choice(
            [
                {"$set": {name: value}},
                {"$set_once": {name: value}},
                {"$union": {f"list {name}": [value]}},
                {"$remove": {f"list {name}": value}},
                {"$unset": [name]},
                {"$add": {f"#{self._number}": 1}},
                {"$add": {f"#{self._number}": 1}},
                {"$append": {f"#{self._number}": 1}},
            ]
        )
        if random.random() < self._bad:
            operation = {"$set": random.choice(["invalid", "invalid", {"a": "walled"}])}
        update = {"$token": TOKEN, "$distinct_id": user, "number": self._number, **operation}
        return PROFILES.accept(json.dumps(update).encode(), 1_700_000_000_000, rules=False)

    def _fail(self, share: float, failures: list[tuple[Reply, Any]]) -> None:
        self.server.share, self.server.failures = share, failures

    def _kill(self) -> None:
        self.forwarder.is_alive = False
        self.server.doubtful.update(self._in_flight)
        self._begin()

    def _reload(self) -> None:
        self.forwarder.dispatcher.apply(self.settings)
        self.world.wake(self.forwarder)

    def _flush(self) -> None:
        self.forwarder.dispatcher.flush()
        self.world.wake(self.forwarder)

    @property
    def _in_flight(self) -> list[bytes]:
        return [event for batch in self.forwarder.dispatcher._out for event in batch.events]

    # What must hold

    def check_order(self, events: Sequence[bytes]) -> None:
        """What arrives is the first of its profiles that waits, and alone under way."""
        waiting = _by_profile(self.store.rows.values())
        for user, updates in _by_profile(events).items():
            assert updates == waiting[user][: len(updates)], f"out of order: {user}"
        together = _by_profile(event for event in self._in_flight if event != PROFILES.probe)
        for user in _by_profile(events):
            assert set(together[user]) <= set(events), f"{user} is in flight twice"

    def _check(self) -> None:
        store, applied = self.store, self.server.profiles
        stuck = {_user(record) for record in store.rows.values() if WALLED in record}
        assert {_user(record) for record in store.rows.values()} <= stuck, "not settled in time"
        assert not store.rows or all(WALLED in rows[0] for rows in _by_profile(store.rows.values()).values())
        lanes = {row_id: PROFILES.lane(record) for row_id, record in store.accepted.items()}
        self._check_counted({row_id for row_id, lane in lanes.items() if not lane.repeats})
        dead = [
            record
            for row_id, record in store.accepted.items()
            if row_id in store.dead and lanes[row_id].repeats
        ]
        assert all(INVALID in record for record in dead), "dead, and not guilty"
        expected = users(TOKEN)
        expected.take([store.accepted[row_id] for row_id in sorted(store.delivered) if lanes[row_id].repeats])
        found = {
            which: {name: value for name, value in profile.items() if name[0] != "#"}
            for which, profile in applied.profiles.items()
        }
        wanted = expected.profiles
        assert {which: each for which, each in found.items() if each} == {
            which: each for which, each in wanted.items() if each
        }, "another state"

    def _check_counted(self, ids: set[int]) -> None:
        counts = {
            int(name[1:]): value if isinstance(value, int) else len(value)
            for profile in self.server.profiles.profiles.values()
            for name, value in profile.items()
            if name[0] == "#"
        }
        for row_id in ids & self.store.delivered:
            assert counts.get(row_id, 0) >= 1, "delivered, and not applied"
        if self.on_doubt == "hold":
            assert all(count == 1 for count in counts.values()), "applied twice"
            doubtful = {row_id for row_id in ids if self.store.dead.get(row_id, "").startswith("doubtful")}
            assert self.store.dead.keys() & ids == doubtful
            assert {self.store.accepted[row_id] for row_id in doubtful} <= self.server.doubtful, (
                "held without a reason"
            )
        else:
            assert not self.store.dead.keys() & ids, "dead, and not guilty"


def _user(record: bytes) -> str:
    return PROFILES.name_of(record)[1]


def _by_profile(records: Any) -> dict[str, list[bytes]]:
    found = defaultdict[str, list[bytes]](list)
    for record in records:
        found[_user(record)].append(record)
    return found


def day(seed: int) -> Day:
    """The day of a *seed*, lived through.

    Raises:
        AssertionError: something did not hold.
    """
    made = Day(seed)
    try:
        made.run()
    except AssertionError as problem:
        raise AssertionError(f"seed {seed}: {problem}\n{made.on_doubt} {made.settings}") from problem
    return made


# Deliberate faults, each of which the days must find.


def _takes_any_lane(self: Lanes, lanes: Any) -> None:
    _RELEASE(self, lanes)
    for lane in [*self._barred]:
        _RELEASE(self, [lane])


def _puts_back_reversed(self: Lanes, rows: Any) -> None:
    _PUT_BACK(self, rows[::-1])


def _sends_again(self: OrderedDispatcher, sent: Any, outcome: Any, *, is_stale: bool) -> Any:
    return _RULE(self, sent, replace(outcome, is_doubtful=False), is_stale=is_stale)


def _forgets(self: OrderedDispatcher, batch: Any, outcome: Any, sent: Any, now: float) -> Any:
    counts = _FAILED(self, batch, outcome, sent, now)
    if self._failed_rows:
        self._failed_rows.pop()
    return counts


def _believes(self: OrderedDispatcher, batch: Any, outcome: Any, sent: Any, now: float) -> Any:
    if outcome.status == 503:
        return self._delivered(batch, outcome, sent, now)
    return _FAILED(self, batch, outcome, sent, now)


def _holds_all(self: OrderedDispatcher, batch: Any, outcome: Any, sent: Any, now: float) -> Any:
    if outcome.is_doubtful:
        return self._lost(batch, outcome, sent, now)
    return _FAILED(self, batch, outcome, sent, now)


_RELEASE, _PUT_BACK = Lanes.release, Lanes.put_back
_RULE, _FAILED = OrderedDispatcher._rule, OrderedDispatcher._failed

# What is changed, by its owner and name, and what it is then.
FAULTS: dict[str, tuple[Any, str, Any]] = {
    "a lane is not barred": (Lanes, "release", _takes_any_lane),
    "rows come back in another order": (Lanes, "put_back", _puts_back_reversed),
    "what is doubtful is sent again": (OrderedDispatcher, "_rule", _sends_again),
    "what fails is forgotten": (OrderedDispatcher, "_failed", _forgets),
    "a 503 is taken for a success": (OrderedDispatcher, "_failed", _believes),
    "all that is doubtful is held": (OrderedDispatcher, "_failed", _holds_all),
    "nothing is marked": (Consumer, "mark_sent", lambda *_, **__: None),
    "a mark is never taken away": (OrderedDispatcher, "_unmark", lambda *_: None),
    "a refused request is not halved": (ordered, "split", lambda _: None),
}


@contextmanager
def in_force(name: str) -> Iterator[None]:
    """The fault of that name, for the time of the block."""
    owner, attribute, wrong = FAULTS[name]
    right = owner.__dict__[attribute]
    setattr(owner, attribute, wrong)
    try:
        yield
    finally:
        setattr(owner, attribute, right)


def days_to_find(name: str, most: int = 400, live: Callable[[int], object] = day) -> int | None:
    """How many days it took to find a fault; None: it was not found."""
    with in_force(name):
        for number in range(1, most + 1):
            try:
                live(number)
            except Exception:
                return number
    return None
