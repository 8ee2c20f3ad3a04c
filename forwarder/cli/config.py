"""``forwarder config``: the effective settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from forwarder.cli.command import Context, config_option, json_option, pass_context, print_json
from forwarder.errors import printable

if TYPE_CHECKING:
    from forwarder.config import Shown


@click.group("config")
@config_option
def config() -> None:
    """Show the effective settings."""


@config.command("show", short_help="Print every setting and where it came from.")
@config_option
@json_option
@pass_context
def show(context: Context, as_json: bool) -> None:
    """Print every setting with its value and where it came from: a file, a $VARIABLE or its default.

    The last two lines tell where the service account's secret and the project's token would come
    from. No secret is read or printed.
    """
    from forwarder.config import describe

    settings = context.settings
    rows = describe(settings)
    if as_json:
        print_json({"key": row.key, "value": row.value, "source": row.source} for row in rows)
    else:
        file = f"Settings file: {settings.file}" if settings.file else "There is no settings file."
        click.echo(f"# {printable(file)}")
        _print_table(rows)


def _print_table(rows: Iterable[Shown]) -> None:
    # With a file's own syntax, so that a line can be copied into one.
    lines = [(row.text, row.source) for row in rows]
    width = min(48, max(len(line) for line, _ in lines))
    for line, source in lines:
        click.echo(f"{printable(line):<{width}}  # {printable(source)}")
