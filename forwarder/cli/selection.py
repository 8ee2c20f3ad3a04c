"""Which dead letters a command is about: ids, --all, --reason, --event, --since."""

from __future__ import annotations

import functools
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import click

from forwarder.cli.completion import values
from forwarder.cli.table import PAGE, batched, counted
from forwarder.errors import UsageError, printable
from forwarder.spool import DeadLetter, Selection, View

UNITS_S = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_duration = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(s|min|m|h|d|w)").fullmatch
MOST_NAMED = 20

_OPTIONS: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [
    click.argument("ids", metavar="[ID]...", nargs=-1, shell_complete=values.dead_letter_ids),
    click.option("--all", "everything", is_flag=True, help="All of them."),
    click.option(
        "--reason",
        metavar="TEXT",
        shell_complete=values.reasons,
        help="Those with TEXT in their reason, in any case of letters.",
    ),
    click.option(
        "--event",
        metavar="NAME",
        shell_complete=values.event_names,
        help="Those of the event of this name.",
    ),
    click.option(
        "--since", metavar="WHEN", help="Those refused since then: 90s, 15m, 1h, 2d, 1w ago, or ISO 8601."
    ),
]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The dead letters that fit every part of *where*; *everything*: --all was said."""

    where: Selection
    everything: bool = False
    found: set[int] = field(default_factory=set, compare=False)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said at all."""
        return not self.everything and self.where == Selection()

    @property
    def is_broad(self) -> bool:
        """Whether it is by a filter, or all of them: more may fit than one thinks of."""
        return self.where.ids is None

    def require(self, action: str) -> None:
        """Raise `UsageError` if nothing was said to select by."""
        if self.is_empty:
            raise UsageError(
                f"nothing is selected to {action}",
                "Give ids, - to read ids from standard input, --all, --reason, --event or --since",
            )

    def count(self, view: View | None) -> int:
        """How many fit."""
        return view.count_dead_letters(self.where) if view else 0

    def pages(self, view: View | None, with_data: bool = True) -> Iterator[list[DeadLetter]]:
        """Those that fit, oldest first, some at a time; those that die meanwhile are not among them."""
        if view is None:
            return
        if self.where.ids is not None:
            for ids in batched(sorted(set(self.where.ids))):
                if page := view.dead_letters(replace(self.where, ids=tuple(ids)), 0, PAGE, with_data):
                    self.found.update(letter.id for letter in page)
                    yield page
            return
        last_id = view.newest_dead_letter()
        after_id = 0
        while page := view.dead_letters(self.where, after_id, PAGE, with_data):
            after_id = page[-1].id
            if after_id > last_id:
                page = [letter for letter in page if letter.id <= last_id]
            if page:
                yield page
            if after_id >= last_id:
                return

    def missing(self) -> list[int]:
        """The ids asked for that `pages`, once through, has not come by; said on standard error."""
        missing = sorted(set(self.where.ids or ()) - self.found)
        if missing:
            is_one = len(missing) == 1
            named = ", ".join(map(str, missing[:MOST_NAMED]))
            more = f" and {len(missing) - MOST_NAMED:,} more" if len(missing) > MOST_NAMED else ""
            narrowed = replace(self.where, ids=None) != Selection()
            fits = f" that {'fits' if is_one else 'fit'} the other options" if narrowed else ""
            there = "there is no dead letter" if is_one else "there are no dead letters"
            click.echo(f"forwarder: {there} {named}{more}{fits}.", err=True)
        return missing


def selecting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Declare the ids and options; the command is given what they mean as *wanted*."""

    @functools.wraps(function)
    def with_selection(
        *arguments: Any,
        ids: tuple[str, ...],
        everything: bool,
        reason: str | None,
        event: str | None,
        since: str | None,
        **options: Any,
    ) -> Any:
        where = Selection(read_ids(ids), reason, event, _read_since(since) if since is not None else None)
        return function(*arguments, wanted=Wanted(where, everything), **options)

    declared: Callable[..., Any] = with_selection
    for declare in reversed(_OPTIONS):
        declared = declare(declared)
    return declared


def read_ids(given: Sequence[str]) -> tuple[int, ...] | None:
    """The ids, those on standard input for a ``-``; None if there is no argument.

    Raises:
        UsageError: one is no id.
    """
    if not given:
        return None
    ids: list[int] = []
    for word in given:
        words = sys.stdin.read().split() if word == "-" else [word]
        ids += [_read_id(each) for each in words]
    return tuple(ids)


def confirm(question: str, yes: bool) -> bool:
    """Whether a person says yes: by --yes, or asked on a terminal.

    Raises:
        UsageError: there is nobody to ask.
    """
    if yes:
        return True
    if not (sys.stdin and sys.stdin.isatty()):
        raise UsageError(f"there is no terminal to ask on: {question}", "Say --yes if that is meant")
    return click.confirm(question, err=True)


def letters(count: int) -> str:
    """``1 dead letter``, ``1,234 dead letters``."""
    return counted(count, "dead letter")


def flat(pages: Iterable[list[DeadLetter]]) -> Iterator[DeadLetter]:
    """The letters of all pages."""
    for page in pages:
        yield from page


def _read_id(word: str) -> int:
    if not (word.isascii() and word.isdecimal() and len(word) < 19):
        raise UsageError(
            f"{printable(word[:40])!r} is no id of a dead letter",
            "An id is a number, as `forwarder dead-letters list` shows it",
        )
    return int(word)


def _read_since(given: str) -> float:
    if match := _duration(given.strip()):
        return time.time() - float(match[1]) * UNITS_S[match[2]]
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise UsageError(
            f"--since {given!r} is neither a duration nor a time", "Write 15m, 1h, 2d or 2025-01-31T12:00:00Z"
        ) from None
    if moment.tzinfo is None:
        raise UsageError(
            f"--since {given!r} does not say in which time zone", "Add Z for UTC or an offset like +02:00"
        )
    return moment.timestamp()
