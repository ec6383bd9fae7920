"""The HTML page around a picture: a title, the tables of figures, the SVG, what to know. One file,
no script, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ...scheduler.simulator.result import SimulationResult
from ..comparison import Cells, breakdowns, notes, overview

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22272e; margin: 2rem auto; max-width: 76rem;
       padding: 0 1rem; }
h1 { font-size: 1.35rem; margin: 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { padding: .3rem .9rem .3rem 0; text-align: right; border-bottom: 1px solid #e5e8ec; }
th { color: #6b7280; font-weight: 600; }
th:first-child, td:first-child { text-align: left; font-weight: 600; }
p { color: #6b7280; margin: .2rem 0; }
div { overflow-x: auto; }
svg { width: 100%; height: auto; margin-top: 1rem; }
"""


def page(results: Sequence[SimulationResult], title: str, details: str, svg: str) -> str:
    tables = "".join(_table(part) for part in (overview(results), *breakdowns(results)))
    said = "".join(f"<p>{escape(note)}</p>" for note in notes(results))
    drawing = svg[svg.index("<svg") :]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1><p>{escape(details)}</p><div>{tables}</div>"
        f"{said}<div>{drawing}</div></body></html>\n"
    )


def _table(cells: Cells) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in cells.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in cells.rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
