"""Plots of a timeline as SVG, and the same in words and as a table; pure functions.

The server draws, so that a plot needs no script and its numbers are on the page as text. Lines and areas are
in a nested SVG that is stretched to the width there is; text and marks are placed in per cent beside it, and
keep their size on a phone. Colours are classes of the style sheet.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from forwarder.service.timeline import Part, Timeline
from forwarder.spool import SLACK_S, Period
from forwarder.text import duration, latency, rate, size

MOST_TICKS = 4
# The least height of a bar, of 100: one event among thousands is still seen.
LEAST_BAR = 2.0
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
_TIMES_S = (
    1.0, 2.0, 5.0, 10.0, 15.0, 30.0,
    *(number * _MINUTE for number in (1, 2, 5, 10, 15, 30)),
    *(number * _HOUR for number in (1, 2, 3, 6, 12, 24, 48)),
    7 * _DAY,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unit:
    """How values are written, in full and on the axis; and the round steps of the axis that suit them."""

    text: Callable[[float], str]
    short: Callable[[float], str]
    step: Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Series:
    """A figure over time: its *name*, the class of its colour, and its value in a period; None: none."""

    name: str
    colour: str
    value: Callable[[Period], float | None]


@dataclass(frozen=True, slots=True)
class Chart:
    """A plot: lines, or with *stacked* bars of counts, one upon the other."""

    key: str
    title: str
    unit: Unit
    series: Sequence[Series]
    stacked: bool = False


def _decimal_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _time_step(least: float) -> float:
    return next((step for step in _TIMES_S if step >= least), math.ceil(least / _DAY) * _DAY)


def _compact(value: float) -> str:
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.4g}{letter}"
    return f"{value:.4g}"


def _size_short(value: float) -> str:
    return size(round(value)).replace(".0 ", " ")


COUNT = Unit(lambda value: f"{round(value):,}", _compact, lambda least: max(_decimal_step(least), 1.0))
RATE = Unit(lambda value: f"{rate(value)}/s", _compact, _decimal_step)
BYTES = Unit(
    lambda value: size(round(value)), _size_short, lambda least: 2.0 ** math.ceil(math.log2(max(least, 1.0)))
)
DURATION = Unit(duration, lambda value: re.sub(" 0 (h|min)$", "", duration(value)), _time_step)
LATENCY = Unit(latency, latency, _decimal_step)


def ticks(greatest: float, unit: Unit) -> list[float]:
    """Round values from 0 up to the first that is not below *greatest*; at most `MOST_TICKS` behind 0."""
    greatest = greatest or 1.0
    step = unit.step(greatest / MOST_TICKS)
    return [step * number for number in range(max(1, math.ceil(greatest / step - 1e-9)) + 1)]


def time_ticks(since: float, until: float) -> list[tuple[float, str]]:
    """Round times in UTC from *since* until *until*, with what they are called."""
    wide = until - since
    step, form = next(
        (step, form)
        for most, step, form in (
            (2 * _HOUR, 15 * _MINUTE, "%H:%M"),
            (2 * _DAY, 6 * _HOUR, "%H:%M"),
            (8 * _DAY, _DAY, "%a"),
            (math.inf, 7 * _DAY, "%-d %b"),
        )
        if wide <= most
    )
    at = math.ceil(since / step) * step
    found = []
    while at <= until:
        found.append((at, time.strftime(form, time.gmtime(at))))
        at += step
    return found


def drawn(chart: Chart, timeline: Timeline) -> str:
    """The plot as an SVG element, with its summary as what a screen reader says."""
    values = [[series.value(part.period) for part in timeline.parts] for series in chart.series]
    scale = ticks(_greatest(values, chart.stacked), chart.unit)
    label = escape(f"{chart.title}. {summary(chart, timeline)}")
    return "".join(
        (
            f'<svg class="plot" role="img" aria-label="{label}">',
            *_marks(timeline),
            *_axes(chart, scale, timeline),
            '<svg width="100%" height="100%" viewBox="0 0 1000 100" preserveAspectRatio="none">',
            *(_bars if chart.stacked else _lines)(chart, values, scale[-1], timeline),
            "</svg></svg>",
        )
    )


def _greatest(values: Sequence[Sequence[float | None]], stacked: bool) -> float:
    if stacked:
        return max((sum(value or 0 for value in at_once) for at_once in zip(*values, strict=True)), default=0)
    return max((value for line in values for value in line if value is not None), default=0)


def _marks(timeline: Timeline) -> Iterator[str]:
    """What is behind the plot: outages, and times of which nothing is known."""
    for outage in timeline.outages:
        yield _mark(outage.state, outage.since, outage.until, timeline)
    if timeline.begins_at > timeline.since:
        yield _mark("gap", timeline.since, timeline.begins_at, timeline)
    for gap in timeline.gaps:
        yield _mark("gap", gap.since, gap.until, timeline)


def _mark(of: str, since: float, until: float, timeline: Timeline) -> str:
    left, right = (max(0.0, _place(at, timeline) / 10) for at in (since, until))
    width = max(right - left, 0.0)
    return f'<rect class="mark {of}" x="{left:.2f}%" width="{width:.2f}%" height="100%"/>' if width else ""


def _axes(chart: Chart, scale: Sequence[float], timeline: Timeline) -> Iterator[str]:
    for value in scale:
        y = 100 - value / scale[-1] * 100
        yield f'<line class="grid" x1="0" x2="100%" y1="{y:.4g}%" y2="{y:.4g}%"/>'
        yield f'<text class="y" x="-8" y="{y:.4g}%" dy=".32em">{escape(chart.unit.short(value))}</text>'
    for at, name in time_ticks(timeline.since, timeline.until):
        x = _place(at, timeline) / 10
        yield f'<line class="tick" x1="{x:.2f}%" x2="{x:.2f}%" y2="100%"/>'
        yield f'<text class="x" x="{x:.2f}%" y="100%" dy="1.85em">{name}</text>'


def _place(at: float, timeline: Timeline) -> float:
    """Where the time *at* is, from 0 to 1000."""
    return min((at - timeline.since) / (timeline.until - timeline.since), 1.0) * 1000


def _lines(
    chart: Chart, values: Sequence[Sequence[float | None]], top: float, timeline: Timeline
) -> Iterator[str]:
    for series, line in zip(chart.series, values, strict=True):
        paths = [_line(run, top, timeline) for run in _runs(line, timeline.parts)]
        if len(chart.series) == 1 and paths:
            areas = "".join(f"{path}V100H{path[1:].partition(' ')[0]}Z" for path in paths)
            yield f'<path class="area {series.colour}" d="{areas}"/>'
        if paths:
            yield f'<path class="line {series.colour}" d="{"".join(paths)}"/>'


def _runs(line: Sequence[float | None], parts: Sequence[Part]) -> Iterator[list[tuple[Part, float]]]:
    """The values without interruption."""
    run: list[tuple[Part, float]] = []
    for part, value in zip(parts, line, strict=True):
        if run and (value is None or abs(part.since - run[-1][0].until) > SLACK_S):
            yield run
            run = []
        if value is not None:
            run.append((part, value))
    if run:
        yield run


def _line(run: Sequence[tuple[Part, float]], top: float, timeline: Timeline) -> str:
    """Through the middle of each part, from the beginning of the first to the end of the last."""

    def point(at: float, value: float) -> str:
        return f"{_place(at, timeline):.1f} {100 - value / top * 100:.1f}"

    middles = (point((part.since + part.until) / 2, value) for part, value in run)
    (first, at_first), (last, at_last) = run[0], run[-1]
    return f"M{point(first.since, at_first)}L{'L'.join(middles)}L{point(last.until, at_last)}"


def _bars(
    chart: Chart, values: Sequence[Sequence[float | None]], top: float, timeline: Timeline
) -> Iterator[str]:
    base = [0.0] * len(timeline.parts)
    for series, line in zip(chart.series, values, strict=True):
        path = ""
        for index, (part, value) in enumerate(zip(timeline.parts, line, strict=True)):
            if not value:
                continue
            left, right = _place(part.since, timeline), _place(part.until, timeline)
            height = max(value / top * 100, LEAST_BAR)
            room = (right - left) * 0.1
            width = right - left - 2 * room
            path += f"M{left + room:.1f} {100 - base[index]:.1f}h{width:.1f}v{-height:.1f}h{-width:.1f}z"
            base[index] += height
        if path:
            yield f'<path class="bar {series.colour}" d="{path}"/>'


def standing(chart: Chart, series: Series, timeline: Timeline) -> str:
    """What stands beside the name of a figure: of lines the newest value, of bars the sum."""
    values = [series.value(part.period) for part in timeline.parts]
    if chart.stacked:
        return chart.unit.text(sum(value or 0 for value in values))
    newest = values[-1] if values else None
    return "none" if newest is None else chart.unit.text(newest)


def summary(chart: Chart, timeline: Timeline) -> str:
    """The plot in words: each figure's newest, least and greatest value, or its sum; and gaps."""
    return " ".join(
        [*(_said(chart, series, timeline) for series in chart.series), _of_gaps(timeline)]
    ).strip()


