"""The training loop: the reference. Generated from source_solutions/ch00_numpy/lab08_training_loop.py by `course build`; do not edit."""

# %% given
import numpy as np

from coursekit import carry

Layer = carry("ch00/lab01", "Layer")
Parameter = carry("ch00/lab01", "Parameter")

# %% given
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

# %% given
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

# %% exercise="minibatches"
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
    N = len(arrays[0])
    if batch_size < 1 or any(len(array) != N for array in arrays):
        raise ValueError(f"batches of {batch_size} out of arrays of lengths {[len(array) for array in arrays]}")
    order = rng.permutation(N)
    for start in range(0, N, batch_size):
        rows = order[start : start + batch_size]
        yield tuple(array[rows] for array in arrays)

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

# %% given
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

# %% exercise="SGD"
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
        self.parameters, self.lr = parameters, lr
        self.momentum, self.weight_decay = momentum, weight_decay
        self.state = {name: np.zeros_like(p.value) for name, p in parameters.items()}  # the velocities

    def step(self) -> None:
        """Change the ``value`` of every parameter. Gradients stay as they are, and float32 parameters stay float32."""
        for name, p in self.parameters.items():
            grad = p.grad + self.weight_decay * p.value
            velocity = self.momentum * self.state[name] + grad
            p.value = p.value - self.lr * velocity
            self.state[name] = velocity


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
    norm = math.sqrt(sum(float(np.sum(p.grad.astype(np.float64) ** 2)) for p in parameters.values()))
    if not math.isfinite(norm):
        raise FloatingPointError(f"the gradient has length {norm}")
    if norm > max_norm:
        for p in parameters.values():
            p.grad = p.grad * (max_norm / norm)
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

# %% exercise="Adam"
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
        self.parameters, self.lr = parameters, lr
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.state = {"t": np.array(0)}
        for name, p in parameters.items():
            self.state[f"m.{name}"] = np.zeros_like(p.value)
            self.state[f"v.{name}"] = np.zeros_like(p.value)

    def step(self) -> None:
        """Change the ``value`` of every parameter. Gradients stay as they are, and float32 parameters stay float32."""
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
        super().__init__(parameters, lr, betas, eps)  # nothing goes into the gradient
        self.decay = weight_decay

    def step(self) -> None:
        """Change the ``value`` of every parameter. Gradients stay as they are, and float32 parameters stay float32."""
        for p in self.parameters.values():
            p.value = p.value * (1 - self.lr * self.decay)
        super().step()

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

# %% given
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

# %% exercise="save_checkpoint"
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

# %% given
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

# %% exercise="train"
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
