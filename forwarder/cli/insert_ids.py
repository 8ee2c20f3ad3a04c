"""``--insert-ids``: an event without an ``$insert_id`` gets the same one each time it is enqueued."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from forwarder.errors import EventError, UsageError
from forwarder.records import EVENTS
from forwarder.records.event import accept, accept_many
from forwarder.records.event.insert_ids import digest_of, insert_id_of
from forwarder.records.reading import take_apart

if TYPE_CHECKING:
    from forwarder.records.kind import Kind
    from forwarder.spool import Occurrences


class InsertIds:
    """Accepts events.

    Args:
        fields: What an ``$insert_id`` is made of; if empty, of the whole event and *occurrences*.
    """

    def __init__(self, fields: Sequence[str], occurrences: Occurrences | None) -> None:
        self._fields = fields
        self._occurrences = occurrences

    def accept(self, line: bytes, now_ms: int, rules: bool) -> bytes:
        """As `Kind.accept`."""
        ids, refused, _ = self._made([line])
        if refused:
            raise EventError(refused[0])
        return accept(line, now_ms, rules, ids[0])

    def accept_many(
        self, lines: Sequence[bytes], now_ms: int, rules: bool = True
    ) -> tuple[list[bytes], list[tuple[int, str]]]:
        """As `Kind.accept_many`."""
        ids, refused, _ = self._made(lines)
        if refused:
            lines = [b"" if index in refused else line for index, line in enumerate(lines)]
        accepted, found = accept_many(lines, now_ms, rules, ids)
        return accepted, sorted([*found, *refused.items()])

    def see(self, lines: Sequence[bytes]) -> None:
        """Count the events in *lines*, which are not to be stored again."""
        _, _, unread = self._made(lines)
        for index in unread:
            self._made(take_apart(lines[index]) or ())

    def _made(self, lines: Sequence[bytes]) -> tuple[list[str], dict[int, str], list[int]]:
        """The id for each of *lines*, the reason for each that is refused, and which are not one event."""
        digests: dict[int, bytes] = {}
        refused: dict[int, str] = {}
        unread: list[int] = []
        for index, line in enumerate(lines):
            try:
                digest = digest_of(line, self._fields)
            except EventError as error:
                refused[index] = str(error)
                continue
            if digest:
                digests[index] = digest
            elif digest is None:
                unread.append(index)
        positions = (
            self._occurrences.positions([*digests.values()]) if self._occurrences else [0] * len(digests)
        )
        ids = [""] * len(lines)
        for (index, digest), position in zip(digests.items(), positions, strict=True):
            ids[index] = insert_id_of(digest, position)
        return ids, refused, unread


@contextmanager
def chosen(given: str, kind: Kind) -> Iterator[InsertIds | None]:
    """What accepts the records of *kind* with ``--insert-ids`` *given*; None: the kind itself.

    Raises:
        UsageError: it names no fields, or *kind* has no ``$insert_id``.
    """
    if given == "random":
        yield None
        return
    if kind is not EVENTS:
        raise UsageError(f"--insert-ids is for events: {kind.noun} have no $insert_id", "Leave it out")
    if given != "content":
        fields = given.split(",")
        if "" in fields:
            raise UsageError(f"--insert-ids {given!r}: a field without a name", "Give FIELD or FIELD,FIELD")
        yield InsertIds(fields, None)
        return
    from forwarder.spool import Occurrences

    with closing(Occurrences()) as occurrences:
        yield InsertIds((), occurrences)
