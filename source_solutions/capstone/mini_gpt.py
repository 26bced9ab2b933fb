# ---
# title: Mini-GPT
# lab: capstone/mini_gpt
# minutes: 300
# difficulty: 4
# hardware: cpu
# needs: [ch03/lab02, ch03/lab03, ch04/lab03]
# builds: [scale, keep_top_k, keep_top_p, penalise, next_token, stream, build, train_in_stages, digest, save_model, load_model, repetition_rate, distinct_n, perplexity_under, blame]
# ---

# %% [markdown]
# # Capstone · Mini-GPT
#
# ## The idea
#
# You have a tokenizer, a transformer and a training loop, and all of them are your own. A language model that somebody
# can use needs three more things: a way to write with it, a file to keep it in, and a way to find out what is wrong when
# the text is bad. You build these here, and put everything together.
#
# Writing looks easy: ask for the next token, append it, ask again. But the model gives no token. It gives a probability
# for each of them, and somebody has to choose. Take four tokens with the logits 2, 1, 0, −1. The softmax makes them
# 0.644, 0.237, 0.087 and 0.032. Three knobs change the choice:
#
# | knob | what is left of the four |
# |---|---|
# | temperature 2: logits divided by 2 | 0.455, 0.276, 0.167, 0.102 |
# | top-k with $k = 2$: the two largest | 0.731, 0.269 |
# | top-p with $p = 0.8$: the smallest set that reaches 0.8 | 0.731, 0.269, because $0.644 + 0.237 = 0.881$ |
#
# Now use temperature 2 and top-p 0.8 together. Temperature first: $0.455 + 0.276 = 0.731$ is less than 0.8, so three
# tokens stay. (That 0.731 occurs in the table, too, means nothing.) Top-p first: two stay. Both programs write, and nobody can tell from one text which of them ran. So the
# order is a part of the specification, and your sampler is tested in two ways: by what it does to the logits, exactly,
# and by counting what it draws.
#
# A bad text may be the fault of the weights, or of the knobs. Half of the debugging of a language model is to tell one
# from the other. In the last exercise you do that with numbers. The page [Is it the checkpoint or the
# sampler?](../../book/capstone/checkpoint_or_sampler.md) explains what these numbers say.
#
# The lab takes about five hours. It ends with a model in a file, a command that writes with it, and a short review of
# your own work, which a person reads.
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `logits` | `(V,)` or `(B, V)` | scores for the next token; −∞ for a token that must not come |
# | `ids` | list of `int` | all tokens so far, the prompt included |
# | window | `(1, at most context)` | the last of them, all that the model sees |
# | piece | `str` | text that is shown as soon as no later token can change it |
# | `tensors` | dict of names and tensors | the weights, as `state_dict` names them |
# | `metadata` | dict of texts | what else is in the file: format, settings, tokenizer, facts, digest |
# | `train_ids`, `validation_ids` | `(N,)`, `(M,)` int64 | the two parts of the text |

# %% given
import hashlib
import json
import math
import os
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

FORMAT = "mini-gpt/1"  # the name of your file format


def unigram_loss(train_ids: torch.Tensor, ids: torch.Tensor, vocab_size: int) -> float:
    """Given: what a token costs, in nats, if only its frequency in the training part is known (counts plus one)."""
    counts = torch.bincount(train_ids, minlength=vocab_size).double() + 1
    return float(-(counts / counts.sum()).log()[ids].mean())


# %% given side="learner"
import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from coursekit import carry

BPETokenizer = carry("ch03/lab02", "BPETokenizer")  # BPETokenizer(merges): encode, decode, vocab_size
train_bpe = carry("ch03/lab02", "train_bpe")  # train_bpe(text, vocab_size) -> merges
GPT = carry("ch03/lab03", "GPT")  # GPT(config)(ids): (B, T) -> logits (B, T, V)
GPTConfig = carry(
    "ch03/lab03", "GPTConfig"
)  # vocab_size, context, d_model, n_layers, n_heads, d_ff, dropout, eps, seed
TrainConfig = carry("ch04/lab03", "TrainConfig")  # steps, batch_size, context, lr, ..., seed
train = carry("ch04/lab03", "train")  # train(model, data, config, validation=None, path=None, until=None) -> history
evaluate = carry("ch04/lab03", "evaluate")  # evaluate(model, data, batch_size, context) -> mean loss of a token


class Tokenizer(BPETokenizer):
    """Your BPETokenizer. It also remembers its merges, so that it can be written to a file."""

    def __init__(self, merges: list[tuple[int, int]]):
        super().__init__([(int(left), int(right)) for left, right in merges])
        self.merges = [(int(left), int(right)) for left, right in merges]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: the logits are divided by it; 0 means: always the largest.
        top_k: only so many tokens may be chosen; None for all.
        top_p: only the smallest set of tokens that reaches this probability; None for all.
        repetition_penalty: what has occurred gets less probable if this is more than 1.
        stop: the text ends before the first of these.
        max_tokens: and after so many tokens at the latest.
        seed: of the draws.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    max_tokens: int = 200
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"the temperature is 0 or more, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is 1 or more, or None; got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is more than 0 and at most 1, or None; got {self.top_p}")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"the repetition penalty is more than 0, got {self.repetition_penalty}")
        if isinstance(self.stop, str) or not all(self.stop):
            raise ValueError(f"stop is a tuple of texts that are not empty, got {self.stop!r}")
        if self.max_tokens < 0:
            raise ValueError(f"max_tokens is 0 or more, got {self.max_tokens}")


@contextlib.contextmanager
def asking(model: nn.Module) -> Iterator[None]:
    """Within ``with asking(model):`` the model is in evaluation mode and keeps nothing for a backward pass.

    Afterwards every part of it has the mode that it had before, also after an error.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


# %% [markdown]
# ## A picture
#
# Why is there more than one way to leave out bad tokens? Below is a line of Shakespeare, letter by letter, and a small
# model that looks at the last three letters and knows how often each letter came next in a part of the plays. A bar says
# how many letters it takes to reach 90% of the probability. The dotted line is a fixed number: five. Hover to see which
# letters they are.

# %%
from collections import Counter, defaultdict

import plotly.graph_objects as go

from coursekit import data, plots

plays = data.tiny_shakespeare()[:300_000]
follows = defaultdict(Counter)
for place in range(3, len(plays)):
    follows[plays[place - 3 : place]][plays[place]] += 1
line = "Give me your hand, and let us"
needed, letters = [], []
for place in range(3, len(line)):
    counts = follows[line[place - 3 : place]].most_common()
    total, reached, chosen = sum(count for _, count in counts), 0.0, []
    for letter, count in counts:
        if reached >= 0.9:
            break
        reached += count / total
        chosen.append(repr(letter))
    needed.append(len(chosen))
    letters.append(" ".join(chosen[:14]) + (" ..." if len(chosen) > 14 else ""))
figure = go.Figure(
    go.Bar(
        x=list(range(3, len(line))),
        y=needed,
        customdata=[[line[max(0, place - 12) : place], text] for place, text in enumerate(letters, start=3)],
        marker_color=plots.COLOURS[0],
        hovertemplate="after %{customdata[0]}: %{y} letters<br>%{customdata[1]}<extra></extra>",
    )
)
figure.add_hline(y=5, line={"color": plots.COLOURS[1], "dash": "dot"})
ticks = {"tickvals": list(range(3, len(line))), "ticktext": [letter.replace(" ", "␣") for letter in line[3:]]}
figure.update_xaxes(title_text="the letter that came", tickangle=0, **ticks)
figure.update_yaxes(title_text="letters for 90%")
figure.update_layout(height=340)
figure.show()
print(
    f"from {min(needed)} to {max(needed)} letters; more than five at {sum(n > 5 for n in needed)} of {len(needed)} places"
)

# %% [markdown]
# Within a word the model is often sure, and five is too many: there the worst of the five are noise. After a space it is
# unsure, and five is too few. A fixed $k$ cannot be right at both places. Top-p takes as many as it needs.


# %% given side="learner"
def unchanged(name: str, logits: torch.Tensor, *more: Any) -> bool:
    """For the checks: whether a function leaves the logits that it is given as they are."""
    kept = logits.clone()
    globals()[name](logits, *more)
    return torch.equal(logits, kept)


# %% [markdown]
# ## Exercise 1 · `keep_top_p`
#
# Three functions that turn logits into logits. `scale` divides all of them. In the other two a token that must not be
# chosen gets −∞, and everything else stays
# what it is: no softmax, and nothing is sorted in the result.
#
# Think about equal logits before you write. There must be no doubt which of them stay, so the specification says it:
# those with the smaller numbers.
#
# *Difficulty 2 of 5 · 30 minutes · 7 points*


# %% exercise="keep_top_p" difficulty=2 minutes=30 forbid=["TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper"]
def scale(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Make the distribution flatter (temperature above 1) or steeper (below 1).

    Args:
        logits: (V,) or (B, V), of any floating-point dtype; -inf is possible and stays.
        temperature: the logits are divided by it.

    Returns:
        A new tensor of the same shape and dtype.

    Raises:
        ValueError: if the temperature is not a positive, finite number.
    """
    ### BEGIN SOLUTION
    if not 0 < temperature < math.inf:
        raise ValueError(f"a temperature is positive and finite, got {temperature}")
    return logits / temperature
    ### END SOLUTION


