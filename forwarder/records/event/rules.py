"""The rules for events, and the reasons for a refusal.

*Structure* always holds: valid JSON in UTF-8 without NaN and lone surrogates, and none of `ONCE` twice in an
object; an object with ``event`` (a string that is not blank) and ``properties`` (an object); at most 1 MB;
at most 100 levels deep. *Rules* are what Mixpanel's strict mode refuses (Mixpanel docs, "Import Events";
messages as observed there); checking them can be left to Mixpanel. Where the documentation contradicts
itself, the milder reading counts, so that nothing is refused here that Mixpanel would accept: 255
properties pass, not counting ``time`` and ``$insert_id``, which each event gets; depth is not limited to 3;
a missing ``distinct_id`` is left to Mixpanel, whose answer depends on the project.

This module is the careful reading, which names the mistake; :mod:`forwarder.records.event.acceptance` has a
fast one that only says "clean".
"""

from __future__ import annotations

import json
import re
from typing import Any

from forwarder.errors import EventError
from forwarder.records import json_object
from forwarder.records.event import when
from forwarder.records.event.forms import data_beside, guess
from forwarder.records.json_object import Number, cut, path_to, shown

# "Each event must be smaller than 1MB of uncompressed JSON"; read as 10**6, the smaller of the two.
MAX_EVENT_BYTES = 1_000_000
MAX_MEMBERS = 255
# Disallowed as distinct_id and as $insert_id, case-insensitive ("Import Events").
BAD_IDS = frozenset(
    [
        "00000000-0000-0000-0000-000000000000",
        "anon",
        "anonymous",
        "nil",
        "none",
        "null",
        "n/a",
        "na",
        "undefined",
        "unknown",
        "<nil>",
        "0",
        "-1",
        "true",
        "false",
        "[]",
        "{}",
        "lmy47d",
    ]
)
# What decides what the event is. Another key may stand twice in an object: it is sent as it is written.
ONCE = frozenset(["event", "properties", "time", "$insert_id", "distinct_id"])
INSERT_ID = re.compile(r"[A-Za-z0-9-]{1,36}")


def parse(line: bytes, rules: bool = True) -> dict[str, Any]:
    """Read one JSON text as an event, with care.

    Args:
        rules: Whether all members beside ``event`` and ``properties`` are refused, or only those of
            `forms.NEVER_BESIDE`.

    Returns:
        its members; numbers as they were written.

    Raises:
        EventError: with the first mistake in its structure, and the path.
    """
    event = json_object.read(line, "event", ONCE)
    if not isinstance(event, dict):
        kind = "a list" if isinstance(event, list) else "a single value"
        raise EventError(f"not an event: {kind}, where an object with 'event' and 'properties' is expected")
    name = event.get("event")
    if not isinstance(name, str) or isinstance(name, Number) or not name.strip():
        found = f", not {shown(name)}" if "event" in event else ""
        raise EventError(
            f"'event' must not be missing or blank; it is the event's name, a string{found}{guess(event)}"
        )
    properties = event.get("properties")
    if not isinstance(properties, dict):
        if properties is None:
            raise EventError(f"'properties' must not be missing; it is an object{guess(event)}")
        kind = "an array" if isinstance(properties, list) else "a single value"
        raise EventError(f"'properties' must be an object, not {kind}: {shown(properties)}")
    if len(event) > 2 and (fault := data_beside(event, rules)):
        raise EventError(fault)
    return event


def check(event: dict[str, Any], now_ms: int) -> None:
    """Check a parsed event against Mixpanel's rules.

    Args:
        event: What `parse` has returned.
        now_ms: This host's time, in ms since the epoch.

    Raises:
        EventError: with the first broken rule, in Mixpanel's words if they are known.
    """
    properties = event["properties"]
    _check_sizes(properties, "properties", ("time" in properties) + ("$insert_id" in properties))
    if "time" in properties:
        _check_time(properties["time"], now_ms)
    if "$insert_id" in properties:
        _check_insert_id(properties["$insert_id"])
    identity = properties.get("distinct_id", "")
    written = identity if isinstance(identity, str) else json.dumps(identity)
    if written.lower() in BAD_IDS:
        raise EventError(
            f"'properties.distinct_id' is invalid: {written!r} is not an id that Mixpanel accepts; "
            'use "" for an event without a user'
        )


def _check_sizes(value: Any, where: str, uncounted: int = 0) -> None:
    if isinstance(value, dict):
        count = len(value) - uncounted
        if count > MAX_MEMBERS:
            raise EventError(
                f"'{where}' is invalid: {count} keys, at most {MAX_MEMBERS} are allowed; leave some out"
            )
        for key, member in value.items():
            if isinstance(member, (dict, list)):
                _check_sizes(member, path_to(where, key))
    elif isinstance(value, list):
        if len(value) > MAX_MEMBERS:
            raise EventError(
                f"'{where}' is invalid: {len(value)} elements, at most {MAX_MEMBERS} are allowed; "
                "leave some out"
            )
        for index, member in enumerate(value):
            if isinstance(member, (dict, list)):
                _check_sizes(member, path_to(where, index))


def _check_time(value: Any, now_ms: int) -> None:
    if not isinstance(value, Number):
        raise EventError(
            "'properties.time' is invalid: must be specified as seconds or milliseconds since epoch, as a "
            f"number, or in ISO 8601 with Z or an offset like +02:00, not {shown(value)}; leave it out to "
            "have it filled in"
        )
    fault = when.fault(float(value), now_ms)
    if fault:
        raise EventError(f"'properties.time' is invalid: {fault}: {cut(value)}")


def _check_insert_id(value: Any) -> None:
    if not isinstance(value, str) or isinstance(value, Number):
        fault = f"must be a string, not {shown(value)}; leave it out to have it filled in"
    elif not value:
        fault = "must not be blank; leave it out to have it filled in"
    elif len(value.encode()) > 36:
        fault = f"must be at most 36 bytes, not {len(value.encode())}: {cut(value)!r}"
    elif not INSERT_ID.fullmatch(value):
        fault = f"must only contain alphanumeric or hyphen '-' characters, unlike {value!r}"
    elif value.lower() in BAD_IDS:
        fault = f"{value!r} is not an id that Mixpanel accepts; leave it out to have it filled in"
    else:
        return
    raise EventError(f"'properties.$insert_id' is invalid: {fault}")


def whole_time(given: Any, now_ms: int) -> int | None:
    """The value to store for a parsed ``time``, if it is certain and another one; None: keep the text."""
    if isinstance(given, Number):
        return when.from_number(given, now_ms)
    return when.from_text(given) if isinstance(given, str) else None


def number(value: int) -> str:
    """*value* as `parse` would return it."""
    return Number(value)
