"""Reading an event's stored bytes: whether they are final, and the event's name."""

from __future__ import annotations

import msgspec

from forwarder.records.event.rules import MAX_EVENT_BYTES
from forwarder.records.nearly_json import FAULTS, has_id, text_member, values_of


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


_event, _id = text_member("event"), text_member("$insert_id")
_final = msgspec.json.Decoder(_Final)
_decode = msgspec.json.Decoder(_Named).decode
_user_id = values_of(_USER_IDS)


def are_final(text: bytes, count: int) -> bool:
    """Whether *text* is *count* lines, each one complete event."""
    if text.count(b"\n") != count:
        return False
    try:
        return len(_final.decode_lines(text)) == count
    except FAULTS:
        return False


def is_final(data: bytes) -> bool:
    """Whether *data* is one complete event, without a line break."""
    if len(data) > MAX_EVENT_BYTES or data[:1] != b"{" or b"\n" in data:
        return False
    # 0.6 us for 400 bytes, like a search for the two names; the careful reading takes what fails here.
    try:
        _final.decode(data)
    except FAULTS:
        return False
    return True


def name_of(data: bytes | str | None) -> tuple[str, str]:
    """An event's name and ``$insert_id``; both empty if they can't be read.

    Also reads what is nearly JSON: with NaN in it, cut short, or as Python prints a dict.
    """
    try:
        named = _decode(data or b"")
    except FAULTS:
        text = data if isinstance(data, str) else (data or b"")[:MAX_EVENT_BYTES].decode(errors="replace")
        return _event(text), _id(text)
    return named.event, named.properties.insert_id


def concerns(data: bytes | None, user: str) -> bool:
    """Whether an event has *user* as one of a user's ids, in its properties or beside them."""
    return has_id(data, user, _USER_IDS, _user_id, inside="properties")
