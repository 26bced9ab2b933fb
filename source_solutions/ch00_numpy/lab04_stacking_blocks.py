# ---
# title: Stacking blocks
# lab: ch00/lab04
# minutes: 100
# difficulty: 3
# hardware: cpu
# needs: [ch00/lab01, ch00/lab02, ch00/lab03]
# builds: [TransformerBlock, Transformer, parameter_count, widest, gradient_norms_by_depth]
# ---

# %% [markdown]
# # Lab 0.4 · Stacking blocks
#
# ## The idea
#
# The parts are made. Attention lets tokens gather from each other, a feed-forward network works on each token alone, and
# a residual with its norm stands around each of the two. One of each in a row is a *block*. Blocks on each other are a
# transformer. There is nothing else in it.
#
# Why more than one? Ann's teacher was Ben, and Ben's teacher was Cem. Who taught Ann's teacher? One attention can look up
# one name. The second can only be looked up when the first has been found. `37+45=` is of the same kind: the tens need the
# carry, and the carry needs the sum of the ones. *What one block has found, the next can use.* A model does as many things one
# after the other as it has blocks.
#
# Here is one block in numbers. Two tokens with two features, $(2, 0)$ and $(0, 4)$. No norms. Attention takes the plain mean of
# what a token may see, and a token may not see what comes later. The network is the one of Lab 0.3: it puts
# out $|a - b|$ and $\max(b - a, 0)$ for a token $(a, b)$.
#
# | | token 0 | token 1 |
# |---|---|---|
# | comes in | $(2, 0)$ | $(0, 4)$ |
# | attention adds | $(2, 0)$ | $(1, 2)$ |
# | between the two | $(4, 0)$ | $(1, 6)$ |
# | the network adds | $(4, 0)$ | $(5, 5)$ |
# | goes out | $(8, 0)$ | $(6, 11)$ |
#
# Now backwards. Let the loss mind one number, the first feature of token 1: $(0, 0)$ and $(1, 0)$ arrive. Around the network comes
# $(1, 0)$, through it $(-1, 1)$, together $(0, 1)$. That goes on to attention. Around it comes $(0, 1)$ to token 1. Through it, token
# 1 has taken half of itself and half of token 0, so both get $(0, \frac12)$. Together: $(0, \frac12)$ for token 0 and $(0, \frac32)$ for
# token 1. Check it: move the 4 of token 1 to 5 and compute the block again. By how much does the 6 in the last row change?
#
# So the way back through a chain is the chain of the ways back, walked from its end. It is two lines for a block and a loop for a
# stack. What takes some care is everything around these lines: masks, names, memory, first values. And it takes an instrument to see what
# happens to a gradient on its way down.
#
# The page [Stacking blocks](../../book/ch00_numpy/stacking_blocks.md) walks through the block as a graph, and measures depth against width.
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `x`, the *stream* | `(..., T, d_model)` | the tokens, before and after every block |
# | `mask` | broadcasts to `(..., T, T)` | boolean; True: this token *may* look at that one; the same for all blocks |
# | `grad` | `(..., T, d_model)` | $\partial L/\partial(\text{output})$, and so after each block on the way down |
# | `blocks` | a list of N = `n_layers` | each with parameters of its own |
# | `blocks.0.attention.layer.q.weight` | `(d_model, d_model)` | a parameter's name is the way to it |
# | `blocks.0.feed_forward.layer.inner.weight` | `(d_model, d_ff)` | the same for a matrix of the network |
# | norms by depth | `(n_layers + 1,)` | the size of the gradient below block 0, 1, ..., and above the last |
#
# `MultiHeadAttention`, `FeedForward`, `LayerNorm` and `Residual` are yours, from [Lab 0.2](lab02_attention.ipynb) and [Lab
# 0.3](lab03_residual_layernorm_ffn.ipynb). Two helpers are given: `fill` draws new values for all parameters of a layer, which the tests need, and
# `without_residuals` takes the additions out of a model, for a comparison at the end.

# %% given
import numpy as np

from coursekit import carry

Layer = carry("ch00/lab01", "Layer")
Parameter = carry("ch00/lab01", "Parameter")
passes = carry("ch00/lab01", "passes")
causal_mask = carry("ch00/lab02", "causal_mask")  # causal_mask(T): booleans (T, T), True on and below the diagonal
LayerNorm = carry("ch00/lab03", "LayerNorm")  # LayerNorm(d_model)
FeedForward = carry("ch00/lab03", "FeedForward")  # FeedForward(d_model, d_ff, rng, activation="gelu")
Residual = carry("ch00/lab03", "Residual")  # Residual(layer, d_model, norm="pre"); forward(x, *args)


# %% given side="learner"
new_rng = carry("ch00/lab01", "new_rng")
# MultiHeadAttention(d_model, n_heads, rng); forward(x, mask=None)
MultiHeadAttention = carry("ch00/lab02", "MultiHeadAttention")


def fill(layer: Layer, seed: int, scale: float = 0.5) -> dict[str, np.ndarray]:
    """For the tests: draw every parameter anew, in the order of their names. Returns copies of them all."""
    rng, parameters = np.random.default_rng(seed), layer.parameters()
    for name in sorted(parameters):
        values = rng.normal(0, scale, size=parameters[name].value.shape)
        parameters[name].value = values + 1 if name.endswith("norm.weight") else values
    return {name: parameter.value.copy() for name, parameter in parameters.items()}


class Change(Layer):
    """What a `Residual` ("pre" or "none") adds to the stream, without the stream: layer(norm(x)) or layer(x)."""

    def __init__(self, residual: Layer):
        self.layer, self.norm = residual.layer, getattr(residual, "norm", None)

    def forward(self, x, *args):
        return self.layer(x if self.norm is None else self.norm(x), *args)

    def backward(self, grad):
        grad = self.layer.backward(grad)
        return grad if self.norm is None else self.norm.backward(grad)


def without_residuals(model: Layer) -> Layer:
    """Take the two additions out of every block of a `Transformer`, in place."""
    for block in model.blocks:
        block.attention, block.feed_forward = Change(block.attention), Change(block.feed_forward)
    return model


# %% [markdown]
# ## A picture
#
# To stack is to compose functions: $f_8(f_7(\dots f_1(x)))$. Here are eight feed-forward networks, untrained, each of which moves every point of a plane. The dots
# are a grid; their colour says where they began. On the left each network *changes* its point, $x + f(x)$. On the right it replaces
# it, $f(x)$. Move the slider from no layer to eight.

# %%
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from coursekit import plots

DEPTH = 8
rng = np.random.default_rng(4)
side = np.linspace(-1, 1, 15)
grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)  # 225 points
networks = [FeedForward(2, 32, rng) for _ in range(DEPTH)]
changed, replaced = [grid], [grid]
for network in networks:
    network.inner.bias.value = rng.normal(size=32)
    network.outer.weight.value *= 0.5  # each layer moves its points a little
    changed.append(changed[-1] + network(changed[-1]))
    replaced.append(network(replaced[-1]))
figure = make_subplots(rows=1, cols=2, subplot_titles=["x + f(x)", "f(x)"], horizontal_spacing=0.12)
for column, points in ((1, changed[0]), (2, replaced[0])):
    figure.add_scatter(
        x=points[:, 0],
        y=points[:, 1],
        mode="markers",
        marker={
            "size": 5,
            "color": grid[:, 0] + 0.3 * grid[:, 1],
            "colorscale": [[0, plots.COLOURS[0]], [1, plots.COLOURS[1]]],
        },
        customdata=grid.round(2),
        hovertemplate="began at %{customdata}<extra></extra>",
        showlegend=False,
        row=1,
        col=column,
    )
steps = [
    {
        "label": str(depth),
        "method": "update",
        "args": [
            {axis: [points[depth][:, i].tolist() for points in (changed, replaced)] for i, axis in enumerate("xy")}
        ],
    }
    for depth in range(DEPTH + 1)
]
figure.update_xaxes(title_text="feature 0", range=[-4.2, 4.2])
figure.update_yaxes(title_text="feature 1", range=[-2.8, 2.8])
figure.update_yaxes(title_text=None, col=2)
figure.update_layout(
    height=420, sliders=[{"steps": steps, "active": 0, "currentvalue": {"prefix": "layers: "}, "pad": {"t": 50}}]
)
figure.show()
print("spread of the points, along their longest and their shortest direction")
for name, points in (("x + f(x)", changed), ("f(x)", replaced)):
    spreads = [np.linalg.svd(p - p.mean(axis=0), compute_uv=False) / 15 for p in points]
    print(
        f"{name:10}"
        + "".join(f"   {depth} layers: {spreads[depth][0]:.2g} {spreads[depth][1]:.2g}" for depth in (0, 2, 8))
    )

# %% [markdown]
# Each layer bends the plane a little. Composed they turn, stretch and bend it, and still every point has a place of its own. (A wide layer
# adds many bends side by side; a deep stack bends what has been bent already.) On the right the points run together: look at the last two numbers of
# the last row. What has become one point cannot be told apart by anything above it. And the slope is as small as the picture: at this size of the
# matrices, no gradient gets down.
#
# ## Exercise 1 · `TransformerBlock`
#
# Attention first, then the network, each in a `Residual`. Keep them as `self.attention` and `self.feed_forward`, so that `parameters()` finds
# them under these names. Everything that an argument decides is decided by handing it on to the right part: the kind of norm goes to both residuals, the number of heads to attention, the kind of bend to the
# network, and the mask to attention *alone*. The network looks at one token at a time and has nothing to mask.
#
# *Difficulty 2 of 5 · 20 minutes · 6 points*


