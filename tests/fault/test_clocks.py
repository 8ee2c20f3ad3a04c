"""P3 and P6 under a wall clock that jumps back a day and forward a year, while events wait and while they are
sent: nothing waits for ever or without end, and what is stored keeps the time it was given.

The processes under test get the clock of a file: their `time.time` is this host's and so many seconds more.
What measures durations (`time.monotonic`) is left alone, as the system does.
"""

import json
import os
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from forwarder.sandbox import Fault
from tests.conftest import each_engine

sys.path.insert(0, str(Path(__file__).parent))
from cpu import Share

DAY_S, YEAR_S = 86400.0, 365 * 86400.0
MOST_CPU_SHARE = 0.3


class Clock:
    """The wall clock of the processes under test."""

    def __init__(self, scratch):
        self._file = scratch / "ahead"
        self.before = ("tests.fault.clock:run_ahead", str(self._file))
        self.set(0.0)

    def set(self, ahead_s):
        """How far it is ahead of this host's, from now on."""
        self.ahead_s = ahead_s
        new = self._file.with_suffix(".new")
        new.write_text(repr(ahead_s))
        os.replace(new, self._file)

    def now(self):
        return time.time() + self.ahead_s


@pytest.fixture
def clock(tmp_path, forwarder):
    made = Clock(tmp_path)
    forwarder.before = made.before
    return made


@pytest.fixture
def offer(forwarder, server, clock, rows, queue_path):
    """Enqueue events without a time of their own; checks which they are given. Returns what is stored."""

    def known():
        there = []
        if "://" in queue_path or os.path.exists(f"{queue_path}/data.db"):
            there = rows(queue_path) + rows(queue_path, "dead_letters")
        return {*there, *(entry.data for entry in server.ledger.events.values())}

    def offer(count, name="A"):
        before = known()
        line = json.dumps({"event": name, "properties": {"distinct_id": "x"}}) + "\n"
        first_ms = int(clock.now() * 1000)
        done = forwarder("enqueue", stdin=line * count)
        last_ms = int(clock.now() * 1000)
        assert done.returncode == 0, done.stderr
        new = sorted(known() - before)
        assert len(new) == count
        for data in new:
            assert first_ms <= json.loads(data)["properties"]["time"] <= last_ms
        return new

    return offer


JUMPS = [-DAY_S, YEAR_S, 0.0]


def test_jumps_while_waiting_for_the_server(
    forwarder, server, clock, offer, queue_path, oracle, rows, until, figures
):
    """While the server is away and the clock jumps about, tries go on at their pace; when it is back the
    events are delivered with the time at which each was accepted."""
    daemon = forwarder.daemon()
    server.inject(Fault.server_error())
    offered = offer(20)
    for ahead_s in JUMPS:
        clock.set(ahead_s)
        before, began, share = server.ledger.request_count, time.monotonic(), Share(daemon.process.pid)
        until(lambda before=before: server.ledger.request_count >= before + 4, "it still tries")
        # Four waits of 0.2 s and some jitter each.
        assert server.ledger.request_count - before <= 6 + (time.monotonic() - began) / 0.2
        assert share.so_far() < MOST_CPU_SHARE
        offered += offer(5) if ahead_s <= 0 else []
    server.clear()
    until(lambda: not rows(queue_path), "all are delivered")
    oracle(queue_path, server, offered)
    assert rows(queue_path, "dead_letters") == []
    assert figures(queue_path).delivered == len(offered)
    assert daemon.process.poll() is None


def test_jumps_while_sending(forwarder, server, clock, offer, queue_path, oracle, rows, until, figures):
    """Requests that are under way while the clock jumps are settled by their answers as ever, and what waits
    for company behind them is sent in time."""
    daemon = forwarder.daemon(FORWARDER_DELIVERY_BATCH_EVENTS="10")
    offered = []
    for ahead_s in JUMPS:
        hanging = server.inject(Fault.slow(0.4), times=2)
        clock.set(0.0)
        events = offer(35)
        offered += events
        server.wait_for(lambda ledger: ledger.in_progress >= 1)
        clock.set(ahead_s)
        until(lambda: not rows(queue_path), "all are delivered")
        assert hanging.used == 2
        server.clear()
    oracle(queue_path, server, offered)
    assert server.ledger.repeats == 0
    assert figures(queue_path).delivered == len(offered)
    daemon.wait_for("clock.wrong")


@each_engine
def test_jumps_while_idle(forwarder, server, clock, offer, queue_path, rows, until, figures):
    """An idle daemon stays idle when the clock jumps, and notices the next event at once."""
    daemon = forwarder.daemon(FORWARDER_DELIVERY_LINGER_S="0.3")
    for ahead_s in (-DAY_S, 0.0, -DAY_S):
        clock.set(ahead_s)
        share = Share(daemon.process.pid)
        offer(1)
        # In the midst of its wait for company.
        clock.set(-2 * DAY_S)
        began = time.monotonic()
        until(lambda: not rows(queue_path), "it is delivered", timeout_s=10)
        assert time.monotonic() - began < 5
        assert share.so_far() < MOST_CPU_SHARE
    assert figures(queue_path).delivered == 3


