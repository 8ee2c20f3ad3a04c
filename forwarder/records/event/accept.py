"""From a producer's JSON text to the bytes that are stored: checked, completed, otherwise untouched."""

from __future__ import annotations

import hashlib
import json
import math
import os
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from forwarder.errors import EventError
from forwarder.records.event import rules as careful
from forwarder.records.event.rules import BAD_IDS, INSERT_ID, MAX_DEPTH, MAX_EVENT_BYTES, MAX_MEMBERS


class _Shape(msgspec.Struct):
    event: str
    properties: dict[str, Any]


_shape = msgspec.json.Decoder(_Shape).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_insert_id = INSERT_ID.fullmatch
# As numbers they are found four times as fast.
_BACKSLASH, _LINE_FEED, _RETURN = b"\\\n\r"
# Not to be asked whether they are a Mapping, which takes as long as to encode them.
_PLAIN = frozenset([str, int, bool, type(None)])
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def accept(line: bytes, now_ms: int, rules: bool = True, insert_id: str = "") -> bytes:
    """Check and complete one event.

    Args:
        line: One JSON text.
        now_ms: The time to fill in where ``time`` is missing, and the clock that rules are held
            against; ms since the epoch.
        rules: Whether Mixpanel's rules are checked; structure always is.
        insert_id: The ``$insert_id`` to fill in where it is missing; a random one if empty.

    Returns:
        the final bytes, free of line breaks.

    Raises:
        EventError: with the reason.
    """
    line = line.strip()
    if len(line) > MAX_EVENT_BYTES:
        raise EventError(f"{len(line)} bytes long; Mixpanel takes events of up to {MAX_EVENT_BYTES} bytes")
    found = _read_fast(line, now_ms, rules)
    if found is None:
        head, tail, has_time, has_insert_id = _read_carefully(line, now_ms, rules)
    else:
        start, has_time, has_insert_id = found
        head, tail = line[:start], line[start:]
    if not (has_time and has_insert_id):
        missing = [] if has_time else [b'"time":%d' % now_ms]
        if not has_insert_id:
            missing.append(b'"$insert_id":"%s"' % (insert_id or uuid.uuid4().hex).encode())
        line = head + b",".join(missing) + (b"" if tail.lstrip()[:1] == b"}" else b",") + tail
        if len(line) > MAX_EVENT_BYTES:
            raise EventError(f"with 'time' and '$insert_id' filled in it has {len(line)} bytes, over 1 MB")
    if _LINE_FEED in line or _RETURN in line:
        # Between tokens only: inside a JSON string they are written escaped.
        line = line.replace(b"\n", b" ").replace(b"\r", b" ")
    return line


def accept_many(
    lines: Sequence[bytes], now_ms: int, rules: bool = True
) -> tuple[list[bytes], list[tuple[int, str]]]:
    """`accept` for many lines: the good ones pass, whatever the bad ones are.

    Returns:
        the accepted events' bytes in order, and (index into *lines*, reason) of each refused line.
        Blank lines are neither.
    """
    accepted: list[bytes] = []
    refused: list[tuple[int, str]] = []
    # 96 random bits for the chunk and a counter: as unique as a UUID, without a system call for each.
    prefix = os.urandom(12).hex()
    for index, line in enumerate(lines):
        if line and not line.isspace():
            try:
                accepted.append(accept(line, now_ms, rules, f"{prefix}{index:08x}"))
            except EventError as error:
                refused.append((index, str(error)))
    return accepted, refused


def complete(data: object, accepted_at: float, queue_id: str, row_id: int) -> bytes:
    """Complete an event that a stranger put into the queue, the same way each time.

    Only its structure is checked; the rules are Mixpanel's to judge, since nobody waits for our word.

    Args:
        data: What stands in the row.
        accepted_at: The row's timestamp, in seconds since the epoch; becomes ``time``.
        queue_id: The queue's identity, with *row_id* and the data the source of ``$insert_id``: copies of a
            queue's directory, as of a machine's image, have the first two in common.

    Raises:
        EventError: with the reason why it is no event.
    """
    if isinstance(data, str):
        data = data.encode(errors="surrogatepass")
    if not isinstance(data, bytes):
        raise EventError(f"not JSON: the row holds {type(data).__name__}, not bytes")
    content = hashlib.sha256(data).hexdigest()
    insert_id = uuid.uuid5(uuid.UUID(queue_id), f"{row_id}:{content}").hex
    return accept(data, int(accepted_at * 1000), rules=False, insert_id=insert_id)