def keep_top_k(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Keep the k largest logits of each row; the others become -inf.

    Args:
        logits: (V,) or (B, V), contiguous or not; it is not changed.
        k: how many stay; all of them if k is V or more. Of equal logits those with the smaller token numbers stay, so exactly
            k tokens do.

    Returns:
        A new tensor of the same shape and dtype. What stays has its old value.

    Raises:
        ValueError: if k is less than 1.

    Source: Fan, Lewis and Dauphin, Hierarchical Neural Story Generation, 2018, section 5.4.
    """
    ### BEGIN SOLUTION
    if k < 1:
        raise ValueError(f"at least one token has to stay, got k={k}")
    order = logits.argsort(dim=-1, descending=True, stable=True)  # (..., V), the largest first
    return logits.scatter(-1, order[..., k:], -math.inf)
    ### END SOLUTION


def keep_top_p(logits: torch.Tensor, p: float) -> torch.Tensor:
    """Keep the smallest set of tokens whose probability reaches p, in each row; the others become -inf.

    The tokens are taken from the most probable one on; of equally probable ones the smaller token number comes first. The
    token with which the sum reaches p (is p or more) is the last that stays. So at least one stays.

    Args:
        logits: (V,) or (B, V), contiguous or not; it is not changed. Their softmax gives the probabilities; compute it in
            float32 or better.
        p: more than 0, at most 1. With 1 nothing is taken away, however improbable it is.

    Returns:
        A new tensor of the same shape and dtype. What stays has its old value.

    Raises:
        ValueError: if p is not more than 0 and at most 1.

    Source: Holtzman, Buys, Du, Forbes and Choi, The Curious Case of Neural Text Degeneration, 2020, section 3.1.
    """
    ### BEGIN SOLUTION
    if not 0 < p <= 1:
        raise ValueError(f"p is more than 0 and at most 1, got {p}")
    if p == 1:
        return logits.clone()
    order = logits.argsort(dim=-1, descending=True, stable=True)  # (..., V), the largest first
    probabilities = logits.softmax(dim=-1, dtype=torch.float64).gather(-1, order)
    before = probabilities.cumsum(dim=-1) - probabilities  # what the tokens in front of this one have together
    dropped = torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before >= p)
    return logits.masked_fill(dropped, -math.inf)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Sort with <code>stable=True</code>, and keep the token numbers that come with it: they
# tell you which place in the original a sorted value belongs to. For top-p, ask of each token: had the tokens
# <em>before</em> it reached p already?</details>
# <details><summary>A bigger nudge</summary><code>argsort</code> gives the order, <code>gather</code> brings the
# probabilities into it, <code>cumsum</code> adds them up. Take a token's own share off the sum, and compare. The answer is
# in sorted order; <code>scatter</code> with the same order brings it back. A <code>scatter</code> without an underscore at
# the end makes a new tensor.</details>

# %% test="keep_top_p" points=3
from coursekit import check

import torch

nothing = -float("inf")
logits = torch.tensor([1.0, 3.0, -2.0, 3.0, 0.5])
check.close(scale(logits, 2.0), torch.tensor([0.5, 1.5, -1.0, 1.5, 0.25]), "temperature 2: every logit is halved")
check.raises(ValueError, lambda: scale(logits, 0.0), "a temperature of 0 is no number to divide by")
check.close(keep_top_k(logits, 2), torch.tensor([nothing, 3.0, nothing, 3.0, nothing]), "k = 2: the two threes stay")
check.close(
    keep_top_k(logits, 1),
    torch.tensor([nothing, 3.0, nothing, nothing, nothing]),
    "k = 1 with two equal logits in front: the one with the smaller number stays",
)
check.close(keep_top_k(logits, 9), logits, "k = 9 of five tokens: all stay")
check.raises(ValueError, lambda: keep_top_k(logits, 0), "k = 0")
### BEGIN HIDDEN TESTS
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper

for temperature in (0.0, -1.0, float("inf"), float("nan")):
    check.raises(ValueError, lambda t=temperature: scale(logits, t), f"temperature {temperature}")
for k in (0, -1):
    check.raises(ValueError, lambda k=k: keep_top_k(logits, k), f"k = {k}")
draw = torch.Generator().manual_seed(check.seed(1))
for batch, size, dtype in ((3, 63, torch.float64), (1, 7, torch.float32), (2, 200, torch.float32)):
    rows = torch.randn(size, batch, generator=draw, dtype=dtype).T  # not contiguous
    what = f"{batch} rows of {size} logits, {str(dtype)[6:]}, not contiguous"
    for temperature in (0.3, 2.5):
        want = TemperatureLogitsWarper(temperature)(None, rows)
        check.close(scale(rows, temperature), want, f"{what}: temperature {temperature}, as in transformers")
    for k in (1, 2, size - 1, size, size + 5):
        want = TopKLogitsWarper(k)(None, rows)
        check.close(keep_top_k(rows, k), want, f"{what}: k = {k}, as in transformers", atol=0.0, rtol=0.0)
        check.close(keep_top_k(rows[0], k), want[0], f"{what}: k = {k}, the first row alone", atol=0.0, rtol=0.0)
    for name, number in (("scale", 2.0), ("keep_top_k", 2)):
        check.equal(unchanged(name, rows, number), True, f"{what}: {name} leaves the logits that are passed in alone")
ties = torch.tensor([[2.0, 5.0, 2.0, 5.0, 5.0, 2.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
for k in range(1, 7):
    found = keep_top_k(ties, k)
    want = torch.full((2, 6), nothing)
    for row, order in enumerate(([1, 3, 4, 0, 2, 5], [0, 1, 2, 3, 4, 5])):
        want[row, order[:k]] = ties[row, order[:k]]
    check.close(found, want, f"rows with equal logits, k = {k}: the smaller numbers stay", atol=0.0, rtol=0.0)
holes = torch.tensor([nothing, 1e4, nothing, -1e4])
check.close(keep_top_k(holes, 1), torch.tensor([nothing, 1e4, nothing, nothing]), "k = 1 where some logits are -inf")
check.close(keep_top_k(holes, 3), holes, "k = 3 where only two logits are finite")
check.close(scale(holes, 0.001), torch.tensor([nothing, 1e7, nothing, -1e7]), "temperature 0.001 where some are -inf")
### END HIDDEN TESTS

# %% test="keep_top_p" points=4
from coursekit import check

import torch

nothing = -float("inf")
logits = torch.tensor([0.0, 2.0, -1.0, 1.0])  # probabilities 0.087, 0.644, 0.032, 0.237
check.close(
    keep_top_p(torch.tensor([1.0, -1.0]), 0.01), torch.tensor([1.0, nothing]), "two tokens, p = 0.01: one stays"
)
check.close(keep_top_p(logits, 0.9), torch.tensor([0.0, 2.0, nothing, 1.0]), "p = 0.9: it takes three tokens")
check.close(keep_top_p(logits, 0.8), torch.tensor([nothing, 2.0, nothing, 1.0]), "p = 0.8: it takes 0.644 and 0.237")
check.close(keep_top_p(logits, 0.6), torch.tensor([nothing, 2.0, nothing, nothing]), "p = 0.6: 0.644 is enough")
check.close(
    keep_top_p(torch.zeros(4), 0.5),
    torch.tensor([0.0, 0.0, nothing, nothing]),
    "four equal logits, p = 0.5: two quarters are a half exactly; the smaller numbers stay",
)
check.raises(ValueError, lambda: keep_top_p(logits, 0.0), "p = 0")
### BEGIN HIDDEN TESTS
for p in (0.0, -0.1, 1.0001, float("nan")):
    check.raises(ValueError, lambda p=p: keep_top_p(logits, p), f"p = {p}")
draw = torch.Generator().manual_seed(check.seed(2))
for batch, size, dtype in ((3, 63, torch.float64), (1, 7, torch.float32), (2, 40, torch.float32)):
    rows = 1.5 * torch.randn(size, batch, generator=draw, dtype=dtype).T  # not contiguous
    what = f"{batch} rows of {size} logits, {str(dtype)[6:]}, not contiguous"
    check.equal(unchanged("keep_top_p", rows, 0.5), True, f"{what}: the logits that are passed in are left alone")
    for stay in (1, 2, 5):
        alone = []
        for row in rows:
            chances, order = torch.sort(torch.exp(row.double() - row.double().logsumexp(0)), descending=True)
            sums = chances.cumsum(0)
            # A p half-way between two sums, so that no rounding decides.
            p = float(sums[stay - 1] - chances[stay - 1] / 2)
            want = torch.full_like(row, nothing)
            want[order[:stay]] = row[order[:stay]]
            found = keep_top_p(row, p)
            check.close(found, want, f"{what}: p = {p:.4f}, the {stay} best of a row", atol=0.0, rtol=0.0)
            alone.append(keep_top_p(row, 0.7))
        check.close(
            keep_top_p(rows, 0.7), torch.stack(alone), f"{what}: p = 0.7, every row for itself", atol=0.0, rtol=0.0
        )
    check.close(keep_top_p(rows, 1.0), rows, f"{what}: p = 1", atol=0.0, rtol=0.0)
steep = torch.tensor([-1e4, 0.0, 1e4, -30.0])
check.close(keep_top_p(steep, 1.0), steep, "p = 1 keeps also what has a probability of zero in float32")
check.close(keep_top_p(steep, 0.999), torch.tensor([nothing, nothing, 1e4, nothing]), "logits of 10,000")
for p, stay in ((0.125, 1), (0.126, 2), (0.25, 2), (0.75, 6), (0.751, 7), (0.9, 8)):
    want = torch.tensor([1.0] * stay + [nothing] * (8 - stay))
    check.close(keep_top_p(torch.ones(8), p), want, f"eight equal logits, p = {p}: the first {stay} stay")
holes = torch.tensor([nothing, 0.0, 0.0, nothing])
check.close(keep_top_p(holes, 0.6), holes, "two tokens of a half each, the others at -inf, p = 0.6: both stay")
check.close(keep_top_p(holes, 0.5), torch.tensor([nothing, 0.0, nothing, nothing]), "the same with p = 0.5: one stays")
far = torch.tensor([500.0, 500.0, 499.0])
check.close(keep_top_p(far, 0.7), torch.tensor([500.0, 500.0, nothing]), "logits around 500, of 0.42, 0.42, 0.16")
### END HIDDEN TESTS


# %% alternative="keep_top_p"
def scale(logits, temperature):
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError("temperature")
    return logits * (1 / temperature)


def keep_top_k(logits, k):
    # Row by row, with Python's sort, which is stable.
    if k <= 0:
        raise ValueError("k")
    if logits.ndim == 2:
        return torch.stack([keep_top_k(row, k) for row in logits])
    values = logits.tolist()
    chosen = sorted(range(len(values)), key=lambda token: -values[token])[:k]
    result = torch.full_like(logits, -math.inf)
    result[chosen] = logits[chosen]
    return result


def keep_top_p(logits, p):
    if not (p > 0 and p <= 1):
        raise ValueError("p")
    if logits.ndim == 2:
        return torch.stack([keep_top_p(row, p) for row in logits])
    result, reached = torch.full_like(logits, -math.inf), 0.0
    values, order = torch.sort(logits.softmax(-1), descending=True, stable=True)
    for value, token in zip(values.tolist(), order.tolist(), strict=True):
        if reached >= p and p < 1:
            break
        result[token] = logits[token]
        reached += value
    return result


# %% mistakes="keep_top_p"
{
    "the logits are multiplied by the temperature and not divided": (
        "return logits / temperature",
        "return logits * temperature",
    ),
    "the temperature is applied to the probabilities: the softmax comes before the division": (
        "return logits / temperature",
        "return logits.softmax(-1) / temperature",
    ),
    "the square root of the temperature divides": ("logits / temperature", "logits / math.sqrt(temperature)"),
    "a temperature of zero gives inf and nan, and no error": (
        "if not 0 < temperature < math.inf:",
        "if not temperature < math.inf:",
    ),
    "an infinite temperature is accepted, which makes every token equally probable": (
        "if not 0 < temperature < math.inf:",
        "if not 0 < temperature:",
    ),
    "k + 1 tokens stay": ("order[..., k:]", "order[..., k + 1 :]"),
    "k - 1 tokens stay": ("order[..., k:]", "order[..., k - 1 :]"),
    "the k smallest logits stay": (
        "order = logits.argsort(dim=-1, descending=True, stable=True)  # (..., V), the largest first\n    return",
        "order = logits.argsort(dim=-1, stable=True)\n    return",
    ),
    "all logits that equal the k-th largest stay, which may be more than k": (
        "    return logits.scatter(-1, order[..., k:], -math.inf)",
        "    last = logits.gather(-1, order[..., min(k, order.shape[-1]) - 1 :][..., :1])\n"
        "    return logits.masked_fill(logits < last, -math.inf)",
    ),
    "of equal logits the larger token numbers stay": (
        "order = logits.argsort(dim=-1, descending=True, stable=True)  # (..., V), the largest first\n    return",
        "order = logits.argsort(dim=-1, stable=True).flip(-1)\n    return",
    ),
    "the logits are returned in sorted order by top-k": (
        "    return logits.scatter(-1, order[..., k:], -math.inf)",
        "    ranked = logits.gather(-1, order)\n    ranked[..., k:] = -math.inf\n    return ranked",
    ),
    "the logits that are passed in are changed by top-k": (
        "logits.scatter(-1, order[..., k:]",
        "logits.scatter_(-1, order[..., k:]",
    ),
    "what top-k drops gets a logit of 0, and so a probability": ("order[..., k:], -math.inf)", "order[..., k:], 0.0)"),
    "k = 0 is accepted, and leaves nothing": ("if k < 1:", "if k < 0:"),
    "the token that crosses p is dropped": ("before >= p)", "before + probabilities >= p)"),
    "the token that crosses p is dropped, except where it is the first": (
        "before >= p)",
        "(before > 0) & (before + probabilities >= p))",
    ),
    "one token too many stays where the sum is p exactly": ("before >= p)", "before > p)"),
    "a whole token more than needed stays": ("before >= p)", "before - probabilities >= p)"),
    "the sorted order is not undone, so other tokens are dropped": (
        "torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before >= p)",
        "before >= p",
    ),
    "the order is undone with gather and not with scatter": (
        "torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before >= p)",
        "(before >= p).gather(-1, order)",
    ),
    "tokens are kept that have a probability of p each": (
        "torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before >= p)",
        "logits.softmax(-1) < p",
    ),
    "the logits are added up and not their probabilities": (
        "logits.softmax(dim=-1, dtype=torch.float64).gather(-1, order)",
        "logits.double().gather(-1, order)",
    ),
    "the least probable tokens are taken first": (
        "order = logits.argsort(dim=-1, descending=True, stable=True)  # (..., V), the largest first\n    probabilities",
        "order = logits.argsort(dim=-1, stable=True)\n    probabilities",
    ),
    "of equally probable tokens the larger numbers stay": (
        "order = logits.argsort(dim=-1, descending=True, stable=True)  # (..., V), the largest first\n    probabilities",
        "order = logits.argsort(dim=-1, stable=True).flip(-1)\n    probabilities",
    ),
    "the probabilities are returned and not the logits": (
        "return logits.masked_fill(dropped, -math.inf)",
        "return logits.softmax(-1).masked_fill(dropped, 0.0)",
    ),
    "what top-p drops gets a logit of 0, and so a probability": (
        "logits.masked_fill(dropped, -math.inf)",
        "logits.masked_fill(dropped, 0.0)",
    ),
    "the logits that are passed in are changed by top-p": ("logits.masked_fill(dropped", "logits.masked_fill_(dropped"),
    "all rows of a batch keep what the first row keeps": (
        "return logits.masked_fill(dropped, -math.inf)",
        "return logits.masked_fill(dropped if logits.ndim == 1 else dropped[:1], -math.inf)",
    ),
    "with p = 1 the tail is dropped where the sum is 1 up to rounding": (
        "    if p == 1:\n        return logits.clone()\n",
        "",
    ),
    "p = 0 is accepted": ("if not 0 < p <= 1:", "if not 0 <= p <= 1:"),
}

# %% equivalent="keep_top_p"
{
    "True -> False #2": "of the two sorts that PyTorch has on the CPU, the one that need not be stable is stable, too",
    "True -> False #4": "as above",
}


# %% given side="learner"
def draws(logits: torch.Tensor, n: int, seed: int = 0, ids: list[int] | None = None, **sampling: Any) -> list[int]:
    """For the checks of exercise 2: what `next_token` chooses, n times, with one generator and the given settings."""
    generator, settings = torch.Generator().manual_seed(seed), Sampling(**sampling)
    return [next_token(logits.clone(), list(ids or []), settings, generator) for _ in range(n)]


def draw_facts(logits: torch.Tensor, **sampling: Any) -> dict[str, bool]:
    """For the checks of exercise 2: what else changes when a token is drawn."""
    kept, ids, before = logits.clone(), [1, 2, 1], torch.get_rng_state()
    generator = torch.Generator().manual_seed(5)
    found = next_token(logits, ids, Sampling(**sampling), generator)
    return {
        "the logits are as they were": torch.equal(logits, kept),
        "the ids are as they were": ids == [1, 2, 1],
        "torch's own random state is as it was": torch.equal(before, torch.get_rng_state()),
        "the result is an int": type(found) is int,
    }


# %% [markdown]
# ## Exercise 2 · `next_token`
#
# One more transformation, and then the choice. The repetition penalty of Keskar and others makes what has occurred
# less probable. It needs care with signs: a logit of 2 divided by 1.5 is smaller, and a logit of −2 divided by 1.5 is
# *larger*. So positive logits are divided and negative ones multiplied. And each token pays once, however often it
# occurred.
#
# Then put the parts in their order: penalty, temperature, top-k, top-p, and one draw from what is left. Write the
# refusals, too. When a run has gone wrong, logits are NaN, and `torch.multinomial` says little about it.
#
# *Difficulty 3 of 5 · 30 minutes · 8 points*


# %% exercise="next_token" difficulty=3 minutes=30 forbid=["RepetitionPenaltyLogitsProcessor", "TopPLogitsWarper", "TopKLogitsWarper"]
def penalise(logits: torch.Tensor, ids: list[int] | torch.Tensor, penalty: float) -> torch.Tensor:
    """Make tokens less probable that have occurred.

    The logit of each token in ``ids`` is divided by the penalty if it is positive and multiplied by it otherwise. It happens
    once for each token, however often the token occurs.

    Args:
        logits: (V,) or (B, V); it is not changed.
        ids: the tokens that have occurred: a list or a tensor of T numbers, which may be empty. For (B, V) a tensor (B, T);
            every row of the logits pays for its own tokens.
        penalty: more than 1 makes repetition less probable, 1 changes nothing, less than 1 makes it more probable.

    Returns:
        A new tensor of the same shape and dtype.

    Raises:
        ValueError: if the penalty is not a positive, finite number.

    Source: Keskar, McCann, Varshney, Xiong and Socher, CTRL: A Conditional Transformer Language Model for Controllable
    Generation, 2019, section 4.1, with the signs as in today's libraries.
    """
    ### BEGIN SOLUTION
    if not 0 < penalty < math.inf:
        raise ValueError(f"a penalty is positive and finite, got {penalty}")
    ids = torch.as_tensor(ids, dtype=torch.int64, device=logits.device)
    occurred = logits.gather(-1, ids)
    paid = torch.where(occurred > 0, occurred / penalty, occurred * penalty)
    return logits.scatter(-1, ids, paid)
    ### END SOLUTION


def next_token(logits: torch.Tensor, ids: list[int], sampling: Sampling, generator: torch.Generator) -> int:
    """Choose the next token.

    In this order: `penalise` with all of ``ids``, `scale`, `keep_top_k`, `keep_top_p`; the last two only if they are not None.
    What is left is drawn with the probabilities of its softmax. With temperature 0 the choice is the largest logit after the
    penalty, of equal ones the one with the smallest number; top_k and top_p have no part in it.

    Args:
        logits: (V,), what the model says of the next token; it is not changed.
        ids: all tokens so far, the prompt included.
        sampling: the settings; ``stop``, ``max_tokens`` and ``seed`` have no part in it.
        generator: the only source of chance. In the same state it gives the same token. The random state of torch itself is
            neither used nor changed.

    Returns:
        The number of the token, an int.

    Raises:
        ValueError: if a logit is NaN or +inf, or all are -inf. The message says what was found ("NaN" or "inf"), what it means,
            and what to try. Also with temperature 0.
    """
    ### BEGIN SOLUTION
    if logits.isnan().any():
        raise ValueError("a logit is NaN: the weights are broken, or training went too far; try an earlier checkpoint")
    if (logits == math.inf).any() or (logits == -math.inf).all():
        raise ValueError("the logits hold +inf, or nothing but -inf: no token can be chosen; look at masks and weights")
    logits = penalise(logits, ids, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return int(logits.argmax())
    logits = scale(logits, sampling.temperature)
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = keep_top_p(logits, sampling.top_p)
    return int(torch.multinomial(logits.softmax(dim=-1), 1, generator=generator))
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Look up the logits of the tokens that occurred, change them, write them back. If a
# token is there twice, both times the same value is written to the same place. For the draw,
# <code>torch.multinomial</code> takes probabilities and a <code>generator</code>.</details>
# <details><summary>A bigger nudge</summary><code>gather</code>, <code>torch.where</code>, <code>scatter</code>: with an
# axis of −1 they serve (V,) and (B, V) alike. An empty list becomes a float tensor unless you name a dtype. Temperature 0
# has to leave the function before anything is divided.</details>

# %% test="next_token" points=3
from coursekit import check

import torch

logits = torch.tensor([2.0, -2.0, 1.0, -0.5, 0.0])
check.close(
    penalise(logits, [0, 1], 2.0),
    torch.tensor([1.0, -4.0, 1.0, -0.5, 0.0]),
    "tokens 0 and 1 occurred, penalty 2: 2 becomes 1, and -2 becomes -4",
)
check.close(penalise(logits, [2, 2, 2], 2.0)[2], 0.5, "token 2 occurred three times, and pays once")
check.close(penalise(logits, [], 2.0), logits, "nothing has occurred yet")
### BEGIN HIDDEN TESTS
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

for penalty in (0.0, -1.5, float("inf"), float("nan")):
    check.raises(ValueError, lambda penalty=penalty: penalise(logits, [0], penalty), f"penalty {penalty}")
draw = torch.Generator().manual_seed(check.seed(3))
for batch, size, length, dtype in ((3, 63, 40, torch.float64), (1, 7, 1, torch.float32), (2, 20, 100, torch.float32)):
    rows = 3 * torch.randn(size, batch, generator=draw, dtype=dtype).T  # not contiguous
    seen = torch.randint(size // 2, (length, batch), generator=draw).T
    for penalty in (1.0, 1.3, 0.7):
        what = f"{batch} rows of {size} logits, {length} tokens each, penalty {penalty}, {str(dtype)[6:]}"
        want = RepetitionPenaltyLogitsProcessor(penalty)(seen.contiguous(), rows.contiguous())
        check.close(penalise(rows, seen, penalty), want, f"{what}: as in transformers")
        check.close(
            penalise(rows[-1], seen[-1].tolist(), penalty), want[-1], f"{what}: the last row alone, with a list"
        )
        check.close(penalise(rows[-1], seen[-1], penalty), want[-1], f"{what}: the last row alone, with a tensor")
    check.equal(unchanged("penalise", rows, seen, 1.5), True, "the logits that are passed in are left alone")
holes = torch.tensor([-float("inf"), 0.0, 1e4, -1e4])
check.close(penalise(holes, [0, 1, 2, 3], 2.0), torch.tensor([-float("inf"), 0.0, 5e3, -2e4]), "-inf, 0 and 10,000")
### END HIDDEN TESTS

# %% test="next_token" points=5
from coursekit import check

import torch
from scipy.stats import chisquare

logits = torch.tensor([0.0, 2.0, -1.0, 1.0])  # probabilities 0.087, 0.644, 0.032, 0.237
check.equal(draws(logits, 3, temperature=0.0), [1, 1, 1], "temperature 0: always the largest")
single = [draws(torch.arange(50) / 1000, 1, seed=seed)[0] for seed in range(20)]
check.that(
    len(set(single)) > 5,
    "fifty tokens that are as good as equally probable, one draw with each of 20 seeds: many different tokens",
    why=f"they are {single}",
)
again = [draws(logits, 20, seed=0) for _ in range(2)]
check.equal(again[0], again[1], "20 draws with seed 0, twice: the generator is the only source of chance")
found = draws(logits, 300, seed=0)
counts = [found.count(token) for token in range(4)]
expected = (300 * logits.double().softmax(0)).tolist()
p_value = chisquare(counts, expected).pvalue
check.that(
    p_value > 1e-6,
    "300 draws with seed 0 fit their probabilities (chi-squared; a right sampler fails for one seed in a million)",
    why=f"tokens 0 to 3 came {counts} times, about {[round(n) for n in expected]} are expected; p is {p_value:.1g}",
)
check.equal(sorted(set(draws(logits, 60, temperature=0.01))), [1], "temperature 0.01: as good as always the largest")
found = draws(logits - 3, 60, ids=[1], repetition_penalty=100.0)
check.equal(found.count(1), 0, "logits -3, -1, -4, -2: token 1 pays, and its -1 becomes -100; how often it comes")
check.equal(
    draws(logits, 3, ids=[3], repetition_penalty=3.0, temperature=0.0), [1, 1, 1], "token 3 pays, and 1 is first"
)
check.equal(draws(logits, 3, ids=[1], repetition_penalty=3.0, top_k=1), [3, 3, 3], "token 1 pays, so top-k 1 leaves 3")
check.equal(
    draws(logits, 3, ids=[1], repetition_penalty=3.0, temperature=0.0), [3, 3, 3], "the same with temperature 0"
)
check.equal(sorted(set(draws(logits, 100, top_k=2))), [1, 3], "top-k 2: only the two largest ever come")
check.equal(sorted(set(draws(logits, 60, top_p=0.6))), [1], "top-p 0.6: one token stays, so nothing is left to chance")
check.equal(
    sorted(set(draws(logits, 150, temperature=2.0, top_p=0.8))),
    [0, 1, 3],
    "temperature 2 and top-p 0.8: the example of 'The idea'; three tokens stay, in 150 draws all of them come",
)
check.raises(ValueError, lambda: draws(torch.full((4,), float("nan")), 1), "logits of NaN", match="nan")
check.raises(ValueError, lambda: draws(torch.full((4,), -float("inf")), 1), "nothing but -inf", match="inf")
### BEGIN HIDDEN TESTS


def support(logits, n=60, **settings):
    return sorted(set(draws(logits, n, seed=check.seed(4), **settings)))


broken = [0.0, 1.0, -1.0, 2.0]
for place, value, word in ((2, "nan", "nan"), (0, "inf", "inf"), (3, "inf", "inf")):
    for temperature in (0.0, 1.0):
        bad = torch.tensor([*broken[:place], float(value), *broken[place + 1 :]])
        what = f"token {place} has the logit {value}, temperature {temperature}"
        check.raises(ValueError, lambda bad=bad, t=temperature: draws(bad, 1, temperature=t), what, match=word)
check.raises(ValueError, lambda: draws(torch.full((3,), -float("inf")), 1, temperature=0.0), "only -inf", match="inf")

# Temperature 0.
flat = torch.tensor([1.0, 5.0, 5.0, 5.0])
check.equal(draws(flat, 2, temperature=0.0), [1, 1], "equal logits, temperature 0: the smallest number")
check.equal(draws(flat, 2, temperature=0.0, top_p=0.1, top_k=2), [1, 1], "temperature 0 with top-k and top-p")
check.equal(
    draws(flat, 1, ids=[1, 2], temperature=0.0, repetition_penalty=1.2), [3], "temperature 0: the penalty counts"
)
check.equal(draws(torch.tensor([-1.0, -1.1]), 1, ids=[0], temperature=0.0, repetition_penalty=1.5), [1], "-1 pays, too")
check.equal(draws(torch.tensor([7.0]), 2), [0, 0], "a vocabulary of one token")
check.equal(draws(torch.tensor([7.0, 9.0]), 2, temperature=1e-3, top_k=99), [1, 1], "temperature 0.001, top-k 99 of 2")
one = torch.tensor([-float("inf"), -1e4, -float("inf")])
check.equal(support(one, 5), [1], "one logit is finite, at -10,000")
check.equal(support(torch.tensor([1e4, -1e4, 9990.0]), 20, temperature=0.1), [0], "logits of 10,000, temperature 0.1")

# The order of things. Probabilities 0.4, 0.3, 0.2, 0.1.
steps = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
check.equal(support(steps, top_k=4, top_p=0.65), [0, 1], "top-k 4 and top-p 0.65: both count")
check.equal(support(steps, top_k=2, top_p=0.55), [0], "top-k 2, then top-p 0.55 of what is left: 4/7 is enough")
check.equal(support(steps, temperature=0.25, top_p=0.6), [0], "temperature 0.25, then top-p 0.6: 256/354 is enough")
check.equal(support(steps + 3, ids=[0], repetition_penalty=2.0, top_k=1), [1], "the penalty comes before top-k")
check.equal(support(steps + 3, ids=[0, 0, 2], repetition_penalty=3.0, top_p=0.5), [1], "the penalty comes before top-p")
check.equal(support(steps, 100, top_k=3), [0, 1, 2], "top-k 3")
check.equal(support(steps, top_p=0.65), [0, 1], "top-p 0.65")
check.equal(support(steps, 220, top_p=1.0, top_k=4), [0, 1, 2, 3], "top-p 1 and top-k 4: all come")
check.equal(support(steps, 60, top_k=1, temperature=50.0), [0], "top-k 1 at temperature 50")

# What is left is drawn with its own probabilities. With p < 1e-10 no seed that anybody meets fails a right sampler.
for settings, shares in (
    ({"temperature": 0.5}, [16, 9, 4, 1]),
    ({"temperature": 2.0, "top_k": 3}, [2.0, 3**0.5, 2**0.5, 0]),
    ({"top_p": 0.65, "ids": [3]}, [4, 3, 0, 0]),
    ({"ids": [1, 1, 3], "repetition_penalty": 2.0}, [0.4, 0.09, 0.2, 0.01]),
):
    wanted = torch.tensor(shares, dtype=torch.float64)
    wanted = wanted / wanted.sum()
    got = draws(steps, 200, seed=check.seed(6), **settings)
    counts = torch.tensor([got.count(token) for token in range(4)])
    there = wanted > 0
    check.equal(int(counts[~there].sum()), 0, f"{settings}: draws of tokens that must not come")
    p_value = chisquare(counts[there].double(), 200 * wanted[there]).pvalue
    check.that(
        p_value > 1e-10,
        f"{settings}, probabilities 0.4, 0.3, 0.2, 0.1: 200 draws fit the probabilities that are left (chi-squared)",
        why=f"they came {counts.tolist()} times, expected {[round(200 * x, 1) for x in wanted.tolist()]}; p is {p_value:.1g}",
    )

# Chance comes from the generator alone.
draw = torch.Generator().manual_seed(check.seed(7))
wide = torch.randn(50, generator=draw)
first, again, other = (draws(wide, 40, seed=check.seed(n)) for n in (8, 8, 9))
check.equal(again, first, "the same seed: the same 40 tokens")
check.that(first != other, "another seed: other tokens")
check.that(
    len(set(first)) > 3, "a draw moves the generator on", why=f"40 draws gave only the tokens {sorted(set(first))}"
)
torch.manual_seed(check.seed(10))
check.equal(draws(wide, 40, seed=check.seed(8)), first, "torch's own random state has no part in it")
for settings in ({}, {"temperature": 0.7, "top_k": 5, "top_p": 0.8, "repetition_penalty": 1.5}, {"temperature": 0.0}):
    for fact, holds in draw_facts(wide, **settings).items():
        check.equal(holds, True, f"{settings or 'the settings left out'}: {fact}")
### END HIDDEN TESTS


# %% alternative="next_token"
def penalise(logits, ids, penalty):
    if not (penalty > 0 and math.isfinite(penalty)):
        raise ValueError("penalty")
    if logits.ndim == 2:
        return torch.stack([penalise(row, tokens, penalty) for row, tokens in zip(logits, ids, strict=True)])
    changed = logits.clone()
    for token in {int(number) for number in ids}:
        changed[token] *= penalty if logits[token] < 0 else 1 / penalty
    return changed


def next_token(logits, ids, sampling, generator):
    # In float64, by the inverse of the distribution function, with one uniform number.
    kind = "NaN" if torch.isnan(logits).any() else "inf"
    if kind == "NaN" or not logits.max() < math.inf or logits.max() == -math.inf:
        raise ValueError(f"{kind}: nothing to choose from")
    logits = penalise(logits.double(), ids, sampling.repetition_penalty)
    if not sampling.temperature:
        return logits.tolist().index(float(logits.max()))
    logits = scale(logits - logits.max(), sampling.temperature)
    logits = keep_top_k(logits, sampling.top_k or len(logits))
    chances = torch.softmax(keep_top_p(logits, sampling.top_p or 1.0), dim=0)
    point = torch.rand((), generator=generator, dtype=torch.float64) * chances.sum()
    sums = chances.cumsum(0)
    return int((sums <= point).sum().clamp(max=int(chances.nonzero().max())))


# %% mistakes="next_token"
{
    "positive logits are multiplied by the penalty and negative ones divided": (
        "torch.where(occurred > 0, occurred / penalty, occurred * penalty)",
        "torch.where(occurred > 0, occurred * penalty, occurred / penalty)",
    ),
    "all logits are divided by the penalty, so negative ones get more probable": (
        "torch.where(occurred > 0, occurred / penalty, occurred * penalty)",
        "occurred / penalty",
    ),
    "all logits are multiplied by the penalty": (
        "torch.where(occurred > 0, occurred / penalty, occurred * penalty)",
        "occurred * penalty",
    ),
    "the penalty is subtracted": (
        "torch.where(occurred > 0, occurred / penalty, occurred * penalty)",
        "occurred - penalty",
    ),
    "a token pays for every time that it occurred": (
        "    paid = torch.where(occurred > 0, occurred / penalty, occurred * penalty)\n",
        "    times = (ids.unsqueeze(-1) == ids.unsqueeze(-2)).sum(-1)\n"
        "    paid = torch.where(occurred > 0, occurred / penalty**times, occurred * penalty**times)\n",
    ),
    "only the last token counts as what has occurred": (
        "penalise(logits, ids, sampling.repetition_penalty)",
        "penalise(logits, ids[-1:], sampling.repetition_penalty)",
    ),
    "only the last token pays": (
        "ids = torch.as_tensor(ids, dtype=torch.int64, device=logits.device)",
        "ids = torch.as_tensor(ids, dtype=torch.int64, device=logits.device)[..., -1:]",
    ),
    "the tokens pay that have not occurred": (
        "return logits.scatter(-1, ids, paid)",
        "return torch.where(logits > 0, logits / penalty, logits * penalty).scatter(-1, ids, occurred)",
    ),
    "the logits that are passed in are changed": ("logits.scatter(-1, ids, paid)", "logits.scatter_(-1, ids, paid)"),
    "a penalty of 0 is accepted": ("if not 0 < penalty < math.inf:", "if not 0 <= penalty < math.inf:"),
    "the penalty is forgotten": (
        "    logits = penalise(logits, ids, sampling.repetition_penalty)\n    if sampling.temperature == 0:",
        "    if sampling.temperature == 0:",
    ),
    "with temperature 0 there is no penalty": (
        "    logits = penalise(logits, ids, sampling.repetition_penalty)\n    if sampling.temperature == 0:\n        return int(logits.argmax())\n",
        "    if sampling.temperature == 0:\n        return int(logits.argmax())\n    logits = penalise(logits, ids, sampling.repetition_penalty)\n",
    ),
    "temperature 0 is divided by, after a small number is added": (
        "    if sampling.temperature == 0:\n        return int(logits.argmax())\n    logits = scale(logits, sampling.temperature)\n",
        "    logits = scale(logits, sampling.temperature + 1e-3)\n",
    ),
    "the most probable token is always taken": (
        "int(torch.multinomial(logits.softmax(dim=-1), 1, generator=generator))",
        "int(logits.argmax())",
    ),
    "with temperature 0 the last of equal logits is taken": (
        "return int(logits.argmax())",
        "return len(logits) - 1 - int(logits.flip(0).argmax())",
    ),
    "the temperature is forgotten": ("    logits = scale(logits, sampling.temperature)\n", ""),
    "the temperature comes last, after top-k and top-p": [
        ("    logits = scale(logits, sampling.temperature)\n", ""),
        ("logits.softmax(dim=-1)", "scale(logits, sampling.temperature).softmax(dim=-1)"),
    ],
    "top-p comes before top-k": [
        ("    if sampling.top_k is not None:\n        logits = keep_top_k(logits, sampling.top_k)\n", ""),
        (
            "        logits = keep_top_p(logits, sampling.top_p)\n",
            "        logits = keep_top_p(logits, sampling.top_p)\n"
            "    if sampling.top_k is not None:\n        logits = keep_top_k(logits, sampling.top_k)\n",
        ),
    ],
    "the penalty comes last": [
        (
            "    logits = penalise(logits, ids, sampling.repetition_penalty)\n    if sampling.temperature == 0:\n        return int(logits.argmax())\n",
            "    if sampling.temperature == 0:\n        return int(penalise(logits, ids, sampling.repetition_penalty).argmax())\n",
        ),
        (
            "    return int(torch.multinomial(",
            "    logits = penalise(logits, ids, sampling.repetition_penalty)\n    return int(torch.multinomial(",
        ),
    ],
    "top-k is forgotten": (
        "    if sampling.top_k is not None:\n        logits = keep_top_k(logits, sampling.top_k)\n",
        "",
    ),
    "top-p is forgotten": (
        "    if sampling.top_p is not None:\n        logits = keep_top_p(logits, sampling.top_p)\n",
        "",
    ),
    "top-p is used only where there is no top-k": (
        "    if sampling.top_p is not None:",
        "    elif sampling.top_p is not None:",
    ),
    "what is left is drawn with equal probabilities": (
        "logits.softmax(dim=-1), 1,",
        "(logits > -math.inf).double(), 1,",
    ),
    "the softmax is taken twice": (
        "logits.softmax(dim=-1), 1,",
        "logits.softmax(dim=-1).masked_fill(logits == -math.inf, -math.inf).softmax(dim=-1), 1,",
    ),
    "the generator is ignored, and torch's own random state is used": (", 1, generator=generator)", ", 1)"),
    "the generator begins anew at every token": (
        "    return int(torch.multinomial(",
        "    generator.manual_seed(generator.initial_seed())\n    return int(torch.multinomial(",
    ),
    "the seed of the settings is used, and not the generator": (
        "generator=generator))",
        "generator=torch.Generator().manual_seed(sampling.seed)))",
    ),
    "a tensor is returned and not an int": (
        "return int(torch.multinomial(logits.softmax(dim=-1), 1, generator=generator))",
        "return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)[0]",
    ),
    "NaN is not noticed, and temperature 0 chooses it": (
        '    if logits.isnan().any():\n        raise ValueError("a logit is NaN: the weights are broken, or training went too far; try an earlier checkpoint")\n',
        "",
    ),
    "+inf is not noticed": ("(logits == math.inf).any() or ", ""),
    "nothing but -inf is not noticed": (" or (logits == -math.inf).all()", ""),
    "one logit of -inf is refused, which is an ordinary thing": (
        "(logits == -math.inf).all()",
        "(logits == -math.inf).any()",
    ),
}

# %% equivalent="next_token"
{
    "occurred > 0 -> occurred >= 0": "a logit of 0 stays 0, divided or multiplied",
}


# %% given side="learner"
class Script(nn.Module):
    """A model for checks. Whatever it reads, at call n it scores the next token with row n of its script.

    At all positions but the last it says token 0. It has a part in the other mode than the rest, and notes what it is asked.
    """

    def __init__(self, rows: torch.Tensor, context: int, training: bool, breaks_at: int | None):
        super().__init__()
        self.config = GPTConfig(rows.shape[1], context, 4, 1, 1, 4)
        self.rows, self.breaks_at, self.asked = rows, breaks_at, []
        self.size = nn.Parameter(torch.ones(()))
        self.dropout, self.frozen = nn.Dropout(0.5), nn.Dropout(0.5)
        self.train(training)
        self.frozen.train(not training)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        call = len(self.asked)
        evaluation = not any(module.training for module in self.modules())
        self.asked.append({"ids": ids.tolist(), "evaluation": evaluation, "gradients": torch.is_grad_enabled()})
        if call == self.breaks_at:
            raise RuntimeError("the model breaks down")
        if ids.shape[1] > self.config.context:
            raise ValueError(f"{ids.shape[1]} tokens do not fit into a context of {self.config.context}")
        logits = torch.zeros(*ids.shape, self.rows.shape[1], dtype=self.rows.dtype)
        logits[..., 0] = 1e3
        logits[:, -1] = self.rows[call % len(self.rows)]
        return self.dropout(logits) * self.size

    def modes(self) -> list[bool]:
        return [module.training for module in self.modules()]


def rows_for(tokens: list[int], vocab_size: int) -> torch.Tensor:
    """A script in which these tokens have the largest logits, one after the other."""
    return 20 * F.one_hot(torch.tensor(tokens), vocab_size).float()


def streamed(
    script: list[int] | torch.Tensor,
    prompt: str = "Q",
    merges: list[tuple[int, int]] | None = None,
    context: int = 8,
    training: bool = False,
    breaks_at: int | None = None,
    leave_after: int | None = None,
    **sampling: Any,
) -> dict[str, Any]:
    """For the checks of exercise 3: what comes out of `stream`, and what it does on the way.

    Args:
        script: the tokens that the model says with certainty, or logits (calls, V).
        merges: of the tokenizer; none if left out, so that a token is a byte.
        breaks_at: the number of the model's call that raises a RuntimeError.
        leave_after: after so many pieces the caller loses interest.
        sampling: the settings; temperature 0 and as many tokens as the script has where they are left out.

    Returns:
        "text": the pieces, joined; "shown": for each call of the model the text that had come out before it, and at last
        all of it; "empty": whether a piece was empty; "asked": the windows; "error"; "facts", all of which should be True.
    """
    tokenizer = Tokenizer(merges or [])
    rows = script if isinstance(script, torch.Tensor) else rows_for(script, tokenizer.vocab_size)
    model = Script(rows, context, training, breaks_at)
    settings = Sampling(**({"temperature": 0.0, "max_tokens": len(rows)} | sampling))
    modes, random, pieces, shown = model.modes(), torch.get_rng_state(), [], []
    between, gradients, error = modes, True, ""
    try:
        for piece in stream(model, tokenizer, prompt, settings):
            shown += ["".join(pieces)] * (len(model.asked) - len(shown))
            pieces.append(piece)
            between = between if between != modes else model.modes()
            gradients = gradients and torch.is_grad_enabled()
            if len(pieces) == leave_after:
                break
    except NotImplementedError:
        raise
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    torch.set_grad_enabled(True)
    shown += ["".join(pieces)] * (len(model.asked) - len(shown))
    facts = {
        "between two pieces gradients are on, as the caller left them": gradients,
        "between two pieces every part of the model is in the mode that it had": between == modes or str(between),
        "afterwards every part of the model is in the mode that it had": model.modes() == modes or str(model.modes()),
        "the model is asked in evaluation mode": all(call["evaluation"] for call in model.asked),
        "the model is asked without gradients": not any(call["gradients"] for call in model.asked),
        "torch's own random state is as it was": torch.equal(random, torch.get_rng_state()),
        "every window is one sequence": all(len(call["ids"]) == 1 for call in model.asked),
    }
    return {
        "text": "".join(pieces),
        "shown": [*shown, "".join(pieces)],
        "empty": "" in pieces,
        "asked": [call["ids"][0] for call in model.asked],
        "error": error,
        "facts": facts,
    }


def side_by_side(rows: torch.Tensor, seeds: tuple[int, int], **sampling: Any) -> list[str]:
    """For the checks of exercise 3: two streams that take turns, piece by piece; the text of each."""
    tokenizer, texts = Tokenizer([]), ["", ""]
    models = [Script(rows, 8, False, None) for _ in seeds]
    streams = [
        iter(stream(model, tokenizer, "Q", Sampling(seed=seed, max_tokens=len(rows), **sampling)))
        for model, seed in zip(models, seeds, strict=True)
    ]
    for _ in range(len(rows) + 1):
        for number, pieces in enumerate(streams):
            texts[number] += next(pieces, "")
    return texts


# %% [markdown]
# ## Exercise 3 · `stream`
#
# Nobody likes to wait for a whole text. `stream` gives it out piece by piece, as it is written. The loop is that of
# Lab 3.3's `generate`. What is new is the question *when* a piece may be shown, for what is on the screen cannot be
# taken back.
#
# - A token may end in the middle of a character. The letter é has two bytes, and a token may hold the first of them.
#   Decoded too early it becomes U+FFFD, the mark for bytes that are no text. Hold it back.
# - A stop string may arrive in parts. With `stop=("END",)` the tokens may be `E` and `ND`, or `ENT` and later `END`.
#   Hold back whatever may still become a stop string, and show it when it turns out to be something else.
#
# One more trap: between two pieces your function stands still, and the caller's code runs. A model that was left in
# evaluation mode, or gradients that were switched off, are then the caller's problem. `asking` is given. Where must its
# `with` end?
#
# *Difficulty 4 of 5 · 50 minutes · 11 points*


# %% exercise="stream" difficulty=4 minutes=50
def stream(model: nn.Module, tokenizer: Tokenizer, prompt: str, sampling: Sampling) -> Iterator[str]:
    """Continue a text, and give out the new part piece by piece.

    Every token is chosen by `next_token` with the ids of the whole text so far, the prompt included. The model sees the last
    ``model.config.context`` of these ids, and its answer at the last position counts. All chance comes from one generator
    that is seeded with sampling.seed, so the same arguments give the same text, whatever else runs in between.

    Args:
        model: takes ids (1, T), returns logits (1, T, V); it may be on any device. It is asked within ``asking(model)``, and
            whenever the caller's code runs (between two pieces, at the end, after an error) every part of it is in the mode that
            it had, and gradients are as the caller left them. It is not asked more often than once for each token.
        tokenizer: with `encode` and `decode`.
        prompt: the beginning; not part of what is given out.
        sampling: the settings.

    Yields:
        Pieces of text, none of them empty. Joined they are the new text: the new ids, decoded together, up to the first stop
        string. That is the one in ``sampling.stop`` that is complete first, character by character, and of two that are
        complete with the same character the longer one. Neither it nor anything after it is part of the text. A stop string
        counts if all of it is new; what stands in the prompt has no part in it.

        A text is shown as soon as no later token can change it. After each token all is given out except U+FFFD at its end
        (that may be the beginning of a character) and, before that, the longest end that is the beginning of a stop string.
        What was held back is given out when the text is over because max_tokens new ids are there; a character that is
        not complete then is U+FFFD, as `decode` gives it. After a stop string the model is not asked again.

    Raises:
        ValueError: if the prompt has no tokens, with a message that says what to try; or from `next_token`. At the latest when
            the first piece is asked for.
    """
    ### BEGIN SOLUTION
    ids = list(tokenizer.encode(prompt))
    if not ids:
        raise ValueError("the prompt is empty, and a model needs a token to go on from: try a line break")
    generator = torch.Generator().manual_seed(sampling.seed)
    device = next(model.parameters()).device
    new, done, held = [], 0, ""  # the new ids; how many of their characters are dealt with; what waits
    while len(new) < sampling.max_tokens:
        with asking(model):
            window = torch.tensor([ids[-model.config.context :]], device=device)  # (1, at most context)
            logits = model(window)[0, -1].cpu()  # (V,)
        token = next_token(logits, ids, sampling, generator)
        ids.append(token)
        new.append(token)
        over = len(new) == sampling.max_tokens
        text = tokenizer.decode(new)
        if not over:
            text = text.rstrip("\ufffd")
        held, done = held + text[done:], len(text)
        found = [(held.find(stop) + len(stop), held.find(stop)) for stop in sampling.stop if stop in held]
        if found:
            begin = min(found)[1]
            if begin:
                yield held[:begin]
            return
        waits = 0
        if not over:
            waits = max((n for stop in sampling.stop for n in range(len(stop)) if held.endswith(stop[:n])), default=0)
        piece, held = held[: len(held) - waits], held[len(held) - waits :]
        if piece:
            yield piece
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>First write it without stop strings and without held characters: encode, ask, choose,
# append, decode, yield. Then keep one text <code>held</code> that holds all that has not been shown. After each token it
# grows, then it is searched, then its safe part is shown.</details>
# <details><summary>A bigger nudge</summary>Decode <em>all</em> new ids each time and take off U+FFFD at the end: what is left
# can only grow. To find what must wait, try each stop string, and each of its beginnings: does <code>held</code> end with
# it? The longest counts. The draw and the decoding need no model, so the <code>with</code> holds two lines, and no
# <code>yield</code> stands in it.</details>

# %% test="stream" points=3
from coursekit import check

found = streamed(list(b" to be"))
check.equal([found["text"], found["error"]], [" to be", ""], "a model that says ' to be', byte by byte: the text")
check.equal(
    found["shown"],
    ["", " ", " t", " to", " to ", " to b", " to be"],
    "the text that had come out before each call of the model, and at the end",
)
found = streamed(list(b"defghi"), prompt="abc", context=4)
check.equal(
    [bytes(window).decode() for window in found["asked"]],
    ["abc", "abcd", "bcde", "cdef", "defg", "efgh"],
    "the prompt 'abc', context 4: what the model sees at each call",
)
for fact, holds in found["facts"].items():
    check.equal(holds, True, fact)
check.that(
    streamed(list(b"x"), prompt="")["error"].startswith("ValueError"), "an empty prompt is refused with a ValueError"
)
### BEGIN HIDDEN TESTS
import torch

for training in (False, True):
    for context in (1, 3, 50):
        found = streamed(list(b" or not to be"), prompt="to be", context=context, training=training)
        what = f"context {context}, the model in {'training' if training else 'evaluation'} mode"
        whole = b"to be or not to be"
        want = [list(whole[max(0, end - context) : end]) for end in range(5, 18)]
        check.equal(found["asked"], want, f"{what}: the windows")
        check.equal([found["text"], found["error"], found["empty"]], [" or not to be", "", False], f"{what}: the text")
        for fact, holds in found["facts"].items():
            check.equal(holds, True, f"{what}: {fact}")
    found = streamed(list(b"abcdef"), training=training, breaks_at=3)
    check.equal([found["text"], found["error"]], ["abc", "RuntimeError: the model breaks down"], "an error in call 3")
    for fact, holds in found["facts"].items():
        check.equal(holds, True, f"after an error in the model, training is {training}: {fact}")
    found = streamed(list(b"abcdef"), training=training, leave_after=2)
    check.equal([found["text"], len(found["asked"])], ["ab", 2], "the caller leaves after two pieces")
    for fact, holds in found["facts"].items():
        check.equal(holds, True, f"the caller leaves after two pieces, training is {training}: {fact}")
found = streamed(list(b"abc"), max_tokens=0)
check.equal([found["text"], found["asked"], found["error"]], ["", [], ""], "max_tokens 0: nothing is asked or shown")
found = streamed(list(b"abc"), max_tokens=2)
check.equal([found["text"], len(found["asked"])], ["ab", 2], "max_tokens 2")
merges = [(97, 98), (256, 99)]  # ab, abc
found = streamed([257, 100, 256], prompt="abcab", merges=merges)
check.equal(found["asked"][-1], [257, 256, 257, 100], "the prompt 'abcab' with the merges ab and abc: the ids so far")
check.equal(found["shown"], ["", "abc", "abcd", "abcdab"], "tokens of three letters, one and two")
nothing = torch.full((3, 256), float("nan"))
found = streamed(nothing, training=True)
check.that(found["error"].startswith("ValueError"), "logits of NaN: the error of next_token", why=found["error"])
for fact, holds in found["facts"].items():
    check.equal(holds, True, f"after logits of NaN: {fact}")
check.that(
    streamed([65], prompt="", temperature=1.0)["error"].startswith("ValueError"), "an empty prompt, temperature 1"
)
### END HIDDEN TESTS

# %% test="stream" points=5
from coursekit import check

found = streamed(list(b"the ENTIRE END of it"), stop=("END",))
check.equal(
    [found["shown"][5:9], found["text"]],
    [["the ", "the ", "the ENT", "the ENTI"], "the ENTIRE "],
    "stop string 'END', byte by byte: what is shown after 'the E', 'N', 'T', 'I'; and the whole text",
)
check.equal(len(found["asked"]), 14, "after the D of 'END' the model is not asked again")
found = streamed(list("née".encode()))
check.equal(found["shown"], ["", "n", "n", "né", "née"], "the two bytes of é: nothing is shown after the first of them")
found = streamed(list("né".encode()), max_tokens=2)
check.equal(found["text"], "n\ufffd", "the text is over in the middle of é: U+FFFD takes its place")
### BEGIN HIDDEN TESTS
import itertools
import random


def expected(tokens, spelling, stops, limit):
    """The text and what is shown before each call, found character by character."""
    text, shown = b"", []
    for number in range(limit + 1):
        over = number == limit
        seen = text.decode("utf-8", errors="replace")
        seen = seen if over else seen.rstrip("\ufffd")
        for end in range(len(seen) + 1):
            begins = [end - len(stop) for stop in stops if seen[:end].endswith(stop) and end >= len(stop)]
            if begins:
                return seen[: min(begins)], [*shown, seen[: min(begins)]]
        waits = 0
        if not over:
            for stop, n in itertools.product(stops, range(1, 30)):
                if n < len(stop) and n <= len(seen) and seen[-n:] == stop[:n]:
                    waits = max(waits, n)
        shown.append(seen[: len(seen) - waits])
        text += spelling[tokens[number]] if number < len(tokens) else b""
    return seen, shown


def compare(tokens, spelling, merges, stops, limit, what):
    text, shown = expected(tokens, spelling, stops, limit)
    found = streamed(tokens, merges=merges, stop=tuple(stops), max_tokens=limit)
    check.equal(found["shown"], shown, f"{what}: what is shown before each call, and at the end")
    check.equal(found["text"], text, f"{what}: the text")
    check.equal(found["empty"], False, f"{what}: whether a piece is empty")
    for fact, holds in found["facts"].items():
        check.equal(holds, True, f"{what}: {fact}")


letters = [bytes([n]) for n in range(256)]
for said, stops in (
    ("abcabd.", ["abd"]),
    ("aaab, aaaab.", ["aab"]),
    ("abab abac.", ["abac", "b a"]),
    ("one two three", ["two", "one t"]),
    ("abcdefgh", ["abcdef", "cd"]),
    ("xabcd", ["bcd", "abcd", "d"]),
    ("ENDEND", ["END"]),
    ("it is EN", ["END"]),
    ("never", ["END", "\n\n"]),
    ("a\n\n\nb", ["\n\n"]),
    ("x", ["x"]),
    ("grüße, naïve 中文 👋🏽 end.", ["👋🏽", "zzz"]),
    ("中文 中 文", ["中 "]),
    ("a\ufffdb\ufffd\ufffdc", ["zz"]),
):
    tokens = list(said.encode())
    for limit in (len(tokens), len(tokens) - 1):
        compare(tokens, letters, [], stops, limit, f"{said!r}, byte by byte, {limit} tokens, stop at {stops}")
# Tokens of several bytes: ab, c+ab, D+LF, first byte of é with b before it, its second byte with E behind it.
merges = [(97, 98), (99, 256), (68, 10), (98, 195), (169, 69), (260, 78), (69, 78)]
spelling = [*letters, b"ab", b"cab", b"D\n", b"b\xc3", b"\xa9E", b"\xa9EN", b"EN"]
for tokens, stops in (
    ([256, 257, 99], ["bca"]),
    ([257, 262, 258, 97], ["END"]),
    ([262, 68, 262, 256], ["END", "ENDE"]),
    ([262, 258, 97], ["ENDE"]),
    ([259, 261, 258], ["éEN"]),
    ([259, 260, 78, 68, 259], ["END"]),
    ([259, 97, 259, 259], ["ba", "zz"]),
    ([261, 68, 195, 195, 169], ["END"]),
    ([195, 261, 258, 99], ["éEND"]),
    ([261, 68, 99], ["END"]),
    ([257, 257, 257], ["bcab", "abc"]),
    ([257, 257], ["a", "cab"]),
    ([257, 257], ["cab", "a"]),
):
    compare(tokens, spelling, merges, stops, len(tokens), f"tokens {tokens} of several bytes, stop at {stops}")
dice = random.Random(check.seed(30))
for _ in range(12):
    tokens = [dice.choice([97, 98, 99, 256, 257, 195, 169, 259, 260]) for _ in range(14)]
    stops = ["".join(dice.choice("abcé") for _ in range(dice.randrange(3, 5))) for _ in range(2)]
    compare(tokens, spelling, merges, stops, 14, f"drawn tokens {tokens}, stop at {stops}")
# A stop string that begins in the prompt is none.
found = streamed(list(b"D, END."), prompt="EN", stop=("END",))
check.equal(found["text"], "D, ", "the prompt 'EN', then 'D, END.', stop at 'END': the stop string has to be new")
found = streamed(list(b"go"), prompt="END END ", stop=("END",))
check.equal(found["text"], "go", "a stop string in the prompt")
### END HIDDEN TESTS

# %% test="stream" points=3
from coursekit import check

import torch

rows = torch.zeros(12, 256)
rows[:, 97:105] = torch.randn(12, 8, generator=torch.Generator().manual_seed(0)) + 40
one, again, other = (streamed(rows, temperature=1.0, seed=seed)["text"] for seed in (1, 1, 2))
check.equal(again, one, "letters drawn with seed 1, twice")
check.that(other != one, "another seed gives another text", why=f"seeds 1 and 2 both give {one!r}")
found = streamed(torch.zeros(3, 256).index_fill(1, torch.tensor([97, 98]), 5.0), "a", repetition_penalty=2.0)
check.equal(
    found["text"],
    "baa",
    "'a' and 'b' are equally probable, the prompt is 'a', penalty 2: 'b' comes, then both have paid",
)
### BEGIN HIDDEN TESTS
draw = torch.Generator().manual_seed(check.seed(31))
rows = torch.zeros(20, 256)
rows[:, 97:107] = torch.randn(20, 10, generator=draw) + 40
seeds = (check.seed(32), check.seed(33))
for settings in ({"temperature": 1.0}, {"temperature": 1.5, "top_k": 6, "top_p": 0.95, "repetition_penalty": 1.1}):
    alone = [streamed(rows, seed=seed, **settings) for seed in seeds]
    again = [streamed(rows, seed=seed, **settings) for seed in seeds]
    check.equal([a["text"] for a in again], [a["text"] for a in alone], f"{settings}: the same seeds, the same texts")
    check.that(alone[0]["text"] != alone[1]["text"], f"{settings}: other seeds, other texts")
    check.equal(side_by_side(rows, seeds, **settings), [a["text"] for a in alone], f"{settings}: two streams in turns")
    for fact, holds in alone[0]["facts"].items():
        check.equal(holds, True, f"{settings}: {fact}")
    torch.manual_seed(check.seed(34))
    check.equal(
        streamed(rows, seed=seeds[0], **settings)["text"], alone[0]["text"], f"{settings}: torch has another seed"
    )
    longer = streamed(rows, seed=seeds[0], **(settings | {"max_tokens": 8}))["text"]
    check.equal(longer, alone[0]["text"][:8], f"{settings}: 8 tokens are the first 8 of 20")
same = streamed(torch.zeros(40, 256).index_fill(1, torch.arange(97, 107), 40.0), temperature=1.0, seed=check.seed(35))
check.that(
    len(set(same["text"])) > 3, "the same logits 40 times: not the same letter each time", why=repr(same["text"])
)
# The settings reach next_token: ten letters, logits 30, 29, ... 21.
steps = torch.zeros(50, 256)
steps[:, 97:107] = torch.arange(30.0, 20.0, -1.0)
for settings, letters in (
    ({"top_k": 1}, "a"),
    ({"top_p": 0.6}, "a"),
    ({"temperature": 0.01}, "a"),
    ({"temperature": 0.0}, "a"),
):
    found = streamed(steps, **({"temperature": 1.0, "seed": check.seed(36)} | settings))
    check.equal("".join(sorted(set(found["text"]))), letters, f"logits 30 to 21 for 'a' to 'j', {settings}: what comes")
# What has occurred is penalised for ever: also when it has left the window, and also what the prompt says.
flat = torch.zeros(6, 256).index_fill(1, torch.arange(97, 103), 5.0)
found = streamed(flat, prompt="ca", context=2, repetition_penalty=2.0)
check.equal(found["text"], "bdefaa", "'a' to 'f' equally probable, prompt 'ca', context 2, penalty 2: each comes once")
### END HIDDEN TESTS


# %% alternative="stream"
class stream:
    # An iterator written as a class. Bytes are put together by decoding what is not complete yet.
    def __init__(self, model, tokenizer, prompt, sampling):
        self.model, self.tokenizer, self.sampling = model, tokenizer, sampling
        self.ids = [int(token) for token in tokenizer.encode(prompt)]
        if not self.ids:
            raise ValueError("an empty prompt; try a space")
        self.generator = torch.Generator()
        self.generator.manual_seed(sampling.seed)
        self.left, self.open, self.buffer, self.given = sampling.max_tokens, [], "", 0

    def __iter__(self):
        return self

    def __next__(self):
        while self.left > 0:
            piece = self.step()
            if piece:
                return piece
        raise StopIteration

    def step(self):
        with asking(self.model):
            logits = self.model(torch.tensor(self.ids[-self.model.config.context :])[None])[0][-1]
        self.ids.append(next_token(logits, self.ids, self.sampling, self.generator))
        self.left -= 1
        self.open.append(self.ids[-1])
        fresh = self.tokenizer.decode(self.open)
        safe = fresh if self.left == 0 else fresh.rstrip("\ufffd")
        piece = ""
        for character in safe[self.given :]:
            self.buffer += character
            ends = [stop for stop in self.sampling.stop if self.buffer.endswith(stop)]
            if ends:
                self.left = 0
                piece += self.buffer[: len(self.buffer) - max(map(len, ends))]
                return piece
        self.given = len(safe)
        if safe == fresh:
            self.open, self.given = [], 0
        if self.left == 0:
            return piece + self.buffer
        for start in range(len(self.buffer) + 1):
            if start == len(self.buffer) or any(stop.startswith(self.buffer[start:]) for stop in self.sampling.stop):
                break
        piece, self.buffer = piece + self.buffer[:start], self.buffer[start:]
        return piece


# %% mistakes="stream"
{
    "the model is shown the whole text, also where it is longer than the context": (
        "ids[-model.config.context :]",
        "ids",
    ),
    "the model is shown the first tokens of a long text and not the last": (
        "ids[-model.config.context :]",
        "ids[: model.config.context]",
    ),
    "the model is shown one token less than its context": (
        "ids[-model.config.context :]",
        "ids[-max(model.config.context - 1, 1) :]",
    ),
    "the model is shown the new tokens only, and the prompt is forgotten": (
        "ids[-model.config.context :]",
        "(new or ids)[-model.config.context :]",
    ),
    "the model's answer at the first position counts, and not that at the last": (
        "model(window)[0, -1]",
        "model(window)[0, 0]",
    ),
    "the prompt is given out, too": (
        '    new, done, held = [], 0, ""',
        '    yield prompt\n    new, done, held = [], 0, ""',
    ),
    "the text comes out in one piece when it is finished": (
        "        if not over:\n            waits = max(",
        "        if not over:\n            waits = len(held) or max(",
    ),
    "an empty prompt is not refused": ("    if not ids:\n", "    if False:\n"),
    "the text is one token too long": (
        "while len(new) < sampling.max_tokens:",
        "while len(new) <= sampling.max_tokens:",
    ),
    "the model is asked once more after the last token": (
        "        if piece:\n            yield piece\n",
        "        if piece:\n            yield piece\n        if over:\n            with asking(model):\n                model(window)\n",
    ),
    "the model is asked in the mode in which it happens to be, dropout and all": (
        "        with asking(model):\n",
        "        with torch.no_grad():\n",
    ),
    "the model is left in evaluation mode": (
        "        with asking(model):\n",
        "        model.eval()\n        with torch.no_grad():\n",
    ),
    "the model is put into training mode afterwards, whatever it was before": (
        "        token = next_token(",
        "        model.train()\n        token = next_token(",
    ),
    "everything is kept for a backward pass that never comes": (
        "        with asking(model):\n",
        "        with asking(model), torch.enable_grad():\n",
    ),
    "yield stands within asking, so that the caller has no gradients, and a model in evaluation mode, between two pieces": [
        (
            "    while len(new) < sampling.max_tokens:\n        with asking(model):\n",
            "    with asking(model):\n      while len(new) < sampling.max_tokens:\n        if True:\n",
        ),
    ],
    "torch's own random state is seeded": (
        "generator = torch.Generator().manual_seed(sampling.seed)",
        "torch.manual_seed(sampling.seed)\n    generator = torch.default_generator",
    ),
    "chance comes from torch's own random state, and the seed is ignored": (
        "generator = torch.Generator().manual_seed(sampling.seed)",
        "generator = torch.default_generator",
    ),
    "the seed of the settings is ignored": ("manual_seed(sampling.seed)", "manual_seed(0)"),
    "the generator begins anew at every token": (
        "        token = next_token(",
        "        generator.manual_seed(sampling.seed)\n        token = next_token(",
    ),
    "the penalty does not see the prompt": ("next_token(logits, ids, sampling", "next_token(logits, new, sampling"),
    "the penalty forgets what has left the window": (
        "next_token(logits, ids, sampling",
        "next_token(logits, ids[-model.config.context :], sampling",
    ),
    "the most probable token is always taken, whatever the settings": (
        "token = next_token(logits, ids, sampling, generator)",
        "token = int(logits.argmax()) if logits.isfinite().all() else next_token(logits, ids, sampling, generator)",
    ),
    "a character that is not complete is shown as U+FFFD at once": (
        '        if not over:\n            text = text.rstrip("\\ufffd")\n',
        "",
    ),
    "every token is decoded by itself": [
        (
            '        text = tokenizer.decode(new)\n        if not over:\n            text = text.rstrip("\\ufffd")\n',
            "        text = tokenizer.decode([token])\n",
        ),
        ("held + text[done:], len(text)", "held + text, 0"),
    ],
    "a character that is not complete at the end is left out": (
        '        if not over:\n            text = text.rstrip("\\ufffd")\n',
        '        text = text.rstrip("\\ufffd")\n',
    ),
    "the text before an unfinished character waits with it": (
        '            text = text.rstrip("\\ufffd")\n',
        '            text = text if not text.endswith("\\ufffd") else text[:done]\n',
    ),
    "a stop string is found only within one token": [
        ("held, done = held + text[done:], len(text)", "held, done = text[done:], len(text)"),
        ("        if not over:\n            waits = max(", "        if False:\n            waits = max("),
    ],
    "the beginning of a stop string is shown before the rest of it comes": [
        ('    new, done, held = [], 0, ""', '    new, done, held, shown = [], 0, "", 0'),
        (
            "            if begin:\n                yield held[:begin]\n",
            "            if begin > shown:\n                yield held[shown:begin]\n",
        ),
        (
            "        piece, held = held[: len(held) - waits], held[len(held) - waits :]\n",
            "        piece, shown = held[shown:], len(held)\n",
        ),
    ],
    "the stop string itself is shown": ("yield held[:begin]", "yield held[: min(found)[0]]"),
    "the text before the stop string in the same token is lost": (
        "            if begin:\n                yield held[:begin]\n            return",
        "            return",
    ),
    "a stop string ends nothing: the text goes on behind it": [
        ("            return\n        waits", "            held = held[min(found)[0] :]\n        waits"),
    ],
    "a stop string is ignored": ("if stop in held]", "if False]"),
    "only the first stop string of the list is looked for": (
        "for stop in sampling.stop if stop in held]",
        "for stop in sampling.stop[:1] if stop in held]",
    ),
    "of several stop strings the one that begins first counts, and not the one that is complete first": (
        "min(found)[1]",
        "min(begin for _, begin in found)",
    ),
    "of several stop strings the one that stands first in the list counts": (
        "min(found)[1]",
        "found[0][1]",
    ),
    "one character less than needed waits": ("for n in range(len(stop))", "for n in range(len(stop) - 1)"),
    "as many characters wait as the longest stop string has, whatever they are": (
        "waits = max((n for stop in sampling.stop for n in range(len(stop)) if held.endswith(stop[:n])), default=0)",
        "waits = min(len(held), max((len(stop) for stop in sampling.stop), default=0))",
    ),
    "only the longest stop string is considered when text is held back": (
        "for stop in sampling.stop for n",
        "for stop in sorted(sampling.stop, key=len)[-1:] for n",
    ),
    "the shortest end that may become a stop string waits, and not the longest": (
        "waits = max((n for stop in sampling.stop for n in range(len(stop)) if held.endswith(stop[:n])), default=0)",
        "waits = min((n for stop in sampling.stop for n in range(1, len(stop)) if held.endswith(stop[:n])), default=0)",
    ),
    "what waits at the end is lost": (
        "        waits = 0\n        if not over:\n            waits =",
        "        waits = 0\n        if True:\n            waits =",
    ),
    "the prompt is searched for stop strings, too": (
        '    new, done, held = [], 0, ""',
        '    if any(stop in prompt for stop in sampling.stop):\n        return\n    new, done, held = [], 0, ""',
    ),
    "a stop string may begin in the prompt": (
        "        found = [(",
        "        if any((prompt + text).endswith(stop) and not text.endswith(stop) for stop in sampling.stop):\n            return\n        found = [(",
    ),
    "empty pieces are given out while text waits": (
        "        if piece:\n            yield piece\n",
        "        yield piece\n",
    ),
}


# %% given side="learner"
@dataclass(frozen=True)
class Parts:
    """What a text has been made into.

    Attributes:
        tokenizer, model, config: yours; the config belongs to the model.
        train_ids, validation_ids: the two parts of the text.
    """

    tokenizer: Tokenizer
    model: nn.Module
    config: Any
    train_ids: torch.Tensor
    validation_ids: torch.Tensor


SHAPE = {"context": 6, "d_model": 8, "n_layers": 1, "n_heads": 2, "d_ff": 12}
SETTINGS = {
    "batch_size": 2,
    "context": 6,
    "lr": 0.1,
    "min_lr": 0.05,
    "warmup": 0,
    "eval_every": 1000,
    "save_every": 3,
}


def built(text: str, vocab_size: int, **more: Any) -> dict[str, Any]:
    """For the checks of exercise 4: what `build` has made, as plain values."""
    parts = build(text, vocab_size, **(SHAPE | more))
    with torch.no_grad():
        logits = parts.model(torch.zeros(1, 2, dtype=torch.int64))
    twin = GPT(parts.config).state_dict()
    return {
        "merges": parts.tokenizer.merges,
        "train": parts.train_ids,
        "validation": parts.validation_ids,
        "train text": parts.tokenizer.decode(parts.train_ids.tolist()),
        "validation text": parts.tokenizer.decode(parts.validation_ids.tolist()),
        "config": asdict(parts.config),
        "logits for each position": logits.shape[-1],
        "the weights are those of the config": all(
            torch.equal(value, twin[name]) for name, value in parts.model.state_dict().items()
        ),
    }


def stages_of(
    stages: list[int],
    text: str,
    earlier: list[int] | None = None,
    steps: int = 4,
    dropout: float = 0.3,
    prompt: str = "ab",
    settings: dict[str, Any] | None = None,
    **sampling: Any,
) -> dict[str, Any]:
    """For the checks of exercise 4: a run in stages, and what `train` alone makes of the same stages.

    Args:
        stages: of the call of `train_in_stages` that is judged.
        earlier: stages of a call before that, with another model and the same file.
        settings: of the TrainConfig, where they differ from SETTINGS.
        sampling: of the samples.

    Returns:
        "rows" (what the judged call returned); "error"; "files"; "same weights": whether the model is equal to the bit to
        one that `train` has brought to the last stage; "want": for each stage the loss of its step, the
        validation loss, and the sample, from a model that was loaded at that stage.
    """
    config = TrainConfig(steps=steps, **(SETTINGS | (settings or {})))
    writing = Sampling(**({"max_tokens": 5, "seed": 3} | sampling))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "run.pt")
        parts = build(text, 260, dropout=dropout, **SHAPE)
        if earlier:
            train_in_stages(build(text, 260, dropout=dropout, **SHAPE), config, earlier, prompt, writing, path)
        torch.manual_seed(99)
        rows, error = [], ""
        try:
            rows = train_in_stages(parts, config, stages, prompt, writing, path)
        except NotImplementedError:
            raise
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
        files = sorted(os.listdir(folder))
        want, other = [], parts
        for stage in stages if not error else []:
            # The same run once more, each stage loaded into a model of its own.
            other = build(text, 260, dropout=dropout, **SHAPE)
            history = train(other.model, other.train_ids, config, path=os.path.join(folder, "twin.pt"), until=stage)
            validation = evaluate(other.model, other.validation_ids, config.batch_size, config.context)
            sample = "".join(stream(other.model, other.tokenizer, prompt, writing))
            want.append({"step": stage, "loss": history[-1]["loss"], "validation": validation, "sample": sample})
        weights = other.model.state_dict()
        same = all(torch.equal(value, weights[name]) for name, value in parts.model.state_dict().items())
    return {"rows": rows, "error": error, "files": files, "same weights": same, "want": want}


# %% [markdown]
# ## Exercise 4 · `build` and `train_in_stages`
#
# From a text to a model that is being trained, in two functions. `build` cuts the text into two parts and makes
# everything else from them. Be careful what sees the validation part: nothing does, the tokenizer included. A tokenizer
# that has learned its merges there has tokens for the very words that the model is to be judged by.
#
# `train_in_stages` stops at given steps and lets the model write. Your `train` does the rest: it goes on from its
# checkpoint, and the stops leave no trace in the weights.
#
# *Difficulty 3 of 5 · 35 minutes · 8 points*


# %% exercise="build" difficulty=3 minutes=35
def build(text: str, vocab_size: int, share: float = 0.9, **shape: Any) -> Parts:
    """A tokenizer, a model and the tokens, all from one text.

    Args:
        text: its first int(share * number of characters) characters are for training, all that follow for validation. The
            two parts are encoded separately.
        vocab_size: of the tokenizer, at most. `train_bpe` learns the merges, from the training part alone.
        share: of the training part.
        shape: the other settings of the model: context, d_model, n_layers, n_heads, d_ff and, if wanted, dropout, eps, seed.

    Returns:
        The parts. The model's vocab_size is the number of tokens that the tokenizer really has, which is smaller than
        ``vocab_size`` if the text has not so many merges.

    Raises:
        ValueError: if one of the two parts has less than two tokens, too few to predict anything. The message
            names the part: "training" or "validation".
    """
    ### BEGIN SOLUTION
    cut = int(share * len(text))
    tokenizer = Tokenizer(train_bpe(text[:cut], vocab_size))
    train_ids, validation_ids = (torch.tensor(tokenizer.encode(part)) for part in (text[:cut], text[cut:]))
    for name, ids in (("training", train_ids), ("validation", validation_ids)):
        if len(ids) < 2:
            raise ValueError(f"the {name} part has {len(ids)} tokens; take a longer text, or another share")
    config = GPTConfig(vocab_size=tokenizer.vocab_size, **shape)
    return Parts(tokenizer, GPT(config), config, train_ids, validation_ids)
    ### END SOLUTION


def train_in_stages(
    parts: Parts, settings: TrainConfig, stages: list[int], prompt: str, sampling: Sampling, path: str
) -> list[dict[str, Any]]:
    """Train with your `train`, and at each stage judge the model and let it write.

    Args:
        parts: of `build`; the model is trained in place, on the training part.
        settings: of the run.
        stages: numbers of steps, counted from the start of the run, each larger than the one before; the last is at most
            settings.steps.
        prompt, sampling: for `stream`.
        path: of the checkpoint. If there is one, the run goes on from it. Stages that it has passed already are left out: nobody
            can go back to them.

    Returns:
        For each stage a dict: "step", "loss" (of that step, as in the history), "validation" (the loss of the whole validation
        part at that moment, from `evaluate`, with the batch size and the context of the settings), "sample" (the new text,
        without the prompt). In the end the model has the weights of the last stage, the same to the bit as without stages.

    Raises:
        ValueError: if the stages do not grow, begin below 1 or end beyond settings.steps; before anything is trained.
    """
    ### BEGIN SOLUTION
    if any(after <= before for before, after in pairwise([0, *stages, settings.steps + 1])):
        raise ValueError(f"stages have to grow, from 1 to at most {settings.steps}, got {stages}")
    rows = []
    for stage in stages:
        history = train(parts.model, parts.train_ids, settings, path=path, until=stage)
        if len(history) > stage:
            continue
        validation = evaluate(parts.model, parts.validation_ids, settings.batch_size, settings.context)
        sample = "".join(stream(parts.model, parts.tokenizer, prompt, sampling))
        rows.append({"step": stage, "loss": history[-1]["loss"], "validation": validation, "sample": sample})
    return rows
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Cut the text while it is still a text. Everything that is learned comes from the
# first part. Then read once more what <code>until</code> and <code>path</code> of your <code>train</code> do.</details>
# <details><summary>A bigger nudge</summary>The history that <code>train</code> returns begins with the first step of the run,
# so its length says how far the run is. If it is longer than the stage, the checkpoint was further. For the stages, put a 0 in
# front and compare each with the one before; <code>settings.steps + 1</code> behind them stands for the end of the run.</details>

# %% test="build" points=3
from coursekit import check

text = "ab ab ab ab ab ab ab xy xy xy "  # 30 characters
found = built(text, 300, share=0.7)
check.equal(
    [found["train text"], found["validation text"]], [text[:21], text[21:]], "30 characters, share 0.7: the two parts"
)
check.equal(
    [tuple(pair) for pair in found["merges"]],
    [(97, 98), (32, 256)],
    "the merges, learned from 'ab ab ab ...' alone: ab, and a space with ab; nothing is known of 'xy'",
)
check.equal(
    [found["config"]["vocab_size"], found["logits for each position"]],
    [258, 258],
    "300 tokens were allowed, and the text has merges for 258: the model's vocabulary",
)
check.raises(ValueError, lambda: built(text, 300, share=1.0), "nothing is left for validation", match="validation")
### BEGIN HIDDEN TESTS
import random

dice = random.Random(check.seed(40))
for share, size, limit in ((0.9, 203, 263), (0.5, 101, 256), (0.75, 334, 400)):
    text = "".join(dice.choice("abcdé ") for _ in range(size))
    found = built(text, limit, share=share, seed=7, dropout=0.25, eps=1e-4)
    what = f"{size} drawn characters, share {share}, at most {limit} tokens"
    cut = int(share * size)
    check.equal(found["train text"], text[:cut], f"{what}: the training part")
    check.equal(found["validation text"], text[cut:], f"{what}: the validation part")
    merges = found["merges"]
    check.that(len(merges) <= limit - 256, f"{what}: the number of merges", why=f"there are {len(merges)}")
    wanted = {"vocab_size": 256 + len(merges), "context": 6, "d_model": 8, "n_layers": 1, "n_heads": 2, "d_ff": 12}
    check.equal(
        found["config"], wanted | {"dropout": 0.25, "eps": 1e-4, "seed": 7}, f"{what}: the settings of the model"
    )
    check.equal(found["the weights are those of the config"], True, f"{what}: the weights are those of the config")
    for part in ("train", "validation"):
        check.equal(str(found[part].dtype), "torch.int64", f"{what}: the dtype of the {part} ids")
        check.equal(found[part].ndim, 1, f"{what}: the axes of the {part} ids")
        check.that(int(found[part].max()) < 256 + len(merges), f"{what}: the {part} ids fit the model")
    if limit == 263:
        check.equal(len(merges), 7, f"{what}: seven merges")
        check.that(len(found["train"]) < cut, f"{what}: merges are used in the training part")
found = built("abababababab" * 5, 256)
check.equal(
    [len(found["train"]), len(found["validation"])], [54, 6], "60 letters, share left out, no merges: the lengths"
)
found = built("xyxyxyxyxy" + "xyxyxyxyxy", 257, share=0.5)
check.equal(found["validation"].tolist(), [256] * 5, "the validation part 'xyxyxyxyxy' with the merge xy: five tokens")
for share, part in ((0.0, "training"), (0.05, "training"), (0.95, "validation")):
    check.raises(
        ValueError,
        lambda share=share: built("abcdefghijklmnopqrst", 256, share=share),
        f"20 letters, share {share}",
        match=part,
    )
check.equal(
    len(built("abcdefghijklmnopqrst", 256, share=0.9)["validation"]), 2, "20 letters, share 0.9: two for validation"
)
### END HIDDEN TESTS

# %% test="build" points=5
from coursekit import check

import torch

text = "abc abd acd " * 12
found = stages_of([2, 3], text, temperature=0.0)
check.equal(found["error"], "", "stages after 2 and 3 steps: no error")
check.equal([row["step"] for row in found["rows"]], [2, 3], "the steps of the rows")
for key in ("loss", "validation"):
    got, want = (torch.tensor([row[key] for row in found[which]]) for which in ("rows", "want"))
    check.close(got, want, f"{key}, at both stages")
check.equal(found["same weights"], True, "the weights in the end: the same as without stages, to the bit")
check.equal(
    [row["sample"] for row in found["rows"]],
    [row["sample"] for row in found["want"]],
    "the samples: what a model says that was trained for so many steps in one go",
)
check.that(stages_of([3, 2], text)["error"].startswith("ValueError"), "stages 3, 2: they do not grow")
### BEGIN HIDDEN TESTS
import random

dice = random.Random(check.seed(41))
text = "".join(dice.choice(["abc ", "bad ", "cab ", "é\n"]) for _ in range(60))
for stages, earlier, kept in (
    ([2, 4], [2], [2, 4]),
    ([1, 3], [2], [3]),
):
    found = stages_of(stages, text, earlier, seed=check.seed(42), temperature=1.0, prompt="a")
    what = f"stages {stages}" + (f" after an earlier call up to {earlier[-1]}" if earlier else "")
    check.equal(found["error"], "", f"{what}: no error")
    check.equal([row["step"] for row in found["rows"]], kept, f"{what}: the steps of the rows")
    check.equal(found["same weights"], True, f"{what}: the weights in the end, to the bit")
    wanted = [row for row in found["want"] if row["step"] in kept]
    for row, want in zip(found["rows"], wanted, strict=True):
        check.equal(sorted(row), ["loss", "sample", "step", "validation"], f"{what}: the keys")
        check.equal(row["sample"], want["sample"], f"{what}: the sample after step {want['step']}")
        for key in ("loss", "validation"):
            check.close(row[key], want[key], f"{what}: {key} after step {want['step']}", atol=1e-6)
    check.equal(found["files"], ["run.pt"], f"{what}: the files")
found = stages_of([], text)
check.equal([found["rows"], found["error"], found["files"]], [[], "", []], "no stages: nothing is trained")
for stages in ([2, 2], [0, 2], [5], [1, 5], [-1]):
    found = stages_of(stages, text)
    check.that(found["error"].startswith("ValueError"), f"stages {stages} of 4 steps are refused", why=found["error"])
    check.equal(found["files"], [], f"stages {stages}: nothing has been trained")
### END HIDDEN TESTS


# %% alternative="build"
def build(text, vocab_size, share=0.9, **shape):
    border = int(share * len(text))
    pieces = {"training": text[:border], "validation": text[border:]}
    tokenizer = Tokenizer(merges=train_bpe(pieces["training"], vocab_size))
    coded = {name: torch.tensor(list(tokenizer.encode(piece)), dtype=torch.int64) for name, piece in pieces.items()}
    for name in coded:
        if coded[name].numel() <= 1:
            raise ValueError(f"too short: the {name} part")
    config = GPTConfig(256 + len(tokenizer.merges), **shape)
    return Parts(tokenizer, GPT(config), config, coded["training"], coded["validation"])


def train_in_stages(parts, settings, stages, prompt, sampling, path):
    if list(stages) != sorted(set(stages)) or (stages and (min(stages) < 1 or max(stages) > settings.steps)):
        raise ValueError("stages")
    rows, stages = [], list(stages)
    while stages:
        stage = stages.pop(0)
        history = train(parts.model, parts.train_ids, settings, validation=None, path=path, until=stage)
        if history[-1]["step"] == stage:
            row = {"step": stage, "loss": history[-1]["loss"], "sample": ""}
            for piece in stream(parts.model, parts.tokenizer, prompt, sampling):
                row["sample"] += piece
            row["validation"] = evaluate(parts.model, parts.validation_ids, settings.batch_size, settings.context)
            rows.append(row)
    return rows


# %% mistakes="build"
{
    "the tokenizer learns its merges from the whole text, the validation part included": (
        "train_bpe(text[:cut], vocab_size)",
        "train_bpe(text, vocab_size)",
    ),
    "the tokenizer learns its merges from the validation part": (
        "train_bpe(text[:cut], vocab_size)",
        "train_bpe(text[cut:], vocab_size)",
    ),
    "the end of the text is for training and its beginning for validation": (
        "for part in (text[:cut], text[cut:])",
        "for part in (text[len(text) - cut :], text[: len(text) - cut])",
    ),
    "the validation part is the whole text": ("for part in (text[:cut], text[cut:])", "for part in (text[:cut], text)"),
    "the training part is the whole text": ("for part in (text[:cut], text[cut:])", "for part in (text, text[cut:])"),
    "the two parts share a character": ("text[cut:])", "text[max(cut - 1, 0) :])"),
    "a character between the two parts is lost": ("text[cut:])", "text[cut + 1 :])"),
    "the tokens are cut and not the text": (
        "train_ids, validation_ids = (torch.tensor(tokenizer.encode(part)) for part in (text[:cut], text[cut:]))",
        "ids = torch.tensor(tokenizer.encode(text))\n"
        "    train_ids, validation_ids = ids[: int(share * len(ids))], ids[int(share * len(ids)) :]",
    ),
    "the share is always 0.9": ("int(share * len(text))", "int(0.9 * len(text))"),
    "the model has the vocabulary that was allowed, and not that of the tokenizer": (
        "vocab_size=tokenizer.vocab_size",
        "vocab_size=vocab_size",
    ),
    "the model has as many tokens as the tokenizer has merges, and the bytes are forgotten": (
        "vocab_size=tokenizer.vocab_size",
        "vocab_size=max(len(tokenizer.merges), 1)",
    ),
    "the settings of the shape are not all passed on: dropout, eps and seed are lost": (
        "config = GPTConfig(vocab_size=tokenizer.vocab_size, **shape)",
        'config = GPTConfig(tokenizer.vocab_size, *(shape[key] for key in ("context", "d_model", "n_layers", "n_heads", "d_ff")))',
    ),
    "parts without anything to predict are accepted": ("if len(ids) < 2:", "if len(ids) < 0:"),
    "a part with one token is accepted": ("if len(ids) < 2:", "if len(ids) < 1:"),
    "each stage begins anew: the path is not passed on": (
        "settings, path=path, until=stage)",
        "settings, until=stage)",
    ),
    "the run never stops before its end": ("path=path, until=stage)", "path=path)"),
    "the steps of a stage are counted from the stage before": (
        "path=path, until=stage)",
        'path=path, until=stage + (rows[-1]["step"] if rows else 0))',
    ),
    "the model is trained on the validation part": (
        "train(parts.model, parts.train_ids,",
        "train(parts.model, parts.validation_ids,",
    ),
    "the validation loss is that of the training part": (
        "evaluate(parts.model, parts.validation_ids,",
        "evaluate(parts.model, parts.train_ids,",
    ),
    "the validation loss is the training loss of the step": (
        "        validation = evaluate(parts.model, parts.validation_ids, settings.batch_size, settings.context)\n",
        '        validation = history[-1]["loss"]\n',
    ),
    "the loss is that of the first step": ('history[-1]["loss"]', 'history[0]["loss"]'),
    "the loss is the mean over all steps": (
        '"loss": history[-1]["loss"]',
        '"loss": sum(row["loss"] for row in history) / len(history)',
    ),
    "the samples come from a model with first weights": (
        "stream(parts.model, parts.tokenizer, prompt",
        "stream(GPT(parts.config), parts.tokenizer, prompt",
    ),
    "the samples hold the prompt": ('sample = "".join(', 'sample = prompt + "".join('),
    "all samples are taken when the run is over": (
        "    return rows\n",
        '    for row in rows:\n        row["sample"] = sample\n    return rows\n',
    ),
    "a stage that the checkpoint has passed gets a row of its own, with the weights of a later step": (
        "        if len(history) > stage:\n            continue\n",
        "",
    ),
    "stages that do not grow are accepted": (
        "pairwise([0, *stages, settings.steps + 1])",
        "pairwise([0, *sorted(set(stages)), settings.steps + 1])",
    ),
    "a stage may be given twice": (
        "any(after <= before for before, after in pairwise([0, *stages, settings.steps + 1]))",
        "any(after < before for before, after in pairwise([0, *stages, settings.steps]))",
    ),
    "stages beyond the end of the run are accepted": (
        "pairwise([0, *stages, settings.steps + 1])",
        "pairwise([0, *stages])",
    ),
    "a first stage of 0 or less is accepted": (
        "pairwise([0, *stages, settings.steps + 1])",
        "pairwise([*stages, settings.steps + 1])",
    ),
    "a stage that is wrong is noticed only when its turn comes": [
        (
            "    if any(after <= before for before, after in pairwise([0, *stages, settings.steps + 1])):\n"
            '        raise ValueError(f"stages have to grow, from 1 to at most {settings.steps}, got {stages}")\n',
            "",
        ),
        (
            "    for stage in stages:\n",
            "    for number, stage in enumerate(stages):\n"
            "        if stage <= [0, *stages][number] or stage > settings.steps:\n            raise ValueError(stage)\n",
        ),
    ],
}


# %% given side="learner"
def saved(
    shape: dict[str, Any], merges: list[tuple[int, int]], facts: dict[str, Any], seed: int = 0, times: int = 1
) -> dict[str, Any]:
    """For the checks of exercise 5: what `save_model` leaves in a folder.

    Args:
        shape: of the GPTConfig. The weights are drawn with ``seed``; those of the last saving count.
        times: how often a model is saved under the same name, each time with another seed.

    Returns:
        "content" (the bytes of the file), "state" (the weights that went in), "files", and two facts that should be True.
    """
    config, tokenizer = GPTConfig(**shape), Tokenizer(merges)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.safetensors")
        reader, before = None, b""
        for number in range(times):
            model = GPT(config)
            draw = torch.Generator().manual_seed(seed + number)
            for parameter in model.parameters():
                drawn = torch.randn(*reversed(parameter.shape), generator=draw)
                parameter.data = drawn.T if parameter.ndim == 2 else drawn
            if number == times - 1 and times > 1:
                reader = open(path, "rb")  # noqa: SIM115
                with open(path, "rb") as file:
                    before = file.read()
            held = dict(facts)
            save_model(path, model, tokenizer, config, facts)
        kept = reader is None or reader.read() == before
        if reader:
            reader.close()
        with open(path, "rb") as file:
            content = file.read()
        files = sorted(os.listdir(folder))
    return {
        "content": content,
        "state": {name: value.detach().clone() for name, value in model.state_dict().items()},
        "files": files,
        "whoever has the old file open still reads the old one": kept,
        "the facts are as they were": facts == held,
    }


def saving_fails() -> dict[str, Any]:
    """For the checks of exercise 5: a second model is to be saved, and the disk is full. What is there afterwards?"""
    import safetensors.torch

    config, tokenizer = GPTConfig(259, **SHAPE), Tokenizer([(97, 98), (256, 99), (99, 99)])
    names, kept = globals(), (safetensors.torch.save_file, safetensors.torch.save, save_file)

    def disk_full(content, file=None, *args, **kwargs):
        if isinstance(file, str | os.PathLike):
            with open(file, "wb") as out:
                out.write(b"half a mod")
        raise OSError("no space left on device")

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.safetensors")
        save_model(path, GPT(config), tokenizer, config, {"number": 1})
        with open(path, "rb") as file:
            before = file.read()
        try:
            safetensors.torch.save_file = safetensors.torch.save = names["save_file"] = disk_full
            save_model(path, GPT(config), tokenizer, config, {"number": 2})
            error = "nothing was raised"
        except NotImplementedError:
            raise
        except Exception as raised:
            error = type(raised).__name__
        finally:
            safetensors.torch.save_file, safetensors.torch.save, names["save_file"] = kept
        with open(path, "rb") as file:
            after = file.read()
    return {"error": error, "the older file is as it was": after == before}


def loaded(content: bytes | None, name: str = "model.safetensors") -> dict[str, Any]:
    """For the checks of exercise 5: what `load_model` makes of a file with this content (None: there is no file)."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, name)
        if content is not None:
            with open(path, "wb") as file:
                file.write(content)
        try:
            model, tokenizer, facts = load_model(path)
        except NotImplementedError:
            raise
        except Exception as raised:
            return {"error": type(raised).__name__, "names the file": name in str(raised)}
    return {
        "error": "",
        "state": {key: value.detach().clone() for key, value in model.state_dict().items()},
        "config": asdict(model.config),
        "merges": [tuple(pair) for pair in tokenizer.merges],
        "there and back": tokenizer.decode(tokenizer.encode("abc, é")),
        "facts": facts,
        "training": any(module.training for module in model.modules()),
        "logits": model(torch.tensor([[97, 98, 99]])).detach(),
    }


# %% [markdown]
# ## Exercise 5 · `save_model` and `load_model`
#
# The checkpoint of `train` belongs to the run: it holds moments and random states, and it can be read only by the
# program that wrote it. What you give away is another file. It has everything that is needed to write with the model,
# and nothing else. That is more than the weights: without the tokenizer's merges the numbers mean nothing, and without the
# settings nobody knows how many heads there are.
#
# The format is safetensors (you read it byte by byte in [Lab
# 3.4](../ch03_transformer/lab04_load_pretrained.ipynb)). Its header has room for texts, and there the rest goes.
# The format itself does not notice a changed bit in a weight. So yours has a digest, over everything: values, names,
# shapes, and the texts.
#
# *Difficulty 4 of 5 · 40 minutes · 9 points*


# %% exercise="save_model" difficulty=4 minutes=40 forbid=["pickle", "torch.save", "torch.load"]
def digest(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> str:
    """The SHA-256 of a model's file, in hex digits.

    The hash runs over these bytes, one after the other. For each tensor, in the sorted order of the names: the list ``[name,
    dtype, shape]`` as JSON, such as ``["w", "torch.float32", [2, 3]]``, then the bytes of its numbers, row by row. After the
    last tensor: the metadata without its entry "digest", if it has one, as a JSON object with sorted keys. JSON is what
    ``json.dumps`` makes with its ordinary separators, as UTF-8.

    Args:
        tensors: of any dtype and shape, contiguous or not, in any order.
        metadata: texts by name.
    """
    ### BEGIN SOLUTION
    found = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous()
        found.update(json.dumps([name, str(values.dtype), list(values.shape)]).encode())
        found.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    others = {key: text for key, text in metadata.items() if key != "digest"}
    found.update(json.dumps(others, sort_keys=True).encode())
    return found.hexdigest()
    ### END SOLUTION


def save_model(path: str, model: nn.Module, tokenizer: Tokenizer, config: GPTConfig, facts: dict[str, Any]) -> None:
    """Write a model and all that is needed to use it into one file in the safetensors format.

    The tensors are those of ``model.state_dict()``. The metadata are five texts: "format", which is FORMAT; "config", the
    settings as a JSON object; "tokenizer", the JSON object ``{"merges": [[101, 110], ...]}``; "facts" as JSON; and "digest",
    of `digest`, over all of this.

    An older file of that name is replaced in one go: at any moment there is a complete file under that name, the old or the
    new one, also if writing fails. When all went well, the folder holds no other file than before and this one.

    Args:
        path: where to; its folder exists.
        model: a GPT with float32 parameters, on any device, in any memory order; it does not change.
        tokenizer: its merges are kept.
        config: the settings of the model.
        facts: anything that JSON can hold: where the text came from, how long the training was, what the losses are.
    """
    ### BEGIN SOLUTION
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "config": json.dumps(asdict(config)),
        "tokenizer": json.dumps({"merges": tokenizer.merges}),
        "facts": json.dumps(facts),
    }
    metadata["digest"] = digest(tensors, metadata)
    part = os.fspath(path) + ".part"
    save_file(tensors, part, metadata)
    os.replace(part, path)
    ### END SOLUTION


def load_model(path: str) -> tuple[nn.Module, Tokenizer, dict[str, Any]]:
    """Read what `save_model` wrote.

    Returns:
        (model, tokenizer, facts). The model is a GPT of the saved settings, in evaluation mode.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: with the name of the file in the message, if it is not a safetensors file or is cut off; one of the five
            texts is missing, or there is no metadata at all; the format is not FORMAT; the digest is not right, because a weight
            or a text has changed; the settings, the tokenizer or the facts cannot be read; the tokenizer has another number of
            tokens than the settings; or a tensor is missing, is one too many, or has another shape than in a GPT of these
            settings.
    """
    ### BEGIN SOLUTION
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no file {path}; save_model writes one")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise ValueError(f"{path} is no safetensors file, or it is cut off: {error}") from None
    missing = [name for name in ("format", "config", "tokenizer", "facts", "digest") if name not in metadata]
    if missing:
        raise ValueError(f"{path} was not written by save_model: it has no {', '.join(missing)}")
    if metadata["format"] != FORMAT:
        raise ValueError(f"{path} has the format {metadata['format']!r}; this program reads {FORMAT!r}")
    if digest(tensors, metadata) != metadata["digest"]:
        raise ValueError(f"{path} is damaged: it has changed since it was written; take another copy")
    try:
        config = GPTConfig(**json.loads(metadata["config"]))
        tokenizer = Tokenizer(json.loads(metadata["tokenizer"])["merges"])
        facts = json.loads(metadata["facts"])
        model = GPT(config)
    except Exception as error:
        raise ValueError(f"{path} has settings that cannot be read: {error}") from None
    if tokenizer.vocab_size != config.vocab_size:
        raise ValueError(f"{path}: the tokenizer has {tokenizer.vocab_size} tokens, the model {config.vocab_size}")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} has other weights than its settings ask for: {error}") from None
    model.eval()
    return model, tokenizer, facts
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Write <code>digest</code> first, and check it against the number in the visible test.
# <code>hashlib.sha256()</code> has <code>update</code> and <code>hexdigest</code>. The bytes of a tensor:
# <code>contiguous()</code>, one axis, <code>view(torch.uint8)</code>, <code>numpy().tobytes()</code>. Writing to another name
# and renaming you know from Lab 4.3.</details>
# <details><summary>A bigger nudge</summary><code>save_file(tensors, path, metadata)</code> wants contiguous tensors and texts.
# <code>safe_open(path, framework="pt")</code> gives a file with <code>metadata()</code>, which may be None, <code>keys()</code>
# and <code>get_tensor(name)</code>. Each kind of damage has an error type of its own: catch what the libraries raise, and raise
# a ValueError that begins with the path. <code>load_state_dict</code> complains about names and shapes by
# itself.</details>

