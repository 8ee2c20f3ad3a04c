"""Tab in real shells: what is there is offered, quoted; what can't be looked up is not, without a word."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forwarder.cli.completion import SHELLS
from forwarder.cli.completion.values import MOST
from forwarder.cli.root import COMMANDS
from forwarder.config import SETTINGS
from forwarder.sandbox.faults import NAMES

BIN = Path(sys.executable).parent
HOSTILE = "$(touch harm) `x` 'y' \"z\" *"
WORSE = "Bad $(touch harm) `x` 'y' \"z\" \\ *"
LOUD = "Loud!"
LETTERS = [
    ("Signed Up", "time: too old"),
    ("Page: View", "no $insert_id"),
    (HOSTILE, "it's *"),
    (WORSE, "it's *"),
    (LOUD, "x"),
    ("a\nb", "x"),
]
INSERT = (
    "INSERT INTO dead_letters (event_id, data, event, insert_id, reason, field, accepted_at, dead_at)"
    " VALUES (0, '{}', ?, '', ?, '', 0, 0)"
)
PROMPT = "what next? "
_COMMANDS = re.compile("\x1b\\[[?0-9;]*[A-Za-z]")


@pytest.fixture
def environ(queue_path: str, tmp_path: Path) -> dict[str, str]:
    """What the shells are given: this test's queue, and the command first in the PATH."""
    kept = {name: os.environ[name] for name in ("FORWARDER_CONFIG",)}
    (tmp_path / "home").mkdir()
    return kept | {
        "FORWARDER_QUEUE_PATH": queue_path,
        "HOME": str(tmp_path / "home"),
        "PATH": f"{BIN}:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
    }


@pytest.fixture
def dead(queue, queue_path: str, sql) -> None:
    """A queue with the dead letters `LETTERS`."""
    for letter in LETTERS:
        sql(queue_path, INSERT, letter)


