"""The words by which refusals are counted, held against the refusals themselves."""

from __future__ import annotations

import datetime
import json

import pytest

from forwarder.errors import EventError
from forwarder.records import EVENTS
from forwarder.records.event import encode
from forwarder.records.reading.array import too_long

NOW_MS = 1_700_000_000_000


def _event(**properties: object) -> str:
    return json.dumps({"event": "E", "properties": properties})


REFUSED = {
    "not_utf8": [b'{"event": "\xff"}'],
    "not_json": ["event=E", '{"event": "E"'],
    "too_large": [_event(a="x" * 1_000_000)],
    "too_deep": ["[" * 200_000, '{"event": "E", "properties": ' + '{"a":' * 200 + "1" + "}" * 201],
    "not_an_event": ["[]", "7"],
    "event_name": ["{}", '{"event": " ", "properties": {}}'],
    "properties": ['{"event": "E"}', '{"event": "E", "properties": []}'],
    "beside_properties": ['{"event": "E", "properties": {}, "time": 7, "distinct_id": "d"}'],
    "duplicate_key": ['{"event": "E", "properties": {"time": 1, "time": 2}}'],
    "time": [_event(time="now"), _event(time=1)[:-3] + "NaN}}", _event(time=10**30)],
    "insert_id": [_event(**{"$insert_id": "a b"}), _event(**{"$insert_id": 7})],
    "distinct_id": [_event(distinct_id="null")],
    "too_many_values": [_event(a=[0] * 256), _event(a={"b": dict.fromkeys(map(str, range(256)))})],
    "value": ['{"event": "E", "properties": {"a": NaN}}', '{"event": "E", "properties": {"a": "\\ud800"}}'],
}


def _reason(text: str | bytes) -> str:
    with pytest.raises(EventError) as refused:
        EVENTS.accept(text.encode() if isinstance(text, str) else text, NOW_MS)
    return str(refused.value)


@pytest.mark.parametrize("word", REFUSED)
def test_each_refusal_has_its_word(word: str) -> None:
    """What is refused for a reason is counted by its word, also as one event of a line with several."""
    reasons = [_reason(text) for text in REFUSED[word]]
    assert [(EVENTS.word_for(reason), reason) for reason in reasons] == [(word, reason) for reason in reasons]
    assert {EVENTS.word_for(f"event 12 of 70: {reason}") for reason in reasons} == {word}


def test_there_are_no_other_words() -> None:
    """The words are those that something is refused by, and one for whatever may come."""
    assert list(EVENTS.reasons) == [*REFUSED, "other"]
    assert EVENTS.word_for("it rains") == "other"
    assert EVENTS.word_for(too_long(10, b"")) == "too_large"


@pytest.mark.parametrize(
    ("event", "word"),
    [
        (7, "not_an_event"),
        ({"event": "E", "properties": {"a": float("nan")}}, "value"),
        ({"event": "E", "properties": {"a": object()}}, "value"),
        ({"event": "E", "properties": {7: 1}}, "value"),
        ({"event": "E", "properties": {"time": datetime.date(2024, 1, 2)}}, "time"),
    ],
)
def test_what_python_can_not_encode_has_its_word(event: object, word: str) -> None:
    """So have objects that are no JSON."""
    with pytest.raises(EventError) as refused:
        encode(event)
    assert EVENTS.word_for(str(refused.value)) == word
