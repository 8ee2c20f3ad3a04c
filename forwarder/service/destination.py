"""Where a daemon's records go, and what knows the way there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

from forwarder.config import Settings, endpoint_url
from forwarder.config.settings import Queue
from forwarder.delivery.dispatcher import Dispatcher
from forwarder.delivery.handover import HandoverDispatcher
from forwarder.delivery.ordered import OrderedDispatcher
from forwarder.delivery.wire.client import new_clients
from forwarder.records import EVENTS, KINDS
from forwarder.records.kind import Kind, OrderedKind
from forwarder.service.senders import Client
from forwarder.spool import Consumer

STOP_S = 30.0

AnyDispatcher = Dispatcher | OrderedDispatcher | HandoverDispatcher


class Destination(Protocol):
    """A place that records go to.

    Attributes:
        stop_s: How long a daemon that stops waits for what is in flight.
        server: The queue that it is, on a server; None: it is not one.
    """

    stop_s: float
    server: Queue | None

    def place(self, settings: Settings) -> str:
        """It, for people."""

    def clients(self, settings: Settings) -> tuple[Mapping[str, Client], list[str]]:
        """What takes the records of each kind there, by the kind's name; and warnings.

        Raises:
            ConfigError, NotPermittedError: nothing will get there with these settings.
        """

    def dispatcher(self, consumer: Consumer, kind: Kind, settings: Settings) -> AnyDispatcher:
        """What decides what is sent when."""


class Mixpanel(Destination):
    """Mixpanel, as the settings say."""

    stop_s = STOP_S
    server = None

    def place(self, settings: Settings) -> str:
        return endpoint_url(settings, EVENTS.endpoint)

    def clients(self, settings: Settings) -> tuple[Mapping[str, Client], list[str]]:
        return new_clients(settings, KINDS.values())

    def dispatcher(self, consumer: Consumer, kind: Kind, settings: Settings) -> AnyDispatcher:
        if kind.is_ordered:
            on_doubt = settings.intake.on_doubt
            return OrderedDispatcher(consumer, cast(OrderedKind, kind), settings.delivery, on_doubt)
        return Dispatcher(consumer, kind, settings.delivery)


MIXPANEL = Mixpanel()
