"""From a producer's JSON text to the stored bytes: checked, completed, otherwise unchanged."""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from forwarder.errors import EventError
from forwarder.records.event import rules as careful
from forwarder.records.event import when
from forwarder.records.event.rules import BAD_IDS, INSERT_ID, MAX_EVENT_BYTES, MAX_MEMBERS
from forwarder.records.event.when import MICROSECONDS_FROM
from forwarder.records.json_object import MAX_DEPTH
from forwarder.records.lines import content_of, without_breaks, without_mark


class _Shape(msgspec.Struct):
    event: str
    properties: dict[str, Any]


_shape = msgspec.json.Decoder(_Shape).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_insert_id = INSERT_ID.fullmatch
_fraction = re.compile(rb'"time"\s*:\s*([0-9]+\.[0-9]+)(?=[\s,}])').search
_to_value = re.compile(rb'[\s,]*"(?:[^"\\]++|\\.)*+"\s*:\s*', re.DOTALL).match
_OPENING, _OPENING_SPACED = b'"properties":{', b'"properties": {'
# As numbers they are found four times faster.
_BACKSLASH, _LINE_FEED, _RETURN = b"\\\n\r"


def accept(line: bytes, now_ms: int, rules: bool = True, insert_id: str = "") -> bytes:
    """Check and complete one event.

    Args:
        line: One JSON text.
        now_ms: This host's time, in ms since the epoch: fills in a missing ``time``, and the rules use it.
        rules: Whether Mixpanel's rules are checked; structure always is.
        insert_id: Fills in a missing ``$insert_id``; a random one if empty.

    Returns:
        the final bytes, free of line breaks.

    Raises:
        EventError: with the reason.
    """
    line = line.strip()
    if len(line) > MAX_EVENT_BYTES:
        raise EventError(f"{len(line)} bytes long; Mixpanel's limit is {MAX_EVENT_BYTES} bytes")
    found = _read_fast(line, now_ms, rules)
    if found is None:
        line, head, tail, has_time, has_insert_id = _read_carefully(line, now_ms, rules)
    else:
        line, start, has_time, has_insert_id = found
        head, tail = line[:start], line[start:]
    if not (has_time and has_insert_id):
        missing = [] if has_time else [b'"time":%d' % now_ms]
        if not has_insert_id:
            missing.append(b'"$insert_id":"%s"' % (insert_id or uuid.uuid4().hex).encode())
        line = head + b",".join(missing) + (b"" if tail.lstrip()[:1] == b"}" else b",") + tail
        if len(line) > MAX_EVENT_BYTES:
            raise EventError(f"with 'time' and '$insert_id' filled in it has {len(line)} bytes, over 1 MB")
    if _LINE_FEED in line or _RETURN in line:
        line = without_breaks(line)
    return line


def accept_many(
    lines: Sequence[bytes], now_ms: int, rules: bool = True
) -> tuple[list[bytes], list[tuple[int, str]]]:
    """`accept` for many lines: good lines pass, whatever the bad ones are.

    Returns:
        the accepted events' bytes in order, and (index into *lines*, reason) of each refused line.
        Blank lines are neither.
    """
    accepted: list[bytes] = []
    refused: list[tuple[int, str]] = []
    # 96 random bits for the chunk, and a counter: as unique as a UUID, without a system call for each.
    prefix = os.urandom(12).hex()
    for index, line in enumerate(lines):
        if line and not line.isspace():
            try:
                accepted.append(accept(line, now_ms, rules, f"{prefix}{index:08x}"))
            except EventError as error:
                refused.append((index, str(error)))
    return accepted, refused


def complete(data: object, accepted_at: float, queue_id: str, row_id: int) -> bytes:
    """Complete an external producer's event, the same way each time.

    Only its structure is checked. Mixpanel judges the rules, because no producer waits for our answer.

    Args:
        data: The content of the row.
        accepted_at: The row's timestamp, in seconds since the epoch; becomes ``time``.
        queue_id: The queue's identity. ``$insert_id`` is made of it, *row_id* and the data: copies of a
            queue's directory, such as a machine's image, have the same identity and row ids.

    Raises:
        EventError: with the reason why it is not an event.
    """
    content = content_of(data)
    digest = hashlib.sha256(content).hexdigest()
    insert_id = uuid.uuid5(uuid.UUID(queue_id), f"{row_id}:{digest}").hex
    return accept(without_mark(content), int(accepted_at * 1000), rules=False, insert_id=insert_id)


