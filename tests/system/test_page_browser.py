"""The web page in a real Chromium: quiet, live, legible on any screen, for keyboards and screen readers."""

import json
import os
import re
import socket
import time
from contextlib import closing, contextmanager

import pytest

from forwarder import spool
from forwarder.sandbox import Fault, Sandbox
from forwarder.service.status import without_quotes
from forwarder.spool import EventQueue, Period
from tests.conftest import TOKEN, Forwarder
from tests.system.devtools import Browser

RANGES = ("Hour", "Day", "Week", "Month")
PLOTS = 8
# Timers of the page run ten times as fast.
HASTE = "const wait = setInterval; setInterval = (what, ms) => wait(what, ms / 10)"
# The text in the page whose contrast to what is behind it is below 4.5, or 3 if it is large.
TOO_FAINT = """(() => {
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const found = parts(getComputedStyle(node).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const faint = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const { parentElement: of, textContent } = texts.currentNode;
    if (!textContent.trim() || !of.checkVisibility() || of.closest("script, .hidden")) continue;
    const style = getComputedStyle(of);
    const pair = [light(parts(of.closest("svg") ? style.fill : style.color)), light(behind(of))];
    const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (contrast < 4.5) faint.push([textContent, contrast]);
  }
  return faint;
})()"""
# Texts of a plot that overlap another, or reach out of the plot's frame.
OVERLAPS = """[...document.querySelectorAll("figure")].flatMap((figure) => {
  const frame = figure.getBoundingClientRect();
  const texts = [...figure.querySelectorAll("svg text, figcaption h3, .legend span")];
  const boxes = texts.map((text) => [text.textContent, text.getBoundingClientRect()]);
  const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  return boxes.flatMap(([text, box], at) => [
    ...boxes.slice(at + 1).filter(([, other]) => meet(box, other)).map(([other]) => [text, other]),
    ...(box.left < frame.left || box.right > frame.right ? [[text, "the frame"]] : []),
  ]);
})"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A Chromium without a window."""
    with closing(Browser(tmp_path_factory.mktemp("chromium") / "profile")) as browser:
        yield browser


@pytest.fixture
def browser(chromium):
    """A new tab of it."""
    chromium.open_tab()
    return chromium


class Site:
    """A daemon that serves the page, of a queue with a past: an outage, and times without a daemon."""

    def __init__(self, place, server):
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            listen = f"127.0.0.1:{free.getsockname()[1]}"
        self.url = f"http://{listen}/"
        self.queue_path = str(place / "queue")
        self.server = server
        self.forwarder = Forwarder(self.queue_path, server.url)
        self.forwarder.environ |= {"FORWARDER_CONFIG": os.devnull, "FORWARDER_METRICS_LISTEN": listen}
        record(self.queue_path)

    def start(self):
        """Start the daemon; returns it once it serves."""
        daemon = self.forwarder.daemon()
        daemon.wait_for("metrics.listening")
        return daemon


@contextmanager
def made(place):
    """One that does not run yet."""
    with Sandbox(token=TOKEN) as server:
        site = Site(place, server)
        with closing(site.forwarder):
            yield site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """One that runs, for tests that leave it as it is."""
    with made(tmp_path_factory.mktemp("site")) as site:
        site.start()
        yield site


@pytest.fixture
def url(site):
    """Its address."""
    return site.url


@pytest.fixture
def own_site(tmp_path):
    """One for one test, which starts it."""
    with made(tmp_path) as site:
        yield site


def record(queue_path):
    now = time.time()
    with EventQueue(queue_path, min_free_bytes=0, rules=False) as queue:
        queue.put({"event": "<i>Long</i> name", "properties": {"$insert_id": "secret value!", "time": 1}})
        queue.put_profile({"$token": "sandbox-token", "$distinct_id": "d", "$set": {"a": 1}})
    with closing(spool.at(queue_path).consumer()) as consumer:
        for number in range(1500, 0, -1):
            if 20 < number < 30 or 600 < number < 700:
                continue
            state = "blocked" if 10 < number < 15 else "running"
            consumer.record(
                Period(
                    now - 60.0 * number,
                    60.0,
                    now - 1e6,
                    accepted=number * 7,
                    delivered=number * 6,
                    dead_lettered=number % 5,
                    refused=number % 3,
                    waiting=number * 111,
                    oldest_waiting_s=number * 2.0,
                    requests={"delivered": number, "throttled": 2, "unreachable": 1, "short count": 1},
                    p50_s=0.2,
                    p95_s=0.4 + number % 7 / 10,
                    used_bytes=number * 100_000,
                    disk_free_bytes=80 * 2**30,
                    states={state: 60.0},
                    reason="401: the key is refused" if state == "blocked" else "",
                )
            )


