"""Numbers and times as a person reads them."""

import pytest

from forwarder.text import instant, latency, rate, seconds_of


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.0167, "0.0167"), (12.345, "12.3"), (99.96, "100"), (1234.5, "1,234")],
)
def test_a_rate_has_three_digits(value, shown):
    """Of any size."""
    assert rate(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (0.00125, "1.25 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1 s"),
        (12.34, "12.3 s"),
        (130, "2 min"),
    ],
)
def test_how_long_a_request_took(seconds, shown):
    """From parts of a second to minutes."""
    assert latency(seconds) == shown


def test_an_instant_is_read_back():
    """To the millisecond."""
    assert seconds_of(instant(1_700_000_000.25)) == 1_700_000_000.25
