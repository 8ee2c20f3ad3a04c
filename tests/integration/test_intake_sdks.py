"""Mixpanel's own SDKs and the examples of its documents, through the intake, by content.

What the SDK was told is in the queue; what it was refused it raises or returns.
"""

import json
import os
import shutil
import subprocess
import warnings

import pytest

from tests.integration.intake_client import TOKEN, Intake, names, waiting

mixpanel = pytest.importorskip("mixpanel", reason="Mixpanel's SDK for Python is not installed")

ONE = f'{{"event":"E","properties":{{"token":"{TOKEN}"}}}}'
# With text whose base64 has a +, whose JSON has escapes, and whose form needs encoding.
HARD = {"text": ">>>???~~~ \u00fb\u00ff\u00fe &=+% \U0001f680", "number": 1.5, "deep": {"a": [1, None]}}


@pytest.fixture
def intake(queue_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    intake = Intake(queue_path)
    intake.start()
    yield intake
    intake.close()


def places(url):
    return {
        "events_url": f"{url}/track",
        "people_url": f"{url}/engage",
        "groups_url": f"{url}/groups",
        "import_url": f"{url}/import",
    }


def test_the_sdk_for_python_stores_each_call(intake, queue_path):
    """Its ordinary consumer: events, profiles, groups and imports."""
    sdk = mixpanel.Mixpanel(TOKEN, consumer=mixpanel.Consumer(**places(intake.url)))
    sdk.track("user", "Tracked", HARD)
    sdk.people_set("user", HARD)
    sdk.people_increment("user", {"n": 1})
    sdk.group_set("company", "acme", {"a": 1})
    with warnings.catch_warnings(action="ignore"):  # api_key is deprecated
        sdk.import_data("api-key", "user", "Old", 1_600_000_000, HARD, api_secret="api-secret")
    tracked, old = waiting(queue_path)
    assert (tracked["event"], old["event"]) == ("Tracked", "Old")
    for found in (tracked, old):
        properties = found["properties"]
        assert {key: properties[key] for key in HARD} == HARD
        assert (properties["distinct_id"], properties["token"]) == ("user", TOKEN)
        assert isinstance(properties["time"], int)
        assert properties["$insert_id"]
    assert [each.get("$set", each.get("$add")) for each in waiting(queue_path, "profile")] == [HARD, {"n": 1}]
    [group] = waiting(queue_path, "group")
    assert (group["$group_key"], group["$group_id"], group["$set"]) == ("company", "acme", {"a": 1})


def test_the_buffered_consumer_sends_all_of_its_batches(intake, queue_path):
    """Fifty at a time, and the rest at the flush."""
    consumer = mixpanel.BufferedConsumer(max_size=50, **places(intake.url))
    sdk = mixpanel.Mixpanel(TOKEN, consumer=consumer)
    for number in range(120):
        sdk.track("user", f"e{number}", HARD)
    assert len(names(queue_path)) == 100
    consumer.flush()
    assert names(queue_path) == [f"e{number}" for number in range(120)]


def test_a_refusal_is_the_exception_that_callers_catch(intake, queue_path):
    """With the reason in it; nothing is stored."""
    sdk = mixpanel.Mixpanel("token-of-another-project", consumer=mixpanel.Consumer(**places(intake.url)))
    with pytest.raises(mixpanel.MixpanelException, match="not one of intake"):
        sdk.track("user", "Refused")
    assert waiting(queue_path) == []


NODE = """
const mixpanel = require('mixpanel').init(process.argv[1], {protocol: 'http', host: process.argv[2]});
const hard = JSON.parse(process.argv[3]);
const done = name => error => { if (error) { console.error(name, error); process.exitCode = 1; } };
mixpanel.track('single', {distinct_id: 'user', ...hard}, done('track'));
const many = [...Array(120).keys()].map(n => ({event: 'e' + n, properties: {distinct_id: 'user', ...hard}}));
mixpanel.track_batch(many, {max_batch_size: 50}, done('batch'));
mixpanel.people.set('user', hard, done('people'));
mixpanel.groups.set('company', 'acme', {a: 1}, done('groups'));
"""


def test_the_sdk_for_node_stores_each_call(intake, queue_path):
    """Single calls come as GET, batches as raw base64 in a form."""
    node, modules = shutil.which("node"), os.environ.get("NODE_PATH", "")
    if not node or not os.path.isdir(os.path.join(modules, "mixpanel")):
        pytest.skip("npm's package mixpanel is not in $NODE_PATH")
    done = subprocess.run(
        [node, "-e", NODE, TOKEN, "{}:{}".format(*intake.tcp), json.dumps(HARD)],
        env={"PATH": os.environ["PATH"], "NODE_PATH": modules}, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found = waiting(queue_path)
    assert sorted(each["event"] for each in found) == sorted(
        ["single", *(f"e{number}" for number in range(120))]
    )
    assert all(each["properties"][key] == HARD[key] for each in found for key in HARD)
    assert len(waiting(queue_path, "profile")) == len(waiting(queue_path, "group")) == 1


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        (["-d", f"[{ONE}]"], b"1"),
        (["--data-urlencode", f"data={ONE}"], b"1"),
        (
            ["-G", "--data-urlencode", f"data={ONE}", "-d", "verbose=1"],
            b'{"status": 1, "error": null}',
        ),
        (
            ["-H", "Content-Type: application/json", "-u", "account:secret", "-d",
             '[{"event":"E","properties":{"time":1600000000,"$insert_id":"i"}}]'],
            b'{"code": 200, "num_records_imported": 1, "status": "OK"}',
        ),
    ],
)  # fmt: skip
def test_curl_as_in_mixpanels_documents(intake, queue_path, arguments, body):
    """Through the Unix socket."""
    curl = shutil.which("curl")
    if not curl:
        pytest.skip("curl is not on this machine")
    path = "/import?strict=1&project_id=1" if "-u" in arguments else "/track"
    done = subprocess.run(
        [curl, "-sS", "--unix-socket", intake.socket, f"http://localhost{path}", *arguments],
        capture_output=True, timeout=20, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (body, b"")
    assert names(queue_path) == ["E"]
