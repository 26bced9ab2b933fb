# ---
# title: Attention
# lab: ch00/lab02
# minutes: 130
# difficulty: 4
# hardware: cpu
# needs: [ch00/lab01]
# builds: [Linear, softmax, softmax_backward, attention, attention_backward, SelfAttention, split_heads, merge_heads, MultiHeadAttention]
# ---

# %% [markdown]
# # Lab 0.2 · Attention
#
# ## The idea
#
# After Lab 0.1 each character of `37+45=` is a vector, and none of them knows of any other. Yet the answer depends on
# all of them. Somewhere the numbers must meet. In a transformer there is one kind of layer in which they meet, and that is attention.
#
# It *gathers*. Each token receives a mean of what all tokens offer, with weights of its own. Say three tokens offer
# the values $(8, 0)$, $(0, 8)$ and $(8, 8)$, and a fourth one gathers them with the weights $\frac18$, $\frac28$ and
# $\frac58$. It receives $\frac18 (8, 0) + \frac28 (0, 8) + \frac58 (8, 8) = (6, 7)$.
#
# The weights are computed. Every token says what it looks for, a *query*, and what it has, a *key*. How well query and
# key agree, their dot product, is a score. Softmax turns the scores of one query into positive weights that sum to
# one:
#
# $$ Y = \operatorname{softmax}\!\left(\frac{Q K^\top}{\sqrt{d_k}}\right) V $$
#
# Now backwards. Say the loss depends on the first feature alone: its gradient for $(6, 7)$ is $(1, 0)$. Two things can
# give way. The *values*: each gets the gradient in the share in which it was gathered,
# $\frac18 (1, 0)$, $\frac28 (1, 0)$ and $\frac58 (1, 0)$. And the *weights*: the three tokens offer 8, 0 and 8 of that
# feature, while the mean is 6. A weight can only grow at the cost of the others, so what counts is the difference from
# the mean, $2$, $-6$ and $2$. Times the weights, that is the gradient for the scores: $\frac14$, $-\frac32$ and
# $\frac54$. It sums to zero. You have just done the hardest step of the whole chapter.
#
# From the scores the gradient goes on to queries and keys, and so by three roads back to the tokens: through the
# queries, the keys and the values. What was used several times collects the gradient of each use.
#
# The page [Attention, and its way back](../../book/ch00_numpy/attention.md) derives and measures all of this.
#
# ## Shapes
#
# `...` stands for any number of axes in front, none included: a batch `B`, or a batch and heads `B, H`.
#
# | name | shape | meaning |
# |---|---|---|
# | `x` | `(..., T, d_model)` | the tokens of a text |
# | `Linear.weight`, `Linear.bias` | `(d_in, d_out)`, `(d_out,)` | used as `x @ weight + bias` |
# | `q`, `k` | `(..., T_q, d_k)`, `(..., T_k, d_k)` | what each token looks for; what each has |
# | `v` | `(..., T_k, d_v)` | what each token hands over |
# | scores, `weights` | `(..., T_q, T_k)` | a row for each query, a column for each key; each row of weights sums to one |
# | `mask` | broadcasts to `(..., T_q, T_k)` | boolean; True: this query *may* look at this key |
# | heads | `(..., H, T, d_k)` | `H = n_heads` cuts through the features, `d_k = d_model / H` |
# | `grad` | as the output | $\partial L/\partial(\text{output})$ |
#
# `Layer` and `Parameter` are those of Lab 0.1: `forward` keeps what `backward` needs, and `backward` *adds* to the gradient
# of each parameter and returns the gradient for the input. `passes(layer, inputs, grad)` runs both, for the tests, and
# returns the output and all gradients in a dict.

# %% given
import numpy as np

from coursekit import carry

Layer = carry("ch00/lab01", "Layer")
Parameter = carry("ch00/lab01", "Parameter")
passes = carry("ch00/lab01", "passes")
xavier_uniform = carry("ch00/lab01", "xavier_uniform")  # xavier_uniform(rng, d_in, d_out) -> (d_in, d_out)


def causal_mask(T: int) -> np.ndarray:
    """Boolean (T, T): each token may look at itself and at the tokens before it."""
    return np.tril(np.ones((T, T), dtype=bool))


# %% given side="learner"
new_rng = carry("ch00/lab01", "new_rng")

# %% [markdown]
# ## A picture
#
# The simplest attention there is: every token takes the plain mean of itself and all tokens before it. On the left are
# the weights. Going forward you read them by rows: the row of `=` says what `=` *receives*. Coming back you read the same matrix by
# columns: the column of `3` says to whom `3` has given, and so from whom it gets gradient. On the right each column is added up.

# %%
from plotly.subplots import make_subplots

from coursekit import plots

characters = list("37+45=")
T = len(characters)
shares = causal_mask(T) / np.arange(1, T + 1)[:, None]  # (T, T)
labels = [f"{c} ({t})" for t, c in enumerate(characters)]
figure = make_subplots(
    rows=1,
    cols=2,
    subplot_titles=["weights", "column sums"],
    horizontal_spacing=0.24,
    column_widths=[0.58, 0.42],
)
figure.add_heatmap(
    z=shares,
    x=labels,
    y=labels,
    zmin=0,
    zmax=1,
    colorscale=plots.WEIGHTS,
    showscale=False,
    xgap=2,
    ygap=2,
    hovertemplate="%{y} receives %{z:.2f} of %{x}<br>%{x} gets %{z:.2f} of the gradient of %{y}<extra></extra>",
    row=1,
    col=1,
)
figure.add_bar(
    x=labels, y=shares.sum(axis=0), hovertemplate="%{x}: %{y:.2f}<extra></extra>", showlegend=False, row=1, col=2
)
figure.update_yaxes(autorange="reversed", title_text="token that receives", showgrid=False, row=1, col=1)
figure.update_xaxes(title_text="token that gives", tickangle=-45, showgrid=False)
figure.update_yaxes(title_text="share of all gradients", title_standoff=4, row=1, col=2)
figure.update_layout(height=380)
figure.show()

# %% [markdown]
# The rows all sum to one. The columns do not. The first token takes part in everything and gets the gradient of 2.45 tokens; the
# last one takes part in its own output only, a sixth. Nothing is lost: the columns sum to 6.
#
# So forward is a product with the matrix, and backward one with its transpose. You will meet this pair three times
# today. The first time in the plainest layer that there is.
#
# ## Exercise 1 · `Linear`
#
# A linear layer multiplies each token by a matrix and adds a bias: $Y = XW + b$. Every token uses the same $W$ and the same
# $b$. You know what follows for their gradients: a sum over all tokens, of all texts.
#
# The shapes almost write the formulas for you. The gradient for $W$ must have the shape of $W$, $(d_\text{in}, d_\text{out})$; you have
# $X$ with $(N, d_\text{in})$ and the gradient $G$ for the output with $(N, d_\text{out})$, where $N$ counts the tokens of all texts. There is one way to multiply the two. Likewise for $X$.
#
# *Difficulty 2 of 5 · 20 minutes · 5 points*


# %% exercise="Linear" difficulty=2 minutes=20 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
class Linear(Layer):
    """Multiply every token by one matrix and add a bias: ``y = x @ weight + bias``.

    Args:
        d_in, d_out: features before and after.
        rng: the first weight comes from it.
        bias: whether there is a bias.

    Parameters:
        ``weight`` (d_in, d_out), float64, at first what ``xavier_uniform(rng, d_in, d_out)`` gives. ``bias`` (d_out,),
        float64, at first zero. With ``bias=False`` the weight is the only parameter.
    """

    def __init__(self, d_in: int, d_out: int, rng: np.random.Generator, bias: bool = True):
        ### BEGIN SOLUTION
        self.weight = Parameter(xavier_uniform(rng, d_in, d_out))
        self.bias = Parameter(np.zeros(d_out)) if bias else None
        ### END SOLUTION

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Compute the output.

        Args:
            x: (..., d_in) with any number of axes in front, also none; contiguous or not.

        Returns:
            Array (..., d_out). Where x and the parameters are float32, so is the output.
        """
        ### BEGIN SOLUTION
        self.x = x
        y = x @ self.weight.value  # (..., d_in) @ (d_in, d_out)
        return y if self.bias is None else y + self.bias.value
        ### END SOLUTION

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x, and on the way those of the parameters.

        Args:
            grad: (..., d_out), the gradient of the loss for the output of the last `forward`; contiguous or not.

        Returns:
            The gradient for x, of x's shape. To ``weight.grad`` and ``bias.grad`` is added what they get from all
            tokens of that forward pass together, on top of what they held before.
        """
        ### BEGIN SOLUTION
        x = self.x.reshape(-1, self.x.shape[-1])  # (N, d_in): all tokens of all texts
        flat = grad.reshape(-1, grad.shape[-1])  # (N, d_out)
        self.weight.grad += x.T @ flat  # (d_in, N) @ (N, d_out): the product sums over the tokens
        if self.bias is not None:
            self.bias.grad += flat.sum(axis=0)
        return grad @ self.weight.value.T  # (..., d_out) @ (d_out, d_in)
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Take a single token first. One entry of the weight, in row i and column j, is multiplied by feature i of the token, and the
# product goes into feature j of the output. So which two numbers make its gradient? Then add this up over all tokens.</details>
# <details><summary>A bigger nudge</summary>However many axes there are in front: a reshape to two axes turns the batch into one long list of tokens. A matrix
# product then sums over the list by itself, if you put the transpose on the right side. The bias is added to every token, so its gradient
# is a plain sum. The gradient for the input needs no reshape at all.</details>

# %% test="Linear" points=4
from coursekit import check

import numpy as np

layer = Linear(2, 3, new_rng(0))
check.equal(
    sorted(layer.parameters()),
    ["bias", "weight"],
    "the names of the parameters",
    hint="parameters() finds what is a Parameter. A bare array in self is not one: wrap it.",
)
layer.weight.value = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 3.0]])
layer.bias.value = np.array([10.0, 20.0, 30.0])
x, grad = np.array([[[1.0, 2.0]], [[3.0, 4.0]]]), np.array([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 10.0]]])
found = passes(layer, (x,), grad)
check.close(found["output"], np.array([[[11.0, 22, 38]], [[13, 24, 48]]]), "two texts of one token each: the output")
check.close(found.get("grad", np.nan), np.array([[[1.0, 0]], [[20, 31]]]), "the gradient for x")
check.close(found["grad.weight"], np.array([[1.0, 3, 30], [2, 4, 40]]), "the gradient of the weight, over both texts")
check.close(found["grad.bias"], np.array([1.0, 1, 10]), "the gradient of the bias, over both texts")
layer.forward(np.array([1.0, 1.0]))
layer.backward(np.array([1.0, 1.0, 1.0]))
check.close(
    layer.weight.grad, np.array([[2.0, 4, 31], [3, 5, 41]]), "then one token alone: the weight's gradient grows"
)
check.close(layer.bias.grad, np.array([2.0, 2, 11]), "and so does that of the bias")
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(1))
for shape, d_out, bias in (
    ((3, 7, 5), 4, True),
    ((1, 63, 6), 10, True),
    ((4, 4, 4), 4, True),
    ((5,), 2, True),
    ((2, 3, 4, 5), 3, False),
    ((6, 1), 1, False),
    ((2, 0, 3), 2, True),
    ((4, 4), 4, False),
):
    case = f"x of shape {shape}, d_out={d_out}, {'with' if bias else 'without'} bias"
    x, grad = draw.normal(size=shape), draw.normal(size=(*shape[:-1], d_out))
    values = {"weight": draw.normal(size=(shape[-1], d_out))} | ({"bias": draw.normal(size=d_out)} if bias else {})
    layer = Linear(shape[-1], d_out, new_rng(0), bias=bias)
    check.equal(sorted(layer.parameters()), sorted(values), f"{case}: the names of the parameters")
    for name, value in values.items():
        getattr(layer, name).value = value
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in {"x": x, **values}.items()}
    output = torch.nn.functional.linear(leaves["x"], leaves["weight"].T, leaves.get("bias"))
    output.backward(torch.tensor(grad))
    for what, inputs, arriving in (
        (case, x, grad),
        (f"{case}, not contiguous", np.asfortranarray(x), np.asfortranarray(grad)),
    ):
        found = passes(layer, (inputs,), arriving)
        check.close(found["output"], output.detach().numpy(), f"{what}: as F.linear", atol=1e-8, rtol=1e-8)
        check.close(found.get("grad", np.nan), leaves["x"].grad.numpy(), f"{what}: grad for x", atol=1e-8, rtol=1e-8)
        for name in values:
            want = leaves[name].grad.numpy()
            check.close(found[f"grad.{name}"], want, f"{what}: the gradient of {name}", atol=1e-8, rtol=1e-8)
    layer.backward(2 * grad)
    for name in values:
        want = 3 * leaves[name].grad.numpy()
        check.close(getattr(layer, name).grad, want, f"{case}: a second backward adds to {name}", atol=1e-8, rtol=1e-8)

# Against the definition: move one number of the weight a little, and watch the loss.
weight, x, direction = draw.normal(size=(3, 2)), draw.normal(size=(2, 4, 3)), draw.normal(size=(2, 4, 2))
layer = Linear(3, 2, new_rng(0))
layer.weight.value = weight
found = passes(layer, (x,), direction)["grad.weight"]
for place in ((0, 0), (2, 1)):
    losses = []
    for sign in (1, -1):
        moved = weight.copy()
        moved[place] += sign * 1e-4
        layer.weight.value = moved
        losses.append((layer.forward(x) * direction).sum())
    slope = float(losses[0] - losses[1]) / 2e-4
    check.close(float(found[place]), slope, f"weight.grad{list(place)} is the slope of the loss", atol=1e-7)

layer = Linear(2, 2, new_rng(0))
layer.weight.value = np.array([[1.0, 2.0], [3.0, 4.0]])
layer.forward(np.array([[5.0, 6.0], [7.0, 8.0]]))
layer.forward(np.array([[1.0, 10.0]]))
layer.backward(np.array([[1.0, 2.0]]))
want = np.array([[1.0, 2.0], [10.0, 20.0]])
check.close(layer.weight.grad, want, "two forwards, then a backward: it is about the second forward")
layer.astype("float32")
single = passes(layer, (np.ones((2, 3, 2), dtype="float32"),), np.ones((2, 3, 2), dtype="float32"))
check.equal(sorted({str(v.dtype) for v in single.values()}), ["float32"], "after astype('float32') all is float32")
### END HIDDEN TESTS

