"""Measuring notebooks: their headers, their parameters, and what one leaves behind when it has run."""

from __future__ import annotations

import json

import nbformat
import pytest
from rich.console import Console

from autograder import measure
from autograder.measure import MilestoneError

HEADER = {"title": "Tiny", "chapter": "ch90", "kind": "milestone", "claim": "Sums are right.", "minutes": "1"}
BODY = """
# %% [markdown]
# # Tiny

# %% tags=["parameters"]
result_path = ""
terms = 3
label = "plain"

# %%
from coursekit import results

total = sum(range(terms + 1))
results.save(
    {"claim": "sums", "passed": total == 10, "figures": {"total": total, "label": label, "kind": type(label).__name__}},
    result_path,
)
"""
QUIET = Console(quiet=True)


@pytest.fixture
def course(tmp_path):
    """A course with one tiny milestone."""
    write(tmp_path, "ch90_milestone", BODY)
    return tmp_path


def write(root, name, body, **changes):
    header = "".join(f"# {key}: {value}\n" for key, value in (HEADER | changes).items() if value is not None)
    (root / "notebooks").mkdir(exist_ok=True)
    path = root / "notebooks" / f"{name}.py"
    path.write_text(f"# ---\n{header}# ---\n{body}", encoding="utf-8")
    return path


def run(root, chapters=(), parameters=(), **options):
    return measure.run(root, list(chapters), list(parameters), QUIET, **options)


def test_headers_are_read_and_demonstrations_told_from_milestones(course):
    write(course, "ch90_why", BODY, kind="demonstration", title="Why")
    found = {item["path"].stem: item for item in measure.notebooks(course)}
    assert {name: item["title"] for name, item in found.items()} == {"ch90_milestone": "Tiny", "ch90_why": "Why"}
    assert found["ch90_milestone"]["minutes"] == 1
    assert [item["path"].stem for item in measure.notebooks(course, demonstrations=False)] == ["ch90_milestone"]


@pytest.mark.parametrize("lacking", HEADER)
def test_a_header_without_a_key_is_named(course, lacking):
    write(course, "ch91_other", BODY, **{lacking: None})
    with pytest.raises(MilestoneError, match=rf"ch91_other\.py: the header lacks {lacking}"):
        measure.notebooks(course)


@pytest.mark.parametrize("text", ["", "print(1)\n", "# ---\n# - a list\n# ---\n", "# ---\n# a: b: c\n# ---\n"])
def test_a_file_without_a_readable_header_is_named(course, text):
    (course / "notebooks" / "ch91_other.py").write_text(text)
    with pytest.raises(MilestoneError, match=r"ch91_other\.py: the header"):
        measure.notebooks(course)


@pytest.mark.parametrize("text", ["terms", "1x=3", "=3", "a b=3", ""])
def test_a_malformed_parameter_is_shown_with_the_right_form(course, text):
    with pytest.raises(MilestoneError, match="write name=value") as problem:
        run(course, parameters=[text])
    assert repr(text) in str(problem.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=3", 3),
        ("a=2.5e-3", 0.0025),
        ("a=[1, 2]", [1, 2]),
        ("a=true", True),
        ("a=False", False),
        ("a=None", None),
        ("a=plain text", "plain text"),
        ("a='3'", "3"),
        ("a=", ""),
        ("a=b=c", "b=c"),
    ],
)
def test_a_parameter_is_a_literal_or_else_text(text, value):
    name, read = measure._parameter(text)
    assert (name, read, type(read)) == ("a", value, type(value))


def test_an_unknown_parameter_is_refused_with_those_that_there_are(course):
    with pytest.raises(MilestoneError, match=r"no parameter trems; it has .*terms"):
        run(course, parameters=["trems=4"])
    assert not list((course / "results").iterdir())


@pytest.mark.parametrize("chapters", [["ch77"], ["ch90", "ch77"]])
def test_an_unknown_chapter_is_refused_with_those_that_there_are(course, chapters):
    with pytest.raises(MilestoneError, match=r"ch77; there are milestones for ch90$"):
        run(course, chapters)


def test_a_course_without_milestones_says_so(tmp_path):
    with pytest.raises(MilestoneError, match="none yet"):
        run(tmp_path)


def test_a_milestone_runs_with_its_parameters_and_its_result_names_the_machine(course):
    (result,) = run(course, ["ch90"], ["terms=4", "label=3x"])
    assert (result["notebook"], result["passed"]) == ("ch90_milestone", True)
    assert result["figures"] == {"total": 10, "label": "3x", "kind": "str"}
    written = json.loads((course / "results" / "ch90_milestone.json").read_text(encoding="utf-8"))
    assert written == {key: value for key, value in result.items() if key not in ("notebook", "seconds")}
    assert written["machine"]["cpu"]
    assert written["machine"]["torch"]
    executed = nbformat.read(course / "results" / "ch90_milestone.ipynb", as_version=4)
    assert any("terms = 4" in cell.source for cell in executed.cells)
    assert sorted(path.name for path in (course / "results").iterdir()) == [
        "ch90_milestone.ipynb",
        "ch90_milestone.json",
    ]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("\n# %%\nundefined_name\n", "ch91_broken broke: NameError: name 'undefined_name' is not defined; see .*ipynb"),
        ("\n# %%\nresult_path = ''\n", "ch91_broken ran but saved no result"),
    ],
    ids=["raises", "saves nothing"],
)
def test_a_broken_notebook_is_named_and_leaves_no_old_result(course, body, words):
    write(course, "ch91_broken", body, chapter="ch91")
    (course / "results").mkdir()
    (course / "results" / "ch91_broken.json").write_text("{}")
    with pytest.raises(MilestoneError, match=words):
        run(course, ["ch91"])
    assert not (course / "results" / "ch91_broken.json").exists()
