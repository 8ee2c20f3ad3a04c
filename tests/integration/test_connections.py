"""Connections over real sockets: kept, replaced, given up, and fast again after they died in silence."""

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from forwarder.delivery.wire import connection
from forwarder.records import PROFILES
from tests.integration.wire_server import (  # noqa: F401  three of them are fixtures
    SHORT_S,
    SOON_S,
    YES,
    Server,
    answering,
    certificate_fixture,
    http,
    make_fixture,
    reset,
    resolving,
    serving_fixture,
    silent,
    yes,
)

BODY = b"a body"
LARGE = os.urandom(8 * 1024 * 1024)


@pytest.fixture(params=["plain", "tls"])
def link(request, make):
    """Serves a behaviour without and with TLS, and makes clients that trust it."""
    if request.param == "plain":
        yield Server, make
        return
    serving, certificate = request.getfixturevalue("serving"), request.getfixturevalue("certificate")
    yield (
        lambda behave: Server(behave, serving),
        lambda url, **options: make(url, ca_file=str(certificate / "cert.pem"), **options),
    )


def posts(client, count, body=BODY):
    """That many requests at the same time."""
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(client.post, [body] * count))


def gathering(count, behave):
    """*behave*, each time *count* requests are there."""
    together = threading.Barrier(count)

    def gathered(connection, request):
        together.wait(SOON_S)
        return behave(connection, request)

    return gathered


def test_a_connection_is_kept_for_the_next_request(make):
    """Many requests need one connection; each has its own body."""
    with answering(http(200, YES)) as server:
        client = make(server.url)
        replies = [client.post(b"%d" % number) for number in range(5)]

    assert [reply.status for reply in replies] == [200] * 5
    assert [reply.is_fresh for reply in replies] == [True, False, False, False, False]
    assert server.connections == 1
    assert [request.body for request in server.requests] == [b"0", b"1", b"2", b"3", b"4"]


def test_threads_share_a_client_and_each_gets_its_own_answer(make):
    """Ten requests at once are ten connections, kept, and no answer goes to another's question."""

    def echo(connection, request):
        connection.sendall(http(200, request.body))
        return True

    with Server(gathering(10, echo)) as server, ThreadPoolExecutor(10) as threads:
        client = make(server.url, connections=10)
        bodies = [b"%d" % number for number in range(10)]
        rounds = [list(threads.map(client.post, bodies)) for _ in range(10)]

    assert all([reply.body for reply in replies] == bodies for replies in rounds)
    assert server.connections == 10


def test_no_more_connections_are_kept_than_asked_for(make):
    """What came on top in a burst is closed."""
    behave = gathering(3, yes)
    with Server(behave) as server:
        client = make(server.url, connections=2)
        posts(client, 3)
        posts(client, 3)

    assert server.connections == 4


DEATHS = {
    "no answer": b"",
    "status line": b"HTTP/1.1 20",
    "headers": b"HTTP/1.1 200 OK\r\nContent-Length: 1",
    "body": http(200, YES)[:-1],
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
}


@pytest.mark.parametrize("end", [reset, lambda connection: None], ids=["reset", "close"])
@pytest.mark.parametrize("part", DEATHS.values(), ids=DEATHS)
def test_a_kept_connection_that_dies_is_replaced_at_once(link, caplog, part, end):
    """At whatever point of an answer the server ends it, nobody notices: one request more, over a new one."""
    serve, make = link

    def behave(connection, request):
        if len(server.requests) != 2:
            return yes(connection, request)
        connection.sendall(part)
        return end(connection)

    with serve(behave) as server:
        client = make(server.url)
        replies = [client.post(b"1"), client.post(b"2"), client.post(b"3")]

    assert [(reply.status, reply.error, reply.is_cut) for reply in replies] == [(200, "", False)] * 3
    assert [reply.is_fresh for reply in replies] == [True, True, False]
    assert [request.body for request in server.requests] == [b"1", b"2", b"2", b"3"]
    assert caplog.records == []


