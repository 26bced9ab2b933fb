# ---
# title: Embeddings and positions
# lab: ch00/lab01
# minutes: 100
# difficulty: 2
# hardware: cpu
# needs: []
# builds: [xavier_uniform, Embedding, sinusoidal, shift_matrix, LearnedPositions, InputLayer]
# ---

# %% [markdown]
# # Lab 0.1 · Embeddings and positions
#
# ## The idea
#
# This chapter builds a transformer out of nothing but NumPy arrays, and trains it. No library computes a gradient for
# you: every layer has a `forward`, and a `backward` that you derive and write yourself. At the end a model of your own
# adds numbers: it reads `37+45=` and writes `82`.
#
# The model multiplies and adds vectors, and `37+45=` is six characters. So the first layer is a table. Each character
# has a number, its *id*, and the table has one row for each id. To read the text is to look up six rows. Which numbers
# stand in the rows? Random ones, at first. Training moves them.
#
# Here is a table of three rows with two features, and the text has the ids 2, 0, 2:
#
# $$ \begin{pmatrix} 1 & 2 \\ 3 & 4 \\ 5 & 6 \end{pmatrix} \quad\longrightarrow\quad
# \begin{pmatrix} 5 & 6 \\ 1 & 2 \\ 5 & 6 \end{pmatrix} $$
#
# Now backwards. Somebody further on tells the layer how the loss $L$ would change with each number that it has put
# out: $\partial L/\partial(\text{output})$, say $(1, 0)$, $(0, 1)$ and $(10, 20)$ for the three tokens. How does the
# loss change with the table? Row 0 was used once and gets $(0, 1)$. Row 1 was not used: zero. Row 2 was used twice. If
# it moves, both tokens move, so it gets the sum, $(1, 0) + (10, 20) = (11, 20)$. *What was used several times collects the
# gradient of each use.* Remember that sentence. Many a mistake in this chapter is a gradient that forgot it.
#
# A row says which character it is, and not where it stands. Attention, which comes next, takes its rows as a bag: to it
# `37` is `73`, unless you put the place into the numbers. You do it in two ways: with a fixed pattern of waves, and
# with a second table that is learned.
#
# One more thing has to be right before the first step of training: how large the random numbers are. Multiply by a
# matrix of numbers that are too small, thirty times over, and nothing arrives at the other end.
#
# The page [From tokens to vectors](../../book/ch00_numpy/embeddings_and_positions.md) explains and measures all of this.
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `ids` | `(...)`, mostly `(B, T)`, integers | B texts of T tokens; an id is between 0 and V - 1, where V is the number of different tokens |
# | `Embedding.weight` | `(V, d_model)` | one row for each token, of d_model features |
# | `x` | `(..., T, d_model)` | the vectors of the tokens; features on the last axis, batches in front |
# | `LearnedPositions.weight` | `(max_T, d_model)` | one row for each position |
# | `sinusoidal(T, d_model)` | `(T, d_model)` | the fixed table of positions |
# | `grad` | as the layer's output | $\partial L/\partial(\text{output})$ |
# | `parameter.grad` | shape and dtype of `parameter.value` | $\partial L/\partial(\text{parameter})$, added up since `zero_grad` |
# | `xavier_uniform(...)` | `(d_in, d_out)` | a matrix for `x @ weight` |
#
# The cell below holds all the machinery that the chapter has. Read it, it is short. A `Parameter` is an array with its
# gradient. A `Layer` computes and remembers (`forward`), then answers for what it has computed last (`backward`).
#
# Behind each exercise stand cells that check it. A check that holds prints nothing; one that does not says what is wrong. `course check ch00/lab01`, in a
# terminal, runs the hidden ones too and shows your points.

# %% given
import numpy as np


class Parameter:
    """An array that is learned, and the gradient of the loss for it."""

    def __init__(self, value: np.ndarray):
        self.value = np.array(value, dtype=np.float64)
        self.grad = np.zeros_like(self.value)


class Layer:
    """One step of a model, with its derivative. A layer of your own writes `forward` and `backward`."""

    def forward(self, x):
        """Compute the output, and keep in ``self`` whatever `backward` will need."""
        raise NotImplementedError

    def backward(self, grad):
        """From dL/d(output) of the last `forward` to dL/d(input). Adds to the `grad` of each parameter on the way."""
        raise NotImplementedError

    def __call__(self, *inputs, **options):
        return self.forward(*inputs, **options)

    def parameters(self) -> dict[str, Parameter]:
        """Every parameter by its name, such as "blocks.0.norm.weight"; one that is shared only under its first name."""
        first = {}
        for name, parameter in _walk(self):
            first.setdefault(id(parameter), (name, parameter))
        return dict(first.values())

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters().values():
            parameter.grad = np.zeros_like(parameter.value)

    def astype(self, dtype) -> "Layer":
        """Cast all parameters in place: "float32" is faster, float64 is exact."""
        for parameter in self.parameters().values():
            parameter.value, parameter.grad = parameter.value.astype(dtype), parameter.grad.astype(dtype)
        return self


def _walk(part, *path):
    """The parameters among a layer's attributes, in its sublayers and in lists of them, each with its dotted name."""
    # Not isinstance: layers that come from several labs do not share one class Layer.
    if isinstance(part, list) or hasattr(part, "parameters"):
        for key, inner in enumerate(part) if isinstance(part, list) else vars(part).items():
            yield from _walk(inner, *path, str(key))
    elif hasattr(part, "grad"):
        yield ".".join(path), part


def passes(layer: Layer, inputs: tuple, grad: np.ndarray) -> dict[str, np.ndarray]:
    """For the tests: one forward and one backward pass, with gradients that start at zero.

    Returns copies: "output", "grad" (for the first input; left out where `backward` returns None), and "grad.NAME" for
    every parameter.
    """
    inputs = [np.array(x) if isinstance(x, np.ndarray) else x for x in inputs]
    layer.zero_grad()
    output = np.array(layer.forward(*inputs))
    into = layer.backward(np.array(grad))
    found = {"output": output} if into is None else {"output": output, "grad": np.array(into)}
    return found | {f"grad.{name}": np.array(parameter.grad) for name, parameter in layer.parameters().items()}


# %% given side="learner"
def new_rng(seed: int) -> np.random.Generator:
    """For the tests: a source of random numbers. Tests may run in another process and cannot pass one of their own."""
    return np.random.default_rng(seed)


# %% [markdown]
# ## A picture
#
# The gradient of a table is a sum for each character, over all places where it stands. NumPy has an obvious way to write such a
# sum, and it is wrong. Below, the letters of a sentence are counted twice: once with Python, and once with `counts[ids] += 1`.

# %%
import plotly.graph_objects as go

from coursekit import plots

sentence = "she sells sea shells by the sea shore"
letters = sorted(set(sentence.replace(" ", "")))
ids = np.array([letters.index(letter) for letter in sentence if letter != " "])
counts = np.zeros(len(letters), dtype=int)
counts[ids] += 1
figure = go.Figure()
figure.add_bar(x=letters, y=[sentence.count(letter) for letter in letters], name="occurs")
figure.add_bar(x=letters, y=counts, name="counts[ids] += 1")
figure.update_traces(hovertemplate="%{x}: %{y}<extra>%{fullData.name}</extra>")
figure.update_xaxes(title_text="letter")
figure.update_yaxes(title_text="times")
figure.update_layout(height=340, barmode="group", legend={"orientation": "h", "y": 1.15})
figure.show()

# %% [markdown]
# NumPy first reads `counts[ids]`, all entries at once, adds 1 to each of the copies, and writes them back. The eight
# copies of the entry for *s* all say 1, and the last one stays. No error, no warning. In a model it means that the gradient of a
# token comes from one of its places in the batch, and that the others are lost. It still trains.
#
# ## Exercise 1 · `xavier_uniform`
#
# First the size of random numbers. Let the entries of `x` be independent with mean 0 and variance 1, and those of
# `weight` independent with mean 0 and variance $s$. An entry of `x @ weight` is a sum of $d_\text{in}$ products, so it has
# variance $d_\text{in}\, s$. To keep it at 1, take $s = 1/d_\text{in}$. On the way back the gradient is multiplied by the transpose, and
# the same argument asks for $s = 1/d_\text{out}$. Glorot and Bengio settle between the two, with
# $s = 2 / (d_\text{in} + d_\text{out})$. (The method goes by Xavier Glorot's first name.)
#
# Random numbers come from a generator that is handed in, `rng`, such as `np.random.default_rng(0)`. Who gives the same seed gets the
# same model, and nobody else's draws get in between.
#
# *Difficulty 1 of 5 · 10 minutes · 3 points*


# %% exercise="xavier_uniform" difficulty=1 minutes=10 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
def xavier_uniform(rng: np.random.Generator, d_in: int, d_out: int) -> np.ndarray:
    """First values for a matrix, of a size that lets signals through in both directions.

    Args:
        rng: all random numbers come from it, and from nothing else. It is used up a little: the next call gives
            another matrix.
        d_in, d_out: features before and after ``x @ weight``, each at least 1.

    Returns:
        float64 array (d_in, d_out). Its entries are independent and uniform on an interval from -a to a, with a chosen so
        that their variance is 2 / (d_in + d_out).

    Source: Glorot and Bengio, Understanding the Difficulty of Training Deep Feedforward Neural Networks, 2010.
    """
    ### BEGIN SOLUTION
    a = np.sqrt(6 / (d_in + d_out))  # numbers uniform between -a and a have the variance a**2 / 3
    return rng.uniform(-a, a, size=(d_in, d_out))
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>The variance of a number with mean 0 is the mean of its square. For one that is uniform between -1 and 1, that is
# the mean height of a parabola.</details>
# <details><summary>A bigger nudge</summary>Uniform between -1 and 1 has variance 1/3, so uniform between -a and a has variance a²/3. Set it equal to
# the variance that you want, and solve for a. <code>rng.uniform</code> takes the two ends and a size.</details>

# %% test="xavier_uniform" points=2
from coursekit import check

import numpy as np

weight = np.asarray(xavier_uniform(new_rng(0), 64, 36))
check.equal(list(weight.shape), [64, 36], "the shape of the matrix from 64 to 36 features, for use as x @ weight")
check.close(float((weight**2).mean() * 50), 1.0, "64 to 36 features: the mean square, 2 / 100, times 50", atol=0.12)
### BEGIN HIDDEN TESTS
import torch

