"""Queues of earlier releases, as ``tests/kept_queue.py`` has kept them, opened by today's code."""

import json
import tarfile
from pathlib import Path

import pytest

from tests.kept_queue import PLACE, delivered, told

KEPT = sorted(PLACE.glob("queue-*.tar.gz"))


def lacking(kept, found, where=""):
    """What was said then and is not said now; more may be."""
    if isinstance(kept, dict) and isinstance(found, dict):
        return [each for key in kept for each in lacking(kept[key], found.get(key), f"{where}.{key}")]
    if isinstance(kept, list) and isinstance(found, list) and len(kept) == len(found):
        pairs = enumerate(zip(kept, found, strict=True))
        return [each for at, pair in pairs for each in lacking(*pair, f"{where}[{at}]")]
    return [] if kept == found else [f"{where}: {found}, was {kept}"]


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.name.removesuffix(".tar.gz"))
def test_a_queue_of_that_release_goes_on(kept, forwarder, server):
    """Its books, what waits, the dead letters, the history, and what became of each event are as they were;
    and all that waits is delivered with the same bytes."""
    said = json.loads(Path(str(kept).replace(".tar.gz", ".json")).read_text())
    after = said.pop("delivered")
    with tarfile.open(kept) as archive:
        archive.extractall(Path(forwarder.queue_path).parent, filter="data")
    assert lacking(said, told(forwarder)) == []
    assert lacking(after, delivered(forwarder, server)) == []
    assert len(server.ledger.events) == len(after["events"])


def test_each_release_has_kept_one():
    """This version's too, so that the next one is held against it."""
    from forwarder import __version__

    assert f"queue-{__version__}.tar.gz" in [path.name for path in KEPT]
