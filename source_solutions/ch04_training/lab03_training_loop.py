# ---
# title: The training loop
# lab: ch04/lab03
# minutes: 160
# difficulty: 4
# hardware: cpu
# needs: [ch03/lab03]
# builds: [batches, AdamW, decay_groups, lr_at, clip_gradients, accumulate, evaluate, save_checkpoint, load_checkpoint, train]
# ---

# %% [markdown]
# # Lab 4.3 · The training loop
#
# ## The idea
#
# A training loop is twenty lines: draw a batch, compute the loss, go backwards, take a step. Almost every way to get
# it wrong still trains. The loss falls, a bit slower than it could, and nobody finds out. So in this lab your loop is
# not judged by its loss. It is judged by four things that a wrong loop cannot do:
#
# - its optimiser takes the same steps as `torch.optim.AdamW`, to twelve digits;
# - four small batches leave the gradient of one large batch;
# - measuring the validation loss changes nothing about the run;
# - a run that was killed, at any moment, ends with the same weights as one that was not. Not similar: equal to the bit.
#
# Here is how small the traces are. Adam keeps two running means for every number it trains: of the gradient, $m$, and
# of its square, $v$. Both start at zero. Let the first gradient be 4. With the usual $\beta_1 = 0.9$ and $\beta_2 =
# 0.999$ the means become $0.1 \cdot 4 = 0.4$ and $0.001 \cdot 16 = 0.016$. Both are far too small, because most of
# what they average is the zero at the start. Divided by $1 - 0.9 = 0.1$ and $1 - 0.999 = 0.001$ they are 4 and 16.
# The step is $4/\sqrt{16} = 1$ times the learning rate. Leave this correction out, and it is $0.4/\sqrt{0.016} =
# 3.16$ times the learning rate. Correct only one of the two, and it is 31.6 times or 0.1 times. All of these train.
#
# You build the parts and then the loop: batches from a stream, AdamW, the learning rate of each step, clipping,
# accumulation, evaluation, checkpoints. Lab 4.4 trains a model with it. Why AdamW is what it is stands on the page
# [Optimisers](../../book/ch04_training/optimizers.md), and why the learning rate rises and falls on [Learning-rate
# schedules](../../book/ch04_training/lr_schedules.md).
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `data` | `(N,)` | the whole text, as token numbers |
# | piece | `(context + 1,)` | what is cut out of it: one token more than the model reads |
# | `inputs` | `(B, context)` | every piece without its last token |
# | `targets` | `(B, context)` | every piece without its first token; −100 where nothing is asked |
# | micro-batch | `(b, context)` | a part of a batch that fits into memory; the parts add up to B |
# | `param_groups` | list of dicts | parameters that share a learning rate and a weight decay |
# | state of a run | | weights, moments, step, history, state of two random generators |

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


# %% given side="learner"
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


# %% [markdown]
# ## A picture
#
# What does a wrong resume look like? The cell trains a small model for 120 steps, six times, with PyTorch's optimiser.
# The first run goes through. The others are stopped after step 60 and go on, with everything brought back or with one
# thing forgotten. Above is the loss, smoothed. Below is how far the weights are from those of the run that
# was never killed, in percent of its own way from start to end.

# %%
import copy

from plotly.subplots import make_subplots

from coursekit import plots

torch.set_num_threads(1)
grammar = torch.Generator().manual_seed(5)
follows = torch.softmax(2.5 * torch.randn(11, 11, generator=grammar), dim=-1)  # what comes after what
corpus = [0]
for _ in range(6000):
    corpus.append(int(torch.multinomial(follows[corpus[-1]], 1, generator=grammar)))
corpus = torch.tensor(corpus)


def demonstration(forget=None, killed_at=60, n_steps=120):
    """The losses and the weights after every step of a run that is killed and resumed, with one thing forgotten."""
    torch.manual_seed(0)
    learner, order = TinyLM(dropout=0.2), torch.Generator().manual_seed(0)
    adam = torch.optim.AdamW(learner.parameters(), lr=1e-2, betas=(0.9, 0.99))
    losses, path, count = [], [], 0
    for n in range(n_steps):
        if n == killed_at and forget != "nothing happened":
            saved = copy.deepcopy(adam.state_dict())
            adam = torch.optim.AdamW(learner.parameters(), lr=1e-2, betas=(0.9, 0.99))
            if forget != "the moments":
                adam.load_state_dict(saved)
            if forget == "the order of the data":
                order.manual_seed(0)
            if forget == "dropout's random state":
                torch.manual_seed(0)
            if forget == "the step":
                count = 0
        adam.param_groups[0].update(lr=1e-2 * min(1, (count + 1) / 20))
        starts = torch.randint(len(corpus) - 16, (16, 1), generator=order)
        pieces = corpus[starts + torch.arange(17)]
        loss = F.cross_entropy(learner(pieces[:, :-1]).flatten(0, 1), pieces[:, 1:].flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
        count += 1
        losses.append(loss.item())
        path.append(torch.cat([p.detach().flatten().clone() for p in learner.parameters()]))
    return torch.tensor(losses), torch.stack(path)


whole_losses, whole_path = demonstration("nothing happened")
way = (whole_path[-1] - whole_path[0]).norm()
figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.1)
forgotten = ["nothing", "the moments", "the order of the data", "dropout's random state", "the step"]
for colour, missing in zip(plots.COLOURS, forgotten, strict=False):
    found_losses, found_path = demonstration(missing)
    apart = 100 * (found_path - whole_path).norm(dim=1) / way
    smooth = found_losses.unfold(0, 15, 1).mean(1)
    print(f"forgotten: {missing:24} last losses {smooth[-1]:.3f}   weights differ by {apart[-1]:.2f}%")
    line = {"name": missing, "legendgroup": missing, "line": {"color": colour}, "mode": "lines"}
    figure.add_scatter(x=list(range(15, 121)), y=smooth.tolist(), row=1, col=1, **line)
    figure.add_scatter(x=list(range(1, 121)), y=apart.tolist(), row=2, col=1, showlegend=False, **line)
figure.add_vline(x=60, line={"color": plots.GREY, "dash": "dot"})
figure.update_yaxes(title_text="loss", row=1, col=1)
figure.update_yaxes(title_text="apart (%)", row=2, col=1)
figure.update_xaxes(title_text="step", row=2, col=1)
figure.update_layout(height=460, legend={"orientation": "h", "y": -0.16, "title_text": "forgotten:"})
figure.show()

# %% [markdown]
# In the upper half you would not find the broken runs; the one without its moments even ends lower than the right
# one, here. In the lower half there is one line at zero, exactly. That is the test for your loop: not close, but equal.
#
# Resuming is not a luxury. Jobs are killed, machines restart, and somebody presses Ctrl-C. And a loop that can repeat
# itself to the bit can be debugged: load the checkpoint before the loss explodes, and watch it happen again.


# %% given side="learner"
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


# %% [markdown]
# ## Exercise 1 · `batches`
#
# A text is one long row of tokens. A batch is a handful of pieces, cut out at random places. In [Lab
# 3.3](../ch03_transformer/lab03_decoder_only.ipynb) pieces of `context` tokens left the last position without an
# answer, so it was never trained. Here a piece has `context + 1` tokens. The model reads all but the last, and is
# asked for all but the first.
#
# All chance comes from the generator that is passed in. Whoever saves its state has saved the order of the data.
#
# *Difficulty 2 of 5 · 10 minutes · 2 points*


# %% exercise="batches" difficulty=2 minutes=10
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
    ### BEGIN SOLUTION
    places = len(data) - context  # a piece of context + 1 tokens can begin at 0 ... N - context - 1
    if places < 1:
        raise ValueError(f"{len(data)} tokens are less than one piece of {context + 1}")
    offsets = torch.arange(context + 1)
    while True:
        starts = torch.randint(places, (batch_size, 1), generator=generator)
        pieces = data[starts + offsets].long()  # (B, 1) + (context + 1,) -> (B, context + 1)
        yield pieces[:, :-1], pieces[:, 1:]
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>How many places are there where a piece can begin? Try it with a text of five
# tokens and <code>context=4</code>: there is exactly one. A function with <code>yield</code> in a loop is a
# stream.</details>
# <details><summary>A bigger nudge</summary><code>torch.randint</code> excludes its upper end and takes a
# <code>generator</code>. A column of starts plus a row of offsets is a table of positions, and <code>data[table]</code>
# is a table of tokens. Cut both results out of that one table.</details>

# %% test="batches" points=2
from coursekit import check

import torch

# Five tokens and a context of four: there is only one piece.
found, alone = first_batches(torch.tensor([3, 1, 4, 1, 5]), 2, 4, seed=0, n=3)
for inputs, targets in found:
    check.equal(inputs, torch.tensor([[3, 1, 4, 1]] * 2), "five tokens, context 4: all inputs are 3 1 4 1")
    check.equal(targets, torch.tensor([[1, 4, 1, 5]] * 2), "five tokens, context 4: all targets are 1 4 1 5")
