"""Naming mistakes: from the learner's result alone, never in the way, and shown well in a live notebook."""

from __future__ import annotations

import re

import numpy as np
import pytest

from coursekit import diagnose, reference

SOLVED = """
# %% given
import torch
print("given cells may print")

# %% exercise="mean"
def mean(x):
    if x.ndim != 1:
        raise ValueError(f"x has {x.ndim} axes")
    return x.sum() / len(x)

# %% mistakes="mean"
{
    "the count is one too small": ("len(x)", "(len(x) - 1)"),
    "the sum is not divided": (" / len(x)", ""),
    "the gradient is cut off": ("x.sum()", "x.detach().sum()"),
    "the length is asked of the wrong object": ("len(x)", "x.length"),
    "the axes are not checked": ("x.ndim != 1", "False"),
    "it does not even run": ("return x", "return ) x"),
}

# %% exercise="Account"
class Account:
    unit = max

    def __init__(self, start=0.0):
        self.balance = start

    def add(self, amount):
        self.balance += amount
        return self.balance

    @staticmethod
    def currency(text):
        return text.upper()

# %% mistakes="Account"
{
    "the amount is not kept": ("self.balance += amount\\n        return self.balance", "return self.balance + amount"),
    "the start is forgotten": ("= start", "= 0.0"),
    "the currency is in small letters": ("upper", "lower"),
    "the smaller of two is taken": ("unit = max", "unit = min"),
}
"""
LAB = "ch91/lab01"
MEAN_TEST = f"""
from coursekit import check

check.exercise("{LAB}", "mean")
import torch

x = torch.tensor([1.0, 2.0, 6.0])
check.close(mean(x), torch.tensor(3.0), "the mean of three numbers")
check.gradients(mean, torch.mean, [x], "the gradient of the mean")
check.raises(ValueError, lambda: mean(torch.zeros(2, 2)), match="axes")
"""
ACCOUNT_TEST = f"""
from coursekit import check

check.exercise("{LAB}", "Account")
account = Account(start=1.0)
account.add(1.0)
check.equal(account.add(2.0), 4.0, "two payments")
check.equal(Account.currency("chf"), "CHF", "the currency")
check.equal(account.currency("chf"), "CHF", "the currency, asked of an account")
check.equal(account.unit(1, 2), 2, "the larger of two")
"""


@pytest.fixture(autouse=True)
def course(tmp_path, monkeypatch):
    """A course whose references hold `SOLVED` alone."""
    place = tmp_path / "coursekit" / "solved" / "ch91_example" / "lab01_mean.py"
    place.parent.mkdir(parents=True)
    place.write_text(SOLVED, encoding="utf-8")
    monkeypatch.setenv("COURSE_ROOT", str(tmp_path))
    reference.load.cache_clear()
    yield tmp_path
    reference.load.cache_clear()


def scope_of(source):
    import torch

    scope = {"__name__": "__main__", "torch": torch, "np": np, "note": ["untouched"]}
    exec(source, scope)
    return scope


def named(source, exercise="mean"):
    test = MEAN_TEST if exercise == "mean" else ACCOUNT_TEST
    return diagnose.name_mistakes(LAB, exercise, test, scope_of(source))


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        # Each written in another way than the edit of the reference.
        ("return np.float64(4.5) * torch.ones(())", "the count is one too small"),
        ("return torch.add(x.mean() * 3, 0)", "the sum is not divided"),
        ("return torch.tensor(x.mean().item())", "the gradient is cut off"),
        ("return x.mean()", "the axes are not checked"),
        (
            "raise AttributeError(\"'Tensor' object has no attribute 'length'\")",
            "the length is asked of the wrong object",
        ),
    ],
)
def test_an_equal_result_by_other_code_is_named(body, sentence):
    assert named(f"def mean(x):\n    {body}\n") == [sentence]


@pytest.mark.parametrize(
    "body",
    [
        "return x.median()",
        "return x.mean() + 1e-3",
        "return x.sum(keepdim=True)",
        "return x.double().sum()",
        "return None",
        "return str(x)",
        "raise AttributeError('something else')",
        "raise KeyError('length')",
    ],
)
def test_what_the_table_does_not_list_has_no_name(body):
    assert named(f"def mean(x):\n    {body}\n") == []


