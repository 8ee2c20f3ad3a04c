"""The recipes of docs/import.rst, run word by word on files of the true shapes."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas
import pytest
import zstandard
from docutils import nodes
from docutils.core import publish_doctree

ROOT = Path(__file__).parents[2]
EXPORTS = ROOT / "tests/data/exports"
ID, ID2 = "0f8fad5b-d9cb-469f-a165-70867728950e", "7c9e6679-7425-40de-944b-e07fc1f90ae7"
# By tool: the sample, the name of such a file, and the properties of its first event and those of its last.
TOOLS = {
    "amplitude": (
        "amplitude.json",
        "1_2024-01-02_3.json.gz",
        {"price": 2, "name": "Größe", "distinct_id": "d-1", "$insert_id": ID, "time": 1704164645678},
        {"distinct_id": "u-2", "$insert_id": ID2, "time": 1704164645678},
    ),
    "posthog": (
        "posthog.jsonl",
        "part.jsonl.gz",
        {
            "price": 2,
            "$lib": "web",
            "$current_url": "https://example.com/",
            "distinct_id": "d-1",
            "$insert_id": ID,
            "time": 1704164645678,
        },
        {"price": 3, "distinct_id": "d-1", "$insert_id": ID2, "time": 1704164645678},
    ),
    "segment": (
        "segment.json",
        "1704164645.gz",
        {"price": 2, "distinct_id": "d-1", "$insert_id": ID, "time": 1704164645678},
        {"distinct_id": "u-2", "$insert_id": ID2, "time": 1704164645678},
    ),
    "analytics": (
        "ga4.json",
        "events-000.json.gz",
        {
            "price": 2,
            "ga_session_id": 1704164640,
            "page_title": "Größe",
            "engagement": 0.5,
            "distinct_id": "d-1",
            "time": 1704164645678,
        },
        {"distinct_id": "u-2", "time": 1704164645678},
    ),
}
# A stand-in for a tool that prints an object of a bucket: the file of that name at home.
CLOUD = """\
#!/bin/sh
for word; do case "$word" in s3://*|gs://*) exec cat "$HOME/$(basename "$word")";; esac; done
exit 1
"""


def _block(name: str) -> str:
    page = publish_doctree((ROOT / "docs/import.rst").read_text(), settings_overrides={"report_level": 2})
    (found,) = (block for block in page.findall(nodes.literal_block) if name in block["classes"])
    return found.astext()


class Place:
    """A home with a directory of files, in which recipes are run."""

    def __init__(self, forwarder: Any, directory: Path) -> None:
        self.directory = directory
        self._forwarder = forwarder
        self._program("forwarder", f'#!/bin/sh\nexec {sys.executable} -m forwarder "$@"\n')
        for name in ("aws", "gsutil"):
            self._program(name, CLOUD)
        self._seen = 0

    def _program(self, name: str, text: str) -> None:
        path = self.directory / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def write(self, name: str, content: bytes) -> None:
        """A file of the directory."""
        (self.directory / name).write_bytes(content)

    def run(self, recipe: str, *command: str) -> list[dict[str, Any]]:
        """Run a recipe; the events it has stored."""
        environ = self._forwarder.environ | {
            "PATH": f"{self.directory}/bin:{os.environ['PATH']}",
            "HOME": str(self.directory),
            "PYTHONPATH": str(ROOT),
        }
        command = command or ("bash", "-euo", "pipefail", "-c")
        done = subprocess.run(
            [*command, _block(recipe)],
            cwd=self.directory,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        lines = self._forwarder("peek", "--json", "-n", "100").stdout.splitlines()
        new, self._seen = lines[self._seen :], len(lines)
        return [json.loads(line)["event"] for line in new]


@pytest.fixture
def place(forwarder: Any, tmp_path: Path) -> Place:
    """A home whose queue is the test's."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "forwarder").mkdir()
    (tmp_path / "forwarder/queue").symlink_to(forwarder.queue_path)
    return Place(forwarder, tmp_path)


@pytest.mark.parametrize("tool", TOOLS)
def test_an_export_of_another_tool_becomes_events(place: Place, tool: str) -> None:
    """The line that is given for it brings name, person, time to the millisecond, id and properties over."""
    if not shutil.which("jq"):
        pytest.skip("jq is not on this machine")
    sample, name, first, last = TOOLS[tool]
    place.write(name, gzip.compress((EXPORTS / sample).read_bytes()))
    events = place.run(tool)
    assert (len(events), events[0]["event"]) == (2, "Bought")
    found = [dict(event["properties"]) for event in events]
    if tool == "analytics":
        assert all(len(properties.pop("$insert_id")) == 32 for properties in found)
    assert found == [first, last]


def test_an_export_of_mixpanel_becomes_events(place: Place) -> None:
    """It passes as it is; with a zone, its times become those at which Mixpanel got the events."""
    place.write("export.ndjson.gz", (EXPORTS / "mixpanel.ndjson.gz").read_bytes())
    plain, converted = place.run("mixpanel"), place.run("old")
    assert [event["event"] for event in plain] == [event["event"] for event in converted]
    for event in converted:
        properties = event["properties"]
        assert 0 < properties["mp_processing_time_ms"] - properties["time"] < 1000


def test_tables_and_records_become_the_events_that_are_shown(place: Place, forwarder: Any) -> None:
    """CSV from a file and a bucket, Parquet, pandas, SQL and flat records bring the same orders over."""
    text = _block("orders") + "\n"
    place.write("orders.csv", text.encode())
    place.write("orders.csv.gz", gzip.compress(text.encode()))
    event = b'{"event":"From a bucket","properties":{"distinct_id":"u"}}\n'
    place.write("events.ndjson.zst", zstandard.compress(event))
    orders = pandas.read_csv(place.directory / "orders.csv", dtype={"zip": str}, parse_dates=["paid_at"])
    orders.to_parquet(place.directory / "orders.parquet")
    with closing(sqlite3.connect(place.directory / "shop.db")) as database:
        database.execute("CREATE TABLE orders (id TEXT, user_id TEXT, paid_at TEXT, price REAL)")
        rows = [("A-1", "u1", "2024-01-02T03:04:05Z", 10.0), ("A-2", "u2", "2024-01-02T03:05:06Z", 9.5)]
        database.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", rows)
        database.commit()

    first, second = place.run("csv")
    assert first == json.loads(_block("order").replace("\n", ""))
    expected = {"time": 1704164706000, "distinct_id": "u2", "$insert_id": "A-2", "zip": "99999", "price": 9.5}
    assert second["properties"] == expected
    assert place.run("parquet") == [first, second]
    assert place.run("pandas", sys.executable, "-c") == [first, second]
    (in_cloud, again, line) = place.run("cloud")
    assert [in_cloud, again, line["event"]] == [first, second, "From a bucket"]
    few = ("time", "distinct_id", "$insert_id", "price")
    assert place.run("sql", sys.executable, "-c") == [
        {"event": "Order Paid", "properties": {key: event["properties"][key] for key in few}}
        for event in (first, second)
    ]
    (flat,) = place.run("flat")
    assert flat["event"] == "Order Paid"
    assert flat["properties"].pop("$insert_id")
    assert flat["properties"] == {"time": 1704164645000, "distinct_id": "7", "cart": {"items": 3}}
