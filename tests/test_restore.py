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
    heading = {"cell_type": "heading", "level": 2, "metadata": {}, "source": ["An old\n", "title"]}
    note = {"cell_type": "markdown", "metadata": {}, "source": ["a note\n", "of two lines"]}
    content, flags = read(json.dumps(v3([heading, note, answer])).encode())
    assert ["old format 3" in flag for flag in flags] == [True]
    answers = [cell["source"] for cell in restored(index, content).cells if cell["id"] == "ema"]
    assert answers == ["def ema():\n    pass"]
    assert [cell["source"] for cell in content["cells"][:2]] == ["## An old title", "a note\nof two lines"]


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


def with_cells(cells):
    return json.dumps({"nbformat": 4, "metadata": {}, "cells": cells}).encode()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b'{"nbformat": 4, "cells": [], "metadata": [' + b"[]," * 200_000 + b"0]}", "200003 lists and objects"),
        (with_cells([code_cell("")] * 2001), "2001 cells"),
        (json.dumps(v3([code_cell("")] * 2001)).encode(), "2001 cells"),
        (with_cells([code_cell("x" * 1_100_000)] * 2), "2200000 characters"),
    ],
    ids=["lists", "cells", "cells of an old notebook", "characters"],
)
def test_a_notebook_of_too_many_parts_is_refused(read, raw, words):
    with pytest.raises(BadNotebook, match=words) as caught:
        read(raw)
    assert caught.value.status == "too-large"


def test_a_notebook_as_large_as_allowed_is_read(read):
    content, flags = read(with_cells([code_cell("x" * 1000)] * 2000))
    assert (len(content["cells"]), flags) == (2000, [])


def test_of_a_key_that_stands_twice_the_last_one_counts_as_it_does_in_jupyterlab(read):
    cells = [json.dumps([code_cell(source)]) for source in ("first", "last")]
    content, _ = read(f'{{"nbformat": 4, "cells": {cells[0]}, "cells": {cells[1]}}}'.encode())
    assert [cell["source"] for cell in content["cells"]] == ["last"]


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


def nest(depth):
    return {"deeper": nest(depth - 1)} if depth else None


@pytest.mark.parametrize(
    "change",
    [
        lambda cell: cell.update(id=["ema"]),
        lambda cell: cell.update(id=7, attachments={"a.png": {"image/png": 5}}),
        lambda cell: cell.update(attachments=nest(200), outputs=nest(200), execution_count="<b>"),
        lambda cell: cell["metadata"].update(nest(200), tags=5, collapsed=[]),
        lambda cell: cell["metadata"]["nbgrader"].update(schema_version=99),
        lambda cell: cell["metadata"]["nbgrader"].update(
            schema_version={"x": None}, points="many", cell_type="markdown"
        ),
        lambda cell: cell["metadata"].update(nbgrader={"grade_id": "ema"}),
    ],
)
def test_absurd_metadata_of_an_answer_changes_nothing(index, submission, expected, read, change):
    change(cell_of(submission, "ema"))
    content, flags = read(json.dumps(submission).encode())
    result = restored(index, content)
    assert (graded(result), result.flags, flags) == (expected, [], [])


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


@pytest.mark.parametrize("odd", [None, 7, ["ema"], {"id": "ema"}, {}, "extra-1"])
def test_an_odd_id_of_a_cell_of_the_learner_s_own_changes_nothing(index, submission, expected, read, odd):
    submission["cells"].append(code_cell("mine = 1") | {"id": odd, "metadata": {"nbgrader": {"grade_id": odd}}})
    content, _ = read(json.dumps(submission).encode())
    result = restored(index, content)
    assert graded(result) == expected
    assert [(c["id"], c["source"]) for c in result.cells if c["kind"] == "extra"] == [("extra-1", "mine = 1")]


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
