# ---
# title: Training dynamics
# lab: ch00/lab09
# minutes: 110
# difficulty: 3
# hardware: cpu
# needs: [ch00/lab06, ch00/lab07, ch00/lab08]
# builds: [exact_match, carries, digit_report, smooth, overfitting_step, attention_maps, row_entropy, head_profile, pca]
# ---

# %% [markdown]
# # Lab 0.9 · Training dynamics
#
# ## The idea
#
# Your model trains, and the loss falls. What has it learned? The loss does not say. It is one number for everything that
# the model can do and cannot do.
#
# Take `37+45=082`: two numbers below 100, and their sum with three digits, so that all texts have nine characters. At school you
# write the units first: $7 + 5 = 12$, write 2, carry 1. Then the tens: $3 + 4 + 1 = 8$. The model has to write the 8 before the 2. When it
# comes to the tens, it must already have looked at the units, and asked them one yes-or-no question: do you reach ten?
#
# A model that does not ask writes `072` here. Two of three digits are right, which sounds like a good mark. The sum is
# wrong. Without looking at the units there are two candidates, 7 and 8, and in 45 of 100 pairs of units there is a carry. So the
# best that this model can do is to be surprised by
#
# $$ -0.45 \ln 0.45 - 0.55 \ln 0.55 \approx 0.69 \text{ nats} $$
#
# at the tens. Spread over three digits that is a loss of 0.23, and it looks like a model that has nearly finished. It is a model that
# lacks the one idea of addition.
#
# In this lab you build five instruments. One counts answers that are right in every digit. One says which digits are wrong, and whether
# there was a carry. One finds the step from which a model learns by heart. One watches attention: does a head look at the units when the tens
# are due, and since when? And one takes a photograph of many-dimensional rows. Then you train a model for ten seconds and look at it with all five.
#
# What you will see, and how sure one can be of it, is on the page [What happens in training](../../book/ch00_numpy/training_dynamics.md).
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `logits` | `(..., T, V)` | scores for V characters at each of T places |
# | `targets` | `(..., T)` | the right characters; -100 where nothing is asked |
# | `a`, `b` | `(n,)` | the two numbers of n sums |
# | `predicted` | `(n, D + 1)` | the digits of n answers to sums of D-digit numbers, the highest first |
# | `maps` | `(L, ..., H, T, T)` | the attention weights of L layers with H heads; rows ask, columns are looked at |
# | `train_loss`, `val_loss` | `(n,)` | n measurements in the course of a training |
# | `x` | `(n, d)` | n rows of d features |

# %% given
import numpy as np

from coursekit import carry

TEXT = "0123456789+="  # a character's id is its place in this text


