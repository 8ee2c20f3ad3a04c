"""The pages that the daemon serves: its figures, whether it is alive, and whether it takes part.

Neither ``/healthz`` nor ``/readyz`` asks whether delivery gets on: a wrong key or an outage is no reason to
restart the daemon, or to take it for absent, since events are kept meanwhile. ``/metrics`` tells that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from forwarder.service.listener import Page, Pages
from forwarder.service.state import Pulse
from forwarder.service.tally import Tally


def pages(pulse: Callable[[], Pulse], tally: Tally) -> Pages:
    """The pages by path.

    Args:
        pulse: Gives the loop's last beat.
        tally: What the daemon has counted.
    """
    # Prometheus' library takes memory and time, which those who don't use it need not spend.
    from forwarder.service import metrics

    return {"/metrics": metrics.page(pulse, tally), "/healthz": _healthz(pulse), "/readyz": _readyz(pulse)}


def _healthz(pulse: Callable[[], Pulse]) -> Callable[[Mapping[str, str]], Page]:
    """200 while the daemon's loop turns, else 503 and since when it does not."""
    return lambda _headers: _judged(pulse().stall, "healthy")


def _readyz(pulse: Callable[[], Pulse]) -> Callable[[Mapping[str, str]], Page]:
    """200 while the daemon has its lock, its queue and its settings, and turns; else 503 and why."""
    return lambda _headers: _judged(pulse().stall or pulse().trouble, "ready")


def _judged(trouble: str, good: str) -> Page:
    return Page(503 if trouble else 200, f"{trouble or good}\n".encode())
