"""What an operator reads of an outage: when it begins, rarely while it goes on, and when it is over."""

import json
import logging
from io import StringIO

import pytest
import structlog

from forwarder import log
from forwarder.delivery.gate import Gate, Schedule
from forwarder.delivery.outcome import Kind, Outcome
from forwarder.delivery.report import Report
from forwarder.service.journal import Journal

HOUR_S = 3600.0
WAYS = ["connection refused", "timed out after 5 s", "no such host", "HTTP 503: Service Unavailable"]


@pytest.fixture
def told():
    """What is logged, as a list that grows."""
    handlers = list(logging.getLogger().handlers)
    stream = StringIO()
    log.configure("info", "json", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.getLogger().handlers[:] = handlers
    structlog.reset_defaults()


@pytest.mark.parametrize("ways", [WAYS[:1], WAYS], ids=["one way", "four ways"])
def test_an_hour_of_outage_is_a_handful_of_lines(ways, told):
    """Ten connections that fail again and again for an hour, in one way or in four, are a dozen lines."""
    journal, gate = Journal(), Gate(Schedule(2, 60), random=lambda: 0.5)
    now, tries = 0.0, 0
    while now < HOUR_S:
        for connection in range(10):
            detail = ways[(tries + connection) % len(ways)]
            gate.back_off(detail, now)
            journal.settled(Report(Outcome(Kind.UNREACHABLE, detail), None, 2000), gate, now)
        now, tries = max(gate.opens_at, now + 1), tries + 1
    gate.open()
    journal.settled(Report(Outcome(Kind.DELIVERED, ""), 200, 2000, delivered=2000), gate, now)

    lines = told()
    assert tries > 50
    assert lines[0]["event"] == "delivery.backing_off"
    (recovered,) = (line for line in lines if line["event"] == "delivery.recovered")
    assert recovered["failures"] == 10 * tries
    assert len(lines) <= 12, [line["event"] for line in lines]