def encode(event: Mapping[str, Any]) -> bytes:
    """A Python mapping as JSON bytes, ready for `accept`.

    Raises:
        EventError: if it holds what JSON can't: NaN, a lone surrogate, a key that is no string, an
            object of another type, itself.
    """
    if not isinstance(event, Mapping):
        raise EventError(f"an event is a mapping, not {type(event).__name__}")
    try:
        # A third of the time; of all that is not plain it takes more for JSON than is.
        if _is_plain(event):
            return msgspec.json.encode(event)
        _check_keys(event)
        return _encoder.encode(dict(event)).encode()
    except UnicodeEncodeError:
        raise EventError("a string holds half of a surrogate pair (\\ud800-\\udfff)") from None
    except (TypeError, ValueError) as error:
        raise EventError(f"not JSON: {error}") from None
    except RecursionError:
        raise EventError(f"nested more than {careful.MAX_DEPTH} levels deep, or in itself") from None


def _is_plain(value: object) -> bool:
    """Whether *value* is certainly what JSON has, and of Python's own types."""
    kind = type(value)
    if kind is dict:
        for key, member in value.items():  # type: ignore[attr-defined]
            if type(key) is not str or not (type(member) in _PLAIN or _is_plain(member)):
                return False
        return True
    if kind is list:
        return all(type(member) in _PLAIN or _is_plain(member) for member in value)  # type: ignore[attr-defined]
    return kind is float and math.isfinite(value)  # type: ignore[arg-type]


def _check_keys(value: object) -> None:
    # json turns 1, None and True into the keys "1", "null" and "true", perhaps onto one that is there.
    if isinstance(value, Mapping):
        for key, member in value.items():
            if not isinstance(key, str):
                raise EventError(f"the key {key!r} is not a string")
            if type(member) not in _PLAIN and isinstance(member, (Mapping, list, tuple)):
                _check_keys(member)
    elif isinstance(value, (list, tuple)):
        for member in value:
            _check_keys(member)


def _read_fast(line: bytes, now_ms: int, rules: bool) -> tuple[int, bool, bool] | None:
    """Find an ordinary, clean event clean; None: it needs the careful reading.

    Returns:
        where missing properties go, and whether ``time`` and ``$insert_id`` are there.
    """
    try:
        shape = _shape(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    members = shape.properties
    if not shape.event.strip() or not _holds_only(line, members):
        return None
    if rules and not _keeps_rules(members, now_ms):
        return None
    has_time, has_insert_id = "time" in members, "$insert_id" in members
    if has_time and has_insert_id:
        return 0, True, True
    start = line.find(b'"properties":{')
    # Spelt with an escape, the name may be found further in.
    if start < 0 or line.count(b"{", 0, start) != 1:
        return None
    return start + len(b'"properties":{'), has_time, has_insert_id


def _holds_only(line: bytes, members: dict[str, Any]) -> bool:
    """Whether *line* certainly holds an event's name and *members*, each key once, and nothing else."""
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
    """How many quotes *value* takes; far too many where it is deeper than *levels*, or too large."""
    if isinstance(value, str):
        return 2
    if not isinstance(value, dict | list):
        return 0
    if levels == 1 or len(value) > MAX_MEMBERS:
        return 2 * MAX_EVENT_BYTES
    inside = value.values() if isinstance(value, dict) else value
    of_keys = 2 * len(value) if isinstance(value, dict) else 0
    return of_keys + sum(_quotes(member, levels - 1) for member in inside)


def _keeps_rules(members: dict[str, Any], now_ms: int) -> bool:
    """Whether ``time``, ``$insert_id`` and ``distinct_id`` are certainly good, or missing."""
    time = members.get("time")
    if time is None:
        if "time" in members:
            return False
    elif (type(time) is not int and type(time) is not float) or careful.time_fault(time, now_ms):
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


def _read_carefully(line: bytes, now_ms: int, rules: bool) -> tuple[bytes, bytes, bool, bool]:
    """Read any line: the text before and after the place where missing properties go, and whether ``time``
    and ``$insert_id`` are there.

    Raises:
        EventError: with the reason why it is refused.
    """
    event = careful.parse(line)
    if rules:
        careful.check(event, now_ms)
    members = _members(line)
    properties = bytes(members.pop("properties"))
    others = b"".join(b"%s:%s," % (json.dumps(key).encode(), bytes(raw)) for key, raw in members.items())
    head = b'{%s"properties":{' % others
    return head, properties[1:] + b"}", "time" in event["properties"], "$insert_id" in event["properties"]
