"""The encoder-decoder: the reference. Generated from source_solutions/ch03_transformer/lab06_encoder_decoder.py by `course build`; do not edit."""

# %% given
import math

import torch
from torch import nn

# %% given
from dataclasses import dataclass

from coursekit import carry

# attention(q, k, v, mask=None) -> (output, weights); True in the mask means: may look
attention = carry("ch01/lab01", "attention")
# split_heads(x, n_heads): (B, T, d_model) -> (B, H, T, d_k), and merge_heads(x) back
split_heads = carry("ch01/lab03", "split_heads")
merge_heads = carry("ch01/lab03", "merge_heads")
# LayerNorm(d_model, eps=1e-5): weight, bias
LayerNorm = carry("ch02/lab01", "LayerNorm")
# sinusoidal_table(T, d_model) -> (T, d_model), float32
sinusoidal_table = carry("ch02/lab02", "sinusoidal_table")
# FeedForward(d_model, d_ff, activation="gelu_tanh", seed=0): w_in, b_in, w_out, b_out
FeedForward = carry("ch02/lab03", "FeedForward")
# CausalSelfAttention(d_model, n_heads, seed=0)(x, mask=None); the mask comes on top of the causal rule
CausalSelfAttention = carry("ch02/lab04", "CausalSelfAttention")
# BlockConfig(d_model, n_heads, d_ff, norm_first=True, activation="gelu_tanh", dropout=0.0, eps=1e-5, seed=0)
BlockConfig = carry("ch02/lab04", "BlockConfig")


@dataclass(frozen=True)
class Seq2SeqConfig:
    """The settings of an encoder-decoder.

    Attributes:
        source_vocab, target_vocab: how many tokens there are on each side.
        d_model, n_heads, d_ff: the sizes of every block.
        n_layers: blocks of the encoder, and as many of the decoder.
        norm_first: True for pre-norm, False for post-norm.
        activation: "relu", "gelu", "gelu_tanh" or "silu".
        dropout: the probability that a number of an update is dropped in training.
        eps: what layer normalisation adds to the variance.
        pad_id: the token that fills up short texts, on both sides.
        start_id, end_id: what the decoder reads first, and what it writes last.
        seed: decides the first weights.
    """

    source_vocab: int
    target_vocab: int
    d_model: int
    n_heads: int
    d_ff: int
    n_layers: int
    norm_first: bool = True
    activation: str = "relu"
    dropout: float = 0.0
    eps: float = 1e-5
    pad_id: int = 0
    start_id: int = 1
    end_id: int = 2
    seed: int = 0

# %% exercise="shift_right"
def shift_right(target: torch.Tensor, start_id: int) -> torch.Tensor:
    """What the decoder reads, from what it has to write.

    Args:
        target: (B, T) integers, T at least 1, contiguous or not.
        start_id: the token that stands before the first one.

    Returns:
        (B, T) integers of the same dtype: start_id first, then the target without its last column. Padding is a token like
        any other here.
    """
    start = torch.full_like(target[:, :1], start_id)  # (B, 1)
    return torch.cat([start, target[:, :-1]], dim=1)  # (B, T)


def sequence_loss(logits: torch.Tensor, target: torch.Tensor, pad_id: int) -> torch.Tensor:
    """The mean of -ln(probability of the right token), over all target tokens that are not padding.

    Args:
        logits: (B, T, V), floating point, contiguous or not; position t is the guess about ``target[:, t]``. They may be as
            large as 10,000.
        target: (B, T) integers from 0 to V - 1, contiguous or not. The token pad_id is padding wherever it stands, every other one counts,
            END too.
        pad_id: the token that does not count.

    Returns:
        A tensor without axes, of the logits' dtype: the sum over all tokens that count, of all sequences, divided by their
        number. Gradients flow to the logits.

    Raises:
        ValueError: if no token counts.
    """
    log_p = torch.log_softmax(logits, dim=-1)  # (B, T, V)
    surprise = -log_p.gather(-1, target.unsqueeze(-1))[..., 0]  # (B, T)
    real = target != pad_id  # (B, T)
    if not real.any():
        raise ValueError("the target holds nothing but padding")
    return surprise[real].mean()

