"""Mixpanel's SDKs as their registries have them, each in a directory of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TIMEOUT_S = 60
NPM = ("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", ".")
COMMANDS = {
    "pip": (sys.executable, "-m", "pip", "install", "-q", "--no-input", "--target", "."),
    "npm": NPM,
    "gem": ("gem", "install", "--no-document", "--install-dir", "."),
    "composer": ("composer", "require", "--quiet", "--no-interaction"),
}


class Registries:
    """Packages, installed once each in *directory* when a test asks for them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._missing: dict[str, str] = {}

    def package(self, tool: str, name: str) -> Path:
        """Where *name* is installed by *tool*; skips the test, with the reason, if it can't be had."""
        place = self._directory / f"{tool}-{name.replace('/', '-')}"
        if place.exists():
            return place
        # A registry that does not answer is not asked again.
        if tool not in self._missing and (reason := self._install(tool, name, place)):
            self._missing[tool] = reason
        if tool in self._missing:
            pytest.skip(f"{name} can't be had: {self._missing[tool]}")
        return place

    def _install(self, tool: str, name: str, place: Path) -> str:
        """Returns why it can't be done; "": it is."""
        command = COMMANDS[tool]
        if not shutil.which(command[0]):
            return f"{command[0]} is not on this machine"
        half = place.with_suffix(".half")
        half.mkdir()
        try:
            done = subprocess.run(
                [*command, name],
                cwd=half, env={**os.environ, "COMPOSER_ALLOW_SUPERUSER": "1"},
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            shutil.rmtree(half)
            return f"{tool} took more than {TIMEOUT_S} s"
        if done.returncode:
            shutil.rmtree(half)
            return " ".join((done.stderr.strip() or done.stdout.strip() or "no reason").split())[-300:]
        half.rename(place)
        return ""
