# ---
# title: Output projection
# lab: ch00/lab05
# minutes: 90
# difficulty: 2
# hardware: cpu
# needs: [ch00/lab01, ch00/lab02]
# builds: [FirstPool, MeanPool, MaxPool, Head, TiedHead, top_predictions]
# ---

# %% [markdown]
# # Lab 0.5 · Output projection
#
# ## The idea
#
# Your stack of blocks takes a text and hands back one vector for each token. Nobody wants vectors. There are two
# questions that people do ask of a text, and this lab builds the last layers for both.
#
# *What is this text?* One answer for all of its tokens: spam or not, or the sum of `3+5` as one of 19 classes. So the vectors have to
# become one vector first. That is called *pooling*, and there are three simple ways. Take a text of two tokens, and
# a third place that is only padding:
#
# | | token 0 | token 1 | padding | first | mean | max |
# |---|---|---|---|---|---|---|
# | feature 0 | 1 | 3 | 9 | 1 | 2 | 3 |
# | feature 1 | 5 | 1 | 9 | 5 | 3 | 5 |
#
# No pool may look at the 9s. On the way back the pools differ more than on the way there. Say the gradient for the pooled vector
# is $(10, 20)$. *First* gives all of it to token 0. *Mean* gives both tokens the same half, $(5, 10)$. *Max* asks for each
# feature who had the largest number: token 1 gets the 10, and token 0 the 20.
#
# *Which token comes next?* One score for each token of the vocabulary, at every place. The embedding was a table with one row for each
# token; so compare the vector with every row, by a dot product. With the rows $(1, 2)$, $(3, 4)$, $(5, 6)$ the vector $(1, 0)$
# gets the scores 1, 3 and 5. That is a *tied head*. It needs no parameters of its own: the table that reads the text
# also writes it. But then the table is used twice in one model, and you know from Lab 0.1 what that means for its gradient.
#
# The scores are called *logits*. They are no probabilities yet: they may be negative, and they sum to nothing in particular. The step from the one to the
# other is short, and the page [From vectors to answers](../../book/ch00_numpy/output_projection.md) explains what it keeps
# and what it throws away.
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `x` | `(..., T, d_model)` | what the last block hands over; batches in front |
# | `mask` | `(..., T)`, booleans | True for a real token, False for padding; None if all are real |
# | pooled | `(..., d_model)` | one vector for each text |
# | `Head` weight, bias | `(d_model, n_classes)`, `(n_classes,)` | a linear layer |
# | `TiedHead` weight | `(V, d_model)` | the embedding's own `Parameter` |
# | `logits` | `(..., n_classes)` or `(..., T, V)` | one score for each answer |

# %% given
import numpy as np

from coursekit import carry

Layer = carry("ch00/lab01", "Layer")
Parameter = carry("ch00/lab01", "Parameter")
passes = carry("ch00/lab01", "passes")
Linear = carry("ch00/lab02", "Linear")  # Linear(d_in, d_out, rng): weight (d_in, d_out), bias (d_out,)
softmax = carry("ch00/lab02", "softmax")  # over the last axis

# %% given side="learner"
from coursekit import carry

new_rng = carry("ch00/lab01", "new_rng")
Embedding = carry("ch00/lab01", "Embedding")  # Embedding(vocab_size, d_model, rng): weight (vocab_size, d_model)

# %% [markdown]
# ## A picture
#
# Who gets the gradient? Below, four tokens and one place of padding, with six features each. Every one of the thirty numbers was moved a
# little, up and down, and the colour says how much the sum of the pooled features moved with it. There is no formula in the
# cell, only the definition of a slope.

# %%
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from coursekit import plots

x = np.random.default_rng(5).normal(size=(5, 6))  # the last row is padding
pools = {
    "first": lambda x: x[0],
    "mean": lambda x: x[:4].mean(axis=0),
    "max": lambda x: x[:4].max(axis=0),
}
figure = make_subplots(rows=1, cols=3, subplot_titles=list(pools), shared_yaxes=True, horizontal_spacing=0.05)
for column, pool in enumerate(pools.values(), start=1):
    slopes = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[place] = 1e-6
        slopes[place] = (pool(x + step) - pool(x - step)).sum() / 2e-6
    figure.add_trace(
        go.Heatmap(
            z=slopes.round(3),
            y=["token 0", "token 1", "token 2", "token 3", "padding"],
            customdata=x.round(2),
            zmin=0,
            zmax=1,
            colorscale=plots.WEIGHTS,
            xgap=2,
            ygap=2,
            showscale=column == 3,
            colorbar={"title": "slope", "thickness": 12},
            hovertemplate="%{y}, feature %{x}: value %{customdata}, slope %{z}<extra></extra>",
        ),
        row=1,
        col=column,
    )
    figure.update_xaxes(title_text="feature", dtick=1, showgrid=False, zeroline=False, row=1, col=column)
figure.update_yaxes(autorange="reversed", showgrid=False, zeroline=False)
figure.update_layout(height=340)
figure.show()

# %% [markdown]
# In every panel the slopes of a column add up to 1, and padding gets nothing. *First* teaches one token. *Mean* teaches
# all of them, a quarter each. *Max* teaches one token for each feature, and hover shows which: the one with the
# largest value. So a pool is a row of weights: $\text{pooled} = \sum_t w_t\, x_t$, and its gradient hands the same weights back. Keep them in `self`, and the
# backward pass is one line.
#
# ## Exercise 1 · `FirstPool`
#
# The token at position 0 speaks for the text. A model can learn to collect there what matters; BERT puts a special token in front for
# the purpose. But where texts are filled up on the left, position 0 is padding. So take the first token that is *real*.
#
# *Difficulty 1 of 5 · 10 minutes · 3 points*


# %% exercise="FirstPool" difficulty=1 minutes=10 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
class FirstPool(Layer):
    """The first real token of each text. There are no parameters."""

    def forward(self, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Choose one token of each text.

        Args:
            x: (..., T, d_model) with any number of axes in front, also none; T is at least 1. Places of padding may hold
                anything, NaN included; real tokens are finite.
            mask: (..., T) booleans, True where there is a real token. Real tokens need not stand side by side. None if all
                are real.

        Returns:
            Array (..., d_model) of x's dtype: the real token with the lowest position. Zeros for a text that has none.
        """
        ### BEGIN SOLUTION
        real = np.ones(x.shape[:-1], dtype=bool) if mask is None else mask  # (..., T)
        first = real & (real.cumsum(axis=-1) == 1)  # (..., T): one True for each text, or none
        self.chosen = first[..., None]  # (..., T, 1)
        return np.where(self.chosen, x, 0).sum(axis=-2)  # (..., d_model)
        ### END SOLUTION

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x.

        Args:
            grad: (..., d_model), the gradient of the loss for the output of the last `forward`.

        Returns:
            Array of x's shape and of grad's dtype: grad at the token that was chosen, zeros elsewhere. There is no gradient for
            the mask.
        """
        ### BEGIN SOLUTION
        return np.where(self.chosen, grad[..., None, :], 0)  # (..., T, d_model)
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Count along the text how many real tokens there have been so far. Where does that number stand at 1? And mind a gap right behind the
# first real token: there it still is 1.</details>
# <details><summary>A bigger nudge</summary><code>cumsum</code> counts True as 1. With a boolean array that marks the one token of each text,
# <code>np.where(chosen, x, 0)</code> and a sum over the tokens picks it, and leaves no NaN behind, unlike a product with zero. In
# <code>backward</code> the gradient needs a new axis for the tokens, and the same <code>np.where</code>.</details>

# %% test="FirstPool" points=1
from coursekit import check

import numpy as np

x = np.array([[[1.0, 5.0], [3.0, 1.0], [9.0, 9.0]], [[7.0, 8.0], [2.0, 4.0], [6.0, 0.0]]])
grad = np.array([[10.0, 20.0], [30.0, 40.0]])
found = passes(FirstPool(), (x,), grad)
check.close(found["output"], np.array([[1.0, 5.0], [7.0, 8.0]]), "no mask: the token at position 0 of each text")
want = np.array([[[10.0, 20.0], [0.0, 0.0], [0.0, 0.0]], [[30.0, 40.0], [0.0, 0.0], [0.0, 0.0]]])
check.close(found.get("grad", np.nan), want, "no mask: position 0 gets the whole gradient, and nobody else gets any")
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(1))
for shape in ((3, 7, 5), (1, 63, 6), (7, 4), (2, 3, 4, 5), (4, 1, 3), (5, 5, 5)):
    x, grad = draw.normal(size=shape), draw.normal(size=(*shape[:-2], shape[-1]))
    leaf = torch.tensor(x, requires_grad=True)
    leaf.select(-2, 0).backward(torch.tensor(grad))
    layer = FirstPool()
    found = passes(layer, (x,), grad)
    check.close(found["output"], x[..., 0, :], f"x of shape {shape}: the output", atol=1e-8, rtol=1e-8)
    check.close(found.get("grad", np.nan), leaf.grad.numpy(), f"x of shape {shape}: the gradient", atol=1e-8, rtol=1e-8)
    found = passes(layer, (x.astype("float32"),), grad.astype("float32"))
    dtypes = sorted({str(value.dtype) for value in found.values()})
    check.equal(
        dtypes,
        ["float32"],
        f"x of shape {shape}: float32 in gives float32 out and back",
        hint="np.zeros and np.ones are float64 unless you name a dtype, and so is a float32 divided by an integer array.",
    )
across = np.arange(24.0).reshape(4, 3, 2).T  # (2, 3, 4), not contiguous
found = passes(FirstPool(), (across,), across[:, 1])
check.close(found["output"], across[:, 0], "an x that is not contiguous")
check.equal(list(FirstPool().parameters()), [], "a pool has no parameters")
### END HIDDEN TESTS

# %% test="FirstPool" points=2
from coursekit import check

import numpy as np

