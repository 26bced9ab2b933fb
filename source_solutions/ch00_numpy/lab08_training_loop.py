# ---
# title: The training loop
# lab: ch00/lab08
# minutes: 150
# difficulty: 4
# hardware: cpu
# needs: [ch00/lab01, ch00/lab02, ch00/lab06, ch00/lab07]
# builds: [minibatches, SGD, clip_gradients, Adam, AdamW, save_checkpoint, load_checkpoint, train]
# ---

# %% [markdown]
# # Lab 0.8 · The training loop
#
# ## The idea
#
# Your model has a backward pass. For every parameter you know which way the loss rises. What is left is to go the other way,
# a little, many times over, and not to lose the result when somebody presses Ctrl-C.
#
# How far to go is the question. The plainest answer is a fixed share of the gradient: $p \leftarrow p - \eta\, g$ with a *learning
# rate* $\eta$. Let the loss be $\tfrac12(100\,a^2 + b^2)$ and start at $a = b = 1$, where the gradient is $(100, 1)$. With $\eta = 0.01$ the first
# step leads to $a = 1 - 0.01 \cdot 100 = 0$, which is perfect, and to $b = 0.99$, which is hardly a move. With $\eta = 0.03$ it is
# $a = 1 - 3 = -2$, then $a = 4$, then $-8$: the steep direction flies apart while the flat one still crawls. One rate for all has
# to suit the steepest, and everybody else waits.
#
# There are two remedies. *Momentum* adds up gradients: what points the same way time after time gathers speed. *Adam* divides each
# number's step by the typical size of its own gradient. In the example both numbers then move by about $\eta$ in the first
# step, though their gradients differ by a factor of 100.
#
# The gradient is not even exact. It is computed on a handful of examples, a *mini-batch*, since a hundred rough steps lead further than one
# exact step for the same price. The page [The training loop](../../book/ch00_numpy/training_loop.md) shows the paths and measures the noise.
#
# All of it is short to write, and nearly all ways to get it wrong still train, a bit worse than they could. So your code is not judged by its loss. Your
# optimisers are compared with PyTorch's to twelve digits. And your loop has to do something that no careless loop can: a run that was stopped at
# any moment and resumed ends with the same weights as one that was not. Not similar. Equal to the bit.
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `arrays` | each `(N, ...)` | N examples: inputs first, targets last; row n of each belongs to example n |
# | batch | each `(batch_size, ...)` | the same rows of all arrays; the last of an epoch may have fewer |
# | epoch | | once through all examples: `ceil(N / batch_size)` steps |
# | `parameters` | dict | name → `Parameter`, out of `model.parameters()`: its `value` and its `grad` are arrays of one shape. Change them in place, or put new ones of the same shape and dtype there |
# | `optimizer.state` | dict | name → array: all that an optimiser remembers |
# | state of a run | | weights, optimiser's state, step, history, random generator |
#
# The settings of a run, and what a run changes, have a class each. The learning rate of a step is given, too: it rises in a straight line, then
# falls along half a cosine. You write that formula in [Lab 4.3](../ch04_training/lab03_training_loop.ipynb).

# %% given
import numpy as np

from coursekit import carry

Layer = carry("ch00/lab01", "Layer")
Parameter = carry("ch00/lab01", "Parameter")

# %% given side="learner"
import contextlib
import copy
import io
import itertools
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tqdm import tqdm

Embedding = carry("ch00/lab01", "Embedding")
Linear = carry("ch00/lab02", "Linear")
CrossEntropy = carry("ch00/lab06", "CrossEntropy")


