"""The HTTP intake in a booted systemd: started by its socket, restarted under clients, one an instance."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from box import booted
from installed import TOKEN, Service, install

PYTHON = "/opt/forwarder/python/bin/python3"
CLIENTS = 64
# Each keeps its connection as long as the server says, and sends one event after the other; prints how many
# were acknowledged, and what went wrong.
CLIENT = """
import http.client, json, os, socket, sys, threading
path, token, clients, rest = sys.argv[1], sys.argv[2], int(sys.argv[3]), "/run/rest"
acknowledged, errors = [0] * clients, []
class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
def client(number):
    connection = Connection("localhost")
    while not os.path.exists(rest):
        body = json.dumps({"event": "E", "properties": {"token": token, "distinct_id": str(number)}})
        try:
            connection.request("POST", "/track", body)
            answer = connection.getresponse().read()
            if answer == b"1":
                acknowledged[number] += 1
            else:
                errors.append(answer.decode())
        except Exception as error:
            errors.append(repr(error))
            connection.close()
threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps([sum(acknowledged), errors[:20]]))
"""


@pytest.fixture(scope="module")
def box():
    with booted() as box:
        install(box)
        yield box


@pytest.fixture
def service(box):
    """The plain queue, with settings and key, empty; its daemon does not run."""
    service = Service.renewed(box)
    box.run("systemctl", "start", "forwarder-intake.socket")
    yield service
    box.run("systemctl", "stop", "forwarder-intake.socket", "forwarder-intake.service")


def send(box, path, token, user, check=True):
    """One event by curl, as a user."""
    event = json.dumps({"event": "E", "properties": {"token": token, "distinct_id": "d"}})
    command = ("curl", "-sS", "--unix-socket", path, "http://localhost/track", "-d", event)
    return box.run(*command, user=user, check=check)


def test_the_first_request_starts_it(service, box):
    """The socket is there from the start, for the group only; the answer is the commit."""
    assert box.run("systemctl", "is-active", "forwarder-intake.service", check=False).returncode != 0
    assert send(box, "/run/forwarder/intake.sock", TOKEN, "forwarder").stdout == "1"
    assert service.figures["waiting"] == 1
    assert box.run("stat", "-c", "%a %G", "/run/forwarder/intake.sock").stdout.strip() == "660 forwarder"
    box.run("useradd", "stranger", check=False)
    assert send(box, "/run/forwarder/intake.sock", TOKEN, "stranger", check=False).returncode != 0
    said = json.loads(send(box, "/run/forwarder/intake.sock", "other", "forwarder").stdout)
    assert "intake.tokens" in said["error"]


def test_restarts_under_clients_lose_no_answer(service, box, until):
    """None of 64 clients sees an error while it is restarted again and again; all they were told is there."""
    command = (PYTHON, "-c", CLIENT, "/run/forwarder/intake.sock", TOKEN, str(CLIENTS))
    box.run("rm", "-f", "/run/rest")
    box.run(
        *("systemd-run", "-q", "--unit=clients", "--uid=forwarder", "--gid=forwarder"),
        *("-p", "StandardOutput=file:/run/clients.out"),
        *command,
    )
    until(lambda: service.figures["accepted"] > CLIENTS, "they send")
    for _ in range(3):
        before = service.figures["accepted"]
        box.run("systemctl", "restart", "forwarder-intake.service")
        until(lambda before=before: service.figures["accepted"] > before + CLIENTS, "they go on")
    box.write("/run/rest", "")
    until(lambda: box.run("systemctl", "is-active", "clients", check=False).returncode)
    acknowledged, errors = json.loads(box.run("cat", "/run/clients.out").stdout)
    assert errors == []
    assert acknowledged == service.figures["accepted"]


def test_an_instance_has_its_own(service, box):
    """Its socket, its user and its project; its user is made before the socket is."""
    one = Service(box, "forwarder@one", 8091, "token-of-project-one")
    path = "/run/forwarder-one/intake.sock"
    try:
        one.prepare()
        box.run("systemctl", "start", "forwarder-intake@one.socket")
        assert send(box, path, one.token, "forwarder-one").stdout == "1"
        assert (one.figures["waiting"], service.figures["accepted"]) == (1, 0)
        assert "intake.tokens" in send(box, path, TOKEN, "forwarder-one").stdout
        assert send(box, path, one.token, "forwarder", check=False).returncode != 0
    finally:
        box.run("systemctl", "stop", "forwarder-intake@one.socket", "forwarder-intake@one.service")
        one.remove()


def test_wrong_settings_end_it_and_are_told(service, box):
    """With a service account and no tokens it ends with 78, and is not restarted for that."""
    service.configure("\n[intake]\ntokens = []\n")
    box.write(service.key, "", 0o600)
    done = box.run("systemctl", "start", "forwarder-intake.service", check=False)
    assert done.returncode != 0
    assert box.run("systemctl", "show", "-P", "ExecMainStatus", "forwarder-intake").stdout.strip() == "78"
    assert box.run("systemctl", "show", "-P", "NRestarts", "forwarder-intake").stdout.strip() == "0"
    said = box.run("journalctl", "-u", "forwarder-intake", "-o", "cat", "--no-pager").stdout
    assert "intake.tokens" in said
