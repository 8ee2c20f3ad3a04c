"""The recorded past in a range: parts, gaps, and outages in words."""

import json

from forwarder.service.timeline import MOST_OUTAGES, RANGES, Range, laid_out
from forwarder.spool import Period

NOON = 1_800_014_400.0
HOUR = RANGES["hour"]


def minute(number, run=0.0, **what):
    """The minute that ends so many minutes after noon."""
    return Period(NOON + number * 60.0, 60.0, run, **what)


def off(number, state="blocked", reason="", seconds=60.0):
    return minute(number, states={state: seconds, "running": 60.0 - seconds}, reason=reason)


def test_a_minute_is_not_divided_and_none_is_left_out():
    """In the range of an hour each minute is a part at its own time, whatever the clock's minute is."""
    found = laid_out([minute(-61), minute(-60.5), minute(-1.25), minute(-0.2)], HOUR, NOON, 0.0)
    assert (found.since, found.until, found.begins_at) == (NOON - 3600, NOON, NOON - 3600)
    assert [(part.since - NOON, part.until - NOON) for part in found.parts] == [
        (-135.0, -75.0),
        (-72.0, -12.0),
    ]


def test_longer_parts_begin_on_the_clock():
    """So that what is in one stays the same while others follow; the last one ends now."""
    parts = laid_out(
        [minute(number, accepted=1) for number in range(-19, 6)], Range(600.0, 144), NOON + 300, 0.0
    ).parts
    assert [(part.since - NOON, part.until - NOON) for part in parts] == [(-1200, -600), (-600, 0), (0, 300)]
    assert [part.period.accepted for part in parts] == [10, 10, 5]


def test_the_time_without_a_daemon_is_a_gap_from_the_start_of_the_next_one_on():
    """Also before that has recorded anything; what was before all records is no gap but the beginning."""
    found = laid_out([minute(-50), minute(-49), minute(-20, run=NOON - 1300)], HOUR, NOON, NOON - 600)
    assert found.begins_at == NOON - 51 * 60
    assert [(gap.since - NOON, gap.until - NOON) for gap in found.gaps] == [(-2940, -1260), (-1200, -600)]
    same = laid_out([minute(-1, run=NOON - 300)], HOUR, NOON, NOON - 300)
    assert same.gaps == []
    nothing = laid_out([], HOUR, NOON, NOON - 5)
    assert (nothing.begins_at, nothing.parts, nothing.gaps) == (NOON, [], [])


def test_a_restart_within_an_hour_is_no_gap():
    """The sum of an hour's minutes lacks the seconds of restarts; an hour without a daemon is one."""
    hours = [Period(NOON - 3600.0 * number, 3570.0, 0.0) for number in (9, 8, 6, 5)]
    found = laid_out(hours, RANGES["week"], NOON, 0.0)
    assert [(gap.since - NOON, gap.until - NOON) for gap in found.gaps] == [(-8 * 3600, -6 * 3600 - 3570)]


def test_minutes_in_one_state_are_one_outage():
    """With the last reason, without what that quotes; a short interruption is none."""
    found = laid_out(
        [
            minute(-50, states={"running": 60.0}),
            off(-49, "backing_off", "timeout", 20.0),
            off(-48, "backing_off", "timeout", 40.0),
            off(-47, "backing_off", "503 of 'a value'"),
            off(-46, "blocked", "401"),
            off(-10, "blocked", "403"),
        ],
        HOUR,
        NOON,
        0.0,
    ).outages
    told = [(each.state, (each.since - NOON) / 60, (each.until - NOON) / 60, each.lasted_s) for each in found]
    assert told == [
        ("backing_off", -49.0, -47.0, 100.0),
        ("blocked", -47.0, -46.0, 60.0),
        ("blocked", -11.0, -10.0, 60.0),
    ]
    assert [each.reason for each in found] == ["503 of …", "401", "403"]


def test_only_the_newest_outages_are_kept():
    """However often delivery stops."""
    found = laid_out([off(number) for number in range(-59, 0, 2)], HOUR, NOON, 0.0).outages
    assert len(found) == MOST_OUTAGES
    assert found[-1].until == NOON - 60


def test_as_json_it_is_plain_and_quotes_nothing():
    """Instants are ISO 8601, and reasons have no value of an event in them."""
    period = minute(-1, accepted=3, requests={"delivered": 2}, reason="it said 'secret'")
    found = json.loads(json.dumps(laid_out([period], HOUR, NOON, 0.0).as_json()))
    assert (found["since"], found["until"]) == ("2027-01-15T11:00:00.000Z", "2027-01-15T12:00:00.000Z")
    (part,) = found["parts"]
    assert (part["since"], part["until"]) == ("2027-01-15T11:58:00.000Z", "2027-01-15T11:59:00.000Z")
    assert (part["accepted"], part["requests"], part["reason"]) == (3, {"delivered": 2}, "it said …")
    assert {"ended_at", "run"} & part.keys() == set()
