"""The sandbox's faults over real HTTP: each one happens, as often as asked, and takes what it says."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from forwarder.sandbox import Fault, Sandbox

HEADERS = {
    "Authorization": "Basic " + base64.b64encode(b"sandbox-token:").decode(),
    "Content-Type": "application/json",
}
EXPLAINED = "'properties.time' is invalid: must be specified as seconds since epoch"


def event(number: int = 1, name: str = "Signed Up", **properties: Any) -> dict[str, Any]:
    known = {"time": int(time.time()), "distinct_id": "u-1", "$insert_id": f"event-{number}"}
    return {"event": name, "properties": known | properties}


class Reply:
    """An answer that was read to its end."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def send(server: Sandbox, *events: Any, query: str = "strict=1") -> Reply:
    """Post *events* on a connection of their own."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("POST", f"/import?{query}", json.dumps(events or [event()]).encode(), HEADERS)
        with connection.getresponse() as response:
            return Reply(response)
    finally:
        connection.close()


def in_background(server: Sandbox, caught: list[BaseException]) -> threading.Thread:
    """Send an event in another thread, which keeps what it is told instead of an answer."""

    def run() -> None:
        try:
            send(server)
        except (http.client.HTTPException, OSError) as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.fixture
def server() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


UPSTREAM = b"upstream connect error or disconnect/reset before headers"
ANSWERS = {
    "503": (Fault.server_error(), 503, UPSTREAM),
    "502": (Fault.server_error(502), 502, UPSTREAM),
    "500": (Fault.server_error(500), 500, b'"status":"Internal Server Error"'),
    "429": (
        Fault.throttle(),
        429,
        b'{"code":429,"error":"Project exceeded rate limits. Please retry the request with '
        b'exponential backoff.","status":"Too Many Requests"}',
    ),
    "429 without strict": (
        Fault.throttle(strict=False),
        429,
        b'{"error":"Project exceeded rate limits. Please retry the request with '
        b'exponential backoff.","status":0}',
    ),
    "413": (
        Fault.too_large(1000),
        413,
        b'{"code":413,"error":"request exceeds max limit of 1000 bytes","status":"Request Entity Too Large"}',
    ),
    "413 page": (Fault.too_large(html=True), 413, b"<title>Error 413 (Request Entity Too Large)!!1</title>"),
    "login page": (Fault.login_page(), 200, b"<title>Sign in to continue</title>"),
    "redirect": (Fault.redirect(), 302, b"<title>Found</title>"),
    "401": (Fault.unauthorized(), 401, b'{"code":401,"error":"Invalid credentials","status":"Unauthorized"}'),
    "403": (Fault.forbidden(), 403, b"<title>403 Forbidden</title>"),
    "404": (Fault.not_found(), 404, b'"code":404'),
    "405": (Fault.method_not_allowed(), 405, b'"code":405'),
    "408": (Fault.request_timeout(), 408, b"<title>Request Timeout</title>"),
    "400": (Fault.bad_request("nope"), 400, b'{"code":400,"error":"nope","status":"Bad Request"}'),
    "temporary": (Fault.temporary_failure(), 200, b'{"status":0,"error":"a temporary failure occurred"}'),
    "any": (Fault.answer(418, "teapot", "text/plain"), 418, b"teapot"),
}


@pytest.mark.parametrize(("fault", "status", "text"), ANSWERS.values(), ids=ANSWERS)
def test_faults_that_answer_take_nothing(server: Sandbox, fault: Fault, status: int, text: bytes) -> None:
    """Such a fault answers once as asked and takes no event; the next request is served as ever."""
    injection = server.inject(fault, times=1)
    reply = send(server)
    assert (reply.status, server.ledger.accepted, injection.used) == (status, 0, 1)
    assert text in reply.body
    assert reply.headers["Content-Type"].startswith("text/html") == (b"<title>" in text)
    assert (send(server).status, server.ledger.accepted, injection.used) == (200, 1, 1)
    assert [(seen.status, seen.fault, seen.events) for seen in server.ledger.requests] == [
        (status, fault.name, 1),
        (200, "", 1),
    ]


def test_headers_that_come_with_a_fault(server: Sandbox) -> None:
    """Retry-After and Location are there when asked for."""
    server.inject(Fault.throttle(retry_after_s=2), times=1)
    server.inject(Fault.throttle(), times=1)
    server.inject(Fault.redirect("https://example.invalid/x", 307), times=1)
    first, second, third = send(server), send(server), send(server)
    assert (first.headers["Retry-After"], second.headers["Retry-After"]) == ("2", None)
    assert (third.status, third.headers["Location"]) == (307, "https://example.invalid/x")


def test_faults_take_turns_and_end_when_cleared(server: Sandbox) -> None:
    """What decides an answer is used up in order; without a number it stays until it is cleared."""
    server.inject(Fault.server_error(500), times=2)
    server.inject(Fault.throttle(), times=1)
    server.inject(Fault.forbidden())
    assert [send(server).status for _ in range(5)] == [500, 500, 429, 403, 403]
    server.clear()
    assert send(server).status == 200


def test_a_fault_can_be_for_a_time(server: Sandbox) -> None:
    """After for_s seconds the fault is over by itself."""
    injection = server.inject(Fault.forbidden(), for_s=0.2)
    assert send(server).status == 403
    deadline = time.monotonic() + 10
    while send(server).status == 403:
        assert time.monotonic() < deadline
    assert injection.over


def test_chance_is_repeatable(server: Sandbox) -> None:
    """The same seed gives the same faults, and not all or none of the requests have them."""
    runs = []
    for _ in range(2):
        server.inject(Fault.server_error(), chance=0.5, seed=7)
        runs.append([send(server).status for _ in range(20)])
        server.clear()
    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 503}


@pytest.mark.parametrize("how", [{"times": 0}, {"chance": 0.0}, {"chance": 1.5}])
def test_a_fault_that_can_never_happen_is_refused(server: Sandbox, how: dict[str, Any]) -> None:
    """Numbers that make no sense are an error at once."""
    with pytest.raises(ValueError, match="must be"):
        server.inject(Fault.forbidden(), **how)


@pytest.mark.parametrize(("fault", "taken"), [(Fault.reset_before(), 0), (Fault.reset_after(), 1)])
def test_connections_are_reset_before_or_after(server: Sandbox, fault: Fault, taken: int) -> None:
    """The client sees a reset, not an end; whether its events were taken is the fault's choice."""
    server.inject(fault, times=1)
    with pytest.raises(ConnectionResetError) as error:
        send(server)
    assert not isinstance(error.value, http.client.RemoteDisconnected)
    assert server.ledger.accepted == taken
    assert (server.ledger.requests[0].status, server.ledger.requests[0].events) == (0, 1)


