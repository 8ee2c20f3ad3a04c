"""The progress of a long feed: a bar on a terminal, and lines of text that don't break it."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from forwarder.cli.output import discard_rest

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

SHOW_AFTER_S = 1.0
REFRESH_S = 0.1


class Progress:
    """A bar on standard error, after `SHOW_AFTER_S`, if that is a terminal and input is not.

    Args:
        names: The files that will be read; ``-`` is standard input.
    """

    def __init__(self, names: Sequence[str]) -> None:
        typed = "-" in names and sys.stdin is not None and sys.stdin.isatty()
        self._names = names if sys.stderr is not None and sys.stderr.isatty() and not typed else ()
        self._bar: Bar | None = None
        self._next_at = time.monotonic() + SHOW_AFTER_S

    def update(self, read_bytes: int, events: int) -> None:
        """Show that *read_bytes* of all files were read, and *events* events stored."""
        if self._names and time.monotonic() >= self._next_at:
            if self._bar is None:
                self._bar = _make_bar(_total_bytes(self._names))
            self._bar.update(self._bar.task_ids[0], completed=read_bytes, events=f"{events:,}", refresh=True)
            self._next_at = time.monotonic() + REFRESH_S

    def say(self, text: str) -> None:
        """Print *text* on standard error, above the bar; print nothing once its reader is gone."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            echo(text, err=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def echo(text: str, err: bool = False) -> None:
    """Print *text*; a reader that is gone does not stop the feed."""
    from forwarder.cli.table import say

    try:
        say(text, err)
    except BrokenPipeError:
        discard_rest()


def _total_bytes(names: Sequence[str]) -> int | None:
    """The size of all files together; None: not known, as with a pipe."""
    total = 0
    for name in names:
        try:
            found = os.stat(0 if name == "-" else name)
        except OSError:
            continue
        if not stat.S_ISREG(found.st_mode):
            return None
        total += found.st_size
    return total


def _make_bar(total_bytes: int | None) -> Bar:
    from rich import progress
    from rich.console import Console

    bar = progress.Progress(
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TextColumn("{task.fields[events]} events"),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
    )
    bar.add_task("", total=total_bytes, events="0")
    bar.start()
    return bar
