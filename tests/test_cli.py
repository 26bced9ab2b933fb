"""The `course` command: help, exit codes that mean something, JSON alone on standard output, and no tracebacks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from autograder import checking, classroom, cli, report
from tests import learners
from tests.conftest import ROOT
from tests.learners import CHAPTER, LAB, STEM
from tests.stub_pool import StubPool

COMMANDS = [command.name or command.callback.__name__ for command in cli.app.registered_commands]


@pytest.fixture
def course(built_course, zygote, tmp_path, monkeypatch):
    """A tiny course of one's own, with this session's warm process."""
    root = tmp_path / "course"
    shutil.copytree(built_course, root)
    monkeypatch.setenv("COURSE_ROOT", str(root))
    monkeypatch.setattr(checking, "Zygote", lambda shared: zygote)
    monkeypatch.setattr(classroom, "LocalPool", lambda jobs, models: StubPool())
    return root


@pytest.fixture
def run(course):
    """Run `course …` in this process: exit code, standard output, standard error."""

    def invoke(*arguments):
        result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
        assert "Traceback" not in result.output
        return result.exit_code, result.stdout, result.stderr

    return invoke


def write(path, answers, root):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(learners.notebook(root, answers)), encoding="utf-8")
    return path


def break_source(course):
    source = course / "source_solutions" / CHAPTER / f"{STEM}.py"
    source.write_text(source.read_text(encoding="utf-8").replace(" points=1", ""), encoding="utf-8")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    result = CliRunner().invoke(cli.app, [command, "--help"])
    assert result.exit_code == 0
    assert f"course {command}" in result.output.replace("main ", "course ").replace("root ", "course ")
    assert len(result.output.splitlines()) > 5


def test_the_commands_of_the_contract_are_there():
    promised = {"learn", "build", "check", "grade", "book", "milestones", "labs", "doctor", "progress", "test"}
    assert promised <= set(COMMANDS)


def test_check_ends_with_0_only_on_full_marks(run, course, tmp_path):
    right = learners.reference(course)
    full = write(tmp_path / "full.ipynb", right, course)
    partial = write(tmp_path / "partial.ipynb", {"steps_to": right["steps_to"]}, course)
    (tmp_path / "broken.ipynb").write_text('{"cells": [')
    assert run("check", LAB, full)[0] == 0
    code, stdout, _ = run("check", LAB, partial)
    assert (code, "1 of 5 points" in stdout) == (1, True)
    code, stdout, _ = run("check", LAB, tmp_path / "broken.ipynb")
    assert (code, "truncated" in stdout) == (1, True)
    code, stdout, _ = run("check", LAB, tmp_path / "none.ipynb")
    assert (code, "not-found" in stdout) == (1, True)


def test_check_says_where_a_notebook_belongs(run, course, tmp_path):
    code, _, stderr = run("check", write(tmp_path / "n.ipynb", {}, course))
    assert (code, "A notebook comes second: `course check ch02/lab04 NOTEBOOK`" in stderr) == (2, True)
    code, _, stderr = run("check", "ch99/lab99")
    assert (code, "there is no lab" in stderr, "NOTEBOOK" in stderr) == (2, True, False)


def test_check_shows_what_to_do_and_names_the_mistake(run, course, tmp_path):
    right = learners.reference(course)
    answers = {"ema": right["ema"].replace("beta**t", "beta ** (t - 1)"), "steps_to": right["steps_to"]}
    code, stdout, _ = run("check", LAB, write(tmp_path / "n.ipynb", answers, course))
    words = " ".join(stdout.replace("│", " ").split())
    assert code == 1
    for part in ("What:", "Why:", "Try:", "Cause:", "the correction is one step behind"):
        assert part in words
    assert [secret for secret in learners.HIDDEN + learners.SOLVED if secret in stdout] == []


def test_check_without_a_notebook_takes_the_learner_s_own_and_remembers_it(run, course, tmp_path):
    elsewhere = write(tmp_path / "n.ipynb", learners.reference(course), course)
    assert run("check", LAB, elsewhere)[0] == 0
    assert json.loads(run("progress", "--json")[1])[0]["points"] is None, "only one's own notebook counts"
    assert run("check", LAB)[0] == 1, "the release is taken where nothing has been begun"
    write(course / "work" / CHAPTER / f"{STEM}.ipynb", learners.reference(course), course)
    assert run("check", LAB)[0] == 0
    lab, milestone = json.loads(run("progress", "--json")[1])
    assert (lab["lab"], lab["points"], lab["max"]) == (LAB, 5.0, 5)
    assert milestone["ready"] is True
    assert "ready" in run("progress")[1]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"ch90/lab01": 7}'])
def test_a_damaged_memory_is_no_reason_to_stop(run, course, damage):
    (course / "work").mkdir()
    (course / "work" / "progress.json").write_text(damage)
    code, stdout, _ = run("progress", "--json")
    assert code == 0
    assert json.loads(stdout)[0]["points"] is None


def test_build_check_names_what_is_stale_and_how_much(run, course):
    code, stdout, _ = run("build", "--check")
    assert (code, stdout) == (0, "everything is up to date\n")
    released = course / "release" / CHAPTER / f"{STEM}.ipynb"
    before = released.read_text(encoding="utf-8")
    released.write_text(before.replace("A small lab", "A tiny lab"), encoding="utf-8")
    orphan = course / "release" / CHAPTER / "lab07_gone.ipynb"
    orphan.write_text("{}")
    code, stdout, stderr = run("build", "--check")
    assert code == 1
    assert f"stale    release/{CHAPTER}/{STEM}.ipynb  (+1 -1 lines)" in stdout
    assert f"orphan   release/{CHAPTER}/lab07_gone.ipynb" in stdout
    assert "course build" in stderr
    assert orphan.is_file(), "a check changes nothing"
    assert run("build")[0] == 0
    assert released.read_text(encoding="utf-8") == before
    assert run("build", "--check")[0] == 0


@pytest.mark.parametrize("command", ["check", "labs", "progress", "grade"])
def test_json_is_alone_on_standard_output(run, course, command):
    write(course / "grading" / "submitted" / "[eve]" / CHAPTER / f"{STEM}.ipynb", {}, course)
    arguments = {"check": [LAB], "grade": [CHAPTER, "--no-feedback"]}.get(command, [])
    code, stdout, _ = run(command, *arguments, "--json")
    assert code == (1 if command == "check" else 0)
    found = json.loads(stdout)
    if command == "check":
        assert (found["lab"], found["points"], found["max"]) == (LAB, 0.0, 5.0)
    elif command == "grade":
        assert [(row["learner"], row["points"]) for row in found] == [("[eve]", 0.0)]
    elif command == "labs":
        assert (found[0]["lab"], found[0]["points"], found[0]["exercises"]) == (LAB, 5, 2)


def test_grade_prints_a_table_and_says_where_the_rest_is(run, course):
    write(course / "grading" / "submitted" / "[eve]" / CHAPTER / f"{STEM}.ipynb", learners.reference(course), course)
    code, stdout, stderr = run("grade", CHAPTER, "--no-feedback", "--db", f"sqlite:///{course}/other.db")
    assert code == 0
    assert "[eve]" in stdout
    assert "5/5" in stdout
    assert f"grading/{CHAPTER}.csv" in stdout
    assert "[eve] ch90/lab01" in stderr, "progress is shown, but not among the results"
    assert (course / "other.db").is_file()
    assert (course / "grading" / f"{CHAPTER}.csv").is_file()


@pytest.fixture
def asked(monkeypatch):
    """With which options the class grader is called; it does nothing."""
    options = {}

    def grade(root, chapter, **rest):
        options.update(rest)
        return [], root / "grading" / f"{chapter}.csv"

    monkeypatch.setattr(classroom, "grade", grade)
    return options


def test_grade_hands_its_options_on(run, asked):
    assert run("grade", CHAPTER)[0] == 0
    assert [asked[name] for name in ("students", "again", "trust", "feedback", "pool")] == [
        None,
        False,
        False,
        True,
        None,
    ]
    options = ["--student", "ann", "--student", "ben", "--again", "--i-trust-this-code", "--no-feedback", "--jobs", "3"]
    assert run("grade", CHAPTER, *options)[0] == 0
    assert (asked["students"], asked["again"], asked["trust"]) == (["ann", "ben"], True, True)
    assert (asked["feedback"], asked["jobs"]) == (False, 3)


@pytest.fixture
def cluster(monkeypatch):
    """The module that knows Dask, which needs no cluster here."""
    module = ModuleType("autograder.cluster")
    module.DaskPool = lambda address: ("pool at", address)
    module.ClusterError = type("ClusterError", (Exception,), {})
    monkeypatch.setitem(sys.modules, "autograder.cluster", module)
    return module


def test_grade_on_a_cluster_takes_the_scheduler_s_pool(run, asked, cluster):
    assert run("grade", CHAPTER, "--scheduler", "tcp://10.0.0.1:8786")[0] == 0
    assert asked["pool"] == ("pool at", "tcp://10.0.0.1:8786")


def test_a_cluster_that_is_not_there_is_wrong_input(run, cluster, monkeypatch):
    def grade(*arguments, **options):
        raise cluster.ClusterError("there is no scheduler")

    monkeypatch.setattr(classroom, "grade", grade)
    code, stdout, stderr = run("grade", CHAPTER, "--scheduler", "tcp://10.0.0.1:8786")
    assert (code, stdout) == (2, "")
    assert stderr.strip().endswith("there is no scheduler")


def test_ctrl_c_ends_grading_with_a_word_on_how_to_go_on(run, course, monkeypatch):
    stub = StubPool()
    monkeypatch.setattr(classroom, "LocalPool", lambda jobs, models: stub)
    for name in ("ann", "ben"):
        write(course / "grading" / "submitted" / name / CHAPTER / f"{STEM}.ipynb", learners.reference(course), course)
    stub.ends_after = 1
    code, stdout, stderr = run("grade", CHAPTER, "--no-feedback")
    assert (code, stdout, "the same command goes on" in stderr) == (130, "", True)
    stub.ends_after = None
    assert run("grade", CHAPTER, "--no-feedback")[0] == 0
    assert len(stub.tasks) == 2


def test_of_a_large_class_the_table_shows_what_to_look_at(run, course, monkeypatch):
    monkeypatch.setattr(report, "SHOWN_ROWS", 2)
    for name in ("ann", "ben", "eve\x1b[2J"):
        write(course / "grading" / "submitted" / name / CHAPTER / f"{STEM}.ipynb", learners.reference(course), course)
    assert "ann" not in run("grade", CHAPTER, "--no-feedback")[1]
    (course / "grading" / "submitted" / "eve\x1b[2J" / CHAPTER / f"{STEM}.ipynb").write_text("{}")
    _, stdout, stderr = run("grade", CHAPTER, "--no-feedback")
    assert "\x1b" not in stderr
    assert ("ann" in stdout, "eve\N{REPLACEMENT CHARACTER}[2J" in stdout, "\x1b" in stdout) == (False, True, False)
    words = " ".join(stdout.split())
    assert "3 notebooks of 3 learners, 2 graded, 1 not-a-notebook, 67% of all points, shown: 1" in words


def test_labs_lists_what_a_learner_wants_to_know(run):
    words = run("labs")[1].split()
    assert [word for word in (LAB, "25", "cpu", "nothing", "5") if word not in words] == []


def test_doctor_ends_with_1_where_something_is_missing(run, course):
    (course / "requirements.in").write_text("pytest\nno-such-package-anywhere==1\n")
    code, stdout, _ = run("doctor", "--json")
    found = {finding["name"]: finding for finding in json.loads(stdout)}
    assert code == 1
    assert found["no-such-package-anywhere"]["state"] == "problem"
    assert found["pytest"]["state"] == "ok"
    assert {"python", "GPU", "data", "browser", "MathJax", "disk"} <= set(found)
    (course / "requirements.in").write_text("pytest\n")
    assert run("doctor")[0] == 0


WRONG = {
    "no such lab": (["check", "ch77/lab01"], "there is no lab 'ch77/lab01'; the labs are ch90/lab01"),
    "no lab's id": (["check", "attention"], "there is no lab 'attention'"),
    "no argument": (["check"], "Missing argument"),
    "no such option": (["labs", "--jsn"], "--jsn"),
    "no such command": (["chek"], "chek"),
    "no such chapter": (["grade", "ch77_x"], "there is no chapter 'ch77_x'"),
    "nothing submitted": (["grade", CHAPTER], f"grading/submitted/LEARNER/{CHAPTER}"),
    "no database": (["grade", CHAPTER, "--db", "grades"], "'grades' is no address of a gradebook"),
    "no such driver": (["grade", CHAPTER, "--db", "sqlite+nodriver:///x"], "is no address of a gradebook"),
    "no driver": (["grade", CHAPTER, "--db", "oracle://x"], "needs the Python package"),
    "no jobs": (["grade", CHAPTER, "--jobs", "0"], "greater than or equal to 1"),
    "no milestone": (["milestones", "ch77"], "no such chapter"),
    "no lab to learn": (["learn", "--lab", "ch77/lab01"], "there is no lab 'ch77/lab01'"),
    "no lab to prove": (["learn", "--headless", "--lab", "ch77/lab01"], "there is no lab 'ch77/lab01'"),
}


@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG)
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(run, course, arguments, words):
    if "--db" in arguments:
        write(course / "grading" / "submitted" / "eve" / CHAPTER / f"{STEM}.ipynb", {}, course)
    code, stdout, stderr = run(*arguments)
    assert (code, stdout) == (2, "")
    assert words in " ".join(stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["build"],
        ["build", "--check"],
        ["check", LAB],
        ["grade", CHAPTER],
        ["labs"],
        ["progress"],
        ["learn", "--lab", LAB],
    ],
)
def test_a_malformed_source_is_named_with_its_line(run, course, arguments):
    break_source(course)
    code, stdout, stderr = run(*arguments)
    assert (code, stdout) == (2, "")
    assert f"{STEM}.py:" in stderr
    assert "the test of 'steps_to' has no points" in stderr


def test_outside_of_a_course_it_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_ROOT", str(tmp_path / "nowhere"))
    code, _, stderr = run("labs")
    assert (code, "set COURSE_ROOT" in " ".join(stderr.split())) == (2, True)


def test_what_nobody_has_foreseen_ends_with_3_and_one_line(run, monkeypatch):
    def broken(root):
        raise ZeroDivisionError("[/nothing] left")

    monkeypatch.setattr(checking, "progress", broken)
    code, stdout, stderr = run("progress")
    assert (code, stdout) == (3, "")
    assert stderr.startswith("something broke: ZeroDivisionError: [/nothing] left")


def test_a_real_process_finds_the_course_from_a_folder_below(course):
    environment = {name: value for name, value in os.environ.items() if name != "COURSE_ROOT"}
    below = course / "release" / CHAPTER
    program = Path(sys.executable).with_name("course")
    done = subprocess.run([program, "labs", "--json"], cwd=below, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [lab["lab"] for lab in json.loads(done.stdout)] == [LAB]


def test_a_real_process_checks_a_notebook(course, tmp_path):
    full = write(tmp_path / "full.ipynb", learners.reference(course), course)
    environment = os.environ | {"COURSE_NO_FORK": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "autograder.cli", "check", LAB, full, "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert json.loads(done.stdout)["points"] == 5.0
