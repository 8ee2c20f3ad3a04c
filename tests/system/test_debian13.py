"""The service on the next Debian, whose systemd is five years newer: by the documents' commands, too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from box import booted, debian
from installed import PORT, Service, install


@pytest.fixture(scope="module")
def box():
    """A booted Debian 13 with the service installed."""
    with debian("trixie") as root, booted(root) as box:
        # The Python is this machine's.
        box.write("/etc/ld.so.conf.d/python.conf", "/opt/forwarder/python/lib\n")
        box.run("ldconfig")
        install(box)
        yield box


@pytest.fixture
def service(box):
    """The plain service, not started, with settings and key, and an empty queue."""
    return Service.renewed(box)


def test_it_starts_reloads_and_delivers(service, until):
    """Started, reloaded with new settings, refused with wrong ones, stopped: as on the Debian before."""
    assert "13" in service.box.run("cat", "/etc/debian_version").stdout
    service.start_server(port=PORT + 1)
    service.systemctl("start")
    service.enqueue("A")
    service.configure(port=PORT + 1)

    service.systemctl("reload")

    until(lambda: service.figures["delivered"] == 1)
    service.configure("[delivery]\nlinger = 3\n", port=PORT + 1)
    assert service.systemctl("reload", check=False) != 0
    service.configure(port=PORT + 1)
    service.enqueue("B")
    until(lambda: service.figures["delivered"] == 2)
    service.systemctl("stop")
    assert service["Result"] == "success"


def test_without_a_key_it_fails_once(service):
    """A first start without a key ends in `failed`, once, with the sentence in the journal."""
    service.box.run("rm", service.key)

    assert service.systemctl("start", check=False) != 0

    assert (service["ActiveState"], service["ExecMainStatus"], service["NRestarts"]) == ("failed", "78", "0")
    assert [entry for entry in service.journal("PRIORITY=3") if "there is no key" in entry["MESSAGE"]]
