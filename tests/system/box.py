"""A machine of its own to try the unit in: a real systemd, booted over a throw-away copy of this one's root,
or of another release of Debian's.

It sees this machine's files, changes none of them, and has no network but loopback. Needs root and
systemd-nspawn (Debian: systemd-container); for another release mmdebstrap, and what apt has for a mirror.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BOOT_S = 60
# In a mount namespace of its own, so that nothing stays mounted, and in a control group of its own, or two
# boxes at once would take each other's services for theirs. When the test ends, however, so does its pipe.
BOOT = """
set -e
work=$1 groups=$2 lower=$3; shift 3
for group in $groups; do echo $$ >"$group/cgroup.procs"; done
mount -t tmpfs -o mode=755 box "$work"
mkdir "$work/upper" "$work/work" "$work/root"
mount -t overlay -o "lowerdir=$lower,upperdir=$work/upper,workdir=$work/work" box "$work/root"
exec 3<&0
while :; do
    rm -f "${work%/*}/again"
    systemd-nspawn --quiet --register=no --keep-unit --private-network --notify-ready=yes \\
        --directory="$work/root" "$@" --boot -- systemd.unit=box.target systemd.log_level=warning </dev/null &
    nspawn=$!
    { read -r _ <&3 || while kill $nspawn; do sleep 0.2; done; } >/dev/null 2>&1 &
    wait $nspawn || true
    kill $! || true
    wait
    [ -e "${work%/*}/again" ] || break
done
"""
TARGET = """[Unit]
Requires=basic.target
Wants=dbus.service
After=basic.target dbus.service
AllowIsolate=yes
"""
# What `pip install` puts there, wherever the checkout, its environment and their Python are.
COMMAND = """#!/bin/sh
LD_LIBRARY_PATH=/opt/forwarder/python/lib exec /opt/forwarder/python/bin/{python} /opt/forwarder/main "$@"
"""
MAIN = """
import sys
sys.path[:0] = ["/opt/forwarder/checkout", "/opt/forwarder/packages"]
sys.argv[0] = "forwarder"
from forwarder.cli import main
sys.exit(main())
"""


class NeverBegunError(Exception):
    """There was not even an init; says what there was."""


class Box:
    """A booted system.

    Args:
        booted: Waits until it has, and returns its init, by its number here.
        work: Where the script that boots it keeps its files.
    """

    def __init__(self, booted: Callable[[], int], work: Path) -> None:
        self._booted = booted
        self._work = work
        self.leader = booted()

    @property
    def root(self) -> Path:
        """Its root directory, as seen from here."""
        return Path(f"/proc/{self.leader}/root")

    def reboot(self) -> None:
        """Shut it down and boot it again; what is on its disk stays, and nothing else."""
        # nspawn's own way to reboot fails in a mount namespace.
        (self._work / "again").touch()
        self.run("systemctl", "--no-block", "poweroff")
        try:
            self.leader = self._booted()
        except NeverBegunError as error:
            pytest.fail(f"the system did not come back: {error}")

    def run(
        self,
        *command: str | Path,
        user: str = "",
        stdin: str = "",
        check: bool = True,
        timeout_s: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it to its end, as root or *user*; with *check* it must exit with 0."""
        become = ["runuser", "-u", user, "--"] if user else []
        done = subprocess.run(
            ["nsenter", "--target", str(self.leader), "--all", *become, *map(str, command)],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if check:
            assert done.returncode == 0, f"{shlex.join(done.args)}: {done.stdout}{done.stderr}"
        return done

    def write(self, path: str, content: str, mode: int = 0o644) -> None:
        """Write a file of root's in it, and make the directories above."""
        self.run("install", "-D", "-m", f"{mode:o}", "/dev/stdin", path, stdin=content)


@contextlib.contextmanager
def debian(release: str, *packages: str) -> Iterator[Path]:
    """The root of a small system of that *release* with these *packages*; where none can be made, the test is
    skipped."""
    if os.geteuid() != 0:
        pytest.skip("only root can make another system's root")
    if not shutil.which("mmdebstrap"):
        pytest.skip("mmdebstrap is not on this machine")
    indexes = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    mirrors = subprocess.run(indexes, capture_output=True, text=True).stdout.split()
    mirror = next((each for each in mirrors if each.rstrip("/").endswith("/debian")), None)
    if mirror is None:
        pytest.skip("apt has no mirror of Debian's")
    with tempfile.TemporaryDirectory(prefix="forwarder-debian-", dir="/var/tmp") as root:
        os.chmod(root, 0o755)
        command = [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--include={','.join(['systemd,dbus,libpam-systemd', *packages])}",
            release,
            root,
            mirror,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode:
            pytest.skip(f"{release} can't be had: {done.stdout[-300:]}{done.stderr[-300:]}")
        yield Path(root)


@contextlib.contextmanager
def booted(lower: Path = Path("/")) -> Iterator[Box]:
    """A box that has booted over a copy of *lower*; where none can be, the test is skipped."""
    if os.geteuid() != 0:
        pytest.skip("only root can boot a system")
    if not shutil.which("systemd-nspawn"):
        pytest.skip("systemd-nspawn is not on this machine (Debian: systemd-container)")
    with contextlib.ExitStack() as stack:
        # Not below /tmp, where the new system mounts its own.
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="forwarder-box-", dir="/var/tmp")))
        told = stack.enter_context(_told(work / "ready"))
        console = stack.enter_context((work / "console").open("w"))
        (work / "box").mkdir()
        groups = stack.enter_context(_groups(work.name))
        nspawn = subprocess.Popen(
            [
                "unshare",
                "--mount",
                "sh",
                "-c",
                BOOT,
                "box",
                work / "box",
                " ".join(groups),
                lower,
                *_binds(work),
            ],
            env={"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(work / "ready")},
            stdin=subprocess.PIPE,
            stdout=console,
            stderr=subprocess.STDOUT,
        )
        box = None
        try:
            try:
                box = Box(lambda: _wait_until_ready(nspawn, told, work / "console"), work)
            except NeverBegunError as error:
                pytest.skip(f"no system can be booted on this machine: {error}")
            yield box
        finally:
            _end(nspawn, box)


def _end(nspawn: subprocess.Popen[bytes], box: Box | None) -> None:
    if box:
        # Takes all of its processes along, and nspawn ends by itself.
        with contextlib.suppress(ProcessLookupError):
            os.kill(box.leader, signal.SIGKILL)
    assert nspawn.stdin is not None
    nspawn.stdin.close()
    try:
        nspawn.wait(BOOT_S)
    except subprocess.TimeoutExpired:
        # On a very busy machine the kernel may take longer; it needs nobody for that.
        nspawn.kill()
        nspawn.wait()


@contextlib.contextmanager
def _told(path: Path) -> Iterator[queue.SimpleQueue[bytes]]:
    """What a system tells of itself to the socket *path*. Read all the while, or it would wait for that: from
    systemd 254 on, it tells of each daemon-reload."""
    told: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(path))

        def read() -> None:
            while message := ready.recv(4096):
                told.put(message)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield told
        finally:
            ready.shutdown(socket.SHUT_RDWR)
            reader.join()


