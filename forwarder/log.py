"""How the forwarder tells what it does: one line for one thing, on standard error.

Messages are ``noun.verb`` with fields: ``log.info("batch.delivered", events=2000)``. Whatever a field
holds, a line stays one line: control characters are escaped. Secrets and event payloads are not logged.
A line that can't be written (disk full, reader gone) is dropped: logging stops nobody's work.

========  =====================================  ==================================================
style     when ``auto``                          a line
========  =====================================  ==================================================
console   standard error is a terminal           time, level, message, ``key=value``; tracebacks below
journal   it is the journal (systemd)            ``<6>message key=value``: the journal keeps the time
json      anything else: file, pipe, container   one JSON object, ASCII only
========  =====================================  ==================================================

Times are UTC, ISO 8601, with milliseconds.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import threading
from collections.abc import Mapping, MutableMapping
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from forwarder.errors import printable

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

SECRET_NAMES = ("secret", "token", "password", "passwd", "authorization", "api_key", "apikey")
PAYLOAD_NAMES = ("data", "properties", "payload")

# The journal takes lines of up to 48 KiB (LineMax=, journald.conf(5)); a far end's HTML page is longer.
MOST_TEXT = 2000
MOST_TRACEBACK = 16_000
MOST_ITEMS = 50
MOST_DEPTH = 4

# Levels of syslog(3), which sd-daemon(3) reads from the start of a line.
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}

Fields = MutableMapping[str, Any]


def configure(level: str = "info", format: str = "auto", stream: IO[str] | None = None) -> None:
    """Log from here on to *stream* (standard error when None); may be called again, as on a reload.

    What libraries log at warning or above by way of :mod:`logging` is logged too, as ``library.logged``.

    Args:
        level: debug, info, warning or error.
        format: console, json or auto (see above).
        stream: A text stream.
    """
    import logging
    from datetime import UTC, datetime

    import structlog

    stream = sys.stderr if stream is None else stream
    sink = _Sink(stream)
    renderer = {"console": _console, "journal": _journal, "json": _json}[style(format, stream, os.environ)]

    def line(_logger: Any, method: str, fields: Fields) -> str:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        head: Fields = {"timestamp": now, "level": method, "event": str(fields.pop("event", ""))}
        traceback = _traceback(fields.pop("exc_info", None))
        for name, value in fields.items():
            head[f"{name}_" if name in head else name] = plain(value, name)
        if traceback:
            head["traceback"] = traceback
        return renderer(head)

    structlog.configure(
        processors=[line],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=False,  # a logger got before a reload follows it
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
    """The logger of the *part* called *name*. It may be got before :func:`configure`, and follows it."""
    import structlog

    if not structlog.is_configured():
        # As it comes, structlog prints to standard output, where commands print their results.
        configure()
    logger: FilteringBoundLogger = structlog.get_logger(part=name)
    return logger


def style(format: str, stream: IO[str] | None, environ: Mapping[str, str]) -> str:
    """Which of console, journal and json the *format* of the settings means on this *stream*."""
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
    """Writes a line at a time. structlog calls the method named like the level."""

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream
        self._lock = threading.RLock()

    def write(self, line: str) -> None:
        if self._stream is None:
            return
        try:
            with self._lock:
                self._stream.write(line + "\n")
                self._stream.flush()
        except (OSError, ValueError, RuntimeError):
            # ENOSPC, EPIPE, closed, or a signal handler's line within another: delivery must go on.
            return

    debug = info = warning = error = critical = write


def plain(value: Any, name: str = "", depth: int = 0) -> Any:
    """*value* of the field *name* as JSON can hold it: cut to size, without secrets and payloads."""
    lowered = name.lower().replace("-", "_")
    if lowered.endswith(SECRET_NAMES) and value is not None:
        return "[not shown]"
    if lowered in PAYLOAD_NAMES:
        return "[event data is not logged]"
    # JSON has no infinity and no NaN, which no comparison holds for.
    if value is None or (isinstance(value, int | float) and abs(value) < 2**63):
        return value
    if depth < MOST_DEPTH and isinstance(value, Mapping):
        pairs = islice(value.items(), MOST_ITEMS)
        return {str(key): plain(item, str(key), depth + 1) for key, item in pairs}
    if depth < MOST_DEPTH and isinstance(value, list | tuple | set | frozenset):
        return [plain(item, "", depth + 1) for item in islice(value, MOST_ITEMS)]
    return _text(value, MOST_TEXT)


def _text(value: object, most: int) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    try:
        text = f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else str(value)
    except Exception as error:
        # Somebody's __str__ fails: that must not be what ends the daemon.
        return f"[{type(value).__name__} can't be shown: {type(error).__name__}]"
    text = re.sub(r"//[^/@\s]*@", "//[not shown]@", text)  # the user and password of a URL
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def _traceback(exc_info: Any) -> str:
    if not exc_info:
        return ""
    import traceback

    if isinstance(exc_info, BaseException):
        error: BaseException | None = exc_info
    else:
        error = exc_info[1] if isinstance(exc_info, tuple) else sys.exc_info()[1]
    return _text("".join(traceback.format_exception(error)).rstrip(), MOST_TRACEBACK) if error else ""


def _json(fields: Fields) -> str:
    return json.dumps(fields)


def _journal(fields: Fields) -> str:
    priority = PRIORITIES.get(fields.pop("level"), 6)
    del fields["timestamp"]
    return f"<{priority}>{printable(fields.pop('event'))}{_pairs(fields)}"


def _console(fields: Fields) -> str:
    traceback = fields.pop("traceback", "")
    below = "".join(f"\n    | {printable(line)}" for line in traceback.splitlines())
    time, level, event = (fields.pop(name) for name in ("timestamp", "level", "event"))
    return f"{time} {level:<7} {printable(event)}{_pairs(fields)}{below}"


def _pairs(fields: Fields) -> str:
    return "".join(f" {printable(name)}={_quoted(value)}" for name, value in fields.items())


def _quoted(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[^\s\"'=\\]+", value):
        return printable(value)
    return printable(json.dumps(value, ensure_ascii=False))


class Repeat(NamedTuple):
    """What to tell of a spell of failures: how many so far, and for how long."""

    failures: int
    for_s: float


class Repeats:
    """Tells transitions, not repetitions: what to log of a failure that goes on.

    The first failure of a spell is told, and so is each new reason; the same again only as a reminder,
    after *interval_s*, then after twice that, up to *longest_s*; then the recovery, once. Where there is no
    recovery to be seen, a spell ends when nothing has failed for *quiet_s*. It logs nothing itself. For one
    thread; *now* is any clock that doesn't go back, in seconds.

    >>> repeats = Repeats(interval_s=60)
    >>> [repeats.failed("timeout", now) for now in (0, 2, 61)]
    [Repeat(failures=1, for_s=0), None, Repeat(failures=3, for_s=61)]
    >>> repeats.recovered(70)
    Repeat(failures=3, for_s=70)
    """

    MOST_REASONS = 8  # a reason with a number in it would be new each time
    _wait_s: float
    _since: float
    _told_at: float
    _failed_at: float

    def __init__(
        self, interval_s: float = 60.0, longest_s: float = 3600.0, quiet_s: float = math.inf
    ) -> None:
        self._interval_s = interval_s
        self._longest_s = longest_s
        self._quiet_s = quiet_s
        self._forget()

    def failed(self, reason: str, now: float) -> Repeat | None:
        """What to log of this failure; None: nothing, it was told lately."""
        if now - self._failed_at >= self._quiet_s:
            self._forget()
        self._failed_at = now
        if self._count == 0:
            self._since = self._told_at = now
        self._count += 1
        if reason not in self._reasons and len(self._reasons) < self.MOST_REASONS:
            self._reasons.add(reason)
        elif now - self._told_at < self._wait_s:
            return None
        else:
            self._wait_s = min(2 * self._wait_s, self._longest_s)
        self._told_at = now
        return Repeat(self._count, now - self._since)

    def recovered(self, now: float) -> Repeat | None:
        """What to log of this success; None when nothing had failed before it."""
        if self._count == 0:
            return None
        repeat = Repeat(self._count, now - self._since)
        self._forget()
        return repeat

    def _forget(self) -> None:
        self._count = 0
        self._since = self._told_at = self._failed_at = 0.0
        self._wait_s = self._interval_s
        self._reasons: set[str] = set()
