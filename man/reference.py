"""``python -m man.reference DIRECTORY``: write ``commands.rst`` and ``settings.rst``.

They hold what the manual pages hold, from the same sources, as reStructuredText that a code host renders.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from forwarder.cli import COMMANDS, cli
from forwarder.config.kinds import Kind
from forwarder.config.settings import SECTIONS, SETTINGS, Setting
from man.command import COMMON, ENVIRONMENT, EXITS, codes, commands

WIDTH = 110
MADE = ".. Made by `make docs` from the program itself; a change here is lost.\n\n"
COMMANDS_TEXT = """
``forwarder COMMAND --help`` prints the same text as this page. ``--json`` prints JSON, one object a line.
The same is in the manual pages, from ``forwarder(1)`` on.
"""
CODES_TEXT = """
Two more kinds come from signals and pipes:

``130``, ``143``
    The command was interrupted. ``enqueue`` then says how to go on.

``141``
    The reader closed the pipe, as ``| head`` does. ``enqueue`` returns its normal code, because its code is
    about the events.

How cron or a monitor learns that something is wrong: `Monitoring <operate.rst#monitoring>`__.
"""
SETTINGS_TEXT = """
The settings are a TOML file. It is the one named by ``--config FILE``, else by ``$FORWARDER_CONFIG``, else
``/etc/forwarder/forwarder.toml`` if that exists. Every key can also be given as an environment variable
``FORWARDER_<SECTION>_<KEY>``, such as ``FORWARDER_QUEUE_PATH``. A variable wins over the file; an empty one
counts as not set.

An unknown key or a bad value is an error (exit code 78); all errors are reported at once. A command fails
only on settings that it uses, and warns of the others. ``forwarder config show`` prints the settings in
effect, and where each value came from. `etc/forwarder.toml <../etc/forwarder.toml>`__ lists every setting
with its default; the same is in the manual page ``forwarder.toml(5)``.

Secrets come from files, from systemd credentials (``mixpanel-secret``, ``mixpanel-token``) or from the
environment (``FORWARDER_MIXPANEL_SECRET``, ``FORWARDER_MIXPANEL_TOKEN``). No option takes a secret, and no
log line and no command prints one.
"""
THINK_ABOUT = (
    "mixpanel.region",
    "mixpanel.project_id",
    "mixpanel.service_account",
    "mixpanel.secret_file",
    "mixpanel.token_file",
    "mixpanel.geolocate",
    "queue.path",
    "queue.max_bytes",
    "queue.min_free_bytes",
    "delivery.linger_s",
    "delivery.batch_bytes",
    "delivery.connections",
    "dead_letters.max_age_days",
    "metrics.listen",
)


def commands_page() -> str:
    """The page of the commands: an overview, the exit codes, then each command's help."""
    top = click.Context(cli, info_name="forwarder", **cli.context_settings)
    overview = [(_code(name), _escaped(line), EXITS[name]) for name, (_, _, line) in COMMANDS.items()]
    exits = [(str(code), _prose(text)) for code, text in sorted(codes())]
    return (
        "".join(
            [
                _title("Commands"),
                COMMANDS_TEXT.strip() + "\n\n",
                _table(("Command", "Does", "Exit codes besides 0"), (15, 50, 45), overview),
                _heading("Exit codes"),
                "Exit codes are those of ``sysexits.h``:\n\n",
                _table(("Code", "Meaning"), (10, 100), exits),
                CODES_TEXT.strip() + "\n\n",
                _heading("Options of all commands"),
                *(_option(top, option) for option in [*cli.params, cli.get_help_option(top)]),
                _heading("Environment"),
                *(_entry(name, _prose(text)) for name, text in ENVIRONMENT.items()),
                *(_command(context) for context in commands(top)),
            ]
        ).rstrip("\n")
        + "\n"
    )


def settings_page() -> str:
    """The page of the settings: how they are given, those to think about, then all."""
    rows = [
        (_code(setting.key), _code(_default(setting)), _escaped(setting.doc))
        for setting in map(SETTINGS.__getitem__, THINK_ABOUT)
    ]
    return (
        "".join(
            [
                _title("Settings"),
                SETTINGS_TEXT.strip() + "\n",
                _heading("The ones to think about"),
                _table(("Setting", "Default", "Meaning"), (30, 22, 58), rows),
                *(_section(name, values.__doc__ or "") for name, values in SECTIONS.items()),
            ]
        ).rstrip("\n")
        + "\n"
    )


