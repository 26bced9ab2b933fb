"""Makes the reader's browser fetch something.

Tries: pictures, styles, frames and refreshes from outside, in displayed HTML, SVG, LaTeX and Markdown, in a cell of
text and in an error message.
A correct grader: writes pages and notebooks from which no browser fetches anything of the learner's choice.
"""

from tests import learners
from tests.hostile.kit import live

EXTRA = """
from IPython.display import HTML, SVG, Latex, Markdown, display

there = "http://127.0.0.1:@TCP@/@TRACE@"
display(HTML(f"<img src='{there}'><style>@import '{there}'; b {{background: url({there})}}</style>"))
display(HTML(f"<p style='background:url({there})'>x</p><iframe src='{there}'></iframe>"))
display(HTML(f"<object data='{there}'></object><embed src='{there}'>"))
display(HTML(f"<link rel=stylesheet href='{there}'><video poster='{there}'></video>"))
display(HTML(f"<meta http-equiv=refresh content='0;{there}'><input type=image src='{there}'>"))
display(Markdown(f"![picture]({there}) <img srcset='{there} 2x'>"))
display(Latex(f"$\\\\includegraphics{{{there}}}$ <img src='{there}'>"))
display(SVG(f"<svg xmlns='http://www.w3.org/2000/svg'><image href='{there}'/><style>@import '{there}';</style></svg>"))
"""
ANSWERS = {
    "ema": """def ema(x, beta, correct_bias=True):
    raise RuntimeError("![picture](http://127.0.0.1:@TCP@/@TRACE@) <img src='http://127.0.0.1:@TCP@/@TRACE@'>")
"""
}
EARNS = {"ema": 0, "steps_to": 1}


def NOTEBOOK(content):
    text = "![picture](http://127.0.0.1/mallory) <img src='http://127.0.0.1/mallory'>"
    content["cells"].append(learners.code_cell(text) | {"cell_type": "markdown", "id": "text"})
    return content


def AFTER(outcome):
    assert live(outcome.page(), "127.0.0.1") == []
    outputs = [output for cell in outcome.cells() for output in cell.get("outputs", [])]
    shown = [text for output in outputs for kind, text in output.get("data", {}).items() if kind != "text/plain"]
    assert [text for text in map(str, shown) if live(text, "127.0.0.1")] == []
