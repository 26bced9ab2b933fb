"""Runs code in the browser of the instructor or of the learner's group.

Tries: scripts, event handlers and javascript: links in displayed HTML, SVG, Markdown, JavaScript and widgets, in
cells of text, attachments, the kernel's name, a stream and an error message.
A correct grader: shows all of it as text or not at all, on the feedback page and in the autograded notebook.
"""

from tests import learners
from tests.hostile.kit import live

EXTRA = """
from IPython.display import HTML, SVG, Javascript, Latex, Markdown, display

run = "alert(`mallory`)"
display(HTML(f"<script>{run}</script><img src=x onerror='{run}'><a href='javascript:{run}'>x</a>"))
display(HTML(f"<svg><script>{run}</script></svg><b onclick={run}>x</b>"))
display(HTML(f"<iframe srcdoc='<script>{run}</script>'></iframe>"))
display(HTML(f"<math><mtext><table><mglyph><style><!--</style><img title='--><img src=x onerror={run}>'>"))
display(SVG(f"<svg xmlns='http://www.w3.org/2000/svg' onload='{run}'><script>{run}</script></svg>"))
display(Markdown(f"[x](javascript:{run}) <img src=x onerror='{run}'>"))
display(Latex(f"<img src=x onerror='{run}'>"))
display(Javascript(run))
display({"application/vnd.jupyter.widget-view+json": {"model_id": f"</script><script>{run}</script>"}}, raw=True)
display({"image/png": f"x' onerror='{run}", "text/plain": "x"}, raw=True)
display({"image/jpeg;<script>": run, "text/html": [f"<scr", f"ipt>{run}</script>"]}, raw=True)
print(f"</pre><script>{run}</script>")
"""
ANSWERS = {
    "ema": """def ema(x, beta, correct_bias=True):
    raise RuntimeError("</pre><script>alert(`mallory`)</script> [x](javascript:alert(`mallory`)) <b onclick=mallory()>")
""",
    "steps_to": "def steps_to(share, beta):\n    return '<script>mallory()</script> <img src=x onerror=mallory()>'\n",
}
EARNS = {"ema": 0, "steps_to": 0}


def NOTEBOOK(content):
    text = "<script>mallory()</script> <img src=x onerror=mallory()> [x](javascript:mallory()) ![y](attachment:z.svg)"
    svg = "<svg xmlns='http://www.w3.org/2000/svg' onload='mallory()'></svg>"
    cell = learners.code_cell(text) | {"cell_type": "markdown", "id": "text"}
    content["cells"].append(cell | {"attachments": {"z.svg": {"image/svg+xml": svg}}})
    content["metadata"]["kernelspec"] = {
        "name": "python3",
        "display_name": "<script>mallory()</script>",
        "language": "x",
    }
    content["metadata"]["title"] = "</title><script>mallory()</script>"
    return content


def AFTER(outcome):
    assert live(outcome.page(), "mallory") == []
    outputs = [output for cell in outcome.cells() for output in cell.get("outputs", [])]
    shown = [(kind, str(text)) for output in outputs for kind, text in output.get("data", {}).items()]
    assert [pair for pair in shown if pair[0] != "text/plain" and live(pair[1], "mallory")] == []
    assert [kind for kind, _ in shown if "javascript" in kind or "widget" in kind] == []
    texts = ["".join(cell["source"]) for cell in outcome.cells() if cell["cell_type"] == "markdown"]
    assert [text for text in texts if live(text, "mallory") or "](javascript:" in text] == []
