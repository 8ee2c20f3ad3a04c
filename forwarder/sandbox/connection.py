"""One client's connection: HTTP/1.1 in and out, and how a connection can fail."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from forwarder.sandbox import answers, control
from forwarder.sandbox.answers import Answer
from forwarder.sandbox.endpoint import Settled
from forwarder.sandbox.faults import Ending
from forwarder.sandbox.intake import Request
from forwarder.sandbox.ledger import Exchange
from forwarder.sandbox.schedule import Plan

if TYPE_CHECKING:
    from forwarder.sandbox.server import Sandbox

# Larger bodies are refused unread.
MAX_WIRE_BYTES = 256 * 1024 * 1024


class Connection(BaseHTTPRequestHandler):
    """Serves the requests of one connection, one after the other, in the thread that creates it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Sandbox  # type: ignore[assignment]

    def handle(self) -> None:
        """Serve until either side closes. A client that disconnects is not an error."""
        with contextlib.suppress(OSError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing; the ledger records requests."""

    def _serve(self) -> None:
        path, _, query = self.path.partition("?")
        body = self._read_body()
        if isinstance(body, Answer):
            self.close_connection = True
            self._send(body, time.time())
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, path, dict(parse_qsl(query, True)), headers, body)
        if path.startswith("/sandbox/"):
            answer = control.answer(self.server, request)
            # A requested outage begins with this connection, after its answer.
            self.close_connection = self.close_connection or not self.server.listening
            self._send(answer, time.time())
            return
        self._import(request)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = do_OPTIONS = _serve  # noqa: N815 - http.server's names

    def _import(self, request: Request) -> None:
        came_at = time.monotonic()
        server = self.server
        at_once = server.ledger.begin()
        try:
            plan = server.schedule.plan()
            server.pause(plan.delay_s + server.latency_s)
            now_s = time.time() + plan.skew_s
            settled = server.endpoint.settle(request, plan, now_s)
            self._record(request, settled, plan, at_once, time.monotonic() - came_at)
            if plan.ending is Ending.HANG:
                server.hold()
        finally:
            # Before the answer: a client that has it finds the request no longer in progress.
            server.ledger.end()
        self._finish(plan.ending, settled.answer, now_s)

    def _finish(self, ending: Ending, answer: Answer | None, now_s: float) -> None:
        if ending is Ending.HANG:
            self.close_connection = True
        elif ending is Ending.RESET or answer is None:
            self._reset()
        elif ending is Ending.HALF:
            self.close_connection = True
            encoded = answer.encode(now_s)
            self.wfile.write(encoded[: len(encoded) - (len(answer.body) + 1) // 2])
        else:
            self._send(answer, now_s)

    def _record(self, request: Request, settled: Settled, plan: Plan, at_once: int, took_s: float) -> None:
        answered = plan.ending in (Ending.ANSWER, Ending.HALF) and settled.answer is not None
        exchange = Exchange(
            at=time.time(),
            method=request.method,
            path=self.path,
            connection=self.client_address[1],
            status=settled.answer.status if answered and settled.answer else 0,
            fault="+".join(plan.names),
            events=settled.events,
            new=settled.new,
            repeats=settled.repeats,
            failed=settled.failed,
            is_probe=settled.is_probe,
            size_bytes=settled.size_bytes,
            wire_bytes=len(request.body),
            at_once=at_once,
            took_s=took_s,
        )
        self.server.enter(exchange)

    def _read_body(self) -> bytes | Answer:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return self._read_chunks()
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal():
            return answers.bad_request("bad Content-Length")
        if int(length) > MAX_WIRE_BYTES:
            return answers.too_large(self.server.endpoint.max_body_bytes)
        return self._read_exactly(int(length))

    def _read_exactly(self, size: int) -> bytes:
        body = self.rfile.read(size) if size else b""
        if len(body) < size:
            raise ConnectionAbortedError("the client went away in the middle of a body")
        return body

    def _read_chunks(self) -> bytes | Answer:
        chunks: list[bytes] = []
        left_bytes = MAX_WIRE_BYTES
        while True:
            try:
                size = int(self.rfile.readline(1024).partition(b";")[0], 16)
            except ValueError:
                return answers.bad_request("bad chunk")
            if size == 0:
                break
            left_bytes -= size
            if size < 0 or left_bytes < 0:
                return answers.too_large(self.server.endpoint.max_body_bytes)
            chunks.append(self._read_exactly(size))
            self.rfile.readline(64)
        while self.rfile.readline(65536).strip():
            pass
        return b"".join(chunks)

    def _send(self, answer: Answer, now_s: float) -> None:
        encoded = answer.encode(now_s, close=self.close_connection)
        if self.command == "HEAD":
            encoded = encoded[: len(encoded) - len(answer.body)]
        self.wfile.write(encoded)

    def _reset(self) -> None:
        """Close with RST instead of FIN, once the socket is closed."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