found, alone = first_batches(torch.arange(1000), 3, 8, seed=0, n=2)
check.equal(list(found[0][0].shape), [3, 8], "the shape of the inputs, with 3 pieces and context 8")
check.equal(
    found[0][1] - found[0][0], torch.ones(3, 8, dtype=torch.int64), "counting up: each target is the next number"
)
check.that(
    not torch.equal(found[0][0], found[1][0]),
    "the second batch is another one",
    why="the first two batches of a text with 992 places to begin at are equal",
)
check.raises(
    ValueError, lambda: first_batches(torch.arange(4), 2, 4, seed=0, n=1), "four tokens are too few for context 4"
)
### BEGIN HIDDEN TESTS
# Counting texts: a piece is known by where it begins.
for size, batch_size, context, dtype in (
    (3000, 64, 7, torch.int64),
    (3000, 64, 1, torch.int32),
    (200, 64, 63, torch.uint8),
):
    what = f"{size} tokens, {batch_size} pieces, context {context}, {dtype}"
    places = size - context
    text = torch.arange(size).to(dtype)
    found, alone = first_batches(text, batch_size, context, seed=check.seed(1), n=40)
    check.that(alone, f"{what}: torch's own random state is left alone", why="torch.get_rng_state() has changed")
    starts = []
    for inputs, targets in found:
        check.equal(str(inputs.dtype), "torch.int64", f"{what}: the dtype of the inputs")
        check.equal(inputs, inputs[:, :1] + torch.arange(context), f"{what}: inputs are neighbours")
        check.equal(targets, inputs[:, :1] + torch.arange(1, context + 1), f"{what}: targets are the tokens after")
        starts.append(inputs[:, 0])
    where = torch.stack(starts).double() / places  # (40, 64), uniform between 0 and 1
    # 2,560 numbers: their mean is within 0.0057 of 1/2 two times in three.
    check.close(float(where.mean()), 0.5, f"{what}: the mean place where pieces begin", atol=0.04)
    check.close(float(where.std()), 12**-0.5, f"{what}: the spread of these places", atol=0.03)
    together = float(where.std(dim=1).mean())
    check.close(together, 12**-0.5, f"{what}: the spread within a batch", atol=0.03)
    over_time = float(where.std(dim=0).mean())
    check.close(over_time, 12**-0.5, f"{what}: the spread of row b over the batches", atol=0.03)
    neighbours = float(((where[1:] - where[:-1]) % 1).std())
    check.close(neighbours, 12**-0.5, f"{what}: how far apart row b of neighbouring batches is", atol=0.03)
# Few places: all of them are used, and equally often.
found, alone = first_batches(torch.arange(9), 50, 6, seed=check.seed(2), n=40)
counts = torch.bincount(torch.cat([inputs[:, 0] for inputs, _ in found]), minlength=3)
check.close(
    counts.double() / 2000,
    torch.full((3,), 1 / 3).double(),
    "9 tokens, context 6: the shares of places 0, 1, 2",
    atol=0.06,
)
# The generator's state is the order of the data.
text = torch.randint(97, (500,), generator=torch.Generator().manual_seed(check.seed(3)))
straight, _ = first_batches(text, 4, 9, seed=check.seed(4), n=6)
for restart in (1, 4):
    again, _ = first_batches(text, 4, 9, seed=check.seed(4), n=6, restart=restart)
    for number in range(6):
        check.equal(
            torch.stack(again[number]),
            torch.stack(straight[number]),
            f"batch {number}, where a new stream takes over after {restart}: the generator's state decides",
        )
other, _ = first_batches(text, 4, 9, seed=check.seed(5), n=1)
check.that(not torch.equal(other[0][0], straight[0][0]), "another seed gives other batches")
check.raises(
    ValueError, lambda: first_batches(torch.arange(7), 1, 9, seed=0, n=1), "7 tokens are too few for context 9"
)
### END HIDDEN TESTS


# %% alternative="batches"
class batches:
    # An iterator written as a class, with slices of the text and one draw for each piece.
    def __init__(self, data, batch_size, context, generator):
        if data.numel() <= context:
            raise ValueError("too short")
        self.data, self.batch_size, self.context, self.generator = data, batch_size, context, generator

    def __iter__(self):
        return self

    def __next__(self):
        inputs, targets = [], []
        for _ in range(self.batch_size):
            i = int(torch.randint(0, self.data.numel() - self.context, (), generator=self.generator))
            inputs.append(self.data[i : i + self.context])
            targets.append(self.data[i + 1 : i + 1 + self.context])
        return torch.stack(inputs).to(torch.int64), torch.stack(targets).to(torch.int64)


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


# %% given side="learner"
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


# %% [markdown]
# ## Exercise 2 · `AdamW`
#
# For every parameter $p$ with gradient $g$, and for its own count of steps $t = 1, 2, \dots$:
#
# $$ p \leftarrow p - \eta\lambda\, p \qquad m \leftarrow \beta_1 m + (1-\beta_1)\, g \qquad v \leftarrow \beta_2 v +
# (1-\beta_2)\, g^2 $$
#
# $$ p \leftarrow p - \eta\, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \varepsilon} $$
#
# In the code $\eta$ is `lr`, $\lambda$ is `weight_decay`, $\beta_1$ and $\beta_2$ are `betas`, and $\varepsilon$ is `eps`.
#
# The first formula is the weight decay. It stands by itself, and that is the W in the name: in Adam with an ordinary
# penalty $\lambda p$ would be added to $g$, and then divided by the root like everything else. Numbers for that are
# on the page [Optimisers](../../book/ch04_training/optimizers.md).
#
# Then write `decay_groups`. Weight decay is for what multiplies: matrices and tables. A gain of 1 in a norm is not
# something to shrink, and neither is a bias.
#
# *Difficulty 3 of 5 · 30 minutes · 6 points*


