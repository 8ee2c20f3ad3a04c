"""The sandbox over real HTTP: the answers of /import, and the ledger."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from forwarder.sandbox import Sandbox

TOKEN = {"Authorization": "Basic " + base64.b64encode(b"sandbox-token:").decode()}
ACCOUNT = {"Authorization": "Basic " + base64.b64encode(b"user:secret").decode()}


def event(number: int = 1, **properties: Any) -> dict[str, Any]:
    known = {"time": int(time.time()), "distinct_id": "u-1", "$insert_id": f"event-{number}"}
    return {"event": "Signed Up", "properties": known | properties}


class Sender:
    """One keep-alive connection to a sandbox."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> http.client.HTTPResponse:
        self.connection.request(method, path, body, dict(headers or {}))
        response = self.connection.getresponse()
        self.text = response.read()
        return response

    def send(
        self, *events: Any, path: str = "/import?strict=1", body: bytes | None = None, **headers: str
    ) -> tuple[int, Any]:
        """Post *events* and return the status and the JSON of the answer."""
        known = TOKEN | {"Content-Type": "application/json"}
        known |= {name.replace("_", "-"): value for name, value in headers.items()}
        body = json.dumps(events).encode() if body is None else body
        return self.ask("POST", path, body, known).status, json.loads(self.text)


@pytest.fixture
def server() -> Iterator[Sandbox]:
    with Sandbox(max_body_bytes=100_000) as sandbox:
        yield sandbox


@pytest.fixture
def sender(server: Sandbox) -> Iterator[Sender]:
    sender = Sender(server.port)
    yield sender
    sender.connection.close()


def test_valid_events_are_imported(server: Sandbox, sender: Sender) -> None:
    """All valid: 200 with the number imported, in Mixpanel's own JSON."""
    assert sender.send(event(1), event(2)) == (200, {"code": 200, "num_records_imported": 2, "status": "OK"})
    assert server.ledger.accepted == 2