# %% test="save_model" points=5
from coursekit import check

import contextlib
import json

import safetensors.torch
import torch

tensors = {"b": torch.tensor(7), "a": torch.tensor([1.0, 2.0])}
check.equal(
    digest(tensors, {"format": "x"}),
    "bb7110c7eddc928a3ede4b728620255032420b9432d8f7e34a89155d684bef6f",
    "the digest of two small tensors and one text, which sha256sum computes as well",
)
check.equal(
    digest(tensors, {"format": "x", "digest": "y"}), digest(tensors, {"format": "x"}), "the digest leaves itself out"
)
one, other = (digest(tensors, dict(pairs)) for pairs in ([("a", "1"), ("b", "2")], [("b", "2"), ("a", "1")]))
check.equal(one, other, "the order of the metadata plays no part in the digest")
shape = {"vocab_size": 258, "context": 5, "d_model": 4, "n_layers": 1, "n_heads": 2, "d_ff": 6}
merges, facts = [(97, 98), (256, 99)], {"text": "a play", "losses": [3.5, 2.25]}
kept = saved(shape, merges, facts)
check.equal(kept["files"], ["model.safetensors"], "the files in the folder")


def texts_in(content):
    """The metadata of a safetensors file, each text read as JSON where it is JSON."""
    texts = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    for name in texts:
        with contextlib.suppress(ValueError):
            texts[name] = json.loads(texts[name])
    return texts


