"""An event is refused with a reason, or stored as the text it came as, with what was missing filled in."""

import json
import re
import uuid
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forwarder.errors import EventError
from forwarder.records.event import accept, accept_many, complete, name_of
from forwarder.records.event.acceptance import _read_carefully, _read_fast
from forwarder.records.event.rules import BAD_IDS, MAX_EVENT_BYTES

NOW_MS = 1_700_000_000_000
ID = "0123456789abcdef0123456789abcdef"
FILLED = b'"time":%d,"$insert_id":"%s"' % (NOW_MS, ID.encode())
GIVEN = b'"time":1600000000,"$insert_id":"mine-1"'
QUEUE_ID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"

raw_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def event(properties: bytes | str, name: str = '"A"') -> bytes:
    text = properties.encode() if isinstance(properties, str) else properties
    return b'{"event":%s,"properties":{%s}}' % (name.encode(), text)


def take(line: bytes, rules: bool = True) -> bytes:
    return accept(line, NOW_MS, rules, ID)


def reason(line: bytes, rules: bool = True) -> str:
    with pytest.raises(EventError) as refusal:
        take(line, rules)
    return str(refusal.value)


def keys(count: int) -> str:
    return ",".join(f'"k{number}":1' for number in range(count))


# What is missing is filled in; nothing else changes.


def test_time_and_insert_id_are_filled_in():
    """An event without time and $insert_id gets both, in front of its own properties."""
    assert take(event('"a":1')) == event(FILLED + b',"a":1')


def test_given_time_and_insert_id_stay():
    """An event that has both is stored as the very bytes it came as."""
    assert take(event(GIVEN)) == event(GIVEN)


@pytest.mark.parametrize(
    ("has", "gets"),
    [('"time":1600000000', f'"$insert_id":"{ID}",'), ('"$insert_id":"mine-1"', f'"time":{NOW_MS},')],
)
def test_only_the_missing_one_is_filled_in(has, gets):
    """Of time and $insert_id, one that is there stays as it is when the other is added."""
    assert take(event(has)) == event(gets + has)


@pytest.mark.parametrize("inside", ["", " ", "\n  \t"])
def test_empty_properties_are_completed(inside):
    """Properties that hold nothing but white space become valid JSON with the two filled in."""
    assert json.loads(take(event(inside)))["properties"] == json.loads(b"{%s}" % FILLED)


def test_line_breaks_become_spaces():
    """An event over several lines is stored as one, its values unchanged."""
    line = b'{\r\n "event": "A",\n "properties": {\n "a":\t"x y"\r\n}\n}\n'
    stored = take(line)
    assert not {b"\n"[0], b"\r"[0]} & set(stored)
    assert json.loads(stored) == {
        "event": "A",
        "properties": {"a": "x y", "time": NOW_MS, "$insert_id": ID},
    }


@pytest.mark.parametrize("nested", ["", ',"nested":{"deep":[1.0]}'], ids=["fast", "careful"])
@pytest.mark.parametrize(
    "written",
    [
        *("12345678901234567890", "-0", "-0.0", "0.1", "1", "1.0", "1.00", "1e-7", "1E400", "1e+2"),
        *("123456789012345678901234567890.123456789", "9007199254740993", "9" * 5000),
    ],
    ids=lambda written: written[:12],
)
def test_numbers_are_kept_as_they_were_written(written, nested):
    """No number is read and written again: its digits, sign, fraction and exponent stay."""
    assert f'"n":{written}'.encode() in take(event(f'"n":{written}{nested}'))


@pytest.mark.parametrize("nested", ["", ',"nested":{}'], ids=["fast", "careful"])
@pytest.mark.parametrize(
    "written",
    [
        *(
            "é",
            "日本",
            "\U0001f600",
            "\u2028\u2029",
            "\x7f",
            "\\u00e9",
            "\\u2028",
            "\\u0000",
            '\\n\\t\\/\\\\\\"',
        ),
        *("\\ud83d\\ude00", "\\uD83D\\uDE00", "[{", "}, {", ": , "),
    ],
    ids=ascii,
)
def test_strings_are_kept_as_they_were_written(written, nested):
    """No string is read and written again: not its escapes, not what it holds beyond ASCII."""
    assert f'"s":"{written}"'.encode() in take(event(f'"s":"{written}"{nested}', f'"n{written}"'))