# %% exercise="TransformerBlock" difficulty=2 minutes=20 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
class TransformerBlock(Layer):
    """Attention over the tokens, then a feed-forward network on each of them, both in a residual.

    Args:
        d_model: features of a token.
        n_heads: heads of the attention, a positive divisor of d_model.
        d_ff: features in the middle of the network.
        rng: all random numbers come from it.
        norm: "pre", "post" or "none", as in `Residual`; the same for both parts.
        activation: "gelu" or "relu", as in `FeedForward`.

    Parameters:
        Those of a `Residual` around a `MultiHeadAttention` under ``attention.`` (such as ``attention.layer.q.weight``
        and, but for "none", ``attention.norm.weight``), and of a `Residual` around a `FeedForward` under
        ``feed_forward.``. First values as these parts draw them. No two matrices are drawn alike, and the norms are two.

    Raises:
        ValueError: if norm, activation or n_heads are none that the parts accept.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.1.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        d_ff: int,
        rng: np.random.Generator,
        norm: str = "pre",
        activation: str = "gelu",
    ):
        ### BEGIN SOLUTION
        self.attention = Residual(MultiHeadAttention(d_model, n_heads, rng), d_model, norm)
        self.feed_forward = Residual(FeedForward(d_model, d_ff, rng, activation), d_model, norm)
        ### END SOLUTION

    def forward(self, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Attention, then the network. Calls no part twice.

        Args:
            x: (..., T, d_model) with any number of axes in front, also none. It is not changed.
            mask: boolean, broadcasts to (..., T, T), True where a token (row) may look at a token (column). None allows
                everything.

        Returns:
            Array of x's shape; float32 where x and the parameters are float32.
        """
        ### BEGIN SOLUTION
        return self.feed_forward(self.attention(x, mask))
        ### END SOLUTION

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for the x of the last `forward`, of its shape; adds to the gradients of all parameters."""
        ### BEGIN SOLUTION
        return self.attention.backward(self.feed_forward.backward(grad))
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>You need no formula. Each of the two residuals knows its own way back. Where does the gradient come in, and what does the
# first of them hand to the second?</details>
# <details><summary>A bigger nudge</summary>A <code>Residual</code> takes a layer, d_model and the kind of norm. Its <code>forward</code> hands everything behind x on to its layer; that
# is how the mask gets to the attention. In <code>backward</code> the part that came last in <code>forward</code> is the first.</details>

# %% test="TransformerBlock" points=4
from coursekit import check

import numpy as np

block = TransformerBlock(2, 1, 2, new_rng(0), norm="none", activation="relu")
attention, network = block.attention.layer, block.feed_forward.layer
attention.q.weight.value = attention.k.weight.value = np.zeros((2, 2))  # all scores are zero: a plain mean
attention.v.weight.value = attention.o.weight.value = np.eye(2)
network.inner.weight.value = np.array([[1.0, -1.0], [-1.0, 1.0]])
network.outer.weight.value = np.array([[1.0, 0.0], [1.0, 1.0]])
x, grad = np.array([[2.0, 0.0], [0.0, 4.0]]), np.array([[0.0, 0.0], [1.0, 0.0]])
found = passes(block, (x, np.array([[True, False], [True, True]])), grad)
check.close(
    found["output"],
    np.array([[8.0, 0.0], [6.0, 11.0]]),
    "the two tokens of the text through the block",
    hint="The table at the top of the lab has every number on the way: compare block.attention(x, mask) with its third row.",
)
check.close(
    found.get("grad", np.nan),
    np.array([[0.0, 0.5], [0.0, 1.5]]),
    "the gradient for them, when (0, 0) and (1, 0) arrive",
)
check.close(
    found["grad.feed_forward.layer.inner.weight"],
    np.array([[0.0, 1.0], [0.0, 6.0]]),
    "the gradient of the inner matrix: the token (1, 6) times (0, 1), which is what the bend lets through",
)
check.close(
    found["grad.attention.layer.v.weight"],
    np.array([[0.0, 1.0], [0.0, 2.0]]),
    "and that of v: the mean (1, 2) times (0, 1)",
)
### BEGIN HIDDEN TESTS
import torch
from torch.nn import functional as F


def twin_of(values, n_heads, norm, activation):
    """nn.TransformerEncoderLayer with the same numbers, and where its gradients belong."""
    d_model, d_ff = values["feed_forward.layer.inner.weight"].shape
    bend = F.relu if activation == "relu" else lambda h: F.gelu(h, approximate="tanh")
    twin = torch.nn.TransformerEncoderLayer(
        d_model, n_heads, d_ff, 0.0, bend, batch_first=True, norm_first=norm == "pre", dtype=torch.float64
    )
    if norm == "none":
        twin.norm1, twin.norm2 = torch.nn.Identity(), torch.nn.Identity()
    parts = {"attention.layer.o": "self_attn.out_proj", "attention.norm": "norm1", "feed_forward.norm": "norm2"}
    parts |= {"feed_forward.layer.inner": "linear1", "feed_forward.layer.outer": "linear2"}
    state = {
        f"{parts[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": torch.tensor(value.T)
        for name, value in values.items()
        if name.rpartition(".")[0] in parts
    }
    for kind in ("weight", "bias"):
        stacked = np.concatenate([values[f"attention.layer.{part}.{kind}"].T for part in "qkv"])
        state[f"self_attn.in_proj_{kind}"] = torch.tensor(stacked)
    twin.load_state_dict(state)

    def gradients():
        own = {name: p.grad.numpy() for name, p in twin.named_parameters()}
        found = {
            f"{mine}.{kind}": own[f"{theirs}.{kind}"].T
            for mine, theirs in parts.items()
            for kind in ("weight", "bias")
            if f"{theirs}.{kind}" in own
        }
        for kind in ("weight", "bias"):
            for part, piece in zip("qkv", np.split(own[f"self_attn.in_proj_{kind}"], 3), strict=True):
                found[f"attention.layer.{part}.{kind}"] = piece.T
        return found

    return twin, gradients


draw = np.random.default_rng(check.seed(1))
for norm, activation, shape, n_heads, d_ff, kind in (
    ("pre", "gelu", (3, 7, 6), 2, 11, "causal"),
    ("post", "relu", (1, 9, 6), 3, 5, "a mask for each text"),
    ("none", "gelu", (5, 4), 1, 4, "no"),
    ("post", "gelu", (3, 5, 4), 4, 3, "padding"),
    ("pre", "relu", (2, 3, 4, 6), 3, 24, "a mask for each text"),
    ("none", "relu", (3, 1, 2), 2, 2, "causal"),
):
    *batch, T, d_model = shape
    case = f"{norm}, {activation}, x of shape {shape}, {n_heads} heads, d_ff={d_ff}, {kind} mask"
    mask = None
    if kind == "causal":
        mask = np.tri(T, dtype=bool)
    elif kind == "padding":
        mask = (np.arange(T) < np.array([T, 1, T - 2])[:, None])[:, None, :]  # (B, 1, T): the last tokens are no tokens
    elif kind != "no":
        mask = (draw.random((*batch, T, T)) < 0.5) | np.eye(T, dtype=bool)
    block = TransformerBlock(d_model, n_heads, d_ff, new_rng(0), norm=norm, activation=activation)
    values = fill(block, check.seed(2))
    x, other, grad = draw.normal(size=(3, *shape))
    twin, gradients = twin_of(values, n_heads, norm, activation)
    leaf = torch.tensor(x, requires_grad=True)
    forbidden = None
    if mask is not None:
        full = np.broadcast_to(mask, (*batch, T, T)).reshape(-1, T, T)
        forbidden = torch.tensor(~full).repeat_interleave(n_heads, 0)
    output = twin(leaf.reshape(-1, T, d_model), src_mask=forbidden).reshape(shape)
    output.backward(torch.tensor(grad))
    inputs = (x,) if mask is None else (x, mask)
    block.forward(*((other,) if mask is None else (other, mask)))
    found = passes(block, inputs, grad)
    check.close(found["output"], output.detach().numpy(), f"{case}: the output", atol=1e-8, rtol=1e-8)
    check.close(found.get("grad", np.nan), leaf.grad.numpy(), f"{case}: the gradient for x", atol=1e-8, rtol=1e-8)
    want = gradients()
    for name in sorted(want):
        check.close(found[f"grad.{name}"], want[name], f"{case}: the gradient of {name}", atol=1e-8, rtol=1e-8)
    again = block.backward(grad)
    check.close(again, leaf.grad.numpy(), f"{case}: backward once more, from the same forward", atol=1e-8, rtol=1e-8)
    for name, parameter in block.parameters().items():
        check.close(parameter.grad, 2 * want[name], f"{case}: backward again adds to {name}", atol=1e-8, rtol=1e-8)
across = draw.normal(size=(4, 6, 2)).T  # (2, 6, 4), not contiguous
block = TransformerBlock(4, 2, 5, new_rng(0))
check.close(block.forward(across), block.forward(across.copy()), "an x that is not contiguous", atol=1e-12)
two = draw.normal(size=(3, 5, 4))
alone = np.stack([np.asarray(block.forward(text)) for text in two])
check.close(block.forward(two), alone, "three texts together as each alone", atol=1e-10)
check.close(block(two), alone, "called as block(x)", atol=1e-10)
### END HIDDEN TESTS

# %% test="TransformerBlock" points=2
from coursekit import check

import numpy as np

shapes = {name: list(p.value.shape) for name, p in TransformerBlock(4, 2, 7, new_rng(0)).parameters().items()}
linear = {f"attention.layer.{part}": [4, 4] for part in "qkvo"}
linear |= {"feed_forward.layer.inner": [4, 7], "feed_forward.layer.outer": [7, 4]}
wanted = {f"{name}.weight": shape for name, shape in linear.items()} | {
    f"{name}.bias": shape[1:] for name, shape in linear.items()
}
norms = {f"{part}.norm.{kind}": [4] for part in ("attention", "feed_forward") for kind in ("weight", "bias")}
check.equal(
    sorted(shapes.items()),
    sorted((wanted | norms).items()),
    "the names and shapes of the parameters, for d_model=4 and d_ff=7, with norms where nothing is said",
)
check.equal(
    sorted(TransformerBlock(4, 2, 7, new_rng(0), norm="none").parameters()),
    sorted(wanted),
    "the names with norm='none'",
)
for options in ({"norm": "layer"}, {"activation": "tanh"}):
    check.raises(
        ValueError, lambda options=options: TransformerBlock(4, 2, 7, new_rng(0), **options), f"{options} is refused"
    )
x = np.array([[1.0, 7.0, 9.0, 15.0], [2.0, 0.0, 1.0, 1.0]])
block = TransformerBlock(4, 2, 5, new_rng(1))
fill(block, 3)
for part in (block.attention.layer.o, block.feed_forward.layer.outer):
    part.weight.value, part.bias.value = 0 * part.weight.value, 0 * part.bias.value
check.close(
    block.forward(x),
    x,
    "pre is the default, and it has a free road: when both parts put out zeros, x comes out as it went in",
)
### BEGIN HIDDEN TESTS
for options in ({"norm": "Pre"}, {"norm": None}, {"activation": "GELU"}, {"activation": ""}):
    check.raises(
        ValueError, lambda options=options: TransformerBlock(4, 2, 7, new_rng(0), **options), f"{options} is refused"
    )
for n_heads in (3, 0, 5):
    check.raises(
        ValueError, lambda n_heads=n_heads: TransformerBlock(4, n_heads, 7, new_rng(0)), f"{n_heads} heads, d_model=4"
    )
mask = np.array([[True, False], [True, True]])
default, gelu, relu = (
    passes(TransformerBlock(4, 2, 5, new_rng(1), **options), (x, mask), x)["output"]
    for options in ({}, {"norm": "pre", "activation": "gelu"}, {"activation": "relu"})
)
check.close(default, gelu, "pre and gelu where nothing is said", atol=1e-12)
check.that(np.abs(default - relu).max() > 1e-4, "relu gives something else than gelu")
values = {
    name: np.asarray(p.value) for name, p in TransformerBlock(20, 2, 20, new_rng(check.seed(3))).parameters().items()
}
matrices = {name: value for name, value in values.items() if value.ndim == 2}
for name, value in matrices.items():
    check.close(float((value**2).mean() * 20), 1.0, f"the mean square of {name} at first, over Xavier's", atol=0.3)
    for other in matrices:
        if other < name:
            check.that(not np.allclose(value, matrices[other]), f"{name} and {other} are drawn apart")
for name, value in values.items():
    if value.ndim == 1:
        want = np.full(len(value), 1.0 if name.endswith("norm.weight") else 0.0)
        check.close(value, want, f"{name} at first")
same, again, other = (
    TransformerBlock(4, 2, 5, new_rng(check.seed(4) + k)).feed_forward.layer.outer.weight.value for k in (0, 0, 1)
)
check.that(np.array_equal(same, again), "generators with the same seed give the same block", hint="Draw from rng.")
check.that(not np.array_equal(same, other), "another seed gives another block", hint="Draw from rng.")
for norm in ("pre", "post", "none"):
    block = TransformerBlock(4, 2, 5, new_rng(0), norm=norm)
    block.astype("float32")
    found = passes(block, (x.astype("float32"), mask), x.astype("float32"))
    check.equal(
        sorted({str(value.dtype) for value in found.values()}), ["float32"], f"{norm}: dtypes after astype('float32')"
    )
### END HIDDEN TESTS


# %% alternative="TransformerBlock"
class TransformerBlock(Layer):
    # The parts in a list of steps; backward walks it from its end.
    def __init__(self, d_model, n_heads, d_ff, rng, norm="pre", activation="gelu"):
        network = FeedForward(d_model, d_ff, rng, activation=activation)
        self.feed_forward = Residual(network, d_model, norm=norm)
        self.attention = Residual(MultiHeadAttention(d_model, n_heads, rng), d_model, norm=norm)

    def steps(self):
        return self.attention, self.feed_forward

    def forward(self, x, mask=None):
        arguments = {"attention": [] if mask is None else [mask], "feed_forward": []}
        for name, step in zip(arguments, self.steps(), strict=True):
            print("through", name)
            x = step.forward(x, *arguments[name])
        return x

    def backward(self, grad):
        for step in self.steps()[::-1]:
            grad = step.backward(grad)
        return grad


# %% mistakes="TransformerBlock"
{
    "backward goes through the parts in the order of forward, attention first": (
        "self.attention.backward(self.feed_forward.backward(grad))",
        "self.feed_forward.backward(self.attention.backward(grad))",
    ),
    "backward never reaches the attention, which so never learns": (
        "self.attention.backward(self.feed_forward.backward(grad))",
        "self.feed_forward.backward(grad)",
    ),
    "backward goes past the network, which so never learns": (
        "self.attention.backward(self.feed_forward.backward(grad))",
        "self.attention.backward(grad)",
    ),
    "the gradient of the network is not handed on: both parts get the gradient that arrives, and their answers are added": (
        "self.attention.backward(self.feed_forward.backward(grad))",
        "self.attention.backward(grad) + self.feed_forward.backward(grad)",
    ),
    "backward runs each part's backward and returns the gradient as it came": (
        "return self.attention.backward(self.feed_forward.backward(grad))",
        "self.attention.backward(self.feed_forward.backward(grad)); return grad",
    ),
    "the block adds x once more around parts that already have a residual inside": [
        (
            "return self.feed_forward(self.attention(x, mask))",
            "x = x + self.attention(x, mask); return x + self.feed_forward(x)",
        ),
        (
            "return self.attention.backward(self.feed_forward.backward(grad))",
            "grad = grad + self.feed_forward.backward(grad); return grad + self.attention.backward(grad)",
        ),
    ],
    "backward adds the gradient that arrives once more, which the residuals have done already": (
        "return self.attention.backward(self.feed_forward.backward(grad))",
        "return grad + self.attention.backward(self.feed_forward.backward(grad))",
    ),
    "backward returns nothing, so the blocks below never learn": (
        "return self.attention.backward(self.feed_forward.backward(grad))",
        "self.attention.backward(self.feed_forward.backward(grad))",
    ),
    "backward goes through the network twice, so its gradients are twice as large": (
        "return self.attention.backward(self.feed_forward.backward(grad))",
        "self.feed_forward.backward(grad); return self.attention.backward(self.feed_forward.backward(grad))",
    ),
    "backward begins by setting all gradients to zero": (
        "return self.attention.backward(self.feed_forward.backward(grad))",
        "self.zero_grad(); return self.attention.backward(self.feed_forward.backward(grad))",
    ),
    "backward goes past the residuals: the roads around the two parts are forgotten": (
        "self.attention.backward(self.feed_forward.backward(grad))",
        "self.attention.backward(self.feed_forward.backward(grad) - grad) - (self.feed_forward.backward(grad) - grad)",
    ),
    "forward computes the attention twice, the second time without the mask, and backward answers for that one": (
        "return self.feed_forward(self.attention(x, mask))",
        "y = self.feed_forward(self.attention(x, mask)); self.attention(x); return y",
    ),
    "the mask is not handed on to the attention, so every token looks into the future": (
        "self.attention(x, mask)",
        "self.attention(x)",
    ),
    "the mask is handed on the wrong way round: True is taken for forbidden": (
        "self.attention(x, mask)",
        "self.attention(x, None if mask is None else ~mask)",
    ),
    "a causal mask is put on whether or not one is handed in": (
        "self.attention(x, mask)",
        "self.attention(x, np.tril(np.ones((x.shape[-2],) * 2, dtype=bool)) if mask is None else mask)",
    ),
    "the network comes first, and attention works on what it makes": [
        ("return self.feed_forward(self.attention(x, mask))", "return self.attention(self.feed_forward(x), mask)"),
        (
            "self.attention.backward(self.feed_forward.backward(grad))",
            "self.feed_forward.backward(self.attention.backward(grad))",
        ),
    ],
    "both parts read the input of the block side by side, and the network does not see what attention has found": [
        (
            "return self.feed_forward(self.attention(x, mask))",
            "return self.attention(x, mask) + self.feed_forward(x) - x",
        ),
        (
            "self.attention.backward(self.feed_forward.backward(grad))",
            "self.attention.backward(grad) + self.feed_forward.backward(grad) - grad",
        ),
    ],
    "the input is added to the output once more, although each residual has added it": [
        ("return self.feed_forward(self.attention(x, mask))", "return x + self.feed_forward(self.attention(x, mask))"),
        ("return self.attention.backward(", "return grad + self.attention.backward("),
    ],
    "the network is left out": [
        ("return self.feed_forward(self.attention(x, mask))", "return self.attention(x, mask)"),
        ("self.attention.backward(self.feed_forward.backward(grad))", "self.attention.backward(grad)"),
    ],
    "the attention is left out": [
        ("return self.feed_forward(self.attention(x, mask))", "return self.feed_forward(x)"),
        ("self.attention.backward(self.feed_forward.backward(grad))", "self.feed_forward.backward(grad)"),
    ],
    "the network stands alone, without a residual": (
        "Residual(FeedForward(d_model, d_ff, rng, activation), d_model, norm)",
        "FeedForward(d_model, d_ff, rng, activation)",
    ),
    "the attention stands alone, without a residual": (
        "Residual(MultiHeadAttention(d_model, n_heads, rng), d_model, norm)",
        "MultiHeadAttention(d_model, n_heads, rng)",
    ),
    "both residuals share one norm object, which remembers only its last token": (
        "self.feed_forward = Residual(FeedForward(d_model, d_ff, rng, activation), d_model, norm)",
        "self.feed_forward = Residual(FeedForward(d_model, d_ff, rng, activation), d_model, norm); self.feed_forward.norm = self.attention.norm",
    ),
    "the kind of norm is ignored: it is always pre": ("d_model, norm)", 'd_model, "pre")', "all"),
    "only the attention gets the kind of norm that was asked for, and the network's is always pre": (
        "activation), d_model, norm)",
        "activation), d_model)",
    ),
    "only the network gets the kind of norm that was asked for, and the attention's is always pre": (
        "rng), d_model, norm)",
        "rng), d_model)",
    ),
    "the norm is post where nothing is said": ('norm: str = "pre"', 'norm: str = "post"'),
    "the activation is ignored: it is always GELU": ("d_ff, rng, activation)", "d_ff, rng)"),
    "the activation is ReLU where nothing is said": ('activation: str = "gelu"', 'activation: str = "relu"'),
    "the number of heads is ignored: there is always one": (
        "MultiHeadAttention(d_model, n_heads, rng)",
        "MultiHeadAttention(d_model, 1, rng)",
    ),
    "there is one head for each feature, whatever is asked for": (
        "MultiHeadAttention(d_model, n_heads, rng)",
        "MultiHeadAttention(d_model, d_model, rng)",
    ),
    "d_ff is ignored: the middle is always four times as wide as the token": (
        "FeedForward(d_model, d_ff,",
        "FeedForward(d_model, 4 * d_model,",
    ),
    "the network is drawn like the attention, from a copy of rng": (
        "self.attention = Residual(MultiHeadAttention(d_model, n_heads, rng)",
        "import copy\n        self.attention = Residual(MultiHeadAttention(d_model, n_heads, copy.deepcopy(rng))",
    ),
    "rng is ignored: every block is drawn with seed 0": (
        "self.attention = Residual(",
        "rng = np.random.default_rng(0); self.attention = Residual(",
    ),
    "the two parts are named the other way round": [
        ("self.attention", "self.first", "all"),
        ("self.feed_forward", "self.attention", "all"),
        ("self.first", "self.feed_forward", "all"),
    ],
}

# %% [markdown]
# ## Exercise 2 · `Transformer`
#
# Now N of them. Every block has parameters of its own, so it is an object of its own. Why say it? Because of this line, which many have written:
#
# ```python
# self.blocks = [TransformerBlock(d_model, n_heads, d_ff, rng)] * n_layers
# ```
#
# It makes *one* block and a list that names it N times. It computes, its loss falls, and two things are wrong. There are parameters for one block only. And a layer
# answers for its last `forward`: when the gradient comes to block 0, the block remembers what it did as block N - 1.
#
# A pre-norm stack needs one thing more. Its stream is a sum of everything that the blocks have added, and nothing has normalised it. So one last layer norm, `self.norm`, stands behind the
# last block. With "post" every block ends in a norm already, and "none" means none: there `self.norm` is None.
#
# *Difficulty 3 of 5 · 25 minutes · 6 points*


# %% exercise="Transformer" difficulty=3 minutes=25 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
class Transformer(Layer):
    """Blocks on each other.

    Args:
        n_layers: N, the number of blocks, at least 1.
        d_model, n_heads, d_ff: as in `TransformerBlock`, the same for all blocks.
        rng: all random numbers come from it.
        norm: "pre", "post" or "none"; the same for all blocks.
        activation: "gelu" or "relu"; the same for all blocks.

    Attributes:
        blocks: a list of N `TransformerBlock`, in the order in which forward goes through them.
        norm: with "pre" a `LayerNorm` behind the last block, otherwise None.

    Parameters:
        Those of block 0 under ``blocks.0.`` (such as ``blocks.0.attention.layer.q.weight``), and so on, and with "pre"
        ``norm.weight`` and ``norm.bias``. No two blocks share a parameter, and no two are drawn alike.

    Raises:
        ValueError: if norm, activation or n_heads are none that the parts accept.

    Sources: Vaswani et al., Attention Is All You Need, 2017 ("post"); Radford et al., Language Models are Unsupervised
    Multitask Learners, 2019 ("pre", with the norm behind the last block).
    """

    def __init__(
        self,
        n_layers: int,
        d_model: int,
        n_heads: int,
        d_ff: int,
        rng: np.random.Generator,
        norm: str = "pre",
        activation: str = "gelu",
    ):
        ### BEGIN SOLUTION
        self.blocks = [TransformerBlock(d_model, n_heads, d_ff, rng, norm, activation) for _ in range(n_layers)]
        self.norm = LayerNorm(d_model) if norm == "pre" else None
        ### END SOLUTION

    def forward(self, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Through all blocks, and the last norm if there is one.

        Args:
            x: (..., T, d_model) with any number of axes in front, also none. It is not changed.
            mask: as in `TransformerBlock`; every block gets it.

        Returns:
            Array of x's shape; float32 where x and the parameters are float32.
        """
        ### BEGIN SOLUTION
        for block in self.blocks:
            x = block(x, mask)
        return x if self.norm is None else self.norm(x)
        ### END SOLUTION

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for the x of the last `forward`, of its shape; adds to the gradients of all parameters."""
        ### BEGIN SOLUTION
        if self.norm is not None:
            grad = self.norm.backward(grad)
        for block in reversed(self.blocks):
            grad = block.backward(grad)
        return grad
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>A list comprehension calls the constructor anew for each block. (And <code>rng</code> is used up a little by every
# draw, so the blocks differ.) Going forward, each block's output is the next one's input.</details>
# <details><summary>A bigger nudge</summary>Walk back from the very end: the last norm, if there is one, came last and is first. Then the blocks from the last to the first, where
# what one of them returns is what the next one gets. <code>reversed</code> walks a list from its end without changing it.</details>

# %% test="Transformer" points=4
from coursekit import check

import numpy as np

# Three blocks that only add: attention is silent, and the networks put out their bias, (1, 0), (0, 10) and (100, 0).
model = Transformer(3, 2, 1, 2, new_rng(0), norm="none")
for block, bias in zip(model.blocks, ([1.0, 0.0], [0.0, 10.0], [100.0, 0.0]), strict=True):
    block.attention.layer.o.weight.value = block.feed_forward.layer.outer.weight.value = np.zeros((2, 2))
    block.feed_forward.layer.outer.bias.value = np.array(bias)
x = np.array([[0.0, 0.0], [3.0, 5.0]])
found = passes(model, (x,), x)
check.close(
    found["output"], x + np.array([101.0, 10.0]), "three blocks that add (1, 0), (0, 10) and (100, 0) to every token"
)
check.close(found.get("grad", np.nan), x, "their gradient for x: it comes down the free road as it is")

# Then drawn ones. Each gradient is a slope: move a number a little, and watch the loss.
mask = np.tri(3, dtype=bool)
for norm in ("pre", "post"):
    model = Transformer(3, 4, 2, 5, new_rng(0), norm=norm)
    x, direction = np.random.default_rng(1).normal(size=(2, 3, 4))
    fill(model, 2)
    found = passes(model, (x, mask), direction)
    alone = model.forward(x[:1])[0]
    check.close(found["output"][0], alone, f"{norm}, with a causal mask: token 0 is what it is alone", atol=1e-12)
    slopes = np.zeros((3, 4))
    for place in np.ndindex(3, 4):
        move = np.zeros((3, 4))
        move[place] = 1e-5
        up, down = (float((model.forward(x + sign * move, mask) * direction).sum()) for sign in (1, -1))
        slopes[place] = (up - down) / 2e-5
    check.close(found.get("grad", np.nan), slopes, f"{norm}: the gradient for x, the slopes of the loss", atol=1e-6)
    for number in range(3):
        matrix = model.blocks[number].feed_forward.layer.inner.weight
        value, losses = matrix.value.copy(), []
        for sign in (1, -1):
            moved = value.copy()
            moved[1, 2] += sign * 1e-5
            matrix.value = moved
            losses.append(float((model.forward(x, mask) * direction).sum()))
        matrix.value = value
        slope = (losses[0] - losses[1]) / 2e-5
        name = f"blocks.{number}.feed_forward.layer.inner.weight"
        check.close(float(found[f"grad.{name}"][1, 2]), slope, f"{norm}: the gradient of {name}[1, 2]", atol=1e-5)
### BEGIN HIDDEN TESTS
import torch
from torch.nn import functional as F


def by_torch(x, leaf, n_layers, n_heads, norm, activation, mask):
    """The same stack, of torch's functions; leaf has the parameters by their names."""
    d_model = x.shape[-1]

    def block(x, get):
        def normed(x, part):
            return F.layer_norm(x, (d_model,), get(f"{part}.norm.weight"), get(f"{part}.norm.bias"))

        def linear(x, name):
            return x @ get(f"{name}.weight") + get(f"{name}.bias")

        def attend(x):
            cut = (*x.shape[:-1], n_heads, -1)
            q, k, v = (linear(x, f"attention.layer.{part}").reshape(cut).transpose(-2, -3) for part in "qkv")
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return linear(y.transpose(-2, -3).reshape(x.shape), "attention.layer.o")

        def network(x):
            h = linear(x, "feed_forward.layer.inner")
            h = F.relu(h) if activation == "relu" else F.gelu(h, approximate="tanh")
            return linear(h, "feed_forward.layer.outer")

        for part, layer in (("attention", attend), ("feed_forward", network)):
            if norm == "pre":
                x = x + layer(normed(x, part))
            else:
                x = x + layer(x)
                x = normed(x, part) if norm == "post" else x
        return x

    for number in range(n_layers):
        x = block(x, lambda name, number=number: leaf[f"blocks.{number}.{name}"])
    return F.layer_norm(x, (d_model,), leaf["norm.weight"], leaf["norm.bias"]) if norm == "pre" else x


