"""The training loop: the reference. Generated from source_solutions/ch04_training/lab03_training_loop.py by `course build`; do not edit."""

# %% given
import math

import torch
from torch import nn
from torch.nn import functional as F


class TinyLM(nn.Module):
    """A language model of 168 numbers, for checks: it reads a token and the mean of all tokens up to it.

    Attributes:
        calls: what it was asked so far: (sequences, tokens, gradients wanted?, training mode?) for every call.
        interrupt_at: the number of the call in which somebody presses Ctrl-C; None for never.
    """

    def __init__(self, dropout: float = 0.0, seed: int = 0, interrupt_at: int | None = None):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.token = nn.Parameter(torch.randn(11, 8, generator=generator))  # the table, and the head
        self.gain = nn.Parameter(torch.ones(8))
        self.w = nn.Parameter(torch.randn(8, 8, generator=generator) / 3)
        self.b = nn.Parameter(torch.zeros(8))
        self.dropout = nn.Dropout(dropout)
        self.calls, self.interrupt_at = [], interrupt_at

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if len(self.calls) == self.interrupt_at:
            raise KeyboardInterrupt
        self.calls.append((*ids.shape, torch.is_grad_enabled(), self.training))
        rows = self.token[ids]  # (B, T, 8)
        so_far = rows.cumsum(1) / torch.arange(1, ids.shape[1] + 1, device=ids.device)[:, None]
        x = F.layer_norm(rows + so_far, (8,)) * self.gain
        x = x + torch.tanh(self.dropout(x) @ self.w + self.b)
        return x @ self.token.T  # (B, T, 11)

# %% given
import contextlib
import io
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from tqdm import tqdm


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run.

    Attributes:
        steps: how many times the optimiser steps.
        batch_size, context: sequences of a step, and tokens of a sequence.
        lr, min_lr, warmup: the largest and the last learning rate, and the number of steps that lead up to the largest.
        betas, eps, weight_decay: of AdamW.
        clip: the largest norm that the gradient may have.
        micro_batches: how many parts a batch is cut into.
        eval_every, save_every: after how many steps the validation loss is measured, and a checkpoint written.
        bf16: whether the model computes in bfloat16 where that is safe.
        seed: of the batches and of dropout.
    """

    steps: int
    batch_size: int
    context: int
    lr: float = 1e-3
    min_lr: float = 1e-4
    warmup: int = 0
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0
    micro_batches: int = 1
    eval_every: int = 100
    save_every: int = 100
    bf16: bool = False
    seed: int = 0


@dataclass
class TrainState:
    """All that a run changes as it goes.

    Attributes:
        model: what is trained.
        optimizer: your AdamW over the model's parameters.
        generator: draws the batches.
        step: how many steps are done.
        history: a dict of numbers for each of them.
    """

    model: nn.Module
    optimizer: Any
    generator: torch.Generator
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def summed_loss(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, bf16: bool = False) -> torch.Tensor:
    """The sum of -ln(probability of the target) over all targets that are not -100, in float32 or better."""
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        logits = model(inputs.to(device)).flatten(0, 1)  # (b * T, V)
    logits = logits.float() if logits.dtype == torch.bfloat16 else logits
    return F.cross_entropy(logits, targets.to(device).flatten(), ignore_index=-100, reduction="sum")


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
def first_batches(
    data: torch.Tensor, batch_size: int, context: int, seed: int, n: int, restart: int | None = None
) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], bool]:
    """For the checks of exercise 1: the first n batches, and whether torch's own random state was left alone.

    With ``restart`` a new stream takes over after that many batches, with a generator in the state of the old one.
    """
    before = torch.get_rng_state()
    generator = torch.Generator().manual_seed(seed)
    stream, found = iter(batches(data, batch_size, context, generator)), []
    for number in range(n):
        if number == restart:
            state, generator = generator.get_state(), torch.Generator()
            generator.set_state(state)
            stream = iter(batches(data, batch_size, context, generator))
        inputs, targets = next(stream)
        found.append((inputs, targets))
    return found, torch.equal(before, torch.get_rng_state())

# %% exercise="batches"
def batches(
    data: torch.Tensor, batch_size: int, context: int, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """An endless stream of batches: random pieces of one long text.

    Args:
        data: (N,), token numbers of any integer dtype.
        batch_size: how many pieces a batch holds.
        context: how many tokens the model reads of each.
        generator: draws every random number; no other source of chance is used or disturbed. Nothing is drawn before it
            is needed: a new stream with a generator in the same state goes on with the same batches.

    Yields:
        (inputs, targets), both (batch_size, context) and int64. Row b belongs to a piece of context + 1 neighbouring tokens
        of ``data``: inputs are all of them but the last, targets all but the first. Pieces begin anywhere that a whole
        piece fits, every place as probable as any other, and independently of each other.

    Raises:
        ValueError: if ``data`` is shorter than one piece; at the latest when the first batch is asked for.
    """
    places = len(data) - context  # a piece of context + 1 tokens can begin at 0 ... N - context - 1
    if places < 1:
        raise ValueError(f"{len(data)} tokens are less than one piece of {context + 1}")
    offsets = torch.arange(context + 1)
    while True:
        starts = torch.randint(places, (batch_size, 1), generator=generator)
        pieces = data[starts + offsets].long()  # (B, 1) + (context + 1,) -> (B, context + 1)
        yield pieces[:, :-1], pieces[:, 1:]

# %% mistakes="batches"
{
    "the targets are not shifted: they are the inputs": (
        "pieces[:, :-1], pieces[:, 1:]",
        "pieces[:, :-1], pieces[:, :-1]",
    ),
    "the shift goes the wrong way: the targets are the tokens before": (
        "yield pieces[:, :-1], pieces[:, 1:]",
        "yield pieces[:, 1:], pieces[:, :-1]",
    ),
    "the last target of each piece is missing, and its first token stands in for it": (
        "yield pieces[:, :-1], pieces[:, 1:]",
        "yield pieces[:, :-1], pieces[:, :-1].roll(-1, dims=1)",
    ),
    "pieces have context tokens, so inputs and targets have one less": (
        "offsets = torch.arange(context + 1)",
        "offsets = torch.arange(context)",
    ),
    "the last place where a piece fits is never used": (
        "torch.randint(places,",
        "torch.randint(max(places - 1, 1),",
    ),
    "the first place is never used": ("generator=generator)", "generator=generator).clamp(min=min(1, places - 1))"),
    "pieces begin at multiples of context only": (
        "torch.randint(places, (batch_size, 1), generator=generator)",
        "torch.randint((places + context - 1) // context, (batch_size, 1), generator=generator) * context",
    ),
    "all pieces of a batch begin at the same place": (
        "(batch_size, 1), generator=generator)",
        "(1, 1), generator=generator).expand(batch_size, 1)",
    ),
    "the pieces of a batch begin one token apart": (
        "(batch_size, 1), generator=generator)",
        "(1, 1), generator=generator).add(torch.arange(batch_size)[:, None]) % places",
    ),
    "the text is read in order, and nothing is drawn": [
        ("offsets = torch.arange(context + 1)", "offsets, at = torch.arange(context + 1), 0"),
        (
            "starts = torch.randint(places, (batch_size, 1), generator=generator)",
            "starts = (at + context * torch.arange(batch_size)[:, None]) % places\n        at += context * batch_size",
        ),
    ],
    "every batch is the first batch: the generator begins anew each time": (
        "starts = torch.randint(",
        "generator.manual_seed(generator.initial_seed())\n        starts = torch.randint(",
    ),
    "chance comes from torch's own random state, and the generator is ignored": (", generator=generator)", ")"),
    "a thousand batches are drawn ahead, so the generator's state says nothing about the next one": (
        "    while True:\n        starts = torch.randint(places, (batch_size, 1), generator=generator)",
        "    for starts in torch.randint(places, (1000, batch_size, 1), generator=generator):",
    ),
    "the dtype of the text is kept, and it should be int64": (".long()", ""),
    "a text that is too short is not refused: torch.randint fails instead": (
        '    if places < 1:\n        raise ValueError(f"{len(data)} tokens are less than one piece of {context + 1}")\n',
        "",
    ),
}

# %% given
def descend(
    start: list[torch.Tensor],
    gradients: list[list[torch.Tensor | None]],
    groups: list[dict[str, Any]] | None = None,
    rates: list[float] | None = None,
    restart: int | None = None,
    **settings: Any,
) -> torch.Tensor:
    """For the checks of exercise 2: all numbers of all parameters, one row for each step of your AdamW.

    Args:
        start: first values of the parameters.
        gradients: for each step the gradient of each parameter, or None.
        groups: parameter groups, whose "params" are positions in ``start``; one plain group if left out.
        rates: the learning rate of each step, written into all groups.
        restart: before this step a new optimiser takes over, with the old one's state from a file.
    """

    def optimizer_of(values):
        parameters = [nn.Parameter(value.clone()) for value in values]
        if groups is None:
            return parameters, AdamW(iter(parameters), **settings)
        own = [group | {"params": [parameters[i] for i in group["params"]]} for group in groups]
        return parameters, AdamW(own, **settings)

    (parameters, optimizer), path = optimizer_of(start), []
    for step, wanted in enumerate(gradients):
        if step == restart:
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            parameters, optimizer = optimizer_of([parameter.detach() for parameter in parameters])
            optimizer.load_state_dict(torch.load(file, weights_only=True))
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] if rates is None else rates[step]
        for parameter, gradient in zip(parameters, wanted, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        optimizer.step()
        path.append(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    return torch.stack(path)


def moments(optimizer: Any) -> list[torch.Tensor]:
    """All tensors and numbers of an optimiser's state_dict, as copies."""

    def inside(value):
        if isinstance(value, dict):
            return [leaf for key in sorted(value, key=str) for leaf in inside(value[key])]
        if isinstance(value, list | tuple):
            return [leaf for item in value for leaf in inside(item)]
        return [torch.as_tensor(value).clone()] if isinstance(value, torch.Tensor | int | float) else []

    return inside(optimizer.state_dict())


