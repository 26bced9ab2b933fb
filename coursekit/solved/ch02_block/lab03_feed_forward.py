"""The feed-forward network: the reference. Generated from source_solutions/ch02_block/lab03_feed_forward.py by `course build`; do not edit."""

# %% given
import math

import torch
from torch import nn

# %% exercise="relu"
def relu(x: torch.Tensor) -> torch.Tensor:
    """The rectifier of finite numbers: x where x is positive, 0 where it is not.

    Args:
        x: tensor of any shape, floating point. It is not changed.

    Returns:
        Tensor of x's shape and dtype. NaN stays NaN, so that a broken number is not hidden. Gradients flow: 1 where x
        is positive, 0 where x is negative, and 0 at exactly 0 (the convention of PyTorch).
    """
    return x.masked_fill(x <= 0, 0.0)  # NaN <= 0 is False, so NaN stays


def silu(x: torch.Tensor) -> torch.Tensor:
    """The sigmoid linear unit, also called swish: x * sigmoid(x), with sigmoid(x) = 1 / (1 + exp(-x)).

    Args:
        x: tensor of any shape, floating point. It is not changed.

    Returns:
        Tensor of x's shape and dtype. Values and gradients are finite for all inputs between -10,000 and 10,000, in
        float32 and in float64.

    Source: Elfwing, Uchibe and Doya, Sigmoid-Weighted Linear Units for Neural Network Function Approximation in
        Reinforcement Learning, 2017.
    """
    return x * torch.sigmoid(x)

# %% mistakes="relu"
{
    "the gradient of relu at exactly 0 is 1, as torch.clamp has it": (
        "return x.masked_fill(x <= 0, 0.0)",
        "return x.clamp(min=0)",
    ),
    "the gradient of relu at exactly 0 is one half, as torch.maximum has it": (
        "return x.masked_fill(x <= 0, 0.0)",
        "return torch.maximum(x, torch.zeros_like(x))",
    ),
    "relu turns NaN into 0, because a comparison with NaN is False": (
        "return x.masked_fill(x <= 0, 0.0)",
        "return torch.where(x > 0, x, 0.0)",
    ),
    "relu lets a hundredth of negative numbers through (the leaky variant)": (
        "return x.masked_fill(x <= 0, 0.0)",
        "return torch.where(x <= 0, 0.01 * x, x)",
    ),
    "relu turns negative numbers into positive ones": ("return x.masked_fill(x <= 0, 0.0)", "return x.abs()"),
    "relu keeps the negative side and drops the positive one": ("x.masked_fill(x <= 0", "x.masked_fill(x >= 0"),
    "relu returns 1 for positive numbers, not the numbers": (
        "return x.masked_fill(x <= 0, 0.0)",
        "return x.masked_fill(x <= 0, 0.0).sign() + 0 * x",
    ),
    "relu detaches its result, so no gradient gets through": (
        "return x.masked_fill(",
        "return x.detach().masked_fill(",
    ),
    "the sigmoid of silu is written with exp(-x): at -10,000 the value is right and the gradient is NaN": (
        "return x * torch.sigmoid(x)",
        "return x / (1 + torch.exp(-x))",
    ),
    "the sigmoid of silu is written as exp(x) / (1 + exp(x)), which is infinity over infinity for large x": (
        "return x * torch.sigmoid(x)",
        "return x * (torch.exp(x) / (1 + torch.exp(x)))",
    ),
    "the gate of silu is detached, so the gradient lacks the slope of the sigmoid": (
        "return x * torch.sigmoid(x)",
        "return x * torch.sigmoid(x.detach())",
    ),
    "silu returns the sigmoid alone, without the factor x": ("return x * torch.sigmoid(x)", "return torch.sigmoid(x)"),
    "the sign in the sigmoid of silu is wrong, so it passes the negative side": (
        "return x * torch.sigmoid(x)",
        "return x * torch.sigmoid(-x)",
    ),
    "silu multiplies by tanh(x), not by sigmoid(x)": ("return x * torch.sigmoid(x)", "return x * torch.tanh(x)"),
    "silu scales x by 1.702 before the sigmoid, which is an approximation of GELU": (
        "return x * torch.sigmoid(x)",
        "return x * torch.sigmoid(1.702 * x)",
    ),
    "silu uses the straight-line sigmoid (the hard variant)": (
        "return x * torch.sigmoid(x)",
        "return x * ((x + 3) / 6).clamp(0, 1)",
    ),
    "silu takes a softmax over the last axis where an element-wise sigmoid belongs": (
        "return x * torch.sigmoid(x)",
        "return x * torch.softmax(torch.atleast_1d(x), -1).reshape(x.shape)",
    ),
    "silu detaches its result, so no gradient gets through": (
        "return x * torch.sigmoid(x)",
        "return (x * torch.sigmoid(x)).detach()",
    ),
}