def test_members_beside_event_and_properties_are_kept_without_rules():
    """What else a producer puts beside event and properties goes on as it was where Mixpanel is to judge."""
    line = b'{"v":1.0,"properties":{"a":1e2},"event":"A","w\xc3\xa9":{"x":[1.50]}}'
    members = {key: bytes(raw) for key, raw in raw_members(take(line, rules=False)).items()}
    assert (members["v"], members["wé"], members["event"]) == (b"1.0", b'{"x":[1.50]}', b'"A"')
    assert members["properties"] == b"{%s," % FILLED + b'"a":1e2}'


TRICKY_VALUES = [
    *(b"1 -1 0 -0 01 1. .5 1e5 1E400 NaN Infinity -Infinity nul true null 12345678901234567890".split()),
    *(b'"" "x" "0" "-1" "Nil" "n\\/a" "\\u006eull" "\\ud83d\\ude00"'.split()),
    *(b'"\\ud800" "\\uDC00" "\\x" "\x01"'.split()),
    *(b'"\xff" "\xed\xa0\x80" "\xe2\x80\xa8" "a\\"b" "a\\\\" "time" "[]" "a'.split()),
    "\u212aunKnown".encode(),
    '"un\u212anown"'.encode(),
    *(b'{} [] {"a":1} {"a":1,"a":2} [1,[2]] [NaN] {"b":"\\ud800"}'.split()),
    *(b'1600000000 1600000000000 "1600000000" 1.6e9 99999999999 1700003600 1700003601 -5'.split()),
]
TRICKY_KEYS = (
    b'"a" "\\u0061" "b" "" "time" "ti\\u006de" "$insert_id" "distinct_id" "event" "properties" "\xc3\xa9"'
    b' "\\ud800" "a\\"b" "\xff" a'
).split()
GAPS = st.sampled_from([b"", b"", b"", b" ", b"\n", b"\t \r"])


@st.composite
def members(draw: st.DrawFn, keys: list[bytes], values: st.SearchStrategy[bytes], most: int) -> bytes:
    pairs = draw(st.lists(st.tuples(st.sampled_from(keys), values), max_size=most))
    gap = draw(GAPS)
    return b"{" + gap + (gap + b",").join(key + gap + b":" + gap + value for key, value in pairs) + gap + b"}"


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """Texts that are events, or nearly so."""
    values = st.sampled_from(TRICKY_VALUES)
    properties = members(TRICKY_KEYS, values, 4)
    ordinary = st.builds(
        lambda gap, name, inside: b'{%s"event":%s,%s"properties":%s%s}' % (gap, name, gap, inside, gap),
        GAPS,
        st.sampled_from([b'"A"', b'"A"', b'" "', b'"\xe2\x80\x83"', b'"a\\"b"', b'"\\ud800"', b"1"]),
        properties,
    )
    strange = members([b'"event"', b'"properties"', b'"ev\\u0065nt"', b'"x"'], values | properties, 4)
    line = draw(ordinary | ordinary | strange)
    if draw(st.booleans()):
        cut = draw(st.integers(0, len(line)))
        patch = draw(
            st.sampled_from([b"", b'"', b",", b"{", b"}", b"\\", b":", b"\x00", b"\xff", b" ", b"\n"])
        )
        line = line[:cut] + patch + line[cut + draw(st.integers(0, 1)) :]
    return line


def agree(line: bytes, rules: bool = True) -> bool:
    """Hold the two readings against each other; False: the fast one did not take *line*."""
    line = line.strip()
    fast = _read_fast(line, NOW_MS, rules)
    if fast is None:
        return False
    whole, head, tail, *has = _read_carefully(line, NOW_MS, rules)
    found, start, *fast_has = fast
    assert fast_has == has
    if all(has):
        assert found == whole
    else:
        assert completed(found[:start], found[start:]) == completed(head, tail)
    return True


def completed(head: bytes, tail: bytes) -> dict[str, bytes]:
    """The members of an event with a property more between *head* and *tail*."""
    comma = b"" if tail.lstrip().startswith(b"}") else b","
    return {key: bytes(raw) for key, raw in raw_members(head + b'"filled in":0' + comma + tail).items()}


def settled(line: bytes, rules: bool) -> bool:
    """Check that what is accepted is accepted as it is; False: *line* is refused."""
    try:
        stored = accept(line, NOW_MS, rules, ID)
    except EventError:
        return False
    assert accept(stored, NOW_MS, rules, "another-id") == stored
    assert b"\n" not in stored
    assert {"time", "$insert_id"} <= json.loads(stored.decode())["properties"].keys()
    return True


