"""``FILE URL TOKEN``: send a file of events with the BufferedConsumer of Mixpanel's library for Python.

What could not be sent stays in its buffer, as it documents: the next call tries it again, and at the end
`flush`, ten times at most.
"""

import json
import sys
import time

from mixpanel import BufferedConsumer, Mixpanel, MixpanelException

file, url, token = sys.argv[1:]
consumer = BufferedConsumer(events_url=url + "/track", request_timeout=30)
# Its retries are for https only.
session = consumer._consumer._session
session.mount("http://", session.get_adapter("https://"))
mixpanel = Mixpanel(token, consumer=consumer)
with open(file, encoding="utf-8") as lines:
    for line in lines:
        event = json.loads(line)
        try:
            mixpanel.track(event["properties"]["distinct_id"], event["event"], event["properties"])
        except MixpanelException as error:
            print(error, file=sys.stderr)
for _ in range(9):
    try:
        consumer.flush()
        break
    except MixpanelException as error:
        print(error, file=sys.stderr)
        time.sleep(1)
else:
    consumer.flush()