# %% mistakes="shift_right"
{
    "the target is not shifted: the decoder reads the very token that it has to guess": (
        "torch.cat([start, target[:, :-1]], dim=1)",
        "target.clone()",
    ),
    "the target is shifted to the left: the decoder reads the token after the one that it has to guess": (
        "torch.cat([start, target[:, :-1]], dim=1)",
        "torch.cat([target[:, 1:], start], dim=1)",
    ),
    "the target is shifted by two places": (
        "torch.cat([start, target[:, :-1]], dim=1)",
        "torch.cat([start, start, target], dim=1)[:, : target.shape[1]]",
    ),
    "the last token comes round to the front, where START should be": (
        "torch.cat([start, target[:, :-1]], dim=1)",
        "target.roll(1, dims=1)",
    ),
    "START takes the place of the first token, and nothing moves": (
        "torch.cat([start, target[:, :-1]], dim=1)",
        "torch.cat([start, target[:, 1:]], dim=1)",
    ),
    "START is put in front and the last token stays, so there is a column too many": (
        "torch.cat([start, target[:, :-1]], dim=1)",
        "torch.cat([start, target], dim=1)",
    ),
    "START is always token 0": ("(target[:, :1], start_id)", "(target[:, :1], 0)"),
    "START is always token 1": ("(target[:, :1], start_id)", "(target[:, :1], 1)"),
    "padding is a lesson like any other": ("return surprise[real].mean()", "return surprise.mean()"),
    "padding costs nothing and is still divided by": (
        "return surprise[real].mean()",
        "return (surprise * real).mean()",
    ),
    "the last real token of each sequence does not count, so the model never learns to stop": (
        "return surprise[real].mean()",
        "return surprise[real & nn.functional.pad(real[:, 1:], (0, 1))].mean()",
    ),
    "the loss shifts once more: position t is asked for the token at t + 1": [
        ("torch.log_softmax(logits, dim=-1)", "torch.log_softmax(logits[:, :-1], dim=-1)"),
        ("    surprise = -log_p", "    target = target[:, 1:]\n    surprise = -log_p"),
    ],
    "only padding counts": ("surprise[real].mean()", "surprise[~real].mean()"),
    "padding is always token 0": ("real = target != pad_id", "real = target != 0"),
    "each sequence is averaged by itself, and then the sequences": (
        "surprise[real].mean()",
        "((surprise * real).sum(1) / real.sum(1).clamp(min=1)).mean()",
    ),
    "the losses are added up and not averaged": ("surprise[real].mean()", "surprise[real].sum()"),
    "the losses of a sequence are added up, and the sequences averaged": (
        "surprise[real].mean()",
        "surprise[real].sum() / len(target)",
    ),
    "the softmax runs over the positions and not over the vocabulary": (
        "torch.log_softmax(logits, dim=-1)",
        "torch.log_softmax(logits, dim=1)",
    ),
    "the logarithm is taken after the softmax, of probabilities that may be zero": (
        "torch.log_softmax(logits, dim=-1)",
        "torch.softmax(logits, dim=-1).log()",
    ),
    "the sign is lost": ("surprise = -log_p", "surprise = log_p"),
    "no gradient reaches the logits": ("surprise[real].mean()", "surprise[real].mean().detach()"),
    "nothing to guess gives NaN and not an error": (
        '    if not real.any():\n        raise ValueError("the target holds nothing but padding")\n',
        "",
    ),
}

# %% exercise="CrossAttention"
class CrossAttention(nn.Module):
    """Multi-head attention from one sequence to another, with biases.

    Args:
        d_model: features of a token, on both sides.
        n_heads: number of heads H, a positive divisor of d_model.
        seed: the same seed gives the same first weights, another seed gives others.

    State:
        Eight float32 parameters and nothing else: ``w_q``, ``w_k``, ``w_v``, ``w_o`` of shape (d_model, d_model), used as
        ``x @ w``, and ``b_q``, ``b_k``, ``b_v``, ``b_o`` of shape (d_model,), each added after the product with the matrix of
        the same letter. Head h owns the columns from h * d_k up to (h + 1) * d_k of w_q, w_k and w_v, with d_k = d_model / H.
        At first the entries of the matrices are independent, with mean 0 and variance 1 / d_model, and the biases are 0.

    Raises:
        ValueError: if n_heads is less than 1 or does not divide d_model.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.2.3. Without multiple heads: Bahdanau et al., Neural
    Machine Translation by Jointly Learning to Align and Translate, 2015.
    """

    def __init__(self, d_model: int, n_heads: int, seed: int = 0):
        super().__init__()
        if n_heads < 1 or d_model % n_heads != 0:
            raise ValueError(f"n_heads must be a positive divisor of d_model={d_model}, got {n_heads}")
        self.n_heads = n_heads
        generator = torch.Generator().manual_seed(seed)
        spread = 1 / math.sqrt(d_model)  # a standard deviation: the variance is 1 / d_model
        for letter in "qkvo":
            matrix = spread * torch.randn(d_model, d_model, generator=generator)
            self.register_parameter(f"w_{letter}", nn.Parameter(matrix))
            self.register_parameter(f"b_{letter}", nn.Parameter(torch.zeros(d_model)))

    def forward(
        self, x: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Let every token of x look at the tokens of memory.

        Args:
            x: (B, T, d_model), of the parameters' dtype: the tokens that ask.
            memory: (B, S, d_model): the tokens that are looked at.
            mask: boolean, True where a token may look, with four axes that broadcast to (B, H, T, S). A padding mask is
                (B, 1, 1, S). None allows everything.

        Returns:
            output (B, T, d_model) and weights (B, H, T, S). For a token that may look at nothing the weights are zero and
            the output is b_o.
        """
        q = split_heads(x @ self.w_q + self.b_q, self.n_heads)  # (B, T, d_model) -> (B, H, T, d_k)
        k = split_heads(memory @ self.w_k + self.b_k, self.n_heads)  # (B, S, d_model) -> (B, H, S, d_k)
        v = split_heads(memory @ self.w_v + self.b_v, self.n_heads)  # (B, S, d_model) -> (B, H, S, d_k)
        heads, weights = attention(q, k, v, mask)  # (B, H, T, d_k), (B, H, T, S)
        return merge_heads(heads) @ self.w_o + self.b_o, weights

    def parameter_gradients(
        self, x: torch.Tensor, memory: torch.Tensor, direction: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(output * direction).sum()`` for every parameter, by name."""
        loss = (self(x, memory)[0] * direction).sum()
        self.zero_grad()
        if loss.requires_grad:
            loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}

