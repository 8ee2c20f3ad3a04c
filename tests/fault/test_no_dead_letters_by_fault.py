"""P5: no fault of the server, the network or the settings turns an event into a dead letter."""

import json
import time

import pytest

from forwarder import spool
from forwarder.records.event import accept
from forwarder.sandbox import Fault
from forwarder.service import state as state_file
from forwarder.spool import EventQueue
from tests.conftest import each_engine

# So that many tries take little time.
EAGER = {
    "FORWARDER_DELIVERY_RETRY_INITIAL_S": "0.01",
    "FORWARDER_DELIVERY_RETRY_MAX_S": "0.01",
    "FORWARDER_DELIVERY_READ_TIMEOUT_S": "1",
}


@pytest.fixture
def offer(queue_path):
    """Put some events into the queue; returns their final bytes."""

    def offer(name="signup", count=30):
        text = json.dumps({"event": "e", "properties": {"distinct_id": "d", "name": name}}).encode()
        events = [accept(text, int(time.time() * 1000)) for _ in range(count)]
        with EventQueue(queue_path, min_free_bytes=0) as queue:
            queue.append(events)
        return events

    return offer


MISCONFIGURED = {
    "401": Fault.unauthorized(),
    "403 html": Fault.forbidden(),
    "404": Fault.not_found(),
    "405": Fault.method_not_allowed(),
    "302": Fault.redirect(),
    "307": Fault.redirect(status=307),
    "wrong cluster": Fault.bad_request("invalid project id for cluster"),
}
UNREACHABLE = {
    "login page": Fault.login_page(),
    "204": Fault.answer(204),
    "400 html": Fault.answer(400, "<title>Bad Request</title>", "text/html"),
    "400 of another API": Fault.answer(400, '{"error": {"message": "x"}}'),
    "408": Fault.request_timeout(),
    "429": Fault.throttle(),
    "500": Fault.server_error(500),
    "503": Fault.server_error(503),
    "half answer": Fault.half_answer(),
    "reset before": Fault.reset_before(),
    "reset after": Fault.reset_after(),
    "huge answer": Fault.huge_answer(5 * 1024 * 1024),
    "temporary failure": Fault.temporary_failure(),
}
SILENT = {"hang": Fault.hang(), "hang after": Fault.hang(taken=True)}
REFUSING = {
    "413 for everything": Fault.too_large(),
    "413 html for everything": Fault.too_large(html=True),
    "400 for everything": Fault.bad_request(),
    "nothing but strings": Fault.failed_records("strings"),
}


@pytest.mark.parametrize(
    ("faults", "state", "tries"),
    [
        (MISCONFIGURED, "blocked", 5),
        (UNREACHABLE, "backing_off", 5),
        (SILENT, "backing_off", 2),
        (REFUSING, "blocked", 20),
    ],
    ids=["misconfigured", "unreachable", "silent", "refusing"],
)
def test_faults_of_the_server(
    forwarder, server, queue_path, offer, oracle, rows, until, faults, state, tries
):
    """While one lasts nothing is dead-lettered or lost, and it is said; then everything is delivered."""
    daemon = forwarder.daemon(**EAGER)
    offered = []
    for name, fault in faults.items():
        injection = server.inject(fault)
        events = offer(name)
        offered += events
        until(lambda fault=injection: fault.used >= tries, f"{name}: {tries} tries")
        until(lambda: state_file.read(spool.at(queue_path)).state == state, f"{name}: {state}")
        assert rows(queue_path) == events, name
        oracle(queue_path, server, offered)
        server.clear()
        until(lambda: not rows(queue_path), f"everything is delivered after {name}")
        assert server.ledger.accepted == len(offered), name
    assert rows(queue_path, "dead_letters") == []
    daemon.wait_for(f"delivery.{state}")
    daemon.wait_for("delivery.recovered")
    oracle(queue_path, server, offered)


