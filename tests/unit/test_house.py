"""The house's own rules, for those that no linter keeps."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "forwarder").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MOST_LINES = 450
NAMES_THAT_SAY_NOTHING = {"base", "common", "core", "helper", "helpers", "manager", "misc", "util", "utils"}
# Whoever is in these rooms gets it from the kind.
ROOMS_WITHOUT_A_KIND = ("delivery", "salvage", "service", "spool")
OF_ONE_KIND = re.compile(
    r"/import\b|/engage\b|/groups\b|MAX_EVENT_BYTES|\$insert_id|\$token|\"properties\"|ndjson|\bisal\b|\bigzip\b"
)
NOT_FOR_PRODUCERS = {"click", "http", "isal", "requests", "rich", "ssl", "structlog", "urllib3"}


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_the_rules_are_held_against_something() -> None:
    """The walks below find the product and the tests."""
    assert ROOT / "forwarder/cli/__init__.py" in MODULES
    assert Path(__file__) in TESTS


def test_no_module_is_too_long_to_be_read_in_one_sitting() -> None:
    """A module of the product has at most 450 lines."""
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_names_say_what_is_inside() -> None:
    """No module or package is named for being a heap."""
    heaps = [path for path in MODULES if {path.stem, path.parent.name} & NAMES_THAT_SAY_NOTHING]
    assert heaps == []


def test_everything_public_says_what_it_promises() -> None:
    """Each public module, class, function and method has a docstring, or inherits the one it overrides."""
    silent = [found for path in MODULES for found in _silent(path)]
    assert silent == []


def _silent(path: Path) -> Iterator[str]:
    tree = _tree(path)
    if not ast.get_docstring(tree):
        yield _place(path, 1)
    public = path.stem == "__init__" or not path.stem.startswith("_")
    for node in tree.body if public else []:
        yield from _silent_in(path, node)


def _silent_in(path: Path, node: ast.stmt) -> Iterator[str]:
    if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or node.name[0] == "_":
        return
    if not ast.get_docstring(node):
        yield f"{_place(path, node.lineno)} {node.name}"
    if not isinstance(node, ast.ClassDef):
        return
    # A class built on another may override what is documented there; a property says by its name what it is.
    if not node.bases:
        for member in node.body:
            if not _is_property(member):
                yield from _silent_in(path, member)


def _is_property(member: ast.stmt) -> bool:
    decorators = [ast.unparse(decorator) for decorator in getattr(member, "decorator_list", [])]
    return any(name.endswith(("property", ".setter")) for name in decorators)


def test_every_test_states_a_promise() -> None:
    """Each test has a docstring, in all tiers."""
    functions = [
        (path, node)
        for path in TESTS
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert [_place(path, node.lineno) for path, node in functions if not ast.get_docstring(node)] == []


def test_no_test_sleeps() -> None:
    """Tests wait for something to be so, not for time to pass; a fault that is slowness says so."""
    sleeps = [
        _place(path, node.lineno)
        for path in TESTS
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Attribute) and node.attr == "sleep"
        if "# the fault itself" not in path.read_text().splitlines()[node.lineno - 1]
    ]
    assert sleeps == []


@pytest.mark.parametrize("tier", ["unit", "integration", "fault", "system"])
def test_test_files_can_be_told_apart_by_name(tier: str) -> None:
    """A test file's name occurs once, so that a report's line says which one it means."""
    here = {path.name for path in TESTS if path.parent.name == tier}
    elsewhere = {path.name for path in TESTS if path.parent.name != tier}
    assert here & elsewhere <= {"conftest.py"}


def test_what_is_of_one_kind_only_hangs_on_it() -> None:
    """Where records wait and how they leave is written without a word of what they are; but `EventQueue`
    says to its users what an event is."""
    rooms = [ROOT / "forwarder" / name for name in ROOMS_WITHOUT_A_KIND]
    found = [
        _place(path, number)
        for path in MODULES
        if any(room in path.parents for room in rooms) and path != ROOT / "forwarder/spool/queue.py"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if OF_ONE_KIND.search(line)
    ]
    assert found == []
    assert OF_ONE_KIND.search((ROOT / "forwarder/records/event/__init__.py").read_text())


def test_a_producer_does_not_load_the_network() -> None:
    """What a producer needs loads no HTTP client, no command line and no log; nor
    persist-queue, which takes a third of the time."""
    script = "import sys; from forwarder import EventQueue; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    modules = done.stdout.split()
    loaded = {name.partition(".")[0] for name in modules}
    assert "sqlite3" in loaded
    assert "forwarder.records.verdict" not in modules
    assert loaded & {*NOT_FOR_PRODUCERS, "persistqueue"} == set()
