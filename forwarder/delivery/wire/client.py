"""One POST to an endpoint of Mixpanel, and what came back as a plain value.

A whole answer has one limit of time and one of size. Redirects are not followed and nothing is stored: a
redirect would carry the key elsewhere.
"""

import base64
import contextlib
import http.client
import ssl
import time
import zlib
from collections.abc import Iterable, Mapping
from typing import cast
from urllib.parse import urlsplit

import requests
from requests.utils import DEFAULT_CA_BUNDLE_PATH, urldefragauth

from forwarder import __version__
from forwarder.config import Credentials, Settings, endpoint_url, load_credentials
from forwarder.delivery.batch import Batch
from forwarder.delivery.wire import proxy
from forwarder.delivery.wire.connection import ConnectError, Connection, Route, explain, trust
from forwarder.delivery.wire.outcome import Reply, judge
from forwarder.delivery.wire.redact import Redactor
from forwarder.errors import ConfigError
from forwarder.records.kind import Kind
from forwarder.records.mixpanel_json import shown
from forwarder.records.verdict import Outcome

MAX_ANSWER_BYTES = 2 * 1024 * 1024  # 2000 failed records with 900 bytes of text each
# Where each repeat counts, a connection that was idle for longer is not used: the server may be closing it,
# and whether it took the request would not be known.
UNREPEATED_IDLE_S = 3.0
# With these, the server has processed the request. After any other, the name is resolved again: DNS may
# have moved while the old address still answers.
_JUDGEMENTS = frozenset({200, 400, 413, 429})


class Client:
    """Sends packed records of a *kind* to *url*, their endpoint; many threads may use it.

    *connect_timeout_s* is for each address tried and for TLS. *read_timeout_s* is for the whole answer, and
    for each wait while a request is sent; neither starts before the server's last acknowledgement of data.
    Proxies come from the environment as it is now, except for a server on this host. *ca_file* is trusted in
    addition to the system's and certifi's roots, or *context* is used; *connections* are kept open.

    Attributes:
        kind: The kind of records it sends.
        strict: Whether it asks Mixpanel to judge records one by one.
        proxy: The proxy, for people; "" for none.
        context: What it trusts; None without TLS.

    Raises:
        ConfigError: *url*, *ca_file* or the environment's proxy can't be used.
    """

    def __init__(
        self,
        kind: Kind,
        url: str,
        credentials: Credentials,
        *,
        strict: bool = True,
        geolocate: bool = False,
        ca_file: str = "",
        connect_timeout_s: float = 5.0,
        read_timeout_s: float = 60.0,
        connections: int = 10,
        context: ssl.SSLContext | None = None,
    ) -> None:
        query = kind.query(strict, geolocate, credentials.project_id or "")
        request, scheme, host, port = _prepared(url, query)
        environment = requests.Session().merge_environment_settings(request.url, {}, True, None, None)
        through = proxy.choose(scheme, host, environment["proxies"])
        if context is None and (scheme == "https" or (through and through.scheme == "https")):
            verify = environment["verify"]
            context = trust(verify if isinstance(verify, str) else DEFAULT_CA_BUNDLE_PATH, ca_file)
        signed = base64.b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()
        self._headers = {
            **({"Authorization": f"Basic {signed}"} if kind.is_signed else {}),
            "Content-Type": kind.content_type,
            **({"Content-Encoding": kind.encoding} if kind.encoding else {}),
            "Accept": "application/json",
            "Connection": "keep-alive",
            "User-Agent": f"mixpanel-forwarder/{__version__}",
        }
        self._route = Route(scheme, host, port, through, context, connect_timeout_s, read_timeout_s)
        if kind.is_ordered:
            self._route.idle_s = UNREPEATED_IDLE_S
        self._target = request.path_url
        if through and self._route.is_forwarded:
            self._target = urldefragauth(cast(str, request.url))
            self._headers |= through.headers
        self._idle: list[Connection] = []
        self._most = max(connections, 1)
        self.context = context
        secrets = [credentials.password or credentials.username, signed]
        if through:
            secrets += [through.password or through.username, through.signed]
        self._hide = Redactor(secrets)
        self.kind = kind
        self.strict = strict
        self.proxy = str(through or "")

    def deliver(self, batch: Batch) -> Outcome:
        """Pack and send *batch*, and judge the reply."""
        reply = self.post(self.kind.pack(batch.events), batch.patience_s)
        return judge(self.kind, reply, batch.events, self.strict)

    def post(self, body: bytes, patience_s: float | None = None) -> Reply:
        """Send *body*, packed by the kind, once; never raises because of the network.

        It waits for the answer for *patience_s* after the request is sent; at most, and by default,
        *read_timeout_s*. A kept connection that turns out to be dead is replaced by a new one, once, unless
        each repeat counts: if the first request got through, Mixpanel drops the repeat.
        """
        limit_s = self._route.read_timeout_s
        if patience_s is not None:
            limit_s = min(limit_s, patience_s)
        kept = self._kept()
        reply = self._exchange(kept, body, limit_s) if kept else None
        if reply is None:
            try:
                fresh = self._route.connect()
            except ConnectError as problem:
                self.refresh()
                text = shown(str(problem), hide=self._hide)
                return Reply(
                    problem.status,
                    {},
                    b"",
                    text,
                    time.time(),
                    is_sent=False,
                    place=problem.place,
                    hide=self._hide,
                )
            reply = self._exchange(fresh, body, limit_s)
        assert reply is not None
        return reply

    def refresh(self) -> None:
        """Close the idle connections, so that the next requests look up the server's name again."""
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def close(self) -> None:
        """Close the idle connections now, and the others when they are done."""
        self._most = 0
        self.refresh()

    def _exchange(self, connection: Connection, body: bytes, patience_s: float) -> Reply | None:
        """The reply; None: a kept connection has died."""
        is_fresh = not connection.has_served
        place = self._route.place
        began = time.monotonic()
        try:
            connection.post(self._target, self._headers, body)
            response = connection.answer(patience_s)
            received_at = time.time()
            headers = {name.lower(): response.getheader(name, "") for name in response.headers}
            content = _content(response, headers)
        except _FAILURES as problem:
            connection.close()
            self.refresh()
            is_timeout = isinstance(problem, TimeoutError) and not problem.errno
            if not (is_fresh or is_timeout or self.kind.is_ordered) and isinstance(problem, _CUT):
                return None
            text = str(problem) if isinstance(problem, _AnswerError) else explain(problem, place)
            return Reply(
                None,
                {},
                b"",
                shown(text, hide=self._hide),
                time.time(),
                took_s=time.monotonic() - began,
                is_fresh=is_fresh,
                is_cut=isinstance(problem, (*_CUT, _TooLongError)),
                place=place,
                hide=self._hide,
            )
        took_s = time.monotonic() - began
        self._keep(connection, response.status)
        if response.status == http.HTTPStatus.PROXY_AUTHENTICATION_REQUIRED and self._route.is_forwarded:
            place = self._route.first_hop
        return Reply(
            response.status,
            headers,
            content,
            received_at=received_at,
            took_s=took_s,
            upload_s=connection.upload_s,
            is_fresh=is_fresh,
            place=place,
            hide=self._hide,
        )

    def _kept(self) -> Connection | None:
        with contextlib.suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if connection.is_fit:
                    return connection
                connection.close()
        return None

    def _keep(self, connection: Connection, status: int) -> None:
        connection.served()
        if status not in _JUDGEMENTS:
            self.refresh()
        elif not connection.is_closed and len(self._idle) < self._most:
            self._idle.append(connection)
            return
        connection.close()


