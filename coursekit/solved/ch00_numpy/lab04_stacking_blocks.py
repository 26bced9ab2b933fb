"""Stacking blocks: the reference. Generated from source_solutions/ch00_numpy/lab04_stacking_blocks.py by `course build`; do not edit."""

# %% given
import numpy as np

from coursekit import carry

Layer = carry("ch00/lab01", "Layer")
Parameter = carry("ch00/lab01", "Parameter")
passes = carry("ch00/lab01", "passes")
causal_mask = carry("ch00/lab02", "causal_mask")  # causal_mask(T): booleans (T, T), True on and below the diagonal
LayerNorm = carry("ch00/lab03", "LayerNorm")  # LayerNorm(d_model)
FeedForward = carry("ch00/lab03", "FeedForward")  # FeedForward(d_model, d_ff, rng, activation="gelu")
Residual = carry("ch00/lab03", "Residual")  # Residual(layer, d_model, norm="pre"); forward(x, *args)

# %% given
new_rng = carry("ch00/lab01", "new_rng")
# MultiHeadAttention(d_model, n_heads, rng); forward(x, mask=None)
MultiHeadAttention = carry("ch00/lab02", "MultiHeadAttention")


def fill(layer: Layer, seed: int, scale: float = 0.5) -> dict[str, np.ndarray]:
    """For the tests: draw every parameter anew, in the order of their names. Returns copies of them all."""
    rng, parameters = np.random.default_rng(seed), layer.parameters()
    for name in sorted(parameters):
        values = rng.normal(0, scale, size=parameters[name].value.shape)
        parameters[name].value = values + 1 if name.endswith("norm.weight") else values
    return {name: parameter.value.copy() for name, parameter in parameters.items()}


class Change(Layer):
    """What a `Residual` ("pre" or "none") adds to the stream, without the stream: layer(norm(x)) or layer(x)."""

    def __init__(self, residual: Layer):
        self.layer, self.norm = residual.layer, getattr(residual, "norm", None)

    def forward(self, x, *args):
        return self.layer(x if self.norm is None else self.norm(x), *args)

    def backward(self, grad):
        grad = self.layer.backward(grad)
        return grad if self.norm is None else self.norm.backward(grad)


def without_residuals(model: Layer) -> Layer:
    """Take the two additions out of every block of a `Transformer`, in place."""
    for block in model.blocks:
        block.attention, block.feed_forward = Change(block.attention), Change(block.feed_forward)
    return model