def test_fast_reading_only_takes_what_the_careful_one_takes():
    """Whatever one property is, the fast reading accepts nothing that the careful one refuses, and both
    store the same text."""
    singles = [event(key + b":" + value) for key in TRICKY_KEYS for value in TRICKY_VALUES]
    for rules in (True, False):
        taken = [agree(line, rules) for line in singles]
        assert len(taken) / 5 < sum(taken) < len(taken)


def test_what_is_stored_is_accepted_as_it_is():
    """Whatever one property is, what was accepted once is accepted again, unchanged, and is one line."""
    singles = [event(key + b":" + value) for key in TRICKY_KEYS for value in TRICKY_VALUES]
    taken = [settled(line, rules) for line in singles for rules in (True, False)]
    assert 200 < sum(taken) < len(taken)


@given(lines(), st.booleans())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_readings_agree_on_any_text(line, rules):
    """Also for several properties, odd white space, duplicates and damage the two readings agree, and
    what was accepted once is accepted again, unchanged."""
    agree(line, rules)
    settled(line, rules)


@pytest.mark.parametrize("has", ["", '"a":1', GIVEN.decode(), '"a":{}'])
def test_event_may_come_behind_the_properties(has):
    """The name may also be written behind the properties, whatever these hold."""
    line = b'{"properties":{%s},"event":"A"}' % has.encode()
    assert json.loads(take(line)) == json.loads(take(event(has)))
    agree(line)


def test_fast_reading_takes_ordinary_events():
    """Ordinary events, also with lists, escapes and text beyond ASCII, don't need the careful reading."""
    ordinary = ['"a":1', '"distinct_id":"u-1","b":"é"', '"a":"\\n","c":null', GIVEN.decode(), ""]
    ordinary += ['"a": [1, {"b": "c"}, []], "distinct_id" : 17', r'"a":"b\\"']
    ordinary += [r'"a":"{[\"]}\u00e9\ud83d\ude00"']
    for properties in ordinary:
        for line in (event(properties), event(properties).replace(b'":{', b'": {', 1)):
            assert _read_fast(line, NOW_MS, rules=True) is not None, properties
            assert agree(line)


# Structure, which always holds.

REFUSED = {
    "nothing": (b"", "not JSON"),
    "half": (b'{"event":"A","properties":{', "not JSON"),
    "two in one line": (event("") + event(""), "not JSON: Extra data"),
    "list": (b"[]", "not an event: a list"),
    "string": (b'"A"', "not an event: a single value"),
    "NaN": (event('"a":NaN'), "NaN is not JSON"),
    "Infinity": (event('"a":[-Infinity]'), "-Infinity is not JSON"),
    "escaped lone surrogate": (event('"a":"\\ud800"'), "half of a surrogate pair"),
    "escaped lone surrogate, low and upper case": (event('"a":"\\uDFFF"'), "half of a surrogate pair"),
    "lone surrogate in a key": (event('"\\ud800":1'), "half of a surrogate pair"),
    "lone surrogate in a name": (event("", '"\\udbff x"'), "half of a surrogate pair"),
    "raw lone surrogate": (event(b'"a":"\xed\xa0\x80"'), "not UTF-8 (byte"),
    "Latin-1": (event('"a":"é"').decode().encode("latin-1"), "not UTF-8 (byte 33)"),
    "byte order mark": (b"\xef\xbb\xbf" + event(""), "not JSON"),
    "control character": (event(b'"a":"\x01"'), "not JSON: Invalid control character"),
    "line break in a string": (event('"a":"x\ny"'), "not JSON: Invalid control character"),
    "duplicate time": (event('"time":1600000000,"time":1600000001'), "duplicate key 'time'"),
    "duplicate user": (event('"distinct_id":"a","distinct_id":"b"'), "duplicate key 'distinct_id'"),
    "duplicate by escape": (
        event('"distinct_id":"a","distinct\\u005fid":"b"'),
        "duplicate key 'distinct_id'",
    ),
    "duplicate by escape, first": (
        event('"\\u0024insert_id":"a","$insert_id":"b"'),
        "duplicate key '$insert_id'",
    ),
    "duplicate, nested": (event('"o":[{"time":1,"time":1}]'), "duplicate key 'time'"),
    "duplicate event": (b'{"event":"A","event":"A","properties":{}}', "duplicate key 'event'"),
    "duplicate properties": (b'{"event":"A","properties":{},"properties":{}}', "duplicate key 'properties'"),
    "duplicate insert id": (event(GIVEN + b',"$insert_id":"b"'), "duplicate key '$insert_id'"),
    "no event": (b'{"properties":{}}', "'event' must not be missing or blank"),
    "blank event": (event("", '" \\t "'), "'event' must not be missing or blank"),
    "blank event beyond ASCII": (event("", '"\u2003"'), "'event' must not be missing or blank"),
    "event is a number": (event("", "5"), "'event' must not be missing or blank"),
    "no properties": (b'{"event":"A"}', "'properties' must not be missing"),
    "properties are null": (b'{"event":"A","properties":null}', "'properties' must not be missing"),
    "properties are a list": (
        b'{"event":"A","properties":[]}',
        "'properties' must be an object, not an array",
    ),
    "101 levels": (event(f'"a":{"[" * 99}{"]" * 99}'), "more than 100 levels"),
    "10 000 levels": (event(f'"a":{"[" * 10_000}{"]" * 10_000}'), "more than 100 levels"),
    # So many that each version of Python stops reading before it finds that they are not closed.
    "200 000 levels, not closed": (event(f'"a":{"[" * 200_000}'), "more than 100 levels"),
}