draw = np.random.default_rng(check.seed(1))
for n_layers, norm, activation, shape, n_heads, d_ff, kind in (
    (3, "pre", "gelu", (3, 5, 6), 2, 7, "causal"),
    (2, "post", "gelu", (1, 7, 6), 3, 9, "a mask for each text"),
    (1, "pre", "relu", (5, 4), 1, 4, "no"),
    (4, "none", "gelu", (2, 3, 4, 4), 2, 3, "causal"),
    (2, "post", "relu", (3, 4, 4), 4, 6, "no"),
):
    *batch, T, d_model = shape
    case = f"{n_layers} layers, {norm}, {activation}, x of shape {shape}, {n_heads} heads, d_ff={d_ff}, {kind} mask"
    mask = None
    if kind == "causal":
        mask = np.tri(T, dtype=bool)
    elif kind != "no":
        mask = (draw.random((*batch, T, T)) < 0.5) | np.eye(T, dtype=bool)
    model = Transformer(n_layers, d_model, n_heads, d_ff, new_rng(0), norm=norm, activation=activation)
    values = fill(model, check.seed(2))
    x, other, grad = draw.normal(size=(3, *shape))
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in (values | {"x": x}).items()}
    allowed = None if mask is None else torch.tensor(mask).unsqueeze(-3)
    output = by_torch(leaves["x"], leaves, n_layers, n_heads, norm, activation, allowed)
    output.backward(torch.tensor(grad))
    model.forward(other)
    found = passes(model, (x,) if mask is None else (x, mask), grad)
    check.close(found["output"], output.detach().numpy(), f"{case}: the output", atol=1e-8, rtol=1e-8)
    want = {name: leaf.grad.numpy() for name, leaf in leaves.items()}
    check.close(found.get("grad", np.nan), want["x"], f"{case}: the gradient for x", atol=1e-8, rtol=1e-8)
    for name in values:
        check.close(found[f"grad.{name}"], want[name], f"{case}: the gradient of {name}", atol=1e-8, rtol=1e-8)
    again = model.backward(grad)
    check.close(again, want["x"], f"{case}: backward once more, from the same forward", atol=1e-8, rtol=1e-8)
    for name, parameter in model.parameters().items():
        check.close(parameter.grad, 2 * want[name], f"{case}: backward again adds to {name}", atol=1e-8, rtol=1e-8)
