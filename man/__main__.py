"""``python -m man DIRECTORY``: write the pages ``forwarder.1`` and ``forwarder.toml.5``."""

import sys
from pathlib import Path

from man import command, settings

directory = Path(sys.argv[1])
directory.mkdir(parents=True, exist_ok=True)
(directory / "forwarder.1").write_text(command.page(), "ascii")
(directory / "forwarder.toml.5").write_text(settings.page(), "ascii")
