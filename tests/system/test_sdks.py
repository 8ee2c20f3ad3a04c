"""Mixpanel's own SDKs, from their registries, through the intake and the daemon to Mixpanel's stand-in.

What an SDK was told is accepted is in the queue or a dead letter, by content, and then at Mixpanel; what it
was refused is in neither. The books of all kinds are in order at the end.
"""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from forwarder import spool
from forwarder.records import KINDS
from forwarder.sandbox import Sandbox
from tests.conftest import Forwarder
from tests.integration.intake_client import TOKEN, Intake, dead, waiting
from tests.system.sdks.browser import Pages
from tests.system.sdks.registries import Registries

CLIENTS = Path(__file__).parent / "sdks"
# With text whose base64 has a +, whose JSON has escapes, and whose form needs encoding.
HARD = {"text": ">>>???~~~ \u00fb\u00ff\u00fe &=+% \U0001f680", "number": 1.5, "deep": {"a": [1, None]}}
USER = {**HARD, "plan": "pro", "n": 5, "list": ["a"], "tags": ["x", "y", "z"]}
ACME = {**HARD, "size": 5, "tags": ["x"]}
MANY = {f"e{number}": HARD | {"at": number} for number in range(119)}


@pytest.fixture(scope="session")
def registries(tmp_path_factory):
    """One for the session: all of these tests run in one worker."""
    return Registries(tmp_path_factory.mktemp("sdks"))


class Way:
    """From the intake to Mixpanel's stand-in, with a queue between them."""

    def __init__(self, queue_path, sandbox, until, oracle, **environ):
        self.queue_path, self.sandbox = queue_path, sandbox
        self._until, self._oracle = until, oracle
        self.intake = Intake(queue_path, **environ)
        self.intake.start()
        self.forwarder = Forwarder(queue_path, sandbox.url)
        self.forwarder.environ |= {"FORWARDER_MIXPANEL_TOKEN": TOKEN, **environ}

    def has(self, events, nameless=0, repeated=()):
        """The queue has these events and no other, by name and properties, all of the user "user", each with
        a time and an ``$insert_id`` of its own; *nameless* ones are dead letters. Those *repeated* by the SDK
        may be there more than once, with the same ``$insert_id``."""
        rows = waiting(self.queue_path)
        found = {each["properties"]["$insert_id"]: each for each in rows}
        assert sorted(each["event"] for each in found.values()) == sorted(events)
        for each in found.values():
            properties = each["properties"]
            given = {"distinct_id": "user", "token": TOKEN, **events[each["event"]]}
            assert {key: properties.get(key) for key in given} == given
            assert isinstance(properties["time"], int)
        assert [each for each in rows if rows.count(each) > 1 and each["event"] not in repeated] == []
        assert [json.loads(data).get("event") for data, _ in dead(self.queue_path)] == [None] * nameless

    def arrives(self, refused=()):
        """All that waits is delivered, once and unchanged; events with the names in *refused* become dead
        letters. Updates are applied. The books are in order."""
        offered = [*waiting_bytes(self.queue_path), *(data for data, _ in dead(self.queue_path))]
        updates = {kind: waiting(self.queue_path, kind) for kind in ("profile", "group")}
        at_first = len(dead(self.queue_path))
        self.forwarder.daemon()
        for kind in KINDS:
            self._until(lambda kind=kind: figures(self.queue_path, kind).waiting == 0, f"no {kind} waits")
        self._oracle(self.queue_path, self.sandbox, offered)
        assert sorted(json.loads(data)["event"] for data, _ in dead(self.queue_path)[at_first:]) == sorted(
            refused
        )
        for kind, profiles in (("profile", self.sandbox.users), ("group", self.sandbox.groups)):
            assert sorted(map(json.dumps, updates[kind])) == sorted(
                json.dumps(json.loads(data)) for data in profiles.updates
            )
            assert dead(self.queue_path, kind) == []
            found = figures(self.queue_path, kind)
            assert (found.accepted, found.delivered) == (len(updates[kind]), len(updates[kind]))
        done = self.forwarder("check")
        assert done.returncode == 0, done.stdout

    @property
    def profiles(self):
        return self.sandbox.users.profiles

    @property
    def groups(self):
        return self.sandbox.groups.profiles

    def close(self):
        self.forwarder.close()
        self.intake.close()


def waiting_bytes(queue_path):
    with spool.at(queue_path, KINDS["event"]).view() as view:
        return [each.data for each in view.peek(10_000)]


def figures(queue_path, kind):
    with spool.at(queue_path, KINDS[kind]).view() as view:
        assert [finding for finding in view.check() if not finding.ok] == []
        return view.figures()


@pytest.fixture
def make(queue_path, until, oracle):
    """Make a way whose processes have settings of their own."""
    made = []
    with Sandbox(token=TOKEN) as sandbox:

        def way(**environ):
            environ = {f"FORWARDER_{name}": value for name, value in environ.items()}
            made.append(Way(queue_path, sandbox, until, oracle, **environ))
            return made[-1]

        yield way
        for each in made:
            each.close()


@pytest.fixture
def way(make):
    return make()


def program(name):
    """Where a program is; skips the test if it isn't."""
    return shutil.which(name) or pytest.skip(f"{name} is not on this machine")


