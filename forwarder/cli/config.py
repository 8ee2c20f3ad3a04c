"""``forwarder config``: the effective settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from forwarder.cli.command import Context, Group, config_option, print_json
from forwarder.cli.completion import values
from forwarder.errors import UsageError
from forwarder.text import printable

if TYPE_CHECKING:
    from forwarder.config import Shown


@click.group("config", cls=Group)
@config_option
def config() -> None:
    """Show the effective settings."""


@config.subcommand("show", short_help="Print every setting and its source.")
@click.argument("keys", metavar="[KEY]...", nargs=-1, shell_complete=values.settings)
def show(context: Context, keys: tuple[str, ...], as_json: bool) -> None:
    """Print every setting with its value and its source: a file, a $VARIABLE or its default.

    KEY is one setting, such as queue.path, or a section: only these are printed.

    The last three lines say where the service account's secret, the project's token and the password for
    the queue's server come from. No secret is read or printed.
    """
    from forwarder.config import describe

    settings = context.settings
    rows = _wanted(describe(settings), keys)
    if as_json:
        print_json({"key": row.key, "value": row.value, "source": row.source} for row in rows)
    else:
        file = f"Settings file: {settings.file}" if settings.file else "There is no settings file."
        click.echo(f"# {printable(file)}")
        _print_table(rows)


def _wanted(rows: list[Shown], keys: Iterable[str]) -> list[Shown]:
    """The rows of *keys*, or all if there are none."""
    known = {name for row in rows for name in (row.key, row.key.partition(".")[0])}
    for key in keys:
        if key not in known:
            raise UsageError(
                f"there is no setting and no section {printable(key)!r}", "`forwarder config show` lists all"
            )
    return [row for row in rows if not keys or {row.key, row.key.partition(".")[0]} & set(keys)]


def _print_table(rows: Iterable[Shown]) -> None:
    # With a file's own syntax, so that a line can be copied into one.
    lines = [(row.text, row.source) for row in rows]
    width = min(48, max(len(line) for line, _ in lines))
    for line, source in lines:
        click.echo(f"{printable(line):<{width}}  # {printable(source)}")