# Nobody sees the future: a gradient for token 3 goes to the tokens up to 3, and a new token 4 changes none before it.
model = Transformer(4, 6, 3, 8, new_rng(0))
fill(model, check.seed(3))
x, grad, mask = draw.normal(size=(2, 7, 6)), np.zeros((2, 7, 6)), np.tri(7, dtype=bool)
grad[:, 3] = draw.normal(size=(2, 6))
found = passes(model, (x, mask), grad)
check.close(
    found["grad"][:, 4:],
    np.zeros((2, 3, 6)),
    "causal, four layers: no gradient for tokens after the one that counts",
    atol=0.0,
)
later = x.copy()
later[:, 4:] = draw.normal(size=(2, 3, 6))
check.close(
    model.forward(later, mask)[:, :4],
    found["output"][:, :4],
    "causal, four layers: new tokens 4 to 6 change none before them",
    atol=1e-10,
)
check.close(
    model.forward(x[:, ::-1])[:, ::-1],
    model.forward(x),
    "without a mask, tokens in another order give the same in another order",
    atol=1e-8,
)
check.close(
    model(np.asfortranarray(x)), model.forward(x), "called as model(x), with an x that is not contiguous", atol=1e-12
)
### END HIDDEN TESTS

# %% test="Transformer" points=2
from coursekit import check

import numpy as np

x = np.array([[1.0, 7.0, 9.0, 15.0], [2.0, 0.0, 1.0, 1.0]])
y = Transformer(2, 4, 2, 5, new_rng(0)).forward(x)
check.close(
    y.mean(axis=-1), np.zeros(2), "pre is the default, and what comes out has been normalised: the mean of each token"
)
model = Transformer(3, 4, 2, 5, new_rng(0))
names = list(model.parameters())
check.equal(
    {str(n): sum(name.startswith(f"blocks.{n}.") for name in names) for n in range(4)},
    {"0": 16, "1": 16, "2": 16, "3": 0},
    "three blocks with 16 parameters each, none of them shared",
    hint="[block] * 3 is one block, named three times.",
)
check.equal(
    sorted(name for name in names if not name.startswith("blocks.")),
    ["norm.bias", "norm.weight"],
    "pre: and the last norm",
)
for norm in ("post", "none"):
    model = Transformer(2, 4, 2, 5, new_rng(0), norm=norm)
    names = [name for name in model.parameters() if not name.startswith("blocks.")]
    check.equal(names, [], f"{norm}: there are no parameters but those of the blocks")
    check.equal(model.norm is None, True, f"{norm}: model.norm is None")
check.raises(ValueError, lambda: Transformer(2, 4, 2, 5, new_rng(0), norm="last"), "norm='last' is refused")
### BEGIN HIDDEN TESTS
for options in ({"norm": None}, {"norm": "Pre"}, {"activation": "GELU"}):
    check.raises(
        ValueError, lambda options=options: Transformer(2, 4, 2, 5, new_rng(0), **options), f"{options} is refused"
    )
check.raises(ValueError, lambda: Transformer(2, 4, 3, 5, new_rng(0)), "3 heads, d_model=4")
for n_layers in (1, 5):
    model = Transformer(n_layers, 4, 2, 5, new_rng(0))
    check.equal(len(model.blocks), n_layers, f"{n_layers} layers: the length of blocks")
    names = sorted({name.split(".")[1] for name in model.parameters() if name.startswith("blocks.")})
    check.equal(names, [str(n) for n in range(n_layers)], f"{n_layers} layers: the numbers in the names")