@contextlib.contextmanager
def _groups(name: str) -> Iterator[list[str]]:
    """A control group below this process's own, in each hierarchy that systemd uses."""
    groups = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        unified = "unified" if Path("/sys/fs/cgroup/unified").is_dir() else ""
        hierarchy = {"": unified, "name=systemd": "systemd"}.get(controllers)
        if hierarchy is not None:
            group = Path("/sys/fs/cgroup", hierarchy, path.strip("/"), name)
            with contextlib.suppress(OSError):
                group.mkdir()
                groups.append(group)
    try:
        yield [str(group) for group in groups]
    finally:
        deadline = time.monotonic() + 5
        for group in groups:
            while group.exists() and time.monotonic() < deadline:
                _remove(group)


def _remove(group: Path) -> None:
    for directory, _, _ in os.walk(group, topdown=False):
        # As long as a process of it is still on its way out, the kernel keeps it.
        with contextlib.suppress(OSError):
            os.rmdir(directory)


def _binds(work: Path) -> list[str]:
    python = os.path.basename(os.path.realpath(sys.executable))
    for name, content in (
        ("box.target", TARGET),
        ("main", MAIN),
        ("forwarder", COMMAND.format(python=python)),
    ):
        (work / name).write_text(content)
        (work / name).chmod(0o755)
    binds = {
        work / "box.target": "/etc/systemd/system/box.target",
        work / "forwarder": "/usr/bin/forwarder",
        work / "main": "/opt/forwarder/main",
        ROOT: "/opt/forwarder/checkout",
        Path(sysconfig.get_path("purelib")): "/opt/forwarder/packages",
        Path(sys.base_prefix): "/opt/forwarder/python",
    }
    return [f"--bind-ro={here}:{there}" for here, there in binds.items()]


def _wait_until_ready(nspawn: subprocess.Popen[bytes], told: queue.SimpleQueue[bytes], console: Path) -> int:
    """Returns the system's init, by its number here."""
    leader = 0
    deadline = time.monotonic() + BOOT_S
    while time.monotonic() < deadline and nspawn.poll() is None:
        with contextlib.suppress(queue.Empty):
            message = told.get(timeout=0.2).decode()
            fields = dict(line.partition("=")[::2] for line in message.splitlines())
            leader = int(fields.get("X_NSPAWN_LEADER_PID", leader))
            # Without the first, it is the end of a daemon-reload before a reboot.
            if leader and "READY" in fields:
                return leader
    end = "\n".join(console.read_text(errors="replace").splitlines()[-20:])
    if not leader and nspawn.poll() is not None:
        raise NeverBegunError(end)
    pytest.fail(f"the system did not boot: {end}")