def optimizer_facts(start: torch.Tensor, gradients: list[torch.Tensor]) -> dict[str, Any]:
    """For the checks of exercise 2: what happens around the steps of an AdamW over one parameter. See the keys."""

    def stepped(optimizer, parameter, wanted):
        for gradient in wanted:
            parameter.grad = gradient.clone()
            optimizer.step()
        return parameter.detach().clone()

    def refusal(call):
        try:
            call()
        except NotImplementedError:
            raise
        except Exception as error:
            return type(error).__name__
        return "nothing was raised"

    one, other, third = (nn.Parameter(start.clone()) for _ in range(3))
    first, second, larger = (
        AdamW([one], lr=0.1),
        AdamW([other], lr=0.1),
        AdamW([third, nn.Parameter(start[:1])], lr=0.1),
    )
    half = len(gradients) // 2
    stepped(first, one, gradients[:half])
    state = first.state_dict()
    stepped(first, one, gradients[half:])
    before = moments(second)
    facts = {"refuses the state of two parameters": refusal(lambda: second.load_state_dict(larger.state_dict()))}
    wide = AdamW([nn.Parameter(torch.cat([start, start]))])
    facts["refuses the state of a larger parameter"] = refusal(lambda: second.load_state_dict(wide.state_dict()))
    facts["is unchanged by what it refuses"] = all(map(torch.equal, moments(second), before))
    # The state that was taken half-way, before the first optimiser went on: it goes to two others.
    with torch.no_grad():
        other.copy_(start)
        third.copy_(start)
    second.load_state_dict(state)
    facts["from half-way"] = stepped(second, other, gradients[half:])
    alone = AdamW([third], lr=0.1)
    alone.load_state_dict(state)
    facts["from half-way, again"] = stepped(alone, third, gradients[half:])
    first.zero_grad()
    facts["zero_grad leaves"] = 0.0 if one.grad is None else float(one.grad.abs().sum())
    same = nn.Parameter(start.clone())
    facts["refuses a parameter twice"] = refusal(lambda: AdamW([same, one, same]))
    facts["refuses a parameter in two groups"] = refusal(lambda: AdamW([{"params": [same]}, {"params": [same]}]))
    return facts


