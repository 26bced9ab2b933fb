# ---
# title: Loss functions
# lab: ch04/lab01
# minutes: 85
# difficulty: 3
# hardware: cpu
# needs: [ch01/lab01, ch03/lab03]
# builds: [log_probabilities, cross_entropy, cross_entropy_gradient, perplexity, bits_per_character, sequence_log_prob]
# ---

# %% [markdown]
# # Lab 4.1 · Loss functions
#
# ## The idea
#
# A language model gives every token of its vocabulary a probability. Then the text shows which token it was. The
# *surprise* of that token is $-\ln p$: zero if the model was certain and right, large if it had thought the token
# almost impossible. Training lowers one number, the mean surprise. Its usual name is *cross-entropy*,
# and its unit, with the natural logarithm, the *nat*.
#
# In numbers: three tokens have the logits 1.609, 0.693 and 0, which are the logarithms of 5, 2 and 1. The softmax
# makes them 5/8, 2/8 and 1/8. If token 1 comes (we count from 0), the surprise is $-\ln(2/8) = \ln 4 = 1.386$. The gradient of this
# loss for the three logits is simply what the model said minus what was right:
#
# $$ \left(\tfrac58, \tfrac28, \tfrac18\right) - (0, 1, 0) = \left(\tfrac58, -\tfrac34, \tfrac18\right) $$
#
# The formulas fit on one line. The mistakes are in the averages. Suppose a batch holds three tokens with a surprise
# of $\ln 4$ each, and the next batch holds one token with $\ln 64$. *Perplexity* is the exponential of the mean
# surprise, and there are several ways to take a mean:
#
# | what is averaged | mean | perplexity |
# |---|---|---|
# | four tokens | $(3 \ln 4 + \ln 64)/4 = 1.5 \ln 4$ | 8 |
# | two batches | $(\ln 4 + \ln 64)/2 = 2 \ln 4$ | 16 |
# | the perplexities of two batches | $(4 + 64)/2$ | 34 |
#
# It is the same model and the same text each time. Only 8 is right. Add padding, a tokenizer and the difference
# between bits and nats, and there are a dozen ways to report a number that nobody can compare with anything.
#
# In this lab you build log-probabilities that survive logits of 10,000, then the loss with the options that PyTorch
# has, its gradient by hand, and the numbers that people report: perplexity, bits per character, the log-probability
# of a sentence. The judge is `torch.nn.functional.cross_entropy`. What the numbers mean is on the page [Loss and
# perplexity](../../book/ch04_training/loss_and_perplexity.md).
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `logits` | `(..., V)` | scores; each token of the vocabulary is a class, and the classes are on the *last* axis; PyTorch's `cross_entropy` wants them on the second |
# | `targets` | `(...)` | the number of the right class at each position, or `ignore_index` where there is none |
# | `log_p` | `(..., V)` | log-probabilities: 0 or less, their exponentials sum to one |
# | `batches` | list of `(logits, targets)` | sizes may differ from batch to batch |
# | `ids`, `mask` | `(B, T)` | the tokens themselves, *not* shifted; True where a token counts |

# %% given
import math

import torch

# %% [markdown]
# ## A picture
#
# Two classes, and the right one has the lower logit. The further it lies below, the more wrong the model is. The left
# panel shows the loss, the right one how hard the loss pulls the right logit up. Three programs compute them in
# float32: PyTorch's `log_softmax`, a softmax followed by a logarithm, and the popular remedy that adds $10^{-8}$
# before the logarithm is taken. Hover to read the numbers.

# %%
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from coursekit import plots

torch.set_num_threads(1)
gaps = torch.arange(0.0, 121.0, 1.0)
programs = {
    "log_softmax": lambda x: x.log_softmax(-1)[:, 0],
    "log(softmax)": lambda x: x.softmax(-1)[:, 0].log(),
    "log(softmax + 1e-8)": lambda x: (x.softmax(-1)[:, 0] + 1e-8).log(),
}
figure = make_subplots(
    rows=1, cols=2, subplot_titles=["loss (nats)", "pull on the right logit"], horizontal_spacing=0.1
)
dashes = dict(zip(programs, ("solid", "dash", "dot"), strict=True))
for colour, (name, program) in zip(plots.COLOURS, programs.items(), strict=False):
    logits = torch.stack([-gaps, torch.zeros_like(gaps)], dim=-1).requires_grad_()  # class 0 is right
    losses = -program(logits)
    losses.sum().backward()
    pulls = -logits.grad[:, 0]
    for panel, values in enumerate((losses.detach(), pulls), start=1):
        figure.add_trace(
            go.Scatter(
                x=gaps.tolist(),
                y=[value if math.isfinite(value) else None for value in values.tolist()],
                name=name,
                legendgroup=name,
                showlegend=panel == 1,
                line={"color": colour, "dash": dashes[name], "width": 8 if name == "log_softmax" else 3},
                opacity=0.5 if name == "log_softmax" else 1.0,
                hovertemplate="gap %{x:.0f}: %{y:.4g}<extra>" + name + "</extra>",
            ),
            row=1,
            col=panel,
        )
    last = int(torch.isfinite(losses).sum()) - 1
    print(f"{name:20} gap 50: loss {losses[50]:6.2f}, pull {pulls[50]:8.1e}   largest gap with a finite loss: {last}")
figure.update_xaxes(title_text="gap of the logits")
figure.update_yaxes(rangemode="tozero")
figure.update_layout(height=380, legend={"orientation": "h", "y": -0.25})
figure.show()

# %% [markdown]
# In the left panel the dashed line ends at a gap of a little over 100. Beyond it $e^{-\text{gap}}$ is rounded to zero,
# and zero has no logarithm. In the right panel it ends already at 88: the slope of the logarithm is $1/p$, and that is
# soon too large for float32. These are at least loud failures. The dotted program never fails. It stops at $-\ln 10^{-8} = 18.4$, and
# its pull is practically gone long before a gap of 50. A model that is badly wrong gets no correction where
# it needs it most. The broad line has neither flaw.
#
# ## Exercise 1 · `log_probabilities`
#
# Turn logits into log-probabilities. By definition
#
# $$ \ln p_i = x_i - \ln \sum_j e^{x_j} , $$
#
# but $e^{10{,}000}$ is no number that a computer knows. Adding a constant to all logits of a position changes no
# probability, so choose a constant with which no exponential can overflow and the sum cannot become zero.
#
# *Difficulty 2 of 5 · 10 minutes · 2 points*


# %% exercise="log_probabilities" difficulty=2 minutes=10 forbid=["log_softmax", "logsumexp", "LogSoftmax", "cross_entropy", "nll_loss"]
def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """The logarithm of the softmax over the last axis.

    Args:
        logits: (..., V), float32 or float64, with any number of leading axes, contiguous or not. Entries are finite, as large
            as 10,000 in either direction, or -inf for a class that is impossible. At least one entry of each row is finite.

    Returns:
        Natural logarithms of the probabilities, same shape and dtype; -inf where the logit is -inf. No other entry is
        infinite or NaN. As exact as the dtype allows, also where the logits are large: two logits of 10,000 give -0.693147
        twice. Gradients flow to the logits.

    Source: Blanchard, Higham and Higham, Accurately Computing the Log-Sum-Exp and Softmax Functions, 2021.
    """
    ### BEGIN SOLUTION
    largest = logits.amax(dim=-1, keepdim=True)  # (..., 1)
    shifted = logits - largest  # at most 0, and 0 in at least one place
    total = shifted.exp().sum(dim=-1, keepdim=True)  # between 1 and V
    return shifted - total.log()  # (..., V)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>After the constant has been added, the largest logit of each row should be 0. Then
# every exponential is at most 1, and one of them is exactly 1.</details>
# <details><summary>A bigger nudge</summary>Each row has a largest logit of its own: keep the axis when you take it, so
# that it broadcasts. The formula above is a difference. Compute it as one, with the moved logits in both places, and
# never form the probability itself.</details>

# %% test="log_probabilities" points=2
from coursekit import check

import torch

logits = torch.log(torch.tensor([[5.0, 2.0, 1.0], [1.0, 1.0, 1.0]]))
shares = torch.log(torch.tensor([[5 / 8, 2 / 8, 1 / 8], [1 / 3, 1 / 3, 1 / 3]]))
check.close(log_probabilities(logits), shares, "shares of 5 : 2 : 1, and of 1 : 1 : 1")
large = torch.tensor([[1000.0, 0.0], [-1000.0, -2000.0]])
wanted = torch.tensor([[0.0, -1000.0], [0.0, -1000.0]])
check.close(log_probabilities(large), wanted, "two rows of very different size, a gap of 1,000 in each")
halves = torch.full((1, 2), 0.5).log()
check.close(log_probabilities(torch.full((1, 2), 10_000.0)), halves, "two equal logits of 10,000")
### BEGIN HIDDEN TESTS
from torch.nn import functional as F

