# ---
# title: Fine-tuning and LoRA
# lab: ch04/lab06
# minutes: 130
# difficulty: 3
# hardware: cpu
# needs: [ch03/lab05, ch04/lab03]
# builds: [LoRALinear, merge, unmerge, inject, merge_all, training_memory, adapter_state, load_adapter, compare]
# ---

# %% [markdown]
# # Lab 4.6 · Fine-tuning and LoRA
#
# ## The idea
#
# You have a trained model and a small task of your own. Fine-tuning is training on, with a small learning rate. But it
# is as dear as training ever was: AdamW wants a gradient and two moments for every weight, and each task ends with a
# model of full size on your disk.
#
# LoRA leaves the trained weights as they are, and learns what to *add* to them. To a matrix $W$ of 1,000 × 1,000 it adds
# a product $B A$ of two thin ones, 1,000 × 8 and 8 × 1,000. That is 16,000 numbers in place of a million. Only these get
# gradients and moments, and only these are saved.
#
# In small numbers: let $W$ be the 2 × 2 identity, $A = [1, 2]$, $B = [3, 0]^\top$, and let the product count twice
# (the *scaling*). For $x = [1, 1]$ the layer itself gives $[1, 1]$. The detour gives $A x = 3$, then $B \cdot 3 = [9,
# 0]$, twice that is $[18, 0]$, and the sum is $[19, 1]$. Now add the product to the matrix once and for all:
#
# $$ W + 2 B A = \begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix} + 2 \begin{pmatrix} 3 & 6 \\ 0 & 0 \end{pmatrix} =
# \begin{pmatrix} 7 & 12 \\ 0 & 1 \end{pmatrix} $$
#
# Times $x$ that is $[19, 1]$ again. So after training the detour can be *merged*, and costs nothing any more.
#
# You build the layer, merge it and take it out again to the bit, put it into models of `transformers`, save it, and judge
# it. The judge of your code is the library `peft`: same outputs, same gradients, same steps. Whether LoRA is any good you
# judge yourself, at equal steps and at equal time. Why such thin matrices are enough is on the page [Fine-tuning and
# PEFT](../../book/ch04_training/finetuning_and_peft.md).
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `x` | `(..., d_in)` | what the layer reads |
# | $W$ of `nn.Linear` | `(d_out, d_in)` | used as `x @ weight.T` |
# | $W$ of `Conv1D`, in GPT-2 | `(d_in, d_out)` | used as `x @ weight`: the transpose |
# | `lora_a` | `(r, d_in)` | down to `r` numbers, `r` is the rank |
# | `lora_b` | `(d_out, r)` | up again; zero at first |
# | `scaling` | number | `alpha / r` |
# | record | dict | `step`, `seconds` and `accuracy` of a run at one moment |
# | run | list of records | one seed of one way to train |

# %% given
import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D  # the linear layer of GPT-2, whose weight is (d_in, d_out)

# Of Student's t distribution: with n runs, 95% of the probability lies within +- T_95[n - 1].
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


class ToyBlock(nn.Module):
    """Four linear layers of different kinds and shapes around a residual stream of 12 numbers."""

    def __init__(self):
        super().__init__()
        self.query = nn.Linear(12, 12)
        self.subquery = nn.Linear(12, 12, bias=False)
        self.mixer = nn.ModuleDict({"dense": nn.Linear(12, 20)})
        self.turn = Conv1D(12, 12)
        self.down = Conv1D(12, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.query(x)) * self.subquery(x)
        return self.turn(x) + self.down(torch.tanh(self.mixer["dense"](h)))


class Toy(nn.Module):
    """A small model for checks: two blocks, a norm and a head of two layers; (B, T, 12) -> (B, T, 3)."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(ToyBlock() for _ in range(2))
        self.norm = nn.LayerNorm(12)
        self.head = nn.ModuleDict({"dense": nn.Linear(12, 12), "out": nn.Linear(12, 3)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head["out"](torch.tanh(self.head["dense"](self.norm(x))))


def make_model(kind: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A model for checks in evaluation mode, with large random weights: the same seed gives the same ones.

    Args:
        kind: "toy"; or, of transformers, "bert" for a classifier with three classes, "gpt2" for a language model.
    """
    if kind == "toy":
        model = Toy()
    elif kind == "bert":
        from transformers.models.bert.modeling_bert import BertConfig, BertForSequenceClassification

        sizes = {"vocab_size": 30, "max_position_embeddings": 12, "hidden_size": 24, "intermediate_size": 40}
        sizes |= {"num_hidden_layers": 2, "num_attention_heads": 3, "num_labels": 3, "pad_token_id": None}
        settings = BertConfig(**sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        settings._attn_implementation = "eager"
        model = BertForSequenceClassification(settings)
    else:
        from transformers.models.gpt2.modeling_gpt2 import GPT2Config, GPT2LMHeadModel

        sizes = {"vocab_size": 30, "n_positions": 12, "n_embd": 24, "n_layer": 2, "n_head": 3}
        none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": None, "eos_token_id": None}
        settings = GPT2Config(**sizes, **none)
        settings._attn_implementation = "sdpa"  # causal without a mask
        model = GPT2LMHeadModel(settings)
    model = model.to(dtype).eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.5
            parameter.copy_(spread * torch.randn(parameter.shape, generator=draw, dtype=dtype))
    return model


def make_layer(
    kind: str, d_in: int, d_out: int, bias: bool = True, seed: int = 0, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """A random "linear" or "conv1d" layer; "embedding" is one that LoRALinear has to refuse."""
    if kind == "embedding":
        return nn.Embedding(d_in, d_out)
    layer = Conv1D(d_out, d_in) if kind == "conv1d" else nn.Linear(d_in, d_out, bias=bias)
    layer = layer.to(dtype)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=dtype) / d_in**0.5)
    return layer