# %% mistakes="CrossAttention"
{
    "the keys come from the sequence that asks, and the values from the memory": ("memory @ self.w_k", "x @ self.w_k"),
    "the values come from the sequence that asks, and the keys from the memory": ("memory @ self.w_v", "x @ self.w_v"),
    "keys and values come from the sequence that asks: this is self-attention, and the memory is never read": [
        ("memory @ self.w_k", "x @ self.w_k"),
        ("memory @ self.w_v", "x @ self.w_v"),
    ],
    "the two inputs have changed places: the memory asks": [
        ("x @ self.w_q", "swapped @ self.w_q"),
        ("memory @ self.w_k", "x @ self.w_k"),
        ("memory @ self.w_v", "x @ self.w_v"),
        ("swapped @ self.w_q", "memory @ self.w_q"),
    ],
    "the attention is causal: target token t sees the source tokens 0 to t only": (
        "attention(q, k, v, mask)",
        "attention(q, k, v, torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril() & (True if mask is None else mask))",
    ),
    "the mask is ignored, so padding is looked at": ("attention(q, k, v, mask)", "attention(q, k, v)"),
    "the mask is inverted: True is taken to mean that looking is forbidden, as in PyTorch's modules": (
        "attention(q, k, v, mask)",
        "attention(q, k, v, None if mask is None else ~mask)",
    ),
    "the mask sets the weights to zero after the softmax, so that the rest does not sum to one": (
        "        heads, weights = attention(q, k, v, mask)  # (B, H, T, d_k), (B, H, T, S)\n",
        "        weights = attention(q, k, v)[1] * (1 if mask is None else mask)\n        heads = weights @ v\n",
    ),
    "there is one head, whatever n_heads says": ("self.n_heads = n_heads", "self.n_heads = 1"),
    "the output projection is left out": ("merge_heads(heads) @ self.w_o + self.b_o", "merge_heads(heads) + self.b_o"),
    "the output projection has no bias": ("@ self.w_o + self.b_o", "@ self.w_o"),
    "queries, keys and values have no biases": [
        ("x @ self.w_q + self.b_q", "x @ self.w_q"),
        ("memory @ self.w_k + self.b_k", "memory @ self.w_k"),
        ("memory @ self.w_v + self.b_v", "memory @ self.w_v"),
    ],
    "keys and values share one matrix": ("memory @ self.w_v", "memory @ self.w_k"),
    "the matrices are used transposed, as nn.Linear stores its own": [
        ("self.w_q +", "self.w_q.T +"),
        ("self.w_k +", "self.w_k.T +"),
        ("self.w_v +", "self.w_v.T +"),
        ("self.w_o +", "self.w_o.T +"),
    ],
    "the weights are averaged over the heads": (
        "@ self.w_o + self.b_o, weights",
        "@ self.w_o + self.b_o, weights.mean(dim=1)",
    ),
    "the memory is detached, so the encoder learns nothing from the decoder": [
        ("memory @ self.w_k", "memory.detach() @ self.w_k"),
        ("memory @ self.w_v", "memory.detach() @ self.w_v"),
    ],
    "the generator begins anew for every matrix, so all four begin equal": (
        "generator=generator",
        "generator=torch.Generator().manual_seed(seed)",
    ),
    "the seed is ignored": ("torch.Generator().manual_seed(seed)", "torch.Generator().manual_seed(0)"),
    "the first weights have variance 1": ("spread = 1 / math.sqrt(d_model)", "spread = 1.0"),
    "an n_heads that does not divide d_model is accepted": (
        "if n_heads < 1 or d_model % n_heads != 0:",
        "if n_heads < 1:",
    ),
}