@pytest.mark.parametrize("rules", [True, False], ids=["rules", "no rules"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_event_is_refused(name, rules):
    """Structure always holds, and a refusal names what is wrong."""
    line, what = REFUSED[name]
    assert what in reason(line, rules)


@pytest.mark.parametrize(
    "twice",
    [
        '"a":1,"a":2',
        '"a":1,"\\u0061":1',
        '"o":{"a":1,"a":1}',
        '"o":[{"a":1,"a":1}],"o":3',
        '"x":"é","x":"\\ud83d\\ude00"',
    ],
)
@pytest.mark.parametrize("time", ["1600000000", "1600000000.5", '"2020-09-13T12:26:40.5Z"'])
def test_other_keys_may_stand_twice(twice, time):
    """A key that does not decide what the event is stays as often as it was written."""
    stored = take(event(f'{twice},"time":{time},{twice}'))
    whole = "1600000000" if time == "1600000000" else "1600000000500"
    assert stored == event(f'"$insert_id":"{ID}",{twice},"time":{whole},{twice}')


def test_a_hundred_levels_pass():
    """Documented depth is not enforced by Mixpanel; up to 100 levels are left to it."""
    line = event(f'"a":{"[" * 98}{"]" * 98}')
    assert take(line).endswith(line[len(b'{"event":"A","properties":{') :])


@pytest.mark.parametrize("extra", [0, 1])
def test_one_megabyte_is_the_most(extra):
    """An event of exactly 1 MB passes, one byte more does not."""
    around = len(event(GIVEN + b',"a":""'))
    line = event(GIVEN + b',"a":"%s"' % (b"x" * (MAX_EVENT_BYTES - around + extra)))
    assert len(line) == MAX_EVENT_BYTES + extra
    if extra:
        assert "1000001 bytes long" in reason(line)
    else:
        assert take(line) == line


def test_size_counts_what_is_filled_in():
    """An event that only gets too large by what is filled in is refused, not sent to be refused."""
    line = event(b'"a":"%s"' % (b"x" * (MAX_EVENT_BYTES - len(event('"a":""')))))
    assert len(line) == MAX_EVENT_BYTES
    assert "filled in it has" in reason(line)


BESIDE = {
    "time": ('"time":1700000000', "'time' beside 'properties' .* move it to 'properties.time'"),
    "null": ('"time":null', "'time' beside 'properties' "),
    "escaped": ('"ti\\u006de":5', "'time' beside 'properties' "),
    "user": ('"distinct_id":"u"', "'distinct_id' beside 'properties' .* move it to 'properties.distinct_id'"),
    "id": ('"$insert_id":"u"', r"'\$insert_id' beside 'properties' .* move it to 'properties.\$insert_id'"),
    "two": (
        '"time":5,"distinct_id":"u"',
        "'time' and 'distinct_id' beside .* move them to 'properties.time' and 'properties.distinct_id'",
    ),
    "with another": ('"x":1,"time":5', "'time'"),
}


@pytest.mark.parametrize("rules", [True, False], ids=["rules", "no rules"])
@pytest.mark.parametrize("where", ["before", "between", "after"])
@pytest.mark.parametrize("name", BESIDE)
def test_data_beside_properties_is_refused(name, where, rules):
    """Time, user and id beside the properties, where Mixpanel ignores them, are refused with their place."""
    beside, what = BESIDE[name]
    parts = ['"event":"E"', '"properties":{"a":1}']
    parts.insert({"before": 0, "between": 1, "after": 2}[where], beside)
    assert re.search(what, reason(f"{{{','.join(parts)}}}".encode(), rules))


@pytest.mark.parametrize("key", ["plan", "$distinct_id", "é", "Time"])
def test_an_unknown_key_beside_properties_is_left_to_mixpanel(key):
    """Any other key there is refused too, but for the structure alone it may be there."""
    line = f'{{"event":"E","{key}":1,"properties":{{}}}}'.encode()
    assert f"'{key}' beside 'properties'" in reason(line)
    assert json.loads(take(line, rules=False))[key] == 1


def test_many_keys_beside_properties_are_counted():
    """Of very many keys the first are named."""
    line = b'{"event":"E","properties":{},%s}' % keys(300).encode()
    assert "'k4' and 295 more beside 'properties'" in reason(line)
    assert len(reason(line)) < 300


@pytest.mark.parametrize(
    ("tracker", "line", "moves"),
    [
        (
            "Segment or RudderStack",
            '{"type":"track","event":"E","userId":"u","timestamp":"2025-01-01T00:00:00Z","properties":{}}',
            ["properties.distinct_id", "properties.time"],
        ),
        (
            "Segment or RudderStack",
            '{"type":"identify","userId":"u","traits":{}}',
            ["properties.distinct_id"],
        ),
        (
            "Amplitude",
            '{"event_type":"E","user_id":"u","time":1700000000000,"event_properties":{"a":1}}',
            ["'event_type' to 'event'", "'user_id' to 'properties.distinct_id'", "'properties'"],
        ),
        ("Snowplow", '{"e":"pv","p":"web","tv":"js-3","eid":"x","dtm":"1700000000000"}', ["properties.time"]),
        (
            "PostHog",
            '{"api_key":"k","event":"E","distinct_id":"u","properties":{}}',
            ["properties.distinct_id"],
        ),
        ("Google Analytics", '{"client_id":"1.2","name":"E","params":{}}', ["'name' to 'event'"]),
        ("CloudEvents", '{"specversion":"1.0","type":"E","data":{}}', ["'data' to 'properties'"]),
    ],
)
def test_events_of_other_trackers_are_named_as_such(tracker, line, moves):
    """Who hands over another tracker's events is told so, and what belongs where."""
    told = reason(line.encode())
    assert f"looks like an event of {tracker}" in told
    assert all(move in told for move in moves)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"events":[{"event":"E","properties":{}}]}', "jq -c '.events[]'"),
        ('{"my events":[{"event":"E"}],"count":1}', "jq -c '.\"my events\"[]'"),
        ('{"$token":"t","$distinct_id":"u","$set":{"a":1}}', "profile update"),
        ('{"event_name":"E","properties":{}}', "move 'event_name' to 'event'"),
        ('{"event":"E","props":{}}', "move 'props' to 'properties'"),
    ],
)
def test_what_is_nearly_an_event_is_told_what_to_do(line, what):
    """Lists of events, updates of profiles and names that are nearly right are named as such."""
    assert what in reason(line.encode())
    assert what in reason(line.encode(), rules=False)


