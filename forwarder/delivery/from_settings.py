"""A client of the far end, as the settings say."""

from __future__ import annotations

from forwarder.config import Settings, import_url, load_credentials
from forwarder.delivery.client import Client


def new_client(settings: Settings) -> tuple[Client, list[str]]:
    """A client for *settings*, and warnings about how its secret is kept.

    Raises:
        ConfigError, NotPermittedError: there are no usable credentials.
    """
    credentials, warnings = load_credentials(settings)
    client = Client(
        import_url(settings),
        credentials,
        strict=settings.mixpanel.strict,
        geolocate=settings.mixpanel.geolocate,
        ca_file=settings.mixpanel.ca_file,
        connect_timeout_s=settings.delivery.connect_timeout_s,
        read_timeout_s=settings.delivery.read_timeout_s,
        connections=settings.delivery.connections,
    )
    return client, warnings
