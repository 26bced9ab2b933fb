# ---
# title: Softmax and loss
# lab: ch00/lab06
# minutes: 90
# difficulty: 3
# hardware: cpu
# needs: [ch00/lab01, ch00/lab02]
# builds: [log_sum_exp, one_hot, CrossEntropy, accuracy, Temperature]
# ---

# %% [markdown]
# # Lab 0.6 · Softmax and loss
#
# ## The idea
#
# Every backward pass in this chapter begins with a `grad` that "somebody further on" hands over. In this lab you become that somebody. The model ends in
# logits. The text says which answer was right. Out of the two comes one number, the loss, and its gradient for the logits. There it all starts.
#
# Let three answers have the logits 1.609, 0.693 and 0, which are the logarithms of 5, 2 and 1. The softmax makes them
# $p = (\tfrac58, \tfrac28, \tfrac18)$. Answer 1 is right (we count from 0). The loss is $-\ln p_1 = \ln 4 = 1.386$: zero would be certainty, and it grows without
# bound as the right answer is thought impossible. Training makes the mean of it small, which is to make the probability of all right answers together large.
#
# Now the gradient. Write what was right as a row of its own, $y = (0, 1, 0)$, all zeros but for a one. It is called *one-hot*. Then
#
# $$ \frac{\partial L}{\partial z} = p - y = \left(\tfrac58, -\tfrac34, \tfrac18\right) . $$
#
# What the model said, minus what was right. Push the right answer up by as much as it lacks, and the others down by as much as they have too much; the three add up to zero.
# No exponential, no logarithm, no division is left of the formulas that it came from. It is the most pleasant derivative of the chapter, and it is also the safest to compute: each of its
# numbers lies between -1 and 1, whatever the logits are.
#
# The forward pass is less safe. $e^{800}$ is too large for any float. So the work of this lab is to take the logarithm of a sum of exponentials without ever
# forming a large one, to average over the right places, and to hand back a gradient that belongs to exactly that average. Why $p - y$ comes out is on the page [From logits to a loss](../../book/ch00_numpy/softmax_and_loss.md).
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `logits` | `(..., V)` | one score for each of V classes; places in front |
# | `targets` | `(...)`, integers | the right class at each place, or `ignore_index` where nothing is asked |
# | `log_sum_exp(x)` | `(...)` | $\ln \sum_j e^{x_j}$ over the last axis |
# | `one_hot(targets, V)` | `(..., V)` | a one at the right class |
# | the loss | a Python number | the mean over all places that count |
# | `CrossEntropy.backward()` | `(..., V)` | the gradient of that mean for the logits |
# | `Temperature.temperature` | `(1,)` | one number that all logits are divided by |

# %% given
import numpy as np

from coursekit import carry

Layer = carry("ch00/lab01", "Layer")
Parameter = carry("ch00/lab01", "Parameter")
passes = carry("ch00/lab01", "passes")
softmax = carry("ch00/lab02", "softmax")  # over the last axis
softmax_backward = carry("ch00/lab02", "softmax_backward")  # (gradient for y, y) -> gradient for x

# %% [markdown]
# ## A picture
#
# Why this loss and not the square of the error, which everybody knows from regression? Two classes, and the right one lies below the other by a *gap*, so the
# larger the gap, the more wrong the model is. On the left both losses, on the right how hard each pulls the right logit up: the slope, computed as a
# difference, without a formula. Hover to compare.

# %%
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from coursekit import plots


def both(gap):
    """Cross-entropy and squared error where the right class has the logit -gap and the other one 0."""
    p = 1 / (1 + np.exp(gap))
    return {"-ln p": -np.log(p), "(1 - p)²": (1 - p) ** 2}


gaps, step = np.linspace(-6, 10, 161), 1e-5
values, ahead = both(gaps), both(gaps - step)
figure = make_subplots(rows=1, cols=2, subplot_titles=["loss", "pull on the right logit"], horizontal_spacing=0.12)
for colour, name in zip(plots.COLOURS, values, strict=False):
    for column, line in enumerate((values[name], (values[name] - ahead[name]) / step), start=1):
        figure.add_trace(
            go.Scatter(
                x=gaps,
                y=line,
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                line={"color": colour, "width": 3},
                hovertemplate="gap %{x:.1f}: %{y:.3f}<extra>" + name + "</extra>",
            ),
            row=1,
            col=column,
        )
figure.update_xaxes(title_text="gap: how wrong")
figure.update_yaxes(rangemode="tozero")
figure.update_layout(height=360, legend={"orientation": "h", "y": -0.25})
figure.show()
for gap in (0, 4, 8):
    pulls = {name: (value - both(gap - step)[name]) / step for name, value in both(gap).items()}
    print(f"gap {gap}: " + ", ".join(f"pull of {name} {pull:.4f}" for name, pull in pulls.items()))

# %% [markdown]
# The squared error pulls hardest not far from where the model is undecided. The more wrong it is, the *less* it pulls: at a gap of 8 hardly at all. The softmax is
# flat there, and its slope is a factor of the gradient. A model that starts out wrong stays wrong. The pull of $-\ln p$ is $1 - p$, which
# grows to 1 and stays. The logarithm undoes the flatness exactly.
#
# ## Exercise 1 · `log_sum_exp`
#
# The logarithm of the softmax is $\ln p_i = z_i - \ln \sum_j e^{z_j}$. So everything hangs on the second term. Moving all numbers by a constant moves it by the same
# constant, $\ln \sum_j e^{z_j} = c + \ln \sum_j e^{z_j - c}$. Choose $c$ so that no exponential can overflow and not all of them can vanish.
#
# *Difficulty 2 of 5 · 10 minutes · 3 points*


# %% exercise="log_sum_exp" difficulty=2 minutes=10 forbid=["logsumexp", "logaddexp", "torch.tensor", "torch.as_tensor", "torch.from_numpy"]
def log_sum_exp(x: np.ndarray) -> np.ndarray:
    """The logarithm of the sum of the exponentials over the last axis, also where these overflow.

    Args:
        x: (..., V) with any number of axes in front, also none; V is at least 1. Entries are finite, as large as they like in
            either direction, or -inf for something impossible.

    Returns:
        Array (...) of x's dtype: ``ln(sum_j exp(x_j))``. For two numbers of 10,000 it is 10,000.693. If all entries of a row
        are -inf, it is -inf.

    Source: Blanchard, Higham and Higham, Accurately Computing the Log-Sum-Exp and Softmax Functions, 2021.
    """
    ### BEGIN SOLUTION
    largest = x.max(axis=-1, keepdims=True)  # (..., 1)
    largest = np.where(largest == -np.inf, 0, largest)  # -inf - -inf would be NaN
    total = np.exp(x - largest).sum(axis=-1)  # (...): between 1 and V, or 0 if all are -inf
    with np.errstate(divide="ignore"):
        return largest[..., 0] + np.log(total)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Subtract from each row its own largest number, and add it again at the end: one exponential of the row is then exactly 1, and none is
# larger.</details>
# <details><summary>A bigger nudge</summary>To subtract you need the largest number with its axis (<code>keepdims</code>), to add it at the end without. In a row of
# nothing but -inf the difference -inf - (-inf) is NaN: subtract something finite there. <code>np.errstate</code> silences a warning where the result, the logarithm of zero, is just what you want.</details>

# %% test="log_sum_exp" points=3
from coursekit import check

import numpy as np

rows = np.log(np.array([[5.0, 2.0, 1.0], [1.0, 1.0, 2.0]]))
check.close(log_sum_exp(rows), np.log(np.array([8.0, 4.0])), "logarithms of 5, 2, 1 and of 1, 1, 2: ln 8 and ln 4")
check.close(log_sum_exp(np.array([-800.0, -1_600.0])), -800.0, "a row of two numbers far below zero")
check.close(
    log_sum_exp(np.array([[10_000.0, 10_000.0], [-10_000.0, -10_000.0]])),
    np.array([10_000.0, -10_000.0]) + np.log(2),
    "two equal numbers of 10,000, and two of -10,000",
    atol=1e-8,
    rtol=0.0,
)
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(1))
for shape in ((3, 7, 11), (1, 63, 5), (2, 3, 4, 6), (9,), (5, 1), (4, 4)):
    x = 3 * draw.normal(size=shape[::-1]).T  # not contiguous
    case = f"x of shape {shape}, not contiguous"
    found = log_sum_exp(x)
    check.close(
        found, torch.logsumexp(torch.tensor(x.copy()), -1).numpy(), f"{case}: logsumexp", atol=1e-10, rtol=1e-10
    )
    check.equal(str(np.asarray(found).dtype), "float64", f"{case}: the dtype")
    small = x.astype("float32")
    check.close(log_sum_exp(small), torch.logsumexp(torch.tensor(small.copy()), -1).numpy(), f"{case}, float32")
    check.equal(str(np.asarray(log_sum_exp(small)).dtype), "float32", f"{case}, float32: the dtype")
    check.close(
        np.asarray(log_sum_exp(x + 700.0)) - 700.0, found, f"{case}: 700 more in, 700 more out", atol=1e-10, rtol=0.0
    )
