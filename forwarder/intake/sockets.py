"""The sockets that the intake listens on: systemd's, a Unix socket for a group, a TCP port."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from forwarder.config.addresses import host_and_port
from forwarder.config.settings import Intake
from forwarder.errors import (
    CannotCreateError,
    ConfigError,
    ForwarderError,
    NotPermittedError,
    UnavailableError,
)

_FIRST_FD = 3  # sd_listen_fds(3)
BACKLOG = 1024
_MODE = 0o660


@dataclass(frozen=True, slots=True)
class Listening:
    """A socket that listens.

    Attributes:
        place: Where, for people.
        is_passed: It is systemd's.
        path: The file to remove at the end, whose inode is *inode*; "": none.
    """

    socket: socket.socket
    place: str
    is_passed: bool = False
    path: str = ""
    inode: int = 0

    @property
    def host(self) -> str:
        """The address that it listens on; "" for a Unix socket."""
        return str(self.socket.getsockname()[0]) if self.socket.family != socket.AF_UNIX else ""

    def close(self) -> None:
        """Listen no more. What systemd has passed stays open in systemd, and connections wait there."""
        self.socket.close()
        if self.path:
            with contextlib.suppress(OSError):
                if os.stat(self.path).st_ino == self.inode:
                    os.unlink(self.path)


def opened(intake: Intake, environ: Mapping[str, str]) -> list[Listening]:
    """Open what ``[intake]`` names; sockets that systemd has passed take the place of ``intake.socket``.

    Raises:
        ConfigError: there is nothing to listen on.
        UnavailableError: another process listens there.
        NotPermittedError, CannotCreateError: this user may not, or can't.
    """
    found = _passed(environ)
    try:
        if intake.socket and not found:
            try:
                found.append(unix(intake.socket))
            except ForwarderError as error:
                raise type(error)(f"intake.socket: {error.what}", error.remedy) from error
        if intake.listen and intake.listen not in [one.place.removeprefix("http://") for one in found]:
            found.append(_tcp(intake.listen))
    except BaseException:
        for one in found:
            one.close()
        raise
    if not found:
        raise ConfigError("there is nothing to listen on", "Give intake.socket or intake.listen")
    return found


def _passed(environ: Mapping[str, str]) -> list[Listening]:
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(environ.get("LISTEN_FDS", "0"))
    found = []
    for fd in range(_FIRST_FD, _FIRST_FD + count):
        os.set_inheritable(fd, False)
        ours = socket.socket(fileno=fd)
        ours.setblocking(False)
        found.append(Listening(ours, _place(ours), is_passed=True))
    return found


def _place(ours: socket.socket) -> str:
    name = ours.getsockname()
    if ours.family == socket.AF_UNIX:
        return f"unix:{name if isinstance(name, str) else name.decode(errors='replace')}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"


def unix(path: str) -> Listening:
    """Listen on a Unix socket for owner and group. Raises: as `opened`."""
    ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        _remove_stale(path)
        before = os.umask(0o777 & ~_MODE)
        try:
            ours.bind(path)
        finally:
            os.umask(before)
        ours.listen(BACKLOG)
        return Listening(ours, _place(ours), path=path, inode=os.stat(path).st_ino)
    except OSError as error:
        ours.close()
        what = f"can't listen on {path}: {error.strerror or error}"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise NotPermittedError(what, "Use a path in a directory of this user") from error
        raise CannotCreateError(what, "Use another path") from error
    except BaseException:
        ours.close()
        raise


def _remove_stale(path: str) -> None:
    """Remove the socket of a process that is gone."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{path} is in the way: it is no socket", "Use another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except (FileNotFoundError, TimeoutError, BlockingIOError):
            pass
    if os.path.lexists(path):
        raise UnavailableError(f"another process listens on {path}", "Stop it, or use another path")


def _tcp(address: str) -> Listening:
    host, port = host_and_port(address)
    host = "127.0.0.1" if host == "localhost" else host
    ours = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ours.bind((host, int(port)))
        ours.listen(BACKLOG)
    except OSError as error:
        ours.close()
        what = f"intake.listen: can't listen on {address}: {error.strerror}"
        if error.errno in (errno.EACCES, errno.EPERM):
            raise NotPermittedError(what, "Use a port of 1024 or higher") from error
        raise UnavailableError(what, "Stop the program that uses it, or use another port") from error
    return Listening(ours, _place(ours))
