"""What learners wrote, as Formgrader and feedback pages show it: text and pictures, nothing that acts or calls home."""

from __future__ import annotations

import base64
import io
import json
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import nbgrader
import pytest
from bs4 import BeautifulSoup
from nbconvert.exporters import HTMLExporter
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from autograder import sanitise

FORMGRADER = Path(nbgrader.__file__).parent / "server_extensions" / "formgrader"
#: What the pages say around a notebook.
RESOURCES = {
    "nbgrader": {"notebook": "lab", "score": 1, "max_score": 2, "late_penalty": 0},
    **dict.fromkeys(["base_url", "submission_id", "notebook_id", "assignment_id", "notebook_path", "student"], "x"),
    **{"index": 0, "total": 1, "last_name": None, "first_name": None},
}
LOCKED = {
    "nbgrader": {"grade_id": "test_ema", "grade": True, "locked": True, "solution": False, "points": 2, "score": 1}
}
ANSWER = {"nbgrader": {"grade_id": "ema", "grade": False, "locked": False, "solution": True}}
COURSE = "# A lab\n\nWith $x^2$, a [link](https://example.org/a) and <details><summary>a hint</summary>so</details>."


def make_picture(kind, size=(3, 2)):
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


PNG, JPEG = make_picture("PNG"), make_picture("JPEG")


def displayed(data, kind="display_data", **metadata):
    count = {"execution_count": 1} if kind == "execute_result" else {}
    return {"output_type": kind, "data": data, "metadata": metadata, **count}


def notebook(outputs=(), note="a note", message="", count=1):
    """An autograded notebook: a summary, the lab's text, an answer, a test, and two cells of the learner's own."""
    cells = [
        new_markdown_cell(f"**1 of 2 points**\n\n- ema: {message}", id="course-summary"),
        new_markdown_cell(COURSE, id="77f4b198"),
        new_code_cell("def ema(): ...", id="ema", metadata=ANSWER),
        new_code_cell("assert ema()", id="test_ema", metadata=LOCKED),
        new_markdown_cell(note, id="extra-1"),
        new_code_cell("mine = 1", id="extra-2"),
    ]
    for cell in cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = nbformat.from_dict(list(outputs)), count
    # Not with nbformat's own function, which refuses what a learner's process may send.
    return NotebookNode(cells=cells, metadata=NotebookNode(), nbformat=4, nbformat_minor=5)


@pytest.fixture(scope="module")
def draw():
    """Draw a notebook as nbgrader does, with the templates of feedback pages and of Formgrader."""
    css = str(FORMGRADER / "static" / "node_modules" / "bootstrap" / "dist" / "css")
    exporters = {
        name: HTMLExporter(
            template_name=name,
            extra_template_basedirs=[str(FORMGRADER / "templates")],
            extra_template_paths=[css],
        )
        for name in ("feedback", "formgrade")
    }

    def page(template, nb):
        return exporters[template].from_notebook_node(nb, resources=dict(RESOURCES))[0]

    return page


class Acts(HTMLParser):
    """All of a page that a browser does not just show as text."""

    def __init__(self, page):
        super().__init__()
        self.found, self.inside = set(), None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.inside = tag if tag in ("script", "style") else None
        self.found.add((tag,))
        for name, value in attributes:
            inert = name in ("class", "alt", "title", "align", "lang") or (name, value) == ("src", f"{KEPT},{PNG}")
            if not inert:
                self.found.add((tag, name, value))

    def handle_data(self, data):
        if self.inside:
            self.found.add((self.inside, data))

    def handle_endtag(self, tag):
        self.inside = None

    def handle_comment(self, data):
        # Browsers do not agree with this parser on where a comment ends.
        self.found.add(("comment", data))


KEPT = "data:image/png;base64"
#: Tags that show text, and pictures: what `sanitise` itself may add to a page.
SHOWN = {(tag,) for tag in ("bdi", "br", "pre", "img", "div", "span")}


@pytest.fixture(scope="module")
def acts(draw):
    """What a page does that the page of a harmless notebook does not do."""
    harmless = {template: Acts(draw(template, notebook())).found for template in ("feedback", "formgrade")}
    return lambda template, nb: Acts(draw(template, nb)).found - harmless[template] - SHOWN


