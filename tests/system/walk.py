"""The way of an operator with the package, from the installation to the purge, by the pages' own commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from box import ROOT, Box
from docutils import nodes
from docutils.core import publish_doctree
from installed import PORT, Service

CLONE = "/srv/clone"
DOC = "/usr/share/doc/mixpanel-forwarder"
QUEUE = "/var/lib/forwarder"
WHAT_THE_PAGE_SAYS = {
    "url": f"http://127.0.0.1:{PORT}",
    "project_id": "123",
    "service_account": "user",
}
PROGRAM = f"""
from forwarder import EventQueue
with EventQueue("{QUEUE}") as queue:
    queue.put({{"event": "Invited", "properties": {{"distinct_id": "user-1"}}}})
"""


def commands_of(section: str) -> list[str]:
    """The commands of a section of the installation's page, one a line."""
    page = publish_doctree((ROOT / "docs/install.rst").read_text())
    (found,) = (node for node in page.findall(nodes.section) if section in node["ids"])
    return [line for block in found.findall(nodes.literal_block) for line in block.astext().splitlines()]


def walk(box: Box, package: Path, until: Callable[..., object]) -> None:
    """Install *package* in a system that has never had it, do all that the page says, and purge it again."""
    _install(box, package)
    service = Service(box)
    _start(service, until)
    _produce(box)
    assert (service.figures["accepted"], service.figures["delivered"]) == (2, 2)
    _add_another(box)
    _reinstall(service, until)
    _remove(box)


def _run(box: Box, commands: Iterable[str], stdin: str = "") -> str:
    """Run them as root, who says yes to all and has the pages beside; returns what they printed."""
    said = ""
    for command in commands:
        quiet = command.replace("apt ", "apt -y ").replace("delete --all", "delete --all --yes")
        script = f"cd {DOC if not command.startswith('apt install ./') else CLONE} && {quiet}"
        done = box.run("env", "DEBIAN_FRONTEND=noninteractive", "HOME=/root", "sh", "-c", script, stdin=stdin)
        said += done.stdout + done.stderr
    return said


def _install(box: Box, package: Path) -> None:
    box.write(f"{CLONE}/keep", "")
    target = box.root / CLONE[1:] / "dist" / package.name
    target.parent.mkdir()
    target.write_bytes(package.read_bytes())
    # The index of all manual pages takes seconds at each step.
    box.run("rm", "-f", "/var/lib/man-db/auto-update")
    assert "set the project and its key" in _run(box, commands_of("debian-package")[-1:])


def _set(box: Box, config: str, values: dict[str, str]) -> None:
    """Change settings as a person does: in the file with all of them, which came along, each where its name
    stands first."""
    changes = [f'0,/^#{name} = /s|^#{name} = .*|{name} = "{value}"|' for name, value in values.items()]
    box.run("sed", "-i", ";".join(changes), config)


def _start(service: Service, until: Callable[..., object]) -> None:
    box = service.box
    secret, check, start = commands_of("set-the-project-and-start")
    assert service.systemctl("start", check=False) != 0
    assert (service["ActiveState"], service["ExecMainStatus"], service["NRestarts"]) == ("failed", "78", "0")
    assert [entry for entry in service.journal("PRIORITY=3") if "there is no key" in entry["MESSAGE"]]

    box.run("systemd-run", "-q", "--unit=sandbox", "forwarder", "sandbox", "--port", str(PORT))
    until(lambda: "Sandbox ready" in box.run("journalctl", "-u", "sandbox").stdout, "sandbox")
    _set(box, service.config, WHAT_THE_PAGE_SAYS)
    _run(box, [secret], stdin="secret\n")
    assert "ok      Mixpanel: " in _run(box, [check])
    _run(box, [start])
    assert (service["ActiveState"], service["UnitFileState"]) == ("active", "enabled")


def _produce(box: Box) -> None:
    """A user in the group hands events over, from the shell and from Python; another may not."""
    one = ("forwarder", "enqueue", "-e", "Signed Up", "-d", "user-1")
    refused = box.run(*one, user="www-data", check=False)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (77, 1), refused.stderr
    _run(box, commands_of("permissions"))
    box.run(*one, user="www-data")
    python = ("env", "PYTHONPATH=/usr/lib/mixpanel-forwarder", "python3", "-c", PROGRAM)
    box.run(*python, user="www-data")
    _run(box, ["forwarder drain"])


def _add_another(box: Box) -> None:
    config = "/etc/forwarder/shop.toml"
    copy, secret, *rest = commands_of("several-queues")
    _run(box, [copy])
    _set(box, config, {**WHAT_THE_PAGE_SAYS, "path": "/var/lib/forwarder-shop"})
    _run(box, [secret], stdin="secret\n")
    _run(box, rest)
    box.run("forwarder", "--config", config, "enqueue", "-e", "Sold", "-d", "user-1", user="www-data")
    shop = Service(box, "forwarder@shop")
    shop.forwarder("drain")
    assert shop.figures["delivered"] == 1


def _reinstall(service: Service, until: Callable[..., object]) -> None:
    """What waits goes on waiting, and the daemon goes on."""
    before = service.pid
    service.forwarder("pause")
    service.enqueue("Left")
    _run(service.box, ["apt install ./dist/*.deb --reinstall"])
    until(lambda: service["ActiveState"] == "active" and service.pid not in (0, before), "restarted")
    assert service.figures["waiting"] == 1


def _remove(box: Box) -> None:
    """With an event that waits, the queue stays, for the next installation; with none, it goes."""
    said = _run(box, ["apt purge mixpanel-forwarder"])
    assert f"{QUEUE} holds 1 undelivered event and 0 dead letters" in said
    _run(box, ["apt install ./dist/*.deb"])
    _set(box, "/etc/forwarder/forwarder.toml", WHAT_THE_PAGE_SAYS)
    _run(box, [commands_of("set-the-project-and-start")[-1], "forwarder resume"])
    _run(box, commands_of("remove"))
    status = json.loads(box.run("forwarder", "status", "--json").stdout)
    assert (status["waiting"], status["delivered"], status["dead_letters"]) == (0, 3, 0)
    _run(box, ["apt purge mixpanel-forwarder"])
    left = box.run("sh", "-c", f"ls -d {QUEUE}* /usr/lib/mixpanel-forwarder /usr/bin/forwarder", check=False)
    assert left.stdout == ""
