"""Plots of characters for a terminal: values in, lines out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

# From empty to full, and what stands where nothing is known.
BLOCKS, GAP = " ▁▂▃▄▅▆▇█", "·"
ASCII_BLOCKS, ASCII_GAP = " #", "."
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400
# What may lie between two marks of an axis.
_STEPS_S = [
    *(n * MINUTE_S for n in (1, 2, 5, 10, 15, 30)),
    *(n * HOUR_S for n in (1, 2, 3, 6, 12)),
    *(n * DAY_S for n in (1, 2, 7, 14, 28, 91, 365)),
]
# A mark, its time or date, and a space behind.
_LABEL = len("|Jan 31 ")


def bars(values: Sequence[float | None], rows: int, most: float, utf8: bool = True) -> list[str]:
    """A bar for each value, from 0 to *most*, in so many rows, the highest first.

    What is more than 0 can be seen. None, for what is not known, is another sign in the lowest row.
    """
    blocks, gap = (BLOCKS, GAP) if utf8 else (ASCII_BLOCKS, ASCII_GAP)
    steps = len(blocks) - 1
    full = rows * steps
    heights = [min(math.ceil((value or 0) * full / most), full) if most else 0 for value in values]
    lines = []
    for below in reversed(range(rows)):
        empty = gap if below == 0 else " "
        lines.append(
            "".join(
                empty if value is None else blocks[min(max(height - below * steps, 0), steps)]
                for value, height in zip(values, heights, strict=True)
            )
        )
    return lines


def axis(since: float, until: float, width: int) -> str:
    """The local times between two instants, in seconds since the epoch, under *width* columns; each mark
    stands at its column."""
    marks = max(1, width // (_LABEL + 2))
    step = next((step for step in _STEPS_S if (until - since) / step <= marks), _STEPS_S[-1])
    offset = datetime.fromtimestamp(since).astimezone().utcoffset()
    ahead_s = offset.total_seconds() if offset else 0.0
    at = math.ceil((since + ahead_s) / step) * step - ahead_s
    line = ""
    while at <= until:
        column = int((at - since) / (until - since) * width)
        label = f"|{_label(at, step)}"
        if column + len(label) <= width:
            line = f"{line:<{column}}{label}"
        at += step
    return line


def _label(at: float, step_s: float) -> str:
    moment = datetime.fromtimestamp(at)
    is_date = step_s >= DAY_S or (moment.hour, moment.minute) == (0, 0)
    return moment.strftime("%b %d" if is_date else "%H:%M")
