"""What an event is: check it, complete it, bytes in, bytes out.

An event arrives as one JSON text and leaves as the final bytes that are stored and sent: the same
text, with ``time`` and ``$insert_id`` spliced in where they were missing. Nothing is parsed into
numbers or strings and written again, so nothing can change on the way.
"""

from forwarder.event.accept import accept, accept_many, complete_foreign, encode
from forwarder.event.lines import Lines, text_of
from forwarder.event.naming import name_of
from forwarder.event.rules import MAX_EVENT_BYTES

__all__ = [
    "MAX_EVENT_BYTES",
    "Lines",
    "accept",
    "accept_many",
    "complete_foreign",
    "encode",
    "name_of",
    "text_of",
]
