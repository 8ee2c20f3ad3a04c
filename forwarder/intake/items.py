"""What an item of a request becomes before its kind accepts it, and what is wrong with the others.

What ``/track`` fills in by itself, ``/import``, by which events leave, would not: an event without a
``distinct_id`` gets an empty one, since Mixpanel would otherwise take this host's address for a user; and the
client's address, if it asked for its place. All else stays as the client wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

import msgspec

from forwarder.errors import EventError
from forwarder.intake.payload import RefusedError

if TYPE_CHECKING:
    from forwarder.records.kind import Kind

SHOWN_CHARACTERS = 4  # of a token
SLICE_ITEMS = 100
_ABSENT = msgspec.Raw(b"")
_NO_TOKEN = "token, missing or empty"  # noqa: S105 - Mixpanel's words


# As written: a number that Python can't hold, which the kind accepts, must not hide the token beside it.
class _Properties(msgspec.Struct):
    token: msgspec.Raw = _ABSENT
    distinct_id: msgspec.Raw = _ABSENT
    ip: msgspec.Raw = _ABSENT
    insert_id: msgspec.Raw = msgspec.field(default=_ABSENT, name="$insert_id")


class _Event(msgspec.Struct):
    properties: _Properties


class _Update(msgspec.Struct):
    token: msgspec.Raw = msgspec.field(default=_ABSENT, name="$token")
    ip: msgspec.Raw = msgspec.field(default=_ABSENT, name="$ip")


_event = msgspec.json.Decoder(_Event).decode
_text = msgspec.json.Decoder(str).decode
_update = msgspec.json.Decoder(_Update).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_NOT_READ = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_properties = re.compile(rb'"properties"\s*:\s*\{').search
_to_value = re.compile(rb'[\s,]*"(?:[^"\\]++|\\.)*+"\s*:\s*', re.DOTALL).match
_begins_empty = re.compile(rb"\s*\}").match
_named = re.compile(r"'([^']{1,100})'").match


class Failed(TypedDict):
    """An item that is refused: its index in the request, and why; one of Mixpanel's ``failed_records``."""

    index: int
    insert_id: str
    field: str
    message: str


@dataclass(slots=True)
class Sorted:
    """The items of a request: *records* for the queue; *dead* ones as they came, with the reasons."""

    records: list[bytes] = field(default_factory=list)
    dead: list[tuple[bytes, str]] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)


@dataclass(slots=True)
class Sorter:
    """How the items of one request are judged.

    Attributes:
        kind: What they are.
        path: Where they came in: ``/track``, ``/import``, ``/engage`` or ``/groups``.
        rules: Whether Mixpanel's rules are checked, too.
        tokens: Those that are accepted.
        address: The client's, if it asked for its place and the address is a public one; else "".
    """

    kind: Kind
    path: str
    rules: bool
    tokens: frozenset[str]
    address: str

    def sort(self, items: Sequence[bytes], now_ms: int) -> Sorted:
        """`slices` to the end."""
        found = Sorted()
        for found in self.slices(items, now_ms):  # noqa: B007 - the last one has all
            pass
        return found

    def slices(self, items: Sequence[bytes], now_ms: int) -> Iterator[Sorted]:
        """Judge *items*; yields what is found so far, each time after some of them.

        Raises:
            RefusedError: one has the token of another project, so nothing of the request may be stored.
        """
        found = Sorted()
        for index, item in enumerate(items):
            if index and index % SLICE_ITEMS == 0:
                yield found
            insert_id: str | None = ""
            try:
                item, insert_id = self._prepared(item)
                found.records.append(self.kind.accept(item, now_ms, self.rules))
            except EventError as error:
                reason = str(error)
                place = _named(reason)
                found.failed.append(
                    Failed(
                        index=index,
                        insert_id=insert_id or "",
                        field=place[1] if place else "",
                        message=reason,
                    )
                )
                found.dead.append((items[index], f"{reason} (came in by {self.path})"))
        yield found

    def _prepared(self, item: bytes) -> tuple[bytes, str | None]:
        """The item with what must be in it, and its ``$insert_id``."""
        if self.path in ("/engage", "/groups"):
            return self._prepared_update(item), ""
        try:
            properties = _event(item).properties
        except _NOT_READ:
            return item, ""  # its kind says what is wrong
        self._check_token(_read(properties.token), is_needed=self.path == "/track")
        more = []
        if self.path == "/track" and properties.distinct_id is _ABSENT:
            more.append(b'"distinct_id":""')
        if self.address and properties.ip is _ABSENT:
            more.append(b'"ip":"%s"' % self.address.encode())
        return (_spliced(item, _place_in_properties(item), more) if more else item), _read(
            properties.insert_id
        )

    def _prepared_update(self, item: bytes) -> bytes:
        try:
            update = _update(item)
        except _NOT_READ:
            return item
        self._check_token(_read(update.token), is_needed=True)
        if not self.address or update.ip is not _ABSENT or self.path != "/engage":
            return item
        return _spliced(item, item.index(b"{") + 1, [b'"$ip":"%s"' % self.address.encode()])

    def _check_token(self, token: str | None, is_needed: bool) -> None:
        if token in self.tokens:
            return
        if token == "":
            if is_needed:
                raise EventError(_NO_TOKEN)
            return
        shown = f"{token[:SHOWN_CHARACTERS]}..." if token else "that is not text"
        raise RefusedError(401, f"the token {shown} is not one of intake.tokens")


def _read(value: msgspec.Raw) -> str | None:
    """A member's text; "" if it is absent or null, None if it is not text."""
    if value is _ABSENT or bytes(value) == b"null":
        return ""
    try:
        return _text(value)
    except _NOT_READ:
        return None


def _place_in_properties(item: bytes) -> int:
    """Where in an event its properties begin, after the brace."""
    found = _properties(item)
    # Otherwise the match may be further in.
    if found and item.count(b"{", 0, found.start()) == 1:
        return found.end()
    at = item.index(b"{") + 1
    for name, raw in _members(item).items():
        at = _to_value(item, at).end()  # type: ignore[union-attr]
        if name == "properties":
            break
        at += len(bytes(raw))
    return at + 1


def _spliced(item: bytes, at: int, members: Sequence[bytes]) -> bytes:
    comma = b"" if _begins_empty(item, at) else b","
    return item[:at] + b",".join(members) + comma + item[at:]
