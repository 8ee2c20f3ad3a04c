"""P2, P4 and P5 in simulated days: real dispatchers, with a queue, a server and a clock that are made up.

Some seconds of them begin with the same seed each time. ``FORWARDER_SIMULATE_S=3600`` goes on for so many s,
with new ones, and finds faults that few days show; ``FORWARDER_TEST_SEED=7`` begins with that seed.
"""

import os
import random
import time

import pytest

from forwarder.config.settings import Delivery
from simulation import server as serving
from simulation.days import Waiting, day
from simulation.faults import FAULTS, days_to_find
from simulation.server import Mixpanel
from simulation.world import World

# Read before the tests take this host's settings away.
SIMULATE_S = float(os.environ.get("FORWARDER_SIMULATE_S") or 0)
LONG_S = SIMULATE_S or 15
SEED = int(
    os.environ.get("FORWARDER_TEST_SEED") or (random.SystemRandom().randrange(2**32) if SIMULATE_S else 1)
)


@pytest.mark.timeout(LONG_S + 120)
def test_days_of_all_troubles():
    """No event is lost, settled twice, or dead without guilt; after the troubles all are delivered."""
    ends_at, count = time.monotonic() + LONG_S, 0
    while count == 0 or time.monotonic() < ends_at:
        day(SEED + count)
        count += 1
    print(f"{count} days from seed {SEED}")


# A minute each, on a slow machine.
SELDOM = {"a turn that never ends", "a breaker that never opens"}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [name for name in FAULTS if SIMULATE_S or name not in SELDOM])
def test_a_deliberate_fault_is_found(name):
    """The days find each of these faults in the product's code."""
    assert days_to_find(name) is not None


def delivered_at(events, share, behaviours=(), **settings):
    """When that share of the good *events*, which wait at the start, was imported; and the requests."""
    world, queue = World(7), Waiting()
    server = Mixpanel(random.Random(7), behaviours=list(behaviours))
    queue.put(events)
    world.start(queue, Delivery(linger_s=0, **settings), server)
    wanted = share * sum(event.startswith(b"good") for event in events)
    while len(server.imported) < wanted:
        world.run(world.now + 0.1)
        assert world.now < 3600
    return world.now, server.requests


WALLS = [each for each in serving.FAILURES if each.status in (None, 403, 500)]
BAD = {
    "poison": (b"poison", ()),
    **{f"walled by {each.status} {each.error}": (b"walled", (serving.walled(each),)) for each in WALLS},
}


@pytest.mark.parametrize("kind", BAD)
def test_one_bad_event_costs_the_others_little(kind):
    """Beside one over which the server fails, all others but those of its own batch lose a fifth at most."""
    name, behaviours = BAD[kind]
    good = [b"good:%d" % number for number in range(40_000)]
    usual_s, usual = delivered_at(good, 0.99, batch_events=200)
    bad = [*good[:1234], b"%s:0" % name, *good[1234:]]
    took_s, requests = delivered_at(bad, 0.99, behaviours, batch_events=200)
    assert took_s <= 1.25 * usual_s
    assert requests <= usual + 60
    assert delivered_at(bad, 1.0, behaviours, batch_events=200)[0] < usual_s + 60


@pytest.mark.parametrize(("share", "kept"), [(0.01, 0.8), (0.05, 0.5), (0.33, 0.3)])
def test_random_failures_cost_no_more_than_their_share(share, kept):
    """While others succeed, only what failed waits."""
    good = [b"good:%d" % number for number in range(100_000)]
    usual_s, _ = delivered_at(good, 0.95, batch_events=200)
    away = serving.failing(serving.answer(503), share)
    assert usual_s / delivered_at(good, 0.95, [away], batch_events=200)[0] >= kept


def test_recovery_after_an_outage():
    """After an hour without an answer the full rate is back within half a minute of the first success."""
    world, queue = World(7), Waiting()
    server = Mixpanel(random.Random(7), behaviours=[serving.failing(serving.AWAY)])
    queue.put([b"good:%d" % number for number in range(200_000)])
    world.start(queue, Delivery(linger_s=0, batch_events=200), server)
    world.run(3600)
    server.behaviours.clear()
    while not server.imported:
        world.run(world.now + 0.1)
    began_at, rates = world.now, []
    while world.now < began_at + 25:
        before = len(server.imported)
        world.run(world.now + 1)
        rates.append(len(server.imported) - before)
    assert max(rates[5:]) >= 0.9 * 10 / 0.25 * 200


def test_the_same_seed_is_the_same_day():
    """A seed can be lived through again."""
    first, again = day(4711), day(4711)
    assert (first.server.requests, first.server.imported) == (again.server.requests, again.server.imported)
