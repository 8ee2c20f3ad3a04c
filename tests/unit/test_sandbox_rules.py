"""The sandbox's reading of Mixpanel's strict rules."""

from __future__ import annotations

import gzip
import json

import pytest

from forwarder.sandbox import intake, rules
from forwarder.sandbox.rules import Event, Failure

NOW_S = 1_700_000_000.0
MISSING = object()


def event(name: object = "Signed Up", **properties: object) -> bytes:
    """An event that passes, but for the changes asked for; MISSING leaves a property out."""
    known: dict[str, object] = {"time": int(NOW_S), "distinct_id": "u-1", "$insert_id": "abc-123"}
    known |= {key.replace("insert_id", "$insert_id"): value for key, value in properties.items()}
    kept = {key: value for key, value in known.items() if value is not MISSING}
    return json.dumps({"event": name, "properties": kept}).encode()


def failure(data: bytes, project: str = rules.SIMPLIFIED) -> tuple[str, str] | None:
    verdict = rules.judge([data], NOW_S, project)
    assert len(verdict.events) + len(verdict.failures) + verdict.identity_events == 1
    return verdict.failures[0][2:] if verdict.failures else None


REFUSED = {
    "no name": (event(MISSING and None), "event", "'event' must not be missing or blank"),
    "blank name": (event("  "), "event", "'event' must not be missing or blank"),
    "no object": (b"17", "event", "'event' must not be missing or blank"),
    "no properties": (
        b'{"event":"a"}',
        "properties.time",
        "'properties.time' is invalid: must not be missing",
    ),
    "no time": (event(time=MISSING), "properties.time", "'properties.time' is invalid: must not be missing"),
    "time as text": (
        event(time="1700000000"),
        "properties.time",
        "'properties.time' is invalid: must be specified as seconds since epoch",
    ),
    "time as truth": (
        event(time=True),
        "properties.time",
        "'properties.time' is invalid: must be specified as seconds since epoch",
    ),
    "year 2100 in ms": (
        event(time=4102444800000),
        "properties.time",
        "'properties.time' is invalid: must not be in the future",
    ),
    "an hour and a second ahead": (
        event(time=int(NOW_S) + 3601),
        "properties.time",
        "'properties.time' is invalid: must not be in the future",
    ),
    "time larger than any float": (
        event(time=10**400),
        "properties.time",
        "'properties.time' is invalid: must not be in the future",
    ),
    "1970": (
        event(time=31_535_999),
        "properties.time",
        "'properties.time' is invalid: must not be before 1971-01-01",
    ),
    "no $insert_id": (event(insert_id=MISSING), "$insert_id", "'$insert_id' is invalid: must not be missing"),
    "$insert_id with a colon": (
        event(insert_id="a:b"),
        "$insert_id",
        "'$insert_id' is invalid: must only contain alphanumeric or hyphen '-' characters",
    ),
    "$insert_id with a newline": (
        event(insert_id="ab\n"),
        "$insert_id",
        "'$insert_id' is invalid: must only contain alphanumeric or hyphen '-' characters",
    ),
    "$insert_id too long": (
        event(insert_id="a" * 37),
        "$insert_id",
        "'$insert_id' is invalid: must not be longer than 36 bytes",
    ),
    "$insert_id nobody's": (
        event(insert_id="Undefined"),
        "$insert_id",
        "'$insert_id' is invalid: disallowed value",
    ),
    "distinct_id nobody's": (
        event(distinct_id="N/A"),
        "properties.distinct_id",
        "'properties.distinct_id' is invalid: disallowed value",
    ),
    "distinct_id a list": (
        event(distinct_id=[]),
        "properties.distinct_id",
        "'properties.distinct_id' is invalid: disallowed value",
    ),
    "broken UTF-8": (
        event(utm_source="x").replace(b'"x"', b'"\xff"'),
        "properties.utm_source",
        "properties.utm_source is invalid: string should be valid utf8",
    ),
    "256 properties": (
        event(**{f"p{n}": 1 for n in range(253)}),
        "properties",
        "'properties' is invalid: must not have more than 255 properties",
    ),
    "a list of 256": (
        event(tags=[1] * 256),
        "properties.tags",
        "'properties.tags' is invalid: must not have more than 255 members",
    ),
    "an object of 256 in a list": (
        event(tags=[{f"k{n}": 1 for n in range(256)}]),
        "properties.tags",
        "'properties.tags' is invalid: must not have more than 255 members",
    ),
    "more than 1 MB": (
        event(blob="x" * 1_000_000),
        "",
        "event is invalid: must be smaller than 1000000 bytes",
    ),
}


@pytest.mark.parametrize(("data", "field", "message"), REFUSED.values(), ids=REFUSED)
def test_what_breaks_a_rule_fails_with_mixpanels_field_and_words(
    data: bytes, field: str, message: str
) -> None:
    """Each rule refuses what breaks it, and names field and reason as Mixpanel does."""
    assert failure(data) == (field, message)


@pytest.mark.parametrize(
    "data",
    [
        event(),
        event(time=int(NOW_S * 1000)),
        event(time=NOW_S + 0.5),
        event(time=int(NOW_S) + 3600),
        event(time=int(NOW_S * 1000) + 3_600_000),
        event(time=31_536_000),
        event(time=631_152_000_000),
        event(distinct_id=""),
        event(distinct_id=MISSING),
        event(distinct_id="anonymous-1"),
        event(insert_id="a" * 36),
        event(insert_id="0123456789abcdef"),
        event(deep=[[[[[[[[[[1]]]]]]]]]]),
        event(**{f"p{n}": 1 for n in range(252)}),
        event(tags=[1] * 255),
        event(name="x").replace(b'"x"', b'"\\ud800"'),
        event("Größe"),
        event(blob="x" * 900_000),
    ],
    ids=lambda data: data[:100].decode(),
)
def test_what_breaks_no_rule_passes(data: bytes) -> None:
    """What is at a limit, or unusual but allowed, is taken."""
    assert failure(data) is None