# %% test="Linear" points=1
from coursekit import check

import numpy as np

layer = Linear(4, 3, new_rng(0))
check.equal(list(layer.weight.value.shape), [4, 3], "the shape of the weight from 4 to 3 features")
check.close(layer.bias.value, np.zeros(3), "the bias at first")
check.close(layer.weight.grad, np.zeros((4, 3)), "before anything has happened the gradient is zero")
### BEGIN HIDDEN TESTS
check.equal(sorted(Linear(4, 3, new_rng(0), False).parameters()), ["weight"], "bias=False: the parameters")
for d_in, d_out in ((150, 400), (400, 150)):
    layer = Linear(d_in, d_out, new_rng(check.seed(d_in)))
    weight, case = layer.weight.value, f"{d_in} to {d_out} features"
    check.equal(list(weight.shape), [d_in, d_out], f"{case}: the shape of the weight")
    check.equal([str(weight.dtype), str(layer.bias.value.dtype)], ["float64"] * 2, f"{case}: the dtypes")
    check.close(layer.bias.value, np.zeros(d_out), f"{case}: the bias at first")
    # 60,000 numbers: their mean square is within 0.4% of the variance two times in three.
    unit = (2 / (d_in + d_out)) ** 0.5
    check.close(
        float((weight**2).mean() / unit**2), 1.0, f"{case}: the mean square, over 2 / (d_in + d_out)", atol=0.04
    )
    check.close(float(np.abs(weight).max() / unit), 3**0.5, f"{case}: the largest number, over its root", atol=0.02)
rng = new_rng(check.seed(5))
first, second = (Linear(7, 4, rng).weight.value for _ in range(2))
check.that(not np.array_equal(first, second), "two layers from one generator differ", hint="Draw from rng.")
same, again = (Linear(7, 4, new_rng(check.seed(6))).weight.value for _ in range(2))
check.that(np.array_equal(same, again), "generators with the same seed give the same weight", hint="Draw from rng.")
### END HIDDEN TESTS


# %% alternative="Linear"
class Linear(Layer):
    # With einsum, and Python's own sum.
    def __init__(self, d_in, d_out, rng, bias=True):
        self.has_bias = bias
        if bias:
            self.bias = Parameter([0.0] * d_out)
        self.weight = Parameter(xavier_uniform(rng, d_in, d_out))

    def forward(self, x):
        print("a product with", self.weight.value.shape)
        self.kept = x.copy()
        y = np.einsum("...i,ij->...j", x, self.weight.value)
        return np.add(y, self.bias.value) if self.has_bias else y

    def backward(self, grad):
        self.weight.grad = self.weight.grad + np.einsum("...i,...j->...ij", self.kept, grad).sum(
            axis=tuple(range(grad.ndim - 1))
        )
        if self.has_bias:
            self.bias.grad = self.bias.grad + sum(grad.reshape(-1, grad.shape[-1]))
        return np.einsum("...j,ij->...i", grad, self.weight.value)


# %% alternative="Linear"
class Linear(Layer):
    # Token by token.
    def __init__(self, d_in, d_out, rng, bias=True):
        self.weight = Parameter(xavier_uniform(rng, d_in, d_out))
        if bias:
            self.bias = Parameter(np.zeros((d_out,)))

    def forward(self, x):
        self.x = x
        y = np.dot(x, self.weight.value)
        return y + self.bias.value if hasattr(self, "bias") else y

    def backward(self, grad):
        into = np.empty(self.x.shape, dtype=grad.dtype)
        for place in np.ndindex(self.x.shape[:-1]):
            self.weight.grad += np.outer(self.x[place], grad[place])
            if hasattr(self, "bias"):
                self.bias.grad += grad[place]
            into[place] = self.weight.value @ grad[place]
        return into


# %% mistakes="Linear"
{
    "the gradient of the weight comes from the first text of the batch alone": (
        "self.weight.grad += x.T @ flat",
        "one = (x, flat) if x.shape == self.x.shape else (self.x[0], grad[0]); self.weight.grad += one[0].reshape(-1, x.shape[1]).T @ one[1].reshape(-1, flat.shape[1])",
    ),
    "the gradients of weight and bias are averaged over the tokens and not summed": [
        ("x.T @ flat", "x.T @ flat / max(len(x), 1)"),
        ("flat.sum(axis=0)", "flat.sum(axis=0) / max(len(x), 1)"),
    ],
    "the gradient of the bias is averaged over the tokens and not summed": (
        "flat.sum(axis=0)",
        "flat.sum(axis=0) / max(len(x), 1)",
    ),
    "the gradients overwrite what weight and bias had collected before": [
        ("self.weight.grad += ", "self.weight.grad = "),
        ("self.bias.grad += ", "self.bias.grad = "),
    ],
    "the gradient of the bias overwrites what it had collected before": ("self.bias.grad += ", "self.bias.grad = "),
    "the gradient of the weight is transposed, which for a square matrix nothing but its values tells": (
        "x.T @ flat",
        "flat.T @ x",
    ),
    "the gradient goes back through the weight and not through its transpose": (
        "return grad @ self.weight.value.T",
        "return grad @ self.weight.value",
    ),
    "backward uses the input of the first forward and not that of the last": (
        "self.x = x\n",
        'self.x = getattr(self, "x", x)\n',
    ),
    "the weight gets no gradient": ("self.weight.grad += x.T @ flat", "pass"),
    "the bias gets no gradient": ("self.bias.grad += flat.sum(axis=0)", "pass"),
    "the gradient of the bias is summed over the features too, so all its entries are alike": (
        "flat.sum(axis=0)",
        "flat.sum()",
    ),
    "the gradient of the bias is summed over the first axis only, and there may be several in front or none": (
        "flat.sum(axis=0)",
        "grad.sum(axis=0)",
    ),
    "the gradients are subtracted, as if backward were a step of training": [
        ("self.weight.grad += ", "self.weight.grad -= "),
        ("self.bias.grad += ", "self.bias.grad -= "),
    ],
    "backward changes the weight itself and not its gradient": ("self.weight.grad += ", "self.weight.value += "),
    "backward returns nothing, so the layers before it never learn": (
        "return grad @ self.weight.value.T",
        "return None",
    ),
    "backward hands the gradient on as it came": (
        "return grad @ self.weight.value.T",
        "return np.resize(grad, self.x.shape)",
    ),
    "the weight is kept as (d_out, d_in), as torch's nn.Linear keeps it": [
        ("Parameter(xavier_uniform(rng, d_in, d_out))", "Parameter(xavier_uniform(rng, d_out, d_in))"),
        ("y = x @ self.weight.value  #", "y = x @ self.weight.value.T  #"),
        ("x.T @ flat", "flat.T @ x"),
        ("return grad @ self.weight.value.T", "return grad @ self.weight.value"),
    ],
    "the bias is not added": ("else y + self.bias.value", "else y"),
    "the bias is subtracted": ("else y + self.bias.value", "else y - self.bias.value"),
    "the bias is a plain array and no Parameter, so it never learns": [
        ("Parameter(np.zeros(d_out)) if bias", "np.zeros(d_out) if bias"),
        ("self.bias.value", "self.bias"),
        ("self.bias.grad += flat.sum(axis=0)", "pass"),
    ],
    "the bias is random at first": ("Parameter(np.zeros(d_out))", "Parameter(rng.normal(0, 0.02, size=d_out))"),
    "there is a bias even with bias=False": (
        "Parameter(np.zeros(d_out)) if bias else None",
        "Parameter(np.zeros(d_out))",
    ),
    "there is no bias unless one is asked for": ("bias: bool = True", "bias: bool = False"),
    "the first weight is normal with standard deviation 0.02": (
        "Parameter(xavier_uniform(rng, d_in, d_out))",
        "Parameter(rng.normal(0, 0.02, size=(d_in, d_out)))",
    ),
    "the first weight is normal, with the right standard deviation": (
        "Parameter(xavier_uniform(rng, d_in, d_out))",
        "Parameter(rng.normal(0, np.sqrt(2 / (d_in + d_out)), size=(d_in, d_out)))",
    ),
    "the first weight is zero": ("Parameter(xavier_uniform(rng, d_in, d_out))", "Parameter(np.zeros((d_in, d_out)))"),
    "rng is ignored: every layer is drawn with seed 0": (
        "Parameter(xavier_uniform(rng, d_in, d_out))",
        "Parameter(xavier_uniform(np.random.default_rng(0), d_in, d_out))",
    ),
}

# %% equivalent="Linear"
{
    "-1 -> -2": "NumPy takes any negative length in a reshape for the one that it has to find out",
    "-1 -> -2 #3": "NumPy takes any negative length in a reshape for the one that it has to find out",
}

# %% [markdown]
# ## Exercise 2 · `softmax` and `softmax_backward`
#
# Softmax takes the scores of a row and gives shares: $y_j = e^{x_j} / \sum_i e^{x_i}$. The scores $0$, $\ln 2$ and $\ln 5$ have the
# exponentials 1, 2 and 5, so the shares are $\frac18$, $\frac28$ and $\frac58$.
#
# Two things make it robust. A score of 1,000 has no exponential that a computer can hold. But a common shift cancels, so you may subtract the
# largest score first. And a score of $-\infty$ means "not this one": its share is exactly zero. If *all* scores of a row are $-\infty$, there
# is nothing to choose from. Then every share is zero, and none of them is NaN.
#
# Backwards: raise the score $x_j$ alone, and $y_j$ grows while all others shrink. In numbers,
#
# $$ \frac{\partial y_i}{\partial x_j} = y_i\,(\delta_{ij} - y_j)
# \qquad\Longrightarrow\qquad
# \frac{\partial L}{\partial x_j} = \sum_i g_i\, y_i\,(\delta_{ij} - y_j) = y_j\,\Bigl(g_j - \sum_i g_i\, y_i\Bigr) $$
#
# where $g$ is the gradient for $y$. Nobody builds the matrix on the left, which has $n^2$ entries for a row of $n$. Its product with $g$ takes one mean
# and one multiplication. In The idea you have computed it by hand.
#
# *Difficulty 3 of 5 · 20 minutes · 6 points*


# %% exercise="softmax" difficulty=3 minutes=20 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy", "scipy.special.softmax", "scipy.special.log_softmax", "scipy.special.logsumexp"]
def softmax(x: np.ndarray) -> np.ndarray:
    """Shares from scores, over the last axis.

    Args:
        x: (..., n) with n at least 1 and any number of axes in front, also none; float32 or float64. Its entries are finite, of
            any size, or -inf.

    Returns:
        A new array of x's shape and dtype, ``exp(x_j) / sum(exp(x_i))`` in each row. A score of -inf has a share of exactly 0.
        A row of nothing but -inf has shares of 0. There is no NaN and no infinity in the result.
    """
    ### BEGIN SOLUTION
    top = x.max(axis=-1, keepdims=True)  # (..., 1)
    top = np.where(np.isfinite(top), top, 0)  # a row of nothing but -inf has no largest score
    e = np.exp(x - top)  # (..., n), none above 1
    total = e.sum(axis=-1, keepdims=True)  # (..., 1), at least 1: the largest score has e = 1
    return e / np.maximum(total, 1)  # the sum is below 1 only where all of e is 0
    ### END SOLUTION


def softmax_backward(grad: np.ndarray, y: np.ndarray) -> np.ndarray:
    """From the gradient for the shares to the gradient for the scores.

    Args:
        grad: (..., n), the gradient of the loss for ``y``.
        y: (..., n), the shares: what `softmax` has returned. Rows of zeros are among them where there was nothing to choose from.

    Returns:
        New array (..., n) of y's dtype, the gradient of the loss for the scores. It is 0 where the share is 0.
    """
    ### BEGIN SOLUTION
    mean = (grad * y).sum(axis=-1, keepdims=True)  # (..., 1): the mean of the gradient, weighted by the shares
    return y * (grad - mean)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>All sums and maxima run over the last axis and must line up with <code>x</code> again: keep the axis, with length 1. For
# the backward pass, follow the numbers of The idea: 8, 0, 8, the mean 6, the differences, the product.</details>
# <details><summary>A bigger nudge</summary>What is the largest score of a row of nothing but minus infinity, and what do you get when you subtract it from
# itself? Put a harmless number in its place. Then the exponentials of that row are all 0, and so is their sum: the one case in which you must not divide by
# it. In all other rows the largest exponential is 1 after the shift, so the sum is at least 1. In the backward pass such rows need no care at all.</details>

# %% test="softmax" points=3
from coursekit import check

import numpy as np

scores = np.log(np.array([[[1.0, 2.0, 5.0]], [[10.0, 10.0, 20.0]]]))
shares = np.array([[[0.125, 0.25, 0.625]], [[0.25, 0.25, 0.5]]])
check.close(softmax(scores.copy()), shares, "the scores ln 1, ln 2, ln 5 and, in another text, ln 10, ln 10, ln 20")
check.close(
    softmax(scores + np.array([[[1000.0]], [[-1000.0]]])),
    shares,
    "the same scores, in one text plus 1,000, in the other minus 1,000",
)
blocked = np.array([[0.0, np.log(2), -np.inf], [-np.inf, -np.inf, -np.inf]])
want = np.array([[1 / 3, 2 / 3, 0.0], [0.0, 0.0, 0.0]])
check.close(softmax(blocked), want, "a score of -inf has the share 0, and a row of nothing else has no shares")
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(1))
for shape in ((3, 7, 5), (1, 63, 60), (5, 5), (4, 4, 4), (9,), (1,), (2, 3, 4, 6), (3, 1), (2, 0, 3)):
    x = 3 * draw.normal(size=shape)
    want = torch.softmax(torch.tensor(x), dim=-1).numpy()
    check.close(softmax(x.copy()), want, f"shape {shape}: as torch.softmax", atol=1e-10, rtol=1e-10)
    check.close(softmax(np.asfortranarray(x)), want, f"shape {shape}, not contiguous", atol=1e-10, rtol=1e-10)
