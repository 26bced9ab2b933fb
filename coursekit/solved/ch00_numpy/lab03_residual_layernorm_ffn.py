"""Residuals, layer norm and the feed-forward network: the reference. Generated from source_solutions/ch00_numpy/lab03_residual_layernorm_ffn.py by `course build`; do not edit."""

# %% given
import numpy as np

from coursekit import carry

Layer = carry("ch00/lab01", "Layer")
Parameter = carry("ch00/lab01", "Parameter")
passes = carry("ch00/lab01", "passes")

# %% given
new_rng = carry("ch00/lab01", "new_rng")
Linear = carry("ch00/lab02", "Linear")


class Times(Layer):
    """For the tests: multiply each feature by a learned number, and all of them by a factor that is handed in."""

    def __init__(self, d_model: int, rng: np.random.Generator):
        self.weight = Parameter(rng.normal(size=d_model))

    def forward(self, x, factor=1.0):
        self.x, self.factor = x, factor
        return factor * x * self.weight.value

    def backward(self, grad):
        tokens = tuple(range(grad.ndim - 1))  # all axes but the features
        self.weight.grad += (self.factor * grad * self.x).sum(axis=tokens)
        return self.factor * grad * self.weight.value

# %% exercise="GELU"
class ReLU(Layer):
    """max(x, 0), number by number. No parameters."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return max(x, 0), a new array of x's shape and dtype (float32 or float64). x has any number of axes."""
        self.positive = x > 0
        return np.maximum(x, 0)

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x: grad where the x of the last `forward` was positive, and 0 elsewhere, at x = 0 too."""
        return grad * self.positive


class GELU(Layer):
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3))), number by number. No parameters.

    Source: Hendrycks and Gimpel, Gaussian Error Linear Units, 2016, the form with tanh.
    """

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return gelu(x), an array of x's shape and dtype (float32 or float64).

        Args:
            x: any number of axes, and numbers up to 10,000 in size. Far out gelu(x) is x on the right and 0 on the
                left.
        """
        self.x = x
        self.t = np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))
        return 0.5 * x * (1 + self.t)

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for the x of the last `forward`: grad times the slope of gelu there, in x's dtype."""
        x, t = self.x, self.t
        du = (2 / np.pi) ** 0.5 * (1 + 3 * 0.044715 * x**2)  # the slope of what stands inside the tanh
        return grad * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * du)