# %% exercise="gelu"
def gelu(x: torch.Tensor) -> torch.Tensor:
    """The Gaussian error linear unit, exact: x * Phi(x), with Phi(x) = (1 + erf(x / sqrt(2))) / 2.

    Args:
        x: tensor of any shape, floating point. It is not changed.

    Returns:
        Tensor of x's shape and dtype. Values and gradients are finite for all inputs between -10,000 and 10,000, in
        float32 and in float64.

    Source: Hendrycks and Gimpel, Gaussian Error Linear Units (GELUs), 2016.
    """
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """The approximation of GELU that GPT-2 uses: x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2.

    Args:
        x: tensor of any shape, floating point. It is not changed.

    Returns:
        Tensor of x's shape and dtype. Values and gradients are finite for all inputs between -10,000 and 10,000, in
        float32 and in float64.

    Source: Hendrycks and Gimpel, Gaussian Error Linear Units (GELUs), 2016, section 2.
    """
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1 + torch.tanh(inner))

# %% mistakes="gelu"
{
    "gelu is the tanh approximation, and the exact form is asked for": (
        "return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))",
        "return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))",
    ),
    "gelu_tanh is the exact form, and the approximation is asked for": (
        "return 0.5 * x * (1 + torch.tanh(inner))",
        "return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))",
    ),
    "the two have changed places": [
        (
            "return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))",
            "return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))",
        ),
        ("return 0.5 * x * (1 + torch.tanh(inner))", "return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))"),
    ],
    "gelu is x * sigmoid(1.702 * x), a coarser approximation": (
        "return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))",
        "return x * torch.sigmoid(1.702 * x)",
    ),
    "gelu_tanh is x * sigmoid(1.702 * x), a coarser approximation": (
        "return 0.5 * x * (1 + torch.tanh(inner))",
        "return x * torch.sigmoid(1.702 * x)",
    ),
    "the division by sqrt(2) inside erf is left out": ("torch.erf(x / math.sqrt(2))", "torch.erf(x)"),
    "x is divided by 2 inside erf, not by its root": ("x / math.sqrt(2)", "x / 2"),
    "x is multiplied by sqrt(2) inside erf": ("x / math.sqrt(2)", "x * math.sqrt(2)"),
    "the factor 1/2 of gelu is left out": ("0.5 * x * (1 + torch.erf(", "x * (1 + torch.erf("),
    "the 1 of gelu is left out, so the result is symmetric": (
        "0.5 * x * (1 + torch.erf(x / math.sqrt(2)))",
        "0.5 * x * torch.erf(x / math.sqrt(2))",
    ),
    "gelu returns the probability alone, without the factor x": ("0.5 * x * (1 + torch.erf(", "0.5 * (1 + torch.erf("),
    "gelu multiplies by the density of the normal distribution, not by the probability": (
        "0.5 * x * (1 + torch.erf(x / math.sqrt(2)))",
        "x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)",
    ),
    "the cubic term of gelu_tanh is left out": (
        "inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)",
        "inner = math.sqrt(2 / math.pi) * x",
    ),
    "the constant of gelu_tanh is 0.44715, not 0.044715": (
        "inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)",
        "inner = math.sqrt(2 / math.pi) * (x + 0.44715 * x**3)",
    ),
    "x squared stands where x cubed belongs": (
        "inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)",
        "inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**2)",
    ),
    "the constant is cubed together with x": (
        "inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)",
        "inner = math.sqrt(2 / math.pi) * (x + (0.044715 * x) ** 3)",
    ),
    "the root of pi / 2 is taken, not that of 2 / pi": ("2 / math.pi", "math.pi / 2"),
    "the root of 2 / pi is not taken": ("math.sqrt(2 / math.pi)", "(2 / math.pi)"),
    "the root of 2 / pi multiplies only x, not the cubic term": (
        "math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)",
        "math.sqrt(2 / math.pi) * x + 0.044715 * x**3",
    ),
    "the tanh is made of exponentials, which are infinity over infinity for large x": (
        "torch.tanh(inner)",
        "(torch.exp(2 * inner) - 1) / (torch.exp(2 * inner) + 1)",
    ),
    "the factor 1/2 of gelu_tanh is left out": (
        "return 0.5 * x * (1 + torch.tanh(inner))",
        "return x * (1 + torch.tanh(inner))",
    ),
    "the gate of gelu is detached, so the gradient lacks the slope of the probability": (
        "torch.erf(x / math.sqrt(2))",
        "torch.erf(x.detach() / math.sqrt(2))",
    ),
    "the gate of gelu_tanh is detached, so the gradient lacks its slope": (
        "torch.tanh(inner)",
        "torch.tanh(inner.detach())",
    ),
}

