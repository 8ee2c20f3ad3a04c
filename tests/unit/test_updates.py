"""Profile and group updates: what is accepted, what is stored, what they change, what an answer means."""

from __future__ import annotations

import json
from functools import partial

import pytest

from forwarder.delivery.wire import outcome as wire
from forwarder.delivery.wire.outcome import Reply
from forwarder.errors import EventError
from forwarder.records import EVENTS, GROUPS, KINDS, PROFILES
from forwarder.records.update.rules import MAX_KEYS, MAX_PROPERTIES, MAX_UPDATE_BYTES
from forwarder.records.verdict import Verdict
from forwarder.sandbox import updates as sandbox

NOW_MS = 1_700_000_000_000
QUEUE_ID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"


def profile(operation: str = "$set", value: object = None, **more: object) -> dict[str, object]:
    """An update of a profile."""
    return {"$token": "t", "$distinct_id": "ada", operation: {"a": 1} if value is None else value, **more}


def group(operation: str = "$set", value: object = None, **more: object) -> dict[str, object]:
    """An update of a group."""
    given = {"a": 1} if value is None else value
    return {"$token": "t", "$group_key": "company", "$group_id": 7, operation: given, **more}


def text(value: object) -> bytes:
    """As a program writes it."""
    return json.dumps(value).encode()


def reason(line: bytes | object, kind=PROFILES, rules: bool = True) -> str:
    """Why it is refused."""
    with pytest.raises(EventError) as refused:
        kind.accept(line if isinstance(line, bytes) else text(line), NOW_MS, rules)
    return str(refused.value)


def test_the_kinds_by_name():
    """Each kind has its endpoint, its queue, and its way of being sent."""
    assert list(KINDS) == ["event", "profile", "group"]
    found = [
        (each.noun, each.queue, each.endpoint, each.encoding, each.is_signed, each.is_ordered)
        for each in KINDS.values()
    ]
    assert found == [
        ("events", "default", "/import", "gzip", True, False),
        ("profile updates", "engage", "/engage", "", False, True),
        ("group updates", "groups", "/groups", "", False, True),
    ]
    assert PROFILES.query(True, False, "123") == {"verbose": "1", "ip": "0"}
    assert GROUPS.query(False, True, "") == {"verbose": "1"}


# What is stored


def test_a_missing_time_is_the_only_change():
    """``$time`` is spliced in; all other bytes stay, and a second time nothing changes."""
    line = b' {"$token" :"t", "$distinct_id":5.0,"$set":{"a":1.10,"b":"\\u00e9"} }\n'
    stored = PROFILES.accept(line, NOW_MS)
    assert stored == b'{"$time":1700000000000,' + line.strip()[1:]
    assert PROFILES.accept(stored, NOW_MS + 1) == stored
    assert PROFILES.is_final(stored)


@pytest.mark.parametrize(
    "time", [b"1600000000.25", b"1600000000", b"1600000000000", b'"2020-01-01"', b"null"]
)
def test_a_time_that_is_there_stays(time):
    """However an SDK writes it."""
    line = b'{"$token":"t","$distinct_id":"ada","$unset":["a"],"$time":%s}' % time
    assert PROFILES.accept(line, NOW_MS) == line


def test_line_breaks_between_tokens_become_spaces():
    """So a record is one line."""
    line = b'{"$token":"t",\r\n"$distinct_id":"a\\nb",\n"$delete":"","$time":1}'
    assert PROFILES.accept(line, NOW_MS) == line.replace(b"\r\n", b"  ").replace(b",\n", b", ")


def test_an_external_producers_row_gives_the_same_bytes_each_time():
    """Its time is the row's; the rules are left to Mixpanel; a byte order mark is dropped."""
    row = "\ufeff" + json.dumps(profile(**{"$add": {"a": "x"}}))
    found = {PROFILES.complete(row, 1_600_000_000.5, QUEUE_ID, row_id) for row_id in (1, 1, 2)}
    assert found == {b'{"$time":1600000000500,' + text(profile(**{"$add": {"a": "x"}}))[1:]}
    with pytest.raises(EventError, match="the row holds int"):
        PROFILES.complete(7, 1.0, QUEUE_ID, 1)


def test_many_lines():
    """Good ones pass beside bad ones; blank ones are neither."""
    lines = [text(profile()), b"", b"  ", b"{}", text(profile("$union", {"a": ["b"]}))]
    accepted, refused = PROFILES.accept_many(lines, NOW_MS)
    assert [json.loads(each)["$time"] for each in accepted] == [NOW_MS, NOW_MS]
    assert [index for index, _ in refused] == [3]


# Structure, which always holds