# %% exercise="AdamW" difficulty=3 minutes=30 forbid=["torch.optim.AdamW", "torch.optim.Adam", "torch.optim.NAdam", "torch.optim.Optimizer"]
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
        ### BEGIN SOLUTION
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
        ### END SOLUTION

    def step(self) -> None:
        """Change every parameter in place, by the formulas above, with the settings of its group.

        A parameter whose ``grad`` is None is left out altogether: no decay, and its count of steps stands still. All
        arithmetic is in the parameter's dtype; gradients are not changed.
        """
        ### BEGIN SOLUTION
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
        ### END SOLUTION

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        ### BEGIN SOLUTION
        for p in self.state:
            p.grad = None
        ### END SOLUTION

    def state_dict(self) -> dict[str, Any]:
        """All that `step` remembers from earlier steps, of all parameters in their order.

        Returns:
            A dict of numbers, strings, tensors, and lists and dicts of those. It is a snapshot: later steps do not change it.
        """
        ### BEGIN SOLUTION
        return {"state": [{"t": s["t"], "m": s["m"].clone(), "v": s["v"].clone()} for s in self.state.values()]}
        ### END SOLUTION

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember what another AdamW remembered, over parameters of the same shapes: it goes on where that one stopped.

        Learning rates and other settings are not part of it. The dict may be loaded into several optimisers; they share
        nothing afterwards.

        Raises:
            ValueError: if the number of parameters or a shape differs; then nothing has changed.
        """
        ### BEGIN SOLUTION
        theirs = state["state"]
        if [p.shape for p in self.state] != [other["m"].shape for other in theirs]:
            raise ValueError("this state belongs to other parameters")
        for mine, other in zip(self.state.values(), theirs, strict=True):
            mine["t"] = other["t"]
            mine["m"].copy_(other["m"])
            mine["v"].copy_(other["v"])
        ### END SOLUTION


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
    ### BEGIN SOLUTION
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>First make one form out of the two that <code>params</code> may have: a list of
# groups, each with all its settings. Keep the count and the two moments of each parameter in a dict. A parameter can be
# a key: two parameters are the same key only if they are the same object.</details>
# <details><summary>A bigger nudge</summary>Change parameters with methods that end in an underscore, inside
# <code>torch.no_grad()</code>; then the model sees the change. The count belongs to the parameter, not to the
# optimiser, and goes up before it is used. For the two dicts: <code>clone</code> on the way out, copy the values on the
# way in, and compare the shapes before you touch anything. <code>model.parameters()</code> names what is shared only
# once.</details>

# %% test="AdamW" points=4
from coursekit import check

import torch

# From "The idea": a gradient of 4, then one of 0. Steps of 0.1 * 1 and of 0.1 * 0.36 / 0.19 / sqrt(0.015984 / 0.001999).
one, gradients = [torch.tensor([1.0])], [[torch.tensor([4.0])], [torch.tensor([0.0])]]
found = descend(one, gradients, lr=0.1, weight_decay=0.0)[:, 0]
check.close(found, torch.tensor([0.9, 0.832993]), "gradients 4 and 0, lr 0.1, no decay: 1 becomes 0.9 and 0.832993")
found = descend(one, gradients, lr=0.1, weight_decay=0.5)[:, 0]
check.close(found, torch.tensor([0.85, 0.740493]), "the same with weight decay 0.5: before each step 5% are lost")
start = [torch.tensor([[0.5, -2.0], [3.0, 1.0]]), torch.tensor([1.0, -1.0])]
gradients = [[torch.tensor([[0.3, -1.0], [2.0, 5.0]]) * k, torch.tensor([1.0, 20.0]) - k] for k in range(4)]
twins = [torch.nn.Parameter(value.clone()) for value in start]
oracle, want = torch.optim.AdamW(twins, lr=0.05), []
for wanted in gradients:
    for twin, gradient in zip(twins, wanted, strict=True):
        twin.grad = gradient.clone()
    oracle.step()
    want.append(torch.cat([twin.detach().flatten() for twin in twins]))
check.close(descend(start, gradients, lr=0.05), torch.stack(want), "four steps with two parameters: torch.optim.AdamW")
### BEGIN HIDDEN TESTS


def by_torch(start, gradients, groups=None, rates=None, **settings):
    twins = [torch.nn.Parameter(value.clone()) for value in start]
    own = None if groups is None else [group | {"params": [twins[i] for i in group["params"]]} for group in groups]
    oracle, path = torch.optim.AdamW(own or twins, foreach=False, **settings), []
    for step, wanted in enumerate(gradients):
        for group in oracle.param_groups:
            group["lr"] = group["lr"] if rates is None else rates[step]
        for twin, gradient in zip(twins, wanted, strict=True):
            twin.grad = None if gradient is None else gradient.clone()
        oracle.step()
        path.append(torch.cat([twin.detach().flatten() for twin in twins]))
    return torch.stack(path)


draw = torch.Generator().manual_seed(check.seed(1))
shapes = [(3, 5), (7,), (), (2, 3, 2)]
start = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]
sizes = [1.0, 100.0, 0.01, 1.0]
gradients = [
    [size * torch.randn(s, generator=draw, dtype=torch.float64) for s, size in zip(shapes, sizes, strict=True)]
    for _ in range(50)
]
rates = [0.1 * (1 + step % 7) / 7 for step in range(50)]
for settings in (
    {"lr": 0.03, "betas": (0.7, 0.9), "eps": 0.1, "weight_decay": 0.5},
    {},
    {"lr": 0.1, "weight_decay": 0.0},
):
    what = f"50 steps, float64, {settings or 'all settings left out'}: torch.optim.AdamW"
    check.close(
        descend(start, gradients, **settings), by_torch(start, gradients, **settings), what, atol=1e-12, rtol=1e-12
    )
settings = {"betas": (0.8, 0.95), "eps": 0.01, "weight_decay": 0.4}
want = by_torch(start, gradients, rates=rates, **settings)
found = descend(start, gradients, rates=rates, **settings)
check.close(found, want, "another learning rate at every step", atol=1e-12, rtol=1e-12)
for restart in (1, 20):
    found = descend(start, gradients, rates=rates, restart=restart, **settings)
    what = f"after {restart} steps another optimiser takes over, with the old one's state_dict"
    check.close(found, want, what, atol=1e-12, rtol=1e-12)
holes = [[None if (step + i) % 4 < i else g for i, g in enumerate(gradients[step])] for step in range(12)]
found = descend(start, holes, rates=rates, restart=5, **settings)
what = "no gradient at some steps for some parameters: those stand still, and so do their counts"
check.close(found, by_torch(start, holes, rates=rates, **settings), what, atol=1e-12, rtol=1e-12)
groups = [
    {"params": [2, 0], "weight_decay": 0.9, "lr": 0.2},
    {"params": [1], "betas": (0.5, 0.6)},
    {"params": [3], "eps": 1.0},
]
found = descend(start, gradients[:10], groups, **settings)
what = "three groups with settings of their own"
check.close(found, by_torch(start, gradients[:10], groups, **settings), what, atol=1e-12, rtol=1e-12)
narrow = [[g.float().transpose(0, -1) if g.ndim else g.float() for g in row] for row in gradients]
small = [value.float().transpose(0, -1) if value.ndim else value.float() for value in start]
what = "50 steps in float32, with parameters and gradients that are not contiguous"
check.close(descend(small, narrow, lr=0.01), by_torch(small, narrow, lr=0.01), what, atol=2e-5)
still = [[torch.zeros_like(value) for value in start] for _ in range(3)]
check.close(
    descend(start, still, weight_decay=0.5),
    by_torch(start, still, weight_decay=0.5),
    "gradients of zero: only the decay is left",
    atol=1e-12,
)
facts = optimizer_facts(start[1], [row[1] for row in gradients[:6]])
parameter, want = torch.nn.Parameter(start[1].clone()), []
oracle = torch.optim.AdamW([parameter], lr=0.1)
for n, row in enumerate(gradients[:6]):
    if n == 3:
        with torch.no_grad():
            parameter.copy_(start[1])
    parameter.grad = row[1].clone()
    oracle.step()
for name in ("from half-way", "from half-way, again"):
    what = f"a state_dict taken after 3 of 6 steps, loaded by two optimisers one after the other ({name})"
    check.close(facts[name], parameter.detach(), what, atol=1e-12)
check.close(facts["zero_grad leaves"], 0.0, "the gradient after zero_grad", atol=0.0)
for name in (
    "a parameter twice",
    "a parameter in two groups",
    "the state of two parameters",
    "the state of a larger parameter",
):
    check.equal(facts[f"refuses {name}"], "ValueError", f"the error for {name}")
check.that(facts["is unchanged by what it refuses"], "a state that is refused changes nothing")
### END HIDDEN TESTS

# %% test="AdamW" points=2
from coursekit import check

found = grouped_names(0.3)
check.equal([group[0] for group in found], [0.3, 0.0], "two groups, with weight decay 0.3 and 0.0")
check.that("norm.weight" in found[1], "the gain of a norm does not decay", why=f"the second group is {found[1][1:]}")
check.that("embedding.weight" in found[0], "the table of embeddings decays", why=f"the first group is {found[0][1:]}")
### BEGIN HIDDEN TESTS
for decay in (0.1, 0.0):
    found = grouped_names(decay)
    check.equal(
        found[0],
        [decay, "bias_table", "embedding.weight", "filter.weight"],
        "what decays: matrices, tables, filters, once each",
    )
    check.equal(
        found[1],
        [0.0, "filter.bias", "head.bias", "norm.bias", "norm.weight", "temperature"],
        "what does not decay: biases, gains, single numbers",
    )
    check.equal(len(found), 2, "the number of groups")
### END HIDDEN TESTS


# %% alternative="AdamW"
class AdamW:
    # Lists in place of a dict, lerp, both corrections folded into the step, prints.
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        groups = list(params)
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        self.param_groups = []
        for group in groups:
            full = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
            full.update(group)
            full["params"] = list(group["params"])
            self.param_groups.append(full)
        every = [p for group in self.param_groups for p in group["params"]]
        if len(set(every)) != len(every):
            raise ValueError("twice")
        print(len(every), "parameters")
        self.counts = [0] * len(every)
        self.first = [torch.zeros_like(p.data) for p in every]
        self.second = [torch.zeros_like(p.data) for p in every]

    @torch.no_grad()
    def step(self):
        n = -1
        for group in self.param_groups:
            beta_1, beta_2 = group["betas"]
            for p in group["params"]:
                n += 1
                if p.grad is not None:
                    self.counts[n] += 1
                    self.first[n].lerp_(p.grad, 1 - beta_1)
                    self.second[n].lerp_(p.grad**2, 1 - beta_2)
                    root = torch.sqrt(self.second[n]) / math.sqrt(1 - beta_2 ** self.counts[n])
                    size = group["lr"] / (1 - beta_1 ** self.counts[n])
                    update = size * self.first[n] / (root + group["eps"])
                    p.data -= group["lr"] * group["weight_decay"] * p.data + update

    def zero_grad(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = torch.zeros_like(p)

    def state_dict(self):
        return {
            "counts": list(self.counts),
            "first": [x.clone() for x in self.first],
            "second": [x.clone() for x in self.second],
        }

    def load_state_dict(self, state):
        if [x.shape for x in state["first"]] != [x.shape for x in self.first]:
            raise ValueError("other parameters")
        self.counts = list(state["counts"])
        self.first = [x.clone() for x in state["first"]]
        self.second = [x.clone() for x in state["second"]]


def decay_groups(model, weight_decay):
    yes, no = {}, {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (yes if parameter.dim() > 1 else no)[name] = parameter
    return [
        {"params": list(yes.values()), "weight_decay": weight_decay},
        {"params": list(no.values()), "weight_decay": 0.0},
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

# %% equivalent="AdamW"
{
    "True -> False": "zip's strict: the shapes of the two lists have just been compared, so they are equally long",
}


# %% given side="learner"
def clipped(gradients: list[torch.Tensor | None], max_norm: float) -> tuple[float, list[torch.Tensor | None]]:
    """For the checks of exercise 3: what `clip_gradients` returns, and the gradients afterwards."""
    parameters = [nn.Parameter(torch.zeros(2) if g is None else torch.zeros_like(g)) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.clone()
    norm = clip_gradients(iter(parameters), max_norm)
    return norm, [parameter.grad for parameter in parameters]


# %% [markdown]
# ## Exercise 3 · `lr_at` and `clip_gradients`
#
# Two small functions that stand around every step.
#
# The learning rate of a step depends on its number alone. That makes it easy to test, and a resumed run needs nothing
# but the step to go on. With 4 steps of warm-up, 10 steps, `lr=1` and `min_lr=0` the rates are 0.2, 0.4, 0.6, 0.8 on
# the way up, 1.0 at step 4, and half a cosine down to 0 at step 9, which is the last.
#
# Clipping looks at the gradient of the whole model as one long vector. If it is longer than `max_norm`, all of it is
# scaled down by the same factor: the step gets shorter and keeps its direction.
#
# *Difficulty 2 of 5 · 20 minutes · 4 points*


# %% exercise="lr_at" difficulty=2 minutes=20 forbid=["clip_grad_norm_", "clip_grads_with_norm_", "get_total_norm"]
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
    ### BEGIN SOLUTION
    if not 0 <= warmup < steps:
        raise ValueError(f"a warm-up of {warmup} steps does not fit into {steps} steps")
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    way = max(steps - 1 - warmup, 1)  # steps from the largest rate to the last one
    done = min((step - warmup) / way, 1)
    return min_lr + (lr - min_lr) * (math.cos(math.pi * done) + 1) / 2
    ### END SOLUTION


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
    ### BEGIN SOLUTION
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
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>For the schedule: how many steps lie between the one at full rate and the last? With
# warm-up 4 and 10 steps it is 5, the way from step 4 to step 9. For clipping: the length of a vector can be had from the
# lengths of its parts.</details>
# <details><summary>A bigger nudge</summary>Say how much of the way down is done, as a number from 0 to 1, and never more
# than 1. The cosine of 0 is 1 and that of π is −1; bring this to 1 and 0, and that to <code>lr</code> and
# <code>min_lr</code>. If the full rate comes at the last step, the way has no length: do not divide by it. For clipping,
# keep the parameters of an iterator in a list before you go through them twice, and check the length before you
# change anything.</details>

# %% test="lr_at" points=2
from coursekit import check

import torch

rates = torch.tensor([lr_at(step, steps=10, warmup=4, lr=1.0) for step in range(10)])
want = torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0, 0.904508, 0.654508, 0.345492, 0.095492, 0.0])
check.close(rates, want, "10 steps, warm-up 4, from lr 1 to 0")
check.close(lr_at(9, 10, 4, 1.0, min_lr=0.1), 0.1, "the last step has min_lr", atol=1e-9)
check.close(lr_at(4, 7, 2, 1.0, min_lr=0.1), 0.55, "half of the way down from 1 to 0.1", atol=1e-9)
check.close(lr_at(0, 10, 0, 3.0), 3.0, "without warm-up the first step has the full rate", atol=1e-9)
check.raises(ValueError, lambda: lr_at(0, 10, 10, 1.0), "10 steps of warm-up in a run of 10 steps")
### BEGIN HIDDEN TESTS
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

for steps, warmup, lr, min_lr in ((50, 7, 3e-3, 3e-4), (63, 1, 1.0, 0.5), (9, 7, 1.0, 0.25), (21, 0, 0.1, 0.0)):
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    down = CosineAnnealingLR(sgd, T_max=steps - 1 - warmup, eta_min=min_lr)
    schedule = down
    if warmup:
        up = LinearLR(sgd, start_factor=1 / (warmup + 1), total_iters=warmup)
        schedule = SequentialLR(sgd, [up, down], milestones=[warmup])
    want = []
    for _ in range(steps):
        want.append(sgd.param_groups[0]["lr"])
        sgd.step()
        schedule.step()
    found = torch.tensor([lr_at(s, steps, warmup, lr, min_lr) for s in range(steps)], dtype=torch.float64)
    what = f"{steps} steps, warm-up {warmup}, from {lr:g} to {min_lr:g}: torch's LinearLR and CosineAnnealingLR"
    check.close(found, torch.tensor(want, dtype=torch.float64), what, atol=1e-12, rtol=1e-9)
    for later in (steps, steps + 5, 3 * steps):
        check.close(lr_at(later, steps, warmup, lr, min_lr), min_lr, f"{what}; step {later}, after the end", atol=1e-12)
check.close(lr_at(4, 5, 4, 2.0, 0.5), 2.0, "the full rate comes at the last step: it is lr", atol=1e-12)
check.close(lr_at(5, 5, 4, 2.0, 0.5), 0.5, "the full rate came at the last step: after it, min_lr", atol=1e-12)
check.close(lr_at(0, 1, 0, 2.0, 0.5), 2.0, "a run of one step", atol=1e-12)
for warmup, steps in ((-1, 10), (11, 10), (0, 0)):
    check.raises(
        ValueError, lambda warmup=warmup, steps=steps: lr_at(0, steps, warmup, 1.0), f"warm-up {warmup}, {steps} steps"
    )
### END HIDDEN TESTS

# %% test="lr_at" points=2
from coursekit import check

import torch

# Two gradients of lengths 3 and 4: together they have length 5.
gradients = [torch.tensor([1.8, 2.4]), torch.tensor([0.0, 4.0])]
norm, after = clipped(gradients, 2.0)
check.close(norm, 5.0, "lengths 3 and 4: the whole gradient has length 5 before clipping")
check.close(torch.stack(after), torch.tensor([[0.72, 0.96], [0.0, 1.6]]), "clipped to 2: everything times 2/5")
norm, after = clipped(gradients, 10.0)
check.close(torch.stack(after), torch.stack(gradients), "shorter than 10: nothing changes")
### BEGIN HIDDEN TESTS
draw = torch.Generator().manual_seed(check.seed(3))
for dtype in (torch.float64, torch.float32):
    parts = [torch.randn(shape, generator=draw, dtype=dtype) for shape in ((4, 3), (5,), (), (2, 3, 2))]
    parts[3] = parts[3].transpose(0, 2)
    length = float(torch.cat([part.flatten() for part in parts]).norm())
    for share in (0.01, 0.5, 0.999, 1.001, 100.0):
        twins = [torch.nn.Parameter(torch.zeros_like(part)) for part in parts]
        for twin, part in zip(twins, parts, strict=True):
            twin.grad = part.clone()
        want = float(torch.nn.utils.clip_grad_norm_(twins, share * length))
        norm, after = clipped([*parts, None], share * length)
        what = f"{dtype}, max_norm is {share:g} times the length"
        check.close(norm, want, f"{what}: the length before clipping", rtol=1e-6)
        for part, twin in zip(after, twins, strict=False):
            check.close(part, twin.grad, f"{what}: torch.nn.utils.clip_grad_norm_", atol=1e-6)
        check.equal(after[-1], None, f"{what}: a parameter without a gradient still has none")
norm, after = clipped([torch.tensor([3.0, 4.0])], 5.0)
check.equal(after[0], torch.tensor([3.0, 4.0]), "exactly as long as max_norm: nothing changes")
check.equal(clipped([None, None], 1.0)[0], 0.0, "no gradients at all: length 0")
check.equal(clipped([], 1.0)[0], 0.0, "no parameters at all: length 0")
for bad in (float("inf"), -float("inf"), float("nan")):
    check.raises(
        FloatingPointError,
        lambda bad=bad: clipped([torch.ones(3), torch.tensor([1.0, bad])], 1.0),
        f"a gradient with {bad} in it",
    )
### END HIDDEN TESTS


# %% alternative="lr_at"
def lr_at(step, steps, warmup, lr, min_lr=0.0):
    if warmup < 0 or warmup >= steps:
        raise ValueError("warm-up")
    if step >= steps:
        return min_lr
    if step <= warmup:
        return lr * (1 + step) / (1 + warmup)
    angle = math.pi * (step - warmup) / (steps - 1 - warmup)
    return lr * math.cos(angle / 2) ** 2 + min_lr * math.sin(angle / 2) ** 2


def clip_gradients(parameters, max_norm):
    with_gradient = [p for p in parameters if p.grad is not None]
    total = torch.zeros((), dtype=torch.float64)
    for p in with_gradient:
        total = total + p.grad.detach().double().pow(2).sum()
    norm = total.sqrt().item()
    if norm != norm or norm == float("inf"):
        raise FloatingPointError("no finite length")
    factor = min(1.0, max_norm / max(norm, 1e-300))
    for p in with_gradient:
        p.grad *= factor
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

# %% equivalent="lr_at"
{
    "step < warmup -> step <= warmup": "at step == warmup both branches give lr",
    "norm > max_norm -> norm >= max_norm": "where the two are equal the factor is 1",
}


# %% given side="learner"
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


# %% [markdown]
# ## Exercise 4 · `accumulate` and `evaluate`
#
# A batch that does not fit into memory is cut into micro-batches. Go backwards after each: PyTorch adds the gradients
# up, and the memory of one micro-batch is free before the next one comes. What has to come out is the gradient of the
# whole batch. The trap is the word *mean*. Let one micro-batch hold 2 targets with losses 1 and 3, and another hold 1
# target with loss 8. The mean over the batch is $12/3 = 4$. The mean of the two means is $(2 + 8)/2 = 5$.
#
# `evaluate` measures the loss on a text without leaving a trace. `summed_loss` is given, for both.
#
# *Difficulty 3 of 5 · 25 minutes · 6 points*


# %% exercise="accumulate" difficulty=3 minutes=25
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
    ### BEGIN SOLUTION
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
    ### END SOLUTION


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
    ### BEGIN SOLUTION
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
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Both functions divide once: by the number of all targets, which you know before the
# first call of the model. Neither takes a mean of means.</details>
# <details><summary>A bigger nudge</summary>A sum divided by a number that is known beforehand can be taken apart: each
# part's share is its own sum over the number of all. For <code>evaluate</code>, a tensor's <code>split(context)</code> gives
# the windows, the last of them shorter; only windows of one length can be stacked. <code>model.train(False)</code> sets all
# parts alike, so note the mode of each of <code>model.modules()</code> before. What has to happen in any case belongs in
# <code>finally</code>.</details>

# %% test="accumulate" points=3
from coursekit import check

import torch
from torch.nn import functional as F

twin = TinyLM()
draw = torch.Generator().manual_seed(0)
ids = torch.randint(11, (4, 6), generator=draw)
found = accumulated(twin.state_dict(), [(ids[:3, :-1], ids[:3, 1:]), (ids[3:, :-1], ids[3:, 1:])])
loss = F.cross_entropy(twin(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
loss.backward()
for name, parameter in twin.named_parameters():
    check.close(found["gradients"][name], parameter.grad, f"parts of 3 and 1 sequences: the gradient of {name}")
check.close(found["loss"], loss.item(), "parts of 3 and 1 sequences: the loss of one batch of 4")
### BEGIN HIDDEN TESTS
draw = torch.Generator().manual_seed(check.seed(5))
twin.double()
with torch.no_grad():
    for parameter in twin.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=draw))
for sizes, lengths in (([2, 1, 3], [7, 7, 7]), ([1], [5]), ([3, 1, 2, 2], [9, 4, 1, 6])):
    what = f"parts of {sizes} sequences and {lengths} tokens"
    parts = []
    for size, length in zip(sizes, lengths, strict=True):
        ids = torch.randint(11, (size, length + 1), generator=draw)
        targets = ids[:, 1:].clone()
        if len(sizes) > 1 and length > 1:
            targets[0, : length // 2] = -100
            if size == 3:
                targets[1] = -100
        parts.append((ids[:, :-1], targets))
    if len(sizes) == 4:
        parts[1] = (parts[1][0], torch.full_like(parts[1][1], -100))
    count = sum(int((targets != -100).sum()) for _, targets in parts)
    together = sum(F.cross_entropy(twin(x).flatten(0, 1), y.flatten(), reduction="sum") for x, y in parts) / count
    twin.zero_grad()
    together.backward()
    for kind in (torch.float64, torch.float32):
        weights = {name: value.to(kind) for name, value in twin.state_dict().items()}
        found = accumulated(weights, parts)
        exact = {"atol": 1e-11} if kind == torch.float64 else {"atol": 1e-4, "rtol": 1e-4}
        check.close(found["loss"], float(together), f"{what}, {kind}: the loss", **exact)
        for name, parameter in twin.named_parameters():
            check.close(
                found["gradients"][name], parameter.grad.to(kind), f"{what}, {kind}: the gradient of {name}", **exact
            )
        seen = [list(call[:2]) for call in found["calls"]]
        check.equal(seen, [list(x.shape) for x, _ in parts], f"{what}: the model sees each part once, by itself")
# Memory: eight parts alike, and one of them alone.
ids = torch.randint(11, (8, 2, 10), generator=draw)
weights = TinyLM().state_dict()
alone = accumulated(weights, [(ids[0, :, :-1], ids[0, :, 1:])])["peak"]
eight = accumulated(weights, [(part[:, :-1], part[:, 1:]) for part in ids])["peak"]
check.that(
    eight <= 1.5 * alone,
    "what is kept for the backward pass is that of one part at a time",
    why=f"with one part at most {alone:,} bytes were kept, with eight parts of the same size {eight:,}",
    hint="Call backward after each part; the gradients add up by themselves.",
)
nothing = torch.full((2, 9), -100)
check.raises(ValueError, lambda: accumulated(weights, [(ids[0, :, :-1], nothing)]), "no target counts")
# bfloat16: another result, but not by much, and gradients in float32.
x, y = ids[0, :, :-1], ids[0, :, 1:]
full, half = accumulated(weights, [(x, y)]), accumulated(weights, [(x, y)], bf16=True)
apart = abs(full["loss"] - half["loss"])
check.that(
    0 < apart < 0.2, "with bf16 the loss is another one, but not by much", why=f"the two losses differ by {apart:.3g}"
)
check.equal(str(half["gradients"]["w"].dtype), "torch.float32", "with bf16 the gradients are float32 all the same")
### END HIDDEN TESTS

# %% test="accumulate" points=3
from coursekit import check

import torch
from torch.nn import functional as F

twin = TinyLM()
text = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3])
# Context 4, so nine targets in windows of 4, 4 and 1.
log_p = torch.cat([F.log_softmax(twin(text[None, i : min(i + 4, 9)])[0].detach(), -1) for i in (0, 4, 8)])
want = -float(log_p[torch.arange(9), text[1:]].mean())
found = evaluated(twin.state_dict(), text, batch_size=2, context=4)
check.equal(found["said"], "", "nine targets in windows of 4, 4 and 1: what evaluate raises")
check.close(found["loss"], want, "nine targets in windows of 4, 4 and 1, dropout off: the mean of their losses")
check.equal(found["modes"], (True, True), "the model was in training mode before, and is so again")
check.that(found["random"], "torch's random state is untouched", why="torch.get_rng_state() has changed")
check.that(found["gradients"], "the gradients are untouched", why="every gradient was 7, and some are not any more")
check.equal(evaluated(twin.state_dict(), text[:1], 2, 4)["error"], "ValueError", "the error for a text of one token")
### BEGIN HIDDEN TESTS
draw = torch.Generator().manual_seed(check.seed(6))
twin.double()
with torch.no_grad():
    for parameter in twin.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=draw))
for size, batch_size, context in ((64, 3, 7), (65, 1, 8), (57, 100, 8), (5, 2, 63), (2, 1, 1), (30, 4, 1)):
    what = f"{size} tokens, at most {batch_size} windows of {context}"
    text = torch.randint(11, (size,), generator=draw)
    total = 0.0
    for i in range(0, size - 1, context):
        piece = text[i : i + context + 1]
        total += float(F.cross_entropy(twin(piece[None, :-1])[0].detach(), piece[1:], reduction="sum"))
    for modes in ((True, True), (False, False), (True, False), (False, True)):
        found = evaluated(twin.state_dict(), text, batch_size, context, modes)
        check.close(found["loss"], total / (size - 1), f"{what}: the mean loss", atol=1e-10)
        check.equal(found["modes"], modes, f"{what}: the modes of the model and of its dropout, {modes} before")
        check.that(found["random"], f"{what}: torch's random state is untouched")
        check.that(found["gradients"], f"{what}: the gradients are untouched")
        check.that(found["weights"], f"{what}: the weights are untouched")
    calls = found["calls"]
    check.that(
        all(windows <= batch_size and tokens <= context for windows, tokens, _, _ in calls),
        f"{what}: the model never sees more at once",
        why=f"it was given {[list(call[:2]) for call in calls]}",
    )
    most = -(-((size - 1) // context) // batch_size) + 1
    check.that(
        len(calls) <= most, f"{what}: windows are asked together", why=f"{len(calls)} calls, and {most} are enough"
    )
    check.that(
        not any(call[2] for call in calls), f"{what}: nothing is kept for a backward pass", why="gradients were on"
    )
for modes in ((True, False), (False, True)):
    found = evaluated(twin.state_dict(), torch.tensor([1, 2, 3, 4, 99, 5]), 1, 2, modes)
    check.equal(found["error"], "IndexError", "a token that the model does not know: its error comes through")
    check.equal(found["modes"], modes, "the modes after the model has raised an error")
small = evaluated(twin.state_dict(), torch.arange(11, dtype=torch.uint8), 3, 4)
same = evaluated(twin.state_dict(), torch.arange(11), 3, 4)
check.close(small["loss"], same["loss"], "a text in uint8 and the same text in int64", atol=1e-12)
check.equal(
    evaluated(twin.state_dict(), torch.arange(1), 3, 4)["error"], "ValueError", "the error for a text of one token"
)
weights = TinyLM().state_dict()
full, half = (evaluated(weights, text, 4, 8, bf16=bf16)["loss"] for bf16 in (False, True))
check.that(
    0 < abs(full - half) < 0.2, "with bf16 the loss is another one, but not by much", why=f"{full:.6f} and {half:.6f}"
)
### END HIDDEN TESTS


# %% alternative="accumulate"
def accumulate(model, micro_batches, bf16=False):
    losses, counts = [], []
    for parameter in model.parameters():
        parameter.grad = None
    counts = [int(torch.count_nonzero(targets + 100)) for _, targets in micro_batches]
    if not any(counts):
        raise ValueError("nothing")
    for inputs, targets in micro_batches:
        part = summed_loss(model, inputs, targets, bf16=bf16)
        (part * (1 / sum(counts))).backward()
        losses.append(float(part.detach()))
    return sum(losses) / sum(counts)


@torch.inference_mode()
def evaluate(model, data, batch_size, context, bf16=False):
    data = data.to(torch.int64)
    if data.numel() <= 1:
        raise ValueError("no text")
    before = [(module, module.training) for module in model.modules()]
    windows = [data[i : i + context + 1] for i in range(0, data.numel() - 1, context)]
    model.train(False)
    total = torch.zeros((), dtype=torch.float64)
    try:
        while windows:
            group = [windows.pop(0)]
            while windows and len(group) < batch_size and len(windows[0]) == len(group[0]):
                group.append(windows.pop(0))
            rows = torch.stack(group)
            total += summed_loss(model, rows[:, :-1], rows[:, 1:], bf16)
    finally:
        for module, mode in before:
            module.training = mode
    return float(total / (data.numel() - 1))


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

# %% equivalent="accumulate"
{
    "len(data) - 1 -> len(data) - 2": "where it matters, the last full window is asked by itself, which is allowed",
}


# %% given side="learner"
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


# %% [markdown]
# ## Exercise 5 · `save_checkpoint` and `load_checkpoint`
#
# What does a run have to remember, so that it can go on as if nothing had happened? You saw in the picture what each
# forgotten part costs. `TrainState` holds most of them. One more is not in it: dropout draws from torch's own random
# state.
#
# A checkpoint is worth having only if it is there when you need it. Two rules make it so. Write to another file first
# and rename it when it is complete: a rename takes place or does not, and there is never half a checkpoint under the
# name that you will load. And look before you load: a file that is damaged, or belongs to another run, is refused, and
# nothing has changed.
#
# *Difficulty 3 of 5 · 25 minutes · 4 points*


# %% exercise="save_checkpoint" difficulty=3 minutes=25
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
    ### BEGIN SOLUTION
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
    ### END SOLUTION


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
    ### BEGIN SOLUTION
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
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>A dict with seven entries, written by <code>torch.save</code>. Generators have
# <code>get_state</code> and <code>set_state</code>, torch itself has <code>get_rng_state</code> and
# <code>set_rng_state</code>, and a dataclass becomes a dict with <code>asdict</code>.</details>
# <details><summary>A bigger nudge</summary><code>os.replace</code> renames in one go. When loading, compare everything
# first and change things last; <code>model.load_state_dict</code> copies what fits before it complains about the rest.
# <code>torch.load</code> with <code>weights_only=True</code> runs no code out of the file, and it does not compare
# checksums. The file is a zip archive, though, and <code>zipfile.ZipFile(path).testzip()</code> names the first part whose
# checksum is wrong, or returns None.</details>

# %% test="save_checkpoint" points=4
from coursekit import check

check.equal(restored(3), [], "saved after 3 steps and loaded into another run: the parts that are not the same")
found = refused("cut off")
check.equal(
    [found["error"], found["changed"]], ["ValueError", []], "half a file: the error, and the parts that changed"
)
check.equal(refused("missing")["error"], "FileNotFoundError", "no file: the error")
### BEGIN HIDDEN TESTS
for n_steps in (0, 1, 6):
    check.equal(
        restored(n_steps),
        [],
        f"saved after {n_steps} steps and loaded into another run: the parts that are not the same",
    )
found = saved_over()
check.equal(found["the old file was written over"], False, "somebody who has the old file open still reads the old one")
check.equal(found["files"], ["run.pt"], "the files in the folder after saving twice")
check.equal(found["step of the new one"], 5, "saved twice under one name: the step of what is loaded")
check.equal(
    found["lost after a failure"], [], "the disk was full when a second one was written: what is lost of the first"
)
check.equal(
    found["lost before the rename"], [], "the machine died just before the rename: what is lost of the first checkpoint"
)
for fault in (
    "empty",
    "one bit",
    "something else",
    "code",
    "another optimiser",
    "another name",
    "another shape",
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
found = refused("missing")
check.equal(found["changed"], [], "no file: the parts of the run that have changed")
### END HIDDEN TESTS


# %% alternative="save_checkpoint"
def save_checkpoint(path, state, config):
    # A checksum of its own, in front of what torch writes, by way of a file with a name that nobody else has.
    import hashlib

    memory = io.BytesIO()
    random_states = [state.generator.get_state(), torch.get_rng_state()]
    torch.save(
        [
            vars(config),
            state.model.state_dict(),
            state.optimizer.state_dict(),
            state.step,
            state.history,
            random_states,
        ],
        memory,
    )
    payload = memory.getvalue()
    handle, name = tempfile.mkstemp(dir=os.path.dirname(path))
    with os.fdopen(handle, "wb") as file:
        file.write(hashlib.sha256(payload).digest() + payload)
    os.rename(name, path)


def load_checkpoint(path, state, config):
    import hashlib

    with open(path, "rb") as file:
        content = file.read()
    digest, payload = content[:32], content[32:]
    if hashlib.sha256(payload).digest() != digest:
        raise ValueError("damaged")
    saved, weights, remembered, step, history, (order, random) = torch.load(io.BytesIO(payload), weights_only=True)
    wrong = " ".join(sorted(key for key in saved if saved[key] != getattr(config, key)))
    if wrong:
        raise ValueError(f"these differ: {wrong}")
    own = state.model.state_dict()
    if own.keys() != weights.keys() or any(own[key].shape != weights[key].shape for key in own):
        raise ValueError("another model")
    state.optimizer.load_state_dict(remembered)
    state.model.load_state_dict(weights)
    state.step = step
    state.history[:] = history
    state.generator.set_state(order)
    torch.random.set_rng_state(random)


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


# %% given side="learner"
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


# %% [markdown]
# ## Exercise 6 · `train`
#
# Now the loop. Every part is there, and what is left is the order of things: the rate before the step, clipping
# between the gradient and the step, the checkpoint after everything that belongs to the step. Write the row of the
# history first, then save. Otherwise the last row is missing from the file.
#
# Ctrl-C may come at any moment, also in the middle of a step, with the next batch drawn and the weights not yet
# moved. Do not save at that moment. The last checkpoint is complete, and resuming from it loses a few steps and
# nothing else. `progress` is given: it counts the steps and shows a bar.
#
# *Difficulty 4 of 5 · 30 minutes · 7 points*


# %% exercise="train" difficulty=4 minutes=30
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
    ### BEGIN SOLUTION
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
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>First everything that a run consists of, as a fresh <code>TrainState</code>; then, if
# there is a file, load it into that state; then the loop over <code>progress(state, last)</code>. Each line of the loop
# is a call of something that you have already written.</details>
# <details><summary>A bigger nudge</summary>If a resumed run is not equal to the bit, ask which of two things is
# different at its first step: the batch, or the dropout? Seeding after loading destroys what was loaded. If only the
# history differs, look at the order of the last lines, and at what counts as the last step of the <em>run</em>: that is
# not the last step of this call. For Ctrl-C you need no code at all.</details>

# %% test="train" points=3
from coursekit import check

import torch
from torch.nn import functional as F

# Seven tokens and a context of six: every batch is the same, so any order of the data gives the same run.
piece = torch.tensor([3, 1, 4, 1, 5, 9, 2])
settings = {"steps": 3, "batch_size": 2, "context": 6, "lr": 0.01, "warmup": 1, "clip": 100.0}
found = trained(settings, piece)
check.equal([row["step"] for row in found["history"]], [1, 2, 3], "three steps: the numbers in the history")
first = F.cross_entropy(TinyLM()(piece[None, :-1])[0], piece[1:]).item()
check.close(found["history"][0]["loss"], first, "the loss of the first step, which is that of the untrained model")
rates = torch.tensor([row["lr"] for row in found["history"]])
check.close(rates, torch.tensor([0.005, 0.01, 1e-4]), "lr 0.01, one step of warm-up, three steps: the rates")
whole, halves = (trained({**settings, "steps": 4}, piece, stops, dropout=0.2) for stops in ((None,), (2, None)))
check.equal(len(halves["history"]), 4, "stopped after 2 of 4 steps and resumed: the rows of the history")
hint = "What is different at the first step after the resume: the batch, the dropout, the moments or the rate?"
what = "stopped after 2 of 4 steps and resumed: w, to the bit"
check.equal(halves["weights"]["w"], whole["weights"]["w"], what, hint=hint)
### BEGIN HIDDEN TESTS


def by_torch(settings, piece, validation=None):
    """The same run with PyTorch's parts, in float64."""
    model, history = TinyLM().double(), []
    pairs = [([model.token, model.w], settings["weight_decay"]), ([model.gain, model.b], 0.0)]
    groups = [{"params": params, "weight_decay": decay} for params, decay in pairs]
    adam = torch.optim.AdamW(groups, betas=settings["betas"], eps=settings["eps"])
    half_circle = torch.linspace(0, torch.pi, settings["steps"] - settings["warmup"], dtype=torch.float64)
    up = [settings["lr"] * (n + 1) / (settings["warmup"] + 1) for n in range(settings["warmup"])]
    low, high = settings["min_lr"], settings["lr"]
    for n, rate in enumerate([*up, *((1 + half_circle.cos()) / 2 * (high - low) + low).tolist()], start=1):
        for group in adam.param_groups:
            group["lr"] = rate
        adam.zero_grad()
        loss = F.cross_entropy(model(piece[None, :-1])[0], piece[1:])
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip"])
        adam.step()
        history.append({"step": n, "loss": float(loss), "lr": rate, "norm": float(norm)})
        if validation is not None and (n % settings["eval_every"] == 0 or n == settings["steps"]):
            windows = [validation[i : i + 7] for i in range(0, len(validation) - 1, 6)]
            losses = [F.cross_entropy(model(w[None, :-1])[0].detach(), w[1:], reduction="sum") for w in windows]
            history[-1]["validation"] = float(sum(losses)) / (len(validation) - 1)
    return {name: value.detach() for name, value in model.state_dict().items()}, history


