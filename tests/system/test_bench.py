"""`forwarder bench`: measures the disk it is asked about, and leaves nothing behind."""

import json
import os

import pytest

from forwarder.cli.bench.measures import BATCHES


def test_it_measures_and_leaves_nothing(forwarder, queue_path, tmp_path):
    """Every figure is there, and the sentences; the directory is as before, and the queue is not made."""
    (tmp_path / "disk").mkdir()
    done = forwarder("bench", "--dir", str(tmp_path / "disk"), "--seconds", "0.05", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 0 < found["sync"]["median_s"] <= found["sync"]["p99_s"] <= found["sync"]["worst_s"]
    assert [intake["batch"] for intake in found["intake"]] == list(BATCHES)
    assert all(intake["events_per_s"] > 0 for intake in found["intake"])
    assert found["delivery"]["events_per_s"] > 0
    assert 0 < found["delivery"]["cpu_s_per_million"] < 1000
    assert any("10,000,000" in sentence for sentence in found["meaning"])
    assert os.listdir(tmp_path / "disk") == []
    assert not os.path.exists(queue_path)


def test_a_directory_that_is_not_there_is_named(forwarder, tmp_path):
    """The message says which, and what to do."""
    done = forwarder("bench", "--dir", str(tmp_path / "nowhere"))
    assert done.returncode == 73
    assert str(tmp_path / "nowhere") in done.stderr
    assert "--dir" in done.stderr


@pytest.mark.parametrize("seconds", ["0", "1e9", "x"])
def test_seconds_are_bounded(forwarder, seconds):
    """It is over in a time that one can wait for."""
    assert forwarder("bench", "--seconds", seconds).returncode == 64


def test_no_room_is_told(forwarder, queue_path):
    """What must stay free for the queue is not used up for measuring."""
    os.makedirs(queue_path)
    forwarder.environ["FORWARDER_QUEUE_MIN_FREE_BYTES"] = "999TiB"
    done = forwarder("bench")
    assert done.returncode == 75
    assert "stay free for the queue" in done.stderr
