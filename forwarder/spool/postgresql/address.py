"""Where a queue is on a server, and how to sign in there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from forwarder.errors import ConfigError, NotPermittedError

# psycopg takes fewer seconds for two.
LEAST_CONNECT_S = 2


@dataclass(frozen=True, slots=True)
class Address:
    """A queue on a server.

    Attributes:
        url: As libpq takes it, without a password; it may name several hosts.
        schema: The schema of the queue's tables.
        password_file: Read at each connection; "": libpq's own ways, such as PGPASSFILE.
        standbys: How many synchronous copies to insist on.
        lease_s: A daemon that is silent for so long is replaced.
    """

    url: str
    schema: str = "forwarder"
    password_file: str = ""
    standbys: int = 1
    lease_s: float = 15.0

    @property
    def place(self) -> str:
        """For people."""
        return f"{self.url} (schema {self.schema})"

    def conninfo(self, timeout_s: float) -> str:
        """What to connect with: to the primary, whichever of the hosts it is, in about *timeout_s* in all.

        Raises:
            ConfigError: the password's file can't be read, or the URL is wrong.
        """
        try:
            given: dict[str, Any] = conninfo_to_dict(self.url)
        except Exception as error:
            raise ConfigError(f"queue.url can't be read: {error}") from None
        hosts = str(given.get("host") or "").count(",") + 1
        ours: dict[str, Any] = {
            "connect_timeout": max(LEAST_CONNECT_S, int(timeout_s / hosts)),
            # Never a standby: what it shows may be old, or never come to be.
            "target_session_attrs": "read-write",
            "application_name": "forwarder",
            "client_encoding": "UTF8",
        }
        if not given.keys() & {"host", "hostaddr"}:
            # A socket needs none, but $PGHOST or $PGSERVICE may name another host.
            ours["sslmode"] = "verify-full"
        if self.password_file:
            ours["password"] = self._password()
        return make_conninfo("", **{**ours, **given, "connect_timeout": ours["connect_timeout"]})

    def _password(self) -> str:
        try:
            with open(self.password_file, encoding="utf-8") as file:
                return file.read(4096).strip("\r\n")
        except PermissionError:
            raise NotPermittedError(
                f"this user can't read the queue's password file {self.password_file}",
                "Make the daemon's user its owner, mode 0600",
            ) from None
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"the queue's password file {self.password_file} can't be read: {error}"
            ) from None
