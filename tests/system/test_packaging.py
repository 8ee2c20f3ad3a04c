"""What is built from the source: complete, nothing too much, and at work away from the checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path
from typing import Any

import pytest

import forwarder as forwarder_package
from forwarder.cli.root import COMMANDS

sys.path.insert(0, str(Path(__file__).parent))
from source_copy import made, make

ROOT = Path(__file__).parents[2]
# No tests, no benchmarks: what this wheel has put there, and the test's own path to the dependencies.
INSTALLED = {"forwarder", f"mixpanel_forwarder-{forwarder_package.__version__}.dist-info", "dependencies.pth"}


def _run(*arguments: str | Path, cwd: Path, **options: Any) -> str:
    done = subprocess.run(
        [*map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=100, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist, and the wheel that was built from that sdist."""
    return make("dist", tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    """The wheel."""
    (found,) = built.glob("*.whl")
    return found


def test_the_sdist_holds_all_that_the_repository_is_for(built: Path) -> None:
    """From the sdist alone one can read, test, install and run the forwarder."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {"README.rst", "CHANGELOG.rst", "LICENSE", "Makefile", "ruff.toml", "setup.cfg", "setup.py"}
    expected |= {".ci/run", "etc/forwarder.toml", "benchmarks/__main__.py", "forwarder/py.typed"}
    expected |= {"etc/prometheus-rules.yml", "etc/grafana-dashboard.json"}
    expected |= {f"systemd/forwarder.{end}" for end in ("service", "sysusers.conf", "tmpfiles.conf")}
    expected |= {"CONTRIBUTING.rst", "SECURITY.rst", ".editorconfig", ".pre-commit-config.yaml"}
    expected |= {"man/forwarder.1", "man/forwarder.toml.5", *(f"man/forwarder-{name}.1" for name in COMMANDS)}
    folders = [ROOT / name for name in ("debian", "docs", "etc", "man", "systemd", "tests")]
    files = {path for folder in folders for path in folder.rglob("*") if path.is_file()}
    expected |= {str(path.relative_to(ROOT)) for path in files if path.suffix != ".pyc"}
    assert expected - names == set()
    assert [name for name in names if "__pycache__" in name or name.endswith(".pyc")] == []


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """Every module of the product is in the wheel, with the mark that it is typed, and the files of the web
    page; no test, no benchmark."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "forwarder").rglob("*.py")}
    inside = {name for name in names if ".dist-info/" not in name}
    page = {f"forwarder/service/page.{kind}" for kind in ("css", "js")}
    assert inside == modules | page | {"forwarder/py.typed"}


def test_the_sdist_makes_the_same_again(built: Path, tmp_path: Path) -> None:
    """In another place, later and for another user: nothing stays behind that the product or the sdist itself
    needs, and nothing that is built depends on the moment."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.glob("mixpanel*")
    _run("chmod", "-R", "go-rwx", source, cwd=tmp_path)
    again = made("dist", source)
    names = sorted(path.name for path in built.iterdir())
    assert [path.name for path in sorted(again.iterdir())] == names
    assert [name for name in names if (again / name).read_bytes() != (built / name).read_bytes()] == []


def test_the_version_is_the_same_everywhere(built: Path, wheel: Path) -> None:
    """The sdist, the wheel, its description, the manual page and the newest entry of the changes agree."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        version = message_from_string(archive.read(name).decode())["Version"]
    assert version == forwarder_package.__version__
    assert {path.name for path in built.glob(f"*-{version}[-.]*")} == {path.name for path in built.iterdir()}
    page = (built.parent / "man/forwarder.1").read_text().partition("\n")[0]
    assert page.endswith(f' "mixpanel\\-forwarder {version}"')
    assert re.search(r"^(\d\S*) \(", (ROOT / "CHANGELOG.rst").read_text(), re.MULTILINE)[1] == version


def test_the_description_is_the_readme_and_can_be_rendered(wheel: Path) -> None:
    """A package index is given the README as reStructuredText without a fault in it, and the licence."""
    from docutils.core import publish_string

    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_string(archive.read(name).decode())
        assert name.replace("METADATA", "licenses/LICENSE") in archive.namelist()
    assert metadata["Description-Content-Type"] == "text/x-rst"
    description = metadata.get_payload()
    assert description.strip() == (ROOT / "README.rst").read_text().strip()
    # As a package index does: no file is included, no raw HTML is let through, and any warning is an error.
    strictly = {"file_insertion_enabled": False, "raw_enabled": False, "halt_level": 2, "report_level": 2}
    page = publish_string(description, writer="html5", settings_overrides=strictly).decode()
    assert "<h2>" in page


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """The ``bin`` of an environment with this wheel, which sees the dependencies of the one that tests."""
    _run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=tmp_path)
    python = tmp_path / "venv/bin/python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    _run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    here = _run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    # Only a path: the .pth file in there that leads to the checkout is not read.
    (Path(here) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def test_an_installed_wheel_works_away_from_the_checkout(
    installed: Path, wheel: Path, forwarder: Any, server: Any, tmp_path: Path
) -> None:
    """What the wheel installs says its version, takes events in and delivers them, from any directory."""
    empty = tmp_path / "elsewhere"
    empty.mkdir()
    environ = {name: value for name, value in forwarder.environ.items() if name != "PYTHONPATH"}

    def run(*arguments: str | Path, **options: Any) -> str:
        return _run(*arguments, cwd=empty, env=environ, **options)

    origin = run(installed / "python", "-c", "import forwarder; print(forwarder.__file__)").strip()
    assert Path(origin).is_relative_to(installed.parent)
    # Programs that are checked by mypy see the types of what is installed.
    assert (Path(origin).parent / "py.typed").exists()
    assert {path.name for path in Path(origin).parents[1].glob("[!_]*")} == INSTALLED
    command = installed / "forwarder"
    assert f"-{run(command, '--version').split()[-1]}-" in wheel.name
    event = json.dumps({"event": "Installed", "properties": {"distinct_id": "u-1"}})
    assert run(command, "enqueue", input=event) == "accepted 1 event\n"
    run(command, "drain", "--timeout", "30")
    assert [json.loads(entry.data)["event"] for entry in server.ledger.events.values()] == ["Installed"]


@pytest.mark.skipif(not os.environ.get("FORWARDER_RELEASE"), reason="takes minutes; make release has it")
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_on_each_python(version: str, wheel: Path, forwarder: Any, server: Any, tmp_path: Path) -> None:
    """Installed with the libraries that the index has for it, it takes an event in and delivers it."""
    ready = f"import sys, venv, ensurepip; assert sys.version.startswith('{version}.')"
    if subprocess.run(["sh", "-c", f'python{version} -c "{ready}"'], capture_output=True).returncode:
        pytest.skip(f"no Python {version} that makes environments is on this machine")
    _run(f"python{version}", "-m", "venv", "venv", cwd=tmp_path)
    _run("venv/bin/python", "-m", "pip", "install", "--quiet", "--only-binary", ":all:", wheel, cwd=tmp_path)
    environ = {name: value for name, value in forwarder.environ.items() if name != "PYTHONPATH"}
    command = tmp_path / "venv/bin/forwarder"
    _run(command, "enqueue", "-e", "Installed", "-d", "u-1", cwd=tmp_path, env=environ)
    _run(command, "drain", "--timeout", "30", cwd=tmp_path, env=environ)
    assert len(server.ledger.events) == 1
