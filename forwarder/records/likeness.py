"""What a record that was offered as one kind looks like: another kind, and how to offer it as that."""

from __future__ import annotations

from collections.abc import Container

OPERATIONS = ("$set", "$set_once", "$add", "$append", "$union", "$remove", "$unset", "$delete")
GROUP_OPERATIONS = ("$set", "$set_once", "$union", "$remove", "$unset", "$delete")
GROUP_IDS = ("$group_key", "$group_id")
# Where such a record belongs.
_PLACES = {
    "event": "an event: offer it with --kind event or put",
    "profile": "a profile update: offer it with --kind profile or put_profile",
    "group": "a group update: offer it with --kind group or put_group",
}


def other_kind(names: Container[str], kind: str) -> str:
    """What a record with members of these *names* looks like, if that is not of this *kind*; "": unknown.

    It is appended to a reason.
    """
    if any(name in names for name in GROUP_IDS):
        found = "group"
    elif "$distinct_id" in names or "$token" in names or any(name in names for name in OPERATIONS):
        found = "profile"
    else:
        found = "event" if "event" in names or "properties" in names else kind
    return "" if found == kind else f". It looks like {_PLACES[found]}"
