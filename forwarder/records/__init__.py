"""What is sent: records, each of a kind: `EVENTS`, updates of `PROFILES` and of `GROUPS`.

A record arrives as one JSON text. Its final bytes, which are stored and sent, are the same text with the
missing members spliced in. Only an event's ``time`` that is not whole is parsed and written again, so nothing
else can change.

A kind has all that `kind.Kind` asks for; other rooms know no more of it. `event` is the package of one,
`update` has the two others. The kinds share `reading`, which splits input, `json_object`, which reads one
record with care, `likeness`, which recognises another kind's, `nearly_json`, which finds names in anything,
`reasons`, the words for refusals, `lines`, which joins records into a request's body, `mixpanel_json`, which
reads answers, and `verdict`, the values of a judgement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forwarder import lazy
from forwarder.records import event

if TYPE_CHECKING:
    from forwarder.records.kind import Kind
    from forwarder.records.kinds import GROUPS, KINDS, PROFILES
    from forwarder.records.lines import Lines

__all__ = ["EVENTS", "GROUPS", "KINDS", "PROFILES", "Lines"]

EVENTS: Kind = event

__getattr__ = lazy.names(
    __name__, {"forwarder.records.kinds": "GROUPS KINDS PROFILES", "forwarder.records.lines": "Lines"}
)
