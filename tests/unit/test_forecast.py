"""Where it goes: forecasts from minutes and figures, judged by hand."""

import random

import pytest

from forwarder.config.settings import Queue
from forwarder.service.forecast import Forecast, forecast, trend
from forwarder.spool import Figures, Period

NOW = 1_000_000.0
QUEUE = Queue(max_bytes=1_000_000, min_free_bytes=100_000)
NEVER = Forecast(None, None, None, None)


def figures(waiting, oldest_s=0.0, rate_1m=0.0, accepted_1m=0.0, disk_free_bytes=900_000, held=0):
    return Figures(
        accepted=0, delivered=0, dead_lettered=0, deleted=0, waiting=waiting, held=held, dead_letters=0,
        retried=0, discarded=0, short=0, paused=False, oldest_waiting_at=NOW - oldest_s,
        last_delivery_at=None, rate_1m=rate_1m, accepted_1m=accepted_1m, took_s=(), db_bytes=0, wal_bytes=0,
        disk_free_bytes=disk_free_bytes,
    )  # fmt: skip


def minutes(count, state="running", end=NOW - 10, **each):
    """So many minutes until *end*; a function gets a minute's number, 0 for the last."""
    found = []
    for number in reversed(range(count)):
        what = {name: value(number) if callable(value) else value for name, value in each.items()}
        found.append(Period(end - 60.0 * number, 60.0, 1.0, states={state: 60.0}, **what))
    return found


def look(now, past, state="running", used_bytes=500_000):
    return forecast(now, used_bytes, past, state, QUEUE, 600.0, NOW)


def test_a_backlog_that_gets_shorter_has_an_end():
    """By the net of what leaves and what comes, and not by the last minute's chance."""
    past = minutes(10, accepted=600, delivered=1200, used_bytes=500_000, disk_free_bytes=900_000)
    found = look(figures(6000, rate_1m=99.0), past)
    assert (found.eta_s, found.full_in_s, found.disk_full_in_s) == (600.0, None, None)
    assert look(figures(6000, held=6000), past).eta_s == 0.0
    assert look(figures(0), []).eta_s == 0.0


def test_an_outage_fills_the_queue_and_the_disk():
    """Each second takes 100 bytes of both: full after those that are left, and late after ten minutes."""
    past = minutes(
        10, "backing_off", accepted=60, used_bytes=lambda n: 499_000 - 6000 * n,
        disk_free_bytes=lambda n: 901_000 + 6000 * n, oldest_waiting_s=lambda n: 590.0 - 60 * n,
    )  # fmt: skip
    found = look(figures(600, oldest_s=400.0), past, "backing_off")
    assert found == Forecast(None, 5000.0, 8000.0, 200.0)
    assert look(figures(600, oldest_s=700.0), past, "backing_off", 1_000_001).full_in_s == 0.0
    assert look(figures(600, oldest_s=700.0), past, "backing_off").oldest_late_in_s == 0.0


def test_the_time_before_an_outage_says_nothing_about_it():
    """Nor that before a daemon's absence. With too few minutes, the last one's rates are all there is."""
    before = minutes(10, accepted=600, delivered=6000, end=NOW - 130, used_bytes=lambda n: 500_000 + 9000 * n)
    since = minutes(2, "blocked", accepted=600, used_bytes=500_000)
    found = look(figures(1000, oldest_s=100.0, accepted_1m=10.0), before + since, "blocked")
    assert found == Forecast(None, 100.0, 160.0, 500.0)
    gone = minutes(10, accepted=600, delivered=6000, end=NOW - 3600)
    assert look(figures(1000, rate_1m=2.0), gone).eta_s == 500.0


def test_where_nothing_moves_nothing_is_foretold():
    """Noise is no trend, and what has no limit in reach is never reached."""
    noise = random.Random(1)
    past = minutes(
        15, accepted=600, delivered=600, used_bytes=lambda n: 500_000 + noise.randrange(-900, 900),
        disk_free_bytes=lambda n: 900_000 + noise.randrange(-900, 900),
        oldest_waiting_s=lambda n: 2.0 + noise.random(),
    )  # fmt: skip
    assert look(figures(100, oldest_s=2.5), past) == NEVER
    slowly = minutes(15, used_bytes=lambda n: 500_000.0 - n / 9000)
    assert look(figures(100, disk_free_bytes=None), slowly) == NEVER, "in decades is never"


def test_what_waits_gets_older_while_more_comes_than_leaves():
    """By as much as the past shows, and by a second a second at most."""
    past = minutes(
        10, accepted=900, delivered=600, oldest_waiting_s=lambda n: 95.0 - 30 * n, used_bytes=500_000
    )
    assert look(figures(10_000, oldest_s=100.0), past).oldest_late_in_s == pytest.approx(1000.0)
    jump = minutes(10, oldest_waiting_s=lambda n: 95.0 - 300 * n, used_bytes=500_000)
    assert look(figures(10_000, oldest_s=100.0), jump).oldest_late_in_s == 500.0
    assert look(figures(10, oldest_s=100.0), []).oldest_late_in_s == 500.0, "nothing has left for a minute"
    assert look(figures(10, oldest_s=100.0, rate_1m=1.0), []).oldest_late_in_s is None
    assert look(figures(0, oldest_s=100.0), [], "stopped").oldest_late_in_s is None


def test_a_trend_is_by_least_squares():
    """And none, where the points are too far from a line."""
    assert trend([0, 1, 2, 3], [1, 3, 5, 7]) == pytest.approx(2.0)
    assert trend([0, 1, 2, 3], [5, 5, 5, 5]) == trend([1, 1], [0, 9]) == 0.0
    assert trend([0, 1, 2, 3], [0, 9, -9, 1]) == 0.0
