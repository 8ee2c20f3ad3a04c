"""The page of the settings, ``forwarder.toml(5)``: a section of the file as a section, each key explained."""

from __future__ import annotations

from collections.abc import Iterator

from forwarder.config.kinds import Kind
from forwarder.config.settings import SECTIONS, SETTINGS
from man import roff

DESCRIPTION = """
The settings are a TOML file. It is the one named by `--config FILE`, else by `$FORWARDER_CONFIG`, else
`/etc/forwarder/forwarder.toml` if that exists. Every key can also be given as an environment variable
`FORWARDER_<SECTION>_<KEY>`, such as `FORWARDER_QUEUE_PATH`. A variable wins over the file; an empty one
counts as not set.

An unknown key or a bad value is an error (exit code 78); all errors are reported at once. A command fails
only on settings that it uses, and warns of the others. `forwarder config show` prints the settings in
effect, and where each value came from.

Secrets come from files, from systemd credentials (`mixpanel-secret`, `mixpanel-token`, `queue-password`)
or, for Mixpanel's, from the environment (`FORWARDER_MIXPANEL_SECRET`, `FORWARDER_MIXPANEL_TOKEN`). No
option takes a secret, and no log line and no command prints one.
"""
EXAMPLE = """
[mixpanel]
region = "eu"
project_id = "1234567"
service_account = "importer.12ab34.mp-service-account"

[queue]
max_bytes = "50GiB"
"""


def page() -> str:
    """The whole page."""
    return "".join(
        [
            roff.head("forwarder.toml", 5, "settings of the Mixpanel forwarder"),
            roff.heading("DESCRIPTION"),
            roff.paragraphs(DESCRIPTION),
            roff.heading("SETTINGS"),
            *(_section(name, values.__doc__ or "") for name, values in SECTIONS.items()),
            roff.heading("EXAMPLE"),
            roff.block(EXAMPLE.strip().splitlines()),
            roff.heading("FILES"),
            f"{roff.bold('/etc/forwarder/forwarder.toml')}\n",
            roff.heading("SEE ALSO"),
            f"{roff.link('forwarder', 1)}\n",
        ]
    )


def _section(name: str, doc: str) -> str:
    entries = (roff.entry(roff.bold(term), roff.prose(text)) for term, text in explained(name))
    return f"{roff.subheading(f'[{name}]')}{roff.prose(meaning(doc))}{''.join(entries)}"


def meaning(doc: str) -> str:
    """What a section is about, from its docstring."""
    text = doc.partition(": ")[2].partition("\n")[0]
    return text[:1].upper() + text[1:]


def explained(section: str) -> Iterator[tuple[str, str]]:
    """Each setting of a section with its default, and what it means."""
    for setting in SETTINGS.values():
        if setting.section == section:
            remedy = setting.kind.remedy
            # That a text is text needs no saying.
            takes = f" {remedy}." if remedy != Kind.remedy else ""
            default = setting.kind.show(setting.default)
            yield f"{setting.name} = {default}", f"{setting.doc}{takes} Variable: `{setting.variable}`."
