"""Mutated real answers: whatever comes of them, judging raises nothing, and only a full account is a yes.

``FORWARDER_CRASH_S=60`` tries 61 times as many.
"""

import json
import math
import os
import re
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder import records
from forwarder.delivery.wire import outcome as wire_outcome
from forwarder.delivery.wire.outcome import Reply
from forwarder.records import mixpanel_json
from forwarder.records.event import judgement
from forwarder.records.verdict import Verdict

# Read before the tests take this host's settings away.
MORE = 1 + int(float(os.environ.get("FORWARDER_CRASH_S") or 0))
IDS = ["id-0", "id-1", "id-2"]
EVENTS = [b'{"event":"A","properties":{"time":1,"$insert_id":"%s"}}' % name.encode() for name in IDS]
SETTLES = (Verdict.DELIVERED, Verdict.SHORT)
judge = partial(wire_outcome.judge, records.EVENTS)
TIME = "'properties.time' is invalid: must be specified as seconds since epoch"


def partial(imported, *records):
    return {
        "code": 400,
        "error": "some data points in the request failed validation",
        "status": "Bad Request",
        "num_records_imported": imported,
        "failed_records": list(records),
    }


def record(index, key="insert_id", **more):
    return {"index": index, key: IDS[index], "field": "properties.time", "message": TIME} | more


