"""Plots: well-formed, with round axes, true values, and no line where nothing is known."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.service import charts
from forwarder.service.charts import BYTES, COUNT, DURATION, LATENCY, RATE, Chart, Series
from forwarder.service.timeline import Outage, Part, Timeline
from forwarder.spool import Gap, Period

NOON = 1_800_014_400.0  # Friday, 15 January 2027, 12:00 UTC


def part(minute, waiting=0, **what):
    """The minute that ends so many minutes after noon."""
    at = NOON + 60.0 * minute
    return Part(at - 60.0, at, Period(at, 60.0, 0.0, waiting=waiting, **what))


def timeline(*parts, gaps=(), outages=(), minutes=10, begins_at=NOON):
    return Timeline(NOON, NOON + 60.0 * minutes, 60.0, begins_at, parts, gaps, outages)


WAITING = Chart("waiting", "Waiting", COUNT, (Series("waiting", "blue", lambda period: period.waiting),))
HALF = Chart("half", "Half", LATENCY, (Series("half", "blue", lambda period: period.p50_s),))
REFUSED = Chart(
    "refused",
    "Refused",
    COUNT,
    (
        Series("dead", "red", lambda period: period.dead_lettered),
        Series("refused", "orange", lambda period: period.refused),
    ),
    stacked=True,
)


def elements(chart, of, name=""):
    """The elements of a drawn plot, of a class."""
    tree = ElementTree.fromstring(charts.drawn(chart, of))
    return [each for each in tree.iter() if name in (each.get("class") or "").split()]


def starts(chart, of):
    """How many lines there are."""
    return "".join(each.get("d") for each in elements(chart, of, "line")).count("M")


@pytest.mark.parametrize(
    ("greatest", "unit", "texts"),
    [
        (0, COUNT, ["0", "1"]),
        (1, COUNT, ["0", "1"]),
        (3, COUNT, ["0", "1", "2", "3"]),
        (7, COUNT, ["0", "2", "4", "6", "8"]),
        (123_456, COUNT, ["0", "50k", "100k", "150k"]),
        (1_000_000, COUNT, ["0", "500k", "1M"]),
        (0.031, RATE, ["0", "0.01", "0.02", "0.03", "0.04"]),
        (0.0, RATE, ["0", "0.5", "1"]),
        (5 * 2**20, BYTES, ["0 B", "2 MiB", "4 MiB", "6 MiB"]),
        (1, BYTES, ["0 B", "1 B"]),
        (200, DURATION, ["0 s", "60 s", "2 min", "3 min", "4 min"]),
        (7 * 3600, DURATION, ["0 s", "2 h", "4 h", "6 h", "8 h"]),
        (90 * 86400, DURATION, ["0 s", "23 d", "46 d", "69 d", "92 d"]),
        (0.38, LATENCY, ["0 s", "100 ms", "200 ms", "300 ms", "400 ms"]),
        (12, LATENCY, ["0 s", "5 s", "10 s", "15 s"]),
    ],
)
def test_an_axis_has_few_and_round_values(greatest, unit, texts):
    """From 0 to the first that is enough; counts have no fractions."""
    assert [unit.short(value) for value in charts.ticks(greatest, unit)] == texts


@given(st.just(0.0) | st.floats(1e-9, 1e15), st.sampled_from([COUNT, RATE, BYTES, DURATION, LATENCY]))
def test_an_axis_holds_every_value(greatest, unit):
    """Of any size, with a handful of steps."""
    found = charts.ticks(greatest, unit)
    assert found[0] == 0
    assert found[-1] >= greatest * (1 - 1e-6)
    assert 2 <= len(found) <= charts.MOST_TICKS + 1


@pytest.mark.parametrize(
    ("hours", "names"),
    [
        (1, ["12:00", "12:15", "12:30", "12:45", "13:00"]),
        (24, ["12:00", "18:00", "00:00", "06:00", "12:00"]),
        (7 * 24, ["Sat", "Sun", "Mon", "Tue", "Wed", "Thu", "Fri"]),
        (31 * 24, ["21 Jan", "28 Jan", "4 Feb", "11 Feb"]),
    ],
)
def test_times_are_round_and_few(hours, names):
    """On the clock, and as fine as the range needs."""
    assert [name for _, name in charts.time_ticks(NOON, NOON + hours * 3600)] == names


def test_a_line_goes_through_the_middle_of_each_part():
    """And reaches from the first one's beginning to the last one's end."""
    (line,) = elements(WAITING, timeline(part(1, 4), part(2, 8)), "line")
    assert line.get("d") == "M0.0 50.0L50.0 50.0L150.0 0.0L200.0 0.0"
    (area,) = elements(WAITING, timeline(part(1, 4), part(2, 8)), "area")
    assert area.get("d") == f"{line.get('d')}V100H0.0Z"


def test_where_nothing_is_known_there_is_no_line():
    """Neither between parts that are apart, nor where a part has no value; one alone is a line, too."""
    assert starts(WAITING, timeline(part(1), part(2), part(3))) == 1
    assert starts(WAITING, timeline(part(1), part(3))) == 2
    assert starts(HALF, timeline(part(1, p50_s=1.0), part(2), part(3, p50_s=1.0), part(4, p50_s=2.0))) == 2
    assert starts(WAITING, timeline()) == 0


def test_such_times_and_outages_are_marked():
    """Each with its own class, and none outside of the plot."""
    of = timeline(
        part(5),
        gaps=[Gap(NOON + 300, NOON + 360, False), Gap(NOON - 900, NOON - 800, False)],
        outages=[Outage("blocked", NOON + 120, NOON + 180, 60.0, "why"), Outage("paused", 0, NOON, 60.0, "")],
        begins_at=NOON + 60,
    )
    found = [(each.get("class"), each.get("x"), each.get("width")) for each in elements(WAITING, of, "mark")]
    assert found == [
        ("mark blocked", "20.00%", "10.00%"),
        ("mark gap", "0.00%", "10.00%"),
        ("mark gap", "50.00%", "10.00%"),
    ]


def test_bars_stand_upon_each_other():
    """With one that would be too low to be seen as high as the least, and none where there was nothing."""
    dead, refused = elements(
        REFUSED, timeline(part(1, dead_lettered=6, refused=2), part(2), part(3, refused=8)), "bar"
    )
    assert re.findall(r"M\S+ (\S+)h\S+v(\S+)h", dead.get("d")) == [("100.0", "-75.0")]
    assert re.findall(r"M\S+ (\S+)h\S+v(\S+)h", refused.get("d")) == [("25.0", "-25.0"), ("100.0", "-100.0")]
    (low, _) = re.findall(
        r"v(\S+)h",
        elements(REFUSED, timeline(part(1, refused=1), part(2, refused=10_000)), "bar")[0].get("d"),
    )
    assert low == "-2.0"


def test_a_plot_is_said_in_words():
    """The newest, least and greatest value; of bars the sum; and for how long nothing is recorded."""
    of = timeline(part(1, 4_000), part(2, 10), part(3, 20), gaps=[Gap(NOON + 180, NOON + 420, False)])
    assert charts.summary(WAITING, of) == (
        "Waiting: now 20, least 10, most 4,000 at Fri 15 Jan 12:01. Nothing is recorded for 4 min of it."
    )
    assert charts.summary(REFUSED, timeline(part(1, refused=2), part(2, refused=3))) == (
        "Dead: 0 in all. Refused: 5 in all, most 3 at Fri 15 Jan 12:02."
    )
    assert charts.summary(HALF, timeline()) == "Half: nothing is known."
    assert charts.standing(WAITING, WAITING.series[0], of) == "20"
    assert (
        charts.standing(REFUSED, REFUSED.series[1], timeline(part(1, refused=2), part(2, refused=3))) == "5"
    )
    assert charts.standing(HALF, HALF.series[0], of) == "none"


def test_the_table_has_each_value():
    """The newest first, and an empty cell where there is none."""
    rows = list(charts.rows(HALF, timeline(part(1, p50_s=0.25), part(2))))
    assert [re.sub("<[^>]+>", "|", row) for row in rows] == [
        "||Fri 15 Jan 12:02||||",
        "||Fri 15 Jan 12:01||250 ms||",
    ]


def test_what_is_written_is_escaped():
    """A title with markup is text."""
    hostile = Chart("x", '<b>"&', COUNT, WAITING.series)
    tree = ElementTree.fromstring(charts.drawn(hostile, timeline(part(1))))
    assert tree.get("aria-label").startswith('<b>"&. Waiting')
    assert tree.get("role") == "img"
