"""One event by options goes a quick way in, which means the same as the whole command."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from forwarder import config, spool
from forwarder.config import plain
from forwarder.errors import ForwarderError
from tests.integration.intake_client import Client, Intake

# Prints what was loaded by then.
TRACED = """
import atexit, os, sys
atexit.register(lambda: os.write(2, " ".join(["LOADED", *sys.modules]).encode()))
from forwarder.cli import main
main()
"""
NOT_NEEDED = {
    "click",
    "msgspec",
    "persistqueue",
    "tomllib",
    "dataclasses",
    "logging",
    "asyncio",
    "structlog",
    "uuid",
}
NOT_FOR_THE_INTAKE = NOT_NEEDED | {"sqlite3", "json", "typing", "datetime"}


def loaded(forwarder, *arguments):
    """Run a command; returns what it has loaded."""
    done = subprocess.run(
        [sys.executable, "-IS", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{TRACED}", *arguments],
        env=forwarder.environ, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "accepted 1 event\n"), done.stderr
    return set(done.stderr.rpartition("LOADED ")[2].split())


def stored(queue_path):
    """The events that wait."""
    with spool.at(queue_path).view() as view:
        return [json.loads(row.data) for row in view.peek(1000)]


@pytest.fixture
def used(forwarder):
    """The command, once it has found that the settings have no mistake."""
    assert forwarder("enqueue", "-e", "first").returncode == 0
    return forwarder


@pytest.fixture
def intake(used):
    """An intake for that queue."""
    with contextlib.closing(Intake(used.queue_path)) as found:
        found.start()
        yield found


def door(queue_path):
    return Client(os.path.join(queue_path, plain.SOCKET))


def test_it_loads_little_and_stores_the_same(used):
    """Whatever options give, the event is that of the whole command, without what this has to load."""
    options = [
        "-e",
        'A "\\\n\té',
        "-d",
        "u-1",
        "--property=plan=x=y",
        "-p",
        "n:=[1.50, {}]",
        "--time",
        "1600000000",
    ]
    given = [*options, "--insert-id=mine"]
    assert NOT_NEEDED & loaded(used, "enqueue", *given) == set()
    assert used("enqueue", *given, "--json").returncode == 0

    quick, whole = stored(used.queue_path)[1:]
    assert quick == whole
    assert quick["properties"] == {
        "distinct_id": "u-1", "plan": "x=y", "n": [1.5, {}], "time": 1600000000, "$insert_id": "mine"
    }  # fmt: skip


def test_what_is_missing_is_filled_in(used):
    """An event without time and $insert_id gets both."""
    loaded(used, "enqueue", "-e", "B")
    found = stored(used.queue_path)[-1]["properties"]
    assert found["time"] > 1_700_000_000_000
    assert len(found["$insert_id"]) == 32


MISTAKES = [
    (["-e", ""], 65, "'event' must not be missing"),
    (["-e", "A", "-d", "null"], 65, "'properties.distinct_id' is invalid"),
    (["-e", "A", "--time", "2099-01-01T00:00:00Z"], 65, "must not be in the future"),
    (["-e", "A", "-p", "a:={"], 64, "what follows := is not JSON"),
    (["-e", "A", "-p", "time:=1", "--time", "2"], 64, "given twice"),
    (["-e", "A", "--tim", "2"], 64, "No such option"),
    (["-e"], 64, "requires an argument"),
    (["-d", "u"], 64, "Give its name with -e NAME"),
]


@pytest.mark.parametrize("way", ["queue", "intake"])
def test_mistakes_are_told_as_ever(request, used, way):
    """What is refused or not understood gets the whole command's words and exit code, and is counted once."""
    if way == "intake":
        request.getfixturevalue("intake")
    for arguments, code, said in MISTAKES:
        done = used("enqueue", *arguments)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert len(stored(used.queue_path)) == 1
    assert used.json("status")["refused"] == [code for _, code, _ in MISTAKES].count(65)