x = np.array([[[1.0, 5.0], [3.0, 1.0], [9.0, 9.0]], [[7.0, 8.0], [2.0, 4.0], [6.0, 0.0]]])
mask = np.array([[True, True, False], [False, True, True]])
grad = np.array([[10.0, 20.0], [30.0, 40.0]])
found = passes(FirstPool(), (x, mask), grad)
check.close(found["output"], np.array([[1.0, 5.0], [2.0, 4.0]]), "the second text is filled up on the left")
want = np.array([[[10.0, 20.0], [0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [30.0, 40.0], [0.0, 0.0]]])
check.close(found.get("grad", np.nan), want, "the gradient goes to the tokens that were chosen")
found = passes(FirstPool(), (x, np.array([[False, False, False], [True, False, True]])), grad)
check.close(found["output"], np.array([[0.0, 0.0], [7.0, 8.0]]), "a text without a real token gives zeros")
### BEGIN HIDDEN TESTS
import torch


def oracle(x, mask, grad):
    """One text after the other, with autograd."""
    leaf = torch.tensor(x, requires_grad=True)
    texts, real = leaf.reshape(-1, *x.shape[-2:]), torch.tensor(mask).reshape(-1, x.shape[-2])
    rows = [
        text[keep][0] if bool(keep.any()) else text.new_zeros(x.shape[-1])
        for text, keep in zip(texts, real, strict=True)
    ]
    pooled = torch.stack(rows).reshape(grad.shape)
    pooled.backward(torch.tensor(grad))
    return pooled.detach().numpy(), leaf.grad.numpy()


draw = np.random.default_rng(check.seed(2))
for shape in ((3, 7, 5), (1, 63, 6), (7, 4), (2, 3, 4, 5), (4, 2, 3), (5, 5, 5)):
    x, grad = draw.normal(size=shape), draw.normal(size=(*shape[:-2], shape[-1]))
    mask = draw.random(shape[:-1]) < 0.5
    mask[..., -1] = True
    mask[..., : min(2, shape[-2] - 1)] = False
    output, into = oracle(x, mask, grad)
    case = f"x of shape {shape}, padding on the left and in gaps"
    found = passes(FirstPool(), (x, mask), grad)
    check.close(found["output"], output, f"{case}: the output", atol=1e-8, rtol=1e-8)
    check.close(found.get("grad", np.nan), into, f"{case}: the gradient", atol=1e-8, rtol=1e-8)
    found = passes(FirstPool(), (x.astype("float32"), mask), grad.astype("float32"))
    dtypes = sorted({str(value.dtype) for value in found.values()})
    check.equal(dtypes, ["float32"], f"{case}: float32 in gives float32 out and back")

x, grad = draw.normal(size=(4, 5, 3)), draw.normal(size=(4, 3))
mask = np.array([[1, 0, 1, 0, 1], [0, 0, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 0, 0, 1]]) == 1
output, into = oracle(x, mask, grad)
found = passes(FirstPool(), (x, mask), grad)
check.close(found["output"], output, "gaps behind the first token, and a text without tokens", atol=1e-8)
check.close(found.get("grad", np.nan), into, "gaps and a text without tokens: the gradient", atol=1e-8)
for rubbish in (np.nan, np.inf, 1e300):
    dirty = np.where(mask[..., None], x, rubbish)
    found = passes(FirstPool(), (dirty, mask), grad)
    check.close(
        found["output"], output, f"padding that holds {rubbish}", hint="Zero times NaN is NaN. Choose with np.where."
    )
    check.close(found.get("grad", np.nan), into, f"padding that holds {rubbish}: the gradient")
layer = FirstPool()
layer.forward(x[:, :2], ~mask[:, :2])
layer.forward(x, mask)
check.close(layer.backward(grad), into, "two forwards with different masks, then a backward: it is about the second")
layer.forward(x)
want = np.zeros_like(x)
want[:, 0] = grad
check.close(layer.backward(grad), want, "then a forward without a mask, and a backward")
### END HIDDEN TESTS


# %% alternative="FirstPool"
class FirstPool(Layer):
    # One text after the other.
    def forward(self, x, mask=None):
        self.shape = x.shape
        T, d_model = x.shape[-2:]
        real = np.full(x.shape[:-1], True) if mask is None else np.asarray(mask)
        self.places = [next((t for t in range(T) if row[t]), None) for row in real.reshape(-1, T)]
        print("the first tokens are", self.places)
        texts = x.reshape(-1, T, d_model)
        rows = [np.zeros(d_model, x.dtype) if t is None else texts[i, t] for i, t in enumerate(self.places)]
        return np.array(rows).reshape(*x.shape[:-2], d_model)

    def backward(self, grad):
        result = np.zeros(self.shape, dtype=grad.dtype)
        flat, rows = result.reshape(-1, *self.shape[-2:]), grad.reshape(-1, grad.shape[-1])
        for i, t in enumerate(self.places):
            if t is not None:
                flat[i, t] = rows[i]
        return result


# %% mistakes="FirstPool"
{
    "position 0 is taken, also where it is padding": (
        "np.ones(x.shape[:-1], dtype=bool) if mask is None else mask",
        "np.ones(x.shape[:-1], dtype=bool)",
    ),
    "the gradient goes to position 0, also where it is padding": (
        "np.where(self.chosen, grad[..., None, :], 0)",
        "np.where(np.arange(self.chosen.shape[-2])[:, None] == 0, grad[..., None, :], 0 * self.chosen).astype(grad.dtype)",
    ),
    "padding right behind the first real token is added to it": (
        "first = real & (real.cumsum(axis=-1) == 1)",
        "first = real.cumsum(axis=-1) == 1",
    ),
    "a text without a real token gives what stands at its position 0": (
        "first = real & (real.cumsum(axis=-1) == 1)",
        "first = np.arange(x.shape[-2]) == real.argmax(axis=-1)[..., None]",
    ),
    "padding is multiplied by zero, and zero times NaN is NaN": (
        "np.where(self.chosen, x, 0).sum(axis=-2)",
        "(self.chosen * x).sum(axis=-2)",
    ),
    "True in the mask is taken for padding": ("if mask is None else mask  #", "if mask is None else ~mask  #"),
    "the last real token is chosen": (
        "real & (real.cumsum(axis=-1) == 1)",
        "real & (real[..., ::-1].cumsum(axis=-1)[..., ::-1] == 1)",
    ),
    "all real tokens are added up": ("first = real & (real.cumsum(axis=-1) == 1)", "first = real"),
    "the first real token is chosen, but the gradient goes to all of them": [
        ("self.chosen = first[..., None]", "self.chosen = first[..., None]; self.real = real[..., None]"),
        ("np.where(self.chosen, grad[..., None, :], 0)", "np.where(self.real, grad[..., None, :], 0)"),
    ],
    "the gradient goes to every place, padding included": (
        "np.where(self.chosen, grad[..., None, :], 0)",
        "grad[..., None, :] + np.zeros(self.chosen.shape, grad.dtype)",
    ),
    "the gradient is divided by the number of places": (
        "np.where(self.chosen, grad[..., None, :], 0)",
        "np.where(self.chosen, grad[..., None, :] / self.chosen.shape[-2], 0)",
    ),
    "backward returns the gradient of the pooled vector, without an axis for the tokens": (
        "np.where(self.chosen, grad[..., None, :], 0)",
        "grad",
    ),
    "backward returns nothing, so the layers before it never learn": (
        "return np.where(self.chosen, grad[..., None, :], 0)",
        "return None",
    ),
    "backward uses the mask of the first forward and not that of the last": [
        (
            "self.chosen = first[..., None]",
            'self.chosen = first[..., None]; self.kept = getattr(self, "kept", self.chosen)',
        ),
        ("np.where(self.chosen, grad[..., None, :], 0)", "np.where(self.kept, grad[..., None, :], 0)"),
    ],
    "the output keeps an axis of length 1 for the tokens": ("sum(axis=-2)", "sum(axis=-2, keepdims=True)"),
    "the first text of the batch is taken and not the first token of each text": (
        "return np.where(self.chosen, x, 0).sum(axis=-2)",
        "return x[0]",
    ),
    "the output is float64 whatever the dtype of x": (
        "return np.where(self.chosen, x, 0).sum(axis=-2)",
        "return np.where(self.chosen, x, 0).sum(axis=-2).astype(np.float64)",
    ),
    "the gradient is float64 whatever its dtype was": (
        "np.where(self.chosen, grad[..., None, :], 0)",
        "np.where(self.chosen, grad[..., None, :], np.zeros(1))",
    ),
}

# %% [markdown]
# ## Exercise 2 · `MeanPool`
#
# The mean of all tokens of a text. Two numbers are in play, and they must not be mixed up: T, the number of places, and the number of tokens that are real. A
# mean that divides by T makes short texts quiet: their vectors shrink with each place of padding, and no error says so.
#
# *Difficulty 2 of 5 · 15 minutes · 4 points*


# %% exercise="MeanPool" difficulty=2 minutes=15 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
class MeanPool(Layer):
    """The mean of the real tokens of each text. There are no parameters."""

    def forward(self, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Average over the real tokens.

        Args:
            x: (..., T, d_model) with any number of axes in front, also none; T is at least 1. Places of padding may hold
                anything, NaN included; real tokens are finite.
            mask: (..., T) booleans, True where there is a real token. None if all are real.

        Returns:
            Array (..., d_model) of x's dtype, the sum of the real tokens divided by their number. Zeros for a text that has
            none.
        """
        ### BEGIN SOLUTION
        real = np.ones(x.shape[:-1], dtype=bool) if mask is None else mask  # (..., T)
        self.real = real[..., None]  # (..., T, 1)
        self.count = np.maximum(self.real.sum(axis=-2), 1).astype(x.dtype)  # (..., 1): without tokens 0 / 1 is 0
        return np.where(self.real, x, 0).sum(axis=-2) / self.count  # (..., d_model)
        ### END SOLUTION

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x.

        Args:
            grad: (..., d_model), the gradient of the loss for the output of the last `forward`.

        Returns:
            Array of x's shape and of grad's dtype. All real tokens of a text get the same share, padding gets zeros. There is no
            gradient for the mask.
        """
        ### BEGIN SOLUTION
        share = (grad / self.count)[..., None, :]  # (..., 1, d_model): the same for all tokens of a text
        return np.where(self.real, share, 0)  # (..., T, d_model)
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>It is the last exercise with other weights: one over the number of real tokens in the place of 1. What is that number
# for a text without any, and what should be in its place, so that nothing is divided by zero?</details>
# <details><summary>A bigger nudge</summary>Keep the mask as <code>(..., T, 1)</code>, and its sum over the tokens as <code>(..., 1)</code>: both line up with what
# they meet. A float32 array divided by an array of integers is float64 in NumPy, so bring the count into x's dtype.</details>

# %% test="MeanPool" points=1
from coursekit import check

import numpy as np

x = np.array([[[1.0, 5.0], [3.0, 1.0], [8.0, 9.0]], [[7.0, 8.0], [2.0, 4.0], [6.0, 0.0]]])
grad = np.array([[30.0, 60.0], [90.0, 120.0]])
found = passes(MeanPool(), (x,), grad)
check.close(found["output"], np.array([[4.0, 5.0], [5.0, 4.0]]), "no mask: the mean of three tokens, for each text")
want = np.array([[[10.0, 20.0]] * 3, [[30.0, 40.0]] * 3])
check.close(found.get("grad", np.nan), want, "no mask: each token gets a third of its text's gradient")
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(1))
for shape in ((3, 7, 5), (1, 63, 6), (7, 4), (2, 3, 4, 5), (4, 1, 3), (5, 5, 5)):
    x, grad = draw.normal(size=shape), draw.normal(size=(*shape[:-2], shape[-1]))
    leaf = torch.tensor(x, requires_grad=True)
    pooled = leaf.mean(dim=-2)
    pooled.backward(torch.tensor(grad))
    layer = MeanPool()
    found = passes(layer, (x,), grad)
    check.close(found["output"], pooled.detach().numpy(), f"x of shape {shape}: the output", atol=1e-8, rtol=1e-8)
    check.close(found.get("grad", np.nan), leaf.grad.numpy(), f"x of shape {shape}: the gradient", atol=1e-8, rtol=1e-8)
    found = passes(layer, (x.astype("float32"),), grad.astype("float32"))
    dtypes = sorted({str(value.dtype) for value in found.values()})
    check.equal(
        dtypes,
        ["float32"],
        f"x of shape {shape}: float32 in gives float32 out and back",
        hint="np.zeros and np.ones are float64 unless you name a dtype, and so is a float32 divided by an integer array.",
    )
across = np.arange(24.0).reshape(4, 3, 2).T  # (2, 3, 4), not contiguous
check.close(passes(MeanPool(), (across,), across[:, 1])["output"], across[:, 1], "an x that is not contiguous")
check.equal(list(MeanPool().parameters()), [], "a pool has no parameters")
### END HIDDEN TESTS

# %% test="MeanPool" points=3
from coursekit import check

import numpy as np

x = np.array([[[1.0, 5.0], [3.0, 1.0], [9.0, 9.0]], [[7.0, 8.0], [2.0, 4.0], [6.0, 0.0]]])
mask = np.array([[True, True, False], [False, False, True]])
grad = np.array([[10.0, 20.0], [30.0, 40.0]])
found = passes(MeanPool(), (x, mask), grad)
check.close(found["output"], np.array([[2.0, 3.0], [6.0, 0.0]]), "two real tokens in the first text, one in the second")
want = np.array([[[5.0, 10.0], [5.0, 10.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0], [30.0, 40.0]]])
check.close(found.get("grad", np.nan), want, "a half of the gradient for each of two tokens, all of it for one alone")
found = passes(MeanPool(), (x, np.array([[False, False, False], [True, False, True]])), grad)
check.close(found["output"], np.array([[0.0, 0.0], [6.5, 4.0]]), "a text without a real token gives zeros")
### BEGIN HIDDEN TESTS
import torch


def oracle(x, mask, grad):
    """One text after the other, with autograd."""
    leaf = torch.tensor(x, requires_grad=True)
    texts, real = leaf.reshape(-1, *x.shape[-2:]), torch.tensor(mask).reshape(-1, x.shape[-2])
    pairs = zip(texts, real, strict=True)
    rows = [text[keep].mean(dim=0) if bool(keep.any()) else text.new_zeros(x.shape[-1]) for text, keep in pairs]
    pooled = torch.stack(rows).reshape(grad.shape)
    pooled.backward(torch.tensor(grad))
    return pooled.detach().numpy(), leaf.grad.numpy()


draw = np.random.default_rng(check.seed(2))
for shape in ((3, 7, 5), (1, 63, 6), (7, 4), (2, 3, 4, 5), (4, 2, 3), (5, 5, 5)):
    x, grad = draw.normal(size=shape), draw.normal(size=(*shape[:-2], shape[-1]))
    mask = draw.random(shape[:-1]) < 0.5
    mask[..., 0] = True
    mask[..., -1] = False
    output, into = oracle(x, mask, grad)
    case = f"x of shape {shape}, padding at the end and in gaps"
    found = passes(MeanPool(), (x, mask), grad)
    check.close(found["output"], output, f"{case}: the output", atol=1e-8, rtol=1e-8)
    check.close(found.get("grad", np.nan), into, f"{case}: the gradient", atol=1e-8, rtol=1e-8)
    found = passes(MeanPool(), (x.astype("float32"), mask), grad.astype("float32"))
    dtypes = sorted({str(value.dtype) for value in found.values()})
    check.equal(dtypes, ["float32"], f"{case}: float32 in gives float32 out and back")

x, grad = draw.normal(size=(4, 5, 3)), draw.normal(size=(4, 3))
mask = np.array([[1, 0, 1, 0, 1], [0, 0, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 0, 0, 1]]) == 1
output, into = oracle(x, mask, grad)
found = passes(MeanPool(), (x, mask), grad)
check.close(found["output"], output, "texts of 3, 0, 2 and 1 real tokens", atol=1e-8)
check.close(found.get("grad", np.nan), into, "texts of 3, 0, 2 and 1 real tokens: the gradient", atol=1e-8)
for rubbish in (np.nan, np.inf, 1e300):
    dirty = np.where(mask[..., None], x, rubbish)
    found = passes(MeanPool(), (dirty, mask), grad)
    check.close(
        found["output"], output, f"padding that holds {rubbish}", hint="Zero times NaN is NaN. Choose with np.where."
    )
    check.close(found.get("grad", np.nan), into, f"padding that holds {rubbish}: the gradient")
layer = MeanPool()
layer.forward(x[:, :2], ~mask[:, :2])
layer.forward(x, mask)
check.close(layer.backward(grad), into, "two forwards with different masks, then a backward: it is about the second")
layer.forward(x)
want = np.repeat(grad[:, None] / 5, 5, axis=1)
check.close(layer.backward(grad), want, "then a forward without a mask, and a backward")

# Against the definition: move one number a little, and watch the loss.
found = passes(MeanPool(), (x, mask), grad)
for place in ((0, 2, 1), (2, 4, 0), (2, 3, 2)):
    losses = []
    for sign in (1, -1):
        moved = x.copy()
        moved[place] += sign * 1e-4
        losses.append((MeanPool().forward(moved, mask) * grad).sum())
    slope = (losses[0] - losses[1]) / 2e-4
    check.close(float(found["grad"][place]), float(slope), f"the gradient at {list(place)} is the slope", atol=1e-7)
### END HIDDEN TESTS


# %% alternative="MeanPool"
class MeanPool(Layer):
    # As a matrix product with a row of weights.
    def forward(self, x, mask=None):
        T = x.shape[-2]
        real = np.ones((*x.shape[:-2], T)) if mask is None else mask.astype(np.float64)
        number = real.sum(-1, keepdims=True)
        self.weights = np.divide(real, number, out=np.zeros_like(real), where=number > 0).astype(x.dtype)
        clean = x if mask is None else np.where(mask[..., None], x, np.zeros((), x.dtype))
        print("weights", self.weights.shape)
        return np.einsum("...t,...td->...d", self.weights, clean)

    def backward(self, grad):
        return np.einsum("...t,...d->...td", self.weights, grad)


# %% mistakes="MeanPool"
{
    "the sum is divided by the number of places and not by that of the real tokens, so short texts are quiet": (
        "np.maximum(self.real.sum(axis=-2), 1)",
        "np.full((*x.shape[:-2], 1), x.shape[-2])",
    ),
    "forward divides by the number of real tokens, but backward by the number of places": (
        "(grad / self.count)",
        "(grad / self.real.shape[-2])",
    ),
    "each token gets the whole gradient, undivided": ("(grad / self.count)", "(grad + 0 * self.count)"),
    "padding gets a share of the gradient": (
        "np.where(self.real, share, 0)",
        "share + np.zeros(self.real.shape, grad.dtype)",
    ),
    "padding is added up too, and only the divisor leaves it out": ("np.where(self.real, x, 0)", "x"),
    "the mask is not looked at": (
        "np.ones(x.shape[:-1], dtype=bool) if mask is None else mask",
        "np.ones(x.shape[:-1], dtype=bool)",
    ),
    "all texts are divided by the mean number of real tokens in the batch": (
        "np.maximum(self.real.sum(axis=-2), 1)",
        "np.maximum(np.full((*x.shape[:-2], 1), self.real.sum() / (self.real.size / x.shape[-2])), 1)",
    ),
    "a text without a real token gives NaN, zero divided by zero": (
        "np.maximum(self.real.sum(axis=-2), 1)",
        'np.where(self.real.any(axis=-2), self.real.sum(axis=-2), float("nan"))',
    ),
    "padding is multiplied by zero, and zero times NaN is NaN": ("np.where(self.real, x, 0)", "(self.real * x)"),
    "True in the mask is taken for padding": ("if mask is None else mask  #", "if mask is None else ~mask  #"),
    "the tokens are added up and not averaged, there and back": (
        "np.maximum(self.real.sum(axis=-2), 1)",
        "np.ones((*x.shape[:-2], 1))",
    ),
    "the sum is divided by the root of the number of tokens": (
        "np.maximum(self.real.sum(axis=-2), 1)",
        "np.maximum(self.real.sum(axis=-2), 1) ** 0.5",
    ),
    "only the first real token gets a gradient": (
        "np.where(self.real, share, 0)",
        "np.where(self.real & (self.real.cumsum(axis=-2) == 1), share, 0)",
    ),
    "backward returns the share of one token, without an axis for the tokens": (
        "return np.where(self.real, share, 0)",
        "return share[..., 0, :]",
    ),
    "backward returns nothing, so the layers before it never learn": (
        "return np.where(self.real, share, 0)",
        "return None",
    ),
    "backward uses the mask of the first forward and not that of the last": [
        (
            "self.real = real[..., None]  #",
            'self.real = real[..., None]; self.kept = getattr(self, "kept", self.real)  #',
        ),
        ("np.where(self.real, share, 0)", "np.where(self.kept, share, 0)"),
    ],
    "backward uses the numbers of tokens of the first forward": [
        (
            "return np.where(self.real, x, 0)",
            'self.kept = getattr(self, "kept", self.count)\n        return np.where(self.real, x, 0)',
        ),
        ("(grad / self.count)", "(grad / self.kept)"),
    ],
    "the mean runs over the texts of the batch and not over the tokens": (
        "np.where(self.real, x, 0).sum(axis=-2) / self.count",
        "x.mean(axis=0)",
    ),
    "the output keeps an axis of length 1 for the tokens": (
        "np.where(self.real, x, 0).sum(axis=-2) / self.count",
        "(np.where(self.real, x, 0).sum(axis=-2) / self.count)[..., None, :]",
    ),
    "a count of integers turns a float32 output into float64": (".astype(x.dtype)", ""),
}

# %% [markdown]
# What happens to those who forget the mask? A text of four tokens is filled up with padding, one place at a time, and the pooled vector
# is compared with the right one. The padding holds the same vector everywhere, as it would after an embedding.

# %%
rng = np.random.default_rng(0)
text, filler = rng.normal(size=(4, 32)), rng.normal(size=32)
places = [0, 1, 2, 4, 8, 16, 32, 64]
lines = {"mean with the mask": [], "mean, padding counted": [], "mean, divided by T": [], "max without the mask": []}
for n in places:
    padded = np.concatenate([text, np.tile(filler, (n, 1))])
    mask = np.arange(4 + n) < 4
    right = text.mean(axis=0)
    silent = np.where(mask[:, None], padded, 0).mean(axis=0)
    wrong = [MeanPool()(padded, mask) - right, MeanPool()(padded) - right, silent - right]
    wrong.append(padded.max(axis=0) - text.max(axis=0))
    for line, difference in zip(lines.values(), wrong, strict=True):
        line.append(np.linalg.norm(difference) / np.linalg.norm(right))
figure = go.Figure()
for name, line in lines.items():
    figure.add_scatter(x=places, y=line, name=name, mode="lines+markers")
figure.update_traces(hovertemplate="%{x} places of padding: %{y:.2f}")
figure.update_xaxes(title_text="places of padding")
figure.update_yaxes(title_text="relative error", rangemode="tozero")
figure.update_layout(height=380, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})
figure.show()

