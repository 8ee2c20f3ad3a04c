"""Mixpanel's own library for Python, with the queue in place of its HTTP requests.

    from forwarder.mixpanel import Consumer
    from mixpanel import Mixpanel

    mixpanel = Mixpanel(TOKEN, consumer=Consumer())
    mixpanel.track("user-1", "Signed Up")

``alias()`` of that library makes a consumer of its own, and so goes to Mixpanel at once, whatever is given.
"""

from __future__ import annotations

import json
import os
from typing import Any

from mixpanel import MixpanelException

from forwarder.errors import ForwarderError
from forwarder.spool import EventQueue


class Consumer:
    """Puts into the queue what the library sends; when a call returns, it is on disk.

    Only the structure of events and updates is checked; Mixpanel judges the rest, as it does for ``/track``.

    Args:
        path: The queue's directory, or the URL of a server.
        options: As for `EventQueue`.

    Raises:
        ConfigError, NotPermittedError: as `EventQueue`.
    """

    def __init__(self, path: str | os.PathLike[str] = "/var/lib/forwarder", **options: Any) -> None:
        self._queue = queue = EventQueue(path, **{"rules": False, **options})
        self._put = {
            "events": queue.put,
            "imports": queue.put,
            "people": queue.put_profile,
            "groups": queue.put_group,
        }

    def send(
        self, endpoint: str, json_message: str, api_key: object = None, api_secret: object = None
    ) -> bool:
        """Store one message durably; called by the library. Keys are not needed here, and not stored.

        Raises:
            MixpanelException: it could not be stored, with the reason; nothing was.
        """
        del api_key, api_secret
        put = self._put.get(endpoint)
        if put is None:
            raise MixpanelException(f"no such endpoint {endpoint!r}: it is one of {', '.join(self._put)}")
        try:
            put(json.loads(json_message))
        except ForwarderError as error:
            raise MixpanelException(str(error)) from error
        return True

    def close(self) -> None:
        """Close the queue's files; a later call opens them again."""
        self._queue.close()
