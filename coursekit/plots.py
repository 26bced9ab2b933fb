"""One look for every figure of the course, legible on a light and on a dark page.

Importing this module sets it up: transparent backgrounds, mid-grey text, colours told apart in both themes. In the book
(`COURSE_BOOK` is set by `course book`) plotly figures become plain HTML that uses the page's own copy of plotly.js.
"""

from __future__ import annotations

import os

import matplotlib as mpl
import plotly.graph_objects as go
import plotly.io as pio
from plotly.io.base_renderers import MimetypeRenderer

GREY = "#8a8f98"
GRID = "rgba(138, 143, 152, 0.25)"
#: Colours for series, told apart by most colour-blind readers and on both backgrounds (after Okabe and Ito, 2008).
COLOURS = ["#3b8bd4", "#e0823d", "#2fa37c", "#c65fa5", "#c9a227", "#6f7ff0"]
#: Colour scale for attention weights, from 0 (the page) to 1. It ends in another hue, because a dark blue that stands
#: out on a light page sinks into a dark one.
WEIGHTS = [[0.0, "rgba(59, 139, 212, 0.04)"], [0.6, "rgba(59, 139, 212, 0.85)"], [1.0, "rgb(224, 130, 61)"]]


class _BookRenderer(MimetypeRenderer):
    def to_mimebundle(self, fig_dict):
        html = pio.to_html(
            fig_dict,
            include_plotlyjs=False,
            include_mathjax=False,
            full_html=False,
            config={"displaylogo": False, "responsive": True, "displayModeBar": False},
        )
        return {"text/html": html}


def _set_up() -> None:
    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": GREY, "ticks": "outside", "tickcolor": GREY}
    layout = go.Layout(
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": GREY, "size": 13},
        colorway=COLOURS,
        margin={"l": 60, "r": 20, "t": 50, "b": 55},
        xaxis=axis,
        yaxis=axis,
        sliderdefaults={"bgcolor": GRID, "bordercolor": GRID, "tickcolor": GREY, "activebgcolor": COLOURS[0]},
        updatemenudefaults={"bgcolor": "rgba(0,0,0,0)", "bordercolor": GREY},
    )
    pio.templates["course"] = go.layout.Template(layout=layout)
    pio.templates.default = "plotly+course"
    if os.environ.get("COURSE_BOOK"):
        pio.renderers["book"] = _BookRenderer()
        pio.renderers.default = "book"
    mpl.rcParams.update(
        {
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "savefig.facecolor": "none",
            "savefig.transparent": True,
            "text.color": GREY,
            "axes.labelcolor": GREY,
            "axes.edgecolor": GREY,
            "axes.titlecolor": GREY,
            "xtick.color": GREY,
            "ytick.color": GREY,
            "grid.color": GREY,
            "grid.alpha": 0.25,
            "legend.framealpha": 0.0,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": mpl.cycler(color=COLOURS),
            "figure.figsize": (7.0, 3.6),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
        }
    )


_set_up()
