"""One POST to Mixpanel's ``/import``, and whatever came back as a plain value.

Requests and urllib3 limit the wait for each piece of an answer, follow redirects and read a body of any
length. Here a whole answer has one time limit and one size, and nothing is ever followed: it would carry
the key elsewhere.
"""

import http.client
import socket
import ssl
import time
import zlib
from collections.abc import Iterator, Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import Any, cast
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from requests.exceptions import InvalidSchema, InvalidURL
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    InvalidHeader,
    LocationParseError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
)

from forwarder import __version__
from forwarder.config import Credentials
from forwarder.delivery.answer import shown
from forwarder.delivery.connection import StaleError, is_this_host, pools, trust
from forwarder.delivery.outcome import Reply
from forwarder.errors import ConfigError

MAX_ANSWER_BYTES = 2 * 1024 * 1024  # 2000 failed records with words of 900 bytes
SHORTEST_SECRET = 8


class Client:
    """Sends gzipped NDJSON to *url* (the whole address of ``/import``); may be used by many threads.

    *connect_timeout_s* is for each address tried and for TLS; *read_timeout_s* for sending a request,
    and again for the whole of its answer. Proxies are taken from the environment as it is now, except
    for a far end on this host. *ca_file* is trusted in addition to the system's and certifi's roots;
    *connections* are kept open.

    Raises:
        ConfigError: *url* or *ca_file* can't be used.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        *,
        strict: bool = True,
        geolocate: bool = False,
        ca_file: str = "",
        connect_timeout_s: float = 5.0,
        read_timeout_s: float = 60.0,
        connections: int = 10,
    ) -> None:
        self._timeout = (connect_timeout_s, read_timeout_s)
        self._session = _Session()
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        query = {"strict": "1" if strict else "0"}
        if credentials.project_id:
            query["project_id"] = credentials.project_id
        if not geolocate:
            # Without it, Mixpanel looks up this host's address and stamps its place on every event.
            query["ip"] = "0"
        self._request, scheme, host, port = _prepared(self._session, _request(url, query, credentials))
        self._place = f"{host}:{port}"
        signed = str(self._request.headers["Authorization"]).removeprefix("Basic ")
        secret = credentials.password or credentials.username
        # A far end that repeats the key must not bring it into logs; a shorter one would be found by chance.
        self._secrets = [text.encode() for text in (signed, secret) if len(text) >= SHORTEST_SECRET]
        found = self._session.merge_environment_settings(self._request.url, {}, True, None, None)
        self._proxies = {} if is_this_host(host) else dict(found["proxies"])
        bundle = found["verify"] if isinstance(found["verify"], str) else DEFAULT_CA_BUNDLE_PATH
        context = trust(bundle, ca_file) if scheme == "https" else None
        adapter = _Adapter(context, read_timeout_s, pool_connections=1, pool_maxsize=max(connections, 1))
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)

    def post(self, body: bytes) -> Reply:
        """Send *body* (gzip) once; never raises for anything the network does.

        A kept connection that turns out to be closed is replaced, once: Mixpanel drops the repeat if
        the first one got through.
        """
        try:
            return self._send(body)
        except _FAILURES as problem:
            if not any(isinstance(cause, StaleError) for cause in _causes(problem)):
                return self._failure(problem)
        try:
            return self._send(body)
        except _FAILURES as problem:
            return self._failure(problem)

    def close(self) -> None:
        """Close the idle connections."""
        self._session.close()

    def _send(self, body: bytes) -> Reply:
        # Prepared once: the environment's proxies and .netrc are not searched again for each request.
        request = self._request.copy()
        request.body = body
        request.headers["Content-Length"] = str(len(body))
        response = self._session.send(
            request, stream=True, timeout=self._timeout, proxies=self._proxies, allow_redirects=False
        )
        received_at = time.time()
        try:
            headers = {name.lower(): value for name, value in response.headers.items()}
            # 1xx is not the end of an answer: what follows it must not be taken for the next one's.
            content = _content(response.raw, headers) if response.status_code >= 200 else b""
        finally:
            response.raw.close()
        for secret in self._secrets:
            if secret in content:
                content = content.replace(secret, b"(secret)")
        return Reply(response.status_code, headers, content, "", received_at)

    def _failure(self, problem: BaseException) -> Reply:
        return Reply(None, {}, b"", shown(_explain(problem, self._place)), time.time())


def _request(url: str, query: Mapping[str, str], credentials: Credentials) -> requests.Request:
    headers = {
        "Content-Type": "application/x-ndjson",
        "Content-Encoding": "gzip",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Connection": "keep-alive",
        "User-Agent": f"mixpanel-forwarder/{__version__}",
    }
    # As bytes, because requests would encode text as Latin-1. Given outright, it wins over .netrc.
    auth = HTTPBasicAuth(credentials.username.encode(), credentials.password.encode())
    return requests.Request("POST", url, headers=headers, params=query, auth=auth)


def _prepared(
    session: requests.Session, request: requests.Request
) -> tuple[requests.PreparedRequest, str, str, int]:
    """The request as it goes out, and its address's scheme, host and port."""
    try:
        prepared = session.prepare_request(request)
        parts = urlsplit(cast(str, prepared.url))
        if parts.scheme in ("http", "https") and parts.hostname:
            return (
                prepared,
                parts.scheme,
                parts.hostname,
                parts.port or {"http": 80, "https": 443}[parts.scheme],
            )
    except (requests.RequestException, ValueError):
        pass
    # Not shown, because there may be a password in it.
    raise ConfigError("mixpanel.url is not a web address", "Give https://HOST")


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002  requests' signature
        # Even when told not to follow one, requests would prepare the next request, and read the whole
        # body of this one for it.
        return None


