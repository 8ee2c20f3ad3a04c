"""P1 and P2 where signal handlers put, fork, close or raise amid calls of the queue and amid forks.

With ``FORWARDER_CRASH_S`` each line is tried, otherwise every twelfth, as ``FORWARDER_TEST_SEED`` says.
"""

import json
import os
import random
import subprocess
import sys
import tempfile

import pytest

PROGRAM = os.path.join(os.path.dirname(__file__), "interruptions.py")
STEP = 1 if os.environ.get("FORWARDER_CRASH_S") else 12
SEED = int(os.environ.get("FORWARDER_TEST_SEED") or random.SystemRandom().randrange(2**32))
# Thousands of commits: in memory, where there is such a place.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@pytest.mark.parametrize(
    "handler", ["puts", "closes", "forks", "raises", "puts_and_raises", "forks_and_raises"]
)
def test_a_signal_handler_at_any_line_of_opening_closing_and_forking_loses_nothing(handler):
    """At whichever line it comes, in parent or child: what was told is accepted is there, no file of the
    database crosses a fork, and all goes on afterwards."""
    first = 1 + SEED % STEP
    print(f"FORWARDER_TEST_SEED={SEED}")
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        command = [sys.executable, PROGRAM, directory, handler, str(first), str(STEP)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert found["wrong"] == [], done.stderr
    assert found["runs"] > 250 // STEP
