"""The queue on a server: doors, daemons and commands as real processes, with books by content at the end."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from forwarder import spool
from forwarder.errors import TryAgainError
from forwarder.records import KINDS
from forwarder.spool import EventQueue
from forwarder.spool.postgresql.address import Address
from forwarder.spool.postgresql.schema import VERSION
from forwarder.spool.postgresql.setup import setup
from tests.conftest import TOKEN
from tests.integration.intake_client import Intake
from tests.on_server import Remote, event, lines

DOCUMENT = Path(__file__).parents[2] / "docs/server.rst"
LEASE_S = 3


@pytest.fixture
def absent(postgres, server):
    """The command, for a queue that is not there yet."""
    address = Address(postgres.url(), postgres.new_schema_name(), standbys=0, lease_s=LEASE_S)
    command = Remote(address, server.url)
    yield command
    command.close()


@pytest.fixture
def remote(absent):
    """The command, for an empty queue."""
    setup(absent.address)
    return absent


@pytest.fixture
def emptied(remote, until):
    """Wait until nothing waits, and return the books."""

    def wait(kind="event"):
        until(lambda: remote.figures(kind).due == 0, "nothing waits")
        return remote.figures(kind)

    return wait


def test_setup_makes_a_queue(absent):
    """Nothing else does: without it, what needs the queue ends with 78 and says so; it may be repeated."""
    for command in (("enqueue",), ("run",), ("pause",)):
        done = absent(*command, stdin=lines(1))
        assert (done.returncode, "`forwarder setup`" in done.stderr) == (78, True), done.stderr
    assert absent("setup").returncode == 0
    assert absent("enqueue", stdin=lines(1)).returncode == 0
    assert absent("setup").returncode == 0
    assert absent.figures().waiting == 1


def test_by_each_door(remote, server, emptied):
    """By the command, from Python, by SQL in a program's own transaction, by HTTP: all is delivered."""
    remote.daemon()
    assert remote("enqueue", stdin=lines(1, 2)).returncode == 0
    with EventQueue(remote.address.url, schema=remote.address.schema) as queue:
        queue.put(event(3))
        queue.put_profile({"$token": TOKEN, "$distinct_id": "ada", "$add": {"logins": 1}})
    insert = f"INSERT INTO {remote.address.schema}.queue (data) VALUES (convert_to(%s, 'UTF8'))"
    with psycopg.connect(remote.address.url) as connection:
        connection.execute(insert, [json.dumps(event(4) | {"event": 'a "quoted" \\ name'})])
    with psycopg.connect(remote.address.url) as connection:
        connection.execute(insert, [json.dumps(event(5))])
        connection.rollback()
    with closing(Intake("", **remote.environ)) as intake:
        intake.environ.pop("FORWARDER_QUEUE_PATH", None)
        intake.start()
        body = {"event": "by HTTP", "properties": {"token": TOKEN, "$insert_id": "id-6"}}
        with intake.client() as client:
            assert client.ask("POST", "/track", json.dumps(body).encode()).json == 1
    found = emptied()
    assert (found.accepted, found.delivered) == (5, 5)
    emptied("profile")
    assert server.ledger.events.keys() == {"id-1", "id-2", "id-3", "id-4", "id-6"}


def test_commands(remote, server, emptied, until):
    """What looks and what acts works as on a queue in a directory; what can't be known is null."""
    remote("pause")
    daemon = remote.daemon()
    assert remote("enqueue", stdin=lines(1, 2, 3) + lines(4, name="")).returncode == 65
    state = remote.json("status")
    assert (state["waiting"], state["state"], state["pid"]) == (3, "paused", daemon.process.pid)
    assert (state["wal_bytes"], state["disk_free_bytes"], state["queue_path"]) == (
        None,
        None,
        remote.address.place,
    )
    assert [json.loads(line)["event"]["event"] for line in remote("peek", "--json").stdout.splitlines()] == [
        "signup"
    ] * 3
    first = json.loads(remote("waiting", "list", "--json").stdout.splitlines()[0])
    assert remote("waiting", "hold", str(first["id"])).returncode == 0
    assert remote("waiting", "delete", "--event", "none", "--yes").returncode == 0
    assert remote("resume").returncode == 0
    assert emptied().held == 1
    assert remote("waiting", "release", str(first["id"])).returncode == 0
    assert emptied().delivered == 3
    for command in (("check",), ("dead-letters", "list"), ("flush",), ("drain",), ("config", "show")):
        done = remote(*command)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert remote("salvage").returncode == 64
    assert daemon.stop() == 0


