"""``forwarder top`` on a real terminal: tmux, beside a real daemon."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from forwarder import spool
from forwarder.cli.status import laid_out, rows
from forwarder.sandbox import Fault
from forwarder.spool import EventQueue
from tests.conftest import Forwarder, until
from tests.relays import Host

EVENT = {"event": "Seen", "properties": {}}
TOP = f"{shlex.quote(sys.executable)} -m forwarder top"

pytestmark = pytest.mark.skipif(not shutil.which("tmux"), reason="tmux is not on this machine")


class Terminal:
    """A terminal of 80 x 24 with a shell in it."""

    def __init__(self, environ: dict[str, str]) -> None:
        # A socket's path has about a hundred characters at most.
        self._directory = tempfile.mkdtemp(prefix="tmux-", dir="/tmp")
        # Where readline has set a size for this process, it is not that of the terminal.
        own = ("TMUX", "COLUMNS", "LINES")
        self._environ = {name: value for name, value in environ.items() if not name.startswith(own)}
        self._environ |= {"LC_ALL": "C.UTF-8", "TERM": "xterm"}
        self("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "sh")
        until(lambda: self.text().strip(), "the shell has a prompt")

    def __call__(self, *arguments: str) -> str:
        """Run a command of tmux; returns its output."""
        command = ["tmux", "-u", "-S", f"{self._directory}/socket", *arguments]
        return subprocess.run(
            command, env=self._environ, check=True, capture_output=True, timeout=20
        ).stdout.decode()

    def run(self, command: str) -> None:
        """Have the shell run a command; it says afterwards with which code that has ended."""
        self("send-keys", "-l", f"{command}; echo ended with $?")
        self.press("Enter")

    def press(self, *names: str) -> None:
        """Press keys, by tmux's names."""
        self("send-keys", *names)

    def text(self, *options: str) -> str:
        """What stands on the screen."""
        return self("capture-pane", "-p", *options)

    def shows(self, *wanted: str) -> str:
        """Wait until all that stands on the screen, in one line or wrapped; returns the screen."""

        def found() -> str:
            text = self.text()
            return text if all(each in text or each in " ".join(text.split()) for each in wanted) else ""

        try:
            return str(until(found))
        except AssertionError:
            raise AssertionError(f"never all of {wanted}:\n{self.text()}") from None

    def modes(self) -> str:
        """What a program may leave changed: screen, cursor, keypad, and the line discipline."""
        modes = self("display-message", "-p", "#{alternate_on} #{cursor_flag} #{keypad_flag} #{pane_tty}")
        tty = modes.split()[-1]
        return (
            modes + subprocess.run(["stty", "-a", "-F", tty], check=True, capture_output=True).stdout.decode()
        )

    def close(self) -> None:
        """End all that runs in it."""
        self("kill-server")
        shutil.rmtree(self._directory)


@pytest.fixture
def terminal(forwarder: Forwarder) -> Iterator[Terminal]:
    """A terminal in whose shell the command finds the test's queue."""
    made = Terminal(forwarder.environ)
    yield made
    made.close()


def test_an_outage_is_seen_with_the_figures_of_status(terminal, forwarder, queue, queue_path, server):
    """The state stands there in words with its reason, all rows are those of `status`, and when the outage is
    over that is seen, too."""
    server.inject(Fault.server_error())
    queue.put_many([EVENT] * 7)
    queue.append([b'{"event":"Bad","properties":{"time":1700000000,"$insert_id":"not an id!"}}'])
    forwarder.daemon()
    terminal.run(TOP)
    terminal.shows("Backing off: ", "HTTP 50", "8 events wait", "Seen ")

    def is_same() -> bool:
        shown = terminal.text().splitlines()
        table = dict(rows(forwarder.json("status")))
        wanted = ("waiting", "dead letters", "disk", "daemon")
        return all(line in shown for name in wanted for line in laid_out(name, table[name], 80))

    until(is_same, timeout_s=40)
    server.clear()
    terminal.shows("Running: nothing waits", "1 (`forwarder dead-letters summary`)")
    until(is_same, timeout_s=40)
    terminal.press("d")
    terminal.shows("Dead letters by cause", "  Bad  ", "d back")
    terminal.press("Enter")
    terminal.shows("Running: nothing waits")


