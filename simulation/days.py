"""A day of one forwarder, drawn by the number of a seed, and what must hold in each.

* Nothing is lost and nothing settled twice: accepted = delivered + dead + waiting, by content.
* What is delivered has been imported, and only the guilty are dead.
* A while after the last trouble every good event is delivered, and nothing but those that the server goes on
  refusing or failing over is left.
* Nothing spins, and while nothing gets through few requests are made.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from random import Random

from forwarder.config.settings import Delivery
from forwarder.spool import Claim, Settlement
from simulation import server as serving
from simulation.server import NAMED, POISON, WALLED, Behaviour, Mixpanel, Rolling
from simulation.world import Forwarder, World

DAY_S = 86400.0
# The longest wait between two tries is twice a minute and some seconds: for the first of them, for a good
# event among those that are refused, and for the parts that it was in. Then, if a good one was isolated by
# chance, two turns of each that is.
BOUND_S, TURN_S, TURNS = 1800.0, 65.0, 12
MIB = 1024 * 1024


class Waiting:
    """A queue in memory, which checks what leaves it."""

    def __init__(self) -> None:
        self.rows: dict[int, bytes] = {}
        self.delivered: set[bytes] = set()
        self.dead: set[bytes] = set()
        self._ids: list[int] = []
        self.rewind()

    def put(self, events: Sequence[bytes]) -> None:
        """Accept *events*."""
        for event in events:
            self._ids.append(len(self._ids) + 1)
            self.rows[self._ids[-1]] = event

    @property
    def accepted(self) -> int:
        """How many ever were."""
        return len(self._ids)

    def rewind(self) -> None:
        """Begin again, as who opens the queue does."""
        self._position = self._newest = 0

    def arrivals(self) -> int:
        """How many ids are behind what was claimed."""
        self._newest = len(self._ids)
        return max(self._newest - self._position, 0)

    def claim(self, max_events: int, max_bytes: int) -> Claim:
        """The next rows."""
        claim, last_id = self._behind(self._position, max_events, max_bytes)
        self._position = last_id if last_id > self._position else self._newest
        claim.left = max(self._newest - self._position, 0)
        return claim

    def sample(self, place: float) -> Claim:
        """One that waits."""
        ahead = max(self._newest - self._position - 1, 0)
        return self._behind(self._position + int(place * ahead), 1, 0)[0]

    def _behind(self, after_id: int, max_events: int, max_bytes: int) -> tuple[Claim, int]:
        claim, last_id = Claim(), after_id
        ids: list[int] = []
        events: list[bytes] = []
        for row_id in self._ids[bisect_right(self._ids, after_id) :]:
            event = self.rows.get(row_id)
            if event is not None:
                if len(ids) == max_events or (ids and claim.size_bytes + len(event) + 1 > max_bytes):
                    break
                ids.append(row_id)
                events.append(event)
                claim.size_bytes += len(event) + 1
            last_id = row_id
        claim.ids, claim.events = ids, events
        return claim, last_id

    def read_again(self, ids: Sequence[int], _size_bytes: int) -> Claim:
        """Rows that were claimed before."""
        there = [row_id for row_id in ids if row_id in self.rows]
        events = [self.rows[row_id] for row_id in there]
        return Claim(there, events, sum(map(len, events)) + len(events))

    def settle(self, settlement: Settlement) -> None:
        """Rows leave, each once."""
        dead = {each.event_id: each for each in settlement.dead}
        assert len(set(settlement.ids)) == len(settlement.ids), "an id twice in one settlement"
        assert dead.keys() <= set(settlement.ids), "dead, and not settled"
        for row_id in settlement.ids:
            event = self.rows.pop(row_id, None)
            assert event is not None, f"event {row_id} is settled twice"
            assert row_id not in dead or dead[row_id].data == event, "another event's death"
            (self.dead if row_id in dead else self.delivered).add(event)


class Day:
    """One day.

    Args:
        seed: The same seed gives the same day.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.world = World(seed)
        self.random = random = Random(seed + 1)
        self.server = Mixpanel(random, usual_s=random.choice([0.05, 0.25, 2.0]))
        self.queue = Waiting()
        self.settings = Delivery(
            batch_events=random.choice([1, 7, 50, 50, 200]),
            batch_bytes=MIB,
            linger_s=random.choice([0.0, 1.0]),
            connections=random.choice([1, 3, 10]),
        )
        self.story: list[str] = []
        self._number = 0
        self._asked = Counter[int]()
        self.forwarder = self._started()

    def _started(self) -> Forwarder:
        self.queue.rewind()
        return self.world.start(self.queue, self.settings, self.server, 0.0)

    def run(self) -> None:
        """Live through it.

        Raises:
            AssertionError: something does not hold.
        """
        self._plan_events()
        troubles_end = self._plan_troubles()
        for _ in range(self.random.choice([0, 0, 1, 3])):
            self._at(self.random.uniform(0, DAY_S), "restart", self._restart)
        for _ in range(self.random.choice([0, 0, 2])):
            self._at(self.random.uniform(0, DAY_S), "flush", self._flush)
        for _ in range(self.random.choice([0, 0, 2])):
            self._at(self.random.uniform(0, DAY_S), "reload", self._reload)
        self.world.run(max(DAY_S, troubles_end) + BOUND_S)
        self.world.run(self.world.now + TURNS * TURN_S * len(self.queue.rows))
        self._check()

    # What is planned

    def _at(self, when: float, what: str, happen: object) -> None:
        self.story.append(f"{when:.0f} s: {what}")
        self.world.at(when, happen)  # type: ignore[arg-type]

    def _plan_events(self) -> None:
        random = self.random
        wrong = random.choice([0.0, 0.0, 0.01, 0.1])
        kinds = random.sample([NAMED, POISON, WALLED], random.randint(1, 3))
        for _ in range(random.randint(1, 12)):
            when, count = random.uniform(0, DAY_S), random.choice([1, 1, 5, 40, 150])
            events = [
                self._event(random.choice(kinds) if random.random() < wrong else b"good")
                for _ in range(count)
            ]
            # Some stand side by side.
            if wrong and random.random() < 0.2:
                events += [self._event(kinds[0]) for _ in range(random.choice([2, 5, 30]))]
            kind_counts = Counter(event.split(b":")[0].decode() for event in events)
            self._at(when, f"events {dict(kind_counts)}", lambda events=events: self._offer(events))
        # Those that are refused alone wait for an import.
        for number in range(12):
            self.world.at(DAY_S + number * BOUND_S / 24, lambda: self._offer([self._event(b"good")]))

    def _event(self, kind: bytes) -> bytes:
        self._number += 1
        size = self.random.choice([10, 10, 10, 100, 2000])
        return b"%s:%d:%s" % (kind, self._number, b"x" * size)

    def _plan_troubles(self) -> float:
        random = self.random
        self.walled = serving.walled(
            random.choice([each for each in serving.FAILURES if each.status in (None, 403, 500)])
        )
        self.server.behaviours = [self.walled]
        ends = 0.0
        for _ in range(random.choice([0, 1, 1, 2, 4])):
            start = random.uniform(0, DAY_S * 0.9)
            end = start + random.choice([30, 600, 3600, 4 * 3600])
            name, behaviour = self._trouble()
            # A success of some, before others are judged, would make those random ones, see `_trouble`.
            place = 99 if name == "short counts" else 0
            self._at(start, name, lambda at=place, each=behaviour: self.server.behaviours.insert(at, each))
            self._at(end, f"no more {name}", lambda each=behaviour: self.server.behaviours.remove(each))
            ends = max(ends, end)
        return ends

    def _trouble(self) -> tuple[str, Behaviour]:
        random = self.random
        reply = random.choice(serving.FAILURES)
        # A refusal without a reason, at random, is taken for the event's own where it hits one five times.
        some = random.choice([each for each in serving.FAILURES if each.status not in (400, 413)])
        share = random.choice([0.01, 0.1, 0.33, 0.6, 0.9])
        return random.choice(
            [
                (f"all {reply.status}", serving.failing(reply, taken=reply.status is None)),
                (f"{share:g} of {some.status}", serving.failing(some, share, taken=some.status is None)),
                (f"{share:g} hang", serving.hanging(share)),
                ("all hang", serving.hanging(1.0)),
                ("crowded", serving.crowded(0.2, random.choice([0.5, 1.0, 2.0]))),
                ("a limit of 413", serving.limited(3000, serving.FAILURES[-1])),
                ("a limit that cuts", serving.limited(3000, serving.CUT)),
                ("short counts", serving.short(share)),
                ("a rolling limit", Rolling(random.choice([0.2, 2.0]))),
            ]
        )

    # What happens

    def _offer(self, events: Sequence[bytes]) -> None:
        self.queue.put(events)
        self.world.wake(self.forwarder)

    def _restart(self) -> None:
        self.forwarder.is_alive = False
        self.forwarder = self._started()

    def _flush(self) -> None:
        self.forwarder.dispatcher.flush()
        self.world.wake(self.forwarder)

    def _reload(self) -> None:
        self.forwarder.dispatcher.apply(self.settings)
        self.world.wake(self.forwarder)

    # What must hold

    def _check(self) -> None:
        waiting, dead, delivered = set(self.queue.rows.values()), self.queue.dead, self.queue.delivered
        assert len(waiting) + len(dead) + len(delivered) == self.queue.accepted, "the books don't balance"
        assert delivered <= self.server.imported, "delivered, and not imported"
        innocent = [event for event in dead if not event.startswith((NAMED, POISON)) and len(event) < 2000]
        assert not innocent, f"dead, and not guilty: {innocent[:3]}"
        late = [event for event in waiting if event.startswith((b"good", NAMED))]
        assert not late, f"not settled in time: {len(late)}, such as {late[0][:20]!r}"
        assert self.server.requests < 60_000, "too many requests"


def day(seed: int) -> Day:
    """The day of a *seed*, lived through.

    Raises:
        AssertionError: something did not hold; what happened in it stands beside it.
    """
    made = Day(seed)
    try:
        made.run()
    except AssertionError as problem:
        story = "\n".join(sorted(made.story, key=lambda line: float(line.split()[0])))
        raise AssertionError(f"seed {seed}: {problem}\n{made.settings}\n{story}") from problem
    return made
