"""The documents are true: their commands run, and what they name is there."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
from docutils import nodes
from docutils.core import publish_doctree

from forwarder import errors
from forwarder.cli.root import COMMANDS, cli
from forwarder.config import SETTINGS
from forwarder.config.settings import SECTIONS
from forwarder.sandbox import Sandbox

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (*sorted(ROOT.glob("*.rst")), *sorted((ROOT / "docs").glob("*.rst")))
}
CHANGELOG = "CHANGELOG.rst"
README = PAGES["README.rst"]
OTHER_VARIABLES = {"FORWARDER_CONFIG", "FORWARDER_MIXPANEL_SECRET", "FORWARDER_MIXPANEL_TOKEN"}
OTHER_VARIABLES |= {"FORWARDER_TEST_SEED", "FORWARDER_ALERT", "FORWARDER_ALERT_STATE"}
# What runs the examples of other languages, in the second terminal.
PROGRAMS = {
    "python": "python -",
    "javascript": "node -",
    "php": "php -- -",
    "ruby": "ruby -",
    "sql": "sqlite3 -bail $HOME/forwarder/queue/data.db",
}
# The events of the README, then those of the page of the producers; Renewed is plain persist-queue's.
NAMES = (
    "Signed Up",
    "Logged In",
    "Invited",
    "Backup Done",
    "Logged Out",
    "Invoice Paid",
    "Order Paid",
    "Kept by Bash",
    "Job Started",
    "Renewed",
)
FROM = {"From Node": "node", "From PHP": "php", "From Ruby": "ruby"}
FROM |= {"Kept by Node": "node", "Kept by PHP": "php", "Kept by Ruby": "ruby", "Inserted by SQL": "sqlite3"}
SECRET = "the-secret-of-the-account"


@cache
def _page(name: str) -> nodes.document:
    """A document, parsed; any warning is an error."""
    strictly = {"halt_level": 2, "report_level": 2, "raw_enabled": False, "file_insertion_enabled": False}
    return publish_doctree(PAGES[name], settings_overrides=strictly)


def _pages() -> list[nodes.document]:
    """All that say how things are; the changes say how they were."""
    return [_page(name) for name in PAGES if name != CHANGELOG]


def _literals() -> list[str]:
    return [" ".join(node.astext().split()) for page in _pages() for node in page.findall(nodes.literal)]


def _blocks(*names: str) -> list[nodes.literal_block]:
    pages = [_page(name) for name in names] or _pages()
    return [block for page in pages for block in page.findall(nodes.literal_block)]


def _table(title: str) -> list[list[str]]:
    """The rows of the table whose first column has this title."""
    for table in (table for page in _pages() for table in page.findall(nodes.table)):
        head, *body = ([cell.astext() for cell in row] for row in table.findall(nodes.row))
        if head[0] == title:
            return body
    raise AssertionError(f"no table of {title}")


def _command_lines() -> list[str]:
    """Every line that calls the forwarder, in blocks and within text; no pattern of a usage."""
    text = [block.astext().replace("\\\n", " ") for block in _blocks()]
    lines = [line for block in text for line in block.splitlines()] + _literals()
    calls = [call.strip() for line in lines for call in line.split("|")]
    calls = [re.sub(r"^[A-Z_]+=\S+ ", "", call) for call in calls]
    return [call for call in calls if call.startswith("forwarder ") and "[OPTIONS]" not in call]


@pytest.mark.parametrize("name", PAGES)
def test_each_document_is_valid(name: str) -> None:
    """docutils finds nothing to complain of in any of them, and no line is too long."""
    assert _page(name)["names"]
    assert max(map(len, PAGES[name].splitlines())) <= 118


def test_each_link_leads_somewhere() -> None:
    """Every relative link names a file there is, and where it names a section, one that is in that file."""
    wrong, followed = [], 0
    for name in PAGES:
        for reference in _page(name).findall(nodes.reference):
            target = reference.get("refuri", "")
            if not target or re.match(r"[a-z]+:", target):
                continue
            place, _, section = target.partition("#")
            path = (ROOT / name).parent / place
            key = str(path.resolve().relative_to(ROOT))
            followed += 1
            if not path.exists() or (section and section not in _page(key).ids):
                wrong.append((name, target))
    assert wrong == []
    assert followed > 20


def test_each_page_can_be_reached_from_the_readme() -> None:
    """The README's table of pages leaves none out."""
    linked = {reference.get("refuri") for reference in _page("README.rst").findall(nodes.reference)}
    assert set(PAGES) - {"README.rst"} <= linked


