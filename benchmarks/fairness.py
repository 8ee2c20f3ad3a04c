"""``python -m benchmarks.fairness``: many forwarders at one rate limit, simulated, without a network.

The couriers are the product's own, with their gate, connections and waits. Time, queue and far end are
made up: a queue without end, and a far end that takes 30 000 events/s for all together, "measured on a
rolling 1 minute basis" (Mixpanel's import reference), and says 429 to what is above. What one request
carries counts as a whole batch of 2000 events, though only one is handed around.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.table import Number
from forwarder.config.settings import Delivery
from forwarder.delivery.batch import Batch
from forwarder.delivery.courier import Courier
from forwarder.delivery.outcome import Reply
from forwarder.spool import Settlement
from forwarder.spool.settlement import Claim

EVENTS_PER_S, BATCH_EVENTS, WINDOW_S = 30_000, 2000, 60.0
LIMIT = EVENTS_PER_S // BATCH_EVENTS  # requests per second
LATENCY_S = 0.25

YES = Reply(200, {}, b'{"code":200,"num_records_imported":1,"status":"OK"}')
TOO_MANY = Reply(429, {}, b'{"code":429,"error":"Project exceeded rate limits."}')
AWAY = Reply(None, {}, b"", "cannot connect")


class Endless:
    """A queue that never ends, as far as a courier asks."""

    def last_id(self) -> int:
        """There is always more."""
        return 1 << 62

    def claim(self, after_id: int, _max_events: int, _max_bytes: int) -> Claim:
        """The next row."""
        return Claim([after_id + 1], [b"{}"], 3, after_id + 1)

    def settle(self, _settlement: Settlement) -> None:
        """Nothing is kept."""


class FarEnd:
    """Takes so many requests in any minute.

    *refused_cost* is what a 429 uses up of the limit, from 0 to 1 request. While it *is_away*, nobody gets
    an answer.
    """

    def __init__(self, refused_cost: float = 0.0) -> None:
        self._refused_cost = refused_cost
        self._taken: deque[tuple[float, float]] = deque()
        self._used = 0.0
        self.is_away = False

    def answer(self, now: float) -> Reply:
        """What it says to a request that comes *now*."""
        if self.is_away:
            return AWAY
        while self._taken and self._taken[0][0] <= now - WINDOW_S:
            self._used -= self._taken.popleft()[1]
        fits = self._used + 1 <= LIMIT * WINDOW_S
        cost = 1.0 if fits else self._refused_cost
        if cost:
            self._taken.append((now, cost))
            self._used += cost
        return YES if fits else TOO_MANY


@dataclass
class Sender:
    """One forwarder, and what came of its requests: when they reached the far end, and the status."""

    courier: Courier
    latency_s: float
    wakes_at: float = -1.0
    answers: list[tuple[float, int | None]] = field(default_factory=list)


class Race:
    """Forwarders that share a far end.

    Args:
        seed: For all that is left to chance; the same seed gives the same race.
        far_end: What they share.
        settings: Of each forwarder, but for the size of batches.
    """

    def __init__(self, seed: int, far_end: FarEnd, settings: Delivery | None = None) -> None:
        self._random = random.Random(seed)
        self._settings = settings or Delivery(batch_events=1, linger_s=0)
        self._far_end = far_end
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._count = itertools.count()
        self.senders: list[Sender] = []
        self.now = 0.0

    def join(self, count: int, latencies_s: Sequence[float] = (LATENCY_S,), within_s: float = 1.0) -> None:
        """Start *count* more forwarders, at moments *within_s* from now; their latencies take turns."""
        for number in range(count):
            draw = random.Random(self._random.random()).random
            courier = Courier(Endless(), self._settings, random=draw)  # type: ignore[arg-type]
            courier.line.backlog.notice(self.now)
            sender = Sender(courier, latencies_s[number % len(latencies_s)])
            self.senders.append(sender)
            starts_at = self.now + self._random.random() * within_s
            self._at(starts_at, lambda now, sender=sender: self._send(sender, now))

    def at(self, when: float, is_away: bool) -> None:
        """The far end goes away, or comes back."""
        self._at(when, lambda _now: setattr(self._far_end, "is_away", is_away))

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._events and self._events[0][0] <= until:
            self.now, _, happen = heapq.heappop(self._events)
            happen(self.now)
        self.now = until

    def _at(self, when: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when, next(self._count), happen))

    def _send(self, sender: Sender, now: float) -> None:
        while batch := sender.courier.next(now):
            there_s, back_s = (sender.latency_s * self._random.uniform(0.4, 0.6) for _ in range(2))
            self._at(now + there_s, lambda now, b=batch, s=back_s: self._arrive(sender, b, s, now))
        wait_s = sender.courier.wait_s(now)
        if wait_s > 0 and now + wait_s != sender.wakes_at and wait_s < float("inf"):
            sender.wakes_at = now + wait_s
            self._at(sender.wakes_at, lambda now: self._wake(sender, now))

    def _wake(self, sender: Sender, now: float) -> None:
        if now == sender.wakes_at:
            self._send(sender, now)

    def _arrive(self, sender: Sender, batch: Batch, back_s: float, now: float) -> None:
        reply = self._far_end.answer(now)
        sender.answers.append((now, reply.status))

        def settle(now: float) -> None:
            sender.courier.settle(batch, reply, now)
            self._send(sender, now)

        self._at(now + back_s, settle)


def jain(shares: Sequence[float]) -> float:
    """Jain's fairness index: 1 when all have the same, 1/n when one has all."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0


@dataclass(frozen=True)
class Figures:
    """From *start* to *end*: shares of the limit, of the requests; Jain's index; requests in a second."""

    goodput: float
    jain: float
    refused: float
    peak: int