# %% mistakes="GELU"
{
    "the slope of GELU is half of 1 + tanh, and the summand with the slope of the tanh is forgotten": (
        "0.5 * (1 + t) + 0.5 * x * (1 - t**2) * du",
        "0.5 * (1 + t)",
    ),
    "the slope of GELU has only the summand with the slope of the tanh, and half of 1 + tanh is forgotten": (
        "0.5 * (1 + t) + 0.5 * x * (1 - t**2) * du",
        "0.5 * x * (1 - t**2) * du",
    ),
    "the slope of what stands inside the tanh is forgotten": ("(1 - t**2) * du)", "(1 - t**2))"),
    "the slope of the cube is x**2 and not 3 x**2": ("(1 + 3 * 0.044715 * x**2)", "(1 + 0.044715 * x**2)"),
    "the slope of the cube is left out, so what stands inside the tanh is taken for a straight line": (
        "(1 + 3 * 0.044715 * x**2)",
        "1",
    ),
    "the slope of tanh is taken for 1 - tanh, without the square": ("(1 - t**2) * du", "(1 - t) * du"),
    "the slope of tanh is taken for 1 - u**2, with what stands inside it and not with its value": (
        "(1 - t**2) * du",
        "(1 - ((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)) ** 2) * du",
    ),
    "the factor sqrt(2 / pi) is missing from the slope": (
        "du = (2 / np.pi) ** 0.5 * (1 + 3",
        "du = (1 + 3",
    ),
    "backward of GELU returns the slope and leaves out the gradient that arrives": (
        "return grad * (0.5 * (1 + t)",
        "return np.ones_like(grad) * (0.5 * (1 + t)",
    ),
    "backward of GELU takes the slope at grad and not at the x of forward": (
        "x, t = self.x, self.t",
        "x = grad; t = np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))",
    ),
    "backward of GELU takes the tanh of the first forward and not of the last": (
        "self.t = np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))\n        return 0.5 * x * (1 + self.t)",
        't = np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))\n        self.t = getattr(self, "t", t)\n        return 0.5 * x * (1 + t)',
    ),
    "the exact GELU is computed, with the error function, and its slope": [
        (
            "self.t = np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))",
            "import math; self.t = np.vectorize(math.erf, otypes=[x.dtype])(x / 2**0.5)",
        ),
        (
            "(1 - t**2) * du)",
            "2 * np.exp(-(x**2) / 2) / (2 * np.pi) ** 0.5)",
        ),
    ],
    "the third form of GELU is computed, x * sigmoid(1.702 x)": [
        ("(2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)", "0.851 * x"),
        ("(2 / np.pi) ** 0.5 * (1 + 3 * 0.044715 * x**2)", "0.851"),
    ],
    "0.044715 is mistyped as 0.44715, in forward as in backward": ("0.044715", "0.44715", "all"),
    "the root of 2 / pi is not taken, in forward nor in backward": ("(2 / np.pi) ** 0.5", "(2 / np.pi)", "all"),
    "x is squared and not cubed": ("0.044715 * x**3", "0.044715 * x**2"),
    "the half is missing, so GELU grows like 2 x": ("return 0.5 * x * (1 + self.t)", "return x * (1 + self.t)"),
    "GELU is tanh alone: the factor x is missing": ("return 0.5 * x * (1 + self.t)", "return 0.5 * (1 + self.t)"),
    "a factor out of np.sqrt turns the float32 output of GELU into float64": (
        "np.tanh((2 / np.pi) ** 0.5 *",
        "np.tanh(np.sqrt(2 / np.pi) *",
    ),
    "ReLU lets every gradient through": ("return grad * self.positive", "return grad"),
    "at x = 0 the slope of ReLU is 1": ("self.positive = x > 0", "self.positive = x >= 0"),
    "at x = 0 the slope of ReLU is one half": (
        "self.positive = x > 0",
        "self.positive = np.heaviside(x, 0.5).astype(x.dtype)",
    ),
    "ReLU cuts off the gradient where the gradient is negative, and not where x was": (
        "return grad * self.positive",
        "return np.maximum(grad, 0)",
    ),
    "ReLU cuts off the gradient where the gradient is negative, and where x was, too": (
        "return grad * self.positive",
        "return np.maximum(grad, 0) * self.positive",
    ),
    "backward of ReLU multiplies by the output and not by the slope": (
        "self.positive = x > 0",
        "self.positive = np.maximum(x, 0)",
    ),
    "backward of ReLU looks at the x of the first forward and not of the last": (
        "self.positive = x > 0",
        'self.positive = getattr(self, "positive", x > 0)',
    ),
    "ReLU is the absolute value": [
        ("np.maximum(x, 0)", "np.abs(x)"),
        ("self.positive = x > 0", "self.positive = np.sign(x)"),
    ],
    "ReLU keeps what is negative and cuts off the rest": [
        ("np.maximum(x, 0)", "np.minimum(x, 0)"),
        ("self.positive = x > 0", "self.positive = x < 0"),
    ],
    "ReLU is leaky: a hundredth of what is negative comes through": [
        ("np.maximum(x, 0)", "np.where(x > 0, x, x * 0.01)"),
        ("self.positive = x > 0", "self.positive = np.where(x > 0, x * 0 + 1, x * 0 + 0.01)"),
    ],
}

# %% exercise="FeedForward"
class FeedForward(Layer):
    """Two linear layers with a bend between them; each token goes through alone.

    Args:
        d_model: features of a token, before and after.
        d_ff: features in the middle.
        rng: all random numbers come from it.
        activation: "gelu" or "relu".

    Parameters:
        Those of two of your `Linear` layers with bias: ``inner.weight`` (d_model, d_ff), ``inner.bias`` (d_ff,),
        ``outer.weight`` (d_ff, d_model), ``outer.bias`` (d_model,). First values as `Linear` draws them, different
        ones for the two.

    Raises:
        ValueError: if activation is neither of the two.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.3.
    """

    def __init__(self, d_model: int, d_ff: int, rng: np.random.Generator, activation: str = "gelu"):
        if activation not in ("gelu", "relu"):
            raise ValueError(f"activation is 'gelu' or 'relu', not {activation!r}")
        self.inner = Linear(d_model, d_ff, rng)
        self.activation = GELU() if activation == "gelu" else ReLU()
        self.outer = Linear(d_ff, d_model, rng)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return outer(activation(inner(x))); x and the result have the shape (..., d_model)."""
        hidden = self.activation(self.inner(x))  # (..., d_ff)
        return self.outer(hidden)

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x, of the same shape; adds to the gradients of all four parameters."""
        grad_hidden = self.outer.backward(grad)  # (..., d_ff)
        return self.inner.backward(self.activation.backward(grad_hidden))

