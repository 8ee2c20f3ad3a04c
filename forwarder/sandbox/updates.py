"""``/engage`` and ``/groups``: updates of profiles, applied as Mixpanel documents them.

Sources: Mixpanel docs (Profile Set, Profile Numerical Add, ... and the same of groups); that an update
without ``$token`` is not valid is mixpanel-node's experience.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from forwarder.sandbox import rules

Profile = dict[str, Any]


class Profiles:
    """What updates have made of profiles; any thread may read it at any time.

    Args:
        ids: The keys of an update that name its profile.
        operations: The operations there are for these profiles.
        token: The project's: updates with another are acknowledged, as by Mixpanel, and change nothing.
    """

    def __init__(self, ids: Sequence[str], operations: Sequence[str], token: str) -> None:
        self._ids, self._operations, self._token = ids, operations, token
        self._lock = threading.Lock()
        self._profiles: dict[tuple[str, ...], Profile] = {}
        self._updates: list[bytes] = []

    def take(self, items: Sequence[bytes]) -> tuple[int, str]:
        """Apply *items* in their order. Returns how many are valid, and why the first other one is not."""
        valid, first_error = 0, ""
        for item in items:
            update = rules.parse(item)
            error = self._error(update)
            if error:
                first_error = first_error or error
                continue
            valid += 1
            if update["$token"] == self._token:
                with self._lock:
                    self._updates.append(item)
                    self._apply(update)
        return valid, first_error

    def _error(self, update: Any) -> str:
        if not isinstance(update, dict):
            return "an update must be an object"
        if not isinstance(update.get("$token"), str) or not update["$token"]:
            return "$token, missing or empty"
        for key in self._ids:
            if type(update.get(key)) not in (str, int, float) or update[key] == "":
                return f"{key}, missing or empty"
        found = [operation for operation in self._operations if operation in update]
        if len(found) != 1:
            return f"an update has one operation: {', '.join(self._operations)}"
        operation, value = found[0], update[found[0]]
        if operation == "$unset":
            return "" if isinstance(value, list) else "$unset must be a list"
        if operation == "$delete":
            return ""
        if not isinstance(value, dict):
            return f"{operation} must be an object"
        if operation == "$add" and not all(type(number) in (int, float) for number in value.values()):
            return "$add must have numbers"
        return ""

    def _apply(self, update: Mapping[str, Any]) -> None:
        which = tuple(str(update[key]) for key in self._ids)
        if "$delete" in update:
            self._profiles.pop(which, None)
            return
        profile = self._profiles.setdefault(which, {})
        operation = next(each for each in self._operations if each in update)
        if operation == "$unset":
            for name in update["$unset"]:
                profile.pop(name, None)
            return
        for name, value in update[operation].items():
            _APPLIED[operation](profile, name, value)

    @property
    def profiles(self) -> dict[tuple[str, ...], Profile]:
        """A copy of each, by the values of its ids."""
        with self._lock:
            return deepcopy(self._profiles)

    @property
    def updates(self) -> list[bytes]:
        """A copy of all updates that were applied, in order."""
        with self._lock:
            return list(self._updates)


def users(token: str) -> Profiles:
    """The profiles of users, for ``/engage``."""
    operations = ("$set", "$set_once", "$add", "$append", "$union", "$remove", "$unset", "$delete")
    return Profiles(("$distinct_id",), operations, token)


def groups(token: str) -> Profiles:
    """The profiles of groups, for ``/groups``."""
    operations = ("$set", "$set_once", "$union", "$remove", "$unset", "$delete")
    return Profiles(("$group_key", "$group_id"), operations, token)


def _set(profile: Profile, name: str, value: Any) -> None:
    profile[name] = value


def _add(profile: Profile, name: str, value: Any) -> None:
    before = profile.get(name, 0)
    profile[name] = before + value if isinstance(before, int | float) else value


def _append(profile: Profile, name: str, value: Any) -> None:
    before = profile.get(name, [])
    profile[name] = [*(before if isinstance(before, list) else [before]), value]


def _union(profile: Profile, name: str, values: Any) -> None:
    before = profile.get(name, [])
    found = list(before) if isinstance(before, list) else [before]
    profile[name] = found + [
        each for each in (values if isinstance(values, list) else [values]) if each not in found
    ]


def _remove(profile: Profile, name: str, value: Any) -> None:
    if isinstance(profile.get(name), list):
        profile[name] = [each for each in profile[name] if each != value]


_APPLIED: Mapping[str, Callable[[Profile, str, Any], None]] = {
    "$set": _set,
    "$set_once": lambda profile, name, value: profile.setdefault(name, value) and None,
    "$add": _add,
    "$append": _append,
    "$union": _union,
    "$remove": _remove,
}