def test_pause_resume_and_flush_by_key(terminal, forwarder, queue, queue_path):
    """p asks, and does nothing without y; then the daemon is paused, and p resumes it. f tries now."""
    forwarder.daemon()
    terminal.run(TOP)
    terminal.shows("Running", "p pause")
    terminal.press("p")
    terminal.shows("Pause delivery? y/n")
    terminal.press("n")
    terminal.shows("p pause")
    assert not forwarder.json("status")["paused"]
    terminal.press("p", "y")
    terminal.shows("Delivery is paused.", "Paused: nothing waits")
    assert forwarder.json("status")["paused"]
    terminal.press("h")
    terminal.shows("FULL IN is when")
    terminal.press("h")
    terminal.shows("p resume")
    terminal.press("p", "y")
    terminal.shows("Delivery is no longer paused.", "Running")
    terminal.press("f")
    terminal.shows("The daemon has the request and tries now.")
    assert not forwarder.json("status")["paused"]


def test_it_follows_the_size_of_the_terminal(terminal, queue):
    """After a resize the keys stand in the last line again, and nothing of the old screen is left."""
    queue.put_many([EVENT] * 3)
    terminal.run(TOP)
    terminal.shows("3 events wait", "q quit")
    for width, height in ((120, 40), (45, 8), (80, 24)):
        terminal("resize-window", "-x", str(width), "-y", str(height))

        def fits(height: int = height) -> bool:
            lines = terminal.text().rstrip("\n").split("\n")
            return len(lines) == height and [n for n, line in enumerate(lines) if "p pause" in line] == [
                height - 1
            ]

        until(fits)
        terminal.shows("3 events wait")


BUG = "import forwarder.cli.{0} as m; m.{1} = None; from forwarder.cli import main; main(['top'])"


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("q", 0),
        ("C-c", 0),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
        ("top.render", 70),
        ("watched.gather", 70),
    ],
)
def test_the_terminal_is_as_it_was_however_it_ends(how, code, terminal, queue, tmp_path):
    """By a key, a signal or a bug: screen, cursor and line discipline are as before, and so is what stood
    there. Ctrl-Z does not leave this screen to a shell."""
    before = terminal.modes()
    command = TOP
    if "." in str(how):
        command = f"{sys.executable} -c {shlex.quote(BUG.format(*how.split('.')))}"
    terminal.run(f"echo before; sh -c 'echo $$ >{tmp_path}/pid; exec \"$@\"' sh {command}")
    if code != 70:
        terminal.shows("p pause", "Stopped")
        assert terminal.modes() != before
        terminal.press("C-z")
        if isinstance(how, signal.Signals):
            os.kill(int((tmp_path / "pid").read_text()), how)
        else:
            terminal.press(how)
    screen = terminal.shows(f"ended with {code}", "this is a bug" if code == 70 else "before")
    assert "p pause" not in screen
    assert terminal.modes() == before


def test_it_ends_with_its_terminal(terminal, queue, tmp_path):
    """When the terminal is closed, as a connection by ssh is, it does not go on without one."""
    terminal("new-window", "-d", "sh")
    terminal.run(f"echo $$ >{tmp_path}/pid; exec {TOP}")
    terminal.shows("p pause")
    process = Path("/proc", (tmp_path / "pid").read_text().strip())
    assert process.exists()
    terminal("kill-pane")
    until(lambda: not process.exists())


def settings(tmp_path: Path, name: str) -> str:
    """A settings file for a queue of that name; its path."""
    file = tmp_path / f"{name}.toml"
    file.write_text(f'[queue]\npath = "{tmp_path}/{name}-queue"\nmin_free_bytes = 0\n')
    return str(file)


def test_several_queues_on_one_screen(terminal, tmp_path):
    """Each has a line; Tab shows the next one in detail. What can't be read says why while the others go on,
    and is shown again once it can be read."""
    files = " ".join(settings(tmp_path, name) for name in ("shop", "web", "broken"))
    for name, count in (("shop", 3), ("web", 12)):
        with EventQueue(tmp_path / f"{name}-queue", min_free_bytes=0) as queue:
            queue.put_many([EVENT] * count)
    (tmp_path / "broken-queue").mkdir()
    (tmp_path / "broken-queue/data.db").write_bytes(b"no database" * 1000)
    terminal.run(f"env -u FORWARDER_QUEUE_PATH {TOP} {files}")
    screen = terminal.shows("> shop", "3 events wait", "  web ", "  broken ")
    (broken,) = [line for line in screen.splitlines() if line.startswith("  broken ")]
    assert "The database in " in broken
    terminal.press("Tab")
    terminal.shows("> web", "12 events wait")
    with EventQueue(tmp_path / "web-queue", min_free_bytes=0) as queue:
        queue.put(EVENT)
    terminal.shows("13 events wait")
    terminal.press("Up", "Up")
    terminal.shows("> broken")
    shutil.copytree(tmp_path / "shop-queue", tmp_path / "broken-queue", dirs_exist_ok=True)
    terminal.shows("> broken stopped", "3 events wait")
    terminal.press("q")
    terminal.shows("ended with 0")


