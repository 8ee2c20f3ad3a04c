"""Connections to Mixpanel, direct or through a proxy: urllib3's, with limits and readable errors.

urllib3 and http.client limit each single wait. Here a request and its answer are limited as a whole. A slow
uplink gets more time while the server acknowledges what was sent.
"""

import contextlib
import fcntl
import http.client
import importlib
import io
import os
import re
import socket
import ssl
import sys
import termios
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection, ProxyConfig
from urllib3.util.ssltransport import SSLTransport

from forwarder.delivery.wire.proxy import Proxy, place_of
from forwarder.errors import ConfigError

OLD_S = 300.0
IDLE_S = 55.0  # many NATs forget a connection after a minute
DEAD_S = 600.0
_LOOK_S = 0.25
BOUND = 10  # times the read timeout, for a request and its answer

# A kept connection may have been dropped silently, by a NAT or a host that is gone. After a pause of
# PAUSE_S it is checked within DROPPED_S.
PAUSE_S = 1.0
DROPPED_S = 4.0
OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
)


class ConnectError(Exception):
    """There is no connection; the text is for people. *status*: the proxy's, if the proxy refused it."""

    def __init__(self, text: str, place: str, status: int | None = None) -> None:
        super().__init__(text)
        self.place = place
        self.status = status


@dataclass
class Route:
    """The route to a server. *context* is for TLS with it, and with a proxy that speaks TLS."""

    scheme: str
    host: str
    port: int
    proxy: Proxy | None
    context: ssl.SSLContext | None
    connect_timeout_s: float
    read_timeout_s: float
    # Addresses that did not accept a connection, and until when they are tried last.
    dead: dict[Any, float] = field(default_factory=dict)
    # When something was last acknowledged on a kept connection.
    alive_at: float = 0.0
    # How long a connection may be idle, if that is less than `IDLE_S`.
    idle_s: float = IDLE_S

    @property
    def is_forwarded(self) -> bool:
        """Whether the proxy gets the request itself instead of CONNECT."""
        return self.scheme == "http" and self.proxy is not None and not self.proxy.is_socks

    @property
    def server(self) -> str:
        """The server, for people."""
        return place_of(self.host, self.port)

    @property
    def place(self) -> str:
        """The answering side, for people."""
        return f"{self.server} through {self.first_hop}" if self.proxy else self.server

    @property
    def first_hop(self) -> str:
        """The side that accepts the connection, for people: the proxy or the server."""
        return f"the proxy {self.proxy}" if self.proxy else self.server

    def connect(self) -> "Connection":
        """A new connection.

        Raises:
            ConnectError: there is none.
        """
        proxy = self.proxy if self.proxy and not self.proxy.is_socks else None
        config = ProxyConfig(self.context, False, None, None) if proxy else None
        where: dict[str, Any] = {
            "host": proxy.host if proxy else self.host,
            "port": proxy.port if proxy else self.port,
            "timeout": self.connect_timeout_s,
            "proxy": proxy.url if proxy else None,
            "proxy_config": config,
        }
        connection: Connection
        if self.scheme == "https" or (proxy and proxy.scheme == "https"):
            connection = _TLSConnection(self, ssl_context=self.context, **where)
        else:
            connection = Connection(self, **where)
        if proxy and not self.is_forwarded:
            connection.set_tunnel(self.host, self.port, proxy.headers, scheme=proxy.scheme)
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        return connection


