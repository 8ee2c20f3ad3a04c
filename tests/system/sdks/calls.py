"""All calls of an SDK for Python; prints as JSON what it said to each: null, or the error."""

import json
import sys

import mixpanel

url, token, hard = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
places = {"events_url": f"{url}/track", "people_url": f"{url}/engage", "import_url": f"{url}/import"}
has_groups = hasattr(mixpanel.Mixpanel, "group_set")
if has_groups:
    places["groups_url"] = f"{url}/groups"
said = {"version": mixpanel.__version__}


def call(name, function, *arguments, **options):
    try:
        function(*arguments, **options)
        said[name] = None
    except mixpanel.MixpanelException as error:
        said[name] = str(error)


sdk = mixpanel.Mixpanel(token, consumer=mixpanel.Consumer(**places))
call("track", sdk.track, "user", "Tracked", hard)
call("set", sdk.people_set, "user", {"plan": "pro", "gone": 1, **hard})
call("add", sdk.people_increment, "user", {"n": 2})
call("add again", sdk.people_increment, "user", {"n": 3})
call("append", sdk.people_append, "user", {"list": "a"})
call("union", sdk.people_union, "user", {"tags": ["x", "y"]})
call("union again", sdk.people_union, "user", {"tags": ["y", "z"]})
call("unset", sdk.people_unset, "user", ["gone"])
call("set of another", sdk.people_set, "leaver", {"plan": "free"})
call("delete", sdk.people_delete, "leaver")
if has_groups:
    call("group", sdk.group_set, "company", "acme", {"size": 5, "gone": 1, **hard})
    call("group union", sdk.group_union, "company", "acme", {"tags": ["x"]})
    call("group unset", sdk.group_unset, "company", "acme", ["gone"])
    call("group of another", sdk.group_set, "company", "old", {"size": 1})
    call("group delete", sdk.group_delete, "company", "old")

old = ("user", "Imported", 1_600_000_000, hard)
if not has_groups:  # 4.3.2 has no secrets either
    call("import", sdk.import_data, "api-key", *old)
else:
    call("import", sdk.import_data, "api-key", *old, api_secret="api-secret")
if hasattr(mixpanel, "ServiceAccountCredentials"):
    account = mixpanel.ServiceAccountCredentials("account", "account-secret", "123")
    by_account = mixpanel.Mixpanel(token, consumer=mixpanel.Consumer(**places, credentials=account))
    call("import by account", by_account.import_data, None, "user", "Imported by account", *old[2:])

buffered = mixpanel.BufferedConsumer(max_size=50, **places)
many = mixpanel.Mixpanel(token, consumer=buffered)
for number in range(119):
    call(f"e{number}", many.track, "user", f"e{number}", {"at": number, **hard})
nameless = {"properties": {"token": token, "$insert_id": "nameless"}}
call("nameless", buffered.send, "events", json.dumps(nameless))
call("flush", buffered.flush)

other = mixpanel.Mixpanel("token-of-another-project", consumer=mixpanel.Consumer(**places))
call("refused", other.track, "user", "Refused")
call("refused update", other.people_set, "user", {"plan": "refused"})
print(json.dumps(said))