extreme = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -9999.0], [1e4, 1e4, 1e4], [1e300, 0.0, -1e300], [0.0, 1.0, 2.0]])
infinity = np.inf
impossible = np.array([[0.5, -infinity, 2.0], [-infinity, 3.0, -infinity], [-infinity] * 3, [0.0, 0.0, -infinity]])
for rows, case in ((extreme, "numbers up to 1e300 in either direction"), (impossible, "rows with -inf")):
    want = torch.logsumexp(torch.tensor(rows), -1).numpy()
    check.close(log_sum_exp(rows), want, case, atol=1e-8, rtol=1e-12)
    check.close(log_sum_exp(rows[::-1, ::-1]), want[::-1], f"{case}, reversed", atol=1e-8, rtol=1e-12)
kept = extreme.copy()
log_sum_exp(kept)
check.equal(kept, extreme, "x itself is left as it is")
### END HIDDEN TESTS


# %% alternative="log_sum_exp"
def log_sum_exp(x):
    # Two at a time, like logaddexp: the larger one, and log1p of the rest.
    rows = x.reshape(-1, x.shape[-1])
    print("rows:", len(rows))
    done = []
    for row in rows:
        total = row[0]
        for number in row[1:]:
            high, low = max(total, number), min(total, number)
            total = high if low == -np.inf else high + np.log1p(np.exp(low - high))
        done.append(total)
    return np.array(done, dtype=x.dtype).reshape(x.shape[:-1])


# %% mistakes="log_sum_exp"
{
    "nothing is subtracted before the exponential, so it overflows or vanishes": (
        "largest = x.max(axis=-1, keepdims=True)",
        "largest = np.zeros((*x.shape[:-1], 1), x.dtype)",
    ),
    "the largest number of the whole array is subtracted, and other rows vanish": (
        "largest = x.max(axis=-1, keepdims=True)",
        "largest = np.full((*x.shape[:-1], 1), x.max())",
    ),
    "the largest number is not added again at the end": (
        "return largest[..., 0] + np.log(total)",
        "return np.log(total)",
    ),
    "a small number is added before the logarithm": ("np.log(total)", "np.log(total + 1e-6)"),
    "the numbers are clipped to a range in which the exponential is safe": (
        "largest = x.max(axis=-1, keepdims=True)",
        "x = np.clip(x, -500, 500)\n    largest = x.max(axis=-1, keepdims=True)",
    ),
    "the smallest number is subtracted and not the largest": ("x.max(axis=-1", "x.min(axis=-1"),
    "the mean is subtracted and not the largest": ("x.max(axis=-1", "x.mean(axis=-1"),
    "the maximum itself is returned": ("return largest[..., 0] + np.log(total)", "return x.max(axis=-1)"),
    "a row of nothing but -inf gives NaN": ("np.where(largest == -np.inf, 0, largest)", "largest"),
    "-inf is replaced by 0, so what is impossible gets a share": (
        "largest = x.max(axis=-1, keepdims=True)",
        "x = np.where(np.isinf(x), 0, x)\n    largest = x.max(axis=-1, keepdims=True)",
    ),
    "the exponentials are averaged and not added up": (".sum(axis=-1)", ".mean(axis=-1)"),
    "the sum runs over the first axis and not over the last": [
        ("x.max(axis=-1, keepdims=True)", "np.moveaxis(x, 0, -1).max(axis=-1, keepdims=True)"),
        ("np.exp(x - largest)", "np.exp(np.moveaxis(x, 0, -1) - largest)"),
    ],
    "the sum runs over all numbers": [
        ("np.exp(x - largest).sum(axis=-1)", "np.exp(x - largest).sum()"),
    ],
    "the last axis is kept, with length 1": (
        "return largest[..., 0] + np.log(total)",
        "return (largest[..., 0] + np.log(total))[..., None]",
    ),
    "the logarithm is to base 2": ("np.log(total)", "np.log2(total)"),
    "the logarithm is missing at the end": ("return largest[..., 0] + np.log(total)", "return largest[..., 0] + total"),
    "the work is done in float32, whatever the dtype": (
        "largest = x.max(axis=-1, keepdims=True)",
        "x = x.astype(np.float32)\n    largest = x.max(axis=-1, keepdims=True)",
    ),
    "the result is float64, whatever the dtype": (
        "return largest[..., 0] + np.log(total)",
        "return (largest[..., 0] + np.log(total)).astype(np.float64)",
    ),
}

# %% equivalent="log_sum_exp"
{
    "np.where(largest == -np.inf, 0, largest) -> np.where(largest == -np.inf, 1, largest)": "any finite number will do "
    "where all entries are -inf: the sum is 0 and its logarithm -inf",
}

# %% [markdown]
# ## Exercise 2 · `one_hot`
#
# What was right, as rows that can be subtracted from rows of probabilities. There is a trap in it. Places where nothing is asked are marked by a number that is no class, mostly -100 and often
# -1. NumPy takes negative indices without a word: `row[-1] = 1` marks the last class, and the model learns to answer with it wherever there is padding.
#
# *Difficulty 2 of 5 · 10 minutes · 3 points*


# %% exercise="one_hot" difficulty=2 minutes=10 forbid=["one_hot", "torch.tensor", "torch.as_tensor", "torch.from_numpy"]
def one_hot(targets: np.ndarray, n_classes: int, ignore_index: int = -100) -> np.ndarray:
    """A row for each target, all zeros but for a one at the target's class.

    Args:
        targets: integers of any integer dtype, with any number of axes, also none. Each is a class, from 0 to n_classes - 1, or
            equal to ignore_index.
        n_classes: V, at least 1.
        ignore_index: what marks a place where nothing is asked: its row is all zeros. If it is the number of a class, places with that class
            are ignored.

    Returns:
        float64 array (..., n_classes), the shape of targets and the classes behind it.

    Raises:
        IndexError: if a target is neither a class nor ignore_index.
    """
    ### BEGIN SOLUTION
    counts = targets != ignore_index  # (...)
    if np.any(counts & ((targets < 0) | (targets >= n_classes))):
        raise IndexError(f"a target is a class from 0 to {n_classes - 1} or {ignore_index}, got {targets}")
    hit = targets[..., None] == np.arange(n_classes)  # (..., n_classes)
    return (hit & counts[..., None]).astype(np.float64)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Compare each target with each class, and there is no index that could be negative. Which axes must be added, so that
# <code>(...)</code> and <code>(V,)</code> meet as <code>(..., V)</code>?</details>
# <details><summary>A bigger nudge</summary>Comparing gives booleans. Combine them with "this place counts", then turn them into numbers. For the error look at
# those places only that count, and ask for both sides: below zero, and V or more.</details>

# %% test="one_hot" points=3
from coursekit import check

import numpy as np

want = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
check.close(one_hot(np.array([1, 2, 0]), 3), want, "targets 1, 2 and 0 of three classes")
want = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
check.close(one_hot(np.array([1, -100]), 3), want, "targets 1 and -100: the second place is ignored")
check.close(one_hot(np.array([1, -1]), 3, ignore_index=-1), want, "targets 1 and -1, and -1 is ignore_index")
with_class_2_ignored = one_hot(np.array([1, 2]), 3, ignore_index=2)
check.raises(IndexError, lambda: one_hot(np.array([1, 7]), 3), "7 is none of three classes")
check.raises(IndexError, lambda: one_hot(np.array([1, 3]), 3), "nor is 3: they are 0, 1 and 2")
check.raises(IndexError, lambda: one_hot(np.array([1, -1]), 3), "-1 is no class, and here not ignore_index either")
check.close(with_class_2_ignored, want, "targets 1 and 2, and 2 is ignore_index")
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(1))
for shape, V, ignore_index, dtype in (
    ((3, 7), 11, -100, "int64"),
    ((1, 63), 4, -1, "int32"),
    ((2, 3, 4), 6, 200, "uint8"),
    ((), 5, -100, "int64"),
    ((9,), 2, 0, "int16"),
    ((2, 0), 3, -100, "int64"),
    ((4,), 1, -100, "int64"),
    ((5, 5), 5, 3, "int64"),
):
    case = f"targets of shape {shape} and dtype {dtype}, {V} classes, ignore_index={ignore_index}"
    targets = np.asarray(draw.integers(V, size=shape))
    want = torch.nn.functional.one_hot(torch.tensor(targets), V).numpy().astype("float64")
    if targets.size > 2:
        targets.reshape(-1)[1::3] = ignore_index
    want[targets == ignore_index] = 0.0
    found = one_hot(targets.astype(dtype), V, ignore_index)
    check.close(found, want, case, atol=0.0, rtol=0.0)
    check.equal(str(np.asarray(found).dtype), "float64", f"{case}: the dtype of the result")