def figures(senders: Sequence[Sender], start: float, end: float) -> Figures:
    """What became of the requests that came between two instants."""
    found = [[status for at, status in sender.answers if start <= at < end] for sender in senders]
    yes = [statuses.count(200) for statuses in found]
    seconds: dict[int, int] = {}
    for sender in senders:
        for at, _ in sender.answers:
            if start <= at < end:
                seconds[int(at - start)] = seconds.get(int(at - start), 0) + 1
    refused = sum(statuses.count(429) for statuses in found)
    return Figures(
        sum(yes) / (LIMIT * (end - start)),
        jain(yes),
        refused / max(sum(map(len, found)), 1),
        max(seconds.values(), default=0),
    )


@dataclass(frozen=True)
class Row:
    """What one scenario gave.

    Attributes:
        steady: Over the measured time.
        more: What else is told of it.
    """

    name: str
    steady: Figures
    more: dict[str, float] = field(default_factory=dict)


SETTLE_S, MEASURE_S = 600.0, 3600.0


def alone_and_many(count: int, seed: int = 7, refused_cost: float = 0.0, measure_s: float = MEASURE_S) -> Row:
    """*count* forwarders start within a second; measured after ten minutes."""
    race = Race(seed, FarEnd(refused_cost))
    race.join(count)
    race.run(SETTLE_S + measure_s)
    cost = f", a 429 uses up {refused_cost:g}" if refused_cost else ""
    first = figures(race.senders, 0, SETTLE_S)
    more = {"goodput of the first ten minutes": first.goodput}
    return Row(f"{count} forwarders{cost}", figures(race.senders, SETTLE_S, race.now), more)


def unequal(count: int = 30, seed: int = 7) -> Row:
    """Latencies of 50 ms, 250 ms and 2 s; what each kind gets, as a part of its fair share."""
    race = Race(seed, FarEnd())
    latencies_s = (0.05, 0.25, 2.0)
    race.join(count, latencies_s)
    race.run(SETTLE_S + MEASURE_S)
    more = {
        f"at {latency_s:g} s": figures(race.senders[number::3], SETTLE_S, race.now).goodput * 3
        for number, latency_s in enumerate(latencies_s)
    }
    return Row(f"{count} forwarders of unequal latency", figures(race.senders, SETTLE_S, race.now), more)


def newcomers(count: int = 50, seed: int = 7) -> Row:
    """As many again join; minutes until these have three quarters of their fair share."""
    race = Race(seed, FarEnd())
    race.join(count)
    race.run(1800)
    race.join(count)
    minutes = 0
    while race.now < 1800 + 3600:
        race.run(race.now + 60)
        minutes += 1
        if figures(race.senders[count:], race.now - 60, race.now).goodput >= 0.375:
            break
    race.run(race.now + MEASURE_S)
    steady = figures(race.senders, race.now - MEASURE_S, race.now)
    return Row(f"{count} forwarders, and {count} more join", steady, {"minutes to 3/4 of a share": minutes})


def outage(
    count: int, seconds: float = 600.0, seed: int = 7, settle_s: float = 1800.0, after_s: float = 600.0
) -> Row:
    """The far end is away for all, and comes back for all; what happens *after_s* from then."""
    race = Race(seed, FarEnd())
    race.join(count)
    race.run(settle_s)
    before = figures(race.senders, settle_s * 2 / 3, settle_s)
    back_at = settle_s + seconds
    race.at(settle_s, is_away=True)
    race.at(back_at, is_away=False)
    race.run(back_at + after_s)
    after = figures(race.senders, back_at, race.now)
    to_full_s = next(
        (
            end
            for end in range(10, int(after_s), 5)
            if _goodput(race, back_at + end - 10, back_at + end) >= 0.95
        ),
        after_s,
    )
    more = {
        "peak before": before.peak,
        "peak after": after.peak,
        "429s of the first minute": figures(race.senders, back_at, back_at + 60).refused,
        "seconds to 95 %": to_full_s,
    }
    return Row(f"{count} forwarders after {seconds:g} s away", after, more)


def _goodput(race: Race, start: float, end: float) -> float:
    return figures(race.senders, start, end).goodput


def rows() -> Iterator[Row]:
    """All scenarios."""
    for count in (1, 2, 10, 100, 1000):
        yield alone_and_many(count)
    yield alone_and_many(1000, refused_cost=0.1)
    for count in (1, 10, 100, 1000):
        yield alone_and_many(count, refused_cost=1.0)
    yield unequal()
    yield newcomers()
    for count in (1, 10, 100, 1000):
        yield outage(count)
    yield outage(1000, 60)


def measure() -> Iterator[Number]:
    """Those that have a target: many forwarders at the limit, and after an outage that was common to all."""
    crowd, back = alone_and_many(1000), outage(1000)
    what = "1000 forwarders at one limit (simulated)"
    yield Number("N2", f"{what}: goodput", crowd.steady.goodput, ">= 0.95")
    yield Number("N2", f"{what}: Jain's index", crowd.steady.jain, ">= 0.9")
    ratio = back.more["peak after"] / back.more["peak before"]
    yield Number("N2", "the same after an outage: requests/s, peak to before", ratio, "<= 2")
    yield Number("N2", "the same after an outage: seconds to 95 % goodput", back.more["seconds to 95 %"])


def main() -> None:
    """Print the table."""
    print(f"{'':38} {'goodput':>8} {'Jain':>6} {'429s':>6} {'peak/s':>6}")
    for row in rows():
        it = row.steady
        print(f"{row.name:38} {it.goodput:8.3f} {it.jain:6.3f} {it.refused:6.3f} {it.peak:6}", end="  ")
        print(", ".join(f"{name} {value:.3g}" for name, value in row.more.items()), flush=True)


if __name__ == "__main__":
    main()
