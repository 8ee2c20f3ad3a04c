"""PostgreSQL servers for the tests, to be killed and hung.

What runs, and where it is stored, is gone when the test run ends, also if that is killed.
"""

from __future__ import annotations

import itertools
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from tests.conftest import until
from tests.processes import state_of

DEBIAN = Path("/usr/lib/postgresql")
SUPERUSER = "postgres"
HOST = "127.0.0.1"
# A socket's name below it must fit into the 107 bytes that the kernel takes.
LONGEST_DIRECTORY = 80
SETTINGS = {
    "listen_addresses": HOST,
    "max_connections": "60",
    "shared_buffers": "32MB",
    "wal_level": "replica",
    # In place of slots, which would have to be made anew on each new primary.
    "wal_keep_size": "512MB",
    # A standby that has lost its primary looks for it so often; by default every 5 s.
    "wal_retrieve_retry_interval": "100ms",
    # Its files are below the server's directory, and so gone with that, also after a kill.
    "dynamic_shared_memory_type": "mmap",
    "log_line_prefix": "%m [%p] %u@%d %a ",
}
# What is committed outlives a kill all the same, but not the machine's crash.
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}
# Told the number of the server that runs, or an empty line for none. The end of its input is the end of the
# test run, and of all that runs and stands in the directory.
GUARD = """
while read -r last; do server=$last; done
[ -z "$server" ] || kill -KILL "$server" $(cat "/proc/$server/task/$server/children")
segment=$(sed -n '7s/.* //p' "$1/data/postmaster.pid")
[ -z "$segment" ] || ipcrm -m "$segment"
rm -rf "$1" || { sleep 1; rm -rf "$1"; }
"""


def missing() -> str:
    """Why there can be no server here; empty if there can."""
    try:
        import psycopg  # noqa: F401  only to see whether it is there
    except ImportError as error:
        return f"psycopg can't be imported: {error}"
    if not _programs():
        return "no PostgreSQL server on this machine (Debian: postgresql)"
    try:
        _options()
    except KeyError:
        return f"PostgreSQL does not run as root, and there is no user {SUPERUSER}"
    return ""


def _programs() -> Path | None:
    """The directory of the newest server's programs."""
    versions = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    found = str(versions[-1]) if versions else shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def _place() -> Path:
    """Where servers' directories are made: the usual place, if a socket's name fits and all can get there."""
    usual = Path(tempfile.gettempdir())
    is_open = all(path.stat().st_mode & 0o001 for path in (usual, *usual.parents))
    return usual if is_open and len(str(usual)) <= LONGEST_DIRECTORY else Path("/tmp")


