"""What `top` shows at each size, without a terminal: the exact lines."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rich.cells import cell_len

from forwarder.cli.screen import Line, State, document, most_scroll, render, short
from forwarder.cli.top import keys, press
from forwarder.cli.watched import Look
from forwarder.service.causes import Cause
from forwarder.service.shape import Shape
from forwarder.service.status import nothing
from forwarder.spool import Period

NOW = 1_700_049_600.0
FOUND = {
    **nothing(),
    "exists": True,
    "state": "backing_off",
    "state_reason": "HTTP 503: try later",
    "accepted": 12_345,
    "delivered": 11_000,
    "dead_lettered": 100,
    "waiting": 1_245,
    "in_flight": 45,
    "dead_letters": 100,
    "oldest_waiting_s": 90.0,
    "rate_1m": 12.5,
    "accepted_1m": 250.0,
    "eta_s": None,
    "db_bytes": 1024**2,
    "disk_free_bytes": 5 * 1024**3,
    "requests": {"delivered": 9, "unreachable": 4},
    "connections": 2,
    "request_p50_s": 0.25,
    "request_p95_s": 1.5,
    "pid": 0,
    "queue_path": "/var/lib/forwarder",
    "last_delivery_at": None,
    "last_error": "HTTP 503: try later",
    "last_error_at": None,
    "full_in_s": 7200.0,
    "disk_full_in_s": None,
    "oldest_late_in_s": None,
}
CAUSES = [(Cause("Purchase", "properties.time", "is no number"), 90), (Cause("", "", "not JSON"), 10)]
SHAPE = Shape(
    (("Purchase", (0, 1000, 200, 0, 0, 0)), ("Seen\x1b[31m", (45, 0, 0, 0, 0, 0))), 1000, is_sample=True
)
MINUTES = [
    Period(NOW - 60 * n, 60.0, 1.0, accepted=60 * 50 * n, delivered=600) for n in (5, 4, 2, 1, 0)
]  # no daemon ran three minutes ago
LOOK = Look("", NOW, FOUND, "", MINUTES, SHAPE, CAUSES)


def text(lines):
    return [line.text for line in lines]


def test_80_columns_by_24_lines():
    """Everything that matters fits the usual terminal, the most important first, and the keys stand last."""
    assert text(render([LOOK], State(), 80, 24, NOW)) == [
        "Backing off: HTTP 503: try later; nothing is lost, 1,245 events wait, the oldest",
        "for 90 s.",
        f"accepted       250/s  {'·' * 51}█▇·▄▂ █",
        f"delivered     12.5/s  {'·' * 51}▁▁·▁▁▁▁",
        "waiting        1,245 events, 45 of them in flight",
        "forecast       queue full: in about 2 h 0 min; disk full: never, at this rate",
        "",
        "ages in a sample of 1,000        total    5 s  1 min  5 min    1 h    1 d   more",
        "all                               1245     45   1000    200      -      -      -",
        "Purchase                          1200      -   1000    200      -      -      -",
        "Seen\\x1b[31m                        45     45      -      -      -      -      -",
        "",
        "requests       9 delivered, 4 unreachable; half took up to 250 ms, 95 % up to",
        "               1.5 s",
        "dead letters   100 (`forwarder dead-letters summary`)",
        "       90  Purchase  properties.time: is no number",
        "       10  (no name)  not JSON",
        "last error     HTTP 503: try later",
        "disk           database 1.0 MiB, its log 0 B, free 5.0 GiB",
        "daemon         a process that is not visible from here, as in another container,",
        "               2 connections",
        "last delivery  never",
        "queue          /var/lib/forwarder",
        "p pause  f flush  d dead letters  h help  q quit",
    ]


def test_a_small_screen_has_what_matters_most():
    """What does not fit is left out from the end, and long lines are cut."""
    assert text(render([LOOK], State(), 40, 10, NOW)) == [
        "Backing off: HTTP 503: try later;",
        "nothing is lost, 1,245 events wait, the",
        "oldest for 90 s.",
        f"accepted       250/s  {'·' * 11}█▇·▄▂ █",
        f"delivered     12.5/s  {'·' * 11}▁▁·▁▁▁▁",
        "waiting",
        "  1,245 events, 45 of them in flight",
        "forecast",
        "  queue full: in about 2 h 0 min; disk",
        "p pause  f flush  d dead letters  h hel…",
    ]


def test_a_large_screen_has_all_names():
    """The ages take what the rest leaves: at 200 x 50 all names, at 80 x 20 one less."""
    many = Shape(tuple((f"Event {n:02}", (1, 0, 0, 0, 0, 0)) for n in range(12)), 12, is_sample=False)
    look = Look("", NOW, {**FOUND, "last_error": "e" * 300}, "", MINUTES, many, CAUSES)
    large = text(render([look], State(), 200, 50, NOW))
    assert len(large) == 50
    assert max(map(len, large)) <= 200
    assert sum(line.startswith("Event") for line in large) == 12
    assert f"ages{' ' * 36}  total    5 s" in large[5] + large[6]
    small = text(render([look], State(), 80, 20, NOW))
    assert [line for line in small if line.startswith("Event")] == [small[9]]
    assert not any(line.startswith("queue ") for line in small)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (200, 50), (12, 3), (1, 1)])
@pytest.mark.parametrize("page", ["flow", "dead", "help"])
def test_it_fits_and_is_ascii_where_asked(width, height, page):
    """Each page has as many lines as the screen, none too wide; and without UTF-8 nothing but ASCII."""
    looks = [LOOK, Look("Zürich 東京", NOW, FOUND), Look("c", NOW, error="kaputt: äöü")]
    for selected in range(3):
        lines = render(looks, State(selected, page), width, height, NOW)
        assert len(lines) == height
        assert max(cell_len(line.text) for line in lines) <= width
        plain = text(render(looks, State(selected, page), width, height, NOW, utf8=False))
        assert all(line.isascii() for line in plain)


def test_several_queues_have_a_line_each():
    """The selected one is marked and shown in detail; one that can't be read says why."""
    running = {**FOUND, "state": "running", "state_reason": "", "full_in_s": None, "waiting": 0}
    looks = [
        Look("shop", NOW, FOUND, "", MINUTES),
        Look("down", NOW, error="This user can't read it."),
        Look("web", NOW, running),
        Look("new", NOW),
    ]
    lines = render(looks, State(selected=1), 90, 15, NOW)
    assert lines[:7] == [
        Line("  QUEUE STATE       WAITING      OLDEST   IN/S  OUT/S   DEAD     FULL IN", "bold"),
        Line("  shop  backing off    1245        90 s    250     12    100   2 h 0 min", "yellow"),
        Line("> down  This user can't read it.", "red"),
        Line("  web   running           0        90 s    250     12    100       never", "green"),
        Line("  new   looking", ""),
        Line(""),
        Line("This user can't read it.", "bold red"),
    ]
    assert lines[-1].text.startswith("Tab next queue  p pause")
    narrow = render(looks, State(), 40, 10, NOW)
    assert text(narrow)[:2] == [
        "  QUEUE STATE       WAITING      OLDEST",
        "> shop  backing off    1245        90 s",
    ]