found = texts_in(kept["content"])
check.equal(found.get("tokenizer"), {"merges": [[97, 98], [256, 99]]}, "the tokenizer in the file")
check.equal(found.get("config"), shape | {"dropout": 0.0, "eps": 1e-5, "seed": 0}, "the settings in the file")
check.equal(found.get("facts"), facts, "the facts in the file")
back = loaded(kept["content"])
check.equal(back["error"], "", "what save_model wrote is read by load_model")
for name, value in kept["state"].items():
    check.equal(back["state"][name], value, f"{name}, saved and loaded")
check.equal([back["merges"], back["facts"]], [merges, facts], "the merges and the facts, saved and loaded")
check.equal(back["training"], False, "whether the loaded model is in training mode")
### BEGIN HIDDEN TESTS
import hashlib

import numpy as np


def by_hand(tensors, metadata):
    pieces = []
    for name in sorted(tensors):
        array = tensors[name]
        kind = "torch." + str(array.dtype)
        pieces += [json.dumps([name, kind, list(array.shape)]).encode(), np.ascontiguousarray(array).tobytes()]
    pieces.append(json.dumps({key: metadata[key] for key in sorted(metadata) if key != "digest"}).encode())
    return hashlib.sha256(b"".join(pieces)).hexdigest()


draw = torch.Generator().manual_seed(check.seed(50))
wild = {
    "blocks.10.w": torch.randn(3, 4, generator=draw).T,
    "blocks.2.w": torch.randn(2, 3, 2, generator=draw, dtype=torch.float64).transpose(0, 2),
    "a": torch.randn((), generator=draw),
    "é": torch.arange(5)[::2],
    "empty": torch.zeros(0, 3),
    "A": torch.tensor([True, False]),
}
texts = {"z": "1", "format": "x é", "a": "{}", "digest": "whatever"}
want = by_hand({name: value.numpy() for name, value in wild.items()}, texts)
check.equal(digest(wild, texts), want, "the digest of tensors of many kinds, hashed with NumPy")
check.equal(
    digest(dict(reversed(wild.items())), dict(reversed(texts.items()))), want, "the order of the dicts plays no part"
)
check.equal(digest({}, {}), by_hand({}, {}), "the digest of nothing at all")
check.equal(digest({"h": torch.zeros(2, dtype=torch.bfloat16)}, {}), hashlib.sha256(b'["h", "torch.bfloat16", [2]]\0\0\0\0{}').hexdigest(), "the digest of two numbers in bfloat16")  # fmt: skip
small = shape
for shape, merges, facts, times in (
    (small | {"dropout": 0.25, "eps": 1e-4, "seed": 5, "n_layers": 2}, [(97, 98), (256, 99)], {}, 1),
    (small | {"vocab_size": 256, "d_model": 6, "n_heads": 3}, [], {"é": [None, True, {"x": 1e-9}]}, 2),
    (small | {"vocab_size": 259}, [(195, 169), (256, 32), (97, 97)], {"steps": 10**6}, 3),
):
    kept = saved(shape, merges, facts, seed=check.seed(51), times=times)
    what = f"{shape['n_layers']} blocks, {len(merges)} merges, saved {times} times"
    check.equal(kept["files"], ["model.safetensors"], f"{what}: the files in the folder")
    for fact in ("whoever has the old file open still reads the old one", "the facts are as they were"):
        check.equal(kept[fact], True, f"{what}: {fact}")
    tensors = safetensors.torch.load(kept["content"])
    check.equal(sorted(tensors), sorted(kept["state"]), f"{what}: the names of the tensors in the file")
    for name, value in kept["state"].items():
        check.equal(tensors[name], value.contiguous(), f"{what}: {name} in the file")
    length = int.from_bytes(kept["content"][:8], "little")
    texts = json.loads(kept["content"][8 : 8 + length])["__metadata__"]
    names = ["config", "digest", "facts", "format", "tokenizer"]
    check.equal(sorted(texts), names, f"{what}: the names of the metadata")
    check.equal(texts["format"], "mini-gpt/1", f"{what}: the format")
    settings = {"dropout": 0.0, "eps": 1e-5, "seed": 0} | shape
    check.equal(json.loads(texts["config"]), settings, f"{what}: the settings")
    check.equal(json.loads(texts["tokenizer"]), {"merges": [list(pair) for pair in merges]}, f"{what}: the merges")
    check.equal(json.loads(texts["facts"]), facts, f"{what}: the facts")
    check.equal(texts["digest"], by_hand({n: t.numpy() for n, t in tensors.items()}, texts), f"{what}: the digest")
    back = loaded(kept["content"])
    check.equal(back["error"], "", f"{what}: it can be loaded")
    for name, value in kept["state"].items():
        check.equal(back["state"][name], value, f"{what}: {name}, saved and loaded")
    found = [back["config"], back["merges"], back["there and back"], back["facts"], back["training"]]
    check.equal(found, [settings, merges, "abc, é", facts, False], f"{what}: settings, merges, a text, facts, mode")
