"""Fine-tuning and LoRA: the reference. Generated from source_solutions/ch04_training/lab06_finetuning_lora.py by `course build`; do not edit."""

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

# %% given
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

# %% exercise="LoRALinear"
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
        output = self.base(x)  # (..., d_out)
        if self.merged:
            return output
        narrow = F.dropout(x, self.dropout, self.training) @ self.lora_a.T  # (..., r)
        return output + self.scaling * (narrow @ self.lora_b.T)

    def parameter_gradients(self, x: torch.Tensor, direction: torch.Tensor) -> dict[str, Any]:
        """Given: the gradient of ``(output * direction).sum()`` for every parameter, by name."""
        total = (self(x) * direction).sum()
        self.zero_grad()
        if total.requires_grad:
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

# %% exercise="merge"
def merge(layer: LoRALinear) -> None:
    """Add scaling * lora_b lora_a to the weight of the base, in place, and set ``merged``.

    Args:
        layer: yours. Where it is merged already nothing changes.

    Afterwards the layer's output is what it was before (without dropout), up to rounding; its parameters are the same objects,
    no parameter needs a gradient that did not need one before, lora_a and lora_b have their values, and its state_dict has the same
    names. The product of a Conv1D is added as a transpose, since its weight is (d_in, d_out).
    """
    if layer.merged:
        return
    with torch.no_grad():
        product = layer.scaling * (layer.lora_b @ layer.lora_a)  # (d_out, d_in)
        layer.kept = layer.base.weight.clone()
        layer.base.weight += product if isinstance(layer.base, nn.Linear) else product.T
    layer.merged = True


def unmerge(layer: LoRALinear) -> None:
    """Undo `merge`: the weight of the base is what it was before, to the bit, and ``merged`` is False.

    Args:
        layer: yours. Where it is not merged nothing changes.

    That holds whatever has happened to lora_a and lora_b since then: other values may have been loaded. These stay.
    """
    if not layer.merged:
        return
    with torch.no_grad():
        layer.base.weight.copy_(layer.kept)
    del layer.kept
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

# %% exercise="inject"
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


def merge_all(model: nn.Module) -> list[str]:
    """Merge all LoRALinears of a model and put their bases in their places, in place.

    Args:
        model: one with adapters; some of them may be merged already.

    Returns:
        The full names of these layers, in the order of ``model.named_modules()``.

    Afterwards the model has the modules and the names that it had before `inject`, and its outputs with adapters (without
    dropout), up to rounding. Nothing changes about which of its parameters need a gradient.
    """
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, LoRALinear)]
    for name, layer in found:
        merge(layer)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.base)
    return [name for name, _ in found]

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

# %% exercise="adapter_state"
def training_memory(model: nn.Module) -> dict[str, int]:
    """What training a model with AdamW keeps in memory, activations left aside.

    Returns:
        "parameters": how many numbers all parameters have together, and "trained": how many of them need a gradient.
        "weights": the bytes of all parameters; "gradients": the bytes of their gradients; "moments": the bytes of AdamW's
        running means, of which there are two for each number that is trained. Gradients and moments have the dtype of
        their parameter. A parameter that the model holds twice counts once.
    """
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


def adapter_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """What was trained, to be saved.

    Args:
        model: one with adapters.

    Returns:
        A dict with a copy of every parameter that needs a gradient, under its name in ``model.named_parameters()``: later
        training does not change it. And for every LoRALinear its scaling, a tensor without axes, float64, under the layer's
        full name with ``.scaling`` behind it.
    """
    state = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            state[f"{name}.scaling"] = torch.tensor(module.scaling, dtype=torch.float64)
    return state


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

# %% exercise="compare"
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
