"""The forwarder's log: one line for one thing, on standard error or in the journal.

Messages are ``noun.verb`` with fields: ``log.info("batch.delivered", events=2000)``. Control characters
are escaped, so that an entry is always one line. Secrets and event payloads are not logged. A line that
can't be written now (disk full, terminal held, pipe not read) is dropped, because logging must not stop
delivery. Before the next line that can be written, ``log.dropped`` says how many are missing.

========  =====================================  ==================================================
style     when ``auto``                          a line
========  =====================================  ==================================================
console   standard error is a terminal           time, level, message, ``key=value``; tracebacks below
journal   it is the journal (systemd)            an entry with a sentence, a priority and all fields
json      anything else: file, pipe, container   one JSON object, ASCII only
========  =====================================  ==================================================

Times are UTC, ISO 8601, with milliseconds; the journal keeps its own.
"""

from __future__ import annotations

import io
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

from forwarder.log import journald, lines
from forwarder.log.repeats import Repeat, Repeats

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

# How long to wait for a slow reader in the middle of a line.
STUCK_S = 0.05

__all__ = ["Repeat", "Repeats", "configure", "get", "style"]


def configure(level: str = "info", format: str = "auto", stream: IO[str] | None = None) -> None:
    """Log to *stream* from now on (None: standard error). May be called again, as on a reload.

    What libraries log through :mod:`logging` at warning or above is logged too, as ``library.logged``.

    Args:
        level: debug, info, warning or error.
        format: console, json, journal or auto (see above).
        stream: A text stream. With ``journal``, it is only used if the host has no journal.
    """
    import logging
    from datetime import UTC, datetime

    import structlog

    stream = sys.stderr if stream is None else stream
    sink = _SINKS[style(format, stream, os.environ)](stream)

    def line(
        _logger: Any, method: str, fields: MutableMapping[str, Any]
    ) -> tuple[tuple[Any], dict[str, Any]]:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        head: dict[str, Any] = {"timestamp": now, "level": method, "event": str(fields.pop("event", ""))}
        traceback = lines.traceback_of(fields.pop("exc_info", None))
        for name, value in fields.items():
            head[f"{name}_" if name in head else name] = lines.plain(value, name)
        if traceback:
            head["traceback"] = traceback
        return (head,), {}

    structlog.configure(
        processors=[line],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=False,  # a logger made before a reload follows it
    )

    class Libraries(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            log = get(record.name)
            tell = log.error if record.levelno >= logging.ERROR else log.warning
            tell("library.logged", message=record.getMessage(), exc_info=record.exc_info)

    Libraries.__qualname__ = "forwarder.Libraries"
    root = logging.getLogger()
    for handler in [old for old in root.handlers if type(old).__qualname__ == Libraries.__qualname__]:
        root.removeHandler(handler)
    root.addHandler(Libraries(logging.WARNING))


def get(name: str) -> FilteringBoundLogger:
    """The logger of the part called *name*. It follows :func:`configure`, also when that is called later."""
    import structlog

    if not structlog.is_configured():
        # By default structlog prints to standard output, where commands print their results.
        configure()
    logger: FilteringBoundLogger = structlog.get_logger(part=name)
    return logger


def style(format: str, stream: IO[str] | None, environ: Mapping[str, str]) -> str:
    """The format to use on this *stream* for the *format* of the settings: console, journal or json."""
    if format != "auto":
        return format
    try:
        if stream is not None and stream.isatty():
            return "console"
        status = os.fstat(stream.fileno()) if stream is not None else None
    except (OSError, ValueError):  # no file behind it
        return "json"
    # systemd.exec(5), JOURNAL_STREAM: device and inode of the journal's socket. A process started from
    # the service with its output sent elsewhere inherits the variable, hence the comparison.
    journal = status and f"{status.st_dev}:{status.st_ino}"
    return "journal" if journal and environ.get("JOURNAL_STREAM") == journal else "json"


class _Sink:
    """Writes or drops one line at a time. structlog calls the method named like the level."""

    def __init__(self, stream: IO[str] | None, line: Callable[[lines.Fields], str]) -> None:
        self._stream = stream
        self._line = line
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._lock = threading.RLock()
        self._dropped = 0
        self._is_torn = False

    def write(self, fields: lines.Fields) -> None:
        with self._lock:
            if self._dropped:
                told = {"timestamp": fields["timestamp"], "level": "warning", "event": "log.dropped"}
                if self._take(told | {"part": "log", "count": self._dropped}):
                    self._dropped = 0
            if self._dropped or not self._take(fields):
                self._dropped += 1

    debug = info = warning = error = critical = write

    def _take(self, fields: lines.Fields) -> bool:
        """Write a line. Returns False if it could not be written."""
        if self._stream is None:
            return True
        text = self._line(fields) + "\n"
        try:
            fd = _descriptor(self._stream)
            if fd is not None:
                return self._pass_on(fd, text.encode(self._encoding, "backslashreplace"))
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError, RuntimeError):
            # ENOSPC, EPIPE, closed, or a signal handler logs during another line: delivery must go on.
            return False
        return True

    def _pass_on(self, fd: int, data: bytes) -> bool:
        """Write what *fd* takes at once; wait `STUCK_S` at most for the rest of the line."""
        data = b"\n" * self._is_torn + data
        done, ends_at = 0, time.monotonic() + STUCK_S
        with suppress(OSError), _not_waiting(fd) as fd:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            while done < len(data):
                wait_s = ends_at - time.monotonic() if done else 0.0
                if not poll.poll(max(wait_s, 0.0) * 1000):
                    break
                # A writable pipe has room for this much.
                done += os.write(fd, data[done : done + select.PIPE_BUF])
        if done:
            self._is_torn = done < len(data)
        return done == len(data)


class _Journal(_Sink):
    """Writes to the journal. Without a journal, it writes lines with a priority to the stream."""

    def __init__(self, stream: IO[str] | None) -> None:
        super().__init__(stream, lines.as_prefixed)

    def _take(self, fields: lines.Fields) -> bool:
        is_taken = journald.send(fields)
        return super()._take(fields) if is_taken is None else is_taken


def _descriptor(stream: IO[str]) -> int | None:
    try:
        return stream.fileno()
    except io.UnsupportedOperation:
        return None


@contextmanager
def _not_waiting(fd: int) -> Iterator[int]:
    """Our own descriptor for a terminal, else *fd*.

    A terminal is writable when it has room for one byte, and then waits for more. It must not be made
    non-blocking through a descriptor that others share, such as the shell.
    """
    own = None
    if os.isatty(fd):
        with suppress(OSError):
            own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        yield fd if own is None else own
    finally:
        if own is not None:
            os.close(own)


_SINKS: Mapping[str, Callable[[IO[str] | None], _Sink]] = {
    "console": lambda stream: _Sink(stream, lines.as_console),
    "journal": _Journal,
    "json": lambda stream: _Sink(stream, lines.as_json),
}
