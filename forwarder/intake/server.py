"""The intake's process: its sockets, its signals, and an end that loses no answer."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import importlib
import os
import signal
import socket
import time
from collections.abc import Callable

from forwarder import log, spool
from forwarder.config import Settings, find_secret, load_credentials
from forwarder.config.plain import SOCKET
from forwarder.errors import ConfigError, ForwarderError
from forwarder.intake import sockets
from forwarder.intake.connection import Connection, House
from forwarder.intake.counters import Counters
from forwarder.intake.door import Door, Rules
from forwarder.intake.intake_log import IntakeLog
from forwarder.intake.line import Line
from forwarder.intake.room import Room
from forwarder.intake.writer import LOCK_TIMEOUT_S, Writer
from forwarder.records import KINDS
from forwarder.service.notify import notify
from forwarder.service.signals import Early
from forwarder.spool import Producer

MOST_CONNECTIONS = 512
# On a stop, how long the other side of an idle connection may take to send what is on its way.
GRACE_S = 1.0
STOP_S = 10.0
_SWEEP_S = 1.0
_M_ARENA_MAX = -8  # malloc.h of glibc; other C libraries have no mallopt, or ignore it
_ACCEPT_AGAIN_S = 0.2
_AT_ONCE = 64  # connections taken before others get their turn


def run(settings: Settings, load: Callable[[], Settings], early: Early) -> None:
    """Take requests until SIGTERM or SIGINT; SIGHUP reads the settings again with *load*.

    *early* has the signals that came before.

    Raises:
        ConfigError: there are no tokens, or there is nothing to listen on.
        ForwarderError: a socket or the queue can't be opened.
    """
    with contextlib.suppress(OSError, AttributeError):
        # One heap for all threads: what a large import leaves in a second one took 30 MB more.
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings, load, early))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        made: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    except ImportError:
        return None
    return made


async def _serve(settings: Settings, load: Callable[[], Settings], early: Early) -> None:
    server = Server(settings, load, asyncio.get_running_loop())
    try:
        await server.start(early)
        await server.finished
        await server.finish()
    finally:
        server.close()


def tokens_of(settings: Settings) -> frozenset[str]:
    """The tokens that are accepted: those of ``intake.tokens``, else the one that signs in.

    Raises:
        ConfigError: there is none.
    """
    if settings.intake.tokens:
        return frozenset(settings.intake.tokens)
    if settings.mixpanel.service_account or not find_secret(settings, "token"):
        raise ConfigError(
            "intake.tokens is not set, and no project's token signs in to Mixpanel",
            'Give the project\'s token, which its SDKs use, below [intake]: tokens = ["..."]',
        )
    return frozenset([load_credentials(settings)[0].username])


class Server:
    """Accepts connections, in the thread of *loop*.

    Args:
        load: Reads the settings again.

    Attributes:
        finished: Done when a signal asks to stop.
    """

    def __init__(
        self, settings: Settings, load: Callable[[], Settings], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._settings = settings
        self._load = load
        self._loop = loop
        self.finished: asyncio.Future[None] = loop.create_future()
        self._is_stopping = False
        self._connections: set[Connection] = set()
        self._is_empty = asyncio.Event()
        self._accepting: set[asyncio.Task[None]] = set()
        self._is_accepting = False
        self._sweep_due: asyncio.TimerHandle | None = None
        self._intake_log = IntakeLog()
        counters = Counters()
        tokens = tokens_of(settings)
        self._writer = Writer(loop, self._open_queue, counters, self._intake_log)
        self._listening = sockets.opened(settings.intake, os.environ)
        self._own_hosts = tuple(filter(None, (one.host for one in self._listening)))
        rules = Rules.by(settings, tokens, self._own_hosts)
        self._lines: set[Line] = set()
        self._in_directory: sockets.Listening | None = None
        self._door = Door(rules, self._writer, counters, self._intake_log, lambda: len(self._connections))
        self._house = House(self._door, Room(), lambda: self._is_stopping, self._lost)

    async def start(self, early: Early) -> None:
        """Open the queues and accept connections. Raises: as `run`."""
        self._writer.start(list(KINDS))
        trouble = await self._listen_in_directory()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        early.hand_over(lambda number, _: self._reload() if number == signal.SIGHUP else None)
        self._accept(True)
        places = [one.place for one in self._listening]
        self._intake_log.started(self._settings, places, sorted(self._door.rules.tokens))
        if trouble:
            self._intake_log.not_listening(trouble)
        notify(f"READY=1\nSTATUS=Listening on {', '.join(places)}")

    def _open_queue(self, kind: str) -> Producer:
        said = self._settings.door
        return spool.of(said, KINDS[kind]).producer(
            max_bytes=said.max_bytes, min_free_bytes=said.min_free_bytes, lock_timeout_s=LOCK_TIMEOUT_S
        )

    async def _listen_in_directory(self) -> ForwarderError | None:
        """Listen for ``forwarder enqueue``. Returns why that can't be; it has the queue itself then."""
        if self._settings.door.url:
            return None
        try:
            listening = sockets.unix(os.path.join(self._settings.door.path, SOCKET))
        except ForwarderError as error:
            return error
        self._in_directory = listening
        await self._loop.create_unix_server(self._new_line, sock=listening.socket, backlog=sockets.BACKLOG)
        return None

    def _new_line(self) -> Line:
        line = Line(self._writer, self._lost_line)
        self._lines.add(line)
        return line

    def _lost_line(self, line: Line) -> None:
        self._lines.discard(line)
        self._note_empty()

    def _note_empty(self) -> None:
        if self._is_stopping and not self._connections and not self._lines:
            self._is_empty.set()

    # Connections

    def _accept(self, accepting: bool) -> None:
        if accepting != self._is_accepting:
            self._is_accepting = accepting
            for one in self._listening:
                if accepting:
                    self._loop.add_reader(one.socket.fileno(), self._accept_some, one.socket)
                else:
                    self._loop.remove_reader(one.socket.fileno())

    def _accept_some(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            unwanted = self._unwanted()
            if len(self._connections) >= MOST_CONNECTIONS and not unwanted:
                self._accept(False)  # the others wait in the kernel
                return
            try:
                accepted, _ = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._intake_log.not_accepting(error)
                    self._accept(False)
                    self._loop.call_later(_ACCEPT_AGAIN_S, self._accept_again)
                return
            accepted.setblocking(False)
            if unwanted:
                unwanted.drop()
                self._connections.discard(unwanted)
            connection = Connection(self._house)
            self._connections.add(connection)
            task = self._loop.create_task(self._connect(connection, accepted))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)
            if self._sweep_due is None:
                self._sweep_due = self._loop.call_later(_SWEEP_S, self._sweep)

    def _unwanted(self) -> Connection | None:
        """If there is no room for another: the connection that is without a whole request for longest."""
        if len(self._connections) < MOST_CONNECTIONS:
            return None
        without = [connection for connection in self._connections if connection.waits_for]
        return min(without, key=lambda connection: connection.waits_for or (), default=None)

    async def _connect(self, connection: Connection, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, accepted)
        except OSError:  # gone already
            accepted.close()
            self._lost(connection)

    def _accept_again(self) -> None:
        if not self._is_stopping:
            self._accept(True)

    def _lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._note_empty()
        if not self._is_stopping and not self._is_accepting and len(self._connections) < MOST_CONNECTIONS:
            self._accept(True)

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in list(self._connections):
            connection.check_time(now)
        # Nothing wakes an idle process.
        self._sweep_due = self._loop.call_later(_SWEEP_S, self._sweep) if self._connections else None

    # Signals

    def _reload(self) -> None:
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            settings = self._load()
            rules = Rules.by(settings, tokens_of(settings), self._own_hosts)
        except ForwarderError as error:
            self._intake_log.reload_failed(error)
        else:
            for key in ("socket", "listen"):
                if getattr(settings.intake, key) != getattr(self._settings.intake, key):
                    self._intake_log.needs_restart(f"intake.{key}")
            if settings.door != self._settings.door:
                self._intake_log.needs_restart("queue")
            log.configure(settings.log.level, settings.log.format)
            self._door.rules = rules
            self._intake_log.reloaded(settings)
        notify("READY=1")

    def _stop(self) -> None:
        if not self.finished.done():
            notify("STOPPING=1")
            self._intake_log.stopping(len(self._connections))
            self.finished.set_result(None)

    async def finish(self) -> None:
        """Answer what has come or is on its way, each with the news that the connection ends."""
        for one in self._listening:
            if not one.is_passed:  # with it would go the connections that wait in the kernel
                self._accept_some(one.socket)
        self._is_stopping = True
        self._accept(False)
        if self._in_directory:
            self._in_directory.close()
        await asyncio.gather(*self._accepting)
        for line in list(self._lines):
            line.end()
        if not self._connections and not self._lines:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_empty.wait(), GRACE_S)
        for connection in list(self._connections):
            connection.end()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_empty.wait(), STOP_S)

    def close(self) -> None:
        """Close all files."""
        self._accept(False)
        for one in (*self._listening, *filter(None, [self._in_directory])):
            one.close()
        for connection in list(self._connections):
            connection.abort()
        for line in list(self._lines):
            line.abort()
        self._writer.close()
        self._intake_log.stopped()
