"""What `course build` generates: the same bytes everywhere, nothing secret, nothing lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from typer.testing import CliRunner

from autograder import labs
from autograder.build import build, index_of, source_notebook
from autograder.setup_cell import setup_cell
from tests import learners
from tests.conftest import ROOT, make_course
from tests.learners import CHAPTER, LAB, STEM

RELEASED = Path("release") / CHAPTER / f"{STEM}.ipynb"
SOURCE = Path("source_solutions") / CHAPTER / f"{STEM}.py"


@pytest.fixture
def course(built_course, tmp_path, monkeypatch):
    """A copy of the built course, to change."""
    root = tmp_path / "course"
    shutil.copytree(built_course, root)
    monkeypatch.setenv("COURSE_ROOT", str(root))
    return root


def tree(root):
    """Every file of a folder with its bytes."""
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def texts(path, kinds=("code", "markdown")):
    """The sources of a notebook's cells."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] in kinds]


# The same bytes everywhere


def test_builds_in_other_folders_and_processes_give_the_same_bytes(built_course, tmp_path):
    code = "import sys, pathlib; from autograder.build import build; build(pathlib.Path(sys.argv[1]))"
    for seed in ("1", "2"):
        root = tmp_path / f"a folder {seed}" / "inside"
        root.mkdir(parents=True)
        make_course(root)
        environment = os.environ | {"PYTHONHASHSEED": seed, "COURSE_ROOT": str(root), "LC_ALL": "C"}
        subprocess.run([sys.executable, "-c", code, str(root)], check=True, env=environment, cwd=tmp_path)
        assert tree(root) == tree(built_course)


def test_a_second_build_writes_nothing(course):
    before = tree(course)
    report = build(course)
    assert (report.written, report.removed, report.kept) == ([], [], [])
    assert tree(course) == before


def test_the_release_is_what_stock_nbgrader_makes(built_course, tmp_path):
    shutil.copytree(built_course / "build" / "source", tmp_path / "build" / "source")
    shutil.copy(ROOT / "nbgrader_config.py", tmp_path)
    command = [sys.executable, "-m", "nbgrader", "generate_assignment", CHAPTER]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "release") == tree(built_course / "release")


def test_this_repository_is_fresh():
    """The one test here about the checkout itself: what is committed is what a build would write."""
    report = build(ROOT, check=True)
    stale = [f"{path}: {report.summaries[path]}" for path in report.stale]
    assert stale == [], "run `course build` and commit what it changes"


# Orphans, and --check


def test_orphans_are_removed_and_what_others_make_beside_them_stays(course):
    old = course / "release" / "ch89_gone" / "lab01_gone.ipynb"
    solved = course / "coursekit" / "solved" / "ch89_gone" / "lab01_gone.py"
    for path in (old, solved):
        path.parent.mkdir(parents=True)
    shutil.copy(course / RELEASED, old)
    solved.write_text("")
    stay = [
        course / "release" / CHAPTER / ".ipynb_checkpoints" / "lab01_ema-checkpoint.ipynb",
        course / "coursekit" / "solved" / CHAPTER / "__pycache__" / "lab01_ema.cpython-311.pyc",
        course / "coursekit" / "carry.py",
    ]
    for path in stay:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not ours")
    report = build(course)
    assert set(report.removed) == {old.relative_to(course), solved.relative_to(course)}
    assert not old.parent.exists()
    assert not solved.parent.exists()
    assert all(path.exists() for path in stay)
    assert report.kept == [], "a release that nobody worked on needs no copy"


def test_check_changes_nothing_and_says_what_is_stale(course):
    edit(course / RELEASED, "Exponential moving averages", "Exponentially moving averages")
    (course / "coursekit" / "solved" / CHAPTER / f"{STEM}.py").unlink()
    orphan = Path("release") / CHAPTER / "lab07_gone.ipynb"
    shutil.copy(course / RELEASED, course / orphan)
    before = tree(course)
    report = build(course, check=True)
    assert tree(course) == before
    assert report.summaries == {
        RELEASED: "+1 -1 lines",
        Path("coursekit/solved") / CHAPTER / f"{STEM}.py": "missing",
        orphan: "no source makes it",
    }
    assert set(report.stale) == set(report.summaries)


