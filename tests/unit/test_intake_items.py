"""What items become before their kind accepts them, and which are refused."""

import json

import pytest

from forwarder.intake.items import SLICE_ITEMS, Sorter
from forwarder.intake.payload import RefusedError
from forwarder.records import KINDS

NOW_MS = 1_700_000_000_000
TOKENS = frozenset(["abc"])


def sorter(path="/track", rules=False, address="", kind="event"):
    return Sorter(KINDS[kind], path, rules, TOKENS, address)


def event(**properties):
    return json.dumps({"event": "A", "properties": {"token": "abc", **properties}}).encode()


def taken(item, **options):
    """The properties that an item is stored with."""
    found = sorter(**options).sort([item], NOW_MS)
    assert found.dead == []
    return json.loads(found.records[0])["properties"]


def test_an_event_without_a_user_gets_an_empty_one_on_track_only():
    """An import is left as it is, since there its project's rules decide."""
    assert taken(event())["distinct_id"] == ""
    assert taken(event(distinct_id="u"))["distinct_id"] == "u"
    assert taken(event(distinct_id=None))["distinct_id"] is None
    assert "distinct_id" not in taken(event(), path="/import")


def test_the_clients_address_is_filled_in_where_it_is_known():
    """The address that an event has stays."""
    assert taken(event(), address="8.8.8.8")["ip"] == "8.8.8.8"
    assert taken(event(), address="8.8.8.8", path="/import")["ip"] == "8.8.8.8"
    assert taken(event(ip="1.1.1.1"), address="8.8.8.8")["ip"] == "1.1.1.1"
    assert taken(event(ip="0"), address="8.8.8.8")["ip"] == "0"
    assert "ip" not in taken(event())


def test_updates_get_the_address_as_their_own_property():
    """Profiles of users do; groups have no place."""
    user = b'{"$token":"abc","$distinct_id":"u","$set":{"a":{"b":1}}}'
    group = b'{"$token":"abc","$group_key":"k","$group_id":"g","$set":{}}'
    [record] = sorter("/engage", address="8.8.8.8", kind="profile").sort([user], NOW_MS).records
    assert json.loads(record)["$ip"] == "8.8.8.8"
    own = user.replace(b"{", b'{"$ip":"0",', 1)
    [record] = sorter("/engage", address="8.8.8.8", kind="profile").sort([own], NOW_MS).records
    assert json.loads(record)["$ip"] == "0"
    [record] = sorter("/groups", address="8.8.8.8", kind="group").sort([group], NOW_MS).records
    assert "$ip" not in json.loads(record)


@pytest.mark.parametrize(
    "item",
    [
        b'{"event":"A","properties":{"token":"abc"}}',
        b'{"event":"A","properties":{"token":"abc","x":{"properties":{}}}}',
        b'{"event":"{","properties":{"token":"abc"}}',
        b'{"event":"\\"properties\\":{","properties":{"token":"abc"}}',
        b'{"$ids":{"properties":{}},"event":"A","properties" : { "token":"abc"}}',
        b'{"event":"A","p\\u0072operties":{"token":"abc"}}',
        b'{"event":"properties","properties":{"token":"abc","y":[{"properties":{"z":1}}]}}',
    ],
)
def test_what_is_filled_in_goes_into_the_events_own_properties(item):
    """Wherever the name occurs else, all other bytes stay."""
    [record] = sorter(address="8.8.8.8").sort([item], NOW_MS).records
    said, before = json.loads(record), json.loads(item)
    added = {"distinct_id": "", "ip": "8.8.8.8", "time": NOW_MS}
    insert_id = said["properties"].pop("$insert_id")
    assert len(insert_id) >= 32
    assert said == before | {"properties": before["properties"] | added}


def test_empty_properties_are_filled_in_on_import():
    """Where nothing is yet, no comma is left behind."""
    found = sorter("/import", address="8.8.8.8").sort([b'{"event":"A","properties":{ }}'], NOW_MS)
    assert json.loads(found.records[0])["properties"]["ip"] == "8.8.8.8"


