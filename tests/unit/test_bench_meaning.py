"""The sentences of `forwarder bench` say what the figures are."""

import pytest

from forwarder.cli.bench.meaning import ms, of_delivery, of_disk, of_intake
from forwarder.cli.bench.measures import Delivery, Intake, Spread


def spread(median_s):
    return Spread(median_s, median_s * 2, median_s * 10)


@pytest.mark.parametrize(
    ("median_s", "said"), [(5e-6, "do not survive a power cut"), (3e-4, ""), (0.02, "A sync is slow here")]
)
def test_a_sync_that_is_too_fast_or_slow_is_told(median_s, said):
    """Memory that passes for a disk, and a disk that makes each yes wait, are worth a sentence."""
    assert said in " ".join(of_disk(spread(median_s)))
    assert bool(of_disk(spread(median_s))) == bool(said)


def test_intake_compares_one_with_many():
    """One event at a time stands beside the largest batch."""
    [text] = of_intake([Intake(1, 3000.0, spread(3e-4)), Intake(1000, 150_000.0, spread(6e-3))])
    assert "0.3 ms per call, 3,000 events/s" in text
    assert "With 1,000 events per call, 50 times as many" in text


@pytest.mark.parametrize(
    ("rate", "limit", "takes"),
    [
        (90_000.0, "this machine is faster", "5 min"),
        (1000.0, "this machine is slower", "2 h 46 min"),
    ],
)
def test_delivery_is_held_against_mixpanels_limit(rate, limit, takes):
    """A backlog takes as long as the slower of the two needs."""
    [text] = of_delivery(Delivery(rate, 4.0, 0.4))
    assert limit in text
    assert f"10,000,000 takes at least {takes}" in text


def test_times_in_milliseconds():
    """Three digits that count."""
    assert [ms(s) for s in (0.000_241_9, 0.012, 1.5)] == ["0.242 ms", "12 ms", "1,500 ms"]


def test_a_spread_is_of_all_times():
    """The median, the time that 99 of 100 keep, and the worst."""
    assert Spread.of([n / 1000 for n in range(100, 0, -1)]) == Spread(0.0505, 0.1, 0.1)