@pytest.fixture
def offered(environ: dict[str, str]) -> Callable[..., list[str]]:
    """Calls bash's function as bash does, for a line; what it offers, unquoted. Any complaint fails."""

    def ask(line: str, word: str | None = None) -> list[str]:
        words = line.split(" ")
        call = 'source <(forwarder completion bash); _forwarder_completion forwarder "$WORD"'
        script = f"COMP_WORDS=($WORDS); {call}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        done = subprocess.run(
            ["bash", "--norc", "-c", script],
            env={
                **environ,
                "WORDS": line,
                "COMP_CWORD": str(len(words) - 1),
                "COMP_LINE": line,
                "COMP_POINT": str(len(line)),
                "WORD": words[-1] if word is None else word,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return [word for line in done.stdout.splitlines() for word in shlex.split(line)]

    return ask


class Terminal:
    """An interactive shell on a terminal of its own."""

    def __init__(self, command: list[str], environ: dict[str, str], directory: Path) -> None:
        self._ours, theirs = pty.openpty()
        # Wide, or long lines would be scrolled.
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 500, 0, 0))
        self._process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environ,
            cwd=directory,
            start_new_session=True,
        )
        os.close(theirs)

    def arguments(self, typed: str) -> list[str]:
        """Type *typed*, Tab, and see which arguments the line then has for the shell."""
        # Ctrl-A: to the line's beginning, so that another command is given them; Ctrl-E: to its end.
        os.write(self._ours, f"{typed}\t\x01printf '[%s]\\n' \x05 THE-END\n".encode())
        lines = self.wait("[THE-END]\n").splitlines()
        return [line[1:-1] for line in lines if line.startswith("[") and line.endswith("]")][1:-1]

    def wait(self, wanted: str = PROMPT) -> str:
        """All output up to *wanted*, without what moves the cursor."""
        seen = b""
        deadline = time.monotonic() + 20
        while wanted not in (text := _COMMANDS.sub("", seen.decode(errors="replace")).replace("\r", "")):
            ready, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"not so in time: {seen!r}"
            seen += os.read(self._ours, 65536)
        return text

    def close(self) -> None:
        """End the shell."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(20)
        os.close(self._ours)


@pytest.fixture(params=["bash", "zsh"])
def terminal(request: pytest.FixtureRequest, environ: dict[str, str], tmp_path: Path) -> Iterator[Terminal]:
    """bash and zsh, as a person has them."""
    shell = request.param
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not on this machine")
    before = {"bash": "", "zsh": "autoload -U compinit && compinit -u -D\nunset zle_bracketed_paste\n"}
    rc = tmp_path / "home" / f".{shell}rc"
    rc.write_text(f"PS1='{PROMPT}'\n{before[shell]}source <(forwarder completion {shell})\n")
    command = {"bash": ["bash", "--noprofile", "--rcfile", str(rc), "-i"], "zsh": ["zsh", "-d", "-i"]}
    work = tmp_path / "work"
    work.mkdir()
    started = Terminal(command[shell], environ, work)
    try:
        started.wait()
        yield started
    finally:
        started.close()


def test_commands_options_and_fixed_values_are_offered(offered) -> None:
    """Each command in its order, the options of one, and the words that an option takes."""
    assert offered("forwarder ") == list(COMMANDS)
    assert offered("forwarder dead") == ["dead-letters"]
    assert "retry" in offered("forwarder dead-letters ")
    assert "--reason" in offered("forwarder dead-letters list --r")
    assert offered("forwarder sandbox --project s") == ["simplified"]
    assert set(offered("forwarder sandbox --fault ")) == set(NAMES)
    assert offered("forwarder status --fail-if oldest_w") == ["oldest_waiting_s>"]
    assert offered('forwarder status --fail-if "oldest_w') == ["oldest_waiting_s>"]
    assert "state==blocked" in offered("forwarder status --fail-if state")
    assert set(SETTINGS) < set(offered("forwarder config show "))
    assert offered("forwarder completion ") == list(SHELLS)


def test_dead_letters_are_offered(offered, dead: None) -> None:
    """Ids, newest first and none twice; names and reasons; nothing that a line can't hold."""
    assert offered("forwarder dead-letters show ") == ["6", "5", "4", "3", "2", "1"]
    assert offered("forwarder dead-letters delete 3 1 ") == ["6", "5", "4", "2"]
    assert offered("forwarder dead-letters list --event ") == [
        LOUD,
        WORSE,
        HOSTILE,
        "Page: View",
        "Signed Up",
    ]
    # Within double quotes the history would be read for a !, whatever stands before it.
    assert offered('forwarder dead-letters list --event "L') == []
    assert offered("forwarder dead-letters list --reason t") == ["time: too old"]


def test_what_bash_has_split_off_a_word_is_not_offered_again(offered, dead: None) -> None:
    """bash takes = and : for the ends of words, and replaces only what is behind."""
    assert offered("forwarder dead-letters list --event=Pa", "Pa") == ["Page: View"]
    assert offered("forwarder status --fail-if state==bl", "bl") == ["blocked"]


def test_in_a_queue_of_many_the_newest_are_offered_and_any_by_its_digits(
    offered, queue, queue_path: str, sql
) -> None:
    """Not all that there are are read, and an old one is found once its first digits are there."""
    count = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
    into = INSERT.partition(" VALUES")[0]
    sql(queue_path, f"{into} {count} SELECT 0, '{{}}', 'E', '', 'r', '', 0, 0 FROM n")
    assert offered("forwarder dead-letters show ") == [str(i) for i in range(5000, 5000 - MOST, -1)]
    found = [*range(1299, 1199, -1), *range(129, 119, -1), 12]
    assert offered("forwarder dead-letters show 12") == [str(i) for i in found]


def _no_queue(_path: Path) -> None:
    pass


def _not_a_queue(path: Path) -> None:
    path.mkdir()
    (path / "data.db").write_text("this is no database")


def _emptied(path: Path) -> None:
    path.mkdir()
    (path / "data.db").touch()