def _options() -> dict[str, Any]:
    """What each of PostgreSQL's programs is started with: not as root, and not with this host's settings."""
    options: dict[str, Any] = {"cwd": "/", "env": {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}}
    if os.geteuid() == 0:
        owner = pwd.getpwnam(SUPERUSER)
        options |= {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    return options


def _run(program: str, *arguments: str | Path) -> None:
    command = [_programs() / program, *arguments]
    done = subprocess.run(command, **_options(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"


def _free_port() -> int:
    """One that no client gets by chance while the server is down: below those that the kernel gives out."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def url_of(hosts: str, ports: str, database: str, user: str, parameters: dict[str, str]) -> str:
    """A URL of one host or of several, their names and ports with commas between them."""
    query = urlencode({"host": hosts, "port": ports, **parameters}, safe="/,")
    return f"postgresql://{quote(user, safe='')}@/{quote(database, safe='')}?{query}"


class Server:
    """A PostgreSQL server of its own: on 127.0.0.1, and with a socket in its directory. Whoever comes is let
    in, by the name they give.

    Args:
        name: Its ``cluster_name``; a standby's ``application_name``, too.
        durable: False makes it faster: a crash of the machine, but not of the server, loses what it holds.
        parent: Where its directory is made, for a disk of the test's own; user postgres must get there.
    """

    def __init__(self, name: str = "n1", *, durable: bool = True, parent: Path | None = None) -> None:
        self.name = name
        self.port = _free_port()
        self._settings = SETTINGS if durable else SETTINGS | NOT_DURABLE
        self.directory = Path(tempfile.mkdtemp(prefix="pg-", dir=parent or _place()))
        if os.geteuid() == 0:
            shutil.chown(self.directory, SUPERUSER, SUPERUSER)
        self._process: subprocess.Popen[bytes] | None = None
        self._schemas = itertools.count(1)
        # In a session of its own, as the server: Ctrl-C is for the tests.
        self._guard = subprocess.Popen(
            ["sh", "-c", GUARD, "guard", self.directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def data(self) -> Path:
        """Its data directory."""
        return self.directory / "data"

    @property
    def log(self) -> str:
        """What it has logged since it was made."""
        return (self.directory / "log").read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        """Whether it has been started, and neither stopped nor killed; a halted one is running."""
        return self._process is not None

    def url(
        self, database: str = "postgres", user: str = SUPERUSER, host: str = HOST, **parameters: str
    ) -> str:
        """Where it is, by TCP; with its directory as *host*, by its socket."""
        return url_of(host, str(self.port), database, user, parameters)

    def execute(self, statement: str, *values: Any, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a statement as superuser, commit it, and return its rows."""
        import psycopg

        url = self.url(database, host=str(self.directory), connect_timeout="10")
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def new_schema_name(self) -> str:
        """A name that no other test has got: cheaper than a database of its own. The schema is not made."""
        return f"test_{next(self._schemas)}"

    def create(self, **settings: str) -> None:
        """Make its data directory, with further settings if need be, and start it."""
        options = ["--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
        _run("initdb", "-D", self.data, "-U", SUPERUSER, *options)
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in (self._settings | settings).items())
        self.start()

    def follow(self, primary: Server) -> None:
        """Start it as a standby of *primary*, with a fresh copy of that one's data."""
        shutil.rmtree(self.data, ignore_errors=True)
        source = ["-h", HOST, "-p", str(primary.port), "-U", SUPERUSER]
        _run("pg_basebackup", *source, "-D", self.data, "-R", "-X", "stream", "-c", "fast", "--no-sync")
        self.start()

    def start(self) -> None:
        """Start it as what it was; returns when it takes connections."""
        assert not self.is_running, f"{self.name} is running"
        # On the command line, as the file of settings is copied from server to server.
        own = {"port": self.port, "unix_socket_directories": self.directory, "cluster_name": self.name}
        settings = [f"--{name}={value}" for name, value in own.items()]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_programs() / "postgres", "-D", self.data, *settings],
                **_options(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._tell_guard(self._process.pid)
        until(self._is_ready, f"{self.name} takes connections", 120)

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self.name} has ended: {self.log[-2000:]}"
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        # The file may be of a killed one before it.
        return len(lines) > 7 and lines[0] == str(self._process.pid) and lines[7].strip() == "ready"

    def stop(self) -> None:
        """Shut it down in order: it ends all connections, once each standby has all that it has."""
        assert self._process is not None, f"{self.name} is not running"
        self._process.send_signal(signal.SIGINT)
        self._process.wait(90)
        self._ended()

    def restart(self) -> None:
        """Shut it down in order and start it again."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """SIGKILL all its processes; it may be halted. Returns when they are gone."""
        assert self._process is not None, f"{self.name} is not running"
        # Or it would make new ones meanwhile.
        self._process.send_signal(signal.SIGSTOP)
        processes = [self._process.pid, *self._children()]
        for pid in processes:
            _signal(pid, signal.SIGKILL)
        self._process.wait(60)
        until(lambda: all(state_of(pid) in "ZX" for pid in processes), f"all of {self.name} is gone")
        # The kernel keeps its memory until it starts again here, or for ever.
        with suppress(FileNotFoundError, IndexError):
            segment = (self.data / "postmaster.pid").read_text().splitlines()[6].split()[1]
            subprocess.run(["ipcrm", "-m", segment], capture_output=True)
        self._ended()

    def halt(self) -> None:
        """SIGSTOP all its processes: it takes connections, as the kernel does that, and answers nothing."""
        assert self._process is not None, f"{self.name} is not running"
        _signal(self._process.pid, signal.SIGSTOP)
        until(lambda: state_of(self._process.pid) == "T", f"{self.name} is halted")
        for pid in (children := self._children()):
            _signal(pid, signal.SIGSTOP)
        until(lambda: all(state_of(pid) in "TZX" for pid in children), f"{self.name} is halted")

    def go_on(self) -> None:
        """Let a halted one go on."""
        assert self._process is not None, f"{self.name} is not running"
        for pid in [*self._children(), self._process.pid]:
            _signal(pid, signal.SIGCONT)

    def close(self) -> None:
        """Kill it if it runs, and remove all of it."""
        if self.is_running:
            self.kill()
        self._guard.stdin.close()
        self._guard.wait(60)

    def _children(self) -> list[int]:
        pid = self._process.pid
        try:
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            return []  # it has ended by itself

    def _ended(self) -> None:
        self._process = None
        self._tell_guard("")

    def _tell_guard(self, line: object) -> None:
        self._guard.stdin.write(f"{line}\n".encode())
        self._guard.stdin.flush()