def write_sums(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The texts "37+45=082" of n sums as ids, (n, 9). a and b are below 100."""
    plus, equals = TEXT.index("+") + 0 * a, TEXT.index("=") + 0 * a
    total = a + b
    columns = [a // 10, a % 10, plus, b // 10, b % 10, equals, total // 100, total // 10 % 10, total % 10]
    return np.stack(columns, axis=1)


def question_and_answer(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (n, 8) and targets (n, 8): each place has to name the next character, and only the answer counts."""
    targets = texts[:, 1:].copy()
    targets[:, :5] = -100
    return texts[:, :-1], targets


# %% given side="learner"
from coursekit import carry

ModelConfig = carry("ch00/lab07", "ModelConfig")
LanguageModel = carry("ch00/lab07", "LanguageModel")


def new_model(seed: int, d_model: int, n_layers: int, n_heads: int) -> LanguageModel:
    """A model for sums: twelve characters, up to eight of them in a text."""
    return LanguageModel(ModelConfig(12, 8, d_model, n_layers, n_heads, 2 * d_model, seed=seed))


# %% [markdown]
# ## A picture
#
# How low can the loss go for a model that sees only a part of the question? There are 10,000 sums, so we can count. For each digit of the answer, the bars show the mean
# surprise of a model that knows all about addition, but looks at nothing except what the colour says (and the digits of the answer before this one,
# which it always has).

# %%
import plotly.graph_objects as go

from coursekit import plots

a, b = np.divmod(np.arange(10_000), 100)
texts = write_sums(a, b)
VIEWS = {  # for each digit of the answer, the columns of the text that the model looks at
    "nothing": ([], [], []),
    "the tens of both numbers": ([0, 3], [0, 3], [0, 3]),
    "the digits in its own column": ([0, 3], [0, 3], [1, 4]),
    "all digits": ([0, 1, 3, 4], [0, 1, 3, 4], [0, 1, 3, 4]),
}


def surprise(seen, column):
    """The mean of -ln p(column | seen) over all sums, in nats, with p counted."""
    keys = texts[:, [*seen, *range(6, column)]] @ 12 ** np.arange(len(seen) + column - 6)
    both = 12 * keys + texts[:, column]
    _, which, of_both = np.unique(both, return_inverse=True, return_counts=True)
    _, place, of_keys = np.unique(keys, return_inverse=True, return_counts=True)
    return float(-np.log(of_both[which] / of_keys[place]).mean()) + 0.0


floors = {name: [surprise(seen, 6 + i) for i, seen in enumerate(view)] for name, view in VIEWS.items()}
figure = go.Figure()
for name, values in floors.items():
    figure.add_bar(x=["hundreds", "tens", "units"], y=values, name=name)
    print(
        f"looks at {name:40} hundreds {values[0]:.3f}, tens {values[1]:.3f}, units {values[2]:.3f}: loss {np.mean(values):.3f}"
    )
figure.update_traces(hovertemplate="%{x}: %{y:.3f} nats<extra>%{fullData.name}</extra>")
figure.update_xaxes(title_text="digit of the answer")
figure.update_yaxes(title_text="least possible surprise (nats)")
figure.update_layout(height=380, barmode="group", legend={"orientation": "h", "y": -0.25})
figure.show()

# %% [markdown]
# These are landings on the stairs that the loss will come down. The third is the model of the introduction: each column for itself. Only the
# tens are left, and a little of the hundreds: where the tens make nine, the carry decides. (There the hundreds digit, which the model has before it, betrays the carry. So the tens
# cost 0.62 and not 0.69.) Keep the four losses in mind.
#
# ## Exercise 1 · `exact_match`
#
# A sum is right if all of its digits are. Two sums: the first has the answer `082` and the model says `072`, the second has `013` and the model says
# `013`. Five of six characters are right, and one of two sums: 0.5.
#
# When we measure, the model is given the right digits before each place, and not its own. Does that flatter it? Not here. As long as it has made no mistake, the right digits *are* its own. So
# it would write the same answer by itself, one character after the other, in exactly those cases in which all places are right.
#
# *Difficulty 1 of 5 · 10 minutes · 3 points*


# %% exercise="exact_match" difficulty=1 minutes=10 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
def exact_match(logits: np.ndarray, targets: np.ndarray, ignore_index: int = -100) -> float:
    """The share of texts that are right at every place that counts.

    Args:
        logits: (..., T, V), finite, with any number of axes in front, also none. Where several share the largest value, the first of them
            is the answer.
        targets: (..., T) integers: classes from 0 to V - 1, or ignore_index.
        ignore_index: places with this target do not count. It may be a class.

    Returns:
        A Python float between 0 and 1: the texts that are right, divided by the texts in which at least one place counts. A text
        without such a place is neither right nor wrong. NaN if no text has a place that counts.

    Raises:
        ValueError: if targets do not have the leading shape of logits.
    """
    ### BEGIN SOLUTION
    if targets.shape != logits.shape[:-1]:
        raise ValueError(f"targets {targets.shape} do not go with logits {logits.shape}")
    counts = targets != ignore_index  # (..., T)
    right = logits.argmax(axis=-1) == targets  # (..., T)
    asked = counts.any(axis=-1)  # (...)
    solved = asked & (right | ~counts).all(axis=-1)  # (...)
    return float(solved.sum() / asked.sum()) if asked.any() else float("nan")
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Make an array of booleans with one entry for each place, then one with an entry for each text. What should stand at a place that
# does not count, so that it cannot spoil the text?</details>
# <details><summary>A bigger nudge</summary>A place is in order if it is right, or if it does not count. A text is right if all its places are in order, and at least one of
# them counts. Two functions reduce booleans along an axis: <code>all</code> and <code>any</code>.</details>

# %% test="exact_match" points=3
from coursekit import check

import numpy as np


def logits_for(answers, V):
    """Scores whose largest is at the given class, and the smallest at the next one."""
    answers = np.asarray(answers)
    return np.eye(V)[answers] * 3.0 - np.eye(V)[(answers + 1) % V] * 2.0 - 1.0


targets = np.array([[-100, 0, 8, 2], [-100, 0, 1, 3], [5, 5, 1, 5], [-100, 1, 0, 4], [-100, -100, 7, 3], [7, 0, 4, 4]])
answers = np.array([[5, 0, 7, 2], [5, 0, 1, 3], [5, 5, 1, 5], [5, 1, 0, 3], [5, 5, 6, 2], [7, 0, 4, 4]])
check.close(
    exact_match(logits_for(answers, 12), targets),
    0.5,
    "answers with two to four places that count: 072 for 082, 103 for 104 and 62 for 73 are wrong, 013, 5515 and 7044 are right",
)
check.close(
    exact_match(logits_for([[0, 8], [1, 1], [1, 3]], 12), np.array([[0, 8], [1, 3], [-100, -100]])),
    0.5,
    "three texts, and in the last nothing is asked: one of two is right",
)
### BEGIN HIDDEN TESTS
rng = np.random.default_rng(check.seed(1))
for shape, V, ignore in (
    ((60, 3), 4, -100),
    ((50, 3), 4, -1),
    ((1, 5), 3, -100),
    ((3,), 5, -100),
    ((4, 7, 2), 3, 1),
    ((40, 1), 3, 0),
):
    case = f"targets of shape {shape}, V={V}, ignore_index={ignore}"
    logits = rng.normal(size=(*shape, V))
    targets = np.where(rng.random(shape) < 0.6, logits.argmax(-1), rng.integers(V, size=shape))
    targets = np.where(rng.random(shape) < 0.3, ignore, targets)
    targets.reshape(-1, shape[-1])[0, 0] = V - 1  # one text at least is asked something
    marks = []
    for answer, wanted in zip(logits.argmax(-1).reshape(-1, shape[-1]), targets.reshape(-1, shape[-1]), strict=True):
        asked = [(int(x), int(y)) for x, y in zip(answer, wanted, strict=True) if y != ignore]
        if asked:
            marks.append(all(x == y for x, y in asked))
    call = exact_match(logits, targets) if ignore == -100 else exact_match(logits, targets, ignore)
    check.close(call, sum(marks) / len(marks), case)
found = exact_match(logits_for([[1, 2], [0, 2]], 3), np.array([[1, 2], [1, 2]]))
check.that(isinstance(found, float), "the result is a Python float", why=f"it is a {type(found).__name__}")
check.equal(
    exact_match(np.zeros((2, 2, 3)), np.array([[0, 0], [0, 1]])), 0.5, "equal scores: the first class is the answer"
)
check.close(exact_match(np.zeros((2, 2, 3)), np.full((2, 2), -100)), float("nan"), "two texts, and nothing is asked")
check.equal(exact_match(logits_for([[0, 1]], 3), np.array([[-100, 1]])), 1.0, "one text, one place that counts, right")
scores = logits_for([[2, 1, 0]] * 4, 3).swapaxes(0, 1)
check.equal(exact_match(scores.swapaxes(0, 1), np.array([[2, 1, 0]] * 3 + [[2, 1, 1]])), 0.75, "a view of other memory")
check.equal(
    exact_match(-1e4 * logits_for([[0, 1]], 2).astype("float32"), np.array([[1, 0]])), 1.0, "large float32 scores"
)
for shape in ((2, 3), (3,), (2, 1), (2, 4, 3)):
    check.raises(
        ValueError, lambda shape=shape: exact_match(np.zeros((2, 4, 3)), np.zeros(shape, dtype=int)), f"targets {shape}"
    )
### END HIDDEN TESTS


# %% alternative="exact_match"
def exact_match(logits, targets, ignore_index=-100):
    if list(logits.shape[:-1]) != list(targets.shape):
        raise ValueError("shapes")
    T = targets.shape[-1]
    right = total = 0
    for scores, wanted in zip(logits.reshape(-1, T, logits.shape[-1]), targets.reshape(-1, T), strict=True):
        places = [t for t in range(T) if wanted[t] != ignore_index]
        total += bool(places)
        right += bool(places) and all(np.argmax(scores[t]) == wanted[t] for t in places)
    print("right:", right)
    return right / total if total else float("nan")


# %% mistakes="exact_match"
{
    "characters are counted and not texts: it is the accuracy of Lab 0.6": (
        "return float(solved.sum() / asked.sum()) if",
        "return float((right & counts).sum() / counts.sum()) if",
    ),
    "a text counts as right if one of its places is": (
        "(right | ~counts).all(axis=-1)",
        "(right & counts).any(axis=-1)",
    ),
    "places that do not count have to be right, too": ("(right | ~counts).all(axis=-1)", "right.all(axis=-1)"),
    "texts in which nothing is asked count as right": (
        "return float(solved.sum() / asked.sum()) if asked.any()",
        "return float((right | ~counts).all(axis=-1).mean()) if asked.any()",
    ),
    "texts in which nothing is asked count as wrong": (
        "return float(solved.sum() / asked.sum()) if asked.any()",
        "return float(solved.mean()) if asked.any()",
    ),
    "the mean is taken over the texts of each share of characters that are right": (
        "return float(solved.sum() / asked.sum()) if",
        "return float(((right & counts).sum(axis=-1) / np.maximum(counts.sum(axis=-1), 1)).sum() / asked.sum()) if",
    ),
    "only the last place of each text is looked at": ("(right | ~counts).all(axis=-1)", "right[..., -1]"),
    "only -100 is ignored, whatever ignore_index says": ("targets != ignore_index", "targets != -100"),
    "negative targets are ignored and no others": ("targets != ignore_index", "targets >= 0"),
    "the smallest score is the answer": ("logits.argmax(axis=-1)", "logits.argmin(axis=-1)"),
    "the number of right texts is returned and not their share": (
        "return float(solved.sum() / asked.sum()) if",
        "return float(solved.sum()) if",
    ),
    "the share of texts that are wrong is returned": (
        "return float(solved.sum() / asked.sum()) if",
        "return float(1 - solved.sum() / asked.sum()) if",
    ),
    "all texts together count as one: right if no place in the batch is wrong": (
        "return float(solved.sum() / asked.sum()) if",
        "return float((right | ~counts).all()) if",
    ),
    "where nothing is asked at all the result is 0 and not NaN": ('float("nan")', "0.0"),
    "where nothing is asked at all the result is 1 and not NaN": ('float("nan")', "1.0"),
    "targets of another shape are broadcast and not refused": (
        "if targets.shape != logits.shape[:-1]:",
        "targets = np.resize(targets, logits.shape[:-1])\n    if False:",
    ),
}

# %% [markdown]
# ## Exercise 2 · `digit_report`
#
# Which digits are wrong? And is it the carry? `carries` says for each digit of the answer whether a carry arrives there. For $57 + 45$ the units make 12, so one
# arrives at the tens. The tens make $5 + 4 + 1 = 10$, so one arrives at the hundreds: `[True, True, False]`. Note that the second would not be there without the
# first. Carries run.
#
# `digit_report` compares answers with the right ones and gives shares of wrong digits, place by place: among all sums, among those in which a carry arrives at this place, and
# among those in which none does.
#
# *Difficulty 2 of 5 · 20 minutes · 5 points*


# %% exercise="digit_report" difficulty=2 minutes=20 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
def carries(a: np.ndarray, b: np.ndarray, n_digits: int) -> np.ndarray:
    """Where a carry arrives when a and b are added on paper.

    Args:
        a, b: (n,) integers of any integer dtype, each from 0 to 10**n_digits - 1.
        n_digits: D, from 1 to 9, the number of digits of a and of b.

    Returns:
        Booleans (n, D + 1), one for each digit of the sum, the highest first: True where the digits to the right of it make so much
        that a 1 is carried to it. Nothing arrives at the units.
    """
    ### BEGIN SOLUTION
    power = 10 ** np.arange(n_digits, -1, -1)  # (D + 1,): 100, 10, 1 for numbers of two digits
    return a[:, None] % power + b[:, None] % power >= power  # what stands to the right of each digit
    ### END SOLUTION


def digit_report(predicted: np.ndarray, a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    """The share of wrong digits at each place of the answer, with and without a carry.

    Args:
        predicted: (n, D + 1) integers, the answers to n sums of D-digit numbers, the highest digit first; n is at least 1. What is no digit, such as
            10 or -1, is wrong.
        a, b: (n,) the numbers, as for `carries`. Their sum may be too large for their dtype.

    Returns:
        Three float64 arrays (D + 1,): under "all" the share of the n sums in which this digit is wrong, under "carry" the share of wrong ones
        among those sums in which a carry arrives at this digit, under "no carry" the share among the others. NaN where there are no such sums.
    """
    ### BEGIN SOLUTION
    a, b = a.astype(np.int64), b.astype(np.int64)
    n_digits = predicted.shape[1] - 1
    power = 10 ** np.arange(n_digits, -1, -1)  # (D + 1,)
    wrong = predicted != (a + b)[:, None] // power % 10  # (n, D + 1)
    carry_arrives = carries(a, b, n_digits)  # (n, D + 1)

    def share_wrong(among):
        n = among.sum(axis=0)  # (D + 1,)
        return np.where(n > 0, (wrong & among).sum(axis=0) / np.maximum(n, 1), np.nan)

    return {
        "all": share_wrong(np.ones_like(wrong)),
        "carry": share_wrong(carry_arrives),
        "no carry": share_wrong(~carry_arrives),
    }
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>A carry arrives at the hundreds if the rest of both numbers, without their hundreds, makes 100 or more. One remainder does that for the
# tens and the units at once, so no loop has to pass a carry on.</details>
# <details><summary>A bigger nudge</summary>Put the powers of ten into an array and give a and b a second axis, so that they broadcast against it. The digit of a number at the place of
# 10 is <code>number // 10 % 10</code>. For the shares, count: wrong sums of this kind, divided by sums of this kind. Where there are none, 0 / 0 is NaN with a warning; nobody
# minds, but one can avoid it.</details>

# %% test="digit_report" points=2
from coursekit import check

import numpy as np

found = carries(np.array([37, 57, 12, 99, 95]), np.array([45, 45, 34, 1, 4]), 2)
wanted = [[False, True, False], [True, True, False], [False, False, False], [True, True, False], [False, False, False]]
check.equal(np.asarray(found).tolist(), wanted, "the carries of 37+45, 57+45, 12+34, 99+1 and 95+4")
### BEGIN HIDDEN TESTS


def by_hand(a, b, n_digits):
    """As at school, digit by digit from the right."""
    rows = []
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        row, carried = [], 0
        for _ in range(n_digits + 1):
            row.append(bool(carried))
            carried = int(x % 10 + y % 10 + carried >= 10)
            x, y = x // 10, y // 10
        rows.append(row[::-1])
    return rows


rng = np.random.default_rng(check.seed(2))
for n_digits, n, dtype in ((1, 60, "int64"), (2, 300, "int8"), (4, 300, "int32"), (9, 60, "int64"), (2, 1, "uint8")):
    a, b = (rng.integers(10**n_digits, size=n).astype(dtype) for _ in range(2))
    case = f"{n} sums of numbers with {n_digits} digits, {dtype}"
    found = np.asarray(carries(a, b, n_digits))
    check.equal(str(found.dtype), "bool", f"{case}: the dtype")
    check.equal(found.tolist(), by_hand(a, b, n_digits), case)
nines, ones = np.array([999, 998, 0, 500, 499]), np.array([1, 1, 0, 500, 500])
check.equal(
    np.asarray(carries(nines, ones, 3)).tolist(), by_hand(nines, ones, 3), "999+1, 998+1, 0+0, 500+500, 499+500"
)
numbers = np.arange(40)
check.equal(
    np.asarray(carries(numbers[::-2], numbers[::2], 3)).tolist(),
    by_hand(numbers[::-2], numbers[::2], 3),
    "every other number, backwards, with more digits than they need",
)
### END HIDDEN TESTS

# %% test="digit_report" points=3
from coursekit import check

import numpy as np

a, b = np.array([37, 57, 12, 99]), np.array([45, 45, 34, 1])
report = digit_report(np.array([[0, 7, 2], [1, 9, 2], [0, 4, 6], [1, 0, 1]]), a, b)
check.equal(sorted(report), ["all", "carry", "no carry"], "the names in the report")
check.close(report["all"], np.array([0.0, 0.5, 0.25]), "072, 192, 046, 101 for 37+45, 57+45, 12+34, 99+1: wrong digits")
check.close(report["carry"], np.array([0.0, 2 / 3, np.nan]), "the same answers: wrong digits where a carry arrives")
check.close(report["no carry"], np.array([0.0, 0.0, 0.25]), "the same answers: wrong digits where none arrives")
### BEGIN HIDDEN TESTS


def by_counting(predicted, a, b):
    n_digits = predicted.shape[1] - 1
    wrong = {name: [[] for _ in range(n_digits + 1)] for name in ("all", "carry", "no carry")}
    for answer, x, y in zip(predicted.tolist(), a.tolist(), b.tolist(), strict=True):
        for place, (digit, right) in enumerate(zip(answer, f"{x + y:0{n_digits + 1}d}", strict=True)):
            power = 10 ** (n_digits - place)
            arrives = (x + y) // power - x // power - y // power == 1
            for name in ("all", "carry" if arrives else "no carry"):
                wrong[name][place].append(digit != int(right))
    return {name: np.array([np.mean(marks) if marks else np.nan for marks in w]) for name, w in wrong.items()}


rng = np.random.default_rng(check.seed(3))
for n_digits, n, dtype in ((2, 400, "int64"), (1, 200, "int8"), (2, 400, "int8"), (4, 300, "uint16"), (3, 1, "int64")):
    a, b = (rng.integers(10**n_digits, size=n).astype(dtype) for _ in range(2))
    power = 10 ** np.arange(n_digits, -1, -1)
    total = a.astype("int64") + b.astype("int64")
    predicted = total[:, None] // power % 10
    guesses = rng.integers(12, size=predicted.shape)
    chance = np.linspace(0.2, 0.7, n_digits + 1)
    predicted = np.where(rng.random(predicted.shape) < chance, guesses, predicted)
    report, wanted = digit_report(predicted, a, b), by_counting(predicted, a, b)
    for name, shares in wanted.items():
        case = f"{n} sums of numbers with {n_digits} digits, {dtype}: {name}"
        check.close(report[name], shares, case, atol=1e-9)
        check.equal(str(np.asarray(report[name]).dtype), "float64", f"{case}: the dtype")
report = digit_report(np.array([[0, 4]]), np.array([1]), np.array([3]))
check.close(report["all"], np.zeros(2), "1+3=04 is right: no wrong digits")
check.close(report["carry"], np.full(2, np.nan), "1+3=04: there is no sum with a carry")
report = digit_report(np.array([[-1, 4], [10, 3]]), np.array([1, 1]), np.array([3, 3]))
check.close(report["all"], np.array([1.0, 0.5]), "what is no digit is wrong")
### END HIDDEN TESTS


# %% alternative="digit_report"
def carries(a, b, n_digits):
    arriving, rest_a, rest_b = [np.zeros(len(a), dtype=bool)], a.astype(int), b.astype(int)
    for _ in range(n_digits):
        arriving.append(rest_a % 10 + rest_b % 10 + arriving[-1] >= 10)
        rest_a, rest_b = rest_a // 10, rest_b // 10
    return np.stack(arriving[::-1], axis=1)


def digit_report(predicted, a, b):
    D = predicted.shape[1] - 1
    right = np.array([[int(c) for c in f"{int(x) + int(y):0{D + 1}d}"] for x, y in zip(a, b, strict=True)])
    kinds = {"all": np.ones(predicted.shape, bool), "carry": carries(a, b, D), "no carry": ~carries(a, b, D)}
    with np.errstate(invalid="ignore"):
        return {
            name: np.einsum("nd,nd->d", (predicted != right).astype(float), kind.astype(float)) / kind.sum(0)
            for name, kind in kinds.items()
        }


# %% mistakes="digit_report"
{
    "a carry does not run: the hundreds look at the tens alone, and not at what the units add to them": (
        "a[:, None] % power + b[:, None] % power >= power",
        "(a[:, None] * 10 // power % 10 + b[:, None] * 10 // power % 10 >= 10) & (power > 1)",
    ),
    "the carry is counted at the digit that it leaves, one place too far to the right": (
        "carry_arrives = carries(a, b, n_digits)",
        "carry_arrives = np.roll(carries(a, b, n_digits), 1, axis=1)",
    ),
    "the carries are those that leave each digit, and not those that arrive": (
        "return a[:, None] % power + b[:, None] % power >= power",
        "power = 10 * power\n    return a[:, None] % power + b[:, None] % power >= power",
    ),
    "a rest of exactly ten, or a hundred, is not carried": (">= power  # what", "> power  # what"),
    "the units come first": (
        "np.arange(n_digits, -1, -1)  # (D + 1,): 100",
        "np.arange(n_digits + 1)  # 1, 10, 100: 100",
    ),
    "there is a column for each digit of the numbers, and none for the highest digit of the sum": (
        "np.arange(n_digits, -1, -1)  # (D + 1,): 100",
        "np.arange(n_digits - 1, -1, -1)  # 100",
    ),
    "with and without a carry have changed places": [
        ('"carry": share_wrong(carry_arrives)', '"carry": share_wrong(~carry_arrives)'),
        ('"no carry": share_wrong(~carry_arrives)', '"no carry": share_wrong(carry_arrives)'),
    ],
    "shares of right digits are returned, and not of wrong ones": ("wrong = predicted !=", "wrong = predicted =="),
    "errors with a carry are divided by all sums and not by those with a carry": (
        "np.where(n > 0, (wrong & among).sum(axis=0) / np.maximum(n, 1), np.nan)",
        "np.where(n > 0, (wrong & among).mean(axis=0), np.nan)",
    ),
    "the share of carries among the errors is returned, and not of errors among the carries": (
        "np.where(n > 0, (wrong & among).sum(axis=0) / np.maximum(n, 1), np.nan)",
        "np.where(n > 0, (wrong & among).sum(axis=0) / np.maximum(wrong.sum(axis=0), 1), np.nan)",
    ),
    "a sum with a carry anywhere counts as one with a carry at every digit": (
        "carry_arrives = carries(a, b, n_digits)",
        "carry_arrives = carries(a, b, n_digits) | carries(a, b, n_digits).any(axis=1, keepdims=True)",
    ),
    "sums are counted and not shares": ("/ np.maximum(n, 1), np.nan)", "/ 1.0, np.nan)"),
    "where there are no such sums the share is 0 and not NaN": ("np.maximum(n, 1), np.nan)", "np.maximum(n, 1), 0.0)"),
    "all places are thrown together": (
        "np.where(n > 0, (wrong & among).sum(axis=0) / np.maximum(n, 1), np.nan)",
        "np.full(len(n), (wrong & among).sum() / max(n.sum(), 1))",
    ),
    "a digit counts as wrong if any digit of its sum is": (
        "wrong = predicted != (a + b)[:, None] // power % 10",
        "wrong = predicted != (a + b)[:, None] // power % 10; wrong = wrong | wrong.any(axis=1, keepdims=True)",
    ),
    "a and b are added in their own dtype, where the sum may not fit": (
        "a, b = a.astype(np.int64), b.astype(np.int64)",
        "pass",
    ),
    "the digits of a answer are compared with the sum that has no carries": (
        "(a + b)[:, None] // power % 10",
        "(a[:, None] // power % 10 + b[:, None] // power % 10) % 10",
    ),
}

# %% equivalent="digit_report"
{
    "carries(a, b, n_digits) -> carries(b, a, n_digits)": "a sum does not mind the order, and neither do its carries",
}

# %% [markdown]
# ## Exercise 3 · `overfitting_step`
#
# A model that sees a few sums again and again learns their answers by heart. The loss on those sums falls and falls. The loss on others, which it has
# never seen, falls for a while, and then rises. From that point on it is surer and surer of answers that are wrong.
#
# First a tool. Measurements jump. `smooth` replaces each by the mean of the last few, itself included. It looks back and never ahead, so it can be used
# while training goes on: the values 4, 2, 3 with a window of 2 become 4, 3, 2.5.
#
# Then the detector. It names the step after which, for `patience` measurements, the validation loss stood *above* its value at that step while the training loss
# stood *below*. Both halves matter. If both losses rise, the learning rate is too high, or a batch was bad. That is another illness.
#
# *Difficulty 2 of 5 · 15 minutes · 4 points*


# %% exercise="overfitting_step" difficulty=2 minutes=15 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy"]
def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Replace each value by the mean of the last `window` values up to it.

    Args:
        values: (n,) numbers, n at least 1.
        window: at least 1. Where fewer than `window` values have been seen, the mean is that of those.

    Returns:
        float64 array (n,).

    Raises:
        ValueError: if window is less than 1.
    """
    ### BEGIN SOLUTION
    if window < 1:
        raise ValueError(f"window is at least 1, got {window}")
    ends = range(1, len(values) + 1)
    return np.array([np.mean(values[max(0, end - window) : end]) for end in ends], dtype=np.float64)
    ### END SOLUTION


def overfitting_step(steps: np.ndarray, train_loss: np.ndarray, val_loss: np.ndarray, patience: int = 3) -> int | None:
    """The step from which the model learns by heart.

    Args:
        steps: (n,) integers, the steps at which was measured, in rising order.
        train_loss: (n,) the losses on the sums that the model trains on.
        val_loss: (n,) the losses on sums that it has never seen.
        patience: how many measurements have to agree, at least 1.

    Returns:
        The first of `steps` such that at each of the `patience` measurements that follow it the validation loss is higher than at this
        step, and the training loss lower; a Python int. None if there is no such step: fewer measurements that follow are not enough, and neither
        are equal losses. (The losses are compared with those of this step, and not each with the one before.)

    Raises:
        ValueError: if the three do not have one length, or patience is less than 1.
    """
    ### BEGIN SOLUTION
    if not len(steps) == len(train_loss) == len(val_loss):
        raise ValueError(f"{len(steps)} steps, but {len(train_loss)} and {len(val_loss)} losses")
    if patience < 1:
        raise ValueError(f"patience is at least 1, got {patience}")
    for i in range(len(steps) - patience):
        after = slice(i + 1, i + 1 + patience)
        worse = (val_loss[after] > val_loss[i]).all()
        by_heart = (train_loss[after] < train_loss[i]).all()
        if worse and by_heart:
            return int(steps[i])
    return None
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Try each measurement in turn, from the first. Which slice holds the `patience` measurements that follow number i? For which i is that slice
# complete?</details>
# <details><summary>A bigger nudge</summary>Four of n measurements follow number i if i + 4 is at most n - 1. So with a patience of 4 the last candidate is n - 5. For the mean, the slice
# that ends at the value itself may begin before the array does: then begin at 0. (A negative index would count from the end.)</details>

# %% test="overfitting_step" points=1
from coursekit import check

import numpy as np

check.close(smooth(np.array([4.0, 2.0, 3.0]), 2), np.array([4.0, 3.0, 2.5]), "4, 2, 3 with a window of 2", atol=1e-9)
check.close(
    smooth(np.array([9.0, 0.0, 0.0, 0.0, 4.0]), 3),
    np.array([9.0, 4.5, 3.0, 0.0, 4 / 3]),
    "9, 0, 0, 0, 4 with a window of 3: the last 4 moves nothing before it",
    atol=1e-9,
)
### BEGIN HIDDEN TESTS
rng = np.random.default_rng(check.seed(1))
for n, window in ((60, 7), (5, 1), (5, 5), (4, 9), (1, 1), (1, 3)):
    values = rng.normal(size=2 * n)[::2] + 3
    wanted = [sum(values[j] for j in range(n) if i - window < j <= i) / min(window, i + 1) for i in range(n)]
    check.close(smooth(values, window), np.array(wanted), f"{n} values, a window of {window}", atol=1e-9, rtol=1e-9)
found = smooth(np.array([1, 2, 4, 8]), 2)
check.close(found, np.array([1, 1.5, 3, 6]), "whole numbers", atol=1e-9)
check.equal(str(np.asarray(smooth(np.ones(3, dtype="float32"), 2)).dtype), "float64", "the dtype for float32 values")
for window in (0, -1):
    check.raises(ValueError, lambda window=window: smooth(np.ones(3), window), f"a window of {window}")
### END HIDDEN TESTS

# %% test="overfitting_step" points=3
from coursekit import check

import numpy as np

steps = np.array([10, 20, 30, 40, 50, 60, 70, 80])
train = np.array([2.0, 1.5, 1.1, 0.8, 0.5, 0.4, 0.3, 0.2])
check.equal(
    overfitting_step(steps, train, np.array([1.9, 2.0, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9]), patience=3),
    30,
    "validation loss 1.9, 2.0, 1.4, and from there up, step by step; training loss falls: patience 3",
)
check.equal(
    overfitting_step(steps, train, np.array([2.0, 1.7, 1.4, 1.5, 1.7, 1.6, 1.9, 1.8]), patience=3),
    30,
    "validation loss 2.0, 1.7, 1.4, then 1.5, 1.7, 1.6, 1.9, 1.8, always above 1.4: patience 3",
)
check.equal(
    overfitting_step(steps, train, np.array([2.0, 1.7, 1.8, 1.6, 1.5, 1.4, 1.3, 1.3]), patience=2),
    None,
    "a single bad measurement, and a patience of 2",
)
check.equal(
    overfitting_step(steps, train[::-1].copy(), np.array([2.0, 1.7, 1.4, 1.5, 1.7, 1.6, 1.9, 1.8]), patience=3),
    None,
    "both losses rise",
)
### BEGIN HIDDEN TESTS
steps, down = np.arange(10, 80, 10), np.linspace(2, 1, 7)
late = np.array([2.0, 1.7, 1.4, 1.3, 1.2, 1.4, 1.5])
check.equal(overfitting_step(steps, down, late, patience=2), 50, "the last two of seven are worse: patience 2")
check.equal(overfitting_step(steps, down, late, patience=3), None, "the last two of seven are worse: patience 3")
check.equal(overfitting_step(steps, down, late, patience=1), 50, "the last two of seven are worse: patience 1")
check.equal(
    overfitting_step(steps, down, np.linspace(1, 2, 7), patience=6),
    10,
    "worse from the first to the last of seven: patience 6",
)
check.equal(overfitting_step(steps, down, np.linspace(1, 2, 7), patience=7), None, "seven measurements: patience 7")
check.equal(
    overfitting_step(steps, down, np.linspace(1, 2, 7)),
    10,
    "worse from the first: the patience that is meant if none is given",
)
check.equal(
    overfitting_step(steps, down, np.array([3.0, 3, 3, 2, 3, 3, 3.0])), 40, "default patience, three measurements left"
)
check.equal(
    overfitting_step(steps, down, np.array([3.0, 3, 3, 3, 2, 3, 3.0])), None, "default patience, two measurements left"
)
check.equal(overfitting_step(steps, down, np.full(7, 1.5)), None, "the validation loss stays equal")
check.equal(overfitting_step(steps, np.full(7, 1.5), np.linspace(1, 2, 7)), None, "the training loss stays equal")
check.equal(
    overfitting_step(steps, down, np.array([1.0, 3.0, 2.5, 2.2, 2.1, 2.0, 1.5]), patience=4),
    10,
    "after one great leap the validation loss falls, and is still above that of step 10",
)
check.equal(
    overfitting_step(steps, np.array([3.0, 0.5, 1.0, 1.5, 2.0, 2.2, 2.4]), np.linspace(1, 2, 7), patience=4),
    10,
    "after one great leap down the training loss rises, and is still below that of step 10",
)


def by_looking(steps, train, val, patience):
    found = [
        int(step)
        for i, step in enumerate(steps)
        if i + patience < len(steps)
        and min(val[i + 1 : i + patience + 1]) > val[i]
        and max(train[i + 1 : i + patience + 1]) < train[i]
    ]
    return found[0] if found else None


rng = np.random.default_rng(check.seed(2))
for trial in range(40):
    n, patience = int(rng.integers(3, 14)), int(rng.integers(1, 4))
    steps = np.cumsum(rng.integers(1, 50, size=n))
    train = 3 - 0.3 * np.arange(n) + 0.4 * rng.integers(3, size=n)
    val = 3 + 0.25 * np.abs(np.arange(n) - n // 2) + 0.4 * rng.integers(3, size=n)
    check.equal(
        overfitting_step(steps, train, val, patience),
        by_looking(steps.tolist(), train.tolist(), val.tolist(), patience),
        f"trial {trial}: {n} measurements, patience {patience}",
    )
found = overfitting_step(np.array([5, 6]), np.array([1.0, 0.5]), np.array([1.0, 2.0]), 1)
check.that(type(found) is int, "the step is a Python int", why=f"it is a {type(found).__name__}")
for lengths in ((3, 3, 4), (3, 4, 3), (4, 3, 3), (2, 3, 3)):
    check.raises(
        ValueError,
        lambda lengths=lengths: overfitting_step(*(np.arange(float(n)) for n in lengths), 1),
        f"{lengths} steps and losses",
    )
for patience in (0, -1):
    check.raises(
        ValueError,
        lambda patience=patience: overfitting_step(np.arange(3), down[:3], late[:3], patience),
        f"patience {patience}",
    )
### END HIDDEN TESTS


# %% alternative="overfitting_step"
def smooth(values, window):
    if window <= 0:
        raise ValueError("window")
    total = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=np.float64))])
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(ends - window, 0)
    return (total[ends] - total[begins]) / (ends - begins)


def overfitting_step(steps, train_loss, val_loss, patience=3):
    if len({len(steps), len(train_loss), len(val_loss)}) > 1 or patience <= 0:
        raise ValueError("arguments")
    print("looking at", len(steps), "measurements")
    candidates = list(zip(steps, train_loss, val_loss, strict=True))
    for i, (step, train, val) in enumerate(candidates):
        following = candidates[i + 1 : i + 1 + patience]
        if len(following) == patience and all(t < train and v > val for _, t, v in following):
            return int(step)


# %% mistakes="overfitting_step"
{
    "the training loss is not looked at, so both losses may rise": ("if worse and by_heart:", "if worse:"),
    "the training loss has to rise, too": (
        "by_heart = (train_loss[after] < train_loss[i]).all()",
        "by_heart = (train_loss[after] > train_loss[i]).all()",
    ),
    "the step is the last of the bad measurements, and not the one before they begin": (
        "return int(steps[i])",
        "return int(steps[i + patience])",
    ),
    "the step is the first of the bad measurements, and not the one before it": (
        "return int(steps[i])",
        "return int(steps[i + 1])",
    ),
    "the number of the measurement is returned and not its step": ("return int(steps[i])", "return int(i)"),
    "each loss is compared with the one before, and not with that of the step": [
        ("(val_loss[after] > val_loss[i]).all()", "(np.diff(val_loss[i : i + 1 + patience]) > 0).all()"),
        ("(train_loss[after] < train_loss[i]).all()", "(np.diff(train_loss[i : i + 1 + patience]) < 0).all()"),
    ],
    "a step near the end is accepted, although fewer than `patience` measurements follow": (
        "range(len(steps) - patience)",
        "range(len(steps))",
    ),
    "one bad measurement is enough": [
        ("> val_loss[i]).all()", "> val_loss[i]).any()"),
        ("< train_loss[i]).all()", "< train_loss[i]).any()"),
    ],
    "the step of the lowest validation loss is returned, whatever comes after": (
        "return None",
        "return int(steps[int(np.argmin(val_loss))])",
    ),
    "the last of all such steps is returned and not the first": (
        "    for i in range(len(steps) - patience):",
        "    for i in reversed(range(len(steps) - patience)):",
    ),
    "at the end of the run fewer measurements are enough": (
        "for i in range(len(steps) - patience):",
        "for i in range(len(steps) - 1):",
    ),
    "the last candidate is left out": (
        "for i in range(len(steps) - patience):",
        "for i in range(len(steps) - patience - 1):",
    ),
    "one measurement less than patience has to agree": ("slice(i + 1, i + 1 + patience)", "slice(i + 1, i + patience)"),
    "one measurement more than patience has to agree": (
        "slice(i + 1, i + 1 + patience)",
        "slice(i + 1, i + 2 + patience)",
    ),
    "losses that stay equal are enough": [
        ("> val_loss[i])", ">= val_loss[i])"),
        ("< train_loss[i])", "<= train_loss[i])"),
    ],
    "0 is returned where there is no such step": ("return None", "return 0"),
    "only the last of the following measurements is looked at": [
        ("(val_loss[after] > val_loss[i]).all()", "val_loss[i + patience] > val_loss[i]"),
        ("(train_loss[after] < train_loss[i]).all()", "train_loss[i + patience] < train_loss[i]"),
    ],
    "smooth looks as far ahead as it looks back": (
        "np.mean(values[max(0, end - window) : end])",
        "np.mean(values[max(0, end - 1 - window // 2) : end - 1 + window - window // 2])",
    ),
    "smooth divides by the window where fewer values have been seen, so the curve begins too low": (
        "np.mean(values[max(0, end - window) : end])",
        "np.sum(values[max(0, end - window) : end]) / window",
    ),
    "the value itself is left out of its mean": (
        "np.mean(values[max(0, end - window) : end])",
        "np.mean(values[max(0, end - 1 - window) : max(end - 1, 1)])",
    ),
    "the window has one value too many": ("max(0, end - window)", "max(0, end - window - 1)"),
    "smooth begins at the index end - window, which where it is negative counts from the end": (
        "np.mean(values[max(0, end - window) : end])",
        "np.mean(values[end - window : end] if len(values[end - window : end]) else [0.0])",
    ),
    "smooth takes the median": ("np.mean(values", "np.median(values"),
    "smooth keeps only the places whose window is full": (
        "ends = range(1, len(values) + 1)",
        "ends = range(min(window, len(values)), len(values) + 1)",
    ),
}

# %% equivalent="overfitting_step"
{
    "drop: return None": "a function that ends without a return gives None",
}

# %% [markdown]
# ## Exercise 4 · `head_profile`
#
# Your attention layers keep their weights: after `forward` they lie in `model.transformer.blocks[i].attention.layer.weights`. `attention_maps` fetches those of all
# layers and heads.
#
# What does a head do at a place? Two numbers say a good deal. The *entropy* of its row of weights, in bits: a row that looks at one place has 0, a row that looks at four places
# alike has 2. (So $2^{\text{entropy}}$ is something like the number of places that it looks at.) And the *share* that goes to places of your
# choice. For sums we ask at the place that has to name the tens: how much goes to the two units?
#
# One warning. Two sums, and a head that in the first looks only at `7` and in the second only at `5`: it has an entropy of 0 in both. In the mean of the two maps its row is
# half and half, with an entropy of 1 bit. So first the entropy of each row, then the mean.
#
# *Difficulty 3 of 5 · 25 minutes · 5 points*


# %% exercise="head_profile" difficulty=3 minutes=25 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy", "torch.distributions"]
def attention_maps(model: LanguageModel, ids: np.ndarray) -> np.ndarray:
    """The attention weights of all layers and heads on some texts.

    Args:
        model: a `LanguageModel` with L layers of H heads. Block i keeps its weights in
            ``model.transformer.blocks[i].attention.layer.weights`` after a forward pass.
        ids: (..., T) texts, with any number of axes in front, also none.

    Returns:
        A new array (L, ..., H, T, T): what `forward` on these ids leaves in each block, the first block first. A later forward does not change
        it.
    """
    ### BEGIN SOLUTION
    model.forward(ids)
    return np.stack([block.attention.layer.weights for block in model.transformer.blocks])
    ### END SOLUTION


def row_entropy(weights: np.ndarray) -> np.ndarray:
    """How widely each row of weights is spread, in bits.

    Args:
        weights: (..., T), not negative; rows sum to one, or consist of zeros. float32 or float64.

    Returns:
        Array (...): ``-sum_j w_j log2(w_j)``, where a weight of 0 contributes 0. No NaN, no infinity, and nothing
        below 0: by rounding a weight can be a little above 1, and its logarithm above 0.

    Source: Shannon, A Mathematical Theory of Communication, 1948.
    """
    ### BEGIN SOLUTION
    surprise = -np.log2(np.where(weights > 0, weights, 1))  # (..., T): 0 where the weight is 0
    return (weights * np.maximum(surprise, 0)).sum(axis=-1)
    ### END SOLUTION


def head_profile(maps: np.ndarray, query: int, keys: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """What each head does at one place, on average over the texts.

    Args:
        maps: (L, ..., H, T, T) weights, from `attention_maps`.
        query: the place that asks.
        keys: the places that are asked about, different from each other.

    Returns:
        entropy (L, H): for each layer and head the mean, over all texts, of the entropy of the row of ``query``, in bits.
        share (L, H): the mean of the weight that this row gives to all ``keys`` together.
    """
    ### BEGIN SOLUTION
    rows = maps[..., query, :]  # (L, ..., H, T)
    texts = tuple(range(1, rows.ndim - 2))  # the axes between layers and heads
    share = rows[..., keys].sum(axis=-1)  # (L, ..., H)
    return row_entropy(rows).mean(axis=texts), share.mean(axis=texts)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>For the maps: run the model first, then go through the blocks. For the entropy: the logarithm of 0 is minus infinity, and 0 times infinity is NaN. What may
# stand in the place of a 0 inside the logarithm, if the result is multiplied by that 0 anyway?</details>
# <details><summary>A bigger nudge</summary>The logarithm of 1 is 0. For the profile, take the row of the query first: that leaves the axes layer, texts, head, column. Reduce the columns, in both of the two ways, and
# last the axes of the texts. There may be none, one or two of them, so build the tuple of axes from the number of dimensions.</details>

# %% test="head_profile" points=2
from coursekit import check

import numpy as np
import torch

F = torch.nn.functional


def weights_in_torch(parameters, ids, n_layers, n_heads):
    """The whole model up to its last attention weights, from its parameters alone."""
    p = {name: torch.from_numpy(np.array(parameter.value)) for name, parameter in parameters.items()}
    x = p["embedding.weight"][torch.from_numpy(ids)]
    x = x + p["positions.weight"][: ids.shape[-1]]
    hidden = torch.ones(ids.shape[-1], ids.shape[-1], dtype=torch.bool).triu(1)
    maps = []
    for i in range(n_layers):
        block = f"transformer.blocks.{i}."
        get = {name.removeprefix(block): value for name, value in p.items() if name.startswith(block)}.__getitem__
        d = x.shape[-1]
        y = F.layer_norm(x, (d,), get("attention.norm.weight"), get("attention.norm.bias"))
        q, k, v = (
            (y @ get(f"attention.layer.{n}.weight") + get(f"attention.layer.{n}.bias"))
            .unflatten(-1, (n_heads, -1))
            .transpose(-2, -3)
            for n in "qkv"
        )
        w = ((q @ k.mT) / (d // n_heads) ** 0.5).masked_fill(hidden, -torch.inf).softmax(-1)
        maps.append(w)
        merged = (w @ v).transpose(-2, -3).flatten(-2)
        x = x + merged @ get("attention.layer.o.weight") + get("attention.layer.o.bias")
        y = F.layer_norm(x, (d,), get("feed_forward.norm.weight"), get("feed_forward.norm.bias"))
        y = F.gelu(
            y @ get("feed_forward.layer.inner.weight") + get("feed_forward.layer.inner.bias"), approximate="tanh"
        )
        x = x + y @ get("feed_forward.layer.outer.weight") + get("feed_forward.layer.outer.bias")
    return torch.stack(maps).numpy()


ids = np.array([[3, 7, 10, 4, 5, 11], [1, 2, 10, 3, 4, 11]])
model = new_model(0, d_model=8, n_layers=2, n_heads=2)
model.embedding.weight.value = np.random.default_rng(0).normal(size=(12, 8))
maps = attention_maps(model, ids)
check.equal(
    list(np.shape(maps)), [2, 2, 2, 6, 6], "two layers, two texts, two heads, six places: the shape of the maps"
)
check.close(maps, weights_in_torch(model.parameters(), ids, 2, 2), "their weights", atol=1e-8)
### BEGIN HIDDEN TESTS
rng = np.random.default_rng(check.seed(5))
for shape, n_layers, n_heads in (((3, 7), 3, 1), ((1, 8), 1, 4), ((5,), 2, 2), ((2, 3, 1), 2, 3)):
    case = f"ids of shape {shape}, {n_layers} layers, {n_heads} heads"
    model = new_model(check.seed(6), d_model=12, n_layers=n_layers, n_heads=n_heads)
    for parameter in model.parameters().values():
        parameter.value = rng.normal(size=parameter.value.shape) * 0.7
    ids, others = rng.integers(12, size=shape), rng.integers(12, size=shape)
    attention_maps(model, others)
    first = attention_maps(model, ids)
    wanted = weights_in_torch(model.parameters(), ids, n_layers, n_heads)
    check.equal(list(np.shape(first)), list(wanted.shape), f"{case}: the shape")
    check.close(first, wanted, case, atol=1e-8)
    attention_maps(model, others)
    check.close(first, wanted, f"{case}: after another forward", atol=1e-8)
### END HIDDEN TESTS

# %% test="head_profile" points=3
from coursekit import check

import numpy as np

rows = np.array([[0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
check.close(
    row_entropy(rows),
    np.array([2.0, 0.0, 1.0, 0.0]),
    "a row over four places, one over one, one over two, and one of zeros",
)
maps = np.zeros((1, 2, 1, 3, 3))  # one layer, two texts, one head
maps[0, 0, 0, 2], maps[0, 1, 0, 2] = [0.5, 0, 0.5], [0, 1, 0]
maps[0, :, 0, 1] = [0.5, 0.5, 0]
entropy, share = head_profile(maps, 2, [1, 2])
check.close(
    entropy, np.array([[0.5]]), "rows 0.5, 0, 0.5 and 0, 1, 0 in two texts: the mean of their entropies, 1 and 0"
)
check.close(share, np.array([[0.75]]), "the same rows: the mean of what goes to places 1 and 2, 0.5 and 1")
### BEGIN HIDDEN TESTS
from scipy.stats import entropy as entropy_by_scipy

rng = np.random.default_rng(check.seed(7))
for shape in ((3, 5, 7), (4,), (1, 1), (2, 3, 1, 6)):
    rows = np.exp(3 * rng.normal(size=shape))
    rows[..., 0] *= rng.random(shape[:-1]) < 0.5
    rows[..., -1] += 0.1
    rows /= rows.sum(axis=-1, keepdims=True)
    check.close(
        row_entropy(rows), entropy_by_scipy(rows, base=2, axis=-1), f"rows of shape {shape}", atol=1e-9, rtol=1e-9
    )
check.close(row_entropy(np.full((2, 8), 0.125, dtype="float32")), np.full(2, 3.0), "float32, eight places alike")
tiny = row_entropy(np.array([[1.0, 1e-300], [1.0, 5e-324], [0.0, 1.0 + 1e-12]]))
check.close(tiny, np.zeros(3), "a weight of almost nothing")
check.that(
    bool((np.asarray(tiny) >= 0).all()),
    "no entropy is below 0",
    why=f"they are {np.asarray(tiny).tolist()}",
    hint="By rounding a weight can be a little above 1.",
)
for shape, query, keys in (
    ((2, 3, 4, 6, 6), 4, [1, 3]),
    ((1, 5, 1, 8, 8), 7, [0]),
    ((3, 2, 5, 5), None, [4, 0, 2]),
    ((2, 2, 3, 3, 4, 4), 0, [0, 1, 2, 3]),
    ((3, 3, 3, 3, 3), 1, []),
):
    maps = np.exp(2 * rng.normal(size=shape))
    maps[..., 0] *= rng.random(shape[:-1]) < 0.7
    maps /= maps.sum(axis=-1, keepdims=True)
    query = 3 if query is None else query
    L, H, T = shape[0], shape[-3], shape[-1]
    flat = maps.reshape(L, -1, H, T, T)
    wanted_entropy, wanted_share = np.zeros((L, H)), np.zeros((L, H))
    for layer in range(L):
        for head in range(H):
            of_texts = [flat[layer, n, head, query] for n in range(flat.shape[1])]
            wanted_entropy[layer, head] = np.mean([entropy_by_scipy(row, base=2) for row in of_texts])
            wanted_share[layer, head] = np.mean([sum(row[key] for key in keys) for row in of_texts])
    entropy, share = head_profile(maps, query, keys)
    case = f"maps of shape {shape}, query {query}, keys {keys}"
    check.close(entropy, wanted_entropy, f"{case}: entropy", atol=1e-9)
    check.close(share, wanted_share, f"{case}: share", atol=1e-9)
### END HIDDEN TESTS


# %% alternative="head_profile"
def attention_maps(model, ids):
    logits = model(ids)
    print("logits", logits.shape)
    return np.array([np.copy(block.attention.layer.weights) for block in model.transformer.blocks])


def row_entropy(weights):
    wide = weights.astype(np.float64)
    bits = np.zeros_like(wide)
    np.log2(wide, where=wide > 0, out=bits)
    return np.abs(-np.einsum("...t,...t->...", wide, bits)) + 0.0


def head_profile(maps, query, keys):
    L, H, T = maps.shape[0], maps.shape[-3], maps.shape[-1]
    rows = maps.reshape(L, -1, H, T, T)[:, :, :, query]  # (L, N, H, T)
    chosen = np.isin(np.arange(T), keys)
    return row_entropy(rows).mean(1), (rows @ chosen.astype(rows.dtype)).mean(1)


# %% mistakes="head_profile"
{
    "the entropy is that of the mean row, and not the mean of the entropies": (
        "return row_entropy(rows).mean(axis=texts),",
        "return row_entropy(rows.mean(axis=texts)),",
    ),
    "the maps are those of an earlier forward: the model is not run on these ids": (
        "model.forward(ids)",
        'model.forward(0 * ids) if not hasattr(model.transformer.blocks[0].attention.layer, "weights") else None',
    ),
    "query and key are exchanged: the column of the query is read and not its row": (
        "rows = maps[..., query, :]",
        "rows = maps[..., query]",
    ),
    "the share is averaged over the keys and not added up": (
        "share = rows[..., keys].sum(axis=-1)",
        "share = rows[..., keys].sum(axis=-1) / max(len(keys), 1)",
    ),
    "only the first of the keys counts": (
        "share = rows[..., keys].sum(axis=-1)",
        "share = rows[..., keys[:1]].sum(axis=-1)",
    ),
    "the share is the largest weight among the keys and not their sum": (
        "share = rows[..., keys].sum(axis=-1)",
        "share = rows[..., keys].max(axis=-1, initial=0.0)",
    ),
    "the mean runs over all queries and not over the one that was asked for": (
        "return row_entropy(rows).mean(axis=texts), share.mean(axis=texts)",
        "share = maps[..., keys].sum(axis=-1).mean(axis=-1)\n    return row_entropy(maps).mean(axis=-1).mean(axis=texts), share.mean(axis=texts)",
    ),
    "texts are added up and not averaged": (
        "return row_entropy(rows).mean(axis=texts), share.mean(axis=texts)",
        "return row_entropy(rows).sum(axis=texts), share.sum(axis=texts)",
    ),
    "only the first text is looked at": (
        "rows = maps[..., query, :]",
        "maps = maps if maps.ndim == 4 else maps.reshape(len(maps), -1, *maps.shape[-3:])[:, :1]; rows = maps[..., query, :]",
    ),
    "texts and heads are averaged, so one number is left for each layer": (
        "texts = tuple(range(1, rows.ndim - 2))",
        "texts = tuple(range(1, rows.ndim - 1))",
    ),
    "entropy and share are returned in the other order": (
        "return row_entropy(rows).mean(axis=texts), share.mean(axis=texts)",
        "return share.mean(axis=texts), row_entropy(rows).mean(axis=texts)",
    ),
    "the entropy is in nats": ("-np.log2(", "-np.log("),
    "the entropy has the wrong sign": (
        "return (weights * np.maximum(surprise, 0)).sum(axis=-1)",
        "return -(weights * np.maximum(surprise, 0)).sum(axis=-1)",
    ),
    "the entropy is divided by the largest that is possible, log2(T)": (
        "return (weights * np.maximum(surprise, 0)).sum(axis=-1)",
        "return (weights * np.maximum(surprise, 0)).sum(axis=-1) / max(np.log2(weights.shape[-1]), 1e-9)",
    ),
    "the entropy is averaged over the row and not added up": (
        "return (weights * np.maximum(surprise, 0)).sum(axis=-1)",
        "return (weights * np.maximum(surprise, 0)).mean(axis=-1)",
    ),
    "the surprise is not weighted: every place counts alike": (
        "return (weights * np.maximum(surprise, 0)).sum(axis=-1)",
        "return np.maximum(surprise, 0).sum(axis=-1)",
    ),
    "a weight of 0 gives NaN": ("np.where(weights > 0, weights, 1)", "weights"),
    "a small number is added inside the logarithm, which moves every entropy": (
        "np.where(weights > 0, weights, 1)",
        "weights + 1e-3",
    ),
    "the number of places, 2 to the power of the entropy, is returned": (
        "return (weights * np.maximum(surprise, 0)).sum(axis=-1)",
        "return 2 ** (weights * np.maximum(surprise, 0)).sum(axis=-1)",
    ),
    "the maps of the last layer stand for all": (
        "for block in model.transformer.blocks]",
        "for block in [model.transformer.blocks[-1]] * len(model.transformer.blocks)]",
    ),
    "the last block comes first": ("in model.transformer.blocks]", "in reversed(model.transformer.blocks)]"),
    "the layers stand behind the texts": (
        "return np.stack([block.attention.layer.weights for block in model.transformer.blocks])",
        "return np.stack([block.attention.layer.weights for block in model.transformer.blocks], axis=-4)",
    ),
    "the heads are averaged away": (
        "return np.stack([block.attention.layer.weights for block",
        "return np.stack([block.attention.layer.weights.mean(axis=-3) for block",
    ),
    "the texts are averaged away": (
        "return np.stack([block.attention.layer.weights for block",
        "return np.stack([block.attention.layer.weights.reshape(-1, *block.attention.layer.weights.shape[-3:]).mean(axis=0) for block",
    ),
}

# %% equivalent="head_profile"
{
    "np.where(weights > 0, weights, 1) -> np.where(weights > 0, weights, 2)": "the surprise of a weight of 2 is -1, which the next line lifts to 0; and it is multiplied by 0 anyway",
}

# %% [markdown]
# ## Exercise 5 · `pca`
#
# The row of a digit has 48 features. To see how ten such rows lie, you need a picture with two. Which two? Those along which the rows differ most. *Principal component
# analysis* finds them: centre the rows, $\hat x_i = x_i - \bar x$, and look for the direction of length 1 along which they are most spread out. Then for the
# next, at a right angle to the first; and so on.
#
# Three rows: $(1, 1)$, $(2, 2)$ and $(3, 3)$. Their mean is $(2, 2)$, and the centred rows are $(-1, -1)$, $(0, 0)$, $(1, 1)$. All of their spread lies along $(1, 1)/\sqrt2$. There
# the rows stand at $-\sqrt2$, $0$ and $\sqrt2$, and the direction explains 100% of the variance.
#
# The *singular value decomposition* of the centred rows gives it all at once: $\hat X = U S V^\top$. The rows of $V^\top$ are the directions, the best first, and
# $s_j^2 / \sum_i s_i^2$ is the share of the variance that direction $j$ explains. Only the sign is left open: with $v$, $-v$ is right, too. So we agree on one: the entry
# of each direction that is largest in size is positive.
#
# *Difficulty 3 of 5 · 20 minutes · 5 points*


# %% exercise="pca" difficulty=3 minutes=20 forbid=["torch.tensor", "torch.as_tensor", "torch.from_numpy", "torch.pca_lowrank"]
def pca(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k directions along which the rows of x differ most, by singular value decomposition.

    Args:
        x: (n, d) n rows of d features, float32 or float64; contiguous or not.
        k: how many directions, from 1 to the smaller of n and d.

    Returns:
        projected (n, k): where the centred rows stand along the directions.
        directions (k, d): of length 1, at right angles to each other, the one that explains most first. In each the entry that is largest
            in size is positive.
        shares (k,): the share of the variance of all features together that each direction explains. Zeros if all centred rows are zero.
        All three are float64, and computed in float64.

    Raises:
        ValueError: if k is less than 1 or more than the smaller of n and d.

    Source: Pearson, On Lines and Planes of Closest Fit to Systems of Points in Space, 1901.
    """
    ### BEGIN SOLUTION
    if k < 1 or k > min(x.shape):
        raise ValueError(f"k is from 1 to {min(x.shape)} for rows of shape {x.shape}, got {k}")
    x = x.astype(np.float64)
    centred = x - x.mean(axis=0)  # (n, d)
    _, s, directions = np.linalg.svd(centred, full_matrices=False)  # (m,), (m, d) with m = min(n, d)
    largest = np.abs(directions).argmax(axis=1)  # (m,)
    signs = np.sign(directions[np.arange(len(s)), largest])  # (m,)
    directions = directions * signs[:, None]
    variance = s**2  # but for a factor that all share
    shares = variance / variance.sum() if variance.sum() > 0 else np.zeros_like(variance)
    return centred @ directions[:k].T, directions[:k], shares[:k]
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary><code>np.linalg.svd</code> returns three things, and the third is already the transpose: its rows are the directions. Ask for the small form with
# <code>full_matrices=False</code>. The singular values come in falling order.</details>
# <details><summary>A bigger nudge</summary>The share has all squared singular values in its denominator, and not only the first k. For the sign find, in each direction, the index of the entry that is largest in
# size, read the sign that stands there, and multiply the direction by it. Do it before you project.</details>

# %% test="pca" points=3
from coursekit import check

import numpy as np

projected, directions, shares = pca(np.array([[-3.0, 12.0], [7.0, 7.0], [9.0, -4.0], [-1.0, 1.0]]), 2)
case = "the rows (-3, 12), (7, 7), (9, -4), (-1, 1), whose mean is (3, 4)"
check.close(shares, np.array([0.8, 0.2]), f"{case}: the shares of the two directions", atol=1e-8)
check.close(directions, np.array([[-0.6, 0.8], [0.8, 0.6]]), f"{case}: the directions", atol=1e-8)
stand = np.array([[10.0, 0.0], [0.0, 5.0], [-10.0, 0.0], [0.0, -5.0]])
check.close(projected, stand, f"{case}: where they stand", atol=1e-8)
### BEGIN HIDDEN TESTS


def by_covariance(x):
    """The eigenvectors of the covariance matrix, the largest eigenvalue first, with the sign of the docstring."""
    x = x.astype("float64")
    centred = x - x.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(x))
    values, directions = values[::-1], vectors.T[::-1]
    directions = np.array([v if max(v, key=abs) > 0 else -v for v in directions])
    return centred @ directions.T, directions, values / values.sum()


rng = np.random.default_rng(check.seed(8))
for n, d, k in ((200, 5, 5), (40, 7, 2), (8, 12, 3), (10, 64, 2), (3, 2, 1), (5, 1, 1)):
    # Spreads that differ by a half from direction to direction, turned by a random rotation: no two shares are alike.
    m = min(n - 1, d)
    left, _ = np.linalg.qr(np.column_stack([np.ones(n), rng.normal(size=(n, m))]))
    right, _ = np.linalg.qr(rng.normal(size=(d, m)))
    x = left[:, 1:] * 1.5 ** -np.arange(m) @ right.T * 20 + rng.normal(size=d) * 3
    for case, given, atol in (
        (f"{n} rows of {d} features", x, 1e-8),
        (f"{n} rows of {d} features, 100 away from zero", x + 100, 1e-7),
        (f"{n} rows of {d} features, every other of twice as many", np.repeat(x, 2, axis=0)[::2], 1e-8),
        (f"{n} rows of {d} features in float32", x.astype("float32"), 1e-8),
    ):
        found = [np.asarray(part) for part in pca(given, k)]
        wanted = by_covariance(given)
        check.equal([str(part.dtype) for part in found], ["float64"] * 3, f"{case}: the dtypes")
        check.close(found[2], wanted[2][:k], f"{case}: the shares", atol=atol)
        check.close(found[1], wanted[1][:k], f"{case}: the directions", atol=10 * atol)
        check.close(found[0], wanted[0][:, :k], f"{case}: where the rows stand", atol=1000 * atol)
### END HIDDEN TESTS

# %% test="pca" points=2
from coursekit import check

import numpy as np

projected, directions, shares = pca(np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]), 1)
check.close(
    projected, np.array([[-(2**0.5)], [0.0], [2**0.5]]), "the rows of the text, (1, 1), (2, 2), (3, 3)", atol=1e-8
)
check.raises(ValueError, lambda: pca(np.zeros((3, 2)), 3), "three directions for two features")
### BEGIN HIDDEN TESTS
for shape, k in (((3, 2), 0), ((2, 5), 3), ((4, 4), 5), ((4, 4), -1)):
    check.raises(ValueError, lambda shape=shape, k=k: pca(np.zeros(shape), k), f"rows of shape {shape}, k={k}")