# %% exercise="FeedForward"
class FeedForward(nn.Module):
    """Two matrices with an activation between them, applied to every token alone.

    Args:
        d_model: features of a token.
        d_ff: hidden units, at least 1; often 4 * d_model.
        activation: "relu", "gelu" (exact), "gelu_tanh" or "silu", which means your function of that name.
        seed: the same seed gives the same first weights, another seed gives others.

    State:
        Four float32 parameters and nothing else: ``w_in`` (d_model, d_ff), ``b_in`` (d_ff,), ``w_out`` (d_ff, d_model)
        and ``b_out`` (d_model,), used as ``x @ w + b``. At first the biases are 0; the entries of the matrices are
        independent with mean 0, and with variance 1 / d_model in w_in and 1 / d_ff in w_out (normal or uniform, as you
        like).

    Raises:
        ValueError: if activation is none of the four names.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.3.
    """

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu_tanh", seed: int = 0):
        super().__init__()
        known = {"relu": relu, "gelu": gelu, "gelu_tanh": gelu_tanh, "silu": silu}
        if activation not in known:
            raise ValueError(f"activation must be one of {sorted(known)}, got {activation!r}")
        self.activation = known[activation]
        generator = torch.Generator().manual_seed(seed)
        self.w_in = nn.Parameter(torch.randn(d_model, d_ff, generator=generator) / math.sqrt(d_model))
        self.b_in = nn.Parameter(torch.zeros(d_ff))
        self.w_out = nn.Parameter(torch.randn(d_ff, d_model, generator=generator) / math.sqrt(d_ff))
        self.b_out = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Expand, activate, contract.

        Args:
            x: (..., d_model) with any number of leading axes, none included; of the parameters' dtype, contiguous or
                not.

        Returns:
            Tensor of x's shape and dtype: activation(x @ w_in + b_in) @ w_out + b_out.
        """
        hidden = self.activation(x @ self.w_in + self.b_in)  # (..., d_model) -> (..., d_ff)
        return hidden @ self.w_out + self.b_out  # (..., d_ff) -> (..., d_model)

    def parameter_gradients(self, x: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(output * direction).sum()`` for every parameter, by name."""
        loss = (self(x) * direction).sum()
        self.zero_grad()
        if loss.requires_grad:
            loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}

