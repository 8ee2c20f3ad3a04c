"""Fuzzed events: whatever comes in is refused with a reason, or stored as it was written and fit to be sent.

``FORWARDER_CRASH_S=60`` tries 61 times as many; with 400 it is two million in the comparison of the readings.
"""

import gzip
import json
import os
import random
import re
import tempfile

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.errors import EventError, InputError
from forwarder.records.event import accept, accept_many, complete
from forwarder.records.event.acceptance import _read_carefully as read_carefully
from forwarder.records.event.acceptance import _read_fast as read_fast
from forwarder.records.event.rules import MAX_EVENT_BYTES
from forwarder.records.reading import Source, read_chunks
from forwarder.sandbox import rules as mixpanel

# Read before the tests take this host's settings away.
MORE = 1 + int(float(os.environ.get("FORWARDER_CRASH_S") or 0))
NOW_MS = 1_700_000_000_000
ID = "0123456789abcdef0123456789abcdef"
QUEUE_ID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
raw_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

# JSON as text, so that spellings are known that no encoder would choose.
space = st.sampled_from(["", "", "", " ", "\t", "\r\n", "\n  "])
# Not -0: the stand-in reads it as 0, which no distinct_id may be.
spellings = st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
numbers = st.sampled_from(["1.0", "-0.0", "1.10", "1E+2", "0e0", "9007199254740993"]) | spellings.filter(
    "-0".__ne__
)
good = [
    *"aZ09 é日\u2028\x7f\U0001f600{}[],:/",
    r"\"",
    r"\\",
    r"\/",
    r"\n",
    r"\u0000",
    r"\u00e9",
    r"\ud83d\ude00",
]
bad = [r"\ud800", "\n", "\x00", r"\x"]
characters = st.sampled_from([*good * 6, *bad])
strings = st.lists(characters, max_size=5).map(lambda parts: f'"{"".join(parts)}"')
words = st.sampled_from(
    ["true", "null", '"null"', "1600000000", '"user-1"', "9" * 400] * 4 + ["NaN", "-Infinity"]
)
known = [*["time", "$insert_id", "distinct_id"] * 2, r"ti\u006de", "a", "b", "é", r"\"", "", r"\u0000", "x y"]
names = st.sampled_from(known).map('"{}"'.format)


def joined(opening, members, closing):
    return st.tuples(st.lists(members, max_size=4), space).map(
        lambda found: f"{opening}{found[1]}{f'{found[1]},'.join(found[0])}{closing}"
    )


def objects(of):
    return joined("{", st.tuples(names, space, of).map(lambda found: f"{found[0]}:{found[1]}{found[2]}"), "}")


texts = st.recursive(numbers | strings | words, lambda of: joined("[", of, "]") | objects(of), max_leaves=6)
properties = objects(texts)
titles = st.sampled_from([*['"A"', r'"\u0041é"'] * 5, '" "', "7"]) | strings


@st.composite
def events(draw):
    """The text of an event: often a good one, at times with members that don't belong there, or damaged."""
    members = [f'"event":{draw(titles)}', f'"properties":{draw(space)}{draw(properties)}']
    members += draw(st.lists(st.tuples(names, texts).map(":".join), max_size=1))
    text = f"{draw(space)}{{{','.join(draw(st.permutations(members)))}{draw(space)}}}{draw(space)}"
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
    found = json.JSONDecoder(parse_int=Written, parse_float=Written, object_pairs_hook=list).decode(
        data.decode()
    )
    return dict(found), dict(found)["properties"]


def check_stored(line, stored):
    """*stored* is fit to be sent, and says what *line* says, in the same letters."""
    assert not re.search(rb"[\r\n]", stored)
    assert len(stored) <= MAX_EVENT_BYTES
    members, given = pairs(line.strip())
    kept, props = pairs(stored)
    assert members["event"].strip()
    assert [name for name, _ in props].count("time") == [name for name, _ in props].count("$insert_id") == 1
    assert [name for name, _ in props].count("distinct_id") <= 1
    missing = {"time", "$insert_id"} - {name for name, _ in given}
    time = dict(given).get("time")
    if isinstance(time, Written) and time != dict(props)["time"]:
        # The one thing that is written again: a time with a fraction, or too large for milliseconds.
        assert re.search("[.eE]|[0-9]{15}", time)
        given = [(name, dict(props)["time"] if name == "time" else value) for name, value in given]
        line = stored
    assert [pair for pair in props if pair[0] not in missing] == given
    assert {name: value for name, value in kept.items() if name != "properties"} == {
        name: value for name, value in members.items() if name != "properties"
    }
    written = bytes(raw_members(line)["properties"]).translate(bytes.maketrans(b"\r\n", b"  "))
    assert bytes(raw_members(stored)["properties"]).endswith(written[1:])


@settings(max_examples=60 * MORE, deadline=None)
@given(events() | st.binary(max_size=40), st.booleans())
def test_an_event_is_refused_with_a_reason_or_kept_as_written(line, rules):
    """Only an EventError is raised, in one printable line; what is taken is one line that says the same."""
    try:
        stored = accept(line, NOW_MS, rules, ID)
    except EventError as error:
        reason = str(error)
    else:
        reason = ""
    assert reason.isprintable()
    if reason:
        return
    check_stored(line, stored)
    assert accept(stored, NOW_MS, rules) == stored
    if rules:
        [event] = mixpanel.judge([stored], NOW_MS / 1000).events
        assert event.data == stored