def test_where_each_repeat_counts_nothing_is_sent_twice(make, monkeypatch):
    """An update is not sent again when a kept connection dies; and one that was idle for long is not used."""

    def behave(connection, request):
        return yes(connection, request) if len(server.requests) != 2 else reset(connection)

    with Server(behave) as server:
        client = make(server.url, kind=PROFILES)
        replies = [client.post(b"1"), client.post(b"2"), client.post(b"3")]
        monkeypatch.setattr(client._route, "idle_s", 0.0)
        replies.append(client.post(b"4"))

    assert [request.body for request in server.requests] == [b"1", b"2", b"3", b"4"]
    assert [(reply.status, reply.is_sent) for reply in replies] == [(200, 1), (None, 1), (200, 1), (200, 1)]
    assert [reply.is_fresh for reply in replies] == [True, False, True, True]


def test_a_kept_connection_that_dies_while_a_body_is_sent_is_replaced(link):
    """Ended in the middle of a large request, it is no outage either."""
    serve, make = link
    ended = threading.Event()

    def behave(connection, request):
        yes(connection, request)
        if ended.is_set():
            return True
        ended.set()
        connection.recv(100)
        return reset(connection)

    with serve(behave) as server:
        client = make(server.url)
        assert client.post(BODY).status == 200
        assert client.post(LARGE).status == 200

    assert server.requests[-1].body == LARGE


def test_all_kept_connections_that_died_cost_one_retry(make):
    """When a server has forgotten all its connections, neither the retry nor what follows tries another."""
    behave = gathering(3, yes)
    tried = []

    def forgetful(connection, request):
        if connection not in forgotten:
            return behave(connection, request)
        tried.append(connection)
        return None

    with Server(forgetful) as server:
        forgotten = []
        client = make(server.url)
        posts(client, 3)
        forgotten += server.open
        behave = yes
        assert client.post(BODY).status == 200
        behave = gathering(3, yes)
        assert {reply.status for reply in posts(client, 3)} == {200}

    assert len(tried) == 1


def test_a_new_connection_that_is_closed_is_an_error_at_once(link):
    """A server that never answers is not asked twice."""
    serve, make = link
    with serve(lambda connection, request: False) as server:
        reply = make(server.url).post(BODY)

    assert (reply.status, reply.is_fresh, reply.is_cut) == (None, True, True)
    assert reply.error == f"{server.host} cut the connection before the whole answer came"
    assert len(server.requests) == 1


def test_a_new_connection_is_not_taken_for_a_kept_one(make):
    """After the server ended a connection in good order, the next one's failure is a failure."""

    def behave(connection, request):
        if len(server.requests) == 1:
            connection.sendall(http(200, YES, Connection="close"))
        return False

    with Server(behave) as server:
        client = make(server.url)
        replies = [client.post(b"1"), client.post(b"2")]

    assert [reply.status for reply in replies] == [200, None]
    assert [request.body for request in server.requests] == [b"1", b"2"]


def test_a_server_that_stops_answering_is_not_asked_again_at_once(make):
    """Silence on a kept connection is a timeout, which costs its time once."""

    def behave(connection, request):
        return yes(connection, request) if len(server.requests) == 1 else silent(connection, request)

    with Server(behave) as server:
        client = make(server.url, read_timeout_s=SHORT_S)
        replies = [client.post(b"1"), client.post(b"2")]

    assert [reply.status for reply in replies] == [200, None]
    assert (replies[1].is_fresh, replies[1].is_cut) == (False, True)
    assert len(server.requests) == 2


@pytest.mark.parametrize("limit", ["OLD_S", "IDLE_S"])
def test_an_old_or_idle_connection_is_not_used_again(make, monkeypatch, limit):
    """Who knows what still stands behind it, and at which address the server is by now."""
    with answering(http(200, YES)) as server:
        client = make(server.url)
        client.post(BODY)
        client.post(BODY)
        monkeypatch.setattr(connection, limit, 0)
        assert client.post(BODY).is_fresh

    assert server.connections == 2


