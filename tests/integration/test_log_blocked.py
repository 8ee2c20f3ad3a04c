"""A log that nobody takes costs its lines, which are counted; not the delivery, and not the daemon's end."""

import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from contextlib import contextmanager, suppress

import pytest
import structlog

from forwarder import log
from forwarder.log import journald
from forwarder.records.event import accept
from forwarder.spool import EventQueue

NUMBERS = 400


@contextmanager
def pipe():
    """A pipe that is full; what stands in it is no line."""
    reading, writing = os.pipe()
    try:
        filled(writing)
        yield reading, writing, lambda: None
    finally:
        os.close(reading)
        os.close(writing)


@contextmanager
def stopped_terminal():
    """A terminal held by Ctrl-S, which is empty."""
    with terminal() as (leader, follower, _):
        termios.tcflow(follower, termios.TCOOFF)
        yield leader, follower, lambda: termios.tcflow(follower, termios.TCOON)


@contextmanager
def terminal():
    """A terminal whose window does not read."""
    leader, follower = os.openpty()
    try:
        yield leader, follower, lambda: None
    finally:
        termios.tcflow(follower, termios.TCOON)
        os.close(leader)
        os.close(follower)


def filled(fd):
    """Write to *fd* until it takes no more; others see nothing of it."""
    own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    with suppress(BlockingIOError):
        while True:
            os.write(own, b"x\n")
    os.close(own)


class Reader:
    """Reads what comes out at the other end, as lines of JSON; the others are not for it."""

    def __init__(self, fd):
        self._fd = fd
        self._rest = b""
        self.lines = []

    def read(self):
        """Read what is there."""
        while select.select([self._fd], [], [], 0.01)[0]:
            *lines, self._rest = (self._rest + os.read(self._fd, 65536)).split(b"\n")
            for line in lines:
                with suppress(ValueError):
                    self.lines.append(json.loads(line))

    def has(self, event):
        """The fields of the first line of that name, once it has come."""
        self.read()
        return next((line for line in self.lines if isinstance(line, dict) and line["event"] == event), None)


@pytest.fixture
def started(forwarder):
    """Start daemons that log everything to a descriptor, and end those that are left."""
    daemons = []

    def start(fd):
        environ = {
            **forwarder.environ,
            "FORWARDER_LOG_LEVEL": "debug",
            "FORWARDER_DELIVERY_BATCH_EVENTS": "2",
        }
        daemons.append(subprocess.Popen([sys.executable, "-m", "forwarder", "run"], env=environ, stderr=fd))
        return daemons[-1]

    yield start
    for daemon in daemons:
        daemon.kill()
        daemon.wait(20)


@pytest.fixture
def offer(queue_path):
    """Put events into the queue, as another process would."""

    def put(numbers):
        given = [{"time": 1_700_000_000, "$insert_id": f"id-{number}"} for number in numbers]
        events = [json.dumps({"event": "A", "properties": properties}).encode() for properties in given]
        with EventQueue(queue_path, min_free_bytes=0) as queue:
            queue.append([accept(event, int(time.time() * 1000)) for event in events])

    return put


blocked = pytest.mark.parametrize("blocked", [pipe, stopped_terminal, terminal])


@blocked
def test_a_log_that_nobody_takes_stops_neither_delivery_nor_the_end(
    blocked, started, offer, queue_path, rows, until, server
):
    """With standard error full or held, all is delivered, and SIGTERM ends the daemon with 0 in seconds."""
    offer(range(NUMBERS))
    with blocked() as (_, fd, _):
        daemon = started(fd)
        until(lambda: not rows(queue_path), "all is delivered")
        assert len(server.ledger.events) == NUMBERS
        daemon.send_signal(signal.SIGTERM)

        assert daemon.wait(10) == 0


@blocked
def test_lines_that_were_dropped_are_counted_in_the_first_line_that_is_taken(
    blocked, started, offer, queue_path, rows, until
):
    """Once the log is taken again it goes on with how many lines are missing, and then as always."""
    offer(range(NUMBERS))
    with blocked() as (reading, fd, release):
        daemon = started(fd)
        until(lambda: not rows(queue_path), "all is delivered")
        reader = Reader(reading)
        release()
        reader.read()
        assert reader.has("log.dropped") is None
        offer(range(NUMBERS, NUMBERS + 2))

        told = until(lambda: reader.has("log.dropped"), "it is told what is missing")
        until(lambda: reader.has("batch.settled"), "it goes on")
        assert told["count"] >= NUMBERS / 8
        assert (told["level"], told["part"]) == ("warning", "log")
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(10) == 0
        reader.read()
        assert [line["event"] for line in reader.lines].count("log.dropped") == 1


@pytest.fixture
def fresh_logging():
    """Leave nothing behind."""
    yield
    structlog.reset_defaults()


@blocked
def test_no_line_waits_for_a_slow_reader(blocked, fresh_logging):
    """Lines for a log that fills up take no time, and the last one that is begun not much."""
    with blocked() as (_, fd, _), open(fd, "w", closefd=False) as stream:
        log.configure("info", "json", stream)
        start = time.monotonic()
        for _ in range(100):
            log.get("x").info("a.b", text="x" * 1000)

        assert time.monotonic() - start < 1


def test_a_line_that_got_stuck_is_given_up_and_the_next_one_begins_a_line(fresh_logging):
    """What there was no room for is dropped and counted; what was written of it does not spoil the next."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 8192)
    with open(reading, "rb", buffering=0) as reader, open(writing, "w") as stream:
        log.configure("info", "json", stream)
        log.get("x").info("a.b", many=["x" * 1900] * 20)
        log.get("x").info("c.d")
        torn = reader.read(65536)
        log.get("x").info("e.f")
        log.get("x").info("g.h")
        rest = reader.read(65536).decode().splitlines()

    assert torn.startswith(b'{"timestamp"')
    assert b"\n" not in torn
    assert rest[0] == ""
    lines = [json.loads(line) for line in rest[1:]]
    assert [line["event"] for line in lines] == ["log.dropped", "e.f", "g.h"]
    assert lines[0]["count"] == 2


def test_a_stopped_journal_costs_entries_and_they_are_counted(fresh_logging, tmp_path, monkeypatch):
    """A journal whose socket is full holds up nobody; later it is told how many entries are missing."""
    monkeypatch.setattr(journald, "SOCKET", str(tmp_path / "journal"))
    log.configure("info", "journal", None)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(journald.SOCKET)
        start = time.monotonic()
        for _ in range(600):
            log.get("x").info("thing.seen")
        assert time.monotonic() - start < 5

        entries = []
        journal.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                entries.append(journal.recv(65536))
        log.get("x").info("thing.seen")
        missing = 600 - len(entries)
        assert missing > 0
        assert f"FORWARDER_COUNT={missing}\n".encode() in journal.recv(65536)
        assert b"thing.seen" in journal.recv(65536)
