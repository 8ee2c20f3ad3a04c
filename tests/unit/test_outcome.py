"""What each reply means: real bodies, hostile bodies, and none that passes for a yes by accident."""

import json
import time
from email.utils import formatdate
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder import records
from forwarder.delivery.wire import outcome as wire_outcome
from forwarder.delivery.wire.outcome import Reply
from forwarder.records.verdict import Outcome, Rejection, Verdict

NOW = 1_795_000_000.0
IDS = ["id-0", "id-1", "id-2", "id-3"]
EVENTS = [
    json.dumps({"event": "Test", "properties": {"time": 1, "distinct_id": "", "$insert_id": name}}).encode()
    for name in IDS
]
SETTLES = (Verdict.DELIVERED, Verdict.SHORT)
judge = partial(wire_outcome.judge, records.EVENTS)

# As documented or captured; see the sources beside each.
OK = b'{"code":200,"num_records_imported":2000,"status":"OK"}'  # Import Events
OK_4 = b'{"code":200,"num_records_imported":4,"status":"OK"}'
OLD_OK = b'{"status": 1, "error": null}'  # mixpanel-utils#20
UNAUTHORIZED = b'{"code":401,"error":"Invalid credentials","status":"Unauthorized"}'  # Import Events
TOO_LARGE = (
    b'{"code":413,"error":"request exceeds max limit of 2097152 bytes","status":"Request Entity Too Large"}'
)
TOO_LARGE_EDGE = (  # mixpanel-node#136
    b"<!DOCTYPE html>\n<html lang=en>\n<title>Error 413 (Request Entity Too Large)!!1</title>\n<p>"
)
THROTTLED = (
    b'{"code":429,"error":"Project exceeded rate limits. Please retry the request with exponential backoff.",'
    b'"status":"Too Many Requests"}'
)
OLD_THROTTLED = (  # mixpanel-node#231
    b'{"error":"Project exceeded rate limits. Please retry the request with exponential backoff.","status":0}'
)
UPSTREAM = b"upstream connect error or disconnect/reset before headers"  # mixpanel-node#149
OLD_FAILURE = b'{"status":0,"error":"a temporary failure occurred"}'  # mixpanel-python#80
NOT_SECONDS = "'properties.time' is invalid: must be specified as seconds since epoch"
IN_THE_FUTURE = "'properties.time' is invalid: must not be in the future"
IDENTITY = "identity events are not allowed when project is using simplified identity management"


