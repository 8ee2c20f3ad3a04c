"""The waits between tries, and the number of connections."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.delivery.backoff import BatchSize, Connections, delay_s


def test_the_schedule_is_the_documented_one():
    """From 2 s, doubling until 60 s, plus 1 to 5 s of jitter."""
    least = [delay_s(tries, 2, 60, 0.0) for tries in range(1, 9)]
    most = [delay_s(tries, 2, 60, 1.0) for tries in range(1, 9)]

    assert least == [3, 5, 9, 17, 33, 61, 61, 61]
    assert most == [7, 9, 13, 21, 37, 65, 65, 65]


@pytest.mark.parametrize(
    ("tries", "initial_s", "maximum_s", "jitter", "wait_s"),
    [
        (0, 2, 60, 0.0, 3),
        (-5, 2, 60, 0.0, 3),
        (10**9, 2, 60, 0.5, 63),
        (1, 0.2, 60, 0.0, 0.3),
        (1, 0.2, 60, 1.0, 0.7),
        (1, 30, 600, 1.0, 35),
        (9, 2, 0.2, 1.0, 0.7),
        (3, 1e300, 1e308, 0.0, 4e300),
    ],
)
def test_a_delay_fits_its_settings(tries, initial_s, maximum_s, jitter, wait_s):
    """Small settings have small jitter, and no number of tries is too large."""
    assert delay_s(tries, initial_s, maximum_s, jitter) == pytest.approx(wait_s)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 10**12), st.floats(0.001, 1e6), st.floats(0.001, 1e6), st.floats(0, 1))
def test_a_delay_never_shrinks_with_the_tries_and_stays_bounded(tries, initial_s, maximum_s, jitter):
    """More failures never mean a shorter wait, and the longest is the maximum and its jitter."""
    wait_s = delay_s(tries, initial_s, maximum_s, jitter)

    assert 0 < wait_s <= maximum_s + 5
    assert wait_s <= delay_s(tries + 1, initial_s, maximum_s, jitter)


def round_trip(connections):
    """All allowed connections are used once, together, with success."""
    ticket = connections.ticket
    for _ in range(connections.allowed):
        connections.succeeded(ticket, saturated=True)
    return connections.allowed


def test_connections_double_until_the_limit():
    """A far end that bears everything gets all connections within a few round trips."""
    connections = Connections(10)

    assert connections.allowed == 1
    assert [round_trip(connections) for _ in range(5)] == [2, 4, 8, 10, 10]


def test_after_a_throttle_half_as_many_and_then_one_more_a_round_trip():
    """Multiplicative decrease, additive increase."""
    connections = Connections(10)
    for _ in range(4):
        round_trip(connections)

    connections.throttled(connections.ticket)

    assert connections.allowed == 5
    assert [round_trip(connections) for _ in range(3)] == [6, 7, 8]


def test_all_throttles_of_one_round_trip_halve_once():
    """Ten refusals of requests sent together say one thing, not ten."""
    connections = Connections(8)
    for _ in range(3):
        round_trip(connections)
    ticket = connections.ticket

    for _ in range(8):
        connections.throttled(ticket)

    assert connections.allowed == 4


def test_an_outage_leaves_one_connection_and_recovers_fast():
    """One probe at a time while nobody answers; what was good before is soon reached again."""
    connections = Connections(8)
    for _ in range(3):
        round_trip(connections)
    ticket = connections.ticket

    for _ in range(8):
        connections.failed(ticket)

    assert connections.allowed == 1
    assert [round_trip(connections) for _ in range(3)] == [2, 4, 8]


@pytest.mark.parametrize("bad", [Connections.throttled, Connections.failed])
def test_a_reply_from_before_a_change_counts_for_nothing(bad):
    """What was in flight when the number fell neither raises it again nor lowers it more."""
    connections = Connections(8)
    for _ in range(3):
        round_trip(connections)
    before = connections.ticket
    bad(connections, before)
    allowed = connections.allowed

    for _ in range(8):
        connections.succeeded(before, saturated=True)
    connections.failed(before)
    connections.throttled(before)

    assert connections.allowed == allowed


def test_only_a_saturated_success_is_a_reason_for_more():
    """A trickle doesn't open connections that it has no use for."""
    connections = Connections(8)

    for _ in range(20):
        connections.succeeded(connections.ticket, saturated=False)

    assert connections.allowed == 1


@settings(max_examples=40, deadline=None)
@given(st.integers(-1, 12), st.lists(st.tuples(st.sampled_from("stf"), st.integers(0, 3), st.booleans())))
def test_the_number_stays_between_one_and_the_limit(limit, happenings):
    """Whatever comes back in whatever order, there is always one connection, and never too many."""
    connections = Connections(limit)

    for what, age, saturated in happenings:
        ticket = connections.ticket - age
        if what == "s":
            connections.succeeded(ticket, saturated=saturated)
        else:
            (connections.throttled if what == "t" else connections.failed)(ticket)
        assert 1 <= connections.allowed <= max(limit, 1)


def test_named_limit_is_kept():
    """Batches grow up to a limit that the far end has named, and no further."""
    size = BatchSize(2_000_000)
    size.too_large(2_000_000, 300_000)
    for _ in range(100):
        size.succeeded(size.allowed_bytes)
    assert size.allowed_bytes == 300_000


def test_named_limit_that_the_far_end_disproves_is_dropped():
    """A limit counts no more once a larger batch came through; batches grow again, to the setting's."""
    size = BatchSize(2_000_000)
    size.too_large(5000, 10)
    assert size.allowed_bytes == 10
    size.succeeded(400)
    assert size.allowed_bytes > 400
    for _ in range(200):
        size.succeeded(size.allowed_bytes)
    assert size.allowed_bytes == 2_000_000
