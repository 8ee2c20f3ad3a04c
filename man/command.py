"""The pages of the command: ``forwarder(1)``, and one for each command, such as ``forwarder-enqueue(1)``."""

from __future__ import annotations

from collections.abc import Iterator

import click

from forwarder import errors
from forwarder.cli.root import COMMANDS, cli
from man import roff

# Those that all commands have are documented once.
COMMON = ("--config", "--help", "--version")
# Besides 0, and what the command line itself can be wrong in (64).
EXITS = {
    "enqueue": "65 a line was refused; 66, 77 a file can't be read; 73, 74; 75 full, locked or still waiting",
    "run": "69 ``metrics.listen`` is taken; 75 another daemon runs; 77, 78",
    "intake": "69 an address is taken; 73, 77 a socket can't be made; 78 no tokens",
    "relay": "69 ``metrics.listen`` is taken; 75 another relay runs; 77, 78; with ``--drain`` as ``drain``",
    "drain": "69 blocked or paused; 74 something is left in a damaged database; 75 in the queue",
    "setup": "75 the server can't be reached; 77, 78",
    "status": "1 if ``--fail-if`` holds",
    "top": "",
    "peek": "",
    "where": "1 an id is not known",
    "waiting": "1 an id does not wait",
    "dead-letters": "1 an id does not exist; 65 some stay refused",
    "pause": "",
    "resume": "",
    "flush": "69 no daemon runs",
    "check": "that of the first failure; 1 the books; 69, 78 ``--online``",
    "report": "73 the file exists, or can't be made",
    "salvage": "66 no such file; 74, 75, 77; 78 the queue's own database is sound",
    "config": "64 no such setting; 78",
    "completion": "",
    "bench": "73 no such directory; 75 no room",
    "sandbox": "69 the port is taken",
    "demo": "70 it did not work",
}
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
    "`README.rst.gz`, pages in `docs`, and the files that they name. Else they are in the source.",
}


def pages() -> dict[str, str]:
    """Each page by the name of its file."""
    top = click.Context(cli, info_name="forwarder", **cli.context_settings)
    found = {"forwarder.1": _overview(top)}
    for name, (_, _, line) in COMMANDS.items():
        command = cli.get_command(top, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=top)
        found[f"forwarder-{name}.1"] = _page(context, line.rstrip("."), EXITS[name])
    return found


def _overview(top: click.Context) -> str:
    links = {name: roff.link(f"forwarder-{name}", 1) for name in COMMANDS}
    return "".join(
        [
            roff.head("forwarder", 1, "a durable queue between local programs and Mixpanel"),
            roff.heading("SYNOPSIS"),
            f"{_synopsis(top)}\n",
            roff.heading("DESCRIPTION"),
            roff.paragraphs(cli.help or ""),
            roff.heading("OPTIONS"),
            *_options(top),
            roff.heading("COMMANDS"),
            *(roff.entry(links[name], roff.prose(line)) for name, (_, _, line) in COMMANDS.items()),
            roff.heading("EXIT STATUS"),
            *(roff.entry(roff.bold(str(code)), roff.prose(text)) for code, text in sorted(codes())),
            roff.heading("ENVIRONMENT"),
            *(roff.entry(roff.bold(name), roff.prose(text)) for name, text in ENVIRONMENT.items()),
            roff.heading("FILES"),
            *(roff.entry(roff.bold(name), roff.prose(text)) for name, text in FILES.items()),
            roff.heading("SEE ALSO"),
            ",\n".join([*links.values(), roff.link("forwarder.toml", 5)]) + "\n",
        ]
    )


def _page(context: click.Context, line: str, exits: str) -> str:
    """The page of one command; those of a group are in the group's."""
    inner = list(commands(context)) if isinstance(context.command, click.Group) else []
    own = _options(context)
    return "".join(
        [
            roff.head(context.command_path.replace(" ", "-"), 1, line),
            roff.heading("SYNOPSIS"),
            f"{_synopsis(context)}\n",
            roff.heading("DESCRIPTION"),
            roff.paragraphs(context.command.help or ""),
            roff.heading("OPTIONS") if own else "",
            *own,
            roff.heading("COMMANDS") if inner else "",
            *(_section(one) for one in inner),
            roff.heading("EXIT STATUS"),
            roff.prose(f"0{exits and f'; else {exits}'}. All codes are explained in `forwarder`(1)."),
            roff.heading("SEE ALSO"),
            f"{roff.link('forwarder', 1)},\n{roff.link('forwarder.toml', 5)}\n",
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
    return "".join(
        [
            roff.subheading(context.command_path),
            f"{_synopsis(context)}\n",
            roff.PARAGRAPH + roff.paragraphs(context.command.help or ""),
            *_options(context),
        ]
    )


def _options(context: click.Context) -> list[str]:
    return [roff.entry(roff.bold(term), roff.prose(text)) for term, text in options(context)]


def options(context: click.Context) -> Iterator[tuple[str, str]]:
    """Each option of a command, and its help; those that all commands have are the program's."""
    for option in context.command.get_params(context):
        is_own = context.parent is None or not set(option.opts) & set(COMMON)
        if isinstance(option, click.Option) and is_own and (record := option.get_help_record(context)):
            yield record


def codes() -> Iterator[tuple[int, str]]:
    """Each exit code there is, and what it means."""
    yield 0, "Done."
    yield 1, "A `--fail-if` condition is true, an id does not exist, or the books do not balance."
    for kind in (errors.ForwarderError, *errors.ForwarderError.__subclasses__()):
        if kind.__module__ == errors.__name__:
            doc = "A bug." if kind is errors.ForwarderError else kind.__doc__
            yield kind.exit_code, doc or ""
