"""All settings: name, default, kind and meaning, in one table.

Loading, checking, the environment variables' names, ``forwarder config show`` and the test of
``etc/forwarder.toml`` are derived from it. To add a setting, add a field here and its lines there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from forwarder.config import plain
from forwarder.config.addresses import (
    Command,
    HostName,
    Identifier,
    Listen,
    Path,
    Prefix,
    ProjectId,
    Proxy,
    ServerUrl,
    Token,
    Url,
    Username,
    WebOrigin,
)
from forwarder.config.kinds import MIB, Choice, Flag, Items, Kind, Number, Size, Whole

# https://developer.mixpanel.com/reference/import-events: "2000 events and 10MB uncompressed per request".
# Whether that is 10^7 or 10 * 2^20 is not said, and the array's brackets and commas count too.
MOST_BATCH_EVENTS = 2000
MOST_BATCH_BYTES = 9_500_000

_LIMITS = plain.limits()


def about(kind: Kind, doc: str) -> Mapping[str, Any]:
    """The metadata of a setting's field: its kind and its documentation."""
    return {"kind": kind, "doc": doc}


@dataclass(frozen=True, slots=True)
class Mixpanel:
    """``[mixpanel]``: the project and the credentials."""

    region: str = field(
        default="us",
        metadata=about(Choice("us", "eu", "in"), "Where the project's data is stored: us, eu or in."),
    )
    url: str = field(
        default="",
        metadata=about(
            Url(),
            "The API's base URL, which overrides region; events are posted to {url}/import; "
            "it is https, or http to this host.",
        ),
    )
    project_id: str = field(
        default="",
        metadata=about(ProjectId(), "The project's number; required with a service account."),
    )
    service_account: str = field(
        default="",
        metadata=about(Username(), "The service account's username; if empty, the project's token is used."),
    )
    secret_file: str = field(
        default="",
        metadata=about(
            Path(secret=True),
            "The file with the service account's secret; if empty, the systemd credential "
            "mixpanel-secret is used, else the environment variable FORWARDER_MIXPANEL_SECRET.",
        ),
    )
    token_file: str = field(
        default="",
        metadata=about(
            Path(secret=True),
            "The file with the project's token, in place of a service account; if empty, the systemd "
            "credential mixpanel-token is used, else the environment variable FORWARDER_MIXPANEL_TOKEN.",
        ),
    )
    strict: bool = field(
        default=True,
        metadata=about(Flag(), "Whether Mixpanel checks each event and reports what is wrong with it."),
    )
    geolocate: bool = field(
        default=False,
        metadata=about(
            Flag(), "Whether Mixpanel gives events without an ip property the location of this host."
        ),
    )
    ca_file: str = field(
        default="",
        metadata=about(Path(), "A file with more certificate authorities to trust, in PEM format."),
    )


@dataclass(frozen=True, slots=True)
class Queue:
    """``[queue]``: where events wait."""

    path: str = field(
        default=plain.DEFAULT_PATH,
        metadata=about(
            Path(optional=False),
            "The queue's directory, on a local disk; if url is set too, this host's producers write here.",
        ),
    )
    url: str = field(
        default="",
        metadata=about(
            ServerUrl(),
            "The PostgreSQL server that keeps the queue, in place of a directory, such as "
            '"postgresql://forwarder@db1,db2/app?sslmode=verify-full"; '
            "without a password; sslmode=verify-full is required unless the server is on this host.",
        ),
    )
    schema: str = field(
        default="forwarder",
        metadata=about(
            Identifier(), "The schema on the server that is the queue, one for each Mixpanel project."
        ),
    )
    password_file: str = field(
        default="",
        metadata=about(
            Path(secret=True),
            "The file with the password for the server; if empty, the systemd credential queue-password is "
            "used, else what libpq finds, such as ~/.pgpass or a client certificate.",
        ),
    )
    standbys: int = field(
        default=1,
        metadata=about(
            Whole(0, 9),
            "How many standby servers must confirm a commit; the daemon does not start on a server that asks "
            "for fewer; 0 for one server alone, or for storage that is replicated below it.",
        ),
    )
    lease_s: float = field(
        default=15,
        metadata=about(
            Number(2, 600, "seconds"),
            "After how long without a sign from the daemon another one takes its place, in seconds.",
        ),
    )
    max_bytes: int = field(
        default=_LIMITS["max_bytes"][0],
        metadata=about(
            _LIMITS["max_bytes"][1], "The queue's largest size on disk; beyond it, new events are refused."
        ),
    )
    min_free_bytes: int = field(
        default=_LIMITS["min_free_bytes"][0],
        metadata=about(
            _LIMITS["min_free_bytes"][1],
            "The disk space that must stay free; below it, new events are refused.",
        ),
    )