STRUCTURE = [
    ([], "not an update: a list, where an object with '$token', '$distinct_id' and an operation"),
    (7, "not an update: a single value"),
    (b"\xff", "not UTF-8 (byte 1)"),
    (b'{"$token":"t"', "not JSON: "),
    (b'{"$token":"t"} 7', "one update is expected"),
    (b'{"$token":"t","$token":"u"}', "duplicate key '$token'"),
    (b'{"$token":"t","$distinct_id":"a","$set":{"a":NaN}}', "'$set.a' is invalid: NaN is not JSON"),
    ({"$distinct_id": "a", "$set": {}}, "'$token' is missing: each update carries the project's token"),
    (profile() | {"$token": ""}, "'$token' must be a text, not an empty one"),
    (profile() | {"$token": 7}, "'$token' must be a text, not 7"),
    ({"$token": "t", "$set": {}}, "'$distinct_id' is missing: it is the id of the user"),
    (profile() | {"$distinct_id": ""}, "'$distinct_id' must be a text or a number, not an empty one"),
    (profile() | {"$distinct_id": True}, "'$distinct_id' must be a text or a number, not true"),
    (profile() | {"$distinct_id": ["a"]}, "'$distinct_id' must be a text or a number, not an array of 1"),
    ({"$token": "t", "$distinct_id": "a"}, "no operation: an update has one of $set, $set_once, $add"),
    ({"event": "E", "properties": {}}, "looks like an event: offer it with --kind event or put"),
    (group(), "looks like a group update: offer it with --kind group or put_group"),
    (profile("$set", {"a": "x" * MAX_UPDATE_BYTES}), "bytes long; Mixpanel's limit is 1000000 bytes"),
]


@pytest.mark.parametrize("rules", [True, False])
@pytest.mark.parametrize(("line", "words"), STRUCTURE)
def test_structure_always_holds(line, words, rules):
    """The reason names the member and what to do."""
    assert words in reason(line, rules=rules)


def test_structure_of_groups():
    """A group has two ids, and no operations that count."""
    assert "'$group_key' is missing" in reason({"$token": "t", "$group_id": 1, "$set": {}}, GROUPS)
    assert "'$group_id' must be" in reason(group() | {"$group_id": None}, GROUPS)
    assert "no operation: an update has one of $set, $set_once, $union" in reason(group("$add"), GROUPS)
    assert "looks like a profile update: offer it with --kind profile" in reason(profile(), GROUPS)
    assert GROUPS.is_final(GROUPS.accept(text(group()), NOW_MS))


@pytest.mark.parametrize(("update", "what"), [(profile(), "profile"), (group(), "group")])
def test_an_update_offered_as_an_event(update, what):
    """The reason says where it belongs."""
    assert f"looks like a {what} update: offer it with --kind {what} or put_{what}" in reason(update, EVENTS)


def test_what_becomes_too_large_with_its_time():
    """The limit holds for what is sent."""
    line = text(profile("$set", {"a": ""}))
    line = line.replace(b'""', b'"%s"' % (b"x" * (MAX_UPDATE_BYTES - len(line))))
    assert "with '$time' filled in" in reason(line)


# Rules, which may be left to Mixpanel


RULES = [
    (profile(**{"$add": {}}), "2 operations, $set and $add: make an update of each"),
    (profile("$set", 1), "'$set' must be an object of properties, not 1"),
    (profile("$set_once", ["a"]), "'$set_once' must be an object"),
    (profile("$append", "a"), "'$append' must be an object"),
    (profile("$union", "a"), "'$union' must be an object"),
    (profile("$remove", "a"), "'$remove' must be an object"),
    (profile("$unset", {"a": ""}), "'$unset' must be a list of the properties' names, not an object of 1"),
    (profile("$add", {"seats": "5"}), "'$add.seats' must be a number, not the text '5'"),
    (
        profile("$set", dict.fromkeys(map(str, range(MAX_PROPERTIES + 1)), 0)),
        "'$set' is invalid: 2001 keys, at most 2000",
    ),
    (
        profile("$set", {"a": [{"b": dict.fromkeys(map(str, range(MAX_KEYS + 1)), 0)}]}),
        "'$set.a[0].b' is invalid: 256 keys, at most 255",
    ),
]


@pytest.mark.parametrize(("line", "words"), RULES)
def test_rules_may_be_left_to_mixpanel(line, words):
    """With rules they are named, without them it is taken as it is."""
    assert words in reason(line)
    assert PROFILES.is_final(PROFILES.accept(text(line), NOW_MS, rules=False))


