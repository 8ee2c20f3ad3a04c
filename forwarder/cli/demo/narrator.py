"""The demo's output: headings, one line for each event, and a table at the end."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from forwarder.text import printable

_WHO = 9
_INDENT = " " * (9 + _WHO + 1)
_NARROWEST = 30
_GAP = "  "


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # rich would end the process with 1; the command line handles this itself.
        raise BrokenPipeError


class Narrator:
    """Prints; on a terminal wrapped to its width, elsewhere as plain lines of any length."""

    def __init__(self) -> None:
        self._console = _Console(highlight=False, markup=False, emoji=False)
        self._began_at = time.monotonic()
        self._headings = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began_at

    def heading(self, text: str) -> None:
        """Start a numbered part."""
        self._headings += 1
        self._print(Text(f"\n{self._headings}. {text}", "bold"))

    def happens(self, who: str, what: str, style: str = "") -> None:
        """Say what *who* does, and when."""
        head = f"{self.elapsed_s:5.1f} s  "
        self._print(
            Text.assemble((head, "dim"), (f"{who:<{_WHO}} ", "cyan"), (self._wrapped(what, _INDENT), style))
        )

    def adds(self, what: str) -> None:
        """More about the line before."""
        self._print(Text(_INDENT + self._wrapped(what, _INDENT), "dim"))

    def says(self, what: str, style: str = "") -> None:
        """Say something in general."""
        self._print(Text(self._wrapped(what, ""), style))

    def shows(self, text: str) -> None:
        """Print lines as they are."""
        self._print(Text(text))

    def tabulates(self, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table of figures; the first column holds names, the last row totals."""
        widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
        rule = "-" * (sum(widths) + len(_GAP) * (len(widths) - 1))
        self._print(Text(_joined(titles, widths), "bold"))
        self._print(Text(rule, "dim"))
        for row in rows[:-1]:
            self._print(Text(_joined(row, widths)))
        self._print(Text(rule, "dim"))
        self._print(Text(_joined(rows[-1], widths), "bold"))

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)

    def _wrapped(self, text: str, indent: str) -> str:
        text = printable(text)
        if not self._console.is_terminal:
            return text
        room = max(self._console.width - len(indent), _NARROWEST)
        lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
        return f"\n{indent}".join(lines)


def _joined(cells: Sequence[str], widths: Sequence[int]) -> str:
    name, *figures = zip(cells, widths, strict=True)
    return _GAP.join([name[0].ljust(name[1]), *(figure.rjust(width) for figure, width in figures)])