def test_the_command_fails_on_stale_files_and_names_them(course):
    from autograder.cli import app

    assert CliRunner().invoke(app, ["build", "--check"]).exit_code == 0
    edit(course / RELEASED, "Exponential moving averages", "Exponentially moving averages")
    stale = CliRunner().invoke(app, ["build", "--check"])
    assert stale.exit_code == 1
    assert "lab01_ema.ipynb" in stale.output
    assert "+1 -1 lines" in stale.output


def test_a_malformed_source_leaves_everything_as_it_was(course):
    edit(course / SOURCE, "# %% given", "# %% givn")
    edit(course / RELEASED, "Exponential", "Exponentially")
    (course / "release" / CHAPTER / "lab07_gone.ipynb").write_text("{}")
    before = tree(course)
    for check in (False, True):
        with pytest.raises(labs.LabError, match=r"lab01_ema\.py:\d+: unknown tag"):
            build(course, check=check)
    with pytest.raises(labs.LabError):
        index_of(LAB, course)
    assert tree(course) == before


# Nothing secret


def secrets(source):
    """Lines of a lab source that no release may hold: solutions, hidden tests, and cells that are never released."""
    hidden, shown, region, never = set(), set(), False, False
    for line in source.splitlines():
        if line.startswith("# %%"):
            never = bool(re.match(r"# %% (mistakes|equivalent|alternative)=", line))
        if re.match(r"\s*### BEGIN (SOLUTION|HIDDEN TESTS)", line):
            region = True
        (hidden if region or never else shown).add(line.strip())
        if re.match(r"\s*### END (SOLUTION|HIDDEN TESTS)", line):
            region = False
    return {line for line in hidden - shown if len(line) > 8}


def leaks(source, notebook):
    """Secret lines that stand in a notebook."""
    return sorted(secrets(source) & {line.strip() for text in texts(notebook) for line in text.splitlines()})


def test_the_release_holds_no_solution_hidden_test_mistake_alternative_or_equivalent(course):
    with (course / SOURCE).open("a", encoding="utf-8") as file:
        file.write('\n# %% equivalent="ema"\n{"beta -> beta + 1": "a reason that nobody may read"}\n')
    build(course)
    source = (course / SOURCE).read_text(encoding="utf-8")
    # Not an empty comparison: each kind of secret is among those looked for.
    for part in ("steps.append(average", "secret_marker = ", "beta and 1 - beta have", "weights = ", "a reason that"):
        assert any(part in line for line in secrets(source))
    assert leaks(source, course / RELEASED) == []
    whole = (course / RELEASED).read_text(encoding="utf-8")
    assert "HIDDEN TESTS" not in whole
    assert "BEGIN SOLUTION" not in whole


@pytest.mark.parametrize("lab", labs.catalog(ROOT), ids=lambda lab: lab.id)
def test_no_released_lab_of_this_repository_holds_a_secret(lab):
    released = ROOT / "release" / lab.chapter / f"{lab.stem}.ipynb"
    assert leaks(lab.path.read_text(encoding="utf-8"), released) == []


# Work in release/ is never lost


def ran(notebook):
    next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")["execution_count"] = 1


def printed(notebook):
    output = {"output_type": "stream", "name": "stdout", "text": "hello"}
    next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")["outputs"] = [output]


def answered(notebook):
    next(filter(learners.is_answer, notebook["cells"]))["source"] = "def ema(x, beta): return x"


def began(notebook):
    cell = next(filter(learners.is_answer, notebook["cells"]))
    cell["source"] = [*cell["source"], "\n    # first idea: keep a running sum"]


def noted(notebook):
    note = {"cell_type": "markdown", "id": "3f9a1c77", "metadata": {}, "source": "my note"}
    notebook["cells"].insert(3, note)


def annotated(notebook):
    notebook["cells"][0]["source"] += ["\nmy remark"]


