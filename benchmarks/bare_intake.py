"""``python -m benchmarks.bare_intake SOCKET DATABASE``: the intake's loop in the fewest lines of Python.

The same parser, SQL, syncs and answers, with one commit for all that has come. No checks and no limits.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import Any
from urllib.parse import unquote_plus

import httptools

from benchmarks import bare

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\n1"


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, waiting: list[tuple[bytes, Connection]], news: threading.Event) -> None:
        self._waiting, self._news = waiting, news
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        data = unquote_plus(self._body.decode().partition("data=")[2].partition("&")[0])
        self._body = b""
        self._waiting.append((data.encode(), self))
        self._news.set()


def commit(
    path: str, waiting: list[tuple[bytes, Connection]], news: threading.Event, loop: asyncio.AbstractEventLoop
) -> None:
    """Commit what has come, again and again, and have it answered."""
    rows = bare.connect(path)
    rows.execute(bare.CREATE)

    def answer(group: list[tuple[bytes, Connection]]) -> None:
        for _, connection in group:
            connection.transport.write(ANSWER)

    while news.wait():
        news.clear()
        group = [waiting.pop(0) for _ in range(len(waiting))]
        if group:
            now = time.time()
            rows.execute("BEGIN IMMEDIATE")
            rows.executemany(bare.INSERT, [(data, now) for data, _ in group])
            rows.execute("COMMIT")
            loop.call_soon_threadsafe(answer, group)


async def serve(socket: str, path: str) -> None:
    """Until it is killed."""
    waiting: list[tuple[bytes, Connection]] = []
    news, loop = threading.Event(), asyncio.get_running_loop()
    threading.Thread(target=commit, args=(path, waiting, news, loop), daemon=True).start()
    server = await loop.create_unix_server(lambda: Connection(waiting, news), socket)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
