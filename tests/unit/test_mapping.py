"""Rows and flat records become events: names, times, ids and properties are what the columns hold."""

import json
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.cli.mapping import build_mapping
from forwarder.errors import EventError, UsageError
from forwarder.records.event import accept_many
from forwarder.records.event.mapping import EventMapping

NOW_MS = 1_760_000_000_000
NOTHING = dict.fromkeys(
    (
        "event_column",
        "distinct_id_column",
        "time_column",
        "time_format",
        "time_zone",
        "insert_id_column",
        "columns",
        "drop_columns",
        "text_columns",
    )
)


def accept(options: EventMapping, text: str) -> tuple[list[bytes], list[tuple[int, str]]]:
    """What `enqueue` makes of a line."""
    events, unfit = options.events_of([text.encode()])
    accepted, refused = accept_many(events, NOW_MS)
    return accepted, [*unfit, *refused]


def mapped(text: str, **mapping: object) -> dict:
    """The event of a flat record, or of one in Mixpanel's form."""
    accepted, refused = accept(EventMapping(**mapping), text)
    assert refused == []
    return json.loads(accepted[0])


def refusal(text: str, **mapping: object) -> str:
    """Why a record is refused, in the words of its columns."""
    options = EventMapping(**mapping)
    accepted, refused = accept(options, text)
    assert accepted == []
    return options.in_columns(refused[0][1])


def test_columns_of_the_usual_names_are_taken_by_themselves():
    """event, distinct_id, time and either name of the insert id; all others are properties, as written."""
    for name in ("$insert_id", "insert_id"):
        rest = f'"{name}":7,"a":1.50,"b":null,"c":{{"d":[1e2]}}'
        text = f'{{"event":"E","distinct_id":5,"time":1700000000,{rest}}}'
        (stored,), refused = accept(EventMapping(event="event"), text)
        assert refused == []
        assert stored == (
            b'{"event":"E","properties":{"time":1700000000,"distinct_id":"5","$insert_id":"7",'
            b'"a":1.50,"b":null,"c":{"d":[1e2]}}}'
        )


def test_columns_that_are_named_are_taken():
    """Each role from its column; a constant name beside a column event leaves that a property."""
    text = '{"event":"x","who":"u","at":1700000000,"key":"k","n":1}'
    options = {"distinct_id": "who", "time": "at", "insert_id": "key"}
    expected = {"distinct_id": "u", "time": 1700000000, "$insert_id": "k", "n": 1}
    assert mapped(text, event="n", **options)["event"] == "1"
    assert mapped(text, name="E", **options) == {"event": "E", "properties": {**expected, "event": "x"}}


def test_properties_can_be_chosen():
    """Only some, all but some, and text instead of numbers."""
    text = '{"time":1700000000,"$insert_id":"k","a":1,"b":2.50,"c":true,"d":[1]}'

    def properties(**options: object) -> dict:
        found = mapped(text, name="E", **options)["properties"]
        return {key: value for key, value in found.items() if key not in ("time", "$insert_id")}

    assert properties(only=["c", "a", "x"]) == {"c": True, "a": 1}
    assert properties(only=[""]) == {}
    assert properties(dropped=frozenset("ab")) == {"c": True, "d": [1]}
    texts = properties(texts=frozenset("abcd"))
    assert texts == {"a": "1", "b": "2.50", "c": "true", "d": [1]}


def test_values_that_are_null_are_no_ids_and_no_times():
    """null as an id or time is as if it were not there; an empty id stays one."""
    text = '{"event":"E","distinct_id":null,"time":null,"$insert_id":null}'
    properties = mapped(text, event="event")["properties"]
    assert properties["time"] == NOW_MS
    assert "distinct_id" not in properties
    assert len(properties["$insert_id"]) == 32
    assert mapped('{"event":"E","distinct_id":""}', event="event")["properties"]["distinct_id"] == ""


BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("given", "options", "time"),
    [
        ("1700000000", {}, 1700000000),
        ('"1700000000.5"', {}, 1700000000500),
        ("1700000000000000", {}, 1700000000000),
        ('"2024-01-02T03:04:05Z"', {}, 1704164645000),
        ('"2024-01-02 03:04:05.678 UTC"', {}, 1704164645678),
        ('"2024-01-02 04:04:05 +0100"', {}, 1704164645000),
        ('"2024-01-02 03:04:05.123456+00"', {}, 1704164645123),
        ('"2024-01-02 04:04:05"', {"zone": BERLIN}, 1704164645000),
        ('"2024-07-02"', {"zone": BERLIN}, 1719871200000),
        ('"2024-01-02T04:04:05"', {"zone": timezone(timedelta(hours=1))}, 1704164645000),
        ('"2024-01-02T03:04:05Z"', {"zone": BERLIN}, 1704164645000),
        # Twice on the clock: the first. Never on the clock: an hour later.
        ('"2024-10-27 02:30"', {"zone": BERLIN}, 1729989000000),
        ('"2024-03-31 02:30"', {"zone": BERLIN}, 1711848600000),
        ("1700000000", {"zone": BERLIN}, 1700000000),
        ('"02.01.2024 04:04"', {"time_format": "%d.%m.%Y %H:%M", "zone": BERLIN}, 1704164640000),
        ("20240102", {"time_format": "%Y%m%d", "zone": UTC}, 1704153600000),
        ('"02/Jan/2024:03:04:05 +0000"', {"time_format": "%d/%b/%Y:%H:%M:%S %z"}, 1704164645000),
        ("1700000000.25", {"time_format": "s"}, 1700000000250),
        ('"1700000000250"', {"time_format": "ms"}, 1700000000250),
        ("1700000000250999", {"time_format": "us"}, 1700000000250),
        ("1700000000250999999", {"time_format": "ns"}, 1700000000250),
        ("60000000000", {"time_format": "ms"}, 60000000),
    ],
)
def test_times_are_read_as_they_are_meant(given, options, time):
    """A time is the same moment in whichever form it is given."""
    assert mapped(f'{{"event":"E","time":{given}}}', event="event", **options)["properties"]["time"] == time


@settings(max_examples=300, deadline=None)
@given(
    st.datetimes(datetime(1974, 1, 1), datetime(2025, 9, 1)),
    st.sampled_from(["Europe/Berlin", "America/Los_Angeles", "Asia/Kolkata", "UTC"]),
)
def test_a_local_time_is_what_its_clock_showed(moment, zone):
    """What a clock showed once is stored as that moment, from tables and from exports."""
    moment = moment.replace(microsecond=0)
    local = moment.replace(tzinfo=ZoneInfo(zone))
    if (
        local.astimezone(UTC).astimezone(ZoneInfo(zone)) != local
        or local.utcoffset() != local.replace(fold=1).utcoffset()
    ):
        return
    options = {"event": "event", "zone": ZoneInfo(zone)}
    in_table = mapped(f'{{"event":"E","time":"{moment.isoformat()}"}}', **options)
    seconds = int(moment.replace(tzinfo=UTC).timestamp())
    in_export = mapped(f'{{"event":"E","properties":{{"time":{seconds}}}}}', zone=ZoneInfo(zone))
    assert in_table["properties"]["time"] == in_export["properties"]["time"]
    assert in_table["properties"]["time"] == int(local.timestamp() * 1000)


def test_only_the_time_of_an_export_changes():
    """With a zone, the local time of an event in Mixpanel's form becomes UTC; all else stays as written."""
    text = (
        b'{"event":"E", "properties":{"a": 1.0,"time":1652825148,"distinct_id":"u",'
        b'"$insert_id":"k","mp_processing_time_ms":1652850348643}}'
    )
    zone = ZoneInfo("America/Los_Angeles")
    (stored,), _ = accept(EventMapping(zone=zone), text.decode())
    assert stored == text.replace(b", ", b",").replace(b": 1", b":1").replace(b"1652825148", b"1652850348000")
    (stored,), _ = accept(EventMapping(zone=zone), text.decode().replace("25148", "25148123"))
    assert b'"time":1652850348123,' in stored


