"""Days of delivery in milliseconds: real dispatchers, and a queue, a server and a clock that are made up.

`world` has the clock and the forwarders, `server` what Mixpanel and all between may do, `days` draws whole
days of it by the number of a seed and checks what must hold in each. ``python -m simulation`` runs them.
"""
