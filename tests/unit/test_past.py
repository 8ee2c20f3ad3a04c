"""The history as plots and in words: its exact lines."""

import pytest

from forwarder.cli.history import incidents, lines
from forwarder.spool import Period

NOON = 1_700_049_600.0

pytestmark = pytest.mark.usefixtures("in_utc")


def minutes(*numbers, run=1.0, **what):
    """A period for each minute after noon of that number."""
    return [Period(NOON + 60 * (n + 1), 60.0, run, **what) for n in numbers]


def told(periods, now, is_over=False):
    """The incidents, in the order of time."""
    return [each.text for each in sorted(incidents(periods, now, is_over, 5.0))]


def test_plots_with_a_gap():
    """Each plot has its last and greatest value and an axis; those with nothing in them are named at the end,
    and where no daemon ran there is another sign."""
    periods = [
        *minutes(0, 1, accepted=60, waiting=5, used_bytes=2048),
        *minutes(6, 7, 8, 9, run=2.0, accepted=600, delivered=60, waiting=10, used_bytes=2048, p95_s=0.25),
    ]
    until = NOON + 600
    found = incidents(periods, until, False, 5.0)
    shown = list(lines(periods, found, NOON - 9999, until, 40, utf8=False))
    assert shown == [
        "accepted/s: 10 last, 10 at most, 2,520 in all",
        "                        ################",
        "                        ################",
        "                        ################",
        "########................################",
        "|12:00              |12:05",
        "delivered/s: 1 last, 1 at most, 240 in all",
        "                        ################",
        "                        ################",
        "                        ################",
        "        ................################",
        "|12:00              |12:05",
        "waiting: 10 last, 10 at most",
        "                        ################",
        "                        ################",
        "########                ################",
        "########................################",
        "|12:00              |12:05",
        "95 % of requests took up to: 250 ms last, 250 ms at most",
        "                        ################",
        "                        ################",
        "                        ################",
        "        ................################",
        "|12:00              |12:05",
        "queue's size: 2.0 KiB last, 2.0 KiB at most",
        "########                ################",
        "########                ################",
        "########                ################",
        "########................################",
        "|12:00              |12:05",
        "Nothing to show of: oldest waiting, dead",
        "letters/min, refused/min, disk free.",
        "",
        "No daemon ran from 12:02 to 12:06, for 4",
        "  min.",
    ]
    in_colour = list(lines(periods, found, NOON, until, 40, utf8=True))
    assert in_colour[0] == "\x1b[1maccepted/s: 10 last, 10 at most, 2,520 in all\x1b[0m"
    assert in_colour[4] == "▄▄▄▄▄▄▄▄················████████████████"


def test_what_stood_still_and_why():
    """Times without delivery are told with their state, how long, and the reason that was given last."""
    periods = [
        *minutes(0, states={"running": 60.0}),
        *minutes(1, states={"running": 30.0, "blocked": 30.0}, reason="HTTP 401"),
        *minutes(2, states={"blocked": 60.0}, reason="HTTP 401: wrong\x07 key"),
        *minutes(3, states={"running": 59.5, "backing_off": 0.5}, reason="timed out"),
        *minutes(9, run=2.0, states={"paused": 60.0}),
    ]
    later = NOON + 86400
    assert told(periods, later, is_over=True) == [
        "Blocked from Nov 15 12:01 to Nov 15 12:03, 90 s in all: HTTP 401: wrong\\x07 key.",
        "No daemon ran from Nov 15 12:04 to Nov 15 12:09, for 5 min.",
        "Paused from Nov 15 12:09 to Nov 15 12:10, 60 s in all.",
        "No daemon has run since Nov 15 12:10, for 23 h 50 min.",
    ]
    assert told(periods[:1], NOON + 60, is_over=False) == []


def test_a_clock_that_was_set():
    """Which way, by how much, and when."""
    back = [*minutes(60), *minutes(1)]
    assert told(back, NOON + 120) == ["The clock was set back by 60 min, at 13:01."]
    forward = [*minutes(1), *minutes(62)]
    assert told(forward, NOON + 4000) == ["The clock was set ahead by 60 min, at 12:02."]


def test_the_longest_few_are_told():
    """Of many only the longest ones, in the order of time, and how many more there were."""
    periods = [Period(NOON + 1000 * n, 1000.0 - (n % 12) * 50, float(n), accepted=1) for n in range(1, 12)]
    until = periods[-1].ended_at
    shown = list(lines(periods, incidents(periods, until, False, 5.0), NOON, until, 200, utf8=True))
    gaps = [line for line in shown if line.startswith("No daemon ran")]
    assert (len(gaps), shown[-1]) == (8, "and 2 shorter ones")
    assert gaps[0] == "No daemon ran from 12:50 to 12:53, for 3 min."
    assert gaps[-1] == "No daemon ran from 14:46 to 14:55, for 9 min."


def test_a_time_of_which_nothing_is_recorded():
    """Where the last daemon ended before, that is said, and since when none has run."""
    periods = minutes(0, 1)
    now = NOON + 7200
    found = incidents(periods, now, True, 5.0)
    assert list(lines(periods, found, NOON + 3600, now, 80, utf8=True)) == [
        "Nothing is recorded since 13:00.",
        "",
        "No daemon has run since 12:02, for 118 min.",
    ]


@pytest.mark.parametrize("lasted_s", [0.0, 0.01])
def test_a_moment_is_no_peak(lasted_s):
    """A daemon that ends right after its last minute records the rest."""
    periods = [*minutes(0, 1, accepted=60), Period(NOON + 120 + lasted_s, lasted_s, 1.0, accepted=2)]
    shown = list(lines(periods, [], NOON, NOON + 180, 40, utf8=False))
    assert shown[0] == "accepted/s: 2 last, 2 at most, 122 in all"
