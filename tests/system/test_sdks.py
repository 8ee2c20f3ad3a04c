"""Mixpanel's own SDKs, from their registries, through the intake and the daemon to Mixpanel's stand-in.

What an SDK was told is accepted is in the queue or a dead letter, by content, and then at Mixpanel; what it
was refused is in neither. The books of all kinds are in order at the end.
"""

import base64
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from forwarder import spool
from forwarder.intake import answers, connection
from forwarder.records import KINDS
from forwarder.sandbox import Sandbox
from tests.conftest import Forwarder
from tests.integration.intake_client import TOKEN, Intake, dead, names, waiting
from tests.system.sdks.browser import Pages
from tests.system.sdks.registries import Registries

CLIENTS = Path(__file__).parent / "sdks"
PAGE = Path(__file__).parents[2] / "docs/sdks.rst"
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


# The tool and its package, how to run a text, with which environment, and what stands before the example and
# behind it.
PROGRAMS = {
    "Python": (
        "pip", "mixpanel==5.4.1", (sys.executable, "-S", "-c"), {"PYTHONPATH": "."},
        "import json, sys",
        "hard = json.loads(sys.argv[1])",
        "mixpanel.track('user', 'Tracked', hard)",
        "mixpanel.people_set('user', hard)",
    ),
    "Node": (
        "npm", "mixpanel@0.24.0", ("node", "-e"), {"NODE_PATH": "node_modules"},
        "",
        "const hard = () => JSON.parse(process.argv[1]);",
        "mixpanel.track('Tracked', {distinct_id: 'user', ...hard()}, () => {",
        "    mixpanel.people.set('user', hard()) });",
    ),
    "Ruby": (
        "gem", "mixpanel-ruby", ("ruby", "-e"), {"GEM_HOME": "."},
        "require 'mixpanel-ruby'; require 'json'",
        "hard = JSON.parse(ARGV[0])",
        "tracker.track('user', 'Tracked', hard)",
        "tracker.people.set('user', hard, 0)",
    ),
    "PHP": (
        "composer", "mixpanel/mixpanel-php", ("php", "-d", "error_reporting=E_ALL&~E_DEPRECATED", "-r"), {},
        "require 'vendor/autoload.php';",
        "$hard = json_decode($argv[1], true);",
        "$mixpanel->track('Tracked', ['distinct_id' => 'user'] + $hard);",
        "$mixpanel->people->set('user', $hard, 0);",
    ),
}  # fmt: skip


@pytest.mark.parametrize("language", PROGRAMS)
def test_the_examples_of_the_page_run(registries, way, language):
    """As written in docs/sdks.rst, and then a call or two."""
    tool, name, (first, *options), environ, before, *after = PROGRAMS[language]
    place = registries.package(tool, name)
    example = example_of(language).replace("TOKEN", TOKEN).replace("http://127.0.0.1:8088", way.intake.url)
    text = "\n".join([before, example.replace("127.0.0.1:8088", "{}:{}".format(*way.intake.tcp)), *after])
    environ = {key: str(place / value) for key, value in environ.items()}
    run(program(first), *options, text, json.dumps(HARD), cwd=place, **environ)
    way.has({"Tracked": HARD})
    way.arrives()
    [(who, profile)] = way.profiles.items()
    assert (who, {key: profile.get(key) for key in HARD}) == (("user",), HARD)


def test_the_example_for_curl_runs(way):
    """As written, by the shell."""
    program("curl")
    example = example_of("Start it", "Try it").replace("TOKEN", TOKEN)
    said = run(program("sh"), "-c", example.replace("/run/forwarder/intake.sock", way.intake.socket))
    assert said == b"1"
    [found] = waiting(way.queue_path)
    assert (found["event"], found["properties"]["distinct_id"]) == ("Tried", "user-1")


def example_of(*headings):
    """The first example below the last of these words in the page of the SDKs."""
    text = PAGE.read_text()
    for heading in headings:
        text = text.split(f"\n{heading}", 1)[1]
    block = re.search(r"::(?: \w+)?\n\n((?:(?:    .*)?\n)+)", text)
    return textwrap.dedent(block[1])


