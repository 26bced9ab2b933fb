# ---
# title: Watching gradients
# lab: ch04/lab02
# minutes: 90
# difficulty: 3
# hardware: cpu
# needs: [ch03/lab03]
# builds: [gradient_norms, update_ratios, Watch, gradient_figure, diagnose]
# ---

# %% [markdown]
# # Lab 4.2 · Watching gradients
#
# ## The idea
#
# A loss that does not fall says that something is wrong, and nothing about where. Yet every step of training computes
# far more than the loss: each layer has outputs, each output has a gradient, each weight has a gradient and an update.
# These are millions of numbers. This lab boils them down to three for each layer.
#
# - **The gradient norm.** Take all gradients of a layer as one long vector, and its length. A layer whose weight has
#   the gradient $(3, 0)$ and whose bias has $(4)$ has the norm $\sqrt{3^2 + 0^2 + 4^2} = 5$. The mean of the two norms,
#   3.5, is no length of anything.
# - **The update ratio.** How far does a step move a matrix, compared with its size? A matrix of norm 20 that moves by
#   0.02 has the ratio $0.02 / 20 = 0.001$. It would take about a thousand such steps in one direction to make
#   something new of it. At a ratio of 1, one step replaces it.
# - **The outputs.** Their root mean square, and the share that is exactly zero. A layer that returns $(0, 0, 0, 8)$ has
#   a root mean square of 4, and 75% zeros.
#
# The numbers are small and the slips are silent. A snapshot that is no copy makes all ratios zero. A layer that got no
# gradient at all is not the same as one with the gradient zero, but both print as `0.00` if you let them. A hook that
# is never removed goes on recording, step by step, until the memory is full.
#
# You build the instruments and draw what they show. Then you write the rules that read them, and try these on six
# networks whose numbers are given. One of the six is well. What the
# curves look like in a whole training run, and what clipping does to them, is on the page [Gradient
# flow](../../book/ch04_training/gradient_flow.md). Why residuals and norms keep gradients alive is on [Residuals and
# normalisation](../../book/ch02_block/residuals_and_normalization.md).
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `model` | a module | its parameters have `.grad`, a tensor of the parameter's shape, or None |
# | `norms` | dict: group to number | the gradient norm of each group of parameters; None where there is no gradient |
# | `ratios` | dict: parameter to number | how far each matrix was moved, over its size |
# | `records` | list of dicts | one for each layer that ran, in the order in which they ran |
# | `history` | list of `norms` | one for each step of training |

# %% given
import math

import plotly.graph_objects as go
import torch
from torch import nn

# %% given side="learner"
import gc
import weakref


class Tower(nn.Module):
    """A small network for the checks. Its parts do not run in the order in which they were made."""

    def __init__(self, width: int, n_blocks: int, seed: int, dtype: torch.dtype):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))  # a parameter without a layer of its own
        self.head = nn.Linear(width, 3)  # made first, runs last
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.Linear(2 * width, width)) for _ in range(n_blocks)
        )
        self.activation = nn.ReLU()  # runs after every block
        self.spare = nn.Linear(width, 2)  # never runs
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0.0, 0.5, generator=generator)
        self.to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * self.scale
        for block in self.blocks:
            x = x + self.activation(block(x))
        return self.head(x)


