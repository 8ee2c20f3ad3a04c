"""``FILE URL TOKEN``: send a file of events with mixpanel-utils, whose `import_events` takes a list."""

import json
import sys

from mixpanel_utils import MixpanelUtils

file, url, token = sys.argv[1:]
utils = MixpanelUtils("secret", token=token, service_account_username="user", project_id=123, timeout=30)
utils.import_api = url
with open(file, encoding="utf-8") as lines:
    utils.import_events([json.loads(line) for line in lines], timezone_offset=0)
