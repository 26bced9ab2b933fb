"""Embeddings and positions: the reference. Generated from source_solutions/ch00_numpy/lab01_embeddings_and_positions.py by `course build`; do not edit."""

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

# %% given
def new_rng(seed: int) -> np.random.Generator:
    """For the tests: a source of random numbers. Tests may run in another process and cannot pass one of their own."""
    return np.random.default_rng(seed)

# %% exercise="xavier_uniform"
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
    a = np.sqrt(6 / (d_in + d_out))  # numbers uniform between -a and a have the variance a**2 / 3
    return rng.uniform(-a, a, size=(d_in, d_out))

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

# %% exercise="Embedding"
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
        self.weight = Parameter(rng.normal(0, 0.02, size=(vocab_size, d_model)))

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
        self.ids = np.asarray(ids)
        if np.any(self.ids < 0):
            raise IndexError(f"an id is at least 0, got {self.ids.min()}")
        return self.weight.value[self.ids]  # (..., d_model); NumPy itself refuses an id that is too large

    def backward(self, grad: np.ndarray) -> None:
        """Add to ``weight.grad`` what the last `forward` is responsible for.

        Args:
            grad: (..., d_model), the gradient of the loss for the output of the last `forward`.

        Each row gets the sum of the gradients of all places where its token stood, on top of what ``weight.grad`` held
        before. Rows that were not looked up get nothing. ``weight.grad`` keeps its dtype: float32 stays float32. Returns None: an id is a name and no quantity, so there is
        no gradient for it.
        """
        np.add.at(self.weight.grad, self.ids, grad)  # adds once for each id, also where ids repeat

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

# %% exercise="sinusoidal"
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
    if d_model % 2 != 0:
        raise ValueError(f"d_model must be even, got {d_model}")
    speeds = 10_000.0 ** (-np.arange(0, d_model, 2) / d_model)  # (d_model / 2,)
    angles = np.outer(np.arange(T), speeds)  # (T, d_model / 2)
    table = np.empty((T, d_model))
    table[:, 0::2], table[:, 1::2] = np.sin(angles), np.cos(angles)
    return table


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
    turn = k * 10_000.0 ** (-np.arange(0, d_model, 2) / d_model)  # (d_model / 2,)
    sines = np.arange(0, d_model, 2)  # the columns of the sines
    cosines = sines + 1
    matrix = np.zeros((d_model, d_model))
    matrix[sines, sines] = matrix[cosines, cosines] = np.cos(turn)
    matrix[cosines, sines] = np.sin(turn)  # the new sine takes from the old cosine
    matrix[sines, cosines] = -np.sin(turn)  # the new cosine takes from the old sine
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

# %% exercise="LearnedPositions"
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
        self.weight = Parameter(rng.normal(0, 0.02, size=(max_T, d_model)))

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
        T, max_T = x.shape[-2], len(self.weight.value)
        if max_T < T:
            raise ValueError(f"there are rows for {max_T} positions, the text has {T}")
        return x + self.weight.value[:T]  # (..., T, d_model) + (T, d_model)

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x, and on the way that of the table.

        Args:
            grad: (..., T, d_model), the gradient of the loss for the output of the last `forward`.

        Returns:
            The gradient for x, of the same shape. To the first T rows of ``weight.grad`` is added, for each position,
            the sum over all texts of the batch. The other rows get nothing. ``weight.grad`` keeps its dtype. grad belongs
            to the caller and is not changed.
        """
        T, batch_axes = grad.shape[-2], tuple(range(grad.ndim - 2))
        self.weight.grad[:T] += grad.sum(axis=batch_axes)  # (..., T, d_model) -> (T, d_model)
        return grad

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

# %% exercise="InputLayer"
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
        if positions not in ("learned", "sinusoidal"):
            raise ValueError(f"positions are 'learned' or 'sinusoidal', not {positions!r}")
        learned = positions == "learned"
        self.embedding = Embedding(vocab_size, d_model, rng)
        self.positions = LearnedPositions(max_T, d_model, rng) if learned else None
        self.waves = None if learned else sinusoidal(max_T, d_model)  # (max_T, d_model), a constant
        self.scale = 1.0 if learned else d_model**0.5

    def forward(self, ids: np.ndarray) -> np.ndarray:
        """Look up the tokens and add their positions.

        Args:
            ids: (..., T) integers, with T from 1 to max_T and any number of axes in front, also none.

        Returns:
            Array (..., T, d_model) of the parameters' dtype, float32 after ``astype("float32")``.

        Raises:
            ValueError: if T is larger than max_T, for either kind of positions.
        """
        x = self.scale * self.embedding(ids)  # (..., T, d_model)
        if self.positions is not None:
            return self.positions(x)
        T, max_T = x.shape[-2], len(self.waves)
        if max_T < T:
            raise ValueError(f"there are rows for {max_T} positions, the text has {T}")
        return x + self.waves[:T].astype(x.dtype)

    def backward(self, grad: np.ndarray) -> None:
        """Add to the gradients of all parameters; returns None, as ids have no gradient.

        Args:
            grad: (..., T, d_model), the gradient of the loss for the output of the last `forward`. It belongs to the
                caller and is not changed.
        """
        if self.positions is not None:
            grad = self.positions.backward(grad)
        self.embedding.backward(self.scale * grad)

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
