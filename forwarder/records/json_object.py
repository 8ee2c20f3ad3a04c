"""Reading one JSON text with care: the same for all kinds, and each mistake gets its name and place."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Container, Sequence
from typing import Any

from forwarder.errors import EventError
from forwarder.text import printable

MAX_DEPTH = 100
HALF_A_PAIR = "the string holds half of a surrogate pair (\\ud800-\\udfff); write the whole character"


class Number(str):
    """A number as written."""

    __slots__ = ()


class _Constant(str):
    """NaN, Infinity or -Infinity, which are not JSON."""

    __slots__ = ()


class _Repeating(dict[str, Any]):
    """An object that has some keys twice: `twice`, in their order. The last value of each counts."""

    twice: Sequence[str] = ()


class _FlawError(Exception):
    """Something that JSON does not have; `_name_flaw` finds out where."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise _FlawError
    return members


def _constant(_name: str) -> Any:
    raise _FlawError


def _pairs_with_flaws(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        members = _Repeating(pairs)
        members.twice = [key for key in members if counts[key] > 1]
    return members


_decoder = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_int=Number, parse_float=Number, parse_constant=_constant
)
_decoder_of_flaws = json.JSONDecoder(
    object_pairs_hook=_pairs_with_flaws, parse_int=Number, parse_float=Number, parse_constant=_Constant
)


def read(line: bytes, one: str, once: Container[str] | None = None) -> Any:
    """The value of one JSON text: UTF-8, no NaN, no half characters, no duplicate keys, `MAX_DEPTH` levels.

    Args:
        one: What the text is, for a message: an "event".
        once: The keys that no object may have twice; None: all. Of another the last value counts.

    Returns:
        the value; each number as `Number`, as it was written.

    Raises:
        EventError: with the first mistake, and its path.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise EventError(
            f"not UTF-8 (byte {error.start + 1}); convert it, for example with iconv -f LATIN1 -t UTF-8"
        ) from None
    try:
        try:
            value = _decoder.decode(text)
            _check_values(value, MAX_DEPTH)
        except _FlawError:
            value = _decoder_of_flaws.decode(text)
            _name_flaw(value, "", MAX_DEPTH, once)
    except json.JSONDecodeError as error:
        raise EventError(f"not JSON: {error.msg} (column {error.pos + 1}){_near(text, error, one)}") from None
    except RecursionError:
        raise EventError(f"nested more than {MAX_DEPTH} levels deep") from None
    return value


def _near(text: str, error: json.JSONDecodeError, one: str) -> str:
    """What *text* has where it is not JSON, and what to do about it."""
    rest = text[error.pos :]
    if text.lstrip().startswith(("{'", '{"')) and re.match(r"'|None\b|True\b|False\b", rest):
        return ": this is how Python prints a dict; write it with json.dumps"
    if (
        re.match(r"[,\s]*[}\]]", rest) and re.search(r",\s*$", text[: error.pos])
    ) or "trailing comma" in error.msg:
        return ": remove the comma before the closing bracket"
    if not rest.strip() or error.msg.startswith("Unterminated"):
        return ": it is cut short, or it spans several lines; jq -c . puts it on one"
    if error.msg == "Extra data":
        return f", from {cut(rest)!r} on: one {one} is expected; jq -c . puts each on its own line"
    return f", at {cut(rest)!r}"


def cut(text: str, limit: int = 30) -> str:
    """*text*, at most *limit* characters of it."""
    return text if len(text) <= limit else f"{text[:limit]}…"


def shown(value: Any) -> str:
    """A parsed value in a few words, for a message."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'an array'} of {len(value)}"
    if isinstance(value, str) and not isinstance(value, Number):
        return f"the text {cut(value)!r}"
    return cut(value if isinstance(value, str) else json.dumps(value))


def path_to(where: str, step: str | int) -> str:
    """The path of a member or element of what is at *where*, as ``--set`` takes it: ``properties.a[0]``."""
    if isinstance(step, int):
        return f"{where}[{step}]"
    name = printable(step.replace("\\", "\\\\").replace(".", "\\."))
    return f"{where}.{name}" if where else name


def _check_values(value: Any, levels: int) -> None:
    """Raise `_FlawError` for too deep nesting and for half surrogate pairs, which UTF-8 can't encode."""
    if isinstance(value, str):
        if not value.isascii() and not is_whole(value):
            raise _FlawError
    elif isinstance(value, (dict, list)):
        if levels == 0:
            raise _FlawError
        if isinstance(value, dict):
            for key in value:
                _check_values(key, levels)
        for member in value.values() if isinstance(value, dict) else value:
            _check_values(member, levels - 1)


def _name_flaw(value: Any, where: str, levels: int, once: Container[str] | None) -> None:
    """Raise EventError for the first flaw in *value*, which is at the path *where*."""
    if isinstance(value, str):
        if isinstance(value, _Constant):
            raise EventError(f"'{where}' is invalid: {value} is not JSON; use null or leave it out")
        if not is_whole(value):
            raise EventError(f"'{where}' is invalid: {HALF_A_PAIR}")
    elif isinstance(value, (dict, list)):
        if levels == 0:
            raise EventError(f"'{cut(where, 80)}' is invalid: nested more than {MAX_DEPTH} levels deep")
        for key in value.twice if isinstance(value, _Repeating) else ():
            if once is None or key in once:
                raise EventError(f"duplicate key {key!r} ('{path_to(where, key)}'); keep one of them")
        for step, member in value.items() if isinstance(value, dict) else enumerate(value):
            inside = path_to(where, step)
            if isinstance(step, str):
                _name_flaw(step, inside, levels, once)
            _name_flaw(member, inside, levels - 1, once)


def is_whole(text: str) -> bool:
    """Whether *text* has no half surrogate pair, which UTF-8 can't encode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