@pytest.mark.parametrize("status", [200, 400, 413, 429, 408, 500, 503, 302, 401, 404])
def test_a_name_is_resolved_again_after_what_is_no_judgement(make, monkeypatch, status):
    """DNS that moves while the old address goes on answering 503 is followed at the next try."""
    behave = gathering(2, yes)
    moved = threading.Event()

    def old(connection, request):
        if not moved.is_set():
            return behave(connection, request)
        connection.sendall(http(status))
        return True

    with Server(old) as before, Server(yes) as after:
        addresses = [before.address]
        resolving(monkeypatch, addresses)
        client = make("http://mixpanel.invalid/import")
        posts(client, 2)  # two kept connections
        moved.set()
        addresses[:] = [after.address]
        assert client.post(BODY).status == status
        reply = client.post(BODY)

    is_judgement = status in (200, 400, 413, 429)
    assert reply.is_fresh is not is_judgement
    assert len(after.requests) == (not is_judgement)


def test_refresh_resolves_names_again(make, monkeypatch):
    """What `flush` does: the next request goes where the name leads now."""
    with Server(yes) as before, Server(yes) as after:
        addresses = [before.address]
        asked = resolving(monkeypatch, addresses)
        client = make("http://mixpanel.invalid/import")
        client.post(BODY)
        addresses[:] = [after.address]
        client.post(BODY)
        client.refresh()
        client.post(BODY)

    assert (len(before.requests), len(after.requests)) == (2, 1)
    assert asked == ["mixpanel.invalid"] * 2


@contextlib.contextmanager
def dead_address():
    """An address that takes no connection and refuses none: its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as stack:
        while True:
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.2)
            try:
                filler.connect(listener.getsockname())
            except TimeoutError:
                break
        yield listener.getsockname()


@pytest.mark.parametrize("dead_s", [connection.DEAD_S, 0.0])
def test_a_dead_address_is_tried_last_for_a_while(make, monkeypatch, dead_s):
    """Of two addresses the dead one costs one connect timeout, until its time is over."""
    monkeypatch.setattr(connection, "DEAD_S", dead_s)
    took_s = []
    with dead_address() as dead, Server(yes) as server:
        resolving(monkeypatch, [dead, server.address])
        client = make("http://mixpanel.invalid/import", connect_timeout_s=SHORT_S)
        for _ in range(2):
            client.refresh()
            began = time.monotonic()
            assert client.post(BODY).status == 200
            took_s.append(time.monotonic() - began)

    assert took_s[0] >= SHORT_S
    assert (took_s[1] < SHORT_S) is (dead_s > 0)


def test_only_dead_addresses_are_tried_all_the_same(make, monkeypatch):
    """Each has its time, and a server that is back is found."""
    with dead_address() as dead:
        resolving(monkeypatch, [dead, dead])
        client = make("http://mixpanel.invalid/import", connect_timeout_s=SHORT_S)
        began = time.monotonic()
        reply = client.post(BODY)
        took_s = time.monotonic() - began
        with Server(yes) as server:
            resolving(monkeypatch, [dead, server.address])
            assert client.post(BODY).status == 200

    assert reply.error == "no connection to mixpanel.invalid:80 in time"
    assert (reply.is_cut, reply.took_s) == (False, 0)
    assert SHORT_S * 2 <= took_s < SHORT_S * 5


def slow_reader(bytes_a_turn, turn_s):
    """A behaviour of which only the kernel's part is used: it reads the body that slowly, then answers."""

    def serve(listener, size, wrap):
        plain, _ = listener.accept()
        with plain, wrap(plain) as taken:
            taken.settimeout(SOON_S)
            left = size
            while left > 0 and (came := taken.recv(min(bytes_a_turn, left + 1000))):
                left -= len(came)
                time.sleep(turn_s)  # the fault itself
            taken.sendall(http(200, YES))
            taken.recv(1)

    return serve


