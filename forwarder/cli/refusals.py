"""The refused lines of an input: the first are shown, the rest counted, and all can be kept in a file."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import FileIO

from forwarder.cli.stored import json_line, json_text
from forwarder.errors import CannotCreateError, StorageError, UsageError
from forwarder.text import kind_of, printable

# Line number, reason, and the line; None: it was too long to be read.
Refused = tuple[int, str, bytes | None]

MOST_SHOWN = 20
MOST_REASONS = 20
# How many different reasons are counted separately.
_MOST_COUNTED = 1000
# A live stream has no end, so counts are shown at intervals.
TELL_EACH_S = 60.0


class Refusals:
    """Reports refused lines, and keeps them.

    Args:
        say: Prints lines on standard error.
        keep: A file that gets them all; None: none are kept.
    """

    def __init__(self, say: Callable[[str], None], keep: FileIO | None = None) -> None:
        self._say = say
        self._keep = keep
        self._count = 0
        self._untold: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._tell_at = 0.0

    def keep(self, file: str, refused: Sequence[Refused]) -> None:
        """Write *refused* lines of *file* into the file that gets all, if there is one.

        Raises:
            StorageError: they can't be written.
        """
        if self._keep and refused:
            try:
                text = memoryview("".join(_kept(file, *one) for one in refused).encode())
                while text:
                    text = text[self._keep.write(text) :]
            except OSError as error:
                raise StorageError(f"can't write to the file of --rejects: {error.strerror}") from None

    def tell(self, file: str, refused: Sequence[Refused]) -> None:
        """Show *refused* lines of *file*, or count them; show the counts at intervals."""
        room = max(0, MOST_SHOWN - self._count)
        self._count += len(refused)
        if shown := refused[:room]:
            self._say("\n".join(f"{file}:{number}: {printable(reason)}" for number, reason, _ in shown))
        for _, reason, _ in refused[room:]:
            kind = kind_of(reason)
            if kind not in self._examples:
                if len(self._examples) == _MOST_COUNTED:
                    kind = ""
                else:
                    self._examples[kind] = printable(reason)
            self._untold[kind] += 1
        now = time.monotonic()
        if self._untold and now >= self._tell_at:
            if self._tell_at:
                self.tell_counts()
            self._tell_at = now + TELL_EACH_S

    def tell_counts(self) -> None:
        """Show how many were refused since the last time, and how many for each reason, with an example."""
        if not self._untold:
            return
        remedy = "" if self._keep else "; --rejects FILE keeps them all"
        lines = [f"{self._untold.total():,} more refused{remedy}:"]
        others = self._untold.pop("", 0)
        for kind, count in self._untold.most_common(MOST_REASONS):
            lines.append(f"{count:>9,}  {self._examples[kind]}")
        others += sum(count for _, count in self._untold.most_common()[MOST_REASONS:])
        if others:
            lines.append(f"{others:>9,}  other reasons")
        self._untold.clear()
        self._say("\n".join(lines))


@contextmanager
def open_rejects(path: str | None, inputs: Sequence[str]) -> Iterator[FileIO | None]:
    """The file that refused lines are appended to; None without a *path*.

    Raises:
        UsageError: it is one of the *inputs*.
        CannotCreateError: it can't be opened.
    """
    if path is None:
        yield None
        return
    if any(os.path.exists(path) and os.path.exists(name) and os.path.samefile(path, name) for name in inputs):
        raise UsageError(f"--rejects {path}: this file is also an input", "Use another file")
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", error)
        raise CannotCreateError(f"--rejects {path}: can't be written: {why}") from None
    with open(fd, "ab", buffering=0) as file:
        yield file


def _kept(file: str, number: int, reason: str, line: bytes | None) -> str:
    values = {"file": file, "line": number, "reason": reason}
    if line is not None and json_text(line) is None:
        try:
            return json.dumps({**values, "event": None, "text": line.decode()}) + "\n"
        except UnicodeDecodeError:
            pass
    return json_line(values, line or b"null") + "\n"
