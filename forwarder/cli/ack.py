"""``enqueue --ack``: an answer to each line, for programs that keep the pipe open."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING

from forwarder.cli.interrupts import Interrupts
from forwarder.errors import InputError, StorageError, TryAgainError
from forwarder.records.reading import Source, StoppedError
from forwarder.records.reading.array import SPARE_BYTES
from forwarder.text import printable

if TYPE_CHECKING:
    from forwarder.cli.insert_ids import InsertIds
    from forwarder.records.kind import Kind
    from forwarder.spool import Producer


def answer(kind: Kind, insert_ids: InsertIds | None, store: Producer, rules: bool) -> int:
    """Answer the lines of standard input on standard output, in order, until the input ends.

    What has come together is stored in one commit. The answer is the id of the stored record, or ``refused``
    or ``later``, and the reason.

    Args:
        insert_ids: Accepts the records; None: as the *kind* does.
        rules: Whether Mixpanel's rules are checked.

    Returns:
        the exit code.

    Raises:
        InputError, StorageError: standard input or output is closed or can't be used; also `BrokenPipeError`.
        ForwarderError: the queue can't be used; the lines without an answer are not stored.
    """
    if sys.stdin is None:
        raise InputError("standard input is closed", "Give it the lines")
    if sys.stdout is None:
        raise StorageError("standard output is closed", "Open it for the answers")
    with Interrupts() as interrupts:
        try:
            for lines in _lines(Source(0, interrupts.fd, gather_s=0.0), kind.max_bytes + SPARE_BYTES):
                answers = _answers(lines, kind, insert_ids, store, rules)
                # UTF-8, as the lines: what is stored must get its answer, whatever the locale can't write.
                sys.stdout.buffer.write("".join(f"{each}\n" for each in answers).encode(errors="replace"))
                sys.stdout.buffer.flush()
        except StoppedError:
            return interrupts.exit_code()
    return 0


def _lines(source: Source, most: int) -> Iterator[list[bytes]]:
    """The lines that have come; of one with more than *most* bytes, one more than that."""
    rest = b""
    for block in iter(source.read_block, b""):
        *lines, rest = (rest + block).split(b"\n")
        rest = rest[: most + 1]
        if lines:
            yield [line[: most + 1] for line in lines]
    if rest:
        yield [rest]


def _answers(
    lines: Sequence[bytes], kind: Kind, insert_ids: InsertIds | None, store: Producer, rules: bool
) -> Iterator[str]:
    records, refused = (insert_ids or kind).accept_many(lines, time.time_ns() // 1_000_000, rules)
    reasons = dict(refused)
    store.refuse(Counter(map(kind.word_for, reasons.values())))
    reasons |= {index: "the line is blank" for index, line in enumerate(lines) if not line.strip()}
    ids: Iterator[object] = iter(())
    if records:
        try:
            ids = iter(store.append(records))
        except TryAgainError as error:
            ids = repeat(f"later {printable(str(error))}")
    for index in range(len(lines)):
        yield f"refused {printable(reasons[index])}" if index in reasons else str(next(ids))
