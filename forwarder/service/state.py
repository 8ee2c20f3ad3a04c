"""What the daemon tells about itself: facts of its memory, in a file for `status`.

The durable figures are in the database. This file only holds what is lost with the daemon anyway, so it
is replaced, not synced, and it counts only while the daemon that wrote it holds the instance lock.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass

from forwarder.service.instance import holder

FILE_MODE = 0o640


@dataclass(frozen=True, slots=True)
class DaemonState:
    """A running daemon, as of ``updated_at`` (seconds since the epoch).

    ``state`` is one of ``running``, ``backing_off``, ``blocked``, ``paused``; ``in_flight`` counts events,
    ``failures`` the tries in a row that failed.
    """

    pid: int
    state: str = "running"
    state_reason: str = ""
    in_flight: int = 0
    connections: int = 0
    last_error: str = ""
    failures: int = 0
    started_at: float = 0.0
    updated_at: float = 0.0


def write(path: str, state: DaemonState) -> None:
    """Replace the state file; a full disk is no reason to stop, so errors are passed over."""
    target = _file(path)
    with contextlib.suppress(OSError):
        fd = os.open(target + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, FILE_MODE)
        with open(fd, "w", encoding="utf-8") as file:
            os.fchmod(fd, FILE_MODE)
            json.dump(asdict(state), file)
        os.replace(target + ".new", target)


def remove(path: str) -> None:
    """Take the state file away."""
    with contextlib.suppress(OSError):
        os.unlink(_file(path))


def read(path: str) -> DaemonState | None:
    """The state of the daemon that delivers from the queue in *path*; None: none does."""
    pid = holder(path)
    if pid is None:
        return None
    try:
        with open(_file(path), encoding="utf-8") as file:
            state = DaemonState(**json.load(file))
    except (OSError, ValueError, TypeError):
        return DaemonState(pid, state_reason="starting")
    return state if state.pid == pid else DaemonState(pid, state_reason="starting")


def _file(path: str) -> str:
    return os.path.join(path, "daemon.json")
