"""Who may write: no web page unless its origin is named, and whoever else reaches a socket.

A page needs no permission to *send* a request to this host, only to read the answer. So requests that come
from pages are recognised by what browsers put into them, and refused: ``Origin``, ``Sec-Fetch-Site``, and a
``Host`` that is not this one (a name that was pointed at 127.0.0.1 after the page was loaded).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

UNIX = "unix:"  # a peer without an address
_OWN_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Access:
    """What the settings say about it."""

    origins: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset(_OWN_NAMES)
    trusts_socket: bool = False
    proxies: tuple[IPv4Network | IPv6Network, ...] = ()

    @classmethod
    def by(cls, origins: Sequence[str], hosts: Sequence[str], trusted_proxies: Sequence[str]) -> Access:
        """The settings ``origins``, ``hosts`` and ``trusted_proxies`` of ``[intake]``."""
        return cls(
            frozenset(origins),
            frozenset((*_OWN_NAMES, *hosts)),
            UNIX in trusted_proxies,
            tuple(ip_network(proxy) for proxy in trusted_proxies if proxy != UNIX),
        )

    def fault(self, headers: Mapping[str, str]) -> str:
        """Why a request may not enter, and how to allow it; "": it may."""
        host = host_of(headers.get("host", "localhost"))
        if host not in self.hosts:
            return "this Host is not one of intake.hosts; add it there, or use localhost"
        origin = self._origin(headers)
        if origin is None and headers.get("sec-fetch-site", "none") == "none":
            return ""
        if origin not in self.origins:
            return (
                "requests from web pages are refused; add the page's origin to intake.origins to allow them"
            )
        return ""

    def shared(self, headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """What lets a page that may write read the answer; empty for other clients."""
        origin = headers.get("origin", "")
        if not self.origins:
            return ()
        if origin.lower() not in self.origins:
            return (("Vary", "Origin"),)
        return (
            ("Vary", "Origin"),
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Allow-Credentials", "true"),
        )

    def client(self, peer: str, headers: Mapping[str, str]) -> str:
        """The client's address if it is a public one; else "".

        Args:
            peer: The address that the connection comes from, or `UNIX`.
        """
        found = peer
        if self._is_trusted(peer):
            hops = [hop.strip() for hop in headers.get("x-forwarded-for", "").split(",")]
            found = next((hop for hop in reversed(hops) if not self._is_trusted(hop)), "")
        try:
            address = ip_address(found)
        except ValueError:
            return ""
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return str(address) if address.is_global and not address.is_multicast else ""

    def _is_trusted(self, peer: str) -> bool:
        if peer == UNIX:
            return self.trusts_socket
        try:
            address = ip_address(peer)
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return any(address in network for network in self.proxies)

    @staticmethod
    def _origin(headers: Mapping[str, str]) -> str | None:
        """The origin of the page that sends the request; None: no page is named."""
        if "origin" in headers:
            return headers["origin"].lower()
        # Of images and scripts, browsers only say which page asks for them.
        if (parts := headers.get("referer", "").lower().split("/", 3))[2:]:
            return "/".join(parts[:3])
        return None


PREFLIGHT = (
    ("Access-Control-Allow-Methods", "GET, POST"),
    ("Access-Control-Allow-Headers", "authorization, content-type"),
    ("Access-Control-Max-Age", "600"),
)


def host_of(text: str) -> str:
    """The name or address in a ``Host`` header, without port and brackets."""
    text = text.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]
