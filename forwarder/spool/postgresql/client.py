"""A connection to the server with a deadline for each step, for several threads and after a fork."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import ConnStatus, TransactionStatus

from forwarder.errors import TryAgainError
from forwarder.spool.errors import FateUnknownError
from forwarder.spool.postgresql.address import LEAST_CONNECT_S, Address
from forwarder.spool.postgresql.errors import is_passing, translated, unreachable

# Between two tries to connect.
AGAIN_S = 0.1
# Without waiting for anybody, a server still takes time to answer.
LEAST_S = 1.0

T = TypeVar("T")

# A child must neither use nor close its parent's connections.
_of_parents: list[Connection] = []


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """Waits for the server until its *deadline* (monotonic), then ends. It never cancels: a COMMIT that is
    cancelled while it waits for a standby is acknowledged (https://github.com/patroni/patroni/issues/1412).

    Attributes:
        warnings: What the server has said of a wait for a standby; then nothing counts as acknowledged.
    """

    deadline = float("inf")
    warnings: list[str]

    def rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of one statement; placeholders are ``%s``."""
        return self.execute(query, values, binary=True).fetchall()

    def wait(self, gen: PQGen[T], *_: Any, **__: Any) -> T:
        """Run what psycopg waits for."""
        try:
            return _finished(gen, self.pgconn.socket, self.deadline)
        except psycopg.Error:
            raise
        except BaseException as error:
            self.pgconn.finish()
            if isinstance(error, TimeoutError):
                raise psycopg.OperationalError("the server does not answer in time") from None
            raise


def _finished(gen: PQGen[T], fd: int, deadline: float) -> T:
    poll = select.poll()
    try:
        wanted = next(gen)
        while True:
            poll.register(fd, (wanted & 1) * select.POLLIN | (wanted >> 1 & 1) * select.POLLOUT)
            left_s = deadline - time.monotonic()
            found = poll.poll(None if left_s == float("inf") else max(left_s, 0.0) * 1000)
            if not found:
                raise TimeoutError
            events = found[0][1]
            # An end or an error counts as readable: libpq finds it.
            is_writable = bool(events & select.POLLOUT) and bool(wanted & 2)
            ready = (1 if events & ~select.POLLOUT else 0) | (2 if is_writable else 0)
            wanted = gen.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result


class Client:
    """A connection to the queue at *address*, made when it is needed.

    Several threads may use it, also after a fork. A signal handler that has interrupted a step gets
    `TryAgainError`.

    Args:
        is_patient: Whether it tries again for so long if there is no server: a failover takes seconds.

    Attributes:
        timeout_s: How long a step may take, with all that it waits for; `LEAST_S` at least.
    """

    def __init__(self, address: Address, timeout_s: float = 10.0, *, is_patient: bool = False) -> None:
        self.address = address
        self.place = address.place
        self.timeout_s = timeout_s
        self._is_patient = is_patient
        self._connection: Connection | None = None
        self._renew()

    def _renew(self) -> None:
        self._lock = threading.RLock()
        self._is_busy = False
        self._pid = os.getpid()

    def __del__(self) -> None:
        with suppress(Exception):
            self.close()

    def close(self) -> None:
        """End the connection; a later step makes another."""
        if self._pid == os.getpid():
            self._drop()

    def rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of one statement, which is a transaction of its own."""
        return self.run(lambda connection: connection.rows(query, values))

    def write(self, step: Callable[[Connection], T]) -> T:
        """Take a step in a transaction."""

        def whole(connection: Connection) -> T:
            # Whatever the role's default is: statements must see what a lock has waited for.
            # And who gives up must not leave a connection on the server that waits on.
            limit_ms = max(int((connection.deadline - time.monotonic()) * 900), 1)
            connection.execute(
                f"BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {limit_ms}".encode()
            )
            try:
                result = step(connection)
                connection.execute("COMMIT")
            except BaseException:
                if not connection.closed:
                    with suppress(psycopg.Error):
                        connection.execute("ROLLBACK")
                raise
            return result

        return self.run(whole)

    def run(self, step: Callable[[Connection], T]) -> T:
        """Take a step, and again if the server asks for it.

        Raises:
            FateUnknownError: the connection ended before the answer.
            TryAgainError, NotPermittedError, ConfigError, StorageError: nothing was done.
        """
        deadline = time.monotonic() + max(self.timeout_s, LEAST_S)
        while True:
            try:
                with self._turn(deadline), translated(self.place):
                    return self._step(step, deadline)
            except TryAgainError as error:
                if not is_passing(error) or time.monotonic() >= deadline:
                    raise

    def _step(self, step: Callable[[Connection], T], deadline: float) -> T:
        connection = self._connected(deadline)
        connection.deadline = deadline
        connection.warnings.clear()
        try:
            result = step(connection)
        finally:
            if connection.closed or connection.pgconn.transaction_status != TransactionStatus.IDLE:
                self._drop()
        if connection.warnings:
            raise FateUnknownError(
                f"the server of the queue {self.place} warns: {'; '.join(connection.warnings)}",
                FateUnknownError.usual_remedy,
            )
        return result

    @contextmanager
    def _turn(self, deadline: float) -> Iterator[None]:
        if self._pid != os.getpid():
            if self._connection is not None:
                _of_parents.append(self._connection)
            self._connection = None
            self._renew()
        # Whoever gets it at the last moment would end a good connection: its answer comes too late.
        if not self._lock.acquire(timeout=max(deadline - time.monotonic() - AGAIN_S, 0.0)):
            raise TryAgainError(f"other threads use the queue {self.place}", "Nothing was stored; try again")
        try:
            if self._is_busy:
                raise TryAgainError(
                    f"a signal handler has interrupted a call of the queue {self.place}",
                    "Nothing was stored; try again after it",
                )
            self._is_busy = True
            try:
                yield
            finally:
                self._is_busy = False
        finally:
            self._lock.release()

    def _connected(self, deadline: float) -> Connection:
        if self._connection is not None and not _is_alive(self._connection):
            self._drop()
        if self._connection is None:
            self._connection = self._connect(deadline)
        return self._connection

    def _connect(self, deadline: float) -> Connection:
        # That nobody answers shows after two seconds: too long for who has waited for others so far.
        if deadline - time.monotonic() < min(self.timeout_s, LEAST_CONNECT_S) / 2:
            raise TryAgainError(
                f"no time is left to connect to the queue {self.place}", "Nothing was stored; try again"
            )
        while True:
            started_at = time.monotonic()
            try:
                connection = Connection.connect(
                    self.address.conninfo(deadline - time.monotonic()),
                    autocommit=True,
                    prepare_threshold=None,  # behind a pooler, the next transaction may be another session's
                )
            except psycopg.Error as error:
                why = unreachable(error, self.place)
                may_pass = self._is_patient and type(why) is TryAgainError
                now = time.monotonic()
                # Hosts that are silent are so the next time, too.
                if not may_pass or now + max(AGAIN_S, now - started_at) >= deadline:
                    raise why from error
                time.sleep(AGAIN_S)
                continue
            connection.warnings = []
            connection.add_notice_handler(partial(_note, connection.warnings))
            return connection

    def _drop(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None


def _note(warnings: list[str], notice: psycopg.errors.Diagnostic) -> None:
    # Its words are in the server's language. Others warn of what concerns no acknowledgement.
    if notice.severity_nonlocalized == "WARNING" and notice.source_function in (None, "SyncRepWaitForLSN"):
        warnings.append(notice.message_primary or "")


def _is_alive(connection: Connection) -> bool:
    """Whether the server has not ended the connection while nobody used it."""
    poll = select.poll()
    try:
        poll.register(connection.pgconn.socket, select.POLLIN)
        while poll.poll(0):
            connection.pgconn.consume_input()
    except psycopg.Error:
        return False
    return connection.pgconn.status == ConnStatus.OK
