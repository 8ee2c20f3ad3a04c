"""Kinds that name a place or an account. People paste secrets into these by mistake."""

from __future__ import annotations

import re
from typing import NamedTuple

from forwarder.config.kinds import Kind, UnfitError


class Path(Kind):
    """An absolute path. *secret*: the file holds a secret, so a wrong value may be the secret itself."""

    remedy = "Give an absolute path: it begins with /"

    def __init__(self, *, optional: bool = True, secret: bool = False) -> None:
        self.optional, self.secret = optional, secret
        if secret:
            self.remedy += ": the path of a file that holds the secret, not the secret itself"

    def check(self, value: object) -> str:
        path = str(super().check(value))
        if not path.startswith("/") and (path or not self.optional):
            raise UnfitError("is empty" if not path else "is not an absolute path")
        return path

    def hides(self, value: object) -> bool:
        return self.secret and bool(value) and not (isinstance(value, str) and value.startswith("/"))


class ProjectId(Kind):
    """A project's number, as a number or text. A wrong value is never shown, since it may be the token."""

    remedy = "Give the project's number from Mixpanel's project settings, not its token"

    def check(self, value: object) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        text = str(super().check(value)).strip()
        if text and not re.fullmatch("[0-9]+", text):
            raise UnfitError("is not a number")
        return text

    def hides(self, value: object) -> bool:
        return re.fullmatch("[0-9]*", str(value).strip()) is None


class Username(Kind):
    """A service account's name. HTTP's Basic scheme allows no colon in it (RFC 7617, 2)."""

    remedy = "Give the service account's username only; its secret goes into a file named by secret_file"

    def check(self, value: object) -> str:
        name = str(super().check(value))
        if re.search(r"[:\s]", name):
            raise UnfitError("contains a colon or a space, which no username has")
        return name

    def hides(self, value: object) -> bool:
        return ":" in str(value)


class Command(Kind):
    """A command for the shell, on one line. A webhook's address in it is often a secret."""

    remedy = "Give one line for /bin/sh, such as a script's path"

    def hides(self, value: object) -> bool:
        return bool(value)


class Url(Kind):
    """The base of an API: https, or http to this host. No user, password, query or fragment."""

    remedy = "Give the API's base, such as https://api-eu.mixpanel.com"

    def check(self, value: object) -> str:
        url = str(super().check(value))
        if not url:
            return url
        try:
            scheme, host, port, path = _parts(url)
        except ValueError:
            raise UnfitError("is not a URL") from None
        if "@" in url:
            raise UnfitError(
                "contains a user or password; secrets don't belong in the settings",
                "Remove all before the @; give service_account and secret_file, or token_file",
            )
        if scheme not in ("http", "https") or not host or port == 0 or re.search(r"[\s\\]", url):
            raise UnfitError("is not an http or https URL")
        if "?" in url or "#" in url:
            raise UnfitError("has a query or a fragment")
        if path.rstrip("/").endswith("/import"):
            raise UnfitError("ends in /import, which the forwarder adds itself", "Remove /import")
        if scheme == "http" and not is_loopback(host):
            raise UnfitError("is not encrypted: the key would be sent in clear text", "Use https://")
        return url.rstrip("/")

    def hides(self, value: object) -> bool:
        url = str(value)
        try:
            _parts(url)
        except ValueError:
            return True  # there may be a password in place of the port
        return any(mark in url for mark in "@?#")


def _parts(url: str) -> tuple[str, str | None, int | None, str]:
    """Scheme, host, port and path; ValueError: it can't be parsed."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port, parts.path


class ServerUrl(Kind):
    """A connection URI of PostgreSQL's libpq, without a password. Encrypted, unless it is to this host.

    https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS
    """

    remedy = (
        "Give a URL such as postgresql://forwarder@db1.example.com,db2.example.com/app?sslmode=verify-full"
    )

    def check(self, value: object) -> str:
        url = str(super().check(value))
        if not url:
            return url
        found = _server(url)
        if found is None:
            raise UnfitError("is not a URL of a PostgreSQL server")
        if found.has_secret:
            raise UnfitError(
                "contains a password; secrets don't belong in the settings",
                "Remove it; give password_file, or the systemd credential queue-password",
            )
        if found.sslmode != "verify-full" and not all(map(_is_here, found.hosts)):
            mode = f"has sslmode={found.sslmode}" if found.sslmode else "has no sslmode"
            raise UnfitError(
                f"{mode}: events and the password could go to whoever is in between",
                "Add sslmode=verify-full; only a Unix socket or a loopback address needs none",
            )
        return url

    def hides(self, value: object) -> bool:
        found = _server(str(value))
        return bool(value) and (found is None or found.has_secret)


class Identifier(Kind):
    """A name in a database that needs no quotes."""

    remedy = "Give at most 40 lower-case letters, digits and _, a letter first; pg_ is PostgreSQL's own"

    def check(self, value: object) -> str:
        name = str(super().check(value))
        if not re.fullmatch("(?!pg_)[a-z][a-z0-9_]{0,39}", name):
            raise UnfitError("is not a name for a schema")
        return name


class _Server(NamedTuple):
    """What a URL says of the server; a host that is not named is ""."""

    hosts: list[str]
    sslmode: str
    has_secret: bool


def _server(url: str) -> _Server | None:
    """What *url* says; None: it can't be parsed, and anything in it may be a secret."""
    from urllib.parse import unquote

    # Stricter than libpq in what follows the user: a password with a / or @ in it must not be taken for a
    # host, port or database.
    parts = re.fullmatch(
        r"postgres(?:ql)?://(?:([^\s@/?:]*)(:[^\s@/?]*)?@)?([^\s@/?]*)(?:/([^\s@/?]*))?(?:\?([^\s@]*))?", url
    )
    if not parts:
        return None
    hosts = []
    for each in parts[3].split(","):
        place = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[\w.%-]*)(?::([0-9]{0,5}))?", each, re.ASCII)
        if not place:
            return None
        hosts.append(unquote(place[1]).strip("[]"))
    given: dict[str, str] = {}
    for each in parts[5].split("&") if parts[5] else ():
        name, sign, value = each.partition("=")
        if not name or not sign or "=" in value:
            return None
        given[unquote(name)] = unquote(value)
    # They take the place of the hosts before them.
    for name in ("host", "hostaddr"):
        if name in given:
            hosts = given[name].split(",") + (hosts if name == "hostaddr" else [])
    if "service" in given:  # a file may name others
        hosts.append("by service")
    sslmode = given.get("sslmode", "require" if "ssl" in given else "")
    return _Server(hosts, sslmode, bool(parts[2]) or any(map(_is_secret, given)))


