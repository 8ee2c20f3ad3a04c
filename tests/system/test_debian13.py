"""The service on the next Debian, whose systemd and Python are newer; for `make release`, the package on
clean roots of both, by the documents' commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from box import booted, debian
from installed import PORT, Service, install
from source_copy import make
from walk import walk

# The first one waits for a root.
pytestmark = pytest.mark.timeout(400)
# Without an index, as what pip asks for has been fetched before.
BUILD = """
set -e
cd /srv/source
python3 -m venv .venv
export PIP_NO_INDEX=1 PIP_FIND_LINKS=/srv/source/wheels SOURCE_DATE_EPOCH=1700000000
.venv/bin/python -m pip install --quiet wheels/*.whl
debian/build-deb .venv/bin/python
"""


RELEASE = bool(os.environ.get("FORWARDER_RELEASE"))
# On a copy of this machine, test_debian_package goes the same way each time.
release_only = pytest.mark.skipif(not RELEASE, reason="takes minutes; make release has it")
# What the page says that the package is built with.
TO_BUILD = ("python3-venv", "binutils", "ca-certificates", "libpq5")
# What this machine's Python is linked to.
LINKED = ("libsqlite3-0", "libssl3t64", "libffi8", "libbz2-1.0", "liblzma5", "zlib1g", "libreadline8t64")


@pytest.fixture(scope="module")
def root():
    """The root of a Debian 13."""
    with debian("trixie", *LINKED, *(TO_BUILD if RELEASE else ())) as root:
        yield root


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The source with a wheel and the manual pages, made here, where there is an index of libraries."""
    return make("dist", tmp_path_factory.mktemp("source")).parent


def build(box, source):
    """Build the package in the box with its own Python, from the *source* and libraries fetched here."""
    (wheel,) = source.glob("dist/*.whl")
    version = box.run("python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])").stdout.strip()
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:"]
    fetch += ["--python-version", version, "--dest", source / "wheels", wheel, "psycopg"]
    done = subprocess.run(fetch, capture_output=True, text=True, timeout=200)
    if done.returncode:
        pytest.skip(f"the libraries for Python {version} can't be had: {done.stderr[-300:]}")
    (source / "wheels" / wheel.name).unlink()
    subprocess.run(["cp", "-r", source, box.root / "srv/source"], check=True, timeout=60)
    shutil.rmtree(source / "wheels")  # the next root may have another Python
    box.run("sh", "-c", BUILD, timeout_s=200)
    (found,) = (box.root / "srv/source/dist").glob("*.deb")
    return found


@pytest.fixture(scope="module")
def box(root):
    """A booted Debian 13 with the service installed."""
    with booted(root) as box:
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


def built_and_walked(root, source, until):
    """Build the package in a system of that root, and do what the page says, by the page's own commands."""
    with booted(root) as box:
        box.run("umount", "/usr/bin/forwarder")  # that of the checkout, which the box brings along
        walk(box, build(box, source), until)


@release_only
def test_the_package_from_installation_to_purge(root, source, until):
    """Built there, it does there what the page says."""
    built_and_walked(root, source, until)


@release_only
def test_the_package_on_a_clean_debian_12(source, until):
    """The same on the Debian before, with nothing else on it."""
    with debian("bookworm", *TO_BUILD) as root:
        built_and_walked(root, source, until)