rng = np.random.default_rng(check.seed(9))
x = rng.normal(size=(30, 6)) * np.array([9.0, 6.0, 4.0, 2.5, 1.5, 1.0])
projected, directions, shares = (np.asarray(part) for part in pca(x, 6))
check.close(
    projected @ directions + x.mean(axis=0),
    x,
    "all six of six directions: the rows can be put together again",
    atol=1e-8,
)
check.close(directions @ directions.T, np.eye(6), "the directions have length 1 and are at right angles", atol=1e-8)
check.close(shares.sum(), 1.0, "all six shares together")
check.close(
    shares,
    projected.var(axis=0) / x.var(axis=0).sum(),
    "each share is the variance along its direction, over that of all features",
    atol=1e-8,
)
check.that(bool((np.diff(shares) <= 1e-12).all()), "the shares fall", why=f"they are {shares.tolist()}")
again = [np.asarray(part) for part in pca(-x, 6)]
check.close(again[1], directions, "the directions of -x are those of x: the sign is agreed on", atol=1e-7)
check.close(again[0], -projected, "the rows of -x stand on the other side", atol=1e-7)
few = [np.asarray(part) for part in pca(x, 2)]
check.close(few, [projected[:, :2], directions[:2], shares[:2]], "two of six directions", atol=1e-8)
check.close(pca(1e-4 * x, 6)[2], again[2], "the shares of rows that are very small", atol=1e-8)
shares = np.asarray(pca(np.full((4, 3), 2.0), 2)[2])
check.close(shares, np.zeros(2), "four equal rows: the shares")
one = pca(np.array([[1.0, 2.0, 3.0]]), 1)
check.close(one[0], np.zeros((1, 1)), "a single row stands at its mean")
### END HIDDEN TESTS