x = draw.normal(size=(4, 6))
x[[0, 1, 1, 2], [3, 0, 5, 2]] = -np.inf
x[3, 1:] = -np.inf
want = torch.softmax(torch.tensor(x), dim=-1).numpy()
found = softmax(x.copy())
check.close(found, want, "some scores of -inf, in the last row all but one", atol=1e-10)
check.equal(float(np.abs(found[x == -np.inf]).max()), 0.0, "the share of a score of -inf is exactly 0")
for dtype, large in (("float32", 1e4), ("float64", 1e300)):
    x = (np.array([[1.0, -1, 0], [-1, -1, -0.5], [-1, -1, -1], [0, 0, -1]]) * large).astype(dtype)
    want = np.array([[1.0, 0, 0], [0, 0, 1], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]])
    found = softmax(x)
    check.close(found, want, f"{dtype}: scores of +-{large:g}")
    check.equal(str(found.dtype), dtype, f"{dtype}: the dtype")
mixed = np.array([[-np.inf, 0.0, -np.inf], [-np.inf] * 3], dtype="float32")
check.close(softmax(mixed), np.array([[0.0, 1, 0], [0, 0, 0]]), "float32: all but one blocked, and all blocked")
check.equal(str(softmax(mixed).dtype), "float32", "float32 with -inf: the dtype")
check.close(softmax(np.full(4, -np.inf)), np.zeros(4), "a single row, all blocked")
check.close(softmax(np.full((2, 3, 1), -np.inf)), np.zeros((2, 3, 1)), "rows of one score, all blocked")
### END HIDDEN TESTS

# %% test="softmax" points=3
from coursekit import check

import numpy as np

shares = np.array([[0.125, 0.25, 0.625], [0.25, 0.25, 0.5], [0.0, 0.0, 0.0]])
grad = np.array([[8.0, 0.0, 8.0], [4.0, 0.0, 2.0], [1.0, 2.0, 3.0]])
by_hand = np.array([[0.25, -1.5, 1.25], [0.5, -0.5, 0.0], [0.0, 0.0, 0.0]])
check.close(
    softmax_backward(grad.copy(), shares.copy()),
    by_hand,
    "by hand: the shares of the text with the gradient 8, 0, 8; then 1/4, 1/4, 1/2 with 4, 0, 2, whose mean is 2; then no shares",
)
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(2))
for shape in ((3, 7, 5), (1, 63, 60), (5, 5), (4, 4, 4), (9,), (2, 3, 4, 6), (3, 1), (2, 0, 3)):
    x, grad = 2 * draw.normal(size=shape), draw.normal(size=shape)
    leaf = torch.tensor(x, requires_grad=True)
    y = torch.softmax(leaf, dim=-1)
    y.backward(torch.tensor(grad))
    y = y.detach().numpy()
    found = np.asarray(softmax_backward(grad.copy(), y.copy()))
    check.close(found, leaf.grad.numpy(), f"shape {shape}: the gradient of torch.softmax", atol=1e-8, rtol=1e-8)
    check.close(found.sum(axis=-1), np.zeros(shape[:-1]), f"shape {shape}: each row sums to zero", atol=1e-8)
    found = softmax_backward(grad + 5.0, y.copy())
    check.close(found, leaf.grad.numpy(), f"shape {shape}: the same gradient, plus 5", atol=1e-8, rtol=1e-8)
    found = softmax_backward(np.asfortranarray(grad), np.asfortranarray(y))
    check.close(found, leaf.grad.numpy(), f"shape {shape}, not contiguous", atol=1e-8, rtol=1e-8)

# Against the definition, with softmax as torch has it: move one score a little.
x, grad = draw.normal(size=5), draw.normal(size=5)
found = np.asarray(softmax_backward(grad.copy(), torch.softmax(torch.tensor(x), dim=-1).numpy()))
for j in range(5):
    moved = torch.tensor(x).repeat(2, 1)
    moved[0, j] += 1e-5
    moved[1, j] -= 1e-5
    up, down = torch.softmax(moved, dim=-1) @ torch.tensor(grad)
    check.close(float(found[j]), float(up - down) / 2e-5, f"entry {j} is the slope of the loss", atol=1e-8)
y = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype="float32")
found = softmax_backward(draw.normal(size=(3, 3)).astype("float32"), y)
check.equal(str(found.dtype), "float32", "float32: the dtype")
check.close(found[y == 0], np.zeros(6), "where the share is 0, no gradient arrives")
check.close(found[1, 0], 0.0, "a row that has made up its mind has no gradient")
### END HIDDEN TESTS


# %% alternative="softmax"
def softmax(x):
    # Blocked rows apart, everything in float64.
    print("shares of", x.shape)
    rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
    result = np.zeros_like(rows)
    for i, row in enumerate(rows):
        may = row > -np.inf
        if may.any():
            log_total = np.log(np.exp(row[may] - row[may].max()).sum()) + row[may].max()
            result[i, may] = np.exp(row[may] - log_total)
            result[i] /= result[i].sum()
    return result.reshape(x.shape).astype(x.dtype)


def softmax_backward(grad, y):
    # With the whole matrix of each row.
    n = y.shape[-1]
    jacobian = np.eye(n, dtype=y.dtype) * y[..., None, :] - y[..., :, None] * y[..., None, :]
    return np.einsum("...i,...ij->...j", grad, jacobian)


# %% mistakes="softmax"
{
    "softmax_backward keeps only the diagonal of the matrix, y (1 - y), and forgets that the other shares shrink": (
        "return y * (grad - mean)",
        "return grad * y * (1 - y)",
    ),
    "softmax_backward forgets the mean: the gradient times the shares": (
        "return y * (grad - mean)",
        "return y * grad",
    ),
    "softmax_backward subtracts the plain mean of the gradient, without the shares as weights": (
        "(grad * y).sum(axis=-1, keepdims=True)",
        "grad.mean(axis=-1, keepdims=True)",
    ),
    "softmax_backward subtracts the sum of the gradient, without the shares as weights": (
        "(grad * y).sum(axis=-1, keepdims=True)",
        "grad.sum(axis=-1, keepdims=True)",
    ),
    "softmax_backward divides the weighted sum by n once more, as if it were no mean yet": (
        "(grad * y).sum(axis=-1, keepdims=True)",
        "(grad * y).mean(axis=-1, keepdims=True)",
    ),
    "softmax_backward drops the axis of the mean (no keepdims), so the mean of row j is subtracted in column j": (
        "(grad * y).sum(axis=-1, keepdims=True)",
        "(grad * y).sum(axis=-1)",
    ),
    "softmax_backward takes one mean over all rows": ("(grad * y).sum(axis=-1, keepdims=True)", "(grad * y).sum()"),
    "softmax_backward adds the mean and should subtract it": ("grad - mean", "grad + mean"),
    "softmax_backward leaves out the factor y in front": ("return y * (grad - mean)", "return grad - mean"),
    "softmax_backward squares the factor y in front": ("return y * (grad - mean)", "return y * y * (grad - mean)"),
    "softmax_backward takes y for the scores and applies softmax to it": (
        "mean = (grad * y)",
        "y = softmax(y); mean = (grad * y)",
    ),
    "softmax_backward returns the gradient with the wrong sign": ("y * (grad - mean)", "y * (mean - grad)"),
    "the largest score is not subtracted, so a large score overflows": [
        ("np.exp(x - top)", "np.exp(x)"),
        ("np.maximum(total, 1)", "np.where(total == 0, 1, total)"),
    ],
    "the largest score of the whole array is subtracted, so a row far below it underflows": [
        ("x.max(axis=-1, keepdims=True)", "x.max(initial=-np.inf)"),
        ("np.maximum(total, 1)", "np.where(total == 0, 1, total)"),
    ],
    "the exponentials are divided by the sum of the whole array": ("e.sum(axis=-1, keepdims=True)", "e.sum()"),
    "softmax runs over the axis before the last": [
        ("x.max(axis=-1, keepdims=True)", "x.max(axis=max(x.ndim - 2, 0), keepdims=True)"),
        ("e.sum(axis=-1, keepdims=True)", "e.sum(axis=max(x.ndim - 2, 0), keepdims=True)"),
    ],
    "softmax runs over the first axis": [
        ("x.max(axis=-1, keepdims=True)", "x.max(axis=0, keepdims=True, initial=-np.inf)"),
        ("e.sum(axis=-1, keepdims=True)", "e.sum(axis=0, keepdims=True)"),
    ],
    "a row of nothing but -inf becomes NaN": [
        ("top = np.where(np.isfinite(top), top, 0)", "pass"),
        ("np.maximum(total, 1)", "total"),
    ],
    "-inf is replaced by -1e9, so a row of nothing else gets equal shares": (
        "top = x.max",
        "x = np.maximum(x, -1e9).astype(x.dtype); top = x.max",
    ),
    "1e-9 is added to the sum against a division by zero, which moves all other shares": (
        "np.maximum(total, 1)",
        "(total + 1e-9)",
    ),
    "2 is raised to the scores and not e": ("np.exp(x - top)", "np.exp2(x - top)"),
    "the logarithm of the shares is returned": (
        "return e / np.maximum(total, 1)",
        "return x - top - np.log(np.maximum(total, 1))",
    ),
    "the result is float64 whatever the scores are": (
        "return e / np.maximum(total, 1)",
        "return (e / np.maximum(total, 1)).astype(np.float64)",
    ),
}

# %% equivalent="softmax"
{
    "np.where(np.isfinite(top), top, 0) -> np.where(np.isfinite(top), top, 1)": "any finite number will do in the place "
    "of the largest score of a row that is all -inf",
}

# %% [markdown]
# ## Exercise 3 · `attention` and `attention_backward`
#
# Now the gathering itself, as two functions without parameters. Forward there are four steps:
#
# $$ S = \frac{Q K^\top}{\sqrt{d_k}}, \qquad S_{ij} = -\infty \text{ where the mask says no}, \qquad
# W = \operatorname{softmax}(S), \qquad Y = W V . $$
#
# The division by $\sqrt{d_k}$ keeps the scores at one size, whatever the width: a sum of $d_k$ independent products has a spread of $\sqrt{d_k}$.
#
# Back you go through the steps in reverse. $Y = WV$ is a product of two matrices that both get a gradient, and so is
# $QK^\top$. For either there is the rule from Exercise 1: for $Y = AB$ and a gradient $G$ for $Y$, the gradients are $G B^\top$ for $A$
# and $A^\top G$ for $B$. The shapes allow nothing else. The mask needs no line of its own: where the share is 0, `softmax_backward` lets nothing through.
#
# *Difficulty 4 of 5 · 30 minutes · 6 points*


