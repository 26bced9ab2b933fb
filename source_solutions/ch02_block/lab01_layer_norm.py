# ---
# title: Layer normalisation
# lab: ch02/lab01
# minutes: 90
# difficulty: 3
# hardware: cpu
# needs: []
# builds: [token_statistics, LayerNorm, batch_norm, influence, layer_norm_backward]
# ---

# %% [markdown]
# # Lab 2.1 · Layer normalisation
#
# ## The idea
#
# A transformer adds things up. Each block reads a token's vector, computes something, and adds it. After a few dozen
# additions some tokens are loud and some are quiet, and how loud depends on depth, on the weights and on the token.
# But the matrices of the next block were learned for inputs of one loudness.
#
# The remedy is a volume control for every token. Take the features of one token and nothing else. Subtract their
# mean, divide by their standard deviation:
#
# $$ \hat x_i = \frac{x_i - \mu}{\sqrt{\sigma^2 + \varepsilon}}, \qquad
# \mu = \frac1d \sum_i x_i, \qquad \sigma^2 = \frac1d \sum_i (x_i - \mu)^2, \qquad
# y_i = \gamma_i\,\hat x_i + \beta_i $$
#
# Take the token $[2, 4, 5, 6, 8]$. Its mean is 5. The differences are $-3, -1, 0, 1, 3$, their squares add up to 20,
# and 20 / 5 is a variance of 4. Divide by 2: the result is $[-1.5, -0.5, 0, 0.5, 1.5]$. Now the same token, ten times
# as loud: $[20, 40, 50, 60, 80]$. The mean is 50, the variance is 400, and the result is the same. The loudness is
# gone, the pattern is left. A learned scale $\gamma$ and a learned shift $\beta$ for each feature give the model back
# what it may need.
#
# It is one line of code, and it has four places for a mistake that never crashes. The sum is divided by $d$, and not by
# $d - 1$ as a statistician would. The $\varepsilon$ stands inside the root. The scale and the shift come last. And the
# statistics belong to one token. Take them over the batch, and sentences that have nothing to do with each other
# change each other's results. You write that version too, and measure the leak.
#
# Why a deep network needs normalising at all, and where in the block it belongs, is on the page [Residuals and
# normalisation](../../book/ch02_block/residuals_and_normalization.md).
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `x` | `(..., d)`, mostly `(B, T, d)` | tokens; the last axis holds the features |
# | `mean`, `var` | `(..., 1)` | two numbers for each token; the last axis stays, so that they line up with `x` |
# | `weight`, `bias` | `(d,)` | $\gamma$ and $\beta$: a scale and a shift for each feature |
# | `grad` | as `x` | the gradient of the loss for the layer's output |
# | `real` | `(B, T)`, boolean | True for a token, False for padding |
# | influence | `(B, T)` | how strongly one output token depends on each input token |

# %% given
import torch
from torch import nn

# %% [markdown]
# ## A picture
#
# Two sequences of four tokens with six features each, normalised in two ways: per token (layer norm), and per feature
# over all eight tokens (batch norm). Move the slider: it multiplies one token, the third of the first sequence.
# Watch all the *other* rows.

# %%
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch.nn import functional as F

from coursekit import plots

drawn = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(3))
factors = [1, 3, 10, 30, 100]
rows = [f"s{s} t{t}" for s in range(2) for t in range(4)]


def both_norms(factor):
    x = drawn.clone()
    x[0, 2] *= factor
    flat = x.flatten(0, 1)  # (8, 6)
    return F.layer_norm(flat, (6,)), F.batch_norm(flat, None, None, training=True)


SIGNED = [[0, plots.COLOURS[0]], [0.5, "rgba(138, 143, 152, 0.05)"], [1, plots.COLOURS[1]]]
figure = make_subplots(
    rows=1, cols=2, subplot_titles=["per token", "over the batch"], shared_yaxes=True, horizontal_spacing=0.05
)
for column, values in enumerate(both_norms(1), start=1):
    figure.add_trace(
        go.Heatmap(
            z=values.tolist(),
            y=rows,
            zmin=-2.5,
            zmax=2.5,
            colorscale=SIGNED,
            xgap=2,
            ygap=2,
            showscale=column == 2,
            colorbar={"title": "result", "thickness": 12},
            hovertemplate="%{y}, feature %{x}: %{z:.2f}<extra></extra>",
        ),
        row=1,
        col=column,
    )
    figure.update_xaxes(title_text="feature", dtick=1, showgrid=False, zeroline=False, row=1, col=column)
figure.update_yaxes(autorange="reversed", showgrid=False, zeroline=False)
figure.update_yaxes(title_text="sequence and token", col=1)
steps = [
    {"method": "restyle", "label": str(factor), "args": [{"z": [values.tolist() for values in both_norms(factor)]}]}
    for factor in factors
]
figure.update_layout(
    height=430,
    sliders=[{"steps": steps, "currentvalue": {"prefix": "token s0 t2 times "}, "pad": {"t": 55}}],
)
figure.show()

others = [row for row in range(8) if row != 2]
for name, calm, loud in zip(("per token", "over the batch"), both_norms(1), both_norms(100), strict=True):
    print(
        f"{name}: spread of the other seven tokens {calm[others].std():.2f}, after the slider {loud[others].std():.2f}"
    )

# %% [markdown]
# On the left the loud token keeps its pattern, and nobody else notices. On the right it takes over the statistics of
# every feature, and the other seven tokens, those of the other sequence among them, are squeezed until hardly anything
# tells them apart.
#
# ## Exercise 1 · `token_statistics`
#
# Write `token_statistics`: the mean and the variance of each token. Everything else in this lab rests on these two numbers.
#
# *Difficulty 1 of 5 · 10 minutes · 2 points*


