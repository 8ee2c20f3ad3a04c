"""Words, numbers and times as a person reads them: plain text that is as good in a pipe."""

from __future__ import annotations

import re
from datetime import UTC, datetime

# What is quoted may have such marks, too: rather the mark that no word follows. A long reason is cut off.
_quotation = re.compile(
    r"""(["'])(?:(?:\\.|(?!\1(?!\w)).)+\1(?!\w)|(?:(?!\1).)+\1)|(?<!\w)["']\S.*""", re.DOTALL
).sub
# What differs between mistakes of one kind: numbers, and quoted text that is not a path.
_detail = re.compile(
    r"('(?:properties|event|time|distinct_id|\$insert_id)\b(?:[^'\\]|\\.)*')|'(?:[^'\\]|\\.)*'"
    r'|"(?:[^"\\]|\\.)*"|\d+'
).sub
_index = re.compile(r"\d+").sub


def printable(text: str) -> str:
    """Foreign *text* on one line, safe for a terminal: control characters are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def size(count: int) -> str:
    """*count* bytes, in the largest unit that is not below 1."""
    if count < 1024:
        return f"{count} B"
    value, unit = count / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if value < 1023.95:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f} {unit}"


def counted(count: int, noun: str) -> str:
    """``1 event``, ``1,234 events``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def duration(seconds: float) -> str:
    """``3 s``, ``12 min``, ``5 h 12 min``, ``3 d 4 h``."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def rate(value: float) -> str:
    """How many there are in a time, of any size, with three digits: ``1,234``, ``12.5``, ``0.04``."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def latency(seconds: float) -> str:
    """How long a request took: ``250 ms``, ``1.25 s``, and as `duration` from 100 s on."""
    if seconds >= 99.95:
        return duration(seconds)
    return f"{seconds * 1000:.3g} ms" if 0 < seconds < 0.9995 else f"{seconds:.3g} s"


def since(at: float | None, now: float) -> float:
    """The seconds from *at* to *now*; 0 if a clock was set back, or if *at* is no time at all."""
    # What an external producer wrote into a row's timestamp may be any value.
    return max(0.0, now - at) if isinstance(at, (int, float)) and abs(at) < 1e12 else 0.0


def instant(at: float | None) -> str | None:
    """Seconds since the epoch as ISO 8601 in UTC; None for what is no time."""
    try:
        moment = datetime.fromtimestamp(at, UTC) if at is not None else None
    except (ValueError, OverflowError, OSError, TypeError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") if moment else None


def seconds_of(at: str) -> float:
    """The seconds since the epoch of which `instant` has made *at*."""
    return datetime.fromisoformat(at).timestamp()


def as_sentence(text: str) -> str:
    """*text* with a capital at its beginning and a full stop at its end."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def unquoted(reason: str) -> str:
    """*reason* without what it quotes."""
    return _quotation("…", reason)


def kind_of(reason: str) -> str:
    """*reason* without what differs between mistakes of one kind, so without the event's values."""
    return _detail(lambda found: _index("…", found[1] or "…"), reason)
