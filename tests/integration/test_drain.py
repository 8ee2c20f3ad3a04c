"""``forwarder drain``: alone, and beside a running daemon."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager

import pytest

from forwarder import config
from forwarder.errors import TryAgainError
from forwarder.records.event import accept
from forwarder.sandbox import Fault
from forwarder.service import run as service_run
from forwarder.spool import EventQueue, Settlement
from forwarder.spool.sqlite import set_aside
from forwarder.spool.sqlite.consumer import Consumer

PATIENT = {
    "FORWARDER_DELIVERY_LINGER_S": "3600",
    "FORWARDER_DELIVERY_RETRY_INITIAL_S": "60",
    "FORWARDER_DELIVERY_RETRY_MAX_S": "60",
}


@pytest.fixture
def offer(queue_path):
    """Put events into the queue; returns their final bytes."""

    def put(*numbers):
        texts = [
            b'{"event":"e","properties":{"distinct_id":"d","time":1700000000,"$insert_id":"id-%d"}}' % number
            for number in numbers
        ]
        events = [accept(text, int(time.time() * 1000)) for text in texts]
        with EventQueue(queue_path, min_free_bytes=0) as queue:
            queue.append(events)
        return events

    return put


@contextmanager
def draining(forwarder, *arguments):
    """A drain that goes on beside the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", "forwarder", "drain", *arguments],
        env=forwarder.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=20)


# Alone


def test_delivers_all_without_lingering(forwarder, server, offer, oracle, queue_path):
    """It delivers what waits, doesn't wait for company, ends with 0, and leaves the queue to others."""
    forwarder.environ["FORWARDER_DELIVERY_LINGER_S"] = "3600"
    events = offer(*range(4500))
    done = forwarder("drain")
    assert (done.returncode, done.stdout) == (0, "The queue is empty.\n")
    assert [request.events for request in server.ledger.requests].count(2000) == 2
    oracle(queue_path, server, events)
    assert forwarder.json("status")["state"] == "stopped"


def test_empty_queue_is_success(forwarder, server):
    """Nothing to do is 0, also where there is no queue yet, and where delivery is paused."""
    assert forwarder("drain").returncode == 0
    assert forwarder("pause").returncode == 0
    assert forwarder("drain").returncode == 0
    assert server.ledger.request_count == 0


def test_what_is_left_is_75(forwarder, server, offer, rows, queue_path):
    """When time is up it says how many are left, that they wait and why, and ends with 75."""
    server.stop_listening()
    events = offer(1, 2, 3)
    done = forwarder("drain", "--timeout", "0.5")
    assert done.returncode == 75
    assert f"3 events are left; they wait in {queue_path}" in done.stdout
    assert "delivery is backing off: 127.0.0.1" in done.stdout
    assert rows(queue_path) == events


def test_timeout_holds_while_the_server_hangs(forwarder, server, offer, rows, queue_path):
    """--timeout is the most it takes, also with a request unanswered."""
    server.inject(Fault.hang())
    events = offer(1)
    began_at = time.monotonic()
    assert forwarder("drain", "--timeout", "1").returncode == 75
    assert 1 <= time.monotonic() - began_at < 10
    assert [request.fault for request in server.ledger.requests] == ["hang"]
    assert rows(queue_path) == events


@pytest.mark.parametrize("beside", ["alone", "beside a daemon"])
def test_timeout_holds_while_the_queue_is_locked(forwarder, offer, rows, queue_path, beside):
    """--timeout bounds the wait for somebody else's lock, too; what is left, and why, is told with 75."""
    if beside != "alone":
        forwarder.daemon(**PATIENT)
    events = offer(1)
    with closing(sqlite3.connect(f"{queue_path}/data.db", isolation_level=None)) as external:
        external.execute("BEGIN IMMEDIATE")
        began_at = time.monotonic()
        done = forwarder("drain", "--timeout", "2")
        took_s = time.monotonic() - began_at
        external.execute("ROLLBACK")
    assert done.returncode == 75
    assert "1 events are left" in done.stdout or "1 event is left" in done.stdout
    assert ("is locked by another process" in done.stdout) == (beside == "alone")
    assert took_s < 7
    assert rows(queue_path) == events