@pytest.mark.parametrize(("tls", "buffer_bytes"), [(False, 4_000_000), (True, 4_000_000), (False, 8192)])
def test_a_slow_uplink_is_not_given_up_as_long_as_bytes_are_acknowledged(
    make, monkeypatch, serving, certificate, tls, buffer_bytes
):
    """A request may take many times the read timeout to go out, whether or not the system holds all of it."""
    buffer = (socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
    monkeypatch.setattr(connection, "OPTIONS", (*connection.OPTIONS, buffer))
    size = 300_000
    with socket.socket() as listener, ThreadPoolExecutor(1) as threads:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        wrap = (lambda plain: serving.wrap_socket(plain, server_side=True)) if tls else contextlib.nullcontext
        done = threads.submit(slow_reader(8192, 0.04), listener, size, wrap)
        url = f"http{'s' if tls else ''}://127.0.0.1:{listener.getsockname()[1]}/import"
        client = make(url, read_timeout_s=SHORT_S, ca_file=str(certificate / "cert.pem") if tls else "")
        reply = client.post(os.urandom(size))
        client.close()
        done.result(SOON_S)

    assert (reply.status, reply.error) == (200, "")
    assert reply.took_s > 2 * SHORT_S


@pytest.mark.parametrize("tls", [False, True])
def test_a_server_that_does_not_read_is_given_up_in_time(make, serving, certificate, tls):
    """Sending ends in time too, when the other side takes nothing."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as deaf, ThreadPoolExecutor(1) as threads:

        def shake_hands():
            plain, _ = deaf.accept()
            with serving.wrap_socket(plain, server_side=True) if tls else plain:
                stop.wait(SOON_S)

        done = threads.submit(shake_hands)
        url = f"http{'s' if tls else ''}://127.0.0.1:{deaf.getsockname()[1]}/import"
        client = make(url, read_timeout_s=SHORT_S, ca_file=str(certificate / "cert.pem") if tls else "")
        reply = client.post(LARGE * 8)
        stop.set()
        done.result(SOON_S)

    assert (reply.status, reply.is_cut) == (None, True)
    assert reply.error.endswith("in time")
    assert reply.took_s < SOON_S / 2


def test_a_request_is_not_endless_although_bytes_are_acknowledged(make, monkeypatch):
    """Ten read timeouts are the most for a request with its answer."""
    monkeypatch.setattr(connection, "BOUND", 2)
    with socket.socket() as listener, ThreadPoolExecutor(1) as threads:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        done = threads.submit(slow_reader(8192, 0.04), listener, 900_000, contextlib.nullcontext)
        client = make(f"http://127.0.0.1:{listener.getsockname()[1]}/import", read_timeout_s=SHORT_S)
        reply = client.post(bytes(900_000))
        with contextlib.suppress(OSError):
            done.result(SOON_S)

    assert reply.error.endswith("in time")
    assert 2 * SHORT_S <= reply.took_s < SOON_S / 2


def test_a_large_body_on_a_slow_line_has_more_than_the_connect_timeout(make):
    """The connect timeout is for connecting: sending may take longer."""
    with socket.create_server(("127.0.0.1", 0)) as slow, ThreadPoolExecutor(1) as threads:
        done = threads.submit(slow_reader(1 << 20, SHORT_S / 4), slow, len(LARGE), contextlib.nullcontext)
        client = make(f"http://127.0.0.1:{slow.getsockname()[1]}/import", connect_timeout_s=SHORT_S)
        reply = client.post(LARGE)
        client.close()
        done.result(SOON_S)

    assert (reply.status, reply.error) == (200, "")


def run(command):
    subprocess.run(command.split(), check=True, capture_output=True)


class Network:
    """A host of its own behind a link of its own, with two addresses, a listener, and faults on the way."""

    def __init__(self, stack):
        # Tests run beside each other.
        name = self.name = f"fwd{os.getpid()}"
        here, self.first, self.second = (f"10.201.{os.getpid() % 256}.{last}" for last in (1, 2, 3))
        run(f"ip netns add {name}")
        stack.callback(run, f"ip netns del {name}")
        run(f"ip link add {name} type veth peer name peer netns {name}")
        # Its other end would live on for a moment, and the name with it.
        stack.callback(run, f"ip link del {name}")
        run(f"ip addr add {here}/24 dev {name}")
        run(f"ip link set {name} up")
        for command in ("link set lo up", "link set peer up"):
            run(f"ip -n {name} {command}")
        for address in (self.first, self.second):
            run(f"ip -n {name} addr add {address}/24 dev peer")

    def listener(self):
        """A socket of that host, at all its addresses; only the thread that makes it goes there."""

        def listen():
            with open(f"/run/netns/{self.name}") as place:
                if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), 0):
                    raise OSError(ctypes.get_errno(), "setns")
            return socket.create_server(("", 0))

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(listen).result()

    def lose(self, address):
        """From now on all that is sent to *address* is lost without a word: nobody has that MAC."""
        run(f"ip neigh replace {address} lladdr 02:00:00:00:00:99 dev {self.name} nud permanent")

    def shape(self, how):
        """What tc does to all that is sent there."""
        run(f"tc qdisc add dev {self.name} root {how}")


@pytest.fixture
def network():
    """A network of its own; it takes root, and the commands ip and tc."""
    with contextlib.ExitStack() as stack:
        try:
            yield Network(stack)
        except (OSError, subprocess.CalledProcessError) as problem:
            pytest.skip(f"no network can be made here: {problem}")


def test_ten_connections_that_died_in_silence_cost_six_seconds_at_most(network, make, monkeypatch):
    """A NAT has forgotten them all: the next burst finds out soon, on all at the same time."""
    behave = gathering(10, yes)
    monkeypatch.setattr(connection, "PAUSE_S", 0)
    with Server(behave, listener=network.listener()) as server:
        addresses = [(network.first, server.address[1])]
        resolving(monkeypatch, addresses)
        client = make("http://mixpanel.invalid/import", read_timeout_s=60, connections=10)
        assert {reply.status for reply in posts(client, 10)} == {200}
        network.lose(network.first)
        addresses[:] = [(network.second, server.address[1])]
        began = time.monotonic()
        replies = posts(client, 10)
        took_s = time.monotonic() - began

    assert [(reply.status, reply.is_fresh) for reply in replies] == [(200, True)] * 10
    assert server.connections == 20
    assert 3 < took_s < 6


def test_a_slow_line_is_not_taken_for_a_dead_one(network, make, monkeypatch):
    """Ten kept connections at once on a line that holds back for many seconds: some are acknowledged late."""
    behave = gathering(10, yes)
    monkeypatch.setattr(connection, "PAUSE_S", 0)
    monkeypatch.setattr(connection, "DROPPED_S", 1.0)
    with Server(behave, listener=network.listener()) as server:
        client = make(f"http://{network.first}:{server.address[1]}/import", connections=10)
        posts(client, 10)
        network.shape("tbf rate 512kbit burst 2k latency 100s")
        replies = posts(client, 10, os.urandom(20_000))

    assert [(reply.status, reply.is_fresh) for reply in replies] == [(200, False)] * 10
    assert max(reply.took_s for reply in replies) > 2


def test_a_slow_line_has_the_time_it_needs(network, make):
    """At 128 kbit/s a body takes many times the read timeout; the answer's time starts after that."""
    with Server(yes, listener=network.listener()) as server:
        network.shape("tbf rate 128kbit burst 2k latency 100s")
        client = make(f"http://{network.first}:{server.address[1]}/import", read_timeout_s=SHORT_S)
        reply = client.post(os.urandom(40_000))

    assert (reply.status, reply.error) == (200, "")
    assert reply.took_s > 4 * SHORT_S
    assert reply.upload_s > 3 * SHORT_S
