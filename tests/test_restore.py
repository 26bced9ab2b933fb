"""Reading whatever a learner hands in, and putting their answers back into the lab's own structure."""

from __future__ import annotations

import copy
import json
import os

import pytest

from autograder import intake, restore
from autograder.build import index_of
from autograder.intake import BadNotebook
from tests import learners
from tests.learners import code_cell

ANSWERS = {"ema": "def ema(x, beta, correct_bias=True):\n    return 'mine'\n", "steps_to": "def steps_to(s, b): ...\n"}


@pytest.fixture(scope="module")
def index(built_course):
    return index_of(learners.LAB, built_course)


@pytest.fixture
def submission(built_course):
    notebook = learners.notebook(built_course, ANSWERS)
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


@pytest.fixture
def read(tmp_path):
    """Read bytes as a file, and show that neither the file nor its folder has changed."""

    def read_bytes(raw):
        path = tmp_path / "lab.ipynb"
        path.write_bytes(raw)
        os.utime(path, (1, 1))
        try:
            return restore.read(intake.read_file(path), path.name)
        finally:
            assert path.read_bytes() == raw
            assert path.stat().st_mtime == 1
            assert list(tmp_path.iterdir()) == [path]

    return read_bytes


def place_of(notebook, grade_id):
    return next(n for n, cell in enumerate(notebook["cells"]) if learners.grade_id(cell) == grade_id)


def cell_of(notebook, grade_id):
    return notebook["cells"][place_of(notebook, grade_id)]


def restored(index, notebook):
    """Restore, and show that neither the index nor the notebook has changed."""
    before = copy.deepcopy((index, notebook))
    result = restore.restore(index, notebook)
    assert (index, notebook) == before
    return result


def graded(result):
    """What decides about marks: the cells that are neither the learner's own nor text."""
    return [(c["id"], c["kind"], c["source"]) for c in result.cells if c["kind"] in ("given", "exercise", "test")]


@pytest.fixture
def expected(index):
    """The lab's own cells with the answers of ``submission``: the oracle for `graded`."""
    return [
        (c["id"], c["kind"], ANSWERS[c["exercise"]] if c["kind"] == "exercise" else c["source"])
        for c in index["cells"]
        if c["kind"] in ("given", "exercise", "test")
    ]


# Reading


def test_a_byte_order_mark_is_passed_over_and_mentioned(read, submission):
    content, flags = read(b"\xef\xbb\xbf" + json.dumps(submission).encode())
    assert content == submission
    assert ["byte-order mark" in flag for flag in flags] == [True]


def test_latin_1_is_read_and_mentioned(read, submission):
    submission["cells"].append(code_cell("grüße = 'é'"))
    content, flags = read(json.dumps(submission, ensure_ascii=False).replace("·", "-").encode("latin-1"))
    assert content["cells"][-1]["source"] == "grüße = 'é'"
    assert ["Latin-1" in flag for flag in flags] == [True]


def test_an_ordinary_notebook_is_read_without_a_remark(read, submission):
    for cell in submission["cells"]:
        cell["source"] = cell["source"].splitlines(keepends=True)
    content, flags = read(json.dumps(submission, ensure_ascii=False).encode())
    assert flags == []
    assert cell_of(content, "ema")["source"] == ANSWERS["ema"], "lines are joined"