def test_half_an_answer(server: Sandbox) -> None:
    """The answer breaks off in its body, after the events were taken."""
    server.inject(Fault.half_answer(), times=1)
    with pytest.raises(http.client.IncompleteRead) as error:
        send(server)
    assert error.value.partial.startswith(b'{"code":200')
    assert (server.ledger.accepted, server.ledger.requests[0].status) == (1, 200)


@pytest.mark.parametrize("taken", [False, True])
def test_a_hanging_request_is_answered_never(server: Sandbox, taken: bool) -> None:
    """It stays in progress until it is released, and then its connection is closed without an answer."""
    server.inject(Fault.hang(taken=taken), times=1)
    caught: list[BaseException] = []
    thread = in_background(server, caught)
    server.wait_for(lambda ledger: ledger.request_count == 1)
    assert (server.ledger.in_progress, caught, server.ledger.accepted) == (1, [], int(taken))
    server.release()
    thread.join(10)
    assert isinstance(caught[0], http.client.RemoteDisconnected)
    assert (server.ledger.in_progress, server.ledger.requests[0].status) == (0, 0)


def test_slow_answers(server: Sandbox) -> None:
    """Each request waits, and is then served as ever, also together with another fault."""
    server.inject(Fault.slow(0.2))
    server.inject(Fault.forbidden(), times=1)
    started = time.monotonic()
    assert send(server).status == 403
    assert time.monotonic() - started >= 0.2
    assert (send(server).status, server.ledger.requests[0].fault) == (200, "slow+forbidden")
    assert server.ledger.requests[1].took_s >= 0.2