def run(*command, stdin=b"", cwd=None, **environ):
    """Run a client without the proxies of this machine; returns its output."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(cwd or ""), **environ}
    done = subprocess.run(command, input=stdin, env=environ, cwd=cwd, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return done.stdout


def accepted(said):
    """The calls that an SDK was told are accepted; the others are those that must be."""
    refused = {name: error for name, error in said.items() if name.startswith("refused")}
    assert all(refused.values()), refused
    wrong = {name: error for name, error in said.items() if name not in refused and error}
    assert wrong == {}


@pytest.mark.parametrize("version", ["4.3.2", "4.11.1", "5.4.1"])
def test_each_version_for_python(registries, way, version):
    """Each of its calls, by the plain and the buffered consumer."""
    place = registries.package("pip", f"mixpanel=={version}")
    # -S: nothing from this environment.
    command = (sys.executable, "-S", CLIENTS / "calls.py", way.intake.url, TOKEN, json.dumps(HARD))
    said = json.loads(run(*command, PYTHONPATH=str(place)))
    assert said.pop("version") == version
    accepted(said)
    by_account = {"Imported by account": HARD} if version == "5.4.1" else {}
    way.has({"Tracked": HARD, "Imported": HARD, **MANY, **by_account}, nameless=1)
    way.arrives()
    assert way.profiles == {("user",): USER}
    assert way.groups == ({} if version == "4.3.2" else {("company", "acme"): ACME})


@pytest.mark.parametrize("version", ["0.18.1", "0.24.0"])
def test_each_version_for_node(registries, way, version):
    """Single calls come as GET, batches as raw base64 in a form, whose + are not encoded."""
    node = program("node")
    place = registries.package("npm", f"mixpanel@{version}")
    command = (node, CLIENTS / "calls.js", way.intake.url, TOKEN, json.dumps(HARD))
    said = json.loads(run(*command, NODE_PATH=str(place / "node_modules")))
    assert (said.pop("version"), said.pop("plus")) == (version, True)
    accepted(said)
    way.has({"Tracked": HARD, "Verbose": HARD, "Imported": HARD, **MANY}, nameless=1)
    way.arrives()
    assert way.profiles == {("user",): USER}
    assert way.groups == {("company", "acme"): ACME}


# Browsers


HTML = "text/html; charset=utf-8"
LEFT = b"<script>fetch('/told', {method: 'POST', body: sessionStorage.said})</script>"


@pytest.fixture
def page(make, registries, tmp_path):
    """A page that uses the SDK; opens it in a browser. *is_named*: its origin is one of those that may."""
    sdk = registries.package("npm", "mixpanel-browser@2.83.0") / "node_modules/mixpanel-browser/dist"
    files = {
        "/left.html": (HTML, LEFT),
        "/sdk.js": ("text/javascript", (sdk / "mixpanel.umd.js").read_bytes()),
    }
    with Pages(files) as pages:

        def visit(until, *, is_named):
            way = make(INTAKE_ORIGINS=pages.url if is_named else "")
            values = {"TOKEN": TOKEN, "URL": way.intake.url, "HARD": json.dumps(HARD)}
            files["/"] = HTML, filled("page.html", values)
            pages.visit(pages.url, tmp_path / "profile", partial(until, way))
            return way

        yield visit


def filled(name, values):
    """One of the pages beside the clients, with values for the words in it."""
    text = (CLIENTS / name).read_text()
    for word, value in values.items():
        text = text.replace(f"{{{{{word}}}}}", value)
    return text.encode()


def test_a_page_whose_origin_is_named_stores_each_call(page, until):
    """By GET, POST and sendBeacon, one by one and in batches, and what it had not sent when it was left."""

    def is_there(way, said):
        accepted(said)
        until(lambda: any(each["event"] == "Left" for each in waiting(way.queue_path)))

    way = page(is_there, is_named=True)
    many = {name: properties for name, properties in MANY.items() if properties["at"] < 60}
    calls = ("Tracked", "Beacon", "Got", "Left")
    way.has({"$identify": {}, **dict.fromkeys(calls, HARD), **many}, repeated=["Left"])
    way.arrives(refused=["$identify"])
    [(who, profile)] = way.profiles.items()
    assert (who, {key: profile[key] for key in HARD}) == (("user",), HARD)
    assert way.groups == {("company", "acme"): {"size": 5, **HARD}}


def test_a_page_whose_origin_is_not_named_stores_nothing(page):
    """The SDK is told so for each call whose answer it can have."""

    def is_refused(way, said):
        assert said.pop("beacon") is None  # it has no answer
        assert set(said.values()) == {"0"}

    way = page(is_refused, is_named=False)
    assert [waiting(way.queue_path, kind) + dead(way.queue_path, kind) for kind in KINDS] == [[], [], []]
    assert way.forwarder("check").returncode == 0


@pytest.mark.parametrize("origins", ["", "https://www.example.com"])
def test_no_other_page_can_write(make, tmp_path, until, origins):
    """By images, forms, scripts, fetch, beacons and more: each request arrives, and none stores anything."""
    way = make(INTAKE_ORIGINS=origins)
    refused = 'forwarder_intake_requests_total{path="/track",code="403"} '

    def all_came(attacks):
        assert len(attacks) > 15
        until(
            lambda: f"{refused}{len(attacks)}\n" in way.intake.ask("GET", "/metrics").body.decode(), attacks
        )

    values = {"TOKEN": TOKEN, "URL": way.intake.url}
    with Pages({"/": (HTML, filled("attack.html", values))}) as pages:
        pages.visit(f"http://evil.example.com:{pages.port}", tmp_path / "profile", all_came)
    assert [waiting(way.queue_path, kind) + dead(way.queue_path, kind) for kind in KINDS] == [[], [], []]
