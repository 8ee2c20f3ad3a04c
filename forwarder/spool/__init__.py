"""Where events wait: the verbs and their plain values. An engine decides how events are stored.

The life of an event, and who cleans up after a crash:

========= ============================== ======================================= ===========================
state     where it is                    what moves it on                        after a crash
========= ============================== ======================================= ===========================
offered   the producer's own memory      `EventQueue` checks, completes, commits the producer still owns it
waiting   a row of the queue             `Consumer.claim` reads it               still waiting
in flight still the same row             the reply; `Consumer.settle`            waiting, and sent again as
                                                                                 the same bytes
delivered row gone, counted, its batch   nothing                                 delivered
          in the delivery log
dead      row gone, a dead letter there  a person: retry, export, delete         dead
========= ============================== ======================================= ===========================
"""

from typing import TYPE_CHECKING

from forwarder import lazy

if TYPE_CHECKING:
    from forwarder.spool.engine import Consumer, Handover, Presence, Producer, Spool, View
    from forwarder.spool.errors import (
        BookmarkMovedError,
        DamagedError,
        FateUnknownError,
        NoQueueError,
        QueueReplacedError,
        SpoolFullError,
        TakenError,
        UnusedQueueError,
    )
    from forwarder.spool.history import SLACK_S, Gap, Period, binned, gaps
    from forwarder.spool.ids import Run, count_of, extend_runs, joined, runs_in, runs_of, text_of
    from forwarder.spool.place import at, each, handover, of, set_up, set_up_sql
    from forwarder.spool.queue import EventQueue, wait
    from forwarder.spool.sqlite.ackqueue import AckQueue
    from forwarder.spool.sqlite.occurrences import Occurrences
    from forwarder.spool.values import (
        DUE,
        FAIL,
        MOST_AHEAD,
        OK,
        WARNING,
        Bookmark,
        Brief,
        Claim,
        Control,
        Dead,
        DeadLetter,
        Figures,
        Finding,
        Group,
        HandedOver,
        Holder,
        Move,
        Receipt,
        Selection,
        Settlement,
        Waiting,
    )

__all__ = [
    "DUE",
    "FAIL",
    "MOST_AHEAD",
    "OK",
    "SLACK_S",
    "WARNING",
    "AckQueue",
    "Bookmark",
    "BookmarkMovedError",
    "Brief",
    "Claim",
    "Consumer",
    "Control",
    "DamagedError",
    "Dead",
    "DeadLetter",
    "EventQueue",
    "FateUnknownError",
    "Figures",
    "Finding",
    "Gap",
    "Group",
    "HandedOver",
    "Handover",
    "Holder",
    "Move",
    "NoQueueError",
    "Occurrences",
    "Period",
    "Presence",
    "Producer",
    "QueueReplacedError",
    "Receipt",
    "Run",
    "Selection",
    "Settlement",
    "Spool",
    "SpoolFullError",
    "TakenError",
    "UnusedQueueError",
    "View",
    "Waiting",
    "at",
    "binned",
    "count_of",
    "each",
    "engine_version",
    "extend_runs",
    "gaps",
    "handover",
    "joined",
    "of",
    "runs_in",
    "runs_of",
    "set_up",
    "set_up_sql",
    "text_of",
    "wait",
]

__getattr__ = lazy.names(
    __name__,
    {
        "forwarder.spool.engine": "Consumer Handover Presence Producer Spool View",
        "forwarder.spool.errors": (
            "BookmarkMovedError DamagedError FateUnknownError NoQueueError QueueReplacedError SpoolFullError "
            "TakenError UnusedQueueError"
        ),
        "forwarder.spool.history": "SLACK_S Gap Period binned gaps",
        "forwarder.spool.ids": "Run count_of extend_runs joined runs_in runs_of text_of",
        "forwarder.spool.place": "at each handover of set_up set_up_sql",
        "forwarder.spool.queue": "EventQueue wait",
        "forwarder.spool.sqlite.ackqueue": "AckQueue",
        "forwarder.spool.sqlite.occurrences": "Occurrences",
        "forwarder.spool.values": (
            "DUE FAIL MOST_AHEAD OK WARNING Bookmark Brief Claim Control Dead DeadLetter Figures Finding "
            "Group HandedOver Holder Move Receipt Selection Settlement Waiting"
        ),
    },
)


def engine_version() -> str:
    """What keeps the events, and its version, for people."""
    from sqlite3 import sqlite_version

    return f"SQLite {sqlite_version}"
