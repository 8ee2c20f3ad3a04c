"""The Debian package, in a throw-away copy of this machine: installed, at work, upgraded, removed, purged."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import distributions
from pathlib import Path

import pytest
from docutils import nodes
from docutils.core import publish_doctree

import forwarder

sys.path.insert(0, str(Path(__file__).parent))
from box import booted
from installed import Service
from source_copy import copy, made, run
from walk import walk

ROOT = Path(__file__).parents[2]
# The first one waits for the build, and for dpkg.
pytestmark = pytest.mark.timeout(300)
# In a mount namespace of its own, so that nothing of it stays behind.
HOLD = 'mount -t tmpfs -o mode=755 box "$1" && echo ready && exec cat'
# A root on top of others. The checkout is not to be seen.
ROOT_ON = """
set -e
mkdir "$1" "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" box "$1/root"
mount -t proc proc "$1/root/proc"
mount --bind /dev "$1/root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$1/root/tmp"
mount -t tmpfs tmpfs "$1/root$3"
mkdir -p "$1/root/packages"
mount --bind "$4" "$1/root/packages"
"""
QUEUE = "/var/lib/forwarder"
DOC = "/usr/share/doc/mixpanel-forwarder"
# Pages for those who change the program, and the parts of the source that only they have.
FOR_DEVELOPERS = {"CHANGELOG.rst", "CONTRIBUTING.rst", "docs/architecture.rst"}
IN_THE_SOURCE = {".venv", "benchmarks", "dist", "forwarder", "simulation", "tests"}
# What the pages tell a person to make, or the first event makes.
MADE_LATER = {
    "/etc/forwarder/queue-password",
    "/etc/forwarder/secret",
    "/etc/forwarder/shop.secret",
    "/etc/forwarder/shop.toml",
    "/etc/forwarder/token",
    "/etc/systemd/system/notify@.service",
    "/srv/queue",
    "/var/backups/forwarder.db",
    "/var/lib/forwarder-shop",
    "/var/lib/forwarder/data.db",
}
VERSION, DATE = forwarder.__version__, "2026-12-01"
EVENT = json.dumps({"event": "Installed", "properties": {"distinct_id": "u-1"}})


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built for this machine."""
    for needed in ("dpkg-deb", "strip"):
        if not shutil.which(needed):
            pytest.skip(f"{needed} is not on this machine")
    (found,) = made("deb", _dated(tmp_path_factory.mktemp("source"))).glob("*.deb")
    return found


def _dated(directory: Path) -> Path:
    """A copy of the source in which the version has the date of a release."""
    source = copy(directory)
    changes = source / "CHANGELOG.rst"
    version = rf"(?m)^({re.escape(VERSION)}) \(.*\)$"
    changes.write_text(re.sub(version, rf"\1 ({DATE})", changes.read_text()))
    return source


