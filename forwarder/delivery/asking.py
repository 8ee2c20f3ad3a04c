"""What the far end says of our address and our key, asked without giving it an event."""

from __future__ import annotations

from dataclasses import dataclass

from forwarder.config import Settings, import_url
from forwarder.delivery.batch import pack
from forwarder.delivery.from_settings import new_client
from forwarder.delivery.outcome import Kind, judge
from forwarder.delivery.probe import PROBE, is_judgement


@dataclass(frozen=True, slots=True)
class Standing:
    """What the far end says of us: *detail* is a sentence for a person.

    Neither *taken* nor *misconfigured*: it could not be asked, and may take the credentials later.
    """

    taken: bool
    misconfigured: bool
    detail: str


def ask(settings: Settings) -> Standing:
    """Send a probe: credentials are looked at first, and nothing is stored.

    Raises:
        ConfigError, NotPermittedError: there are no usable credentials.
    """
    client, _ = new_client(settings)
    try:
        reply = client.post(pack([PROBE]))
    finally:
        client.close()
    strict = settings.mixpanel.strict
    outcome = judge(reply, [PROBE], strict)
    url = import_url(settings)
    # Refused in Mixpanel's words, whatever they are: the credentials have passed.
    if outcome.kind is Kind.REFUSED or is_judgement(reply, outcome, strict):
        return Standing(True, False, f"{url} takes the credentials")
    return Standing(False, outcome.kind is Kind.MISCONFIGURED, f"{url}: {outcome.detail}")