# %% mistakes="FeedForward"
{
    "the bend is left out, so two matrices do the work of one": [
        ("self.activation(self.inner(x))", "self.inner(x)"),
        ("self.activation.backward(grad_hidden)", "grad_hidden"),
    ],
    "backward goes past the bend: the slope of the activation is left out": (
        "self.activation.backward(grad_hidden)",
        "grad_hidden",
    ),
    "in backward the activation itself is applied to the gradient, and not its slope": (
        "self.activation.backward(grad_hidden)",
        "self.activation(grad_hidden)",
    ),
    "the bend is applied to the output, too": [
        (
            "return self.outer(hidden)",
            "self.last = type(self.activation)()\n        return self.last(self.outer(hidden))",
        ),
        ("self.outer.backward(grad)", "self.outer.backward(self.last.backward(grad))"),
    ],
    "the bend comes first, before the inner layer": [
        ("self.activation(self.inner(x))", "self.inner(self.activation(x))"),
        (
            "self.inner.backward(self.activation.backward(grad_hidden))",
            "self.activation.backward(self.inner.backward(grad_hidden))",
        ),
    ],
    "the input is added to the output, which is the work of the residual around it": [
        ("return self.outer(hidden)", "return x + self.outer(hidden)"),
        ("return self.inner.backward(", "return grad + self.inner.backward("),
    ],
    "the input is added to the output on the way there, and forgotten on the way back": (
        "return self.outer(hidden)",
        "return x + self.outer(hidden)",
    ),
    "backward begins by setting all gradients to zero": (
        "grad_hidden = self.outer.backward(grad)",
        "self.zero_grad(); grad_hidden = self.outer.backward(grad)",
    ),
    "backward never reaches the inner layer, which so never learns": (
        "return self.inner.backward(self.activation.backward(grad_hidden))",
        "return self.activation.backward(grad_hidden) @ self.inner.weight.value.T",
    ),
    "backward never reaches the outer layer, which so never learns": (
        "self.outer.backward(grad)",
        "grad @ self.outer.weight.value.T",
    ),
    "backward returns the gradient of the hidden layer and not that of x": (
        "return self.inner.backward(self.activation.backward(grad_hidden))",
        "grad_hidden = self.activation.backward(grad_hidden)\n        self.inner.backward(grad_hidden)\n        return grad_hidden",
    ),
    "backward returns nothing": (
        "return self.inner.backward(self.activation.backward(grad_hidden))",
        "self.inner.backward(self.activation.backward(grad_hidden))",
    ),
    "backward goes through the inner layer twice, so its gradients are twice as large": (
        "return self.inner.backward(self.activation.backward(grad_hidden))",
        "self.inner.backward(self.activation.backward(grad_hidden)); return self.inner.backward(self.activation.backward(grad_hidden))",
    ),
    "the inner layer has no bias": (
        "self.inner = Linear(d_model, d_ff, rng)",
        "self.inner = Linear(d_model, d_ff, rng, bias=False)",
    ),
    "the outer layer has no bias": (
        "self.outer = Linear(d_ff, d_model, rng)",
        "self.outer = Linear(d_ff, d_model, rng, bias=False)",
    ),
    "d_ff is ignored: the middle is always four times as wide as the token": [
        ("Linear(d_model, d_ff, rng)", "Linear(d_model, 4 * d_model, rng)"),
        ("Linear(d_ff, d_model, rng)", "Linear(4 * d_model, d_model, rng)"),
    ],
    "the activation is always GELU": ('GELU() if activation == "gelu" else ReLU()', "GELU()"),
    "the activation is always ReLU": ('GELU() if activation == "gelu" else ReLU()', "ReLU()"),
    "relu and gelu have changed places": ('activation == "gelu" else', 'activation == "relu" else'),
    "the activation is ReLU where nothing is said": ('activation: str = "gelu"', 'activation: str = "relu"'),
    "any word but gelu means relu": ('if activation not in ("gelu", "relu"):', "if False:"),
    "rng is ignored: every network is drawn with seed 0": (
        "self.inner = Linear(d_model, d_ff, rng)",
        "rng = np.random.default_rng(0); self.inner = Linear(d_model, d_ff, rng)",
    ),
    "the outer layer is drawn like the inner one, from a copy of rng": (
        "self.inner = Linear(d_model, d_ff, rng)",
        "import copy; self.inner = Linear(d_model, d_ff, copy.deepcopy(rng))",
    ),
    "inner and outer are named the other way round": [
        ("self.inner", "self.first", "all"),
        ("self.outer", "self.inner", "all"),
        ("self.first", "self.outer", "all"),
    ],
}

