"""Packages, made from a copy of the source, so that nothing of a checkout gets in and none is left there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_SOURCE = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "*.[15]")


def make(target: str, directory: Path) -> Path:
    """Make *target* in a copy below *directory*, with the environment that runs this; the copy's ``dist``."""
    source = directory / "source"
    shutil.copytree(ROOT, source, ignore=NOT_SOURCE)
    shutil.copytree(ROOT / ".ci", source / ".ci")
    for name in (".editorconfig", ".pre-commit-config.yaml"):
        shutil.copy(ROOT / name, source)
    # The environment is as it is, whatever its age.
    ready = [f"--assume-old={sys.prefix}/{name}" for name in ("runtime", "dev")]
    done = subprocess.run(
        ["make", *ready, f"VENV={sys.prefix}", target],
        cwd=source,
        env={name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return source / "dist"
