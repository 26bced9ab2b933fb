"""Grading one notebook: what is earned, what is said about it, and what nothing a learner writes can break."""

from __future__ import annotations

import base64
import json

import pytest

from autograder import verdict as engine
from autograder.build import index_of
from autograder.execute import MAX_DATA, MAX_OUTPUT
from autograder.lab_model import solution_source
from autograder.labs import find
from autograder.verdict import _cause, judge
from coursekit.reference import apply_edits
from tests import learners

MAX = {"ema": 4.0, "steps_to": 1.0}


@pytest.fixture(scope="module")
def lab_index(built_course):
    return index_of(learners.LAB, built_course)


@pytest.fixture(scope="module")
def right(built_course):
    return learners.reference(built_course)


@pytest.fixture
def grade(lab_index, built_course, zygote, tmp_path):
    """Grade answers, with a cell of the learner's own if one is given. What is published never holds a secret."""

    def run(answers, extra=None, **options):
        return judge_file(json.dumps(learners.notebook(built_course, answers, extra)).encode(), **options)

    def judge_file(content, **options):
        path = tmp_path / "lab01_ema.ipynb"
        path.write_bytes(content)
        result = judge(lab_index, path, zygote, root=built_course, **options)
        published = json.dumps(result.to_json())
        assert [secret for secret in learners.HIDDEN + learners.SOLVED if secret in published] == []
        assert "Traceback" not in published
        return result

    run.file = judge_file
    return run


def by_id(result):
    return {exercise.id: exercise for exercise in result.exercises}


def earned(result):
    return {exercise.id: exercise.points for exercise in result.exercises}


def statuses(result):
    return {exercise.id: exercise.status for exercise in result.exercises}


def test_the_reference_earns_everything_and_its_file_is_only_read(grade, right, tmp_path):
    result = grade(right)
    assert (result.status, result.points, result.max) == ("graded", 5.0, 5.0)
    assert earned(result) == MAX
    assert set(statuses(result).values()) == {"passed"}
    assert [exercise.message for exercise in result.exercises] == ["", ""]
    assert [path.name for path in tmp_path.iterdir()] == ["lab01_ema.ipynb"]


def test_another_correct_answer_earns_everything_though_it_warns(grade, right, built_course):
    (alternative,) = find(learners.LAB, built_course).alternatives("ema")
    result = grade(right | {"ema": solution_source(alternative)})
    assert earned(result) == MAX
    written = [output for cell in result.cells for output in cell["outputs"] if output.get("name") == "stderr"]
    assert any("a harmless warning costs nothing" in output["text"] for output in written)


HARMLESS = {
    "stderr": "import sys\nprint('noise', file=sys.stderr)",
    "progress bar": "import sys\nfor i in range(100):\n    sys.stderr.write(f'\\r{i}%')",
    "a huge output": "print('x' * 10_000_000)",
    "many outputs": "for i in range(200_000):\n    print('x' * 50)",
    "many displays": "from IPython.display import display\nfor i in range(5_000):\n    display('x' * 1000)",
    "displayed objects": "from IPython.display import display\ndisplay({('a', 1): {1, 2}, 'b': object()}, raw=True)",
    "half a character": "print('\\ud800')\n'\\udfff'",
    "another print": "import builtins\nprint = None\nbuiltins.print = lambda *a, **k: 1 / 0",
    "closed streams": "import sys\nsys.stdout.close()\nsys.stderr.close()",
    "no streams": "import sys\nsys.stdout = sys.stderr = None",
    "deep recursion": "def down():\n    return down()\ndown()",
    "a cell that raises": "1 / 0",
    "an error that cannot be shown": "class E(Exception):\n    __str__ = None\nraise E",
    "an endless message": "raise ValueError('x' * 50_000_000)",
    "no python": "def (:",
    "exit": "exit()",
    "sys.exit": "import sys\nsys.exit(1)",
    "an interrupt": "raise KeyboardInterrupt",
    "waiting for input": "input()",
    "another folder": "import os, shutil\nhere = os.getcwd()\nos.chdir('/')\nshutil.rmtree(here)",
    "a magic": "%timeit -n1 -r1 pass",
}