# %% mistakes="FeedForward"
{
    "the activation comes after the contraction, so the two matrices collapse into one": [
        ("hidden = self.activation(x @ self.w_in + self.b_in)", "hidden = x @ self.w_in + self.b_in"),
        ("return hidden @ self.w_out + self.b_out", "return self.activation(hidden @ self.w_out + self.b_out)"),
    ],
    "there is no activation at all": (
        "hidden = self.activation(x @ self.w_in + self.b_in)",
        "hidden = x @ self.w_in + self.b_in",
    ),
    "the output is activated as well": (
        "return hidden @ self.w_out + self.b_out",
        "return self.activation(hidden @ self.w_out + self.b_out)",
    ),
    "b_in is added after the activation": (
        "hidden = self.activation(x @ self.w_in + self.b_in)",
        "hidden = self.activation(x @ self.w_in) + self.b_in",
    ),
    "b_in is left out": ("x @ self.w_in + self.b_in", "x @ self.w_in"),
    "b_out is left out": ("return hidden @ self.w_out + self.b_out", "return hidden @ self.w_out"),
    "the biases are subtracted": [
        ("x @ self.w_in + self.b_in", "x @ self.w_in - self.b_in"),
        ("hidden @ self.w_out + self.b_out", "hidden @ self.w_out - self.b_out"),
    ],
    "the activation is ReLU, whatever was asked for": ("known[activation]", 'known["relu"]'),
    "the activation is the tanh GELU, whatever was asked for": ("known[activation]", 'known["gelu_tanh"]'),
    '"gelu_tanh" is taken to mean the exact GELU': ('"gelu_tanh": gelu_tanh', '"gelu_tanh": gelu'),
    '"gelu" is taken to mean the tanh approximation': ('"gelu": gelu,', '"gelu": gelu_tanh,'),
    "the activation is ReLU where it is left out": ('activation: str = "gelu_tanh"', 'activation: str = "relu"'),
    "the activation is the exact GELU where it is left out": (
        'activation: str = "gelu_tanh"',
        'activation: str = "gelu"',
    ),
    "an unknown activation is not refused with a ValueError": [
        ("if activation not in known:", "if False:"),
        ("known[activation]", "known.get(activation, gelu_tanh)"),
    ],
    "the input is added to the output, which is the work of the block around the network": (
        "return hidden @ self.w_out + self.b_out",
        "return x + hidden @ self.w_out + self.b_out",
    ),
    "the hidden values are averaged over the tokens, so every token sees the others": (
        "return hidden @ self.w_out + self.b_out",
        "return hidden.flatten(0, -2).mean(0).expand_as(hidden) @ self.w_out + self.b_out",
    ),
    "the hidden values are normalised with a softmax": (
        "return hidden @ self.w_out + self.b_out",
        "return torch.softmax(hidden, -1) @ self.w_out + self.b_out",
    ),
    "a tenth of the hidden values is dropped at random": (
        "return hidden @ self.w_out",
        "return nn.functional.dropout(hidden, 0.1, True) @ self.w_out",
    ),
    "w_out is the transpose of w_in: the two matrices are tied": ("hidden @ self.w_out", "hidden @ self.w_in.T"),
    "the matrices are stored the way nn.Linear has them and used as x @ w.T": [
        ("torch.randn(d_model, d_ff, generator=generator)", "torch.randn(d_ff, d_model, generator=generator)"),
        (
            "torch.randn(d_ff, d_model, generator=generator) / math.sqrt(d_ff)",
            "torch.randn(d_model, d_ff, generator=generator) / math.sqrt(d_ff)",
        ),
        ("x @ self.w_in", "x @ self.w_in.T"),
        ("hidden @ self.w_out", "hidden @ self.w_out.T"),
    ],
    "both matrices are used as x @ w.T, which goes unnoticed only where d_ff equals d_model": [
        ("x @ self.w_in", "x @ self.w_in.T"),
        ("hidden @ self.w_out", "hidden @ self.w_out.T"),
    ],
    "the matrices are used through .data, so they get no gradient and never learn": [
        ("x @ self.w_in", "x @ self.w_in.data"),
        ("hidden @ self.w_out", "hidden @ self.w_out.data"),
    ],
    "the hidden values are detached, so nothing before them learns": (
        "return hidden @ self.w_out",
        "return hidden.detach() @ self.w_out",
    ),
    "the parameters are plain tensors, so neither the optimiser nor state_dict knows of them": (
        "nn.Parameter(",
        "(",
        "all",
    ),
    "the biases are plain tensors, so they are not saved and not trained": [
        ("nn.Parameter(torch.zeros(d_ff))", "torch.zeros(d_ff)"),
        ("nn.Parameter(torch.zeros(d_model))", "torch.zeros(d_model)"),
    ],
    "the first weights have variance 1": [
        (" / math.sqrt(d_model)", ""),
        (" / math.sqrt(d_ff)", ""),
    ],
    "the variance of the first w_out is 1 / d_model, though it sums over d_ff hidden units": (
        "/ math.sqrt(d_ff)",
        "/ math.sqrt(d_model)",
    ),
    "the variance of the first w_in is 1 / d_ff, though it sums over d_model features": (
        "/ math.sqrt(d_model)",
        "/ math.sqrt(d_ff)",
    ),
    "the first weights have a standard deviation (not a variance) of 1 / d_model and 1 / d_ff": [
        ("/ math.sqrt(d_model)", "/ d_model"),
        ("/ math.sqrt(d_ff)", "/ d_ff"),
    ],
    "the first weights are uniform between 0 and 1, not centred on zero": ("torch.randn(", "torch.rand(", "all"),
    "both matrices restart the generator, so they begin with the same numbers": (
        "generator=generator",
        "generator=torch.Generator().manual_seed(seed)",
        "all",
    ),
    "w_out begins as the transpose of w_in": (
        "torch.randn(d_ff, d_model, generator=generator) / math.sqrt(d_ff)",
        "self.w_in.data.T * math.sqrt(d_model / d_ff)",
    ),
    "the seed is ignored": ("manual_seed(seed)", "manual_seed(0)"),
    "the first biases are random, not zero": [
        ("torch.zeros(d_ff)", "torch.randn(d_ff, generator=generator)"),
        ("torch.zeros(d_model)", "torch.randn(d_model, generator=generator)"),
    ],
}

