"""Taking in: a bulk enqueue against raw inserts of the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
import time


def enqueue(file: str, path: str) -> float:
    """``forwarder enqueue FILE`` as a whole process. Returns wall seconds."""
    environ = {
        **os.environ,
        "FORWARDER_CONFIG": os.devnull,
        "FORWARDER_QUEUE_PATH": path,
        "FORWARDER_QUEUE_MIN_FREE_BYTES": "0",
    }
    return _timed([sys.executable, "-m", "forwarder", "enqueue", file], environ)


def enqueue_barely(file: str, database: str) -> float:
    """The same bytes by raw ``executemany``, as a whole process."""
    return _timed([sys.executable, "-m", "benchmarks.bare", "enqueue", file, database], dict(os.environ))


def _timed(command: list[str], environ: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started
