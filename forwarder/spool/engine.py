"""What an engine is: the verbs of a queue, without a word about how it keeps what waits.

`tests/engine` states what each of them must do, for every engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

from forwarder.spool.values import (
    DUE,
    Brief,
    Claim,
    Control,
    DeadLetter,
    Figures,
    Finding,
    Group,
    Holder,
    Selection,
    Settlement,
    Waiting,
)


class Producer(Protocol):
    """The way in. Usable from several threads and processes at once, and after a fork."""

    def append(self, records: Sequence[bytes]) -> int:
        """Store final bytes, one record or more: on return all are durable, and if it raises none is stored.

        Returns:
            the id of the last one.

        Raises:
            SpoolFullError: there is no room.
            TryAgainError, StorageError, NotPermittedError: it can't be stored now, or here.
        """

    def refuse(self, counts: Mapping[str, int]) -> None:
        """Count records that were refused, by a word for the reason; durable at some later time.

        Costs no commit, and never fails: where it can't be kept, it is not counted.
        """

    def close(self) -> None:
        """Give back what is held; a later call takes it again."""


class Consumer(Protocol):
    """The way out, for the one daemon that delivers; for one thread.

    It keeps its place in the queue: each waiting row is claimed once, oldest first. A claim changes nothing,
    so that after a crash all that was not settled waits again. Where ids may mean other events by now, or
    another consumer has begun, every verb raises `QueueReplacedError` and this one is of no more use.

    Attributes:
        orphaned: What is only in files that were moved, deleted or replaced meanwhile, for a person; "":
            nothing.
    """

    @property
    def orphaned(self) -> str: ...

    def arrivals(self) -> int:
        """How many rows at most wait behind those that were claimed; to be asked when there is news."""

    def claim(self, max_events: int, max_bytes: int) -> Claim:
        """The next rows: at most *max_events*, and *max_bytes* with line ends; one alone may be larger.

        Without an event in it, it may be a step on the way to one: see its ``left``.
        """

    def sample(self, place: float) -> Claim:
        """One event that waits, from a *place* between 0 (the next) and 1 (the newest); it stays there."""

    def read_again(self, ids: Sequence[int], size_bytes: int) -> Claim:
        """Read rows that a claim has given before, *size_bytes* in all; those that are gone are left out."""

    def settle(self, settlement: Settlement) -> None:
        """Take rows out of the queue, for the reasons given; durable on return.

        Raises:
            TryAgainError, StorageError: something is left; call again with the same, and each event
                counts once.
        """

    def discard_dead_letters(self, before: float) -> int:
        """Delete dead letters older than *before* (seconds since the epoch). Returns how many."""

    def maintain(self, *, at_rest: bool) -> bool:
        """What has to be done from time to time, in a step short enough to hinder nobody.

        To be called after each turn; *at_rest*: nothing is in flight, so that there is time for more.

        Returns:
            whether there is more to do.
        """

    def changed_mark(self) -> object:
        """What differs when the queue may have changed, or what is asked for: cheap. None: look yourself."""

    def control(self) -> Control:
        """What a person has asked for and whether there is news, as of now."""

    def wait_for_locks(self, timeout_s: float) -> None:
        """Wait for others no longer than this from now on, in seconds."""

    def reopen(self) -> None:
        """Forget what is held in memory of the queue, to read it again when asked."""

    def set_aside(self) -> None:
        """Set what is damaged aside, so that the queue goes on; this consumer is of no more use then."""

    def close(self) -> None:
        """Give back what is held."""


class DeadLetters(Protocol):
    """A look at what was refused, in short reads."""

    def newest_dead_letter(self) -> int:
        """The id of the newest dead letter that is there; 0: there is none."""

    def count_dead_letters(self, where: Selection) -> int:
        """How many dead letters fit."""

    def dead_letters(
        self, where: Selection, after_id: int = 0, limit: int = 1000, with_data: bool = True
    ) -> list[DeadLetter]:
        """The dead letters that fit, oldest first, behind *after_id*; without data, that is left empty."""

    def latest_dead_letters(self, limit: int, digits: str = "") -> list[Brief]:
        """What the newest *limit* dead letters are, newest first, of those whose ids begin with *digits*."""

    def summary(self, where: Selection) -> list[Group]:
        """The dead letters that fit, grouped by what they died of; the largest group first."""


class View(DeadLetters, Protocol):
    """A look at the queue, in short reads, that disturbs nobody. A context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def figures(self) -> Figures:
        """The durable figures, read in one instant."""

    def refused(self) -> dict[str, int]:
        """How many records producers were refused, by a word for the reason; see `Producer.refuse`."""

    def used_bytes(self) -> int:
        """The space that holds something, as ``queue.max_bytes`` counts it."""

    def peek(self, count: int, after_id: int = 0, where: Selection = DUE) -> list[Waiting]:
        """The next *count* waiting events behind *after_id* that fit, in the order of delivery."""

    def newest_waiting(self) -> int:
        """The id of the newest waiting event; 0: none waits."""

    def count_waiting(self, where: Selection) -> int:
        """How many waiting events fit."""

    def check(self) -> list[Finding]:
        """Whether what is stored is sound, and the totals balance with what is there."""


