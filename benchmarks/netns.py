"""Two network namespaces with a cable between them, for what loopback can't do: slow links, dead addresses.

Only root can make them; they are gone at the end.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CLIENT, CLIENT_LATER = "10.9.0.1", "10.9.0.2"
SERVER, SERVER_LATER = "10.9.0.11", "10.9.0.12"
DEAD = "10.9.0.3"  # takes nothing, and says nothing; nearer to the client, so that it is tried first
_CLONE_NEWNET = 0x40000000
_numbers = itertools.count()


class Pair:
    """The namespaces `client` and `server`; the server has two addresses."""

    def __init__(self) -> None:
        name = f"forwarder-bench-{os.getpid()}-{next(_numbers)}"
        self.client, self.server = f"{name}-client", f"{name}-server"
        self._hosts = Path("/etc/netns", self.client, "hosts")

    @property
    def inside(self) -> tuple[str, ...]:
        """What to write in front of a command for it to run in the client's."""
        return ("ip", "netns", "exec", self.client)

    def resolve(self, name: str, *addresses: str) -> None:
        """Let *name* be at *addresses*, also for a process that runs there already."""
        self._hosts.write_text("".join(f"{address} {name}\n" for address in addresses))

    def resolved(self, name: str) -> str:
        """The address that a program there tries first."""
        return _run(*self.inside, "getent", "ahosts", name).split()[0]

    def narrow(self, rate: str) -> None:
        """Let the client send no faster than *rate*, with the queue of a small router."""
        shaped = ("root", "tbf", "rate", rate, "burst", "5k", "latency", "1s")
        _run("tc", "-n", self.client, "qdisc", "add", "dev", "cable", *shaped)

    def forget(self) -> None:
        """Lose all connections in silence, as NAT does: new ones come from another address."""
        _run("ip", "-n", self.client, "address", "add", f"{CLIENT_LATER}/24", "dev", "cable")
        _run("ip", "-n", self.client, "route", "change", "10.9.0.0/24", "dev", "cable", "src", CLIENT_LATER)
        # With rp_filter, what has no way back is dropped as it comes in.
        _run("ip", "-n", self.server, "route", "add", "blackhole", f"{CLIENT}/32")

    def make(self) -> None:
        """Lay the cable."""
        self._hosts.parent.mkdir(parents=True)
        self._hosts.touch()
        for space in (self.client, self.server):
            _run("ip", "netns", "add", space)
        ends = ("type", "veth", "peer", "name", "cable", "netns", self.server)
        _run("ip", "link", "add", "cable", "netns", self.client, *ends)
        for space, *addresses in ((self.client, CLIENT), (self.server, SERVER, SERVER_LATER)):
            for address in addresses:
                _run("ip", "-n", space, "address", "add", f"{address}/24", "dev", "cable")
            for link in ("lo", "cable"):
                _run("ip", "-n", space, "link", "set", link, "up")
        elsewhere = ("lladdr", "02:00:00:00:00:01")
        _run("ip", "-n", self.client, "neighbour", "add", DEAD, *elsewhere, "dev", "cable")
        strict = "echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter"
        _run("ip", "netns", "exec", self.server, "sh", "-c", strict)

    def remove(self) -> None:
        """Take away what was made of it."""
        for space in (self.client, self.server):
            subprocess.run(["ip", "netns", "delete", space], stderr=subprocess.DEVNULL, check=False)
        with suppress(OSError):
            self._hosts.unlink()
            os.removedirs(self._hosts.parent)


@contextmanager
def pair() -> Iterator[Pair]:
    """A pair for a while."""
    made = Pair()
    try:
        made.make()
        yield made
    finally:
        made.remove()


def missing() -> str:
    """Why there can be none here; empty: there can."""
    for command in ("ip", "tc", "openssl", "curl"):
        if shutil.which(command) is None:
            return f"there is no command {command}"
    try:
        with pair() as made:
            made.narrow("1mbit")
    except (OSError, subprocess.CalledProcessError) as error:
        return str(getattr(error, "stderr", None) or error).strip()
    return ""


def enter(name: str) -> None:
    """Move the calling thread, and those it starts, into a namespace; Python has a call for it since 3.12."""
    with open(f"/run/netns/{name}") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