# As documented or captured ("Import Events", "Troubleshooting", and the issues of Mixpanel's SDKs).
BODIES = [
    {"code": 200, "num_records_imported": 3, "status": "OK"},
    {"code": 200, "num_records_imported": 2, "status": 1},
    {"num_records_imported": 1},
    {"status": 1, "error": None},
    {"status": 0, "error": "a temporary failure occurred"},
    1,
    0,
    partial(2, record(1)),
    partial(1, record(0), record(2, "$insert_id")),
    partial(0, *map(record, range(3))),
    partial(2, record(0), record(0, field="event", message="'event' must not be missing or blank")),
    partial(0, "identity events are not allowed when project is using simplified identity management"),
    {"code": 400, "error": "Bad Request", "status": "Bad Request"},
    {"code": 401, "error": "Invalid credentials", "status": "Unauthorized"},
    {
        "code": 413,
        "error": "request exceeds max limit of 2097152 bytes",
        "status": "Request Entity Too Large",
    },
    {
        "error": "Project exceeded rate limits. Please retry the request with exponential backoff.",
        "status": 0,
    },
]
ACCOUNTS = [body for body in BODIES if isinstance(body, dict) and "num_records_imported" in body]
PAGES = [b"upstream connect error or disconnect/reset before headers", b"<html><title>Sign in</title>", b""]

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-2, 5)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from([*IDS, "OK", "\x1b[2J", 2**63, "x" * 900, "must not be in the future"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)
KEYS = [
    "code",
    "status",
    "error",
    "num_records_imported",
    "failed_records",
    "index",
    "insert_id",
    "$insert_id",
]


def places(value):
    """Every object and array in *value*."""
    if isinstance(value, (dict, list)):
        yield value
        for member in value.values() if isinstance(value, dict) else value:
            yield from places(member)


@st.composite
def altered(draw):
    """A real body in which up to three members have been replaced, added, taken away or repeated."""
    body = json.loads(json.dumps(draw(st.sampled_from([*BODIES, *ACCOUNTS * 6]))))
    for _ in range(draw(st.sampled_from([0, 1, 1, 2]))):
        found = list(places(body))
        if not found:
            break
        where = draw(st.sampled_from(found))
        if isinstance(where, dict):
            key = draw(st.sampled_from([*where, *KEYS]))
            where[key] = draw(values)
            if draw(st.booleans()):
                del where[key]
        elif where:
            place = draw(st.integers(0, len(where) - 1))
            where[place : place + 1] = draw(st.sampled_from([[], [where[place]] * 2, [draw(values)]]))
    return json.dumps(body).encode()


@st.composite
def damaged(draw):
    """A real body with bytes overwritten, cut out or repeated."""
    body = bytearray(draw(st.sampled_from([*(json.dumps(body).encode() for body in BODIES), *PAGES])))
    for _ in range(draw(st.integers(1, 3))):
        start, length = draw(st.integers(0, len(body))), draw(st.integers(0, 12))
        body[start : start + length] = draw(
            st.sampled_from([b"", bytes(body[start : start + length]) * 2]) | st.binary(max_size=4)
        )
    return bytes(body)


bodies = altered() | damaged()
statuses = st.sampled_from([*[200, 400] * 10, None, 202, 204, 302, 401, 403, 404, 408, 413, 429, 500, 504])
headers = st.dictionaries(
    st.sampled_from(["date", "retry-after", "location", "content-type"]),
    st.text(max_size=12)
    | st.sampled_from(["Mon, 23 Nov 2026 09:00:00 GMT", "7", "1e9", "http://[", "http://u:p@h/?s"]),
    max_size=3,
)


def account(body, sent):
    """Whether *body* accounts for each of so many events, and which it names; read naively."""
    said = json.loads(body)
    failed = said.get("failed_records") or []
    named = {one["index"] for one in failed}
    assert all(type(index) is int and 0 <= index < sent for index in named)
    for one in failed:
        claims = [one.get(key) for key in ("insert_id", "$insert_id")]
        assert all(claim in ("", IDS[one["index"]]) for claim in claims if isinstance(claim, str))
    count = said.get("num_records_imported")
    return (count if type(count) is int and count > 0 else 0) + len(named) == sent, named


@settings(max_examples=80 * MORE, deadline=None)
@given(statuses, headers, bodies, st.booleans(), st.floats(), st.sampled_from([1, 2, 3, 3, 3]))
def test_no_altered_answer_raises_or_says_yes_by_accident(status, sent_headers, body, strict, at, sent):
    """Any reply is judged; it settles only what it accounts for or names, and tells it in bounded text."""
    outcome = judge(Reply(status, sent_headers, body, "gone\n", at), EVENTS[:sent], strict)

    indexes = [rejection.index for rejection in outcome.rejections]
    assert indexes == sorted(set(indexes))
    assert all(0 <= index < sent for index in indexes)
    assert outcome.verdict in SETTLES or not indexes
    texts = [outcome.detail, *(text for one in outcome.rejections for text in (one.field, one.message))]
    assert all(text.isprintable() and len(text) < 600 for text in texts)
    assert outcome.detail or outcome.verdict is Verdict.DELIVERED
    assert outcome.imported >= 0
    assert outcome.limit_bytes is None or outcome.limit_bytes > 0
    assert outcome.retry_after_s is None or 0 <= outcome.retry_after_s <= wire_outcome.RETRY_AFTER_MAX_S
    assert outcome.clock_skew_s is None or math.isfinite(outcome.clock_skew_s)
    if outcome.verdict in SETTLES:
        assert status in (200, 202, 204, 400)
    if outcome.verdict is Verdict.DELIVERED and (
        strict or status != 200 or b'"num_records_imported"' in body
    ):
        is_full, named = account(body, sent)
        assert is_full
        assert named == set(indexes)


@settings(max_examples=30 * MORE, deadline=None)
@given(st.sampled_from([200, 400]), bodies)
def test_an_answer_is_a_yes_to_one_number_of_events_at_most(status, body):
    """An answer that accounts for a batch accounts for no other number of events."""
    kinds = [judge(Reply(status, {}, body), EVENTS[:sent]).verdict for sent in (1, 2, 3)]

    assert kinds.count(Verdict.DELIVERED) <= 1


@settings(max_examples=30 * MORE, deadline=None)
@given(values, headers, st.floats(), st.integers(1, 400), st.binary(max_size=60))
def test_readers_of_answers_take_anything(value, sent_headers, at, limit, event):
    """No part of an answer, and no event, makes its reader raise; what is shown is printable and bounded."""
    body = json.dumps(value).encode()
    told = [wire_outcome.words(sent_headers, body), mixpanel_json.shown(repr(value), limit)]
    if isinstance(value, dict):
        told.append(judgement._complaint(value, str))
        assert mixpanel_json.is_mixpanels(value) in (True, False)
        assert judgement._imported(value) is None or judgement._imported(value) >= 0
    assert isinstance(mixpanel_json.error_of(value), str)
    assert not (mixpanel_json.is_plain_yes(value) and mixpanel_json.is_plain_no(value))
    assert wire_outcome.clock_skew_s(sent_headers, at) is None or math.isfinite(at)
    wait_s = wire_outcome.retry_after_s(sent_headers, at)
    assert wait_s is None or 0 <= wait_s <= wire_outcome.RETRY_AFTER_MAX_S
    host = wire_outcome.host_of(sent_headers.get("location", ""))
    assert not re.search("u:p|[?]s", host)
    assert all(
        text.isprintable() and len(text) <= mixpanel_json.TEXT_MAX for text in (*told[:1], *told[2:], host)
    )
    assert len(told[1]) <= limit
    for data in (event, body, b'{"properties":{"$insert_id":%s}}' % body):
        assert all(isinstance(found, str) for found in records.EVENTS.name_of(data))