for bad in (-1, -3, 3, 4, 99, -99, -101):
    check.raises(
        IndexError, lambda bad=bad: one_hot(np.array([[0, bad], [2, -100]]), 3), f"the target {bad} of three classes"
    )
    check.raises(IndexError, lambda bad=bad: one_hot(np.array(bad), 3), f"the target {bad} alone")
check.raises(IndexError, lambda: one_hot(np.array([0, -100]), 3, ignore_index=-1), "-100 where -1 is ignore_index")
check.close(one_hot(np.full((2, 2), 7), 3, ignore_index=7), np.zeros((2, 2, 3)), "nothing is asked anywhere")
### END HIDDEN TESTS


# %% alternative="one_hot"
def one_hot(targets, n_classes, ignore_index=-100):
    targets = np.asarray(targets)
    flat = [int(t) for t in targets.reshape(-1)]
    rows = np.zeros((len(flat), n_classes))
    for row, target in zip(rows, flat, strict=True):
        if target == ignore_index:
            continue
        if not 0 <= target < n_classes:
            raise IndexError(target)
        row[target] = 1
    print("rows:", len(rows))
    return rows.reshape(*targets.shape, n_classes)


# %% mistakes="one_hot"
{
    "a negative target marks a class counted from the end": [
        ("(targets < 0) | (targets >= n_classes)", "(targets < -n_classes) | (targets >= n_classes)"),
        ("hit = targets[..., None] ==", "hit = np.where(targets < 0, targets + n_classes, targets)[..., None] =="),
    ],
    "ignored places are marked as class 0": (
        "return (hit & counts[..., None])",
        "return (np.where(counts, targets, 0)[..., None] == np.arange(n_classes))",
    ),
    "where ignore_index is a class, its places count all the same": ("(hit & counts[..., None])", "hit"),
    "a negative target is not refused and gives a row of zeros": (
        "(targets < 0) | (targets >= n_classes)",
        "targets >= n_classes",
    ),
    "a target that is too large is not refused and gives a row of zeros": (
        "((targets < 0) | (targets >= n_classes))",
        "(targets < 0)",
    ),
    "a target of n_classes is not refused": ("targets >= n_classes", "targets > n_classes"),
    "class 0 is refused, as if classes began at 1": ("targets < 0", "targets <= 0"),
    "ignored places are refused, too": ("np.any(counts & (", "np.any(("),
    "only -100 is ignored, whatever ignore_index says": (
        "counts = targets != ignore_index",
        "counts = targets != -100",
    ),
    "all negative targets are ignored and no others": [
        ("counts = targets != ignore_index", "counts = targets >= 0"),
    ],
    "the classes are counted from 1": ("np.arange(n_classes)", "np.arange(1, n_classes + 1)"),
    "ones and zeros have changed places": ("(hit & counts[..., None])", "(~hit & counts[..., None])"),
    "the classes come first and the places behind them": (
        "return (hit & counts[..., None]).astype(np.float64)",
        "return np.moveaxis((hit & counts[..., None]).astype(np.float64), -1, 0)",
    ),
    "the rows hold booleans": (".astype(np.float64)", ""),
    "the rows are float32": (".astype(np.float64)", ".astype(np.float32)"),
    "the rows of ignored places hold 1 / n_classes everywhere": (
        "return (hit & counts[..., None]).astype(np.float64)",
        "return np.where(counts[..., None], hit, 1 / n_classes)",
    ),
}

# %% [markdown]
# ## Exercise 3 · `CrossEntropy`
#
# Now the loss itself, as an object with a `forward` and a `backward` like every layer of the chapter. It stands at the end, so nobody hands it a gradient: its `backward` takes no
# argument and starts the chain. Two options belong to it.
#
# - *Ignored places.* The loss is the mean over the places that count. The gradient of a mean has the same divisor, and it is zero at the others.
# - *Label smoothing.* It asks for a little less than certainty: a share $\varepsilon$ of what is wanted is spread evenly over all $V$ classes, the right one
#   included. The wanted row is $y = (1 - \varepsilon)\cdot\text{one-hot} + \varepsilon / V$, the loss of a place is $-\sum_i y_i \ln p_i$, and the gradient is still $p - y$.
#
# With $p = (\tfrac58, \tfrac28, \tfrac18)$, answer 1 right and $\varepsilon = 0.3$, $y$ is $(0.1, 0.8, 0.1)$, so the loss is
# $0.1 \cdot 0.470 + 0.8 \cdot 1.386 + 0.1 \cdot 2.079 = 1.364$.
#
# *Difficulty 4 of 5 · 30 minutes · 7 points*


# %% exercise="CrossEntropy" difficulty=4 minutes=30 forbid=["cross_entropy", "nll_loss", "log_softmax", "logsumexp", "torch.tensor", "torch.as_tensor", "torch.from_numpy"]
class CrossEntropy(Layer):
    """The mean surprise over all places that count, and its gradient for the logits. There are no parameters.

    Args:
        ignore_index: places with this target do not count, neither in the sum nor in its divisor. It may be a class.
        label_smoothing: the share from 0 to 1 of the wanted probability that is spread evenly over all V classes.

    Raises:
        ValueError: if label_smoothing is not between 0 and 1.

    Source: Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016, section 7, for label smoothing.
    """

    def __init__(self, ignore_index: int = -100, label_smoothing: float = 0.0):
        ### BEGIN SOLUTION
        if label_smoothing < 0 or label_smoothing > 1:
            raise ValueError(f"label_smoothing is between 0 and 1, got {label_smoothing}")
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing
        ### END SOLUTION

    def forward(self, logits: np.ndarray, targets: np.ndarray) -> float:
        """The loss.

        Args:
            logits: (..., V), float64 or float32, finite, as large as 10,000 in either direction, with any number of axes in
                front, also none.
            targets: (...) integers: classes from 0 to V - 1, or ignore_index.

        Returns:
            A Python float: the sum of the losses of all places that count, divided by their number. NaN if no place counts, as in
            PyTorch: a mean of nothing. As exact as the dtype allows, also where the logits are large: float32 logits of 10,000 and 10,000
            give 0.693147.

        Raises:
            ValueError: if targets do not have the leading shape of logits.
            IndexError: if a target is neither a class nor ignore_index.
        """
        ### BEGIN SOLUTION
        if targets.shape != logits.shape[:-1]:
            raise ValueError(f"targets {targets.shape} do not go with logits {logits.shape}")
        V = logits.shape[-1]
        right = one_hot(targets, V, self.ignore_index).astype(logits.dtype)  # (..., V)
        self.wanted = (1 - self.label_smoothing) * right + self.label_smoothing / V  # (..., V)
        moved = logits - logits.max(axis=-1, keepdims=True)  # first, so that no digit is lost beside a large number
        self.log_p = moved - log_sum_exp(moved)[..., None]  # (..., V)
        self.counts = targets != self.ignore_index  # (...)
        self.n = max(int(self.counts.sum()), 1)
        losses = -(self.wanted * self.log_p).sum(axis=-1)  # (...)
        return float(np.where(self.counts, losses, 0).sum() / self.n) if self.counts.any() else float("nan")
        ### END SOLUTION

    def backward(self) -> np.ndarray:
        """The gradient of the last loss for its logits.

        Returns:
            Array of the logits' shape and dtype: (p - y) / n, where p is the softmax, y what is wanted and n the number of places
            that count. Zeros at places that do not count, so zeros everywhere if none does.
        """
        ### BEGIN SOLUTION
        grad = (np.exp(self.log_p) - self.wanted) / self.n  # (..., V)
        return np.where(self.counts[..., None], grad, 0)
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Both passes need the same three things: what is wanted, the log-probabilities, and which places count. Compute them
# in <code>forward</code>, keep them in <code>self</code>, and <code>backward</code> is two lines.</details>
# <details><summary>A bigger nudge</summary>Subtract each row's largest logit first, then the <code>log_sum_exp</code> of what is left. Choose the places with
# <code>np.where</code>, add up, and divide by a number that is a plain Python integer and at least 1: an integer out of NumPy turns float32 into float64. The mean of nothing needs a
# word of its own.</details>

# %% test="CrossEntropy" points=3
from coursekit import check

import numpy as np