# %% exercise="TransformerBlock"
class TransformerBlock(Layer):
    """Attention over the tokens, then a feed-forward network on each of them, both in a residual.

    Args:
        d_model: features of a token.
        n_heads: heads of the attention, a positive divisor of d_model.
        d_ff: features in the middle of the network.
        rng: all random numbers come from it.
        norm: "pre", "post" or "none", as in `Residual`; the same for both parts.
        activation: "gelu" or "relu", as in `FeedForward`.

    Parameters:
        Those of a `Residual` around a `MultiHeadAttention` under ``attention.`` (such as ``attention.layer.q.weight``
        and, but for "none", ``attention.norm.weight``), and of a `Residual` around a `FeedForward` under
        ``feed_forward.``. First values as these parts draw them. No two matrices are drawn alike, and the norms are two.

    Raises:
        ValueError: if norm, activation or n_heads are none that the parts accept.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.1.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        d_ff: int,
        rng: np.random.Generator,
        norm: str = "pre",
        activation: str = "gelu",
    ):
        self.attention = Residual(MultiHeadAttention(d_model, n_heads, rng), d_model, norm)
        self.feed_forward = Residual(FeedForward(d_model, d_ff, rng, activation), d_model, norm)

    def forward(self, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Attention, then the network. Calls no part twice.

        Args:
            x: (..., T, d_model) with any number of axes in front, also none. It is not changed.
            mask: boolean, broadcasts to (..., T, T), True where a token (row) may look at a token (column). None allows
                everything.

        Returns:
            Array of x's shape; float32 where x and the parameters are float32.
        """
        return self.feed_forward(self.attention(x, mask))

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for the x of the last `forward`, of its shape; adds to the gradients of all parameters."""
        return self.attention.backward(self.feed_forward.backward(grad))

# %% mistakes="TransformerBlock"
{
    "backward goes through the parts in the order of forward, attention first": (
        "self.attention.backward(self.feed_forward.backward(grad))",
        "self.feed_forward.backward(self.attention.backward(grad))",
    ),
    "backward never reaches the attention, which so never learns": (
        "self.attention.backward(self.feed_forward.backward(grad))",
        "self.feed_forward.backward(grad)",
    ),
    "backward goes past the network, which so never learns": (
        "self.attention.backward(self.feed_forward.backward(grad))",
        "self.attention.backward(grad)",
    ),
    "the gradient of the network is not handed on: both parts get the gradient that arrives, and their answers are added": (
        "self.attention.backward(self.feed_forward.backward(grad))",
        "self.attention.backward(grad) + self.feed_forward.backward(grad)",
    ),
    "backward runs each part's backward and returns the gradient as it came": (
        "return self.attention.backward(self.feed_forward.backward(grad))",
        "self.attention.backward(self.feed_forward.backward(grad)); return grad",
    ),
    "the block adds x once more around parts that already have a residual inside": [
        (
            "return self.feed_forward(self.attention(x, mask))",
            "x = x + self.attention(x, mask); return x + self.feed_forward(x)",
        ),
        (
            "return self.attention.backward(self.feed_forward.backward(grad))",
            "grad = grad + self.feed_forward.backward(grad); return grad + self.attention.backward(grad)",
        ),
    ],
    "backward adds the gradient that arrives once more, which the residuals have done already": (
        "return self.attention.backward(self.feed_forward.backward(grad))",
        "return grad + self.attention.backward(self.feed_forward.backward(grad))",
    ),
    "backward returns nothing, so the blocks below never learn": (
        "return self.attention.backward(self.feed_forward.backward(grad))",
        "self.attention.backward(self.feed_forward.backward(grad))",
    ),
    "backward goes through the network twice, so its gradients are twice as large": (
        "return self.attention.backward(self.feed_forward.backward(grad))",
        "self.feed_forward.backward(grad); return self.attention.backward(self.feed_forward.backward(grad))",
    ),
    "backward begins by setting all gradients to zero": (
        "return self.attention.backward(self.feed_forward.backward(grad))",
        "self.zero_grad(); return self.attention.backward(self.feed_forward.backward(grad))",
    ),
    "backward goes past the residuals: the roads around the two parts are forgotten": (
        "self.attention.backward(self.feed_forward.backward(grad))",
        "self.attention.backward(self.feed_forward.backward(grad) - grad) - (self.feed_forward.backward(grad) - grad)",
    ),
    "forward computes the attention twice, the second time without the mask, and backward answers for that one": (
        "return self.feed_forward(self.attention(x, mask))",
        "y = self.feed_forward(self.attention(x, mask)); self.attention(x); return y",
    ),
    "the mask is not handed on to the attention, so every token looks into the future": (
        "self.attention(x, mask)",
        "self.attention(x)",
    ),
    "the mask is handed on the wrong way round: True is taken for forbidden": (
        "self.attention(x, mask)",
        "self.attention(x, None if mask is None else ~mask)",
    ),
    "a causal mask is put on whether or not one is handed in": (
        "self.attention(x, mask)",
        "self.attention(x, np.tril(np.ones((x.shape[-2],) * 2, dtype=bool)) if mask is None else mask)",
    ),
    "the network comes first, and attention works on what it makes": [
        ("return self.feed_forward(self.attention(x, mask))", "return self.attention(self.feed_forward(x), mask)"),
        (
            "self.attention.backward(self.feed_forward.backward(grad))",
            "self.feed_forward.backward(self.attention.backward(grad))",
        ),
    ],
    "both parts read the input of the block side by side, and the network does not see what attention has found": [
        (
            "return self.feed_forward(self.attention(x, mask))",
            "return self.attention(x, mask) + self.feed_forward(x) - x",
        ),
        (
            "self.attention.backward(self.feed_forward.backward(grad))",
            "self.attention.backward(grad) + self.feed_forward.backward(grad) - grad",
        ),
    ],
    "the input is added to the output once more, although each residual has added it": [
        ("return self.feed_forward(self.attention(x, mask))", "return x + self.feed_forward(self.attention(x, mask))"),
        ("return self.attention.backward(", "return grad + self.attention.backward("),
    ],
    "the network is left out": [
        ("return self.feed_forward(self.attention(x, mask))", "return self.attention(x, mask)"),
        ("self.attention.backward(self.feed_forward.backward(grad))", "self.attention.backward(grad)"),
    ],
    "the attention is left out": [
        ("return self.feed_forward(self.attention(x, mask))", "return self.feed_forward(x)"),
        ("self.attention.backward(self.feed_forward.backward(grad))", "self.feed_forward.backward(grad)"),
    ],
    "the network stands alone, without a residual": (
        "Residual(FeedForward(d_model, d_ff, rng, activation), d_model, norm)",
        "FeedForward(d_model, d_ff, rng, activation)",
    ),
    "the attention stands alone, without a residual": (
        "Residual(MultiHeadAttention(d_model, n_heads, rng), d_model, norm)",
        "MultiHeadAttention(d_model, n_heads, rng)",
    ),
    "both residuals share one norm object, which remembers only its last token": (
        "self.feed_forward = Residual(FeedForward(d_model, d_ff, rng, activation), d_model, norm)",
        "self.feed_forward = Residual(FeedForward(d_model, d_ff, rng, activation), d_model, norm); self.feed_forward.norm = self.attention.norm",
    ),
    "the kind of norm is ignored: it is always pre": ("d_model, norm)", 'd_model, "pre")', "all"),
    "only the attention gets the kind of norm that was asked for, and the network's is always pre": (
        "activation), d_model, norm)",
        "activation), d_model)",
    ),
    "only the network gets the kind of norm that was asked for, and the attention's is always pre": (
        "rng), d_model, norm)",
        "rng), d_model)",
    ),
    "the norm is post where nothing is said": ('norm: str = "pre"', 'norm: str = "post"'),
    "the activation is ignored: it is always GELU": ("d_ff, rng, activation)", "d_ff, rng)"),
    "the activation is ReLU where nothing is said": ('activation: str = "gelu"', 'activation: str = "relu"'),
    "the number of heads is ignored: there is always one": (
        "MultiHeadAttention(d_model, n_heads, rng)",
        "MultiHeadAttention(d_model, 1, rng)",
    ),
    "there is one head for each feature, whatever is asked for": (
        "MultiHeadAttention(d_model, n_heads, rng)",
        "MultiHeadAttention(d_model, d_model, rng)",
    ),
    "d_ff is ignored: the middle is always four times as wide as the token": (
        "FeedForward(d_model, d_ff,",
        "FeedForward(d_model, 4 * d_model,",
    ),
    "the network is drawn like the attention, from a copy of rng": (
        "self.attention = Residual(MultiHeadAttention(d_model, n_heads, rng)",
        "import copy\n        self.attention = Residual(MultiHeadAttention(d_model, n_heads, copy.deepcopy(rng))",
    ),
    "rng is ignored: every block is drawn with seed 0": (
        "self.attention = Residual(",
        "rng = np.random.default_rng(0); self.attention = Residual(",
    ),
    "the two parts are named the other way round": [
        ("self.attention", "self.first", "all"),
        ("self.feed_forward", "self.attention", "all"),
        ("self.first", "self.feed_forward", "all"),
    ],
}

# %% exercise="Transformer"
class Transformer(Layer):
    """Blocks on each other.

    Args:
        n_layers: N, the number of blocks, at least 1.
        d_model, n_heads, d_ff: as in `TransformerBlock`, the same for all blocks.
        rng: all random numbers come from it.
        norm: "pre", "post" or "none"; the same for all blocks.
        activation: "gelu" or "relu"; the same for all blocks.

    Attributes:
        blocks: a list of N `TransformerBlock`, in the order in which forward goes through them.
        norm: with "pre" a `LayerNorm` behind the last block, otherwise None.

    Parameters:
        Those of block 0 under ``blocks.0.`` (such as ``blocks.0.attention.layer.q.weight``), and so on, and with "pre"
        ``norm.weight`` and ``norm.bias``. No two blocks share a parameter, and no two are drawn alike.

    Raises:
        ValueError: if norm, activation or n_heads are none that the parts accept.

    Sources: Vaswani et al., Attention Is All You Need, 2017 ("post"); Radford et al., Language Models are Unsupervised
    Multitask Learners, 2019 ("pre", with the norm behind the last block).
    """

    def __init__(
        self,
        n_layers: int,
        d_model: int,
        n_heads: int,
        d_ff: int,
        rng: np.random.Generator,
        norm: str = "pre",
        activation: str = "gelu",
    ):
        self.blocks = [TransformerBlock(d_model, n_heads, d_ff, rng, norm, activation) for _ in range(n_layers)]
        self.norm = LayerNorm(d_model) if norm == "pre" else None

    def forward(self, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Through all blocks, and the last norm if there is one.

        Args:
            x: (..., T, d_model) with any number of axes in front, also none. It is not changed.
            mask: as in `TransformerBlock`; every block gets it.

        Returns:
            Array of x's shape; float32 where x and the parameters are float32.
        """
        for block in self.blocks:
            x = block(x, mask)
        return x if self.norm is None else self.norm(x)

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for the x of the last `forward`, of its shape; adds to the gradients of all parameters."""
        if self.norm is not None:
            grad = self.norm.backward(grad)
        for block in reversed(self.blocks):
            grad = block.backward(grad)
        return grad

# %% mistakes="Transformer"
{
    "the list holds one block N times, with [block] * n_layers: the blocks share everything": (
        "[TransformerBlock(d_model, n_heads, d_ff, rng, norm, activation) for _ in range(n_layers)]",
        "[TransformerBlock(d_model, n_heads, d_ff, rng, norm, activation)] * n_layers",
    ),
    "all blocks are drawn alike, each from a copy of rng": (
        "[TransformerBlock(d_model, n_heads, d_ff, rng, norm,",
        "[TransformerBlock(d_model, n_heads, d_ff, __import__('copy').deepcopy(rng), norm,",
    ),
    "backward goes through the blocks from the first to the last": ("reversed(self.blocks)", "self.blocks"),
    "backward turns the list of blocks round, and so the next forward goes through them from the last to the first": (
        "for block in reversed(self.blocks):",
        "self.blocks.reverse()\n        for block in self.blocks:",
    ),
    "every block gets the gradient that arrives at the top, and not what the block above it returns": (
        "            grad = block.backward(grad)\n        return grad",
        "            into = block.backward(grad)\n        return into",
    ),
    "what the blocks return is thrown away, and the gradient of the top comes out at the bottom": (
        "            grad = block.backward(grad)",
        "            block.backward(grad)",
    ),
    "backward goes past the last norm": (
        "        if self.norm is not None:\n            grad = self.norm.backward(grad)\n        for block in rev",
        "        for block in rev",
    ),
    "the gradient passes the last norm at the end, after the blocks": (
        "        if self.norm is not None:\n            grad = self.norm.backward(grad)\n        for block in reversed(self.blocks):\n            grad = block.backward(grad)\n        return grad",
        "        for block in reversed(self.blocks):\n            grad = block.backward(grad)\n        return grad if self.norm is None else self.norm.backward(grad)",
    ),
    "backward adds the gradient of the top to what each block returns, which the residuals have done already": (
        "grad = block.backward(grad)",
        "grad = grad + block.backward(grad)",
    ),
    "backward forgets the lowest block": ("reversed(self.blocks)", "reversed(self.blocks[1:])"),
    "backward forgets the highest block": ("reversed(self.blocks)", "reversed(self.blocks[:-1])"),
    "backward begins by setting all gradients to zero": (
        "        if self.norm is not None:\n            grad = self.norm",
        "        self.zero_grad()\n        if self.norm is not None:\n            grad = self.norm",
    ),
    "backward returns nothing, so the embedding below never learns": (
        "            grad = block.backward(grad)\n        return grad",
        "            grad = block.backward(grad)",
    ),
    "the mask is not handed on to the blocks": ("block(x, mask)", "block(x)"),
    "only the first block gets the mask, and the others look into the future": (
        "x = block(x, mask)",
        "x, mask = block(x, mask), None",
    ),
    "every block reads the input of the stack, and only the last one's output is kept": [
        (
            "            x = block(x, mask)\n        return x",
            "            y = block(x, mask)\n        x = y\n        return x",
        ),
    ],
    "forward goes through the blocks from the last to the first": [
        ("for block in self.blocks:", "for block in self.blocks[::-1]:"),
        ("reversed(self.blocks)", "self.blocks"),
    ],
    "forward leaves out the last block": [
        ("for block in self.blocks:", "for block in self.blocks[:-1]:"),
        ("reversed(self.blocks)", "reversed(self.blocks[:-1])"),
    ],
    "forward goes through every block twice": ("x = block(x, mask)", "x = block(block(x, mask), mask)"),
    "the input of each block is added to its output, although its residuals have done so": [
        ("x = block(x, mask)", "x = x + block(x, mask)"),
        ("grad = block.backward(grad)", "grad = grad + block.backward(grad)"),
    ],
    "the last norm is left out": [
        ("LayerNorm(d_model) if norm", "None if norm"),
    ],
    "the last norm is there and forward does not use it": [
        ("return x if self.norm is None else self.norm(x)", "return x"),
        ("grad = self.norm.backward(grad)", "pass"),
    ],
    "the last norm is used behind every block": [
        ("x = block(x, mask)", "x = block(x, mask) if self.norm is None else self.norm(block(x, mask))"),
        ("return x if self.norm is None else self.norm(x)", "return x"),
    ],
    "a last norm stands behind the blocks whatever the kind": (
        'LayerNorm(d_model) if norm == "pre" else None',
        "LayerNorm(d_model)",
    ),
    "a last norm stands behind the blocks with post, too, where every block ends in one": (
        'if norm == "pre" else None',
        'if norm != "none" else None',
    ),
    "the last norm is there with post, and not with pre": ('if norm == "pre"', 'if norm == "post"'),
    "the kind of norm is not handed on to the blocks": ("rng, norm, activation)", 'rng, "pre", activation)'),
    "the activation is not handed on to the blocks": ("rng, norm, activation)", "rng, norm)"),
    "the norm is post where nothing is said": ('norm: str = "pre"', 'norm: str = "post"'),
    "the activation is ReLU where nothing is said": ('activation: str = "gelu"', 'activation: str = "relu"'),
    "the number of heads is not handed on: there is always one": ("(d_model, n_heads, d_ff,", "(d_model, 1, d_ff,"),
    "d_ff is not handed on: it is always four times d_model": (
        "(d_model, n_heads, d_ff,",
        "(d_model, n_heads, 4 * d_model,",
    ),
    "there is one block too many": ("range(n_layers)", "range(n_layers + 1)"),
    "rng is ignored: every model is drawn with seed 0": (
        "        self.blocks = [",
        "        rng = np.random.default_rng(0)\n        self.blocks = [",
    ),
    "the blocks are kept under the name layers": ("self.blocks", "self.layers", "all"),
    "the blocks are kept in a tuple, in which parameters() does not look": (
        "for _ in range(n_layers)]",
        "for _ in range(n_layers)]; self.blocks = tuple(self.blocks)",
    ),
}

# %% exercise="parameter_count"
def parameter_count(n_layers: int, d_model: int, d_ff: int, norm: str = "pre") -> int:
    """The number of parameters of a `Transformer`, by arithmetic: no model is built.

    Args:
        n_layers: number of blocks; 0 is allowed here and leaves the last norm, if there is one.
        d_model, d_ff: as in `Transformer`. There is no n_heads, since the heads change nothing.
        norm: "pre", "post" or "none".

    Returns:
        An int: how many numbers the arrays of ``Transformer(...).parameters()`` hold together. It has to be exact for
        models of any size, and to take no noticeable time or memory.
    """
    attention = 4 * (d_model * d_model + d_model)  # q, k, v, o, each with a bias
    network = d_model * d_ff + d_ff + d_ff * d_model + d_model  # inner and outer, each with a bias
    one_norm = 0 if norm == "none" else 2 * d_model  # weight and bias
    last_norm = one_norm if norm == "pre" else 0
    return n_layers * (attention + network + 2 * one_norm) + last_norm


def widest(budget: int, n_layers: int, n_heads: int) -> int:
    """How wide may a model be?

    Args:
        budget: at most so many parameters are allowed, 0 or more.
        n_layers: number of blocks, at least 1.
        n_heads: d_model has to be a multiple of it.

    Returns:
        The largest d_model, a multiple of n_heads, for which a `Transformer` with n_layers blocks, d_ff = 4 * d_model and
        pre-norm has at most budget parameters. 0 if even one with d_model = n_heads has more.
    """
    d_model = 0
    while parameter_count(n_layers, d_model + n_heads, 4 * (d_model + n_heads)) <= budget:
        d_model += n_heads
    return d_model

# %% mistakes="parameter_count"
{
    "a model with exactly as many parameters as are allowed is refused": ("<= budget", "< budget"),
    "the answer of widest is one step too wide": ("    return d_model\n", "    return d_model + n_heads\n"),
    "widest goes up in steps of 1, and the width need not be a multiple of the number of heads": [
        (
            "parameter_count(n_layers, d_model + n_heads, 4 * (d_model + n_heads))",
            "parameter_count(n_layers, d_model + 1, 4 * (d_model + 1))",
        ),
        ("d_model += n_heads", "d_model += 1"),
    ],
    "widest begins at the number of heads, and says so even when that is too wide": (
        "d_model = 0",
        "d_model = n_heads",
    ),
    "widest counts with d_ff = d_model": ("4 * (d_model + n_heads)) <=", "d_model + n_heads) <="),
    "widest counts one block, whatever the number of layers": (
        "parameter_count(n_layers, d_model + n_heads,",
        "parameter_count(1, d_model + n_heads,",
    ),
    "widest uses the rule of thumb, 12 d_model squared for each block": (
        "parameter_count(n_layers, d_model + n_heads, 4 * (d_model + n_heads)) <= budget",
        "12 * n_layers * (d_model + n_heads) ** 2 <= budget",
    ),
    "widest stops at the first width that is allowed": (
        "    while parameter_count(n_layers, d_model + n_heads,",
        "    if parameter_count(n_layers, d_model + n_heads,",
    ),
    "the biases are not counted, neither those of attention nor those of the network": [
        ("4 * (d_model * d_model + d_model)", "4 * d_model * d_model"),
        ("d_model * d_ff + d_ff + d_ff * d_model + d_model", "2 * d_model * d_ff"),
    ],
    "the biases of attention are not counted": ("4 * (d_model * d_model + d_model)", "4 * d_model * d_model"),
    "the biases of the network are not counted": (
        "d_model * d_ff + d_ff + d_ff * d_model + d_model",
        "2 * d_model * d_ff",
    ),
    "both biases of the network are counted with d_model numbers": (
        "d_model * d_ff + d_ff + d_ff",
        "d_model * d_ff + d_model + d_ff",
    ),
    "attention is counted with three matrices: the output layer o is missing": ("4 * (d_model *", "3 * (d_model *"),
    "the network is counted with one matrix": (
        "d_model * d_ff + d_ff + d_ff * d_model + d_model",
        "d_model * d_ff + d_ff",
    ),
    "a norm is counted with its weight and without its bias": ("else 2 * d_model", "else d_model"),
    "a block is counted with one norm and not with two": ("+ 2 * one_norm)", "+ one_norm)"),
    "the norms of the blocks are not counted": (" + 2 * one_norm)", ")"),
    "the last norm is not counted": (" + last_norm", ""),
    "the last norm is counted once for every block": (
        "(attention + network + 2 * one_norm) + last_norm",
        "(attention + network + 2 * one_norm + last_norm)",
    ),
    "the last norm is counted with post, too": ('one_norm if norm == "pre" else 0', "one_norm"),
    "the norms are counted with 'none', too": ('0 if norm == "none" else 2 * d_model', "2 * d_model"),
    "it is the rule of thumb, 12 d_model squared for each block": (
        "return n_layers * (attention + network + 2 * one_norm) + last_norm",
        "return 12 * n_layers * d_model**2",
    ),
    "d_ff is taken for 4 * d_model, whatever it is": (
        "attention = 4 *",
        "d_ff = 4 * d_model; attention = 4 *",
    ),
    "the number is a float, which loses its last digits for large models": (
        "return n_layers * (attention",
        "import numpy\n    return float(n_layers) * numpy.float32(attention",
    ),
    "norms are counted as post has them where nothing is said": ('norm: str = "pre"', 'norm: str = "post"'),
}

# %% exercise="gradient_norms_by_depth"
def gradient_norms_by_depth(
    model: Layer, x: np.ndarray, grad: np.ndarray, mask: np.ndarray | None = None
) -> np.ndarray:
    """How large a gradient is at every depth of a `Transformer`.

    Args:
        model: a `Transformer`: its ``blocks`` (a list, each with forward(x, mask) and backward(grad)) and its ``norm``,
            which may be None.
        x: (..., T, d_model), what goes into the model.
        grad: of the same shape: the gradient of the loss for the model's output, behind the last norm.
        mask: as in `Transformer`.

    Returns:
        float64 array (n_layers + 1,), also for a float32 model. Entry n is the norm (the root of the sum of squares over everything) of the
        gradient for the input of block n; so entry 0 is that for x. The last entry is that for the output of the last
        block, before the last norm.

    The gradients of the model's parameters are in the end what they were before.
    """
    before = {name: parameter.grad.copy() for name, parameter in model.parameters().items()}
    model.forward(x, mask)
    if model.norm is not None:
        grad = model.norm.backward(grad)
    norms = [np.linalg.norm(grad)]
    for block in reversed(model.blocks):
        grad = block.backward(grad)
        norms.append(np.linalg.norm(grad))
    for name, parameter in model.parameters().items():
        parameter.grad = before[name]
    return np.array(norms[::-1], dtype=np.float64)

# %% mistakes="gradient_norms_by_depth"
{
    "the gradients of the parameters stay as the walk has left them, as they do when they are remembered without a copy": (
        "parameter.grad = before[name]",
        "pass",
    ),
    "the gradients of the parameters are set to zero at the end": (
        "parameter.grad = before[name]",
        "parameter.grad = np.zeros_like(parameter.value)",
    ),
    "the norms are in the order in which they are found, from the top to the bottom": ("norms[::-1]", "norms"),
    "the last norm is left out: the walk begins with the gradient for the model's output": (
        "grad = model.norm.backward(grad)",
        "pass",
    ),
    "the entry at the top is the gradient for the model's output, before it has come through the last norm": (
        "    if model.norm is not None:\n        grad = model.norm.backward(grad)\n    norms = [np.linalg.norm(grad)]",
        "    norms = [np.linalg.norm(grad)]\n    if model.norm is not None:\n        grad = model.norm.backward(grad)",
    ),
    "the entry at the top is missing": ("norms = [np.linalg.norm(grad)]", "norms = []"),
    "the entry at the bottom is missing": ("norms[::-1]", "norms[-2::-1]"),
    "the blocks are gone through from the first to the last": ("reversed(model.blocks)", "model.blocks"),
    "every block gets the gradient of the top": (
        "        grad = block.backward(grad)\n        norms.append(np.linalg.norm(grad))",
        "        norms.append(np.linalg.norm(block.backward(grad)))",
    ),
    "the mask is not handed on": ("model.forward(x, mask)", "model.forward(x)"),
    "each entry is the mean of the squares under the root, and not their sum": (
        "np.linalg.norm(grad)",
        "np.sqrt((grad**2).mean())",
        "all",
    ),
    "the squares are added up, and no root is taken": ("np.linalg.norm(grad)", "(grad**2).sum()", "all"),
    "the sizes are added up without squares": ("np.linalg.norm(grad)", "np.abs(grad).sum()", "all"),
    "each entry is the largest number of the gradient": ("np.linalg.norm(grad)", "np.abs(grad).max()", "all"),
    "each entry is the norm for the last token alone": (
        "np.linalg.norm(grad)",
        "np.linalg.norm(grad[..., -1, :])",
        "all",
    ),
    "each entry is the mean of the tokens' norms": (
        "np.linalg.norm(grad)",
        "np.linalg.norm(grad, axis=-1).mean()",
        "all",
    ),
    "the norms are divided by the one at the top": (
        "np.array(norms[::-1], dtype=np.float64)",
        "np.array(norms[::-1], dtype=np.float64) / norms[0]",
    ),
    "they are the norms of the stream, and not those of its gradient": (
        "        grad = block.backward(grad)\n        norms.append(np.linalg.norm(grad))",
        "        grad = block.backward(grad)\n    norms, y = [np.linalg.norm(x)], x\n    for block in model.blocks:\n        y = block(y, mask)\n        norms.insert(0, np.linalg.norm(y))",
    ),
}