@dataclass(frozen=True, slots=True)
class Delivery:
    """``[delivery]``: how events leave."""

    batch_events: int = field(
        default=MOST_BATCH_EVENTS,
        metadata=about(
            Whole(1, MOST_BATCH_EVENTS), "The most events in one request; Mixpanel's limit is 2000."
        ),
    )
    batch_bytes: int = field(
        default=2 * MIB,
        metadata=about(
            Size(MIB, MOST_BATCH_BYTES),
            "The most bytes in one request, uncompressed, as Mixpanel counts them.",
        ),
    )
    linger_s: float = field(
        default=1.0,
        metadata=about(
            Number(0, 3600, "seconds"), "How long a part-filled batch may wait for more events, in seconds."
        ),
    )
    connections: int = field(
        default=10,
        metadata=about(Whole(1, 64), "The most requests at once; the daemon finds the best number itself."),
    )
    connect_timeout_s: float = field(
        default=5,
        metadata=about(
            Number(0, 300, "seconds", allow_low=False), "How long a connection may take to open, in seconds."
        ),
    )
    read_timeout_s: float = field(
        default=60,
        metadata=about(
            Number(0, 3600, "seconds", allow_low=False), "How long to wait for a reply, in seconds."
        ),
    )
    retry_initial_s: float = field(
        default=2,
        metadata=about(
            Number(0, 3600, "seconds", allow_low=False),
            "How long to wait after the first failure, in seconds; doubled after each further one.",
        ),
    )
    retry_max_s: float = field(
        default=60,
        metadata=about(
            Number(0, 86400, "seconds", allow_low=False), "The longest wait between two tries, in seconds."
        ),
    )


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """``[dead_letters]``: how long refused events are kept."""

    max_age_days: float = field(
        default=0,
        metadata=about(
            Number(0, 36500, "days"),
            "After how many days dead letters are deleted, 0 for never; none is deleted before a reply "
            "has shown that this host's clock is right.",
        ),
    )


@dataclass(frozen=True, slots=True)
class Log:
    """``[log]``: what is logged, on standard error."""

    level: str = field(
        default="info",
        metadata=about(Choice("debug", "info", "warning", "error"), "The minimum level to log."),
    )
    format: str = field(
        default="auto",
        metadata=about(
            Choice("console", "json", "journal", "auto"),
            "The format of a line: console for people, json for programs, journal for systemd's journal with "
            "fields to search for; auto is console on a terminal, journal under systemd, and json otherwise.",
        ),
    )


@dataclass(frozen=True, slots=True)
class Metrics:
    """``[metrics]``: what the daemon serves to monitoring over HTTP."""

    listen: str = field(
        default="",
        metadata=about(
            Listen("127.0.0.1:9464"),
            "The address and port where the daemon serves a web page about the queue, /metrics for "
            'Prometheus, /healthz and /readyz without authentication, such as "127.0.0.1:9464"; if empty, it '
            "serves nothing.",
        ),
    )


@dataclass(frozen=True, slots=True)
class Alerts:
    """``[alerts]``: when a person gets a message, without Prometheus."""

    command: str = field(
        default="",
        metadata=about(
            Command(),
            "The shell command that the daemon runs to alert a person, with the text on its standard input "
            "and the name of the alert in FORWARDER_ALERT; if empty, it alerts nobody.",
        ),
    )
    oldest_s: float = field(
        default=600,
        metadata=about(
            Number(1, 31536000, "seconds"),
            "After how many seconds an event that still waits is late: for alerts and forecasts.",
        ),
    )
    full_s: float = field(
        default=21600,
        metadata=about(
            Number(0, 31536000, "seconds"),
            "How many seconds before the queue or its disk is full it alerts; 0: once it is full.",
        ),
    )
    repeat_s: float = field(
        default=3600,
        metadata=about(
            Number(0, 31536000, "seconds"),
            "After how many seconds it alerts of the same again, and of more dead letters.",
        ),
    )


