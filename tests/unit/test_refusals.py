"""What was refused of an input is shown or counted."""

from forwarder.cli import refusals
from forwarder.cli.refusals import Refusals


def test_a_live_stream_is_told_the_counts_once_a_minute(monkeypatch):
    """An input without an end says at times how many more were refused, and nothing while none are."""
    said: list[str] = []
    now = 1000.0
    monkeypatch.setattr(refusals.time, "monotonic", lambda: now)
    found = Refusals(said.append)
    found.tell("log", [(number, "bad", b"x") for number in range(25)])
    assert len(said[0].splitlines()) == 20
    for seconds in range(0, 200, 10):
        now = 1000.0 + seconds
        found.tell("log", [(99, "bad", b"x")])
    counts = [text.splitlines()[0] for text in said[1:]]
    assert counts == [f"{more} more refused; --rejects FILE keeps them all:" for more in (12, 6, 6)]
    found.tell_counts()
    assert said[-1].startswith("1 more refused")
    found.tell_counts()
    assert len(said) == 5
