"""Each setting of [mixpanel] and [delivery] is in force where it says: in requests, batches and waits."""

import socket
import threading
import time
from contextlib import ExitStack, closing

import pytest

from forwarder import config
from forwarder.delivery.wire.client import new_client
from forwarder.delivery.wire.outcome import judge
from forwarder.errors import ConfigError
from forwarder.records import EVENTS
from forwarder.records.event import accept
from forwarder.records.verdict import Outcome, Verdict
from forwarder.sandbox import Fault
from forwarder.service.daemon_log import DaemonLog
from forwarder.service.worker import Worker
from forwarder.spool import EventQueue
from forwarder.spool.sqlite.presence import Presence

FAILED = Outcome(Verdict.UNREACHABLE, "it failed")


class Way:
    """A worker and a client, made from settings and driven by hand, with a clock of its own."""

    def __init__(self, settings, stack):
        lock = Presence(settings.queue.path)
        stack.callback(lock.release)
        self.client, _ = new_client(settings, EVENTS)
        stack.callback(self.client.close)
        self.worker = Worker(settings, lock, DaemonLog(), 10.0)
        stack.callback(self.worker.close)
        self.now = 1000.0

    def turn(self, after_s=0.0):
        """What is sent *after_s* later."""
        self.now += after_s
        sent = []
        self.worker.work(self.now, lambda _, batch: sent.append(batch))
        return sent

    def post(self, batch):
        """Send it to the server; returns the reply, and has it acted on in the next turn."""
        reply = self.client.post(EVENTS.pack(batch.events))
        self.worker.receive(EVENTS, batch, judge(EVENTS, reply, batch.events, self.client.strict))
        return reply

    def fail(self, batch):
        """Have it come back without an answer."""
        self.worker.receive(EVENTS, batch, FAILED)

    def rounds(self):
        """Deliver everything, and yield what was out at once each time."""
        while sent := self.turn():
            yield sent
            for batch in sent:
                assert self.post(batch).status == 200


@pytest.fixture
def offer(queue_path):
    """Put so many events of a size into the queue."""

    def put(count, size=0):
        texts = [
            b'{"event":"e","properties":{"distinct_id":"d","time":1700000000,"$insert_id":"id-%d","x":"%s"}}'
            % (number, b"x" * size)
            for number in range(count)
        ]
        with EventQueue(queue_path, min_free_bytes=0) as queue:
            queue.append([accept(text, int(time.time() * 1000)) for text in texts])

    return put


@pytest.fixture
def way(queue_path, server, monkeypatch):
    """Makes the way from settings, which are given as in the environment."""
    monkeypatch.setenv("FORWARDER_MIXPANEL_TOKEN", "sandbox-token")
    with ExitStack() as stack:
        EventQueue(queue_path, min_free_bytes=0).close()

        def make(without_token=False, **given):
            if without_token:
                monkeypatch.delenv("FORWARDER_MIXPANEL_TOKEN")
            environ = {
                "mixpanel_url": server.url,
                "delivery_linger_s": "0",
                "queue_path": queue_path,
            } | given
            return Way(
                config.load(None, {f"FORWARDER_{key}".upper(): environ[key] for key in environ}), stack
            )

        yield make


def test_no_setting_is_left_out():
    """Each key of the two sections has a test here, which has it in its name."""
    keys = {key.replace(".", "_") for key in config.SETTINGS if key.startswith(("mixpanel.", "delivery."))}
    names = " ".join(name for name in globals() if name.startswith("test_"))
    assert {key for key in keys if key not in names} == set()


def test_mixpanel_region(way, monkeypatch):
    """The region's own host is asked, and no other."""
    with closing(socket.create_server(("127.0.0.1", 0))) as proxy:
        asked = []

        def listen():
            connection, _ = proxy.accept()
            with connection, connection.makefile("rb") as incoming:
                asked.append(incoming.readline())

        thread = threading.Thread(target=listen)
        thread.start()
        monkeypatch.setenv("HTTPS_PROXY", "http://{}:{}".format(*proxy.getsockname()))
        way(mixpanel_url="", mixpanel_region="eu").client.post(b"")
        thread.join(20)
    assert [line.split()[:2] for line in asked] == [[b"CONNECT", b"api-eu.mixpanel.com:443"]]


def test_mixpanel_url(way, offer, server):
    """Requests go to the address that is given."""
    offer(1)
    assert list(way().rounds())
    assert [request.path.partition("?")[0] for request in server.ledger.requests] == ["/import"]


def test_mixpanel_project_id_mixpanel_service_account_mixpanel_secret_file(way, offer, server, tmp_path):
    """A service account signs in with its own secret, for its project."""
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text("secret\n")
    offer(1)
    account = {"mixpanel_service_account": "user", "mixpanel_project_id": "123"}
    assert list(way(without_token=True, mixpanel_secret_file=str(secret), **account).rounds())
    (request,) = server.ledger.requests
    assert "project_id=123" in request.path