@pytest.mark.parametrize("spoil", [_no_queue, _not_a_queue, _emptied])
def test_without_a_queue_nothing_is_offered_nor_said(environ: dict[str, str], queue_path: str, spoil) -> None:
    """Where there is no queue, or something else, Tab stays silent and leaves no trace."""
    spoil(Path(queue_path))
    before = sorted(Path(queue_path).parent.rglob("queue*"))
    line = "forwarder dead-letters show "
    done = subprocess.run(
        [BIN / "forwarder"],
        env={**environ, "_FORWARDER_COMPLETE": "bash_complete", "COMP_LINE": line, "COMP_WORD": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
    assert sorted(Path(queue_path).parent.rglob("queue*")) == before


def test_wrong_settings_are_no_matter_of_completion(offered, environ: dict[str, str]) -> None:
    """Ids can't be known then; all else is offered as ever."""
    environ["FORWARDER_QUEUE_PATH"] = "not/absolute"
    assert offered("forwarder dead-letters show ") == []
    assert offered("forwarder dra") == ["drain"]


def test_the_queue_is_that_of_the_line(offered, environ: dict[str, str], dead: None, tmp_path: Path) -> None:
    """Settings named by --config before the cursor are those that completion goes by."""
    file = tmp_path / "other.toml"
    file.write_text(f'[queue]\npath = "{environ.pop("FORWARDER_QUEUE_PATH")}"\n')
    assert offered(f"forwarder --config {file} dead-letters show ") == ["6", "5", "4", "3", "2", "1"]


def test_what_other_programs_have_written_is_not_run(terminal: Terminal, dead: None, tmp_path: Path) -> None:
    """An event's name with a command in it is quoted by the shell: one argument, and nothing runs."""
    cases = {"\\$": HOSTILE, "'$": HOSTILE, "B": WORSE, "'B": WORSE, '"B': WORSE, "L": LOUD}
    for begun, whole in cases.items():
        got = terminal.arguments(f"forwarder dead-letters list --event {begun}")
        assert got == ["dead-letters", "list", "--event", whole], begun
    assert list((tmp_path / "work").iterdir()) == []


def test_values_are_completed_in_a_terminal(terminal: Terminal, dead: None, tmp_path: Path) -> None:
    """Also behind = and within a name that has a colon, where a word goes on, and where it is a file."""
    assert terminal.arguments("forwarder dead-letters list --event=Pa")[-1] == "--event=Page: View"
    assert terminal.arguments("forwarder dead-letters list --event Page:")[-1] == "Page: View"
    assert terminal.arguments('forwarder dead-letters list --reason "time: t')[-1] == "time: too old"
    assert terminal.arguments("forwarder status --fail-if oldest_w")[-1] == "oldest_waiting_s>"
    (tmp_path / "work/my events.ndjson").touch()
    assert terminal.arguments("forwarder enqueue my")[-1] == "my events.ndjson"


def _fish(line: str, environ: dict[str, str]) -> dict[str, str]:
    if not shutil.which("fish"):
        pytest.skip("fish is not on this machine")
    script = "forwarder completion fish | source; complete -C $argv[1]"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script, line], env=environ, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return dict(found.split("\t") if "\t" in found else (found, "") for found in done.stdout.splitlines())


def test_fish_is_offered_the_same_with_help(environ: dict[str, str], dead: None) -> None:
    """Commands with their line of the overview, ids with event and reason; names as one word."""
    assert _fish("forwarder dra", environ) == {"drain": COMMANDS["drain"][2]}
    assert _fish("forwarder dead-letters show ", environ)["1"] == "Signed Up: time: too old"
    assert list(_fish("forwarder dead-letters list --event Pa", environ)) == ["Page: View"]
    assert list(_fish("forwarder dead-letters list --event=Pa", environ)) == ["--event=Page: View"]


def test_a_command_is_completed_without_loading_all_of_them(environ: dict[str, str]) -> None:
    """Neither the database nor the network's half is imported for the name of a command."""
    script = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; from forwarder.cli import main; main([])"],
        env={
            **environ,
            "_FORWARDER_COMPLETE": "bash_complete",
            "COMP_LINE": "forwarder st",
            "COMP_WORD": "st",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith("plain\tstatus\t")
    loaded = set(done.stderr.split())
    assert "forwarder.cli" in loaded
    assert loaded & {"sqlite3", "persistqueue", "requests", "rich", "structlog", "msgspec"} == set()