# %% [markdown]
# Two of the wrong lines approach a limit. The mean with counted padding ends at the padding's own vector, and the mean divided by T at
# zero, an error of 1. The error of the maximum does not depend on how much padding there is: one place of it is enough. And how much padding a
# text gets is decided by the longest text of its batch. So the same text gets another answer in other company.
#
# ## Exercise 3 · `MaxPool`
#
# For each feature, the largest value among the real tokens. Two questions need an answer before you write a line. What should stand in
# the place of padding, so that it never wins? Zero is the popular answer, and wrong: all values of a feature may be negative. And who gets the gradient if two tokens share the
# largest value? There is no derivative at such a point; one has to choose. Here the first of them gets all.
#
# *Difficulty 3 of 5 · 20 minutes · 5 points*


# %% exercise="MaxPool" difficulty=3 minutes=20 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
class MaxPool(Layer):
    """For each feature the largest value among the real tokens of the text. There are no parameters."""

    def forward(self, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Take the maximum over the real tokens, feature by feature.

        Args:
            x: (..., T, d_model) with any number of axes in front, also none; T is at least 1. Places of padding may hold
                anything, NaN included; real tokens are finite, and as large as they like in either direction.
            mask: (..., T) booleans, True where there is a real token. None if all are real.

        Returns:
            Array (..., d_model) of x's dtype. Zeros for a text without a real token.
        """
        ### BEGIN SOLUTION
        real = np.ones(x.shape[:-1], dtype=bool) if mask is None else mask  # (..., T)
        seen = np.where(real[..., None], x, -np.inf)  # (..., T, d_model): padding never wins
        winner = seen.argmax(axis=-2)[..., None, :]  # (..., 1, d_model): the first of equals
        place = np.arange(x.shape[-2])[:, None]  # (T, 1)
        self.chosen = real[..., None] & (place == winner)  # (..., T, d_model): one token for each feature
        return np.where(self.chosen, x, 0).sum(axis=-2)  # (..., d_model)
        ### END SOLUTION

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x.

        Args:
            grad: (..., d_model), the gradient of the loss for the output of the last `forward`.

        Returns:
            Array of x's shape and of grad's dtype. For each feature the real token with the largest value gets the whole
            gradient; if several share that value, the one with the lowest position gets it and the others nothing. Padding gets
            zeros. There is no gradient for the mask.
        """
        ### BEGIN SOLUTION
        return np.where(self.chosen, grad[..., None, :], 0)  # (..., T, d_model)
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Ask for the position of the largest value and not for the value itself: <code>argmax</code> takes the first of equals. A value that
# is smaller than every number makes sure that padding is never asked.</details>
# <details><summary>A bigger nudge</summary>Compare the positions 0 to T - 1, as a column, with the winners, as a row: that gives a boolean array
# <code>(..., T, d_model)</code> with one True for each feature. The rest is as in exercise 1. A text without any real token still has an argmax:
# strike it out with the mask.</details>

# %% test="MaxPool" points=2
from coursekit import check

import numpy as np

x = np.array([[[1.0, -5.0], [3.0, -1.0], [2.0, -9.0]], [[7.0, 8.0], [7.0, 9.0], [6.0, 9.0]]])
grad = np.array([[10.0, 20.0], [30.0, 40.0]])
found = passes(MaxPool(), (x,), grad)
check.close(found["output"], np.array([[3.0, -1.0], [7.0, 9.0]]), "no mask: the largest value of each feature")
want = np.array([[[0.0, 0.0], [10.0, 20.0], [0.0, 0.0]], [[30.0, 0.0], [0.0, 40.0], [0.0, 0.0]]])
check.close(
    found.get("grad", np.nan), want, "no mask: each feature's gradient goes to one token, among equals to the first"
)
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(1))
for shape in ((3, 7, 5), (1, 63, 6), (7, 4), (2, 3, 4, 5), (4, 1, 3), (5, 5, 5)):
    x, grad = draw.normal(size=shape), draw.normal(size=(*shape[:-2], shape[-1]))
    leaf = torch.tensor(x, requires_grad=True)
    pooled = leaf.amax(dim=-2)
    pooled.backward(torch.tensor(grad))
    layer = MaxPool()
    found = passes(layer, (x,), grad)
    check.close(found["output"], pooled.detach().numpy(), f"x of shape {shape}: the output", atol=1e-8, rtol=1e-8)
    check.close(found.get("grad", np.nan), leaf.grad.numpy(), f"x of shape {shape}: the gradient", atol=1e-8, rtol=1e-8)
    found = passes(layer, (x.astype("float32"),), grad.astype("float32"))
    dtypes = sorted({str(value.dtype) for value in found.values()})
    check.equal(
        dtypes,
        ["float32"],
        f"x of shape {shape}: float32 in gives float32 out and back",
        hint="np.zeros and np.ones are float64 unless you name a dtype, and so is a float32 divided by an integer array.",
    )
