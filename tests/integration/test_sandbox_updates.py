"""The sandbox's /track, /engage and /groups over real HTTP: what they answer, and what updates do."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import time
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from forwarder.sandbox import Fault, Sandbox


@pytest.fixture
def server():
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def ask(server):
    """Send a request; returns status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)

    def send(path: str, body: bytes = b"", method: str = "POST", **headers: str) -> tuple[int, bytes]:
        connection.request(
            method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
        )
        answer = connection.getresponse()
        return answer.status, answer.read()

    yield send
    connection.close()


def update(user: Any = "ada", **operations: Any) -> dict[str, Any]:
    return {"$token": "sandbox-token", "$distinct_id": user} | {
        f"${key}": value for key, value in operations.items()
    }


def packed(*items: Any) -> bytes:
    return json.dumps(items).encode()


def test_updates_are_applied_in_order(server, ask):
    """Each operation does what Mixpanel's docs say of it, in the order of the request."""
    updates = [
        *(update(set={"plan": "free", "seats": 1}), update(set_once={"plan": "pro", "since": 2020})),
        *(update(add={"seats": 2, "logins": 1}), update(append={"seen": "a"}), update(append={"seen": "a"})),
        *(update(union={"seen": ["a", "b"]}), update(remove={"seen": "a"}), update(unset=["since"])),
        *(update("bob", set={"x": 1}), update("bob", delete="")),
    ]
    assert ask("/engage", packed(*updates)) == (200, b"1")
    assert server.users.profiles == {("ada",): {"plan": "free", "seats": 3, "logins": 1, "seen": ["b"]}}
    assert [json.loads(each) for each in server.users.updates] == updates


def test_groups_have_two_ids(server, ask):
    """A group is known by its key and its id."""
    group = {"$token": "sandbox-token", "$group_key": "company", "$group_id": 7, "$set": {"size": 10}}
    assert ask("/groups/", packed(group)) == (200, b"1")
    assert server.groups.profiles == {("company", "7"): {"size": 10}}
    assert ask("/sandbox/groups", method="GET")[1] == b'{"ids":["company","7"],"profile":{"size":10}}\n'
    assert ask("/groups", packed(group | {"$group_key": ""})) == (200, b"0")


@pytest.mark.parametrize(
    "item", [{}, [], "x", update(), update("", set={}), update(set=1), update(add={"n": "1"})]
)
def test_what_is_not_valid(server, ask, item):
    """It is refused with 200 and 0; among valid ones it is passed over, and the answer is 1."""
    assert ask("/engage", packed(item)) == (200, b"0")
    status, body = ask("/engage?verbose=1", packed(item))
    assert (status, json.loads(body)["status"], bool(json.loads(body)["error"])) == (200, 0, True)
    assert (
        ask("/engage?strict=1", packed(item, update(set={"a": 1})))[1]
        == b'{"status":1,"error":null,"num_good_events":1}'
    )
    assert server.users.profiles == {("ada",): {"a": 1}}


def test_another_token_is_acknowledged_and_changes_nothing(server, ask):
    """As Mixpanel's 1 "does not signify a valid project token"."""
    assert ask("/engage", packed(update(set={"a": 1}) | {"$token": "other"})) == (200, b"1")
    assert server.users.profiles == {}


TEXT = "?>~ü+"  # has + and / in base64


@pytest.mark.parametrize(
    "form",
    [
        lambda text: (b"data=" + quote(text).encode(), {}),
        lambda text: (b"ip=0&data=" + base64.b64encode(text.encode()), {}),  # mixpanel-node, mixpanel-php
        lambda text: (
            urlencode({"data": base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")}).encode(),
            {},
        ),
        lambda text: (text.encode(), {"Content_Type": "application/x-www-form-urlencoded"}),  # curl -d
        lambda text: (gzip.compress(text.encode()), {"Content_Encoding": "gzip"}),
        lambda text: (b"[" + text.encode() + b"]", {}),
    ],
)
def test_forms_of_a_request(server, ask, form):
    """What SDKs send: JSON, forms, base64 with its + as it is, gzip."""
    body, headers = form(json.dumps(update(set={"text": TEXT})))
    assert ask("/engage", body, **headers) == (200, b"1")
    assert server.users.profiles == {("ada",): {"text": TEXT}}


def test_tracked_events(server, ask):
    """By GET, too. What is old is acknowledged and dropped; what has no token or name is not valid."""
    now = int(time.time())

    def event(insert_id: str, **properties: Any) -> dict[str, Any]:
        known = {"token": "sandbox-token", "time": now, "$insert_id": insert_id}
        return {"event": "E", "properties": known | properties}

    data = base64.b64encode(json.dumps(event("a")).encode()).decode()
    assert ask(f"/track?data={quote(data)}&verbose=1", method="GET") == (200, b'{"status":1,"error":null}')
    assert ask("/track", packed(event("b", time=now - 6 * 86400), event("a"))) == (200, b"1")
    assert ask("/track", packed({"event": "E", "properties": {}}, {"event": ""})) == (200, b"0")
    assert list(server.ledger.events) == ["a"]
    assert (server.ledger.repeats, server.ledger.events["a"].copies) == (1, 2)


def test_rubbish_is_refused(ask):
    """No JSON, no base64: 400, and why."""
    for body in (b"data=!!", b"[1", b"data=" + base64.b64encode(b"[1")):
        status, answer = ask("/track", body)
        assert (status, json.loads(answer)["code"]) == (400, 400)


def test_faults_work_there_too(server, ask):
    """An answer instead, a limited rate; and an update that was taken before its answer was lost."""
    server.inject(Fault.server_error(), times=1)
    assert ask("/engage", packed(update(set={"a": 1})))[0] == 503
    assert server.users.profiles == {}
    server.inject(Fault.rate_limit(1, retry_after_s=7), times=1)
    assert ask("/engage", packed(*[update(add={"n": 1})] * 5)) == (200, b"1")
    assert ask("/engage", packed(update(add={"n": 1})))[0] == 429
    server.clear()
    server.inject(Fault.reset_after(), times=1)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        ask("/engage", packed(update(add={"n": 1})))
    assert server.users.profiles == {("ada",): {"n": 6}}