for shape in ((3, 7, 11), (1, 63, 5), (2, 3, 4, 6), (9,), (5, 1)):
    draw = torch.Generator().manual_seed(check.seed(shape[-1]))
    logits = 3 * torch.randn(shape[::-1], generator=draw, dtype=torch.float64).permute(*range(len(shape))[::-1])
    case = f"shape {shape}, not contiguous"
    check.close(
        log_probabilities(logits), F.log_softmax(logits, -1), f"{case}, float64: log_softmax", atol=1e-10, rtol=1e-10
    )
    check.close(log_probabilities(logits.float()), F.log_softmax(logits.float(), -1), f"{case}, float32: log_softmax")
    check.gradients(
        log_probabilities,
        lambda x: F.log_softmax(x, -1),
        [logits],
        f"{case}: the gradient of the logits",
        atol=1e-10,
        rtol=1e-10,
    )
extreme = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -9.999e3], [1e4, 1e4, 1e4], [0.0, 1.0, 2.0]])
for dtype, atol in ((torch.float32, 1e-2), (torch.float64, 1e-9)):
    rows = extreme.to(dtype)
    check.close(log_probabilities(rows), F.log_softmax(rows, -1), f"rows of plus and minus 10,000, {dtype}", atol=atol)
    check.gradients(
        log_probabilities, lambda x: F.log_softmax(x, -1), [rows], f"rows of plus and minus 10,000, {dtype}: gradients"
    )
infinity = float("inf")
impossible = torch.tensor([[0.5, -infinity, 2.0, -infinity], [-infinity, 3.0, -infinity, -infinity]])
check.close(log_probabilities(impossible), F.log_softmax(impossible, -1), "classes with a logit of -inf")
check.gradients(
    log_probabilities, lambda x: F.log_softmax(x, -1), [impossible], "classes with a logit of -inf: the gradients"
)
### END HIDDEN TESTS


# %% alternative="log_probabilities"
def log_probabilities(logits):
    # Row by row, in float64, with a sum in the place of the largest.
    rows = logits.reshape(-1, logits.shape[-1]).double()
    print("rows:", len(rows))
    done = []
    for row in rows:
        peak = float(max(row.tolist()))
        done.append(row - (peak + torch.log(sum(torch.exp(x - peak) for x in row))))
    return torch.stack(done).reshape(logits.shape).to(logits.dtype)


# %% mistakes="log_probabilities"
{
    "the largest logit of the whole tensor is subtracted, and not that of each row": (
        "logits.amax(dim=-1, keepdim=True)",
        "logits.max()",
    ),
    "the largest logit is added back before the subtraction, and next to a large number the last digits are lost": (
        "return shifted - total.log()",
        "return logits - (largest + total.log())",
    ),
    "the largest logit is taken along the first axis, so every class is moved by another constant": (
        "logits.amax(dim=-1, keepdim=True)",
        "logits.amax(dim=0, keepdim=True)",
    ),
    "a small number is added to the probability before the logarithm, so the loss has a ceiling": (
        "return shifted - total.log()",
        "return (shifted.exp() / total + 1e-8).log()",
    ),
    "the softmax comes first and the logarithm second, so small probabilities are rounded to zero": (
        "return shifted - total.log()",
        "return (shifted.exp() / total).log()",
    ),
    "nothing is subtracted before the exponential": ("shifted = logits - largest", "shifted = logits"),
    "the smallest logit is subtracted and not the largest": ("logits.amax(", "logits.amin("),
    "the largest logit is subtracted in the exponential only": (
        "return shifted - total.log()",
        "return logits - total.log()",
    ),
    "the logits are clipped to a range in which the exponential is safe": (
        "largest = logits.amax(",
        "logits = logits.clamp(-50, 50)\n    largest = logits.amax(",
    ),
    "a logit of -inf is replaced by 0, so an impossible class gets a share": (
        "largest = logits.amax(",
        "logits = torch.where(logits.isinf(), torch.zeros_like(logits), logits)\n    largest = logits.amax(",
    ),
    "the sum runs over the first axis and not over the classes": (
        "exp().sum(dim=-1, keepdim=True)",
        "exp().sum(dim=0, keepdim=True)",
    ),
    "the sum runs over all numbers of the tensor": ("exp().sum(dim=-1, keepdim=True)", "exp().sum()"),
    "the exponentials are averaged and not added up": ("exp().sum(", "exp().mean("),
    "the probabilities are returned, without a logarithm": (
        "return shifted - total.log()",
        "return shifted.exp() / total",
    ),
    "the sign is lost: surprises are returned": ("return shifted - total.log()", "return total.log() - shifted"),
    "the logarithms are to base 2": ("return shifted - total.log()", "return (shifted - total.log()) / math.log(2)"),
    "the logarithms are to base 10": ("return shifted - total.log()", "return (shifted - total.log()) / math.log(10)"),
    "the sum is not subtracted, so the probabilities do not sum to one": (
        "return shifted - total.log()",
        "return shifted",
    ),
    "no gradient flows to the logits": (
        "largest = logits.amax(",
        "logits = logits.detach()\n    largest = logits.amax(",
    ),
    "no gradient flows through the sum": ("total.log()", "total.detach().log()"),
    "the work is done in float32, whatever the dtype": [
        ("largest = logits.amax(", "dtype = logits.dtype\n    logits = logits.float()\n    largest = logits.amax("),
        ("return shifted - total.log()", "return (shifted - total.log()).to(dtype)"),
    ],
}

# %% [markdown]
# ## Exercise 2 · `cross_entropy`
#
# The loss of almost every language model, with two options. *Ignored* positions have no right answer: padding, or the
# question when only the answer is to be learned. They are marked in the targets by one special number. *Label
# smoothing* asks for a little less than certainty: a share $\varepsilon$ of the wanted probability is spread evenly
# over all $V$ classes, the right one included, and the rest goes to the right one. The loss of a position is then
#
# $$ (1 - \varepsilon)\,(-\ln p_\text{right}) \;+\; \varepsilon \cdot \frac1V \sum_{i=0}^{V-1} (-\ln p_i) . $$
#
# With $p = (5/8, 2/8, 1/8)$, token 1 right and $\varepsilon = 0.3$ this is
# $0.7 \cdot 1.386 + 0.3 \cdot (0.470 + 1.386 + 2.079)/3 = 1.364$.
#
# *Difficulty 3 of 5 · 20 minutes · 5 points*


# %% exercise="cross_entropy" difficulty=3 minutes=20 forbid=["cross_entropy", "nll_loss", "CrossEntropyLoss", "NLLLoss"]
def cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, ignore_index: int = -100, label_smoothing: float = 0.0
) -> torch.Tensor:
    """The mean surprise over all positions that count, as PyTorch's cross_entropy computes it, but with the classes last.

    Args:
        logits: (..., V), as for `log_probabilities`, with any number of leading axes, none included.
        targets: (...) integers of the logits' leading shape. Each is a class from 0 to V - 1 or equal to ignore_index.
        ignore_index: positions with this target do not count, neither in the sum nor in the number that divides it. It may
            be negative. If it is one of the classes, that class stays in the softmax and in the smoothing of all other
            positions.
        label_smoothing: the share from 0 to 1 of the wanted probability that is spread evenly over all V classes. If it is
            0, a class of probability zero does no harm unless it is the target.

    Returns:
        A tensor without axes, of the logits' dtype: the sum of the losses of all positions that count, divided by their
        number. NaN if no position counts, as in PyTorch: a mean of nothing. Infinite if a target has probability zero.
        Gradients flow to the logits.

    Raises:
        ValueError: if targets do not have the leading shape of logits, or label_smoothing is not between 0 and 1.

    Source: Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016, section 7, for label smoothing.
    """
    ### BEGIN SOLUTION
    if targets.shape != logits.shape[:-1]:
        raise ValueError(f"targets {tuple(targets.shape)} do not go with logits {tuple(logits.shape)}")
    if label_smoothing < 0 or label_smoothing > 1:
        raise ValueError(f"label_smoothing must be between 0 and 1, got {label_smoothing}")
    log_p = log_probabilities(logits)  # (..., V)
    counts = targets != ignore_index  # (...)
    valid = targets.masked_fill(~counts, 0)  # any class will do where nothing counts
    losses = -log_p.gather(-1, valid.unsqueeze(-1))[..., 0]  # (...)
    if label_smoothing > 0:
        spread = -log_p.mean(dim=-1)  # (...): the mean surprise of all classes
        losses = (1 - label_smoothing) * losses + label_smoothing * spread
    return losses[counts].mean()
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Compute the loss of every position first, then choose those that count, then take
# the mean. <code>gather</code> picks one class from each row; it needs a valid class also where you will throw the
# result away.</details>
# <details><summary>A bigger nudge</summary>The second term of the formula needs no target: it is a mean over the last
# axis. It must be chosen by the same mask as the first. Zero times infinity is NaN: so leave the second term out
# altogether when nothing is smoothed, and choose positions, do not multiply them by zero.</details>

# %% test="cross_entropy" points=2
from coursekit import check

import torch

