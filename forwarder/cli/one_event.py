"""One event from the options of a command line, as JSON text."""

from __future__ import annotations

from forwarder.errors import UsageError

# A process that enqueues one event has to start fast: nothing loads here that most of them do not need.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_ESCAPES = {code: f"\\u{code:04x}" for code in range(32)} | {ord('"'): '\\"', ord("\\"): "\\\\"}


def build_event(
    name: str,
    distinct_id: str | None = None,
    properties: Iterable[str] = (),
    time: str | None = None,
    insert_id: str | None = None,
) -> bytes:
    """The JSON text of one event.

    Args:
        properties: ``key=value`` for a string, ``key:=JSON`` for any JSON value, which is kept as written.
        time: Seconds or milliseconds since the epoch, or ISO 8601 with an offset.

    Raises:
        UsageError: an option is invalid, or a property is given twice.
    """
    members: dict[str, str] = {}
    if distinct_id is not None:
        members["distinct_id"] = _text(distinct_id)
    if time is not None:
        members["time"] = _time(time)
    if insert_id is not None:
        members["$insert_id"] = _text(insert_id)
    for given in properties:
        key, value = _property(given)
        if key == "time" and value.startswith('"'):
            raise UsageError(
                f"-p {given!r}: time is a number, and = gives text", "Write --time T, or -p time:=NUMBER"
            )
        if key in members:
            raise UsageError(f"the property {key!r} is given twice")
        members[key] = value
    inside = ",".join(f"{_text(key)}:{value}" for key, value in members.items())
    return f'{{"event":{_text(name)},"properties":{{{inside}}}}}'.encode()


def _property(given: str) -> tuple[str, str]:
    key, equals, value = given.partition("=")
    if not equals or key in ("", ":"):
        raise UsageError(f"-p {given!r}: a property is KEY=TEXT or KEY:=JSON")
    if not key.endswith(":"):
        return key, _text(value)
    try:
        value.encode()
        _check_json(value)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"-p {given!r}: what follows := is not JSON: {error}", "For text write KEY=TEXT"
        ) from None
    return key[:-1], value


def _check_json(text: str) -> None:
    """Check that it is one JSON value: numbers of any length pass, and nothing is converted."""
    import json

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=refuse).decode(text)


def _time(given: str) -> str:
    whole, point, fraction = given.partition(".")
    is_number = given.isascii() and whole.isdecimal() and fraction.isdecimal() == bool(point)
    if is_number and (whole == "0" or whole[0] != "0"):
        return given
    from datetime import datetime

    from forwarder.records.event import when

    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise UsageError(
            f"--time {given!r} is neither a number nor ISO 8601",
            "Give seconds or milliseconds since the epoch, or a time like 2025-01-31T12:00:00Z",
        ) from None
    if moment.tzinfo is None:
        raise UsageError(
            f"--time {given!r} has no time zone",
            "Add Z for UTC or an offset like +02:00",
        )
    return str(when.from_moment(moment))


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{value!r} is not UTF-8") from None
    return f'"{value.translate(_ESCAPES)}"'
