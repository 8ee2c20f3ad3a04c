"""What is told to a person, and when: decided from the values of `status`."""

import pytest

from forwarder.config.settings import Alerts
from forwarder.service.alerts import Watcher, needs, restart
from forwarder.service.status import nothing
from forwarder.spool import Period

SETTINGS = Alerts(oldest_s=600, full_s=3600, repeat_s=1000)


def found(**values):
    return {**nothing(), "exists": True, "state": "running", **values}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, {}),
        ({"oldest_waiting_s": 600.0, "full_in_s": 3600.0, "disk_full_in_s": 1e6}, {}),
        ({"state": "backing_off", "state_reason": "HTTP 503"}, {}),
        (
            {"state": "blocked", "state_reason": "HTTP 401: a wrong key"},
            {"blocked": "delivery is blocked: HTTP 401: a wrong key"},
        ),
        ({"oldest_waiting_s": 660.0}, {"late": "what waits longest has waited for 11 min"}),
        ({"oldest_waiting_s": 660.0, "state": "paused"}, {}),
        (
            {"engage": {**nothing()["engage"], "oldest_waiting_s": 700.0}},
            {"late": "what waits longest has waited for 11 min"},
        ),
        (
            {"full_in_s": 1800.0, "disk_full_in_s": 0.0},
            {
                "queue_full": "the queue will be full in about 30 min: new events will be refused",
                "disk_full": "the disk is full: new events are refused",
            },
        ),
        ({"set_aside": 1}, {"damaged": "1 damaged database waits for `forwarder salvage`"}),
        (
            {"orphaned": "7 events"},
            {"replaced": "files of the queue were moved; only the old ones hold 7 events"},
        ),
    ],
)
def test_what_needs_a_person(values, told):
    """An outage that passes by itself does not, until what waits is late."""
    assert dict(needs(found(**values), SETTINGS)) == told


class Watched:
    """A watcher, with what it tells."""

    def __init__(self):
        self.told, self.works = [], True
        self.watcher = Watcher(self._tell)

    def _tell(self, alert):
        self.told.append(f"{'over: ' * alert.is_over}{alert.name}")
        return self.works

    def look(self, now, **values):
        """What a look tells."""
        self.told.clear()
        self.watcher.look(found(**values), SETTINGS, now)
        return list(self.told)


def test_each_is_told_once_and_its_end_once():
    """One look may be a moment's chance; and what comes and goes is told once in repeat_s."""
    watched = Watched()
    blocked, late = {"state": "blocked"}, {"oldest_waiting_s": 700.0}
    assert watched.look(0, **blocked) == watched.look(5) == watched.look(10, **blocked) == []
    assert watched.look(15, **blocked) == ["blocked"]
    assert watched.look(20) == watched.look(25, **blocked) == [], "it looks so while it tries again"
    assert watched.look(30, **blocked, **late) == []
    assert watched.look(35, **blocked, **late) == ["late"]
    assert [watched.look(now, **late) for now in (5000, 5005)] == [[], ["over: blocked"]], "however long"
    assert [watched.look(now) for now in (5010, 5015)] == [[], ["over: late"]]
    assert [watched.look(now, **late) for now in (5020, 5025, 5030)] == [[], ["late"], []]
    assert [watched.look(now) for now in (5035, 5040)] == [[], ["over: late"]]
    assert [watched.look(now, **late) for now in (5045, 5050, 6024)] == [[], [], []]
    assert watched.look(6025, **late) == ["late"], "repeat_s after it was told"


def test_what_could_not_be_told_is_told_at_the_next_look():
    """A command that fails is tried again, for the end as well."""
    watched = Watched()
    watched.works = False
    blocked = {"state": "blocked"}
    assert [watched.look(now, **blocked) for now in (0, 5, 10)] == [[], ["blocked"], ["blocked"]]
    watched.works = True
    assert [watched.look(now, **blocked) for now in (15, 20)] == [["blocked"], []]
    watched.works = False
    assert [watched.look(now) for now in (25, 30, 35)] == [[], ["over: blocked"], ["over: blocked"]]
    watched.works = True
    assert [watched.look(40), watched.look(45)] == [["over: blocked"], []]


def test_dead_letters_are_told_when_there_are_more():
    """Those that were there before are none; of any kind; with all that came meanwhile once in repeat_s."""
    watched = Watched()
    assert watched.look(0, dead_lettered=7) == []
    assert watched.look(5, dead_lettered=8) == ["dead_letters"]
    assert watched.look(10, dead_lettered=9) == []
    of_group = {"groups": {**nothing()["groups"], "dead_lettered": 3}}
    assert watched.look(1005, dead_lettered=9, **of_group) == ["dead_letters"]
    assert watched.look(9999, dead_lettered=9, **of_group) == []
    assert watched.look(10005, dead_lettered=1) == [], "another database"
    assert watched.look(20000, dead_lettered=2) == ["dead_letters"]


def test_a_restart_is_told_once_for_many():
    """Once its first minute is known; a daemon that starts all the time is told once in repeat_s."""

    def minute(ended_at, run):
        return Period(ended_at, 60.0, run)

    old = [minute(60.0, 0.0), minute(120.0, 0.0)]
    assert restart([], 5.0, 1000) == restart(old, 0.0, 1000) == restart(old, 1300.0, 1000) == ""
    assert restart([*old, minute(1360.0, 1300.0)], 1300.0, 1000) == (
        "the daemon was started again at 1970-01-01T00:21:40.000Z; before that none ran for 19 min"
    )
    assert restart([*old, minute(1360.0, 1300.0), minute(1420.0, 1300.0)], 1300.0, 2000) == ""
    assert restart([minute(120.0, 0.0), minute(1060.0, 1000.0)], 1000.0, 900).endswith(
        "before that none ran for 14 min"
    )
