# ---
# title: Backpropagation
# lab: ch00/lab07
# minutes: 120
# difficulty: 3
# hardware: cpu
# needs: [ch00/lab01, ch00/lab02, ch00/lab03, ch00/lab04, ch00/lab05, ch00/lab06]
# builds: [unbroadcast, matmul_backward, LanguageModel, Classifier, relative_error, check_gradients, find_wrong]
# ---

# %% [markdown]
# # Lab 0.7 · Backpropagation
#
# ## The idea
#
# You have written every part of a transformer, and for every part the way back. In this lab you put them together. The
# model will have a few thousand numbers that are learned, and one call of `backward` says of each how the loss would change with
# it. You need no new mathematics for that. You need an order, and some mistrust.
#
# First the order. Take three functions in a row, $u = 3x$, $v = u^2$, $L = v + 1$, at $x = 2$. On the way there, $u = 6$, $v = 36$,
# $L = 37$. On the way back, begin with $\partial L/\partial L = 1$. The sum has the slope 1, so $\partial L/\partial v = 1$. The square
# has the slope $2u = 12$, so $\partial L/\partial u = 12$. The factor has the slope 3, so $\partial L/\partial x = 36$. Each step
# needs the gradient behind it, so the order of the way back is the order of the way there, reversed. And the square needs
# the 6 of the way there, so something must have kept it. That is the whole of backpropagation: *the parts in reverse, each
# with its own memory.* Frameworks write down a list of all steps as they happen, a tape, and play it backwards. You need no tape. Your
# model is a program, and you know its order.
#
# Now the mistrust. A wrong forward pass mostly gives nonsense, and you notice. A wrong backward pass gives a gradient that is wrong, and
# the model often trains all the same: a little worse, or not even that. Nobody can tell from the loss. But a gradient can be checked against
# its definition: move one number a little up and a little down, and see what the loss does.
#
# $$ \frac{\partial L}{\partial w} \approx \frac{L(w + h) - L(w - h)}{2h} $$
#
# With $h = 0.1$ and the function above, $L(2.1) = 40.69$ and $L(1.9) = 33.49$, and $7.2 / 0.2 = 36$. (Exact even with so
# large a step, because this function is a parabola. In general it is not.) This takes two
# forward passes for *each* number, so nobody trains with it. As a judge it is incorruptible.
#
# The page [Backpropagation](../../book/ch00_numpy/backpropagation.md) draws the graph, counts the cost and says why the
# order is that of the way back.
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `ids` | `(..., T)`, integers | token ids; T is at most `config.context` |
# | `x` | `(..., T, d_model)` | what goes through the transformer |
# | `logits` of the language model | `(..., T, V)` | a score for each token that may come next, at every place |
# | `logits` of the classifier | `(..., n_classes)` | a score for each class, once for each text |
# | `mask` of the classifier | `(..., T)`, booleans | True for a real token, False for padding |
# | `grad` | as the layer's output | $\partial L/\partial(\text{output})$ |
# | `parameter.grad` | as `parameter.value` | $\partial L/\partial(\text{parameter})$ |
#
# All parts are yours, from Labs 0.1 to 0.5. `ModelConfig` holds the numbers that describe a model. `spoil` is for exercise 5: it puts a
# fault into a backward pass. Do not read it yet.

# %% given
import numpy as np

from coursekit import carry

Layer = carry("ch00/lab01", "Layer")
Parameter = carry("ch00/lab01", "Parameter")
passes = carry("ch00/lab01", "passes")
causal_mask = carry("ch00/lab02", "causal_mask")  # causal_mask(T): booleans (T, T), True on and below the diagonal

# %% given side="learner"
from dataclasses import dataclass

from coursekit import carry

new_rng = carry("ch00/lab01", "new_rng")
Embedding = carry("ch00/lab01", "Embedding")  # Embedding(vocab_size, d_model, rng)
LearnedPositions = carry("ch00/lab01", "LearnedPositions")  # LearnedPositions(max_T, d_model, rng)
Linear = carry("ch00/lab02", "Linear")  # Linear(d_in, d_out, rng)
# Transformer(n_layers, d_model, n_heads, d_ff, rng, norm, activation); forward(x, mask=None)
Transformer = carry("ch00/lab04", "Transformer")
FirstPool = carry("ch00/lab05", "FirstPool")  # pools: forward(x, mask=None), mask (..., T) True for real tokens
MeanPool = carry("ch00/lab05", "MeanPool")
MaxPool = carry("ch00/lab05", "MaxPool")
Head = carry("ch00/lab05", "Head")  # Head(d_model, n_classes, rng)
TiedHead = carry("ch00/lab05", "TiedHead")  # TiedHead(embedding): logits = x @ embedding.weight.value.T


@dataclass(frozen=True)
class ModelConfig:
    """The numbers that describe a model. `context` is the largest number of tokens in a text."""

    vocab_size: int
    context: int
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    norm: str = "pre"
    activation: str = "gelu"
    seed: int = 0


class Claims(Layer):
    """For the tests: y = x * weight**2. Its backward multiplies the two gradients by numbers of the caller's choice; 1 is right."""

    def __init__(self, weight: np.ndarray, weight_factor=1.0, input_factor=1.0):
        self.weight = Parameter(weight)
        self.factors = weight_factor, input_factor
        self.calls, self.plus = 0, 0.0

    def forward(self, x, plus=0.0):
        self.x, self.plus = np.array(x), plus
        self.calls += 1
        return x * self.weight.value**2 + plus

    def backward(self, grad):
        tokens = tuple(range(grad.ndim - 1))
        self.weight.grad += self.factors[0] * (2 * self.weight.value * self.x * grad).sum(axis=tokens)
        return self.factors[1] * grad * self.weight.value**2


class Cubes(Layer):
    """For the tests: y = x**3, with a right backward."""

    def forward(self, x):
        self.x = np.array(x)
        return x**3

    def backward(self, grad):
        return 3 * self.x**2 * grad


def column_by_column(d_in: int, d_out: int) -> Layer:
    """For the tests: a Linear whose weight is stored column by column (Fortran order), as a transposed array is."""
    layer = Linear(d_in, d_out, np.random.default_rng(1))
    layer.weight.value = np.asfortranarray(layer.weight.value)
    return layer


def spoil(model: Layer, fault: str | None) -> Layer:
    """For exercise 5: put a fault into the backward pass of a transformer, in place: "A", "B", "C", or none at all."""
    last = model.blocks[-1]
    if fault == "A":
        outer = last.feed_forward.layer.outer
        right = outer.backward

        def mean_over_texts(grad):
            before = outer.bias.grad
            outer.bias.grad = np.zeros_like(before)
            into = right(grad)
            outer.bias.grad = before + outer.bias.grad / len(grad)
            return into

        outer.backward = mean_over_texts
    if fault == "B":
        norm = last.attention.norm
        look, answer, seen = norm.forward, norm.backward, []

        def remember(x):
            seen[:] = [x.std(axis=-1, keepdims=True)]
            return look(x)

        def as_if_mean_and_spread_were_constants(grad):
            answer(grad)
            return grad * norm.weight.value / seen[0]

        norm.forward, norm.backward = remember, as_if_mean_and_spread_were_constants
    if fault == "C":
        around = last.feed_forward
        both = around.backward
        around.backward = lambda grad: both(grad) - grad  # the road around the layer is forgotten
    return model


def plant(fault: str | None, rng: np.random.Generator) -> Layer:
    """For exercise 5: a transformer of two blocks, with four features, that has this fault."""
    return spoil(Transformer(2, 4, 2, 8, rng), fault)


# %% [markdown]
# ## A picture
#
# How small should $h$ be? The smaller, the closer the difference comes to the slope. But the two losses then agree in more and more of their
# digits, and subtraction removes those. Below is the exponential, whose slope is known exactly, at 101 places between 0.5 and 1.5. The difference is taken in three ways, and a point
# is the median of the 101 errors.

# %%
import plotly.graph_objects as go

from coursekit import plots

steps = 10.0 ** np.arange(-12, 0.01, 0.5)


def error(step, kind, one_sided):
    x, h = np.linspace(0.5, 1.5, 101).astype(kind), step.astype(kind)
    low = x if one_sided else x - h
    slope = (np.exp(x + h) - np.exp(low)) / (h if one_sided else 2 * h)
    return np.median(np.abs(slope / np.exp(x.astype(np.float64)) - 1))


figure = go.Figure()
for colour, (name, kind, one_sided) in zip(
    plots.COLOURS,
    (
        ("one-sided, float64", np.float64, True),
        ("central, float64", np.float64, False),
        ("central, float32", np.float32, False),
    ),
    strict=False,
):
    errors = np.array([error(step, kind, one_sided) for step in steps])
    print(f"{name:20} smallest error {errors.min():.0e}, with a step of {steps[errors.argmin()]:.0e}")
    figure.add_scatter(
        x=steps, y=errors, name=name, line_color=colour, mode="lines+markers", hovertemplate="h = %{x:.0e}: %{y:.1e}"
    )
figure.update_xaxes(title_text="step h", type="log", exponentformat="power", dtick=4, tickangle=0)
figure.update_yaxes(title_text="relative error of the slope", type="log", exponentformat="power", dtick=2)
figure.update_layout(height=420, legend={"orientation": "h", "y": -0.3})
figure.show()

# %% [markdown]
# Each curve falls from the right and rises again to the left. On the right is the mistake of the formula: with the step it falls like $h$, or like $h^2$
# for the central difference. On the left is rounding, which grows like $1/h$. The central difference in float64 with a step near $10^{-5}$ leaves ten
# digits or more. That is plenty to tell right from wrong. In float32 the best step leaves
# five. Further left its error stops at 1: $x + h$ is rounded back to $x$, the difference is zero, and nothing of the slope is left.
#
# ## Exercise 1 · `matmul_backward`
#
# You have derived the backward pass of a matrix product in Lab 0.2, for a weight and a batch. Do it once more for any two arrays, because there is a way to
# do it that needs no indices, only shapes.
#
# Let $y = a\,b$ with $a$ of shape $(n, k)$, $b$ of $(k, m)$ and $y$ of $(n, m)$. The gradient for $a$ must have the shape of $a$. It is made of the gradient
# for $y$, of shape $(n, m)$, and of $b$, of shape $(k, m)$, because the slope of a product is the other factor. There is one product of the two with the shape
# $(n, k)$. For $b$ think likewise.
#
# Then the axes in front. NumPy broadcasts them: a weight $(k, m)$ meets a batch $(B, n, k)$ and is used $B$ times. You know what that means for its gradient. `unbroadcast` does that
# for any pair of shapes. Ones of shape $(2, 3)$ that belong to an array of shape $(3,)$ become $(2, 2, 2)$.
#
# *Difficulty 2 of 5 · 15 minutes · 4 points*


# %% exercise="matmul_backward" difficulty=2 minutes=15 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
def unbroadcast(grad: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient for an array of this shape that broadcasting has stretched to the shape of grad.

    Args:
        grad: the gradient for the stretched array, of any shape.
        shape: of the array before; it broadcasts to grad's shape: axes of length 1 may have been stretched, and axes may
            be missing in front.

    Returns:
        Array of the given shape and of grad's dtype: for each number the sum over all places where it was used.
    """
    ### BEGIN SOLUTION
    new = grad.ndim - len(shape)
    grad = grad.sum(axis=tuple(range(new)))  # axes that were not there at all
    stretched = tuple(axis for axis, length in enumerate(shape) if length == 1)
    return grad.sum(axis=stretched, keepdims=True)
    ### END SOLUTION


def matmul_backward(grad: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of a loss for both factors of ``a @ b``.

    Args:
        grad: (..., n, m), the gradient for ``a @ b``.
        a: (..., n, k), and b: (..., k, m). Both have at least two axes. Those in front broadcast against each other.

    Returns:
        The gradient for a, of a's shape, and the gradient for b, of b's shape.
    """
    ### BEGIN SOLUTION
    grad_a = grad @ b.swapaxes(-1, -2)  # (..., n, m) @ (..., m, k)
    grad_b = a.swapaxes(-1, -2) @ grad  # (..., k, n) @ (..., n, m)
    return unbroadcast(grad_a, a.shape), unbroadcast(grad_b, b.shape)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Broadcasting does two things: it puts new axes in front, and it stretches axes of length 1. Both are a use
# of one number in several places. Undo them one after the other.</details>
# <details><summary>A bigger nudge</summary>Sum over as many axes in front as the shape lacks. Then sum over every axis that has length 1 in the shape, and keep it as an axis: NumPy has an
# option for that. For the product, write down the three shapes and see which factor has to be transposed, and on which side it must stand.
# <code>.T</code> turns all axes around; of these only the last two may change places.</details>

# %% test="matmul_backward" points=2
from coursekit import check

import numpy as np

grad = np.arange(6.0).reshape(2, 3)
check.close(unbroadcast(grad, (3,)), np.array([3.0, 5.0, 7.0]), "[[0, 1, 2], [3, 4, 5]] for an array of shape (3,)")
check.close(unbroadcast(grad, (2, 1)), np.array([[3.0], [12.0]]), "the same for an array of shape (2, 1)")
check.close(unbroadcast(grad, (2, 3)), grad, "the same for an array of shape (2, 3): nothing was stretched")
check.close(unbroadcast(grad, ()), np.array(15.0), "the same for a single number, of shape ()")
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(1))
for shape, full in (
    ((5,), (3, 5)),
    ((4, 1, 5), (2, 4, 3, 5)),
    ((1,), (3, 2)),
    ((1, 1), (4, 3, 2)),
    ((3, 1), (3, 1)),
    ((2, 3), (2, 3)),
    ((), (2, 3, 4)),
    ((4, 3), (5, 2, 4, 3)),
    ((1, 6, 1), (7, 6, 63)),
):
    grad = draw.normal(size=full)
    leaf = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    leaf.expand(full).backward(torch.tensor(grad))
    found = unbroadcast(grad, shape)
    check.close(found, leaf.grad.numpy(), f"from {full} back to {shape}", atol=1e-8, rtol=1e-8)
    found = unbroadcast(grad.astype("float32"), shape)
    check.equal(str(np.asarray(found).dtype), "float32", f"from {full} back to {shape}: the dtype for float32")