class Presence(Protocol):
    """Who delivers: held for the life of the daemon, and given back however it ends.

    Attributes:
        token: Tells this holder from all others.
    """

    token: str

    def announce(self) -> None:
        """Let others see who delivers, once the queue has turned out to be one.

        Raises:
            TakenError: another process has announced itself.
        """

    def keep(self) -> None:
        """Announce it again where that is needed. Raises: as `announce`; nothing else."""

    def tell(self, state: Mapping[str, Any]) -> bool:
        """Let others see *state*, plain values, until it is given back. False: it could not be told."""

    def release(self) -> None:
        """Give it back."""


class Spool(Protocol):
    """One queue. Nothing is opened before a verb needs it.

    Attributes:
        place: Where it is, for people.
    """

    place: str

    def producer(self, *, max_bytes: int, min_free_bytes: int, lock_timeout_s: float) -> Producer:
        """A way in, which refuses what would not fit. The queue is made if it is not there."""

    def consumer(self, lock_timeout_s: float = 10.0) -> Consumer:
        """The way out; the caller has taken the `Presence`. The queue is made if it is not there."""

    def view(self, timeout_s: float = 10.0) -> View:
        """A look at it, which waits for others no longer than this.

        Raises:
            NoQueueError: there is none yet.
        """

    def pause(self) -> bool:
        """Stop delivery, until `resume`, whatever becomes of what is stored. Was it paused before?"""

    def resume(self) -> bool:
        """Start delivery again. Returns whether it was paused."""

    def request_flush(self) -> None:
        """Let the daemon forget its present wait and try now."""

    def retry_dead_letters(
        self, ids: Iterable[int], edit: Callable[[bytes, float], bytes]
    ) -> tuple[dict[int, int], list[tuple[int, str]]]:
        """Put dead letters back into the queue, all that can be in one transaction.

        Args:
            ids: Of the dead letters; unknown ones are passed over.
            edit: From the stored bytes and when they were accepted (seconds since the epoch) to the bytes to
                queue; what it refuses with an EventError stays dead.

        Returns:
            the new row's id by that of each that was put back, and (id, reason) of each that stays.
        """

    def delete_dead_letters(self, ids: Sequence[int]) -> int:
        """Delete dead letters for good. Returns how many there were of *ids*."""

    def hold(self, ids: Sequence[int]) -> int:
        """Keep waiting events from delivery until `release`, but what is sent just now. Returns how many."""

    def release(self, ids: Sequence[int]) -> int:
        """Let held events go to the end of the queue, with new ids. Returns how many."""

    def delete_waiting(self, ids: Sequence[int]) -> int:
        """Delete waiting events for good, held ones too. Returns how many there were of *ids*.

        What is sent just now may be delivered all the same, but counts as deleted.
        """

    def take(self) -> Presence:
        """Be the one that delivers.

        Raises:
            TakenError: another process is; says which.
        """

    def holder(self) -> Holder | None:
        """The daemon that delivers from it; None: none does.

        Raises:
            NotPermittedError: this user can't see it.
            ForwarderError: it can't be told.
        """

    def set_aside(self) -> list[str]:
        """What was set aside as damaged, and waits to be salvaged."""

    def findings(self, *, max_bytes: int, min_free_bytes: int, briefly: bool = False) -> Iterator[Finding]:
        """Whether everything is in place: permissions and room; and unless *briefly*, the content too."""