# %% exercise="LayerNorm"
class LayerNorm(Layer):
    """Normalise each token by its own mean and variance, then scale and shift each feature.

    Args:
        d_model: features of a token.
        eps: added to the variance, inside the root.

    Parameters:
        ``weight`` (d_model,), at first ones, and ``bias`` (d_model,), at first zeros.

    Source: Ba, Kiros and Hinton, Layer Normalization, 2016.
    """

    def __init__(self, d_model: int, eps: float = 1e-5):
        self.weight = Parameter(np.ones(d_model))
        self.bias = Parameter(np.zeros(d_model))
        self.eps = eps

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return (x - mean) / sqrt(variance + eps) * weight + bias.

        Args:
            x: (..., d_model) with any number of axes in front, also none; of the parameters' dtype.

        Returns:
            Array of x's shape and dtype. Mean and variance are those of the last axis, and the variance is the mean of
            the squared differences (divided by d_model, not by d_model - 1). It has to be right far from zero, too: in
            float32, features around 10,000 with a spread of 1 give results within 0.01. A token whose features are all
            equal gives the bias.
        """
        centred = x - x.mean(axis=-1, keepdims=True)  # (..., d)
        variance = (centred**2).mean(axis=-1, keepdims=True)  # (..., 1)
        self.root = np.sqrt(variance + self.eps)  # (..., 1)
        self.normal = centred / self.root  # (..., d)
        return self.normal * self.weight.value + self.bias.value

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x, and on the way those of weight and bias.

        Args:
            grad: (..., d_model), the gradient of the loss for the output of the last `forward`.

        Returns:
            The gradient for x, of the same shape. To ``weight.grad`` and ``bias.grad`` is added the sum over all
            tokens, however many axes there are in front of the features.
        """
        tokens = tuple(range(grad.ndim - 1))  # all axes but the features
        self.weight.grad += (grad * self.normal).sum(axis=tokens)
        self.bias.grad += grad.sum(axis=tokens)
        g = grad * self.weight.value  # what arrives at the normalised token, (..., d)
        shift = g.mean(axis=-1, keepdims=True)  # (..., 1)
        loudness = (g * self.normal).mean(axis=-1, keepdims=True)  # (..., 1)
        return (g - shift - self.normal * loudness) / self.root

