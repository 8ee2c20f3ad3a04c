"""What an engine is: the verbs of a queue, independent of how it stores events.

`tests/engine` states what each verb must do, for every engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from forwarder.records.kind import Kind
    from forwarder.spool.history import Period
    from forwarder.spool.ids import Run
    from forwarder.spool.values import (
        Bookmark,
        Brief,
        Claim,
        Control,
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


# A bookmark is some 200 bytes.
KEPT_BOOKMARKS = 10_000


class Producer(Protocol):
    """The way in. Usable by several threads and processes at once, and after a fork."""

    def append(
        self,
        records: Sequence[bytes],
        dead: Sequence[tuple[bytes, str]] = (),
        move: Move | None = None,
    ) -> Sequence[int]:
        """Store final bytes of records. On return all are durable; if it raises, none is stored.

        Args:
            records: The final bytes; one or more, unless there are *dead* ones or a *move*.
            dead: What is not a record, each with the reason: a dead letter at once.
            move: Of the bookmark of the file that they are from, in the same commit. The `KEPT_BOOKMARKS`
                that were moved last are kept.

        Returns:
            their ids, ascending: those of the *records*, in their order, then those of the *dead* ones.

        Raises:
            SpoolFullError: there is no room.
            BookmarkMovedError: an old one of the *move* is no longer there, or the new one already is.
            TryAgainError, StorageError, NotPermittedError: they can't be stored now, or here.
        """

    def bookmarks(self, path: str, file: str) -> list[Bookmark]:
        """The bookmarks of files with that *path*, or that are that *file*. Raises: as `append`."""

    def refuse(self, counts: Mapping[str, int]) -> None:
        """Count records that were refused, by a word for the reason; durable at some later time.

        Costs no commit, and never fails: where it can't be kept, it is not counted.
        """

    def close(self) -> None:
        """Release what is held; a later call takes it again."""


class Consumer(Protocol):
    """The way out, for the one daemon that delivers. For one thread.

    It keeps its place in the queue: each waiting row is claimed once, oldest first. A claim changes nothing,
    so after a crash all rows that were not settled wait again. If ids may now mean other events, or another
    consumer has started, every verb raises `QueueReplacedError`, and this consumer is no longer usable.

    Attributes:
        queue_id: The identity of the kind's queue; a copy of its storage has the same.
        orphaned: What only those files hold that were moved, deleted or replaced meanwhile, for a person;
            "": nothing.
    """

    @property
    def queue_id(self) -> str: ...

    @property
    def orphaned(self) -> str: ...

    def arrivals(self) -> int:
        """How many rows at most wait behind the claimed ones. Call it when there is news."""

    def claim(self, max_events: int, max_bytes: int) -> Claim:
        """The next rows: at most *max_events*, and *max_bytes* with line ends. A single one may be larger.

        If it has no event, call again unless its ``left`` is 0.
        """

    def sample(self, place: float) -> Claim:
        """One waiting event, from a *place* between 0 (the next) and 1 (the newest). It stays there."""

    def read_again(self, ids: Sequence[int], size_bytes: int) -> Claim:
        """Read rows of an earlier claim again, *size_bytes* in all, without those that are gone."""

    def mark_sent(self, ids: Sequence[int], *, sent: bool = True) -> int:
        """Note that waiting rows are being sent, or no longer; durable on return.

        If the process ends before they are settled, the next consumer's claims have them as ``doubtful``.

        Returns:
            how many of them still wait.
        """

    def settle(self, settlement: Settlement) -> None:
        """Remove rows from the queue, for the given reasons; durable on return.

        Raises:
            TryAgainError, StorageError: something is left. Call again with the same; each event counts
                once.
        """

    def record(self, period: Period) -> None:
        """Keep what happened in *period*, a minute, with the newest `MINUTES` and `HOURS`; durable on return.

        Raises:
            TryAgainError, StorageError: it is not kept.
        """

    def discard_dead_letters(self, before: float) -> int:
        """Delete dead letters older than *before* (seconds since the epoch). Returns how many."""

    def maintain(self, *, at_rest: bool) -> bool:
        """Periodic maintenance, in a step short enough not to delay others.

        Call it after each turn. *at_rest*: nothing is in flight, so there is time for more.

        Returns:
            whether there is more to do.
        """

    def changed_mark(self) -> object:
        """A mark that differs if the queue or the requests may have changed; cheap. None: look yourself."""

    def control(self) -> Control:
        """What a person has requested and whether there is news, as of now."""

    def wait_for_locks(self, timeout_s: float) -> None:
        """From now on, wait for others this long at most, in seconds."""

    def reopen(self) -> None:
        """Forget what memory holds of the queue, and read it again when needed."""

    def set_aside(self) -> None:
        """Set damaged storage aside, so that the queue continues. Then this consumer is no longer usable."""

    def close(self) -> None:
        """Release what is held."""


class Handover(Protocol):
    """The way in for records of other queues, each once. Usable by several threads."""

    def check(self) -> None:
        """Whether this user can hand over, and what is taken over is as safe as the settings ask for.

        Raises:
            ConfigError, NotPermittedError: it is not so.
            TryAgainError, StorageError: that can't be known now.
        """

    def last(self, source: str) -> HandedOver:
        """What it has taken over last from the queue *source*, durably. With it a turn begins: what is on its
        way from there is either in it or refused. Raises: as `check`."""

    def hand_over(self, source: str, turn: int, ids: Sequence[int], records: Sequence[bytes]) -> None:
        """Take over the final bytes of one or more *records*, with their *ids* in the queue *source*. On
        return they are durable, in this order, and what `last` returns.

        Raises:
            TryAgainError, StorageError: it is not known whether it was done, or another *turn* has begun.
                `last` tells.
            ConfigError, NotPermittedError: as `check`.
        """

    def close(self) -> None:
        """Release what is held."""


class DeadLetters(Protocol):
    """A look at the dead letters, in short reads."""

    def newest_dead_letter(self) -> int:
        """The id of the newest dead letter; 0: there is none."""

    def count_dead_letters(self, where: Selection) -> int:
        """How many dead letters match."""

    def dead_letters(
        self, where: Selection, after_id: int = 0, limit: int = 1000, with_data: bool = True
    ) -> list[DeadLetter]:
        """The matching dead letters, oldest first, behind *after_id*; data is empty unless *with_data*."""

    def latest_dead_letters(self, limit: int, digits: str = "") -> list[Brief]:
        """The newest *limit* dead letters in brief, newest first, whose ids begin with *digits*."""

    def summary(self, where: Selection) -> list[Group]:
        """The matching dead letters, grouped by cause; the largest group first."""


class View(DeadLetters, Protocol):
    """A look at the queue, in short reads, that disturbs nothing. A context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def figures(self) -> Figures:
        """The durable figures, all as of one instant."""

    def refused(self) -> dict[str, int]:
        """How many records producers were refused, by a word for the reason; see `Producer.refuse`."""

    def history(self, count: int, *, hourly: bool = False) -> list[Period]:
        """What the daemon has recorded: the newest *count* minutes, or hours, in the order of recording."""

    def used_bytes(self) -> int:
        """The space in use, as ``queue.max_bytes`` counts it."""

    def peek(self, count: int, after_id: int = 0, where: Selection = ...) -> list[Waiting]:
        """The next *count* matching waiting events behind *after_id*, in the order of delivery."""

    def newest_waiting(self) -> int:
        """The id of the newest waiting event; 0: none waits."""

    def count_waiting(self, where: Selection) -> int:
        """How many waiting events match."""

    def receipts(self, runs: Sequence[Run]) -> list[Receipt]:
        """What became of the records with these ids, each run its first and last one: in the order of ids,
        each id once."""

    def waits(self, runs: Sequence[Run]) -> bool:
        """Whether a record with one of these ids waits, held ones too; cheap for up to 1000 *runs*."""

    def check(self) -> list[Finding]:
        """Whether the stored data is sound, and the totals match it."""


