"""The kinds of values that settings take: how they are read, checked and shown.

A kind takes a value from TOML, or the text of an environment variable. It returns the form that the
program uses: sizes in bytes, durations in seconds, names in lower case.
"""

from __future__ import annotations

import math
import re
from typing import Any

MIB, GIB, TIB = 2**20, 2**30, 2**40
SIZE_UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40} | {
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}


class UnfitError(ValueError):
    """A value is wrong. *what* continues "KEY = VALUE (SOURCE) "; *remedy* is a sentence."""

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


def type_name(value: object) -> str:
    """The name of a TOML value's type, for people."""
    names = {
        bool: "true/false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a table",
    }
    return names.get(type(value), "a date or time")


class Kind:
    """Any text; the other kinds are stricter."""

    remedy = "Give text in quotes"

    def read(self, text: str) -> object:
        """The *text* of an environment variable as the value that TOML would give."""
        return text

    def check(self, value: object) -> Any:
        """Return *value* in the program's form.

        Raises:
            UnfitError: it is not allowed.
        """
        if not isinstance(value, str):
            raise UnfitError(f"is {type_name(value)}, not text")
        if not value.isprintable():
            raise UnfitError("contains a control character")
        return value

    def show(self, value: Any) -> str:
        """The checked *value* as written in a TOML file."""
        quoted = str(value).replace("\\", "\\\\").replace('"', '\\"')
        return f'"{quoted}"'

    def hides(self, _value: object) -> bool:
        """Whether *value* may contain a secret. If so, no message may show it."""
        return False


class Choice(Kind):
    """One of a few words, case-insensitive."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.remedy = f"Choose one of {', '.join(words)}"

    def check(self, value: object) -> str:
        word = str(super().check(value)).lower()
        if word not in self.words:
            raise UnfitError("is not one of the choices")
        return word


class Items(Kind):
    """A list of values of one kind, as a tuple; in the environment with commas between them."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.remedy = f"{kind.remedy}; a list stands in brackets"

    def read(self, text: str) -> object:
        return [part.strip() for part in text.split(",") if part.strip()]

    def check(self, value: object) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise UnfitError(f"is {type_name(value)}, not a list", f"Put it in brackets. {self.kind.remedy}")
        found = []
        for item in value:
            try:
                found.append(self.kind.check(item))
            except UnfitError as wrong:
                shown = repr(item[:80]) if isinstance(item, str) and not self.kind.hides(item) else "an item"
                raise UnfitError(
                    f"has {shown}, which {wrong.what}", wrong.remedy or self.kind.remedy
                ) from None
        return tuple(found)

    def show(self, value: Any) -> str:
        return f"[{', '.join(map(self.kind.show, value))}]"

    def hides(self, value: object) -> bool:
        return isinstance(value, list | tuple) and any(map(self.kind.hides, value))


class Flag(Kind):
    """True or false; in the environment also 1/0, yes/no and on/off."""

    remedy = "Give true or false"

    def read(self, text: str) -> object:
        words = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(
            ("false", "0", "no", "off"), False
        )
        return words.get(text.strip().lower(), text)

    def check(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise UnfitError(f"is {type_name(value)}, not true or false")
        return value

    def show(self, value: Any) -> str:
        return "true" if value else "false"


class Whole(Kind):
    """A whole number from *low* to *high*, both allowed."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high
        self.remedy = f"Give a whole number from {low} to {high}"

    def read(self, text: str) -> object:
        try:
            return int(text)
        except ValueError:
            return text

    def check(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise UnfitError(
                "is not a whole number"
                if isinstance(value, float)
                else f"is {type_name(value)}, not a number"
            )
        if not self.low <= value <= self.high:
            raise UnfitError("is too small" if value < self.low else "is too large")
        return value

    def show(self, value: Any) -> str:
        return str(value)


class Number(Kind):
    """A finite number from *low* to *high*, in *unit*. *low* itself is allowed if *allow_low*."""

    def __init__(self, low: float, high: float, unit: str, *, allow_low: bool = True) -> None:
        self.low, self.high, self.allow_low = low, high, allow_low
        lower = f"from {low:g}" if allow_low else f"above {low:g} and up"
        self.remedy = f"Give a number {lower} to {high:g} {unit}"

    def read(self, text: str) -> object:
        for number in (int, float):
            try:
                return number(text)
            except ValueError:
                continue
        return text

    def check(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UnfitError(f"is {type_name(value)}, not a number")
        if not math.isfinite(value):
            raise UnfitError("is not a finite number")
        if value < self.low or (value == self.low and not self.allow_low):
            raise UnfitError("is too small")
        if value > self.high:
            raise UnfitError("is too large")
        return value

    def show(self, value: Any) -> str:
        return str(value)


class Size(Kind):
    """A number of bytes, or a number and a unit: ``"10GiB"``, ``"512 KiB"``, ``"2MB"`` (10⁶ bytes)."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high
        self.remedy = (
            f'Give bytes as a whole number, or with a unit such as "512KiB", "256MiB" or "2MB", '
            f"from {self.text(low)} to {self.text(high)}"
        )

    def read(self, text: str) -> object:
        return text

    def check(self, value: object) -> int:
        if isinstance(value, str):
            number = re.fullmatch(r"([0-9]{1,20}(?:\.[0-9]{1,20})?) ?([A-Za-z]*)", value.strip())
            unit = SIZE_UNITS.get(number[2].lower()) if number else None
            if not number or unit is None:
                raise UnfitError("is not a size")
            value = int(number[1]) * unit if number[1].isdigit() else int(float(number[1]) * unit)
        elif isinstance(value, bool) or not isinstance(value, int):
            raise UnfitError(f"is {type_name(value)}, not a size")
        if not self.low <= value <= self.high:
            raise UnfitError("is too small" if value < self.low else "is too large")
        return value

    def show(self, value: Any) -> str:
        text = self.text(value)
        return text if text.isdigit() else f'"{text}"'

    @staticmethod
    def text(size_bytes: int) -> str:
        """*size_bytes* in the largest unit that divides it, else in bytes."""
        for unit in ("TiB", "GiB", "MiB", "KiB"):
            count, rest = divmod(size_bytes, SIZE_UNITS[unit.lower()])
            if count and not rest:
                return f"{count}{unit}"
        return str(size_bytes)