HTML = {
    "script": "<script>alert(1)</script>",
    "handler": "<img src=x onerror=alert(1)>",
    "picture": '<img src="https://evil.example/a.png">',
    "link": '<a href="javascript:alert(1)">x</a>',
    "frame": '<iframe srcdoc="<script>alert(1)</script>"></iframe>',
    "style": '<style>@import "https://evil.example/a.css";</style>',
    "style of one element": '<p style="background: url(https://evil.example/a)">x</p>',
    "form": '<form action="https://evil.example"><input name="score"></form>',
    "svg": '<svg><a xlink:href="javascript:alert(1)"><rect width="9" height="9"/></a></svg>',
    "refresh": '<meta http-equiv="refresh" content="0; url=https://evil.example">',
    "base": '<base href="https://evil.example/">',
    "name taken": '<input id="test_ema" value="2">',
    "broken nesting": "</pre></bdi></div><script>alert(1)</script>",
    "comment": "<!--><script>alert(1)</script>-->",
}
MARKDOWN = {
    **HTML,
    "markdown link": "[x](javascript:alert(1))",
    "markdown link over lines": "[x\ny](javascript:alert(1) 'a\nb')",
    "reference": "[x][y]\n\n[y]: javascript:alert(1)",
    "markdown picture": "![x](https://evil.example/a.png)",
    "autolink": "<javascript:alert(1)>",
    "bare address": "see https://evil.example/a",
    "code that ends": "```\n</code></pre><script>alert(1)</script>\n```\n\n[x](javascript:alert(1))",
    "formulas": "$$ ` $$ [x](javascript:alert(1)) $$ ` $$\n\n\\\\[ [x](javascript:alert(1)) \\\\]",
    "entities": "&#91;x&#93;&lpar;javascript:alert(1)) <a href='&#106;avascript:alert(1)'>x</a>",
    "blank lines": "a\n\n<script>alert(1)</script>\n\n    b\n",
}
SVG = '<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"></svg>'
OUTPUTS = {
    **{f"html: {name}": displayed({"text/html": text, "text/plain": "x"}) for name, text in HTML.items()},
    **{f"markdown: {name}": displayed({"text/markdown": text}, "execute_result") for name, text in MARKDOWN.items()},
    "isolated html": displayed({"text/html": HTML["script"]}, **{"text/html": {"isolated": True}}),
    "javascript": displayed({"application/javascript": "alert(1)"}),
    "vector graphics": displayed({"image/svg+xml": SVG}),
    "size of a picture": displayed({"image/png": PNG}, **{"image/png": {"width": "1 onerror=alert(1)"}}),
    "place of a picture": displayed({"image/png": PNG}, filenames={"image/png": "https://evil.example/a.png"}),
    "a picture that is none": displayed({"image/png": base64.b64encode(SVG.encode()).decode()}),
}


@pytest.mark.parametrize("payload", OUTPUTS.values(), ids=OUTPUTS)
@pytest.mark.parametrize("template", ["feedback", "formgrade"])
def test_an_output_shows_and_does_nothing_else(acts, template, payload):
    assert acts(template, notebook([payload])), "it would have done something"
    assert acts(template, sanitise.notebook(notebook([payload]))) == set()


@pytest.mark.parametrize(("count", "shown"), [(7, 7), (None, None), ("<b>", None), ([1], None), (True, None)])
def test_the_number_of_a_cell_is_a_number(count, shown):
    assert sanitise.notebook(notebook(count=count)).cells[2].execution_count is shown


@pytest.mark.parametrize("payload", MARKDOWN.values(), ids=MARKDOWN)
@pytest.mark.parametrize("template", ["feedback", "formgrade"])
def test_a_note_and_a_message_show_literally(acts, draw, template, payload):
    assert acts(template, notebook(note=payload)), "it would have done something"
    assert acts(template, notebook(message=payload)), "it would have done something"
    nb = sanitise.notebook(notebook(note=payload, message=sanitise.text(payload)))
    assert acts(template, nb) == set()
    page = BeautifulSoup(draw(template, nb), "html.parser")
    note, message = page.select_one("pre.tex2jax_ignore"), page.select_one("li bdi.tex2jax_ignore")
    assert note.get_text() == payload
    assert message.get_text("\n").split() == payload.split()


def test_no_character_that_means_anything_to_any_reader_of_markdown_is_left():
    """The pages above are drawn by nbconvert; JupyterLab and others read markdown in other ways."""
    everything = "".join(map(chr, range(128))) + "é\u2028"
    frame = re.compile(r'^<(?:bdi|pre) class="tex2jax_ignore">(.*)</(?:bdi|pre)>$')
    for written in (sanitise.text(everything), sanitise.notebook(notebook(note=everything)).cells[4].source):
        inside = frame.match(written)[1].replace("<br>", "")
        assert re.sub(r"&#\d+;|[A-Za-z0-9 ]", "", inside) in ("é", "é\u2028")