default, gelu, relu = (
    Transformer(2, 4, 2, 5, new_rng(1), **options).forward(x)
    for options in ({}, {"norm": "pre", "activation": "gelu"}, {"activation": "relu"})
)
check.close(default, gelu, "pre and gelu where nothing is said", atol=1e-12)
check.that(np.abs(default - relu).max() > 1e-4, "relu gives something else than gelu")
# (the blocks one after the other, by hand)
for norm in ("pre", "post", "none"):
    model = Transformer(3, 4, 2, 5, new_rng(0), norm=norm)
    fill(model, check.seed(4))
    want = x
    for number in range(3):
        want = model.blocks[number].forward(want)
    if norm == "pre":
        want = model.norm.forward(want)
    check.close(model.forward(x), want, f"{norm}: blocks[0], then blocks[1], then blocks[2]", atol=1e-12)
model = Transformer(3, 10, 2, 10, new_rng(check.seed(5)))
values = {name: np.asarray(p.value) for name, p in model.parameters().items()}
matrices = [name for name, value in values.items() if value.ndim == 2]
for i, name in enumerate(matrices):
    for other in matrices[:i]:
        check.that(not np.allclose(values[name], values[other]), f"{name} and {other} are drawn apart")
same, again, other = (
    Transformer(2, 4, 2, 5, new_rng(check.seed(6) + k)).blocks[1].attention.layer.q.weight.value for k in (0, 0, 1)
)
check.that(np.array_equal(same, again), "generators with the same seed give the same model", hint="Draw from rng.")
check.that(not np.array_equal(same, other), "another seed gives another model", hint="Draw from rng.")
for norm in ("pre", "post", "none"):
    model = Transformer(2, 4, 2, 5, new_rng(0), norm=norm)
    model.astype("float32")
    found = passes(model, (x.astype("float32"), np.tri(2, dtype=bool)), x.astype("float32"))
    check.equal(
        sorted({str(value.dtype) for value in found.values()}), ["float32"], f"{norm}: dtypes after astype('float32')"
    )
### END HIDDEN TESTS


# %% alternative="Transformer"
class Transformer(Layer):
    # By recursion: a stack of N is a block with a stack of N - 1 on it.
    def __init__(self, n_layers, d_model, n_heads, d_ff, rng, norm="pre", activation="gelu"):
        self.blocks, self.norm = [], None
        while len(self.blocks) < n_layers:
            self.blocks.append(TransformerBlock(d_model, n_heads, d_ff, rng, activation=activation, norm=norm))
            print("built block", len(self.blocks))
        if norm == "pre":
            self.norm = LayerNorm(d_model)

    def up(self, x, mask, n):
        return x if n == len(self.blocks) else self.up(self.blocks[n].forward(x, mask), mask, n + 1)

    def down(self, grad, n):
        return self.blocks[n].backward(grad if n + 1 == len(self.blocks) else self.down(grad, n + 1))

    def forward(self, x, mask=None):
        y = self.up(x, mask, 0)
        return self.norm.forward(y) if self.norm else y

    def backward(self, grad):
        return self.down(self.norm.backward(grad) if self.norm else grad, 0)


# %% mistakes="Transformer"
{
    "the list holds one block N times, with [block] * n_layers: the blocks share everything": (
        "[TransformerBlock(d_model, n_heads, d_ff, rng, norm, activation) for _ in range(n_layers)]",
        "[TransformerBlock(d_model, n_heads, d_ff, rng, norm, activation)] * n_layers",
    ),
    "all blocks are drawn alike, each from a copy of rng": (
        "[TransformerBlock(d_model, n_heads, d_ff, rng, norm,",
        "[TransformerBlock(d_model, n_heads, d_ff, __import__('copy').deepcopy(rng), norm,",
    ),
    "backward goes through the blocks from the first to the last": ("reversed(self.blocks)", "self.blocks"),
    "backward turns the list of blocks round, and so the next forward goes through them from the last to the first": (
        "for block in reversed(self.blocks):",
        "self.blocks.reverse()\n        for block in self.blocks:",
    ),
    "every block gets the gradient that arrives at the top, and not what the block above it returns": (
        "            grad = block.backward(grad)\n        return grad",
        "            into = block.backward(grad)\n        return into",
    ),
    "what the blocks return is thrown away, and the gradient of the top comes out at the bottom": (
        "            grad = block.backward(grad)",
        "            block.backward(grad)",
    ),
    "backward goes past the last norm": (
        "        if self.norm is not None:\n            grad = self.norm.backward(grad)\n        for block in rev",
        "        for block in rev",
    ),
    "the gradient passes the last norm at the end, after the blocks": (
        "        if self.norm is not None:\n            grad = self.norm.backward(grad)\n        for block in reversed(self.blocks):\n            grad = block.backward(grad)\n        return grad",
        "        for block in reversed(self.blocks):\n            grad = block.backward(grad)\n        return grad if self.norm is None else self.norm.backward(grad)",
    ),
    "backward adds the gradient of the top to what each block returns, which the residuals have done already": (
        "grad = block.backward(grad)",
        "grad = grad + block.backward(grad)",
    ),
    "backward forgets the lowest block": ("reversed(self.blocks)", "reversed(self.blocks[1:])"),
    "backward forgets the highest block": ("reversed(self.blocks)", "reversed(self.blocks[:-1])"),
    "backward begins by setting all gradients to zero": (
        "        if self.norm is not None:\n            grad = self.norm",
        "        self.zero_grad()\n        if self.norm is not None:\n            grad = self.norm",
    ),
    "backward returns nothing, so the embedding below never learns": (
        "            grad = block.backward(grad)\n        return grad",
        "            grad = block.backward(grad)",
    ),
    "the mask is not handed on to the blocks": ("block(x, mask)", "block(x)"),
    "only the first block gets the mask, and the others look into the future": (
        "x = block(x, mask)",
        "x, mask = block(x, mask), None",
    ),
    "every block reads the input of the stack, and only the last one's output is kept": [
        (
            "            x = block(x, mask)\n        return x",
            "            y = block(x, mask)\n        x = y\n        return x",
        ),
    ],
    "forward goes through the blocks from the last to the first": [
        ("for block in self.blocks:", "for block in self.blocks[::-1]:"),
        ("reversed(self.blocks)", "self.blocks"),
    ],
    "forward leaves out the last block": [
        ("for block in self.blocks:", "for block in self.blocks[:-1]:"),
        ("reversed(self.blocks)", "reversed(self.blocks[:-1])"),
    ],
    "forward goes through every block twice": ("x = block(x, mask)", "x = block(block(x, mask), mask)"),
    "the input of each block is added to its output, although its residuals have done so": [
        ("x = block(x, mask)", "x = x + block(x, mask)"),
        ("grad = block.backward(grad)", "grad = grad + block.backward(grad)"),
    ],
    "the last norm is left out": [
        ("LayerNorm(d_model) if norm", "None if norm"),
    ],
    "the last norm is there and forward does not use it": [
        ("return x if self.norm is None else self.norm(x)", "return x"),
        ("grad = self.norm.backward(grad)", "pass"),
    ],
    "the last norm is used behind every block": [
        ("x = block(x, mask)", "x = block(x, mask) if self.norm is None else self.norm(block(x, mask))"),
        ("return x if self.norm is None else self.norm(x)", "return x"),
    ],
    "a last norm stands behind the blocks whatever the kind": (
        'LayerNorm(d_model) if norm == "pre" else None',
        "LayerNorm(d_model)",
    ),
    "a last norm stands behind the blocks with post, too, where every block ends in one": (
        'if norm == "pre" else None',
        'if norm != "none" else None',
    ),
    "the last norm is there with post, and not with pre": ('if norm == "pre"', 'if norm == "post"'),
    "the kind of norm is not handed on to the blocks": ("rng, norm, activation)", 'rng, "pre", activation)'),
    "the activation is not handed on to the blocks": ("rng, norm, activation)", "rng, norm)"),
    "the norm is post where nothing is said": ('norm: str = "pre"', 'norm: str = "post"'),
    "the activation is ReLU where nothing is said": ('activation: str = "gelu"', 'activation: str = "relu"'),
    "the number of heads is not handed on: there is always one": ("(d_model, n_heads, d_ff,", "(d_model, 1, d_ff,"),
    "d_ff is not handed on: it is always four times d_model": (
        "(d_model, n_heads, d_ff,",
        "(d_model, n_heads, 4 * d_model,",
    ),
    "there is one block too many": ("range(n_layers)", "range(n_layers + 1)"),
    "rng is ignored: every model is drawn with seed 0": (
        "        self.blocks = [",
        "        rng = np.random.default_rng(0)\n        self.blocks = [",
    ),
    "the blocks are kept under the name layers": ("self.blocks", "self.layers", "all"),
    "the blocks are kept in a tuple, in which parameters() does not look": (
        "for _ in range(n_layers)]",
        "for _ in range(n_layers)]; self.blocks = tuple(self.blocks)",
    ),
}

# %% [markdown]
# Is it the first transformer or GPT-2? Two words decide, the norm's and the bend's, and the sizes. Here are both, built by your code at about a tenth of their width. Look at the last
# array: one has a norm of its own behind the blocks.

# %%
models = {
    "the base model of 2017": (6, 48, 8, 192, "post", "relu"),
    "GPT-2, the smallest": (12, 72, 12, 288, "pre", "gelu"),
}
for name, (n_layers, d_model, n_heads, d_ff, norm, activation) in models.items():
    model = Transformer(n_layers, d_model, n_heads, d_ff, np.random.default_rng(0), norm, activation)
    parameters = model.parameters()
    size = sum(p.value.size for p in parameters.values())
    print(
        f"{name:24}{n_layers} blocks, {norm}-norm, {len(parameters)} arrays, {size:,} numbers; the last is {list(parameters)[-1]}"
    )

# %% [markdown]
# ## Exercise 3 · `parameter_count` and `widest`
#
# Before you compare two models you have to know how large they are. You need not build them. Count a block: four square matrices with their biases, two matrices of the network
# with theirs, two norms. (And the heads? They cut the features, and cutting needs no parameters.)
#
# The second function turns the question round. Given so many parameters and so many layers, how wide may the model be? There is a formula with a square root in it, and there is a loop that
# tries one width after the other. Both are right.
#
# For orientation: with $d_\text{ff} = 4\,d_\text{model}$ a block has a little more than $12\,d_\text{model}^2$ parameters. So at equal size, four times the depth is half the width.
#
# *Difficulty 2 of 5 · 15 minutes · 4 points*


# %% exercise="parameter_count" difficulty=2 minutes=15 forbid=["torch.nn.TransformerEncoderLayer", "torch.nn.TransformerEncoder"]
def parameter_count(n_layers: int, d_model: int, d_ff: int, norm: str = "pre") -> int:
    """The number of parameters of a `Transformer`, by arithmetic: no model is built.

    Args:
        n_layers: number of blocks; 0 is allowed here and leaves the last norm, if there is one.
        d_model, d_ff: as in `Transformer`. There is no n_heads, since the heads change nothing.
        norm: "pre", "post" or "none".

    Returns:
        An int: how many numbers the arrays of ``Transformer(...).parameters()`` hold together. It has to be exact for
        models of any size, and to take no noticeable time or memory.
    """
    ### BEGIN SOLUTION
    attention = 4 * (d_model * d_model + d_model)  # q, k, v, o, each with a bias
    network = d_model * d_ff + d_ff + d_ff * d_model + d_model  # inner and outer, each with a bias
    one_norm = 0 if norm == "none" else 2 * d_model  # weight and bias
    last_norm = one_norm if norm == "pre" else 0
    return n_layers * (attention + network + 2 * one_norm) + last_norm
    ### END SOLUTION