def _is_secret(parameter: str) -> bool:
    """Whether a parameter of libpq holds a secret, or what somebody takes for one."""
    found = re.search("pass|secret|token|key", parameter, re.IGNORECASE)
    return bool(found) and parameter not in ("passfile", "sslkey")


def _is_here(host: str) -> bool:
    """Whether *host* is a Unix socket or this host; "": libpq's own socket."""
    return not host or host[0] in "/@" or is_loopback(host.lower())


class Listen(Kind):
    """An address of this host and a port to listen on; port 0 is any free one. No name is looked up."""

    def __init__(self, example: str) -> None:
        self.remedy = f'Give an address of this host and a port, such as "{example}", or "" to serve nothing'

    def check(self, value: object) -> str:
        text = str(super().check(value)).strip()
        if text:
            host, port = host_and_port(text)
            if not is_loopback(host) and not _is_address(host):
                raise UnfitError("has no IP address before the port")
            if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
                raise UnfitError("does not end in :PORT")
        return text


class Token(Kind):
    """A project's token: one word."""

    remedy = "Give the project's token from Mixpanel's project settings"

    def check(self, value: object) -> str:
        text = str(super().check(value))
        if not re.fullmatch(r"[!-~]+", text):
            raise UnfitError("is not one word")
        return text


class Prefix(Kind):
    """What stands before the paths that are served, such as ``/mixpanel``."""

    remedy = 'Give a path that begins with /, such as "/mixpanel"'

    def check(self, value: object) -> str:
        text = str(super().check(value)).rstrip("/")
        if text and not re.fullmatch(r"(/[\w.~%+-]+)+", text, re.ASCII):
            raise UnfitError("is not a path")
        return text


class WebOrigin(Kind):
    """The origin of web pages (RFC 6454), as browsers send it."""

    remedy = 'Give scheme, host and any port, such as "https://www.example.com"'

    def check(self, value: object) -> str:
        text = str(super().check(value)).lower()
        if not re.fullmatch(r"https?://([\w.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", text, re.ASCII):
            raise UnfitError("is not an origin")
        return text


class HostName(Kind):
    """A host's name or address, without a port."""

    remedy = 'Give a name or an address without a port, such as "track.example.com"'

    def check(self, value: object) -> str:
        text = str(super().check(value)).lower()
        if not re.fullmatch(r"[\w.-]+|\[?[0-9a-f:.]+\]?", text, re.ASCII):
            raise UnfitError("is not the name of a host")
        return text.strip("[]")


class Proxy(Kind):
    """An address or network of proxies, or ``unix:`` for whoever reaches the Unix socket."""

    remedy = 'Give an address or a network, such as "10.0.0.0/8", or "unix:" for whoever reaches the socket'

    def check(self, value: object) -> str:
        from ipaddress import ip_network

        text = str(super().check(value)).strip()
        try:
            return text if text == "unix:" else str(ip_network(text, strict=False))
        except ValueError:
            raise UnfitError("is neither an address nor a network") from None


def host_and_port(listen: str) -> tuple[str, str]:
    """The two parts of ``HOST:PORT``, an IPv6 address without its brackets; "" where one is missing."""
    host, _, port = listen.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if is_bracketed:
        host = host[1:-1]
    return ("" if (":" in host) != is_bracketed else host), port


def _is_address(host: str) -> bool:
    from ipaddress import ip_address

    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether *host* is this host: localhost, 127.0.0.0/8 or ::1. No name is looked up."""
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