def test_the_intake_takes_it_without_sqlite(used, intake):
    """With the intake, the process does not even open the queue; its answer is that of the commit."""
    assert NOT_FOR_THE_INTAKE & loaded(used, "enqueue", "-e", "B", "-d", "u-1", "-p", "plan=x") == set()
    assert [event["event"] for event in stored(used.queue_path)] == ["first", "B"]
    assert os.stat(os.path.join(used.queue_path, plain.SOCKET)).st_mode & 0o777 == 0o660

    intake.process.process.send_signal(signal.SIGTERM)
    assert intake.process.process.wait(20) == 0
    assert not os.path.exists(os.path.join(used.queue_path, plain.SOCKET))
    assert "sqlite3" in loaded(used, "enqueue", "-e", "C")
    assert [event["event"] for event in stored(used.queue_path)] == ["first", "B", "C"]


def test_each_of_many_gets_its_own_answer(used, intake):
    """Of events that share commits, each gets its own id, and one that is refused the reason."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(door(used.queue_path))) for _ in range(60)]
        for n, client in enumerate(clients):
            client.send(b'{"event":"%d","properties":{}}\n' % n if n % 10 else b"?\n")
        answers = [client.socket.recv(1000).decode() for client in clients]
    with spool.at(used.queue_path).view() as view:
        found = {row.id: json.loads(row.data)["event"] for row in view.peek(1000)}
    for number, answer in enumerate(answers):
        if number % 10:
            assert found[int(answer)] == str(number)
        else:
            assert answer.startswith("refused not JSON")
    assert len(found) == 1 + 54


def test_in_a_place_without_room_for_a_socket_the_queue_is_used(used, tmp_path):
    """Where the path is too long for a socket the intake says so, and all the same both take events."""
    place = tmp_path / ("long" * 25)
    used.environ["FORWARDER_QUEUE_PATH"] = str(place)
    with contextlib.closing(Intake(str(place))) as intake:
        intake.start().wait_for("intake.no_socket")
        assert used("enqueue", "-e", "B").returncode == 0
        assert "sqlite3" in loaded(used, "enqueue", "-e", "C")
    assert [event["event"] for event in stored(place)] == ["B", "C"]


def test_a_line_without_end_is_cut_off(used, intake):
    """Of what is longer than an event may be no more is kept, and others are answered."""
    with (
        contextlib.closing(door(used.queue_path)) as client,
        contextlib.suppress(BrokenPipeError, ConnectionResetError),
    ):
        client.socket.sendall(b"x" * 3_000_000)
        assert client.socket.recv(100).startswith(b"refused longer than")
    assert used("enqueue", "-e", "B").returncode == 0
    assert intake.process.process.poll() is None


@pytest.mark.parametrize("answer", [b"", b"later it is full\n", b"what?\n"])
def test_without_a_yes_the_event_is_stored_by_the_whole_command(used, answer):
    """If the intake is gone before its answer, the same event goes into the queue."""
    seen = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.join(used.queue_path, plain.SOCKET))
        listening.listen()

        def serve():
            with listening.accept()[0] as client:
                seen.append(client.makefile("rb").readline())
                client.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        done = used("enqueue", "-e", "B", "-p", "a=1")
        server.join()
    assert done.returncode == 0, done.stderr
    assert stored(used.queue_path)[1:] == [json.loads(seen[0])]


def test_an_interrupt_is_told_as_ever(used):
    """Ctrl-C while an intake that hangs has the event."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.join(used.queue_path, plain.SOCKET))
        listening.listen()
        command = [sys.executable, "-m", "forwarder", "enqueue", "-e", "E"]
        process = subprocess.Popen(command, env=used.environ, stderr=subprocess.PIPE, text=True)
        connection, _ = listening.accept()
        with connection:
            assert connection.recv(1)
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=30) == (None, "Interrupted.\n")
    assert process.returncode == 130


def test_a_file_left_by_a_killed_intake_is_in_nobodys_way(used, intake):
    """After SIGKILL the socket's file is still there: a producer goes on without, the next intake with it."""
    intake.process.process.kill()
    intake.process.process.wait()
    assert os.path.exists(os.path.join(used.queue_path, plain.SOCKET))
    assert used("enqueue", "-e", "B").returncode == 0
    intake.start()
    assert "sqlite3" not in loaded(used, "enqueue", "-e", "C")


