"""The page of the command, ``forwarder(1)``: each subcommand's help as a subsection."""

from __future__ import annotations

from collections.abc import Iterator

import click

from forwarder import errors
from forwarder.cli import cli
from man import roff

# Those that all commands have are documented once.
COMMON = ("--config", "--help", "--version")
ENVIRONMENT = {
    "FORWARDER_CONFIG": "The settings file, where `--config` names none.",
    "FORWARDER_<SECTION>_<KEY>": "A setting, such as `FORWARDER_QUEUE_PATH`; it wins over the file. See "
    "`forwarder.toml`(5).",
    "FORWARDER_MIXPANEL_SECRET, FORWARDER_MIXPANEL_TOKEN": "The service account's secret or the project's "
    "token, where neither a file nor a systemd credential has it.",
}
FILES = {
    "/etc/forwarder/forwarder.toml": "The settings, unless another file is named.",
    "/var/lib/forwarder": "The queue's directory, unless `queue.path` names another.",
    "/usr/share/doc/mixpanel-forwarder": "The documents, if the Debian package is installed: "
    "`README.rst.gz`, and pages in `docs`. Else they are in the source.",
}


def page() -> str:
    """The whole page."""
    top = click.Context(cli, info_name="forwarder", **cli.context_settings)
    return "".join(
        [
            roff.head("forwarder", 1, "a durable queue between local programs and Mixpanel"),
            roff.heading("SYNOPSIS"),
            f"{_synopsis(top)}\n",
            roff.heading("DESCRIPTION"),
            roff.paragraphs(cli.help or ""),
            roff.heading("OPTIONS"),
            *(_option(top, option) for option in cli.params),
            _option(top, cli.get_help_option(top)),
            roff.heading("COMMANDS"),
            *(_section(context) for context in commands(top)),
            roff.heading("EXIT STATUS"),
            *(roff.entry(roff.bold(str(code)), roff.prose(text)) for code, text in sorted(codes())),
            roff.heading("ENVIRONMENT"),
            *(roff.entry(roff.bold(name), roff.prose(text)) for name, text in ENVIRONMENT.items()),
            roff.heading("FILES"),
            *(roff.entry(roff.bold(name), roff.prose(text)) for name, text in FILES.items()),
            roff.heading("SEE ALSO"),
            f"{roff.bold('forwarder.toml')}(5)\n",
        ]
    )


def commands(context: click.Context) -> Iterator[click.Context]:
    """The commands that do something, those of groups after what is said of the group."""
    group = context.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inside = click.Context(command, info_name=name, parent=context)
        yield inside
        if isinstance(command, click.Group):
            yield from commands(inside)


def _synopsis(context: click.Context) -> str:
    pieces = context.command.collect_usage_pieces(context)
    return " ".join([roff.bold(context.command_path), *(f"\\fI{roff.escape(piece)}\\fR" for piece in pieces)])


def _section(context: click.Context) -> str:
    command = context.command
    options = [
        option
        for option in command.params
        if isinstance(option, click.Option) and not set(option.opts) & set(COMMON)
    ]
    return "".join(
        [
            roff.subheading(context.command_path),
            f"{_synopsis(context)}\n",
            roff.PARAGRAPH + roff.paragraphs(command.help or ""),
            *(_option(context, option) for option in options),
        ]
    )


def _option(context: click.Context, option: click.Parameter | None) -> str:
    record = option.get_help_record(context) if option else None
    return roff.entry(roff.bold(record[0]), roff.prose(record[1])) if record else ""


def codes() -> Iterator[tuple[int, str]]:
    """Each exit code there is, and what it means."""
    yield 0, "Done."
    yield 1, "Not so: a condition that holds, an id that is not there, books that do not balance."
    for kind in (errors.ForwarderError, *errors.ForwarderError.__subclasses__()):
        if kind.__module__ == errors.__name__:
            doc = "A bug." if kind is errors.ForwarderError else kind.__doc__
            yield kind.exit_code, doc or ""
