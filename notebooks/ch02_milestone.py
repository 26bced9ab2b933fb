# ---
# title: "Milestone 2: our blocks equal GPT-2's and Llama's"
# chapter: ch02
# kind: milestone
# claim: Our own blocks equal GPT2Block and LlamaDecoderLayer of transformers within 1e-5, in outputs and all gradients.
# minutes: 1
# ---

# %% [markdown]
# # Milestone 2: our blocks equal GPT-2's and Llama's
#
# In [Lab 2.4](../release/ch02_block/lab04_transformer_block.ipynb) you built a block in GPT-2's form, in
# [Lab 2.5](../release/ch02_block/lab05_modern_blocks.ipynb) one in Llama's. This notebook gives each the weights of its counterpart in
# `transformers` and compares what training needs: the output, the gradient of the input, and the gradient of every parameter,
# over a grid of shapes, number types and thread counts.
#
# `course milestones ch02` measures *your* classes when your notebooks of those labs are in `work/` and pass their checks; otherwise
# the course's reference. The next lines of output say which.

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
from transformers import GPT2Config, LlamaConfig
from transformers.models.gpt2.modeling_gpt2 import GPT2Block
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from coursekit import carry, plots, results

started = time.perf_counter()
Block = carry("ch02/lab04", "Block")
BlockConfig = carry("ch02/lab04", "BlockConfig")
load_gpt2_block = carry("ch02/lab04", "load_gpt2_block")
LlamaBlock = carry("ch02/lab05", "LlamaBlock")
LlamaBlockConfig = carry("ch02/lab05", "LlamaBlockConfig")
load_llama_block = carry("ch02/lab05", "load_llama_block")
rope_tables = carry("ch02/lab02", "rope_tables")
LIMIT = {torch.float32: 1e-5, torch.float64: 1e-12}

# %% [markdown]
# ## The grid
#
# Odd lengths, one head and many, one token, feed-forward networks of odd widths, and one shape of GPT-2's own size. For Llama,
# `G` of the `H` heads have keys and values of their own.
#
# `transformers` has two ways to compute attention, and both are tried: `eager` multiplies the matrices one by one and
# takes its causal mask from us, as zeros and very negative numbers to add; `sdpa` calls PyTorch's fused function. Every parameter is drawn
# at random, also biases and norms, which begin as zeros and ones and would hide mistakes.
#
# Three things in `transformers`' Llama are float32 whatever the type of the numbers: the inside of its norm, the softmax of `eager`, and
# the tables of the rotary positions. At float32 that is no matter, and the layer is taken as it is. For float64, where 1e-12 is asked
# for, its two norms are replaced by PyTorch's `nn.RMSNorm`, which computes in the type that it is given, only `sdpa` is used, and the
# layer gets the tables of Lab 2.2 (they are an argument of it). Everything else is theirs.

# %%
SHAPES = [  # B, T, d_model, H, G, d_ff
    (1, 1, 8, 1, 1, 32),
    (3, 7, 24, 12, 4, 20),
    (2, 16, 64, 1, 1, 77),
    (3, 63, 60, 6, 2, 160),
    (2, 128, 64, 8, 8, 256),
    (1, 33, 768, 12, 4, 3072),
]
if quick:
    SHAPES = [SHAPES[1], SHAPES[3]]
KINDS = ["GPT-2, eager", "GPT-2, sdpa", "Llama, eager", "Llama, sdpa"]
DTYPES = [torch.float32, torch.float64]
THREADS = [1, 2]


