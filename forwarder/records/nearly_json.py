"""Names and ids in stored text, also in what is nearly JSON.

That is text with NaN in it, cut short, or a dict as Python prints it. What is found is for lists and
searches, never for delivery.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

# What decoding any bytes may raise.
FAULTS = (msgspec.DecodeError, UnicodeError, RecursionError)

_TEXT = r"""(["'])((?:[^"'\\]|\\.)*)\1"""
Values = Callable[[str], Iterator[re.Match[str]]]


def text_member(*names: str) -> Callable[[str], str]:
    """A function that finds the text of the first member with one of *names*; "": there is none."""
    search = re.compile(rf"""["'](?:{_any(names)})["']\s*:\s*{_TEXT}""").search

    def find(text: str) -> str:
        found = search(text)
        value = _unescaped(found[2]) if found else ""
        return value.encode(errors="replace").decode()

    return find


def values_of(names: Sequence[str]) -> Values:
    """A function that finds the texts and numbers of all members with one of *names*, for `has_id`."""
    return re.compile(rf"""["'](?:{_any(names)})["']\s*:\s*(?:{_TEXT}|([\w.+-]+))""").finditer


def has_id(data: bytes | None, wanted: str, names: Sequence[str], values: Values, inside: str = "") -> bool:
    """Whether a record has the id *wanted*, as a text or a number, in a member with one of *names*.

    Args:
        values: What `values_of` has made of the names; for what is not JSON.
        inside: A member that may have the ids, too.
    """
    text = (data or b"").decode(errors="replace")
    try:
        record = json.loads(text)  # NaN too
    except (ValueError, RecursionError):
        ids: Iterable[object] = (_unescaped(found[2]) if found[1] else found[3] for found in values(text))
    else:
        record = record if isinstance(record, dict) else {}
        member = record.get(inside)
        places = (record, member if isinstance(member, dict) else {})
        ids = (place.get(name) for place in places for name in names)
    return any(
        wanted in (str(each), f"{each:.0f}" if isinstance(each, float) else None)
        for each in ids
        if each is not None
    )


def _any(names: Iterable[str]) -> str:
    return "|".join(map(re.escape, names))


def _unescaped(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text
