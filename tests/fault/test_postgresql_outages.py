"""What befalls a server in use: restarts, a full disk, no connection left, long locks, a schema that is
dropped. No acknowledged event is lost, and the daemon goes on by itself."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from forwarder.errors import ConfigError, ForwarderError, TryAgainError
from forwarder.spool import EventQueue, SpoolFullError
from forwarder.spool.postgresql.address import Address
from forwarder.spool.postgresql.setup import setup
from tests.on_server import Remote, event, lines, long, proven
from tests.postgres import Server

ROOT = Path(__file__).parents[2]


class Load:
    """Threads that put events until the end of the block.

    Attributes:
        acknowledged, unknown: The numbers of events.
        errors: What was raised.
    """

    def __init__(self, address, **options):
        self.acknowledged, self.unknown, self.errors = [], [], []
        self._ended = threading.Event()
        self._queue = EventQueue(address.url, schema=address.schema, lock_timeout_s=2, **options)
        self._threads = [threading.Thread(target=self._work, args=(n * 10**6,)) for n in range(2)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        for thread in self._threads:
            thread.join(20)
        self._queue.close()

    def _work(self, number):
        while not self._ended.is_set():
            some = range(number, number + 20)
            number += 20
            try:
                self._queue.put_many(map(event, some))
                self.acknowledged += some
            except ForwarderError as error:
                self.errors.append(error)
                self.unknown += some


@pytest.fixture
def loaded(remote, server, until):
    """A daemon and a load; at the end of the block all goes on, and what was acknowledged is delivered."""
    with ExitStack() as stack:
        daemon = remote.daemon()
        load = stack.enter_context(Load(remote.address))
        until(lambda: len(load.acknowledged) > 100, "events are accepted")
        yield load
        for progress in (lambda: len(load.acknowledged), lambda: server.ledger.accepted):
            before = progress()
            until(lambda p=progress, b=before: p() > b + 100, "all goes on", 40)
        stack.close()
        until(lambda: remote.figures().waiting == 0, "all is delivered", 40)
        found = proven(remote.address, server, load.acknowledged, unknown=load.unknown)
        assert found.dead_lettered == 0
        assert daemon.process.poll() is None


@pytest.mark.parametrize("how", ["fast", "immediate", pytest.param("kill", marks=long)])
def test_restarts(loaded, postgres, until, how):
    """In order, at once, and by SIGKILL."""
    for _ in range(2):
        before = len(loaded.acknowledged)
        if how == "fast":
            postgres.stop()
        elif how == "kill":
            postgres.kill()
        else:
            postgres._process.send_signal(signal.SIGQUIT)
            postgres._process.wait(20)
            postgres._ended()
        until(lambda: loaded.errors, "it is seen")
        postgres.start()
        until(lambda b=before: len(loaded.acknowledged) > b + 100, "events are accepted")
    assert all(isinstance(error, TryAgainError) for error in loaded.errors)


def test_no_connection_is_left(loaded, remote, postgres, until):
    """Who has one goes on; who needs one is to try again."""
    with ExitStack() as stack:
        with suppress(psycopg.OperationalError):
            while True:
                stack.enter_context(psycopg.connect(postgres.url()))
        done = remote("status")
        assert (done.returncode, "too many clients" in done.stderr) == (75, True), done.stderr
        place = {"schema": remote.address.schema, "lock_timeout_s": 1}
        with EventQueue(remote.address.url, **place) as queue, pytest.raises(TryAgainError, match="too many"):
            queue.put(event(-1))
        before = len(loaded.acknowledged)
        until(lambda: len(loaded.acknowledged) > before + 100, "who has a connection goes on")
    assert not loaded.errors


def test_long_locks(loaded, remote, postgres, until):
    """What needs the table waits, and is to try again if it takes too long."""
    queue = f"{remote.address.schema}.queue"
    with psycopg.connect(postgres.url()) as connection:
        connection.execute(f"LOCK TABLE {queue} IN ACCESS EXCLUSIVE MODE")
        until(lambda: loaded.errors, "it takes too long")
    assert all(isinstance(error, TryAgainError) for error in loaded.errors)
    for statement in ("ALTER TABLE {} ADD x int", "VACUUM FULL {}", "REINDEX TABLE {}"):
        postgres.execute(statement.format(queue))


def test_a_schema_that_is_dropped(remote, server, until):
    """The daemon says so, and goes on with the queue that is made in its place, which counts from 0."""
    daemon = remote.daemon()
    assert remote("enqueue", stdin=lines(1)).returncode == 0
    until(lambda: remote.figures().delivered == 1, "it is delivered")
    with psycopg.connect(remote.address.url) as connection:
        connection.execute(f"DROP SCHEMA {remote.address.schema} CASCADE")
    assert "`forwarder setup`" in daemon.wait_for("queue.failed")["detail"] + str(daemon.log)
    place = {"schema": remote.address.schema}
    with EventQueue(remote.address.url, **place) as queue, pytest.raises(ConfigError, match="no queue"):
        queue.put(event(2))
    setup(remote.address)
    assert remote("enqueue", stdin=lines(3)).returncode == 0
    until(lambda: "id-3" in server.ledger.events, "it goes on")
    until(lambda: remote.figures().delivered == 1, "it is settled")
    assert daemon.process.poll() is None


@pytest.fixture
def small():
    """A server on a disk of 200 MB of its own."""
    from tests.postgres import missing

    if why := missing():
        pytest.skip(why)
    place = Path(tempfile.mkdtemp(prefix="small-", dir="/tmp"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200M,mode=755", "none", place], capture_output=True
    )
    if mounted.returncode:
        place.rmdir()
        pytest.skip(f"no file system can be mounted: {mounted.stderr.decode().strip()}")
    place.chmod(0o755)
    try:
        with closing(Server(durable=False, parent=place)) as server:
            server.create(wal_keep_size="0", max_wal_size="64MB", min_wal_size="32MB")
            yield server
    finally:
        subprocess.run(["umount", "-l", place], check=True)
        place.rmdir()


def test_a_full_disk(small, server, until):
    """Events are refused, those that were accepted stay; with room again, all goes on."""
    address = Address(small.url(), standbys=0, lease_s=3)
    setup(address)
    remote = Remote(address, server.url)
    with closing(remote):
        remote("pause")
        daemon = remote.daemon()
        with Load(address) as load:
            until(lambda: len(load.acknowledged) > 100, "events are accepted")
            ballast = small.directory.parent / "ballast"
            with ballast.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(b"x" * 65536)
            until(lambda: load.errors, "it is full", 40)
            ballast.unlink()
            if small._process.poll() is not None:  # it ends if it can't write its log
                small._ended()
                small.start()
            before = len(load.acknowledged)
            until(lambda: len(load.acknowledged) > before + 100, "events are accepted", 40)
        assert all(isinstance(error, TryAgainError) for error in load.errors)
        assert any(isinstance(error, SpoolFullError) or "lost" in error.what for error in load.errors)
        until(lambda: remote("resume").returncode == 0, "it is resumed")
        until(lambda: remote.figures().waiting == 0, "all is delivered", 40)
        proven(address, server, load.acknowledged, unknown=load.unknown)
        assert daemon.process.poll() is None


def test_a_producer_that_forks_and_has_threads(remote, server):
    """Each process has a connection of its own; the parent's outlives the children's ends."""
    address = remote.address
    with EventQueue(address.url, schema=address.schema) as queue:
        queue.put(event(0))
        children = []
        for child in range(1, 4):
            pid = os.fork()
            if not pid:
                with suppress(BaseException):
                    threads = [
                        threading.Thread(target=lambda n=n: queue.put(event(n)))
                        for n in range(child * 10, child * 10 + 5)
                    ]
                    for thread in threads:
                        thread.start()
                    for thread in threads:
                        thread.join()
                    queue.close()
                    os._exit(0)
                os._exit(1)
            children.append(pid)
        queue.put(event(1))
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 3
        queue.put(event(2))
    expected = [0, 1, 2, *(child * 10 + n for child in range(1, 4) for n in range(5))]
    assert proven(address, server, expected).waiting == len(expected)


# In a process of its own: the alarm of this one is the test run's.
HANDLER = """
import itertools, json, signal, sys
from forwarder import EventQueue
from forwarder.errors import TryAgainError
from tests.on_server import event

