"""The errors of the verbs, in addition to those of :mod:`forwarder.errors`."""

from __future__ import annotations

from forwarder.errors import StorageError, TryAgainError, UnavailableError


class SpoolFullError(TryAgainError):
    """There is no room: on the disk, or under ``queue.max_bytes``."""


class FateUnknownError(TryAgainError):
    """The connection to a server ended before the answer came: what was asked for may be done or not."""

    usual_remedy = (
        "What was offered may be stored or not. Offered again, an event counts once if it has its own "
        "identity, and an update may be applied twice"
    )


class BookmarkMovedError(TryAgainError):
    """A bookmark is not the one that was read."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} is being stored by another process at the same time, or the queue was replaced",
            "Nothing was stored twice; once the other one has ended, the same command continues",
        )


class DamagedError(StorageError):
    """The stored data is damaged: it can't be read, or is not a queue."""


class QueueReplacedError(TryAgainError):
    """The queue is no longer the one that was opened."""


class TakenError(TryAgainError):
    """Another process delivers from this queue."""


class NoQueueError(UnavailableError):
    """There is no queue yet."""


class UnusedQueueError(NoQueueError):
    """The queue is one of plain persist-queue and not adopted yet, so its figures are not known."""