def test_of_many_queues_those_around_the_selected_one_are_listed():
    """The list takes a third of the screen, and the selected one is always in it."""
    looks = [Look(f"q{n}", NOW, FOUND) for n in range(30)]
    for selected in (0, 7, 29):
        lines = text(render(looks, State(selected), 80, 24, NOW))
        listed = [line for line in lines if line[2:3] == "q" and line[3:4].isdigit()]
        assert len(listed) == 7
        assert [line[:5] for line in listed if line[0] == ">"] == [f"> q{selected}".ljust(5)]


def test_updates_have_a_line_if_there_were_any():
    """Of profile and group updates, those that were ever used."""
    engage = {**FOUND["engage"], "accepted": 9, "waiting": 4, "delivered": 5}
    lines = text(render([Look("", NOW, {**FOUND, "engage": engage})], State(), 80, 24, NOW))
    assert "profile updates 4 waiting, 5 delivered" in lines
    assert not any("group updates" in line for line in lines)


def test_what_is_not_known_yet():
    """Before the first look, where there is no queue, and while a queue does not answer, that is said."""
    assert text(render([Look("", NOW)], State(), 80, 5, NOW))[0] == "Looking ..."
    none = {**nothing(), "state_reason": "there is no queue in /q yet"}
    assert text(render([Look("", NOW, none)], State(), 80, 5, NOW))[:2] == [
        "There is no queue in /q yet.",
        "",
    ]
    late = text(render([LOOK], State(), 80, 9, NOW + 70))
    assert late[2] == "This was so 70 s ago; the queue does not answer."


def test_the_present_minute_is_no_gap():
    """Until its minute is over nothing is recorded of it: the newest one that is stands beside the present
    rate. Once it is late, no daemon runs, and there is a gap."""
    for after_s, spark in ((40, "·█▇·▄▂ █"), (130, "·█▇·▄▂ ··█")):
        look = Look("", NOW + after_s, FOUND, "", MINUTES)
        assert text(render([look], State(), 80, 24, NOW + after_s))[2].endswith(spark)


