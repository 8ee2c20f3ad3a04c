"""What is known of a request that is out."""

from __future__ import annotations

import enum
from typing import NamedTuple

from forwarder.delivery.batch import Batch
from forwarder.delivery.flow import Flow


class Way(enum.Enum):
    """How a batch came to be sent: for the first time, as it came back, as a part of what was refused,
    once more as others have passed since, in its turn, or as a made-up event.
    """

    NEW = enum.auto()
    AGAIN = enum.auto()
    PART = enum.auto()
    ASK = enum.auto()
    TURN = enum.auto()
    PROBE = enum.auto()


class Sent(NamedTuple):
    """A request that is out; *before*: the number of the last for the same; *whole*: what a sample is of."""

    flow: Flow
    way: Way
    before: int
    is_full: bool
    whole: Batch | None

    @property
    def is_blamed(self) -> bool:
        """Whether it, or what it is a part of, has failed while others passed: that says nothing of these."""
        return self.way in (Way.PART, Way.ASK, Way.TURN)
