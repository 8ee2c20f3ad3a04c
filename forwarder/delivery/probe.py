"""Ask the far end whether it knows us, without sending an event."""

from __future__ import annotations

from forwarder.config import Settings, import_url, load_credentials
from forwarder.delivery.batch import pack
from forwarder.delivery.client import Client
from forwarder.delivery.outcome import Kind, judge


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


def probe(settings: Settings) -> tuple[bool, str]:
    """Send a batch of no events: credentials are looked at first, and nothing can be stored.

    Returns:
        whether the far end takes the credentials, and a sentence for a person.

    Raises:
        ConfigError, NotPermittedError: there are no usable credentials.
    """
    client, _ = new_client(settings)
    try:
        reply = client.post(pack([]))
    finally:
        client.close()
    outcome = judge(reply, [], settings.mixpanel.strict)
    # An empty batch is refused, once the credentials have passed.
    taken = (Kind.DELIVERED, Kind.SHORT, Kind.REFUSED)
    url = import_url(settings)
    if outcome.kind in taken:
        return True, f"{url} takes the credentials"
    return False, f"{url}: {outcome.detail}"