found = saving_fails()
check.equal(
    found["the older file is as it was"],
    True,
    "the disk is full when a second model is saved: the older file is as it was",
)
check.equal(found["error"], "OSError", "the disk is full: the error")
### END HIDDEN TESTS

# %% test="save_model" points=4
from coursekit import check

import json

shape = {"vocab_size": 257, "context": 3, "d_model": 4, "n_layers": 1, "n_heads": 2, "d_ff": 6}
content = saved(shape, [(97, 98)], {"steps": 3})["content"]
check.equal(loaded(None)["error"], "FileNotFoundError", "there is no file: the error")
check.equal(loaded(b"some text"), {"error": "ValueError", "names the file": True}, "a file that is something else")
check.equal(loaded(content[:-100]), {"error": "ValueError", "names the file": True}, "the last 100 bytes are missing")
flipped = bytearray(content)
flipped[-33] ^= 1
check.equal(loaded(bytes(flipped)), {"error": "ValueError", "names the file": True}, "one bit of a weight has changed")
### BEGIN HIDDEN TESTS
import hashlib
import random

import safetensors.torch
import torch

refused = {"error": "ValueError", "names the file": True}
for cut in (0, 7, 8, 300, len(content) - 1):
    check.equal(loaded(content[:cut], "half.bin"), refused, f"only the first {cut} bytes are there")
