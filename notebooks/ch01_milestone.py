# ---
# title: "Milestone 1: our multi-head attention equals PyTorch's"
# chapter: ch01
# kind: milestone
# claim: Our own multi-head attention equals nn.MultiheadAttention within 1e-5, in outputs, weights and all gradients.
# minutes: 1
# ---

# %% [markdown]
# # Milestone 1: our multi-head attention equals PyTorch's
#
# In [Lab 1.3](../release/ch01_attention/lab03_multihead.ipynb) you built multi-head attention from four matrices. This notebook holds it against
# `nn.MultiheadAttention` with the same weights, over a grid of shapes, masks, number types and thread counts. It compares
# everything that training needs: outputs, the weights of every head, and the gradients of the inputs and of each parameter.
#
# `course milestones ch01` measures *your* class when your notebook of that lab is in `work/` and passes its checks; otherwise
# the course's reference. The next line of output says which.

# %% tags=["parameters"]
result_path = ""  # where to write the result as JSON; empty: only print it
quick = False  # fewer shapes, for the tests

# %%
import itertools
import time

import plotly.graph_objects as go
import torch
from IPython.display import HTML, display
from torch import nn

from coursekit import carry, plots, results

started = time.perf_counter()
MultiHeadAttention = carry("ch01/lab03", "MultiHeadAttention")
LIMIT = {torch.float32: 1e-5, torch.float64: 1e-12}

# %% [markdown]
# ## The grid
#
# Odd lengths, one head and many, one token, a question asked of a longer text ($T_q \neq T_k$). Where $T_q = T_k$ it is self-attention: keys and values come from
# the same tensor as the queries, so three gradients meet in one.
#
# Our class takes boolean masks only, True where a query *may* look. PyTorch has three ways to say the same thing, and each is tried:
#
# | mask | ours | PyTorch's |
# |---|---|---|
# | none | nothing | nothing |
# | causal | boolean, True = may look | `attn_mask`, boolean, True = may **not** look |
# | key padding | boolean `(B, T_q, T_k)` | `key_padding_mask` `(B, T_k)`, True = ignore |
# | causal and padding | both in one | both arguments |
# | float | boolean, some links cut at random | `attn_mask` of 0 and $-\infty$, added to the scores |
#
# A float mask with other numbers, such as a penalty for distance, cannot be said in our class's interface and is left out here. So
# are rows that may look at nothing: ours gives zeros, PyTorch's formula gives NaN there.

# %%
SHAPES = [  # B, T_q, T_k, d_model, n_heads
    (1, 1, 1, 8, 1),
    (3, 7, 7, 12, 12),
    (2, 16, 16, 64, 1),
    (3, 63, 63, 60, 6),
    (2, 128, 128, 64, 8),
    (3, 5, 9, 12, 3),
    (1, 17, 200, 96, 4),
]
if quick:
    SHAPES = [SHAPES[1], SHAPES[5]]
MASKS = ["none", "causal", "key padding", "causal and padding", "float"]
DTYPES = [torch.float32, torch.float64]
THREADS = [1, 2]
# PyTorch has two ways inside: one returns the weights, the other (need_weights=False) calls scaled_dot_product_attention.
ROUTES = {"with weights": True, "fused": False}


def make_masks(kind: str, B: int, T_q: int, T_k: int, dtype: torch.dtype) -> tuple[torch.Tensor | None, dict]:
    """Our boolean mask, and the arguments that say the same to nn.MultiheadAttention."""
    generator = torch.Generator().manual_seed(5)
    # With T_q < T_k the queries are the last tokens of the text, so the last query may see every key.
    causal = torch.ones(T_q, T_k, dtype=torch.bool).tril(T_k - T_q)
    n_real = torch.randint(1, T_k + 1, (B, 1), generator=generator)  # at least one real token in each row
    real = torch.arange(T_k) < n_real  # (B, T_k)
    links = (torch.rand(T_q, T_k, generator=generator) < 0.7) | (
        torch.arange(T_k) == 0
    )  # key 0 stays, so no row is empty
    return {
        "none": (None, {}),
        "causal": (causal, {"attn_mask": ~causal}),
        "key padding": (real[:, None].expand(B, T_q, T_k), {"key_padding_mask": ~real}),
        "causal and padding": (causal & real[:, None], {"attn_mask": ~causal, "key_padding_mask": ~real}),
        "float": (links, {"attn_mask": torch.zeros(T_q, T_k, dtype=dtype).masked_fill(~links, -torch.inf)}),
    }[kind]