def widest(budget: int, n_layers: int, n_heads: int) -> int:
    """How wide may a model be?

    Args:
        budget: at most so many parameters are allowed, 0 or more.
        n_layers: number of blocks, at least 1.
        n_heads: d_model has to be a multiple of it.

    Returns:
        The largest d_model, a multiple of n_heads, for which a `Transformer` with n_layers blocks, d_ff = 4 * d_model and
        pre-norm has at most budget parameters. 0 if even one with d_model = n_heads has more.
    """
    ### BEGIN SOLUTION
    d_model = 0
    while parameter_count(n_layers, d_model + n_heads, 4 * (d_model + n_heads)) <= budget:
        d_model += n_heads
    return d_model
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Print the shapes of all parameters of a small block, with <code>parameters()</code>, and find each of them in your formula. For the second function: begin
# at a width of 0.</details>
# <details><summary>A bigger nudge</summary>A linear layer from a to b features has a · b + b parameters, a norm has two numbers for each feature. A block with norms has two of them, and the
# last one is extra, with "pre" alone. In the loop, ask whether the <i>next</i> width would still be allowed, and only then step to it.</details>

# %% test="parameter_count" points=2
from coursekit import check

case = "d_model=2 and d_ff=7"
check.equal(
    parameter_count(1, 2, 7, norm="none"),
    61,
    f"one block, {case}, no norms: 4 * (4 + 2) for attention and 14 + 7 + 14 + 2 for the network",
)
check.equal(
    parameter_count(3, 2, 7, norm="pre"), 211, f"three blocks, {case}, pre: 3 * (61 + 8), and 4 for the last norm"
)
check.equal(parameter_count(3, 2, 7, norm="post"), 207, f"three blocks, {case}, post: 3 * (61 + 8)")
check.equal(parameter_count(3, 2, 7), 211, "pre where nothing is said")
check.equal(parameter_count(12, 768, 3072), 85_056_000, "the blocks and the last norm of the smallest GPT-2")
### BEGIN HIDDEN TESTS
import torch

for n_layers, d_model, d_ff in ((1, 2, 3), (3, 5, 7), (6, 512, 2048), (7, 60, 11), (96, 12288, 49152)):
    with torch.device("meta"):  # shapes without numbers
        layer = torch.nn.TransformerEncoderLayer(d_model, 1, d_ff)
    sizes = {name: p.numel() for name, p in layer.named_parameters()}
    bare = sum(size for name, size in sizes.items() if not name.startswith("norm"))
    full, last = sum(sizes.values()), sizes["norm1.weight"] + sizes["norm1.bias"]
    for norm, want in (("none", n_layers * bare), ("post", n_layers * full), ("pre", n_layers * full + last)):
        case = f"{n_layers} layers, d_model={d_model}, d_ff={d_ff}, {norm}"
        check.equal(parameter_count(n_layers, d_model, d_ff, norm=norm), want, case)
        check.equal(
            parameter_count(n_layers, d_model, d_ff, norm=norm) % 1_000_003,
            want % 1_000_003,
            f"{case}: to the last digit",
        )
for norm, want in (("pre", 10), ("post", 0), ("none", 0)):
    check.equal(parameter_count(0, 5, 7, norm=norm), want, f"no layers, d_model=5, {norm}")
check.equal(parameter_count(2, 3, 5), parameter_count(2, 3, 5, "pre"), "pre where nothing is said")
### END HIDDEN TESTS

# %% test="parameter_count" points=2
from coursekit import check

widths = [widest(1000 * k, 2, 1) for k in range(1, 13)]
check.equal(
    widths,
    [5, 8, 10, 12, 13, 15, 16, 17, 18, 19, 20, 21],
    "1,000, 2,000, ... 12,000 parameters in two blocks with one head",
)
check.equal(widest(78, 1, 2), 2, "78 parameters, one block, two heads: width 2 has exactly 78 of them")
check.equal(widest(77, 1, 2), 0, "77 parameters are too few for it")
check.equal(
    [widest(50_000, n, 4) for n in (1, 4, 16)], [60, 28, 12], "50,000 parameters in 1, 4 and 16 blocks, with four heads"
)
### BEGIN HIDDEN TESTS
import torch


def by_torch(n_layers, d_model):
    with torch.device("meta"):
        layer = torch.nn.TransformerEncoderLayer(d_model, 1, 4 * d_model)
    return n_layers * sum(p.numel() for p in layer.parameters()) + 2 * d_model


for budget, n_layers, n_heads in ((10**6, 4, 8), (200_000, 3, 1), (5000, 2, 3), (10**7, 12, 5), (10**5, 1, 2)):
    case = f"{budget:,} parameters, {n_layers} blocks, {n_heads} heads"
    found = widest(budget, n_layers, n_heads)
    check.equal(type(found).__name__, "int", f"{case}: the type")
    check.equal(found % n_heads, 0, f"{case}: a multiple of the number of heads")
    check.that(found > 0 and by_torch(n_layers, found) <= budget, f"{case}: a model of this width is within the budget")
    check.that(by_torch(n_layers, found + n_heads) > budget, f"{case}: the next width is too large")
for n_layers, n_heads in ((1, 1), (3, 4), (2, 7)):
    least = by_torch(n_layers, n_heads)
    case = f"{n_layers} blocks, {n_heads} heads"
    check.equal(widest(least, n_layers, n_heads), n_heads, f"{case}: just enough parameters for one feature a head")
    check.equal(widest(least - 1, n_layers, n_heads), 0, f"{case}: one parameter less")
    check.equal(widest(0, n_layers, n_heads), 0, f"{case}: no parameters at all")
    exact = by_torch(n_layers, 5 * n_heads)
    check.equal(widest(exact, n_layers, n_heads), 5 * n_heads, f"{case}: exactly enough for five features a head")
### END HIDDEN TESTS


# %% alternative="parameter_count"
def parameter_count(n_layers, d_model, d_ff, norm="pre"):
    shapes = [(d_model, d_model), (d_model,)] * 4 + [(d_model, d_ff), (d_ff,), (d_ff, d_model), (d_model,)]
    norms = {"pre": 2, "post": 2, "none": 0}[norm]
    shapes += [(d_model,)] * (2 * norms)
    total = 0
    for shape in shapes:
        size = 1
        for length in shape:
            size *= length
        total += size
    return n_layers * total + (2 * d_model if norm == "pre" else 0)


def widest(budget, n_layers, n_heads):
    # 12 N d**2 + (13 N + 2) d = budget, solved for d, and then made safe against rounding.
    a, b = 12 * n_layers, 13 * n_layers + 2
    k = int((-b + (b * b + 4 * a * budget) ** 0.5) / (2 * a)) // n_heads + 1
    while k > 0 and parameter_count(n_layers, k * n_heads, 4 * k * n_heads) > budget:
        k -= 1
    return k * n_heads


# %% mistakes="parameter_count"
{
    "a model with exactly as many parameters as are allowed is refused": ("<= budget", "< budget"),
    "the answer of widest is one step too wide": ("    return d_model\n", "    return d_model + n_heads\n"),
    "widest goes up in steps of 1, and the width need not be a multiple of the number of heads": [
        (
            "parameter_count(n_layers, d_model + n_heads, 4 * (d_model + n_heads))",
            "parameter_count(n_layers, d_model + 1, 4 * (d_model + 1))",
        ),
        ("d_model += n_heads", "d_model += 1"),
    ],
    "widest begins at the number of heads, and says so even when that is too wide": (
        "d_model = 0",
        "d_model = n_heads",
    ),
    "widest counts with d_ff = d_model": ("4 * (d_model + n_heads)) <=", "d_model + n_heads) <="),
    "widest counts one block, whatever the number of layers": (
        "parameter_count(n_layers, d_model + n_heads,",
        "parameter_count(1, d_model + n_heads,",
    ),
    "widest uses the rule of thumb, 12 d_model squared for each block": (
        "parameter_count(n_layers, d_model + n_heads, 4 * (d_model + n_heads)) <= budget",
        "12 * n_layers * (d_model + n_heads) ** 2 <= budget",
    ),
    "widest stops at the first width that is allowed": (
        "    while parameter_count(n_layers, d_model + n_heads,",
        "    if parameter_count(n_layers, d_model + n_heads,",
    ),
    "the biases are not counted, neither those of attention nor those of the network": [
        ("4 * (d_model * d_model + d_model)", "4 * d_model * d_model"),
        ("d_model * d_ff + d_ff + d_ff * d_model + d_model", "2 * d_model * d_ff"),
    ],
    "the biases of attention are not counted": ("4 * (d_model * d_model + d_model)", "4 * d_model * d_model"),
    "the biases of the network are not counted": (
        "d_model * d_ff + d_ff + d_ff * d_model + d_model",
        "2 * d_model * d_ff",
    ),
    "both biases of the network are counted with d_model numbers": (
        "d_model * d_ff + d_ff + d_ff",
        "d_model * d_ff + d_model + d_ff",
    ),
    "attention is counted with three matrices: the output layer o is missing": ("4 * (d_model *", "3 * (d_model *"),
    "the network is counted with one matrix": (
        "d_model * d_ff + d_ff + d_ff * d_model + d_model",
        "d_model * d_ff + d_ff",
    ),
    "a norm is counted with its weight and without its bias": ("else 2 * d_model", "else d_model"),
    "a block is counted with one norm and not with two": ("+ 2 * one_norm)", "+ one_norm)"),
    "the norms of the blocks are not counted": (" + 2 * one_norm)", ")"),
    "the last norm is not counted": (" + last_norm", ""),
    "the last norm is counted once for every block": (
        "(attention + network + 2 * one_norm) + last_norm",
        "(attention + network + 2 * one_norm + last_norm)",
    ),
    "the last norm is counted with post, too": ('one_norm if norm == "pre" else 0', "one_norm"),
    "the norms are counted with 'none', too": ('0 if norm == "none" else 2 * d_model', "2 * d_model"),
    "it is the rule of thumb, 12 d_model squared for each block": (
        "return n_layers * (attention + network + 2 * one_norm) + last_norm",
        "return 12 * n_layers * d_model**2",
    ),
    "d_ff is taken for 4 * d_model, whatever it is": (
        "attention = 4 *",
        "d_ff = 4 * d_model; attention = 4 *",
    ),
    "the number is a float, which loses its last digits for large models": (
        "return n_layers * (attention",
        "import numpy\n    return float(n_layers) * numpy.float32(attention",
    ),
    "norms are counted as post has them where nothing is said": ('norm: str = "pre"', 'norm: str = "post"'),
}

