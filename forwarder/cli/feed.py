"""Files of events into the queue: chunk by chunk, each in one commit, with the position always known."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple, cast

from forwarder.cli.ahead import ahead
from forwarder.cli.progress import Progress
from forwarder.cli.refusals import Refusals, Refused
from forwarder.errors import InputError, UsageError
from forwarder.records.reading import BrokenInputError, Chunk, Source, read_chunks, take_apart
from forwarder.spool import extend_runs
from forwarder.text import printable

if TYPE_CHECKING:
    from forwarder.cli.insert_ids import InsertIds
    from forwarder.cli.interrupts import Interrupts
    from forwarder.cli.resume import Resumption
    from forwarder.records.event.mapping import EventMapping
    from forwarder.records.kind import Kind
    from forwarder.records.reading.chunk import Record
    from forwarder.spool import Producer, Run

STDIN = "<stdin>"
MOST_MAPPED = 3


class UnreadableError(InputError):
    """This user has no permission to read a file."""

    exit_code = 77


class _Judged(NamedTuple):
    """A chunk: its accepted records, what is refused, and how often by which word."""

    chunk: Chunk
    records: list[bytes]
    refused: list[Refused]
    words: Counter[str]


class Feed:
    """Reads records of a *kind*, stores them and counts.

    Args:
        store: Commits accepted events, and counts refused ones; None to check them only.
        rules: Whether Mixpanel's rules are checked.
        skip: How many lines to skip, from the start of the first file.
        progress: Gets the position, and what can't be read.
        refusals: Gets what was refused.
        insert_ids: Accepts the events; None: as the kind does.
        resumption: Knows how far each file is in, in place of *skip*; None: each is read from its start.
        interrupts: Say when it must stop.
        mapping: Makes events of flat records and of a table's rows; None: of rows only, without options.
        form: The input's format, one of `FORMATS`.

    Attributes:
        accepted: How many events were stored, or are valid.
        refused: How many events, or lines without an event, were refused.
        lines: How many lines are done, skipped ones included.
        stored: The ids of those that were stored.
        mapped: The first `MOST_MAPPED` events that were made of rows or flat records.
        exit_code: 0, 65 if anything was refused, 66 if a file can't be read, 77 if that was a lack of
            permission: the highest that applies.
    """

    def __init__(
        self,
        kind: Kind,
        store: Producer | None,
        *,
        rules: bool,
        skip: int,
        progress: Progress,
        refusals: Refusals,
        insert_ids: InsertIds | None = None,
        resumption: Resumption | None = None,
        interrupts: Interrupts,
        mapping: EventMapping | None = None,
        form: str = "auto",
    ) -> None:
        self.accepted = self.refused = self.lines = self.exit_code = 0
        self.stored: list[Run] = []
        self.mapped: list[bytes] = []
        self._kind = kind
        self._store = store
        self._rules = rules
        self._skip = skip
        self._progress = progress
        self._refusals = refusals
        self._insert_ids = insert_ids
        self._resumption = resumption
        self._accept_many = (insert_ids or kind).accept_many
        self._interrupts = interrupts
        self._mapping = mapping
        self._form = form
        self._seen = 0  # lines that were read, stored or not
        self._read_bytes = 0  # of the files before the current one
        self._left_out: list[str] = []
        self._left_out_lines = 0

    def take(self, names: Sequence[str]) -> None:
        """Store the events of the files *names* in order; an unreadable file does not stop the others.

        Raises:
            StoppedError: woken; the complete lines that were read are stored.
            ForwarderError: a chunk can't be stored; the ones before it are stored.
        """
        for name in names:
            self._take_file(name)
        if self._skip > self.lines:
            raise InputError(
                f"--skip {self._skip}: the input has no more than {_lines(self.lines)}",
                "Nothing was stored; is it the same input as before?",
            )

    def how_to_go_on(self) -> str:
        """What is stored, and how to store the rest, after an early end."""
        verb = "is" if self.lines == 1 else "are"
        remedy = f"{_lines(self.lines)} {verb} {'done' if self._store else 'checked'}"
        if self._resumption:
            return f"{remedy}; the same command continues"
        remedy += f"; continue with --skip {self.lines - self._left_out_lines}"
        if self._left_out:
            remedy += f", leaving out {' '.join(map(printable, self._left_out))}"
        return remedy

    def _take_file(self, name: str) -> None:
        shown = STDIN if name == "-" else printable(name)
        before = self.lines
        try:
            with _opened(name) as fd:
                if self._resumption:
                    known = self._chunks(Source(fd, self._interrupts.fd), name)
                    self._skip = before + self._resumption.begin(name, fd, known)
                source = Source(fd, self._interrupts.fd)
                self._seen = self.lines
                judging = map(self._judge, self._chunks(source, name))
                # Closed before the file and the pipe are, whose numbers others may get.
                with closing(ahead(judging, self._interrupts.stop)) as all_judged:
                    for judged in all_judged:
                        self._take(shown, judged)
                        self._progress.update(self._read_bytes + source.read_bytes, self.accepted)
                self._read_bytes += source.read_bytes
        except UsageError as error:
            raise UsageError(f"{shown}: {error.what}", error.remedy) from None
        except InputError as error:
            done = self.lines - before
            if self._skip > self.lines:
                raise type(error)(f"{shown}: {error}", "Without it --skip can't be counted") from None
            self.exit_code = max(self.exit_code, error.exit_code)
            self.refused += isinstance(error, BrokenInputError)
            self._left_out.append(name)
            self._left_out_lines += done
            text, line = f"{shown}: {error}", getattr(error, "line", 0)
            if done:
                again = f"--skip {done}" if name == "-" else f"--skip {done} {shown}"
                if self._resumption:
                    again = "the same command"
                text = f"{shown}:{line or done + 1}: {error}. The rest was not read; fix it, then continue"
                text += f" with {again}"
            elif isinstance(error, BrokenInputError):
                text = f"{shown}:{line or 1}: {error}. Nothing of it was stored"
            self._progress.say(text)

    def _chunks(self, source: Source, name: str) -> Iterator[Chunk]:
        tables = self._kind.name == "event"
        return read_chunks(source, self._kind.max_bytes, tables, self._mapping, name, self._form)

    def _judge(self, chunk: Chunk) -> _Judged:
        """What of *chunk* is a record. In a thread of its own, chunk after chunk."""
        lines, numbers, mapping = chunk.lines, chunk.numbers, chunk.mapping
        behind = min(self._skip - self._seen, len(lines))
        self._seen += len(lines)
        if behind > 0:
            if self._insert_ids:
                self._insert_ids.see(_events(mapping, lines[:behind])[0])
            lines, numbers = lines[behind:], numbers[behind:]
        now_ms = time.time_ns() // 1_000_000
        records, found = self._accepted(mapping, lines, now_ms)
        refused: list[Refused] = [one for one in chunk.refused if numbers and one[0] >= numbers[0]]
        for index, reason in found:
            number, line = numbers[index], lines[index]
            parts = take_apart(line) if isinstance(line, bytes) else None
            if parts is None:
                refused.append((number, reason, _text_of(line)))
                continue
            more, bad = self._accepted(mapping, parts, now_ms)
            records += more
            which = f"event {{}} of {len(parts)}: " if len(parts) > 1 else ""
            refused += [(number, which.format(k + 1) + why, parts[k]) for k, why in bad]
        refused.sort(key=lambda one: one[0])
        words = Counter(self._kind.word_for(reason) for _, reason, _ in refused)
        if mapping is not None:
            refused = [(number, mapping.in_columns(reason), line) for number, reason, line in refused]
        return _Judged(chunk, records, refused, words)

    def _take(self, shown: str, judged: _Judged) -> None:
        """Store what was accepted, and tell what was refused."""
        chunk, records, refused, words = judged
        if chunk.mapping is not None:
            self.mapped += records[: MOST_MAPPED - len(self.mapped)]
        elif refused and refused[0][0] == 1 and (likeness := _likeness(shown, chunk.lines)):
            refused[0] = (1, f"{refused[0][1]}. {likeness}", refused[0][2])
        self._refusals.keep(shown, refused)
        is_open = chunk.is_cut and not records
        move = self._resumption.move(chunk, is_open=is_open) if self._resumption else None
        if self._store and (records or move):
            extend_runs(self.stored, self._store.append(records, move=move))
        self.lines += len(chunk.lines)
        self.accepted += len(records)
        if refused:
            self.refused += len(refused)
            self.exit_code = max(self.exit_code, 65)
            if self._store:
                self._store.refuse(words)
            self._refusals.tell(shown, refused)

    def _accepted(
        self, mapping: EventMapping | None, lines: Sequence[bytes | Record], now_ms: int
    ) -> tuple[list[bytes], list[tuple[int, str]]]:
        """`Kind.accept_many` of what *mapping* makes of *lines*."""
        events, unfit = _events(mapping, lines)
        accepted, found = self._accept_many(events, now_ms, self._rules)
        return accepted, sorted([*unfit, *found])


def _events(
    mapping: EventMapping | None, lines: Sequence[bytes | Record]
) -> tuple[Sequence[bytes], Sequence[tuple[int, str]]]:
    return mapping.events_of(lines) if mapping else (cast(Sequence[bytes], lines), ())


def _text_of(line: bytes | Record) -> bytes | None:
    """What --rejects keeps of a line or row."""
    if isinstance(line, bytes):
        return line
    from forwarder.records.event.mapping import text_of

    return text_of(line)


def _likeness(shown: str, lines: Sequence[bytes | Record]) -> str:
    """What a file with a refused first line looks like, and the command that converts it; or ""."""
    from shlex import quote

    first, second = ([line for line in lines[:2] if isinstance(line, bytes)] + [b"", b""])[:2]
    first = first.strip()
    file = "" if shown == STDIN or shown.endswith(".gz") else f" {quote(shown)}"
    if first == b"{":
        return f"One event per line is expected: jq -c .{file} | forwarder enqueue"
    if first.startswith(b'"{'):
        return f"It looks like JSON inside strings: jq -r .{file} | forwarder enqueue"
    if first.startswith(b"{"):
        return _flatness(first)
    if b"," in first or b";" in first or b"\t" in first:
        from forwarder.records.reading.table import is_like_a_table

        if is_like_a_table(first + b"\n" + second):
            return "It looks like a table: give --event NAME, or --event-column with the column that has it"
    return ""


def _flatness(line: bytes) -> str:
    """How to take a JSON record whose members are the properties; "": it is none."""
    from forwarder.records.event.mapping import read_record

    record = read_record(line) or {"properties": ""}
    if "properties" in record or any(key.startswith("$") for key in record):
        return ""
    option = (
        "--event-column event" if "event" in record else "--event NAME, or --event-column with its column"
    )
    return f"If its members are the properties: give {option}"


def _lines(count: int) -> str:
    # In the form that --skip takes.
    return "1 line" if count == 1 else f"{count} lines"


@contextmanager
def _opened(name: str) -> Iterator[int]:
    if name == "-":
        if sys.stdin is None:
            raise InputError("standard input is closed", "Name a FILE, or give an event with -e")
        yield 0
        return
    try:
        # Not blocking, or opening a FIFO would wait for its writer and ignore signals.
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        raise UnreadableError("can't be read: permission denied") from None
    except (OSError, ValueError) as error:
        raise InputError(f"can't be read: {getattr(error, 'strerror', error)}") from None
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise InputError("is a directory", "Name the files in it")
        yield fd
    finally:
        os.close(fd)