@pytest.mark.parametrize(
    ("properties", "path"),
    [
        ('"cart":{"items":[{"qty":NaN}]}', "'properties.cart.items[0].qty' is invalid: NaN"),
        ('"cart":[1,{"a":1,"a":1,"time":1,"time":2}]', "duplicate key 'time' ('properties.cart[1].time')"),
        ('"a":[["\\ud800"]]', "'properties.a[0][0]' is invalid: the string holds half"),
        ('"a.b":{"c\\\\":Infinity}', "'properties.a\\.b.c\\\\' is invalid: Infinity"),
        ('"a\\n\\u2028":NaN', "'properties.a\\n\\u2028' is invalid: NaN"),
        ('"\\ud800":1', "'properties.\\ud800' is invalid: the string holds half"),
        (f'"o":[1,[{{"x":[{"1," * 255}1]}}]]', "'properties.o[1][0].x' is invalid: 256 elements"),
    ],
)
def test_a_refusal_names_the_path(properties, path):
    """Whatever is wrong further in is named by its path, as --set takes it."""
    assert path in reason(event(properties))


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        (b"{'event': 'E', 'properties': {}}", "json.dumps"),
        (b'{"event": "E", "properties": {"a": None}}', "json.dumps"),
        (b'{"event": "E", "properties": {"a": 1,}}', "remove the comma"),
        (b'{"event": "E", "properties": {"a": [1, ]}}', "remove the comma"),
        (b'{"event": "E", "prop', "cut short"),
        (b'{"event": "E", "properties": {', "cut short"),
        (b"{", "jq -c ."),
        (event("") + event(""), "jq -c ."),
        (b'2026-01-01 12:00:00 {"event":', "(column 5), from '-01-01 12:00:00"),
    ],
)
def test_what_is_no_json_is_told_the_remedy(line, remedy):
    """The common reasons why a text is no JSON come with what to do; others show where it fails."""
    assert remedy in reason(line)