def reply(status, body=b"", **headers):
    """A reply with *body* (JSON, unless bytes) and headers, received at NOW."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, body, "", NOW)


def partial(imported, *failed, **more):
    """The body of a strict-mode 400 (Troubleshooting: 400 Bad Request)."""
    return {
        "code": 400,
        "error": "some data points in the request failed validation",
        "status": "Bad Request",
        "num_records_imported": imported,
        "failed_records": list(failed),
    } | more


def failed(index, message=NOT_SECONDS, field="properties.time", **more):
    """One failed record, with the right id for its event."""
    name = IDS[index] if type(index) is int and 0 <= index < len(IDS) else "x"
    return {"index": index, "insert_id": name, "field": field, "message": message} | more


BARE_400 = {"code": 400, "error": "malformed JSON", "status": "Bad Request"}

TABLE = [
    # Delivered: every event accounted for.
    (200, OK_4, Verdict.DELIVERED),
    (200, {"code": 200, "num_records_imported": 4, "status": 1}, Verdict.DELIVERED),
    (200, {"num_records_imported": 4}, Verdict.DELIVERED),
    (200, {"code": 200, "num_records_imported": 4, "status": "OK", "failed_records": []}, Verdict.DELIVERED),
    (400, partial(3, failed(1)), Verdict.DELIVERED),
    (400, partial(0, *(failed(i) for i in range(4))), Verdict.DELIVERED),
    (400, partial(3, {"index": 1, "$insert_id": "id-1", "message": "no"}), Verdict.DELIVERED),
    (400, partial(3, {"index": 1, "message": "no"}), Verdict.DELIVERED),
    (400, partial(3, failed(1), failed(1, "'event' must not be blank", "event")), Verdict.DELIVERED),
    # Short: the figures do not add up.
    (200, OK, Verdict.SHORT),
    (200, {"code": 200, "num_records_imported": 3, "status": "OK"}, Verdict.SHORT),
    (200, {"code": 200, "num_records_imported": 0, "status": "OK"}, Verdict.SHORT),
    (400, partial(2, failed(1)), Verdict.SHORT),
    (400, partial(4, failed(1)), Verdict.SHORT),
    (400, partial(3, failed(1), failed(2)), Verdict.SHORT),
    (400, partial(2, failed(1), failed(1)), Verdict.SHORT),
    (400, partial(2**60, failed(1)), Verdict.SHORT),
    (400, partial(4), Verdict.SHORT),
    (400, partial(4, IDENTITY), Verdict.SHORT),
    (200, partial(4, "a warning"), Verdict.SHORT),
    (400, OK_4, Verdict.SHORT),
    # Short as well: all is accounted for, but the answer says two things.
    (200, partial(3, failed(1)), Verdict.SHORT),
    (200, {"code": 400, "num_records_imported": 4, "status": "OK"}, Verdict.SHORT),
    (200, {"code": 200, "num_records_imported": 4, "status": "Bad Request"}, Verdict.SHORT),
    (200, {"num_records_imported": 4, "status": "Internal Server Error"}, Verdict.SHORT),
    (400, partial("3", failed(1)), Verdict.SHORT),
    (400, partial(True, failed(1)), Verdict.SHORT),
    # Too large.
    (413, TOO_LARGE, Verdict.TOO_LARGE),
    (413, TOO_LARGE_EDGE, Verdict.TOO_LARGE),
    (413, b"", Verdict.TOO_LARGE),
    # Refused, nobody says which.
    (400, BARE_400, Verdict.REFUSED),
    (400, {"error": "malformed", "status": 0}, Verdict.REFUSED),
    (400, partial(0), Verdict.REFUSED),
    (400, partial(3), Verdict.REFUSED),
    (400, partial(0, IDENTITY), Verdict.REFUSED),
    (200, partial(0, IDENTITY), Verdict.REFUSED),
    (400, partial(0, failed_records="all of them"), Verdict.REFUSED),
    (400, partial(0, failed_records={"0": "no"}), Verdict.REFUSED),
    (400, partial(3, failed(1), None), Verdict.REFUSED),
    (400, partial(3, failed(4)), Verdict.REFUSED),
    (400, partial(3, failed(-1)), Verdict.REFUSED),
    (400, partial(3, {"index": True, "message": "no"}), Verdict.REFUSED),
    (400, partial(3, {"index": 1.0, "message": "no"}), Verdict.REFUSED),
    (400, partial(3, {"index": "1", "message": "no"}), Verdict.REFUSED),
    (400, partial(3, {"index": None, "message": "no"}), Verdict.REFUSED),
    (400, partial(3, {"message": "no"}), Verdict.REFUSED),
    (400, partial(3, failed(1, insert_id="id-2")), Verdict.REFUSED),
    (400, partial(3, failed(1, **{"$insert_id": "id-2"})), Verdict.REFUSED),
    (400, partial(3, failed(1), failed(1, insert_id="id-2")), Verdict.REFUSED),
    (400, partial(2, failed(1), failed(2, insert_id="id-1")), Verdict.REFUSED),
    (400, partial(3, failed(2**70)), Verdict.REFUSED),
    (400, partial(2, failed(1), IDENTITY), Verdict.REFUSED),
    # Throttled.
    (429, THROTTLED, Verdict.THROTTLED),
    (429, OLD_THROTTLED, Verdict.THROTTLED),
    (429, b"<html>", Verdict.THROTTLED),
    (504, b"Too many requests", Verdict.THROTTLED),
    # Unreachable: not Mixpanel's word, or "later".
    (201, OK_4, Verdict.UNREACHABLE),
    (202, OK_4, Verdict.UNREACHABLE),
    (226, OK_4, Verdict.UNREACHABLE),
    (200, b"<html><title>Sign in</title>", Verdict.UNREACHABLE),
    (200, b"", Verdict.UNREACHABLE),
    (200, b"1", Verdict.UNREACHABLE),
    (200, b"4", Verdict.UNREACHABLE),
    (200, b"\xef\xbb\xbf" + OK_4, Verdict.UNREACHABLE),
    (200, OLD_OK, Verdict.UNREACHABLE),
    (200, OLD_FAILURE, Verdict.UNREACHABLE),
    (200, [{"num_records_imported": 4}], Verdict.UNREACHABLE),
    (200, {"num_records_imported": 4, "status": 0}, Verdict.UNREACHABLE),
    (200, {"num_records_imported": 4, "error": "try again"}, Verdict.UNREACHABLE),
    (200, {"num_records_imported": 4, "code": 500}, Verdict.UNREACHABLE),
    (200, {"num_records_imported": True}, Verdict.UNREACHABLE),
    (200, {"num_records_imported": 4.0}, Verdict.UNREACHABLE),
    (200, {"num_records_imported": "4"}, Verdict.UNREACHABLE),
    (200, {"num_records_imported": -4}, Verdict.UNREACHABLE),
    (200, {"num_records_imported": None}, Verdict.UNREACHABLE),
    (200, UNAUTHORIZED, Verdict.UNREACHABLE),
    (204, b"", Verdict.UNREACHABLE),
    (400, b"<html><title>400 Bad Request</title>", Verdict.UNREACHABLE),
    (400, b"", Verdict.UNREACHABLE),
    (400, b"0", Verdict.UNREACHABLE),
    (400, {"message": "Bad Request"}, Verdict.UNREACHABLE),
    (400, {"code": 400, "message": "HTTP 400 Bad Request"}, Verdict.UNREACHABLE),
    (400, {"error": "invalid_request", "error_description": "sign in"}, Verdict.UNREACHABLE),
    (400, {"error": {"code": 400, "message": "no", "status": "INVALID_ARGUMENT"}}, Verdict.UNREACHABLE),
    (400, {"timestamp": 1, "status": 400, "error": "Bad Request", "path": "/"}, Verdict.UNREACHABLE),
    (408, b"", Verdict.UNREACHABLE),
    (421, b"", Verdict.UNREACHABLE),
    (425, b"", Verdict.UNREACHABLE),
    (500, b"", Verdict.UNREACHABLE),
    (502, UPSTREAM, Verdict.UNREACHABLE),
    (503, OK_4, Verdict.UNREACHABLE),
    (504, b"", Verdict.UNREACHABLE),
    (511, b"<title>Log in</title>", Verdict.UNREACHABLE),
    (100, b"", Verdict.UNREACHABLE),
    (103, OK_4, Verdict.UNREACHABLE),
    (999, b"", Verdict.UNREACHABLE),
    # Misconfigured: something a person must look at.
    (401, UNAUTHORIZED, Verdict.MISCONFIGURED),
    (403, b"<html><title>403 Forbidden</title>", Verdict.MISCONFIGURED),
    (403, {"error": "...", "status": "error"}, Verdict.MISCONFIGURED),
    (400, {"error": "invalid project id for cluster", "status": "error"}, Verdict.MISCONFIGURED),
    *((code, OK_4, Verdict.MISCONFIGURED) for code in (300, 301, 302, 303, 304, 307, 308)),
    *((code, b"", Verdict.MISCONFIGURED) for code in (402, 404, 405, 406, 407, 410, 411, 414, 415)),
    *((code, b"", Verdict.MISCONFIGURED) for code in (417, 418, 422, 426, 431, 440, 451, 495)),
]


@pytest.mark.parametrize(("status", "body", "kind"), TABLE)
def test_each_reply_means_what_the_table_says(status, body, kind):
    """Every reply that is documented, captured or imaginable falls under one row of the table."""
    outcome = judge(reply(status, body), EVENTS)

    assert outcome.verdict is kind
    assert (outcome.rejections == ()) or kind in SETTLES
    assert outcome.detail or kind is Verdict.DELIVERED


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b"1", Verdict.DELIVERED),
        (200, b" 1\n", Verdict.DELIVERED),
        (200, OLD_OK, Verdict.DELIVERED),
        (200, {"status": "OK", "code": 200}, Verdict.DELIVERED),
        (200, OK_4, Verdict.DELIVERED),
        (200, {"code": 200, "num_records_imported": 3, "status": "OK"}, Verdict.SHORT),
        (400, partial(3, failed(1)), Verdict.DELIVERED),
        (200, b"0", Verdict.UNREACHABLE),
        (200, b"true", Verdict.UNREACHABLE),
        (200, b"1.0", Verdict.UNREACHABLE),
        (200, OLD_FAILURE, Verdict.UNREACHABLE),
        (200, {"status": 1, "error": "but"}, Verdict.UNREACHABLE),
        (200, {"status": True, "error": None}, Verdict.UNREACHABLE),
        (200, {"status": 1, "num_records_imported": "4"}, Verdict.UNREACHABLE),
        (200, {"status": 1, "failed_records": [IDENTITY]}, Verdict.UNREACHABLE),
        (200, {"status": "OK"}, Verdict.UNREACHABLE),
        (200, b"<html>", Verdict.UNREACHABLE),
        (202, b"1", Verdict.UNREACHABLE),
        (500, b"1", Verdict.UNREACHABLE),
    ],
)
def test_without_strict_a_plain_yes_is_a_yes(status, body, kind):
    """With strict=0 Mixpanel answers 1 or 0 for all of them, and nothing else counts as a yes."""
    outcome = judge(reply(status, body), EVENTS, strict=False)

    assert outcome.verdict is kind
    if kind is Verdict.DELIVERED:
        assert outcome.imported + len(outcome.rejections) == len(EVENTS)


def test_no_answer_is_later_and_says_why():
    """When nothing came back, the reason is passed on in printable form."""
    outcome = judge(Reply(None, {}, b"", "DNS: no\x1b[2Jhost"), EVENTS)

    assert outcome == Outcome(Verdict.UNREACHABLE, "DNS: no\\x1b[2Jhost", is_doubtful=True)
    assert judge(Reply(None, {}, b""), EVENTS).detail == "no answer"


def test_rejections_carry_the_field_and_the_servers_words_in_the_events_order():
    """Each refused event is named once, with everything that was said about it."""
    body = partial(
        2, failed(3), failed(1, "first", "a"), failed(1, "second", "b"), failed(1, "first", "a"), {"index": 3}
    )

    outcome = judge(reply(400, body), EVENTS)

    assert outcome.verdict is Verdict.DELIVERED
    assert outcome.imported == 2
    assert outcome.rejections == (
        Rejection(1, "a; b", "first; second"),
        Rejection(3, "properties.time", NOT_SECONDS),
    )


def test_a_rejection_without_a_message_has_the_answers_error():
    """There is always a reason in the dead letters."""
    outcome = judge(reply(400, partial(3, {"index": 0, "field": 7, "message": None})), EVENTS)

    assert outcome.rejections == (Rejection(0, "", "some data points in the request failed validation"),)


def test_short_keeps_the_named_rejections_and_the_count():
    """What a short count does name is settled; the rest is sent again."""
    outcome = judge(reply(400, partial(2, failed(1))), EVENTS)

    assert (outcome.verdict, outcome.imported) == (Verdict.SHORT, 2)
    assert [rejection.index for rejection in outcome.rejections] == [1]
    assert outcome.detail == "Mixpanel counts 2 imported and names 1 refused, of 4 sent"


@pytest.mark.parametrize("event", [b"{}", b"not JSON", b'{"properties":{"$insert_id":7}}', b"[" * 100_000])
def test_an_event_without_an_id_can_not_be_contradicted(event):
    """The id is compared only where there are two."""
    outcome = judge(reply(400, partial(3, failed(0, insert_id="made up"))), [event, *EVENTS[1:]])

    assert outcome.verdict is Verdict.DELIVERED


def test_a_refusal_is_told_in_the_servers_own_words():
    """The dead letter that halving ends in shows what Mixpanel said."""
    outcome = judge(reply(400, partial(0, IDENTITY, IDENTITY)), EVENTS[:1])

    assert outcome.detail == f"{IDENTITY}; some data points in the request failed validation"


@pytest.mark.parametrize(
    ("body", "limit_bytes"),
    [
        (TOO_LARGE, 2097152),
        (b"max limit of 1 bytes", 1),
        (b"max limit of 0 bytes", None),
        (b"max limit of -5 bytes", None),
        (b"max limit of " + b"9" * 5000 + b" bytes", None),
        (TOO_LARGE_EDGE, None),
    ],
)
def test_the_size_limit_is_learned_from_the_message(body, limit_bytes):
    """A 413 that says how much it takes is believed; another is not guessed at."""
    assert judge(reply(413, body), EVENTS).limit_bytes == limit_bytes


@pytest.mark.parametrize(
    ("asked", "wait_s"),
    [
        ("7", 7.0),
        (" 1.5 ", 1.5),
        ("0", 0.0),
        ("86400", 3600.0),
        ("-1", None),
        ("1e9", None),
        ("inf", None),
        ("soon", None),
        ("٣", None),
        ("", None),
        ("9" * 5000, None),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW - 90, usegmt=True), None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
    ],
)
@pytest.mark.parametrize("status", [200, 400, 408, 429, 503])
def test_retry_after_is_honoured_within_reason(status, asked, wait_s):
    """Seconds or a date, never negative, never beyond an hour, wherever the answer is "later"."""
    assert judge(reply(status, b"", retry_after=asked), EVENTS).retry_after_s == wait_s


def test_a_retry_after_date_is_measured_by_the_servers_clock():
    """A wrong clock here doesn't turn a wait of a minute into a day."""
    theirs = NOW - 86400
    date, until = formatdate(theirs, usegmt=True), formatdate(theirs + 60, usegmt=True)

    assert judge(reply(503, b"", date=date, retry_after=until), EVENTS).retry_after_s == 60.0