def test_closing_does_not_wait_for_what_is_slow_or_hangs() -> None:
    """A sandbox closes at once, whatever is in progress."""
    caught: list[BaseException] = []
    with Sandbox() as server:
        server.inject(Fault.hang(), times=1)
        threads = [in_background(server, caught)]
        server.wait_for(lambda ledger: ledger.request_count == 1)
        server.inject(Fault.slow(60))
        threads.append(in_background(server, caught))
        server.wait_for(lambda ledger: ledger.in_progress == 2)
        started = time.monotonic()
    assert time.monotonic() - started < 5
    for thread in threads:
        thread.join(10)
    assert len(caught) == 2


def test_nobody_listens_and_then_again_on_the_same_port(server: Sandbox) -> None:
    """Without a listener connections are refused and open ones closed; later the port is the same."""
    port = server.port
    idle = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    idle.request("GET", "/import")
    idle.getresponse().read()
    server.stop_listening()
    assert idle.sock.recv(1) == b""
    idle.close()
    with pytest.raises(ConnectionRefusedError):
        send(server)
    # Nobody else can have the port meanwhile: not even a client, for its own end.
    with socket.socket() as external, pytest.raises(OSError, match="in use"):
        external.bind(("127.0.0.1", port))
    server.listen_again()
    assert (send(server).status, server.port) == (200, port)


def test_an_outage_ends_by_itself(server: Sandbox) -> None:
    """An outage refuses connections for its time, or until faults are cleared."""
    server.inject(Fault.outage(for_s=0.2))
    with pytest.raises(ConnectionRefusedError):
        send(server)
    deadline = time.monotonic() + 10
    while not server.listening:
        assert time.monotonic() < deadline
    assert send(server).status == 200
    server.inject(Fault.outage(for_s=60))
    assert not server.listening
    server.clear()
    assert send(server).status == 200


def test_failed_records_that_cannot_be_read(server: Sandbox) -> None:
    """Strings, indexes beyond the batch, one index twice, and an insert_id that is another event's."""
    kinds = ("strings", "out_of_range", "repeated", "contradicting")
    replies = {}
    for kind in kinds:
        server.inject(Fault.failed_records(kind), times=1)
        replies[kind] = send(server, event(1), event(2)).json
    assert {reply["code"] for reply in replies.values()} == {400}
    assert [replies[kind]["num_records_imported"] for kind in kinds] == [0, 1, 1, 1]
    assert isinstance(replies["strings"]["failed_records"][0], str)
    assert [record["index"] for record in replies["out_of_range"]["failed_records"]] == [2]
    assert [record["index"] for record in replies["repeated"]["failed_records"]] == [0, 0]
    assert [record["insert_id"] for record in replies["contradicting"]["failed_records"]] == ["not-yours"]
    assert list(server.ledger.events) == ["event-2"]
    assert server.ledger.requests[2].failed == 1
    with pytest.raises(ValueError, match="no kind 'other'"):
        Fault.failed_records("other")


def test_a_poison_event_spoils_its_batch_without_a_reason(server: Sandbox) -> None:
    """Any batch that holds it gets a bare 400 and imports nothing; other batches are not touched."""
    injection = server.inject(Fault.poison(event="Poison"))
    reply = send(server, event(1), event(2, "Poison"))
    assert (reply.status, "failed_records" in reply.json, server.ledger.accepted) == (400, False, 0)
    assert send(server, event(1)).status == 200
    assert (injection.used, server.ledger.requests[1].fault) == (1, "")


def test_events_can_be_chosen_by_a_predicate(server: Sandbox) -> None:
    """A predicate is given the parsed event."""
    server.inject(Fault.poison(where=lambda found: found["properties"].get("plan") == "free"))
    assert send(server, event(1, plan="free")).status == 400
    assert send(server, event(1, plan="pro")).status == 200
    with pytest.raises(ValueError, match="which events"):
        Fault.poison()


