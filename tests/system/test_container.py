"""The daemon as a container has it: the first process, another user without rights, a root that is read-only.

Without an engine for containers: with the namespaces that one would use.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from forwarder.cli.root import COMMANDS
from forwarder.config.settings import SETTINGS
from forwarder.sandbox import Sandbox

ROOT = Path(__file__).parents[2]
USER = 10001
# Where that user can read them; the rest of the root can't be written any more, but for the queue.
INSIDE = """
set -e
mount -t tmpfs -o mode=755 code "$1"
mkdir "$1/python" "$1/packages" "$1/checkout" "$1/queue"
mount --bind "$2" "$1/python"
mount --bind "$3" "$1/packages"
mount --bind "$4" "$1/checkout"
mount --bind "$5" "$1/queue"
mount -o remount,ro "$1"
mount -o remount,ro,bind /
mount -t proc proc /proc
cd /
export LD_LIBRARY_PATH="$1/python/lib" PYTHONPATH="$1/checkout:$1/packages" PYTHONDONTWRITEBYTECODE=1
export FORWARDER_QUEUE_PATH="$1/queue"
python=$1/python/bin/$6
shift 6
exec setpriv --reuid=10001 --regid=10001 --clear-groups --bounding-set=-all --no-new-privs \\
    "$python" -m forwarder "$@"
"""


class Container:
    """Runs the forwarder in namespaces of its own; *queue* is its volume."""

    def __init__(self, place: Path, environ: dict[str, str]) -> None:
        self.queue, self._code, self._environ = place / "queue", Path("/mnt"), environ
        self.queue.mkdir()
        os.chown(self.queue, USER, USER)
        os.chmod(self.queue, 0o2770)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command as the first process of a container."""
        python = os.path.basename(os.path.realpath(sys.executable))
        places = (sys.base_prefix, sysconfig.get_path("purelib"), ROOT, self.queue)
        inside = ["sh", "-c", INSIDE, "container", self._code, *places, python, *arguments]
        return subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", *map(str, inside)],
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> str:
        """Run a command to its end, which must be a good one; returns its output."""
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        return out


@pytest.fixture
def container(tmp_path: Path, server: Sandbox) -> Container:
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can make namespaces, and setpriv another user")
    environ = {"PATH": os.environ["PATH"], "FORWARDER_MIXPANEL_URL": server.url}
    environ |= {"FORWARDER_MIXPANEL_TOKEN": "sandbox-token", "FORWARDER_QUEUE_MIN_FREE_BYTES": "0"}
    return Container(tmp_path, environ)


def test_it_delivers_and_ends_at_sigterm(
    container: Container, server: Sandbox, until: Callable[..., object]
) -> None:
    """As the first process, without rights, on a read-only root: accepts, delivers, is seen, is stopped."""
    container.run("enqueue", "-e", "A")
    with container.start("run") as daemon:
        try:
            until(lambda: json.loads(container.run("status", "--json"))["delivered"] == 1)
            container.run("status", "--fail-if", "state==stopped")
            [first] = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
            assert re.search(r"^NSpid:\t\d+\t1$", Path(f"/proc/{first}/status").read_text(), re.MULTILINE)
            assert re.search(rf"^Uid:\t{USER}\t", Path(f"/proc/{first}/status").read_text(), re.MULTILINE)
            os.kill(int(first), signal.SIGTERM)
            assert daemon.wait(40) == 0
        finally:
            daemon.kill()
    assert server.ledger.accepted == 1


def test_the_files_for_containers_name_what_there_is() -> None:
    """Commands and settings in Dockerfile, compose file and manifest exist."""
    texts = {path.name: path.read_text() for path in (ROOT / "container").iterdir()}
    on_server = {"compose-server.yaml", "kubernetes-server.yaml"}
    assert texts.keys() == {"Dockerfile", "compose.yaml", "kubernetes.yaml"} | on_server
    variables = {setting.variable for setting in SETTINGS.values()} | {
        "FORWARDER_MIXPANEL_TOKEN",
        "FORWARDER_MIXPANEL_SECRET",
    }
    for name, text in texts.items():
        named = set(re.findall(r"\bFORWARDER_[A-Z_]+", text))
        assert named <= variables, name
    for command in (*re.findall(r'CMD \["(\w+)"\]', texts["Dockerfile"]), "status", "sandbox"):
        assert command in COMMANDS
    urls = [found for text in texts.values() for found in re.findall(r"FORWARDER_MIXPANEL_URL: (.*)", text)]
    assert [SETTINGS["mixpanel.url"].kind.check(url) for url in urls] == ["http://127.0.0.1:8087"] * 2
    for name in on_server:
        (url,) = re.findall(r"postgresql://\S+", texts[name])
        assert SETTINGS["queue.url"].kind.check(url) == url
    assert SETTINGS["queue.path"].default == "/var/lib/forwarder"
    for name in texts.keys() - on_server:
        assert "/var/lib/forwarder" in texts[name]
