"""The effective settings for a person to read: each value and its source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from forwarder.config.credentials import find_password, find_secret
from forwarder.config.settings import SETTINGS, Settings

HIDDEN = "(not shown)"


class Shown(NamedTuple):
    """A setting to show: *value* has sizes in bytes, durations in seconds, and no secret."""

    key: str
    value: Any
    source: str

    @property
    def text(self) -> str:
        """A line of a TOML file, ``section.key = value``; a comment if it is not a setting."""
        if self.key not in SETTINGS:
            return f"# {self.key}"
        return f"{self.key} = {SETTINGS[self.key].kind.show(self.value)}"


def describe(settings: Settings, environ: Mapping[str, str] | None = None) -> list[Shown]:
    """All settings in the order of the table, then ``mixpanel.secret``, ``mixpanel.token`` and
    ``queue.password``.

    The last three are not settings: they say where the secrets come from. No secret is read.
    """
    rows = []
    for key, setting in SETTINGS.items():
        value = setting.of(settings)
        rows.append(Shown(key, HIDDEN if setting.kind.hides(value) else value, settings.source(key)))
    origins = {f"mixpanel.{kind}": find_secret(settings, kind, environ) for kind in ("secret", "token")}
    origins["queue.password"] = find_password(settings.queue, environ)
    for key, origin in origins.items():
        rows.append(Shown(key, HIDDEN if origin else None, origin.name if origin else "not set"))
    return rows
