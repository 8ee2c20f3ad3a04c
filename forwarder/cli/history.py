"""``forwarder status --history``: what the daemon has recorded, as plots and in words."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import click

from forwarder.cli.plot import axis, bars
from forwarder.cli.selection import read_when
from forwarder.cli.stored import open_view
from forwarder.cli.table import ascii_only, is_utf8, styled, terminal_width, wrapped
from forwarder.errors import ForwarderError, UsageError
from forwarder.service.timeline import HOURLY_SLACK_S, of_this_hour, outages, recorded, told
from forwarder.spool import SLACK_S, Period, Spool, binned, gaps
from forwarder.text import counted, duration, latency, rate, size

if TYPE_CHECKING:
    from forwarder.cli.command import Context

SINCE = "6h"
# Beyond this, hours are shown.
MINUTES_S = 48 * 3600.0
WIDTH, ROWS = 80, 4
MOST_INCIDENTS = 8


class Plot(NamedTuple):
    """What is shown of a period, None where that is nothing; how a value is written; and what is counted."""

    title: str
    value: Callable[[Period], float | None]
    shown: Callable[[float], str]
    total: Callable[[Period], int] | None = None


PLOTS = (
    Plot("accepted/s", lambda p: p.rate("accepted"), rate, lambda p: p.accepted),
    Plot("delivered/s", lambda p: p.rate("delivered"), rate, lambda p: p.delivered),
    Plot("waiting", lambda p: p.waiting, "{:,.0f}".format),
    Plot("oldest waiting", lambda p: p.oldest_waiting_s, duration),
    Plot("95 % of requests took up to", lambda p: p.p95_s, latency),
    Plot("dead letters/min", lambda p: p.rate("dead_lettered") * 60, rate, lambda p: p.dead_lettered),
    Plot("refused/min", lambda p: p.rate("refused") * 60, rate, lambda p: p.refused),
    Plot("queue's size", lambda p: p.used_bytes, lambda value: size(int(value))),
    Plot("disk free", lambda p: p.disk_free_bytes, lambda value: size(int(value))),
)


class Incident(NamedTuple):
    """What happened, as a sentence, when it began, and for how long it lasted."""

    since: float
    lasted_s: float
    text: str


def show(context: Context, since: str | None, as_json: bool) -> None:
    """Print what is recorded. Raises `UsageError`: *since* is no time of the past."""
    now = time.time()
    began_at = read_when("--since", since or SINCE)
    if began_at is None or began_at >= now:
        raise UsageError(f"--since {since!r} is not in the past", "Write 15m, 6h, 2d or 2025-01-31T12:00:00Z")
    is_hourly = now - began_at > MINUTES_S
    periods: list[Period] = []
    with open_view(context.spool) as view:
        if view:
            periods = recorded(view, now - began_at, hourly=is_hourly)
            if is_hourly and not as_json:
                periods += of_this_hour(view, periods)
    if as_json:
        later = [asdict(each) for each in periods if each.ended_at > began_at]
        click.echo(json.dumps({"hours" if is_hourly else "minutes": later}))
    elif periods:
        is_over = _is_over(context.spool)
        until = now if is_over else periods[-1].ended_at
        found = incidents(periods, now, is_over, HOURLY_SLACK_S if is_hourly else SLACK_S)
        width, utf8 = terminal_width() or WIDTH, is_utf8()
        for line in lines(periods, found, began_at, until, width, utf8):
            click.echo(line if utf8 else ascii_only(line))
    elif view:
        click.echo("Nothing is recorded yet: the daemon does it each minute while it runs.")


def _is_over(queue: Spool) -> bool:
    """Whether no daemon runs, so that the time after the last period is a gap."""
    try:
        return queue.holder() is None
    except ForwarderError:
        return False


def lines(
    periods: Sequence[Period], found: Iterable[Incident], since: float, until: float, width: int, utf8: bool
) -> Iterator[str]:
    """Plots of the *periods* from *since* until *until*, and the longest incidents *found* in that time."""
    shown = [each for each in periods if each.ended_at > since]
    if len(shown) == len(periods):
        since = min(each.began_at for each in periods)
    if shown:
        yield from _plots(shown, since, until, width, utf8)
    else:
        yield f"Nothing is recorded since {_clock(since, until)}."
    later = [each for each in found if each.since + each.lasted_s > since]
    if later:
        yield ""
    for each in sorted(sorted(later, key=lambda each: -each.lasted_s)[:MOST_INCIDENTS]):
        yield from wrapped(each.text, width, "  ")
    if len(later) > MOST_INCIDENTS:
        yield f"and {counted(len(later) - MOST_INCIDENTS, 'shorter one')}"


def _plots(shown: Sequence[Period], since: float, until: float, width: int, utf8: bool) -> Iterator[str]:
    columns = binned(shown, since, until, width)
    empty = []
    for plot in PLOTS:
        known = [value for each in shown if (value := plot.value(each)) is not None]
        if not any(known):
            empty.append(plot.title)
            continue
        most = max(known)
        in_all = f", {sum(map(plot.total, shown)):,} in all" if plot.total else ""
        title = f"{plot.title}: {plot.shown(known[-1])} last, {plot.shown(most)} at most{in_all}"
        yield styled(title, bold=True) if utf8 else title
        values = [None if each is None else plot.value(each) or 0.0 for each in columns]
        yield from (line.rstrip() for line in bars(values, ROWS, most, utf8))
        yield axis(since, until, width)
    if empty:
        yield from wrapped(f"Nothing to show of: {', '.join(empty)}.", width)


def incidents(periods: Sequence[Period], now: float, is_over: bool, slack_s: float) -> list[Incident]:
    """What interrupted delivery.

    Args:
        periods: One at least, in the order of recording.
        is_over: No daemon runs since the last one.
        slack_s: As of `gaps`.
    """
    clock = partial(_clock, now=now)
    found = [
        Incident(min(gap.since, gap.until), abs(gap.until - gap.since), told(gap, clock))
        for gap in gaps(periods, slack_s)
    ]
    found += [Incident(each.since, each.lasted_s, told(each, clock)) for each in outages(periods)]
    if is_over and (last := periods[-1].ended_at) < now:
        text = f"No daemon has run since {clock(last)}, for {duration(now - last)}."
        found.append(Incident(last, now - last, text))
    return found


def _clock(at: float, now: float) -> str:
    """A local time, with the date unless it is that of *now*."""
    moment = datetime.fromtimestamp(at)
    return moment.strftime("%H:%M" if moment.date() == datetime.fromtimestamp(now).date() else "%b %d %H:%M")
