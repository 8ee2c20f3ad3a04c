"""Proxies over real sockets: which one is used, what it is told, and who is named when something fails."""

import contextlib
import os
import select
import socket
import ssl
import struct
import sys
import time

import pytest

from forwarder.cli import main
from forwarder.delivery.wire import connection
from forwarder.errors import ConfigError
from tests.integration.wire_server import (  # noqa: F401  three of them are fixtures
    SHORT_S,
    SOON_S,
    YES,
    Server,
    answering,
    basic,
    certificate_fixture,
    drip,
    http,
    make_fixture,
    reset,
    serving_fixture,
    silent,
    yes,
)

BODY = b"a body"
PLAIN, TLS = "http://mixpanel.invalid/import", "https://mixpanel.invalid/import"


def relay(left, right, pause_s=0):
    """Passes on what comes from either side, until one ends; *pause_s*: before the first large piece."""
    other = {left: right, right: left}
    while True:
        ready = [end for end in other if isinstance(end, ssl.SSLSocket) and end.pending()]
        for end in ready or select.select(list(other), [], [])[0]:
            data = end.recv(65536)
            if not data:
                return
            if len(data) > 4096:
                time.sleep(pause_s)  # the fault itself
                pause_s = 0
            other[end].sendall(data)


def tunnelling(server, context=None, listener=None, pause_s=0):
    """A proxy whose tunnels lead to *server*, whatever they were asked for."""

    def behave(connection, request):
        with socket.create_connection(server.address) as onward:
            connection.sendall(b"HTTP/1.1 200 Connection established\r\nVia: a-proxy\r\n\r\n")
            relay(connection, onward, pause_s)

    return Server(behave, context, listener)


@pytest.fixture
def ca_file(certificate):
    """Who vouches for Mixpanel, and for a proxy that speaks TLS."""
    return str(certificate / "cert.pem")