# %% exercise="SwiGLU"
def swiglu_hidden(d_model: int, multiple_of: int = 256) -> int:
    """The number of hidden units that gives SwiGLU as many parameters as two matrices with 4 * d_model, or more: the rounding.

    Args:
        d_model: features of a token, at least 1.
        multiple_of: the result is a multiple of this number, at least 1.

    Returns:
        The smallest multiple of ``multiple_of`` that is not less than 8 / 3 * d_model. For example 11,008 for
        d_model = 4,096 and multiples of 256. With multiple_of = 1 and d_model = 10 it is 27, because 26 would be less than
        80 / 3 = 26.67.

    Raises:
        ValueError: if d_model or multiple_of is less than 1.

    Source: Touvron et al., LLaMA: Open and Efficient Foundation Language Models, 2023, section 2.2.
    """
    if d_model < 1 or multiple_of < 1:
        raise ValueError(f"d_model and multiple_of must be at least 1, got {d_model} and {multiple_of}")
    steps = math.ceil(8 * d_model / (3 * multiple_of))
    return steps * multiple_of


class SwiGLU(nn.Module):
    """The gated feed-forward network of Llama: three matrices, no biases, applied to every token alone.

    Args:
        d_model: features of a token.
        d_ff: hidden units, at least 1.
        seed: the same seed gives the same first weights, another seed gives others.

    State:
        Three float32 parameters and nothing else: ``w_gate`` and ``w_up``, each (d_model, d_ff), and ``w_down``
        (d_ff, d_model), used as ``x @ w``. At first all entries are independent with mean 0; the variance is
        1 / d_model in w_gate and w_up, and 1 / d_ff in w_down (normal or uniform, as you like).

    Source: Shazeer, GLU Variants Improve Transformer, 2020.
    """

    def __init__(self, d_model: int, d_ff: int, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.w_gate = nn.Parameter(torch.randn(d_model, d_ff, generator=generator) / math.sqrt(d_model))
        self.w_up = nn.Parameter(torch.randn(d_model, d_ff, generator=generator) / math.sqrt(d_model))
        self.w_down = nn.Parameter(torch.randn(d_ff, d_model, generator=generator) / math.sqrt(d_ff))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gate, multiply, contract.

        Args:
            x: (..., d_model) with any number of leading axes, none included; of the parameters' dtype, contiguous or
                not.

        Returns:
            Tensor of x's shape and dtype: (silu(x @ w_gate) * (x @ w_up)) @ w_down.
        """
        gate = silu(x @ self.w_gate)  # (..., d_ff)
        hidden = gate * (x @ self.w_up)  # (..., d_ff)
        return hidden @ self.w_down  # (..., d_model)

    def parameter_gradients(self, x: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(output * direction).sum()`` for every parameter, by name."""
        loss = (self(x) * direction).sum()
        self.zero_grad()
        if loss.requires_grad:
            loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}

