"""Attention: the reference. Generated from source_solutions/ch00_numpy/lab02_attention.py by `course build`; do not edit."""

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

# %% given
new_rng = carry("ch00/lab01", "new_rng")

# %% exercise="Linear"
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
        self.weight = Parameter(xavier_uniform(rng, d_in, d_out))
        self.bias = Parameter(np.zeros(d_out)) if bias else None

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Compute the output.

        Args:
            x: (..., d_in) with any number of axes in front, also none; contiguous or not.

        Returns:
            Array (..., d_out). Where x and the parameters are float32, so is the output.
        """
        self.x = x
        y = x @ self.weight.value  # (..., d_in) @ (d_in, d_out)
        return y if self.bias is None else y + self.bias.value

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x, and on the way those of the parameters.

        Args:
            grad: (..., d_out), the gradient of the loss for the output of the last `forward`; contiguous or not.

        Returns:
            The gradient for x, of x's shape. To ``weight.grad`` and ``bias.grad`` is added what they get from all
            tokens of that forward pass together, on top of what they held before.
        """
        x = self.x.reshape(-1, self.x.shape[-1])  # (N, d_in): all tokens of all texts
        flat = grad.reshape(-1, grad.shape[-1])  # (N, d_out)
        self.weight.grad += x.T @ flat  # (d_in, N) @ (N, d_out): the product sums over the tokens
        if self.bias is not None:
            self.bias.grad += flat.sum(axis=0)
        return grad @ self.weight.value.T  # (..., d_out) @ (d_out, d_in)

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

# %% exercise="softmax"
def softmax(x: np.ndarray) -> np.ndarray:
    """Shares from scores, over the last axis.

    Args:
        x: (..., n) with n at least 1 and any number of axes in front, also none; float32 or float64. Its entries are finite, of
            any size, or -inf.

    Returns:
        A new array of x's shape and dtype, ``exp(x_j) / sum(exp(x_i))`` in each row. A score of -inf has a share of exactly 0.
        A row of nothing but -inf has shares of 0. There is no NaN and no infinity in the result.
    """
    top = x.max(axis=-1, keepdims=True)  # (..., 1)
    top = np.where(np.isfinite(top), top, 0)  # a row of nothing but -inf has no largest score
    e = np.exp(x - top)  # (..., n), none above 1
    total = e.sum(axis=-1, keepdims=True)  # (..., 1), at least 1: the largest score has e = 1
    return e / np.maximum(total, 1)  # the sum is below 1 only where all of e is 0


def softmax_backward(grad: np.ndarray, y: np.ndarray) -> np.ndarray:
    """From the gradient for the shares to the gradient for the scores.

    Args:
        grad: (..., n), the gradient of the loss for ``y``.
        y: (..., n), the shares: what `softmax` has returned. Rows of zeros are among them where there was nothing to choose from.

    Returns:
        New array (..., n) of y's dtype, the gradient of the loss for the scores. It is 0 where the share is 0.
    """
    mean = (grad * y).sum(axis=-1, keepdims=True)  # (..., 1): the mean of the gradient, weighted by the shares
    return y * (grad - mean)

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

# %% exercise="attention"
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
    scores = q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5  # (..., T_q, T_k)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    weights = softmax(scores)  # (..., T_q, T_k)
    return weights @ v, weights


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
    grad_v = weights.swapaxes(-1, -2) @ grad  # (..., T_k, T_q) @ (..., T_q, d_v)
    grad_weights = grad @ v.swapaxes(-1, -2)  # (..., T_q, d_v) @ (..., d_v, T_k)
    grad_scores = softmax_backward(grad_weights, weights) * q.shape[-1] ** -0.5  # (..., T_q, T_k)
    grad_q = grad_scores @ k  # (..., T_q, T_k) @ (..., T_k, d_k)
    grad_k = grad_scores.swapaxes(-1, -2) @ q  # (..., T_k, T_q) @ (..., T_q, d_k)
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

# %% exercise="SelfAttention"
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
        self.q = Linear(d_model, d_model, rng)
        self.k = Linear(d_model, d_model, rng)
        self.v = Linear(d_model, d_model, rng)

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
        self.qkv = self.q(x), self.k(x), self.v(x)  # three times (..., T, d_model)
        output, self.weights = attention(*self.qkv, mask)
        return output

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x, and on the way those of the parameters, which are added to what they held before.

        Args:
            grad: (..., T, d_model), the gradient of the loss for the output of the last `forward`.

        Returns:
            The gradient for x, of its shape.
        """
        grad_q, grad_k, grad_v = attention_backward(grad, *self.qkv, self.weights)
        return self.q.backward(grad_q) + self.k.backward(grad_k) + self.v.backward(grad_v)

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

# %% exercise="MultiHeadAttention"
def split_heads(x: np.ndarray, n_heads: int) -> np.ndarray:
    """Cut the features of every token into equal blocks, one for each head.

    Args:
        x: (..., T, d_model), any dtype, contiguous or not; any number of axes in front, also none.
        n_heads: H, a positive divisor of d_model.

    Returns:
        Array (..., H, T, d_k) with d_k = d_model / H. Head h holds the features from h * d_k up to (not including)
        (h + 1) * d_k of every token.
    """
    blocks = x.reshape(*x.shape[:-1], n_heads, x.shape[-1] // n_heads)  # (..., T, H, d_k)
    return blocks.swapaxes(-2, -3)  # (..., H, T, d_k)


def merge_heads(x: np.ndarray) -> np.ndarray:
    """Put the heads side by side again: the inverse of `split_heads`.

    Args:
        x: (..., H, T, d_k), any dtype, contiguous or not.

    Returns:
        Array (..., T, H * d_k): for every token the features of head 0, then those of head 1, and so on.
    """
    side_by_side = x.swapaxes(-2, -3)  # (..., T, H, d_k)
    return side_by_side.reshape(*side_by_side.shape[:-2], -1)  # (..., T, H * d_k)


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
        if n_heads < 1 or d_model % n_heads != 0:
            raise ValueError(f"n_heads must be a positive divisor of d_model={d_model}, got {n_heads}")
        self.n_heads = n_heads
        self.q = Linear(d_model, d_model, rng)
        self.k = Linear(d_model, d_model, rng)
        self.v = Linear(d_model, d_model, rng)
        self.o = Linear(d_model, d_model, rng)

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
        self.heads = [split_heads(project(x), self.n_heads) for project in (self.q, self.k, self.v)]  # (..., H, T, d_k)
        if mask is not None:
            mask = np.broadcast_to(mask, (*x.shape[:-1], x.shape[-2]))  # (..., T, T)
            mask = mask[..., None, :, :]  # (..., 1, T, T): the same for all heads
        output, self.weights = attention(*self.heads, mask)
        return self.o(merge_heads(output))

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x, and on the way those of the parameters, which are added to what they held before.

        Args:
            grad: (..., T, d_model), the gradient of the loss for the output of the last `forward`.

        Returns:
            The gradient for x, of its shape.
        """
        grad_heads = split_heads(self.o.backward(grad), self.n_heads)  # (..., H, T, d_k)
        gradients = attention_backward(grad_heads, *self.heads, self.weights)
        grad_q, grad_k, grad_v = (merge_heads(each) for each in gradients)  # (..., T, d_model)
        return self.q.backward(grad_q) + self.k.backward(grad_k) + self.v.backward(grad_v)

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