def logits_of(model: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    """What a model says: of transformers' models the logits. The second input of a BERT is the mask of its padding."""
    result = model(*inputs)
    return result["logits"] if isinstance(result, dict) else result


# %% given side="learner"
from collections.abc import Iterable
from typing import Any

from torch.utils.flop_counter import FlopCounterMode


def new_model(kind: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """`make_model`, where your code can hold it."""
    return make_model(kind, seed, dtype)


def new_layer(
    kind: str, d_in: int, d_out: int, bias: bool = True, seed: int = 0, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """`make_layer`, where your code can hold it."""
    return make_layer(kind, d_in, d_out, bias, seed, dtype)


def flops(layer: nn.Module, x: torch.Tensor) -> int:
    """How many operations the matrix products of one forward pass take."""
    with FlopCounterMode(display=False) as counter:
        layer(x)
    return counter.get_total_flops()


def outputs(model: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    """What a model of yours says."""
    with torch.no_grad():
        return logits_of(model, *inputs)


def trained(model: nn.Module) -> list[str]:
    """The names of all parameters that need a gradient, sorted."""
    return sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad)


def gradients(model: nn.Module, inputs: list[torch.Tensor], direction: torch.Tensor) -> dict[str, Any]:
    """The gradient of ``(output * direction).sum()`` for every parameter of a model of yours, by name."""
    model.zero_grad()
    total = (logits_of(model, *inputs) * direction).sum()
    if total.requires_grad:
        total.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def adamw_steps(
    model: nn.Module, inputs: list[torch.Tensor], direction: torch.Tensor, n_steps: int
) -> dict[str, torch.Tensor]:
    """All parameters of a model of yours after some steps of AdamW over those that need a gradient."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)
    for _ in range(n_steps):
        optimizer.zero_grad()
        (logits_of(model, *inputs) * direction).sum().backward()
        optimizer.step()
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def keeps_its_parameters(layer: nn.Module) -> list[bool]:
    """For the checks of exercise 2: are the parameters the same objects after merge, and after unmerge?"""
    before, found = list(layer.parameters()), []
    for change in (merge, unmerge):
        change(layer)
        found.append([id(p) for p in layer.parameters()] == [id(p) for p in before])
    return found


def save_and_change(model: nn.Module) -> dict[str, torch.Tensor]:
    """For the checks of exercise 4: adapter_state, and then every parameter of the model grows by 1. What is in the file?"""
    state = adapter_state(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    return state


def load_and_spoil(model: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """For the checks of exercise 4: load_adapter, then the tensors of the file are filled with 7. What is in the model now?"""
    state = {name: value.clone() for name, value in state.items()}
    before = [id(parameter) for parameter in model.parameters()]
    load_adapter(model, state)
    for value in state.values():
        value.fill_(7)
    return {
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "the same parameters": before == [id(parameter) for parameter in model.parameters()],
        "needs a gradient": trained(model),
    }


# %% [markdown]
# ## A picture
#
# Two matrices have to start somewhere. The product must be zero at first, or the trained model is spoilt before the first
# step. That leaves three ways: `lora_a` zero, `lora_b` zero, or both. A matrix of 32 × 32 is to learn a change of rank
# 2, from examples: with adapters of rank 4 in these three ways, with both at random for comparison, and with full
# fine-tuning. The rate is the same for all.

# %%
import plotly.graph_objects as go

from coursekit import plots

torch.set_num_threads(1)
draw = torch.Generator().manual_seed(3)
before = torch.randn(32, 32, generator=draw) / 32**0.5
change = torch.randn(32, 2, generator=draw) @ torch.randn(2, 32, generator=draw) / 32**0.5
examples = torch.randn(512, 32, generator=draw)
answers = examples @ (before + change).T
random_a = torch.randn(4, 32, generator=draw) / 32**0.5
random_b = torch.randn(32, 4, generator=draw) / 32**0.5


def learning_curve(a, b):
    """The loss at every step of gradient descent on both matrices; with None in their place, on the whole one."""
    leaves = [torch.zeros(32, 32)] if a is None else [a.clone(), b.clone()]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    losses = []
    for _ in range(200):
        added = leaves[0] if a is None else leaves[1] @ leaves[0]
        loss = (examples @ (before + added).T - answers).square().sum(1).mean()
        found = torch.autograd.grad(loss, leaves)
        with torch.no_grad():
            for leaf, gradient in zip(leaves, found, strict=True):
                leaf -= 0.02 * gradient
        losses.append(loss.item())
    return losses


ways = {
    "full fine-tuning": (None, None),
    "A random, B zero": (random_a, 0 * random_b),
    "A zero, B random": (0 * random_a, random_b),
    "both zero": (0 * random_a, 0 * random_b),
    "both random": (random_a, random_b),
}
figure = go.Figure()
for name, (a, b) in ways.items():
    losses = learning_curve(a, b)
    print(f"{name:17} loss {losses[0]:6.3f} at first, {losses[50]:.2g} after 50 steps, {losses[-1]:.2g} at the end")
    figure.add_scatter(y=losses, name=name, mode="lines", line={"dash": "dot" if name == "both zero" else "solid"})
figure.update_xaxes(title_text="step")
figure.update_yaxes(title_text="loss", type="log", exponentformat="power")
figure.update_layout(height=380, legend={"orientation": "h", "y": -0.25})
figure.show()

# %% [markdown]
# One line is flat. If $G$ is the gradient that the whole matrix would get, then $A$ gets $B^\top G$ and $B$ gets $G A^\top$,
# times the scaling. With both at zero, both gradients are zero, at this step and at every other. Nothing fails, and nothing
# is ever learnt. With both at random the loss begins higher than without any adapter.
# Do not read the other lines as a race. The same rate makes other steps in a product than in a matrix, and a change of rank
# 2 is made for thin factors. Which of the two starts at zero matters little here; the authors of LoRA chose `lora_b`.
#
# ## Exercise 1 · `LoRALinear`
#
# Put a detour around a linear layer. The layer that is already there becomes a part of yours, under the name `base`, and
# gets no gradients any more. Gradients for *its input* it still has to pass on, or nothing below it would learn.
#
# `parameter_gradients` is given; the tests use it, so leave it as it is.
#
# *Difficulty 2 of 5 · 25 minutes · 6 points*


# %% exercise="LoRALinear" difficulty=2 minutes=25 forbid=["LoraConfig", "get_peft_model", "inject_adapter_in_model", "LoraModel"]
class LoRALinear(nn.Module):
    """A linear layer that stays as it is, and a product of two thin matrices that is learnt.

    Args:
        base: an nn.Linear, whose weight is (d_out, d_in), or a Conv1D, whose weight is (d_in, d_out); either may be square.
            It becomes a part of this module, with its values, dtype and device.
        rank: r, from 1 to the smaller one of d_in and d_out.
        alpha: the detour counts alpha / rank times.
        dropout: the probability with which an entry of x is zeroed on its way into lora_a, while training. The others are
            divided by one minus that probability. The base gets x as it is.
        seed: the same seed gives the same first lora_a, another seed gives another.

    Attributes:
        base: the layer.
        scaling: alpha / rank.
        merged: whether the product has been added to the weight of the base; False at first.

    State:
        lora_a (rank, d_in) and lora_b (d_out, rank), parameters with the dtype and the device of the base's weight, and
        what the base has. Nothing else. At first the entries of lora_a are independent and uniform between
        -1 / sqrt(d_in) and 1 / sqrt(d_in), and those of lora_b are 0. No parameter of the base needs a gradient any more.

    Raises:
        TypeError: if the base is neither nn.Linear nor Conv1D.
        ValueError: if the rank is out of its range.

    Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021, section 4.1; the range of lora_a is that
    of the authors' code and of peft.
    """

    def __init__(self, base: nn.Linear | Conv1D, rank: int, alpha: float, dropout: float = 0.0, seed: int = 0):
        super().__init__()
        ### BEGIN SOLUTION
        if not isinstance(base, nn.Linear | Conv1D):
            raise TypeError(f"the base has to be nn.Linear or Conv1D, not {type(base).__name__}")
        shape = base.weight.shape if isinstance(base, nn.Linear) else base.weight.T.shape
        d_out, d_in = shape
        if not 1 <= rank <= min(d_in, d_out):
            raise ValueError(f"the rank has to be from 1 to {min(d_in, d_out)} for {d_in} -> {d_out}, got {rank}")
        self.base, self.scaling, self.dropout, self.merged = base, alpha / rank, dropout, False
        base.requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        bound = 1 / math.sqrt(d_in)
        first = torch.empty(rank, d_in, dtype=base.weight.dtype).uniform_(-bound, bound, generator=generator)
        self.lora_a = nn.Parameter(first.to(base.weight.device))  # (r, d_in)
        self.lora_b = nn.Parameter(base.weight.new_zeros(d_out, rank))  # (d_out, r)
        ### END SOLUTION

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer and its detour.

        Args:
            x: (..., d_in), of the weight's dtype; whatever the base accepts.

        Returns:
            (..., d_out): what the base makes of x, plus scaling * lora_b lora_a x. Where the module is merged, what the
            base makes of x and no more. With lora_b at zero it equals the base's output to the bit.

        The product of lora_b and lora_a is not formed here. For n rows of x the detour takes no more than
        2 * n * rank * (d_in + d_out) operations.
        """
        ### BEGIN SOLUTION
        output = self.base(x)  # (..., d_out)
        if self.merged:
            return output
        narrow = F.dropout(x, self.dropout, self.training) @ self.lora_a.T  # (..., r)
        return output + self.scaling * (narrow @ self.lora_b.T)
        ### END SOLUTION

    def parameter_gradients(self, x: torch.Tensor, direction: torch.Tensor) -> dict[str, Any]:
        """Given: the gradient of ``(output * direction).sum()`` for every parameter, by name."""
        total = (self(x) * direction).sum()
        self.zero_grad()
        if total.requires_grad:
            total.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}


# %% [markdown]
# <details><summary>A nudge</summary>The base can be called like any function. What is new are two parameters, and two
# products that go through <code>r</code> numbers. Follow the shapes: <code>(..., d_in)</code>, <code>(..., r)</code>,
# <code>(..., d_out)</code>.</details>
# <details><summary>A bigger nudge</summary><code>requires_grad_</code> on a module freezes its parameters. That is not the
# same as <code>torch.no_grad()</code> around its call, which also cuts off its input. A Conv1D tells d_in and d_out in the
# other order. Numbers within given bounds: <code>uniform_</code> takes a generator.</details>

# %% test="LoRALinear" points=3
from coursekit import check

import torch
from torch.nn import functional as F

# The numbers of the text: W is the identity, A = [1, 2], B = [3, 0], and the product counts twice.
layer = LoRALinear(new_layer("linear", 2, 2, bias=False), rank=1, alpha=2.0)
layer.load_state_dict(
    {"base.weight": torch.eye(2), "lora_a": torch.tensor([[1.0, 2.0]]), "lora_b": torch.tensor([[3.0], [0.0]])}
)
x = torch.tensor([[1.0, 1.0], [0.0, 2.0]])
check.close(layer(x), torch.tensor([[19.0, 1.0], [24.0, 2.0]]), "the example of the text, and x = [0, 2]")
found = layer.parameter_gradients(x, torch.ones(2, 2))
check.close(found["lora_b"], torch.tensor([[14.0], [14.0]]), "the gradient of the sum for B: 2 * (3 + 4), twice")
check.close(found["lora_a"], torch.tensor([[6.0, 18.0]]), "the gradient of the sum for A: 2 * 3 * (x_1 + x_2)")
check.that(found["base.weight"] is None, "the weight of the base gets no gradient", why="it has one")
fresh, alone = LoRALinear(new_layer("linear", 5, 7), rank=2, alpha=16.0), make_layer("linear", 5, 7)
x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
check.equal(fresh(x), alone(x).detach(), "before any training the output is that of the base, to the bit")
### BEGIN HIDDEN TESTS
for kind, d_in, d_out, bias, rank, alpha, shape, dtype in (
    ("linear", 63, 60, True, 5, 10.0, (3, 7, 63), torch.float64),
    ("linear", 7, 31, False, 7, 1.0, (1, 7), torch.float64),
    ("linear", 9, 9, True, 1, 3.0, (9,), torch.float64),
    ("linear", 9, 9, True, 2, 3.0, (2, 1, 3, 9), torch.float64),
    ("conv1d", 20, 33, True, 4, 6.0, (3, 5, 20), torch.float64),
    ("conv1d", 12, 12, True, 3, 0.5, (1, 1, 12), torch.float64),
    ("linear", 48, 40, True, 8, 16.0, (2, 11, 48), torch.float32),
):
    draw = torch.Generator().manual_seed(check.seed(d_in + rank))
    twin = make_layer(kind, d_in, d_out, bias, check.seed(1), dtype)
    layer = LoRALinear(new_layer(kind, d_in, d_out, bias, check.seed(1), dtype), rank, alpha)
    a, b = (torch.randn(size, generator=draw, dtype=dtype) / 3 for size in ((rank, d_in), (d_out, rank)))
    x, direction = (torch.randn(*shape[:-1], size, generator=draw, dtype=dtype) for size in (d_in, d_out))
    if kind == "linear" and len(shape) == 3:
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    layer.load_state_dict(
        {f"base.{name}": value for name, value in twin.state_dict().items()} | {"lora_a": a, "lora_b": b}
    )
    weight = twin.weight.detach() if kind == "linear" else twin.weight.detach().T
    shift = twin.bias.detach() if bias else None
    leaves = [leaf.clone().requires_grad_() for leaf in (a, b)]
    want = F.linear(x, weight + alpha / rank * leaves[1] @ leaves[0], shift)
    case = f"{kind} {d_in} -> {d_out}, rank {rank}, alpha {alpha:g}, x {shape}, {dtype}"
    atol = 1e-10 if dtype == torch.float64 else 1e-4
    check.close(layer(x), want.detach(), f"{case}: the output equals that of W + alpha / r B A", atol=atol)
    (want * direction).sum().backward()
    found = [layer.parameter_gradients(x, direction) for _ in range(2)][-1]  # asked twice: nothing piles up
    for name, leaf in zip(("lora_a", "lora_b"), leaves, strict=True):
        check.that(found[name] is not None, f"{case}: a gradient reaches {name}")
        check.close(found[name], leaf.grad, f"{case}: the gradient of {name}", atol=10 * atol)
    for name in ("base.weight", "base.bias")[: 1 + bias]:
        check.that(found[name] is None, f"{case}: {name} gets no gradient", why="it has one")
    if dtype == torch.float64:
        check.gradients(
            layer,
            lambda x, weight=weight, shift=shift, s=alpha / rank, a=a, b=b: F.linear(x, weight + s * b @ a, shift),
            [x],
            f"{case}: the gradient of x, through the base and through the detour",
            atol=1e-10,
        )
    layer.merged = True
    check.close(layer(x), F.linear(x, weight, shift), f"{case}: with merged = True only the base counts", atol=atol)
layer, alone = LoRALinear(new_layer("linear", 96, 80), 4, 8.0), 2 * 5 * 96 * 80
more = flops(layer, torch.ones(5, 96)) - alone
allowed = 2 * 5 * 4 * (96 + 80)
check.that(
    0 < more <= allowed,
    "96 -> 80, rank 4, five rows: what the detour costs",
    why=f"it takes {more:,} operations, and {allowed:,} are enough",
)
### END HIDDEN TESTS

# %% test="LoRALinear" points=2
from coursekit import check

import torch

layer = LoRALinear(new_layer("linear", 60, 40), rank=3, alpha=6.0)
state = layer.state_dict()
check.equal(sorted(state), ["base.bias", "base.weight", "lora_a", "lora_b"], "the names of what is stored")
check.equal(state["lora_b"], torch.zeros(40, 3), "the first lora_b")
check.close(float(state["lora_a"].abs().max()), 60**-0.5, "the largest entry of lora_a: about 1 / sqrt(60)", atol=0.01)
check.equal(layer.scaling, 2.0, "the scaling of rank 3 and alpha 6")
check.equal(layer.merged, False, "whether a new layer is merged")
check.raises(ValueError, lambda: LoRALinear(new_layer("linear", 4, 9), 10, 1.0), "rank 10 for 4 -> 9")
check.raises(ValueError, lambda: LoRALinear(new_layer("linear", 4, 9), 5, 1.0), "rank 5 for 4 -> 9")
check.raises(TypeError, lambda: LoRALinear(new_layer("embedding", 4, 9), 2, 1.0), "an embedding as the base")
### BEGIN HIDDEN TESTS
for rank, kind, d_in, d_out in (
    (0, "linear", 4, 9),
    (-1, "linear", 4, 9),
    (5, "linear", 9, 4),
    (5, "conv1d", 9, 4),
    (5, "conv1d", 4, 9),
):
    check.raises(
        ValueError,
        lambda kind=kind, d_in=d_in, d_out=d_out, rank=rank: LoRALinear(new_layer(kind, d_in, d_out), rank, 1.0),
        f"rank {rank} for {kind} {d_in} -> {d_out}",
    )
for kind, d_in, d_out, rank, dtype in (
    ("linear", 200, 90, 64, torch.float32),
    ("conv1d", 300, 90, 90, torch.float64),
    ("linear", 90, 400, 90, torch.float64),
):
    case = f"{kind} {d_in} -> {d_out}, rank {rank}, {dtype}"
    alone = make_layer(kind, d_in, d_out, seed=check.seed(1), dtype=dtype)
    layer = LoRALinear(new_layer(kind, d_in, d_out, seed=check.seed(1), dtype=dtype), rank, 5.0, seed=check.seed(2))
    state = layer.state_dict()
    check.equal(sorted(state), ["base.bias", "base.weight", "lora_a", "lora_b"], f"{case}: the names of what is stored")
    check.equal(state["base.weight"], alone.weight.detach(), f"{case}: the base keeps its weight")
    check.equal(state["lora_b"], torch.zeros(d_out, rank, dtype=dtype), f"{case}: the first lora_b")
    a = state["lora_a"] * d_in**0.5
    check.equal(list(a.shape), [rank, d_in], f"{case}: the shape of lora_a")
    check.equal(str(a.dtype), str(dtype), f"{case}: the dtype of lora_a")
    # More than 8,000 uniform numbers: their mean is within 0.0065 of 0 two times in three, their variance within 0.7% of 1/3.
    check.that(float(a.abs().max()) <= 1.0001, f"{case}: lora_a stays within its bounds", why=f"{a.abs().max():.3f}")
    check.close(float(a.double().mean()), 0.0, f"{case}: the mean of lora_a, times sqrt(d_in)", atol=0.05)
    check.close(float(a.double().var()), 1 / 3, f"{case}: the variance of lora_a, times d_in", atol=0.025)
    overlap = float((a.double() @ a.double().T / d_in - torch.eye(rank).double() / 3).abs().max())
    check.that(overlap < 0.25, f"{case}: the rows of lora_a are independent", why=f"an overlap of {overlap:.2f}")
    again = LoRALinear(new_layer(kind, d_in, d_out, dtype=dtype), rank, 1.0, seed=check.seed(2))
    check.equal(again.state_dict()["lora_a"], state["lora_a"], f"{case}: the same seed gives the same lora_a")
    other = LoRALinear(new_layer(kind, d_in, d_out, dtype=dtype), rank, 1.0, seed=check.seed(3))
    same = torch.equal(other.state_dict()["lora_a"], state["lora_a"])
    check.that(not same, f"{case}: another seed gives another lora_a", why="they are equal")
    check.equal(trained(layer), ["lora_a", "lora_b"], f"{case}: what needs a gradient")
    check.close(layer.scaling, 5 / rank, f"{case}: the scaling")
default, zero = LoRALinear(new_layer("linear", 9, 9), 2, 1.0), LoRALinear(new_layer("linear", 9, 9), 2, 1.0, seed=0)
check.equal(default.state_dict()["lora_a"], zero.state_dict()["lora_a"], "the seed is 0 where it is left out")
### END HIDDEN TESTS

# %% test="LoRALinear" points=1
from coursekit import check

import torch

# A and B are identities and the scaling is 1, so the detour shows what dropout made of x.
layer = LoRALinear(new_layer("linear", 40, 40), rank=40, alpha=40.0, dropout=0.2)
alone = make_layer("linear", 40, 40)
layer.load_state_dict({"lora_a": torch.eye(40), "lora_b": torch.eye(40)}, strict=False)
x = torch.ones(200, 40)
layer.eval()
check.close(layer(x), alone(x).detach() + 1, "in evaluation mode nothing is dropped")
layer.train()
detour = (layer(x) - alone(x)).detach()
zero, kept = detour.abs() < 1e-5, (detour - 1.25).abs() < 1e-5
check.that((zero | kept).all(), "in training mode the detour of a 1 is 0 or 1 / 0.8", why="there are other values")
check.close(float(zero.float().mean()), 0.2, "the share of x that is dropped", atol=0.03)
### BEGIN HIDDEN TESTS
# One number in the middle, which is the sum of x, and three outputs: where does dropout act?
torch.manual_seed(check.seed(1))
for kind in ("linear", "conv1d"):
    layer = LoRALinear(new_layer(kind, 40, 3), rank=1, alpha=1.0, dropout=0.4)
    layer.load_state_dict({"lora_a": torch.ones(1, 40), "lora_b": torch.ones(3, 1)}, strict=False)
    layer.train()
    x = torch.ones(400, 40)
    alone = make_layer(kind, 40, 3)(x).detach()
    detour, again = (layer(x).detach() - alone for _ in range(2))
    check.close(detour, detour[:, :1].expand(400, 3), f"{kind}: all outputs share one dropout of x", atol=1e-4)
    sums = detour[:, 0]
    different = len(sums.mul(10).round().unique())
    check.that(different >= 8, f"{kind}: sums of what was kept differ", why=f"{different} different sums of 400")
    check.close(float(sums.mean()), 40.0, f"{kind}: on average nothing changes", atol=2.0)
    check.close(float(sums.std()), (40 * 0.4 / 0.6) ** 0.5, f"{kind}: the spread of the sums", atol=1.2)
    check.that(not torch.equal(again, detour), f"{kind}: the next call drops others", why="the same were dropped")
    layer.eval()
    check.close(layer(x).detach(), alone + 40, f"{kind}: evaluation mode", atol=1e-4)
    layer.train()
    layer.merged = True
    check.close(layer(x).detach(), alone, f"{kind}: merged, nothing is dropped", atol=1e-5)
### END HIDDEN TESTS


# %% alternative="LoRALinear"
class LoRALinear(nn.Module):
    # einsum, a Dropout module, kaiming_uniform_, the scaling inside.
    def __init__(self, base, rank, alpha, dropout=0.0, seed=0):
        super().__init__()
        if type(base) not in (nn.Linear, Conv1D):
            raise TypeError(type(base))
        a, b = base.weight.shape
        d_in, d_out = (b, a) if type(base) is nn.Linear else (a, b)
        if rank < 1 or rank > d_in or rank > d_out:
            raise ValueError(f"rank {rank}")
        torch.manual_seed(seed)
        self.drop = nn.Dropout(dropout)
        self.lora_b = nn.Parameter(torch.zeros(d_out, rank, dtype=base.weight.dtype))
        self.lora_a = nn.Parameter(torch.zeros(rank, d_in, dtype=base.weight.dtype))
        nn.init.kaiming_uniform_(self.lora_a, a=5**0.5)
        self.base, self.merged, self.scaling = base, False, alpha / rank
        for parameter in base.parameters():
            parameter.requires_grad = False

    def forward(self, x):
        result = self.base(x)
        if not self.merged:
            print("not merged")
            middle = torch.einsum("...i,ri->...r", self.drop(x), self.lora_a) * self.scaling
            result = result + F.linear(middle, self.lora_b)
        return result

    def parameter_gradients(self, x, direction):
        total = (self(x) * direction).sum()
        self.zero_grad()
        total.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}


# %% mistakes="LoRALinear"
{
    "lora_a is zero as well, so neither of the two ever gets a gradient": (
        "nn.Parameter(first.to(base.weight.device))",
        "nn.Parameter(torch.zeros_like(first))",
    ),
    "lora_a is zero and lora_b random, the wrong way round": [
        ("nn.Parameter(first.to(base.weight.device))", "nn.Parameter(torch.zeros_like(first))"),
        (
            "base.weight.new_zeros(d_out, rank)",
            "base.weight.new_zeros(d_out, rank).uniform_(-bound, bound, generator=generator)",
        ),
    ],
    "lora_b is random, too, so the trained layer is spoilt before the first step": (
        "base.weight.new_zeros(d_out, rank)",
        "base.weight.new_zeros(d_out, rank).uniform_(-bound, bound, generator=generator)",
    ),
    "there is no scaling": ("output + self.scaling * (narrow", "output + (narrow"),
    "the scaling is alpha, and is not divided by the rank": (
        "self.dropout, self.merged = base, alpha / rank,",
        "self.dropout, self.merged = base, alpha,",
    ),
    "the scaling divides by the root of the rank": (
        "self.dropout, self.merged = base, alpha / rank,",
        "self.dropout, self.merged = base, alpha / math.sqrt(rank),",
    ),
    "the scaling is turned over: rank / alpha": ("base, alpha / rank,", "base, rank / alpha,"),
    "the base is not frozen": ("        base.requires_grad_(False)\n", ""),
    "the weight of the base is frozen, and its bias is not": (
        "base.requires_grad_(False)",
        "base.weight.requires_grad_(False)",
    ),
    "the base runs under no_grad, so the layers below learn from the detour alone": (
        "        output = self.base(x)  # (..., d_out)\n",
        "        with torch.no_grad():\n            output = self.base(x)\n",
    ),
    "x is detached before the detour": ("F.dropout(x,", "F.dropout(x.detach(),"),
    "the output of the base is left out": ("return output + self.scaling", "return self.scaling"),
    "the product of the two matrices is formed at every call": [
        ("        narrow = F.dropout(x, self.dropout, self.training) @ self.lora_a.T  # (..., r)\n", ""),
        (
            "self.scaling * (narrow @ self.lora_b.T)",
            "self.scaling * (F.dropout(x, self.dropout, self.training) @ (self.lora_b @ self.lora_a).T)",
        ),
    ],
    "a merged layer still takes the detour, so the product counts twice": (
        "        if self.merged:\n            return output\n",
        "",
    ),
    "dropout acts on the input of the base as well": [
        ("output = self.base(x)", "x = F.dropout(x, self.dropout, self.training)\n        output = self.base(x)"),
        ("F.dropout(x, self.dropout, self.training) @", "x @"),
    ],
    "dropout acts behind lora_a and not before it": (
        "F.dropout(x, self.dropout, self.training) @ self.lora_a.T",
        "F.dropout(x @ self.lora_a.T, self.dropout, self.training)",
    ),
    "dropout acts on the output of the detour": [
        ("F.dropout(x, self.dropout, self.training) @", "x @"),
        ("(narrow @ self.lora_b.T)", "F.dropout(narrow @ self.lora_b.T, self.dropout, self.training)"),
    ],
    "dropout never stops, not in evaluation mode either": ("self.dropout, self.training)", "self.dropout, True)"),
    "dropout is forgotten": ("F.dropout(x, self.dropout, self.training) @", "x @"),
    "the bounds of lora_a come from the rank and not from d_in": ("math.sqrt(d_in)", "math.sqrt(rank)"),
    "lora_a is normal and not uniform": (
        ".uniform_(-bound, bound, generator=generator)",
        ".normal_(0.0, bound, generator=generator)",
    ),
    "lora_a is never negative": (".uniform_(-bound,", ".uniform_(0.0,"),
    "the seed is ignored": ("manual_seed(seed)", "manual_seed(0)"),
    "the adapter is float32, whatever the base is": ("dtype=base.weight.dtype", "dtype=torch.float32"),
    "any rank is accepted": ("if not 1 <= rank <= min(d_in, d_out):", "if rank < 1:"),
    "the rank is compared with the larger side of the matrix": (
        "if not 1 <= rank <= min(d_in, d_out):",
        "if not 1 <= rank <= max(d_in, d_out):",
    ),
    "a Conv1D is read like an nn.Linear, so d_in and d_out change places": (
        "base.weight.shape if isinstance(base, nn.Linear) else base.weight.T.shape",
        "base.weight.shape",
    ),
    "every layer with a weight is accepted, an embedding too": (
        "if not isinstance(base, nn.Linear | Conv1D):",
        "if not hasattr(base, 'weight'):",
    ),
}

# %% [markdown]
# ## Exercise 2 · `merge`
#
# Add the product to the weight, and the detour is gone. Taking it out again is harder than it looks. In floating point
# $(W + D) - D$ is not $W$: the sum was rounded. After a hundred merges a trained weight has drifted, and nobody will
# know why. So keep what was there.
#
# *Difficulty 2 of 5 · 15 minutes · 4 points*


# %% exercise="merge" difficulty=2 minutes=15 forbid=["LoraConfig", "get_peft_model", "inject_adapter_in_model", "LoraModel"]
def merge(layer: LoRALinear) -> None:
    """Add scaling * lora_b lora_a to the weight of the base, in place, and set ``merged``.

    Args:
        layer: yours. Where it is merged already nothing changes.

    Afterwards the layer's output is what it was before (without dropout), up to rounding; its parameters are the same objects,
    no parameter needs a gradient that did not need one before, lora_a and lora_b have their values, and its state_dict has the same
    names. The product of a Conv1D is added as a transpose, since its weight is (d_in, d_out).
    """
    ### BEGIN SOLUTION
    if layer.merged:
        return
    with torch.no_grad():
        product = layer.scaling * (layer.lora_b @ layer.lora_a)  # (d_out, d_in)
        layer.kept = layer.base.weight.clone()
        layer.base.weight += product if isinstance(layer.base, nn.Linear) else product.T
    layer.merged = True
    ### END SOLUTION


def unmerge(layer: LoRALinear) -> None:
    """Undo `merge`: the weight of the base is what it was before, to the bit, and ``merged`` is False.

    Args:
        layer: yours. Where it is not merged nothing changes.

    That holds whatever has happened to lora_a and lora_b since then: other values may have been loaded. These stay.
    """
    ### BEGIN SOLUTION
    if not layer.merged:
        return
    with torch.no_grad():
        layer.base.weight.copy_(layer.kept)
    del layer.kept
    layer.merged = False
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>The order of the product follows from its shape: it must be <code>(d_out, d_in)</code>.
# A weight that is square fits the wrong way round as well.</details>
# <details><summary>A bigger nudge</summary>A plain tensor that is put into an attribute of a module is not a parameter, and
# <code>state_dict</code> does not know of it. It has to be a copy: the weight itself is about to change in place. Parameters
# may be changed in place under <code>torch.no_grad()</code>.</details>

# %% test="merge" points=4
from coursekit import check

import torch
from torch.nn import functional as F

# The numbers of the text again.
layer = LoRALinear(new_layer("linear", 2, 2, bias=False), rank=1, alpha=2.0)
layer.load_state_dict(
    {"base.weight": torch.eye(2), "lora_a": torch.tensor([[1.0, 2.0]]), "lora_b": torch.tensor([[3.0], [0.0]])}
)
x = torch.tensor([[1.0, 1.0], [0.0, 2.0]])
merge(layer)
check.close(layer.base.weight.detach(), torch.tensor([[7.0, 12.0], [0.0, 1.0]]), "the example of the text, merged")
check.close(layer(x), torch.tensor([[19.0, 1.0], [24.0, 2.0]]), "its output is what it was before")
merge(layer)
check.close(layer.base.weight.detach(), torch.tensor([[7.0, 12.0], [0.0, 1.0]]), "merged a second time: no change")
unmerge(layer)
check.equal(layer.base.weight.detach(), torch.eye(2), "unmerged")
check.equal(layer.merged, False, "the attribute merged, unmerged")
check.close(layer(x), torch.tensor([[19.0, 1.0], [24.0, 2.0]]), "unmerged, its output is still the same")
### BEGIN HIDDEN TESTS
for kind, d_in, d_out, rank, alpha, dtype in (
    ("linear", 63, 60, 5, 10.0, torch.float64),
    ("linear", 24, 24, 3, 1.0, torch.float32),
    ("conv1d", 20, 33, 4, 6.0, torch.float64),
    ("conv1d", 24, 24, 2, 8.0, torch.float64),
    ("conv1d", 30, 30, 30, 3.0, torch.float32),
):
    case = f"{kind} {d_in} -> {d_out}, rank {rank}, {dtype}"
    atol = 1e-12 if dtype == torch.float64 else 1e-5
    draw = torch.Generator().manual_seed(check.seed(d_in + rank))
    layer = LoRALinear(new_layer(kind, d_in, d_out, True, check.seed(1), dtype), rank, alpha)

    def adapter(scale, rank=rank, d_in=d_in, d_out=d_out, draw=draw, dtype=dtype):
        a, b = (torch.randn(size, generator=draw, dtype=dtype) for size in ((rank, d_in), (d_out, rank)))
        return {"lora_a": a, "lora_b": scale * b}

    def total(weight, values, kind=kind, scaling=alpha / rank):
        """What the merged weight has to be."""
        product = scaling * torch.einsum("or,ri->oi", values["lora_b"].double(), values["lora_a"].double())
        return (weight.double() + (product if kind == "linear" else product.T)).to(weight.dtype)

    first, second = adapter(1.0), adapter(0.3)
    layer.load_state_dict(first, strict=False)
    before = {name: value.detach().clone() for name, value in layer.state_dict().items()}
    x = torch.randn(3, 5, d_in, generator=draw, dtype=dtype)
    output = layer(x).detach()
    unmerge(layer)
    for name, value in layer.state_dict().items():
        check.equal(value, before[name], f"{case}: unmerge changes nothing where nothing was merged: {name}")
    merge(layer)
    merged = total(before["base.weight"], first)
    check.close(layer.base.weight.detach(), merged, f"{case}: the merged weight", atol=10 * atol)
    check.equal(layer.merged, True, f"{case}: the attribute merged, after merge")
    check.close(layer(x).detach(), output, f"{case}: the merged output is what it was before", atol=100 * atol)
    check.that(not layer.base.weight.requires_grad, f"{case}: the merged weight needs no gradient", why="it does")
    state = layer.state_dict()
    check.equal(sorted(state), ["base.bias", "base.weight", "lora_a", "lora_b"], f"{case}: the names while merged")
    for name in ("lora_a", "lora_b", "base.bias"):
        check.equal(state[name], before[name], f"{case}: merging leaves {name} as it is")
    merge(layer)
    check.close(layer.base.weight.detach(), merged, f"{case}: merged a second time", atol=10 * atol)
    layer.load_state_dict(second, strict=False)
    unmerge(layer)
    back = layer.base.weight.detach().clone()
    check.equal(
        back, before["base.weight"], f"{case}: unmerged to the bit, though another adapter was loaded meanwhile"
    )
    check.equal(layer.merged, False, f"{case}: the attribute merged, after unmerge")
    for name in ("lora_a", "lora_b"):
        check.equal(layer.state_dict()[name], second[name], f"{case}: unmerging leaves {name} as it is")
    want = F.linear(x, total(before["base.weight"], second) if kind == "linear" else total(back, second).T)
    want = want + before["base.bias"]
    check.close(layer(x).detach(), want, f"{case}: the output with the other adapter", atol=100 * atol)
    # Once more, with another base: nothing of the first time may be left.
    layer.load_state_dict({"base.weight": 2 * before["base.weight"]}, strict=False)
    merge(layer)
    check.close(
        layer.base.weight.detach(), total(2 * back, second), f"{case}: merged into another base", atol=10 * atol
    )
    unmerge(layer)
    unmerge(layer)
    check.equal(layer.base.weight.detach(), 2 * back, f"{case}: unmerged from another base, and unmerged again")
# The parameters stay the objects that an optimiser or another module may hold.
layer = LoRALinear(new_layer("linear", 6, 6), 2, 4.0)
layer.load_state_dict({"lora_b": torch.ones(6, 2)}, strict=False)
check.equal(keeps_its_parameters(layer), [True, True], "the same parameter objects, after merge and after unmerge")
### END HIDDEN TESTS


# %% alternative="merge"
def merge(layer):
    if not layer.merged:
        weight = layer.base.weight.data
        layer.merged, layer.copies = True, [weight.double().clone()]
        wide = torch.einsum("r,or,ri->oi", torch.full_like(layer.lora_b[0], layer.scaling), layer.lora_b, layer.lora_a)
        if layer.base.__class__.__name__ == "Conv1D":
            wide = wide.mT
        weight.add_(wide.detach())


def unmerge(layer):
    if layer.merged:
        layer.base.weight.data.copy_(layer.copies.pop())
        layer.merged = False


# %% mistakes="merge"
{
    "unmerge subtracts the product again, and the weight is not quite what it was": (
        "        layer.base.weight.copy_(layer.kept)\n",
        "        product = layer.scaling * (layer.lora_b @ layer.lora_a)\n"
        "        layer.base.weight -= product if isinstance(layer.base, nn.Linear) else product.T\n",
    ),
    "merging twice adds the product twice": (
        "    if layer.merged:\n        return\n    with torch.no_grad():\n        product",
        "    with torch.no_grad():\n        product",
    ),
    "the product is merged without the scaling": (
        "layer.scaling * (layer.lora_b @ layer.lora_a)",
        "(layer.lora_b @ layer.lora_a)",
    ),
    "the product is never transposed, which no square Conv1D complains about": (
        "product if isinstance(layer.base, nn.Linear) else product.T",
        "product if product.shape == layer.base.weight.shape else product.T",
    ),
    "the layer is not marked as merged, so its product counts twice": ("    layer.merged = True\n", ""),
    "the layer stays marked as merged when it no longer is": ("    layer.merged = False\n", ""),
    "what is kept is the weight itself and no copy, so it changes along": (
        "layer.kept = layer.base.weight.clone()",
        "layer.kept = layer.base.weight.data",
    ),
    "the copy of the first merge is kept for good": [
        ("layer.kept = layer.base.weight.clone()", 'layer.kept = getattr(layer, "kept", layer.base.weight.clone())'),
        ("    del layer.kept\n", ""),
    ],
    "the copy is a buffer, and so it is saved with the model": (
        "layer.kept = layer.base.weight.clone()",
        'layer.register_buffer("kept", layer.base.weight.clone())',
    ),
    "the merged weight is a new parameter, and that needs a gradient": (
        "layer.base.weight += product if isinstance(layer.base, nn.Linear) else product.T",
        "layer.base.weight = nn.Parameter(layer.base.weight + (product if isinstance(layer.base, nn.Linear) else product.T))",
    ),
    "the merged weight is a new object, and whoever holds the old one is left behind": (
        "layer.base.weight += product if isinstance(layer.base, nn.Linear) else product.T",
        "layer.base.weight = nn.Parameter(layer.base.weight + (product if isinstance(layer.base, nn.Linear) else product.T), False)",
    ),
    "lora_b is set to zero when it is merged": (
        "    layer.merged = True\n",
        "    layer.lora_b.data.zero_()\n    layer.merged = True\n",
    ),
    "the product is rounded to 16 bits on its way": (
        "(layer.lora_b @ layer.lora_a)",
        "(layer.lora_b @ layer.lora_a).bfloat16().to(layer.lora_a.dtype)",
    ),
    "unmerge fails where nothing was merged": (
        "    if not layer.merged:\n        return\n",
        "",
    ),
    "the product is taken away and not added": ("layer.base.weight += product", "layer.base.weight -= product"),
}

# %% [markdown]
# ## Exercise 3 · `inject`
#
# Nobody writes a model with LoRA layers. One takes a model as it is and exchanges some of its layers. Layers are named by
# the end of their full names: `query` means `bert.encoder.layer.0.attention.self.query` and the one in layer 1. Only whole
# parts of a name count, so `query` is not `subquery`.
#
# A new task often needs a new head, and that has no trained weights to keep. It is trained as a whole: `train` says which
# modules are. All the rest is frozen.
#
# Afterwards `merge_all` gives the model back its old form, with the new weights: whoever runs it needs no LoRA.
#
# *Difficulty 3 of 5 · 30 minutes · 7 points*


# %% exercise="inject" difficulty=3 minutes=30 forbid=["LoraConfig", "get_peft_model", "inject_adapter_in_model", "LoraModel"]
def inject(
    model: nn.Module,
    targets: Iterable[str],
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    train: Iterable[str] = (),
    seed: int = 0,
) -> list[str]:
    """Exchange some linear layers of a model for LoRALinears, in place, and freeze the rest.

    Args:
        model: any module, those of transformers among them. None of the layers in question is used in two places.
        targets: which layers get an adapter. A name means every nn.Linear and every Conv1D whose full name (as in
            ``named_modules``) is that name, or ends with a dot and that name.
        rank, alpha, dropout: of every adapter.
        train: which modules stay trainable as a whole. A name means modules of any kind, found in the same way. A layer
            that is, or lies inside, such a module gets no adapter.
        seed: adapter number i (from 0, in the order of the result) is made with the seed ``seed + i``.

    Returns:
        The full names of the layers that got an adapter, in the order of ``model.named_modules()``.

    Afterwards exactly these parameters need a gradient: lora_a and lora_b of the adapters, and all that belongs to the
    modules of ``train``. The outputs are what they were, to the bit. Each adapter is in the mode (training or evaluation) of
    the layer that it replaces.

    Raises:
        ValueError: before anything has changed: if a name of ``targets`` finds no layer that may get an adapter: none at
            all, or only such that ``train`` covers (the message holds the name, and the full names of all layers that it could
            have found); if a name of ``train`` finds no module (the message holds
            it); if the rank is out of range for one of the layers; if the model has adapters already.
    """
    ### BEGIN SOLUTION
    modules, targets, train = dict(model.named_modules()), list(targets), list(train)
    if any(isinstance(module, LoRALinear) for module in modules.values()):
        raise ValueError("this model has adapters already")

    def named(names, wanted):
        return [name for name in names if any(f".{name}".endswith(f".{end}") for end in wanted)]

    whole = named(modules, train)
    layers = {
        name: module
        for name, module in modules.items()
        if isinstance(module, nn.Linear | Conv1D) and not any(f"{name}.".startswith(f"{part}.") for part in whole)
    }
    for wanted in targets:
        if not named(layers, [wanted]):
            raise ValueError(f"no layer is called {wanted!r}; there are {', '.join(layers)}")
    for wanted in train:
        if not named(modules, [wanted]):
            raise ValueError(f"no module is called {wanted!r}")
    found = named(layers, targets)
    for name in found:
        if not 1 <= rank <= min(layers[name].weight.shape):
            raise ValueError(f"rank {rank} does not fit {name} with {tuple(layers[name].weight.shape)}")
    model.requires_grad_(False)
    for number, name in enumerate(found):
        adapter = LoRALinear(layers[name], rank, alpha, dropout, seed + number).train(layers[name].training)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapter)
    for name in whole:
        modules[name].requires_grad_(True)
    return found
    ### END SOLUTION


