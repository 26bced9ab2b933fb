"""The Transformer block: the reference. Generated from source_solutions/ch02_block/lab04_transformer_block.py by `course build`; do not edit."""

# %% given
import math
from itertools import pairwise

import torch
from torch import nn

from coursekit import carry

# attention(q, k, v, mask=None) -> (output, weights)
# True in the mask means: may look; a row that may look at nothing gives zeros
attention = carry("ch01/lab01", "attention")
# split_heads(x, n_heads): (B, T, d_model) -> (B, H, T, d_k), and merge_heads(x) back
split_heads = carry("ch01/lab03", "split_heads")
merge_heads = carry("ch01/lab03", "merge_heads")
# LayerNorm(d_model, eps=1e-5): weight, bias
LayerNorm = carry("ch02/lab01", "LayerNorm")
# FeedForward(d_model, d_ff, activation="gelu_tanh", seed=0): w_in, b_in, w_out, b_out
FeedForward = carry("ch02/lab03", "FeedForward")

# %% given
from dataclasses import dataclass


@dataclass(frozen=True)
class BlockConfig:
    """The settings of a block.

    Attributes:
        d_model: features of a token.
        n_heads: heads of the attention, a divisor of d_model.
        d_ff: features inside the feed-forward network.
        norm_first: True for pre-norm, False for post-norm.
        activation: "relu", "gelu", "gelu_tanh" or "silu".
        dropout: the probability that a number of an update is dropped in training, at least 0 and below 1.
        eps: what layer normalisation adds to the variance.
        seed: decides the first weights.
    """

    d_model: int
    n_heads: int
    d_ff: int
    norm_first: bool = True
    activation: str = "gelu_tanh"
    dropout: float = 0.0
    eps: float = 1e-5
    seed: int = 0

# %% exercise="CausalSelfAttention"
class CausalSelfAttention(nn.Module):
    """Multi-head self-attention with biases, in which no token looks at a later one.

    Args:
        d_model: features of a token.
        n_heads: number of heads H, a positive divisor of d_model.
        seed: the same seed gives the same first weights, another seed gives others.

    State:
        Eight float32 parameters and nothing else, no buffers either: ``w_q``, ``w_k``, ``w_v``, ``w_o`` of shape
        (d_model, d_model), used as ``x @ w``, and ``b_q``, ``b_k``, ``b_v``, ``b_o`` of shape (d_model,), each added
        after the product with the matrix of the same letter. Head h owns the columns from h * d_k up to (h + 1) * d_k of
        w_q, w_k and w_v, as in Lab 1.3. At first the entries of the matrices are independent, with mean 0 and variance
        1 / d_model (normal or uniform), and the biases are 0.

    Raises:
        ValueError: if n_heads is less than 1 or does not divide d_model.

    Source: Radford et al., Language Models are Unsupervised Multitask Learners, 2019 (GPT-2), and its published code.
    """

    def __init__(self, d_model: int, n_heads: int, seed: int = 0):
        super().__init__()
        if n_heads < 1 or d_model % n_heads != 0:
            raise ValueError(f"n_heads must be a positive divisor of d_model={d_model}, got {n_heads}")
        self.n_heads = n_heads
        generator = torch.Generator().manual_seed(seed)
        spread = 1 / math.sqrt(d_model)  # a standard deviation: the variance is 1 / d_model
        self.w_q = nn.Parameter(spread * torch.randn(d_model, d_model, generator=generator))
        self.w_k = nn.Parameter(spread * torch.randn(d_model, d_model, generator=generator))
        self.w_v = nn.Parameter(spread * torch.randn(d_model, d_model, generator=generator))
        self.w_o = nn.Parameter(spread * torch.randn(d_model, d_model, generator=generator))
        self.b_q = nn.Parameter(torch.zeros(d_model))
        self.b_k = nn.Parameter(torch.zeros(d_model))
        self.b_v = nn.Parameter(torch.zeros(d_model))
        self.b_o = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Let every token look at itself and at those before it.

        Args:
            x: (B, T, d_model), of the parameters' dtype.
            mask: boolean, True where a token may look, of shape (T, T), or (B, T, T), one for each sequence, or with
                four axes that broadcast to (B, H, T, T). It comes on top of the causal rule: it can forbid more, and
                allow nothing that is forbidden already. None forbids nothing more.

        Returns:
            (B, T, d_model). For a token that may look at nothing the heads give zeros, so the result is b_o.
        """
        length = x.shape[1]
        allowed = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        if mask is not None:
            if mask.ndim == 3:
                mask = mask.unsqueeze(1)  # (B, T, T) -> (B, 1, T, T)
            allowed = allowed & mask
        q = split_heads(x @ self.w_q + self.b_q, self.n_heads)  # (B, T, d_model) -> (B, H, T, d_k)
        k = split_heads(x @ self.w_k + self.b_k, self.n_heads)
        v = split_heads(x @ self.w_v + self.b_v, self.n_heads)
        heads, _ = attention(q, k, v, allowed)  # (B, H, T, d_k)
        return merge_heads(heads) @ self.w_o + self.b_o  # (B, T, d_model)

    def parameter_gradients(self, x: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(output * direction).sum()`` for every parameter, by name."""
        loss = (self(x) * direction).sum()
        self.zero_grad()
        if loss.requires_grad:
            loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}