check.equal(loaded(content + b"\0"), refused, "one byte too many at the end")
dice = random.Random(check.seed(60))
length = 8 + int.from_bytes(content[:8], "little")
places = [dice.randrange(8, length) for _ in range(10)] + [dice.randrange(length, len(content)) for _ in range(10)]
for place in places:
    flipped = bytearray(content)
    flipped[place] ^= 1 << dice.randrange(8)
    check.equal(loaded(bytes(flipped)), refused, f"one bit of byte {place} of {len(content)} has changed")

tensors = safetensors.torch.load(content)
texts = json.loads(content[8:length])["__metadata__"]


def made(tensors=tensors, leave_out="", keep_digest=False, **changes):
    """A file with other contents, with a digest that is right for them."""
    metadata = {name: text for name, text in (texts | changes).items() if name != "digest"}
    pieces = []
    for name in sorted(tensors):
        values = tensors[name].contiguous()
        pieces += [json.dumps([name, str(values.dtype), list(values.shape)]).encode(), values.numpy().tobytes()]
    pieces.append(json.dumps(metadata, sort_keys=True).encode())
    metadata["digest"] = texts["digest"] if keep_digest else hashlib.sha256(b"".join(pieces)).hexdigest()
    metadata.pop(leave_out, None)
    return safetensors.torch.save(tensors, metadata or None)


back = loaded(made())
check.equal(
    [back["error"], back.get("facts")], ["", {"steps": 3}], "a file that another program made by the same rules"
)
settings = json.loads(texts["config"])
wrong = {
    "another format": {"format": "mini-gpt/2"},
    "settings that are no JSON": {"config": "{"},
    "settings with an unknown name": {"config": json.dumps(settings | {"n_experts": 8})},
    "settings without a name": {"config": json.dumps({k: v for k, v in settings.items() if k != "d_ff"})},
    "a tokenizer that is no JSON": {"tokenizer": "merges"},
    "a tokenizer without merges": {"tokenizer": "{}"},
    "a tokenizer without its merge": {"tokenizer": '{"merges": []}'},
    "a tokenizer with one merge more than the settings say": {"tokenizer": '{"merges": [[97, 98], [98, 99]]}'},
    "facts that are no JSON": {"facts": "{'steps': 3}"},
    "settings with a larger context than the table": {"config": json.dumps(settings | {"context": 4})},
    "settings with a block more": {"config": json.dumps(settings | {"n_layers": 2})},
    "settings with a block less": {"config": json.dumps(settings | {"n_layers": 0})},
    "settings with fewer tokens than the table, and a tokenizer to match": {
        "config": json.dumps(settings | {"vocab_size": 256}),
        "tokenizer": '{"merges": []}',
    },
}
for what, changes in wrong.items():
    check.equal(loaded(made(**changes)), refused, f"{what}, with a right digest")
for what, changes in (("the merges", {"tokenizer": '{"merges": [[97, 99]]}'}), ("a fact", {"facts": '{"steps": 4}'}), ("the number of heads", {"config": json.dumps(settings | {"n_heads": 1})})):  # fmt: skip
    check.equal(loaded(made(**changes, keep_digest=True)), refused, f"{what} changed, and the digest is the old one")
for name in ("format", "config", "tokenizer", "facts", "digest"):
    check.equal(loaded(made(leave_out=name)), refused, f"the text {name!r} is missing")
check.equal(loaded(safetensors.torch.save(tensors)), refused, "a safetensors file without any metadata")
fewer = {name: value for name, value in tensors.items() if name != "final_norm.bias"}
check.equal(loaded(made(fewer)), refused, "a tensor is missing")
check.equal(loaded(made(tensors | {"head": torch.zeros(257, 4)})), refused, "a tensor is one too many")
check.equal(loaded(made(tensors | {"final_norm.bias": torch.zeros(1)})), refused, "a tensor has another shape")
swapped = {{"blocks.0.attention.w_q": "blocks.0.attention.w_k", "blocks.0.attention.w_k": "blocks.0.attention.w_q"}.get(name, name): value for name, value in tensors.items()}  # fmt: skip
check.equal(loaded(made(swapped, keep_digest=True)), refused, "two tensors of one shape have changed their names")
missing = loaded(None, "nowhere.bin")
check.equal(missing, {"error": "FileNotFoundError", "names the file": True}, "no file: the message names it")
### END HIDDEN TESTS


# %% alternative="save_model"
def digest(tensors, metadata):
    text = b""
    for name, value in sorted(tensors.items()):
        flat = value.detach().cpu().contiguous().flatten()
        numbers = bytes(flat.view(torch.uint8).tolist()) if flat.numel() else b""
        text += f'[{json.dumps(name)}, "{value.dtype}", {list(value.shape)}]'.encode() + numbers
    rest = {key: metadata[key] for key in sorted(set(metadata) - {"digest"})}
    return hashlib.new("sha256", text + json.dumps(rest).encode("utf-8")).hexdigest()


def save_model(path, model, tokenizer, config, facts):
    from safetensors.torch import save

    state = {
        name: parameter.detach().clone(memory_format=torch.contiguous_format)
        for name, parameter in model.named_parameters()
    }
    texts = {"format": FORMAT, "config": json.dumps(vars(config)), "facts": json.dumps(facts)}
    texts["tokenizer"] = json.dumps({"merges": [list(pair) for pair in tokenizer.merges]})
    content = save(state, texts | {"digest": digest(state, texts)})
    handle, name = tempfile.mkstemp(dir=os.path.dirname(path))
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    os.rename(name, path)


def load_model(path):
    from safetensors.torch import load

    with open(path, "rb") as file:
        content = file.read()
    try:
        tensors = load(content)
        texts = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        assert texts["format"] == FORMAT, "format"
        assert texts["digest"] == digest(tensors, texts), "digest"
        config, facts = GPTConfig(**json.loads(texts["config"])), json.loads(texts["facts"])
        tokenizer, model = Tokenizer(json.loads(texts["tokenizer"])["merges"]), GPT(config)
        assert tokenizer.vocab_size == config.vocab_size, "tokens"
        own = model.state_dict()
        assert {n: v.shape for n, v in own.items()} == {n: v.shape for n, v in tensors.items()}, "shapes"
    except Exception as error:
        raise ValueError(f"{path}: {error!r}") from None
    for name in own:
        own[name].copy_(tensors[name])
    return model.train(False), tokenizer, facts


# %% mistakes="save_model"
{
    "the digest is over the values alone: names, shapes and dtypes may change": (
        "        found.update(json.dumps([name, str(values.dtype), list(values.shape)]).encode())\n",
        "",
    ),
    "the digest leaves the metadata out": ("    found.update(json.dumps(others, sort_keys=True).encode())\n", ""),
    "a changed byte is not noticed: the digest is not compared": (
        'if digest(tensors, metadata) != metadata["digest"]:',
        "if False:",
    ),
    "the digest leaves the values out": (
        "        found.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())\n",
        "",
    ),
    "the digest depends on the order in which the tensors are listed": (
        "for name in sorted(tensors):",
        "for name in tensors:",
    ),
    "the digest depends on the order of the metadata": ("sort_keys=True", "sort_keys=False"),
    "the digest includes the digest": ('if key != "digest"', "if True"),
    "only the last tensor is hashed": (
        "        found.update(json.dumps([name",
        "        found = hashlib.sha256()\n        found.update(json.dumps([name",
    ),
    "a tensor that is not contiguous is hashed in the order of its memory": (
        "values = tensors[name].detach().cpu().contiguous()",
        "values = tensors[name].detach().cpu()\n"
        "        values = values.as_strided(values.shape, torch.empty(values.shape).stride(), 0)",
    ),
    "the digest is that of another hash, SHA-512": ("hashlib.sha256()", "hashlib.sha512()"),
    "the merges of the tokenizer are not saved": (
        'json.dumps({"merges": tokenizer.merges})',
        'json.dumps({"merges": []})',
    ),
    "the settings are not saved as JSON but as Python writes them": (
        "json.dumps(asdict(config))",
        "str(asdict(config))",
    ),
    "the facts are not saved": ("json.dumps(facts)", "json.dumps({})"),
    "there is no digest in the file": ('    metadata["digest"] = digest(tensors, metadata)\n', ""),
    "the file is written in place, so that a failure leaves half of it": [
        ("save_file(tensors, part, metadata)", "save_file(tensors, path, metadata)"),
        ("    os.replace(part, path)\n", ""),
    ],
    "the old file is removed before the new one is written": (
        "    save_file(tensors, part, metadata)\n",
        "    if os.path.exists(path):\n        os.remove(path)\n    save_file(tensors, part, metadata)\n",
    ),
    "the file under the other name stays": (
        "    os.replace(part, path)",
        '    with open(part, "rb") as source, open(f"{part}.copy", "wb") as target:\n'
        "        target.write(source.read())\n"
        '    os.replace(f"{part}.copy", path)',
    ),
    "an older file is never replaced": (
        "    os.replace(part, path)",
        "    os.remove(part) if os.path.exists(path) else os.replace(part, path)",
    ),
    "weights that are not contiguous are not put into order, and cannot be written": (
        "value.detach().cpu().contiguous() for name",
        "value.detach().cpu() for name",
    ),
    "another format is read as if it were this one": ('if metadata["format"] != FORMAT:', "if False:"),
    "what is missing in the metadata ends in a KeyError": ("    if missing:\n", "    if False:\n"),
    "a file without metadata ends in a TypeError": ("metadata = file.metadata() or {}", "metadata = file.metadata()"),
    "a file that is something else ends in whatever error the library has": (
        '        raise ValueError(f"{path} is no safetensors file, or it is cut off: {error}") from None',
        "        raise",
    ),
    "a missing file is called no safetensors file": (
        '    if not os.path.exists(path):\n        raise FileNotFoundError(f"there is no file {path}; save_model writes one")\n',
        "",
    ),
    "the message for a missing file does not name it": (
        'FileNotFoundError(f"there is no file {path}; save_model writes one")',
        'FileNotFoundError("there is no such file")',
    ),
    "the message for a damaged file does not name it": (
        'f"{path} is damaged: it has changed since it was written; take another copy"',
        '"the file is damaged"',
    ),
    "settings that cannot be read end in whatever error Python has": (
        '        raise ValueError(f"{path} has settings that cannot be read: {error}") from None',
        "        raise",
    ),
    "the tokenizer and the model may have different numbers of tokens": (
        "if tokenizer.vocab_size != config.vocab_size:",
        "if False:",
    ),
    "a tokenizer with more tokens than the model is accepted": (
        "tokenizer.vocab_size != config.vocab_size",
        "tokenizer.vocab_size < config.vocab_size",
    ),
    "missing and surplus tensors are passed over": (
        "model.load_state_dict(tensors)",
        "model.load_state_dict(tensors, strict=False)",
    ),
    "weights that do not fit end in a RuntimeError": (
        '        raise ValueError(f"{path} has other weights than its settings ask for: {error}") from None',
        "        raise",
    ),
    "the weights are never loaded: the model has its first ones": (
        "        model.load_state_dict(tensors)\n",
        "        GPT(config).load_state_dict(tensors)\n",
    ),
    "the loaded model is in training mode": ("    model.eval()\n", ""),
    "the facts are not returned": ("return model, tokenizer, facts", "return model, tokenizer, {}"),
}


