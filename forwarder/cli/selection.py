"""Which dead letters or waiting events a command is about: ids, --all, --event, --user, --since, ..."""

from __future__ import annotations

import functools
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import click

from forwarder.cli.command import Context, kind_option
from forwarder.cli.completion import values
from forwarder.cli.table import PAGE, batched, say
from forwarder.errors import UsageError
from forwarder.spool import DeadLetter, Selection, View, Waiting
from forwarder.text import counted, printable

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

UNITS_S = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_duration = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(s|min|m|h|d|w)").fullmatch
MOST_NAMED = 20

Row = TypeVar("Row", DeadLetter, Waiting)
Option = Callable[[Callable[..., Any]], Callable[..., Any]]
Complete = Callable[[click.Context, click.Parameter, str], list["CompletionItem"]]


@dataclass(frozen=True, slots=True)
class Noun(Generic[Row]):
    """What is selected: what it is called, what has happened to it, and how a view finds it.

    ``page`` is given the selection, behind which id, and whether the data are needed. ``ids`` and ``events``
    complete ids and events' names.
    """

    name: str
    happened: str
    page: Callable[[View, Selection, int, bool], list[Row]]
    newest: Callable[[View], int]
    count: Callable[[View, Selection], int]
    ids: Complete
    events: Complete
    options: Sequence[Option] = ()

    def counted(self, count: int) -> str:
        """``1 dead letter``, ``1,234 dead letters``."""
        return counted(count, self.name)


DEAD_LETTERS: Noun[DeadLetter] = Noun(
    "dead letter",
    "refused",
    lambda view, where, after_id, with_data: view.dead_letters(where, after_id, PAGE, with_data),
    lambda view: view.newest_dead_letter(),
    lambda view, where: view.count_dead_letters(where),
    values.dead_letter_ids,
    values.event_names,
    (
        click.option(
            "--reason",
            metavar="TEXT",
            shell_complete=values.reasons,
            help="Those with TEXT in their reason, case-insensitive.",
        ),
    ),
)
WAITING: Noun[Waiting] = Noun(
    "waiting event",
    "accepted",
    lambda view, where, after_id, _: view.peek(PAGE, after_id, where),
    lambda view: view.newest_waiting(),
    lambda view, where: view.count_waiting(where),
    values.waiting_ids,
    values.waiting_event_names,
)


