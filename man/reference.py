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

from forwarder.cli.root import COMMANDS, cli
from forwarder.config.settings import SECTIONS, SETTINGS, Setting
from man import paragraphs
from man.command import ENVIRONMENT, EXITS, codes, commands, options
from man.settings import DESCRIPTION, explained, meaning

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
`etc/forwarder.toml <../etc/forwarder.toml>`__ lists every setting with its default. This page is also the
manual page ``forwarder.toml(5)``.
"""
THINK_ABOUT = (
    "mixpanel.region",
    "mixpanel.project_id",
    "mixpanel.service_account",
    "mixpanel.secret_file",
    "mixpanel.token_file",
    "mixpanel.geolocate",
    "queue.path",
    "queue.url",
    "queue.max_bytes",
    "queue.min_free_bytes",
    "delivery.linger_s",
    "delivery.batch_bytes",
    "delivery.connections",
    "dead_letters.max_age_days",
    "metrics.listen",
    "intake.listen",
    "intake.tokens",
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
                *_entries(options(top)),
                _heading("Environment"),
                *_entries(ENVIRONMENT.items()),
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
                *_paragraphs(DESCRIPTION),
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
    return "".join(
        [
            _heading(context.command_path),
            f"::\n\n    {usage}\n\n",
            *_paragraphs(command.help or ""),
            *_entries(options(context)),
        ]
    )


def _section(name: str, doc: str) -> str:
    entries = "".join(_entries(explained(name)))
    return f"{_heading(f'[{name}]')}{_filled(_prose(meaning(doc)))}\n{entries}"


def _default(setting: Setting) -> str:
    return setting.kind.show(setting.default).strip('"')


def _title(text: str) -> str:
    return f"{'=' * len(text)}\n{text}\n{'=' * len(text)}\n\n{MADE}"


def _heading(text: str) -> str:
    return f"\n{text}\n{'=' * len(text)}\n\n"


def _entries(explained: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Terms as code, and below each what it means."""
    for term, text in explained:
        yield f"{_code(term)}\n{_filled(_prose(text), '    ')}\n"


def _table(head: Iterable[str], widths: Iterable[int], rows: Iterable[Iterable[str]]) -> str:
    lines = [".. list-table::", "    :header-rows: 1", f"    :widths: {' '.join(map(str, widths))}", ""]
    for row in (head, *rows):
        for number, cell in enumerate(row):
            first = "    * - " if number == 0 else "      - "
            lines += _filled(cell, " " * 8, first).splitlines() if cell else [first.rstrip()]
    return "\n".join([*lines, "", ""])


def _paragraphs(text: str) -> Iterator[str]:
    for piece in paragraphs(text):
        if isinstance(piece, list):
            yield "::\n\n" + "".join(f"    {line}\n" for line in piece) + "\n"
        else:
            yield f"{_filled(_prose(piece))}\n"


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
