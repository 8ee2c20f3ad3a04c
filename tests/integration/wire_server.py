"""Servers on this host that do what a test tells them to, byte by byte, and clients of them."""

import base64
import contextlib
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time

import pytest

from forwarder.config import Credentials
from forwarder.delivery.wire.client import Client
from forwarder.records import EVENTS

ACCOUNT = Credentials("user", "s3cr€t", "123")
YES = b'{"code":200,"num_records_imported":1,"status":"OK"}'
SHORT_S = 0.4
SOON_S = 10.0  # far above SHORT_S: what is not over by then hangs


def http(status, body=b"", **headers):
    """An answer's bytes, with its length unless headers say otherwise."""
    headers = {"Content-Length": len(body)} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def basic(username, password):
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


class Request:
    """What a client sent: the first line, the headers (lower case) and the body."""

    def __init__(self, incoming):
        self.line = incoming.readline().decode().strip()
        if not self.line:
            raise EOFError
        self.headers = {}
        while line := incoming.readline().decode().strip():
            name, value = line.split(": ", 1)
            self.headers[name.lower()] = value
        self.body = incoming.read(int(self.headers.get("content-length", 0)))


class Server:
    """A server on this host that does with each request what *behave(connection, request)* does.

    *behave* returns True to go on with the next request on the same connection. *requests* holds
    all that came, *connections* how many there were. *listener*: an open one, instead of its own.
    """

    def __init__(self, behave, context=None, listener=None):
        self.behave, self.context = behave, context
        self.requests, self.connections, self.open = [], 0, []
        self.stopping = threading.Event()
        self.listener = listener or socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.host = f"{self.address[0]}:{self.address[1]}"
        self.url = f"http{'s' if context else ''}://{self.host}/import"
        self.threads = [threading.Thread(target=self.accept)]

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self.open.append(connection)
            self.threads.append(threading.Thread(target=self.serve, args=(connection,)))
            self.threads[-1].start()

    def serve(self, connection):
        with contextlib.suppress(OSError, EOFError), contextlib.ExitStack() as stack:
            stack.enter_context(connection)
            if self.context:
                # Wrapping leaves the plain socket empty, so that only the wrapped one can be ended.
                connection = stack.enter_context(self.context.wrap_socket(connection, server_side=True))
                self.open.append(connection)
            incoming = stack.enter_context(connection.makefile("rb"))
            while not self.stopping.is_set():
                request = Request(incoming)
                self.requests.append(request)
                if not self.behave(connection, request):
                    return

    def __enter__(self):
        self.threads[0].start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.threads[0].join(SOON_S)
        for connection in self.open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(SOON_S)
        self.listener.close()
        assert not any(thread.is_alive() for thread in self.threads)


def answering(*answers, context=None):
    """A server that gives these answers in turn, the last one again and again, and keeps connections."""
    left = list(answers)

    def behave(connection, request):
        connection.sendall(left.pop(0) if len(left) > 1 else left[0])
        return True

    return Server(behave, context)


def drip(connection, data):
    """Sends one byte every few milliseconds, until the other side has had enough."""
    for byte in data:
        connection.sendall(bytes([byte]))
        time.sleep(SHORT_S / 20)  # the fault itself, not a wait for something
    return True


def yes(connection, request):
    """Imports the event."""
    connection.sendall(http(200, YES))
    return True


def silent(connection, request):
    """Never answers; ends when the client does."""
    connection.recv(1)


def reset(connection):
    """Ends a connection with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def resolving(monkeypatch, addresses):
    """Every name has the *addresses*, pairs of host and port, as they are at that time; returns who asked."""
    asked = []

    def look_up(host, *_, **__):
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", found) for found in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


@pytest.fixture(name="make")
def make_fixture(monkeypatch):
    """Makes clients, and closes them in the end; the environment of whoever runs the tests has no say."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "NETRC"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    with contextlib.ExitStack() as stack:

        def make(url, credentials=ACCOUNT, kind=EVENTS, **options):
            options = {"connect_timeout_s": SOON_S, "read_timeout_s": SOON_S} | options
            client = Client(kind, url, credentials, **options)
            stack.callback(client.close)
            return client

        yield make


@pytest.fixture(scope="session", name="certificate")
def certificate_fixture(tmp_path_factory):
    """A self-made certificate for 127.0.0.1 and mixpanel.invalid, its key, and its hash as OpenSSL's name."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed, so that there is no certificate to serve with")
    path = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=server -keyout key.pem -out cert.pem"
    )
    extensions = [
        "-addext",
        "subjectAltName=IP:127.0.0.1,DNS:mixpanel.invalid",
        "-addext",
        "keyUsage=critical,digitalSignature,keyCertSign",
    ]
    subprocess.run([*command.split(), *extensions], cwd=path, check=True, capture_output=True)
    name = subprocess.check_output(
        ["openssl", "x509", "-hash", "-noout", "-in", path / "cert.pem"], text=True
    )
    (path / f"{name.strip()}.0").symlink_to("cert.pem")
    return path


@pytest.fixture(name="serving")
def serving_fixture(certificate):
    """A TLS context for a server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    return context
