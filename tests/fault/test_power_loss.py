"""P1, P2, P3 and P8 when the power fails: what was said to be accepted is on the disk, not in the kernel.

A killed process keeps what it has written; a power cut does not. `power_loss` records what runs write and
sync, and writes down what could be left of their files at any moment; the product is started on that.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path

import pytest

from forwarder import salvage, spool
from forwarder.records import EVENTS
from forwarder.spool import EventQueue, NoQueueError, Selection
from forwarder.spool.sqlite import books, set_aside
from forwarder.spool.sqlite.consumer import Consumer
from forwarder.spool.sqlite.view import View

sys.path.insert(0, str(Path(__file__).parent))
import power_loss
import power_loss_run

SEED = int(os.environ.get("FORWARDER_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
# How long to go on with one recorded run after the other; without it one is cut a few times.
CRASH_S = float(os.environ.get("FORWARDER_CRASH_S", "0"))
CUTS = 100
RUN = str(Path(power_loss_run.__file__))
FILES = {"data.db", "data.db-wal", "data.db-shm", "data.db-journal", "writer.lock", "reserve", "flush"}
FILES |= {"daemon.lock", "daemon.json", "daemon.json.new", "paused"}

why_not = power_loss.why_not()
pytestmark = pytest.mark.skipif(bool(why_not), reason=f"nothing can be traced here: {why_not}")


def recorded(here, *arguments):
    """Record ``python ARGUMENTS`` with a disk of its own; DISK and SAID stand for the directories."""
    disk, said, trace = here / "disk", here / "said", here / "trace"
    disk.mkdir(parents=True)
    said.mkdir()
    (here / "no-settings.toml").touch()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FORWARDER_")}
    environ["FORWARDER_CONFIG"] = str(here / "no-settings.toml")
    places = {"DISK": str(disk), "SAID": str(said)}
    command = [*power_loss.command(trace), sys.executable, *(places.get(one, one) for one in arguments)]
    done = subprocess.run(command, capture_output=True, env=environ, timeout=100)
    assert done.returncode == 0, done.stderr.decode()
    return power_loss.Recording.read(trace, disk, said)


@pytest.fixture
def record(tmp_path):
    """Record Python code, with the modules of the run at hand."""

    def of_code(code):
        path = tmp_path / "code.py"
        path.write_text(
            f"import sys\nsys.path.insert(0, {str(Path(RUN).parent)!r})\n" + textwrap.dedent(code)
        )
        return recorded(tmp_path / "recorded", str(path), "DISK", "SAID")

    return of_code


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """One recorded run of all there is."""
    return recorded(tmp_path_factory.mktemp("whole"), RUN, "DISK", "SAID")


@pytest.fixture
def dice():
    """Thrown the same way again with the seed that is printed."""
    print(f"FORWARDER_TEST_SEED={SEED}")
    return random.Random(SEED)


class World:
    """What the world knows at a moment of a recorded run: what it was told, and what the server has."""

    def __init__(self, recording):
        self._said = recording.said
        self._heard = 0
        self.accepted = set()
        self.taken = {}
        self.paused = False

    def go_on(self, step):
        """Hear what was said up to that step; what is being said in it may be heard already."""
        while self._heard < len(self._said) and self._said[self._heard].step <= step:
            said = self._said[self._heard]
            self._heard += 1
            if said.who == "taken":
                for line in said.text.splitlines():
                    self.taken.setdefault(number_of(line), line)
            elif said.who == "paused":
                self.paused = said.text == b"yes\n"
            else:
                self.accepted.update(power_loss_run.numbers_of(said.who, said.text))


def number_of(data):
    """Which event or update of the run it is."""
    found = json.loads(data)
    return (found.get("$set") or found["properties"])["number"]


def is_event(number):
    """Whether that record is an event."""
    return power_loss_run.kind_of(number) is EVENTS


def is_unchanged(data):
    """Whether these are the bytes that were offered; what plain persist-queue put is completed."""
    number = number_of(data)
    if number not in power_loss_run.STRANGE:
        return data == power_loss_run.final(number)
    found = json.loads(data)
    del found["properties"]["time"], found["properties"]["$insert_id"]
    return found == power_loss_run.event(number)


class Left:
    """What the product finds when the power is back, and whether that is what was promised."""

    def __init__(self, path, world):
        self.path = str(path)
        self.world = world
        self.figures, self.faults = None, []
        self.dead, self.waiting = {}, {}
        # There only while a queue is being made: nothing is accepted yet.
        self.is_half_made = os.path.exists(os.path.join(self.path, "data.db-journal"))
        for kind in power_loss_run.KINDS:
            if not self.is_half_made and (figures := self._look(kind)):
                self.figures = self.figures or figures  # those of events
                self._claim(kind, figures.waiting)

    def _look(self, kind):
        try:
            with spool.at(self.path, kind).view() as view:
                figures = view.figures()
                self.faults += [finding for finding in view.check() if not finding.ok]
                letters = view.dead_letters(Selection(), limit=10_000)
        except NoQueueError:
            return None
        self.dead |= {number_of(letter.data): letter.data for letter in letters}
        return figures

    def _claim(self, kind, waiting):
        with closing(spool.at(self.path, kind).consumer()) as consumer:
            last_id, found = 0, {}
            while (claim := consumer.claim_behind(last_id, 1000, 10**7)).last_id > last_id:
                found |= {number_of(data): data for data in claim.events}
                last_id = claim.last_id
        assert len(found) == waiting
        assert all(power_loss_run.kind_of(number) is kind for number in found), "in another kind's queue"
        self.waiting |= found

    def wrong(self):
        """What is not as promised."""
        taken, found = self.world.taken, {**self.dead, **self.waiting}
        changed = {number for number, data in found.items() if not is_unchanged(data)}
        changed |= {number for number in found.keys() & taken.keys() if found[number] != taken[number]}
        files = os.listdir(self.path) if os.path.exists(self.path) else []
        wrong = {
            "lost": self.world.accepted - found.keys() - taken.keys(),
            "changed": changed,
            "dead and waiting": self.dead.keys() & self.waiting.keys(),
            "dead and delivered": self.dead.keys() & taken.keys(),
            "books": self.faults,
            "other files": set(files) - FILES,
            "no more paused": self.world.paused and not (self.figures and self.figures.paused),
        }
        return {what: how for what, how in wrong.items() if how}

    def goes_on(self):
        """It takes events, keeps them, and the books balance then, too."""
        before = self.figures.waiting if self.figures else 0
        # If the journal and the log of its creation survive both, the first that opens it finds a log, asks
        # for none, and its event is safe in it; only the next one has the database say so.
        for _ in range(2):
            with EventQueue(self.path, min_free_bytes=0) as queue:
                queue.put({"event": "after", "properties": {}})
        with View(self.path) as view:
            assert [finding for finding in books.check(view) if not finding.ok] == []
            assert view.figures().waiting == before + 2


class Cuts:
    """Cuts the power in a recorded run again and again, and counts what it has seen."""

    def __init__(self, recording, dice, place, has_journal=False):
        self.disk, self.world = power_loss.Disk(recording, has_journal), World(recording)
        self._dice = dice
        self._place = place
        names = ("cuts", "unsynced", "half made", "at risk", "by the intake", "updates", "dead", "repeats")
        self.seen = dict.fromkeys(names, 0)

    def go_to(self, step):
        """Let the run go on to that step."""
        self.disk.go_on(step)
        self.world.go_on(step)

    def left(self, way):
        """What is left by a cut now."""
        target = self._place / "cut"
        if target.exists():
            shutil.rmtree(target)
        self.disk.cut(target, way, self._dice)
        left = Left(target / "queue", self.world)
        self.seen["cuts"] += 1
        self.seen["unsynced"] += bool(self.disk.unsynced())
        self.seen["half made"] += not left.figures
        at_risk = self.world.accepted - self.world.taken.keys()
        self.seen["at risk"] += bool(at_risk)
        self.seen["by the intake"] += any(number in power_loss_run.INTAKE for number in at_risk)
        self.seen["updates"] += any(not is_event(number) for number in at_risk)
        self.seen["dead"] += bool(left.dead)
        self.seen["repeats"] += bool(left.waiting.keys() & self.world.taken.keys())
        return left

    def all_is_well(self, steps, ways=power_loss.WAYS):
        """At each of *steps*, for each of *ways*, everything is as promised, and goes on."""
        for step in steps:
            self.go_to(step)
            for way in ways or [self._dice.choice(power_loss.WAYS)]:
                left = self.left(way)
                assert left.wrong() == {}, f"step {step}, surviving: {way}; see {left.path}"
                left.goes_on()


def test_a_power_cut_loses_nothing(whole_run, dice, tmp_path):
    """Wherever in a run of all there is the power fails, and whatever of the unsynced survives: each event
    that was said to be accepted is delivered, waiting or dead, unchanged, and the books balance."""
    cuts = Cuts(whole_run, dice, tmp_path)
    cuts.all_is_well(power_loss.moments(whole_run, CUTS, dice), ways=())
    print(cuts.seen)
    assert cuts.seen["cuts"] == CUTS
    assert cuts.seen["unsynced"] > CUTS // 3, "there was something to forget"
    assert cuts.seen["at risk"] > CUTS // 3, "and something to lose"
    assert cuts.seen["by the intake"], "also what came by the intake"
    assert cuts.seen["updates"], "and of that, updates"
    assert cuts.seen["dead"], "some were dead letters"
    assert cuts.seen["repeats"], "some were delivered and not settled"


def test_a_power_cut_while_the_queue_is_made(whole_run, dice, tmp_path):
    """Wherever the power fails while a queue is being made, and whatever survives: the next start works."""
    first = next(said.step for said in whole_run.said if said.who.startswith("accepted"))
    # Several processes make it at once, and most of their steps have nothing to do with it.
    inside = [place for place in range(first + 1) if whole_run.steps[place].is_end]
    cuts = Cuts(whole_run, dice, tmp_path)
    cuts.all_is_well(sorted(dice.sample(inside, min(40, len(inside)))), ways=())
    print(cuts.seen)
    assert cuts.seen["half made"] > 10


def test_a_power_cut_while_disk_is_given_back(record, dice, tmp_path):
    """Wherever the power fails while the log is emptied and the database is made smaller, nothing is lost."""
    recording = record("""
        from pathlib import Path
        import power_loss_run
        from forwarder.spool import EventQueue, Settlement
        from forwarder.spool.sqlite.consumer import Consumer
        from forwarder.spool.sqlite import settling
        disk, said = map(Path, sys.argv[1:])
        settling.VACUUM_PAGES = 20
        queue, daemon = EventQueue(disk / "queue", min_free_bytes=0), Consumer(str(disk / "queue"))
        last_id = 0
        for start in (3, 1003):
            # Those that take more than a page.
            numbers = range(start, start + 17 * 56, 17)
            queue.put_many(map(power_loss_run.event, numbers))
            for number in numbers:
                power_loss_run.say(said / "accepted-put", b"%d-%d\\n" % (number, number))
            daemon.maintain(at_rest=True)  # what is in the log goes into the database
            claim = daemon.claim_behind(last_id, 51, 10**7)
            power_loss_run.say(said / "taken", b"\\n".join(claim.events))
            daemon.settle(Settlement(claim.ids))
            last_id = claim.last_id
            while daemon.maintain(at_rest=True):
                pass
        queue.close()
        daemon.close()
    """)
    calls = [one.call for one in recording.steps if one.is_end and one.call.where.endswith("/data.db")]
    written = max(call.number(-1) for call in calls if call.name == "pwrite64")
    smaller = [call for call in calls if call.name == "ftruncate" and call.number(-1) < written // 2]
    assert len(smaller) >= 2, "the database was made smaller each time"
    cuts = Cuts(recording, dice, tmp_path)
    cuts.all_is_well(power_loss.moments(recording, 40, dice), ways=())
    print(cuts.seen)


def test_the_command_goes_on_after_a_power_cut(whole_run, dice, tmp_path, server, forwarder, oracle):
    """`forwarder check` finds nothing wrong with what a power cut has left, and `forwarder drain` delivers
    all that waits there."""
    late = [said.step for said in whole_run.said if said.who.startswith("accepted")]
    cuts = Cuts(whole_run, dice, tmp_path)
    cuts.go_to(late[len(late) // 2])
    left = cuts.left("pages")
    assert left.wrong() == {}
    assert left.waiting
    forwarder.environ["FORWARDER_QUEUE_PATH"] = left.path
    checked = forwarder("check")
    assert checked.returncode == 0, checked.stdout
    drained = forwarder("drain", "--timeout", "50")
    assert drained.returncode == 0, drained.stderr
    there = {**left.waiting, **left.dead}
    oracle(left.path, server, [data for number, data in there.items() if is_event(number)])
    updates = {number: data for number, data in left.waiting.items() if not is_event(number)}
    assert sorted(map(number_of, [*server.users.updates, *server.groups.updates])) == sorted(updates)


@pytest.mark.parametrize("producer", power_loss_run.PRODUCERS)
def test_accepted_is_said_after_the_sync(tmp_path, producer, dice, figures):
    """When any producer hears yes, all that was written to the database and its log has been synced, and so
    have their names; something was written since the last yes."""
    counts = {"one_by_one": 3, "together": 60, "by_command": 30, "external": 3, "by_intake": 12}
    count = counts[producer]
    first = {"external": power_loss_run.STRANGE, "by_intake": power_loss_run.INTAKE}.get(producer, [0])[0]
    recording = recorded(tmp_path / producer, RUN, producer, "DISK", "SAID", str(first), str(count))
    disk = power_loss.Disk(recording)
    yes = [said.step for said in recording.said]
    assert len(yes) == {"by_command": 2}.get(producer, 3)
    for before, step in zip([0, *yes], yes, strict=False):
        disk.go_on(step)
        assert [path for path in disk.unsynced() if "data.db" in path and "-shm" not in path] == []
        names = [one.call.name for one in recording.steps[before:step] if "data.db" in one.call.where]
        assert names.index("pwrite64") < len(names) - 1 - names[::-1].index("fdatasync")
    # Plain persist-queue does not sync the name of a directory that it has made.
    disk.cut(tmp_path / "cut", "everything" if producer == "external" else "nothing", dice)
    path = str(tmp_path / "cut" / "queue")
    Consumer(path).close()  # which adopts what an external producer has made
    assert figures(path)
    left = Left(path, World(recording))
    assert (len(left.waiting), left.faults) == (count, [])


@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
def test_the_oracle_finds_what_was_not_synced(record, dice, tmp_path, synchronous):
    """With a sync left out, the same cuts and the same questions find the loss."""
    recording = record(f"""
        from pathlib import Path
        import power_loss_run
        from forwarder import EventQueue
        with EventQueue(Path(sys.argv[1]) / "queue", min_free_bytes=0) as queue:
            queue._producer._database.connect().execute("PRAGMA synchronous = {synchronous}")
            for number in range(5):
                queue.put(power_loss_run.event(number))
                power_loss_run.say(Path(sys.argv[2]) / "accepted-put", b"%d-%d\\n" % (number, number))
    """)
    cuts = Cuts(recording, dice, tmp_path)
    for said in recording.said:
        cuts.go_to(said.step)
        assert cuts.left("everything").wrong() == {}
        assert cuts.left("nothing").wrong() == {"lost": cuts.world.accepted}


MADE = {
    "with its parents": "pass",
    "by somebody else": "(Path(sys.argv[1]) / 'queue').mkdir()",
    "by plain persist-queue": "power_loss_run.external(Path(sys.argv[1]), Path(sys.argv[2]), 30_000, 1)",
}


@pytest.mark.parametrize("has_journal", [True, False])
@pytest.mark.parametrize("how", MADE)
def test_the_way_to_the_queue_lasts(record, dice, tmp_path, how, has_journal, figures):
    """However its directory was made: once an event is accepted, the directory outlasts a power cut, on a
    file system that keeps names in order and on one that keeps only what it was told to."""
    parts = "a/b/queue" if how == "with its parents" else "queue"
    recording = record(f"""
        from pathlib import Path
        import power_loss_run
        from forwarder import EventQueue
        {MADE[how]}
        with EventQueue(Path(sys.argv[1]) / "{parts}", min_free_bytes=0) as queue:
            queue.put(power_loss_run.event(1))
            power_loss_run.say(Path(sys.argv[2]) / "accepted-put", b"1-1\\n")
    """)
    disk = power_loss.Disk(recording, has_journal)
    disk.go_on(recording.said[-1].step)
    disk.cut(tmp_path / "cut", "nothing", dice)
    with View(str(tmp_path / "cut" / parts)) as view:
        assert number_of(view.peek(10)[-1].data) == 1
    figures(str(tmp_path / "cut" / parts))


# What the runs below do to a queue that has three events, 0 to 2, in its database and three in its log.
BEGINNING = """
    import os
    from pathlib import Path
    import power_loss_run
    from forwarder import EventQueue
    from forwarder.spool.sqlite.consumer import Consumer
    from forwarder.spool.sqlite import set_aside
    from forwarder.salvage import apply
    disk, said = map(Path, sys.argv[1:])
    path = str(disk / "queue")
    queue = EventQueue(path, min_free_bytes=0)

    def put(*numbers):
        for number in numbers:
            queue.put(power_loss_run.event(number))
            power_loss_run.say(said / "accepted-put", b"%d-%d\\n" % (number, number))

    def damage():
        fd = os.open(disk / "queue" / "data.db", os.O_WRONLY)
        os.pwrite(fd, bytes(100), 0)
        os.fsync(fd)
        os.close(fd)

    put(0, 1, 2)
    consumer = Consumer(path)
    consumer.maintain(at_rest=True)
    consumer.close()
    put(3, 4, 5)
