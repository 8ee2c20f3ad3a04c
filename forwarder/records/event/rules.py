"""The rules an event is held to, and the words in which it is refused.

*Structure* always holds: valid JSON in UTF-8 without NaN, lone surrogates or duplicate keys; an object
with ``event`` (a string that is not blank) and ``properties`` (an object); at most 1 MB; at most 100
levels deep. *Rules* are what Mixpanel's strict mode refuses, as its documentation has it (Mixpanel docs,
"Import Events"; messages as observed there): they can be left to Mixpanel. Where the documentation
contradicts itself the milder reading is taken, so that nothing is refused here that Mixpanel would take:
255 properties pass, not counting ``time`` and ``$insert_id`` which every event gets; depth is not limited
to 3; a missing ``distinct_id`` is left to Mixpanel, whose answer depends on the project.

This module is the careful reading, which names what is wrong; :mod:`forwarder.records.event.accept` has a
fast one that only ever says "clean".
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from forwarder.errors import EventError

# "Each event must be smaller than 1MB of uncompressed JSON"; read as 10**6, the smaller of the two.
MAX_EVENT_BYTES = 1_000_000
MAX_MEMBERS = 255
MAX_DEPTH = 100
# time is "seconds or milliseconds since epoch". 10**11 s is the year 5138, 10**11 ms is 1973.
MILLISECONDS_FROM = 10**11
EARLIEST_MS = 31_536_000_000  # 1971-01-01
MAX_AHEAD_MS = 3_600_000  # "more than 1 hour in the future"
# Disallowed as distinct_id and as $insert_id, whatever the case ("Import Events").
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
INSERT_ID = re.compile(r"[A-Za-z0-9-]{1,36}")


class _Number(str):
    """A number as it was written."""

    __slots__ = ()


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise EventError(f"duplicate key {twice!r}")
    return members


def _constant(name: str) -> Any:
    raise EventError(f"{name} is not JSON; use null or leave it out")


_decoder = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_int=_Number, parse_float=_Number, parse_constant=_constant
)


def parse(line: bytes) -> dict[str, Any]:
    """Read one JSON text as an event, carefully.

    Returns:
        its members; numbers as they were written.

    Raises:
        EventError: with the first thing that is wrong with its structure.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise EventError(f"not UTF-8 (byte {error.start + 1})") from None
    try:
        event = _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise EventError(f"not JSON: {error.msg} (column {error.pos + 1})") from None
    except RecursionError:
        raise EventError(f"nested more than {MAX_DEPTH} levels deep") from None
    if not isinstance(event, dict):
        kind = "a list" if isinstance(event, list) else "a single value"
        raise EventError(f"not an event: {kind}, where an object with 'event' and 'properties' is expected")
    _check_strings(event, MAX_DEPTH)
    name = event.get("event")
    if not isinstance(name, str) or isinstance(name, _Number) or not name.strip():
        raise EventError("'event' must not be missing or blank; it is the event's name, a string")
    properties = event.get("properties")
    if not isinstance(properties, dict):
        if properties is None:
            raise EventError("'properties' must not be missing; it is an object")
        kind = "an array" if isinstance(properties, list) else "a single value"
        raise EventError(f"'properties' must be an object, not {kind}")
    return event


def _check_strings(value: Any, levels: int) -> None:
    """Refuse what is nested too deep, and lone surrogates, which no UTF-8 can hold."""
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise EventError("a string holds half of a surrogate pair (\\ud800-\\udfff)") from None
    elif isinstance(value, (dict, list)):
        if levels == 0:
            raise EventError(f"nested more than {MAX_DEPTH} levels deep")
        if isinstance(value, dict):
            for key in value:
                _check_strings(key, levels)
        for member in value.values() if isinstance(value, dict) else value:
            _check_strings(member, levels - 1)


def check(event: dict[str, Any], now_ms: int) -> None:
    """Hold a parsed event to Mixpanel's rules.

    Args:
        event: As `parse` returns it.
        now_ms: This host's time, in ms since the epoch.

    Raises:
        EventError: with the first rule it breaks, in Mixpanel's words where they are known.
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
            f"'properties.distinct_id' is invalid: {written!r} is not an id that Mixpanel takes; "
            'use "" for an event of nobody'
        )


def _check_sizes(value: Any, where: str, uncounted: int = 0) -> None:
    if isinstance(value, dict):
        count = len(value) - uncounted
        if count > MAX_MEMBERS:
            raise EventError(f"'{where}' is invalid: {count} keys, at most {MAX_MEMBERS} are allowed")
        for key, member in value.items():
            _check_sizes(member, f"{where}.{key}")
    elif isinstance(value, list):
        if len(value) > MAX_MEMBERS:
            raise EventError(
                f"'{where}' is invalid: {len(value)} elements, at most {MAX_MEMBERS} are allowed"
            )
        for member in value:
            _check_sizes(member, f"{where}[]")


def _check_time(value: Any, now_ms: int) -> None:
    if not isinstance(value, _Number):
        raise EventError(
            "'properties.time' is invalid: must be specified as seconds or milliseconds since epoch, "
            "as a number; leave it out to have it filled in"
        )
    fault = time_fault(float(value), now_ms)
    if fault:
        raise EventError(f"'properties.time' is invalid: {fault}")


def time_fault(time: float, now_ms: int) -> str:
    """What is wrong with *time* (seconds or milliseconds since the epoch), or ``""``."""
    milliseconds = time if time >= MILLISECONDS_FROM else time * 1000
    if milliseconds < EARLIEST_MS:
        return "must not be before 1971-01-01"
    if milliseconds > now_ms + MAX_AHEAD_MS or math.isinf(milliseconds):
        return "must not be in the future (more than 1 hour ahead of this host's clock)"
    return ""


def _check_insert_id(value: Any) -> None:
    if not isinstance(value, str) or isinstance(value, _Number):
        fault = "must be a string; leave it out to have it filled in"
    elif not value:
        fault = "must not be blank; leave it out to have it filled in"
    elif len(value.encode()) > 36:
        fault = f"must be at most 36 bytes, not {len(value.encode())}"
    elif not INSERT_ID.fullmatch(value):
        fault = "must only contain alphanumeric or hyphen '-' characters"
    elif value.lower() in BAD_IDS:
        fault = f"{value!r} is not an id that Mixpanel takes"
    else:
        return
    raise EventError(f"'properties.$insert_id' is invalid: {fault}")