@dataclass(frozen=True, slots=True)
class Wanted(Generic[Row]):
    """Those that fit every part of *where*; *everything*: --all was given."""

    noun: Noun[Row]
    where: Selection
    everything: bool = False
    found: set[int] = field(default_factory=set, compare=False)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was given to select by."""
        return not self.everything and replace(self.where, held=None) == Selection()

    @property
    def is_broad(self) -> bool:
        """Whether it is by a filter, or all of them: more may fit than one thinks of."""
        return self.where.ids is None

    def require(self, action: str) -> None:
        """Raise `UsageError` if nothing was given to select by."""
        if self.is_empty:
            raise UsageError(
                f"nothing is selected to {action}",
                "Give ids, - to read ids from standard input, --all, or an option such as --event",
            )

    def count(self, view: View | None) -> int:
        """How many fit."""
        return self.noun.count(view, self.where) if view else 0

    def pages(self, view: View | None, with_data: bool = True) -> Iterator[list[Row]]:
        """Those that fit, oldest first, some at a time; those that come meanwhile are not among them."""
        if view is None:
            return
        if self.where.ids is not None:
            for ids in batched(sorted(set(self.where.ids))):
                if page := self.noun.page(view, replace(self.where, ids=tuple(ids)), 0, with_data):
                    self.found.update(row.id for row in page)
                    yield page
            return
        last_id = self.noun.newest(view)
        after_id = 0
        while page := self.noun.page(view, self.where, after_id, with_data):
            after_id = page[-1].id
            if after_id > last_id:
                page = [row for row in page if row.id <= last_id]
            if page:
                yield page
            if after_id >= last_id:
                return

    def missing(self) -> list[int]:
        """The ids given that `pages`, once through, has not found; named on standard error."""
        missing = sorted(set(self.where.ids or ()) - self.found)
        if missing:
            is_one = len(missing) == 1
            named = ", ".join(map(str, missing[:MOST_NAMED]))
            more = f" and {len(missing) - MOST_NAMED:,} more" if len(missing) > MOST_NAMED else ""
            narrowed = replace(self.where, ids=None) != Selection(held=self.where.held)
            fits = f" that {'fits' if is_one else 'fit'} the other options" if narrowed else ""
            there = f"there is no {self.noun.name}" if is_one else f"there are no {self.noun.name}s"
            say(f"forwarder: {there} {named}{more}{fits}.", err=True)
        return missing

    def say_none(self) -> bool:
        """Say that none fits, unless that is said of each id by itself; whether it was said here."""
        if replace(self.where, held=None) == Selection():
            click.echo(f"There are no {self.noun.name}s.")
        elif self.is_broad:
            click.echo(f"No {self.noun.name} fits.")
        return self.is_broad

    def is_confirmed(self, question: str, view: View | None, yes: bool) -> bool:
        """Whether to go on: a person says so, by --yes or on a terminal, or there is nothing to ask about.

        Args:
            question: With ``{}`` for how many there are.

        Raises:
            UsageError: there is nobody to ask.
        """
        count = 0 if yes else self.count(view)
        if not count:
            return True
        question = question.format(self.noun.counted(count))
        if not (sys.stdin and sys.stdin.isatty()):
            raise UsageError(f"{question[:-1]}: there is no terminal to ask on", "Say --yes if that is meant")
        if click.confirm(question, err=True):
            return True
        say("Nothing was changed.", err=True)
        return False


def selecting(noun: Noun[Row], held: bool | None = None) -> Option:
    """Declare the ids and options; the command is given what they mean as *wanted*.

    Args:
        held: As `Selection.held`, where the command does not leave it open.
    """
    options: list[Option] = [
        kind_option,
        click.argument("ids", metavar="[ID]...", nargs=-1, shell_complete=noun.ids),
        *noun.options,
        click.option(
            "--event", metavar="NAME", shell_complete=noun.events, help="Those of this event's name."
        ),
        click.option("--user", metavar="ID", help="Those with this distinct_id, $user_id or $device_id."),
        click.option(
            "--since",
            metavar="WHEN",
            help=f"Those {noun.happened} since then: 90s, 15m, 1h, 2d, 1w ago, or ISO 8601.",
        ),
        click.option(
            "--before", metavar="WHEN", help=f"Those {noun.happened} before then, written as --since."
        ),
        click.option("--all", "everything", is_flag=True, help="All of them."),
    ]

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def with_selection(context: Context, **given: Any) -> Any:
            for name in ("reason", "event", "user"):
                # As of a variable that is not set.
                if given.get(name) == "":
                    raise UsageError(f"--{name} is empty", "Give it a value, or leave it out")
            where = Selection(
                read_ids(given.pop("ids")),
                given.pop("reason", None),
                given.pop("event"),
                given.pop("user"),
                read_when("--since", given.pop("since")),
                read_when("--before", given.pop("before")),
                (only_held := given.pop("only_held", None)) or held,
            )
            everything = given.pop("everything") or bool(only_held)
            name = "held event" if only_held else noun.name
            chosen = replace(noun, name=name.replace("event", context.kind.noun.removesuffix("s")))
            return function(context, wanted=Wanted(chosen, where, everything), **given)

        declared: Callable[..., Any] = with_selection
        for option in reversed(options):
            declared = option(declared)
        return declared

    return declare


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


def flat(pages: Iterable[list[Row]]) -> Iterator[Row]:
    """The rows of all pages."""
    for page in pages:
        yield from page


def _read_id(word: str) -> int:
    if not (word.isascii() and word.isdecimal() and len(word) < 19):
        raise UsageError(
            f"{printable(word[:40])!r} is no id",
            "An id is a number, as `forwarder dead-letters list` and `forwarder waiting list` show it",
        )
    return int(word)


def read_when(option: str, given: str | None) -> float | None:
    """The instant that an *option* names, in seconds since the epoch; None: it is not given.

    Raises:
        UsageError: it is neither a duration nor a time.
    """
    if given is None:
        return None
    if match := _duration(given.strip()):
        return time.time() - float(match[1]) * UNITS_S[match[2]]
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise UsageError(
            f"{option} {given!r} is neither a duration nor a time",
            "Write 15m, 1h, 2d or 2025-01-31T12:00:00Z",
        ) from None
    if moment.tzinfo is None:
        raise UsageError(
            f"{option} {given!r} does not say in which time zone", "Add Z for UTC or an offset like +02:00"
        )
    return moment.timestamp()