def test_the_page_of_a_harmless_notebook_loads_nothing_but_what_draws_formulas(draw):
    """The oracle of the tests above: whatever else a page of feedback loaded would go unnoticed there."""
    found = Acts(draw("feedback", notebook())).found
    loaded = {act[2] for act in found if act[1:2] == ("src",) or act[0] in ("link", "iframe")}
    assert [address.split("/")[4] for address in loaded] == ["libs"]
    assert "mathjax" in loaded.pop()
    assert not [act for act in found if act[0] == "style" and ("@import" in act[-1] or "url(http" in act[-1])]
    assert not [act for act in found if len(act) == 3 and act[1].startswith("on")]


def test_the_course_s_own_text_stays_as_it_is():
    nb = sanitise.notebook(notebook(message="x"))
    assert nb.cells[0].source == "**1 of 2 points**\n\n- ema: x"
    assert nb.cells[1].source == COURSE
    assert [cell.source for cell in nb.cells[2:4]] == ["def ema(): ...", "assert ema()"]
    assert (nb.cells[2].metadata, nb.cells[3].metadata) == (ANSWER, LOCKED)


def test_a_note_keeps_nothing_but_its_text(draw):
    nb = notebook(note="![x](attachment:a.png) ![y](attachment:none.png)")
    nb.cells[4].attachments = {"a.png": {"image/svg+xml": SVG}}
    nb.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    nb.cells[4].cell_type = "raw"
    sanitise.notebook(nb)
    assert (nb.cells[4].cell_type, "attachments" in nb.cells[4]) == ("markdown", False)
    assert "widgets" not in nb.metadata
    assert "![x](attachment:a.png) ![y](attachment:none.png)" in BeautifulSoup(draw("feedback", nb), "html.parser").text


# Pictures


@pytest.mark.parametrize(("mime", "data"), [("image/png", PNG), ("image/jpeg", JPEG)])
@pytest.mark.parametrize("kind", ["display_data", "execute_result"])
def test_a_picture_survives(mime, data, kind):
    cut = [data[:40] + "\n", data[40:] + "\n"]
    for written in (data, data + "\n", cut):
        (output,) = sanitise.outputs([displayed({mime: written, "text/plain": "<Figure>"}, kind)])
        assert (output.output_type, output.data) == (kind, {mime: data})


def test_a_figure_of_matplotlib_survives():
    from matplotlib.figure import Figure

    file = io.BytesIO()
    figure = Figure()
    figure.subplots().plot([1, 2])
    figure.savefig(file, format="png")
    drawn = base64.b64encode(file.getvalue()).decode()
    (output,) = sanitise.outputs([displayed({"image/png": drawn}, **{"image/png": {"width": 640, "height": 480}})])
    assert (output.data, output.metadata) == ({"image/png": drawn}, {})


