"""Layer normalisation: the reference. Generated from source_solutions/ch02_block/lab01_layer_norm.py by `course build`; do not edit."""

# %% given
import torch
from torch import nn

# %% exercise="token_statistics"
def token_statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance of every token, taken over its features.

    Args:
        x: tensor of shape (..., d), float32 or float64, contiguous or not. There may be any number of leading axes,
            and none at all: a single token (d,).

    Returns:
        mean and var, both of shape (..., 1) and x's dtype. The variance is the mean of the squared differences from
        the mean: the sum is divided by d, and not by d - 1. Gradients flow through both.

        The variance has to be right for a token far from zero: features around 10,000 with a spread of 1, in float32,
        give a variance within 1% of the true one.

    Source: Ba, Kiros and Hinton, Layer Normalization, 2016, section 3.
    """
    mean = x.mean(dim=-1, keepdim=True)  # (..., 1)
    centred = x - mean  # (..., d)
    var = centred.square().mean(dim=-1, keepdim=True)  # (..., 1)
    return mean, var

# %% mistakes="token_statistics"
{
    "the variance is unbiased: divided by d - 1 and not by d": (
        "centred.square().mean(dim=-1, keepdim=True)",
        "centred.square().sum(dim=-1, keepdim=True) / (x.shape[-1] - 1)",
    ),
    "the mean is taken over the tokens of the sequence and not over the features": [
        ("x.mean(dim=-1, keepdim=True)", "x.mean(dim=max(x.ndim - 2, 0), keepdim=True)"),
        ("square().mean(dim=-1, keepdim=True)", "square().mean(dim=max(x.ndim - 2, 0), keepdim=True)"),
    ],
    "the mean is taken over the first axis, the batch": [
        ("x.mean(dim=-1, keepdim=True)", "x.mean(dim=0, keepdim=True)"),
        ("square().mean(dim=-1, keepdim=True)", "square().mean(dim=0, keepdim=True)"),
    ],
    "all axes go into one mean and one variance, the same for every token": [
        ("x.mean(dim=-1, keepdim=True)", "x.mean().expand(*x.shape[:-1], 1)"),
        ("square().mean(dim=-1, keepdim=True)", "square().mean().expand(*x.shape[:-1], 1)"),
    ],
    "the mean is per token, but the variance is shared by all tokens": (
        "square().mean(dim=-1, keepdim=True)",
        "square().mean().expand(*x.shape[:-1], 1)",
    ),
    "the variance is computed as the mean of the squares minus the square of the mean, which loses its digits far from zero": (
        "var = centred.square().mean(dim=-1, keepdim=True)",
        "var = x.square().mean(dim=-1, keepdim=True) - mean.square()",
    ),
    "the squares are averaged without subtracting the mean first": ("centred = x - mean", "centred = x"),
    "the standard deviation is returned and not the variance": ("return mean, var", "return mean, var.sqrt()"),
    "the mean absolute deviation is taken and not the mean square": (
        "centred.square().mean(",
        "centred.abs().mean(",
    ),
    "the squared differences are added up and not averaged": ("centred.square().mean(", "centred.square().sum("),
    "the features are added up and not averaged, in the mean as in the variance": (".mean(", ".sum(", "all"),
    "the variance comes first and the mean second": ("return mean, var", "return var, mean"),
    "the last axis is gone: the statistics have the shape (...,) and not (..., 1)": (
        "return mean, var",
        "return mean.squeeze(-1), var.squeeze(-1)",
    ),
    "the statistics are repeated for every feature and have the shape of x": (
        "return mean, var",
        "return mean.expand_as(x), var.expand_as(x)",
    ),
    "the statistics are detached, so no gradient flows through them": (
        "return mean, var",
        "return mean.detach(), var.detach()",
    ),
    "the variance alone is detached, so it gets no gradient": ("return mean, var", "return mean, var.detach()"),
    "the median is taken for the mean": (
        "mean = x.mean(dim=-1, keepdim=True)",
        "mean = x.quantile(0.5, dim=-1, keepdim=True)",
    ),
}

# %% exercise="LayerNorm"
class LayerNorm(nn.Module):
    """Normalise the last axis of every token by its own mean and variance, then scale and shift each feature.

    The result is ``(x - mean) / sqrt(var + eps) * weight + bias``, with mean and biased variance as `token_statistics`
    gives them.

    Args:
        d_model: features of a token, at least 1.
        eps: added to the variance, inside the root.
        affine: whether there are a weight and a bias.

    State:
        Two float32 parameters ``weight`` and ``bias``, each of shape (d_model,), at first ones and zeros, and nothing
        else. With ``affine=False`` there is no state at all.

    Source: Ba, Kiros and Hinton, Layer Normalization, 2016, section 3.
    """

    def __init__(self, d_model: int, eps: float = 1e-5, affine: bool = True):
        super().__init__()
        self.d_model, self.eps = d_model, eps
        self.weight = nn.Parameter(torch.ones(d_model)) if affine else None
        self.bias = nn.Parameter(torch.zeros(d_model)) if affine else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise x.

        Args:
            x: (..., d_model), of the parameters' dtype; float32 or float64 where there are no parameters. Any number
                of leading axes, contiguous or not.

        Returns:
            A new tensor of x's shape and dtype; x itself is left as it is. A token whose features are all equal gives
            the bias, if eps is positive.

        Raises:
            ValueError: if the last axis of x does not have d_model features. (Broadcasting would hide some such cases.)
        """
        if x.shape[-1] != self.d_model:
            raise ValueError(f"the last axis of x has {x.shape[-1]} features, it should have {self.d_model}")
        mean, var = token_statistics(x)  # (..., 1), (..., 1)
        normal = (x - mean) / torch.sqrt(var + self.eps)  # (..., d)
        if self.weight is None:
            return normal
        return normal * self.weight + self.bias  # (..., d) * (d,) + (d,)

    def parameter_gradients(self, x: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(output * direction).sum()`` for every parameter, by name."""
        loss = (self(x) * direction).sum()
        self.zero_grad()
        if loss.requires_grad:
            loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}

# %% mistakes="LayerNorm"
{
    "eps is added outside the root": ("torch.sqrt(var + self.eps)", "(torch.sqrt(var) + self.eps)"),
    "eps is left out": ("torch.sqrt(var + self.eps)", "torch.sqrt(var)"),
    "eps is fixed at 1e-5, whatever the argument says": ("self.eps = d_model, eps", "self.eps = d_model, 1e-5"),
    "eps is 1e-6 where it is left out": ("eps: float = 1e-5", "eps: float = 1e-6"),
    "eps is squared before it is added": ("var + self.eps", "var + self.eps**2"),
    "the unbiased variance is used: the sum is divided by d - 1": (
        "torch.sqrt(var + self.eps)",
        "torch.sqrt(var * (x.shape[-1] / max(x.shape[-1] - 1, 1)) + self.eps)",
    ),
    "the tokens of a sequence share their statistics: they are taken over time and not over the features": (
        "mean, var = token_statistics(x)",
        "mean, var = (part.movedim(-1, -2) if x.ndim > 1 else part for part in token_statistics(x.movedim(-1, -2) if x.ndim > 1 else x))",
    ),
    "the statistics are taken over the batch, so sequences change each other": (
        "mean, var = token_statistics(x)",
        "mean, var = (part.movedim(-1, 0) for part in token_statistics(x.movedim(0, -1)))",
    ),
    "time and features are normalised together, so tokens of one sequence change each other": (
        "mean, var = token_statistics(x)",
        "mean, var = (part.unsqueeze(-1) for part in token_statistics(x.flatten(-2))) if x.ndim > 1 else token_statistics(x)",
    ),
    "there is one mean and one variance for the whole input": (
        "mean, var = token_statistics(x)",
        "mean, var = token_statistics(x.flatten())",
    ),
    "the statistics have lost their last axis, and broadcasting lines them up with the features where the shape is square": (
        "mean, var = token_statistics(x)",
        "mean, var = (part.squeeze(-1) for part in token_statistics(x))",
    ),
    "the weight is multiplied before normalising, so its scale is normalised away": [
        (
            "mean, var = token_statistics(x)",
            "x = x if self.weight is None else x * self.weight; mean, var = token_statistics(x)",
        ),
        ("return normal * self.weight + self.bias", "return normal + self.bias"),
    ],
    "weight and bias are both applied before normalising": [
        (
            "mean, var = token_statistics(x)",
            "x = x if self.weight is None else x * self.weight + self.bias; mean, var = token_statistics(x)",
        ),
        ("return normal * self.weight + self.bias", "return normal"),
    ],
    "the bias is added before the weight is multiplied": (
        "return normal * self.weight + self.bias",
        "return (normal + self.bias) * self.weight",
    ),
    "the weight is added to one, as if it began at zero": (
        "return normal * self.weight",
        "return normal * (1 + self.weight)",
    ),
    "the bias is never added": ("return normal * self.weight + self.bias", "return normal * self.weight"),
    "weight and bias are never used": ("return normal * self.weight + self.bias", "return normal"),
    "the mean is not subtracted": ("normal = (x - mean) /", "normal = x /"),
    "x is divided by the variance and not by its root": ("torch.sqrt(var + self.eps)", "(var + self.eps)"),
    "the statistics are detached: the values are right and the gradients are wrong": (
        "token_statistics(x)",
        "token_statistics(x.detach())",
    ),
    "x is overwritten: the norm is computed in place, and the block around it adds a normalised x where the old one belongs": (
        "(x - mean) / torch.sqrt(var + self.eps)",
        "x.sub_(mean).div_(torch.sqrt(var + self.eps))",
    ),
    "the input is added to the result, which is the work of the block around the norm": (
        "return normal * self.weight + self.bias",
        "return x + normal * self.weight + self.bias",
    ),
    "weight and bias are used through .data, so they get no gradient and never learn": (
        "return normal * self.weight + self.bias",
        "return normal * self.weight.data + self.bias.data",
    ),
    "weight and bias are plain tensors, so neither the optimiser nor state_dict knows of them": (
        "nn.Parameter(",
        "(",
        "all",
    ),
    "the first weight is zeros, so every token comes out as the bias": ("torch.ones(d_model)", "torch.zeros(d_model)"),
    "the first bias is ones": ("torch.zeros(d_model)", "torch.ones(d_model)"),
    "there is one weight and one bias for all features": [
        ("torch.ones(d_model)", "torch.ones(1)"),
        ("torch.zeros(d_model)", "torch.zeros(1)"),
    ],
    "affine=False is ignored": (" if affine else None", "", "all"),
    "affine=False still leaves a bias": ("torch.zeros(d_model)) if affine else None", "torch.zeros(d_model))"),
    "a last axis that is not d_model is accepted where it can be broadcast": (
        "if x.shape[-1] != self.d_model:",
        "if x.shape[-1] not in (1, self.d_model):",
    ),
    "nothing is checked, so an x of any width is accepted where there are no parameters": (
        "if x.shape[-1] != self.d_model:",
        "if self.weight is not None and x.shape[-1] != self.d_model:",
    ),
}

# %% exercise="batch_norm"
def batch_norm(x: torch.Tensor, eps: float = 1e-5, real: torch.Tensor | None = None) -> torch.Tensor:
    """Normalise every feature by its mean and biased variance over all real tokens of the batch; no parameters.

    Args:
        x: (B, T, d), float32 or float64, contiguous or not.
        eps: added to the variance, inside the root.
        real: boolean (B, T), True for a token and False for padding; all are real where it is left out.

    Returns:
        Tensor of x's shape and dtype: ``(x - mean) / sqrt(var + eps)`` with a mean (d,) and a variance (d,), the same
        for all sequences and positions. Both are taken over the real tokens only, whatever finite numbers stand in the
        padding. At padding the result is zero; where nothing is real, it is zero everywhere.

    Source: Ioffe and Szegedy, Batch Normalization, 2015, algorithm 1 (without the learned scale and shift).
    """
    if real is None:
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    tokens = x[real]  # (N, d): the real tokens of all sequences, one below the other
    mean = tokens.mean(dim=0)  # (d,)
    var = (tokens - mean).square().mean(dim=0)  # (d,)
    normal = torch.zeros_like(x)
    normal[real] = (tokens - mean) / torch.sqrt(var + eps)
    return normal

# %% mistakes="batch_norm"
{
    "the padding is counted in the mean and in the variance": [
        ("mean = tokens.mean(dim=0)", "mean = x.mean(dim=(0, 1))"),
        ("var = (tokens - mean).square().mean(dim=0)", "var = (x - mean).square().mean(dim=(0, 1))"),
    ],
    "the padding is set to zero, but it still counts in the mean and in the variance": [
        ("tokens = x[real]", "tokens = (x * real.unsqueeze(-1)).flatten(0, 1)"),
        ("normal[real] = (tokens - mean) /", "normal[real] = (x[real] - mean) /"),
    ],
    "the sums are taken over the real tokens and divided by the number of all tokens": [
        ("tokens.mean(dim=0)", "tokens.sum(dim=0) / real.numel()"),
        ("(tokens - mean).square().mean(dim=0)", "(tokens - mean).square().sum(dim=0) / real.numel()"),
    ],
    "the padding is kept out of the mean but not out of the variance": (
        "var = (tokens - mean).square().mean(dim=0)",
        "var = (x - mean).square().mean(dim=(0, 1))",
    ),
    "real is ignored: everything is normalised, padding too": ("if real is None:", "if True:"),
    "real is inverted: True is taken for padding": (
        "tokens = x[real]",
        "real = ~real if not real.all() else real; tokens = x[real]",
    ),
    "the result at padding is not zero": (
        "    return normal",
        "    return (x - mean) / torch.sqrt(var + eps)",
    ),
    "the result at padding is what stood there before": (
        "normal = torch.zeros_like(x)",
        "normal = x.clone()",
    ),
    "every token is normalised by itself, which is layer norm": [
        ("tokens.mean(dim=0)", "tokens.mean(dim=1, keepdim=True)"),
        ("square().mean(dim=0)", "square().mean(dim=1, keepdim=True)"),
    ],
    "every sequence is normalised by itself: the batch is left out of the statistics": (
        "    tokens = x[real]",
        "    if len(x) > 1:\n        return torch.cat([batch_norm(x[b : b + 1], eps, real[b : b + 1]) for b in range(len(x))])\n    tokens = x[real]",
    ),
    "every position is normalised by itself: time is left out of the statistics": (
        "    tokens = x[real]",
        "    if x.shape[1] > 1:\n        return torch.cat([batch_norm(x[:, t : t + 1], eps, real[:, t : t + 1]) for t in range(x.shape[1])], dim=1)\n    tokens = x[real]",
    ),
    "there is one mean and one variance for all features together": [
        ("tokens.mean(dim=0)", "tokens.mean()"),
        ("square().mean(dim=0)", "square().mean()"),
    ],
    "the variance is unbiased": (
        "(tokens - mean).square().mean(dim=0)",
        "(tokens - mean).square().sum(dim=0) / (len(tokens) - 1)",
    ),
    "eps is added outside the root": ("torch.sqrt(var + eps)", "(torch.sqrt(var) + eps)"),
    "eps is left out": ("torch.sqrt(var + eps)", "torch.sqrt(var)"),
    "x is divided by the variance and not by its root": ("torch.sqrt(var + eps)", "(var + eps)"),
    "the mean is not subtracted": ("normal[real] = (tokens - mean) /", "normal[real] = tokens /"),
    "the statistics are detached: the values are right and the gradients are wrong": (
        "normal[real] = (tokens - mean) / torch.sqrt(var + eps)",
        "normal[real] = (tokens - mean.detach()) / torch.sqrt(var.detach() + eps)",
    ),
    "a batch without a real token gives NaN": (
        "    return normal",
        "    return normal + 0.0 * mean if not real.any() else normal",
    ),
}

# %% exercise="influence"
def influence(norm: str, x: torch.Tensor, sequence: int, token: int, eps: float = 1e-5) -> torch.Tensor:
    """How strongly the normalised token ``[sequence, token]`` depends on each token of x.

    Args:
        norm: "layer" (your LayerNorm without parameters) or "batch" (your batch_norm, every token real).
        x: (B, T, d), float32 or float64.
        sequence, token: whose output is asked about, from 0.
        eps: passed on to the norm.

    Returns:
        Tensor (B, T) of x's dtype without a gradient of its own. Entry [b, t] is the square root of the sum of
        the squares of all d * d derivatives of ``y[sequence, token, i]`` for ``x[b, t, j]``, where y is the normalised x.

    Raises:
        ValueError: if norm is neither "layer" nor "batch".
    """
    if norm not in ("layer", "batch"):
        raise ValueError(f'norm must be "layer" or "batch", got {norm!r}')
    x = x.detach().clone().requires_grad_()
    y = LayerNorm(x.shape[-1], eps, affine=False)(x) if norm == "layer" else batch_norm(x, eps)
    squares = torch.zeros(x.shape[:2], dtype=x.dtype)  # (B, T)
    for feature in y[sequence, token]:  # d numbers
        (gradient,) = torch.autograd.grad(feature, x, retain_graph=True)  # (B, T, d)
        squares += gradient.square().sum(dim=-1)
    return squares.sqrt()

# %% mistakes="influence"
{
    "the features are added up before the gradient is taken, and for a layer norm that sum is always zero": (
        "for feature in y[sequence, token]:",
        "for feature in [y[sequence, token].sum()]:",
    ),
    "the root is left out: squares are returned": ("return squares.sqrt()", "return squares"),
    "the derivatives are added up with their signs and not squared": [
        ("gradient.square().sum(dim=-1)", "gradient.sum(dim=-1)"),
        ("return squares.sqrt()", "return squares"),
    ],
    "the absolute derivatives are added up and not the squares": [
        ("gradient.square().sum(dim=-1)", "gradient.abs().sum(dim=-1)"),
        ("return squares.sqrt()", "return squares"),
    ],
    "the squares are averaged over the features, and they should be added up": (
        "gradient.square().sum(dim=-1)",
        "gradient.square().mean(dim=-1)",
    ),
    "only the last feature of the output is asked about": ("squares += gradient", "squares = gradient"),
    "the features of the input are kept apart: the result has the shape (B, T, d)": [
        ("torch.zeros(x.shape[:2], dtype=x.dtype)", "torch.zeros_like(x)"),
        ("squares += gradient.square().sum(dim=-1)", "squares = squares.detach() + gradient.square()"),
    ],
    "the derivatives are those of all tokens' outputs, not of one": (
        "for feature in y[sequence, token]:",
        "for feature in y.flatten():",
    ),
    "the output is taken from the right token of the first sequence": ("y[sequence, token]", "y[0, token]"),
    "the output is taken from the first token of the right sequence": ("y[sequence, token]", "y[sequence, 0]"),
    "sequence and token have changed places": ("y[sequence, token]", "y[token, sequence]"),
    "it is layer norm whatever was asked for": ('if norm == "layer" else batch_norm(x, eps)', ""),
    "it is batch norm whatever was asked for": (
        'LayerNorm(x.shape[-1], eps, affine=False)(x) if norm == "layer" else batch_norm(x, eps)',
        "batch_norm(x, eps)",
    ),
    "the two norms have changed places": ('norm == "layer"', 'norm == "batch"'),
    "eps is not passed on to the layer norm": (
        "LayerNorm(x.shape[-1], eps, affine=False)",
        "LayerNorm(x.shape[-1], affine=False)",
    ),
    "eps is not passed on to the batch norm": ("batch_norm(x, eps)", "batch_norm(x)"),
    "eps is passed on to neither norm": [
        ("LayerNorm(x.shape[-1], eps, affine=False)", "LayerNorm(x.shape[-1], affine=False)"),
        ("batch_norm(x, eps)", "batch_norm(x)"),
    ],
    "a norm that is not known is taken for batch norm": ('if norm not in ("layer", "batch"):', "if False:"),
    "the influences are scaled to sum to one": (
        "return squares.sqrt()",
        "return squares.sqrt() / squares.sqrt().sum()",
    ),
}

# %% exercise="layer_norm_backward"
def layer_norm_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-5
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of a layer norm, computed without autograd.

    Args:
        grad: (..., d), the gradient of the loss for the layer's output; contiguous or not.
        x: (..., d), the layer's input, float32 or float64. Any number of leading axes, and none at all.
        weight: (d,), the layer's weight. (The bias does not matter.)
        eps: as in the layer.

    Returns:
        grad_x of x's shape, grad_weight (d,) and grad_bias (d,), all of x's dtype: the gradients of the loss for x, for
        the weight and for the bias. They equal those of autograd.
    """
    mean, var = token_statistics(x)
    scale = 1 / torch.sqrt(var + eps)  # (..., 1)
    normal = (x - mean) * scale  # (..., d)
    arriving = grad * weight  # (..., d): the gradient for `normal`
    shift = arriving.mean(dim=-1, keepdim=True)  # (..., 1): what a shift of all features would change
    loudness = (arriving * normal).mean(dim=-1, keepdim=True)  # (..., 1): what a louder token would change
    grad_x = scale * (arriving - shift - normal * loudness)
    d = x.shape[-1]
    grad_weight = (grad * normal).reshape(-1, d).sum(dim=0)  # (d,)
    grad_bias = grad.reshape(-1, d).sum(dim=0)  # (d,)
    return grad_x, grad_weight, grad_bias

# %% mistakes="layer_norm_backward"
{
    "the mean of g is forgotten: the gradient pushes all features up together, and the mean takes that away again": (
        "(arriving - shift - normal * loudness)",
        "(arriving - normal * loudness)",
    ),
    "the mean of g times the normalised token is forgotten: the gradient makes the token louder, and the root takes that away again": (
        "(arriving - shift - normal * loudness)",
        "(arriving - shift)",
    ),
    "mean and variance are taken for constants: both mean terms are forgotten": (
        "(arriving - shift - normal * loudness)",
        "arriving",
    ),
    "the second mean is subtracted without the normalised token in front of it": (
        "normal * loudness)",
        "loudness)",
    ),
    "the second mean is multiplied by x and not by the normalised token": ("normal * loudness)", "x * loudness)"),
    "the second mean is added and not subtracted": ("- normal * loudness", "+ normal * loudness"),
    "the second mean is that of g times x": ("(arriving * normal).mean", "(arriving * x).mean"),
    "the features are added up where the means belong": (
        ".mean(dim=-1, keepdim=True)",
        ".sum(dim=-1, keepdim=True)",
        "all",
    ),
    "the means run over all tokens and not over the features of one": (
        ".mean(dim=-1, keepdim=True)",
        ".mean()",
        "all",
    ),
    "the weight is left out of grad_x": ("arriving = grad * weight", "arriving = grad"),
    "the weight is multiplied last, after the means have been subtracted": [
        ("arriving = grad * weight", "arriving = grad"),
        ("grad_x = scale * (", "grad_x = weight * scale * ("),
    ],
    "grad_x is not divided by the standard deviation": ("grad_x = scale * (", "grad_x = ("),
    "grad_x is multiplied by the standard deviation": ("grad_x = scale * (", "grad_x = 1 / scale * ("),
    "grad_x is divided by the variance": ("grad_x = scale * (", "grad_x = scale * scale * ("),
    "eps is left out": ("torch.sqrt(var + eps)", "torch.sqrt(var)"),
    "eps is added outside the root": ("torch.sqrt(var + eps)", "(torch.sqrt(var) + eps)"),
    "eps is 1e-6 where it is left out": ("eps: float = 1e-5", "eps: float = 1e-6"),
    "the unbiased variance is used": (
        "torch.sqrt(var + eps)",
        "torch.sqrt(var * x.shape[-1] / (x.shape[-1] - 1) + eps)",
    ),
    "grad_weight is averaged over the tokens and not summed": (
        "(grad * normal).reshape(-1, d).sum(dim=0)",
        "(grad * normal).reshape(-1, d).mean(dim=0)",
    ),
    "grad_weight and grad_bias are both averaged over the tokens and not summed": (
        ".sum(dim=0)",
        ".mean(dim=0)",
        "all",
    ),
    "grad_weight and grad_bias are summed over the tokens of a sequence but not over the batch": (
        ".reshape(-1, d).sum(dim=0)",
        ".reshape(-1, *x.shape[-2:]).sum(dim=-2)",
        "all",
    ),
    "grad_weight and grad_bias are summed over the batch but not over the tokens of a sequence": (
        ".reshape(-1, d).sum(dim=0)",
        ".reshape(-1, *x.shape[-2:]).sum(dim=0)",
        "all",
    ),
    "grad_weight is not summed at all: it has the shape of x": (
        "(grad * normal).reshape(-1, d).sum(dim=0)",
        "grad * normal",
    ),
    "grad_weight takes x and not the normalised token": ("(grad * normal).reshape", "(grad * x).reshape"),
    "grad_weight takes the token with its mean subtracted but not divided by the root": (
        "(grad * normal).reshape",
        "(grad * (x - mean)).reshape",
    ),
    "grad_weight has the weight in it": ("(grad * normal).reshape", "(arriving * normal).reshape"),
    "grad_bias has the weight in it": ("grad_bias = grad.reshape", "grad_bias = arriving.reshape"),
    "grad_weight and grad_bias have changed places": (
        "return grad_x, grad_weight, grad_bias",
        "return grad_x, grad_bias, grad_weight",
    ),
}
