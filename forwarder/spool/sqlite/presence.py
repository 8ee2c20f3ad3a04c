"""Who delivers: one daemon per queue, the locks it holds, and what it reports about itself."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import struct
import uuid
from collections.abc import Mapping
from typing import Any

from forwarder.errors import ConfigError, ForwarderError
from forwarder.spool import engine
from forwarder.spool.errors import TakenError
from forwarder.spool.sqlite.directory import make_directory
from forwarder.spool.sqlite.errors import translated
from forwarder.spool.sqlite.lock import FLOCK, open_shared
from forwarder.spool.values import Holder

LOCK, STATE = "daemon.lock", "daemon.json"
STATE_MODE = 0o640


class Presence(engine.Presence):
    """Held while the daemon lives; the kernel releases it, however the daemon ends.

    A lock on the directory keeps others out: deleting a file does not remove it, and it leaves nothing
    behind. Once the queue is open, `announce` says who holds it.

    Attributes:
        token: Distinguishes this holder from all others: process ids mean nothing across containers.

    Raises:
        TakenError: another process holds it; the message says which.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.token = uuid.uuid4().hex
        self._fd: int | None = None
        with translated(path):
            make_directory(path)
            self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._directory)
            raise _taken(path) from None
        except OSError:
            pass  # the file system can't lock directories: there only the announcement keeps others out

    def announce(self) -> None:
        """With a POSIX record lock, whose holder others can query without taking it.

        The file must not be opened a second time in this process: closing it would drop the lock.
        """
        if self._is_announced():
            return
        with translated(self._path):
            fd = open_shared(_file(self._path))
        _must_be_file(fd, _file(self._path))
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise _taken(self._path) from None
        if self._fd is not None:
            os.close(self._fd)
        self._fd = fd
        with contextlib.suppress(OSError):  # not possible on a full disk
            os.ftruncate(fd, 0)
            os.pwrite(fd, self.token.encode(), 0)

    def keep(self) -> None:
        try:
            self.announce()
        except TakenError:
            raise
        except ForwarderError:
            pass

    def tell(self, state: Mapping[str, Any]) -> bool:
        # Replaced, not synced, because it is lost with the daemon anyway.
        file = os.path.join(self._path, STATE)
        try:
            # Created again each time: what is there may be a pipe without a reader.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file + ".new")
            fd = os.open(file + ".new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, STATE_MODE)
            with open(fd, "w", encoding="utf-8") as new:
                os.fchmod(fd, STATE_MODE)
                json.dump({**state, "token": self.token}, new)
            os.replace(file + ".new", file)
        except OSError:
            # A full disk is no reason to stop.
            with contextlib.suppress(OSError):
                os.unlink(file + ".new")
            return False
        return True

    def release(self) -> None:
        if self._is_announced():  # otherwise the files are those of a newer holder
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._path, STATE))
        for fd in (self._fd, self._directory):
            if fd is not None:
                os.close(fd)

    def _is_announced(self) -> bool:
        with contextlib.suppress(OSError):
            return self._fd is not None and os.path.samestat(os.stat(_file(self._path)), os.fstat(self._fd))
        return False


def holder(path: str) -> Holder | None:
    """The daemon that delivers from the queue in *path*, and its report; None: there is none.

    Raises:
        NotPermittedError: this user can't see it.
        ConfigError: something that is not a file is in the way.
        ForwarderError: the file system doesn't say.
    """
    with translated(path):
        try:
            fd = _open_file(_file(path))
        except FileNotFoundError:
            return None
        try:
            asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack(FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked))
            token = os.pread(fd, 64, 0).decode("ascii", "replace")
        finally:
            os.close(fd)
    return None if kind == fcntl.F_UNLCK else Holder(pid, _told(path, pid, token), _halted(pid))


def _told(path: str, pid: int, token: str) -> Mapping[str, Any]:
    """The daemon's report; empty if it is another daemon's, or can't be read."""
    try:
        with open(_open_file(os.path.join(path, STATE)), encoding="utf-8") as file:
            state = json.load(file)
        # On a full disk the lock has no token.
        is_its = state.pop("token") == token if token else state["pid"] == pid
    except ConfigError as error:
        return {"state_reason": str(error)}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}
    return state if is_its else {}


def _halted(pid: int) -> str:
    """That SIGSTOP or a debugger has stopped the process, so that it can't report; "": it is not so."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # After the name, which may contain anything: proc_pid_stat(5).
            is_halted = file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return ""
    return f"process {pid} is halted by a signal; `kill -CONT {pid}` continues it" if is_halted else ""


def _open_file(file: str) -> int:
    """Open *file* in the queue's directory to read it; never waits, whatever is there.

    Raises:
        ConfigError: it is a pipe or the like.
        OSError: as `os.open`; also if it is a link.
    """
    fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY)
    _must_be_file(fd, file)
    return fd


def _must_be_file(fd: int, file: str) -> None:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ConfigError(f"{file} is in the way: it is not a file", "Remove it")


def _taken(path: str) -> TakenError:
    found = None
    with contextlib.suppress(ForwarderError):
        found = holder(path)
    return TakenError(
        f"another daemon already delivers from {path}" + (f" ({found.name})" if found else ""),
        "Only one is allowed per queue: stop that one first, or set another queue.path",
    )


def _file(path: str) -> str:
    return os.path.join(path, LOCK)
