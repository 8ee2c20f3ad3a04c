"""``forwarder status --history``: what the daemon has recorded, as plots and in words."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import click

from forwarder.cli.plot import HOUR_S, MINUTE_S, axis, bars
from forwarder.cli.selection import read_when
from forwarder.cli.stored import open_view
from forwarder.cli.table import ascii_only, is_utf8, styled, terminal_width, wrapped
from forwarder.errors import ForwarderError, UsageError
from forwarder.spool import SLACK_S, Gap, Period, Spool, View, binned, gaps, merged
from forwarder.text import counted, duration, printable, size

if TYPE_CHECKING:
    from forwarder.cli.command import Context

SINCE = "6h"
# Beyond this, hours are shown.
MINUTES_S = 48 * 3600.0
WIDTH, ROWS = 80, 4
MOST_INCIDENTS = 8
# Hours are sums of minutes: the seconds that a restart takes are no gap between them.
HOURLY_SLACK_S = 60.0
NOT_DELIVERING = ("backing_off", "blocked", "paused")
# Shorter, one failed request is no incident.
LEAST_S = 1.0


class Plot(NamedTuple):
    """What is shown of a period, None where that is nothing; how a value is written; and what is counted."""

    title: str
    value: Callable[[Period], float | None]
    shown: Callable[[float], str]
    total: Callable[[Period], int] | None = None


def rate(value: float) -> str:
    """A number of events a second, or a minute, with two digits at least."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _a_second(count: int, period: Period) -> float:
    # The end of a daemon may be recorded a moment after its last minute.
    return count / max(period.lasted_s, 1.0)


PLOTS = (
    Plot("accepted/s", lambda p: _a_second(p.accepted, p), rate, lambda p: p.accepted),
    Plot("delivered/s", lambda p: _a_second(p.delivered, p), rate, lambda p: p.delivered),
    Plot("waiting", lambda p: p.waiting, "{:,.0f}".format),
    Plot("oldest waiting", lambda p: p.oldest_waiting_s, duration),
    Plot("95 % of requests took up to", lambda p: p.p95_s, lambda value: f"{value:.2g} s"),
    Plot("dead letters/min", lambda p: _a_second(p.dead_lettered, p) * 60, rate, lambda p: p.dead_lettered),
    Plot("refused/min", lambda p: _a_second(p.refused, p) * 60, rate, lambda p: p.refused),
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
    # Minutes may be shorter, where a daemon was restarted, and a clock set.
    count = int((now - began_at) / (HOUR_S if is_hourly else MINUTE_S)) * 2 + 100
    periods: list[Period] = []
    with open_view(context.spool) as view:
        if view:
            periods = view.history(count, hourly=is_hourly)
            if is_hourly and not as_json:
                periods += _of_this_hour(view, periods)
    if as_json:
        recorded = [asdict(each) for each in periods if each.ended_at > began_at]
        click.echo(json.dumps({"hours" if is_hourly else "minutes": recorded}))
    elif periods:
        is_over = _is_over(context.spool)
        until = now if is_over else periods[-1].ended_at
        found = incidents(periods, now, is_over, HOURLY_SLACK_S if is_hourly else SLACK_S)
        width, utf8 = terminal_width() or WIDTH, is_utf8()
        for line in lines(periods, found, began_at, until, width, utf8):
            click.echo(line if utf8 else ascii_only(line))
    elif view:
        click.echo("Nothing is recorded yet: the daemon does it each minute while it runs.")


def _of_this_hour(view: View, hours: Sequence[Period]) -> list[Period]:
    """The minutes that no hour sums up yet, as one."""
    after = hours[-1].ended_at if hours else 0.0
    newest = [each for each in view.history(2 * 60) if each.ended_at > after]
    return [merged(newest)] if newest else []


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
    """When no daemon ran, when it did not deliver and why, and when the clock was set.

    Args:
        periods: One at least, in the order of recording.
        is_over: No daemon runs since the last one.
        slack_s: As of `gaps`.
    """
    found = [_between(gap, now) for gap in gaps(periods, slack_s)]
    for state in NOT_DELIVERING:
        for is_in_it, group in groupby(periods, key=lambda each: each.states.get(state, 0) >= LEAST_S):
            if is_in_it:
                found.append(_outage(state, list(group), now))
    if is_over and (last := periods[-1].ended_at) < now:
        text = f"no daemon has run since {_clock(last, now)} ({duration(now - last)})"
        found.append(Incident(last, now - last, text))
    return found


def _between(gap: Gap, now: float) -> Incident:
    apart_s = abs(gap.until - gap.since)
    if gap.was_set:
        where = "back" if gap.until < gap.since else "forward"
        text = f"the clock was set {where} by {duration(apart_s)} at {_clock(gap.since, now)}"
    else:
        text = f"no daemon ran {_span(gap.since, gap.until, apart_s, now)}"
    return Incident(min(gap.since, gap.until), apart_s, text)


def _outage(state: str, group: Sequence[Period], now: float) -> Incident:
    whole = merged(group)
    since, until, lasted_s = group[0].began_at, group[-1].ended_at, whole.states[state]
    reason = f": {printable(whole.reason)}" if whole.reason else ""
    text = f"{state.replace('_', ' ')} {_span(since, until, lasted_s, now)}{reason}"
    return Incident(since, lasted_s, text)


def _span(since: float, until: float, lasted_s: float, now: float) -> str:
    return f"from {_clock(since, now)} to {_clock(until, now)} ({duration(lasted_s)})"


def _clock(at: float, now: float) -> str:
    """A local time, with the date unless it is that of *now*."""
    moment = datetime.fromtimestamp(at)
    return moment.strftime("%H:%M" if moment.date() == datetime.fromtimestamp(now).date() else "%b %d %H:%M")
