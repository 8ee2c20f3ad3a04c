"""The words for the reasons why an event is refused, used for counting."""

from __future__ import annotations

from collections.abc import Sequence

from forwarder.records.reasons import COMMON, COMMON_VALUES, Reasons

_reasons = Reasons(
    {
        **COMMON,
        "not_an_event": "not an event|an event is",
        "event_name": "'event'",
        "properties": "'properties' must",
        "beside_properties": ".* beside 'properties'",
        "duplicate_key": "duplicate key",
        "time": r"'properties\.time'",
        "insert_id": r"'properties\.\$insert_id'",
        "distinct_id": r"'properties\.distinct_id'",
        **COMMON_VALUES,
    }
)
reasons: Sequence[str] = _reasons.words
word_for = _reasons.word_for
