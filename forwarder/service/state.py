"""What the daemon reports about itself, from its memory, for `status`.

The durable figures are in the queue. This has only what is lost with the daemon anyway. It is
valid while the daemon that reported it delivers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from forwarder import spool
from forwarder.config import Settings
from forwarder.config.settings import Queue
from forwarder.delivery.report import Postponed
from forwarder.errors import ForwarderError
from forwarder.spool import Presence, Spool
from forwarder.text import printable

PUBLISH_S = 0.2
# A turn that waits for locks, for 10 s each, does not hang.
STALLED_S = 60.0
MOST_REASON = 200


@dataclass(frozen=True, slots=True)
class DaemonState:
    """A running daemon, as of ``updated_at``; instants are seconds since the epoch.

    ``state`` is one of ``running``, ``backing_off``, ``blocked``, ``paused``, and has been it since
    ``state_since``, 0: not known; ``next_try_at``, 0: none is planned; ``in_flight`` counts events,
    ``failures`` the failed tries in a row. ``orphaned`` says what only those files hold that were moved,
    deleted or replaced under the daemon. ``requests`` counts requests since its start by outcome. In
    ``kinds`` each kind of records has its own ``state``, ``state_reason`` and ``in_flight``; all else is of
    events, and ``state`` the worst of them. When read, each kind has a ``deferred`` list of `Postponed`, too,
    ``pid`` is 0 if the process is not visible, and ``host`` is as in `Holder`.
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
    kinds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    started_at: float = 0.0
    updated_at: float = 0.0
    host: str = ""
    state_since: float = 0.0
    next_try_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What the loop reports at each turn, for other threads, as of *beat_at* (monotonic).

    Attributes:
        trouble: Why the daemon is not ready: the queue can't be used, or it is stopping; "": it is ready.
    """

    state: DaemonState
    settings: Settings
    trouble: str
    beat_at: float

    @property
    def stall(self) -> str:
        """Why the loop seems to hang; "": it has turned lately."""
        age_s = time.monotonic() - self.beat_at
        return f"the loop has not turned for {age_s:.0f} s" if age_s > STALLED_S else ""


class Publisher:
    """Keeps the state that *presence* reports up to date; for one thread.

    Args:
        deferred: What is deferred of each kind. It is asked for what is reported only.
    """

    def __init__(self, presence: Presence, deferred: Callable[[], Mapping[str, Sequence[Postponed]]]) -> None:
        self._presence = presence
        self._deferred = deferred
        self._told: DaemonState | None = None
        self._told_at = float("-inf")

    def publish(self, state: DaemonState, now: float) -> bool:
        """Report a change of state or reason at once, and a change of a figure soon.

        Args:
            now: Any clock that doesn't go back, in seconds.

        Returns:
            whether there was a change.
        """
        told = self._told
        if told == state:
            return False
        is_same = told is None or (told.state, told.state_reason) == (state.state, state.state_reason)
        if is_same and now < self._told_at + PUBLISH_S:
            return True
        report = asdict(replace(state, updated_at=time.time()))
        for name, found in self._deferred().items():
            report["kinds"][name]["deferred"] = [asdict(each) for each in found]
        is_told = self._presence.tell(report)
        self._told, self._told_at = state if is_told else None, now
        return True


def read(queue: Spool) -> DaemonState | None:
    """The state of the daemon that delivers from the queue; None: there is none.

    A halted daemon is blocked, whatever it reported before.

    Raises:
        ForwarderError: as `Spool.holder`.
    """
    holder = queue.holder()
    if holder is None:
        return None
    process = {"pid": holder.pid, "host": holder.host}
    try:
        told = DaemonState(**{"state_reason": "" if holder.told else "starting", **holder.told, **process})
    except TypeError:  # written by another version
        told = DaemonState(holder.pid, state_reason="starting", host=holder.host)
    if not holder.halted:
        return told
    halted: dict[str, Any] = {"state": "blocked", "state_reason": holder.halted}
    kinds = {name: {**each, **halted} for name, each in told.kinds.items()}
    return replace(told, **halted, state_since=0.0, next_try_at=0.0, kinds=kinds)


def summary(queue: Queue, state: str, reason: str) -> str:
    """The status on one line, for ``systemctl status``; *state* and *reason* are the daemon's.

    >>> summary(settings.queue, "backing_off", "connection refused")  # doctest: +SKIP
    'backing off: 1,234 events wait, 0.0 delivered a second over the last minute; connection refused'
    """
    figures = _told(queue)
    why = f"; {printable(reason)[:MOST_REASON]}" if reason else ""
    return f"{state.replace('_', ' ')}{figures}{why}"


def _told(queue: Queue) -> str:
    events, *others = spool.each(queue)
    try:
        # Without waiting: the loop must not stop here.
        with events.view(timeout_s=0) as view:
            found = view.figures()
        updates = 0
        for each in others:
            with each.view(timeout_s=0) as view:
                updates += view.figures().due
    except (ForwarderError, OSError):
        return ""
    wait = "event waits" if found.due == 1 else "events wait"
    more = f"; {updates:,} update{'s wait' if updates > 1 else ' waits'}" if updates else ""
    return f": {found.due:,} {wait}, {found.rate_1m:,.1f} delivered a second over the last minute{more}"
