"""The proxy that the environment asks for."""

import base64
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import unquote

from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from forwarder.errors import ConfigError

_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy and the environment *variable* that names it; ``str()`` is for people."""

    url: Url
    variable: str
    scheme: str
    host: str
    port: int
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{place_of(self.host, self.port)} ({self.variable})"

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS, and not HTTP."""
        return self.scheme.startswith("socks")

    @property
    def headers(self) -> dict[str, str]:
        """The headers for an HTTP proxy, besides the address to connect to."""
        return {"Proxy-Authorization": f"Basic {self.signed}"} if self.username else {}

    @property
    def signed(self) -> str:
        """The credentials as they are sent."""
        return base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def choose(scheme: str, host: str, proxies: Mapping[str, str]) -> Proxy | None:
    """The proxy for *host* among *proxies*, as requests finds them in the environment.

    Raises:
        ConfigError: it can't be used.
    """
    kind = scheme if proxies.get(scheme) else "all"
    address = proxies.get(kind)
    if not address or _is_this_host(host):
        return None
    name = f"{kind}_proxy"
    variable = name if name in os.environ else name.upper()
    try:
        url = parse_url(address if "://" in address else f"http://{address}")
    except LocationParseError:
        url = Url()
    if url.scheme not in _PORTS or not url.host:
        # Not shown, because it may contain a password.
        raise ConfigError(f"{variable} is not the address of a proxy", "Give http://HOST:PORT")
    if url.scheme.startswith("socks") and not importlib.util.find_spec("socks"):
        raise ConfigError(
            f"{variable} names a SOCKS proxy, which needs the Python package PySocks",
            "Install it: pip install PySocks",
        )
    username, _, password = (url.auth or "").partition(":")
    port = url.port or _PORTS[url.scheme]
    return Proxy(url, variable, url.scheme, url.host.strip("[]"), port, unquote(username), unquote(password))


def place_of(host: str, port: int) -> str:
    """A host and its port, as people and URLs write them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_this_host(host: str) -> bool:
    """Whether *host* is this host, which a proxy could not reach."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
