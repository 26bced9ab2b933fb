"""Backpropagation: the reference. Generated from source_solutions/ch00_numpy/lab07_backpropagation.py by `course build`; do not edit."""

# %% given
import numpy as np

from coursekit import carry

Layer = carry("ch00/lab01", "Layer")
Parameter = carry("ch00/lab01", "Parameter")
passes = carry("ch00/lab01", "passes")
causal_mask = carry("ch00/lab02", "causal_mask")  # causal_mask(T): booleans (T, T), True on and below the diagonal

# %% given
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

# %% exercise="matmul_backward"
def unbroadcast(grad: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient for an array of this shape that broadcasting has stretched to the shape of grad.

    Args:
        grad: the gradient for the stretched array, of any shape.
        shape: of the array before; it broadcasts to grad's shape: axes of length 1 may have been stretched, and axes may
            be missing in front.

    Returns:
        Array of the given shape and of grad's dtype: for each number the sum over all places where it was used.
    """
    new = grad.ndim - len(shape)
    grad = grad.sum(axis=tuple(range(new)))  # axes that were not there at all
    stretched = tuple(axis for axis, length in enumerate(shape) if length == 1)
    return grad.sum(axis=stretched, keepdims=True)


def matmul_backward(grad: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of a loss for both factors of ``a @ b``.

    Args:
        grad: (..., n, m), the gradient for ``a @ b``.
        a: (..., n, k), and b: (..., k, m). Both have at least two axes. Those in front broadcast against each other.

    Returns:
        The gradient for a, of a's shape, and the gradient for b, of b's shape.
    """
    grad_a = grad @ b.swapaxes(-1, -2)  # (..., n, m) @ (..., m, k)
    grad_b = a.swapaxes(-1, -2) @ grad  # (..., k, n) @ (..., n, m)
    return unbroadcast(grad_a, a.shape), unbroadcast(grad_b, b.shape)

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

# %% exercise="LanguageModel"
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
        rng = np.random.default_rng(config.seed)
        self.embedding = Embedding(config.vocab_size, config.d_model, rng)
        self.positions = LearnedPositions(config.context, config.d_model, rng)
        self.transformer = Transformer(
            config.n_layers, config.d_model, config.n_heads, config.d_ff, rng, config.norm, config.activation
        )
        self.head = TiedHead(self.embedding)

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
        x = self.positions(self.embedding(ids))  # (..., T, d_model)
        x = self.transformer(x, causal_mask(ids.shape[-1]))
        return self.head(x)  # (..., T, vocab_size)

    def backward(self, grad: np.ndarray) -> None:
        """Add to every parameter's ``grad`` what the last `forward` is responsible for. Returns None: ids have no gradient.

        Args:
            grad: (..., T, vocab_size), the gradient of the loss for the logits of the last `forward`.
        """
        grad = self.head.backward(grad)  # (..., T, d_model)
        grad = self.transformer.backward(grad)
        self.embedding.backward(self.positions.backward(grad))

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

# %% exercise="Classifier"
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
        x = self.positions(self.embedding(ids))  # (..., T, d_model)
        may_look = None if mask is None else mask[..., None, :]  # (..., 1, T): the same keys for every query
        x = self.transformer(x, may_look)
        return self.head(self.pool(x, mask))  # (..., d_model) -> (..., n_classes)

    def backward(self, grad: np.ndarray) -> None:
        """Add to every parameter's ``grad`` what the last `forward` is responsible for. Returns None: ids have no gradient.

        Args:
            grad: (..., n_classes), the gradient of the loss for the logits of the last `forward`.
        """
        grad = self.pool.backward(self.head.backward(grad))  # (..., n_classes) -> (..., d_model) -> (..., T, d_model)
        grad = self.transformer.backward(grad)
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

# %% exercise="check_gradients"
def relative_error(claimed: np.ndarray, measured: np.ndarray, floor: float = 1e-5) -> float:
    """How far two arrays of gradients are apart, in units of their own size.

    Args:
        claimed, measured: arrays of the same shape, with at least one number.
        floor: larger than 0; gradients below it count as noise.

    Returns:
        The largest absolute difference, divided by the largest absolute value in both arrays together, or by floor if that is
        larger. A Python float. NaN if one of the arrays holds NaN.
    """
    difference = np.abs(claimed - measured).max()
    size = max(np.abs(claimed).max(), np.abs(measured).max())
    return float(difference / max(size, floor))


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

# %% exercise="find_wrong"
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
    errors = check_gradients(layer, inputs, grad, rng, samples=samples)
    return [name for name in reversed(errors) if not errors[name] <= tolerance]  # NaN <= tolerance is False

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