# All tokens alike: everything goes to position 0.
grad = draw.normal(size=(2, 3))
want = np.zeros((2, 4, 3))
want[:, 0] = grad
check.close(passes(MaxPool(), (np.full((2, 4, 3), -2.0),), grad).get("grad", np.nan), want, "all tokens are equal")
across = np.arange(24.0).reshape(4, 3, 2).T  # (2, 3, 4), not contiguous
check.close(passes(MaxPool(), (across,), across[:, 1])["output"], across[:, 2], "an x that is not contiguous")
check.equal(list(MaxPool().parameters()), [], "a pool has no parameters")
### END HIDDEN TESTS

# %% test="MaxPool" points=3
from coursekit import check

import numpy as np

x = np.array([[[1.0, 5.0], [3.0, 1.0], [9.0, 9.0]], [[-7.0, 0.0], [-2.0, -4.0], [-6.0, -1.0]]])
mask = np.array([[True, True, False], [False, True, True]])
grad = np.array([[10.0, 20.0], [30.0, 40.0]])
found = passes(MaxPool(), (x, mask), grad)
check.close(found["output"], np.array([[3.0, 5.0], [-2.0, -1.0]]), "padding is not looked at, even where it is 9 or 0")
want = np.array([[[0.0, 20.0], [10.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [30.0, 0.0], [0.0, 40.0]]])
check.close(found.get("grad", np.nan), want, "the gradient of each feature goes to the real token that was largest")
found = passes(MaxPool(), (x, np.array([[False, False, False], [True, False, True]])), grad)
check.close(found["output"], np.array([[0.0, 0.0], [-6.0, 0.0]]), "a text without a real token gives zeros")
want = np.array([[[0.0, 0.0]] * 3, [[0.0, 40.0], [0.0, 0.0], [30.0, 0.0]]])
check.close(found.get("grad", np.nan), want, "a text without a real token gets no gradient")
### BEGIN HIDDEN TESTS
import torch


def oracle(x, mask, grad):
    """One text after the other, with autograd."""
    leaf = torch.tensor(x, requires_grad=True)
    texts, real = leaf.reshape(-1, *x.shape[-2:]), torch.tensor(mask).reshape(-1, x.shape[-2])
    pairs = zip(texts, real, strict=True)
    rows = [text[keep].amax(dim=0) if bool(keep.any()) else text.new_zeros(x.shape[-1]) for text, keep in pairs]
    pooled = torch.stack(rows).reshape(grad.shape)
    pooled.backward(torch.tensor(grad))
    return pooled.detach().numpy(), leaf.grad.numpy()


draw = np.random.default_rng(check.seed(2))
for shape in ((3, 7, 5), (1, 63, 6), (7, 4), (2, 3, 4, 5), (4, 2, 3), (5, 5, 5)):
    x, grad = draw.normal(size=shape), draw.normal(size=(*shape[:-2], shape[-1]))
    mask = draw.random(shape[:-1]) < 0.5
    mask[..., 0] = True
    mask[..., -1] = False
    output, into = oracle(x, mask, grad)
    case = f"x of shape {shape}, padding at the end and in gaps"
    found = passes(MaxPool(), (x, mask), grad)
    check.close(found["output"], output, f"{case}: the output", atol=1e-8, rtol=1e-8)
    check.close(found.get("grad", np.nan), into, f"{case}: the gradient", atol=1e-8, rtol=1e-8)
    found = passes(MaxPool(), (x.astype("float32"), mask), grad.astype("float32"))
    dtypes = sorted({str(value.dtype) for value in found.values()})
    check.equal(dtypes, ["float32"], f"{case}: float32 in gives float32 out and back")

x, grad = draw.normal(size=(4, 5, 3)), draw.normal(size=(4, 3))
mask = np.array([[1, 0, 1, 0, 1], [0, 0, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 0, 0, 1]]) == 1
for far in (0.0, 1e4, -1e4, -1e200):
    moved = x + far
    output, into = oracle(moved, mask, grad)
    if far == -1e200:  # all values are the same now, and autograd would share the gradient
        into = np.where((mask & (mask.cumsum(-1) == 1))[..., None], grad[:, None], 0.0)
    case = f"texts of 3, 0, 2 and 1 real tokens with values near {far:g}"
    found = passes(MaxPool(), (moved, mask), grad)
    check.close(found["output"], output, case, atol=1e-8)
    check.close(found.get("grad", np.nan), into, f"{case}: the gradient", atol=1e-8)
output, into = oracle(x, mask, grad)
for rubbish in (np.nan, np.inf, 1e300):
    dirty = np.where(mask[..., None], x, rubbish)
    found = passes(MaxPool(), (dirty, mask), grad)
    check.close(
        found["output"], output, f"padding that holds {rubbish}", hint="Zero times NaN is NaN. Choose with np.where."
    )
    check.close(found.get("grad", np.nan), into, f"padding that holds {rubbish}: the gradient")
layer = MaxPool()
layer.forward(x[:, :2], ~mask[:, :2])
layer.forward(x, mask)
check.close(layer.backward(grad), into, "two forwards with different masks, then a backward: it is about the second")
layer.forward(np.zeros((3, 2)))
check.close(layer.backward(grad[0, :2]), np.stack([grad[0, :2], [0, 0], [0, 0]]), "then one text of equal tokens alone")

# Against the definition: move one number a little, and watch the loss.
well = np.arange(60.0).reshape(4, 5, 3)[:, ::-1] * np.array([1.0, -1.0, 1.0])  # no two values are near each other
found = passes(MaxPool(), (well, mask), grad)
for place in ((0, 0, 0), (0, 4, 1), (2, 4, 1), (2, 1, 1), (2, 3, 2)):
    losses = []
    for sign in (1, -1):
        moved = well.copy()
        moved[place] += sign * 1e-4
        losses.append((MaxPool().forward(moved, mask) * grad).sum())
    slope = (losses[0] - losses[1]) / 2e-4
    check.close(float(found["grad"][place]), float(slope), f"the gradient at {list(place)} is the slope", atol=1e-6)
### END HIDDEN TESTS


# %% alternative="MaxPool"
class MaxPool(Layer):
    # With the numbers of the winners, and put_along_axis on the way back.
    def forward(self, x, mask=None):
        if mask is None:
            mask = np.ones(x.shape[:-1], dtype=bool)
        self.shape, self.empty = x.shape, ~mask.any(axis=-1)
        hidden = x.copy()
        hidden[~mask] = -np.inf
        self.winner = np.argmax(hidden, axis=-2)
        best = np.take_along_axis(hidden, np.expand_dims(self.winner, -2), axis=-2).squeeze(-2)
        print("winners", self.winner.shape)
        best[self.empty] = 0
        return best

    def backward(self, grad):
        into = np.zeros(self.shape, grad.dtype)
        np.put_along_axis(into, np.expand_dims(self.winner, -2), np.expand_dims(grad, -2), axis=-2)
        into[self.empty] = 0
        return into


# %% mistakes="MaxPool"
{
    "padding counts as zero, so it wins wherever all values are negative": ("x, -np.inf)", "x, 0)"),
    "padding counts as -10,000, and values below that lose against it": ("x, -np.inf)", "x, -1e4)"),
    "all tokens that share the largest value get the whole gradient": [
        (
            "self.chosen = real[..., None] & (place == winner)",
            "self.equal = real[..., None] & (seen == seen.max(axis=-2, keepdims=True)); self.chosen = real[..., None] & (place == winner)",
        ),
        ("np.where(self.chosen, grad[..., None, :], 0)", "np.where(self.equal, grad[..., None, :], 0)"),
    ],
    "every place that holds the largest value gets the whole gradient, padding included": [
        ("self.chosen = real", "self.x = x; self.chosen = real"),
        (
            "return np.where(self.chosen, x, 0).sum(axis=-2)",
            "self.largest = np.where(self.chosen, x, 0).sum(axis=-2)\n        return self.largest",
        ),
        (
            "np.where(self.chosen, grad[..., None, :], 0)",
            "np.where(self.x == self.largest[..., None, :], grad[..., None, :], 0)",
        ),
    ],
    "tokens that share the largest value share its gradient": [
        (
            "self.chosen = real[..., None] & (place == winner)",
            "self.equal = real[..., None] & (seen == seen.max(axis=-2, keepdims=True)); self.chosen = real[..., None] & (place == winner)",
        ),
        (
            "np.where(self.chosen, grad[..., None, :], 0)",
            "np.where(self.equal, grad[..., None, :] / np.maximum(self.equal.sum(axis=-2, keepdims=True), 1), 0).astype(grad.dtype)",
        ),
    ],
    "among equals the last one wins": (
        "winner = seen.argmax(axis=-2)[..., None, :]",
        "winner = x.shape[-2] - 1 - seen[..., ::-1, :].argmax(axis=-2)[..., None, :]",
    ),
    "the token with the largest sum of features wins all of them": (
        "winner = seen.argmax(axis=-2)[..., None, :]",
        "winner = seen.sum(axis=-1).argmax(axis=-1)[..., None, None]",
    ),
    "the values come from the maximum, but the gradient goes to all real tokens": [
        (
            "real[..., None] & (place == winner)  #",
            "real[..., None] & (place == winner); self.real = real[..., None]  #",
        ),
        ("np.where(self.chosen, grad[..., None, :], 0)", "np.where(self.real, grad[..., None, :], 0)"),
    ],
    "the gradient is spread evenly over the real tokens, as a mean would do it": [
        (
            "real[..., None] & (place == winner)  #",
            "real[..., None] & (place == winner); self.real = real[..., None]  #",
        ),
        (
            "np.where(self.chosen, grad[..., None, :], 0)",
            "np.where(self.real, grad[..., None, :] / np.maximum(self.real.sum(axis=-2, keepdims=True), 1), 0).astype(grad.dtype)",
        ),
    ],
    "the gradient goes to position 0": (
        "np.where(self.chosen, grad[..., None, :], 0)",
        "np.where(np.arange(self.chosen.shape[-2])[:, None] == 0, grad[..., None, :], 0 * self.chosen).astype(grad.dtype)",
    ),
    "the mask is not looked at": (
        "np.ones(x.shape[:-1], dtype=bool) if mask is None else mask",
        "np.ones(x.shape[:-1], dtype=bool)",
    ),
    "the value is that of the real tokens, but the gradient goes to the largest of all places": [
        ("self.chosen = real", "self.all = place == x.argmax(axis=-2)[..., None, :]; self.chosen = real"),
        ("np.where(self.chosen, grad[..., None, :], 0)", "np.where(self.all, grad[..., None, :], 0)"),
    ],
    "the token with the largest absolute value wins": ("x, -np.inf)", "np.abs(x), -np.inf)"),
    "the smallest value wins": ("seen.argmax(axis=-2)", "np.where(real[..., None], x, np.inf).argmin(axis=-2)"),
    "a text without a real token gives what stands at its position 0": (
        "self.chosen = real[..., None] & (place == winner)",
        "self.chosen = place == winner",
    ),
    "a text without a real token gives minus infinity": (
        "return np.where(self.chosen, x, 0).sum(axis=-2)",
        "return seen.max(axis=-2)",
    ),
    "padding is multiplied by zero, and zero times NaN is NaN": ("np.where(self.chosen, x, 0)", "(self.chosen * x)"),
    "True in the mask is taken for padding": ("if mask is None else mask  #", "if mask is None else ~mask  #"),
    "backward returns the gradient of the pooled vector, without an axis for the tokens": (
        "np.where(self.chosen, grad[..., None, :], 0)",
        "grad",
    ),
    "backward returns nothing, so the layers before it never learn": (
        "return np.where(self.chosen, grad[..., None, :], 0)",
        "return None",
    ),
    "backward uses the winners of the first forward and not those of the last": [
        (
            "return np.where(self.chosen, x, 0)",
            'self.kept = getattr(self, "kept", self.chosen)\n        return np.where(self.chosen, x, 0)',
        ),
        ("np.where(self.chosen, grad[..., None, :], 0)", "np.where(self.kept, grad[..., None, :], 0)"),
    ],
    "the gradient is multiplied by the largest value": [
        (
            "return np.where(self.chosen, x, 0)",
            "self.x = np.where(self.chosen, x, 0)\n        return np.where(self.chosen, x, 0)",
        ),
        ("np.where(self.chosen, grad[..., None, :], 0)", "np.where(self.chosen, grad[..., None, :] * self.x, 0)"),
    ],
    "the maximum runs over the features of a token and not over the tokens of a feature": (
        "return np.where(self.chosen, x, 0).sum(axis=-2)",
        "return x.max(axis=-1)",
    ),
    "the output is float64 whatever the dtype of x": (
        "return np.where(self.chosen, x, 0).sum(axis=-2)",
        "return np.where(self.chosen, x, 0).sum(axis=-2).astype(np.float64)",
    ),
}

# %% [markdown]
# ## Exercise 4 · `Head`
#
# One vector for the text, `n_classes` scores out of it: that is the linear layer of Lab 0.2, and nothing new. What deserves a thought is how it begins. A
# model that has learned nothing should find all classes alike. Then the first loss is $\ln n_\text{classes}$, a number that you can predict, and
# you will look for it at the start of every run in [Lab 0.8](lab08_training_loop.ipynb). Xavier's rule keeps the variance of
# the signal; at the very end that means logits with a spread of about 1, chosen by chance, and a model that has opinions before it has seen anything. So draw smaller numbers.
#
# *Difficulty 1 of 5 · 10 minutes · 3 points*


# %% exercise="Head" difficulty=1 minutes=10 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
class Head(Layer):
    """From a vector to one score for each class: a linear layer that begins without an opinion.

    Args:
        d_model: features of the vector.
        n_classes: number of classes.
        rng: all random numbers come from it.

    Parameters:
        ``linear.weight`` (d_model, n_classes), float64. At first its entries are independent and normal with mean 0 and
        standard deviation 0.02. ``linear.bias`` (n_classes,), at first zeros. Keep a `Linear` in ``self.linear``.
    """

    def __init__(self, d_model: int, n_classes: int, rng: np.random.Generator):
        ### BEGIN SOLUTION
        self.linear = Linear(d_model, n_classes, rng)
        self.linear.weight.value = rng.normal(0, 0.02, size=(d_model, n_classes))
        ### END SOLUTION

    def forward(self, x: np.ndarray) -> np.ndarray:
        """The logits: ``x @ weight + bias``.

        Args:
            x: (..., d_model) with any number of axes in front, also none.

        Returns:
            Array (..., n_classes).
        """
        ### BEGIN SOLUTION
        return self.linear(x)
        ### END SOLUTION

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x; adds to the gradients of weight and bias.

        Args:
            grad: (..., n_classes), the gradient of the loss for the output of the last `forward`.

        Returns:
            Array of x's shape.
        """
        ### BEGIN SOLUTION
        return self.linear.backward(grad)
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>A layer may be made of layers, and <code>parameters()</code> walks through them: that is where the name
# <code>linear.weight</code> comes from.</details>
# <details><summary>A bigger nudge</summary>Make a <code>Linear</code>, then give its weight other numbers: set <code>self.linear.weight.value</code>. Do not make a new
# <code>Linear</code> in <code>forward</code>, and do not forget what <code>backward</code> returns.</details>

# %% test="Head" points=2
from coursekit import check

import numpy as np

layer = Head(3, 2, new_rng(0))
shapes = {name: list(p.value.shape) for name, p in layer.parameters().items()}
check.equal(
    shapes,
    {"linear.weight": [3, 2], "linear.bias": [2]},
    "the parameters and their shapes",
    hint="They belong to a Linear that you keep in self.linear. Its weight stays a Parameter, with another value.",
)
layer.linear.weight.value = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
layer.linear.bias.value = np.array([10.0, 20.0])
found = passes(layer, (np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]),), np.array([[1.0, 0.0], [0.0, 1.0]]))
check.close(found["output"], np.array([[21.0, 34.0], [13.0, 24.0]]), "two vectors, two classes: x @ weight + bias")
check.close(found.get("grad", np.nan), np.array([[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]]), "the gradient for x")
check.close(found["grad.linear.weight"], np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]), "the gradient of the weight")
check.close(found["grad.linear.bias"], np.array([1.0, 1.0]), "the gradient of the bias")
layer.backward(np.array([[1.0, 0.0], [0.0, 1.0]]))
check.close(layer.linear.bias.grad, np.array([2.0, 2.0]), "backward once more: the gradients add up")
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(1))
for shape, n_classes in (((3, 5), 19), ((1, 63), 2), ((7,), 4), ((2, 3, 4), 6), ((4, 4), 4), ((2, 5), 1)):
    case = f"x of shape {shape}, {n_classes} classes"
    x, grad = draw.normal(size=shape), draw.normal(size=(*shape[:-1], n_classes))
    weight, bias = draw.normal(size=(shape[-1], n_classes)), draw.normal(size=n_classes)
    layer = Head(shape[-1], n_classes, new_rng(0))
    layer.linear.weight.value, layer.linear.bias.value = weight, bias
    leaves = [torch.tensor(value, requires_grad=True) for value in (x, weight, bias)]
    output = torch.nn.functional.linear(leaves[0], leaves[1].T, leaves[2])
    output.backward(torch.tensor(grad))
    wanted = {"output": output.detach(), "grad": leaves[0].grad}
    wanted |= {"grad.linear.weight": leaves[1].grad, "grad.linear.bias": leaves[2].grad}
    found = passes(layer, (x,), grad)
    check.equal(sorted(found), sorted(wanted), f"{case}: what there is a gradient for")
    for name, value in wanted.items():
        check.close(found[name], value.numpy(), f"{case}: {name}", atol=1e-8, rtol=1e-8)
    layer.astype("float32")
    found = passes(layer, (x.astype("float32"),), grad.astype("float32"))
    check.equal(sorted({str(v.dtype) for v in found.values()}), ["float32"], f"{case}: after astype('float32')")
### END HIDDEN TESTS

# %% test="Head" points=1
from coursekit import check

import numpy as np

layer = Head(64, 19, new_rng(0))
check.close(layer.linear.bias.value, np.zeros(19), "the bias is zero at first")
logits = layer.forward(np.sign(np.random.default_rng(1).normal(size=(300, 64))))
check.close(float(np.std(logits)), 0.16, "features of size 1: the logits have a spread of sqrt(64) * 0.02", atol=0.02)
### BEGIN HIDDEN TESTS
layer = Head(200, 300, new_rng(check.seed(3)))
table = layer.linear.weight.value
kinds = [str(p.value.dtype) for p in layer.parameters().values()]
check.equal(kinds, ["float64", "float64"], "the dtypes of weight and bias")
# 60,000 numbers: their standard deviation is within 0.3% of the true one two times in three.
check.close(float(table.std() / 0.02), 1.0, "the standard deviation of the first weight, divided by 0.02", atol=0.03)
check.close(float(table.mean() / 0.02), 0.0, "the mean of the first weight, divided by 0.02", atol=0.03)
beyond = float((np.abs(table) > 0.04).mean())
check.close(beyond, 0.0455, "normal: 4.55% of the numbers lie more than two standard deviations from zero", atol=0.006)
same, again, other = (Head(7, 4, new_rng(check.seed(4) + k)).linear.weight.value for k in (0, 0, 1))
check.that(np.array_equal(same, again), "generators with the same seed give the same head", hint="Draw from rng.")
check.that(not np.array_equal(same, other), "another seed gives another head", hint="Draw from rng.")
rng = new_rng(check.seed(5))
first, second = (Head(7, 4, rng).linear.weight.value for _ in range(2))
check.that(not np.array_equal(first, second), "two heads from one generator differ")
check.that(
    np.ptp(np.abs(table), axis=0).min() > 0 and np.ptp(np.abs(table), axis=1).min() > 0,
    "no row or column repeats one number",
)
### END HIDDEN TESTS


# %% alternative="Head"
class Head(Layer):
    # Without the first draw of Linear's own.
    def __init__(self, d_model, n_classes, rng):
        self.linear = Linear(d_model, n_classes, np.random.default_rng(0))
        self.linear.weight = Parameter(0.02 * rng.standard_normal((d_model, n_classes)))
        self.linear.bias = Parameter(np.zeros(n_classes))

    def forward(self, x):
        self.x = x
        return np.einsum("...d,dc->...c", x, self.linear.weight.value) + self.linear.bias.value

    def backward(self, grad):
        rows, inputs = grad.reshape(-1, grad.shape[-1]), self.x.reshape(-1, self.x.shape[-1])
        for x, g in zip(inputs, rows, strict=True):
            self.linear.weight.grad += np.outer(x, g)
            self.linear.bias.grad += g
        return grad @ self.linear.weight.value.T


# %% mistakes="Head"
{
    "the weight keeps the first values of Xavier's rule": (
        "self.linear.weight.value = rng.normal(0, 0.02, size=(d_model, n_classes))",
        "pass",
    ),
    "the first weight is normal with standard deviation 1": ("rng.normal(0, 0.02,", "rng.normal(0, 1.0,"),
    "0.02 is taken for the variance and not for the standard deviation": ("(0, 0.02,", "(0, 0.02**0.5,"),
    "the first weight is zero, so in the first step nothing reaches the layers before": (
        "rng.normal(0, 0.02, size=(d_model, n_classes))",
        "np.zeros((d_model, n_classes))",
    ),
    "the first weight is uniform, with the right standard deviation": (
        "rng.normal(0, 0.02, size",
        "rng.uniform(-0.02 * 3**0.5, 0.02 * 3**0.5, size",
    ),
    "the bias begins with random numbers, and should be zero": (
        "size=(d_model, n_classes))",
        "size=(d_model, n_classes))\n        self.linear.bias.value = rng.normal(0, 0.02, size=n_classes)",
    ),
    "rng is ignored: every weight is drawn with seed 0": ("rng.normal(", "np.random.default_rng(0).normal("),
    "all classes begin with the same column": (
        "rng.normal(0, 0.02, size=(d_model, n_classes))",
        "np.tile(rng.normal(0, 0.02, size=(d_model, 1)), (1, n_classes))",
    ),
    "there is no bias": ("Linear(d_model, n_classes, rng)", "Linear(d_model, n_classes, rng, bias=False)"),
    "probabilities are returned and not logits": ("return self.linear(x)", "return softmax(self.linear(x))"),
    "there is a ReLU behind the linear layer, so no logit is negative": (
        "return self.linear(x)",
        "return np.maximum(self.linear(x), 0)",
    ),
    "the logits are divided by sqrt(d_model)": ("return self.linear(x)", "return self.linear(x) / x.shape[-1] ** 0.5"),
    "backward returns nothing, so the layers before it never learn": (
        "return self.linear.backward(grad)",
        "self.linear.backward(grad)",
    ),
    "backward returns the gradient that it was given": (
        "return self.linear.backward(grad)",
        "self.linear.backward(grad)\n        return grad",
    ),
    "backward goes through the linear layer twice, so weight and bias get their gradients two times over": (
        "return self.linear.backward(grad)",
        "self.linear.backward(grad)\n        return self.linear.backward(grad)",
    ),
    "backward begins by setting all gradients to zero": (
        "return self.linear.backward(grad)",
        "self.zero_grad()\n        return self.linear.backward(grad)",
    ),
    "the gradient is averaged over the batch, which the loss has done already": (
        "return self.linear.backward(grad)",
        "return self.linear.backward(grad / len(grad))",
    ),
    "the gradient for x is right, but weight and bias get none": (
        "return self.linear.backward(grad)",
        "return grad @ self.linear.weight.value.T",
    ),
}

# %% [markdown]
# The first loss, predicted and measured: 1,000 random vectors with features of variance 1, 19 classes, and the right
# class drawn by chance. The loss of a text is $-\ln p$ of its right class, which Lab 0.6 is about.

# %%
rng = np.random.default_rng(0)
x, right = rng.normal(size=(1000, 64)), rng.integers(19, size=1000)
print(f"all classes alike: ln 19 = {np.log(19):.3f}\n")
for name, spread in {"0.02": 0.02, "Xavier's": (2 / (64 + 19)) ** 0.5, "1": 1.0}.items():
    layer = Head(64, 19, rng)
    layer.linear.weight.value = rng.normal(0, spread, size=(64, 19))
    p = softmax(layer(x))
    print(f"weights of spread {name:9} first loss {-np.log(p[np.arange(1000), right]).mean():6.3f}", end="   ")
    print(f"largest probability {p.max(axis=-1).mean():.2f} on average")

# %% [markdown]
# With a spread of 1 the untrained model is mostly sure of itself, and mostly wrong. The first part of its training would go into
# unlearning that.
#
# ## Exercise 5 · `TiedHead`
#
# Now the scores for a whole vocabulary. The logit of token $v$ is the dot product of the vector with row $v$ of the table,
# $z = x\,E^\top$, so the table $E$ is a parameter of this layer too. In a language model it stands at both ends:
#
# $$ \text{ids} \xrightarrow{\;E\;} x_0 \longrightarrow \text{blocks} \longrightarrow x \xrightarrow{\;E^\top\;} z $$
#
# One `Parameter`, two uses, one gradient: the sum of both. The scatter of Lab 0.1 adds its part, and the head adds
# $\frac{\partial L}{\partial E} = \sum \left(\frac{\partial L}{\partial z}\right)^{\!\top} x$, over all places of the batch. If one of the two writes `=` where `+=` belongs,
# the other's part is lost, and the model still trains.
#
# *Difficulty 3 of 5 · 20 minutes · 5 points*


# %% exercise="TiedHead" difficulty=3 minutes=20 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
class TiedHead(Layer):
    """Scores for a vocabulary by the table that the tokens were read with.

    Args:
        embedding: an `Embedding`, with ``embedding.weight`` (V, d_model).

    Parameters:
        ``weight``: the very `Parameter` of the embedding, not a copy of it or of its numbers. There is no bias.

    Source: Press and Wolf, Using the Output Embedding to Improve Language Models, 2017.
    """

    def __init__(self, embedding: Layer):
        ### BEGIN SOLUTION
        self.weight = embedding.weight  # shared: both layers add to the same gradient
        ### END SOLUTION

    def forward(self, x: np.ndarray) -> np.ndarray:
        """The dot product with each row of the table.

        Args:
            x: (..., d_model) with any number of axes in front, also none.

        Returns:
            Array (..., V) of logits.
        """
        ### BEGIN SOLUTION
        self.x = x
        return x @ self.weight.value.T  # (..., V)
        ### END SOLUTION

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x; adds to ``weight.grad``, on top of what is there.

        Args:
            grad: (..., V), the gradient of the loss for the output of the last `forward`.

        Returns:
            Array of x's shape. To row v of ``weight.grad`` is added the sum, over all places of the batch, of the gradient of
            logit v times x at that place.
        """
        ### BEGIN SOLUTION
        V, d_model = self.weight.value.shape
        self.weight.grad += grad.reshape(-1, V).T @ self.x.reshape(-1, d_model)  # (V, d_model)
        return grad @ self.weight.value  # (..., d_model)
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Take the object <code>embedding.weight</code> itself into <code>self</code>, not its <code>value</code>. For the gradients go by the shapes: from
# <code>(places, V)</code> and <code>(places, d_model)</code> there is one product that gives <code>(V, d_model)</code>.</details>
# <details><summary>A bigger nudge</summary>Bring all axes in front into one, for the gradient as for the x that you have kept. The product
# of the transposed gradient with x sums over that axis by itself. The gradient for x is a plain product with the table; how many transposes does it
# need?</details>

# %% test="TiedHead" points=3
from coursekit import check

import numpy as np

embedding = Embedding(3, 2, new_rng(0))
layer = TiedHead(embedding)
embedding.weight.value = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
check.equal(
    list(layer.parameters()),
    ["weight"],
    "the names of the parameters",
    hint="There is one parameter, and it is the very object that the embedding holds.",
)
x = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
grad = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 10.0], [0.0, 0.0, 1.0]])
found = passes(layer, (x,), grad)
check.close(
    found["output"],
    np.array([[1.0, 3.0, 5.0], [3.0, 7.0, 11.0], [4.0, 8.0, 12.0]]),
    "the dot products with the rows, which the embedding was given after the head was made",
)
check.close(found.get("grad", np.nan), np.array([[1.0, 2.0], [53.0, 64.0], [5.0, 6.0]]), "the gradient for x")
want = np.array([[1.0, 0.0], [1.0, 1.0], [10.0, 12.0]])
check.close(found["grad.weight"], want, "the gradient of the table: for each row the sum over all places")
layer.backward(grad)
check.close(layer.weight.grad, 2 * want, "backward once more: the gradients add up")
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(1))
for shape, V in (((3, 7, 5), 11), ((1, 63, 6), 4), ((7,), 3), ((2, 3, 4, 5), 9), ((4, 4), 4), ((2, 5), 1)):
    case = f"x of shape {shape}, V={V}"
    x, grad, table = draw.normal(size=shape), draw.normal(size=(*shape[:-1], V)), draw.normal(size=(V, shape[-1]))
    embedding = Embedding(V, shape[-1], new_rng(0))
    layer = TiedHead(embedding)
    layer.weight.value = table
    leaves = [torch.tensor(value, requires_grad=True) for value in (x, table)]
    output = torch.nn.functional.linear(*leaves)
    output.backward(torch.tensor(grad))
    found = passes(layer, (x,), grad)
    check.close(found["output"], output.detach().numpy(), f"{case}: the logits", atol=1e-8, rtol=1e-8)
    check.close(found.get("grad", np.nan), leaves[0].grad.numpy(), f"{case}: the gradient for x", atol=1e-8, rtol=1e-8)
    check.close(
        found["grad.weight"], leaves[1].grad.numpy(), f"{case}: the gradient of the table", atol=1e-8, rtol=1e-8
    )
    check.close(embedding.weight.value, table, f"{case}: the embedding's table is the head's", atol=0.0, rtol=0.0)
    layer.astype("float32")
    found = passes(layer, (x.astype("float32"),), grad.astype("float32"))
    check.equal(sorted({str(v.dtype) for v in found.values()}), ["float32"], f"{case}: after astype('float32')")