def twin_of(ours: nn.Module, n_heads: int) -> nn.MultiheadAttention:
    """nn.MultiheadAttention with our weights: it stacks w_q, w_k, w_v and keeps the transpose of each."""
    d_model = ours.w_q.shape[0]
    twin = nn.MultiheadAttention(d_model, n_heads, bias=False, batch_first=True, dtype=ours.w_q.dtype)
    with torch.no_grad():
        twin.in_proj_weight.copy_(torch.cat([ours.w_q.T, ours.w_k.T, ours.w_v.T]))
        twin.out_proj.weight.copy_(ours.w_o.T)
    return twin


def compare(
    shape: tuple[int, ...], kind: str, dtype: torch.dtype, need_weights: bool, shrink_queries: float = 1.0
) -> dict[str, tuple[float, float]]:
    """For each quantity: the largest absolute difference, and the largest absolute value that PyTorch computes."""
    B, T_q, T_k, d_model, n_heads = shape
    generator = torch.Generator().manual_seed(3)
    ours = MultiHeadAttention(d_model, n_heads, seed=1).to(dtype)
    twin = twin_of(ours, n_heads)
    with torch.no_grad():
        ours.w_q /= shrink_queries
    x_q = torch.randn(B, T_q, d_model, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    inputs = {"x_q": x_q}
    if T_q != T_k:
        inputs["x_kv"] = (
            torch.randn(B, T_k, d_model, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        )
    x_kv = inputs.get("x_kv", x_q)
    mask, torch_masks = make_masks(kind, B, T_q, T_k, dtype)

    output, weights = ours(x_q, None if x_kv is x_q else x_kv, mask)
    want, want_weights = twin(x_q, x_kv, x_kv, need_weights=need_weights, average_attn_weights=False, **torch_masks)

    # A loss that weights every output by its own random number, so that no error can cancel. Dividing by the square root of the
    # number of tokens keeps the gradients of the matrices of one size at every shape: a sum over tokens grows like that root.
    direction = torch.randn(B, T_q, d_model, generator=generator, dtype=torch.float64).to(dtype) / (B * T_q) ** 0.5
    ours_gradients = torch.autograd.grad(
        (output * direction).sum(), [*inputs.values(), ours.w_q, ours.w_k, ours.w_v, ours.w_o]
    )
    twin_gradients = torch.autograd.grad(
        (want * direction).sum(), [*inputs.values(), twin.in_proj_weight, twin.out_proj.weight]
    )
    *twin_inputs, in_proj, out_proj = twin_gradients
    wanted = [*twin_inputs, *(part.T for part in in_proj.chunk(3)), out_proj.T]

    pairs = {"output": (output, want)}
    if need_weights:
        pairs["weights"] = (weights, want_weights)
    for name, got, expected in zip([*inputs, "w_q", "w_k", "w_v", "w_o"], ours_gradients, wanted, strict=True):
        pairs[f"gradient of {name}"] = (got, expected)
    return {
        name: (largest_difference(got, expected), expected.abs().max().item())
        for name, (got, expected) in pairs.items()
    }


def largest_difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    if got.shape != expected.shape or got.dtype != expected.dtype or not bool(got.isfinite().all()):
        return float("inf")
    return (got - expected).abs().max().item()


# %% [markdown]
# ## Measure

# %%
threads_before = torch.get_num_threads()
measured = {}  # (shape, mask, dtype, threads, route) -> {quantity: (largest difference, largest value)}
try:
    for threads in THREADS:
        torch.set_num_threads(threads)
        for shape, kind, dtype, route in itertools.product(SHAPES, MASKS, DTYPES, ROUTES):
            measured[shape, kind, dtype, threads, route] = compare(shape, kind, dtype, ROUTES[route])
finally:
    torch.set_num_threads(threads_before)


def worst(dtype: torch.dtype, **wanted) -> float:
    """The largest difference among all comparisons of this dtype that match, e.g. worst(torch.float32, mask="causal")."""
    values = []
    for (shape, mask, this_dtype, threads, route), row in measured.items():
        case = {"shape": shape, "mask": mask, "threads": threads, "route": route}
        if this_dtype == dtype and all(case[key] == value for key, value in wanted.items() if key != "quantity"):
            values += [difference for name, (difference, _) in row.items() if wanted.get("quantity", name) == name]
    return max(values)


n_values = sum(len(row) for row in measured.values())
print(f"{len(measured)} comparisons, {n_values} tensors")
for dtype in DTYPES:
    print(f"{dtype}: largest difference {worst(dtype):.2e}, allowed {LIMIT[dtype]:.0e}")

quantities = list(dict.fromkeys(name for row in measured.values() for name in row))
print(f"\n{'':<18} {'float32 differs by':>20} {'float64 differs by':>20} {'largest value':>15}")
for q in quantities:
    largest = max(row[q][1] for row in measured.values() if q in row)
    print(
        f"{q:<18} {worst(torch.float32, quantity=q):>20.1e} {worst(torch.float64, quantity=q):>20.1e} {largest:>15.2f}"
    )

# %% [markdown]
# ## The table
#
# Each cell is the largest difference over outputs, weights and all gradients, both thread counts and both of PyTorch's ways. The tint
# says how much of the allowance is used up, from nothing to all of it. A cell over the limit is marked with an exclamation mark.

# %%


def table(dtype: torch.dtype) -> str:
    limit = LIMIT[dtype]
    head = "".join(f"<th>{kind}</th>" for kind in MASKS)
    rows = []
    for shape in SHAPES:
        cells = []
        for kind in MASKS:
            value = worst(dtype, shape=shape, mask=kind)
            tint = f"background: rgba(59, 139, 212, {min(value / limit, 1) * 0.5:.2f})"
            cells.append(f'<td style="text-align: right; {tint}">{value:.1e}{" !" if value > limit else ""}</td>')
        rows.append(f"<tr><td>{' · '.join(map(str, shape))}</td>{''.join(cells)}</tr>")
    name = str(dtype).removeprefix("torch.")
    return (
        f"<p><b>{name}</b>: largest difference, at most {limit:.0e} allowed</p>"
        f"<table><thead><tr><th>B · T_q · T_k · d_model · H</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


display(HTML(table(torch.float32)))
display(HTML(table(torch.float64)))

# %% [markdown]
# And the same differences sorted by what they are differences of. A float32 number near 1 is exact to about $6 \times 10^{-8}$, a float64 number to
# about $10^{-16}$. Both sides compute the same sums in a different order; differences of a few such steps are what that leaves.

# %%
figure = go.Figure()
for dtype, colour in zip(DTYPES, plots.COLOURS, strict=False):
    name = str(dtype).removeprefix("torch.")
    figure.add_scatter(
        x=[max(worst(dtype, quantity=q), 1e-18) for q in quantities],
        y=quantities,
        mode="markers",
        marker={"color": colour, "size": 11},
        name=name,
        hovertemplate="%{y}: %{x:.2e}<extra>" + name + "</extra>",
    )
    figure.add_vline(x=LIMIT[dtype], line={"color": colour, "dash": "dash"})
figure.update_layout(title="Largest difference by quantity (dashed: allowed)", height=400)
figure.update_xaxes(title="largest absolute difference", type="log", exponentformat="power")
figure.update_yaxes(title="", autorange="reversed")
figure

# %% [markdown]
# ## Would this notebook notice?
#
# A comparison that cannot fail proves nothing. So here is one of the comparisons again, with our queries divided by $\sqrt{H}$. Since
# $d_k = d_\text{model} / H$, that is what a class computes that scales its scores by $\sqrt{d_\text{model}}$ in place of $\sqrt{d_k}$: a mistake that changes
# no shape and trains without complaint.

# %%
B, T_q, T_k, d_model, n_heads = SHAPES[1]
wrong = compare(SHAPES[1], "causal", torch.float32, need_weights=True, shrink_queries=n_heads**0.5)
for name, (difference, _) in wrong.items():
    print(f"{name:<18} {difference:.2e}")
largest_wrong = max(difference for difference, _ in wrong.values())
noticed = largest_wrong > 1e-3

# %%
passed = all(worst(dtype) <= LIMIT[dtype] for dtype in DTYPES)
result = {
    "claim": "our own multi-head attention equals nn.MultiheadAttention within 1e-5 in float32 (1e-12 in float64): outputs, "
    "weights and the gradients of inputs and parameters",
    "passed": bool(passed and noticed),
    "figures": {
        "comparisons": len(measured),
        "tensors compared": n_values,
        "largest difference float32": worst(torch.float32),
        "largest difference float64": worst(torch.float64),
        "largest difference of a wrongly scaled class": largest_wrong,
        "by mask, float32": {kind: worst(torch.float32, mask=kind) for kind in MASKS},
        "by quantity, float32": {q: worst(torch.float32, quantity=q) for q in quantities},
        "by threads, float32": {t: worst(torch.float32, threads=t) for t in THREADS},
        "quick": quick,
        "seconds": time.perf_counter() - started,
    },
}
results.save(result, result_path)
