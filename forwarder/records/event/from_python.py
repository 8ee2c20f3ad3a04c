"""From a Python program's event to JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from forwarder.errors import EventError
from forwarder.records.event import when
from forwarder.records.json_object import HALF_A_PAIR, MAX_DEPTH, is_whole, path_to

# Asking whether these are a Mapping would take as long as encoding them.
_PLAIN = frozenset([str, int, bool, type(None)])
# Of events, and of updates.
_TIMES = ("properties.time", "$time")
# As Mixpanel's own library for Python writes them; read as UTC.
_DATETIME = "%Y-%m-%dT%H:%M:%S"
# What to call instead, by the type's name.
_REMEDIES = {
    "bytes": ".decode() it",
    "bytearray": ".decode() it",
    "set": "give list(...) of it",
    "frozenset": "give list(...) of it",
    "generator": "give list(...) of it",
    "deque": "give list(...) of it",
    "range": "give list(...) of it",
    "timedelta": "give its .total_seconds()",
    "time": "give its .isoformat()",
    "ndarray": "give its .tolist()",
    "Series": "give its .tolist()",
    "complex": "give its parts, or str(...) of it",
}


def encode(event: Mapping[str, Any]) -> bytes:
    """A Python mapping as JSON bytes, ready for `accept`.

    An aware datetime becomes text in UTC, as Mixpanel's library writes it; as ``time`` or ``$time``,
    milliseconds since the epoch. A date becomes its ISO text, a Decimal a number with all its digits, a UUID
    text, a member of an Enum its value, a scalar of numpy its ``item()``, a tuple a list.

    Raises:
        EventError: it contains what JSON can't express: NaN, a lone surrogate, a key that is not a string,
            an object of another type, or itself. The message has the path and what to do.
    """
    if not isinstance(event, Mapping):
        raise EventError(
            f'an event is a mapping, {{"event": NAME, "properties": {{...}}}}, not {type(event).__name__}'
        )
    try:
        # Takes a third of the time, but would accept more types than JSON has.
        if _is_plain(event):
            return msgspec.json.encode(event)
    except (RecursionError, UnicodeEncodeError):
        pass  # named below
    except (TypeError, ValueError) as error:
        raise EventError(f"not JSON: {error}") from None
    plain = _plain(event, "", MAX_DEPTH)
    try:
        return msgspec.json.encode(plain)
    except (TypeError, ValueError) as error:
        raise EventError(f"not JSON: {error}") from None


def encode_value(value: Any, where: str) -> bytes:
    """The value at the path *where* of an event, as `encode` writes it. Raises: as `encode`."""
    plain = _plain(value, where, MAX_DEPTH)
    try:
        return msgspec.json.encode(plain)
    except (TypeError, ValueError) as error:
        raise EventError(f"'{where}' is not JSON: {error}") from None


def _is_plain(value: object) -> bool:
    """Whether *value* certainly has only JSON's types, as Python's own."""
    kind = type(value)
    if kind is dict:
        for key, member in value.items():  # type: ignore[attr-defined]
            if type(key) is not str or not (type(member) in _PLAIN or _is_plain(member)):
                return False
        return True
    if kind is list:
        return all(type(member) in _PLAIN or _is_plain(member) for member in value)  # type: ignore[attr-defined]
    return kind is float and math.isfinite(value)  # type: ignore[arg-type]


def _plain(value: Any, where: str, levels: int) -> Any:
    """*value*, at the path *where*, in Python's own types; Raw for what msgspec would write differently."""
    if isinstance(value, (Mapping, list, tuple)):
        if levels == 0:
            raise EventError(
                f"'{where[:80]}…' is nested more than {MAX_DEPTH} levels deep, or contains itself"
            )
        if isinstance(value, Mapping):
            return {
                _key(key, where): _plain(member, path_to(where, key), levels - 1)
                for key, member in value.items()
            }
        return [_plain(member, path_to(where, index), levels - 1) for index, member in enumerate(value)]
    if isinstance(value, str):
        text = str.__str__(value)
        if not is_whole(text):
            raise EventError(f"'{where}' is invalid: {HALF_A_PAIR}")
        return text
    return value if type(value) in _PLAIN else _converted(value, where, levels)


def _key(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise EventError(f"the key {key!r} is not a string, in '{where or 'the event'}'; give str(...) of it")
    if not is_whole(key):
        raise EventError(f"the key {key!r} in '{where}' is invalid: {HALF_A_PAIR}")
    return str.__str__(key)


def _converted(value: Any, where: str, levels: int) -> Any:
    """The JSON value for an object of another type."""
    # Loaded only when needed.
    import datetime
    import decimal
    import enum
    import uuid

    kind = type(value).__name__
    if isinstance(value, enum.Enum):
        return _plain(value.value, where, levels)
    if hasattr(value, "dtype") and getattr(value, "shape", None) == ():  # a scalar of numpy or similar
        return _plain(value.item(), where, levels)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, (float, decimal.Decimal)):
        if not (math.isfinite(value) if isinstance(value, float) else value.is_finite()):
            raise EventError(f"'{where}' is {value}, which is not JSON; give None or leave it out")
        return float(value) if isinstance(value, float) else msgspec.Raw(str(value).encode())
    if isinstance(value, datetime.datetime):
        if value != value:  # pandas' NaT
            raise EventError(f"'{where}' is {value}, not a time; give None or leave it out")
        if value.tzinfo is None:
            raise EventError(
                f"'{where}' is a datetime without a time zone; give .astimezone() of it, or make it with "
                "datetime.now(UTC)"
            )
        if where in _TIMES:
            return when.from_moment(value)
        return value.astimezone(datetime.UTC).strftime(_DATETIME)
    if isinstance(value, datetime.date):
        if where in _TIMES:
            raise EventError(f"'{where}' is a date; give a datetime with a time zone")
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    raise EventError(
        f"'{where}' is not JSON: Object of type {kind}; {_REMEDIES.get(kind, 'give str(...) of it')}"
    )
