"""``--fail-if``: what a person calls a failure, as a condition on one key of `status`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from forwarder.config.kinds import SIZE_UNITS
from forwarder.errors import UsageError

OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
_form = re.compile(r"\s*([\w.]+)\s*(>=|<=|==|!=|>|<)(?!=)\s*(.*?)\s*", re.DOTALL).fullmatch
_number = re.compile(r"([+-]?[\d.]+(?:e[+-]?\d+)?)\s*([a-z]*)", re.IGNORECASE).fullmatch
_instant = re.compile(r"\d{4}(-\d\d(-\d\d([T ]\d\d(:\d\d)*(\.\d+)?Z?)?)?)?").fullmatch
_UNITS: Mapping[str, Mapping[str, float]] = {
    "_s": {"": 1, "s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400},
    "_bytes": SIZE_UNITS,
}
_booleans = {"true": True, "false": False}
_EQUALITY = ("==", "!=")
# A text that stands in the order of what it says: an instant, in ISO 8601 and UTC.
_ORDERED_TEXTS = ("last_delivery_at",)
# Null, what is foretold never comes, and the free space is that of another host.
_ENDLESS = ("eta_s", "full_in_s", "disk_full_in_s", "oldest_late_in_s", "disk_free_bytes")


@dataclass(frozen=True, slots=True)
class Condition:
    """``key operator value``; *empty* stands for a null."""

    text: str
    key: str
    operator: str
    value: float | str | bool
    empty: float | str | bool

    def holds(self, found: Mapping[str, Any]) -> bool:
        """Whether it is so in *found*."""
        value = found[self.key]
        return OPERATORS[self.operator](self.empty if value is None else value, self.value)


def understand(
    text: str,
    known: Mapping[str, float | str | bool],
    choices: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Condition:
    """Read a condition such as ``oldest_waiting_s>600`` or ``state == blocked``.

    Args:
        known: Every key, with a value of its type.
        choices: What the text of a key may be, where it can't be any.

    Raises:
        UsageError: if it is no condition, or its key or value does not fit.
    """
    match = _form(text)
    if not match:
        raise UsageError(
            f"--fail-if {text!r} is no condition", "Write KEY OPERATOR VALUE, such as 'oldest_waiting_s>600'"
        )
    key, sign, given = match.groups()
    if key not in known:
        raise UsageError(f"--fail-if {text!r}: there is no {key!r}", f"There are {', '.join(known)}")
    empty = known[key]
    if sign not in _EQUALITY and isinstance(empty, (str, bool)) and not _is_ordered(key):
        raise UsageError(f"--fail-if {text!r}: {key} can only be compared with == or !=", "Use one of these")
    value = _value(text, key, given, empty)
    if _is_ordered(key) and not _instant(str(value)):
        raise UsageError(f"--fail-if {text!r}: {value!r} is no time", "Give ISO 8601, as 2025-01-31T12:00Z")
    if isinstance(value, str) and value not in choices.get(key, (value,)):
        raise UsageError(f"--fail-if {text!r}: {key} is never {value!r}", f"It is {', '.join(choices[key])}")
    return Condition(text, key, sign, value, math.inf if key in _ENDLESS else empty)


def beginnings(known: Mapping[str, float | str | bool], choices: Mapping[str, Iterable[str]]) -> list[str]:
    """How conditions on the *known* keys begin; a whole condition for each value in *choices*."""
    found = []
    for key, like in known.items():
        if key in choices:
            found += [f"{key}=={value}" for value in choices[key]]
        elif isinstance(like, bool):
            found += [f"{key}=={value}" for value in _booleans]
        else:
            found.append(f"{key}{'==' if isinstance(like, str) and not _is_ordered(key) else '>'}")
    return found


def _is_ordered(key: str) -> bool:
    return key.rpartition(".")[2] in _ORDERED_TEXTS


def _value(text: str, key: str, given: str, like: float | str | bool) -> float | str | bool:
    if isinstance(like, str):
        quoted = len(given) > 1 and given[0] == given[-1] and given[0] in "'\""
        return given[1:-1] if quoted else given
    if isinstance(like, bool):
        if given.lower() not in _booleans:
            raise UsageError(f"--fail-if {text!r}: {given!r} is neither true nor false")
        return _booleans[given.lower()]
    units = next((units for end, units in _UNITS.items() if key.endswith(end)), {"": 1})
    match = _number(given)
    try:
        number = float(match[1]) * units[match[2].lower()] if match else math.nan
    except (ValueError, KeyError):
        number = math.nan
    if not math.isfinite(number):
        named = ", ".join(filter(None, units))
        remedy = f"Give a number, with {named} behind it or none" if named else "Give a count"
        raise UsageError(f"--fail-if {text!r}: {given!r} is not a number", remedy)
    return number