def complaints(browser):
    """What the browser has to say against the page: errors, warnings, and what its policy forbids."""
    return browser.reported("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")


def test_it_is_quiet_and_asks_nobody_else(browser, url, until):
    """No error and no message, nothing that its policy forbids, and requests to the daemon alone."""
    browser.call("Page.addScriptToEvaluateOnNewDocument", source=HASTE)
    for name in RANGES:
        browser.open(f"{url}?range={name.lower()}")
    until(
        lambda: any(
            "/live?" in each["request"]["url"] for each in browser.reported("Network.requestWillBeSent")
        )
    )
    until(lambda: browser.value("Object.keys(shown).length") > 5)
    assert complaints(browser) == []
    asked = {each["request"]["url"] for each in browser.reported("Network.requestWillBeSent")}
    assert [each for each in asked if not each.startswith((url, "data:"))] == []
    # What the policy forbids would be noticed.
    browser.value("fetch('http://localhost:1/').catch(() => 0)")
    browser.value("document.body.insertAdjacentHTML('beforeend', '<p style=\"color:red\" onclick=\"1\">')")
    until(lambda: len([each for each in complaints(browser) if "Content Security" in str(each)]) >= 2)


def test_its_figures_are_those_of_status(browser, site, until):
    """Each of them, as the table in the page has them."""
    forwarder = site.forwarder
    until(lambda: forwarder.json("status")["waiting"] == 0)
    script = """Object.fromEntries([...document.querySelectorAll("#figures tbody tr")]
        .map((row) => [...row.children].map((cell) => cell.textContent)))"""

    def flat(found, prefix=""):
        for key, value in found.items():
            if isinstance(value, dict) and value:
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield (
                    f"{prefix}{key}",
                    value.replace("`", "") if isinstance(value, str) else json.dumps(value),
                )

    moving = re.compile(r"(.*\.)?(rate_1m|accepted_1m|wal_bytes|.*_in_s|disk_free_bytes|(db|used)_bytes)$")

    def compared():
        browser.open(site.url)
        found = browser.value(script)
        expected = dict(flat(without_quotes(forwarder.json("status"))))
        if list(found) != list(expected):
            return False
        still = [key for key in expected if not moving.match(key)]
        return {key: found[key] for key in still} == {key: expected[key] for key in still}

    until(compared)
    assert browser.value("document.querySelector('#state').textContent").startswith("Running: nothing waits.")


def test_it_is_live_and_keeps_what_the_reader_does(browser, own_site, until):
    """An outage of Mixpanel and of the daemon itself, and the end of each, show by themselves. What is
    open, focused and scrolled stays so, and a screen reader hears of changes only."""
    daemon = own_site.start()
    browser.call("Page.addScriptToEvaluateOnNewDocument", source=HASTE)
    browser.look(1400)
    browser.open(own_site.url)
    state = "document.querySelector('.state strong').textContent"
    at = "document.querySelector('#at').textContent"
    browser.value("""window.heard = []; new MutationObserver(() => heard.push(said.textContent))
        .observe(said, { childList: true })""")
    browser.value("document.querySelectorAll('summary')[5].click()")
    browser.value("document.querySelectorAll('summary')[5].focus()")
    browser.value("document.querySelectorAll('figure .scroll')[5].scrollTop = 40")
    browser.value("scrollTo(0, 300)")

    def is_kept():
        return browser.value(
            """document.activeElement === document.querySelectorAll("summary")[5] && scrollY === 300
            && document.querySelectorAll("details")[5].open && heard !== undefined
            && document.querySelectorAll("figure .scroll")[5].scrollTop === 40"""
        )

    assert is_kept()
    first = browser.value(at)
    until(lambda: browser.value(at) != first)
    assert (is_kept(), browser.value("heard")) == (True, [])

    own_site.server.inject(Fault.server_error(503))
    with EventQueue(own_site.queue_path, min_free_bytes=0) as queue:
        queue.put({"event": "e", "properties": {}})
    until(lambda: browser.value(state) == "Backing off:")
    assert browser.value("document.title") == "Backing off – forwarder"  # noqa: RUF001
    assert is_kept()
    own_site.server.clear()
    until(lambda: browser.value(state) == "Running:")
    told = browser.value("heard")
    assert [text.partition(":")[0] for text in told] == ["Backing off", "Running"]
    assert complaints(browser) == []

    daemon.kill()
    lost = "lost.hidden ? '' : lost.textContent"
    until(lambda: re.fullmatch(r"Not reached since \d\d:\d\d UTC", browser.value(lost)))
    assert is_kept()
    own_site.start()
    until(lambda: browser.value(lost) == "")
    assert is_kept()
    heard = browser.value("heard")[2:]
    assert [text.partition(" ")[0] for text in heard] == ["Not", "Running:"]


