"""A word for each reason for a refusal, used for counting; the reason's text is too specific for that."""

from __future__ import annotations

import re
from functools import cache, lru_cache

# Word: the beginning of the reason's text.
_BEGINNINGS = {
    "not_utf8": "not UTF-8",
    "not_json": "not JSON",
    "too_large": r"\d+ bytes long|longer than",
    "too_deep": r"(?:'.{0,90}' is (?:invalid: )?)?nested more than",
    "not_an_event": "not an event|an event is",
    "event_name": "'event'",
    "properties": "'properties' must",
    "beside_properties": ".* beside 'properties'",
    "duplicate_key": "duplicate key",
    "time": r"'properties\.time'",
    "insert_id": r"'properties\.\$insert_id'",
    "distinct_id": r"'properties\.distinct_id'",
    "too_many_values": r"'.*' is invalid: \d+ (?:keys|elements)",
    "value": "'|the key",
}
REASONS = (*_BEGINNINGS, "other")


@lru_cache(256)  # equal mistakes come by the thousand
def word_for(reason: str) -> str:
    """The word of `REASONS` that fits."""
    found = _pattern().match(reason)
    return (found and found.lastgroup) or "other"


@cache
def _pattern() -> re.Pattern[str]:
    # Compiled only when something is refused. The prefix names one of several events in a line.
    words = "|".join(f"(?P<{word}>{beginning})" for word, beginning in _BEGINNINGS.items())
    return re.compile(rf"(?:event \d+ of \d+: )?(?:{words})", re.DOTALL)
