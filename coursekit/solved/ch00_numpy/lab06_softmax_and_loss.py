"""Softmax and loss: the reference. Generated from source_solutions/ch00_numpy/lab06_softmax_and_loss.py by `course build`; do not edit."""

# %% given
import numpy as np

from coursekit import carry

Layer = carry("ch00/lab01", "Layer")
Parameter = carry("ch00/lab01", "Parameter")
passes = carry("ch00/lab01", "passes")
softmax = carry("ch00/lab02", "softmax")  # over the last axis
softmax_backward = carry("ch00/lab02", "softmax_backward")  # (gradient for y, y) -> gradient for x

# %% exercise="log_sum_exp"
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
    largest = x.max(axis=-1, keepdims=True)  # (..., 1)
    largest = np.where(largest == -np.inf, 0, largest)  # -inf - -inf would be NaN
    total = np.exp(x - largest).sum(axis=-1)  # (...): between 1 and V, or 0 if all are -inf
    with np.errstate(divide="ignore"):
        return largest[..., 0] + np.log(total)

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

# %% exercise="one_hot"
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
    counts = targets != ignore_index  # (...)
    if np.any(counts & ((targets < 0) | (targets >= n_classes))):
        raise IndexError(f"a target is a class from 0 to {n_classes - 1} or {ignore_index}, got {targets}")
    hit = targets[..., None] == np.arange(n_classes)  # (..., n_classes)
    return (hit & counts[..., None]).astype(np.float64)

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

# %% exercise="CrossEntropy"
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
        if label_smoothing < 0 or label_smoothing > 1:
            raise ValueError(f"label_smoothing is between 0 and 1, got {label_smoothing}")
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing

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

    def backward(self) -> np.ndarray:
        """The gradient of the last loss for its logits.

        Returns:
            Array of the logits' shape and dtype: (p - y) / n, where p is the softmax, y what is wanted and n the number of places
            that count. Zeros at places that do not count, so zeros everywhere if none does.
        """
        grad = (np.exp(self.log_p) - self.wanted) / self.n  # (..., V)
        return np.where(self.counts[..., None], grad, 0)

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

# %% exercise="accuracy"
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
    if targets.shape != logits.shape[:-1]:
        raise ValueError(f"targets {targets.shape} do not go with logits {logits.shape}")
    counts = targets != ignore_index  # (...)
    right = counts & (logits.argmax(axis=-1) == targets)  # (...)
    return float(right.sum() / counts.sum()) if counts.any() else float("nan")

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

# %% exercise="Temperature"
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
        if initial <= 0:
            raise ValueError(f"a temperature is larger than 0, got {initial}")
        self.temperature = Parameter(np.array([initial]))

    def forward(self, logits: np.ndarray) -> np.ndarray:
        """Divide all logits by the temperature.

        Args:
            logits: an array of any shape, of the parameter's dtype.

        Returns:
            Array of the same shape and dtype.
        """
        self.logits = logits
        return logits / self.temperature.value

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for the logits; adds to ``temperature.grad``, on top of what is there.

        Args:
            grad: the gradient of the loss for the output of the last `forward`, of its shape.

        Returns:
            Array of the same shape.
        """
        T = self.temperature.value  # (1,)
        self.temperature.grad += -(grad * self.logits).sum() / T**2  # every logit adds its part
        return grad / T

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