common = {
    "context": 6,
    "lr": 0.05,
    "min_lr": 0.01,
    "betas": (0.8, 0.9),
    "eps": 1e-3,
    "weight_decay": 0.5,
    "eval_every": 4,
}
check_text = (torch.arange(27) ** 2) % 11
for steps, warmup, clip, batch_size, micro_batches, validation in (
    (6, 2, 0.2, 2, 1, check_text),
    (4, 0, 1e6, 5, 3, None),
    (5, 4, 0.5, 4, 4, check_text),
):
    settings = common | {"steps": steps, "warmup": warmup, "clip": clip}
    settings |= {"batch_size": batch_size, "micro_batches": micro_batches}
    what = f"{steps} steps, warm-up {warmup}, clip {clip:g}, batches of {batch_size} in {micro_batches} parts, float64"
    weights, rows = by_torch(settings, piece, validation)
    found = trained(settings, piece, validation=validation, double=True, keep=False, training=False)
    names = [sorted(row) for row in found["history"]]
    check.equal(names, [sorted(row) for row in rows], f"{what}: the keys of the rows")
    for key in ("step", "lr", "loss", "norm", "validation"):
        got = torch.tensor([row[key] for row in found["history"] if key in row], dtype=torch.float64)
        want = torch.tensor([row[key] for row in rows if key in row], dtype=torch.float64)
        check.close(got, want, f"{what}: {key} in the history", atol=1e-6)
    for name, value in weights.items():
        check.close(found["weights"][name], value, f"{what}: {name} at the end, as with PyTorch's parts", atol=1e-6)
    parts = [len(part) for part in torch.zeros(batch_size).chunk(micro_batches)]
    check.equal(
        [call[0] for call in found["calls"]], parts * steps, f"{what}: how many sequences the model sees at a time"
    )
    check.that(all(call[3] for call in found["calls"]), f"{what}: the model is in training mode at every step")
    check.that(found["training"], f"{what}: the model is in training mode afterwards")