@pytest.fixture
def elsewhere(monkeypatch):
    """Another time zone than UTC."""
    monkeypatch.setenv("TZ", "XXX-5:30")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("date", "skew_s"),
    [
        (formatdate(NOW, usegmt=True), 0.0),
        (formatdate(NOW - 600, usegmt=True), 600.0),
        (formatdate(NOW + 600, usegmt=True), -600.0),
        (formatdate(NOW, usegmt=True).replace("GMT", "-0000"), 0.0),
        (formatdate(NOW, usegmt=True).replace(" GMT", ""), 0.0),
        ("yesterday", None),
        ("", None),
        ("Mon, 99 Nov 99999999999999999999 00:00:00 GMT", None),
    ],
)
def test_the_date_header_tells_how_wrong_this_clock_is(date, skew_s, elsewhere):
    """Positive when this host is ahead, in any time zone; nothing when the header says nothing."""
    assert judge(reply(200, OK_4, date=date), EVENTS).clock_skew_s == skew_s
    for unknown in (0.0, float("inf"), float("nan")):
        assert judge(Reply(200, {"date": date}, OK_4, "", unknown), EVENTS).clock_skew_s is None


@pytest.mark.parametrize(
    ("ahead_s", "message", "kind"),
    [
        (7200, IN_THE_FUTURE, Verdict.MISCONFIGURED),
        (7200, NOT_SECONDS, Verdict.DELIVERED),
        (3500, IN_THE_FUTURE, Verdict.DELIVERED),
        (-7200, IN_THE_FUTURE, Verdict.DELIVERED),
    ],
)
def test_a_clock_an_hour_ahead_blocks_instead_of_condemning_every_event(ahead_s, message, kind):
    """Events from a host whose clock is far ahead are not at fault; nothing of them is settled."""
    date = formatdate(NOW - ahead_s, usegmt=True)

    outcome = judge(reply(400, partial(3, failed(1, message)), date=date), EVENTS)

    assert outcome.verdict is kind
    assert outcome.clock_skew_s == ahead_s
    if kind is Verdict.MISCONFIGURED:
        assert outcome.rejections == ()
        assert outcome.imported == 0
        assert "2.0 hours ahead" in outcome.detail


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://user:pw@login.example:8443/sso?ticket=secret#x", "login.example,"),
        ("/login?ticket=secret", "the same host,"),
        ("", "nowhere,"),
        ("http://[secret", "an unreadable address,"),
    ],
)
def test_a_redirect_shows_where_to_but_no_secret(location, shown):
    """The place a redirect leads to is told, without what it carries."""
    detail = judge(reply(302, b"", location=location), EVENTS).detail

    assert f"a redirect to {shown}" in detail
    assert "secret" not in detail
    assert "pw" not in detail


