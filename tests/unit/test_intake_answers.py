"""What the intake answers, byte by byte, by what was asked."""

import json

import pytest

from forwarder.intake.answers import GIF, RETRY_AFTER_S, Answer, Asked

FAILED = [{"index": 1, "insert_id": "", "field": "properties.time", "message": "m"}]
INVALID = "some data points in the request failed validation"


def asked(path, parameters, with_scripts=False):
    pairs = dict(pair.split("=", 1) for pair in parameters.split("&") if pair)
    return Asked.by(path, pairs, with_scripts)


OUTCOMES = {
    "accepted": lambda it: it.accepted(2),
    "all malformed": lambda it: it.all_malformed("no name"),
    "partly": lambda it: it.partly_imported(2, FAILED),
    "full": lambda it: it.refused(503, "the disk is full"),
    "not JSON": lambda it: it.refused(400, "not JSON"),
}
UNAVAILABLE = b'{"status": 0, "error": "the disk is full", "code": 503}'
IMPORTED = b'{"code": 200, "num_records_imported": 2, "status": "OK"}'
NOT_JSON = b'{"status": 0, "error": "not JSON", "code": 400}'
STRICT_BODY = json.dumps(
    {
        "code": 400,
        "error": INVALID,
        "status": "Bad Request",
        "num_records_imported": 2,
        "failed_records": FAILED,
    }
).encode()
TABLE = [
    *((path, "", "accepted", 200, b"1") for path in ("/track", "/import", "/engage", "/groups")),
    *((path, "verbose=0", "all malformed", 200, b"0") for path in ("/track", "/engage", "/groups")),
    *((path, "", "full", 503, UNAVAILABLE) for path in ("/track", "/import", "/engage", "/groups")),
    *((path, "", "not JSON", 400, NOT_JSON) for path in ("/track", "/import", "/engage", "/groups")),
    ("/track", "verbose=1", "accepted", 200, b'{"status": 1, "error": null}'),
    ("/import", "verbose=1", "accepted", 200, b'{"status": 1, "error": null}'),
    ("/import", "verbose=1&strict=0", "accepted", 200, b'{"status": 1, "error": null}'),
    ("/track", "strict=1", "accepted", 200, b"1"),
    ("/track", "verbose=1", "all malformed", 200, b'{"status": 0, "error": "no name", "code": 200}'),
    ("/track", "verbose=1", "full", 503, UNAVAILABLE),
    ("/import", "strict=1", "accepted", 200, IMPORTED),
    ("/import", "strict=1&verbose=1", "accepted", 200, IMPORTED),
    ("/import", "strict=1", "partly", 400, STRICT_BODY),
    (
        "/import", "strict=1", "full", 503,
        b'{"code": 503, "error": "the disk is full", "status": "Service Unavailable"}',
    ),
    ("/import", "strict=1", "not JSON", 400, b'{"code": 400, "error": "not JSON", "status": "Bad Request"}'),
    ("/engage", "strict=1", "accepted", 200, b'{"status": 1, "error": null, "num_good_events": 2}'),
    ("/groups", "strict=1&verbose=1", "accepted", 200, b'{"status": 1, "error": null, "num_good_events": 2}'),
    (
        "/engage", "strict=1", "all malformed", 200,
        b'{"status": 0, "error": "no name", "code": 200, "num_good_events": 0}',
    ),
    ("/engage", "strict=1", "full", 503, UNAVAILABLE),
    ("/track", "img=1", "accepted", 200, GIF),
    ("/track", "img=1&verbose=1", "accepted", 200, GIF),
    ("/track", "img=1", "all malformed", 200, b"0"),
    ("/track", "img=1", "full", 503, UNAVAILABLE),
    ("/track", "callback=f", "accepted", 200, b"1"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "parameters", "outcome", "status", "body"), TABLE)
def test_the_answer_is_the_one_that_was_asked_for(path, parameters, outcome, status, body):
    """Each path, with each parameter that shapes the answer, and each outcome."""
    found = OUTCOMES[outcome](asked(path, parameters))
    assert (found.status, found.body) == (status, body)


@pytest.mark.parametrize(("path", "parameters", "outcome", "status", "body"), TABLE)
def test_each_refusal_is_what_clients_can_read_as_one(path, parameters, outcome, status, body):
    """With any other status than 200 the body is JSON with an error in words, and no status 1. Python's SDK
    dies without raising its own exception otherwise."""
    if status != 200:
        said = json.loads(body)
        assert said["error"]
        assert said["status"] != 1


def test_what_may_become_a_yes_comes_with_the_time_to_ask_again():
    """Only 503 does, and never with a status that clients take for good."""
    for path, parameters in (("/track", ""), ("/import", "strict=1"), ("/engage", "verbose=1")):
        it = asked(path, parameters)
        assert ("Retry-After", str(RETRY_AFTER_S)) in it.refused(503, "x").headers
        assert it.refused(400, "x").headers == ()


def test_a_script_gets_its_answer_only_if_pages_may_write():
    """The function is one that can't be anything else, and the type is that of scripts."""
    found = asked("/track", "callback=a.b[0]$_", with_scripts=True).accepted(1)
    assert (found.body, found.content_type) == (b"a.b[0]$_(1);", "text/javascript; charset=utf-8")
    found = asked("/track", "verbose=1&callback=f", with_scripts=True).refused(400, "x")
    assert found.body == b'f({"status": 0, "error": "x", "code": 400});'
    for name in ("f(1)//", "a b", "", "x" * 65, "é", "f\n"):
        assert asked("/track", f"callback={name}", with_scripts=True).accepted(1).body == b"1"
    assert asked("/track", "callback=f").accepted(1).content_type == "text/plain; charset=utf-8"


def test_the_image_is_one():
    """43 bytes, transparent, 1 by 1."""
    found = asked("/track", "img=1").accepted(1)
    assert (len(GIF), GIF[:6], GIF[6:10], found.content_type) == (43, b"GIF89a", b"\1\0\1\0", "image/gif")


def test_the_head_has_the_length_and_says_how_long_to_stay():
    """What always stands there, to the byte."""
    plain = asked("/track", "").accepted(1)
    common = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 1\r\n"
        b"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
    )
    staying = common + b"Connection: keep-alive\r\nKeep-Alive: timeout=290\r\n\r\n"
    assert plain.encoded(closing=False) == staying + b"1"
    assert plain.encoded(closing=False, without_body=True) == staying
    assert plain.encoded(closing=True) == common + b"Connection: close\r\n\r\n1"
    empty = Answer(204, headers=(("Vary", "Origin"),)).encoded(closing=True)
    assert b"Content-Length" not in empty
    assert empty.endswith(b"\r\nVary: Origin\r\n\r\n")
