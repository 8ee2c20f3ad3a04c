"""A client of the intake that sends bytes as they are, and the intake as a process."""

import contextlib
import json
import os
import socket
import sys
import tempfile
import uuid

from forwarder import spool
from forwarder.records import KINDS
from forwarder.spool import Selection
from tests.conftest import Daemon

TOKEN = "0123456789abcdef0123456789abcdef"


# Its own pid is in the environment, and the socket the first file behind the standard ones.
_AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""

# Times as short as a test needs them; then the command.
_IN_A_HURRY = """
import json, sys
from importlib import import_module
for name, value in json.loads(sys.argv.pop(1)).items():
    module, _, name = name.rpartition(".")
    setattr(import_module("forwarder.intake." + module), name, value)
from forwarder.cli import main
main()
"""


class Answer:
    """A status, headers by their names in lower case, and the body."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)


class Client:
    """One connection to *place*: a path, or (host, port)."""

    def __init__(self, place, timeout_s=20):
        self.socket = socket.socket(socket.AF_UNIX if isinstance(place, str) else socket.AF_INET)
        self.socket.settimeout(timeout_s)
        try:
            self.socket.connect(place)
        except OSError:
            self.socket.close()
            raise
        self._rest = b""

    def send(self, data):
        self.socket.sendall(data)

    def answer(self):
        """The next answer. EOFError: there is none."""
        while b"\r\n\r\n" not in self._rest:
            self._read_on()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status, size = int(first.split()[1]), int(headers.get("content-length", "0"))
        while len(self._rest) < size:
            self._read_on()
        body, self._rest = self._rest[:size], self._rest[size:]
        return Answer(status, headers, body)

    def _read_on(self):
        more = self.socket.recv(1 << 20)
        if not more:
            raise EOFError(self._rest)
        self._rest += more

    def ask(self, method, target, body=b"", *, chunked=False, **headers):
        """Send a request; returns its answer."""
        self.send(request(method, target, body, chunked=chunked, **headers))
        return self.answer()

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def request(method, target, body=b"", *, chunked=False, **headers):
    """A request's bytes; in a header's name _ is -."""
    named = {"Host": "localhost"} | {name.replace("_", "-"): value for name, value in headers.items()}
    if chunked:
        named["Transfer-Encoding"] = "chunked"
        cut = [body[at : at + 1000] for at in range(0, len(body), 1000)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in cut) + b"0\r\n\r\n"
    elif body:
        named["Content-Length"] = len(body)
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def event(name="A", **properties):
    """An event's JSON text, with an ``$insert_id`` of its own."""
    own = {"token": TOKEN, "$insert_id": uuid.uuid4().hex, **properties}
    return json.dumps({"event": name, "properties": own}).encode()


class Intake:
    """The intake as a process for the queue in *queue_path*."""

    def __init__(self, queue_path, **environ):
        self.queue_path = queue_path
        # The path of a Unix socket must be short.
        self._directory = tempfile.TemporaryDirectory(prefix="fwd")
        self.socket = os.path.join(self._directory.name, "s")
        self.environ = {
            **os.environ,
            "FORWARDER_QUEUE_PATH": queue_path,
            "FORWARDER_QUEUE_MIN_FREE_BYTES": "0",
            "FORWARDER_INTAKE_SOCKET": self.socket,
            "FORWARDER_INTAKE_LISTEN": "127.0.0.1:0",
            "FORWARDER_INTAKE_TOKENS": TOKEN,
            "FORWARDER_LOG_FORMAT": "json",
            **environ,
        }
        self.processes = []

    def start(self, listening=None, times=None, command=()):
        """Start it; returns the process once it is ready.

        Args:
            listening: A socket to pass as systemd does.
            times: What replaces constants of its modules, such as ``{"connection.IDLE_S": 1}``.
            command: How to start it in another way.
        """
        if times:
            command = [sys.executable, "-c", _IN_A_HURRY, json.dumps(times), "intake"]
        environ, fds = dict(self.environ), ()
        if listening:
            fds = (listening.fileno(),)
            environ["LISTEN_FDS"] = "1"
            command = [
                sys.executable,
                "-c",
                _AS_SYSTEMD,
                str(fds[0]),
                *(command or (sys.executable, "-m", "forwarder", "intake")),
            ]
        process = Daemon(environ, ["intake"], command, fds)
        self.processes.append(process)
        self.places = process.wait_for("intake.started")["places"]
        return process

    @property
    def process(self):
        return self.processes[-1]

    @property
    def tcp(self):
        """Host and port."""
        [place] = [place for place in self.places if place.startswith("http")]
        host, _, port = place.removeprefix("http://").rpartition(":")
        return host, int(port)

    @property
    def url(self):
        return "http://{}:{}".format(*self.tcp)

    def client(self, place=None, **options):
        return Client(place or self.socket, **options)

    def ask(self, method, target, body=b"", **options):
        """A request on a connection of its own."""
        with self.client() as client:
            return client.ask(method, target, body, **options)

    def close(self):
        for process in self.processes:
            process.close()
        self._directory.cleanup()


def waiting(queue_path, kind="event"):
    """All records that wait, as values; looked at as `peek` does."""
    found, after = [], 0
    with spool.at(queue_path, KINDS[kind]).view() as view:
        while more := view.peek(1000, after):
            found += [json.loads(each.data) for each in more]
            after = more[-1].id
    return found


def dead(queue_path, kind="event"):
    """(data, reason) of each dead letter."""
    with contextlib.suppress(spool.NoQueueError), spool.at(queue_path, KINDS[kind]).view() as view:
        return [(each.data, each.reason) for each in view.dead_letters(Selection())]
    return []


def names(queue_path, kind="event"):
    """The names of the events that wait."""
    return [record["event"] for record in waiting(queue_path, kind)]