### END HIDDEN TESTS

# %% test="train" points=4
from coursekit import check

import torch

text = (torch.arange(300) ** 2 * 3 + torch.arange(300)) % 11
settings = {"steps": 5, "batch_size": 3, "context": 5, "lr": 0.03, "warmup": 2, "save_every": 2, "eval_every": 3}
whole = trained(settings, text, dropout=0.3)
halves = trained(settings, text, (3, None), dropout=0.3)
check.equal(
    halves["weights"]["token"], whole["weights"]["token"], "dropout, stopped after 3 of 5 steps: the table, to the bit"
)
check.equal(halves["files"], ["run.pt"], "the files at the end")
judged = [row["step"] for row in trained(settings, text, validation=text[:40])["history"] if "validation" in row]
check.equal(judged, [3, 5], "5 steps, eval_every 3: the steps with a validation loss")
stopped = trained(settings, text, (None, None), dropout=0.3, interrupt_at=4)
check.equal(stopped["ended"], ["KeyboardInterrupt", ""], "Ctrl-C in step 5, then a second call: how the two calls end")
check.equal(
    len(stopped["calls"]), 1, "Ctrl-C in step 5, a checkpoint after step 4: how many steps the second call takes"
)
check.equal(
    stopped["weights"]["token"], whole["weights"]["token"], "Ctrl-C in step 5 of 5, and resumed: the table, to the bit"
)
### BEGIN HIDDEN TESTS
draw = torch.Generator().manual_seed(check.seed(8))
text, judge = torch.randint(11, (300,), generator=draw), torch.randint(11, (40,), generator=draw)
settings |= {"micro_batches": 2, "clip": 0.5}
whole = trained(settings, text, validation=judge, dropout=0.3)


