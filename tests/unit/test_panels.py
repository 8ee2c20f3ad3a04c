"""What the web page says: in words, escaped, and without what reasons quote."""

import re

import pytest

from forwarder.records import EVENTS, PROFILES
from forwarder.service import panels
from forwarder.service.causes import Cause
from forwarder.service.status import MANY, nothing
from forwarder.service.timeline import Outage, Part, Timeline
from forwarder.spool import Gap, Period
from forwarder.text import unquoted

NOON = 1_800_014_400.0
HOSTILE = "<script>alert(1)</script>\"'&\x1b"


def plain(html):
    """The text in it, and that it has no other markup than its own."""
    assert "<script" not in html
    return re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", html)).strip()


def found(**values):
    return {**nothing(), "exists": True, "state_since": None, **values}


def test_the_state_is_said_as_status_says_it_and_since_when():
    """The state is marked, its reason escaped."""
    html = panels.headline(
        found(state="blocked", state_reason=HOSTILE, state_since="2027-01-15T11:58:00.000Z"), NOON
    )
    assert plain(html) == (
        "Blocked: &lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;\\x1b; nothing is lost, nothing"
        " waits. Since Fri 15 Jan 11:58, for 2 min."
    )
    assert 'class="state blocked"' in html
    away = panels.headline({**nothing(), "state_reason": "it can't be seen"}, NOON)
    assert plain(away) == "It can&#x27;t be seen."


@pytest.mark.parametrize(
    ("in_s", "said"), [(0.0, "now"), (600.0, "in about 10 min"), (None, "never, at this rate")]
)
def test_a_forecast_is_said_in_words(in_s, said):
    """Null is never; of a disk that can't be seen, and of what is only on its way, nothing is said."""
    keys = ("eta_s", "full_in_s", "disk_full_in_s", "oldest_late_in_s")
    of = found(waiting=MANY, **dict.fromkeys(keys, in_s))
    names = ("Nothing waits", "Queue full", "Disk full", "Oldest late")
    assert plain(panels.forecast(of)) == " ".join(f"{name} {said}" for name in names)
    assert "Disk" not in panels.forecast({**of, "disk_free_bytes": None})
    assert "Nothing" not in panels.forecast({**of, "waiting": MANY - 1})
    assert panels.forecast({**of, "exists": False}) == ""


def test_dead_letters_are_grouped_by_what_quotes_nothing():
    """Reasons that differ in a value are one; names and fields are escaped; updates have their noun."""
    letters = [
        (Cause("Buy", "properties.time", "'properties.time' is invalid: 'secret' is 1234 too late"), 3),
        (Cause("Buy", "properties.time", "'properties.time' is invalid: \"other\" is 99 too late"), 2),
        (Cause(HOSTILE, HOSTILE, HOSTILE), 1),
    ]
    html = panels.causes([(EVENTS, letters), (PROFILES, [(Cause("", "$set", "no"), 4)])])
    rows = [plain(row) for row in html.split("<tr>")[2:]]
    assert rows[0] == "5 Buy properties.time … is invalid: … is … too late"
    assert rows[1] == f"4 {PROFILES.noun} $set no"
    assert rows[2].count("&lt;script&gt;") == 3
    assert "secret" not in html
    assert plain(panels.causes([])) == "There are none."


@pytest.mark.parametrize(
    "reason",
    [
        "bad 'it's secret here'",
        r"bad 'a\'secret' too",
        "bad u'secret'",
        'bad "a\'b" and "secret"',
        "bad 'a'secret'",
        "bad 'a secr",
    ],
)
def test_what_is_quoted_may_have_marks_of_its_own(reason):
    """None of it is shown, and what stands around it is."""
    assert "secr" not in unquoted(reason)
    assert unquoted(reason).startswith("bad ")
    assert unquoted("it can't be read: 'x'") == "it can…"
    assert unquoted("it can't be read") == "it can't be read"


def test_only_the_most_frequent_causes_are_listed():
    """And how many are not."""
    html = panels.causes([(EVENTS, [(Cause(f"e{'x' * number}", "", ""), 1) for number in range(25)])])
    assert html.count("<tr>") == 1 + panels.MOST_CAUSES
    assert "without 5 rarer causes" in html


def test_what_interrupted_delivery_is_listed():
    """Outages with their reasons, times without a daemon, a clock that was set; the newest first."""
    of = Timeline(
        NOON,
        NOON + 3600,
        60.0,
        NOON + 60,
        [],
        [Gap(NOON + 600, NOON + 900, False), Gap(NOON + 1200, NOON + 600, True)],
        [Outage("backing_off", NOON + 2400, NOON + 2520, 120.0, HOSTILE)],
    )
    said = [plain(line) for line in panels.events(of).split("<li>")[1:]]
    assert said == [
        "Backing off from Fri 15 Jan 12:40 to Fri 15 Jan 12:42, 2 min in all:"
        " &lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;\\x1b.",
        "The clock was set back by 10 min, at Fri 15 Jan 12:20.",
        "No daemon ran from Fri 15 Jan 12:10 to Fri 15 Jan 12:15, for 5 min.",
        "Nothing is recorded before Fri 15 Jan 12:01.",
    ]


def test_all_figures_are_listed_under_their_keys():
    """Nested ones, too, as JSON has them."""
    rows = panels.figures(found(waiting=5, last_error=HOSTILE, requests={"short count": 2})).split("<tr>")[2:]
    cells = dict(
        re.match("<th scope=row><code>(.*)</code></th><td>(.*)</td></tr>", row).groups() for row in rows
    )
    assert (cells["waiting"], cells["paused"], cells["rate_1m"]) == ("5", "false", "0.0")
    assert (cells["requests.short count"], cells["engage.waiting"], cells["server"]) == ("2", "0", "null")
    assert cells["last_error"].startswith("&lt;script")


def test_what_can_not_be_known_is_not_plotted():
    """The disk of a server; and outcomes that did not occur."""

    def keys(**what):
        of = Timeline(0, 60, 60, 0, [Part(0, 60, Period(60.0, 60.0, 0.0, **what))], [], [])
        return {chart.key: [each.name for each in chart.series] for chart in panels.plots(of, relays=False)}

    assert "disk" not in keys()
    assert "disk" in keys(disk_free_bytes=0)
    assert keys()["requests"] == ["delivered"]
    assert keys(requests={"throttled": 1})["requests"] == ["delivered", "throttled"]