logits = np.log(np.array([[5.0, 2.0, 1.0], [1.0, 1.0, 2.0]]))
found = CrossEntropy().forward(logits, np.array([1, 2]))
check.close(found, (np.log(4) + np.log(2)) / 2, "p = 1/4 and p = 1/2 for the right answers: (ln 4 + ln 2) / 2")
three = np.concatenate([logits, [[9.0, 0.0, 0.0]]])
found = CrossEntropy().forward(three, np.array([1, 2, -100]))
check.close(found, (np.log(4) + np.log(2)) / 2, "a third place that is ignored")
found = CrossEntropy(label_smoothing=0.3).forward(three, np.array([1, -100, -100]))
check.close(found, 1.363980, "p = 5/8, 2/8, 1/8, answer 1 is right, label smoothing 0.3")
large = np.array([[10_000.0, 0.0], [0.0, 10_000.0], [0.0, 0.0]])
check.close(
    CrossEntropy().forward(large, np.array([0, 0, -100])), 5000.0, "certain and right, certain and wrong, ignored"
)
check.close(CrossEntropy().forward(large, np.full(3, -100)), float("nan"), "no place counts: NaN")
check.raises(ValueError, lambda: CrossEntropy().forward(logits, np.array([1])), "logits for two places, one target")
### BEGIN HIDDEN TESTS
import torch
from torch.nn import functional as F

cases = (
    ((3, 7), 11, -100, 0.0),
    ((3, 7), 11, -100, 0.1),
    ((4,), 6, -1, 0.2),
    ((2, 63), 5, 0, 0.0),
    ((2, 63), 5, 0, 0.3),
    ((2, 3, 5), 4, 3, 1.0),
    ((1, 1), 9, -100, 0.1),
    ((5,), 1, -100, 0.1),
    ((), 6, -100, 0.0),
)
for shape, V, ignore_index, label_smoothing in cases:
    draw = np.random.default_rng(check.seed(V))
    logits = 2 * draw.normal(size=(V, *shape)).transpose(*range(1, len(shape) + 1), 0)  # not contiguous
    targets = np.asarray(draw.integers(V, size=shape))
    if ignore_index >= 0:
        targets = np.where(targets == ignore_index, (ignore_index + 1) % V, targets)
    if targets.ndim:
        targets[np.arange(targets.size).reshape(shape) % 3 == 1] = ignore_index  # rows lose different numbers of places
    case = f"targets {shape}, V={V}, ignore_index={ignore_index}, label_smoothing={label_smoothing}"
    settings = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
    flat = torch.tensor(logits.reshape(-1, V).copy()), torch.tensor(targets.reshape(-1))
    want = F.cross_entropy(*flat, **settings)
    found = CrossEntropy(**settings).forward(logits, targets)
    # As arrays, since a check takes plain numbers for float32.
    check.close(np.array(found), want.numpy(), f"{case}: F.cross_entropy", atol=1e-11, rtol=1e-11)
    want = F.cross_entropy(flat[0].float(), flat[1], **settings)
    found = CrossEntropy(**settings).forward(logits.astype("float32"), targets)
    check.close(found, float(want), f"{case}, float32")
    check.equal(isinstance(found, float), True, f"{case}, float32: the loss is a Python float")
    check.close(
        CrossEntropy(**settings)(logits, targets.astype("int32")),
        float(F.cross_entropy(*flat, **settings)),
        f"{case}: called, with int32 targets",
    )
extreme = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [0.0, 1e4, 1e4], [7.0, 8.0, 9.0], [1e4, 1e4, -1e4]])
targets = np.array([2, 1, 2, -100, 0])
for row in range(5):
    answers = np.where(np.arange(5) == row, targets, -100)
    if row != 3:
        for dtype in ("float64", "float32"):
            want = F.cross_entropy(torch.tensor(extreme.astype(dtype)), torch.tensor(answers), label_smoothing=0.0)
            found = CrossEntropy().forward(extreme.astype(dtype), answers)
            check.close(
                found, float(want), f"logits of plus and minus 10,000, {dtype}, row {row}", atol=1e-6, rtol=1e-7
            )
want = F.cross_entropy(torch.tensor(extreme), torch.tensor(targets), label_smoothing=0.1)
found = CrossEntropy(label_smoothing=0.1).forward(extreme, targets)
check.close(np.array(found), want.numpy(), "logits of plus and minus 10,000, label smoothing", atol=1e-8, rtol=1e-10)
for wrong in ((2, 4), (3,), (2, 3, 1), (1, 3), (2, 1), ()):
    check.raises(
        ValueError,
        lambda wrong=wrong: CrossEntropy().forward(np.zeros((2, 3, 4)), np.zeros(wrong, dtype=int)),
        f"logits (2, 3, 4) and targets {wrong}",
    )
for wrong in (-0.1, 1.5):
    check.raises(ValueError, lambda wrong=wrong: CrossEntropy(label_smoothing=wrong), f"label_smoothing={wrong}")
for wrong in (-1, 4):
    check.raises(
        IndexError,
        lambda wrong=wrong: CrossEntropy().forward(np.zeros((1, 4)), np.array([wrong])),
        f"target {wrong} of 4",
    )
check.equal(list(CrossEntropy().parameters()), [], "a loss has no parameters")
### END HIDDEN TESTS

# %% test="CrossEntropy" points=4
from coursekit import check

import numpy as np

logits = np.log(np.array([[5.0, 2.0, 1.0]]))
loss = CrossEntropy()
loss.forward(logits, np.array([1]))
by_hand = np.array([[5 / 8, -3 / 4, 1 / 8]])
check.close(loss.backward(), by_hand, "p = 5/8, 2/8, 1/8, answer 1 is right: p - y")
loss.forward(np.repeat(logits, 3, axis=0), np.array([1, -100, 2]))
halves = np.array([by_hand[0] / 2, [0.0, 0.0, 0.0], [5 / 16, 2 / 16, -7 / 16]])
check.close(loss.backward(), halves, "three places, the second is ignored: two rows divided by two, and zeros")
loss = CrossEntropy(label_smoothing=0.3)
loss.forward(logits, np.array([1]))
check.close(loss.backward(), np.array([[0.525, -0.55, 0.025]]), "with label smoothing 0.3: y = (0.1, 0.8, 0.1)")
### BEGIN HIDDEN TESTS
import torch
from torch.nn import functional as F


def by_autograd(logits, targets, **settings):
    leaf = torch.tensor(np.array(logits), requires_grad=True)
    flat = leaf.reshape(-1, leaf.shape[-1]), torch.tensor(np.array(targets)).reshape(-1)
    F.cross_entropy(*flat, **settings).backward()
    return leaf.grad.numpy()


for shape, V, ignore_index, label_smoothing in (
    ((3, 7), 11, -100, 0.0),
    ((3, 7), 11, -100, 0.1),
    ((4,), 6, -1, 0.2),
    ((2, 63), 5, 0, 0.3),
    ((2, 3, 5), 4, 3, 1.0),
    ((1, 1), 9, -100, 0.0),
    ((5,), 1, -100, 0.1),
    ((), 6, -100, 0.0),
):
    draw = np.random.default_rng(check.seed(V))
    logits = 2 * draw.normal(size=(V, *shape)).transpose(*range(1, len(shape) + 1), 0)  # not contiguous
    targets = np.asarray(draw.integers(V, size=shape))
    if ignore_index >= 0:
        targets = np.where(targets == ignore_index, (ignore_index + 1) % V, targets)
    if targets.ndim:
        targets[np.arange(targets.size).reshape(shape) % 3 == 1] = ignore_index  # rows lose different numbers of places
    case = f"targets {shape}, V={V}, ignore_index={ignore_index}, label_smoothing={label_smoothing}"
    settings = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
    loss = CrossEntropy(**settings)
    loss.forward(logits, targets)
    check.close(loss.backward(), by_autograd(logits, targets, **settings), f"{case}: autograd", atol=1e-11, rtol=1e-11)
    loss.forward(logits.astype("float32"), targets)
    found = loss.backward()
    check.close(found, by_autograd(logits.astype("float32"), targets, **settings), f"{case}, float32", atol=1e-6)
    check.equal(str(found.dtype), "float32", f"{case}, float32: the dtype of the gradient")
extreme = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [0.0, 1e4, 1e4], [7.0, 8.0, 9.0]])
targets = np.array([2, 1, 2, -100])
for label_smoothing in (0.0, 0.1):
    loss = CrossEntropy(label_smoothing=label_smoothing)
    loss.forward(extreme, targets)
    want = by_autograd(extreme, targets, label_smoothing=label_smoothing)
    case = f"logits of plus and minus 10,000, label_smoothing={label_smoothing}"
    check.close(loss.backward(), want, case, atol=1e-8)
loss = CrossEntropy()
loss.forward(np.ones((2, 3, 4)), np.full((2, 3), -100))
check.close(loss.backward(), np.zeros((2, 3, 4)), "no place counts: zeros")
draw = np.random.default_rng(check.seed(1))
logits, other = draw.normal(size=(2, 5, 4)), draw.normal(size=(3, 4))
targets = np.array([[0, 3, -100, 1, 2], [3, -100, -100, 0, 0]])
loss.forward(other, np.array([0, 1, 2]))
loss.forward(logits, targets[::-1])
loss.forward(logits, targets)
check.close(
    loss.backward(), by_autograd(logits, targets), "several forwards, then a backward: it is about the last", atol=1e-8
)
check.close(loss.backward(), by_autograd(logits, targets), "backward again gives the same again", atol=1e-8)

