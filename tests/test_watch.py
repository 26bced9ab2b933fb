"""Forbidden calls are noticed when the code runs, whatever they are hidden in, and nothing else changes by that."""

from __future__ import annotations

import ast
import inspect
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import scipy.special
import scipy.stats
import torch
from torch import nn
from torch.nn import functional as F

from autograder import watch

X = torch.tensor([[0.0, 1.0, 2.0]])
LAYERS = {"e": ["MultiheadAttention", "Linear"]}


class Cells:
    """Runs cells as IPython does: one scope, a file name for each cell."""

    def __init__(self, watching):
        self.watching, self.count = watching, 0
        self.scope = {"torch": torch, "nn": nn, "F": F, "np": np, "scipy": scipy, "x": X, "__name__": "__main__"}

    def run(self, source, kind="exercise", exercise="e"):
        self.count += 1
        filename = f"<ipython-input-{self.count}-0123>"
        self.watching.cell(filename, kind, exercise if kind == "exercise" else None)
        exec(compile(source, filename, "exec"), self.scope)
        return self.watching.finds()


@pytest.fixture
def cells():
    """Start a watch; it ends with the test."""
    watches = []

    def start(forbid):
        watches.append(watch.install(forbid))
        return Cells(watches[-1])

    yield start
    for one in reversed(watches):
        one.close()


WAYS = {
    "torch": "torch.softmax(x, -1)",
    "functional": "F.softmax(x, -1)",
    "method": "x.softmax(-1)",
    "special": "torch.special.softmax(x, -1)",
    "scipy": "scipy.special.softmax(x.numpy())",
    "by a computed name": "getattr(torch, ''.join(reversed('xamtfos')))(x, -1)",
    "by eval": "eval('torch.soft' + 'max(x, -1)')",
    "by exec": "exec('y = x.softmax(-1)')",
    "from a dictionary": "vars(torch)['soft' + 'max'](x, -1)",
    "imported": "from torch import softmax as s; s(x, -1)",
    "partial": "import functools; functools.partial(torch.softmax, dim=-1)(x)",
    "map": "list(map(lambda row: row.softmax(-1), x))",
    "mapped by PyTorch": "torch.vmap(lambda row: torch.softmax(row, -1))(x)",
    "inside a layer": "nn.Softmax(-1)(x)",
    "inside a distribution": "torch.distributions.Categorical(logits=x).probs",
    "in a thread": "import threading; t = threading.Thread(target=lambda: x.softmax(-1)); t.start(); t.join()",
}


@pytest.mark.parametrize("call", WAYS.values(), ids=WAYS)
def test_a_forbidden_function_is_noticed_however_it_is_called(cells, call):
    assert cells({"e": ["softmax"]}).run(f"# comment\n{call}") == [["e", 2, "softmax"]]


DOTTED = {
    "F.softmax": "F.softmax(x, -1)",
    "torch.nn.functional.softmax": "F.softmax(x, -1)",
    "F.gelu": "torch._C._nn.gelu(x)",
    "torch.Tensor.cumsum": "x.cumsum(-1)",
    "scipy.signal.lfilter": "scipy.signal.lfilter([1], [1], [1.0, 2.0])",
    "scipy.stats": "scipy.stats.entropy([0.5, 0.5])",
    "torch.distributions": "torch.distributions.Categorical(probs=x)",
    "nn.*": "nn.Linear(3, 3)",
    "np.cumsum": "np.cumsum([1, 2])",
    "torch.nn.Module.parameters": "nn.Linear(3, 3).parameters()",
    "torch.utils.flop_counter.FlopCounterMode": "torch.utils.flop_counter.FlopCounterMode(display=False)",
}