@pytest.mark.parametrize(
    ("status", "body", "headers", "told"),
    [
        (401, UNAUTHORIZED, {}, "Invalid credentials. Check the service account"),
        (
            403,
            b"<html><title>403\nForbidden</title>",
            {"content_type": "text/html; x"},
            "text/html: 403 Forbidden",
        ),
        (200, b"Welcome\x1b[31m " * 99, {"content_type": "text/plain"}, "text/plain: Welcome\\x1b[31m"),
        (200, b"", {}, "an empty body"),
        (
            200,
            OLD_OK,
            {"content_type": "application/json"},
            "does not account for the events: application/json",
        ),
        (400, b"\xff\xfe", {}, "not in Mixpanel's words: no content type"),
        (502, UPSTREAM, {}, "HTTP 502: no content type: upstream connect error"),
    ],
)
def test_a_person_is_told_what_came(status, body, headers, told):
    """The detail names what the server said or what kind of thing it was, in one printable line."""
    detail = judge(reply(status, body, **headers), EVENTS).detail

    assert told in detail
    assert detail.isprintable()


HOSTILE = [
    b"[" * 1_000_000,
    b'{"a":' * 1_000_000,
    b'{"num_records_imported":' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"num_records_imported":4,"error":' + b"[" * 900 + b"]" * 900 + b',"failed_records":[1]}',
    b'{"num_records_imported":1e400}',
    b'{"num_records_imported":' + b"9" * 100_000 + b"}",
    b'{"num_records_imported":' + b"9" * 4_000 + b"}",
    b'{"num_records_imported":NaN}',
    b'{"num_records_imported":18446744073709551620}',
    b'{"num_records_imported":3,"failed_records":[{"index":1e400}]}',
    b'{"num_records_imported":3,"failed_records":[{"index":' + b"9" * 4_000 + b"}]}",
    b'{"num_records_imported":3,"failed_records":[{"index":1,"message":"\\ud800"}]}',
    b'{"num_records_imported":3,"failed_records":[{"index":1,"message":"\xff"}]}',
    b'{"num_records_imported":3,"failed_records":[' + b"{}," * 1_000_000 + b"{}]}",
    b'{"error":{},"code":' + b"9" * 4_000 + b"}",
    b"<title" * 500_000,
]


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("status", [200, 400, 413, 503])
def test_a_hostile_body_is_never_a_yes_and_never_an_error(status, body):
    """Whatever an answer holds, it is judged, and not as delivered."""
    outcome = judge(reply(status, body), EVENTS)

    assert outcome.verdict is not Verdict.DELIVERED
    assert outcome.rejections == ()