# Against the definition: move one logit a little, and watch the loss.
loss = CrossEntropy(label_smoothing=0.2)
loss.forward(logits, targets)
found = loss.backward()
for place in ((0, 0, 0), (0, 1, 2), (0, 2, 1), (1, 4, 0), (1, 3, 3)):
    losses = []
    for sign in (1, -1):
        moved = logits.copy()
        moved[place] += sign * 1e-4
        losses.append(CrossEntropy(label_smoothing=0.2).forward(moved, targets))
    slope = (losses[0] - losses[1]) / 2e-4
    check.close(float(found[place]), slope, f"the gradient at {list(place)} is the slope of the loss", atol=1e-7)
### END HIDDEN TESTS


# %% alternative="CrossEntropy"
class CrossEntropy(Layer):
    # One place after the other.
    def __init__(self, ignore_index=-100, label_smoothing=0.0):
        if not 0 <= label_smoothing <= 1:
            raise ValueError(label_smoothing)
        self.ignored, self.share = ignore_index, label_smoothing

    def forward(self, logits, targets):
        if np.shape(targets) != np.shape(logits)[:-1]:
            raise ValueError("shapes")
        self.grad = np.zeros(logits.shape, logits.dtype)
        V, total, number = logits.shape[-1], 0.0, 0
        answers = [int(t) for t in np.ravel(targets)]
        rows = self.grad.reshape(-1, V)
        for i, (row, target) in enumerate(zip(logits.reshape(-1, V).astype("float64"), answers, strict=True)):
            if target == self.ignored:
                continue
            if target < 0 or target >= V:
                raise IndexError(target)
            surprise = -(row - row.max()) + np.log(np.exp(row - row.max()).sum())
            total += (1 - self.share) * surprise[target] + self.share * surprise.mean()
            rows[i] = np.exp(-surprise) - self.share / V
            rows[i, target] -= 1 - self.share
            number += 1
        self.grad /= max(number, 1)
        print("places that count:", number)
        return float(total / number) if number else float("nan")

    def backward(self):
        return self.grad.copy()


# %% alternative="CrossEntropy"
class CrossEntropy(Layer):
    # The softmax of Lab 0.2, and only the places that count.
    def __init__(self, ignore_index=-100, label_smoothing=0.0):
        if label_smoothing < 0 or label_smoothing > 1:
            raise ValueError("label_smoothing")
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing

    def forward(self, logits, targets):
        targets = np.array(targets)
        if targets.shape != logits.shape[:-1]:
            raise ValueError("shapes")
        self.shape, self.keep = logits.shape, targets.reshape(-1) != self.ignore_index
        rows, V = logits.reshape(-1, logits.shape[-1])[self.keep], logits.shape[-1]
        self.y = np.full(rows.shape, self.label_smoothing / V, dtype=logits.dtype)
        answers = targets.reshape(-1)[self.keep]
        if np.any(answers < 0):
            raise IndexError("negative")
        self.y[np.arange(len(rows)), answers] += 1 - self.label_smoothing
        self.p = softmax(rows)
        moved = rows - rows.max(axis=-1, keepdims=True)
        log_p = moved - np.log(np.exp(moved).sum(axis=-1, keepdims=True))
        return -float((self.y * log_p).sum(dtype="float64")) / len(rows) if len(rows) else float("nan")

    def backward(self):
        grad = np.zeros((len(self.keep), self.shape[-1]), dtype=self.p.dtype)
        grad[self.keep] = (self.p - self.y) / max(len(self.p), 1)
        return grad.reshape(self.shape)


# %% mistakes="CrossEntropy"
{
    "the gradient is not divided by the number of places that count": (
        "(np.exp(self.log_p) - self.wanted) / self.n",
        "(np.exp(self.log_p) - self.wanted)",
    ),
    "the gradient is divided by the number of all places, ignored ones included": (
        "(np.exp(self.log_p) - self.wanted) / self.n",
        "(np.exp(self.log_p) - self.wanted) / max(self.counts.size, 1)",
    ),
    "loss and gradient are divided by the number of all places, ignored ones included": (
        "self.n = max(int(self.counts.sum()), 1)",
        "self.n = max(self.counts.size, 1)",
    ),
    "each text is averaged by itself, and then the texts": (
        "np.where(self.counts, losses, 0).sum() / self.n",
        "(np.where(self.counts, losses, 0).sum(-1) / np.maximum(self.counts.sum(-1), 1)).mean()",
    ),
    "the softmax is taken twice: probabilities are treated as logits": (
        "V = logits.shape[-1]",
        "V = logits.shape[-1]\n        logits = softmax(logits)",
    ),
    "only the right class gets a gradient, as when the Jacobian of the softmax is taken for its diagonal": [
        ("V = logits.shape[-1]", "V = logits.shape[-1]\n        self.hit = one_hot(targets, V, self.ignore_index)"),
        (
            "(np.exp(self.log_p) - self.wanted) / self.n",
            "((np.exp(self.log_p) - self.wanted) * self.hit / self.n).astype(self.log_p.dtype)",
        ),
    ],
    "the gradient is that for the log-probabilities, -y, and the softmax is left out of the chain": (
        "(np.exp(self.log_p) - self.wanted)",
        "(-self.wanted)",
    ),
    "the gradient is that for the probabilities, -y / p, and the softmax is left out of the chain": (
        "(np.exp(self.log_p) - self.wanted)",
        "(-self.wanted / np.exp(self.log_p))",
    ),
    "the gradient is that of a squared error, with p (1 - p) as a factor": (
        "(np.exp(self.log_p) - self.wanted)",
        "((np.exp(self.log_p) - self.wanted) * np.exp(self.log_p) * (1 - np.exp(self.log_p)))",
    ),
    "the logarithms of the probabilities are used in the place of p": (
        "(np.exp(self.log_p) - self.wanted)",
        "(self.log_p - self.wanted)",
    ),
    "the sign of the gradient is wrong: y - p, which climbs": (
        "(np.exp(self.log_p) - self.wanted)",
        "(self.wanted - np.exp(self.log_p))",
    ),
    "ignored places get a gradient: what the model said there is pushed down": (
        "np.where(self.counts[..., None], grad, 0)",
        "grad",
    ),
    "ignored places count as if class 0 were right there": (
        "V = logits.shape[-1]",
        "V = logits.shape[-1]\n        targets = np.where(targets == self.ignore_index, int(self.ignore_index == 0), targets)",
    ),
    "the losses of ignored places are added up, too": ("np.where(self.counts, losses, 0).sum()", "losses.sum()"),
    "label_smoothing changes the loss, but not its gradient": [
        (
            "V = logits.shape[-1]",
            "V = logits.shape[-1]\n        self.hit = one_hot(targets, V, self.ignore_index).astype(logits.dtype)",
        ),
        ("(np.exp(self.log_p) - self.wanted)", "(np.exp(self.log_p) - self.hit)"),
    ],
    "label_smoothing is ignored": ("(1 - self.label_smoothing) * right + self.label_smoothing / V", "right"),
    "with smoothing the right class wants 1 - label_smoothing, without its own share": (
        "(1 - self.label_smoothing) * right + self.label_smoothing / V",
        "(1 - self.label_smoothing) * right + self.label_smoothing / V * (1 - right)",
    ),
    "the smoothing mass goes to the V - 1 wrong classes only": (
        "(1 - self.label_smoothing) * right + self.label_smoothing / V",
        "(1 - self.label_smoothing) * right + self.label_smoothing / max(V - 1, 1) * (1 - right)",
    ),
    "with smoothing the right class keeps its full weight": (
        "(1 - self.label_smoothing) * right +",
        "right +",
    ),
    "with smoothing every class gets the whole of label_smoothing": (
        "self.label_smoothing / V",
        "self.label_smoothing",
    ),
    "label_smoothing and 1 - label_smoothing have changed places": (
        "(1 - self.label_smoothing) * right + self.label_smoothing / V",
        "self.label_smoothing * right + (1 - self.label_smoothing) / V",
    ),
    "the softmax comes first and the logarithm second, so small probabilities are rounded to zero": (
        "self.log_p = moved - log_sum_exp(moved)[..., None]",
        "self.log_p = np.log(softmax(logits))",
    ),
    "a small number is added to the probability before the logarithm, so the loss has a ceiling": (
        "self.log_p = moved - log_sum_exp(moved)[..., None]",
        "self.log_p = np.log(softmax(logits) + 1e-8)",
    ),
    "the largest logit is not subtracted first, and beside a large number the last digits are lost": (
        "moved = logits - logits.max(axis=-1, keepdims=True)",
        "moved = logits",
    ),
    "the losses are added up and not averaged": (
        "np.where(self.counts, losses, 0).sum() / self.n",
        "np.where(self.counts, losses, 0).sum()",
    ),
    "the sign of the loss is wrong: the mean log-probability is returned": ("losses = -(self", "losses = (self"),
    "the loss is in bits and not in nats": (
        "np.where(self.counts, losses, 0).sum() / self.n",
        "np.where(self.counts, losses, 0).sum() / self.n / np.log(2)",
    ),
    "the loss is divided by the number of classes as well": (
        "np.where(self.counts, losses, 0).sum() / self.n",
        "np.where(self.counts, losses, 0).sum() / self.n / V",
    ),
    "the loss of an empty batch is 0 and not NaN, so it looks perfect": ('if self.counts.any() else float("nan")', ""),
    "backward uses the targets of the first forward and not those of the last": [
        (
            "self.counts = targets != self.ignore_index",
            'self.counts = targets != self.ignore_index; self.kept = getattr(self, "kept", self.wanted)',
        ),
        ("(np.exp(self.log_p) - self.wanted)", "(np.exp(self.log_p) - self.kept)"),
    ],
    "fewer targets than places are not refused": (
        "if targets.shape != logits.shape[:-1]:",
        "targets = targets.copy() if targets.shape == logits.shape[:-1] else np.resize(targets, logits.shape[:-1])\n        if False:",
    ),
    "a label_smoothing outside 0 to 1 is not refused": ("if label_smoothing < 0 or label_smoothing > 1:", "if False:"),
    "only targets of -100 are ignored, whatever ignore_index says": (
        "self.ignore_index, self.label_smoothing = ignore_index, label_smoothing",
        "self.ignore_index, self.label_smoothing = -100, label_smoothing",
    ),
    "the gradient is float64, whatever the dtype of the logits": (".astype(logits.dtype)", ""),
}