shares = np.array([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
for d_in, d_out in ((150, 400), (400, 150), (1, 60_000), (60_000, 1), (245, 245)):
    case = f"{d_in} to {d_out} features"
    weight = np.asarray(xavier_uniform(new_rng(check.seed(d_in)), d_in, d_out))
    check.equal(list(weight.shape), [d_in, d_out], f"{case}: the shape")
    check.equal(str(weight.dtype), "float64", f"{case}: the dtype")
    drawn = torch.empty(d_out, d_in, dtype=torch.float64)
    torch.nn.init.xavier_uniform_(drawn, generator=torch.Generator().manual_seed(check.seed(d_out)))
    unit = (2 / (d_in + d_out)) ** 0.5
    # 60,000 numbers: their mean square is within 0.4% of the variance two times in three, the median within 0.007 units.
    check.close(
        float((weight**2).mean() / unit**2),
        1.0,
        f"{case}: the mean square, divided by 2 / (d_in + d_out)",
        atol=0.04,
        hint="Uniform between -a and a has the variance a**2 / 3, and not a or a**2.",
    )
    check.close(
        np.quantile(weight, shares) / unit,
        np.quantile(drawn.numpy(), shares) / unit,
        f"{case}: the smallest number, the quantiles and the largest are those of torch's xavier_uniform_, in units of "
        "the standard deviation",
        atol=0.08,
    )
### END HIDDEN TESTS

# %% test="xavier_uniform" points=1
from coursekit import check

import numpy as np

first, again = (np.asarray(xavier_uniform(new_rng(7), 5, 3)) for _ in range(2))
check.that(np.array_equal(first, again), "generators with the same seed give the same matrix")
### BEGIN HIDDEN TESTS
other = np.asarray(xavier_uniform(new_rng(check.seed(8) + 1), 5, 3))
check.that(not np.array_equal(first, other), "another seed gives another matrix", hint="Draw from rng.")
rng = new_rng(check.seed(1))
one, two = (np.asarray(xavier_uniform(rng, 300, 200)) for _ in range(2))
check.that(not np.array_equal(one, two), "the same generator, used twice, gives two matrices")
# Products of independent entries: correlations of 300 or 200 pairs, of 0.06 or 0.07 two times in three.
for what, product, count in (
    ("rows", one @ one.T, 200),
    ("columns", one.T @ one, 300),
    ("both matrices", one @ two.T, 200),
):
    correlation = product * 250 / count
    if what != "both matrices":
        correlation = correlation - np.diag(np.diag(correlation))
    check.that(np.abs(correlation).max() < 0.6, f"the {what} are independent of each other")
### END HIDDEN TESTS


# %% alternative="xavier_uniform"
def xavier_uniform(rng, d_in, d_out):
    print("drawing", d_in * d_out, "numbers")
    spread = (2 / (d_in + d_out)) ** 0.5
    half_width = spread * 3**0.5
    return np.stack([half_width * (1 - 2 * rng.random(d_out)) for _ in range(d_in)])


# %% mistakes="xavier_uniform"
{
    "a is the standard deviation that the numbers should have, so their variance is a third of it": (
        "np.sqrt(6 / (d_in + d_out))",
        "np.sqrt(2 / (d_in + d_out))",
    ),
    "a is the variance that the numbers should have": ("np.sqrt(6 / (d_in + d_out))", "2 / (d_in + d_out)"),
    "the root is missing: a is 6 / (d_in + d_out)": ("np.sqrt(6 / (d_in + d_out))", "6 / (d_in + d_out)"),
    "only d_in counts: the variance is 1 / d_in": ("np.sqrt(6 / (d_in + d_out))", "np.sqrt(3 / d_in)"),
    "only d_out counts: the variance is 1 / d_out": ("np.sqrt(6 / (d_in + d_out))", "np.sqrt(3 / d_out)"),
    "the variance is 1 / (d_in + d_out)": ("np.sqrt(6 /", "np.sqrt(3 /"),
    "the variance is 1 / sqrt(d_in * d_out), the other mean of the two": (
        "np.sqrt(6 / (d_in + d_out))",
        "np.sqrt(3 / np.sqrt(d_in * d_out))",
    ),
    "d_in and d_out are multiplied and not added": ("6 / (d_in + d_out)", "6 / (d_in * d_out)"),
    "the numbers lie between 0 and a, so their mean is not zero": ("rng.uniform(-a, a,", "rng.uniform(0, a,"),
    "the numbers lie between 0 and 2 a": ("rng.uniform(-a, a,", "rng.uniform(0, 2 * a,"),
    "the numbers are normal, with the right variance": (
        "rng.uniform(-a, a, size=(d_in, d_out))",
        "rng.normal(0, a / np.sqrt(3), size=(d_in, d_out))",
    ),
    "the numbers are normal with standard deviation a": (
        "rng.uniform(-a, a, size=(d_in, d_out))",
        "rng.normal(0, a, size=(d_in, d_out))",
    ),
    "the shape is (d_out, d_in), as torch's nn.Linear has it, for use as x @ weight.T": (
        "size=(d_in, d_out)",
        "size=(d_out, d_in)",
    ),
    "every row is the same": (
        "rng.uniform(-a, a, size=(d_in, d_out))",
        "np.tile(rng.uniform(-a, a, size=d_out), (d_in, 1))",
    ),
    "every column is the same": (
        "rng.uniform(-a, a, size=(d_in, d_out))",
        "np.tile(rng.uniform(-a, a, size=(d_in, 1)), (1, d_out))",
    ),
    "rng is ignored: every call draws from a generator of its own with seed 0": (
        "rng.uniform(",
        "np.random.default_rng(0).uniform(",
    ),
    "the numbers come from NumPy's global state and not from rng": ("rng.uniform(", "np.random.uniform("),
    "rng is copied before it is used, so the next call gives the same matrix": (
        "return rng.uniform(",
        "import copy\n    return copy.deepcopy(rng).uniform(",
    ),
    "the matrix is float32": (
        "rng.uniform(-a, a, size=(d_in, d_out))",
        "rng.uniform(-a, a, size=(d_in, d_out)).astype(np.float32)",
    ),
}

# %% [markdown]
# Does it hold what the argument promises? A signal goes through thirty matrices of 100 by 100, and comes back through their
# transposes. The numbers are standard deviations; at the start it is 1.

# %%
rng = np.random.default_rng(0)
draws = {
    "standard deviation 0.02": lambda: rng.normal(0, 0.02, size=(100, 100)),
    "xavier_uniform": lambda: xavier_uniform(rng, 100, 100),
    "standard deviation 0.2": lambda: rng.normal(0, 0.2, size=(100, 100)),
}
print("after                     1 layer    10 layers    30 layers    and back again")
for name, draw in draws.items():
    matrices = [draw() for _ in range(30)]
    signals = [rng.normal(size=(200, 100))]
    for weight in matrices:
        signals.append(signals[-1] @ weight)
    back = rng.normal(size=(200, 100))
    for weight in reversed(matrices):
        back = back @ weight.T
    sizes = "".join(f"{signals[depth].std():13.2g}" for depth in (1, 10, 30))
    print(f"{name:24}{sizes}{back.std():13.2g}")

# %% [markdown]
# You will need `xavier_uniform` in the next lab, for every matrix there is. A table is another matter: nothing is summed over
# its rows, so the argument does not apply.
#
# ## Exercise 2 · `Embedding`
#
# Now the table, and your first backward pass. An embedding sums nothing, so small numbers do no harm in it. The first values are those
# of GPT-2: normal, with a standard deviation of 0.02. Keep the table in `self.weight = Parameter(...)`; `parameters()` then finds it.
#
# *Difficulty 2 of 5 · 25 minutes · 6 points*


# %% exercise="Embedding" difficulty=2 minutes=25 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
class Embedding(Layer):
    """A table with one vector for each token.

    Args:
        vocab_size: V, the number of different tokens.
        d_model: features of a vector.
        rng: all random numbers come from it.

    Parameters:
        ``weight`` (vocab_size, d_model), float64. At first its entries are independent and normal with mean 0 and
        standard deviation 0.02.
    """

    def __init__(self, vocab_size: int, d_model: int, rng: np.random.Generator):
        ### BEGIN SOLUTION
        self.weight = Parameter(rng.normal(0, 0.02, size=(vocab_size, d_model)))
        ### END SOLUTION

    def forward(self, ids: np.ndarray) -> np.ndarray:
        """Look up the row of each token.

        Args:
            ids: integers of any integer dtype, with any number of axes, from none to many. There may be no ids at all: an
                axis of length 0.

        Returns:
            Array (..., d_model) of the weight's dtype: the shape of ids, and the features behind it.

        Raises:
            IndexError: if an id is negative, or has no row. (NumPy would count a negative one from the end.)
        """
        ### BEGIN SOLUTION
        self.ids = np.asarray(ids)
        if np.any(self.ids < 0):
            raise IndexError(f"an id is at least 0, got {self.ids.min()}")
        return self.weight.value[self.ids]  # (..., d_model); NumPy itself refuses an id that is too large
        ### END SOLUTION

    def backward(self, grad: np.ndarray) -> None:
        """Add to ``weight.grad`` what the last `forward` is responsible for.

        Args:
            grad: (..., d_model), the gradient of the loss for the output of the last `forward`.

        Each row gets the sum of the gradients of all places where its token stood, on top of what ``weight.grad`` held
        before. Rows that were not looked up get nothing. ``weight.grad`` keeps its dtype: float32 stays float32. Returns None: an id is a name and no quantity, so there is
        no gradient for it.
        """
        ### BEGIN SOLUTION
        np.add.at(self.weight.grad, self.ids, grad)  # adds once for each id, also where ids repeat
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>NumPy takes a whole array of ids where you would write one: that is all of <code>forward</code>, but for the ids that
# must be refused. For <code>backward</code>, think of a loop over all tokens of the batch. What does it do for each?</details>
# <details><summary>A bigger nudge</summary>A loop that adds one gradient to one row at a time is right, and slow. NumPy's operators have a method
# <code>at</code> for exactly this: unlike <code>a[ids] += b</code> it adds as often as an id occurs. It takes the array, the ids and what is to be added, with as
# many axes of ids as you like.</details>

# %% test="Embedding" points=2
from coursekit import check

import numpy as np

layer = Embedding(3, 2, new_rng(0))
check.equal(list(layer.parameters()), ["weight"], "the names of the parameters", hint="self.weight = Parameter(...)")
layer.weight.value = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
check.close(
    layer.forward(np.array([2, 0, 2])), np.array([[5.0, 6.0], [1.0, 2.0], [5.0, 6.0]]), "the ids 2, 0, 2, looked up"
)
check.equal(
    list(np.shape(layer.forward(np.zeros((4, 6), dtype=int)))), [4, 6, 2], "the output of a batch of 4 texts of 6"
)
check.raises(IndexError, lambda: layer.forward(np.array([1, -1])), "the id -1 is refused")
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(1))
cases = (((3, 7), 11, 5, "int64"), ((1, 63), 4, 3, "int32"), ((2, 3, 4), 6, 1, "uint8"), ((), 5, 4, "int64"))
for shape, vocab_size, d_model, dtype in (*cases, ((9,), 1, 6, "int16")):
    case = f"ids of shape {shape} and dtype {dtype}, {vocab_size} tokens, d_model={d_model}"
    table = draw.normal(size=(vocab_size, d_model))
    ids = np.asarray(draw.integers(vocab_size, size=shape)).astype(dtype)
    layer = Embedding(vocab_size, d_model, new_rng(0))
    layer.weight.value = table
    want = torch.nn.functional.embedding(torch.tensor(ids.astype("int64")), torch.tensor(table)).numpy()
    check.close(layer.forward(ids), want, f"{case}: as F.embedding", atol=0.0, rtol=0.0)
    check.close(layer(ids), want, f"{case}: called as layer(ids)", atol=0.0, rtol=0.0)
ids = np.array([[4, 0, 1], [4, 2, 3]])
layer = Embedding(5, 2, new_rng(0))
layer.astype("float32")
check.equal(str(layer.forward(ids).dtype), "float32", "the dtype of the output after astype('float32')")
for bad in (-1, -5, 5, 6, 99):
    check.raises(
        IndexError, lambda bad=bad: layer.forward(np.array([[0, bad], [4, 1]])), f"the id {bad} among five rows"
    )
    check.raises(IndexError, lambda bad=bad: layer.forward(np.array(bad)), f"the id {bad} alone")
check.equal(list(np.shape(layer.forward(ids))), [2, 3, 2], "after ids that were refused, good ones are looked up again")
### END HIDDEN TESTS

# %% test="Embedding" points=3
from coursekit import check

import numpy as np

layer = Embedding(3, 2, new_rng(0))
layer.forward(np.array([[0, 1]]))
result = layer.backward(np.array([[[1.0, 2.0], [3.0, 4.0]]]))
want = np.array([[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]])
check.close(layer.weight.grad, want, "the ids 0, 1: each row gets the gradient of its token, and row 2 was not used")
check.equal(result is None, True, "backward returns None: there is no gradient for an id")
layer.forward(np.array([[2, 0, 2]]))
layer.backward(np.array([[[1.0, 0.0], [0.0, 1.0], [10.0, 20.0]]]))
want = np.array([[1.0, 3.0], [3.0, 4.0], [11.0, 20.0]])
check.close(layer.weight.grad, want, "then the ids 2, 0, 2, with the gradients from the text, on top of what was there")
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(2))
for shape, vocab_size, d_model in (
    ((3, 7), 11, 5),
    ((1, 63), 4, 3),
    ((5, 4, 3), 4, 1),
    ((), 5, 4),
    ((9,), 1, 6),
):
    case = f"ids of shape {shape}, {vocab_size} tokens, d_model={d_model}"
    table, grad = draw.normal(size=(vocab_size, d_model)), draw.normal(size=(*shape, d_model))
    ids = np.asarray(draw.integers(vocab_size, size=shape))
    layer = Embedding(vocab_size, d_model, new_rng(0))
    layer.weight.value = table
    leaf = torch.tensor(table, requires_grad=True)
    torch.nn.functional.embedding(torch.tensor(ids), leaf).backward(torch.tensor(grad))
    found = passes(layer, (ids,), grad)["grad.weight"]
    check.close(found, leaf.grad.numpy(), f"{case}: the gradient of F.embedding", atol=1e-8, rtol=1e-8)