across = np.arange(12.0).reshape(3, 4).T  # (4, 3), not contiguous
layer = TiedHead(Embedding(3, 3, new_rng(0)))
layer.weight.value = np.diag([1.0, 2.0, 3.0])
found = passes(layer, (across,), across[::-1])
check.close(found["grad.weight"], across[::-1].T @ across, "x and a gradient that are not contiguous")
layer.zero_grad()
layer.forward(across)
layer.forward(np.ones((1, 2, 3)))
layer.backward(np.full((1, 2, 3), 0.5))
check.close(
    layer.weight.grad, np.ones((3, 3)), "two forwards, then a backward: it is about the second, of another shape"
)
### END HIDDEN TESTS

# %% test="TiedHead" points=2
from coursekit import check

import numpy as np

embedding = Embedding(3, 2, new_rng(0))
head = TiedHead(embedding)
embedding.weight.value = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
# The smallest language model there is: the table reads the tokens 2 and 0, and the table scores what comes next.
logits = head.forward(embedding.forward(np.array([2, 0])))
check.close(logits, np.array([[17.0, 39.0, 61.0], [5.0, 11.0, 17.0]]), "the logits after token 2 and after token 0")
embedding.backward(head.backward(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])))
check.close(
    embedding.weight.grad,
    np.array([[8.0, 10.0], [1.0, 2.0], [1.0, 2.0]]),
    "the table's gradient: what the head adds, and what the lookup adds",
    hint="Row 0: as a score it gets the vector (5, 6) of token 2, as a token it gets row 1, (3, 4).",
)
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(2))
for shape, V, d_model in (((3, 7), 11, 5), ((1, 63), 4, 6), ((5,), 3, 3), ((2, 3, 4), 6, 1)):
    case = f"ids of shape {shape}, V={V}, d_model={d_model}"
    table, ids, grad = draw.normal(size=(V, d_model)), draw.integers(V, size=shape), draw.normal(size=(*shape, V))
    embedding = Embedding(V, d_model, new_rng(0))
    head = TiedHead(embedding)
    embedding.weight.value = table
    leaf = torch.tensor(table, requires_grad=True)
    wanted = torch.nn.functional.embedding(torch.tensor(ids), leaf) @ leaf.T
    wanted.backward(torch.tensor(grad))
    logits = head.forward(embedding.forward(ids))
    check.close(logits, wanted.detach().numpy(), f"{case}: the logits of table and tied head", atol=1e-8, rtol=1e-8)
    embedding.backward(head.backward(grad))
    check.close(
        embedding.weight.grad, leaf.grad.numpy(), f"{case}: the gradient of both uses together", atol=1e-8, rtol=1e-8
    )
    # The other order: the lookup's part is there already when the head's arrives.
    embedding.zero_grad()
    embedding.forward(ids)
    embedding.backward(grad @ table)
    head.backward(grad)
    check.close(
        head.weight.grad, leaf.grad.numpy(), f"{case}: the lookup's part first, then the head's", atol=1e-8, rtol=1e-8
    )
    # A step of training, then both uses again.
    embedding.weight.value = table - 0.1 * embedding.weight.grad
    moved = table - 0.1 * leaf.grad.numpy()
    logits = head.forward(embedding.forward(ids))
    check.close(logits, moved[ids] @ moved.T, f"{case}: after a step of training", atol=1e-8, rtol=1e-8)