# %% [markdown]
# Is $p - y$ worth a formula of its own? You have a backward pass for the softmax already, from Lab 0.2, and the derivative of $-\ln p$ is $-1/p$ at the right class. Here is the long way beside
# the short one, for the three logits of "The idea", times 1, 10, 100 and 1,000.

# %%
logits, y = np.log(np.array([[5.0, 2.0, 1.0]])), one_hot(np.array([1]), 3)
loss = CrossEntropy()
for factor in (1, 10, 100, 1000):
    p = softmax(factor * logits)
    with np.errstate(all="ignore"):
        long_way = softmax_backward(-y / p, p)
    loss(factor * logits, np.array([1]))
    print(f"times {factor:4}   long way {long_way.round(6)}   p - y {loss.backward().round(6)}")

# %% [markdown]
# On paper they are the same. In floating point the long way divides by a probability, only to multiply by it again, and when it has been rounded to zero there is nothing left to
# multiply. This is why libraries offer one function for both, and why it takes logits.
#
# ## Exercise 4 · `accuracy`
#
# The loss is for the model, and the share of right answers is for people. It says less: it does not see how sure an answer was, and no gradient comes out of it, because
# a small step of a logit changes no answer. The mean is over the places that count, as before.
#
# *Difficulty 1 of 5 · 10 minutes · 2 points*


# %% exercise="accuracy" difficulty=1 minutes=10 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
def accuracy(logits: np.ndarray, targets: np.ndarray, ignore_index: int = -100) -> float:
    """The share of places where the largest logit is at the right class.

    Args:
        logits: (..., V), finite, with any number of axes in front, also none. Where several share the largest value, the first
            of them is the answer.
        targets: (...) integers: classes from 0 to V - 1, or ignore_index.
        ignore_index: places with this target do not count, neither as right nor as wrong. It may be a class.

    Returns:
        A Python float between 0 and 1; NaN if no place counts.

    Raises:
        ValueError: if targets do not have the leading shape of logits.
    """
    ### BEGIN SOLUTION
    if targets.shape != logits.shape[:-1]:
        raise ValueError(f"targets {targets.shape} do not go with logits {logits.shape}")
    counts = targets != ignore_index  # (...)
    right = counts & (logits.argmax(axis=-1) == targets)  # (...)
    return float(right.sum() / counts.sum()) if counts.any() else float("nan")
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Two booleans for each place: does it count, and is the answer right? Two sums, one division.</details>
# <details><summary>A bigger nudge</summary><code>argmax</code> over the classes takes the first of equals. A place that is ignored must not be counted as right, even if the model's
# answer happens to be the number of ignore_index.</details>

# %% test="accuracy" points=2
from coursekit import check

import numpy as np

logits = np.array([[1.0, 5.0, 2.0], [4.0, 1.0, 4.0], [0.0, 1.0, 2.0], [9.0, 0.0, 0.0]])
check.close(
    accuracy(logits, np.array([1, 0, 2, 2])), 0.75, "three of four; in the second row two share the largest value"
)
check.close(accuracy(logits, np.array([1, 2, -100, -100])), 0.5, "one of two: the first of equals is the answer")
check.close(accuracy(logits, np.array([1, 0, 1, 0]), ignore_index=0), 0.5, "class 0 is ignored: one of two")
check.close(accuracy(logits, np.full(4, -100)), float("nan"), "no place counts: NaN")
check.raises(ValueError, lambda: accuracy(logits, np.array([1])), "logits for four places, one target")
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(1))
for shape, V, ignore_index in (
    ((3, 7), 3, -100),
    ((1, 63), 4, -1),
    ((2, 3, 4), 2, 1),
    ((), 1, -100),
    ((9,), 5, 0),
    ((5,), 1, -100),
):
    logits = draw.integers(4, size=(*shape, V)).astype("float64")  # many equals
    targets = np.asarray(draw.integers(V, size=shape))
    if targets.ndim:
        targets.reshape(-1)[1::3] = ignore_index
        targets.reshape(-1)[0] = (ignore_index + 1) % V if ignore_index >= 0 else 0
    case = f"targets {shape}, V={V}, ignore_index={ignore_index}"
    keep = torch.tensor(targets != ignore_index)
    first = torch.tensor([[row.index(max(row)) for row in logits.reshape(-1, V).tolist()]]).reshape(shape)
    want = (first == torch.tensor(targets))[keep].double().mean()
    check.close(accuracy(logits, targets, ignore_index), float(want), case, atol=1e-12)
    check.close(
        accuracy(logits.astype("float32"), targets.astype("int32"), ignore_index),
        float(want),
        f"{case}, float32",
        atol=1e-12,
    )
    check.equal(isinstance(accuracy(logits, targets, ignore_index), float), True, f"{case}: a Python float")
check.close(accuracy(np.array([[-5.0, -1e4], [-1e4, 1e4]]), np.array([0, 1])), 1.0, "negative and large logits")
for wrong in ((2, 4), (3,), (2, 3, 1), (1, 3), ()):
    check.raises(
        ValueError,
        lambda wrong=wrong: accuracy(np.zeros((2, 3, 4)), np.zeros(wrong, dtype=int)),
        f"logits (2, 3, 4) and targets {wrong}",
    )
### END HIDDEN TESTS


# %% alternative="accuracy"
def accuracy(logits, targets, ignore_index=-100):
    if np.shape(targets) != logits.shape[:-1]:
        raise ValueError("shapes")
    rows = logits.reshape(-1, logits.shape[-1]).tolist()
    asked = [(row, t) for row, t in zip(rows, np.ravel(targets).tolist(), strict=True) if t != ignore_index]
    print(len(asked), "places count")
    return sum(row.index(max(row)) == t for row, t in asked) / len(asked) if asked else float("nan")


# %% mistakes="accuracy"
{
    "ignored places count as wrong": ("right.sum() / counts.sum()", "right.sum() / counts.size"),
    "an ignored place counts as right if the answer happens to be ignore_index": (
        "right = counts & (logits.argmax(axis=-1) == targets)",
        "right = logits.argmax(axis=-1) == targets",
    ),
    "ignored places count as right": ("right = counts & (", "right = ~counts | ("),
    "ignored places count as right, and in the divisor": [
        ("right = counts & (", "right = ~counts | ("),
        ("right.sum() / counts.sum()", "right.sum() / counts.size"),
    ],
    "among equals the last one is the answer": (
        "logits.argmax(axis=-1)",
        "(logits.shape[-1] - 1 - logits[..., ::-1].argmax(axis=-1))",
    ),
    "any class that shares the largest value counts as an answer": (
        "(logits.argmax(axis=-1) == targets)",
        "(np.take_along_axis(logits, np.maximum(targets, 0)[..., None] % logits.shape[-1], axis=-1)[..., 0] == logits.max(axis=-1))",
    ),
    "the smallest logit is taken for the answer": ("logits.argmax(", "logits.argmin("),
    "the logit with the largest absolute value is taken for the answer": ("logits.argmax(", "np.abs(logits).argmax("),
    "the share of wrong answers is returned": (
        "float(right.sum() / counts.sum())",
        "float(1 - right.sum() / counts.sum())",
    ),
    "the number of right answers is returned": ("float(right.sum() / counts.sum())", "float(right.sum())"),
    "percent are returned": ("float(right.sum() / counts.sum())", "float(100 * right.sum() / counts.sum())"),
    "the accuracy of nothing is 0 and not NaN": ('float("nan")', "0.0"),
    "the accuracy of nothing is 1 and not NaN": ('float("nan")', "1.0"),
    "only targets of -100 are ignored, whatever ignore_index says": ("targets != ignore_index", "targets != -100"),
    "fewer targets than places are not refused, and are compared by broadcasting": (
        "if targets.shape != logits.shape[:-1]:",
        "if False:",
    ),
    "each text is averaged by itself, and then the texts": (
        "float(right.sum() / counts.sum())",
        "float((right.sum(axis=-1) / np.maximum(counts.sum(axis=-1), 1)).mean())",
    ),
}