# Against the definition: move one number of the table a little, and watch the loss.
table, direction = draw.normal(size=(4, 3)), draw.normal(size=(2, 9, 3))
ids, step = draw.integers(4, size=(2, 9)), 1e-4
layer = Embedding(4, 3, new_rng(0))
layer.weight.value = table
found = passes(layer, (ids,), direction)["grad.weight"]
for place in ((0, 0), (1, 2), (3, 1)):
    losses = []
    for sign in (1, -1):
        moved = table.copy()
        moved[place] += sign * step
        layer.weight.value = moved
        losses.append((layer.forward(ids) * direction).sum())
    slope = (losses[0] - losses[1]) / (2 * step)
    check.close(float(found[place]), float(slope), f"weight.grad{list(place)} is the slope of the loss", atol=1e-7)

layer = Embedding(6, 2, new_rng(0))
layer.forward(np.array([[1, 1, 2]]))
layer.forward(np.array([5, 0]))
layer.backward(np.array([[1.0, 2.0], [3.0, 4.0]]))
want = np.zeros((6, 2))
want[5], want[0] = [1.0, 2.0], [3.0, 4.0]
check.close(layer.weight.grad, want, "two forwards, then a backward: it is about the second forward")
layer.forward(np.array([[5], [3]]))
layer.backward(np.array([[[10.0, 20.0]], [[30.0, 40.0]]]))
want[5], want[3] = [11.0, 22.0], [30.0, 40.0]
check.close(layer.weight.grad, want, "another batch, of another shape: its gradient comes on top")
across = np.arange(12.0).reshape(3, 4).T  # four rows, not contiguous
layer = Embedding(2, 3, new_rng(0))
found = passes(layer, (np.array([[1, 0], [1, 1]]).T.ravel(),), across)["grad.weight"]
check.close(found, np.stack([across[2], across[[0, 1, 3]].sum(axis=0)]), "a gradient that is not contiguous")
layer.astype("float32")
found = passes(layer, (np.array([1, 0, 1]),), np.ones((3, 3), dtype="float32"))["grad.weight"]
check.equal(str(found.dtype), "float32", "after astype('float32'): the dtype of weight.grad")
### END HIDDEN TESTS

# %% test="Embedding" points=1
from coursekit import check

import numpy as np

layer = Embedding(3, 2, new_rng(0))
nothing = np.zeros((2, 0), dtype=int)
check.equal(list(np.shape(layer.forward(nothing))), [2, 0, 2], "no ids at all: an axis of length 0")
found = passes(layer, (nothing,), np.zeros((2, 0, 2)))["grad.weight"]
check.close(found, np.zeros((3, 2)), "no ids at all: no row gets a gradient")

# %% test="Embedding" points=1
from coursekit import check

import numpy as np

layer = Embedding(5, 3, new_rng(0))
check.equal(list(layer.weight.value.shape), [5, 3], "the shape of the table")
check.close(layer.weight.grad, np.zeros((5, 3)), "before anything has happened the gradient is zero")
### BEGIN HIDDEN TESTS
table = Embedding(200, 300, new_rng(check.seed(3))).weight.value
check.equal(str(table.dtype), "float64", "the dtype of the table")
# 60,000 numbers: their standard deviation is within 0.3% of the true one two times in three.
check.close(float(table.std() / 0.02), 1.0, "the standard deviation of the first table, divided by 0.02", atol=0.03)
check.close(float(table.mean() / 0.02), 0.0, "the mean of the first table, divided by 0.02", atol=0.03)
beyond = float((np.abs(table) > 0.04).mean())
check.close(beyond, 0.0455, "normal: 4.55% of the numbers lie more than two standard deviations from zero", atol=0.006)
for rows, count in ((table, 300), (table.T, 200)):
    correlation = rows @ rows.T / (count * 0.02**2)
    correlation -= np.diag(np.diag(correlation))
    check.that(np.abs(correlation).max() < 0.6, "the entries of the first table are independent of each other")
same, again, other = (Embedding(7, 4, new_rng(check.seed(4) + k)).weight.value for k in (0, 0, 1))
check.that(np.array_equal(same, again), "generators with the same seed give the same table", hint="Draw from rng.")
check.that(not np.array_equal(same, other), "another seed gives another table", hint="Draw from rng.")
rng = new_rng(check.seed(5))
first, second = (Embedding(7, 4, rng).weight.value for _ in range(2))
check.that(not np.array_equal(first, second), "two tables from one generator differ")
### END HIDDEN TESTS


# %% alternative="Embedding"
class Embedding(Layer):
    # As a product with one-hot rows, which is what a lookup is.
    def __init__(self, vocab_size, d_model, rng):
        self.vocab_size = vocab_size
        self.weight = Parameter(0.02 * rng.standard_normal((vocab_size, d_model)))

    def forward(self, ids):
        ids = np.asarray(ids)
        if ids.size and (ids.min() < 0 or ids.max() >= self.vocab_size):
            raise IndexError(ids)
        self.one_hot = np.eye(self.vocab_size, dtype=self.weight.value.dtype)[ids]
        return self.one_hot @ self.weight.value

    def backward(self, grad):
        self.weight.grad = self.weight.grad + np.tensordot(self.one_hot, grad, axes=(range(grad.ndim - 1),) * 2)


# %% alternative="Embedding"
class Embedding(Layer):
    def __init__(self, vocab_size, d_model, rng):
        self.weight = Parameter(np.array([rng.normal(scale=0.02, size=d_model) for _ in range(vocab_size)]))

    def forward(self, ids):
        self.shape, self.flat = np.shape(ids), [int(i) for i in np.ravel(ids)]
        if any(i < 0 or i >= len(self.weight.value) for i in self.flat):
            raise IndexError("no such row")
        rows = np.array([self.weight.value[i] for i in self.flat], dtype=self.weight.value.dtype)
        print("looked up", len(rows))
        return rows.reshape(*self.shape, self.weight.value.shape[1])

    def backward(self, grad):
        for i, row in zip(self.flat, grad.reshape(len(self.flat), self.weight.value.shape[1]), strict=True):
            self.weight.grad[i] += row


