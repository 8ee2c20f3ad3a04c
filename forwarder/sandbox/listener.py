"""The listening socket: it can stop and start listening without losing its port."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

_BACKLOG = 128


class Listener:
    """Accepts connections in its own thread and passes each socket on.

    Args:
        host, port: The address; port 0 means any free one.
        accepted: Called with each connection's socket and the client's address.

    Raises:
        OSError: the address is not available.
    """

    def __init__(
        self, host: str, port: int, accepted: Callable[[socket.socket, tuple[str, int]], None]
    ) -> None:
        self._accepted = accepted
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._socket = _bind(host, port)
        self.host: str = host
        self.port: int = self._socket.getsockname()[1]

    @property
    def listening(self) -> bool:
        """Whether connections are accepted."""
        return self._thread is not None

    def start(self) -> None:
        """Accept connections from now on."""
        with self._lock:
            if self._thread is None and self._socket.fileno() >= 0:
                self._socket.listen(_BACKLOG)
                self._thread = threading.Thread(target=self._accept, args=(self._socket,), daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Refuse connections from now on; the port stays bound."""
        with self._lock:
            if self._thread is None:
                return
            self._close(self._thread)
            self._thread = None
            # Bound again: otherwise a connecting client could get this very port for its own end.
            self._socket = _bind(self.host, self.port)

    def close(self) -> None:
        """Stop, and release the port."""
        with self._lock:
            self._close(self._thread)
            self._thread = None

    def _close(self, thread: threading.Thread | None) -> None:
        if thread is not None:
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() does not
            thread.join()
        self._socket.close()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, address = listening.accept()
            except OSError:
                return
            self._accepted(connection, address)


def _bind(host: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound
