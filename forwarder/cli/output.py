"""Standard output that reports why it can't be written, and standard error that never fails."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from forwarder.errors import StorageError


class OutputError(StorageError):
    """Standard output can't be written: a full disk, a faulty device."""


class _Output(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            # Without its errno: click would exit with 1 because of it.
            raise BrokenPipeError("standard output has no reader any more") from None
        except OSError as error:
            raise OutputError(f"can't write to standard output: {error.strerror}") from None


class _Errors(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            # There is no one to tell; the exit code still says how the command ended.
            return memoryview(data).nbytes


@contextmanager
def guarded() -> Iterator[None]:
    """Inside it, printing raises `BrokenPipeError` or `OutputError`, and no other system error.

    A standard output or error that is not this process's own, as in a test, is left alone.
    """
    before = sys.stdout, sys.stderr
    # None: closed when the process started.
    if (out := sys.__stdout__) and out is sys.stdout:
        sys.stdout = _wrapped(_Output, out)
    if (err := sys.__stderr__) and err is sys.stderr:
        sys.stderr = _wrapped(_Errors, err)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def discard_rest() -> None:
    """Discard what is still buffered for standard output, or the interpreter would fail at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _wrapped(kind: type[io.FileIO], stream: TextIO) -> TextIO:
    raw = kind(stream.fileno(), "w", closefd=False)
    line_buffering = bool(getattr(stream, "line_buffering", False))
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=line_buffering
    )