def png_of_size(width, height):
    """A small file that unpacks to as much as it likes."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in parts]
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()


@pytest.mark.parametrize(
    ("mime", "data"),
    [
        ("image/png", JPEG),
        ("image/jpeg", PNG),
        ("image/png", make_picture("GIF")),
        ("image/png", base64.b64encode(SVG.encode()).decode()),
        ("image/png", PNG[:20]),
        ("image/png", PNG + '"><script>'),
        ("image/png", png_of_size(40_000, 40_000)),
        ("image/png", png_of_size(10_000, 10_000)),
        ("image/png", png_of_size(6_000, 6_000)),
        ("image/png", "not base64"),
        ("image/png", ""),
        ("image/png", None),
        ("image/png", {"a": 1}),
        ("image/gif", make_picture("GIF")),
        ("image/svg+xml", SVG),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_picture_becomes_words(mime, data):
    (output,) = sanitise.outputs([displayed({mime: data})])
    assert output.data == {"text/plain": f"[an output that is not shown here: {mime}]"}
    (output,) = sanitise.outputs([displayed({mime: data, "text/plain": "<Figure>"})])
    assert output.data == {"text/plain": "<Figure>"}


def test_a_picture_of_a_bearable_size_is_kept_whatever_it_unpacks_to():
    assert sanitise.outputs([displayed({"image/png": png_of_size(3000, 2000)})])[0].data.keys() == {"image/png"}


# Other outputs


def test_a_figure_of_plotly_leaves_a_word():
    import plotly.graph_objects as go

    bundle = {"application/vnd.plotly.v1+json": go.Figure(go.Heatmap(z=[[1]])).to_plotly_json(), "text/html": "<div>"}
    (output,) = sanitise.outputs([displayed(bundle | {"text/plain": "Figure({...})"})])
    assert output.data == {"text/plain": "[an interactive figure was here; run the notebook to see it]"}


@pytest.mark.parametrize("kind", ["html", "markdown", "latex"])
def test_markup_is_shown_as_its_source_where_there_is_no_text(kind):
    shown = {"text/plain": f"[{kind}, not drawn here; its source:]\n<b>x</b>"}
    for plain in ({}, {"text/plain": f"<IPython.core.display.{kind} object>"}):
        assert sanitise.outputs([displayed({f"text/{kind}": ["<b>", "x</b>"]} | plain)])[0].data == shown
    table = {f"text/{kind}": "<table>", "text/plain": "   a\n0  1"}
    assert sanitise.outputs([displayed(table)])[0].data == {"text/plain": "   a\n0  1"}


def test_streams_and_errors_are_kept_without_their_colours():
    stream = {"output_type": "stream", "name": "stderr", "text": ["\x1b[31mred\x1b[0m\n", "<b>"]}
    error = {"output_type": "error", "ename": "E", "evalue": "<i>", "traceback": ["\x1b[1mline\x1b[0m", "E: <i>"]}
    assert sanitise.outputs([stream, error]) == [
        {"output_type": "stream", "name": "stderr", "text": "red\n<b>"},
        {"output_type": "error", "ename": "E", "evalue": "<i>", "traceback": ["line", "E: <i>"]},
    ]


def nest(depth):
    return [nest(depth - 1)] if depth else []


MALFORMED = [
    None,
    5,
    "text",
    [],
    {},
    {"output_type": None},
    {"output_type": ["stream"]},
    {"output_type": "update_display_data", "data": {"text/plain": "x"}},
    {"output_type": "stream"},
    {"output_type": "stream", "name": "<script>", "text": 5},
    {"output_type": "stream", "name": {}, "text": ["a", None, 5, "b"]},
    {"output_type": "error"},
    {"output_type": "error", "ename": 1, "evalue": [], "traceback": "line"},
    {"output_type": "error", "ename": "E", "evalue": "x", "traceback": [None, ["a"], "\udcff"]},
    {"output_type": "display_data"},
    {"output_type": "display_data", "data": []},
    {"output_type": "display_data", "data": {}},
    {"output_type": "display_data", "data": {"text/plain": "\udcff", "image/png": 5}, "metadata": []},
    {"output_type": "execute_result", "data": {"text/plain": {}}, "execution_count": "<b>"},
    {"output_type": "display_data", "data": {"application/json": nest(900)}, "metadata": {"a": nest(900)}},
]


@pytest.mark.parametrize("junk", MALFORMED, ids=range(len(MALFORMED)))
def test_whatever_stands_in_the_place_of_outputs_gives_a_valid_notebook(junk):
    nb = new_notebook(cells=[new_code_cell("x", id="extra-1"), new_code_cell("x", id="extra-2")])
    nb.cells[0].outputs = [junk]
    dict.update(nb.cells[1], outputs=junk)
    nbformat.validate(nbformat.reads(nbformat.writes(sanitise.notebook(nb)).encode().decode(), as_version=4))


# Amounts


def length(outputs):
    return len(json.dumps(outputs))


@pytest.mark.parametrize(
    ("flood", "room"),
    [
        ([{"output_type": "stream", "name": "stdout", "text": "x" * 5_000_000}], 210_000),
        ([{"output_type": "stream", "name": "stdout", "text": ""}] * 100_000, 130_000),
        ([{"output_type": "stream", "name": "stdout", "text": "x" * 1_000}] * 5_000, 800_000),
        ([{"output_type": "error", "ename": "E", "evalue": "x", "traceback": ["x" * 5_000] * 1_000}], 310_000),
        ([displayed({"text/html": "<b>" * 1_000_000})], 210_000),
        ([displayed({"image/png": PNG})] * 100_000, 450_000),
        ([displayed({"x" * 1_000_000: ""})] * 5, 1_100_000),
    ],
    ids=["one stream", "streams of nothing", "streams", "traceback", "markup", "pictures", "names"],
)
def test_more_than_can_be_read_is_cut(flood, room):
    assert length(flood) > 3_000_000
    shown = sanitise.outputs(flood)
    assert room / 2 < length(shown) < room


@pytest.mark.parametrize("text", ["x" * 300_000, "\x1b[1mx" * 300_000])
def test_what_is_cut_says_so(text):
    (output,) = sanitise.outputs([{"output_type": "stream", "name": "stdout", "text": text}])
    assert output.text == "x" * 200_000 + "\n[cut here: too long to be shown]"
    assert sanitise.outputs([output] * 10)[-1].text == "[more output, not shown]\n"


def test_pictures_have_a_limit_of_their_own(monkeypatch):
    monkeypatch.setattr(sanitise, "MAX_PICTURES", len(PNG) * 2)
    kinds = [list(output.data) for output in sanitise.outputs([displayed({"image/png": PNG})] * 3)]
    assert kinds == [["image/png"], ["image/png"], ["text/plain"]]


def test_the_limits_are_those_of_a_notebook_not_of_a_cell(monkeypatch):
    monkeypatch.setattr(sanitise, "MAX_TEXT", 2000)
    nb = sanitise.notebook(notebook([{"output_type": "stream", "name": "stdout", "text": "x" * 1200}]))
    shown = ["".join(output.text for output in cell.outputs) for cell in nb.cells if cell.cell_type == "code"]
    assert shown[0] == "x" * 1200
    assert shown[1].startswith("\n[cut here") or "not shown" in shown[1]
    assert shown[2] == ""


def test_long_sources_of_the_learner_are_cut_and_tests_never(monkeypatch):
    monkeypatch.setattr(sanitise, "MAX_SOURCE", 30)
    nb = notebook(note="n" * 30)
    nb.cells[2].source = "a" * 20
    nb.cells[3].source = "t" * 1000
    sanitise.notebook(nb)
    assert nb.cells[2].source == "a" * 20
    assert nb.cells[3].source == "t" * 1000
    assert BeautifulSoup(nb.cells[4].source, "html.parser").text == "n" * 10 + "\n[cut here: too long to be shown]"
    assert nb.cells[5].source == "\n# [cut here: too long to be shown]"


def test_long_lines_of_the_learner_are_cut():
    """Uncut, this one keeps the highlighter busy for half a minute."""
    nb = notebook(note="n" * 5000)
    nb.cells[5].source = f"a = 1\n{'a.b' * 15_000}\nb = 2"
    sanitise.notebook(nb)
    cut = "a.b" * 333 + "a# [cut here: too long to be shown]"
    assert nb.cells[5].source == f"a = 1\n{cut}\nb = 2"
    assert BeautifulSoup(nb.cells[4].source, "html.parser").text == "n" * 5000, "a paragraph is one line"


@pytest.mark.parametrize(("lines", "kept"), [(2000, 2000), (2001, 2000)])
def test_cells_of_many_lines_are_cut(lines, kept):
    nb = notebook()
    nb.cells[5].source = "\n".join(["x"] * lines)
    shown = sanitise.notebook(nb).cells[5].source.split("\n")
    assert shown == ["x"] * kept + ["# [cut here: too long to be shown]"] * (lines > kept)


def test_long_messages_are_cut():
    assert (
        BeautifulSoup(sanitise.text("&" * 20_000), "html.parser").text
        == "&" * 10_000 + "[cut here: too long to be shown]"
    )


def test_twice_is_as_once():
    nb = sanitise.notebook(notebook(list(OUTPUTS.values())))
    for cell in nb.cells:
        if cell.cell_type == "code":
            assert sanitise.outputs(cell.outputs) == cell.outputs


# Spreadsheets


@pytest.mark.parametrize("value", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "＝1", "\ufeff=1"])
def test_what_a_spreadsheet_takes_for_a_formula_becomes_text(value):
    assert sanitise.csv(value) == f"'{value}"


@pytest.mark.parametrize("value", [0, -1, -1.5, 2.0, None, "", "ann", "1-2", "a=b", "José Ñandú", "'=1", "2026-11-20"])
def test_numbers_and_plain_text_stay_as_they_are(value):
    assert sanitise.csv(value) == value
    assert type(sanitise.csv(value)) is type(value)


def test_half_characters_do_not_reach_a_file():
    assert sanitise.csv("a\udcff") == "a?"
    assert sanitise.text("a\udcff").encode()
