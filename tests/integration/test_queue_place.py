"""Which queue a program or a command uses, a directory or a server; no server is needed to know."""

import json
import os
import pickle
import subprocess
import sys

import click
import pytest

from forwarder import config, log, spool
from forwarder.cli import main
from forwarder.cli.completion.values import waiting_event_names
from forwarder.config.settings import Queue
from forwarder.errors import ConfigError, UnavailableError
from forwarder.intake.intake_log import IntakeLog
from forwarder.records import KINDS
from forwarder.service.daemon import _AT_START
from forwarder.service.daemon_log import DaemonLog
from forwarder.spool import EventQueue, Holder
from forwarder.spool.postgresql import engine, schema, setup
from forwarder.spool.postgresql.address import Address
from forwarder.spool.sqlite import engine as embedded

URL = "postgresql://forwarder@db1.invalid,db2.invalid/app?sslmode=verify-full"
PLACE = f"{URL} (schema shop)"
SECRET = "0123456789abcdef0123456789abcdef"


class Producer:
    """A way in that keeps what it is given."""

    def __init__(self, kept):
        self._kept = kept

    def append(self, records, dead=()):
        self._kept.extend(records)
        return range(len(self._kept) - len(records) + 1, len(self._kept) + 1)

    def close(self):
        pass


@pytest.fixture
def kept(monkeypatch):
    """What servers were given, by their address and the kind; of none there is more than the way in."""
    found = {}

    def init(self, address, kind):
        self.address, self.kind, self.place = address, kind, address.place

    def producer(self, **_):
        return Producer(found.setdefault((self.address, self.kind.name), []))

    def fail(self, *_, **__):
        raise UnavailableError(f"called for {self.place}")

    monkeypatch.setattr(engine.Spool, "__init__", init)
    monkeypatch.setattr(engine.Spool, "producer", producer)
    for verb in ("view", "pause", "resume", "holder", "take", "set_aside", "consumer"):
        monkeypatch.setattr(engine.Spool, verb, fail)
    return found


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """Settings that name a server, with a password's file and a key, for the commands of this process."""
    for name in ("FORWARDER_QUEUE_PATH", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "password").write_text(SECRET)
    file = tmp_path / "forwarder.toml"
    file.write_text(
        f'[queue]\nurl = "{URL}"\nschema = "shop"\nmin_free_bytes = 0\npassword_file = "{tmp_path}/password"'
    )
    monkeypatch.setenv("FORWARDER_CONFIG", str(file))
    monkeypatch.setenv("FORWARDER_MIXPANEL_TOKEN", "sandbox-token")


@pytest.fixture
def run(settings, capsys):
    """Run a command with these settings in this process; returns exit code, output and errors."""

    def command(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([*arguments])
        return ended.value.code, *capsys.readouterr()

    return command


def test_the_settings_name_the_queue(kept, queue_path):
    """With a url it is the server, for each kind; else the directory."""
    on_server = spool.each(Queue(path=queue_path, url=URL))
    assert {type(each) for each in on_server} == {engine.Spool}
    assert [each.kind.name for each in on_server] == list(KINDS)
    local = spool.each(Queue(path=queue_path))
    assert {(type(each), each.place) for each in local} == {(embedded.Spool, queue_path)}


def test_what_the_settings_say_of_the_server_reaches_it(kept, monkeypatch, tmp_path):
    """Each of them; the password's file is systemd's if none is named."""
    given = Queue(url=URL, schema="shop", password_file="/pw", standbys=2, lease_s=5)
    assert spool.of(given).address == Address(URL, "shop", "/pw", 2, 5)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "queue-password").write_text(SECRET)
    assert spool.of(Queue(url=URL)).address == Address(URL, password_file=f"{tmp_path}/queue-password")


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_program_hands_events_over_to_a_server(scheme, kept):
    """`EventQueue` takes its URL; for each kind, and as a copy in another process too."""
    url = URL.replace("postgresql", scheme)
    with EventQueue(url, schema="shop", password_file="/pw") as queue:
        queue.put({"event": "A", "properties": {}})
        again = pickle.loads(pickle.dumps(queue))
        again.put_profile({"$token": "t", "$distinct_id": "d", "$set": {"a": 1}})
    address = Address(url, "shop", "/pw")
    assert queue.path == again.path == address.place
    assert {key: len(records) for key, records in kept.items()} == {
        (address, "event"): 1,
        (address, "profile"): 1,
    }


@pytest.mark.parametrize(
    ("url", "options"),
    [
        (f"postgresql://me:{SECRET}@localhost/app", {}),
        (f"postgres://localhost/app?password={SECRET}", {}),
        ("postgresql://db1.invalid/app", {}),
        (URL, {"schema": "Shop; DROP"}),
        (URL, {"password_file": SECRET}),
    ],
)
def test_a_program_is_refused_what_the_settings_would_refuse(url, options):
    """A password in the URL, an unverified server, what is no name: and no secret is repeated."""
    with pytest.raises(ConfigError) as refused:
        EventQueue(url, **options)
    assert SECRET[:8] not in str(refused.value)


def test_without_psycopg_a_server_is_refused_with_what_to_install(monkeypatch, queue_path):
    """A directory needs none of it."""
    ours = [name for name in sys.modules if name.startswith("forwarder.spool.postgresql")]
    for name in ours:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(spool, "postgresql")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for use in (spool.of, spool.set_up):
        with pytest.raises(ConfigError, match=r"mixpanel-forwarder\[postgresql\].*python3-psycopg"):
            use(Queue(url=URL))
    assert spool.of(Queue(path=queue_path)).place == queue_path


