"""The waits between tries, the breaker, and how much is sent at once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.config.settings import Delivery
from forwarder.delivery.flow import SEVERAL, Connections, Flow, Size, delay_s


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


def round_trip(connections, speed=0.0, now=0.0):
    """All allowed connections are used twice, together, with success; returns how many are allowed then."""
    for _ in range(2 * connections.allowed):
        connections.succeeded(1, 0, speed, now)
    return connections.allowed


def test_connections_double_until_the_limit():
    """A server that bears everything gets all connections within a few round trips."""
    connections = Connections(10)

    assert connections.allowed == 1
    assert [round_trip(connections) for _ in range(5)] == [2, 4, 8, 10, 10]


@pytest.mark.parametrize("best", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("power", [1, 2])
def test_no_more_connections_than_make_it_faster(best, power):
    """Where the server bears no more at once than so many, it mostly gets about as many."""
    connections, now, sent, used = Connections(10), 0.0, 0, 0
    while now < 1000:
        crowded = max(connections.allowed / best, 1) ** power
        sent += 1
        used += connections.allowed
        connections.succeeded(sent, sent, 1 / crowded, now)
        now += crowded / connections.allowed
    assert used / sent <= 2 * best
    assert sent / now > 0.8 * best


def test_nothing_grows_before_the_first_answers_can_be_compared():
    """The first answer on a connection tells nothing: what one alone brings is known before there are two."""
    connections = Connections(10)
    connections.succeeded(1, 1, 0.0, 0.0)
    assert connections.allowed == 1
    connections.succeeded(2, 2, 1000.0, 1.0)
    assert connections.allowed == 2
    connections.succeeded(3, 4, 0.0, 2.0)
    connections.succeeded(4, 5, 0.0, 2.0)
    connections.succeeded(5, 6, 250.0, 3.0)
    assert connections.allowed == 1


def test_too_many_requests_halve_the_connections():
    """And nothing brings more for a moment."""
    connections = Connections(10)
    for _ in range(4):
        round_trip(connections)

    connections.throttled(0, 100.0)

    assert connections.allowed == 5
    assert round_trip(connections, now=100.5) == 5
    assert round_trip(connections, now=103.0) == 8


def test_an_outage_leaves_one_connection_and_recovers_fast():
    """One asks while nothing gets through; what was good before is soon reached again."""
    connections = Connections(8)
    for _ in range(3):
        round_trip(connections)

    connections.failed(0)

    assert connections.allowed == 1
    assert [round_trip(connections) for _ in range(3)] == [2, 4, 8]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(-1, 12), st.lists(st.tuples(st.sampled_from("stf"), st.floats(0, 1e6), st.integers(0, 50)))
)
def test_the_number_stays_between_one_and_the_limit(limit, happenings):
    """Whatever comes back in whatever order, there is always one connection, and never too many."""
    connections = Connections(limit)

    for now, (what, speed, number) in enumerate(happenings):
        if what == "s":
            connections.succeeded(number, now, speed, now)
        elif what == "t":
            connections.throttled(now, now)
        else:
            connections.failed(now)
        assert 1 <= connections.allowed <= max(limit, 1)


# The breaker


@pytest.fixture
def flow():
    """A flow with the default settings, after a success."""
    flow = Flow(Delivery(), lambda: 0.5)
    flow.sent(1, 0.0)
    flow.passed(1, 0.0, imported=1)
    return flow


def test_failures_among_successes_hold_up_nobody(flow):
    """A failure counts for nothing once something that was sent later has got through."""
    for number in range(2, 200, 2):
        flow.passed(number + 1, 1.0)
        flow.failed(number, "backing_off", "HTTP 503", 1.0)
        assert (flow.next_at <= 1.0, flow.trouble) == (True, ("running", ""))


def test_several_failures_in_a_row_open_the_breaker_and_a_success_closes_it(flow):
    """Then one request at a time is sent, after a wait."""
    for number in range(2, 2 + SEVERAL):
        assert flow.next_at <= 1.0
        flow.failed(number, "backing_off", "HTTP 503", 1.0)
    assert (flow.connections, flow.trouble) == (1, ("backing_off", "HTTP 503"))
    assert flow.next_at == pytest.approx(1 + 2 + 3)
    flow.passed(1, 2.0)
    assert flow.next_at == pytest.approx(6)
    flow.passed(2 + SEVERAL, 6.0)
    assert (flow.next_at <= 6.0, flow.trouble, flow.tries) == (True, ("running", ""), 0)


def test_patience_is_what_answers_have_taken(flow):
    """Nothing known: the timeout. Then a few times the slowest lately, longer with each try, never longer."""
    assert flow.patience_s(0) == 60
    for _ in range(10):
        flow.timed(1, 100_000, 0.25, 0.0)
    assert [flow.patience_s(tries) for tries in range(6)] == [5, 10, 20, 40, 60, 60]
    flow.timed(1, 100_000, 7.0, 0.0)
    assert flow.patience_s(0) == 28


def test_batches_are_smaller_on_a_slow_line():
    """A batch whose way there takes over half of the timeout is halved; a quick one lets the next grow."""
    size = Size(2_000_000)
    size.passed(2_000_000, 0.8)
    assert size.allowed_bytes == 1_000_000
    size.passed(1_000_000, 0.4)
    assert size.allowed_bytes == 1_000_000
    size.passed(1_000_000, 0.1)
    assert 1_000_000 < size.allowed_bytes < 1_100_000


def test_what_is_cut_off_is_halved_only_if_none_so_large_has_passed():
    """A large batch that is cut off may be too large; one of a size that passes otherwise is not."""
    size = Size(2_000_000)
    assert size.cut(400_000)
    assert size.allowed_bytes == 200_000
    size.passed(200_000)
    assert not size.cut(200_000)
    assert size.cut(250_000)
    size.reset()
    assert size.allowed_bytes == 2_000_000


# The size of batches


def test_named_limit_is_kept():
    """Batches grow up to a limit that the server has named, and no further."""
    size = Size(2_000_000)
    size.too_large(2_000_000, 300_000)
    for _ in range(100):
        size.passed(size.allowed_bytes)
    assert size.allowed_bytes == 300_000


def test_named_limit_that_the_server_disproves_is_dropped():
    """A limit counts no more once a larger batch came through; batches grow again, to the setting's."""
    size = Size(2_000_000)
    size.too_large(5000, 10)
    assert size.allowed_bytes == 10
    size.passed(400)
    assert size.allowed_bytes > 400
    for _ in range(200):
        size.passed(size.allowed_bytes)
    assert size.allowed_bytes == 2_000_000