# %% [markdown]
# ## Exercise 4 · `gradient_norms_by_depth`
#
# Now the instrument. A gradient comes in at the top and is handed from block to block. You want its size at every floor of the building. Its size is the *norm*, the
# root of the sum of all its squares, over all tokens and features. (The word has two meanings in this lab. A layer norm is a layer, this norm is a number.)
#
# It is your backward pass of the stack once more, with a notebook in hand. And an instrument should leave no traces: on the way every block adds to the gradients of its parameters, and whoever
# calls you in the middle of a training step does not want them there.
#
# *Difficulty 3 of 5 · 15 minutes · 4 points*


# %% exercise="gradient_norms_by_depth" difficulty=3 minutes=15 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
def gradient_norms_by_depth(
    model: Layer, x: np.ndarray, grad: np.ndarray, mask: np.ndarray | None = None
) -> np.ndarray:
    """How large a gradient is at every depth of a `Transformer`.

    Args:
        model: a `Transformer`: its ``blocks`` (a list, each with forward(x, mask) and backward(grad)) and its ``norm``,
            which may be None.
        x: (..., T, d_model), what goes into the model.
        grad: of the same shape: the gradient of the loss for the model's output, behind the last norm.
        mask: as in `Transformer`.

    Returns:
        float64 array (n_layers + 1,), also for a float32 model. Entry n is the norm (the root of the sum of squares over everything) of the
        gradient for the input of block n; so entry 0 is that for x. The last entry is that for the output of the last
        block, before the last norm.

    The gradients of the model's parameters are in the end what they were before.
    """
    ### BEGIN SOLUTION
    before = {name: parameter.grad.copy() for name, parameter in model.parameters().items()}
    model.forward(x, mask)
    if model.norm is not None:
        grad = model.norm.backward(grad)
    norms = [np.linalg.norm(grad)]
    for block in reversed(model.blocks):
        grad = block.backward(grad)
        norms.append(np.linalg.norm(grad))
    for name, parameter in model.parameters().items():
        parameter.grad = before[name]
    return np.array(norms[::-1], dtype=np.float64)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Every block must know its input before it can go back: first one <code>forward</code> of the whole model. Then write the loop of your
# <code>Transformer.backward</code>, and note a number before the first block and after each.</details>
# <details><summary>A bigger nudge</summary>You collect from the top to the bottom, and the result is ordered from the bottom to the top. <code>np.linalg.norm</code> of an array without further arguments is the root of
# the sum of all its squares. Remember the parameters' gradients at the beginning, as copies: <code>+=</code> changes an array in place, and every name for it sees that.</details>

# %% test="gradient_norms_by_depth" points=4
from coursekit import check

import numpy as np

# Three blocks. At first all are silent: they put out zeros.
model = Transformer(3, 2, 1, 2, new_rng(0), norm="none")
for block in model.blocks:
    block.attention.layer.o.weight.value = block.feed_forward.layer.outer.weight.value = np.zeros((2, 2))
x, grad = np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([[0.0, 4.0], [3.0, 0.0]])
# Then blocks in which every token doubles: its value is the token itself, and it may see nothing else.
for block in (model.blocks[0], model.blocks[2]):
    for part in (block.attention.layer.v, block.attention.layer.o):
        part.weight.value = np.eye(2)
bias = model.blocks[1].feed_forward.layer.outer.bias
bias.grad = np.array([7.0, 8.0])
found = gradient_norms_by_depth(model, x, grad, np.eye(2, dtype=bool))
check.close(
    float(found[0]), 20.0, "the first entry: the gradient for x, 4 times as large as the one that arrives", atol=1e-6
)
check.close(
    found,
    np.array([20.0, 10.0, 10.0, 5.0]),
    "the first and the last block double every token, the one between is silent",
)
check.close(bias.grad, np.array([7.0, 8.0]), "the gradient of a parameter is what it was before")
for block in model.blocks:
    block.attention.layer.o.weight.value = np.zeros((2, 2))
found = gradient_norms_by_depth(model, x, grad)
check.close(found, np.full(4, 5.0), "three silent blocks, a gradient of norm 5: the root of 4² + 3²")
loud = Transformer(1, 4, 1, 2, new_rng(0))
token = np.array([[1.0, 7.0, 9.0, 15.0]])  # the norm divides it by 5
for part in (loud.blocks[0].attention.layer.o, loud.blocks[0].feed_forward.layer.outer):
    part.weight.value = 0 * part.weight.value
found = gradient_norms_by_depth(loud, token, np.array([[1.0, -1.0, -1.0, 1.0]]))
check.close(
    found, np.array([0.4, 0.4]), "pre, a silent block: the last norm has divided the gradient by 5 already", atol=1e-6
)
### BEGIN HIDDEN TESTS
import torch
from torch.nn import functional as F

draw = np.random.default_rng(check.seed(1))
for n_layers, norm, shape, n_heads, roads in (
    (3, "pre", (3, 5, 6), 2, True),
    (4, "post", (1, 7, 4), 1, True),
    (2, "none", (2, 3, 4, 6), 3, True),
    (1, "pre", (5, 4), 4, True),
    (4, "pre", (3, 4, 6), 3, False),
    (3, "none", (2, 4, 4), 2, False),
):
    T, d_model = shape[-2:]
    case = f"{n_layers} layers, {norm}, x of shape {shape}" + ("" if roads else ", without residuals")
    model = Transformer(n_layers, d_model, n_heads, 5, new_rng(0), norm=norm)
    values = {name: torch.tensor(value) for name, value in fill(model, check.seed(2)).items()}
    if not roads:
        without_residuals(model)
    x, grad = draw.normal(size=(2, *shape))
    for mask in (np.tri(T, dtype=bool), None):
        stream = [torch.tensor(x, requires_grad=True)]

        def linear(y, name, values=values):
            return y @ values[f"{name}.weight"] + values[f"{name}.bias"]

        def normed(y, name, values=values):
            return F.layer_norm(y, (y.shape[-1],), values[f"{name}.weight"], values[f"{name}.bias"])

        for number in range(n_layers):
            y = stream[-1]
            for part in ("attention", "feed_forward"):
                name = f"blocks.{number}.{part}"
                inner = normed(y, f"{name}.norm") if norm == "pre" else y
                if part == "attention":
                    cut = (*shape[:-1], n_heads, -1)
                    q, k, v = (linear(inner, f"{name}.layer.{p}").reshape(cut).transpose(-2, -3) for p in "qkv")
                    allowed = None if mask is None else torch.tensor(mask)
                    inner = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed).transpose(-2, -3)
                    inner = linear(inner.reshape(shape), f"{name}.layer.o")
                else:
                    hidden = F.gelu(linear(inner, f"{name}.layer.inner"), approximate="tanh")
                    inner = linear(hidden, f"{name}.layer.outer")
                y = y + inner if roads else inner
                y = normed(y, f"{name}.norm") if norm == "post" else y
            stream.append(y)
        output = normed(stream[-1], "norm") if norm == "pre" else stream[-1]
        gradients = torch.autograd.grad(output, stream, torch.tensor(grad))
        want = np.array([float(g.norm()) for g in gradients])
        passes(model, (draw.normal(size=shape),), grad)
        before = {name: np.array(p.grad) for name, p in model.parameters().items()}
        found = gradient_norms_by_depth(model, x, grad, mask)
        which = f"{case}, {'no' if mask is None else 'causal'} mask"
        check.equal(list(np.shape(found)), [n_layers + 1], f"{which}: the shape")
        check.close(found / want, np.ones(n_layers + 1), f"{which}: over the norms of torch's gradients", atol=1e-8)
        for name, parameter in model.parameters().items():
            check.close(parameter.grad, before[name], f"{which}: the gradient of {name} afterwards", atol=0.0, rtol=0.0)
model = Transformer(2, 4, 2, 5, new_rng(0))
model.astype("float32")
x = np.arange(8, dtype="float32").reshape(2, 4)
found = gradient_norms_by_depth(model, x, x)
check.equal(
    str(np.asarray(found).dtype),
    "float64",
    "a float32 model: the dtype of the norms",
    hint="The norm of a float32 array is a float32. Make the array of all norms with dtype=np.float64.",
)
### END HIDDEN TESTS


# %% alternative="gradient_norms_by_depth"
def gradient_norms_by_depth(model, x, grad, mask=None):
    import copy

    model = copy.deepcopy(model)  # whatever is added to gradients is added to those of the copy
    model(x, mask)
    below = grad if model.norm is None else model.norm.backward(grad)
    sizes = np.zeros(len(model.blocks) + 1)
    for depth in range(len(model.blocks), -1, -1):
        sizes[depth] = np.sqrt(np.einsum("i,i->", below.ravel(), below.ravel()))
        print("depth", depth)
        below = model.blocks[depth - 1].backward(below) if depth else below
    return sizes


# %% mistakes="gradient_norms_by_depth"
{
    "the gradients of the parameters stay as the walk has left them, as they do when they are remembered without a copy": (
        "parameter.grad = before[name]",
        "pass",
    ),
    "the gradients of the parameters are set to zero at the end": (
        "parameter.grad = before[name]",
        "parameter.grad = np.zeros_like(parameter.value)",
    ),
    "the norms are in the order in which they are found, from the top to the bottom": ("norms[::-1]", "norms"),
    "the last norm is left out: the walk begins with the gradient for the model's output": (
        "grad = model.norm.backward(grad)",
        "pass",
    ),
    "the entry at the top is the gradient for the model's output, before it has come through the last norm": (
        "    if model.norm is not None:\n        grad = model.norm.backward(grad)\n    norms = [np.linalg.norm(grad)]",
        "    norms = [np.linalg.norm(grad)]\n    if model.norm is not None:\n        grad = model.norm.backward(grad)",
    ),
    "the entry at the top is missing": ("norms = [np.linalg.norm(grad)]", "norms = []"),
    "the entry at the bottom is missing": ("norms[::-1]", "norms[-2::-1]"),
    "the blocks are gone through from the first to the last": ("reversed(model.blocks)", "model.blocks"),
    "every block gets the gradient of the top": (
        "        grad = block.backward(grad)\n        norms.append(np.linalg.norm(grad))",
        "        norms.append(np.linalg.norm(block.backward(grad)))",
    ),
    "the mask is not handed on": ("model.forward(x, mask)", "model.forward(x)"),
    "each entry is the mean of the squares under the root, and not their sum": (
        "np.linalg.norm(grad)",
        "np.sqrt((grad**2).mean())",
        "all",
    ),
    "the squares are added up, and no root is taken": ("np.linalg.norm(grad)", "(grad**2).sum()", "all"),
    "the sizes are added up without squares": ("np.linalg.norm(grad)", "np.abs(grad).sum()", "all"),
    "each entry is the largest number of the gradient": ("np.linalg.norm(grad)", "np.abs(grad).max()", "all"),
    "each entry is the norm for the last token alone": (
        "np.linalg.norm(grad)",
        "np.linalg.norm(grad[..., -1, :])",
        "all",
    ),
    "each entry is the mean of the tokens' norms": (
        "np.linalg.norm(grad)",
        "np.linalg.norm(grad, axis=-1).mean()",
        "all",
    ),
    "the norms are divided by the one at the top": (
        "np.array(norms[::-1], dtype=np.float64)",
        "np.array(norms[::-1], dtype=np.float64) / norms[0]",
    ),
    "they are the norms of the stream, and not those of its gradient": (
        "        grad = block.backward(grad)\n        norms.append(np.linalg.norm(grad))",
        "        grad = block.backward(grad)\n    norms, y = [np.linalg.norm(x)], x\n    for block in model.blocks:\n        y = block(y, mask)\n        norms.insert(0, np.linalg.norm(y))",
    ),
}