logits = torch.log(torch.tensor([[5.0, 2.0, 1.0], [1.0, 1.0, 2.0]]))
answers = torch.tensor([1, 2])
check.close(cross_entropy(logits, answers), torch.tensor(1.039721), "p = 1/4 and p = 1/2: (ln 4 + ln 2) / 2")
three = torch.cat([logits, torch.tensor([[9.0, 0.0, 0.0]])])
check.close(
    cross_entropy(three, torch.tensor([1, 2, -100])), torch.tensor(1.039721), "a third position that is ignored"
)
smoothed = cross_entropy(three, torch.tensor([1, -100, -100]), label_smoothing=0.3)
check.close(smoothed, torch.tensor(1.363980), "p = 5/8, 2/8, 1/8, token 1 is right, label smoothing 0.3")
check.raises(
    ValueError,
    lambda: cross_entropy(torch.zeros(2, 3, 4), torch.zeros(2, 2, dtype=torch.int64)),
    "logits for three positions, targets for two",
)
### BEGIN HIDDEN TESTS
from torch.nn import functional as F


def by_torch(logits, targets, **settings):
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), **settings)


for shape, V, ignore_index, label_smoothing in (
    ((3, 7), 11, -100, 0.0),
    ((3, 7), 11, -100, 0.1),
    ((4,), 6, -1, 0.2),
    ((2, 63), 5, 0, 0.0),
    ((2, 63), 5, 0, 0.3),
    ((2, 3, 5), 4, 3, 1.0),
    ((1, 1), 9, -100, 0.1),
    ((5,), 1, -100, 0.1),
):
    draw = torch.Generator().manual_seed(check.seed(V))
    logits = 2 * torch.randn(V, *shape, generator=draw, dtype=torch.float64).movedim(0, -1)
    targets = torch.randint(V, shape, generator=draw)
    if V > 1 and ignore_index >= 0:
        targets = torch.where(targets == ignore_index, (ignore_index + 1) % V, targets)
    # Rows lose different numbers of positions; the very first position always counts.
    targets[torch.arange(targets.numel()).view(shape) % 3 == 1] = ignore_index
    case = f"targets {shape}, V={V}, ignore_index={ignore_index}, label_smoothing={label_smoothing}"
    settings = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
    want = by_torch(logits, targets, **settings)
    check.close(cross_entropy(logits, targets, **settings), want, f"{case}, float64", atol=1e-10, rtol=1e-10)
    want = by_torch(logits.float(), targets, **settings)
    check.close(cross_entropy(logits.float(), targets, **settings), want, f"{case}, float32")
draw = torch.Generator().manual_seed(check.seed(1))
logits = torch.randn(6, generator=draw, dtype=torch.float64)
check.close(
    cross_entropy(logits, torch.tensor(4)),
    F.cross_entropy(logits, torch.tensor(4)),
    "one position alone: logits (6,), and a target without axes",
    atol=1e-10,
    rtol=1e-10,
)
### END HIDDEN TESTS

# %% test="cross_entropy" points=3
from coursekit import check

import torch

large = torch.tensor([[10000.0, 0.0], [0.0, 10000.0], [0.0, 0.0]])
answers = torch.tensor([0, 0, -100])
check.close(cross_entropy(large, answers), torch.tensor(5000.0), "certain and right, certain and wrong, and ignored")
nothing = torch.full((3,), -100)
check.close(cross_entropy(large, nothing), torch.tensor(float("nan")), "no position counts: NaN, as in PyTorch")
### BEGIN HIDDEN TESTS
from torch.nn import functional as F


def by_torch(logits, targets, **settings):
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), **settings)


draw = torch.Generator().manual_seed(check.seed(2))
logits = torch.randn(3, 8, 5, generator=draw, dtype=torch.float64)
targets = torch.randint(5, (3, 8), generator=draw)
targets[1, 3:] = -100
targets[2, 1:] = -100
for label_smoothing in (0.0, 0.2):
    check.gradients(
        lambda x, s=label_smoothing: cross_entropy(x, targets, label_smoothing=s),
        lambda x, s=label_smoothing: by_torch(x, targets, label_smoothing=s),
        [logits],
        f"sequences of 8, 3 and 1 tokens, label_smoothing={label_smoothing}: the gradient of the logits",
        atol=1e-10,
        rtol=1e-10,
    )
extreme = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [0.0, 1e4, 1e4], [7.0, 8.0, 9.0]])
answers = torch.tensor([2, 1, 2, -100])
for dtype, atol in ((torch.float32, 1e-2), (torch.float64, 1e-8)):
    for label_smoothing in (0.0, 0.1):
        case = f"logits of plus and minus 10,000, {dtype}, label_smoothing={label_smoothing}"
        want = by_torch(extreme.to(dtype), answers, label_smoothing=label_smoothing)
        found = cross_entropy(extreme.to(dtype), answers, label_smoothing=label_smoothing)
        check.close(found, want, case, atol=atol)
        check.gradients(
            lambda x, s=label_smoothing: cross_entropy(x, answers, label_smoothing=s),
            lambda x, s=label_smoothing: by_torch(x, answers, label_smoothing=s),
            [extreme.to(dtype)],
            f"{case}: the gradient",
        )
infinity = float("inf")
impossible = torch.tensor([[0.5, -infinity, 2.0], [-infinity, 3.0, 1.0], [-infinity, 0.0, 0.0]])
answers = torch.tensor([2, 1, -100])
want = by_torch(impossible[:2], answers[:2])
check.close(cross_entropy(impossible[:2], answers[:2]), want, "classes with a logit of -inf that are not the target")
want = by_torch(impossible, answers)
check.close(cross_entropy(impossible, answers), want, "classes with a logit of -inf, also at an ignored position")
check.gradients(
    lambda x: cross_entropy(x, answers),
    lambda x: by_torch(x, answers),
    [impossible],
    "classes with a logit of -inf that are not the target: the gradient",
)
check.close(cross_entropy(impossible, torch.tensor([1, 1, 1])), torch.tensor(infinity), "a target of probability zero")
for wrong in ((2, 4), (3,), (2, 3, 1), (1, 3)):
    check.raises(
        ValueError,
        lambda wrong=wrong: cross_entropy(torch.zeros(2, 3, 4), torch.zeros(wrong, dtype=torch.int64)),
        f"logits (2, 3, 4) and targets {wrong}",
    )
for wrong in (-0.1, 1.5):
    check.raises(
        ValueError,
        lambda wrong=wrong: cross_entropy(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), label_smoothing=wrong),
        f"label_smoothing={wrong}",
    )
### END HIDDEN TESTS


# %% alternative="cross_entropy"
def cross_entropy(logits, targets, ignore_index=-100, label_smoothing=0.0):
    # The wanted distribution written out, positions in a flat list, only those that count.
    if tuple(targets.shape) != tuple(logits.shape)[:-1] or not 0 <= label_smoothing <= 1:
        raise ValueError("shapes or smoothing")
    V = logits.shape[-1]
    rows = logits.reshape(-1, V)[targets.reshape(-1) != ignore_index]
    answers = targets.reshape(-1)[targets.reshape(-1) != ignore_index]
    wanted = torch.nn.functional.one_hot(answers, V).to(logits.dtype) * (1 - label_smoothing) + label_smoothing / V
    log_p = torch.log_softmax(rows, -1)
    return -torch.where(wanted > 0, wanted * log_p, 0).sum(-1).mean()


# %% alternative="cross_entropy"
def cross_entropy(logits, targets, ignore_index=-100, label_smoothing=0.0):
    # One position after the other.
    if targets.shape != logits.shape[:-1]:
        raise ValueError("shapes")
    if not (0 <= label_smoothing <= 1):
        raise ValueError("label_smoothing")
    total, number = logits.new_zeros(()), 0
    for row, target in zip(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1).tolist(), strict=True):
        if target == ignore_index:
            continue
        surprise = -log_probabilities(row)
        loss = surprise[target]
        if label_smoothing:
            loss = loss + label_smoothing * (surprise.sum() / len(surprise) - surprise[target])
        total, number = total + loss, number + 1
    return total / torch.tensor(number, dtype=logits.dtype)