def merge_all(model: nn.Module) -> list[str]:
    """Merge all LoRALinears of a model and put their bases in their places, in place.

    Args:
        model: one with adapters; some of them may be merged already.

    Returns:
        The full names of these layers, in the order of ``model.named_modules()``.

    Afterwards the model has the modules and the names that it had before `inject`, and its outputs with adapters (without
    dropout), up to rounding. Nothing changes about which of its parameters need a gradient.
    """
    ### BEGIN SOLUTION
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, LoRALinear)]
    for name, layer in found:
        merge(layer)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.base)
    return [name for name, _ in found]
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Collect first and change later: <code>dict(model.named_modules())</code> is a list of all
# that is there, which does not move under your feet while you exchange things. All errors can be found before the first
# change.</details>
# <details><summary>A bigger nudge</summary>A layer is an attribute of its parent. Cut the full name at its last dot:
# <code>model.get_submodule(parent)</code> finds the one, and <code>setattr</code> sets the other. Setting an attribute of the
# model whose name contains dots changes nothing that is ever used. For the ends of names put a dot before both and compare.</details>

# %% test="inject" points=3
from coursekit import check

import torch

model = new_model("bert")
ids = torch.randint(30, (2, 7), generator=torch.Generator().manual_seed(0))
before = outputs(model, ids)
found = inject(model, ["query", "value"], rank=2, alpha=4.0, train=["classifier"])
layers = [f"bert.encoder.layer.{i}.attention.self.{name}" for i in (0, 1) for name in ("query", "value")]
check.equal(found, layers, "the names of the layers that got an adapter")
wanted = sorted([f"{name}.lora_{k}" for name in layers for k in "ab"] + ["classifier.bias", "classifier.weight"])
check.equal(trained(model), wanted, "what needs a gradient: the adapters and the classifier")
check.equal(outputs(model, ids), before, "the outputs, before any training")
check.raises(ValueError, lambda: inject(new_model("bert"), ["qeury"], 2, 4.0), "a misspelt name", match="qeury")
### BEGIN HIDDEN TESTS
MIXED = [f"blocks.{i}.mixer.dense" for i in (0, 1)]
TURNS = ["blocks.0.turn", "blocks.1.turn", "blocks.1.down"]
QUERIES = ["blocks.0.query", "blocks.1.query"]
for targets, train, rank, wanted, whole in (
    (["query"], [], 1, QUERIES, []),
    (["dense"], ["head"], 3, MIXED, ["head.dense", "head.out"]),
    (["dense"], [], 12, [*MIXED, "head.dense"], []),
    (["mixer.dense"], ["norm", "head.out"], 3, MIXED, ["norm", "head.out"]),
    (["turn", "blocks.1.down"], ["1.query"], 2, TURNS, ["blocks.1.query"]),
    (["dense", "query"], ["mixer", "out"], 3, [*QUERIES, "head.dense"], [*MIXED, "head.out"]),
):
    case = f"targets {targets}, train {train}, rank {rank}"
    dtype = torch.float64
    model, twin = new_model("toy", check.seed(1), dtype), make_model("toy", check.seed(1), dtype)
    draw = torch.Generator().manual_seed(check.seed(2))
    x = torch.randn(3, 5, 12, generator=draw, dtype=dtype)
    found = inject(model, tuple(targets), rank, 6.0, train=tuple(train), seed=check.seed(3))
    check.equal(found, wanted, f"{case}: the layers with an adapter, in order")
    check.equal(outputs(model, x), logits_of(twin, x).detach(), f"{case}: the outputs, before any training")
    shapes = {name: list(twin.get_submodule(name).weight.shape) for name in wanted}
    names = [f"{name}.lora_{k}" for name in wanted for k in "ab"]
    names += [f"{name}.{p}" for name in whole for p, _ in twin.get_submodule(name).named_parameters()]
    check.equal(trained(model), sorted(names), f"{case}: what needs a gradient")
    # Every adapter is there, in use, and has a seed of its own.
    state, values, weights = model.state_dict(), {}, {}
    for number, name in enumerate(wanted):
        conv = "Conv1D" in type(twin.get_submodule(name)).__name__
        d_out, d_in = shapes[name][::-1] if conv else shapes[name]
        base = new_layer("linear", d_in, d_out, dtype=dtype)
        single = LoRALinear(base, rank, 6.0, seed=check.seed(3) + number).state_dict()["lora_a"]
        check.equal(state[f"{name}.lora_a"], single, f"{case}: lora_a of {name} comes from seed + {number}")
        values[f"{name}.lora_b"] = torch.randn(d_out, rank, generator=draw, dtype=dtype)
        product = 6.0 / rank * values[f"{name}.lora_b"] @ single
        weights[f"{name}.weight"] = twin.get_submodule(name).weight.detach() + (product.T if conv else product)
    model.load_state_dict(values, strict=False)
    twin.load_state_dict(weights, strict=False)
    check.close(
        outputs(model, x),
        logits_of(twin, x).detach(),
        f"{case}: the outputs equal those of W + alpha / r B A",
        atol=1e-9,
    )