# %% [markdown]
# ## Look at it
#
# First the instrument. Twenty-four blocks, untrained, with a causal mask, and a random gradient at the top. Five arrangements: the three that you have built, and two of them without the additions.
# The slider multiplies all matrices by a number, since nobody draws exactly the right size.

# %%
DEPTH, D_MODEL = 24, 32
x, grad = np.random.default_rng(1).normal(size=(2, 2, 12, D_MODEL))
arrangements = {
    "pre": ("pre", True),
    "post": ("post", True),
    "none": ("none", True),
    "pre, no residuals": ("pre", False),
    "none, no residuals": ("none", False),
}
factors = [0.5, 0.7, 1.0, 1.25, 1.5]
curves = {}
for factor in factors:
    for name, (norm, roads) in arrangements.items():
        model = Transformer(DEPTH, D_MODEL, 4, 4 * D_MODEL, np.random.default_rng(2), norm)
        for parameter in model.parameters().values():
            if parameter.value.ndim == 2:
                parameter.value *= factor
        norms = gradient_norms_by_depth(model if roads else without_residuals(model), x, grad, causal_mask(12))
        curves[factor, name] = norms / norms[-1]
figure = go.Figure()
for number, name in enumerate(arrangements):
    figure.add_scatter(
        x=list(range(DEPTH + 1)),
        y=curves[1.0, name],
        name=name,
        line={"width": 3, "color": plots.COLOURS[number]},
        hovertemplate="below block %{x}: %{y:.2g}",
    )
steps = [
    {
        "label": f"{factor:g}",
        "method": "restyle",
        "args": [{"y": [curves[factor, name].tolist() for name in arrangements]}],
    }
    for factor in factors
]
figure.update_xaxes(title_text="blocks below (0 is the input)")
figure.update_yaxes(title_text="gradient norm, top = 1", type="log", exponentformat="power", dtick=10, range=[-41, 25])
figure.update_layout(
    height=460,
    legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    sliders=[{"steps": steps, "active": 2, "currentvalue": {"prefix": "matrices times "}, "pad": {"t": 50}}],
)
figure.show()
print("what arrives at the input, when the norm is 1 at the top")
print(f"{'matrices times':20}" + "".join(f"{factor:10g}" for factor in factors))
for name in arrangements:
    print(f"{name:20}" + "".join(f"{curves[factor, name][0]:10.1e}" for factor in factors))

# %% [markdown]
# Read the table row by row. Which rows stay within a factor of a hundred wherever the slider stands? All of them have norms, and one has no additions: what do you make of the
# row "pre, no residuals"? (A layer norm mends the *size* of what goes through it. Lab 0.3 has shown what it cannot mend.) And why does the row "none" never sink, and only climb?
#
# Now something that is learned. Each text is a table of teachers in five lines, one for each person: the person, and who taught this person. The model gets no positions, so the
# order of the lines means nothing to it. The last token asks about one person. (No mask: the last token may see everything, and so may the others.) The
# answer is the teacher *of the teacher*. The teachers are drawn anew in every text, so there is nothing to know by heart: the model has to look up twice. It has two
# blocks of your own, and Adam, which you write in Lab 0.8.

# %%
Linear = carry("ch00/lab02", "Linear")
PEOPLE, STEPS, BATCH = 5, 400, 64


def texts(rng, count):
    """Texts (count, 6, 15): person and teacher of each line as ones in two blocks, and the question in a third."""
    teacher = np.argsort(rng.random((count, PEOPLE)), axis=1)  # everybody teaches one person
    asked, each = rng.integers(PEOPLE, size=count), np.arange(count)
    tokens = np.zeros((count, PEOPLE + 1, 3 * PEOPLE), dtype="float32")
    tokens[:, np.arange(PEOPLE), np.arange(PEOPLE)] = 1
    tokens[each[:, None], np.arange(PEOPLE), PEOPLE + teacher] = 1
    tokens[each, PEOPLE, 2 * PEOPLE + asked] = 1
    first = teacher[each, asked]
    return tokens, asked, first, teacher[each, first]


class Reader(Layer):
    """A linear layer in, a transformer, and a linear layer out, at the last token."""

    def __init__(self, n_layers, d_model, n_heads, rng):
        self.into = Linear(3 * PEOPLE, d_model, rng)
        self.transformer = Transformer(n_layers, d_model, n_heads, 4 * d_model, rng)
        self.out = Linear(d_model, PEOPLE, rng)
        self.into.weight.value *= 2

    def forward(self, tokens):
        self.stream = self.transformer(self.into(tokens))
        return self.out(self.stream[:, -1])

    def backward(self, grad):
        into = np.zeros_like(self.stream)
        into[:, -1] = self.out.backward(grad)
        self.into.backward(self.transformer.backward(into))


def train(model, rng):
    """Adam on fresh texts; returns the share of right answers at every step."""
    model.astype("float32")
    parameters = model.parameters()
    moments = {name: [np.zeros_like(p.value), np.zeros_like(p.value)] for name, p in parameters.items()}
    right = []
    for step in range(STEPS):
        tokens, _, _, answer = texts(rng, BATCH)
        scores = model(tokens)
        p = np.exp(scores - scores.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        right.append((p.argmax(axis=-1) == answer).mean())
        p[np.arange(BATCH), answer] -= 1  # Lab 0.6 says why
        for q in parameters.values():
            q.grad[...] = 0
        model.backward(p / BATCH)
        rate = 4e-3 * min(1, (step + 1) / 50) * (1 - step / STEPS)
        for name, q in parameters.items():
            first, second = moments[name]
            first += 0.1 * (q.grad - first)
            second += 0.02 * (q.grad**2 - second)
            q.value -= rate * first / (1 - 0.9 ** (step + 1)) / (np.sqrt(second / (1 - 0.98 ** (step + 1))) + 1e-8)
    return np.array(right)


rng = np.random.default_rng(0)
reader = Reader(2, 24, 2, rng)
right = train(reader, rng)
print(f"guessing is right {1 / PEOPLE:.0%} of the time; the last 50 batches: {right[-50:].mean():.0%}")

# What can be read off the last token's stream, by one linear map, at each depth? Fitted on 2,000 texts, tried on others.
fitted, tried = texts(rng, 2000), texts(rng, 2000)


def streams(tokens):
    x = reader.into(tokens)
    found = [x[:, -1]]
    for block in reader.transformer.blocks:
        x = block(x)
        found.append(x[:, -1])
    return [np.hstack([s, np.ones((len(s), 1))]).astype("float64") for s in found]


figure = go.Figure()
fits, tries = streams(fitted[0]), streams(tried[0])
print("read off the stream        who was asked about   the teacher   the teacher's teacher")
shares = np.zeros((3, 3))
for depth in range(3):
    for k in range(3):
        goal = np.eye(PEOPLE)[fitted[1 + k]]
        weight = np.linalg.solve(fits[depth].T @ fits[depth] + np.eye(25), fits[depth].T @ goal)
        shares[depth, k] = ((tries[depth] @ weight).argmax(axis=1) == tried[1 + k]).mean()
    print(
        f"behind {depth} block{'s' if depth != 1 else ' '}{shares[depth, 0]:>29.0%}{shares[depth, 1]:>16.0%}{shares[depth, 2]:>18.0%}"
    )
for k, name in enumerate(("who was asked about", "the teacher", "the teacher's teacher")):
    figure.add_scatter(x=[0, 1, 2], y=shares[:, k], mode="lines+markers", name=name, hovertemplate="%{y:.0%}")
figure.update_xaxes(title_text="blocks", dtick=1)
figure.update_yaxes(title_text="read off correctly", tickformat=".0%", range=[0, 1.05])
figure.update_layout(height=360, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})
figure.show()

# %% [markdown]
# The three curves are three steps of a thought. Who was asked about can be read off at the bottom. The teacher comes in with the first block, at least in most texts. The teacher's teacher
# comes with the second, and little of it is there before: a block can only look up what the blocks below have found. Early blocks do what needs nothing else, late blocks what needs the early ones.
#
# Two things to explain. With no block at all, 39% of the answers can be read off, and guessing would give 20%. (Some people have taught themselves, and some two have taught each other. Who is then the teacher's teacher?) And is the first
# answer gone when the second is there? Look at the last row: what is a block free to do with a number that nobody will ask for?
#
# Train it again with one block (`Reader(1, 24, 2, rng)`, and fewer depths in the loop). How far does it get? The page makes the model wider until both have equally many parameters.
#
# ## Common mistakes
#
# - **`[block] * n`.** One object under n names. The model computes, and the backward pass answers for the wrong forward. Count the parameters: it is the fastest test that there is.
# - **The mask for the first block only.** Masks do not survive a block. One block without a mask lets every token look into the future, and the training loss falls beautifully.
# - **An addition too many.** `x = x + block(x)` around a block that has residuals inside doubles the stream in every block. The gradient doubles with it, and norms hide it for a while.
# - **The last norm.** Left out of a pre-norm model, the head sees a stream whose size grows with depth. Used behind every block, it closes the free road. Forgotten in `backward`, every gradient of the model has the wrong size and,
#   which is worse, a wrong direction.
# - **The gradient of the top for every block.** `into = block.backward(grad)` in the loop, with the wrong name on the left, trains the last block correctly. All others learn something that nobody asked for.
# - **`blocks.reverse()`.** It turns the list itself round, and the next forward runs upside down. `reversed(...)` only reads it from the end.
# - **Two forwards, one backward.** A look at the validation loss between `forward` and `backward` replaces what every layer remembers.
# - **Parameters in a tuple, or made in `forward`.** What `parameters()` does not find is not trained, not saved and not cast. The loss falls all the same.
#
# [Lab 0.5](lab05_output_projection.ipynb) puts heads on the stack. The block in torch is in [Lab 2.4](../ch02_block/lab04_transformer_block.ipynb), with the accounts of its
# parameters and operations.
#
# ## Going further
#
# - **Forget and compute again.** A stack keeps everything that every layer needs for its way back. Instead keep only the stream between the blocks, and run a block's `forward` once more just before its `backward`. What does it cost in time, and what does it save?
#   (Tianqi Chen, Bing Xu, Chiyuan Zhang, Carlos Guestrin, Training Deep Nets with Sublinear Memory Cost, 2016.)
# - **One block, used N times.** Now on purpose: N blocks that share their *Parameters*, but not their memory. What happens to `parameters()`, and what to the gradients? (Mostafa Dehghani and others, Universal Transformers, 2018; Zhenzhong
#   Lan and others, ALBERT, 2019.)
# - **First values for deep stacks.** GPT-2 draws the two matrices that write into the stream smaller, by the root of the number of residual layers. Try it with your instrument: what changes for "none", and what for "pre"?
