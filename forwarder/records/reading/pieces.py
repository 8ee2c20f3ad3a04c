"""What a line that is not one event certainly contains."""

from __future__ import annotations

import codecs
import json
import re

import msgspec

_raw_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
# What may be between values that follow each other: white space, commas, and the character that
# begins a record in a JSON text sequence (RFC 7464).
_AROUND = " \t\r\n,\x1e"
_around = re.compile(f"[{_AROUND}\ufeff]*").match


def _refuse(name: str) -> None:
    raise ValueError(name)


# Only to find the end of a value: nothing is converted, so numbers may have any length.
_decoder = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse)


def take_apart(line: bytes) -> list[bytes] | None:
    """Split a line that was refused as one event.

    An array becomes its elements; objects that follow each other become one piece each. A byte order mark,
    a comma at either end and the NULs that a crash leaves in a file are skipped; NULs end the piece before.

    Returns:
        the pieces, in order, each as written; None: the line is one piece, whatever is wrong with it.
    """
    found = [piece for part in line.split(b"\0") for piece in _of_part(part)]
    return None if found == [line.strip()] else found


def _of_part(whole: bytes) -> list[bytes]:
    part = whole.strip(_AROUND.encode())
    while part.startswith(codecs.BOM_UTF8):
        part = part.removeprefix(codecs.BOM_UTF8).lstrip(_AROUND.encode())
    if not part:
        return []
    try:
        return _elements(part)
    except (msgspec.DecodeError, ValueError, RecursionError):
        pass
    try:
        return _objects(part.decode())
    except (ValueError, RecursionError):
        return [whole.strip()]


def _elements(part: bytes) -> list[bytes]:
    return [bytes(raw) for raw in _raw_list(part)]


def _objects(text: str) -> list[bytes]:
    """Raises ValueError: *text* is not only objects and arrays."""
    found, at = [], 0
    while at < len(text):
        if text[at] not in "{[":
            raise ValueError(text[at])
        _, end = _decoder.raw_decode(text, at)
        piece = text[at:end].encode()
        found += _elements(piece) if piece.startswith(b"[") else [piece]
        at = _around(text, end).end()  # type: ignore[union-attr]
    return found