def randomise(module: nn.Module, seed: int) -> None:
    """Every parameter at random, in the sizes that a trained model has: no zeros, no ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            # The longer side, because GPT-2's matrices and Llama's are stored the other way round from each other.
            parameter.copy_(noise / max(parameter.shape) ** 0.5 if parameter.ndim == 2 else 1 + 0.3 * noise)


def make_gpt2(shape: tuple[int, ...], dtype: torch.dtype, how: str):
    """Our block, and GPT2Block as a function of x, its parameters, and how to read their gradients by our names."""
    _, T, d_model, H, _, d_ff = shape
    config = GPT2Config(n_embd=d_model, n_head=H, n_inner=d_ff, attn_pdrop=0.0, resid_pdrop=0.0)
    config._attn_implementation = how
    theirs = GPT2Block(config, layer_idx=0).to(dtype)
    randomise(theirs, seed=1)
    ours = Block(BlockConfig(d_model, H, d_ff)).to(dtype)
    load_gpt2_block(ours, theirs.state_dict())
    additive = torch.full((1, 1, T, T), torch.finfo(dtype).min, dtype=dtype).triu(1)

    def by_our_names(g: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = {f"norm_{i}.{kind}": g[f"ln_{i}.{kind}"] for i in (1, 2) for kind in ("weight", "bias")}
        for kind in ("weight", "bias"):
            for letter, part in zip("qkv", g[f"attn.c_attn.{kind}"].chunk(3, dim=-1), strict=True):
                found[f"attention.{kind[0]}_{letter}"] = part
            found[f"attention.{kind[0]}_o"] = g[f"attn.c_proj.{kind}"]
            found[f"feed_forward.{kind[0]}_in"] = g[f"mlp.c_fc.{kind}"]
            found[f"feed_forward.{kind[0]}_out"] = g[f"mlp.c_proj.{kind}"]
        return found

    return ours, lambda x: theirs(x, attention_mask=additive), theirs, by_our_names


def make_llama(shape: tuple[int, ...], dtype: torch.dtype, how: str):
    """The same for LlamaBlock and LlamaDecoderLayer."""
    _, T, d_model, H, G, d_ff = shape
    config = LlamaConfig(
        hidden_size=d_model,
        num_attention_heads=H,
        num_key_value_heads=G,
        intermediate_size=d_ff,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    config._attn_implementation = how
    theirs = LlamaDecoderLayer(config, 0).to(dtype)
    positions = torch.arange(T)
    if dtype == torch.float64:
        theirs.input_layernorm = nn.RMSNorm(d_model, eps=1e-5, dtype=dtype)
        theirs.post_attention_layernorm = nn.RMSNorm(d_model, eps=1e-5, dtype=dtype)
        tables = tuple(
            torch.cat([table, table], dim=-1)[None].to(dtype) for table in rope_tables(positions, d_model // H)
        )
    else:
        tables = LlamaRotaryEmbedding(config)(torch.zeros(1, 1, dtype=dtype), positions[None])
    randomise(theirs, seed=2)
    ours = LlamaBlock(LlamaBlockConfig(d_model, H, G, d_ff, eps=1e-5)).to(dtype)
    load_llama_block(ours, theirs.state_dict())
    additive = torch.full((1, 1, T, T), torch.finfo(dtype).min, dtype=dtype).triu(1)

    def by_our_names(g: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = {f"attention.w_{letter}": g[f"self_attn.{letter}_proj.weight"].T for letter in "qkvo"}
        found |= {f"feed_forward.w_{name}": g[f"mlp.{name}_proj.weight"].T for name in ("gate", "up", "down")}
        found["norm_1.weight"] = g["input_layernorm.weight"]
        return found | {"norm_2.weight": g["post_attention_layernorm.weight"]}

    return ours, lambda x: theirs(x, attention_mask=additive, position_embeddings=tables), theirs, by_our_names


def compare(shape: tuple[int, ...], kind: str, dtype: torch.dtype, spoil=None) -> dict[str, tuple[float, float]]:
    """For each quantity: the largest absolute difference, and the largest absolute value that transformers computes.

    ``spoil`` changes our block before the comparison.
    """
    model, how = kind.split(", ")
    ours, twin, theirs, by_our_names = (make_gpt2 if model == "GPT-2" else make_llama)(shape, dtype, how)
    if spoil:
        spoil(ours)
    B, T, d_model = shape[:3]
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(B, T, d_model, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    # A loss that weights every output by its own random number, so that no error can cancel. Divided by the root of the number of
    # values, it keeps all gradients of one size at every shape.
    direction = (
        torch.randn(B, T, d_model, generator=generator, dtype=torch.float64).to(dtype) / (B * T * d_model) ** 0.5
    )
    output, want = ours(x), twin(x)
    our_names, our_parameters = zip(*ours.named_parameters(), strict=True)
    their_names, their_parameters = zip(*theirs.named_parameters(), strict=True)
    got_x, *got = torch.autograd.grad((output * direction).sum(), [x, *our_parameters])
    want_x, *wanted = torch.autograd.grad((want * direction).sum(), [x, *their_parameters])
    wanted = by_our_names(dict(zip(their_names, wanted, strict=True)))
    pairs = {"output": (output, want), "gradient of x": (got_x, want_x)}
    pairs |= {f"gradient of {n}": (g, wanted[n]) for n, g in zip(our_names, got, strict=True)}
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
measured = {}  # (shape, kind, dtype, threads) -> {quantity: (largest difference, largest value)}
try:
    for threads in THREADS:
        torch.set_num_threads(threads)
        for shape, kind, dtype in itertools.product(SHAPES, KINDS, DTYPES):
            if kind == "Llama, eager" and dtype == torch.float64:
                continue  # its softmax is float32
            measured[shape, kind, dtype, threads] = compare(shape, kind, dtype)
finally:
    torch.set_num_threads(threads_before)


def worst(dtype: torch.dtype, **wanted) -> float:
    """The largest difference among all comparisons of this dtype that match, e.g. worst(torch.float32, kind="GPT-2, sdpa")."""
    values = [0.0]
    for (shape, kind, this_dtype, threads), row in measured.items():
        case = {"shape": shape, "kind": kind, "threads": threads}
        if this_dtype == dtype and all(case[key] == value for key, value in wanted.items() if key != "quantity"):
            values += [difference for name, (difference, _) in row.items() if wanted.get("quantity", name) == name]
    return max(values)


n_values = sum(len(row) for row in measured.values())
print(f"{len(measured)} comparisons, {n_values} tensors")
for dtype in DTYPES:
    print(f"{dtype}: largest difference {worst(dtype):.2e}, allowed {LIMIT[dtype]:.0e}")

quantities = list(dict.fromkeys(name for row in measured.values() for name in row))
print(f"\n{'':<32} {'float32 differs by':>20} {'float64 differs by':>20} {'largest value':>15}")
for q in quantities:
    largest = max(row[q][1] for row in measured.values() if q in row)
    print(
        f"{q:<32} {worst(torch.float32, quantity=q):>20.1e} {worst(torch.float64, quantity=q):>20.1e} {largest:>15.2f}"
    )

# %% [markdown]
# ## The table
#
# Each cell is the largest difference over the output and all gradients, and both thread counts. The tint
# says how much of the allowance is used up, from nothing to all of it. A cell over the limit is marked with an exclamation mark.

# %%


def table(dtype: torch.dtype) -> str:
    limit = LIMIT[dtype]
    kinds = [kind for kind in KINDS if any(key[1:3] == (kind, dtype) for key in measured)]
    head = "".join(f"<th>{kind}</th>" for kind in kinds)
    rows = []
    for shape in SHAPES:
        cells = []
        for kind in kinds:
            value = worst(dtype, shape=shape, kind=kind)
            tint = f"background: rgba(59, 139, 212, {min(value / limit, 1) * 0.5:.2f})"
            cells.append(f'<td style="text-align: right; {tint}">{value:.1e}{" !" if value > limit else ""}</td>')
        rows.append(f"<tr><td>{' · '.join(map(str, shape))}</td>{''.join(cells)}</tr>")
    name = str(dtype).removeprefix("torch.")
    return (
        f"<p><b>{name}</b>: largest difference, at most {limit:.0e} allowed</p>"
        f"<table><thead><tr><th>B · T · d_model · H · G · d_ff</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


display(HTML(table(torch.float32)))
display(HTML(table(torch.float64)))

# %% [markdown]
# And the same differences sorted by what they are differences of. Both sides compute the same sums in a different order; differences of
# a few roundings, about $10^{-7}$ of the values in float32 and $10^{-16}$ in float64, are what that leaves. The gradient of GPT-2's $b_k$ is a special
# case: it is zero in exact arithmetic (Lab 2.4 asks why), so what both sides compute there is rounding and nothing else.

# %%
figure = go.Figure()
for dtype, colour in zip(DTYPES, plots.COLOURS, strict=False):
    name = str(dtype).removeprefix("torch.")
    figure.add_scatter(
        x=[max(worst(dtype, quantity=q), 1e-19) for q in quantities],
        y=quantities,
        mode="markers",
        marker={"color": colour, "size": 9},
        name=name,
        hovertemplate="%{y}: %{x:.2e}<extra>" + name + "</extra>",
    )
    figure.add_vline(x=LIMIT[dtype], line={"color": colour, "dash": "dash"})
figure.update_layout(title="Largest difference by quantity (dashed: allowed)", height=560)
figure.update_xaxes(title="largest absolute difference", type="log", exponentformat="power")
figure.update_yaxes(title="", autorange="reversed", automargin=True)
figure

# %% [markdown]
# ## Would this notebook notice?
#
# A comparison that cannot fail proves nothing. So here are two of the comparisons again, with small mistakes that change no shape and train without
# complaint: our queries divided by $\sqrt{H}$, which is what scaling by $\sqrt{d_\text{model}}$ comes to, and our two norms in each other's places.

# %%


def scaled_queries(block: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            if name in ("attention.w_q", "attention.b_q"):
                parameter /= SHAPES[1][3] ** 0.5


def exchanged_norms(block: nn.Module) -> None:
    with torch.no_grad():
        for one, other in zip(block.norm_1.parameters(), block.norm_2.parameters(), strict=True):
            kept = one.clone()
            one.copy_(other)
            other.copy_(kept)


wrong = {}
for kind in ("GPT-2, eager", "Llama, sdpa"):
    for spoil in (scaled_queries, exchanged_norms):
        row = compare(SHAPES[1], kind, torch.float32, spoil)
        wrong[f"{kind}: {spoil.__name__}"] = max(difference for difference, _ in row.values())
for name, difference in wrong.items():
    print(f"{name:<32} {difference:.2e}")
noticed = all(difference > 10 * LIMIT[torch.float32] for difference in wrong.values())

# %%
passed = all(worst(dtype) <= LIMIT[dtype] for dtype in DTYPES)
result = {
    "claim": "our own blocks equal GPT2Block and LlamaDecoderLayer within 1e-5 in float32 (1e-12 in float64): outputs and "
    "the gradients of input and parameters",
    "passed": bool(passed and noticed),
    "figures": {
        "comparisons": len(measured),
        "tensors compared": n_values,
        "largest difference float32": worst(torch.float32),
        "largest difference float64": worst(torch.float64),
        "smallest difference of a spoilt block": min(wrong.values()),
        "by kind, float32": {kind: worst(torch.float32, kind=kind) for kind in KINDS},
        "by kind, float64": {kind: worst(torch.float64, kind=kind) for kind in KINDS if kind != "Llama, eager"},
        "by quantity, float32": {q: worst(torch.float32, quantity=q) for q in quantities},
        "by threads, float32": {t: worst(torch.float32, threads=t) for t in THREADS},
        "quick": quick,
        "seconds": time.perf_counter() - started,
    },
}
results.save(result, result_path)
