# ---
# title: Training recipes
# lab: ch04/lab05
# minutes: 120
# difficulty: 3
# hardware: cpu
# needs: [ch03/lab03, ch04/lab03]
# builds: [LossScaler, scaled_step, memory, largest_batch, token_budget, summarise, conclude, note]
# ---

# %% [markdown]
# # Lab 4.5 · Training recipes
#
# ## The idea
#
# "Use warm-up." "Clip at 1." "Half precision is twice as fast." A recipe is a list of such sentences, and most of them
# travel without the run that showed them. In this lab you build what it takes to check one.
#
# First, training in 16 bits. The smallest number above zero in `float16` is $2^{-24}$, about $6 \cdot 10^{-8}$. A
# gradient of $2 \cdot 10^{-8}$ becomes 0 there, and its weight never moves. So multiply the loss by 1,024 before going
# backwards: the gradient is $2.05 \cdot 10^{-5}$, and survives. Afterwards divide by 1,024, in `float32`. Too large a
# factor hits the other end: beyond 65,504 there is only infinity. The right factor is found by trying. If a gradient is
# infinite, skip the step and halve the factor. If 2,000 steps went well, double it.
#
# Second, telling whether one recipe is better than another. Two recipes, three seeds each:
#
# | seed | 0 | 1 | 2 | mean |
# |---|---|---|---|---|
# | one | 2.07 | 2.11 | 2.02 | 2.067 |
# | other | 2.05 | 2.08 | 2.01 | 2.047 |
# | difference | 0.02 | 0.03 | 0.01 | 0.020 |
#
# The other is better with every seed. The differences have a standard deviation of 0.01, so their mean is known to
# within $4.303 \cdot 0.01 / \sqrt 3 = 0.025$ at the usual 95%. That is more than 0.020: three seeds cannot show it. Five
# seeds with the same spread could, because $2.776 \cdot 0.01 / \sqrt 5 = 0.012$. And both numbers mean nothing if one
# recipe saw more tokens than the other.
#
# You build the loss scaler, the step around it, an estimate of memory, a fair table, and a note that is written by
# code, conclusions included. The page [Training recipes](../../book/ch04_training/training_recipes.md) has the whole
# picture.
#
# ## Shapes
#
# | name | form | meaning |
# |---|---|---|
# | `factor` | a number | what the loss is multiplied by |
# | B, T | | sequences of a batch, and tokens of a sequence (the context of a step) |
# | N = B · T | | tokens of a step |
# | d, f, H, L, V | | `d_model`, `d_ff`, `n_heads`, `n_layers`, `vocab_size` |
# | run | `{"recipe": …, "seed": …, "history": [row, …]}` | one training run |
# | row | `{"step": …, "tokens": …, "seconds": …, "validation": …}` | all counted from the start of the run; "validation" is not in every row |
# | table | `{recipe: {"n": …, "mean": …, "sd": …, …}}` | what `summarise` makes of many runs |

# %% given
import math

import torch
from torch import nn
from torch.nn import functional as F

import statistics
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

#: Of n seeds: how many standard errors a mean has to be away from 0 to be told from it (Student's t, 95%, two sides).
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