def same(found, what):
    check.equal([row["step"] for row in found["history"]], list(range(1, 6)), f"{what}: the steps in the history")
    for key in ("loss", "lr", "norm", "validation"):
        got = [row[key] for row in found["history"] if key in row]
        want = [row[key] for row in whole["history"] if key in row]
        check.equal(got, want, f"{what}: {key} in the history, to the bit")
    for name, value in whole["weights"].items():
        check.equal(found["weights"][name], value, f"{what}: {name} at the end, to the bit")


same(trained(settings, text, validation=judge, dropout=0.3, keep=False), "without a file")
for stops in ((1, None), (4, 3, 99)):
    found = trained(settings, text, stops, validation=judge, dropout=0.3)
    same(found, f"calls with until={', '.join(map(str, stops))}")
    left = 5 - max(stops[:-1])
    what = (
        f"calls with until={', '.join(map(str, stops))}, two parts to a batch: how often the last call asks the model"
    )
    hint = (
        "until counts the steps of the run, and a call writes a checkpoint when it is done, whatever save_every says."
    )
    check.equal(len(found["calls"]), 2 * left, what, hint=hint)
# The steps between two checkpoints are counted from the start of the run, not from that of the call.
plain = {"steps": 6, "batch_size": 3, "context": 5, "lr": 0.03, "warmup": 2, "save_every": 2, "eval_every": 3}
found = trained(plain, text, (3, None, None), interrupt_at=2, interrupt_in=1)
what = "stopped after step 3, Ctrl-C in step 6, a checkpoint due after step 4: how many steps the third call takes"
check.equal(len(found["calls"]), 2, what)
# Ctrl-C in any call of the model: in the first part of a batch, in the second, and while the validation loss is measured.
for call in (3, 7):
    found = trained(settings, text, (None, None), validation=judge, dropout=0.3, interrupt_at=call)
    check.equal(
        found["ended"], ["KeyboardInterrupt", ""], f"Ctrl-C in call {call} of the model, and resumed: how both end"
    )
    same(found, f"Ctrl-C in call {call} of the model, and resumed")