# %% mistakes="SwiGLU"
{
    "gate and up have changed places: silu is applied to x @ w_up": [
        ("gate = silu(x @ self.w_gate)", "gate = silu(x @ self.w_up)"),
        ("gate * (x @ self.w_up)", "gate * (x @ self.w_gate)"),
    ],
    "silu is applied to both products": ("gate * (x @ self.w_up)", "gate * silu(x @ self.w_up)"),
    "silu is applied after the multiplication, to the product of gate and up": [
        ("gate = silu(x @ self.w_gate)", "gate = x @ self.w_gate"),
        ("gate * (x @ self.w_up)", "silu(gate * (x @ self.w_up))"),
    ],
    "silu is applied after the contraction": [
        ("gate = silu(x @ self.w_gate)", "gate = x @ self.w_gate"),
        ("return hidden @ self.w_down", "return silu(hidden @ self.w_down)"),
    ],
    "nothing is bent: the gate is x @ w_gate as it is": ("gate = silu(x @ self.w_gate)", "gate = x @ self.w_gate"),
    "the gate is a plain sigmoid, which is the older GLU": (
        "gate = silu(x @ self.w_gate)",
        "gate = torch.sigmoid(x @ self.w_gate)",
    ),
    "the gate is a GELU, which is the variant called GEGLU": (
        "gate = silu(x @ self.w_gate)",
        "gate = gelu(x @ self.w_gate)",
    ),
    "the gate is a ReLU, which is the variant called ReGLU": (
        "gate = silu(x @ self.w_gate)",
        "gate = relu(x @ self.w_gate)",
    ),
    "gate and up are added, not multiplied": ("gate * (x @ self.w_up)", "gate + (x @ self.w_up)"),
    "there is no up-projection: the gate alone is contracted": ("gate * (x @ self.w_up)", "gate"),
    "the gate is multiplied by x @ w_gate again, and w_up is never used": (
        "gate * (x @ self.w_up)",
        "gate * (x @ self.w_gate)",
    ),
    "the input is added to the output, which is the work of the block around the network": (
        "return hidden @ self.w_down",
        "return x + hidden @ self.w_down",
    ),
    "the gate is detached, so w_gate never learns": (
        "gate = silu(x @ self.w_gate)",
        "gate = silu(x @ self.w_gate).detach()",
    ),
    "the matrices are used through .data, so they get no gradient and never learn": [
        ("x @ self.w_gate", "x @ self.w_gate.data"),
        ("x @ self.w_up", "x @ self.w_up.data"),
        ("hidden @ self.w_down", "hidden @ self.w_down.data"),
    ],
    "the matrices are used as x @ w.T, the way nn.Linear stores them": [
        ("x @ self.w_gate", "x @ self.w_gate.T"),
        ("x @ self.w_up", "x @ self.w_up.T"),
        ("hidden @ self.w_down", "hidden @ self.w_down.T"),
    ],
    "the parameters are plain tensors, so neither the optimiser nor state_dict knows of them": (
        "nn.Parameter(",
        "(",
        "all",
    ),
    "w_gate and w_up begin with the same numbers": (
        "self.w_up = nn.Parameter(torch.randn(d_model, d_ff, generator=generator) / math.sqrt(d_model))",
        "self.w_up = nn.Parameter(self.w_gate.data.clone())",
    ),
    "every matrix restarts the generator, so all three begin with the same numbers": (
        "generator=generator",
        "generator=torch.Generator().manual_seed(seed)",
        "all",
    ),
    "the variance of the first w_down is 1 / d_model, though it sums over d_ff hidden units": (
        "/ math.sqrt(d_ff)",
        "/ math.sqrt(d_model)",
    ),
    "the first weights have variance 1": [
        (" / math.sqrt(d_model)", "", "all"),
        (" / math.sqrt(d_ff)", ""),
    ],
    "the first weights have a standard deviation (not a variance) of 1 / d_model and 1 / d_ff": [
        ("/ math.sqrt(d_model)", "/ d_model", "all"),
        ("/ math.sqrt(d_ff)", "/ d_ff"),
    ],
    "the first weights are uniform between 0 and 1, not centred on zero": ("torch.randn(", "torch.rand(", "all"),
    "the seed is ignored": ("manual_seed(seed)", "manual_seed(0)"),
    "the width is 4 * d_model, so the third matrix makes the network half as large again": (
        "8 * d_model / (3 * multiple_of)",
        "4 * d_model / multiple_of",
    ),
    "the width is rounded down, so there are fewer parameters than in the two matrices": (
        "math.ceil(8 * d_model / (3 * multiple_of))",
        "8 * d_model // (3 * multiple_of)",
    ),
    "the width is rounded to the nearest multiple": ("math.ceil(", "round("),
    "a width that is a multiple already is pushed to the next one": (
        "math.ceil(8 * d_model / (3 * multiple_of))",
        "8 * d_model // (3 * multiple_of) + 1",
    ),
    "8 / 3 of d_model is cut down to a whole number before it is rounded up to a multiple": (
        "math.ceil(8 * d_model / (3 * multiple_of))",
        "math.ceil((8 * d_model // 3) / multiple_of)",
    ),
    "the width is not rounded to a multiple at all": (
        "return steps * multiple_of",
        "return math.ceil(8 * d_model / 3)",
    ),
    "the number of steps is returned, not the width": ("return steps * multiple_of", "return steps"),
    "the width is 2 / 3 of d_model: the factor 4 is missing": (
        "8 * d_model / (3 * multiple_of)",
        "2 * d_model / (3 * multiple_of)",
    ),
    "a multiple_of or a d_model below 1 is accepted": [
        ("if d_model < 1 or multiple_of < 1:", "if False:"),
        ("math.ceil(8 * d_model / (3 * multiple_of))", "math.ceil(8 * d_model / (3 * (multiple_of or 1)))"),
    ],
}