@dataclass(frozen=True, slots=True)
class Intake:
    """``[intake]``: the HTTP door for Mixpanel's SDKs."""

    socket: str = field(
        default="/run/forwarder/intake.sock",
        metadata=about(
            Path(),
            "The Unix socket, for owner and group; if empty, there is none; one that systemd passes takes "
            "its place.",
        ),
    )
    listen: str = field(
        default="",
        metadata=about(
            Listen("127.0.0.1:8088"),
            "The address and port for HTTP, where whoever reaches it may write; if empty, there is none.",
        ),
    )
    tokens: tuple[str, ...] = field(
        default=(),
        metadata=about(
            Items(Token()),
            "The tokens that are accepted, all of the one project that is delivered to; if empty, the token "
            "that signs in; required with a service account.",
        ),
    )
    prefix: str = field(
        default="",
        metadata=about(Prefix(), "What stands before /track, /import, /engage and /groups in a path."),
    )
    origins: tuple[str, ...] = field(
        default=(),
        metadata=about(Items(WebOrigin()), "The origins of the web pages that may write."),
    )
    hosts: tuple[str, ...] = field(
        default=(),
        metadata=about(
            Items(HostName()), "The names, besides localhost, by which requests may address the intake."
        ),
    )
    trusted_proxies: tuple[str, ...] = field(
        default=(),
        metadata=about(
            Items(Proxy()),
            "The addresses and networks of proxies whose X-Forwarded-For is believed; unix: is whoever "
            "reaches the socket.",
        ),
    )
    max_body_bytes: int = field(
        default=10 * MIB,
        metadata=about(Size(64 * 2**10, 64 * MIB), "The largest body of a request, uncompressed."),
    )
    on_doubt: str = field(
        default="repeat",
        metadata=about(
            Choice("repeat", "hold"),
            "What happens to $add and $append if the answer to their request is lost: repeat sends them "
            "again, so that they may count twice; hold makes them dead letters, for a person.",
        ),
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """The effective settings. Two are equal if their values are; the sources don't matter.

    Attributes:
        sources: ``section.key`` → its source: a file, a ``$VARIABLE`` or ``default``.
        file: The settings file that was read, or None.
    """

    mixpanel: Mixpanel = field(default_factory=Mixpanel)
    queue: Queue = field(default_factory=Queue)
    delivery: Delivery = field(default_factory=Delivery)
    dead_letters: DeadLetters = field(default_factory=DeadLetters)
    log: Log = field(default_factory=Log)
    metrics: Metrics = field(default_factory=Metrics)
    alerts: Alerts = field(default_factory=Alerts)
    intake: Intake = field(default_factory=Intake)
    sources: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), compare=False)
    file: str | None = field(default=None, compare=False)

    def source(self, key: str) -> str:
        """The source of the value of *key* (``section.key``)."""
        return self.sources.get(key, "default")

    @property
    def is_relay(self) -> bool:
        """Whether this host has a queue of its own, in a directory, that is handed over to a server."""
        return bool(self.queue.url) and self.source("queue.path") != "default"

    @property
    def door(self) -> Queue:
        """The queue that producers write to, and commands are about: on a relay's host its own."""
        return replace(self.queue, url="") if self.is_relay else self.queue


class Setting(NamedTuple):
    """One row of the table."""

    section: str
    name: str
    default: Any
    kind: Kind
    doc: str

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that overrides it."""
        return f"FORWARDER_{self.section}_{self.name}".upper()

    def of(self, settings: Settings) -> Any:
        """Its value in *settings*."""
        return getattr(getattr(settings, self.section), self.name)


# What says where the queue is; the rest of its section is for those that write or deliver.
PLACE = ("queue.path", "queue.url", "queue.schema", "queue.password_file")
SECTIONS: dict[str, type] = {
    "mixpanel": Mixpanel,
    "queue": Queue,
    "delivery": Delivery,
    "dead_letters": DeadLetters,
    "log": Log,
    "metrics": Metrics,
    "alerts": Alerts,
    "intake": Intake,
}
SETTINGS: dict[str, Setting] = {
    row.key: row
    for section, values in SECTIONS.items()
    for column in fields(values)
    for row in (Setting(section, column.name, column.default, **column.metadata),)
}