@pytest.mark.parametrize("extra", HARMLESS.values(), ids=HARMLESS)
def test_a_cell_of_the_learner_s_own_costs_nothing(grade, right, extra):
    result = grade(right, extra)
    assert (result.status, earned(result)) == ("graded", MAX), [e.message for e in result.exercises]
    kept = json.dumps([cell["outputs"] for cell in result.cells], ensure_ascii=False)
    assert len(kept) < MAX_DATA + MAX_OUTPUT, "what is kept of one cell is bounded"
    kept.encode("utf-8")


def test_displayed_bytes_are_kept_as_nbformat_wants_them(grade, right):
    result = grade(right, "from IPython.display import display\ndisplay({'image/png': b'no picture'}, raw=True)")
    (output,) = next(cell["outputs"] for cell in result.cells if cell["kind"] == "extra")
    assert output["data"] == {"image/png": base64.b64encode(b"no picture").decode()}


def test_points_go_by_test_cell(grade, right):
    no_check_below = right["ema"].replace("not 0 <= beta < 1", "not beta < 1")
    result = grade(right | {"ema": no_check_below})
    ema = by_id(result)["ema"]
    assert (ema.points, ema.status) == (2.0, "failed")
    assert sorted(ema.scores.values()) == [0.0, 2.0]
    assert "bad input raises ValueError" in ema.message
    assert "nothing was raised" in ema.message
    assert earned(result)["steps_to"] == MAX["steps_to"]


@pytest.mark.parametrize(("exercise", "number"), [("ema", 0), ("ema", 3), ("steps_to", 0), ("steps_to", 2)])
def test_a_known_mistake_is_named(grade, right, built_course, exercise, number):
    sentence, edits = list(find(learners.LAB, built_course).mistakes(exercise).items())[number]
    result = by_id(grade(right | {exercise: apply_edits(right[exercise], edits)}))
    assert result[exercise].mistake == sentence
    assert result[exercise].points < MAX[exercise]
    assert [other.mistake for other in result.values() if other.id != exercise] == [None]


def test_an_unknown_mistake_is_not_named(grade, right):
    result = by_id(grade(right | {"steps_to": "def steps_to(share, beta):\n    return 12345"}))
    assert (result["steps_to"].status, result["steps_to"].mistake) == ("failed", None)


EMA = "def ema(x, beta, correct_bias=True):\n    "
STATUS = {
    "untouched": (None, "unwritten", "Not written yet"),
    "syntax": ("def ema(x, beta:\n    pass", "error", "does not run: SyntaxError"),
    "broken cell": ("undefined_name\n" + EMA + "return x", "error", "does not run: NameError"),
    "no such name": ("def other(x):\n    return x", "error", "NameError"),
    "wrong value": (EMA + "return x", "failed", "largest difference"),
    "wrong type": (EMA + "return None", "error", "could not work with what your code gave it: TypeError"),
    "wrong kind": (EMA + "return [['a'] * 3] * 3", "error", "could not work with"),
    "raises": (EMA + "return x.no_such_method()", "error", "AttributeError in ema, at the line `return x.no_such_"),
    "own assertion": (EMA + "assert x.sum() < 0, 'mine'", "error", "AssertionError in ema, at the line `assert x.sum"),
    "sys.exit": (EMA + "import sys; sys.exit(3)", "error", "SystemExit in ema"),
    "interrupt": (EMA + "raise KeyboardInterrupt", "error", "KeyboardInterrupt in ema"),
    "endless recursion": (EMA + "return ema(x, beta)", "error", "RecursionError in ema"),
    "endless cell": ("while True: pass", "timeout", "loop that does not end"),
    "endless message": (EMA + "raise ValueError('x' * 10**7)", "error", "ValueError in ema"),
    "endless loop": (EMA + "while True: pass", "timeout", "loop that does not end"),
    "stubborn loop": (
        EMA + "while True:\n        try:\n            x.sum()\n        except Exception:\n            pass",
        "timeout",
        "loop that does not end",
    ),
    "unreadable error": (
        "class E(Exception):\n    def __str__(self): raise ZeroDivisionError\n" + EMA + "raise E",
        "error",
        "cannot be read",
    ),
}


@pytest.mark.parametrize(("answer", "status", "words"), STATUS.values(), ids=STATUS)
def test_a_wrong_answer_has_its_status_and_the_others_keep_their_points(
    grade, right, monkeypatch, answer, status, words
):
    if status == "timeout":
        monkeypatch.setattr(engine, "CELL_SECONDS", 1.0)
    result = grade({"steps_to": right["steps_to"]} | ({"ema": answer} if answer else {}))
    assert result.status == "graded"
    assert statuses(result) == {"ema": status, "steps_to": "passed"}
    assert earned(result) == {"ema": 0.0, "steps_to": 1.0}
    message = by_id(result)["ema"].message
    assert words in message
    assert len(message) < 1_000