across = draw.normal(size=(3, 4)).T
check.close(unbroadcast(across, (1, 3)), across.copy().sum(axis=0)[None], "a gradient that is not contiguous")
### END HIDDEN TESTS

# %% test="matmul_backward" points=2
from coursekit import check

import numpy as np

a, b = np.array([[1.0, 2.0], [0.0, 3.0]]), np.array([[4.0, 5.0], [6.0, 7.0]])
grad = np.array([[1.0, 10.0], [0.0, 0.0]])
grad_a, grad_b = matmul_backward(grad, a, b)
check.close(grad_a, np.array([[54.0, 76.0], [0.0, 0.0]]), "two by two: the gradient for a")
check.close(grad_b, np.array([[1.0, 10.0], [2.0, 20.0]]), "two by two: the gradient for b")
texts = np.stack([a, 10 * a])  # (2, 2, 2): two texts meet one weight
grad_a, grad_b = matmul_backward(np.stack([grad, grad]), texts, b)
check.close(grad_b, np.array([[11.0, 110.0], [22.0, 220.0]]), "two texts and one weight: the gradient for the weight")
check.close(
    grad_a[0], np.array([[54.0, 76.0], [0.0, 0.0]]), "two texts and one weight: the gradient for the first text"
)
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(2))
for shape_a, shape_b in (
    ((4, 5), (5, 2)),
    ((3, 63, 5), (5, 2)),
    ((4, 5), (3, 5, 2)),
    ((3, 1, 4, 5), (2, 5, 2)),
    ((1, 4, 5), (7, 5, 1)),
    ((2, 1, 1, 1), (1, 3, 1, 6)),
    ((3, 4, 4), (3, 4, 4)),
    ((1, 5), (6, 5, 1)),
):
    a, b = draw.normal(size=shape_a), draw.normal(size=shape_b)
    leaves = [torch.tensor(x, requires_grad=True) for x in (a, b)]
    product = leaves[0] @ leaves[1]
    grad = draw.normal(size=product.shape)
    product.backward(torch.tensor(grad))
    case = f"{shape_a} @ {shape_b}"
    found = matmul_backward(grad, a, b)
    check.equal(len(found), 2, f"{case}: two gradients")
    for name, got, leaf in zip("ab", found, leaves, strict=True):
        check.close(got, leaf.grad.numpy(), f"{case}: the gradient for {name}", atol=1e-8, rtol=1e-8)
a, b = draw.normal(size=(5, 4)).T, draw.normal(size=(6, 3, 5)).swapaxes(1, 2)
grad = draw.normal(size=(6, 4, 3))
leaves = [torch.tensor(x.copy(), requires_grad=True) for x in (a, b)]
(leaves[0] @ leaves[1]).backward(torch.tensor(grad))
for name, got, leaf in zip("ab", matmul_backward(grad, a, b), leaves, strict=True):
    check.close(got, leaf.grad.numpy(), f"factors that are not contiguous: the gradient for {name}", atol=1e-8)
### END HIDDEN TESTS


# %% alternative="matmul_backward"
def unbroadcast(grad, shape):
    while grad.ndim > len(shape):
        grad = grad.sum(axis=0)
    for axis in range(len(shape)):
        if shape[axis] != grad.shape[axis]:
            grad = np.add.reduce(grad, axis=axis, keepdims=True)
    return grad


def matmul_backward(grad, a, b):
    print("one step back")
    into_a, into_b = np.einsum("...nm,...km->...nk", grad, b), np.einsum("...nk,...nm->...km", a, grad)
    return unbroadcast(into_a, a.shape), unbroadcast(into_b, b.shape)


# %% mistakes="matmul_backward"
{
    "what broadcasting has put in front is averaged and not summed": (
        "grad.sum(axis=tuple(range(new)))",
        "grad.mean(axis=tuple(range(new)))",
    ),
    "what broadcasting has stretched is averaged and not summed": (
        "grad.sum(axis=stretched, keepdims=True)",
        "grad.mean(axis=stretched, keepdims=True)",
    ),
    "only the first of the places in front counts, and the others are lost": (
        "grad = grad.sum(axis=tuple(range(new)))",
        "grad = grad[(0,) * new]",
    ),
    "axes of length 1 that were stretched are not summed": (
        "grad.sum(axis=stretched, keepdims=True)",
        "grad",
    ),
    "axes of length 1 are summed and thrown away, so the shape lacks them": (
        "grad.sum(axis=stretched, keepdims=True)",
        "grad.sum(axis=stretched)",
    ),
    "the axes behind are summed, and those that broadcasting added stand in front": (
        "tuple(range(new))",
        "tuple(range(grad.ndim - new, grad.ndim))",
    ),
    "axes are counted in the shape, and summed in grad while it still has more of them in front": [
        ("grad = grad.sum(axis=tuple(range(new)))  # axes that were not there at all", "pass"),
        (
            "return grad.sum(axis=stretched, keepdims=True)",
            "return grad.sum(axis=stretched, keepdims=True).sum(axis=tuple(range(new)))",
        ),
    ],
    "the gradient for b is not summed over the batch, and the one for a is": (
        "unbroadcast(grad_b, b.shape)",
        "grad_b",
    ),
    "the gradient for a is not summed over the batch, and the one for b is": (
        "return unbroadcast(grad_a, a.shape)",
        "return grad_a",
    ),
    "b is not transposed in the gradient for a, which goes unnoticed while b is square": (
        "grad @ b.swapaxes(-1, -2)",
        "grad @ (b if b.shape[-1] == b.shape[-2] else b.swapaxes(-1, -2))",
    ),
    "a is not transposed in the gradient for b, which goes unnoticed while a is square": (
        "a.swapaxes(-1, -2) @ grad",
        "(a if a.shape[-1] == a.shape[-2] else a.swapaxes(-1, -2)) @ grad",
    ),
    "the gradient for b comes out transposed": [
        ("a.swapaxes(-1, -2) @ grad", "grad.swapaxes(-1, -2) @ a"),
        (
            "unbroadcast(grad_b, b.shape)",
            "unbroadcast(grad_b, (*b.shape[:-2], b.shape[-1], b.shape[-2]))",
        ),
    ],
    "the two gradients have changed places": (
        "return unbroadcast(grad_a, a.shape), unbroadcast(grad_b, b.shape)",
        "return unbroadcast(grad_b, b.shape), unbroadcast(grad_a, a.shape)",
    ),
    "all axes are turned around by .T, those in front too": [
        ("b.swapaxes(-1, -2)", "b.T"),
        ("a.swapaxes(-1, -2)", "a.T"),
    ],
}

# %% [markdown]
# ## Exercise 2 · `LanguageModel`
#
# Now the whole model. Ids become vectors, positions are added, the transformer works on them, and the head compares each result with all rows of the table. Four
# lines of `forward`, and the same four names in `backward`, from below. That the model must not see the token it has to guess is the business of
# one mask.
#
# Look out for the table. It stands at both ends of the model: `head.backward` adds to `embedding.weight.grad`, and later `embedding.backward` adds to it again. Nothing needs to be
# done for that. It works because every `backward` *adds*, and because there is one `Parameter` and not two.
#
# *Difficulty 3 of 5 · 25 minutes · 8 points*


# %% exercise="LanguageModel" difficulty=3 minutes=25 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
class LanguageModel(Layer):
    """A decoder: it reads token ids and scores, at every place, what may come next.

    Args:
        config: a `ModelConfig`.

    Parameters:
        Those of its parts ``embedding`` (vocab_size rows), ``positions`` (learned, context rows) and ``transformer``. The
        ``head`` is tied to the embedding and brings none, so ``parameters()`` has the shared table once, as
        ``embedding.weight``. The parts have the first values that they give themselves, all drawn from one generator,
        ``np.random.default_rng(config.seed)``.

    Source: Radford et al., Language Models are Unsupervised Multitask Learners, 2019: with the default norm and activation it
    is GPT-2 in small.
    """

    def __init__(self, config: ModelConfig):
        ### BEGIN SOLUTION
        rng = np.random.default_rng(config.seed)
        self.embedding = Embedding(config.vocab_size, config.d_model, rng)
        self.positions = LearnedPositions(config.context, config.d_model, rng)
        self.transformer = Transformer(
            config.n_layers, config.d_model, config.n_heads, config.d_ff, rng, config.norm, config.activation
        )
        self.head = TiedHead(self.embedding)
        ### END SOLUTION

    def forward(self, ids: np.ndarray) -> np.ndarray:
        """Score the next token at every place.

        Args:
            ids: integers (..., T) with any number of axes in front, also none, and T from 1 to context.

        Returns:
            Logits (..., T, vocab_size) of the parameters' dtype. Those at place t depend on the tokens up to and including t only.

        Raises:
            ValueError: if T is larger than context.
            IndexError: if an id has no row.
        """
        ### BEGIN SOLUTION
        x = self.positions(self.embedding(ids))  # (..., T, d_model)
        x = self.transformer(x, causal_mask(ids.shape[-1]))
        return self.head(x)  # (..., T, vocab_size)
        ### END SOLUTION

    def backward(self, grad: np.ndarray) -> None:
        """Add to every parameter's ``grad`` what the last `forward` is responsible for. Returns None: ids have no gradient.

        Args:
            grad: (..., T, vocab_size), the gradient of the loss for the logits of the last `forward`.
        """
        ### BEGIN SOLUTION
        grad = self.head.backward(grad)  # (..., T, d_model)
        grad = self.transformer.backward(grad)
        self.embedding.backward(self.positions.backward(grad))
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>The constructor makes one generator and hands it to the parts that want one, so that the second part goes on where the first has stopped. For
# <code>backward</code>, write the lines of <code>forward</code> under each other and read them from the last to the first.</details>
# <details><summary>A bigger nudge</summary>The tied head is made last, because <code>parameters()</code> names a shared parameter by the place where it comes first. It does not draw.
# <code>causal_mask</code> wants the number of tokens, the last axis of <code>ids</code>. In <code>backward</code> call every part exactly once, and hand each what the one
# behind it returns. Only the embedding returns nothing.</details>

# %% test="LanguageModel" points=2
from coursekit import check

import numpy as np

model = LanguageModel(ModelConfig(vocab_size=3, context=4, d_model=2, n_layers=1, n_heads=1, d_ff=3, norm="none"))
shapes = {name: list(parameter.value.shape) for name, parameter in model.parameters().items()}
check.equal(list(shapes)[:2], ["embedding.weight", "positions.weight"], "the names of the first two parameters")
check.equal(
    len(shapes),
    14,
    "how many arrays are learned: two tables, eight of attention, four of the feed-forward network",
    hint="A TiedHead of the embedding brings no parameter of its own. Which two names of yours are too many?",
)
check.equal([shapes[name] for name in list(shapes)[:2]], [[3, 2], [4, 2]], "the shapes of the two tables")
# A block with these two matrices at zero adds nothing. What is left is the table, the positions, and the table again.
model.transformer.blocks[0].attention.layer.o.weight.value = np.zeros((2, 2))
model.transformer.blocks[0].feed_forward.layer.outer.weight.value = np.zeros((3, 2))
model.embedding.weight.value = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
model.positions.weight.value = np.array([[0.0, 1.0], [1.0, 0.0], [9.0, 9.0], [9.0, 9.0]])
logits = model.forward(np.array([2, 0]))  # the vectors are (5, 6) + (0, 1) and (1, 2) + (1, 0)
check.close(logits, np.array([[19.0, 43.0, 67.0], [6.0, 14.0, 22.0]]), "the ids 2, 0 through a block that adds nothing")

model = LanguageModel(ModelConfig(7, 6, 8, 2, 2, 16))
ids = np.array([[3, 1, 4, 1, 5]])
before = model.forward(ids)
ids[0, 3] = 6
after = model.forward(ids)
check.close(
    after[:, :3],
    before[:, :3],
    "another token at place 3 changes nothing at the places before it",
    atol=1e-12,
    hint="Who may look at whom is said by one mask: causal_mask(T), the second argument of the transformer's forward.",
)
check.that(np.abs(after[:, 4] - before[:, 4]).max() > 1e-9, "another token at place 3 changes the logits at place 4")
### BEGIN HIDDEN TESTS
import torch
from torch.nn import functional as F


def oracle(state, ids, n_layers, n_heads, norm, activation):
    def put_norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[name + ".weight"], state[name + ".bias"])

    def linear(x, name):
        return x @ state[name + ".weight"] + state[name + ".bias"]

    def attend(x, name):
        q, k, v = (linear(x, f"{name}.{part}").unflatten(-1, (n_heads, -1)).transpose(-2, -3) for part in "qkv")
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return linear(heads.transpose(-2, -3).flatten(-2), f"{name}.o")

    def feed(x, name):
        x = linear(x, name + ".inner")
        return linear(F.relu(x) if activation == "relu" else F.gelu(x, approximate="tanh"), name + ".outer")

    x = F.embedding(ids, state["embedding.weight"]) + state["positions.weight"][: ids.shape[-1]]
    for i in range(n_layers):
        for part, layer in (("attention", attend), ("feed_forward", feed)):
            name = f"transformer.blocks.{i}.{part}"
            if norm == "pre":
                x = x + layer(put_norm(x, name + ".norm"), name + ".layer")
            else:
                x = x + layer(x, name + ".layer")
                x = put_norm(x, name + ".norm") if norm == "post" else x
    x = put_norm(x, "transformer.norm") if norm == "pre" else x
    return x @ state["embedding.weight"].T