# Node closes an idle connection one second before the time that it has heard.
@pytest.mark.parametrize(
    ("idle_s", "fails"),
    [(2 + connection.IDLE_S - answers.KEEP_ALIVE_S, False), (1.0, True)],
    ids=["as the intake is", "one second too much"],
)
def test_calls_of_node_at_the_edge_of_the_idle_time(registries, queue_path, idle_s, fails):
    """Two hundred of them, on connections that have been idle for as long as Node keeps them. If it heard one
    second too much, some would cross with the end of their connection, and be lost."""
    node = program("node")
    place = registries.package("npm", "mixpanel@0.24.0")
    times = {"answers.KEEP_ALIVE_S": 2, "connection.IDLE_S": idle_s, "server._SWEEP_S": 0.001}
    calls, errors = 0, []
    with closing(Intake(queue_path)) as intake:
        intake.start(times=times)
        while not errors and calls < (1000 if fails else 250):  # mostly at once
            command = (node, CLIENTS / "idle.js", intake.url, TOKEN, "1000")
            said = json.loads(run(*command, NODE_PATH=str(place / "node_modules")))
            calls += said["calls"]
            errors += said["errors"]
    assert len(names(queue_path)) == calls - len(errors)
    assert bool(errors) == fails, errors


def test_an_importer_stores_all_but_what_it_is_refused(registries, way, tmp_path):
    """Mixpanel's own: in strict imports of 2000 at once, one of them with invalid events."""
    place = registries.package("pip", "mixpanel-utils==2.2.7")
    events = [
        {"event": f"e{number}", "properties": {"distinct_id": "user", "time": 1_600_000_000, **properties}}
        for number, properties in enumerate([HARD] * 5000)
    ]
    refused = [{"event": "Refused", "properties": {"distinct_id": "user", "time": 1}}] * 3
    stdin = json.dumps([*events[:100], *refused, *events[100:]]).encode()
    command = (sys.executable, "-S", "-W", "ignore", CLIENTS / "import.py", way.intake.url, TOKEN)
    said = run(*command, stdin=stdin, PYTHONPATH=str(place), cwd=tmp_path).decode()
    assert said.count('"failed_records"') == 1
    assert [
        f'"index": {index}, "insert_id": "", "field": "properties.time"' in said for index in (99, 100, 103)
    ] == [False, True, False]
    way.has({each["event"]: HARD for each in events})
    way.arrives()


def test_curl_in_each_way(way, tmp_path):
    """On both sockets, plain, gzipped, in chunks from a pipe, large, and as GET."""
    curl = program("curl")
    events = {}

    def body(name, **more):
        events[name] = HARD | more
        return json.dumps(
            {"event": name, "properties": {"token": TOKEN, "distinct_id": "user", **HARD, **more}}
        )

    (tmp_path / "large.json").write_text(
        f"[{body('large', long='x' * 700_000)},{body('other', long='y' * 700_000)}]"
    )
    gzipped = gzip.compress(body("gzipped").encode())
    chunks = ("-X", "POST", "-T", "-")
    for arguments, stdin in (
        (("-d", body("array").join("[]")), ""),
        (("--data-urlencode", f"data={body('form')}"), ""),
        (("-G", "--data-urlencode", f"data={body('get')}"), ""),
        (("-G", "--data-urlencode", f"data={base64.b64encode(body('base64').encode()).decode()}"), ""),
        (("-H", "Content-Encoding: gzip", "--data-binary", "@-"), gzipped),
        (
            ("-H", "Content-Type: application/x-ndjson", "--data-binary", "@-"),
            f"{body('first')}\n{body('second')}\n",
        ),
        (chunks, body("chunks")),
        ((*chunks, "-H", "Expect: 100-continue"), body("expected")),
        (("-d", f"@{tmp_path}/large.json"), ""),
    ):
        stdin = stdin if isinstance(stdin, bytes) else stdin.encode()
        assert run(curl, "-sS", f"{way.intake.url}/track", *arguments, stdin=stdin) == b"1", arguments
    unix = ("--unix-socket", way.intake.socket)
    assert run(curl, "-sS", *unix, "http://localhost/track/?verbose=1", "-d", body("unix")) == (
        b'{"status": 1, "error": null}'
    )
    strict = ("-u", "account:secret", "-d", body("strict", time=1_600_000_000))
    assert run(curl, "-sS", *unix, "http://localhost/import?strict=1&project_id=123", *strict) == (
        b'{"code": 200, "num_records_imported": 1, "status": "OK"}'
    )
    update = {"$token": TOKEN, "$distinct_id": "user", "$set": HARD}
    assert run(curl, "-sS", f"{way.intake.url}/engage#profile-set", "-d", json.dumps([update])) == b"1"
    update = {"$token": TOKEN, "$group_key": "company", "$group_id": "acme", "$set": HARD}
    assert run(curl, "-sS", f"{way.intake.url}/groups#group-set", "-d", json.dumps([update])) == b"1"
    other = body("refused").replace(TOKEN, "token-of-another-project")
    del events["refused"]
    assert b"not one of intake.tokens" in run(curl, "-sS", f"{way.intake.url}/track", "-d", other)
    way.has(events)
    way.arrives()
    assert (way.profiles, way.groups) == ({("user",): HARD}, {("company", "acme"): HARD})


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