@pytest.mark.parametrize(
    ("operation", "value"),
    [
        ("$set", dict.fromkeys(map(str, range(MAX_PROPERTIES)), 0)),
        ("$set", {"list": list(range(1000))}),
        ("$set_once", {}),
        ("$add", {"a": 1, "b": -2.5}),
        ("$append", {"a": {"b": 1}}),
        ("$union", {"a": ["b"]}),
        ("$remove", {"a": "b"}),
        ("$unset", ["a"]),
        ("$delete", ""),
        ("$delete", "null"),
    ],
)
def test_what_mixpanel_takes_is_accepted(operation, value):
    """And the sandbox, which knows Mixpanel's docs, takes it, too."""
    stored = PROFILES.accept(text(profile(operation, value)), NOW_MS)
    assert sandbox.users("t").take([stored]) == (1, "")


def test_each_refusal_has_its_word():
    """What is refused is counted by a word for its reason, which the kind lists."""
    words = [PROFILES.word_for(reason(line)) for line, _ in STRUCTURE + RULES]
    assert words == [
        *("not_an_update", "not_an_update", "not_utf8", "not_json", "not_json", "duplicate_key", "value"),
        *("token", "token", "token", "id", "id", "id", "id", "operation", "token", "id", "too_large"),
        *("operation", "value", "value", "value", "value", "value", "value", "value"),
        *("too_many_values", "too_many_values"),
    ]
    assert {*words, "too_deep", "other"} == set(PROFILES.reasons)
    assert PROFILES.word_for("update 2 of 3: no operation") == "operation"


# What it changes, and its name


def lane(update: dict[str, object], kind=PROFILES):
    """The lane of an accepted update."""
    return kind.lane(kind.accept(text(update), NOW_MS, rules=False))


def test_the_same_profile_is_the_same_lane():
    """As Mixpanel compares ids: a number is its text. Another token is another project."""
    same = {lane(profile() | {"$distinct_id": each}).key for each in (5, 5.0, "5", 5e0)}
    others = {lane(profile() | each).key for each in ({"$distinct_id": "5.5"}, {"$token": "u"}, {})}
    assert (len(same), len(others), len(same | others)) == (1, 3, 4)
    assert lane(group() | {"$group_id": "7"}, GROUPS).key == lane(group(), GROUPS).key
    assert lane(group() | {"$group_key": "team"}, GROUPS).key != lane(group(), GROUPS).key


@pytest.mark.parametrize(
    ("update", "repeats"),
    [
        *((profile(each), True) for each in ("$set", "$set_once", "$union", "$remove", "$unset", "$delete")),
        *((profile(each), False) for each in ("$add", "$append")),
        (profile(**{"$add": {"a": 1}}), False),
        (profile(**{"$multiply": {"a": 1}}), False),
        (profile(**{"$ip": "0", "$ignore_time": True, "$device_id": "d", "other": 1}), True),
    ],
)
def test_what_leaves_the_same_state_when_sent_twice(update, repeats):
    """An operation that counts does not, nor one that is not known."""
    assert lane(update).repeats is repeats
    assert lane(group("$set", {}, **{"$add": {"a": 1}}), GROUPS).repeats is False


def test_a_lane_is_found_in_anything():
    """Also in what is no update."""
    for data in (b"", b"[]", b"{", b"\xff", b'{"$token":"\\ud800"}'):
        assert PROFILES.lane(data).repeats is False


def test_names_and_ids():
    """For lists of dead letters, also of what is nearly JSON; and whom it concerns."""
    assert PROFILES.name_of(text(profile("$add"))) == ("$add", "ada")
    assert GROUPS.name_of(text(group("$unset", ["a"]))) == ("$unset", "7")
    assert PROFILES.name_of("{'$set_once': {}, '$distinct_id': 'ada', 'x': NaN}") == ("$set_once", "ada")
    assert PROFILES.name_of(None) == PROFILES.name_of(b"[1]") == ("", "")
    assert PROFILES.concerns(text(profile()), "ada")
    assert not PROFILES.concerns(text(profile()), "bob")
    assert GROUPS.concerns(b"{'$group_id': 7}", "7")


@pytest.mark.parametrize(
    "data",
    [
        b'{"$token":"t","$distinct_id":"a","$set":{}}',
        b'{"$time":1,"$token":"","$distinct_id":"a"}',
        b'{"$time":1,"$token":"t","$distinct_id":""}',
        b'{"$time":1,"$token":"t","$distinct_id":null}',
        b'{"$time":1,\n"$token":"t","$distinct_id":"a"}',
        b"[]",
        b"",
    ],
)
def test_what_is_not_final(data):
    """Its time, token or id is missing, or it is more than a line."""
    assert not PROFILES.is_final(data)
    assert not PROFILES.are_final(data + b"\n", 1)