@pytest.mark.parametrize("width", [360, 768, 1400, 2560])
def test_it_is_legible_on_any_screen(browser, url, width):
    """Nothing is wider than the screen, no words overlap, and all text has the contrast to be read, in light
    and in dark."""
    browser.look(width)
    for name in RANGES:
        browser.open(f"{url}?range={name.lower()}")
        browser.value("document.querySelector('section > details').open = true")
        assert browser.value("document.documentElement.scrollWidth") == width
        assert browser.value(OVERLAPS) == []
        assert browser.value("document.querySelectorAll('.plot path').length") >= PLOTS
        for scheme in ("light", "dark"):
            browser.prefer(scheme)
            assert browser.value(TOO_FAINT) == []
            dark = browser.value("getComputedStyle(document.body).backgroundColor")
            assert (dark == "rgb(18, 20, 23)") == (scheme == "dark")


def test_a_keyboard_reaches_everything_in_order(browser, url):
    """Ranges, the values of each plot, all figures, and the links at the foot; where it is, is seen."""
    browser.look(1400)
    browser.open(url)
    where = """(() => { const at = document.activeElement;
        return [at.textContent.trim(), getComputedStyle(at).outlineStyle]; })()"""
    found = []
    for _ in range(len(RANGES) + PLOTS + 4):
        browser.press("Tab", 9)
        found.append(browser.value(where))
    assert {outline for _, outline in found} == {"solid"}
    texts = [text for text, _ in found]
    assert texts[:4] == list(RANGES)
    assert [text.partition(" ")[0] for text in texts[4 : 4 + PLOTS]] == ["Values"] * PLOTS
    assert texts[4 + PLOTS :] == ["As forwarder status --json has them", "status", "history", "metrics"]
    browser.value("document.querySelectorAll('summary')[0].focus()")
    browser.press("Enter", 13, "\r")
    browser.press("Tab", 9)
    assert browser.value("document.activeElement.getAttribute('aria-label')") == "Values of Rate"


def test_a_screen_reader_finds_its_way(browser, url):
    """Landmarks and headings in order; each plot says in words what it shows, and one region speaks."""
    browser.open(url)
    nodes = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in browser.call("Accessibility.getFullAXTree")["nodes"]
        if not node["ignored"]
    ]
    roles = [role for role, _ in nodes]
    for role in ("banner", "main", "navigation", "contentinfo", "status"):
        assert roles.count(role) == 1, role
    headings = browser.value(
        "[...document.querySelectorAll('h1, h2, h3')].map((h) => h.localName + h.textContent)"
    )
    assert headings[:4] == ["h1Forwarder", "h2If it goes on like this", "h2What happened", "h3Rate"]
    plots = [name for role, name in nodes if role == "image"]
    assert len(plots) == PLOTS
    assert re.match(r"Rate\. Accepted: now \S+/s, least \S+/s, most \S+/s at .* Delivered: now ", plots[0])
    assert all("Nothing is recorded for " in name for name in plots)
    live = browser.value(
        "[...document.querySelectorAll('[role=status], [role=alert], [aria-live], output')].length"
    )
    assert live == 1


def test_it_works_without_javascript(browser, url):
    """It has everything, links to the ranges, and loads itself again."""
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(url)
    document = browser.call("DOM.getDocument")["root"]["nodeId"]
    found = browser.call("DOM.getOuterHTML", nodeId=document)["outerHTML"]
    assert found.count('<svg class="plot"') == PLOTS
    assert '<meta http-equiv="refresh"' in found
    assert re.findall(r'href="\?range=(\w+)"', found) == [name.lower() for name in RANGES]
    (planned,) = browser.reported("Page.frameScheduledNavigation")
    assert (planned["reason"], planned["delay"], planned["url"]) == ("metaTagRefresh", 10, url)
