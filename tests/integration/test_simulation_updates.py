"""P3 in simulated days of profile updates: order, what is applied twice, and what a person has to decide.

Some seconds of them begin with the same seed each time. ``FORWARDER_SIMULATE_S=3600`` goes on for so many s,
with new ones; ``FORWARDER_TEST_SEED=7`` begins with that seed.
"""

from __future__ import annotations

import os
import random
import time

import pytest

from simulation.updates import FAULTS, day, days_to_find

# Read before the tests take this host's settings away.
SIMULATE_S = float(os.environ.get("FORWARDER_SIMULATE_S") or 0)
LONG_S = SIMULATE_S or 8
# A minute each, on a slow machine.
SELDOM = {"a refused request is not halved", "a mark is never taken away"}
SEED = int(
    os.environ.get("FORWARDER_TEST_SEED") or (random.SystemRandom().randrange(2**32) if SIMULATE_S else 1)
)


@pytest.mark.timeout(LONG_S + 120)
def test_days_of_lost_answers_and_kills():
    """Updates keep their order, end delivered or dead, and are applied as often as promised."""
    ends_at, count = time.monotonic() + LONG_S, 0
    while count == 0 or time.monotonic() < ends_at:
        day(SEED + count)
        count += 1
    print(f"{count} days from seed {SEED}")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", [name for name in FAULTS if SIMULATE_S or name not in SELDOM])
def test_a_deliberate_fault_in_the_order_is_found(name):
    """The days find each of these faults in the product's code."""
    assert days_to_find(name) is not None


def test_a_seed_of_updates_is_the_same_day():
    """A seed can be lived through again."""
    first, again = day(47), day(47)
    assert first.server.requests == again.server.requests
    assert first.server.profiles.updates == again.server.profiles.updates
