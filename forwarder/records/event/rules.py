"""The rules for events, and the reasons for a refusal.

*Structure* always holds: valid JSON in UTF-8 without NaN, lone surrogates or duplicate keys; an object
with ``event`` (a string that is not blank) and ``properties`` (an object); at most 1 MB; at most 100
levels deep. *Rules* are what Mixpanel's strict mode refuses (Mixpanel docs, "Import Events"; messages as
observed there); checking them can be left to Mixpanel. Where the documentation contradicts itself, the
milder reading counts, so that nothing is refused here that Mixpanel would accept: 255 properties pass, not
counting ``time`` and ``$insert_id``, which each event gets; depth is not limited to 3; a missing
``distinct_id`` is left to Mixpanel, whose answer depends on the project.

This module is the careful reading, which names the mistake; :mod:`forwarder.records.event.accept` has a
fast one that only says "clean".
"""

from __future__ import annotations

import json
import re
from typing import Any

from forwarder.errors import EventError, printable
from forwarder.records.event import when
from forwarder.records.event.forms import data_beside, guess

# "Each event must be smaller than 1MB of uncompressed JSON"; read as 10**6, the smaller of the two.
MAX_EVENT_BYTES = 1_000_000
MAX_MEMBERS = 255
MAX_DEPTH = 100
HALF_A_PAIR = "the string holds half of a surrogate pair (\\ud800-\\udfff); write the whole character"
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
INSERT_ID = re.compile(r"[A-Za-z0-9-]{1,36}")


class _Number(str):
    """A number as written."""

    __slots__ = ()


class _Constant(str):
    """NaN, Infinity or -Infinity, which are not JSON."""

    __slots__ = ()


class _Repeating(dict[str, Any]):
    """An object that has a key twice: `twice`."""

    twice = ""


class _FlawError(Exception):
    """Something that JSON does not have; `_name_flaw` finds out where."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise _FlawError
    return members


def _constant(_name: str) -> Any:
    raise _FlawError


def _pairs_with_flaws(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        members = _Repeating(pairs)
        members.twice = twice
    return members


_decoder = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_int=_Number, parse_float=_Number, parse_constant=_constant
)
_decoder_of_flaws = json.JSONDecoder(
    object_pairs_hook=_pairs_with_flaws, parse_int=_Number, parse_float=_Number, parse_constant=_Constant
)


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
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise EventError(
            f"not UTF-8 (byte {error.start + 1}); convert it, for example with iconv -f LATIN1 -t UTF-8"
        ) from None
    try:
        try:
            event = _decoder.decode(text)
            _check_values(event, MAX_DEPTH)
        except _FlawError:
            event = _decoder_of_flaws.decode(text)
            _name_flaw(event, "", MAX_DEPTH)
    except json.JSONDecodeError as error:
        raise EventError(f"not JSON: {error.msg} (column {error.pos + 1}){_near(text, error)}") from None
    except RecursionError:
        raise EventError(f"nested more than {MAX_DEPTH} levels deep") from None
    if not isinstance(event, dict):
        kind = "a list" if isinstance(event, list) else "a single value"
        raise EventError(f"not an event: {kind}, where an object with 'event' and 'properties' is expected")
    name = event.get("event")
    if not isinstance(name, str) or isinstance(name, _Number) or not name.strip():
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


def _near(text: str, error: json.JSONDecodeError) -> str:
    """What *text* has where it is not JSON, and what to do about it."""
    rest = text[error.pos :]
    if text.lstrip().startswith(("{'", '{"')) and re.match(r"'|None\b|True\b|False\b", rest):
        return ": this is how Python prints a dict; write it with json.dumps"
    if (
        re.match(r"[,\s]*[}\]]", rest) and re.search(r",\s*$", text[: error.pos])
    ) or "trailing comma" in error.msg:
        return ": remove the comma before the closing bracket"
    if not rest.strip() or error.msg.startswith("Unterminated"):
        return ": it is cut short, or it spans several lines; jq -c . puts it on one"
    if error.msg == "Extra data":
        return f", from {_cut(rest)!r} on: one event is expected; jq -c . puts each on its own line"
    return f", at {_cut(rest)!r}"


def _cut(text: str, limit: int = 30) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def shown(value: Any) -> str:
    """A parsed value in a few words, for a message."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'an array'} of {len(value)}"
    if isinstance(value, str) and not isinstance(value, _Number):
        return f"the text {_cut(value)!r}"
    return _cut(value if isinstance(value, str) else json.dumps(value))