def test_a_fraction_of_a_second_becomes_milliseconds():
    """Three SDKs send seconds with a fraction; what is imported must be whole."""
    assert taken(event(time=1_600_000_000.25))["time"] == 1_600_000_000_250


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (b'{"event":"A","properties":{}}', "token, missing or empty"),
        (b'{"event":"A","properties":{"token":""}}', "token, missing or empty"),
        (b'{"event":"A","properties":{"token":null}}', "token, missing or empty"),
        (b'{"properties":{"token":"abc"}}', "'event'"),
        (b'{"event":"A"}', "'properties'"),
        (b'{"event":"A","properties":[]}', "'properties'"),
        (b"1", "not an event"),
        (b'{"event":', "not JSON"),
        (b'{"event":"A","properties":{"token":"abc","x":"\xff"}}', "not UTF-8"),
        (b'{"event":"A","properties":{"token":"abc","x":"\0"}}', "not JSON"),
        (b'{"event":"A","properties":{"token":"abc","time":1,"time":2}}', "duplicate key"),
        (
            b'{"event":"A","properties":{"token":"abc","x":' + b"[" * 200 + b"]" * 200 + b"}}",
            "'properties.x[0]",
        ),
    ],
)
def test_what_is_no_event_is_kept_as_it_came(item, reason):
    """Beside good ones it becomes a dead letter: with the bytes of the client, and why."""
    good = event()
    found = sorter().sort([good, item, good], NOW_MS)
    assert len(found.records) == 2
    [(data, why)] = found.dead
    assert data == item
    assert why.startswith(reason)


def test_the_rules_of_mixpanel_are_only_checked_for_a_strict_import():
    """Elsewhere they are left to Mixpanel. A refusal says which item, which field and why."""
    bad = event(time=1, **{"$insert_id": "id-1"})
    assert sorter("/track").sort([bad], NOW_MS).dead == []
    assert sorter("/import").sort([bad], NOW_MS).dead == []
    found = sorter("/import", rules=True).sort([event(), bad], NOW_MS)
    [failed] = found.failed
    assert (failed["index"], failed["insert_id"], failed["field"]) == (1, "id-1", "properties.time")
    assert "1971" in failed["message"]
    assert len(found.records) == 1


@pytest.mark.parametrize("path", ["/track", "/import"])
@pytest.mark.parametrize("token", ["other-token", 5, ["abc"]])
def test_the_token_of_another_project_refuses_the_whole_request(path, token):
    """Mixpanel would take the event into the project that signs in; the token is not told whole."""
    with pytest.raises(RefusedError) as caught:
        sorter(path).sort([event(), event(token=token)], NOW_MS)
    assert caught.value.status == 401
    assert "other-token" not in caught.value.words
    assert token != "other-token" or "othe..." in caught.value.words


@pytest.mark.parametrize(("path", "kind"), [("/engage", "profile"), ("/groups", "group")])
def test_updates_need_a_token_of_this_project(path, kind):
    """Without one they are malformed; with another the request is refused."""
    update = {"$distinct_id": "u", "$group_key": "k", "$group_id": "g", "$set": {"a": 1}}
    found = sorter(path, kind=kind).sort([json.dumps(update).encode()], NOW_MS)
    assert [why for _, why in found.dead] == [f"token, missing or empty (came in by {path})"]
    with pytest.raises(RefusedError):
        sorter(path, kind=kind).sort([json.dumps(update | {"$token": "x"}).encode()], NOW_MS)


def test_an_import_needs_no_token():
    """The key names the project there, and importers add none."""
    assert taken(b'{"event":"A","properties":{"a":1}}', path="/import")["a"] == 1


def test_many_items_are_judged_in_slices():
    """So that others get their turn; the last slice has all."""
    sizes = [len(found.records) for found in sorter().slices([event()] * (2 * SLICE_ITEMS + 1), NOW_MS)]
    assert sizes == [SLICE_ITEMS, 2 * SLICE_ITEMS, 2 * SLICE_ITEMS + 1]


@pytest.mark.parametrize("name", ["ip", "$insert_id", "distinct_id"])
def test_a_number_that_python_can_not_hold_hides_no_token(name):
    """The kind accepts it as it was written, and so the token of another project must be seen beside it."""
    item = b'{"event":"A","properties":{"token":"other","%b":1e400}}' % name.encode()
    with pytest.raises(RefusedError):
        sorter().sort([item], NOW_MS)
    update = b'{"$token":"other","$distinct_id":"u","$ip":1e400,"$set":{}}'
    with pytest.raises(RefusedError):
        sorter("/engage", kind="profile").sort([update], NOW_MS)
