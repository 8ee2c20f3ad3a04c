"""What can be in the way of the verbs, beside the errors of :mod:`forwarder.errors`."""

from __future__ import annotations

from forwarder.errors import StorageError, TryAgainError, UnavailableError


class SpoolFullError(TryAgainError):
    """There is no room: on the disk, or under ``queue.max_bytes``."""


class DamagedError(StorageError):
    """What was stored is not what it was: it can't be read, or not as a queue."""


class QueueReplacedError(TryAgainError):
    """The queue is another than the one that was read from."""


class TakenError(TryAgainError):
    """Another process delivers from this queue."""


class NoQueueError(UnavailableError):
    """There is no queue at the place yet."""


class UnusedQueueError(NoQueueError):
    """There is one of plain persist-queue, not adopted yet, so that its figures can't be told."""