# %% mistakes="Embedding"
{
    "backward writes weight.grad[ids] += grad, so of the places where a token stood only the last one counts": (
        "np.add.at(self.weight.grad, self.ids, grad)",
        "self.weight.grad[self.ids] += grad",
    ),
    "the gradient is written into the rows and not added to them": (
        "np.add.at(self.weight.grad, self.ids, grad)",
        "self.weight.grad[self.ids] = grad",
    ),
    "backward starts from zero and forgets what weight.grad held before": (
        "np.add.at(self.weight.grad, self.ids, grad)",
        "self.weight.grad = np.zeros_like(self.weight.value); np.add.at(self.weight.grad, self.ids, grad)",
    ),
    "the gradient of a token is averaged over its places and not summed": (
        "np.add.at(self.weight.grad, self.ids, grad)",
        "total = np.zeros_like(self.weight.value); np.add.at(total, self.ids, grad); self.weight.grad += total / np.maximum(np.bincount(self.ids.ravel(), minlength=len(total)), 1)[:, None]",
    ),
    "the gradient is averaged over the first axis and not summed": (
        "np.add.at(self.weight.grad, self.ids, grad)",
        "np.add.at(self.weight.grad, self.ids, grad / max(len(np.atleast_1d(self.ids)), 1))",
    ),
    "the gradient is divided by the number of tokens": (
        "np.add.at(self.weight.grad, self.ids, grad)",
        "np.add.at(self.weight.grad, self.ids, grad / max(self.ids.size, 1))",
    ),
    "the gradient is subtracted, as if backward were a step of training": ("np.add.at(", "np.subtract.at("),
    "backward changes the table itself and not its gradient": (
        "np.add.at(self.weight.grad,",
        "np.add.at(self.weight.value,",
    ),
    "backward uses the ids of the first forward and not those of the last": [
        (
            "self.ids = np.asarray(ids)",
            'self.ids = np.asarray(ids)\n        self.first = getattr(self, "first", self.ids)',
        ),
        ("np.add.at(self.weight.grad, self.ids, grad)", "np.add.at(self.weight.grad, self.first, grad)"),
    ],
    "backward returns the gradient it was given": (
        "np.add.at(self.weight.grad, self.ids, grad)  # adds once for each id, also where ids repeat",
        "np.add.at(self.weight.grad, self.ids, grad)\n        return grad",
    ),
    "a negative id is looked up from the end of the table": ("if np.any(self.ids < 0):", "if False:"),
    "an id that is too large gets the last row": (
        "return self.weight.value[self.ids]",
        "return self.weight.value[np.minimum(self.ids, len(self.weight.value) - 1)]",
    ),
    "an id that is too large begins again at row 0": (
        "return self.weight.value[self.ids]",
        "return self.weight.value[self.ids % len(self.weight.value)]",
    ),
    "id 0 is refused, as if ids began at 1": ("if np.any(self.ids < 0):", "if np.any(self.ids <= 0):"),
    "the vectors are multiplied by sqrt(d_model), as the original transformer does": (
        "return self.weight.value[self.ids]",
        "return self.weight.value[self.ids] * self.weight.value.shape[1] ** 0.5",
    ),
    "the first table is normal with standard deviation 1": ("rng.normal(0, 0.02,", "rng.normal(0, 1,"),
    "0.02 is taken for the variance and not for the standard deviation": (
        "rng.normal(0, 0.02,",
        "rng.normal(0, 0.02**0.5,",
    ),
    "the first table is uniform, with the right standard deviation": (
        "rng.normal(0, 0.02, size",
        "rng.uniform(-0.02 * 3**0.5, 0.02 * 3**0.5, size",
    ),
    "the first table is drawn by xavier_uniform": (
        "rng.normal(0, 0.02, size=(vocab_size, d_model))",
        "xavier_uniform(rng, vocab_size, d_model)",
    ),
    "the first table is zero, so all tokens look alike": (
        "rng.normal(0, 0.02, size=(vocab_size, d_model))",
        "np.zeros((vocab_size, d_model))",
    ),
    "all tokens begin with the same row": (
        "rng.normal(0, 0.02, size=(vocab_size, d_model))",
        "np.tile(rng.normal(0, 0.02, size=d_model), (vocab_size, 1))",
    ),
    "rng is ignored: every table is drawn with seed 0": ("rng.normal(", "np.random.default_rng(0).normal("),
    "the table is stored as (d_model, vocab_size)": [
        ("size=(vocab_size, d_model)", "size=(d_model, vocab_size)"),
        ("self.weight.value[self.ids]", "self.weight.value.T[self.ids]"),
        ("np.add.at(self.weight.grad,", "np.add.at(self.weight.grad.T,"),
    ],
    "the parameter has another name than weight": ("self.weight", "self.table", "all"),
    "the output is float64 whatever the dtype of the weight": (
        "return self.weight.value[self.ids]",
        "return self.weight.value[self.ids].astype(np.float64)",
    ),
}

# %% [markdown]
# ## Exercise 3 · `sinusoidal` and `shift_matrix`
#
# Where does a token stand? The original transformer adds a fixed row to the token at position $t$. The features come in pairs, and
# pair $i$ is the sine and the cosine of the angle $t\,\theta_i$, with $\theta_i = 10000^{-2i/d_\text{model}}$:
#
# $$ P_{t,\,2i} = \sin(t\,\theta_i), \qquad P_{t,\,2i+1} = \cos(t\,\theta_i) $$
#
# $\theta_i$ is the pair's *speed*, the angle by which it turns from one position to the next. With four features the speeds are $1$ and $1/100$, and position 3 has the row
# $[\sin 3, \cos 3, \sin 0.03, \cos 0.03]$.
#
# What is the pattern good for? A later layer that wants to compare each token with the one $k$ places further on should
# be able to say so once, for all positions. It can: there is a matrix $M_k$ with $P_{t+k} = P_t M_k$, the same for every $t$. Find it, and you have shown it. The
# addition theorems are all you need: $\sin(a + b) = \sin a \cos b + \cos a \sin b$ and $\cos(a + b) = \cos a \cos b - \sin a \sin b$.
#
# *Difficulty 3 of 5 · 20 minutes · 4 points*


# %% exercise="sinusoidal" difficulty=3 minutes=20 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
def sinusoidal(T: int, d_model: int) -> np.ndarray:
    """The fixed table of positions of the original transformer.

    Args:
        T: number of positions, at least 1; they are counted from 0.
        d_model: number of features, even and at least 2.

    Returns:
        float64 array (T, d_model). Column 2 i holds sin(t * theta_i) and column 2 i + 1 holds cos(t * theta_i), with
        theta_i = 10000 ** (-2 i / d_model).

    Raises:
        ValueError: if d_model is odd.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.5.
    """
    ### BEGIN SOLUTION
    if d_model % 2 != 0:
        raise ValueError(f"d_model must be even, got {d_model}")
    speeds = 10_000.0 ** (-np.arange(0, d_model, 2) / d_model)  # (d_model / 2,)
    angles = np.outer(np.arange(T), speeds)  # (T, d_model / 2)
    table = np.empty((T, d_model))
    table[:, 0::2], table[:, 1::2] = np.sin(angles), np.cos(angles)
    return table
    ### END SOLUTION


def shift_matrix(k: int, d_model: int) -> np.ndarray:
    """The matrix that moves every position by k.

    Args:
        k: how far, any integer; a negative one moves backwards.
        d_model: number of features, even and at least 2.

    Returns:
        float64 array (d_model, d_model), called M, such that ``sinusoidal(T, d_model)[t + k]`` equals
        ``sinusoidal(T, d_model)[t] @ M`` for all t. It mixes the two features of a pair and nothing else: outside the 2 x 2
        blocks on the diagonal it is zero.
    """
    ### BEGIN SOLUTION
    turn = k * 10_000.0 ** (-np.arange(0, d_model, 2) / d_model)  # (d_model / 2,)
    sines = np.arange(0, d_model, 2)  # the columns of the sines
    cosines = sines + 1
    matrix = np.zeros((d_model, d_model))
    matrix[sines, sines] = matrix[cosines, cosines] = np.cos(turn)
    matrix[cosines, sines] = np.sin(turn)  # the new sine takes from the old cosine
    matrix[sines, cosines] = -np.sin(turn)  # the new cosine takes from the old sine
    return matrix
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>There are only <code>d_model / 2</code> speeds. Every position times every speed is an outer product, and the
# columns of a table can be filled two by two: <code>table[:, 0::2]</code> is every second one. For the matrix, take one pair first: which 2 × 2
# matrix turns <code>[sin a, cos a]</code> into <code>[sin(a + b), cos(a + b)]</code>, when the row stands on its left?</details>
# <details><summary>A bigger nudge</summary>Column j of the matrix says how feature j of the new row is made from the old row. The new sine is the old sine
# times cos b plus the old cosine times sin b: those two numbers are the first column of the block. Each pair has its own b: k times the speed of the pair.</details>

# %% test="sinusoidal" points=2
from coursekit import check

import numpy as np

t = np.arange(4.0)
by_hand = np.stack([np.sin(t), np.cos(t), np.sin(t / 100), np.cos(t / 100)], axis=1)
check.close(sinusoidal(4, 4), by_hand, "four positions, four features: the speeds are 1 and 1/100")
check.raises(ValueError, lambda: sinusoidal(4, 3), "three features do not make pairs")
### BEGIN HIDDEN TESTS