def test_a_stop_answers_what_has_come(used, intake):
    """SIGTERM while events come: each answered one is stored, and connections without one end."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(door(used.queue_path))) for _ in range(60)]
        clients[0].socket.settimeout(5)  # less than the intake waits for requests
        for client in clients[1:]:
            client.send(b'{"event":"B","properties":{}}\n')
        assert clients[1].socket.recv(100).strip().isdigit()
        intake.process.process.send_signal(signal.SIGTERM)
        answers = [client.socket.recv(100) for client in (clients[0], *clients[2:])]
        assert intake.process.process.wait(20) == 0
    assert answers[0] == b""
    assert len(stored(used.queue_path)) == 2 + len([answer for answer in answers if answer])


def test_output_that_can_not_be_written_is_told(used):
    """A full device for the output has its own exit code; the event is stored once."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "forwarder", "enqueue", "-e", "B"],
            env=used.environ, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 74
    assert (
        done.stderr
        == "accepted 1 event\nforwarder: can't write to standard output: No space left on device\n"
    )
    assert len(stored(used.queue_path)) == 2


def test_settings_are_looked_at_again_once_they_change(used, tmp_path):
    """A mistake that comes into the settings is told by the next event, also where it concerns others."""
    file = tmp_path / "forwarder.toml"
    file.write_text('[delivery]\nconnections = 2\n\n[queue]\nmax_bytes = "1GiB"\n')
    used.environ["FORWARDER_CONFIG"] = str(file)
    assert "click" in loaded(used, "enqueue", "-e", "B")
    assert "click" not in loaded(used, "enqueue", "-e", "C")
    file.write_text('[delivery]\nconnections = "two"\n')
    for _ in range(2):
        assert "connections" in used("enqueue", "-e", "D").stderr, "the next event tells of it"
    used.environ["FORWARDER_QUEUE_MAX_BYTES"] = "1MiB"
    file.unlink()
    assert "does not exist" in used("enqueue", "-e", "D").stderr
    file.write_text("")
    assert used("enqueue", "-e", "E").returncode == 0
    used.environ["FORWARDER_QUEUE_MIN_FREE_BYTES"] = "1000TiB"
    assert used("enqueue", "-e", "F").returncode == 75
    assert [event["event"] for event in stored(used.queue_path)] == ["first", *"BCDDE"]


FILES = [
    "",
    "# nothing\n\n",
    '[queue]\npath = "/tmp/a"\n',
    '[mixpanel]\nregion = "eu"\n[queue] \n  path="/tmp/a b" \nmin_free_bytes=12\n',
    '[queue]\npath = "/tmp/a" # here\n',
    '[queue]\npath = "/tmp/\\u0061"\n',
    "[queue]\npath = '/tmp/a'\n",
    '[queue]\npath = """/tmp/a"""\n',
    'x = """\n[queue]\npath = "/tmp/b"\n"""\n',
    '[ queue ]\npath = "/tmp/a"\n',
    '["queue"]\npath = "/tmp/a"\n',
    'queue.path = "/tmp/a"\n',
    '[queue]\n"path" = "/tmp/a"\n',
    '[queue]\npath = "/tmp/a"\npath = "/tmp/b"\n',
    '[queue]\npath = "/tmp/a"\n[queue]\n',
    '[queue]\nurl = "postgresql://localhost/a"\n',
    '[queue]\npath = "a"\n',
    '[queue]\nmax_bytes = "12 MiB"\n',
    "[queue]\nmax_bytes = 1_000_000_000\n",
    '[delivery]\nx = [\n  "a",\n]\n[queue]\npath = "/tmp/a"\n',
    '\ufeff[queue]\npath = "/tmp/a"\n',
    '[queue]\r\npath = "/tmp/a"\r\n',
]


@pytest.mark.parametrize("text", FILES, ids=range(len(FILES)))
@pytest.mark.parametrize("given", ["", "/tmp/given"])
def test_plain_settings_are_those_of_the_whole_reading(tmp_path, text, given):
    """What is read plainly is what TOML says; everything else is left to it."""
    file = tmp_path / "forwarder.toml"
    file.write_bytes(text.encode())
    environ = {"FORWARDER_CONFIG": str(file), "FORWARDER_QUEUE_PATH": given}
    found = plain.read(environ)
    try:
        said = config.load(environ=environ, used=("queue",)).queue
    except ForwarderError:
        assert found is None or not found.are_faultless()
        return
    if found:
        kinds = {
            key: kind.check(found.limits.get(key, usual)) for key, (usual, kind) in plain.limits().items()
        }
        assert (found.path, kinds) == (
            said.path,
            {"max_bytes": said.max_bytes, "min_free_bytes": said.min_free_bytes},
        )
        assert not said.url
    else:
        assert text not in FILES[:4]