def v3(cells):
    return {"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}, "worksheets": [{"cells": cells}]}


def test_an_old_notebook_is_converted_and_keeps_what_identifies_its_cells(read, index):
    answer = {
        "cell_type": "code",
        "input": ["def ema():\n", "    pass"],
        "language": "python",
        "metadata": {"nbgrader": {"grade_id": "ema", "solution": True}},
        "outputs": [],
        "collapsed": False,
    }
    content, flags = read(json.dumps(v3([answer])).encode())
    assert ["old format 3" in flag for flag in flags] == [True]
    answers = [cell["source"] for cell in restored(index, content).cells if cell["id"] == "ema"]
    assert answers == ["def ema():\n    pass"]


WHOLE = json.dumps(v3([]) | {"nbformat": 4, "cells": [code_cell("x = 'a text that is long enough'")]}).encode()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", "empty"),
        (b" \n\t", "empty"),
        *[(WHOLE[:cut], "truncated") for cut in (1, 20, len(WHOLE) // 2, WHOLE.index(b"long"), len(WHOLE) - 1)],
        (b"hello", "not-json"),
        (b"\x89PNG\r\n\x1a\n\x00\x01", "not-json"),
        (WHOLE.decode().encode("utf-16"), "not-json"),
        (b'{"cells": [,], "nbformat": 4}', "not-json"),
        (b'{"cells": []} {"cells": []}', "not-json"),
        (b"[" * 100_000, "not-json"),
        (b'{"cells":' * 100_000, "not-json"),
        (b'{"cells": [' + b"[" * 50_000 + b"]" * 50_000 + b"]}", "not-json"),
        (b'{"nbformat": ' + b"9" * 5000 + b"}", "not-json"),
        (b"[]", "not-a-notebook"),
        (b"null", "not-a-notebook"),
        (b'"cells"', "not-a-notebook"),
        (b"{}", "not-a-notebook"),
        (b'{"nbformat": 4, "cells": {}}', "not-a-notebook"),
        (b'{"nbformat": 4, "cells": [null]}', "not-a-notebook"),
        (b'{"nbformat": 4, "cells": [{"cell_type": "code", "metadata": {}}]}', "not-a-notebook"),
        (b'{"nbformat": 4, "cells": [{"cell_type": "code", "source": [1]}]}', "not-a-notebook"),
        (b'{"nbformat": 4, "cells": [{"cell_type": "heading", "source": "x"}]}', "not-a-notebook"),
        (b'{"nbformat": 3}', "not-a-notebook"),
        (b'{"nbformat": 2, "worksheets": 7}', "not-a-notebook"),
        (b'{"nbformat": -1, "cells": []}', "not-a-notebook"),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else value,
)
def test_what_cannot_be_read_has_a_named_status(read, raw, status):
    with pytest.raises(BadNotebook) as caught:
        read(raw)
    assert caught.value.status == status
    assert "lab.ipynb" in str(caught.value), "the message names the file"


def test_a_notebook_beyond_the_limit_is_refused_unread(tmp_path):
    path = tmp_path / "lab.ipynb"
    with path.open("wb") as file:
        file.truncate(intake.MAX_BYTES + 1)
    with pytest.raises(BadNotebook, match="20 MiB, the limit is 20") as caught:
        intake.read_file(path)
    assert caught.value.status == "too-large"


@pytest.mark.parametrize("name", ["nowhere.ipynb", "nowhere/lab.ipynb", "."])
def test_a_missing_file_or_a_folder_is_not_found(tmp_path, name):
    with pytest.raises(BadNotebook) as caught:
        intake.read_file(tmp_path / name)
    assert caught.value.status == "not-found"


def test_a_file_that_may_not_be_read_has_a_named_status(tmp_path, monkeypatch):
    (tmp_path / "lab.ipynb").write_bytes(WHOLE)

    def refused(self):
        raise PermissionError(13, "Permission denied")

    # As root every file can be read, so the refusal is made here.
    monkeypatch.setattr(type(tmp_path), "read_bytes", refused)
    with pytest.raises(BadNotebook, match="Permission denied") as caught:
        intake.read_file(tmp_path / "lab.ipynb")
    assert caught.value.status == "unreadable"


# Restoring


def test_an_orderly_notebook_is_taken_as_it_is(index, submission, expected):
    result = restored(index, submission)
    assert graded(result) == expected
    assert (result.flags, result.missing) == ([], [])
    assert not [cell for cell in result.cells if cell["kind"] == "extra"]


def edit_source(cell):
    cell["source"] = "assert True\n"


def make_markdown(cell):
    cell["cell_type"] = "markdown"
    del cell["outputs"], cell["execution_count"]


def make_solution(cell):
    cell["metadata"]["nbgrader"] |= {"grade": False, "solution": True, "locked": False, "points": 99}


@pytest.mark.parametrize("change", [edit_source, make_markdown, make_solution])
@pytest.mark.parametrize("grade_id", ["test_ema", "test_ema_2", "given_1", "setup"])
def test_a_changed_test_or_given_cell_changes_nothing(index, submission, expected, grade_id, change):
    change(cell_of(submission, grade_id))
    assert graded(restored(index, submission)) == expected


@pytest.mark.parametrize("grade_id", ["test_ema", "given_1"])
def test_a_deleted_cell_comes_back_and_a_copied_one_counts_once(index, submission, expected, grade_id):
    twice = copy.deepcopy(submission)
    twice["cells"].insert(0, copy.deepcopy(cell_of(twice, grade_id)))
    result = restored(index, twice)
    assert graded(result) == expected
    assert result.flags == [f"the cell {grade_id} stood 2 times; marks count once"]
    del submission["cells"][place_of(submission, grade_id)]
    result = restored(index, submission)
    assert graded(result) == expected
    assert result.flags == [f"the cell {grade_id} was missing; the original was used"]


def test_the_order_of_the_cells_is_the_lab_s(index, submission, expected):
    submission["cells"].reverse()
    assert graded(restored(index, submission)) == expected


def test_a_retyped_answer_still_answers(index, submission, expected):
    make_markdown(cell_of(submission, "ema"))
    cell_of(submission, "steps_to")["metadata"]["nbgrader"] |= {"grade": True, "solution": False, "points": 99}
    assert graded(restored(index, submission)) == expected


def test_a_deleted_answer_is_missing_and_the_other_one_is_not(index, submission, expected):
    del submission["cells"][place_of(submission, "ema")]
    result = restored(index, submission)
    assert result.missing == ["ema"]
    assert graded(result) == [(i, k, "" if i == "ema" else source) for i, k, source in expected]


def test_copies_of_an_answer_run_in_their_order_so_that_the_last_one_counts(index, submission):
    second = copy.deepcopy(cell_of(submission, "ema")) | {"source": "def ema(): return 'second'\n"}
    submission["cells"].append(second)
    result = restored(index, submission)
    copies = [(cell["id"], cell["source"]) for cell in result.cells if cell["kind"] == "exercise"][:2]
    assert copies == [("ema", ANSWERS["ema"]), ("ema-copy1", second["source"])]
    assert result.flags == ["the cell ema stood 2 times; marks count once"]


@pytest.mark.parametrize("marks", [None, {}, {"nbgrader": None}, {"nbgrader": {"grade_id": ["ema"]}}])
def test_an_answer_whose_metadata_is_lost_is_known_by_its_cell_id(index, submission, expected, read, marks):
    for cell in submission["cells"]:
        cell["metadata"] = marks
    content, _ = read(json.dumps(submission).encode())
    assert graded(restored(index, content)) == expected


def test_an_answer_that_has_lost_both_is_missing_and_its_cell_is_the_learner_s_own(index, submission):
    cell_of(submission, "ema").pop("id")
    cell_of(submission, "ema").pop("metadata")
    submission["cells"] = [cell | {"metadata": cell.get("metadata", {})} for cell in submission["cells"]]
    result = restored(index, submission)
    assert result.missing == ["ema"]
    assert [cell["source"] for cell in result.cells if cell["kind"] == "extra"] == [ANSWERS["ema"]]


def test_cells_of_the_learner_s_own_keep_their_place(index, submission):
    """Whatever stands before the first cell, after an answer, between its tests, or at the end stays there."""
    names = ["ema", "test_ema", "steps_to"]
    for name in names:
        submission["cells"].insert(place_of(submission, name) + 1, code_cell(f"after = '{name}'"))
    submission["cells"].insert(0, code_cell("after = None"))
    submission["cells"].append(code_cell("last = 1"))
    submission["cells"].append(code_cell("last = 2"))
    cells = restored(index, submission).cells
    assert cells[0]["source"] == "after = None"
    for name in names:
        place = next(n for n, cell in enumerate(cells) if cell["id"] == name)
        assert (cells[place + 1]["kind"], cells[place + 1]["source"]) == ("extra", f"after = '{name}'")
    assert [cell["source"] for cell in cells[-2:]] == ["last = 1", "last = 2"]
    assert len({cell["id"] for cell in cells}) == len(cells), "ids are unique: outputs are put back by them"


def test_a_note_is_text_and_never_runs(index, submission):
    submission["cells"].append({"cell_type": "markdown", "source": "print('note')", "metadata": {}})
    submission["cells"].append({"cell_type": "raw", "source": "print('raw')", "metadata": {}})
    assert [cell["kind"] for cell in restored(index, submission).cells[-2:]] == ["markdown", "markdown"]


def test_a_changed_demonstration_is_kept_beside_the_original(index, submission):
    plain = submission["cells"][-1]
    original = plain["source"]
    plain["source"] = "print('mine')"
    result = restored(index, submission)
    assert [(cell["kind"], cell["source"]) for cell in result.cells[-2:]] == [
        ("plain", original),
        ("extra", "print('mine')"),
    ]
