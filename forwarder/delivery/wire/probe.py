"""A made-up event that Mixpanel refuses: it asks whether events are judged, without delivering one."""

# Its blank name, its missing time and $insert_id are each refused by name in strict mode ("Import Events" in
# Mixpanel's docs: all three are required), and without strict mode it can't be stored either.
PROBE = b'{"event":"","properties":{}}'