# The validation loss is measured without side effects.
blind = trained(settings, text, dropout=0.3, keep=False)
for name, value in whole["weights"].items():
    check.equal(blind["weights"][name], value, f"no validation text: {name} at the end is the same, to the bit")
calm, other = (trained({**settings, "seed": seed}, text, keep=False) for seed in (0, 1))
check.that(other["history"][0]["loss"] != calm["history"][0]["loss"], "another seed gives another first batch")
check.that(calm["history"][0]["loss"] != whole["history"][0]["loss"], "dropout is on in training")
# What must not go on.
for spoil in ("file", "settings"):
    found = trained(settings, text, (2, None), dropout=0.3, spoil=spoil)
    check.equal(found["ended"], ["", "ValueError"], f"the {spoil} changed before the second call: how both calls end")
found = trained(settings, text, spoil="weights")
check.equal(found["ended"], ["FloatingPointError"], "a NaN among the weights: how the call ends")
check.equal(found["files"], [], "a NaN among the weights: nothing is saved")
# With a learning rate of zero the weights stay what they are, so only the arithmetic differs.
still = {**settings, "lr": 0.0, "min_lr": 0.0}
half, full = (trained({**still, "bf16": bf16}, text, validation=judge, keep=False) for bf16 in (True, False))
for key in ("loss", "validation"):
    apart = abs(half["history"][-1][key] - full["history"][-1][key])
    check.that(
        0 < apart < 0.3, f"with bf16 the last {key} is another one, but not by much", why=f"they differ by {apart:.3g}"
    )