"""
ENDINGS = {
    "a damaged database is set aside": """
        queue.close()
        damage()
        queue = EventQueue(path, min_free_bytes=0)
        put(6, 7)
    """,
    "a damaged database is salvaged": """
        queue.close()
        damage()
        queue = EventQueue(path, min_free_bytes=0)
        put(6)
        apply(set_aside.damaged(path)[0], path)
        put(7)
    """,
}


def brought_back(path):
    """The events in a queue once all that was set aside in it has been salvaged."""
    with EventQueue(path, min_free_bytes=0) as queue:
        queue.put({"event": "after", "properties": {}})
    for file in set_aside.damaged(path):
        salvage.apply(file, path)
    with View(path) as view:
        assert [finding for finding in books.check(view) if not finding.ok] == []
        return [row.data for row in view.peek(1000) if b'"number"' in row.data]


@pytest.mark.parametrize("what", ENDINGS)
def test_a_power_cut_while(what, record, dice, tmp_path):
    """Wherever the power fails while damage is dealt with: what was accepted waits in the queue, or is
    salvaged into it."""
    recording = record(textwrap.dedent(BEGINNING) + textwrap.dedent(ENDINGS[what]))
    # Salvage renames a directory, which can never have both names, as it might on `Disk` without a journal.
    disk, world = power_loss.Disk(recording, has_journal="salvaged" in what), World(recording)
    yes = [said.step for said in recording.said]
    # A deletion may last before the copy does; who has put nothing since has been told nothing since.
    first = yes[6] if "deleted" in what else yes[5]
    assert len(yes) == 8
    every = max(1, (len(recording.steps) - first) // 60)
    steps = [*range(first, yes[-1], every), yes[-1]]
    were_set_aside = 0
    for step in steps:
        disk.go_on(step)
        world.go_on(step)
        target = tmp_path / "cut"
        shutil.rmtree(target, ignore_errors=True)
        disk.cut(target, dice.choice(power_loss.WAYS), dice)
        path = str(target / "queue")
        were_set_aside += bool(set_aside.damaged(path))
        events = brought_back(path)
        assert all(map(is_unchanged, events))
        assert world.accepted - set(map(number_of, events)) == set(), f"step {step}; see {target}"
    assert were_set_aside > 5, "many cuts came when something was set aside"


def test_looking_at_a_queue_that_is_half_made(record, dice, tmp_path):
    """Wherever the making of a queue is cut short: who looks is told that there is no queue yet."""
    recording = record("""
        from pathlib import Path
        from forwarder import EventQueue
        EventQueue(Path(sys.argv[1]) / "queue", min_free_bytes=0).close()
    """)
    cuts = Cuts(recording, dice, tmp_path)
    half_made = 0
    for step in range(len(recording.steps)):
        cuts.go_to(step)
        left = cuts.left("everything")
        if left.is_half_made:
            half_made += 1
            with pytest.raises(NoQueueError):
                View(left.path)
    assert half_made > 10


@pytest.mark.skipif(not CRASH_S, reason="FORWARDER_CRASH_S says for how many seconds; `make crash` does")
@pytest.mark.timeout(CRASH_S + 120)
def test_power_cuts_for_a_long_time(tmp_path, dice):
    """As above, with one recorded run after the other, and hundreds of cuts in each."""
    ends_at = time.monotonic() + CRASH_S
    seen, runs = {}, 0
    while time.monotonic() < ends_at:
        place = tmp_path / f"run-{runs}"
        recording = recorded(place, RUN, "DISK", "SAID")
        cuts = Cuts(recording, dice, place)
        cuts.all_is_well(power_loss.moments(recording, 5 * CUTS, dice), ways=())
        seen = {what: count + seen.get(what, 0) for what, count in cuts.seen.items()}
        runs += 1
        shutil.rmtree(place)
    print(f"{runs} recorded runs: {seen}; lost 0, changed 0")
    assert runs