@each_engine
def test_clock_a_year_ahead_blocks(forwarder, server, clock, offer, queue_path, oracle, rows, until, figures):
    """With the clock a year ahead events are given its time, and Mixpanel refuses them for it: delivery
    blocks, and nothing becomes a dead letter. When the clock is right again, events of the right time are
    delivered; one of the wrong time is refused by name, for what it is, and nobody has changed its time."""
    daemon = forwarder.daemon()
    early = offer(1)
    until(lambda: not rows(queue_path), "all is well at first")
    clock.set(YEAR_S)
    wrong = offer(1)
    told = daemon.wait_for("delivery.blocked")
    assert "future" in told["reason"]
    before, share = server.ledger.request_count, Share(daemon.process.pid)
    until(lambda: server.ledger.request_count >= before + 2, "it tries again")
    assert share.so_far() < MOST_CPU_SHARE
    assert (rows(queue_path), rows(queue_path, "dead_letters")) == (wrong, [])
    assert forwarder.json("status")["state"] == "blocked"
    clock.set(0.0)
    right = offer(1)
    until(lambda: not rows(queue_path), "all is settled")
    assert rows(queue_path, "dead_letters") == wrong
    oracle(queue_path, server, early + wrong + right)
    found = figures(queue_path)
    assert (found.delivered, found.dead_lettered) == (2, 1)


# What the server says of time


class DateAnswers(BaseHTTPRequestHandler):
    """Answers 503 with a Retry-After as a date, 1 s ahead by this host's clock, and hangs up."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.came_at.append(time.monotonic())
        self.send_response(503)  # with a Date
        self.send_header("Retry-After", formatdate(time.time() + 1, usegmt=True))
        self.end_headers()

    def log_message(self, format, *args):
        """Nothing."""


@pytest.mark.parametrize("ahead_s", [-DAY_S, YEAR_S])
def test_retry_after_a_date(forwarder, clock, offer, queue_path, until, ahead_s, figures):
    """A Retry-After that is a date is waited for by the server's own clock, however wrong ours is."""
    with ThreadingHTTPServer(("127.0.0.1", 0), DateAnswers) as server:
        server.came_at = []
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        try:
            forwarder.environ["FORWARDER_MIXPANEL_URL"] = f"http://127.0.0.1:{server.server_address[1]}"
            clock.set(ahead_s)
            forwarder.daemon()
            offer(1)
            until(lambda: len(server.came_at) >= 2, "it tries again", timeout_s=15)
        finally:
            server.shutdown()
            serving.join()
        # Dates are whole seconds.
        assert 0.9 < server.came_at[1] - server.came_at[0] < 5
    assert figures(queue_path).accepted == 1


# What is told


@each_engine
def test_status_after_jumps(forwarder, server, clock, offer, queue_path, rows, until, figures):
    """Ages, rates and remaining times are never negative, and a jump makes no rate of what was delivered long
    ago."""
    forwarder.daemon()
    offer(300)
    until(lambda: not rows(queue_path), "delivered")
    server.inject(Fault.server_error())
    offer(5)
    for ahead_s in (-DAY_S, YEAR_S, 0.0):
        clock.set(ahead_s)
        found = forwarder.json("status")
        assert found["waiting"] == 5
        assert found["oldest_waiting_s"] >= 0
        assert 0 <= found["rate_1m"] <= 5.0
        assert found["eta_s"] is None or found["eta_s"] >= 0
        shown = forwarder("status").stdout
        assert "-1 " not in shown
        assert " ago" in shown
        assert "-" not in shown.split("last minute")[1].split("\n")[0]
    assert figures(queue_path).waiting == 5


@each_engine
def test_rate_after_a_jump_back(forwarder, server, clock, offer, queue_path, rows, until, figures):
    """What was delivered an hour ago is no part of the last minute's rate because the clock was set back."""
    forwarder.daemon()
    offer(600)
    until(lambda: not rows(queue_path), "delivered")
    # A server has its own clock.
    rate = 10.0 if "://" in queue_path else 0
    clock.set(3600.0)
    assert forwarder.json("status")["rate_1m"] == rate
    clock.set(-3600.0)
    assert forwarder.json("status")["rate_1m"] == rate
    assert figures(queue_path).delivered == 600


# Retention


def dead_letter(forwarder, server, offer, rows, queue_path, until):
    refusing = server.inject(Fault.reject(event="bad"))
    found = offer(3, "bad")
    until(lambda: len(rows(queue_path, "dead_letters")) == 3, "three are dead")
    assert refusing.used
    server.clear()
    return found


@each_engine
def test_retention_does_not_trust_a_wrong_clock(
    forwarder, server, clock, offer, queue_path, rows, until, figures
):
    """Dead letters that are kept for a month survive a daemon that starts while the clock is a year ahead, as
    before the time is set by network: until the server has said what time it is, nothing is deleted."""
    forwarder.environ["FORWARDER_DEAD_LETTERS_MAX_AGE_DAYS"] = "30"
    daemon = forwarder.daemon()
    found = dead_letter(forwarder, server, offer, rows, queue_path, until)
    assert daemon.stop() == 0
    clock.set(YEAR_S)
    daemon = forwarder.daemon()
    offer(1)
    daemon.wait_for("delivery.blocked")
    assert rows(queue_path, "dead_letters") == found
    assert figures(queue_path).dead_letters == 3
