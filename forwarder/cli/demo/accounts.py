"""The demo's last act: the books of the programs, the queue and the server are compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from forwarder.cli.demo.balance import Balance, compare
from forwarder.cli.demo.narrator import Narrator
from forwarder.cli.demo.programs import Run
from forwarder.errors import ForwarderError
from forwarder.sandbox import Ledger
from forwarder.spool import Figures, Selection, View
from forwarder.text import counted

TITLES = ("program", "offered", "refused", "accepted", "delivered", "dead letters", "waiting", "lost")
_ALL = 1_000_000


def present(narrator: Narrator, runs: Sequence[Run], ledger: Ledger, view: View) -> None:
    """Compare everything with everything, and show it.

    Raises:
        ForwarderError: the books do not balance; the message has all differences.
    """
    accepted = {key: event for run in runs for key, event in run.program.accepted.items()}
    found = {
        "delivered": [entry.data for entry in ledger.events.values()],
        "dead": [letter.data for letter in view.dead_letters(Selection(), limit=_ALL)],
        "waiting": [row.data for row in view.peek(_ALL)],
    }
    balance = compare(accepted, found)
    figures = view.figures()
    narrator.heading("What became of every event")
    narrator.tabulates(TITLES, list(_rows(runs, balance)))
    narrator.shows("")
    narrator.says(
        f"The queue's books: accepted {figures.accepted:,} = delivered {figures.delivered:,} + dead-lettered "
        f"{figures.dead_lettered:,} + deleted {figures.deleted:,} + waiting {figures.waiting:,}, where "
        f"{counted(figures.retried, 'event')} that was put back counts again."
    )
    narrator.says(
        f"The server's ledger: {ledger.accepted:,} different events; {ledger.repeats:,} copies, which were "
        "sent again because an answer got lost, are dropped."
    )
    faults = [*balance.faults, *_disagreements(runs, balance, figures, ledger), *_unsound(view)]
    if faults:
        raise ForwarderError("the books do not balance: " + "; ".join(faults))
    narrator.says(
        "The books balance: compared one by one, each accepted event is in one place, once, and as it was "
        "offered, except for the one that was fixed.",
        "bold green",
    )


def _rows(runs: Sequence[Run], balance: Balance) -> Iterator[list[str]]:
    """The table's rows, a program each, and the totals."""
    totals: Counter[str] = Counter()
    for name in dict.fromkeys(run.program.name for run in runs):
        its_runs = [run for run in runs if run.program.name == name]
        counts = Counter(
            refused=sum(run.refused for run in its_runs), accepted=sum(run.accepted for run in its_runs)
        )
        counts["offered"] = sum(len(run.program.accepted) + len(run.program.refused) for run in its_runs)
        for place, keys in {**balance.places, "lost": balance.lost}.items():
            counts[place] = sum(program == name for program, _ in keys)
        totals.update(counts)
        yield _row(name, counts)
    yield _row("all", totals)


def _row(name: str, counts: Counter[str]) -> list[str]:
    columns = ("offered", "refused", "accepted", "delivered", "dead", "waiting", "lost")
    return [name, *(f"{counts[column]:,}" for column in columns)]


def _disagreements(runs: Sequence[Run], balance: Balance, figures: Figures, ledger: Ledger) -> Iterator[str]:
    """Where two counts of the same thing differ."""
    for run in runs:
        program = run.program
        told = run.accepted, run.refused
        expected = len(program.accepted), len(program.refused)
        if told != expected:
            yield f"{program.name} got accepted/refused {told}, but {expected} was expected"
    places = {place: len(keys) for place, keys in balance.places.items()}
    accepted = sum(run.accepted for run in runs)
    pairs = {
        "accepted, as reported to the programs, and in the queue's books": (
            accepted + figures.retried,
            figures.accepted,
        ),
        "delivered, at the server and in the queue's books": (places["delivered"], figures.delivered),
        "dead letters, by content and in the queue's books": (places["dead"], figures.dead_letters),
        "waiting, by content and in the queue's books": (places["waiting"], figures.waiting),
        "waiting, and what should still wait": (figures.waiting, 0),
        "copies with other bytes than the first, and none": (ledger.altered, 0),
    }
    for what, (one, other) in pairs.items():
        if one != other:
            yield f"{what}: {one:,} against {other:,}"


def _unsound(view: View) -> Iterator[str]:
    for finding in view.check():
        if not finding.ok:
            yield f"{finding.name}: {finding.detail}"
