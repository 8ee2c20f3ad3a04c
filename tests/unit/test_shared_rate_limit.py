"""The rate limit that one forwarder keeps, and many that share one: simulated, with real dispatchers."""

import pytest

from benchmarks.fairness import LIMIT, Limited, Race, figures, outage
from forwarder.delivery.rate_limit import RateLimit


def send(limit, now, count):
    """Requests that are sent as soon as they may be, and all succeed at once; returns when the last was."""
    for _ in range(count):
        now = max(now, limit.due_at)
        limit.sent(now, 0.5)
        limit.succeeded(now)
    return now


def test_without_a_429_there_is_no_limit():
    """Nothing waits before the server has said "too many"."""
    assert send(RateLimit(60), 1000.0, 10_000) == 1000.0


def test_the_first_429_gives_what_was_taken_in_the_minute_before():
    """900 requests within the window: from there on a tenth less than 15 a second."""
    limit = RateLimit(60)
    limit.succeeded(900.0)
    for number in range(900):
        limit.sent(1000 + number / 40, 0.5)
        limit.succeeded(1000 + number / 40)

    limit.throttled(1023.0, 0.5)
    starts = [1100.0]
    for _ in range(200):
        limit.sent(starts[-1], 0.5)
        starts.append(limit.due_at)

    assert 100 / (starts[-1] - starts[-101]) == pytest.approx(15 * 0.9)


def test_never_slower_than_one_request_in_a_window():
    """However often it is said, and for however long."""
    limit = RateLimit(60)
    limit.succeeded(0.0)
    for number in range(100):
        limit.throttled(number * 100.0, 1.0)
        assert limit.due_at <= number * 100.0 + 90
        if number % 2:
            limit.succeeded(number * 100.0 + 1)
    assert 1 <= limit.per_minute < 2


def test_nobody_is_in_step():
    """Those that were refused at the same moment, and know the same, start again at moments of their own."""
    starts = set()
    for draw in (0.0, 0.5, 0.999):
        limit = RateLimit(60)
        for _ in range(30):
            limit.succeeded(0.0)
        limit.throttled(0.0, draw)
        limit.throttled(5.0, draw)
        limit.sent(10.0, draw)
        starts.add(limit.due_at)
        limit.throttled(100.0, draw)
        starts.add(limit.due_at)

    assert len(starts) >= 5
    assert max(starts) - min(starts) > 2


def test_two_429s_at_the_start_are_soon_forgotten():
    """They tell nothing of the limit: ten requests are through in a few seconds."""
    limit = RateLimit(60)
    limit.throttled(0.0, 0.5)
    limit.throttled(5.0, 0.5)
    assert send(limit, 12.0, 10) <= 18.0


@pytest.mark.parametrize("times", [2, 20])
def test_429s_in_a_row_are_no_lasting_limit_once_they_end(times):
    """To one who sent little they give a guess, which each success doubles."""
    limit = RateLimit(60)
    send(limit, 0.0, 2)
    for number in range(times):
        limit.throttled(number * 10.0, 0.5)
    assert limit.per_minute <= 2
    start = times * 10.0
    assert send(limit, start, 1000) - start < 1200
    assert limit.per_minute > 1000


def test_a_row_of_429s_counts_once_a_window():
    """Those that repeat the same news within a minute take away no more; a later one does."""
    waits = []
    limit = RateLimit(60)
    for number in range(600):
        limit.succeeded(number / 10)
    for now in (60.0, 70.0, 80.0, 130.0):
        limit.throttled(now, 0.5)
        waits.append(limit.due_at - now)

    assert waits[1] == pytest.approx(waits[2])
    assert waits[3] == pytest.approx(waits[2] / 0.9)


def test_an_outage_is_no_quiet_time():
    """What was learned of the limit is kept through hours without an answer, and forgotten in idleness."""
    out, idle = RateLimit(60), RateLimit(60)
    for limit in (out, idle):
        for number in range(30):
            limit.succeeded(1000.0 + number)
        limit.throttled(1031.0, 0.5)
    for now in range(1060, 20_000, 60):
        out.failed(float(now))
    for limit in (out, idle):
        limit.succeeded(20_001.0)
        limit.sent(20_001.0, 0.5)

    assert out.due_at - 20_001 > 1
    assert idle.due_at <= 20_001


@pytest.mark.parametrize(
    ("count", "settle_s", "goodput", "refused"), [(1, 120, 0.92, 0.01), (100, 600, 0.95, 0.15)]
)
def test_forwarders_share_a_limit(count, settle_s, goodput, refused):
    """They use it up, each gets about as much as the others, and few requests are refused."""
    race = Race(1, Limited())
    race.join(count)
    race.run(settle_s + 900)

    found = figures(race.senders, settle_s, race.now)

    assert found.goodput >= goodput
    assert found.jain >= 0.85
    assert found.refused <= refused
    assert found.peak <= 3 * LIMIT


def test_no_stampede_after_a_common_outage():
    """When the server comes back, requests come as they came before, and it is busy at once."""
    row = outage(1000, settle_s=300, after_s=120)

    assert row.more["peak after"] <= 2.5 * row.more["peak before"]
    assert row.more["seconds to 95 %"] <= 60
    assert row.steady.goodput >= 0.95


def test_a_fleet_that_starts_in_an_outage_is_not_in_step_when_it_ends():
    """They begin within a second, and after ten minutes come one by one, as many in each second."""
    race = Race(1, away := Limited())
    away.is_away = True
    race.join(1000)
    race.run(600)

    assert figures(race.senders, 540, 600).peak <= 2 * 1000 / 63
