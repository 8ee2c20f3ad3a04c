"""Where events wait: with `forwarder.salvage` the only place that knows SQLite and persist-queue.

The life of an event, and who cleans up after a crash:

========= ============================== ======================================= ===========================
state     where it is                    who moves it on                         after a crash
========= ============================== ======================================= ===========================
offered   the producer's own memory      `EventQueue` checks, completes, commits the producer still owns it
waiting   a row of ``ack_queue_default`` `Consumer.claim` reads it               still waiting
in flight still the same row             the reply; `Consumer.settle`            waiting, and sent again as
                                                                                 the same bytes
delivered row gone, counted, batch in    nobody                                  delivered
          ``deliveries``
dead      row of ``dead_letters``        a person: `dead_letters`                dead
========= ============================== ======================================= ===========================

Statuses of a row are persist-queue's: 0 *inited* (put by plain persist-queue: checked and completed when
it is claimed), 1 *ready* (put by us: final bytes), 2 *unack* and 9 *ack_failed* (a plain consumer's
leftovers: taken up like 0), 5 *acked* (a plain consumer is done with it: swept, and counted as deleted).
"""

from typing import TYPE_CHECKING, Any

from forwarder.spool.queue import EventQueue
from forwarder.spool.sqlite import books, control, dead_letters, set_aside
from forwarder.spool.sqlite.claiming import Claim
from forwarder.spool.sqlite.consumer import Consumer
from forwarder.spool.sqlite.control import Control
from forwarder.spool.sqlite.directory import prepare_directory
from forwarder.spool.sqlite.errors import (
    DamagedError,
    QueueReplacedError,
    SpoolFullError,
    damaged,
    translated,
)
from forwarder.spool.sqlite.lock import open_shared
from forwarder.spool.sqlite.settling import Dead, Settlement
from forwarder.spool.sqlite.view import NoQueueError, UnusedQueueError, View
from forwarder.spool.values import Brief, DeadLetter, Figures, Group, Selection, Waiting

if TYPE_CHECKING:
    from forwarder.spool.sqlite.ackqueue import AckQueue

__all__ = [
    "AckQueue",
    "Brief",
    "Claim",
    "Consumer",
    "Control",
    "DamagedError",
    "Dead",
    "DeadLetter",
    "EventQueue",
    "Figures",
    "Group",
    "NoQueueError",
    "QueueReplacedError",
    "Selection",
    "Settlement",
    "SpoolFullError",
    "UnusedQueueError",
    "View",
    "Waiting",
    "books",
    "control",
    "damaged",
    "dead_letters",
    "open_shared",
    "prepare_directory",
    "set_aside",
    "translated",
]


def __getattr__(name: str) -> Any:
    # Loaded by those who use it: with persist-queue it is a third of what a producer needs to start.
    if name == "AckQueue":
        from forwarder.spool.sqlite.ackqueue import AckQueue

        return AckQueue
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