# %% given side="learner"
class Judge(nn.Module):
    """A language model for checks: its answer depends on the last token, on the first of its window and on the position."""

    def __init__(self, last: torch.Tensor, first: torch.Tensor, place: torch.Tensor):
        super().__init__()
        self.config = GPTConfig(len(last), len(place), 4, 1, 1, 4)
        self.last, self.first, self.place = nn.Parameter(last), nn.Parameter(first), nn.Parameter(place)
        self.dropout, self.frozen, self.gradients = nn.Dropout(0.5), nn.Dropout(0.5), False

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if not 1 <= ids.shape[1] <= self.config.context:
            raise ValueError(f"{ids.shape[1]} tokens do not fit into a context of {self.config.context}")
        self.gradients = self.gradients or torch.is_grad_enabled()
        return self.dropout(self.last[ids] + self.first[ids[:, :1]] + self.place[: ids.shape[1]])


def judged(
    tables: list[torch.Tensor], ids_list: list[list[int]], training: bool = False, **more: Any
) -> dict[str, Any]:
    """For the checks of exercise 6: the perplexity under a `Judge` with these tables, and what else has happened."""
    model = Judge(*tables).train(training)
    model.frozen.train(not training)
    modes = [module.training for module in model.modules()]
    kept, random = [list(ids) for ids in ids_list], torch.get_rng_state()
    found = perplexity_under(model, ids_list, **more)
    return {
        "perplexity": found,
        "every part of the model is in the mode that it had": modes == [module.training for module in model.modules()],
        "nothing is kept for a backward pass": not model.gradients,
        "the lists are as they were": kept == [list(ids) for ids in ids_list],
        "torch's own random state is as it was": torch.equal(random, torch.get_rng_state()),
        "the result is a float": type(found) is float,
    }


# %% [markdown]
# ## Exercise 6 · `blame`
#
# The text is bad. Is it the checkpoint or the sampler? Four numbers help.
#
# - *Repetition rate*: which share of the n-grams of a text occurred before in it. Greedy decoding runs in circles, and
#   this number goes to 1.
# - *Distinct-n*: the same question over several texts at once. A sampler that writes one text ten times has a low one.
# - *Perplexity under a second model*: how surprising a text is to another model. Noise is surprising. Be careful at the
#   other end: a text that says one word for ever is not surprising at all.
# - *The validation loss* of the checkpoint, beside what a token costs if one knows only how frequent it is.
#
# None of them is a verdict. `blame` puts them together by a simple rule, and the rule is written down.
#
# *Difficulty 3 of 5 · 35 minutes · 8 points*


# %% exercise="blame" difficulty=3 minutes=35
def repetition_rate(ids: list[int], n: int) -> float:
    """The share of the n-grams in a text that occurred before in the same text.

    Args:
        ids: tokens; an n-gram is n neighbours, and n-grams overlap.
        n: 1 or more.

    Returns:
        From 0.0 (each n-gram is new) to less than 1.0; 0.0 for a text that is shorter than n.

    Raises:
        ValueError: if n is less than 1.
    """
    ### BEGIN SOLUTION
    if n < 1:
        raise ValueError(f"n is 1 or more, got {n}")
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
    ### END SOLUTION


