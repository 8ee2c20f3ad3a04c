"""Reading an event's stored bytes: whether they are final, and the event's name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import msgspec

from forwarder.records.event.rules import MAX_EVENT_BYTES

_FAULTS = (msgspec.DecodeError, UnicodeError, RecursionError)


class _FinalProperties(msgspec.Struct, gc=False):
    time: msgspec.Raw
    insert_id: msgspec.Raw = msgspec.field(name="$insert_id")


class _Final(msgspec.Struct, gc=False):
    event: str
    properties: _FinalProperties


class _Properties(msgspec.Struct):
    insert_id: str = msgspec.field(default="", name="$insert_id")


class _Users(msgspec.Struct):
    # https://docs.mixpanel.com/docs/tracking-methods/id-management: the first in the original API, the others
    # in the simplified one.
    distinct_id: str | int | float | None = None
    user_id: str | int | float | None = msgspec.field(default=None, name="$user_id")
    device_id: str | int | float | None = msgspec.field(default=None, name="$device_id")


class _Belonging(msgspec.Struct):
    properties: _Users


class _Named(msgspec.Struct):
    event: str = ""
    properties: _Properties = msgspec.field(default_factory=_Properties)


_text = r"""\s*:\s*(["'])((?:[^"'\\]|\\.)*)\1"""
_event = re.compile(rf"""["']event["']{_text}""").search
_id = re.compile(rf"""["']\$insert_id["']{_text}""").search
_final = msgspec.json.Decoder(_Final)
_decode = msgspec.json.Decoder(_Named).decode
_belonging = msgspec.json.Decoder(_Belonging).decode


def are_final(text: bytes, count: int) -> bool:
    """Whether *text* is *count* lines, each one complete event."""
    if text.count(b"\n") != count:
        return False
    try:
        return len(_final.decode_lines(text)) == count
    except _FAULTS:
        return False


def is_final(data: bytes) -> bool:
    """Whether *data* is one complete event, without a line break."""
    if len(data) > MAX_EVENT_BYTES or data[:1] != b"{" or b"\n" in data:
        return False
    # 0.6 us for 400 bytes, like a search for the two names; the careful reading takes what fails here.
    try:
        _final.decode(data)
    except _FAULTS:
        return False
    return True


def name_of(data: bytes | str | None) -> tuple[str, str]:
    """An event's name and ``$insert_id``; both empty if they can't be read.

    Also reads what is nearly JSON: with NaN in it, cut short, or as Python prints a dict.
    """
    try:
        named = _decode(data or b"")
    except _FAULTS:
        text = data if isinstance(data, str) else (data or b"")[:MAX_EVENT_BYTES].decode(errors="replace")
        return _found(_event, text), _found(_id, text)
    return named.event, named.properties.insert_id


def concerns(data: bytes | None, user: str) -> bool:
    """Whether an event belongs to *user*; one that can't be read, if the id stands in it in quotes."""
    try:
        users = _belonging(data or b"").properties
    except _FAULTS:
        return msgspec.json.encode(user) in (data or b"")
    ids = users.distinct_id, users.user_id, users.device_id
    return any(str(each) == user for each in ids if each is not None)


def _found(member: Callable[[str], re.Match[str] | None], text: str) -> str:
    """The text of a *member* that a regular expression finds; "": none."""
    found = member(text)
    try:
        value = str(json.loads(f'"{found[2]}"')) if found else ""
    except ValueError:
        value = found[2] if found else ""
    return value.encode(errors="replace").decode()