@pytest.mark.parametrize(("name", "call"), DOTTED.items(), ids=DOTTED)
def test_a_dotted_name_is_a_function_a_method_a_class_a_module_or_all_below(cells, name, call):
    started = cells({"e": [name]})
    assert started.run("torch.tanh(x).sum(); np.mean([1, 2]); scipy.special.expit(1.0)") == []
    assert started.run(call) == [["e", 1, name]]


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("cumsum", "np.cumsum([1, 2])"),
        ("cumsum", "torch.cumsum(x, 0)"),
        ("lfilter", "scipy.signal.lfilter([1], [1], [1.0])"),
        ("numel", "x.numel()"),
        ("_canonical_mask", "F._canonical_mask(None, '', None, '', x.dtype)"),
        ("merge_masks", "nn.MultiheadAttention(4, 2).merge_masks(None, None, x)"),
        ("parameters", "nn.Linear(3, 3).parameters()"),
    ],
)
def test_a_bare_name_is_every_function_and_method_of_that_name(cells, name, call):
    assert cells({"e": [name]}).run(call) == [["e", 1, name]]


def test_each_exercise_answers_for_what_it_forbids_itself(cells):
    started = cells({"one": ["softmax"], "two": ["F.softmax", "cumsum"], "three": []})
    use = "F.softmax(x, -1)\ntorch.cumsum(x, 0)\ntorch.cumsum(x, 0)"
    assert started.run(use, exercise="three") == []
    assert started.run(use, exercise="one") == [["one", 1, "softmax"]]
    assert started.run(use, exercise="two")[1:] == [["two", 1, "F.softmax"], ["two", 2, "cumsum"], ["two", 3, "cumsum"]]


def test_the_innermost_cell_answers(cells):
    started = cells({"one": ["softmax"], "two": ["softmax"], "three": []})
    started.run("def given(x):\n    return x.softmax(-1)", "given")
    started.run("def free(x):\n    return given(x) + x.softmax(-1)", exercise="three")
    assert started.run("given(x)\nfree(x)", exercise="one") == []
    started.run("\ndef mine(x):\n    return x.softmax(-1)", exercise="two")
    started.scope["mine"](X)
    assert started.watching.finds() == [["two", 3, "softmax"]]
    assert started.run("mine(x)", exercise="one") == [["two", 3, "softmax"]]


def test_nobody_answers_for_what_no_cell_has_called(cells):
    started = cells({"e": ["softmax"]})
    torch.softmax(X, -1)
    assert started.watching.finds() == []


def test_a_comparison_in_a_cell_of_the_learner_s_own_is_no_shortcut(cells):
    started = cells({"e": ["softmax"]})
    started.run("def mine(x):\n    return x.exp() / x.exp().sum(-1, keepdim=True)")
    source = "def compare():\n    return torch.softmax(x, -1)\nassert torch.allclose(mine(x), compare())"
    assert started.run(source, "extra") == []


def test_a_helper_in_a_cell_of_the_learner_s_own_is_one(cells):
    started = cells({"e": ["softmax"], "free": []})
    started.run("def helper(x):\n    return torch.softmax(x, -1)", "extra")
    started.run("def free(x):\n    return helper(x)\ndef also(x):\n    return free(x)", exercise="free")
    assert started.run("free(x)\nalso(x)", "extra") == []
    assert started.run("helper(x)") == [[None, 2, "softmax"]]


def test_a_function_put_in_the_place_of_the_exercise_is_one(cells):
    started = cells({"e": ["softmax"]})
    started.run("def mine(x): ...")
    started.run("mine = lambda x: (\n    torch.softmax(x, -1))", "extra")
    assert started.watching.finds() == []
    started.scope["mine"](X)
    assert started.watching.finds() == [[None, 2, "softmax"]]


def test_cells_may_be_known_before():
    with watch.install({"e": ["softmax"]}, {"<known>": ("exercise", "e")}) as watching:
        exec(compile("x.softmax(-1)", "<known>", "exec"), {"x": X})
        assert watching.finds() == [["e", 1, "softmax"]]


def test_what_the_course_carries_counts_as_given(cells, tmp_path):
    started = cells({"e": ["softmax"]})
    source = "def carried(x):\n    return x.softmax(-1)"
    exec(compile(source, str(tmp_path / "coursekit/solved/ch01_attention/lab01.py"), "exec"), started.scope)
    assert started.run("carried(x)") == []
    exec(compile(source, str(tmp_path / "coursekit/mine.py"), "exec"), started.scope)
    assert started.run("carried(x)") == [["e", 1, "softmax"]]


def test_printing_uses_nothing(cells):
    started = cells({"e": ["numel", "cumsum"]})
    assert started.run("print(x); repr(x); str(np.arange(3)); f'{x}'") == []


