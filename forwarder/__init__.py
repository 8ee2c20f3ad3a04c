"""A durable on-disk queue between local programs and Mixpanel.

>>> from forwarder import EventQueue
>>> with EventQueue("/var/lib/forwarder") as queue:  # doctest: +SKIP
...     queue.put({"event": "Signed Up", "properties": {"distinct_id": "u-1"}})
"""

from forwarder import lazy

# Not typing's own, which takes half as long to load as Python takes to start. mypy knows the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from forwarder.errors import EventError, ForwarderError
    from forwarder.spool import EventQueue

__version__ = "0.1.0"
__all__ = ["EventError", "EventQueue", "ForwarderError", "__version__"]

__getattr__ = lazy.names(
    __name__, {"forwarder.errors": "EventError ForwarderError", "forwarder.spool": "EventQueue"}
)