@pytest.mark.timeout(3)
def test_a_flood_of_records_for_one_event_is_one_rejection_of_bounded_size():
    """A hundred thousand records about one large event cost one look at it, and the text stays short."""
    large = b'{"properties":{"$insert_id":"id","x":"' + b"y" * 1_000_000 + b'"}}'
    flood = [{"index": 0, "insert_id": "id", "message": f"\n{number}"} for number in range(60_000)]

    outcome = judge(reply(400, partial(0, *flood)), [large])

    assert outcome.verdict is Verdict.DELIVERED
    [rejection] = outcome.rejections
    assert len(rejection.message) == 300
    assert rejection.message.startswith("\\n0; \\n1; ")
    assert rejection.message.isprintable()


def test_the_last_of_two_equal_keys_counts():
    """A repeated key is no way round the count."""
    body = b'{"num_records_imported":4,"num_records_imported":3}'

    assert judge(reply(200, body), EVENTS).verdict is Verdict.SHORT


scalars = st.none() | st.booleans() | st.integers(-2, 6) | st.floats() | st.text(max_size=5)
records = st.fixed_dictionaries(
    {"index": st.integers(-1, 4) | scalars},
    optional={
        "insert_id": st.sampled_from(IDS) | scalars,
        "$insert_id": st.sampled_from(IDS) | scalars,
        "field": scalars,
        "message": scalars,
    },
)
members = {
    "code": st.sampled_from([200, 400, 401, 500]) | scalars,
    "status": st.sampled_from(["OK", "Bad Request", 0, 1]) | scalars,
    "error": scalars,
    "num_records_imported": st.integers(0, 5) | scalars,
    "failed_records": st.lists(records | scalars, max_size=5) | scalars,
}
answers = st.fixed_dictionaries({}, optional=members) | scalars | st.lists(scalars, max_size=3)
bodies = answers.map(lambda answer: json.dumps(answer).encode()) | st.binary(max_size=30)
statuses = st.sampled_from([200, 400]) | st.integers(-1, 1000) | st.none()
headers = st.dictionaries(
    st.sampled_from(["date", "retry-after", "location", "content-type"]), st.text(max_size=40)
)