def test_a_right_answer_has_no_mistake():
    assert named("def mean(x):\n    if x.ndim > 1: raise ValueError('axes')\n    return x.mean()\n") == []


def test_mistakes_that_the_test_cannot_tell_apart_are_all_named_in_the_order_of_the_table():
    test = "from coursekit import check\ncheck.that(mean(torch.ones(2)).requires_grad, 'it has a gradient')\n"
    scope = scope_of("def mean(x):\n    return x.mean()\n")
    assert diagnose.name_mistakes(LAB, "mean", test, scope) == ["the gradient is cut off", "the axes are not checked"]


ADD = "self.total = self.total + amount\n        return self.total"


def account(add=ADD, start="start", currency="text.upper()", unit="max"):
    return f"""
class Account:
    unit = {unit}

    def __init__(self, start=0.0):
        self.total = {start}

    def add(self, amount):
        {add}

    @staticmethod
    def currency(text):
        return {currency}
"""


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (account(), []),
        (account(add="return self.total + amount"), ["the amount is not kept"]),
        (account(start="0.0"), ["the start is forgotten"]),
        (account(currency="text.casefold()"), ["the currency is in small letters"]),
        (account(currency="text[::-1]"), []),
        (account(add="return np.float32(4.5)"), []),
        (account(add="return np.float32(self.total + amount)"), ["the amount is not kept"]),
        (account(unit="min"), ["the smaller of two is taken"]),
        (account(unit="sum"), []),
    ],
)
def test_classes_are_judged_by_what_their_methods_return(source, names):
    assert named(source, "Account") == names


def test_intermediate_results_must_agree_too():
    """Two answers that end in the same failure are told apart by what the calls before it returned."""
    test = "from coursekit import check\nmean(torch.tensor([2.0, 2.0, 2.0]))\ncheck.that(False, 'always fails')\n"
    found = diagnose.name_mistakes(LAB, "mean", test, scope_of("def mean(x):\n    return x.sum()\n"))
    assert found == ["the sum is not divided"]
    found = diagnose.name_mistakes(LAB, "mean", test, scope_of("def mean(x):\n    return x.sum() + 1\n"))
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "mean = 3",
        "mean = None",
        "del note",
        "import enum\nclass mean(enum.Enum):\n    one = 1\n",
        "def mean(x):\n    return mean(x)\n",
        "def mean(x):\n    import sys\n    sys.exit(3)\n",
        "def mean(x):\n    a = []\n    a.append(a)\n    return a\n",
        "class Odd:\n    def __eq__(self, o): 1 / 0\n    __repr__ = __len__ = __eq__\n\nmean = lambda x: Odd()\n",
        "def mean(x):\n    return x.to_sparse()\n",
        "def mean(x):\n    x.zero_()\n    return x.sum()\n",
        "def mean():\n    return 3\n",
        "def mean(x):\n    yield x\n",
    ],
)
def test_broken_code_has_no_name_and_breaks_nothing(source):
    assert named(source) == []


def test_a_time_limit_is_not_swallowed():
    """The grader stops a cell by an exception that is no Exception; the diagnosis must let it through."""

    class TimeIsUp(BaseException):
        pass

    scope = scope_of("def mean(x):\n    raise TimeIsUp\n") | {"TimeIsUp": TimeIsUp}
    scope["mean"].__globals__["TimeIsUp"] = TimeIsUp
    with pytest.raises(TimeIsUp):
        diagnose.name_mistakes(LAB, "mean", MEAN_TEST, scope)


def test_no_longer_than_the_budget_is_spent(monkeypatch):
    monkeypatch.setattr(diagnose, "BUDGET", -1.0)
    assert named("def mean(x):\n    return x.sum()\n") == []


def test_the_learner_s_namespace_stays_as_it_is_and_nothing_is_printed(capsys):
    scope = scope_of("def mean(x):\n    print('called')\n    return x.sum()\n\nx = 'mine'\n")
    before = dict(scope)
    assert diagnose.name_mistakes(LAB, "mean", "print('test')\n" + MEAN_TEST, scope) == ["the sum is not divided"]
    assert scope.keys() == before.keys()
    assert all(scope[name] is before[name] for name in before)
    assert capsys.readouterr() == ("", "")


# In a live notebook