def test_another_daemon_takes_over(remote, server, emptied, until):
    """At once from one that is stopped; from one that hangs when its lease is over: that then stands by."""
    first = remote.daemon()
    second = remote.daemon(wait=False)
    assert f":{first.process.pid} " in second.wait_for("daemon.standing_by")["detail"]
    remote("enqueue", stdin=lines(*range(100)))
    emptied()
    assert first.stop() == 0
    second.wait_for("daemon.started", LEASE_S)
    third = remote.daemon(wait=False)
    third.wait_for("daemon.standing_by")
    second.process.send_signal(signal.SIGSTOP)
    remote("enqueue", stdin=lines(*range(100, 200)))
    third.wait_for("daemon.started", 2 * LEASE_S + 2)
    assert emptied().delivered == 200
    second.process.send_signal(signal.SIGCONT)
    second.wait_for("daemon.standing_by")
    assert remote.json("status")["pid"] == third.process.pid
    assert second.stop() == 0
    assert third.process.poll() is None
    assert server.ledger.accepted == 200


def test_server_restarts(remote, postgres, server, emptied, until):
    """The daemon says that it can't use the queue, and goes on by itself; a door refuses, and no
    accepted event is lost."""
    daemon = remote.daemon()
    remote("enqueue", stdin=lines(1))
    emptied()
    postgres.stop()
    try:
        daemon.wait_for("queue.failed")
        place = {"schema": remote.address.schema, "lock_timeout_s": 1}
        with EventQueue(remote.address.url, **place) as queue, pytest.raises(TryAgainError):
            queue.put(event(2))
    finally:
        postgres.start()
    daemon.wait_for("queue.recovered")
    assert remote("enqueue", stdin=lines(2)).returncode == 0
    assert emptied().delivered == 2
    assert daemon.process.poll() is None


def test_one_copy_is_not_enough(remote):
    """`run` and `check` refuse a server without standbys, unless queue.standbys is 0; `status` says so."""
    assert "queue.standbys is 0" in remote("status").stdout
    assert remote.json("status")["standbys"] == 0
    remote.environ["FORWARDER_QUEUE_STANDBYS"] = "1"
    for command in ("run", "check"):
        done = remote(command)
        assert done.returncode == 78
        assert "synchronous_standby_names" in done.stderr + done.stdout
    assert "queue.standbys" not in remote("status").stdout


def test_a_newer_queue_is_refused(remote, postgres):
    """An older daemon does not deliver from it, and its setup leaves it alone."""
    postgres.execute(f"UPDATE {remote.address.schema}.control SET version = version + 1")
    for command in ("run", "setup"):
        done = remote(command)
        assert done.returncode == 78
        assert f"has version {VERSION + 1}" in done.stderr