def test_wait_for_locks_can_be_shortened(offer, queue_path):
    """Also where the queue was opened with more patience, what is left of it bounds the wait for a lock."""
    offer(1)
    consumer = Consumer(queue_path, lock_timeout_s=20)
    with (
        closing(consumer),
        closing(sqlite3.connect(f"{queue_path}/data.db", isolation_level=None)) as external,
    ):
        consumer.wait_for_locks(0.2)
        external.execute("BEGIN IMMEDIATE")
        began_at = time.monotonic()
        with pytest.raises(TryAgainError, match="locked"):
            consumer.settle(Settlement([1]))
        external.execute("ROLLBACK")
    assert time.monotonic() - began_at < 5


@pytest.mark.parametrize("fault", [Fault.unauthorized(), Fault.forbidden(), Fault.not_found()])
def test_blocked_is_69_at_once(forwarder, server, offer, rows, queue_path, fault):
    """What a person must mend ends it at once with 69 and the reason; nothing is lost."""
    server.inject(fault)
    events = offer(1, 2)
    done = forwarder("drain")
    assert done.returncode == 69
    assert f"HTTP {fault.instead.status}" in done.stderr
    # A firewall's 403 may be for one of the events.
    assert server.ledger.request_count == (2 if fault.instead.status == 403 else 1)
    assert rows(queue_path) == events


def test_paused_is_69(forwarder, server, offer, rows, queue_path):
    """Paused, it delivers nothing and says so."""
    events = offer(1)
    forwarder("pause")
    done = forwarder("drain")
    assert done.returncode == 69
    assert "forwarder resume" in done.stderr
    assert (rows(queue_path), server.ledger.request_count) == (events, 0)


@pytest.mark.parametrize("beside", ["alone", "beside a daemon"])
@pytest.mark.parametrize("why", ["blocked", "paused"])
def test_what_keeps_it_is_told_as_json_too(forwarder, server, offer, beside, why):
    """With --json an end with 69 prints what is left and why, like any other end."""
    if beside != "alone":
        forwarder.daemon()
    if why == "paused":
        forwarder("pause")
    else:
        server.inject(Fault.unauthorized())
    offer(1, 2)
    done = forwarder("drain", "--json")
    assert done.returncode == 69
    found = json.loads(done.stdout)
    assert found["left"] == 2
    assert f"delivery is {why}" in found["reason"]


def test_nothing_to_do_is_not_worth_a_log_line(forwarder):
    """For cron: its start and its end are no news, so that standard error stays empty."""
    forwarder("enqueue", "-e", "E")
    assert forwarder("drain").returncode == 0
    done = forwarder("drain")
    assert (done.returncode, done.stdout, done.stderr) == (0, "The queue is empty.\n", "")


def test_gives_up_without_progress(forwarder, server, offer, rows, queue_path, monkeypatch):
    """Without --timeout it ends with what is left and why, once nothing has got through for so long."""
    monkeypatch.setattr(service_run, "NO_PROGRESS_S", 1.0)
    for name, value in forwarder.environ.items():
        monkeypatch.setenv(name, value)
    server.stop_listening()
    events = offer(1, 2)
    began_at = time.monotonic()
    done = service_run.drain(config.load(), None)
    assert 1.0 <= time.monotonic() - began_at < 10
    assert done.left == 2
    assert done.reason.startswith("nothing got through for 1 s: delivery is backing off: 127.0.0.1")
    assert rows(queue_path) == events