WRONG = "def mean(x):\n    return x.sum()\n"
ANYTHING = "raise ValueError('an ordinary error')"
CELLS = {
    "ordinary before": ANYTHING,
    "given": "import torch\nfrom coursekit import check",
    "wrong": WRONG,
    "named": MEAN_TEST,
    "ordinary after": ANYTHING,
    "own check": "check.that(False, 'my own check')",
    "In is mine": "In = 'a name of the learner'",
    "named again": MEAN_TEST,
    "unlisted": "def mean(x):\n    return x.sum() + 1\n",
    "unnamed": MEAN_TEST,
    "raises like a mistake": "def mean(x):\n    raise RuntimeError('length')\n",
    "error without a name": MEAN_TEST,
    "raises as the table says": "def mean(x):\n    return [][x.ndim]\n",
    "error with a name": MEAN_TEST,
    "stops later": "once = [0]\ndef mean(x):\n    if not once: raise KeyboardInterrupt\n    return once.pop()\n",
    "stopped": MEAN_TEST,
    "unwritten": "def mean(x):\n    raise NotImplementedError  # your code here\n",
    "not implemented": MEAN_TEST,
    "right": "def mean(x):\n    if x.ndim > 1: raise ValueError('axes')\n    return x.mean()\n",
    "passed": MEAN_TEST,
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What a real kernel shows of each of `CELLS`: the text of its error, without colours."""
    import nbformat
    from nbclient import NotebookClient

    root = tmp_path_factory.mktemp("live")
    place = root / "coursekit" / "solved" / "ch91_example" / "lab01_mean.py"
    place.parent.mkdir(parents=True)
    listed = SOLVED.replace(
        '"the axes are not', '"an empty list is asked": ("x.sum()", "[][1]"),\n    "the axes are not'
    )
    place.write_text(listed, encoding="utf-8")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS.values()])
    client = NotebookClient(notebook, kernel_name="python3", allow_errors=True, resources={"metadata": {"path": root}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_ROOT", str(root))
        patch.delenv("COURSE_GRADING", raising=False)
        patch.delenv("NBGRADER_EXECUTION", raising=False)
        client.execute()
    texts = {}
    for name, cell in zip(CELLS, notebook.cells, strict=True):
        text = "\n".join("\n".join(out.traceback) if out.output_type == "error" else out.text for out in cell.outputs)
        texts[name] = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return texts


def test_a_failed_check_is_a_short_block_with_its_cause(shown):
    lines = shown["named"].splitlines()
    assert lines[0] == "Not yet: mean"
    assert [line.partition(":")[0] for line in lines if line[0] != " "] == ["Not yet", "What", "Why", "Cause", "Try"]
    assert "Cause: Your result is exactly what you get when the sum is not divided." in lines
    assert "Traceback" not in shown["named"]
    assert shown["named again"] == shown["named"], "also when the learner has a variable called In"


@pytest.mark.parametrize("name", ["unnamed", "stopped"])
def test_a_failed_check_without_a_known_cause_is_the_block_alone(shown, name):
    assert shown[name].startswith("Not yet: mean\nWhat:")
    assert "Cause" not in shown[name]


def test_an_error_in_a_test_cell_keeps_its_traceback_and_its_known_cause_stands_below(shown):
    assert "Traceback (most recent call last)" in shown["error with a name"]
    assert "return [][x.ndim]" in shown["error with a name"]
    assert "IndexError: list index out of range" in shown["error with a name"]
    assert shown["error with a name"].endswith("\nCause: this is exactly what happens when an empty list is asked.")
    assert "Traceback (most recent call last)" in shown["error without a name"]
    assert "Cause" not in shown["error without a name"]


def test_other_cells_keep_ordinary_tracebacks(shown):
    before, after = (re.sub(r"In\[\d+\]", "In[]", shown[f"ordinary {when}"]) for when in ("before", "after"))
    assert "Traceback (most recent call last)" in before
    assert after == before
    assert "Traceback (most recent call last)" in shown["own check"]
    assert "my own check" in shown["own check"]
    assert "Not yet" not in shown["own check"]


def test_an_unwritten_answer_shows_where_to_write_it(shown):
    assert "your code here" in shown["not implemented"]
    assert "Cause" not in shown["not implemented"]


def test_a_right_answer_shows_nothing(shown):
    assert shown["passed"] == ""
