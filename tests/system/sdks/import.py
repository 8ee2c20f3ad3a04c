"""Imports events, a JSON array on standard input, by ``mixpanel-utils``; prints what that logs."""

import json
import logging
import sys

from mixpanel_utils import MixpanelUtils

url, token = sys.argv[1:]
logging.getLogger().handlers.clear()
importer = MixpanelUtils("secret", token=token, service_account_username="account", project_id=123)
MixpanelUtils.LOGGER.addHandler(logging.StreamHandler(sys.stdout))
importer.import_api = url
importer.import_events(json.load(sys.stdin), timezone_offset=0)
