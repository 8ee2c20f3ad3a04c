"""``forwarder top``: how events flow, live."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
import time
import tty
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from forwarder.cli.command import Context, any_file, command
from forwarder.cli.screen import Line, State, most_scroll, render
from forwarder.cli.table import is_utf8, padded
from forwarder.cli.watched import Watched
from forwarder.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live

REDRAW_S = 1.0
# Over a slow line a key's bytes may come one by one.
KEY_S = 0.1
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NAMES = {
    "\t": "tab", "\r": "enter", "\n": "enter", "\x1b": "escape", "\x1b[Z": "backtab",
    "\x1b[A": "up", "\x1b[B": "down", "\x1b[C": "right", "\x1b[D": "left",
    "\x1bOA": "up", "\x1bOB": "down", "\x1bOC": "right", "\x1bOD": "left",
    "\x1b[5~": "page up", "\x1b[6~": "page down",
}  # fmt: skip
_key = re.compile(r"\x1b(?:\[[0-9;]*[A-Za-z~]|O[A-Z])|.", re.DOTALL)
_is_unfinished = re.compile(rb"\x1b(\[[0-9;]*|O)?\Z").search
_PAGE_OF = {"d": "dead", "h": "help", "?": "help"}


@command("top", short_help="Watch events flow, live.")
@click.argument("files", metavar="[SETTINGS_FILE]...", nargs=-1, shell_complete=any_file)
def top(context: Context, files: tuple[str, ...]) -> int:
    """Show how events flow, each second: the state with its reason, rates, what waits by age, requests, dead
    letters by reason, the disk, and forecasts. Looking changes nothing, and holds up no producer and no
    daemon.

    With several SETTINGS_FILEs it shows their queues together, a line each, and one of them in detail:
    Tab and the arrows select it. On a host with a relay it shows the host's own queue and that of the
    server.

    \b
      p      pause delivery, or resume it; asks first
      f      let the daemon forget its current wait and try now
      d      why events were refused, by cause
      Tab    the next queue
      h, ?   help
      q      quit

    Whoever may only look at a queue can use all other keys. The ages by event's name say how many have
    waited for up to 5 s, a minute, ..., like Postfix's qshape; if more than 2,000 wait, they come from a
    sample of rows, scaled to the total. Rates are of the last minute; behind them stand the last minutes.

    A queue that can't be read shows the reason, until it can. It needs a terminal: `forwarder status --watch`
    does without. Where the locale's encoding is not UTF-8 it draws with ASCII, and with NO_COLOR set without
    colours.
    """
    from rich.console import Console
    from rich.live import Live

    if not (sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty()):
        raise UsageError("there is no terminal to draw on", "`forwarder status --watch` prints lines")
    console = Console(highlight=False)
    if console.is_dumb_terminal:
        raise UsageError("this terminal can't be drawn on", "`forwarder status --watch` prints lines")
    with ExitStack() as stack:
        news, wake = stack.enter_context(_news())
        watched = list(_watched(context, files, lambda: _wake(wake)))
        for each in watched:
            stack.callback(each.close)
            each.start()
        keyboard = sys.stdin.fileno()
        stack.enter_context(_single_keys(keyboard))
        live = Live(
            console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        stack.enter_context(live)
        return _loop(watched, console, live, keyboard, news)


def _watched(context: Context, files: Sequence[str], wake: Callable[[], None]) -> Iterator[Watched]:
    contexts = {file: Context(file) for file in files} or {"": context}
    stems = Counter(Path(file).stem for file in contexts)
    for file, each in contexts.items():
        stem = Path(file).stem
        name = stem if stems[stem] == 1 else file
        if server := each.server:
            yield Watched(name or "this host", each.queue, server, each.late_s, wake)
            yield Watched(f"{name} on the server" if name else "the server", server, None, each.late_s, wake)
        else:
            yield Watched(name, each.queue, None, each.late_s, wake)


def keys(typed: bytes) -> list[str]:
    """The keys in what was typed: characters, and names such as ``up`` of those that are none."""
    return [_NAMES.get(key, key) for key in _key.findall(typed.decode(errors="replace"))]


def press(key: str, state: State, watched: Sequence[Watched], page_height: int) -> bool:
    """What a key does. Returns whether to go on."""
    one = watched[state.selected]
    asked, state.asked, one.answer = state.asked, "", ""
    if asked:
        if key in ("y", "Y"):
            one.request(asked)
    elif key == "q":
        return False
    elif key == "p":
        state.asked = "resume" if one.look.found and one.look.found["paused"] else "pause"
    elif key == "f":
        one.request("flush")
    elif key in _PAGE_OF:
        page = _PAGE_OF[key]
        state.page, state.scroll = "flow" if state.page == page else page, 0
    elif key in ("enter", "escape"):
        state.page = "flow"
    elif state.page != "flow" and key in ("up", "down", "page up", "page down"):
        step = page_height if key.startswith("page") else 1
        state.scroll = max(0, state.scroll + (-step if key.endswith("up") else step))
    elif key in ("tab", "down", "right"):
        state.selected, state.scroll = (state.selected + 1) % len(watched), 0
    elif key in ("backtab", "up", "left"):
        state.selected, state.scroll = (state.selected - 1) % len(watched), 0
    return True


def _loop(watched: Sequence[Watched], console: Console, live: Live, keyboard: int, news: int) -> int:
    state = State()
    utf8 = is_utf8()
    shown: object = None
    while True:
        for index, each in enumerate(watched):
            each.detail(index == state.selected)
            if each.failure:
                raise each.failure
        one = watched[state.selected]
        state.message = one.answer
        width, height = console.size
        state.scroll = min(state.scroll, most_scroll(one.look, state, width, height))
        frame = render([each.look for each in watched], state, width, height, time.time(), utf8)
        if (frame, width) != shown:
            live.update(_Frame(frame), refresh=True)
            shown = frame, width
        ready, _, _ = select.select([keyboard, news], [], [], REDRAW_S)
        if news in ready:
            for number in os.read(news, 4096):
                if number in ENDING:
                    return 0 if number == signal.SIGINT else 128 + number
                if number == signal.SIGWINCH:
                    # There and back again leaves the screen cut, too.
                    shown = None
        if keyboard in ready:
            typed = _typed(keyboard)
            if not typed or not all(press(key, state, watched, height - 1) for key in keys(typed)):
                return 0


def _typed(keyboard: int) -> bytes:
    """What was typed; empty: the terminal is gone."""
    typed = b""
    with suppress(OSError):
        typed = os.read(keyboard, 1024)
        while _is_unfinished(typed) and select.select([keyboard], [], [], KEY_S)[0]:
            typed += os.read(keyboard, 1024)
    return typed


class _Frame:
    """The lines of a screen for rich."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        for line in self._lines:
            yield Segment(padded(line.text, options.max_width), console.get_style(line.style))
            yield Segment.line()


@contextmanager
def _news() -> Iterator[tuple[int, int]]:
    """A pipe that can be read when there is news: a byte for each signal, its number, and 0 from others."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    numbers = (*ENDING, signal.SIGWINCH)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield read, write
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        # A thread may still look, and wake: the pipe is closed with the process.


def _wake(write: int) -> None:
    # A full pipe wakes, too.
    with suppress(BlockingIOError):
        os.write(write, b"\0")


@contextmanager
def _single_keys(keyboard: int) -> Iterator[None]:
    """The terminal gives keys as they are typed, and Ctrl-Z is one of them: it would leave a shell with this
    screen."""
    before = termios.tcgetattr(keyboard)
    try:
        tty.setcbreak(keyboard)
        changed = termios.tcgetattr(keyboard)
        changed[6][termios.VSUSP] = b"\0"
        termios.tcsetattr(keyboard, termios.TCSANOW, changed)
        yield
    finally:
        # The terminal itself may be gone.
        with suppress(termios.error):
            termios.tcsetattr(keyboard, termios.TCSAFLUSH, before)