class TinyModel(Layer):
    """A model of 259 numbers, for checks: it guesses a class at each place from the token there.

    Attributes:
        calls: the ids of every forward pass so far.
        interrupt_at: the number of the call in which somebody presses Ctrl-C; None for never.
    """

    def __init__(self, seed: int = 0, interrupt_at: int | None = None):
        rng = np.random.default_rng(seed)
        self.embedding, self.inner, self.outer = Embedding(11, 8, rng), Linear(8, 8, rng), Linear(8, 11, rng)
        self.embedding.weight.value *= 50
        self.calls, self.interrupt_at = [], interrupt_at

    def forward(self, ids: np.ndarray, gain: np.ndarray | None = None) -> np.ndarray:
        """ids (B, T), and how much each token counts (B, T) -> logits (B, T, 11)."""
        self.calls.append(np.array(ids))
        if len(self.calls) - 1 == self.interrupt_at:
            raise KeyboardInterrupt
        x = self.embedding(ids)
        self.gain = np.ones((*ids.shape, 1), x.dtype) if gain is None else gain[..., None].astype(x.dtype)
        self.y = np.tanh(self.inner(x * self.gain))  # (B, T, 8)
        return self.outer(self.y)

    def backward(self, grad: np.ndarray) -> None:
        grad = self.outer.backward(grad) * (1 - self.y**2)
        self.embedding.backward(self.inner.backward(grad) * self.gain)


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run.

    Attributes:
        steps: how many times the optimiser steps.
        batch_size: examples of a step.
        lr, min_lr, warmup: the largest and the last learning rate, and the number of steps that lead up to the largest.
        clip: the largest norm that the gradient may have.
        eval_every, save_every: after how many steps the run is measured, and a checkpoint written.
        seed: of the order of the examples.
    """

    steps: int
    batch_size: int
    lr: float = 1e-3
    min_lr: float = 1e-4
    warmup: int = 0
    clip: float = 1.0
    eval_every: int = 100
    save_every: int = 100
    seed: int = 0


@dataclass
class TrainState:
    """All that a run changes as it goes.

    Attributes:
        model: what is trained.
        optimizer: over the model's parameters.
        rng: shuffles the examples.
        step: how many steps are done.
        history: a dict of numbers for each of them.
    """

    model: Layer
    optimizer: Any
    rng: np.random.Generator
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def lr_at(step: int, config: TrainConfig) -> float:
    """The learning rate of one step, counted from 0: a linear warm-up, then half a cosine down to min_lr."""
    if step < config.warmup:
        return config.lr * (step + 1) / (config.warmup + 1)
    way = max(config.steps - 1 - config.warmup, 1)
    done = min((step - config.warmup) / way, 1)
    return config.min_lr + (config.lr - config.min_lr) * (math.cos(math.pi * done) + 1) / 2


def progress(state: TrainState, last: int) -> Iterator[int]:
    """The numbers of the steps that are still to do, with a bar: steps, time left and the last loss. Silent when graded,
    and in runs of a few steps."""
    quiet = bool(os.environ.get("COURSE_GRADING") or os.environ.get("NBGRADER_EXECUTION"))
    steps = range(state.step, last)
    with tqdm(
        steps, initial=state.step, total=last, file=sys.stdout, disable=quiet or last < 20, mininterval=0.5, ncols=80
    ) as bar:
        for step in bar:
            yield step
            if state.history and not quiet:
                bar.set_postfix_str(f"loss {state.history[-1]['loss']:.3f}", refresh=False)


# %% [markdown]
# ## A picture
#
# Stopping and going on is harder than it looks. Here is nothing but the order of the examples. There are 60 of them, in batches of 6, so an
# epoch has 10 steps, and the order is shuffled anew for each. Three epochs are run. The run is killed in the middle of the second one, after step 15, and
# goes on. How often was each example seen?

# %%
from plotly.subplots import make_subplots

from coursekit import plots


def seen(resume):
    """How often each example is seen in steps 1 to 30, if the run is killed after step 15; see ``ways``."""
    rng, counts = np.random.default_rng(0), np.zeros(60, dtype=int)
    for step in range(30):
        if step % 10 == 0:
            before = rng.bit_generator.state
            order = rng.permutation(60)
        if step == 15 and resume == "as saved":  # the generator as it is in the middle of the epoch
            order = rng.permutation(60)
        if step == 15 and resume == "from the seed":
            rng = np.random.default_rng(0)
            order = rng.permutation(60)
        if step == 15 and resume == "right":
            rng.bit_generator.state = before
            order = rng.permutation(60)
        counts[order[6 * (step % 10) :][:6]] += 1
    return counts


ways = {
    "never killed": "a run that goes through",
    "as saved": "resumed with the generator as it was after step 15",
    "from the seed": "resumed with a generator seeded anew",
    "right": "resumed with the generator as it was before the epoch",
}
figure = make_subplots(rows=4, cols=1, shared_xaxes=True, vertical_spacing=0.09, subplot_titles=list(ways.values()))
for row, way in enumerate(ways, start=1):
    counts = seen(way)
    print(f"{ways[way]:55} seen 3 times: {np.sum(counts == 3)} of 60, range {counts.min()} to {counts.max()}")
    figure.add_bar(
        x=np.arange(60),
        y=counts,
        marker_color=[plots.COLOURS[0] if count == 3 else plots.COLOURS[1] for count in counts],
        hovertemplate="example %{x}: %{y} times<extra></extra>",
        row=row,
        col=1,
    )
figure.update_yaxes(range=[0, 5], dtick=1, title_text="")
figure.update_yaxes(title_text="times seen", row=2, col=1)
figure.update_xaxes(title_text="example", row=4, col=1)
figure.update_layout(height=460, showlegend=False, bargap=0.2)
figure.update_annotations(font_size=12)
figure.show()

# %% [markdown]
# The second run did save the state of its generator. But it saved it at the wrong moment: after the shuffle of the epoch that it was in. The other half
# of that order is lost, and a new shuffle repeats some examples and leaves out others. Its loss would not tell you. The last
# run keeps the state from *before* the shuffle. It shuffles once more, to the same order, and skips what is done.
#
# Remember it for exercise 5.


# %% given side="learner"
def epochs(arrays: tuple[np.ndarray, ...], batch_size: int, seed: int, n: int = 1) -> dict[str, Any]:
    """For the checks of exercise 1: the batches of n epochs out of one generator, and what else has changed.

    "drawn early" says whether the generator was used before the first batch was asked for.
    """
    rng, before, given = np.random.default_rng(seed), np.random.get_state()[1].copy(), [np.array(a) for a in arrays]
    fresh, found, early = rng.bit_generator.state, [], False
    for number in range(n):
        stream = minibatches(tuple(arrays), batch_size, rng)
        early = early or (number == 0 and rng.bit_generator.state != fresh)
        found.append([[np.array(part) for part in batch] for batch in stream])
    return {
        "epochs": found,
        "drawn early": early,
        "arrays are as before": all(map(np.array_equal, arrays, given)),
        "np.random is as before": bool(np.array_equal(before, np.random.get_state()[1])),
    }


# %% [markdown]
# ## Exercise 1 · `minibatches`
#
# One epoch: all examples, in a new order, a handful at a time. What belongs together has to stay together. Draw *one* order
# and use it for all arrays.
#
# *Difficulty 2 of 5 · 10 minutes · 2 points*


# %% exercise="minibatches" difficulty=2 minutes=10 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
def minibatches(
    arrays: tuple[np.ndarray, ...], batch_size: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, ...]]:
    """The batches of one epoch: every example exactly once, in a random order.

    Args:
        arrays: one or more arrays with the same length N, at least 1. They do not change.
        batch_size: how many examples a batch holds. If N is no multiple of it, the last batch holds the rest.
        rng: the order comes from it, and from no other source of chance. It is drawn once, when the first batch is asked
            for, and not before: a generator in the same state gives the same epoch, and going on with it another one.

    Yields:
        Tuples with a batch of each array, in the order of ``arrays``, with the dtype of each. Rows that were at the same place
        in all arrays are at the same place in all parts of a batch. All orders of the N examples are equally probable.

    Raises:
        ValueError: if the arrays differ in length or batch_size is less than 1; at the latest when the first batch is asked
            for.
    """
    ### BEGIN SOLUTION
    N = len(arrays[0])
    if batch_size < 1 or any(len(array) != N for array in arrays):
        raise ValueError(f"batches of {batch_size} out of arrays of lengths {[len(array) for array in arrays]}")
    order = rng.permutation(N)
    for start in range(0, N, batch_size):
        rows = order[start : start + batch_size]
        yield tuple(array[rows] for array in arrays)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>A function with <code>yield</code> in a loop is a stream: its first line runs when the first item is asked for. You
# need the numbers 0 to N - 1 in a random order, and then pieces of that.</details>
# <details><summary>A bigger nudge</summary><code>rng.permutation(N)</code> is the order. A slice that reaches past the end is simply shorter, so the
# last batch needs no case of its own. An array indexed with an array of row numbers gives those rows, as a copy.</details>

# %% test="minibatches" points=2
from coursekit import check

import numpy as np

inputs, targets = np.arange(14).reshape(7, 2), np.arange(7) * 10
found = epochs((inputs, targets), 3, seed=0)
batches = found["epochs"][0]
check.equal([len(part[0]) for part in batches], [3, 3, 1], "7 examples in batches of 3: how many each batch has")
check.equal(
    sorted(int(t) for part in batches for t in part[1]),
    [0, 10, 20, 30, 40, 50, 60],
    "7 examples: the targets of an epoch, sorted",
    hint="Every example once. What happens to the last, smaller batch?",
)
check.close(
    np.concatenate([part[0][:, 0] for part in batches]) * 5,
    np.concatenate([part[1] for part in batches]),
    "inputs and targets stay together: here each target is 5 times the first input",
    hint="Draw one order and use it for all arrays.",
)
### BEGIN HIDDEN TESTS
for N, batch_size, n_arrays in ((1, 1, 1), (1, 5, 2), (6, 1, 2), (63, 8, 3), (64, 8, 1), (9, 100, 2)):
    case = f"{N} examples, {n_arrays} arrays, batches of {batch_size}"
    number = np.arange(N)
    arrays = (number, np.stack([number, -number], axis=1).astype("float32"), (number % 7).astype("int8"))[:n_arrays]
    found = epochs(arrays, batch_size, check.seed(N), n=3)
    for epoch in found["epochs"]:
        rows = np.concatenate([np.asarray(part[0]) for part in epoch])
        sizes = [len(part[0]) for part in epoch]
        full, rest = divmod(N, batch_size)
        check.equal(sizes, [batch_size] * full + [rest] * (rest > 0), f"{case}: how many each batch has")
        check.equal(sorted(rows.tolist()), list(range(N)), f"{case}: the examples of an epoch, sorted")
        for place in range(n_arrays):
            whole = np.concatenate([np.asarray(part[place]) for part in epoch])
            check.equal(whole, arrays[place][rows], f"{case}: array {place + 1} is in the order of the first")
            check.equal(str(whole.dtype), str(arrays[place].dtype), f"{case}: the dtype of array {place + 1}")
    for fact in ("arrays are as before", "np.random is as before"):
        check.that(found[fact], f"{case}: {fact}")
    check.that(not found["drawn early"], f"{case}: nothing is drawn before the first batch is asked for")
arrays = (np.arange(40),)
orders = [
    np.concatenate([part[0] for part in epoch]).tolist()
    for seed in (check.seed(1), check.seed(1), check.seed(1) + 1)
    for epoch in epochs(arrays, 7, seed, n=2)["epochs"]
]
check.equal(orders[2:4], orders[:2], "a generator in the same state gives the same two epochs")
check.that(
    orders[0] != orders[1],
    "the second epoch has another order than the first",
    why=f"both begin with {orders[0][:6]}",
)
check.that(orders[0] != orders[4], "another seed gives another order")
# 600 epochs of 3 examples: each of the 6 orders comes up 100 times, give or take 9 (two times in three).
counts = {}
for epoch in epochs((np.arange(3),), 3, check.seed(2), n=600)["epochs"]:
    order = tuple(epoch[0][0].tolist())
    counts[order] = counts.get(order, 0) + 1
check.equal(len(counts), 6, "600 epochs of 3 examples: how many different orders there are")
check.that(
    min(counts.values()) > 45 and max(counts.values()) < 155,
    "600 epochs of 3 examples: each of the 6 orders comes up about 100 times",
    why=f"the rarest comes up {min(counts.values())} times, the commonest {max(counts.values())} times",
)
for what, bad, size in (
    ("lengths 5 and 4", (np.arange(5), np.arange(4)), 2),
    ("lengths 4 and 5", (np.arange(4), np.arange(5)), 2),
    ("batches of 0", (np.arange(5),), 0),
    ("batches of -1", (np.arange(5),), -1),
):
    check.raises(ValueError, lambda bad=bad, size=size: epochs(bad, size, 0), what)
### END HIDDEN TESTS


# %% alternative="minibatches"
def minibatches(arrays, batch_size, rng):
    # Sorted random numbers, and a while loop.
    if len({len(array) for array in arrays}) > 1 or not batch_size > 0:
        raise ValueError("lengths")
    waiting = list(np.argsort(rng.random(len(arrays[0]))))
    while waiting:
        rows, waiting = waiting[:batch_size], waiting[batch_size:]
        yield tuple(np.take(array, rows, axis=0) for array in arrays)


# %% mistakes="minibatches"
{
    "each array gets an order of its own, so inputs meet the targets of others": [
        ("order = rng.permutation(N)", "orders = [rng.permutation(N) for _ in arrays]"),
        ("rows = order[start : start + batch_size]", "rows = [order[start : start + batch_size] for order in orders]"),
        ("tuple(array[rows] for array in arrays)", "tuple(array[own] for array, own in zip(arrays, rows))"),
    ],
    "the examples are drawn with replacement: some come twice, others never": (
        "order = rng.permutation(N)",
        "order = rng.integers(N, size=N)",
    ),
    "every batch is drawn by itself from all examples, so an epoch does not see each of them once": (
        "rows = order[start : start + batch_size]",
        "rows = rng.permutation(N)[: min(batch_size, N - start)]",
    ),
    "the last, smaller batch is left out": (
        "range(0, N, batch_size)",
        "range(0, N - batch_size + 1, batch_size)",
    ),
    "the last batch is filled up with examples from the start of the epoch": (
        "rows = order[start : start + batch_size]",
        "rows = np.resize(order, N + batch_size)[start : start + batch_size]",
    ),
    "the examples come in the order in which they lie": ("order = rng.permutation(N)", "order = np.arange(N)"),
    "the batches come in a random order, but neighbours stay together in them": (
        "order = rng.permutation(N)",
        "starts = rng.permutation(range(0, N, batch_size)); "
        "order = np.concatenate([np.arange(s, min(s + batch_size, N)) for s in sorted(starts, key=lambda s: s + batch_size > N)])",
    ),
    "the order comes from np.random and not from rng": (
        "order = rng.permutation(N)",
        "order = np.random.permutation(N)",
    ),
    "every epoch has the same order: a new generator is seeded each time": (
        "order = rng.permutation(N)",
        "order = np.random.default_rng(0).permutation(N)",
    ),
    "the arrays of the caller are shuffled in place": (
        "    order = rng.permutation(N)\n",
        "    order = rng.permutation(N)\n    for array in arrays:\n        array[:] = array[order]\n"
        "    order = np.arange(N)\n",
    ),
    "the order is a cyclic shift that begins at a random place": (
        "order = rng.permutation(N)",
        "order = (np.arange(N) + rng.integers(N)) % N",
    ),
    "a batch has one example too few": (
        "rows = order[start : start + batch_size]",
        "rows = order[start : start + max(batch_size - 1, 1)]",
    ),
    "arrays of different lengths are not refused": (
        "if batch_size < 1 or any(len(array) != N for array in arrays):",
        "N = min(len(array) for array in arrays)\n    if batch_size < 1:",
    ),
    "a batch size below 1 is not refused": ("batch_size < 1 or any", "any"),
    "the order is drawn when minibatches is called, before a batch is asked for": [
        (
            "    for start in range(0, N, batch_size):\n",
            "    def stream():\n      for start in range(0, N, batch_size):\n",
        ),
        (
            "        yield tuple(array[rows] for array in arrays)\n",
            "        yield tuple(array[rows] for array in arrays)\n    return stream()\n",
        ),
    ],
}


# %% given side="learner"
def descend(
    kind: str,
    start: dict[str, np.ndarray],
    gradients: list[dict[str, np.ndarray]],
    rates: list[float] | None = None,
    restart: int | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """For the checks of exercises 2 and 3: where the steps of an optimiser lead, and what it leaves behind.

    Args:
        kind: "SGD", "Adam" or "AdamW".
        start: first values of the parameters.
        gradients: for each step the gradient of each parameter.
        rates: the learning rate of each step, written to the optimiser's ``lr``.
        restart: before this step a new optimiser takes over, with copies of the arrays in the old one's ``state``.

    Returns:
        "path": all numbers of all parameters, a row for each step. For the rest see the keys.
    """

    classes = {
        "SGD": lambda *args, **options: SGD(*args, **options),  # Adam is not there before exercise 3
        "Adam": lambda *args, **options: Adam(*args, **options),
        "AdamW": lambda *args, **options: AdamW(*args, **options),
    }

    def fresh(values):
        parameters = {name: Parameter(value) for name, value in values.items()}
        for name, parameter in parameters.items():
            parameter.value = np.array(values[name])
        return parameters, classes[kind](parameters, **settings)

    (parameters, optimizer), path, kept = fresh(start), [], True
    names = [sorted(optimizer.state)]
    for step, wanted in enumerate(gradients):
        if step == restart:
            remembered = {name: np.array(value) for name, value in optimizer.state.items()}
            parameters, optimizer = fresh({name: parameter.value for name, parameter in parameters.items()})
            for name, value in remembered.items():
                optimizer.state[name] = value
        if rates is not None:
            optimizer.lr = rates[step]
        for name, parameter in parameters.items():
            parameter.grad = np.array(wanted[name])
        optimizer.step()
        kept = kept and all(np.array_equal(parameters[name].grad, wanted[name]) for name in parameters)
        path.append(np.concatenate([parameter.value.ravel() for parameter in parameters.values()]))
    return {
        "path": np.stack(path),
        "dtypes": sorted({str(parameter.value.dtype) for parameter in parameters.values()}),
        "gradients are as before": kept,
        "names in state at first": names[0],
        "names in state later": sorted(optimizer.state),
        "state holds arrays": all(isinstance(value, np.ndarray | np.generic) for value in optimizer.state.values()),
    }


def clipped(gradients: list[np.ndarray], max_norm: float) -> dict[str, Any]:
    """For the checks of exercise 2: what `clip_gradients` returns ("norm", or "error") and leaves behind ("after")."""
    parameters = {str(n): Parameter(gradient) for n, gradient in enumerate(gradients)}
    for parameter, gradient in zip(parameters.values(), gradients, strict=True):
        parameter.grad = np.array(gradient)
    norm, error = None, ""
    try:
        norm = clip_gradients(parameters, max_norm)
    except FloatingPointError as raised:
        error = type(raised).__name__
    return {"norm": norm, "error": error, "after": [np.array(parameter.grad) for parameter in parameters.values()]}


# %% [markdown]
# ## Exercise 2 · `SGD` and `clip_gradients`
#
# Stochastic gradient descent, with the two things that are usually built into it. For every parameter $p$ with gradient $g$:
#
# $$ g \leftarrow g + \lambda p \qquad u \leftarrow \mu u + g \qquad p \leftarrow p - \eta\, u $$
#
# In the code $\eta$ is `lr`, $\mu$ is `momentum`, $\lambda$ is `weight_decay`, and the *velocity* $u$ starts at zero. With $\mu = 0.9$ and the same
# gradient time after time $u$ grows towards $g\,(1 + 0.9 + 0.81 + \dots) = 10\,g$. Where $g$ keeps changing its sign, it stays small. The weight decay is
# the gradient of $\tfrac{\lambda}{2} p^2$, a penalty for large numbers.
#
# All that the optimiser remembers from one step to the next, here the velocities, has to be in `self.state`. That is what a checkpoint saves.
#
# A step of SGD is in proportion to the gradient. One bad batch with an enormous gradient throws the model far away, and all that was learned is gone.
# `clip_gradients` is the belt: it measures the length of the whole gradient, all parameters together, and shortens it if it is too long. The direction stays.
#
# *Difficulty 2 of 5 · 20 minutes · 4 points*


# %% exercise="SGD" difficulty=2 minutes=20 forbid=["torch.optim", "clip_grad_norm_", "torch.tensor", "torch.as_tensor", "torch.from_numpy"]
class SGD:
    """Gradient descent with momentum and weight decay, by the formulas above.

    Args:
        parameters: name -> Parameter, such as ``model.parameters()``.
        lr: the learning rate.
        momentum: the share of the velocity that is left after a step; 0 is plain gradient descent.
        weight_decay: how much of the parameter is added to its gradient.

    Attributes:
        lr: whoever writes to it changes the next step.
        state: dict from names to arrays: everything that `step` remembers, in the parameters' dtypes. All names are there
            from the start. Whoever puts another array under a name changes what is remembered; a new optimiser with
            copies of the arrays goes on where the old one stopped.
    """

    def __init__(self, parameters: dict[str, Parameter], lr: float, momentum: float = 0.0, weight_decay: float = 0.0):
        ### BEGIN SOLUTION
        self.parameters, self.lr = parameters, lr
        self.momentum, self.weight_decay = momentum, weight_decay
        self.state = {name: np.zeros_like(p.value) for name, p in parameters.items()}  # the velocities
        ### END SOLUTION

    def step(self) -> None:
        """Change the ``value`` of every parameter. Gradients stay as they are, and float32 parameters stay float32."""
        ### BEGIN SOLUTION
        for name, p in self.parameters.items():
            grad = p.grad + self.weight_decay * p.value
            velocity = self.momentum * self.state[name] + grad
            p.value = p.value - self.lr * velocity
            self.state[name] = velocity
        ### END SOLUTION


def clip_gradients(parameters: dict[str, Parameter], max_norm: float) -> float:
    """Scale all gradients down, so that together they are no longer than max_norm.

    Args:
        parameters: name -> Parameter, such as ``model.parameters()``; their ``grad`` changes. There may be none.
        max_norm: the largest length allowed, positive.

    Returns:
        The length *before* clipping, a Python float: the root of the sum of the squares of all numbers in all gradients, summed in
        float64 whatever the dtype. If it is no more than max_norm, all gradients stay as they are. Otherwise all are
        multiplied by max_norm / length. Their dtypes stay.

    Raises:
        FloatingPointError: if the length is infinite or not a number; then the gradients stay as they are.

    Source: Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, 2013, algorithm 1.
    """
    ### BEGIN SOLUTION
    norm = math.sqrt(sum(float(np.sum(p.grad.astype(np.float64) ** 2)) for p in parameters.values()))
    if not math.isfinite(norm):
        raise FloatingPointError(f"the gradient has length {norm}")
    if norm > max_norm:
        for p in parameters.values():
            p.grad = p.grad * (max_norm / norm)
    return norm
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Each formula is one line, in the order in which they stand. Loop over <code>parameters.items()</code>, and keep the velocity
# of each parameter in <code>state</code> under the parameter's name. For clipping: the length of all gradients together comes from the sum of all
# their squares, and one factor goes to all of them.</details>
# <details><summary>A bigger nudge</summary><code>np.zeros_like(p.value)</code> is a velocity that has not moved. If your path differs from the expected one only with momentum, ask
# whether the velocity is stored before or after it is multiplied, and whether the learning rate is in it. In NumPy a float32 array times a
# <code>np.float64</code> number is float64, times a Python number it stays float32: <code>float(...)</code> helps.</details>

# %% test="SGD" points=2
from coursekit import check

import numpy as np

# Gradient 1 three times. Plain: 0.1 each time. With momentum 0.5 the velocities are 1, 1.5 and 1.75.
start, gradients = {"p": np.array([1.0])}, [{"p": np.array([1.0])}] * 3
found = descend("SGD", start, gradients, lr=0.1)["path"][:, 0]
check.close(found, np.array([0.9, 0.8, 0.7]), "gradient 1 three times, lr 0.1: 1 becomes 0.9, 0.8, 0.7")
found = descend("SGD", start, gradients, lr=0.1, momentum=0.5)["path"][:, 0]
check.close(found, np.array([0.9, 0.75, 0.575]), "the same with momentum 0.5: 0.9, 0.75, 0.575")
found = descend("SGD", start, gradients, lr=0.1, momentum=0.5, weight_decay=2.0)["path"][:, 0]
check.close(found, np.array([0.7, 0.31, -0.047]), "and with weight decay 2, which makes the first gradient 3")
found = descend("SGD", start, gradients, restart=2, lr=0.1, momentum=0.5)
check.close(
    found["path"][:, 0],
    np.array([0.9, 0.75, 0.575]),
    "momentum 0.5; before step 3 a new SGD takes over, with the arrays of the old one's state",
    hint="Everything that step remembers has to be in self.state, and step has to read it from there.",
)
### BEGIN HIDDEN TESTS
import torch


def by_torch(start, gradients, rates=None, **settings):
    twins = [torch.nn.Parameter(torch.tensor(value)) for value in start.values()]
    oracle, path = torch.optim.SGD(twins, **settings), []
    for step, wanted in enumerate(gradients):
        oracle.param_groups[0]["lr"] = settings["lr"] if rates is None else rates[step]
        for twin, gradient in zip(twins, wanted.values(), strict=True):
            twin.grad = torch.tensor(gradient)
        oracle.step()
        path.append(torch.cat([twin.detach().flatten() for twin in twins]).numpy())
    return np.stack(path)


draw = np.random.default_rng(check.seed(1))
shapes = {"blocks.0.weight": (3, 4), "bias": (5,), "one": (1,), "number": (), "filter": (2, 1, 3)}
start = {name: draw.normal(size=shape) for name, shape in shapes.items()}
gradients = [{name: draw.normal(size=shape) for name, shape in shapes.items()} for _ in range(30)]
rates = [0.2 * (1 + step % 7) / 7 for step in range(30)]
for settings in (
    {"lr": 0.1},
    {"lr": 0.03, "momentum": 0.9},
    {"lr": 0.03, "weight_decay": 0.7},
    {"lr": 0.2, "momentum": 0.5, "weight_decay": 0.3},
):
    for restart in (None, 1, 17):
        case = f"30 steps, {settings}" + (f", another SGD after {restart}" * (restart is not None))
        found = descend("SGD", start, gradients, rates, restart, **settings)
        want = by_torch(start, gradients, rates, **settings)
        check.close(found["path"], want, f"{case}, another rate each time: torch.optim.SGD", atol=1e-12, rtol=1e-12)
        check.that(found["gradients are as before"], f"{case}: the gradients are as before")
        check.equal(found["names in state later"], found["names in state at first"], f"{case}: the names in state")
        check.that(found["state holds arrays"], f"{case}: state holds arrays")
    narrow = {name: value.astype("float32") for name, value in start.items()}
    steps = [{name: value.astype("float32") for name, value in row.items()} for row in gradients]
    found = descend("SGD", narrow, steps, **settings)
    check.equal(found["dtypes"], ["float32"], f"{settings}: the dtypes of float32 parameters after 30 steps")
    check.close(found["path"], by_torch(narrow, steps, **settings), f"{settings}: in float32", atol=1e-4)
turned = {"p": start["blocks.0.weight"].T}, [{"p": row["blocks.0.weight"].T} for row in gradients]
found = descend("SGD", *turned, lr=0.1, momentum=0.8)["path"]
check.close(found, by_torch(*turned, lr=0.1, momentum=0.8), "arrays that are not contiguous", atol=1e-12, rtol=1e-12)
### END HIDDEN TESTS

# %% test="SGD" points=2
from coursekit import check

import numpy as np

# Two gradients of lengths 3 and 4: together they have length 5.
gradients = [np.array([1.8, 2.4]), np.array([0.0, 4.0])]
found = clipped(gradients, 2.0)
check.close(found["norm"], 5.0, "lengths 3 and 4: the whole gradient has length 5 before clipping")
check.close(np.stack(found["after"]), np.array([[0.72, 0.96], [0.0, 1.6]]), "clipped to 2: everything times 2/5")
check.close(np.stack(clipped(gradients, 10.0)["after"]), np.stack(gradients), "shorter than 10: nothing changes")
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(3))
for dtype in ("float64", "float32"):
    parts = [(1 + 9 * n) * draw.normal(size=shape) for n, shape in enumerate(((4, 3), (5,), (), (2, 3, 2)))]
    parts = [part.astype(dtype) for part in parts]
    parts[3] = parts[3].transpose(2, 1, 0)
    length = float(np.sqrt(sum((part.astype("float64") ** 2).sum() for part in parts)))
    for share in (0.01, 0.5, 0.999, 1.001, 100.0):
        twins = [torch.nn.Parameter(torch.zeros(part.shape, dtype=torch.float64)) for part in parts]
        for twin, part in zip(twins, parts, strict=True):
            twin.grad = torch.tensor(part.astype("float64"))
        want = float(torch.nn.utils.clip_grad_norm_(twins, share * length))
        found = clipped(parts, share * length)
        case = f"{dtype}, max_norm is {share:g} times the length"
        check.close(found["norm"] / length, want / length, f"{case}: the length before clipping", rtol=1e-6, atol=0.0)
        for part, twin in zip(found["after"], twins, strict=True):
            check.close(part, twin.grad.numpy(), f"{case}: torch.nn.utils.clip_grad_norm_", atol=1e-5)
            check.equal(str(part.dtype), dtype, f"{case}: the dtype of a gradient afterwards")
found = clipped([np.array([3.0, 4.0])], 5.0)
check.equal(found["after"][0], np.array([3.0, 4.0]), "exactly as long as max_norm: nothing changes")
check.equal(clipped([], 1.0)["norm"], 0.0, "no parameters at all: length 0")
check.equal(clipped([np.zeros((2, 3))], 1.0)["norm"], 0.0, "a gradient of zeros: length 0")
huge = np.array([3e25, -4e25], dtype="float32")
found = clipped([huge], 10.0)
check.equal(found["error"], "", "large float32 gradients, whose length is finite: no error")
check.close(found["norm"] / 1e25, 5.0, "float32 numbers whose squares are too large for float32: the length over 1e25")
check.close(found["after"][0], np.array([6.0, -8.0], "float32"), "and clipped to 10")
for bad in (float("inf"), -float("inf"), float("nan")):
    found = clipped([np.array([3.0, 4.0]), np.array([1.0, bad])], 1.0)
    check.equal(found["error"], "FloatingPointError", f"a gradient with {bad} in it: the error")
    check.equal(found["after"][0], np.array([3.0, 4.0]), f"a gradient with {bad} in it: the others stay as they are")
### END HIDDEN TESTS


# %% alternative="SGD"
class SGD:
    # In place, with the velocity negative and kept only where there is momentum; prints.
    def __init__(self, parameters, lr, momentum=0.0, weight_decay=0.0):
        self.p, self.lr, self.mu, self.decay = list(parameters.values()), lr, momentum, weight_decay
        self.state = {f"u{i}": np.zeros(p.value.shape, p.value.dtype) for i, p in enumerate(self.p) if momentum}
        print(len(self.p), "parameters")

    def step(self):
        for i, p in enumerate(self.p):
            change = -p.grad
            change -= self.decay * p.value
            if self.mu:
                self.state[f"u{i}"] = change = self.mu * self.state[f"u{i}"] + change
            p.value += self.lr * change


def clip_gradients(parameters, max_norm):
    everything = [p.grad.ravel().astype(float) for p in parameters.values()]
    norm = float(np.linalg.norm(np.concatenate([np.zeros(1), *everything])))
    if np.isnan(norm) or np.isinf(norm):
        raise FloatingPointError("length")
    factor = min(1.0, max_norm / (norm + 1e-300))
    for p in parameters.values():
        p.grad *= factor
    return norm


# %% mistakes="SGD"
{
    "the velocity is forgotten from step to step, so momentum does nothing": (
        "            self.state[name] = velocity\n",
        "",
    ),
    "the velocity has the factor 1 - momentum, as Adam's mean has": (
        "self.momentum * self.state[name] + grad",
        "self.momentum * self.state[name] + (1 - self.momentum) * grad",
    ),
    "the learning rate is inside the velocity, so old rates act on": [
        ("self.momentum * self.state[name] + grad", "self.momentum * self.state[name] + self.lr * grad"),
        ("p.value - self.lr * velocity", "p.value - velocity"),
    ],
    "the gradient is added once more to the velocity: Nesterov's momentum": (
        "p.value - self.lr * velocity",
        "p.value - self.lr * (grad + self.momentum * velocity)",
    ),
    "the step takes the velocity of the step before": (
        "p.value = p.value - self.lr * velocity",
        "p.value = p.value - self.lr * self.state[name]",
    ),
    "the weight decay does not go through the velocity: it is decoupled, as in AdamW": [
        ("grad = p.grad + self.weight_decay * p.value", "grad = p.grad"),
        ("p.value - self.lr * velocity", "p.value - self.lr * (velocity + self.weight_decay * p.value)"),
    ],
    "the weight decay is added to the gradient itself, which stays changed": (
        "grad = p.grad + self.weight_decay * p.value",
        "p.grad = grad = p.grad + self.weight_decay * p.value",
    ),
    "there is no weight decay": ("p.grad + self.weight_decay * p.value", "p.grad"),
    "the weight decay pushes away from zero": ("p.grad + self.weight_decay", "p.grad - self.weight_decay"),
    "the step goes uphill": ("p.value - self.lr * velocity", "p.value + self.lr * velocity"),
    "the velocity is subtracted from the gradient": (
        "self.momentum * self.state[name] + grad",
        "grad - self.momentum * self.state[name]",
    ),
    "the learning rate is the one of the constructor, whatever lr says later": [
        ("self.parameters, self.lr = parameters, lr", "self.parameters, self.lr, self.first = parameters, lr, lr"),
        ("p.value - self.lr * velocity", "p.value - self.first * velocity"),
    ],
    "the velocities are not in state, so a resumed run starts at rest": [
        (
            "self.state = {name: np.zeros_like(p.value) for name, p in parameters.items()}",
            "self.state, self.hidden = {}, {name: np.zeros_like(p.value) for name, p in parameters.items()}",
        ),
        ("self.momentum * self.state[name]", "self.momentum * self.hidden[name]"),
        ("self.state[name] = velocity", "self.hidden[name] = velocity"),
    ],
    "state is filled in the first step and not from the start": [
        ("{name: np.zeros_like(p.value) for name, p in parameters.items()}", "{}"),
        ("self.momentum * self.state[name]", "self.momentum * self.state.get(name, 0.0)"),
    ],
    "all parameters share one velocity": [
        ("self.momentum * self.state[name]", 'self.momentum * self.state["all"]'),
        ("self.state[name] = velocity", 'self.state["all"] = velocity.mean(dtype=velocity.dtype)'),
        (
            "{name: np.zeros_like(p.value) for name, p in parameters.items()}",
            '{"all": np.zeros((), next(iter(parameters.values())).value.dtype)}',
        ),
    ],
    "the velocities are float64, and turn float32 parameters to float64": (
        "np.zeros_like(p.value)",
        "np.zeros(p.value.shape)",
    ),
    "every gradient is clipped by itself, so the direction changes": (
        "    if norm > max_norm:\n        for p in parameters.values():\n            p.grad = p.grad * (max_norm / norm)",
        "    for p in parameters.values():\n        length = float(np.linalg.norm(p.grad.astype(np.float64)))\n"
        "        if length > max_norm:\n            p.grad = p.grad * (max_norm / length)",
    ),
    "every number is clipped by itself, so the direction changes": (
        "            p.grad = p.grad * (max_norm / norm)",
        "            p.grad = np.clip(p.grad, -max_norm, max_norm)",
    ),
    "the lengths of the gradients are added up": (
        "math.sqrt(sum(float(np.sum(p.grad.astype(np.float64) ** 2)) for p in parameters.values()))",
        "sum(float(np.sum(p.grad.astype(np.float64) ** 2)) ** 0.5 for p in parameters.values()) * 1.0",
    ),
    "the length is that of the longest gradient": (
        "math.sqrt(sum(float(np.sum(p.grad.astype(np.float64) ** 2)) for p in parameters.values()))",
        "max([float(np.sum(p.grad.astype(np.float64) ** 2)) ** 0.5 for p in parameters.values()], default=0.0)",
    ),
    "the sum of squares is taken for the length": ("norm = math.sqrt(sum(", "norm = (sum("),
    "the mean of the squares is taken and not their sum": ("float(np.sum(p.grad", "float(np.mean(p.grad"),
    "the squares are summed in float32, where they overflow": (".astype(np.float64) ** 2", " ** 2"),
    "the length after clipping is returned": ("    return norm\n", "    return min(norm, max_norm)\n"),
    "the gradient is always scaled to max_norm, short ones too": ("    if norm > max_norm:", "    if norm > 0:"),
    "the gradient is scaled by max_norm and not to max_norm": ("p.grad * (max_norm / norm)", "p.grad * max_norm"),
    "the gradient is divided by its length, whatever max_norm is": (
        "p.grad * (max_norm / norm)",
        "p.grad * (1 / norm)",
    ),
    "the gradients are only measured, not changed": (
        "p.grad = p.grad * (max_norm / norm)",
        "p.grad * (max_norm / norm)",
    ),
    "only the last gradient is scaled": (
        "        for p in parameters.values():\n            p.grad =",
        "        for p in list(parameters.values())[-1:]:\n            p.grad =",
    ),
    "float32 gradients become float64, because the factor is a NumPy number": (
        "(max_norm / norm)",
        "np.float64(max_norm / norm)",
    ),
    "a gradient that is not finite is not refused": (
        '    if not math.isfinite(norm):\n        raise FloatingPointError(f"the gradient has length {norm}")\n',
        "",
    ),
    "infinite gradients are refused, and those with NaN are not": (
        "if not math.isfinite(norm):",
        "if norm == math.inf:",
    ),
    "a gradient that is not finite is set to zero, and an error raised afterwards": (
        "        raise FloatingPointError(",
        "        for p in parameters.values():\n            p.grad = np.zeros_like(p.grad)\n        raise FloatingPointError(",
    ),
}

# %% equivalent="SGD"
{
    "norm > max_norm -> norm >= max_norm": "where the two are equal the factor is 1",
}


# %% [markdown]
# ## Exercise 3 · `Adam` and `AdamW`
#
# Adam keeps two running means for every number it trains: of the gradient, $m$, and of its square, $v$. Both start at zero, and $t = 1, 2, \dots$ counts the steps:
#
# $$ g \leftarrow g + \lambda p \qquad m \leftarrow \beta_1 m + (1-\beta_1)\, g \qquad v \leftarrow \beta_2 v + (1-\beta_2)\, g^2 $$
#
# $$ p \leftarrow p - \eta\, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \varepsilon} $$
#
# Work one number through. Its first gradient is 4, $\beta_1 = 0.9$, $\beta_2 = 0.999$. Then $m = 0.4$ and $v = 0.016$. Both are too small, because what
# they average is mostly the zero at the start. The divisors $1 - 0.9 = 0.1$ and $1 - 0.999 = 0.001$ put that right: 4 and 16. The step is $4/\sqrt{16} = 1$ times the
# learning rate, as it would have been for a gradient of 400.
#
# Look where the weight decay goes in Adam: into $g$, so it is divided by the root like everything else. A number with large gradients hardly decays at all.
# AdamW, with the W for *weight decay*, takes it out of there and shrinks the number itself, before the step:
#
# $$ p \leftarrow p - \eta\lambda\, p \qquad\text{and then Adam's step with the plain gradient.} $$
#
# *Difficulty 3 of 5 · 30 minutes · 5 points*


# %% exercise="Adam" difficulty=3 minutes=30 forbid=["torch.optim", "torch.tensor", "torch.as_tensor", "torch.from_numpy"]
class Adam:
    """Adam, with weight decay in the gradient.

    Args:
        parameters: name -> Parameter, such as ``model.parameters()``.
        lr, betas, eps, weight_decay: the settings, with the defaults of ``torch.optim.Adam``.

    Attributes:
        lr: whoever writes to it changes the next step.
        state: dict from names to arrays: everything that `step` remembers, the number of steps included. All names are
            there from the start. Whoever puts another array under a name changes what is remembered; a new
            optimiser with copies of the arrays goes on where the old one stopped.

    Source: Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015, algorithm 1.
    """

    def __init__(
        self,
        parameters: dict[str, Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        ### BEGIN SOLUTION
        self.parameters, self.lr = parameters, lr
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.state = {"t": np.array(0)}
        for name, p in parameters.items():
            self.state[f"m.{name}"] = np.zeros_like(p.value)
            self.state[f"v.{name}"] = np.zeros_like(p.value)
        ### END SOLUTION

    def step(self) -> None:
        """Change the ``value`` of every parameter. Gradients stay as they are, and float32 parameters stay float32."""
        ### BEGIN SOLUTION
        t = int(self.state["t"]) + 1  # a Python number: NumPy's would turn float32 into float64
        self.state["t"] = np.array(t)
        beta_1, beta_2 = self.betas
        for name, p in self.parameters.items():
            grad = p.grad + self.weight_decay * p.value
            m = beta_1 * self.state[f"m.{name}"] + (1 - beta_1) * grad
            v = beta_2 * self.state[f"v.{name}"] + (1 - beta_2) * grad**2
            self.state[f"m.{name}"], self.state[f"v.{name}"] = m, v
            mean, square = m / (1 - beta_1**t), v / (1 - beta_2**t)
            p.value = p.value - self.lr * mean / (np.sqrt(square) + self.eps)
        ### END SOLUTION


class AdamW(Adam):
    """Adam with decoupled weight decay: before each step every number loses the share lr * weight_decay.

    Args, attributes and `step` are as with `Adam`; the defaults are those of ``torch.optim.AdamW``.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019, algorithm 2.
    """

    def __init__(
        self,
        parameters: dict[str, Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        ### BEGIN SOLUTION
        super().__init__(parameters, lr, betas, eps)  # nothing goes into the gradient
        self.decay = weight_decay
        ### END SOLUTION

    def step(self) -> None:
        """Change the ``value`` of every parameter. Gradients stay as they are, and float32 parameters stay float32."""
        ### BEGIN SOLUTION
        for p in self.parameters.values():
            p.value = p.value * (1 - self.lr * self.decay)
        super().step()
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Two zero arrays for each parameter, and one count for all. The count goes up before it is used: in the first step $t$ is 1. For <code>AdamW</code>
# you need not write Adam again. What is left to do before <code>super().step()</code>?</details>
# <details><summary>A bigger nudge</summary>Names in <code>state</code> such as <code>f"m.{name}"</code> keep the two moments apart. The count must be in
# there too, as <code>np.array(0)</code>. Take it out with <code>int(...)</code>: <code>beta ** t</code> with a NumPy number <code>t</code> is a NumPy float64, and it makes
# float64 of a float32 model. In <code>AdamW</code> hand a weight decay of 0 to <code>Adam</code> and keep your own.</details>

# %% test="Adam" points=3
from coursekit import check

import numpy as np

# A gradient of 4, then one of 0: steps of 0.1 * 1 and of 0.1 * (0.36 / 0.19) / sqrt(0.015984 / 0.001999).
start, gradients = {"p": np.array([1.0])}, [{"p": np.array([4.0])}, {"p": np.array([0.0])}]
found = descend("Adam", start, gradients, lr=0.1)["path"][:, 0]
check.close(found, np.array([0.9, 0.832993]), "gradients 4 and 0, lr 0.1: 1 becomes 0.9 and 0.832993")
found = descend("Adam", {"p": np.array([1.0])}, [{"p": np.array([0.0])}], lr=0.1, weight_decay=0.5)["path"][:, 0]
check.close(
    found, np.array([0.9]), "gradient 0, weight decay 0.5: the decay is all the gradient there is, a step of 0.1"
)
found = descend("Adam", start, gradients, restart=1, lr=0.1)["path"][:, 0]
check.close(
    found,
    np.array([0.9, 0.832993]),
    "before the second step a new Adam takes over, with the arrays of the old one's state",
    hint="Everything that step remembers has to be in self.state: both means and the number of steps.",
)
### BEGIN HIDDEN TESTS
import torch


def by_torch(start, gradients, rates=None, **settings):
    twins = [torch.nn.Parameter(torch.tensor(value)) for value in start.values()]
    oracle, path = torch.optim.Adam(twins, foreach=False, **settings), []
    for step, wanted in enumerate(gradients):
        oracle.param_groups[0]["lr"] = oracle.param_groups[0]["lr"] if rates is None else rates[step]
        for twin, gradient in zip(twins, wanted.values(), strict=True):
            twin.grad = torch.tensor(gradient)
        oracle.step()
        path.append(torch.cat([twin.detach().flatten() for twin in twins]).numpy())
    return np.stack(path)


draw = np.random.default_rng(check.seed(4))
shapes = {"blocks.0.weight": (3, 4), "bias": (5,), "one": (1,), "number": (), "filter": (2, 1, 3)}
start = {name: draw.normal(size=shape) for name, shape in shapes.items()}
sizes = dict(zip(shapes, (1.0, 100.0, 0.01, 1.0, 10.0), strict=True))
gradients = [{name: sizes[name] * draw.normal(size=shape) for name, shape in shapes.items()} for _ in range(40)]
rates = [0.1 * (1 + step % 7) / 7 for step in range(40)]
for settings in (
    {"lr": 0.03, "betas": (0.7, 0.9), "eps": 0.1, "weight_decay": 0.5},
    {"lr": 0.1, "betas": (0.9, 0.95), "eps": 1e-3},
    {},
):
    case = f"40 steps, {settings or 'all settings left out'}"
    want = by_torch(start, gradients, **settings)
    found = descend("Adam", start, gradients, **settings)
    check.close(found["path"], want, f"{case}: torch.optim.Adam", atol=1e-12, rtol=1e-12)
    check.that(found["gradients are as before"], f"{case}: the gradients are as before")
    check.equal(found["names in state later"], found["names in state at first"], f"{case}: the names in state")
    check.that(found["state holds arrays"], f"{case}: state holds arrays")
    want = by_torch(start, gradients, rates, **settings)
    for restart in (None, 1, 23):
        what = f"{case}, another rate each time" + (f", another Adam after {restart}" * (restart is not None))
        found = descend("Adam", start, gradients, rates, restart, **settings)["path"]
        check.close(found, want, f"{what}: torch.optim.Adam", atol=1e-12, rtol=1e-12)
    narrow = {name: value.astype("float32") for name, value in start.items()}
    steps = [{name: value.astype("float32") for name, value in row.items()} for row in gradients]
    found = descend("Adam", narrow, steps, **settings)
    check.equal(found["dtypes"], ["float32"], f"{case}: the dtypes of float32 parameters afterwards")
    check.close(found["path"], by_torch(narrow, steps, **settings), f"{case}: in float32", atol=1e-4)
turned = {"p": start["blocks.0.weight"].T}, [{"p": row["blocks.0.weight"].T} for row in gradients]
found = descend("Adam", *turned, lr=0.1)["path"]
check.close(found, by_torch(*turned, lr=0.1), "arrays that are not contiguous", atol=1e-12, rtol=1e-12)
### END HIDDEN TESTS

# %% test="Adam" points=2
from coursekit import check

import numpy as np

start, gradients = {"p": np.array([1.0])}, [{"p": np.array([4.0])}, {"p": np.array([0.0])}]
found = descend("AdamW", start, gradients, lr=0.1, weight_decay=0.5)["path"][:, 0]
check.close(
    found,
    np.array([0.85, 0.740493]),
    "AdamW, gradients 4 and 0, lr 0.1, weight decay 0.5: before each step 5% are lost",
)
found = descend("AdamW", {"p": np.array([1.0])}, [{"p": np.array([0.0])}], lr=0.1, weight_decay=0.5)["path"][:, 0]
check.close(found, np.array([0.95]), "AdamW, gradient 0: nothing but the decay of 5%")
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(5))
shapes = {"weight": (4, 3), "bias": (63,), "number": ()}
start = {name: 3 * draw.normal(size=shape) for name, shape in shapes.items()}
gradients = [{name: draw.normal(size=shape) for name, shape in shapes.items()} for _ in range(40)]
rates = [0.1 * (1 + step % 5) / 5 for step in range(40)]
for settings in (
    {"lr": 0.03, "betas": (0.7, 0.9), "eps": 0.1, "weight_decay": 0.5},
    {"lr": 0.1, "weight_decay": 0.0, "eps": 1e-3},
    {},
):
    for restart in (None, 1, 23):
        for changing in (None, rates):
            twins = [torch.nn.Parameter(torch.tensor(value)) for value in start.values()]
            oracle, path = torch.optim.AdamW(twins, foreach=False, **settings), []
            for step, wanted in enumerate(gradients):
                if changing is not None:
                    oracle.param_groups[0]["lr"] = changing[step]
                for twin, gradient in zip(twins, wanted.values(), strict=True):
                    twin.grad = torch.tensor(gradient)
                oracle.step()
                path.append(torch.cat([twin.detach().flatten() for twin in twins]).numpy())
            case = f"AdamW, 40 steps, {settings or 'all settings left out'}"
            case += ", another rate each time" * (changing is not None)
            case += f", another AdamW after {restart}" * (restart is not None)
            found = descend("AdamW", start, gradients, changing, restart, **settings)
            check.close(found["path"], np.stack(path), f"{case}: torch.optim.AdamW", atol=1e-12, rtol=1e-12)
            check.that(found["gradients are as before"], f"{case}: the gradients are as before")
            check.equal(found["names in state later"], found["names in state at first"], f"{case}: the names in state")
narrow = {name: value.astype("float32") for name, value in start.items()}
steps = [{name: value.astype("float32") for name, value in row.items()} for row in gradients]
found = descend("AdamW", narrow, steps, lr=0.1)
check.equal(found["dtypes"], ["float32"], "AdamW: the dtypes of float32 parameters after 40 steps")
### END HIDDEN TESTS


# %% alternative="Adam"
class Adam:
    # In place, moments stacked in one array, the count as a float, corrections folded into the step.
    def __init__(self, parameters, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        self.list, self.lr, self.settings, self.l2 = list(parameters.values()), lr, (*betas, eps), weight_decay
        self.state = {str(i): np.zeros((2, *p.value.shape), p.value.dtype) for i, p in enumerate(self.list)}
        self.state["count"] = np.zeros(1)

    def gradient(self, p):
        return p.grad + self.l2 * p.value

    def step(self):
        b1, b2, eps = self.settings
        self.state["count"] = self.state["count"] + 1
        n = self.state["count"].item()
        for i, p in enumerate(self.list):
            g, moments = self.gradient(p), self.state[str(i)]
            moments[0] += (1 - b1) * (g - moments[0])
            moments[1] += (1 - b2) * (np.square(g) - moments[1])
            root = np.sqrt(moments[1]) / math.sqrt(1 - b2**n)
            p.value -= (self.lr / (1 - b1**n)) * moments[0] / (root + eps)


class AdamW(Adam):
    def __init__(self, parameters, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(parameters, lr, betas, eps, weight_decay)

    def gradient(self, p):
        p.value = p.value - self.lr * self.l2 * p.value
        return p.grad


# %% mistakes="Adam"
{
    "neither mean is corrected for its start at zero": ("m / (1 - beta_1**t), v / (1 - beta_2**t)", "m, v"),
    "only the mean of the gradient is corrected for its start at zero": ("v / (1 - beta_2**t)", "v"),
    "only the mean of the squares is corrected for its start at zero": ("m / (1 - beta_1**t)", "m"),
    "the correction is one step behind: in the first step it is that of step 0, a division by zero": (
        'self.state["t"] = np.array(t)',
        'self.state["t"] = np.array(t); t -= 1',
    ),
    "the correction is one step ahead: the first step counts as the second": (
        'self.state["t"] = np.array(t)',
        'self.state["t"] = np.array(t); t += 1',
    ),
    "the correction is that of the first step at every step": (
        'self.state["t"] = np.array(t)',
        'self.state["t"] = np.array(t); t = 1',
    ),
    "the count goes up once for each parameter": (
        "            grad = p.grad + self.weight_decay * p.value\n            m =",
        "            t += p is not next(iter(self.parameters.values()))\n"
        '            self.state["t"] = np.array(t)\n'
        "            grad = p.grad + self.weight_decay * p.value\n            m =",
    ),
    "the count is not in state, so the correction starts anew when a run goes on": [
        ('self.state = {"t": np.array(0)}', "self.state, self.t = {}, 0"),
        ('t = int(self.state["t"]) + 1', "t = self.t + 1"),
        ('self.state["t"] = np.array(t)', "self.t = t"),
    ],
    "the mean of the squares is not in state, and starts anew when a run goes on": [
        (
            '            self.state[f"v.{name}"] = np.zeros_like(p.value)\n',
            '            self.__dict__.setdefault("v", {})[name] = np.zeros_like(p.value)\n',
        ),
        ('beta_2 * self.state[f"v.{name}"]', "beta_2 * self.v[name]"),
        ('self.state[f"m.{name}"], self.state[f"v.{name}"] = m, v', 'self.state[f"m.{name}"], self.v[name] = m, v'),
    ],
    "the means are not in state, and start anew when a run goes on": [
        (
            '            self.state[f"m.{name}"] = np.zeros_like(p.value)\n'
            '            self.state[f"v.{name}"] = np.zeros_like(p.value)\n',
            '            self.__dict__.setdefault("mv", {})[name] = np.zeros_like(p.value), np.zeros_like(p.value)\n',
        ),
        ('beta_1 * self.state[f"m.{name}"]', "beta_1 * self.mv[name][0]"),
        ('beta_2 * self.state[f"v.{name}"]', "beta_2 * self.mv[name][1]"),
        ('self.state[f"m.{name}"], self.state[f"v.{name}"] = m, v', "self.mv[name] = m, v"),
    ],
    "state is filled in the first step and not from the start": [
        ('            self.state[f"m.{name}"] = np.zeros_like(p.value)\n', "            pass\n"),
        ('            self.state[f"v.{name}"] = np.zeros_like(p.value)\n', ""),
        ('beta_1 * self.state[f"m.{name}"]', 'beta_1 * self.state.get(f"m.{name}", 0.0)'),
        ('beta_2 * self.state[f"v.{name}"]', 'beta_2 * self.state.get(f"v.{name}", 0.0)'),
    ],
    "the count is a NumPy number, so float32 parameters turn to float64": (
        't = int(self.state["t"]) + 1',
        't = self.state["t"] + np.float64(1)',
    ),
    "eps stands inside the root": ("(np.sqrt(square) + self.eps)", "np.sqrt(square + self.eps)"),
    "eps is added before the correction of the mean of the squares": (
        "(np.sqrt(square) + self.eps)",
        "((np.sqrt(v) + self.eps) / (1 - beta_2**t) ** 0.5)",
    ),
    "there is no eps": (" + self.eps)", ")"),
    "the root is forgotten": ("(np.sqrt(square) + self.eps)", "(square + self.eps)"),
    "v averages the gradient's size and not its square": ("(1 - beta_2) * grad**2", "(1 - beta_2) * abs(grad)"),
    "the step follows the gradient and not its mean": ("self.lr * mean /", "self.lr * grad /"),
    "m adds the whole gradient, without the factor 1 - beta_1": ("(1 - beta_1) * grad", "grad"),
    "the two betas have changed places": ("beta_1, beta_2 = self.betas", "beta_2, beta_1 = self.betas"),
    "the square is averaged over the whole parameter, so all its numbers share one rate": (
        "(1 - beta_2) * grad**2",
        "(1 - beta_2) * np.mean(grad**2)",
    ),
    "the step goes uphill": ("p.value - self.lr * mean", "p.value + self.lr * mean"),
    "the learning rate is the one of the constructor, whatever lr says later": [
        ("self.parameters, self.lr = parameters, lr", "self.parameters, self.lr, self.first = parameters, lr, lr"),
        ("self.lr * mean", "self.first * mean"),
    ],
    "the weight decay of Adam does not go through the means: it is AdamW's": [
        ("grad = p.grad + self.weight_decay * p.value", "grad = p.grad"),
        (
            "p.value = p.value - self.lr * mean",
            "p.value = p.value * (1 - self.lr * self.weight_decay) - self.lr * mean",
        ),
    ],
    "Adam has no weight decay": ("p.grad + self.weight_decay * p.value", "p.grad"),
    "the weight decay is added to the gradient itself, which stays changed": (
        "grad = p.grad + self.weight_decay * p.value",
        "p.grad = grad = p.grad + self.weight_decay * p.value",
    ),
    "the decay of AdamW goes into the gradient: it is Adam's": (
        "        super().__init__(parameters, lr, betas, eps)  # nothing goes into the gradient\n        self.decay = weight_decay",
        "        super().__init__(parameters, lr, betas, eps, weight_decay)\n        self.decay = 0.0",
    ),
    "the decay of AdamW acts twice, on the number and in the gradient": (
        "super().__init__(parameters, lr, betas, eps)",
        "super().__init__(parameters, lr, betas, eps, weight_decay)",
    ),
    "the decay of AdamW comes after the step, and shrinks the new number": (
        "        for p in self.parameters.values():\n            p.value = p.value * (1 - self.lr * self.decay)\n"
        "        super().step()",
        "        super().step()\n        for p in self.parameters.values():\n"
        "            p.value = p.value * (1 - self.lr * self.decay)",
    ),
    "the decay of AdamW is not multiplied by the learning rate": ("(1 - self.lr * self.decay)", "(1 - self.decay)"),
    "the decay of AdamW is multiplied by the learning rate of the constructor, whatever lr says later": [
        ("        self.decay = weight_decay", "        self.decay, self.begun = weight_decay, lr"),
        ("self.lr * self.decay", "self.begun * self.decay"),
    ],
    "AdamW has no decay": ("(1 - self.lr * self.decay)", "1"),
    "AdamW decays nothing where nothing is said": ("weight_decay: float = 0.01", "weight_decay: float = 0.0"),
    "AdamW ignores betas and eps": ("super().__init__(parameters, lr, betas, eps)", "super().__init__(parameters, lr)"),
}


# %% given side="learner"
SETTINGS = {"steps": 12, "batch_size": 4, "lr": 0.02, "min_lr": 0.002, "warmup": 3}


def state_after(n_steps: int, seed: int = 0, kind: str = "Adam", **settings: Any) -> tuple[TrainState, TrainConfig]:
    """For the checks of exercise 4: the state of a run after some plain steps."""
    config = TrainConfig(**(SETTINGS | settings))
    model = TinyModel(seed)
    parameters = model.parameters()
    optimizer = {"SGD": lambda: SGD(parameters, 0.02, momentum=0.9), "Adam": lambda: Adam(parameters, 0.02)}[kind]()
    state = TrainState(model, optimizer, np.random.default_rng(seed))
    for step in range(n_steps):
        ids, loss = state.rng.integers(11, size=(4, 5)), CrossEntropy()
        model.zero_grad()
        value = loss.forward(model.forward(ids), (ids + 1) % 11)
        model.backward(loss.backward())
        optimizer.step()
        state.step = step + 1
        state.history.append({"step": step + 1, "loss": value} | ({"odd": math.nan} if step == 1 else {}))
    return state, config


def parts_of(state: TrainState) -> dict[str, Any]:
    """Copies of all that a run changes, by name."""
    return {
        "weights": {name: np.array(parameter.value) for name, parameter in state.model.parameters().items()},
        "what the optimiser remembers": {name: np.array(value) for name, value in state.optimizer.state.items()},
        "step": state.step,
        "history": [repr(row) for row in state.history],
        "random generator": state.rng.bit_generator.state,
    }


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The names of the parts that are not equal to the bit."""

    def equal(a, b):
        if isinstance(a, dict) and isinstance(b, dict):
            return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
        if isinstance(a, np.ndarray):
            return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
        return a == b

    return [name for name in one if not equal(one[name], other[name])]