# %% exercise="token_statistics" difficulty=1 minutes=10 forbid=["layer_norm", "native_layer_norm", "group_norm"]
def token_statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance of every token, taken over its features.

    Args:
        x: tensor of shape (..., d), float32 or float64, contiguous or not. There may be any number of leading axes,
            and none at all: a single token (d,).

    Returns:
        mean and var, both of shape (..., 1) and x's dtype. The variance is the mean of the squared differences from
        the mean: the sum is divided by d, and not by d - 1. Gradients flow through both.

        The variance has to be right for a token far from zero: features around 10,000 with a spread of 1, in float32,
        give a variance within 1% of the true one.

    Source: Ba, Kiros and Hinton, Layer Normalization, 2016, section 3.
    """
    ### BEGIN SOLUTION
    mean = x.mean(dim=-1, keepdim=True)  # (..., 1)
    centred = x - mean  # (..., d)
    var = centred.square().mean(dim=-1, keepdim=True)  # (..., 1)
    return mean, var
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Follow the worked example line by line. Which axis holds the features of one token, however many axes there
# are in front of it?</details>
# <details><summary>A bigger nudge</summary>The mean must be subtracted from <code>x</code> by broadcasting, so the axis over which you average has to
# stay, with length 1. And subtract before you square: the mean of the squares minus the square of the mean is the same on
# paper, but 100,000,001 − 100,000,000 is not a difference that float32 can see.</details>

# %% test="token_statistics" points=2
from coursekit import check

import torch

tokens = torch.tensor([[[2.0, 4, 5, 6, 8], [20, 40, 50, 60, 80]]])
check.close(
    token_statistics(tokens),
    [torch.tensor([[[5.0], [50.0]]]), torch.tensor([[[4.0], [400.0]]])],
    "mean and variance of [2, 4, 5, 6, 8] and of [20, 40, 50, 60, 80]",
)
check.close(
    token_statistics(tokens[0, 0]),
    [torch.tensor([5.0]), torch.tensor([4.0])],
    "a single token (5,) has statistics of shape (1,)",
)
### BEGIN HIDDEN TESTS
for shape in ((3, 63, 60), (1, 5, 5), (5, 5, 5), (2, 3, 4, 6), (7,), (3, 4, 1)):
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(len(shape))))
    var, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
    check.close(token_statistics(x), [mean, var], f"float64, x of shape {shape}", atol=1e-12)
x = torch.randn(60, 7, 3, generator=torch.Generator().manual_seed(check.seed(5))).permute(2, 1, 0)
var, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
check.close(token_statistics(x), [mean, var], "float32, a non-contiguous x of shape (3, 7, 60)")
check.close(
    token_statistics(1e4 * x), [1e4 * mean, 1e8 * var], "the same tokens, 10,000 times as loud", rtol=1e-4, atol=0.05
)
far = 1e4 + x
check.close(
    token_statistics(far)[1],
    far.double().var(dim=-1, correction=0, keepdim=True).float(),
    "variance of tokens around 10,000 with a spread of 1, in float32",
    rtol=1e-2,
    hint="Subtract the mean before you square. The difference of two huge numbers has lost its digits.",
)
check.gradients(
    token_statistics,
    lambda x: torch.var_mean(x, dim=-1, correction=0, keepdim=True)[::-1],
    [torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(0)))],
    "gradients through mean and variance",
    atol=1e-10,
)
### END HIDDEN TESTS


# %% alternative="token_statistics"
def token_statistics(x):
    print(f"statistics of {tuple(x.shape)}")
    d = x.shape[-1]
    total = torch.einsum("...d->...", x.double())
    mean = (total / d)[..., None]
    var = sum((x[..., i : i + 1] - mean) ** 2 for i in range(d)) / d
    return mean.to(x.dtype), var.to(x.dtype)


# %% alternative="token_statistics"
def token_statistics(x):
    return x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)


# %% mistakes="token_statistics"
{
    "the variance is unbiased: divided by d - 1 and not by d": (
        "centred.square().mean(dim=-1, keepdim=True)",
        "centred.square().sum(dim=-1, keepdim=True) / (x.shape[-1] - 1)",
    ),
    "the mean is taken over the tokens of the sequence and not over the features": [
        ("x.mean(dim=-1, keepdim=True)", "x.mean(dim=max(x.ndim - 2, 0), keepdim=True)"),
        ("square().mean(dim=-1, keepdim=True)", "square().mean(dim=max(x.ndim - 2, 0), keepdim=True)"),
    ],
    "the mean is taken over the first axis, the batch": [
        ("x.mean(dim=-1, keepdim=True)", "x.mean(dim=0, keepdim=True)"),
        ("square().mean(dim=-1, keepdim=True)", "square().mean(dim=0, keepdim=True)"),
    ],
    "all axes go into one mean and one variance, the same for every token": [
        ("x.mean(dim=-1, keepdim=True)", "x.mean().expand(*x.shape[:-1], 1)"),
        ("square().mean(dim=-1, keepdim=True)", "square().mean().expand(*x.shape[:-1], 1)"),
    ],
    "the mean is per token, but the variance is shared by all tokens": (
        "square().mean(dim=-1, keepdim=True)",
        "square().mean().expand(*x.shape[:-1], 1)",
    ),
    "the variance is computed as the mean of the squares minus the square of the mean, which loses its digits far from zero": (
        "var = centred.square().mean(dim=-1, keepdim=True)",
        "var = x.square().mean(dim=-1, keepdim=True) - mean.square()",
    ),
    "the squares are averaged without subtracting the mean first": ("centred = x - mean", "centred = x"),
    "the standard deviation is returned and not the variance": ("return mean, var", "return mean, var.sqrt()"),
    "the mean absolute deviation is taken and not the mean square": (
        "centred.square().mean(",
        "centred.abs().mean(",
    ),
    "the squared differences are added up and not averaged": ("centred.square().mean(", "centred.square().sum("),
    "the features are added up and not averaged, in the mean as in the variance": (".mean(", ".sum(", "all"),
    "the variance comes first and the mean second": ("return mean, var", "return var, mean"),
    "the last axis is gone: the statistics have the shape (...,) and not (..., 1)": (
        "return mean, var",
        "return mean.squeeze(-1), var.squeeze(-1)",
    ),
    "the statistics are repeated for every feature and have the shape of x": (
        "return mean, var",
        "return mean.expand_as(x), var.expand_as(x)",
    ),
    "the statistics are detached, so no gradient flows through them": (
        "return mean, var",
        "return mean.detach(), var.detach()",
    ),
    "the variance alone is detached, so it gets no gradient": ("return mean, var", "return mean, var.detach()"),
    "the median is taken for the mean": (
        "mean = x.mean(dim=-1, keepdim=True)",
        "mean = x.quantile(0.5, dim=-1, keepdim=True)",
    ),
}

# %% [markdown]
# ## Exercise 2 · `LayerNorm`
#
# Now the layer: normalise with your statistics, then scale and shift each feature. With `affine=False` it has no
# parameters and stops after normalising. `parameter_gradients` is given; the tests use it, so leave it as it is.
#
# *Difficulty 2 of 5 · 15 minutes · 5 points*


# %% exercise="LayerNorm" difficulty=2 minutes=15 forbid=["layer_norm", "LayerNorm", "native_layer_norm", "group_norm", "GroupNorm"]
class LayerNorm(nn.Module):
    """Normalise the last axis of every token by its own mean and variance, then scale and shift each feature.

    The result is ``(x - mean) / sqrt(var + eps) * weight + bias``, with mean and biased variance as `token_statistics`
    gives them.

    Args:
        d_model: features of a token, at least 1.
        eps: added to the variance, inside the root.
        affine: whether there are a weight and a bias.

    State:
        Two float32 parameters ``weight`` and ``bias``, each of shape (d_model,), at first ones and zeros, and nothing
        else. With ``affine=False`` there is no state at all.

    Source: Ba, Kiros and Hinton, Layer Normalization, 2016, section 3.
    """

    def __init__(self, d_model: int, eps: float = 1e-5, affine: bool = True):
        super().__init__()
        ### BEGIN SOLUTION
        self.d_model, self.eps = d_model, eps
        self.weight = nn.Parameter(torch.ones(d_model)) if affine else None
        self.bias = nn.Parameter(torch.zeros(d_model)) if affine else None
        ### END SOLUTION

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise x.

        Args:
            x: (..., d_model), of the parameters' dtype; float32 or float64 where there are no parameters. Any number
                of leading axes, contiguous or not.

        Returns:
            A new tensor of x's shape and dtype; x itself is left as it is. A token whose features are all equal gives
            the bias, if eps is positive.

        Raises:
            ValueError: if the last axis of x does not have d_model features. (Broadcasting would hide some such cases.)
        """
        ### BEGIN SOLUTION
        if x.shape[-1] != self.d_model:
            raise ValueError(f"the last axis of x has {x.shape[-1]} features, it should have {self.d_model}")
        mean, var = token_statistics(x)  # (..., 1), (..., 1)
        normal = (x - mean) / torch.sqrt(var + self.eps)  # (..., d)
        if self.weight is None:
            return normal
        return normal * self.weight + self.bias  # (..., d) * (d,) + (d,)
        ### END SOLUTION

    def parameter_gradients(self, x: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(output * direction).sum()`` for every parameter, by name."""
        loss = (self(x) * direction).sum()
        self.zero_grad()
        if loss.requires_grad:
            loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}


# %% [markdown]
# <details><summary>A nudge</summary>The formula in the docstring is almost the code. A parameter has to be wrapped so that the module knows of it;
# an attribute may also be <code>None</code>.</details>
# <details><summary>A bigger nudge</summary>Shapes <code>(..., 1)</code> line up with <code>(..., d)</code> by themselves, and so do shapes <code>(d,)</code>.
# For the error: which single number of <code>x.shape</code> has to be compared? With <code>d_model=5</code> and a last axis of 1, nothing
# would crash without that comparison.</details>

# %% test="LayerNorm" points=3
from coursekit import check

import torch
from torch.nn import functional as F

token, pattern = torch.tensor([2.0, 4, 5, 6, 8]), torch.tensor([-1.5, -0.5, 0.0, 0.5, 1.5])
loudness = torch.tensor([[[1.0], [10.0]], [[-1.0], [2.0]]])  # two sequences of two tokens
check.close(
    LayerNorm(5, eps=0.0)(loudness * token),
    loudness.sign() * pattern,
    "[2, 4, 5, 6, 8] times 1, 10, -1 and 2: with eps = 0 only the sign is left of the factor",
)
check.close(
    LayerNorm(4)(torch.full((2, 4), 0.5)), torch.zeros(2, 4), "a token whose features are all equal gives zeros"
)
check.close(
    LayerNorm(5, eps=5.0)(token),
    torch.tensor([-3.0, -1, 0, 1, 3]) / 3,
    "[2, 4, 5, 6, 8] with eps = 5: the variance is 4, and the root of 4 + 5 is 3",
)
layer = LayerNorm(5, eps=0.0)
check.equal(
    sorted(layer.state_dict()),
    ["bias", "weight"],
    "the names of the parameters",
    hint="Name the two vectors weight and bias, and wrap each in nn.Parameter.",
)
layer.load_state_dict({"weight": torch.tensor([1.0, 2, 3, 4, 5]), "bias": torch.tensor([5.0, 4, 3, 2, 1])})
check.close(
    layer(token),
    torch.tensor([3.5, 3.0, 3.0, 4.0, 8.5]),
    "[2, 4, 5, 6, 8] with the weight [1, 2, 3, 4, 5] and the bias [5, 4, 3, 2, 1]",
)
### BEGIN HIDDEN TESTS


def values(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(seed)))


for number, (shape, eps) in enumerate(
    [((3, 63, 60), 1e-5), ((1, 5, 5), 1e-5), ((5, 5, 5), 1e-3), ((2, 3, 4, 6), 0.5), ((7,), 1e-5), ((3, 1, 2), 1e-5)]
):
    d = shape[-1]
    weight, bias, direction = values(d, seed=10), values(d, seed=11), values(*shape, seed=12)
    layer = LayerNorm(d, eps)
    layer.double()
    layer.load_state_dict({"weight": weight, "bias": bias})
    x = values(*reversed(shape), seed=number).permute(*reversed(range(len(shape))))  # not contiguous
    case = f"float64, x of shape {shape}, eps={eps:g}"
    check.close(layer(x.clone()), F.layer_norm(x, (d,), weight, bias, eps), f"{case}: the values", atol=1e-10)
    check.close(
        layer(1e-3 * x + 7),
        F.layer_norm(1e-3 * x + 7, (d,), weight, bias, eps),
        f"{case}: tokens with a spread of a thousandth, where eps matters",
        atol=1e-8,
    )
    check.gradients(
        lambda x, layer=layer: layer(x),
        lambda x, d=d, weight=weight, bias=bias, eps=eps: F.layer_norm(x, (d,), weight, bias, eps),
        [x],
        f"{case}: gradients for x",
        atol=1e-9,
    )
    leaves = [weight.requires_grad_(), bias.requires_grad_()]
    wanted = torch.autograd.grad((F.layer_norm(x, (d,), *leaves, eps) * direction).sum(), leaves)
    found = [layer.parameter_gradients(x, direction) for _ in range(2)][-1]  # asked twice: nothing piles up
    for name, gradient in zip(("weight", "bias"), wanted, strict=True):
        check.that(
            found.get(name) is not None,
            f"a gradient reaches {name}",
            hint="Look for .data, .detach() or torch.no_grad().",
        )
        check.close(found[name], gradient, f"{case}: the gradient of {name}", atol=1e-9)
plain = LayerNorm(6, affine=False)
x = values(3, 4, 6, seed=20)
check.close(plain(x), F.layer_norm(x, (6,)), "float64, affine=False, eps left out", atol=1e-10)
check.close(plain(0.01 * x), F.layer_norm(0.01 * x, (6,)), "the same, a hundred times quieter", atol=1e-10)
x = values(3, 63, 60, seed=21).float()
for factor in (1e4, 1.0, 1e-4):
    check.close(LayerNorm(60)(factor * x), F.layer_norm(factor * x, (60,)), f"float32, tokens times {factor:g}")
far = 1e4 + x
check.close(
    LayerNorm(60)(far),
    F.layer_norm(far.double(), (60,)).float(),
    "float32, tokens around 10,000 with a spread of 1",
    atol=2e-2,
)
layer = LayerNorm(4)
layer.load_state_dict({"weight": torch.tensor([2.0, 3, 4, 5]), "bias": torch.tensor([1.0, -1, 0.5, 9])})
check.close(
    layer(torch.full((2, 3, 4), 0.5)),
    torch.tensor([1.0, -1, 0.5, 9]).expand(2, 3, 4),
    "a token whose features are all equal gives the bias",
)
check.close(LayerNorm(1)(torch.tensor([[3.0], [-2.0]])), torch.zeros(2, 1), "a token with one feature gives the bias")
### END HIDDEN TESTS

# %% test="LayerNorm" points=2
from coursekit import check

import torch

state = LayerNorm(6).state_dict()
check.equal(sorted(state), ["bias", "weight"], "the names of the parameters", hint="Wrap each vector in nn.Parameter.")
check.close(state["weight"], torch.ones(6), "the first weight is ones")
check.close(state["bias"], torch.zeros(6), "the first bias is zeros")
check.equal(sorted(LayerNorm(6, affine=False).state_dict()), [], "with affine=False there are no parameters")
check.raises(
    ValueError, lambda: LayerNorm(6)(torch.zeros(2, 3, 1)), "a last axis of 1 where there should be 6 features"
)
### BEGIN HIDDEN TESTS
for d_model in (1, 63):
    state = LayerNorm(d_model, 1e-6, True).state_dict()
    check.equal(state["weight"], torch.ones(d_model), f"the first weight for d_model={d_model}")
    check.equal(state["bias"], torch.zeros(d_model), f"the first bias for d_model={d_model}")
names = sorted(name for name, _ in LayerNorm(6).named_parameters())
check.equal(names, ["bias", "weight"], "weight and bias are parameters that an optimiser finds")
check.equal(len(list(LayerNorm(6, 1e-5, False).named_parameters())), 0, "affine=False: nothing for an optimiser")
for shape in ((2, 3, 5), (6, 5), (6, 6, 12), (1,)):
    for affine in (True, False):
        check.raises(
            ValueError,
            lambda shape=shape, affine=affine: LayerNorm(6, affine=affine)(torch.zeros(*shape)),
            f"x of shape {shape} for d_model=6, affine={affine}",
        )
### END HIDDEN TESTS


# %% alternative="LayerNorm"
class LayerNorm(nn.Module):
    # Nothing of exercise 1: its own statistics, in float64, by matrix products and einsum.
    def __init__(self, d_model, eps=1e-5, affine=True):
        super().__init__()
        self.eps, self.features = eps, d_model
        self.register_parameter("bias", nn.Parameter(torch.zeros(d_model)) if affine else None)
        self.register_parameter("weight", nn.Parameter(torch.ones(d_model)) if affine else None)

    def forward(self, x):
        import warnings

        warnings.warn("a learner's own warning", stacklevel=1)
        if x.size(-1) != self.features:
            raise ValueError("wrong number of features")
        wide = x.double()
        average = torch.full((self.features, self.features), 1 / self.features, dtype=torch.float64)
        centred = wide - wide @ average
        spread = torch.einsum("...i,...i->...", centred, centred).div(self.features).add(self.eps).sqrt()
        y = (centred / spread.unsqueeze(-1)).to(x.dtype)
        return y if self.weight is None else torch.addcmul(self.bias, y, self.weight)

    def parameter_gradients(self, x, direction):
        loss = (self(x) * direction).sum()
        self.zero_grad()
        loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}


# %% mistakes="LayerNorm"
{
    "eps is added outside the root": ("torch.sqrt(var + self.eps)", "(torch.sqrt(var) + self.eps)"),
    "eps is left out": ("torch.sqrt(var + self.eps)", "torch.sqrt(var)"),
    "eps is fixed at 1e-5, whatever the argument says": ("self.eps = d_model, eps", "self.eps = d_model, 1e-5"),
    "eps is 1e-6 where it is left out": ("eps: float = 1e-5", "eps: float = 1e-6"),
    "eps is squared before it is added": ("var + self.eps", "var + self.eps**2"),
    "the unbiased variance is used: the sum is divided by d - 1": (
        "torch.sqrt(var + self.eps)",
        "torch.sqrt(var * (x.shape[-1] / max(x.shape[-1] - 1, 1)) + self.eps)",
    ),
    "the tokens of a sequence share their statistics: they are taken over time and not over the features": (
        "mean, var = token_statistics(x)",
        "mean, var = (part.movedim(-1, -2) if x.ndim > 1 else part for part in token_statistics(x.movedim(-1, -2) if x.ndim > 1 else x))",
    ),
    "the statistics are taken over the batch, so sequences change each other": (
        "mean, var = token_statistics(x)",
        "mean, var = (part.movedim(-1, 0) for part in token_statistics(x.movedim(0, -1)))",
    ),
    "time and features are normalised together, so tokens of one sequence change each other": (
        "mean, var = token_statistics(x)",
        "mean, var = (part.unsqueeze(-1) for part in token_statistics(x.flatten(-2))) if x.ndim > 1 else token_statistics(x)",
    ),
    "there is one mean and one variance for the whole input": (
        "mean, var = token_statistics(x)",
        "mean, var = token_statistics(x.flatten())",
    ),
    "the statistics have lost their last axis, and broadcasting lines them up with the features where the shape is square": (
        "mean, var = token_statistics(x)",
        "mean, var = (part.squeeze(-1) for part in token_statistics(x))",
    ),
    "the weight is multiplied before normalising, so its scale is normalised away": [
        (
            "mean, var = token_statistics(x)",
            "x = x if self.weight is None else x * self.weight; mean, var = token_statistics(x)",
        ),
        ("return normal * self.weight + self.bias", "return normal + self.bias"),
    ],
    "weight and bias are both applied before normalising": [
        (
            "mean, var = token_statistics(x)",
            "x = x if self.weight is None else x * self.weight + self.bias; mean, var = token_statistics(x)",
        ),
        ("return normal * self.weight + self.bias", "return normal"),
    ],
    "the bias is added before the weight is multiplied": (
        "return normal * self.weight + self.bias",
        "return (normal + self.bias) * self.weight",
    ),
    "the weight is added to one, as if it began at zero": (
        "return normal * self.weight",
        "return normal * (1 + self.weight)",
    ),
    "the bias is never added": ("return normal * self.weight + self.bias", "return normal * self.weight"),
    "weight and bias are never used": ("return normal * self.weight + self.bias", "return normal"),
    "the mean is not subtracted": ("normal = (x - mean) /", "normal = x /"),
    "x is divided by the variance and not by its root": ("torch.sqrt(var + self.eps)", "(var + self.eps)"),
    "the statistics are detached: the values are right and the gradients are wrong": (
        "token_statistics(x)",
        "token_statistics(x.detach())",
    ),
    "x is overwritten: the norm is computed in place, and the block around it adds a normalised x where the old one belongs": (
        "(x - mean) / torch.sqrt(var + self.eps)",
        "x.sub_(mean).div_(torch.sqrt(var + self.eps))",
    ),
    "the input is added to the result, which is the work of the block around the norm": (
        "return normal * self.weight + self.bias",
        "return x + normal * self.weight + self.bias",
    ),
    "weight and bias are used through .data, so they get no gradient and never learn": (
        "return normal * self.weight + self.bias",
        "return normal * self.weight.data + self.bias.data",
    ),
    "weight and bias are plain tensors, so neither the optimiser nor state_dict knows of them": (
        "nn.Parameter(",
        "(",
        "all",
    ),
    "the first weight is zeros, so every token comes out as the bias": ("torch.ones(d_model)", "torch.zeros(d_model)"),
    "the first bias is ones": ("torch.zeros(d_model)", "torch.ones(d_model)"),
    "there is one weight and one bias for all features": [
        ("torch.ones(d_model)", "torch.ones(1)"),
        ("torch.zeros(d_model)", "torch.zeros(1)"),
    ],
    "affine=False is ignored": (" if affine else None", "", "all"),
    "affine=False still leaves a bias": ("torch.zeros(d_model)) if affine else None", "torch.zeros(d_model))"),
    "a last axis that is not d_model is accepted where it can be broadcast": (
        "if x.shape[-1] != self.d_model:",
        "if x.shape[-1] not in (1, self.d_model):",
    ),
    "nothing is checked, so an x of any width is accepted where there are no parameters": (
        "if x.shape[-1] != self.d_model:",
        "if self.weight is not None and x.shape[-1] != self.d_model:",
    ),
}

# %% [markdown]
# ## Exercise 3 · `batch_norm`
#
# The older relative takes its statistics per feature, over all tokens of the batch. Language adds a difficulty that
# pictures do not have: sequences have different lengths, and the short ones are filled up with padding. Padding must
# not count.
#
# *Difficulty 2 of 5 · 15 minutes · 3 points*


# %% exercise="batch_norm" difficulty=2 minutes=15 forbid=["batch_norm", "native_batch_norm", "BatchNorm1d", "BatchNorm2d", "instance_norm"]
def batch_norm(x: torch.Tensor, eps: float = 1e-5, real: torch.Tensor | None = None) -> torch.Tensor:
    """Normalise every feature by its mean and biased variance over all real tokens of the batch; no parameters.

    Args:
        x: (B, T, d), float32 or float64, contiguous or not.
        eps: added to the variance, inside the root.
        real: boolean (B, T), True for a token and False for padding; all are real where it is left out.

    Returns:
        Tensor of x's shape and dtype: ``(x - mean) / sqrt(var + eps)`` with a mean (d,) and a variance (d,), the same
        for all sequences and positions. Both are taken over the real tokens only, whatever finite numbers stand in the
        padding. At padding the result is zero; where nothing is real, it is zero everywhere.

    Source: Ioffe and Szegedy, Batch Normalization, 2015, algorithm 1 (without the learned scale and shift).
    """
    ### BEGIN SOLUTION
    if real is None:
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    tokens = x[real]  # (N, d): the real tokens of all sequences, one below the other
    mean = tokens.mean(dim=0)  # (d,)
    var = (tokens - mean).square().mean(dim=0)  # (d,)
    normal = torch.zeros_like(x)
    normal[real] = (tokens - mean) / torch.sqrt(var + eps)
    return normal
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Two axes are averaged away, and the features stay. Without padding that is all.</details>
# <details><summary>A bigger nudge</summary>A boolean (B, T) tensor can be an index: what shape does <code>x[real]</code> have? It can stand on the left of an
# assignment too. If you prefer to multiply by the mask instead: by which count do you divide, and is the padding gone from the
# variance as well as from the mean?</details>

# %% test="batch_norm" points=3
from coursekit import check

import torch
from torch.nn import functional as F

x = torch.tensor([[[1.0, 10], [3, 10]], [[5, 10], [7, 18]]])
check.close(
    batch_norm(x, eps=4.0),
    torch.tensor([[[-1, -0.5], [-1 / 3, -0.5]], [[1 / 3, -0.5], [1, 1.5]]]),
    "feature 0 is 1, 3, 5, 7 (variance 5, and the root of 5 + 4 is 3), feature 1 is 10, 10, 10, 18 (12, and 4)",
)
check.close(
    batch_norm(x, eps=4 / 3, real=torch.tensor([[True, True], [True, False]])),
    torch.tensor([[[-1.0, 0], [0, 0]], [[1, 0], [0, 0]]]),
    "the last token is padding: feature 0 is 1, 3, 5 (variance 8/3, and the root of 8/3 + 4/3 is 2), feature 1 is 10 throughout",
)
### BEGIN HIDDEN TESTS


def by_torch(x, eps, real):
    result = torch.zeros_like(x)
    result[real] = F.batch_norm(x[real], None, None, training=True, eps=eps)
    return result


for number, (shape, eps) in enumerate([((3, 7, 5), 1e-5), ((1, 9, 4), 0.5), ((4, 4, 4), 1e-3), ((5, 2, 6), 1e-5)]):
    batch, length, d = shape
    x = torch.randn(d, length, batch, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(number)))
    x = x.permute(2, 1, 0)  # not contiguous
    everything = torch.ones(batch, length, dtype=torch.bool)
    ragged = torch.arange(length) < (torch.arange(batch)[:, None] + 1).clamp(2, length)
    check.close(
        batch_norm(x, eps), by_torch(x, eps, everything), f"float64, x of shape {shape}, eps={eps:g}", atol=1e-10
    )
    check.close(
        batch_norm(0.01 * x, eps),
        by_torch(0.01 * x, eps, everything),
        f"float64, x of shape {shape}, a hundred times quieter, eps={eps:g}",
        atol=1e-10,
    )
    for name, real in (("all real", everything), ("of growing length", ragged), ("padded on the left", ragged.flip(1))):
        padded = torch.where(real[..., None], x, 1e4)
        case = f"float64, x of shape {shape}, eps={eps:g}, sequences {name}"
        check.close(batch_norm(padded, eps, real), by_torch(padded, eps, real), case, atol=1e-10)
        check.gradients(
            lambda x, eps=eps, real=real: batch_norm(x, eps, real),
            lambda x, eps=eps, real=real: by_torch(x, eps, real),
            [padded],
            f"{case}: gradients",
            atol=1e-9,
        )
x = torch.randn(3, 21, 10, generator=torch.Generator().manual_seed(check.seed(7)))
flat = F.batch_norm(1e4 * x.flatten(0, 1), None, None, training=True)
check.close(batch_norm(1e4 * x), flat.reshape(x.shape), "float32, tokens times 10,000, eps left out")
quiet = F.batch_norm(0.01 * x.flatten(0, 1), None, None, training=True)
check.close(batch_norm(0.01 * x), quiet.reshape(x.shape), "float32, tokens times 0.01, eps left out", atol=1e-4)
nothing = torch.zeros(3, 21, dtype=torch.bool)
check.close(batch_norm(x, 1e-5, nothing), torch.zeros(3, 21, 10), "nothing is real: the result is zero everywhere")
one = nothing.clone()
one[1, 4] = True
check.close(
    batch_norm(x, 1e-5, one), torch.zeros(3, 21, 10), "one real token: it is its own mean, so the result is zero"
)
### END HIDDEN TESTS


# %% alternative="batch_norm"
def batch_norm(x, eps=1e-5, real=None):
    # Masks instead of an index, float64 inside.
    share = torch.ones_like(x[..., :1]) if real is None else real.unsqueeze(-1).to(x.dtype)
    wide, share = x.double(), share.double()
    count = share.sum().clamp(min=1)
    mean = torch.einsum("btd,bto->d", wide, share) / count
    centred = (wide - mean) * share
    var = (centred**2).sum(1).sum(0) / count
    return (centred * (var + eps) ** -0.5).to(x.dtype)


# %% mistakes="batch_norm"
{
    "the padding is counted in the mean and in the variance": [
        ("mean = tokens.mean(dim=0)", "mean = x.mean(dim=(0, 1))"),
        ("var = (tokens - mean).square().mean(dim=0)", "var = (x - mean).square().mean(dim=(0, 1))"),
    ],
    "the padding is set to zero, but it still counts in the mean and in the variance": [
        ("tokens = x[real]", "tokens = (x * real.unsqueeze(-1)).flatten(0, 1)"),
        ("normal[real] = (tokens - mean) /", "normal[real] = (x[real] - mean) /"),
    ],
    "the sums are taken over the real tokens and divided by the number of all tokens": [
        ("tokens.mean(dim=0)", "tokens.sum(dim=0) / real.numel()"),
        ("(tokens - mean).square().mean(dim=0)", "(tokens - mean).square().sum(dim=0) / real.numel()"),
    ],
    "the padding is kept out of the mean but not out of the variance": (
        "var = (tokens - mean).square().mean(dim=0)",
        "var = (x - mean).square().mean(dim=(0, 1))",
    ),
    "real is ignored: everything is normalised, padding too": ("if real is None:", "if True:"),
    "real is inverted: True is taken for padding": (
        "tokens = x[real]",
        "real = ~real if not real.all() else real; tokens = x[real]",
    ),
    "the result at padding is not zero": (
        "    return normal",
        "    return (x - mean) / torch.sqrt(var + eps)",
    ),
    "the result at padding is what stood there before": (
        "normal = torch.zeros_like(x)",
        "normal = x.clone()",
    ),
    "every token is normalised by itself, which is layer norm": [
        ("tokens.mean(dim=0)", "tokens.mean(dim=1, keepdim=True)"),
        ("square().mean(dim=0)", "square().mean(dim=1, keepdim=True)"),
    ],
    "every sequence is normalised by itself: the batch is left out of the statistics": (
        "    tokens = x[real]",
        "    if len(x) > 1:\n        return torch.cat([batch_norm(x[b : b + 1], eps, real[b : b + 1]) for b in range(len(x))])\n    tokens = x[real]",
    ),
    "every position is normalised by itself: time is left out of the statistics": (
        "    tokens = x[real]",
        "    if x.shape[1] > 1:\n        return torch.cat([batch_norm(x[:, t : t + 1], eps, real[:, t : t + 1]) for t in range(x.shape[1])], dim=1)\n    tokens = x[real]",
    ),
    "there is one mean and one variance for all features together": [
        ("tokens.mean(dim=0)", "tokens.mean()"),
        ("square().mean(dim=0)", "square().mean()"),
    ],
    "the variance is unbiased": (
        "(tokens - mean).square().mean(dim=0)",
        "(tokens - mean).square().sum(dim=0) / (len(tokens) - 1)",
    ),
    "eps is added outside the root": ("torch.sqrt(var + eps)", "(torch.sqrt(var) + eps)"),
    "eps is left out": ("torch.sqrt(var + eps)", "torch.sqrt(var)"),
    "x is divided by the variance and not by its root": ("torch.sqrt(var + eps)", "(var + eps)"),
    "the mean is not subtracted": ("normal[real] = (tokens - mean) /", "normal[real] = tokens /"),
    "the statistics are detached: the values are right and the gradients are wrong": (
        "normal[real] = (tokens - mean) / torch.sqrt(var + eps)",
        "normal[real] = (tokens - mean.detach()) / torch.sqrt(var.detach() + eps)",
    ),
    "a batch without a real token gives NaN": (
        "    return normal",
        "    return normal + 0.0 * mean if not real.any() else normal",
    ),
}

# %% [markdown]
# ## Exercise 4 · `influence`
#
# Who can change a token's result? Ask autograd. The output of one token is a vector, and so is the input of any other,
# so the answer for each pair is a matrix of derivatives. `influence` sums it up in one number: the size of that matrix
# (its Frobenius norm, the root of the sum of its squared entries).
# Where the number is zero, the one token cannot reach the other at all.
#
# *Difficulty 3 of 5 · 15 minutes · 3 points*


# %% exercise="influence" difficulty=3 minutes=15
def influence(norm: str, x: torch.Tensor, sequence: int, token: int, eps: float = 1e-5) -> torch.Tensor:
    """How strongly the normalised token ``[sequence, token]`` depends on each token of x.

    Args:
        norm: "layer" (your LayerNorm without parameters) or "batch" (your batch_norm, every token real).
        x: (B, T, d), float32 or float64.
        sequence, token: whose output is asked about, from 0.
        eps: passed on to the norm.

    Returns:
        Tensor (B, T) of x's dtype without a gradient of its own. Entry [b, t] is the square root of the sum of
        the squares of all d * d derivatives of ``y[sequence, token, i]`` for ``x[b, t, j]``, where y is the normalised x.

    Raises:
        ValueError: if norm is neither "layer" nor "batch".
    """
    ### BEGIN SOLUTION
    if norm not in ("layer", "batch"):
        raise ValueError(f'norm must be "layer" or "batch", got {norm!r}')
    x = x.detach().clone().requires_grad_()
    y = LayerNorm(x.shape[-1], eps, affine=False)(x) if norm == "layer" else batch_norm(x, eps)
    squares = torch.zeros(x.shape[:2], dtype=x.dtype)  # (B, T)
    for feature in y[sequence, token]:  # d numbers
        (gradient,) = torch.autograd.grad(feature, x, retain_graph=True)  # (B, T, d)
        squares += gradient.square().sum(dim=-1)
    return squares.sqrt()
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Autograd differentiates one number at a time. A token's output has d numbers, so ask d times and keep the squares.</details>
# <details><summary>A bigger nudge</summary>It is tempting to add the d numbers up and ask once. Do not: the features of a normalised token always add up to
# zero, and the derivative of a constant is zero. <code>torch.autograd.grad</code> gives the gradient of one number for a tensor; it has an
# option that keeps the graph for the next question.</details>

# %% test="influence" points=3
from coursekit import check

import torch
from torch.nn import functional as F

numbers = torch.tensor([[[-1.0]], [[0.0]], [[1.0]]])  # three sequences of one token with one feature
tokens = torch.tensor([[[2.0, 4, 5, 6, 8]], [[1.0, 0, 3, 0, 2]], [[0.0, 1, 1, 5, 4]]])  # three of one token each
batch, layer = influence("batch", numbers, 1, 0, eps=0.0), influence("layer", tokens, 0, 0, eps=0.0)
check.close(
    layer,
    torch.tensor([[3**0.5 / 2], [0.0], [0.0]]),
    "layer norm of [2, 4, 5, 6, 8]: 5 - 2 directions pass, each divided by the standard deviation 2; the other sequences have no say",
)
check.close(
    batch,
    torch.tensor([[1.0], [2.0], [1.0]]) / 6**0.5,
    "batch norm of three sequences with one number each, -1, 0 and 1: how the middle one depends on all three",
)
check.raises(ValueError, lambda: influence("group", tokens, 0, 0), "there is no such norm")
### BEGIN HIDDEN TESTS


def by_jacobian(norm, x, sequence, token, eps):
    def normalised(x):
        if norm == "layer":
            return F.layer_norm(x, x.shape[-1:], eps=eps)[sequence, token]
        flat = F.batch_norm(x.flatten(0, 1), None, None, training=True, eps=eps)
        return flat.reshape(x.shape)[sequence, token]

    return torch.autograd.functional.jacobian(normalised, x).square().sum(dim=(0, 3)).sqrt()


for number, (shape, sequence, token, eps) in enumerate(
    [((3, 4, 5), 0, 3, 1e-5), ((1, 6, 4), 0, 2, 0.5), ((4, 4, 4), 1, 2, 1e-5), ((5, 1, 7), 3, 0, 0.1)]
):
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(number)))
    found = {norm: influence(norm, x, sequence, token, eps) for norm in ("layer", "batch")}
    for norm, values in found.items():
        case = f"{norm} norm, float64, x of shape {shape}, token [{sequence}, {token}], eps={eps:g}"
        check.close(values, by_jacobian(norm, x, sequence, token, eps), case, atol=1e-9)
        check.that(not values.requires_grad, "the result has no gradient of its own")
    alone = torch.ones(shape[:2], dtype=torch.bool)
    alone[sequence, token] = False
    check.equal(
        found["layer"][alone],
        torch.zeros(int(alone.sum()), dtype=torch.float64),
        f"layer norm, x of shape {shape}: no other token has any influence, exactly",
    )
x = 0.01 * torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(check.seed(9)))
for norm in ("layer", "batch"):
    want = by_jacobian(norm, x, 1, 0, 1e-5)
    check.close(influence(norm, x, 1, 0), want, f"{norm} norm, float32, quiet tokens, eps left out", rtol=1e-4)
for bad in ("Layer", "", "rms"):
    check.raises(ValueError, lambda bad=bad: influence(bad, x, 0, 0), f"norm={bad!r}")
### END HIDDEN TESTS


# %% alternative="influence"
def influence(norm, x, sequence, token, eps=1e-5):
    kinds = {
        "layer": lambda x: LayerNorm(x.shape[-1], eps, affine=False)(x),
        "batch": lambda x: batch_norm(x, eps),
    }
    if norm not in kinds:
        raise ValueError(norm)
    jacobian = torch.autograd.functional.jacobian(lambda x: kinds[norm](x)[sequence, token], x.double())
    return jacobian.movedim(0, -1).flatten(2).norm(dim=-1).to(x.dtype)


# %% mistakes="influence"
{
    "the features are added up before the gradient is taken, and for a layer norm that sum is always zero": (
        "for feature in y[sequence, token]:",
        "for feature in [y[sequence, token].sum()]:",
    ),
    "the root is left out: squares are returned": ("return squares.sqrt()", "return squares"),
    "the derivatives are added up with their signs and not squared": [
        ("gradient.square().sum(dim=-1)", "gradient.sum(dim=-1)"),
        ("return squares.sqrt()", "return squares"),
    ],
    "the absolute derivatives are added up and not the squares": [
        ("gradient.square().sum(dim=-1)", "gradient.abs().sum(dim=-1)"),
        ("return squares.sqrt()", "return squares"),
    ],
    "the squares are averaged over the features, and they should be added up": (
        "gradient.square().sum(dim=-1)",
        "gradient.square().mean(dim=-1)",
    ),
    "only the last feature of the output is asked about": ("squares += gradient", "squares = gradient"),
    "the features of the input are kept apart: the result has the shape (B, T, d)": [
        ("torch.zeros(x.shape[:2], dtype=x.dtype)", "torch.zeros_like(x)"),
        ("squares += gradient.square().sum(dim=-1)", "squares = squares.detach() + gradient.square()"),
    ],
    "the derivatives are those of all tokens' outputs, not of one": (
        "for feature in y[sequence, token]:",
        "for feature in y.flatten():",
    ),
    "the output is taken from the right token of the first sequence": ("y[sequence, token]", "y[0, token]"),
    "the output is taken from the first token of the right sequence": ("y[sequence, token]", "y[sequence, 0]"),
    "sequence and token have changed places": ("y[sequence, token]", "y[token, sequence]"),
    "it is layer norm whatever was asked for": ('if norm == "layer" else batch_norm(x, eps)', ""),
    "it is batch norm whatever was asked for": (
        'LayerNorm(x.shape[-1], eps, affine=False)(x) if norm == "layer" else batch_norm(x, eps)',
        "batch_norm(x, eps)",
    ),
    "the two norms have changed places": ('norm == "layer"', 'norm == "batch"'),
    "eps is not passed on to the layer norm": (
        "LayerNorm(x.shape[-1], eps, affine=False)",
        "LayerNorm(x.shape[-1], affine=False)",
    ),
    "eps is not passed on to the batch norm": ("batch_norm(x, eps)", "batch_norm(x)"),
    "eps is passed on to neither norm": [
        ("LayerNorm(x.shape[-1], eps, affine=False)", "LayerNorm(x.shape[-1], affine=False)"),
        ("batch_norm(x, eps)", "batch_norm(x)"),
    ],
    "a norm that is not known is taken for batch norm": ('if norm not in ("layer", "batch"):', "if False:"),
    "the influences are scaled to sum to one": (
        "return squares.sqrt()",
        "return squares.sqrt() / squares.sqrt().sum()",
    ),
}

# %% equivalent="influence"
{"False -> True": "a LayerNorm that is fresh has a weight of ones and a bias of zeros, which change no value"}

# %% [markdown]
# In the first visible check of Exercise 4 two of five directions did not pass. A layer norm cannot see a shift of all features
# (the mean takes it away), and it cannot see the token growing louder (the standard deviation takes it away). What the
# forward pass ignores, the backward pass must not push. In the last exercise you write that down.
#
# ## Exercise 5 · `layer_norm_backward`
#
# Write the backward pass by hand, as a fused kernel has to. Let $g_i = \gamma_i \cdot \partial L/\partial y_i$ be the
# gradient that arrives at $\hat x_i$. It reaches the token by three roads: directly, through the mean, and through the
# root. Each road is one term. Derive them on paper, or follow the derivation on [the
# page](../../book/ch02_block/residuals_and_normalization.md). The gradients of weight and bias are yours to find.
#
# *Difficulty 4 of 5 · 25 minutes · 4 points*


# %% exercise="layer_norm_backward" difficulty=4 minutes=25 forbid=["torch.autograd.*", "torch.func.*", "backward", "layer_norm", "native_layer_norm_backward"]
def layer_norm_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-5
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of a layer norm, computed without autograd.

    Args:
        grad: (..., d), the gradient of the loss for the layer's output; contiguous or not.
        x: (..., d), the layer's input, float32 or float64. Any number of leading axes, and none at all.
        weight: (d,), the layer's weight. (The bias does not matter.)
        eps: as in the layer.

    Returns:
        grad_x of x's shape, grad_weight (d,) and grad_bias (d,), all of x's dtype: the gradients of the loss for x, for
        the weight and for the bias. They equal those of autograd.
    """
    ### BEGIN SOLUTION
    mean, var = token_statistics(x)
    scale = 1 / torch.sqrt(var + eps)  # (..., 1)
    normal = (x - mean) * scale  # (..., d)
    arriving = grad * weight  # (..., d): the gradient for `normal`
    shift = arriving.mean(dim=-1, keepdim=True)  # (..., 1): what a shift of all features would change
    loudness = (arriving * normal).mean(dim=-1, keepdim=True)  # (..., 1): what a louder token would change
    grad_x = scale * (arriving - shift - normal * loudness)
    d = x.shape[-1]
    grad_weight = (grad * normal).reshape(-1, d).sum(dim=0)  # (d,)
    grad_bias = grad.reshape(-1, d).sum(dim=0)  # (d,)
    return grad_x, grad_weight, grad_bias
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>You need the forward pass up to the normalised token again. Then take out of <code>g</code> what the forward
# pass ignores: the part that would shift all features, and the part that would make the token louder. What is left goes through the division.</details>
# <details><summary>A bigger nudge</summary>The part of <code>g</code> along a direction is found by a mean over the features: of <code>g</code> itself for the
# shift, of <code>g</code> times the normalised token for the loudness. As to the parameters: the same weight and the same bias serve every token. A parameter that is used in many places
# collects the gradient of each place, so those two results are sums over all tokens. In <code>y = normal * weight + bias</code>, what is each of the two
# multiplied by?</details>

# %% test="layer_norm_backward" points=4
from coursekit import check

import torch
from torch.nn import functional as F

x = torch.tensor([[[2.0, 4, 5, 6, 8], [20, 40, 50, 60, 80]]])
grad = torch.tensor([[[10.0, 0, 0, 0, 0], [0, 0, 0, 10, 0]]])
found = layer_norm_backward(grad, x, torch.tensor([1.0, 1, 1, 2, 1]), eps=0.0)
wanted = torch.tensor([[[1.75, -1.75, -1, -0.25, 1.25], [-0.05, -0.15, -0.2, 0.75, -0.35]]])
check.close(
    found[0],
    wanted,
    "grad_x by hand. First token: mean of g 2, mean of g times the normalised token -3, root 2. "
    "Second token, whose g is 20 because of the weight: 4, 2 and 20",
)
check.close(
    found[1], torch.tensor([-15.0, 0, 0, 5, 0]), "grad_weight: gradient times normalised token, over both tokens"
)
check.close(found[2], torch.tensor([10.0, 0, 0, 10, 0]), "grad_bias: the gradients of both tokens")
### BEGIN HIDDEN TESTS


def by_hand(*arguments):
    copies = [value.clone() if isinstance(value, torch.Tensor) else value for value in arguments]
    return layer_norm_backward(*copies)


def by_autograd(grad, x, weight, eps):
    leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_(), torch.zeros_like(weight).requires_grad_()]
    y = F.layer_norm(leaves[0], weight.shape, *leaves[1:], eps)
    return torch.autograd.grad(y, leaves, grad)


