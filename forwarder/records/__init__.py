"""What is sent: records, each of a kind. `EVENTS` is the only kind so far.

A record arrives as one JSON text. Its final bytes, which are stored and sent, are the same text with the
missing members spliced in. Only a ``time`` that is not whole is parsed and written again, so nothing else
can change.

A kind is a package, such as `event`, with all that `kind.Kind` asks for; other rooms know no more of it. The
kinds share `reading`, which splits input, `lines`, which joins records into a request's body,
`mixpanel_json`, which reads answers, and `verdict`, the values of a judgement.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from forwarder.records import event
from forwarder.records.lines import Lines
from forwarder.records.stand_in import GROUPS, PROFILES

if TYPE_CHECKING:
    from forwarder.records.kind import Kind

__all__ = ["EVENTS", "KINDS", "Lines"]

EVENTS: Kind = event
KINDS: Mapping[str, Kind] = {"event": EVENTS, "profile": PROFILES, "group": GROUPS}