def test_a_class_is_noticed_when_it_is_made_and_when_it_is_used(cells):
    started = cells(LAYERS)
    started.run("layer = nn.MultiheadAttention(4, 2)", "given")
    assert started.watching.finds() == []
    y = "torch.zeros(1, 2, 4)"
    assert started.run(f"layer({y}, {y}, {y})") == [["e", 1, "MultiheadAttention"]]
    assert started.run("\nnn.modules.linear.Linear(3, 3)")[1:] == [["e", 2, "Linear"]]


def test_classes_stay_what_they_are(cells):
    before = nn.MultiheadAttention
    started = cells(LAYERS)
    assert nn.MultiheadAttention is before
    started.run(
        "class Mine(nn.Linear):\n"
        "    def __init__(self):\n"
        "        super().__init__(3, 4)\n"
        "    def forward(self, x):\n"
        "        return super().forward(x)\n"
        "layer = Mine()\n"
        "assert isinstance(layer, nn.Linear) and isinstance(layer, nn.Module) and issubclass(Mine, nn.Linear)\n"
        "assert layer(x).shape == (1, 4)\n"
        "assert sorted(layer.state_dict()) == ['bias', 'weight']\n"
    )
    assert started.watching.finds() == [["e", 3, "Linear"], ["e", 5, "Linear"]]
    assert list(inspect.signature(nn.Linear).parameters)[:2] == ["in_features", "out_features"]
    assert pickle.loads(pickle.dumps(nn.Linear(2, 5))).bias.shape == (5,)


def test_two_classes_that_inherit_the_same_method_are_both_watched(cells):
    assert nn.Softmax2d.__init__ is nn.Module.__init__ is nn.Sigmoid.__init__
    started = cells({"one": ["Softmax2d"], "two": ["Sigmoid"]})
    assert started.run("nn.Softmax2d()\nnn.Sigmoid()\nnn.Tanh()", exercise="one") == [["one", 1, "Softmax2d"]]
    assert started.run("nn.Softmax2d()\nnn.Sigmoid()\nnn.Tanh()", exercise="two")[1:] == [["two", 2, "Sigmoid"]]


FORBIDDEN = ["softmax", "log_softmax", "gelu", "max_pool1d", "cumsum", "MultiheadAttention", "Linear", "lfilter"]


def test_values_and_gradients_are_the_same(cells):
    def everything():
        x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(1, 3, 4).requires_grad_()
        torch.manual_seed(0)
        layer = nn.MultiheadAttention(4, 2, batch_first=True, dtype=torch.float64)
        outputs = [
            torch.softmax(x, -1),
            x.softmax(dim=1),
            F.softmax(x, dim=-1, dtype=torch.float64),
            F.log_softmax(x, -1),
            F.gelu(x, approximate="tanh"),
            F.max_pool1d(x, 2),
            x.cumsum(1),
            *layer(x, x, x),
        ]
        (gradient,) = torch.autograd.grad(sum((out * out).sum() for out in outputs), x)
        return [*outputs, gradient, torch.from_numpy(np.cumsum([[1, 2], [3, 4]], axis=1))]

    plain = everything()
    started = cells({"e": FORBIDDEN})
    for one, other in zip(everything(), plain, strict=True):
        assert torch.equal(one, other)
    assert torch.autograd.gradcheck(lambda x: torch.softmax(x, -1), torch.rand(2, 3).double().requires_grad_())
    assert started.watching.finds() == []


