"""Mixpanel's own library for Python, with `forwarder.mixpanel.Consumer` in it."""

import json

import pytest

from forwarder import spool
from forwarder.records import GROUPS, PROFILES
from forwarder.spool import EventQueue

mixpanel = pytest.importorskip("mixpanel", reason="Mixpanel's library is not installed")


@pytest.fixture
def tracker(queue_path):
    from forwarder.mixpanel import Consumer

    consumer = Consumer(queue_path, min_free_bytes=0)
    yield mixpanel.Mixpanel("a-token", consumer=consumer)
    consumer.close()


def waiting(queue_path, kind):
    with spool.at(queue_path, kind).view() as view:
        return [json.loads(row.data) for row in view.peek(100)]


def test_all_that_the_library_sends_waits(tracker, queue_path, rows):
    """Events, imports, people and groups, each in its queue, complete."""
    tracker.track("ada", "Signed Up", {"plan": "pro"})
    tracker.import_data("key", "ada", "Old", 1_600_000_000, {"a": 1}, api_secret="secret")
    tracker.people_set("ada", {"$email": "a@example.com"})
    tracker.people_increment("ada", {"logins": 1})
    tracker.group_set("company", "acme", {"size": 5})
    signed, old = map(json.loads, rows(queue_path))
    assert (signed["event"], signed["properties"]["plan"]) == ("Signed Up", "pro")
    assert (signed["properties"]["token"], signed["properties"]["distinct_id"]) == ("a-token", "ada")
    assert isinstance(signed["properties"]["time"], int)
    assert (old["event"], old["properties"]["time"]) == ("Old", 1_600_000_000)
    assert "secret" not in json.dumps([signed, old])
    first, second = waiting(queue_path, PROFILES)
    assert (first["$set"], second["$add"]) == ({"$email": "a@example.com"}, {"logins": 1})
    (group,) = waiting(queue_path, GROUPS)
    assert (group["$group_key"], group["$group_id"], group["$set"]) == ("company", "acme", {"size": 5})


def test_what_can_not_be_stored_is_the_library_s_error(queue_path):
    """The one class that its callers catch, with the reason."""
    from forwarder.mixpanel import Consumer

    with EventQueue(queue_path, min_free_bytes=0) as queue:
        queue.put({"event": "A", "properties": {}})
    consumer = Consumer(queue_path, max_bytes=10)
    with pytest.raises(mixpanel.MixpanelException, match="max_bytes"):
        mixpanel.Mixpanel("a-token", consumer=consumer).track("ada", "B")
    with pytest.raises(mixpanel.MixpanelException, match="no such endpoint 'flags'"):
        consumer.send("flags", "{}")
    with pytest.raises(mixpanel.MixpanelException, match="'event' "):
        consumer.send("events", '{"event": 5, "properties": {}}')
    consumer.close()
