"""What `benchmarks.rivals` has measured, as a table of the docs and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

HEADINGS = (
    ("Way", 24), ("s", 5), ("CPU s", 6), ("MiB", 5), ("Faults: lost", 13), ("again", 7), ("code", 6),
    ("Kill: lost", 11), ("again", 7),
)  # fmt: skip
PANELS = (
    ("200,000 events, seconds", lambda each: each["good"]["seconds"], "{:,.1f}"),
    ("Peak memory, MiB", lambda each: each["good"]["peak_mib"], "{:,.0f}"),
    ("Lost of 20,000 under faults", lambda each: each["faults_lost"], "{:,.0f}"),
)
ROW, LEFT, WIDTH, GAP = 24, 150, 210, 40
STYLE = (
    "text{font:13px sans-serif;fill:#1f2933}.head{font-weight:bold}.bar{fill:#8a97a8}.ours{fill:#2563eb}"
    "@media(prefers-color-scheme:dark){text{fill:#d7dde5}.bar{fill:#6b7a8d}.ours{fill:#5b9bff}}"
)


def table(results: Sequence[dict[str, Any]]) -> str:
    """As reStructuredText."""
    rule = " ".join("=" * width for _, width in HEADINGS)
    rows = [[name for name, _ in HEADINGS], *map(_cells, results)]
    texts = [
        " ".join(f"{cell:{width}}" for cell, (_, width) in zip(row, HEADINGS, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([rule, texts[0], rule, *texts[1:], rule])


def _cells(result: dict[str, Any]) -> list[str]:
    good, faults = result["good"], result["faults"]
    code = "none" if faults["code"] is None else str(faults["code"])
    return [
        f"{result['name']} {result['version']}",
        f"{good['seconds']:.1f}",
        f"{good['cpu_s']:.1f}",
        f"{good['peak_mib']:.0f}",
        f"{result['faults_lost']:,}",
        f"{result['faults_again']:,}",
        code,
        f"{result['killed_lost']:,}",
        f"{result['killed_again']:,}",
    ]


def draw(results: Sequence[dict[str, Any]]) -> str:
    """As SVG: a bar for each way in each panel, the first way in colour."""
    height = ROW * (len(results) + 2)
    width = LEFT + len(PANELS) * (WIDTH + GAP)
    shapes = [
        f'<text x="8" y="{ROW * (row + 2)}">{escape(each["name"])}</text>' for row, each in enumerate(results)
    ]
    for number, (title, value, form) in enumerate(PANELS):
        left = LEFT + number * (WIDTH + GAP)
        most = max(value(each) for each in results) or 1
        shapes.append(f'<text class="head" x="{left}" y="{ROW}">{title}</text>')
        for row, each in enumerate(results):
            length = value(each) / most * (WIDTH - 50)
            top = ROW * (row + 2)
            kind = "bar" if row else "bar ours"
            shapes.append(
                f'<rect class="{kind}" x="{left}" y="{top - 13}" width="{length:.1f}" height="16"/>'
                f'<text x="{left + length + 6:.1f}" y="{top}">{form.format(value(each))}</text>'
            )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
        f' aria-label="Ways to bring events to Mixpanel, compared"><style>{STYLE}</style>\n'
        + "\n".join(shapes)
        + "\n</svg>\n"
    )
