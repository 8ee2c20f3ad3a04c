"""A daemon that hands the records of this host's queue over to the one on a server: the relay."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from forwarder import spool
from forwarder.config import Settings
from forwarder.delivery.batch import Batch
from forwarder.delivery.handover import HandoverDispatcher, Parcel
from forwarder.errors import ConfigError, ForwarderError, NotPermittedError, StorageError, TryAgainError
from forwarder.records import KINDS
from forwarder.records.kind import Kind
from forwarder.records.verdict import Outcome, Verdict
from forwarder.service import senders
from forwarder.service.destination import Destination
from forwarder.spool import Consumer
from forwarder.text import printable


class Client(senders.Client):
    """Hands batches of a *kind* over to *queue*, on a server."""

    proxy = ""

    def __init__(self, queue: spool.Handover, kind: Kind) -> None:
        self.queue = queue
        self.kind = kind
        self._is_busy = False

    def deliver(self, batch: Batch) -> Outcome:
        assert isinstance(batch, Parcel)
        started_at = time.monotonic()
        verdict, detail = Verdict.DELIVERED, ""
        self._is_busy = True
        try:
            if batch.ids:
                self.queue.hand_over(batch.source, batch.turn, batch.ids, batch.events)
            else:
                batch.last = self.queue.last(batch.source)
        except (ConfigError, NotPermittedError) as error:
            verdict, detail = Verdict.MISCONFIGURED, printable(str(error))
        except ForwarderError as error:
            verdict, detail = Verdict.UNREACHABLE, printable(str(error))
        finally:
            self._is_busy = False
        return Outcome(verdict, detail, imported=len(batch), took_s=time.monotonic() - started_at)

    def close(self) -> None:
        # What hangs ends with the process.
        if not self._is_busy:
            self.queue.close()


class Relay(Destination):
    """The queue on the server that *settings* name, which also have this host's own.

    Raises:
        ConfigError: they do not.
    """

    # The server tells the next one what came of the rest.
    stop_s = 2.0

    def __init__(self, settings: Settings) -> None:
        if not settings.is_relay:
            raise ConfigError(
                "a relay needs queue.path, where this host's events wait, and queue.url, where they go",
                "Set both, queue.path also if it is the default",
            )
        self.server = settings.queue
        self._place = spool.of(self.server).place
        self._clients: dict[str, Client] = {}

    def here(self, settings: Settings) -> Settings:
        """*settings* of a daemon for this host's own queue.

        Raises:
            ConfigError: they name another server.
        """
        if not settings.is_relay or settings.queue.url != self.server.url:
            raise ConfigError("queue.url has changed and needs a restart")
        return replace(settings, queue=settings.door)

    def place(self, settings: Settings) -> str:  # noqa: ARG002
        return self._place

    def clients(
        self,
        settings: Settings,  # noqa: ARG002  another server needs a restart
    ) -> tuple[Mapping[str, Client], list[str]]:
        if not self._clients:
            for kind in KINDS.values():
                self._clients[kind.name] = Client(spool.handover(self.server, kind), kind)
            # While the server is away, events are accepted here, and wait.
            with suppress(TryAgainError, StorageError):
                for client in self._clients.values():
                    client.queue.check()
        return self._clients, []

    def dispatcher(
        self,
        consumer: Consumer,
        kind: Kind,
        settings: Settings,
    ) -> HandoverDispatcher:
        return HandoverDispatcher(consumer, kind, settings.delivery)
