"""The sandbox as a process of its own: the command, and the control over HTTP."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import click
import pytest

from forwarder.cli.sandbox import sandbox as sandbox_command
from forwarder.sandbox import Entry, Fault, RemoteSandbox, Sandbox
from forwarder.sandbox.control import parse_fault


def event(number: int = 1, **properties: Any) -> dict[str, Any]:
    known = {"time": int(time.time()), "distinct_id": "u-1", "$insert_id": f"event-{number}"}
    return {"event": "Signed Up", "properties": known | properties}


def ask(url: str, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
    headers = {"Authorization": "Basic sandbox-token:", "Content-Type": "application/json"}
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def send(url: str, *events: Any) -> int:
    return ask(url + "/import?strict=1", "POST", json.dumps(events).encode())[0]


class Command:
    """A running ``forwarder sandbox``."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "forwarder", "sandbox", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline()

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Stop it; returns its exit code and what it printed since."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=10)
        return self.process.returncode, out, err


@pytest.fixture
def command() -> Iterator[Any]:
    started: list[Command] = []

    def start(*arguments: str) -> Command:
        started.append(Command(*arguments))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
            running.process.communicate()


@pytest.fixture
def server() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_tells_what_it_was_given_and_what_it_got(command: Any, number: int) -> None:
    """It is ready when it says so, prints a line for each request, and ends with a summary and exit 0."""
    running = command("--token", "t-1")
    url = running.ready.split()[3]
    assert "token t-1, or service account user, secret secret, project 123" in running.ready
    assert ask(url + "/import?strict=1", "POST", b"[]")[0] == 401
    body = json.dumps([event(card="4111"), event(2, time="x")]).encode()
    assert ask(url + "/import/4111?strict=1", "POST", body)[0] == 404
    code, out, err = running.stop(number)
    first, second, last = out.splitlines()
    assert (code, err) == (0, "")
    assert " POST /import 401 0 events, 0 new, 0 repeated, 0 failed, 2 bytes, " in first
    assert " POST /import/4111 404 2 events, " in second
    assert last == "Stopped after 2 requests: 0 events, 0 repeats, 0 of them with other bytes."


def test_the_command_speaks_json(command: Any) -> None:
    """With --json every line is an object, and none of them holds an event's properties."""
    running = command(
        "--json", "--fault", "reject:event=Signed Up,times=1", "--fault", "slow:delay_s=0.01,times=1"
    )
    ready = json.loads(running.ready)
    assert {"url", "token", "service_account", "secret", "project_id", "project"} == set(ready)
    assert [send(ready["url"], event(card="4111")) for _ in range(3)] == [400, 200, 200]
    _, out, _ = running.stop()
    first, second, third, last = map(json.loads, out.splitlines())
    assert (first["status"], first["fault"], first["failed"]) == (400, "slow+reject", 1)
    assert [(seen["status"], seen["new"], seen["repeats"]) for seen in (second, third)] == [
        (200, 1, 0),
        (200, 0, 1),
    ]
    assert last == {"summary": {"accepted": 1, "repeats": 1, "reused": 0, "altered": 0, "requests": 3}}
    assert "4111" not in out


def test_the_commands_options_reach_the_sandbox(command: Any) -> None:
    """The kind of project, the limit and the latency are as asked."""
    running = command("--project", "original", "--max-body-bytes", "500", "--latency-ms", "50")
    url = running.ready.split()[3]
    without = event()
    del without["properties"]["distinct_id"]
    started = time.monotonic()
    assert send(url, without) == 400
    assert time.monotonic() - started >= 0.05
    assert send(url, event(blob="x" * 500)) == 413


def test_every_option_is_explained() -> None:
    """--help says of each option what it does."""
    silent = [
        option.opts
        for option in sandbox_command.params
        if isinstance(option, click.Option) and not option.help
    ]
    assert silent == []


def test_a_probe_is_named_for_what_it_is(command: Any) -> None:
    """An event without a name and anything else, as `forwarder check --online` sends it, alarms nobody."""
    running = command()
    url = running.ready.split()[3]
    assert send(url, {"event": "", "properties": {}}) == 400
    assert send(url, {"event": "", "properties": {"distinct_id": "x"}}) == 400
    _, out, _ = running.stop()
    probe, failure, _ = out.splitlines()
    assert " POST /import 400 a probe: an event without a name" in probe
    assert "failed" not in probe
    assert " 400 1 event, 0 new, 0 repeated, 1 failed, " in failure


def test_one_is_not_many(command: Any) -> None:
    """A single event and a single request are counted as such."""
    running = command()
    assert send(running.ready.split()[3], event()) == 200
    _, out, _ = running.stop()
    line, last = out.splitlines()
    assert " 200 1 event, 1 new, 0 repeated, " in line
    assert last.startswith("Stopped after 1 request: 1 event, 0 repeats, ")


def test_a_command_line_that_cannot_work_is_explained(command: Any) -> None:
    """A wrong fault is a usage error (64) that lists the right ones; a port in use is exit 69."""
    for spec, what in (
        ("flood", b"there are outage, slow"),
        ("slow:x=1", b"it takes delay_s"),
        ("slow", b"delay_s"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "forwarder", "sandbox", "--port", "0", "--fault", spec],
            capture_output=True,
        )
        assert (done.returncode, what in done.stderr) == (64, True), done.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "forwarder", "sandbox", "--port", port], capture_output=True
        )
        assert (done.returncode, b"in use" in done.stderr) == (69, True), done.stderr