class LeanGPT(nn.Module):
    """The GPT of Lab 3.3, without dropout, in plain PyTorch: what autograd keeps of it can be read off line by line."""

    def __init__(self, config: Any):
        super().__init__()
        d, f = config.d_model, config.d_ff
        draw = torch.Generator().manual_seed(config.seed)

        def matrix(*shape, size=0.02):
            return nn.Parameter(size * torch.randn(shape, generator=draw))

        self.config = config
        self.token, self.position = matrix(config.vocab_size, d), matrix(config.context, d)
        self.blocks = nn.ModuleList()
        for _ in range(config.n_layers):
            small = 0.02 / math.sqrt(2 * config.n_layers)
            block = {name: matrix(d, d) for name in ("w_q", "w_k", "w_v")} | {"w_o": matrix(d, d, size=small)}
            block |= {"w_in": matrix(d, f), "w_out": matrix(f, d, size=small), "b_in": nn.Parameter(torch.zeros(f))}
            biases = ("b_q", "b_k", "b_v", "b_o", "b_out", "shift_1", "shift_2")
            block |= {name: nn.Parameter(torch.zeros(d)) for name in biases}
            block |= {name: nn.Parameter(torch.ones(d)) for name in ("gain_1", "gain_2")}
            self.blocks.append(nn.ParameterDict(block))
        self.gain, self.shift = nn.Parameter(torch.ones(d)), nn.Parameter(torch.zeros(d))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        B, T = ids.shape
        d, H = self.config.d_model, self.config.n_heads
        x = self.token[ids] + self.position[:T]
        future = torch.full((T, T), -math.inf, dtype=x.dtype, device=x.device).triu(1)
        for p in self.blocks:
            n = F.layer_norm(x, (d,), p["gain_1"], p["shift_1"])
            q, k, v = (
                (n @ p[f"w_{name}"] + p[f"b_{name}"]).view(B, T, H, d // H).transpose(1, 2) for name in ("q", "k", "v")
            )
            scores = q @ k.mT / math.sqrt(d // H) + future
            weights = scores.softmax(-1)
            y = (weights @ v).transpose(1, 2).reshape(B, T, d)
            x = x + (y @ p["w_o"] + p["b_o"])
            n = F.layer_norm(x, (d,), p["gain_2"], p["shift_2"])
            h = n @ p["w_in"] + p["b_in"]
            a = F.gelu(h)
            x = x + (a @ p["w_out"] + p["b_out"])
        n = F.layer_norm(x, (d,), self.gain, self.shift)
        return n @ self.token.T


def kept(config: Any, batch_size: int, context: int, dtype: torch.dtype = torch.float32) -> list[tuple[int, ...]]:
    """The shapes of what autograd keeps for the backward pass of one step of a LeanGPT, in order, each tensor once.

    Left out: the weights, which are there anyway, token numbers, and single numbers.
    """
    model = LeanGPT(config).to(dtype)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, torch.Tensor] = {}

    def note_down(tensor):
        place = tensor.untyped_storage().data_ptr()
        if tensor.is_floating_point() and tensor.ndim and place not in own:
            found.setdefault(place, tensor)
        return tensor

    ids = torch.zeros(batch_size, context + 1, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(note_down, lambda tensor: tensor):
        F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    return [tuple(tensor.shape) for tensor in found.values()]


# %% given side="learner"
from coursekit import carry

clip_gradients = carry("ch04/lab03", "clip_gradients")  # clip_gradients(parameters, max_norm) -> the norm before


def sized(**settings: int) -> Any:
    """The settings of a LeanGPT, by name: for the checks of exercise 3."""
    return SimpleNamespace(**settings, seed=0)


# %% [markdown]
# ## A picture
#
# Where do the gradients of a small GPT lie, on the scale of what `float16` can hold? The cell trains a model on a bit of
# Shakespeare for a moment and collects two kinds of gradients in `float32`: those of the logits, and those of the
# weights. The horizontal axis counts powers of two. Left of −25 everything becomes zero in `float16`; right of 16
# everything becomes infinite; between −25 and −14 numbers lose digits. Move the slider to multiply the loss.

# %%
import plotly.graph_objects as go

from coursekit import data, plots

torch.set_num_threads(1)
GPTConfig = carry("ch03/lab03", "GPTConfig")  # (vocab_size, context, d_model, n_layers, n_heads, d_ff, ..., seed=0)
play = data.tiny_shakespeare()[:200_000]
letters = sorted(set(play))
codes = torch.tensor([letters.index(letter) for letter in play])

model = LeanGPT(GPTConfig(len(letters), context=64, d_model=48, n_layers=2, n_heads=4, d_ff=128))
adam = torch.optim.AdamW(model.parameters(), lr=5e-3)
draw = torch.Generator().manual_seed(0)
for number in range(41):
    starts = torch.randint(len(codes) - 65, (64 if number == 40 else 8, 1), generator=draw)
    pieces = codes[starts + torch.arange(65)]
    logits = model(pieces[:, :-1])
    logits.retain_grad()
    adam.zero_grad()
    F.cross_entropy(logits.flatten(0, 1), pieces[:, 1:].flatten()).backward()
    if number < 40:
        adam.step()
kinds = {
    "logits": logits.grad.flatten(),
    "weights": torch.cat([p.grad.flatten() for p in model.parameters()]),
}

powers = list(range(0, 33, 4))
print("in float16:   factor  ", "".join(f"{'2^' + str(k):>9}" for k in powers))
for kind, values in kinds.items():
    values = values[values != 0]
    kinds[kind] = values
    halves = [(values * 2.0**k).half() for k in powers]
    print(f"{kind:8} become zero   ", "".join(f"{float((half == 0).float().mean()):9.1%}" for half in halves))
    print(f"{kind:8} become inf    ", "".join(f"{float(half.isinf().float().mean()):9.1%}" for half in halves))

bins = torch.arange(-50, 21)
figure = go.Figure()
for kind, values in kinds.items():
    share = torch.histc(values.abs().log2(), bins=70, min=-50, max=20) / len(values)
    figure.add_bar(x=(bins[:-1] + 0.5).tolist(), y=share.tolist(), name=f"gradients of the {kind}", opacity=0.75)
for edge, words in ((-25, "zero below"), (-14, "digits lost below"), (16, "infinite above")):
    figure.add_vline(x=edge, line={"color": plots.GREY, "dash": "dot"})
    figure.add_annotation(
        x=edge, y=1.0, yref="paper", text=words, textangle=-90, xanchor="right", yanchor="top", showarrow=False
    )
steps = [
    {"label": f"2^{k}", "method": "restyle", "args": [{"x": [[float(b) + 0.5 + k for b in bins[:-1]]] * 2}]}
    for k in powers
]
figure.update_layout(
    height=430,
    bargap=0,
    barmode="overlay",
    legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    xaxis={"title": "size of the scaled gradient, as a power of two", "range": [-50, 20], "dtick": 10},
    yaxis={"title": "share of the gradients"},
    sliders=[{"active": 0, "steps": steps, "pad": {"t": 55}, "currentvalue": {"prefix": "factor "}}],
)
figure.show()

# %% [markdown]
# Without a factor some gradients of weights are lost. Nearly all of them belong to the queries and keys of the
# second block: attention is still almost even there, so moving a query hardly changes the loss. Without those gradients it
# has no way to change that. With too large a factor the largest gradients overflow. One single infinity is enough
# to spoil a step: Adam would carry it in its moments for ever. Between the two ends there is room, and more of it than one
# power of two. That is why a rule as crude as "halve, or double" is good enough.


# %% given side="learner"
def scaled_steps(
    start: list[torch.Tensor],
    scaled: list[list[torch.Tensor | None]],
    lr: float = 0.1,
    unscale_at: tuple[int, ...] = (),
    sgd: bool = False,
    **settings: Any,
) -> list[dict[str, Any]]:
    """For the checks of exercise 1: what happens when your LossScaler meets these *scaled* gradients, step by step.

    Args:
        start: first values of the parameters; the first two are one group of the optimiser, the others are another.
        scaled: for each step the gradient of each parameter as the backward pass would leave it, or None.
        unscale_at: in these steps `unscale_` is called before `step`; in the others `step` alone.
        sgd: plain gradient descent and not AdamW.
        settings: of the LossScaler.
    """
    parameters = [nn.Parameter(value.clone()) for value in start]
    groups = [{"params": part} for part in (parameters[:2], parameters[2:]) if part]
    optimizer = torch.optim.SGD(groups, lr=lr) if sgd else torch.optim.AdamW(groups, lr=lr, foreach=False)
    scaler, rows = LossScaler(**settings), []
    for number, wanted in enumerate(scaled):
        for parameter, gradient in zip(parameters, wanted, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        row = {"finite": scaler.unscale_(optimizer) if number in unscale_at else None}
        row["stepped"] = scaler.step(optimizer)
        left = [p.grad.flatten() for p in parameters if p.grad is not None]
        row["gradients"] = torch.cat(left) if left else None
        scaler.update()
        row |= {"factor": scaler.factor, "clean": scaler.clean_steps}
        rows.append(row | {"weights": torch.cat([p.detach().flatten() for p in parameters])})
    return rows


def misuse(calls: tuple[str, ...], dtype: torch.dtype = torch.float32) -> str:
    """For the checks of exercise 1: call these methods of a LossScaler(8.0) one after the other, and say how it ends."""
    parameter = nn.Parameter(torch.ones(2, dtype=dtype))
    parameter.grad = torch.full_like(parameter, 8.0)
    optimizer, scaler = torch.optim.SGD([parameter], lr=0.5), LossScaler(8.0)
    for number, name in enumerate(calls, start=1):
        try:
            getattr(scaler, name)(*(() if name == "update" else (optimizer,)))
        except NotImplementedError:
            raise
        except Exception as error:
            return f"{type(error).__name__} in call {number}"
    return "no error"


def good_steps_to_grow() -> int:
    """For the checks of exercise 1: after how many good steps a LossScaler() has another factor; 0 if it has none in 2,100."""
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    scaler = LossScaler()
    optimizer, before = SimpleNamespace(param_groups=[{"params": [parameter]}], step=lambda: None), scaler.factor
    for number in range(1, 2101):
        scaler.step(optimizer)
        scaler.update()
        if scaler.factor != before:
            return number
    return 0


# %% [markdown]
# ## Exercise 1 · `LossScaler`
#
# The scaler stands between the loss, the gradients and the optimiser. A step looks like this:
#
# | | | |
# |---|---|---|
# | 1 | `scaler.scale(loss).backward()` | the gradients come out too large by `factor` |
# | 2 | `scaler.unscale_(optimizer)` | divide them, and look for infinities and NaN |
# | 3 | `scaler.step(optimizer)` | step, or skip; calls `unscale_` itself if nobody did |
# | 4 | `scaler.update()` | choose the factor of the next step |
#
# Here is a small case with `LossScaler(8.0, growth_interval=2)` and true gradients of 2. Steps 1 and 2 meet 16, divide by
# 8, and go well; the factor becomes 16. In step 3 something overflows: the step is skipped, and the factor is 8 again.
# Steps 4 and 5 go well; it becomes 16, and step 6 meets 32.
#
# The two methods in the middle may be called in the wrong order, or twice. A gradient that is divided twice is a silent
# error, so the scaler has to notice. The judge is `torch.amp.GradScaler`, step by step.
#
# *Difficulty 3 of 5 · 30 minutes · 5 points*


# %% exercise="LossScaler" difficulty=3 minutes=30 forbid=["GradScaler", "_amp_foreach_non_finite_check_and_unscale_", "_amp_update_scale_"]
class LossScaler:
    """Dynamic loss scaling for training in float16.

    Args:
        init_scale: the first factor, positive.
        growth_factor: what the factor is multiplied by after a row of good steps; larger than 1.
        backoff_factor: what it is multiplied by after a bad step; between 0 and 1, both excluded.
        growth_interval: how many good steps in a row it takes, at least 1.

    Attributes:
        factor: the factor now, a float.
        clean_steps: how many good steps in a row there have been since the last change of the factor, or since it was
            due to grow. With ``factor`` this is what a checkpoint would have to keep.

    Raises:
        ValueError: for settings other than those above.

    Source: Micikevicius and others, Mixed Precision Training, 2018, section 3.2; the rule is that of torch.amp.GradScaler.
    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
    ):
        ### BEGIN SOLUTION
        if not (init_scale > 0 and growth_factor > 1 and 0 < backoff_factor < 1 and growth_interval >= 1):
            raise ValueError("need init_scale > 0, growth_factor > 1, 0 < backoff_factor < 1, growth_interval >= 1")
        self.factor, self.clean_steps = float(init_scale), 0
        self.growth_factor, self.backoff_factor = growth_factor, backoff_factor
        self.growth_interval = growth_interval
        self.finite, self.stepped = None, False  # of this step: None until the gradients are divided
        ### END SOLUTION

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss times the factor; gradients flow through it.

        Args:
            loss: a single number in float32 or float64. The result has the same dtype.
        """
        ### BEGIN SOLUTION
        return loss * self.factor
        ### END SOLUTION

    def unscale_(self, optimizer: Any) -> bool:
        """Divide the gradient of every parameter of the optimiser by the factor; once in a step.

        Args:
            optimizer: has ``param_groups``, a list of dicts with "params" (of torch.optim, or your AdamW of Lab 4.3).
                Parameters whose ``grad`` is None are left out. Afterwards ``grad`` holds the divided gradient, whether it
                is finite or not.

        Returns:
            Whether all numbers in all gradients were finite: neither infinite nor NaN.

        Raises:
            RuntimeError: if the gradients have been divided since the last `update`, by this method or by `step`.
            ValueError: if a gradient is itself float16. Divided there, it would lose again what scaling has saved.
        """
        ### BEGIN SOLUTION
        if self.finite is not None:
            raise RuntimeError("the gradients of this step have been divided already")
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if any(g.dtype == torch.float16 for g in gradients):
            raise ValueError("a gradient is float16; keep the weights in float32 and compute in float16 by autocast")
        self.finite = all(bool(g.isfinite().all()) for g in gradients)
        for g in gradients:
            g.div_(self.factor)
        return self.finite
        ### END SOLUTION

    def step(self, optimizer: Any) -> bool:
        """Let the optimiser step if all gradients were finite; otherwise leave its weights and moments alone.

        The gradients are divided first, by `unscale_`, if they have not been in this step.

        Returns:
            Whether the optimiser stepped.

        Raises:
            RuntimeError: if it is called a second time before `update`.
        """
        ### BEGIN SOLUTION
        if self.stepped:
            raise RuntimeError("step has been called already; call update first")
        if self.finite is None:
            self.unscale_(optimizer)
        if self.finite:
            optimizer.step()
        self.stepped = True
        return self.finite
        ### END SOLUTION

    def update(self) -> None:
        """Choose the factor of the next step, which may then begin.

        After a step that was skipped the factor is multiplied by backoff_factor, even if it falls below 1, and the count
        of good steps begins at 0. After a step that was taken the count goes up; when it reaches growth_interval, the
        factor is multiplied by growth_factor and the count begins at 0. A factor that would be larger than float32 can
        hold (``torch.finfo(torch.float32).max``) stays as it is, and the count begins at 0 all the same.

        Raises:
            RuntimeError: if there was no `step` since the last update.
        """
        ### BEGIN SOLUTION
        if not self.stepped:
            raise RuntimeError("there was no step since the last update")
        if self.finite:
            self.clean_steps += 1
            if self.clean_steps == self.growth_interval:
                larger = self.factor * self.growth_factor
                if larger <= torch.finfo(torch.float32).max:
                    self.factor = larger
                self.clean_steps = 0
        else:
            self.factor = self.factor * self.backoff_factor
            self.clean_steps = 0
        self.finite, self.stepped = None, False
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Beside the factor and the count, the scaler has to remember two things about the step it
# is in: what <code>unscale_</code> has found, if it was called, and whether <code>step</code> was called. <code>update</code>
# forgets both.</details>
# <details><summary>A bigger nudge</summary>An attribute that is None, True or False says both whether the gradients have been
# divided and what came out. Look for bad numbers in all gradients of all groups before you decide anything. A method that
# ends in an underscore changes a gradient in place. In <code>update</code>, compare the count with the interval after it went
# up.</details>

# %% test="LossScaler" points=3
from coursekit import check

import torch

check.close(LossScaler(8.0).scale(torch.tensor(2.0)), torch.tensor(16.0), "a loss of 2 with the factor 8")
# The case of the text: true gradients of 2, and in step 3 an overflow.
scaled = [[torch.tensor([value])] for value in (16.0, 16.0, float("inf"), 16.0, 16.0, 32.0)]
found = scaled_steps([torch.tensor([1.0])], scaled, sgd=True, init_scale=8.0, growth_interval=2)
check.equal([row["stepped"] for row in found], [True, True, False, True, True, True], "what step returns, six steps")
check.equal([row["factor"] for row in found], [8.0, 16.0, 8.0, 8.0, 16.0, 16.0], "the factor after each of six steps")
weights = torch.cat([row["weights"] for row in found])
check.close(
    weights, torch.tensor([0.8, 0.6, 0.6, 0.4, 0.2, 0.0]), "lr 0.1, true gradients of 2, the third step skipped"
)
### BEGIN HIDDEN TESTS


def by_torch(start, scaled, lr=0.1, unscale_at=(), sgd=False, **settings):
    twins = [torch.nn.Parameter(value.clone()) for value in start]
    optimizer = torch.optim.SGD(twins, lr=lr) if sgd else torch.optim.AdamW(twins, lr=lr, foreach=False)
    scaler, rows = torch.amp.GradScaler("cpu", **settings), []
    scaler.scale(torch.zeros(()))  # it makes its factor when it is first used
    for number, wanted in enumerate(scaled):
        for twin, gradient in zip(twins, wanted, strict=True):
            twin.grad = None if gradient is None else gradient.clone()
        if number in unscale_at:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        gradients = torch.cat([twin.grad.flatten() for twin in twins if twin.grad is not None])
        stepped = bool(torch.cat([g.flatten() for g in wanted if g is not None]).isfinite().all())
        scaler.update()
        rows.append({"stepped": stepped, "gradients": gradients, "factor": scaler.get_scale()})
        rows[-1] |= {"clean": scaler._get_growth_tracker(), "weights": torch.cat([t.detach().flatten() for t in twins])}
    return rows


def compare(what, start, scaled, **settings):
    want, found = by_torch(start, scaled, **settings), scaled_steps(start, scaled, **settings)
    for key in ("stepped", "clean"):
        check.equal([row[key] for row in found], [row[key] for row in want], f"{what}: {key}, step by step")
    factors = [torch.tensor([row["factor"] for row in rows], dtype=torch.float64) for rows in (found, want)]
    check.close(*factors, f"{what}: the factor after each step, as in torch.amp.GradScaler", rtol=1e-5)
    said = [found[number]["finite"] for number in settings.get("unscale_at", ())]
    finite = [want[number]["stepped"] for number in settings.get("unscale_at", ())]
    check.equal(said, finite, f"{what}: what unscale_ returns, where it is called")
    gradients = [torch.cat([row["gradients"] for row in rows]) for rows in (found, want)]
    check.close(*gradients, f"{what}: the gradients that each step leaves, one after the other", atol=1e-6)
    weights = [torch.stack([row["weights"] for row in rows]) for rows in (found, want)]
    check.close(*weights, f"{what}: the weights, a row for each step", atol=1e-6)


draw = torch.Generator().manual_seed(check.seed(1))
shapes = [(3, 4), (), (2, 3)]
inf, nan = float("inf"), float("nan")
# In which step which parameter gets which bad number; two of them follow each other.
bad = {4: (0, inf), 8: (2, nan), 9: (1, -inf), 13: (2, inf), 14: (0, nan)}
for dtype in (torch.float32, torch.float64):
    start = [torch.randn(shape, generator=draw, dtype=dtype) for shape in shapes]
    scaled = [[1000 * torch.randn(shape, generator=draw, dtype=dtype) for shape in shapes] for _ in range(22)]
    for step, (which, value) in bad.items():
        place = int(torch.randint(scaled[step][which].numel(), (1,), generator=draw))
        scaled[step][which].view(-1)[place] = value
    for step in (2, 6, 8):
        scaled[step][0 if step == 8 else 1] = None
    what = f"22 steps, {dtype}, five of them with infinities or NaN"
    common = {"init_scale": 1024.0, "unscale_at": (0, 3, 4, 8, 14, 15)}
    compare(
        f"{what}, AdamW, a growth of 3",
        start,
        scaled,
        growth_factor=3.0,
        backoff_factor=0.3,
        growth_interval=3,
        **common,
    )
    compare(f"{what}, SGD, the usual factors", start, scaled, growth_interval=2, sgd=True, lr=0.01, **common)
overflow = [[torch.tensor([value])] for value in (nan, inf, 1.0, 1.0, nan)]
compare("a factor of 1 that has to fall", [torch.ones(1)], overflow, init_scale=1.0, growth_interval=4)
large = [[torch.tensor([2.0**100])]] * 4
compare("a factor of 2^126 that cannot grow for ever", [torch.ones(1)], large, init_scale=2.0**126, growth_interval=1)
plain = [[torch.tensor([65536.0])]] * 3
compare("all settings left out", [torch.ones(1)], plain)
edge = torch.finfo(torch.float32).max / 2
compare(
    "a factor that grows to the largest float32", [torch.ones(1)], large, init_scale=edge, growth_interval=1, sgd=True
)
check.equal(good_steps_to_grow(), 2000, "good steps until the factor of LossScaler() grows")
check.equal(LossScaler().factor, 65536.0, "the factor of LossScaler()")
leaf = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
LossScaler(32.0).scale((leaf * leaf).sum()).backward()
check.close(leaf.grad, 64 * leaf.detach(), "the gradient of a scaled loss is the gradient times the factor")
### END HIDDEN TESTS

# %% test="LossScaler" points=2
from coursekit import check

check.equal(misuse(("step", "update", "unscale_", "step", "update")), "no error", "two proper steps")
check.equal(misuse(("unscale_", "unscale_")), "RuntimeError in call 2", "unscale_ twice in a step")
check.raises(ValueError, lambda: LossScaler(growth_factor=1.0), "a growth_factor of 1")
### BEGIN HIDDEN TESTS
import torch

check.equal(misuse(("step", "update", "step", "update")), "no error", "two steps without unscale_")
check.equal(misuse(("unscale_", "step", "update", "unscale_", "step", "update")), "no error", "two steps with unscale_")
check.equal(misuse(("step", "unscale_")), "RuntimeError in call 2", "unscale_ after step, which has divided already")
check.equal(misuse(("unscale_", "step", "unscale_")), "RuntimeError in call 3", "unscale_ again, after step")
check.equal(misuse(("step", "step")), "RuntimeError in call 2", "step twice")
check.equal(misuse(("unscale_", "step", "step")), "RuntimeError in call 3", "step twice, after unscale_")
check.equal(misuse(("update",)), "RuntimeError in call 1", "update without a step")
check.equal(misuse(("unscale_", "update")), "RuntimeError in call 2", "update after unscale_, without a step")
check.equal(misuse(("step", "update", "update")), "RuntimeError in call 3", "update twice")
for calls in (("unscale_",), ("step",)):
    check.equal(misuse(calls, torch.float16), "ValueError in call 1", f"{calls[0]} with float16 gradients")
check.equal(misuse(("step", "update"), torch.bfloat16), "no error", "bfloat16 gradients")
for settings in (
    {"growth_factor": 0.5},
    {"backoff_factor": 1.0},
    {"backoff_factor": 0.0},
    {"backoff_factor": -0.5},
    {"growth_interval": 0},
    {"init_scale": 0.0},
    {"init_scale": -1.0},
):
    check.raises(ValueError, lambda settings=settings: LossScaler(**settings), f"LossScaler with {settings}")
check.equal(LossScaler(growth_interval=1, init_scale=0.5).factor, 0.5, "settings just inside the limits")
### END HIDDEN TESTS


# %% alternative="LossScaler"
class LossScaler:
    # New gradients in place of changed ones, sets of flags, the sum of everything as the test for finite.
    def __init__(self, init_scale=65536.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=2000):
        for good in (init_scale > 0, growth_factor > 1, backoff_factor > 0, backoff_factor < 1, growth_interval > 0):
            if not good:
                raise ValueError("settings")
        self.settings = growth_factor, backoff_factor, growth_interval
        self.factor = init_scale * 1.0
        self.clean_steps = 0
        self.done = {}

    def scale(self, loss):
        print("scaling by", self.factor)
        return torch.mul(loss, self.factor)

    def unscale_(self, optimizer):
        if "divided" in self.done:
            raise RuntimeError("twice")
        every = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if torch.float16 in {p.grad.dtype for p in every}:
            raise ValueError("float16")
        good = True
        for p in every:
            good = good and not bool((p.grad.isnan() | p.grad.isinf()).any())
            p.grad = (p.grad.double() / self.factor).to(p.grad.dtype)
        self.done["divided"] = good
        return good

    def step(self, optimizer):
        if "stepped" in self.done:
            raise RuntimeError("twice")
        good = self.done["divided"] if "divided" in self.done else self.unscale_(optimizer)
        self.done["stepped"] = good
        if good:
            optimizer.step()
        return good

    def update(self):
        if "stepped" not in self.done:
            raise RuntimeError("no step")
        grow, back, interval = self.settings
        if not self.done["stepped"]:
            self.factor, self.clean_steps = self.factor * back, 0
        else:
            self.clean_steps = (self.clean_steps + 1) % interval
            if self.clean_steps == 0 and self.factor * grow <= torch.finfo(torch.float32).max:
                self.factor = self.factor * grow
        self.done = {}


# %% mistakes="LossScaler"
{
    "the gradients are never divided by the factor": ("            g.div_(self.factor)\n", "            pass\n"),
    "step divides gradients that unscale_ has divided already": (
        "        if self.finite is None:\n            self.unscale_(optimizer)",
        "        self.finite = None\n        self.unscale_(optimizer)",
    ),
    "the gradients are multiplied by the factor a second time": ("g.div_(self.factor)", "g.mul_(self.factor)"),
    "infinite gradients are noticed, and NaN is not": ("bool(g.isfinite().all())", "not bool(g.isinf().any())"),
    "NaN is noticed, and infinite gradients are not": ("bool(g.isfinite().all())", "not bool(g.isnan().any())"),
    "only the first gradient is searched for bad numbers": (
        "for g in gradients)\n        for g",
        "for g in gradients[:1])\n        for g",
    ),
    "a gradient is called finite when any of its numbers is": ("g.isfinite().all()", "g.isfinite().any()"),
    "only the first group of the optimiser is divided": (
        "in optimizer.param_groups for",
        "in optimizer.param_groups[:1] for",
    ),
    "the step is taken in spite of an overflow": (
        "        if self.finite:\n            optimizer.step()",
        "        optimizer.step()",
    ),
    "bad numbers are replaced by zeros and the step is taken, so the moments decay": (
        "        if self.finite:\n            optimizer.step()",
        "        for group in optimizer.param_groups:\n            for p in group['params']:\n"
        "                if p.grad is not None:\n                    p.grad.nan_to_num_(0.0, 0.0, 0.0)\n        optimizer.step()",
    ),
    "no step is ever taken": ("            optimizer.step()\n", "            pass\n"),
    "the answer of step is whether it was skipped": (
        "        self.stepped = True\n        return self.finite",
        "        self.stepped = True\n        return not self.finite",
    ),
    "the count goes on over a skipped step, so the good steps need not be in a row": (
        "            self.factor = self.factor * self.backoff_factor\n            self.clean_steps = 0\n",
        "            self.factor = self.factor * self.backoff_factor\n",
    ),
    "the count does not begin anew after a growth, so the factor grows once and never again": (
        "                    self.factor = larger\n                self.clean_steps = 0\n",
        "                    self.factor = larger\n",
    ),
    "the factor grows one good step too late": (
        "self.clean_steps == self.growth_interval",
        "self.clean_steps > self.growth_interval",
    ),
    "the factor grows after every good step": ("if self.clean_steps == self.growth_interval:", "if True:"),
    "the factor never grows": ("self.clean_steps == self.growth_interval", "False"),
    "after an overflow the factor is divided by growth_factor, which is the same only while one is 2 and the other 0.5": (
        "self.factor * self.backoff_factor",
        "self.factor / self.growth_factor",
    ),
    "the factor stays as it is after an overflow": ("self.factor = self.factor * self.backoff_factor", "pass"),
    "the factor is not allowed to fall below 1": (
        "self.factor * self.backoff_factor",
        "max(1.0, self.factor * self.backoff_factor)",
    ),
    "the factor grows without a limit": ("if larger <= torch.finfo(torch.float32).max:", "if True:"),
    "where the factor cannot grow, the count does not begin anew": (
        "                    self.factor = larger\n                self.clean_steps = 0\n",
        "                    self.factor, self.clean_steps = larger, 0\n",
    ),
    "the loss is not multiplied at all": ("return loss * self.factor", "return loss * 1.0"),
    "the scaled loss is cut off from the graph": ("return loss * self.factor", "return loss.detach() * self.factor"),
    "unscale_ may be called twice, and divides twice": (
        "        if self.finite is not None:\n"
        '            raise RuntimeError("the gradients of this step have been divided already")\n',
        "",
    ),
    "step may be called twice": (
        '        if self.stepped:\n            raise RuntimeError("step has been called already; call update first")\n',
        "",
    ),
    "update may be called without a step": (
        '        if not self.stepped:\n            raise RuntimeError("there was no step since the last update")\n',
        "",
    ),
    "update forgets to open the next step for unscale_": (
        "            self.clean_steps = 0\n        self.finite, self.stepped = None, False",
        "            self.clean_steps = 0\n        self.stepped = False",
    ),
    "gradients in float16 are divided in float16": (
        "if any(g.dtype == torch.float16 for g in gradients):",
        "if False:",
    ),
    "settings that make no sense are taken": (
        "if not (init_scale > 0 and growth_factor > 1 and 0 < backoff_factor < 1 and growth_interval >= 1):",
        "if False:",
    ),
}


# %% given side="learner"
def half_steps(
    start: list[torch.Tensor],
    gradients: list[list[torch.Tensor]],
    parts: int = 1,
    max_norm: float | None = None,
    lr: float = 0.1,
    sgd: bool = False,
    **settings: Any,
) -> list[dict[str, Any]]:
    """For the checks of exercise 2: what your `scaled_step` returns and leaves behind, step by step.

    The loss of a step is the sum of weight times wanted gradient, with the weights cast to float16. So the gradient is what
    is wanted, and passes through float16 on its way back, where it may overflow or vanish. Where the loss comes in parts,
    each is larger than the one before.
    """
    parameters = [nn.Parameter(value.clone()) for value in start]
    optimizer = torch.optim.SGD(parameters, lr=lr) if sgd else torch.optim.AdamW(parameters, lr=lr, foreach=False)
    scaler, rows = LossScaler(**settings), []
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 7.0)  # left over from something else
    for wanted in gradients:
        arrived = []

        def losses(wanted=wanted, arrived=arrived):
            for number in range(parts):
                if number:  # the part before has to have left its gradient by now
                    arrived.append(all(p.grad is not None and bool((p.grad != 0).any()) for p in parameters))
                share = 2 * (number + 1) / (parts * (parts + 1))
                products = [(p.half().float() * g * share).sum() for p, g in zip(parameters, wanted, strict=True)]
                yield torch.stack(products).sum()

        row = dict(scaled_step(losses(), optimizer, scaler, *(() if max_norm is None else (max_norm,))))
        row |= {"one by one": all(arrived) and len(arrived) == parts - 1, "factor after": scaler.factor}
        rows.append(row | {"weights": torch.cat([p.detach().flatten() for p in parameters])})
    return rows


# %% [markdown]
# ## Exercise 2 · `scaled_step`
#
# Now the order of things. Clipping belongs *after* unscaling. Suppose the true gradient has length 3, the factor is 1,024
# and the limit is 1. Clipped too early, a length of 3,072 is cut to 1, and divided by 1,024 afterwards: the gradient has
# length 0.001. AdamW does not care much about a constant factor, so the loss still falls. Nothing is clipped relative
# to anything any more, since every step is cut to the same length.
#
# The loss may come in parts, as in [Lab 4.3](lab03_training_loop.ipynb), when a batch does not fit into memory. The
# parts add up to the loss. All of them use the same factor, and the gradients are divided once, at the end.
#
# *Difficulty 3 of 5 · 15 minutes · 4 points*


# %% exercise="scaled_step" difficulty=3 minutes=15 forbid=["GradScaler"]
def scaled_step(
    losses: Iterable[torch.Tensor], optimizer: Any, scaler: LossScaler, max_norm: float = 1.0
) -> dict[str, Any]:
    """One whole training step with loss scaling and clipping.

    Gradients that are there when it begins are forgotten; each part of the loss is scaled and goes backwards; the gradients are divided by the factor,
    clipped to max_norm by your `clip_gradients`, and used for a step unless one of them is not finite; then the factor
    of the next step is chosen.

    Args:
        losses: an iterable of single numbers (tensors in float32) that add up to the loss of the batch. A part may be
            made only when it is asked for, so each goes backwards before the next is asked for.
        optimizer: has ``param_groups``, ``step()`` and ``zero_grad()``.
        scaler: your LossScaler.
        max_norm: the largest length that the true gradient, of all parameters together, may have.

    Returns:
        A dict: "loss", the sum of the parts, not scaled, as a float; "norm", the length of the true gradient before
        clipping, or ``math.inf`` where the step was skipped; "factor", the one used in this step; "stepped", whether the
        optimiser stepped.
    """
    ### BEGIN SOLUTION
    factor, total = scaler.factor, 0.0
    optimizer.zero_grad()
    for loss in losses:
        scaler.scale(loss).backward()
        total += loss.item()
    norm = math.inf
    if scaler.unscale_(optimizer):
        norm = clip_gradients([p for group in optimizer.param_groups for p in group["params"]], max_norm)
    stepped = scaler.step(optimizer)
    scaler.update()
    return {"loss": total, "norm": norm, "factor": factor, "stepped": stepped}
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Seven calls, in the order in which the docstring tells them. Which two of them have to be
# inside a loop?</details>
# <details><summary>A bigger nudge</summary><code>clip_gradients</code> refuses gradients that are not finite, so do not call
# it for those. <code>unscale_</code> tells you. <code>step</code> and <code>update</code> are called in either case: they know
# what to do. Note the factor before it can change.</details>

# %% test="scaled_step" points=4
from coursekit import check

import torch

# A gradient of (3, 4), length 5, clipped to 1. Then (100, 0): times 1,024 that is more than 65,504; times 512 it is not.
gradients = [[torch.tensor(pair)] for pair in ([3.0, 4.0], [100.0, 0.0], [100.0, 0.0])]
one = half_steps([torch.ones(2)], gradients[:1], init_scale=1024.0, growth_interval=1)
check.equal(one[0]["factor after"], 2048.0, "one good step with a growth interval of 1: the factor afterwards")
found = half_steps([torch.ones(2)], gradients, sgd=True, lr=0.5, init_scale=1024.0)
norms = torch.tensor([row["norm"] for row in found])
check.close(norms, torch.tensor([5.0, float("inf"), 100.0]), "true gradients of length 5, 100, 100: the norms")
check.equal([row["stepped"] for row in found], [True, False, True], "true gradients of length 5, 100, 100: steps taken")
check.equal([row["factor"] for row in found], [1024.0, 1024.0, 512.0], "the factor used in each step")
check.close(found[0]["loss"], 7.0, "the loss of the first step, 1 * 3 + 1 * 4, not scaled")
weights = torch.stack([row["weights"] for row in found])
want = torch.tensor([[0.7, 0.6], [0.7, 0.6], [0.2, 0.6]])
check.close(weights, want, "lr 0.5, limit 1: (1, 1) minus 0.5 * (0.6, 0.8); skipped; minus 0.5 * (1, 0)")
### BEGIN HIDDEN TESTS


def by_torch(start, gradients, parts, max_norm, lr, sgd, **settings):
    twins = [torch.nn.Parameter(value.clone()) for value in start]
    optimizer = torch.optim.SGD(twins, lr=lr) if sgd else torch.optim.AdamW(twins, lr=lr, foreach=False)
    scaler, rows = torch.amp.GradScaler("cpu", **settings), []
    for wanted in gradients:
        optimizer.zero_grad()
        total = 0.0
        for number in range(parts):
            share = 2 * (number + 1) / (parts * (parts + 1))
            products = [(p.half().float() * g * share).sum() for p, g in zip(twins, wanted, strict=True)]
            part = torch.stack(products).sum()
            scaler.scale(part).backward()
            total += float(part)
        factor = scaler.get_scale()
        scaler.unscale_(optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(twins, max_norm))
        scaler.step(optimizer)
        scaler.update()
        after, finite = scaler.get_scale(), norm < float("inf")
        row = {"loss": total, "norm": norm if finite else float("inf"), "factor": factor, "stepped": finite}
        rows.append(row | {"factor after": after, "weights": torch.cat([t.detach().flatten() for t in twins])})
    return rows


draw = torch.Generator().manual_seed(check.seed(2))
shapes = [(5, 3), (7,), (2, 2)]
start = [torch.randn(shape, generator=draw) for shape in shapes]
sizes = [1e-7, 0.2, 0.02]  # those of the first parameter would be lost in float16
gradients = []
for number in range(12):
    signs = [torch.randint(2, shape, generator=draw) * 2.0 - 1 for shape in shapes]
    each = [torch.rand(shape, generator=draw) * 0.5 + 0.5 for shape in shapes]
    gradients.append([size * sign * part for size, sign, part in zip(sizes, signs, each, strict=True)])
    if number in (3, 7, 8):
        gradients[-1][number % 3].view(-1)[0] = 3e5  # too large with any factor of 1 or more
for sgd, parts, max_norm in ((True, 1, 0.1), (True, 4, 1e6), (False, 2, 0.05), (False, 1, 1e6)):
    settings = {"init_scale": 2.0**14, "growth_interval": 2, "growth_factor": 1.5, "backoff_factor": 0.25}
    what = f"{'SGD' if sgd else 'AdamW'}, {parts} part{'s' * (parts > 1)}, limit {max_norm:g}"
    options = {"parts": parts, "max_norm": max_norm, "lr": 0.03, "sgd": sgd, **settings}
    want, found = by_torch(start, gradients, **options), half_steps(start, gradients, **options)
    steps = [[row["stepped"] for row in rows] for rows in (found, want)]
    check.equal(*steps, f"{what}: stepped, step by step")
    for key in ("loss", "norm", "factor", "factor after"):
        numbers = [torch.tensor([row[key] for row in rows], dtype=torch.float64) for rows in (found, want)]
        check.close(*numbers, f"{what}: {key}, step by step, as with torch.amp.GradScaler", atol=1e-5, rtol=1e-4)
    weights = [torch.stack([row["weights"] for row in rows]) for rows in (found, want)]
    check.close(*weights, f"{what}: the weights, a row for each step", atol=1e-5)
    check.that(
        all(row["one by one"] for row in found),
        f"{what}: each part goes backwards before the next is asked for, and all are asked for",
        hint="Call backward inside the loop over the parts; a list of all losses keeps all graphs in memory.",
    )
plain = half_steps([torch.ones(2)], [[torch.full((2,), 0.75)]], sgd=True)[0]
check.close(plain["norm"], 0.75 * 2**0.5, "the length of (0.75, 0.75), with all settings left out")
check.equal(plain["factor"], 65536.0, "the factor of the first step, with all settings left out")
check.close(plain["weights"], torch.full((2,), 1 - 0.1 / 2**0.5), "the limit is 1 where it is left out")
### END HIDDEN TESTS


# %% alternative="scaled_step"
def scaled_step(losses, optimizer, scaler, max_norm=1.0):
    result = {"factor": float(scaler.factor), "loss": torch.zeros((), dtype=torch.float64), "norm": float("inf")}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for p in parameters:
        p.grad = None
    for part in losses:
        scaler.scale(part).backward()
        result["loss"] += part.detach()
    finite = scaler.unscale_(optimizer)
    if finite:
        result["norm"] = float(torch.nn.utils.clip_grad_norm_(parameters, max_norm))
    print("finite" if finite else "skipped")
    result["stepped"] = scaler.step(optimizer)
    scaler.update()
    result["loss"] = result["loss"].item()
    return result


# %% mistakes="scaled_step"
{
    "the scaled gradient is clipped, and divided afterwards": (
        "    if scaler.unscale_(optimizer):\n"
        '        norm = clip_gradients([p for group in optimizer.param_groups for p in group["params"]], max_norm)\n',
        '    parameters = [p for group in optimizer.param_groups for p in group["params"]]\n'
        "    if all(bool(p.grad.isfinite().all()) for p in parameters):\n"
        "        norm = clip_gradients(parameters, max_norm) / factor\n"
        "    scaler.unscale_(optimizer)\n",
    ),
    "the gradient is clipped after the step, when it is of no use any more": [
        (
            "    if scaler.unscale_(optimizer):\n"
            '        norm = clip_gradients([p for group in optimizer.param_groups for p in group["params"]], max_norm)\n',
            "",
        ),
        (
            "    scaler.update()\n",
            '    if stepped:\n        norm = clip_gradients([p for group in optimizer.param_groups for p in group["params"]], max_norm)\n'
            "    scaler.update()\n",
        ),
    ],
    "the norm is that of the scaled gradient": (
        '    return {"loss": total, "norm": norm,',
        '    return {"loss": total, "norm": norm * factor,',
    ),
    "the norm is that after clipping": (
        '    return {"loss": total, "norm": norm,',
        '    return {"loss": total, "norm": min(norm, max_norm) if stepped else norm,',
    ),
    "a skipped step is said to have the norm 0": ("    norm = math.inf\n", "    norm = 0.0\n"),
    "the loss is not scaled, and its gradient is divided all the same": (
        "scaler.scale(loss).backward()",
        "loss.backward()",
    ),
    "the loss that is returned is the scaled one": ("total += loss.item()", "total += loss.item() * factor"),
    "the loss that is returned is that of the last part": ("total += loss.item()", "total = loss.item()"),
    "gradients that are not finite are clipped too, and the error of clip_gradients ends the run": (
        "    if scaler.unscale_(optimizer):\n        norm",
        "    scaler.unscale_(optimizer)\n    if True:\n        norm",
    ),
    "the optimiser steps by itself, beside the scaler": (
        "    stepped = scaler.step(optimizer)\n",
        "    optimizer.step()\n    stepped = scaler.step(optimizer)\n",
    ),
    "after an overflow the function returns at once, and the factor is never updated": (
        "    stepped = scaler.step(optimizer)\n",
        '    if norm == math.inf:\n        return {"loss": total, "norm": norm, "factor": factor, "stepped": False}\n    stepped = scaler.step(optimizer)\n',
    ),
    "the factor is never updated": ("    scaler.update()\n", ""),
    "the factor that is returned is that of the next step": ('"factor": factor,', '"factor": scaler.factor,'),
    "the gradients of the step before are still there": ("    optimizer.zero_grad()\n", ""),
    "gradients are forgotten at the end only, and those that something else has left are used in the first step": [
        ("    optimizer.zero_grad()\n", ""),
        ("    scaler.update()\n", "    scaler.update()\n    optimizer.zero_grad()\n"),
    ],
    "each part of the loss forgets the gradients of the part before": (
        "    for loss in losses:\n        scaler",
        "    for loss in losses:\n        optimizer.zero_grad()\n        scaler",
    ),
    "all parts are added up first, so all of their graphs are in memory at once": (
        "    for loss in losses:\n        scaler.scale(loss).backward()\n        total += loss.item()\n",
        "    whole = sum(losses)\n    scaler.scale(whole).backward()\n    total += whole.item()\n",
    ),
    "the parts are averaged, and they should add up": (
        "    for loss in losses:\n        scaler.scale(loss).backward()\n        total += loss.item()\n",
        "    count = 0\n    for loss in losses:\n        scaler.scale(loss).backward()\n        total += loss.item()\n        count += 1\n"
        '    for group in optimizer.param_groups:\n        for p in group["params"]:\n            p.grad.div_(count)\n    total /= count\n',
    ),
    "the answer is always that the optimiser stepped": ('"stepped": stepped}', '"stepped": True}'),
}

# %% [markdown]
# ## Exercise 3 · `memory`
#
# Will it fit? A training step holds four things: the weights, a gradient for each, what the optimiser remembers, and the
# *activations*, which autograd keeps for the backward pass. The first three depend on the model alone. The last one grows
# with the batch and with the context. For `LeanGPT`, at the top of this lab, it can be worked out to the byte. These are the
# rules of what is kept:
#
# | operation | keeps |
# |---|---|
# | `a @ b` | both, unless one is a weight, which is there anyway |
# | `layer_norm(x)` | `x`, and two numbers for each token: mean and spread |
# | `softmax` | its result |
# | `gelu` | its input |
# | cross-entropy | the log-probabilities: one number for each token and each entry of the vocabulary |
# | adding, dividing by a constant, a change of shape | nothing |
#
# "Mixed" here is the older way, which keeps the model and its gradients in 16 bits and a `float32` copy in the optimiser. With
# `torch.autocast`, as in the runs below, weights and gradients stay in `float32`. Either way it is 16 bytes for each weight.
#
# What two operations keep is kept once. Try it on a small case: `kept(config, batch_size, context)` returns the
# shapes of all that autograd really holds, in the order of the computation. Print
# `kept(sized(vocab_size=11, context=6, d_model=10, n_layers=1, n_heads=2, d_ff=7), 3, 4)` beside `LeanGPT.forward`, and say of
# each shape whose it is.
#
# *Difficulty 3 of 5 · 25 minutes · 4 points*


# %% exercise="memory" difficulty=3 minutes=25
def memory(config: Any, batch_size: int, context: int, precision: str = "float32") -> dict[str, int]:
    """The bytes that one training step of a `LeanGPT` with AdamW holds, by arithmetic alone.

    Args:
        config: the settings of a LeanGPT, such as a GPTConfig of Lab 3.3: vocab_size V, context C, d_model d, n_layers L, n_heads H,
            d_ff f. It has L (4 d² + 2 d f + f + 9 d) + 2 d + (V + C) d weights, as you counted there.
        batch_size, context: sequences of a batch and tokens of a sequence, B and T; T is at most config.context.
        precision: "float32": every number takes 4 bytes, and AdamW remembers two for each weight. "mixed": weights, gradients
            and activations take 2 bytes, and the optimiser holds three float32 numbers for each weight: a copy of the
            weight itself, and its two moments.

    Returns:
        A dict of whole numbers of bytes: "weights", "gradients", "optimizer" and "activations", which is all that `kept`
        lists: the numbers that autograd keeps for the backward pass, each once.

    Raises:
        ValueError: if ``precision`` is neither of the two, or ``context`` is larger than config.context.

    Source: Rajbhandari and others, ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, 2020, section 3.
    """
    ### BEGIN SOLUTION
    if precision not in ("float32", "mixed"):
        raise ValueError(f"precision is 'float32' or 'mixed', not {precision!r}")
    if context > config.context:
        raise ValueError(f"{context} tokens do not fit into a context of {config.context}")
    width, remembered = (4, 8) if precision == "float32" else (2, 12)
    d, f, n_tokens = config.d_model, config.d_ff, batch_size * context
    norm = n_tokens * (d + 2) + n_tokens * d  # its input, mean and spread; its result, which the next product keeps
    attention = 3 * n_tokens * d + batch_size * config.n_heads * context**2 + n_tokens * d  # q, k, v; weights; y
    feed_forward = 2 * n_tokens * f  # before and after the gelu
    top = norm + n_tokens * config.vocab_size
    numbers = config.n_layers * (2 * norm + attention + feed_forward) + top
    block = 4 * d * d + 2 * d * f + f + 9 * d
    weights = config.n_layers * block + 2 * d + (config.vocab_size + config.context) * d
    return {
        "weights": width * weights,
        "gradients": width * weights,
        "optimizer": remembered * weights,
        "activations": width * numbers,
    }
    ### END SOLUTION


def largest_batch(config: Any, context: int, limit: int, precision: str = "float32") -> int:
    """The largest batch whose training step holds no more than ``limit`` bytes, all four parts of `memory` together.

    Returns:
        A whole number of sequences; 0 if not even one fits. It is computed, not searched for: activations are
        proportional to the batch.

    Raises:
        ValueError: as `memory` does.
    """
    ### BEGIN SOLUTION
    one = memory(config, 1, context, precision)
    each = one.pop("activations")
    return max(0, (limit - sum(one.values())) // each)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Go through the forward pass with a pencil and write the shape of what is kept beside each
# line. In a block there are eight tensors of shape (B, T, d), two of (B, T, f) and one that has nothing to do with d; and the
# small ones of the norms.</details>
# <details><summary>A bigger nudge</summary>The result of a norm goes into three products in attention and is kept once. The
# softmax's result is kept by the softmax and by the product with <code>v</code>: once. The scores before the softmax are not
# kept. At the top there is one more norm, the product with the table, and the log-probabilities. For
# <code>largest_batch</code>, ask <code>memory</code> about a batch of one.</details>

# %% test="memory" points=3
from coursekit import check

import math

settings = {"vocab_size": 11, "context": 6, "d_model": 10, "n_layers": 2, "n_heads": 2, "d_ff": 7}
small, twin = sized(**settings), SimpleNamespace(**settings, seed=0)
found = memory(small, 3, 4)
n_parameters = sum(parameter.numel() for parameter in LeanGPT(twin).parameters())
check.equal(found["weights"], 4 * n_parameters, "float32: the bytes of the weights")
check.equal(found["optimizer"], 8 * n_parameters, "float32: two moments for each weight")
shapes = kept(twin, 3, 4)
check.equal(
    found["activations"],
    4 * sum(math.prod(shape) for shape in shapes),
    "d 10, f 7, 2 heads, 2 blocks, vocabulary 11, B 3, T 4: what autograd keeps",
    hint=f"Autograd keeps tensors of these shapes, in this order: {shapes}",
)
check.equal(memory(small, 3, 4, "mixed")["optimizer"], 12 * n_parameters, "mixed: a copy and two moments")
check.raises(ValueError, lambda: memory(small, 3, 7), "7 tokens in a context of 6")
### BEGIN HIDDEN TESTS
import torch

for settings, batch_size, context in (
    ((7, 9, 12, 3, 3, 20), 3, 9),
    ((5, 63, 60, 2, 6, 7), 1, 63),
    ((13, 8, 4, 2, 1, 16), 5, 3),
    ((3, 30, 10, 1, 5, 40), 2, 1),
):
    names = ("vocab_size", "context", "d_model", "n_layers", "n_heads", "d_ff")
    config, twin = (make(**dict(zip(names, settings, strict=True))) for make in (sized, SimpleNamespace))
    twin.seed = 0
    what = f"V, context, d, L, H, f = {settings}, B {batch_size}, T {context}"
    n_parameters = sum(parameter.numel() for parameter in LeanGPT(twin).parameters())
    for precision, width, state, dtype in (("float32", 4, 8, torch.float32), ("mixed", 2, 12, torch.bfloat16)):
        found = memory(config, batch_size, context, precision)
        numbers = sum(math.prod(shape) for shape in kept(twin, batch_size, context, dtype))
        check.equal(found["activations"], width * numbers, f"{what}, {precision}: what autograd keeps")
        check.equal(found["weights"], width * n_parameters, f"{what}, {precision}: the weights")
        check.equal(found["gradients"], width * n_parameters, f"{what}, {precision}: the gradients")
        check.equal(found["optimizer"], state * n_parameters, f"{what}, {precision}: the optimiser")
        check.equal(sorted(found), ["activations", "gradients", "optimizer", "weights"], f"{what}: the keys")
# The smallest GPT-2: far too large to be run here. By hand, in numbers for each token: 8 * 768 + 2 * 3072 + 4 and
# 12 * 1024 in a block; 2 * 768 + 2 + 50257 at the top.
gpt2 = sized(vocab_size=50257, context=1024, d_model=768, n_layers=12, n_heads=12, d_ff=3072)
by_hand = 8 * 1024 * (12 * (12_292 + 12_288) + 51_795)
found = memory(gpt2, 8, 1024)
check.equal(found["activations"], 4 * by_hand, "the smallest GPT-2, 8 sequences of 1,024 tokens")
check.equal(sum(found.values()) - 4 * by_hand, 16 * 124_439_808, "the smallest GPT-2: 16 bytes for each weight")
check.equal(memory(gpt2, 8, 1024, "mixed")["activations"], 2 * by_hand, "the same, mixed")
for precision in ("bf16", "Float32", ""):
    check.raises(ValueError, lambda precision=precision: memory(small, 1, 5, precision), f"precision {precision!r}")
### END HIDDEN TESTS

# %% test="memory" points=1
from coursekit import check

import math

settings = {"vocab_size": 11, "context": 6, "d_model": 10, "n_layers": 2, "n_heads": 2, "d_ff": 7}
small, twin = sized(**settings), SimpleNamespace(**settings, seed=0)
fixed = 16 * sum(parameter.numel() for parameter in LeanGPT(twin).parameters())
each = 4 * sum(math.prod(shape) for shape in kept(twin, 1, 4))
check.equal(largest_batch(small, 4, fixed + 1000 * each), 1000, "room for the model and for exactly 1,000 sequences")
check.equal(largest_batch(small, 4, fixed + 1000 * each - 1), 999, "one byte less")
### BEGIN HIDDEN TESTS
wider = {"vocab_size": 7, "context": 9, "d_model": 12, "n_layers": 1, "n_heads": 3, "d_ff": 20}
for sizes in (settings, wider):
    config, twin = sized(**sizes), SimpleNamespace(**sizes, seed=0)
    fixed = 16 * sum(parameter.numel() for parameter in LeanGPT(twin).parameters())
    for context in (2, 5):
        for precision, width in (("float32", 4), ("mixed", 2)):
            total = [width * sum(math.prod(shape) for shape in kept(twin, b, context)) for b in (1, 2, 3, 4)]
            what = f"d {twin.d_model}, T {context}, {precision}"
            for room in (0, total[0] - 1, total[0], total[1] + 1, total[2] - 1, total[3]):
                fits = sum(bytes_of_batch <= room for bytes_of_batch in total)
                check.equal(largest_batch(config, context, fixed + room, precision), fits, f"{what}, room for {room}")
            for limit in (0, fixed - 1, fixed // 2):
                check.equal(largest_batch(config, context, limit, precision), 0, f"{what}: not even the model fits")
check.raises(ValueError, lambda: largest_batch(small, 7, 10**9), "7 tokens in a context of 6")
check.raises(ValueError, lambda: largest_batch(small, 5, 10**9, "half"), "precision 'half'")
gpt2 = sized(vocab_size=50257, context=1024, d_model=768, n_layers=12, n_heads=12, d_ff=3072)
room = 80 * 10**9 - 16 * 124_439_808
want = room // (4 * 1024 * (12 * (12_292 + 12_288) + 51_795))
check.equal(largest_batch(gpt2, 1024, 80 * 10**9), want, "the smallest GPT-2 in 80 GB, float32")
### END HIDDEN TESTS


# %% alternative="memory"
def memory(config, batch_size, context, precision="float32"):
    if context > config.context:
        raise ValueError("too long")
    table = {"float32": (4, 4, 8, 4), "mixed": (2, 2, 12, 2)}
    if precision not in table:
        raise ValueError(precision)
    tokens = (batch_size, context)
    shapes = [(*tokens, config.d_model)] * 2 + [(*tokens, 1)] * 2 + [(*tokens, config.vocab_size)]
    for _ in range(config.n_layers):
        shapes += [(*tokens, config.d_model)] * 8 + [(*tokens, 1)] * 4 + [(*tokens, config.d_ff)] * 2
        shapes += [(batch_size, config.n_heads, context, context)]
    numbers = sum(math.prod(shape) for shape in shapes)
    print(numbers, "numbers")
    d, f = config.d_model, config.d_ff
    block = sum((rows + 1) * columns for rows, columns in [(d, d)] * 4 + [(d, f), (f, d)]) + 4 * d
    weights = sum([block] * config.n_layers) + 2 * d + (config.vocab_size + config.context) * d
    counts = [weights] * 3 + [numbers]
    names = ("weights", "gradients", "optimizer", "activations")
    return {name: size * count for name, size, count in zip(names, table[precision], counts, strict=True)}


def largest_batch(config, context, limit, precision="float32"):
    one, two = (sum(memory(config, b, context, precision).values()) for b in (1, 2))
    if limit < one:
        return 0
    return 1 + (limit - one) // (two - one)


# %% mistakes="memory"
{
    "the attention weights are forgotten": (" + batch_size * config.n_heads * context**2", ""),
    "the attention weights are counted for one head": (
        "batch_size * config.n_heads * context**2",
        "batch_size * context**2",
    ),
    "the attention weights are counted twice, as scores and as weights or for two operations": (
        "batch_size * config.n_heads * context**2",
        "2 * batch_size * config.n_heads * context**2",
    ),
    "the attention weights are as large as the largest context, whatever the context of the step": (
        "config.n_heads * context**2",
        "config.n_heads * config.context**2",
    ),
    "the attention weights grow with the context and not with its square": (
        "config.n_heads * context**2",
        "config.n_heads * context",
    ),
    "q, k and v are forgotten": ("3 * n_tokens * d + batch_size", "batch_size"),
    "the result of attention is forgotten, which the product with w_o keeps": (
        "context**2 + n_tokens * d ",
        "context**2 ",
    ),
    "the result of the first norm is counted three times, for q, k and v": (
        "attention = 3 * n_tokens * d",
        "attention = 5 * n_tokens * d",
    ),
    "the two numbers for each token that a norm keeps are forgotten": ("n_tokens * (d + 2)", "n_tokens * d"),
    "the input of a norm is forgotten, or its result, which the next product keeps": (
        "n_tokens * (d + 2)",
        "n_tokens * 2",
    ),
    "only one of the two norms of a block is counted": ("(2 * norm + attention", "(norm + attention"),
    "what gelu takes in is forgotten, or what it gives": (
        "feed_forward = 2 * n_tokens * f",
        "feed_forward = n_tokens * f",
    ),
    "the norm at the top is forgotten": ("top = norm + n_tokens", "top = n_tokens"),
    "the log-probabilities at the top are forgotten": (" + n_tokens * config.vocab_size", ""),
    "the vocabulary is counted twice, as logits and as log-probabilities": (
        "+ n_tokens * config.vocab_size",
        "+ 2 * n_tokens * config.vocab_size",
    ),
    "the top is counted in every block": ("feed_forward) + top", "feed_forward + top)"),
    "the activations are those of one block": ("config.n_layers * (2", "1 * (2"),
    "the activations are those of one sequence": (
        "n_tokens = config.d_model, config.d_ff, batch_size * context",
        "n_tokens = config.d_model, config.d_ff, context",
    ),
    "there is one moment for each weight, and AdamW has two": ("(4, 8) if", "(4, 4) if"),
    "mixed precision has no float32 copy of the weights": ("else (2, 12)", "else (2, 8)"),
    "the optimiser of mixed precision remembers in 16 bits": ("else (2, 12)", "else (2, 6)"),
    "the largest batch is for float32 in any precision": (
        "memory(config, 1, context, precision)\n",
        "memory(config, 1, context)\n",
    ),
    "the activations take 4 bytes in any precision": ('"activations": width * numbers', '"activations": 4 * numbers'),
    "the gradients take 4 bytes in any precision": ('"gradients": width * weights', '"gradients": 4 * weights'),
    "an unknown precision is taken for mixed": ("if precision not in (", "if False and precision not in ("),
    "a context that the model does not have is not refused": ("if context > config.context:", "if False:"),
    "the limit is for the activations alone": ("(limit - sum(one.values())) // each", "limit // each"),
    "half a sequence counts as one: the batch is rounded up": (
        "(limit - sum(one.values())) // each",
        "-((sum(one.values()) - limit) // each)",
    ),
    "the largest batch is negative where the model itself does not fit": ("return max(0, ", "return (0 + "),
    "the largest batch is at least 1": ("return max(0, ", "return max(1, "),
    "the weights have no biases and no norms": (
        "block = 4 * d * d + 2 * d * f + f + 9 * d",
        "block = 4 * d * d + 2 * d * f",
    ),
}

# %% [markdown]
# ## Exercise 4 · `token_budget` and `summarise`
#
# Who compares batches of 8 with batches of 32 over 1,000 steps compares 8,000 sequences with 32,000. `token_budget` gives
# each shape of a batch its number of steps, so that all of them see equally many tokens. Take 3,200 tokens: batches of 4 × 16
# get 50 steps, 16 × 16 get 12.5. That is refused.
#
# `summarise` makes a table out of runs. It reads every run at the same place: at equal tokens, at equal steps, or at equal
# time. It refuses whatever would make the table say more than the runs do: a single seed, a seed counted twice, recipes
# with different seeds, a run that is not measured at the place. A run that diverged stays in: leaving it out would make a recipe
# that explodes with every second seed look good.
#
# *Difficulty 3 of 5 · 25 minutes · 4 points*


# %% exercise="token_budget" difficulty=3 minutes=25
def token_budget(shapes: list[tuple[int, int]], tokens: int) -> list[int]:
    """How many steps each shape of a batch takes to see a number of tokens.

    Args:
        shapes: (batch_size, context) of each recipe, whole numbers of at least 1.
        tokens: how many tokens each recipe may see, at least 1.

    Returns:
        A list of steps, in the order of the shapes.

    Raises:
        ValueError: if any of the numbers is below 1, or a shape cannot see exactly so many tokens in whole steps.
    """
    ### BEGIN SOLUTION
    steps = []
    for batch_size, context in shapes:
        if min(batch_size, context, tokens) < 1:
            raise ValueError(f"a batch of {batch_size} x {context} and {tokens} tokens are no budget")
        if tokens % (batch_size * context) != 0:
            raise ValueError(f"{tokens} tokens are no whole number of steps of {batch_size} x {context}")
        steps.append(tokens // (batch_size * context))
    return steps
    ### END SOLUTION


def summarise(
    runs: list[dict[str, Any]], axis: str = "tokens", limit: float | None = None
) -> dict[str, dict[str, Any]]:
    """A table of runs, read at the same number of tokens, steps or seconds.

    Args:
        runs: dicts with "recipe", "seed" and "history", a list of rows in the order of training. Every row has "step",
            "tokens" and "seconds", all counted from the start of the run. Only rows with "validation" are looked at; every
            run has one.
        axis: "tokens", "step" or "seconds".
        limit: where on this axis the runs are read. Left out: the place of the last row of the run that ends first.

    Returns:
        For each recipe, in the order in which they first appear, a dict: "axis" and "limit"; "seeds", in rising order, and
        "n", how many; "values", for each seed the validation loss of the last row that is not beyond the limit; their
        "mean" and "sd", the standard deviation with n - 1 below; "low" and "high", the least and the largest; "diverged", how
        many values are infinite. A loss that is NaN or infinite counts as infinite, and makes "mean", "sd" and
        "high" infinite.

    Raises:
        ValueError: if there is no such axis; if a recipe has fewer than two seeds, or a seed twice; if two recipes differ in
            their seeds; if a run ends before the limit; or if, on the axes "tokens" and "step", it has no row exactly there.
            (Time cannot be met exactly. There a run is read at its last row before the limit; it needs to have one.)
    """
    ### BEGIN SOLUTION
    if axis not in ("tokens", "step", "seconds"):
        raise ValueError(f"the axis is 'tokens', 'step' or 'seconds', not {axis!r}")
    judged = [[row for row in run["history"] if "validation" in row] for run in runs]
    if limit is None:
        limit = min(rows[-1][axis] for rows in judged)
    found: dict[str, list[tuple[int, float]]] = {}
    for run, rows in zip(runs, judged, strict=True):
        within = [row for row in rows if row[axis] <= limit]
        if not within or rows[-1][axis] < limit or (axis != "seconds" and within[-1][axis] != limit):
            raise ValueError(f"{run['recipe']}, seed {run['seed']}, is not measured at {limit} {axis}")
        loss = within[-1]["validation"]
        found.setdefault(run["recipe"], []).append((run["seed"], loss if math.isfinite(loss) else math.inf))
    table, expected = {}, sorted(seed for seed, _ in next(iter(found.values()), []))
    for recipe, pairs in found.items():
        seeds, values = zip(*sorted(pairs), strict=True)
        if len(seeds) < 2 or len(set(seeds)) < len(seeds) or list(seeds) != expected:
            raise ValueError(f"{recipe} has the seeds {seeds}: at least two, each once, the same for all recipes")
        diverged = sum(value == math.inf for value in values)
        table[recipe] = {
            "axis": axis,
            "limit": limit,
            "seeds": list(seeds),
            "n": len(seeds),
            "values": list(values),
            "mean": math.inf if diverged else statistics.mean(values),
            "sd": math.inf if diverged else statistics.stdev(values),
            "low": min(values),
            "high": max(values),
            "diverged": diverged,
        }
    return table
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>For <code>summarise</code>: three passes. Throw away the rows that were not judged. Find for
# each run the one row that counts. Then group the values by recipe and sort them by seed.</details>
# <details><summary>A bigger nudge</summary>The row that counts is the last of those with <code>row[axis] &lt;= limit</code>. There
# may be none, or it may not be exactly there, or the run may end before: three reasons to refuse. A seed that is there twice
# shows in the length of a set. <code>statistics.stdev</code> divides by n − 1, and does not like infinities: look for those
# first.</details>

# %% test="token_budget" points=1
from coursekit import check

check.equal(token_budget([(4, 16), (8, 16), (2, 64)], 3200), [50, 25, 25], "3,200 tokens in batches of 64, 128, 128")
check.raises(ValueError, lambda: token_budget([(4, 16), (16, 16)], 3200), "12.5 steps of 16 x 16 tokens")
### BEGIN HIDDEN TESTS
check.equal(token_budget([(1, 7), (3, 7), (7, 1)], 21), [3, 1, 3], "21 tokens in batches of 7, 21 and 7")
check.equal(token_budget([], 5), [], "no shapes")
check.equal(token_budget([(1, 1)], 1), [1], "one token")
check.equal(token_budget([(12, 64), (3, 256)], 10**12 * 768), [10**12, 10**12], "many tokens, exactly")
for shapes, tokens in (([(5, 7)], 34), ([(5, 7)], 36), ([(5, 7)], 5), ([(5, 7), (2, 2)], 70)):
    check.raises(ValueError, lambda s=shapes, t=tokens: token_budget(s, t), f"{tokens} tokens in batches of {shapes}")
for shapes, tokens in (([(0, 7)], 7), ([(7, 0)], 7), ([(7, 1)], 0), ([(-1, -7)], 7), ([(7, 1)], -7)):
    check.raises(ValueError, lambda s=shapes, t=tokens: token_budget(s, t), f"{tokens} tokens in batches of {shapes}")
### END HIDDEN TESTS

# %% test="token_budget" points=3
from coursekit import check


def run(recipe, seed, values, tokens=100, seconds=2.0):
    """Judged at steps 10, 20, ...; before each of these rows there is one that was not judged."""
    rows = []
    for number, value in enumerate(values, start=1):
        for step, extra in ((10 * number - 1, {}), (10 * number, {"validation": value})):
            rows.append({"step": step, "tokens": step * tokens, "seconds": step * seconds, "loss": 0.5, **extra})
    return {"recipe": recipe, "seed": seed, "history": rows}


# From "The idea". Recipe "other" has gone further than "one", and its last loss must not count.
runs = [run("one", seed, [3.0, loss]) for seed, loss in enumerate((2.07, 2.11, 2.02))]
runs += [run("other", seed, [3.0, loss, 1.0]) for seed, loss in enumerate((2.05, 2.08, 2.01))]
found = summarise(runs)
check.equal(list(found), ["one", "other"], "the recipes, in order")
check.equal(found["one"]["limit"], 2000, "the runs of 'one' end at 2,000 tokens: all are read there")
check.equal(found["other"]["values"], [2.05, 2.08, 2.01], "'other' at 2,000 tokens, by seed")
check.close(found["one"]["mean"], 6.2 / 3, "the mean of 2.07, 2.11 and 2.02", atol=1e-9)
check.close(found["one"]["sd"], 0.045092, "the standard deviation of 2.07, 2.11 and 2.02, with n - 1", atol=1e-6)
check.raises(ValueError, lambda: summarise(runs[2:]), "one seed of 'one', three of 'other'")
check.raises(ValueError, lambda: summarise([runs[0], runs[3]]), "one seed of each")
### BEGIN HIDDEN TESTS
import math

import numpy as np

draw = np.random.default_rng(check.seed(4))
inf, nan = math.inf, math.nan
seeds = [7, 3, 5, 11]
losses = {recipe: np.sort(draw.uniform(1, 3, (4, 6)))[:, ::-1] for recipe in ("plain", "fast", "large")}
losses["plain"][:, 1] = losses["plain"][:, 5] - 0.5  # the best loss of a run is not its last
paces = {"plain": (100, 2.0), "fast": (100, 0.7), "large": (400, 3.3)}
runs = [
    run(recipe, seed, losses[recipe][place].tolist(), *paces[recipe])
    for place, seed in enumerate(seeds)
    for recipe in ("plain", "fast", "large")
]


def same(found, rows, axis, limit, what):
    check.equal(list(found), list(rows), f"{what}: the recipes, in the order of the runs")
    for recipe, number in rows.items():
        values = losses[recipe][np.argsort(seeds), number]
        entry, told = found[recipe], f"{what}, {recipe}"
        check.equal(entry["seeds"], sorted(seeds), f"{told}: seeds")
        check.equal(entry["n"], 4, f"{told}: n")
        check.equal(entry["axis"], axis, f"{told}: axis")
        check.close(entry["limit"], limit, f"{told}: limit", atol=1e-9)
        check.close(np.array(entry["values"]), values, f"{told}: the values", atol=1e-12)
        wanted = {"mean": values.mean(), "sd": values.std(ddof=1), "low": values.min(), "high": values.max()}
        for key, value in wanted.items():
            check.close(entry[key], float(value), f"{told}: {key}", atol=1e-9)
        check.equal(entry["diverged"], 0, f"{told}: diverged")


# Six rows each. "plain" and "fast" end at 6,000 tokens, "large" at 24,000, with rows at 4,000 and 8,000.
only = [one for one in runs if one["recipe"] != "large"]
same(summarise(only), {"plain": 5, "fast": 5}, "tokens", 6000, "the last tokens that all have seen")
same(summarise(runs, "tokens", 4000), {"plain": 3, "fast": 3, "large": 0}, "tokens", 4000, "at 4,000 tokens")
same(summarise(runs, axis="step"), {"plain": 5, "fast": 5, "large": 5}, "step", 60, "at equal steps")
same(summarise(runs, axis="step", limit=20), {"plain": 1, "fast": 1, "large": 1}, "step", 20, "at 20 steps")
# "fast" ends after 42 seconds. By then "plain" has rows at 20 and 40, "large" at 33.
same(summarise(runs, "seconds"), {"plain": 1, "fast": 5, "large": 0}, "seconds", 42.0, "when the fastest is done")
same(summarise(runs, "seconds", 35.0), {"plain": 0, "fast": 4, "large": 0}, "seconds", 35.0, "after 35 seconds")
same(summarise(runs, "seconds", 40.0), {"plain": 1, "fast": 4, "large": 0}, "seconds", 40.0, "after 40 seconds")
for axis, limit, words in (
    ("tokens", None, "'large' has no row at 6,000 tokens"),
    ("tokens", 4001, "nobody has a row at 4,001 tokens"),
    ("tokens", 500, "nobody has a row so early"),
    ("tokens", 8000, "'plain' ends at 6,000 tokens"),
    ("step", 70, "all end at 60 steps"),
    ("step", 25, "nobody has a row at 25 steps"),
    ("seconds", 43.0, "'fast' ends after 42 seconds"),
    ("seconds", 32.0, "'large' has no row in 32 seconds"),
    ("loss", None, "no such axis"),
    ("validation", None, "no such axis"),
):
    check.raises(ValueError, lambda a=axis, m=limit: summarise(runs, a, m), f"axis {axis}, limit {limit}: {words}")
pair = [run("a", 0, [2.0]), run("a", 1, [2.5]), run("b", 0, [2.0]), run("b", 1, [2.5])]
for wrong, words in (
    ([*pair, pair[0]], "a seed is there twice"),
    ([*pair, pair[0], pair[2]], "seed 0 is there twice, in both recipes"),
    ([pair[0], pair[0]], "one recipe, and its only seed is there twice"),
    ([*pair[:2], pair[2], pair[2]], "the only seed of 'b' is there twice"),
    ([*pair[:3], run("b", 2, [2.0])], "'a' has seeds 0 and 1, 'b' has 0 and 2"),
    ([*pair, run("b", 2, [2.0])], "'b' has a seed more"),
    (pair[:3], "'b' has one seed"),
    (pair[1:], "'a' has one seed"),
    (pair[:1], "one run is no table"),
):
    check.raises(ValueError, lambda wrong=wrong: summarise(wrong), words)
for bad in (nan, inf):
    found = summarise([*pair[:3], run("b", 1, [bad])])
    check.equal(found["a"]["diverged"], 0, f"'a' with 2.0 and 2.5 beside a run of 'b' at {bad}: diverged")
    check.close(found["a"]["mean"], 2.25, "'a', with 2.0 and 2.5: the mean", atol=1e-9)
    entry = found["b"]
    check.equal(entry["values"], [2.0, inf], f"a run at {bad}: the values")
    got = [entry[key] for key in ("mean", "sd", "low", "high", "diverged")]
    check.equal(got, [inf, inf, 2.0, inf, 1], f"a run at {bad}: mean, sd, low, high, diverged")
both = summarise([run("a", seed, [nan]) for seed in (0, 1)])["a"]
check.equal([both["diverged"], both["low"]], [2, inf], "both runs diverged: how many, and the least loss")
### END HIDDEN TESTS


# %% alternative="token_budget"
def token_budget(shapes, tokens):
    result = []
    for shape in shapes:
        size = math.prod(shape)
        if any(number <= 0 for number in (*shape, tokens)) or divmod(tokens, size)[1]:
            raise ValueError(shape)
        result.append(divmod(tokens, size)[0])
    return result


def summarise(runs, axis="tokens", limit=None):
    if axis not in {"tokens", "step", "seconds"}:
        raise ValueError("axis")
    ends = []
    for run in runs:
        ends.append([row for row in run["history"] if "validation" in row][-1][axis])
    limit = min(ends) if limit is None else limit
    table = {}
    for run, end in zip(runs, ends, strict=True):
        last = None
        for row in run["history"]:
            if "validation" in row and row[axis] <= limit:
                last = row
        if last is None or end < limit:
            raise ValueError("not measured")
        if axis in ("tokens", "step") and last[axis] != limit:
            raise ValueError("not measured there")
        entry = table.setdefault(run["recipe"], {})
        if run["seed"] in entry:
            raise ValueError("twice")
        entry[run["seed"]] = last["validation"]
    if len({frozenset(entry) for entry in table.values()}) > 1 or any(len(entry) == 1 for entry in table.values()):
        raise ValueError("seeds")
    result = {}
    for recipe, entry in table.items():
        values = torch.tensor([entry[seed] for seed in sorted(entry)], dtype=torch.float64)
        values[values.isnan() | values.isinf()] = math.inf
        bad = int(values.isinf().sum())
        print(recipe, values)
        result[recipe] = {
            "axis": axis,
            "limit": limit,
            "seeds": sorted(entry),
            "n": len(values),
            "values": values.tolist(),
            "mean": float(values.mean()),
            "sd": math.inf if bad else float(values.std()),
            "low": float(values.min()),
            "high": float(values.max()),
            "diverged": bad,
        }
    return result


# %% mistakes="token_budget"
{
    "a budget that is no whole number of steps is rounded down, and not refused": (
        "if tokens % (batch_size * context) != 0:",
        "if False:",
    ),
    "every shape gets equally many steps, and so sees another number of tokens": (
        "steps.append(tokens // (batch_size * context))",
        "steps.append(tokens // (shapes[0][0] * shapes[0][1]))",
    ),
    "the budget counts sequences and not tokens": ("(batch_size * context)", "batch_size", "all"),
    "batches of nothing are not refused": ("if min(batch_size, context, tokens) < 1:", "if False:"),
    "every run is read at its own last row, however far it went": (
        'loss = within[-1]["validation"]',
        'loss = rows[-1]["validation"]',
    ),
    "the best loss of a run is taken and not the one at the limit": (
        'loss = within[-1]["validation"]',
        'loss = min(row["validation"] for row in within)',
    ),
    "the training loss is read": ('loss = within[-1]["validation"]', 'loss = within[-1]["loss"]'),
    "the first row counts and not the last one before the limit": (
        'loss = within[-1]["validation"]',
        'loss = within[0]["validation"]',
    ),
    "a row exactly at the limit is left out": ("if row[axis] <= limit]", "if row[axis] < limit]"),
    "rows are compared by tokens on every axis": ("if row[axis] <= limit]", 'if row["tokens"] <= limit]'),
    "the limit is where the longest run ends": ("limit = min(rows", "limit = max(rows"),
    "the limit is where the first run ends": ("min(rows[-1][axis] for rows in judged)", "judged[0][-1][axis]"),
    "a limit that is passed in is ignored": ("    if limit is None:\n        limit", "    if True:\n        limit"),
    "a run that has no row at the limit is read at an earlier one: unequal tokens": (
        ' or (axis != "seconds" and within[-1][axis] != limit)',
        "",
    ),
    "a run that ended before the limit is taken as it is": (" or rows[-1][axis] < limit", ""),
    "a run without any row before the limit ends in whatever error there is": ("if not within or", "if"),
    "an unknown axis is not refused": ("if axis not in", "if False and axis not in"),
    "one seed is enough": [
        ("if len(seeds) < 2 or len(set(", "if len(set("),
        ("else statistics.stdev(values)", "else statistics.stdev(values) if len(values) > 1 else 0.0"),
    ],
    "a seed that is there twice counts as two": ("len(set(seeds)) < len(seeds) or ", ""),
    "recipes with other seeds, or with more of them, are compared": (" or list(seeds) != expected:", ":"),
    "the values stand in the order of the runs and not of the seeds": [
        ("zip(*sorted(pairs), strict=True)", "zip(*pairs, strict=True)"),
        ("list(seeds) != expected", "sorted(seeds) != expected"),
        ('"seeds": list(seeds)', '"seeds": sorted(seeds)'),
    ],
    "the standard deviation has n below": ("statistics.stdev(values)", "statistics.pstdev(values)"),
    "sd is the standard error, divided by the root of n": (
        "statistics.stdev(values)",
        "statistics.stdev(values) / math.sqrt(len(values))",
    ),
    "sd is the variance": ("statistics.stdev(values)", "statistics.variance(values)"),
    "the median stands in for the mean": ("statistics.mean(values)", "statistics.median(values)"),
    "the best seed stands in for the mean": ("statistics.mean(values)", "min(values)"),
    "runs that diverged are left out of the mean": (
        '"mean": math.inf if diverged else statistics.mean(values)',
        '"mean": statistics.mean([v for v in values if v < math.inf] or [math.inf])',
    ),
    "runs that diverged are left out altogether": (
        'found.setdefault(run["recipe"], []).append((run["seed"], loss if math.isfinite(loss) else math.inf))',
        'found.setdefault(run["recipe"], []).extend([(run["seed"], loss)] if math.isfinite(loss) else [])',
    ),
    "a NaN stays a NaN": ("loss if math.isfinite(loss) else math.inf", "loss"),
}

# %% equivalent="token_budget"
{
    "True -> False": "zip's strict: there is one list of judged rows for each run",
    "True -> False #2": "zip's strict: every pair has a seed and a value",
}

# %% [markdown]
# ## Exercise 5 · `conclude` and `note`
#
# Runs with the same seed have the same first weights and the same batches. What chance gives to one it mostly gives to the
# other. So take the difference seed by seed, and ask whether the differences are away from zero: their mean, plus or minus
# `T95[n]` standard errors. That is Student's paired comparison. In "The idea" the losses of each recipe spread by 0.045 and
# 0.035, and their differences by 0.010 only.
#
# Then let code write the sentence. A sentence that is computed cannot say more than its numbers. `note` puts everything
# together: on which machine, with how many seeds, at equal tokens *and* steps *and* time, because a recipe can win one of these
# and lose another.
#
# *Difficulty 3 of 5 · 25 minutes · 4 points*


# %% exercise="conclude" difficulty=3 minutes=25
def conclude(table: dict[str, dict[str, Any]], one: str, other: str) -> dict[str, Any]:
    """Which of two recipes is better, if the runs can tell.

    Args:
        table: of `summarise`, with up to 10 seeds. A lower loss is better.
        one, other: two recipes of the table.

    Returns:
        A dict: "n", the number of seeds; "difference", the mean over the seeds of the loss of ``one`` minus that of ``other``;
        "margin", ``T95[n]`` standard errors of that mean, where the standard error is the standard deviation of the
        differences (with n - 1 below) divided by the root of n; and "sentence", which is one of

        - where the difference is further from 0 than the margin, with the name of the recipe that has the lower mean, and
          the difference without its sign: ``"one is better by 0.123 ± 0.045 over 5 seeds"``
        - where it is not, with its sign: ``"no difference that 5 seeds can show: one minus other is -0.012 ± 0.045"``
        - where any of the runs diverged; then difference and margin are NaN, and the numbers are how many:
          ``"one diverged in 1 of 5 runs, other in 0: their losses are not compared"``

        with the names of the recipes in the place of ``one`` and ``other``, and three digits after the point.

    Raises:
        ValueError: if the two recipes were read on different axes or at different limits, or with different seeds.

    Source: Student, The Probable Error of a Mean, 1908.
    """
    ### BEGIN SOLUTION
    a, b = table[one], table[other]
    if any(a[key] != b[key] for key in ("axis", "limit", "seeds")):
        raise ValueError(f"{one} and {other} were not measured alike")
    n = a["n"]
    if a["diverged"] or b["diverged"]:
        counts = f"{one} diverged in {a['diverged']} of {n} runs, {other} in {b['diverged']}"
        sentence = f"{counts}: their losses are not compared"
        return {"n": n, "difference": math.nan, "margin": math.nan, "sentence": sentence}
    differences = [x - y for x, y in zip(a["values"], b["values"], strict=True)]
    difference = statistics.mean(differences)
    margin = T95[n] * statistics.stdev(differences) / math.sqrt(n)
    if abs(difference) > margin:
        better = one if difference < 0 else other
        sentence = f"{better} is better by {abs(difference):.3f} ± {margin:.3f} over {n} seeds"
    else:
        numbers = f"{one} minus {other} is {difference:+.3f} ± {margin:.3f}"
        sentence = f"no difference that {n} seeds can show: {numbers}"
    return {"n": n, "difference": difference, "margin": margin, "sentence": sentence}
    ### END SOLUTION


def note(title: str, runs: list[dict[str, Any]], baseline: str, hardware: str) -> str:
    """A benchmark note in Markdown, written by code from runs.

    Args:
        title: what was asked.
        runs: as for `summarise`.
        baseline: the recipe that all others are compared with.
        hardware: what the runs ran on, in words.

    Returns:
        A text of these lines, joined by newlines. The three tables behind it are ``summarise(runs, axis)`` for "tokens",
        "step" and "seconds", in this order everywhere:

        - ``### title``, and an empty line
        - ``Hardware: hardware. Loss on held-out text, mean ± standard deviation over 5 seeds.``, and an empty line
        - ``| recipe | at 400,000 tokens | at 4,000 steps | after 12.3 s |``, with the limits of the three tables (the first two
          with commas between thousands, the last with one
          digit after the point), and ``|---|---|---|---|``
        - for each recipe, in the order of the table, a row ``| recipe | 2.345 ± 0.012 | 2.345 ± 0.012 | 2.345 ± 0.012 |``,
          and after the last of them an empty line
        - for each recipe but the baseline three lines, ``- equal tokens: sentence``, ``- equal steps: sentence`` and
          ``- equal time: sentence``, where the sentence is that of ``conclude(table, recipe, baseline)``

    Raises:
        ValueError: if ``hardware`` is empty or blank, or ``baseline`` is no recipe of the runs; and what `summarise` refuses.
    """
    ### BEGIN SOLUTION
    tables = {axis: summarise(runs, axis) for axis in ("tokens", "step", "seconds")}
    tokens, steps, seconds = tables.values()
    if not hardware.strip() or baseline not in tokens:
        raise ValueError("a note names its hardware, and a baseline that was run")
    first = tokens[baseline]
    lines = [f"### {title}", ""]
    lines += [f"Hardware: {hardware}. Loss on held-out text, mean ± standard deviation over {first['n']} seeds.", ""]
    places = f"at {first['limit']:,} tokens | at {steps[baseline]['limit']:,} steps"
    lines += [f"| recipe | {places} | after {seconds[baseline]['limit']:.1f} s |", "|---|---|---|---|"]
    for recipe in tokens:
        cells = [f"{table[recipe]['mean']:.3f} ± {table[recipe]['sd']:.3f}" for table in tables.values()]
        lines.append(f"| {recipe} | {' | '.join(cells)} |")
    lines.append("")
    for recipe in tokens:
        if recipe != baseline:
            for what, table in zip(("tokens", "steps", "time"), tables.values(), strict=True):
                lines.append(f"- equal {what}: {conclude(table, recipe, baseline)['sentence']}")
    return "\n".join(lines)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>In <code>conclude</code> everything is about one list: the differences, seed by seed. The
# values of the table are in the order of the seeds. In <code>note</code> everything is a loop over the three tables.</details>
# <details><summary>A bigger nudge</summary>The margin uses the spread of the differences, not the spread that stands in the table.
# In a format, <code>:+.3f</code> shows the sign and <code>:,</code> puts commas between thousands. Make a list of lines, and an
# empty string where an empty line should be.</details>

# %% test="conclude" points=2
from coursekit import check


def entry(values, axis="tokens", limit=2000, seeds=None):
    mean, n = sum(values) / len(values), len(values)
    sd = (sum((value - mean) ** 2 for value in values) / (n - 1)) ** 0.5
    facts = {"axis": axis, "limit": limit, "seeds": seeds or list(range(n)), "n": n, "values": list(values)}
    return facts | {"mean": mean, "sd": sd, "low": min(values), "high": max(values), "diverged": 0}


# From "The idea": three seeds, and then two more.
table = {"one": entry([2.07, 2.11, 2.02]), "other": entry([2.05, 2.08, 2.01])}
found = conclude(table, "one", "other")
check.close(found["difference"], 0.02, "differences of 0.02, 0.03 and 0.01: their mean", atol=1e-9)
check.close(found["margin"], 0.024843, "differences of 0.02, 0.03 and 0.01: 4.303 standard errors", atol=1e-5)
same = {"a": entry([2.0, 3.0]), "b": entry([2.0, 3.0])}
want = "no difference that 2 seeds can show: a minus b is +0.000 ± 0.000"
check.equal(conclude(same, "a", "b")["sentence"], want, "two recipes that are the same: the sentence")
want = "no difference that 3 seeds can show: one minus other is +0.020 ± 0.025"
check.equal(found["sentence"], want, "the sentence for three seeds")
table = {"one": entry([2.07, 2.11, 2.02, 2.07, 2.05]), "other": entry([2.05, 2.08, 2.01, 2.04, 2.04])}
want = "other is better by 0.020 ± 0.012 over 5 seeds"
check.equal(conclude(table, "other", "one")["sentence"], want, "the sentence for five seeds, asked the other way round")
check.equal(conclude(table, "one", "other")["sentence"], want, "the sentence for five seeds")
### BEGIN HIDDEN TESTS
import math

import numpy as np
from scipy import stats

draw = np.random.default_rng(check.seed(5))
for n in range(2, 11):
    for shift in (0.0, -1.0, 1.0):
        shared = draw.uniform(1, 9, n)  # what both owe to the seed
        noise = draw.permutation(np.linspace(0, 1, n) ** 2) * draw.uniform(0.9, 1.1)
        noise -= noise.mean()
        # Three times the margin away from 0, on either side; or at a third of it.
        half = float(stats.t.ppf(0.975, n - 1)) * noise.std(ddof=1) / math.sqrt(n)
        one, other = shared + noise + (3 * half * shift or half / 3), shared
        oracle = stats.ttest_rel(one, other).confidence_interval(0.95)
        table = {
            "with x": entry(one.tolist()),
            "third": entry([9.0] * (n - 1) + [1.0]),
            "without": entry(other.tolist()),
        }
        what = f"{n} seeds, a difference of {shift:g} times 3 margins" if shift else f"{n} seeds, a small difference"
        found = conclude(table, "with x", "without")
        check.equal(found["n"], n, f"{what}: n")
        check.close(found["difference"], float(one.mean() - other.mean()), f"{what}: the difference", atol=1e-9)
        margin = float(oracle.high - oracle.low) / 2
        check.close(found["margin"], margin, f"{what}: the margin, as SciPy's ttest_rel has it", rtol=1e-3)
        d, m = found["difference"], found["margin"]
        want = f"no difference that {n} seeds can show: with x minus without is {d:+.3f} ± {m:.3f}"
        if shift:
            want = f"{'with x' if shift < 0 else 'without'} is better by {abs(d):.3f} ± {m:.3f} over {n} seeds"
        check.equal(found["sentence"], want, f"{what}: the sentence")
        back = conclude(table, "without", "with x")
        check.close(back["difference"], -d, f"{what}: the other way round, the difference", atol=1e-9)
        check.close(back["margin"], m, f"{what}: the other way round, the margin", atol=1e-9)
crossed = {"a": entry([1.0, 2.0, 3.0]), "b": entry([3.0, 2.5, 1.0])}
check.close(conclude(crossed, "a", "b")["margin"], 5.0202, "differences of -2, -0.5 and 2: the margin", atol=1e-3)
inf = math.inf
bad = {"mean": inf, "sd": inf, "high": inf}
table = {
    "calm": entry([2.0, 3.0, 2.5]),
    "wild": entry([1.0, 2.0, 1.5]) | bad | {"values": [1.0, inf, inf], "diverged": 2},
    "mad": entry([1.0, 2.0, 1.5]) | bad | {"values": [inf, inf, inf], "low": inf, "diverged": 3},
}
for one, other, want in (
    ("wild", "calm", "wild diverged in 2 of 3 runs, calm in 0: their losses are not compared"),
    ("calm", "wild", "calm diverged in 0 of 3 runs, wild in 2: their losses are not compared"),
    ("mad", "wild", "mad diverged in 3 of 3 runs, wild in 2: their losses are not compared"),
):
    found = conclude(table, one, other)
    check.equal(found["sentence"], want, f"{one} and {other}: the sentence")
    check.equal(found["n"], 3, f"{one} and {other}: n")
    check.close(found["difference"], math.nan, f"{one} and {other}: the difference")
    check.close(found["margin"], math.nan, f"{one} and {other}: the margin")
for changed in ({"limit": 1000}, {"axis": "step"}, {"seeds": [0, 1, 3]}, {"seeds": [1, 0, 2]}):
    table = {"a": entry([2.0, 3.0, 2.5]), "b": entry([2.1, 3.2, 2.5]) | changed}
    check.raises(ValueError, lambda table=table: conclude(table, "a", "b"), f"the other recipe has {changed}")
### END HIDDEN TESTS

# %% test="conclude" points=2
from coursekit import check


def run(recipe, seed, values, tokens=64, seconds=0.5):
    rows = []
    for number, value in enumerate(values, start=1):
        step = 20 * number
        rows.append({"step": step, "tokens": step * tokens, "seconds": step * seconds, "validation": value})
    return {"recipe": recipe, "seed": seed, "history": rows}


# "quick" needs half the time: at equal tokens and steps it is level, after 10 seconds it is one row ahead.
runs = [run("slow", seed, [4.0 + seed, 3.0 + seed]) for seed in (0, 1)]
runs += [run("quick", seed, [4.0 + seed, 3.0 + seed], seconds=0.25) for seed in (0, 1)]
text = note("Is it quicker?", runs, "slow", "one core")
want = """### Is it quicker?

Hardware: one core. Loss on held-out text, mean ± standard deviation over 2 seeds.

| recipe | at 2,560 tokens | at 40 steps | after 10.0 s |
|---|---|---|---|
| slow | 3.500 ± 0.707 | 3.500 ± 0.707 | 4.500 ± 0.707 |
| quick | 3.500 ± 0.707 | 3.500 ± 0.707 | 3.500 ± 0.707 |

- equal tokens: no difference that 2 seeds can show: quick minus slow is +0.000 ± 0.000
- equal steps: no difference that 2 seeds can show: quick minus slow is +0.000 ± 0.000
- equal time: quick is better by 1.000 ± 0.000 over 2 seeds"""
for number, line in enumerate(want.splitlines(), start=1):
    lines = text.splitlines()
    check.equal(lines[number - 1] if number <= len(lines) else "", line, f"line {number} of the note")
check.equal(text, want, "the whole note")
check.raises(ValueError, lambda: note("No machine", runs, "slow", ""), "no hardware is named")
### BEGIN HIDDEN TESTS
import math

import numpy as np

draw = np.random.default_rng(check.seed(6))
paces = {"b": 0.1, "plain": 0.25, "a": 0.4}
losses = {recipe: np.cumsum(draw.uniform(0.3, 0.7, (3, 200)), axis=1)[:, ::-1] for recipe in paces}
losses["a"] -= 5  # far better at equal tokens, far worse after equal time
runs = [run(r, s, losses[r][place].tolist(), 1000, paces[r]) for place, s in enumerate((4, 2, 9)) for r in paces]
text = note("Three recipes", runs, "plain", "2 cores, torch 2")
# All have 200 rows, 20 steps apart. The fastest, "b", ends after 400 s: by then "plain" has 80 rows and "a" has 50.
rows = {
    "tokens": dict.fromkeys(paces, 199),
    "steps": dict.fromkeys(paces, 199),
    "time": {"b": 199, "plain": 79, "a": 49},
}
cells = {
    (recipe, axis): losses[recipe][[1, 0, 2], number]
    for axis, where in rows.items()
    for recipe, number in where.items()
}
want = ["### Three recipes", ""]
want += ["Hardware: 2 cores, torch 2. Loss on held-out text, mean ± standard deviation over 3 seeds.", ""]
want += ["| recipe | at 4,000,000 tokens | at 4,000 steps | after 400.0 s |", "|---|---|---|---|"]
for recipe in paces:
    shown = [f"{cells[recipe, axis].mean():.3f} ± {cells[recipe, axis].std(ddof=1):.3f}" for axis in rows]
    want.append(f"| {recipe} | {' | '.join(shown)} |")
want.append("")
for recipe in ("b", "a"):
    for axis in rows:
        apart = cells[recipe, axis] - cells["plain", axis]
        d, m = apart.mean(), T95[3] * apart.std(ddof=1) / math.sqrt(3)
        words = f"no difference that 3 seeds can show: {recipe} minus plain is {d:+.3f} ± {m:.3f}"
        if abs(d) > m:
            words = f"{recipe if d < 0 else 'plain'} is better by {abs(d):.3f} ± {m:.3f} over 3 seeds"
        want.append(f"- equal {axis}: {words}")
got = text.splitlines()
check.equal(len(got), len(want), "three recipes, three seeds: the number of lines")
for number, (mine, line) in enumerate(zip(got, want, strict=True), start=1):
    check.equal(mine, line, f"three recipes, three seeds: line {number}")
alone = [one for one in runs if one["recipe"] == "a"]
check.that(
    note("Alone", alone, "a", "here").endswith("|\n"), "a note of one recipe ends with its row, and an empty line"
)
wild = [*runs[:-1], run("a", 9, [*losses["a"][2, :-1].tolist(), math.nan], 1000, paces["a"])]
text = note("One run diverges", wild, "plain", "here")
check.that("| a | inf ± inf | inf ± inf | " in text, "a recipe with a diverged run has a mean of inf", why=text)
words = "a diverged in 1 of 3 runs, plain in 0: their losses are not compared"
check.that(f"- equal tokens: {words}" in text, "the sentence says that a run diverged", why=text)
for baseline, hardware in (("nobody", "here"), ("plain", ""), ("plain", "  ")):
    check.raises(
        ValueError, lambda b=baseline, h=hardware: note("x", runs, b, h), f"baseline {baseline!r}, {hardware!r}"
    )
check.raises(ValueError, lambda: note("One seed", runs[:3], "plain", "here"), "one seed of each recipe")
### END HIDDEN TESTS


# %% alternative="conclude"
def conclude(table, one, other):
    left, right = table[one], table[other]
    for key in ("limit", "axis", "seeds"):
        if left[key] != right[key]:
            raise ValueError(key)
    n, lost = len(left["seeds"]), (left["diverged"], right["diverged"])
    if sum(lost):
        said = f"{one} diverged in {lost[0]} of {n} runs, {other} in {lost[1]}: their losses are not compared"
        return {"n": n, "difference": float("nan"), "margin": float("nan"), "sentence": said}
    apart = torch.tensor(left["values"], dtype=torch.float64) - torch.tensor(right["values"], dtype=torch.float64)
    mean, margin = float(apart.mean()), float(T95[n] * apart.std() / n**0.5)
    print(mean, margin)
    if -margin <= mean <= margin:
        said = f"no difference that {n} seeds can show: {one} minus {other} is {mean:+.3f} ± {margin:.3f}"
    elif mean > 0:
        said = f"{other} is better by {mean:.3f} ± {margin:.3f} over {n} seeds"
    else:
        said = f"{one} is better by {-mean:.3f} ± {margin:.3f} over {n} seeds"
    return {"n": n, "difference": mean, "margin": margin, "sentence": said}


def note(title, runs, baseline, hardware):
    if hardware.strip() == "":
        raise ValueError("hardware")
    by_tokens, by_steps, by_time = (summarise(runs, axis=axis) for axis in ("tokens", "step", "seconds"))
    if baseline not in by_tokens:
        raise ValueError("baseline")
    here = by_tokens[baseline]
    text = f"### {title}\n\nHardware: {hardware}. Loss on held-out text, "
    text += f"mean ± standard deviation over {here['n']} seeds.\n\n| recipe | at {here['limit']:,} tokens | "
    text += (
        f"at {by_steps[baseline]['limit']:,} steps | after {by_time[baseline]['limit']:.1f} s |\n|---|---|---|---|\n"
    )
    for recipe in by_tokens:
        text += f"| {recipe} |"
        for table in (by_tokens, by_steps, by_time):
            text += " {mean:.3f} ± {sd:.3f} |".format(**table[recipe])
        text += "\n"
    for recipe in by_tokens:
        if recipe == baseline:
            continue
        text += f"\n- equal tokens: {conclude(by_tokens, recipe, baseline)['sentence']}"
        text += f"\n- equal steps: {conclude(by_steps, recipe, baseline)['sentence']}"
        text += f"\n- equal time: {conclude(by_time, recipe, baseline)['sentence']}"
    return text


# %% mistakes="conclude"
{
    "the spreads of the two recipes are used, as if their seeds had nothing in common": (
        "T95[n] * statistics.stdev(differences) / math.sqrt(n)",
        "T95[n] * math.hypot(statistics.stdev(a['values']), statistics.stdev(b['values'])) / math.sqrt(n)",
    ),
    "the margin is the spread of single differences and not of their mean": (
        "statistics.stdev(differences) / math.sqrt(n)",
        "statistics.stdev(differences)",
    ),
    "the standard deviation is divided by n and not by its root": ("/ math.sqrt(n)", "/ n"),
    "the margin is one standard error": ("T95[n] * statistics", "1.0 * statistics"),
    "the margin is 1.96 standard errors, as if there were hundreds of seeds": (
        "T95[n] * statistics",
        "1.96 * statistics",
    ),
    "T95 is taken for one seed more": ("T95[n] *", "T95.get(n + 1, 2.228) *"),
    "the standard deviation of the differences has n below": (
        "statistics.stdev(differences)",
        "statistics.pstdev(differences)",
    ),
    "the median of the differences stands in for their mean": (
        "difference = statistics.mean(differences)",
        "difference = statistics.median(differences)",
    ),
    "the values are compared in order of size and not by seed": (
        'zip(a["values"], b["values"], strict=True)',
        'zip(sorted(a["values"]), sorted(b["values"]), strict=True)',
    ),
    "the difference is the other minus the one": ("[x - y for", "[y - x for"),
    "the recipe with the larger loss is called better": (
        "one if difference < 0 else other",
        "one if difference > 0 else other",
    ),
    "the first recipe is called better, whatever the numbers say": (
        "better = one if difference < 0 else other",
        "better = one",
    ),
    "a difference is a difference, however wide the margin": ("if abs(difference) > margin:", "if True:"),
    "only a positive difference counts": ("if abs(difference) > margin:", "if difference > margin:"),
    "a difference counts when it is larger than the standard deviation": (
        "if abs(difference) > margin:",
        "if abs(difference) > statistics.stdev(differences):",
    ),
    "the sentence of no difference has lost the sign": ("{difference:+.3f}", "{abs(difference):.3f}"),
    "runs that diverged are compared like all others": ('if a["diverged"] or b["diverged"]:', "if False:"),
    "only the first recipe is asked whether it diverged": ('if a["diverged"] or b["diverged"]:', 'if a["diverged"]:'),
    "where a run diverged, difference and margin are 0": (
        '"difference": math.nan, "margin": math.nan',
        '"difference": 0.0, "margin": 0.0',
    ),
    "recipes are compared although they were read at different places": (
        'for key in ("axis", "limit", "seeds")',
        'for key in ("axis", "seeds")',
    ),
    "recipes are compared although they were read on different axes": (
        'for key in ("axis", "limit", "seeds")',
        'for key in ("limit", "seeds")',
    ),
    "recipes are compared although their seeds differ": (
        'for key in ("axis", "limit", "seeds")',
        'for key in ("axis", "limit")',
    ),
    "the note shows the three columns, all at equal tokens": (
        "{axis: summarise(runs, axis) for axis in",
        "{axis: summarise(runs) for axis in",
    ),
    "the note's sentences are all about equal tokens": (
        "{conclude(table, recipe, baseline)",
        "{conclude(tokens, recipe, baseline)",
    ),
    "the note compares the baseline with each recipe and not each recipe with the baseline": (
        "{conclude(table, recipe, baseline)",
        "{conclude(table, baseline, recipe)",
    ),
    "the note compares the baseline with itself, too": ("        if recipe != baseline:", "        if True:"),
    "the standard deviations are missing in the rows of the note": (
        "{table[recipe]['mean']:.3f} ± {table[recipe]['sd']:.3f}",
        "{table[recipe]['mean']:.3f}",
    ),
    "the note shows the best seed and not the mean": ("{table[recipe]['mean']:.3f}", "{table[recipe]['low']:.3f}"),
    "the note takes any hardware, even none": ("if not hardware.strip() or baseline", "if baseline"),
    "an unknown baseline ends the note in a KeyError": (" or baseline not in tokens:", ":"),
}

# %% equivalent="conclude"
{
    "True -> False": "zip's strict: equal seeds have just been checked, so the values are equally many",
    "True -> False #2": "zip's strict: three words for three tables",
    "difference < 0 -> difference <= 0": "a difference of 0 is never further away than the margin",
}

# %% [markdown]
# ## Look at it
#
# Now use all of it. The first question: what are warm-up and clipping worth at a high learning rate, when three batches of the
# data are broken? In those three the loss is added up and not averaged, so their gradients are 512 times too large. Four
# recipes, three seeds, equal tokens. The recipes of one seed run one after the other, so that a busy minute of the machine
# hits all of them, and what counts as time is the time of this one thread.

# %%
import platform
import time
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go
from IPython.display import Markdown

from coursekit import data, plots

torch.set_num_threads(1)
GPTConfig = carry("ch03/lab03", "GPTConfig")
AdamW, batches, lr_at, evaluate, decay_groups = (
    carry("ch04/lab03", name) for name in ("AdamW", "batches", "lr_at", "evaluate", "decay_groups")
)
play = data.tiny_shakespeare()[:200_000]
letters = sorted(set(play))
codes = torch.tensor([letters.index(letter) for letter in play])
learn, judge = codes[:180_000], codes[180_000 : 180_000 + 1_025]
shape = GPTConfig(len(letters), context=128, d_model=32, n_layers=2, n_heads=2, d_ff=96)
facts = Path("/proc/cpuinfo")  # on Linux the name of the processor stands there
lines = facts.read_text().splitlines() if facts.exists() else []
processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
machine = f"{processor}, 1 thread, torch {torch.__version__}"


def run(recipe, seed, steps, batch_size=16, context=32, lr=0.01, warmup=0.1, clip=1.0, bad=(), dtype=torch.float32):
    """One training run, as `summarise` wants it; judged ten times. A run whose gradients are not finite has diverged."""
    model = LeanGPT(replace(shape, seed=seed))
    optimizer, scaler = AdamW(decay_groups(model, 0.1), betas=(0.9, 0.95)), LossScaler(2.0**24, growth_interval=8)
    stream, history, spent = batches(learn, batch_size, context, torch.Generator().manual_seed(seed)), [], 0.0
    warm = int(warmup * steps)
    for step in range(steps):
        began = time.thread_time()
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, steps, warm, lr, 0.1 * lr)
        inputs, targets = next(stream)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = model(inputs)
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        loss = loss * targets.numel() if step in bad else loss
        row = {"step": step + 1, "tokens": (step + 1) * batch_size * context}
        if dtype == torch.float16:
            row |= scaled_step([loss], optimizer, scaler, clip)
        else:
            optimizer.zero_grad()
            loss.backward()
            try:
                row |= {"loss": loss.item(), "norm": clip_gradients(model.parameters(), clip)}
            except FloatingPointError:  # from here on the loss is infinite, at the pace of the steps before
                pace = (time.thread_time() - began + spent) / (step + 1)
                left = [number for number in range(step + 1, steps + 1) if number % (steps // 10) == 0]
                rows = [{"step": n, "tokens": n * batch_size * context, "seconds": n * pace} for n in left]
                return {
                    "recipe": recipe,
                    "seed": seed,
                    "history": history + [r | {"validation": math.inf} for r in rows],
                }
            optimizer.step()
        spent += time.thread_time() - began
        row["seconds"] = spent
        if (step + 1) % (steps // 10) == 0:
            row["validation"] = evaluate(model, judge, 16, context)
        history.append(row)
    return {"recipe": recipe, "seed": seed, "history": history}


def curves(runs, axis="tokens"):
    """The mean over the seeds at each judged row, and a band from the best to the worst seed."""
    figure = go.Figure()
    for colour, recipe in zip(plots.COLOURS, dict.fromkeys(one["recipe"] for one in runs), strict=False):
        rows = [[r for r in one["history"] if "validation" in r] for one in runs if one["recipe"] == recipe]
        x = [row[axis] for row in rows[0]]
        values = [sorted(row["validation"] for row in column) for column in zip(*rows, strict=False)]
        low, high = [v[0] for v in values], [v[-1] for v in values]
        band = {"x": x + x[::-1], "y": high + low[::-1], "fill": "toself", "opacity": 0.2, "mode": "none"}
        figure.add_scatter(**band, fillcolor=colour, legendgroup=recipe, showlegend=False, hoverinfo="skip")
        mean = [sum(v) / len(v) for v in values]
        figure.add_scatter(x=x, y=mean, name=recipe, legendgroup=recipe, line={"color": colour}, mode="lines+markers")
    figure.update_xaxes(title_text={"tokens": "tokens seen", "step": "step", "seconds": "seconds"}[axis])
    figure.update_yaxes(title_text="loss on held-out text (nats)")
    figure.update_layout(height=420, legend={"orientation": "h", "y": -0.25})
    return figure


recipes = {
    "warm-up and clipping": {},
    "no warm-up": {"warmup": 0.0},
    "no clipping": {"clip": math.inf},
    "neither": {"warmup": 0.0, "clip": math.inf},
}
(steps,) = token_budget([(16, 32)], 81_920)
first = [
    run(recipe, seed, steps, lr=0.02, bad=(60, 61, 100), **settings)
    for seed in (0, 1, 2)
    for recipe, settings in recipes.items()
]
curves(first).show()
Markdown(note("Warm-up and clipping, three broken batches", first, "warm-up and clipping", machine))

# %% [markdown]
# Read the last lines of the note. Which of the two, warm-up or clipping, can these runs show to matter, and which can they not?
# "No difference that 3 seeds can show" is not "no difference". Look at the margin: how large could the effect be and still
# hide in it? Change `lr=0.02` to 0.1 and run the cell again. Which recipe is now furthest from
# the first? Is the largest difference also the surest? Look at the spread of its seeds. (All batches have one shape here, so
# equal tokens and equal steps are the same thing.)
#
# The next question has no right answer beforehand: more sequences, or longer ones? Under one budget of tokens there are
# three ways: large batches, small batches and four times as many steps, or few long sequences. Every recipe is judged with
# the context that it was trained with.

# %%
shapes = {"32 x 32": (32, 32), "8 x 32, more steps": (8, 32), "8 x 128": (8, 128)}
budget = token_budget(list(shapes.values()), 40_960)
second = [
    run(recipe, seed, steps, batch_size, context)
    for seed in (0, 1, 2)
    for (recipe, (batch_size, context)), steps in zip(shapes.items(), budget, strict=True)
]
curves(second).show()
print("tokens of a step, steps, and memory of a step by your formula")
for (recipe, (batch_size, context)), steps in zip(shapes.items(), budget, strict=True):
    held = sum(memory(shape, batch_size, context).values())
    print(f"{recipe:20} {batch_size * context:5} {steps:5} {held / 1e6:8.1f} MB")
at_equal_tokens = summarise(second)
for recipe in list(shapes)[1:]:
    print(conclude(at_equal_tokens, recipe, "32 x 32")["sentence"])
try:
    summarise(second, "step")
except ValueError as refused:
    print("and at equal steps:", refused)

# %% [markdown]
# At equal steps there is no table. The shortest run ends at step 40, and the recipe of small batches was judged at steps 16,
# 32, 48. That was luck: had it been judged at step 40, there would be a table, of 10,240 tokens against 40,960, and the small
# batches would look bad in it. `summarise` cannot know which axis is fair. You have to.
#
# Last, 16 bits. On a GPU with units for 16-bit products they are often much faster. What are they on the machine that you
# sit at? The time is measured in pairs, alternating, so that both sides meet the same machine. And with `float16` you see your
# scaler at work: the factor of each step, and the steps that it skipped. To have something to do in 40 steps, it begins much
# too high, at $2^{24}$, and grows after 8 good steps and not after 2,000.

# %%
from coursekit import timing

wide = LeanGPT(GPTConfig(len(letters), context=64, d_model=128, n_layers=2, n_heads=4, d_ff=512))
pieces = codes[torch.arange(16)[:, None] * 1000 + torch.arange(65)]


def one_step(dtype):
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        logits = wide(pieces[:, :-1])
    wide.zero_grad()
    F.cross_entropy(logits.float().flatten(0, 1), pieces[:, 1:].flatten()).backward()


for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
    share = timing.ratio(lambda dtype=dtype: one_step(dtype), lambda: one_step(torch.float32), rounds=5)
    print(f"one step in {name} takes {share:.2f} times as long as in float32 ({machine})")

types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
third = [run(name, seed, 40, dtype=dtype) for seed in (0, 1, 2) for name, dtype in types.items()]
figure = go.Figure()
for one in third:
    if one["recipe"] == "float16":
        rows = one["history"]
        lost = [row["step"] for row in rows if not row["stepped"]]
        print(f"float16, seed {one['seed']}: {len(lost)} of {len(rows)} steps skipped: {lost}")
        figure.add_scatter(
            x=[row["step"] for row in rows],
            y=[row["factor"] for row in rows],
            name=f"seed {one['seed']}",
            line_shape="hv",
        )
figure.update_xaxes(title_text="step")
figure.update_yaxes(title_text="factor", type="log", exponentformat="power", dtick=1)
figure.update_layout(height=320, legend={"orientation": "h", "y": -0.35})
figure.show()
Markdown(note("Three number formats", third, "float32", machine))

# %% [markdown]
# Do the formats differ at equal tokens? That asks whether the arithmetic is good enough. Do they differ at equal time? That
# asks whether it pays, and the answer depends on the machine: processors with units for 16-bit products gain, others have
# to convert every number and lose. A small model gains least, because little of its time goes into products. Write down
# what you would recommend on *your* machine, and what you would have to run before you recommend it for a GPU.
#
# A last look at the factor. It falls step by step until the gradients fit, climbs after every eight good steps, and falls again.
# Each fall is a step that read its batch and learnt nothing from it. How many did each seed lose? With a growth interval of
# 2,000 the factor could only fall: how many steps would be lost then? Try it, and see whether the loss can tell.
#
# ## Common mistakes
#
# - **Clipping the scaled gradient.** The limit is then thousands of times too strict, every step is cut to the same length, and
#   AdamW hides it.
# - **Dividing twice.** Once for the log, once in the step. Gradients are thousands of times too small; with AdamW the loss
#   falls as before, until `eps` is no longer small beside them.
# - **Stepping with zeros after an overflow.** The weights still move, because the moments do, and the moments decay.
# - **A growth that counts over skipped steps.** The factor climbs back too early, and every few steps are lost.
# - **Unequal tokens.** A larger batch at equal steps has read more. Plot against tokens.
# - **One seed.** The difference between two seeds of one recipe is often larger than that between two recipes.
# - **The best seed, or the best checkpoint of each.** The minimum of more numbers is smaller. That is a fact about minima.
# - **Leaving out what diverged.** "Mean of the runs that worked" makes the riskiest recipe look best.
# - **The spread of each recipe in place of the spread of the differences.** With shared seeds it hides what is there.
# - **Time from a busy machine.** One recipe in the morning, the other in the afternoon. Alternate them.
# - **Counting weights only.** At a long context and a large vocabulary the activations are most of the memory.
#
# ## Going further
#
# - **Recompute in place of keeping.** Keep only the input of each block, and run its forward pass again on the way back
#   (`torch.utils.checkpoint`). Derive the new `memory`, check it with `kept`, and measure what it costs in time. (Tianqi
#   Chen, Bing Xu, Chiyuan Zhang, Carlos Guestrin, Training Deep Nets with Sublinear Memory Cost, 2016.)
# - **Is 512 tokens a large batch?** The noise in the gradient says up to which batch size more sequences save steps. Measure
#   it on this model. (Sam McCandlish, Jared Kaplan, Dario Amodei and others, An Empirical Model of Large-Batch Training, 2018.)
# - **More sources of chance.** A seed here sets the first weights and the order of the data together. Vary one at a time. Which
#   of them causes the spread? (Xavier Bouthillier and others, Accounting for Variance in Machine Learning Benchmarks, 2021.)
# - **On a GPU.** Run the last cell with the model and the batches on `cuda`. Add `torch.cuda.synchronize()` before every look at
#   the clock. What do the three columns of the note say there?