# %% alternative="pca"
def pca(x, k):
    n, d = x.shape
    if not 1 <= k <= min(n, d):
        raise ValueError("k")
    wide = np.array(x, dtype=np.float64)
    wide -= np.einsum("nd->d", wide) / n
    u, s, vt = np.linalg.svd(wide)
    print("singular values", s)
    out, rows = [], []
    for j in range(k):
        sign = -1.0 if -vt[j].min() > vt[j].max() else 1.0
        rows.append(sign * vt[j])
        out.append(sign * u[:, j] * s[j])
    total = float((wide**2).sum())
    return np.stack(out, axis=1), np.stack(rows), np.array([v**2 / total if total else 0.0 for v in s[:k]])


# %% mistakes="pca"
{
    "the rows are not centred, so the first direction points at their mean": (
        "centred = x - x.mean(axis=0)",
        "centred = x - 0 * x.mean(axis=0)",
    ),
    "each row is centred by the mean of its own features": (
        "centred = x - x.mean(axis=0)",
        "centred = x - x.mean(axis=1, keepdims=True)",
    ),
    "one mean of all numbers is subtracted": ("centred = x - x.mean(axis=0)", "centred = x - x.mean()"),
    "each feature is divided by its standard deviation, too": (
        "centred = x - x.mean(axis=0)  # (n, d)",
        "centred = x - x.mean(axis=0)\n    centred = centred / np.maximum(centred.std(axis=0), 1e-12)",
    ),
    "the directions keep the sign that the decomposition happens to give them": (
        "signs = np.sign(directions[np.arange(len(s)), largest])",
        "signs = np.ones(len(s))",
    ),
    "the first entry of each direction is made positive, and not the largest": (
        "largest = np.abs(directions).argmax(axis=1)",
        "largest = np.zeros(len(s), dtype=int)",
    ),
    "the largest entry is looked for without its sign being dropped first": (
        "largest = np.abs(directions).argmax(axis=1)",
        "largest = directions.argmax(axis=1)",
    ),
    "the signs are applied to the directions, and the rows are projected onto the old ones": (
        "return centred @ directions[:k].T,",
        "return centred @ (directions * signs[:, None])[:k].T,",
    ),
    "the shares are those of the singular values and not of their squares": ("variance = s**2  #", "variance = s  #"),
    "the shares are those among the k directions, so they always sum to one": (
        "shares = variance / variance.sum() if",
        "shares = variance / variance[:k].sum() if",
    ),
    "variances are returned and not shares": ("shares = variance / variance.sum() if", "shares = variance / len(x) if"),
    "the shares are added up: the second includes the first": (
        "directions[:k], shares[:k]",
        "directions[:k], shares.cumsum()[:k]",
    ),
    "columns of V transposed are taken for the directions, and not its rows": (
        "largest = np.abs(directions)",
        "directions = np.linalg.svd(centred)[2].T[: len(s)]\n    largest = np.abs(directions)",
    ),
    "the rows are projected without being centred": (
        "return centred @ directions[:k].T",
        "return x @ directions[:k].T",
    ),
    "projected rows are divided by the singular values, so every direction has the same spread": (
        "return centred @ directions[:k].T",
        "return (centred @ directions[:k].T) / np.maximum(s[:k], 1e-12)",
    ),
    "the directions stand in columns, (d, k)": ("directions[:k], shares[:k]", "directions[:k].T, shares[:k]"),
    "the last k directions are returned and not the first": [
        (
            "return centred @ directions[:k].T, directions[:k], shares[:k]",
            "return centred @ directions[-k:].T, directions[-k:], shares[-k:]",
        ),
    ],
    "k is not checked": ("if k < 1 or k > min(x.shape):", "if False:"),
    "k may be as large as d, even if there are fewer rows": ("k > min(x.shape)", "k > x.shape[1]"),
    "equal rows give NaN": ("if variance.sum() > 0 else np.zeros_like(variance)", ""),
    "the work is done in float32": ("x = x.astype(np.float64)", "x = x.astype(np.float32)"),
}