# %% mistakes="LayerNorm"
{
    "mean and variance are taken for constants: both mean terms of the backward pass are forgotten": (
        "(g - shift - self.normal * loudness)",
        "g",
    ),
    "the mean of g is forgotten in the backward pass": (
        "(g - shift - self.normal * loudness)",
        "(g - self.normal * loudness)",
    ),
    "the mean of g times the normalised token is forgotten in the backward pass": (
        "(g - shift - self.normal * loudness)",
        "(g - shift)",
    ),
    "the second mean is subtracted without the normalised token in front of it": (
        "self.normal * loudness)",
        "loudness)",
    ),
    "the second mean is added and not subtracted": ("- self.normal * loudness", "+ self.normal * loudness"),
    "in the backward pass the features are added up where the means belong": [
        ("shift = g.mean(", "shift = g.sum("),
        ("(g * self.normal).mean(", "(g * self.normal).sum("),
    ],
    "the means of the backward pass run over all tokens and not over the features of one": [
        ("shift = g.mean(axis=-1, keepdims=True)", "shift = g.mean()"),
        ("(g * self.normal).mean(axis=-1, keepdims=True)", "(g * self.normal).mean()"),
    ],
    "the means of the backward pass run over the tokens, feature by feature, as in a batch norm": [
        ("shift = g.mean(axis=-1, keepdims=True)", "shift = g.mean(axis=tokens)"),
        ("(g * self.normal).mean(axis=-1, keepdims=True)", "(g * self.normal).mean(axis=tokens)"),
    ],
    "the weight is left out of the gradient for x": ("g = grad * self.weight.value", "g = grad"),
    "the weight is multiplied last, after the means have been subtracted": [
        ("g = grad * self.weight.value", "g = grad"),
        ("loudness) / self.root", "loudness) / self.root * self.weight.value"),
    ],
    "the gradient for x is not divided by the root": ("loudness) / self.root", "loudness)"),
    "the gradient for x is multiplied by the root": ("loudness) / self.root", "loudness) * self.root"),
    "the gradient for x is divided by the variance": ("loudness) / self.root", "loudness) / self.root**2"),
    "backward divides by the root of the first forward and not of the last": (
        "self.root = np.sqrt(variance + self.eps)  # (..., 1)\n        self.normal = centred / self.root",
        'root = np.sqrt(variance + self.eps)\n        self.root = getattr(self, "root", root)\n        self.normal = centred / root',
    ),
    "backward returns the gradient as it came": (
        "return (g - shift - self.normal * loudness) / self.root",
        "return grad",
    ),
    "backward returns nothing, so the layers before it never learn": (
        "return (g - shift - self.normal * loudness) / self.root",
        "return None",
    ),
    "weight.grad and bias.grad are averaged over the tokens and not summed": (
        ".sum(axis=tokens)",
        ".mean(axis=tokens)",
        "all",
    ),
    "weight.grad and bias.grad are summed over the tokens of a text but not over the batch": (
        ".sum(axis=tokens)",
        ".sum(axis=tokens[1:])",
        "all",
    ),
    "weight.grad and bias.grad are summed over the batch but not over the tokens of a text": (
        ".sum(axis=tokens)",
        ".sum(axis=tokens[:1])",
        "all",
    ),
    "weight.grad and bias.grad come from the first text of the batch alone": [
        ("(grad * self.normal).sum(axis=tokens)", "(grad * self.normal)[:1].sum(axis=tokens)"),
        ("grad.sum(axis=tokens)", "grad[:1].sum(axis=tokens)"),
    ],
    "weight.grad is overwritten and not added to": ("self.weight.grad +=", "self.weight.grad ="),
    "bias.grad is overwritten and not added to": ("self.bias.grad +=", "self.bias.grad ="),
    "weight.grad is the sum of the gradients alone, without the normalised token": (
        "(grad * self.normal).sum(axis=tokens)",
        "grad.sum(axis=tokens)",
    ),
    "weight.grad takes the token with its mean subtracted but not divided by the root": (
        "(grad * self.normal).sum(axis=tokens)",
        "(grad * self.normal * self.root).sum(axis=tokens)",
    ),
    "weight.grad has the weight in it": (
        "(grad * self.normal).sum(axis=tokens)",
        "(grad * self.normal * self.weight.value).sum(axis=tokens)",
    ),
    "bias.grad has the weight in it": ("+= grad.sum(axis=tokens)", "+= (grad * self.weight.value).sum(axis=tokens)"),
    "bias.grad is forgotten, so the bias never learns": ("self.bias.grad += grad.sum(axis=tokens)", "pass"),
    "weight.grad is forgotten, so the weight never learns": (
        "self.weight.grad += (grad * self.normal).sum(axis=tokens)",
        "pass",
    ),
    "the variance is divided by d_model - 1, as a statistician would": (
        "(centred**2).mean(axis=-1, keepdims=True)",
        "(centred**2).sum(axis=-1, keepdims=True) / (x.shape[-1] - 1)",
    ),
    "eps is added outside the root": ("np.sqrt(variance + self.eps)", "(np.sqrt(variance) + self.eps)"),
    "eps is left out": ("np.sqrt(variance + self.eps)", "np.sqrt(variance)"),
    "eps is 1e-6 where it is left out": ("eps: float = 1e-5", "eps: float = 1e-6"),
    "eps is always 1e-5, whatever is asked for": ("self.eps = eps", "self.eps = 1e-5"),
    "the token is divided by its variance and not by the root of it": ("centred / self.root", "centred / self.root**2"),
    "the mean is not subtracted": ("centred = x - x.mean(axis=-1, keepdims=True)", "centred = x"),
    "the variance is the mean of the squares minus the square of the mean, which loses its digits far from zero": (
        "variance = (centred**2).mean(axis=-1, keepdims=True)",
        "variance = np.maximum((x**2).mean(axis=-1, keepdims=True) - x.mean(axis=-1, keepdims=True) ** 2, 0)",
    ),
    "mean and variance are taken over the tokens of the text, feature by feature": [
        ("x.mean(axis=-1, keepdims=True)", "x.mean(axis=max(x.ndim - 2, 0), keepdims=True)"),
        ("(centred**2).mean(axis=-1, keepdims=True)", "(centred**2).mean(axis=max(x.ndim - 2, 0), keepdims=True)"),
    ],
    "mean and variance are those of all numbers of the batch": [
        ("x.mean(axis=-1, keepdims=True)", "x.mean()"),
        ("(centred**2).mean(axis=-1, keepdims=True)", "(centred**2).mean() + 0 * x[..., :1]"),
    ],
    "the bias is added before the weight is multiplied": (
        "self.normal * self.weight.value + self.bias.value",
        "(self.normal + self.bias.value) * self.weight.value",
    ),
    "the bias is left out": (" + self.bias.value", ""),
    "the weight is left out": ("self.normal * self.weight.value", "self.normal"),
    "the weight begins at zero, so nothing comes through": ("np.ones(d_model)", "np.zeros(d_model)"),
    "weight and bias are called gamma and beta": [
        ("self.weight", "self.gamma", "all"),
        ("self.bias", "self.beta", "all"),
    ],
}