def test_an_answer_that_may_still_come_is_waited_for(
    forwarder, server, offer, oracle, queue_path, monkeypatch
):
    """A server that takes longer than the time without progress, but not the timeout, is drained, once."""
    monkeypatch.setattr(service_run, "NO_PROGRESS_S", 0.5)
    for name, value in forwarder.environ.items():
        monkeypatch.setenv(name, value)
    server.inject(Fault.slow(2))
    events = offer(1, 2)
    assert service_run.drain(config.load(), None) == service_run.Drained(0)
    assert server.ledger.request_count == 1
    oracle(queue_path, server, events)


def test_reload_does_not_make_it_linger(forwarder, server, offer, oracle, queue_path):
    """SIGHUP during a drain leaves it without lingering: what is put meanwhile is delivered at once."""
    forwarder.environ["FORWARDER_DELIVERY_LINGER_S"] = "3600"
    slow = server.inject(Fault.slow(1))
    events = offer(1)
    with draining(forwarder) as process:
        server.wait_for(lambda ledger: ledger.in_progress == 1)
        process.send_signal(signal.SIGHUP)
        events += offer(2)
        assert process.wait(20) == 0
    assert slow.used == 2
    oracle(queue_path, server, events)


def test_stopped_by_a_signal(forwarder, server, offer, rows, queue_path, until):
    """SIGTERM ends it as it ends the daemon; what is left is 75."""
    server.stop_listening()
    events = offer(1)
    with draining(forwarder) as process:
        until(lambda: forwarder.json("status")["state"] == "backing_off")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 75
    assert rows(queue_path) == events


def test_outage_that_ends_is_waited_out(forwarder, server, offer):
    """Without --timeout it goes on over an outage."""
    server.inject(Fault.server_error(), times=3)
    offer(1)
    assert forwarder("drain").returncode == 0
    assert [request.status for request in server.ledger.requests] == [503, 503, 503, 200]


def test_it_speaks_with_one_voice_in_a_pipe(forwarder, server, offer):
    """In a pipe, such as cron's mail, all that it says is text; with --json all is JSON."""
    del forwarder.environ["FORWARDER_LOG_FORMAT"]
    server.inject(Fault.server_error(), times=1)
    offer(1)
    done = forwarder("drain")
    assert "503" in done.stderr
    assert "{" not in done.stdout + done.stderr
    server.inject(Fault.server_error(), times=1)
    offer(1)
    done = forwarder("drain", "--json")
    assert [type(json.loads(line)) for line in (done.stdout + done.stderr).splitlines()[:2]] == [dict, dict]
    assert json.loads(done.stdout) == {"left": 0, "reason": "", "held": 0}


# Of a damaged database


@pytest.fixture
def is_salvaged(forwarder, server):
    """Check that the command that drain names brings all events back, and that they are delivered then."""

    def check(told, events):
        (command,) = {
            part for part in told.splitlines()[-1].split("`") if part.startswith("forwarder salvage")
        }
        assert forwarder(*command.split()[1:]).returncode == 0
        server.clear()
        assert forwarder("drain").returncode == 0
        assert set(events) <= {entry.data for entry in server.ledger.events.values()}

    return check


@pytest.mark.parametrize("beside", ["alone", "beside a daemon"])
def test_what_was_set_aside_is_left(forwarder, server, offer, queue_path, is_salvaged, beside):
    """Where all that waited is in a damaged database that was set aside, it ends with 74 and names the
    command that brings it back; when that is done, with 0."""
    events = offer(*range(300))
    with open(f"{queue_path}/data.db", "r+b") as file:
        file.write(bytes(100))
    if beside != "alone":
        forwarder.daemon()
    done = forwarder("drain", "--json")
    assert done.returncode == 74
    assert json.loads(done.stdout)["left"] == 0
    assert "set aside" in json.loads(done.stdout)["reason"]
    assert server.ledger.request_count == 0
    is_salvaged(done.stderr, events)


