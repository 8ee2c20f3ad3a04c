"""What the daemon tells about itself: facts of its memory, for `status`.

The durable figures are in the queue. This only holds what is lost with the daemon anyway, and it counts only
while the daemon that has told it delivers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from forwarder import spool
from forwarder.config import Settings
from forwarder.errors import ForwarderError, printable
from forwarder.spool import Presence, Spool

PUBLISH_S = 0.2
# A turn that has to wait for locks, for 10 s each, is no hanging one.
STALLED_S = 60.0
MOST_REASON = 200


@dataclass(frozen=True, slots=True)
class DaemonState:
    """A running daemon, as of ``updated_at``; instants are seconds since the epoch.

    ``state`` is one of ``running``, ``backing_off``, ``blocked``, ``paused``; ``in_flight`` counts events,
    ``failures`` the tries in a row that failed; ``orphaned`` says what only files hold that were moved,
    deleted or replaced under the daemon; ``requests`` counts those since its start by their outcome. As it
    is read, ``pid`` is 0 where the process can't be seen.
    """

    pid: int
    state: str = "running"
    state_reason: str = ""
    in_flight: int = 0
    connections: int = 0
    last_error: str = ""
    last_error_at: float = 0.0
    failures: int = 0
    orphaned: str = ""
    requests: Mapping[str, int] = field(default_factory=dict)
    started_at: float = 0.0
    updated_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What the loop says of itself at each turn, for other threads to read, as of *beat_at* (monotonic).

    Attributes:
        trouble: Why the daemon can't take part: the queue can't be used, or it is about to end; "": it can.
    """

    state: DaemonState
    settings: Settings
    trouble: str
    beat_at: float

    @property
    def stall(self) -> str:
        """Why the loop must be taken for hanging; "": it has turned lately."""
        age_s = time.monotonic() - self.beat_at
        return f"the loop has not turned for {age_s:.0f} s" if age_s > STALLED_S else ""


class Publisher:
    """Keeps what is told by *presence* up to date; for one thread."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._told: DaemonState | None = None
        self._told_at = float("-inf")

    def publish(self, state: DaemonState, now: float) -> bool:
        """Tell a change of state or reason at once, and of a figure, which may change all the time, soon.

        Args:
            now: Any clock that doesn't go back, in seconds.

        Returns:
            whether there was one.
        """
        told = self._told
        if told == state:
            return False
        is_same = told is None or (told.state, told.state_reason) == (state.state, state.state_reason)
        if is_same and now < self._told_at + PUBLISH_S:
            return True
        is_told = self._presence.tell(asdict(replace(state, updated_at=time.time())))
        self._told, self._told_at = state if is_told else None, now
        return True


def read(queue: Spool) -> DaemonState | None:
    """The state of the daemon that delivers from the queue; None: none does.

    One that is halted is blocked, whatever it has told before.

    Raises:
        ForwarderError: as `Spool.holder`.
    """
    holder = queue.holder()
    if holder is None:
        return None
    pid = holder.pid
    try:
        told = DaemonState(**{"state_reason": "" if holder.told else "starting", **holder.told, "pid": pid})
    except TypeError:  # of another version
        told = DaemonState(pid, state_reason="starting")
    if holder.is_halted:
        reason = f"process {pid} is halted by a signal; `kill -CONT {pid}` lets it go on"
        return replace(told, state="blocked", state_reason=reason)
    return told


def summary(path: str, state: str, reason: str) -> str:
    """How things are, on one line, as ``systemctl status`` shows them; *state* and *reason* are the daemon's.

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
    wait = "event waits" if found.due == 1 else "events wait"
    return f": {found.due:,} {wait}, {found.rate_1m:,.1f} delivered a second over the last minute"