# %% exercise="parameter_shares"
def parameter_shares(
    d_model: int,
    d_ff: int,
    n_layers: int,
    vocab_size: int,
    context: int = 0,
    gated: bool = False,
    biases: bool = True,
    tied: bool = True,
) -> dict[str, float]:
    """Which share of a decoder's parameters sits in which part. A parameter is one number, not one tensor.

    The model has a table of tokens (vocab_size, d_model) and a table of positions (context, d_model); n_layers blocks,
    each with two norms, attention and a feed-forward network; one norm after the last block; and an output head, a
    matrix (d_model, vocab_size) without a bias. Attention has four matrices (d_model, d_model). Every norm has a weight
    (d_model,).

    Args:
        d_model, d_ff: features of a token and hidden units.
        n_layers: number of blocks.
        vocab_size: number of tokens in the vocabulary.
        context: rows of the table of positions; 0 for models that have none.
        gated: whether the feed-forward network has three matrices (gate, up, down), not two (in, out).
        biases: whether every norm has a bias (d_model,) too, and every matrix of attention and of the feed-forward
            network has a bias, as long as that product's output.
        tied: whether the head uses the table of tokens, so that its matrix is not counted again.

    Returns:
        A dict with the keys "embeddings" (both tables, and the head if it is not tied), "attention", "feed_forward" and
        "norms"; each value is that part's parameters divided by all of them, so the four values add up to 1.
    """
    attention = 4 * d_model * d_model
    wide = 2 if gated else 1  # matrices that end in d_ff; one more ends in d_model
    feed_forward = (wide + 1) * d_model * d_ff
    norm = d_model
    if biases:
        attention += 4 * d_model
        feed_forward += wide * d_ff + d_model
        norm += d_model
    rows = vocab_size + context if tied else 2 * vocab_size + context
    counts = {
        "embeddings": rows * d_model,
        "attention": n_layers * attention,
        "feed_forward": n_layers * feed_forward,
        "norms": (2 * n_layers + 1) * norm,
    }
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()}

