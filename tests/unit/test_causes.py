"""Which counts of dead letters are told, and what the sums are."""

from forwarder.service.delivery_log import MOST_CAUSES, OTHER, QUIET_S, Causes


def test_a_cause_is_told_at_first_and_then_in_sums():
    """The first of a cause is told with its count, the next only with a reminder that holds them all."""
    causes = Causes()

    assert [causes.add("time", 2, now) for now in (0, 1, 2, 61)] == [2, 0, 0, 6]
    assert causes.add("$insert_id", 1, 61) == 1
    assert causes.take_totals() == {"time": 8, "$insert_id": 1}
    assert causes.take_totals() == {}


def test_a_cause_that_comes_back_after_a_quiet_time_is_news():
    """Once it has been quiet for long enough, a cause is told like a new one."""
    causes = Causes()
    causes.add("time", 1, 0)

    assert causes.add("time", 1, 1) == 0
    assert causes.add("time", 1, 1 + QUIET_S) == 2
    assert causes.add("time", 1, 2 + QUIET_S) == 0
    assert causes.add("time", 1, 62 + QUIET_S) == 2


def test_new_words_are_told_at_once():
    """Where nothing but the server's words says what is wrong, other words are other news."""
    causes = Causes()

    assert [causes.add("", 1, 0, words) for words in ("bad", "bad", "worse")] == [1, 0, 2]


def test_any_number_of_causes_takes_no_more_memory_and_no_more_lines():
    """Causes beyond a number are told of and summed up as one."""
    causes = Causes()

    told = [causes.add(f"field {number}", 1, 0) for number in range(1000)]

    assert sum(1 for count in told if count) == MOST_CAUSES + 1
    totals = causes.take_totals()
    assert totals[OTHER] == 1000 - MOST_CAUSES
    assert sum(totals.values()) == 1000