### END HIDDEN TESTS


# %% alternative="train"
def train(model, data, config, validation=None, path=None, until=None):
    # A while loop, a new stream at every step, the rate set late, random state kept around the evaluation.
    generator = torch.Generator()
    generator.manual_seed(config.seed)
    adam = AdamW(
        decay_groups(model, config.weight_decay), lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=123.0
    )
    state = TrainState(model=model, optimizer=adam, generator=generator)
    torch.manual_seed(config.seed)
    if path and os.path.isfile(path):
        load_checkpoint(path, state, config)
    goal = min(config.steps, config.steps if until is None else until)
    while state.step < goal:
        model.train()
        inputs, targets = next(iter(batches(data, config.batch_size, config.context, generator)))
        row = {
            "loss": accumulate(
                model,
                list(zip(inputs.chunk(config.micro_batches), targets.chunk(config.micro_batches), strict=True)),
                bf16=config.bf16,
            )
        }
        row["norm"] = clip_gradients(model.parameters(), config.clip)
        row["lr"] = lr_at(state.step, config.steps, config.warmup, config.lr, config.min_lr)
        for group in adam.param_groups:
            group["lr"] = row["lr"]
        adam.step()
        adam.zero_grad()
        state.step += 1
        row["step"] = state.step
        due = state.step % config.eval_every == 0 or state.step == config.steps
        if due and validation is not None:
            with torch.random.fork_rng():
                row["validation"] = evaluate(model, validation, config.batch_size, config.context, config.bf16)
        state.history.append(row)
        if path and state.step % config.save_every == 0:
            save_checkpoint(path, state, config)
    if path:
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

# %% equivalent="train"
{
    "True -> False": "zip's strict: chunk cuts two tensors of one shape into equally many parts",
}

# %% [markdown]
# ## Look at it
#
# Your loop trains the GPT of Lab 3.3 on a bit of Shakespeare: about 70,000 parameters, 240 steps, a few seconds. After
# step 120 the machine is switched off, which here means that the model is thrown away. A second call goes on from the
# file. Then the whole run is done once more without a stop, and the weights are compared.

# %%
from dataclasses import replace

from plotly.subplots import make_subplots

from coursekit import carry, data, plots

torch.set_num_threads(1)
GPT, GPTConfig = carry("ch03/lab03", "GPT"), carry("ch03/lab03", "GPTConfig")
play = data.tiny_shakespeare()[:60_000]
letters = sorted(set(play))
codes = torch.tensor([letters.index(letter) for letter in play])
cut = int(0.9 * len(codes))
recipe = TrainConfig(steps=240, batch_size=8, context=32, lr=5e-3, min_lr=5e-4, warmup=20, eval_every=40, save_every=60)
shape = GPTConfig(len(letters), context=32, d_model=48, n_layers=3, n_heads=4, d_ff=128, dropout=0.1)

with tempfile.TemporaryDirectory() as folder:
    place = os.path.join(folder, "shakespeare.pt")
    first_half = GPT(shape)
    train(first_half, codes[:cut], recipe, codes[cut:][:2000], place, until=120)
    resumed = GPT(replace(shape, seed=99))
    curve = train(resumed, codes[:cut], recipe, codes[cut:][:2000], place)
    print(f"\nthe checkpoint has {os.path.getsize(place):,} bytes, the weights alone have", end=" ")
    print(f"{sum(w.nbytes for w in resumed.parameters()):,}: {sum(w.numel() for w in resumed.parameters()):,} numbers")
in_one_go = GPT(shape)
train(in_one_go, codes[:cut], recipe, codes[cut:][:2000])
pairs = zip(resumed.parameters(), in_one_go.parameters(), strict=True)
print("\nthe same weights, to the bit:", all(torch.equal(one, other) for one, other in pairs))

figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08, specs=[[{}], [{"secondary_y": True}]])
at = [row["step"] for row in curve]
judged = [row for row in curve if "validation" in row]
figure.add_scatter(x=at, y=[row["loss"] for row in curve], name="training loss", row=1, col=1)
figure.add_scatter(
    x=[row["step"] for row in judged], y=[row["validation"] for row in judged], name="validation loss", row=1, col=1
)
figure.add_scatter(x=at, y=[row["norm"] for row in curve], name="gradient norm", row=2, col=1)
figure.add_scatter(x=at, y=[row["lr"] for row in curve], name="learning rate", row=2, col=1, secondary_y=True)
figure.add_vline(x=120, line={"color": plots.GREY, "dash": "dot"})
figure.update_yaxes(title_text="loss (nats)", row=1, col=1)
figure.update_yaxes(title_text="norm", row=2, col=1, secondary_y=False)
figure.update_yaxes(title_text="rate", row=2, col=1, secondary_y=True, showgrid=False)
figure.update_xaxes(title_text="step", row=2, col=1)
figure.update_layout(height=460, legend={"orientation": "h", "y": -0.18})
figure.show()

# %% [markdown]
# The dotted line is where the machine was switched off, and no curve knows of it. Now look at the number of bytes. The
# file is about three times as large as the weights. Which two tensors does it hold for each parameter, beside the
# parameter itself?
#
# Then look at the norm of the gradient. A step is clipped where it is above 1, which is `clip` in `TrainConfig`. How
# many steps is that, and how large is the largest norm? A factor that is the same at every step would not matter to
# AdamW, which divides by a running mean of that length anyway. A single long gradient does matter. Write `clip=100` into
# `recipe`, run the cell again, and compare the last validation loss. The page
# [Optimisers](../../book/ch04_training/optimizers.md) has the argument.
#
# <details><summary>An answer</summary>A factor that is the same at every step cancels in <code>m / sqrt(v)</code>, up to
# eps. A single large gradient among small ones does not. Unclipped it stays in <code>v</code> for about
# <code>1 / (1 - beta_2)</code> steps, here 20, and makes all of them short; and for about ten steps <code>m</code> points
# its way. For AdamW clipping is insurance against outliers, not a way to make steps smaller.</details>
#
# One more experiment. In a cell of your own run `train(GPT(shape), codes[:cut], replace(recipe, steps=2000),
# path="run.pt")`, press the stop button, and run the cell again. The bar goes on where the last checkpoint was. How many steps did you lose, and which setting decides that?
#
# ## Common mistakes
#
# - **Decay inside the gradient.** `g + weight_decay * p` before the moments is Adam with L2. Weights with large gradients
#   then hardly decay at all.
# - **No correction for the zeros at the start.** The first steps are wrong by a factor of three, or of thirty if one
#   half is there. The loss recovers, and the run has lost its beginning.
# - **Clipping after the step.** Nothing complains, and the norm in the log looks right.
# - **A mean of means.** With parts of equal size there is no difference, so it passes the first test. With padding it
#   weights tokens by the company they keep.
# - **Forgotten `model.train()`.** After the first evaluation the run goes on without dropout, and the training loss
#   looks better than before.
# - **An evaluation that draws.** If it takes random batches out of the training generator, the run depends on how often
#   you looked.
# - **A checkpoint of weights only.** The moments start from zero after a resume, and so does the order of the data: the
#   first batches are seen twice, the last ones never.
# - **Saving in place.** The machine dies while it writes, and the only checkpoint is half a file. (Against a power
#   cut the new file must also have reached the disk before the rename: `os.fsync`.)
# - **A schedule that counts calls.** After a resume the warm-up starts again.
# - **Weight decay on everything.** A norm's gain of 1 is pulled towards 0 at every step, which changes the scale of the
#   whole residual stream.
#
# ## Going further
#
# - **Keep an average of the weights.** After every step move a second copy of the model a little towards the first, and
#   judge that copy. It must be part of the checkpoint, too. (Boris Polyak, Anatoli Juditsky, Acceleration of Stochastic
#   Approximation by Averaging, 1992.)
# - **Save without waiting.** Copy the state in memory, and let a thread write it while the next steps run. Which of your
#   tests would notice a copy that is not deep enough? (Jayashree Mohan, Amar Phanishayee, Vijay Chidambaram, CheckFreq:
#   Frequent, Fine-Grained DNN Checkpointing, 2021.)
# - **On a GPU.** There dropout draws from a random state of the GPU's own, which your checkpoint does not hold. Add
#   `torch.cuda.get_rng_state_all()`, and find out with two runs what else on a GPU keeps a run from repeating itself to
#   the bit (`torch.use_deterministic_algorithms` names some of it).
# - **Another end of the schedule.** Hold the rate and let it fall only in the last fifth of the run. Then a run can be
#   made longer without starting anew. What does `load_checkpoint` have to allow for that? (Alexander Hägele and others,
#   Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations, 2024.)