# %% mistakes="parameter_shares"
{
    "a gated network is counted with two matrices": ("wide = 2 if gated else 1", "wide = 1"),
    "every feed-forward network is counted with three matrices": ("wide = 2 if gated else 1", "wide = 2"),
    "the biases of the feed-forward network are all counted as long as d_model": (
        "wide * d_ff + d_model",
        "(wide + 1) * d_model",
    ),
    "the biases of the feed-forward network are all counted as long as d_ff": (
        "wide * d_ff + d_model",
        "(wide + 1) * d_ff",
    ),
    "the gate's bias is forgotten: two products end in d_ff, and one bias of that length is counted": (
        "wide * d_ff + d_model",
        "d_ff + d_model",
    ),
    "only the bias of the first feed-forward matrix is counted": ("wide * d_ff + d_model", "wide * d_ff"),
    "the biases of attention are not counted": ("        attention += 4 * d_model\n", ""),
    "the biases of the norms are not counted": ("        norm += d_model\n", ""),
    "the biases are counted although there are none": ("if biases:", "if True:"),
    "the biases are never counted": ("if biases:", "if False:"),
    "the norm after the last block is forgotten": ("(2 * n_layers + 1) * norm", "2 * n_layers * norm"),
    "one norm is counted in each block, not two": ("(2 * n_layers + 1) * norm", "(n_layers + 1) * norm"),
    "the head is counted although it is tied to the table of tokens": (
        "vocab_size + context if tied else 2 * vocab_size + context",
        "2 * vocab_size + context",
    ),
    "the head is not counted although it is not tied": (
        "vocab_size + context if tied else 2 * vocab_size + context",
        "vocab_size + context",
    ),
    "the table of positions is left out": [
        ("vocab_size + context if tied", "vocab_size if tied"),
        ("else 2 * vocab_size + context", "else 2 * vocab_size"),
    ],
    "the output projection of attention is left out": ("attention = 4 * d_model", "attention = 3 * d_model"),
    "the tables are left out of the sum, so the other shares add up to 1": (
        "total = sum(counts.values())",
        'total = sum(counts.values()) - counts["embeddings"]',
    ),
    "one block is counted, whatever n_layers is": [
        ("n_layers * attention", "attention"),
        ("n_layers * feed_forward", "feed_forward"),
        ("(2 * n_layers + 1) * norm", "3 * norm"),
    ],
    "the hidden width is taken to be 4 * d_model, whatever d_ff is": (
        "feed_forward = (wide + 1) * d_model * d_ff",
        "d_ff = 4 * d_model\n    feed_forward = (wide + 1) * d_model * d_ff",
    ),
    "the numbers of parameters are returned, not their shares": ("count / total for", "count for"),
    "the shares are given in per cent": ("count / total for", "100 * count / total for"),
}
