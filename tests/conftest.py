"""What the tests share: a queue of their own, a server of their own, real processes, and the oracle."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from forwarder import spool
from forwarder.cli import main
from forwarder.sandbox import Sandbox
from forwarder.spool import EventQueue, Figures
from forwarder.spool.sqlite.consumer import Consumer
from tests import processes

# Programs that are started below nohup ignore it, and so would those that are tested.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

if TYPE_CHECKING:
    from tests.postgres import Server
    from tests.postgres_cluster import Cluster

TOKEN = "sandbox-token"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads this host's settings, secrets or queue."""
    for name in list(os.environ):
        if name.startswith(("FORWARDER_", "PG")) or name in ("CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET"):
            monkeypatch.delenv(name)
    nowhere = tmp_path / "no-settings.toml"
    nowhere.touch()
    monkeypatch.setenv("FORWARDER_CONFIG", str(nowhere))


# For tests that are not about files: with the queue in a directory, and on a server.
each_engine = pytest.mark.parametrize("queue_path", ["directory", "server"], indirect=True)


@pytest.fixture
def queue_path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where the test's queue is; nothing is there yet. With `each_engine` also the URL of an empty queue."""
    if getattr(request, "param", "directory") == "directory":
        yield str(tmp_path / "queue")
        return
    from forwarder.spool.postgresql.address import Address
    from forwarder.spool.postgresql.setup import setup

    server: Server = request.getfixturevalue("postgres")
    # A database for each: the schema is not part of a URL.
    database = server.new_schema_name()
    server.execute(f"CREATE DATABASE {database}")
    setup(Address(server.url(database), standbys=0))
    yield server.url(database)
    server.execute(f"DROP DATABASE {database} WITH (FORCE)")


@pytest.fixture
def queue(queue_path: str) -> Iterator[EventQueue]:
    """A producer's way into the test's queue, which it makes."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        yield queue


@pytest.fixture
def consumer(queue: EventQueue, queue_path: str) -> Iterator[Consumer]:
    """The daemon's side of the test's queue."""
    consumer = Consumer(queue_path)
    yield consumer
    consumer.close()


@pytest.fixture
def server() -> Iterator[Sandbox]:
    """A stand-in for Mixpanel, on a port of its own."""
    with Sandbox(token=TOKEN) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server for tests of what it does, not of what survives: fast, and shared by all, in which
    each takes a schema of its own."""
    from tests.postgres import Server, missing

    if why := missing():
        pytest.skip(why)
    with closing(Server(durable=False)) as server:
        server.create()
        yield server


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A replicated PostgreSQL for a module's tests; who can't rely on the test before begins with `mend`."""
    from tests.postgres import missing
    from tests.postgres_cluster import Cluster

    if why := missing():
        pytest.skip(why)
    with closing(Cluster()) as cluster:
        cluster.create()
        yield cluster


@pytest.fixture
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local times are in UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def until(condition: Callable[[], Any], what: str = "", timeout_s: float = 20.0) -> Any:
    """Wait until *condition* returns something true, and return it; fail after *timeout_s*."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, f"still not so after {timeout_s} s: {what or condition}"
        pause.wait(0.005)
    return found


@pytest.fixture
def run(
    queue_path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[Any, str, str]]:
    """Run a command in this process; returns exit code, output and errors."""

    def command(*arguments: str) -> tuple[Any, str, str]:
        for name, value in place_of(queue_path).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main([*arguments])
        return ended.value.code, *capsys.readouterr()

    return command


def place_of(queue_path: str) -> dict[str, str]:
    """The variables that lead to a test's queue."""
    if queue_path.startswith("postgresql://"):
        # A killed daemon's lease must end before the next one delivers.
        lease = {"FORWARDER_QUEUE_LEASE_S": "2"}
        return {"FORWARDER_QUEUE_URL": queue_path, "FORWARDER_QUEUE_STANDBYS": "0", **lease}
    return {"FORWARDER_QUEUE_PATH": queue_path}


