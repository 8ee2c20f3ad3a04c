"""A word for each reason why an event is refused, to count by; its text says more than can be counted."""

from __future__ import annotations

import re
from functools import cache, lru_cache

# Word: how the reason's text begins.
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


@lru_cache(256)  # equal mistakes come in thousands
def word_for(reason: str) -> str:
    """The one of `REASONS` that fits."""
    found = _pattern().match(reason)
    return (found and found.lastgroup) or "other"


@cache
def _pattern() -> re.Pattern[str]:
    # Compiled by those who are refused something. One event of a line is told by its number.
    words = "|".join(f"(?P<{word}>{beginning})" for word, beginning in _BEGINNINGS.items())
    return re.compile(rf"(?:event \d+ of \d+: )?(?:{words})", re.DOTALL)