# %% exercise="DecoderBlock"
class EncoderBlock(nn.Module):
    """Self-attention in both directions and a feed-forward network, each with its norm and its residual.

    Args:
        config: the settings.

    State:
        Four submodules, and no other parameters or buffers: ``norm_1`` and ``norm_2``, the LayerNorm of Lab 2.1 with the eps of the settings;
        ``attention``, a CrossAttention that gets the same sequence twice; ``feed_forward``, the FeedForward of Lab 2.3. The
        same settings give the same first weights; no two matrices of a block begin with the same numbers, nor do those of
        blocks with the seeds 0 and 1.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.1 (post-norm).
    """

    def __init__(self, config: BlockConfig):
        super().__init__()
        self.norm_first, self.dropout = config.norm_first, config.dropout
        self.norm_1 = LayerNorm(config.d_model, config.eps)
        self.attention = CrossAttention(config.d_model, config.n_heads, seed=2 * config.seed)
        self.norm_2 = LayerNorm(config.d_model, config.eps)
        self.feed_forward = FeedForward(config.d_model, config.d_ff, config.activation, seed=2 * config.seed + 1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """One pass of the stream through the block. x itself is not changed.

        With norm_first each part reads the normalised stream, and its update is added to the stream itself. Without, each
        part reads the stream as it is, and the sum of stream and update is normalised. In training mode dropout with the
        probability of the settings acts on each update, as in Lab 2.4; in evaluation mode there is none.

        Args:
            x: (B, S, d_model), of the parameters' dtype.
            mask: boolean, True where a token may look, broadcasts to (B, H, S, S). None allows everything.

        Returns:
            (B, S, d_model).
        """
        if self.norm_first:
            read = self.norm_1(x)
            x = x + self._drop(self.attention(read, read, mask)[0])
            return x + self._drop(self.feed_forward(self.norm_2(x)))
        x = self.norm_1(x + self._drop(self.attention(x, x, mask)[0]))
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


class DecoderBlock(nn.Module):
    """Causal self-attention, cross-attention and a feed-forward network, each with its norm and its residual.

    Args:
        config: the settings.

    State:
        Six submodules, and no other parameters or buffers: ``norm_1``, ``norm_2`` and ``norm_3``, with the eps of the settings;
        ``self_attention``, the CausalSelfAttention of Lab 2.4; ``cross_attention``, a CrossAttention; ``feed_forward``. The
        same settings give the same first weights; no two matrices of a block begin with the same numbers, nor do those of
        blocks with the seeds 0 and 1.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.1 (post-norm).
    """

    def __init__(self, config: BlockConfig):
        super().__init__()
        self.norm_first, self.dropout = config.norm_first, config.dropout
        self.norm_1 = LayerNorm(config.d_model, config.eps)
        self.self_attention = CausalSelfAttention(config.d_model, config.n_heads, seed=3 * config.seed)
        self.norm_2 = LayerNorm(config.d_model, config.eps)
        self.cross_attention = CrossAttention(config.d_model, config.n_heads, seed=3 * config.seed + 1)
        self.norm_3 = LayerNorm(config.d_model, config.eps)
        self.feed_forward = FeedForward(config.d_model, config.d_ff, config.activation, seed=3 * config.seed + 2)

    def forward(
        self,
        x: torch.Tensor,
        memory: torch.Tensor,
        target_mask: torch.Tensor | None = None,
        source_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One pass of the stream through the block: self-attention, then cross-attention, then the feed-forward network.

        Norms, residuals and dropout as in `EncoderBlock`, for three updates. The memory is read as it is, without a norm.

        Args:
            x: (B, T, d_model), of the parameters' dtype.
            memory: (B, S, d_model), what the encoder has returned.
            target_mask: boolean, for the self-attention, broadcasts to (B, H, T, T); it comes on top of the causal rule.
            source_mask: boolean, for the cross-attention, broadcasts to (B, H, T, S). None allows everything.

        Returns:
            (B, T, d_model).
        """
        if self.norm_first:
            x = x + self._drop(self.self_attention(self.norm_1(x), target_mask))
            x = x + self._drop(self.cross_attention(self.norm_2(x), memory, source_mask)[0])
            return x + self._drop(self.feed_forward(self.norm_3(x)))
        x = self.norm_1(x + self._drop(self.self_attention(x, target_mask)))
        x = self.norm_2(x + self._drop(self.cross_attention(x, memory, source_mask)[0]))
        return self.norm_3(x + self._drop(self.feed_forward(x)))

    def _drop(self, update: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(update, self.dropout, self.training)

    def parameter_gradients(
        self, x: torch.Tensor, memory: torch.Tensor, direction: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(output * direction).sum()`` for every parameter, by name."""
        loss = (self(x, memory) * direction).sum()
        self.zero_grad()
        if loss.requires_grad:
            loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}

# %% mistakes="DecoderBlock"
{
    "the cross-attention is masked causally: target token t sees the source tokens 0 to t only": (
        "memory, source_mask)",
        "memory, torch.ones(x.shape[1], memory.shape[1], dtype=torch.bool).tril() & (True if source_mask is None else source_mask))",
        "all",
    ),
    "the cross-attention is given the padding mask of the target": (
        "memory, source_mask)",
        "memory, target_mask)",
        "all",
    ),
    "the padding of the source is looked at": ("memory, source_mask)", "memory)", "all"),
    "the padding of the target is looked at": [
        ("self.norm_1(x), target_mask)", "self.norm_1(x))"),
        ("self.self_attention(x, target_mask)", "self.self_attention(x)"),
    ],
    "the cross-attention looks at the decoder's own stream, and the memory is never read": [
        ("self.cross_attention(self.norm_2(x), memory", "self.cross_attention(self.norm_2(x), self.norm_2(x)"),
        ("self.cross_attention(x, memory", "self.cross_attention(x, x"),
    ],
    "the two inputs of the cross-attention have changed places": [
        ("self.cross_attention(self.norm_2(x), memory", "self.cross_attention(memory, self.norm_2(x)"),
        ("self.cross_attention(x, memory", "self.cross_attention(memory, x"),
    ],
    "in pre-norm the memory goes through norm_2 as well": (
        "self.cross_attention(self.norm_2(x), memory",
        "self.cross_attention(self.norm_2(x), self.norm_2(memory)",
    ),
    "the memory is detached, so the encoder learns nothing from the decoder": (
        ", memory, source_mask)",
        ", memory.detach(), source_mask)",
        "all",
    ),
    "the self-attention of the decoder is not causal": [
        ("CausalSelfAttention(config.d_model", "CrossAttention(config.d_model"),
        (
            "self.self_attention(self.norm_1(x), target_mask)",
            "self.self_attention(self.norm_1(x), self.norm_1(x), target_mask)[0]",
        ),
        ("self.self_attention(x, target_mask)", "self.self_attention(x, x, target_mask)[0]"),
    ],
    "the encoder is masked causally": [
        (
            "self.attention(read, read, mask)",
            "self.attention(read, read, torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril() & (True if mask is None else mask))",
        ),
        (
            "self.attention(x, x, mask)",
            "self.attention(x, x, torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril() & (True if mask is None else mask))",
        ),
    ],
    "the encoder looks at padding": [
        ("self.attention(read, read, mask)", "self.attention(read, read)"),
        ("self.attention(x, x, mask)", "self.attention(x, x)"),
    ],
    "in the pre-norm encoder only the queries are normalised, and keys and values are made from the raw stream": (
        "self.attention(read, read, mask)",
        "self.attention(read, x, mask)",
    ),
    "norm_2 and norm_3 of the decoder are one and the same module": (
        "self.norm_3 = LayerNorm(config.d_model, config.eps)",
        "self.norm_3 = self.norm_2",
    ),
    "norm_2 is used in the place of norm_3 as well": ("self.norm_3(x", "self.norm_2(x", "all"),
    "norm_1 is used in the place of norm_2 as well, in the decoder": [
        ("self.cross_attention(self.norm_2(x)", "self.cross_attention(self.norm_1(x)"),
        ("x = self.norm_2(x + self._drop(self.cross", "x = self.norm_1(x + self._drop(self.cross"),
    ],
    "the cross-attention comes before the self-attention": [
        (
            "            x = x + self._drop(self.self_attention(self.norm_1(x), target_mask))\n            x = x + self._drop(self.cross_attention(self.norm_2(x), memory, source_mask)[0])\n",
            "            x = x + self._drop(self.cross_attention(self.norm_2(x), memory, source_mask)[0])\n            x = x + self._drop(self.self_attention(self.norm_1(x), target_mask))\n",
        ),
        (
            "        x = self.norm_1(x + self._drop(self.self_attention(x, target_mask)))\n        x = self.norm_2(x + self._drop(self.cross_attention(x, memory, source_mask)[0]))\n",
            "        x = self.norm_2(x + self._drop(self.cross_attention(x, memory, source_mask)[0]))\n        x = self.norm_1(x + self._drop(self.self_attention(x, target_mask)))\n",
        ),
    ],
    "the cross-attention has no residual: it replaces the stream": [
        ("x = x + self._drop(self.cross_attention", "x = self._drop(self.cross_attention"),
        ("self.norm_2(x + self._drop(self.cross_attention", "self.norm_2(self._drop(self.cross_attention"),
    ],
    "there is no cross-attention": [
        ("x = x + self._drop(self.cross_attention(self.norm_2(x), memory, source_mask)[0])", "x = x + 0"),
        ("x + self._drop(self.cross_attention(x, memory, source_mask)[0])", "x"),
    ],
    "the setting norm_first is ignored: both blocks are always pre-norm": ("if self.norm_first:", "if True:", "all"),
    "the setting norm_first is ignored: both blocks are always post-norm": ("if self.norm_first:", "if False:", "all"),
    "the decoder's update of the cross-attention is never dropped": [
        (
            "self._drop(self.cross_attention(self.norm_2(x), memory, source_mask)[0])",
            "self.cross_attention(self.norm_2(x), memory, source_mask)[0]",
        ),
        (
            "self._drop(self.cross_attention(x, memory, source_mask)[0])",
            "self.cross_attention(x, memory, source_mask)[0]",
        ),
    ],
    "dropout is left on in evaluation mode": ("self.dropout, self.training)", "self.dropout, True)", "all"),
    "there is no dropout": ("nn.functional.dropout(update, self.dropout, self.training)", "update", "all"),
    "eps is not passed on to the norms": (", config.eps)", ")", "all"),
    "the activation is not passed on to the feed-forward networks": (", config.activation, seed", ", seed", "all"),
    "all attentions have one head": ("config.d_model, config.n_heads,", "config.d_model, 1,", "all"),
    "self-attention and cross-attention begin from the same seed, so their first matrices hold the same numbers": (
        "seed=3 * config.seed + 1)",
        "seed=3 * config.seed)",
    ),
    "the seed of the settings is ignored, so all blocks of a model begin alike": ("* config.seed", "* 0", "all"),
}

# %% exercise="Seq2Seq"
class Seq2Seq(nn.Module):
    """The encoder-decoder Transformer, with sinusoidal positions and a head that is tied to the target's table.

    Args:
        config: the settings.

    Attributes:
        config: the settings it was made with.

    State:
        source_embedding: (source_vocab, d_model), a parameter.
        target_embedding: (target_vocab, d_model), a parameter; the head is its transpose.
        encoder, decoder: an ``nn.ModuleList`` of n_layers EncoderBlocks, and one of n_layers DecoderBlocks, with the sizes,
            norm_first, activation, dropout and eps of the settings.
        encoder_norm, decoder_norm: a LayerNorm after the last block of each stack, with the eps of the settings.
        And nothing else. All parameters are float32. At first every number of a matrix or a table is independent of all
        others, with mean 0; the variance is 1 / d_model in the two tables, and 1 / n in a matrix that n features are multiplied
        by (``x @ w``, x of shape (..., n)). Biases are 0, the weights of norms 1. The same seed gives the same first
        weights, another seed gives others.

    Source: Vaswani et al., Attention Is All You Need, 2017, sections 3.1 and 3.4.
    """

    def __init__(self, config: Seq2SeqConfig):
        super().__init__()
        self.config = config
        d_model = config.d_model
        self.source_embedding = nn.Parameter(torch.empty(config.source_vocab, d_model))
        self.target_embedding = nn.Parameter(torch.empty(config.target_vocab, d_model))
        rest = {"activation": config.activation, "dropout": config.dropout, "eps": config.eps}
        block = BlockConfig(d_model, config.n_heads, config.d_ff, norm_first=config.norm_first, **rest)
        self.encoder = nn.ModuleList(EncoderBlock(block) for _ in range(config.n_layers))
        self.encoder_norm = LayerNorm(d_model, config.eps)
        self.decoder = nn.ModuleList(DecoderBlock(block) for _ in range(config.n_layers))
        self.decoder_norm = LayerNorm(d_model, config.eps)
        generator = torch.Generator().manual_seed(config.seed)
        with torch.no_grad():
            for name, w in self.named_parameters():
                if w.ndim == 2:
                    n_inputs = d_model if name.endswith("embedding") else w.shape[0]
                    w.normal_(0.0, 1 / math.sqrt(n_inputs), generator=generator)

    def encode(self, source: torch.Tensor) -> torch.Tensor:
        """Read the source.

        A token becomes its row of the table times sqrt(d_model), plus the row of its position in the sinusoidal table (base
        10,000, the first token at position 0). In training mode the sum goes through dropout with the probability of the
        settings. Then come the blocks, in which no token looks at padding, and the final norm.

        Args:
            source: (B, S) integers from 0 to source_vocab - 1. The token pad_id is padding wherever it stands.

        Returns:
            The memory (B, S, d_model). What stands at the places of padding has no meaning.
        """
        x = self._embed(source, self.source_embedding)  # (B, S, d_model)
        for block in self.encoder:
            x = block(x, self._real(source))
        return self.encoder_norm(x)

    def _embed(self, ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        positions = sinusoidal_table(ids.shape[1], self.config.d_model).to(table)  # (T, d_model)
        x = math.sqrt(self.config.d_model) * table[ids] + positions
        return nn.functional.dropout(x, self.config.dropout, self.training)

    def _real(self, ids: torch.Tensor) -> torch.Tensor:
        return (ids != self.config.pad_id)[:, None, None, :]  # (B, 1, 1, T), True: may be looked at

    def decode(self, target: torch.Tensor, memory: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Score every target token as the next one, at every position.

        Args:
            target: (B, T) integers from 0 to target_vocab - 1, what the decoder reads: it begins with START already, nothing is
                shifted here. The token pad_id is padding wherever it stands, and is not looked at.
            memory: (B, S, d_model), from ``encode(source)``.
            source: (B, S), the tokens that the memory is about; they say which of its places are padding.

        Returns:
            Logits (B, T, target_vocab), not normalised. What stands at position t depends on ``target[:, : t + 1]`` and on the
            whole source. Tokens are embedded as in `encode`. A source of padding alone gives finite logits.
        """
        x = self._embed(target, self.target_embedding)  # (B, T, d_model)
        for block in self.decoder:
            x = block(x, memory, self._real(target), self._real(source))
        return self.decoder_norm(x) @ self.target_embedding.T  # (B, T, d_model) @ (d_model, V) -> (B, T, V)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Both at once, as in training: the logits (B, T, target_vocab) of ``decode`` after ``encode``."""
        return self.decode(target, self.encode(source), source)

    def parameter_gradients(
        self, source: torch.Tensor, target: torch.Tensor, direction: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(logits * direction).sum()`` for every parameter, by name."""
        total = (self(source, target) * direction).sum()
        self.zero_grad()
        if total.requires_grad:
            total.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}

# %% mistakes="Seq2Seq"
{
    "the tables are drawn with a variance of one over their number of rows": (
        'n_inputs = d_model if name.endswith("embedding") else w.shape[0]',
        "n_inputs = w.shape[0]",
    ),
    "the encoder has no final norm: its norm is made and never used": ("return self.encoder_norm(x)", "return x"),
    "there is no final norm between the decoder and the head": ("self.decoder_norm(x) @", "x @"),
    "the encoder's norm is used for the decoder as well": ("self.decoder_norm(x) @", "self.encoder_norm(x) @"),
    "the encoder looks at the padding of the source": ("block(x, self._real(source))", "block(x)"),
    "the decoder looks at the padding of the source": (
        "block(x, memory, self._real(target), self._real(source))",
        "block(x, memory, self._real(target))",
    ),
    "the decoder looks at padding in the target": (
        "block(x, memory, self._real(target), self._real(source))",
        "block(x, memory, None, self._real(source))",
    ),
    "the masks of the two sides have changed places": (
        "self._real(target), self._real(source)",
        "self._real(source), self._real(target)",
    ),
    "the masks are the wrong way round, True for padding": ("ids != self.config.pad_id", "ids == self.config.pad_id"),
    "padding is always token 0": ("ids != self.config.pad_id", "ids != 0"),
    "there are no positions": ("* table[ids] + positions", "* table[ids]"),
    "the positions begin at 1": (
        "sinusoidal_table(ids.shape[1], self.config.d_model)",
        "sinusoidal_table(ids.shape[1] + 1, self.config.d_model)[1:]",
    ),
    "only the source has positions": (
        "* table[ids] + positions",
        "* table[ids] + (positions if table is self.source_embedding else 0)",
    ),
    "the embeddings are not multiplied by sqrt(d_model)": ("math.sqrt(self.config.d_model) * table[ids]", "table[ids]"),
    "the positions are multiplied by sqrt(d_model) as well": (
        "math.sqrt(self.config.d_model) * table[ids] + positions",
        "math.sqrt(self.config.d_model) * (table[ids] + positions)",
    ),
    "the target is looked up in the table of the source": (
        "self._embed(target, self.target_embedding)",
        "self._embed(target, self.source_embedding)",
    ),
    "the target is shifted inside the model, after the caller has shifted it": (
        "return self.decode(target, self.encode(source), source)",
        "return self.decode(shift_right(target, self.config.start_id), self.encode(source), source)",
    ),
    "the decoder reads the embedded source, and not what the encoder made of it": (
        "return self.decode(target, self.encode(source), source)",
        "return self.decode(target, self._embed(source, self.source_embedding), source)",
    ),
    "the memory is detached, so the encoder never learns": (
        "return self.decode(target, self.encode(source), source)",
        "return self.decode(target, self.encode(source).detach(), source)",
    ),
    "the head is a table of its own": [
        (
            "        generator = torch.Generator()",
            "        self.head = nn.Parameter(torch.zeros(config.target_vocab, d_model))\n        generator = torch.Generator()",
        ),
        ("@ self.target_embedding.T", "@ self.head.T"),
    ],
    "the head is a copy of the table, which gets no gradient from it": (
        "@ self.target_embedding.T",
        "@ self.target_embedding.detach().T",
    ),
    "probabilities are returned and not logits": (
        "return self.decoder_norm(x) @ self.target_embedding.T",
        "return (self.decoder_norm(x) @ self.target_embedding.T).softmax(-1)",
    ),
    "logits are returned for the last position only": ("self.decoder_norm(x) @", "self.decoder_norm(x[:, -1:]) @"),
    "all layers of the decoder are one and the same block": (
        "nn.ModuleList(DecoderBlock(block) for _ in range(config.n_layers))",
        "nn.ModuleList([DecoderBlock(block)] * config.n_layers)",
    ),
    "the decoder's blocks are in a plain list, so neither the optimiser nor state_dict knows of them": (
        "nn.ModuleList(DecoderBlock(block) for _ in range(config.n_layers))",
        "[DecoderBlock(block) for _ in range(config.n_layers)]",
    ),
    "the setting norm_first never reaches the blocks": (", norm_first=config.norm_first, **rest", ", **rest"),
    "the activation of the settings never reaches the blocks": ('{"activation": config.activation, ', "{"),
    "the eps of the settings never reaches the final norms": (
        "LayerNorm(d_model, config.eps)",
        "LayerNorm(d_model)",
        "all",
    ),
    "there is no dropout on the embeddings": (
        "return nn.functional.dropout(x, self.config.dropout, self.training)",
        "return x",
    ),
    "the dropout on the embeddings stays on in evaluation mode": (
        "self.config.dropout, self.training)",
        "self.config.dropout)",
    ),
    "all blocks begin alike, as their settings have the same seed and nothing is drawn anew": (
        "if w.ndim == 2:",
        'if name.endswith("embedding"):',
    ),
    "the tables begin with variance 1": ('d_model if name.endswith("embedding")', '1 if name.endswith("embedding")'),
    "the seed of the settings is ignored": ("manual_seed(config.seed)", "manual_seed(0)"),
}

# %% given
class Scripted(nn.Module):
    """Given: a stand-in for a trained Seq2Seq that gives prepared answers and takes notes.

    Args:
        answers: a list of token numbers for each answer; after its end the model babbles 4, 5, 4, 5 and so on.
        pad_id, start_id, end_id: as in Seq2SeqConfig.
    """

    def __init__(self, answers: list[list[int]], pad_id: int = 0, start_id: int = 1, end_id: int = 2):
        super().__init__()
        self.config = Seq2SeqConfig(99, 16, 4, 1, 4, 1, pad_id=pad_id, start_id=start_id, end_id=end_id)
        self.answers = answers
        self.reads, self.asked, self.modes, self.graphs = 0, 0, [], 0
        self.weight = nn.Parameter(torch.ones(()))

    def notes(self) -> list:
        """How often it has read a source, how often it was asked, whether ever in training mode or with gradients on."""
        return [self.reads, self.asked, any(self.modes), self.graphs]

    def encode(self, source):
        self.reads += 1
        self.modes.append(self.training)
        return self.weight * torch.stack([source, source.roll(1, dims=1)], dim=-1).float()  # (B, S, 2)

    def decode(self, target, memory, source):
        self.asked += 1
        self.modes.append(self.training)
        self.graphs += torch.is_grad_enabled()
        logits = 0.01 * torch.arange(16).expand(*target.shape, 16).clone()
        for b, row in enumerate(target.tolist()):
            number = int(source[b, 0])
            answer = self.answers[number]
            says = answer + [4, 5] * len(row)
            proper = row[0] == self.config.start_id and float(memory[b, 0, 0]) == number
            heard = row[1 : len(answer) + 1]  # what comes after the answer's end does not matter
            for t in range(len(row)):
                good = proper and heard[:t] == says[: len(heard[:t])]
                logits[b, t, says[t] if good else 11 + row[0] % 5] += 1.0
        return self.weight * logits

    def forward(self, source, target):
        return self.decode(target, self.encode(source), source)

# %% exercise="greedy_decode"
def greedy_decode(model: Seq2Seq, source: torch.Tensor, max_tokens: int) -> torch.Tensor:
    """Write a target for every source, always with the most probable next token.

    Args:
        model: a Seq2Seq, or anything with its ``encode``, ``decode``, ``config`` and training mode. It is asked in evaluation
            mode and without a graph for gradients, and is afterwards in the mode in which it was before.
        source: (B, S) integers, the texts to read, filled up with pad_id.
        max_tokens: how many tokens a text may have at most, END included; at least 1.

    Returns:
        (B, T) integers, what the model has written, without START. T is the number of tokens of the longest text, END
        included. A row that has ended (with end_id) holds nothing but pad_id after that. A row that has not ended after
        max_tokens tokens has no end_id. Each token is the one with the largest logit after START and the tokens before it.

        The model reads the source once (one call of ``encode``). It is asked T times (calls of ``decode``): nothing is asked
        once all rows have ended.

    Raises:
        ValueError: if max_tokens is less than 1.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    config, training = model.config, model.training
    model.eval()
    with torch.no_grad():
        memory = model.encode(source)  # (B, S, d_model), once
        target = torch.full_like(source[:, :1], config.start_id)  # (B, 1)
        ended = torch.zeros(source.shape[0], dtype=torch.bool)  # (B,)
        for _ in range(max_tokens):
            scores = model.decode(target, memory, source)[:, -1]  # (B, V): about the next token
            following = scores.argmax(dim=-1).masked_fill(ended, config.pad_id)  # (B,)
            target = torch.cat([target, following.unsqueeze(-1)], dim=1)
            ended = ended | (following == config.end_id)
            if ended.all():
                break
    model.train(training)
    return target[:, 1:]

# %% mistakes="greedy_decode"
{
    "decoding stops when the first row of the batch has ended": ("if ended.all():", "if ended.any():"),
    "only the first row is asked whether it has ended": ("if ended.all():", "if ended[0]:"),
    "rows that have ended go on writing after END": (".masked_fill(ended, config.pad_id)", ""),
    "rows that have ended repeat END": (".masked_fill(ended, config.pad_id)", ".masked_fill(ended, config.end_id)"),
    "END itself is overwritten with padding": (
        "            target = torch.cat([target, following.unsqueeze(-1)], dim=1)\n            ended = ended | (following == config.end_id)\n",
        "            ended = ended | (following == config.end_id)\n            following = following.masked_fill(ended, config.pad_id)\n            target = torch.cat([target, following.unsqueeze(-1)], dim=1)\n",
    ),
    "decoding starts with padding and not with START": (
        "torch.full_like(source[:, :1], config.start_id)",
        "torch.full_like(source[:, :1], config.pad_id)",
    ),
    "decoding starts with END and not with START": (
        "torch.full_like(source[:, :1], config.start_id)",
        "torch.full_like(source[:, :1], config.end_id)",
    ),
    "decoding starts with the first token of the source": (
        "torch.full_like(source[:, :1], config.start_id)",
        "source[:, :1]",
    ),
    "START is part of the result": ("return target[:, 1:]", "return target"),
    "the first position is asked and not the last": ("source)[:, -1]", "source)[:, 0]"),
    "decoding never stops early, and always fills max_tokens columns": (
        "            if ended.all():\n                break\n",
        "",
    ),
    "one token too many is written": ("range(max_tokens)", "range(max_tokens + 1)"),
    "END does not count, so a text has one token less": ("range(max_tokens)", "range(max_tokens - 1)"),
    "the source is read again for every token": (
        "model.decode(target, memory, source)",
        "model.decode(target, model.encode(source), source)",
    ),
    "a row that writes END after another has ended is not noticed: the state of the last step is all that is kept": (
        "ended = ended | (following == config.end_id)",
        "ended = following == config.end_id",
    ),
    "all rows are written like the first": (
        "scores.argmax(dim=-1).masked_fill",
        "scores[:1].argmax(dim=-1).expand(len(scores)).masked_fill",
    ),
    "the least probable token is taken": ("scores.argmax(", "scores.argmin("),
    "padding is always token 0": ("masked_fill(ended, config.pad_id)", "masked_fill(ended, 0)"),
    "END is always token 2": ("following == config.end_id", "following == 2"),
    "START is always token 1": ("(source[:, :1], config.start_id)", "(source[:, :1], 1)"),
    "the model is asked in the mode in which it happens to be, dropout and all": ("    model.eval()\n", ""),
    "the model is left in evaluation mode": ("    model.train(training)\n", ""),
    "the model is put into training mode afterwards, whatever it was before": (
        "model.train(training)",
        "model.train()",
    ),
    "a graph for gradients is built and thrown away": ("with torch.no_grad():", "with torch.enable_grad():"),
    "max_tokens below 1 is not refused": (
        '        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")',
        "        pass",
    ),
}
