"""The formats of a log line, and how values are prepared for them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from itertools import islice
from typing import Any

from forwarder.text import printable

SECRET_NAMES = ("secret", "token", "password", "passwd", "authorization", "api_key", "apikey")
PAYLOAD_NAMES = ("data", "properties", "payload")

# The journal takes lines of up to 48 KiB (LineMax=, journald.conf(5)); a server's HTML page is longer.
MOST_TEXT = 2000
MOST_TRACEBACK = 16_000
MOST_ITEMS = 50
MOST_DEPTH = 4

# Levels of syslog(3), which sd-daemon(3) reads from the start of a line.
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
INFORMATIONAL = 6

Fields = Mapping[str, Any]


def plain(value: Any, name: str = "", depth: int = 0) -> Any:
    """*value* of the field *name* as JSON takes it: cut to size, without secrets and payloads."""
    lowered = name.lower().replace("-", "_")
    if lowered.endswith(SECRET_NAMES) and value is not None:
        return "[not shown]"
    if lowered in PAYLOAD_NAMES:
        return "[event data is not logged]"
    # JSON has neither infinity nor NaN; no comparison is true for NaN.
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
        # A failing __str__ must not end the daemon.
        return f"[{type(value).__name__} can't be shown: {type(error).__name__}]"
    text = re.sub(r"//[^/@\s]*@", "//[not shown]@", text)  # the user and password of a URL
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def traceback_of(exc_info: Any) -> str:
    """The traceback of an exception, cut to size; "" for none. True means the one being handled."""
    if not exc_info:
        return ""
    import traceback

    if isinstance(exc_info, BaseException):
        error: BaseException | None = exc_info
    else:
        error = exc_info[1] if isinstance(exc_info, tuple) else sys.exc_info()[1]
    return _text("".join(traceback.format_exception(error)).rstrip(), MOST_TRACEBACK) if error else ""


def as_json(fields: Fields) -> str:
    """One JSON object, ASCII only."""
    return json.dumps(fields)


def as_prefixed(fields: Fields) -> str:
    """A line with its priority in front, see sd-daemon(3), and without the time."""
    fields = dict(fields)
    level = fields.pop("level")
    del fields["timestamp"]
    return f"<{PRIORITIES.get(level, INFORMATIONAL)}>{printable(fields.pop('event'))}{pairs(fields)}"


def as_console(fields: Fields) -> str:
    """For people, with a traceback below."""
    fields = dict(fields)
    traceback = fields.pop("traceback", "")
    below = "".join(f"\n    | {printable(line)}" for line in traceback.splitlines())
    time, level, event = (fields.pop(name) for name in ("timestamp", "level", "event"))
    return f"{time} {level:<7} {printable(event)}{pairs(fields)}{below}"


def pairs(fields: Fields) -> str:
    """`` key=value`` for each field, quoted where a value needs it."""
    return "".join(f" {printable(name)}={_quoted(value)}" for name, value in fields.items())


def _quoted(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[^\s\"'=\\]+", value):
        return printable(value)
    return printable(json.dumps(value, ensure_ascii=False))