draw = np.random.default_rng(check.seed(1))
for shape, V, context, d_model, n_layers, n_heads, d_ff, norm, activation in (
    ((3, 7), 11, 9, 12, 2, 3, 20, "pre", "gelu"),
    ((1, 5), 6, 5, 6, 1, 2, 7, "post", "gelu"),
    ((4,), 5, 8, 4, 2, 1, 16, "none", "relu"),
    ((2, 3, 4), 5, 4, 6, 1, 6, 3, "pre", "relu"),
):
    config = ModelConfig(V, context, d_model, n_layers, n_heads, d_ff, norm=norm, activation=activation)
    model = LanguageModel(config)
    state = {}
    for name, parameter in model.parameters().items():
        parameter.value = draw.normal(size=parameter.value.shape) / d_model**0.5
        state[name] = torch.tensor(parameter.value)
    ids = draw.integers(V, size=shape)
    case = f"ids of shape {shape}, {n_layers} layers, norm {norm!r}, {activation}"
    want = oracle(state, torch.tensor(ids), n_layers, n_heads, norm, activation).numpy()
    check.close(model.forward(ids), want, f"{case}: the logits", atol=1e-8, rtol=1e-8)
    check.close(model(ids), want, f"{case}: called as model(ids)", atol=1e-8, rtol=1e-8)
    check.raises(
        ValueError,
        lambda model=model, context=context: model.forward(np.zeros((2, context + 1), dtype=int)),
        f"{case}: one token more than the context",
    )
    check.raises(IndexError, lambda model=model, V=V: model.forward(np.array([[0, V]])), f"{case}: an id without a row")
    model.astype("float32")
    check.equal(str(model.forward(ids).dtype), "float32", f"{case}: the dtype of the logits after astype('float32')")
### END HIDDEN TESTS

# %% test="LanguageModel" points=4
from coursekit import check

import numpy as np

model = LanguageModel(ModelConfig(vocab_size=3, context=4, d_model=2, n_layers=1, n_heads=1, d_ff=3, norm="none"))
model.transformer.blocks[0].attention.layer.o.weight.value = np.zeros((2, 2))
model.transformer.blocks[0].feed_forward.layer.outer.weight.value = np.zeros((3, 2))
model.embedding.weight.value = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
model.positions.weight.value = np.array([[0.0, 1.0], [1.0, 0.0], [9.0, 9.0], [9.0, 9.0]])
model.zero_grad()
model.forward(np.array([2, 0]))
grad = np.zeros((2, 3))
grad[1, 0] = 1  # the loss is the score of token 0 at place 1, where the vector is (1, 2) + (1, 0) = (2, 2)
result = model.backward(grad)
check.close(
    model.positions.weight.grad,
    np.array([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]),
    "the positions: row 1 gets the row of the token whose score it was",
)
check.equal(result is None, True, "backward returns None: there is no gradient for ids")
model.backward(grad)  # once more, so everything is there twice
check.close(
    model.embedding.weight.grad / 2,
    np.array([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]]),
    "the table, half of it after two backwards: row 0 gets (2, 2) from the head and (1, 2) from the lookup",
    hint="The table stands at both ends of the model, and each end adds to its gradient on top of what is there.",
)
### BEGIN HIDDEN TESTS
import torch
from torch.nn import functional as F


def oracle(state, ids, n_layers, n_heads, norm, activation):
    def put_norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[name + ".weight"], state[name + ".bias"])

    def linear(x, name):
        return x @ state[name + ".weight"] + state[name + ".bias"]

    def attend(x, name):
        q, k, v = (linear(x, f"{name}.{part}").unflatten(-1, (n_heads, -1)).transpose(-2, -3) for part in "qkv")
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return linear(heads.transpose(-2, -3).flatten(-2), f"{name}.o")

    def feed(x, name):
        x = linear(x, name + ".inner")
        return linear(F.relu(x) if activation == "relu" else F.gelu(x, approximate="tanh"), name + ".outer")

    x = F.embedding(ids, state["embedding.weight"]) + state["positions.weight"][: ids.shape[-1]]
    for i in range(n_layers):
        for part, layer in (("attention", attend), ("feed_forward", feed)):
            name = f"transformer.blocks.{i}.{part}"
            if norm == "pre":
                x = x + layer(put_norm(x, name + ".norm"), name + ".layer")
            else:
                x = x + layer(x, name + ".layer")
                x = put_norm(x, name + ".norm") if norm == "post" else x
    x = put_norm(x, "transformer.norm") if norm == "pre" else x
    return x @ state["embedding.weight"].T


draw = np.random.default_rng(check.seed(2))
for shape, V, context, d_model, n_layers, n_heads, d_ff, norm, activation in (
    ((3, 7), 11, 9, 12, 2, 3, 20, "pre", "gelu"),
    ((1, 5), 6, 5, 6, 1, 2, 7, "post", "gelu"),
    ((4,), 5, 8, 4, 2, 1, 16, "none", "relu"),
    ((2, 3, 4), 5, 4, 6, 1, 6, 3, "pre", "relu"),
):
    config = ModelConfig(V, context, d_model, n_layers, n_heads, d_ff, norm=norm, activation=activation)
    model = LanguageModel(config)
    state = {}
    for name, parameter in model.parameters().items():
        parameter.value = draw.normal(size=parameter.value.shape) / d_model**0.5
        state[name] = torch.tensor(parameter.value, requires_grad=True)
    ids, grad = draw.integers(V, size=shape), draw.normal(size=(*shape, V))
    oracle(state, torch.tensor(ids), n_layers, n_heads, norm, activation).backward(torch.tensor(grad))
    wanted = {name: leaf.grad.numpy() for name, leaf in state.items()}
    case = f"ids of shape {shape}, {n_layers} layers, norm {norm!r}, {activation}"
    model.forward(draw.integers(V, size=(2, context)))  # of which the next backward must know nothing
    found = passes(model, (ids,), grad)
    check.equal(
        sorted(found), sorted(["output", *(f"grad.{name}" for name in wanted)]), f"{case}: what there is a gradient for"
    )
    for name, value in wanted.items():
        check.close(found[f"grad.{name}"], value, f"{case}: the gradient for {name}", atol=1e-8, rtol=1e-8)
    model.forward(ids)
    model.backward(2 * grad)
    for name in ("embedding.weight", "positions.weight", "transformer.blocks.0.attention.layer.v.weight"):
        got = model.parameters()[name].grad
        check.close(got, 3 * wanted[name], f"{case}: then twice the gradient, on top, for {name}", atol=1e-8, rtol=1e-8)
    model.astype("float32")
    dtypes = sorted({str(v.dtype) for v in passes(model, (ids,), grad.astype("float32")).values()})
    check.equal(dtypes, ["float32"], f"{case}: the dtypes of logits and gradients after astype('float32')")
### END HIDDEN TESTS

# %% test="LanguageModel" points=2
from coursekit import check

import numpy as np

config = ModelConfig(11, 11, 8, 2, 2, 12, seed=3)
first, again = ({n: p.value for n, p in LanguageModel(config).parameters().items()} for _ in range(2))
check.that(all(np.array_equal(first[n], again[n]) for n in first), "the same configuration gives the same first values")
other = LanguageModel(ModelConfig(11, 11, 8, 2, 2, 12, seed=4)).parameters()
check.that(
    not np.array_equal(first["embedding.weight"], other["embedding.weight"].value), "another seed, another table"
)
check.that(
    not np.array_equal(first["embedding.weight"], first["positions.weight"]),
    "the two tables differ, although they have the same shape",
    hint="One generator for all parts: the second goes on where the first has stopped.",
)
### BEGIN HIDDEN TESTS
import torch
from transformers import GPT2Config, GPT2LMHeadModel

spread = {}
model = LanguageModel(ModelConfig(300, 200, 60, 2, 3, 90, seed=check.seed(3)))
values = {name: parameter.value for name, parameter in model.parameters().items()}
for name, value in values.items():
    if name in ("embedding.weight", "positions.weight"):
        check.close(float(value.std() / 0.02), 1.0, f"{name}: its standard deviation at first, over 0.02", atol=0.05)
    elif value.ndim == 2:
        want = (2 / sum(value.shape)) ** 0.5
        check.close(
            float(value.std() / want), 1.0, f"{name}: its standard deviation at first, over Xavier's", atol=0.06
        )
    else:
        check.close(value, np.full(value.shape, float(name.endswith("norm.weight"))), f"{name} at first", atol=0.0)
matrices = [name for name in values if values[name].shape == (60, 60)]
check.that(
    all(not np.allclose(values[a], values[b]) for k, a in enumerate(matrices) for b in matrices[:k]),
    "no two matrices of attention are equal at first",
)
check.that(not np.allclose(values["embedding.weight"][:200], values["positions.weight"]), "nor are the two tables")

# The same weights in HuggingFace's GPT-2: the same logits, and the same gradient for every one of them.
draw = np.random.default_rng(check.seed(4))
settings = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "n_inner": 90}
config = GPT2Config(vocab_size=13, n_positions=9, n_embd=60, n_layer=2, n_head=3, **settings)
config._attn_implementation = "eager"
twin = GPT2LMHeadModel(config).double()
model = LanguageModel(ModelConfig(13, 9, 60, 2, 3, 90))
mine = {}
for name, parameter in model.parameters().items():
    mine[name] = parameter.value = draw.normal(size=parameter.value.shape) / 60**0.5


def joined(mine):
    """Our arrays under GPT-2's names: its matrices are (d_in, d_out) too, and those of q, k and v stand side by side."""
    theirs = {"wte.weight": mine["embedding.weight"], "wpe.weight": mine["positions.weight"]}
    for end in ("weight", "bias"):
        theirs[f"ln_f.{end}"] = mine[f"transformer.norm.{end}"]
        for i in range(2):
            ours, block = f"transformer.blocks.{i}", f"h.{i}"
            attention = f"{ours}.attention.layer"
            theirs[f"{block}.attn.c_attn.{end}"] = np.concatenate([mine[f"{attention}.{p}.{end}"] for p in "qkv"], -1)
            theirs[f"{block}.attn.c_proj.{end}"] = mine[f"{attention}.o.{end}"]
            theirs[f"{block}.ln_1.{end}"] = mine[f"{ours}.attention.norm.{end}"]
            theirs[f"{block}.mlp.c_fc.{end}"] = mine[f"{ours}.feed_forward.layer.inner.{end}"]
            theirs[f"{block}.mlp.c_proj.{end}"] = mine[f"{ours}.feed_forward.layer.outer.{end}"]
            theirs[f"{block}.ln_2.{end}"] = mine[f"{ours}.feed_forward.norm.{end}"]
    return theirs


with torch.no_grad():
    for name, value in joined(mine).items():
        twin.transformer.get_parameter(name).copy_(torch.tensor(value))
ids, grad = draw.integers(13, size=(3, 7)), draw.normal(size=(3, 7, 13))
logits = twin(torch.tensor(ids)).logits
logits.backward(torch.tensor(grad))
found = passes(model, (ids,), grad)
check.close(found["output"], logits.detach().numpy(), "the logits of GPT2LMHeadModel with the same weights", atol=1e-8)
for name, value in joined({name: found[f"grad.{name}"] for name in mine}).items():
    want = twin.transformer.get_parameter(name).grad.numpy()
    check.close(value, want, f"the gradient of GPT2LMHeadModel for {name}", atol=1e-8, rtol=1e-8)
### END HIDDEN TESTS


# %% alternative="LanguageModel"
class LanguageModel(Layer):
    def __init__(self, config):
        shared = np.random.default_rng(config.seed)
        self.embedding = Embedding(config.vocab_size, config.d_model, shared)
        self.positions = LearnedPositions(config.context, config.d_model, shared)
        sizes = (config.n_layers, config.d_model, config.n_heads, config.d_ff)
        self.transformer = Transformer(*sizes, shared, norm=config.norm, activation=config.activation)

    def forward(self, ids):
        # The tied head is written out.
        T = np.shape(ids)[-1]
        print("reading", T, "tokens")
        place = np.arange(T)
        self.x = self.transformer(self.positions(self.embedding(ids)), mask=place[:, None] >= place)
        return np.einsum("...d,vd->...v", self.x, self.embedding.weight.value)

    def backward(self, grad):
        V, d_model = self.embedding.weight.value.shape
        self.embedding.weight.grad += grad.reshape(-1, V).T @ self.x.reshape(-1, d_model)
        for part in (self.transformer, self.positions):
            grad = part.backward(grad if part is self.positions else grad @ self.embedding.weight.value)
        self.embedding.backward(grad)