def test_a_producer_that_may_not_look_does_not_wait(remote, postgres):
    """It is said before anything is stored."""
    schema = remote.address.schema
    postgres.execute(f"CREATE ROLE {schema}_till LOGIN IN ROLE {schema}_producer")
    url = postgres.url(user=f"{schema}_till")
    environ = {**remote.environ, "FORWARDER_QUEUE_URL": url}
    command = [sys.executable, "-m", "forwarder", "enqueue", "-e", "E"]
    done = subprocess.run([*command, "--wait"], env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (77, "")
    assert remote.figures().accepted == 0
    assert subprocess.run(command, env=environ, capture_output=True).returncode == 0


def test_an_older_queue_is_brought_up_to_date(remote, postgres):
    """By setup, once; what waits stays, and a daemon and a producer say before what to do."""
    schema = remote.address.schema
    remote("enqueue", "-e", "E")
    for kind in ("", "_engage", "_groups"):
        postgres.execute(f"ALTER TABLE {schema}.deliveries{kind} DROP COLUMN dead_ids")
        postgres.execute(f"DROP TABLE {schema}.bookmarks{kind}")
        postgres.execute(f"DROP FUNCTION {schema}.put_all{kind}(bytea[])")
        postgres.execute(
            f"CREATE FUNCTION {schema}.put{kind}(records bytea[]) RETURNS bigint"
            f" LANGUAGE sql AS 'INSERT INTO {schema}.queue{kind} (data, status)"
            " SELECT unnest(records), 1; SELECT 1::bigint'"
        )
    postgres.execute(f"UPDATE {schema}.control SET version = 1")
    for command in (("run",), ("enqueue", "-e", "E")):
        done = remote(*command)
        assert (done.returncode, "`forwarder setup`" in done.stderr) == (78, True)
    for _ in range(2):
        assert remote("setup").returncode == 0
    assert remote.json("enqueue", "-e", "E")["ids"] == "2", "the producer has not stored what it refused"
    # A producer of before, which gets one id, does not repeat what it has stored.
    assert postgres.execute(f"SELECT {schema}.put(ARRAY['{{}}'::bytea])") == [(1,)]
    assert remote.json("status")["waiting"] == 3


def test_without_psycopg(remote):
    """What uses no server starts without psycopg; what does, says how to get it."""
    hide = "import sys; sys.modules['psycopg'] = None; from forwarder.cli import main; main()"

    def start(*arguments, **environ):
        command = [sys.executable, "-c", hide, *arguments]
        return subprocess.run(command, env=remote.environ | environ, capture_output=True, text=True)

    done = start("status")
    assert (done.returncode, "mixpanel-forwarder[postgresql]" in done.stderr) == (78, True)
    assert start("--version").returncode == 0


def test_place_shows_no_password(remote, tmp_path):
    """Neither output nor log has the password of the file."""
    (tmp_path / "password").write_text("s3cr3t-0123456789")
    remote.environ["FORWARDER_QUEUE_PASSWORD_FILE"] = str(tmp_path / "password")
    daemon = remote.daemon()
    remote("enqueue", stdin=lines(1))
    said = [remote(*command) for command in (("status",), ("config", "show"), ("check",), ("report", "-"))]
    daemon.stop()
    text = json.dumps(daemon.log) + "".join(done.stdout + done.stderr for done in said)
    assert "s3cr3t" not in text
    assert spool.at(remote.address.url).place in str(said[0].stdout).replace(
        f"schema {remote.address.schema}", "schema forwarder"
    )


def test_a_host_from_the_environment_is_not_trusted_blindly(remote, postgres):
    """Where $PGHOST names the host, because the URL does not, the certificate is checked all the same."""
    remote.environ |= {"PGHOST": "127.0.0.1", "PGPORT": str(postgres.port)}
    remote.environ["FORWARDER_QUEUE_URL"] = "postgresql://postgres@/postgres"
    done = remote("enqueue", stdin=lines(1))
    assert done.returncode == 78
    assert "server does not support SSL, but SSL was required" in done.stderr
    assert remote.figures().accepted == 0


@pytest.mark.skipif(not shutil.which("jq"), reason="jq is not on this machine")
@pytest.mark.parametrize("kind", KINDS)
def test_moved_to_a_directory(remote, kind, tmp_path, queue_path, rows):
    """By the commands of docs/server.rst, all that waits is in the directory as the same bytes."""
    (text,) = re.findall(r"with the daemon stopped, for each kind::\n\n((?: .*\n)+)", DOCUMENT.read_text())
    (tmp_path / "local.toml").write_text(f'[queue]\npath = "{queue_path}"\nmin_free_bytes = 0\n')
    (tmp_path / "server.toml").write_text(
        f'[queue]\nurl = "{remote.address.url}"\nschema = "{remote.address.schema}"\nstandbys = 0\n'
    )
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    environ = {**os.environ, "FORWARDER_CONFIG": str(tmp_path / "server.toml"), "PATH": path}
    program = re.sub(r"forwarder (enqueue|waiting \w+)", rf"forwarder \1 --kind {kind}", text)
    ids = {"profile": {"$distinct_id": "ada"}, "group": {"$group_key": "k", "$group_id": "g"}}
    update = json.dumps({"$token": TOKEN, "$set": {"a": 'a "quoted" ü'}, **ids.get(kind, {})})
    given = lines(*range(300)) if kind == "event" else f"{update}\n" * 300
    assert remote("enqueue", "--kind", kind, stdin=given).returncode == 0
    before = waiting(remote.address.url, kind, schema=remote.address.schema)
    assert len(before) == 300

    done = subprocess.run(
        ["sh", "-e", "-c", program], env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )

    assert (done.returncode, done.stderr) == (0, ""), done
    assert waiting(queue_path, kind) == before
    assert remote.figures(kind).due == 0


def waiting(place, kind, **more):
    """The bytes of what waits there."""
    with spool.at(place, KINDS[kind], **more).view() as view:
        return [row.data for row in view.peek(1000)]