# %% exercise="Residual"
class Residual(Layer):
    """A layer with a road around it, and a norm before it, behind the sum, or not at all.

    Args:
        layer: any layer whose output has the shape of its input, (..., d_model).
        d_model: features of a token.
        norm: "pre" for ``x + layer(norm(x))``, "post" for ``norm(x + layer(x))``, "none" for ``x + layer(x)``.

    Parameters:
        Those of the layer under ``layer.``, and ``norm.weight`` and ``norm.bias`` of a `LayerNorm` of its own, with
        that layer's eps and first values; without a norm only the layer's.

    Raises:
        ValueError: if norm is none of the three.

    Sources: He et al., Deep Residual Learning for Image Recognition, 2015; Vaswani et al., Attention Is All You Need,
    2017 ("post"); Radford et al., Language Models are Unsupervised Multitask Learners, 2019 ("pre").
    """

    def __init__(self, layer: Layer, d_model: int, norm: str = "pre"):
        if norm not in ("pre", "post", "none"):
            raise ValueError(f"norm is 'pre', 'post' or 'none', not {norm!r}")
        self.place = norm
        self.layer = layer
        self.norm = None if norm == "none" else LayerNorm(d_model)

    def forward(self, x: np.ndarray, *args) -> np.ndarray:
        """The sum with its norm, an array of x's shape (..., d_model); args go to the layer, behind its input."""
        if self.place == "pre":
            return x + self.layer(self.norm(x), *args)
        total = x + self.layer(x, *args)
        return total if self.norm is None else self.norm(total)

    def backward(self, grad: np.ndarray) -> np.ndarray:
        """The gradient for x, of the same shape; adds to the gradients of the layer's and the norm's parameters."""
        if self.place == "pre":
            return grad + self.norm.backward(self.layer.backward(grad))
        if self.place == "post":
            grad = self.norm.backward(grad)  # the norm stands behind the sum: both roads begin with it
        return grad + self.layer.backward(grad)