# %% mistakes="LanguageModel"
{
    "the head has a table of its own": (
        "TiedHead(self.embedding)",
        "TiedHead(Embedding(config.vocab_size, config.d_model, rng))",
    ),
    "the head holds a copy of the table, which begins with the same numbers and gets a gradient of its own": (
        "self.head = TiedHead(self.embedding)",
        "import copy; self.head = TiedHead(copy.deepcopy(self.embedding))",
    ),
    "the head is made under a name that comes before the embedding, so the table is called head.weight": (
        "self.embedding = Embedding(config.vocab_size, config.d_model, rng)",
        "table = Embedding(config.vocab_size, config.d_model, rng); self.head = TiedHead(table); self.embedding = table",
    ),
    "there is no causal mask, so every place sees the token that it has to guess": (
        "self.transformer(x, causal_mask(ids.shape[-1]))",
        "self.transformer(x)",
    ),
    "the mask is turned around, and each token sees those behind it": (
        "causal_mask(ids.shape[-1])",
        "causal_mask(ids.shape[-1]).T",
    ),
    "the mask hides a token from itself": (
        "causal_mask(ids.shape[-1])",
        "causal_mask(ids.shape[-1]) & ~np.eye(ids.shape[-1], dtype=bool)",
    ),
    "the positions are left out of forward and backward": [
        ("self.positions(self.embedding(ids))", "self.embedding(ids)"),
        ("self.embedding.backward(self.positions.backward(grad))", "self.embedding.backward(grad)"),
    ],
    "backward passes the positions by, so their rows get no gradient": (
        "self.embedding.backward(self.positions.backward(grad))",
        "self.embedding.backward(grad)",
    ),
    "backward stops before the lookup: the table gets the gradient of the head alone": (
        "self.embedding.backward(self.positions.backward(grad))",
        "self.positions.backward(grad)",
    ),
    "backward goes through the head and leaves out its gradient for the table: the table gets that of the lookup alone": (
        "grad = self.head.backward(grad)",
        "grad = grad @ self.embedding.weight.value",
    ),
    "the lookup begins with a gradient of zero for the table, and the gradient of the head is overwritten": (
        "self.embedding.backward(self.positions.backward(grad))",
        "self.embedding.weight.grad = np.zeros_like(self.embedding.weight.value); self.embedding.backward(self.positions.backward(grad))",
    ),
    "backward begins by setting all gradients to zero": (
        "grad = self.head.backward(grad)",
        "self.zero_grad(); grad = self.head.backward(grad)",
    ),
    "backward passes the transformer by, so its parameters get no gradient": (
        "grad = self.transformer.backward(grad)",
        "pass",
    ),
    "backward goes through the transformer twice": (
        "grad = self.transformer.backward(grad)",
        "self.transformer.backward(grad); grad = self.transformer.backward(grad)",
    ),
    "backward returns the gradient of the token vectors, as if ids had one": (
        "self.embedding.backward(self.positions.backward(grad))",
        "grad = self.positions.backward(grad); self.embedding.backward(grad); return grad",
    ),
    "the gradient is divided by the number of texts once more on the way back": (
        "grad = self.head.backward(grad)",
        "grad = self.head.backward(grad / len(grad))",
    ),
    "the norm of the configuration is ignored: it is always pre": ("config.norm", '"pre"'),
    "the activation of the configuration is ignored: it is always gelu": ("config.activation", '"gelu"'),
    "d_ff of the configuration is ignored: it is always four times d_model": ("config.d_ff", "4 * config.d_model"),
    "n_heads of the configuration is ignored: there is one head": ("config.n_heads", "1"),
    "n_layers of the configuration is ignored: there is one block": ("config.n_layers", "1"),
    "n_layers and n_heads have changed places": (
        "config.n_layers, config.d_model, config.n_heads",
        "config.n_heads, config.d_model, config.n_layers",
    ),
    "there is a row of positions for each token of the vocabulary, and not for each place of the context": (
        "LearnedPositions(config.context",
        "LearnedPositions(config.vocab_size",
    ),
    "the seed of the configuration is ignored": (
        "rng = np.random.default_rng(config.seed)",
        "rng = np.random.default_rng(0)",
    ),
    "every part has a generator of its own, all with the same seed: the two tables begin with the same numbers": (
        "LearnedPositions(config.context, config.d_model, rng)",
        "LearnedPositions(config.context, config.d_model, np.random.default_rng(config.seed))",
    ),
    "the logits are turned into probabilities": (
        "return self.head(x)",
        "e = np.exp(self.head(x)); return e / e.sum(axis=-1, keepdims=True)",
    ),
    "the logits are divided by sqrt(d_model)": ("return self.head(x)", "return self.head(x) / x.shape[-1] ** 0.5"),
    "only the logits of the last place are returned": ("return self.head(x)", "return self.head(x)[..., -1, :]"),
    "the rows of the table are multiplied by sqrt(d_model) on the way in": (
        "self.positions(self.embedding(ids))",
        "self.positions(self.embedding(ids) * self.embedding.weight.value.shape[-1] ** 0.5)",
    ),
    "the positions are added after the transformer, and it works without them": [
        ("x = self.positions(self.embedding(ids))", "x = self.embedding(ids)"),
        ("return self.head(x)", "return self.head(self.positions(x))"),
        (
            "grad = self.transformer.backward(grad)\n        self.embedding.backward(self.positions.backward(grad))",
            "grad = self.transformer.backward(self.positions.backward(grad))\n        self.embedding.backward(grad)",
        ),
    ],
}

# %% [markdown]
# That is a GPT-2. One of the hidden tests puts the same weights into HuggingFace's `GPT2LMHeadModel` and asks for the same logits, and for the same gradient of
# every parameter. [Lab 3.3](../ch03_transformer/lab03_decoder_only.ipynb) builds this model with torch, where nobody writes a backward pass, and
# [Lab 3.4](../ch03_transformer/lab04_load_pretrained.ipynb) loads the real weights.
#
# ## Exercise 3 · `Classifier`
#
# The other end for the same stack: one answer for the whole text. There is no causal mask, because nothing has to be guessed that stands in the text. There is a mask
# for padding instead, and it is needed in two places. Attention must not look *at* padding, and the pool must not count it. So `(..., T)`, one boolean for each
# token, has to become something that broadcasts to `(..., T, T)`, a row for each query and a column for each key.
#
# *Difficulty 3 of 5 · 20 minutes · 6 points*