def values(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(seed)))


for number, (shape, eps) in enumerate(
    [((3, 7, 6), 1e-5), ((1, 63, 60), 1e-5), ((5, 5, 5), 0.5), ((2, 3, 4, 6), 1e-3), ((9,), 1e-5), ((4, 1, 3), 0.1)]
):
    d = shape[-1]
    x, grad, weight = values(*shape, seed=number), values(*shape, seed=10 + number), values(d, seed=20 + number)
    case = f"float64, x of shape {shape}, eps={eps:g}"
    check.close(by_hand(grad, x, weight, eps), by_autograd(grad, x, weight, eps), case, atol=1e-10)
    check.close(
        by_hand(grad, 0.01 * x, weight, eps),
        by_autograd(grad, 0.01 * x, weight, eps),
        f"{case}, a hundred times quieter",
        atol=1e-9,
    )
    loud, direction = 1e3 * x, torch.ones(d, dtype=torch.float64)
    grad_x = by_hand(grad, loud, weight, eps)[0]
    check.close(
        grad_x @ direction,
        torch.zeros(shape[:-1], dtype=torch.float64),
        f"{case}: grad_x of each token sums to zero, for a shift of the token changes nothing",
        atol=1e-10,
    )
x = values(6, 7, 3, seed=30).permute(2, 1, 0)
grad, weight = values(7, 3, 6, seed=31).transpose(0, 1), values(6, seed=32)
check.close(by_hand(grad, x, weight), by_autograd(grad, x, weight, 1e-5), "not contiguous, eps left out", atol=1e-10)
quiet = 0.01 * x
check.close(by_hand(grad, quiet, weight), by_autograd(grad, quiet, weight, 1e-5), "the same, quieter", atol=1e-9)
x, grad, weight = (values(*shape, seed=40 + i).float() for i, shape in enumerate([(2, 5, 60), (2, 5, 60), (60,)]))
check.close(by_hand(grad, x, weight), by_autograd(grad, x, weight, 1e-5), "float32", atol=1e-4)
### END HIDDEN TESTS


