"""Plots of characters: their exact lines."""

import time

import pytest

from forwarder.cli.plot import axis, bars

pytestmark = pytest.mark.usefixtures("in_utc")


def test_a_bar_for_each_value():
    """Bars go in eighths of a row; the least that is more than 0 is seen, and 0 is not."""
    values = [0, 0.001, 1, 4, 7, 8, None, 8]
    assert bars(values, 1, 8) == [" ▁▁▄▇█·█"]
    assert bars([0, 1, 2, 3, 4, None], 2, 4) == ["   ▄█ ", " ▄███·"]


def test_without_utf_8_a_bar_is_of_hashes():
    """ASCII has whole rows only, and another sign for what is not known."""
    assert bars([0, 0.1, 1, 2, 3, None], 3, 3, utf8=False) == ["    # ", "   ## ", " ####."]


def test_nothing_at_all():
    """A plot of zeros is empty, one of nothing known is all gap; and no column is no error."""
    assert bars([0, 0, None], 2, 0) == ["   ", "  ·"]
    assert bars([None] * 3, 1, 0.0) == ["···"]
    assert bars([], 2, 1) == ["", ""]
    assert bars([9], 1, 3) == ["█"], "what is more than the most is cut off"


def test_the_axis_has_marks_at_round_local_times(monkeypatch):
    """Each mark stands at the column of its time, in the zone of the reader."""
    noon = 1_700_049_600.0
    assert axis(noon, noon + 6 * 3600, 60) == "|12:00    |13:00    |14:00    |15:00    |16:00    |17:00"
    assert axis(noon + 600, noon + 4200, 40) == "   |12:15    |12:30    |12:45    |13:00"
    assert axis(noon, noon + 3 * 86400, 40) == "      |Nov 16       |Nov 17      |Nov 18"
    assert axis(noon, noon + 60, 10) == "|12:00"
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    assert axis(noon, noon + 6 * 3600, 60).startswith("     |18:00    |19:00")