def test_only_original_projects_require_distinct_id() -> None:
    """The kind of project decides whether distinct_id may be missing."""
    without = event(distinct_id=MISSING)
    message = "'properties.distinct_id' is invalid: must not be missing"
    assert failure(without, rules.SIMPLIFIED) is None
    assert failure(without, rules.ORIGINAL) == ("properties.distinct_id", message)


@pytest.mark.parametrize("name", ["$identify", "$create_alias", "$merge"])
def test_identity_events_depend_on_the_kind_of_project(name: str) -> None:
    """Simplified projects take no identity events; original ones do, even without time and $insert_id."""
    data = event(name, time=MISSING, insert_id=MISSING)
    assert rules.judge([event(), data], NOW_S, rules.SIMPLIFIED).identity_events == 1
    assert len(rules.judge([event(), data], NOW_S, rules.ORIGINAL).events) == 2


def test_the_fast_reading_and_the_careful_one_agree() -> None:
    """Whatever the fast reading lets pass, the careful one lets pass too, and as the same event."""
    passed = 0
    samples = [data for data, _, _ in REFUSED.values()]
    samples += [
        event(),
        event(distinct_id=""),
        event(time=NOW_S),
        event("é"),
        event(x=[1] * 300),
        event(x="\ud800"),
    ]
    samples += [event(insert_id=text) for text in ("-", "NULL", "é", "a b", "a" * 37, "")]
    samples += [
        event().replace(b'"time"', b'"time":"twice","time"'),
        event().replace(b"}}", b',"time":"twice"}}'),
        event().replace(b"1700000000", b"17e8"),
        event().replace(b"1700000000", b"-0"),
        event().replace(b"Signed Up", b"\\u0020"),
        event().replace(b"Signed Up", b"\\u0024merge"),
        event(x=1).replace(b'"x"', b'"\xc3\x28"'),
    ]
    for data in samples:
        quick = rules._clean(0, data, NOW_S + rules.AHEAD_S)
        if quick is not None:
            passed += 1
            assert rules._examine(0, data, NOW_S + rules.AHEAD_S, rules.ORIGINAL) == quick
    assert passed >= 5


def test_failures_and_events_keep_their_place_in_the_batch() -> None:
    """Indexes are positions in the batch, whatever came before."""
    verdict = rules.judge([event(), event(time="x", insert_id="bad-1"), event()], NOW_S)
    assert [found.index for found in verdict.events] == [0, 2]
    assert isinstance(verdict.events[0], Event)
    assert isinstance(verdict.failures[0], Failure)
    assert (verdict.failures[0].index, verdict.failures[0].insert_id) == (1, "bad-1")


def test_the_lenient_reading_takes_whatever_has_a_name() -> None:
    """Without strict=1 only events without a name are left out, and a missing $insert_id is made up."""
    verdict = rules.judge_leniently([event(time="x"), event(""), b"17", event(insert_id=MISSING)])
    assert [found.index for found in verdict.events] == [0, 3]
    assert len(verdict.events[1].insert_id) == 32


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("odd", ["", "\\ud800", "ü"])
def test_events_are_cut_out_of_a_body_byte_by_byte(lines: bool, odd: str) -> None:
    """Each event keeps the very bytes it was sent as, spaces and escapes included."""
    events = [b'{"a" : 1.50}', b'{ "b":"' + odd.encode() + b'","\\u0062":[ 1 ,{"x":"]"}] }', b'"], ["', b"[]"]
    body = b" \n" + b"\n\n".join(events) + b"\r\n" if lines else b" [ " + b" ,\n".join(events) + b" ] \n"
    assert intake.split(body, lines) == events


@pytest.mark.parametrize("body", [b'{"a":1} {"b":2}', b'{"a":\n1}', b'{"a":1}\n{"b"', b"1\n\xff"])
def test_a_line_is_one_event(body: bytes) -> None:
    """NDJSON is one JSON text a line, neither more nor less."""
    with pytest.raises(ValueError, match="line"):
        intake.split(body, lines=True)


@pytest.mark.parametrize(
    "body", [b"", b"[1", b"[1,]", b"[NaN]", b'["\x00"]', b"[1][2]", b'{"a":1}', b"[" * 100_000]
)
def test_a_body_that_is_no_json_array_is_refused(body: bytes) -> None:
    """Nothing is guessed from a body that is not JSON, or no array."""
    with pytest.raises((ValueError, RecursionError)):
        intake.split(body)


def test_gzip_is_read_up_to_the_limit_and_no_further() -> None:
    """A small body that unpacks to more than the limit is stopped; damage is told from size."""
    packed = gzip.compress(b"x" * 1000) + gzip.compress(b"y" * 1000)
    assert intake.gunzip(packed, 2000) == b"x" * 1000 + b"y" * 1000
    assert intake.gunzip(packed, 1999) is None
    for damaged in (packed[:-1], packed + b"z", b"plain", packed[:-8] + b"\0" * 8):
        with pytest.raises(ValueError, match="not valid gzip"):
            intake.gunzip(damaged, 10_000)