# %% exercise="attention" difficulty=4 minutes=30 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy", "scipy.special.softmax"]
def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Let every query gather from the values, with weights from the keys.

    Args:
        q: (..., T_q, d_k) queries, float32 or float64; any number of axes in front, also none.
        k: (..., T_k, d_k) keys, with the same axes in front.
        v: (..., T_k, d_v) values, with the same axes in front.
        mask: boolean, broadcasts to (..., T_q, T_k); True where the query may look at the key. None allows everything.

    Returns:
        output (..., T_q, d_v) and weights (..., T_q, T_k), of q's dtype. The weights are
        ``softmax(q @ k^T / sqrt(d_k))`` over the keys that the query may look at, and exactly 0 for the others. A query that
        may look at nothing has weights of 0 and an output of 0.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.2.1.
    """
    ### BEGIN SOLUTION
    scores = q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5  # (..., T_q, T_k)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    weights = softmax(scores)  # (..., T_q, T_k)
    return weights @ v, weights
    ### END SOLUTION


def attention_backward(
    grad: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """From the gradient for the output to those for queries, keys and values.

    Args:
        grad: (..., T_q, d_v), the gradient of the loss for the output of `attention`.
        q, k, v: what `attention` was given.
        weights: (..., T_q, T_k), what it returned beside the output. They know the mask: it has left zeros.

    Returns:
        The gradients for q, k and v, in this order, of their shapes and dtype. A query that may look at nothing gets a
        gradient of 0, and takes no part in those of k and v.
    """
    ### BEGIN SOLUTION
    grad_v = weights.swapaxes(-1, -2) @ grad  # (..., T_k, T_q) @ (..., T_q, d_v)
    grad_weights = grad @ v.swapaxes(-1, -2)  # (..., T_q, d_v) @ (..., d_v, T_k)
    grad_scores = softmax_backward(grad_weights, weights) * q.shape[-1] ** -0.5  # (..., T_q, T_k)
    grad_q = grad_scores @ k  # (..., T_q, T_k) @ (..., T_k, d_k)
    grad_k = grad_scores.swapaxes(-1, -2) @ q  # (..., T_k, T_q) @ (..., T_q, d_k)
    return grad_q, grad_k, grad_v
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Write the shape beside every line, as in the table of shapes. <code>k.swapaxes(-1, -2)</code> transposes the last two axes and
# leaves all others in place; <code>k.T</code> would turn all of them round. In the backward pass each line of the forward pass has its line, from the
# last to the first.</details>
# <details><summary>A bigger nudge</summary>The output came from two things: the weights and the values. First find a gradient for each of the two. Then send that of the weights
# through your <code>softmax_backward</code>: now you have the gradient for the scores. The factor from the forward pass is a factor in the backward pass,
# once. The scores came from two things again. Use <code>np.where</code> for the mask, before the softmax.</details>

# %% test="attention" points=3
from coursekit import check

import numpy as np

# One query. With the factor 1/2 its scores are ln 1, ln 2 and ln 5: the weights and values of the text.
q = np.array([[2.0, 0.0, 0.0, 0.0]])
k = np.array([[0.0, 1, 0, 0], [np.log(2), 0, 1, 0], [np.log(5), 0, 0, 1]])
v = np.array([[8.0, 0.0], [0.0, 8.0], [8.0, 8.0]])
output, weights = attention(q, k, v)
check.close(weights, np.array([[0.125, 0.25, 0.625]]), "the weights of the text, from q . k / sqrt(4)")
check.close(output, np.array([[6.0, 7.0]]), "the output of the text")
output, weights = attention(q, k, v, np.array([[True, True, False]]))
check.close(weights, np.array([[1 / 3, 2 / 3, 0.0]]), "the third token is hidden: the others share what there is")
check.close(output, np.array([[8 / 3, 16 / 3]]), "the third token is hidden: the output")
output, weights = attention(q, k, v, np.array([[False, False, False]]))
check.close(weights, np.zeros((1, 3)), "a query that may look at nothing: the weights")
check.close(output, np.zeros((1, 2)), "a query that may look at nothing: the output")
output, weights = attention(*(a.astype("float32") for a in (q, k, v)))
check.equal(
    [str(output.dtype), str(weights.dtype)],
    ["float32", "float32"],
    "float32 in, float32 out",
    hint="np.sqrt(4) is a float64 number and makes everything float64 that it meets. 4**0.5 is a plain one and adapts.",
)
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(1))


def oracle(q, k, v, mask):
    q, k, v = (torch.tensor(a) for a in (q, k, v))
    may = None if mask is None else torch.tensor(mask).broadcast_to(*q.shape[:-1], k.shape[-2])
    output = torch.nn.functional.scaled_dot_product_attention(q, k, v, may)
    # The weights are the output for values that are an identity matrix.
    eye = torch.eye(k.shape[-2], dtype=q.dtype).broadcast_to(*k.shape[:-1], k.shape[-2])
    return output.numpy(), torch.nn.functional.scaled_dot_product_attention(q, k, eye, may).numpy()


for front, T_q, T_k, d_k, d_v in (
    ((), 7, 11, 6, 5),
    ((3,), 63, 63, 10, 10),
    ((2, 3), 5, 4, 1, 7),
    ((1,), 1, 6, 4, 4),
    ((3,), 6, 1, 4, 2),
    ((4, 4), 4, 4, 4, 4),
):
    q, k, v = (draw.normal(size=(*front, *last)) for last in ((T_q, d_k), (T_k, d_k), (T_k, d_v)))
    may = draw.random((*front, T_q, T_k)) < 0.6
    may[..., 0] = True
    may[..., 1:2] = False
    masks = {"no mask": None, "a mask for each text": may, "a mask (T_k,)": np.arange(T_k) % 3 != 1}
    for name, mask in masks.items():
        case = f"axes in front {front}, T_q={T_q}, T_k={T_k}, d_k={d_k}, d_v={d_v}, {name}"
        want_output, want_weights = oracle(q, k, v, mask)
        output, weights = attention(q.copy(), k.copy(), v.copy(), None if mask is None else mask.copy())
        check.close(weights, want_weights, f"{case}: the weights", atol=1e-8, rtol=1e-8)
        check.close(output, want_output, f"{case}: the output", atol=1e-8, rtol=1e-8)
        if mask is not None:
            hidden = np.asarray(weights)[~np.broadcast_to(mask, weights.shape)]
            check.equal(float(np.abs(hidden).sum()), 0.0, f"{case}: hidden keys have a weight of exactly 0")
q, k, v = (draw.normal(size=(2, 5, 4)) for _ in range(3))
nothing = np.tril(np.ones((5, 5), dtype=bool), -1)  # the first token has nothing before it
output, weights = attention(q.copy(), k.copy(), v.copy(), nothing)
want_output, want_weights = oracle(q[:, 1:], k, v, nothing[1:])
check.close(output[:, 0], np.zeros((2, 4)), "only what came before: the first query may look at nothing")
check.close(weights[:, 0], np.zeros((2, 5)), "only what came before: the weights of the first query")
check.close(output[:, 1:], want_output, "only what came before: the other queries", atol=1e-8, rtol=1e-8)
later = np.concatenate([np.zeros((2, 3, 4)), np.ones((2, 2, 4))], axis=1)
causal = np.tril(np.ones((5, 5), dtype=bool))
before = attention(q.copy(), k.copy(), v.copy(), causal)[0]
after = attention(q + 3 * later, k - 2 * later, v + later, causal)[0]
check.close(after[:, :3], before[:, :3], "causal: a change of tokens 3 and 4 changes nothing for tokens 0 to 2")
tall = [np.asfortranarray(a) for a in (q, k, v)]
check.close(attention(*tall)[0], oracle(q, k, v, None)[0], "not contiguous", atol=1e-8, rtol=1e-8)
q, k, v = np.array([[1e4], [-1.0]]), np.array([[1.0], [0.0], [-1.0]]), np.eye(3)
output, _ = attention(q, k, v)
e = np.exp([-1.0, 0, 1])
check.close(output, np.stack([[1.0, 0, 0], e / e.sum()]), "scores of 10,000 beside scores of 1")
output, weights = attention(*(a.astype("float32") for a in (q, k, v)), np.ones((2, 3), dtype=bool))
check.equal([str(output.dtype), str(weights.dtype)], ["float32"] * 2, "float32 in, float32 out, with a mask")
### END HIDDEN TESTS

# %% test="attention" points=3
from coursekit import check

import numpy as np

# Three queries. The first is that of the text; the others weigh all alike, and no gradient arrives at them.
q = np.array([[2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
k = np.array([[0.0, 1, 0, 0], [np.log(2), 0, 1, 0], [np.log(5), 0, 0, 1]])
v = np.array([[8.0, 0.0], [0.0, 8.0], [8.0, 8.0]])
weights = np.array([[0.125, 0.25, 0.625], [1 / 3, 1 / 3, 1 / 3], [1 / 3, 1 / 3, 1 / 3]])
grad = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
grad_q, grad_k, grad_v = attention_backward(grad, q, k, v, weights)
check.close(grad_v, np.array([[0.125, 0], [0.25, 0], [0.625, 0]]), "grad_v: the gradient (1, 0), in three shares")
# The gradient for the scores is 1/4, -3/2, 5/4, as in the text. Times the factor 1/2: 0.125, -0.75, 0.625.
check.close(grad_k, np.array([[0.25, 0, 0, 0], [-1.5, 0, 0, 0], [1.25, 0, 0, 0]]), "grad_k: those numbers times q")
first = [-0.75 * np.log(2) + 0.625 * np.log(5), 0.125, -0.75, 0.625]
check.close(grad_q, np.array([first, [0.0] * 4, [0.0] * 4]), "grad_q: those numbers times the keys, added up")
single = attention_backward(*(a.astype("float32") for a in (grad, q, k, v, weights)))
check.equal([str(a.dtype) for a in single], ["float32"] * 3, "float32 in, float32 out", hint="Is there an np.sqrt?")
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(2))


def oracle(grad, q, k, v, mask=None):
    """Weights, and gradients by autograd."""
    leaves = [torch.tensor(a, requires_grad=True) for a in (q, k, v)]
    scores = leaves[0] @ leaves[1].mT / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~torch.tensor(mask), -torch.inf)
    weights = torch.softmax(scores, dim=-1)
    (weights @ leaves[2]).backward(torch.tensor(grad))
    return weights.detach().numpy(), [leaf.grad.numpy() for leaf in leaves]


for front, T_q, T_k, d_k, d_v in (
    ((), 7, 11, 6, 5),
    ((3,), 63, 63, 10, 10),
    ((2, 3), 5, 4, 1, 7),
    ((1,), 1, 6, 4, 4),
    ((3,), 6, 1, 4, 2),
    ((4, 4), 4, 4, 4, 4),
):
    q, k, v, grad = (draw.normal(size=(*front, *last)) for last in ((T_q, d_k), (T_k, d_k), (T_k, d_v), (T_q, d_v)))
    may = draw.random((*front, T_q, T_k)) < 0.6
    may[..., 0] = True
    for name, mask in (("no mask", None), ("a mask", may)):
        case = f"axes in front {front}, T_q={T_q}, T_k={T_k}, d_k={d_k}, d_v={d_v}, {name}"
        weights, wanted = oracle(grad, q, k, v, mask)
        found = attention_backward(grad.copy(), q.copy(), k.copy(), v.copy(), weights.copy())
        for letter, mine, want in zip("vkq", found[::-1], wanted[::-1], strict=True):
            check.close(mine, want, f"{case}: grad_{letter}", atol=1e-8, rtol=1e-8)

# A query that may look at nothing: as if it were not there.
q, k, v, grad = (draw.normal(size=(3, 4, 6)) for _ in range(4))
weights, wanted = oracle(grad[:, 1:], q[:, 1:], k, v)
weights = np.concatenate([np.zeros((3, 1, 4)), weights], axis=1)
found = attention_backward(grad.copy(), q.copy(), k.copy(), v.copy(), weights)
check.close(found[0][:, 0], np.zeros((3, 6)), "a query that may look at nothing gets no gradient")
for letter, mine, want in zip("qkv", (found[0][:, 1:], *found[1:]), wanted, strict=True):
    check.close(mine, want, f"beside a query that may look at nothing: grad_{letter}", atol=1e-8, rtol=1e-8)

# Against the definition: move one number a little. Here your two functions have to agree with each other.
q, k, v, direction = (
    draw.normal(size=(2, 3)),
    draw.normal(size=(4, 3)),
    draw.normal(size=(4, 5)),
    draw.normal(size=(2, 5)),
)
found = attention_backward(direction, q, k, v, oracle(direction, q, k, v)[0])
for which, place in ((0, (1, 2)), (1, (3, 0)), (2, (2, 4))):
    losses = []
    for sign in (1, -1):
        moved = [q.copy(), k.copy(), v.copy()]
        moved[which][place] += sign * 1e-5
        losses.append(float((attention(*moved)[0] * direction).sum()))
    slope = (losses[0] - losses[1]) / 2e-5
    check.close(
        float(found[which][place]), slope, f"grad_{'qkv'[which]}{list(place)} is the slope of the loss", atol=1e-8
    )
tall = [np.asfortranarray(a) for a in (direction, q, k, v, oracle(direction, q, k, v)[0])]
for mine, want in zip(attention_backward(*tall), oracle(direction, q, k, v)[1], strict=True):
    check.close(mine, want, "not contiguous", atol=1e-8, rtol=1e-8)
single = attention_backward(*(a.astype("float32") for a in tall))
check.equal([str(a.dtype) for a in single], ["float32"] * 3, "float32 in, float32 out")
### END HIDDEN TESTS


# %% alternative="attention"
def attention(q, k, v, mask=None):
    # With einsum, and the mask as a number that is added.
    print(f"{q.shape[-2]} queries, {k.shape[-2]} keys")
    scores = np.einsum("...id,...jd->...ij", q, k) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores + np.where(np.broadcast_to(mask, scores.shape), 0.0, -np.inf).astype(scores.dtype)
    weights = softmax(scores)
    return np.einsum("...ij,...jd->...id", weights, v), weights


def attention_backward(grad, q, k, v, weights):
    root = q.shape[-1] ** 0.25  # half of the factor to the queries, half to the keys
    q, k = q / root, k / root
    grad_weights = np.einsum("...id,...jd->...ij", grad, v)
    centred = grad_weights - np.einsum("...ij,...ij->...i", grad_weights, weights)[..., None]
    scores = weights * centred
    return (
        np.einsum("...ij,...jd->...id", scores, k) / root,
        np.einsum("...ij,...id->...jd", scores, q) / root,
        np.einsum("...ij,...id->...jd", weights, grad),
    )


# %% alternative="attention"
def attention(q, k, v, mask=None):
    # One query at a time, over the keys that it may look at.
    weights = np.zeros((*q.shape[:-1], k.shape[-2]), dtype=q.dtype)
    may = np.ones(weights.shape, dtype=bool) if mask is None else np.broadcast_to(mask, weights.shape)
    for place in np.ndindex(q.shape[:-1]):
        seen = np.flatnonzero(may[place])
        if len(seen):
            weights[place][seen] = softmax(k[place[:-1]][seen] @ q[place] / np.sqrt(q.shape[-1]))
    return np.matmul(weights, v), weights


def attention_backward(grad, q, k, v, weights):
    grad_q, grad_k, grad_v = (np.zeros(a.shape, dtype=a.dtype) for a in (q, k, v))
    for place in np.ndindex(q.shape[:-1]):
        text, share = place[:-1], weights[place]
        grad_v[text] += np.outer(share, grad[place])
        scores = softmax_backward(v[text] @ grad[place], share) / np.sqrt(q.shape[-1])
        grad_q[place] = scores @ k[text]
        grad_k[text] += np.outer(scores, q[place])
    return grad_q, grad_k, grad_v


# %% mistakes="attention"
{
    "the gradient goes past the softmax as if it were not there": (
        "softmax_backward(grad_weights, weights) *",
        "grad_weights *",
    ),
    "the softmax is taken for its diagonal on the way back": (
        "softmax_backward(grad_weights, weights) *",
        "grad_weights * weights * (1 - weights) *",
    ),
    "the factor 1 / sqrt(d_k) is missing from the backward pass": (
        "softmax_backward(grad_weights, weights) * q.shape[-1] ** -0.5",
        "softmax_backward(grad_weights, weights)",
    ),
    "the factor 1 / sqrt(d_k) is applied twice on the way back": (
        "softmax_backward(grad_weights, weights) * q.shape[-1] ** -0.5",
        "softmax_backward(grad_weights, weights) * q.shape[-1] ** -1.0",
    ),
    "the gradient is multiplied by sqrt(d_k) and should be divided by it": (
        "softmax_backward(grad_weights, weights) * q.shape[-1] ** -0.5",
        "softmax_backward(grad_weights, weights) * q.shape[-1] ** 0.5",
    ),
    "grad_v is gathered with the weights and not with their transpose": (
        "grad_v = weights.swapaxes(-1, -2) @ grad",
        "grad_v = weights @ grad",
    ),
    "grad_k uses the gradient for the scores without its transpose": (
        "grad_k = grad_scores.swapaxes(-1, -2) @ q",
        "grad_k = grad_scores @ q",
    ),
    "grad_q is made from the queries and not from the keys": (
        "grad_q = grad_scores @ k",
        "grad_q = grad_scores @ q",
    ),
    "grad_k is made from the keys and not from the queries": (
        "grad_k = grad_scores.swapaxes(-1, -2) @ q",
        "grad_k = grad_scores.swapaxes(-1, -2) @ k",
    ),
    "the values alone get a gradient: the weights are taken for constants": (
        "return grad_q, grad_k, grad_v",
        "return 0 * grad_q, 0 * grad_k, grad_v",
    ),
    "grad_v is the gradient itself, spread over all tokens without the weights": (
        "grad_v = weights.swapaxes(-1, -2) @ grad",
        "grad_v = np.ones_like(weights).swapaxes(-1, -2) @ grad",
    ),
    "the gradients of queries and keys have changed places": (
        "return grad_q, grad_k, grad_v",
        "return grad_k, grad_q, grad_v",
    ),
    "the gradients come in the order values, keys, queries": (
        "return grad_q, grad_k, grad_v",
        "return grad_v, grad_k, grad_q",
    ),
    "the scores are not divided by sqrt(d_k)": (
        "scores = q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5",
        "scores = q @ k.swapaxes(-1, -2)",
    ),
    "the scores are divided by d_k and not by its root": (
        "scores = q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5",
        "scores = q @ k.swapaxes(-1, -2) * q.shape[-1] ** -1.0",
    ),
    "the scores are divided by the root of the number of keys": (
        "scores = q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5",
        "scores = q @ k.swapaxes(-1, -2) * k.shape[-2] ** -0.5",
    ),
    "the factor comes out of np.sqrt, a float64 number, and turns float32 into float64": (
        "q.shape[-1] ** -0.5",
        "(1 / np.sqrt(q.shape[-1]))",
        "all",
    ),
    "softmax runs over the queries and not over the keys": (
        "weights = softmax(scores)",
        "weights = softmax(scores.swapaxes(-1, -2)).swapaxes(-1, -2)",
    ),
    "the mask is read the wrong way round: True hides": (
        "np.where(mask, scores, -np.inf)",
        "np.where(mask, -np.inf, scores)",
    ),
    "the mask is ignored": ("scores = np.where(mask, scores, -np.inf)", "pass"),
    "hidden keys get the score 0, which is a score like any other": (
        "np.where(mask, scores, -np.inf)",
        "np.where(mask, scores, 0.0)",
    ),
    "hidden keys get the score -1e9, so a query that may look at nothing looks at everything": (
        "np.where(mask, scores, -np.inf)",
        "np.where(mask, scores, -1e9)",
    ),
    "the mask is applied after the softmax, so the weights no longer sum to one": (
        "        scores = np.where(mask, scores, -np.inf)\n    weights = softmax(scores)",
        "        pass\n    weights = softmax(scores) * np.array(True if mask is None else mask)",
    ),
    "a query that may look at nothing has NaN": (
        "weights = softmax(scores)",
        "top = scores.max(axis=-1, keepdims=True); weights = np.exp(scores - top) / np.exp(scores - top).sum(axis=-1, keepdims=True)",
    ),
    "the exponentials overflow: the softmax is written out again, without the shift": (
        "weights = softmax(scores)",
        "e = np.exp(scores); total = e.sum(axis=-1, keepdims=True); weights = e / np.where(total == 0, 1, total)",
    ),
    "the scores are returned and not the weights": ("return weights @ v, weights", "return weights @ v, scores"),
    "weights and output have changed places": ("return weights @ v, weights", "return weights, weights @ v"),
}

# %% [markdown]
# ## Exercise 4 · `SelfAttention`
#
# Where do queries, keys and values come from? From the same tokens, by three linear layers that are learned: $Q = XW_q + b_q$,
# $K = XW_k + b_k$, $V = XW_v + b_v$. Three layers, because what a token looks for, what it has and what it hands over are three things. A text that looks things up in
# itself: hence *self*-attention.
#
# Each token goes in three times, as query, as key and as value. You know the sentence by heart now.
#
# *Difficulty 3 of 5 · 15 minutes · 5 points*


# %% exercise="SelfAttention" difficulty=3 minutes=15 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy", "scipy.special.softmax"]
class SelfAttention(Layer):
    """One head of attention in which the tokens of a text look at each other.

    Args:
        d_model: features of a token. Queries, keys and values have as many.
        rng: all random numbers come from it.

    Parameters:
        Those of three layers ``q``, ``k`` and ``v``, each a ``Linear(d_model, d_model, rng)`` with first numbers of its
        own: ``q.weight``, ``q.bias``, ``k.weight`` and so on. Nothing else.

    Attributes:
        weights: (..., T, T), the weights of the last `forward`.
    """

    def __init__(self, d_model: int, rng: np.random.Generator):
        ### BEGIN SOLUTION
        self.q = Linear(d_model, d_model, rng)
        self.k = Linear(d_model, d_model, rng)
        self.v = Linear(d_model, d_model, rng)
        ### END SOLUTION

    def forward(self, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Let each token gather from the tokens of its text.

        Args:
            x: (..., T, d_model) with any number of axes in front, also none.
            mask: boolean, broadcasts to (..., T, T); True where a token (row) may look at a token (column). None allows
                everything.

        Returns:
            Array (..., T, d_model): `attention` of the queries, keys and values. A token that may look at nothing gets zeros.
            Where x and the parameters are float32, so is the output.
        """
        ### BEGIN SOLUTION
        self.qkv = self.q(x), self.k(x), self.v(x)  # three times (..., T, d_model)
        output, self.weights = attention(*self.qkv, mask)
        return output
        ### END SOLUTION

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x, and on the way those of the parameters, which are added to what they held before.

        Args:
            grad: (..., T, d_model), the gradient of the loss for the output of the last `forward`.

        Returns:
            The gradient for x, of its shape.
        """
        ### BEGIN SOLUTION
        grad_q, grad_k, grad_v = attention_backward(grad, *self.qkv, self.weights)
        return self.q.backward(grad_q) + self.k.backward(grad_k) + self.v.backward(grad_v)
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary><code>forward</code> calls three layers and one function; <code>backward</code> calls one function and three layers. What must
# you keep in between?</details>
# <details><summary>A bigger nudge</summary>Look at the arguments of <code>attention_backward</code>: that is the list of what to keep. Each of the three linear
# layers returns a gradient for the same <code>x</code>.</details>

# %% test="SelfAttention" points=3
from coursekit import check

import numpy as np

layer = SelfAttention(4, new_rng(0))
names = [f"{part}.{kind}" for part in "kqv" for kind in ("bias", "weight")]
check.equal(sorted(layer.parameters()), names, "the names of the parameters")
# Token 0 asks as in the text; the others ask for nothing and weigh all alike. The keys are the tokens themselves.
x = np.array([[0.0, 1, 0, 0], [np.log(2), 0, 1, 0], [np.log(5), 0, 0, 1]])
layer.q.weight.value = np.array([[0.0, 0, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
layer.k.weight.value = np.eye(4)
layer.v.weight.value = np.array([[0.0, 0, 0, 0], [8, 0, 0, 0], [0, 8, 0, 0], [8, 8, 0, 0]])
found = passes(layer, (x,), np.array([[1.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
third = 16 / 3
want = np.array([[6.0, 7, 0, 0], [third, third, 0, 0], [third, third, 0, 0]])
check.close(found["output"], want, "token 0 gathers as in the text, the others take the plain mean")
check.close(layer.weights, np.array([[0.125, 0.25, 0.625], [1 / 3] * 3, [1 / 3] * 3]), "the attribute weights")
first = -0.75 * np.log(2) + 0.625 * np.log(5)
by_queries = np.array([[0.0, 2 * first, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
by_keys = np.array([[0.25, 0, 0, 0], [-1.5, 0, 0, 0], [1.25, 0, 0, 0]])
by_values = np.array([[0.0, 1, 0, 1], [0, 2, 0, 2], [0, 5, 0, 5]])
check.close(
    found.get("grad", np.nan),
    by_queries + by_keys + by_values,
    "the gradient for x: feature 0 gets it through the keys, features 1 and 3 through the values, and token 0's feature 1 "
    "through its query as well",
)
check.close(found["grad.q.bias"], np.array([first, 0.125, -0.75, 0.625]), "the gradient of the bias of the queries")
layer.backward(np.array([[1.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
check.close(layer.q.bias.grad, 2 * np.array([first, 0.125, -0.75, 0.625]), "the same gradient again comes on top")
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(1))


def drawn(d_model):
    sizes = {"weight": (d_model, d_model), "bias": (d_model,)}
    return {f"{part}.{kind}": draw.normal(size=sizes[kind]) / d_model**0.25 for part in "qkv" for kind in sizes}


def filled(layer, values):
    for name, value in values.items():
        part, kind = name.split(".")
        getattr(getattr(layer, part), kind).value = value
    return layer


def oracle(x, grad, values):
    """nn.MultiheadAttention with one head, whose output projection does nothing."""
    T, d_model = x.shape[-2:]
    twin = torch.nn.MultiheadAttention(d_model, 1, batch_first=True, dtype=torch.float64)
    weights, biases = (
        torch.tensor(np.concatenate([values[f"{part}.{kind}"].T for part in "qkv"])) for kind in ("weight", "bias")
    )
    twin.load_state_dict(
        {
            "in_proj_weight": weights,
            "in_proj_bias": biases,
            "out_proj.weight": torch.eye(d_model, dtype=torch.float64),
            "out_proj.bias": torch.zeros(d_model, dtype=torch.float64),
        }
    )
    leaf = torch.tensor(x, requires_grad=True)
    texts = leaf.reshape(-1, T, d_model)
    output, shares = twin(texts, texts, texts)
    output.reshape(x.shape).backward(torch.tensor(grad))
    wanted = {"output": output.detach().numpy().reshape(x.shape), "grad": leaf.grad.numpy()}
    for part, weight, bias in zip(
        "qkv", twin.in_proj_weight.grad.chunk(3), twin.in_proj_bias.grad.chunk(3), strict=True
    ):
        wanted |= {f"grad.{part}.weight": weight.T.numpy(), f"grad.{part}.bias": bias.numpy()}
    return wanted, shares.detach().numpy().reshape(*x.shape[:-1], T)


for shape in ((3, 7, 6), (1, 63, 10), (5, 4), (4, 4, 4), (2, 3, 5, 2), (2, 1, 3), (3, 4, 1)):
    x, grad, values = draw.normal(size=shape), draw.normal(size=shape), drawn(shape[-1])
    layer = filled(SelfAttention(shape[-1], new_rng(0)), values)
    wanted, shares = oracle(x, grad, values)
    found = passes(layer, (x,), grad)
    check.equal(sorted(found), sorted(wanted), f"x of shape {shape}: what there is a gradient for")
    check.close(layer.weights, shares, f"x of shape {shape}: the weights", atol=1e-8, rtol=1e-8)
    for name, want in wanted.items():
        check.close(found[name], want, f"x of shape {shape}: {name}", atol=1e-8, rtol=1e-8)
    layer.backward(2 * grad)
    for name in ("q", "k", "v"):
        check.close(
            getattr(layer, name).weight.grad,
            3 * wanted[f"grad.{name}.weight"],
            f"x of shape {shape}: a second backward adds to {name}.weight",
            atol=1e-8,
            rtol=1e-8,
        )
# The layer answers for its last forward.
x, other, grad = draw.normal(size=(2, 5, 4)), draw.normal(size=(3, 4)), draw.normal(size=(3, 4))
values = drawn(4)
layer = filled(SelfAttention(4, new_rng(0)), values)
wanted, _ = oracle(other, grad, values)
layer.forward(x)
layer.forward(other)
into = layer.backward(grad)
check.close(into, wanted["grad"], "two forwards, then a backward: the gradient for the second x", atol=1e-8, rtol=1e-8)
want = wanted["grad.v.weight"]
check.close(layer.v.weight.grad, want, "two forwards, then a backward: v.weight", atol=1e-8, rtol=1e-8)
layer.astype("float32")
single = passes(layer, (x.astype("float32"), np.ones((5, 5), dtype=bool)), x.astype("float32"))
check.equal(sorted({str(v.dtype) for v in single.values()}), ["float32"], "after astype('float32') all is float32")
### END HIDDEN TESTS

# %% test="SelfAttention" points=2
from coursekit import check

import numpy as np

layer = SelfAttention(2, new_rng(0))
x = np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]])
before = layer.forward(x, causal_mask(3))
after = layer.forward(np.array([[1.0, 2.0], [3.0, -1.0], [9.0, 9.0]]), causal_mask(3))
check.close(after[:2], before[:2], "causal: a change of the last token changes nothing before it")
check.close(after[0], layer.v.forward(x[:1])[0], "causal: the first token sees itself alone, so it gets its own value")
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(2))
x, grad = draw.normal(size=(3, 6, 4)), draw.normal(size=(3, 6, 4))
layer = SelfAttention(4, new_rng(0))
values = {}
for part in "qkv":
    values[part] = draw.normal(size=(4, 4)), draw.normal(size=4)
    getattr(layer, part).weight.value, getattr(layer, part).bias.value = values[part]
may = draw.random((3, 6, 6)) < 0.6
may[:, np.arange(6), np.arange(6)] = True
may[:, 0, 1] = False
may[1, 3] = False  # token 3 of text 1 may look at nothing
padding = np.array([[True] * 6, [True] * 4 + [False] * 2, [True] + [False] * 5])[:, None]  # (3, 1, 6)
for name, mask in (("a mask for each text", may), ("padding (B, 1, T)", padding), ("causal", np.tri(6, dtype=bool))):
    leaves = {"x": torch.tensor(x, requires_grad=True)}
    for part in "qkv":
        leaves[part], leaves[f"{part}.bias"] = (torch.tensor(a, requires_grad=True) for a in values[part])
    q, k, v = (leaves["x"] @ leaves[part] + leaves[f"{part}.bias"] for part in "qkv")
    hidden = ~torch.tensor(mask).broadcast_to(3, 6, 6)
    # Without -inf in a row of its own: what may look at nothing is set to zero afterwards.
    alone = hidden.all(dim=-1, keepdim=True)
    shares = (q @ k.mT / 2).masked_fill(hidden & ~alone, -torch.inf).softmax(dim=-1).masked_fill(alone, 0.0)
    output = shares @ v
    output.backward(torch.tensor(grad))
    found = passes(layer, (x, mask), grad)
    check.close(found["output"], output.detach().numpy(), f"{name}: the output", atol=1e-8, rtol=1e-8)
    check.close(layer.weights, shares.detach().numpy(), f"{name}: the weights", atol=1e-8, rtol=1e-8)
    check.close(
        found.get("grad", np.nan), leaves["x"].grad.numpy(), f"{name}: the gradient for x", atol=1e-8, rtol=1e-8
    )
    for part in "qkv":
        for kind, leaf in (("weight", leaves[part]), ("bias", leaves[f"{part}.bias"])):
            what = f"{name}: the gradient of {part}.{kind}"
            check.close(found[f"grad.{part}.{kind}"], leaf.grad.numpy(), what, atol=1e-8, rtol=1e-8)
order = np.array([2, 0, 5, 4, 1, 3])
check.close(
    layer.forward(x[:, order]), layer.forward(x)[:, order], "tokens in another order: the outputs move with them"
)
first = {name: p.value for name, p in SelfAttention(6, new_rng(check.seed(3))).parameters().items()}
for one, other in (("q", "k"), ("q", "v"), ("k", "v")):
    differ = not np.array_equal(first[f"{one}.weight"], first[f"{other}.weight"])
    check.that(differ, f"{one} and {other} have first weights of their own", hint="Hand the same rng to each of them.")
again = SelfAttention(6, new_rng(check.seed(3))).q.weight.value
check.that(np.array_equal(first["q.weight"], again), "generators with the same seed give the same layer")
### END HIDDEN TESTS


# %% alternative="SelfAttention"
class SelfAttention(Layer):
    # Everything again in backward, and a loop over the three roads.
    def __init__(self, d_model, rng):
        for name in ("v", "k", "q"):
            setattr(self, name, Linear(d_model, d_model, rng, bias=True))

    def forward(self, x, mask=None):
        print("a text of", x.shape[-2], "tokens")
        self.made = {name: getattr(self, name).forward(x) for name in ("q", "k", "v")}
        scores = np.einsum("...id,...jd->...ij", self.made["q"], self.made["k"]) / x.shape[-1] ** 0.5
        if mask is not None:
            scores = np.where(mask, scores, -np.inf)
        self.weights = softmax(scores)
        return np.einsum("...ij,...jd->...id", self.weights, self.made["v"])

    def backward(self, grad):
        gradients = attention_backward(grad, self.made["q"], self.made["k"], self.made["v"], self.weights)
        into = np.zeros_like(grad)
        for name, gradient in zip(("q", "k", "v"), gradients, strict=True):
            into += getattr(self, name).backward(gradient)
        return into


# %% mistakes="SelfAttention"
{
    "the gradient for x comes through the values alone: the roads through queries and keys are forgotten": (
        "return self.q.backward(grad_q) + self.k.backward(grad_k) + self.v.backward(grad_v)",
        "self.q.backward(grad_q); self.k.backward(grad_k); return self.v.backward(grad_v)",
    ),
    "the road through the queries is missing from the gradient for x": (
        "return self.q.backward(grad_q) + self.k.backward(grad_k) + self.v.backward(grad_v)",
        "self.q.backward(grad_q); return self.k.backward(grad_k) + self.v.backward(grad_v)",
    ),
    "the road through the keys is missing from the gradient for x": (
        "return self.q.backward(grad_q) + self.k.backward(grad_k) + self.v.backward(grad_v)",
        "self.k.backward(grad_k); return self.q.backward(grad_q) + self.v.backward(grad_v)",
    ),
    "the road through the values is missing from the gradient for x": (
        "return self.q.backward(grad_q) + self.k.backward(grad_k) + self.v.backward(grad_v)",
        "self.v.backward(grad_v); return self.q.backward(grad_q) + self.k.backward(grad_k)",
    ),
    "the three gradients for x are averaged and not added": (
        "return self.q.backward(grad_q) + self.k.backward(grad_k) + self.v.backward(grad_v)",
        "return (self.q.backward(grad_q) + self.k.backward(grad_k) + self.v.backward(grad_v)) / 3",
    ),
    "the incoming gradient is added to that for x, as if there were a residual connection": (
        "return self.q.backward(grad_q) +",
        "return grad + self.q.backward(grad_q) +",
    ),
    "queries and keys get each other's gradient": (
        "self.q.backward(grad_q) + self.k.backward(grad_k)",
        "self.q.backward(grad_k) + self.k.backward(grad_q)",
    ),
    "backward returns nothing, so the layers before it never learn": (
        "return self.q.backward(grad_q) + self.k.backward(grad_k) + self.v.backward(grad_v)",
        "self.q.backward(grad_q) + self.k.backward(grad_k) + self.v.backward(grad_v)",
    ),
    "backward begins by setting all gradients to zero": (
        "grad_q, grad_k, grad_v = attention_backward(",
        "self.zero_grad(); grad_q, grad_k, grad_v = attention_backward(",
    ),
    "backward uses the queries, keys and values of the first forward": (
        "self.qkv = self.q(x), self.k(x), self.v(x)",
        'now = self.q(x), self.k(x), self.v(x); self.qkv = getattr(self, "qkv", now)',
    ),
    "queries and keys have changed places: a token looks with its key": (
        "self.qkv = self.q(x), self.k(x), self.v(x)",
        "self.qkv = self.k(x), self.q(x), self.v(x)",
    ),
    "the values are the keys": (
        "self.q(x), self.k(x), self.v(x)  # three times (..., T, d_model)",
        "self.q(x), self.k(x), self.k(x); self.v(x)",
    ),
    "the values are the tokens themselves": (
        "self.q(x), self.k(x), self.v(x)  # three times (..., T, d_model)",
        "self.q(x), self.k(x), x; self.v(x)",
    ),
    "one layer makes queries and keys, so the scores are symmetric": (
        "self.k = Linear(d_model, d_model, rng)",
        "self.k = self.q",
    ),
    "one layer makes queries, keys and values": [
        ("self.k = Linear(d_model, d_model, rng)", "self.k = self.q"),
        ("self.v = Linear(d_model, d_model, rng)", "self.v = self.q"),
    ],
    "the linear layers have no bias": (
        "Linear(d_model, d_model, rng)",
        "Linear(d_model, d_model, rng, bias=False)",
        "all",
    ),
    "the three layers begin with the same weights, each drawn from a seed of its own making": (
        "Linear(d_model, d_model, rng)",
        "Linear(d_model, d_model, np.random.default_rng(0))",
        "all",
    ),
    "the scores are scaled twice: once here and once in attention": (
        "attention(*self.qkv, mask)",
        "attention(self.qkv[0] * x.shape[-1] ** -0.5, *self.qkv[1:], mask)",
    ),
    "the mask is not handed on": ("attention(*self.qkv, mask)", "attention(*self.qkv)"),
    "the mask is handed on the wrong way round": (
        "attention(*self.qkv, mask)",
        "attention(*self.qkv, None if mask is None else ~mask)",
    ),
    "the weights are kept under another name": ("self.weights", "self.shares", "all"),
    "x is added to the output, as if there were a residual connection": ("return output", "return output + x"),
}

# %% [markdown]
# Which parameter learns what? Here are the gradients of a fresh layer, for random tokens and a random gradient of the output.

# %%
rng = np.random.default_rng(0)
layer = SelfAttention(16, rng)
found = passes(layer, (rng.normal(size=(8, 6, 16)),), rng.normal(size=(8, 6, 16)))
for name, value in found.items():
    if name.startswith("grad."):
        print(f"{name[5:]:9} largest gradient {np.abs(value).max():.1e}")

# %% [markdown]
# `k.bias` gets none, but for rounding. It is not a bug. What does the bias of the keys add to the score of query $i$ and key $j$, and what does
# softmax do with a number that is the same for all $j$? Some models leave that bias out for this reason.
#
# ## Exercise 5 · `MultiHeadAttention`
#
# One row of weights makes one mixture. To add the tens a token needs two digits and the carry, and a mixture of three numbers is not
# three numbers. So attention is done several times side by side, each time on a cut of the features: the *heads*. With six features and two heads, head 0
# takes features 0, 1, 2 of queries, keys and values, head 1 takes 3, 4, 5. Then the results stand side by side again, and a last linear layer `o` mixes them.
#
# Two functions do the cutting. Here are two tokens with four features, in two heads:
#
# $$ \begin{pmatrix} 1 & 2 & 3 & 4 \\ 5 & 6 & 7 & 8 \end{pmatrix} \quad\longrightarrow\quad
# \text{head 0: } \begin{pmatrix} 1 & 2 \\ 5 & 6 \end{pmatrix}, \quad \text{head 1: } \begin{pmatrix} 3 & 4 \\ 7 & 8 \end{pmatrix} $$
#
# The heads become an axis *in front*, and to your `attention` all axes in front are alike. It needs no change. Cutting only moves numbers, so the gradient
# moves the opposite way: the backward pass of `split_heads` is `merge_heads`, and the other way round.
#
# Take care with the mask. It speaks about texts and tokens, `(..., T, T)`, and the scores have the heads in between, `(..., H, T, T)`.
#
# *Difficulty 4 of 5 · 30 minutes · 8 points*


# %% exercise="MultiHeadAttention" difficulty=4 minutes=30 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy", "scipy.special.softmax"]
def split_heads(x: np.ndarray, n_heads: int) -> np.ndarray:
    """Cut the features of every token into equal blocks, one for each head.

    Args:
        x: (..., T, d_model), any dtype, contiguous or not; any number of axes in front, also none.
        n_heads: H, a positive divisor of d_model.

    Returns:
        Array (..., H, T, d_k) with d_k = d_model / H. Head h holds the features from h * d_k up to (not including)
        (h + 1) * d_k of every token.
    """
    ### BEGIN SOLUTION
    blocks = x.reshape(*x.shape[:-1], n_heads, x.shape[-1] // n_heads)  # (..., T, H, d_k)
    return blocks.swapaxes(-2, -3)  # (..., H, T, d_k)
    ### END SOLUTION


def merge_heads(x: np.ndarray) -> np.ndarray:
    """Put the heads side by side again: the inverse of `split_heads`.

    Args:
        x: (..., H, T, d_k), any dtype, contiguous or not.

    Returns:
        Array (..., T, H * d_k): for every token the features of head 0, then those of head 1, and so on.
    """
    ### BEGIN SOLUTION
    side_by_side = x.swapaxes(-2, -3)  # (..., T, H, d_k)
    return side_by_side.reshape(*side_by_side.shape[:-2], -1)  # (..., T, H * d_k)
    ### END SOLUTION


class MultiHeadAttention(Layer):
    """Self-attention in n_heads cuts of the features, with a linear layer behind it.

    Args:
        d_model: features of a token.
        n_heads: number of heads H, a positive divisor of d_model. A head has d_k = d_model / H features.
        rng: all random numbers come from it.

    Parameters:
        Those of four layers ``q``, ``k``, ``v`` and ``o``, each a ``Linear(d_model, d_model, rng)`` with first numbers of
        its own. Nothing else.

    Attributes:
        weights: (..., H, T, T), the weights of the last `forward`.

    Raises:
        ValueError: if n_heads is less than 1 or does not divide d_model.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.2.2.
    """

    def __init__(self, d_model: int, n_heads: int, rng: np.random.Generator):
        ### BEGIN SOLUTION
        if n_heads < 1 or d_model % n_heads != 0:
            raise ValueError(f"n_heads must be a positive divisor of d_model={d_model}, got {n_heads}")
        self.n_heads = n_heads
        self.q = Linear(d_model, d_model, rng)
        self.k = Linear(d_model, d_model, rng)
        self.v = Linear(d_model, d_model, rng)
        self.o = Linear(d_model, d_model, rng)
        ### END SOLUTION

    def forward(self, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Let each token gather from the tokens of its text, once in each head.

        Args:
            x: (..., T, d_model) with any number of axes in front, also none.
            mask: boolean, broadcasts to (..., T, T), the same for all heads; True where a token (row) may look at a token
                (column). None allows everything.

        Returns:
            Array (..., T, d_model): `attention` in each head, merged, through ``o``. A token that may look at nothing has
            weights of 0 and gets the bias of ``o``. Where x and the parameters are float32, so is the output.
        """
        ### BEGIN SOLUTION
        self.heads = [split_heads(project(x), self.n_heads) for project in (self.q, self.k, self.v)]  # (..., H, T, d_k)
        if mask is not None:
            mask = np.broadcast_to(mask, (*x.shape[:-1], x.shape[-2]))  # (..., T, T)
            mask = mask[..., None, :, :]  # (..., 1, T, T): the same for all heads
        output, self.weights = attention(*self.heads, mask)
        return self.o(merge_heads(output))
        ### END SOLUTION

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x, and on the way those of the parameters, which are added to what they held before.

        Args:
            grad: (..., T, d_model), the gradient of the loss for the output of the last `forward`.

        Returns:
            The gradient for x, of its shape.
        """
        ### BEGIN SOLUTION
        grad_heads = split_heads(self.o.backward(grad), self.n_heads)  # (..., H, T, d_k)
        gradients = attention_backward(grad_heads, *self.heads, self.weights)
        grad_q, grad_k, grad_v = (merge_heads(each) for each in gradients)  # (..., T, d_model)
        return self.q.backward(grad_q) + self.k.backward(grad_k) + self.v.backward(grad_v)
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>To cut is to reshape the last axis into two, and then to bring the heads in front of the tokens. A reshape alone moves no number
# in memory. For the layer, take your <code>SelfAttention</code> and put the cutting in: forward after the three layers, backward before them.</details>
# <details><summary>A bigger nudge</summary>Write the lines of <code>forward</code> under each other and the lines of <code>backward</code> from below: o, merge, attention, split, then
# q, k and v. For the mask: write its shape below (..., H, T, T), aligned at the right. With a mask for each text, what would its first axis line up with? It
# lacks an axis, which <code>None</code> or <code>np.newaxis</code> puts in. Masks with fewer axes than x are made whole by <code>np.broadcast_to</code>
# first.</details>

# %% test="MultiHeadAttention" points=2
from coursekit import check

import numpy as np

tokens = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
two_heads = np.array([[[1, 2], [5, 6]], [[3, 4], [7, 8]]])
check.equal(split_heads(tokens, 2), two_heads, "the two tokens of the text, in two heads")
check.equal(merge_heads(two_heads), tokens, "the two heads, merged again")
three = np.arange(24).reshape(1, 3, 8)
want = np.stack([three[..., 0:4], three[..., 4:8]], axis=1)
check.equal(split_heads(three, 2), want, "three tokens with eight features, in two heads")
### BEGIN HIDDEN TESTS
draw = np.random.default_rng(check.seed(1))
for shape, n_heads in (
    ((3, 63, 60), 6),
    ((1, 6, 60), 6),
    ((5, 12), 1),
    ((2, 5, 12), 12),
    ((2, 3, 4, 6), 3),
    ((6, 6), 6),
):
    x = draw.normal(size=shape)
    d_k = shape[-1] // n_heads
    by_columns = np.stack([x[..., h * d_k : (h + 1) * d_k] for h in range(n_heads)], axis=-3)
    check.equal(split_heads(x.copy(), n_heads), by_columns, f"shape {shape} in {n_heads} heads")
    check.equal(merge_heads(by_columns.copy()), x, f"shape {shape}, merged from {n_heads} heads")
    check.equal(
        split_heads(np.asfortranarray(x), n_heads), by_columns, f"shape {shape} in {n_heads} heads, not contiguous"
    )
    check.equal(merge_heads(np.asfortranarray(by_columns)), x, f"shape {shape}, merged, not contiguous")
### END HIDDEN TESTS

# %% test="MultiHeadAttention" points=3
from coursekit import check

import numpy as np

layer = MultiHeadAttention(6, 2, new_rng(0))
names = [f"{part}.{kind}" for part in "koqv" for kind in ("bias", "weight")]
check.equal(sorted(layer.parameters()), names, "the names of the parameters")
# With identity matrices a head is plain attention of its own cut of the features.
for layer_part in (layer.q, layer.k, layer.v, layer.o):
    layer_part.weight.value = np.eye(6)
layer.o.bias.value = np.arange(6.0)
x = np.random.default_rng(1).normal(size=(3, 6))


def one_head(x):
    e = np.exp(x @ x.T / 3**0.5)  # three features
    return e / e.sum(axis=1, keepdims=True) @ x


want = np.concatenate([one_head(x[:, :3]), one_head(x[:, 3:])], axis=1) + np.arange(6.0)
check.close(
    layer.forward(x.copy()), want, "identity matrices: each head on its own cut, side by side, plus the bias of o"
)

# Then the first weights. Each gradient is a slope: move a number a little, and watch the loss.
layer = MultiHeadAttention(4, 2, new_rng(0))
x, direction = np.random.default_rng(2).normal(size=(2, 2, 3, 4))
found = passes(layer, (x,), direction)


def loss(x):
    return float((layer.forward(x) * direction).sum())


slopes = np.zeros((2, 3, 4))
for place in np.ndindex(2, 3, 4):
    move = np.zeros((2, 3, 4))
    move[place] = 1e-5
    slopes[place] = (loss(x + move) - loss(x - move)) / 2e-5
check.close(found.get("grad", np.nan), slopes, "the gradient for x: the slopes of the loss", atol=1e-7)
for part in "ovkq":
    weight = getattr(layer, part).weight.value.copy()
    move = np.zeros((4, 4))
    move[1, 2] = 1e-5
    getattr(layer, part).weight.value = weight + move
    up = loss(x)
    getattr(layer, part).weight.value = weight - move
    slope = (up - loss(x)) / 2e-5
    getattr(layer, part).weight.value = weight
    check.close(float(found[f"grad.{part}.weight"][1, 2]), slope, f"the gradient of {part}.weight[1, 2]", atol=1e-7)
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(2))


def oracle(x, grad, values, n_heads):
    """Output, weights and all gradients of nn.MultiheadAttention."""
    T, d_model = x.shape[-2:]
    twin = torch.nn.MultiheadAttention(d_model, n_heads, batch_first=True, dtype=torch.float64)
    stacked = {
        kind: torch.tensor(np.concatenate([values[f"{part}.{kind}"].T for part in "qkv"]))
        for kind in ("weight", "bias")
    }
    twin.load_state_dict(
        {
            "in_proj_weight": stacked["weight"],
            "in_proj_bias": stacked["bias"],
            "out_proj.weight": torch.tensor(values["o.weight"].T.copy()),
            "out_proj.bias": torch.tensor(values["o.bias"]),
        }
    )
    leaf = torch.tensor(x, requires_grad=True)
    texts = leaf.reshape(-1, T, d_model)
    output, shares = twin(texts, texts, texts, average_attn_weights=False)
    output.reshape(x.shape).backward(torch.tensor(grad))
    wanted = {"output": output.detach().numpy().reshape(x.shape), "grad": leaf.grad.numpy()}
    weights = [*twin.in_proj_weight.grad.chunk(3), twin.out_proj.weight.grad]
    biases = [*twin.in_proj_bias.grad.chunk(3), twin.out_proj.bias.grad]
    for part, weight, bias in zip("qkvo", weights, biases, strict=True):
        wanted |= {f"grad.{part}.weight": weight.T.numpy(), f"grad.{part}.bias": bias.numpy()}
    return wanted, shares.detach().numpy().reshape(*x.shape[:-2], n_heads, T, T)


for shape, n_heads in (
    ((3, 7, 12), 3),
    ((1, 63, 10), 5),
    ((5, 4), 2),
    ((3, 3, 9), 3),
    ((2, 3, 5, 6), 1),
    ((2, 1, 6), 6),
    ((4, 4, 4), 4),
):
    x, grad = draw.normal(size=shape), draw.normal(size=shape)
    d_model = shape[-1]
    values = {f"{part}.weight": draw.normal(size=(d_model, d_model)) / d_model**0.5 for part in "qkvo"}
    values |= {f"{part}.bias": draw.normal(size=d_model) for part in "qkvo"}
    layer = MultiHeadAttention(d_model, n_heads, new_rng(0))
    for name, value in values.items():
        part, kind = name.split(".")
        getattr(getattr(layer, part), kind).value = value
    wanted, shares = oracle(x, grad, values, n_heads)
    case = f"x of shape {shape}, {n_heads} heads"
    layer.forward(2 * x + 1)
    found = passes(layer, (x,), grad)
    check.equal(sorted(found), sorted(wanted), f"{case}: what there is a gradient for")
    check.close(layer.weights, shares, f"{case}: the weights", atol=1e-8, rtol=1e-8)
    for name, want in wanted.items():
        check.close(found[name], want, f"{case}: {name}", atol=1e-8, rtol=1e-8)
    layer.backward(2 * grad)
    for name in ("q.weight", "o.bias"):
        part, kind = name.split(".")
        more = getattr(getattr(layer, part), kind).grad
        what = f"{case}: a second backward adds to {name}"
        check.close(more, 3 * wanted[f"grad.{name}"], what, atol=1e-8, rtol=1e-8)
x = draw.normal(size=(2, 5, 6))
layer = MultiHeadAttention(6, 3, new_rng(0)).astype("float32")
single = passes(layer, (x.astype("float32"), np.ones((5, 5), dtype=bool)), x.astype("float32"))
check.equal(sorted({str(v.dtype) for v in single.values()}), ["float32"], "after astype('float32') all is float32")
### END HIDDEN TESTS

# %% test="MultiHeadAttention" points=3
from coursekit import check

import numpy as np

layer = MultiHeadAttention(4, 2, new_rng(0))
x = np.random.default_rng(0).normal(size=(2, 3, 4))
# Two texts, each with a mask of its own: in text 0 nobody looks ahead, in text 1 the last token is padding.
mask = np.array([[[1, 0, 0], [1, 1, 0], [1, 1, 1]], [[1, 1, 0], [1, 1, 0], [1, 1, 0]]], dtype=bool)
layer.forward(x.copy(), mask.copy())
seen = np.asarray(layer.weights) > 0
for text in (0, 1):
    for head in (0, 1):
        check.equal(seen[text, head], mask[text], f"which weights are not zero in text {text}, head {head}")
check.close(np.asarray(layer.weights).sum(axis=-1), np.ones((2, 2, 3)), "each row of weights sums to one")
for n_heads in (3, 0):
    check.raises(ValueError, lambda n_heads=n_heads: MultiHeadAttention(4, n_heads, new_rng(0)), f"{n_heads} heads")
### BEGIN HIDDEN TESTS
import torch

for n_heads in (-2, 8, 5):
    check.raises(ValueError, lambda n_heads=n_heads: MultiHeadAttention(4, n_heads, new_rng(0)), f"{n_heads} heads")
draw = np.random.default_rng(check.seed(3))
B, T, d_model, H = 3, 6, 12, 3  # as many texts as heads: axes that line up wrongly do not complain
x, grad = draw.normal(size=(B, T, d_model)), draw.normal(size=(B, T, d_model))
layer, values = MultiHeadAttention(d_model, H, new_rng(0)), {}
for part in "qkvo":
    values[part] = draw.normal(size=(d_model, d_model)) / d_model**0.5, draw.normal(size=d_model)
    getattr(layer, part).weight.value, getattr(layer, part).bias.value = values[part]
may = draw.random((B, T, T)) < 0.6
may[:, np.arange(T), np.arange(T)] = True
may[:, 0, 1:3] = False
may[1, 0, 1] = True
nothing = np.tril(np.ones((T, T), dtype=bool), -1)  # token 0 may look at nothing
padding = np.array([[True] * 6, [True] * 4 + [False] * 2, [True] + [False] * 5])
masks = {
    "a mask for each text": may,
    "padding (B, 1, T)": padding[:, None],
    "causal": np.tri(T, dtype=bool),
    "token 0 may look at nothing": nothing,
    "a mask (T,)": padding[1],
    "a mask (1, T, T)": may[2:],
}
for name, mask in masks.items():
    leaves = {"x": torch.tensor(x, requires_grad=True)}
    for part in "qkvo":
        for kind, value in zip(("weight", "bias"), values[part], strict=True):
            leaves[f"{part}.{kind}"] = torch.tensor(value, requires_grad=True)
    hidden = ~torch.tensor(mask).broadcast_to(B, T, T)
    alone = hidden.all(dim=-1, keepdim=True)
    cuts, shares = [], []
    for h in range(H):  # head by head, with the columns of its own
        cut = slice(h * 4, h * 4 + 4)
        q, k, v = (leaves["x"] @ leaves[f"{p}.weight"][:, cut] + leaves[f"{p}.bias"][cut] for p in "qkv")
        share = (q @ k.mT / 2).masked_fill(hidden & ~alone, -torch.inf).softmax(dim=-1).masked_fill(alone, 0.0)
        cuts.append(share @ v)
        shares.append(share)
    output = torch.cat(cuts, dim=-1) @ leaves["o.weight"] + leaves["o.bias"]
    output.backward(torch.tensor(grad))
    found = passes(layer, (x, mask), grad)
    want = torch.stack(shares, dim=1).detach().numpy()
    check.close(layer.weights, want, f"{name}: the weights", atol=1e-8, rtol=1e-8)
    check.close(found["output"], output.detach().numpy(), f"{name}: the output", atol=1e-8, rtol=1e-8)
    check.close(
        found.get("grad", np.nan), leaves["x"].grad.numpy(), f"{name}: the gradient for x", atol=1e-8, rtol=1e-8
    )
    for key in leaves.keys() - {"x"}:
        want = leaves[key].grad.numpy()
        check.close(found[f"grad.{key}"], want, f"{name}: the gradient of {key}", atol=1e-8, rtol=1e-8)
want = np.broadcast_to(values["o"][1], (B, d_model))
check.close(
    layer.forward(x.copy(), nothing)[:, 0], want, "a token that may look at nothing gets the bias of o", atol=1e-8
)
alone = layer.forward(x[1], may[1])
check.close(alone, layer.forward(x.copy(), may)[1], "a text without a batch, with its mask", atol=1e-8)
deep = layer.forward(np.stack([x, x[::-1]]), np.stack([may, may[::-1]]))
check.close(deep[1], layer.forward(x.copy(), may)[::-1], "two axes in front, and a mask for each text", atol=1e-8)
first = {n: p.value for n, p in MultiHeadAttention(6, 2, new_rng(check.seed(4))).parameters().items()}
for pair in ("qk", "qv", "qo", "kv", "ko", "vo"):
    differ = not np.array_equal(*(first[f"{part}.weight"] for part in pair))
    check.that(
        differ, f"{pair[0]} and {pair[1]} have first weights of their own", hint="Hand the same rng to each of them."
    )
again = MultiHeadAttention(6, 2, new_rng(check.seed(4))).q.weight.value
check.that(np.array_equal(first["q.weight"], again), "generators with the same seed give the same layer")
### END HIDDEN TESTS


# %% alternative="MultiHeadAttention"
def split_heads(x, n_heads):
    return np.stack(np.split(x, n_heads, axis=-1), axis=-3)


def merge_heads(x):
    return np.concatenate([x[..., h, :, :] for h in range(x.shape[-3])], axis=-1)


class MultiHeadAttention(Layer):
    # One head after the other; each cuts out what it needs.
    def __init__(self, d_model, n_heads, rng):
        if n_heads <= 0 or d_model % n_heads:
            raise ValueError(n_heads)
        self.n_heads, self.d_k = n_heads, d_model // n_heads
        self.o, self.v, self.k, self.q = (Linear(d_model, d_model, rng) for _ in range(4))

    def forward(self, x, mask=None):
        print("heads:", self.n_heads)
        made = [layer.forward(x) for layer in (self.q, self.k, self.v)]
        self.cuts = [tuple(a[..., h * self.d_k : (h + 1) * self.d_k] for a in made) for h in range(self.n_heads)]
        results = [attention(*cut, mask) for cut in self.cuts]
        self.weights = np.stack([weights for _, weights in results], axis=-3)
        return self.o.forward(np.concatenate([output for output, _ in results], axis=-1))

    def backward(self, grad):
        parts = np.split(self.o.backward(grad), self.n_heads, axis=-1)
        gradients = [
            attention_backward(part, *cut, self.weights[..., h, :, :])
            for h, (part, cut) in enumerate(zip(parts, self.cuts, strict=True))
        ]
        whole = [np.concatenate(each, axis=-1) for each in zip(*gradients, strict=True)]
        return sum(layer.backward(g) for layer, g in zip((self.q, self.k, self.v), whole, strict=True))


# %% mistakes="MultiHeadAttention"
{
    "the heads are split with a reshape alone, so a head holds a few tokens and not a few features": (
        "return blocks.swapaxes(-2, -3)  # (..., H, T, d_k)",
        "return x.reshape(*x.shape[:-2], n_heads, x.shape[-2], x.shape[-1] // n_heads)",
    ),
    "the features are cut as (d_k, H), so each head takes every H-th feature and not a block": (
        "return blocks.swapaxes(-2, -3)  # (..., H, T, d_k)",
        "return np.moveaxis(x.reshape(*x.shape[:-1], x.shape[-1] // n_heads, n_heads), -1, -3)",
    ),
    "split_heads stops at (..., T, H, d_k), with the heads behind the tokens": (
        "return blocks.swapaxes(-2, -3)  # (..., H, T, d_k)",
        "return blocks",
    ),
    "the blocks go to the heads in reverse order": (
        "return blocks.swapaxes(-2, -3)  # (..., H, T, d_k)",
        "return blocks.swapaxes(-2, -3)[..., ::-1, :, :]",
    ),
    "the heads are merged with a reshape alone, so the features of different tokens are mixed": (
        "side_by_side = x.swapaxes(-2, -3)  # (..., T, H, d_k)\n    return side_by_side.reshape(*side_by_side.shape[:-2], -1)",
        "return x.reshape(*x.shape[:-3], x.shape[-2], -1)",
    ),
    "merge_heads interleaves the heads, feature by feature": (
        "side_by_side = x.swapaxes(-2, -3)  # (..., T, H, d_k)",
        "side_by_side = np.moveaxis(x, -3, -1)",
    ),
    "split and merge are both a reshape alone: each undoes the other, and neither is right": [
        (
            "return blocks.swapaxes(-2, -3)  # (..., H, T, d_k)",
            "return x.reshape(*x.shape[:-2], n_heads, x.shape[-2], x.shape[-1] // n_heads)",
        ),
        (
            "side_by_side = x.swapaxes(-2, -3)  # (..., T, H, d_k)\n    return side_by_side.reshape(*side_by_side.shape[:-2], -1)",
            "return x.reshape(*x.shape[:-3], x.shape[-2], -1)",
        ),
    ],
    "the mask has no axis for the heads, so the mask of text 1 is applied to head 1 of all texts": (
        "mask = mask[..., None, :, :]",
        "mask = mask",
    ),
    "the mask hides tokens from head 0 only": (
        "mask = mask[..., None, :, :]",
        "mask = mask[..., None, :, :] | (np.arange(self.n_heads) > 0)[:, None, None]",
    ),
    "the mask of the first text is used for all": (
        "mask = mask[..., None, :, :]",
        "mask = mask.reshape(-1, *mask.shape[-2:])[0]",
    ),
    "the mask is ignored": ("attention(*self.heads, mask)", "attention(*self.heads)"),
    "the mask is read the wrong way round: True hides": (
        "mask = mask[..., None, :, :]",
        "mask = ~mask[..., None, :, :]",
    ),
    "the mask is transposed, so a token is seen by those that it may see": (
        "mask = mask[..., None, :, :]",
        "mask = mask[..., None, :, :].swapaxes(-1, -2)",
    ),
    "the gradient goes past o: it is cut into heads without having gone through the last layer": (
        "split_heads(self.o.backward(grad), self.n_heads)",
        "split_heads(grad, self.n_heads)",
    ),
    "the gradient goes through o but o itself learns nothing": (
        "self.o.backward(grad)",
        "(grad @ self.o.weight.value.T)",
    ),
    "the gradients of the heads are merged with a reshape alone": (
        "(merge_heads(each) for each in gradients)",
        "(each.reshape(grad.shape) for each in gradients)",
    ),
    "the gradient is cut into heads with a reshape alone": (
        "split_heads(self.o.backward(grad), self.n_heads)",
        "self.o.backward(grad).reshape(self.heads[0].shape)",
    ),
    "the gradient for x comes through the values alone": (
        "return self.q.backward(grad_q) + self.k.backward(grad_k) + self.v.backward(grad_v)",
        "self.q.backward(grad_q); self.k.backward(grad_k); return self.v.backward(grad_v)",
    ),
    "the road through the keys is missing from the gradient for x": (
        "return self.q.backward(grad_q) + self.k.backward(grad_k) + self.v.backward(grad_v)",
        "self.k.backward(grad_k); return self.q.backward(grad_q) + self.v.backward(grad_v)",
    ),
    "queries and keys get each other's gradient": (
        "self.q.backward(grad_q) + self.k.backward(grad_k)",
        "self.q.backward(grad_k) + self.k.backward(grad_q)",
    ),
    "the gradients of the heads are averaged: each is divided by their number": (
        "(merge_heads(each) for each in gradients)",
        "(merge_heads(each) / self.n_heads for each in gradients)",
    ),
    "backward begins by setting all gradients to zero": (
        "grad_heads = split_heads(self.o",
        "self.zero_grad(); grad_heads = split_heads(self.o",
    ),
    "backward uses the heads of the first forward and not those of the last": (
        "output, self.weights = attention(*self.heads, mask)",
        'output, self.weights = attention(*self.heads, mask); self.heads = self.first = getattr(self, "first", self.heads)',
    ),
    "there is no output layer in the forward pass": (
        "return self.o(merge_heads(output))",
        "self.o(merge_heads(output)); return merge_heads(output)",
    ),
    "the scores are divided by sqrt(d_model) and not by sqrt(d_k)": (
        "attention(*self.heads, mask)",
        "attention(self.heads[0] * self.n_heads**-0.5, *self.heads[1:], mask)",
    ),
    "the weights are averaged over the heads before they are kept": (
        "return self.o(merge_heads(output))",
        "self.kept = self.weights; self.weights = np.broadcast_to(self.weights.mean(axis=-3, keepdims=True), self.kept.shape); return self.o(merge_heads(output))",
    ),
    "the last layer has no bias": (
        "self.o = Linear(d_model, d_model, rng)",
        "self.o = Linear(d_model, d_model, rng, bias=False)",
    ),
    "queries and keys share one layer": ("self.k = Linear(d_model, d_model, rng)", "self.k = self.q"),
    "all four layers begin with the same weights": (
        "Linear(d_model, d_model, rng)",
        "Linear(d_model, d_model, np.random.default_rng(0))",
        "all",
    ),
    "a number of heads that does not divide the features is accepted": (
        "if n_heads < 1 or d_model % n_heads != 0:",
        "if n_heads < 1:",
    ),
    "no heads at all are accepted": (
        "if n_heads < 1 or d_model % n_heads != 0:",
        "if n_heads and d_model % n_heads != 0:",
    ),
}

# %% equivalent="MultiHeadAttention"
{"-1 -> -2 #3": "NumPy takes any negative length in a reshape for the one that it has to find out"}

# %% [markdown]
# ## Look at it
#
# Now let a layer find out where to look. The texts are sums such as `37+45=`. Each digit shall receive its *partner*, the digit that it will be added to:
# the tens of one number the tens of the other, the units the units. `+` and `=` shall receive nothing. A token enters with 18 features: 12 say which
# character it is, 6 say where it stands. The result is right when the first 12 features name the partner and all others are zero.
#
# The loss is the squared error, so its gradient for the output is the error itself, but for a factor. Then `backward`, and a
# step against the gradient for every parameter. (The steps have some momentum. [Lab 0.8](lab08_training_loop.ipynb) is about that.) Nobody tells the layer
# about partners, places or columns. Move the slider through the training.

# %%
from plotly.subplots import make_subplots

from coursekit import plots

partner = np.array([3, 4, -1, 0, 1, -1])  # the place of each token's partner in "ab+cd="


def sums(digits):
    """Tokens and targets (n, 6, 18) of the sums with these digits (n, 4)."""
    n = len(digits)
    plus, equals = np.full(n, 10), np.full(n, 11)
    ids = np.column_stack([digits[:, 0], digits[:, 1], plus, digits[:, 2], digits[:, 3], equals])
    x = np.concatenate([np.eye(12)[ids], np.broadcast_to(np.eye(6), (n, 6, 6))], axis=-1)
    target = np.zeros_like(x)
    target[:, partner >= 0, :12] = np.eye(12)[ids[:, partner[partner >= 0]]]
    return 2 * x, target


rng = np.random.default_rng(0)
layer = MultiHeadAttention(18, 2, rng)
velocity = {name: np.zeros_like(p.value) for name, p in layer.parameters().items()}
x, _ = sums(np.array([[3, 7, 4, 5]]))
snapshots, losses = {}, []
for step in range(2001):
    if step in (0, 50, 100, 200, 500, 1000, 2000):
        layer(x)
        snapshots[step] = layer.weights[0]  # (2, 6, 6)
    tokens, target = sums(rng.integers(10, size=(64, 4)))
    error = layer(tokens) - target
    losses.append((error**2).sum(axis=-1).mean())
    layer.zero_grad()
    layer.backward(2 * error / (64 * 6))
    for name, parameter in layer.parameters().items():
        velocity[name] = 0.9 * velocity[name] - 0.05 * parameter.grad
        parameter.value += velocity[name]

tokens, target = sums(np.random.default_rng(1).integers(10, size=(1000, 4)))
right = layer(tokens)[:, partner >= 0].argmax(axis=-1) == target[:, partner >= 0].argmax(axis=-1)
print(f"squared error of a token: {losses[0]:.2f} at first, {np.mean(losses[-50:]):.4f} at the end")
print(f"of an output that is zero: {4 / 6:.2f}; the training passes it at step {np.argmax(np.array(losses) < 4 / 6)}")
print(f"partners named in 1,000 other sums: {right.mean():.1%}")
labels = [f"{c} ({t})" for t, c in enumerate("37+45=")]
figure = make_subplots(rows=1, cols=2, subplot_titles=["head 0", "head 1"], shared_yaxes=True, horizontal_spacing=0.06)
for head in (0, 1):
    figure.add_heatmap(
        z=snapshots[2000][head].round(3),
        x=labels,
        y=labels,
        zmin=0,
        zmax=1,
        colorscale=plots.WEIGHTS,
        showscale=False,
        xgap=2,
        ygap=2,
        hovertemplate="%{y} looks at %{x}: %{z:.2f}<extra></extra>",
        row=1,
        col=head + 1,
    )
steps = [
    {"method": "restyle", "label": str(step), "args": [{"z": [weights[h].round(3).tolist() for h in (0, 1)]}]}
    for step, weights in snapshots.items()
]
figure.update_yaxes(autorange="reversed", showgrid=False)
figure.update_yaxes(title_text="token that receives", col=1)
figure.update_xaxes(title_text="token that gives", tickangle=-45, showgrid=False)
figure.update_layout(
    height=440,
    sliders=[{"steps": steps, "active": len(steps) - 1, "currentvalue": {"prefix": "after step "}, "pad": {"t": 70}}],
)
figure.show()

# %% [markdown]
# Each digit has found its partner, and its partner has found it: row 0 looks at column 3, and row 3 at column 0.
#
# - `+` and `=` are to receive nothing, and yet their weights must sum to one. Where have they put them? What must be true of the values there?
# - The task needs one head. What does the other one do? Change the seed of `rng` and run the cell again, a few times.
# - The error starts out far above that of an output of zero. Compare the step at which it passes that mark with the slider: what does the layer learn
#   before it learns where to look?
# - Take the six features of the place away: multiply them by zero. To such a layer `37+45=` and `73+54=` are one and the same bag of tokens. What is the best that it
#   can still do?
#
# ## Common mistakes
#
# - **The softmax taken for its diagonal.** The gradient $g\,y\,(1 - y)$ is right for a sigmoid. Here it forgets that the shares of a row depend on each other. It has
#   the right sign often enough to train. The test: the gradient of a row of scores sums to zero.
# - **A forgotten road.** `x` goes in three times and needs three gradients. With the road through the values alone, the layer itself learns everything
#   as it should; only the layers *before* it are told half of the truth. The loss goes down.
# - **A transpose less.** `weights @ grad` and `weights.swapaxes(-1, -2) @ grad` have the same shape where a text looks at itself. Test with as many keys as
#   you like, but not with as many as queries.
# - **The scale forgotten on the way back.** Queries and keys then learn $\sqrt{d_k}$ times too fast, and values at the right speed. An optimiser
#   that rescales every gradient, such as Adam, hides even that.
# - **A mask with no axis for the heads.** With as many texts as heads nothing complains, and text 1's padding hides tokens in head 1 of all texts.
# - **A row with nothing to look at.** Softmax of nothing but $-\infty$ is $0/0$. One NaN in one text, and after one step all four matrices are NaN. With $-10^9$ in the place of $-\infty$ there is no NaN, and the
#   token gathers from everything it must not see.
# - **A mean over the tokens in `Linear`.** The mean belongs to the loss. The layer sums.
#
# [Lab 0.3](lab03_residual_layernorm_ffn.ipynb) puts a residual connection, a norm and a feed-forward network around your layer. In torch, where the
# backward pass writes itself, attention returns in [Lab 1.1](../ch01_attention/lab01_dot_product.ipynb) and
# [Lab 1.3](../ch01_attention/lab03_multihead.ipynb).
#
# ## Going further
#
# - **Without keeping the weights.** Your layer keeps `weights`, $T^2$ numbers for each head, for the way back. FlashAttention keeps one number for each query, the logarithm of its
#   sum of exponentials, and computes the weights again, block by block. Write `attention_backward` from `q`, `k`, `v`, the output and those logarithms. A
#   hint: the mean that softmax subtracts, $\sum_j g_j w_j$, is the dot product of the output and its gradient. Why? (Tri Dao, Daniel Fu,
#   Stefano Ermon, Atri Rudra, Christopher Ré, FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness, 2022.)
# - **Attention from a recurrent point of view.** Leave the softmax away, and $(QK^\top)V = Q(K^\top V)$. With a causal mask, $K^\top V$ is a running sum. Write it, forward and
#   backward, in time proportional to $T$. What is lost? (Angelos Katharopoulos, Apoorv Vyas, Nikolaos Pappas, François Fleuret, Transformers are RNNs, 2020.)
