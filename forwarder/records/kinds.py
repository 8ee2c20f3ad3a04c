"""All kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from forwarder.records import EVENTS, update

if TYPE_CHECKING:
    from forwarder.records.kind import Kind, OrderedKind

PROFILES: OrderedKind = update.PROFILES
GROUPS: OrderedKind = update.GROUPS
# By name.
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (EVENTS, PROFILES, GROUPS)}
