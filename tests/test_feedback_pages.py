"""From a hostile submission to the pages that show it: graded by the real engine, drawn by nbgrader's own exporters."""

from __future__ import annotations

import json
import re
import shutil
from types import SimpleNamespace

import nbformat
import pytest
from bs4 import BeautifulSoup

from autograder import classroom
from tests import learners
from tests.learners import CHAPTER, STEM
from tests.stub_pool import hand_in
from tests.test_sanitise import HTML, MARKDOWN, SHOWN, Acts, draw  # noqa: F401 (draw is a fixture)

SHOWS = f"""
from IPython.display import HTML, SVG, Javascript, Markdown, display

for text in {list(HTML.values())!r}:
    display(HTML(text))
    print(text)
display(Javascript("alert(1)"), SVG('<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"></svg>'))
display(Markdown("[x](javascript:alert(1))"), {{"image/png": "'><script>alert(1)</script>"}}, raw=False)
display({{"text/html": "<script>alert(1)</script>", "text/plain": "a table"}}, raw=True)
"""
#: Passes what is visible of the second test, and then fails with markup in its message.
TELLS = """
def ema(x, beta, correct_bias=True):
    print("given to me:", x.shape, beta)
    if x.shape == (2, 1):
        return x
    raise ValueError("<script>alert(1)</script> [x](javascript:alert(1)) | $x$")
"""
STEPS = "def steps_to(share, beta):\n    return '<img src=x onerror=alert(1)>'\n"


@pytest.fixture(scope="module")
def graded(built_course, tmp_path_factory):
    root = tmp_path_factory.mktemp("pages") / "course"
    shutil.copytree(built_course, root)
    # Honest work with something to say about it.
    hand_in(root, "ann", learners.notebook(root, {"ema": learners.reference(root)["ema"]}, "mine = 1"))
    hostile = learners.notebook(root, {"ema": TELLS, "steps_to": STEPS}, SHOWS)
    hostile["cells"] += [
        {"cell_type": kind, "id": f"n{number}-{kind}", "metadata": {}, "source": text}
        for number, text in enumerate(MARKDOWN.values())
        for kind in ("markdown", "raw")
    ]
    hand_in(root, "mal", hostile)
    results, _ = classroom.grade(root, CHAPTER, jobs=2)
    verdicts = {result.student: result.verdict for result in results}
    return SimpleNamespace(root=root, verdicts=verdicts)


def feedback(graded, name):
    return (graded.root / "grading" / "feedback" / name / CHAPTER / f"{STEM}.html").read_text(encoding="utf-8")


def autograded(graded, name):
    return nbformat.read(graded.root / "grading" / "autograded" / name / CHAPTER / f"{STEM}.ipynb", as_version=4)


def outputs_below(page, grade_id):
    """The text of the outputs of a test cell on a feedback page."""
    anchor = BeautifulSoup(page, "html.parser").find("a", attrs={"name": grade_id})
    return anchor.find_parent(class_="code_cell").select_one(".output_wrapper").get_text()


def test_the_hostile_submission_has_shown_what_it_has_to_show(graded):
    verdict = graded.verdicts["mal"]
    assert (verdict.status, verdict.points, graded.verdicts["ann"].points) == ("graded", 0.0, 4.0)
    cells = autograded(graded, "mal").cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    displayed = "".join(output.get("data", {}).get("text/plain", "") for output in outputs)
    noted = BeautifulSoup(feedback(graded, "mal"), "html.parser").select("pre.tex2jax_ignore")
    assert len(noted) == 2 * len(MARKDOWN)
    for text in (printed, displayed, "".join(note.get_text() for note in noted)):
        assert [name for name, payload in HTML.items() if payload not in text] == []
    assert "a table" in displayed


def test_a_feedback_page_of_hostile_work_does_no_more_than_one_of_honest_work(graded):
    assert Acts(feedback(graded, "mal")).found - Acts(feedback(graded, "ann")).found <= SHOWN


def test_formgrader_s_page_of_hostile_work_does_no_more_than_one_of_honest_work(graded, draw):  # noqa: F811
    hostile, honest = (Acts(draw("formgrade", autograded(graded, name))).found for name in ("mal", "ann"))
    assert hostile - honest <= SHOWN


def test_a_message_of_the_learner_s_shows_literally_in_the_summary(graded):
    page = BeautifulSoup(feedback(graded, "mal"), "html.parser")
    messages = [note.get_text() for note in page.select("li bdi.tex2jax_ignore")]
    assert any("<script>alert(1)</script> [x](javascript:alert(1)) | $x$" in message for message in messages)


def test_below_a_hidden_test_stands_what_went_wrong_and_nothing_else(graded):
    said = outputs_below(feedback(graded, "mal"), "test_ema_2").strip()
    assert said == "ValueError: <script>alert(1)</script> [x](javascript:alert(1)) | $x$"


def test_no_page_holds_a_hidden_test(graded):
    for name in ("ann", "mal"):
        text = feedback(graded, name)
        assert [secret for secret in learners.HIDDEN if secret in re.sub(r"<[^>]*>", "", text) + text] == []


def test_the_autograded_notebook_is_valid_and_holds_nothing_but_text_and_pictures(graded):
    nb = autograded(graded, "mal")
    nbformat.validate(nb)
    kinds = {kind for cell in nb.cells for output in cell.get("outputs", []) for kind in output.get("data", {})}
    assert kinds == {"text/plain"}
    assert json.dumps(nb).count("alert(1)") > 10