# %% mistakes="cross_entropy"
{
    "the softmax is taken twice: probabilities are treated as logits": (
        "log_probabilities(logits)  # (..., V)",
        "log_probabilities(log_probabilities(logits).exp())",
    ),
    "the sum is divided by the number of all positions, ignored ones included": (
        "return losses[counts].mean()",
        "return losses[counts].sum() / counts.numel()",
    ),
    "each sequence is averaged by itself, and then the sequences": (
        "return losses[counts].mean()",
        "return (torch.where(counts, losses, 0).sum(-1) / counts.sum(-1)).mean()",
    ),
    "ignored positions count as if class 0 were right there": ("return losses[counts].mean()", "return losses.mean()"),
    "the smoothing term is averaged over all positions, ignored ones included": (
        "spread = -log_p.mean(dim=-1)",
        "spread = -log_p.mean()",
    ),
    "the smoothing mass goes to the V - 1 wrong classes only": (
        "spread = -log_p.mean(dim=-1)",
        "spread = (-log_p.sum(dim=-1) - losses) / max(log_p.shape[-1] - 1, 1)",
    ),
    "the smoothing term is a sum over the classes and not a mean": (
        "spread = -log_p.mean(dim=-1)",
        "spread = -log_p.sum(dim=-1)",
    ),
    "the smoothing term is added, and the right class keeps its full weight": (
        "(1 - label_smoothing) * losses",
        "losses",
    ),
    "the right class loses its share of label_smoothing, and nobody gets it": (
        "(1 - label_smoothing) * losses + label_smoothing * spread",
        "(1 - label_smoothing) * losses",
    ),
    "label_smoothing and 1 - label_smoothing have changed places": (
        "(1 - label_smoothing) * losses + label_smoothing * spread",
        "label_smoothing * losses + (1 - label_smoothing) * spread",
    ),
    "label_smoothing is ignored": ("if label_smoothing > 0:", "if False:"),
    "the smoothing term is computed also where label_smoothing is 0, and zero times infinity is NaN": (
        "if label_smoothing > 0:",
        "if True:",
    ),
    "only targets of -100 are ignored, whatever ignore_index says": (
        "targets != ignore_index",
        "targets != -100",
    ),
    "all negative targets are ignored and no others, whatever ignore_index says": (
        "targets != ignore_index",
        "targets >= 0",
    ),
    "a class that is ignored as a target also loses its share of the probability": (
        "log_p = log_probabilities(logits)  # (..., V)",
        "hidden = torch.arange(logits.shape[-1]) == ignore_index\n"
        "    log_p = log_probabilities(logits.masked_fill(hidden, -math.inf))",
    ),
    "ignored positions are multiplied by zero, and zero times infinity is NaN": (
        "return losses[counts].mean()",
        "return (losses * counts).sum() / counts.sum()",
    ),
    "the losses are added up and not averaged": ("return losses[counts].mean()", "return losses[counts].sum()"),
    "the sign is lost: the mean log-probability is returned": (
        "return losses[counts].mean()",
        "return -losses[counts].mean()",
    ),
    "the loss is in bits, not in nats": ("return losses[counts].mean()", "return losses[counts].mean() / math.log(2)"),
    "the perplexity is returned, which is the exponential of the loss": (
        "return losses[counts].mean()",
        "return losses[counts].mean().exp()",
    ),
    "no gradient flows to the logits": ("return losses[counts].mean()", "return losses[counts].mean().detach()"),
    "the mean of nothing is 0 and not NaN, so an empty batch looks perfect": (
        "return losses[counts].mean()",
        "return losses[counts].sum() / counts.sum().clamp(min=1)",
    ),
    "a batch in which nothing counts is refused": (
        "return losses[counts].mean()",
        'if not counts.any():\n        raise ValueError("nothing counts")\n    return losses[counts].mean()',
    ),
    "fewer targets than positions are not refused, and gather pairs them from the left": (
        "if targets.shape != logits.shape[:-1]:",
        "if False:",
    ),
    "a label_smoothing outside 0 to 1 is not refused": (
        "if label_smoothing < 0 or label_smoothing > 1:",
        "if False:",
    ),
}

# %% [markdown]
# ## Exercise 3 · `cross_entropy_gradient`
#
# The gradient that starts every backward pass, without autograd. Without options it is the result from "The idea",
# for each position that counts:
#
# $$ \frac{\partial L}{\partial x} = \frac{p - y}{n} , $$
#
# where $y$ has a one at the right class and zeros elsewhere, and $n$ is the number of positions that count, because
# the loss is their mean. Label smoothing changes $y$ and nothing else. Write the loss of exercise 2 as
# $-\sum_i y_i \ln p_i$: as long as the $y_i$ sum to one, its gradient is $p - y$ again. Which $y$ is it?
#
# *Difficulty 3 of 5 · 15 minutes · 3 points*


# %% exercise="cross_entropy_gradient" difficulty=3 minutes=15 forbid=["torch.autograd.*", "torch.func.*", "backward"]
def cross_entropy_gradient(
    logits: torch.Tensor, targets: torch.Tensor, ignore_index: int = -100, label_smoothing: float = 0.0
) -> torch.Tensor:
    """The gradient of ``cross_entropy(logits, targets, ignore_index, label_smoothing)`` for the logits, by formula.

    Args:
        logits, targets, ignore_index, label_smoothing: as for `cross_entropy`, and valid.

    Returns:
        Tensor of the logits' shape and dtype. It is zero at every position that does not count, so it is all zeros if none
        does. The gradient of a class with the logit -inf is minus its wanted probability: the softmax gives it nothing.

    Source: Bridle, Probabilistic Interpretation of Feedforward Classification Network Outputs, 1990.
    """
    ### BEGIN SOLUTION
    V = logits.shape[-1]
    p = log_probabilities(logits).exp()  # (..., V)
    counts = targets != ignore_index  # (...)
    valid = targets.masked_fill(~counts, 0).unsqueeze(-1)  # (..., 1)
    wanted = torch.full_like(p, label_smoothing / V)  # (..., V): everybody's share
    wanted.scatter_add_(-1, valid, torch.full_like(p, 1 - label_smoothing))  # and the rest for the right class
    gradient = (p - wanted).masked_fill(~counts.unsqueeze(-1), 0)
    return gradient / counts.sum().clamp(min=1)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Write down the wanted distribution as a tensor of the logits' shape. Each of its
# rows sums to one, with label smoothing too.</details>
# <details><summary>A bigger nudge</summary>With smoothing the right class gets
# 1 - ε + ε/V and every other one ε/V. After the subtraction set whole rows to zero
# where nothing counts, and divide by the number of the others. That number may be zero.</details>

# %% test="cross_entropy_gradient" points=3
from coursekit import check

import torch

logits = torch.log(torch.tensor([[5.0, 2.0, 1.0]]))
by_hand = torch.tensor([[5 / 8, -3 / 4, 1 / 8]])
check.close(cross_entropy_gradient(logits, torch.tensor([1])), by_hand, "p = 5/8, 2/8, 1/8, token 1 is right: p - y")
three = logits.expand(3, 3)
halves = torch.stack([by_hand[0] / 2, torch.zeros(3), torch.tensor([5 / 8, 2 / 8, -7 / 8]) / 2])
found = cross_entropy_gradient(three, torch.tensor([1, -100, 2]))
check.close(found, halves, "three positions, the second is ignored: two rows divided by two, and zeros")
smoothed = torch.tensor([[0.525, -0.55, 0.025]])
found = cross_entropy_gradient(logits, torch.tensor([1]), label_smoothing=0.3)
check.close(found, smoothed, "the same with label smoothing 0.3: y = (0.1, 0.8, 0.1)")
### BEGIN HIDDEN TESTS
from torch.nn import functional as F


def by_autograd(logits, targets, **settings):
    leaf = logits.detach().clone().requires_grad_()
    F.cross_entropy(leaf.reshape(-1, leaf.shape[-1]), targets.reshape(-1), **settings).backward()
    return leaf.grad


for shape, V, ignore_index, label_smoothing in (
    ((3, 7), 11, -100, 0.0),
    ((3, 7), 11, -100, 0.1),
    ((2, 63), 5, 0, 0.3),
    ((4,), 6, -1, 0.2),
    ((2, 3, 5), 4, 3, 1.0),
    ((1, 1), 9, -100, 0.0),
    ((5,), 1, -100, 0.1),
):
    draw = torch.Generator().manual_seed(check.seed(V))
    logits = 2 * torch.randn(V, *shape, generator=draw, dtype=torch.float64).movedim(0, -1)
    targets = torch.randint(V, shape, generator=draw)
    if V > 1 and ignore_index >= 0:
        targets = torch.where(targets == ignore_index, (ignore_index + 1) % V, targets)
    targets[torch.arange(targets.numel()).view(shape) % 3 == 1] = ignore_index
    case = f"targets {shape}, V={V}, ignore_index={ignore_index}, label_smoothing={label_smoothing}"
    settings = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
    want = by_autograd(logits, targets, **settings)
    found = cross_entropy_gradient(logits, targets, **settings)
    check.close(found, want, f"{case}, float64: autograd's gradient", atol=1e-10, rtol=1e-10)
    want = by_autograd(logits.float(), targets, **settings)
    found = cross_entropy_gradient(logits.float(), targets, **settings)
    check.close(found, want, f"{case}, float32: autograd's gradient", atol=1e-6)
draw = torch.Generator().manual_seed(check.seed(1))
alone = torch.randn(6, generator=draw, dtype=torch.float64)
check.close(
    cross_entropy_gradient(alone, torch.tensor(4)),
    by_autograd(alone, torch.tensor(4)),
    "one position alone: logits (6,), and a target without axes",
    atol=1e-10,
    rtol=1e-10,
)
extreme = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [0.0, 1e4, 1e4], [7.0, 8.0, 9.0]])
answers = torch.tensor([2, 1, 2, -100])
for label_smoothing in (0.0, 0.1):
    want = by_autograd(extreme, answers, label_smoothing=label_smoothing)
    found = cross_entropy_gradient(extreme, answers, label_smoothing=label_smoothing)
    check.close(found, want, f"logits of plus and minus 10,000, label_smoothing={label_smoothing}", atol=1e-6)