# Mixpanel's rules, which can be left to Mixpanel.

BROKEN_RULES = {
    **{
        f"time {written}": (event(f'"time":{written}'), f"'properties.time' is invalid: {what}")
        for written, what in {
            '"1600000000"': "must be specified as seconds",
            '"2020-09-13"': "must be specified as seconds",
            "true": "must be specified as seconds",
            "null": "must be specified as seconds",
            "{}": "must be specified as seconds",
            "0": "must not be before 1971",
            "-1": "must not be before 1971",
            "31535999": "must not be before 1971",
            "31535999.9": "must not be before 1971",
            "1700003601": "must not be in the future",
            "1700003600001": "must not be in the future",
            "4102444800000": "must not be in the future",
            "99999999999": "must not be in the future",
            "1E400": "must not be in the future",
            "9" * 400: "must not be in the future",
        }.items()
    },
    **{
        f"$insert_id {written}": (
            event(f'"$insert_id":{written}'),
            f"'properties.$insert_id' is invalid: {what}",
        )
        for written, what in {
            '""': "must not be blank",
            "null": "must be a string",
            "12": "must be a string",
            "[]": "must be a string",
            '"a b"': "must only contain alphanumeric",
            '"a:b"': "must only contain alphanumeric",
            '"a\\n"': "must only contain alphanumeric",
            '"é"': "must only contain alphanumeric",
            '"٣"': "must only contain alphanumeric",
            f'"{"x" * 37}"': "must be at most 36 bytes, not 37",
            f'"{"é" * 19}"': "must be at most 36 bytes, not 38",
            '"NULL"': "'NULL' is not an id",
            '"n\\u0075ll"': "'null' is not an id",
            '"-1"': "'-1' is not an id",
        }.items()
    },
    **{
        f"distinct_id {written}": (event(f'"distinct_id":{written}'), "'properties.distinct_id' is invalid")
        for written in [f'"{bad}"' for bad in sorted(BAD_IDS)]
        + [f'"{bad.upper()}"' for bad in sorted(BAD_IDS)]
        + ["0", "-1", "true", "false", "null", "[]", "{}", '"n\\/a"', '"\\u006eull"', '"un\u212anown"']
    },
    "256 properties": (event(keys(256)), "256 keys, at most 255"),
    "256 properties and the two": (event(GIVEN.decode() + "," + keys(256)), "256 keys, at most 255"),
    "256 nested keys": (event(f'"o":[{{{keys(256)}}}]'), "'properties.o[0]' is invalid: 256 keys"),
    "256 elements": (event(f'"o":[{"1," * 255}1]'), "'properties.o' is invalid: 256 elements"),
}


@pytest.mark.parametrize("name", BROKEN_RULES, ids=ascii)
def test_broken_rules_are_refused(name):
    """What Mixpanel would refuse is refused at once, in its words where they are known."""
    line, what = BROKEN_RULES[name]
    assert what in reason(line)


@pytest.mark.parametrize("name", BROKEN_RULES, ids=ascii)
def test_rules_can_be_left_to_mixpanel(name):
    """Without rules the same events are taken, unchanged and completed."""
    line, _ = BROKEN_RULES[name]
    given, stored = json.loads(line)["properties"], json.loads(take(line, rules=False))["properties"]
    assert stored == {"time": NOW_MS, "$insert_id": ID, **given}


