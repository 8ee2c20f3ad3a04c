"""Reading an event's stored bytes: whether they are final, and the event's name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable

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


# https://docs.mixpanel.com/docs/tracking-methods/id-management
_USER_IDS = ("distinct_id", "$user_id", "$device_id")


class _Named(msgspec.Struct):
    event: str = ""
    properties: _Properties = msgspec.field(default_factory=_Properties)


_text = r"""\s*:\s*(["'])((?:[^"'\\]|\\.)*)\1"""
_event = re.compile(rf"""["']event["']{_text}""").search
_id = re.compile(rf"""["']\$insert_id["']{_text}""").search
_final = msgspec.json.Decoder(_Final)
_decode = msgspec.json.Decoder(_Named).decode
_user_id = re.compile(
    r"""["'](?:distinct_id|\$user_id|\$device_id)["']\s*:\s*(?:(["'])((?:[^"'\\]|\\.)*)\1|([\w.+-]+))"""
).finditer


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
    """Whether an event has *user* as one of a user's ids, in its properties or beside them.

    Of what is not JSON, such as a Python dict as it prints, the ids are found by their names.
    """
    text = (data or b"").decode(errors="replace")
    try:
        event = json.loads(text)  # NaN too
    except (ValueError, RecursionError):
        ids: Iterable[object] = (_unescaped(found[2]) if found[1] else found[3] for found in _user_id(text))
    else:
        event = event if isinstance(event, dict) else {}
        properties = event.get("properties")
        places = (event, properties if isinstance(properties, dict) else {})
        ids = (place.get(name) for place in places for name in _USER_IDS)
    return any(
        user in (str(each), f"{each:.0f}" if isinstance(each, float) else None)
        for each in ids
        if each is not None
    )


def _unescaped(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text


def _found(member: Callable[[str], re.Match[str] | None], text: str) -> str:
    """The text of a *member* that a regular expression finds; "": none."""
    found = member(text)
    value = _unescaped(found[2]) if found else ""
    return value.encode(errors="replace").decode()
