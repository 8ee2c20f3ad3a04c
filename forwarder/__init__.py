"""A durable on-disk queue between local programs and Mixpanel.

>>> from forwarder import EventQueue
>>> with EventQueue("/var/lib/forwarder") as queue:  # doctest: +SKIP
...     queue.put({"event": "Signed Up", "properties": {"distinct_id": "u-1"}})
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forwarder.errors import EventError, ForwarderError
    from forwarder.spool import EventQueue

__version__ = "0.1.0"
__all__ = ["EventError", "EventQueue", "ForwarderError", "__version__"]


def __getattr__(name: str) -> Any:
    # Loaded at first use: `forwarder --version` and the sandbox need no SQLite.
    if name == "EventQueue":
        from forwarder.spool import EventQueue

        return EventQueue
    if name in ("EventError", "ForwarderError"):
        from forwarder import errors

        return getattr(errors, name)
    raise AttributeError(f"module 'forwarder' has no attribute {name!r}")