def accounted_for(body):
    """The events that an answer accounts for, found by other means than the product's."""
    answer = json.loads(body)
    named = {record["index"] for record in answer.get("failed_records") or []}
    return answer["num_records_imported"] + len(named)


@settings(max_examples=60, deadline=None)
@given(statuses, headers, bodies, st.booleans(), st.floats())
def test_whatever_comes_is_judged_and_only_full_accounts_are_delivered(status, headers, body, strict, at):
    """No reply raises; DELIVERED means that every event is accounted for, in this very answer."""
    outcome = judge(Reply(status, headers, body, "", at), EVENTS, strict)

    assert outcome.detail.isprintable()
    assert (outcome.rejections == ()) or outcome.verdict in SETTLES
    assert outcome.retry_after_s is None or 0 <= outcome.retry_after_s <= 3600
    if outcome.verdict is Verdict.DELIVERED:
        assert status in (200, 400)
        assert outcome.imported + len({rejection.index for rejection in outcome.rejections}) == len(EVENTS)
        if strict:
            assert accounted_for(body) == len(EVENTS)


@pytest.mark.parametrize(
    ("status", "is_cut", "kind", "advice"),
    [
        (407, False, Verdict.MISCONFIGURED, ". The proxy asks for credentials"),
        (403, False, Verdict.MISCONFIGURED, ". Mixpanel's import does not answer 403"),
        (404, False, Verdict.MISCONFIGURED, ". Check mixpanel.url"),
        (400, False, Verdict.MISCONFIGURED, ". Check mixpanel.url"),
        (400, True, Verdict.UNREACHABLE, ""),
        (408, False, Verdict.UNREACHABLE, ""),
        (429, False, Verdict.UNREACHABLE, ""),
        (502, False, Verdict.UNREACHABLE, ""),
        (200, True, Verdict.UNREACHABLE, ""),
        (None, False, Verdict.UNREACHABLE, ""),
    ],
)
def test_a_proxy_that_refuses_the_connection_blocks_and_other_errors_wait(status, is_cut, kind, advice):
    """An error with 4xx is a proxy's; one that passes, one of a cut-off answer or without a status waits."""
    outcome = judge(Reply(status, {}, OK_4, "the proxy said no\n", is_cut=is_cut), EVENTS)

    assert outcome.verdict is kind
    assert outcome.detail.startswith(f"the proxy said no\\n{advice}")
    assert advice or outcome.detail == "the proxy said no\\n"