@pytest.mark.parametrize("fault", REFUSING.values(), ids=REFUSING)
def test_cron_drains_while_everything_is_refused(forwarder, server, queue_path, offer, oracle, rows, fault):
    """One event and one `drain` at a time, none is given up: each says that delivery is blocked, and why."""
    injection = server.inject(fault)
    offered = []
    for number in range(4):
        offered += offer(f"run {number}", 1)
        done = forwarder("drain")
        assert (done.returncode, done.stdout) == (69, "")
        assert "every event tried since the last import is refused" in done.stderr
        assert (rows(queue_path), rows(queue_path, "dead_letters")) == (offered, [])
    assert injection.used >= 8
    server.clear()
    assert forwarder("drain").returncode == 0
    assert server.ledger.accepted == len(offered)
    oracle(queue_path, server, offered)


def test_events_that_trickle_in_while_everything_is_refused(
    forwarder, server, queue_path, offer, oracle, rows, until
):
    """Events that come one at a time, over starts of the daemon, are all delivered when the spell ends."""
    injection = server.inject(Fault.bad_request())
    offered = []
    for number in range(6):
        daemon = forwarder.daemon(**EAGER)
        used = injection.used
        offered += offer(f"event {number}", 1)
        until(lambda used=used: injection.used >= used + 6, "refused again and again")
        daemon.kill()
    assert (rows(queue_path), rows(queue_path, "dead_letters")) == (offered, [])
    server.clear()
    forwarder.daemon(**EAGER)
    until(lambda: not rows(queue_path), "everything is delivered")
    assert server.ledger.accepted == len(offered)
    oracle(queue_path, server, offered)


@each_engine
def test_outage(forwarder, server, queue_path, offer, oracle, rows, until):
    """Nobody listens: nothing is lost, and everything is delivered when somebody does again."""
    events = offer()
    server.stop_listening()
    daemon = forwarder.daemon(**EAGER)
    until(lambda: state_file.read(spool.at(queue_path)).failures >= 5, "five tries")
    assert "refused the connection" in daemon.wait_for("delivery.backing_off")["reason"]
    assert rows(queue_path) == events
    server.listen_again()
    until(lambda: not rows(queue_path), "everything is delivered")
    assert daemon.wait_for("delivery.recovered")["failures"] >= 5
    oracle(queue_path, server, events)


def test_host_that_does_not_exist(forwarder, queue_path, offer, rows, until, figures):
    """A wrong name in the settings is an outage like any other: the events wait."""
    events = offer()
    daemon = forwarder.daemon(**EAGER, FORWARDER_MIXPANEL_URL="https://mixpanel.invalid")
    until(lambda: state_file.read(spool.at(queue_path)).failures >= 2, "two tries")
    assert "DNS" in daemon.wait_for("delivery.backing_off")["reason"]
    assert rows(queue_path) == events
    assert rows(queue_path, "dead_letters") == []
    assert figures(queue_path).waiting == len(events)


@each_engine
def test_wrong_clock(forwarder, server, queue_path, offer, oracle, rows, until):
    """This host's clock hours ahead: "must not be in the future" blocks, and condemns nothing."""
    injection = server.inject(Fault.clock(skew_s=-3 * 3600))
    events = offer()
    daemon = forwarder.daemon(**EAGER)
    assert "clock is 3.0 hours ahead" in daemon.wait_for("delivery.blocked")["reason"]
    until(lambda: injection.used >= 5, "five tries")
    assert rows(queue_path) == events
    server.clear()
    until(lambda: not rows(queue_path), "everything is delivered")
    assert rows(queue_path, "dead_letters") == []
    oracle(queue_path, server, events)


@each_engine
def test_one_fault_after_another(forwarder, server, queue_path, offer, oracle, rows, until):
    """All of them in turn, each for two requests, some of them at once: every event is delivered."""
    daemon = forwarder.daemon(**EAGER, FORWARDER_DELIVERY_BATCH_EVENTS="10")
    faults = {**MISCONFIGURED, **UNREACHABLE}
    injections = [server.inject(fault, times=2) for fault in faults.values()]
    offered = [data for name in faults for data in offer(name)]
    until(lambda: not rows(queue_path), "everything is delivered", 40)
    assert [injection.used for injection in injections] == [2] * len(injections)
    assert rows(queue_path, "dead_letters") == []
    assert server.ledger.accepted == len(offered)
    oracle(queue_path, server, offered)
    assert daemon.process.poll() is None
