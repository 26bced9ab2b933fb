# ---
# title: Equal to PyTorch, mask for mask
# lab: ch01/lab04
# minutes: 90
# difficulty: 3
# hardware: cpu
# needs: [ch01/lab01, ch01/lab03]
# builds: [from_torch, to_torch, to_additive_mask, fixed_padding, fixed_boolean, fixed_causal, mha_forward]
# ---

# %% [markdown]
# # Lab 1.4 · Equal to PyTorch, mask for mask
#
# ## The idea
#
# You have built multi-head attention. Is it right? It runs, its rows sum to one, and a model made of it would train.
# None of that is evidence. The strictest check within reach is an implementation that thousands of people rely on:
# give `nn.MultiheadAttention` the same weights, the same inputs and the same masks, and ask for the same numbers and the
# same gradients.
#
# Most of the work is agreeing on conventions, and with masks a misunderstanding never crashes. Take one query
# with the scores 2, 1, 3, where the third key is padding. PyTorch's mask for it is `[False, False, True]`, because in
# PyTorch **True means ignore**. Four readings of those three values:
#
# | what the code does with the mask | weights | sum |
# |---|---|---|
# | puts $-\infty$ where it says True (right) | 0.731, 0.269, 0.000 | 1.000 |
# | takes True for "keep" | 0.000, 0.000, 1.000 | 1.000 |
# | adds it to the scores, as the numbers 0, 0, 1 | 0.114, 0.042, 0.844 | 1.000 |
# | sets the weight to 0 after the softmax | 0.245, 0.090, 0.000 | 0.335 |
#
# (First row: $e^2/(e^2+e^1) = 0.731$.) Every row has the right shape and dtype. Three of the four even sum to one. In
# the third row the padding gets 84% of the attention, and a model trained that way is merely worse, in a way that
# nobody can see in the loss curve.
#
# There are three conventions to keep apart:
#
# - **PyTorch's boolean masks**: True = ignore. `key_padding_mask` and `attn_mask` both work like this.
# - **The boolean mask of Lab 1.3**, and that of `F.scaled_dot_product_attention`: True = may attend. The opposite.
# - **Additive masks**: floats that are added to the scores. 0 changes nothing, $-\infty$ removes the key.
#
# The additive form is the one that everything else can be turned into, so it is the one that this lab computes with. How attention
# is split into heads is in [the page on multi-head attention](../../book/ch01_attention/multihead_attention.md); more
# mistakes that do not crash are in [the page on pitfalls](../../book/ch01_attention/pitfalls.md).
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `query` | `(B, T_q, d_model)` | batch first; `(T_q, B, d_model)` with `batch_first=False` |
# | `key`, `value` | `(B, T_k, d_model)` | likewise |
# | `w_q`, `w_k`, `w_v`, `w_o` | `(d_model, d_model)` | used as `x @ w` |
# | `b_q`, `b_k`, `b_v`, `b_o` | `(d_model,)` | added after the product |
# | `in_proj_weight` | `(3 * d_model, d_model)` | PyTorch's three input projections in one |
# | `q`, `k`, `v` | `(B, H, T, d_k)` | after the projection, with `d_k = d_model / H` |
# | key padding mask | `(B, T_k)` | True = ignore this key |
# | attention mask | `(T_q, T_k)` or `(B * H, T_q, T_k)` | True = this query may not see this key |
# | additive mask | `(B, 1, T_q, T_k)` or `(B, H, T_q, T_k)` | 0 or $-\infty$, or any number that is to be added |
# | averaged weights | `(B, T_q, T_k)` | the mean over the heads |
#
# ## A picture
#
# The next cell asks PyTorch itself. One `nn.MultiheadAttention`, one sequence of six tokens of which the last two are
# padding, four kinds of mask. The fainter a cell, the closer its weight is to zero. Watch which *columns* disappear (padding) and which *triangle*
# (causal). The last panel has no zeros at all: a float mask with finite values makes distant keys weaker without
# forbidding them.

# %% given
import math

import torch
from torch import nn

from coursekit import carry

softmax = carry("ch01/lab01", "softmax")  # stable, and a row that is -inf throughout gives zeros

# %%
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from coursekit import plots

torch.manual_seed(4)
layer = nn.MultiheadAttention(d_model := 16, 2, batch_first=True)
tokens = 1.5 * torch.randn(1, 6, d_model)
padding = torch.tensor([[False, False, False, False, True, True]])
later = torch.ones(6, 6, dtype=torch.bool).triu(diagonal=1)
distance = (torch.arange(6)[:, None] - torch.arange(6)[None, :]).abs()
kinds = {
    "no mask": {},
    "key padding": {"key_padding_mask": padding},
    "padding and causal": {"key_padding_mask": padding, "attn_mask": later},
    "float: minus distance": {"attn_mask": -1.0 * distance},
}
figure = make_subplots(rows=1, cols=4, subplot_titles=list(kinds), shared_yaxes=True, horizontal_spacing=0.03)
for column, (kind, masks) in enumerate(kinds.items(), start=1):
    with torch.no_grad():
        weights = layer(tokens, tokens, tokens, **masks)[1][0]
    hover = f"{kind}<br>query %{{y}}, key %{{x}}<br>weight %{{z:.3f}}<extra></extra>"
    heat = go.Heatmap(z=weights.tolist(), zmin=0, zmax=1, colorscale=plots.WEIGHTS, hovertemplate=hover)
    figure.add_trace(heat.update(showscale=column == 4, colorbar_title_text="weight"), row=1, col=column)
    figure.update_xaxes(title_text="key", dtick=1, showgrid=False, zeroline=False, row=1, col=column)
    figure.update_yaxes(autorange="reversed", dtick=1, showgrid=False, zeroline=False, row=1, col=column)
figure.update_yaxes(title_text="query", row=1, col=1)
figure.update_annotations(font_size=12)
figure.update_layout(height=330).show()

# %% [markdown]
# ## Exercise 1 · `from_torch`
#
# Write `from_torch`, which takes the weights out of an `nn.MultiheadAttention` state dict, and `to_torch`, which puts them back.
# PyTorch keeps the three input projections in one tall matrix and computes $x W^\top + b$; we keep eight separate tensors and
# compute $x W + b$.
#
# *Difficulty 2 of 5 · 10 minutes · 4 points*


