"""What an operator reads of an outage: when it begins, rarely while it goes on, and when it is over."""

import json
import logging
from io import StringIO

import pytest
import structlog

from forwarder import log
from forwarder.config.settings import Delivery
from forwarder.delivery.flow import Flow
from forwarder.delivery.report import Report
from forwarder.records import EVENTS, PROFILES
from forwarder.records.verdict import Outcome, Verdict
from forwarder.service.delivery_log import DeliveryLog

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
    log, flow = DeliveryLog(EVENTS, str), Flow(Delivery(), random=lambda: 0.5)
    now, tries = 0.0, 0
    while now < HOUR_S:
        for connection in range(10):
            detail = ways[(tries + connection) % len(ways)]
            flow.failed(connection, "backing_off", detail, now)
            failed = Report(
                Outcome(Verdict.UNREACHABLE, detail), 2000, True, state="backing_off", reason=detail
            )
            log.settled(failed, now)
        now, tries = max(flow.retry_at, now + 1), tries + 1
    log.settled(Report(Outcome(Verdict.DELIVERED, "", status=200), 2000, True, delivered=2000), now)

    lines = told()
    assert tries > 50
    assert lines[0]["event"] == "delivery.backing_off"
    (recovered,) = (line for line in lines if line["event"] == "delivery.recovered")
    assert recovered["failures"] == 10 * tries
    assert len(lines) <= 12, [line["event"] for line in lines]


def test_an_hour_in_which_each_third_request_fails_is_few_lines(told):
    """Where others succeed, and now and then nothing does for seconds, it is told rarely, with counts."""
    log = DeliveryLog(EVENTS, str)
    for number in range(4 * 3600):
        now = number / 4
        failed = Outcome(Verdict.UNREACHABLE, WAYS[number % len(WAYS)])
        if number % 3 == 0:
            log.settled(Report(failed, 2000, False), now)
        elif number % 100 == 1:
            log.settled(Report(failed, 2000, False, state="backing_off", reason=failed.detail), now)
        else:
            log.settled(Report(Outcome(Verdict.DELIVERED, "", status=200), 2000, False, delivered=2000), now)

    lines = told()
    assert {"batch.failed", "delivery.backing_off", "delivery.recovered"} <= {line["event"] for line in lines}
    assert len(lines) <= 60, [line["event"] for line in lines]


@pytest.mark.parametrize("is_stale", [False, True])
def test_updates_that_an_outage_makes_dead_letters_are_told(is_stale, told):
    """Their answer was lost, and a person has to decide about them. "Nothing is lost" alone would hide it."""
    log = DeliveryLog(PROFILES, str)
    lost = Outcome(Verdict.UNREACHABLE, WAYS[1], is_doubtful=True)
    log.settled(Report(lost, 50, False, is_stale, dead=50, state="backing_off", reason=WAYS[1]), 0.0)
    log.summarise()
    first, *_, last = told()
    assert (first["event"], first["count"], first["kind"]) == ("events.dead_lettered", 50, "profile")
    assert first["reason"] == f"doubtful: {WAYS[1]}"
    assert (last["event"], last["dead"]) == ("events.settled", 50)


def test_a_probe_is_no_bad_update(told):
    """It is refused on purpose, so `status` has no error of it."""
    errors = []
    log = DeliveryLog(PROFILES, errors.append)
    log.settled(Report(Outcome(Verdict.REFUSED, "$token, missing or empty", status=200), 0, False), 0.0)
    assert (told(), errors) == ([], [])
