"""What is known of a request in flight."""

from __future__ import annotations

import enum
from typing import NamedTuple

from forwarder.delivery.batch import Batch
from forwarder.delivery.flow import Flow


class Way(enum.Enum):
    """Why a batch was sent: for the first time, again unchanged, as a part of a refused one,
    again because others passed since, in its turn, or as a probe.
    """

    NEW = enum.auto()
    AGAIN = enum.auto()
    PART = enum.auto()
    ASK = enum.auto()
    TURN = enum.auto()
    PROBE = enum.auto()


class Sent(NamedTuple):
    """A request in flight; *before*: the number of the last one for the same; *whole*: a sample's batch."""

    flow: Flow
    way: Way
    before: int
    is_full: bool
    whole: Batch | None

    @property
    def is_blamed(self) -> bool:
        """Whether it, or the batch it is a part of, failed while others passed: so they are not affected."""
        return self.way in (Way.PART, Way.ASK, Way.TURN)