# %% mistakes="CausalSelfAttention"
{
    "there is no causal mask, so every token sees the whole future: the training loss looks wonderful": (
        "device=x.device).tril()",
        "device=x.device)",
    ),
    "the triangle is one too wide, so each token sees its successor, the very one it is to predict": (
        ".tril()",
        ".tril(1)",
    ),
    "the triangle is strict, so a token does not see itself": (".tril()", ".tril(-1)"),
    "the triangle lies on the wrong side: a token sees itself and the future": (".tril()", ".triu()"),
    "a mask takes the place of the causal rule, and it should come on top": (
        "allowed = allowed & mask",
        "allowed = mask",
    ),
    "mask and causal rule are joined by `or`, so each allows what the other forbids": (
        "allowed = allowed & mask",
        "allowed = allowed | mask",
    ),
    "the mask is ignored": ("allowed = allowed & mask", "allowed = allowed"),
    "the mask is inverted: True is taken to mean that looking is forbidden": ("allowed & mask", "allowed & ~mask"),
    "a mask (B, T, T) is lined up with the heads and not with the sequences": (
        "mask = mask.unsqueeze(1)",
        "mask = mask",
    ),
    "the bias b_q is never added": (" + self.b_q", ""),
    "the bias b_v is never added": (" + self.b_v", ""),
    "the bias b_o is never added": (" + self.b_o", ""),
    "no bias is added at all": [(" + self.b_q", ""), (" + self.b_k", ""), (" + self.b_v", ""), (" + self.b_o", "")],
    "b_o is added before the product with w_o": (
        "merge_heads(heads) @ self.w_o + self.b_o",
        "(merge_heads(heads) + self.b_o) @ self.w_o",
    ),
    "the biases are added to x, before the products": [
        ("x @ self.w_q + self.b_q", "(x + self.b_q) @ self.w_q"),
        ("x @ self.w_k + self.b_k", "(x + self.b_k) @ self.w_k"),
        ("x @ self.w_v + self.b_v", "(x + self.b_v) @ self.w_v"),
    ],
    "there is no output projection": (" @ self.w_o", ""),
    "the scores are divided by sqrt(d_model) and not by sqrt(d_k)": (
        "attention(q, k, v, allowed)",
        "attention(q / math.sqrt(self.n_heads), k, v, allowed)",
    ),
    "the scores are scaled twice: once here and once in attention": (
        "attention(q, k, v, allowed)",
        "attention(q / math.sqrt(q.shape[-1]), k, v, allowed)",
    ),
    "the causal mask is made once, at the length of the first input, and kept for all that follow": (
        "allowed = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()",
        "self.kept = getattr(self, 'kept', torch.ones(length, length, dtype=torch.bool).tril()); allowed = self.kept",
    ),
    "there is one softmax for all heads together: the split is left out": [
        ("q = split_heads(x @ self.w_q + self.b_q, self.n_heads)", "q = split_heads(x @ self.w_q + self.b_q, 1)"),
        ("k = split_heads(x @ self.w_k + self.b_k, self.n_heads)", "k = split_heads(x @ self.w_k + self.b_k, 1)"),
        ("v = split_heads(x @ self.w_v + self.b_v, self.n_heads)", "v = split_heads(x @ self.w_v + self.b_v, 1)"),
        ("attention(q, k, v, allowed)", "attention(q, k, v, allowed if allowed.ndim == 2 else allowed[:, :1])"),
    ],
    "the heads are merged with a reshape alone": ("merge_heads(heads)", "heads.reshape(x.shape)"),
    "the matrices are used as x @ w.T, the way nn.Linear stores them": [
        ("x @ self.w_q", "x @ self.w_q.T"),
        ("x @ self.w_k", "x @ self.w_k.T"),
        ("x @ self.w_v", "x @ self.w_v.T"),
        ("@ self.w_o +", "@ self.w_o.T +"),
    ],
    "the keys are projected with w_q": ("x @ self.w_k", "x @ self.w_q"),
    "the values are projected with w_k": ("x @ self.w_v", "x @ self.w_k"),
    "the queries and the keys have changed places": ("attention(q, k, v, allowed)", "attention(k, q, v, allowed)"),
    "the input is added to the output, which is the work of the block around the attention": (
        "return merge_heads",
        "return x + merge_heads",
    ),
    "the matrices are used through .data, so they get no gradient and never learn": [
        ("@ self.w_q +", "@ self.w_q.data +"),
        ("@ self.w_k +", "@ self.w_k.data +"),
        ("@ self.w_v +", "@ self.w_v.data +"),
        ("@ self.w_o +", "@ self.w_o.data +"),
    ],
    "a softmax of your own gives NaN for a token that may look at nothing": (
        "heads, _ = attention(q, k, v, allowed)",
        "heads = torch.softmax((q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~allowed, -math.inf), -1) @ v",
    ),
    "a softmax of your own puts -1e9 where -inf belongs, so a token that may look at nothing sees everything": (
        "heads, _ = attention(q, k, v, allowed)",
        "heads = torch.softmax((q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~allowed, -1e9), -1) @ v",
    ),
    "forward returns the weights beside the output": (
        "return merge_heads(heads) @ self.w_o + self.b_o",
        "return merge_heads(heads) @ self.w_o + self.b_o, _",
    ),
    "the causal mask is a registered buffer, so it is part of the state and has a largest length": [
        (
            "        self.n_heads = n_heads",
            "        self.n_heads = n_heads; self.register_buffer('causal', torch.ones(1024, 1024).tril())",
        ),
    ],
    "the biases are plain tensors, so neither the optimiser nor state_dict knows of them": (
        "nn.Parameter(torch.zeros(d_model))",
        "torch.zeros(d_model)",
        "all",
    ),
    "the matrices are plain tensors, so neither the optimiser nor state_dict knows of them": (
        "nn.Parameter(spread * torch.randn(d_model, d_model, generator=generator))",
        "spread * torch.randn(d_model, d_model, generator=generator)",
        "all",
    ),
    "the biases begin as ones": ("torch.zeros(d_model)", "torch.ones(d_model)", "all"),
    "the biases begin as random numbers": (
        "torch.zeros(d_model)",
        "spread * torch.randn(d_model, generator=generator)",
        "all",
    ),
    "the first weights have variance 1": ("spread = 1 / math.sqrt(d_model)", "spread = 1.0"),
    "the first weights have variance 1 / d_k": (
        "spread = 1 / math.sqrt(d_model)",
        "spread = 1 / math.sqrt(d_model // n_heads)",
    ),
    "the first weights have a standard deviation (not a variance) of 1 / d_model": (
        "spread = 1 / math.sqrt(d_model)",
        "spread = 1 / d_model",
    ),
    "every matrix restarts the generator, so all four begin equal": (
        "generator=generator",
        "generator=torch.Generator().manual_seed(seed)",
        "all",
    ),
    "the seed is ignored": ("torch.Generator().manual_seed(seed)", "torch.Generator().manual_seed(0)"),
    "an n_heads that does not divide d_model is accepted": (
        "if n_heads < 1 or d_model % n_heads != 0:",
        "if n_heads < 1:",
    ),
}