# %% equivalent="pca"
{
    "directions * signs[:, None] -> directions / signs[:, None]": "the signs are 1 and -1",
}

# %% [markdown]
# ## Look at it
#
# Now train. Two blocks of four heads, 39,000 numbers; 9,500 sums to learn from, and 500 that the model never sees. Every 25 steps all instruments are read. It takes about ten seconds.

# %%
from coursekit import carry

CrossEntropy = carry("ch00/lab06", "CrossEntropy")
AdamW = carry("ch00/lab08", "AdamW")
TrainConfig = carry("ch00/lab08", "TrainConfig")
train = carry("ch00/lab08", "train")

TENS = 6  # the place that has to name the tens: it reads the hundreds
UNITS = [1, 4]  # where the units of both numbers stand
rng = np.random.default_rng(0)
a, b = np.divmod(rng.permutation(10_000), 100)
held_out = slice(0, 500)


def measurements(model):
    """All that the instruments say about a model, on the held-out sums."""
    inputs, targets = question_and_answer(write_sums(a[held_out], b[held_out]))
    logits = model(inputs)
    entropy, share = head_profile(attention_maps(model, inputs), TENS, UNITS)
    return {
        "loss": CrossEntropy().forward(logits, targets),
        "exact": exact_match(logits, targets),
        "report": digit_report(logits[:, -3:].argmax(axis=-1), a[held_out], b[held_out]),
        "entropy": entropy,  # (2, 4): two blocks, four heads
        "share": share,
        "rows": model.embedding.weight.value.copy(),
    }