# %% [markdown]
# ## Exercise 5 · `Temperature`
#
# Divide all logits by a number $T$ before the softmax. The order of the answers stays, and so does the accuracy. But how sure the model is changes: with $T = 2$ a probability ratio of 100
# becomes 10, with $T = \tfrac12$ it becomes 10,000. So there is a $T$ at which the probabilities are most honest, and the loss finds it: fit $T$ on texts that the model has not
# been trained on, and leave everything else as it is. (Guo and others, 2017.)
#
# Make it a layer with one learned number. Its backward pass is your test of the chain rule. With $u = z / T$,
#
# $$ \frac{\partial L}{\partial z} = \frac1T\,\frac{\partial L}{\partial u}, \qquad \frac{\partial L}{\partial T} = \sum \frac{\partial L}{\partial u} \cdot \frac{\partial u}{\partial T} . $$
#
# One number, used by every logit of every place: you know what that means.
#
# *Difficulty 3 of 5 · 20 minutes · 4 points*


# %% exercise="Temperature" difficulty=3 minutes=20 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
class Temperature(Layer):
    """Divide logits by one learned number.

    Args:
        initial: its first value, larger than 0.

    Parameters:
        ``temperature`` (1,), float64: a `Parameter` like any other.

    Raises:
        ValueError: if initial is not larger than 0.

    Source: Guo et al., On Calibration of Modern Neural Networks, 2017, section 4.2.
    """

    def __init__(self, initial: float = 1.0):
        ### BEGIN SOLUTION
        if initial <= 0:
            raise ValueError(f"a temperature is larger than 0, got {initial}")
        self.temperature = Parameter(np.array([initial]))
        ### END SOLUTION

    def forward(self, logits: np.ndarray) -> np.ndarray:
        """Divide all logits by the temperature.

        Args:
            logits: an array of any shape, of the parameter's dtype.

        Returns:
            Array of the same shape and dtype.
        """
        ### BEGIN SOLUTION
        self.logits = logits
        return logits / self.temperature.value
        ### END SOLUTION

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for the logits; adds to ``temperature.grad``, on top of what is there.

        Args:
            grad: the gradient of the loss for the output of the last `forward`, of its shape.

        Returns:
            Array of the same shape.
        """
        ### BEGIN SOLUTION
        T = self.temperature.value  # (1,)
        self.temperature.grad += -(grad * self.logits).sum() / T**2  # every logit adds its part
        return grad / T
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>What is the derivative of z / T for T, if z is a plain number? Each logit contributes one such slope, times the gradient that arrives at its
# place.</details>
# <details><summary>A bigger nudge</summary>The sum runs over all axes: batch, places and classes. Keep the logits of the last <code>forward</code>, not the divided ones; with those
# the formula would have a T less.</details>

# %% test="Temperature" points=4
from coursekit import check

import numpy as np

z = np.array([[4.0, 2.0], [0.0, -6.0], [4.0, 0.0]])
layer = Temperature()
check.equal({n: list(p.value.shape) for n, p in layer.parameters().items()}, {"temperature": [1]}, "the one parameter")
check.close(layer.temperature.value, np.array([1.0]), "the first temperature is 1 where nothing is said")
layer.temperature.value = np.array([0.5])
check.close(layer.forward(z), 2 * z, "at temperature 1/2 the logits are doubled")
layer = Temperature(2.0)
grad = np.array([[1.0, 0.0], [5.0, 10.0], [2.0, 4.0]])
found = passes(layer, (z,), grad)
check.close(found["output"], np.array([[2.0, 1.0], [0.0, -3.0], [2.0, 0.0]]), "three places at temperature 2")
check.close(found.get("grad", np.nan), np.array([[0.5, 0.0], [2.5, 5.0], [1.0, 2.0]]), "the gradient for the logits")
check.close(found["grad.temperature"], np.array([12.0]), "the gradient for T: -(1 * 4 + 10 * -6 + 2 * 4) / 4")
layer.backward(grad)
check.close(layer.temperature.grad, np.array([24.0]), "backward once more: the gradients add up")
check.raises(ValueError, lambda: Temperature(-1.0), "a temperature of -1")
check.raises(ValueError, lambda: Temperature(0.0), "a temperature of 0")
### BEGIN HIDDEN TESTS
import torch

draw = np.random.default_rng(check.seed(1))
for shape, T in (((3, 7, 5), 0.3), ((1, 63), 1.7), ((7,), 1.0), ((2, 3, 4, 5), 12.0), ((4, 1), 0.5)):
    case = f"logits of shape {shape}, T={T}"
    z, grad = draw.normal(size=shape), draw.normal(size=shape)
    leaves = torch.tensor(z, requires_grad=True), torch.tensor([T], dtype=torch.float64, requires_grad=True)
    output = leaves[0] / leaves[1]
    output.backward(torch.tensor(grad))
    layer = Temperature(T)
    found = passes(layer, (z,), grad)
    check.close(found["output"], output.detach().numpy(), f"{case}: the output", atol=1e-8, rtol=1e-8)
    check.close(found.get("grad", np.nan), leaves[0].grad.numpy(), f"{case}: the gradient for z", atol=1e-8, rtol=1e-8)
    check.close(found["grad.temperature"], leaves[1].grad.numpy(), f"{case}: the gradient for T", atol=1e-8, rtol=1e-8)
    layer = Temperature(T)
    layer.forward(z[..., ::-1] + 1.0)
    layer.forward(z)
    layer.backward(grad)
    layer.backward(grad)
    check.close(
        layer.temperature.grad,
        2 * leaves[1].grad.numpy(),
        f"{case}: two forwards, and two backwards for the second",
        atol=1e-8,
        rtol=1e-8,
    )
    layer.astype("float32")
    found = passes(layer, (z.astype("float32"),), grad.astype("float32"))
    check.equal(sorted({str(v.dtype) for v in found.values()}), ["float32"], f"{case}: after astype('float32')")

# With a loss behind it, against the definition.
logits, targets = 3 * draw.normal(size=(2, 5, 4)), np.array([[0, 3, -100, 1, 2], [3, -100, -100, 0, 0]])
leaf = torch.tensor([1.5], dtype=torch.float64, requires_grad=True)
answers = torch.tensor(targets).reshape(-1)
torch.nn.functional.cross_entropy(torch.tensor(logits).reshape(-1, 4) / leaf, answers).backward()
losses = []
for T in (1.5 + 1e-4, 1.5 - 1e-4):
    scaled = Temperature(T).forward(logits)
    losses.append(float(torch.nn.functional.cross_entropy(torch.tensor(scaled).reshape(-1, 4), answers)))
at = torch.tensor(logits / 1.5, requires_grad=True)
torch.nn.functional.cross_entropy(at.reshape(-1, 4), answers).backward()
layer = Temperature(1.5)
slope = float(passes(layer, (logits,), at.grad.numpy())["grad.temperature"][0])
check.close(slope, float(leaf.grad[0]), "the slope of a cross-entropy for T, by autograd", atol=1e-8)
check.close(slope, (losses[0] - losses[1]) / 2e-4, "the slope of a cross-entropy for T, by its definition", atol=1e-6)
for wrong in (0.0, -1.0, -1e-9):
    check.raises(ValueError, lambda wrong=wrong: Temperature(wrong), f"a temperature of {wrong}")
check.equal(str(Temperature(2).temperature.value.dtype), "float64", "a temperature given as the integer 2: the dtype")
check.close(Temperature(1e-3).forward(np.ones(2)), np.full(2, 1000.0), "a small temperature is allowed")
### END HIDDEN TESTS


# %% alternative="Temperature"
class Temperature(Layer):
    def __init__(self, initial=1.0):
        if not initial > 0:
            raise ValueError(initial)
        self.temperature = Parameter([float(initial)])

    def forward(self, logits):
        self.factor = 1 / self.temperature.value
        self.output = logits * self.factor
        return self.output

    def backward(self, grad):
        total = np.einsum("i,i->", grad.reshape(-1), self.output.reshape(-1))
        print("slope", total)
        self.temperature.grad = self.temperature.grad - total * self.factor
        return self.factor * grad


# %% mistakes="Temperature"
{
    "the gradient for T is averaged over the places, which the loss has done already": (
        "-(grad * self.logits).sum()",
        "-(grad * self.logits).sum() / max(grad[..., 0].size, 1)",
    ),
    "the gradient for T comes from the first row alone": (
        "(grad * self.logits).sum()",
        "(grad * self.logits)[:1].sum()",
    ),
    "the gradient for T comes from the last row alone": (
        "(grad * self.logits).sum()",
        "(grad * self.logits)[-1:].sum()",
    ),
    "the gradient for T has the wrong sign": ("+= -(grad", "+= (grad"),
    "the gradient for T is divided by T and not by its square": ("/ T**2", "/ T"),
    "the gradient for T is not divided at all": (".sum() / T**2", ".sum()"),
    "the divided logits are used in the gradient for T, and it is divided by the square all the same": (
        "(grad * self.logits).sum()",
        "(grad * self.logits / T).sum()",
    ),
    "the logits are left out of the gradient for T": ("(grad * self.logits).sum()", "grad.sum()"),
    "the gradient for T overwrites what was there": ("self.temperature.grad += -(", "self.temperature.grad = -("),
    "T gets no gradient, so it never learns": (
        "self.temperature.grad += -(grad * self.logits).sum() / T**2",
        "pass",
    ),
    "the gradient for the logits is not divided by T": ("return grad / T", "return grad"),
    "the gradient for the logits is multiplied by T": ("return grad / T", "return grad * T"),
    "the gradient for the logits is divided by the square of T": ("return grad / T", "return grad / T**2"),
    "backward returns nothing, so the model behind it never learns": ("return grad / T", "return None"),
    "backward uses the logits of the first forward and not those of the last": (
        "self.logits = logits\n",
        'self.logits = getattr(self, "logits", logits)\n',
    ),
    "the logits are multiplied by T, there and back": [
        ("return logits / self.temperature.value", "return logits * self.temperature.value"),
        ("+= -(grad * self.logits).sum() / T**2", "+= (grad * self.logits).sum()"),
        ("return grad / T", "return grad * T"),
    ],
    "the parameter is the logarithm of the temperature": [
        ("Parameter(np.array([initial]))", "Parameter(np.log(np.array([initial])))"),
        ("return logits / self.temperature.value", "return logits / np.exp(self.temperature.value)"),
        ("T = self.temperature.value", "T = np.exp(self.temperature.value)"),
        ("/ T**2", "/ T"),
    ],
    "probabilities are returned and not logits": (
        "return logits / self.temperature.value",
        "return softmax(logits / self.temperature.value)",
    ),
    "the temperature is no Parameter, so no optimiser can find it": [
        ("Parameter(np.array([initial]))", "np.array([initial])"),
        ("return logits / self.temperature.value", "return logits / self.temperature"),
        ("T = self.temperature.value", "T = self.temperature"),
        ("self.temperature.grad += -(grad * self.logits).sum() / T**2", "pass"),
    ],
    "the parameter has no axis": ("np.array([initial])", "np.array(initial)"),
    "the first temperature is 2 where nothing is said": ("initial: float = 1.0", "initial: float = 2.0"),
    "a temperature of 0 or less is not refused": ("if initial <= 0:", "if False:"),
    "a temperature of 0 is not refused": ("if initial <= 0:", "if initial < 0:"),
    "temperatures below 1 are refused": ("if initial <= 0:", "if initial < 1:"),
}

# %% [markdown]
# ## Look at it
#
# A model that is far too sure of itself is quickly made: count. From a short piece of text, count which letter follows each *pair* of letters, add a little to every count, and take the
# logarithms for logits. Whatever it has seen once it believes firmly. Then measure it on text that it has not seen, and let `Temperature`, your loss and plain
# gradient descent find out how much of that confidence was deserved.

# %%
from pydoc_data.topics import topics

characters = " abcdefghijklmnopqrstuvwxyz"
words = " ".join(
    "".join(c if c.isascii() and c.isalpha() else " " for c in topics[name].lower()) for name in sorted(topics)
)
ids = np.array([characters.index(c) for c in " ".join(words.split())])
V = len(characters)
before, after = ids[:-2] * V + ids[1:-1], ids[2:]  # pairs of letters, and what follows them
seen, fit, fresh = slice(0, 8_000), slice(50_000, 70_000), slice(100_000, 120_000)
counts = np.full((V * V, V), 0.01)
np.add.at(counts, (before[seen], after[seen]), 1)
logits = np.log(counts)[before]  # (places, V)

layer, loss, path = Temperature(), CrossEntropy(), []
for _ in range(60):
    value = loss(layer(logits[fit]), after[fit])
    path.append((layer.temperature.value[0], value))
    layer.zero_grad()
    layer.backward(loss.backward())
    layer.temperature.value -= 1.0 * layer.temperature.grad
T = layer.temperature.value[0]
print(
    f"the text that was counted: loss {loss(logits[seen], after[seen]):.3f}, accuracy {accuracy(logits[seen], after[seen]):.1%}"
)
for t in (1.0, T):
    held_out = Temperature(t)(logits[fresh])
    print(
        f"fresh text at T = {t:.2f}:  loss {loss(held_out, after[fresh]):.3f}, accuracy {accuracy(held_out, after[fresh]):.1%}",
        end="",
    )
    print(f", mean p of its first choice {softmax(held_out).max(axis=-1).mean():.1%}")
grid = np.geomspace(0.4, 12, 30)
curve = [loss(Temperature(t)(logits[fit]), after[fit]) for t in grid]
figure = go.Figure()
figure.add_scatter(x=grid, y=curve, name="loss at each temperature", mode="lines", line={"width": 3})
figure.add_scatter(
    x=[t for t, _ in path], y=[v for _, v in path], name="steps of gradient descent", mode="markers", marker={"size": 8}
)
figure.update_traces(hovertemplate="T = %{x:.2f}: loss %{y:.3f}")
figure.update_xaxes(title_text="temperature T", type="log", tickvals=[0.5, 1, 2, 4, 8])
figure.update_yaxes(title_text="loss on text that was not counted")
figure.update_layout(height=380, legend={"orientation": "h", "y": -0.25})
figure.show()

# %% [markdown]
# The accuracy is the same to the last digit, and the loss is not. Compare the last number of each line with the accuracy: at which temperature does the model know how often it is right? Why does the
# curve rise so much more steeply on the left, and where will it end on the right, as $T$ grows without bound? (You can say it to the last digit.)
#
# ## Common mistakes
#
# - **A softmax before the loss.** `CrossEntropy` takes logits. Give it probabilities, and it takes the softmax of numbers between 0 and 1: with 27 classes the loss can
#   never fall below $\ln(1 + 26/e) = 2.36$. It still trains, and badly.
# - **Two divisors.** Loss and gradient divide by the same number, the places that count. If the gradient has another divisor, only the learning rate seems to be off, by a factor that changes with
#   each batch.
# - **Dividing twice.** The mean is taken here and nowhere else. A layer further down that divides by the batch again is a mistake of Lab 0.1.
# - **-1 as padding, and an index.** `log_p[range(n), targets]` reads the last class where the target is -1. A comparison cannot do that.
# - **`log(p + 1e-8)`.** No error any more, and a loss that cannot exceed 18.4: where the model is badly wrong, its gradient vanishes.
# - **Comparing a smoothed loss with a plain one.** With label smoothing the lowest possible loss is not zero. How high it lies is on the page [Loss and perplexity](../../book/ch04_training/loss_and_perplexity.md).
# - **A fitted temperature on the training text.** There the model is as sure as it should be, and $T$ stays near 1. Confidence has to be judged on text that it has not seen.
#
# [Lab 0.7](lab07_backpropagation.ipynb) puts the whole model together and sends this gradient through all of it. The same loss in torch, with perplexity and bits per character, is in
# [Lab 4.1](../ch04_training/lab01_loss_functions.ipynb).
#
# ## Going further
#
# - **The second derivative.** The gradient is $p - y$. So the matrix of second derivatives is that of $p$ alone, $\operatorname{diag}(p) - p\,p^\top$. Show that it has no negative eigenvalue. What does that
#   say about the loss as a function of the logits, and why does it not say the same about the loss as a function of the weights?
# - **Easy places.** Most tokens of a text are easy, and their small gradients add up. The *focal loss* multiplies $-\ln p$ by $(1 - p)^\gamma$. Derive its gradient for the logits, and check it with finite differences. Is there still a form as
#   short as $p - y$? (Tsung-Yi Lin, Priya Goyal, Ross Girshick, Kaiming He, Piotr Dollár, Focal Loss for Dense Object Detection, 2017.)