def _command(context: click.Context) -> str:
    command = context.command
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    options = (
        option
        for option in command.params
        if isinstance(option, click.Option) and not set(option.opts) & set(COMMON)
    )
    return "".join(
        [
            _heading(context.command_path),
            f"::\n\n    {usage}\n\n",
            _paragraphs(command.help or ""),
            *(_option(context, option) for option in options),
        ]
    )


def _option(context: click.Context, option: click.Parameter | None) -> str:
    record = option.get_help_record(context) if option else None
    return _entry(record[0], _prose(record[1])) if record else ""


def _section(name: str, doc: str) -> str:
    entries = [_setting(setting) for setting in SETTINGS.values() if setting.section == name]
    meaning = doc.partition(": ")[2].partition("\n")[0]
    return f"{_heading(f'[{name}]')}{_filled(_prose(meaning[:1].upper() + meaning[1:]))}\n{''.join(entries)}"


def _setting(setting: Setting) -> str:
    remedy = setting.kind.remedy
    # That a text is text needs no saying.
    takes = f" {remedy}." if remedy != Kind.remedy else ""
    text = f"{_escaped(setting.doc + takes)} Variable: {_code(setting.variable)}."
    return _entry(f"{setting.name} = {setting.kind.show(setting.default)}", text)


def _default(setting: Setting) -> str:
    return setting.kind.show(setting.default).strip('"')


def _title(text: str) -> str:
    return f"{'=' * len(text)}\n{text}\n{'=' * len(text)}\n\n{MADE}"


def _heading(text: str) -> str:
    return f"\n{text}\n{'=' * len(text)}\n\n"


def _entry(term: str, text: str) -> str:
    """A term as code, and below it what it means."""
    return f"{_code(term)}\n{_filled(text, '    ')}\n"


def _table(head: Iterable[str], widths: Iterable[int], rows: Iterable[Iterable[str]]) -> str:
    lines = [".. list-table::", "    :header-rows: 1", f"    :widths: {' '.join(map(str, widths))}", ""]
    for row in (head, *rows):
        for number, cell in enumerate(row):
            first = "    * - " if number == 0 else "      - "
            lines += _filled(cell, " " * 8, first).splitlines() if cell else [first.rstrip()]
    return "\n".join([*lines, "", ""])


def _paragraphs(text: str) -> str:
    """Paragraphs of a command's help; one that begins with ``\\b`` keeps its lines, as click has it."""
    return "".join(_pieces(text))


def _pieces(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        if paragraph.lstrip().startswith("\b"):
            # Python 3.13 and later take the white space at the end of a docstring away.
            lines = paragraph.rstrip().partition("\n")[2].splitlines()
            yield "::\n\n" + "".join(f"    {line.strip()}\n" for line in lines) + "\n"
        else:
            yield f"{_filled(_prose(paragraph))}\n"


def _code(text: str) -> str:
    return f"``{text}``" if text else ""


def _prose(text: str) -> str:
    """Running text, in which `code` between backticks is code."""
    pieces = re.split(r"`+(.+?)`+", " ".join(text.split()))
    return "".join(
        # What touches the end of code would keep it from being one.
        _code(piece) + "\\ " * bool(re.match(r"[\w(]", pieces[place + 1])) if place % 2 else _escaped(piece)
        for place, piece in enumerate(pieces)
    )


def _escaped(text: str) -> str:
    """*text* as it stands, whatever in it would be markup."""
    # A word before a colon may be the scheme of an address, such as in FILE:LINE.
    return re.sub(r"([\\*|`]|_(?!\w)|(?<=[A-Za-z]):(?=\w))", r"\\\1", text)


def _filled(text: str, indent: str = "", first: str | None = None) -> str:
    """*text* on lines that are not too long; no code is broken."""
    whole = re.sub(r"``.+?``", lambda found: found[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(
        whole,
        WIDTH,
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace("\0", " ") + "\n"


PAGES = {"commands.rst": commands_page, "settings.rst": settings_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        Path(sys.argv[1], name).write_text(page())
