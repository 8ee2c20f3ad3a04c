"""From a producer's JSON text to the stored bytes: checked, completed, otherwise unchanged."""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count

import msgspec
from msgspec import UNSET, UnsetType

from forwarder.errors import EventError
from forwarder.records.event import rules as careful
from forwarder.records.event import when
from forwarder.records.event.rules import BAD_IDS, INSERT_ID, MAX_EVENT_BYTES, MAX_MEMBERS
from forwarder.records.event.when import MICROSECONDS_FROM
from forwarder.records.json_object import MAX_DEPTH
from forwarder.records.lines import content_of, without_breaks, without_mark


class _Properties(msgspec.Struct, gc=False):
    """The members that the rules look at. The others are only checked to be JSON, in a third of the time."""

    time: int | float | UnsetType = UNSET
    insert_id: str | UnsetType = msgspec.field(default=UNSET, name="$insert_id")
    distinct_id: str | int | UnsetType = UNSET


class _Event(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    event: str
    properties: _Properties


_decode = msgspec.json.Decoder(_Event).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_insert_id = INSERT_ID.fullmatch
_escaped_ascii = re.compile(rb"\\u00[2-7]").search
_fraction = re.compile(rb'"time"\s*:\s*([0-9]+\.[0-9]+)(?=[\s,}])').search
_key = re.compile(r'[\s,]*("(?:[^"\\]++|\\.)*+")\s*:\s*', re.DOTALL).match
_value = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode
_OPENING, _OPENING_SPACED = b'"properties":{', b'"properties": {'
# As numbers they are found four times faster.
_BACKSLASH, _BRACKET, _LINE_FEED, _RETURN = b"\\[\n\r"


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
    return _accept(line, now_ms, rules, lambda: insert_id or uuid.uuid4().hex)


def _accept(line: bytes, now_ms: int, rules: bool, new_id: Callable[[], str]) -> bytes:
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
            missing.append(b'"$insert_id":"%s"' % new_id().encode())
        line = head + b",".join(missing) + (b"" if tail.lstrip()[:1] == b"}" else b",") + tail
        if len(line) > MAX_EVENT_BYTES:
            raise EventError(f"with 'time' and '$insert_id' filled in it has {len(line)} bytes, over 1 MB")
    if _LINE_FEED in line or _RETURN in line:
        line = without_breaks(line)
    return line


def accept_many(
    lines: Sequence[bytes], now_ms: int, rules: bool = True, insert_ids: Sequence[str] = ()
) -> tuple[list[bytes], list[tuple[int, str]]]:
    """`accept` for many lines: good lines pass, whatever the bad ones are.

    Args:
        insert_ids: For each line what fills in a missing ``$insert_id``; random ones if empty.

    Returns:
        the accepted events' bytes in order, and (index into *lines*, reason) of each refused line.
        Blank lines are neither.
    """
    accepted: list[bytes] = []
    refused: list[tuple[int, str]] = []
    # 96 random bits for the chunk, and a counter: as unique as a UUID, without a system call for each.
    new_id = map(f"{os.urandom(12).hex()}{{:08x}}".format, count()).__next__
    for index, line in enumerate(lines):
        if line and not line.isspace():
            try:
                its_id = partial(insert_ids.__getitem__, index) if insert_ids else new_id
                accepted.append(_accept(line, now_ms, rules, its_id))
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
        event = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not event.event.strip() or not _is_plain(line):
        return None
    properties = event.properties
    time, insert_id, identity = properties.time, properties.insert_id, properties.distinct_id
    if type(time) is float and (whole := _cut_fraction(line, now_ms)):
        line, time = whole
    has_time, has_insert_id = time is not UNSET, insert_id is not UNSET
    if has_time and (type(time) is not int or time >= MICROSECONDS_FROM):
        return None
    if rules and (
        (type(time) is int and when.fault(time, now_ms))
        or (type(insert_id) is str and (not _insert_id(insert_id) or insert_id.lower() in BAD_IDS))
        or (type(identity) is str and identity.lower() in BAD_IDS)
        or (type(identity) is int and identity <= 0)
    ):
        return None
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


def _is_plain(line: bytes) -> bool:
    """Whether *line*, one JSON value but for the letters in its strings, certainly keeps what structure asks
    for and the limits of sizes."""
    count = line.count
    return (
        # A name that is known counts once, however it is spelt.
        count(b'"event"') == count(b'"properties"') == 1
        and count(b'"time"') <= 1
        and count(b'"$insert_id"') <= 1
        and count(b'"distinct_id"') <= 1
        and (_BACKSLASH not in line or not _escaped_ascii(line))
        and count(b"{") + (count(b"[") if _BRACKET in line else 0) <= MAX_DEPTH
        # 256 elements take 511 bytes.
        and (len(line) < 2 * MAX_MEMBERS or count(b",") < MAX_MEMBERS)
        and (line.isascii() or _is_utf8(line))
    )


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


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
        text = line.decode()
        start, end = _place_of(text, _place_of(text, 0, "properties")[0], "time")
        line = f"{text[:start]}{time}{text[end:]}".encode()
    members = _members(line)
    properties = bytes(members.pop("properties"))
    others = b"".join(b"%s:%s," % (json.dumps(key).encode(), bytes(raw)) for key, raw in members.items())
    head = b'{%s"properties":{' % others
    known = event["properties"]
    return line, head, properties[1:] + b"}", "time" in known, "$insert_id" in known


def _place_of(text: str, at: int, name: str) -> tuple[int, int]:
    """Where the value of the first member *name* of the JSON object at *at* in *text* begins and ends."""
    at += 1
    while found := _key(text, at):
        start, (_, at) = found.end(), _value(text, found.end())
        if json.loads(found[1]) == name:
            return start, at
    raise KeyError(name)


def _cut_fraction(line: bytes, now_ms: int) -> tuple[bytes, int] | None:
    """An event whose ``time`` has a fraction, with whole milliseconds, and these; None: read it carefully."""
    if _BACKSLASH in line or line.count(b'"time"') != 1 or not (found := _fraction(line)):
        return None
    time = when.from_number(found[1].decode(), now_ms)
    if time is None:
        return None
    return b"%s%d%s" % (line[: found.start(1)], time, line[found.end(1) :]), time
