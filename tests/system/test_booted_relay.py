"""The relay and a daemon of a queue on a server in a booted systemd, with a PostgreSQL in the same box."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from box import booted
from installed import SETTINGS, Service, install

from tests.postgres import _programs, missing

PASSWORD = "s3cr3t-0123456789"
DATA = "/var/lib/test-postgres"
URL = "postgresql://forwarder@127.0.0.1:5444/postgres"
MAKE = f"""
set -e
install -d -o postgres {DATA}
runuser -u postgres -- "$1/initdb" -D {DATA} -U forwarder -A scram-sha-256 --pwfile=/run/password --no-sync
"""


@pytest.fixture(scope="module")
def box():
    if why := missing():
        pytest.skip(why)
    with booted() as box:
        install(box)
        box.write("/run/password", PASSWORD, 0o644)
        box.run("sh", "-c", MAKE, "make", _programs())
        yield box


@pytest.fixture
def relay(box):
    """The unit of the relay, not started, with its settings and the password; nothing needs a key."""
    service = Service(box, "forwarder-relay")
    service.queue, service.config = "/var/lib/forwarder", "/etc/forwarder/forwarder.toml"
    service.user = "forwarder"
    box.write("/etc/forwarder/queue-password", PASSWORD, 0o600)
    box.write(service.config, settings(service.queue))
    service.change("RestartSec=100ms")
    yield service
    service.systemctl("stop")


def settings(path):
    text = SETTINGS.format(port=8087, queue=path).replace('path = ""\n', "")
    return text.replace("[queue]", f'[queue]\nurl = "{URL}"\nstandbys = 0')


def start_postgres(box):
    command = [_programs() / "postgres", "-D", DATA, "-p", "5444", "-k", "/tmp"]
    box.run("systemd-run", "-q", "--collect", "--unit=test-postgres", "--uid=postgres", *command)


def test_relay_and_daemon(relay, box, until):
    """It starts while the server is away, takes the password as a credential, and is started again; a daemon
    beside it, with a credential of its own, delivers from the server."""
    relay.systemctl("start")
    relay.enqueue("A", "B")
    until(lambda: relay.figures["state"] == "backing_off")
    assert "can't be reached" in relay.status()
    start_postgres(box)
    until(lambda: owner(box, "setup").returncode == 0, "the server is there")
    until(lambda: relay.figures["delivered"] == 2, "they are handed over", 60)

    box.run("systemctl", "kill", "-s", "KILL", "forwarder-relay")
    relay.enqueue("C")
    until(lambda: relay.figures["delivered"] == 3, "it was started again")

    daemon = Service(box, "forwarder@server", 8091, "token-of-project-one")
    try:
        daemon.prepare()
        box.write(daemon.config, settings("").replace("8087", "8091"))
        box.write("/etc/forwarder/server.queue-password", PASSWORD, 0o600)
        daemon.start_server()
        daemon.systemctl("start")
        delivered = "status", "--config", daemon.config, "--fail-if", "delivered<3"
        until(lambda: owner(box, *delivered).returncode == 0, "all is delivered from the server")
        assert relay["ActiveState"] == daemon["ActiveState"] == "active"
    finally:
        daemon.remove()


def owner(box, *arguments):
    """A command of root's, with the password."""
    password = "FORWARDER_QUEUE_PASSWORD_FILE=/etc/forwarder/queue-password"
    return box.run("env", password, "forwarder", *arguments, check=False)
