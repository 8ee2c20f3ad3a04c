"""``--set`` and ``--unset``: what changes in an event, and what does not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.cli.edits import Edit, apply, renew, understand
from forwarder.errors import EventError, UsageError

NOW_MS = 1_700_000_000_000
ACCEPTED_AT = 1_600_000_000.5
EVENT = (
    b'{"event":"E","properties":{"time":1600000000,"$insert_id":"i-1","a":1.10,"s":"\\u00e9","o":{"b":1E+2}}}'
)


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(names, inside, max_size=3),
    max_leaves=8,
)


def edited(data: bytes, sets: list[str] = (), unsets: list[str] = ()) -> bytes:
    """*data* after the edits that these options ask for."""
    return apply(data, understand(sets, unsets))


def test_untouched_members_stay_as_they_are_written():
    """Numbers, escapes and order of all other members are the same bytes after an edit."""
    after = edited(EVENT, ["properties.a=x", "properties.n:=12345678901234567890.50"])

    assert after == (
        b'{"event":"E","properties":{"time":1600000000,"$insert_id":"i-1","a":"x","s":"\\u00e9",'
        b'"o":{"b":1E+2},"n":12345678901234567890.50}}'
    )


@pytest.mark.parametrize(
    ("sets", "unsets", "after"),
    [
        (["event=Signed Up"], [], b'{"event":"Signed Up","properties":{"a":{"b":1}}}'),
        (['event="quoted"'], [], b'{"event":"\\"quoted\\"","properties":{"a":{"b":1}}}'),
        (["properties.x=a=b:=c"], [], b'{"event":"E","properties":{"a":{"b":1},"x":"a=b:=c"}}'),
        (["properties.x="], [], b'{"event":"E","properties":{"a":{"b":1},"x":""}}'),
        (["properties.x:= [1.0] "], [], b'{"event":"E","properties":{"a":{"b":1},"x":[1.0]}}'),
        (["properties.a.b:=2"], [], b'{"event":"E","properties":{"a":{"b":2}}}'),
        (["properties.c.d:=2"], [], b'{"event":"E","properties":{"a":{"b":1},"c":{"d":2}}}'),
        (["properties.c\\.d:=2"], [], b'{"event":"E","properties":{"a":{"b":1},"c.d":2}}'),
        (["properties.k\\=v=x"], [], b'{"event":"E","properties":{"a":{"b":1},"k=v":"x"}}'),
        ([], ["properties.a.b"], b'{"event":"E","properties":{"a":{}}}'),
        ([], ["properties.a"], b'{"event":"E","properties":{}}'),
        (["properties.x:=1"], ["properties.a"], b'{"event":"E","properties":{"x":1}}'),
    ],
)
def test_what_an_edit_means(sets, unsets, after):
    """Each form of --set and --unset changes just the member it names."""
    assert edited(b'{"event":"E","properties":{"a":{"b":1}}}', sets, unsets) == after


@pytest.mark.parametrize("path", ["properties.none", "properties.none.deeper"])
def test_taking_away_what_is_not_there_changes_nothing(path):
    """--unset of a member that is not there leaves the event's members as they are."""
    assert edited(EVENT, [], [path]) == EVENT


def test_a_name_is_meant_however_it_is_written():
    r"""A name written with escapes is found by what it says: \u0061 is a."""
    data = b'{"event":"E", "properties" : {"\\u0061" : 1, "b":2}}'

    assert edited(data, [], ["properties.a"]) == b'{"event":"E","properties":{"b":2}}'


def test_of_a_name_that_stands_twice_all_are_replaced():
    """An edit of a duplicate key leaves one of it, so that such an event can be mended."""
    data = b'{"event":"E","properties":{"a":1,"b":2,"a":3}}'

    assert edited(data, ["properties.a:=4"]) == b'{"event":"E","properties":{"a":4,"b":2}}'


def test_no_edit_leads_through_a_name_that_stands_twice():
    """Where it is unclear which object is meant, nothing is edited and nothing is lost."""
    with pytest.raises(EventError, match="duplicate key 'properties'"):
        edited(b'{"event":"E","properties":{"a":1},"properties":{"b":1}}', ["properties.c:=1"])


@given(
    event=st.fixed_dictionaries({"event": values, "properties": st.dictionaries(names, values, max_size=5)}),
    name=names,
    value=values,
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
def test_edits_do_what_they_do_to_a_dictionary(event, name, value, indent, ascii_only):
    """Whatever the event, an edit has the effect it would have on the parsed event, and no other."""
    data = json.dumps(event, indent=indent, ensure_ascii=ascii_only).encode()
    with_it = {**event, "properties": {**event["properties"], name: value}}
    without = {**event, "properties": {k: v for k, v in event["properties"].items() if k != name}}

    assert json.loads(apply(data, [Edit(("properties", name), json.dumps(value))])) == with_it
    assert json.loads(apply(data, [Edit(("properties", name), None)])) == without


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"[]", b"12", b"\xff", b'{"event"', b'{"event":}', b'{"a":1,}', b'{"a":1}x', b"{1:2}"),
        *(b'{"a" 1}', b'{"properties":[]}', b'{"properties":1}', b'{"a":"\n"}'),
        b'{"a":' + b"[" * 5000,
    ],
)
def test_what_is_no_event_is_refused(data):
    """Bytes that can't be edited are refused with a reason, whatever is wrong with them."""
    with pytest.raises(EventError, match="can't be edited"):
        edited(data, ["properties.x=y"])


