"""Asking the far end how it is without giving it an event: with a made-up one, which it refuses by name."""

from __future__ import annotations

from dataclasses import dataclass

from forwarder.config import Settings, import_url, load_credentials
from forwarder.delivery import answer
from forwarder.delivery.batch import Batch, pack
from forwarder.delivery.client import Client
from forwarder.delivery.outcome import Kind, Outcome, Reply, judge

# Its blank name, its missing time and $insert_id are each refused by name in strict mode ("Import Events" in
# Mixpanel's docs: all three are required), and without strict mode it can't be stored either.
PROBE = b'{"event":"","properties":{}}'


def probe_batch() -> Batch:
    """The probe, as a batch of no event of the queue's."""
    return Batch((), (PROBE,), len(PROBE) + 1)


def is_judgement(reply: Reply, outcome: Outcome, strict: bool) -> bool:
    """Whether *reply* to a probe, of *outcome*, shows that events are judged one by one."""
    if outcome.kind in (Kind.DELIVERED, Kind.SHORT):
        return True
    # Without strict mode "not imported" is all that it says.
    return not strict and reply.status == 200 and answer.is_plain_no(answer.parse(reply.body))


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


@dataclass(frozen=True, slots=True)
class Finding:
    """What the far end says of us: *detail* is a sentence for a person.

    Neither *taken* nor *misconfigured*: it could not be asked, and may take the credentials later.
    """

    taken: bool
    misconfigured: bool
    detail: str


def probe(settings: Settings) -> Finding:
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
        return Finding(True, False, f"{url} takes the credentials")
    return Finding(False, outcome.kind is Kind.MISCONFIGURED, f"{url}: {outcome.detail}")