@pytest.mark.parametrize(
    ("work", "orphan"), [(work, False) for work in (ran, printed, answered, began, noted, annotated)] + [(began, True)]
)
def test_a_notebook_that_somebody_worked_on_is_kept_before_it_goes(course, work, orphan):
    content = json.loads((course / RELEASED).read_text(encoding="utf-8"))
    work(content)
    path = course / RELEASED.with_name("lab07_gone.ipynb") if orphan else course / RELEASED
    fresh = (course / RELEASED).read_bytes()
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
    mine = path.read_bytes()
    report = build(course)
    (kept,) = report.kept
    assert kept.parent == course / "work" / "kept" / CHAPTER
    assert kept.read_bytes() == mine
    assert (course / RELEASED).read_bytes() == fresh
    assert path.exists() != orphan


@pytest.mark.parametrize("name", [f"{CHAPTER}/notes.txt", f"{CHAPTER}/mine/lab01_ema.ipynb", "scratch.py"])
def test_other_files_of_somebody_are_kept_too(course, name):
    path = course / "release" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("half a notebook {")
    report = build(course)
    assert not path.exists()
    assert [kept.read_text() for kept in report.kept] == ["half a notebook {"]


def test_a_release_that_nobody_worked_on_is_replaced_without_a_copy(course):
    edit(course / SOURCE, "has every kind of cell", "has each kind of cell")
    edit(course / SOURCE, "if not 0 <= beta", "if not (0 <= beta")
    edit(course / SOURCE, "beta < 1:", "beta < 1):")
    edit(course / SOURCE, "a constant 5, uncorrected", "a constant, uncorrected")
    report = build(course)
    assert RELEASED in report.written
    assert report.kept == []
    assert "has each kind of cell" in "".join(texts(course / RELEASED))


# Cells


def ids_by_source(root):
    lab = labs.find(LAB, root)
    return {cell["source"]: cell["id"] for cell in source_notebook(lab, setup_cell(root))["cells"]}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# %% [markdown]\n# ## Exercise 2", "# %% [markdown]\n# A new cell.\n\n# %% [markdown]\n# ## Exercise 2"),
        ("# ## Exercise 1 · `ema`", "# ## The first exercise"),
        ('print("averages', 'print("The averages'),
    ],
)
def test_cell_ids_do_not_change_when_another_cell_does(course, old, new):
    before = ids_by_source(course)
    edit(course / SOURCE, old, new)
    after = ids_by_source(course)
    assert all(after[source] == before[source] for source in before.keys() & after.keys())
    assert len(after.keys() - before.keys()) == 1


def test_an_edited_answer_or_test_keeps_its_id(course):
    before = ids_by_source(course)
    edit(course / SOURCE, "for t, value in enumerate(x, start=1):", "for t, value in enumerate(x, 1):")
    edit(course / SOURCE, "zeros stay zeros", "zeros remain zeros")
    after = ids_by_source(course)
    assert list(after.values()) == list(before.values())
    assert after != before


def test_ids_are_valid_and_unique_even_for_equal_cells(course):
    edit(course / SOURCE, "# %% [markdown]\n# ## Look at it", 2 * "# %% [markdown]\n# Twice.\n\n" + "# %%\nprint()")
    notebook = source_notebook(labs.find(LAB, course), setup_cell(course))
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    nbformat.validate(nbformat.from_dict(notebook))


def test_the_marks_are_nbgrader_s(built_course):
    """Read with nbgrader's own functions: which cells are solutions, tests and locked, and what they are worth."""
    from nbgrader import utils

    cells = nbformat.read(built_course / "build" / "source" / CHAPTER / f"{STEM}.ipynb", 4).cells
    marked = {cell.metadata.nbgrader.grade_id: cell for cell in cells if "nbgrader" in cell.metadata}
    assert [name for name, cell in marked.items() if utils.is_solution(cell)] == ["ema", "steps_to"]
    tests = {name: cell.metadata.nbgrader.points for name, cell in marked.items() if utils.is_grade(cell)}
    assert tests == {"test_ema": 2, "test_ema_2": 2, "test_steps_to": 1}
    assert {name for name, cell in marked.items() if utils.is_locked(cell)} == {*tests, "setup", "given_1"}