# %% exercise="from_torch" difficulty=2 minutes=10 forbid=["nn.MultiheadAttention"]
def from_torch(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Take the weights out of the state dict of an ``nn.MultiheadAttention``.

    Args:
        state: "in_proj_weight" (3 * d_model, d_model) and "out_proj.weight" (d_model, d_model); with biases also
            "in_proj_bias" (3 * d_model,) and "out_proj.bias" (d_model,). The rows of in_proj belong to q, k and v,
            in this order. PyTorch uses its weights as ``x @ weight.T + bias``.

    Returns:
        "w_q", "w_k", "w_v", "w_o", each (d_model, d_model) and used as ``x @ w``; and, where the state has biases,
        "b_q", "b_k", "b_v", "b_o", each (d_model,). No other keys. Dtypes are kept, and gradients flow to ``state``.

    Raises:
        ValueError: if the state has any other key, as it has with kdim, vdim or add_bias_kv, which we do not support.

    Source: the documentation of torch.nn.MultiheadAttention.
    """
    ### BEGIN SOLUTION
    known = {"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"}
    unknown = sorted(set(state) - known)
    if unknown:
        raise ValueError(f"cannot use {unknown}; the keys may be {sorted(known)}")
    w_q, w_k, w_v = state["in_proj_weight"].chunk(3)  # each (d_model, d_model), one row per output
    params = {"w_q": w_q.T, "w_k": w_k.T, "w_v": w_v.T, "w_o": state["out_proj.weight"].T}
    if "in_proj_bias" in state:
        params["b_q"], params["b_k"], params["b_v"] = state["in_proj_bias"].chunk(3)  # each (d_model,)
        params["b_o"] = state["out_proj.bias"]
    return params
    ### END SOLUTION


def to_torch(params: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Turn our weights into a state dict that ``nn.MultiheadAttention.load_state_dict`` accepts.

    Args:
        params: as `from_torch` returns them: four weights, and either all four biases or none.

    Returns:
        "in_proj_weight" and "out_proj.weight"; with biases also "in_proj_bias" and "out_proj.bias". The round trip
        in either direction gives back exactly the same values. Gradients flow to ``params``.
    """
    ### BEGIN SOLUTION
    state = {
        "in_proj_weight": torch.cat([params["w_q"].T, params["w_k"].T, params["w_v"].T]),  # (3 * d_model, d_model)
        "out_proj.weight": params["w_o"].T,  # (d_model, d_model)
    }
    if "b_q" in params:
        state["in_proj_bias"] = torch.cat([params["b_q"], params["b_k"], params["b_v"]])  # (3 * d_model,)
        state["out_proj.bias"] = params["b_o"]
    return state
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Three blocks of d_model rows, one after the other. Each block is a matrix of its own.</details>
# <details><summary>A bigger nudge</summary>A row of PyTorch's matrix holds the weights of one output. In <code>x @ w</code> one
# output is a column. The output projection follows the same convention as the other three.</details>

# %% test="from_torch" points=2
from coursekit import check
import torch

state = {
    "in_proj_weight": torch.arange(12.0).reshape(6, 2),
    "in_proj_bias": torch.arange(6.0) + 20,
    "out_proj.weight": torch.tensor([[30.0, 31.0], [32.0, 33.0]]),
    "out_proj.bias": torch.tensor([40.0, 41.0]),
}
params = from_torch(state)
names = ["b_k", "b_o", "b_q", "b_v", "w_k", "w_o", "w_q", "w_v"]
check.equal(sorted(params), names, "from_torch gives four weights and four biases")
x = torch.tensor([[1.0, 10.0]])
check.close(
    x @ params["w_q"], torch.tensor([[10.0, 32.0]]), "x @ w_q for x = [1, 10] and PyTorch's rows [0, 1] and [2, 3]"
)
check.close(x @ params["w_k"], torch.tensor([[54.0, 76.0]]), "x @ w_k, from the rows [4, 5] and [6, 7]")
check.close(x @ params["w_v"], torch.tensor([[98.0, 120.0]]), "x @ w_v, from the rows [8, 9] and [10, 11]")
check.close(x @ params["w_o"], torch.tensor([[340.0, 362.0]]), "x @ w_o, from the rows [30, 31] and [32, 33]")
check.close(params["b_q"], torch.tensor([20.0, 21.0]), "b_q")
### BEGIN HIDDEN TESTS
check.close(params["b_k"], torch.tensor([22.0, 23.0]), "b_k")
check.close(params["b_v"], torch.tensor([24.0, 25.0]), "b_v")
check.close(params["b_o"], torch.tensor([40.0, 41.0]), "b_o")
torch.manual_seed(check.seed(1))
layer = torch.nn.MultiheadAttention(60, 3, bias=False, dtype=torch.float64)
params = from_torch({name: value.detach() for name, value in layer.state_dict().items()})
check.equal(sorted(params), ["w_k", "w_o", "w_q", "w_v"], "a state without biases gives no biases")
x = torch.randn(5, 60, dtype=torch.float64)
projected = torch.nn.functional._in_projection_packed(x, x, x, layer.in_proj_weight.detach())
for name, expected in zip(["w_q", "w_k", "w_v"], projected, strict=True):
    check.close(x @ params[name], expected, f"x @ {name} at d_model 60, float64", atol=1e-12)
check.close(x @ params["w_o"], layer.out_proj(x).detach(), "x @ w_o at d_model 60, float64", atol=1e-12)
for options in ({"kdim": 4}, {"vdim": 4}, {"add_bias_kv": True}):
    other = {name: value.detach() for name, value in torch.nn.MultiheadAttention(6, 2, **options).state_dict().items()}
    check.raises(ValueError, lambda other=other: from_torch(other), f"the state of a layer with {options} is refused")


def scaled(*leaves):
    got = from_torch(dict(zip(state, leaves, strict=True)))
    return tuple(got[name] for name in names)


def expected(w, b, w_out, b_out):
    parts = {"b_q": b[:2], "b_k": b[2:4], "b_v": b[4:], "b_o": b_out}
    parts |= {"w_q": w[:2].T, "w_k": w[2:4].T, "w_v": w[4:].T, "w_o": w_out.T}
    return tuple(parts[name] for name in names)


check.gradients(scaled, expected, list(state.values()), "gradients flow through from_torch to the state")
### END HIDDEN TESTS

# %% test="from_torch" points=2
from coursekit import check
import torch

params = {f"w_{name}": (i + 1.0) * torch.eye(2) for i, name in enumerate("qkvo")}
params |= {f"b_{name}": torch.full((2,), i + 11.0) for i, name in enumerate("qkvo")}
state = to_torch(params)
keys = ["in_proj_bias", "in_proj_weight", "out_proj.bias", "out_proj.weight"]
check.equal(sorted(state), keys, "to_torch gives the keys that PyTorch has")
check.close(state["in_proj_bias"], torch.tensor([11.0, 11, 12, 12, 13, 13]), "the biases of q, k and v in one vector")
check.equal(list(state["in_proj_weight"].shape), [6, 2], "the shape of in_proj_weight")
check.close(state["out_proj.weight"], 4.0 * torch.eye(2), "the output projection")
### BEGIN HIDDEN TESTS
check.close(state["out_proj.bias"], torch.tensor([14.0, 14.0]), "the bias of the output projection")
for bias in (True, False):
    torch.manual_seed(check.seed(2))
    layer = torch.nn.MultiheadAttention(15, 3, bias=bias, dtype=torch.float64)
    random = {name: torch.randn_like(value) for name, value in layer.state_dict().items()}
    d = 15
    split = {f"w_{n}": random["in_proj_weight"][i * d : (i + 1) * d].T for i, n in enumerate("qkv")}
    split["w_o"] = random["out_proj.weight"].T
    if bias:
        split |= {f"b_{n}": random["in_proj_bias"][i * d : (i + 1) * d] for i, n in enumerate("qkv")}
        split["b_o"] = random["out_proj.bias"]
    back = to_torch(split)
    check.equal(sorted(back), sorted(random), f"the keys with bias={bias}")
    for name, value in random.items():
        check.equal(back[name], value, f"{name} from to_torch, d_model 15, bias={bias}")
    trip = to_torch(from_torch(random))
    for name, value in random.items():
        check.equal(trip[name], value, f"{name} after the round trip, d_model 15, bias={bias}")


def packed(*leaves):
    got = to_torch(dict(zip(params, leaves, strict=True)))
    return tuple(got[name] for name in keys)


def expected(w_q, w_k, w_v, w_o, b_q, b_k, b_v, b_o):
    return torch.cat([b_q, b_k, b_v]), torch.cat([w_q, w_k, w_v], dim=1).T, b_o, w_o.T


check.gradients(packed, expected, list(params.values()), "gradients flow through to_torch to the weights")
### END HIDDEN TESTS

# %% mistakes="from_torch"
{
    "the blocks of in_proj_weight are taken in the order q, v, k": (
        'w_q, w_k, w_v = state["in_proj_weight"]',
        'w_q, w_v, w_k = state["in_proj_weight"]',
    ),
    "the blocks of in_proj_weight are taken in the order k, q, v": (
        'w_q, w_k, w_v = state["in_proj_weight"]',
        'w_k, w_q, w_v = state["in_proj_weight"]',
    ),
    "no weight is transposed, so PyTorch's rows are used as our rows": [
        (
            '"w_q": w_q.T, "w_k": w_k.T, "w_v": w_v.T, "w_o": state["out_proj.weight"].T',
            '"w_q": w_q, "w_k": w_k, "w_v": w_v, "w_o": state["out_proj.weight"]',
        ),
        ('[params["w_q"].T, params["w_k"].T, params["w_v"].T]', '[params["w_q"], params["w_k"], params["w_v"]]'),
        ('params["w_o"].T', 'params["w_o"]'),
    ],
    "from_torch transposes nothing, though to_torch does": (
        '"w_q": w_q.T, "w_k": w_k.T, "w_v": w_v.T, "w_o": state["out_proj.weight"].T',
        '"w_q": w_q, "w_k": w_k, "w_v": w_v, "w_o": state["out_proj.weight"]',
    ),
    "the input projections are transposed and the output projection is not": (
        'state["out_proj.weight"].T',
        'state["out_proj.weight"]',
    ),
    "in_proj_weight is cut into columns (after a reshape), not into blocks of rows": (
        '["in_proj_weight"].chunk(3)',
        '["in_proj_weight"].reshape(-1, 3, state["out_proj.weight"].shape[0]).unbind(1)',
    ),
    "the bias of the output projection is left out": (
        'params["b_o"] = state["out_proj.bias"]',
        'params["b_o"] = torch.zeros_like(state["out_proj.bias"])',
    ),
    "the biases of q, k and v are taken in the order q, v, k": (
        'params["b_q"], params["b_k"], params["b_v"] = state',
        'params["b_q"], params["b_v"], params["b_k"] = state',
    ),
    "weights that are not understood (kdim, vdim, bias_k) are dropped without a word": (
        "    if unknown:",
        "    if False:",
    ),
    "a state without biases gets biases of zero, and it should get none": (
        "    return params",
        "    none = torch.zeros(len(w_q))\n    return {f'b_{name}': none for name in 'qkvo'} | params",
    ),
    "the values are detached, so no gradient gets back to the state": (
        "    return params",
        "    return {name: value.detach() for name, value in params.items()}",
    ),
    "to_torch puts the blocks together in the order k, q, v": (
        '[params["w_q"].T, params["w_k"].T',
        '[params["w_k"].T, params["w_q"].T',
    ),
    "to_torch glues the matrices side by side and transposes nothing, then reshapes until it fits": (
        'torch.cat([params["w_q"].T, params["w_k"].T, params["w_v"].T])',
        'torch.cat([params["w_q"], params["w_k"], params["w_v"]], dim=1).reshape(-1, params["w_o"].shape[0])',
    ),
    "to_torch forgets the transpose of the output projection": ('params["w_o"].T', 'params["w_o"]'),
    "to_torch leaves the biases out": ('if "b_q" in params:', "if False:"),
    "the output projection is transposed neither in from_torch nor in to_torch": [
        ('state["out_proj.weight"].T', 'state["out_proj.weight"]'),
        ('params["w_o"].T', 'params["w_o"]'),
    ],
}


# %% alternative="from_torch"
def from_torch(state):
    """Slices instead of chunks, copies instead of views."""
    if not set(state) <= {"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"}:
        raise ValueError("only plain nn.MultiheadAttention")
    d = state["out_proj.weight"].shape[0]
    params = {}
    for i, name in enumerate("qkv"):
        params["w_" + name] = state["in_proj_weight"][i * d : (i + 1) * d, :].transpose(0, 1).contiguous()
        if "in_proj_bias" in state:
            params["b_" + name] = state["in_proj_bias"][i * d : (i + 1) * d].clone()
    params["w_o"] = torch.einsum("oi->io", state["out_proj.weight"])
    if "out_proj.bias" in state:
        params["b_o"] = state["out_proj.bias"].clone()
    return params


def to_torch(params):
    weight = torch.stack([params[f"w_{name}"] for name in "qkv"]).mT.flatten(0, 1)
    state = {"in_proj_weight": weight.contiguous(), "out_proj.weight": params["w_o"].t().contiguous()}
    if "b_o" in params:
        print("with biases")
        state.update(
            {
                "in_proj_bias": torch.stack([params[f"b_{name}"] for name in "qkv"]).flatten(),
                "out_proj.bias": params["b_o"],
            }
        )
    return state


# %% [markdown]
# ## Exercise 2 · `to_additive_mask`
#
# Turn every mask that PyTorch accepts into one additive float mask: key padding, a causal flag, and an attention mask
# with two or three axes, boolean or float, alone or together.
#
# Two things deserve care. A three-axis mask has batch and heads in *one* axis, and you have to take it apart in the right order. And
# 0/1 integers are refused: a tokenizer's `attention_mask` has 1 for "keep", the opposite of True here, and an error is
# kinder than guessing.
#
# *Difficulty 3 of 5 · 20 minutes · 6 points*


# %% exercise="to_additive_mask" difficulty=3 minutes=20 forbid=["_canonical_mask", "merge_masks"]
def to_additive_mask(
    query: torch.Tensor,
    key: torch.Tensor,
    key_padding: torch.Tensor | None = None,
    causal: bool = False,
    attn_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """One additive mask that means what PyTorch's masks mean together.

    Args:
        query: (B, T_q, d_model). Only its shape, dtype and device matter.
        key: (B, T_k, d_model). Only its shape matters.
        key_padding: (B, T_k). Boolean: True = no query may see this key. Float: added to the scores of this key.
        causal: if true, query i may see the keys 0 to i and no later one, whatever T_q and T_k are (the meaning
            of ``is_causal`` in ``F.scaled_dot_product_attention``).
        attn_mask: (T_q, T_k), or (B * H, T_q, T_k) for any number of heads H, in which entry b * H + h belongs to
            head h of sequence b. Boolean: True = this query may NOT see this key. Float: added to the scores.

    Returns:
        Float tensor of query's dtype, to be added to the scores before the softmax: 0 where nothing is masked, -inf
        where a key is forbidden, float masks as they are, and sums of these where several masks are given. Shape
        (B, H, T_q, T_k) if attn_mask has three axes, otherwise (B, 1, T_q, T_k).

    Raises:
        TypeError: if a mask is neither boolean nor floating point.
        ValueError: if key_padding is not of shape (B, T_k), or attn_mask has neither of its two shapes.

    Source: the documentation of torch.nn.MultiheadAttention.forward.
    """
    ### BEGIN SOLUTION
    batch, t_q, t_k = query.shape[0], query.shape[1], key.shape[1]

    def additive(mask: torch.Tensor) -> torch.Tensor:
        if mask.dtype == torch.bool:
            return query.new_zeros(mask.shape).masked_fill(mask, -math.inf)
        if not mask.is_floating_point():
            raise TypeError(f"a mask is boolean (True = ignore) or float (added), not {mask.dtype}")
        return mask.to(query.dtype)

    total = query.new_zeros(batch, 1, t_q, t_k)
    if causal:
        future = torch.ones(t_q, t_k, dtype=torch.bool, device=query.device).triu(diagonal=1)
        total = total + additive(future)  # (T_q, T_k) is spread over batch and heads
    if key_padding is not None:
        if key_padding.shape != (batch, t_k):
            raise ValueError(f"key_padding is {tuple(key_padding.shape)}, it should be {(batch, t_k)}")
        total = total + additive(key_padding)[:, None, None, :]  # (B, 1, 1, T_k)
    if attn_mask is not None:
        leading = attn_mask.shape[:-2]
        fits = not leading or (len(leading) == 1 and leading[0] % batch == 0)
        if attn_mask.shape[-2:] != (t_q, t_k) or not fits:
            raise ValueError(f"attn_mask is {tuple(attn_mask.shape)}, it should be {(t_q, t_k)} or (B * H, T_q, T_k)")
        per_head = additive(attn_mask)
        if leading:
            per_head = per_head.reshape(batch, -1, t_q, t_k)  # (B, H, T_q, T_k)
        total = total + per_head
    return total
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Write one small helper that turns a boolean or float mask into an additive one, whatever its shape. Then
# the rest is giving each mask four axes and adding.</details>
# <details><summary>A bigger nudge</summary>Key padding speaks about keys, the last of the four axes, and is the same for all heads and
# queries: those two axes have size 1. And do not multiply by minus infinity: 0 times infinity is NaN.</details>

# %% test="to_additive_mask" points=3
from coursekit import check
import torch

no = -float("inf")
query = torch.zeros(2, 3, 4)
none = to_additive_mask(query, query)
check.close(none, torch.zeros(2, 1, 3, 3), "without masks there is nothing to add")
padding = torch.tensor([[False, False, True], [False, False, False]])
expected = torch.tensor([[[[0, 0, no]] * 3], [[[0.0, 0, 0]] * 3]])
check.close(
    to_additive_mask(query, query, key_padding=padding), expected, "the last key of the first sequence is padding"
)
triangle = torch.tensor([[0, no, no], [0, 0, no], [0, 0, 0]]).expand(2, 1, 3, 3)
check.close(to_additive_mask(query, query, causal=True), triangle, "a causal mask of three tokens")
blocked = torch.tensor([[False, True, False], [False, False, False], [True, False, False]])
expected = torch.tensor([[0, no, 0], [0, 0, 0], [no, 0, 0]]).expand(2, 1, 3, 3)
check.close(to_additive_mask(query, query, attn_mask=blocked), expected, "a boolean attention mask")
slope = torch.tensor([[0.0, -1, -2], [-1, 0, -1], [-2, -1, no]])
check.close(
    to_additive_mask(query, query, attn_mask=slope),
    slope.expand(2, 1, 3, 3),
    "a float attention mask is added as it is",
)
### BEGIN HIDDEN TESTS
query, key = torch.zeros(3, 5, 4, dtype=torch.float64), torch.zeros(3, 7, 4, dtype=torch.float64)
draw = torch.Generator().manual_seed(check.seed(3))
padding = torch.rand(3, 7, generator=draw) < 0.4
padding[1] = True
blocked = torch.rand(5, 7, generator=draw) < 0.3
bias = torch.randn(5, 7, generator=draw, dtype=torch.float64)
pad_bias = torch.randn(3, 7, generator=draw, dtype=torch.float64)


def number(value):
    return (no if value else 0.0) if value.dtype == torch.bool else float(value)


def by_hand(pad=None, causal=False, attn=None, t_q=5, t_k=7):
    mask = torch.zeros(3, 1, t_q, t_k, dtype=torch.float64)
    for b, i, j in torch.cartesian_prod(torch.arange(3), torch.arange(t_q), torch.arange(t_k)).tolist():
        mask[b, 0, i, j] += no if causal and j > i else 0.0
        mask[b, 0, i, j] += 0.0 if pad is None else number(pad[b, j])
        mask[b, 0, i, j] += 0.0 if attn is None else number(attn[i, j])
    return mask


check.equal(
    to_additive_mask(query, key, key_padding=padding),
    by_hand(pad=padding),
    "padding alone, T_q 5 and T_k 7, one sequence all padding",
)
check.equal(
    to_additive_mask(query, key, causal=True),
    by_hand(causal=True),
    "causal, fewer queries than keys: query i sees keys 0 to i",
)
check.equal(
    to_additive_mask(key, query, causal=True), by_hand(causal=True, t_q=7, t_k=5), "causal, more queries than keys"
)
check.equal(
    to_additive_mask(query, key, attn_mask=bias), by_hand(attn=bias), "a float mask with positive and negative values"
)
check.equal(to_additive_mask(query, key, key_padding=pad_bias), by_hand(pad=pad_bias), "key padding given as floats")
check.close(
    to_additive_mask(query, key, padding, True, bias),
    by_hand(padding, True, bias),
    "padding, causal and float mask together",
)
check.equal(
    to_additive_mask(query, key, padding, True, blocked),
    by_hand(padding, True, blocked),
    "padding, causal and boolean mask together",
)
single = bias.float()
check.equal(
    to_additive_mask(query, key, attn_mask=single),
    by_hand(attn=single),
    "a float32 mask comes out in the query's float64",
)
for arguments in ({"key_padding": padding.long()}, {"attn_mask": blocked.int()}):
    check.raises(TypeError, lambda a=arguments: to_additive_mask(query, key, **a), "0/1 integers are refused")
wrong = {
    "key_padding of shape (B, T_q)": {"key_padding": padding[:, :5]},
    "key_padding of one sequence": {"key_padding": padding[0]},
    "attn_mask of shape (T_k, T_q)": {"attn_mask": blocked.T},
    "attn_mask of four axes": {"attn_mask": blocked.expand(3, 1, 5, 7)},
    "an attn_mask whose first axis is no multiple of B": {"attn_mask": blocked.expand(4, 5, 7)},
}
for what, arguments in wrong.items():
    check.raises(ValueError, lambda a=arguments: to_additive_mask(query, key, **a), f"{what} is refused")
### END HIDDEN TESTS

# %% test="to_additive_mask" points=3
from coursekit import check
import torch

# Two sequences, two heads, two queries, three keys: entry b * 2 + h of the first axis belongs to head h of sequence b.
query, key = torch.zeros(2, 2, 4), torch.zeros(2, 3, 4)
per_head = torch.zeros(4, 2, 3, dtype=torch.bool)
per_head[1, 0, 2] = True
mask = to_additive_mask(query, key, attn_mask=per_head)
check.equal(list(mask.shape), [2, 2, 2, 3], "the shape with a mask for every head")
check.equal(
    (mask == -float("inf")).nonzero().tolist(), [[0, 1, 0, 2]], "the forbidden places as [sequence, head, query, key]"
)
### BEGIN HIDDEN TESTS
# PyTorch itself as the oracle: with all weights zero every score is zero, and softmax(mask) is what the layer returns.
draw = torch.Generator().manual_seed(check.seed(5))
for batch, heads, t_q, t_k in ((3, 2, 4, 6), (1, 5, 6, 4), (2, 1, 5, 5)):
    layer = torch.nn.MultiheadAttention(10, heads, batch_first=True, dtype=torch.float64)
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    query, key = torch.zeros(batch, t_q, 10, dtype=torch.float64), torch.zeros(batch, t_k, 10, dtype=torch.float64)
    blocked = torch.rand(batch * heads, t_q, t_k, generator=draw) < 0.4
    blocked[..., 0] = False
    padding = torch.rand(batch, t_k, generator=draw) < 0.4
    padding[:, 0] = False
    bias = torch.randn(batch * heads, t_q, t_k, generator=draw, dtype=torch.float64)
    future = torch.ones(t_q, t_k, dtype=torch.bool).triu(1)
    for pad in (None, padding):
        for name, attn in (("boolean", blocked), ("float", bias)):
            pad_float = (
                None if pad is None else torch.zeros(pad.shape, dtype=torch.float64).masked_fill(pad, -float("inf"))
            )
            oracle = layer(
                query, key, key, pad if name == "boolean" else pad_float, attn_mask=attn, average_attn_weights=False
            )[1]
            got = to_additive_mask(query, key, key_padding=pad, attn_mask=attn)
            check.equal(list(got.shape), [batch, heads, t_q, t_k], "the shape with a mask for every head")
            check.close(
                got.softmax(-1),
                oracle.detach(),
                f"a {name} mask for every head means what PyTorch takes it for",
                atol=1e-12,
            )
            both = attn | future if name == "boolean" else attn.masked_fill(future, -float("inf"))
            oracle = layer(
                query, key, key, pad if name == "boolean" else pad_float, attn_mask=both, average_attn_weights=False
            )[1]
            got = to_additive_mask(query, key, pad, True, attn)
            check.close(
                got.softmax(-1),
                oracle.detach(),
                f"a {name} mask for every head, causal, with and without padding",
                atol=1e-12,
            )
    check.equal(
        to_additive_mask(query, key, attn_mask=bias),
        bias.reshape(batch, heads, t_q, t_k),
        "a float mask for every head is kept",
    )
### END HIDDEN TESTS

# %% mistakes="to_additive_mask"
{
    'True is read as "may attend", in every boolean mask': (
        "masked_fill(mask, -math.inf)",
        "masked_fill(~mask, -math.inf)",
    ),
    'True is read as "may attend" in the key padding': (
        "additive(key_padding)",
        "additive(~key_padding if key_padding.dtype == torch.bool else key_padding)",
    ),
    'True is read as "may attend" in the attention mask': (
        "per_head = additive(attn_mask)",
        "per_head = additive(~attn_mask if attn_mask.dtype == torch.bool else attn_mask)",
    ),
    "the padding is laid on the queries (rows) and not on the keys (columns)": (
        "[:, None, None, :]",
        "[:, None, :, None]",
    ),
    "a boolean mask is added as the numbers 0 and 1": (
        "query.new_zeros(mask.shape).masked_fill(mask, -math.inf)",
        "mask.to(query.dtype)",
    ),
    "a boolean mask is multiplied by minus infinity, and 0 times infinity is NaN": (
        "query.new_zeros(mask.shape).masked_fill(mask, -math.inf)",
        "mask.to(query.dtype) * -math.inf",
    ),
    "a large negative number (-1e9) stands where -inf belongs": (
        "masked_fill(mask, -math.inf)",
        "masked_fill(mask, -1e9)",
    ),
    "the smallest number of the dtype (torch.finfo) stands where -inf belongs": (
        "masked_fill(mask, -math.inf)",
        "masked_fill(mask, torch.finfo(query.dtype).min)",
    ),
    "the causal mask hides the present as well as the future": ("triu(diagonal=1)", "triu(diagonal=0)"),
    "the causal mask lets every query see one key of the future": ("triu(diagonal=1)", "triu(diagonal=2)"),
    "the causal mask is transposed: it hides the past": ("triu(diagonal=1)", "tril(diagonal=-1)"),
    "the causal mask is the lower triangle: it hides the past and the present, and shows the future": (
        "triu(diagonal=1)",
        "tril()",
    ),
    "the causal triangle is aligned with the last key, not the first": (
        "triu(diagonal=1)",
        "triu(diagonal=1 + t_k - t_q)",
    ),
    "the first axis of a three-axis mask is taken apart as heads first, then batch": (
        "per_head.reshape(batch, -1, t_q, t_k)",
        "per_head.reshape(-1, batch, t_q, t_k).transpose(0, 1)",
    ),
    "a three-axis mask keeps batch and heads in one axis": ("per_head.reshape(batch, -1, t_q, t_k)", "per_head"),
    "a three-axis mask is averaged over its heads": (
        "per_head.reshape(batch, -1, t_q, t_k)",
        "per_head.reshape(batch, -1, t_q, t_k).mean(dim=1, keepdim=True)",
    ),
    "a float mask is treated as yes or no: every value but zero forbids": (
        "return mask.to(query.dtype)",
        "return query.new_zeros(mask.shape).masked_fill(mask != 0, -math.inf)",
    ),
    "a later mask replaces the earlier ones instead of being added to them": (
        "total = total + per_head",
        "total = per_head.expand(batch, -1, t_q, t_k)",
    ),
    "the causal flag is ignored": ("    if causal:", "    if False:"),
    "the key padding replaces the causal mask instead of being added to it": (
        "total = total + additive(key_padding)[:, None, None, :]",
        "total = (additive(key_padding)[:, None, None, :]).expand(batch, 1, t_q, t_k)",
    ),
    "the attention mask is ignored where causal is set": (
        "    if attn_mask is not None:",
        "    if attn_mask is not None and not causal:",
    ),
    "padded queries are masked too, and not only padded keys": (
        "additive(key_padding)[:, None, None, :]",
        "additive(key_padding)[:, None, None, :] + additive(key_padding)[:, None, :, None]",
    ),
    "a key padding of floats is turned into True and False": ("additive(key_padding)", "additive(key_padding.bool())"),
    "the first axis has size 1 and not B": (
        "query.new_zeros(batch, 1, t_q, t_k)",
        "query.new_zeros(1, 1, t_q, t_k)",
    ),
    "the result is float32 whatever the dtype of query is": [
        ("query.new_zeros(", "torch.zeros(", "all"),
        ("mask.to(query.dtype)", "mask.float()"),
    ],
    "integers are added to the scores as if they were floats": ("if not mask.is_floating_point():", "if False:"),
    "0/1 integers are taken for True and False": (
        "if mask.dtype == torch.bool:",
        "mask = mask.bool() if not mask.is_floating_point() else mask\n        if mask.dtype == torch.bool:",
    ),
}


# %% alternative="to_additive_mask"
def to_additive_mask(query, key, key_padding=None, causal=False, attn_mask=None):
    """One entry at a time along the batch, indices compared instead of a triangle."""
    (batch, t_q, _), t_k = query.shape, key.shape[1]

    def as_float(mask):
        if mask.dtype is torch.bool:
            return torch.where(mask, float("-inf"), 0.0).to(query.dtype)
        if not torch.is_floating_point(mask):
            raise TypeError("no integers")
        return mask.type(query.dtype)

    if key_padding is not None and tuple(key_padding.shape) != (batch, t_k):
        raise ValueError("key_padding")
    heads = 1
    if attn_mask is not None:
        if attn_mask.ndim not in (2, 3) or tuple(attn_mask.shape[-2:]) != (t_q, t_k):
            raise ValueError("attn_mask")
        if attn_mask.ndim == 3:
            heads, rest = divmod(attn_mask.shape[0], batch)
            if rest:
                raise ValueError("attn_mask heads")
    rows = []
    for b in range(batch):
        for h in range(heads):
            mask = torch.zeros(t_q, t_k, dtype=query.dtype)
            if causal:
                mask[torch.arange(t_k)[None, :] > torch.arange(t_q)[:, None]] = float("-inf")
            if key_padding is not None:
                mask = mask + as_float(key_padding[b])
            if attn_mask is not None:
                mask = mask + as_float(attn_mask if attn_mask.ndim == 2 else attn_mask[b * heads + h])
            rows.append(mask)
    return torch.stack(rows).unflatten(0, (batch, heads))


# %% [markdown]
# ### Three functions from three code reviews
#
# You will repair these in a moment. Each has exactly one bug, in its mask. The cell after them shows why nobody noticed: right
# shapes, no NaN, and a first query whose weights sum to one, which is as far as anybody looked.


# %% given
def buggy_padding(q, k, v, padding):
    """Attention in which no query sees a padded key. padding: (B, T), True = padding."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T, T)
    scores = scores.masked_fill(padding[:, None, :, None], -math.inf)
    weights = softmax(scores, dim=-1)
    return weights @ v, weights


def buggy_boolean(q, k, v, may_attend):
    """Attention along a boolean mask. may_attend: (T_q, T_k), True = this query may see this key."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T_q, T_k)
    scores = scores + may_attend
    weights = softmax(scores, dim=-1)
    return weights @ v, weights


def buggy_causal(q, k, v):
    """Causal self-attention: query i sees the keys 0 to i."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T, T)
    may_attend = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(diagonal=1)
    scores = scores.masked_fill(~may_attend, -math.inf)
    weights = softmax(scores, dim=-1)
    return weights @ v, weights


# %%
torch.manual_seed(0)
q, k, v = torch.randn(3, 2, 4, 6, 8)  # each (B, H, T, d_k) = (2, 4, 6, 8)
padding = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
may_attend = torch.ones(6, 6, dtype=torch.bool).tril()
print(f"{'function':<16}{'output shape':<18}{'finite':<9}first query's weights sum to")
for function, mask in ((buggy_padding, [padding]), (buggy_boolean, [may_attend]), (buggy_causal, [])):
    output, weights = function(q, k, v, *mask)
    sums = weights[..., 0, :].sum(-1)
    print(f"{function.__name__:<16}{tuple(output.shape)!s:<18}{bool(output.isfinite().all())!s:<9}{sums.min():.4f}")


# %% [markdown]
# ## Exercise 3 · `fixed_padding`, `fixed_boolean` and `fixed_causal`
#
# Find the bug in each of `buggy_padding`, `buggy_boolean` and `buggy_causal`, then write the function as its docstring promises
# it. Each of the three earns its points alone.
#
# *Difficulty 3 of 5 · 15 minutes · 6 points*


# %% exercise="fixed_padding" difficulty=3 minutes=15 forbid=["nn.MultiheadAttention", "multi_head_attention_forward", "scaled_dot_product_attention"]
def fixed_padding(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, padding: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention in which no query sees a padded key.

    Args:
        q, k, v: (B, H, T, d_k).
        padding: (B, T), boolean, True = this token is padding.

    Returns:
        output (B, H, T, d_k) and weights (B, H, T, T). Weights of padded keys are 0; every row sums to 1. Padded
        *queries* attend like any other (nobody reads their outputs). In a sequence that is padding throughout, all
        weights and outputs are 0.
    """
    ### BEGIN SOLUTION
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T, T)
    blocked = padding[:, None, None, :]  # (B, 1, 1, T): the last axis is the keys
    weights = softmax(scores.masked_fill(blocked, -math.inf), dim=-1)
    return weights @ v, weights
    ### END SOLUTION


def fixed_boolean(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, may_attend: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention along a boolean mask.

    Args:
        q: (B, H, T_q, d_k). k, v: (B, H, T_k, d_k).
        may_attend: (T_q, T_k), boolean, True = this query may see this key.

    Returns:
        output (B, H, T_q, d_k) and weights (B, H, T_q, T_k). Forbidden keys have weight 0 and every row sums to 1,
        however large the scores are. A query that may see no key has weights and output 0.
    """
    ### BEGIN SOLUTION
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T_q, T_k)
    weights = softmax(scores.masked_fill(~may_attend, -math.inf), dim=-1)
    return weights @ v, weights
    ### END SOLUTION


def fixed_causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal self-attention: query i sees the keys 0 to i, itself included, and none after.

    Args:
        q, k, v: (B, H, T, d_k).

    Returns:
        output (B, H, T, d_k) and weights (B, H, T, T).
    """
    ### BEGIN SOLUTION
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T, T)
    past = torch.ones_like(scores, dtype=torch.bool).tril()  # (B, H, T, T), True where key <= query
    weights = softmax(torch.where(past, scores, -math.inf), dim=-1)
    return weights @ v, weights
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Run each function on three tokens and print the weights as a table. Rows are queries, columns are
# keys. What does the docstring promise about the columns?</details>
# <details><summary>A bigger nudge</summary>Change only the tokens that a query must not see (a padded key, a forbidden key, the next
# token) and see whether its output changes.</details>

# %% test="fixed_padding" points=2
from coursekit import check
import torch

q, k, v = torch.randn(3, 2, 2, 5, 4, generator=torch.Generator().manual_seed(1))
padding = torch.tensor([[False, False, False, True, True], [False, False, False, False, True]])
output, weights = fixed_padding(q, k, v, padding)
check.close(weights.sum(-1), torch.ones(2, 2, 5), "fixed_padding: the weights of every query sum to one")
check.that(
    (weights[0, :, :, 3:] == 0).all(),
    "fixed_padding: padded keys get no weight",
    why=f"they get up to {weights[0, :, :, 3:].max():.3f}",
)
plain = (q[:1] @ k[:1, :, :3].transpose(-2, -1) / 2).softmax(-1) @ v[:1, :, :3]
check.close(output[:1], plain, "fixed_padding: the same as if the padded keys were not there at all")
### BEGIN HIDDEN TESTS
from torch.nn.functional import scaled_dot_product_attention

q, k, v = torch.randn(3, 3, 2, 63, 12, generator=torch.Generator().manual_seed(check.seed(2)), dtype=torch.float64)
padding = torch.rand(3, 63, generator=torch.Generator().manual_seed(check.seed(3))) < 0.5
output, weights = fixed_padding(q, k, v, padding)
keep = (~padding)[:, None, None, :]
identity = torch.eye(63, dtype=torch.float64).expand(3, 2, 63, 63)
check.close(
    output,
    scaled_dot_product_attention(q, k, v, attn_mask=keep),
    "fixed_padding: outputs at T = 63, three sequences",
    atol=1e-10,
)
check.close(
    weights,
    scaled_dot_product_attention(q, k, identity, attn_mask=keep),
    "fixed_padding: weights at T = 63",
    atol=1e-10,
)
padding[1] = True
output, weights = fixed_padding(q, k, v, padding)
check.close(
    output[1],
    torch.zeros(2, 63, 12, dtype=torch.float64),
    "fixed_padding: a sequence of nothing but padding gives zeros",
    atol=1e-12,
)
check.close(
    weights[1],
    torch.zeros(2, 63, 63, dtype=torch.float64),
    "fixed_padding: a sequence of nothing but padding has no weights",
    atol=1e-12,
)
check.close(
    output[2],
    scaled_dot_product_attention(q, k, v, attn_mask=keep)[2],
    "fixed_padding: its neighbours do not notice",
    atol=1e-10,
)
### END HIDDEN TESTS

# %% test="fixed_padding" points=2
from coursekit import check
import torch

q, k, v = torch.randn(3, 2, 2, 4, 4, generator=torch.Generator().manual_seed(4))
allowed = torch.tensor([[1, 0, 0, 1], [1, 1, 1, 1], [0, 1, 0, 0], [0, 1, 1, 1]]).bool()
output, weights = fixed_boolean(q, k, v, allowed)
check.close(weights.sum(-1), torch.ones(2, 2, 4), "fixed_boolean: the weights of every query sum to one")
check.close(output[:, :, 2], v[:, :, 1], "fixed_boolean: a query that sees one key only returns that key's value")
check.close(weights[:, :, 0, 1:3], torch.zeros(2, 2, 2), "fixed_boolean: forbidden keys get no weight")
### BEGIN HIDDEN TESTS
from torch.nn.functional import scaled_dot_product_attention

draw = torch.Generator().manual_seed(check.seed(5))
q = torch.randn(3, 2, 9, 12, generator=draw, dtype=torch.float64)
k, v = torch.randn(2, 3, 2, 63, 12, generator=draw, dtype=torch.float64)
allowed = torch.rand(9, 63, generator=draw) < 0.5
output, weights = fixed_boolean(q, k, v, allowed)
identity = torch.eye(63, dtype=torch.float64).expand(3, 2, 63, 63)
check.close(
    output,
    scaled_dot_product_attention(q, k, v, attn_mask=allowed),
    "fixed_boolean: outputs at T_q = 9, T_k = 63",
    atol=1e-10,
)
check.close(
    weights,
    scaled_dot_product_attention(q, k, identity, attn_mask=allowed),
    "fixed_boolean: weights at T_q = 9, T_k = 63",
    atol=1e-10,
)
large = 1000.0 * q
oracle = scaled_dot_product_attention(large, k, v, attn_mask=allowed)
check.close(fixed_boolean(large, k, v, allowed)[0], oracle, "fixed_boolean: scores in the thousands", atol=1e-8)
allowed[4] = False
zero = fixed_boolean(q, k, v, allowed)
check.close(
    zero[0][:, :, 4],
    torch.zeros(3, 2, 12, dtype=torch.float64),
    "fixed_boolean: a query that may see nothing returns zeros",
    atol=1e-12,
)
check.close(
    zero[1][:, :, 4],
    torch.zeros(3, 2, 63, dtype=torch.float64),
    "fixed_boolean: a query that may see nothing has no weights",
    atol=1e-12,
)
### END HIDDEN TESTS

# %% test="fixed_padding" points=2
from coursekit import check
import torch

q, k, v = torch.randn(3, 2, 2, 6, 4, generator=torch.Generator().manual_seed(6))
output, weights = fixed_causal(q, k, v)
check.close(weights.sum(-1), torch.ones(2, 2, 6), "fixed_causal: the weights of every query sum to one")
later = torch.cat([k[:, :, :3], k[:, :, 3:] + 5.0], dim=2), torch.cat([v[:, :, :3], v[:, :, 3:] - 5.0], dim=2)
check.close(
    fixed_causal(q, *later)[0][:, :, :3],
    output[:, :, :3],
    "fixed_causal: changing tokens 3 to 5 changes no output before them",
)
everything = (q @ k.transpose(-2, -1) / 2).softmax(-1) @ v
check.close(output[:, :, -1], everything[:, :, -1], "fixed_causal: the last query sees every key")
check.close(output[:, :, 0], v[:, :, 0], "fixed_causal: the first query sees itself and nothing else")
### BEGIN HIDDEN TESTS
from torch.nn.functional import scaled_dot_product_attention

for batch, heads, t, width in ((3, 2, 63, 12), (1, 1, 1, 5), (1, 3, 2, 1)):
    q, k, v = torch.randn(
        3, batch, heads, t, width, generator=torch.Generator().manual_seed(check.seed(t)), dtype=torch.float64
    )
    output, weights = fixed_causal(q, k, v)
    identity = torch.eye(t, dtype=torch.float64).expand(batch, heads, t, t)
    check.close(
        output, scaled_dot_product_attention(q, k, v, is_causal=True), f"fixed_causal: outputs at T = {t}", atol=1e-10
    )
    check.close(
        weights,
        scaled_dot_product_attention(q, k, identity, is_causal=True),
        f"fixed_causal: weights at T = {t}",
        atol=1e-10,
    )
### END HIDDEN TESTS

# %% mistakes="fixed_padding"
{
    "the padding mask removes rows (queries) and leaves the padded keys visible": (
        "padding[:, None, None, :]",
        "padding[:, None, :, None]",
    ),
    'the padding mask is read as "True = keep"': ("padding[:, None, None, :]", "~padding[:, None, None, :]"),
    "padded queries are masked too, and not only padded keys": (
        "blocked = padding[:, None, None, :]",
        "blocked = padding[:, None, None, :] | padding[:, None, :, None]",
    ),
    "the padding is removed after the softmax, and what is left is not divided by its sum": (
        "softmax(scores.masked_fill(blocked, -math.inf), dim=-1)",
        "softmax(scores, dim=-1).masked_fill(blocked, 0.0)",
    ),
    "padded keys get a large negative number and not -inf, so a sequence of nothing but padding looks evenly at it": (
        "scores.masked_fill(blocked, -math.inf)",
        "scores.masked_fill(blocked, -1e9)",
    ),
    "the padding mask is added to the scores as the numbers 0 and 1": (
        "scores.masked_fill(blocked, -math.inf)",
        "scores + blocked",
    ),
    "the padding mask of the first sequence is used for all of them": (
        "padding[:, None, None, :]",
        "padding[:1, None, None, :]",
    ),
    'the boolean mask is added to the scores, so "may attend" is worth one point and "may not" costs nothing': (
        "scores.masked_fill(~may_attend, -math.inf)",
        "scores + may_attend",
    ),
    "the boolean mask is inverted: the forbidden keys are the visible ones": (
        "masked_fill(~may_attend",
        "masked_fill(may_attend",
    ),
    "the forbidden keys are removed after the softmax, without renormalising": (
        "softmax(scores.masked_fill(~may_attend, -math.inf), dim=-1)",
        "softmax(scores, dim=-1) * may_attend",
    ),
    "the forbidden keys are removed after the softmax, and the row is divided by its sum, which may be 0": (
        "weights = softmax(scores.masked_fill(~may_attend, -math.inf), dim=-1)",
        "weights = softmax(scores, dim=-1) * may_attend\n    weights = weights / weights.sum(-1, keepdim=True)",
    ),
    "the scores are multiplied by the boolean mask, so a forbidden key has the score 0, which is not -inf": (
        "scores.masked_fill(~may_attend, -math.inf)",
        "scores * may_attend",
    ),
    "a forbidden key has -100 added to its score, which is too little when the scores are large": (
        "scores.masked_fill(~may_attend, -math.inf)",
        "scores - 100.0 * ~may_attend",
    ),
    "forbidden keys get a large negative number and not -inf, so a query that may see nothing looks evenly at all keys": (
        "scores.masked_fill(~may_attend, -math.inf)",
        "scores.masked_fill(~may_attend, -1e9)",
    ),
    "a large number is taken off the scores of forbidden keys, so a query that may see nothing looks at all of them": (
        "scores.masked_fill(~may_attend, -math.inf)",
        "scores - 1e9 * ~may_attend",
    ),
    "a query that may see nothing gets NaN, as 0 is divided by 0 there": (
        "softmax(scores.masked_fill(~may_attend, -math.inf), dim=-1)",
        "torch.softmax(scores.masked_fill(~may_attend, -math.inf), dim=-1)",
    ),
    "a sequence of nothing but padding gets NaN, as 0 is divided by 0 there": (
        "softmax(scores.masked_fill(blocked, -math.inf), dim=-1)",
        "torch.softmax(scores.masked_fill(blocked, -math.inf), dim=-1)",
    ),
    "torch.softmax is used throughout, and where nothing may be seen it gives NaN": (
        "softmax(scores.masked_fill(",
        "torch.softmax(scores.masked_fill(",
        "all",
    ),
    "the boolean mask is transposed": ("~may_attend, -math.inf", "~may_attend.mT, -math.inf"),
    "every query still sees the token after it: the triangle is one diagonal too wide": (
        ".tril()",
        ".tril(diagonal=1)",
    ),
    "no query sees itself: the triangle is one diagonal too narrow": (".tril()", ".tril(diagonal=-1)"),
    "the triangle is transposed: queries see the future and not the past": (".tril()", ".triu()"),
    "the future is removed after the softmax, so it still counts in the denominator": (
        "softmax(torch.where(past, scores, -math.inf), dim=-1)",
        "softmax(scores, dim=-1) * past",
    ),
    "the scores of the future are set to 0 and not to -inf": (
        "torch.where(past, scores, -math.inf)",
        "torch.where(past, scores, 0.0)",
    ),
}


# %% alternative="fixed_padding"
def fixed_padding(q, k, v, padding):
    """Exponentials by hand, forbidden ones multiplied by zero before the sum."""
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * q.shape[-1] ** -0.5
    keep = (~padding).to(q.dtype)[:, None, None, :]
    e = torch.exp(scores - scores.amax(-1, keepdim=True)) * keep
    weights = e / e.sum(-1, keepdim=True).clamp(min=1e-300 if q.dtype == torch.float64 else 1e-30)
    return torch.einsum("bhqk,bhkd->bhqd", weights, v), weights


def fixed_boolean(q, k, v, may_attend):
    mask = torch.zeros(may_attend.shape, dtype=q.dtype).masked_fill(~may_attend, float("-inf"))
    weights = torch.nan_to_num(torch.softmax(torch.matmul(q, k.mT) / q.size(-1) ** 0.5 + mask, dim=-1))
    return torch.matmul(weights, v), weights


def fixed_causal(q, k, v):
    scores = q.double() @ k.double().mT / q.shape[-1] ** 0.5
    weights = torch.zeros_like(scores)
    for i in range(q.shape[2]):
        weights[:, :, i, : i + 1] = scores[:, :, i, : i + 1].softmax(-1)
    return (weights @ v.double()).to(q.dtype), weights.to(q.dtype)


# %% [markdown]
# ## Exercise 4 · `mha_forward`
#
# Write multi-head attention as one function of plain tensors, equal to `nn.MultiheadAttention` in output, in weights and
# in the gradient of every parameter and input. Dropout, `kdim`, `add_bias_kv` and inputs without a batch axis are left out.
#
# One difference is deliberate. Where a query may see no key at all, PyTorch's answer depends on how you ask, as you
# will see below. Ours is always the same: zero weights, so that the output is `b_o`, and finite gradients.
#
# *Difficulty 4 of 5 · 25 minutes · 8 points*


# %% exercise="mha_forward" difficulty=4 minutes=25 forbid=["nn.MultiheadAttention", "multi_head_attention_forward", "scaled_dot_product_attention"]
def mha_forward(
    params: dict[str, torch.Tensor],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    n_heads: int,
    mask: torch.Tensor | None = None,
    average_weights: bool = True,
    batch_first: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Multi-head attention, equal to ``nn.MultiheadAttention`` with the same weights.

    Args:
        params: "w_q", "w_k", "w_v", "w_o" of shape (d_model, d_model), used as ``x @ w``, and perhaps "b_q", "b_k",
            "b_v", "b_o" of shape (d_model,). A bias that is not there is zero.
        query: (B, T_q, d_model), or (T_q, B, d_model) if batch_first is false.
        key, value: (B, T_k, d_model), or (T_k, B, d_model) if batch_first is false.
        n_heads: H. Head h uses the columns h * d_k to (h + 1) * d_k of w_q, w_k and w_v, where d_k = d_model / H.
        mask: additive float mask that broadcasts to (B, H, T_q, T_k), added to the scaled scores. Batch first always.
        average_weights: return the mean of the weights over the heads, or the weights of every head.
        batch_first: whether query, key, value and output have the batch on their first axis or on their second.

    Returns:
        output: of query's shape, axis order and dtype.
        weights: (B, T_q, T_k) if averaged, else (B, H, T_q, T_k). Batch first always.
        A query whose mask is -inf for every key has zero weights, so its output is b_o; all gradients stay finite.

    Raises:
        TypeError: if mask is boolean. Added as numbers, it would be wrong without a word.
        ValueError: if d_model is not a multiple of n_heads.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.2.2.
    """
    ### BEGIN SOLUTION
    if mask is not None and mask.dtype == torch.bool:
        raise TypeError("mask must be additive (float); turn a boolean mask into one with to_additive_mask")
    if query.shape[-1] % n_heads:
        raise ValueError(f"d_model = {query.shape[-1]} is not a multiple of n_heads = {n_heads}")
    if not batch_first:
        query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)

    def project(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ params[f"w_{name}"] + params.get(f"b_{name}", 0.0)

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)  # (B, T, d_model) -> (B, T, H, d_k) -> (B, H, T, d_k)

    q, k, v = split(project(query, "q")), split(project(key, "k")), split(project(value, "v"))
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T_q, T_k)
    if mask is not None:
        scores = scores + mask
    weights = softmax(scores, dim=-1)  # (B, H, T_q, T_k)
    context = (weights @ v).transpose(1, 2).flatten(2)  # (B, H, T_q, d_k) -> (B, T_q, d_model)
    output = project(context, "o")
    if not batch_first:
        output = output.transpose(0, 1)
    return output, weights.mean(dim=1) if average_weights else weights
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Only two lines depend on <code>batch_first</code>: one at the start, one at the end. Everything between can be
# written for one layout.</details>
# <details><summary>A bigger nudge</summary>Your <code>softmax</code> of Lab 1.1 already does what the docstring asks of a row that is -inf throughout.
# Repairing NaN afterwards mends the forward pass only: the backward pass multiplies by the NaN that was there.</details>

# %% test="mha_forward" points=3
from coursekit import check
import torch

# Simple weights, so that you can follow them: the projections only multiply, by 1, 2 and 3.
draw = torch.Generator().manual_seed(7)
x = torch.randn(2, 3, 4, generator=draw)
eye = torch.eye(4)
params = {
    "w_q": eye,
    "w_k": 2 * eye,
    "w_v": 3 * eye,
    "w_o": eye,
    "b_q": eye[0],
    "b_k": eye[1],
    "b_v": eye[2],
    "b_o": eye[3],
}
layer = torch.nn.MultiheadAttention(4, 2, batch_first=True)
simple = {"in_proj_weight": torch.cat([eye, 2 * eye, 3 * eye]), "in_proj_bias": eye[:3].flatten()}
layer.load_state_dict(simple | {"out_proj.weight": eye, "out_proj.bias": eye[3]})
with torch.no_grad():
    output, weights = layer(x, x, x, average_attn_weights=False)
    mean = layer(x, x, x)[1]
check.close(mha_forward(params, x, x, x, 2, average_weights=False)[1], weights, "the weights of every head, no mask")
check.close(mha_forward(params, x, x, x, 2)[0], output, "the output, no mask")
check.close(mha_forward(params, x, x, x, 2)[1], mean, "the weights averaged over the heads")
future = torch.full((3, 3), -float("inf")).triu(1)
with torch.no_grad():
    output, mean = layer(x, x, x, attn_mask=future)
check.close(
    list(mha_forward(params, x, x, x, 2, future[None, None])), [output, mean], "causal: output and averaged weights"
)
square = x[:, :2]  # two sequences of two tokens: shapes cannot tell batch from time
with torch.no_grad():
    output, mean = layer(square, square, square)
swapped = mha_forward(params, *[square.transpose(0, 1)] * 3, 2, batch_first=False)
check.close(list(swapped), [output.transpose(0, 1), mean], "batch_first=False: output and averaged weights")
check.raises(TypeError, lambda: mha_forward(params, x, x, x, 2, future[None, None] < 0), "a boolean mask is refused")
check.raises(ValueError, lambda: mha_forward(params, x, x, x, 3), "4 features cannot be split into 3 heads")
### BEGIN HIDDEN TESTS
for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
    for batch, heads, d, t_q, t_k in (
        (3, 3, 60, 63, 63),
        (1, 5, 60, 63, 17),
        (3, 1, 6, 3, 3),
        (2, 6, 6, 2, 5),
        (1, 2, 6, 1, 1),
    ):
        for bias in (True, False):
            torch.manual_seed(check.seed(d + t_k))
            layers = [
                torch.nn.MultiheadAttention(d, heads, bias=bias, batch_first=first, dtype=dtype)
                for first in (True, False)
            ]
            state = {name: torch.randn_like(tensor) / d**0.5 for name, tensor in layers[0].state_dict().items()}
            for layer in layers:
                layer.load_state_dict(state)
            params = dict(zip(["w_q", "w_k", "w_v"], [w.T for w in state["in_proj_weight"].split(d)], strict=True))
            params["w_o"] = state["out_proj.weight"].T
            if bias:
                params |= dict(zip(["b_q", "b_k", "b_v"], state["in_proj_bias"].split(d), strict=True))
                params["b_o"] = state["out_proj.bias"]
            query, (key, value) = torch.randn(batch, t_q, d, dtype=dtype), torch.randn(2, batch, t_k, d, dtype=dtype)
            name = f"B={batch}, H={heads}, d_model={d}, T_q={t_q}, T_k={t_k}, bias={bias}, {dtype}"
            with torch.no_grad():
                oracle = layers[0](query, key, value, average_attn_weights=False)
                averaged = layers[1](*[x.transpose(0, 1) for x in (query, key, value)])
            got = mha_forward(params, query, key, value, heads, average_weights=False)
            check.close(list(got), list(oracle), f"output and weights of every head, {name}", atol=tolerance)
            got = mha_forward(params, *[x.transpose(0, 1) for x in (query, key, value)], heads, batch_first=False)
            check.close(
                list(got), list(averaged), f"output and averaged weights with the batch second, {name}", atol=tolerance
            )
### END HIDDEN TESTS

# %% test="mha_forward" points=3
from coursekit import check
import torch

# One sequence, one head, one feature. All scores are 0, so the mask alone decides: softmax of (0, log 3) is (1/4, 3/4).
one = torch.ones(1, 1)
params = {"w_q": 0 * one, "w_k": one, "w_v": one, "w_o": one, "b_o": torch.tensor([5.0])}
values = torch.tensor([[[4.0], [8.0]]])
output, weights = mha_forward(params, values, values, values, 1, torch.tensor([0.0, 3.0]).log().expand(1, 1, 2, 2))
check.close(weights, torch.tensor([[[0.0, 1.0]] * 2]), "a mask of -inf and log 3")
output, weights = mha_forward(params, values, values, values, 1, torch.tensor([1.0, 3.0]).log().expand(1, 1, 2, 2))
check.close(weights, torch.tensor([[[0.25, 0.75]] * 2]), "a mask of 0 and log 3")
check.close(output, torch.full((1, 2, 1), 12.0), "its output: 4/4 + 3/4 * 8 + 5")
output, weights = mha_forward(params, values, values, values, 1, torch.full((1, 1, 2, 2), -float("inf")))
check.close(weights, torch.zeros(1, 2, 2), "queries that may see nothing have zero weights")
check.close(output, torch.full((1, 2, 1), 5.0), "queries that may see nothing return the bias of the output projection")
### BEGIN HIDDEN TESTS
inf = float("inf")
for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
    for batch, t_q, t_k in ((3, 63, 63), (1, 9, 14), (3, 5, 3)):
        d, heads = 60, 4
        torch.manual_seed(check.seed(t_q))
        layer = torch.nn.MultiheadAttention(d, heads, batch_first=True, dtype=dtype)
        state = {name: torch.randn_like(tensor) / d**0.5 for name, tensor in layer.state_dict().items()}
        layer.load_state_dict(state)
        params = dict(zip(["w_q", "w_k", "w_v"], [w.T for w in state["in_proj_weight"].split(d)], strict=True))
        params |= dict(zip(["b_q", "b_k", "b_v"], state["in_proj_bias"].split(d), strict=True))
        params |= {"w_o": state["out_proj.weight"].T, "b_o": state["out_proj.bias"]}
        query, (key, value) = torch.randn(batch, t_q, d, dtype=dtype), torch.randn(2, batch, t_k, d, dtype=dtype)
        future = torch.ones(t_q, t_k, dtype=torch.bool).triu(1)
        padding = torch.rand(batch, t_k) < 0.4
        padding[:, 0] = False
        bias = torch.randn(t_q, t_k, dtype=dtype)
        heads_bias = torch.randn(batch * heads, t_q, t_k, dtype=dtype)
        zeros = torch.zeros(batch, 1, t_q, t_k, dtype=dtype)
        pad = zeros.masked_fill(padding[:, None, None, :], -inf)
        cases = {
            "key padding": ({"key_padding_mask": padding}, pad),
            "a causal mask": ({"attn_mask": future}, zeros.masked_fill(future, -inf)),
            "padding and causal": ({"key_padding_mask": padding, "attn_mask": future}, pad.masked_fill(future, -inf)),
            "a float mask": ({"attn_mask": bias}, bias[None, None]),
            "a float mask for every head": ({"attn_mask": heads_bias}, heads_bias.unflatten(0, (batch, heads))),
        }
        for kind, (masks, additive) in cases.items():
            with torch.no_grad():
                oracle = layer(query, key, value, average_attn_weights=False, **masks)
            got = mha_forward(params, query, key, value, heads, additive, average_weights=False)
            check.close(
                list(got),
                list(oracle),
                f"output and weights with {kind}, B={batch}, T_q={t_q}, T_k={t_k}, {dtype}",
                atol=tolerance,
            )
            got = mha_forward(
                params, *[x.transpose(0, 1) for x in (query, key, value)], heads, additive, batch_first=False
            )
            wanted = [oracle[0].transpose(0, 1), oracle[1].mean(1)]
            check.close(
                list(got), wanted, f"batch second with {kind}, B={batch}, T_q={t_q}, T_k={t_k}, {dtype}", atol=tolerance
            )
### END HIDDEN TESTS

# %% test="mha_forward" points=2
from coursekit import check
import torch

torch.manual_seed(8)
names = ["w_q", "w_k", "w_v", "w_o", "b_q", "b_k", "b_v", "b_o"]
shapes = [(6, 6)] * 4 + [(6,)] * 4
leaves = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]
x = torch.randn(2, 4, 6, dtype=torch.float64)
output, _ = mha_forward(dict(zip(names, leaves, strict=True)), x, x, x, 3)
reached = torch.autograd.grad(output.square().sum(), leaves, allow_unused=True)
missing = [name for name, gradient in zip(names, reached, strict=True) if gradient is None]
check.equal(missing, [], "parameters that no gradient reaches")
check.that(reached[5].abs().max() < 1e-8, "the output does not depend on b_k, so its gradient is zero up to rounding")
### BEGIN HIDDEN TESTS
from torch.nn.functional import multi_head_attention_forward

inf, d, heads = float("inf"), 12, 3
for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
    torch.manual_seed(check.seed(9))
    weights = [torch.randn(3 * d, d, dtype=dtype), torch.randn(d, d, dtype=dtype)]
    biases = [torch.randn(3 * d, dtype=dtype), torch.randn(d, dtype=dtype)]
    leaves = [tensor / d**0.5 for tensor in weights + biases]
    leaves += [torch.randn(3, t, d, dtype=dtype) for t in (5, 7, 7)]
    zeros = torch.zeros(3, 1, 5, 7, dtype=dtype)
    padding = torch.tensor([[0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]]).bool()
    pad = zeros.masked_fill(padding[:, None, None], -inf)
    bias = torch.randn(9, 5, 7, dtype=dtype)
    empty = padding.clone()
    empty[1] = True
    cases = {
        "no mask": ({}, None),
        "key padding": ({"key_padding_mask": padding}, pad),
        "a causal mask": (
            {"attn_mask": torch.ones(5, 7).triu(1).bool()},
            zeros + torch.full((5, 7), -inf, dtype=dtype).triu(1),
        ),
        "a float mask for every head": ({"attn_mask": bias}, bias.unflatten(0, (3, heads))),
        "a sequence of nothing but padding": (
            {"key_padding_mask": empty},
            zeros.masked_fill(empty[:, None, None], -inf),
        ),
    }
    for kind, (masks, additive) in cases.items():
        # Without weights PyTorch gives zeros, not NaN, where a query may see nothing.
        with_weights = kind != "a sequence of nothing but padding"

        def ours(w, w_out, b, b_out, *inputs, additive=additive, with_weights=with_weights):
            params = {f"w_{n}": part.T for n, part in zip("qkv", w.split(d), strict=True)} | {
                "w_o": w_out.T,
                "b_o": b_out,
            }
            params |= {f"b_{n}": part for n, part in zip("qkv", b.split(d), strict=True)}
            result = mha_forward(params, *inputs, heads, additive, average_weights=False)
            return tuple(result) if with_weights else result[0]

        def torchs(w, w_out, b, b_out, *inputs, masks=masks, with_weights=with_weights):
            output, weights = multi_head_attention_forward(
                *[x.transpose(0, 1) for x in inputs],
                d,
                heads,
                w,
                b,
                None,
                None,
                False,
                0.0,
                w_out,
                b_out,
                need_weights=with_weights,
                average_attn_weights=False,
                **masks,
            )
            return (output.transpose(0, 1), weights) if with_weights else output.transpose(0, 1)

        check.gradients(
            ours,
            torchs,
            leaves,
            f"gradients with {kind}, {dtype} (inputs: in_proj and out_proj weights, their biases, query, key, value)",
            atol=tolerance,
        )
### END HIDDEN TESTS

# %% mistakes="mha_forward"
{
    "the scores are not divided by sqrt(d_k)": (" / math.sqrt(q.shape[-1])", ""),
    "the scores are divided by sqrt(d_model), not by the root of one head's width": (
        "math.sqrt(q.shape[-1])",
        "math.sqrt(query.shape[-1])",
    ),
    "the biases are used only where b_q is there": (
        ' + params.get(f"b_{name}", 0.0)',
        ' + (params[f"b_{name}"] if "b_q" in params else 0.0)',
    ),
    "the biases are dropped": (' + params.get(f"b_{name}", 0.0)', ""),
    "the bias of the output projection is dropped": (
        'output = project(context, "o")',
        'output = context @ params["w_o"]',
    ),
    "the output projection is left out": ('output = project(context, "o")', "output = context"),
    "w is transposed as in PyTorch's layers, though these weights are for x @ w": (
        'x @ params[f"w_{name}"]',
        'x @ params[f"w_{name}"].T',
    ),
    "the keys and the values are computed from query": [
        ('project(key, "k")', 'project(query, "k")'),
        ('project(value, "v")', 'project(query, "v")'),
    ],
    "the values are computed from the keys": ('project(value, "v")', 'project(key, "v")'),
    "queries and keys have changed their projections": (
        'split(project(query, "q")), split(project(key, "k"))',
        'split(project(query, "k")), split(project(key, "q"))',
    ),
    "the heads are cut out with a reshape and no transpose, so they mix tokens": (
        "x.unflatten(-1, (n_heads, -1)).transpose(1, 2)",
        "x.reshape(x.shape[0], n_heads, x.shape[1], -1)",
    ),
    "the heads are put together without moving the head axis back": (
        ".transpose(1, 2).flatten(2)",
        ".reshape(q.shape[0], q.shape[2], -1)",
    ),
    "the heads are cut out and put together by a reshape alone, and no axis ever moves": [
        ("x.unflatten(-1, (n_heads, -1)).transpose(1, 2)", "x.reshape(x.shape[0], n_heads, x.shape[1], -1)"),
        (".transpose(1, 2).flatten(2)", ".reshape(q.shape[0], q.shape[2], -1)"),
    ],
    "view puts the heads together, though memory is in another order": (
        ".transpose(1, 2).flatten(2)",
        ".transpose(1, 2).view(q.shape[0], q.shape[2], -1)",
    ),
    "the features are dealt out to the heads one by one, not in blocks": (
        "x.unflatten(-1, (n_heads, -1)).transpose(1, 2)",
        "x.unflatten(-1, (-1, n_heads)).permute(0, 3, 1, 2)",
    ),
    "the scores are averaged over the heads before the softmax, and the weights returned come from that": (
        "weights.mean(dim=1) if",
        "softmax(scores.mean(dim=1), dim=-1) if",
    ),
    "the weights are summed over the heads, not averaged": ("weights.mean(dim=1)", "weights.sum(dim=1)"),
    "only the first head's weights are returned": ("weights.mean(dim=1)", "weights[:, 0]"),
    "the weights are always averaged": ("weights.mean(dim=1) if average_weights else weights", "weights.mean(dim=1)"),
    "average_weights is ignored: the weights of every head are returned": (
        "weights.mean(dim=1) if average_weights else weights",
        "weights",
    ),
    "the weights are averaged over the batch and not over the heads": ("weights.mean(dim=1)", "weights.mean(dim=0)"),
    "batch_first is read the wrong way round": ("if not batch_first:", "if batch_first:", "all"),
    "batch_first=False is met with a reshape, which moves nothing, and not with a transpose": (
        "query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)",
        "(x.reshape(x.shape[1], x.shape[0], -1) for x in (query, key, value))",
    ),
    "the weights are turned round with batch_first=False, and they are always batch first": (
        "output = output.transpose(0, 1)",
        "output, weights = output.transpose(0, 1), weights.transpose(0, 2)",
    ),
    "batch_first=False is ignored, so attention runs across the batch": ("if not batch_first:", "if False:", "all"),
    "batch_first=False is honoured on the way in and forgotten on the way out": (
        "output = output.transpose(0, 1)",
        "output = output",
    ),
    "the mask is added before the scores are scaled, so float masks are scaled too": [
        (" / math.sqrt(q.shape[-1])  #", "  #"),
        ("weights = softmax(scores, dim=-1)", "weights = softmax(scores / math.sqrt(q.shape[-1]), dim=-1)"),
    ],
    "the mask is only used where it is -inf; finite values are lost": (
        "scores = scores + mask",
        "scores = scores.masked_fill(mask == -math.inf, -math.inf)",
    ),
    "every head gets the mask of the first head": ("scores = scores + mask", "scores = scores + mask[:, :1]"),
    "the mask is ignored": ("scores = scores + mask", "scores = scores + 0 * 0"),
    "the mask is clamped to -1e9, so a query that may see nothing spreads its weight evenly": (
        "scores = scores + mask",
        "scores = scores + mask.clamp(min=-1e9)",
    ),
    "the softmax runs over the queries": ("weights = softmax(scores, dim=-1)", "weights = softmax(scores, dim=-2)"),
    "a row that is -inf throughout becomes NaN in the softmax": (
        "weights = softmax(scores, dim=-1)",
        "weights = torch.softmax(scores, dim=-1)",
    ),
    "NaN is replaced by 0 after the softmax, which mends the values and leaves NaN in the gradients": (
        "weights = softmax(scores, dim=-1)",
        "weights = torch.nan_to_num(torch.softmax(scores, dim=-1))",
    ),
    "NaN is replaced by 0 in the results, which mends the values and leaves NaN in the gradients": [
        ("weights = softmax(scores, dim=-1)", "weights = torch.softmax(scores, dim=-1)"),
        ("context = (weights @ v)", "context = (weights @ v).nan_to_num()"),
        ('output = project(context, "o")', 'output, weights = project(context, "o"), weights.nan_to_num()'),
    ],
    "the returned weights are cut off from the gradient": (
        "if average_weights else weights",
        "if average_weights else weights.detach()",
    ),
    "the weights are detached before they meet the values, so w_q and w_k get no gradient from the output": (
        "(weights @ v)",
        "(weights.detach() @ v)",
    ),
    "a boolean mask is added as the numbers 0 and 1": ("mask.dtype == torch.bool:", "False:"),
}


# %% alternative="mha_forward"
def mha_forward(params, query, key, value, n_heads, mask=None, average_weights=True, batch_first=True):
    """A loop over the heads, float64 inside, the dead rows put aside before the softmax."""
    if mask is not None and not mask.is_floating_point():
        raise TypeError("additive masks only")
    if not batch_first:
        output, weights = mha_forward(
            params, query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1), n_heads, mask, average_weights
        )
        return output.transpose(0, 1), weights
    batch, t_q, d = query.shape
    width, rest = divmod(d, n_heads)
    if rest:
        raise ValueError("d_model")
    p = {name: tensor.double() for name, tensor in params.items()}
    zero = torch.zeros(d, dtype=torch.float64)
    total, all_weights = zero.clone(), []
    for h in range(n_heads):
        part = slice(h * width, (h + 1) * width)
        q, k, v = (
            torch.einsum("btd,de->bte", x.double(), p["w_" + n][:, part]) + p.get("b_" + n, zero)[part]
            for x, n in ((query, "q"), (key, "k"), (value, "v"))
        )
        scores = torch.einsum("bqe,bke->bqk", q, k) / width**0.5
        if mask is not None:
            scores = scores + mask.expand(batch, n_heads, t_q, k.shape[1])[:, h].double()
        dead = torch.isneginf(scores).all(-1, keepdim=True)
        weights = torch.where(
            dead, torch.zeros_like(scores), torch.where(dead, torch.zeros_like(scores), scores).softmax(-1)
        )
        all_weights.append(weights)
        total = total + weights @ v @ p["w_o"][part]
    weights = torch.stack(all_weights, dim=1).to(query.dtype)
    return (total + p.get("b_o", zero)).to(query.dtype), weights.mean(1) if average_weights else weights


# %% [markdown]
# ## Look at it
#
# Now the whole chain at once: weights out of a PyTorch layer with `from_torch`, masks through `to_additive_mask`, attention with
# `mha_forward`. The heat map shows the largest difference to PyTorch for every kind of mask, in outputs, weights and
# gradients. The colour is the exponent of ten. Float32 has a spacing of about $1.2 \cdot 10^{-7}$ at 1; everything here should be
# a small multiple of that.

# %%
BATCH, HEADS, T, D = 3, 4, 63, 60
torch.manual_seed(11)
layer = nn.MultiheadAttention(D, HEADS, batch_first=True)
nn.init.normal_(layer.in_proj_bias)
nn.init.normal_(layer.out_proj.bias)
x = torch.randn(BATCH, T, D)
padding = torch.arange(T) >= torch.tensor([[63], [40], [21]])  # (B, T)
future = torch.ones(T, T, dtype=torch.bool).triu(diagonal=1)
slopes = -0.1 * (torch.arange(T)[:, None] - torch.arange(T)[None, :]).abs()
per_head = torch.randn(BATCH * HEADS, T, T)
padding_as_float = torch.zeros(BATCH, T).masked_fill(padding, -math.inf)
# PyTorch's masks on the left, ours on the right
mask_kinds = {
    "none": ({}, {}),
    "key padding": ({"key_padding_mask": padding}, {"key_padding": padding}),
    "causal": ({"attn_mask": future}, {"causal": True}),
    "padding + causal": ({"key_padding_mask": padding, "attn_mask": future}, {"key_padding": padding, "causal": True}),
    "float": ({"attn_mask": slopes}, {"attn_mask": slopes}),
    "padding + float": (
        {"key_padding_mask": padding_as_float, "attn_mask": slopes},
        {"key_padding": padding, "attn_mask": slopes},
    ),
    "per head": ({"attn_mask": per_head}, {"attn_mask": per_head}),
}


def largest_differences(layer: nn.MultiheadAttention, x: torch.Tensor, theirs: dict, ours: dict) -> dict[str, float]:
    """The largest absolute difference in outputs, in both kinds of weights and in the gradients of all parameters."""
    output, weights = layer(x, x, x, average_attn_weights=False, **theirs)
    state = {name: value.detach().clone().requires_grad_() for name, value in layer.state_dict().items()}
    params, mask = from_torch(state), to_additive_mask(x, x, **ours)
    own_output, own_weights = mha_forward(params, x, x, x, layer.num_heads, mask, average_weights=False)
    own_mean = mha_forward(params, x, x, x, layer.num_heads, mask)[1]
    wanted = torch.autograd.grad(output.square().mean(), list(layer.parameters()))
    got = torch.autograd.grad(own_output.square().mean(), [state[name] for name, _ in layer.named_parameters()])
    return {
        "output": (output - own_output).abs().max().item(),
        "weights per head": (weights - own_weights).abs().max().item(),
        "weights averaged": (weights.mean(dim=1) - own_mean).abs().max().item(),
        "gradients": max((a - b).abs().max().item() for a, b in zip(wanted, got, strict=True)),
    }


table = {kind: largest_differences(layer, x, *masks) for kind, masks in mask_kinds.items()}
columns = list(table["none"])
values = [[row[column] for column in columns] for row in table.values()]
exponents = [[math.log10(max(value, 1e-12)) for value in row] for row in values]
figure = go.Figure(
    go.Heatmap(
        z=exponents,
        x=columns,
        y=list(table),
        customdata=values,
        zmin=-8,
        zmax=-5,
        colorscale="Blues",
        text=[[f"{value:.1e}" for value in row] for row in values],
        texttemplate="%{text}",
        hovertemplate="%{y}, %{x}: %{customdata:.2e}<extra></extra>",
        colorbar={"title": {"text": "power of 10"}},
    )
)
figure.update_layout(height=380, xaxis_title="what is compared", yaxis_title="mask", yaxis_autorange="reversed")
figure.show()
print(f"largest difference of all: {max(max(row) for row in values):.1e}")

# %% [markdown]
# The class of Lab 1.3 has no biases, so it has a twin in `nn.MultiheadAttention(bias=False)`. Its parameters carry the names that
# `from_torch` gives, so the state dict goes straight in. Its mask is boolean with True = may attend.

# %%
MultiHeadAttention = carry("ch01/lab03", "MultiHeadAttention")
twin = nn.MultiheadAttention(D, HEADS, bias=False, batch_first=True)
mine = MultiHeadAttention(D, HEADS)
mine.load_state_dict(from_torch(twin.state_dict()))
with torch.no_grad():
    difference = (mine(x, mask=~future)[0] - twin(x, x, x, attn_mask=future)[0]).abs().max()
print(f"The class of Lab 1.3 and PyTorch, causal: largest difference {difference:.1e}")

# %% [markdown]
# And now the case in which PyTorch does not agree with itself. The second of two sequences is padding throughout. Only the
# way of asking changes.

# %%
batch = torch.randn(2, 5, D)
nothing = torch.tensor([[False] * 5, [True] * 5])
layer.eval()
for need_weights in (True, False):
    for record in (True, False):
        with torch.set_grad_enabled(record):
            output = layer(batch, batch, batch, key_padding_mask=nothing, need_weights=need_weights)[0][1, 0]
        answer = "NaN" if output.isnan().all() else "b_o" if torch.allclose(output, layer.out_proj.bias) else "other"
        print(f"nn.MultiheadAttention, need_weights={need_weights!s:<6} gradients recorded={record!s:<6} -> {answer}")
params = from_torch(layer.state_dict())
output = mha_forward(params, batch, batch, batch, HEADS, to_additive_mask(batch, batch, key_padding=nothing))[0][1, 0]
print(f"mha_forward -> {'b_o' if torch.allclose(output, layer.out_proj.bias) else 'other'}")

# %% [markdown]
# Questions worth a minute:
#
# - The averaged weights agree better than those of single heads. Why should averaging over heads make a difference smaller?
# - Rebuild `layer` and `x` with `dtype=torch.float64` (and the float masks too). By what factor do the differences shrink, and what does that say about
#   where they come from?
# - One sequence of padding in a batch of a thousand, in a training loop that asks for weights: what does the loss of that step look
#   like, and the parameters after it?
#
# ## Common mistakes
#
# - **Reading True the wrong way round.** `nn.MultiheadAttention`: True = ignore. `F.scaled_dot_product_attention`: True = may attend. A
#   tokenizer's `attention_mask`: 1 = keep. Code that moves between them needs a `~`, and nothing fails without it.
# - **Padding on the wrong axis.** With T_q = T_k, the mask `(B, 1, T, 1)` fits as well as `(B, 1, 1, T)`. Test with T_q different from T_k and the
#   mistake becomes an error.
# - **A triangle that is one diagonal too wide.** Training loss falls quickly, because the answer is among the inputs. Generation
#   is poor, because there the next token does not exist yet. Test it: change the future, compare the past.
# - **A boolean mask added as numbers.** `scores + mask` is legal for booleans. In code of your own, refuse boolean masks where you add.
# - **Adding the mask before dividing by** $\sqrt{d_k}$. $-\infty$ survives any division, so padding and causal masks cannot show it. A float mask can.
# - **Large negative numbers for** $-\infty$. They do as long as a row has one key left. In a row without one, softmax subtracts
#   the maximum, the large number vanishes, and padding gets the whole weight.
# - **Mending NaN after the softmax.** `nan_to_num` repairs the output and not the gradient.
# - **Aligning a causal mask that is not square.** Here query i sees keys 0 to i. When decoding with a cache, the queries are the
#   *last* positions, and the triangle has to be aligned with the last key instead. Both are called causal.
#
# ## Going further
#
# - Add `add_zero_attn` and `add_bias_kv`, two options that PyTorch has for giving every query something to attend to. Which of them changes
#   what happens to a query that may see nothing?
# - The float mask "minus distance" of the first picture is the core of a way to encode positions. Read Press, Smith and Lewis, *Train
#   Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation*, 2022, and build their slopes (one for each head) as
#   a `(B * H, T_q, T_k)` mask that both PyTorch and `mha_forward` accept.
