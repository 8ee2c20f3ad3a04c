"""What people type by habit, from other programs, is understood."""

import json

import pytest

import forwarder as package
from forwarder.cli import main


@pytest.fixture
def run(queue_path, monkeypatch, capsys):
    """Run a command line in this process; returns exit code, output and errors."""
    monkeypatch.setenv("FORWARDER_QUEUE_PATH", queue_path)

    def command(line):
        with pytest.raises(SystemExit) as ended:
            main(line.split())
        return ended.value.code, *capsys.readouterr()

    return command


@pytest.mark.parametrize("line", ["version", "-V", "--version"])
def test_the_version(run, line):
    """By a command and by either option."""
    assert run(line) == (0, f"forwarder, version {package.__version__}\n", "")


@pytest.mark.parametrize(
    ("line", "usage"),
    [
        *(("help", "forwarder [OPTIONS] COMMAND"), ("help status", "forwarder status [OPTIONS]")),
        *(
            ("dead-letters help", "dead-letters [OPTIONS] COMMAND"),
            ("help config show", "config show [OPTIONS]"),
        ),
    ],
)
def test_help_is_a_command(run, line, usage):
    """Of all, and of one."""
    code, out, _ = run(line)
    assert (code, usage in out) == (0, True), out


@pytest.mark.parametrize(
    ("line", "meant"),
    [("statsu", "status"), ("enque -e A", "enqueue"), ("dead-letters lst", "list"), ("zzz", "")],
)
def test_a_mistyped_command_is_named_with_what_was_meant(run, line, meant):
    """If anything is close to it."""
    code, _, err = run(line)
    assert code == 64
    assert (f"Did you mean '{meant}'?" in err) == bool(meant)


@pytest.mark.parametrize(
    "line", ["--json status", "status --json", "--json peek", "--json dead-letters list"]
)
def test_json_may_stand_anywhere(run, line):
    """Also before the command that it is for."""
    run("enqueue -e A")
    code, out, _ = run(line)
    assert code == 0
    assert all(json.loads(each) for each in out.splitlines())
    assert run("dead-letters --json list")[0] == 0