def _read_fast(line: bytes, now_ms: int, rules: bool) -> tuple[bytes, int, bool, bool] | None:
    """Recognise an ordinary, clean event; None: it needs the careful reading.

    Returns:
        the event with a whole ``time``, where missing properties go, and whether ``time`` and ``$insert_id``
        exist.
    """
    try:
        shape = _shape(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    members = shape.properties
    if not shape.event.strip() or not _holds_only(line, members):
        return None
    time = members.get("time")
    if type(time) is float and (whole := _cut_fraction(line, now_ms)):
        line, time = whole
    if time >= MICROSECONDS_FROM if type(time) is int else time is not None:
        return None
    if rules and not _keeps_rules(members, time, now_ms):
        return None
    has_time, has_insert_id = "time" in members, "$insert_id" in members
    if has_time and has_insert_id:
        return line, 0, True, True
    opening = _OPENING
    start = line.find(opening)
    if start < 0:
        # As Python's json writes it.
        opening = _OPENING_SPACED
        start = line.find(opening)
    # If the name is spelt with an escape, the match may be further in.
    if start < 0 or line.count(b"{", 0, start) != 1:
        return None
    return line, start + len(opening), has_time, has_insert_id


def _holds_only(line: bytes, members: dict[str, Any]) -> bool:
    """Whether *line* certainly has an event's name and *members*, each key once, and nothing else."""
    types = list(map(type, members.values()))
    if dict in types or list in types:
        quotes = _quotes(members, MAX_DEPTH)
    elif len(types) > MAX_MEMBERS:
        return False
    else:
        quotes = 2 * len(types) + 2 * types.count(str)
    if _BACKSLASH in line and b"\\\\" not in line:
        quotes += line.count(b'\\"')
    # Two for each key and each string. A duplicate key, and a third member beside event and properties, cost
    # more than that, so equality rules them out, and with them all text that the decoder has not looked at.
    return line.count(b'"') == quotes + 6


def _quotes(value: Any, levels: int) -> int:
    """How many quotes *value* takes; far too many if it is deeper than *levels*, or too large."""
    if isinstance(value, str):
        return 2
    if not isinstance(value, dict | list):
        return 0
    if levels == 1 or len(value) > MAX_MEMBERS:
        return 2 * MAX_EVENT_BYTES
    inside = value.values() if isinstance(value, dict) else value
    of_keys = 2 * len(value) if isinstance(value, dict) else 0
    return of_keys + sum(_quotes(member, levels - 1) for member in inside)


def _keeps_rules(members: dict[str, Any], time: int | None, now_ms: int) -> bool:
    """Whether ``time``, ``$insert_id`` and ``distinct_id`` are certainly valid, or missing."""
    if time is None:
        if "time" in members:
            return False
    elif when.fault(time, now_ms):
        return False
    insert_id = members.get("$insert_id")
    if insert_id is None:
        if "$insert_id" in members:
            return False
    elif type(insert_id) is not str or not _insert_id(insert_id) or insert_id.lower() in BAD_IDS:
        return False
    identity = members.get("distinct_id")
    if type(identity) is str:
        return identity.lower() not in BAD_IDS
    return "distinct_id" not in members or (type(identity) is int and identity > 0)


def _read_carefully(line: bytes, now_ms: int, rules: bool) -> tuple[bytes, bytes, bytes, bool, bool]:
    """Read any line: the line with a whole ``time``, its text before and after the place where missing
    properties go, and whether ``time`` and ``$insert_id`` exist.

    Raises:
        EventError: with the reason why it is refused.
    """
    event = careful.parse(line, rules)
    given = event["properties"].get("time")
    time = careful.whole_time(given, now_ms)
    if time is not None:
        event["properties"]["time"] = careful.number(time)
    if rules:
        careful.check(event, now_ms)
    if time is not None:
        start, end = _place_of(line, "properties")
        first, last = _place_of(line[start:end], "time")
        line = b"%s%d%s" % (line[: start + first], time, line[start + last :])
    members = _members(line)
    properties = bytes(members.pop("properties"))
    others = b"".join(b"%s:%s," % (json.dumps(key).encode(), bytes(raw)) for key, raw in members.items())
    head = b'{%s"properties":{' % others
    known = event["properties"]
    return line, head, properties[1:] + b"}", "time" in known, "$insert_id" in known


def _place_of(text: bytes, name: str) -> tuple[int, int]:
    """Where in the JSON object *text* the value of the member *name* begins and ends."""
    start = end = 1
    for key, raw in _members(text).items():
        start = _to_value(text, end).end()  # type: ignore[union-attr]
        end = start + len(bytes(raw))
        if key == name:
            break
    return start, end


def _cut_fraction(line: bytes, now_ms: int) -> tuple[bytes, int] | None:
    """An event whose ``time`` has a fraction, with whole milliseconds, and these; None: read it carefully."""
    if _BACKSLASH in line or line.count(b'"time"') != 1 or not (found := _fraction(line)):
        return None
    time = when.from_number(found[1].decode(), now_ms)
    if time is None:
        return None
    return b"%s%d%s" % (line[: found.start(1)], time, line[found.end(1) :]), time