@pytest.mark.parametrize(
    "properties",
    [
        *(f'"time":{written}' for written in ("31536000", "1600000000.123", "1.6e9", "1600000000000")),
        *(f'"time":{written}' for written in ("1700003600", "1700003600000", "1700003600.0")),
        *(f'"$insert_id":"{given}"' for given in ("a", "A-1", "x" * 36, str(uuid.UUID(int=1)), "00")),
        *(
            f'"distinct_id":{given}'
            for given in ('""', '"u-1"', '"é"', "12", "0.0", "00" and '"00"', '"a\\/b"')
        ),
        keys(255),
        GIVEN.decode() + "," + keys(255),
        f'"o":{{{keys(255)}}},"l":[{"1," * 254}1]',
    ],
    ids=lambda properties: ascii(properties[:40]),
)
def test_what_mixpanel_takes_is_taken(properties):
    """Nothing is refused that Mixpanel may take; and what was taken is taken again."""
    stored = take(event(properties))
    assert take(stored) == stored


TIMES = {
    "1700000000.5": "1700000000500",
    "1700000000.0": "1700000000000",
    "1600000000.123": "1600000000123",
    "1600000000.9999": "1600000000999",
    "1600000000123.75": "1600000000123",
    "1.6e9": "1600000000000",
    "1.6e12": "1600000000000",
    "1600000000.5e0": "1600000000500",
    "1.6E+09": "1600000000000",
    "31536000.5": "31536000",
    "1600000000123456": "1600000000123",
    "1600000000123456789": "1600000000123",
    "1600000000123456.5": "1600000000123",
    '"2020-09-13T12:26:40Z"': "1600000000000",
    '"2020-09-13T14:26:40.25+02:00"': "1600000000250",
    '"2020-09-13 12:26:40\\u002b00:00"': "1600000000000",
    '"1971-06-01T00:00:00Z"': "44582400",
    "1600000000": "1600000000",
    "1600000000123": "1600000000123",
}


@pytest.mark.parametrize("rules", [True, False], ids=["rules", "no rules"])
@pytest.mark.parametrize(
    "around",
    [
        *("%s", '"a":1.50, %s ,"b":"x"', '"o":{"time":1.5},%s,"s":"\\n"', '"s":"\\"time\\":1.5",%s'),
        *('"$insert_id":"i",%s', '"o":{"time":1.5}, %s , "$insert_id":"i","q":"a\\"b"'),
    ],
)
@pytest.mark.parametrize("given", TIMES)
def test_time_is_stored_as_a_whole_number(given, around, rules):
    """A time with a fraction, in micro- or nanoseconds or in ISO 8601 becomes whole milliseconds, and all
    around it stays as it is written."""
    stored = take(event(around % f'"time": {given}'), rules=rules)
    assert stored == take(event(around % f'"time": {TIMES[given]}'), rules=rules)
    assert f'"time": {TIMES[given]}'.encode() in stored
    assert take(stored, rules=rules) == stored


@pytest.mark.parametrize(
    "given",
    [
        "1E400",
        "-1.5",
        "4102444800000000",
        '"2020-09-13T12:26:40"',
        '"1600000000.5"',
        '"9999-01-01T00:00:00Z"',
    ],
)
def test_time_that_is_not_certain_stays_without_rules(given):
    """What can't be converted for certain is named, or left to Mixpanel as it is written."""
    assert "'properties.time' is invalid" in reason(event(f'"time":{given}'))
    assert f'"time":{given}'.encode() in take(event(f'"time":{given}'), rules=False)


@pytest.mark.parametrize("around", ["%s", '%s,"time":1600000000', '"time":1600000000.5,%s'])
def test_only_the_time_of_the_event_is_made_whole(around):
    """What is called time further in is a property like any other."""
    assert b'"o":{"time":1600000000.25}' in take(event(around % '"o":{"time":1600000000.25}'))


def test_an_ordinary_fraction_takes_the_fast_reading(monkeypatch):
    """Seconds with a fraction, as Mixpanel's own libraries send them, don't need the careful reading."""
    monkeypatch.setitem(accept.__globals__, "_read_carefully", None)
    assert b'"time": 1600000000500' in take(event('"a":[1.5],"time": 1600000000.5'))


# Many at once.


