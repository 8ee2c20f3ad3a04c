"""One frozen object from a file, the environment and systemd's credentials.

>>> from forwarder import config
>>> config.load(environ={"FORWARDER_QUEUE_MAX_BYTES": "2GiB"}).queue.max_bytes  # doctest: +SKIP
2147483648

Everything is checked before anything is done. One error names all that is wrong
(:func:`load`). The settings themselves are the table in :mod:`forwarder.config.settings`.
"""

from __future__ import annotations

from forwarder import lazy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from forwarder.config.credentials import (
        Credentials,
        find_password,
        find_secret,
        known_secrets,
        load_credentials,
    )
    from forwarder.config.listing import Shown, describe
    from forwarder.config.plain import SECRET_VARIABLES
    from forwarder.config.reading import load
    from forwarder.config.settings import PLACE, SETTINGS, Settings

__all__ = [
    "PLACE",
    "SECRET_VARIABLES",
    "SETTINGS",
    "Credentials",
    "Settings",
    "Shown",
    "describe",
    "endpoint_url",
    "find_password",
    "find_secret",
    "known_secrets",
    "load",
    "load_credentials",
]

__getattr__ = lazy.names(
    __name__,
    {
        "forwarder.config.credentials": (
            "Credentials find_password find_secret known_secrets load_credentials"
        ),
        "forwarder.config.listing": "Shown describe",
        "forwarder.config.plain": "SECRET_VARIABLES",
        "forwarder.config.reading": "load",
        "forwarder.config.settings": "PLACE SETTINGS Settings",
    },
)

# https://developer.mixpanel.com/reference/overview (regional hosts)
HOSTS = {
    "us": "https://api.mixpanel.com",
    "eu": "https://api-eu.mixpanel.com",
    "in": "https://api-in.mixpanel.com",
}


def endpoint_url(settings: Settings, path: str) -> str:
    """The URL of the endpoint *path*."""
    base = settings.mixpanel.url or HOSTS[settings.mixpanel.region]
    return base.rstrip("/") + path