heard = {}
numbers = itertools.count(1000)
with EventQueue(sys.argv[1], schema=sys.argv[2]) as queue:

    def handler(*_):
        number = next(numbers)  # of its own: another alarm may interrupt this one
        try:
            queue.put(event(number))
            heard[number] = ""
        except TryAgainError as error:
            heard[number] = str(error)

    signal.signal(signal.SIGALRM, handler)
    for number in range(200):
        # Once in each call, sooner or later.
        signal.setitimer(signal.ITIMER_REAL, 0.0001 * (number % 20 + 1))
        queue.put(event(number))
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.raise_signal(signal.SIGALRM)
print(json.dumps(heard))
"""


def test_a_signal_handler_that_puts(remote, server):
    """It is to try again if it has interrupted a call of the same queue; elsewhere it puts."""
    address = remote.address
    command = [sys.executable, "-c", HANDLER, address.url, address.schema]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    heard = json.loads(done.stdout)
    assert any(heard.values())
    assert not all(heard.values())
    proven(address, server, [*range(200), *(int(number) for number, error in heard.items() if not error)])


WARNS = """
    CREATE FUNCTION {schema}.audit() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN RAISE WARNING 'audit: %', TG_OP; RETURN NULL; END$$;
    CREATE TRIGGER audit AFTER INSERT OR DELETE ON {schema}.queue
        FOR EACH STATEMENT EXECUTE FUNCTION {schema}.audit();
    CREATE ROLE {schema}_old SUPERUSER LOGIN;
    ALTER ROLE {schema}_old SET standard_conforming_strings = off;
