"""The sandbox itself: sockets, threads, and the parts put together."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType

from forwarder.sandbox import rules, updates
from forwarder.sandbox.connection import Connection
from forwarder.sandbox.endpoint import Endpoint
from forwarder.sandbox.faults import Fault
from forwarder.sandbox.intake import Account
from forwarder.sandbox.ledger import Exchange, Ledger
from forwarder.sandbox.listener import Listener
from forwarder.sandbox.schedule import Injection, Schedule

MAX_BODY_BYTES = 10 * 1024 * 1024  # "10MB uncompressed per request" (Mixpanel docs, Import Events)
_JOIN_S = 5.0


class Sandbox:
    """A stand-in for Mixpanel's ingestion API on this machine, with faults on request.

    It serves from ``start()`` (or ``with``) until ``close()``. Any thread may use it.

    Args:
        port, host: Where to listen; port 0 means any free one.
        token: The project token.
        service_account: User name, secret and the id of the project.
        project: ``"simplified"`` or ``"original"`` (ID merge): whether identity events are refused or
            ``distinct_id`` is required.
        max_body_bytes: The largest body, uncompressed.
        latency_s: The least time that each request takes.
        keep_data: False keeps only a hash of each event.
        on_request: Called with each request's record, in the thread that serves it.

    Attributes:
        ledger: What was taken and asked.
        users, groups: What updates have made of the profiles.
        schedule: The faults in force.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        token: str = "sandbox-token",  # noqa: S107 - opens nothing but this sandbox
        service_account: tuple[str, str, str] = ("user", "secret", "123"),
        project: str = rules.SIMPLIFIED,
        max_body_bytes: int = MAX_BODY_BYTES,
        latency_s: float = 0.0,
        keep_data: bool = True,
        on_request: Callable[[Exchange], None] | None = None,
    ) -> None:
        if project not in (rules.SIMPLIFIED, rules.ORIGINAL):
            raise ValueError(f"no kind of project {project!r}; there are simplified, original")
        self.host, self.port = host, port
        self.latency_s = latency_s
        self.ledger = Ledger(keep_data)
        self.schedule = Schedule()
        self.users: updates.Profiles = updates.users(token)
        self.groups: updates.Profiles = updates.groups(token)
        account = Account(*service_account)
        self.endpoint = Endpoint(
            self.ledger, token, account, project, max_body_bytes, self.users, self.groups
        )
        self._on_request = on_request
        self._listener: Listener | None = None
        self._lock = threading.RLock()
        self._connections: dict[threading.Thread, socket.socket] = {}
        self._reopening: threading.Timer | None = None
        self._closing = threading.Event()
        self._released = threading.Condition()
        self._releases = 0

    def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address is not available.
        """
        self._listener = Listener(self.host, self.port, self._serve)
        self.port = self._listener.port
        self._listener.start()

    def close(self) -> None:
        """Release the port and all connections; requests in progress are cut off."""
        self._cancel_reopening()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        self._closing.set()
        self.release()
        self._cut_connections()
        with self._lock:
            threads = list(self._connections)
        for thread in threads:
            thread.join(_JOIN_S)

    def __enter__(self) -> Sandbox:
        self.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The API's base; events go to ``{url}/import``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    # Faults

    def inject(
        self,
        fault: Fault,
        *,
        times: int | None = None,
        for_s: float | None = None,
        chance: float = 1.0,
        seed: int | None = None,
    ) -> Injection:
        """Put *fault* in force: for the next *times* requests, for *for_s* seconds, or until `clear`; for
        each request with a *chance* from 0 to 1, repeatable with *seed*.

        Faults that decide the answer apply one after the other, in the order of injection. Others, such as
        ``slow`` and ``reject``, apply together. An outage begins at once and takes none of these settings.

        Returns:
            the injection; its ``used`` says to how many requests the fault applied.

        Raises:
            ValueError: a number is invalid.
        """
        if fault.outage_s is None:
            return self.schedule.inject(fault, times, for_s, chance, seed)
        self.stop_listening()
        with self._lock:
            self._reopening = threading.Timer(fault.outage_s, self.listen_again)
            self._reopening.daemon = True
            self._reopening.start()
        return Injection(fault, times, for_s, chance, seed)

    def clear(self) -> None:
        """Clear all faults: hanging requests are released, and an outage ends."""
        self.schedule.clear()
        self.release()
        self.listen_again()

    def release(self) -> None:
        """Release the requests that hang now: their connections are closed without an answer."""
        with self._released:
            self._releases += 1
            self._released.notify_all()

    def stop_listening(self) -> None:
        """Refuse connections and close the open ones, until `listen_again`; the port is kept."""
        self._cancel_reopening()
        # Without the lock: the listener's thread takes it to pass on a connection.
        if (listener := self._listener) is not None:
            listener.stop()
            self._cut_connections()

    def listen_again(self) -> None:
        """Accept connections on the same port as before."""
        self._cancel_reopening()
        if (listener := self._listener) is not None:
            listener.start()

    @property
    def listening(self) -> bool:
        """Whether connections are accepted."""
        listener = self._listener
        return listener is not None and listener.listening

    def wait_for(self, predicate: Callable[[Ledger], bool], timeout_s: float = 10.0) -> None:
        """Wait until *predicate* is true for the ledger; it is called after each change.

        Raises:
            TimeoutError: with the ledger's figures.
        """
        self.ledger.wait_for(predicate, timeout_s)

    # For the connections

    def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
            ConnectionAbortedError: the sandbox is being closed.
        """
        if seconds > 0 and self._closing.wait(seconds):
            raise ConnectionAbortedError("the sandbox is being closed")

    def hold(self) -> None:
        """Wait for the next release."""
        with self._released:
            before = self._releases
            self._released.wait_for(lambda: self._releases != before or self._closing.is_set())

    def enter(self, exchange: Exchange) -> None:
        """Keep the record of a request, and pass it to the listener for requests."""
        self.ledger.enter(exchange)
        if self._on_request is not None:
            self._on_request(exchange)

    def _serve(self, connection: socket.socket, address: tuple[str, int]) -> None:
        thread = threading.Thread(target=self._converse, args=(connection, address), daemon=True)
        with self._lock:
            self._connections[thread] = connection
        thread.start()

    def _converse(self, connection: socket.socket, address: tuple[str, int]) -> None:
        try:
            with contextlib.suppress(OSError):
                Connection(connection, address, self)  # type: ignore[arg-type]
        finally:
            # Together, so that no other thread shuts down a descriptor that is reused already.
            with self._lock:
                del self._connections[threading.current_thread()]
                connection.close()

    def _cut_connections(self) -> None:
        with self._lock:
            for thread, connection in self._connections.items():
                if thread is not threading.current_thread():
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)

    def _cancel_reopening(self) -> None:
        with self._lock:
            if self._reopening is not None:
                self._reopening.cancel()
                self._reopening = None
