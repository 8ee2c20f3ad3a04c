"""A daemon as a process of its own, and what the kernel says of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from forwarder import spool
from forwarder.service import state

LINGER_S = 0.2
MIB = 1024 * 1024
_TICKS = os.sysconf("SC_CLK_TCK")


def settings(path: str, url: str = "http://127.0.0.1:1") -> dict[str, str]:
    """The environment for a command on the queue in *path*."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("FORWARDER_")},
        "FORWARDER_CONFIG": os.devnull,
        "FORWARDER_QUEUE_PATH": path,
        "FORWARDER_QUEUE_MAX_BYTES": "100GiB",
        "FORWARDER_QUEUE_MIN_FREE_BYTES": "0",
        "FORWARDER_MIXPANEL_TOKEN": "benchmark",
        "FORWARDER_MIXPANEL_URL": url,
        "FORWARDER_INTAKE_SOCKET": f"{path}.sock",
        "FORWARDER_DELIVERY_LINGER_S": str(LINGER_S),
        "FORWARDER_LOG_LEVEL": "warning",
    }


@contextmanager
def running(path: str, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon for the queue in *path*, once it has begun."""
    process = subprocess.Popen([sys.executable, "-m", "forwarder", "run"], env=settings(path, url))
    try:
        wait_until(lambda: process.poll() is not None or state.read(spool.at(path)) is not None)
        if process.poll() is not None:
            raise RuntimeError("the daemon did not start")
        yield process
    finally:
        process.terminate()
        process.wait()


def wait_until(condition: Callable[[], object], every_s: float = 0.005, timeout_s: float = 600.0) -> None:
    """Wait until *condition* is true.

    Raises:
        TimeoutError: it never was.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"still not so after {timeout_s:g} s")
        time.sleep(every_s)


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used so far, user and system, in ticks of the clock."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def exact_cpu_s(pid: int) -> float:
    """The same to the nanosecond, of the threads that are there now."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def resident_bytes(pid: int, *, most: bool = False) -> int:
    """What a process has in memory now; *most*: has ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB" if most else r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024