def tower(width: int, n_blocks: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tower:
    """A new tower with random parameters."""
    return Tower(width, n_blocks, seed, dtype)


def backward(model: nn.Module, x: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor | None]:
    """Forward, mean squared error, backward; returns a copy of every parameter's gradient, or None where there is none."""
    model.zero_grad()
    (model(x) - target).square().mean().backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def put_gradients(model: nn.Module, gradients: dict[str, torch.Tensor | None]) -> None:
    """Replace the gradients of the parameters that are named."""
    for name, parameter in model.named_parameters():
        if name in gradients:
            parameter.grad = gradients[name]


def put_weights(model: nn.Module, name: str, value: float) -> None:
    """Fill the parameter of this name with one number."""
    with torch.no_grad():
        dict(model.named_parameters())[name].fill_(value)


def optimiser_for(model: nn.Module, kind: str, lr: float):
    """An optimiser from torch.optim for all parameters of the model."""
    return getattr(torch.optim, kind)(model.parameters(), lr=lr, weight_decay=0.1)


def forward(model: nn.Module, x: torch.Tensor, with_gradients: bool = True) -> torch.Tensor:
    """A forward pass alone."""
    with torch.set_grad_enabled(with_gradients):
        return model(x).detach()


def hooks_on(model: nn.Module) -> int:
    """How many hooks hang on the modules of the model."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def outputs_kept(model: nn.Module, x: torch.Tensor) -> int:
    """How many outputs of layers are still in memory after a forward and a backward pass, when nobody needs them."""
    kept = []

    def note(module, inputs, output):
        kept.append(weakref.ref(output))

    notes = [module.register_forward_hook(note) for module in model.modules()]
    model(x).sum().backward()
    for handle in notes:
        handle.remove()
    if any(output() is not None for output in kept):
        gc.collect()  # what hangs in a circle goes now
    return sum(output() is not None for output in kept)


# %% [markdown]
# ## A picture
#
# Three networks of 12 layers, fresh, with the same data: the gradient norm of each layer after one backward pass. They
# differ in nothing but the activation and the size of the first weights.

# %%
import plotly.graph_objects as go

from coursekit import plots

torch.set_num_threads(1)
figure = go.Figure()
for name, activation, gain in (
    ("ReLU, variance 2 / width", torch.relu, 2**0.5),
    ("sigmoid, variance 1 / width", torch.sigmoid, 1.0),
    ("ReLU, variance 8 / width", torch.relu, 8**0.5),
):
    generator = torch.Generator().manual_seed(0)
    weights = [(gain * torch.randn(64, 64, generator=generator) / 8).requires_grad_() for _ in range(12)]
    stream = torch.randn(128, 64, generator=generator)
    for weight in weights[:-1]:
        stream = activation(stream @ weight)
    classes = torch.randint(64, (128,), generator=generator)
    loss = nn.functional.cross_entropy(stream @ weights[-1], classes)
    norms = [float(gradient.norm()) for gradient in torch.autograd.grad(loss, weights)]
    print(f"{name:28} loss {loss:8.2f}   gradient norm: first layer {norms[0]:.1e}, last layer {norms[-1]:.1e}")
    figure.add_scatter(
        x=list(range(1, 13)), y=norms, name=name, mode="lines+markers", hovertemplate="layer %{x}: %{y:.2g}"
    )
figure.update_xaxes(title_text="layer, from the input (1) to the output (12)", dtick=1)
figure.update_yaxes(title_text="gradient norm", type="log", exponentformat="power")
figure.update_layout(height=400, legend={"orientation": "h", "y": -0.25})
figure.show()

# %% [markdown]
# The sigmoid's slope is at most 1/4, so each layer passes on a fraction of the gradient it receives. What reaches the
# first layer is less than a millionth of what reaches the last. The outputs give no warning: a sigmoid's lie between 0 and 1 at every depth. The
# network with the large weights has large gradients everywhere, and a first loss far from $\ln 64 = 4.16$. The axis is
# logarithmic for a reason: on a linear one, two of the three lines would lie on the floor.
#
# ## Exercise 1 · `gradient_norms`
#
# One number for each part of a model. A large model has hundreds of layers, so let the caller say how finely to cut:
# with `depth=2` all that is in `blocks.0` is one group.
#
# *Difficulty 2 of 5 · 15 minutes · 3 points*


# %% exercise="gradient_norms" difficulty=2 minutes=15 forbid=["clip_grad_norm_", "get_total_norm"]
def gradient_norms(model: nn.Module, depth: int | None = None) -> dict[str, float | None]:
    """The Euclidean norm of the gradients that the parameters hold, by group.

    A parameter belongs to the module that holds it: the group is its name in ``model.named_parameters()`` without the last
    part, so ``blocks.0.1.weight`` and ``blocks.0.1.bias`` belong to ``blocks.0.1``. A parameter of the model itself, such as
    ``scale``, is a group of its own, under its own name.

    Args:
        model: any module. It is not changed, and neither are the gradients.
        depth: keep only so many parts of a group's name, so ``blocks.0.1`` becomes ``blocks.0`` with depth 2 and ``blocks``
            with depth 1. Groups of the same name are one group. None keeps all parts.

    Returns:
        For each group, in the order in which its first parameter appears: the root of the sum of the squares of all its
        gradients, a float. Parameters without a gradient (``grad`` is None) do not count. If none of the group has one,
        the value is None. Computed in float64, so that entries of 1e-30 or 1e30 in float32 are no trouble. An infinite
        or NaN gradient shows: the norm is then not finite either.

    Raises:
        ValueError: if depth is less than 1.

    Source: Pascanu, Mikolov and Bengio, On the Difficulty of Training Recurrent Neural Networks, 2013.
    """
    ### BEGIN SOLUTION
    if depth is not None and depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    squares: dict[str, float | None] = {}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        group = ".".join(parts[:-1][:depth]) if len(parts) > 1 else name
        squares.setdefault(group, None)
        if parameter.grad is not None:
            square = parameter.grad.double().square().sum().item()
            squares[group] = (squares[group] or 0.0) + square
    return {group: None if square is None else math.sqrt(square) for group, square in squares.items()}
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Collect one number for each group while you go through the parameters, and take the
# root at the very end. Which numbers may be added up: norms, or their squares?</details>
# <details><summary>A bigger nudge</summary>Split the name at its dots. Take the last part away, then keep the first
# <code>depth</code>; a slice with None as its end keeps all. Enter each group when you first meet it, with None, so that
# a group without gradients is not lost. Mind that 0.0 counts as false, and None does too.</details>

# %% test="gradient_norms" points=3
from coursekit import check

import torch

model = tower(2, 2)
gradients = {"scale": torch.tensor([6.0, 8.0]), "head.weight": None, "head.bias": torch.tensor([0.0, 0.0, 2.0])}
for i in range(2):
    gradients |= {f"blocks.{i}.0.weight": 3 * torch.eye(4, 2), f"blocks.{i}.0.bias": torch.tensor([3.0, 3.0, 3.0, 1.0])}
    gradients |= {f"blocks.{i}.1.weight": torch.zeros(2, 4), f"blocks.{i}.1.bias": torch.zeros(2)}
put_gradients(model, gradients)
found = gradient_norms(model)
names = ["scale", "head", "blocks.0.0", "blocks.0.1", "blocks.1.0", "blocks.1.1", "spare"]
check.equal(list(found), names, "the groups, each where its first parameter appears")
check.equal(found["spare"], None, "spare never ran, and its parameters have no gradient")
check.close(found["scale"], 10.0, "scale, a parameter of the model itself: the root of 36 + 64")
check.close(found["head"], 2.0, "head: its weight has no gradient, its bias has (0, 0, 2)")
check.close(found["blocks.0.0"], 46**0.5, "a weight with two entries of 3, a bias of (3, 3, 3, 1): the root of 18 + 28")
check.equal(found["blocks.0.1"], 0.0, "a layer whose gradients are all zero")
by_block = gradient_norms(model, depth=2)
check.equal(list(by_block), ["scale", "head", "blocks.0", "blocks.1", "spare"], "the groups with depth 2")
check.close(gradient_norms(model, depth=1)["blocks"], 92**0.5, "depth 1: all blocks together")
check.raises(ValueError, lambda: gradient_norms(model, depth=0), "a depth of 0")
### BEGIN HIDDEN TESTS


def length(tensors):
    return float(torch.cat([t.double().flatten() for t in tensors]).norm())


for width, n_blocks, dtype in ((5, 3, torch.float32), (4, 11, torch.float64), (1, 1, torch.float32)):
    model = tower(width, n_blocks, check.seed(width), dtype)
    draw = torch.Generator().manual_seed(check.seed(10 + width))
    for attempt in range(2):
        x = torch.randn(7, width, generator=draw, dtype=dtype)
        gradients = backward(model, x, torch.randn(7, 3, generator=draw, dtype=dtype))
        for depth in (None, 1, 2, 3, 9):
            found = gradient_norms(model, depth)
            case = f"width {width}, {n_blocks} blocks, {dtype}, depth {depth}, batch {attempt + 1}"
            groups = {}
            for name, gradient in gradients.items():
                module = name.rpartition(".")[0] or name
                groups.setdefault(".".join(module.split(".")[:depth]), []).append(gradient)
            check.equal(list(found), list(groups), f"{case}: the groups")
            for group, members in groups.items():
                if members[0] is None:
                    check.equal(found[group], None, f"{case}: {group} has no gradient")
                else:
                    check.close(found[group], length(members), f"{case}: {group}", atol=1e-12, rtol=1e-6)
                    check.that(type(found[group]) is float, f"{case}: the norm of {group} is a plain float")
        now = model.named_parameters()
        check.equal(len(dict(now)), len(gradients), f"{case}: the model keeps its parameters")
model = tower(3, 1)
draw = torch.Generator().manual_seed(check.seed(4))
for size in (1e-30, 1e30):
    gradient = size * (1 + torch.rand(6, 3, generator=draw))
    put_gradients(model, {"blocks.0.0.weight": gradient, "blocks.0.0.bias": None})
    norm = gradient_norms(model)["blocks.0.0"]
    check.close(norm / size, length([gradient]) / size, f"gradients of about {size} in float32, in units of {size}")
for bad in (float("nan"), float("inf")):
    put_gradients(model, {"blocks.0.0.weight": torch.full((6, 3), bad), "blocks.0.0.bias": torch.ones(6)})
    norm = gradient_norms(model)["blocks.0.0"]
    check.that(not abs(norm) < float("inf"), f"a gradient of {bad} shows", why=f"the norm is {norm}")
check.raises(ValueError, lambda: gradient_norms(model, -1), "a depth of -1")
### END HIDDEN TESTS


# %% alternative="gradient_norms"
def gradient_norms(model, depth=None):
    if depth is not None and depth <= 0:
        raise ValueError("depth")
    members = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            group = ".".join(path.split(".")[:depth]) if path else name
            members.setdefault(group, []).append(parameter.grad)
    order = list(dict.fromkeys((n.rpartition(".")[0] or n) for n, _ in model.named_parameters()))
    print(len(order), "modules")
    result = {}
    for group, gradients in members.items():
        norms = [torch.linalg.vector_norm(g.to(torch.float64)) for g in gradients if g is not None]
        result[group] = float(torch.stack(norms).norm()) if norms else None
    return result


# %% mistakes="gradient_norms"
{
    "norms are added up and not their squares": [
        (".square().sum().item()", ".norm().item()"),
        ("math.sqrt(square)", "square"),
    ],
    "the mean of the parameters' norms is taken": [
        (
            "    squares: dict",
            "    counts = {}\n    squares: dict",
        ),
        (".square().sum().item()", ".norm().item()\n            counts[group] = counts.get(group, 0) + 1"),
        ("math.sqrt(square)", "square / counts[group]"),
    ],
    "the squares are averaged over the entries, so a wide layer looks like a narrow one": (
        ".square().sum()",
        ".square().mean()",
    ),
    "there is no root: squares of norms are returned": ("math.sqrt(square)", "square"),
    "absolute values are added up and not squares": [
        (".square().sum()", ".abs().sum()"),
        ("math.sqrt(square)", "square"),
    ],
    "a group without gradients gets 0, as if its gradient had vanished": (
        "squares.setdefault(group, None)",
        "squares.setdefault(group, 0.0)",
    ),
    "a group without gradients is left out": (
        "        squares.setdefault(group, None)\n",
        "        if parameter.grad is not None:\n            squares.setdefault(group, None)\n",
    ),
    "a group whose gradients are all zero is reported as having none": (
        "None if square is None else",
        "None if not square else",
    ),
    "a parameter without a gradient makes its whole group None": (
        "            squares[group] = (squares[group] or 0.0) + square\n",
        "            squares[group] = (squares[group] or 0.0) + square\n    for name, parameter in model.named_parameters():\n"
        '        parts = name.split(".")\n        if parameter.grad is None:\n'
        '            squares[".".join(parts[:-1][:depth]) if len(parts) > 1 else name] = None\n',
    ),
    "each parameter of a group overwrites the one before it": ("(squares[group] or 0.0) + square", "square"),
    "only matrices count, and biases are left out": (
        "if parameter.grad is not None:",
        "if parameter.grad is not None and parameter.ndim > 1:",
    ),
    "the weights are measured and not their gradients": ("parameter.grad.double()", "parameter.detach().double()"),
    "the squares are taken in float32, so small gradients are rounded to zero": (
        "parameter.grad.double().square()",
        "parameter.grad.square().double()",
    ),
    "NaN is replaced by zero, so a broken layer looks calm": (
        "parameter.grad.double()",
        "parameter.grad.double().nan_to_num()",
    ),
    "depth is ignored": ("parts[:-1][:depth]", "parts[:-1]"),
    "depth counts the last part of the name": ("parts[:-1][:depth]", "parts[:depth][:-1]"),
    "every parameter is a group of its own": ('".".join(parts[:-1][:depth]) if len(parts) > 1 else name', "name"),
    "the groups are sorted by their names": ("in squares.items()}", "in sorted(squares.items())}"),
    "parameters of the model itself have an empty name": (" if len(parts) > 1 else name", ""),
    "a depth of 0 is taken for no depth at all": ("depth is not None and depth < 1", "depth is not None and depth < 0"),
}

# %% [markdown]
# ## Exercise 2 · `update_ratios`
#
# A gradient says which way. How far a step really goes is decided by the optimiser: by its learning rate, its
# averages, its weight decay. So do not compute the step, measure it. Take a picture of the weights, let the optimiser
# make its step, and compare.
#
# *Difficulty 2 of 5 · 10 minutes · 2 points*


# %% exercise="update_ratios" difficulty=2 minutes=10
def update_ratios(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, float | None]:
    """Let the optimiser make one step, and say how far it moved each matrix.

    Args:
        model: its parameters hold gradients.
        optimiser: from torch.optim, over the parameters of the model. Its ``step()`` is called once. Nothing else is done
            with it, and the gradients stay where they are.

    Returns:
        For each parameter with two axes or more, by its name and in the order of ``model.named_parameters()``: the
        Euclidean norm of what the step changed, over the norm that the matrix had before the step, as a float, both
        computed in float64. 0.0 where nothing was changed. None where the matrix was all zeros, for there is no ratio.
        Vectors (biases, and the gains of norms) are left out: they start at 0 or 1, and their ratios mean something else.
    """
    ### BEGIN SOLUTION
    before = {name: p.detach().double().clone() for name, p in model.named_parameters() if p.ndim >= 2}
    optimiser.step()
    ratios: dict[str, float | None] = {}
    for name, parameter in model.named_parameters():
        if name in before:
            size = before[name].norm().item()
            moved = (parameter.detach().double() - before[name]).norm().item()
            ratios[name] = moved / size if size > 0 else None
    return ratios
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>An optimiser changes the parameters in place. What do you hold if you keep a
# reference to a tensor that is changed in place?</details>
# <details><summary>A bigger nudge</summary>Three parts: a dict of copies, the step, a loop that compares. The length of
# a difference is not the difference of the lengths: a matrix can turn without growing.</details>

# %% test="update_ratios" points=2
from coursekit import check

import torch

model = tower(2, 1)
for name in ("head.weight", "spare.weight", "blocks.0.0.weight", "blocks.0.1.weight"):
    put_weights(model, name, 0.0 if name == "blocks.0.1.weight" else 2.0)
put_gradients(model, {"head.weight": torch.ones(3, 2), "blocks.0.1.weight": torch.ones(2, 4)})
put_gradients(model, {"blocks.0.0.weight": torch.tensor([[3.0, 4.0]] + [[0.0, 0.0]] * 3)})
ratios = update_ratios(model, optimiser_for(model, "SGD", 0.1))
names = ["head.weight", "blocks.0.0.weight", "blocks.0.1.weight", "spare.weight"]
check.equal(list(ratios), names, "one ratio for each matrix, none for vectors")
# With weight decay 0.1 SGD moves by 0.1 * (gradient + 0.1 * weight).
check.close(ratios["head.weight"], 0.06, "weights of 2, gradients of 1: each entry moves by 0.1 * (1 + 0.2) = 0.12")
check.close(
    ratios["blocks.0.0.weight"],
    (0.32**2 + 0.42**2 + 6 * 0.02**2) ** 0.5 / 32**0.5,
    "gradients of 3, 4 and 0: entries move by 0.32, 0.42 and 0.02",
)
check.equal(ratios["blocks.0.1.weight"], None, "a matrix that was all zeros")
check.equal(ratios["spare.weight"], 0.0, "a matrix without a gradient does not move")
### BEGIN HIDDEN TESTS
for kind, lr, dtype in (("AdamW", 0.01, torch.float64), ("SGD", 1e-3, torch.float32), ("Adam", 1e-6, torch.float64)):
    model = tower(5, 2, check.seed(5), dtype)
    optimiser = optimiser_for(model, kind, lr)
    draw = torch.Generator().manual_seed(check.seed(6))
    mine = {name: value.clone() for name, value in model.state_dict().items()}
    twins = {name: torch.nn.Parameter(value.clone()) for name, value in mine.items()}
    ours = getattr(torch.optim, kind)(list(twins.values()), lr=lr, weight_decay=0.1)
    for step in range(3):
        x, target = torch.randn(4, 5, generator=draw, dtype=dtype), torch.randn(4, 3, generator=draw, dtype=dtype)
        gradients = backward(model, x, target)
        for name, twin in twins.items():
            twin.grad = gradients[name]
        before = {name: twin.detach().clone() for name, twin in twins.items()}
        ours.step()
        ratios = update_ratios(model, optimiser)
        case = f"{kind} with learning rate {lr}, {dtype}, step {step + 1}"
        check.equal(list(ratios), [name for name, w in mine.items() if w.ndim == 2], f"{case}: the matrices")
        tolerance = 1e-9 if dtype == torch.float64 else 1e-4
        for name, w in model.state_dict().items():
            check.close(w, twins[name].detach(), f"{case}: {name} has made one step", rtol=1e-5, atol=1e-6)
            if w.ndim == 2:
                moved = (twins[name].detach().double() - before[name].double()).norm()
                want = float(moved / before[name].double().norm())
                check.close(ratios[name] / lr, want / lr, f"{case}: {name}, over the learning rate", rtol=tolerance)
                check.that(type(ratios[name]) is float, f"{case}: the ratio of {name} is a plain float")
    kept = backward(model, x, target)
    ratios = update_ratios(model, optimiser_for(model, "SGD", 0.0))
    check.equal(set(ratios.values()), {0.0}, f"{dtype}: a learning rate of zero moves nothing")
    again = optimiser_for(model, "SGD", 0.1)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    update_ratios(model, again)
    for name, gradient in kept.items():
        if gradient is not None:
            moved = start[name] - model.state_dict()[name]
            want = 0.1 * (gradient + 0.1 * start[name])
            check.close(moved, want, f"{dtype}: the gradient of {name} is still there for the next step", atol=1e-5)
model = tower(3, 1)
put_weights(model, "head.weight", 1e-25)
put_gradients(model, {"head.weight": torch.full((3, 3), 1e-25)})
ratios = update_ratios(model, optimiser_for(model, "SGD", 0.5))
check.close(ratios["head.weight"], 0.55, "weights of 1e-25 in float32", rtol=1e-4)
### END HIDDEN TESTS


# %% alternative="update_ratios"
def update_ratios(model, optimiser):
    old = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimiser.step()
    result = {}
    for name, value in model.named_parameters():
        if value.dim() < 2:
            continue
        a, b = old[name].to(torch.float64).flatten(), value.detach().to(torch.float64).flatten()
        length = math.sqrt(float((a * a).sum()))
        print(name, length)
        result[name] = math.sqrt(float(((b - a) ** 2).sum())) / length if length else None
    return result


# %% mistakes="update_ratios"
{
    "the weights from before are no copy, and change with the step": (
        "p.detach().double().clone()",
        "p.detach()",
    ),
    "the ratio is upside down: size over movement": (
        "moved / size if size > 0 else None",
        "(size / moved if moved else 0.0) if size > 0 else None",
    ),
    "the movement is not divided by anything": ("moved / size", "moved"),
    "the movement is divided by the norm of the gradient and not of the weight": (
        "moved / size if",
        "moved / (parameter.grad.double().norm().item() if parameter.grad is not None else 1.0) if",
    ),
    "the gradient itself is taken for the movement": (
        "(parameter.detach().double() - before[name]).norm().item()",
        "parameter.grad.double().norm().item() if parameter.grad is not None else 0.0",
    ),
    "the learning rate times the gradient is taken for the movement, whatever the optimiser makes of it": (
        "(parameter.detach().double() - before[name]).norm().item()",
        'optimiser.param_groups[0]["lr"] * parameter.grad.double().norm().item() if parameter.grad is not None else 0.0',
    ),
    "the lengths before and after are compared, so a matrix that turns has not moved": (
        "(parameter.detach().double() - before[name]).norm().item()",
        "abs(parameter.detach().double().norm().item() - size)",
    ),
    "the movement is divided by the size after the step": (
        "moved / size if size > 0",
        "moved / parameter.detach().double().norm().item() if size > 0",
    ),
    "the largest entry is taken and not the norm": (
        "(parameter.detach().double() - before[name]).norm()",
        "(parameter.detach().double() - before[name]).abs().max()",
    ),
    "biases and gains are mixed in": (" if p.ndim >= 2", ""),
    "the step is never made": ("    optimiser.step()\n", ""),
    "two steps are made": ("    optimiser.step()\n", "    optimiser.step()\n    optimiser.step()\n"),
    "the gradients are set to zero before the step, so that nothing but weight decay moves": (
        "    optimiser.step()\n",
        "    optimiser.zero_grad(set_to_none=False)\n    optimiser.step()\n",
    ),
    "the gradients are set to zero after the step": (
        "    return ratios",
        "    optimiser.zero_grad()\n    return ratios",
    ),
    "the gradients are clipped before the step": (
        "    optimiser.step()\n",
        "    nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n    optimiser.step()\n",
    ),
    "a matrix of zeros has an infinite ratio": ("else None", 'else float("inf")'),
    "a matrix without a gradient is left out": (
        "if name in before:",
        "if name in before and parameter.grad is not None:",
    ),
    "a small number is added to the size, so that small weights seem to stand still": (
        "moved / size if size > 0",
        "moved / (size + 1e-8) if size > 0",
    ),
}

# %% [markdown]
# ## Exercise 3 · `Watch`
#
# Parameters hold their gradients after the backward pass. Outputs do not: they are gone as soon as nobody needs them. To
# see them you must be there when they pass. PyTorch calls a *hook* at such a moment: `module.register_forward_hook`
# takes a function of the module, its inputs and its output, and calls it after every forward pass of the module. A
# tensor has `register_hook`, which takes a function of the tensor's gradient. Both return a handle with a method
# `remove()`.
#
# *Difficulty 4 of 5 · 30 minutes · 4 points*


# %% exercise="Watch" difficulty=4 minutes=30
class Watch:
    """Records what comes out of the layers of a model, and the gradients that arrive there.

    A layer is a module without modules inside; the model itself, if it has none. Each layer returns one tensor.

    Args:
        model: any module. What it computes, and what its parameters get as gradients, stays the same to the last digit.

    Once the watch is made, every forward pass of the model is recorded, until `remove` is called. Each pass
    begins with an empty list: what an earlier one left is forgotten.
    """

    def __init__(self, model: nn.Module):
        ### BEGIN SOLUTION
        self._records: list[dict] = []

        def begin(module, inputs):
            self._records = []

        def observer(name):
            def observe(module, inputs, output):
                values = output.detach().double()
                rms = values.square().mean().sqrt().item()
                zeros = (values == 0).double().mean().item()
                record = {"name": name, "rms": rms, "zeros": zeros, "gradient": None}
                self._records.append(record)

                def arrive(gradient):
                    record["gradient"] = gradient.double().norm().item()

                if output.requires_grad:
                    output.register_hook(arrive)

            return observe

        self._handles = [model.register_forward_pre_hook(begin)]
        for name, module in model.named_modules():
            if not list(module.children()):
                self._handles.append(module.register_forward_hook(observer(name)))
        ### END SOLUTION

    def records(self) -> list[dict]:
        """What the last forward pass of the model left, and the backward pass after it.

        Returns:
            An empty list before the first pass. Then one dict for each time that a layer ran, in the order in which they
            ran. A layer that ran twice is there twice, one that did not run is not there. Numbers are plain floats,
            computed in float64:
                "name": the layer's name in ``model.named_modules()``.
                "rms": root mean square of all numbers of its output.
                "zeros": share of the numbers that are exactly zero, from 0 to 1.
                "gradient": Euclidean norm of the gradient of the loss for this output. None while no gradient has arrived:
                    before the backward pass, in a pass under ``torch.no_grad()``, below a ``detach()``.
        """
        ### BEGIN SOLUTION
        return self._records
        ### END SOLUTION

    def remove(self) -> None:
        """Take all hooks off the model's modules; the records stay. Doing it twice does no harm.

        No tensor of the model's passes is kept alive, neither before nor after this call.
        """
        ### BEGIN SOLUTION
        for handle in self._handles:
            handle.remove()
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Two kinds of hook are enough. One on each layer makes the record, and in it one on the
# output, which enters the gradient later. How does the second know which record is meant? And what tells you that a
# new pass begins?</details>
# <details><summary>A bigger nudge</summary>A function that is defined in another remembers that one's variables. Let a
# method take the layer's name and return the hook; inside the hook, make the record, and define the function for the
# gradient beside it. Turn everything into floats at once. A pre-hook on the model runs before all layers. A hook's
# return value replaces what passes, so return nothing.</details>

# %% test="Watch" points=2
from coursekit import check

import torch

model = tower(2, 2)
for name in ("scale", "blocks.0.0.weight", "blocks.0.0.bias", "blocks.0.1.weight", "blocks.1.0.weight", "head.weight"):
    put_weights(model, name, 1.0)
for name, value in (("blocks.0.1.bias", -100.0), ("blocks.1.0.bias", 0.0), ("blocks.1.1.weight", 0.0)):
    put_weights(model, name, value)
for name, value in (("blocks.1.1.bias", 0.5), ("head.bias", 0.0)):
    put_weights(model, name, value)
watch = Watch(model)
check.equal(watch.records(), [], "nothing has run yet")
x, target = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0, 10.0]])
forward(model, x)
records = watch.records()
ran = ["blocks.0.0", "blocks.0.1", "activation", "blocks.1.0", "blocks.1.1", "activation", "head"]
check.equal([record["name"] for record in records], ran, "the layers in the order in which they ran")
# 1 + 2 + 1 = 4 four times; 16 - 100 = -84 twice, which ReLU makes 0; 1 + 2 = 3 four times; 0.5 twice; 1.5 + 2.5 = 4.
wanted = torch.tensor([4.0, 84.0, 0.0, 3.0, 0.5, 0.5, 4.0])
check.close(torch.tensor([record["rms"] for record in records]), wanted, "the root mean squares of the outputs")
zeros = [record["zeros"] for record in records]
check.equal(zeros, [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0], "the shares of zeros")
check.equal([record["gradient"] for record in records], [None] * 7, "no backward pass yet")
backward(model, x, target)
records = watch.records()
check.equal(len(records), 7, "a second pass begins anew")
# The outputs are 4, 4, 4 and the targets 1, 4, 10: the mean of the squares has the gradients 2/3 times 3, 0, -6.
check.close(records[-1]["gradient"], 20**0.5, "head: three gradients of 2, 0 and -4")
check.close(records[2]["gradient"], 8**0.5, "the first run of activation: two gradients of 2 + 0 - 4 = -2")
check.equal(records[1]["gradient"], 0.0, "what lies below the dead ReLU")
watch.remove()
check.equal(hooks_on(model), 0, "after remove() no hook is left")
### BEGIN HIDDEN TESTS
from torch.nn import functional as F


def by_hand(state, n_blocks, x, target):
    """The outputs of the layers in order, with gradients, and the parameters' gradients."""
    w = {name: value.detach().clone().requires_grad_() for name, value in state.items()}
    outputs = []

    def out(name, value):
        value.retain_grad()
        outputs.append((name, value))
        return value

    h = x * w["scale"]
    for i in range(n_blocks):
        up = out(f"blocks.{i}.0", F.linear(h, w[f"blocks.{i}.0.weight"], w[f"blocks.{i}.0.bias"]))
        down = out(f"blocks.{i}.1", F.linear(up, w[f"blocks.{i}.1.weight"], w[f"blocks.{i}.1.bias"]))
        h = h + out("activation", down.relu())
    result = out("head", F.linear(h, w["head.weight"], w["head.bias"]))
    (result - target).square().mean().backward()
    return outputs, {name: value.grad for name, value in w.items()}


for batch, width, n_blocks, dtype in ((7, 5, 3, torch.float64), (1, 4, 1, torch.float32), (3, 3, 11, torch.float64)):
    draw = torch.Generator().manual_seed(check.seed(batch))
    model = tower(width, n_blocks, check.seed(width), dtype)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    watch = Watch(model)
    for attempt in range(2):
        x = torch.randn(width, batch, generator=draw, dtype=dtype).T
        target = torch.randn(batch, 3, generator=draw, dtype=dtype)
        gradients = backward(model, x, target)
        found = watch.records()
        outputs, wanted = by_hand(state, n_blocks, x, target)
        case = f"batch of {batch}, {n_blocks} blocks, {dtype}, pass {attempt + 1}"
        check.equal([r["name"] for r in found], [name for name, _ in outputs], f"{case}: the order")
        want = {
            "rms": [v.square().mean().sqrt() for _, v in outputs],
            "zeros": [(v == 0).to(dtype).mean() for _, v in outputs],
            "gradient": [v.grad.norm() for _, v in outputs],
        }
        for key, values in want.items():
            values = torch.stack(values).detach().double()
            got = torch.tensor([r[key] for r in found], dtype=torch.float64)
            loose = 1e-9 if dtype == torch.float64 else 1e-5
            check.close(got, values, f"{case}: {key}", atol=loose, rtol=10 * loose)
            check.that(all(type(r[key]) is float for r in found), f"{case}: {key} is a plain float")
        for name, gradient in gradients.items():
            if wanted[name] is not None:
                check.close(gradient, wanted[name], f"{case}: the watch leaves the gradient of {name} alone", rtol=1e-4)
### END HIDDEN TESTS

# %% test="Watch" points=2
from coursekit import check

import torch

model = tower(3, 2)
x, target = torch.ones(4, 3), torch.ones(4, 3)
check.equal(outputs_kept(model, x), 0, "without a watch nothing is kept of a pass")
watch = Watch(model)
check.equal(outputs_kept(model, x), 0, "and with a watch no output is kept either")
watch.remove()
before = [record["rms"] for record in watch.records()]
forward(model, 9 * x)
check.equal([record["rms"] for record in watch.records()], before, "after remove() nothing is recorded any more")
### BEGIN HIDDEN TESTS
watch.remove()
check.equal(hooks_on(model), 0, "a second remove() does no harm")
draw = torch.Generator().manual_seed(check.seed(9))
model = tower(6, 4, check.seed(8))
x, target = torch.randn(5, 6, generator=draw), torch.randn(5, 3, generator=draw)
plain_output, plain = forward(model, x), backward(model, x, target)
first = Watch(model)
second = Watch(model)
check.equal(forward(model, x), plain_output, "the output with two watches is the one without, to the last digit")
for name, gradient in backward(model, x, target).items():
    if gradient is not None:
        check.equal(gradient, plain[name], f"the gradient of {name} with two watches is the one without")
first_seen, second_seen = first.records(), second.records()
check.equal(first_seen, second_seen, "two watches of one model see the same")
check.equal(len(first_seen), 13, "four blocks of three layers, and the head")
forward(model, 2 * x, False)
check.equal([r["gradient"] for r in first.records()], [None] * 13, "a pass without gradients")
check.that(first.records()[0]["rms"] != first_seen[0]["rms"], "a pass without gradients is recorded, too")
first.remove()
seen = second.records()[0]["rms"]
forward(model, 3 * x)
check.that(second.records()[0]["rms"] != seen, "removing one watch leaves the other at work")
second.remove()
check.equal(hooks_on(model), 0, "after both are removed no hook is left")
again = Watch(model)
for _ in range(3):
    backward(model, x, target)
check.equal(len(again.records()), 13, "three passes: the records are those of the last")
check.equal(outputs_kept(model, x), 0, "no output is kept after many passes")
again.remove()
check.equal(len(again.records()), 13, "the records stay after remove()")
forward(model, x)
check.equal(len(again.records()), 13, "and a later pass leaves them as they are")
layer = tower(3, 1).head
alone = Watch(layer)
backward(layer, torch.ones(2, 3), torch.zeros(2, 3))
check.equal([r["name"] for r in alone.records()], [""], "a model that is a single layer: its name is empty")
check.that(alone.records()[0]["gradient"] > 0, "a model that is a single layer: its gradient arrives")
alone.remove()
check.equal(hooks_on(layer), 0, "a model that is a single layer: no hook is left")
### END HIDDEN TESTS


# %% alternative="Watch"
class Watch:
    """With full backward hooks on the modules: the last run of a layer comes first on the way back."""

    def __init__(self, model):
        self.seen, self.waiting, self.hooks = [], {}, []
        self.hooks.append(model.register_forward_pre_hook(self.start))
        for name, module in model.named_modules():
            if next(module.children(), None) is None:
                self.hooks.append(module.register_forward_hook(lambda m, i, o, name=name: self.after(name, o)))
                self.hooks.append(module.register_full_backward_hook(lambda m, i, o, name=name: self.back(name, o[0])))

    def start(self, module, inputs):
        self.seen.clear()
        self.waiting.clear()

    def after(self, name, output):
        numbers = output.detach().to(torch.float64).flatten()
        entry = {
            "gradient": None,
            "zeros": 1.0 - torch.count_nonzero(numbers).item() / numbers.numel(),
            "rms": float(numbers.norm()) / numbers.numel() ** 0.5,
            "name": name,
        }
        self.seen.append(entry)
        self.waiting.setdefault(name, []).append(entry)

    def back(self, name, gradient):
        self.waiting[name].pop()["gradient"] = float(torch.linalg.vector_norm(gradient.to(torch.float64)))

    def records(self):
        return [dict(entry) for entry in self.seen]

    def remove(self):
        while self.hooks:
            self.hooks.pop().remove()


# %% mistakes="Watch"
{
    "the gradient is filed under the layer's name, so a layer that ran twice has the same gradient in both records": (
        '                    record["gradient"] = gradient.double().norm().item()\n',
        "                    for other in self._records:\n"
        '                        if other["name"] == record["name"]:\n'
        '                            other["gradient"] = gradient.double().norm().item()\n',
    ),
    "the hooks are left behind": ("            handle.remove()\n", "            pass\n"),
    "only the first hook is removed": ("in self._handles:", "in self._handles[:1]:"),
    "only the hooks of the layers are removed, and the next pass empties the records": (
        "in self._handles:",
        "in self._handles[1:]:",
    ),
    "the records of all passes pile up": ("            self._records = []\n", "            pass\n"),
    "modules that hold others are recorded, too": ("if not list(module.children()):", "if True:"),
    "the layers are in the order in which they were made": [
        ("        self._records: list[dict] = []\n", "        self._records, self._model = [], model\n"),
        (
            "        return self._records\n",
            "        names = [name for name, _ in self._model.named_modules()]\n"
            '        return sorted(self._records, key=lambda record: names.index(record["name"]))\n',
        ),
    ],
    "the last layer comes first": ("return self._records\n", "return self._records[::-1]\n"),
    "a layer that runs twice is recorded once": (
        "self._records.append(record)",
        "self._records = [r for r in self._records if r['name'] != name] + [record]",
    ),
    "the input of the layer is measured and not its output": (
        "values = output.detach().double()",
        "values = inputs[0].detach().double()",
    ),
    "the standard deviation is taken, which is zero for a layer that returns a constant": (
        "values.square().mean().sqrt().item()",
        "values.std(correction=0).item()",
    ),
    "the mean of the absolute values is taken and not the root mean square": (
        "values.square().mean().sqrt().item()",
        "values.abs().mean().item()",
    ),
    "the norm is taken and not the root mean square, so a large batch looks loud": (
        "values.square().mean().sqrt().item()",
        "values.norm().item()",
    ),
    "negative numbers count as zeros": ("(values == 0)", "(values <= 0)"),
    "zeros are counted, and not their share": ("(values == 0).double().mean()", "(values == 0).double().sum()"),
    "the gradient for the input is taken and not that for the output": [
        ("output.requires_grad:", "inputs[0].requires_grad:"),
        ("output.register_hook(arrive)", "inputs[0].register_hook(arrive)"),
    ],
    "the mean of the gradients is taken, in which they cancel": (
        "gradient.double().norm().item()",
        "gradient.double().mean().item()",
    ),
    "the root mean square of the gradient is taken and not its norm": (
        "gradient.double().norm().item()",
        "gradient.double().square().mean().sqrt().item()",
    ),
    "the rows' norms are averaged": (
        "gradient.double().norm().item()",
        "gradient.double().norm(dim=-1).mean().item()",
    ),
    "the outputs are kept in a list, so no pass ever leaves the memory": (
        "                self._records.append(record)\n",
        "                self._records.append(record)\n                self.__dict__.setdefault('kept', []).append(output)\n",
    ),
    "the hook returns the output cut off from the graph, and nothing below it learns": (
        "                    output.register_hook(arrive)\n",
        "                    output.register_hook(arrive)\n                return output.detach().requires_grad_(output.requires_grad)\n",
    ),
    "the hook on the gradient returns it scaled to length 1": (
        'record["gradient"] = gradient.double().norm().item()',
        'record["gradient"] = gradient.double().norm().item()\n                    return gradient / gradient.norm().clamp(min=1e-12)',
    ),
    "a layer without a gradient gets 0": ('"gradient": None}', '"gradient": 0.0}'),
    "only passes with gradients are recorded": (
        "                values = output.detach().double()",
        "                if not output.requires_grad:\n                    return\n                values = output.detach().double()",
    ),
}

# %% [markdown]
# ## Exercise 4 · `gradient_figure`
#
# Now the picture: one line for each group, over the steps of training. Two things make or break it. The axis has to be
# logarithmic, since what you look for differs by factors of a thousand. And a logarithmic axis has no place for zero:
# such a point must be a gap, and the line must go on at the right step after it.
#
# *Difficulty 2 of 5 · 15 minutes · 2 points*


# %% exercise="gradient_figure" difficulty=2 minutes=15
def gradient_figure(history: list[dict[str, float | None]]) -> dict:
    """A plotly figure of gradient norms over training.

    Args:
        history: what `gradient_norms` returned at step 0, 1, 2 and so on; at least one, all with the same groups.

    Returns:
        The figure as a dict, as ``go.Figure.to_dict()`` gives it: one trace of type "scatter" for each group, in the order
        of the groups, with the group as its ``name``, the steps 0, 1, 2, ... as its ``x`` and the norms as its ``y``.
        Where a norm is None, zero or not finite, y is None: the line has a gap. Gaps are not bridged. The y axis is
        logarithmic, and both axes have a title.
    """
    ### BEGIN SOLUTION
    import plotly.graph_objects as go

    figure = go.Figure()
    steps = list(range(len(history)))
    for group in history[0]:
        norms = [norms[group] for norms in history]
        shown = [norm if norm is not None and 0 < norm < math.inf else None for norm in norms]
        figure.add_trace(go.Scatter(x=steps, y=shown, name=group, mode="lines+markers"))
    figure.update_xaxes(title_text="training step")
    figure.update_yaxes(title_text="gradient norm", type="log")
    return figure.to_dict()
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary><code>go.Scatter(x=..., y=..., name=...)</code> is a trace. The history is a list of
# dicts by group; a trace needs the list of one group's norms.</details>
# <details><summary>A bigger nudge</summary><code>update_xaxes</code> and <code>update_yaxes</code> take
# <code>title_text</code>, and the latter <code>type="log"</code>. NaN fails every comparison, so one chain of two
# comparisons keeps exactly the numbers that a logarithm can draw. Test for None first.</details>

# %% test="gradient_figure" points=2
from coursekit import check


def drawn(values):
    """The numbers of a trace as a list, with None for gaps."""
    return [None if value is None or value != value else float(value) for value in list(values)]


history = [{"head": 2.0, "body": 0.5}, {"head": 0.0, "body": None}, {"head": float("nan"), "body": 4.0}]
figure = gradient_figure(history)
check.equal(type(figure), dict, "a dict, as figure.to_dict() gives it, and not the figure itself")
check.equal([trace["name"] for trace in figure["data"]], ["head", "body"], "one trace for each group")
check.equal(
    drawn(figure["data"][0]["y"]), [2.0, None, None], "2, then zero, then NaN: a logarithm has no place for them"
)
check.equal(drawn(figure["data"][1]["y"]), [0.5, None, 4.0], "0.5, then no gradient, then 4")
check.equal(drawn(figure["data"][1]["x"]), [0.0, 1.0, 2.0], "the steps, counted from 0")
check.equal(figure["layout"]["yaxis"].get("type"), "log", "the y axis is logarithmic")
### BEGIN HIDDEN TESTS
import torch

for steps, groups in ((1, 1), (40, 7), (3, 12)):
    draw = torch.Generator().manual_seed(check.seed(steps))
    table = torch.randn(steps, groups, generator=draw, dtype=torch.float64).mul(20).exp()
    names = [f"blocks.{i}" for i in torch.randperm(groups, generator=draw).tolist()]
    history = [dict(zip(names, row, strict=True)) for row in table.tolist()]
    want = table.T.tolist()
    if steps > 2:
        for row, bad in enumerate((None, 0.0, float("inf"), float("nan"))):
            history[row % steps][names[row]] = bad
            want[row][row % steps] = None
    figure = gradient_figure(history)
    traces = figure["data"]
    check.equal([trace["name"] for trace in traces], names, f"{groups} groups: the names, in order")
    for trace, values in zip(traces, want, strict=True):
        check.equal(trace.get("type", "scatter"), "scatter", "the type of a trace")
        check.equal(drawn(trace["y"]), values, f"{steps} steps: {trace['name']}")
        check.equal(drawn(trace["x"]), [float(step) for step in range(steps)], f"{steps} steps: x of {trace['name']}")
        check.that(not trace.get("connectgaps"), "gaps are not bridged")
    for axis in ("xaxis", "yaxis"):
        title = figure["layout"][axis].get("title")
        text = title.get("text") if isinstance(title, dict) else title
        check.that(bool(text), f"the {axis} has a title")
    check.equal(figure["layout"]["yaxis"]["type"], "log", "the y axis is logarithmic")
### END HIDDEN TESTS


# %% alternative="gradient_figure"
def gradient_figure(history):
    traces = []
    for name in history[0]:
        y = []
        for norms in history:
            value = norms[name]
            fine = value is not None and math.isfinite(value) and value > 0
            y.append(value if fine else float("nan"))
        traces.append({"type": "scatter", "name": name, "x": [*range(len(y))], "y": y})
    axes = {"xaxis": {"title": {"text": "step"}}, "yaxis": {"title": {"text": "norm"}, "type": "log"}}
    return {"data": traces, "layout": axes}


# %% mistakes="gradient_figure"
{
    "steps with a gap are dropped, so all that follows is drawn too early": [
        ("shown = [", "shown = [norm for norm in ["),
        ("else None for norm in norms]", "else None for norm in norms] if norm is not None]"),
    ],
    "the axis is linear, so only the largest group can be seen": (', type="log"', ""),
    "logarithms are drawn on a linear axis": [
        ("shown = [norm if", "shown = [math.log10(norm) if"),
        (', type="log"', ""),
    ],
    "logarithms are drawn on a logarithmic axis": ("shown = [norm if", "shown = [math.log10(norm) if"),
    "a gradient of zero gets a point, as zero or as a very small number, and not a gap": (
        "norm if norm is not None and 0 < norm < math.inf else None",
        "norm + 1e-12 if norm is not None and norm < math.inf else None",
    ),
    "no gradient is drawn as zero": (
        "norm if norm is not None and 0 < norm < math.inf else None",
        "norm if norm is not None and 0 < norm < math.inf else 0.0",
    ),
    "gaps are bridged by a straight line": ('mode="lines+markers"', 'mode="lines+markers", connectgaps=True'),
    "infinity is passed on as a number": ("0 < norm < math.inf", "0 < norm"),
    "steps are counted from 1": ("range(len(history))", "range(1, len(history) + 1)"),
    "the groups are sorted by their names": ("for group in history[0]:", "for group in sorted(history[0]):"),
    "there is one trace for each step and not for each group": [
        ("for group in history[0]:", "for group in steps:"),
        ("norms = [norms[group] for norms in history]", "norms = list(history[group].values())"),
        ("name=group", "name=str(group)"),
    ],
    "the norms are divided by that of the first step": (
        "shown = [norm if",
        "shown = [norm / (norms[0] or 1.0) if",
    ),
    "the axes have no titles": [
        ('    figure.update_xaxes(title_text="training step")\n', ""),
        ('title_text="gradient norm", ', ""),
    ],
}

# %% [markdown]
# ### Six networks
#
# One last thing is given. Six networks come to be examined, each after its first backward pass and its first step. Have a
# look at how each gets its disease.


# %% given
def patient(disease: str, width: int = 32, depth: int = 8, seed: int = 0) -> dict:
    """A network with a disease (or "healthy"), examined at its first step.

    Returns:
        A dict: "records" as from `Watch`, "norms" as from `gradient_norms`, "ratios" as from `update_ratios`.
    """
    draw = torch.Generator().manual_seed(seed)
    place = seed % (depth - 2)  # where the disease sits
    gain = {"exploding": 4 * 2**0.5, "vanishing": 1.0}.get(disease, 2**0.5)
    layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
    with torch.no_grad():
        for layer in layers:
            layer.weight.normal_(0.0, gain / width**0.5, generator=draw)
            layer.bias.zero_()
        if disease == "dead":
            layers[place].bias.fill_(-20.0)
    if disease == "cut off" and seed % 2:
        layers[place].requires_grad_(False)
    stream, records, outputs = torch.randn(64, width, generator=draw), [], []
    for i, layer in enumerate(layers):
        steps = [(f"{2 * i}", layer)]
        if i < depth - 1:
            steps.append((f"{2 * i + 1}", torch.sigmoid if disease == "vanishing" else torch.relu))
        for name, step in steps:
            stream = step(stream)
            if stream.requires_grad:
                stream.retain_grad()
            outputs.append(stream)
            rms, zeros = stream.square().mean().sqrt().item(), (stream == 0).double().mean().item()
            records.append({"name": name, "rms": rms, "zeros": zeros})
        if disease == "cut off" and seed % 2 == 0 and i == place:
            stream = stream.detach()
    nn.functional.cross_entropy(stream, torch.randint(width, (64,), generator=draw)).backward()
    for record, output in zip(records, outputs, strict=True):
        record["gradient"] = None if not output.requires_grad or output.grad is None else output.grad.norm().item()
    norms = {}
    for i, layer in enumerate(layers):
        gradients = [p.grad.double().flatten() for p in layer.parameters() if p.grad is not None]
        norms[f"{2 * i}"] = torch.cat(gradients).norm().item() if gradients else None
    groups = [
        {"params": layer.parameters(), "lr": 0.3 if disease == "step too large" and i == place else 1e-3}
        for i, layer in enumerate(layers)
    ]
    plain = disease == "exploding" and seed % 2 == 0
    optimiser = torch.optim.SGD(layers.parameters(), lr=0.1) if plain else torch.optim.Adam(groups)
    before = [layer.weight.detach().clone() for layer in layers]
    optimiser.step()
    moved = [
        float((layer.weight.detach() - old).norm() / old.norm()) for layer, old in zip(layers, before, strict=True)
    ]
    return {"records": records, "norms": norms, "ratios": {f"{2 * i}.weight": r for i, r in enumerate(moved)}}


DISEASES = ("healthy", "cut off", "dead", "exploding", "vanishing", "step too large")

# %% [markdown]
# ## Exercise 5 · `diagnose`
#
# Write the doctor. The signs of the diseases are in the docstring. The hard part is that a disease can show several. A dead
# layer passes nothing down, so everything below it gets a gradient of exactly zero: that is the sign of vanishing
# gradients, too. Outputs that explode bring large gradients, and with plain gradient descent large gradients are large
# steps. A good answer names the cause and not the consequence. So first think about the order in which you ask.
#
# *Difficulty 3 of 5 · 20 minutes · 3 points*


# %% exercise="diagnose" difficulty=3 minutes=20
def diagnose(report: dict) -> str:
    """Name what is wrong with a network.

    The signs, in no particular order:
        "step too large": some ratio is above 0.1.
        "vanishing": the norm of the first group is less than 1% of the norm of the last group.
        "dead": some record has more than 95% zeros.
        "cut off": some group of parameters has no gradient: its norm is None.
        "exploding": the rms of the last record is more than 50 times that of the first, or one of all the rms and norms is
            not finite.
        "healthy": none of these.

    Args:
        report: a dict with the keys
            "records": a list as from `Watch.records()`, at least one. "gradient" may be None.
            "norms": a dict as from `gradient_norms`, at least one group, from the input to the output; a norm may be None.
            "ratios": a dict as from `update_ratios`, perhaps empty; a ratio may be None, which is no sign of anything.

    Returns:
        One of the six names. If a network has several signs, and one disease is the cause of the others, that one: dead
        layers let gradients vanish, and exploding outputs make steps too large. A network that is cut off is called so,
        whatever else it shows.
    """
    ### BEGIN SOLUTION
    records, norms = report["records"], list(report["norms"].values())
    if None in norms:
        return "cut off"
    if any(record["zeros"] > 0.95 for record in records):
        return "dead"
    sizes = [record["rms"] for record in records]
    if sizes[-1] > 50 * sizes[0] or not all(math.isfinite(number) for number in sizes + norms):
        return "exploding"
    if norms[0] < 0.01 * norms[-1]:
        return "vanishing"
    if any(ratio is not None and ratio > 0.1 for ratio in report["ratios"].values()):
        return "step too large"
    return "healthy"
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Draw the six names and an arrow from each cause to what it causes. Then ask in the
# direction of the arrows: a name comes before all that it can cause.</details>
# <details><summary>A bigger nudge</summary>Five questions, each with a return of its own. The question about None comes
# first, because the comparisons after it need numbers. Dividing by the norm of the last group fails if that is zero, a
# product does not. And every comparison with NaN is false, so look for NaN by name.</details>

# %% test="diagnose" points=3
from coursekit import check


def by_hand(rms, zeros):
    layers = [{"name": str(i), "rms": rms[i], "zeros": zeros[i], "gradient": 1.0} for i in range(3)]
    return {"records": layers, "norms": {"0": 1.0, "2": 1.0}, "ratios": {"0.weight": 0.001}}


found = diagnose(by_hand(rms=(1.0, 1.0, 1.0), zeros=(0.0, 1.0, 0.0)))
check.equal(found, "dead", "three records, the second with 100% zeros; all other numbers are healthy")
found = diagnose(by_hand(rms=(1.0, 9.0, 90.0), zeros=(0.0, 0.0, 0.0)))
check.equal(found, "exploding", "three records with an rms of 1, 9 and 90; all other numbers are healthy")
for disease in DISEASES:
    for seed in range(2):
        found = diagnose(patient(disease, seed=seed))
        check.equal(found, disease, f"a network whose disease is {disease!r}, seed {seed}")
calm = {"records": [{"name": "0", "rms": 1.0, "zeros": 0.0, "gradient": 1.0}], "norms": {"0": 1.0}}
check.equal(diagnose(calm | {"ratios": {"0.weight": None}}), "healthy", "one layer, and a matrix that was all zeros")
### BEGIN HIDDEN TESTS
for number, (width, depth) in enumerate(((48, 9), (40, 12), (64, 8))):
    for disease in DISEASES:
        for turn in range(2):
            report = patient(disease, width, depth, check.seed(10 * number + 2) // 2 * 2 + turn)
            check.equal(diagnose(report), disease, f"{disease!r}, {depth} layers of width {width}")
nan, inf = float("nan"), float("inf")


def report(rms=(1.0, 2.0, 1.0), zeros=(0.0, 0.5, 0.0), norms=(1.0, 2.0, 1.0), ratios=(0.001, 0.002)):
    records = [
        {"name": str(i), "rms": r, "zeros": z, "gradient": None}
        for i, (r, z) in enumerate(zip(rms, zeros, strict=True))
    ]
    return {
        "records": records,
        "norms": {f"layer {9 - i}": norm for i, norm in enumerate(norms)},
        "ratios": {f"layer {9 - i}.weight": ratio for i, ratio in enumerate(ratios)},
    }


cases = [
    ("healthy", {}),
    ("healthy", {"zeros": (0.95, 0.95, 0.0)}),
    ("dead", {"zeros": (0.0, 0.96, 0.0)}),
    ("dead", {"zeros": (0.0, 0.0, 0.951)}),
    ("dead", {"zeros": (0.951, 0.0, 0.0), "norms": (0.0, 0.0, 1.0)}),
    ("dead", {"zeros": (0.0, 1.0, 0.0), "norms": (0.0, 0.0, 0.0)}),
    ("dead", {"zeros": (0.0, 1.0, 0.0), "norms": (0.0, 0.0, 1.0), "ratios": (0.0, 0.01)}),
    ("healthy", {"rms": (2.0, 1000.0, 3.0)}),
    ("healthy", {"rms": (2.0, 1000.0, 100.0)}),
    ("exploding", {"rms": (2.0, 1.0, 101.0)}),
    ("exploding", {"rms": (2.0, 10.0, 101.0), "norms": (1e4, 1e4, 1e4), "ratios": (3.0, 50.0)}),
    ("exploding", {"rms": (2.0, 10.0, 101.0), "ratios": (0.001, 50.0)}),
    ("exploding", {"rms": (nan, nan, nan), "norms": (nan, nan, nan), "ratios": (nan, nan)}),
    ("exploding", {"rms": (1.0, inf, 1.0)}),
    ("exploding", {"rms": (1.0, 1.0, nan)}),
    ("exploding", {"norms": (1.0, nan, 1.0)}),
    ("exploding", {"norms": (1.0, inf, 1.0), "ratios": (1.0, 1.0)}),
    ("healthy", {"norms": (1.0, 3.0, 100.0)}),
    ("healthy", {"norms": (1.0, 1e-6, 90.0)}),
    ("healthy", {"norms": (100.0, 1.0, 0.0001)}),
    ("healthy", {"norms": (0.0, 0.0, 0.0)}),
    ("vanishing", {"norms": (0.9, 50.0, 100.0)}),
    ("vanishing", {"norms": (0.0, 0.0, 1.0)}),
    ("healthy", {"ratios": (0.1, 0.1)}),
    ("healthy", {"ratios": ()}),
    ("healthy", {"ratios": (None, None, 0.01)}),
    ("step too large", {"ratios": (0.0001, 0.11)}),
    ("step too large", {"ratios": (None, 0.2, None)}),
    ("step too large", {"ratios": (0.7, 0.0)}),
    ("cut off", {"norms": (None, 1.0, 1.0)}),
    ("cut off", {"norms": (1.0, None, 1.0)}),
    ("cut off", {"norms": (1.0, 1.0, None)}),
    ("cut off", {"norms": (None, nan, 1.0), "rms": (1.0, nan, nan), "ratios": (0.0, 9.0, nan)}),
    ("cut off", {"norms": (None, 0.0, 1.0), "zeros": (0.0, 1.0, 0.0)}),
]
for name, numbers in cases:
    check.equal(diagnose(report(**numbers)), name, f"a report with {numbers or 'nothing unusual'}")
### END HIDDEN TESTS


# %% alternative="diagnose"
def diagnose(report):
    norms = [*report["norms"].values()]
    rms = [record["rms"] for record in report["records"]]
    if any(norm is None for norm in norms):
        return "cut off"
    signs = {
        "exploding": any(n != n or abs(n) == float("inf") for n in rms + norms) or rms[-1] / 50 > rms[0],
        "dead": max(record["zeros"] for record in report["records"]) > 0.95,
        "vanishing": norms[-1] > 100 * norms[0],
        "step too large": max((r for r in report["ratios"].values() if r is not None), default=0) > 0.1,
    }
    print(signs)
    for name in ("dead", "exploding", "vanishing", "step too large"):
        if signs[name]:
            return name
    return "healthy"


# %% mistakes="diagnose"
{
    "vanishing gradients are named first, which a dead layer causes as well": (
        "    if None in norms:\n",
        '    if None not in norms and norms[0] < 0.01 * norms[-1]:\n        return "vanishing"\n    if None in norms:\n',
    ),
    "large steps are named first, which exploding outputs cause as well": (
        "    sizes = [",
        '    if any(r is not None and r > 0.1 for r in report["ratios"].values()):\n'
        '        return "step too large"\n    sizes = [',
    ),
    "missing gradients are taken for zeros": (
        '    if None in norms:\n        return "cut off"\n',
        "    norms = [norm or 0.0 for norm in norms]\n",
    ),
    "groups without a gradient are left out": (
        '    if None in norms:\n        return "cut off"\n',
        "    norms = [norm for norm in norms if norm is not None]\n",
    ),
    "a gradient of zero is taken for a missing one": ("if None in norms:", "if not all(norms):"),
    "NaN is overlooked, since every comparison with it is false": (
        " or not all(math.isfinite(number) for number in sizes + norms)",
        "",
    ),
    "only the outputs are searched for NaN, and not the gradients": ("in sizes + norms)", "in sizes)"),
    "only the gradients are searched for NaN, and not the outputs": ("in sizes + norms)", "in norms)"),
    "the first and the last output are taken the wrong way round": (
        "sizes[-1] > 50 * sizes[0]",
        "sizes[0] > 50 * sizes[-1]",
    ),
    "the largest output is compared with the first, and not the last": ("sizes[-1] > 50", "max(sizes) > 50"),
    "the outputs are judged by themselves, and not by how much they grow": (
        "sizes[-1] > 50 * sizes[0]",
        "sizes[-1] > 50",
    ),
    "the first and the last norm are taken the wrong way round": (
        "norms[0] < 0.01 * norms[-1]",
        "norms[-1] < 0.01 * norms[0]",
    ),
    "the smallest norm is compared with the largest, wherever they are": (
        "norms[0] < 0.01 * norms[-1]",
        "min(norms) < 0.01 * max(norms)",
    ),
    "a small gradient counts as vanishing, however small the others are": (
        "norms[0] < 0.01 * norms[-1]",
        "norms[0] < 0.01",
    ),
    "the zeros are averaged over the layers, so one dead layer among many is not seen": (
        'any(record["zeros"] > 0.95 for record in records)',
        'sum(record["zeros"] for record in records) / len(records) > 0.95',
    ),
    "half of the outputs being zero counts as dead, which a healthy ReLU reaches": (
        'record["zeros"] > 0.95',
        'record["zeros"] > 0.4',
    ),
    "the ratios are averaged, so one large step among many is not seen": (
        'any(ratio is not None and ratio > 0.1 for ratio in report["ratios"].values())',
        'sum(r or 0.0 for r in report["ratios"].values()) / max(len(report["ratios"]), 1) > 0.1',
    ),
    "only the last matrix is looked at": ('report["ratios"].values())', 'list(report["ratios"].values())[-1:])'),
    "small steps are taken for the disease": ("ratio > 0.1", "ratio < 0.1"),
}

# %% [markdown]
# ## Look at it
#
# The model is the GPT of Lab 3.3, four blocks deep, and the text is tiny Shakespeare. It is trained for 30 steps three
# times: as it should be, with a learning rate that is much too large, and with blocks that somebody has detached. Your
# instruments are read at every step. The dotted line in the second figure is $\ln V$, the loss of knowing nothing.

# %%
import plotly.graph_objects as go

from coursekit import carry, data, plots

torch.set_num_threads(1)
GPT, GPTConfig = carry("ch03/lab03", "GPT"), carry("ch03/lab03", "GPTConfig")
text = data.tiny_shakespeare()[:200_000]
letters = sorted(set(text))
number = {letter: i for i, letter in enumerate(letters)}
ids = torch.tensor([number[letter] for letter in text])
settings = GPTConfig(vocab_size=len(letters), context=32, d_model=64, n_layers=4, n_heads=4, d_ff=256)


def run(lr, detach_before=None, steps=30):
    model, losses, history, ratios, sizes = GPT(settings), [], [], [], []
    if detach_before is not None:
        model.blocks[detach_before].register_forward_pre_hook(lambda module, inputs: (inputs[0].detach(),))
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr)
    draw = torch.Generator().manual_seed(0)
    watch = Watch(model)
    for _ in range(steps):
        starts = torch.randint(len(ids) - 33, (12,), generator=draw)
        pieces = ids[starts[:, None] + torch.arange(33)]
        logits = model(pieces[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), pieces[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        losses.append(loss.item())
        history.append(gradient_norms(model, depth=2))
        sizes.append(max(record["rms"] for record in watch.records()))
        ratios.append(update_ratios(model, optimiser))
    watch.remove()
    return losses, history, ratios, sizes


runs = {"learning rate 0.002": run(2e-3), "learning rate 0.3": run(0.3), "blocks 0 and 1 cut off": run(2e-3, 2)}
for name, (losses, history, ratios, sizes) in runs.items():
    last = {group: "none" if norm is None else f"{norm:.2g}" for group, norm in history[-1].items()}
    largest = [max(ratio for ratio in step.values() if ratio is not None) for step in (ratios[0], ratios[-1])]
    print(
        f"{name}: loss {losses[0]:.2f} -> {losses[-1]:.2f}, largest update ratio {largest[0]:.2g} -> {largest[1]:.2g}"
    )
    print("   gradient norms at the end:", last)
    print(f"   largest rms of an output {sizes[0]:.2g} -> {sizes[-1]:.2g}")

figure = go.Figure(gradient_figure(runs["learning rate 0.002"][1]))
figure.update_layout(height=420, legend={"orientation": "h", "y": -0.25}, yaxis={"exponentformat": "power"})
figure.add_annotation(text="learning rate 0.002", x=0.5, y=1.08, xref="paper", yref="paper", showarrow=False)
figure.show()

losses = go.Figure()
for name, (values, *_) in runs.items():
    losses.add_scatter(y=values, name=name, hovertemplate="step %{x}: %{y:.2f}")
losses.add_hline(y=math.log(len(letters)), line={"color": plots.GREY, "dash": "dot"})
losses.update_xaxes(title_text="training step")
losses.update_yaxes(title_text="loss (nats)", range=[2, 8])
losses.update_layout(height=360, legend={"orientation": "h", "y": -0.25})
losses.show()

# %% [markdown]
# Look at the first and the third loss. They are as good as equal, although half of the third model gets no gradient at
# all. Thirty steps are few, and what is learnt first, the letters' frequencies and a little of what follows what, needs
# hardly any depth. From the loss you would
# not know. From one line of norms you do: position embeddings and two blocks say "none". Why has the token embedding a
# gradient even so?
#
# Then look at the update ratios of the second model: enormous at the first step, harmless at the last. The rule of
# `diagnose` for large steps would speak at the first and be silent at the last. What has happened in between?
# And the first run begins with a ratio that your rule calls too large. Is it ill?
#
# <details><summary>An answer</summary>The token embedding is also the head. That use lies above the cut, and its gradient
# is the part that arrives. As to the ratios: Adam's first step moves every entry by the learning rate, and the smallest
# matrices of GPT-2's initialisation have a standard deviation of 0.02 / sqrt(8) = 0.007. So the ratio at the first step is
# 0.002 / 0.007 = 0.28 in one model and 0.3 / 0.007 = 42 in the other. One such step replaces the first weights by numbers
# 42 times as large, and next to those all later steps look small. The disease was there for one step. What it
# did is still there: look at the largest output, which has grown by a factor of thousands. An examination at the end comes too late, so record from the start. The first run is not ill, but it would
# be better off with a warm-up, which makes the first steps small: see <em>Learning-rate schedules</em> in this
# chapter.</details>
#
# ## Common mistakes
#
# - **A mean of norms.** It depends on how many tensors a layer is cut into, and no longer on the layer alone.
# - **None printed as zero.** Zero is a gradient that arrived and is zero. None means that none arrived: a frozen
#   parameter, a `detach()`, a layer that never ran. The causes have nothing in common.
# - **Norms read at the wrong moment.** After clipping they show the limit and not the gradient; after `zero_grad` they
#   show nothing; without `zero_grad` they show the sum of all steps so far. Read between `backward` and clipping.
# - **Squares in float32.** A gradient of 1e-25 squares to zero. It has vanished in your instrument, and not in the model.
# - **A snapshot that is no copy.** `dict(model.named_parameters())` and `state_dict()` hold the very tensors that the
#   optimiser changes. All ratios are zero.
# - **A hook left behind.** It costs time in every pass, and if it appends to a list, memory too. If the list holds
#   tensors that belong to a graph, it keeps the graph of every step alive.
# - **A hook that returns something.** What it returns replaces the output or the gradient. A lambda returns its value,
#   whether you think of it or not.
# - **Layers in the order of their making.** A dictionary of modules is in the order of `__init__`. A plot over it goes up
#   and down for no reason.
# - **Biases among the ratios.** A bias starts at zero, so its ratio is huge or not defined, and hides the matrices.
#
# ## Going further
#
# - **Second moments.** Adam divides each gradient by the root of its average square. Record the norm of what it makes of
#   the gradients, layer by layer, and compare it with the norms of the gradients. Which differences between layers does
#   it remove? (Diederik P. Kingma, Jimmy Ba, Adam: A Method for Stochastic Optimization, 2015.)
# - **How noisy is a gradient?** Compute it on two batches. The angle between the two says how much of it is signal. How
#   does it change while a model trains, and with the size of the batch? (Sam McCandlish, Jared Kaplan, Dario Amodei, An
#   Empirical Model of Large-Batch Training, 2018.)