def test_lines_of_final_updates():
    """They are recognised in one piece."""
    stored, _ = PROFILES.accept_many([text(profile()), text(profile("$delete", ""))], NOW_MS)
    assert PROFILES.are_final(b"\n".join(stored) + b"\n", 2)
    assert PROFILES.pack(stored) == b"[" + stored[0] + b"," + stored[1] + b"]"
    assert len(json.loads(PROFILES.pack(stored))) == 2


# What an answer means


judge = partial(wire.judge, PROFILES)
WORDS = "$token, missing or empty"
HTML = b"<title>Sign in</title>"
ANSWERS = [
    (200, b"1", Verdict.DELIVERED, ""),
    (200, b'{"status":1,"error":null}', Verdict.DELIVERED, ""),
    (200, b'{"status":1,"error":null,"num_good_events":2}', Verdict.DELIVERED, ""),
    (200, b"0", Verdict.REFUSED, "refused without a reason"),
    (200, b'{"status":0,"error":"%s"}' % WORDS.encode(), Verdict.REFUSED, WORDS),
    (400, b'{"status":0,"error":"%s"}' % WORDS.encode(), Verdict.REFUSED, WORDS),
    (400, b'{"code":400,"error":"not JSON","status":"Bad Request"}', Verdict.REFUSED, "not JSON"),
    (400, b'{"error":"data, missing or empty","status":"error"}', Verdict.REFUSED, "data, missing or empty"),
    (200, b'{"status":0,"error":"a temporary failure occurred"}', Verdict.UNREACHABLE, "a temporary failure"),
    (400, b'{"status":0,"error":"Invalid project id for cluster"}', Verdict.MISCONFIGURED, "$token"),
    (200, b'{"status":1,"error":"some were not valid"}', Verdict.DELIVERED, ""),
    (200, b'{"status":0,"error":"x","failed_records":[{"index":0}]}', Verdict.UNREACHABLE, "not in"),
    (400, b'{"code":400,"error":"x","num_records_imported":1}', Verdict.UNREACHABLE, "not in"),
    (400, b'{"status":1,"error":"x"}', Verdict.UNREACHABLE, "not in"),
    (200, HTML, Verdict.UNREACHABLE, "Sign in"),
    (400, HTML, Verdict.UNREACHABLE, "Sign in"),
    (200, b"", Verdict.UNREACHABLE, "an empty body"),
    (200, b"2", Verdict.UNREACHABLE, "not in"),
    (200, b"true", Verdict.UNREACHABLE, "not in"),
    (200, b'"1"', Verdict.UNREACHABLE, "not in"),
    (401, b'{"error":"no","status":"error"}', Verdict.MISCONFIGURED, "by their '$token' alone"),
    (403, HTML, Verdict.MISCONFIGURED, "by their '$token' alone"),
    (404, HTML, Verdict.MISCONFIGURED, "mixpanel.url"),
    (302, b"", Verdict.MISCONFIGURED, "redirect"),
    (413, b'{"error":"request exceeds max limit of 2097152 bytes"}', Verdict.TOO_LARGE, "2097152"),
    (429, b'{"error":"rate","status":0}', Verdict.THROTTLED, "rate"),
    (503, b"", Verdict.UNREACHABLE, "503"),
    (408, b"", Verdict.UNREACHABLE, "408"),
]


@pytest.mark.parametrize(("status", "body", "verdict", "words"), ANSWERS)
def test_what_an_answer_says_about_updates(status, body, verdict, words):
    """All or nothing: 1 delivers all, 0 nothing. What is not Mixpanel's leaves open whether they count."""
    outcome = judge(Reply(status, {}, body), [b"{}", b"{}"])
    assert (outcome.verdict, outcome.rejections) == (verdict, ())
    assert words in outcome.detail
    assert outcome.imported == (2 if verdict is Verdict.DELIVERED else 0)
    assert outcome.is_doubtful is (verdict is Verdict.UNREACHABLE)


def test_without_a_connection_nothing_is_doubtful():
    """A timeout or a cut leaves it open; a connection that never was does not, nor a proxy's refusal."""
    assert judge(Reply(None, {}, b"", "no answer in time"), [b"{}"]).is_doubtful
    assert not judge(Reply(None, {}, b"", "DNS: not found", is_sent=False), [b"{}"]).is_doubtful
    assert not judge(Reply(407, {}, b"", "the proxy refused", is_sent=False), [b"{}"]).is_doubtful


def test_the_probe_is_refused_by_the_sandbox():
    """And never stored."""
    profiles = sandbox.users("t")
    assert profiles.take([PROFILES.probe])[0] == 0
    assert profiles.updates == []