def _said(chart: Chart, series: Series, timeline: Timeline) -> str:
    known = [(value, part) for part in timeline.parts if (value := series.value(part.period)) is not None]
    name, text = f"{series.name[:1].upper()}{series.name[1:]}", chart.unit.text
    if not known:
        return f"{name}: nothing is known."
    greatest, part = max(known, key=lambda pair: pair[0])
    most = f"{text(greatest)} at {clock(part.until)}"
    if chart.stacked:
        total = sum(value for value, _ in known)
        return f"{name}: {text(total)} in all{f', most {most}' if total else ''}."
    least = min(value for value, _ in known)
    return f"{name}: now {text(known[-1][0])}, least {text(least)}, most {most}."


def _of_gaps(timeline: Timeline) -> str:
    unknown_s = sum(max(0.0, gap.until - max(gap.since, timeline.since)) for gap in timeline.gaps)
    unknown_s += timeline.begins_at - timeline.since
    return f"Nothing is recorded for {duration(unknown_s)} of it." if unknown_s > SLACK_S else ""


def clock(at: float) -> str:
    """*at* in UTC, for people; the page says that it is UTC."""
    return time.strftime("%a %-d %b %H:%M", time.gmtime(at))


def rows(chart: Chart, timeline: Timeline) -> Iterator[str]:
    """The rows of the table with the plot's values, the newest first."""
    for part in reversed(timeline.parts):
        values = (series.value(part.period) for series in chart.series)
        cells = "".join(
            f"<td>{'' if value is None else escape(chart.unit.text(value))}</td>" for value in values
        )
        yield f"<tr><th scope=row>{clock(part.until)}</th>{cells}</tr>"