def test_forecasts():
    """Each says when, and tells what is so already from what never is, at this rate."""
    figures = FOUND | {"waiting": 2000, "eta_s": 30.0, "full_in_s": 0.0, "oldest_late_in_s": 600.0}
    shown = text(render([Look("", NOW, figures)], State(), 160, 24, NOW))
    assert (
        "forecast       nothing waits: in about 30 s; queue full: now; disk full: never, at this rate; "
        "oldest late: in about 10 min"
    ) in shown
    several = text(render([Look("a", NOW, figures), Look("b", NOW)], State(), 90, 24, NOW))
    assert several[1].endswith("         now")


def test_the_list_of_causes():
    """All causes with their counts, long ones over several lines; and of how many they are."""
    look = Look("", NOW, {**FOUND, "dead_letters": 2345}, causes=CAUSES)
    assert text(document(look, "dead", 40)) == [
        "Dead letters by cause: the newest 1,000 of 2,345",
        "",
        "     90  Purchase  properties.time: is",
        "         no number",
        "     10  (no name)  not JSON",
    ]
    assert text(document(Look("a", NOW), "dead", 40)) == ["Dead letters by cause, a", "", "There are none."]
    assert most_scroll(look, State(page="dead"), 40, 4) == 2
    assert text(render([look], State(page="dead", scroll=2), 40, 4, NOW)) == [
        "     90  Purchase  properties.time: is",
        "         no number",
        "     10  (no name)  not JSON",
        "d back  up and down scroll  q quit",
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.04, "0.0"), (9.96, "10.0"),
     (12.4, "12"), (9999, "9999"), (10_000, "10k"), (999_499, "999k"),
     (999_500, "1.0M"), (1_250_000, "1.2M"), (45e6, "45M"), (3e9, "3.0G"), (5e12, "5T")],
)  # fmt: skip
def test_numbers_are_short(value, shown):
    """In a table a number has 5 characters at most."""
    assert short(value) == shown
    assert len(shown) <= 5


class Queue:
    """Stands for a queue that is watched: notes what was requested."""

    def __init__(self, paused: bool = False) -> None:
        self.look = SimpleNamespace(found={"paused": paused})
        self.answer = "old"
        self.requested: list[str] = []

    def request(self, action: str) -> None:
        self.requested.append(action)


def typed(text, *queues, state=None):
    """The state after these keys, and whether they have ended it."""
    state = state or State()
    goes_on = [press(key, state, queues, 5) for key in keys(text)]
    return state, goes_on


def test_keys_have_names():
    """What a terminal sends for a key is one key, in either mode of the arrows; characters are themselves."""
    assert keys(b"qp\t\r\x1b[A\x1bOB\x1b[6~\x1b[Z\x1b[1;5C?") == [
        *("q", "p", "tab", "enter", "up", "down", "page down", "backtab", "\x1b[1;5C", "?"),
    ]
    assert keys(b"\x1b") == ["escape"]
    assert keys("ä\xff".encode("latin-1")) == ["\ufffd", "\ufffd"]


def test_a_pause_asks_first():
    """p pauses after y and nothing else; where delivery is paused it resumes."""
    queue, paused = Queue(), Queue(paused=True)
    state, _ = typed(b"p", queue)
    assert (state.asked, queue.requested, queue.answer) == ("pause", [], "")
    assert render([Look("shop", NOW)], state, 80, 2, NOW)[-1] == Line(
        "Pause delivery of shop? y/n", "reverse"
    )
    assert (typed(b"n", queue, state=state)[0].asked, queue.requested) == ("", [])
    state, goes_on = typed(b"pq", queue)
    assert (goes_on, queue.requested) == ([True, True], []), "q answers no"
    typed(b"py", queue)
    typed(b"pY", paused)
    assert (queue.requested, paused.requested) == (["pause"], ["resume"])


def test_the_other_keys():
    """f flushes, Tab and the arrows select, d and h open and close their pages, q ends."""
    queues = Queue(), Queue(), Queue()
    state, _ = typed(b"\tf", *queues)
    assert (state.selected, queues[1].requested) == (1, ["flush"])
    assert typed(b"\t\t\t\t", *queues)[0].selected == 1
    assert typed(b"\x1b[A", *queues)[0].selected == 2
    assert typed(b"d", *queues)[0].page == "dead"
    assert typed(b"dd", *queues)[0].page == typed(b"h\r", *queues)[0].page == "flow"
    assert typed(b"?", *queues)[0].page == "help"
    state, _ = typed(b"d\x1b[B\x1b[B\x1b[6~\x1b[A", *queues)
    assert (state.scroll, state.selected) == (6, 0), "on a page the arrows scroll"
    assert typed(b"d\x1b[A", *queues)[0].scroll == 0
    assert typed(b"xq", *queues)[1] == [True, False]
