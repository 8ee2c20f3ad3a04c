"""The daemon's metrics, the alerts and the dashboard, held against a real Prometheus."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import urlopen

import pytest

from forwarder.spool import EventQueue

ROOT = Path(__file__).parents[2]
RULES = ROOT / "etc/prometheus-rules.yml"
RULES_TEST = ROOT / "tests/data/prometheus-rules.test.yml"
DASHBOARD = json.loads((ROOT / "etc/grafana-dashboard.json").read_text())
NAME = re.compile(r"\b(?:forwarder|process)_[a-z_0-9]+")

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
needs_prometheus = pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed")


def _promtool(*arguments: str | Path, stdin: str = "") -> str:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _queries() -> list[str]:
    """What the dashboard asks for, with Grafana's variables filled in."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    values = {"$__rate_interval": "1m", "$job": ".*", "$instance": ".*"}
    return [re.sub(r"\$\w+", lambda variable: values[variable[0]], query) for query in found]


@pytest.fixture
def served(forwarder: Any, server: Any, queue_path: str, until: Callable[..., Any]) -> str:
    """The address of a daemon's pages, when it has delivered something."""
    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put({"event": "e", "properties": {"distinct_id": ""}})
    daemon = forwarder.daemon(FORWARDER_METRICS_LISTEN="127.0.0.1:0")
    url = str(daemon.wait_for("metrics.listening")["url"])
    until(lambda: 'forwarder_requests_total{outcome="delivered"} 1.0' in _get(url + "/metrics"))
    return url


def _get(url: str) -> str:
    with urlopen(url, timeout=20) as answer:
        return str(answer.read().decode())


def test_each_metric_that_is_watched_exists(served: str) -> None:
    """Alerts, dashboard and their test name only metrics, and labels' values, that a daemon serves."""
    page = _get(served + "/metrics")
    there = set(re.findall(r"^([a-z_0-9]+)[{ ]", page, re.MULTILINE))
    for text in (RULES.read_text(), RULES_TEST.read_text(), json.dumps(DASHBOARD)):
        named = set(NAME.findall(text))
        assert len(named) > 8
        assert named - there == set()
    labels = re.findall(r'(\w+="\w+")', RULES.read_text())
    assert {label for label in labels if not label.startswith("job=")} == {'state="blocked"'}
    assert 'forwarder_state{state="blocked"} 0.0' in page


def test_every_metric_is_on_the_dashboard_or_in_an_alert(served: str) -> None:
    """Nothing is served that nobody would look at."""
    page = _get(served + "/metrics")
    there = set(re.findall(r"^(forwarder_[a-z_0-9]+)[{ ]", page, re.MULTILINE))
    watched = set(NAME.findall(RULES.read_text() + json.dumps(DASHBOARD)))
    unwatched = {name for name in there - watched if not name.endswith(("_count", "_sum"))}
    assert unwatched == {"forwarder_last_delivery_timestamp_seconds"}


def test_the_dashboard_has_what_grafana_needs() -> None:
    """Each panel says what it shows, has its place to itself, and asks the data source that was chosen."""
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        assert panel["title"]
        assert panel["description"]
        at = panel["gridPos"]
        covered = {
            (x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
        }
        assert not covered & places, panel["title"]
        assert max(x for x, _ in covered) < 24
        places |= covered
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == [
        "datasource",
        "job",
        "instance",
    ]


@needs_promtool
def test_the_metrics_are_as_prometheus_wants_them(served: str) -> None:
    """``promtool check metrics`` finds nothing to say about names, units and help."""
    assert _promtool("check", "metrics", stdin=_get(served + "/metrics")) == ""


@needs_promtool
def test_each_alert_fires_when_it_should_and_not_before() -> None:
    """``promtool`` takes the rules, and their own test of each alert passes."""
    rules = re.findall("- alert: (.*)", RULES.read_text())
    assert f"{len(rules)} rules found" in _promtool("check", "rules", RULES)
    _promtool("test", "rules", RULES_TEST)
    assert [name for name in rules if name not in RULES_TEST.read_text()] == []


@pytest.fixture
def prometheus(served: str, tmp_path: Path, until: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """A Prometheus that scrapes the daemon and has the alerts; asks its API."""
    config = {
        "global": {"scrape_interval": "200ms", "evaluation_interval": "200ms"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": "forwarder", "static_configs": [{"targets": [urlsplit(served).netloc]}]}
        ],
    }
    # JSON is YAML, too.
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address={address}"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(["prometheus", *options], cwd=tmp_path, stdout=log, stderr=log)

    def ask(path: str, **parameters: str) -> Any:
        assert process.poll() is None, (tmp_path / "log").read_text()
        try:
            return json.loads(_get(f"http://{address}/api/v1/{path}?{urlencode(parameters)}"))["data"]
        except URLError:
            return None

    try:
        until(lambda: ask("targets"), "prometheus answers", 60)
        yield ask
    finally:
        process.kill()
        process.wait(20)


@needs_prometheus
def test_a_real_prometheus_scrapes_it_and_answers_the_dashboard(
    prometheus: Callable[..., Any], forwarder: Any, until: Callable[..., Any]
) -> None:
    """The target is up, each query of the dashboard has an answer, and a daemon that is gone is noticed."""

    def value(query: str) -> list[float]:
        found = prometheus("query", query=query)["result"]
        return [float(sample["value"][1]) for sample in found]

    until(lambda: value("up") == [1])
    (target,) = prometheus("targets")["activeTargets"]
    assert target["lastError"] == ""
    assert value("forwarder_events_delivered_total") == [1]
    unanswered = set(_queries())

    def answered() -> bool:
        # A rate takes two scrapes.
        unanswered.difference_update([query for query in unanswered if value(query)])
        return not unanswered

    until(answered, "each query of the dashboard is answered", 30)
    assert prometheus("alerts")["alerts"] == []
    forwarder._daemons[0].kill()
    alerts = until(lambda: prometheus("alerts")["alerts"])
    assert [alert["labels"]["alertname"] for alert in alerts] == ["ForwarderDown"]
