"""Connections to the far end: urllib3's, with limits on sending and on a whole answer, and who is trusted."""

import http.client
import io
import socket
import ssl
import time
from ipaddress import ip_address
from typing import Any, cast

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from forwarder.errors import ConfigError


class StaleError(ConnectionError):
    """A connection that had served before was closed before any answer."""


class _WithinTime(io.RawIOBase):
    """A socket's incoming bytes until a moment; a far end that drips them one by one gains no time."""

    def __init__(self, sock: socket.socket, incoming: io.RawIOBase) -> None:
        self._sock = sock
        self._incoming = incoming
        # urllib3 has just set the read timeout here.
        self._timeout_s = sock.gettimeout()
        self._until = time.monotonic() + (self._timeout_s or 0.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._timeout_s is not None:
            left_s = self._until - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("timed out")
            self._sock.settimeout(left_s)
        return cast("int | None", self._incoming.readinto(buffer))

    def close(self) -> None:
        self._incoming.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_WithinTime(sock, self.fp.detach()))


class _Limited(HTTPConnection):
    response_class = _Response
    send_timeout_s = 60.0
    served = False

    def connect(self) -> None:
        self.served = False
        super().connect()

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        # urllib3 leaves the connect timeout here, which is short for a large body on a slow line.
        self.sock.settimeout(self.send_timeout_s)
        super().send(data)

    def getresponse(self) -> Any:
        try:
            response = super().getresponse()
        except (ConnectionResetError, BrokenPipeError) as problem:
            if self.served:
                raise StaleError from problem
            raise
        self.served = True
        return response


class _LimitedTLS(_Limited, HTTPSConnection):
    pass


def pools(send_timeout_s: float) -> dict[str, type[HTTPConnectionPool]]:
    """Pools of such connections by scheme, for urllib3's ``pool_classes_by_scheme``.

    A request must have gone out within *send_timeout_s*; its whole answer, headers and body, must come
    within the read timeout, counted from there.
    """
    plain = type("Plain", (_Limited,), {"send_timeout_s": send_timeout_s})
    tls = type("TLS", (_LimitedTLS,), {"send_timeout_s": send_timeout_s})
    return {
        "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("TLSPool", (HTTPSConnectionPool,), {"ConnectionCls": tls}),
    }


def is_this_host(host: str) -> bool:
    """Whether no proxy could reach *host*, because it is this one."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def trust(bundle: str, ca_file: str) -> ssl.SSLContext:
    """Who is believed: the roots of the system, of *bundle* (certifi's or the environment's), of *ca_file*.

    Raises:
        ConfigError: a file can't be read, or has no certificate in it.
    """
    context = ssl.create_default_context()
    for name, path in (("REQUESTS_CA_BUNDLE", bundle), ("mixpanel.ca_file", ca_file)):
        try:
            if path:
                context.load_verify_locations(path)
        except OSError as problem:
            reason = "no certificate in it" if isinstance(problem, ssl.SSLError) else problem.strerror
            raise ConfigError(
                f"{name} {path!r} can't be used: {reason}", "Name a file in PEM form"
            ) from problem
    return context