def test_each_command_is_documented() -> None:
    """The table of commands names those there are, in their order, and no other."""
    assert [row[0] for row in _table("Command")] == list(COMMANDS)


@pytest.mark.parametrize("line", sorted(set(_command_lines())))
def test_each_command_line_is_understood(line: str) -> None:
    """Every subcommand and option that the documents use exists."""
    group: click.Command = cli
    names: list[str] = []
    words = [word for word in shlex.split(line.replace("…", ""))[1:] if word != "COMMAND"]
    while isinstance(group, click.Group) and words and not words[0].startswith("-"):
        names.append(words.pop(0))
        found = group.get_command(click.Context(group), names[-1])
        assert found is not None, f"there is no {' '.join(names)}"
        group = found
    known = {option for parameter in group.params for option in parameter.opts} | {"--help"}
    used = {word.partition("=")[0] for word in words if re.match("--?[a-z]", word)}
    assert used - known == set()


def test_no_command_is_called_by_name_before_there_is_a_path_to_it() -> None:
    """Up to where PATH is set, the README calls the program by its place."""
    before, _, _ = README.partition("export PATH=")
    before = before[before.index("\nFive minutes\n") :]
    assert "``.venv/bin/forwarder sandbox``" in before
    assert not re.search(r"(``|^ +)forwarder [a-z]", before, re.MULTILINE)


def test_each_setting_and_variable_that_is_named_exists() -> None:
    """No key of a removed setting stays behind, and the table shows the defaults there are."""
    keys = {
        text for text in _literals() if text.partition(".")[0] in SECTIONS and re.fullmatch(r"\w+\.\w+", text)
    }
    assert keys
    assert keys - set(SETTINGS) == set()
    variables = set(re.findall(r"\bFORWARDER_[A-Z_]+[A-Z]\b", "\n".join(PAGES.values())))
    known = {setting.variable for setting in SETTINGS.values()} | OTHER_VARIABLES | _log_fields()
    assert variables - known == set()
    for key, default, _ in _table("Setting"):
        assert SETTINGS[key].kind.show(SETTINGS[key].default).strip('"') == default, key


def _log_fields() -> set[str]:
    """The fields of the journal's entries that are named in the source of what the daemon logs."""
    sources = (
        (ROOT / "forwarder/service" / name).read_text() for name in ("daemon_log.py", "delivery_log.py")
    )
    names = {
        str(keyword.arg)
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)
        for keyword in node.keywords
    }
    return {f"FORWARDER_{name.upper()}" for name in names | {"event"}}


def test_each_exit_code_is_explained() -> None:
    """The table of exit codes has the code of every error, and no code that nothing exits with."""
    kinds = [errors.ForwarderError, *errors.ForwarderError.__subclasses__()]
    there = {str(kind.exit_code) for kind in kinds if kind.__module__ == errors.__name__}
    # 1 is no error's: a command says by it that something is not so.
    assert {code for code, _ in _table("Code")} == there | {"0", "1"}


def test_each_file_and_target_that_is_named_exists() -> None:
    """Paths into the repository lead somewhere, and so do the targets of make."""
    text = "\n".join(
        [*_literals(), *(block.astext() for block in _blocks() if "run" not in block["classes"])]
    )
    inside = {path.name for path in ROOT.iterdir()} - {".venv"}
    paths = {
        path for path in re.findall(r"(?<![\w/])[\w.-]+(?:/[\w.-]+)+", text) if path.split("/")[0] in inside
    }
    assert {"etc/forwarder.toml", "systemd/forwarder.sysusers.conf"} <= paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
    modules = {path for path in _literals() if path.endswith(".py") and "/" in path}
    roots = (ROOT / "forwarder", ROOT)
    assert [path for path in modules if not any((root / path).exists() for root in roots)] == []
    text += (ROOT / ".pre-commit-config.yaml").read_text()
    targets = set(re.findall(r"\bmake ([a-z-]+)", text))
    makefile = (ROOT / "Makefile").read_text()
    assert {"demo", "test"} <= targets
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_each_room_of_the_house_is_on_the_map() -> None:
    """The developers' map names every package of the product, and every module that stands by itself."""
    rooms = {path.name for path in (ROOT / "forwarder").iterdir() if (path / "__init__.py").exists()}
    rooms |= {path.name for path in (ROOT / "forwarder").glob("[a-z]*.py")}
    assert set(re.findall(r"^``forwarder/([\w.]+)`` ", PAGES["docs/architecture.rst"], re.MULTILINE)) == rooms