class Root:
    """A root directory of its own; what is done in it is gone afterwards.

    Attributes:
        place: The directory of its layer, in the namespace of process *holder*.
    """

    def __init__(self, holder: int, place: Path) -> None:
        self._holder = holder
        self.place = place

    def run(
        self, *command: str | Path, user: str = "", stdin: str = "", code: int = 0, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it as root or *user*; it must end with *code*."""
        become = ["runuser", "-u", user, "--"] if user else []
        enter = ["nsenter", f"--target={self._holder}", "--mount", "chroot", self.place / "root"]
        done = subprocess.run(
            [*map(str, enter), *become, *map(str, command)],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", **environ},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def has(self, path: str) -> bool:
        """Whether there is something at *path*."""
        return os.path.lexists(f"/proc/{self._holder}/root{self.place}/root{path}")


@pytest.fixture(scope="module")
def new_root(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Root]]:
    """Makes a root, on top of this machine's and of those given."""
    if os.geteuid() != 0:
        pytest.skip("only root can install a package")
    seen = subprocess.run(["/usr/bin/python3", "-V"], capture_output=True, text=True, timeout=60).stdout
    if f"Python 3.{sys.version_info.minor}." not in seen:
        pytest.skip(f"the package is for Python 3.{sys.version_info.minor}; this machine's own is {seen}")
    place = tmp_path_factory.mktemp("box")
    holder = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", HOLD, "sh", place],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout
    names = (f"{number}" for number in range(1000))

    def made(*below: Root) -> Root:
        root = Root(holder.pid, place / next(names))
        lower = ":".join([*(str(each.place / "upper") for each in below), "/"])
        done = subprocess.run(
            ["nsenter", f"--target={holder.pid}", "--mount", "sh", "-c", ROOT_ON, "sh"]
            + [str(each) for each in (root.place, lower, ROOT, package.parent)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode != 0:
            pytest.skip(f"no root of its own can be made on this machine: {done.stderr}")
        return root

    try:
        if holder.stdout.readline() != "ready\n":
            pytest.skip("this machine gives no mount namespace")
        yield made
    finally:
        # It ends with its input.
        holder.communicate(timeout=20)


@pytest.fixture(scope="module")
def first(new_root: Callable[..., Root], package: Path) -> Root:
    """A root with the package and two users, of whom one is in the group of producers."""
    root = new_root()
    # The index of all manual pages takes seconds at each step.
    root.run("rm", "-f", "/var/lib/man-db/auto-update")
    said = root.run("dpkg", "--install", f"/packages/{package.name}").stdout
    assert "set the project and its key" in said
    root.run("useradd", "--groups", "forwarder", "producer")
    root.run("useradd", "external")
    return root


@pytest.fixture
def installed(new_root: Callable[..., Root], first: Root) -> Root:
    """The same as `first`, for one test."""
    return new_root(first)


def _changed(package: Path, **fields: str) -> str:
    """Build a package that differs from *package* in fields of control; its path in the root."""
    tree = package.parent / "changed"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True, timeout=60)
    try:
        control = tree / "DEBIAN/control"
        for name, value in fields.items():
            control.write_text(re.sub(rf"(?m)^{name}: .*$", f"{name}: {value}", control.read_text()))
        made = package.parent / "changed.deb"
        subprocess.run(
            ["dpkg-deb", "-Znone", "--build", tree, made], check=True, timeout=60, capture_output=True
        )
    finally:
        shutil.rmtree(tree)
    return f"/packages/{made.name}"


def test_what_is_installed_does_the_main_job(installed: Root, server, tmp_path: Path) -> None:
    """A member of the group enqueues, the daemon's user delivers, nobody else may look."""
    reach = {"FORWARDER_MIXPANEL_URL": server.url, "FORWARDER_MIXPANEL_TOKEN": "sandbox-token"}
    # Neither a module in the working directory nor one in the environment gets in the way.
    installed.run("sh", "-c", "echo 1/0 | tee /tmp/json.py >/tmp/click.py")
    call = ("env", "-C", "/tmp", "forwarder")
    said = installed.run(*call, "enqueue", user="producer", stdin=EVENT, PYTHONPATH="/tmp").stdout
    assert said == "accepted 1 event\n"
    installed.run("forwarder", "status", user="external", code=77)
    installed.run("forwarder", "enqueue", user="external", stdin=EVENT, code=77)
    installed.run("forwarder", "drain", "--timeout", "30", user="forwarder", **reach)
    assert [json.loads(entry.data)["event"] for entry in server.ledger.events.values()] == ["Installed"]
    found = json.loads(installed.run("forwarder", "status", "--json", user="producer").stdout)
    assert (found["queue_path"], found["delivered"], found["waiting"]) == (QUEUE, 1, 0)


def test_the_demonstration_works_where_it_is_installed(installed: Root) -> None:
    """The processes that it starts find the libraries, which Python's own path does not have."""
    installed.run("forwarder", "demo", user="external")


def test_each_part_is_where_the_machine_looks_for_it(installed: Root, package: Path) -> None:
    """Units, user, directory, manual pages and completion; the version is the same everywhere."""
    version = installed.run("forwarder", "--version").stdout.split()[-1]
    assert f"_{version}-1_" in package.name
    shown = installed.run("dpkg-query", "--show", "--showformat=${Version}", "mixpanel-forwarder").stdout
    assert shown == f"{version}-1"
    for unit in (ROOT / "systemd").glob("*.service"):
        assert installed.has(f"/usr/lib/systemd/system/{unit.name}")
    assert installed.run("stat", "-c", "%a %U %G", QUEUE).stdout == "2770 forwarder forwarder\n"
    assert (
        installed.run("stat", "-c", "%a %U %G", "/etc/forwarder/forwarder.toml").stdout == "644 root root\n"
    )
    for page in ("1 forwarder", "5 forwarder.toml", "1 forwarder-enqueue", "1 forwarder-dead-letters"):
        assert installed.run("man", "-w", *page.split()).stdout.startswith("/usr/share/man/")
    script = ". /usr/share/bash-completion/completions/forwarder; complete -p forwarder"
    assert "-F" in installed.run("bash", "-c", script).stdout
    assert installed.has("/usr/share/zsh/vendor-completions/_forwarder")
    assert installed.has("/usr/share/fish/vendor_completions.d/forwarder.fish")
    assert installed.run("dpkg", "--verify", "mixpanel-forwarder").stdout == ""
    # Who can't write there would compile everything again at each start.
    assert installed.has("/usr/lib/mixpanel-forwarder/forwarder/cli/demo/__pycache__")
    # Roots of trust are kept up to date by the machine.
    bundle = "/usr/lib/mixpanel-forwarder/certifi/cacert.pem"
    assert installed.run("realpath", bundle).stdout == "/etc/ssl/certs/ca-certificates.crt\n"


def test_a_queue_on_a_server_is_understood(installed: Root) -> None:
    """psycopg comes along, and takes the machine's libpq: it looks for the server that is not there."""
    done = installed.run("forwarder", "status", code=75, FORWARDER_QUEUE_URL="postgresql://x@127.0.0.1:1/x")
    assert "Connection refused" in done.stderr


def test_the_documents_come_along(package: Path) -> None:
    """The package has all pages, where the message that follows an installation says."""
    names = subprocess.run(
        ["dpkg-deb", "--contents", package], capture_output=True, text=True, check=True
    ).stdout
    pages = ["README.rst", "CONTRIBUTING.rst", "SECURITY.rst"]
    pages += [f"docs/{page.name}" for page in (ROOT / "docs").glob("*.rst")]
    assert [page for page in pages if f"{DOC}/{page}.gz\n" not in names] == []
    said = (ROOT / "debian/postinst").read_text()
    assert '"/usr/share/doc/mixpanel-forwarder/docs/install.rst.gz."' in said


def test_the_bill_of_materials_is_of_what_is_packed(package: Path, tmp_path: Path) -> None:
    """Each library in the package and no other, with the version and licence of its own metadata, and the
    hash that the package index has of its wheel."""
    unpack = ["dpkg-deb", "--extract", package, tmp_path / "root"]
    subprocess.run(unpack, check=True, timeout=60)
    inside = tmp_path / f"root{DOC}/sbom.cdx.json"
    assert inside.read_bytes() == package.with_suffix(".cdx.json").read_bytes()
    bill = json.loads(inside.read_text())
    product = bill["metadata"]["component"]
    fields = subprocess.run(
        ["dpkg-deb", "--show", package], capture_output=True, text=True, timeout=60
    ).stdout
    assert fields.split() == [product["name"], product["version"]]

    libraries = tmp_path / "root/usr/lib/mixpanel-forwarder"
    packed = list(distributions(path=[str(libraries)]))
    product["version"] = VERSION
    named = {each["name"]: each for each in (product, *bill["components"])}
    assert {name: each["version"] for name, each in named.items()} == {
        each.metadata["Name"]: each.version for each in packed
    }
    for each in packed:
        (licence,) = named[each.metadata["Name"]]["licenses"]
        name = licence.get("expression") or licence["license"]["name"]
        assert f": {name}\n" in str(each.read_text("METADATA"))

    fetch = [
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        tmp_path / "wheels",
    ]
    pinned = [f"{name}=={each['version']}" for name, each in named.items() if each is not product]
    subprocess.run([sys.executable, "-m", *fetch, *pinned], check=True, timeout=100)
    wheels = [*(tmp_path / "wheels").iterdir(), *package.parent.glob("*.whl")]
    hashes = {hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels}
    assert {each["hashes"][0]["content"] for each in named.values()} == hashes
    known = {name for wheel in wheels for name in zipfile.ZipFile(wheel).namelist()}
    files = {str(path.relative_to(libraries)) for path in libraries.rglob("*") if not path.is_dir()}
    assert files - known == set()


def _named_paths(page: str) -> set[str]:
    """The paths that a page names or links to; those of the source as they are called there."""
    tree = publish_doctree((ROOT / page).read_text(), settings_overrides={"report_level": 5})
    for section in list(tree.findall(nodes.section)):
        if "from-a-clone" in section["ids"]:
            section.parent.remove(section)
    links = [str(node.get("refuri", "")).partition("#")[0] for node in tree.findall(nodes.reference)]
    found = {os.path.normpath(os.path.join(os.path.dirname(page), link)) for link in links if ":" not in link}
    text = "\n".join(
        [
            *(" ".join(node.astext().split()) for node in tree.findall(nodes.literal)),
            *(node.astext() for node in tree.findall(nodes.literal_block)),
        ]
    )
    found |= set(re.findall(r"(?<![\w.~$/-])/(?:etc|opt|srv|usr|var)/[\w./@-]*\w", text))
    inside = {path.name for path in ROOT.iterdir()}
    named = re.findall(r"(?<![\w.~$/-])([\w.-]+)((?:/[\w.-]+)+)", text)
    return found - {"."} | {first + rest for first, rest in named if first in inside}


def test_what_the_documents_name_is_on_a_host_with_the_package(installed: Root) -> None:
    """Each path in a page for users leads somewhere: at its place, or as in the source beside the pages."""
    pages = {"README.rst", "SECURITY.rst", *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.rst"))}
    named = set().union(*map(_named_paths, pages - FOR_DEVELOPERS))
    named = {path for path in named if path.split("/")[0] not in IN_THE_SOURCE}
    assert {
        "etc/prometheus-rules.yml",
        "LICENSE",
        "docs/operate.rst",
        "/etc/forwarder/forwarder.toml",
    } <= named
    places = {path: path if path.startswith("/") else f"{DOC}/{path}" for path in named}
    missing = {path for path, at in places.items() if not installed.has(at) and not installed.has(f"{at}.gz")}
    assert missing == MADE_LATER
    # Links within the package lead to what is there.
    installed.run("find", "-L", DOC, "-type", "l", "-exec", "false", "{}", "+")
    assert "MIT" in installed.run("cat", f"{DOC}/LICENSE").stdout


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs git in the source, which is all committed on branch main below *tmp_path*; returns the output."""
    if not shutil.which("git"):
        pytest.skip("git is not on this machine")
    for person in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{person}_NAME", "Somebody")
        monkeypatch.setenv(f"GIT_{person}_EMAIL", "somebody@example.invalid")
    monkeypatch.setenv("RELEASE_TESTS", "tests/unit/test_text.py")
    source = _dated(tmp_path)
    (source / ".gitignore").write_text("__pycache__/\n.*_cache/\ndist/\n")

    def run_git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(
            command, cwd=source, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    run_git("init", "--quiet", "--initial-branch=main")
    run_git("add", ".")
    run_git("commit", "--quiet", "--message", "All")
    return run_git


def test_what_is_not_ready_is_not_released(git: Callable[..., str], tmp_path: Path) -> None:
    """What is not committed, another branch, a version without a date, one that is tagged, a failing test."""
    source = tmp_path / "source"

    def refused() -> str:
        done = run("release", source)
        assert done.returncode != 0
        return done.stderr

    (source / "README.rst").write_text("Other\n")
    assert "there is what is not committed" in refused()
    git("checkout", "--quiet", "README.rst")
    git("switch", "--quiet", "--create", "other")
    assert "this is not branch main" in refused()
    git("branch", "--quiet", "--move", "--force", "main")
    changes = source / "CHANGELOG.rst"
    changes.write_text(changes.read_text().replace(DATE, "unreleased"))
    git("commit", "--quiet", "--all", "--message", "No date")
    assert f"CHANGELOG.rst has no section '{VERSION} (YYYY-MM-DD)'" in refused()
    git("reset", "--quiet", "--hard", "HEAD~1")
    git("rm", "--quiet", "tests/unit/test_text.py")
    git("commit", "--quiet", "--message", "No test")
    assert "tests of the packages fail" in refused()
    assert git("tag") == ""
    assert not (source / "dist").exists()
    git("tag", f"v{VERSION}")
    assert f"tag v{VERSION} exists" in refused()


@pytest.mark.skipif(not os.environ.get("FORWARDER_RELEASE"), reason="builds all again; make release has it")
def test_a_release_is_built_the_same_and_tagged(
    package: Path, git: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the same source in another place, later and with other modes, it is the same byte for byte."""
    # The date of the other one.
    at = int((package.parents[1] / "CHANGELOG.rst").stat().st_mtime)
    monkeypatch.setenv("GIT_COMMITTER_DATE", f"{at} +0000")
    git("commit", "--quiet", "--amend", "--no-edit")
    done = run("release", tmp_path / "source")
    assert done.returncode == 0, done.stderr[-3000:]
    built = {path.name: path.read_bytes() for path in (tmp_path / "source/dist").iterdir()}
    sums = built.pop("SHA256SUMS").decode()
    assert {path.suffix for path in map(Path, built)} == {".deb", ".gz", ".json", ".whl"}
    for path in package.parent.iterdir():
        assert built[path.name] == path.read_bytes(), path.name
        assert f"{hashlib.sha256(built[path.name]).hexdigest()}  {path.name}\n" in sums
    assert git("cat-file", "-t", f"v{VERSION}") == "tag\n"
    assert git("rev-parse", f"v{VERSION}^{{commit}}") == git("rev-parse", "HEAD")


def test_a_build_without_strip_says_how_to_get_it(tmp_path: Path) -> None:
    """On a small Debian, which lacks it, the package that has it is named."""
    dirname = shutil.which("dirname")
    assert dirname
    (tmp_path / "dirname").symlink_to(dirname)
    done = subprocess.run(
        ["/bin/bash", ROOT / "debian/build-deb", sys.executable],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "apt install binutils" in done.stderr


@pytest.mark.skipif(not os.environ.get("FORWARDER_RELEASE"), reason="takes long; make release has it")
def test_lintian_finds_no_error(package: Path) -> None:
    """Debian's own examination of packages complains of nothing that it calls an error."""
    if not shutil.which("lintian"):
        pytest.skip("lintian is not on this machine")
    done = subprocess.run(
        ["lintian", "--fail-on", "error", package], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout


def test_an_upgrade_keeps_settings_and_events(installed: Root, package: Path) -> None:
    """A settings file that somebody has changed stays as it is, and what waits goes on waiting."""
    installed.run("sed", "-i", "s/^#linger_s = .*/linger_s = 7/", "/etc/forwarder/forwarder.toml")
    installed.run("forwarder", "enqueue", user="producer", stdin=EVENT)
    newer = _changed(package, Version="99-1")
    said = installed.run("dpkg", "--install", newer).stdout
    assert "set the project" not in said
    assert installed.run("forwarder", "config", "show", "delivery.linger_s").stdout.count("linger_s = 7") == 1
    assert installed.run("forwarder", "peek", user="producer").stdout.count("Installed") == 1


def test_another_python_is_refused(installed: Root, package: Path) -> None:
    """What is compiled for one minor version of Python is not installed beside another."""
    depends = subprocess.run(
        ["dpkg-deb", "--field", package, "Depends"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    this = f"3.{sys.version_info.minor + 1}~"
    assert f"python3 (<< {this})" in depends
    later = depends.strip().replace("python3 (>= 3.", "python3 (>= 4.")
    installed.run("dpkg", "--purge", "mixpanel-forwarder")
    installed.run("dpkg", "--install", _changed(package, Depends=later), code=1)


def _bury(root: Root) -> None:
    columns = "event_id, data, event, insert_id, reason, field, accepted_at, dead_at"
    statement = f"INSERT INTO dead_letters ({columns}) VALUES (0, '{{}}', 'E', '', 'r', '', 0, 0)"
    root.run("forwarder", "pause")
    script = f"import sqlite3; c = sqlite3.connect('{QUEUE}/data.db'); c.execute(\"{statement}\"); c.commit()"
    root.run("/usr/bin/python3", "-c", script)


def _enqueue(root: Root) -> None:
    root.run("forwarder", "enqueue", user="producer", stdin=EVENT)


def _hold(root: Root) -> None:
    _enqueue(root)
    root.run("forwarder", "waiting", "hold", "--all")
    _enqueue(root)


def _set_aside(root: Root) -> None:
    root.run("forwarder", "pause")
    root.run("mkdir", f"{QUEUE}/damaged-2026")


def _spoil(root: Root) -> None:
    root.run("sh", "-c", f"echo no database >{QUEUE}/data.db")


def _lose_content(root: Root) -> None:
    root.run("sh", "-c", f"echo log >{QUEUE}/data.db-wal; : >{QUEUE}/data.db")


@pytest.mark.parametrize(
    ("fill", "what"),
    [
        (_enqueue, f"{QUEUE} holds 1 undelivered event and 0 dead letters"),
        (_hold, f"{QUEUE} holds 2 undelivered events and 0 dead letters"),
        (_bury, f"{QUEUE} holds 0 undelivered events and 1 dead letter"),
        (_set_aside, f"there is more than a queue in {QUEUE}: damaged-2026"),
        (_spoil, "can't be told"),
        (_lose_content, "lost its content"),
    ],
)
def test_a_purge_keeps_what_somebody_could_miss(
    installed: Root, fill: Callable[[Root], None], what: str
) -> None:
    """Removing and purging the package deletes no event that is not delivered, and says what it leaves."""
    fill(installed)
    before = installed.run("sh", "-c", f"cd {QUEUE} && ls && cat data.db | sha256sum").stdout
    installed.run("dpkg", "--remove", "mixpanel-forwarder")
    assert not installed.has("/usr/bin/forwarder")
    assert not installed.has("/usr/lib/mixpanel-forwarder")
    assert installed.has("/etc/forwarder/forwarder.toml")
    done = installed.run("dpkg", "--purge", "mixpanel-forwarder")
    assert what in done.stdout + done.stderr
    assert f"rm -r {QUEUE}" in done.stdout
    after = installed.run("sh", "-c", f"cd {QUEUE} && ls && cat data.db | sha256sum").stdout
    assert set(after.split()) >= set(before.split()) - {"data.db-shm", "data.db-wal"}
    assert not installed.has("/etc/forwarder")


def test_after_a_purge_an_installation_takes_up_what_was_left(installed: Root, package: Path) -> None:
    """Events that a purge has kept wait for the next installation."""
    _enqueue(installed)
    installed.run("dpkg", "--purge", "mixpanel-forwarder")
    installed.run("dpkg", "--install", f"/packages/{package.name}")
    assert installed.run("forwarder", "peek", user="producer").stdout.count("Installed") == 1


def test_a_purge_without_events_leaves_nothing(installed: Root, server) -> None:
    """A queue in which nothing waits, and nothing is dead, goes with the package."""
    installed.run("forwarder", "enqueue", "-e", "Installed", user="producer")
    assert installed.has(f"{QUEUE}/settings.faultless")
    reach = {"FORWARDER_MIXPANEL_URL": server.url, "FORWARDER_MIXPANEL_TOKEN": "sandbox-token"}
    installed.run("forwarder", "drain", "--timeout", "30", user="forwarder", **reach)
    installed.run("dpkg", "--purge", "mixpanel-forwarder")
    left = [QUEUE, "/etc/forwarder", "/usr/lib/mixpanel-forwarder", "/usr/bin/forwarder"]
    assert [path for path in left if installed.has(path)] == []


def test_a_running_daemon_is_restarted_by_an_upgrade_and_stopped_by_a_removal(
    new_root: Callable[..., Root], package: Path, until: Callable[..., object]
) -> None:
    """With a real systemd: what runs goes on with the new version, and does not outlive the package."""
    new_root()  # skips where the package can't be installed at all
    _changed(package, Version="99.0-1")
    with booted() as box:
        for name in (package.name, "changed.deb"):
            shutil.copy(package.parent / name, box.root / "srv" / name)
        box.run("rm", "-f", "/var/lib/man-db/auto-update")
        box.run("umount", "/usr/bin/forwarder")  # that of the checkout, which the box brings along
        box.run("dpkg", "--install", f"/srv/{package.name}")
        service = Service(box)
        service.prepare()
        assert service["ActiveState"] == "inactive", "it is not started before it has a key"
        service.systemctl("start")
        before = service.pid

        box.run("dpkg", "--install", "/srv/changed.deb")
        until(lambda: service["ActiveState"] == "active" and service.pid not in (0, before), "restarted")

        # With settings that would end it, it is left as it is.
        before = service.pid
        service.configure("[queue]\n")
        done = box.run("dpkg", "--install", "/srv/changed.deb")
        assert "FAIL" in done.stderr
        assert "forwarder.service goes on with the version before" in done.stderr
        assert (service["ActiveState"], service.pid) == ("active", before)

        box.run("dpkg", "--remove", "mixpanel-forwarder")
        assert service["ActiveState"] == "inactive"
        assert box.run("pgrep", "-f", "forwarder run", check=False).stdout == ""


def test_the_way_of_an_operator(
    new_root: Callable[..., Root], package: Path, until: Callable[..., object]
) -> None:
    """From the installation to the purge, by the page's commands; `make release` has it on clean systems."""
    new_root()  # skips where the package can't be installed at all
    with booted() as box:
        box.run("umount", "/usr/bin/forwarder")  # that of the checkout, which the box brings along
        walk(box, package, until)