@pytest.mark.parametrize("fault", [Fault.hang(), Fault.slow(1)], ids=["unanswered", "settling"])
def test_damage_met_during_it_is_set_aside(forwarder, server, offer, queue_path, sql, is_salvaged, fault):
    """Damage that it comes by while it delivers, when it settles or only when it counts what is left, is set
    aside as the daemon does, and told with 74."""
    events = offer(*range(300))
    (root,) = sql(queue_path, "SELECT rootpage FROM sqlite_master WHERE name = 'ledger'")[0]
    server.inject(fault)
    with draining(forwarder) as process:
        server.wait_for(lambda ledger: ledger.in_progress == 1)
        with open(f"{queue_path}/data.db", "r+b") as file:
            file.seek((root - 1) * 4096)
            file.write(b"\x77" * 4096)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 74
    assert len(set_aside.damaged(queue_path)) == 1
    is_salvaged(told, events)


# Beside a running daemon


def test_a_stray_429_is_waited_out(forwarder, server, offer, rows, queue_path):
    """Told "too many" once, by Mixpanel's own schedule: it waits for seconds, and goes on as before."""
    server.inject(Fault.throttle(), times=1)
    offer(*range(60))
    for name, value in (("RETRY_INITIAL_S", "2"), ("RETRY_MAX_S", "60"), ("BATCH_EVENTS", "10")):
        forwarder.environ[f"FORWARDER_DELIVERY_{name}"] = value
    done = forwarder("drain", timeout_s=30)
    assert (done.returncode, rows(queue_path)) == (0, []), done.stdout
    assert [request.status for request in server.ledger.requests].count(429) == 1


def test_running_daemon_is_flushed_and_waited_for(forwarder, server, offer, oracle, queue_path):
    """With a daemon that would linger for an hour, that one delivers, and drain returns when it has."""
    daemon = forwarder.daemon(**PATIENT)
    events = offer(1, 2, 3)
    done = forwarder("drain")
    assert (done.returncode, done.stdout) == (0, "The queue is empty.\n")
    assert len(daemon.logged("delivery.flushed")) == 1
    oracle(queue_path, server, events)
    assert daemon.process.poll() is None


def test_running_daemon_left_with_something_is_75(forwarder, server, offer, rows, queue_path):
    """A daemon that doesn't get it done in time is left to it, with 75 and what keeps it from it."""
    server.stop_listening()
    forwarder.daemon()
    events = offer(1)
    done = forwarder("drain", "--timeout", "0.5")
    assert done.returncode == 75
    assert "the daemon is backing off: 127.0.0.1" in done.stdout
    assert rows(queue_path) == events


def test_running_daemon_that_is_blocked_tries_once_more(forwarder, server, offer, rows, queue_path):
    """Blocked before, it is flushed first: 69 if it is blocked still, 0 if that is mended by now."""
    daemon = forwarder.daemon(**PATIENT)
    injection = server.inject(Fault.unauthorized())
    events = offer(1)
    assert forwarder("flush").returncode == 0
    daemon.wait_for("delivery.blocked")
    done = forwarder("drain")
    assert done.returncode == 69
    assert "401" in done.stderr
    assert (rows(queue_path), injection.used) == (events, 2)
    server.clear()
    assert forwarder("drain").returncode == 0


def test_running_daemon_that_is_paused_is_69(forwarder, server, offer):
    """A paused daemon is not waited for; one that was just resumed is."""
    forwarder.daemon()
    forwarder("pause")
    offer(1)
    done = forwarder("drain")
    assert done.returncode == 69
    assert "forwarder resume" in done.stderr
    forwarder("resume")
    assert forwarder("drain").returncode == 0


def test_daemon_that_dies_meanwhile_is_told(forwarder, server, offer, until):
    """When the daemon that is waited for ends, drain says so with 69, instead of waiting for nobody."""
    daemon = forwarder.daemon()
    server.stop_listening()
    offer(1)
    with draining(forwarder) as process:
        daemon.wait_for("delivery.flushed")
        daemon.kill()
        _, told = process.communicate(timeout=20)
    assert process.returncode == 69
    assert "1 events wait" in told or "1 event waits" in told
