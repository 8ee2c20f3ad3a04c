"""Periods: as one, in equal parts of a time, and what lies between them."""

from forwarder.spool import Gap, Period, binned, gaps
from forwarder.spool.history import merged


def minute(ended_at, run=0.0, lasted_s=60.0, **what):
    return Period(ended_at, lasted_s, run, **what)


def test_several_as_one():
    """Counts are added, the end is the last one's, and what an operator must not miss is the greatest."""
    before = minute(
        60.0, accepted=5, delivered=1, waiting=4, oldest_waiting_s=40.0, requests={"delivered": 1}, p50_s=0.5,
        p95_s=2.0, states={"running": 20.0, "blocked": 40.0}, reason="wrong key",
    )  # fmt: skip
    after = minute(
        120.0, accepted=1, delivered=5, waiting=0, requests={"delivered": 2, "throttled": 1}, p50_s=0.25,
        p95_s=1.0, sent_bytes=10, states={"running": 60.0},
    )  # fmt: skip
    assert merged([before, minute(90.0, lasted_s=30.0), after]) == minute(
        120.0, lasted_s=150.0, accepted=6, delivered=6, waiting=0, oldest_waiting_s=40.0,
        requests={"delivered": 3, "throttled": 1}, sent_bytes=10, p50_s=0.5, p95_s=2.0,
        states={"running": 80.0, "blocked": 40.0}, reason="wrong key",
    )  # fmt: skip
    assert merged([before]) == before
    assert (before.rate("accepted"), minute(60.0, lasted_s=0.001, accepted=5).rate("accepted")) == (5 / 60, 5)
    assert (before.state, before.began_at, before.hour, minute(3600.0).hour) == ("blocked", 0.0, 0, 1)


def test_what_lies_between():
    """A daemon that was off, and a clock that was set, are told apart; a second or two is neither."""
    assert gaps([]) == gaps([minute(60.0), minute(121.0), minute(180.5)]) == []
    assert gaps([minute(60.0), minute(120.0, run=59.0)]) == []
    assert gaps([minute(60.0), minute(600.0, run=500.0, lasted_s=10.0)]) == [Gap(60.0, 590.0, was_set=False)]
    assert gaps([minute(60.0), minute(3720.0)]) == [Gap(60.0, 3660.0, was_set=True)]
    assert gaps([minute(7200.0), minute(3660.0)]) == [Gap(7200.0, 3600.0, was_set=True)]
    # The clock was set back while no daemon ran: for how long it did not run is not known.
    assert gaps([minute(7200.0), minute(3660.0, run=3600.0)]) == []


def test_equal_parts():
    """Each period is in one part, by its middle; where nothing is known there is no line to draw."""
    periods = [minute(at, accepted=1) for at in (60.0, 120.0, 180.0, 420.0, 480.0, 600.0)]
    parts = binned(periods, 0.0, 600.0, 5)
    assert [part and part.accepted for part in parts] == [2, 1, None, 2, 1]
    assert binned(periods, 0.0, 120.0, 1)[0].accepted == 2, "what is later is left out"
    assert binned(periods, 600.0, 1200.0, 3) == [None, None, None]
    assert binned([], 0.0, 60.0, 2) == [None, None]
    narrow = binned(periods, 60.0, 420.0, 12)
    assert [part and part.ended_at for part in narrow] == [
        120.0, 120.0, 180.0, 180.0, None, None, None, None, None, None, 420.0, 420.0,
    ], "a period is as wide as it lasted"  # fmt: skip
