"""The options that say what the columns of a table, or the members of flat records, are."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import TYPE_CHECKING, Any

import click

from forwarder.errors import UsageError
from forwarder.records.json_object import is_whole

if TYPE_CHECKING:
    from forwarder.records.event.mapping import EventMapping

_OFFSET = r"([+-])([01][0-9]|2[0-3]):?([0-5][0-9])"
_OPTIONS = (
    ("--event-column", "COLUMN", "The column with the event's name [default: event]."),
    ("--distinct-id-column", "COLUMN", "The one with the distinct_id [default: distinct_id]."),
    ("--time-column", "COLUMN", "The one with the time [default: time]."),
    ("--time-format", "F", "Its form: s, ms, us or ns since the epoch, or as strptime has it."),
    ("--time-zone", "ZONE", "The zone of times without one: Europe/Berlin, UTC, +02:00."),
    ("--insert-id-column", "COLUMN", "The one with the $insert_id [default: $insert_id or insert_id]."),
    ("--columns", "A,B", "Only these become properties."),
    ("--drop-columns", "A,B", "These are left out."),
    ("--text-columns", "A,B", "These stay text, though they look like numbers."),
)


def mapping_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command gets what was given as keywords, to be given to `build_mapping`."""
    for option, metavar, text in reversed(_OPTIONS):
        function = click.option(option, metavar=metavar, help=text)(function)
    return function


def build_mapping(name: str | None, given: dict[str, str | None]) -> EventMapping | None:
    """What the options say, and *name*, that of all events; None: nothing.

    Raises:
        UsageError: they contradict each other, or one is not understood.
    """
    if name is None and all(text is None for text in given.values()):
        return None
    from forwarder.records.event.mapping import UNITS, EventMapping

    for option, text in {"event": name, **given}.items():
        if text is not None and not is_whole(text):
            raise UsageError(f"--{option.replace('_', '-')} {text!r} is not UTF-8")
    if name is not None and given["event_column"] is not None:
        raise UsageError("--event and --event-column both give the event's name", "Remove one or the other")
    if name is not None and not name.strip():
        raise UsageError("--event is blank", "Give the name of the events")
    if given["columns"] is not None and given["drop_columns"] is not None:
        raise UsageError("--columns and --drop-columns both choose the properties", "Remove one or the other")
    time_format = given["time_format"] or ""
    if time_format and time_format not in UNITS:
        _check_format(time_format)
    return EventMapping(
        name=name or "",
        event=given["event_column"],
        distinct_id=given["distinct_id_column"],
        time=given["time_column"],
        insert_id=given["insert_id_column"],
        time_format=time_format,
        zone=None if given["time_zone"] is None else _zone(given["time_zone"]),
        only=None if given["columns"] is None else _listed(given["columns"]),
        dropped=frozenset(_listed(given["drop_columns"])),
        texts=frozenset(_listed(given["text_columns"])),
    )


def _listed(text: str | None) -> list[str]:
    """The names in a list with commas; "" is one without a name."""
    if text is None:
        return []
    import csv

    (names,) = csv.reader([text], skipinitialspace=True)
    return [name.strip() for name in names] or [""]


def _check_format(text: str) -> None:
    try:
        found = datetime.strptime(datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC).strftime(text), text)
    except ValueError as error:
        raise UsageError(
            f"--time-format {text!r}: {error}", "Give s, ms, us, ns, or a format like '%d.%m.%Y %H:%M:%S'"
        ) from None
    if found.year != 2001:
        raise UsageError(
            f"--time-format {text!r} has no year", "Give it a %Y, or s, ms, us, ns for the epoch"
        )


def _zone(name: str) -> tzinfo:
    if name in ("UTC", "Z"):
        return UTC
    if found := re.fullmatch(_OFFSET, name):
        sign = -1 if found[1] == "-" else 1
        return timezone(sign * timedelta(hours=int(found[2]), minutes=int(found[3])))
    from zoneinfo import ZoneInfo, available_timezones

    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        pass
    from difflib import get_close_matches

    known = available_timezones()
    if not known:
        raise UsageError(f"--time-zone {name!r}: this host has no time zones", "Install the package tzdata")
    close = get_close_matches(name, known, 1)
    hint = f"Did you mean {close[0]}?" if close else "Give one like Europe/Berlin, UTC or +02:00"
    raise UsageError(f"--time-zone {name!r} is no time zone", hint)