def test_mixpanel_token_file(way, offer, server, tmp_path):
    """The token is read from its file."""
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("sandbox-token\n")
    offer(1)
    assert list(way(without_token=True, mixpanel_token_file=str(token)).rounds())
    assert server.ledger.accepted == 1


@pytest.mark.parametrize(("given", "asked"), [("true", "strict=1"), ("false", "strict=0")])
def test_mixpanel_strict(given, asked, way, offer, server, rows, queue_path):
    """The server is asked for it, and its answer is understood accordingly: everything is settled."""
    offer(3)
    assert list(way(mixpanel_strict=given).rounds())
    assert [request.path.count(asked) for request in server.ledger.requests] == [1]
    assert rows(queue_path) == []


@pytest.mark.parametrize(("given", "asked"), [("true", 0), ("false", 1)])
def test_mixpanel_geolocate(given, asked, way, offer, server):
    """Unless it is on, the server is told not to place events where this host is."""
    offer(1)
    assert list(way(mixpanel_geolocate=given).rounds())
    assert [request.path.count("ip=0") for request in server.ledger.requests] == [asked]


def test_mixpanel_ca_file(way, tmp_path):
    """The bundle is read by who connects: one without a certificate is refused by name."""
    bundle = tmp_path / "empty.pem"
    bundle.touch()
    with pytest.raises(ConfigError, match=r"mixpanel\.ca_file"):
        way(mixpanel_url="https://mixpanel.invalid", mixpanel_ca_file=str(bundle))


def test_delivery_batch_events(way, offer, server):
    """A request has at most so many events."""
    offer(7)
    assert list(way(delivery_batch_events="3").rounds())
    assert sorted(request.events for request in server.ledger.requests) == [1, 3, 3]


def test_delivery_batch_bytes(way, offer, server):
    """A request has at most so many bytes, uncompressed."""
    offer(4, size=500_000)
    assert list(way(delivery_batch_bytes="1MiB").rounds())
    assert sorted(request.events for request in server.ledger.requests) == [2, 2]
    assert max(request.size_bytes for request in server.ledger.requests) <= 2**20


def test_delivery_linger_s(way, offer):
    """A part-filled batch waits so long for company, and no longer."""
    offer(1)
    found = way(delivery_linger_s="100")
    assert [len(found.turn(after_s)) for after_s in (0, 99, 1)] == [0, 0, 1]


@pytest.mark.parametrize("most", [1, 2, 5])
def test_delivery_connections(most, way, offer):
    """So many requests are out at once, as soon as the server is found to bear them, and never more."""
    offer(60)
    at_once = [len(sent) for sent in way(delivery_connections=str(most), delivery_batch_events="1").rounds()]
    assert sum(at_once) == 60
    assert max(at_once) == most


def test_delivery_connect_timeout_s(way):
    """A server that does not take the connection is given up after so long."""
    with ExitStack() as stack:
        full = stack.enter_context(closing(socket.socket()))
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(closing(socket.socket()))
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        url = "http://{}:{}".format(*full.getsockname())
        client = way(mixpanel_url=url, delivery_connect_timeout_s="0.2").client
        began_at = time.monotonic()
        assert client.post(b"").error.startswith("no connection")
        assert time.monotonic() - began_at < 3


def test_delivery_read_timeout_s(way, server):
    """A server that does not answer is given up after so long."""
    server.inject(Fault.hang())
    client = way(delivery_read_timeout_s="0.2").client
    began_at = time.monotonic()
    assert client.post(EVENTS.pack([b"{}"])).error.startswith("no whole answer")
    assert time.monotonic() - began_at < 10


def waits_s(way, tries):
    """How many seconds, in whole ones, pass from a failure to the next try, one after the other."""
    found = []
    (batch,) = way.turn()
    for _ in range(tries):
        way.fail(batch)
        assert way.turn() == []
        failed_at = way.now
        while not (sent := way.turn(1.0)):
            pass
        (batch,) = sent
        found.append(way.now - failed_at)
    return found


def test_delivery_retry_initial_s(way, offer):
    """After a failure so long, and 1 to 5 seconds, until the next try."""
    offer(1)
    (first,) = waits_s(way(delivery_retry_initial_s="20"), 1)
    assert 20 + 1 <= first <= 20 + 5 + 1


def test_delivery_retry_max_s(way, offer):
    """However often it fails, not longer than so, and 1 to 5 seconds; the first time up to as much again."""
    offer(1)
    found = waits_s(way(delivery_retry_initial_s="5", delivery_retry_max_s="12"), 5)
    assert 12 + 1 <= found[2] <= 12 + 12 + 5 + 1
    assert all(12 + 1 <= each <= 12 + 5 + 1 for each in found[3:])