"""


def test_a_server_that_warns_of_something_else(remote, postgres, server, until):
    """That is no doubt about an acknowledgement: events are accepted and delivered."""
    schema = remote.address.schema
    postgres.execute(WARNS.format(schema=schema))
    remote.point_at(replace(remote.address, url=postgres.url(user=f"{schema}_old")))
    daemon = remote.daemon()
    assert remote("enqueue", stdin=lines(*range(10))).returncode == 0
    until(lambda: remote.figures().delivered == 10, "all is delivered")
    assert daemon.logged("queue.failed") == []


def test_a_row_that_is_too_large(remote, postgres, server, until):
    """Beyond any event it is a dead letter; beyond what a daemon can hold, the server refuses it."""
    insert = f"INSERT INTO {remote.address.schema}.queue (data) VALUES (convert_to(repeat('x', %s), 'UTF8'))"
    remote.daemon()
    postgres.execute(insert, 2**21)
    with pytest.raises(psycopg.errors.CheckViolation):
        postgres.execute(insert, 2**24 + 1)
    until(lambda: remote.figures().dead_letters == 1, "it is a dead letter")


@long
def test_a_settlement_that_is_held_up_costs_no_lease(remote, server, until):
    """While somebody has locked the rows the daemon stays the one that delivers, and its connections few."""
    address = replace(remote.address, lease_s=15)
    remote.point_at(address)
    daemon = remote.daemon()
    server.latency_s = 1.0
    assert remote("enqueue", stdin=lines(*range(10))).returncode == 0
    server.wait_for(lambda ledger: ledger.in_progress)
    with psycopg.connect(address.url) as other:
        other.execute(f"SELECT 1 FROM {address.schema}.queue FOR UPDATE")
        ends_at = time.monotonic() + 40
        until(lambda: not remote.spool.holder() or time.monotonic() > ends_at, "it is over", 60)
        assert remote.spool.holder().pid == daemon.process.pid
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'forwarder'"
        ((count,),) = other.execute(query).fetchall()
        assert count <= 6
    until(lambda: remote.figures().delivered == 10, "it is settled", 40)
    proven(address, server, range(10))