def run(n_sums, steps, every):
    """Train on the first n_sums that are not held out. Returns steps, measurements, and loss and exact match on 300 sums of the training."""
    texts = write_sums(a[500 : 500 + n_sums], b[500 : 500 + n_sums])
    inputs, targets = question_and_answer(texts)
    model = LanguageModel(ModelConfig(12, 8, d_model=48, n_layers=2, n_heads=4, d_ff=96, seed=3)).astype("float32")
    unseen, known = [], []

    def measure(model):
        logits = model(inputs[:300])
        known.append([CrossEntropy().forward(logits, targets[:300]), exact_match(logits, targets[:300])])
        unseen.append(measurements(model))
        return {"held out": unseen[-1]["loss"]}

    measure(model)  # before the first step
    recipe = TrainConfig(steps, batch_size=64, lr=8e-3, min_lr=4e-4, warmup=50, eval_every=every, save_every=10**9)
    train(model, CrossEntropy(), AdamW(model.parameters(), betas=(0.9, 0.98)), (inputs, targets), recipe, measure)
    return every * np.arange(len(unseen)), unseen, np.array(known)


steps, unseen, known = run(9_500, 400, 25)
print("step    loss   wrong: hundreds  tens  units    tens with a carry  without    exact")
for step, m in list(zip(steps, unseen, strict=True))[::2]:
    wrong, tens = m["report"]["all"], (m["report"]["carry"][1], m["report"]["no carry"][1])
    print(
        f"{step:4}   {m['loss']:5.3f}      {wrong[0]:12.1%} {wrong[1]:5.0%}  {wrong[2]:5.0%}  {tens[0]:17.0%} {tens[1]:8.0%}  {m['exact']:7.1%}"
    )

