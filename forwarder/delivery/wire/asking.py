"""What Mixpanel says of our address and our key, asked without giving it an event."""

from __future__ import annotations

from dataclasses import dataclass

from forwarder.config import Settings, import_url
from forwarder.delivery.batch import pack
from forwarder.delivery.wire.client import new_client
from forwarder.delivery.wire.outcome import Kind, judge
from forwarder.delivery.wire.probe import PROBE


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether Mixpanel takes the credentials: *detail* is a sentence for a person.

    Neither *taken* nor *misconfigured*: it could not be asked, and may take the credentials later.
    """

    taken: bool
    misconfigured: bool
    detail: str


def ask(settings: Settings) -> Standing:
    """Send a probe: credentials are looked at first, and nothing is stored.

    Raises:
        ConfigError, NotPermittedError: there are no usable credentials, or no usable proxy.
    """
    client, _ = new_client(settings)
    try:
        reply = client.post(pack([PROBE]))
    finally:
        client.close()
    outcome = judge(reply, [PROBE], client.strict)
    url = import_url(settings)
    if client.proxy:
        url += f" through the proxy {client.proxy}"
    # Refused in Mixpanel's words, whatever they are: the credentials have passed.
    if outcome.is_plain_no or outcome.kind in (Kind.DELIVERED, Kind.SHORT, Kind.REFUSED):
        return Standing(True, False, f"{url} takes the credentials")
    return Standing(False, outcome.kind is Kind.MISCONFIGURED, f"{url}: {outcome.detail}")
