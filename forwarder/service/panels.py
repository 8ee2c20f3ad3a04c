"""What the web page shows, as HTML: each panel from the figures of ``status``, or from a timeline. Pure.

All that comes from elsewhere is escaped. Of reasons, only what quotes nothing is shown.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape
from operator import attrgetter, methodcaller
from typing import Any

from forwarder.records import EVENTS
from forwarder.records.kind import Kind
from forwarder.records.verdict import Verdict
from forwarder.service import charts
from forwarder.service.causes import MOST_LETTERS, Cause
from forwarder.service.charts import Chart, Series, clock
from forwarder.service.status import (
    FORECASTS,
    OTHER_KINDS,
    coming,
    foretold,
    line_of_kind,
    next_try,
    passed,
    sentence,
)
from forwarder.service.timeline import Timeline, told
from forwarder.spool import Period
from forwarder.text import counted, duration, kind_of, printable, seconds_of, since, unquoted

MOST_CAUSES = 20
MOST_NAME = 100
_OUTCOMES = {
    Verdict.DELIVERED: "green",
    Verdict.SHORT: "teal",
    Verdict.TOO_LARGE: "violet",
    Verdict.REFUSED: "orange",
    Verdict.THROTTLED: "blue",
    Verdict.UNREACHABLE: "red",
    Verdict.MISCONFIGURED: "grey",
}
_command = re.compile(r"`([^`]*)`").sub


def text(value: str) -> str:
    """*value* from anywhere, for HTML; commands in backticks are marked as such."""
    return _command(r"<code>\1</code>", escape(printable(value)))


def _requests(verdict: Verdict) -> Callable[[Period], float]:
    return lambda period: float(period.requests.get(verdict.value, 0))


def plots(timeline: Timeline, *, relays: bool) -> list[Chart]:
    """What is plotted of *timeline*; a daemon that *relays* delivers to the server."""
    periods = [part.period for part in timeline.parts]
    outcomes = tuple(
        Series(verdict.value, colour, _requests(verdict))
        for verdict, colour in _OUTCOMES.items()
        if verdict is Verdict.DELIVERED or any(map(_requests(verdict), periods))
    )
    found = [
        Chart("rate", "Rate", charts.RATE, (
            Series("accepted", "blue", methodcaller("rate", "accepted")),
            Series("relayed" if relays else "delivered", "green", methodcaller("rate", "delivered")),
        )),
        Chart("waiting", "Waiting", charts.COUNT, (Series("waiting", "blue", attrgetter("waiting")),)),
        Chart("oldest", "Oldest waiting", charts.DURATION, (
            Series("oldest", "orange", attrgetter("oldest_waiting_s")),
        )),
        Chart("latency", "Request duration", charts.LATENCY, (
            Series("half up to", "blue", attrgetter("p50_s")),
            Series("95 % up to", "violet", attrgetter("p95_s")),
        )),
        Chart("requests", "Requests", charts.COUNT, outcomes, stacked=True),
        Chart("refused", "Refused", charts.COUNT, (
            Series("dead letters", "red", attrgetter("dead_lettered")),
            Series("refused to producers", "orange", attrgetter("refused")),
        ), stacked=True),
        Chart("space", "Space in use", charts.BYTES, (Series("in use", "teal", attrgetter("used_bytes")),)),
    ]  # fmt: skip
    # Of a queue on a server the disk is not known.
    if any(period.disk_free_bytes is not None for period in periods):
        free = Series("free", "teal", attrgetter("disk_free_bytes"))
        found.append(Chart("disk", "Disk free", charts.BYTES, (free,)))
    return found


def legend(chart: Chart, timeline: Timeline) -> str:
    """The names of the figures in a plot, with their newest values or sums."""
    is_alone = len(chart.series) == 1 and not chart.stacked
    return "".join(
        f'<span><i class="swatch {series.colour}"></i>{"now" if is_alone else series.name}'
        f" <b>{escape(charts.standing(chart, series, timeline))}</b></span>"
        for series in chart.series
    )


def table(chart: Chart, timeline: Timeline) -> str:
    """The plot's values."""
    heads = "".join(f"<th scope=col>{series.name}</th>" for series in chart.series)
    rows = "".join(charts.rows(chart, timeline))
    return f"<thead><tr><th scope=col>until</th>{heads}</tr></thead><tbody>{rows}</tbody>"


