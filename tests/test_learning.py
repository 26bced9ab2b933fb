"""`make learn`: labs are handed out once, JupyterLab opens at one with the book beside it, and the proof can fail."""

from __future__ import annotations

import io
import json
import shutil

import pytest
from jupyter_server.serverapp import ServerApp
from jupyterlab.labapp import LabApp
from rich.console import Console

from autograder import learning
from autograder.build import index_of
from autograder.labs import find
from autograder.verdict import judge
from autograder.worked_example import worked_example
from coursekit.reference import apply_edits
from tests import learners
from tests.learners import CHAPTER, LAB, STEM


@pytest.fixture
def course(built_course, tmp_path):
    root = tmp_path / "course"
    shutil.copytree(built_course, root)
    return root


def test_labs_are_handed_out_once_and_never_overwritten(course):
    released, own = (course / place / CHAPTER / f"{STEM}.ipynb" for place in ("release", "work"))
    assert learning.hand_out(course) == [own]
    assert own.read_bytes() == released.read_bytes()
    own.write_text("my answers")
    released.write_text("a newer lab")
    another = released.with_name("lab02_more.ipynb")
    another.write_text("{}")
    assert learning.hand_out(course) == [own.with_name("lab02_more.ipynb")]
    assert own.read_text() == "my answers"
    assert learning.hand_out(course) == []


@pytest.mark.parametrize("browser", [False, True])
def test_jupyterlab_opens_at_the_lab_with_the_book_beside_it(course, browser):
    """The command is read by JupyterLab's own parser, so that a misspelt setting is found."""
    where = f"work/{CHAPTER}/{STEM}.ipynb"
    command = learning.jupyter_command(course, 8899, "secret", where, browser=browser)
    assert command[1:3] == ["-m", "jupyterlab"]
    app = LabApp()
    app.parse_command_line(command[3:])
    settings = app.config
    assert settings.ServerApp.port in (8899, "8899")
    assert settings.IdentityProvider.token == "secret"
    assert settings.ServerApp.root_dir == str(course)
    assert settings.LabApp.default_url == f"/lab/tree/{where}"
    assert ServerApp(config=settings).extra_static_paths == [str(course / "_build" / "html")]
    assert settings.ExtensionApp.get("open_browser", settings.ServerApp.get("open_browser", True)) is browser
    names = [name for name in settings.LabApp if not LabApp.class_traits().get(name)]
    assert names == [], "JupyterLab knows every setting"


def test_the_button_of_every_notebook_leads_to_the_book(course):
    command = learning.jupyter_command(course, 8899, "secret", "lab.ipynb", browser=False)
    (folder,) = (part.partition("=")[2] for part in command if part.startswith("--LabApp.app_settings_dir="))
    overrides = json.loads((course / folder / "overrides.json").read_text(encoding="utf-8"))
    (button,) = overrides["@jupyterlab/notebook-extension:panel"]["toolbar"]
    assert button["label"] == "Book"
    assert button["command"] == "help:open"
    assert button["args"]["url"] == "http://localhost:8899/static/index.html"


def test_a_worked_example_has_every_answer_and_one_known_mistake(built_course, zygote, tmp_path):
    lab = find(LAB, built_course)
    right, none = worked_example(built_course, lab)
    wrong, sentence = worked_example(built_course, lab, mistaken="steps_to")
    assert none is None
    answers = [{learners.grade_id(c): c["source"] for c in n["cells"] if learners.is_answer(c)} for n in (right, wrong)]
    first, edits = next(iter(lab.mistakes("steps_to").items()))
    reference = learners.reference(built_course)
    assert sentence == first
    assert answers[0] == reference
    assert answers[1] == reference | {"steps_to": apply_edits(reference["steps_to"], edits)}
    path = tmp_path / f"{STEM}.ipynb"
    path.write_text(json.dumps(wrong))
    ema, steps_to = judge(index_of(LAB, built_course), path, zygote, root=built_course).exercises
    assert (ema.points, steps_to.points, steps_to.mistake) == (4.0, 0.0, sentence)


STEPS = ["build", "untouched", "check", "grade", "feedback", "jupyterlab"]


def prove(course, monkeypatch, **results):
    """Run the proof with every step replaced: fine where nothing else is said."""
    ran = []
    for step in STEPS:

        def play(proof, step=step):
            ran.append(step)
            outcome = results.get(step, (True, f"{step} is fine"))
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        monkeypatch.setattr(learning._Proof, step, play)
    out = Console(file=io.StringIO(), width=120)
    return learning.prove(course, LAB, out), ran, out.file.getvalue()


def test_the_proof_succeeds_only_if_every_step_does(course, monkeypatch):
    assert prove(course, monkeypatch)[:2] == (True, STEPS)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "outcome", [(False, "not as it should be [/x]"), RuntimeError("broken [/x]")], ids=["no", "raises"]
)
def test_a_step_that_fails_is_seen_and_ends_the_proof(course, monkeypatch, step, outcome):
    done, ran, said = prove(course, monkeypatch, **{step: outcome})
    assert done is False
    assert ran == STEPS[: STEPS.index(step) + 1]
    assert "[/x]" in said
    assert ("RuntimeError: broken" in said) == isinstance(outcome, RuntimeError)


def test_the_proof_notices_a_lab_that_gives_marks_for_nothing(course, monkeypatch):
    """Real steps on a lab whose test has lost its checks."""
    source = course / "source_solutions" / CHAPTER / f"{STEM}.py"
    text = source.read_text(encoding="utf-8")
    start = text.index('# %% test="steps_to" points=1')
    end = text.index('# %% mistakes="steps_to"')
    test = '# %% test="steps_to" points=1\nfrom coursekit import check\n\ncheck.that(True, "all is well")\n\n'
    source.write_text(text[:start] + test + text[end:])
    monkeypatch.setenv("COURSE_ROOT", str(course))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(course))
    monkeypatch.setenv("COURSE_NO_FORK", "1")
    out = Console(file=io.StringIO(), width=120)
    assert learning.prove(course, LAB, out) is False
    assert "check the untouched notebook" in out.file.getvalue()
    assert "grade it" not in out.file.getvalue()


def test_the_lab_opens_even_where_there_is_no_book_yet(course, monkeypatch):
    """Everything but the two processes: JupyterLab in front, and the book built behind it."""
    started = []

    class Process:
        def __init__(self, command, **options):
            started.append(command)

        def terminate(self):
            started.append("ended")

    def lab(command, cwd):
        started.append(command)
        return 7

    monkeypatch.setattr(learning.subprocess, "Popen", Process)
    monkeypatch.setattr(learning.subprocess, "call", lab)
    out = Console(file=io.StringIO(), width=200)
    assert learning.open_lab(course, LAB, out) == 7
    book, jupyter, end = started
    assert book[-1] == "book"
    assert "jupyterlab" in jupyter
    assert end == "ended"
    said = out.file.getvalue()
    assert f"/lab/tree/work/{CHAPTER}/{STEM}.ipynb?token=" in said
    assert "/static/index.html" in said
    page = course / "_build" / "html" / "index.html"
    assert "is being built" in page.read_text(encoding="utf-8")
    page.write_text("the book")
    learning.open_lab(course, LAB, out)
    assert page.read_text() == "the book"
