"""Training dynamics: the reference. Generated from source_solutions/ch00_numpy/lab09_training_dynamics.py by `course build`; do not edit."""

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

# %% given
from coursekit import carry

ModelConfig = carry("ch00/lab07", "ModelConfig")
LanguageModel = carry("ch00/lab07", "LanguageModel")


def new_model(seed: int, d_model: int, n_layers: int, n_heads: int) -> LanguageModel:
    """A model for sums: twelve characters, up to eight of them in a text."""
    return LanguageModel(ModelConfig(12, 8, d_model, n_layers, n_heads, 2 * d_model, seed=seed))

# %% exercise="exact_match"
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
    if targets.shape != logits.shape[:-1]:
        raise ValueError(f"targets {targets.shape} do not go with logits {logits.shape}")
    counts = targets != ignore_index  # (..., T)
    right = logits.argmax(axis=-1) == targets  # (..., T)
    asked = counts.any(axis=-1)  # (...)
    solved = asked & (right | ~counts).all(axis=-1)  # (...)
    return float(solved.sum() / asked.sum()) if asked.any() else float("nan")

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

# %% exercise="digit_report"
def carries(a: np.ndarray, b: np.ndarray, n_digits: int) -> np.ndarray:
    """Where a carry arrives when a and b are added on paper.

    Args:
        a, b: (n,) integers of any integer dtype, each from 0 to 10**n_digits - 1.
        n_digits: D, from 1 to 9, the number of digits of a and of b.

    Returns:
        Booleans (n, D + 1), one for each digit of the sum, the highest first: True where the digits to the right of it make so much
        that a 1 is carried to it. Nothing arrives at the units.
    """
    power = 10 ** np.arange(n_digits, -1, -1)  # (D + 1,): 100, 10, 1 for numbers of two digits
    return a[:, None] % power + b[:, None] % power >= power  # what stands to the right of each digit


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

# %% exercise="overfitting_step"
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
    if window < 1:
        raise ValueError(f"window is at least 1, got {window}")
    ends = range(1, len(values) + 1)
    return np.array([np.mean(values[max(0, end - window) : end]) for end in ends], dtype=np.float64)


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

# %% exercise="head_profile"
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
    model.forward(ids)
    return np.stack([block.attention.layer.weights for block in model.transformer.blocks])


def row_entropy(weights: np.ndarray) -> np.ndarray:
    """How widely each row of weights is spread, in bits.

    Args:
        weights: (..., T), not negative; rows sum to one, or consist of zeros. float32 or float64.

    Returns:
        Array (...): ``-sum_j w_j log2(w_j)``, where a weight of 0 contributes 0. No NaN, no infinity, and nothing
        below 0: by rounding a weight can be a little above 1, and its logarithm above 0.

    Source: Shannon, A Mathematical Theory of Communication, 1948.
    """
    surprise = -np.log2(np.where(weights > 0, weights, 1))  # (..., T): 0 where the weight is 0
    return (weights * np.maximum(surprise, 0)).sum(axis=-1)


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
    rows = maps[..., query, :]  # (L, ..., H, T)
    texts = tuple(range(1, rows.ndim - 2))  # the axes between layers and heads
    share = rows[..., keys].sum(axis=-1)  # (L, ..., H)
    return row_entropy(rows).mean(axis=texts), share.mean(axis=texts)

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

# %% exercise="pca"
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