### END HIDDEN TESTS


# %% alternative="TiedHead"
class TiedHead(Layer):
    def __init__(self, embedding):
        self.weight = embedding.weight

    def forward(self, x):
        self.kept = np.array(x)
        print("scores for", len(self.weight.value), "tokens")
        return np.einsum("...d,vd->...v", x, self.weight.value)

    def backward(self, grad):
        axes = tuple(range(grad.ndim - 1))
        self.weight.grad = self.weight.grad + np.tensordot(grad, self.kept, axes=(axes, axes))
        return np.stack([grad @ column for column in self.weight.value.T], axis=-1)


# %% mistakes="TiedHead"
{
    "the head's gradient overwrites what the table's gradient held before": (
        "self.weight.grad += grad.reshape",
        "self.weight.grad = grad.reshape",
    ),
    "the head gives the table no gradient, and only the lookup trains it": (
        "self.weight.grad += grad.reshape(-1, V).T @ self.x.reshape(-1, d_model)",
        "pass",
    ),
    "the head has a copy of the table, and the two drift apart in training": (
        "self.weight = embedding.weight",
        "self.weight = Parameter(embedding.weight.value)",
    ),
    "the head keeps the numbers that the table had when the head was made": [
        ("self.weight = embedding.weight", "self.weight = embedding.weight; self.table = embedding.weight.value"),
        ("x @ self.weight.value.T", "x @ self.table.T"),
    ],
    "backward multiplies with the numbers that the table had when the head was made": [
        ("self.weight = embedding.weight", "self.weight = embedding.weight; self.table = embedding.weight.value"),
        ("return grad @ self.weight.value", "return grad @ self.table"),
    ],
    "the head's part is halved, because the table is used twice": (
        "self.weight.grad += grad",
        "self.weight.grad += 0.5 * grad",
    ),
    "the head's part is averaged over the places and not summed": (
        "grad.reshape(-1, V).T @ self.x.reshape(-1, d_model)",
        "grad.reshape(-1, V).T @ self.x.reshape(-1, d_model) / len(self.x.reshape(-1, d_model))",
    ),
    "the head's part comes from the last place alone": (
        "grad.reshape(-1, V).T @ self.x.reshape(-1, d_model)",
        "np.outer(grad.reshape(-1, V)[-1], self.x.reshape(-1, d_model)[-1])",
    ),
    "the head's part comes from the first place alone": (
        "grad.reshape(-1, V).T @ self.x.reshape(-1, d_model)",
        "np.outer(grad.reshape(-1, V)[0], self.x.reshape(-1, d_model)[0])",
    ),
    "the gradient of the weight is transposed, (d_model, V)": (
        "grad.reshape(-1, V).T @ self.x.reshape(-1, d_model)",
        "self.x.reshape(-1, d_model).T @ grad.reshape(-1, V)",
    ),
    "the product takes the sizes of the logits for gradients of them": (
        "grad.reshape(-1, V).T @ self.x",
        "(self.x @ self.weight.value.T).reshape(-1, V).T @ self.x",
    ),
    "the gradient is subtracted": ("self.weight.grad += grad", "self.weight.grad -= grad"),
    "backward uses the x of the first forward and not that of the last": (
        "self.x = x\n",
        'self.x = getattr(self, "x", x)\n',
    ),
    "the logits are divided by sqrt(d_model)": (
        "return x @ self.weight.value.T",
        "return x @ self.weight.value.T / x.shape[-1] ** 0.5",
    ),
    "the rows of the table are brought to length 1 before they are compared": (
        "return x @ self.weight.value.T",
        "return x @ (self.weight.value / np.linalg.norm(self.weight.value, axis=-1, keepdims=True)).T",
    ),
    "probabilities are returned and not logits": (
        "return x @ self.weight.value.T",
        "return softmax(x @ self.weight.value.T)",
    ),
    "backward returns nothing, so the blocks never learn": (
        "return grad @ self.weight.value",
        "return None",
    ),
    "backward returns the gradient that it was given": ("return grad @ self.weight.value", "return grad"),
    "there is a bias, which the table does not have": [
        (
            "self.weight = embedding.weight",
            "self.weight = embedding.weight; self.bias = Parameter(np.zeros(len(embedding.weight.value)))",
        ),
        ("return x @ self.weight.value.T", "return x @ self.weight.value.T + self.bias.value"),
    ],
    "the head keeps the whole embedding, so the parameter has another name than weight": [
        ("self.weight = embedding.weight", "self.embedding = embedding"),
        ("self.weight.", "self.embedding.weight.", "all"),
    ],
}

