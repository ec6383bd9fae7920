"""`--plot`: simulations as one picture, an SVG or a page of HTML.

`series` makes numbers of results, `figure` draws them, `page` writes the HTML around the drawing.
Needs matplotlib, which the extra `plot` brings; imported when a plot is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...scheduler.simulator.result import SimulationResult
from .figure import draw
from .page import page

__all__ = ["FORMATS", "render"]

FORMATS = ("svg", "html")


def render(results: Sequence[SimulationResult], title: str, details: str, form: str) -> bytes:
    """The picture of `results` as a file of the given form, one of FORMATS. The same results give
    the same bytes."""
    svg = draw(results, title, details)
    return svg if form == "svg" else page(results, title, details, svg.decode()).encode()
