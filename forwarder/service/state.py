"""What the daemon tells about itself: facts of its memory, for `status`.

The durable figures are in the queue. This only holds what is lost with the daemon anyway, and it counts only
while the daemon that has told it delivers.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace

from forwarder.spool import Presence, Spool

PUBLISH_S = 0.2


@dataclass(frozen=True, slots=True)
class DaemonState:
    """A running daemon, as of ``updated_at``; instants are seconds since the epoch.

    ``state`` is one of ``running``, ``backing_off``, ``blocked``, ``paused``; ``in_flight`` counts events,
    ``failures`` the tries in a row that failed; ``orphaned`` says what only files hold that were moved,
    deleted or replaced under the daemon. As it is read, ``pid`` is 0 where the process can't be seen.
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
    started_at: float = 0.0
    updated_at: float = 0.0


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


def read(spool: Spool) -> DaemonState | None:
    """The state of the daemon that delivers from the queue; None: none does.

    One that is halted is blocked, whatever it has told before.

    Raises:
        ForwarderError: as `Spool.holder`.
    """
    holder = spool.holder()
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
