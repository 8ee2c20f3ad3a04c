"""A stand-in for Mixpanel's ``POST /import``, for demonstrations and tests.

>>> from forwarder.sandbox import Fault, Sandbox
>>> with Sandbox() as far_end:
...     _ = far_end.inject(Fault.throttle(retry_after_s=2), times=3)
...     far_end.ledger.accepted
0

It checks what Mixpanel checks, answers in the shapes in which Mixpanel answers, and keeps a ledger of what
it was given. Where no public source tells how Mixpanel behaves, the code says "assumed".
"""

from forwarder.sandbox.faults import Fault
from forwarder.sandbox.ledger import Entry, Exchange, Ledger
from forwarder.sandbox.remote import RemoteLedger, RemoteSandbox
from forwarder.sandbox.server import Sandbox

__all__ = ["Entry", "Exchange", "Fault", "Ledger", "RemoteLedger", "RemoteSandbox", "Sandbox"]