def test_functions_still_say_what_they_are(cells):
    functions = {
        "F.softmax": lambda: F.softmax,
        "torch.softmax": lambda: torch.softmax,
        "Tensor.softmax": lambda: torch.Tensor.softmax,
        "F.gelu": lambda: F.gelu,
        "np.cumsum": lambda: np.cumsum,
        "lfilter": lambda: scipy.signal.lfilter,
        "Linear": lambda: nn.Linear,
        "Linear.forward": lambda: nn.Linear.forward,
    }

    def said(function):
        try:
            signature = str(inspect.signature(function))
        except ValueError as error:
            signature = type(error).__name__
        return function.__name__, function.__doc__, getattr(function, "__module__", None), signature

    before = {name: said(get()) for name, get in functions.items()}
    plain = {name: get() for name, get in functions.items()}
    cells({"e": FORBIDDEN})
    for name, get in functions.items():
        assert said(get()) == before[name], name
        assert callable(get())
        assert (get() is plain[name]) == (name == "Linear"), name
    assert inspect.getsource(F.softmax) == inspect.getsource(plain["F.softmax"])
    assert pickle.loads(pickle.dumps(F.softmax)) is F.softmax


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")
def test_scripts_compile_and_give_the_same(cells, tmp_path):
    # TorchScript reads source from a file.
    source = (
        "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n"
        "def f(x: torch.Tensor) -> torch.Tensor:\n"
        "    y = torch.softmax(x, -1) + F.softmax(x, dim=-1) + x.softmax(-1) + torch.cumsum(x, 0) + x.cumsum(0)\n"
        "    return y + F.gelu(x) + F.log_softmax(x, dim=-1) + F.max_pool1d(x[None], 1)[0]\n"
    )
    path = tmp_path / "scripted.py"
    path.write_text(source)
    scope = {"__name__": "scripted"}
    exec(compile(source, str(path), "exec"), scope)
    plain = scope["f"](X)
    cells({"e": FORBIDDEN})
    assert torch.allclose(torch.jit.script(scope["f"])(X), plain)
    layer = nn.MultiheadAttention(4, 2).eval()
    y = torch.rand(3, 1, 4)
    for one, other in zip(torch.jit.script(layer)(y, y, y), layer(y, y, y), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert torch.allclose(torch.jit.trace(lambda x: torch.softmax(x, -1), X)(X), torch.softmax(X, -1))
    assert torch.allclose(torch.compile(scope["f"], backend="eager")(X), plain)
    assert "softmax" in str(torch.fx.symbolic_trace(lambda x: torch.softmax(x, -1)).graph)


def test_a_tensor_subclass_is_asked_as_before(cells):
    seen = []

    class Told(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            seen.append(function.__name__)
            return super().__torch_function__(function, types, args, kwargs or {})

    cells({"e": ["softmax"]})
    told = X.as_subclass(Told)
    assert torch.equal(told.softmax(-1).as_subclass(torch.Tensor), torch.softmax(X, -1))
    assert isinstance(torch.softmax(told, -1), Told)
    assert seen.count("softmax") >= 2


def test_what_cannot_be_watched_is_listed_and_unharmed(cells):
    started = cells({"e": ["cumsum", "numpy.exp", "np.ndarray.sum", "scipy.stats.norm", "no_such_thing", "torch.nope"]})
    assert set(started.watching.unwatched) == {
        "numpy.ndarray.cumsum",
        "numpy.exp",
        "numpy.ndarray.sum",
        "scipy.stats.norm",
        "no_such_thing",
        "torch.nope",
    }
    assert isinstance(np.exp, np.ufunc)
    assert np.exp(0.0) == 1.0
    assert scipy.stats.norm.cdf(0.0) == 0.5


def test_the_end_of_a_watch_puts_everything_back():
    def state():
        owners = [torch, F, torch.special, torch.Tensor, nn.Linear, nn.MultiheadAttention, nn.Module, np, scipy.signal]
        owners += [module for name, module in sys.modules.items() if name.startswith(("torch.", "numpy.", "scipy."))]
        return [(owner, dict(vars(owner))) for owner in owners if hasattr(owner, "__dict__")]

    before = state()
    with watch.install({"e": [*FORBIDDEN, "scipy.stats", "nn.*"]}):
        assert state() != before
    for (owner, then), (_, now) in zip(before, state(), strict=True):
        changed = [key for key in then.keys() | now.keys() if then.get(key, now) is not now.get(key, then)]
        assert changed == [], owner


def test_it_needs_nothing_but_pytorch_numpy_and_python():
    tree = ast.parse(Path(watch.__file__).read_text())
    named = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    named |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    outside = {name.partition(".")[0] for name in named} - set(sys.stdlib_module_names)
    assert outside == {"torch", "numpy", "autograder"}
    assert {name for name in named if name.startswith("autograder")} == {"autograder.meanings"}
