"""Reading an update's stored bytes: whether they are final, what they change, and their name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec

from forwarder.records.nearly_json import FAULTS, has_id, text_member, values_of
from forwarder.records.update.rules import MAX_UPDATE_BYTES

if TYPE_CHECKING:
    from forwarder.records.kind import Lane

_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Id = _Text | int | float
# Members that change nothing in a profile by being sent twice. What is not listed may be an operation that
# counts; $add and $append are.
_REPEATABLE = frozenset(
    [
        *("$set", "$set_once", "$union", "$remove", "$unset", "$delete"),
        *("$token", "$distinct_id", "$group_key", "$group_id", "$time"),
        *("$ip", "$ignore_time", "$ignore_alias"),
        # Read in the sources of mixpanel-js, mixpanel-swift and mixpanel-android.
        *("$device_id", "$user_id", "$had_persisted_distinct_id", "$mp_metadata"),
    ]
)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Final(msgspec.Struct, gc=False):
    """What any update's final bytes have."""

    token: _Text = msgspec.field(name="$token")
    time: msgspec.Raw = msgspec.field(name="$time")


class FinalProfile(Final, gc=False):
    """What the final bytes of a profile's update have."""

    distinct_id: _Id = msgspec.field(name="$distinct_id")


class FinalGroup(Final, gc=False):
    """What the final bytes of a group's update have."""

    group_key: _Id = msgspec.field(name="$group_key")
    group_id: _Id = msgspec.field(name="$group_id")


class Reader:
    """Reads stored updates of one kind; the methods are those of `OrderedKind`."""

    def __init__(self, final: type[Final], ids: Sequence[str], operations: Sequence[str]) -> None:
        self._final = msgspec.json.Decoder(final)
        self._what = ("$token", *ids)
        self._names = ids[-1:]
        self._operations = operations
        self._id, self._values = text_member(ids[-1]), values_of(self._names)
        named = "|".join(map(re.escape, operations))
        self._operation = re.compile(rf"""["'](?P<name>{named})["']\s*:""").search

    def is_final(self, data: bytes) -> bool:
        """Whether *data* is one complete update, without a line break."""
        if len(data) > MAX_UPDATE_BYTES or data[:1] != b"{" or b"\n" in data:
            return False
        try:
            self._final.decode(data)
        except FAULTS:
            return False
        return True

    def are_final(self, text: bytes, count: int) -> bool:
        """Whether *text* is *count* lines, each one complete update."""
        if text.count(b"\n") != count:
            return False
        try:
            return len(self._final.decode_lines(text)) == count
        except FAULTS:
            return False

    def lane(self, record: bytes) -> Lane:
        """What an update changes: its token and ids, numbers as the text that Mixpanel makes of them."""
        # Not at the top: producers don't need it.
        from forwarder.records.kind import Lane

        try:
            members = _members(record)
            key = tuple(_text(members.get(name)) for name in self._what)
        except FAULTS:
            return Lane("", repeats=False)
        return Lane(key, all(name in _REPEATABLE for name in members if name[:1] == "$"))

    def name_of(self, data: bytes | str | None) -> tuple[str, str]:
        """An update's operation and the id of what it changes; each "" if it can't be read."""
        try:
            members = _members(data or b"")
            operation = next((name for name in self._operations if name in members), "")
            return operation, _text(members.get(self._names[0]))
        except FAULTS:
            text = (
                data if isinstance(data, str) else (data or b"")[:MAX_UPDATE_BYTES].decode(errors="replace")
            )
            found = self._operation(text)
            return found["name"] if found else "", self._id(text)

    def concerns(self, data: bytes | None, user: str) -> bool:
        """Whether an update is of the profile or group with the id *user*."""
        return has_id(data, user, self._names, self._values)


def _text(raw: msgspec.Raw | None) -> str:
    """An id as a text: 5, 5.0 and "5" are the same one."""
    text = bytes(raw or b"").decode()
    if text[:1] == '"':
        return str(msgspec.json.decode(text))
    try:
        if text.lstrip("-").isdecimal() or not (number := float(text)).is_integer():
            return text
    except ValueError:
        return text
    return f"{number:.0f}"
