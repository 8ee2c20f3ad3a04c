"""Values that fit a place in a command line: looked up quickly, and silently empty on failure.

Each function here is a parameter's ``shell_complete``. A `CompletionItem`'s type is ``plain``; ``text``,
which must be quoted for a shell; ``open``, a text that continues; ``file`` or ``dir``, which the shell
completes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

import click

from forwarder.cli.command import Context
from forwarder.errors import ForwarderError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from forwarder.spool import Brief, View, Waiting

T = TypeVar("T")

# No one reads more in a terminal.
MOST = 200
# A person is waiting after Tab.
LOCKED_S = 0.2


def dead_letter_ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of the latest dead letters with that beginning, except those already on the line."""
    found = _latest(ctx, incomplete)
    return _not_given(ctx, param, {str(one.id): f"{one.event}: {one.reason}" for one in found})


def event_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the events among the latest dead letters."""
    return _beginning_so(incomplete, (letter.event for letter in _latest(ctx)))


def waiting_ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of the newest waiting events that begin so, but those that are on the line already."""
    from forwarder.cli.stored import glance

    found = (row for row in _newest_waiting(ctx) if str(row.id).startswith(incomplete))
    return _not_given(ctx, param, {str(row.id): glance(row.data, _context(ctx).kind)[0] for row in found})


def waiting_event_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the newest waiting events."""
    from forwarder.cli.stored import glance

    return _beginning_so(
        incomplete, (glance(row.data, _context(ctx).kind)[0] for row in _newest_waiting(ctx))
    )


def reasons(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Reasons of the latest dead letters."""
    return _beginning_so(incomplete, (letter.reason for letter in _latest(ctx)))


def settings(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Keys of settings, with their meaning, and sections."""
    from click.shell_completion import CompletionItem

    from forwarder.config.settings import SECTIONS, SETTINGS

    keys = {key: setting.doc for key, setting in SETTINGS.items()}
    sections = {section: f"all of [{section}]" for section in SECTIONS}
    found = {key: doc for key, doc in {**sections, **keys}.items() if key.startswith(incomplete)}
    return [CompletionItem(key, help=doc) for key, doc in found.items()]


def one_of(
    words: Iterable[str],
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Some fixed words, where `click.Choice` does not fit because more may follow."""

    def found(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return _beginning_so(incomplete, words)

    return found


def _not_given(ctx: click.Context, param: click.Parameter, found: dict[str, str]) -> list[CompletionItem]:
    """The words *found*, with their help, without those that are on the line already."""
    from click.shell_completion import CompletionItem

    given = ctx.params.get(param.name or "") or ()
    return [CompletionItem(word, help=text) for word, text in found.items() if word not in given]


def _beginning_so(incomplete: str, words: Iterable[str]) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    found = [word for word in dict.fromkeys(words) if word.startswith(incomplete)]
    return [CompletionItem(word, type=_kind(word)) for word in found]


def _kind(word: str) -> str:
    if word.endswith(("=", ">")):
        return "open"
    return "plain" if word.isascii() and word.replace("-", "_").isidentifier() else "text"


def _latest(ctx: click.Context, digits: str = "") -> list[Brief]:
    return _seen(ctx, lambda view: view.latest_dead_letters(MOST, digits))


def _newest_waiting(ctx: click.Context) -> list[Waiting]:
    from forwarder.spool import Selection

    return _seen(ctx, lambda view: view.peek(MOST, max(view.newest_waiting() - MOST, 0), Selection()))


def _context(ctx: click.Context) -> Context:
    return ctx.ensure_object(Context)


def _seen(ctx: click.Context, look: Callable[[View], list[T]]) -> list[T]:
    from forwarder import config, spool

    try:
        queue = config.load(_context(ctx).config_file, used=config.PLACE).door
        with spool.of(queue, _context(ctx).kind).view(LOCKED_S) as view:
            return look(view)
    except ForwarderError:
        return []