def path_to(where: str, step: str | int) -> str:
    """The path of a member or element of what is at *where*, as ``--set`` takes it: ``properties.a[0]``."""
    if isinstance(step, int):
        return f"{where}[{step}]"
    name = printable(step.replace("\\", "\\\\").replace(".", "\\."))
    return f"{where}.{name}" if where else name


def _check_values(value: Any, levels: int) -> None:
    """Raise `_FlawError` for too deep nesting and for half surrogate pairs, which UTF-8 can't encode."""
    if isinstance(value, str):
        if not value.isascii() and not is_whole(value):
            raise _FlawError
    elif isinstance(value, (dict, list)):
        if levels == 0:
            raise _FlawError
        if isinstance(value, dict):
            for key in value:
                _check_values(key, levels)
        for member in value.values() if isinstance(value, dict) else value:
            _check_values(member, levels - 1)


def _name_flaw(value: Any, where: str, levels: int) -> None:
    """Raise EventError for the first flaw in *value*, which is at the path *where*."""
    if isinstance(value, str):
        if isinstance(value, _Constant):
            raise EventError(f"'{where}' is invalid: {value} is not JSON; use null or leave it out")
        if not is_whole(value):
            raise EventError(f"'{where}' is invalid: {HALF_A_PAIR}")
    elif isinstance(value, (dict, list)):
        if levels == 0:
            raise EventError(f"'{_cut(where, 80)}' is invalid: nested more than {MAX_DEPTH} levels deep")
        if isinstance(value, _Repeating):
            name = path_to(where, value.twice)
            raise EventError(f"duplicate key {value.twice!r} ('{name}'); keep one of them")
        for step, member in value.items() if isinstance(value, dict) else enumerate(value):
            inside = path_to(where, step)
            if isinstance(step, str):
                _name_flaw(step, inside, levels)
            _name_flaw(member, inside, levels - 1)


def is_whole(text: str) -> bool:
    """Whether *text* has no half surrogate pair, which UTF-8 can't encode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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
    if not isinstance(value, _Number):
        raise EventError(
            "'properties.time' is invalid: must be specified as seconds or milliseconds since epoch, as a "
            f"number, or in ISO 8601 with Z or an offset like +02:00, not {shown(value)}; leave it out to "
            "have it filled in"
        )
    fault = when.fault(float(value), now_ms)
    if fault:
        raise EventError(f"'properties.time' is invalid: {fault}: {_cut(value)}")


def _check_insert_id(value: Any) -> None:
    if not isinstance(value, str) or isinstance(value, _Number):
        fault = f"must be a string, not {shown(value)}; leave it out to have it filled in"
    elif not value:
        fault = "must not be blank; leave it out to have it filled in"
    elif len(value.encode()) > 36:
        fault = f"must be at most 36 bytes, not {len(value.encode())}: {_cut(value)!r}"
    elif not INSERT_ID.fullmatch(value):
        fault = f"must only contain alphanumeric or hyphen '-' characters, unlike {value!r}"
    elif value.lower() in BAD_IDS:
        fault = f"{value!r} is not an id that Mixpanel accepts; leave it out to have it filled in"
    else:
        return
    raise EventError(f"'properties.$insert_id' is invalid: {fault}")


def whole_time(given: Any, now_ms: int) -> int | None:
    """The value to store for a parsed ``time``, if it is certain and another one; None: keep the text."""
    if isinstance(given, _Number):
        return when.from_number(given, now_ms)
    return when.from_text(given) if isinstance(given, str) else None


def number(value: int) -> str:
    """*value* as `parse` would return it."""
    return _Number(value)