def test_an_outage_asked_for_over_http_ends_by_itself(command: Any) -> None:
    """Whoever asks for it is answered; then connections are refused, and later accepted again."""
    running = command()
    remote = RemoteSandbox(running.ready.split()[3])
    remote.inject("outage", for_s=0.5)
    with pytest.raises(urllib.error.URLError) as error:
        send(remote.url, event())
    assert isinstance(error.value.reason, ConnectionRefusedError)
    deadline = time.monotonic() + 10
    status = 0
    while status != 200:
        assert time.monotonic() < deadline
        try:
            status = send(remote.url, event())
        except urllib.error.URLError:
            continue
    assert remote.ledger.accepted == 1


def test_the_command_stops_when_nobody_reads_it(command: Any) -> None:
    """A reader that goes away ends it, without a traceback."""
    running = command()
    url = running.ready.split()[3]
    running.process.stdout.close()
    with contextlib.suppress(OSError):  # it may be gone before it has answered
        send(url, event())
    running.process.wait(10)
    assert "Traceback" not in running.process.stderr.read()
    running.process.stderr.close()


def test_the_remote_ledger_is_the_ledger(server: Sandbox) -> None:
    """Figures, events with their bytes, and requests are the same from afar."""
    remote = RemoteSandbox(server.url + "/")
    body = b'[{"event":"\xc3\xa9","properties":{"time":1700000000,"distinct_id":"","$insert_id":"one"}}]'
    for _ in range(2):
        assert ask(server.url + "/import?strict=1", "POST", body)[0] == 200
    assert remote.ledger.events == server.ledger.events
    assert list(remote.ledger.events.values()) == [
        Entry(body[1:-1], server.ledger.events["one"].sha256, copies=2, changed=False)
    ]
    assert remote.ledger.requests == server.ledger.requests
    assert (remote.ledger.accepted, remote.ledger.repeats, remote.ledger.request_count) == (1, 1, 2)
    status, lines = ask(server.url + "/sandbox/ledger/events")
    assert (status, set(json.loads(lines))) == (200, {"insert_id", "copies", "changed", "sha256"})


def test_faults_are_injected_and_cleared_from_afar(server: Sandbox) -> None:
    """The remote verbs do what those in Python do."""
    remote = RemoteSandbox(server.url)
    remote.inject("throttle", times=1, retry_after_s=2)
    remote.inject("server_error", status=500)
    assert json.loads(ask(server.url + "/sandbox/faults")[1].splitlines()[0]) == {
        "fault": "throttle",
        "used": 0,
        "left": 1,
    }
    assert [send(server.url, event()) for _ in range(3)] == [429, 500, 500]
    remote.clear()
    assert send(server.url, event()) == 200


def test_what_hangs_is_released_from_afar(server: Sandbox) -> None:
    """release lets go of the requests that hang, and leaves the faults in force."""
    remote = RemoteSandbox(server.url)
    remote.inject("hang", times=1)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            send(server.url, event())
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    remote.wait_for(lambda ledger: ledger.request_count == 1)
    assert remote.ledger.in_progress == 1
    remote.release()
    thread.join(10)
    assert len(failed) == 1


def test_waiting_from_afar(server: Sandbox) -> None:
    """wait_for returns with the change, and says what it saw when time runs out."""
    remote = RemoteSandbox(server.url)
    server.inject(Fault.slow(0.1))
    thread = threading.Thread(target=send, args=(server.url, event()))
    thread.start()
    remote.wait_for(lambda ledger: ledger.accepted == 1)
    thread.join()
    with pytest.raises(TimeoutError, match="'accepted': 1"):
        remote.wait_for(lambda ledger: ledger.accepted == 2, timeout_s=0.05)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "/sandbox/nothing", None, 404, b"there is no GET"),
        ("PUT", "/sandbox/faults", b"{}", 405, b"there is no PUT"),
        ("POST", "/sandbox/faults", b"{}", 400, b"expected"),
        ("POST", "/sandbox/faults", b"nonsense", 400, b"Expecting value"),
        ("POST", "/sandbox/faults", b'{"fault":"named"}', 400, b"no fault 'named'"),
        ("POST", "/sandbox/faults", b'{"fault":"slow","delay_s":"x"}', 400, b"could not convert"),
        ("POST", "/sandbox/faults", b'{"fault":"forbidden","times":"x"}', 400, b"fault 'forbidden'"),
        ("POST", "/sandbox/faults", b'{"fault":"poison","where":"x"}', 400, b"has no setting 'where'"),
        ("GET", "/sandbox/ledger?after=x", None, 400, b"invalid literal"),
    ],
)
def test_control_requests_that_make_no_sense(
    server: Sandbox, method: str, path: str, body: bytes | None, status: int, words: bytes
) -> None:
    """They are refused with the reason, and nothing is injected."""
    answered, text = ask(server.url + path, method, body)
    assert (answered, words in text) == (status, True), text
    assert server.schedule.in_force == []


def test_a_wrong_fault_from_afar_is_an_error(server: Sandbox) -> None:
    """The remote class raises what the sandbox says."""
    with pytest.raises(ValueError, match="no fault 'flood'; there are outage"):
        RemoteSandbox(server.url).inject("flood")


def test_faults_on_a_command_line() -> None:
    """NAME:KEY=VALUE,… is read with JSON values where they are such."""
    assert parse_fault("hang") == {"fault": "hang"}
    assert parse_fault("too_large:html=true,limit_bytes=5,x=a b") == {
        "fault": "too_large",
        "html": True,
        "limit_bytes": 5,
        "x": "a b",
    }
    with pytest.raises(ValueError, match="'oops' is not KEY=VALUE"):
        parse_fault("hang:oops")
