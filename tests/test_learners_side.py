"""Given cells that run in the learner's process only: for what a learner's code must hold and a test cannot pass."""

from __future__ import annotations

import json

import pytest

from autograder import labs
from autograder.build import index, source_notebook
from autograder.lab_model import solution_source
from autograder.labs import LabError
from autograder.split import Terms, defined
from autograder.verdict import judge
from autograder.warm import Zygote
from tests.conftest import make_course

GIVEN = '''
# %% given side="learner"
from torch import nn

def a_model(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.Linear(width, 1))

# %% exercise="freeze" difficulty=1 minutes=5
def freeze(model) -> int:
    """Freeze the first layer of a model, and return how many of its numbers still learn."""
    ### BEGIN SOLUTION
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
    ### END SOLUTION

# %% test="freeze" points=2
from coursekit import check

model = a_model(4)
check.equal(freeze(model), 5, "what still learns")
### BEGIN HIDDEN TESTS
check.equal([p.requires_grad for p in model.parameters()], [False, False, True, True], "which parameters learn")
check.equal(freeze(a_model(7)), 8, "another width")
### END HIDDEN TESTS

# %% mistakes="freeze"
{
    "nothing is frozen": ("requires_grad_(False)", "requires_grad_(True)"),
    "the last layer is frozen": ("model[0]", "model[1]"),
    "everything is counted": (" if p.requires_grad", ""),
}
'''


def a_lab(folder, source=GIVEN):
    root = make_course(folder)
    path = root / "source_solutions" / "ch90_example" / "lab01_ema.py"
    path.write_text(path.read_text(encoding="utf-8") + source, encoding="utf-8")
    return labs.find("ch90/lab01", root)


@pytest.mark.parametrize("edit", [None, ("requires_grad_(False)", "requires_grad_(True)")], ids=["right", "wrong"])
def test_a_test_calls_what_only_the_learners_process_has(tmp_path, zygote, edit):
    lab = a_lab(tmp_path)
    notebook = source_notebook(lab, "")
    lab_index = index(lab, notebook)
    for cell in notebook["cells"]:
        cell["source"] = solution_source(cell["source"]).replace(*edit or ("", ""))
    raw = json.dumps(notebook).encode()
    with Zygote(clean=True) as clean:
        apart = judge(lab_index, raw, clean, terms=Terms({}))
    together = judge(lab_index, raw, zygote, root=tmp_path)
    points = {exercise.id: exercise.points for exercise in apart.exercises}
    assert points == {exercise.id: exercise.points for exercise in together.exercises}
    assert points["freeze"] == (0 if edit else 2)
    assert {"a_model", "freeze", "ema", "steps_to"} <= set(defined(lab_index))


def test_there_is_no_other_side(tmp_path):
    with pytest.raises(LabError, match="side is 'referee'"):
        a_lab(tmp_path, '\n# %% given side="referee"\nx = 1\n')
