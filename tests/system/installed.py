"""The forwarder as a service of a box: installed as its page says, and driven by systemd's own tools."""

from __future__ import annotations

import json
import re
from typing import Any

from box import ROOT, Box

PORT = 8087
TOKEN = "0123456789abcdef-token"
SETTINGS = """
[mixpanel]
url = "http://127.0.0.1:{port}"
[queue]
path = "{queue}"
min_free_bytes = 0
[delivery]
linger_s = 0.1
retry_initial_s = 0.1
retry_max_s = 0.2
"""
REMOVE = """
systemctl kill -s KILL "$1" 'sandbox-*'
systemctl stop "$1" 'sandbox-*' holder
systemctl reset-failed
rm -rf "/etc/systemd/system/$1.service.d"
find "$2" -mindepth 1 -delete
journalctl --rotate --vacuum-time=1us
systemctl daemon-reload
"""


def install(box: Box) -> None:
    """Run the page's commands that put the service's files in place."""
    chapter = (ROOT / "docs/install.rst").read_text().split("\nFrom a clone\n", 1)[1]
    chapter = chapter.split("\nSet the project and start\n", 1)[0]
    commands = re.findall(r"^    ((?:install|systemd-sysusers|systemd-tmpfiles) .*)$", chapter, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        box.run("sh", "-c", f"cd /opt/forwarder/checkout && {command}")
    box.run("systemctl", "daemon-reload")


class Service:
    """One unit of the forwarder in a box, *name*: ``forwarder`` or ``forwarder@NAME``."""

    def __init__(self, box: Box, name: str = "forwarder", port: int = PORT, token: str = TOKEN) -> None:
        self.box, self.unit, self.port, self.token = box, name, port, token
        self.user = name.replace("@", "-")
        instance = name.partition("@")[2]
        self.queue = f"/var/lib/forwarder-{instance}" if instance else "/var/lib/forwarder"
        self.config = f"/etc/forwarder/{instance or 'forwarder'}.toml"
        self.key = f"/etc/forwarder/{instance}.token" if instance else "/etc/forwarder/token"

    @classmethod
    def renewed(cls, box: Box) -> Service:
        """The plain service, not started, with settings and key, an empty queue and an empty journal."""
        service = cls(box)
        service.remove()
        service.prepare()
        return service

    def prepare(self) -> None:
        """Write its settings and its key, which is a project's token, as the page has it."""
        self.configure()
        self.box.write(self.key, self.token, 0o600)
        # Tests don't wait as long as an operator would want it to.
        self.change("RestartSec=100ms")

    def configure(self, more: str = "", port: int = 0) -> None:
        """Write its settings: those of a test, and *more*."""
        self.box.write(self.config, SETTINGS.format(port=port or self.port, queue=self.queue) + more)

    def change(self, lines: str, name: str = "test") -> None:
        """Change lines of the unit's section [Service], as ``systemctl edit`` does."""
        self.box.write(f"/etc/systemd/system/{self.unit}.service.d/{name}.conf", f"[Service]\n{lines}\n")
        self.box.run("systemctl", "daemon-reload")

    def systemctl(self, verb: str, *, check: bool = True) -> int:
        """Have systemd do *verb*; returns the exit code."""
        return self.box.run("systemctl", verb, self.unit, check=check).returncode

    def __getitem__(self, name: str) -> str:
        """A property of the unit, as ``systemctl show`` has it."""
        return self.box.run("systemctl", "show", "-P", name, self.unit).stdout.strip()

    @property
    def pid(self) -> int:
        return int(self["MainPID"])

    def status(self) -> str:
        """What ``systemctl status`` shows."""
        return self.box.run("systemctl", "status", "--no-pager", "--full", self.unit, check=False).stdout

    def forwarder(self, *arguments: str, user: str = "", check: bool = True, stdin: str = "") -> Any:
        """Run the command with its settings; by default as the service's own user."""
        command = ("forwarder", arguments[0], "--config", self.config, *arguments[1:])
        return self.box.run(*command, user=user or self.user, check=check, stdin=stdin)

    def enqueue(self, *names: str) -> None:
        """Have its queue accept events of these names."""
        lines = (json.dumps({"event": name, "properties": {"distinct_id": "d"}}) + "\n" for name in names)
        self.forwarder("enqueue", stdin="".join(lines))

    @property
    def figures(self) -> dict[str, Any]:
        """What ``status --json`` says."""
        return dict(json.loads(self.forwarder("status", "--json").stdout))

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """The unit's entries in the journal, those of systemd about it included."""
        found = self.box.run("journalctl", "-u", self.unit, "-o", "json", "--no-pager", *matches).stdout
        return [json.loads(line) for line in found.splitlines()]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The entries of a message's name."""
        return self.journal(f"FORWARDER_EVENT={event}")

    def start_server(self, *options: str, port: int = 0) -> None:
        """Start a stand-in for Mixpanel in the box, as a unit of its own, and wait for it."""
        port = port or self.port
        command = ["forwarder", "sandbox", "--port", str(port), "--token", self.token, *options]
        self.box.run("systemd-run", "-q", "--collect", f"--unit=sandbox-{port}", *command)
        # A box has nothing that tells of a port that opens: it is asked for.
        script = (
            "import socket, sys, time\n"
            "while socket.socket().connect_ex(('127.0.0.1', int(sys.argv[1]))): time.sleep(0.02)"
        )
        self.box.run("timeout", "20", "/opt/forwarder/python/bin/python3", "-c", script, str(port))

    def signal_server(self, name: str) -> None:
        """Send the stand-in a signal."""
        self.box.run("systemctl", "kill", "-s", name, f"sandbox-{self.port}")

    def remove(self) -> None:
        """Take away all that a test may have left of it, of its stand-in and in the journal."""
        self.box.run("sh", "-c", REMOVE, "remove", self.unit, self.queue)
