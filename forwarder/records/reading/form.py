"""The form of a text, judged by its beginning."""

from __future__ import annotations

import codecs
import json
import re

import msgspec

from forwarder.records.reading.array import Values
from forwarder.records.reading.source import BrokenInputError

# What may come before the [ of an array: white space, NULs, a byte order mark.
LEAD = b" \t\r\n\0" + codecs.BOM_UTF8
# What lines or values of JSON begin with, and what may be before one (see `take_apart`).
_JSON_BEGINNINGS = (b"{", b"[", b",", b"\x1e")
LINES, ARRAY, VALUES = "one event per line", "an array", "JSON over several lines"

_FAULTS = (msgspec.DecodeError, ValueError, RecursionError)
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_value = msgspec.json.Decoder(msgspec.Raw).decode
_between = re.compile(r"[ \t\r\n,]*").match
_decoder = json.JSONDecoder(parse_int=str, parse_float=str)


def begins_json(text: bytes) -> bool:
    """Whether the *text* begins as lines or values of JSON do."""
    return text.lstrip(LEAD)[:1] in _JSON_BEGINNINGS


def form_of(text: bytes) -> str:
    """The form that the *text* certainly has. If unsure: `LINES`, where a bad line stops nothing."""
    text = text.lstrip(LEAD)
    first, line_end, rest = text.partition(b"\n")
    if text.startswith(b"["):
        if not line_end:
            return ARRAY
        return LINES if (_is(_list, first) and rest.strip()) or not _goes_on(first) else ARRAY
    if text.startswith(b"{") and rest and not _is(_value, first) and _are_objects(text):
        return VALUES
    return LINES


def _is(decode: object, text: bytes) -> bool:
    try:
        decode(text)  # type: ignore[operator]
    except _FAULTS:
        return False
    return True


def _goes_on(first: bytes) -> bool:
    """Whether *first* is the first line of an array over several lines, not cut off and not a log line."""
    array = Values(len(first))
    try:
        for _ in array.feed(first):
            pass
    except BrokenInputError:
        return False
    if array.has_ended:
        return not array.finish()[0].strip()
    return array.is_between or (not array.in_string and first.rstrip()[-1:] in b"[{,")


def _are_objects(block: bytes) -> bool:
    """Whether *block* has only JSON objects, the first over several lines; the last may be cut off."""
    text, at = block.decode(errors="replace"), 0
    try:
        while text.startswith("{", at):
            _, end = _decoder.raw_decode(text, at)
            if at == 0 and "\n" not in text[:end]:
                return False
            at = _between(text, end).end()  # type: ignore[union-attr]
    except (ValueError, RecursionError):
        return at > 0
    return at == len(text)