def _prepared(url: str, query: Mapping[str, str]) -> tuple[requests.PreparedRequest, str, str, int]:
    """The prepared request, and its scheme, host and port."""
    try:
        prepared = requests.Request("POST", url, params=query).prepare()
        parts = urlsplit(cast(str, prepared.url))
        if parts.scheme in ("http", "https") and parts.hostname:
            port = parts.port or {"http": 80, "https": 443}[parts.scheme]
            return prepared, parts.scheme, parts.hostname, port
    except (requests.RequestException, ValueError):
        pass
    # Not shown, because it may contain a password.
    raise ConfigError("mixpanel.url is not a web address", "Give https://HOST")


class _AnswerError(Exception):
    """An answer that can't be used; the text is for people."""


class _TooLongError(_AnswerError):
    pass


_CUT = (OSError, http.client.IncompleteRead)
_FAILURES = (*_CUT, http.client.HTTPException, ValueError, _AnswerError)


def _content(response: http.client.HTTPResponse, headers: Mapping[str, str]) -> bytes:
    """The body, decoded, of at most MAX_ANSWER_BYTES."""
    said = f"HTTP {response.status} with an answer"
    encoding = headers.get("content-encoding", "").strip().lower()
    content = response.read(MAX_ANSWER_BYTES + 1)
    too_long = _TooLongError(f"{said} too long to be Mixpanel's (over 2 MiB)")
    if len(content) > MAX_ANSWER_BYTES:
        raise too_long
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    if content and encoding in ("gzip", "x-gzip", "deflate"):
        decoder = zlib.decompressobj(wbits=47)  # gzip or zlib, as the first bytes say
        try:
            content = decoder.decompress(content, MAX_ANSWER_BYTES + 1)
        except zlib.error:
            raise _AnswerError(f"{said} that can't be decompressed") from None
        if len(content) > MAX_ANSWER_BYTES:
            raise too_long
        if not decoder.eof:
            raise _AnswerError(f"{said} that was cut off")
    elif content and encoding not in ("", "identity"):
        raise _AnswerError(f"{said} in an encoding not asked for")
    return content


def new_clients(settings: Settings, kinds: Iterable[Kind]) -> tuple[dict[str, Client], list[str]]:
    """A client for each of *kinds*, by its name, and warnings about how the secret is stored.

    Raises:
        ConfigError, NotPermittedError: there are no usable credentials.
    """
    credentials, warnings = load_credentials(settings)
    clients: dict[str, Client] = {}
    context = None
    for kind in kinds:
        client = clients[kind.name] = Client(
            kind,
            endpoint_url(settings, kind.endpoint),
            credentials,
            strict=settings.mixpanel.strict,
            geolocate=settings.mixpanel.geolocate,
            ca_file=settings.mixpanel.ca_file,
            connect_timeout_s=settings.delivery.connect_timeout_s,
            read_timeout_s=settings.delivery.read_timeout_s,
            connections=settings.delivery.connections,
            context=context,
        )
        # Reading the roots takes 15 ms, and a megabyte.
        context = client.context
    return clients, warnings


def new_client(settings: Settings, kind: Kind) -> tuple[Client, list[str]]:
    """As `new_clients`, for one kind."""
    clients, warnings = new_clients(settings, [kind])
    return clients[kind.name], warnings