@given(st.integers(0, len(EVENT) - 1))
def test_a_cut_off_event_is_refused(length):
    """No beginning of an event is taken for an event."""
    with pytest.raises(EventError):
        edited(EVENT[:length], ["properties.x=y"])


@pytest.mark.parametrize(
    ("sets", "unsets", "told"),
    [
        (["plan=pro"], [], "Did you mean properties.plan"),
        (["properties=x"], [], "does not lead to a member"),
        (["properties.=x"], [], "does not lead to a member"),
        (["properties..a=x"], [], "does not lead to a member"),
        (["event.name=x"], [], "does not lead to a member"),
        (["=x"], [], "does not lead to a member"),
        (["properties.x"], [], "write PATH=TEXT or PATH:=JSON"),
        (["properties.x:=pro"], [], "what follows := is not JSON"),
        (["properties.x:=NaN"], [], "NaN is not JSON"),
        (["properties.x=\udcff"], [], "is not UTF-8"),
        (["properties.\udcff=x"], [], "is not UTF-8"),
        (["properties.time=1700000000"], [], "Write properties.time:=NUMBER"),
        (["properties.time=2026-01-01"], [], "time is a number, and = gives text"),
        (["time:=1"], [], "Did you mean properties.time"),
        ([], ["properties.x=1"], "only a path is expected"),
        ([], ["x"], "Did you mean properties.x"),
        (["properties.x=1"], ["properties.x"], "two edits change properties.x"),
        (["properties.x=1", "properties.x=1"], [], "two edits change properties.x"),
        (["properties.x.y=1"], ["properties.x"], "two edits change properties.x"),
    ],
)
def test_options_that_make_no_sense_are_refused(sets, unsets, told):
    """A path or value that can't be meant is a usage error that says why, before any event is read."""
    with pytest.raises(UsageError) as raised:
        understand(sets, unsets)
    assert told in str(raised.value)


def test_what_is_not_quite_json_is_mended():
    """NaN, wherever an external producer has written it, can be replaced or taken away."""
    data = b'{"event":"E","properties":{"a":NaN,"o":{"b":[-Infinity]},"c":1.50}}'
    for sets, unsets in ((["properties.a:=0"], ["properties.o.b"]), (["properties.o:={}"], ["properties.a"])):
        edits = understand(sets, unsets)
        assert b'"c":1.50' in renew(data, ACCEPTED_AT, edits, NOW_MS, rules=True)
    with pytest.raises(EventError, match=r"'properties.o.b\[0\]' is invalid: -Infinity is not JSON"):
        renew(data, ACCEPTED_AT, understand(["properties.a:=0"], []), NOW_MS, rules=True)


def test_data_beside_the_properties_is_moved():
    """What is refused beside the properties is taken away there, where it is."""
    data = b'{"event":"E","time":1600000000,"properties":{}}'
    edits = understand(["properties.time:=1600000000"], ["time"])
    assert json.loads(renew(data, ACCEPTED_AT, edits, NOW_MS, rules=True))["properties"]["time"] == 1600000000
    with pytest.raises(EventError, match=r"no 'distinct_id' beside .* did you mean properties\.distinct_id"):
        renew(data, ACCEPTED_AT, understand([], ["distinct_id"]), NOW_MS, rules=True)


def test_what_can_not_be_edited_says_how_to_mend_it():
    """Where no edit helps, the way by hand is named."""
    with pytest.raises(EventError, match="export it with --with-reason, fix the text and enqueue it"):
        edited(b"{'event': 'E'}", ["properties.x=y"])


def test_neighbours_are_no_conflict():
    """Two edits below the same object, or with names that begin alike, go together."""
    assert len(understand(["properties.a.b=1", "properties.a.c=1", "properties.ab=1"], [])) == 3


def test_without_an_edit_the_same_bytes_are_queued():
    """A retry without edits hands on the very bytes, ``$insert_id`` and ``time`` included."""
    assert renew(EVENT, ACCEPTED_AT, (), NOW_MS, rules=True) == EVENT


def test_what_is_missing_is_filled_in():
    """A missing ``time`` becomes the time of acceptance, a missing ``$insert_id`` a new one."""
    edits = understand([], ["properties.time", "properties.$insert_id"])

    first, second = (
        json.loads(renew(EVENT, ACCEPTED_AT, edits, NOW_MS, rules=True))["properties"] for _ in range(2)
    )

    assert first["time"] == 1_600_000_000_500
    assert len({"i-1", first["$insert_id"], second["$insert_id"]}) == 3


def test_an_edited_event_is_held_to_the_rules_as_of_now():
    """What breaks a rule is refused, unless left to Mixpanel; "the future" is after now, not acceptance."""
    after_acceptance = understand(["properties.time:=1650000000"], [])
    future = understand(["properties.time:=1800000000"], [])

    assert b"1650000000" in renew(EVENT, ACCEPTED_AT, after_acceptance, NOW_MS, rules=True)
    with pytest.raises(EventError, match="must not be in the future"):
        renew(EVENT, ACCEPTED_AT, future, NOW_MS, rules=True)
    assert b"1800000000" in renew(EVENT, ACCEPTED_AT, future, NOW_MS, rules=False)


@pytest.mark.parametrize("rules", [True, False])
def test_structure_is_always_checked(rules):
    """No edit makes something that is no event pass."""
    with pytest.raises(EventError, match="'event' must not be missing"):
        renew(EVENT, ACCEPTED_AT, understand(["event= "], []), NOW_MS, rules)
    with pytest.raises(EventError, match="duplicate key 'time'"):
        renew(
            b'{"event":"E","properties":{"time":1,"time":2}}', 0.0, understand(["event=F"], []), NOW_MS, rules
        )
