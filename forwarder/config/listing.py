"""The effective settings for a person to read: each value and its source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from forwarder.config.credentials import find_secret
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
    """All settings in the order of the table, then ``mixpanel.secret`` and ``mixpanel.token``.

    The last two are not settings: they say where the secrets come from. No secret is read.
    """
    rows = []
    for key, setting in SETTINGS.items():
        value = setting.of(settings)
        rows.append(Shown(key, HIDDEN if setting.kind.hides(value) else value, settings.source(key)))
    for kind in ("secret", "token"):
        origin = find_secret(settings, kind, environ)
        rows.append(
            Shown(f"mixpanel.{kind}", HIDDEN if origin else None, origin.name if origin else "not set")
        )
    return rows