# %% mistakes="Residual"
{
    "the road around the layer is forgotten on the way back: only the layer's gradient is returned": [
        ("return grad + self.norm.backward(", "return self.norm.backward("),
        ("return grad + self.layer.backward(grad)", "return self.layer.backward(grad)"),
    ],
    "the road through the layer is forgotten on the way back: the gradient is returned as it came, and the layer never learns": [
        ("return grad + self.norm.backward(self.layer.backward(grad))", "return grad"),
        ("return grad + self.layer.backward(grad)", "return grad"),
    ],
    "with pre, the way back goes past the norm": (
        "self.norm.backward(self.layer.backward(grad))",
        "self.layer.backward(grad)",
    ),
    "with pre, both roads go back through the norm, and only one of them came through it": (
        "grad + self.norm.backward(self.layer.backward(grad))",
        "self.norm.backward(grad + self.layer.backward(grad))",
    ),
    "with pre, norm and layer are gone through in the order of forward on the way back": (
        "self.norm.backward(self.layer.backward(grad))",
        "self.layer.backward(self.norm.backward(grad))",
    ),
    "with pre, the normalised token is carried on and not the token itself": [
        ("return x + self.layer(self.norm(x), *args)", "x = self.norm(x)\n            return x + self.layer(x, *args)"),
        (
            "grad + self.norm.backward(self.layer.backward(grad))",
            "self.norm.backward(grad + self.layer.backward(grad))",
        ),
    ],
    "with pre, the token is carried on normalised, and the way back is that of the right formula": (
        "return x + self.layer(self.norm(x), *args)",
        "x = self.norm(x)\n            return x + self.layer(x, *args)",
    ),
    "with post, the way back goes past the norm": (
        "grad = self.norm.backward(grad)  # the norm stands behind the sum: both roads begin with it",
        "pass",
    ),
    "with post, only the road through the layer goes back through the norm": (
        "grad = self.norm.backward(grad)  # the norm stands behind the sum: both roads begin with it",
        "return grad + self.layer.backward(self.norm.backward(grad))",
    ),
    "with post, only the road around the layer goes back through the norm": (
        "grad = self.norm.backward(grad)  # the norm stands behind the sum: both roads begin with it",
        "return self.norm.backward(grad) + self.layer.backward(grad)",
    ),
    "with post, the gradient passes the norm last, after the two roads have been added": (
        "grad = self.norm.backward(grad)  # the norm stands behind the sum: both roads begin with it",
        "return self.norm.backward(grad + self.layer.backward(grad))",
    ),
    "with post, the norm is put on the layer's output and not on the sum": [
        (
            "total if self.norm is None else self.norm(total)",
            "total if self.norm is None else x + self.norm(total - x)",
        ),
        (
            "grad = self.norm.backward(grad)  # the norm stands behind the sum: both roads begin with it",
            "return grad + self.layer.backward(self.norm.backward(grad))",
        ),
    ],
    "pre and post have changed places": (
        "self.place = norm",
        'self.place = {"pre": "post", "post": "pre"}.get(norm, norm)',
    ),
    "the norm is never used, with pre nor with post": [
        ("self.layer(self.norm(x), *args)", "self.layer(x, *args)"),
        ("total if self.norm is None else self.norm(total)", "total"),
        ("grad + self.norm.backward(self.layer.backward(grad))", "grad + self.layer.backward(grad)"),
        ("grad = self.norm.backward(grad)  # the norm stands behind the sum: both roads begin with it", "pass"),
    ],
    "there is no addition: the output is the layer's alone": [
        ("return x + self.layer(self.norm(x), *args)", "return self.layer(self.norm(x), *args)"),
        ("total = x + self.layer(x, *args)", "total = self.layer(x, *args)"),
        ("return grad + self.norm.backward(", "return self.norm.backward("),
        ("return grad + self.layer.backward(grad)", "return self.layer.backward(grad)"),
    ],
    "the two roads are averaged and not added": [
        ("return x + self.layer(self.norm(x), *args)", "return (x + self.layer(self.norm(x), *args)) / 2"),
        ("total = x + self.layer(x, *args)", "total = (x + self.layer(x, *args)) / 2"),
        (
            "return grad + self.norm.backward(self.layer.backward(grad))",
            "return (grad + self.norm.backward(self.layer.backward(grad))) / 2",
        ),
        ("return grad + self.layer.backward(grad)", "return (grad + self.layer.backward(grad)) / 2"),
    ],
    "the layer's output is subtracted": [
        ("return x + self.layer(self.norm(x), *args)", "return x - self.layer(self.norm(x), *args)"),
        ("total = x + self.layer(x, *args)", "total = x - self.layer(x, *args)"),
        ("return grad + self.norm.backward(", "return grad - self.norm.backward("),
        ("return grad + self.layer.backward(grad)", "return grad - self.layer.backward(grad)"),
    ],
    "the layer's backward is called twice, so the gradients of its parameters are twice as large": [
        (
            "return grad + self.norm.backward(self.layer.backward(grad))",
            "self.layer.backward(grad)\n            return grad + self.norm.backward(self.layer.backward(grad))",
        ),
        (
            "return grad + self.layer.backward(grad)",
            "self.layer.backward(grad)\n        return grad + self.layer.backward(grad)",
        ),
    ],
    "backward begins by setting all gradients to zero": (
        'if self.place == "pre":\n            return grad +',
        'self.zero_grad()\n        if self.place == "pre":\n            return grad +',
    ),
    "the further arguments are not handed on to the layer": (", *args)\n", ")\n", "all"),
    "with none there is a norm all the same, and training would not notice that it is idle": [
        ('None if norm == "none" else LayerNorm(d_model)', "LayerNorm(d_model)"),
        ("total if self.norm is None else self.norm(total)", 'total if self.place == "none" else self.norm(total)'),
    ],
    "with pre, the norm is run once more behind the sum, so on the way back it remembers another token": (
        "return x + self.layer(self.norm(x), *args)",
        "total = x + self.layer(self.norm(x), *args)\n            self.norm(total)\n            return total",
    ),
    "the norm is post where nothing is said": ('norm: str = "pre"', 'norm: str = "post"'),
    "any word but pre and none means post": (
        'if norm not in ("pre", "post", "none"):',
        "if False:",
    ),
    "capitals are accepted": (
        'if norm not in ("pre", "post", "none"):',
        'norm = str(norm).lower()\n        if norm not in ("pre", "post", "none"):',
    ),
}

