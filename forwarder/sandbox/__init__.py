"""A stand-in for Mixpanel's ``POST /import``, for demonstrations and tests.

>>> from forwarder.sandbox import Fault, Sandbox
>>> with Sandbox() as sandbox:
...     _ = sandbox.inject(Fault.throttle(retry_after_s=2), times=3)
...     sandbox.ledger.accepted
0

It checks what Mixpanel checks, answers in Mixpanel's shapes, and keeps a ledger of what it got. If no public
source says how Mixpanel behaves, the code says "assumed".
"""

from forwarder.sandbox.faults import Fault
from forwarder.sandbox.ledger import Entry, Exchange, Ledger
from forwarder.sandbox.remote import RemoteLedger, RemoteSandbox
from forwarder.sandbox.server import Sandbox

__all__ = ["Entry", "Exchange", "Fault", "Ledger", "RemoteLedger", "RemoteSandbox", "Sandbox"]