@pytest.mark.parametrize(
    ("text", "options", "why"),
    [
        ('{"a":1}', {"event": "kind"}, "'kind' must not be missing or blank"),
        ('{"k":"E","at":5}', {"event": "k", "time": "at"}, "'at' is invalid: must not be before 1971"),
        (
            '{"k":"E","at":"noon"}',
            {"event": "k", "time": "at"},
            "'at' is invalid: 'noon' is not a time in ISO",
        ),
        ('{"k":"E","time":"2024-01-02T03:04"}', {"event": "k"}, "has no time zone; give --time-zone"),
        ('{"k":"E","time":"x"}', {"event": "k", "time_format": "%Y"}, "is not a time of the form %Y"),
        ('{"k":"E","time":"x"}', {"event": "k", "time_format": "ms"}, "is not a number of ms"),
        ('{"k":"E","who":"null"}', {"event": "k", "distinct_id": "who"}, "'who' is invalid"),
        ('{"k":"E","key":"a b"}', {"event": "k", "insert_id": "key"}, "'key' is invalid"),
        ('{"k":"E","a":{"b":NaN}}', {"event": "k"}, "not JSON"),
        ('{"k":"E","a":"\\ud800"}', {"event": "k"}, "'a' is invalid"),
        ('{"k":"E","a":1,"a":2}', {"event": "k"}, "duplicate key 'a'"),
        ('{"event":"E","properties":{"a":1,"a":2}}', {"zone": UTC}, "duplicate key"),
        ('{"event":"E","properties":{}}', {"name": "E"}, "takes only --time-zone"),
        ('{"k":"E","userId":"u","time":1700000000}', {"event": "k"}, "--distinct-id-column userId"),
        ('{"k":"E","created_at":"2024-01-02"}', {"event": "k"}, "--time-column created_at"),
        ("[1]", {"event": "k"}, "not an event: a list"),
        ("nonsense", {"event": "k"}, "not JSON"),
        ('{"k":"E",', {"event": "k"}, "not JSON"),
    ],
)
def test_a_refusal_names_the_column(text, options, why):
    """What can't be an event is refused with the name that the column has for its user."""
    assert why in refusal(text, **options)


def test_a_row_that_is_not_utf8_is_refused_by_its_column():
    """The column and the remedy are named."""
    with pytest.raises(EventError, match=r"in 'b'.*iconv"):
        EventMapping(name="E").event_of({"a": '"x"', "b": '"\udce9"'})


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"time_zone": "Europe/Berln"}, "Did you mean Europe/Berlin"),
        ({"time_zone": "+25:00"}, "is no time zone"),
        ({"time_zone": "../etc/passwd"}, "is no time zone"),
        ({"time_zone": ""}, "is no time zone"),
        ({"time_format": "%H:%M"}, "has no year"),
        ({"time_format": "%Q"}, "--time-format '%Q'"),
        ({"time_format": "seconds"}, "--time-format 'seconds'"),
        ({"columns": "a", "drop_columns": "b"}, "Remove one or the other"),
        ({"event_column": "\udcff"}, "is not UTF-8"),
    ],
)
def test_options_that_can_not_be_understood_are_named(given, why):
    """A wrong zone, form or combination is an error at once, with the remedy."""
    with pytest.raises(UsageError) as raised:
        build_mapping(None, NOTHING | given)
    assert why in str(raised.value)


def test_a_name_and_a_column_for_it_contradict_each_other():
    """Both give the name of the event."""
    with pytest.raises(UsageError, match="both give the event's name"):
        build_mapping("E", NOTHING | {"event_column": "a"})
    with pytest.raises(UsageError, match="blank"):
        build_mapping(" ", NOTHING)


@pytest.mark.parametrize("zone", ["UTC", "Z", "+02:00", "-0330", "Asia/Kolkata"])
def test_zones_have_several_forms(zone):
    """UTC, offsets and names are zones; lists of columns may quote a comma, and name what has no name."""
    mapping = build_mapping("E", NOTHING | {"time_zone": zone, "drop_columns": 'a, "b,c",'})
    assert mapping
    assert mapping.zone is not None
    assert mapping.dropped == {"a", "b,c", ""}
    without = build_mapping("E", NOTHING | {"drop_columns": ""})
    assert without
    assert without.dropped == {""}
    assert build_mapping(None, NOTHING) is None