def test_a_directory_loads_nothing_for_servers(queue_path):
    """psycopg takes longer to load than all that a producer needs; nor does it need the settings."""
    script = (
        "import sys; from forwarder import EventQueue; queue = EventQueue(sys.argv[1], min_free_bytes=0);"
        "queue.put({'event': 'A', 'properties': {}}); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, queue_path], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    assert "sqlite3" in loaded
    unwanted = ("psycopg", "forwarder.spool.postgresql", "forwarder.config")
    assert not [name for name in loaded if name.startswith(unwanted)]


def test_producers_write_to_the_server(run, kept):
    """Without a path of its own, ``enqueue`` is durable there or not at all."""
    assert run("enqueue", "-e", "A")[0] == 0
    ((address, kind),) = kept
    assert (address.place, kind) == (PLACE, "event")


def test_producers_of_a_relay_write_to_its_directory(run, kept, queue_path, monkeypatch, rows):
    """With a path too, that is this host's queue, and that of commands; what delivers uses the server."""
    monkeypatch.setenv("FORWARDER_QUEUE_PATH", queue_path)
    assert run("enqueue", "-e", "A")[0] == 0
    assert (kept, len(rows(queue_path))) == ({}, 1)
    code, out, _ = run("peek", "--json")
    assert (code, json.loads(out)["event"]["event"]) == (0, "A")
    found = waiting_event_names(click.Context(click.Command("waiting")), None, "")
    assert [item.value for item in found] == ["A"]
    code, _, err = run("run")
    assert (code, err) == (69, f"forwarder: called for {PLACE}\n")
    assert run("salvage")[:2] == (0, "No damaged database has been set aside.\n")


@pytest.mark.parametrize(
    "command",
    [
        *("peek", "status", "status --watch", "pause", "resume", "flush", "drain", "run"),
        *("waiting list", "dead-letters list", "dead-letters summary", "dead-letters show 1"),
    ],
)
def test_commands_look_at_the_server(command, run, kept):
    """All but producers' are about the server, and a message has its place without a secret."""
    code, out, err = run(*command.split())
    assert (code, out) == (69, "")
    assert f"called for {PLACE}" in err
    assert SECRET[:8] not in err


@pytest.mark.parametrize("command", ["salvage", "salvage x.db --apply"])
def test_salvage_is_for_directories(command, run, kept):
    """Of a queue on a server there are backups."""
    code, _, err = run(*command.split())
    assert code == 64
    assert "the queue is on a server; its backups take salvage's place" in err


def test_bench_measures_a_disk_of_this_host(run, kept):
    """The queue has none, so somebody has to name one."""
    code, _, err = run("bench")
    assert (code, "--dir" in err) == (64, True)


def test_check_says_what_is_not_installed(run, monkeypatch):
    """Among its findings, with the exit code of a setting."""

    def missing(*_):
        raise ImportError("no pq wrapper available")

    monkeypatch.setattr(engine, "Spool", missing)
    code, out, _ = run("check", "--json")
    found = {line["name"]: line["detail"] for line in map(json.loads, out.splitlines())}
    assert code == 78
    assert "no pq wrapper available" in found["queue"]


def test_a_report_has_no_password(run, kept):
    """The settings are in it, without what stands before a host, and that there is no directory."""
    code, out, _ = run("report", "-")
    assert code == 0
    assert f"There is none: the queue is {PLACE.replace('forwarder@', '(not shown)@')}" in out
    assert SECRET[:8] not in out


def test_config_show_has_no_password(run):
    """It names the file that the password comes from."""
    code, out, _ = run("config", "show", "queue")
    assert code == 0
    assert "# queue.password " in out
    assert URL in out
    assert SECRET[:8] not in out


def test_what_serves_logs_its_place(settings, kept, capsys, queue_path, monkeypatch):
    """The daemon the server's, and the intake that of producers; what stands before a host is left out."""
    log.configure("info", "json")
    found = config.load()
    DaemonLog().started(found, "the server", "")
    IntakeLog().started(found, ["a place"], [])
    monkeypatch.setenv("FORWARDER_QUEUE_PATH", queue_path)
    IntakeLog().started(config.load(), ["a place"], [])
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    shown = PLACE.replace("forwarder@", "[not shown]@")
    assert [line["queue"] for line in lines] == [shown, shown, queue_path]


def test_the_place_is_only_read_at_the_start():
    """Of the queue a reload changes what bounds its size, which says nothing of where it is."""
    assert {*_AT_START, "max_bytes", "min_free_bytes"} == set(Queue.__slots__)


def test_setup_makes_what_the_server_needs(run, monkeypatch):
    """And says what was made; with --sql, only how."""
    made = []
    monkeypatch.setattr(setup, "setup", lambda address: [*made, f"schema {address.schema}"])
    monkeypatch.setattr(schema, "statements", lambda schema: f"CREATE SCHEMA {schema};")
    assert run("setup")[:2] == (0, "schema shop\n")
    assert run("setup", "--sql")[:2] == (0, "CREATE SCHEMA shop;\n")


def test_setup_is_for_servers(run, monkeypatch, tmp_path):
    """A queue in a directory makes itself: the setting that is missing is named."""
    monkeypatch.setenv("FORWARDER_CONFIG", str(tmp_path / "other.toml"))
    (tmp_path / "other.toml").touch()
    code, out, err = run("setup")
    assert (code, out) == (64, "")
    assert "queue.url" in err


def test_a_daemon_on_another_host_has_its_name():
    """Two hosts have processes with the same number."""
    assert Holder(7, host="db-7").name == "db-7:7"
    assert Holder(7, host=os.uname().nodename).name == Holder(7).name == "process 7"
