"""A dead letter as a person sees it, and as a program does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec

from forwarder.cli.stored import escaped, json_line, json_text
from forwarder.cli.table import Column, terminal_width, wrapped
from forwarder.spool import DeadLetter, Group
from forwarder.text import duration, instant, printable, since, size

LIST = (
    Column("ID", right=True),
    Column("REFUSED"),
    Column("EVENT", shrinks=True),
    Column("HTTP"),
    Column("REASON"),
)
SUMMARY = (
    Column("COUNT", right=True),
    Column("LAST", right=True),
    Column("EXAMPLE", right=True),
    Column("HTTP"),
    Column("EVENT", shrinks=True),
    Column("REASON"),
)


def fields(letter: DeadLetter) -> dict[str, Any]:
    """What is known about it, without the event."""
    return {
        "id": letter.id,
        "event_id": letter.event_id,
        "event_name": letter.event,
        "insert_id": letter.insert_id,
        "reason": letter.reason,
        "field": letter.field,
        "http_status": letter.http_status,
        "accepted_at": instant(letter.accepted_at),
        "dead_at": instant(letter.dead_at),
    }


def full_line(letter: DeadLetter) -> str:
    """`fields` and the event, as one line of JSON."""
    return json_line(fields(letter), letter.data)


def cells(letter: DeadLetter) -> tuple[str, ...]:
    """Its row under `LIST`."""
    refused_at = (instant(letter.dead_at) or "")[:19] + "Z"
    return str(letter.id), refused_at, letter.event, str(letter.http_status or "-"), _cause(letter)


def _cause(dead: DeadLetter | Group) -> str:
    return f"{dead.field}: {dead.reason}" if dead.field and dead.field not in dead.reason else dead.reason


def portrait(letter: DeadLetter) -> Iterator[str]:
    """All of it, over several lines."""
    now = time.time()
    rows = (
        ("event", letter.event),
        ("$insert_id", letter.insert_id),
        ("reason", letter.reason),
        ("field", letter.field),
        ("HTTP status", str(letter.http_status or "")),
        ("accepted", f"{instant(letter.accepted_at)}, {duration(since(letter.accepted_at, now))} ago"),
        ("refused", f"{instant(letter.dead_at)}, {duration(since(letter.dead_at, now))} ago"),
        ("was event", str(letter.event_id)),
        ("size", size(len(letter.data))),
    )
    yield f"Dead letter {letter.id}"
    for name, text in rows:
        if text:
            yield from wrapped(f"  {name:<13}{printable(text)}", terminal_width(), " " * 15)
    yield ""
    event = json_text(letter.data)
    yield escaped(letter.data) if event is None else msgspec.json.format(event, indent=2)
    yield ""


def group_fields(group: Group) -> dict[str, Any]:
    """A group of the summary for a program."""
    return {
        "count": group.count,
        "event_name": group.event,
        "reason": group.reason,
        "field": group.field,
        "http_status": group.http_status,
        "first_at": instant(group.first_at),
        "last_at": instant(group.last_at),
        "example_id": group.example_id,
    }


def group_cells(group: Group, now: float) -> tuple[str, ...]:
    """Its row under `SUMMARY`."""
    last = f"{duration(since(group.last_at, now))} ago"
    status = str(group.http_status or "-")
    return f"{group.count:,}", last, str(group.example_id), status, group.event, _cause(group)
