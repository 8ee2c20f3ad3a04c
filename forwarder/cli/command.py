"""How a command is declared, and what every command is given."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from forwarder.config import Settings
    from forwarder.config.settings import Queue
    from forwarder.records.kind import Kind
    from forwarder.spool import Spool


class Context:
    """What the command line says for all commands; the settings are read when first asked for."""

    def __init__(self, config_file: str | None = None) -> None:
        self.config_file = config_file
        self.kind_name = "event"
        self._has_warned = False

    @cached_property
    def settings(self) -> Settings:
        """The effective settings.

        Raises:
            ConfigError: naming every wrong key at once.
        """
        from forwarder import config

        return config.load(self.config_file)

    @cached_property
    def door(self) -> Queue:
        """The queue to write to; what is wrong with other settings is a warning on standard error.

        Raises:
            ConfigError: naming every wrong key of these at once.
        """
        from forwarder import config

        return config.load(self.config_file, used=("queue",), warn=self._warn).door

    def note_faultless(self) -> None:
        """Note that the settings have no mistake, if `door` has found none, for the next `quick` command."""
        from forwarder.config import plain

        if self.config_file is None and not self._has_warned and (found := plain.read(os.environ)):
            found.note_faultless()

    @property
    def queue(self) -> Queue:
        """The queue to look at and act on; on a relay's host its own. Mistakes in what does not say where it
        is are warnings.

        Raises: as `door`.
        """
        return self._where.door

    @property
    def server(self) -> Queue | None:
        """The server's queue, where a relay takes this host's. Raises: as `queue`."""
        return self._where.queue if self._where.is_relay else None

    @property
    def late_s(self) -> float:
        """After how many seconds an event that still waits is late. Raises: as `queue`."""
        return self._where.alerts.oldest_s

    @property
    def directory(self) -> str:
        """The directory of this host's own queue; "": it has none. Raises: as `queue`."""
        return "" if self.queue.url else self.queue.path

    @cached_property
    def _where(self) -> Settings:
        from forwarder import config

        return config.load(self.config_file, used=config.PLACE, warn=self._warn)

    def _warn(self, text: str) -> None:
        from forwarder.cli.table import say

        self._has_warned = True
        say(f"forwarder: warning: {text}", err=True)

    @property
    def kind(self) -> Kind:
        """What the command is about; see `kind_option`."""
        from forwarder.records import KINDS

        return KINDS[self.kind_name]

    @property
    def spool(self) -> Spool:
        """The records of that kind in the queue. Raises: as `queue`."""
        from forwarder import spool

        return spool.of(self.queue, self.kind)


yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
pass_context = click.make_pass_decorator(Context, ensure=True)


def _take_config(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(Context).config_file = value


def _take_kind(ctx: click.Context, _param: click.Parameter, value: str) -> None:
    ctx.ensure_object(Context).kind_name = value


class Group(click.Group):
    """A command with commands: ``help`` is one of them, as it is with most programs, and a ``--json`` that
    stands before a command's name counts behind it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args[:1] == ["help"]:
            args = [*args[1:], "--help"]
        elif args[:1] == ["--json"]:
            end = args.index("--") if "--" in args else len(args)
            args = [*args[1:end], "--json", *args[end:]]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(args[0], known, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def subcommand(self, name: str, **attributes: Any) -> Callable[[Callable[..., Any]], click.Command]:
        """Declare a command of the group: its function gets a `Context`, its options and --json."""

        def declare(function: Callable[..., Any]) -> click.Command:
            return self.command(name, **attributes)(config_option(json_option(pass_context(function))))

        return declare


def any_file(*_: object) -> list[CompletionItem]:
    """What a shell may complete: any file. A parameter's ``shell_complete``."""
    from click.shell_completion import CompletionItem

    return [CompletionItem("", type="file")]


def config_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--config FILE``, understood before and after the command's name."""
    return click.option(
        "--config",
        metavar="FILE",
        expose_value=False,
        is_eager=True,
        callback=_take_config,
        shell_complete=any_file,
        help="Settings file [default: $FORWARDER_CONFIG, else /etc/forwarder/forwarder.toml].",
    )(function)


def command(name: str, **attributes: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Declare the command *name*: its function gets a `Context` first, then its options."""

    def declare(function: Callable[..., Any]) -> click.Command:
        made: click.Command = click.command(name, **attributes)(config_option(pass_context(function)))  # type: ignore[no-untyped-call]
        return made

    return declare


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")


kind_option = click.option(
    "--kind",
    type=click.Choice(["event", "profile", "group"]),
    default="event",
    expose_value=False,
    is_eager=True,  # what completes the words behind it needs it
    callback=_take_kind,
    help="Events, updates of user profiles, or updates of groups [default: event].",
)


def print_json(values: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line."""
    for value in values:
        click.echo(json.dumps(value))
