"""``forwarder status``: how the queue and the daemon are."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import click

from forwarder.cli.command import Context, command, json_option, kind_option
from forwarder.cli.completion import values
from forwarder.cli.conditions import Condition, beginnings, understand
from forwarder.cli.table import say, styled, terminal_width, wrapped
from forwarder.errors import UsageError
from forwarder.service.status import (
    CHOICES,
    KEYS,
    OTHER_KINDS,
    gather,
    line_of_kind,
    next_try,
    outlook,
    passed,
    sentence,
)
from forwarder.spool import Holder
from forwarder.text import counted, duration, instant, latency, printable, seconds_of, since, size

WATCH_S = 1.0
# On fewer columns each figure stands below its name.
NARROW = 50
COLOURS = {"running": "green", "backing_off": "yellow", "blocked": "red", "paused": "yellow"}


@command("status", short_help="How the queue and the daemon are.")
@json_option
@click.option("--watch", is_flag=True, help="Refresh every second, until interrupted.")
@click.option(
    "--fail-if",
    "expressions",
    metavar="EXPRESSION",
    shell_complete=values.one_of(beginnings(KEYS, CHOICES)),
    multiple=True,
    help="Exit with 1 if this holds, such as 'oldest_waiting_s>10m' or 'state==blocked'. Repeatable.",
)
@click.option("--history", "past", is_flag=True, help="Plots of what was, and when it stood still.")
@click.option(
    "--since",
    metavar="WHEN",
    help="The history since then: 90m, 6h, 2d, 1w ago, or ISO 8601 [default: 6h].",
)
@kind_option
def status(
    context: Context,
    as_json: bool,
    watch: bool,
    expressions: tuple[str, ...],
    past: bool,
    since: str | None,
) -> int:
    """Say whether events are being delivered, how many wait, and whether the books balance.

    The state is one of running, backing_off (Mixpanel can't be reached, or asks to slow down), blocked
    (a person has to fix something), paused and stopped (no daemon runs). waiting counts all events in the
    queue, also those in flight and those held; dead_lettered counts all that were ever refused, dead_letters
    those that are kept now. Durations are in seconds, sizes in bytes. rate_1m and accepted_1m are the events
    a second delivered and accepted over the last minute. request_p50_s and request_p95_s are of the requests
    whose events were settled in the last minute; requests counts all since the daemon's start by outcome.

    Forecasts are for the case that it goes on as in the last 5 minutes, as far back as delivery made
    progress, or did not, as now. eta_s: nothing waits any more; full_in_s: used_bytes reaches max_bytes;
    disk_full_in_s: only queue.min_free_bytes are left; oldest_late_in_s: what waits has waited for
    alerts.oldest_s. 0 is now, null is never, at this rate.

    All figures are of events; engage and groups have those of profile and group updates. The state is the
    worst of all kinds, state_since is when it began, and next_try_at when a request is sent again. Of a
    queue on a server, queue_path names the server, host is the host of the daemon, standbys is the setting
    (null of a directory), and wal_bytes and disk_free_bytes are null. On a host with a relay all this is of
    the host's own queue, where delivered means handed over; server has the same keys for the queue on the
    server, its state_reason says why they are not known, and it is null on other hosts.

    Exit code: 0, or 1 if a condition of --fail-if is true. A condition is a key of --json, one of > >= < <=
    == !=, and a number or text. A number of seconds may end in s, m, h or d, one of bytes in KiB, MiB or
    GiB. A forecast or a disk_free_bytes that is null counts as endless. Where nothing is known, as of a queue
    not adopted yet, every condition is true. With --watch, the first condition that is true ends it.

    --history plots what the daemon records each minute: events accepted, delivered, dead-lettered and
    refused, how many waited and for how long, the duration of requests, and sizes. Where no daemon ran
    there are dots. Below stand the longest times without a daemon or without delivery, with the reason.
    Times are local. Beyond 48 hours it shows hours, which are kept for a year; minutes are kept for 31
    days. With --json it is one object with minutes or hours: a list of periods, each with its end
    (ended_at, seconds since the epoch), how long it lasted (lasted_s), what was counted in it and how
    things were at its end.
    """
    if past:
        if watch or expressions:
            raise UsageError("--history goes with neither --watch nor --fail-if")
        from forwarder.cli import history

        history.show(context, since, as_json)
        return 0
    if since is not None or context.kind_name != "event":
        raise UsageError("--since and --kind are for --history", "Add --history, or leave them out")
    conditions = [understand(expression, KEYS, CHOICES) for expression in expressions]
    if not watch:
        return _show_once(gather(context.queue, context.server, late_s=context.late_s), as_json, conditions)
    try:
        return _watch(context, as_json, conditions)
    except KeyboardInterrupt:
        return 0


def describe(found: Mapping[str, Any], width: int | None) -> Iterator[str]:
    """The lines for a person, of *width* columns at most: a sentence, the table, the books."""
    first, *others = wrapped(sentence(found), width)
    if colour := COLOURS.get(found["state"]):
        head = first.partition(":")[0]
        first = styled(head, fg=colour, bold=True) + first[len(head) :]
    yield from (first, *others)
    if found["exists"]:
        yield from _figures(found, width)
    if found.get("server"):
        yield from ("", "On the server:", *describe(found["server"], width))


def _figures(found: Mapping[str, Any], width: int | None) -> Iterator[str]:
    yield ""
    for name, text in rows(found):
        yield from laid_out(name, text, width)
    yield ""
    yield from wrapped(
        f"accepted {found['accepted']:,} = {passed(found)} {found['delivered']:,} + dead-lettered "
        f"{found['dead_lettered']:,} + deleted {found['deleted']:,} + waiting {found['waiting']:,}",
        width,
    )


def laid_out(name: str, text: str, width: int | None) -> Iterator[str]:
    """The lines of a row; on a narrow terminal the text stands below its name."""
    if width is None or width >= NARROW:
        yield from wrapped(f"{name:<14} {text}", width, " " * 15)
    else:
        yield name
        yield from wrapped(f"  {text}", width, "  ")


def rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The table for a person: names and texts."""
    now = time.time()
    held = f", {found['held']:,} held (`forwarder waiting list --held`)" if found["held"] else ""
    yield "waiting", f"{counted(found['waiting'], 'event')}, {found['in_flight']:,} of them in flight{held}"
    if found["next_try_at"]:
        yield "next try", next_try(found, now)
    rates = f"{_rate(found['rate_1m'])} {passed(found)}, {_rate(found['accepted_1m'])} accepted"
    yield "last minute", rates
    if ahead := outlook(found):
        yield "at this rate", ahead
    for name, kind in OTHER_KINDS.items():
        if any(found[name][key] for key in ("accepted", "refused")):
            yield kind.noun, line_of_kind(found[name], passed(found))
    if found["requests"]:
        took = ""
        if found["request_p50_s"] is not None:
            half, most = latency(found["request_p50_s"]), latency(found["request_p95_s"])
            took = f"; half took up to {half}, 95 % up to {most}"
        by_outcome = ", ".join(f"{count:,} {outcome}" for outcome, count in found["requests"].items())
        yield "requests", f"{by_outcome}{took}"
    yield "last relayed" if found.get("server") else "last delivery", _when(found["last_delivery_at"], now)
    if found["last_error"]:
        yield "last error", f"{printable(found['last_error'])}{_ago(found['last_error_at'], now)}"
    dead = f"{found['dead_letters']:,}"
    if found["dead_letters"]:
        dead += " (`forwarder dead-letters summary`)"
    if found["retried"] or found["discarded"]:
        were = "was" if found["retried"] == 1 else "were"
        dead += f"; {found['retried']:,} {were} retried, {found['discarded']:,} discarded"
    yield "dead letters", dead
    if found["refused"]:
        yield "refused", f"{counted(found['refused'], 'event')} that producers offered, and were not accepted"
    if found["short"]:
        yield "short", f"{counted(found['short'], 'event')} delivered that Mixpanel did not count"
    sizes = {"database": "db_bytes", "its log": "wal_bytes", "free": "disk_free_bytes"}
    known = (f"{name} {size(found[key])}" for name, key in sizes.items() if found[key] is not None)
    yield "disk", ", ".join(known)
    if found["set_aside"]:
        found_damaged = counted(found["set_aside"], "damaged database")
        yield "set aside", f"{found_damaged} (`forwarder salvage`)"
    who = "relay" if found.get("server") else "daemon"
    if found["state"] != "stopped":
        process = Holder(found["pid"] or 0, host=found["host"] or "")
        yield who, f"{process.name}, {counted(found['connections'], 'connection')}"
    else:
        yield who, "none runs"
    alone = "; one copy is enough (queue.standbys is 0)" if found["standbys"] == 0 else ""
    yield "queue", f"{printable(found['queue_path'])}{alone}"


def _when(at: str | None, now: float) -> str:
    if at is None:
        return "never"
    return f"{at}{_ago(at, now)}"


def _ago(at: str | None, now: float) -> str:
    return f" ({duration(since(seconds_of(at), now))} ago)" if at else ""


def _rate(rate: float) -> str:
    if rate < 1:
        return counted(round(rate * 60), "event")
    return f"{rate:,.{0 if rate >= 10 else 1}f} events/s"


def _show_once(found: Mapping[str, Any], as_json: bool, conditions: list[Condition]) -> int:
    click.echo(json.dumps(found) if as_json else "\n".join(describe(found, terminal_width())))
    return _judge(found, conditions)


def _judge(found: Mapping[str, Any], conditions: list[Condition]) -> int:
    if conditions and not found["known"]:
        say(f"forwarder: --fail-if can't be decided: {found['state_reason']}", err=True)
        return 1
    flat = _flat(found)
    held = [condition for condition in conditions if condition.holds(flat)]
    for condition in held:
        say(f"forwarder: {condition.text} holds: {condition.key} is {_value(flat[condition.key])}", err=True)
    return 1 if held else 0


def _flat(found: Mapping[str, Any]) -> dict[str, Any]:
    """With the keys of each kind as ``engage.waiting``."""
    return {**found, **{f"{name}.{key}": value for name in OTHER_KINDS for key, value in found[name].items()}}


def _value(value: object) -> str:
    if value is None:
        return "unknown, or has never been"
    return printable(value) if isinstance(value, str) else json.dumps(value)


def _watch(context: Context, as_json: bool, conditions: list[Condition]) -> int:
    if as_json or not sys.stdout.isatty():
        while True:
            found = gather(context.queue, context.server, late_s=context.late_s)
            click.echo(json.dumps(found) if as_json else f"{instant(time.time())}  {sentence(found)}")
            if _judge(found, conditions):
                return 1
            time.sleep(WATCH_S)
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as live:
        while True:
            found = gather(context.queue, context.server, late_s=context.late_s)
            live.update(Text.from_ansi("\n".join(describe(found, terminal_width()))), refresh=True)
            if conditions and (not found["known"] or any(one.holds(_flat(found)) for one in conditions)):
                break
            time.sleep(WATCH_S)
    return _judge(found, conditions)
