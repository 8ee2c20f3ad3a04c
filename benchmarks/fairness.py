"""``python -m benchmarks.fairness``: many forwarders at one rate limit, simulated, without a network.

The dispatchers are the product's own. Time, queue and server are made up (`simulation`): a queue without end,
and a server that takes 30 000 events/s for all together, "measured on a rolling 1 minute basis" (Mixpanel's
import reference), and says 429 to what is above.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.table import Number
from forwarder.config.settings import Delivery
from forwarder.delivery.wire.outcome import Reply
from simulation.server import AWAY, Rolling, imported
from simulation.world import Endless, Forwarder, World

EVENTS_PER_S, BATCH_EVENTS = 30_000, 2000
LIMIT = EVENTS_PER_S // BATCH_EVENTS  # requests per second
LATENCY_S = 0.25
YES = imported(BATCH_EVENTS)


class Limited:
    """A server at its limit. While it *is_away*, nobody gets an answer."""

    def __init__(self, refused_cost: float = 0.0, others: float = 0.0) -> None:
        self._limit = Rolling(EVENTS_PER_S, refused_cost, others)
        self.is_away = False

    def arrive(self, now: float, events: Sequence[bytes], _patience_s: float) -> tuple[float, Reply]:
        """At once; the latency is the forwarders' own."""
        return 0.0, AWAY if self.is_away else self._limit(None, now, events) or YES


class Race:
    """Forwarders that share a server.

    Args:
        seed: For all that is left to chance; the same seed gives the same race.
        server: What they share.
        settings: Of each forwarder.
    """

    def __init__(self, seed: int, server: Limited, settings: Delivery | None = None) -> None:
        self._world = World(seed)
        self._settings = settings or Delivery(linger_s=0)
        self._server = server
        self.senders: list[Forwarder] = []

    @property
    def now(self) -> float:
        """How much time has passed."""
        return self._world.now

    def join(self, count: int, latencies_s: Sequence[float] = (LATENCY_S,), within_s: float = 1.0) -> None:
        """Start *count* more forwarders, at moments *within_s* from now; their latencies take turns."""
        for number in range(count):
            latency_s = latencies_s[number % len(latencies_s)]
            self._world.at(
                self.now + self._world.random.random() * within_s, lambda s=latency_s: self._start(s)
            )

    def _start(self, latency_s: float) -> None:
        self.senders.append(self._world.start(Endless(), self._settings, self._server, latency_s))

    def senders_of(self, latency_s: float) -> list[Forwarder]:
        """Those of a latency."""
        return [sender for sender in self.senders if sender.latency_s == latency_s]

    def at(self, when: float, is_away: bool) -> None:
        """The server goes away, or comes back."""
        self._world.at(when, lambda: setattr(self._server, "is_away", is_away))

    def run(self, until: float) -> None:
        """Let time pass."""
        self._world.run(until)


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


def figures(senders: Sequence[Forwarder], start: float, end: float) -> Figures:
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
        more: What else to say of it.
    """

    name: str
    steady: Figures
    more: dict[str, float] = field(default_factory=dict)


SETTLE_S, MEASURE_S = 600.0, 3600.0


def alone_and_many(count: int, seed: int = 7, refused_cost: float = 0.0, measure_s: float = MEASURE_S) -> Row:
    """*count* forwarders start within a second; measured after ten minutes."""
    race = Race(seed, Limited(refused_cost))
    race.join(count)
    race.run(SETTLE_S + measure_s)
    cost = f", a 429 uses up {refused_cost:g}" if refused_cost else ""
    first = figures(race.senders, 0, SETTLE_S)
    more = {"goodput of the first ten minutes": first.goodput}
    return Row(f"{count} forwarders{cost}", figures(race.senders, SETTLE_S, race.now), more)


def beside(count: int, others: float, seed: int = 7) -> Row:
    """*count* forwarders beside another importer that takes that part of the limit, whatever they do."""
    race = Race(seed, Limited(others=others))
    race.join(count)
    race.run(SETTLE_S + MEASURE_S)
    return Row(
        f"{count} forwarders beside {others:g} of the limit", figures(race.senders, SETTLE_S, race.now)
    )


def unequal(count: int = 30, seed: int = 7) -> Row:
    """Latencies of 50 ms, 250 ms and 2 s; what each kind gets, as a part of its fair share."""
    race = Race(seed, Limited())
    latencies_s = (0.05, 0.25, 2.0)
    race.join(count, latencies_s)
    race.run(SETTLE_S + MEASURE_S)
    more = {
        f"at {latency_s:g} s": figures(race.senders_of(latency_s), SETTLE_S, race.now).goodput * 3
        for latency_s in latencies_s
    }
    return Row(f"{count} forwarders of unequal latency", figures(race.senders, SETTLE_S, race.now), more)


def newcomers(count: int = 50, seed: int = 7) -> Row:
    """As many again join; minutes until these have three quarters of their fair share."""
    race = Race(seed, Limited())
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
    """The server is away for all, and comes back for all; what happens *after_s* from then."""
    race = Race(seed, Limited())
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
    for count in (1, 2, 5, 10, 100, 1000):
        yield alone_and_many(count)
    yield beside(1, 0.5)
    yield beside(5, 0.5)
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
