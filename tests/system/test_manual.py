"""The manual pages: whole, and such that both readers of roff have nothing to complain of."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from forwarder.cli.root import COMMANDS, cli
from forwarder.config import SETTINGS
from man.command import EXITS

ROOT = Path(__file__).parents[2]
PAGES = ("forwarder.1", *(f"forwarder-{name}.1" for name in COMMANDS), "forwarder.toml.5")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that they are written into."""
    directory = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, "-m", "man", directory], cwd=ROOT, check=True, timeout=60)
    assert {path.name for path in directory.iterdir()} == set(PAGES)
    return directory


def _read(page: Path) -> str:
    """The page as a reader sees it, on lines so long that none is broken."""
    if not shutil.which("man") or not shutil.which("groff"):
        pytest.skip("man and groff are not on this machine")
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", page],
        env={"PATH": "/usr/bin:/bin", "MANWIDTH": "2000", "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def _commands(context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            assert command is not None
            yield from _commands(click.Context(command, info_name=name, parent=context))


def test_the_page_of_the_program_leads_to_those_of_its_commands(pages: Path) -> None:
    """forwarder(1) has its own options, and each command with its page and what it does."""
    text = _read(pages / "forwarder.1")
    for option in cli.params:
        assert all(name in text for name in option.opts)
    body, _, also = " ".join(text.split()).partition(" SEE ALSO ")
    for name, (_, _, line) in COMMANDS.items():
        assert f" forwarder-{name}(1) {line} " in body
        assert f"forwarder-{name}(1)" in also


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_and_option_is_in_the_manual(pages: Path, name: str) -> None:
    """The page of a command, and a subsection for each of a group, has usage, help and options."""
    top = click.Context(cli, info_name="forwarder", **cli.context_settings)
    command = cli.get_command(top, name)
    assert command is not None
    text = _read(pages / f"forwarder-{name}.1")
    assert f"forwarder-{name} - {COMMANDS[name][2].rstrip('.')}\n" in text
    main, *bodies = text.replace("\n   forwarder", "\0forwarder").split("\0")
    sections = {body.partition("\n")[0]: body for body in bodies} | {f"forwarder {name}": main}
    contexts = list(_commands(click.Context(command, info_name=name, parent=top)))
    assert set(sections) == {context.command_path for context in contexts}
    assert (name == "dead-letters") == ("forwarder dead-letters retry" in sections)
    for context in contexts:
        body = " ".join(sections[context.command_path].split())
        assert context.get_usage().removeprefix("Usage: ") in body
        for option in context.command.params:
            if isinstance(option, click.Option) and "--config" not in option.opts:
                assert all(name in body for name in option.opts), (context.command_path, option.opts)
        first = (context.command.help or "").partition("\n\n")[0].replace("`", "")
        assert " ".join(first.split()) in body
    assert all(code in text for code in re.findall(r"\d\d", EXITS[name]))
    assert "SEE ALSO\n       forwarder(1), forwarder.toml(5)" in text


def test_each_setting_is_in_the_manual(pages: Path) -> None:
    """The page of the settings has each with its default, what it means and its variable."""
    text = _read(pages / "forwarder.toml.5")
    for setting in SETTINGS.values():
        section = text.partition(f"\n   [{setting.section}]\n")[2].partition("\n   [")[0]
        entry = section.partition(f"{setting.name} = {setting.kind.show(setting.default)}\n")[2]
        assert entry.lstrip().startswith(setting.doc), setting.key
        assert f"Variable: {setting.variable}.\n" in entry


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_are_clean_roff(pages: Path, name: str) -> None:
    """mandoc finds nothing to warn of; what groff warns of, the tests above would see."""
    if not shutil.which("mandoc"):
        pytest.skip("mandoc is not on this machine")
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", pages / name], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")


HARD = ("\\n at the front", ".TH is no request", "'it' neither", 'a-b ~ ^ `x` "y"', "1 … 2")


@pytest.mark.parametrize("text", HARD)
def test_no_text_is_taken_for_roff(text: str, tmp_path: Path) -> None:
    """Whatever stands in a help text is read on the page as it was written."""
    script = "import sys; from man import roff; print(roff.head('x', 1, 'y') + roff.heading('Z'), end='')"
    script += "; print(roff.escape(sys.argv[1]))"
    made = subprocess.run(
        [sys.executable, "-c", script, text], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    page = tmp_path / "x.1"
    page.write_text(made.stdout)
    assert text in _read(page)
