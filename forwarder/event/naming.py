"""What an event is called, for lists and logs of people."""

from __future__ import annotations

import msgspec


class _Properties(msgspec.Struct):
    insert_id: str = msgspec.field(default="", name="$insert_id")


class _Named(msgspec.Struct):
    event: str = ""
    properties: _Properties = msgspec.field(default_factory=_Properties)


_decode = msgspec.json.Decoder(_Named).decode


def name_of(data: bytes | str | None) -> tuple[str, str]:
    """An event's name and ``$insert_id``; both empty where they can't be read."""
    try:
        named = _decode(data or b"")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return "", ""
    return named.event, named.properties.insert_id