def test_a_400_is_a_partial_success(server: Sandbox, sender: Sender) -> None:
    """One invalid: 400 which names it by index and insert_id, and the others are imported."""
    assert sender.send(event(1), event(2, time="soon"), event(3)) == (
        400,
        {
            "code": 400,
            "error": "some data points in the request failed validation",
            "status": "Bad Request",
            "num_records_imported": 2,
            "failed_records": [
                {
                    "index": 1,
                    "insert_id": "event-2",
                    "field": "properties.time",
                    "message": "'properties.time' is invalid: must be specified as seconds since epoch",
                }
            ],
        },
    )
    assert list(server.ledger.events) == ["event-1", "event-3"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("lines", [False, True])
def test_every_documented_form_of_body_is_understood(
    server: Sandbox, sender: Sender, packed: bool, lines: bool
) -> None:
    """An array or NDJSON, plain or gzip: the ledger holds each event's own bytes."""
    events = [json.dumps(event(n), indent=None if lines else 1).encode() for n in range(3)]
    body = b"\n".join(events) + b"\n" if lines else b"[" + b" , ".join(events) + b"]"
    headers = {"Content_Type": "application/x-ndjson" if lines else "application/json; charset=utf-8"}
    if packed:
        headers["Content_Encoding"] = "gzip"
    status, _ = sender.send(body=gzip.compress(body) if packed else body, **headers)
    assert status == 200
    assert [entry.data for entry in server.ledger.events.values()] == events
    (exchange,) = server.ledger.requests
    assert (exchange.events, exchange.new, exchange.size_bytes) == (3, 3, len(body))


def test_a_chunked_body_is_understood(server: Sandbox, sender: Sender) -> None:
    """Senders that stream have no Content-Length."""
    body = json.dumps([event()]).encode()
    headers = TOKEN | {"Content-Type": "application/json"}
    sender.connection.request(
        "POST", "/import?strict=1", iter([body[:10], body[10:]]), headers, encode_chunked=True
    )
    response = sender.connection.getresponse()
    assert (response.status, json.loads(response.read())["num_records_imported"]) == (200, 1)
    assert sender.send(event(2))[0] == 200  # nothing of the first request is left on the connection


@pytest.mark.parametrize("framing", ["Content-Length: 500", "Transfer-Encoding: chunked"])
def test_a_body_that_breaks_off_is_not_taken(server: Sandbox, framing: str) -> None:
    """What a client sent before it went away in the middle of a request has never been sent."""
    line = json.dumps(event()) + "\n"
    chunk = f"{len(line):x}\r\n{line}\r\n" if "chunked" in framing else line
    auth = "Authorization: Basic sandbox-token:\r\nContent-Type: application/x-ndjson"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(
            f"POST /import?strict=1 HTTP/1.1\r\nHost: x\r\n{auth}\r\n{framing}\r\n\r\n{chunk}".encode()
        )
        client.shutdown(socket.SHUT_WR)
        answer = client.makefile("rb").read()
    assert b" 200 " not in answer
    assert (server.ledger.accepted, server.ledger.request_count) == (0, 0)


@pytest.mark.parametrize(
    ("query", "headers", "error"),
    [
        ("", TOKEN, None),
        ("", {"Authorization": "Basic sandbox-token:"}, None),
        ("&project_id=123", ACCOUNT, None),
        ("&project_id=123", {"Authorization": "Basic user:secret"}, None),
        ("", {}, "Invalid credentials"),
        ("", {"Authorization": "Bearer sandbox-token"}, "Invalid credentials"),
        ("", {"Authorization": "Basic !"}, "Invalid credentials"),
        ("", {"Authorization": "Basic wrong:"}, "Invalid credentials"),
        ("", {"Authorization": "Basic sandbox-token:password"}, "Invalid credentials"),
        ("&project_id=123", {"Authorization": "Basic user:wrong"}, "Invalid credentials"),
        ("&project_id=9", ACCOUNT, "Credentials in request did not match project_id URL parameter"),
        (
            "",
            ACCOUNT,
            "Unauthorized, invalid project secret. See docs for more information: "
            "https://developer.mixpanel.com/reference/authentication#project-secret",
        ),
    ],
)
def test_only_the_projects_credentials_pass(
    server: Sandbox, sender: Sender, query: str, headers: dict[str, str], error: str | None
) -> None:
    """A token with an empty password, or a service account with its project_id; all else is a 401."""
    body = json.dumps([event()]).encode()
    sent = headers | {"Content-Type": "application/json"}
    response = sender.ask("POST", "/import?strict=1" + query, body, sent)
    expected = {"code": 401, "error": error, "status": "Unauthorized"}
    assert response.status == (401 if error else 200)
    assert not error or json.loads(sender.text) == expected
    assert server.ledger.accepted == (0 if error else 1)


def test_paths_and_methods(server: Sandbox, sender: Sender) -> None:
    """A slash at the end changes nothing; other paths are a 404 and other methods a 405."""
    assert sender.send(event(), path="/import/?strict=1")[0] == 200
    assert sender.send(event(), path="/imports?strict=1")[0] == 404
    assert sender.ask("GET", "/import?strict=1", headers=TOKEN).status == 405
    assert sender.ask("HEAD", "/import?strict=1", headers=TOKEN).status == 405
    assert [exchange.status for exchange in server.ledger.requests] == [200, 404, 405, 405]


@pytest.mark.parametrize("query", ["", "strict=0"])
def test_requests_without_strict_get_the_legacy_answers(server: Sandbox, sender: Sender, query: str) -> None:
    """ "1" or "0", or with verbose=1 their JSON; and nothing is checked but the name."""
    assert sender.send(event(1, time="x"), path=f"/import?{query}") == (200, 1)
    assert sender.send({"event": ""}, path=f"/import?{query}") == (200, 0)
    assert sender.send(event(2), path=f"/import?verbose=1&{query}") == (200, {"status": 1, "error": None})
    status, answer = sender.send({"event": ""}, path=f"/import?verbose=1&{query}")
    assert (status, answer["status"]) == (200, 0)
    assert server.ledger.accepted == 2


def test_the_body_limit_counts_unpacked_bytes(server: Sandbox, sender: Sender) -> None:
    """A body above the limit is a 413 that names it, however small it was packed; at the limit it passes."""
    error = "request exceeds max limit of 100000 bytes"
    refused = (413, {"code": 413, "error": error, "status": "Request Entity Too Large"})
    body = json.dumps([event()]).encode().ljust(100_000)
    assert sender.send(body=body)[0] == 200
    assert sender.send(body=body + b" ") == refused
    assert sender.send(body=gzip.compress(body + b" "), Content_Encoding="gzip") == refused


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"[]", {}),
        (b'{"event":"a"}', {}),
        (b"[{", {}),
        (b"\x1f\x8b nonsense", {"Content_Encoding": "gzip"}),
        (b"[1]", {"Content_Encoding": "br"}),
        (b"[1]", {"Content_Type": "text/plain"}),
        (b"[" + b",".join([b"1"] * 2001) + b"]", {}),
    ],
    ids=["empty", "object", "cut short", "no gzip", "brotli", "text", "2001 events"],
)
def test_a_request_that_cannot_be_read_is_a_400_without_failed_records(
    server: Sandbox, sender: Sender, body: bytes, headers: dict[str, str]
) -> None:
    """What is wrong with the whole request is not blamed on single events."""
    status, answer = sender.send(body=body, **headers)
    assert (status, answer["code"], answer["status"]) == (400, 400, "Bad Request")
    assert "failed_records" not in answer
    assert server.ledger.requests[-1].status == 400


