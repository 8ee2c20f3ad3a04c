"""Fuzzed updates: whatever comes in is refused with a reason, or stored as it was written and fit to be sent.

``FORWARDER_CRASH_S=60`` tries 61 times as many.
"""

from __future__ import annotations

import json
import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.errors import EventError
from forwarder.records import GROUPS, PROFILES
from forwarder.records.verdict import Verdict
from forwarder.sandbox import updates as sandbox

# Read before the tests take this host's settings away.
MORE = 1 + int(float(os.environ.get("FORWARDER_CRASH_S") or 0))
NOW_MS = 1_700_000_000_000
QUEUE_ID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"

# JSON as text, so that spellings are known that no encoder would choose.
space = st.sampled_from(["", "", "", " ", "\t", "\r\n", "\n  "])
numbers = st.sampled_from(["0", "-0", "1.10", "1E+2", "9007199254740993", "9" * 400, "1e999"])
strings = st.sampled_from(['""', '"t"', '"é\\n"', r'"\u0041"', r'"\ud83d\ude00"', '"5"', r'"\""'])
odd = st.sampled_from(["true", "null", "NaN", r'"\ud800"', "[]", "{}", "[1"])
names = st.sampled_from(["a", "b", r"\u0061", "é", "$time", ""]).map('"{}"'.format)


def joined(opening, members, closing):
    return st.tuples(st.lists(members, max_size=3), space).map(
        lambda found: f"{opening}{found[1]}{f'{found[1]},'.join(found[0])}{closing}"
    )


def objects(of):
    return joined("{", st.tuples(names, space, of).map(lambda found: f"{found[0]}:{found[1]}{found[2]}"), "}")


texts = st.recursive(numbers | strings | odd, lambda of: joined("[", of, "]") | objects(of), max_leaves=4)
ids = st.sampled_from(['"ada"', "7", "7.0", "1e999", "9" * 400]) | texts
tokens = st.sampled_from(['"t"'] * 6) | texts
operations = st.sampled_from(
    ["$set", r"$s\u0065t", "$set_once", "$add", "$append", "$union", "$remove", "$unset", "$delete", "$new"]
)


@st.composite
def updates(draw):
    """The text of an update of a profile or a group: often a good one, at times damaged."""
    known = draw(st.sampled_from([["$distinct_id"], ["$group_key", "$group_id"]]))
    found = draw(st.lists(operations, min_size=0, max_size=2))
    members = [f'"$token":{draw(tokens)}', *(f'"{name}":{draw(ids)}' for name in known)]
    members += [f'"{name}":{draw(objects(numbers | strings) | texts)}' for name in found]
    members += draw(st.lists(st.tuples(names, texts).map(":".join), max_size=1))
    text = f"{draw(space)}{{{(draw(space) + ',').join(draw(st.permutations(members)))}{draw(space)}}}"
    data = bytearray(text.encode())
    for _ in range(draw(st.sampled_from([0] * 6 + [1, 2]))):
        place, length = draw(st.integers(0, len(data))), draw(st.integers(0, 3))
        data[place : place + length] = draw(
            st.binary(max_size=3) | st.sampled_from([b'"', b"}", b",", b"\\"])
        )
    return bytes(data)


class Written(str):
    """A number as it was written."""


def pairs(data):
    """What a JSON text says, each number as it was written and each member in its place."""
    return json.JSONDecoder(parse_int=Written, parse_float=Written, object_pairs_hook=list).decode(
        data.decode()
    )


def check_stored(kind, line, stored):
    """*stored* is fit to be sent, and says what *line* says, in the same letters."""
    assert not re.search(rb"[\r\n]", stored)
    given, kept = pairs(line.strip()), pairs(stored)
    if "$time" not in dict(given):
        assert kept.pop(0)[0] == "$time"
    assert kept == given
    assert stored.endswith(line.strip().translate(bytes.maketrans(b"\r\n", b"  "))[1:])
    assert kind.lane(stored).key == kind.lane(line.strip()).key
    assert kind.name_of(stored)[0]


@pytest.mark.parametrize("kind", [PROFILES, GROUPS], ids=["profile", "group"])
@settings(max_examples=40 * MORE, deadline=None)
@given(updates() | st.binary(max_size=40), st.booleans())
def test_an_update_is_refused_with_a_reason_or_kept_as_written(kind, line, rules):
    """Only an EventError is raised, in one printable line; what is taken is one line that says the same, and
    what the rules let pass is valid for the sandbox."""
    try:
        stored = kind.accept(line, NOW_MS, rules)
    except EventError as error:
        stored, reason = b"", str(error)
    else:
        reason = ""
    assert reason.isprintable()
    assert reason or stored
    if reason:
        return
    check_stored(kind, line, stored)
    assert kind.accept(stored, NOW_MS + 1, rules) == stored
    if rules:
        taking = sandbox.users("t") if kind is PROFILES else sandbox.groups("t")
        assert taking.take([stored]) == (1, "")


@settings(max_examples=30 * MORE, deadline=None)
@given(
    updates() | updates().map(lambda data: data.decode("utf-8", "surrogateescape")) | st.from_type(object),
    st.floats(0, 1e11),
    st.integers(1, 2**63 - 1),
)
def test_an_external_row_is_refused_with_a_reason_or_completed(data, put_at, row_id):
    """What stands in a row is no update, with a reason, or an update with the same bytes each time."""
    try:
        stored = PROFILES.complete(data, put_at, QUEUE_ID, row_id)
    except EventError:
        return
    line = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    check_stored(PROFILES, line, stored)
    assert PROFILES.complete(data, put_at, QUEUE_ID, row_id) == stored


@settings(max_examples=30 * MORE, deadline=None)
@given(updates() | st.binary(max_size=40), st.text(max_size=5))
def test_any_bytes_can_be_read(data, user):
    """Names, ids and lanes are found in any bytes, or not; nothing raises."""
    for kind in (PROFILES, GROUPS):
        assert all(isinstance(each, str) for each in kind.name_of(data))
        assert isinstance(kind.concerns(data, user), bool)
        hash(kind.lane(data).key)
        assert kind.is_final(data) is kind.are_final(data + b"\n", 1) or b"\n" in data or data[:1] != b"{"


bodies = st.sampled_from([b"1", b"0", b'{"status":1,"error":null}', b'{"status":0,"error":"no"}', b"{}"])


@settings(max_examples=40 * MORE, deadline=None)
@given(bodies | bodies.map(lambda body: body[:-1]) | st.binary(max_size=30) | texts.map(str.encode))
def test_an_acknowledgement_is_never_found_by_accident(body):
    """Judging raises nothing; only 1 and its verbose form deliver, and only with 200."""
    for status in (200, 400):
        outcome = PROFILES.judge(status, body, [b"{}"], False, str)
        if outcome.verdict is Verdict.DELIVERED:
            assert status == 200
            assert json.loads(body) in (1, {"status": 1, "error": None})
            assert json.loads(body) is not True