# %% exercise="Classifier" difficulty=3 minutes=20 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
class Classifier(Layer):
    """An encoder with a pool behind it: it reads a whole text and gives one score for each class.

    Args:
        config: a `ModelConfig`.
        n_classes: number of classes.
        pool: "first", "mean" or "max".

    Parameters:
        Those of its parts ``embedding``, ``positions``, ``transformer`` and ``head``, a `Head`; ``pool`` has none. The parts have the first
        values that they give themselves, all drawn from one generator, ``np.random.default_rng(config.seed)``.

    Raises:
        ValueError: if pool is none of the three.
    """

    def __init__(self, config: ModelConfig, n_classes: int, pool: str = "mean"):
        ### BEGIN SOLUTION
        pools = {"first": FirstPool, "mean": MeanPool, "max": MaxPool}
        if pool not in pools:
            raise ValueError(f"pool is 'first', 'mean' or 'max', not {pool!r}")
        rng = np.random.default_rng(config.seed)
        self.embedding = Embedding(config.vocab_size, config.d_model, rng)
        self.positions = LearnedPositions(config.context, config.d_model, rng)
        self.transformer = Transformer(
            config.n_layers, config.d_model, config.n_heads, config.d_ff, rng, config.norm, config.activation
        )
        self.pool = pools[pool]()
        self.head = Head(config.d_model, n_classes, rng)
        ### END SOLUTION

    def forward(self, ids: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Score the classes of each text.

        Args:
            ids: integers (..., T) with any number of axes in front, also none, and T from 1 to context. Places of padding hold ids
                too, any that have a row.
            mask: (..., T) booleans, True where there is a real token. None if all are real.

        Returns:
            Logits (..., n_classes) of the parameters' dtype. Every real token looks at all real tokens, before and behind it. What
            stands in places of padding changes nothing. A text without a real token gets the bias of the head.

        Raises:
            ValueError: if T is larger than context.
            IndexError: if an id has no row.
        """
        ### BEGIN SOLUTION
        x = self.positions(self.embedding(ids))  # (..., T, d_model)
        may_look = None if mask is None else mask[..., None, :]  # (..., 1, T): the same keys for every query
        x = self.transformer(x, may_look)
        return self.head(self.pool(x, mask))  # (..., d_model) -> (..., n_classes)
        ### END SOLUTION

    def backward(self, grad: np.ndarray) -> None:
        """Add to every parameter's ``grad`` what the last `forward` is responsible for. Returns None: ids have no gradient.

        Args:
            grad: (..., n_classes), the gradient of the loss for the logits of the last `forward`.
        """
        ### BEGIN SOLUTION
        grad = self.pool.backward(self.head.backward(grad))  # (..., n_classes) -> (..., d_model) -> (..., T, d_model)
        grad = self.transformer.backward(grad)
        self.embedding.backward(self.positions.backward(grad))
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Most of it is the language model. What differs: no causal mask, a pool between transformer and head, and a head that is a
# layer of its own.</details>
# <details><summary>A bigger nudge</summary>A key that is padding is hidden from all queries of its text. So the booleans of the keys form the <em>columns</em> of the mask, and one row serves all
# queries: it is enough to give <code>mask</code> another axis of length 1, in the right place. <code>None</code> has no axes, so ask for it first. The pool wants
# the mask as it is.</details>

# %% test="Classifier" points=2
from coursekit import check

import numpy as np

model = Classifier(ModelConfig(vocab_size=5, context=6, d_model=4, n_layers=2, n_heads=2, d_ff=8), 3)
names = list(model.parameters())
check.equal(names[:2], ["embedding.weight", "positions.weight"], "the names of the first two parameters")
check.equal(names[-2:], ["head.linear.weight", "head.linear.bias"], "the names of the last two parameters")
ids = np.array([[1, 2, 3, 4, 3, 1], [4, 4, 1, 2, 2, 3]])
mask = np.array([[True, True, True, True, False, False], [True] * 6])
logits = model.forward(ids, mask)
check.equal(list(np.shape(logits)), [2, 3], "two texts, three classes: the shape of the logits")
check.close(logits[:1], model.forward(ids[:1, :4]), "padding, masked, is as good as no padding", atol=1e-12)
check.close(logits[1:], model.forward(ids[1:]), "a text without padding: a mask of True is as good as none", atol=1e-12)
other = ids.copy()
other[0, 4:] = 0
check.close(model.forward(other, mask), logits, "other ids in places of padding change nothing", atol=1e-12)
front = mask[:, ::-1]
logits = model.forward(ids, front)
other = ids.copy()
other[0, :2] = 0
check.close(model.forward(other, front), logits, "nor do they with the padding in front", atol=1e-12)
model = Classifier(ModelConfig(vocab_size=5, context=6, d_model=4, n_layers=1, n_heads=2, d_ff=8), 3, pool="first")
other = ids.copy()
other[:, 3] = 0
moved = np.abs(model.forward(other, mask) - model.forward(ids, mask)).max(axis=-1)
check.that(
    moved.min() > 1e-9,
    "the first token, which is pooled here, has seen the fourth: nothing is causal",
    hint="The only mask here is the one for padding.",
)
### BEGIN HIDDEN TESTS
import torch
from torch.nn import functional as F


def oracle(state, ids, mask, n_layers, n_heads, pool, norm, activation):
    def put_norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[name + ".weight"], state[name + ".bias"])

    def linear(x, name):
        return x @ state[name + ".weight"] + state[name + ".bias"]

    def attend(x, name):
        q, k, v = (linear(x, f"{name}.{part}").unflatten(-1, (n_heads, -1)).transpose(-2, -3) for part in "qkv")
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[..., None, None, :])
        return linear(heads.transpose(-2, -3).flatten(-2), f"{name}.o")

    def feed(x, name):
        x = linear(x, name + ".inner")
        return linear(F.relu(x) if activation == "relu" else F.gelu(x, approximate="tanh"), name + ".outer")

    x = F.embedding(ids, state["embedding.weight"]) + state["positions.weight"][: ids.shape[-1]]
    for i in range(n_layers):
        for part, layer in (("attention", attend), ("feed_forward", feed)):
            name = f"transformer.blocks.{i}.{part}"
            if norm == "pre":
                x = x + layer(put_norm(x, name + ".norm"), name + ".layer")
            else:
                x = x + layer(x, name + ".layer")
                x = put_norm(x, name + ".norm") if norm == "post" else x
    x = put_norm(x, "transformer.norm") if norm == "pre" else x
    real = mask[..., None]
    if pool == "max":
        x = x.masked_fill(~real, -torch.inf).amax(dim=-2)
    elif pool == "mean":
        x = (x * real).sum(dim=-2) / real.sum(dim=-2)
    else:
        x = x.take_along_dim(mask.int().argmax(dim=-1)[..., None, None], dim=-2).squeeze(-2)
    return linear(x, "head.linear")


draw = np.random.default_rng(check.seed(5))
for shape, V, context, d_model, n_layers, n_heads, d_ff, n_classes, pool, norm, activation in (
    ((3, 7), 11, 9, 12, 2, 3, 20, 4, "mean", "pre", "gelu"),
    ((1, 5), 6, 5, 6, 1, 2, 7, 1, "first", "post", "gelu"),
    ((4,), 5, 8, 4, 2, 1, 16, 3, "max", "none", "relu"),
    ((2, 3, 4), 5, 4, 6, 1, 6, 3, 7, "mean", "pre", "relu"),
    ((2, 6), 7, 6, 4, 1, 2, 5, 3, "first", "pre", "gelu"),
    ((3, 4), 5, 6, 6, 1, 2, 5, 2, "max", "pre", "gelu"),
):
    config = ModelConfig(V, context, d_model, n_layers, n_heads, d_ff, norm=norm, activation=activation)
    model = Classifier(config, n_classes, pool=pool)
    state = {}
    for name, parameter in model.parameters().items():
        parameter.value = draw.normal(size=parameter.value.shape) / d_model**0.5
        state[name] = torch.tensor(parameter.value, requires_grad=True)
    ids, grad = draw.integers(V, size=shape), draw.normal(size=(*shape[:-1], n_classes))
    every = np.ones(shape, dtype=bool)
    behind, scattered = every.copy(), every.copy()
    behind[..., -2:], scattered[..., 0], scattered[..., 2] = False, False, False
    for what, mask in (("no mask", None), ("padding behind", behind), ("padding in front and between", scattered)):
        case = f"ids of shape {shape}, {n_layers} layers, pool {pool!r}, norm {norm!r}, {what}"
        real = torch.tensor(every if mask is None else mask)
        want = oracle(state, torch.tensor(ids), real, n_layers, n_heads, pool, norm, activation)
        want = want.detach().numpy()
        check.close(model.forward(ids, mask), want, f"{case}: the logits", atol=1e-8, rtol=1e-8)
        if mask is None:
            check.close(model(ids), want, f"{case}: called as model(ids)", atol=1e-8, rtol=1e-8)
    nothing = np.zeros(shape, dtype=bool)
    bias = np.broadcast_to(state["head.linear.bias"].detach().numpy(), want.shape)
    check.close(model.forward(ids, nothing), bias, f"{case[:-30]}: texts of nothing but padding", atol=1e-12)
    check.raises(
        ValueError,
        lambda model=model, context=context: model.forward(np.zeros((2, context + 1), dtype=int)),
        f"context {context}: one token more",
    )
    check.raises(IndexError, lambda model=model, V=V: model.forward(np.array([[0, V]])), f"{V} tokens: the id {V}")
    model.astype("float32")
    check.equal(str(model.forward(ids, behind).dtype), "float32", f"pool {pool!r}: the dtype after astype('float32')")
for pool in ("last", "", None):
    check.raises(
        ValueError, lambda pool=pool: Classifier(ModelConfig(5, 6, 4, 1, 2, 8), 3, pool=pool), f"pool={pool!r}"
    )
ids = draw.integers(5, size=(3, 6))
default, mean = (Classifier(ModelConfig(5, 6, 4, 1, 2, 8), 3, *pool).forward(ids) for pool in ((), ("mean",)))
check.close(default, mean, "the pool is the mean where nothing is said", atol=0.0)
### END HIDDEN TESTS

# %% test="Classifier" points=3
from coursekit import check

import numpy as np

model = Classifier(ModelConfig(vocab_size=5, context=6, d_model=4, n_layers=1, n_heads=2, d_ff=8), 3)
ids = np.array([[1, 2, 3, 4, 0, 0], [2, 2, 1, 2, 2, 3]])
mask = np.array([[True, True, True, True, False, False], [True] * 6])
grad = np.array([[1.0, -2.0, 1.0], [0.5, 0.0, 3.0]])
found = passes(model, (ids, mask), grad)
check.equal("grad" in found, False, "backward returns None: there is no gradient for ids")
check.close(found["grad.head.linear.bias"], grad.sum(axis=0), "the bias of the head: the sum over both texts")
check.close(
    found["grad.embedding.weight"][0],
    np.zeros(4),
    "token 0 stands in padding only: its row gets no gradient",
    atol=1e-12,
)
before = model.embedding.weight.value
losses = []
for step in (1e-5, -1e-5):
    moved = before.copy()
    moved[2, 1] += step
    model.embedding.weight.value = moved
    losses.append((model.forward(ids, mask) * grad).sum())
slope = (losses[0] - losses[1]) / 2e-5
check.close(
    float(found["grad.embedding.weight"][2, 1] / slope),
    1.0,
    "one number of token 2's row is moved a little: the gradient for it, over the slope of the loss",
    atol=1e-4,
)
### BEGIN HIDDEN TESTS
import torch
from torch.nn import functional as F


def oracle(state, ids, mask, n_layers, n_heads, pool, norm, activation):
    def put_norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[name + ".weight"], state[name + ".bias"])

    def linear(x, name):
        return x @ state[name + ".weight"] + state[name + ".bias"]

    def attend(x, name):
        q, k, v = (linear(x, f"{name}.{part}").unflatten(-1, (n_heads, -1)).transpose(-2, -3) for part in "qkv")
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[..., None, None, :])
        return linear(heads.transpose(-2, -3).flatten(-2), f"{name}.o")

    def feed(x, name):
        x = linear(x, name + ".inner")
        return linear(F.relu(x) if activation == "relu" else F.gelu(x, approximate="tanh"), name + ".outer")

    x = F.embedding(ids, state["embedding.weight"]) + state["positions.weight"][: ids.shape[-1]]
    for i in range(n_layers):
        for part, layer in (("attention", attend), ("feed_forward", feed)):
            name = f"transformer.blocks.{i}.{part}"
            if norm == "pre":
                x = x + layer(put_norm(x, name + ".norm"), name + ".layer")
            else:
                x = x + layer(x, name + ".layer")
                x = put_norm(x, name + ".norm") if norm == "post" else x
    x = put_norm(x, "transformer.norm") if norm == "pre" else x
    real = mask[..., None]
    if pool == "max":
        x = x.masked_fill(~real, -torch.inf).amax(dim=-2)
    elif pool == "mean":
        x = (x * real).sum(dim=-2) / real.sum(dim=-2)
    else:
        x = x.take_along_dim(mask.int().argmax(dim=-1)[..., None, None], dim=-2).squeeze(-2)
    return linear(x, "head.linear")


draw = np.random.default_rng(check.seed(6))
for shape, V, context, d_model, n_layers, n_heads, d_ff, n_classes, pool, norm, activation in (
    ((3, 7), 11, 9, 12, 2, 3, 20, 4, "mean", "pre", "gelu"),
    ((1, 5), 6, 5, 6, 1, 2, 7, 2, "first", "post", "gelu"),
    ((4,), 5, 8, 4, 2, 1, 16, 3, "max", "none", "relu"),
    ((2, 3, 4), 5, 4, 6, 1, 6, 3, 7, "mean", "pre", "relu"),
    ((3, 4), 5, 6, 6, 1, 2, 5, 2, "max", "pre", "gelu"),
):
    config = ModelConfig(V, context, d_model, n_layers, n_heads, d_ff, norm=norm, activation=activation)
    model = Classifier(config, n_classes, pool=pool)
    values = {}
    for name, parameter in model.parameters().items():
        values[name] = parameter.value = draw.normal(size=parameter.value.shape) / d_model**0.5
    ids, grad = draw.integers(V, size=shape), draw.normal(size=(*shape[:-1], n_classes))
    every = np.ones(shape, dtype=bool)
    scattered = every.copy()
    scattered[..., 0], scattered[..., 2] = False, False
    for what, mask in (("no mask", None), ("padding in front and between", scattered)):
        case = f"ids of shape {shape}, {n_layers} layers, pool {pool!r}, norm {norm!r}, {what}"
        real = torch.tensor(every if mask is None else mask)
        state = {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}
        oracle(state, torch.tensor(ids), real, n_layers, n_heads, pool, norm, activation).backward(torch.tensor(grad))
        model.forward(draw.integers(V, size=(2, context)))  # of which the next backward must know nothing
        found = passes(model, (ids, mask), grad)
        wanted = {f"grad.{name}": leaf.grad.numpy() for name, leaf in state.items()}
        check.equal(sorted(found), sorted(["output", *wanted]), f"{case}: what there is a gradient for")
        for name, value in wanted.items():
            check.close(found[name], value, f"{case}: the gradient, {name}", atol=1e-8, rtol=1e-8)
    model.backward(grad)
    for name in ("embedding.weight", "positions.weight", "head.linear.weight"):
        got, want = model.parameters()[name].grad, 2 * wanted[f"grad.{name}"]
        check.close(got, want, f"{case}: backward again adds, for {name}", atol=1e-8, rtol=1e-8)
    model.astype("float32")
    dtypes = sorted({str(v.dtype) for v in passes(model, (ids, mask), grad.astype("float32")).values()})
    check.equal(dtypes, ["float32"], f"{case}: the dtypes of logits and gradients after astype('float32')")
### END HIDDEN TESTS

# %% test="Classifier" points=1
from coursekit import check

import numpy as np

config = ModelConfig(11, 11, 8, 2, 2, 12, seed=3)
first, again = ({n: p.value for n, p in Classifier(config, 8).parameters().items()} for _ in range(2))
check.that(all(np.array_equal(first[n], again[n]) for n in first), "the same configuration gives the same first values")
other = Classifier(ModelConfig(11, 11, 8, 2, 2, 12, seed=4), 8).parameters()
check.that(
    not np.array_equal(first["embedding.weight"], other["embedding.weight"].value), "another seed, another table"
)
### BEGIN HIDDEN TESTS
model = Classifier(ModelConfig(200, 200, 60, 2, 3, 90, seed=check.seed(7)), 200)
values = {name: parameter.value for name, parameter in model.parameters().items()}
small = ("embedding.weight", "positions.weight", "head.linear.weight")
for name, value in values.items():
    if name in small:
        check.close(float(value.std() / 0.02), 1.0, f"{name}: its standard deviation at first, over 0.02", atol=0.05)
    elif value.ndim == 2:
        want = (2 / sum(value.shape)) ** 0.5
        check.close(
            float(value.std() / want), 1.0, f"{name}: its standard deviation at first, over Xavier's", atol=0.06
        )
    else:
        check.close(value, np.full(value.shape, float(name.endswith("norm.weight"))), f"{name} at first", atol=0.0)
tables = values["embedding.weight"], values["positions.weight"]
check.that(not np.allclose(*tables), "the two tables do not begin with the same numbers", hint="One generator for all.")
### END HIDDEN TESTS


# %% alternative="Classifier"
class Classifier(Layer):
    def __init__(self, config, n_classes, pool="mean"):
        if pool == "mean":
            self.pool = MeanPool()
        elif pool == "max":
            self.pool = MaxPool()
        elif pool == "first":
            self.pool = FirstPool()
        else:
            raise ValueError("which pool?")
        rng = np.random.default_rng(config.seed)
        self.embedding = Embedding(config.vocab_size, config.d_model, rng)
        self.positions = LearnedPositions(config.context, config.d_model, rng)
        sizes = (config.n_layers, config.d_model, config.n_heads, config.d_ff)
        self.transformer = Transformer(*sizes, rng, norm=config.norm, activation=config.activation)
        self.head = Head(config.d_model, n_classes, rng)

    def forward(self, ids, mask=None):
        if mask is None:
            mask = np.ones(ids.shape, dtype=bool)
        x = self.positions(self.embedding(ids))
        # A mask in full; what a query in a place of padding sees is of no account, here it sees all real tokens.
        pairs = np.repeat(np.expand_dims(mask, -2), ids.shape[-1], axis=-2)
        return self.head(self.pool(self.transformer(x, pairs), mask))

    def backward(self, grad):
        for part in (self.head, self.pool, self.transformer, self.positions, self.embedding):
            grad = part.backward(grad)


# %% alternative="Classifier"
class Classifier(Layer):
    def __init__(self, config, n_classes, pool="mean"):
        if pool not in ("first", "mean", "max"):
            raise ValueError(pool)
        rng = np.random.default_rng(config.seed)
        self.embedding = Embedding(config.vocab_size, config.d_model, rng)
        self.positions = LearnedPositions(config.context, config.d_model, rng)
        sizes = (config.n_layers, config.d_model, config.n_heads, config.d_ff)
        self.transformer = Transformer(*sizes, rng, config.norm, config.activation)
        self.pool = {"first": FirstPool(), "mean": MeanPool(), "max": MaxPool()}[pool]
        self.head = Head(config.d_model, n_classes, rng)

    def forward(self, ids, mask=None):
        mask = np.full(ids.shape, True) if mask is None else mask
        # Padding sees nothing at all.
        pairs = mask[..., :, np.newaxis] & mask[..., np.newaxis, :]
        x = self.transformer(self.positions(self.embedding(ids)), pairs)
        return self.head(self.pool(x, mask))

    def backward(self, grad):
        grad = self.transformer.backward(self.pool.backward(self.head.backward(grad)))
        print("nearly there")
        self.embedding.backward(self.positions.backward(grad))


# %% mistakes="Classifier"
{
    "attention gets no mask: padding is kept from the pool, but real tokens look at it": (
        "x = self.transformer(x, may_look)",
        "x = self.transformer(x)",
    ),
    "the pool gets no mask: padding is kept from attention and counts in the pool": (
        "self.pool(x, mask)",
        "self.pool(x)",
    ),
    "the mask is ignored altogether": [
        ("x = self.transformer(x, may_look)", "x = self.transformer(x)"),
        ("self.pool(x, mask)", "self.pool(x)"),
    ],
    "the mask hides queries and not keys: padding sees nothing, and everybody sees padding": (
        "mask[..., None, :]",
        "mask[..., :, None]",
    ),
    "the mask is turned around: True is taken for padding": (
        "may_look = None if mask is None else mask[..., None, :]",
        "mask = None if mask is None else ~mask; may_look = None if mask is None else mask[..., None, :]",
    ),
    "attention is causal, as in the language model, and takes no notice of padding": (
        "x = self.transformer(x, may_look)",
        "x = self.transformer(x, causal_mask(ids.shape[-1]))",
    ),
    "attention is causal, beside the mask for padding": (
        "x = self.transformer(x, may_look)",
        "x = self.transformer(x, causal_mask(ids.shape[-1]) & (True if mask is None else may_look))",
    ),
    "the ids of padding are set to 0, and everything else works without a mask": (
        "x = self.positions(self.embedding(ids))",
        "ids = ids if mask is None else np.where(mask, ids, 0); mask = None; x = self.positions(self.embedding(ids))",
    ),
    "the vectors of padding are set to zero, and attention sees those zeros": [
        (
            "x = self.positions(self.embedding(ids))",
            "x = self.positions(self.embedding(ids)); x = x if mask is None else x * mask[..., None]",
        ),
        ("x = self.transformer(x, may_look)", "x = self.transformer(x)"),
    ],
    "the pool gives first where max is asked for and the other way round": (
        '"first": FirstPool, "mean": MeanPool, "max": MaxPool',
        '"first": MaxPool, "mean": MeanPool, "max": FirstPool',
    ),
    "every pool is the mean": ("self.pool = pools[pool]()", "self.pool = MeanPool()"),
    "the pool is first where nothing is said": ('pool: str = "mean"', 'pool: str = "first"'),
    "a pool that does not exist is not refused with a ValueError": (
        "if pool not in pools:",
        "pool = pool if pool in pools else 'mean'\n        if pool not in pools:",
    ),
    "the head scores every token, and the pool takes the scores": [
        ("return self.head(self.pool(x, mask))", "return self.pool(self.head(x), mask)"),
        (
            "grad = self.pool.backward(self.head.backward(grad))",
            "grad = self.head.backward(self.pool.backward(grad))",
        ),
    ],
    "backward passes the pool by and hands every token the same gradient": (
        "grad = self.pool.backward(self.head.backward(grad))",
        "grad = self.head.backward(grad)[..., None, :] + np.zeros((*self.embedding.ids.shape, 1))",
    ),
    "backward passes the transformer by, so its parameters get no gradient": (
        "grad = self.transformer.backward(grad)",
        "pass",
    ),
    "backward passes the positions by, so their rows get no gradient": (
        "self.embedding.backward(self.positions.backward(grad))",
        "self.embedding.backward(grad)",
    ),
    "backward stops before the lookup, and the table gets no gradient": (
        "self.embedding.backward(self.positions.backward(grad))",
        "self.positions.backward(grad)",
    ),
    "backward begins by setting all gradients to zero": (
        "grad = self.pool.backward(",
        "self.zero_grad(); grad = self.pool.backward(",
    ),
    "backward returns the gradient of the token vectors, as if ids had one": (
        "self.embedding.backward(self.positions.backward(grad))",
        "grad = self.positions.backward(grad); self.embedding.backward(grad); return grad",
    ),
    "the positions are left out of forward and backward": [
        ("self.positions(self.embedding(ids))", "self.embedding(ids)"),
        ("self.embedding.backward(self.positions.backward(grad))", "self.embedding.backward(grad)"),
    ],
    "the logits are turned into probabilities": (
        "return self.head(self.pool(x, mask))",
        "e = np.exp(self.head(self.pool(x, mask))); return e / e.sum(axis=-1, keepdims=True)",
    ),
    "norm and activation of the configuration are ignored": ("rng, config.norm, config.activation", "rng"),
    "the seed of the configuration is ignored": (
        "rng = np.random.default_rng(config.seed)",
        "rng = np.random.default_rng(0)",
    ),
    "every part has a generator of its own, all with the same seed: the two tables begin with the same numbers": (
        "LearnedPositions(config.context, config.d_model, rng)",
        "LearnedPositions(config.context, config.d_model, np.random.default_rng(config.seed))",
    ),
}

# %% [markdown]
# ## Exercise 4 · `check_gradients`
#
# Now the judge. To check a layer you need a loss, a single number, and the simplest is
# $L = \sum \text{output} \cdot \text{grad}$, with any fixed array `grad` of the output's shape. For this loss $\partial L/\partial(\text{output})$ is `grad` itself, so `backward(grad)`
# claims the gradients of exactly this $L$, and nothing else has to be written.
#
# How far apart may claim and measurement be? A difference of $10^{-6}$ is nothing beside a gradient of 5, and everything beside one of $10^{-6}$. So divide by
# the size of the gradients. And a gradient may be zero by right. Then both numbers are noise, and noise divided by noise is anything. So do not
# divide by less than a *floor*:
#
# $$ \text{error} = \frac{\max_i |c_i - m_i|}{\max\bigl(\max_i |c_i|,\ \max_i |m_i|,\ \text{floor}\bigr)} $$
#
# Here $c$ is what `backward` claims and $m$ what was measured. Claim twice the truth, and the error is 0.5. Claim its opposite: 2. Claim
# nothing at all: 1. Right gradients come out below $10^{-5}$, and mostly far below.
#
# A model has too many numbers to move each of them. `samples` of every array, drawn by `rng`, will do.
#
# *Difficulty 3 of 5 · 25 minutes · 6 points*


# %% exercise="check_gradients" difficulty=3 minutes=25 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy", "gradcheck", "check_grad", "approx_fprime"]
def relative_error(claimed: np.ndarray, measured: np.ndarray, floor: float = 1e-5) -> float:
    """How far two arrays of gradients are apart, in units of their own size.

    Args:
        claimed, measured: arrays of the same shape, with at least one number.
        floor: larger than 0; gradients below it count as noise.

    Returns:
        The largest absolute difference, divided by the largest absolute value in both arrays together, or by floor if that is
        larger. A Python float. NaN if one of the arrays holds NaN.
    """
    ### BEGIN SOLUTION
    difference = np.abs(claimed - measured).max()
    size = max(np.abs(claimed).max(), np.abs(measured).max())
    return float(difference / max(size, floor))
    ### END SOLUTION


def check_gradients(
    layer: Layer,
    inputs: tuple,
    grad: np.ndarray,
    rng: np.random.Generator,
    samples: int = 20,
    step: float = 1e-5,
    floor: float = 1e-5,
) -> dict[str, float]:
    """Compare what a layer's backward claims with central differences of its forward.

    The loss is ``(layer.forward(*inputs) * grad).sum()``.

    Args:
        layer: any layer with float64 parameters, perhaps none.
        inputs: what `forward` takes. The first is ids, or a float64 array. The arrays may be read-only.
        grad: float64 array of the output's shape.
        rng: draws which numbers are checked.
        samples: how many numbers of each array to check, all different; all of them if it has no more.
        step: h. The loss is measured at w + h and at w - h, for one number w at a time.
        floor: as in `relative_error`.

    Returns:
        The `relative_error` of the numbers checked, for each array: first "input", for the first input, which is left out if
        `backward` returns None; then every parameter by its name, in the order of ``layer.parameters()``.
        After one forward and one backward it calls forward twice for each number checked, and not more often.

    In the end the parameters' values, their gradients and the caller's inputs are what they were before, to the last bit. Gradients
    that were there before play no part in the result.

    Raises:
        ValueError: if a parameter is not float64.
    """
    ### BEGIN SOLUTION
    parameters = layer.parameters()
    if any(parameter.value.dtype != np.float64 for parameter in parameters.values()):
        raise ValueError("differences need float64")
    inputs = [np.array(x) if isinstance(x, np.ndarray) else x for x in inputs]  # copies, which may be moved
    before = {name: parameter.grad for name, parameter in parameters.items()}
    layer.zero_grad()  # puts new arrays in their place
    layer.forward(*inputs)
    into = layer.backward(grad)
    # What to move, and the gradient that is claimed for it.
    arrays = {} if into is None else {"input": (inputs[0], into)}
    arrays |= {name: (parameter.value, parameter.grad) for name, parameter in parameters.items()}

    def slope(numbers, place):
        here, losses = numbers[place], []
        for moved in (here + step, here - step):
            numbers[place] = moved
            losses.append((layer.forward(*inputs) * grad).sum())
        numbers[place] = here
        return (losses[0] - losses[1]) / (2 * step)

    errors = {}
    for name, (numbers, claimed) in arrays.items():
        drawn = rng.choice(numbers.size, size=min(samples, numbers.size), replace=False)
        places = [np.unravel_index(number, numbers.shape) for number in drawn]
        measured = np.array([slope(numbers, place) for place in places])
        errors[name] = relative_error(np.array([claimed[place] for place in places]), measured, floor)
    for name, parameter in parameters.items():
        parameter.grad = before[name]
    return errors
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Three parts: let the layer claim; for a few places of each array, move and measure; put everything back. To move a number, write
# into <code>parameter.value</code>. What the layer then computes is the loss of a slightly different model.</details>
# <details><summary>A bigger nudge</summary><code>rng.choice</code> draws without repetition if you tell it so, and <code>np.unravel_index</code> turns a running number into a place.
# Keep the old number and write <em>it</em> back: adding h and subtracting it again may leave the last bit different. Work on copies of the inputs. What <code>zero_grad</code>
# does to the old gradients you can read in Lab 0.1: it makes new arrays, so the old ones can be kept and put back.</details>

# %% test="check_gradients" points=2
from coursekit import check

import numpy as np

truth = np.array([4.0, -2.0, 0.0])
check.close(relative_error(2 * truth, truth), 0.5, "claimed: twice the truth")
check.close(relative_error(-truth, truth), 2.0, "claimed: the opposite of the truth")
check.close(relative_error(0 * truth, truth), 1.0, "claimed: nothing at all")
check.close(relative_error(truth + np.array([0.0, 0.0, 1.0]), truth), 0.25, "claimed: a 1 where 0 is right, beside a 4")
check.close(relative_error(np.array([3e-9]), np.array([1e-9])), 2e-4, "3e-9 for 1e-9: both are below the floor of 1e-5")
### BEGIN HIDDEN TESTS
draw = np.random.default_rng(check.seed(8))
for shape in ((7,), (3, 5), (1,), (2, 3, 4)):
    right = draw.uniform(1, 2, size=shape) * draw.choice([-1.0, 1.0], size=shape)
    for size in (1.0, 1e3, 1e-3, 1e-9, 1e9):
        for factor, want in ((1.5, 1 / 3), (0.5, 0.5), (1.0, 0.0), (-3.0, 4 / 3)):
            largest = max(1.0, abs(factor)) * size * np.abs(right).max()
            want = want * largest / max(largest, 1e-5)
            found = relative_error(factor * size * right, size * right)
            check.close(float(found), float(want), f"{factor} times gradients of size {size:g}", rtol=1e-4)
            found = relative_error(size * right, factor * size * right)
            check.close(float(found), float(want), f"claimed and measured exchanged, size {size:g}", rtol=1e-4)
check.close(relative_error(np.array([1.0, 5.0]), np.array([1.0, 4.0]), floor=10.0), 0.1, "a floor of 10")
check.close(relative_error(np.array([1e-9]), np.array([0.0]), floor=1e-8), 0.1, "a floor of 1e-8")
check.close(relative_error(np.array([0.0, 0.0]), np.array([0.0, 0.0])), 0.0, "two arrays of zeros")
check.equal(isinstance(relative_error(truth, truth), float), True, "a Python float")
for claimed, measured in ((np.array([1.0, np.nan]), truth[:2]), (truth[:2], np.array([np.nan, 1.0]))):
    check.close(relative_error(claimed, measured), np.nan, "NaN in one of the arrays")
### END HIDDEN TESTS

# %% test="check_gradients" points=2
from coursekit import check

import numpy as np

x, grad = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 2.0]]), np.array([[1.0, -1.0, 2.0], [2.0, 1.0, -1.0]])
weight = np.array([1.0, -2.0, 0.5])
errors = check_gradients(Claims(weight), (x,), grad, new_rng(0))
check.equal(list(errors), ["input", "weight"], "a layer with one parameter: the names, the input first")
check.close(errors["weight"], 0.0, "a right gradient of the weight", atol=1e-7)
check.close(errors["input"], 0.0, "a right gradient of the input", atol=1e-7)
errors = check_gradients(Claims(weight, weight_factor=2.0), (x,), grad, new_rng(0))
check.close(errors["weight"], 0.5, "a backward that claims twice the gradient of the weight", atol=1e-6)
check.close(errors["input"], 0.0, "the same layer: its gradient of the input is right", atol=1e-7)
errors = check_gradients(Claims(weight, input_factor=np.array([1.0, 1.0, 0.0])), (x,), grad, new_rng(0))
check.close(errors["input"], 0.125, "a backward that forgets one feature of the input", atol=1e-6)
layer = Linear(3, 4, new_rng(1))
errors = check_gradients(layer, (x,), np.ones((2, 4)), new_rng(0))
check.equal(list(errors), ["input", "weight", "bias"], "your Linear: the names")
check.that(max(errors.values()) < 1e-7, "your Linear: all gradients are right")
table = Embedding(4, 2, new_rng(1))
errors = check_gradients(table, (np.array([1, 3, 1]),), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), new_rng(0))
check.equal(list(errors), ["weight"], "an Embedding: backward returns None, so there is no entry for the input")
check.that(errors["weight"] < 1e-7, "an Embedding: its gradient is right")
### BEGIN HIDDEN TESTS
draw = np.random.default_rng(check.seed(9))
for shape in ((3, 2, 5), (1, 4), (7,), (63, 6)):
    x, grad = draw.uniform(1, 2, size=shape), draw.uniform(1, 2, size=shape)
    weight = draw.uniform(1, 2, size=shape[-1:]) * draw.choice([-1.0, 1.0], size=shape[-1:])
    for factors, wanted in (
        ((1.0, 1.0), (0.0, 0.0)),
        ((3.0, 1.0), (0.0, 2 / 3)),
        ((1.0, -1.0), (2.0, 0.0)),
        ((0.0, 0.5), (0.5, 1.0)),
        ((1.01, 0.99), (0.01, 0.01 / 1.01)),
    ):
        errors = check_gradients(Claims(weight, *factors), (x,), grad, new_rng(check.seed(10)), samples=4)
        case = f"x of shape {shape}, claims of {factors[0]} and {factors[1]} times the gradient of weight and input"
        check.close(float(errors["weight"]), float(wanted[1]), f"{case}: the error of the weight", atol=1e-6)
        check.close(float(errors["input"]), float(wanted[0]), f"{case}: the error of the input", atol=1e-6)
x, grad = draw.uniform(1, 2, size=(2, 3, 4)), draw.normal(size=(2, 3, 4))
layer = Claims(np.ones(4))
errors = check_gradients(layer, (x, 100.0), grad, new_rng(0))
check.that(max(errors.values()) < 1e-6, "a further input changes nothing in a gradient that is right")
check.close(float(layer.plus), 100.0, "a further input is handed on to forward, and is not moved")
errors = check_gradients(Claims(1e-9 * np.ones(4), 3.0), (x,), np.abs(grad), new_rng(0), step=1e-3)
size = 3 * 2 * 1e-9 * (x * np.abs(grad)).sum(axis=(0, 1)).max()
check.close(errors["weight"], float(2 / 3 * size / 1e-5), "gradients of some 1e-8, claimed three times", atol=1e-6)
errors = check_gradients(Claims(1e-9 * np.ones(4), 3.0), (x,), np.abs(grad), new_rng(0), step=1e-3, floor=1e-12)
check.close(errors["weight"], 2 / 3, "the same with a floor of 1e-12", atol=1e-3)
errors = check_gradients(Claims(np.array([1.0, 2.0])), (np.array([[1.0, 1.0]]),), np.ones((1, 2)), new_rng(0), step=0.5)
check.close(
    errors["weight"], 0.0, "a square, with a step of 0.5: the central difference of a square is exact", atol=1e-9
)
x = np.array([0.7, -1.2, 2.0])
errors = check_gradients(Cubes(), (x,), np.ones(3), new_rng(0))
check.close(errors["input"], 0.0, "x**3, with the step that applies where nothing is said", atol=1e-7)
errors = check_gradients(Cubes(), (x,), np.ones(3), new_rng(0), step=0.1)
# ((x + h)**3 - (x - h)**3) / 2 h = 3 x**2 + h**2
check.close(errors["input"], 0.01 / 12.01, "x**3 with a step of 0.1: the difference is too large by h**2", atol=1e-9)
### END HIDDEN TESTS

# %% test="check_gradients" points=2
from coursekit import check

import numpy as np

x, grad = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 2.0]]), np.array([[1.0, -1.0, 2.0], [2.0, 1.0, -1.0]])
layer = Claims(np.array([1.0, -2.0, 0.5]))
layer.weight.grad = np.array([10.0, 20.0, 30.0])
errors = check_gradients(layer, (x,), grad, new_rng(0))
check.close(errors["weight"], 0.0, "a gradient that was there before plays no part", atol=1e-7)
check.close(layer.weight.grad, np.array([10.0, 20.0, 30.0]), "and it is there again afterwards", atol=0.0)
check.close(layer.weight.value, np.array([1.0, -2.0, 0.5]), "the weight is what it was", atol=0.0)
layer = Claims(np.array([1.0, -2.0, 0.5]))
check_gradients(layer, (x,), grad, new_rng(0), samples=2)
check.equal(layer.calls, 9, "with samples=2, forward is called once, and twice for each of 2 + 2 numbers")
layer.astype("float32")
check.raises(ValueError, lambda: check_gradients(layer, (x,), grad, new_rng(0)), "a layer in float32 is refused")
### BEGIN HIDDEN TESTS
draw = np.random.default_rng(check.seed(11))
for samples, shape in ((1, (3, 5)), (4, (1, 5)), (5, (2, 2, 5)), (20, (3, 7)), (6, (2, 4))):
    x, grad, weight = draw.normal(size=shape), draw.normal(size=shape), draw.normal(size=shape[-1:])
    layer = Claims(weight)
    kept = x.copy()
    check_gradients(layer, (x,), grad, new_rng(check.seed(12)), samples=samples)
    case = f"x of shape {shape}, samples={samples}"
    check.equal(layer.calls, 1 + 2 * (min(samples, x.size) + min(samples, len(weight))), f"{case}: calls of forward")
    check.close(
        layer.weight.value,
        weight,
        f"{case}: the weight is what it was, to the last bit",
        atol=0.0,
        rtol=0.0,
        hint="Adding h and taking it away again may leave the last bit different. Keep the old number and write it back.",
    )
    check.close(x, kept, f"{case}: the caller's input is what it was", atol=0.0, rtol=0.0)
    check.close(layer.weight.grad, np.zeros(shape[-1]), f"{case}: the gradient is what it was", atol=0.0, rtol=0.0)
layer, x = Claims(np.ones(40)), np.ones((1, 40))
x.setflags(write=False)
check_gradients(layer, (x,), np.ones((1, 40)), new_rng(0))
check.equal(layer.calls, 81, "twenty samples where nothing is said, and an input that is read-only: calls of forward")
errors = check_gradients(column_by_column(3, 4), (draw.normal(size=(2, 3)),), np.ones((2, 4)), new_rng(0))
check.that(
    max(errors.values()) < 1e-7,
    "a weight in Fortran order, whose gradient is right",
    hint="reshape(-1) and ravel() may give a copy. What is written there moves nothing.",
)
# One number of six is wrong. Whoever checks six different ones finds it, always.
for seed in range(8):
    place = seed % 6
    factors = np.ones(6)
    factors[place] = -1.0
    errors = check_gradients(Claims(np.ones(6), factors), (np.ones((2, 6)),), np.ones((2, 6)), new_rng(seed), samples=6)
    check.close(errors["weight"], 2.0, f"number {place} of 6 is wrong, samples=6: it is found", atol=1e-6)
found = 0
for seed in range(40):
    rng = new_rng(check.seed(13) + seed)
    errors = check_gradients(Claims(np.ones(4), np.array([1, 1, 1, -1.0])), (np.ones((1, 4)),), np.ones((1, 4)), rng, 1)
    found += errors["weight"] > 1
check.that(0 < found < 40, "one number of 4 is wrong, samples=1, forty times: it is found now and then, by chance")
same = [
    check_gradients(Cubes(), (np.arange(50.0),), np.ones(50), new_rng(check.seed(14)), samples=3, step=0.1)["input"]
    for _ in range(2)
]
check.equal(same[0], same[1], "generators with the same seed check the same numbers")
layer = Linear(3, 2, new_rng(1))
layer.bias.value = layer.bias.value.astype("float32")
check.raises(
    ValueError, lambda: check_gradients(layer, (np.ones((2, 3)),), np.ones((2, 2)), new_rng(0)), "one float32 parameter"
)
### END HIDDEN TESTS


# %% alternative="check_gradients"
def relative_error(claimed, measured, floor=1e-5):
    pair = np.stack([np.asarray(claimed), np.asarray(measured)])
    scale = np.maximum(np.max(np.abs(pair)), floor)
    return (np.max(np.abs(np.diff(pair, axis=0))) / scale).item()


def check_gradients(layer, inputs, grad, rng, samples=20, step=1e-5, floor=1e-5):
    for parameter in layer.parameters().values():
        if parameter.value.dtype != "float64":
            raise ValueError("not float64")
    first = inputs[0]
    kept = {name: (p.value, p.grad.copy()) for name, p in layer.parameters().items()}
    for p in layer.parameters().values():
        p.grad = np.zeros_like(p.grad)
    layer.forward(*inputs)
    into = layer.backward(grad)
    claims = {name: p.grad.copy() for name, p in layer.parameters().items()}
    result = {}

    def loss(x):
        return np.vdot(layer.forward(x, *inputs[1:]), grad)

    if into is not None:
        flat, got, want = first.reshape(-1), [], []
        for i in rng.permutation(flat.size)[:samples]:
            up, down = flat.copy(), flat.copy()
            up[i] += step
            down[i] -= step
            want.append((loss(up.reshape(first.shape)) - loss(down.reshape(first.shape))) / 2 / step)
            got.append(np.ravel(into)[i])
        result["input"] = relative_error(got, want, floor)
    for name, p in layer.parameters().items():
        got, want = [], []
        for i in rng.permutation(p.value.size)[:samples]:
            ends = []
            for sign in (1, -1):
                p.value = kept[name][0].copy()
                p.value.flat[i] += sign * step
                ends.append(loss(first))
            p.value = kept[name][0]
            want.append((ends[0] - ends[1]) / 2 / step)
            got.append(claims[name].flat[i])
        result[name] = relative_error(got, want, floor)
        print("checked", name)
    for name, p in layer.parameters().items():
        p.grad = kept[name][1]
    return result


# %% equivalent="check_gradients"
{
    "relative_error(np.array([claimed[place] for place in places]), measured, floor) -> relative_error(measured, np.array([claimed[place] for place in places]), floor)": "the error treats its two arrays alike",
}

# %% mistakes="check_gradients"
{
    "the difference is divided by h, and its two points are 2 h apart": (
        "(losses[0] - losses[1]) / (2 * step)",
        "(losses[0] - losses[1]) / step",
    ),
    "the difference is one-sided: it is measured from w to w + h, with an error that falls with h and not with its square": [
        ("(here + step, here - step)", "(here + step, here)"),
        ("(losses[0] - losses[1]) / (2 * step)", "(losses[0] - losses[1]) / step"),
    ],
    "the difference is taken the wrong way round, below minus above": (
        "(losses[0] - losses[1]) / (2 * step)",
        "(losses[1] - losses[0]) / (2 * step)",
    ),
    "a number that was moved is not put back before the next": ("numbers[place] = here\n", "pass\n"),
    "the old number is computed back and not written back, so its last bit may differ": (
        "numbers[place] = here\n",
        "numbers[place] = here + step - 2 * step + step\n",
    ),
    "a number is moved in a flat copy: where an array is stored column by column, nothing moves": [
        (
            "places = [np.unravel_index(number, numbers.shape) for number in drawn]",
            "flat = numbers.reshape(-1)",
        ),
        ("np.array([slope(numbers, place) for place in places])", "np.array([slope(flat, place) for place in drawn])"),
        (
            "np.array([claimed[place] for place in places]), measured",
            "np.array([claimed.reshape(-1)[place] for place in drawn]), measured",
        ),
    ],
    "the loss is the sum of the output, without the weights in grad": (
        "losses.append((layer.forward(*inputs) * grad).sum())",
        "losses.append(layer.forward(*inputs).sum())",
    ),
    "the loss is the mean of output times grad": (
        "append((layer.forward(*inputs) * grad).sum())",
        "append((layer.forward(*inputs) * grad).mean())",
    ),
    "all numbers of an array are moved at once": ("numbers[place] = moved", "numbers[...] = moved + 0 * numbers"),
    "gradients that were there before are part of the claim": ("layer.zero_grad()  # puts", "# puts"),
    "in the end the gradients are those of the check, and what was there before is lost": (
        "parameter.grad = before[name]",
        "pass",
    ),
    "in the end the gradients are zero": ("parameter.grad = before[name]", "parameter.grad = 0 * before[name]"),
    "the input is not checked": ("{} if into is None else", "{} if True else"),
    "the input comes last among the names": [
        ("arrays = {} if into is None else", "last = {} if into is None else"),
        (
            "arrays |= {name: (parameter.value, parameter.grad) for name, parameter in parameters.items()}",
            "arrays = {name: (parameter.value, parameter.grad) for name, parameter in parameters.items()} | last",
        ),
    ],
    "only the first input reaches forward": [
        ("append((layer.forward(*inputs) * grad)", "append((layer.forward(inputs[0]) * grad)"),
        ("layer.forward(*inputs)\n    into", "layer.forward(inputs[0])\n    into"),
    ],
    "samples is ignored, and every number is checked": ("size=min(samples, numbers.size)", "size=numbers.size"),
    "always the first numbers of an array are checked, and rng is not used": (
        "rng.choice(numbers.size, size=min(samples, numbers.size), replace=False)",
        "range(min(samples, numbers.size))",
    ),
    "the same number may be drawn twice, so others are missed even where all should be checked": (
        "replace=False",
        "replace=True",
    ),
    "one number of each array is checked, whatever samples says": ("size=min(samples, numbers.size)", "size=1"),
    "step is ignored": ("def slope(numbers, place):", "step = 1e-5\n\n    def slope(numbers, place):"),
    "floor is not handed on": ("measured, floor)", "measured)"),
    "float32 is accepted": ("parameter.value.dtype != np.float64", "False"),
    "the difference is divided by the measured size alone": (
        "size = max(np.abs(claimed).max(), np.abs(measured).max())",
        "size = np.abs(measured).max()",
    ),
    "the difference is divided by the claimed size alone": (
        "size = max(np.abs(claimed).max(), np.abs(measured).max())",
        "size = np.abs(claimed).max()",
    ),
    "the difference is divided by the sum of both sizes": (
        "size = max(np.abs(claimed).max(), np.abs(measured).max())",
        "size = np.abs(claimed).max() + np.abs(measured).max()",
    ),
    "the mean difference counts and not the largest": (
        "np.abs(claimed - measured).max()",
        "np.abs(claimed - measured).mean()",
    ),
    "the error is absolute: it is not divided by anything": ("difference / max(size, floor)", "difference"),
    "there is no floor, so noise is divided by noise": (
        "difference / max(size, floor)",
        "difference / (size if size > 0 else 1.0)",
    ),
    "the floor is added to the size": ("max(size, floor)", "(size + floor)"),
    "the difference is taken without its sign being dropped, so a claim that is too small passes": (
        "np.abs(claimed - measured).max()",
        "max((claimed - measured).max(), 0.0)",
    ),
    "each number is divided by its own size, and not by the largest of the array": (
        "return float(difference / max(size, floor))",
        "return float((np.abs(claimed - measured) / np.maximum(np.maximum(np.abs(claimed), np.abs(measured)), floor)).max())",
    ),
    "NaN is passed over": (
        "np.abs(claimed - measured).max()",
        "np.nan_to_num(np.abs(claimed - measured)).max()",
    ),
}

# %% [markdown]
# Let it judge your own model, with its first weights.

# %%
model = LanguageModel(ModelConfig(vocab_size=13, context=8, d_model=8, n_layers=2, n_heads=2, d_ff=16))
rng = np.random.default_rng(0)
ids = rng.integers(13, size=(3, 6))
grad = rng.normal(size=(3, 6, 13))
errors = check_gradients(model, (ids,), grad, rng, samples=3)
found = passes(model, (ids,), grad)  # one forward, one backward, from gradients of zero
for name in sorted(errors, key=errors.get, reverse=True)[:6]:
    print(f"{errors[name]:.0e}  {name:46} largest gradient {np.abs(found['grad.' + name]).max():.0e}")

# %% [markdown]
# At the top of the list stand the two biases of the keys. Their gradient is zero but for rounding. Why? (Add the same vector to all keys. What happens to the scores of a
# query, and what does softmax make of that?) Without the floor the judge would call them wrong.
#
# Behind them come the two tables. Their first numbers are small, with a standard deviation of 0.02, and the norm divides by it. Beside 0.02 a step of $10^{-5}$ is not so small, and the curve is not
# so straight. These first weights are also kind: all biases are zero and all norms are one, and that hides mistakes. Add `rng.normal(0, 0.1, …)` to every parameter and let the judge look again.
#
# ## Exercise 5 · `find_wrong`
#
# Three transformers came back from a reviewer with the words "the loss goes down, merge it". Each has one fault in its backward pass: `plant("A", rng)`, `plant("B", rng)` and
# `plant("C", rng)`. Write the function that finds them.
#
# It returns a list of names, and the order matters. Gradients flow from the output to the input. A fault that spoils what a layer hands *down* makes everything
# below it wrong, however innocent. So read the list from the output: trouble begins to show near the first name. Not always
# exactly there. Names stand in the order in which the parts were made, and a residual makes its norm after its layer. With pre-norm the norm is computed *first*. So on the way back its
# layer comes before it, although the list has them the other way round.
#
# *Difficulty 3 of 5 · 15 minutes · 4 points*


# %% exercise="find_wrong" difficulty=3 minutes=15 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
def find_wrong(
    layer: Layer,
    inputs: tuple,
    grad: np.ndarray,
    rng: np.random.Generator,
    samples: int = 5,
    tolerance: float = 1e-4,
) -> list[str]:
    """The names of all gradients that are wrong, beginning at the output.

    Args:
        layer, inputs, grad, rng, samples: as in `check_gradients`, whose defaults for step and floor apply.
        tolerance: a gradient is right if its relative error is at most this.

    Returns:
        The names that `check_gradients` gives, of those that are not right, in the reverse of its order: the last parameter
        first, and "input" last. An error of NaN is not right. An empty list means that nothing was found.
    """
    ### BEGIN SOLUTION
    errors = check_gradients(layer, inputs, grad, rng, samples=samples)
    return [name for name in reversed(errors) if not errors[name] <= tolerance]  # NaN <= tolerance is False
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>You have a dict of errors. Go through it backwards and keep the names that you want.</details>
# <details><summary>A bigger nudge</summary>What do <code>nan &gt; 1</code> and <code>nan &lt;= 1</code> say in Python? Ask the question for which NaN
# ends up on the list.</details>

# %% test="find_wrong" points=3
from coursekit import check

import numpy as np

draw = np.random.default_rng(3)
x, grad = draw.normal(size=(3, 3, 4)), draw.normal(size=(3, 3, 4))
check.equal(find_wrong(plant(None, new_rng(0)), (x,), grad, new_rng(1), samples=2), [], "a transformer without a fault")
found = find_wrong(plant("A", new_rng(0)), (x,), grad, new_rng(1), samples=2)
check.equal(found, ["blocks.1.feed_forward.layer.outer.bias"], "transformer A")
found = find_wrong(plant("A", new_rng(0)), (x[:1],), grad[:1], new_rng(1), samples=2)
check.equal(found, [], "transformer A with one text only: the fault does not show")
found = find_wrong(plant("B", new_rng(0)), (x,), grad, new_rng(1), samples=2)
check.equal([found[0], found[-1]], ["blocks.0.feed_forward.norm.bias", "input"], "transformer B: first and last name")
found = find_wrong(Cubes(), (np.array([0.01, 0.02]),), np.ones(2), new_rng(1))
check.equal(
    found,
    [],
    "x**3 close to zero, whose backward is right",
    hint="Is the difference in check_gradients central? A one-sided one is off by h / x here, which is 0.001.",
)
### BEGIN HIDDEN TESTS
draw = np.random.default_rng(check.seed(15))
x, grad = draw.normal(size=(3, 3, 4)), draw.normal(size=(3, 3, 4))
names = list(plant(None, new_rng(0)).parameters())
attention = [name for name in names if name.startswith("blocks.1.attention.")]
below = [name for name in names if name.startswith("blocks.0.")]
wanted = {"B": ["input", *below], "C": ["input", *below, *attention]}
for fault, wrong in wanted.items():
    found = find_wrong(plant(fault, new_rng(check.seed(16))), (x,), grad, new_rng(check.seed(17)), samples=2)
    # The bias of the keys has a gradient of zero, right or wrong.
    want = [name for name in reversed(wrong) if "k.bias" not in name]
    check.equal(found, want, f"transformer {fault}, all names")
mask = np.tril(np.ones((3, 3), dtype=bool))
found = find_wrong(plant("A", new_rng(0)), (x, mask), grad, new_rng(0), samples=1)
check.equal(found, ["blocks.1.feed_forward.layer.outer.bias"], "transformer A with a causal mask")
### END HIDDEN TESTS

# %% test="find_wrong" points=1
from coursekit import check

import numpy as np

x, grad, weight = np.ones((2, 3)), np.ones((2, 3)), np.array([1.0, 2.0, 3.0])
check.equal(find_wrong(Claims(weight, 2.0, 2.0), (x,), grad, new_rng(0)), ["weight", "input"], "both wrong: the order")
check.equal(find_wrong(Claims(weight, 2.0), (x,), grad, new_rng(0)), ["weight"], "the weight is wrong")
nan = float("nan")
check.equal(find_wrong(Claims(weight, 1.0, nan), (x,), grad, new_rng(0)), ["input"], "a gradient of NaN is wrong")
check.equal(find_wrong(Claims(weight, 1.1), (x,), grad, new_rng(0), tolerance=0.2), [], "10% off, tolerance 0.2")
### BEGIN HIDDEN TESTS
for factor, tolerance, want in (
    (1.0002, 1e-4, ["weight"]),
    (1.00005, 1e-4, []),
    (0.9998, 1e-4, ["weight"]),
    (1.00005, 1e-5, ["weight"]),
    (1.5, 0.5, []),
    (3.0, 0.5, ["weight"]),
    (-1.0, 2.5, []),
    (0.0, 1.0, []),
    (nan, 1e9, ["weight"]),
):
    found = find_wrong(Claims(weight, factor), (x,), grad, new_rng(check.seed(18)), tolerance=tolerance)
    check.equal(found, want, f"a claim of {factor} times the gradient, tolerance {tolerance:g}")
for factor, want in ((1.0002, ["weight"]), (1.00005, [])):
    found = find_wrong(Claims(weight, factor), (x,), grad, new_rng(check.seed(18)))
    check.equal(
        found, want, f"a claim of {factor} times the gradient, the tolerance that applies where nothing is said"
    )
wide = np.ones(40)
for samples in (1, 3, 30):
    layer = Claims(wide)
    found = find_wrong(layer, (np.ones((1, 40)),), np.ones((1, 40)), new_rng(0), samples=samples)
    check.equal([found, layer.calls], [[], 1 + 4 * samples], f"samples={samples}: nothing is wrong; calls of forward")
layer = Claims(wide)
find_wrong(layer, (np.ones((1, 40)),), np.ones((1, 40)), new_rng(0))
check.equal(layer.calls, 21, "five samples where nothing is said: calls of forward")
layer = Claims(np.array([3.0]))
layer.weight.grad = np.array([7.0])
check.equal(find_wrong(layer, (np.ones((2, 1)), 5.0), np.ones((2, 1)), new_rng(0)), [], "with a further input")
check.close(float(layer.plus), 5.0, "a further input is handed on to forward")
check.close(layer.weight.grad, np.array([7.0]), "the gradient is what it was before", atol=0.0)
ids, grad = np.array([[1, 1, 0]]), np.arange(1.0, 7.0).reshape(1, 3, 2)
check.equal(find_wrong(Embedding(4, 2, new_rng(0)), (ids,), grad, new_rng(0)), [], "an Embedding, which is right")
### END HIDDEN TESTS


# %% alternative="find_wrong"
def find_wrong(layer, inputs, grad, rng, samples=5, tolerance=1e-4):
    suspects = []
    for name, error in check_gradients(layer, inputs, grad, rng, samples).items():
        print(name, error)
        if np.isnan(error) or error > tolerance:
            suspects.insert(0, name)
    return suspects


# %% mistakes="find_wrong"
{
    "NaN passes for right, because it is not larger than the tolerance": (
        "if not errors[name] <= tolerance",
        "if errors[name] > tolerance",
    ),
    "the names stand in the order of check_gradients, the input first": ("in reversed(errors)", "in errors"),
    "the names are sorted by their letters": ("in reversed(errors)", "in sorted(errors)"),
    "the names are sorted by their errors, the largest first": (
        "in reversed(errors)",
        "in sorted(errors, key=errors.get, reverse=True)",
    ),
    "the right ones are listed and not the wrong ones": ("if not errors[name] <=", "if errors[name] <="),
    "only the first wrong name is listed": (
        "return [name for name in reversed(errors) if not errors[name] <= tolerance]",
        "return [name for name in reversed(errors) if not errors[name] <= tolerance][:1]",
    ),
    "the input is left out": (
        "if not errors[name] <= tolerance",
        'if name != "input" and not errors[name] <= tolerance',
    ),
    "the tolerance is ignored": ("<= tolerance]", "<= 1e-4]"),
    "samples is not handed on": (", samples=samples)", ")"),
    "further inputs are not handed on": ("check_gradients(layer, inputs,", "check_gradients(layer, inputs[:1],"),
    "an error that equals the tolerance counts as wrong, and the docstring says at most": (
        "if not errors[name] <= tolerance",
        "if not errors[name] < tolerance",
    ),
    "all names are listed if one is wrong": (
        "if not errors[name] <= tolerance]",
        "if not max(errors.values()) <= tolerance]",
    ),
    "the list has names with their errors": ("return [name for", "return [(name, errors[name]) for"),
}

# %% [markdown]
# ## Look at it
#
# Now look at all three transformers at once. Each row is a layer, those near the output on top; the colour is the larger error of its weight and its bias. Hover to see the number.

# %%
draw = np.random.default_rng(3)
x, grad = draw.normal(size=(3, 5, 4)), draw.normal(size=(3, 5, 4))
columns = []
for fault in (None, "A", "B", "C"):
    errors, worst = check_gradients(plant(fault, new_rng(0)), (x,), grad, new_rng(1), samples=3), {}
    for name, value in errors.items():
        layer = name.replace(".weight", "").replace(".bias", "").replace(".layer", "")
        worst[layer] = max(worst.get(layer, 0.0), value)
    columns.append(worst)
figure = go.Figure(
    go.Heatmap(
        x=["no fault", "A", "B", "C"],
        y=[layer.replace("blocks.", "block ").replace(".", " ", 1) for layer in columns[0]],
        z=[[np.log10(max(column[layer], 1e-12)) for column in columns] for layer in columns[0]],
        customdata=[[f"{column[layer]:.1e}" for column in columns] for layer in columns[0]],
        zmin=-10,
        zmax=0,
        colorscale=plots.WEIGHTS,
        xgap=2,
        ygap=1,
        colorbar={"title": "error", "tickvals": [-10, -5, 0], "ticktext": ["1e-10", "1e-5", "1"], "thickness": 12},
        hovertemplate="%{y}, %{x}: %{customdata}<extra></extra>",
    )
)
figure.update_xaxes(title_text="transformer", showgrid=False)
figure.update_yaxes(title_text="layer", showgrid=False, dtick=1)
figure.update_layout(height=460)
figure.show()

# %% [markdown]
# In column A one field is wrong, and the layer is found. In B and C everything below some line is wrong. The fault sits at the line. To find the
# last layer that is right and the first that is not, follow the flow, and not the rows: on the way back it goes through a layer, then through its norm. For the attention that is `o`, then `q`, `k`
# and `v`, then `norm`. What hands its gradient across the line? (The fields of `k` are bluer than their neighbours even without a fault: that is the bias whose gradient is zero, held down by the floor.)
# Now read `spoil`, at the top of this notebook. Were you right?
#
# And the reviewer? The loss *does* go down. Below, a small language model learns texts in which every token is the one three places before it. It is trained four times, with the same numbers
# at the start and the same texts. The training step is Adam, which you write in the next lab.

# %%
CrossEntropy = carry("ch00/lab06", "CrossEntropy")  # forward(logits, targets) -> loss; backward() -> for the logits


def train(fault, steps=300):
    model = LanguageModel(ModelConfig(vocab_size=8, context=11, d_model=16, n_layers=2, n_heads=2, d_ff=32))
    spoil(model.transformer, fault)
    loss_of, rng, losses = CrossEntropy(), np.random.default_rng(0), []
    parameters = list(model.parameters().values())
    means = [(np.zeros_like(p.value), np.zeros_like(p.value)) for p in parameters]
    for step in range(1, steps + 1):
        texts = np.tile(rng.integers(8, size=(16, 3)), (1, 4))  # (16, 12): three random tokens, four times
        losses.append(loss_of(model(texts[:, :-1])[:, 2:], texts[:, 3:]))
        grad = np.zeros((16, 11, 8))
        grad[:, 2:] = loss_of.backward()  # the first three tokens cannot be guessed
        model.zero_grad()
        model.backward(grad)
        for p, (first, second) in zip(parameters, means, strict=True):
            first += 0.1 * (p.grad - first)
            second += 0.001 * (p.grad**2 - second)
            p.value -= 0.003 * first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return losses


figure = go.Figure()
for fault in (None, "A", "B", "C"):
    losses = train(fault)
    name = "no fault" if fault is None else f"fault {fault}"
    smooth = np.convolve(losses, np.ones(10) / 10, mode="valid")
    print(f"{name}: loss at first {losses[0]:.2f}, after 100 steps {smooth[90]:.3f}, at the end {smooth[-1]:.3f}")
    figure.add_scatter(y=smooth, name=name, mode="lines", hovertemplate="step %{x}: loss %{y:.3f}")
figure.update_xaxes(title_text="step (mean of ten)")
figure.update_yaxes(title_text="loss in nats")
figure.update_layout(height=380, legend={"orientation": "h", "y": 1.12})
figure.show()

# %% [markdown]
# No curve looks broken, and all four models learn the task. Which of the three faults would you have noticed, had you seen only that one? Nobody draws the curve "no fault" for you. Fault A cannot even be told from it: Adam divides each
# gradient by its own size, so a bias whose gradient is sixteen times too small moves as fast as before. (The sixteen texts of the batch.) With another optimiser it would matter.
#
# B may even be ahead for a while. One run with one seed proves nothing about how much a fault costs; it shows that the loss does not report it.
#
# What would you make of a model that trains, and a little worse than you had hoped?
#
# ## Common mistakes
#
# - **A use that is forgotten.** The table at the other end of the model, the road around a layer, the second and third projection of a token. The gradient has the right shape, and some of its
#   summands are missing. Count the uses on the way there, and look for as many gradients on the way back.
# - **`=` where `+=` belongs.** With a shared parameter the last `backward` wins. In this model that is the lookup, and the head no longer teaches the table anything.
# - **One forward too many.** A layer answers for its *last* `forward`. Evaluate on other data between `forward` and `backward`, and the gradient is about that. The shapes may even agree.
# - **A mean in the middle.** The mean over the batch is part of the loss and is in `grad` already.
# - **A check that cannot fail.** One text, equal sizes, distinct ids, zero biases: each hides a mistake. Give the judge odd sizes, three texts and ids that repeat.
# - **A check that cannot pass.** In float32, or with h = 1e-12, or without a floor, right gradients look wrong. Then people raise the tolerance until it passes, and with it everything else does.
# - **Padding hidden in one place of two.** Attention that looks at padding and a pool that skips it: the logits of a text then depend on how long the longest text of its batch was.
#
# [Lab 0.8](lab08_training_loop.ipynb) makes the steps: SGD, Adam, clipping, and a training loop that can be stopped and resumed. What gradients do in deep models
# of torch is the subject of [Lab 4.2](../ch04_training/lab02_gradient_visualization.ipynb).
#
# ## Going further
#
# - **A tape.** Let each layer append its `backward` to a list when its `forward` runs, and play the list backwards. Now `Transformer.backward` need not be written at all. What do you have to do about the forks? (Atılım Güneş
#   Baydin, Barak Pearlmutter, Alexey Radul, Jeffrey Mark Siskind, Automatic Differentiation in Machine Learning: a Survey, 2018.)
# - **Less memory.** Keep only the input of each block. On the way back, run its forward again before its backward. The gradients must be the same to the last bit; count what it costs and what it saves. (Tianqi Chen, Bing Xu, Chiyuan Zhang, Carlos
#   Guestrin, Training Deep Nets with Sublinear Memory Cost, 2016.)
# - **All parameters at once.** Draw a random direction for all parameters together and compare one central difference along it with the dot product of the direction and all gradients. Two forward passes check the whole model. What can this check
#   not tell you?
