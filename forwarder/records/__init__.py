"""What is sent: records, each of a kind. `EVENTS` is the only kind yet.

A record arrives as one JSON text and leaves as the final bytes that are stored and sent: the same text, with
what was missing spliced in. Nothing but a ``time`` that is not whole is parsed and written again, so nothing
else can change on the way.

A kind is a package, such as `event`, that has all of `kind.Kind`: only this room knows more of it than that.
Beside it stands what the kinds share: `reading` takes input apart, `lines` joins records into a request's
body, `mixpanel_json` reads answers, and `verdict` holds what a judgement is made of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forwarder.records import event
from forwarder.records.lines import Lines

if TYPE_CHECKING:
    from forwarder.records.kind import Kind

__all__ = ["EVENTS", "Lines"]

EVENTS: Kind = event
