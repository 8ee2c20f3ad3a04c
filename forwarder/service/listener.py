"""A few pages over HTTP, for monitoring: read-only, with limits on threads, bytes and time."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from forwarder.config.addresses import host_and_port
from forwarder.errors import ForwarderError, NotPermittedError, UnavailableError

# One client can occupy one of them, for `REQUEST_S` at most.
THREADS = 4
REQUEST_S = 5.0
FIRST_BYTE_S = 1.0
MOST_REQUEST_BYTES = 16 * 1024
TEXT = "text/plain; charset=utf-8"
_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks of a page: the query's parameters, and the headers by their names in lower case."""

    query: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Page:
    """An answer; *headers* are those besides its type and its length."""

    status: int
    body: bytes
    content_type: str = TEXT
    headers: Mapping[str, str] = field(default_factory=dict)


Pages = dict[str, Callable[[Request], Page]]


class _RefusedError(Exception):
    """The request can't be answered; has the status and the text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.page = Page(status, f"{text}\n".encode())


class Listener:
    """Accepts connections at the address of ``[metrics] listen``; answers them once `serve` is called.

    Raises:
        UnavailableError: the address is in use, or not one of this host.
        NotPermittedError: this user may not use the port.
    """

    def __init__(self, address: str) -> None:
        host, port = host_and_port(address)
        host = "127.0.0.1" if host == "localhost" else host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, int(port)))
            self._socket.listen(16)
        except OSError as error:
            self._socket.close()
            raise _cannot_listen(address, error) from error
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._socket.getsockname()[1]}"
        self._pages: Pages = {}

    def serve(self, pages: Pages) -> None:
        """Answer requests for *pages*, by path."""
        self._pages = pages
        for number in range(THREADS):
            threading.Thread(target=self._work, name=f"listener-{number + 1}", daemon=True).start()

    def close(self) -> None:
        """Answer no more."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the threads that wait in accept
        self._socket.close()

    def _work(self) -> None:
        while self._socket.fileno() >= 0:
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                if error.errno in (errno.EBADF, errno.EINVAL):
                    return  # closed
                # No descriptors, or the client is gone: wait, to avoid a busy loop.
                threading.Event().wait(0.1)
                continue
            # A client's errors are its own.
            with contextlib.suppress(OSError), connection:
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        deadline = time.monotonic() + REQUEST_S
        method, is_refused = "", False
        try:
            method, path, request = _parsed(_read_head(connection, deadline))
            page = self._page(method, path, request)
        except _RefusedError as refused:
            page, is_refused = refused.page, True
        head = f"HTTP/1.1 {page.status} {_REASONS[page.status]}\r\nContent-Type: {page.content_type}\r\n"
        head += f"Content-Length: {len(page.body)}\r\nConnection: close\r\n"
        # An answer is never anything else than what it says it is.
        head += "X-Content-Type-Options: nosniff\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in page.headers.items())
        if page.status == 405:
            head += "Allow: GET, HEAD\r\n"
        body = b"" if method == "HEAD" else page.body
        connection.settimeout(REQUEST_S)  # of sendall, for all of it
        connection.sendall(head.encode() + b"\r\n" + body)
        connection.shutdown(socket.SHUT_WR)
        # Unread data would make the kernel reset the connection, and the answer might be lost.
        while is_refused and _received(connection, deadline):
            pass

    def _page(self, method: str, path: str, request: Request) -> Page:
        made = self._pages.get(path)
        if made is None:
            raise _RefusedError(404, f"There is {', '.join(self._pages)}")
        if method not in ("GET", "HEAD"):
            raise _RefusedError(405, "Only GET and HEAD are answered")
        try:
            return made(request)
        except Exception as error:  # a page that fails must not take the thread with it
            raise _RefusedError(500, f"{type(error).__name__}: {error}") from error


def _read_head(connection: socket.socket, deadline: float) -> bytes:
    """The request up to the empty line, without the body."""
    head = b""
    # Browsers open connections that they may not need.
    begins_by = min(deadline, time.monotonic() + FIRST_BYTE_S)
    while b"\r\n\r\n" not in head:
        if len(head) > MOST_REQUEST_BYTES:
            raise _RefusedError(431, "The request is too large")
        try:
            more = _received(connection, deadline if head else begins_by)
        except TimeoutError:
            if not head:
                raise  # it is closed without an answer
            raise _RefusedError(408, "The request took too long") from None
        if not more:
            raise _RefusedError(400, "The request is cut short")
        head += more
    return head.partition(b"\r\n\r\n")[0]


def _received(connection: socket.socket, deadline: float) -> bytes:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    connection.settimeout(left_s)
    return connection.recv(4096)


def _parsed(head: bytes) -> tuple[str, str, Request]:
    """Method, path without its query, and the rest."""
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise _RefusedError(400, "This is not HTTP/1.1")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    path, _, query = words[1].partition("?")
    return words[0], path, Request(dict(parse_qsl(query, keep_blank_values=True)), headers)


def _cannot_listen(address: str, error: OSError) -> ForwarderError:
    what = f"metrics.listen: can't listen on {address}: {error.strerror}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotPermittedError(what, "Use a port of 1024 or higher")
    if error.errno == errno.EADDRINUSE:
        return UnavailableError(what, "Stop the program that uses it, or use another port")
    return UnavailableError(what, "Use an address of this host, such as 127.0.0.1")