class Presence(Protocol):
    """Who delivers: held while the daemon lives, and released however it ends.

    Attributes:
        token: Distinguishes this holder from all others.
    """

    token: str

    def announce(self) -> None:
        """Let others see who delivers, once the queue is open.

        Raises:
            TakenError: another process has announced itself.
        """

    def keep(self) -> None:
        """Announce it again if needed. Raises: as `announce`; nothing else."""

    def tell(self, state: Mapping[str, Any]) -> bool:
        """Let others see *state*, plain values, until the release. False: it could not be stored."""

    def release(self) -> None:
        """Release it."""


class Spool(Protocol):
    """The records of one kind in a queue. Each verb opens what it needs.

    What a person requests (`pause`, `resume`, `request_flush`), who delivers (`take`, `holder`) and what was
    set aside concern all kinds.

    Attributes:
        place: The queue's place, for people.
        kind: The kind.
        stands_by: Whether a daemon waits while another delivers, to take over from it.
    """

    place: str
    kind: Kind
    stands_by: bool

    def producer(self, *, max_bytes: int, min_free_bytes: int, lock_timeout_s: float) -> Producer:
        """A way in; it refuses what does not fit. The queue is created if missing."""

    def consumer(self, lock_timeout_s: float = 10.0, token: str = "") -> Consumer:
        """The way out; the caller holds the `Presence`. The queue is created if missing.

        Args:
            token: The presence's. An engine whose presence may pass to another process without this one's
                doing compares it: then every verb raises `TakenError`.
        """

    def view(self, timeout_s: float = 10.0) -> View:
        """A look at it, which waits for others this long at most.

        Raises:
            NoQueueError: there is none yet.
        """

    def pause(self) -> bool:
        """Stop delivery until `resume`, whatever happens to the data. Returns whether it was paused."""

    def resume(self) -> bool:
        """Start delivery again. Returns whether it was paused."""

    def request_flush(self) -> None:
        """Ask the daemon to forget its current wait and try now."""

    def retry_dead_letters(
        self, ids: Iterable[int], edit: Callable[[bytes, float], bytes]
    ) -> tuple[dict[int, int], list[tuple[int, str]]]:
        """Put dead letters back into the queue, in one transaction.

        Args:
            ids: Of the dead letters; unknown ones are skipped.
            edit: Takes the stored bytes and the time of acceptance (seconds since the epoch), and returns the
                bytes to queue. What it refuses with an EventError stays a dead letter.

        Returns:
            the new row's id by dead letter's id, and (id, reason) of each that stays.
        """

    def delete_dead_letters(self, ids: Sequence[int]) -> int:
        """Delete dead letters for good. Returns how many there were of *ids*."""

    def hold(self, ids: Sequence[int]) -> int:
        """Hold waiting events back until `release`, except those in flight. Returns how many."""

    def release(self, ids: Sequence[int]) -> int:
        """Move held events to the end of the queue, with new ids. Returns how many."""

    def delete_waiting(self, ids: Sequence[int]) -> int:
        """Delete waiting events for good, held ones too. Returns how many there were of *ids*.

        An event in flight may still be delivered, but counts as deleted.
        """

    def take(self) -> Presence:
        """Become the one that delivers.

        Raises:
            TakenError: another process is; the message says which.
        """

    def holder(self) -> Holder | None:
        """The daemon that delivers from it; None: there is none.

        Raises:
            NotPermittedError: this user can't see it.
            ForwarderError: it is not known.
        """

    def set_aside(self) -> list[str]:
        """What was set aside as damaged and waits to be salvaged."""

    def findings(self, *, max_bytes: int, min_free_bytes: int, briefly: bool = False) -> Iterator[Finding]:
        """Whether permissions and room are in order; and unless *briefly*, the content too."""
