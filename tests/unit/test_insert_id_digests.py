"""Of what a missing ``$insert_id`` is made."""

import json
import random

import pytest

from forwarder.errors import EventError
from forwarder.records.event import accept
from forwarder.records.event.insert_ids import digest_of, insert_id_of
from forwarder.records.event.rules import INSERT_ID

EVENT = {"event": "E", "properties": {"time": 1, "distinct_id": "a", "n": {"x": 1.5, "y": ["é", None]}}}


def line(**properties):
    return json.dumps({"event": "E", "properties": {**EVENT["properties"], **properties}}).encode()


def test_spelling_does_not_matter():
    """Neither the order of keys nor spacing nor escapes change the digest."""
    turned = {"properties": dict(reversed(EVENT["properties"].items())), "event": "E"}
    spellings = [
        json.dumps(EVENT),
        json.dumps(turned, indent=2),
        f" {json.dumps(EVENT, ensure_ascii=False, separators=(',', ':'))}\r\n",
    ]
    assert len({digest_of(text.encode()) for text in spellings}) == 1


@pytest.mark.parametrize(
    "changed", [{"time": 2}, {"time": "1"}, {"distinct_id": "b"}, {"n": {"x": 1.5}}, {"more": None}]
)
def test_content_matters(changed):
    """Each member of properties, its type and its absence are in the digest."""
    assert digest_of(line(**changed)) != digest_of(line())


def test_ids_are_what_mixpanel_takes():
    """Each position gives another id, in the form that Mixpanel accepts."""
    digest = digest_of(line())
    ids = {insert_id_of(digest, position) for position in range(100)}
    assert len(ids) == 100
    assert all(INSERT_ID.fullmatch(found) and len(found) == 32 for found in ids)


def test_only_the_fields_matter():
    """Made of fields, the rest of the event does not matter, nor in which order they are named."""
    fields = ["event", "time", "order"]
    assert digest_of(line(order=7, seen=1), fields) == digest_of(line(seen=2, order=7), fields[::-1])
    assert digest_of(line(order=7), fields) != digest_of(line(order="7"), fields)


@pytest.mark.parametrize("order", [{}, {"order": None}])
def test_field_that_is_missing_is_an_error(order):
    """An event without one of the fields, or with null there, has nothing that tells it from others."""
    with pytest.raises(EventError, match="the event has no 'order'"):
        digest_of(line(**order), ["order"])


@pytest.mark.parametrize("fields", [[], ["n"]])
def test_time_that_is_missing_is_an_error(fields):
    """Without a time of its own the event would get another one each time, and be no repeat."""
    with pytest.raises(EventError, match=r"'properties\.time' must not be missing"):
        digest_of(b'{"event": "E", "properties": {"n": 1}}', fields)


def test_what_needs_none():
    """An event with an id of its own needs none; what is not one event is for others to judge."""
    assert digest_of(line(**{"$insert_id": "x"})) == b""
    for other in (b"", b"[]", b"{", b'{"event": "E"}', b"\xff", b"[" * 10**5, line() + line()):
        assert digest_of(other) is None
    with pytest.raises(EventError, match="can't be made"):
        digest_of(line().replace(b"1.5", b"9" * 5000))


@pytest.mark.parametrize(
    "value", [b"1e999", b'"\x7f"', b'"\\u00e9"', b'{"k":1,"k":2}', b"1E-400", b"-0", b'"\x01"', b"NaN"]
)
def test_what_is_accepted_has_one(value):
    """An event that the product takes gets no random id by being read in another way."""
    text = b' {"event":"E","properties":{"time":1700000000,"a":%s}}\x0b' % value
    try:
        accept(text, 1_800_000_000_000)
    except EventError:
        assert value in (b'"\x01"', b"NaN")
    else:
        assert digest_of(text)


def test_occurrences_are_exact():
    """How many equal ones came before is exact over calls, whatever their sizes and order."""
    from forwarder.spool import Occurrences

    chance = random.Random(1)
    seen: dict[bytes, int] = {}
    occurrences = Occurrences()
    for _ in range(20):
        digests = [b"%d" % chance.randrange(300) for _ in range(chance.randrange(200))]
        expected = []
        for digest in digests:
            expected.append(seen.get(digest, 0))
            seen[digest] = expected[-1] + 1
        assert occurrences.positions(digests) == expected
    assert max(seen.values()) > 3
    occurrences.close()