def test_every_test_cell_announces_its_exercise_and_an_answer_is_a_stub(built_course):
    content = learners.notebook(built_course)
    for cell in filter(learners.is_test, content["cells"]):
        exercise = re.fullmatch(r"test_(\w+?)(_\d)?", learners.grade_id(cell))[1]
        assert "".join(cell["source"]).startswith(
            f'from coursekit import check\n\ncheck.exercise("{LAB}", "{exercise}")\n'
        )
    for cell in filter(learners.is_answer, content["cells"]):
        scope = {"torch": __import__("torch")}
        exec("".join(cell["source"]), scope)
        with pytest.raises(NotImplementedError):
            scope[learners.grade_id(cell)](1, 2)


# The first cells


def test_the_first_code_cell_names_the_repository_of_the_settings(course):
    edit(
        course / "_config.yml", "url: https://github.com/attention-to-silicon/course", "url: https://git.example/me/it/"
    )
    edit(course / "_config.yml", "branch: main", "branch: spring")
    build(course)
    first = next(cell for cell in learners.notebook(course)["cells"] if cell["cell_type"] == "code")
    assert '"attention-to-silicon @ git+https://git.example/me/it@spring"' in "".join(first["source"])
    assert learners.grade_id(first) == "setup"


def test_the_facts_under_the_title_are_the_header_s(course):
    second = course / "source_solutions" / "ch91_next" / "lab02_more.py"
    second.parent.mkdir()
    shutil.copy(course / SOURCE, second)
    for old, new in (
        ("ch90/lab01", "ch91/lab02"),
        ("minutes: 25", "minutes: 40"),
        ("difficulty: 2", "difficulty: 5"),
        ("hardware: cpu", "hardware: gpu"),
        ("needs: []", "needs: [ch90/lab01]"),
    ):
        edit(second, old, new)
    notebooks = [source_notebook(lab, setup_cell(course)) for lab in labs.catalog(course)]
    tables = [notebook["cells"][0]["source"].splitlines()[2:5] for notebook in notebooks]
    assert tables[0][0] == "| Time | Difficulty | Points | Hardware | Needs | Builds |"
    assert tables[0][2] == "| 25 min | 2 of 5 | 5 | laptop | nothing | `ema`, `steps_to` |"
    link = "[Lab 90.1](../ch90_example/lab01_ema.ipynb)"
    assert tables[1][2] == f"| 40 min | 5 of 5 | 5 | GPU | {link} | `ema`, `steps_to` |"
    assert [notebook["metadata"].get("accelerator") for notebook in notebooks] == [None, "GPU"]


@pytest.mark.parametrize("path", sorted(ROOT.glob("release/ch*/lab*.ipynb")), ids=lambda path: path.stem)
def test_every_relative_link_of_a_released_lab_names_a_file_of_the_tree(path):
    text = "\n".join(texts(path, kinds=["markdown"]))
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=[\"']([^\"']+)", text)
    relative = [link for pair in links for link in pair if link and not re.match(r"[a-z]+:|#", link)]
    assert relative, "a lab links to its page at least"
    lost = [link for link in relative if not (path.parent / unquote(link.partition("#")[0])).exists()]
    assert lost == []


# The index


def test_the_index_is_built_again_when_the_source_changes(course):
    before = index_of(LAB, course)
    assert before["exercises"] == [
        {"name": "ema", "defines": ["ema"], "forbid": ["scipy.signal.lfilter", "cumsum"], "points": 4},
        {"name": "steps_to", "defines": ["steps_to"], "forbid": [], "points": 1},
    ]
    edit(course / SOURCE, '# %% test="steps_to" points=1', '# %% test="steps_to" points=3')
    assert index_of(LAB, course)["exercises"][1]["points"] == 3
    with pytest.raises(LookupError, match="the labs are ch90/lab01"):
        index_of("ch90/lab02", course)


def test_learners_are_told_what_would_do_the_work_for_them(built_course):
    text = (built_course / "release" / "ch90_example" / "lab01_ema.ipynb").read_text(encoding="utf-8")
    cells = [cell for cell in json.loads(text)["cells"] if cell["metadata"].get("nbgrader", {}).get("solution")]
    first, second = ("".join(cell["source"]) for cell in cells)
    said = first[: first.index("def ema")]
    assert all(line.startswith("#") for line in said.splitlines())
    assert "scipy.signal.lfilter, cumsum" in said
    assert second.startswith("def steps_to")