class Forwarder:
    """The command, run as real processes with settings for one queue and one server."""

    def __init__(self, queue_path: str, url: str) -> None:
        self.queue_path = queue_path
        self.environ = {
            **os.environ,
            **place_of(queue_path),
            "FORWARDER_MIXPANEL_TOKEN": TOKEN,
            "FORWARDER_MIXPANEL_URL": url,
            "FORWARDER_DELIVERY_LINGER_S": "0.05",
            "FORWARDER_DELIVERY_RETRY_INITIAL_S": "0.05",
            "FORWARDER_DELIVERY_RETRY_MAX_S": "0.2",
            "FORWARDER_QUEUE_MIN_FREE_BYTES": "0",
            "FORWARDER_LOG_FORMAT": "json",
        }
        #: Each process is an interpreter of its own from its start on, for tests of what that takes.
        self.is_fresh = False
        #: What each process calls first, as `processes.Process` takes it.
        self.before: Sequence[str] = ()
        self._daemons: list[Daemon] = []

    def __call__(
        self, *arguments: str, stdin: str | bytes = b"", timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        given = stdin.encode() if isinstance(stdin, str) else stdin
        read_from, write_to = os.pipe()
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            files = (read_from, output.fileno(), errors.fileno())
            process = processes.start(arguments, self.environ, files, self.before, is_fresh=self.is_fresh)
            os.close(read_from)
            with suppress(BrokenPipeError), open(write_to, "wb") as pipe:
                pipe.write(given)
            try:
                code = process.wait(timeout_s)
            finally:
                process.kill()
            output.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(
                arguments, code, output.read().decode(), errors.read().decode()
            )

    def json(self, *arguments: str) -> dict[str, Any]:
        """Run a command that prints one JSON object, and return that."""
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def daemon(self, *, wait: bool = True, **environ: str) -> Daemon:
        """Start the daemon; with *wait*, return once it has said that it is ready."""
        started = self.start("run", **environ)
        if wait:
            started.wait_for("daemon.started")
        return started

    def start(self, *arguments: str, **environ: str) -> Daemon:
        """Start a command that goes on and logs."""
        started = Daemon({**self.environ, **environ}, arguments, before=self.before, is_fresh=self.is_fresh)
        self._daemons.append(started)
        return started

    def close(self) -> None:
        """Kill what still runs."""
        for daemon in self._daemons:
            daemon.close()


class Daemon:
    """A running daemon, or what else goes on and logs, and what it has logged.

    Args:
        command: What to start in its place.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        arguments: Sequence[str] = (),
        command: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        *,
        before: Sequence[str] = (),
        is_fresh: bool = False,
    ) -> None:
        read_from, write_to = os.pipe()
        self.process: Any
        if command:
            self.process = subprocess.Popen(command, env=environ, stderr=write_to, pass_fds=pass_fds)
        else:
            with open(os.devnull) as nothing:
                files = (nothing.fileno(), 1, write_to)
                self.process = processes.start(arguments, environ, files, before, is_fresh=is_fresh)
        os.close(write_to)
        self._stderr = os.fdopen(read_from, encoding="utf-8")
        self.log: list[dict[str, Any]] = []
        self.other_output: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self._stderr:
            with self._news:
                try:
                    self.log.append(json.loads(line))
                except ValueError:
                    self.other_output.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def wait_for(self, event: str, timeout_s: float = 20) -> dict[str, Any]:
        """Wait for a log line of that name, and return its fields."""

        def found() -> dict[str, Any] | None:
            return next((line for line in self.log if line["event"] == event), None)

        with self._news:
            assert self._news.wait_for(found, timeout_s), (event, self.log, self.other_output)
        line = found()
        assert line is not None
        return line

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log lines of that name so far."""
        return [line for line in self.log if line["event"] == event]

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        self.process.wait(20)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(40)

    def close(self) -> None:
        """Make sure that it is gone."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(20)
        self._reader.join(20)
        self._stderr.close()


@pytest.fixture
def forwarder(queue_path: str, server: Sandbox) -> Iterator[Forwarder]:
    """The command with settings for this test's queue and server."""
    command = Forwarder(queue_path, server.url)
    yield command
    command.close()


def rows(queue_path: str, table: str = "ack_queue_default") -> list[bytes]:
    """The events that stand in a table, as their bytes, read from the file or the server."""
    if queue_path.startswith("postgresql://"):
        import psycopg

        table = "queue" if table == "ack_queue_default" else table
        with psycopg.connect(queue_path) as server:
            found = server.execute(f"SELECT data FROM forwarder.{table} ORDER BY id").fetchall()
        return [bytes(data) for (data,) in found]
    connection = sqlite3.connect(f"file:{queue_path}/data.db?mode=ro", uri=True)
    try:
        return [bytes(data) for (data,) in connection.execute(f"SELECT data FROM {table} ORDER BY rowid")]
    finally:
        connection.close()


def insert_id_of(data: bytes) -> str:
    """An event's identity."""
    return str(json.loads(data)["properties"]["$insert_id"])


def balanced(queue_path: str, server: Sandbox, offered: Iterable[bytes]) -> None:
    """The oracle: every offered event is delivered, dead or waiting, once and unchanged; no other is. And the
    books are in order.

    Args:
        offered: The final bytes of each event that a producer was told is accepted.
    """
    expected = {insert_id_of(data): data for data in offered}
    delivered = {entry_id: entry.data for entry_id, entry in server.ledger.events.items()}
    dead = {insert_id_of(data): data for data in rows(queue_path, "dead_letters")}
    waiting = {insert_id_of(data): data for data in rows(queue_path)}
    # A batch whose reply got lost is delivered and still waiting: it will be sent again.
    found = {**waiting, **dead, **delivered}
    assert not dead.keys() & waiting.keys(), "an event is both dead and waiting"
    assert not dead.keys() & delivered.keys(), "an event is both dead and delivered"
    assert expected.keys() - found.keys() == set(), "lost"
    assert found.keys() - expected.keys() == set(), "never offered"
    changed = [key for key, data in expected.items() if found[key] != data]
    assert changed == [], "changed on the way"
    assert not any(entry.changed for entry in server.ledger.events.values()), "a repeat differed"
    figures(queue_path)


@pytest.fixture
def oracle() -> Callable[[str, Sandbox, Iterable[bytes]], None]:
    """`balanced`, for test modules."""
    return balanced


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., Any]:
    """`until`, for test modules."""
    return until


@pytest.fixture(name="rows")
def rows_fixture() -> Callable[..., list[bytes]]:
    """`rows`, for test modules."""
    return rows


def sql(queue_path: str, statement: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
    """Run a statement on the queue's database past the forwarder, and commit it."""
    connection = sqlite3.connect(f"{queue_path}/data.db", isolation_level=None, timeout=10)
    try:
        return connection.execute(statement, tuple(values)).fetchall()
    finally:
        connection.close()


@pytest.fixture(name="sql")
def sql_fixture() -> Callable[..., list[tuple[Any, ...]]]:
    """`sql`, for test modules."""
    return sql


def figures(queue_path: str) -> Figures:
    """The durable figures, when database and books are proven sound."""
    with spool.at(queue_path).view() as view:
        assert [finding for finding in view.check() if not finding.ok] == []
        return view.figures()


@pytest.fixture(name="figures")
def figures_fixture() -> Callable[[str], Figures]:
    """`figures`, for test modules."""
    return figures
