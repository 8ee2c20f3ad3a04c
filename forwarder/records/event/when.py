"""``time``, as given and as stored: whole seconds or milliseconds since the epoch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

# time is "seconds or milliseconds since epoch". 10**11 s is the year 5138, 10**11 ms is 1973.
MILLISECONDS_FROM = 10**11
MICROSECONDS_FROM = 10**14
NANOSECONDS_FROM = 10**17
EARLIEST_MS = 31_536_000_000  # 1971-01-01
MAX_AHEAD_MS = 3_600_000  # "more than 1 hour in the future"


def fault(time: float, now_ms: int) -> str:
    """What is wrong with *time* (seconds or milliseconds since the epoch), or ``""``."""
    milliseconds = time if time >= MILLISECONDS_FROM else time * 1000
    if milliseconds < EARLIEST_MS:
        return "must not be before 1971-01-01"
    if milliseconds > now_ms + MAX_AHEAD_MS or math.isinf(milliseconds):
        return "must not be in the future (more than 1 hour ahead of this host's clock)"
    return ""


def from_number(text: str, now_ms: int) -> int | None:
    """The value to store for the JSON number *text*, if it is not whole seconds or milliseconds already.

    A fraction is cut to whole milliseconds: the documented type is an integer, and SDKs send seconds with a
    fraction. Microseconds and nanoseconds are recognised by their size, unless they mean a future time.

    Returns:
        milliseconds since the epoch; before March 1973 seconds, for which milliseconds would be mistaken.
        None: keep the text.
    """
    given = float(text)
    if not EARLIEST_MS / 1000 <= given < 10**20 or (text.isdecimal() and given < MICROSECONDS_FROM):
        return None
    whole, _, fraction = text.partition(".")
    if given < MILLISECONDS_FROM and whole.isdecimal() and fraction.isdecimal():
        # As SDKs write it; a tenth of the time.
        milliseconds = int(whole) * 1000 + int(fraction[:3].ljust(3, "0"))
        return milliseconds if milliseconds >= MILLISECONDS_FROM else int(whole)
    # Loaded only when needed.
    from decimal import Decimal

    exact = Decimal(text)
    if given < MICROSECONDS_FROM:
        milliseconds = int(exact * 1000 if given < MILLISECONDS_FROM else exact)
        return milliseconds if milliseconds >= MILLISECONDS_FROM else int(exact)
    milliseconds = int(exact / (1000 if given < NANOSECONDS_FROM else 1_000_000))
    return None if fault(milliseconds, now_ms) else milliseconds


def from_text(text: str) -> int | None:
    """The time in *text*, ISO 8601 with Z or an offset, as `from_number` returns it; None: it is not one."""
    from datetime import datetime

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    time = from_moment(moment) if moment.tzinfo else MICROSECONDS_FROM
    return time if time < MICROSECONDS_FROM else None


def from_moment(moment: datetime) -> int:
    """An aware datetime, as `from_number` returns it."""
    from datetime import UTC, datetime, timedelta

    return from_milliseconds((moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1))


def from_milliseconds(since: int) -> int:
    """Milliseconds since the epoch, as `from_number` returns them."""
    return since if since >= MILLISECONDS_FROM else since // 1000