# %% [markdown]
# The loss comes down in one sweep, more or less. The digits do not. In which order are they learned? The next cell draws the loss beside the landings from the first
# picture, and below it the shares of right digits.

# %%
from plotly.subplots import make_subplots

figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
figure.add_scatter(x=steps, y=[m["loss"] for m in unseen], name="loss, held out", row=1, col=1)
for name, values in list(floors.items())[:3]:  # the fourth is 0
    figure.add_hline(
        y=float(np.mean(values)),
        line={"dash": "dot", "color": plots.GREY},
        row=1,
        col=1,
        annotation_text=f"looks at {name}",
    )
for place, name in enumerate(("hundreds", "tens", "units")):
    figure.add_scatter(x=steps, y=[1 - m["report"]["all"][place] for m in unseen], name=name, row=2, col=1)
figure.add_scatter(
    x=steps, y=[m["exact"] for m in unseen], name="all three", line={"color": plots.GREY, "width": 4}, row=2, col=1
)
figure.update_yaxes(title_text="loss (nats)", rangemode="tozero", row=1, col=1)
figure.update_yaxes(title_text="share right", range=[0, 1.05], row=2, col=1)
figure.update_xaxes(title_text="step", row=2, col=1)
figure.update_layout(height=460, hovermode="x unified", legend={"orientation": "h", "y": -0.2})
figure.show()

