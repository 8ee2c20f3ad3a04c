"""What stands in the queue, for people and programs to look at: shown as it is, never rewritten."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
import msgspec

from forwarder.cli.table import say
from forwarder.records import EVENTS
from forwarder.spool import DeadLetter, NoQueueError, Spool, UnusedQueueError, View, Waiting
from forwarder.text import as_sentence, printable

if TYPE_CHECKING:
    from forwarder.records.kind import Kind

_check = msgspec.json.Decoder(msgspec.Raw).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_broken = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@contextmanager
def open_view(queue: Spool) -> Iterator[View | None]:
    """The queue to look at; None, said on standard error, if there is none yet.

    Raises:
        UnusedQueueError: there is one, and what is in it is not known yet.
    """
    try:
        view = queue.view()
    except UnusedQueueError:
        raise
    except NoQueueError as error:
        say(as_sentence(str(error)), err=True)
        yield None
        return
    with view:
        yield view


def json_text(data: bytes) -> str | None:
    """*data* as one line of JSON, numbers and names as they were stored; None if it is not JSON.

    What a terminal may take for a command stands escaped, which means the same to a program.
    """
    try:
        _check(data)
        text = data.decode()
    except _broken:
        return None
    if text.isprintable():
        return text
    # Line breaks and tabs can only be between tokens, everything else only inside a string.
    return "".join(
        c if c.isprintable() else " " if c in "\t\r\n" else json.dumps(c)[1:-1] for c in text
    ).strip()


def escaped(data: bytes) -> str:
    """Any bytes as text for a terminal."""
    return printable(data.decode(errors="backslashreplace"))


def json_line(values: Mapping[str, Any], data: bytes) -> str:
    """A JSON object of *values* and ``event``, the stored JSON; if that is none: ``null``, and ``base64``."""
    text = json_text(data)
    if text is None:
        return json.dumps({**values, "event": None, "base64": b64encode(data).decode()})
    return f'{json.dumps(values)[:-1]}, "event": {text}}}'


def one_line(data: bytes) -> bytes | None:
    """*data* as a line that holds nothing but it; None: it can't be one."""
    if b"\n" not in data and b"\r" not in data:
        return data
    if json_text(data) is None:
        return None
    # Between tokens only: inside a JSON string they are written escaped.
    return data.replace(b"\n", b" ").replace(b"\r", b" ")


def export_lines(pages: Iterable[Sequence[DeadLetter | Waiting]], name: str, remedy: str) -> bool:
    """Write rows byte by byte as they are stored, one a line.

    Args:
        name: What one is called.
        remedy: What to do about those that make no line, which are named on standard error.

    Returns: whether there are such.
    """
    left_out = False
    for page in pages:
        lines = []
        for row in page:
            line = None if isinstance(row, Waiting) and row.is_cut else one_line(row.data)
            if line is None:
                left_out = True
                say(f"forwarder: {name} {row.id} makes no line of JSON; {remedy}.", err=True)
            else:
                lines.append(line + b"\n")
        click.echo(b"".join(lines), nl=False)
    return left_out


def glance(data: bytes, kind: Kind) -> tuple[str, str]:
    """An event's name and its user, or an update's operation and its profile, for a person; empty where there
    is none.

    Instead of the name of what is not JSON, its first bytes.
    """
    if json_text(data) is None:
        return f"not JSON: {escaped(data[:60])}", ""
    if kind is not EVENTS:
        return kind.name_of(data)
    try:
        members = _members(data)
        properties = _members(members.get("properties", b"{}"))
        ids = (_word(properties.get(name)) for name in ("distinct_id", "$user_id", "$device_id"))
        return _word(members.get("event")), next(filter(None, ids), "")
    except _broken:
        return f"not an event: {escaped(data[:60])}", ""


def _word(raw: msgspec.Raw | None) -> str:
    """A string's text, or any other JSON as it is written."""
    if raw is None:
        return ""
    text = bytes(raw)
    return str(msgspec.json.decode(text)) if text.startswith(b'"') else text.decode()
