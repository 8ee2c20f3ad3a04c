"""Stand-in: where a queue is on a server."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg  # noqa: F401 - fails where it is not installed, as the real one does


@dataclass(frozen=True, slots=True)
class Address:
    """A queue on a server."""

    url: str
    schema: str = "forwarder"
    password_file: str = ""
    standbys: int = 1
    lease_s: float = 15.0

    @property
    def place(self) -> str:
        """For people."""
        return f"{self.url} (schema {self.schema})"