infinity = float("inf")
impossible = torch.tensor([[0.5, -infinity, 2.0], [-infinity, 3.0, 1.0], [-infinity, 0.0, 0.0]])
answers = torch.tensor([2, 0, -100])
want = by_autograd(impossible, answers)
check.close(cross_entropy_gradient(impossible, answers), want, "logits of -inf, once as the target", atol=1e-6)
nothing = cross_entropy_gradient(torch.ones(2, 3, 4), torch.full((2, 3), -100))
check.close(nothing, torch.zeros(2, 3, 4), "no position counts: zeros")
### END HIDDEN TESTS


# %% alternative="cross_entropy_gradient"
def cross_entropy_gradient(logits, targets, ignore_index=-100, label_smoothing=0.0):
    gradient = torch.zeros(logits.shape, dtype=logits.dtype)
    rows, flat = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1).tolist()
    number = sum(target != ignore_index for target in flat)
    for i, target in enumerate(flat):
        if target != ignore_index:
            row = torch.softmax(rows[i].double(), 0) - label_smoothing / len(rows[i])
            row[target] = row[target] - (1 - label_smoothing)
            gradient.view(-1, rows.shape[-1])[i] = row / number
    return gradient


# %% mistakes="cross_entropy_gradient"
{
    "the gradient is not divided by the number of positions that count": (
        "return gradient / counts.sum().clamp(min=1)",
        "return gradient",
    ),
    "the gradient is divided by the number of all positions, ignored ones included": (
        "return gradient / counts.sum().clamp(min=1)",
        "return gradient / counts.numel()",
    ),
    "the gradient is divided by the number of classes as well": (
        "return gradient / counts.sum().clamp(min=1)",
        "return gradient / counts.sum().clamp(min=1) / V",
    ),
    "ignored positions get the gradient of class 0": (
        "(p - wanted).masked_fill(~counts.unsqueeze(-1), 0)",
        "(p - wanted)",
    ),
    "at ignored positions y is zero, and p alone is left": (
        "(p - wanted).masked_fill(~counts.unsqueeze(-1), 0)",
        "p - wanted.masked_fill(~counts.unsqueeze(-1), 0)",
    ),
    "the sign is wrong: y - p, which climbs": ("(p - wanted)", "(wanted - p)"),
    "only the right class gets a gradient, and the others should be pushed down": (
        "(p - wanted)",
        "((p - wanted) * torch.zeros_like(p).scatter_(-1, valid, 1.0))",
    ),
    "y is multiplied by p: the gradient of the probabilities is missing a factor": ("(p - wanted)", "(p - wanted * p)"),
    "the gradient is that of the log-probabilities, -y, and not of the logits": ("(p - wanted)", "(-wanted)"),
    "the gradient is that of a squared error, with the factor p (1 - p)": (
        "(p - wanted)",
        "((p - wanted) * p * (1 - p))",
    ),
    "the logarithm of p is used in the place of p": (
        "p = log_probabilities(logits).exp()",
        "p = log_probabilities(logits)",
    ),
    "the logits are used in the place of p": ("p = log_probabilities(logits).exp()", "p = logits"),
    "label_smoothing is ignored": [
        ("label_smoothing / V", "0.0"),
        ("torch.full_like(p, 1 - label_smoothing)", "torch.ones_like(p)"),
    ],
    "with smoothing the right class wants 1 - label_smoothing, without its own share": (
        "wanted.scatter_add_(",
        "wanted.scatter_(",
    ),
    "with smoothing the right class still wants a full one, beside its share": (
        "torch.full_like(p, 1 - label_smoothing)",
        "torch.ones_like(p)",
    ),
    "with smoothing the wrong classes want nothing": (
        "torch.full_like(p, label_smoothing / V)",
        "torch.zeros_like(p)",
    ),
    "the smoothing mass goes to the V - 1 wrong classes only": [
        ("label_smoothing / V", "label_smoothing / max(V - 1, 1)"),
        ("wanted.scatter_add_(", "wanted.scatter_("),
    ],
    "only targets of -100 are ignored, whatever ignore_index says": ("targets != ignore_index", "targets != -100"),
    "where nothing counts the result is NaN and not zero": ("counts.sum().clamp(min=1)", "counts.sum()"),
    "each sequence is divided by its own number of positions": (
        "return gradient / counts.sum().clamp(min=1)",
        "return gradient / counts.sum(-1, keepdim=True).clamp(min=1).unsqueeze(-1) / counts[..., 0].numel()",
    ),
}

# %% [markdown]
# ## Exercise 4 · `perplexity` and `bits_per_character`
#
# Now the numbers that go into reports. `perplexity` runs over a list of batches, as an evaluation does. Batches have
# different sizes and different amounts of padding, and the last one may hold nothing else. The table in "The idea" is
# your test case.
#
# Perplexity counts choices *for each token*, so it depends on what a token is. To compare models with different
# tokenizers, spread the loss of all tokens over the characters that they spell, or over the bytes of their UTF-8
# form, and change the unit from nats to bits: one bit is $\ln 2$ nats. Example: two tokens with a mean loss of
# $\ln 8$ spell the five letters of "cafés". That makes $2 \cdot 3 = 6$ bits, so 1.2 bits per character. In UTF-8 the
# é takes two bytes, so it is 1 bit per byte.
#
# *Difficulty 2 of 5 · 20 minutes · 4 points*


# %% exercise="perplexity" difficulty=2 minutes=20
def perplexity(batches: list[tuple[torch.Tensor, torch.Tensor]], ignore_index: int = -100) -> float:
    """The exponential of the mean surprise over all tokens that count, in all batches together.

    Args:
        batches: a list of (logits, targets) as for `cross_entropy`, the targets aligned with the logits already. Shapes may
            differ, only V is the same. In some batches no position may count.
        ignore_index: positions with this target do not count.

    Returns:
        A number, 1 or more: every token that counts has the same weight, whatever batch it is in. Infinite if one of them
        has probability zero.

    Raises:
        ValueError: if no position of any batch counts, or the list is empty.

    Source: Jelinek, Mercer, Bahl and Baker, Perplexity: a Measure of the Difficulty of Speech Recognition Tasks, 1977.
    """
    ### BEGIN SOLUTION
    total, number = 0.0, 0
    for logits, targets in batches:
        counted = int((targets != ignore_index).sum())
        if counted > 0:  # the mean of nothing is NaN, and NaN times zero is still NaN
            total += counted * cross_entropy(logits, targets, ignore_index).item()
            number += counted
    if number == 0:
        raise ValueError("no position counts")
    return math.exp(total / number)
    ### END SOLUTION


def bits_per_character(loss: float, n_tokens: int, text: str, unit: str = "character") -> float:
    """What a loss per token costs for each character, or each byte, of the text.

    Args:
        loss: the mean surprise of a token, in nats.
        n_tokens: how many tokens that mean is over.
        text: what these tokens spell. Every character counts, spaces and line breaks included.
        unit: "character" for code points, as len counts them, or "byte" for the bytes of the text in UTF-8.

    Returns:
        The cost of all tokens in bits, divided by the number of characters or bytes.

    Raises:
        ValueError: if the text is empty, or the unit is none of the two.

    Source: Shannon, Prediction and Entropy of Printed English, 1951; Gao et al., The Pile, 2020, for bytes.
    """
    ### BEGIN SOLUTION
    if unit == "character":
        length = len(text)
    elif unit == "byte":
        length = len(text.encode("utf-8"))
    else:
        raise ValueError(f'unit must be "character" or "byte", got {unit!r}')
    if length == 0:
        raise ValueError("an empty text has no characters to share the cost")
    nats = loss * n_tokens
    return nats / math.log(2) / length
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Collect two things over all batches, a sum of surprises and a number of tokens.
# Divide once, at the end, and take one exponential, at the very end.</details>
# <details><summary>A bigger nudge</summary>A batch's mean times the number of its positions that count is its sum.
# What does <code>cross_entropy</code> return for a batch of padding, and what is that times zero? For the second
# function write down the units: nats per token, times tokens, over nats per bit, over characters.</details>

# %% test="perplexity" points=2
from coursekit import check

import torch

quarter, sixty_fourth = torch.zeros(1, 3, 4), torch.log(torch.tensor([1.0, 21.0, 21.0, 21.0])).expand(2, 1, 4)
batches = [(quarter, torch.tensor([[0, 3, 1]])), (sixty_fourth, torch.tensor([[0], [-100]]))]
check.close(perplexity(batches), 8.0, "three tokens of p = 1/4, one of p = 1/64 and one of padding: the table's 8")
padding = (torch.zeros(2, 2, 4), torch.full((2, 2), -100))
check.close(perplexity([padding, *batches]), 8.0, "the same after a batch of nothing but padding")
check.raises(ValueError, lambda: perplexity([padding]), "nothing but padding")
### BEGIN HIDDEN TESTS
from torch.nn import functional as F


def all_at_once(batches, ignore_index):
    logits = torch.cat([logits.reshape(-1, logits.shape[-1]) for logits, _ in batches])
    targets = torch.cat([targets.reshape(-1) for _, targets in batches])
    return float(F.cross_entropy(logits.double(), targets, ignore_index=ignore_index).exp())


