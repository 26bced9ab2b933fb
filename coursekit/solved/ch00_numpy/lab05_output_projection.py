"""Output projection: the reference. Generated from source_solutions/ch00_numpy/lab05_output_projection.py by `course build`; do not edit."""

# %% given
import numpy as np

from coursekit import carry

Layer = carry("ch00/lab01", "Layer")
Parameter = carry("ch00/lab01", "Parameter")
passes = carry("ch00/lab01", "passes")
Linear = carry("ch00/lab02", "Linear")  # Linear(d_in, d_out, rng): weight (d_in, d_out), bias (d_out,)
softmax = carry("ch00/lab02", "softmax")  # over the last axis

# %% given
from coursekit import carry

new_rng = carry("ch00/lab01", "new_rng")
Embedding = carry("ch00/lab01", "Embedding")  # Embedding(vocab_size, d_model, rng): weight (vocab_size, d_model)

# %% exercise="FirstPool"
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
        real = np.ones(x.shape[:-1], dtype=bool) if mask is None else mask  # (..., T)
        first = real & (real.cumsum(axis=-1) == 1)  # (..., T): one True for each text, or none
        self.chosen = first[..., None]  # (..., T, 1)
        return np.where(self.chosen, x, 0).sum(axis=-2)  # (..., d_model)

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x.

        Args:
            grad: (..., d_model), the gradient of the loss for the output of the last `forward`.

        Returns:
            Array of x's shape and of grad's dtype: grad at the token that was chosen, zeros elsewhere. There is no gradient for
            the mask.
        """
        return np.where(self.chosen, grad[..., None, :], 0)  # (..., T, d_model)

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

# %% exercise="MeanPool"
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
        real = np.ones(x.shape[:-1], dtype=bool) if mask is None else mask  # (..., T)
        self.real = real[..., None]  # (..., T, 1)
        self.count = np.maximum(self.real.sum(axis=-2), 1).astype(x.dtype)  # (..., 1): without tokens 0 / 1 is 0
        return np.where(self.real, x, 0).sum(axis=-2) / self.count  # (..., d_model)

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x.

        Args:
            grad: (..., d_model), the gradient of the loss for the output of the last `forward`.

        Returns:
            Array of x's shape and of grad's dtype. All real tokens of a text get the same share, padding gets zeros. There is no
            gradient for the mask.
        """
        share = (grad / self.count)[..., None, :]  # (..., 1, d_model): the same for all tokens of a text
        return np.where(self.real, share, 0)  # (..., T, d_model)

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

# %% exercise="MaxPool"
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
        real = np.ones(x.shape[:-1], dtype=bool) if mask is None else mask  # (..., T)
        seen = np.where(real[..., None], x, -np.inf)  # (..., T, d_model): padding never wins
        winner = seen.argmax(axis=-2)[..., None, :]  # (..., 1, d_model): the first of equals
        place = np.arange(x.shape[-2])[:, None]  # (T, 1)
        self.chosen = real[..., None] & (place == winner)  # (..., T, d_model): one token for each feature
        return np.where(self.chosen, x, 0).sum(axis=-2)  # (..., d_model)

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x.

        Args:
            grad: (..., d_model), the gradient of the loss for the output of the last `forward`.

        Returns:
            Array of x's shape and of grad's dtype. For each feature the real token with the largest value gets the whole
            gradient; if several share that value, the one with the lowest position gets it and the others nothing. Padding gets
            zeros. There is no gradient for the mask.
        """
        return np.where(self.chosen, grad[..., None, :], 0)  # (..., T, d_model)

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

# %% exercise="Head"
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
        self.linear = Linear(d_model, n_classes, rng)
        self.linear.weight.value = rng.normal(0, 0.02, size=(d_model, n_classes))

    def forward(self, x: np.ndarray) -> np.ndarray:
        """The logits: ``x @ weight + bias``.

        Args:
            x: (..., d_model) with any number of axes in front, also none.

        Returns:
            Array (..., n_classes).
        """
        return self.linear(x)

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x; adds to the gradients of weight and bias.

        Args:
            grad: (..., n_classes), the gradient of the loss for the output of the last `forward`.

        Returns:
            Array of x's shape.
        """
        return self.linear.backward(grad)

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

# %% exercise="TiedHead"
class TiedHead(Layer):
    """Scores for a vocabulary by the table that the tokens were read with.

    Args:
        embedding: an `Embedding`, with ``embedding.weight`` (V, d_model).

    Parameters:
        ``weight``: the very `Parameter` of the embedding, not a copy of it or of its numbers. There is no bias.

    Source: Press and Wolf, Using the Output Embedding to Improve Language Models, 2017.
    """

    def __init__(self, embedding: Layer):
        self.weight = embedding.weight  # shared: both layers add to the same gradient

    def forward(self, x: np.ndarray) -> np.ndarray:
        """The dot product with each row of the table.

        Args:
            x: (..., d_model) with any number of axes in front, also none.

        Returns:
            Array (..., V) of logits.
        """
        self.x = x
        return x @ self.weight.value.T  # (..., V)

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x; adds to ``weight.grad``, on top of what is there.

        Args:
            grad: (..., V), the gradient of the loss for the output of the last `forward`.

        Returns:
            Array of x's shape. To row v of ``weight.grad`` is added the sum, over all places of the batch, of the gradient of
            logit v times x at that place.
        """
        V, d_model = self.weight.value.shape
        self.weight.grad += grad.reshape(-1, V).T @ self.x.reshape(-1, d_model)  # (V, d_model)
        return grad @ self.weight.value  # (..., d_model)

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

# %% exercise="top_predictions"
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
    V = logits.shape[-1]
    if k < 1 or k > V:
        raise ValueError(f"k is between 1 and V={V}, got {k}")
    ids = np.argsort(-logits, axis=-1, kind="stable")[..., :k]  # (..., k); stable: equals keep their order
    return ids, np.take_along_axis(softmax(logits), ids, axis=-1)

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