def by_turning(T, d_model):
    # Not by sines of angles: each row is the row before it, turned once more, as complex numbers.
    once = np.array(
        [complex(np.cos(w), np.sin(w)) for w in (10_000.0 ** (-2 * i / d_model) for i in range(d_model // 2))]
    )
    rows = [np.ones(d_model // 2, dtype=complex)]
    for _ in range(T - 1):
        rows.append(rows[-1] * once)
    rows = np.array(rows)
    return np.stack([rows.imag, rows.real], axis=-1).reshape(T, d_model)


for T, d_model in ((63, 60), (1, 6), (7, 2), (200, 10), (5, 128), (6, 6)):
    found = sinusoidal(T, d_model)
    check.close(found, by_turning(T, d_model), f"T={T}, d_model={d_model}", atol=1e-9, rtol=1e-9)
    check.equal(str(np.asarray(found).dtype), "float64", f"T={T}, d_model={d_model}: the dtype")
products = np.asarray(sinusoidal(40, 32)) @ np.asarray(sinusoidal(40, 32)).T
for distance in (0, 1, 7, 20):
    along = np.diagonal(products, distance)
    check.close(
        along, np.full_like(along, along[0]), f"rows {distance} apart have one dot product, wherever they stand"
    )
for d_model in (1, 3, 63):
    check.raises(ValueError, lambda d_model=d_model: sinusoidal(4, d_model), f"d_model={d_model} is refused: no pairs")
### END HIDDEN TESTS

# %% test="sinusoidal" points=2
from coursekit import check

import numpy as np

t = np.arange(9.0)
table = np.stack([np.sin(t), np.cos(t), np.sin(t / 100), np.cos(t / 100)], axis=1)
check.close(table[:6] @ shift_matrix(3, 4), table[3:], "rows 0 to 5, moved by 3, are rows 3 to 8")
check.close(table[3:] @ shift_matrix(-3, 4), table[:6], "and back again")
### BEGIN HIDDEN TESTS
import torch

for k, d_model in ((1, 60), (-1, 6), (17, 10), (0, 8), (-250, 128), (3, 2)):
    case = f"k={k}, d_model={d_model}"
    blocks = []
    for i in range(d_model // 2):
        turn = torch.tensor(k * 10_000.0 ** (-2 * i / d_model), dtype=torch.float64)
        blocks.append(torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()]).reshape(2, 2))
    found = np.asarray(shift_matrix(k, d_model))
    check.close(found, torch.block_diag(*blocks).numpy(), f"{case}: a turn for each pair", atol=1e-9, rtol=1e-9)
    check.equal(str(found.dtype), "float64", f"{case}: the dtype")
    check.close(found @ found.T, np.eye(d_model), f"{case}: a turn changes no length", atol=1e-9)
there = shift_matrix(5, 12) @ shift_matrix(7, 12)
check.close(there, shift_matrix(12, 12), "5 steps and 7 steps are 12 steps", atol=1e-9)
### END HIDDEN TESTS


# %% alternative="sinusoidal"
def sinusoidal(T, d_model):
    if d_model % 2:
        raise ValueError("odd")
    t = np.arange(T)[:, None, None]
    i = np.arange(d_model // 2)[None, :, None]
    quarter = np.array([0.0, np.pi / 2])  # cos a is sin(a + pi / 2)
    return np.sin(t * np.exp(-2 * i / d_model * np.log(1e4)) + quarter).reshape(T, d_model)


def shift_matrix(k, d_model):
    matrix = np.zeros((d_model, d_model))
    for i in range(0, d_model, 2):
        b = k / 10_000 ** (i / d_model)
        matrix[i : i + 2, i : i + 2] = [[np.cos(b), -np.sin(b)], [np.sin(b), np.cos(b)]]
    return matrix


# %% mistakes="sinusoidal"
{
    "the sines and the cosines have changed places": (
        "= np.sin(angles), np.cos(angles)",
        "= np.cos(angles), np.sin(angles)",
    ),
    "all sines come first and then all cosines, and they should alternate": (
        "table[:, 0::2], table[:, 1::2] = np.sin(angles), np.cos(angles)",
        "table[:, : d_model // 2], table[:, d_model // 2 :] = np.sin(angles), np.cos(angles)",
    ),
    "every column has a speed of its own, so a sine and the cosine beside it are not of the same angle": (
        "table[:, 0::2], table[:, 1::2] = np.sin(angles), np.cos(angles)",
        "own = np.outer(np.arange(T), 10_000.0 ** (-np.arange(d_model) / d_model)); table[:, 0::2], table[:, 1::2] = np.sin(own[:, 0::2]), np.cos(own[:, 1::2])",
    ),
    "the exponent is i / d_model and not 2 i / d_model, so the slowest pair is far too fast": (
        "speeds = 10_000.0 ** (-np.arange(0, d_model, 2) / d_model)",
        "speeds = 10_000.0 ** (-np.arange(d_model // 2) / d_model)",
    ),
    "the exponent has the wrong sign, so the speeds grow and do not shrink": (
        "speeds = 10_000.0 ** (-np.arange(0, d_model, 2) / d_model)",
        "speeds = 10_000.0 ** (np.arange(0, d_model, 2) / d_model)",
    ),
    "the pairs are counted from 1, so no pair turns by one radian a position": (
        "speeds = 10_000.0 ** (-np.arange(0, d_model, 2) / d_model)",
        "speeds = 10_000.0 ** (-np.arange(2, d_model + 2, 2) / d_model)",
    ),
    "the base is 1,000": ("speeds = 10_000.0 **", "speeds = 1_000.0 **"),
    "the positions are counted from 1": ("np.outer(np.arange(T),", "np.outer(np.arange(1, T + 1),"),
    "the positions are divided by T, so the row of a token depends on how long the text is": (
        "np.outer(np.arange(T),",
        "np.outer(np.arange(T) / T,",
    ),
    "the angles are taken for degrees": (
        "np.outer(np.arange(T), speeds)",
        "np.radians(np.outer(np.arange(T), speeds))",
    ),
    "the table is divided by sqrt(d_model)": ("return table", "return table / np.sqrt(d_model)"),
    "the table is float32": ("return table", "return table.astype(np.float32)"),
    "an odd d_model is accepted, and the last column is left over": [
        ("if d_model % 2 != 0:", "if d_model < 1:"),
        (
            "table[:, 0::2], table[:, 1::2] = np.sin(angles), np.cos(angles)",
            "table[:, 0::2], table[:, 1::2] = np.sin(angles), np.cos(angles)[:, : d_model // 2]",
        ),
    ],
    "the matrix is transposed: it moves backwards where it should move forwards": (
        "return matrix",
        "return matrix.T",
    ),
    "both sines of a block have the same sign": ("= -np.sin(turn)", "= np.sin(turn)"),
    "k plays no part: the matrix always moves by 1": ("turn = k * 10_000.0", "turn = 10_000.0"),
    "only the distance counts and not the direction": ("turn = k * 10_000.0", "turn = abs(k) * 10_000.0"),
    "all pairs are turned at the speed of the first": (
        "turn = k * 10_000.0 ** (-np.arange(0, d_model, 2) / d_model)",
        "turn = k * np.ones(d_model // 2)",
    ),
    "the matrix is made for a table that has all sines first and then all cosines": (
        "sines = np.arange(0, d_model, 2)  # the columns of the sines\n    cosines = sines + 1",
        "sines = np.arange(d_model // 2)\n    cosines = sines + d_model // 2",
    ),
}

# %% [markdown]
# The waves are the page's subject, with a picture. In torch you meet the table again in [Lab 2.2](../ch02_block/lab02_positional.ipynb), beside
# rotary positions, which put the turn itself into the attention.
#
# ## Exercise 4 · `LearnedPositions`
#
# The other way is not to think: a second table, with a row for each position, and training fills it. The layer takes
# the vectors of a text and adds row 0 to the first, row 1 to the second and so on.
#
# Its backward pass has two results. The sum $x + P$ passes the gradient on to $x$ as it is. And each row of the table was used
# once in *every* text of the batch. You know the sentence.
#
# *Difficulty 2 of 5 · 15 minutes · 4 points*


# %% exercise="LearnedPositions" difficulty=2 minutes=15 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
class LearnedPositions(Layer):
    """A learned vector for each position, added to the tokens.

    Args:
        max_T: number of positions that there are rows for.
        d_model: features of a token.
        rng: all random numbers come from it.

    Parameters:
        ``weight`` (max_T, d_model), float64. At first its entries are independent and normal with mean 0 and standard
        deviation 0.02.
    """

    def __init__(self, max_T: int, d_model: int, rng: np.random.Generator):
        ### BEGIN SOLUTION
        self.weight = Parameter(rng.normal(0, 0.02, size=(max_T, d_model)))
        ### END SOLUTION

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Add row t to the token at position t.

        Args:
            x: (..., T, d_model) with any number of axes in front, also none, and T from 1 to max_T.

        Returns:
            Array of x's shape.

        Raises:
            ValueError: if T is larger than max_T.

        x belongs to the caller and is not changed.
        """
        ### BEGIN SOLUTION
        T, max_T = x.shape[-2], len(self.weight.value)
        if max_T < T:
            raise ValueError(f"there are rows for {max_T} positions, the text has {T}")
        return x + self.weight.value[:T]  # (..., T, d_model) + (T, d_model)
        ### END SOLUTION

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x, and on the way that of the table.

        Args:
            grad: (..., T, d_model), the gradient of the loss for the output of the last `forward`.

        Returns:
            The gradient for x, of the same shape. To the first T rows of ``weight.grad`` is added, for each position,
            the sum over all texts of the batch. The other rows get nothing. ``weight.grad`` keeps its dtype. grad belongs
            to the caller and is not changed.
        """
        ### BEGIN SOLUTION
        T, batch_axes = grad.shape[-2], tuple(range(grad.ndim - 2))
        self.weight.grad[:T] += grad.sum(axis=batch_axes)  # (..., T, d_model) -> (T, d_model)
        return grad
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>The rows that you need are the first T: a slice. Broadcasting repeats them for every text of the batch. What broadcasting
# repeats on the way there is summed on the way back.</details>
# <details><summary>A bigger nudge</summary><code>grad.sum</code> takes a tuple of axes: all but the last two, however many there are. Here
# <code>+=</code> on a slice is safe, because a slice names each row once. Two dangers in <code>forward</code>: a slice that is too short does not
# complain, and a table with a single row would broadcast to any length.</details>

# %% test="LearnedPositions" points=3
from coursekit import check

import numpy as np

layer = LearnedPositions(4, 2, new_rng(0))
check.equal(list(layer.parameters()), ["weight"], "the names of the parameters", hint="self.weight = Parameter(...)")
layer.weight.value = np.array([[0.0, 0.0], [10.0, 100.0], [20.0, 200.0], [30.0, 300.0]])
x = np.array([[[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]], [[4.0, 4.0], [5.0, 5.0], [6.0, 6.0]]])
found = passes(layer, (x,), x)
check.close(
    found["output"],
    np.array([[[1.0, 1], [12, 102], [23, 203]], [[4, 4], [15, 105], [26, 206]]]),
    "two texts of three tokens get rows 0, 1 and 2",
)
check.close(found.get("grad", np.nan), x, "the gradient for x is the gradient of the sum, as it came")
check.close(
    found["grad.weight"],
    np.array([[5.0, 5.0], [7.0, 7.0], [9.0, 9.0], [0.0, 0.0]]),
    "each row of the table collects the gradients of its position in both texts; row 3 was not used",
)
layer.forward(x[:, :1])
layer.backward(x[:, :1])
want = np.array([[10.0, 10.0], [7.0, 7.0], [9.0, 9.0], [0.0, 0.0]])
check.close(layer.weight.grad, want, "then the first tokens alone: row 0 gets more, and the others keep what they have")
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(1))
for shape, max_T in (
    ((3, 7, 5), 9),
    ((1, 63, 6), 63),
    ((7, 4), 8),
    ((2, 3, 4, 5), 4),
    ((4, 4, 4), 6),
    ((5, 1, 3), 1),
    ((1, 1, 1), 2),
):
    case = f"x of shape {shape}, max_T={max_T}"
    table, x, grad = draw.normal(size=(max_T, shape[-1])), draw.normal(size=shape), draw.normal(size=shape)
    layer = LearnedPositions(max_T, shape[-1], new_rng(0))
    layer.weight.value = table
    leaf, tokens = torch.tensor(table, requires_grad=True), torch.tensor(x, requires_grad=True)
    output = tokens + torch.nn.functional.embedding(torch.arange(shape[-2]), leaf)
    output.backward(torch.tensor(grad))
    found = passes(layer, (x,), grad)
    check.close(found["output"], output.detach().numpy(), f"{case}: the output", atol=1e-8, rtol=1e-8)
    check.close(found.get("grad", np.nan), tokens.grad.numpy(), f"{case}: the gradient for x", atol=1e-8, rtol=1e-8)
    check.close(found["grad.weight"], leaf.grad.numpy(), f"{case}: the gradient of the table", atol=1e-8, rtol=1e-8)
    layer.backward(2 * grad)
    check.close(
        layer.weight.grad, 3 * leaf.grad.numpy(), f"{case}: a second backward adds to the first", atol=1e-8, rtol=1e-8
    )
layer = LearnedPositions(5, 3, new_rng(0))
layer.forward(np.zeros((2, 4, 3)))
layer.forward(np.zeros((1, 2, 3)))
layer.backward(np.ones((1, 2, 3)))
want = np.array([1.0, 1.0, 0.0, 0.0, 0.0])[:, None].repeat(3, axis=1)
check.close(layer.weight.grad, want, "two forwards, then a backward: it is about the second one, which is shorter")
for max_T, T in ((4, 5), (1, 2), (1, 3), (6, 60)):
    for shape in ((2, T, 2), (T, 2)):
        check.raises(
            ValueError,
            lambda max_T=max_T, shape=shape: LearnedPositions(max_T, 2, new_rng(0)).forward(np.zeros(shape)),
            f"x of shape {shape}, and rows for {max_T}",
        )
layer = LearnedPositions(3, 2, new_rng(0))
layer.astype("float32")
found = passes(layer, (np.zeros((2, 3, 2), dtype="float32"),), np.ones((2, 3, 2), dtype="float32"))
kinds = {name: str(value.dtype) for name, value in found.items()}
check.equal(sorted(set(kinds.values())), ["float32"], "after astype('float32'), float32 in gives float32 out and back")
### END HIDDEN TESTS

# %% test="LearnedPositions" points=1
from coursekit import check

import numpy as np

layer = LearnedPositions(5, 3, new_rng(0))
check.equal(list(layer.weight.value.shape), [5, 3], "the shape of the table")
check.close(layer.weight.grad, np.zeros((5, 3)), "before anything has happened the gradient is zero")
### BEGIN HIDDEN TESTS
table = LearnedPositions(200, 300, new_rng(check.seed(3))).weight.value
check.equal(str(table.dtype), "float64", "the dtype of the table")
check.close(float(table.std() / 0.02), 1.0, "the standard deviation of the first table, divided by 0.02", atol=0.03)
check.close(float(table.mean() / 0.02), 0.0, "the mean of the first table, divided by 0.02", atol=0.03)
beyond = float((np.abs(table) > 0.04).mean())
check.close(beyond, 0.0455, "normal: 4.55% of the numbers lie more than two standard deviations from zero", atol=0.006)
for rows, count in ((table, 300), (table.T, 200)):
    correlation = rows @ rows.T / (count * 0.02**2)
    correlation -= np.diag(np.diag(correlation))
    check.that(np.abs(correlation).max() < 0.6, "the entries of the first table are independent of each other")
same, again, other = (LearnedPositions(7, 4, new_rng(check.seed(4) + k)).weight.value for k in (0, 0, 1))
check.that(np.array_equal(same, again), "generators with the same seed give the same table", hint="Draw from rng.")
check.that(not np.array_equal(same, other), "another seed gives another table", hint="Draw from rng.")
rng = new_rng(check.seed(5))
first, second = (LearnedPositions(7, 4, rng).weight.value for _ in range(2))
check.that(not np.array_equal(first, second), "two tables from one generator differ")
### END HIDDEN TESTS


# %% alternative="LearnedPositions"
class LearnedPositions(Layer):
    def __init__(self, max_T, d_model, rng):
        self.weight = Parameter(0.02 * rng.standard_normal((max_T, d_model)))

    def forward(self, x):
        self.numbers = np.arange(x.shape[-2])
        if self.numbers[-1] >= self.weight.value.shape[0]:
            raise ValueError("too long")
        return np.add(x, np.broadcast_to(np.take(self.weight.value, self.numbers, axis=0), x.shape))

    def backward(self, grad):
        for text in grad.reshape(-1, *grad.shape[-2:]):
            for t in self.numbers:
                self.weight.grad[t] = self.weight.grad[t] + text[t]
        return grad.copy()


# %% mistakes="LearnedPositions"
{
    "the gradient of the table is averaged over the texts and not summed": (
        "grad.sum(axis=batch_axes)",
        "grad.mean(axis=batch_axes)",
    ),
    "the gradient of the table comes from the first text of the batch alone": (
        "grad.sum(axis=batch_axes)",
        "grad.reshape(-1, *grad.shape[-2:])[0]",
    ),
    "the gradient of the table comes from the last text of the batch alone: the others are overwritten": (
        "grad.sum(axis=batch_axes)",
        "grad.reshape(-1, *grad.shape[-2:])[-1]",
    ),
    "the gradient of the table is not summed over the batch at all": ("grad.sum(axis=batch_axes)", "grad"),
    "the sum runs over the first axis only, and there may be several axes in front or none": (
        "grad.sum(axis=batch_axes)",
        "grad.sum(axis=0)",
    ),
    "the sum runs over the positions too, so every row gets the gradient of all of them": (
        "grad.sum(axis=batch_axes)",
        "grad.sum(axis=(*batch_axes, -2))",
    ),
    "the gradient overwrites what the table's gradient held before": (
        "self.weight.grad[:T] +=",
        "self.weight.grad[:T] =",
    ),
    "backward starts from zero and forgets what weight.grad held before": (
        "self.weight.grad[:T] +=",
        "self.weight.grad = np.zeros_like(self.weight.value); self.weight.grad[:T] +=",
    ),
    "the table gets no gradient, so it never learns": ("self.weight.grad[:T] += grad.sum(axis=batch_axes)", "pass"),
    "the rows that were not used get the last position's gradient": (
        "self.weight.grad[:T] += grad.sum(axis=batch_axes)",
        "self.weight.grad[:T] += grad.sum(axis=batch_axes); self.weight.grad[T:] += grad.sum(axis=batch_axes)[-1]",
    ),
    "the gradient for x has the table in it": ("return grad\n", "return grad + self.weight.value[:T]\n"),
    "backward returns the gradient of the table and not that of x": ("return grad\n", "return self.weight.grad[:T]\n"),
    "backward returns nothing, so the layers before it never learn": ("return grad\n", "return None\n"),
    "the rows are added in reverse order": (
        "return x + self.weight.value[:T]",
        "return x + self.weight.value[:T][::-1]",
    ),
    "the rows are the last T of the table, not the first": (
        "return x + self.weight.value[:T]",
        "return x + self.weight.value[max_T - T :]",
    ),
    "the row is chosen by the number of the text in the batch and not by the position of the token": (
        "return x + self.weight.value[:T]",
        "return x + (self.weight.value[np.arange(len(x)) % max_T][:, None] if x.ndim == 3 else self.weight.value[:T])",
    ),
    "only the rows are returned, without the tokens": (
        "return x + self.weight.value[:T]",
        "return np.broadcast_to(self.weight.value[:T], x.shape)",
    ),
    "the rows are multiplied with the tokens": ("return x + self.weight.value[:T]", "return x * self.weight.value[:T]"),
    "a table with one row is given to every position, and no error says so": ("if max_T < T:", "if 1 < max_T < T:"),
    "a position beyond the table gets the last row, and no error says so": [
        ("if max_T < T:", "if T < 0:"),
        ("self.weight.value[:T]", "self.weight.value[np.minimum(np.arange(T), max_T - 1)]"),
    ],
    "the last row can never be used": ("if max_T < T:", "if max_T <= T:"),
    "the first table is normal with standard deviation 1": ("rng.normal(0, 0.02,", "rng.normal(0, 1,"),
    "the first table is zero": ("rng.normal(0, 0.02, size=(max_T, d_model))", "np.zeros((max_T, d_model))"),
    "0.02 is taken for the variance and not for the standard deviation": (
        "rng.normal(0, 0.02,",
        "rng.normal(0, 0.02**0.5,",
    ),
    "the first table is uniform, with the right standard deviation": (
        "rng.normal(0, 0.02, size",
        "rng.uniform(-0.02 * 3**0.5, 0.02 * 3**0.5, size",
    ),
    "the first table is the sinusoidal one": (
        "rng.normal(0, 0.02, size=(max_T, d_model))",
        "sinusoidal(max_T, d_model + d_model % 2)[:, :d_model]",
    ),
    "rng is ignored: every table is drawn with seed 0": ("rng.normal(", "np.random.default_rng(0).normal("),
    "the parameter has another name than weight": ("self.weight", "self.table", "all"),
}

# %% [markdown]
# ## Exercise 5 · `InputLayer`
#
# A layer may be made of layers. Its `forward` calls theirs, one after the other. Its `backward` calls theirs in the
# opposite order and hands the gradient from one to the next. That is all there is to backpropagation through a stack, and the whole
# model of [Lab 0.7](lab07_backpropagation.ipynb) is nothing else.
#
# Build the layer that the first block reads: tokens, then positions of either kind. With fixed positions there is a catch. The waves have a root
# mean square of 0.7, and your table begins at 0.02: the positions would drown the tokens. So the original
# transformer multiplies the vectors by $\sqrt{d_\text{model}}$ before it adds the waves. What is multiplied on the way there is multiplied on the way
# back.
#
# *Difficulty 3 of 5 · 20 minutes · 4 points*


# %% exercise="InputLayer" difficulty=3 minutes=20 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
class InputLayer(Layer):
    """From token ids to what the first block reads: token vectors with positions.

    With learned positions the output is ``row of the token + row of the position``. With sinusoidal ones it is
    ``sqrt(d_model) * row of the token + sinusoidal(max_T, d_model)[t]``, and the waves are not learned.

    Args:
        vocab_size: V, the number of different tokens.
        max_T: the longest text.
        d_model: features of a vector; an even number if the positions are sinusoidal.
        rng: all random numbers come from it.
        positions: "learned" or "sinusoidal".

    Parameters:
        ``embedding.weight`` (vocab_size, d_model), and for learned positions ``positions.weight`` (max_T, d_model), with
        the first values of your two layers. Nothing else.

    Raises:
        ValueError: if positions is neither of the two.
    """

    def __init__(self, vocab_size: int, max_T: int, d_model: int, rng: np.random.Generator, positions: str = "learned"):
        ### BEGIN SOLUTION
        if positions not in ("learned", "sinusoidal"):
            raise ValueError(f"positions are 'learned' or 'sinusoidal', not {positions!r}")
        learned = positions == "learned"
        self.embedding = Embedding(vocab_size, d_model, rng)
        self.positions = LearnedPositions(max_T, d_model, rng) if learned else None
        self.waves = None if learned else sinusoidal(max_T, d_model)  # (max_T, d_model), a constant
        self.scale = 1.0 if learned else d_model**0.5
        ### END SOLUTION

    def forward(self, ids: np.ndarray) -> np.ndarray:
        """Look up the tokens and add their positions.

        Args:
            ids: (..., T) integers, with T from 1 to max_T and any number of axes in front, also none.

        Returns:
            Array (..., T, d_model) of the parameters' dtype, float32 after ``astype("float32")``.

        Raises:
            ValueError: if T is larger than max_T, for either kind of positions.
        """
        ### BEGIN SOLUTION
        x = self.scale * self.embedding(ids)  # (..., T, d_model)
        if self.positions is not None:
            return self.positions(x)
        T, max_T = x.shape[-2], len(self.waves)
        if max_T < T:
            raise ValueError(f"there are rows for {max_T} positions, the text has {T}")
        return x + self.waves[:T].astype(x.dtype)
        ### END SOLUTION

    def backward(self, grad: np.ndarray) -> None:
        """Add to the gradients of all parameters; returns None, as ids have no gradient.

        Args:
            grad: (..., T, d_model), the gradient of the loss for the output of the last `forward`. It belongs to the
                caller and is not changed.
        """
        ### BEGIN SOLUTION
        if self.positions is not None:
            grad = self.positions.backward(grad)
        self.embedding.backward(self.scale * grad)
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Write <code>forward</code> as a few steps, one on each line. Then go through the lines from the last to the first: each has a
# line in <code>backward</code>. Adding a constant needs none.</details>
# <details><summary>A bigger nudge</summary>If y = c · e, and the gradient for y is g, then the gradient for e is c · g. As to the dtype: float32 plus a
# float64 table is float64, and so is a float32 array times <code>np.sqrt(60)</code>, which is a float64 number; a plain Python number such as
# <code>60**0.5</code> adapts to the array.</details>

# %% test="InputLayer" points=4
from coursekit import check

import numpy as np

layer = InputLayer(3, 4, 2, new_rng(0))
fixed = InputLayer(3, 4, 2, new_rng(0), positions="sinusoidal")
shapes = [{name: list(p.value.shape) for name, p in made.parameters().items()} for made in (layer, fixed)]
check.equal(
    shapes[0], {"embedding.weight": [3, 2], "positions.weight": [4, 2]}, "learned: the parameters and their shapes"
)
check.equal(shapes[1], {"embedding.weight": [3, 2]}, "sinusoidal: the waves are no parameter")
table, rows = (
    np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
    np.array([[0.0, 0.0], [10.0, 10.0], [20.0, 20.0], [30.0, 30.0]]),
)
layer.embedding.weight.value, layer.positions.weight.value, fixed.embedding.weight.value = table, rows, table
ids, grad = np.array([[2, 0, 2]]), np.array([[[1.0, 0.0], [0.0, 1.0], [10.0, 20.0]]])
found, other = passes(layer, (ids,), grad), passes(fixed, (ids,), grad)
check.close(
    found["output"], np.array([[[5.0, 6], [11, 12], [25, 26]]]), "learned: the tokens 2, 0, 2 with rows 0, 1, 2"
)
check.close(
    found["grad.positions.weight"], np.array([[1.0, 0], [0, 1], [10, 20], [0, 0]]), "learned: the rows' gradient"
)
by_hand = np.array([[0.0, 1.0], [0.0, 0.0], [11.0, 20.0]])
check.close(found["grad.embedding.weight"], by_hand, "learned: the gradient of the table of tokens")
waves = np.array([[np.sin(t), np.cos(t)] for t in range(3)])
check.close(other["output"], 2**0.5 * table[ids] + waves, "sinusoidal: the tokens times sqrt(2), and the waves")
check.close(other["grad.embedding.weight"], 2**0.5 * by_hand, "sinusoidal: the gradient of the table of tokens")
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(1))


def oracle(kind, ids, grad, table, rows):
    """Output and gradients by autograd; the waves as turning complex numbers."""
    leaf, learned = torch.tensor(table, requires_grad=True), torch.tensor(rows, requires_grad=True)
    T, d_model = grad.shape[-2:]
    tokens = torch.nn.functional.embedding(torch.tensor(ids), leaf)
    if kind == "learned":
        output = tokens + learned[:T]
    else:
        speeds = torch.tensor([10_000.0 ** (-2 * i / d_model) for i in range(d_model // 2)], dtype=torch.float64)
        turned = torch.polar(
            torch.ones(T, d_model // 2, dtype=torch.float64), torch.outer(torch.arange(T).double(), speeds)
        )
        output = tokens * d_model**0.5 + torch.stack([turned.imag, turned.real], dim=-1).flatten(-2)
    output.backward(torch.tensor(grad))
    wanted = {"output": output.detach(), "grad.embedding.weight": leaf.grad}
    return wanted | ({"grad.positions.weight": learned.grad} if kind == "learned" else {})


for kind in ("learned", "sinusoidal"):
    for shape, vocab_size, max_T, d_model in (
        ((3, 7), 5, 9, 6),
        ((1, 63), 4, 63, 60),
        ((5,), 3, 8, 2),
        ((2, 3, 4), 6, 4, 10),
    ):
        case = f"{kind}, ids of shape {shape}, max_T={max_T}, d_model={d_model}"
        table, rows = draw.normal(size=(vocab_size, d_model)), draw.normal(size=(max_T, d_model))
        ids, grad = draw.integers(vocab_size, size=shape), draw.normal(size=(*shape, d_model))
        layer = InputLayer(vocab_size, max_T, d_model, new_rng(0), positions=kind)
        layer.embedding.weight.value = table
        if kind == "learned":
            layer.positions.weight.value = rows
        found, wanted = passes(layer, (ids,), grad), oracle(kind, ids, grad, table, rows)
        check.equal(sorted(found), sorted(wanted), f"{case}: what there is a gradient for")
        for name, value in wanted.items():
            check.close(found[name], value.numpy(), f"{case}: {name}", atol=1e-8, rtol=1e-8)
        layer.backward(grad)
        twice = layer.embedding.weight.grad
        check.close(
            twice, 2 * wanted["grad.embedding.weight"].numpy(), f"{case}: backward again adds", atol=1e-8, rtol=1e-8
        )
        layer.astype("float32")
        dtypes = {name: str(v.dtype) for name, v in passes(layer, (ids,), grad.astype("float32")).items()}
        check.equal(dtypes, dict.fromkeys(dtypes, "float32"), f"{case}: the dtypes after astype('float32')")
    check.raises(
        ValueError,
        lambda kind=kind: InputLayer(5, 4, 6, new_rng(0), positions=kind).forward(np.zeros((2, 5), dtype=int)),
        f"{kind}: five tokens, and max_T=4",
    )
    check.raises(
        ValueError,
        lambda kind=kind: InputLayer(5, 1, 6, new_rng(0), positions=kind).forward(np.zeros((2, 5), dtype=int)),
        f"{kind}: five tokens, and max_T=1",
    )
for kind in ("rotary", "", None):
    check.raises(ValueError, lambda kind=kind: InputLayer(5, 4, 6, new_rng(0), positions=kind), f"positions={kind!r}")
check.raises(ValueError, lambda: InputLayer(5, 4, 3, new_rng(0), positions="sinusoidal"), "sinusoidal, three features")
check.equal(
    list(np.shape(InputLayer(5, 4, 3, new_rng(0)).forward(np.array([1, 2])))), [2, 3], "learned, three features"
)
default = InputLayer(5, 4, 6, new_rng(0))
check.equal(len(default.parameters()), 2, "positions are learned where nothing is said")
for name, parameter in InputLayer(200, 200, 300, new_rng(check.seed(2))).parameters().items():
    check.close(
        float(parameter.value.std() / 0.02), 1.0, f"the standard deviation of {name} at first, over 0.02", atol=0.03
    )
### END HIDDEN TESTS


# %% alternative="InputLayer"
class InputLayer(Layer):
    def __init__(self, vocab_size, max_T, d_model, rng, positions="learned"):
        self.max_T = max_T
        self.embedding = Embedding(vocab_size, d_model, rng)
        if positions == "learned":
            self.positions = LearnedPositions(max_T, d_model, rng)
        elif positions == "sinusoidal":
            self.table = sinusoidal(max_T, d_model)
        else:
            raise ValueError(positions)

    def forward(self, ids):
        print("reading", ids.shape)
        if ids.shape[-1] > self.max_T:
            raise ValueError("too long")
        x = self.embedding.forward(ids)
        if hasattr(self, "positions"):
            return self.positions.forward(x)
        scaled = np.sqrt(x.shape[-1]) * x.astype(np.float64)
        return (scaled + self.table[: x.shape[-2]]).astype(x.dtype)

    def backward(self, grad):
        if hasattr(self, "positions"):
            self.embedding.backward(self.positions.backward(grad))
        else:
            self.embedding.backward(np.einsum("...d,->...d", grad, grad.shape[-1] ** 0.5))


# %% mistakes="InputLayer"
{
    "the factor sqrt(d_model) is missing from the backward pass": (
        "self.embedding.backward(self.scale * grad)",
        "self.embedding.backward(grad)",
    ),
    "the gradient is divided by sqrt(d_model) on the way back": (
        "self.embedding.backward(self.scale * grad)",
        "self.embedding.backward(grad / self.scale)",
    ),
    "the factor sqrt(d_model) is missing altogether": ("1.0 if learned else d_model**0.5", "1.0"),
    "the factor sqrt(d_model) is applied to learned positions too": (
        "1.0 if learned else d_model**0.5",
        "d_model**0.5",
    ),
    "the factor is d_model and not its root": ("d_model**0.5", "float(d_model)"),
    "the tokens are divided by sqrt(d_model)": ("d_model**0.5", "d_model**-0.5"),
    "the waves are multiplied by sqrt(d_model) and the tokens are not": [
        ("x = self.scale * self.embedding(ids)", "x = self.embedding(ids)"),
        ("x + self.waves[:T]", "x + self.scale * self.waves[:T]"),
        ("self.embedding.backward(self.scale * grad)", "self.embedding.backward(grad)"),
    ],
    "tokens and waves are both multiplied by sqrt(d_model)": (
        "x + self.waves[:T]",
        "x + self.scale * self.waves[:T]",
    ),
    "backward forgets the positions: their rows get no gradient": (
        "grad = self.positions.backward(grad)",
        "pass",
    ),
    "backward forgets the tokens: their table gets no gradient": ("self.embedding.backward(self.scale * grad)", "pass"),
    "backward goes to the tokens twice: the table gets its gradient two times over": (
        "self.embedding.backward(self.scale * grad)",
        "self.embedding.backward(self.scale * grad); self.embedding.backward(self.scale * grad)",
    ),
    "backward begins by setting all gradients to zero": (
        "if self.positions is not None:\n            grad = self.positions",
        "self.zero_grad()\n        if self.positions is not None:\n            grad = self.positions",
    ),
    "backward returns the gradient of the token vectors, as if ids had one": (
        "self.embedding.backward(self.scale * grad)",
        "self.embedding.backward(self.scale * grad); return self.scale * grad",
    ),
    "the fixed waves are a Parameter, so training would change them": [
        (
            "None if learned else sinusoidal(max_T, d_model)",
            "None if learned else Parameter(sinusoidal(max_T, d_model))",
        ),
        ("len(self.waves)", "len(self.waves.value)"),
        ("self.waves[:T]", "self.waves.value[:T]"),
    ],
    "something float64, the waves or a factor out of np.sqrt, turns the float32 output into float64": (
        "self.waves[:T].astype(x.dtype)",
        "self.waves[:T]",
    ),
    "the positions are left out": ("return self.positions(x)", "return x"),
    "the waves are left out": ("return x + self.waves[:T].astype(x.dtype)", "return x"),
    "the waves of the last T positions are added": ("self.waves[:T]", "self.waves[max_T - T :]"),
    "with sinusoidal positions a text that is too long is cut short or broadcast without an error": (
        'raise ValueError(f"there are rows for {max_T} positions, the text has {T}")',
        "x = x[..., :max_T, :]",
    ),
    "any word but learned means sinusoidal": ('if positions not in ("learned", "sinusoidal"):', "if False:"),
    "positions are sinusoidal where nothing is said": ('positions: str = "learned"', 'positions: str = "sinusoidal"'),
    "the table of tokens has a row for each position and the other way round": [
        ("Embedding(vocab_size, d_model, rng)", "Embedding(max_T, d_model, rng)"),
        ("LearnedPositions(max_T, d_model, rng)", "LearnedPositions(vocab_size, d_model, rng)"),
    ],
}

# %% [markdown]
# One parameter may stand in two places. The tied output head of [Lab 0.5](lab05_output_projection.ipynb) uses the table of tokens a
# second time. Then `parameters()` names it once, so that no optimiser moves it twice; and its gradient is, once more, the
# sum over both uses.

# %%
rng = np.random.default_rng(0)


class Twice(Layer):
    """Two tables that are one."""

    def __init__(self):
        self.stack = [Embedding(3, 2, rng), InputLayer(3, 4, 2, rng)]
        self.stack[1].embedding.weight = self.stack[0].weight

    def forward(self, ids):
        return self.stack[0](ids) + self.stack[1](ids)

    def backward(self, grad):
        for layer in self.stack:
            layer.backward(grad)


twice = Twice()
output = twice(np.array([0, 2]))
twice.backward(np.ones_like(output))
for name, parameter in twice.parameters().items():
    print(f"{name:26} {parameter.value.shape}   gradient of its rows {parameter.grad[:, 0]}")

# %% [markdown]
# ## Look at it
#
# What does training put into the rows? Here is the smallest model of language that has a table: it sees one character
# and guesses the next. The *loss* is the mean of $-\log p$, where $p$ is the probability that the model gave to the character that came. Its unit, with the
# natural logarithm, is the *nat*. Less is better; who guesses evenly among 27 characters has $\log 27 \approx 3.3$. Each of 27 characters has *two* features. A matrix and a bias turn them into 27 scores. The text is the reference of the Python
# language, as it lies on your machine. Two things below are not yours yet: the step from scores to probabilities, and the gradient of the loss for
# the scores. They are the subject of Labs 0.2 and 0.6.
#
# The model begins at the frequencies of the characters, so all that it can learn is what one character says about the next.
# Move the slider through the training.

# %%
from pydoc_data.topics import topics

words = " ".join("".join(c if c.isascii() and c.isalpha() else " " for c in text.lower()) for text in topics.values())
characters = " abcdefghijklmnopqrstuvwxyz"
ids = np.array([characters.index(c) for c in " ".join(words.split())])
V, rng = len(characters), np.random.default_rng(1)
pairs = np.zeros((V, V))
np.add.at(pairs, (ids[:-1], ids[1:]), 1)
share = pairs.sum(axis=0) / pairs.sum()

table, head = Embedding(V, 2, rng), Parameter(xavier_uniform(rng, 2, V))
bias = Parameter(np.log(share))
table.weight.value *= 10  # 0.2 and not 0.02: plain gradient descent starts slowly from tiny rows
snapshots, losses = {}, []
for step in range(3001):
    if step in (0, 30, 100, 300, 1000, 3000):
        snapshots[step] = table.weight.value.copy()
    places = rng.integers(len(ids) - 1, size=1000)
    x = table(ids[places])  # (1000, 2)
    scores = x @ head.value + bias.value  # (1000, 27)
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    right = np.arange(1000), ids[places + 1]
    losses.append(-np.log(p[right]).mean())
    p[right] -= 1  # the gradient of the loss for the scores, but for the mean
    grad = p / 1000
    table.zero_grad()
    table.backward(grad @ head.value.T)
    rate = 5.0 * (1 - step / 3001)
    for parameter, gradient in ((table.weight, table.weight.grad), (head, x.T @ grad), (bias, grad.sum(axis=0))):
        parameter.value -= rate * gradient

best = -(pairs * np.log(pairs / pairs.sum(axis=1, keepdims=True), where=pairs > 0, out=np.zeros_like(pairs))).sum()
print(f"{len(ids):,} characters; loss at first {losses[0]:.3f}, at the end {np.mean(losses[-100:]):.3f} nats")
print(
    f"frequencies alone {-(share * np.log(share)).sum():.3f}, a full table of 27 x 27 probabilities {best / pairs.sum():.3f}"
)
kinds = {"vowel": "aeiou", "consonant": "bcdfghjklmnpqrstvwxyz", "space": " "}
figure = go.Figure()
for name, members in kinds.items():
    rows = [characters.index(c) for c in members]
    figure.add_scatter(
        x=snapshots[3000][rows, 0],
        y=snapshots[3000][rows, 1],
        mode="text",
        text=[c if c != " " else "␣" for c in members],
        name=name,
        textfont={"size": 18, "color": plots.COLOURS[len(figure.data)]},
        customdata=[f"{100 * share[row]:.1f}% of the text" for row in rows],
        hovertemplate="%{text}: %{customdata}<extra></extra>",
    )
frames = [
    {
        "label": str(step),
        "method": "restyle",
        "args": [
            {
                axis: [rows[[characters.index(c) for c in m], i].tolist() for m in kinds.values()]
                for i, axis in enumerate("xy")
            }
        ],
    }
    for step, rows in snapshots.items()
]
reach = 1.1 * np.abs(snapshots[3000]).max()
figure.update_xaxes(title_text="feature 0", range=[-reach, reach])
figure.update_yaxes(title_text="feature 1", range=[-reach, reach])
figure.update_layout(
    height=460,
    showlegend=False,
    sliders=[{"steps": frames, "active": len(frames) - 1, "currentvalue": {"prefix": "after step "}, "pad": {"t": 50}}],
)
figure.show()

# %% [markdown]
# Nobody told the model what a vowel is. Which letters have come to stand together, and what do they have in common? (The
# model sees one thing only: what comes *next*.) Where does `q` stand, and how sure would you be of its place? Hover to see how often each
# letter occurs, and look at the slider's first stops again: which rows move first? The gradient of a row is a sum over the
# places of its letter.
#
# With two features the loss stays above that of the full table. How many features would it take to reach it?
#
# ## Common mistakes
#
# - **`grad[ids] += ...`.** It counts every token once, however often it occurs. The model trains, more slowly, and frequent tokens
#   suffer most. Whenever you index with an array and add, ask whether an index can occur twice.
# - **No sum over the batch.** What broadcasting repeats in `forward` has to be summed in `backward`. With a batch of one nothing is
#   wrong, so test with three.
# - **A mean where a sum belongs.** The mean over the batch is part of the *loss*. It has already scaled the gradient that
#   arrives. Whoever takes it again in a layer trains this one parameter at a fraction of the learning rate.
# - **`=` where `+=` belongs.** A parameter that is used twice loses the gradient of its first use, and so does training that adds up several
#   batches before a step. Starting from zero is the caller's business: `zero_grad`.
# - **The memory of another forward.** A layer answers for its last `forward`. Call a layer twice, and the first call can no longer be
#   answered for. (How to use one layer twice in a model? With two layers that share a `Parameter`.)
# - **`x += ...` on what was handed in.** The array belongs to the caller, who may still need it. `x = x + ...` makes a new one.
# - **Negative ids.** -1 is a popular mark for padding, and NumPy's way to say "the last row".
# - **float64 by accident.** One float64 array or NumPy number on the way, and everything after it is float64: correct, and slower.
#
# [Lab 0.2](lab02_attention.ipynb) goes on with the linear layer and attention. The same table in torch, with a tokenizer in front of it, is in
# [Lab 3.2](../ch03_transformer/lab02_token_embeddings.ipynb).
#
# ## Going further
#
# - **Other functions, other scales.** Xavier's argument is about matrices and nothing between them. Put a ReLU after each matrix: it sets half of the
#   numbers to zero. By which factor does the variance fall, and which scale makes up for it? Measure first. (Kaiming He, Xiangyu
#   Zhang, Shaoqing Ren, Jian Sun, Delving Deep into Rectifiers, 2015.)
# - **How many features?** Train the model of this lab with 1, 2, 4, 8 and 26 features and plot the loss. Then compute the best possible result without training:
#   what does the singular value decomposition of the table of log-probabilities say? (Omer Levy, Yoav Goldberg, Neural Word Embedding as
#   Implicit Matrix Factorization, 2014, for word vectors.)
