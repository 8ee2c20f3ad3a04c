"""Python objects become JSON that says the same, or are refused with the reason."""

import collections
import datetime
import decimal
import enum
import json
import types
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.errors import EventError
from forwarder.records.event import accept, encode

NOW_MS = 1_700_000_000_000


class Plan(enum.StrEnum):
    FREE = "free"


class Level(enum.Enum):
    HIGH = (3, "x")


class Rank(enum.IntEnum):
    FIRST = 1


class Scalar:
    """As numpy's scalars are: of a type of its own, with the value in `item`."""

    dtype, shape = "int64", ()

    def __init__(self, value: object) -> None:
        self.item = lambda: value


CET = datetime.timezone(datetime.timedelta(hours=1))


def event(value: object) -> dict[str, object]:
    return {"event": "A", "properties": {"value": value}}


def circular_dict() -> dict[str, object]:
    value: dict[str, object] = {}
    value["self"] = value
    return value


def circular_list() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


def deep(levels: int) -> list[object]:
    value: list[object] = []
    for _ in range(levels):
        value = [value]
    return value


REFUSED = {
    "NaN": (float("nan"), "not JSON"),
    "infinity": ([float("-inf")], "not JSON"),
    "NaN by name": ([{"a": float("nan")}], "'properties.value[0].a' is nan, which is not JSON"),
    "decimal NaN": (decimal.Decimal("sNaN"), "'properties.value' is sNaN, which is not JSON"),
    "naive datetime": (
        datetime.datetime(2026, 1, 1),
        "'properties.value' is a datetime without a time zone; ",
    ),
    "time": (datetime.time(12), "'properties.value' is not JSON: Object of type time; give its .isoformat()"),
    "timedelta": (datetime.timedelta(1), "give its .total_seconds()"),
    "bytes": (b"x", "'properties.value' is not JSON: Object of type bytes; .decode() it"),
    "set": ({1}, "'properties.value' is not JSON: Object of type set; give list(...) of it"),
    "generator": (
        (n for n in ()),
        "'properties.value' is not JSON: Object of type generator; give list(...)",
    ),
    "object": ({"a.b": [object()]}, "'properties.value.a\\.b[0]' is not JSON: Object of type object"),
    "nested naive": (({"at": datetime.datetime(2026, 1, 1)},), "'properties.value[0].at' is a datetime"),
    "integer as key": ({1: 2}, "the key 1 is not a string"),
    "None as key, nested": ([({None: 2},)], "the key None is not a string"),
    "bool as key": ({"1": {True: 2}}, "the key True is not a string"),
    "circular dict": (circular_dict(), "nested more than 100 levels deep, or contains itself"),
    "circular list": (circular_list(), "nested more than 100 levels deep, or contains itself"),
    "10 000 levels": (deep(10_000), "nested more than 100 levels deep"),
    "lone surrogate": ("\ud800", "half of a surrogate pair"),
    "lone surrogate in a key": ({"\udfff": 1}, "half of a surrogate pair"),
    "surrogates written apart": ("\ud83d\ude00", "half of a surrogate pair"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_json_cannot_hold_is_refused(name):
    """What JSON can't hold is refused with the reason, and never turned into something else."""
    value, what = REFUSED[name]
    with pytest.raises(EventError) as refusal:
        encode(event(value))
    assert what in str(refusal.value)


@pytest.mark.parametrize("what", [None, "A", b"{}", [("event", "A")], 5])
def test_an_event_is_a_mapping(what):
    """Anything but a mapping is refused as an event."""
    with pytest.raises(EventError, match="an event is a mapping"):
        encode(what)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (2**64, "18446744073709551616"),
        (-(10**30), "-1" + "0" * 30),
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (1e-7, "1e-7"),
        (0.1 + 0.2, "0.30000000000000004"),
        ((1, (2,)), "[1,[2]]"),
        (True, "true"),
        (None, "null"),
        ("é\U0001f600\u2028", '"é\U0001f600\u2028"'),
        ('\x00\n"\\', '"\\u0000\\n\\"\\\\"'),
        (Plan.FREE, '"free"'),
        (Level.HIGH, '[3,"x"]'),
        (Rank.FIRST, "1"),
        (decimal.Decimal("1.50"), "1.50"),
        (decimal.Decimal("12345678901234567890.123456789"), "12345678901234567890.123456789"),
        (decimal.Decimal("1E+5"), "1E+5"),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (datetime.datetime(2026, 1, 1, 12, 30, tzinfo=datetime.UTC), '"2026-01-01T12:30:00"'),
        (datetime.datetime(2026, 1, 1, 0, 30, 0, 5, tzinfo=CET), '"2025-12-31T23:30:00"'),
        (datetime.date(2026, 1, 1), '"2026-01-01"'),
        ([{"a": (Scalar(5), Scalar(1.5))}], '[{"a":[5,1.5]}]'),
        (collections.OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
    ],
    ids=ascii,
)
def test_values_are_written_in_full(value, written):
    """Numbers keep all their digits, tuples become lists, text stays text."""
    assert encode(event(value)) == b'{"event":"A","properties":{"value":%s}}' % written.encode()


@pytest.mark.parametrize(
    ("time", "stored"),
    [
        (datetime.datetime(2020, 9, 13, 13, 26, 40, 250_999, tzinfo=CET), 1_600_000_000_250),
        (datetime.datetime(1971, 6, 1, tzinfo=datetime.UTC), 44_582_400),
        (1_600_000_000.5, 1_600_000_000_500),
        (1_600_000_000_123_456_789, 1_600_000_000_123),
        (decimal.Decimal("1600000000.5"), 1_600_000_000_500),
        (Scalar(1_600_000_000), 1_600_000_000),
    ],
)
def test_time_may_be_what_python_has_for_it(time, stored):
    """A program's time is stored as whole milliseconds: a datetime with a zone, a float, nanoseconds."""
    accepted = accept(encode({"event": "A", "properties": {"time": time}}), NOW_MS)
    assert json.loads(accepted)["properties"]["time"] == stored


def test_a_key_of_the_event_itself_is_named():
    """A key that is no string is refused beside the properties too."""
    with pytest.raises(EventError, match="the key 1 is not a string, in 'the event'"):
        encode({"event": "A", "properties": {}, 1: 2})


def test_time_that_is_a_date_is_refused():
    """A date does not say at what time."""
    with pytest.raises(EventError, match=r"'properties\.time' is a date; give a datetime"):
        encode({"event": "A", "properties": {"time": datetime.date(2026, 1, 1)}})


def test_scalar_of_numpy_that_is_not_finite_is_refused():
    """What a scalar gives is held to the same."""
    with pytest.raises(EventError, match=r"'properties.value\[0\]' is nan"):
        encode(event([Scalar(float("nan"))]))


def test_any_mapping_is_an_event():
    """An event need not be a dict, as long as it is a mapping."""
    assert (
        encode(types.MappingProxyType({"event": "A", "properties": {}})) == b'{"event":"A","properties":{}}'
    )


def test_nothing_of_the_producer_is_changed():
    """The producer's own objects stay as they are: nothing is filled in there."""
    mine = {"event": "A", "properties": {"a": [1]}}
    accept(encode(mine), NOW_MS)
    assert mine == {"event": "A", "properties": {"a": [1]}}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text().filter(lambda key: key not in ("time", "$insert_id")), values, max_size=4))
@settings(max_examples=30, deadline=None)
def test_what_is_put_is_what_is_stored(properties):
    """Whatever JSON can hold comes out of encoding and accepting as it went in."""
    stored = json.loads(accept(encode({"event": "A", "properties": properties}), NOW_MS, rules=False))
    del stored["properties"]["time"], stored["properties"]["$insert_id"]
    assert stored == {"event": "A", "properties": properties}
