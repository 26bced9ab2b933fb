"""What a feedback page shows of a test cell: what to learn from, and nothing of the hidden test in any disguise."""

from __future__ import annotations

import base64
import codecs

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from autograder.redact import RedactHiddenTests

HIDDEN = "oracle = torch.from_numpy(lfilter([1 - beta], [1, -beta], steps))"
VISIBLE = 'check.close(ema(five, 0.9), five, "a constant stays")'
SOURCE = f"{VISIBLE}\n### BEGIN HIDDEN TESTS\n{HIDDEN}\n### END HIDDEN TESTS"
TEST = {"grade_id": "test_ema", "grade": True, "locked": True, "solution": False, "points": 2}
#: What a learner's code may print of a test that it has got hold of.
DISGUISES = [
    HIDDEN,
    HIDDEN.replace(" ", "\n"),
    codecs.encode(HIDDEN, "rot13"),
    base64.b64encode(HIDDEN.encode()).decode(),
    HIDDEN[::-1],
]


def redacted(cell):
    return RedactHiddenTests().preprocess_cell(cell, {}, 0)[0]


def seen(*outputs, source=SOURCE, marks=TEST):
    return redacted(new_code_cell(source, metadata={"nbgrader": dict(marks)}, outputs=list(outputs)))


def error(name, message, *lines):
    return new_output("error", ename=name, evalue=message, traceback=list(lines))


def printed(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def test_the_source_keeps_its_visible_part_and_says_that_there_was_more():
    assert seen().source == f"{VISIBLE}\n# hidden tests ran here"
    assert seen(source=VISIBLE).source == VISIBLE
    indented = (
        f"if True:\n    {VISIBLE}\n    ### BEGIN HIDDEN TESTS (the edges)\n    {HIDDEN}\n    ### END HIDDEN TESTS #"
    )
    assert seen(source=indented).source == f"if True:\n    {VISIBLE}\n# hidden tests ran here"


@pytest.mark.parametrize("text", DISGUISES)
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_nothing_that_was_printed_while_hidden_tests_ran_is_shown(text, name):
    (output,) = seen(printed(text, name)).outputs
    assert output.text == "[what was printed or displayed while hidden tests ran is not shown]\n"


@pytest.mark.parametrize("text", DISGUISES)
def test_nothing_that_was_displayed_while_hidden_tests_ran_is_shown(text):
    shown = (
        new_output("display_data", data={"text/plain": text}),
        new_output("execute_result", data={"text/html": text}),
    )
    assert len(seen(*shown).outputs) == 1
    assert text not in str(seen(*shown))


def test_what_a_visible_test_lets_learners_print_is_shown():
    (output,) = seen(printed("UserWarning: slow", "stderr"), source=VISIBLE).outputs
    assert (output.name, output.text) == ("stderr", "UserWarning: slow")


@pytest.mark.parametrize("source", [VISIBLE, SOURCE])
def test_a_failed_check_is_told_in_its_own_words_and_without_a_traceback(source):
    said = f"What:  steps\nWhy:   {'x' * 500}\nTry:   this"
    (output,) = seen(error("CheckFailed", said, "Traceback", f"----> 3 {HIDDEN}", said), source=source).outputs
    assert output.traceback == [f"CheckFailed: {said}"]
    assert output.evalue == said


def test_of_another_exception_in_hidden_tests_the_message_is_short():
    (output,) = seen(error("ValueError", "b" * 5000, HIDDEN)).outputs
    assert output.traceback == [f"ValueError: {'b' * 300}"]
    assert output.evalue == "b" * 300
    (output,) = seen(error("ValueError", "b" * 5000, HIDDEN), source=VISIBLE).outputs
    assert output.traceback == [f"ValueError: {'b' * 5000}"]


def test_a_bare_assertion_is_not_an_empty_box():
    (output,) = seen(error("AssertionError", "", HIDDEN)).outputs
    assert output.traceback == ["AssertionError: a check did not hold"]


@pytest.mark.parametrize("marks", [{}, {"grade_id": "ema", "grade": False, "locked": False, "solution": True}])
def test_a_cell_of_the_learner_s_keeps_its_outputs_and_its_odd_source(marks):
    source = "### BEGIN HIDDEN TESTS\nwhere = 'does it end?'"
    cell = seen(printed("mine"), error("E", "x", "line 1", "E: x"), source=source, marks=marks)
    assert cell.source == source
    assert [output.get("text") or output.traceback for output in cell.outputs] == ["mine", ["line 1", "E: x"]]


def test_outputs_are_made_harmless_for_notebooks_that_stock_nbgrader_has_graded():
    html = new_output("display_data", data={"text/html": "<script>alert(1)</script>"})
    for source, marks in ((VISIBLE, TEST), ("mine", {})):
        assert "text/html" not in seen(html, source=source, marks=marks).outputs[0].data


def test_markdown_is_left_alone():
    cell = new_markdown_cell("### BEGIN HIDDEN TESTS", metadata={"nbgrader": dict(TEST)})
    assert redacted(nbformat.from_dict(cell)) == cell