def test_a_proxy_in_between_is_named():
    """The line says which proxy an answer came from or through; a server alone needs no name."""
    places = [
        "the proxy squid:3128 (HTTP_PROXY)",
        "api:80 through the proxy squid:3128 (HTTP_PROXY)",
        "api:443",
    ]
    named = [judge(Reply(407, {}, b"", place=place), EVENTS).detail for place in places]

    for place, line in zip(places[:2], named, strict=False):
        assert line.startswith(f"HTTP 407 from {place}: an empty body. The proxy asks")
    assert named[2].startswith("HTTP 407: an empty body.")


def test_how_a_reply_came_is_told_with_its_meaning():
    """Status, time, a new connection and a cut-off answer are the reply's, also with the clock's verdict."""
    late = {"date": formatdate(NOW - 7200, usegmt=True)}
    for headers in ({}, late):
        body = json.dumps(partial(3, failed(1, IN_THE_FUTURE))).encode()
        outcome = judge(Reply(400, headers, body, "", NOW, took_s=1.5, is_fresh=True, is_cut=True), EVENTS)
        assert (outcome.status, outcome.took_s) == (400, 1.5)
        assert (outcome.is_fresh, outcome.is_cut) == (True, True)


@pytest.mark.parametrize(
    ("status", "body", "strict", "is_plain_no"),
    [
        (200, b"0", False, True),
        (200, OLD_FAILURE, False, True),
        (200, b"0", True, False),
        (200, b"1", False, False),
        (200, OK_4, False, False),
        (400, b"0", False, False),
        (503, b"0", False, False),
    ],
)
def test_a_plain_no_is_one_of_mixpanel_without_strict_mode(status, body, strict, is_plain_no):
    """Only 200 with 0, or with status 0, and only where events are not named one by one."""
    outcome = judge(reply(status, body), EVENTS, strict)

    assert outcome.is_plain_no is is_plain_no
    assert outcome.verdict is Verdict.UNREACHABLE or not is_plain_no