def test_a_host_with_a_relay_shows_both_queues(postgres, queue_path):
    """The host's own queue and that of the server have a line each; of the server a pause is refused to
    whoever may not, in words."""
    host = Host(queue_path, postgres, postgres.new_schema_name())
    host.set_up()
    postgres.execute(f"GRANT {host.schema}_viewer TO {host.user}")
    with closing(Terminal(host.environ)) as terminal, closing(host):
        with EventQueue(queue_path, min_free_bytes=0) as queue:
            queue.put_many([EVENT] * 4)
        terminal.run(TOP)
        terminal.shows("> this host stopped 4 ", "  the server ", "no relay runs; 4 events wait")
        host.relay()
        terminal.shows("> this host running 0 ", "the server stopped 4 ", "relayed ")
        terminal.press("Tab")
        terminal.shows("> the server stopped 4 ", "4 events wait", "Seen ")
        terminal.press("p")
        terminal.shows("Pause delivery of the server? y/n")
        terminal.press("y")
        terminal.shows("You may only look here: ")


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become another user")
def test_who_may_only_look(terminal, forwarder, queue, queue_path):
    """Another user sees the same, and is told in words what that user may not do."""
    queue.put_many([EVENT] * 5)
    forwarder.daemon(FORWARDER_MIXPANEL_URL="http://127.0.0.1:1")
    for directory in Path(queue_path).parents:
        if not directory.stat().st_mode & 0o001:
            directory.chmod(directory.stat().st_mode | 0o001)
    subprocess.run(["chmod", "-R", "a+rX", queue_path], check=True)
    terminal.run(f"setpriv --reuid=nobody --regid=nogroup --clear-groups {TOP}")
    terminal.shows("5 events wait", "Seen ")
    terminal.press("p", "y")
    terminal.shows("You may only look here: ")
    terminal.press("f")
    terminal.shows("You may only look here: ")
    assert not forwarder.json("status")["paused"]
    terminal.press("q")
    terminal.shows("ended with 0")


def test_looking_needs_no_lock_and_leaves_no_trace(terminal, queue, queue_path):
    """It shows what is committed while a writer has the lock all the time, and changes nothing."""
    queue.put_many([EVENT] * 5)
    with closing(sqlite3.connect(f"{queue_path}/data.db", isolation_level=None, timeout=0)) as writer:
        (version,) = writer.execute("PRAGMA data_version").fetchone()
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM ack_queue_default")
        terminal.run(TOP)
        terminal.shows("5 events wait", "ages", "Seen ")
        writer.execute("ROLLBACK")
        assert writer.execute("PRAGMA data_version").fetchone() == (version,)


@pytest.mark.parametrize("variable", ["TERM=linux", "TERM=vt100", "NO_COLOR=1", "LC_ALL=C"])
def test_poor_terminals(variable, terminal, forwarder, queue, queue_path):
    """On any of them the same is shown: with NO_COLOR without colour, and without UTF-8 in ASCII."""
    queue.put_many([EVENT] * 5)
    spool.at(queue_path).pause()
    forwarder.daemon()
    terminal.run(f"{variable} {TOP}")
    terminal.shows("Paused: 5 events wait", "ages", "Seen ", "p resume")
    # In yellow, which a paused queue has.
    assert bool(re.search(r"\x1b\[[0-9;]*33m", terminal.text("-e"))) == (variable != "NO_COLOR=1")
    is_ascii = variable == "LC_ALL=C"
    assert terminal.text().isascii() == is_ascii
    assert ("#" if is_ascii else "█") in terminal.text()
    terminal.press("q")
    terminal.shows("ended with 0")


def test_a_terminal_that_can_not_be_drawn_on(terminal, queue, run: Callable[..., Any]):
    """It says what does without, and so it does without any terminal."""
    terminal.run(f"TERM=dumb {TOP}")
    terminal.shows("this terminal can't be drawn on", "`forwarder status --watch`", "ended with 64")
    code, out, err = run("top")
    assert (code, out) == (64, "")
    assert "there is no terminal" in err
    assert "`forwarder status --watch`" in err