class Zoo(nn.Module):
    """Parameters of all kinds: a table that is also the head, a norm, a bias, a filter, a scalar, a frozen matrix."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.bias_table = nn.Parameter(torch.zeros(5, 6))
        self.filter = nn.Conv1d(6, 6, 3)
        self.norm = nn.LayerNorm(6)
        self.temperature = nn.Parameter(torch.ones(()))
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.head = nn.Linear(6, 11)
        self.head.weight = self.embedding.weight


def grouped_names(weight_decay: float) -> list[list[Any]]:
    """For the checks of exercise 2: the weight decay of each group of a `Zoo`, then the names of its parameters."""
    zoo = Zoo()
    names = {id(parameter): name for name, parameter in zoo.named_parameters()}
    groups = decay_groups(zoo, weight_decay)
    return [[group["weight_decay"], *sorted(names[id(p)] for p in group["params"])] for group in groups]

# %% exercise="AdamW"
class AdamW:
    """Adam with decoupled weight decay.

    Args:
        params: parameters in any iterable; or a list of groups, each a dict with "params" and, where it differs from the
            settings below, its own "lr", "betas", "eps" or "weight_decay".
        lr, betas, eps, weight_decay: the settings, with the defaults of ``torch.optim.AdamW``.

    Attributes:
        param_groups: a list of dicts, one for each group (plain parameters are one group), with the keys "params" (a
            list), "lr", "betas", "eps" and "weight_decay". Whoever writes to "lr" changes the next step.

    Raises:
        ValueError: if a parameter is there twice.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019, algorithm 2; Kingma and Ba, Adam: A Method
    for Stochastic Optimization, 2015, algorithm 1.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | list[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        params = list(params)
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        groups = params if isinstance(params[0], dict) else [{"params": params}]
        self.param_groups = [settings | group | {"params": list(group["params"])} for group in groups]
        self.state = {}
        for group in self.param_groups:
            for p in group["params"]:
                if p in self.state:
                    raise ValueError("a parameter is there twice")
                self.state[p] = {"t": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}

    def step(self) -> None:
        """Change every parameter in place, by the formulas above, with the settings of its group.

        A parameter whose ``grad`` is None is left out altogether: no decay, and its count of steps stands still. All
        arithmetic is in the parameter's dtype; gradients are not changed.
        """
        with torch.no_grad():
            for group in self.param_groups:
                lr, (beta_1, beta_2) = group["lr"], group["betas"]
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    state = self.state[p]
                    state["t"] += 1
                    p.mul_(1 - lr * group["weight_decay"])
                    state["m"].mul_(beta_1).add_((1 - beta_1) * p.grad)
                    state["v"].mul_(beta_2).add_((1 - beta_2) * p.grad.square())
                    mean = state["m"] / (1 - beta_1 ** state["t"])
                    square = state["v"] / (1 - beta_2 ** state["t"])
                    p.sub_(lr * mean / (square.sqrt() + group["eps"]))

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for p in self.state:
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """All that `step` remembers from earlier steps, of all parameters in their order.

        Returns:
            A dict of numbers, strings, tensors, and lists and dicts of those. It is a snapshot: later steps do not change it.
        """
        return {"state": [{"t": s["t"], "m": s["m"].clone(), "v": s["v"].clone()} for s in self.state.values()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember what another AdamW remembered, over parameters of the same shapes: it goes on where that one stopped.

        Learning rates and other settings are not part of it. The dict may be loaded into several optimisers; they share
        nothing afterwards.

        Raises:
            ValueError: if the number of parameters or a shape differs; then nothing has changed.
        """
        theirs = state["state"]
        if [p.shape for p in self.state] != [other["m"].shape for other in theirs]:
            raise ValueError("this state belongs to other parameters")
        for mine, other in zip(self.state.values(), theirs, strict=True):
            mine["t"] = other["t"]
            mine["m"].copy_(other["m"])
            mine["v"].copy_(other["v"])


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for `AdamW`: what decays, and what does not.

    Args:
        model: any module. Parameters that need no gradient (``requires_grad`` is False) are in no group, and a parameter that
            the model holds twice, such as a table that is also the head, is in a group once.
        weight_decay: of the first group.

    Returns:
        Two dicts with the keys "params" and "weight_decay". First, with ``weight_decay``: parameters with two axes or more,
        tables of embeddings among them. Second, with 0.0: parameters with one axis or none, which are biases, gains of
        norms and single numbers. The order within a group is that of ``model.parameters()``.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]

# %% mistakes="AdamW"
{
    "the decay is added to the gradient and goes through the moments: Adam with L2, not AdamW": [
        (
            '                    p.mul_(1 - lr * group["weight_decay"])\n',
            '                    grad = p.grad + group["weight_decay"] * p\n',
        ),
        ("(1 - beta_1) * p.grad)", "(1 - beta_1) * grad)"),
        ("p.grad.square()", "grad.square()"),
    ],
    "neither moment is corrected for its start at zero": [
        ('state["m"] / (1 - beta_1 ** state["t"])', 'state["m"]'),
        ('state["v"] / (1 - beta_2 ** state["t"])', 'state["v"]'),
    ],
    "only the first moment is corrected for its start at zero": (
        'state["v"] / (1 - beta_2 ** state["t"])',
        'state["v"]',
    ),
    "only the second moment is corrected for its start at zero": (
        'state["m"] / (1 - beta_1 ** state["t"])',
        'state["m"]',
    ),
    "the correction is one step ahead: the first step counts as the second": (
        '** state["t"])',
        '** (state["t"] + 1))',
        "all",
    ),
    "the correction is that of the first step at every step": ('** state["t"])', "** 1)", "all"),
    "all parameters share one count, so one that comes late is corrected as if it had been there all along": [
        ('state["t"] += 1', "pass"),
        (
            "            for group in self.param_groups:\n                lr, (beta",
            '            for state in self.state.values():\n                state["t"] += 1\n'
            "            for group in self.param_groups:\n                lr, (beta",
        ),
    ],
    "eps stands inside the root": ('(square.sqrt() + group["eps"])', '(square + group["eps"]).sqrt()'),
    "eps is added before the correction of the second moment": (
        '(square.sqrt() + group["eps"])',
        '((state["v"].sqrt() + group["eps"]) / math.sqrt(1 - beta_2 ** state["t"]))',
    ),
    "the decay comes after the step, and shrinks the new weight": [
        ('                    p.mul_(1 - lr * group["weight_decay"])\n', ""),
        ('+ group["eps"]))', '+ group["eps"]))\n                    p.mul_(1 - lr * group["weight_decay"])'),
    ],
    "the decay is not multiplied by the learning rate": ("1 - lr * group[", "1 - group["),
    "the decay is multiplied by the learning rate of the constructor, whatever it is now": [
        ("1 - lr * group[", '1 - group["first lr"] * group['),
        ("settings | group | {", 'settings | group | {"first lr": group.get("lr", lr), '),
    ],
    "there is no decay": ('                    p.mul_(1 - lr * group["weight_decay"])\n', ""),
    "the decay is the same for all groups": ('lr * group["weight_decay"]', 'lr * self.param_groups[0]["weight_decay"]'),
    "the root of the second moment is forgotten": ("square.sqrt()", "square"),
    "the second moment averages absolute values and not squares": ("p.grad.square()", "p.grad.abs()"),
    "the step follows the gradient and not its mean": ("lr * mean /", "lr * p.grad /"),
    "the first moment adds the whole gradient, without the factor 1 - beta_1": (
        "add_((1 - beta_1) * p.grad)",
        "add_(p.grad)",
    ),
    "the two betas have changed places": ("lr, (beta_1, beta_2)", "lr, (beta_2, beta_1)"),
    "the step goes uphill": ("p.sub_(", "p.add_("),
    "the learning rate is that of the first group for all": (
        'lr, (beta_1, beta_2) = group["lr"]',
        'lr, (beta_1, beta_2) = self.param_groups[0]["lr"]',
    ),
    "a parameter without a gradient decays all the same": (
        "                    if p.grad is None:\n                        continue",
        '                    if p.grad is None:\n                        p.mul_(1 - lr * group["weight_decay"])\n'
        "                        continue",
    ),
    "a parameter without a gradient counts the step, as if the gradient were zero": (
        "                    if p.grad is None:\n                        continue",
        "                    if p.grad is None:\n                        p.grad = torch.zeros_like(p)",
    ),
    "the state has the moments and not the count, so the correction starts anew": (
        '            mine["t"] = other["t"]\n',
        "",
    ),
    "the state has the counts and not the moments": [
        ('            mine["m"].copy_(other["m"])\n', ""),
        ('            mine["v"].copy_(other["v"])\n', ""),
    ],
    "the second moment is not restored": ('            mine["v"].copy_(other["v"])\n', ""),
    "the state is no snapshot: it holds the very tensors that later steps change": (".clone()", "", "all"),
    "a loaded state is shared: two optimisers write to the same moments": (
        '            mine["m"].copy_(other["m"])\n            mine["v"].copy_(other["v"])\n',
        '            mine["m"], mine["v"] = other["m"], other["v"]\n',
    ),
    "the state of other parameters is not refused": (
        '        if [p.shape for p in self.state] != [other["m"].shape for other in theirs]:\n'
        '            raise ValueError("this state belongs to other parameters")\n',
        "        theirs = theirs[: len(self.state)]\n",
    ),
    "a parameter that is there twice is not refused": (
        '                if p in self.state:\n                    raise ValueError("a parameter is there twice")\n',
        "",
    ),
    "zero_grad does nothing": ("            p.grad = None\n", "            pass\n"),
    "everything decays, the gains of norms and the biases as well": [
        ("if p.ndim >= 2]", "]"),
        ("if p.ndim < 2]", "if p.ndim < 0]"),
    ],
    "nothing decays but biases and gains: the groups have changed places": [
        ('if p.ndim >= 2], "weight_decay": weight_decay', 'if p.ndim >= 2], "weight_decay": 0.0'),
        ('if p.ndim < 2], "weight_decay": 0.0', 'if p.ndim < 2], "weight_decay": weight_decay'),
    ],
    "only what is called a bias is left out, and the gains of norms decay": (
        "    trained = [p for p in model.parameters() if p.requires_grad]\n    return [\n"
        '        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},\n'
        '        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},',
        "    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]\n    return [\n"
        '        {"params": [p for n, p in trained if "bias" not in n], "weight_decay": weight_decay},\n'
        '        {"params": [p for n, p in trained if "bias" in n], "weight_decay": 0.0},',
    ),
    "the table of embeddings does not decay": (
        "    trained = [p for p in model.parameters() if p.requires_grad]\n    return [\n"
        '        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},\n'
        '        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},',
        "    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]\n    return [\n"
        '        {"params": [p for n, p in trained if p.ndim >= 2 and "emb" not in n], "weight_decay": weight_decay},\n'
        '        {"params": [p for n, p in trained if p.ndim < 2 or "emb" in n], "weight_decay": 0.0},',
    ),
    "only matrices decay, and filters with three axes do not": ("p.ndim >= 2", "p.ndim == 2"),
    "the tied table is there twice, as the embedding and as the head": (
        "[p for p in model.parameters() if p.requires_grad]",
        "[p for _, p in model.named_parameters(remove_duplicate=False) if p.requires_grad]",
    ),
    "frozen parameters are in the groups": (" if p.requires_grad]", "]"),
}

# %% given
def clipped(gradients: list[torch.Tensor | None], max_norm: float) -> tuple[float, list[torch.Tensor | None]]:
    """For the checks of exercise 3: what `clip_gradients` returns, and the gradients afterwards."""
    parameters = [nn.Parameter(torch.zeros(2) if g is None else torch.zeros_like(g)) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.clone()
    norm = clip_gradients(iter(parameters), max_norm)
    return norm, [parameter.grad for parameter in parameters]

# %% exercise="lr_at"
def lr_at(step: int, steps: int, warmup: int, lr: float, min_lr: float = 0.0) -> float:
    """The learning rate of one step: linear warm-up, then half a cosine.

    Args:
        step: which step, counted from 0.
        steps: how many steps the run has, so that the last is steps - 1.
        warmup: how many steps come before the first one at full rate.
        lr, min_lr: the largest rate, and that of the last step.

    Returns:
        For step < warmup: ``lr * (step + 1) / (warmup + 1)``, so that already the first step moves. At step == warmup: lr.
        From there half a period of a cosine down to min_lr at the last step, and min_lr after it. (If step == warmup is the
        last, it has lr.)

    Raises:
        ValueError: unless 0 <= warmup < steps.

    Source: Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017, equation 5, without restarts.
    """
    if not 0 <= warmup < steps:
        raise ValueError(f"a warm-up of {warmup} steps does not fit into {steps} steps")
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    way = max(steps - 1 - warmup, 1)  # steps from the largest rate to the last one
    done = min((step - warmup) / way, 1)
    return min_lr + (lr - min_lr) * (math.cos(math.pi * done) + 1) / 2


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale all gradients down, in place, so that together they are no longer than max_norm.

    Args:
        parameters: any iterable; those whose ``grad`` is None are left out.
        max_norm: the largest length allowed, positive.

    Returns:
        The length *before* clipping: the root of the sum of the squares of all numbers in all gradients; 0.0 if there are
        none. If it is no more than max_norm, all gradients stay as they are.

    Raises:
        FloatingPointError: if the length is infinite or not a number; then the gradients stay as they are.

    Source: Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, 2013, algorithm 1.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return 0.0
    norm = float(torch.stack([g.norm() for g in gradients]).norm())
    if not math.isfinite(norm):
        raise FloatingPointError(f"the gradient has length {norm}")
    if norm > max_norm:
        for g in gradients:
            g.mul_(max_norm / norm)
    return norm

# %% mistakes="lr_at"
{
    "the first step has a rate of 0: the warm-up starts one step too early": (
        "return lr * (step + 1) / (warmup + 1)",
        "return lr * step / warmup",
    ),
    "the full rate comes one step too early, at the end of the warm-up, and a second time after it": (
        "return lr * (step + 1) / (warmup + 1)",
        "return lr * (step + 1) / warmup",
    ),
    "the cosine ends one step after the last: min_lr is never reached": (
        "max(steps - 1 - warmup, 1)",
        "max(steps - warmup, 1)",
    ),
    "the cosine is stretched over all steps, warm-up included": ("max(steps - 1 - warmup, 1)", "max(steps - 1, 1)"),
    "the cosine begins at step 0 and not after the warm-up": [
        ("(step - warmup) / way", "step / way"),
        ("max(steps - 1 - warmup, 1)", "max(steps - 1, 1)"),
    ],
    "the cosine ends at 0 and not at min_lr": ("return min_lr + (lr - min_lr) *", "return lr *"),
    "min_lr is added on top: the largest rate is lr + min_lr": ("(lr - min_lr) * (math", "lr * (math"),
    "the rate falls in a straight line": ("(math.cos(math.pi * done) + 1) / 2", "(1 - done)"),
    "a quarter of a cosine is taken and not half": (
        "(math.cos(math.pi * done) + 1) / 2",
        "math.cos(math.pi * done / 2)",
    ),
    "the warm-up goes up from min_lr": (
        "return lr * (step + 1) / (warmup + 1)",
        "return min_lr + (lr - min_lr) * (step + 1) / (warmup + 1)",
    ),
    "after the end the cosine goes on, and the rate rises again": (
        ", 1)\n    return min_lr",
        ", 9)\n    return min_lr",
    ),
    "there is no warm-up: its steps have the full rate": ("return lr * (step + 1) / (warmup + 1)", "return lr"),
    "a warm-up that does not fit is not refused": (
        '    if not 0 <= warmup < steps:\n        raise ValueError(f"a warm-up of {warmup} steps does not fit into {steps} steps")\n',
        "",
    ),
    "every gradient is clipped by itself, so the direction changes": (
        "    if norm > max_norm:\n        for g in gradients:\n            g.mul_(max_norm / norm)",
        "    for g in gradients:\n        if g.norm() > max_norm:\n            g.mul_(max_norm / g.norm())",
    ),
    "every number is clipped by itself, so the direction changes": (
        "    if norm > max_norm:\n        for g in gradients:\n            g.mul_(max_norm / norm)",
        "    for g in gradients:\n        g.clamp_(-max_norm, max_norm)",
    ),
    "the lengths of the gradients are added up": ("for g in gradients]).norm()", "for g in gradients]).sum()"),
    "the length is that of the longest gradient": ("for g in gradients]).norm()", "for g in gradients]).max()"),
    "the sum of squares is taken for the length": (
        "norm = float(torch.stack([g.norm() for g in gradients]).norm())",
        "norm = float(torch.stack([g.norm() for g in gradients]).norm()) ** 2",
    ),
    "the length after clipping is returned": ("    return norm\n", "    return min(norm, max_norm)\n"),
    "the gradient is always scaled to max_norm, short ones too": ("    if norm > max_norm:", "    if norm > 0:"),
    "the gradient is scaled by max_norm and not to max_norm": ("g.mul_(max_norm / norm)", "g.mul_(max_norm)"),
    "the gradient is divided by its length, whatever max_norm is": ("g.mul_(max_norm / norm)", "g.mul_(1 / norm)"),
    "the gradients are not changed, only measured": (
        "            g.mul_(max_norm / norm)",
        "            g.mul(max_norm / norm)",
    ),
    "a gradient that is not finite is not refused": (
        '    if not math.isfinite(norm):\n        raise FloatingPointError(f"the gradient has length {norm}")\n',
        "",
    ),
    "infinite gradients are refused, and those with NaN are not": (
        "if not math.isfinite(norm):",
        "if norm == math.inf:",
    ),
}

# %% given
def accumulated(
    weights: dict[str, torch.Tensor], micro_batches: list[tuple[torch.Tensor, torch.Tensor]], bf16: bool = False
) -> dict[str, Any]:
    """For the checks of exercise 4: what `accumulate` returns and leaves behind, and what it kept in memory.

    Every gradient is 7 before. "peak" is the largest number of bytes that were kept for the backward pass at a time.
    """
    model = TinyLM().to(next(iter(weights.values())).dtype)
    model.load_state_dict(weights)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    kept = {"now": 0, "peak": 0}

    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor
            kept["now"] += tensor.nbytes
            kept["peak"] = max(kept["peak"], kept["now"])

        def __del__(self):
            kept["now"] -= self.tensor.nbytes

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda one: one.tensor):
        loss = accumulate(model, micro_batches, **({"bf16": True} if bf16 else {}))
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {"loss": loss, "gradients": gradients, "calls": model.calls, "peak": kept["peak"]}


def evaluated(
    weights: dict[str, torch.Tensor],
    data: torch.Tensor,
    batch_size: int,
    context: int,
    modes: tuple[bool, bool] = (True, True),
    bf16: bool = False,
) -> dict[str, Any]:
    """For the checks of exercise 4: what `evaluate` returns, and whether it left anything changed.

    The model has dropout. ``modes`` says whether the model, and its dropout, are in training mode before.
    """
    model = TinyLM(dropout=0.5).to(next(iter(weights.values())).dtype)
    model.load_state_dict(weights)
    model.train(modes[0])
    model.dropout.train(modes[1])
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    random, loss, error, said = torch.get_rng_state(), None, "", ""
    try:
        loss = evaluate(model, data, batch_size, context, **({"bf16": True} if bf16 else {}))
    except NotImplementedError:
        raise
    except Exception as raised:
        error, said = type(raised).__name__, f"{type(raised).__name__}: {raised}"
    return {
        "said": said,
        "loss": loss,
        "error": error,
        "calls": model.calls,
        "modes": (model.training, model.dropout.training),
        "random": torch.equal(random, torch.get_rng_state()),
        "gradients": all(bool((parameter.grad == 7).all()) for parameter in model.parameters()),
        "weights": all(torch.equal(value, weights[name]) for name, value in model.state_dict().items()),
    }

# %% exercise="accumulate"
def accumulate(model: nn.Module, micro_batches: list[tuple[torch.Tensor, torch.Tensor]], bf16: bool = False) -> float:
    """Leave the gradient of the mean loss of one large batch, which comes in parts.

    Args:
        model: takes ids (b, T) and returns logits (b, T, V).
        micro_batches: a list of (inputs, targets), both (b, T); b and T may differ from part to part. A target of -100
            stands for nothing: it is not asked and does not count.
        bf16: passed on to `summed_loss`.

    Returns:
        The mean loss over all targets of all parts that count, as a float.

    Afterwards the ``grad`` of every parameter is the gradient of that mean, and nothing else: what was there before is gone.
    The model sees each part once, in order and by itself, and what is kept for the backward pass is never more than
    that of one part.

    Raises:
        ValueError: if no target counts.
    """
    count = sum(int((targets != -100).sum()) for _, targets in micro_batches)
    if count == 0:
        raise ValueError("there is no target to learn from")
    model.zero_grad()
    loss = 0.0
    for inputs, targets in micro_batches:
        share = summed_loss(model, inputs, targets, bf16) / count
        share.backward()
        loss += share.item()
    return loss


def evaluate(model: nn.Module, data: torch.Tensor, batch_size: int, context: int, bf16: bool = False) -> float:
    """The mean loss of a model on a text, in nats for each token, without side effects.

    The text is cut into windows: the first asks for ``data[1]`` to ``data[context]``, the second for ``data[context + 1]``
    to ``data[2 * context]``, and so on; a last, shorter window asks for what is left. So each token but the first is asked
    for exactly once, and its window begins with the token before the window's first target.

    Args:
        model: takes ids (b, T) and returns logits (b, T, V).
        data: (N,), token numbers of any integer dtype.
        batch_size: the model is given so many windows at once. Only the last of the full windows, and a shorter one, may be
            fewer.
        context: targets of a window.
        bf16: passed on to `summed_loss`.

    Returns:
        The mean over all N - 1 targets, as a float. Dropout is off while it is measured.

    Afterwards every part of the model is in the mode in which it was before, which need not be the same for all parts, also
    if something was raised. Weights, gradients and torch's random state are untouched. Nothing is kept for a backward pass.

    Raises:
        ValueError: if ``data`` has fewer than 2 tokens.
    """
    if len(data) < 2:
        raise ValueError("one token is no text to be judged by")
    inputs, targets = data[:-1].long().split(context), data[1:].long().split(context)
    whole = (len(data) - 1) // context  # windows that are full
    parts = [slice(i, min(i + batch_size, whole)) for i in range(0, whole, batch_size)] + [slice(whole, None)]
    modes = {module: module.training for module in model.modules()}
    total = 0.0
    try:
        model.eval()
        with torch.no_grad():
            for part in parts:
                if inputs[part]:
                    total += summed_loss(model, torch.stack(inputs[part]), torch.stack(targets[part]), bf16).item()
    finally:
        for module, training in modes.items():
            module.training = training
    return total / (len(data) - 1)

# %% mistakes="accumulate"
{
    "every part is averaged by itself, and the parts are added up": (
        "summed_loss(model, inputs, targets, bf16) / count",
        "summed_loss(model, inputs, targets, bf16) / (targets != -100).sum().clamp(min=1)",
    ),
    "every part is averaged by itself, and the parts are averaged: a mean of means": (
        "summed_loss(model, inputs, targets, bf16) / count",
        "summed_loss(model, inputs, targets, bf16) / (targets != -100).sum().clamp(min=1) / len(micro_batches)",
    ),
    "the parts are weighted by their sequences and not by their targets": (
        "summed_loss(model, inputs, targets, bf16) / count",
        "summed_loss(model, inputs, targets, bf16) / (targets != -100).sum().clamp(min=1)"
        " * len(targets) / sum(len(y) for _, y in micro_batches)",
    ),
    "targets of -100 are divided by": ("int((targets != -100).sum())", "targets.numel()"),
    "the sum is not divided at all": ("targets, bf16) / count", "targets, bf16)"),
    "the sum is divided by the number of targets and by the number of parts": (
        "targets, bf16) / count",
        "targets, bf16) / count / len(micro_batches)",
    ),
    "the gradients are cleared between the parts, so only the last one counts": (
        "        share.backward()",
        "        model.zero_grad()\n        share.backward()",
    ),
    "the gradients of the step before are still there": ("    model.zero_grad()\n", ""),
    "the parts are put together and shown to the model as one batch": (
        "    for inputs, targets in micro_batches:\n",
        "    longest = max(x.shape[1] for x, _ in micro_batches)\n"
        "    whole = [torch.cat([F.pad(pair[i], (0, longest - pair[i].shape[1]), value=-100 * i) for pair in micro_batches])"
        " for i in (0, 1)]\n"
        "    for inputs, targets in [whole]:\n",
    ),
    "the losses are added up and backward is called once, which keeps all parts in memory": (
        "        share.backward()\n        loss += share.item()\n    return loss",
        "        loss = loss + share\n    loss.backward()\n    return loss.item()",
    ),
    "the loss of the last part is returned": ("loss += share.item()", "loss = share.item()"),
    "the sum of all losses is returned": ("loss += share.item()", "loss += share.item() * count"),
    "bf16 is ignored when training": ("inputs, targets, bf16) / count", "inputs, targets) / count"),
    "no target at all gives NaN and not an error": (
        '    if count == 0:\n        raise ValueError("there is no target to learn from")\n',
        "",
    ),
    "evaluate leaves dropout on": ("        model.eval()\n", ""),
    "evaluate leaves the model in evaluation mode": (
        "            module.training = training",
        "            pass",
    ),
    "evaluate puts the model into training mode, whatever it was before": (
        "            module.training = training",
        "            module.training = True",
    ),
    "evaluate sets all parts to the mode of the whole, and a part that was frozen in evaluation mode wakes up": (
        "            module.training = training",
        "            module.training = modes[model]",
    ),
    "the modes are not restored when the model raises an error": (
        "    finally:\n",
        "    except ZeroDivisionError:\n        pass\n    else:\n",
    ),
    "evaluate draws random pieces, from torch's own random state": (
        "    modes = {module",
        "    torch.rand(1)\n    modes = {module",
    ),
    "evaluate calls backward, and its gradients are added to those of training": (
        "        with torch.no_grad():\n",
        "        if True:\n            summed_loss(model, inputs[0][None], targets[0][None]).backward()\n",
    ),
    "evaluate keeps everything for a backward pass that never comes": (
        "with torch.no_grad():",
        "with torch.enable_grad():",
    ),
    "the last, shorter window is left out, and the sum is divided by all targets": (" + [slice(whole, None)]", ""),
    "the last, shorter window is left out, of the sum and of the count": [
        (" + [slice(whole, None)]", ""),
        ("return total / (len(data) - 1)", "return total / (whole * context)"),
    ],
    "every window is averaged by itself: the short one counts as much as the others": [
        (
            "total += summed_loss(model, torch.stack(inputs[part]), torch.stack(targets[part]), bf16).item()",
            "total += summed_loss(model, torch.stack(inputs[part]), torch.stack(targets[part]), bf16).item()"
            " / len(inputs[part][0])",
        ),
        ("return total / (len(data) - 1)", "return total / len(inputs)"),
    ],
    "the sum of the losses is divided by the tokens of the text, the first included": (
        "return total / (len(data) - 1)",
        "return total / len(data)",
    ),
    "windows are cut as pieces of context tokens, so that at every border a target is lost": (
        "inputs, targets = data[:-1].long().split(context), data[1:].long().split(context)",
        "inputs, targets = data[:-1].long().split(context), tuple(torch.cat([y[:-1], y.new_full((1,), -100)])"
        " for y in data[1:].long().split(context))",
    ),
    "the whole text is one batch": ("min(i + batch_size, whole)", "whole"),
    "every window is asked alone": [
        ("min(i + batch_size, whole)", "min(i + 1, whole)"),
        ("range(0, whole, batch_size)", "range(0, whole)"),
    ],
    "bf16 is ignored when evaluating": ("torch.stack(targets[part]), bf16)", "torch.stack(targets[part]))"),
    "a text of one token is not refused": (
        '    if len(data) < 2:\n        raise ValueError("one token is no text to be judged by")\n',
        "    if len(data) < 2:\n        return 0.0\n",
    ),
}

# %% given
SETTINGS = {"steps": 12, "batch_size": 4, "context": 6, "lr": 0.02, "min_lr": 0.002, "warmup": 3}
TEXT = (torch.arange(400) ** 2 * 3 + torch.arange(400)) % 11


def state_after(n_steps: int, seed: int = 0, **settings: Any) -> tuple[TrainState, TrainConfig]:
    """For the checks of exercise 5: the state of a run after some plain steps, with dropout."""
    config = TrainConfig(**(SETTINGS | settings))
    torch.manual_seed(seed)
    model = TinyLM(dropout=0.3, seed=seed)
    optimizer = AdamW(decay_groups(model, config.weight_decay), config.lr, config.betas, config.eps)
    state = TrainState(model, optimizer, torch.Generator().manual_seed(seed))
    stream = iter(batches(TEXT, config.batch_size, config.context, state.generator))
    for step in range(n_steps):
        loss = accumulate(model, [next(stream)])
        optimizer.step()
        state.step = step + 1
        state.history.append({"step": step + 1, "loss": loss})
    return state, config


def parts_of(state: TrainState) -> dict[str, Any]:
    """Copies of all that a run changes, by name."""
    return {
        "weights": [value.clone() for value in state.model.state_dict().values()],
        "moments": moments(state.optimizer),
        "step": state.step,
        "history": [dict(row) for row in state.history],
        "order of the data": state.generator.get_state(),
        "torch's random state": torch.get_rng_state(),
    }


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The names of the parts that are not equal to the bit."""

    def equal(a, b):
        if isinstance(a, torch.Tensor):
            return torch.equal(a, b)
        if isinstance(a, list) and a and isinstance(a[0], torch.Tensor):
            return len(a) == len(b) and all(map(torch.equal, a, b))
        return a == b

    return [name for name in one if not equal(one[name], other[name])]


def restored(n_steps: int) -> list[str]:
    """For the checks of exercise 5: what `load_checkpoint` does not bring back of a run that was saved after n_steps."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "run.pt")
        state, config = state_after(n_steps)
        save_checkpoint(path, state, config)
        saved = parts_of(state)
        other, config = state_after(2, seed=9)
        held = other.model, other.optimizer, other.generator
        load_checkpoint(path, other, config)
        back = parts_of(other)
        lost = differing(saved, back)
        lost = [f"step ({saved[name]} went in, {back[name]} came out)" if name == "step" else name for name in lost]
        if "history" in lost:
            lost[lost.index("history")] = (
                f"history ({len(saved['history'])} rows went in, {len(back['history'])} came out)"
            )
        same = [now is then for now, then in zip((other.model, other.optimizer, other.generator), held, strict=True)]
        return lost if all(same) else [*lost, "the model, the optimiser or the generator is another object now"]


def refused(fault: str) -> dict[str, Any]:
    """For the checks of exercise 5: what happens when a checkpoint is loaded that should not be.

    Returns the error's name and text, which parts of the run that asked for it have changed, and whether code that came
    with the file has run.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, marker = os.path.join(folder, "run.pt"), os.path.join(folder, "marker")
        state, config = state_after(3)
        save_checkpoint(path, state, config)
        with open(path, "rb") as file:
            content = file.read()
        settings = {}
        if fault == "cut off":
            content = content[: len(content) // 2]
        elif fault == "empty":
            content = b""
        elif fault == "one bit":
            at = content.find(state.model.token.detach().numpy().tobytes())
            at = len(content) // 2 if at < 0 else at + 100
            content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        elif fault == "other settings":
            settings = {"lr": 0.5, "clip": 2.5}
        elif fault in ("something else", "code"):
            file = io.BytesIO()
            torch.save([1, 2, 3] if fault == "something else" else [_Intruder(marker)], file)
            content = file.getvalue()
        with open(path, "wb") as file:
            file.write(content)
        if fault == "missing":
            os.remove(path)
        other, config = state_after(2, seed=9, **settings)
        if fault in ("another shape", "another name"):
            other.model.w = nn.Parameter(torch.zeros(8, 9 if fault == "another shape" else 8))
            if fault == "another name":
                other.model.w_in, other.model.w = other.model.w, None
        if fault == "another optimiser":
            other.optimizer = AdamW([other.model.token])
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


class _Intruder:
    """An object that makes a folder when it is read from a pickle."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def saved_over() -> dict[str, Any]:
    """For the checks of exercise 5: what happens to an older checkpoint when a new one takes its place, or fails to."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "run.pt")
        state, config = state_after(2)
        save_checkpoint(path, state, config)
        older = parts_of(state)
        with open(path, "rb") as before:
            bytes_before = before.read()
            newer, config = state_after(5)
            save_checkpoint(path, newer, config)
            before.seek(0)
            facts = {"the old file was written over": before.read() != bytes_before}
        facts["files"] = sorted(os.listdir(folder))
        other, config = state_after(0, seed=9)
        load_checkpoint(path, other, config)
        facts["step of the new one"] = other.step
        save_checkpoint(path, state, config)
        kept = torch.save

        def disk_full(content, file, *args, **kwargs):
            with open(file, "wb") if isinstance(file, str | os.PathLike) else contextlib.nullcontext(file) as out:
                out.write(b"half a checkpo")
            raise OSError("no space left on device")

        def no_rename(*args, **kwargs):
            raise OSError("the rename failed")

        def lost() -> list[str]:
            other, config = state_after(0, seed=9)
            try:
                load_checkpoint(path, other, config)
            except (ValueError, OSError) as raised:
                return [f"everything ({type(raised).__name__})"]
            return differing(older, parts_of(other) | {"torch's random state": older["torch's random state"]})

        torch.save = disk_full
        try:
            save_checkpoint(path, newer, config)
        except OSError:
            pass
        finally:
            torch.save = kept
        facts["lost after a failure"] = lost()
        renames = os.replace, os.rename
        os.replace = os.rename = no_rename
        try:
            save_checkpoint(path, newer, config)
        except OSError:
            pass
        finally:
            os.replace, os.rename = renames
        facts["lost before the rename"] = lost()
        return facts

# %% exercise="save_checkpoint"
def save_checkpoint(path: str, state: TrainState, config: TrainConfig) -> None:
    """Write a run to a file, so that `load_checkpoint` can bring it back to the bit.

    In the file are the model's weights, what the optimiser remembers, the step, the history, the state of the run's
    generator, torch's random state, and the settings. An older file of that name is replaced in one go: at any moment there
    is a complete checkpoint under that name, the old or the new one, also if writing fails. When all went well, the folder
    holds no other file than before and this one.

    Args:
        path: where to; its folder exists.
        state: what to save. It does not change.
        config: the settings of the run.
    """
    content = {
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "history": state.history,
        "generator": state.generator.get_state(),
        "random": torch.get_rng_state(),
        "config": asdict(config),
    }
    part = os.fspath(path) + ".part"
    torch.save(content, part)
    os.replace(part, path)


def load_checkpoint(path: str, state: TrainState, config: TrainConfig) -> None:
    """Bring a run back from a file: ``state`` and torch's random state become what they were when it was saved.

    The model, the optimiser and the generator stay the same objects, with new contents.

    Args:
        path: where `save_checkpoint` wrote.
        state: of a model of the same shape, with an optimiser over its parameters.
        config: the settings of the run that wants to go on.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged (cut off, empty, or even one bit changed), is no checkpoint, or belongs to a model
            with other names or shapes, to another optimiser, or to other settings. For other settings the message names
            those that differ.
        After any of these neither ``state`` nor torch's random state has changed. Code that somebody may have hidden in the
        file is never run.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    try:
        # torch.load takes whatever the bytes say; the checksums in the file are zipfile's to compare.
        damaged = zipfile.ZipFile(path).testzip()
        content = torch.load(path, weights_only=True, map_location="cpu")
        saved, weights, moments_of = content["config"], content["model"], content["optimizer"]
    except Exception as error:
        raise ValueError(f"{path} is damaged or no checkpoint: {error}") from None
    if damaged:
        raise ValueError(f"{path} is damaged: {damaged} has changed since it was written")
    different = [name for name, value in asdict(config).items() if saved.get(name) != value]
    if different:
        raise ValueError(f"{path} belongs to a run with other settings: {', '.join(different)}")
    shapes = {name: value.shape for name, value in state.model.state_dict().items()}
    if shapes != {name: value.shape for name, value in weights.items()}:
        raise ValueError(f"{path} belongs to another model")
    state.optimizer.load_state_dict(moments_of)  # it looks for itself, and refuses what does not fit
    state.model.load_state_dict(weights)
    state.step, state.history = content["step"], content["history"]
    state.generator.set_state(content["generator"])
    torch.set_rng_state(content["random"])

# %% mistakes="save_checkpoint"
{
    "the moments of the optimiser are not restored": (
        "    state.optimizer.load_state_dict(moments_of)  # it looks for itself, and refuses what does not fit\n",
        "",
    ),
    "the order of the data is not restored": ('    state.generator.set_state(content["generator"])\n', ""),
    "torch's random state is not restored, so dropout draws other numbers": (
        '    torch.set_rng_state(content["random"])\n',
        "",
    ),
    "the step is not restored": (
        'state.step, state.history = content["step"], content["history"]',
        'state.history = content["history"]',
    ),
    "the step is one too many": (
        'state.step, state.history = content["step"],',
        'state.step, state.history = content["step"] + 1,',
    ),
    "the history is not restored": (
        'state.step, state.history = content["step"], content["history"]',
        'state.step = content["step"]',
    ),
    "the history is added to the one that is there": (
        'state.step, state.history = content["step"], content["history"]',
        'state.step, state.history = content["step"], state.history + content["history"]',
    ),
    "the weights are not restored": ("    state.model.load_state_dict(weights)\n", ""),
    "the optimiser and the generator are replaced by new ones with the right contents, which nobody else holds": (
        '    state.generator.set_state(content["generator"])\n',
        '    state.generator = torch.Generator()\n    state.generator.set_state(content["generator"])\n',
    ),
    "the file is written in place, so that a failure leaves half of it": [
        ("torch.save(content, part)", "torch.save(content, path)"),
        ("    os.replace(part, path)\n", ""),
    ],
    "the old checkpoint is removed before the new one is written": (
        "    torch.save(content, part)",
        "    if os.path.exists(path):\n        os.remove(path)\n    torch.save(content, part)",
    ),
    "the new checkpoint is copied to its name and the other file stays": (
        "    os.replace(part, path)",
        '    with open(part, "rb") as source, open(f"{path}.new", "wb") as target:\n'
        "        target.write(source.read())\n"
        '    os.replace(f"{path}.new", path)',
    ),
    "an older checkpoint is never replaced": (
        "    torch.save(content, part)\n    os.replace(part, path)",
        "    if not os.path.exists(path):\n        torch.save(content, part)\n        os.replace(part, path)",
    ),
    "a checkpoint with a changed bit is loaded": ("    if damaged:\n", "    if False:\n"),
    "code that is hidden in the file is run": ("weights_only=True", "weights_only=False"),
    "a damaged file ends in whatever error torch.load has": (
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
    "another model is noticed by load_state_dict alone, when half of the weights are copied": (
        "    if shapes != {name: value.shape for name, value in weights.items()}:\n"
        '        raise ValueError(f"{path} belongs to another model")\n',
        "",
    ),
    "the weights are loaded before the optimiser has had a look": [
        (
            "    state.optimizer.load_state_dict(moments_of)  # it looks for itself, and refuses what does not fit\n"
            "    state.model.load_state_dict(weights)\n",
            "    state.model.load_state_dict(weights)\n    state.optimizer.load_state_dict(moments_of)\n",
        ),
    ],
    "only the names of the weights are compared, not their shapes": (
        "    shapes = {name: value.shape for name, value in state.model.state_dict().items()}\n"
        "    if shapes != {name: value.shape for name, value in weights.items()}:\n",
        "    if state.model.state_dict().keys() != weights.keys():\n",
    ),
}

# %% given
def trained(
    settings: dict[str, Any],
    data: torch.Tensor,
    stops: tuple[int | None, ...] = (None,),
    validation: torch.Tensor | None = None,
    dropout: float = 0.0,
    double: bool = False,
    interrupt_at: int | None = None,
    interrupt_in: int = 0,
    keep: bool = True,
    training: bool = True,
    spoil: str = "",
) -> dict[str, Any]:
    """For the checks of exercise 6: what `train` returns and leaves behind.

    Calls `train` once for each entry of ``stops``, its ``until``, as if the machine had been switched off in between: each
    time there is a new model, and torch's random state is another one. Only the file stays (if ``keep``). An error is noted
    where the check provokes one, and raised otherwise.

    Args:
        settings: of the TrainConfig.
        interrupt_at, interrupt_in: in this call of the model Ctrl-C is pressed, in this one of the calls of `train`.
        training: the mode of the model before.
        spoil: between two calls, "file" damages the checkpoint and "settings" changes the learning rate. "weights" puts
            a NaN into the first model.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, ended = os.path.join(folder, "run.pt") if keep else None, []
        for number, stop in enumerate(stops):
            begun = keep and os.path.exists(path)
            model = TinyLM(
                dropout, seed=number if begun else 0, interrupt_at=interrupt_at if number == interrupt_in else None
            )
            model = model.to(torch.float64 if double else torch.float32).train(training)
            if spoil == "weights":
                model.b.data[0] = math.nan
            if spoil == "file" and number:
                with open(path, "wb") as file:
                    file.write(b"not a checkpoint")
            torch.manual_seed(1000 + number)
            config = TrainConfig(**(settings | ({"lr": 0.123} if spoil == "settings" and number else {})))
            try:
                history = train(model, data, config, validation=validation, path=path, until=stop)
                ended.append("")
            except NotImplementedError:
                raise
            except (Exception, KeyboardInterrupt) as raised:
                if interrupt_at is None and not spoil:
                    raise
                history = []
                ended.append(type(raised).__name__)
        weights = {name: value.detach() for name, value in model.state_dict().items()}
        files = sorted(os.listdir(folder))
    calls = [call for call in model.calls if call[2]]
    rows = [dict(row) for row in history]
    return {
        "weights": weights,
        "history": rows,
        "ended": ended,
        "files": files,
        "calls": calls,
        "training": model.training,
    }

# %% exercise="train"
def train(
    model: nn.Module,
    data: torch.Tensor,
    config: TrainConfig,
    validation: torch.Tensor | None = None,
    path: str | None = None,
    until: int | None = None,
) -> list[dict[str, float]]:
    """Train a model; go on with an earlier run if there is one.

    The optimiser is your AdamW with your `decay_groups`, and the batches come from a generator seeded with config.seed. If
    there is a file at ``path``, the run goes on from it, and the model's own weights do not matter. If not, it begins with
    ``torch.manual_seed(config.seed)``. Either way the result depends on the arguments alone.

    A step: the rate of `lr_at` for this step, in all groups; one batch in config.micro_batches parts, as ``torch.chunk`` cuts it (5
    sequences in 3 parts: 2, 2 and 1);
    the gradient of the whole batch, in bfloat16 if config.bf16 says so; clipping to config.clip; AdamW. The model is in training mode.

    Args:
        model: takes ids (b, T), returns logits (b, T, V); changed in place.
        data: (N,), the text to train on.
        validation: (M,), a text to be judged by, or None.
        path: of the checkpoint, or None for none. It is written after every config.save_every steps, counted from the start
            of the run, and when this call is done.
        until: stop when so many steps of the run are done, those of earlier calls included; None for config.steps.

    Returns:
        The history, a dict for each step of the run: "step" (how many are done, the first has 1), "loss" (before the step),
        "lr", "norm" (of the gradient before clipping). Where the number is a multiple of config.eval_every, and at the last
        step of the run, also "validation": `evaluate` after the step, with config.batch_size, config.context and config.bf16,
        if there is a text for it.

    Raises:
        ValueError: if there is a file at ``path`` that is damaged or belongs to another run; it is left as it is.
        FloatingPointError: if the length of a gradient is not finite; before the step, so the weights are still good.
        KeyboardInterrupt: if somebody presses Ctrl-C; what was saved is a complete checkpoint of a whole number of steps.
    """
    optimizer = AdamW(decay_groups(model, config.weight_decay), config.lr, config.betas, config.eps)
    state = TrainState(model, optimizer, torch.Generator().manual_seed(config.seed))
    if path is not None and os.path.exists(path):
        load_checkpoint(path, state, config)
    else:
        torch.manual_seed(config.seed)
    stream = iter(batches(data, config.batch_size, config.context, state.generator))
    last = config.steps if until is None else min(until, config.steps)
    model.train()
    for step in progress(state, last):
        rate = lr_at(step, config.steps, config.warmup, config.lr, config.min_lr)
        for group in optimizer.param_groups:
            group["lr"] = rate
        inputs, targets = next(stream)
        parts = zip(inputs.chunk(config.micro_batches), targets.chunk(config.micro_batches), strict=True)
        loss = accumulate(model, list(parts), config.bf16)
        norm = clip_gradients(model.parameters(), config.clip)
        optimizer.step()
        state.step = step + 1
        row = {"step": state.step, "loss": loss, "lr": rate, "norm": norm}
        if validation is not None and (state.step % config.eval_every == 0 or state.step == config.steps):
            row["validation"] = evaluate(model, validation, config.batch_size, config.context, config.bf16)
        state.history.append(row)
        if path is not None and (state.step % config.save_every == 0 or state.step == last):
            save_checkpoint(path, state, config)
    return state.history

# %% mistakes="train"
{
    "the optimiser steps before the gradient is clipped, which is then of no use": (
        "        norm = clip_gradients(model.parameters(), config.clip)\n        optimizer.step()\n",
        "        optimizer.step()\n        norm = clip_gradients(model.parameters(), config.clip)\n",
    ),
    "the rate is one step ahead": ("rate = lr_at(step,", "rate = lr_at(step + 1,"),
    "the rate is one step behind": ("rate = lr_at(step,", "rate = lr_at(max(step - 1, 0),"),
    "the rate is written down and never given to the optimiser": (
        '            group["lr"] = rate\n',
        "            pass\n",
    ),
    "only the first group gets the rate": (
        "for group in optimizer.param_groups:",
        "for group in optimizer.param_groups[:1]:",
    ),
    "the schedule ends with this call and not with the run": (
        "rate = lr_at(step, config.steps,",
        "rate = lr_at(step, max(last, config.warmup + 1),",
    ),
    "min_lr is not passed on": (", config.lr, config.min_lr)", ", config.lr)"),
    "everything decays, biases and gains of norms as well": (
        "AdamW(decay_groups(model, config.weight_decay), config.lr, config.betas, config.eps)",
        "AdamW(model.parameters(), config.lr, config.betas, config.eps, config.weight_decay)",
    ),
    "betas and eps of the settings never reach the optimiser": (
        ", config.lr, config.betas, config.eps)",
        ", config.lr)",
    ),
    "the batch is never cut into parts": ("chunk(config.micro_batches)", "chunk(1)", "all"),
    "each part is a step of its own": [
        (
            "        loss = accumulate(model, list(parts), config.bf16)\n",
            "        losses = []\n        for part in parts:\n            losses.append(accumulate(model, [part], config.bf16))\n",
        ),
        (
            "        norm = clip_gradients(model.parameters(), config.clip)\n        optimizer.step()\n",
            "            norm = clip_gradients(model.parameters(), config.clip)\n            optimizer.step()\n"
            "        loss = sum(losses) / len(losses)\n",
        ),
    ],
    "the model stays in the mode in which it was given": ("    model.train()\n", ""),
    "the step of the history counts from 0": ('row = {"step": state.step,', 'row = {"step": step,'),
    "the loss is measured again after the step": (
        '        row = {"step"',
        '        loss = accumulate(model, [(inputs, targets)], config.bf16)\n        row = {"step"',
    ),
    "the validation loss is that of the training text": ("evaluate(model, validation,", "evaluate(model, data,"),
    "the validation loss is measured at the end of each call, and so depends on where the run was stopped": (
        "state.step == config.steps):",
        "state.step == last):",
    ),
    "the validation loss is measured at every step": (
        " and (state.step % config.eval_every == 0 or state.step == config.steps):",
        ":",
    ),
    "the last step has no validation loss": (" or state.step == config.steps):", "):"),
    "torch's random state is never seeded, so dropout depends on what ran before": (
        "        torch.manual_seed(config.seed)\n",
        "        pass\n",
    ),
    "torch's random state is seeded also where a run goes on, after it was loaded": (
        "    else:\n        torch.manual_seed(config.seed)\n",
        "    torch.manual_seed(config.seed)\n",
    ),
    "the seed of the settings is ignored by the batches": (
        "torch.Generator().manual_seed(config.seed))",
        "torch.Generator().manual_seed(0))",
    ),
    "the batches begin anew where a run goes on: their generator is not the one of the state": (
        "config.context, state.generator))",
        "config.context, torch.Generator().manual_seed(config.seed)))",
    ),
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
    "the checkpoint is written before the row is in the history": [
        ("        state.history.append(row)\n", ""),
        (
            "            save_checkpoint(path, state, config)\n",
            "            save_checkpoint(path, state, config)\n        state.history.append(row)\n",
        ),
    ],
    "the checkpoint is written before the step is counted": [
        ("        state.step = step + 1\n", ""),
        ('row = {"step": state.step,', 'row = {"step": step + 1,'),
        (
            "and (state.step % config.eval_every == 0 or state.step == config.steps)",
            "and ((step + 1) % config.eval_every == 0 or step + 1 == config.steps)",
        ),
        (
            "(state.step % config.save_every == 0 or state.step == last)",
            "((step + 1) % config.save_every == 0 or step + 1 == last)",
        ),
        (
            "            save_checkpoint(path, state, config)\n",
            "            save_checkpoint(path, state, config)\n        state.step = step + 1\n",
        ),
    ],
    "Ctrl-C saves in the middle of a step, when the next batch is already drawn": [
        ("        inputs, targets = next(stream)\n", "        try:\n            inputs, targets = next(stream)\n"),
        ("        parts = zip(", "            parts = zip("),
        (
            "        loss = accumulate(model, list(parts), config.bf16)\n",
            "            loss = accumulate(model, list(parts), config.bf16)\n        except KeyboardInterrupt:\n"
            "            if path is not None:\n                save_checkpoint(path, state, config)\n            raise\n",
        ),
    ],
    "Ctrl-C is swallowed, and the call ends as if it were done": [
        (
            "        loss = accumulate(model, list(parts), config.bf16)\n",
            "        try:\n            loss = accumulate(model, list(parts), config.bf16)\n        except KeyboardInterrupt:\n            break\n",
        ),
    ],
    "until counts the steps of this call and not those of the run": (
        "min(until, config.steps)",
        "min(state.step + until, config.steps)",
    ),
    "one step too many is done after a stop": ("min(until, config.steps)", "min(until + 1, config.steps)"),
    "until is not bounded by the steps of the run": ("else min(until, config.steps)", "else until"),
    "bf16 is ignored in training": ("list(parts), config.bf16)", "list(parts))"),
    "bf16 is ignored for the validation loss": ("config.context, config.bf16)", "config.context)"),
}
