"""What people type by habit, from other programs, is understood."""

import fcntl
import json
import os
import pty
import re
import struct
import sys
import termios
from contextlib import closing, suppress

import pytest

import forwarder as package
from forwarder.spool import Dead, EventQueue, Settlement
from forwarder.spool.sqlite.consumer import Consumer


@pytest.fixture
def run(run):
    """Run a command line in this process; returns exit code, output and errors."""
    return lambda line: run(*line.split())


@pytest.mark.parametrize("line", ["version", "-V", "--version"])
def test_the_version(run, line):
    """By a command and by either option."""
    assert run(line) == (0, f"forwarder, version {package.__version__}\n", "")


@pytest.mark.parametrize(
    ("line", "usage"),
    [
        ("help", "forwarder [OPTIONS] COMMAND"),
        ("help status", "forwarder status [OPTIONS]"),
        ("dead-letters help", "dead-letters [OPTIONS] COMMAND"),
        ("help config show", "config show [OPTIONS]"),
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


def on_a_terminal(columns, *arguments, **environ):
    """What a command prints on a terminal of so many columns, without its colours."""
    child, screen = pty.fork()
    if not child:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environ.pop("COLUMNS", None)  # it would overrule the terminal
        os.execve(sys.executable, [sys.executable, "-m", "forwarder", *arguments], environ)
    seen = b""
    with suppress(OSError):  # what is read once the other side is closed
        while more := os.read(screen, 4096):
            seen += more
    os.close(screen)
    os.waitpid(child, 0)
    return re.sub(r"\x1b\[[0-9;]*m", "", seen.decode()).replace("\r\n", "\n")


@pytest.mark.parametrize(
    "arguments",
    [
        "status",
        "check",
        "waiting hold",
        "drain",
        "dead-letters show 1",
        "enqueue --config nowhere.toml -e E",
        "status --fail-if waiting>0",
    ],
)
def test_lines_break_between_words(arguments, forwarder, queue_path):
    """On a narrow terminal each line fits, but for one long word, and no word is cut."""
    with EventQueue(queue_path) as queue:
        queue.append([b'{"event":"E","properties":{"time":1,"$insert_id":"i"}}'] * 2)
    with closing(Consumer(queue_path)) as consumer:
        claim = consumer.claim_behind(0, 1, 10**6)
        consumer.settle(Settlement(claim.ids, [Dead(1, claim.events[0], "a reason of many words " * 5)]))
    forwarder("pause")

    environ = forwarder.environ | {"FORWARDER_LOG_LEVEL": "error"}
    wide = on_a_terminal(1000, *arguments.split(), **environ)
    narrow = on_a_terminal(36, *arguments.split(), **environ)

    lines = narrow.splitlines()
    assert len(lines) > len(wide.splitlines()) >= 1
    assert [line for line in lines if len(line) > 36 and len(line.split()) > 1] == []
    # Figures and their units may change between the two.
    changing = re.compile(r"[\d.,:/-]+(T|Z|ms|s|min)?|[KMG]?i?B,?")
    assert [changing.sub("", word) for word in narrow.split()] == [
        changing.sub("", word) for word in wide.split()
    ]
