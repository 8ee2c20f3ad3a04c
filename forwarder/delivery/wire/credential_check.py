"""Whether Mixpanel accepts the address and the key, checked without delivering anything."""

from __future__ import annotations

from dataclasses import dataclass

from forwarder.config import Settings, endpoint_url
from forwarder.delivery.wire.client import new_client
from forwarder.delivery.wire.outcome import judge
from forwarder.records.kind import Kind
from forwarder.records.verdict import Verdict


@dataclass(frozen=True, slots=True)
class CredentialCheck:
    """Whether Mixpanel accepts the credentials: *detail* is a sentence for a person.

    Neither *taken* nor *misconfigured*: Mixpanel could not be asked, and may accept them later.
    """

    taken: bool
    misconfigured: bool
    detail: str


def check_credentials(settings: Settings, kind: Kind) -> CredentialCheck:
    """Send the *kind*'s probe: Mixpanel checks the credentials first and stores nothing.

    Raises:
        ConfigError, NotPermittedError: there are no usable credentials, or no usable proxy.
    """
    client, _ = new_client(settings, kind)
    try:
        reply = client.post(kind.pack([kind.probe]))
    finally:
        client.close()
    outcome = judge(kind, reply, [kind.probe], client.strict)
    url = endpoint_url(settings, kind.endpoint)
    if client.proxy:
        url += f" through the proxy {client.proxy}"
    # Refused in Mixpanel's words, whatever they are: the credentials were accepted.
    if outcome.is_plain_no or outcome.verdict in (Verdict.DELIVERED, Verdict.SHORT, Verdict.REFUSED):
        return CredentialCheck(True, False, f"{url} accepts the credentials")
    return CredentialCheck(False, outcome.verdict is Verdict.MISCONFIGURED, f"{url}: {outcome.detail}")
