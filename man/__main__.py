"""``python -m man DIRECTORY``: write the pages, ``forwarder.1``, ``forwarder.toml.5`` and one a command."""

import sys
from pathlib import Path

from man import command, settings

directory = Path(sys.argv[1])
directory.mkdir(parents=True, exist_ok=True)
for name, page in {**command.pages(), "forwarder.toml.5": settings.page()}.items():
    (directory / name).write_text(page, "ascii")