for shapes, V, ignore_index in (
    (((3, 7), (1, 63), (2, 2)), 11, -100),
    (((4, 5), (1, 1)), 6, 0),
    (((9,), (2, 3, 2), (5,), (1, 8)), 3, -1),
    (((2, 6),), 17, -100),
):
    draw = torch.Generator().manual_seed(check.seed(V))
    batches = []
    for i, shape in enumerate(shapes):
        logits = torch.randn(V, *shape, generator=draw).movedim(0, -1)
        targets = torch.randint(1, V, shape, generator=draw)
        targets[torch.arange(targets.numel()).view(shape) % (i + 3) == 1] = ignore_index
        # Surprises of different size from batch to batch, whatever was drawn.
        batches.append((logits - (i + 1) * (targets.unsqueeze(-1) == torch.arange(V)), targets))
    case = f"batches of {', '.join(map(str, shapes))}, V={V}, ignore_index={ignore_index}"
    check.close(perplexity(batches, ignore_index), all_at_once(batches, ignore_index), case, rtol=1e-4)
    batches.insert(1, (torch.zeros(2, 5, V), torch.full((2, 5), ignore_index)))
    found = perplexity(batches, ignore_index)
    check.close(found, all_at_once(batches, ignore_index), f"{case}, and one of padding alone", rtol=1e-4)
check.close(perplexity([(torch.zeros(1, 1, 7), torch.tensor([[4]]))]), 7.0, "a single token, all logits alike")
infinity = float("inf")
check.close(
    perplexity([(torch.zeros(3, 2), torch.tensor([0, 1, 1])), (torch.tensor([[0.0, -infinity]]), torch.tensor([1]))]),
    infinity,
    "one of four tokens had probability zero",
)
check.raises(ValueError, lambda: perplexity([]), "no batch at all")
### END HIDDEN TESTS

# %% test="perplexity" points=2
from coursekit import check

import math

check.close(bits_per_character(math.log(8), 2, "cafés"), 1.2, "two tokens of 3 bits spell five letters: 6 / 5")
check.close(bits_per_character(math.log(8), 2, "cafés", unit="byte"), 1.0, "and six bytes: 6 / 6")
check.raises(ValueError, lambda: bits_per_character(1.0, 2, "cafés", unit="word"), "a unit that is not there")
### BEGIN HIDDEN TESTS
texts = {"\n  to be\nor not \n": (17, 17), "€100": (4, 6), "你好,世界\n": (6, 14), "𝄞": (1, 4), "aaaa": (4, 4)}
for text, (characters, n_bytes) in texts.items():
    for loss, n_tokens in ((4.1744, 17), (0.37, 3), (2.5, 1), (0.0, 5)):
        bits = loss * n_tokens * math.log2(math.e)
        case = f"{n_tokens} tokens with a loss of {loss} spell {text!r}"
        check.close(bits_per_character(loss, n_tokens, text), bits / characters, f"{case}: per character", atol=1e-9)
        check.close(
            bits_per_character(loss, n_tokens, text, "character"), bits / characters, f"{case}: asked for", atol=1e-9
        )
        check.close(bits_per_character(loss, n_tokens, text, "byte"), bits / n_bytes, f"{case}: per byte", atol=1e-9)
for unit in ("character", "byte"):
    check.raises(ValueError, lambda unit=unit: bits_per_character(1.0, 2, "", unit), f"an empty text, by {unit}")
check.raises(ValueError, lambda: bits_per_character(1.0, 2, "to be", "bytes"), 'the unit "bytes"')
### END HIDDEN TESTS


# %% alternative="perplexity"
def perplexity(batches, ignore_index=-100):
    # All tokens in one list, no use of cross_entropy, a tensor as the result.
    surprises = []
    for logits, targets in batches:
        print("batch of", tuple(targets.shape))
        real = targets != ignore_index
        log_p = torch.log_softmax(logits[real].double(), dim=-1)
        surprises += [-row[target] for row, target in zip(log_p, targets[real], strict=True)]
    if not surprises:
        raise ValueError("nothing")
    return torch.stack(surprises).mean().exp()


def bits_per_character(loss, n_tokens, text, unit="character"):
    if unit not in ("character", "byte") or not text:
        raise ValueError(unit)
    length = sum(len(c.encode()) if unit == "byte" else 1 for c in text)
    return math.log2(math.exp(loss)) * (n_tokens / length)


# %% mistakes="perplexity"
{
    "the means of the batches are averaged, whatever their sizes": (
        "            total += counted * cross_entropy(logits, targets, ignore_index).item()\n            number += counted",
        "            total += cross_entropy(logits, targets, ignore_index).item()\n            number += 1",
    ),
    "the perplexities of the batches are averaged, and not the losses": [
        (
            "            total += counted * cross_entropy(logits, targets, ignore_index).item()\n            number += counted",
            "            total += cross_entropy(logits, targets, ignore_index).exp().item()\n            number += 1",
        ),
        ("return math.exp(total / number)", "return total / number"),
    ],
    "the perplexities of the batches are averaged, weighted by their tokens": [
        (
            "cross_entropy(logits, targets, ignore_index).item()",
            "cross_entropy(logits, targets, ignore_index).exp().item()",
        ),
        ("return math.exp(total / number)", "return total / number"),
    ],
    "the exponential is taken of the sum and not of the mean": ("math.exp(total / number)", "math.exp(total)"),
    "batches are weighted by all their positions, padding included": (
        "            total += counted * cross_entropy(logits, targets, ignore_index).item()\n            number += counted",
        "            total += targets.numel() * cross_entropy(logits, targets, ignore_index).item()\n"
        "            number += targets.numel()",
    ),
    "the sum is over the tokens that count, and it is divided by the number of all positions": (
        "number += counted",
        "number += targets.numel()",
    ),
    "batches are weighted by the number of their sequences": (
        "            total += counted * cross_entropy(logits, targets, ignore_index).item()\n            number += counted",
        "            total += len(targets) * cross_entropy(logits, targets, ignore_index).item()\n"
        "            number += len(targets)",
    ),
    "a batch of padding alone turns everything into NaN": ("if counted > 0:", "if True:"),
    "the mean loss is returned, without the exponential": ("return math.exp(total / number)", "return total / number"),
    "2 is raised to a loss in nats": ("return math.exp(total / number)", "return 2 ** (total / number)"),
    "the sign is wrong: the result is a probability": ("math.exp(total / number)", "math.exp(-total / number)"),
    "only the last batch with tokens is reported": (
        "            total += counted * cross_entropy(logits, targets, ignore_index).item()\n            number += counted",
        "            total = counted * cross_entropy(logits, targets, ignore_index).item()\n            number = counted",
    ),
    "the last batch is dropped because it may be incomplete": (
        "in batches:",
        "in batches[: max(len(batches) - 1, 1)]:",
    ),
    "ignore_index is not handed on to cross_entropy": (
        "cross_entropy(logits, targets, ignore_index)",
        "cross_entropy(logits, targets)",
    ),
    "nothing to count gives NaN and not an error": (
        '        raise ValueError("no position counts")\n    return math',
        "        return math.nan\n    return math",
    ),
    "the cost stays in nats: the division by ln 2 is missing": ("nats / math.log(2) / length", "nats / length"),
    "ln 2 is multiplied by and not divided by": ("nats / math.log(2) / length", "nats * math.log(2) / length"),
    "the logarithm to base 2 is taken of the loss, which is a logarithm already": (
        "nats / math.log(2) / length",
        "math.log2(max(loss, 1e-9)) * n_tokens / length",
    ),
    "bits per token are sold as bits per character": ("nats / math.log(2) / length", "loss / math.log(2)"),
    "the ratio is upside down: characters per token, and not tokens per character": (
        "nats / math.log(2) / length",
        "loss / math.log(2) * length / n_tokens",
    ),
    "the tokens are forgotten: the loss of one token is spread over all characters": (
        "nats = loss * n_tokens",
        "nats = loss",
    ),
    "the unit is ignored, and characters are taken for bytes": ('len(text.encode("utf-8"))', "len(text)"),
    "bytes are counted whatever the unit": ("length = len(text)\n", 'length = len(text.encode("utf-8"))\n'),
    "bytes are counted in UTF-16": ('text.encode("utf-8")', 'text.encode("utf-16-le")'),
    "spaces and line breaks at the ends are not counted": [
        ("len(text)", "len(text.strip())"),
        ('text.encode("utf-8")', 'text.strip().encode("utf-8")'),
    ],
    "spaces and line breaks are not counted at all": [
        ("len(text)", 'len("".join(text.split()))'),
        ('text.encode("utf-8")', '"".join(text.split()).encode("utf-8")'),
    ],
    "different characters are counted, and each only once": ("len(text)", "len(set(text))"),
    "an unknown unit is taken for characters": (
        '        raise ValueError(f\'unit must be "character" or "byte", got {unit!r}\')',
        "        length = len(text)",
    ),
}