# %% alternative="layer_norm_backward"
def layer_norm_backward(grad, x, weight, eps=1e-5):
    # The whole Jacobian of every token, as a matrix, one token after the other.
    d = x.shape[-1]
    rows, arriving = x.reshape(-1, d).double(), grad.reshape(-1, d).double()
    grad_x, grad_weight = torch.zeros_like(rows), torch.zeros(d, dtype=torch.float64)
    for i, (row, g) in enumerate(zip(rows, arriving, strict=True)):
        centred = row - row.mean()
        root = (centred.dot(centred) / d + eps).sqrt()
        normal = centred / root
        jacobian = (torch.eye(d, dtype=torch.float64) - 1 / d - torch.outer(normal, normal) / d) / root
        grad_x[i] = jacobian @ (g * weight.double())
        grad_weight += g * normal
    return grad_x.reshape(x.shape).to(x.dtype), grad_weight.to(x.dtype), arriving.sum(0).to(x.dtype)


# %% mistakes="layer_norm_backward"
{
    "the mean of g is forgotten: the gradient pushes all features up together, and the mean takes that away again": (
        "(arriving - shift - normal * loudness)",
        "(arriving - normal * loudness)",
    ),
    "the mean of g times the normalised token is forgotten: the gradient makes the token louder, and the root takes that away again": (
        "(arriving - shift - normal * loudness)",
        "(arriving - shift)",
    ),
    "mean and variance are taken for constants: both mean terms are forgotten": (
        "(arriving - shift - normal * loudness)",
        "arriving",
    ),
    "the second mean is subtracted without the normalised token in front of it": (
        "normal * loudness)",
        "loudness)",
    ),
    "the second mean is multiplied by x and not by the normalised token": ("normal * loudness)", "x * loudness)"),
    "the second mean is added and not subtracted": ("- normal * loudness", "+ normal * loudness"),
    "the second mean is that of g times x": ("(arriving * normal).mean", "(arriving * x).mean"),
    "the features are added up where the means belong": (
        ".mean(dim=-1, keepdim=True)",
        ".sum(dim=-1, keepdim=True)",
        "all",
    ),
    "the means run over all tokens and not over the features of one": (
        ".mean(dim=-1, keepdim=True)",
        ".mean()",
        "all",
    ),
    "the weight is left out of grad_x": ("arriving = grad * weight", "arriving = grad"),
    "the weight is multiplied last, after the means have been subtracted": [
        ("arriving = grad * weight", "arriving = grad"),
        ("grad_x = scale * (", "grad_x = weight * scale * ("),
    ],
    "grad_x is not divided by the standard deviation": ("grad_x = scale * (", "grad_x = ("),
    "grad_x is multiplied by the standard deviation": ("grad_x = scale * (", "grad_x = 1 / scale * ("),
    "grad_x is divided by the variance": ("grad_x = scale * (", "grad_x = scale * scale * ("),
    "eps is left out": ("torch.sqrt(var + eps)", "torch.sqrt(var)"),
    "eps is added outside the root": ("torch.sqrt(var + eps)", "(torch.sqrt(var) + eps)"),
    "eps is 1e-6 where it is left out": ("eps: float = 1e-5", "eps: float = 1e-6"),
    "the unbiased variance is used": (
        "torch.sqrt(var + eps)",
        "torch.sqrt(var * x.shape[-1] / (x.shape[-1] - 1) + eps)",
    ),
    "grad_weight is averaged over the tokens and not summed": (
        "(grad * normal).reshape(-1, d).sum(dim=0)",
        "(grad * normal).reshape(-1, d).mean(dim=0)",
    ),
    "grad_weight and grad_bias are both averaged over the tokens and not summed": (
        ".sum(dim=0)",
        ".mean(dim=0)",
        "all",
    ),
    "grad_weight and grad_bias are summed over the tokens of a sequence but not over the batch": (
        ".reshape(-1, d).sum(dim=0)",
        ".reshape(-1, *x.shape[-2:]).sum(dim=-2)",
        "all",
    ),
    "grad_weight and grad_bias are summed over the batch but not over the tokens of a sequence": (
        ".reshape(-1, d).sum(dim=0)",
        ".reshape(-1, *x.shape[-2:]).sum(dim=0)",
        "all",
    ),
    "grad_weight is not summed at all: it has the shape of x": (
        "(grad * normal).reshape(-1, d).sum(dim=0)",
        "grad * normal",
    ),
    "grad_weight takes x and not the normalised token": ("(grad * normal).reshape", "(grad * x).reshape"),
    "grad_weight takes the token with its mean subtracted but not divided by the root": (
        "(grad * normal).reshape",
        "(grad * (x - mean)).reshape",
    ),
    "grad_weight has the weight in it": ("(grad * normal).reshape", "(arriving * normal).reshape"),
    "grad_bias has the weight in it": ("grad_bias = grad.reshape", "grad_bias = arriving.reshape"),
    "grad_weight and grad_bias have changed places": (
        "return grad_x, grad_weight, grad_bias",
        "return grad_x, grad_bias, grad_weight",
    ),
}