class _Adapter(HTTPAdapter):
    def __init__(self, context: ssl.SSLContext | None, send_timeout_s: float, **kwargs: Any) -> None:
        self._context = context
        self._pools = pools(send_timeout_s)
        super().__init__(**kwargs)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> urllib3.ProxyManager:
        manager: urllib3.ProxyManager = super().proxy_manager_for(proxy, ssl_context=self._context, **kwargs)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = self._pools
        return manager

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]  # the stubs have none
        # The context has them; urllib3 would parse certifi's again for each connection (20 ms).
        conn.ca_certs = conn.ca_cert_dir = None


class _AnswerError(Exception):
    """An answer that came, but can't be used; the text is for people."""


_FAILURES = (
    requests.RequestException,
    HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,
    _AnswerError,
)


def _content(raw: Any, headers: Mapping[str, str]) -> bytes:
    """The body, decoded and bounded; raises _AnswerError when it is longer than MAX_ANSWER_BYTES."""
    content = bytearray()
    while piece := raw.read(65536, decode_content=False):
        content += piece
        if len(content) > MAX_ANSWER_BYTES:
            raise _AnswerError(f"HTTP {raw.status} with an answer too long to be Mixpanel's (over 2 MiB)")
    body = bytes(content)
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity") or not body:
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise _AnswerError(f"HTTP {raw.status} with an answer in an encoding not asked for")
    try:
        decoder = zlib.decompressobj(wbits=47)  # gzip or zlib, as the first bytes say
        body = decoder.decompress(body, MAX_ANSWER_BYTES + 1)
    except zlib.error:
        raise _AnswerError(f"HTTP {raw.status} with an answer that can't be decompressed") from None
    if len(body) > MAX_ANSWER_BYTES:
        raise _AnswerError(f"HTTP {raw.status} with an answer too long to be Mixpanel's (over 2 MiB)")
    if not decoder.eof:
        raise _AnswerError(f"HTTP {raw.status} with an answer that was cut off")
    return body


def _causes(problem: BaseException) -> Iterator[BaseException]:
    """The error and those inside it, outermost first: requests wraps urllib3's, which wrap the system's."""
    waiting: list[object] = [problem]
    seen: set[int] = set()
    while waiting:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            waiting += [getattr(cause, "reason", None), *cause.args, cause.__cause__, cause.__context__]


def _explain(problem: BaseException, place: str) -> str:
    """One line for a person. Most errors' own texts are not used: they hold the address with its query."""
    causes = [cause for cause in _causes(problem) if not isinstance(cause, _WRAPPERS)]
    for kinds, text in _TEXTS:
        for cause in causes:
            if isinstance(cause, kinds):
                return text.format(place=place, detail=_detail(cause))
    return f"{place}: {type(problem).__name__}"


def _detail(cause: BaseException) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_message
    if isinstance(cause, ssl.SSLError):
        return (cause.reason or type(cause).__name__).replace("_", " ").lower()
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    # A bare OSError is the standard library's, about a proxy: "Tunnel connection failed: 407 …".
    return str(cause) if type(cause) in (OSError, _AnswerError) else type(cause).__name__


_WRAPPERS = (requests.ConnectionError, requests.Timeout, NewConnectionError)

# The first that is found among the causes tells most.
_TEXTS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (_AnswerError, "{detail}"),
    (ssl.SSLCertVerificationError, "TLS: the certificate of {place} is not trusted: {detail}"),
    (ssl.SSLError, "TLS with {place} failed: {detail}"),
    (socket.gaierror, "DNS: {place} can't be found: {detail}"),
    (ConnectTimeoutError, "no connection to {place} in time"),
    (ConnectionRefusedError, "{place} refused the connection"),
    ((TimeoutError, ReadTimeoutError), "no whole answer from {place} in time"),
    (
        (ConnectionError, http.client.IncompleteRead),
        "{place} cut the connection before the whole answer came",
    ),
    ((http.client.HTTPException, ProtocolError, InvalidHeader), "what {place} answered is not HTTP"),
    ((InvalidSchema, InvalidURL, LocationParseError), "the proxy's address in the environment can't be used"),
    (OSError, "{place}: {detail}"),
)