class Connection(HTTPConnection):
    """One connection along *route*. *has_served*: it has received a whole answer."""

    has_served = False

    def __init__(self, route: Route, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._route = route
        self._opened_at = self._used_at = time.monotonic()

    @property
    def is_fit(self) -> bool:
        """Whether it may take another request, as far as can be known without one."""
        now = time.monotonic()
        idle_until = self._used_at + min(self._route.idle_s, IDLE_S)
        return now < self._opened_at + OLD_S and now < idle_until and self.is_connected

    def connect(self) -> None:
        try:
            super().connect()
        except (OSError, ValueError) as problem:
            # What fails before TLS has its own message, in the methods below.
            place = (
                self._route.first_hop if self.proxy and not self.has_connected_to_proxy else self._route.place
            )
            raise ConnectError(_no_tls(problem, place), place) from problem

    def post(self, target: str, headers: Mapping[str, str], body: bytes) -> None:
        """Send a request; raises what http.client does."""
        assert self.sock is not None
        paused = self.has_served and time.monotonic() > self._used_at + PAUSE_S
        self._patience = _Patience(self.sock, self._route, is_kept=self.has_served, may_be_dead=paused)
        self.putrequest("POST", target)
        for name, value in headers.items():
            self.putheader(name, value)
        self.putheader("Content-Length", str(len(body)))
        # A server that refuses a body early may have said why.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.endheaders(body)

    def answer(self, patience_s: float) -> http.client.HTTPResponse:
        """The final answer's head; *patience_s* is for the whole of it. Raises what http.client does."""
        self._patience.wait(patience_s)
        # urllib3's own method logs the address with its query if a header can't be parsed.
        response = http.client.HTTPConnection.getresponse(self)
        assert isinstance(response, _Response)
        response.incoming.in_head = False
        return response

    @property
    def upload_s(self) -> float:
        """How long the last request took to be acknowledged; 0: it was acknowledged at the first look."""
        return self._patience.upload_s

    def served(self) -> None:
        """Its whole answer has come."""
        self.has_served, self._used_at = True, time.monotonic()

    def send(self, data: Any) -> None:
        assert self.sock is not None
        if isinstance(self.sock, SSLTransport):
            # TLS within TLS can't continue after a timeout: the piece has left its buffer already.
            self.sock.settimeout(self._route.read_timeout_s)
            self.sock.sendall(data)
            return
        left = memoryview(data)
        while left:
            self.sock.settimeout(self._patience.left_s())
            try:
                left = left[self.sock.send(left) :]
            except TimeoutError as problem:
                if problem.errno:
                    raise  # the system's: TCP_USER_TIMEOUT
            else:
                self._patience.renew()

    def response_class(self, sock: socket.socket, **kwargs: Any) -> "_Response":  # type: ignore[override]
        """Called by http.client for the answer to a request, and to CONNECT."""
        return _Response(sock, self._patience, **kwargs)

    def _new_conn(self) -> socket.socket:
        route = self._route
        if route.proxy and route.proxy.is_socks:
            return _socks(route, route.proxy)
        try:
            found = socket.getaddrinfo(self._dns_host, self.port, 0, socket.SOCK_STREAM)
        except (OSError, UnicodeError) as problem:
            raise ConnectError(_not_found(problem, route.first_hop), route.first_hop) from problem
        now = time.monotonic()
        last: OSError | None = None
        for entry in sorted(found, key=lambda entry: route.dead.get(entry[4], 0.0) > now):
            try:
                sock = _connected(entry, route.connect_timeout_s)
            except OSError as problem:
                route.dead[entry[4]] = time.monotonic() + DEAD_S
                last = problem
            else:
                route.dead.pop(entry[4], None)
                return sock
        raise ConnectError(_not_connected(last, route.first_hop), route.first_hop) from last

    def _tunnel(self) -> None:
        assert self.sock is not None
        hop = self._route.first_hop
        self._patience = _Patience(self.sock, self._route)
        try:
            super()._tunnel()
        except (OSError, ValueError, http.client.HTTPException) as problem:
            said = re.fullmatch(r"Tunnel connection failed: ((\d+).*)", str(problem), re.DOTALL)
            if not said:
                raise ConnectError(explain(problem, hop), hop) from problem
            status = int(said[2])
            raise ConnectError(
                f"{hop} refused to connect to {self._route.server}: {said[1]}",
                hop,
                status if 400 <= status < 500 else None,
            ) from problem
        self.sock.settimeout(self._route.connect_timeout_s)  # for TLS, which comes next


class _TLSConnection(Connection, HTTPSConnection):
    pass


def _connected(entry: Any, timeout_s: float) -> socket.socket:
    """A socket connected to what getaddrinfo has found."""
    family, kind, protocol, _, address = entry
    sock = socket.socket(family, kind, protocol)
    try:
        for option in OPTIONS:
            sock.setsockopt(*option)
        sock.settimeout(timeout_s)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _socks(route: Route, proxy: Proxy) -> socket.socket:
    socks = importlib.import_module("socks")
    try:
        sock: socket.socket = socks.create_connection(
            (route.host, route.port),
            route.connect_timeout_s,
            proxy_type=socks.SOCKS4 if proxy.scheme.startswith("socks4") else socks.SOCKS5,
            proxy_addr=proxy.host,
            proxy_port=proxy.port,
            proxy_rdns=proxy.scheme in ("socks4a", "socks5h"),
            proxy_username=proxy.username or None,
            proxy_password=proxy.password or None,
            socket_options=OPTIONS,
        )
    except socks.ProxyConnectionError as problem:
        text = _not_connected(problem.socket_err, route.first_hop)
        raise ConnectError(text, route.first_hop) from problem
    except socks.ProxyError as problem:
        cause = problem.socket_err or problem
        if isinstance(cause, socks.ProxyError):
            text = f"{route.first_hop} refused to connect to {route.server}: {cause.msg}"
        else:
            text = explain(cause, route.first_hop)
        raise ConnectError(text, route.first_hop) from problem
    except (OSError, UnicodeError) as problem:
        # The proxy's name, or with socks4 and socks5 the server's.
        text = _not_found(problem, route.place)
        raise ConnectError(text, route.place) from problem
    return sock


class _Patience:
    """How much longer to wait for the server. The limit counts from its last acknowledgement of data.

    The kernel knows how much of the sent data is unacknowledged. A connection that *may_be_dead* is given up
    sooner, unless another kept one along the route is acknowledged: then the network is only slow.
    """

    def __init__(self, sock: Any, route: Route, *, is_kept: bool = False, may_be_dead: bool = False) -> None:
        self._sock, self._route, self._is_kept, self._may_be_dead = sock, route, is_kept, may_be_dead
        self._began = time.monotonic()
        self.upload_s = 0.0
        self.wait(route.read_timeout_s)

    def wait(self, limit_s: float) -> None:
        """From now on, wait *limit_s*."""
        self._limit_s = limit_s
        self.renew()

    def renew(self) -> None:
        """The server has made progress."""
        self._until = min(time.monotonic() + self._limit_s, self._began + BOUND * self._route.read_timeout_s)
        self._queued = self._unacknowledged()

    def left_s(self) -> float:
        """How long the next call of the socket may take. Raises TimeoutError if no time is left."""
        now = time.monotonic()
        if self._queued and self._unacknowledged() < self._queued:
            self._may_be_dead = False
            self.upload_s = now - self._began
            if self._is_kept:
                self._route.alive_at = now
            self.renew()
        if self._may_be_dead and self._queued and now > max(self._began, self._route.alive_at) + DROPPED_S:
            raise ConnectionResetError
        left_s = self._until - now
        if left_s <= 0:
            raise TimeoutError
        return min(left_s, _LOOK_S) if self._queued else left_s

    def _unacknowledged(self) -> int:
        return int.from_bytes(fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


class _Incoming(io.RawIOBase):
    """What a socket receives, until *patience* ends; *held* keeps the socket open until the end."""

    in_head = True

    def __init__(self, sock: socket.socket, held: io.RawIOBase, patience: _Patience) -> None:
        self._sock, self._held, self._patience = sock, held, patience

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            self._sock.settimeout(self._patience.left_s())
            try:
                count = self._sock.recv_into(buffer)
            except TimeoutError as problem:
                if problem.errno:
                    raise  # the system's: TCP_USER_TIMEOUT
                continue
            if not count and self.in_head:
                # http.client would take the part that came for the whole.
                raise ConnectionResetError
            return count

    def close(self) -> None:
        self._held.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, patience: _Patience, **kwargs: Any) -> None:
        super().__init__(sock, **kwargs)
        self.incoming = _Incoming(sock, self.fp.detach(), patience)
        self.fp = io.BufferedReader(self.incoming)

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]  # missing in the stubs
            if not 100 <= status < 200 or status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                return version, status, reason
            # Interim answers may come at any time, in any number (RFC 9110, 15.2); http.client skips 100.
            http.client.parse_headers(self.fp)


