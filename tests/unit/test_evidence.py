"""What counts for and against an event that was refused without a reason."""

import pytest

from forwarder.delivery.batch import Batch
from forwarder.delivery.evidence import CREDIT, CREDIT_MOST, MANY, Evidence
from forwarder.delivery.suspects import ASKS, Suspects


def sent(evidence, ids=(1,)):
    batch = Batch(list(ids), [b"{}"] * len(ids), 3 * len(ids))
    evidence.number(batch)
    return batch


def good(evidence, imported=1):
    """Something else is sent, and judged; so many of it are imported."""
    evidence.said_yes(sent(evidence), imported)


@pytest.fixture
def evidence():
    return Evidence()


@pytest.fixture
def refuse(evidence):
    """Refuse a batch alone, so often, with so much imported between each two; returns whether it is dead."""
    suspects = Suspects(None, evidence)

    def refuse(batch, times=1, imported=1):
        for _ in range(times):
            evidence.number(batch)
            evidence.refused(batch)
            dead = suspects.is_dead(batch)
            evidence.refused_alone()
            good(evidence, imported)
        return dead

    return refuse


def test_it_takes_so_many_refusals(evidence, refuse):
    """An event is dead at the last of `ASKS` refusals with an import between each two, not before."""
    batch = sent(evidence)
    assert not refuse(batch, ASKS - 1)
    assert refuse(batch)


def test_refusals_without_a_yes_between_them_count_as_one(evidence, refuse):
    """However often something is refused on end, that is one refusal."""
    batch = sent(evidence)
    good(evidence)
    for _ in range(20):
        evidence.number(batch)
        evidence.refused(batch)
    assert batch.refusals == 1


def test_yes_to_what_was_sent_before_counts_for_nothing(evidence):
    """A yes that was on its way when something was refused says nothing about it."""
    early, batch = sent(evidence), sent(evidence)
    evidence.refused(batch)
    evidence.said_yes(early, 1)
    evidence.refused(batch)
    assert batch.refusals == 1


def test_nobody_dies_without_an_import(evidence, refuse):
    """Where events are judged and none is imported, all refusals in the world kill nothing."""
    assert not refuse(sent(evidence), 10 * ASKS, imported=0)


def test_import_before_the_first_refusal_is_not_enough(evidence, refuse):
    """What was imported before an event was first refused tells nothing about it."""
    good(evidence, 1000)
    assert not refuse(sent(evidence), 10 * ASKS, imported=0)


def test_no_more_than_three_die_on_end(evidence, refuse):
    """Of those that would be dead, all asked before the next yes, only `MANY` are."""
    waiting = [sent(evidence) for _ in range(10)]
    for batch in waiting:
        refuse(batch, ASKS - 1, imported=1000)
    suspects = Suspects(None, evidence)
    dead = 0
    for batch in waiting:
        evidence.refused(batch)
        dead += suspects.is_dead(batch)
        evidence.refused_alone()
    assert dead == MANY


def test_credit_is_paid_by_imports_and_bounded(evidence):
    """Each import pays for three deaths, each hundred events for one more, and it can't be saved up."""
    good(evidence, 5)
    assert evidence.credit == CREDIT
    good(evidence, 250)
    assert evidence.credit == 2 * CREDIT + 2
    for _ in range(100):
        good(evidence, 2000)
    assert evidence.credit == CREDIT_MOST


def test_parts_have_the_past_of_the_whole(evidence):
    """What a batch was refused for counts for each half."""
    batch = sent(evidence, (1, 2, 3))
    evidence.refused(batch)
    for half in batch.halves():
        assert (half.refusals, half.doubted_at, half.refused_at) == (1, 1, 1)