def test_events_can_be_rejected_by_name(server: Sandbox) -> None:
    """They fail with the field and message asked for, in order with those that fail by rule."""
    server.inject(Fault.reject(event="Bad", message="no"))
    reply = send(server, event(1, "Bad"), event(2, time="x"), event(3), event(4, "Bad")).json
    assert reply["num_records_imported"] == 1
    assert [(record["index"], record["message"]) for record in reply["failed_records"]] == [
        (0, "no"),
        (1, EXPLAINED),
        (3, "no"),
    ]
    assert list(server.ledger.events) == ["event-3"]


def test_dropped_events_are_neither_imported_nor_failed(server: Sandbox) -> None:
    """A drop filter makes the count too small: by name, or by number."""
    server.inject(Fault.drop(event="Noise"), times=1)
    first = send(server, event(1, "Noise"), event(2))
    server.inject(Fault.drop(by=2), times=1)
    second = send(server, event(3), event(4), event(5))
    assert (first.status, first.json["num_records_imported"]) == (200, 1)
    assert (second.status, second.json["num_records_imported"]) == (200, 1)
    assert list(server.ledger.events) == ["event-2", "event-3"]
    with pytest.raises(ValueError, match="which events"):
        Fault.drop()


def test_the_servers_clock_can_be_wrong(server: Sandbox) -> None:
    """It shows in the Date header, and in what is the future."""
    server.inject(Fault.clock(-7200), times=1)
    behind = send(server)
    assert (
        behind.json["failed_records"][0]["message"]
        == "'properties.time' is invalid: must not be in the future"
    )
    assert abs(parsedate_to_datetime(behind.headers["Date"]).timestamp() - (time.time() - 7200)) < 5
    server.inject(Fault.clock(600), times=1)
    assert send(server).status == 200


def test_a_rate_limit_throttles_what_is_above_it(server: Sandbox) -> None:
    """What comes faster than the rate is a 429 in the shape of the request; after a while it goes on."""
    server.inject(Fault.rate_limit(events_per_s=10, retry_after_s=1))
    batch = [event(number) for number in range(12)]
    assert send(server, *batch).status == 200
    throttled = send(server, *batch)
    assert (throttled.status, throttled.headers["Retry-After"], throttled.json["code"]) == (429, "1", 429)
    assert send(server, *batch, query="").json["status"] == 0
    deadline = time.monotonic() + 10
    while send(server, *batch).status == 429:
        assert time.monotonic() < deadline
    statuses = {(seen.status, seen.fault) for seen in server.ledger.requests}
    assert statuses == {(200, ""), (429, "rate_limit")}


def test_a_huge_answer_is_still_the_right_one(server: Sandbox) -> None:
    """The usual JSON, as large as asked for."""
    server.inject(Fault.huge_answer(3_000_000), times=1)
    reply = send(server)
    assert (len(reply.body), reply.json["num_records_imported"]) == (3_000_000, 1)


def test_a_yes_can_come_in_odd_ways(server: Sandbox) -> None:
    """With another status, or another word, while the events are taken; a refusal stays as it is."""
    server.inject(Fault.odd_yes(226), times=1)
    reply = send(server)
    assert (reply.status, reply.json["num_records_imported"], reply.json["status"]) == (226, 1, "OK")
    server.inject(Fault.odd_yes(200, "Bad Request"), times=1)
    reply = send(server)
    assert (reply.status, reply.json["code"], reply.json["status"]) == (200, 200, "Bad Request")


def test_a_million_failed_records(server: Sandbox) -> None:
    """As many records as asked for, each with an index of its own."""
    server.inject(Fault.many_failed_records(), times=1)
    records = send(server).json["failed_records"]
    assert (len(records), records[-1]["index"]) == (1_000_000, 999_999)


def test_messages_can_hold_control_characters(server: Sandbox) -> None:
    """The first event fails with words that would play with a terminal; the others are imported."""
    server.inject(Fault.control_characters(), times=1)
    reply = send(server, event(1), event(2)).json
    message = reply["failed_records"][0]["message"]
    assert {"\x1b", "\x07", "\r", "\n", "\0"} <= set(message)
    assert list(server.ledger.events) == ["event-2"]