# %% [markdown]
# ## Look at it
#
# Does the leak matter in practice? Here are two small language models that guess the next character from the eight
# characters before it. They are alike, but for the norm in their two hidden layers: one uses your `LayerNorm`, the
# other your `batch_norm`. Both learn from batches of 1,024 positions. Then they are used on batches of other sizes, down
# to a single position, which is what happens when a model writes text. The text is real: the source code of two of
# Python's own modules, as they lie on your machine.

# %%
import inspect
import textwrap

import matplotlib.pyplot as plt
import torch.nn.functional as F

from coursekit import plots

torch.set_num_threads(1)
text = inspect.getsource(textwrap) + inspect.getsource(inspect)
symbols = sorted(set(text))
codes = torch.tensor([symbols.index(character) for character in text])
CONTEXT, WIDTH, BATCH = 8, 96, 1024
border = int(0.9 * len(codes))  # the last tenth is kept for measuring


def positions(start, stop, n, generator):
    """n random places: the eight characters before each, and the character there."""
    at = torch.randint(start + CONTEXT, stop, (n,), generator=generator)
    return codes[at[:, None] + torch.arange(-CONTEXT, 0)], codes[at]


def make(norm):
    g = torch.Generator().manual_seed(0)
    shapes = [(len(symbols), 16), (CONTEXT * 16, WIDTH), (WIDTH, WIDTH), (WIDTH, len(symbols))]
    weights = [torch.randn(shape, generator=g) / shape[0] ** 0.5 for shape in shapes]
    weights[0] = torch.randn(shapes[0], generator=g)
    layer = LayerNorm(WIDTH, affine=False)
    normalise = layer if norm == "layer" else lambda x: batch_norm(x[None])[0]  # one "sequence" of n tokens
    return [w.requires_grad_() for w in weights], normalise