for targets, train, rank, why, match in (
    (["query", "nothing"], [], 2, "one of two names finds nothing", "nothing"),
    (["uery"], [], 2, "only whole parts of a name count", "blocks.0.query"),
    (["query"], ["tail"], 2, "there is no module of that name to train", "tail"),
    (["mixer"], [], 2, "a module that is no linear layer", "blocks.1.mixer.dense"),
    (["norm"], [], 2, "a norm is no linear layer", "norm"),
    (["out"], ["head"], 2, "the only layer of that name is trained as a whole", "out"),
    (["down", "out"], [], 4, "one of the layers has only three outputs", ""),
    (["query"], [], 0, "rank 0", ""),
):
    model = new_model("toy", check.seed(4))
    names = trained(model)

    def call(model=model, targets=targets, rank=rank, train=train):
        return inject(model, targets, rank, 1.0, train=train)

    check.raises(ValueError, call, f"targets {targets}, train {train}, rank {rank}: {why}", match=match)
    check.equal(
        trained(model), names, f"targets {targets}, train {train}, rank {rank}: refused, and nothing has changed"
    )
model = new_model("toy", check.seed(4))
inject(model, ["query"], 2, 4.0)
names = trained(model)
check.raises(ValueError, lambda: inject(model, ["subquery"], 2, 4.0), "the model has adapters already")
check.equal(trained(model), names, "the model with adapters: refused, and nothing has changed")

# Dropout, and the mode of the new layers.
x = torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(check.seed(5)))
for training, dropout, acts, what in (
    (False, 0.5, False, "in evaluation mode when it gets its adapters: no dropout"),
    (True, 0.5, True, "in training mode: dropout acts"),
    (True, None, False, "in training mode, dropout not given: it is zero"),
):
    model = new_model("toy", check.seed(6))
    model.train(training)
    inject(model, ["subquery"], 2, 4.0, **({} if dropout is None else {"dropout": dropout}))
    model.load_state_dict({f"blocks.{i}.subquery.lora_b": torch.ones(12, 2) for i in (0, 1)}, strict=False)
    one, other = outputs(model, x), outputs(model, x)
    same = torch.equal(one, other)
    check.that(same != acts, f"a model {what}", why=f"two calls give {'the same' if same else 'different outputs'}")
model.eval()
check.equal(outputs(model, x), one, "the same model in evaluation mode says what it says in training mode")
first = LoRALinear(new_layer("linear", 12, 12), 2, 4.0, seed=0).state_dict()["lora_a"]
check.equal(model.state_dict()["blocks.0.subquery.lora_a"], first, "the seed is 0 where it is left out")
### END HIDDEN TESTS

# %% test="inject" points=2
from coursekit import check

import torch

# One adapter by hand: with lora_a at ones and lora_b at zero, only lora_b gets a gradient.
model = new_model("toy")
inject(model, ["blocks.1.query"], rank=2, alpha=2.0)
model.load_state_dict({"blocks.1.query.lora_a": torch.ones(2, 12)}, strict=False)
x = torch.randn(1, 3, 12, generator=torch.Generator().manual_seed(0))
found = gradients(model, [x], torch.ones(1, 3, 3))
some = sorted(name for name, gradient in found.items() if gradient is not None)
check.equal(some, ["blocks.1.query.lora_a", "blocks.1.query.lora_b"], "which parameters get a gradient")
check.equal(found["blocks.1.query.lora_a"], torch.zeros(2, 12), "the gradient of lora_a, while lora_b is zero")
check.that(float(found["blocks.1.query.lora_b"].abs().max()) > 0, "the gradient of lora_b is not zero", why="it is")
### BEGIN HIDDEN TESTS
import warnings

