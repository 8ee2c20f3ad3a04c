"""Packages, made from a copy of the source, so that nothing of a checkout gets in and none is left there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_SOURCE = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "*.[15]")


def copy(directory: Path) -> Path:
    """The source below *directory*, without what make and the tools have left in it."""
    source = directory / "source"
    shutil.copytree(ROOT, source, ignore=NOT_SOURCE)
    shutil.copytree(ROOT / ".ci", source / ".ci")
    for name in (".editorconfig", ".gitignore", ".pre-commit-config.yaml"):
        if (ROOT / name).exists():  # an sdist has no .gitignore
            shutil.copy(ROOT / name, source)
    return source


def run(target: str, source: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Make *target* in a copy of the source, with the environment that runs this, whatever its age."""
    ready = [f"--assume-old={sys.prefix}/{name}" for name in ("runtime", "dev")]
    ours = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    return subprocess.run(
        ["make", *ready, f"VENV={sys.prefix}", target],
        cwd=source,
        env={**ours, **environ},
        capture_output=True,
        text=True,
        timeout=300,
    )


def make(target: str, directory: Path) -> Path:
    """Make *target* in a new copy below *directory*; the copy's ``dist``."""
    return made(target, copy(directory))


def made(target: str, source: Path) -> Path:
    """Make *target* in a copy; its ``dist``."""
    done = run(target, source)
    assert done.returncode == 0, done.stderr[-3000:]
    return source / "dist"