def test_a_deleted_answer_is_missing(grade, right, built_course):
    content = learners.notebook(built_course, right)
    content["cells"] = [cell for cell in content["cells"] if learners.grade_id(cell) != "ema"]
    result = grade.file(json.dumps(content).encode())
    assert statuses(result) == {"ema": "missing", "steps_to": "passed"}
    assert earned(result) == {"ema": 0.0, "steps_to": 1.0}


@pytest.mark.parametrize("changed", ["deleted", "emptied", "copied", "points"])
def test_test_cells_of_the_notebook_do_not_matter(grade, built_course, changed):
    """Marks come from the lab's own tests, so that neither full marks nor none can be made in the notebook."""
    content = learners.notebook(built_course, {"ema": EMA + "return x"})
    tests = [cell for cell in content["cells"] if learners.is_test(cell)]
    if changed == "deleted":
        content["cells"] = [cell for cell in content["cells"] if not learners.is_test(cell)]
    elif changed == "copied":
        content["cells"] += tests
    for cell in tests:
        if changed == "emptied":
            cell["source"] = "100"
        elif changed == "points":
            cell["metadata"]["nbgrader"]["points"] = 100
    result = grade.file(json.dumps(content).encode())
    assert earned(result) == {"ema": 0.0, "steps_to": 0.0}
    assert result.max == 5.0
    assert bool(result.flags) == (changed in ("deleted", "copied"))


DEADLY = {
    "os._exit": ("import os\nos._exit(0)", "died"),
    "killed": ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "died"),
    "segmentation fault": ("import ctypes\nctypes.string_at(0)", "died"),
    "a loop that catches everything": (
        "while True:\n    try:\n        while True: sum(range(99))\n    except: pass",
        "timeout",
    ),
    "a loop without alarms": ("import signal\nsignal.signal(14, signal.SIG_IGN)\nwhile True: pass", "timeout"),
}


@pytest.mark.parametrize(("extra", "status"), DEADLY.values(), ids=DEADLY)
def test_a_notebook_that_ends_its_process_has_a_named_status(grade, right, monkeypatch, extra, status):
    monkeypatch.setattr(engine, "CELL_SECONDS", 0.3)
    monkeypatch.setattr(engine, "NOTEBOOK_SECONDS", 2.0)
    result = grade(right, extra)
    assert result.status == status
    assert statuses(result) == {"ema": status, "steps_to": status}
    assert (result.points, result.max) == (0.0, 5.0)


# This code stands in no cell, so the last line of a cell on the way to it is one of the hidden test.
FROM_ELSEWHERE = """
exec(compile('''
def ema(x, beta, correct_bias=True):
    if beta < 0:
        raise SystemExit("here")
    return reference(x, beta, correct_bias)
''', "mine.py", "exec"))
"""


def test_an_error_below_a_hidden_test_does_not_quote_it(grade, right):
    ema = right["ema"].replace("def ema(", "def reference(") + FROM_ELSEWHERE
    result = by_id(grade(right | {"ema": ema}))["ema"]
    assert (result.points, result.status) == (2.0, "error")
    assert "SystemExit" in result.message
    assert "lambda" not in result.message


@pytest.mark.parametrize(
    ("answer", "line", "used"),
    [
        ("def ema(x, beta, correct_bias=True):\n    x.cumsum(0)\n", 2, "cumsum"),
        ("from scipy.signal import lfilter\n\ndef ema(x, beta, correct_bias=True):\n", 1, "scipy.signal.lfilter"),
        (
            "import scipy.signal as s\n\n\ndef ema(x, beta, correct_bias=True):\n    s.lfilter\n",
            5,
            "scipy.signal.lfilter",
        ),
    ],
)
def test_a_forbidden_shortcut_is_flagged_with_its_line_and_costs_nothing(grade, right, answer, line, used):
    body = right["ema"].partition('"""')[2].partition('"""')[2]
    result = grade(right | {"ema": answer.rstrip("\n") + body})
    assert earned(result) == MAX, by_id(result)["ema"].message
    (flag,) = by_id(result)["ema"].flags
    assert f"line {line} uses {used}," in flag
    assert by_id(result)["steps_to"].flags == []