# %% [markdown]
# Now the heads. At the place that has to name the tens, how much does each head give to the two units? And how often is the tens digit right, with a carry and without?

# %%
figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
for layer, head in np.ndindex(2, 4):
    figure.add_scatter(
        x=steps,
        y=[m["share"][layer, head] for m in unseen],
        customdata=[m["entropy"][layer, head] for m in unseen],
        name=f"block {layer}, head {head}",
        line={"color": plots.COLOURS[head], "dash": "solid" if layer else "dot"},
        hovertemplate="%{y:.2f} to the units, entropy %{customdata:.2f} bits",
        row=1,
        col=1,
    )
for name, colour in (("carry", plots.COLOURS[4]), ("no carry", plots.COLOURS[5])):
    figure.add_scatter(
        x=steps,
        y=[1 - m["report"][name][1] for m in unseen],
        name=f"tens, {name}",
        line={"color": colour},
        row=2,
        col=1,
    )
figure.update_yaxes(title_text="weight on units", range=[0, 1.05], row=1, col=1)
figure.update_yaxes(title_text="tens right", range=[0, 1.05], row=2, col=1)
figure.update_xaxes(title_text="step", row=2, col=1)
figure.update_layout(height=460, hovermode="x unified", legend={"orientation": "h", "y": -0.2})
figure.show()

# %% [markdown]
# Does a head begin to look at the units before the tens come out right, at the same time, or after? Is it one head or several, in the first block or in the second? In the second block a place finds more than a digit at the
# units: it may find what the first block has already computed there. Run it again with another seed of the model (`seed=3` in `run`). What stays, and what was chance?
#
# That a head looks somewhere does not prove that the model needs it. The page does the experiment: it trains a model of one block, and then forbids exactly these looks.
#
# Next, too few sums. The same model sees 300 of them, again and again.

# %%
few_steps, few_unseen, few_known = run(300, 240, 20)
few_train, few_val = few_known[:, 0], np.array([m["loss"] for m in few_unseen])
learned_by_heart = overfitting_step(few_steps, few_train, few_val, patience=4)
figure = go.Figure()
figure.add_scatter(x=few_steps, y=few_train, name="the 300 sums it trains on")
figure.add_scatter(x=few_steps, y=few_val, name="500 held-out sums")
figure.add_scatter(x=few_steps, y=smooth(few_val, 5), name="held out, mean of five", line={"dash": "dot"})
if learned_by_heart is not None:
    figure.add_vline(
        x=learned_by_heart, line={"dash": "dash", "color": plots.GREY}, annotation_text=f"step {learned_by_heart}"
    )
figure.update_xaxes(title_text="step")
figure.update_yaxes(title_text="loss (nats)")
figure.update_layout(height=380, hovermode="x unified", legend={"orientation": "h", "y": -0.25})
figure.show()
with_many = overfitting_step(steps, known[:, 0], np.array([m["loss"] for m in unseen]), patience=4)
print(f"the detector says: with 300 sums {learned_by_heart}, with 9,500 sums {with_many}")
print(
    f"at the end {few_known[-1, 1]:.0%} of the 300 sums are right in every digit, and {few_unseen[-1]['exact']:.0%} of the held-out ones"
)
if learned_by_heart is not None:
    then = few_unseen[list(few_steps).index(learned_by_heart)]
    print(f"at step {learned_by_heart} it was {then['exact']:.0%} of the held-out ones")

# %% [markdown]
# Compare the last two lines. Does exact match fall as the loss rises? The loss punishes confidence in wrong answers; exact match does not ask how sure the model is. So which of the two would you
# stop by? And the detector was given the raw losses. Give it the smoothed ones: which step does it name now, and why?
#
# <details><summary>An answer</summary>Exact match need not fall: the model can get more answers right, and be surer of those that are wrong. If you only need the answers, stop by exact match. If you use the
# probabilities, stop by the loss. Neither is good: what is missing is sums. The mean of the last five looks back, so its lowest point comes later.</details>
#
# Last, the photograph. Where do the rows of the ten digits stand in the model that can add, before training and after?

# %%
chosen = [0, len(steps) // 8, len(steps) // 4, len(steps) // 2, len(steps) - 1]
frames = []
for i in chosen:
    projected, _, shares = pca(unseen[i]["rows"][:10], 2)
    frames.append((steps[i], projected, shares))
reach = 1.2 * max(np.abs(projected).max() for _, projected, _ in frames)


def title(step, shares):
    return f"step {step}: the two directions explain {shares.sum():.0%}"


step, projected, shares = frames[-1]
figure = go.Figure()
figure.add_scatter(
    x=projected[:, 0],
    y=projected[:, 1],
    mode="lines+markers+text",
    text=[str(digit) for digit in range(10)],
    textposition="top center",
    textfont={"size": 16},
    line={"width": 1, "color": plots.GRID},
    marker={"size": 8, "color": plots.COLOURS[0]},
    hovertemplate="%{text}: (%{x:.2f}, %{y:.2f})<extra></extra>",
)
figure.update_layout(
    height=460,
    title=title(step, shares),
    sliders=[
        {
            "active": len(frames) - 1,
            "currentvalue": {"prefix": "after step "},
            "pad": {"t": 45},
            "steps": [
                {
                    "label": str(step),
                    "method": "update",
                    "args": [{"x": [p[:, 0].tolist()], "y": [p[:, 1].tolist()]}, {"title.text": title(step, s)}],
                }
                for step, p, s in frames
            ],
        }
    ],
)
figure.update_xaxes(title_text="first direction", range=[-reach, reach])
figure.update_yaxes(title_text="second direction", range=[-reach, reach])
figure.show()

# %% [markdown]
# The grey line joins the digits in the order in which we count. The model was never told that order: to it `7` is the eighth row of a table. How much of the order has it found? Where does 9 stand: beside 8, beside 0, or beside
# both? (What comes after 9 in the last digit, when one counts?) And how much of the variance do two directions explain: may you trust the picture? Rows that lie far apart here *are* far apart. Rows that lie close together here may be far apart in the directions that you do not see.
#
# ## Common mistakes
#
# - **Characters for answers.** "94% of the digits are right" may mean that 18 of 100 sums are wrong, or that a model has never understood what a carry is. Count what the user counts.
# - **Measuring on what was trained on.** The training loss is what training makes small. It says nothing about other sums, and without held-out sums there is nothing to see of learning by heart.
# - **One bad measurement.** Losses on 500 sums jump. Who stops at the first rise stops too early. That is what patience is for.
# - **The entropy of a mean map.** Heads that look sharply, but elsewhere in each text, seem to look everywhere. First the number for each text, then the mean.
# - **A look is not a cause.** Heads look at places that they make no use of. To know whether the model needs a look, take it away.
# - **PCA without centring.** The first direction then points at the mean and says nothing about differences.
# - **Distances in a photograph.** Two directions are two directions. Print the share that they explain beside every picture.
# - **One seed.** With another one the carry may be fetched by another head, by two, or later. A story about *the* carry head is a story about one run.
#
# The same instruments for a model in torch are in [Lab 1.2](../ch01_attention/lab02_visualization.ipynb) and [Lab 4.4](../ch04_training/lab04_train_tiny_model.ipynb).
#
# ## Going further
#
# - **Writing as at school.** Turn the answer round, so that the units come first. The carry can then be passed on from digit to digit. Which landings remain, and how many steps does the model need? (Nayoung Lee, Kartik
#   Sreenivasan, Jason Lee, Kangwook Lee, Dimitris Papailiopoulos, Teaching Arithmetic to Small Transformers, 2023.)
# - **Learning by heart, then understanding.** Train on a third of all sums modulo 97, with weight decay, for very long: far beyond the step that the detector names. Some models begin to generalise
#   late. (Alethea Power, Yuri Burda, Harri Edwards, Igor Babuschkin, Vedant Misra, Grokking: Generalization Beyond Overfitting on Small Algorithmic Datasets, 2022; Neel Nanda, Lawrence Chan, Tom Lieberum, Jess Smith, Jacob
#   Steinhardt, Progress Measures for Grokking via Mechanistic Interpretability, 2023.)