def headline(found: Mapping[str, Any], now: float) -> str:
    """The state in words, and since when."""
    said = sentence(found)
    head, colon, rest = said.partition(":") if found["exists"] else ("", "", said)
    lead = f"<strong>{text(head)}{colon}</strong>" if head else ""
    began = ""
    if found["state_since"]:
        at = seconds_of(found["state_since"])
        again = f" Next try {next_try(found, now)}." if found["next_try_at"] else ""
        began = f"<p class=since>Since {clock(at)}, for {duration(since(at, now))}.{again}</p>"
    return f'<div class="state {found["state"]}"><p>{lead}{text(rest)}</p>{began}</div>'


def tiles(found: Mapping[str, Any]) -> str:
    """The figures that matter most."""
    of_waiting = f"{found['in_flight']:,} in flight"
    if found["held"]:
        of_waiting += f", {found['held']:,} held"
    shown = (
        ("Waiting", f"{found['waiting']:,}", of_waiting),
        ("Oldest waiting", duration(found["oldest_waiting_s"]), ""),
        (passed(found).capitalize(), charts.RATE.text(found["rate_1m"]), "over the last minute"),
        ("Accepted", charts.RATE.text(found["accepted_1m"]), "over the last minute"),
        ("Dead letters", f"{found['dead_letters']:,}", f"{found['dead_lettered']:,} ever"),
        ("Refused", f"{found['refused']:,}", "to producers"),
    )
    return "".join(
        f"<div><dt>{name}</dt><dd>{value}<small>{more}</small></dd></div>" for name, value, more in shown
    )


def forecast(found: Mapping[str, Any]) -> str:
    """What comes if it goes on like this, as far as it is known."""
    if not found["exists"]:
        return ""
    return "".join(
        f"<div><dt>{FORECASTS[key].capitalize()}</dt><dd>{coming(in_s)}</dd></div>"
        for key, in_s in foretold(found).items()
    )


def other_kinds(found: Mapping[str, Any]) -> str:
    """A line for each other kind of records that has ever come."""
    lines = (
        f"<p><b>{text(kind.noun.capitalize())}</b>: {text(line_of_kind(found[name], passed(found)))}.</p>"
        for name, kind in OTHER_KINDS.items()
        if any(found[name][key] for key in ("accepted", "refused"))
    )
    return "".join(lines)


def figures(found: Mapping[str, Any]) -> str:
    """All figures under their keys."""
    rows = "".join(
        f"<tr><th scope=row><code>{text(key)}</code></th><td>{text(value)}</td></tr>"
        for key, value in _flat(found)
    )
    return f"<thead><tr><th scope=col>key</th><th scope=col>value</th></tr></thead><tbody>{rows}</tbody>"


def _flat(found: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in found.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def events(timeline: Timeline) -> str:
    """Outages and times of which nothing is known, in words; the newest first."""
    said = [(outage.since, outage.state, told(outage, clock)) for outage in timeline.outages]
    said += [(gap.since, "gap", told(gap, clock)) for gap in timeline.gaps]
    if timeline.begins_at > timeline.since:
        said.append((timeline.since, "gap", f"Nothing is recorded before {clock(timeline.begins_at)}."))
    if not said:
        return "<p>Delivery ran all the time.</p>"
    lines = (
        f'<li><i class="swatch {of}"></i>{text(what)}</li>' for _, of, what in sorted(said, reverse=True)
    )
    return f"<ul>{''.join(lines)}</ul>"


def causes(found: Iterable[tuple[Kind, Sequence[tuple[Cause, int]]]]) -> str:
    """The newest dead letters of each kind by name, field and reason, the most frequent first."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for kind, of_kind in found:
        for cause, count in of_kind:
            name = cause.event[:MOST_NAME] if kind is EVENTS else kind.noun
            counts[name, cause.field[:MOST_NAME], kind_of(unquoted(cause.reason))] += count
    if not counts:
        return "<p>There are none.</p>"
    rows = "".join(
        f"<tr><td>{count:,}</td>{''.join(f'<td>{text(cell)}</td>' for cell in cause)}</tr>"
        for cause, count in counts.most_common(MOST_CAUSES)
    )
    heads = "".join(f"<th scope=col>{name}</th>" for name in ("count", "name", "field", "reason"))
    more = len(counts) - MOST_CAUSES
    note = f"Of the newest {MOST_LETTERS:,} of each kind"
    note += f", without {counted(more, 'rarer cause')}" if more > 0 else ""
    return (
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        f"<p>{note}. {text('`forwarder dead-letters summary` has all.')}</p>"
    )