ORDINARY = [
    b'{"event":"A b","properties":{"time":1600000000,"$insert_id":"a-1","distinct_id":"u-1","n":-1.5e3}}',
    b'{"event": "A", "properties": {"distinct_id": 17, "s": "\\u00e9\\n\\"", "t": "caf\xc3\xa9", "u": null}}',
    b'{"event":"A","properties":{"time":1600000000.25,"o":{"q":[1,[2,{"time":[]}],"}"],"e":{}},"l":[true]}}',
    b'{"properties":{"$insert_id":"a-1","o":[{"a":1},{"a":1}],"emoji":"\\ud83d\\ude00"},"event":"\\u0041"}',
    b'{"event":"A","properties":{"deep":%s1%s,"many":[%s]}}'
    % (b"[" * 97, b"]" * 97, b",".join([b"1"] * 255)),
]
PIECES = [
    *(bytes([byte]) for byte in b'"\\{}[]:, \t\r\0\xff-.0'),
    b"\xed\xa0\x80", b"1e999", b"9" * 20, b"null", b"NaN", b'""', b'"\\ud800"', b"\\u007", b"[1,", b"]]",
    b'"event":"B",', b'"time":1,', b'"properties":{},', b'"$insert_id":"b",', b'"distinct_id":"0",',
    b'"ti\\u006de":2,', b'"a":1,"a":2,', b'"time"',
]  # fmt: skip


def test_the_fast_reading_takes_nothing_that_the_careful_one_would_not():
    """Of ordinary events damaged at random, what passes without the careful reading passes it, too, and gets
    the same bytes."""
    chance = random.Random(16)
    taken = 0
    for _ in range(5000 * MORE):
        line = bytearray(chance.choice(ORDINARY))
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(line))
            line[at : at + chance.choice((0, 0, 1, 2, 8))] = chance.choice(PIECES)
        text, rules = bytes(line), chance.random() < 0.7
        if read_fast(text.strip(), NOW_MS, rules) is None:
            continue
        taken += 1
        stored = accept(text, NOW_MS, rules, ID)
        check_stored(text, stored)
        careful, _head, _tail, *has = read_carefully(text.strip(), NOW_MS, rules)
        if all(has):
            assert stored == careful.replace(b"\r", b" ").replace(b"\n", b" "), text
    assert taken > 400 * MORE


@settings(max_examples=30 * MORE, deadline=None)
@given(
    events() | events().map(lambda data: data.decode("utf-8", "surrogateescape")) | st.from_type(object),
    st.floats(0, 1e11),
    st.integers(1, 2**63 - 1),
)
def test_a_strangers_row_is_refused_with_a_reason_or_completed(data, put_at, row_id):
    """Whatever stands in a row, it is no event, with a reason, or an event with the same bytes each time."""
    try:
        stored = complete(data, put_at, QUEUE_ID, row_id)
    except EventError:
        return
    check_stored(data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data, stored)
    assert complete(data, put_at, QUEUE_ID, row_id) == stored


def read(data):
    """The lines of a file of *data*, numbered, and the end it came to."""
    found = []
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        try:
            for chunk in read_chunks(Source(file.fileno()), MAX_EVENT_BYTES):
                assert chunk.numbers == range(len(found) + 1, len(found) + len(chunk.lines) + 1)
                found += chunk.lines
                assert all(number in chunk.numbers for number, _, _ in chunk.refused)
        except InputError as error:
            return found, str(error)
    return found, ""


@settings(max_examples=20 * MORE, deadline=None)
@given(
    st.lists(events().map(lambda data: data.replace(b"\n", b" ")) | st.binary(max_size=20), max_size=5),
    st.booleans(),
)
def test_a_file_of_anything_is_read_line_by_line_or_refused(parts, is_packed):
    """A bad line, or rubbish between the lines, changes nothing about the lines beside it."""
    text = b"{   }\n" + b"\n".join(parts)
    lines, ended = read(gzip.compress(text) if is_packed else text)

    expected = text.replace(b"\r\n", b"\n").split(b"\n")
    assert ended == ""
    assert lines == (expected if expected[-1] else expected[:-1])
    accepted, refused = accept_many(lines, NOW_MS)
    assert len(accepted) + len(refused) == len([line for line in lines if line.strip()])


@settings(max_examples=20 * MORE, deadline=None)
@given(
    st.binary(max_size=60)
    | st.binary(max_size=40).map(lambda data: gzip.compress(data)[:-3])
    | st.binary(max_size=30).map(b"[".__add__)
)
def test_a_file_of_rubbish_is_refused_in_words(data):
    """No file makes the reader raise anything but its own error, and no line of it is more than was there."""
    lines, ended = read(data)

    assert ended or sum(map(len, lines)) <= len(data)
    accept_many(lines, NOW_MS)