def distinct_n(samples: list[list[int] | str], n: int) -> float:
    """The number of different n-grams in several samples, divided by the number of all their n-grams.

    Args:
        samples: lists of tokens, or texts. A text counts as its words, cut at white space. An n-gram lies within one sample;
            the same n-gram in two samples is one different n-gram.
        n: 1 or more.

    Returns:
        More than 0.0, at most 1.0; 1.0 if there is no n-gram at all.

    Raises:
        ValueError: if n is less than 1.

    Source: Li, Galley, Brockett, Gao and Dolan, A Diversity-Promoting Objective Function for Neural Conversation Models, 2016,
    section 5.2. They divide by the number of words; the number of n-grams makes the largest value 1.
    """
    ### BEGIN SOLUTION
    if n < 1:
        raise ValueError(f"n is 1 or more, got {n}")
    grams = []
    for sample in samples:
        tokens = sample.split() if isinstance(sample, str) else sample
        grams += [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0
    ### END SOLUTION


def perplexity_under(model: nn.Module, ids_list: list[list[int]], given: int = 1) -> float:
    """The perplexity of some texts under a model, which is usually another one than that which wrote them.

    Each token after the first ``given`` ones of its text is judged by its probability after the tokens before it, as far as they
    fit into the context: of a longer beginning the model sees the last ``model.config.context`` tokens, as in `stream`.

    Args:
        model: takes ids (B, T), returns logits (B, T, V). It is asked within ``asking(model)``. The windows of a text may be
            asked together.
        ids_list: the texts as tokens of that model; a text may be as short as it likes.
        given: how many tokens at the beginning of each text are only read: the prompt. At least one, because the first token has
            nothing before it.

    Returns:
        exp of the mean surprise (-ln of the probability) over all judged tokens of all texts, each with the same weight; inf if
        one of them is impossible, or if the result is too large for a float (`math.exp` raises an error there).

    Raises:
        ValueError: if ``given`` is less than 1, or there is no token to judge.
    """
    ### BEGIN SOLUTION
    if given < 1:
        raise ValueError(f"the first token has nothing before it, so given is 1 or more; got {given}")
    context, device = model.config.context, next(model.parameters()).device
    total, count = torch.zeros((), dtype=torch.float64), 0
    for ids in ids_list:
        if len(ids) <= given:
            continue
        row = torch.tensor(ids, device=device)
        with asking(model):
            logits = model(row[None, :context])[0]  # position i is about token i + 1
            if len(row) > context + 1:
                windows = row[1:-1].unfold(0, context, 1)  # those of tokens context + 1, context + 2, ...
                logits = torch.cat([logits, model(windows)[:, -1]])
        log_p = logits.double().log_softmax(dim=-1)
        judged = log_p.gather(-1, row[1:, None])[given - 1 :]  # what the last position says has no answer
        total = total - judged.sum().cpu()
        count += len(judged)
    if count == 0:
        raise ValueError("there is no token to judge: every text is as short as what is given")
    return float((total / count).exp())
    ### END SOLUTION


def blame(validation: float, unigram: float, measured: dict[str, dict[str, float]], used: str) -> str:
    """Is it the checkpoint or the sampler?

    Args:
        validation: the loss of a token of the validation part under the checkpoint, in nats.
        unigram: what the same tokens cost if only their frequencies are known, in nats.
        measured: numbers for four kinds of text or more: "text" (real text), "greedy" (temperature 0), "plain" (temperature 1
            and nothing else), "truncated" (top-k or top-p), and others by any name. Each has "repetition" and "perplexity" (under
            a second model).
        used: whose text is bad: one of these names, not "text".

    Returns:
        By these rules, the first that applies:
            "checkpoint", if the validation loss is 0.9 times the unigram loss or more: the model has hardly learned anything.
            "neither", if the numbers of ``used`` are not bad.
            "sampler", if those of "greedy", "plain" or "truncated" are not bad: the same weights can do better.
            "checkpoint" otherwise.
        Numbers are bad if the repetition is more than 0.25 above that of the real text, or the perplexity more than twice that
        of the real text.

    Raises:
        ValueError: if one of the four names is missing in ``measured``, or ``used`` is not there or is "text"; the message
            names it.
    """
    ### BEGIN SOLUTION
    for name in ("text", "greedy", "plain", "truncated", used):
        if name not in measured:
            raise ValueError(f"there are no numbers for {name!r}")
    if used == "text":
        raise ValueError("'text' is what the others are compared with; name a sampler")
    real = measured["text"]

    def bad(name: str) -> bool:
        numbers = measured[name]
        return numbers["repetition"] > real["repetition"] + 0.25 or numbers["perplexity"] > 2 * real["perplexity"]

    if validation >= 0.9 * unigram:
        return "checkpoint"
    if not bad(used):
        return "neither"
    return "checkpoint" if all(bad(name) for name in ("greedy", "plain", "truncated")) else "sampler"
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>A set of tuples counts what is different. For the perplexity add up surprises and
# count tokens, over all texts, and divide once at the end. First write it with one window for each token; it may be slow and
# right.</details>
# <details><summary>A bigger nudge</summary>Up to <code>context</code> tokens one pass answers everything: position i is about
# token i + 1. Beyond that each token needs a window of its own, which ends just before it; <code>unfold</code> cuts them all.
# For <code>blame</code> write a small function that says whether one entry is bad, and then the four rules in their
# order.</details>

# %% test="blame" points=3
from coursekit import check

check.close(repetition_rate([1, 2, 3, 1, 2, 4], 2), 0.2, "1 2 3 1 2 4: of the five pairs one, (1, 2), occurred before")
check.close(repetition_rate([7, 7, 7, 7], 1), 0.75, "7 7 7 7: three of four tokens occurred before")
check.equal(repetition_rate([1, 2], 3), 0.0, "two tokens hold no n-gram of three")
check.close(
    distinct_n([[1, 2, 3, 1, 2], [1, 2]], 2), 0.6, "(1 2 3 1 2) and (1 2): five pairs, three different; none across"
)
check.close(
    distinct_n(["to be or  not to be", "to be"], 1), 0.5, "'to be or  not to be' and 'to be': 8 words, 4 different"
)
check.raises(ValueError, lambda: repetition_rate([1, 2], 0), "n = 0")
### BEGIN HIDDEN TESTS
from collections import Counter

import torch

check.close(repetition_rate([1, 2, 1, 3, 1, 2, 1], 3), 0.2, "1 2 1 3 1 2 1: (1, 2, 1) comes back, one of five triples")
check.close(repetition_rate([5] * 10, 4), 6 / 7, "ten fives: of seven 4-grams six occurred before")
check.close(repetition_rate([1, 2, 2, 1], 2), 0.0, "1 2 2 1: (1, 2) is not (2, 1)")
check.close(distinct_n([[1, 2], [3, 4], [2, 3]], 2), 1.0, "three pairs, all different")
check.close(distinct_n([[1, 2, 3], [], [9]], 3), 1.0, "one triple among short samples")
check.close(distinct_n(["a b\na\tb  a b", "b a"], 2), 1 / 3, "words at any white space: six pairs, two different")
check.close(distinct_n([[1, 1], [1, 1], [1, 1, 1]], 2), 0.25, "the same pair in all samples: one of four")
check.close(distinct_n([[1, 2, 3], "a b a"], 1), 5 / 6, "tokens and words side by side")
for n in (0, -1):
    check.raises(ValueError, lambda n=n: repetition_rate([1, 2, 3], n), f"repetition with n = {n}")
    check.raises(ValueError, lambda n=n: distinct_n([[1, 2, 3]], n), f"distinct with n = {n}")
check.equal([repetition_rate([], 1), distinct_n([], 1), distinct_n([[], ""], 2)], [0.0, 1.0, 1.0], "nothing at all")
draw = torch.Generator().manual_seed(check.seed(70))
for size, symbols in ((63, 5), (200, 30), (6, 3)):
    samples = [torch.randint(symbols, (length,), generator=draw).tolist() for length in (size, size // 2, size)]
    for n in (1, 2, 4):
        counted = [Counter(zip(*(sample[i:] for i in range(n)), strict=False)) for sample in samples]
        total, together = sum(counted[0].values()), sum(counted, Counter())
        what = f"{size} tokens of {symbols} kinds, n = {n}"
        check.close(
            repetition_rate(samples[0], n), sum(c - 1 for c in counted[0].values()) / total, f"{what}: repetition"
        )
        check.close(distinct_n(samples, n), len(together) / sum(together.values()), f"{what}: distinct, three samples")
        words = [" ".join(f"w{token}" for token in sample) for sample in samples]
        check.close(
            distinct_n(words, n), len(together) / sum(together.values()), f"{what}: distinct, the samples as words"
        )
### END HIDDEN TESTS

# %% test="blame" points=3
from coursekit import check

import torch

# Whatever came before, the next token is 0, 1 or 2 with probabilities 1/2, 1/4 and 1/4.
halves = torch.tensor([0.5, 0.25, 0.25]).log()
tables = [halves.expand(3, 3), torch.zeros(3, 3), torch.zeros(4, 3)]
found = judged(tables, [[2, 0, 0, 0]])
check.close(found["perplexity"], 2.0, "probabilities 1/2, 1/4, 1/4, the text 2 0 0 0: the first token is not judged")
for fact, holds in list(found.items())[1:]:
    check.equal(holds, True, fact)
check.close(
    judged(tables, [[0, 0, 0, 0], [0, 1]])["perplexity"], 2 ** (5 / 4), "two texts: surprises 1, 1, 1 and 2 bits"
)
check.close(judged(tables, [[1, 1, 1, 0, 0]], given=3)["perplexity"], 2.0, "1 1 1 0 0, of which three tokens are given")
check.raises(ValueError, lambda: judged(tables, [[1], []]), "no token to judge")
### BEGIN HIDDEN TESTS
draw = torch.Generator().manual_seed(check.seed(71))
for V, context, dtype, training in (
    (7, 4, torch.float64, True),
    (11, 1, torch.float64, False),
    (5, 9, torch.float32, True),
):
    tables = [torch.randn(size, V, generator=draw, dtype=dtype) for size in (V, V, context)]
    lengths = (1, 2, context, context + 1, context + 2, 3 * context + 2, 5, 0)
    texts = [torch.randint(V, (length,), generator=draw).tolist() for length in lengths]
    for given in (1, 2, 4):
        surprises = []
        for ids in texts:
            for end in range(given, len(ids)):
                window = ids[max(0, end - context) : end]
                scores = tables[0][window[-1]] + tables[1][window[0]] + tables[2][len(window) - 1]
                surprises.append(float(scores.double().logsumexp(0) - scores[ids[end]].double()))
        what = f"{V} tokens, context {context}, texts of {lengths} tokens, given {given}, training is {training}"
        found = judged(tables, texts, training, given=given)
        check.close(found["perplexity"], float(torch.tensor(surprises).mean().exp()), f"{what}: perplexity", atol=1e-4, rtol=1e-5)  # fmt: skip
        for fact, holds in list(found.items())[1:]:
            check.equal(holds, True, f"{what}: {fact}")
        alone = judged(tables, [texts[5]], training, given=given)["perplexity"]
        again = judged(tables, [texts[5], texts[0], texts[5]], training, given=given)["perplexity"]
        check.close(again, alone, f"{what}: a text twice costs the same as once", rtol=1e-6)
far = [torch.tensor([[0.0, -2000.0]]).expand(2, 2), torch.zeros(2, 2), torch.zeros(3, 2)]
check.close(judged(far, [[0, 0, 0]])["perplexity"], 1.0, "a token that is certain, logits 0 and -2,000")
check.equal(
    judged(far, [[0, 1, 1]])["perplexity"], float("inf"), "surprises of 2,000: more than a float can hold is inf"
)
sure = [torch.tensor([[0.0, -float("inf")]]).expand(2, 2), torch.zeros(2, 2), torch.zeros(3, 2)]
check.equal(judged(sure, [[0, 0, 1, 0]])["perplexity"], float("inf"), "an impossible token")
for given in (0, -1):
    check.raises(ValueError, lambda given=given: judged(far, [[0, 0]], given=given), f"given = {given}")
for texts in ([], [[1]], [[]], [[0, 0], [1, 0]]):
    given = 2 if texts and len(texts[0]) == 2 else 1
    check.raises(
        ValueError, lambda t=texts, g=given: judged(far, t, given=g), f"nothing to judge in {texts}, given {given}"
    )
### END HIDDEN TESTS

# %% test="blame" points=2
from coursekit import check

good, circles, noise = ({"repetition": r, "perplexity": p} for r, p in ((0.25, 30.0), (0.75, 3.0), (0.25, 90.0)))
real = {"text": {"repetition": 0.25, "perplexity": 20.0}}
mixed = real | {"greedy": circles, "plain": noise, "truncated": good}
both = mixed | {"odd": {"repetition": 0.75, "perplexity": 90.0}}
check.equal(
    blame(4.0, 5.0, both, "odd"), "sampler", "the text of 'odd' is bad in both ways, that of 'truncated' is not"
)
check.equal(
    blame(4.0, 5.0, mixed, "greedy"), "sampler", "greedy runs in circles, and the truncated sampler writes well"
)
check.equal(
    blame(4.0, 5.0, mixed, "truncated"), "neither", "nothing is wrong with the numbers of the truncated sampler"
)
check.equal(blame(5.5, 5.0, mixed, "greedy"), "checkpoint", "a loss of 5.5, where frequencies alone cost 5.0")
check.equal(blame(4.8, 5.0, mixed, "greedy"), "checkpoint", "a loss of 4.8, where frequencies alone cost 5.0")
all_bad = real | {"greedy": circles, "plain": noise, "truncated": noise}
check.equal(blame(4.0, 5.0, all_bad, "plain"), "checkpoint", "every sampler writes badly")
check.raises(ValueError, lambda: blame(4.0, 5.0, mixed, "beam"), "no numbers for 'beam'", match="beam")
### BEGIN HIDDEN TESTS
for validation, want in ((9.0, "checkpoint"), (8.99, "neither"), (12.0, "checkpoint"), (0.0, "neither")):
    check.equal(
        blame(validation, 10.0, mixed, "truncated"), want, f"a loss of {validation} beside 10 of the frequencies"
    )
for repetition, perplexity, want in (
    (0.45, 20.0, "neither"),
    (0.5, 40.0, "neither"),
    (0.501, 40.0, "sampler"),
    (0.5, 40.1, "sampler"),
    (0.9, 99.0, "sampler"),
    (0.0, 1.0, "neither"),
    (0.25, float("inf"), "sampler"),
):
    case = mixed | {"hot": {"repetition": repetition, "perplexity": perplexity}}
    what = f"repetition {repetition} beside 0.25, perplexity {perplexity} beside 20"
    check.equal(blame(4.0, 5.0, case, "hot"), want, what)
for which in ("greedy", "plain", "truncated"):
    case = real | dict.fromkeys(("greedy", "plain", "truncated", "mine"), noise)
    check.equal(blame(1.0, 5.0, case, "mine"), "checkpoint", "all are bad, and so is the one that was used")
    check.equal(blame(1.0, 5.0, case | {which: good}, "mine"), "sampler", f"only {which} writes well")
    check.equal(blame(1.0, 5.0, case | {which: good}, which), "neither", f"only {which} writes well, and it was used")
check.equal(
    blame(1.0, 5.0, case | {"mine": good}, "mine"), "neither", "the sampler that was used writes well, no other does"
)
check.equal(
    blame(1.0, 5.0, case | {"other": good}, "mine"), "checkpoint", "another sampler that writes well has no part in it"
)
for name in ("text", "greedy", "plain", "truncated"):
    fewer = {key: value for key, value in mixed.items() if key != name} | {"mine": good}
    check.raises(ValueError, lambda fewer=fewer: blame(1.0, 5.0, fewer, "mine"), f"no numbers for {name!r}", match=name)
check.raises(ValueError, lambda: blame(1.0, 5.0, mixed, "text"), "the real text is no sampler", match="text")
### END HIDDEN TESTS


# %% alternative="blame"
def repetition_rate(ids, n):
    if n <= 0:
        raise ValueError("n")
    seen, before, total = set(), 0, 0
    for start in range(max(0, len(ids) - n + 1)):
        gram = str(list(ids[start : start + n]))
        before, total = before + (gram in seen), total + 1
        seen.add(gram)
    return before / max(total, 1)


def distinct_n(samples, n):
    if n <= 0:
        raise ValueError("n")
    found = []
    for sample in samples:
        parts = list(sample) if not hasattr(sample, "split") else sample.split()
        found.extend(zip(*[parts[shift:] for shift in range(n)], strict=False))
    return 1.0 if not found else float(len(dict.fromkeys(found)) / len(found))


def perplexity_under(model, ids_list, given=1):
    # One window for each token.
    if given <= 0:
        raise ValueError("given")
    surprises = []
    with asking(model):
        for ids in ids_list:
            for end in range(given, len(ids)):
                window = torch.tensor([ids[max(0, end - model.config.context) : end]])
                chances = torch.log_softmax(model(window)[0, -1].to(torch.float64), 0)
                surprises.append(-chances[ids[end]])
    if not surprises:
        raise ValueError("nothing")
    return torch.stack(surprises).mean().exp().item()


def blame(validation, unigram, measured, used):
    for name in ["text", "greedy", "plain", "truncated", used]:
        if name not in measured or used == "text":
            raise ValueError(f"what about {name}? ({used})")
    limits = {"repetition": measured["text"]["repetition"] + 0.25, "perplexity": 2 * measured["text"]["perplexity"]}
    fine = {name for name, row in measured.items() if all(row[key] <= limits[key] for key in limits)}
    if validation < 0.9 * unigram and used in fine:
        return "neither"
    return "sampler" if validation < 0.9 * unigram and fine & {"greedy", "plain", "truncated"} else "checkpoint"


# %% mistakes="blame"
{
    "n-grams do not overlap: each begins where the one before it ended": (
        "for i in range(len(ids) - n + 1)]",
        "for i in range(0, len(ids) - n + 1, n)]",
    ),
    "the last n-gram of a text is forgotten": ("range(len(ids) - n + 1)]", "range(len(ids) - n)]"),
    "the share of new n-grams is returned, and not of repeated ones": (
        "return 1 - len(set(grams)) / len(grams)",
        "return len(set(grams)) / len(grams)",
    ),
    "an n-gram that occurs twice is counted twice: also its first occurrence is called a repetition": (
        "return 1 - len(set(grams)) / len(grams) if grams",
        "return sum(grams.count(gram) > 1 for gram in grams) / len(grams) if grams",
    ),
    "the order within an n-gram is ignored": (
        "grams = [tuple(ids[i : i + n])",
        "grams = [tuple(sorted(ids[i : i + n]))",
    ),
    "the repeated n-grams are divided by the number of tokens": (
        "return 1 - len(set(grams)) / len(grams) if grams",
        "return (len(grams) - len(set(grams))) / len(ids) if grams",
    ),
    "a text that is too short for an n-gram divides by zero": (" if grams else 0.0", ""),
    "n-grams cross from one sample into the next": (
        "        grams += [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]\n    return",
        "        grams += list(tokens)\n    grams = [tuple(grams[i : i + n]) for i in range(len(grams) - n + 1)]\n    return",
    ),
    "distinct-n is computed for each sample, and then averaged": (
        "    return len(set(grams)) / len(grams) if grams else 1.0",
        "    rates = [1 - repetition_rate(s.split() if isinstance(s, str) else s, n) for s in samples]\n"
        "    return sum(rates) / len(rates) if rates else 1.0",
    ),
    "the different n-grams of each sample are added up, so that what two samples share counts twice": (
        "    return len(set(grams)) / len(grams) if grams else 1.0",
        "    own = sum(len({tuple(t[i : i + n]) for i in range(len(t) - n + 1)})\n"
        "              for t in (s.split() if isinstance(s, str) else s for s in samples))\n"
        "    return own / len(grams) if grams else 1.0",
    ),
    "distinct-n divides by the number of tokens": (
        "return len(set(grams)) / len(grams) if grams",
        "return len(set(grams)) / sum(len(s.split() if isinstance(s, str) else s) for s in samples) if grams",
    ),
    "all pairs of tokens count, and not only neighbours": (
        "grams += [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]",
        "grams += list(__import__('itertools').combinations(tokens, n))",
    ),
    "a text counts as its characters and not as its words": (
        "sample.split() if isinstance(sample, str) else sample",
        "sample",
    ),
    "a text is cut at single spaces, so that two spaces make an empty word": (
        "sample.split() if",
        'sample.split(" ") if',
    ),
    "no n-gram at all counts as no diversity": ("else 1.0", "else 0.0"),
    "the perplexities of the texts are averaged: a mean of exponentials": [
        ("total - judged.sum().cpu()", "total + (-judged.mean()).exp().cpu()"),
        ("count += len(judged)", "count += 1"),
        ("float((total / count).exp())", "float(total / count)"),
    ],
    "the mean surprises of the texts are averaged, however long they are": [
        ("total - judged.sum().cpu()", "total - judged.mean().cpu()"),
        ("count += len(judged)", "count += 1"),
    ],
    "the exponential is taken of the sum and not of the mean": ("(total / count).exp()", "total.exp()"),
    "the mean surprise is returned, without the exponential": ("float((total / count).exp())", "float(total / count)"),
    "the sum is divided by the number of all tokens, those that are given included": (
        "count += len(judged)",
        "count += len(row)",
    ),
    "each token is judged by the position that has already read it": (
        "judged = log_p.gather(-1, row[1:, None])[given - 1 :]",
        "judged = log_p.gather(-1, row[:-1, None])[given - 1 :]",
    ),
    "the tokens that are given are judged as well": ("[given - 1 :]", ""),
    "one token more than the given ones is not judged": ("[given - 1 :]", "[given - 1 :][1:]"),
    "a long text is cut into pieces of the context, so that tokens lose what stood before them": (
        "            logits = model(row[None, :context])[0]  # position i is about token i + 1\n"
        "            if len(row) > context + 1:\n"
        "                windows = row[1:-1].unfold(0, context, 1)  # those of tokens context + 1, context + 2, ...\n"
        "                logits = torch.cat([logits, model(windows)[:, -1]])\n",
        "            logits = torch.cat([model(piece[None])[0] for piece in row.split(context)])\n",
    ),
    "what does not fit into the context is not judged": [
        ("            if len(row) > context + 1:\n", "            row = row[: context + 1]\n            if False:\n"),
    ],
    "the model sees the first tokens of a long text and not the last before the token": (
        "logits = torch.cat([logits, model(windows)[:, -1]])",
        "logits = torch.cat([logits, model(row[None, :context])[0, -1:].expand(len(windows), -1)])",
    ),
    "dropout is on": ("        with asking(model):\n", "        with torch.no_grad():\n"),
    "the model is left in evaluation mode": (
        "        with asking(model):\n",
        "        model.eval()\n        with torch.no_grad():\n",
    ),
    "everything is kept for a backward pass": (
        "        with asking(model):\n",
        "        with asking(model), torch.enable_grad():\n",
    ),
    "nothing to judge gives NaN and not an error": ("    if count == 0:\n", "    if False:\n"),
    "given = 0 is accepted": ("    if given < 1:\n", "    if given < 0:\n"),
    "the checkpoint is not compared with the frequencies": ("if validation >= 0.9 * unigram:", "if False:"),
    "the checkpoint has to be worse than the frequencies to be blamed": (
        "validation >= 0.9 * unigram",
        "validation >= unigram",
    ),
    "the frequencies are compared after the sampler": [
        (
            '    if validation >= 0.9 * unigram:\n        return "checkpoint"\n    if not bad(used):\n        return "neither"\n',
            '    if not bad(used):\n        return "neither"\n    if validation >= 0.9 * unigram:\n        return "checkpoint"\n',
        ),
    ],
    "a text has to be bad in both ways to be bad": (
        '+ 0.25 or numbers["perplexity"]',
        '+ 0.25 and numbers["perplexity"]',
    ),
    "a low perplexity is taken for bad, and a high one for good": (
        'numbers["perplexity"] > 2 * real["perplexity"]',
        'numbers["perplexity"] < real["perplexity"] / 2',
    ),
    "the repetition is judged by itself, and not beside that of real text": (
        'numbers["repetition"] > real["repetition"] + 0.25',
        'numbers["repetition"] > 0.25',
    ),
    "what is exactly at the limit is bad": [
        ('numbers["repetition"] > real["repetition"] + 0.25', 'numbers["repetition"] >= real["repetition"] + 0.25'),
        ('numbers["perplexity"] > 2 * real["perplexity"]', 'numbers["perplexity"] >= 2 * real["perplexity"]'),
    ],
    "one bad sampler is enough to blame the checkpoint": ("if all(bad(name)", "if any(bad(name)"),
    "a bad text is always the sampler's fault": (
        'return "checkpoint" if all(bad(name) for name in ("greedy", "plain", "truncated")) else "sampler"',
        'return "sampler"',
    ),
    "the verdict does not depend on the sampler that was used": ("if not bad(used):", 'if not bad("truncated"):'),
    "numbers that are missing end in a KeyError": ("        if name not in measured:\n", "        if False:\n"),
}

# %% equivalent="blame"
{
    "len(ids) <= given -> len(ids) < given": "a text of which all is given is asked then, and adds nothing",
}

# %% [markdown]
# ## Look at it
#
# Now everything at once. A small model is trained on a part of Shakespeare's plays and stopped at three places. At each
# of them four samplers continue the same prompt. A second model, with a tokenizer of its own and trained on another
# part of the plays, says how surprising it finds the texts.
#
# With `FULL = True` the two cells train a larger model, on four fifths of the plays, and longer; it keeps its checkpoint in
# `mini_gpt_run.pt` beside this notebook and goes on from there. Stages that it has passed are not shown again, so copy what
# you want to quote. For a run with other settings move that file away first. The first cell of the quick run ends with a line
# that says how many minutes that takes on your machine.

# %%
import html
import time
from dataclasses import replace

from IPython.display import HTML, display

from coursekit import data

FULL = False

torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2) if FULL else 1)
quick = {"context": 48, "d_model": 64, "n_layers": 2, "n_heads": 4, "d_ff": 256}
large = {"context": 128, "d_model": 160, "n_layers": 4, "n_heads": 5, "d_ff": 640, "dropout": 0.1}
shape = large if FULL else quick
stages = [300, 1000, 3000] if FULL else [20, 100, 300]
samplers = {
    "greedy": Sampling(temperature=0.0),
    "plain": Sampling(),
    "truncated": Sampling(temperature=0.8, top_p=0.9),
    "hot": Sampling(temperature=1.8),
}
prompt = "ROMEO:\n"


def recipe(steps, shape, batch_size):
    rates = {"lr": 3e-3, "min_lr": 3e-4, "warmup": steps // 20}
    often = {"eval_every": steps, "save_every": max(steps // 10, 25)}
    return TrainConfig(steps=steps, batch_size=batch_size, context=shape["context"], **rates, **often)


plays = data.tiny_shakespeare()
border = len(plays) * 4 // 5
own, other = (plays[:border], plays[border:]) if FULL else (plays[:120_000], plays[200_000:260_000])
parts, second = (build(text, 768 if FULL else 384, **shape) for text in (own, other))
settings = recipe(stages[-1], shape, 24 if FULL else 8)
some = parts.tokenizer.decode(parts.train_ids[:2000].tolist())
print(f"{sum(w.numel() for w in parts.model.parameters()):,} parameters, {parts.tokenizer.vocab_size} tokens,", end=" ")
print(f"{len(some) / 2000:.2f} characters in a token; {len(parts.train_ids):,} tokens to train on")
train(second.model, second.train_ids, recipe(1000 if FULL else 180, shape, settings.batch_size))
if not FULL:
    trial = GPT(GPTConfig(768, **large))
    begin = time.process_time()
    train(trial, torch.randint(768, (1000,)), recipe(2, large, 24))
    minutes = 3000 * (time.process_time() - begin) / 2 / 60
    print(
        f"FULL has {sum(w.numel() for w in trial.parameters()):,} parameters. At the speed of two trial steps on one core"
    )
    print(f"its 3,000 steps take {minutes:.0f} minutes, and those of the second model {minutes / 3:.0f}.")


# %%
def measure(texts, prompt=""):
    """Repetition, diversity, and how surprising the second model finds the texts."""
    codes = [parts.tokenizer.encode(text) for text in texts]
    its_codes = [second.tokenizer.encode(prompt + text) for text in texts]
    return {
        "repetition": sum(repetition_rate(ids, 4) for ids in codes) / len(codes),
        "distinct": distinct_n(texts, 2),
        "perplexity": perplexity_under(second.model, its_codes, max(1, len(second.tokenizer.encode(prompt)))),
    }


places = torch.linspace(0, len(parts.validation_ids) - 120, 4).long().tolist()
real = measure([parts.tokenizer.decode(parts.validation_ids[i : i + 100].tolist()) for i in places])
numbers, written, curve = {}, {}, []
parts.model.load_state_dict(GPT(parts.config).state_dict())  # from the beginning, also when this cell runs again
with tempfile.TemporaryDirectory() as folder:
    path = "mini_gpt_run.pt" if FULL else os.path.join(folder, "run.pt")  # a long run may be stopped, and goes on
    for stage in stages:
        rows = train_in_stages(parts, settings, [stage], prompt, samplers["truncated"], path)
        curve += rows
        for name, sampling in samplers.items() if rows else []:
            several = [replace(sampling, max_tokens=100, seed=seed) for seed in range(1 if name == "greedy" else 2)]
            written[stage, name] = ["".join(stream(parts.model, parts.tokenizer, prompt, each)) for each in several]
            numbers[stage, name] = measure(written[stage, name], prompt)
unigram = unigram_loss(parts.train_ids, parts.validation_ids, parts.tokenizer.vocab_size)

columns = "".join(
    f'<div style="flex:1 1 14em;min-width:12em"><b>{row["step"]} steps</b>, validation loss {row["validation"]:.2f}'
    f'<pre style="white-space:pre-wrap">{html.escape(prompt + row["sample"])[:420]}</pre></div>'
    for row in curve
)
display(HTML(f'<div style="display:flex;flex-wrap:wrap;gap:1.5em">{columns}</div>'))

# %% [markdown]
# The three texts are by one sampler, and the weights are 20, 100 and 300 steps old. What does the model learn first: the
# lengths of words, their letters, or who speaks? In which of the three could you tell from the text alone that the model has
# seen plays?
#
# Now the numbers. Each point is a checkpoint with a sampler. The dotted lines are the limits of `blame`, beside the star of
# the real text. Hover to read the beginning of what was written.

# %%
import plotly.graph_objects as go

from coursekit import plots

figure = go.Figure()
print(f"the frequencies of the tokens alone cost {unigram:.2f} nats a token")
for row in curve:
    measured = {name: numbers[row["step"], name] for name in samplers} | {"text": real}
    verdicts = {name: blame(row["validation"], unigram, measured, name) for name in samplers}
    print(f"{row['step']:5} steps, validation loss {row['validation']:.2f}:", end=" ")
    print(", ".join(f"{name}: {verdict}" for name, verdict in verdicts.items()))
for colour, name in zip(plots.COLOURS, samplers, strict=False):
    points = [numbers[row["step"], name] for row in curve]
    figure.add_scatter(
        x=[point["repetition"] for point in points],
        y=[point["perplexity"] for point in points],
        mode="lines+markers",
        name=name,
        line={"color": colour, "width": 1},
        marker={"size": [7, 10, 14][-len(curve) :], "color": colour},
        customdata=[
            [row["step"], html.escape(written[row["step"], name][0][:60]), point["distinct"]]
            for row, point in zip(curve, points, strict=True)
        ],
        hovertemplate="%{customdata[0]} steps<br>repetition %{x:.2f}, perplexity %{y:.0f}, distinct-2 %{customdata[2]:.2f}"
        "<br>%{customdata[1]}<extra>" + name + "</extra>",
    )
figure.add_scatter(
    x=[real["repetition"]],
    y=[real["perplexity"]],
    mode="markers",
    name="real text",
    marker={"symbol": "star", "size": 14, "color": plots.GREY},
    hovertemplate="repetition %{x:.2f}, perplexity %{y:.0f}<extra>real text</extra>",
)
figure.add_vline(x=real["repetition"] + 0.25, line={"color": plots.GREY, "dash": "dot"})
figure.add_hline(y=2 * real["perplexity"], line={"color": plots.GREY, "dash": "dot"})
figure.update_xaxes(title_text="share of repeated 4-grams", range=[-0.05, 1.05])
figure.update_yaxes(title_text="perplexity, second model", type="log")
figure.update_layout(height=430, legend={"orientation": "h", "y": -0.22})
figure.show()

# %% [markdown]
# The points grow with the training. Follow one colour from small to large. Which samplers come within the dotted lines, and
# which stay outside whatever the weights are? Look at the greedy one after the first stage: the second model may find its text *less* surprising than
# Shakespeare's. What would go wrong if you chose a sampler by its perplexity alone?
#
# The rule has only what it is given. The second model is small, too, and it errs both ways: a text that it finds
# surprising may be good, and it may let nonsense pass. Is there a text with the verdict "neither" that you would call bad?
# And 0.25, 2 and 0.9 are numbers that somebody chose. Change one of them in a copy of `blame`, and see which verdicts change.
#
# Keep the model now, and check that what comes back writes the same text:

# %%
facts = {
    "text": f"tiny Shakespeare, {len(own):,} characters",
    "steps": curve[-1]["step"],
    "validation": round(curve[-1]["validation"], 4),
    "unigram": round(unigram, 4),
    "torch": str(torch.__version__),
}
save_model("mini_gpt.safetensors", parts.model, parts.tokenizer, parts.config, facts)
model, tokenizer, known = load_model("mini_gpt.safetensors")
both = [
    "".join(stream(m, tokenizer, prompt, replace(samplers["truncated"], max_tokens=60))) for m in (parts.model, model)
]
print(f"{os.path.getsize('mini_gpt.safetensors'):,} bytes; the same text: {both[0] == both[1]}; facts: {known}")

# %% [markdown]
# From now on you can write with the model outside this notebook. In a shell, in the course's folder:
#
# ```
# .venv/bin/course generate work/capstone/mini_gpt.safetensors --prompt "ROMEO:" --temperature 0.8 --top-p 0.9 --max-tokens 200
# ```
#
# The command takes your own `load_model` and `stream` out of this notebook, if they pass their checks, and otherwise the
# reference. It writes as the text comes. Try `--temperature 0`, try `--stop`, and try it with a file in which you have changed a byte.
#
# ### Self-review
#
# The last ten points are given by a person who reads what you write here. Use your own run: the quick one is enough, `FULL`
# is more fun. Write 200 to 400 words, and quote your own samples and your own numbers.
#
# | asked for | points |
# |---|---|
# | *Progress.* Three samples of one sampler at three stages, quoted in part. What changed, and which number shows it? | 3 |
# | *Blame.* One bad text of yours. What does `blame` say, do you believe it, and which experiment would change your mind? | 3 |
# | *A choice.* One setting that you chose (vocabulary, size, temperature, ...), an alternative, and numbers for both. | 2 |
# | *Limits.* What do your numbers not show? One thing that you would measure next. | 2 |
#
# For *A choice*, change one number in the first cell of "Look at it" and run both cells again. Copy the old numbers first.
#
# Points are given for evidence, not for good samples: a bad model that is well examined gets all ten. A claim without a number
# or a quotation gets none.

# %% [markdown] manual="self_review" points=10
# **Review your model in 200 to 400 words: progress, blame, a choice, limits.**
#
# ### BEGIN SOLUTION
# *What a full answer holds; the numbers and quotations are the learner's own.*
#
# **Progress (3).** Quotes the same prompt and sampler at three stages, and ties what changed to a number: for example word
# lengths after 20 steps (loss still near the unigram loss), words after 100, names in capitals and line breaks after 300; the
# validation loss falls from stage to stage. Three points: three quotations and a number for each step of progress. Two:
# quotations without numbers, or numbers without quotations. One: a general description.
#
# **Blame (3).** Quotes one bad text, gives its repetition and perplexity, the verdict and the rule that fired, and doubts it
# with a reason: a small second model, few samples, limits that somebody chose. Names an experiment whose outcome would change
# the verdict, such as the same checkpoint with another sampler, more seeds, or an earlier checkpoint with the same sampler.
#
# **A choice (2).** Two settings, numbers for both under equal conditions (the same steps, seeds and prompt), a conclusion that
# goes no further than they do. Losses per token are not compared across different tokenizers without saying so.
#
# **Limits (2).** One thing that the numbers cannot show (sense, truth, whether the text is copied from the training part) and
# a measurement that would show some of it.
# ### END SOLUTION

# %% [markdown]
# ## Common mistakes
#
# - **Temperature after top-p.** Both orders write. The set of tokens is then chosen at temperature 1, whatever the setting
#   says, and a low temperature makes less difference than people expect.
# - **The token that crosses p is dropped.** With $p = 0.9$ and a first token of 0.95 nothing is left at all, and whoever mends
#   that with "at least one" gets a sampler that is nearly greedy where the model is sure.
# - **The sorted order is not undone.** The right *number* of tokens is dropped, and the wrong ones. The text looks like that of a
#   hotter sampler.
# - **A penalty that divides negative logits.** It makes repeated tokens more probable, but only where they were improbable. You
#   will look for that a long time.
# - **A penalty on line breaks and spaces.** This one is no bug, and yet a fault: what has to come back again and again pays from
#   its second time on, and the longer the text, the more of the common tokens have paid.
# - **Stop strings in one token.** All is well until the tokenizer has a token `\n\n` or a model splits `END` in an unusual place.
# - **Decoding token by token.** English looks right. The first é does not.
# - **A generator function that yields within `torch.no_grad()`.** The caller's own code has no gradients until the loop is over,
#   and gets no error.
# - **A seed for torch, not a generator.** The text can be repeated. The training run that asked for it cannot: its dropout now draws
#   other numbers.
# - **A tokenizer that has seen the validation part.** The loss is a little better than it should be, and nobody knows by how much.
# - **Weights without their tokenizer.** Both files load. With other merges the model reads noise and writes noise, and the loss of
#   course says so, but only if somebody looks.
# - **A digest of the values alone.** Two matrices of the same shape change their names, and it does not notice.
# - **A mean of perplexities.** One odd text decides it. Average the surprises, and take the exponential once.
# - **Perplexity as a measure of quality.** A model that says one word for ever gets the best one.
#
# ## Going further
#
# - **Other truncations.** Keep what is at least a share of the largest probability (min-p: Minh Nhat Nguyen and others, Turning Up the
#   Heat: Min-p Sampling for Creative and Coherent LLM Outputs, 2024), or what is about as surprising as the model expects to be
#   (Clara Meister, Tiago Pimentel, Gian Wiher, Ryan Cotterell, Locally Typical Sampling, 2023). Write one as a transformation of
#   logits, and put it into the figure.
# - **Sampling with a key-value cache.** Every step of `stream` computes the whole window anew. How much of that is the same as
#   the step before, and what changes when the window moves on? Chapter 8 builds the cache.
# - **Is it copied?** Find the longest piece of your samples that stands in the training part, letter for letter, and compare with
#   the validation part's longest piece in the same place. (Nicholas Carlini and others, Quantifying Memorization Across Neural
#   Language Models, 2023.)
# - **Two samplers at once.** Let a larger model correct a smaller one at each token, by the difference of their logits. (Xiang Lisa Li
#   and others, Contrastive Decoding: Open-ended Text Generation as Optimization, 2023.)