def logits(model, before):
    (table, first, second, last), normalise = model
    hidden = table[before].flatten(1)  # (n, 128)
    for w in (first, second):
        hidden = torch.relu(normalise(hidden @ w))  # (n, 96)
    return hidden @ last


models = {"layer norm": make("layer"), "batch norm": make("batch")}
for model in models.values():
    optimiser = torch.optim.Adam(model[0], lr=5e-3)
    g = torch.Generator().manual_seed(1)
    for _ in range(300):
        before, after = positions(0, border, BATCH, g)
        loss = F.cross_entropy(logits(model, before), after)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

before, after = positions(border, len(codes), 4 * BATCH, torch.Generator().manual_seed(2))
sizes = [1, 2, 4, 8, 16, 64, 256, 1024, 4096]
figure, axis = plt.subplots()
print("size of the batch " + "".join(f"{size:>7}" for size in sizes))
for name, model in models.items():
    with torch.no_grad():
        results = {size: torch.cat([logits(model, part) for part in before.split(size)]) for size in sizes}
    losses = [F.cross_entropy(result, after).item() for result in results.values()]
    print(f"{name}        " + "".join(f"{loss:7.2f}" for loss in losses))
    axis.plot(sizes, losses, "o-", label=name)
frequencies = torch.bincount(codes[:border], minlength=len(symbols)) + 1.0
guess = F.cross_entropy(frequencies.log().expand(len(after), -1), after)
axis.axhline(guess.item(), ls="--", lw=1, color=plots.GREY)
axis.text(4096, guess.item() + 0.12, "guessing by frequency alone", ha="right")
axis.set(xscale="log", xlabel="positions normalised together", ylabel="loss on text not seen (nats)", ylim=(0, None))
axis.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45)
axis.minorticks_off()
axis.legend()
plt.show()

