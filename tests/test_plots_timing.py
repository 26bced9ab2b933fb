"""Figures that can be read on a light and on a dark page, and ratios of times that a busy machine does not spoil."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from coursekit import plots, timing


def luminance(colour):
    """Relative luminance as the Web Content Accessibility Guidelines define it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("page", ["#ffffff", "#121212"], ids=["light", "dark"])
def test_axes_and_their_text_stand_out_on_both_pages(page):
    assert contrast(plots.GREY, page) >= 3, "graphics and large text, WCAG 2.2, 1.4.11"


def test_no_figure_paints_a_background_of_its_own():
    import matplotlib as mpl
    import plotly.graph_objects as go

    layout = go.Figure().layout.template.layout
    assert (layout.paper_bgcolor, layout.plot_bgcolor) == ("rgba(0,0,0,0)", "rgba(0,0,0,0)")
    assert layout.font.color == plots.GREY
    assert {mpl.rcParams[name] for name in ("figure.facecolor", "axes.facecolor", "savefig.facecolor")} == {"none"}


def test_in_the_book_a_plotly_figure_is_html_that_uses_the_page_s_own_script():
    code = (
        "import json, plotly.graph_objects as go, plotly.io as pio\nfrom coursekit import plots\n"
        "bundle = pio.renderers[pio.renderers.default].to_mimebundle(go.Figure(go.Scatter(y=[1, 2])).to_dict())\n"
        "print(json.dumps(bundle))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"COURSE_BOOK": "1"}, capture_output=True, text=True, check=True
    )
    bundle = json.loads(done.stdout)
    assert list(bundle) == ["text/html"]
    assert "Plotly.newPlot" in bundle["text/html"]
    assert len(bundle["text/html"]) < 20_000, "the script of several megabytes is not in it"
    assert "cdn.plot.ly" not in bundle["text/html"]


class Clock:
    """A clock that only the measured calls move, each by what is next in its list."""

    def __init__(self, monkeypatch):
        self.now, self.calls = 0.0, []
        monkeypatch.setattr(timing.time, "thread_time", lambda: self.now)

    def work(self, name, seconds):
        remaining = iter(seconds)

        def call():
            self.calls.append((name, torch.get_num_threads()))
            self.now += next(remaining)

        return call


def test_the_ratio_is_the_median_of_interleaved_pairs_after_a_call_that_is_not_measured(monkeypatch):
    clock = Clock(monkeypatch)
    threads = torch.get_num_threads()
    # The first of each is the warm-up; one pair is disturbed by something else on the machine.
    slow, fast = clock.work("slow", [99, 6, 8, 600]), clock.work("fast", [50, 3, 2, 3])
    assert timing.ratio(slow, fast, rounds=3) == 4.0
    assert clock.calls == [("slow", 1), ("fast", 1)] * 4
    assert torch.get_num_threads() == threads


def test_the_number_of_threads_comes_back_even_after_an_error():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError):
            timing.ratio(lambda: 1 / 0, lambda: None)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_a_call_too_fast_for_the_clock_is_no_division_by_zero(monkeypatch):
    clock = Clock(monkeypatch)
    assert timing.ratio(clock.work("slow", [0, 1]), clock.work("fast", [0, 0]), rounds=1) > 1000