def test_a_plain_request_goes_through_the_proxy(make, monkeypatch):
    """HTTP_PROXY works as everywhere; the proxy is given the whole address and its own credentials."""
    with answering(http(200, YES)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://me:p%40ss@{proxy.host}")
        client = make("http://someone:hidden@mixpanel.invalid/import")
        replies = [client.post(BODY), client.post(BODY)]

    assert [reply.status for reply in replies] == [200, 200]
    assert proxy.connections == 1
    assert proxy.requests[0].line == (
        "POST http://mixpanel.invalid/import?strict=1&project_id=123&ip=0 HTTP/1.1"
    )
    assert proxy.requests[0].headers["host"] == "mixpanel.invalid"
    assert proxy.requests[0].headers["proxy-authorization"] == basic("me", "p@ss")
    assert replies[0].place == f"mixpanel.invalid:80 through the proxy {proxy.host} (http_proxy)"


def test_tls_goes_through_a_tunnel(make, monkeypatch, serving, ca_file):
    """The proxy sees where to connect to and its own credentials; the key is inside. The tunnel is kept."""
    with Server(yes, serving) as server, tunnelling(server) as proxy:
        monkeypatch.setenv("https_proxy", f"http://me:pass@{proxy.host}")
        client = make(TLS, ca_file=ca_file)
        replies = [client.post(BODY), client.post(BODY)]

    assert [(reply.status, reply.is_fresh) for reply in replies] == [(200, True), (200, False)]
    [request] = proxy.requests
    assert request.line.startswith("CONNECT mixpanel.invalid:443 HTTP/1.")
    assert request.headers["proxy-authorization"] == basic("me", "pass")
    assert "authorization" not in request.headers
    assert "proxy-authorization" not in server.requests[0].headers
    assert replies[0].place == f"mixpanel.invalid:443 through the proxy {proxy.host} (https_proxy)"


@pytest.mark.parametrize("trusted_by", ["ca_file", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "a directory"])
@pytest.mark.parametrize("url", [PLAIN, TLS])
def test_a_proxy_that_speaks_tls_is_verified_like_the_server(
    make, monkeypatch, serving, ca_file, trusted_by, url
):
    """TLS within TLS, with large bodies; whoever vouches for the server does for the proxy."""
    body = bytes(range(256)) * 4000
    options = {}
    if trusted_by == "ca_file":
        options["ca_file"] = ca_file
    elif trusted_by == "a directory":
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", os.path.dirname(ca_file))
    else:
        monkeypatch.setenv(trusted_by, ca_file)
    with contextlib.ExitStack() as stack:
        if url == TLS:
            server = stack.enter_context(Server(yes, serving))
            proxy = stack.enter_context(tunnelling(server, serving))
        else:
            server = proxy = stack.enter_context(Server(yes, serving))
        monkeypatch.setenv("all_proxy", f"https://{proxy.host}")
        client = make(url, **options)
        replies = [client.post(body), client.post(body)]

    assert [(reply.status, reply.error) for reply in replies] == [(200, "")] * 2
    assert [request.body == body for request in server.requests] == [True, True]
    assert proxy.connections == 1


def test_a_proxy_that_speaks_tls_may_be_slow(make, monkeypatch, serving, ca_file):
    """What does not go out at once within TLS within TLS is neither lost nor sent twice."""
    body = os.urandom(500_000)
    buffer = (socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    monkeypatch.setattr(connection, "OPTIONS", (*connection.OPTIONS, buffer))

    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with Server(yes, serving) as server, tunnelling(server, serving, listener, SHORT_S * 2) as proxy:
            monkeypatch.setenv("https_proxy", f"https://{proxy.host}")
            reply = make(TLS, ca_file=ca_file).post(body)

    assert (reply.status, reply.error) == (200, "")
    assert server.requests[0].body == body


def test_tls_through_a_tunnel_is_given_up_in_time(make, monkeypatch):
    """After the proxy's answer it is the connect timeout again that holds."""

    def nothing_more(connection, request):
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        connection.recv(10_000)
        connection.recv(1)

    with Server(nothing_more) as proxy:
        monkeypatch.setenv("https_proxy", f"http://{proxy.host}")
        began = time.monotonic()
        reply = make(TLS, connect_timeout_s=SHORT_S).post(BODY)

    place = f"mixpanel.invalid:443 through the proxy {proxy.host} (https_proxy)"
    assert reply.error == f"TLS with {place} failed: no answer in time"
    assert time.monotonic() - began < SOON_S / 2


@pytest.mark.parametrize("url", [PLAIN, TLS])
def test_a_proxy_that_is_not_trusted_is_named(make, monkeypatch, serving, url):
    """It gets neither the key nor the credentials for it."""
    with Server(yes, serving) as proxy:
        monkeypatch.setenv("all_proxy", f"https://me:hidden@{proxy.host}")
        reply = make(url).post(BODY)

    place = f"the proxy {proxy.host} (all_proxy)"
    assert reply.error.startswith(f"TLS: the certificate of {place} is not trusted: self")
    assert (reply.place, reply.is_cut) == (place, False)
    assert proxy.requests == []


def test_a_server_that_is_not_trusted_is_named_behind_a_proxy(make, monkeypatch, serving):
    """The proxy is there too: it may be what stands in for the server."""
    with Server(yes, serving) as server, tunnelling(server) as proxy:
        monkeypatch.setenv("https_proxy", f"http://{proxy.host}")
        reply = make(TLS).post(BODY)

    place = f"mixpanel.invalid:443 through the proxy {proxy.host} (https_proxy)"
    assert reply.error.startswith(f"TLS: the certificate of {place} is not trusted: self")
    assert reply.place == place
    assert server.requests == []


@pytest.mark.parametrize(
    ("environment", "url", "used"),
    [
        ({"HTTPS_PROXY": "proxy"}, TLS, "HTTPS_PROXY"),
        ({"https_proxy": "proxy", "HTTPS_PROXY": "other"}, TLS, "https_proxy"),
        ({"ALL_PROXY": "proxy"}, TLS, "ALL_PROXY"),
        ({"all_proxy": "other", "https_proxy": "proxy"}, TLS, "https_proxy"),
        ({"https_proxy": "other", "all_proxy": "proxy"}, PLAIN, "all_proxy"),
        ({"https_proxy": "", "all_proxy": "proxy"}, TLS, "all_proxy"),
        ({"http_proxy": "other"}, TLS, ""),
        ({"https_proxy": "other", "no_proxy": "mixpanel.invalid"}, TLS, ""),
        ({"https_proxy": "other"}, "https://localhost/import", ""),
        ({"https_proxy": "other"}, "https://127.0.0.2/import", ""),
        ({"https_proxy": "other"}, "https://[::1]/import", ""),
    ],
)
def test_the_proxy_in_use_is_known_with_its_variable(make, monkeypatch, environment, url, used):
    """The one that curl and requests would use; none for a server on this host."""
    for name, value in environment.items():
        is_proxy = value and name.lower() != "no_proxy"
        monkeypatch.setenv(name, f"http://me:hidden@{value}:3128" if is_proxy else value)

    assert make(url).proxy == (f"proxy:3128 ({used})" if used else "")


@pytest.mark.parametrize(
    ("address", "place"),
    [("proxy", "proxy:80"), ("https://proxy", "proxy:443"), ("http://[::2]:3128", "[::2]:3128")],
)
def test_a_proxy_address_may_be_short(make, monkeypatch, address, place):
    """Without a scheme it is http, without a port the scheme's."""
    monkeypatch.setenv("https_proxy", address)

    assert make(TLS).proxy == f"{place} (https_proxy)"


@pytest.mark.parametrize("address", ["ftp://proxy", "http://", "http://me:hidden@proxy:port", "http://[::1"])
def test_a_proxy_address_that_can_not_be_used_is_a_setting_to_correct(make, monkeypatch, address):
    """It is said when the client is made, without what may be a password."""
    monkeypatch.setenv("HTTPS_PROXY", address)

    with pytest.raises(
        ConfigError, match=r"^HTTPS_PROXY is not the address of a proxy\. Give http://HOST:PORT$"
    ):
        make(TLS)


@pytest.mark.parametrize(
    ("status", "known"),
    [(403, 403), (407, 407), (404, 404), (502, None), (503, None), (302, None), (204, None)],
)
def test_a_proxy_that_refuses_to_connect_is_named(make, monkeypatch, status, known):
    """What is to be changed has the status of the proxy; what may pass has none."""
    with answering(http(status, b"<html>", Connection="close")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:hidden@{proxy.host}")
        reply = make(TLS).post(BODY)

    place = f"the proxy {proxy.host} (HTTPS_PROXY)"
    assert reply.error == f"{place} refused to connect to mixpanel.invalid:443: {status} Whatever"
    assert (reply.status, reply.body, reply.place, reply.is_cut) == (known, b"", place, False)
    assert "authorization" not in proxy.requests[0].headers


def test_a_proxy_that_wants_credentials_is_named_for_plain_requests_too(make, monkeypatch):
    """A 407 is the proxy's own, and never Mixpanel's."""
    with answering(http(407, b"log in")) as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
        reply = make(PLAIN).post(BODY)

    assert (reply.status, reply.body) == (407, b"log in")
    assert reply.place == f"the proxy {proxy.host} (http_proxy)"


@pytest.mark.parametrize(
    ("behave", "told"),
    [
        (silent, "no whole answer from {} in time"),
        (lambda connection, request: drip(connection, http(200)), "no whole answer from {} in time"),
        (lambda connection, request: reset(connection), "{} cut the connection before the whole answer came"),
        (lambda connection, request: None, "{} cut the connection before the whole answer came"),
        (lambda connection, request: connection.sendall(b"SSH\r\n"), "the answer from {} is not HTTP"),
    ],
    ids=["silent", "dripping", "reset", "closed", "not HTTP"],
)
def test_a_proxy_that_fails_before_there_is_a_tunnel_is_named(make, monkeypatch, behave, told):
    """It is not Mixpanel's fault, and a smaller request would not help."""
    with Server(behave) as proxy:
        monkeypatch.setenv("https_proxy", f"http://{proxy.host}")
        reply = make(TLS, read_timeout_s=SHORT_S).post(BODY)

    place = f"the proxy {proxy.host} (https_proxy)"
    assert (reply.status, reply.error) == (None, told.format(place))
    assert (reply.place, reply.is_cut, reply.took_s) == (place, False, 0)


def test_a_proxy_that_is_not_there_is_named(make, monkeypatch):
    """Refused, or a name that DNS does not know: it is the proxy's."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host = f"127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv("https_proxy", f"http://me:hidden@{host}")
    refused = make(TLS).post(BODY)

    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("https_proxy", "http://proxy.invalid:3128")
    not_found = make(TLS).post(BODY)

    assert refused.error == f"the proxy {host} (https_proxy) refused the connection"
    assert not_found.error == (
        "DNS: the proxy proxy.invalid:3128 (https_proxy) not found: Name or service not known"
    )


def test_the_time_for_an_answer_holds_through_a_proxy(make, monkeypatch):
    """Who drips can't be known: both are named."""

    def behave(connection, request):
        return drip(connection, http(200, b"x" * 1000))

    with Server(behave) as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
        reply = make(PLAIN, read_timeout_s=SHORT_S).post(BODY)

    place = f"mixpanel.invalid:80 through the proxy {proxy.host} (http_proxy)"
    assert reply.error == f"no whole answer from {place} in time"
    assert SHORT_S <= reply.took_s < 4


def test_a_proxy_is_not_used_for_a_server_on_this_host(make, monkeypatch):
    """The sandbox on loopback is reached, whatever the environment says."""
    with answering(http(200, YES)) as server, answering(http(502)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
        reply = make(server.url).post(BODY)

    assert reply.status == 200
    assert proxy.requests == []


def test_the_proxys_credentials_can_be_hidden(make, monkeypatch):
    """A proxy may repeat them in its answers."""
    signed = basic("me", "pass-of-the-proxy")
    with answering(http(502, f"no pass-of-the-proxy, {signed}".encode())) as proxy:
        monkeypatch.setenv("http_proxy", f"http://me:pass-of-the-proxy@{proxy.host}")
        reply = make(PLAIN).post(BODY)

    assert "pass-of" not in reply.hide(reply.body.decode())
    assert signed not in reply.hide(signed)


@pytest.mark.parametrize("status", [200, 503, 407])
def test_check_names_the_proxy(make, monkeypatch, capfd, serving, ca_file, status):
    """Whoever runs `forwarder check --online` sees by which way Mixpanel was asked, and who refused."""
    monkeypatch.setenv("FORWARDER_MIXPANEL_URL", "https://mixpanel.invalid")
    monkeypatch.setenv("FORWARDER_MIXPANEL_TOKEN", "a-project-token")
    monkeypatch.setenv("FORWARDER_MIXPANEL_CA_FILE", ca_file)
    with answering(http(status, YES), context=serving) as server:
        proxy = tunnelling(server) if status != 407 else answering(http(407, Connection="close"))
        monkeypatch.setenv("https_proxy", f"http://me:hidden@{proxy.host}")
        with proxy, contextlib.suppress(SystemExit):
            main(["check", "--online"])

    [line] = [line for line in capfd.readouterr().out.splitlines() if " Mixpanel" in line]
    said = {200: " accepts the credentials", 503: ": HTTP 503", 407: ": the proxy "}[status]
    assert f"https://mixpanel.invalid/import through the proxy {proxy.host} (https_proxy){said}" in line
    assert "hidden" not in line


@pytest.mark.parametrize("scheme", ["socks4", "socks4a", "socks5", "socks5h"])
def test_a_socks_proxy_without_its_package_is_a_setting_to_correct(make, monkeypatch, scheme):
    """It is said when the client is made, with the package's name."""
    monkeypatch.setitem(sys.modules, "socks", None)
    monkeypatch.setenv("ALL_PROXY", f"{scheme}://proxy:1080")

    with pytest.raises(ConfigError) as caught:
        make(TLS)

    assert str(caught.value) == (
        "ALL_PROXY names a SOCKS proxy, which needs the Python package PySocks."
        " Install it: pip install PySocks"
    )


class Socks(Server):
    """A SOCKS5 proxy on this host: *requests* holds hosts and ports, *behave* comes after *code*."""

    code = 0

    def serve(self, connection):
        with contextlib.suppress(OSError, IndexError, struct.error), connection:
            incoming = connection.makefile("rb", buffering=0)
            incoming.read(incoming.read(2)[1])  # the version, and the ways to log in
            connection.sendall(b"\x05\x00")
            host = incoming.read(incoming.read(5)[4]).decode()
            self.requests.append((host, *struct.unpack("!H", incoming.read(2))))
            connection.sendall(bytes([5, self.code, 0, 1, 0, 0, 0, 0, 0, 0]))
            self.behave(connection)


def test_a_socks_proxy_is_used(make, monkeypatch, serving, ca_file):
    """With PySocks, TLS goes through it, and with socks5h the name is resolved by the proxy."""
    pytest.importorskip("socks")

    def behave(connection):
        with socket.create_connection(server.address) as onward:
            relay(connection, onward)

    with Server(yes, serving) as server, Socks(behave) as proxy:
        monkeypatch.setenv("all_proxy", f"socks5h://{proxy.host}")
        client = make(TLS, ca_file=ca_file)
        replies = [client.post(BODY), client.post(BODY)]

    assert [(reply.status, reply.is_fresh) for reply in replies] == [(200, True), (200, False)]
    assert proxy.requests == [("mixpanel.invalid", 443)]


def test_a_socks_proxy_that_fails_is_named(make, monkeypatch):
    """Refusing to connect, or not there at all."""
    pytest.importorskip("socks")
    with Socks(lambda connection: None) as proxy:
        proxy.code = 5
        monkeypatch.setenv("all_proxy", f"socks5h://me:hidden@{proxy.host}")
        refused = make(TLS).post(BODY)
    gone = make(TLS).post(BODY)

    place = f"the proxy {proxy.host} (all_proxy)"
    assert refused.error.startswith(f"{place} refused to connect to mixpanel.invalid:443: 0x05")
    assert gone.error == f"{place} refused the connection"
    assert refused.place == gone.place == place