def test_two_thousand_events_pass_at_once(sender: Sender) -> None:
    """The limit itself is allowed."""
    body = b"[" + b",".join([b'"x"'] * 2000) + b"]"
    status, answer = sender.send(body=body)
    assert (status, answer["num_records_imported"], len(answer["failed_records"])) == (400, 0, 2000)


def test_identity_events_on_a_simplified_project_refuse_the_batch(server: Sandbox, sender: Sender) -> None:
    """They get a 400 whose failed records are strings, and nothing is imported."""
    status, answer = sender.send(event(1), {"event": "$identify", "properties": {}})
    assert (status, answer["num_records_imported"]) == (400, 0)
    assert answer["failed_records"] == [
        "identity events are not allowed when project is using simplified identity management"
    ]
    assert server.ledger.accepted == 0


def test_original_projects_require_a_distinct_id() -> None:
    """The kind of project is chosen when the sandbox is made."""
    without = event()
    del without["properties"]["distinct_id"]
    for project, expected in (("original", 400), ("simplified", 200)):
        with Sandbox(project=project) as server:
            sender = Sender(server.port)
            assert sender.send(without)[0] == expected
            sender.connection.close()
    with pytest.raises(ValueError, match="no kind of project"):
        Sandbox(project="other")


def test_every_answer_tells_the_time(sender: Sender) -> None:
    """The Date header is the server's clock."""
    date = parsedate_to_datetime(sender.ask("GET", "/").headers["Date"])
    assert abs(date.timestamp() - time.time()) < 5


def test_repeats_are_dropped_and_counted(server: Sandbox, sender: Sender) -> None:
    """The same bytes again are a repeat; other bytes are noticed, and another time makes another event."""
    first = event(1, plan="free")
    for again in (
        first,
        first,
        first | {"properties": first["properties"] | {"plan": "pro"}},
        event(1, time=10**9),
    ):
        assert sender.send(again)[0] == 200
    sender.send(event(2), event(2))
    ledger = server.ledger
    assert (ledger.accepted, ledger.repeats, ledger.reused, ledger.altered) == (3, 3, 1, 1)
    one, two = ledger.events["event-1"], ledger.events["event-2"]
    assert (one.copies, one.changed, json.loads(one.data)) == (4, True, first)
    assert (two.copies, two.changed) == (2, False)
    assert one.sha256 == hashlib.sha256(one.data).hexdigest()


def test_the_ledger_can_do_with_hashes() -> None:
    """Without the bytes it still tells repeats from changes."""
    with Sandbox(keep_data=False) as server:
        sender = Sender(server.port)
        for again in (event(1, time=10**9), event(1, time=10**9), event(2), event(2, plan="pro")):
            sender.send(again)
        entries = server.ledger.events
        sender.connection.close()
    assert {key: (entry.data, entry.copies, entry.changed) for key, entry in entries.items()} == {
        "event-1": (b"", 2, False),
        "event-2": (b"", 2, True),
    }
    assert entries["event-1"].sha256 == hashlib.sha256(json.dumps(event(1, time=10**9)).encode()).hexdigest()


def test_waiting_ends_with_the_change_waited_for(server: Sandbox, sender: Sender) -> None:
    """wait_for returns once its condition holds, and says what it saw when time runs out."""
    sent = threading.Thread(target=sender.send, args=(event(1), event(2)))
    sent.start()
    server.wait_for(lambda ledger: ledger.accepted == 2 and len(ledger.requests) == 1)
    sent.join()
    with pytest.raises(TimeoutError, match="'accepted': 2"):
        server.wait_for(lambda ledger: ledger.accepted == 3, timeout_s=0.01)


def test_many_connections_are_served_at_once_and_kept(server: Sandbox) -> None:
    """Requests on several connections lose nothing, and each connection serves request after request."""

    def send_all(first: int) -> None:
        sender = Sender(server.port)
        for number in range(first, first + 20):
            sender.send(event(number))
        sender.connection.close()

    threads = [threading.Thread(target=send_all, args=(start,)) for start in range(0, 160, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger = server.ledger
    assert (ledger.accepted, ledger.request_count, ledger.in_progress) == (160, 160, 0)
    assert len({exchange.connection for exchange in ledger.requests}) == 8


def test_a_hundred_thousand_events_are_kept(server: Sandbox, sender: Sender) -> None:
    """The ledger holds what a large test sends, and copies of it don't change any more."""
    now = int(time.time())
    sender.send(event())
    before = server.ledger.events
    for first in range(0, 100_000, 1000):
        line = '{{"event":"e","properties":{{"time":{},"distinct_id":"","$insert_id":"i{}"}}}}'
        body = "\n".join(line.format(now, number) for number in range(first, first + 1000)).encode()
        assert sender.send(body=body, Content_Type="application/x-ndjson")[0] == 200
    after = server.ledger.events
    assert (len(before), len(after), server.ledger.accepted) == (1, 100_001, 100_001)