def test_many_are_accepted_and_refused_by_line():
    """Of many lines the good ones pass in order, the bad ones are named by index, blank ones are neither."""
    good, bad = event('"a":1'), event('"a":NaN')
    accepted, refused = accept_many([good, b"", bad, b" \t", event('"a":2'), b"x"], NOW_MS)
    assert [json.loads(line)["properties"]["a"] for line in accepted] == [1, 2]
    assert [index for index, _ in refused] == [2, 5]
    assert "NaN" in refused[0][1]


def insert_ids(lines: Iterable[bytes]) -> list[str]:
    return [json.loads(line)["properties"]["$insert_id"] for line in lines]


def test_filled_in_ids_are_unique_and_allowed():
    """Each filled in $insert_id is another, across chunks too, and one that Mixpanel takes."""
    found = [
        *insert_ids(accept_many([event("")] * 500, NOW_MS)[0]),
        *insert_ids(accept_many([event("")] * 500, NOW_MS)[0]),
        *insert_ids(accept(event(""), NOW_MS) for _ in range(100)),
    ]
    assert len(set(found)) == 1100
    assert all(len(one) == 32 and one.isalnum() for one in found)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b'{"event":"Sold","properties":{"$insert_id":"i-1","price":NaN}}', ("Sold", "i-1")),
        ('{"event": "S\\u00f6ld \\"x\\"", "properties": {"a": -Infinity}}', ('S\xf6ld "x"', "")),
        (b'{"event":"Sold","properties":{"a":', ("Sold", "")),
        (b"{'event': 'Sold', 'properties': {'$insert_id': 'i-1'}}", ("Sold", "i-1")),
        (b'{"event":"\\ud800","properties":{"a":NaN}}', ("?", "")),
        (b'{"event":"S\xff","a":NaN}', ("S\ufffd", "")),
        (b"nothing of an event", ("", "")),
        (None, ("", "")),
    ],
)
def test_what_is_not_quite_an_event_has_its_name(data, name):
    """The name and the id are found in what is not quite JSON too, for a dead letter to be known by."""
    assert name_of(data) == name


# Rows of external producers.


def test_foreign_row_is_completed_the_same_way_each_time():
    """An external event gets the row's time and an id of queue, row and content: the same at each try."""
    data = b'{"event": "A", "properties": {}}'
    once = complete(data, 1_600_000_000.5, QUEUE_ID, 7)
    assert once == complete(data, 1_600_000_000.5, QUEUE_ID, 7)
    properties = json.loads(once)["properties"]
    assert properties["time"] == 1_600_000_000_500
    assert len(properties["$insert_id"]) == 32


def test_foreign_rows_are_told_apart():
    """The same text in another row, or in another queue, gets another id."""
    data = event("")
    found = [
        complete(data, 1.0, QUEUE_ID, 7),
        complete(data, 1.0, QUEUE_ID, 8),
        complete(data, 1.0, str(uuid.UUID(int=5)), 7),
    ]
    assert len(set(insert_ids(found))) == 3


def test_foreign_rows_are_not_held_to_rules():
    """What breaks Mixpanel's rules in an external row is passed on: Mixpanel's answer goes with it."""
    line = event('"distinct_id":"null",' + GIVEN.decode())
    assert complete(line, 1.0, QUEUE_ID, 7) == line
    assert complete(line.decode(), 1.0, QUEUE_ID, 7) == line


def test_foreign_row_with_data_beside_its_properties_is_refused():
    """An external producer's row that Mixpanel would take for one of now is refused."""
    with pytest.raises(EventError, match="'time' and 'distinct_id' beside 'properties' would be ignored"):
        complete(b'{"event":"E","time":1,"distinct_id":"u","properties":{}}', 1.0, QUEUE_ID, 7)
    assert b'"userId":1' in complete(b'{"event":"E","userId":1,"properties":{}}', 1.0, QUEUE_ID, 7)


def test_foreign_row_has_a_whole_time():
    """A fraction in the time of an external producer's row is cut too."""
    assert b'"time":1600000000500' in complete(event('"time":1600000000.5'), 1.0, QUEUE_ID, 7)


@pytest.mark.parametrize("data", [None, 5, 0.5, b"\x80\x04K\x05.", b"", "\ud800", "x", event('"a":NaN')])
def test_foreign_row_that_is_no_event_is_refused(data):
    """Whatever stands in a row, the refusal is one of an event, not a crash."""
    with pytest.raises(EventError):
        complete(data, 1.0, QUEUE_ID, 7)