# %% exercise="jacobian"
def jacobian(layer: Layer, x: np.ndarray) -> np.ndarray:
    """All partial derivatives of a layer at x, by its own backward pass.

    Args:
        layer: any layer whose forward takes x alone, and whose backward returns the gradient for x.
        x: float64 array of any shape.

    Returns:
        float64 array (output.size, x.size), exact but for rounding, so not by finite differences. Entry [i, j] is the
        derivative of number i of the output by number j of x, both counted in the order of ``ravel()``. The output may
        have another shape than x.

    The gradients of the layer's parameters are in the end what they were before.
    """
    before = {name: parameter.grad.copy() for name, parameter in layer.parameters().items()}
    output = layer.forward(x)
    rows = []
    for i in range(output.size):
        unit = np.zeros(output.size)
        unit[i] = 1
        rows.append(layer.backward(unit.reshape(output.shape)).ravel())
    for name, parameter in layer.parameters().items():
        parameter.grad = before[name]
    return np.stack(rows)  # (output.size, x.size)

# %% mistakes="jacobian"
{
    "the gradients of all questions stay in the parameters, as they do when they are remembered without a copy": (
        "parameter.grad = before[name]",
        "pass",
    ),
    "the gradients of the parameters are set to zero at the end": (
        "parameter.grad = before[name]",
        "parameter.grad = np.zeros_like(parameter.value)",
    ),
    "the matrix is transposed: the inputs are counted by the rows": (
        "return np.stack(rows)",
        "return np.stack(rows).T",
    ),
    "the ones are never taken out again, so row i is the sum of the first i + 1 rows": [
        ("unit = np.zeros(output.size)\n        unit[i] = 1", "unit[i] = 1"),
        ("rows = []", "rows = []\n    unit = np.zeros(output.size)"),
    ],
    "every row is the sum of all rows, since all ones arrive at once": ("unit[i] = 1", "unit[:] = 1"),
    "only the last row is right, and the others are zero": ("unit[i] = 1", "unit[i] = i == output.size - 1"),
    "only the diagonal is kept, as if each output depended on its own input alone": (
        "return np.stack(rows)",
        "return np.stack(rows) * np.eye(output.size, x.size)",
    ),
    "the rows are divided by the number of outputs": ("unit[i] = 1", "unit[i] = 1 / output.size"),
    "it is the Jacobian at zero and not at x": ("layer.forward(x)", "layer.forward(np.zeros_like(x))"),
    "it is made of finite differences, and right to a few digits only": (
        "return np.stack(rows)",
        "step = 1e-5 * np.eye(x.size).reshape(-1, *x.shape)\n    return np.stack([((layer.forward(x + s) - layer.forward(x - s)) / 2e-5).ravel() for s in step], axis=1)",
    ),
    "the shapes of output and x are kept, and not flattened": (
        "return np.stack(rows)",
        "return np.stack(rows).reshape(*output.shape, *x.shape)",
    ),
    "output and x are counted in the order of their columns": [
        ("unit.reshape(output.shape)", 'unit.reshape(output.shape, order="F")'),
        (".ravel())", '.ravel(order="F"))'),
    ],
    "only the outputs of the first token are asked about": (
        "for i in range(output.size):",
        "for i in range(output.shape[-1]):",
    ),
}
