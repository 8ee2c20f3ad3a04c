"""What checks of every engine find alike."""

from __future__ import annotations

from forwarder.errors import TryAgainError
from forwarder.spool.values import FAIL, OK, WARNING, Finding
from forwarder.text import size

UNBALANCED = 1  # the exit code if the books do not balance
# With less than this share of queue.max_bytes left, there is still time to act.
_SCARCE = 0.1


def room(used: int, max_bytes: int) -> Finding:
    """How many bytes are used, of those that the settings allow."""
    detail = f"{size(used)} used; queue.max_bytes is {size(max_bytes)}"
    if used >= max_bytes:
        return Finding("room", FAIL, f"{detail}: new events are refused", TryAgainError.exit_code)
    return Finding("room", WARNING if used > max_bytes * (1 - _SCARCE) else OK, detail)