def explain(problem: BaseException, place: str) -> str:
    """One line for a person about an exchange with *place* that failed."""
    if isinstance(problem, TimeoutError):
        return f"no whole answer from {place} in time"
    if isinstance(problem, ssl.SSLError):
        return _no_tls(problem, place)
    if isinstance(problem, (ConnectionError, http.client.IncompleteRead)):
        return f"{place} cut the connection before the whole answer came"
    if isinstance(problem, OSError):
        return f"the connection to {place} failed: {_reason(problem)}"
    return f"the answer from {place} is not HTTP"


def _not_found(problem: OSError | UnicodeError, place: str) -> str:
    return f"DNS: {place} not found: {_reason(problem)}"


def _not_connected(problem: OSError | None, place: str) -> str:
    if isinstance(problem, TimeoutError):
        return f"no connection to {place} in time"
    if isinstance(problem, ConnectionRefusedError):
        return f"{place} refused the connection"
    return f"no connection to {place}: {_reason(problem)}"


def _no_tls(problem: OSError | ValueError, place: str) -> str:
    if isinstance(problem, ssl.SSLCertVerificationError):
        return f"TLS: the certificate of {place} is not trusted: {problem.verify_message}"
    reason = "no answer in time" if isinstance(problem, TimeoutError) else _reason(problem)
    return f"TLS with {place} failed: {reason}"


def _reason(problem: BaseException | None) -> str:
    if isinstance(problem, ssl.SSLError):
        return (problem.reason or "the connection was cut").replace("_", " ").lower()
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return "the connection was cut" if isinstance(problem, OSError) else "the name can't be used"


def trust(bundle: str, ca_file: str) -> ssl.SSLContext:
    """The trusted roots: the system's, those of *bundle* (certifi's or the environment's), and *ca_file*.

    Raises:
        ConfigError: a file can't be read, or contains no certificate.
    """
    context = ssl.create_default_context()
    variable = "REQUESTS_CA_BUNDLE" if os.environ.get("REQUESTS_CA_BUNDLE") else "CURL_CA_BUNDLE"
    for name, path in ((variable, bundle), ("mixpanel.ca_file", ca_file)):
        try:
            if os.path.isdir(path):
                context.load_verify_locations(capath=path)
            elif path:
                context.load_verify_locations(path)
        except OSError as problem:
            reason = "it contains no certificate" if isinstance(problem, ssl.SSLError) else problem.strerror
            raise ConfigError(
                f"{name} {path!r} can't be used: {reason}", "Name a file in PEM form"
            ) from problem
    return context