# %% exercise="Block"
class Block(nn.Module):
    """A causal Transformer block: attention and a feed-forward network around one stream.

    Args:
        config: a `BlockConfig`.

    State:
        The four submodules ``norm_1``, ``attention``, ``norm_2``, ``feed_forward``: a `LayerNorm`, a
        `CausalSelfAttention`, another `LayerNorm` and a `FeedForward`, with the sizes, eps and activation of the config,
        and no other parameters or buffers. norm_1 goes with the attention, norm_2 with the feed-forward network.

        The seed decides all first weights. The parts of a block are independent: attention and feed-forward network
        have different seeds, and no part of a block has the seed of a part of a block with another seed.

    Source: Vaswani et al., Attention Is All You Need, 2017 (post-norm); Radford et al., Language Models are Unsupervised
    Multitask Learners, 2019 (pre-norm).
    """

    def __init__(self, config: BlockConfig):
        super().__init__()
        self.norm_first, self.dropout = config.norm_first, config.dropout
        self.norm_1 = LayerNorm(config.d_model, config.eps)
        self.attention = CausalSelfAttention(config.d_model, config.n_heads, seed=2 * config.seed)
        self.norm_2 = LayerNorm(config.d_model, config.eps)
        self.feed_forward = FeedForward(config.d_model, config.d_ff, config.activation, seed=2 * config.seed + 1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """One pass of the stream through the block. x itself is not changed.

        With norm_first each part reads the normalised stream, and its update is added to the stream itself. Without, each
        part reads the stream as it is, and the sum of stream and update is normalised. The feed-forward network reads
        what the attention has written. In training mode dropout acts on each of the two updates, with random numbers of
        its own for every number of the update (from PyTorch's global generator); in evaluation mode there is none.

        Args:
            x: (B, T, d_model), of the parameters' dtype.
            mask: as in `CausalSelfAttention.forward`.

        Returns:
            (B, T, d_model).
        """
        if self.norm_first:
            x = x + self._drop(self.attention(self.norm_1(x), mask))
            return x + self._drop(self.feed_forward(self.norm_2(x)))
        x = self.norm_1(x + self._drop(self.attention(x, mask)))
        return self.norm_2(x + self._drop(self.feed_forward(x)))

    def _drop(self, update: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(update, self.dropout, self.training)

    def parameter_gradients(self, x: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(output * direction).sum()`` for every parameter, by name."""
        loss = (self(x) * direction).sum()
        self.zero_grad()
        if loss.requires_grad:
            loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}

# %% mistakes="Block"
{
    "dropout is left on in evaluation mode": ("self.dropout, self.training)", "self.dropout, True)"),
    "the normalised stream takes the place of the stream: updates are added to norm(x) and not to x": [
        (
            "x = x + self._drop(self.attention(self.norm_1(x), mask))",
            "x = self.norm_1(x); x = x + self._drop(self.attention(x, mask))",
        ),
        (
            "return x + self._drop(self.feed_forward(self.norm_2(x)))",
            "x = self.norm_2(x); return x + self._drop(self.feed_forward(x))",
        ),
    ],
    "the final residual is missing: the feed-forward network replaces the stream": [
        (
            "return x + self._drop(self.feed_forward(self.norm_2(x)))",
            "return self._drop(self.feed_forward(self.norm_2(x)))",
        ),
        (
            "return self.norm_2(x + self._drop(self.feed_forward(x)))",
            "return self.norm_2(self._drop(self.feed_forward(x)))",
        ),
    ],
    "the first residual is missing: the attention replaces the stream": [
        (
            "x = x + self._drop(self.attention(self.norm_1(x), mask))",
            "x = self._drop(self.attention(self.norm_1(x), mask))",
        ),
        (
            "x = self.norm_1(x + self._drop(self.attention(x, mask)))",
            "x = self.norm_1(self._drop(self.attention(x, mask)))",
        ),
    ],
    "there is no residual connection at all": [
        (
            "x = x + self._drop(self.attention(self.norm_1(x), mask))",
            "x = self._drop(self.attention(self.norm_1(x), mask))",
        ),
        (
            "x = self.norm_1(x + self._drop(self.attention(x, mask)))",
            "x = self.norm_1(self._drop(self.attention(x, mask)))",
        ),
        (
            "return x + self._drop(self.feed_forward(self.norm_2(x)))",
            "return self._drop(self.feed_forward(self.norm_2(x)))",
        ),
        (
            "return self.norm_2(x + self._drop(self.feed_forward(x)))",
            "return self.norm_2(self._drop(self.feed_forward(x)))",
        ),
    ],
    "the setting norm_first is ignored: the block is always pre-norm": ("if self.norm_first:", "if True:"),
    "the setting norm_first is ignored: the block is always post-norm": ("if self.norm_first:", "if False:"),
    "the setting norm_first is read the wrong way round": ("if self.norm_first:", "if not self.norm_first:"),
    "in pre-norm the sum is normalised as well, after the update is added": [
        (
            "x = x + self._drop(self.attention(self.norm_1(x), mask))",
            "x = self.norm_1(x + self._drop(self.attention(self.norm_1(x), mask)))",
        ),
        (
            "return x + self._drop(self.feed_forward(self.norm_2(x)))",
            "return self.norm_2(x + self._drop(self.feed_forward(self.norm_2(x))))",
        ),
    ],
    "in post-norm only the update is normalised, and then added": [
        (
            "x = self.norm_1(x + self._drop(self.attention(x, mask)))",
            "x = x + self.norm_1(self._drop(self.attention(x, mask)))",
        ),
        (
            "return self.norm_2(x + self._drop(self.feed_forward(x)))",
            "return x + self.norm_2(self._drop(self.feed_forward(x)))",
        ),
    ],
    "in post-norm the second norm is missing": (
        "return self.norm_2(x + self._drop(self.feed_forward(x)))",
        "return x + self._drop(self.feed_forward(x))",
    ),
    "the two norms are one and the same module, so they share their weights": (
        "self.norm_2 = LayerNorm(config.d_model, config.eps)",
        "self.norm_2 = self.norm_1",
    ),
    "norm_1 is used in both places, and norm_2 never": ("self.norm_2(", "self.norm_1(", "all"),
    "the two norms have changed places": [
        ("self.norm_1(", "self.norm_0(", "all"),
        ("self.norm_2(", "self.norm_1(", "all"),
        ("self.norm_0(", "self.norm_2(", "all"),
    ],
    "the feed-forward network reads the stream from before the attention (a parallel block)": [
        (
            "            x = x + self._drop(self.attention(self.norm_1(x), mask))",
            "            first = x; x = x + self._drop(self.attention(self.norm_1(x), mask))",
        ),
        ("self.feed_forward(self.norm_2(x))", "self.feed_forward(self.norm_2(first))"),
    ],
    "the feed-forward network comes before the attention": [
        (
            "            x = x + self._drop(self.attention(self.norm_1(x), mask))\n            return x + self._drop(self.feed_forward(self.norm_2(x)))",
            "            x = x + self._drop(self.feed_forward(self.norm_2(x)))\n            return x + self._drop(self.attention(self.norm_1(x), mask))",
        ),
        (
            "        x = self.norm_1(x + self._drop(self.attention(x, mask)))\n        return self.norm_2(x + self._drop(self.feed_forward(x)))",
            "        x = self.norm_2(x + self._drop(self.feed_forward(x)))\n        return self.norm_1(x + self._drop(self.attention(x, mask)))",
        ),
    ],
    "the mask never reaches the attention": (", mask))", "))", "all"),
    "there is no dropout": ("return nn.functional.dropout(update, self.dropout, self.training)", "return update"),
    "dropout acts in evaluation mode only": ("self.training)", "not self.training)"),
    "dropout takes the rate for the share that is kept": (
        "nn.functional.dropout(update, self.dropout, self.training)",
        "nn.functional.dropout(update, 1 - self.dropout if self.dropout else 0.0, self.training)",
    ),
    "what dropout keeps is not scaled up by 1 / (1 - dropout)": (
        "return nn.functional.dropout(update, self.dropout, self.training)",
        "return nn.functional.dropout(update, self.dropout, self.training) * (1 - self.dropout if self.training else 1)",
    ),
    "what dropout keeps is not scaled up, and the updates are scaled down in evaluation mode": (
        "return nn.functional.dropout(update, self.dropout, self.training)",
        "return nn.functional.dropout(update, self.dropout, self.training) * (1 - self.dropout)",
    ),
    "dropout acts on the stream, after the update has been added": [
        (
            "x = x + self._drop(self.attention(self.norm_1(x), mask))",
            "x = self._drop(x + self.attention(self.norm_1(x), mask))",
        ),
        (
            "return x + self._drop(self.feed_forward(self.norm_2(x)))",
            "return self._drop(x + self.feed_forward(self.norm_2(x)))",
        ),
        (
            "x = self.norm_1(x + self._drop(self.attention(x, mask)))",
            "x = self.norm_1(self._drop(x + self.attention(x, mask)))",
        ),
        (
            "return self.norm_2(x + self._drop(self.feed_forward(x)))",
            "return self.norm_2(self._drop(x + self.feed_forward(x)))",
        ),
    ],
    "dropout acts on what the parts read, and not on what they return": [
        ("self._drop(self.attention(self.norm_1(x), mask))", "self.attention(self._drop(self.norm_1(x)), mask)"),
        ("self._drop(self.feed_forward(self.norm_2(x)))", "self.feed_forward(self._drop(self.norm_2(x)))"),
        ("self._drop(self.attention(x, mask))", "self.attention(self._drop(x), mask)"),
        ("self._drop(self.feed_forward(x))", "self.feed_forward(self._drop(x))"),
    ],
    "in post-norm dropout comes after the norm": [
        (
            "x = self.norm_1(x + self._drop(self.attention(x, mask)))",
            "x = self._drop(self.norm_1(x + self.attention(x, mask)))",
        ),
        (
            "return self.norm_2(x + self._drop(self.feed_forward(x)))",
            "return self._drop(self.norm_2(x + self.feed_forward(x)))",
        ),
    ],
    "the update of the attention is never dropped": [
        ("self._drop(self.attention(self.norm_1(x), mask))", "self.attention(self.norm_1(x), mask)"),
        ("self._drop(self.attention(x, mask))", "self.attention(x, mask)"),
    ],
    "the update of the feed-forward network is never dropped": [
        ("self._drop(self.feed_forward(self.norm_2(x)))", "self.feed_forward(self.norm_2(x))"),
        ("self._drop(self.feed_forward(x))", "self.feed_forward(x)"),
    ],
    "dropout draws one number for a whole token": (
        "return nn.functional.dropout(update, self.dropout, self.training)",
        "return update * nn.functional.dropout(torch.ones_like(update[..., :1]), self.dropout, self.training)",
    ),
    "dropout draws the same numbers for all tokens of a sequence": (
        "return nn.functional.dropout(update, self.dropout, self.training)",
        "return update * nn.functional.dropout(torch.ones_like(update[:, :1]), self.dropout, self.training)",
    ),
    "eps is not passed on to the norms": (", config.eps)", ")", "all"),
    "the activation is not passed on to the feed-forward network": (
        "config.d_ff, config.activation, seed",
        "config.d_ff, seed",
    ),
    "the feed-forward network is always four times d_model wide": (
        "config.d_model, config.d_ff,",
        "config.d_model, 4 * config.d_model,",
    ),
    "the attention always has one head": ("config.d_model, config.n_heads,", "config.d_model, 1,"),
    "attention and feed-forward network begin from the same seed, so their first matrices hold the same numbers": (
        "seed=2 * config.seed + 1)",
        "seed=2 * config.seed)",
    ),
    "both parts get the seed of the config as it is, so their first matrices hold the same numbers": [
        ("seed=2 * config.seed + 1)", "seed=config.seed)"),
        ("seed=2 * config.seed)", "seed=config.seed)"),
    ],
    "the feed-forward network of one block has the seed of the next block's attention": [
        ("seed=2 * config.seed + 1)", "seed=config.seed + 1)"),
        ("seed=2 * config.seed)", "seed=config.seed)"),
    ],
    "the second part has the seed of the first part plus 1000, which is the seed of the first part of a later block": [
        ("seed=2 * config.seed + 1)", "seed=config.seed + 1000)"),
        ("seed=2 * config.seed)", "seed=config.seed)"),
    ],
    "the seed of the config is ignored, so all blocks of a model begin alike": [
        ("seed=2 * config.seed + 1)", "seed=1)"),
        ("seed=2 * config.seed)", "seed=0)"),
    ],
    "the parts are detached from the stream: no gradient passes through what they read": [
        ("self.norm_1(x), mask", "self.norm_1(x.detach()), mask"),
        ("self.feed_forward(self.norm_2(x))", "self.feed_forward(self.norm_2(x.detach()))"),
        ("self.attention(x, mask)", "self.attention(x.detach(), mask)"),
        ("self.feed_forward(x)", "self.feed_forward(x.detach())"),
    ],
}

# %% exercise="load_gpt2_block"
def load_gpt2_block(block: Block, state: dict[str, torch.Tensor]) -> None:
    """Copy the weights of a GPT-2 block of transformers into a block of yours.

    Args:
        block: your block, pre-norm, with the activation, eps and number of heads of the other (they are not in the state).
            Its parameters keep their dtype; values of another dtype are converted.
        state: the state dict of a GPT2Block, twelve tensors:

            ========================================  ============================
            ln_1.weight, ln_1.bias                    (d_model,)
            attn.c_attn.weight, attn.c_attn.bias      (d_model, 3 * d_model), (3 * d_model,): q, k, v side by side
            attn.c_proj.weight, attn.c_proj.bias      (d_model, d_model), (d_model,)
            ln_2.weight, ln_2.bias                    (d_model,)
            mlp.c_fc.weight, mlp.c_fc.bias            (d_model, d_ff), (d_ff,)
            mlp.c_proj.weight, mlp.c_proj.bias        (d_ff, d_model), (d_model,)
            ========================================  ============================

            Weights are used as ``x @ weight + bias``. Older files also hold "attn.bias" and "attn.masked_bias". These are
            no biases but the causal mask, and they are ignored.

    Raises:
        ValueError: if a tensor is missing, or unknown, or has another shape than the block needs, with its name in the
            message (for c_attn, that or the name of a part). The block is then what it was before.
    """
    names = {
        "norm_1.weight": "ln_1.weight",
        "norm_1.bias": "ln_1.bias",
        "attention.w_o": "attn.c_proj.weight",
        "attention.b_o": "attn.c_proj.bias",
        "norm_2.weight": "ln_2.weight",
        "norm_2.bias": "ln_2.bias",
        "feed_forward.w_in": "mlp.c_fc.weight",
        "feed_forward.b_in": "mlp.c_fc.bias",
        "feed_forward.w_out": "mlp.c_proj.weight",
        "feed_forward.b_out": "mlp.c_proj.bias",
    }
    wanted = {*names.values(), "attn.c_attn.weight", "attn.c_attn.bias"}
    found = set(state) - {"attn.bias", "attn.masked_bias"}
    if found != wanted:
        raise ValueError(f"missing: {sorted(wanted - found)}, unknown: {sorted(found - wanted)}")
    new = {ours: state[theirs] for ours, theirs in names.items()}
    w_q, w_k, w_v = state["attn.c_attn.weight"].chunk(3, dim=-1)  # three blocks of columns
    b_q, b_k, b_v = state["attn.c_attn.bias"].chunk(3, dim=-1)
    new |= {"attention.w_q": w_q, "attention.w_k": w_k, "attention.w_v": w_v}
    new |= {"attention.b_q": b_q, "attention.b_k": b_k, "attention.b_v": b_v}
    for ours, value in block.state_dict().items():
        if new[ours].shape != value.shape:
            theirs = names.get(ours, "attn.c_attn")
            raise ValueError(f"{theirs} gives {ours} {tuple(new[ours].shape)}, the block has {tuple(value.shape)}")
    block.load_state_dict(new)

# %% mistakes="load_gpt2_block"
{
    "the columns of c_attn are taken in the order v, k, q": [
        ("w_q, w_k, w_v = state", "w_v, w_k, w_q = state"),
        ("b_q, b_k, b_v = state", "b_v, b_k, b_q = state"),
    ],
    "the columns of c_attn are taken in the order k, q, v": [
        ("w_q, w_k, w_v = state", "w_k, w_q, w_v = state"),
        ("b_q, b_k, b_v = state", "b_k, b_q, b_v = state"),
    ],
    "the biases of c_attn are taken in another order than its weights": (
        "b_q, b_k, b_v = state",
        "b_k, b_v, b_q = state",
    ),
    "c_attn is cut into blocks of rows (after a reshape), and its blocks are columns": (
        'state["attn.c_attn.weight"].chunk(3, dim=-1)',
        'state["attn.c_attn.weight"].reshape(-1, len(state["ln_1.weight"])).chunk(3)',
    ),
    "every third column of c_attn is taken, and its blocks are contiguous": (
        'state["attn.c_attn.weight"].chunk(3, dim=-1)',
        '(state["attn.c_attn.weight"][:, i::3] for i in range(3))',
    ),
    "the square matrices are transposed, as nn.Linear would need it": [
        (
            '"attention.w_q": w_q, "attention.w_k": w_k, "attention.w_v": w_v}',
            '"attention.w_q": w_q.mT, "attention.w_k": w_k.mT, "attention.w_v": w_v.mT, "attention.w_o": new["attention.w_o"].mT}',
        ),
    ],
    "only the output projection is transposed": (
        "    w_q, w_k, w_v = state",
        '    new["attention.w_o"] = new["attention.w_o"].mT\n    w_q, w_k, w_v = state',
    ),
    "ln_1 and ln_2 have changed places": [
        ('"norm_1.weight": "ln_1.weight"', '"norm_1.weight": "ln_2.weight"'),
        ('"norm_1.bias": "ln_1.bias"', '"norm_1.bias": "ln_2.bias"'),
        ('"norm_2.weight": "ln_2.weight"', '"norm_2.weight": "ln_1.weight"'),
        ('"norm_2.bias": "ln_2.bias"', '"norm_2.bias": "ln_1.bias"'),
    ],
    "the two biases of length d_model, attn.c_proj.bias and mlp.c_proj.bias, have changed places": [
        ('"attention.b_o": "attn.c_proj.bias"', '"attention.b_o": "mlp.c_proj.bias"'),
        ('"feed_forward.b_out": "mlp.c_proj.bias"', '"feed_forward.b_out": "attn.c_proj.bias"'),
    ],
    "the biases of q, k and v stay what they were": (
        'new |= {"attention.b_q": b_q, "attention.b_k": b_k, "attention.b_v": b_v}',
        'new |= {n: v for n, v in block.state_dict().items() if n in ("attention.b_q", "attention.b_k", "attention.b_v")}',
    ),
    "a missing tensor is skipped without a word, and the block keeps random numbers in its place": [
        ("if found != wanted:", "if found - wanted:"),
        (
            "{ours: state[theirs] for ours, theirs in names.items()}",
            "{ours: state.get(theirs, block.state_dict()[ours]) for ours, theirs in names.items()}",
        ),
    ],
    "a missing tensor gives a KeyError from somewhere inside": ("if found != wanted:", "if found - wanted:"),
    "an unknown tensor is ignored without a word": ("if found != wanted:", "if wanted - found:"),
    "the masks of older files, attn.bias and attn.masked_bias, are refused as unknown": (
        ' - {"attn.bias", "attn.masked_bias"}',
        "",
    ),
    "shapes are not compared, so a wrong one raises another error, after half of the block is overwritten": (
        "if new[ours].shape != value.shape:",
        "if False:",
    ),
    "the block is overwritten before shapes are compared": (
        "    for ours, value in block.state_dict().items():",
        "    for ours, value in block.state_dict().items():\n        if new[ours].shape == value.shape:\n            value.copy_(new[ours])",
    ),
    "only the number of values is compared, and a tensor of another shape is reshaped until it fits": [
        ("if new[ours].shape != value.shape:", "if new[ours].numel() != value.numel():"),
        (
            "block.load_state_dict(new)",
            "block.load_state_dict({n: new[n].reshape(v.shape) for n, v in block.state_dict().items()})",
        ),
    ],
    "a smaller tensor is broadcast to the shape of the parameter": [
        (
            "if new[ours].shape != value.shape:",
            "if any(a not in (1, b) for a, b in zip(new[ours].shape, value.shape)):",
        ),
        (
            "block.load_state_dict(new)",
            "block.load_state_dict({n: new[n].expand(v.shape) for n, v in block.state_dict().items()})",
        ),
    ],
    "the parameters take on the dtype of the state": (
        "    block.load_state_dict(new)",
        "    block.to(new['norm_1.weight'].dtype).load_state_dict(new)",
    ),
    "nothing is written into the block": ("    block.load_state_dict(new)", "    new.clear()"),
}

# %% exercise="depth_profile"
def depth_profile(blocks: list[Block], x: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor]:
    """Sizes of the stream and of its gradients at every depth of a stack of blocks.

    The stack applies the blocks in order: the first reads x, each later one reads what the one before it returns. The loss is
    ``(output * direction).sum()`` for the output of the last block.

    Args:
        blocks: L blocks, at least one, all different objects. They are not changed, and gradients that they may hold from
            earlier do not count.
        x: (B, T, d_model), of the parameters' dtype.
        direction: (B, T, d_model), of the same dtype.

    Returns:
        A dict of four tensors of x's dtype, without gradients of their own:
            "stream" (L + 1,): root mean square of all numbers of the stream: of x, then after each block.
            "update" (L,): root mean square of what each block adds: the stream after it minus the stream before it.
            "gradient" (L + 1,): Euclidean norm of the gradient of the loss for the stream at each depth: for x first; the
                last entry is the norm of ``direction`` itself.
            "parameters" (L,): Euclidean norm of the gradient of the loss for all parameters of a block together, as one
                long vector.
    """
    stream = [x.detach().requires_grad_()]
    for block in blocks:
        stream.append(block(stream[-1]))
    loss = (stream[-1] * direction).sum()
    groups = [list(block.parameters()) for block in blocks]
    flat = [parameter for group in groups for parameter in group]
    gradients = list(torch.autograd.grad(loss, stream + flat))
    stream_gradients, parameter_gradients = gradients[: len(stream)], iter(gradients[len(stream) :])
    with torch.no_grad():
        updates = [after - before for before, after in pairwise(stream)]
        squares = [sum(next(parameter_gradients).square().sum() for _ in group) for group in groups]
        return {
            "stream": torch.stack([value.square().mean().sqrt() for value in stream]),
            "update": torch.stack([value.square().mean().sqrt() for value in updates]),
            "gradient": torch.stack([value.square().sum().sqrt() for value in stream_gradients]),
            "parameters": torch.stack(squares).sqrt(),
        }

# %% mistakes="depth_profile"
{
    "every block reads x, and not what the block before it returns": (
        "stream.append(block(stream[-1]))",
        "stream.append(block(stream[0]))",
    ),
    "the stream is detached between the blocks, so no gradient reaches beyond the last": [
        ("stream.append(block(stream[-1]))", "stream.append(block(stream[-1].detach()))"),
        (
            "torch.autograd.grad(loss, stream + flat)",
            "(g if g is not None else torch.zeros_like(t) for g, t in zip(torch.autograd.grad(loss, stream + flat, allow_unused=True), stream + flat))",
        ),
    ],
    "direction plays no part: the loss is the plain sum of the output": (
        "loss = (stream[-1] * direction).sum()",
        "loss = stream[-1].sum()",
    ),
    "the loss is a mean and not a sum, so all gradients are smaller by the number of values": (
        "(stream[-1] * direction).sum()",
        "(stream[-1] * direction).mean()",
    ),
    "the standard deviation is taken for the root mean square, so an offset of the stream is not seen": (
        '"stream": torch.stack([value.square().mean().sqrt() for value in stream])',
        '"stream": torch.stack([value.std(correction=0) for value in stream])',
    ),
    "the Euclidean norm of the stream is given, which grows with the number of tokens": (
        '"stream": torch.stack([value.square().mean().sqrt() for value in stream])',
        '"stream": torch.stack([value.norm() for value in stream])',
    ),
    "the mean of the tokens' own root mean squares is given for the stream": (
        '"stream": torch.stack([value.square().mean().sqrt() for value in stream])',
        '"stream": torch.stack([value.square().mean(-1).sqrt().mean() for value in stream])',
    ),
    "the root is missing: the mean square of the stream is given": (
        '"stream": torch.stack([value.square().mean().sqrt() for value in stream])',
        '"stream": torch.stack([value.square().mean() for value in stream])',
    ),
    "the mean absolute value of the stream is given": (
        '"stream": torch.stack([value.square().mean().sqrt() for value in stream])',
        '"stream": torch.stack([value.abs().mean() for value in stream])',
    ),
    "the update is measured from x, and not from the stream before the block": (
        "[after - before for before, after in pairwise(stream)]",
        "[after - stream[0] for after in stream[1:]]",
    ),
    "the update is the growth of the root mean square, and not the size of the difference": (
        '"update": torch.stack([value.square().mean().sqrt() for value in updates])',
        '"update": torch.stack([b.square().mean().sqrt() - a.square().mean().sqrt() for a, b in pairwise(stream)])',
    ),
    "the update is the whole output of the block": ("[after - before for", "[after for"),
    "the gradient of the stream is given as a root mean square and not as a norm": (
        "[value.square().sum().sqrt() for value in stream_gradients]",
        "[value.square().mean().sqrt() for value in stream_gradients]",
    ),
    "the gradients of the stream are in the order of the backward pass, the last depth first": (
        "[value.square().sum().sqrt() for value in stream_gradients]",
        "[value.square().sum().sqrt() for value in reversed(stream_gradients)]",
    ),
    "the norms of a block's parameters are added up, and they are parts of one vector": [
        (
            "sum(next(parameter_gradients).square().sum() for _ in group)",
            "sum(next(parameter_gradients).norm() for _ in group)",
        ),
        ("torch.stack(squares).sqrt()", "torch.stack(squares)"),
    ],
    "the largest norm among a block's parameters is given": [
        (
            "sum(next(parameter_gradients).square().sum() for _ in group)",
            "max(next(parameter_gradients).norm() for _ in group)",
        ),
        ("torch.stack(squares).sqrt()", "torch.stack(squares)"),
    ],
    "the root is missing: the squared norm of the parameters' gradients is given": (
        "torch.stack(squares).sqrt()",
        "torch.stack(squares)",
    ),
    "only the attention's parameters are counted": (
        "groups = [list(block.parameters()) for block in blocks]",
        "groups = [list(block.attention.parameters()) for block in blocks]",
    ),
    "the norms of the parameters themselves are given, and not of their gradients": (
        "sum(next(parameter_gradients).square().sum() for _ in group)",
        "sum(parameter.square().sum() for parameter in group)",
    ),
    "gradients from earlier calls are still there and are added to": [
        (
            "gradients = list(torch.autograd.grad(loss, stream + flat))",
            "[s.retain_grad() for s in stream]; loss.backward(); gradients = [t.grad for t in stream + flat]",
        ),
    ],
    "the stream of x itself is left out, so there is one entry too few": (
        '"stream": torch.stack([value.square().mean().sqrt() for value in stream])',
        '"stream": torch.stack([value.square().mean().sqrt() for value in stream[1:]])',
    ),
    "the results still carry gradients": ("with torch.no_grad():", "with torch.enable_grad():"),
}

# %% given
def shift_task(n_sequences: int, length: int, d_model: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random tokens and the tokens before them: x and target, both (n_sequences, length, d_model).

    All have mean 0 and root mean square 1, so that the output of a post-norm stack can be equal to the target. The
    first target is the first token itself. The last features of x hold the position, so that a token can find the one before it.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_sequences, length, d_model, generator=generator)
    half = d_model // 2
    angles = torch.arange(length)[:, None] / 1.5 ** torch.arange(half // 2)
    x[..., half : 2 * (half // 2) + half] = torch.cat([angles.sin(), angles.cos()], dim=-1) * 2**0.5
    x = nn.functional.layer_norm(x, (d_model,))
    return x, torch.cat([x[:, :1], x[:, :-1]], dim=1)

# %% exercise="train_stack"
def train_stack(
    blocks: list[Block], x: torch.Tensor, target: torch.Tensor, lr: float, steps: int, warmup: int = 0
) -> list[float]:
    """Train all parameters of a stack of blocks, in place, on one batch, and report the losses.

    The loss is the mean over all numbers of the squared difference between the output of the stack and the target.
    Each step uses the whole batch and one step of ``torch.optim.Adam`` with its default settings, but for the learning rate: at
    step s = 0, 1, ... it is ``lr * min(1, (s + 1) / warmup)``, and ``lr`` where warmup is 0.

    Args:
        blocks: applied in order, all different objects.
        x, target: (B, T, d_model), of the parameters' dtype.
        lr: the learning rate after the warm-up.
        steps: how many steps, 0 included.
        warmup: how many steps the warm-up takes. It may be longer than the training.

    Returns:
        ``steps + 1`` plain floats: the loss before each step, and the loss after the last.
    """
    optimiser = torch.optim.Adam([parameter for block in blocks for parameter in block.parameters()])

    def loss_now() -> torch.Tensor:
        stream = x
        for block in blocks:
            stream = block(stream)
        return (stream - target).square().mean()

    losses = []
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / warmup) if warmup else lr
        loss = loss_now()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    losses.append(loss_now().item())
    return losses

# %% mistakes="train_stack"
{
    "the gradients are never set to zero, so they pile up from step to step": ("        optimiser.zero_grad()\n", ""),
    "only the last block is trained": (
        "[parameter for block in blocks for parameter in block.parameters()]",
        "list(blocks[-1].parameters())",
    ),
    "only the first block is trained": (
        "[parameter for block in blocks for parameter in block.parameters()]",
        "list(blocks[0].parameters())",
    ),
    "the optimiser is made anew in each step, so Adam forgets its averages": (
        "    for step in range(steps):",
        "    for step in range(steps):\n        optimiser = torch.optim.Adam([parameter for block in blocks for parameter in block.parameters()])",
    ),
    "AdamW is used, which also shrinks the weights": ("torch.optim.Adam(", "torch.optim.AdamW("),
    "plain gradient descent is used and not Adam": ("torch.optim.Adam(", "torch.optim.SGD("),
    "the gradients are clipped to norm 1": (
        "        optimiser.step()",
        "        torch.nn.utils.clip_grad_norm_([p for block in blocks for p in block.parameters()], 1.0)\n        optimiser.step()",
    ),
    "the warm-up is ignored": (" * min(1.0, (step + 1) / warmup) if warmup else lr", ""),
    "the warm-up begins with a learning rate of zero, so the first step is lost": (
        "(step + 1) / warmup",
        "step / warmup",
    ),
    "the learning rate goes on rising after the warm-up": ("min(1.0, (step + 1) / warmup)", "((step + 1) / warmup)"),
    "the warm-up stretches over the whole training": ("(step + 1) / warmup", "(step + 1) / steps"),
    "the learning rate is set after the step, so each step has that of the one before it": [
        ('        optimiser.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / warmup) if warmup else lr\n', ""),
        (
            "        optimiser.step()\n",
            '        optimiser.param_groups[0]["lr"] = lr if step == 0 else optimiser.param_groups[0]["lr"]\n        optimiser.step()\n'
            '        optimiser.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / warmup) if warmup else lr\n',
        ),
    ],
    "the learning rate falls as one over the step after the warm-up": (
        "lr * min(1.0, (step + 1) / warmup) if warmup else lr",
        "lr * min((step + 1) / warmup, warmup / (step + 1)) if warmup else lr",
    ),
    "the losses are those after each step, so the first is missing": [
        ("        losses.append(loss.item())", "        losses.append(loss_now().item())"),
        ("    losses.append(loss_now().item())\n    return", "    return"),
    ],
    "the loss after the last step is missing": ("    losses.append(loss_now().item())\n    return", "    return"),
    "the squared differences are added up and not averaged": (".square().mean()", ".square().sum()"),
    "the squared differences of a token are added up, and only the tokens averaged": (
        ".square().mean()",
        ".square().sum(-1).mean()",
    ),
    "the absolute difference is taken and not the squared one": (".square().mean()", ".abs().mean()"),
    "every block reads x, and not what the block before it returns": ("stream = block(stream)", "stream = block(x)"),
    "x is added to the output once more: the residuals are in the blocks already": (
        "(stream - target).square()",
        "(x + stream - target).square()",
    ),
    "a copy is trained, and the blocks stay what they were": (
        "    optimiser = torch.optim.Adam(",
        "    import copy\n    blocks = copy.deepcopy(blocks)\n    optimiser = torch.optim.Adam(",
    ),
    "the losses are tensors and not plain floats": [
        ("losses.append(loss.item())", "losses.append(loss.detach())"),
        ("losses.append(loss_now().item())", "losses.append(loss_now().detach())"),
    ],
}