UNREADABLE = {
    "empty": (b"", "empty"),
    "blank": (b"  \n", "empty"),
    "text": (b"hello", "not-json"),
    "truncated": (b'{"cells": [{"cell_type": "code", "sou', "truncated"),
    "a list": (b"[]", "not-a-notebook"),
    "no cells": (b'{"nbformat": 4}', "not-a-notebook"),
    "odd cells": (b'{"nbformat": 4, "cells": [1, 2]}', "not-a-notebook"),
    "very deep": (b"[" * 100_000, "not-json"),
}


@pytest.mark.parametrize(("content", "status"), UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_notebook_has_a_named_status_in_every_exercise(grade, tmp_path, content, status):
    result = grade.file(content)
    assert result.status == status
    assert statuses(result) == {"ema": status, "steps_to": status}
    assert (result.points, result.max) == (0.0, 5.0)
    assert all(exercise.message for exercise in result.exercises)
    assert (tmp_path / "lab01_ema.ipynb").read_bytes() == content


def test_a_notebook_that_is_not_there_has_a_named_status(lab_index, built_course, zygote, tmp_path):
    result = judge(lab_index, tmp_path / "no.ipynb", zygote, root=built_course)
    assert (result.status, result.points, result.max) == ("not-found", 0.0, 5.0)


def test_half_a_character_in_the_file_costs_nothing(grade, right, built_course):
    content = json.dumps(learners.notebook(built_course, right, extra="'?'")).replace("'?'", "'\\ud800'")
    result = grade.file(content.encode())
    assert earned(result) == MAX
    json.dumps(result.cells, ensure_ascii=False).encode("utf-8")


def test_the_published_form_has_exactly_these_keys(grade, right):
    published = grade(right | {"ema": EMA + "return x"}).to_json()
    assert set(published) == {"lab", "status", "points", "max", "exercises", "flags"}
    for exercise in published["exercises"]:
        assert set(exercise) == {"id", "points", "max", "status", "message", "mistake", "flags"}
    assert json.loads(json.dumps(published)) == published
    assert [exercise["id"] for exercise in published["exercises"]] == ["ema", "steps_to"]


@pytest.mark.parametrize("everything", [False, True])
def test_pictures_run_only_on_demand(grade, right, everything):
    result = grade(right, everything=everything)
    printed = [output["text"] for cell in result.cells if cell["kind"] == "plain" for output in cell["outputs"]]
    assert bool(printed) == everything
    assert all("averages of a step" in text for text in printed)


def test_a_measured_run_has_no_network_and_says_what_it_took(grade, right):
    extra = "import socket\nsocket.create_connection(('127.0.0.1', 9), timeout=1)"
    result = grade(right, extra, measure=True)
    assert result.connections == ["('127.0.0.1', 9)"]
    assert earned(result) == MAX
    assert result.seconds > 0
    assert result.peak_mebibytes > 1


def test_what_a_test_cell_imports_is_not_there_for_the_learners_code(grade, right):
    """In split grading the two are in different processes; a learner's own check has to say the same."""
    borrowing = right["steps_to"].replace("steps = 0\n", "check.seed(0)\n    steps = 0\n")
    assert borrowing != right["steps_to"]
    result = grade(right | {"steps_to": borrowing}).exercises[1]
    assert (result.status, result.points) == ("error", 0)
    assert "NameError in steps_to" in result.message
    assert result.message.endswith("import in yours too.")


def test_an_exercise_that_uses_a_failing_one_says_which_to_mend_first(grade, right):
    chained = right["steps_to"].replace("steps = 0\n", "steps = int(ema(torch.zeros(1, 1), 0.5)) + 3\n")
    assert chained != right["steps_to"]
    wrong = grade({"ema": EMA + "return x * 0", "steps_to": chained})
    assert wrong.exercises[1].status == "failed"
    assert wrong.exercises[1].message.endswith(
        ". It uses ema, and the exercise ema does not pass yet: mend that first."
    )
    assert "mend that first" not in grade(right | {"steps_to": chained}).exercises[1].message


@pytest.mark.parametrize(
    ("found", "cause"),
    [
        ([], None),
        ([["a", "b"], ["b"]], "b"),
        ([["a"], ["a"]], "a"),
        ([["a"], []], None),
        ([["a", "c"], ["b"]], "a; and, in another test, when b"),
    ],
)
def test_the_cause_explains_every_test_or_each_test_has_its_own(found, cause):
    assert _cause(found) == cause
