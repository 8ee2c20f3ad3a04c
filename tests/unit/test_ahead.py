"""Items are made in a thread while others are used, and nothing of that thread is left behind."""

import itertools
import os
import threading

import pytest

from forwarder.cli.ahead import ahead


def never():
    pytest.fail("nobody asked to stop")


def test_all_items_come_in_order_and_then_the_error():
    """What the making raises is raised behind the items that were made before."""

    def items():
        yield from range(5)
        raise ValueError("broken")

    assert list(ahead(iter(range(100)), never)) == list(range(100))
    made = ahead(items(), never)
    assert [next(made) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="broken"):
        next(made)


def test_the_next_one_is_made_while_one_is_used():
    """The first is in use when the second is already made."""
    made = threading.Event()

    def items():
        yield 1
        made.set()
        yield 2

    for item in ahead(items(), never):
        assert item == 2 or made.wait(20)


@pytest.mark.parametrize("waiting", ["reading", "full"])
def test_closed_early_the_thread_is_done_with_its_files(waiting):
    """Whether it reads what does not come or has items that nobody takes, closing ends it."""
    read_fd, write_fd = os.pipe()

    def items():
        yield 1
        if waiting == "full":
            yield from itertools.takewhile(lambda _: not stopped.is_set(), itertools.count())
        os.read(read_fd, 1)
        done.append(True)

    stopped, done = threading.Event(), []

    def stop():
        stopped.set()
        os.write(write_fd, b"x")

    made = ahead(items(), stop)
    assert next(made) == 1
    made.close()
    assert done == [True]
    os.close(read_fd)
    os.close(write_fd)