from peft import LoraConfig, get_peft_model

dtype = torch.float64
for kind, targets, train, rank, alpha in (
    ("bert", ["query", "value", "dense"], ["pooler", "classifier"], 3, 12.0),
    ("gpt2", ["c_attn", "c_proj"], [], 4, 6.0),
):
    case = f"{kind}, targets {targets}, train {train}, rank {rank}, alpha {alpha:g}"
    model, twin = new_model(kind, check.seed(1), dtype), make_model(kind, check.seed(1), dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            target_modules=targets,
            modules_to_save=train or None,
            fan_in_fan_out=kind == "gpt2",
        )
        twin = get_peft_model(twin, settings).eval()
    # The names that peft gives to things, and ours.
    mine = {}
    for name, parameter in twin.named_parameters():
        short = name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")
        short = short.replace(".lora_A.default.weight", ".lora_a").replace(".lora_B.default.weight", ".lora_b")
        if parameter.requires_grad:
            mine[short] = parameter
    draw = torch.Generator().manual_seed(check.seed(2))
    with torch.no_grad():
        for parameter in mine.values():
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=dtype) / 3)
    inject(model, targets, rank, alpha, train=train)
    check.equal(trained(model), sorted(mine), f"{case}: what is trained is what peft trains")
    model.load_state_dict({name: parameter.detach() for name, parameter in mine.items()}, strict=False)
    inputs = [torch.randint(30, (3, 9), generator=draw)]
    if kind == "bert":
        inputs.append((torch.arange(9) < torch.tensor([[9], [4], [1]])).long())
    want = logits_of(twin, *inputs)
    direction = torch.randn(want.shape, generator=draw, dtype=dtype)
    check.close(outputs(model, *inputs), want.detach(), f"{case}: the logits equal those of peft", atol=1e-9)
    (want * direction).sum().backward()
    found = gradients(model, inputs, direction)
    for name, gradient in found.items():
        if name in mine:
            check.that(gradient is not None, f"{case}: a gradient reaches {name}")
            check.close(gradient, mine[name].grad, f"{case}: the gradient of {name} equals that of peft", atol=1e-8)
        else:
            check.that(gradient is None, f"{case}: {name} gets no gradient", why="it has one")
    optimizer = torch.optim.AdamW(mine.values(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (logits_of(twin, *inputs) * direction).sum().backward()
        optimizer.step()
    moved = adamw_steps(model, inputs, direction, 3)
    for name, parameter in mine.items():
        check.close(moved[name], parameter.detach(), f"{case}: {name} after three steps of AdamW", atol=1e-7)
    at_first = make_model(kind, check.seed(1), dtype).state_dict()
    for name, value in moved.items():
        if name not in mine:
            check.equal(value, at_first[name.replace(".base.", ".")], f"{case}: {name} after three steps: as at first")
### END HIDDEN TESTS

# %% test="inject" points=2
from coursekit import check

import torch

model = new_model("toy")
names = sorted(model.state_dict())
x = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(0))
inject(model, ["query"], rank=2, alpha=4.0)
model.load_state_dict({f"blocks.{i}.query.lora_b": torch.ones(12, 2) for i in (0, 1)}, strict=False)
adapted = outputs(model, x)
check.equal(merge_all(model), ["blocks.0.query", "blocks.1.query"], "the names of the layers that were merged")
check.equal(sorted(model.state_dict()), names, "the names in the model are those from before the adapters")
check.close(outputs(model, x), adapted, "the outputs are those of the model with adapters", atol=1e-4)
### BEGIN HIDDEN TESTS
for kind, targets, train in (
    ("toy", ["dense", "turn", "down", "out"], ["norm"]),
    ("bert", ["output.dense"], ["bert.pooler"]),
):
    case = f"{kind}, targets {targets}"
    dtype = torch.float64
    model, twin = new_model(kind, check.seed(1), dtype), make_model(kind, check.seed(1), dtype)
    draw = torch.Generator().manual_seed(check.seed(2))
    x = (
        torch.randn(3, 5, 12, generator=draw, dtype=dtype)
        if kind == "toy"
        else torch.randint(30, (3, 5), generator=draw)
    )
    names = sorted(model.state_dict())
    found = inject(model, targets, 2, 3.0, dropout=0.3, train=train)
    values = {
        name: torch.randn(value.shape, generator=draw, dtype=dtype) / 3
        for name, value in model.state_dict().items()
        if name.endswith("lora_b")
    }
    model.load_state_dict(values, strict=False)
    adapted = outputs(model, x)
    weights = {}
    state = model.state_dict()
    for name in found:
        product = 1.5 * values[f"{name}.lora_b"] @ state[f"{name}.lora_a"]
        layer = twin.get_submodule(name)
        weights[f"{name}.weight"] = layer.weight.detach() + (product.T if "Conv1D" in type(layer).__name__ else product)
    # One of the layers is merged already when all are.
    merge(model.get_submodule(found[0]))
    check.equal(merge_all(model), found, f"{case}: the names of the layers that were merged")
    state = model.state_dict()
    check.equal(sorted(state), names, f"{case}: the names in the model are those from before the adapters")
    for name, value in twin.state_dict().items():
        want = weights.get(name, value)
        check.close(state[name], want, f"{case}: {name} in the merged model", atol=1e-10)
    model.train()
    check.close(outputs(model, x), adapted, f"{case}: the outputs of the merged model", atol=1e-9)
    whole = sorted(f"{name}.{p}" for name in train for p, _ in twin.get_submodule(name).named_parameters())
    check.equal(trained(model), whole, f"{case}: what needs a gradient in the merged model")
    check.equal(merge_all(model), [], f"{case}: a second time there is nothing to merge")
### END HIDDEN TESTS


# %% alternative="inject"
def inject(model, targets, rank, alpha, dropout=0.0, train=(), seed=0):
    # Lists of the parts of names, and a check of everything beforehand.
    everything = [(name.split("."), module) for name, module in model.named_modules() if name]
    targets, train = [t.split(".") for t in targets], [t.split(".") for t in train]
    if any(type(module).__name__ == "LoRALinear" or hasattr(module, "lora_a") for _, module in everything):
        raise ValueError("adapters")
    heads = {tuple(t): [name for name, _ in everything if name[-len(t) :] == t] for t in train}
    inside = [name for names in heads.values() for name in names]
    candidates = []
    for name, module in everything:
        if isinstance(module, (nn.Linear, Conv1D)) and all(name[: len(head)] != head for head in inside):
            candidates.append((name, module))
    hits = {tuple(t): [name for name, _ in candidates if name[-len(t) :] == t] for t in targets}
    for end, names in [*hits.items(), *heads.items()]:
        if not names:
            raise ValueError(f"{'.'.join(end)} is not among {['.'.join(name) for name, _ in candidates]}")
    chosen = [(name, module) for name, module in candidates if any(name in names for names in hits.values())]
    if rank < 1 or any(rank > size for _, module in chosen for size in module.weight.shape):
        raise ValueError("rank")
    for name, parameter in model.named_parameters():
        path = name.split(".")
        parameter.requires_grad = any(path[: len(head)] == head for head in inside)
    for i, (name, module) in enumerate(chosen):
        owner = model
        for part in name[:-1]:
            owner = owner._modules[part]
        replacement = LoRALinear(module, rank, alpha, dropout=dropout, seed=seed + i)
        replacement.training = module.training
        owner._modules[name[-1]] = replacement
    return [".".join(name) for name, _ in chosen]


def merge_all(model, prefix=""):
    names = []
    for child, module in list(model.named_children()):
        if hasattr(module, "lora_a"):
            merge(module)
            model._modules[child] = module.base
            names.append(prefix + child)
        else:
            names += merge_all(module, f"{prefix}{child}.")
    return names


# %% mistakes="inject"
{
    "the rest of the model is not frozen": ("    model.requires_grad_(False)\n", ""),
    "the head is frozen with the rest": ("        modules[name].requires_grad_(True)\n", "        pass\n"),
    "each new layer is attached to the model under its full name, and the old one stays in use": (
        "setattr(model.get_submodule(parent), child, adapter)",
        "model._modules[name] = adapter",
    ),
    "any end of a name counts, so that query finds subquery": (
        'f".{name}".endswith(f".{end}")',
        "name.endswith(end)",
    ),
    "only full names count": ('f".{name}".endswith(f".{end}")', "name == end"),
    "a name may stand anywhere in the full name": ('f".{name}".endswith(f".{end}")', 'f".{end}." in f".{name}."'),
    "a target that finds nothing is passed over": (
        "        if not named(layers, [wanted]):\n",
        "        if not named(layers, targets):\n",
    ),
    "a name in train that finds nothing is passed over": (
        "        if not named(modules, [wanted]):\n",
        "        if False:\n",
    ),
    "the message does not say which layers there are": ("; there are {', '.join(layers)}", ""),
    "all adapters begin with the same seed": ("dropout, seed + number)", "dropout, seed)"),
    "the seeds count from one": ("enumerate(found)", "enumerate(found, 1)"),
    "only the first layer gets an adapter": ("found = named(layers, targets)", "found = named(layers, targets)[:1]"),
    "layers inside a module that is trained as a whole get adapters, too": (
        ' and not any(f"{name}.".startswith(f"{part}.") for part in whole)',
        "",
    ),
    "a Conv1D is never found": (
        "if isinstance(module, nn.Linear | Conv1D) and",
        "if isinstance(module, nn.Linear) and",
    ),
    "the new layers are in training mode, so dropout acts in a model that is being evaluated": (
        ".train(layers[name].training)",
        "",
    ),
    "dropout is not passed on": ("rank, alpha, dropout, seed + number)", "rank, alpha, 0.0, seed + number)"),
    "the rank is not passed on": ("LoRALinear(layers[name], rank,", "LoRALinear(layers[name], 1,"),
    "alpha is not passed on": ("LoRALinear(layers[name], rank, alpha,", "LoRALinear(layers[name], rank, 1.0,"),
    "the names come in the order of the targets": (
        "found = named(layers, targets)",
        "found = [name for wanted in targets for name in named(layers, [wanted])]",
    ),
    "the model is frozen before anything is checked": [
        ("    modules, targets, train = dict", "    model.requires_grad_(False)\n    modules, targets, train = dict"),
    ],
    "a rank that does not fit is noticed when half of the model is changed": (
        "        if not 1 <= rank <= min(layers[name].weight.shape):\n",
        "        if False:\n",
    ),
    "a second injection is accepted, and it freezes the first adapters": (
        "    if any(isinstance(module, LoRALinear) for module in modules.values()):\n",
        "    if False:\n",
    ),
    "merge_all puts the bases back without having merged anything": ("        merge(layer)\n", ""),
    "merge_all merges, and leaves the adapters where they are": (
        "        setattr(model.get_submodule(parent), child, layer.base)\n",
        "        pass\n",
    ),
    "merge_all makes the merged weights trainable": (
        "        merge(layer)\n",
        "        merge(layer)\n        layer.base.requires_grad_(True)\n",
    ),
    "merge_all passes over layers that are merged already": (
        "if isinstance(module, LoRALinear)]",
        "if isinstance(module, LoRALinear) and not module.merged]",
    ),
}

# %% [markdown]
# ## Exercise 4 · `adapter_state`
#
# First count what training costs, `training_memory`. Then save what was trained and nothing else, `adapter_state`. For one
# base there can now be a hundred tasks, each in a file of a few kilobytes.
#
# Loading is where it goes wrong in silence. A file of rank 1 fits into a model of rank 4, if one lets it: `copy_` repeats
# the one row four times. And two numbers that are not among the tensors, alpha and the rank, decide what the tensors mean.
# So the scaling goes into the file, and `load_adapter` compares.
#
# *Difficulty 2 of 5 · 20 minutes · 5 points*


# %% exercise="adapter_state" difficulty=2 minutes=20 forbid=["LoraConfig", "get_peft_model", "inject_adapter_in_model", "LoraModel"]
def training_memory(model: nn.Module) -> dict[str, int]:
    """What training a model with AdamW keeps in memory, activations left aside.

    Returns:
        "parameters": how many numbers all parameters have together, and "trained": how many of them need a gradient.
        "weights": the bytes of all parameters; "gradients": the bytes of their gradients; "moments": the bytes of AdamW's
        running means, of which there are two for each number that is trained. Gradients and moments have the dtype of
        their parameter. A parameter that the model holds twice counts once.
    """
    ### BEGIN SOLUTION
    everything = list(model.parameters())
    trained = [p for p in everything if p.requires_grad]
    gradients = sum(p.nbytes for p in trained)
    return {
        "parameters": sum(p.numel() for p in everything),
        "trained": sum(p.numel() for p in trained),
        "weights": sum(p.nbytes for p in everything),
        "gradients": gradients,
        "moments": 2 * gradients,
    }
    ### END SOLUTION


def adapter_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """What was trained, to be saved.

    Args:
        model: one with adapters.

    Returns:
        A dict with a copy of every parameter that needs a gradient, under its name in ``model.named_parameters()``: later
        training does not change it. And for every LoRALinear its scaling, a tensor without axes, float64, under the layer's
        full name with ``.scaling`` behind it.
    """
    ### BEGIN SOLUTION
    state = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            state[f"{name}.scaling"] = torch.tensor(module.scaling, dtype=torch.float64)
    return state
    ### END SOLUTION


def load_adapter(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Give a model the adapters of another one with the same base; `adapter_state` of the other one is ``state``.

    Args:
        model: one with adapters. Its parameters stay the same objects, with their dtype; only their values change.
        state: is not changed, and shares no memory with the model afterwards.

    Raises:
        ValueError: before anything has changed: if a name is missing or is one too many, if a shape differs, or if a
            scaling differs (the message holds the name in each case); or if a layer is merged, whose base still holds the old
            product.
    """
    ### BEGIN SOLUTION
    if any(isinstance(module, LoRALinear) and module.merged for module in model.modules()):
        raise ValueError("a layer is merged: unmerge it first")
    mine = adapter_state(model)
    if wrong := sorted(mine.keys() ^ state.keys()):
        raise ValueError(f"missing, or one too many: {', '.join(wrong)}")
    for name, value in mine.items():
        if value.shape != state[name].shape:
            raise ValueError(f"{name} has the shape {tuple(state[name].shape)}, it should be {tuple(value.shape)}")
        if name.endswith(".scaling") and value != state[name]:
            raise ValueError(f"{name} is {state[name]:g}, and in this model {value:g}")
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad:
                p.copy_(state[name])
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Which parameters? Those with <code>requires_grad</code>, in all three functions. A tensor
# knows its <code>numel()</code> and its <code>nbytes</code>.</details>
# <details><summary>A bigger nudge</summary><code>adapter_state</code> of the model itself says what names, shapes and
# scalings a file must have: compare the two dicts before you copy the first value. A snapshot needs <code>clone</code>, and to
# load in place needs <code>copy_</code> under <code>torch.no_grad()</code>.</details>

# %% test="adapter_state" points=1
from coursekit import check

import torch

model = new_model("toy")
full = training_memory(model)
count = 2 * (3 * 144 + 2 * 12 + 12 * 20 + 20 + 20 * 12 + 12) + 24 + 156 + 39
check.equal(full["parameters"], count, "the number of all parameters of Toy")
check.equal(full["moments"], 8 * count, "AdamW's moments in full fine-tuning: 8 bytes for each parameter")
inject(model, ["query", "down"], rank=2, alpha=4.0)
small = training_memory(model)
extra = 2 * (2 * (12 + 12) + 2 * (20 + 12))
want = {"parameters": count + extra, "trained": extra, "weights": 4 * (count + extra)}
want |= {"gradients": 4 * extra, "moments": 8 * extra}
check.equal({key: small.get(key) for key in want}, want, "with adapters of rank 2: r * (d_in + d_out) numbers for each")
### BEGIN HIDDEN TESTS
for kind, targets, train, rank, dtype in (
    ("bert", ["query", "value"], ["classifier"], 3, torch.float32),
    ("gpt2", ["c_attn"], [], 4, torch.float64),
    ("toy", ["dense"], ["norm"], 1, torch.bfloat16),
):
    case = f"{kind}, targets {targets}, rank {rank}, {dtype}"
    model, twin = new_model(kind, 0, dtype), make_model(kind, 0, dtype)
    for p in twin.parameters():
        p.grad = torch.ones_like(p)
    optimizer = torch.optim.AdamW(twin.parameters(), foreach=False)
    optimizer.step()
    held = sum(state[key].nbytes for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq"))
    numbers = sum(p.numel() for p in twin.parameters())
    want = {"parameters": numbers, "trained": numbers, "weights": numbers * dtype.itemsize}
    want |= {"gradients": numbers * dtype.itemsize, "moments": held}
    found = training_memory(model)
    check.equal({key: found.get(key) for key in want}, want, f"{case}: all is trained, as torch.optim.AdamW has it")
    found = inject(model, targets, rank, 1.0, train=train)
    shapes = [twin.get_submodule(name).weight.shape for name in found]
    extra = sum(rank * sum(shape) for shape in shapes)
    heads = sum(p.numel() for name in train for p in twin.get_submodule(name).parameters())
    want = {"parameters": numbers + extra, "trained": extra + heads, "weights": (numbers + extra) * dtype.itemsize}
    want |= {"gradients": (extra + heads) * dtype.itemsize, "moments": 2 * (extra + heads) * dtype.itemsize}
    found = training_memory(model)
    check.equal({key: found.get(key) for key in want}, want, f"{case}: with adapters")
### END HIDDEN TESTS

# %% test="adapter_state" points=4
from coursekit import check

import torch

model, other = new_model("toy"), new_model("toy")
for each in (model, other):
    inject(each, ["query"], rank=2, alpha=3.0, train=["out"])
layers = ["blocks.0.query", "blocks.1.query"]
names = [f"{name}.{part}" for name in layers for part in ("lora_a", "lora_b", "scaling")] + [
    "head.out.bias",
    "head.out.weight",
]
model.load_state_dict({f"{name}.lora_b": torch.ones(12, 2) for name in layers}, strict=False)
state = adapter_state(model)
check.equal(sorted(state), sorted(names), "the names of what is saved")
check.close(state["blocks.1.query.scaling"], torch.tensor(1.5, dtype=torch.float64), "a scaling in the file")
load_adapter(other, state)
x = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(0))
check.equal(outputs(other, x), outputs(model, x), "another model with the same base says the same afterwards")
thin = new_model("toy")
inject(thin, ["query"], rank=1, alpha=1.5, train=["out"])
what = "a file of rank 1 for a model of rank 2"
check.raises(ValueError, lambda: load_adapter(other, adapter_state(thin)), what, match="lora")
### BEGIN HIDDEN TESTS
dtype = torch.float64
for kind, targets, train, rank, alpha in (
    ("toy", ["dense", "turn"], ["norm"], 3, 1.0),
    ("bert", ["query"], ["classifier"], 2, 7.0),
    ("gpt2", ["c_proj"], [], 1, 2.0),
):
    case = f"{kind}, targets {targets}, train {train}"
    model, other = new_model(kind, check.seed(1), dtype), new_model(kind, check.seed(1), dtype)
    for each, seed in ((model, check.seed(2)), (other, check.seed(3))):
        found = inject(each, targets, rank, alpha, train=train, seed=seed)
    draw = torch.Generator().manual_seed(check.seed(4))
    full = {name: value.detach().clone() for name, value in model.state_dict().items()}
    values = {name: torch.randn(full[name].shape, generator=draw, dtype=dtype) / 3 for name in trained(model)}
    model.load_state_dict(values, strict=False)
    state = adapter_state(model)
    scalings = {f"{name}.scaling": torch.tensor(alpha / rank, dtype=dtype) for name in found}
    check.equal(sorted(state), sorted([*values, *scalings]), f"{case}: the names of what is saved")
    for name, value in (values | scalings).items():
        check.equal(state[name].detach(), value, f"{case}: {name} in the file")
    check.equal(any(value.requires_grad for value in state.values()), False, f"{case}: what is saved needs no gradient")
    for name, value in save_and_change(model).items():
        want = (values | scalings)[name]
        check.equal(value.detach(), want, f"{case}: {name} in a file, after the model was trained on")
    model.load_state_dict(full, strict=False)
    model.load_state_dict(values, strict=False)
    before = other.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    facts = load_and_spoil(other, state)
    check.equal(facts["the same parameters"], True, f"{case}: the parameters are the objects that they were")
    check.equal(facts["needs a gradient"], sorted(values), f"{case}: what needs a gradient, afterwards")
    for name, value in facts["values"].items():
        want = values.get(name, before[name])
        check.equal(value, want, f"{case}: {name}, though the file was overwritten after it was loaded")
    x = (
        torch.randn(3, 5, 12, generator=draw, dtype=dtype)
        if kind == "toy"
        else torch.randint(30, (3, 5), generator=draw)
    )
    check.equal(outputs(other, x), outputs(model, x), f"{case}: both models say the same")

# What must be refused, and without a trace.
model = new_model("toy", check.seed(1), dtype)
inject(model, ["query", "down"], 2, 3.0, train=["out"])
good = {
    name: value.detach().clone() + (0 if name.endswith("scaling") else 1)
    for name, value in adapter_state(model).items()
}
last = "head.out.weight"
for why, bad, match in (
    ("a tensor of the head is missing", {n: v for n, v in good.items() if n != last}, last),
    ("a lora_b is missing", {n: v for n, v in good.items() if n != "blocks.1.down.lora_b"}, "blocks.1.down.lora_b"),
    ("a scaling is missing", {n: v for n, v in good.items() if n != "blocks.1.down.scaling"}, "blocks.1.down.scaling"),
    (
        "there is one name too many",
        good | {"blocks.2.query.lora_a": torch.ones(2, 12, dtype=dtype)},
        "blocks.2.query.lora_a",
    ),
    ("a lora_a has rank 1", good | {"blocks.1.down.lora_a": torch.ones(1, 20, dtype=dtype)}, "blocks.1.down.lora_a"),
    ("a lora_b has rank 1", good | {"blocks.1.down.lora_b": torch.ones(12, 1, dtype=dtype)}, "blocks.1.down.lora_b"),
    ("a matrix of the head is transposed", good | {last: good[last].T}, last),
    (
        "a scaling is another one",
        good | {"blocks.1.down.scaling": torch.tensor(3.0, dtype=dtype)},
        "blocks.1.down.scaling",
    ),
):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check.raises(ValueError, lambda bad=bad: load_adapter(model, bad), why, match=match)
    for name, value in model.state_dict().items():
        check.equal(value, before[name], f"{why}: refused, and {name} has not changed")
merge(model.get_submodule("blocks.1.query"))
before = {name: value.clone() for name, value in model.state_dict().items()}
check.raises(ValueError, lambda: load_adapter(model, good), "one of the layers is merged", match="merge")
for name, value in model.state_dict().items():
    check.equal(value, before[name], f"one of the layers is merged: refused, and {name} has not changed")
unmerge(model.get_submodule("blocks.1.query"))
load_adapter(model, good)
check.equal(model.state_dict()[last], good[last], "unmerged, the same file is loaded")
# A file in float64 for a model in float32.
model = new_model("toy")
inject(model, ["query", "down"], 2, 3.0, train=["out"])
load_adapter(model, good)
check.equal(
    model.state_dict()[last], good[last].float(), "a float64 file in a float32 model: the model keeps its dtype"
)
### END HIDDEN TESTS


# %% alternative="adapter_state"
def training_memory(model):
    sizes = {"parameters": 0, "trained": 0, "weights": 0, "gradients": 0, "moments": 0}
    for parameter in set(model.parameters()):
        number, width = parameter.shape.numel(), parameter.element_size()
        sizes["parameters"] += number
        sizes["weights"] += number * width
        if parameter.requires_grad:
            sizes["trained"] += number
            sizes["gradients"] += number * width
            sizes["moments"] += number * (width + width)
    return sizes


def adapter_state(model):
    import copy

    wanted = [name for name, p in model.named_parameters() if p.requires_grad]
    state = {name: copy.deepcopy(value) for name, value in model.state_dict().items() if name in wanted}
    layers = {name: m for name, m in model.named_modules() if hasattr(m, "lora_b")}
    return state | {
        name + ".scaling": torch.full((), layer.scaling, dtype=torch.float64) for name, layer in layers.items()
    }


def load_adapter(model, state):
    here = adapter_state(model)
    for name in [*here, *state]:
        if name not in here or name not in state or here[name].size() != state[name].size():
            raise ValueError(name)
        if name.split(".")[-1] == "scaling" and float(here[name]) != float(state[name]):
            raise ValueError(name)
    for module in model.modules():
        if getattr(module, "merged", False):
            raise ValueError("merged")
    print("loading", len(state))
    model.load_state_dict({name: value for name, value in state.items() if name[-8:] != ".scaling"}, strict=False)


# %% mistakes="adapter_state"
{
    "the file shares its memory with the model, and changes while it is trained": ("p.detach().clone()", "p.detach()"),
    "the whole model is saved": ("model.named_parameters() if p.requires_grad}", "model.named_parameters()}"),
    "the head is not saved, only the adapters are": (
        "model.named_parameters() if p.requires_grad}",
        'model.named_parameters() if "lora_" in name}',
    ),
    "lora_a is not saved": (
        "model.named_parameters() if p.requires_grad}",
        'model.named_parameters() if p.requires_grad and not name.endswith("lora_a")}',
    ),
    "what is saved still needs a gradient": ("p.detach().clone()", "p.clone()"),
    "the scaling is not saved": (
        '            state[f"{name}.scaling"] = torch.tensor(module.scaling, dtype=torch.float64)\n',
        "            pass\n",
    ),
    "names that are missing in the file are passed over": [
        ("mine.keys() ^ state.keys()", "state.keys() - mine.keys()"),
        ("for name, value in mine.items():", "for name, value in ((n, mine[n]) for n in mine if n in state):"),
        ("            if p.requires_grad:\n", "            if p.requires_grad and name in state:\n"),
    ],
    "names that are one too many are passed over": ("mine.keys() ^ state.keys()", "mine.keys() - state.keys()"),
    "shapes are not compared, and the one row of a rank-1 file is repeated": (
        "        if value.shape != state[name].shape:\n",
        "        if value.numel() < state[name].numel():\n",
    ),
    "only the number of values is compared and not the shape": (
        "        if value.shape != state[name].shape:\n",
        "        if value.numel() != state[name].numel():\n",
    ),
    "another scaling is accepted": (
        '        if name.endswith(".scaling") and value != state[name]:\n',
        "        if False:\n",
    ),
    "values are copied before all of them are checked": (
        "    for name, value in mine.items():\n",
        "    parameters = dict(model.named_parameters())\n    for name, value in mine.items():\n"
        "        if name in parameters and value.shape == state[name].shape:\n"
        "            parameters[name].data.copy_(state[name])\n",
    ),
    "a merged layer gets new adapters, and its base keeps the old ones": (
        "    if any(isinstance(module, LoRALinear) and module.merged for module in model.modules()):\n",
        "    if False:\n",
    ),
    "the tensors of the file become the parameters, and are shared with it": (
        "                p.copy_(state[name])\n",
        "                p.data = state[name]\n",
    ),
    "the parameters are new objects, and the optimiser goes on with the old ones": (
        "        for name, p in model.named_parameters():\n            if p.requires_grad:\n                p.copy_(state[name])\n",
        "        for name, p in list(model.named_parameters()):\n            if p.requires_grad:\n"
        "                parent, _, last = name.rpartition('.')\n"
        "                setattr(model.get_submodule(parent), last, nn.Parameter(state[name].to(p.dtype, copy=True)))\n",
    ),
    "the values of the file are added to those of the model": ("p.copy_(state[name])", "p.add_(state[name])"),
    "AdamW is taken to keep one number for each that is trained": ("2 * gradients", "gradients"),
    "moments are counted for frozen parameters, too": (
        '"moments": 2 * gradients,',
        '"moments": 2 * sum(p.nbytes for p in everything),',
    ),
    "gradients are counted for frozen parameters, too": (
        '"gradients": gradients,',
        '"gradients": sum(p.nbytes for p in everything),',
    ),
    "only trained weights are counted": ('"weights": sum(p.nbytes for p in everything)', '"weights": gradients'),
    "every number is taken to have four bytes": ("p.nbytes", "4 * p.numel()", "all"),
}

# %% [markdown]
# ## Exercise 5 · `compare`
#
# Is LoRA better than full fine-tuning? With the same number of steps, or in the same time? Both are fair questions with
# different answers, as long as both sides are given the whole budget. What is not fair: to let one side stop when it is
# done and to compare the ends; to take the best moment of each run, which is a look at the answers; and to call 0.87 against
# 0.86 a win.
#
# `compare` takes several runs of each, one for each seed. Runs with the same seed saw the same examples, so subtract
# them in pairs: what was hard about the seed was hard for both. The mean of the differences has an interval around it; its
# width comes from the table `T_95` in the first folded cell, which says 4.303 for three seeds.
# Only if zero lies outside is there a verdict. With three seeds the interval is wide, and it should be.
#
# A small case: the differences are 0.02, 0.04 and 0.06. Their mean is 0.04, their standard deviation is 0.02. The
# interval is $0.04 \pm 4.303 \cdot 0.02 / \sqrt{3}$, from −0.0097 to 0.0897. Three of three seeds say "better", and it is undecided.
#
# *Difficulty 2 of 5 · 20 minutes · 4 points*


# %% exercise="compare" difficulty=2 minutes=20 forbid=["ttest_rel", "ttest_1samp", "interval"]
def compare(
    full: list[list[dict[str, float]]], lora: list[list[dict[str, float]]], budget: float, by: str = "step"
) -> dict[str, Any]:
    """Which way to train is better, when both may spend the same.

    Args:
        full, lora: the runs of the two ways, one for each seed, in the same order of seeds. A run is a list of records in the
            order of time, dicts with the keys "step", "seconds" (since the run began) and "accuracy". Steps and seconds grow
            from record to record.
        budget: how much each run may spend.
        by: of what, "step" or "seconds".

    Returns:
        "full", "lora": lists, for each run its accuracy at the budget: that of the last record for which ``record[by]`` is
            not larger than the budget.
        "difference": the mean over the seeds of lora minus full.
        "low", "high": the 95% confidence interval of that mean, from the pairs with the same seed: difference -/+
            ``T_95[n - 1]`` * s / sqrt(n), where s is the standard deviation of the n differences (with n - 1).
        "verdict": "lora" if low is above 0, "full" if high is below 0, "undecided" otherwise.

    Raises:
        ValueError: if ``by`` is something else; if the two ways have different numbers of runs, fewer than two, or more than
            ten; if a run has no record within the budget; if a run ends before the budget, that is, ``record[by]`` of
            its last record is below it: it was not given all that it may spend.

    Source: Student, The Probable Error of a Mean, 1908.
    """
    ### BEGIN SOLUTION
    n = len(full)
    if by not in ("step", "seconds") or len(lora) != n or n - 1 not in T_95:
        raise ValueError(f"cannot compare {n} and {len(lora)} runs by {by!r}")

    def at_budget(run):
        within = [record["accuracy"] for record in run if record[by] <= budget]
        if not within or run[-1][by] < budget:
            raise ValueError(f"a run has spent {run[0][by]:g} to {run[-1][by]:g}, and the budget is {budget:g}")
        return within[-1]

    scores = {"full": [at_budget(run) for run in full], "lora": [at_budget(run) for run in lora]}
    differences = torch.tensor(scores["lora"], dtype=torch.float64) - torch.tensor(scores["full"], dtype=torch.float64)
    mean, half = differences.mean().item(), T_95[n - 1] * differences.std().item() / math.sqrt(n)
    low, high = mean - half, mean + half
    verdict = "lora" if low > 0 else "full" if high < 0 else "undecided"
    return scores | {"difference": mean, "low": low, "high": high, "verdict": verdict}
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>One small function that finds the accuracy of one run at the budget, or refuses the run.
# The rest is a mean and a standard deviation of a list of differences.</details>
# <details><summary>A bigger nudge</summary>Subtract first, seed by seed, and take mean and deviation of the differences.
# <code>torch.std</code> divides by n − 1. "Not given the whole budget" is a question to the last record of the run, and
# "within" a question to each of them.</details>

# %% test="compare" points=4
from coursekit import check


def run(*rows):
    return [dict(zip(("step", "seconds", "accuracy"), row, strict=True)) for row in rows]


up, down = [run((10, 1.0, 0.5)), run((10, 1.0, 0.6))], [run((10, 1.0, 0.7)), run((10, 1.0, 0.55))]
check.equal(compare(up, down, 10)["verdict"], "undecided", "the verdict where one seed gains 0.2 and one loses 0.05")
# A step of LoRA takes half the time here, so it has twice the steps by the same time.
full = [run((10, 2.0, 0.50 + d), (20, 4.0, 0.60 + d), (30, 6.0, 0.70 + d)) for d in (0.0, 0.1, 0.2)]
lora = [run((10, 1.0, 0.52), (20, 2.0, 0.62), (40, 4.0, 0.66)), run((10, 1.0, 0.64), (20, 2.0, 0.74), (40, 4.0, 0.78))]
lora += [run((10, 1.0, 0.76), (20, 2.0, 0.86), (40, 4.0, 0.90))]
found = compare(full, lora, 10)
check.close(found["full"], [0.5, 0.6, 0.7], "full fine-tuning after 10 steps, seed by seed")
check.close(found["lora"], [0.52, 0.64, 0.76], "LoRA after 10 steps, seed by seed")
numbers = [found["difference"], found["low"], found["high"]]
check.close(numbers, [0.04, -0.0097, 0.0897], "10 steps: mean difference and interval, as in the text", atol=1e-4)
check.equal(found["verdict"], "undecided", "10 steps: the verdict, with zero in the interval")
found = compare(full, lora, 4.0, by="seconds")
check.close(found["full"] + found["lora"], [0.6, 0.7, 0.8, 0.66, 0.78, 0.9], "both after 4 seconds, full first")
check.raises(ValueError, lambda: compare(full, lora, 5.0, by="seconds"), "LoRA was stopped after 4 of 5 seconds")
### BEGIN HIDDEN TESTS
import torch
from scipy import stats


def flat(values, at=((1, 0.5), (2, 1.5), (3, 2.5))):
    """Runs whose accuracy at every record is that of the seed."""
    return [run(*((step, seconds, value) for step, seconds in at)) for value in values]


# Verdicts that hold for every seed, and what scipy says of the same pairs.
for n in (2, 3, 4, 7, 10):
    draw = torch.Generator().manual_seed(check.seed(n))
    level = torch.rand(n, generator=draw, dtype=torch.float64)  # how hard a seed is: the same for both
    noise = torch.rand(n, generator=draw, dtype=torch.float64) - 0.5
    noise = 0.02 * (noise - noise.mean()) / noise.std()
    half = float(stats.t.ppf(0.975, n - 1)) * 0.02 / n**0.5
    for factor, verdict in ((1.2, "lora"), (0.8, "undecided"), (-0.8, "undecided"), (-1.2, "full")):
        one, other = level.tolist(), (level + noise + factor * half).tolist()
        found = compare(flat(one), flat(other), 2)
        interval = stats.ttest_rel(other, one).confidence_interval(0.95)
        case = f"{n} seeds, a mean difference of {factor:g} half intervals"
        check.close(found["full"] + found["lora"], one + other, f"{case}: the accuracies", atol=1e-12)
        check.close(found["difference"], factor * half, f"{case}: the difference", atol=1e-9)
        check.close(
            found["low"], float(interval.low), f"{case}: the lower end, as scipy.stats.ttest_rel", atol=1e-6, rtol=1e-3
        )
        check.close(
            found["high"],
            float(interval.high),
            f"{case}: the upper end, as scipy.stats.ttest_rel",
            atol=1e-6,
            rtol=1e-3,
        )
        check.equal(found["verdict"], verdict, f"{case}: the verdict")
for values, verdict in (([0.5, 0.6], "undecided"), ([0.75, 0.85], "lora"), ([0.25, 0.35], "full")):
    found = compare(flat([0.5, 0.6]), flat(values), 3)
    check.equal(found["verdict"], verdict, f"all differences are {values[0] - 0.5:g}: the verdict")
# Which record counts: curves that go up and down, with the budget on a record, between two, and at the end.
at = ((0, 0.0, 0.1), (3, 0.7, 0.9), (5, 1.0, 0.4), (9, 2.5, 0.7), (12, 6.0, 0.2))
slow = tuple((step, 3 * seconds, 1 - accuracy) for step, seconds, accuracy in at)
full, lora = [run(*at), run(*at)], [run(*slow), run(*slow)]
for budget, by, one, other in (
    (5, "step", 0.4, 0.6),
    (8, "step", 0.4, 0.6),
    (2, "step", 0.1, 0.9),
    (12, "step", 0.2, 0.8),
    (0, "step", 0.1, 0.9),
    (2.5, "seconds", 0.7, 0.1),
    (5.9, "seconds", 0.7, 0.6),
    (6.0, "seconds", 0.2, 0.6),
    (0.69, "seconds", 0.1, 0.9),
):
    found = compare(full, lora, budget, by)
    check.close(found["full"], [one, one], f"full at a budget of {budget} by {by}")
    check.close(found["lora"], [other, other], f"lora at a budget of {budget} by {by}")
    check.close(found["difference"], other - one, f"the difference at a budget of {budget} by {by}", atol=1e-9)
late = [run(*at[1:]), run(*at[1:])]
for a, b, budget, by, why in (
    (full, lora, 12.5, "step", "both end at step 12"),
    (full, lora, 6.1, "seconds", "the first way ends after 6 seconds"),
    (lora, full, 6.1, "seconds", "the second way ends after 6 seconds"),
    ([full[0], full[1][:-1]], lora, 12, "step", "one run of the first way ends at step 9"),
    (full, [lora[0][:-1], lora[1]], 12, "step", "one run of the second way ends at step 9"),
    (full, late, 2, "step", "the second way has its first record at step 3"),
    (late, full, 2, "step", "the first way has its first record at step 3"),
    (full, lora[:1], 5, "step", "two runs and one"),
    (full + full, lora + lora[:1], 5, "step", "four runs and three"),
    (full + full[:1], lora, 5, "step", "three runs and two"),
    (full, lora + lora[:1], 5, "step", "two runs and three"),
    (full[:1], lora, 5, "step", "one run and two"),
    (full[:1], lora[:1], 5, "step", "one seed"),
    ([], [], 5, "step", "no seeds"),
    (6 * full, 6 * lora, 5, "step", "twelve seeds, and the table ends at ten"),
    (full, lora, 0.5, "accuracy", "by accuracy"),
    (full, lora, 5, "steps", "by steps, and not by step"),
):
    check.raises(ValueError, lambda a=a, b=b, budget=budget, by=by: compare(a, b, budget, by), f"refused: {why}")
### END HIDDEN TESTS


# %% alternative="compare"
def compare(full, lora, budget, by="step"):
    import statistics

    if by != "step" and by != "seconds":
        raise ValueError(by)
    if not 2 <= len(full) == len(lora) <= 10:
        raise ValueError("runs")
    scores = {"full": [], "lora": []}
    for name, runs in (("full", full), ("lora", lora)):
        for run in runs:
            score = None
            for record in run:
                if record[by] > budget:
                    break
                score = record["accuracy"]
            if score is None or max(record[by] for record in run) < budget:
                raise ValueError("budget")
            scores[name].append(score)
    pairs = [b - a for a, b in zip(scores["full"], scores["lora"], strict=True)]
    error = statistics.stdev(pairs) / len(pairs) ** 0.5
    middle = sum(pairs) / len(pairs)
    low, high = (middle + sign * T_95[len(pairs) - 1] * error for sign in (-1, 1))
    found = {"difference": middle, "low": low, "high": high, "verdict": "undecided"}
    if low * high > 0:
        found["verdict"] = "full" if middle < 0 else "lora"
    return {**scores, **found}


# %% mistakes="compare"
{
    "a run that ended early is taken at its end": (
        "if not within or run[-1][by] < budget:",
        "if not within:",
    ),
    "the best moment of each run is taken, which is a look at the answers": ("return within[-1]", "return max(within)"),
    "the last record of each run is taken, whatever it has spent": ("return within[-1]", 'return run[-1]["accuracy"]'),
    "the first record is taken that has spent the whole budget, and what it spent beyond": (
        "return within[-1]",
        'return next(record["accuracy"] for record in run if record[by] >= budget)',
    ),
    "a record exactly at the budget does not count": ("record[by] <= budget]", "record[by] < budget]"),
    "the budget is always one of steps": [
        ("if record[by] <= budget]", 'if record["step"] <= budget]'),
        ("run[-1][by] < budget:", 'run[-1]["step"] < budget:'),
    ],
    "the seeds are not paired: the spreads of both ways are added": (
        "differences.std().item()",
        'math.hypot(*(torch.tensor(scores[way], dtype=torch.float64).std().item() for way in ("full", "lora")))',
    ),
    "the interval is 1.96 deviations wide, as if there were many seeds": ("T_95[n - 1] *", "1.96 *"),
    "the table is read at n and not at n - 1": ("T_95[n - 1] * diff", "T_95.get(n, 2.228) * diff"),
    "the standard deviation divides by n": ("differences.std()", "differences.std(correction=0)"),
    "the deviation of one seed is taken for that of the mean": (" / math.sqrt(n)", ""),
    "the deviation is divided by n and not by its root": (" / math.sqrt(n)", " / n"),
    "the difference is full minus lora": (
        "mean, half = differences.mean()",
        "differences = -differences\n    mean, half = differences.mean()",
    ),
    "the sign of the difference is thrown away": (
        "mean, half = differences.mean()",
        "mean, half = differences.abs().mean()",
    ),
    "the larger mean wins, however small the difference": (
        '"lora" if low > 0 else "full" if high < 0 else "undecided"',
        '"lora" if mean > 0 else "full" if mean < 0 else "undecided"',
    ),
    "a way wins when it is ahead for every seed": (
        '"lora" if low > 0 else "full" if high < 0 else "undecided"',
        '"lora" if differences.min() > 0 else "full" if differences.max() < 0 else "undecided"',
    ),
    "the verdicts are exchanged": ('"lora" if low > 0 else "full" if', '"full" if low > 0 else "lora" if'),
    "one seed more on one side is cut off": [
        ("    n = len(full)\n", "    n = min(len(full), len(lora))\n    full, lora = full[:n], lora[:n]\n"),
    ],
    "any name of a budget is accepted": ('by not in ("step", "seconds") or ', ""),
}

# %% [markdown]
# ## Look at it
#
# First something to fine-tune. A small BERT learns the little language of [Lab
# 3.5](../ch03_transformer/lab05_masked_lm.ipynb) by guessing hidden words: two sentences, of which the second speaks of
# the first one's subject, so *it* or *they* has to agree.

# %%
import random
import time

from transformers.models.bert.modeling_bert import BertConfig, BertForMaskedLM, BertForSequenceClassification
from transformers.utils import logging

from coursekit import carry
from coursekit.sentences import WORDS, pair

logging.set_verbosity_error()
torch.set_num_threads(1)
mask_tokens = carry("ch03/lab05", "mask_tokens")  # 0 is [PAD], 1 [CLS], 2 [SEP], 3 [MASK]
number = {word: i for i, word in enumerate(WORDS)}


def batch(pairs):
    """ids, mask of what is no padding, and segments, all (B, 17)."""
    texts = [["[CLS]", *first, "[SEP]", *second, "[SEP]"] for first, second in pairs]
    ids = torch.tensor([[number[word] for word in text] + [0] * (17 - len(text)) for text in texts])
    segments = torch.tensor([[0] * (len(first) + 2) + [1] * (15 - len(first)) for first, _ in pairs])
    return ids, (ids != 0).long(), segments


HARDER = False


def labelled(seed, n):
    """Pairs of which half fit, and which. HARDER asks whether that or "the second verb is not follow" holds, but not both."""
    draw = random.Random(seed)
    fits = [draw.randrange(2) for _ in range(n)]
    pairs = [pair(draw, draw.random() < 0.5, bool(fit)) for fit in fits]
    if HARDER:
        fits = [fit ^ (not second[1].startswith("follow")) for fit, (_, second) in zip(fits, pairs, strict=True)]
    return (*batch(pairs), torch.tensor(fits).long())


sizes = {"vocab_size": len(WORDS), "max_position_embeddings": 17, "hidden_size": 64, "intermediate_size": 128}
sizes |= {"num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.1, "num_labels": 2}
settings = BertConfig(**sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
PRETRAINING = 300
torch.manual_seed(0)
reader, draw, generator = BertForMaskedLM(settings), random.Random(0), torch.Generator().manual_seed(1)
optimizer = torch.optim.AdamW(reader.parameters(), lr=4e-3)
begun, losses = time.perf_counter(), []
for step in range(PRETRAINING):
    optimizer.param_groups[0]["lr"] = 4e-3 * min((step + 1) / 50, 1 - step / PRETRAINING)
    ids, real, segments = batch([pair(draw, draw.random() < 0.5) for _ in range(32)])
    hidden, labels = mask_tokens(ids, len(WORDS), generator, share=0.3)
    loss = reader(hidden, attention_mask=real, token_type_ids=segments, labels=labels).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(
    f"{PRETRAINING} steps in {time.perf_counter() - begun:.0f} s; loss {losses[0]:.2f} -> {sum(losses[-20:]) / 20:.2f}"
)

# %% [markdown]
# Now the task: does the second sentence fit the first? Both ways get the same 384 examples, in the same order, so equal steps
# are equal examples and equal tokens. Each may choose its own learning rate, since nothing says that the best one is the same:
# four rates are tried on examples that serve for nothing else. Then come five seeds, which differ in the examples, their
# order, the new head and the first `lora_a`. After a short warm-up the rate is constant, so that one run can be judged at
# every moment. The time is what the processor spends on training steps alone.

# %%
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from coursekit import plots

STEPS, RANK = 48, 4
TARGETS, HEAD = ["query", "value", "intermediate.dense", "output.dense"], ["pooler", "classifier"]


def classifier(way, seed):
    """The reader with a new head, to be trained in one of the two ways."""
    torch.manual_seed(seed)
    model = BertForSequenceClassification(settings)
    missing = model.load_state_dict(reader.state_dict(), strict=False).missing_keys
    assert all("pooler" in name or "classifier" in name for name in missing)
    if way == "lora":
        inject(model, TARGETS, rank=RANK, alpha=2.0 * RANK, train=HEAD, seed=1000 * seed)
    return model


def accuracy(model, examples):
    ids, real, segments, classes = examples
    with torch.no_grad():
        return (model(ids, real, segments).logits.argmax(-1) == classes).double().mean().item()


def fine_tune(way, rate, seed, judge, steps=STEPS, seconds=0.0):
    """A model and its records, one for every eight steps, until all steps are done and all seconds are spent."""
    model, examples = classifier(way, seed), labelled(seed, 384)
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    step, spent, records = 0, 0.0, []
    while step < steps or spent < seconds:
        begun = time.process_time()
        for _ in range(8):
            if step % 12 == 0:
                rows = torch.randperm(384, generator=order)
            ids, real, segments, classes = (part[rows[32 * (step % 12) :][:32]] for part in examples)
            optimizer.param_groups[0]["lr"] = rate * min((step + 1) / 10, 1)
            optimizer.zero_grad()
            model(ids, real, segments, labels=classes).loss.backward()
            optimizer.step()
            step += 1
        spent += time.process_time() - begun
        records.append({"step": step, "seconds": spent, "accuracy": accuracy(model, judge)})
    return model, records


tuning, test = labelled(10_001, 200), labelled(10_002, 400)
RATES, rate = (1e-3, 3e-3, 1e-2, 3e-2), {}
for way in ("full", "lora"):
    tried = [fine_tune(way, candidate, 99, tuning)[1] for candidate in RATES]
    means = [sum(record["accuracy"] for record in run) / len(run) for run in tried]  # who learns early is ahead
    rate[way] = RATES[means.index(max(means))]
    said = ", ".join(f"{mean:.1%} with {r:g}" for r, mean in zip(RATES, means, strict=True))
    print(f"{way}: right on average over the run: {said}")
full_runs, lora_runs, models = [], [], {}
for seed in range(5):
    models["full"], run = fine_tune("full", rate["full"], seed, test)
    full_runs.append(run)
seconds = min(run[-1]["seconds"] for run in full_runs)
for seed in range(5):
    models["lora"], run = fine_tune("lora", rate["lora"], seed, test, seconds=seconds)
    lora_runs.append(run)

for by, budget in (("step", STEPS // 3), ("step", STEPS), ("seconds", seconds / 3), ("seconds", seconds)):
    found = compare(full_runs, lora_runs, budget, by)
    ends = {way: torch.tensor(found[way], dtype=torch.float64) for way in ("full", "lora")}
    said = ", ".join(f"{way} {100 * e.mean():.1f} (spread {100 * e.std():.1f})" for way, e in ends.items())
    print(f"at {budget:.3g} {by + 's' * (by == 'step'):7}: {said}; ", end="")
    print(f"lora - full {100 * found['low']:+.1f} to {100 * found['high']:+.1f} points: {found['verdict']}")
each = {
    way: sum(r[-1]["seconds"] / r[-1]["step"] for r in runs) / 5
    for way, runs in (("full", full_runs), ("lora", lora_runs))
}
print(f"a step takes {1000 * each['full']:.1f} ms in full, {1000 * each['lora']:.1f} ms with LoRA")

figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.05)
for column, (by, budget) in enumerate((("step", STEPS), ("seconds", seconds)), start=1):
    for colour, name, runs in zip(plots.COLOURS, ("full", "LoRA"), (full_runs, lora_runs), strict=False):
        for seed, run in enumerate(runs):
            figure.add_scatter(
                x=[record[by] for record in run],
                y=[100 * record["accuracy"] for record in run],
                name=name,
                legendgroup=name,
                showlegend=column == 1 and seed == 0,
                mode="lines",
                line={"color": colour, "width": 1.5},
                hovertemplate=f"{name}, seed {seed}<br>%{{x:.3g}} {by}<br>%{{y:.1f}}% right<extra></extra>",
                row=1,
                col=column,
            )
    figure.add_vline(x=budget, line={"color": plots.GREY, "dash": "dot"}, row=1, col=column)
    figure.update_xaxes(title_text="steps" if by == "step" else "seconds of training", row=1, col=column)
figure.update_yaxes(title_text="right on 400 new pairs (%)", row=1, col=1)
figure.update_layout(height=400, legend={"orientation": "h", "y": -0.25})
figure.show()

# %% [markdown]
# Each line is a seed, and the dotted lines are the whole budgets. Compare the two panels, and the verdicts above them with what
# you would have said after looking at one line of each. Do not be surprised if all of them say "undecided". This task is
# easy: both ways come close to 100%, and there is little left to differ in. That is a finding about the task, not one that
# the two are equal. A harder task follows below. And all seeds start from the same reader, so whatever the verdict, it is
# about this reader.
#
# The time of a step may surprise you. LoRA saves the products that make the gradients of the frozen weights, about a third
# of all. It adds two thin products for each adapter, and for matrices as small as these a product costs
# about as much to start as to compute. On which side does your machine come out? Run it again before you believe a small
# difference. And think of a model that is ten times as wide: the saved products then cost a hundred times as much, the thin
# ones ten times, and to start a product costs what it did.
#
# What LoRA saves for certain is memory. These numbers are counted, not measured.

# %%
import io


def size(state):
    file = io.BytesIO()
    torch.save(state, file)
    return file.tell()


for way, model in models.items():
    memory = training_memory(model)
    held = sum(memory[key] for key in ("weights", "gradients", "moments"))
    print(f"{way}: {memory['trained']:6,} of {memory['parameters']:,} parameters are trained; ", end="")
    print(
        f"weights {memory['weights']:,} + gradients {memory['gradients']:,} + moments {memory['moments']:,} = {held:,} bytes"
    )
head = sum(p.numel() for p in models["lora"].bert.pooler.parameters())
print(f"    of what is trained, {head:,} belong to the pooler, which is new in both ways")
small, whole = size(adapter_state(models["lora"])), size(models["full"].state_dict())
print(f"a file for the task: {small:,} bytes with LoRA, {whole:,} in full")

other = classifier("lora", 123)
load_adapter(other, adapter_state(models["lora"]))
print(f"the file in a fresh copy of the reader: {accuracy(other, test):.2%} right; ", end="")
merged = merge_all(other)
print(
    f"{len(merged)} layers merged: {accuracy(other, test):.2%} right, {training_memory(other)['parameters']:,} parameters"
)
changed = [
    name
    for name, p in models["full"].named_parameters()
    if name in reader.state_dict() and not torch.equal(p, reader.state_dict()[name])
]
print(f"of the reader's own tensors, full fine-tuning has changed {len(changed)}, and LoRA none")

# %% [markdown]
# Activations are not in this count. LoRA needs most of them as well: a gradient that is to reach the first adapter has to pass
# through everything above it. So the whole saving is never as large as the share of trained parameters suggests. The page
# [Fine-tuning and PEFT](../../book/ch04_training/finetuning_and_peft.md) does the sum for seven billion parameters.
#
# Try three things; the names in capitals stand in the folded cells. First `HARDER = True` in the first cell and `STEPS = 96`
# in the second, and run all three again (some minutes). Whether *it* fits the first sentence the reader had learnt before. To
# combine that with the verb it has to learn now. What becomes of the verdicts, and does a larger `RANK` change them? Then,
# with both set back, `HEAD = ["classifier"]`: the pooler, which is new and random, stays random with LoRA. How much does that
# cost, and would you have noticed if there were no full fine-tuning to compare with? Last, `TARGETS = ["query"]` with
# `RANK = 32`, against all four places with `RANK = 4`: do the places matter more, or the rank?
#
# ## Common mistakes
#
# - **Both matrices at zero.** Everything runs, the loss moves because the head learns, and the adapters never do. Look at
#   `lora_b` after a hundred steps.
# - **The scaling left out,** or `alpha` without the rank. It still trains, with another learning rate than you think. It shows
#   when somebody else loads your file.
# - **The base not frozen.** Then it is full fine-tuning with some extra parameters, it may even work a little better, and the small file that you
#   save is worthless without the base that has changed.
# - **The base under `no_grad`.** The lowest adapters learn from what leaks through the other detours only.
# - **Merged twice.** Once by the code that loads and once by the code that serves. The outputs are wrong by one more product.
# - **Training while merged.** The detour is not used, so the adapters get no gradient. And what is loaded meanwhile is without effect.
# - **A square Conv1D, merged untransposed.** In GPT-2 that is `attn.c_proj`. No shape complains.
# - **A new layer in training mode** in a model that was set to evaluate. Its dropout is active, and it is the only one.
# - **A new head that is frozen.** Adapters learn to feed a random layer. It works, a bit worse.
# - **A target that finds nothing,** because the name is another one in this model. All that trains is the head.
# - **One learning rate for both ways.** The best rate of LoRA is often several times as large. Whoever takes that of full fine-tuning
#   has shown that LoRA is worse.
# - **A comparison at the end of each run.** One side had more time, or more steps, or was stopped at its best moment.
#
# ## Going further
#
# - **Where to put them.** Give the same number of trained parameters to `query` and `value` alone, and to all linear layers with a smaller rank.
#   (Edward Hu, Yelong Shen, Phillip Wallis, Zeyuan Allen-Zhu, Yuanzhi Li, Shean Wang, Lu Wang, Weizhu Chen, LoRA: Low-Rank Adaptation of Large
#   Language Models, 2021, section 7.1.)
# - **Two rates.** At the start `lora_b` is zero and `lora_a` is not, so why should they learn at one speed? Give `lora_b` a rate sixteen
#   times as large, and compare with your own `compare`. (Soufiane Hayou, Nikhil Ghosh, Bin Yu, LoRA+: Efficient Low Rank Adaptation of Large
#   Models, 2024.)
# - **A base of four bits.** Round the frozen weights to 16 values for each block of 64, and keep the adapters in float32. What may the adapters
#   repair, and what not? (Tim Dettmers, Artidoro Pagnoni, Ari Holtzman, Luke Zettlemoyer, QLoRA: Efficient Finetuning of Quantized LLMs, 2023.)
# - **Length and direction.** Split each weight into the lengths of its columns and their directions, and let LoRA change only the directions.
#   (Shih-Yang Liu, Chien-Yi Wang, Hongxu Yin, Pavlo Molchanov, Yu-Chiang Frank Wang, Kwang-Ting Cheng, Min-Hung Chen, DoRA: Weight-Decomposed Low-Rank
#   Adaptation, 2024.)