# %% equivalent="TiedHead"
{
    "-1 -> -2": "reshape takes any negative number for the axis that it is to work out",
    "-1 -> -2 #2": "reshape takes any negative number for the axis that it is to work out",
}

# %% [markdown]
# ## Exercise 6 · `top_predictions`
#
# To look at a model you want to see its first choices and how sure it is of them. The order of the logits is the order of the probabilities. But how sure it is
# depends on *all* scores: the softmax runs over the whole vocabulary, also where only three answers are shown.
#
# *Difficulty 2 of 5 · 10 minutes · 3 points*


# %% exercise="top_predictions" difficulty=2 minutes=10 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy", "topk"]
def top_predictions(logits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k most probable answers and their probabilities.

    Args:
        logits: (..., V), finite, as large as 10,000 in either direction, with any number of axes in front, also none.
        k: how many answers, from 1 to V.

    Returns:
        ids (..., k), integers: the most probable first; among equally probable ones the lower id first. And their probabilities
        (..., k) of the logits' dtype: those of the softmax over all V answers.

    Raises:
        ValueError: if k is less than 1 or larger than V.
    """
    ### BEGIN SOLUTION
    V = logits.shape[-1]
    if k < 1 or k > V:
        raise ValueError(f"k is between 1 and V={V}, got {k}")
    ids = np.argsort(-logits, axis=-1, kind="stable")[..., :k]  # (..., k); stable: equals keep their order
    return ids, np.take_along_axis(softmax(logits), ids, axis=-1)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>NumPy sorts upwards, and you want downwards. If you turn the result round, what happens to the order of equals? There is something else that can be turned round.</details>
# <details><summary>A bigger nudge</summary>Sort the negated logits with a sort that is <em>stable</em>, and keep the first k columns.
# <code>np.take_along_axis</code> picks for each row the entries that you name.</details>

# %% test="top_predictions" points=3
from coursekit import check

import numpy as np

logits = np.log(np.array([[2.0, 1.0, 5.0], [3.0, 2.0, 3.0]]))
ids, p = top_predictions(logits, 2)
check.equal(np.asarray(ids).tolist(), [[2, 0], [0, 2]], "shares of 2 : 1 : 5 and of 3 : 2 : 3, the two best of each")
check.close(p, np.array([[5 / 8, 2 / 8], [3 / 8, 3 / 8]]), "their probabilities: shares of all three answers")
check.raises(ValueError, lambda: top_predictions(logits, 4), "four of three answers")
check.raises(ValueError, lambda: top_predictions(logits, 0), "no answers")
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(1))
for shape, k in (((3, 7, 11), 4), ((1, 63), 63), ((9,), 1), ((2, 3, 4, 6), 2), ((5, 1), 1), ((4, 4), 3)):
    case = f"logits of shape {shape}, k={k}"
    logits = 3 * draw.normal(size=shape)
    want = torch.softmax(torch.tensor(logits), -1).topk(k, dim=-1)
    ids, p = top_predictions(logits, k)
    check.equal(np.asarray(ids).tolist(), want.indices.tolist(), f"{case}: the answers")
    check.close(p, want.values.numpy(), f"{case}: their probabilities", atol=1e-8, rtol=1e-8)
    check.equal(str(np.asarray(p).dtype), "float64", f"{case}: the dtype of the probabilities")
    check.that(np.asarray(ids).dtype.kind in "iu", f"{case}: ids are integers")
ids, p = top_predictions(logits.astype("float32"), 2)
check.equal(str(np.asarray(p).dtype), "float32", "float32 logits give float32 probabilities")
level = np.zeros((2, 40))
level[1, 25:] = 1.0
ids, p = top_predictions(level, 5)
check.equal(
    np.asarray(ids).tolist(),
    [[0, 1, 2, 3, 4], [25, 26, 27, 28, 29]],
    "many equals: the lower ids first",
    hint="np.argsort keeps the order of equals only if you ask for a stable sort.",
)
far = np.array([[1e4, -1e4, 0.0, 1e4], [-1e4, -1e4, -9999.0, -1e4]])
ids, p = top_predictions(far, 3)
check.equal(np.asarray(ids).tolist(), [[0, 3, 2], [2, 0, 1]], "logits of plus and minus 10,000: the answers")
check.close(
    p,
    torch.softmax(torch.tensor(far), -1).gather(-1, torch.tensor([[0, 3, 2], [2, 0, 1]])).numpy(),
    "and their probabilities",
)
for k in (-1, 0, 5, 100):
    check.raises(ValueError, lambda k=k: top_predictions(far, k), f"k={k} of four answers")
check.equal(np.asarray(top_predictions(far, 4)[0]).tolist(), [[0, 3, 2, 1], [2, 0, 1, 3]], "all four of four answers")
### END HIDDEN TESTS


# %% alternative="top_predictions"
def top_predictions(logits, k):
    V = logits.shape[-1]
    if not 1 <= k <= V:
        raise ValueError(k)
    rows = logits.reshape(-1, V)
    p = np.exp(rows - rows.max(axis=1, keepdims=True))
    p = p / p.sum(axis=1, keepdims=True)
    best = [sorted(range(V), key=lambda v, row=row: (-row[v], v))[:k] for row in rows]
    print("best of the first row:", best[0])
    chosen = np.array([[p[i, v] for v in ids] for i, ids in enumerate(best)], dtype=logits.dtype)
    return np.array(best).reshape(*logits.shape[:-1], k), chosen.reshape(*logits.shape[:-1], k)


# %% mistakes="top_predictions"
{
    "the softmax runs over the k best answers only, so they look more certain than they are": (
        "np.take_along_axis(softmax(logits), ids, axis=-1)",
        "softmax(np.take_along_axis(logits, ids, axis=-1))",
    ),
    "the probabilities are those of ids 0 to k - 1 and not of the best": (
        "np.take_along_axis(softmax(logits), ids, axis=-1)",
        "softmax(logits)[..., :k]",
    ),
    "the probabilities are those of the k best, but the answers are sorted by id": (
        "return ids, ",
        "return np.sort(ids, axis=-1), ",
    ),
    "the answers and their probabilities are sorted by id": (
        "[..., :k]  #",
        "[..., :k]; ids = np.sort(ids, axis=-1)  #",
    ),
    "among equals the higher id comes first": (
        'np.argsort(-logits, axis=-1, kind="stable")[..., :k]',
        'np.argsort(logits, axis=-1, kind="stable")[..., ::-1][..., :k]',
    ),
    "the least probable answers come first": ("np.argsort(-logits", "np.argsort(logits"),
    "the k best are right, but the best of them comes last": ("[..., :k]  #", "[..., :k][..., ::-1]  #"),
    "the answers are ranked by the absolute value of their logits": (
        "np.argsort(-logits",
        "np.argsort(-np.abs(logits)",
    ),
    "logits are returned and not probabilities": ("softmax(logits)", "logits"),
    "the logarithms of the probabilities are returned": (
        "softmax(logits)",
        "np.log(np.maximum(softmax(logits), 1e-300))",
    ),
    "the softmax runs over all places together and not over each": (
        "softmax(logits)",
        "softmax(logits.reshape(-1)).reshape(logits.shape)",
    ),
    "the logits are divided by their sum, without the exponential": (
        "softmax(logits)",
        "(logits / logits.sum(axis=-1, keepdims=True))",
    ),
    "the exponential is taken of large logits as they are, and overflows": (
        "softmax(logits)",
        "(np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True))",
    ),
    "a k that is too large gives all answers, and no error says so": ("if k < 1 or k > V:", "if k < 1:"),
    "a k of zero or less is not refused": ("if k < 1 or k > V:", "if k > V:"),
    "k = V is refused": ("k > V:", "k >= V:"),
    "one answer too few is returned": ("[..., :k]", "[..., : k - 1]"),
    "ids and probabilities have changed places": (
        "return ids, np.take_along_axis(softmax(logits), ids, axis=-1)",
        "return np.take_along_axis(softmax(logits), ids, axis=-1), ids",
    ),
}

# %% [markdown]
# The smallest language models there are: a table that reads one letter, and a head that scores the next, with nothing between. One head is tied, the
# other is not. The text is the reference of the Python language once more. Both learn from all pairs of neighbours at once, with the gradient
# $p - y$ of Lab 0.6.

# %%
from pydoc_data.topics import topics

characters = " abcdefghijklmnopqrstuvwxyz"
words = " ".join(
    "".join(c if c.isascii() and c.isalpha() else " " for c in topics[name].lower()) for name in sorted(topics)
)
ids = np.array([characters.index(c) for c in " ".join(words.split())])
V, rng = len(characters), np.random.default_rng(0)
pairs = np.zeros((V, V))
np.add.at(pairs, (ids[:-1], ids[1:]), 1 / (len(ids) - 1))  # the share of each pair


def train(table, head, steps=8000, rate=0.5):
    """Gradient descent on all pairs: from each of the 27 letters to the shares of what follows it."""
    for _ in range(steps):
        p = softmax(head(table(np.arange(V))))  # (V, V)
        for layer in (table, head):
            layer.zero_grad()
        table.backward(head.backward(pairs.sum(axis=1, keepdims=True) * p - pairs))
        shared = {id(p): p for layer in (table, head) for p in layer.parameters().values()}
        for parameter in shared.values():
            parameter.value -= rate * parameter.grad
    return -(pairs * np.log(p)).sum()


table = Embedding(V, 16, rng)
table.weight.value *= 20
other = Embedding(V, 16, rng)
other.weight.value *= 20
heads = {"tied": (table, TiedHead(table)), "untied": (other, Head(16, V, rng))}
losses = {name: train(*parts) for name, parts in heads.items()}
share = pairs.sum(axis=0)
known = pairs / pairs.sum(axis=1, keepdims=True)
print(f"letters by frequency alone {-(share * np.log(share)).sum():.3f}", end=", ")
print(f"all pairs known {-(pairs * np.log(known, where=known > 0, out=np.zeros_like(known))).sum():.3f}")
for name, (read, write) in heads.items():
    numbers = {id(p): p.value.size for layer in (read, write) for p in layer.parameters().values()}
    print(f"{name:7} {sum(numbers.values())} numbers, loss {losses[name]:.3f}")
    for letter in "tqu":
        best, p = top_predictions(write(read(np.array(characters.index(letter)))), 4)
        print(
            f"   after {letter}:  "
            + "   ".join(f"{characters[i] if i else '␣'} {q:.2f}" for i, q in zip(best, p, strict=True))
        )
logits = heads["tied"][1](table(np.arange(V)))
print("tied: largest difference between the logits of ab and ba", np.abs(logits - logits.T).max())

# %% [markdown]
# The tied model is hardly better than the frequencies of the letters, and the last line says why. Its logits are the products of rows, $E E^\top$, a symmetric matrix: the score of *u* after *q* is the
# score of *q* after *u*. English is not like that. In a transformer there are blocks between the two ends, which turn the vector of *what is here* into one of *what comes
# next*. Then the objection falls, and half of the numbers are saved. How much a single matrix between the two ends repairs is measured on [the page](../../book/ch00_numpy/output_projection.md).
#
# ## Look at it
#
# Three questions about texts of 4 to 12 letters, out of an alphabet of eight. *First*: which letter does the text begin with? *Any*: is there an `a` in it? *More*: are there
# more `b`s than `c`s, fewer, or as many? Each is asked of three models that are alike but for the pool: an embedding, the pool, a head. Nothing else,
# so nothing moves between tokens before the pool. The numbers are shares of right answers on fresh texts; the last column is what guessing the most frequent answer gives.

# %%
rng = np.random.default_rng(0)


def texts(n):
    """n random texts of 4 to 12 letters: ids (n, 12), and the mask of the real ones."""
    mask = np.arange(12) < rng.integers(4, 13, size=(n, 1))
    return rng.integers(8, size=(n, 12)), mask


questions = {
    "first": lambda ids, mask: ids[:, 0],
    "any": lambda ids, mask: ((ids == 0) & mask).any(axis=1).astype(int),
    "more": lambda ids, mask: 1 + np.sign(((ids == 1) & mask).sum(axis=1) - ((ids == 2) & mask).sum(axis=1)),
}
print("question   " + "".join(f"{name:>10}" for name in ("FirstPool", "MeanPool", "MaxPool", "guess")))
for question, label in questions.items():
    scores = []
    for pool in (FirstPool(), MeanPool(), MaxPool()):
        layers = table, pool, head = Embedding(8, 16, rng), pool, Head(16, 8, rng)
        table.weight.value *= 50  # to begin with features of size 1
        for step in range(600):
            ids, mask = texts(128)
            p = softmax(head(pool(table(ids), mask)))
            p[np.arange(128), label(ids, mask)] -= 1
            for layer in layers:
                layer.zero_grad()
            table.backward(pool.backward(head.backward(p / 128)))
            for parameter in (*table.parameters().values(), *head.parameters().values()):
                parameter.value -= 1.0 * (1 - step / 600) * parameter.grad
        ids, mask = texts(4000)
        scores.append((head(pool(table(ids), mask)).argmax(axis=-1) == label(ids, mask)).mean())
    scores.append(np.bincount(label(ids, mask)).max() / 4000)
    print(f"{question:11}" + "".join(f"{score:10.1%}" for score in scores))

# %% [markdown]
# Each pool has a question that it was made for. Explain the numbers that are *not* near 100%. Why does a mean know something about the first letter, and what does
# the maximum know about a count? What would have to happen before the pool, so that *first* could answer all three questions?
#
# ## Common mistakes
#
# - **Padding in the pool.** Nothing crashes, and with texts of one length nothing is wrong. Test with a text that stands alone, and then with the same text beside
#   a longer one: the answers have to agree.
# - **The wrong divisor on the way back.** If the mean divides by the number of real tokens, the gradient does, too. A divisor of T there makes
#   the learning rate of short texts smaller, and nothing else shows it.
# - **Zero as the value of padding in a maximum.** Right for features that are never negative, as they are after a ReLU. Wrong after a norm.
# - **Position 0 in a text that is filled up on the left.** Every text has the same first token then: padding.
# - **A tied head with a copy.** `Parameter(embedding.weight.value)` starts with the same numbers, and after one step they differ.
# - **A shared parameter that moves twice.** An optimiser that collects parameters layer by layer, and not from `parameters()` of the whole model, takes
#   two steps with the table. The training loop above had to mind that.
# - **A softmax inside the model.** The loss of the next lab takes logits. Give it probabilities, and it takes the softmax of a softmax: it still trains, slowly.
#
# [Lab 0.6](lab06_softmax_and_loss.ipynb) turns logits into a loss and gives the gradient that all of these backward passes begin with. In torch the tied head returns in
# [Lab 3.3](../ch03_transformer/lab03_decoder_only.ipynb), pooling in [Lab 3.5](../ch03_transformer/lab05_masked_lm.ipynb).
#
# ## Going further
#
# - **Attention as a pool.** A mean weighs all tokens alike. Let the model learn the weights: one query vector, a parameter, its dot products with all tokens, a softmax over the real
#   ones, the weighted sum. You have all parts in Lab 0.2. Write `forward` and `backward`, and give it the three questions. (Zichao Yang and others, Hierarchical Attention
#   Networks for Document Classification, 2016.)
# - **Softer than a maximum.** $\frac1\beta \ln\left(\frac1T \sum_t e^{\beta x_t}\right)$ lies between the mean and the maximum. Towards which does it go as $\beta$ goes to 0, and
#   to infinity? What is its gradient? You will recognise it. (Pedro Pinheiro, Ronan Collobert, From Image-Level to Pixel-Level Labeling with Convolutional Networks, 2015.)
