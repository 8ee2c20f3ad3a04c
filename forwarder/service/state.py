"""What the daemon tells about itself: facts of its memory, in a file for `status`.

The durable figures are in the database. This file only holds what is lost with the daemon anyway, so it
is replaced, not synced, and it counts only while the daemon that wrote it holds the instance lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass, replace

from forwarder.errors import ConfigError
from forwarder.service.instance import holder, open_file, token_of

FILE_MODE = 0o640
PUBLISH_S = 0.2


@dataclass(frozen=True, slots=True)
class DaemonState:
    """A running daemon, as of ``updated_at``; instants are seconds since the epoch.

    ``state`` is one of ``running``, ``backing_off``, ``blocked``, ``paused``; ``in_flight`` counts events,
    ``failures`` the tries in a row that failed; ``orphaned`` says what only files hold that were moved,
    deleted or replaced under the daemon; ``token`` is its lock's. As it is read, ``pid`` is 0 where the
    process can't be seen.
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
    token: str = ""
    started_at: float = 0.0
    updated_at: float = 0.0


class Publisher:
    """Keeps the state file of the queue in *path* up to date; for one thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._told: DaemonState | None = None
        self._told_at = 0.0

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
        is_same = told is not None and (told.state, told.state_reason) == (state.state, state.state_reason)
        if is_same and now < self._told_at + PUBLISH_S:
            return True
        self._told, self._told_at = state, now
        _write(self._path, replace(state, updated_at=time.time()))
        return True

    def remove(self) -> None:
        """Take the state file away."""
        with contextlib.suppress(OSError):
            os.unlink(_file(self._path))


def read(path: str) -> DaemonState | None:
    """The state of the daemon that delivers from the queue in *path*; None: none does.

    One that is halted is blocked, whatever it has told before.

    Raises:
        ForwarderError: as `holder`.
    """
    pid = holder(path)
    if pid is None:
        return None
    told = _read(path, pid)
    if _is_halted(pid):
        reason = f"process {pid} is halted by a signal; `kill -CONT {pid}` lets it go on"
        return replace(told, state="blocked", state_reason=reason)
    return told


def _read(path: str, pid: int) -> DaemonState:
    try:
        with open(open_file(_file(path)), encoding="utf-8") as file:
            state = DaemonState(**json.load(file))
    except ConfigError as error:
        return DaemonState(pid, state_reason=str(error))
    except (OSError, ValueError, TypeError):
        return DaemonState(pid, state_reason="starting")
    is_its = token_of(path) == state.token if state.token else state.pid == pid
    return replace(state, pid=pid) if is_its else DaemonState(pid, state_reason="starting")


def _is_halted(pid: int) -> bool:
    """Whether SIGSTOP or a debugger holds the process, which then can't tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # Behind the name, which may hold anything: proc_pid_stat(5).
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return False


def _write(path: str, state: DaemonState) -> None:
    target = _file(path)
    # A full disk is no reason to stop.
    with contextlib.suppress(OSError):
        # Made anew each time: what is there may be a pipe, which nobody reads from.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target + ".new")
        fd = os.open(target + ".new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        with open(fd, "w", encoding="utf-8") as file:
            os.fchmod(fd, FILE_MODE)
            json.dump(asdict(state), file)
        os.replace(target + ".new", target)


def _file(path: str) -> str:
    return os.path.join(path, "daemon.json")
