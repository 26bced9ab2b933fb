"""Reading a figure the way an eye does: what is drawn decides, however the figure was made."""

from __future__ import annotations

import numpy as np
import plotly.express as px
import plotly.graph_objects as go
import pytest
from matplotlib.figure import Figure

from coursekit.figures import hover_names, read_heatmaps

VALUES = [[0.0, 1.0], [0.25, 0.75], [0.5, 0.5]]
ROWS, COLUMNS = ["a", "b", "c"], ["k", "l"]


def heatmap(**layout):
    trace = go.Heatmap(z=VALUES, x=COLUMNS, y=ROWS, zmin=0, zmax=1)
    return go.Figure(trace).update_layout(yaxis_autorange="reversed", **layout)


@pytest.mark.parametrize("form", [lambda fig: fig, lambda fig: fig.to_dict()], ids=["figure", "dict"])
@pytest.mark.parametrize(
    "figure",
    [heatmap(), px.imshow(np.array(VALUES), x=COLUMNS, y=ROWS, zmin=0, zmax=1, aspect="auto")],
    ids=["go", "px"],
)
def test_values_and_labels_are_read_from_the_top_left(figure, form):
    (panel,) = read_heatmaps(form(figure))
    np.testing.assert_allclose(panel["values"], VALUES)
    assert (panel["rows"], panel["columns"], tuple(panel["colour_range"])) == (ROWS, COLUMNS, (0, 1))


def test_without_a_reversed_axis_the_first_row_is_at_the_bottom():
    (panel,) = read_heatmaps(heatmap().update_layout(yaxis_autorange=True))
    np.testing.assert_allclose(panel["values"], VALUES[::-1])
    assert panel["rows"] == ROWS[::-1]


def test_of_two_rows_with_one_name_the_eye_sees_one():
    figure = go.Figure(go.Heatmap(z=VALUES, x=COLUMNS, y=["a", "a", "c"]))
    assert read_heatmaps(figure)[0]["values"].shape == (2, 2)


def test_a_hover_template_without_its_data_shows_nothing():
    figure = heatmap().update_traces(hovertemplate="query %{customdata[0]}, key %{x}, weight %{z:.2f}")
    text = read_heatmaps(figure)[0]["hover"][1][1]
    assert text == "query , key l, weight 0.75"
    assert not hover_names(text, "b", "l", 0.75)
    assert hover_names("query b, key l, weight 0.75", "b", "l", 0.75)


@pytest.mark.parametrize("wrong", [None, 3, Figure()], ids=["none", "number", "matplotlib"])
def test_what_is_no_figure_is_named(wrong):
    with pytest.raises(TypeError, match=r"only None|builtins\.int|matplotlib"):
        read_heatmaps(wrong)