def _session() -> str:
    """The blocks that are marked to be run, as one script: what stays in the foreground goes to the back.

    What follows it is for a second terminal: a shell that begins elsewhere and knows nothing of the first.
    The page of the producers goes on from there; the README's last block looks at what came of them all.
    """
    *steps, last = _blocks("README.rst")
    parts = []
    for block in [*steps, *_blocks("docs/producers.rst"), last]:
        if "run" not in block["classes"]:
            continue
        text = block.astext()
        for language, program in PROGRAMS.items():
            if language in block["classes"]:
                text = f"{program} <<'PROGRAM'\n{text}\nPROGRAM"
                # What this machine can't run is left out.
                text = f"if command -v {program.split()[0]} >/dev/null; then {text}\nfi"
        parts.append(text)
    script = "\n".join(parts)
    assert script.count("\nforwarder run\n") == 1
    started = "until forwarder status --fail-if 'state!=running' 2>status.log; do kill -0 $!; done"
    first, second = script.split("\nforwarder run\n")
    first += f"\nforwarder run 2>daemon.log &\ntrap 'kill $! || :' EXIT\n{started}\n"
    again = 'cd /\nenv -u FORWARDER_CONFIG PATH="$path" bash -euo pipefail'
    second = f"{again} <<'SECOND'\n{second}\nSECOND\n"
    return f'set -euo pipefail\npath="$PATH"\n{first}{second}trap - EXIT\nkill $!\nwait $!\n'


@pytest.fixture
def account() -> Iterator[Sandbox]:
    """The project of the README, with its service account."""
    found = [
        re.search(rf'^ *{key} = "(.*)"', README, re.MULTILINE) for key in ("service_account", "project_id")
    ]
    assert all(found)
    username, project_id = (match[1] for match in found if match)
    with Sandbox(service_account=(username, SECRET, project_id), token="another") as sandbox:
        yield sandbox


def test_the_five_minutes_work_as_they_stand(account: Sandbox, tmp_path: Path) -> None:
    """The first steps with a real project, run word by word, bring every event to Mixpanel."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FORWARDER_")}
    environ |= {"HOME": str(tmp_path), "FORWARDER_MIXPANEL_URL": account.url, "PYTHONPATH": str(ROOT)}
    ours = str(Path(sys.executable).parent)
    environ["PATH"] = ":".join(place for place in environ["PATH"].split(":") if place != ours)
    clone = tmp_path / "clone"
    clone.mkdir()
    (clone / ".venv").symlink_to(sys.prefix)
    session = subprocess.Popen(
        ["bash", "-c", _session()],
        cwd=clone,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = session.communicate(f"{SECRET}\n", timeout=90)
    finally:
        if session.poll() is None:
            os.killpg(session.pid, signal.SIGKILL)
            session.communicate()
    assert session.returncode == 0, output
    names = Counter(json.loads(entry.data)["event"] for entry in account.ledger.events.values())
    expected = dict.fromkeys(NAMES, 1) | {"Seen": 10}
    expected |= {name: 1 for name, program in FROM.items() if shutil.which(program)}
    assert names == expected, output
    assert "The queue is empty." in output
    number = sum(expected.values())
    assert f"accepted {number} = delivered {number} + dead-lettered 0 + deleted 0 + waiting 0" in output
    assert (tmp_path / "forwarder/secret").stat().st_mode & 0o777 == 0o600


def test_the_example_in_go_works(forwarder: Any, tmp_path: Path) -> None:
    """It is compiled, so it is not part of the session."""
    if not shutil.which("go"):
        pytest.skip("go is not on this machine")
    (block,) = (block for block in _blocks("docs/producers.rst") if "go" in block["classes"])
    (tmp_path / "main.go").write_text(block.astext())
    environ = forwarder.environ | {"PATH": f"{_only_forwarder(tmp_path)}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["go", "run", "main.go"], cwd=tmp_path, env=environ, capture_output=True, timeout=110
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(forwarder("peek", "--json").stdout)["event"]["event"] == "Kept by Go"


def _only_forwarder(directory: Path) -> Path:
    """*directory*, with a ``forwarder`` that is this one."""
    (directory / "forwarder").write_text(f'#!/bin/sh\nexec {sys.executable} -m forwarder "$@"\n')
    (directory / "forwarder").chmod(0o755)
    return directory
