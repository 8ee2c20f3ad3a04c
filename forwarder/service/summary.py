"""How things are, on one line: what ``systemctl status`` shows of the daemon."""

from __future__ import annotations

from forwarder import spool
from forwarder.errors import ForwarderError, printable

MOST_REASON = 200


def summary(path: str, state: str, reason: str) -> str:
    """State, depth and rate of the queue in *path*, and why it is in that *state*.

    >>> summary("/var/lib/forwarder", "backing_off", "connection refused")  # doctest: +SKIP
    'backing off: 1,234 events wait, 0.0 delivered a second over the last minute; connection refused'
    """
    figures = _figures(path)
    why = f"; {printable(reason)[:MOST_REASON]}" if reason else ""
    return f"{state.replace('_', ' ')}{figures}{why}"


def _figures(path: str) -> str:
    try:
        # Not waiting: the loop has better things to do.
        with spool.at(path).view(timeout_s=0) as view:
            found = view.figures()
    except (ForwarderError, OSError):
        return ""
    wait = "event waits" if found.waiting == 1 else "events wait"
    return f": {found.waiting:,} {wait}, {found.rate_1m:,.1f} delivered a second over the last minute"
