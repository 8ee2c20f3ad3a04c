"""The numbers, as a table for people and as JSON."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from string import ascii_lowercase

_LIBRARIES = ("isal", "msgspec", "persist-queue", "requests")


@dataclass(frozen=True)
class Number:
    """One measured number, and what it is to reach.

    Attributes:
        name: N1 to N12; N2a comes after N2.
        what: What was measured, with its unit.
        figure: What is held against the target; a ratio where something stands beside ours.
        target: ``"<= 6"`` or ``">= 0.7"``; empty: it is only told.
        ours: The forwarder's.
        bare: The bare loop's or raw SQLite's.
        plain: Of plain persist-queue, as a user would write it.
    """

    name: str
    what: str
    figure: float
    target: str = ""
    ours: float | None = None
    bare: float | None = None
    plain: float | None = None

    @property
    def place(self) -> tuple[int, str]:
        """Where it stands in the table."""
        digits = self.name[1:].rstrip(ascii_lowercase)
        return int(digits), self.name[1 + len(digits) :]

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; None: there is none."""
        if not self.target:
            return None
        relation, bound = self.target.split()
        return self.figure <= float(bound) if relation == "<=" else self.figure >= float(bound)


def machine() -> dict[str, object]:
    """What the figures were measured on, and with."""
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3),
        "kernel": platform.release(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in _LIBRARIES},
    }


def heading() -> str:
    """The first lines of the table."""
    told = ", ".join(f"{name} {value}" for name, value in machine().items())
    columns = f"{'ours':>9} {'bare':>9} {'plain':>9} {'figure':>8} {'target':>8}"
    return f"{told}\n\n{'':4} {'':60} {columns}"


def line(number: Number) -> str:
    """A line of the table."""
    mark = {True: "met", False: "NOT MET", None: ""}[number.is_met]
    beside = " ".join(f"{_short(value):>9}" for value in (number.ours, number.bare, number.plain))
    figure = f"{_short(number.figure):>8} {number.target:>8}"
    return f"{number.name:4} {number.what:60} {beside} {figure} {mark}".rstrip()


def write(file: str, numbers: Iterable[Number]) -> None:
    """The same as JSON."""
    rows = [{**vars(number), "met": number.is_met} for number in numbers]
    with open(file, "w", encoding="utf-8") as out:
        json.dump({"machine": machine(), "at": time.time(), "numbers": rows}, out, indent=1)


def sentence(numbers: Sequence[Number]) -> str:
    """How many of the targets are met, and which are not."""
    missed = [f"{number.name} ({number.what})" for number in numbers if number.is_met is False]
    count = sum(number.is_met is not None for number in numbers)
    rest = "; not met: " + ", ".join(missed) if missed else ""
    return f"{count - len(missed)} of {count} targets are met{rest}"


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