# %% [markdown]
# ## Exercise 5 · `sequence_log_prob`
#
# How probable is a whole sentence? By the chain rule, the product of the probabilities of its tokens, each after
# those before it. Products of many small numbers end at zero, so add logarithms. Nothing is averaged here: each
# sequence of the batch gets one number. Sentences are compared in this way, answers of a multiple-choice test are
# ranked, and later in the course two answers are weighed against each other when a model learns from preferences.
#
# The logits are what a model returns for `ids`, so this time the shift is yours. The mask says which *tokens*
# count. It hides padding, and it can hide a question, so that only the answer is scored.
#
# *Difficulty 2 of 5 · 15 minutes · 3 points*


# %% exercise="sequence_log_prob" difficulty=2 minutes=15
def sequence_log_prob(logits: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The log-probability of each sequence: the sum of ln p(token | the tokens before it) over the tokens that count.

    Args:
        logits: (B, T, V), as for `log_probabilities`; what stands at position t is about the token at t + 1.
        ids: (B, T) integers from 0 to V - 1.
        mask: boolean (B, T), True where a token counts. None means that all do. The first token of a sequence never
            counts, whatever the mask says, since no logits are about it. Where the mask is False the token plays no part,
            not even if its probability is zero.

    Returns:
        (B,), of the logits' dtype, 0 or less: natural logarithms, 0 for a sequence in which no token counts, -inf if a token
        that counts has probability zero. Gradients flow to the logits.
    """
    ### BEGIN SOLUTION
    log_p = log_probabilities(logits[:, :-1])  # (B, T - 1, V): the last position is about nothing that is here
    said = log_p.gather(-1, ids[:, 1:].unsqueeze(-1))[..., 0]  # (B, T - 1)
    if mask is not None:
        said = said.masked_fill(~mask[:, 1:], 0.0)
    return said.sum(dim=1)  # (B,)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Drop the last position of the logits and the first token of the ids, and the two
# line up. The mask belongs to the tokens.</details>
# <details><summary>A bigger nudge</summary>What must not count should be replaced by zero before you add. To multiply
# it by zero is not the same: minus infinity times zero is NaN.</details>

# %% test="sequence_log_prob" points=3
from coursekit import check

import torch

# The same three distributions for both sequences. The last is about a token that is not there.
shares = torch.tensor([[4.0, 2.0, 2.0], [1.0, 1.0, 6.0], [5.0, 2.0, 1.0]]) / 8
logits = torch.log(shares).expand(2, 3, 3)
ids = torch.tensor([[2, 0, 1], [0, 1, 1]])
mask = torch.tensor([[True, True, True], [True, False, True]])
wanted = torch.log(torch.tensor([1 / 16, 1 / 8]))
check.close(
    sequence_log_prob(logits, ids, mask),
    wanted,
    "1/2 times 1/8; and 1/8 alone, as token 1 of the second sequence does not count",
)
wanted = torch.log(torch.tensor([1 / 16, 1 / 32]))
check.close(sequence_log_prob(logits, ids), wanted, "all tokens count: 1/2 times 1/8, and 1/4 times 1/8")
### BEGIN HIDDEN TESTS
from torch.nn import functional as F


def by_torch(logits, ids, mask=None):
    labels = ids if mask is None else ids.masked_fill(~mask, -100)
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="none")
    return -losses.view(len(ids), -1).sum(1)


for batch, length, V in ((3, 7, 11), (1, 2, 5), (4, 4, 4), (2, 63, 17)):
    draw = torch.Generator().manual_seed(check.seed(length))
    logits = 2 * torch.randn(length, batch, V, generator=draw, dtype=torch.float64).transpose(0, 1)
    ids = torch.randint(V, (length, batch), generator=draw).T
    case = f"B={batch}, T={length}, V={V}"
    check.close(sequence_log_prob(logits, ids), by_torch(logits, ids), case, atol=1e-10, rtol=1e-12)
    short = logits.float()
    check.close(sequence_log_prob(short, ids), by_torch(short, ids), f"{case}, float32", atol=1e-4)
    ends = torch.arange(length) < torch.arange(batch + 1, 1, -1)[:, None]  # ..., 4, 3, 2 tokens
    asked = torch.arange(length) >= length // 2
    for name, mask in (
        ("padding on the right", ends),
        ("padding on the left", ends.flip(1)),
        ("only the second half counts", asked.expand(batch, length)),
    ):
        want = by_torch(logits, ids, mask)
        check.close(sequence_log_prob(logits, ids, mask), want, f"{case}, {name}", atol=1e-10, rtol=1e-12)
        check.gradients(
            lambda x, ids=ids, mask=mask: sequence_log_prob(x, ids, mask),
            lambda x, ids=ids, mask=mask: by_torch(x, ids, mask),
            [logits],
            f"{case}, {name}: the gradient of the logits",
            atol=1e-10,
            rtol=1e-10,
        )
one = torch.tensor([[3], [0]])
check.close(sequence_log_prob(torch.zeros(2, 1, 4), one), torch.zeros(2), "one token, about which nothing was said")
none = torch.zeros(2, 5, dtype=torch.bool)
check.close(
    sequence_log_prob(torch.ones(2, 5, 4), torch.zeros(2, 5, dtype=torch.int64), none), torch.zeros(2), "nothing counts"
)
infinity = float("inf")
certain = torch.tensor([[0.0, -infinity], [0.0, -infinity], [0.0, 0.0]]).expand(2, 3, 2)
ids = torch.tensor([[1, 0, 1], [1, 0, 0]])
mask = torch.tensor([[True, True, False], [True, True, True]])
check.close(sequence_log_prob(certain, ids, mask), torch.zeros(2), "a token of probability zero that does not count")
check.close(sequence_log_prob(certain, ids), torch.tensor([-infinity, 0.0]), "and one that does")
large = torch.tensor([1e4, -1e4, 0.0]).expand(1, 3, 3)
ids = torch.tensor([[0, 2, 1]])
check.close(sequence_log_prob(large, ids), by_torch(large, ids), "logits of plus and minus 10,000", atol=1e-2)
### END HIDDEN TESTS


# %% alternative="sequence_log_prob"
def sequence_log_prob(logits, ids, mask=None):
    results = []
    for b in range(len(ids)):
        total = torch.zeros((), dtype=torch.float64)
        for t in range(1, ids.shape[1]):
            if mask is None or mask[b, t]:
                row = logits[b, t - 1].double()
                total = total + row[ids[b, t]] - torch.logsumexp(row, dim=0)
        results.append(total)
    return torch.stack(results).to(logits.dtype)


# %% alternative="sequence_log_prob"
def sequence_log_prob(logits, ids, mask=None):
    answers = ids[:, 1:]
    if mask is not None:
        answers = answers.masked_fill(mask[:, 1:].logical_not(), -1)
    scores = logits[:, :-1].movedim(-1, 1)  # PyTorch wants the classes on the second axis
    return -torch.nn.functional.cross_entropy(scores, answers, ignore_index=-1, reduction="none").sum(1)


# %% mistakes="sequence_log_prob"
{
    "nothing is shifted: each position is asked for the token that it was given": [
        ("ids[:, 1:]", "ids[:, :-1]"),
        ("mask[:, 1:]", "mask[:, :-1]"),
    ],
    "nothing is shifted, only the first token is left out: position t is scored with token t, and not with t + 1": (
        "logits[:, :-1]",
        "logits[:, 1:]",
    ),
    "nothing is shifted: all positions, the last one too, are scored with the token that they were given": [
        ("logits[:, :-1]", "logits"),
        ("ids[:, 1:]", "ids"),
        ("mask[:, 1:]", "mask"),
    ],
    "the shift goes the wrong way: position t is asked for the token before it": [
        ("logits[:, :-1]", "logits[:, 1:]"),
        ("ids[:, 1:]", "ids[:, :-1]"),
        ("mask[:, 1:]", "mask[:, :-1]"),
    ],
    "the first token is scored by the last position: the sequence comes round": [
        ("logits[:, :-1]", "logits"),
        ("ids[:, 1:]", "ids.roll(-1, 1)"),
        ("mask[:, 1:]", "mask.roll(-1, 1)"),
    ],
    "the mask is not shifted with the tokens": ("mask[:, 1:]", "mask[:, :-1]"),
    "padding is counted: the mask is ignored": ("if mask is not None:", "if False:"),
    "the mask is inverted": ("said.masked_fill(~mask[:, 1:], 0.0)", "said.masked_fill(mask[:, 1:], 0.0)"),
    "what does not count is multiplied by zero, and minus infinity times zero is NaN": (
        "said.masked_fill(~mask[:, 1:], 0.0)",
        "said * mask[:, 1:]",
    ),
    "the mean is returned and not the sum": (
        "return said.sum(dim=1)",
        "return said.sum(dim=1) / max(said.shape[1], 1)",
    ),
    "the sum is divided by the number of tokens that count": (
        "return said.sum(dim=1)",
        "number = (torch.ones_like(ids, dtype=torch.bool) if mask is None else mask)[:, 1:].sum(1)\n"
        "    return said.sum(dim=1) / number.clamp(min=1)",
    ),
    "the sequences of the batch are added up": ("return said.sum(dim=1)", "return said.sum().expand(len(ids))"),
    "the probabilities are multiplied first, and a long product is rounded to zero": (
        "return said.sum(dim=1)",
        "return said.exp().prod(dim=1).log()",
    ),
    "the probabilities are added up and not their logarithms": (
        "return said.sum(dim=1)",
        "return said.exp().sum(dim=1).log()",
    ),
    "the probability is returned and not its logarithm": ("return said.sum(dim=1)", "return said.sum(dim=1).exp()"),
    "the sign is lost: the surprise is returned": ("return said.sum(dim=1)", "return -said.sum(dim=1)"),
    "the result is in bits, not in nats": ("return said.sum(dim=1)", "return said.sum(dim=1) / math.log(2)"),
    "the logits are added up as they are, without a softmax": ("log_probabilities(logits[:, :-1])", "logits[:, :-1]"),
    "the softmax runs over the positions and not over the vocabulary": (
        "log_probabilities(logits[:, :-1])",
        "log_probabilities(logits[:, :-1].transpose(1, 2)).transpose(1, 2)",
    ),
    "only the last token is scored": ("return said.sum(dim=1)", "return said[:, -1:].sum(dim=1)"),
    "the most probable token is scored, whatever the text says": (
        "log_p.gather(-1, ids[:, 1:].unsqueeze(-1))[..., 0]",
        "log_p.amax(dim=-1)",
    ),
    "no gradient flows to the logits": ("return said.sum(dim=1)", "return said.sum(dim=1).detach()"),
}

# %% [markdown]
# ## Look at it
#
# Your gradient is enough to train a model. The smallest one that reads text is a table: row $i$ holds the logits of
# the letter that follows letter $i$. It begins with zeros, and each step subtracts 30 times your
# `cross_entropy_gradient` from the rows that were used. No autograd, no optimiser. The dashed lines are three levels that can be computed by
# counting letters in the training text: all letters alike, letters by their frequency, and letters by what stands
# before them.

# %%
import plotly.graph_objects as go

from coursekit import data, plots

torch.set_num_threads(1)
text = data.tiny_shakespeare()
letters = sorted(set(text))
number = {letter: i for i, letter in enumerate(letters)}
ids = torch.tensor([number[letter] for letter in text])
V, cut = len(letters), len(ids) * 9 // 10
train, held_out = ids[:cut], ids[cut:]

pairs = torch.zeros(V, V).index_put((train[:-1], train[1:]), torch.ones(()), accumulate=True) + 0.1
by_frequency = pairs.sum(0).log()
levels = {"all letters alike": torch.zeros(V, V), "by frequency": by_frequency.expand(V, V)}
levels["by the letter before"] = pairs.log()
cost = {name: cross_entropy(table[held_out[:-1]], held_out[1:]).item() for name, table in levels.items()}

table = torch.zeros(V, V)
generator = torch.Generator().manual_seed(0)
curve = []
for step in range(401):
    if step % 5 == 0:
        curve.append((step, cross_entropy(table[held_out[:20_000]], held_out[1:20_001]).item()))
    at = torch.randint(cut - 1, (4096,), generator=generator)
    before, after = train[at], train[at + 1]
    gradient = cross_entropy_gradient(table[before], after)  # (4096, V)
    table.index_add_(0, before, gradient, alpha=-30.0)

figure = go.Figure()
steps, losses = zip(*curve, strict=True)
figure.add_scatter(
    x=steps,
    y=losses,
    name="held-out loss",
    line={"width": 3},
    customdata=[[math.exp(loss), loss / math.log(2)] for loss in losses],
    hovertemplate="step %{x}: %{y:.3f} nats, %{customdata[1]:.2f} bits<br>%{customdata[0]:.1f} choices<extra></extra>",
)
for name, loss in cost.items():
    figure.add_hline(y=loss, line={"color": plots.GREY, "dash": "dash"})
    side = {"yanchor": "top" if name == "by the letter before" else "bottom", "xanchor": "right", "showarrow": False}
    figure.add_annotation(x=400, y=loss, text=f"{name}: {loss:.2f}", **side)
figure.update_xaxes(title_text="step")
figure.update_yaxes(title_text="loss (nats)", range=[2.2, 4.5])
figure.update_layout(height=400, showlegend=False)
figure.show()

# The held-out text in batches of unequal size.
batches = [(table[part[:-1]], part[1:]) for part in held_out.split(20_000)]
choices = perplexity(batches)
tokens = sum(len(targets) for _, targets in batches)
spelt = "".join(letters[i] for _, targets in batches for i in targets.tolist())
print(f"held-out perplexity {choices:.2f} of {V} letters; loss {math.log(choices):.3f} nats a token")
print(f"bits per character {bits_per_character(math.log(choices), tokens, spelt):.3f}")


def score(sentence):
    row = torch.tensor([[number[letter] for letter in sentence]])
    return sequence_log_prob(table[row], row).item()


print("\n   log-prob   per letter")
for sentence in ("the king", "teh king", "the kign", "the", "the king and the queen", "xqzjk"):
    if set(sentence) <= set(letters):
        value = score(sentence)
        print(f"{value:11.2f} {value / (len(sentence) - 1):12.2f}   {sentence!r}")

# %% [markdown]
# The first loss is $\ln V$, to all its digits: a table of zeros thinks all letters alike. With the 65 letters of tiny
# Shakespeare that is 4.17. A model that starts higher is confident of something before it has seen anything. The
# curve passes the second level without a pause and comes close to the third. A table of pairs cannot get much lower:
# the next step down takes a longer memory.
#
# Now the scores. The table has never seen a dictionary, yet it prefers "the king" to both misspelt versions. But
# compare the last line with the second. By its sum the nonsense "xqzjk" beats "teh king", because it has three
# letters fewer to pay for. By the mean per letter it comes last, as it should. Suppose you let a model choose between
# the answers "No" and "No, because the door was locked". Which of the two rules would you use, and whom does it
# favour? What would you divide by if one model reads letters and another words?
#
# <details><summary>One answer</summary>The sum is the log-probability of exactly this text. Every further token costs
# something, so a sentence never beats its own beginning. The mean per token favours long answers whose later tokens
# are easy to guess once the first are there. It also depends on the tokenizer; the mean per character does not. There
# is no rule that is right for all tests. So a reported score should say which one it used.</details>
#
# ## Common mistakes
#
# - **Softmax twice.** PyTorch's `cross_entropy` takes logits. Give it probabilities, and it runs: the scores now lie
#   between 0 and 1, the loss cannot fall far, and the model trains slowly towards something. To take `log_softmax`
#   twice does no harm at all. Why?
# - **A mean of means.** Batches or sequences of unequal length get equal weight. Validation then depends on how the
#   batches were cut.
# - **Padding that counts.** In the sum it rewards guessing the padding token. In the divisor it makes every loss too
#   good. Either way the loss of a sequence depends on its longest neighbour.
# - **A wrong axis.** PyTorch wants `(N, V, T)` and your model returns `(B, T, V)`. If T equals V nothing complains.
# - **Targets one short.** `gather` takes an index that is smaller than its input, pairs from the left and says nothing.
#   With `ids[:, 1:]` this happens to be right, even if you forget to cut the logits. With targets that were shifted
#   before it is not: shift them once more, and position 0 is scored with the answer of position 1. Compare shapes before
#   you gather.
# - **NaN from nothing.** A batch in which all is ignored has the loss NaN. PyTorch's gradient is zero there, so the
#   weights survive, and only your averages are spoilt. Write the mean as a sum over a mask divided by its size, and
#   zero times infinity makes the gradient NaN too: one such step destroys all weights. With short answers behind long
#   questions such batches happen. Skip them, and count them.
# - **Averaged perplexities.** The exponential is convex. So their mean, weighted by tokens, is never below the
#   perplexity of the whole; without weights it depends on how the batches were cut. In both cases one bad batch rules.
# - **Bits, nats, tokens, characters.** A loss of 1.4 is 2.0 bits. Per token of four letters that is half a bit per
#   character. Always write the unit.
# - **Smoothed against unsmoothed.** A training loss with label smoothing has a floor above zero. Do not compare it
#   with a validation loss without.
#
# ## Going further
#
# - **Never hold all logits.** For 8 sequences of 1,024 tokens and 50,257 classes the logits alone take 1.6 GB in
#   float32. Write a loss that takes the last hidden vectors and the table, works through the positions in pieces, and
#   returns the loss with both gradients. Compare with `cross_entropy` to the last digits. How small may a piece be
#   before it gets slow? (Erik Wijmans, Brody Huval, Alexander Hertzberg, Vladlen Koltun, Philipp Krähenbühl, Cut Your
#   Losses in Large-Vocabulary Language Models, 2024.)
# - **Hold the logits down.** The loss does not change when a constant is added to all logits, so they may drift away.
#   Add $10^{-4} (\ln \sum_j e^{x_j})^2$ to the loss, derive its gradient and check it against autograd. (Aakanksha
#   Chowdhery and others, PaLM: Scaling Language Modeling with Pathways, 2022, section 5.)