def explained(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of the parts that are not equal to the bit, with what has become of them."""
    found = differing(before, after)
    for place, part in enumerate(found):
        one, other = before[part], after[part]
        if part == "step":
            found[place] += f" ({one} went in, {other} came out)"
        elif part == "history":
            changed = f"; the last row was {one[-1]} and is {other[-1]}" if one and other else ""
            found[place] += f" ({len(one)} rows went in, {len(other)} came out{changed})"
        elif part == "weights" and one.keys() == other.keys():
            apart = max(float(np.abs(one[name] - other[name]).max()) for name in one)
            found[place] += f" (by up to {apart:.1e}; {other['inner.bias'].dtype})"
    return found


def restored(n_steps: int, kind: str = "Adam", dtype: str = "float64", name: str = "run.npz") -> list[str]:
    """For the checks of exercise 4: what `load_checkpoint` does not bring back of a run that was saved after n_steps."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, name)
        pair = state_after(n_steps, kind=kind), state_after(2, seed=9, kind=kind)
        for state, _ in pair:
            state.model.astype(dtype)
            for key, value in state.optimizer.state.items():
                state.optimizer.state[key] = value.astype(dtype) if value.dtype == np.float64 else value
        (state, config), (other, _) = pair
        kept = parts_of(state)
        save_checkpoint(path, state, config)
        lost = [f"{part}, which changed when it was saved" for part in differing(kept, parts_of(state))]
        if os.listdir(folder) != [name]:
            lost.append(f"the file: the folder should hold {name}, it holds {', '.join(sorted(os.listdir(folder)))}")
            return lost
        held = other.model, other.optimizer, other.rng, list(other.model.parameters().values())
        load_checkpoint(path, other, config)
        lost += explained(kept, parts_of(other))
        same = [other.model is held[0], other.optimizer is held[1], other.rng is held[2]]
        same += [now is then for now, then in zip(other.model.parameters().values(), held[3], strict=True)]
        lost += [] if all(same) else ["the model, a parameter, the optimiser or the generator is another object now"]
        # Does the run go on alike? (Whoever loads into a copy of a parameter leaves the optimiser with the old one.)
        for run in (state, other):
            for parameter in run.model.parameters().values():
                parameter.grad = np.ones_like(parameter.value)
            run.optimizer.step()
        return lost + [f"{part} after one more step" for part in differing(parts_of(state), parts_of(other))]


class _Intruder:
    """An object that makes a folder when it is read from a pickle."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def refused(fault: str) -> dict[str, Any]:
    """For the checks of exercise 4: what happens when a checkpoint is loaded that should not be.

    Returns the error's name and text, which parts of the run that asked for it have changed, and whether code that came
    with the file has run.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, marker = os.path.join(folder, "run.npz"), os.path.join(folder, "marker")
        state, config = state_after(3)
        save_checkpoint(path, state, config)
        with open(path, "rb") as file:
            content = file.read()
        settings, kind = {}, "Adam"
        if fault == "cut off":
            content = content[: len(content) // 2]
        elif fault == "empty":
            content = b""
        elif fault == "one bit":
            at = content.find(state.model.embedding.weight.value.tobytes())
            at = len(content) // 2 if at < 0 else at + 100
            content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        elif fault == "other settings":
            settings = {"lr": 0.5, "clip": 2.5}
        elif fault == "another optimiser":
            kind = "SGD"
        elif fault in ("something else", "code"):
            file, strange = io.BytesIO(), np.array([_Intruder(marker)], dtype=object)
            np.savez(file, run=np.arange(3) if fault == "something else" else strange)
            content = file.getvalue()
        with open(path, "wb") as file:
            file.write(content)
        if fault == "missing":
            os.remove(path)
        other, config = state_after(2, seed=9, kind=kind, **settings)
        if fault == "another shape":
            other.model.inner.bias.value = np.zeros(9)
        if fault == "another dtype":
            other.model.astype("float32")
        if fault == "another name":
            other.model.innermost, other.model.inner = other.model.inner, None
        if fault == "another shape in the optimiser":
            name = next(n for n, value in other.optimizer.state.items() if value.shape == (8, 8))
            other.optimizer.state[name] = np.zeros((8, 9))
        before = parts_of(other)
        try:
            load_checkpoint(path, other, config)
            error, text = "nothing was raised", ""
        except NotImplementedError:
            raise
        except Exception as raised:
            error, text = type(raised).__name__, str(raised)
        changed = differing(before, parts_of(other))
        return {"error": error, "text": text, "changed": changed, "code ran": os.path.exists(marker)}


def saved_over() -> dict[str, Any]:
    """For the checks of exercise 4: what happens to an older checkpoint when a new one takes its place, or fails to."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "run.npz")
        (state, config), (newer, _) = state_after(2), state_after(5)
        save_checkpoint(path, state, config)
        with open(path, "rb") as before:
            bytes_before = before.read()
            save_checkpoint(path, newer, config)
            before.seek(0)
            facts = {"the old file was written over": before.read() != bytes_before}
        facts["files"] = sorted(os.listdir(folder))
        other, _ = state_after(0, seed=9)
        load_checkpoint(path, other, config)
        facts["step of the new one"] = other.step

        def lost() -> list[str]:
            """What is in the file belongs to one of the two runs, as a whole; and to the older one if saving failed."""
            other, _ = state_after(0, seed=9)
            try:
                load_checkpoint(path, other, config)
            except (ValueError, OSError) as raised:
                return [f"everything ({type(raised).__name__})"]
            return differing(parts_of(state if failed else newer), parts_of(other))

        def disk_full(file, *args, **kwargs):
            name = file if str(file).endswith(".npz") else f"{file}.npz"
            with open(name, "wb") if isinstance(file, str | os.PathLike) else contextlib.nullcontext(file) as out:
                out.write(b"half a checkpo")
            raise OSError("no space left on device")

        def no_rename(*args, **kwargs):
            raise OSError("the rename failed")

        for what, module, names, broken in (
            ("lost when the disk was full", np, ("savez", "savez_compressed"), disk_full),
            ("lost when the rename failed", os, ("replace", "rename"), no_rename),
        ):
            save_checkpoint(path, state, config)
            kept, failed = [getattr(module, name) for name in names], False
            try:
                for name in names:
                    setattr(module, name, broken)
                save_checkpoint(path, newer, config)
            except OSError:
                failed = True
            finally:
                for name, function in zip(names, kept, strict=True):
                    setattr(module, name, function)
            facts[what] = lost()
        return facts


# %% [markdown]
# ## Exercise 4 · `save_checkpoint` and `load_checkpoint`
#
# What does a run have to remember, so that it can go on as if nothing had happened? `TrainState` holds it all: the weights, what the optimiser
# remembers, the step, the history, and the random generator, whose state is a dict, `rng.bit_generator.state`.
#
# The weights and the optimiser's state are arrays with names, and `np.savez` writes those. For the rest there is JSON: a text, which is an array, too: `np.array(text)` is an array with one entry, and `str(...)` of it is the text again. Do *not*
# let NumPy pickle anything: a pickle can run code when it is read, and checkpoints are passed around.
#
# A checkpoint is worth having only if it is there when you need it. Write to another file first, and rename it when it is complete: a rename takes place or does not, and there
# is never half a checkpoint under the name that you will load. And look before you load: a file that is damaged, or belongs to another run, is refused, and nothing
# has changed.
#
# *Difficulty 3 of 5 · 30 minutes · 4 points*


# %% exercise="save_checkpoint" difficulty=3 minutes=30 forbid=["torch.save", "torch.load", "pickle.dump", "pickle.dumps", "pickle.load", "pickle.loads"]
def save_checkpoint(path: str, state: TrainState, config: TrainConfig) -> None:
    """Write a run to a file, so that `load_checkpoint` can bring it back to the bit.

    In the file are the model's parameters, the optimiser's ``state``, the step, the history, the state of the generator, and
    the settings. An older file of that name is replaced in one go: at any moment there is a complete checkpoint under that
    name, the old or the new one, also if writing fails with an OSError, which is passed on. When all went well, the folder
    holds this file and no other that was not there before.

    Args:
        path: the name of the file, to the letter, with any ending or none; its folder exists.
        state: what to save. It does not change. The numbers in the history may be NaN.
        config: the settings of the run.
    """
    ### BEGIN SOLUTION
    arrays = {f"parameter.{name}": p.value for name, p in state.model.parameters().items()}
    arrays |= {f"optimizer.{name}": value for name, value in state.optimizer.state.items()}
    run = {
        "step": state.step,
        "history": state.history,
        "rng": state.rng.bit_generator.state,
        "config": asdict(config),
    }
    part = f"{path}.part"
    with open(part, "wb") as file:  # an open file: to a mere name np.savez would add ".npz"
        np.savez(file, run=json.dumps(run).encode(), **arrays)
    os.replace(part, path)
    ### END SOLUTION


def load_checkpoint(path: str, state: TrainState, config: TrainConfig) -> None:
    """Bring a run back from a file: ``state`` becomes what it was when it was saved.

    The model and its parameters, the optimiser and the generator stay the same objects, with new contents.

    Args:
        path: where `save_checkpoint` wrote.
        state: of a model of the same shape, with an optimiser over its parameters.
        config: the settings of the run that wants to go on.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged (cut off, empty, or even one bit of an array changed), is no checkpoint, or belongs
            to another model or optimiser (other names, shapes or dtypes of arrays), or to other settings. For other
            settings the message names those that differ, and no others.
        After any of these ``state`` has not changed. Code that somebody may have hidden in the file is never run.
    """
    ### BEGIN SOLUTION
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    try:
        with np.load(path) as file:  # it refuses pickles, and compares the checksum of all that it reads
            arrays = dict(file)
        run = json.loads(arrays.pop("run").item())
        saved = run["config"]
    except Exception as error:
        raise ValueError(f"{path} is damaged or no checkpoint: {error}") from None
    different = [name for name, value in asdict(config).items() if saved.get(name) != value]
    if different:
        raise ValueError(f"{path} belongs to a run with other settings: {', '.join(different)}")
    parameters = state.model.parameters()
    own = {f"parameter.{name}": p.value for name, p in parameters.items()}
    own |= {f"optimizer.{name}": value for name, value in state.optimizer.state.items()}
    wanted = {name: (a.shape, a.dtype) for name, a in own.items()}
    found = {name: (a.shape, a.dtype) for name, a in arrays.items()}
    if found != wanted:
        raise ValueError(f"{path} belongs to another model or another optimiser")
    for name, p in parameters.items():
        p.value = arrays[f"parameter.{name}"]
    for name in state.optimizer.state:
        state.optimizer.state[name] = arrays[f"optimizer.{name}"]
    state.step, state.history = run["step"], run["history"]
    state.rng.bit_generator.state = run["rng"]
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary><code>np.savez(file, **arrays)</code> writes a dict of arrays, and <code>np.load(path)</code> gives something like a dict. Put a word in
# front of the names, so that parameters and moments cannot get in each other's way. A dataclass becomes a dict with <code>asdict</code>, and <code>json.dumps</code>
# makes a text of a dict with numbers, lists and texts; every float comes back the same.</details>
# <details><summary>A bigger nudge</summary><code>np.savez</code> adds <code>.npz</code> to a name that does not end so. Open the file yourself, and give it that. <code>os.replace</code>
# renames in one go. When loading, read everything with <code>dict(file)</code> inside <code>try</code>, compare everything next, and change things last.
# <code>np.load</code> refuses pickles unless you allow them, and it notices wrong checksums by itself.</details>

# %% test="save_checkpoint" points=4
from coursekit import check

check.equal(restored(3), [], "saved after 3 steps and loaded into another run: the parts that are not the same")
found = refused("cut off")
check.equal(
    [found["error"], found["changed"]], ["ValueError", []], "half a file: the error, and the parts that changed"
)
check.equal(refused("missing")["error"], "FileNotFoundError", "no file: the error")
### BEGIN HIDDEN TESTS
for n_steps, kind, dtype, name in (
    (0, "Adam", "float64", "run.npz"),
    (1, "SGD", "float64", "run"),
    (6, "Adam", "float32", "run.ckpt"),
    (2, "SGD", "float32", "run.npz"),
):
    check.equal(
        restored(n_steps, kind, dtype, name),
        [],
        f"{kind}, {dtype}, saved as {name} after {n_steps} steps, loaded into another run: the parts that are not the same",
    )
found = saved_over()
check.equal(found["the old file was written over"], False, "somebody who has the old file open still reads the old one")
check.equal(found["files"], ["run.npz"], "the files in the folder after saving twice")
check.equal(found["step of the new one"], 5, "saved twice under one name: the step of what is loaded")
check.equal(
    found["lost when the disk was full"],
    [],
    "the disk was full when a second one was written: what is lost of the first",
)
check.equal(
    found["lost when the rename failed"], [], "the machine died just before the rename: what is lost of the first"
)
for fault in (
    "empty",
    "one bit",
    "something else",
    "code",
    "another optimiser",
    "another shape in the optimiser",
    "another name",
    "another shape",
    "another dtype",
    "other settings",
):
    found = refused(fault)
    check.equal(found["error"], "ValueError", f"{fault}: the error")
    check.equal(found["changed"], [], f"{fault}: the parts of the run that have changed")
    check.equal(found["code ran"], False, f"{fault}: whether code from the file has run")
check.that(
    "lr" in found["text"] and "clip" in found["text"],
    "other settings: the message names those that differ, lr and clip",
    why=f"the message is {found['text'][:200]!r}",
)
check.that(
    "warmup" not in found["text"],
    "other settings: the message names no setting that is equal",
    why=f"the message is {found['text'][:200]!r}",
)
check.equal(refused("missing")["changed"], [], "no file: the parts of the run that have changed")
### END HIDDEN TESTS


# %% alternative="save_checkpoint"
def save_checkpoint(path, state, config):
    # Compressed, with numbered arrays, the text as bytes, by way of memory and a file with a name that nobody else has.
    values = [p.value for p in state.model.parameters().values()] + list(state.optimizer.state.values())
    names = [list(state.model.parameters()), list(state.optimizer.state)]
    text = json.dumps([asdict(config), names, state.step, state.history, state.rng.bit_generator.state])
    memory = io.BytesIO()
    np.savez_compressed(memory, np.frombuffer(text.encode(), np.uint8), *values)
    handle, name = tempfile.mkstemp(dir=os.path.dirname(path))
    with os.fdopen(handle, "wb") as file:
        file.write(memory.getvalue())
    os.rename(name, path)


def load_checkpoint(path, state, config):
    with open(path, "rb") as file:
        content = file.read()
    try:
        archive = np.load(io.BytesIO(content), allow_pickle=False)
        text, *values = [archive[f"arr_{i}"] for i in range(len(archive.files))]
        settings, names, step, history, order = json.loads(text.tobytes())
    except Exception as error:
        raise ValueError(str(type(error))) from error
    wrong = " ".join(sorted(key for key in settings if settings[key] != asdict(config)[key]))
    if wrong:
        raise ValueError(f"these differ: {wrong}")
    parameters = state.model.parameters()
    mine = [p.value for p in parameters.values()] + list(state.optimizer.state.values())
    if names != [list(parameters), list(state.optimizer.state)] or len(mine) != len(values):
        raise ValueError("names")
    if any(a.shape != b.shape or a.dtype != b.dtype for a, b in zip(mine, values, strict=True)):
        raise ValueError("shapes")
    for target, value in zip(mine, values, strict=True):
        target[...] = value
    state.step = step
    state.history[:] = history
    state.rng.bit_generator.state = order


# %% mistakes="save_checkpoint"
{
    "what the optimiser remembers is not restored": (
        "    for name in state.optimizer.state:\n        state.optimizer.state[name] = arrays[",
        "    for name in state.optimizer.state:\n        arrays[",
    ),
    "the random generator is not restored": ('    state.rng.bit_generator.state = run["rng"]\n', ""),
    "the random generator is replaced by another one, which nobody else holds": (
        '    state.rng.bit_generator.state = run["rng"]\n',
        '    state.rng = np.random.default_rng()\n    state.rng.bit_generator.state = run["rng"]\n',
    ),
    "the step is not restored": (
        'state.step, state.history = run["step"], run["history"]',
        'state.history = run["history"]',
    ),
    "the step is one too many": (
        'state.step, state.history = run["step"],',
        'state.step, state.history = run["step"] + 1,',
    ),
    "the history is not restored": (
        'state.step, state.history = run["step"], run["history"]',
        'state.step = run["step"]',
    ),
    "the history is added to the one that is there": (
        'run["step"], run["history"]',
        'run["step"], state.history + run["history"]',
    ),
    "the weights are not restored": ('        p.value = arrays[f"parameter.{name}"]\n', "        pass\n"),
    "the weights are restored as float64, whatever they were": (
        'p.value = arrays[f"parameter.{name}"]',
        'p.value = arrays[f"parameter.{name}"].astype(np.float64)',
    ),
    "the weights are rounded to float32 in the file": (
        "p.value for name, p in state.model.parameters().items()}\n    arrays |=",
        "p.value.astype(np.float32).astype(p.value.dtype) for name, p in state.model.parameters().items()}\n    arrays |=",
    ),
    "the numbers of the history are rounded": (
        '"history": state.history,',
        '"history": [{k: round(v, 6) for k, v in row.items()} for row in state.history],',
    ),
    "np.savez adds .npz to the name, and nobody finds the file": [
        (
            '    with open(part, "wb") as file:  # an open file: to a mere name np.savez would add ".npz"\n',
            "    if True:\n",
        ),
        ("np.savez(file, ", "np.savez(part, "),
        ("os.replace(part, path)", 'os.replace(f"{part}.npz", path if path.endswith(".npz") else f"{path}.npz")'),
    ],
    "the file is written in place, so that a failure leaves half of it": [
        ('    part = f"{path}.part"\n', "    part = path\n"),
        ("    os.replace(part, path)\n", ""),
    ],
    "the old checkpoint is removed before the new one is written": (
        '    part = f"{path}.part"\n',
        '    part = f"{path}.part"\n    if os.path.exists(path):\n        os.remove(path)\n',
    ),
    "the new checkpoint is copied to its name, and the other file stays": (
        "    os.replace(part, path)",
        '    with open(part, "rb") as source, open(f"{path}.new", "wb") as target:\n'
        "        target.write(source.read())\n"
        '    os.replace(f"{path}.new", path)',
    ),
    "an older checkpoint is never replaced": (
        "    os.replace(part, path)",
        "    if os.path.exists(path):\n        os.remove(part)\n    else:\n        os.replace(part, path)",
    ),
    "pickles are allowed, so code that is hidden in the file is run": (
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
    ),
    "a damaged file ends in whatever error np.load has": (
        '        raise ValueError(f"{path} is damaged or no checkpoint: {error}") from None',
        "        raise",
    ),
    "a missing file is called damaged": (
        "    if not os.path.exists(path):\n        raise FileNotFoundError(path)\n",
        "",
    ),
    "other settings are not refused": ("    if different:\n", "    if False:\n"),
    "other settings are refused, and the message does not say which": (": {', '.join(different)}", ""),
    "the message names all settings and not those that differ": ("', '.join(different)", "', '.join(saved)"),
    "another model or optimiser is noticed in the middle, when some weights are already changed": (
        "    if found != wanted:\n"
        '        raise ValueError(f"{path} belongs to another model or another optimiser")\n'
        "    for name, p in parameters.items():\n",
        "    for name, p in parameters.items():\n"
        '        if arrays.get(f"parameter.{name}", np.zeros(0)).shape != p.value.shape:\n'
        '            raise ValueError("another model")\n',
    ),
    "only the names are compared, not the shapes": ("if found != wanted:", "if found.keys() != wanted.keys():"),
    "shapes are compared, and dtypes are not": [("(a.shape, a.dtype)", "a.shape", "all")],
    "only the model is compared, not the optimiser": [
        ("for name, a in own.items()}", 'for name, a in own.items() if name[0] == "p"}'),
        ("for name, a in arrays.items()}", 'for name, a in arrays.items() if name[0] == "p"}'),
        ('= arrays[f"optimizer.{name}"]', '= arrays.get(f"optimizer.{name}")'),
    ],
    "parameters become other objects, and the optimiser goes on moving the old ones": (
        '        p.value = arrays[f"parameter.{name}"]\n',
        "        fresh, holder = Parameter(p.value), state.model\n"
        '        fresh.value = arrays[f"parameter.{name}"]\n'
        '        *way, last = name.split(".")\n'
        "        for part in way:\n            holder = getattr(holder, part)\n"
        "        setattr(holder, last, fresh)\n",
    ),
}


# %% given side="learner"
def trained(
    settings: dict[str, Any],
    arrays: tuple[np.ndarray, ...],
    stops: tuple[int | None, ...] = (None,),
    kind: str = "AdamW",
    options: dict[str, Any] | None = None,
    measured: bool = False,
    dtype: str = "float64",
    interrupt_at: int | None = None,
    interrupt_in: int = 0,
    keep: bool = True,
    name: str = "run.npz",
    spoil: str = "",
) -> dict[str, Any]:
    """For the checks of exercise 5: what `train` returns and leaves behind.

    Calls `train` once for each entry of ``stops``, its ``until``, as if the machine had been switched off in between: each
    time there is a new model and a new optimiser. Only the file stays (if ``keep``). An error is noted where the check provokes
    one, and raised otherwise.

    Args:
        settings: of the TrainConfig.
        kind, options: of the optimiser; its own learning rate is 123, which `train` has to replace.
        measured: whether something is measured: the mean size of the logits for the first examples.
        interrupt_at, interrupt_in: in this call of the model Ctrl-C is pressed, in this one of the calls of `train`.
        spoil: between two calls, "file" damages the checkpoint and "settings" changes the learning rate. "weights" puts
            a NaN into the first model.
    """
    ended, given = [], [np.array(array) for array in arrays]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, name) if keep else None
        for number, stop in enumerate(stops):
            begun = path is not None and os.path.exists(path)
            model = TinyModel(number if begun else 0, interrupt_at if number == interrupt_in else None).astype(dtype)
            for parameter in model.parameters().values():
                parameter.grad = np.full_like(parameter.value, 7)  # left over from something else
            if spoil == "weights":
                model.inner.bias.value[0] = math.nan
            if spoil == "file" and number:
                with open(path, "wb") as file:
                    file.write(b"not a checkpoint")
            start = {name: np.array(parameter.value) for name, parameter in model.parameters().items()}
            optimizer = {"SGD": SGD, "AdamW": AdamW}[kind](model.parameters(), lr=123.0, **(options or {}))
            config = TrainConfig(**(settings | ({"lr": 0.123} if spoil == "settings" and number else {})))
            asked = []

            def measure(model, asked=asked):
                asked.append(len(model.calls))
                logits = model.forward(*[array[:3] for array in arrays[:-1]])
                model.calls[-1] = model.calls[-1][:0]  # not a batch of the training
                return {"size": np.abs(logits).mean(), "calls": len(asked)}

            try:
                history = train(
                    model,
                    CrossEntropy(),
                    optimizer,
                    tuple(arrays),
                    config,
                    measure=measure if measured else None,
                    path=path,
                    until=stop,
                )
                ended.append("")
            except NotImplementedError:
                raise
            except (Exception, KeyboardInterrupt) as raised:
                if interrupt_at is None and not spoil:
                    raise
                history = []
                ended.append(type(raised).__name__)
        files = sorted(os.listdir(folder))
        weights = {key: np.array(parameter.value) for key, parameter in model.parameters().items()}
        again = None
        if path is not None and os.path.exists(path) and not spoil:
            other = TinyModel(99).astype(dtype)
            optimizer = {"SGD": SGD, "AdamW": AdamW}[kind](other.parameters(), lr=123.0, **(options or {}))
            state = TrainState(other, optimizer, np.random.default_rng(5))
            load_checkpoint(path, state, TrainConfig(**settings))
            again = {"step": state.step, "rows": len(state.history)}
    return {
        "start": start,
        "weights": weights,
        "history": [dict(row) for row in history],
        "kinds": sorted({type(value).__name__ for row in history for value in row.values()}),
        "ended": ended,
        "files": files,
        "in the file": again,
        "batches": [call for call in model.calls if len(call)],
        "dtypes": sorted({str(parameter.value.dtype) for parameter in model.parameters().values()}),
        "arrays are as before": all(map(np.array_equal, arrays, given)),
    }


# %% [markdown]
# ## Exercise 5 · `train`
#
# Now the loop. Every part is there, and what is left is the order of things: gradients to zero (`model.zero_grad()`), forward, loss, backward, clip, step; the learning rate before the step, and the
# checkpoint after everything that belongs to it. Write the row of the history first, then save, or the last row is missing from the file.
#
# The hard part you know from the picture. A run may stop in the middle of an epoch. `state.rng` is what gets saved, so it has to stay as it was *before* the epoch's
# shuffle until the epoch is done. Shuffle with a copy of it, and hand the copy over to `state` with the last batch. A run that goes on
# shuffles once more, to the same order, and skips the batches that are done.
#
# Ctrl-C may come at any moment, also when the gradients are there and the weights are not yet moved. Do not save at that moment. The last checkpoint is
# complete, and going on from it loses a few steps and nothing else. `progress` is given: it counts the steps and shows a bar.
#
# *Difficulty 4 of 5 · 40 minutes · 7 points*


# %% exercise="train" difficulty=4 minutes=40 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
def train(
    model: Layer,
    loss: Layer,
    optimizer: Any,
    arrays: tuple[np.ndarray, ...],
    config: TrainConfig,
    measure: Callable[[Layer], dict[str, float]] | None = None,
    path: str | None = None,
    until: int | None = None,
) -> list[dict[str, float]]:
    """Train a model; go on with an earlier run if there is one.

    The examples come in epochs out of `minibatches`, with one generator for all epochs, which is ``default_rng(config.seed)``
    at first; step n (from 0) is batch n modulo ceil(N / batch_size) of its epoch. If there is a file at ``path``, the run goes on
    from it, and the model's and the optimiser's own state do not matter. Otherwise it begins with both as they are.

    A step: the rate of `lr_at` for this step, as ``optimizer.lr``; one batch; the gradient of its loss and of nothing else,
    whatever the parameters' gradients were before; clipping to config.clip; the optimiser's step.

    Args:
        model: ``model.forward(*inputs)`` gives logits, ``model.backward(grad)`` adds to the gradients.
        loss: ``loss.forward(logits, targets)`` gives a number, ``loss.backward()`` its gradient for the logits.
        optimizer: over ``model.parameters()``, with ``step()``, ``lr`` and ``state``.
        arrays: with N examples each; the last holds the targets, the others are what the model is given. They do not change.
        measure: takes the model and returns numbers by name, which join the row of that step. It is called once after
            every config.eval_every steps, counted from the start of the run, and after the last step of the run.
        path: of the checkpoint, or None for none. It is written after every config.save_every steps, counted from the
            start of the run, and when this call has done its last step.
        until: stop when so many steps of the run are done, those of earlier calls included; None for config.steps, and never
            more than that.

    Returns:
        The history, a dict for each step of the run: "step" (how many are done, the first has 1), "loss" (before the step),
        "lr", "norm" (of the gradient before clipping), and what was measured after the step. "step" is an int, all other
        values are Python floats.

    Raises:
        ValueError: if there is a file at ``path`` that is damaged or belongs to another run; it is left as it is.
        FloatingPointError: if the length of a gradient is not finite; before the step, so the weights are still good.
        KeyboardInterrupt: if somebody presses Ctrl-C; what was saved is a complete checkpoint of a whole number of steps.
    """
    ### BEGIN SOLUTION
    state = TrainState(model, optimizer, np.random.default_rng(config.seed))
    if path is not None and os.path.exists(path):
        load_checkpoint(path, state, config)
    first, *_ = arrays
    per_epoch = math.ceil(len(first) / config.batch_size)
    last = config.steps if until is None else min(until, config.steps)
    epoch = None
    for step in progress(state, last):
        if epoch is None:  # a new epoch, or one that was begun in an earlier call
            rng = copy.deepcopy(state.rng)
            epoch = itertools.islice(minibatches(arrays, config.batch_size, rng), step % per_epoch, None)
        *inputs, targets = next(epoch)
        optimizer.lr = lr_at(step, config)
        model.zero_grad()
        value = loss.forward(model.forward(*inputs), targets)
        model.backward(loss.backward())
        norm = clip_gradients(model.parameters(), config.clip)
        optimizer.step()
        state.step = step + 1
        if state.step % per_epoch == 0:  # all examples are seen: the next shuffle may begin here
            state.rng, epoch = rng, None
        row = {"step": state.step, "loss": float(value), "lr": optimizer.lr, "norm": norm}
        if measure is not None and (state.step % config.eval_every == 0 or state.step == config.steps):
            row |= {name: float(number) for name, number in measure(model).items()}
        state.history.append(row)
        if path is not None and (state.step % config.save_every == 0 or state.step == last):
            save_checkpoint(path, state, config)
    return state.history
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>First everything that a run consists of, as a fresh <code>TrainState</code>; then, if there is a file, load it into that state; then the loop over
# <code>progress(state, last)</code>. Each line of the loop is a call of something that you have already written. At which steps does an epoch begin?</details>
# <details><summary>A bigger nudge</summary><code>copy.deepcopy</code> copies a generator with its state, and <code>itertools.islice(stream, n, None)</code> is a stream without its first n
# items. If a resumed run is not equal to the bit, look at the loss of its first step: if it differs, the batch is another one, or the weights are. If only the history differs,
# look at the order of the last lines, and at what counts as the last step of the <em>run</em>: that is not the last step of this call. For Ctrl-C you need no
# code at all.</details>

# %% test="train" points=3
from coursekit import check

import numpy as np

ids = (np.arange(10) ** 2)[:, None] * np.array([1, 2, 3]) % 11
arrays = ids, (ids + 1) % 11
found = trained({"steps": 7, "batch_size": 4, "lr": 0.01, "warmup": 1, "clip": 100.0}, arrays)
check.equal([row["step"] for row in found["history"]], [1, 2, 3, 4, 5, 6, 7], "seven steps: the numbers in the history")
check.equal([len(batch) for batch in found["batches"]], [4, 4, 2, 4, 4, 2, 4], "10 examples in batches of 4, by step")
rates = [row["lr"] for row in found["history"]]
want = [0.005, 0.01, 0.009055, 0.006580, 0.003520, 0.001045, 0.0001]
check.close(np.array(rates), np.array(want), "lr 0.01, one step of warm-up, seven steps: the rates", atol=1e-6)
halves = trained({"steps": 7, "batch_size": 4}, arrays, (3, None))
whole = trained({"steps": 7, "batch_size": 4}, arrays)
check.equal(
    halves["weights"]["inner.weight"],
    whole["weights"]["inner.weight"],
    "stopped after the first epoch of 3 steps, and resumed: a weight at the end, to the bit",
    hint="What is different at the first step after the resume: the batch, the gradients (are they zero before the step?), what the optimiser remembers, or the rate?",
)
### BEGIN HIDDEN TESTS
import torch
from torch.nn import functional as F


def by_torch(found, arrays, settings, kind, options):
    """The same run with PyTorch's parts: from the same weights, with the batches that the model was given."""
    *inputs, targets = [torch.tensor(array) for array in arrays]
    rows = {tuple(row): n for n, row in enumerate(arrays[0].tolist())}
    p = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in found["start"].items()}
    oracle, history = getattr(torch.optim, kind)(p.values(), lr=1.0, **options), []
    steps, warmup, high, low = (settings[name] for name in ("steps", "warmup", "lr", "min_lr"))
    up = [high * (n + 1) / (warmup + 1) for n in range(warmup)]
    down = (1 + torch.linspace(0, torch.pi, steps - warmup, dtype=torch.float64).cos()) / 2 * (high - low) + low
    for n, (rate, batch) in enumerate(zip([*up, *down.tolist()], found["batches"], strict=True), start=1):
        chosen = [rows[tuple(row)] for row in batch.tolist()]
        x = p["embedding.weight"][inputs[0][chosen]] * (1.0 if len(inputs) == 1 else inputs[1][chosen][..., None])
        x = torch.tanh(x @ p["inner.weight"] + p["inner.bias"]) @ p["outer.weight"] + p["outer.bias"]
        loss = F.cross_entropy(x.flatten(0, 1), targets[chosen].flatten())
        oracle.param_groups[0]["lr"] = rate
        oracle.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(p.values(), settings["clip"])
        oracle.step()
        history.append({"step": n, "loss": float(loss), "lr": rate, "norm": float(norm)})
    return {name: value.detach().numpy() for name, value in p.items()}, history


draw = np.random.default_rng(check.seed(6))
for N, batch_size, steps, warmup, clip, kind, options, two in (
    (13, 4, 11, 2, 0.2, "AdamW", {"weight_decay": 0.5, "eps": 1e-3}, False),
    (8, 4, 6, 0, 1e6, "SGD", {"momentum": 0.8}, True),
    (5, 1, 7, 6, 0.5, "AdamW", {"eps": 1e-2, "betas": (0.5, 0.8)}, True),
    (3, 9, 4, 1, 0.1, "SGD", {}, False),
):
    ids = np.concatenate(
        [np.arange(N)[:, None] % 11, np.arange(N)[:, None] // 11, draw.integers(11, size=(N, 3))], axis=1
    )
    gain = draw.uniform(0.5, 2, size=ids.shape)
    arrays = (ids, gain, (ids * 3 + 1) % 11) if two else (ids, (ids * 3 + 1) % 11)
    settings = {"steps": steps, "batch_size": batch_size, "lr": 0.1, "min_lr": 0.01, "warmup": warmup, "clip": clip}
    case = f"{N} examples in batches of {batch_size}, {steps} steps, warm-up {warmup}, clip {clip:g}, {kind} {options}"
    found = trained(settings, arrays, kind=kind, options=options, keep=False)
    per_epoch = -(-N // batch_size)
    sizes = [min(batch_size, N - batch_size * (step % per_epoch)) for step in range(steps)]
    check.equal([len(batch) for batch in found["batches"]], sizes, f"{case}: the sizes of the batches")
    for first in range(0, steps - per_epoch + 1, per_epoch):
        seen = np.concatenate(found["batches"][first : first + per_epoch])[:, 0].tolist()
        check.equal(sorted(seen), sorted(ids[:, 0].tolist()), f"{case}: the examples of the epoch after step {first}")
    weights, history = by_torch(found, arrays, settings, kind, options)
    check.equal([sorted(row) for row in found["history"]], [sorted(row) for row in history], f"{case}: the rows' keys")
    for key in ("step", "lr", "loss", "norm"):
        got, want = (np.array([row[key] for row in rows], dtype=float) for rows in (found["history"], history))
        check.close(got, want, f"{case}: {key} in the history", atol=1e-6)
    for name, value in weights.items():
        check.close(found["weights"][name], value, f"{case}: {name} at the end, as with PyTorch's parts", atol=1e-5)
    check.that(found["arrays are as before"], f"{case}: the arrays are as before")
    check.equal(found["kinds"], ["float", "int"], f"{case}: the types of the numbers in the history")
ids = np.arange(40).reshape(40, 1) % 11 * np.array([[1, 4]]) % 11
found = trained({"steps": 20, "batch_size": 8}, (np.arange(40)[:, None] % 11, ids[:, :1]), dtype="float32")
check.equal(found["dtypes"], ["float32"], "a float32 model: the dtypes of its parameters after 20 steps")
ids = np.concatenate([np.arange(11).repeat(3)[:, None], np.tile(np.arange(3), 11)[:, None]], axis=1)
found = trained({"steps": 10, "batch_size": 7}, (ids, ids), keep=False)["batches"]
first, second = np.concatenate(found[:5]).tolist(), np.concatenate(found[5:]).tolist()
check.that(first != second, "33 examples: the second epoch has another order than the first")
other = trained({"steps": 5, "batch_size": 7, "seed": 1}, (ids, ids), keep=False)["batches"]
check.that(first != np.concatenate(other).tolist(), "33 examples: another seed gives another order")
### END HIDDEN TESTS

# %% test="train" points=4
from coursekit import check

import numpy as np

ids = np.concatenate([np.arange(10)[:, None], (np.arange(10)[:, None] ** 2 + np.arange(3)) % 11], axis=1)
arrays = ids, (ids * 2 + 1) % 11
settings = {"steps": 8, "batch_size": 4, "lr": 0.03, "warmup": 2, "save_every": 2, "eval_every": 3}
whole = trained(settings, arrays)
halves = trained(settings, arrays, (5, None))
check.equal(
    halves["weights"]["inner.weight"],
    whole["weights"]["inner.weight"],
    "epochs of 3 steps, stopped after 5 of 8 steps, and resumed: a weight at the end, to the bit",
    hint="The run has stopped in the middle of an epoch. Which of its examples come next, and which are done?",
)
check.equal(halves["files"], ["run.npz"], "the files at the end")
rows = trained(settings, arrays, measured=True)["history"]
check.equal(
    [row["step"] for row in rows if "size" in row], [3, 6, 8], "8 steps, eval_every 3: the steps that are measured"
)
stopped = trained(settings, arrays, (None, None), interrupt_at=6)
check.equal(stopped["ended"], ["KeyboardInterrupt", ""], "Ctrl-C in step 7, then a second call: how the two calls end")
check.equal(len(stopped["batches"]), 2, "Ctrl-C in step 7, a checkpoint after step 6: the steps of the second call")
check.equal(
    stopped["weights"]["inner.weight"],
    whole["weights"]["inner.weight"],
    "Ctrl-C in step 7 of 8, and resumed: a weight at the end, to the bit",
)
### BEGIN HIDDEN TESTS
draw = np.random.default_rng(check.seed(8))
ids = np.concatenate([np.arange(11)[:, None], draw.integers(11, size=(11, 3))], axis=1)
arrays = ids, draw.uniform(0.5, 2, size=ids.shape), (ids * 2 + 1) % 11
settings |= {"steps": 9, "clip": 0.5}
for kind, options, several in (
    ("AdamW", {}, ((1, None), (3, None), (4, 6, 99), (2, 2, None), (8, 7, None))),
    ("SGD", {"momentum": 0.9}, ((4, None),)),
):
    common = {"arrays": arrays, "kind": kind, "options": options, "measured": True}
    whole = trained(settings, **common)

    def same(found, what, whole=whole):
        check.equal([row["step"] for row in found["history"]], list(range(1, 10)), f"{what}: the steps in the history")
        for key in ("loss", "lr", "norm", "size"):
            got = [row[key] for row in found["history"] if key in row]
            want = [row[key] for row in whole["history"] if key in row]
            check.equal(got, want, f"{what}: {key} in the history, to the bit")
        for name, value in whole["weights"].items():
            check.equal(found["weights"][name], value, f"{what}: {name} at the end, to the bit")

    check.equal(whole["in the file"], {"step": 9, "rows": 9}, f"{kind}: what is in the file at the end")
    w = whole["weights"]
    logits = np.tanh((w["embedding.weight"][ids[:3]] * arrays[1][:3, :, None]) @ w["inner.weight"] + w["inner.bias"])
    size = np.abs(logits @ w["outer.weight"] + w["outer.bias"]).mean()
    check.close(whole["history"][-1]["size"], size, f"{kind}: what is measured last belongs to the last weights")
    check.equal(
        [row["calls"] for row in whole["history"] if "calls" in row], [1, 2, 3], f"{kind}: measured once a time"
    )
    same(trained(settings, keep=False, **common), f"{kind}, without a file")
    for stops in several:
        found = trained(settings, stops=stops, name="run", **common)
        what = f"{kind}, epochs of 3 steps, calls with until={', '.join(map(str, stops))}"
        same(found, what)
        left = 9 - max(stop for stop in stops[:-1])
        hint = "until counts the steps of the run; a call writes a checkpoint after its last step, whatever save_every says."
        check.equal(len(found["batches"]), left, f"{what}: the steps of the last call", hint=hint)
        check.equal(found["files"], ["run"], f"{what}: the files at the end")
    # Ctrl-C in any call of the model, in the first call of train or in the second, and while something is measured.
    for call, stops, number, left in (
        (0, (None, None), 0, 9),
        (3, (None, None), 0, 7),
        (5, (None, None), 0, 5),
        (2, (3, None, None), 1, 5),
    )[-len(several) :]:
        found = trained(settings, stops=stops, interrupt_at=call, interrupt_in=number, **common)
        what = f"{kind}, Ctrl-C in call {call} of the model in call {number} of train, and resumed"
        ended = ["", *[""] * len(stops[1:])]
        ended[number] = "KeyboardInterrupt"
        check.equal(found["ended"], ended, f"{what}: how the calls end")
        same(found, what)
        check.equal(len(found["batches"]), left, f"{what}: the steps of the last call")
    blind = trained(settings, **(common | {"measured": False}))
    for name, value in whole["weights"].items():
        check.equal(
            blind["weights"][name], value, f"{kind}, nothing measured: {name} at the end is the same, to the bit"
        )
narrow = [trained(settings, arrays, stops, dtype="float32")["weights"] for stops in ((None,), (4, None))]
for name, value in narrow[0].items():
    check.equal(narrow[1][name], value, f"float32, stopped after step 4 and resumed: {name} at the end, to the bit")
# The whole data in one batch: every epoch has one step.
single = [trained(settings | {"batch_size": 20}, arrays, stops)["weights"] for stops in ((None,), (4, None))]
for name, value in single[0].items():
    check.equal(single[1][name], value, f"epochs of one step, stopped after step 4 and resumed: {name}, to the bit")
# What must not go on.
for spoil in ("file", "settings"):
    found = trained(settings, arrays, (2, None), spoil=spoil)
    check.equal(found["ended"], ["", "ValueError"], f"the {spoil} changed before the second call: how both calls end")
found = trained(settings, arrays, spoil="weights")
check.equal(found["ended"], ["FloatingPointError"], "a NaN among the weights: how the call ends")
check.equal(found["files"], [], "a NaN among the weights: nothing is saved")
### END HIDDEN TESTS


# %% alternative="train"
def train(model, loss, optimizer, arrays, config, measure=None, path=None, until=None):
    # A while loop with an epoch inside, and a generator that is set back by hand.
    state = TrainState(model=model, optimizer=optimizer, rng=np.random.default_rng(config.seed))
    if path and os.path.isfile(path):
        load_checkpoint(path, state, config)
    goal = min(config.steps, config.steps if until is None else until)
    length = -(-len(arrays[-1]) // config.batch_size)
    while state.step < goal:
        before = state.rng.bit_generator.state
        order = list(minibatches(arrays, config.batch_size, state.rng))
        after = state.rng.bit_generator.state
        for place in range(state.step % length, length):
            if state.step >= goal:
                break
            optimizer.lr = float(lr_at(state.step, config))
            for p in model.parameters().values():
                p.grad = np.zeros_like(p.grad)
            row = {"lr": optimizer.lr, "loss": float(loss(model(*order[place][:-1]), order[place][-1]))}
            model.backward(loss.backward())
            row["norm"] = clip_gradients(model.parameters(), config.clip)
            optimizer.step()
            state.step += 1
            row["step"] = state.step
            due = state.step % config.eval_every == 0 or state.step == config.steps
            if due and measure:
                for name, number in measure(model).items():
                    row[name] = float(number)
            state.history.append(row)
            state.rng.bit_generator.state = after if place == length - 1 else before
            if path and (state.step % config.save_every == 0 or state.step == goal):
                save_checkpoint(path, state, config)
                print("saved after step", state.step)
    return state.history


# %% mistakes="train"
{
    "the gradients are never set to zero, so every step adds to those before": ("        model.zero_grad()\n", ""),
    "the gradients are set to zero after the backward pass, and nothing moves": [
        ("        model.zero_grad()\n", ""),
        (
            "        model.backward(loss.backward())\n",
            "        model.backward(loss.backward())\n        model.zero_grad()\n",
        ),
    ],
    "the gradients are set to zero after the step, so what was there before the run acts on the first one": [
        ("        model.zero_grad()\n", ""),
        ("        optimizer.step()\n", "        optimizer.step()\n        model.zero_grad()\n"),
    ],
    "the optimiser steps before the gradient is clipped, which is then of no use": (
        "        norm = clip_gradients(model.parameters(), config.clip)\n        optimizer.step()\n",
        "        optimizer.step()\n        norm = clip_gradients(model.parameters(), config.clip)\n",
    ),
    "the rate is one step ahead": ("optimizer.lr = lr_at(step,", "optimizer.lr = lr_at(step + 1,"),
    "the rate is set after the step": [
        ("        optimizer.lr = lr_at(step, config)\n", ""),
        ("        optimizer.step()\n", "        optimizer.step()\n        optimizer.lr = lr_at(step, config)\n"),
    ],
    "the rate is that of the start at every step": ("lr_at(step, config)", "lr_at(0, config)"),
    "the loss is measured after the step": (
        "        optimizer.step()\n",
        "        optimizer.step()\n        value = loss.forward(model.forward(*inputs), targets)\n        model.calls.pop()\n",
    ),
    "a run that goes on in the middle of an epoch begins the epoch again": (
        "minibatches(arrays, config.batch_size, rng), step % per_epoch, None)",
        "minibatches(arrays, config.batch_size, rng), None)",
    ),
    "the generator is saved as it is after the shuffle, so the rest of an epoch gets another order": (
        "rng = copy.deepcopy(state.rng)",
        "rng = state.rng",
    ),
    "the generator of a run that goes on is seeded anew": (
        "rng = copy.deepcopy(state.rng)",
        "rng = copy.deepcopy(state.rng) if step % per_epoch == 0 else np.random.default_rng(config.seed)",
    ),
    "every epoch has the same order": ("            state.rng, epoch = rng, None\n", "            epoch = None\n"),
    "the generator is handed over after the checkpoint is written, so a run that stops at the end of an epoch repeats it": [
        ("            state.rng, epoch = rng, None\n", "            epoch = None\n"),
        (
            "            save_checkpoint(path, state, config)\n",
            "            save_checkpoint(path, state, config)\n        if epoch is None:\n            state.rng = rng\n",
        ),
    ],
    "the last, smaller batch is never used": (
        "math.ceil(len(first) / config.batch_size)",
        "max(len(first) // config.batch_size, 1)",
    ),
    "the seed of the settings is ignored": ("np.random.default_rng(config.seed))", "np.random.default_rng(0))"),
    "only the first array goes to the model": (
        "loss.forward(model.forward(*inputs)",
        "loss.forward(model.forward(inputs[0])",
    ),
    "the history begins anew with every call": (
        "    epoch = None\n    for",
        "    epoch = None\n    state.history = []\n    for",
    ),
    "the first step has the number 0": ('row = {"step": state.step,', 'row = {"step": step,'),
    "the norm in the history is the one after clipping": ('"norm": norm}', '"norm": min(norm, config.clip)}'),
    "the numbers in the history are NumPy's": [
        ('"lr": optimizer.lr, "norm": norm}', '"lr": np.float64(optimizer.lr), "norm": np.float64(norm)}'),
    ],
    "what is measured does not get into the history": (
        "            row |= {name: float(number) for name, number in measure(model).items()}\n",
        "            measure(model)\n",
    ),
    "something is measured at the end of every call, although the run is not done": (
        "state.step == config.steps)",
        "state.step == last)",
    ),
    "something is measured at every step": (
        " and (state.step % config.eval_every == 0 or state.step == config.steps):",
        ":",
    ),
    "nothing is measured at the last step": (" or state.step == config.steps):", "):"),
    "it is measured before the step and not after": [
        (
            "            row |= {name: float(number) for name, number in measure(model).items()}\n",
            "            row |= measured\n",
        ),
        (
            "        optimizer.step()\n",
            "        measured = {}\n"
            "        if measure is not None and ((step + 1) % config.eval_every == 0 or step + 1 == config.steps):\n"
            "            measured = {name: float(number) for name, number in measure(model).items()}\n"
            "        optimizer.step()\n",
        ),
    ],
    "a run never goes on, it always begins anew": (
        "    if path is not None and os.path.exists(path):",
        "    if False:",
    ),
    "a checkpoint that cannot be loaded is passed over, and the run begins anew": (
        "        load_checkpoint(path, state, config)\n",
        "        with contextlib.suppress(ValueError):\n            load_checkpoint(path, state, config)\n",
    ),
    "nothing is ever saved": (
        "    if path is not None and (state.step % config.save_every == 0 or state.step == last):",
        "    if False:",
    ),
    "a checkpoint is written only when the call is done, so Ctrl-C loses all of it": (
        "(state.step % config.save_every == 0 or state.step == last)",
        "state.step == last",
    ),
    "nothing is saved when the call is done, unless that is a multiple of save_every": (
        " or state.step == last):\n            save",
        "):\n            save",
    ),
    "save_every counts the steps of this call and not those of the run": [
        ("    epoch = None\n    for", "    epoch, begun = None, state.step\n    for"),
        ("(state.step % config.save_every == 0 or", "((state.step - begun) % config.save_every == 0 or"),
    ],
    "the checkpoint is written before the row is in the history": [
        ("        state.history.append(row)\n", ""),
        (
            "            save_checkpoint(path, state, config)\n",
            "            save_checkpoint(path, state, config)\n        state.history.append(row)\n",
        ),
    ],
    "Ctrl-C saves in the middle of a step, with a batch that is drawn and not learned from": [
        (
            "        value = loss.forward(model.forward(*inputs), targets)\n",
            "        try:\n            value = loss.forward(model.forward(*inputs), targets)\n"
            "        except KeyboardInterrupt:\n            state.step = step + 1\n            if path is not None:\n"
            "                save_checkpoint(path, state, config)\n            raise\n",
        ),
    ],
    "Ctrl-C is swallowed, and the call ends as if it were done": (
        "        value = loss.forward(model.forward(*inputs), targets)\n",
        "        try:\n            value = loss.forward(model.forward(*inputs), targets)\n"
        "        except KeyboardInterrupt:\n            break\n",
    ),
    "until counts the steps of this call and not those of the run": (
        "min(until, config.steps)",
        "min(state.step + until, config.steps)",
    ),
    "one step too many is done after a stop": ("min(until, config.steps)", "min(until + 1, config.steps)"),
    "until is not bounded by the steps of the run": ("else min(until, config.steps)", "else until"),
}

# %% [markdown]
# ## Look at it
#
# Now the whole model of [Lab 0.7](lab07_backpropagation.ipynb), in float32, on English words out of the reference of the Python language. It reads up to 16
# letters and guesses the next one at each place. Three optimisers get 240 steps each, at a learning rate that suits them. `measure` takes the loss on
# pieces that are not trained on. Then AdamW once more: the machine is switched off after step 120, which here means that model and optimiser are
# thrown away.

# %%
from pydoc_data.topics import topics

import plotly.graph_objects as go

LanguageModel, ModelConfig = carry("ch00/lab07", "LanguageModel"), carry("ch00/lab07", "ModelConfig")
letters = " abcdefghijklmnopqrstuvwxyz"
lower = " ".join(topics[name].lower() for name in sorted(topics))
words = "".join(c if c in letters else " " for c in lower).split()
codes = np.array([letters.index(c) for c in " ".join(words)])
pieces = codes[: len(codes) // 17 * 17].reshape(-1, 17)
pieces = pieces[np.random.default_rng(0).permutation(len(pieces))]
held_out, pieces = pieces[:100], pieces[100:4100]
shape = ModelConfig(vocab_size=27, context=16, d_model=32, n_layers=2, n_heads=4, d_ff=64)


def validation(model):
    return {"validation": CrossEntropy().forward(model.forward(held_out[:, :-1]), held_out[:, 1:])}


def run(make, lr, path=None, until=None, seed=0):
    """The history of a run, and its model."""
    model = LanguageModel(replace(shape, seed=seed)).astype("float32")
    recipe = TrainConfig(steps=240, batch_size=32, lr=lr, min_lr=lr / 10, warmup=10, eval_every=60, save_every=60)
    optimizer = make(model.parameters())
    data = pieces[:, :-1], pieces[:, 1:]
    return train(model, CrossEntropy(), optimizer, data, recipe, validation, path, until), model


def smooth(values, width=15):
    return np.convolve(values, np.ones(width) / width, mode="valid")


runs = {
    "SGD": run(lambda parameters: SGD(parameters, lr=1.0), lr=1.0),
    "SGD with momentum": run(lambda parameters: SGD(parameters, lr=0.2, momentum=0.9), lr=0.2),
    "AdamW": run(AdamW, lr=0.01),
}
with tempfile.TemporaryDirectory() as folder:
    place = os.path.join(folder, "words.npz")
    run(AdamW, lr=0.01, path=place, until=120)
    runs["AdamW, resumed"] = run(AdamW, lr=0.01, path=place, seed=99)
    bytes_in_file = os.path.getsize(place)
values = [[np.array(p.value) for p in runs[name][1].parameters().values()] for name in ("AdamW", "AdamW, resumed")]
print(f"\n{sum(value.size for value in values[0]):,} parameters, {len(codes):,} letters")
for name, (history, _) in runs.items():
    print(f"{name:18} validation loss {history[-1]['validation']:.3f}")
print("the same weights, to the bit:", all(map(np.array_equal, *values)))
print(f"the checkpoint has {bytes_in_file:,} bytes, the weights alone {sum(value.nbytes for value in values[0]):,}")

figure = go.Figure()
for colour, (name, (history, _)) in zip([*plots.COLOURS[:3], plots.GREY], runs.items(), strict=True):
    losses = smooth([row["loss"] for row in history])
    figure.add_scatter(
        x=np.arange(15, 241),
        y=losses,
        name=name,
        mode="lines",
        line={"color": colour, "width": 3, "dash": "dot" if "resumed" in name else "solid"},
        hovertemplate="step %{x}: %{y:.3f}",
    )
figure.add_vline(x=120, line={"color": plots.GREY, "dash": "dash"})
figure.update_xaxes(title_text="step")
figure.update_yaxes(title_text="training loss (nats)", range=[2.2, 3.2])
figure.update_layout(height=400, legend={"orientation": "h", "y": -0.25})
figure.show()

# %% [markdown]
# The dotted line lies on the one of AdamW: nothing tells where the machine was switched off. Now look at the three others. They end close together, at rates that differ by a factor of a hundred. So
# what does one gain with AdamW? Multiply all three rates by 10, then divide them by 10, and note what each loses. (The rate that counts is the one given to `run`: `train` writes it to the
# optimiser.) The belt is on, too: `clip` is 1. Take it off: write `clip=100` into the `TrainConfig` in `run`, and try the large rates again. (It is one run each, so do not make much of small
# differences.)
#
# <details><summary>An answer</summary>With a tenth of the rate all three lose about as much. With ten times the rate AdamW loses the least. Without the belt SGD is lost at the large rate, and AdamW
# hardly notices, since its step does not grow with the gradient. So it does not win here. It forgives.</details>
#
# Then the size of the file. Divide it by that of the weights. Which part of it is three times the weights, and what is the rest?
#
# <details><summary>An answer</summary>AdamW's two running means are as large as the weights, so the arrays have three times their size. SGD with momentum would need twice, plain SGD once. The rest
# is text: the history, about a hundred characters for each step, and some 300 bytes for the name, shape and place of each array. (A text saved as <code>np.array(text)</code> takes four bytes for
# each character. As bytes it takes one.)</details>
#
# One more experiment. In a cell of your own run `run(AdamW, lr=0.01, path="words.npz")` and press the stop button. Run the cell again. The bar goes on where the last checkpoint
# was. How many steps did you lose, and which setting decides that? Delete the file when you are done. With another rate it would be refused.
#
# ## Common mistakes
#
# - **Gradients that are never set to zero.** `backward` adds. Without `zero_grad` each step uses the sum of all gradients so far. It is momentum that never forgets, and for a while it
#   trains.
# - **A resume that shuffles anew.** The state of the generator is saved, but it is the state after the shuffle. Some examples are seen twice in an epoch,
#   others not at all.
# - **A checkpoint of weights only.** The velocities start at zero again, and Adam's correction believes that it is in its first step.
# - **Inputs and targets shuffled apart.** The loss falls to that of a model that knows the frequencies of the answers, and stays there. It looks like a model that is too
#   small.
# - **float64 by accident.** One NumPy number among the settings, `np.float64(0.001)` for the learning rate or the count in `beta**t`, and after one step a float32 model
#   is float64: the same results, more slowly.
# - **Clipping after the step.** Nothing complains, and the norm in the log looks right.
# - **Decay inside the gradient.** For plain SGD it is the same. With momentum the velocity adds the decay up, like all else. For Adam it is another method.
# - **`path` without its ending.** `np.savez("run")` writes `run.npz`. The loop looks for `run`, finds nothing, and begins anew, every time.
# - **Saving in place.** The machine dies while it writes, and the only checkpoint is half a file. (Against a power cut the new file must also have reached the disk
#   before the rename: `os.fsync`.)
#
# [Lab 0.9](lab09_training_dynamics.ipynb) trains a model to add with this loop, and looks inside while it learns. The same loop in torch, with batches cut in parts, dropout and bfloat16, is
# [Lab 4.3](../ch04_training/lab03_training_loop.ipynb).
#
# ## Going further
#
# - **Look ahead.** Nesterov's momentum takes the gradient where the velocity is about to lead. `torch.optim.SGD` has it as `nesterov=True`. Which of this lab's mistakes is it, and
#   does it help on the words? (Ilya Sutskever, James Martens, George Dahl, Geoffrey Hinton, On the Importance of Initialization and Momentum in Deep Learning, 2013.)
# - **Who needs the second mean?** Lion keeps one mean and steps by its *sign*, so a checkpoint is a third smaller. Write it, and find its learning rate. (Xiangning Chen and others, Symbolic
#   Discovery of Optimization Algorithms, 2023.)
# - **Decay only what multiplies.** A gain of 1 in a norm is not something to shrink. `AdamW` takes any dict of parameters: with two of them, one for matrices and one for the rest, what
#   has to change in `train` and in the checkpoint?