# %% [markdown]
# The same 4,096 positions are predicted at every point of the plot. Only the company in which they are
# normalised changes. One line is flat. What does the other model see of its input when the batch has size 1? (Put a single
# token into `batch_norm` and look.)
#
# Libraries answer with running averages: in evaluation BatchNorm uses the mean and variance that it has collected while
# training. A batch norm then has two sets of statistics, those of the batch in training and the collected ones in
# evaluation. What happens if the texts in use are unlike those in training? And which
# statistics would you use for position 500 if most training sequences were shorter than 400?
#
# ## Common mistakes
#
# - **The unbiased variance.** `x.var(-1)` divides by $d - 1$. With 768 features the result is wrong by 0.07%, so nothing
#   looks wrong and the model trains. With weights from elsewhere the error returns in every layer. `torch.var`
#   does this where you do not ask for `correction=0`.
# - **Detached or frozen statistics.** The values are exactly right, and the gradient has two terms too few. Training
#   works, worse. Compare gradients, not only values.
# - **`eps` outside the root.** $\sqrt{\sigma^2} + \varepsilon$ is almost the same for ordinary tokens. For a quiet one it is not: with $\sigma =
#   0.001$ and $\varepsilon = 10^{-5}$ one divides by 0.00101 and the other by 0.0033.
# - **No `keepdim`.** A mean of shape `(B, T)` does not line up with `(B, T, d)`. You get an error and are lucky, unless T
#   equals d and B is 1 or equals T: then each feature is shifted by the mean of another token.
# - **The wrong axes.** `nn.LayerNorm((T, d))` normalises whole sequences. The first token then knows how loud
#   the last one is, and a model that should not see the future does.
# - **Normalising in place.** `x -= mean` overwrites the token that the block will add the result to. The sum is then that of
#   a centred token, in every block, and depending on the order of your lines autograd finds nothing wrong with it.
# - **The scale before the norm.** A common factor of the weight is normalised away, and its gradient in that direction is
#   zero.
#
# How residual connections make this layer necessary, and where it goes in the block, is on the page [Residuals and
# normalisation](../../book/ch02_block/residuals_and_normalization.md). [Lab 2.4](lab04_transformer_block.ipynb) puts it there.
#
# ## Going further
#
# - **Leave out the mean.** RMSNorm divides by the root of the mean square and subtracts nothing. Which of the two terms of
#   your backward pass goes away? Lab 2.5 builds it. (Biao Zhang, Rico Sennrich, Root Mean Square Layer Normalization,
#   2019.)
# - **One pass over the data.** Your variance reads the token twice. Welford's update keeps a running mean and a running sum of
#   squared differences, and reads it once without losing digits; two partial results can be merged, which is what a GPU's
#   threads need. Write it, and try it on features around 10,000. (B. P. Welford, Note on a Method for Calculating Corrected Sums of
#   Squares and Products, 1962.)
