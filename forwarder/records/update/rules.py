"""The rules for updates, and the reasons for a refusal.

*Structure* always holds: as for events a JSON object in UTF-8 of at most 1 MB, with a ``$token``, the ids
and an operation. *Rules* are one operation with a value of its type, and the limits of a profile (Mixpanel
docs, "User Profiles" and "Data Types"): 2000 properties, 255 keys in an object inside of them. Text that is
too long is cut by Mixpanel, and members that no rule names are left to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forwarder.errors import EventError
from forwarder.records import json_object
from forwarder.records.json_object import Number, path_to, shown
from forwarder.records.likeness import other_kind
from forwarder.records.reasons import COMMON, COMMON_VALUES, Reasons

MAX_UPDATE_BYTES = 1_000_000
MAX_PROPERTIES = 2000
MAX_KEYS = 255
_MEANS = {
    "$token": "each update carries the project's token",
    "$distinct_id": "it is the id of the user whose profile it is",
    "$group_key": "it is the property by which groups are formed, such as company",
    "$group_id": "it is the id of the group",
}
REASONS = Reasons(
    {
        **COMMON,
        "not_an_update": "not an update|an update is",
        "token": r"'\$token'",
        "id": r"'\$(?:distinct_id|group_key|group_id)'",
        "operation": r"no operation|\d+ operations",
        "duplicate_key": "duplicate key",
        **COMMON_VALUES,
    }
)


def parse(line: bytes, kind: str, ids: Sequence[str], operations: Sequence[str]) -> dict[str, Any]:
    """Read one JSON text as an update of a *kind*, with care.

    Returns:
        its members; numbers as they were written.

    Raises:
        EventError: with the first mistake in its structure.
    """
    update = json_object.read(line, "update")
    if not isinstance(update, dict):
        found = "a list" if isinstance(update, list) else "a single value"
        wanted = f"'$token', {', '.join(map(repr, ids))} and an operation such as '$set'"
        raise EventError(f"not an update: {found}, where an object with {wanted} is expected")
    for name in ("$token", *ids):
        if name not in update:
            raise EventError(f"'{name}' is missing: {_MEANS[name]}{other_kind(update, kind)}")
        value = update[name]
        if not isinstance(value, str) or not value or (name == "$token" and isinstance(value, Number)):
            form = "a text" if name == "$token" else "a text or a number"
            found = "an empty one" if value == "" else shown(value)
            raise EventError(f"'{name}' must be {form}, not {found}: {_MEANS[name]}")
    if not _found(update, operations):
        raise EventError(f"no operation: an update has one of {', '.join(operations)}")
    return update


def check(update: dict[str, Any], operations: Sequence[str]) -> None:
    """Check a parsed update against Mixpanel's rules.

    Raises:
        EventError: with the first broken rule.
    """
    found = _found(update, operations)
    if len(found) > 1:
        named = " and ".join(found)
        raise EventError(f"{len(found)} operations, {named}: make an update of each, in their order")
    (operation,) = found
    value = update[operation]
    if operation == "$delete":
        return
    if operation == "$unset":
        if not isinstance(value, list):
            raise EventError(f"'$unset' must be a list of the properties' names, not {shown(value)}")
        return
    if not isinstance(value, dict):
        raise EventError(f"'{operation}' must be an object of properties, not {shown(value)}")
    _check_keys(value, operation, MAX_PROPERTIES)
    if operation == "$add":
        for name, number in value.items():
            if not isinstance(number, Number):
                raise EventError(f"'{path_to('$add', name)}' must be a number, not {shown(number)}")


def _found(update: dict[str, Any], operations: Sequence[str]) -> list[str]:
    return [name for name in operations if name in update]


def _check_keys(value: Any, where: str, most: int) -> None:
    if isinstance(value, dict) and len(value) > most:
        raise EventError(
            f"'{where}' is invalid: {len(value)} keys, at most {most} are allowed; leave some out"
        )
    for step, member in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(member, (dict, list)):
            _check_keys(member, path_to(where, step), MAX_KEYS)
