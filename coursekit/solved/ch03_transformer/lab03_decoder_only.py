"""A complete GPT: the reference. Generated from source_solutions/ch03_transformer/lab03_decoder_only.py by `course build`; do not edit."""

# %% given
import math

import torch
from torch import nn
from torch.nn import functional as F

# %% given
from dataclasses import dataclass

from coursekit import carry

BlockConfig = carry(
    "ch02/lab04", "BlockConfig"
)  # BlockConfig(d_model, n_heads, d_ff, norm_first=True, activation="gelu_tanh", dropout=0.0, eps=1e-5, seed=0)
Block = carry("ch02/lab04", "Block")  # Block(config)(x): (B, T, d_model) -> (B, T, d_model), causal
LayerNorm = carry("ch02/lab01", "LayerNorm")  # LayerNorm(d_model, eps=1e-5), with the parameters weight and bias


@dataclass(frozen=True)
class GPTConfig:
    """The settings of a GPT; context is the largest number of tokens that it can see at once."""

    vocab_size: int
    context: int
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    dropout: float = 0.0
    eps: float = 1e-5
    seed: int = 0


def stack_of_blocks(d_model: int, n_heads: int, d_ff: int, n_blocks: int) -> nn.Module:
    """For the checks of exercise 2: a table, some blocks and a norm, with a 7 in every place."""
    stack = nn.Module()
    stack.table = nn.Parameter(torch.empty(100, d_model))
    stack.blocks = nn.ModuleList(Block(BlockConfig(d_model, n_heads, d_ff)) for _ in range(n_blocks))
    stack.norm = LayerNorm(d_model)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.fill_(7.0)
    return stack

# %% exercise="parameter_count"
def parameter_count(config: GPTConfig, embeddings: bool = True) -> int:
    """How many numbers a GPT has to learn, by arithmetic alone.

    Args:
        config: the settings. A block has two norms (a weight and a bias of d_model numbers each), four matrices of
            (d_model, d_model) for attention, a matrix (d_model, d_ff) and a matrix (d_ff, d_model), and a bias as long as
            the result of each of the six products. Around the blocks: a table of (vocab_size, d_model), a table of
            (context, d_model) and one more norm. The head is the first table again.
        embeddings: whether the two tables count.

    Returns:
        The number of parameters as an int; what is used twice counts once.

    Source: Radford et al., Language Models are Unsupervised Multitask Learners, 2019, table 2. Kaplan et al., Scaling Laws
    for Neural Language Models, 2020, section 2.1, for the count without the tables.
    """
    d_model, d_ff = config.d_model, config.d_ff
    attention = 4 * d_model * d_model + 4 * d_model
    feed_forward = 2 * d_model * d_ff + d_ff + d_model
    norms = 2 * (d_model + d_model)
    final_norm = d_model + d_model
    tables = (config.vocab_size + config.context) * d_model
    count = config.n_layers * (attention + feed_forward + norms) + final_norm
    return count + tables if embeddings else count

# %% mistakes="parameter_count"
{
    "the head is counted as a table of its own, and it is the token table again": (
        "(config.vocab_size + config.context)",
        "(2 * config.vocab_size + config.context)",
    ),
    "the table of positions is forgotten": ("(config.vocab_size + config.context)", "config.vocab_size"),
    "the norm at the top is forgotten": ("final_norm = d_model + d_model", "final_norm = 0"),
    "the norm at the top is counted in every block": (
        "(attention + feed_forward + norms) + final_norm",
        "(attention + feed_forward + norms + final_norm)",
    ),
    "the norms have no bias": [
        ("norms = 2 * (d_model + d_model)", "norms = 2 * d_model"),
        ("final_norm = d_model + d_model", "final_norm = d_model"),
    ],
    "a block has one norm": ("norms = 2 * (d_model + d_model)", "norms = d_model + d_model"),
    "the biases of attention are forgotten": (" + 4 * d_model\n", "\n"),
    "attention has no output projection": (
        "4 * d_model * d_model + 4 * d_model",
        "3 * d_model * d_model + 3 * d_model",
    ),
    "the biases of the feed-forward network are forgotten": (" + d_ff + d_model", ""),
    "both biases of the feed-forward network are as long as d_ff": (" + d_ff + d_model", " + 2 * d_ff"),
    "every head has matrices of full width": (
        "4 * d_model * d_model + 4 * d_model",
        "config.n_heads * (4 * d_model * d_model + 4 * d_model)",
    ),
    "d_ff is taken to be four times d_model, whatever the settings say": (
        "d_model, d_ff = config.d_model, config.d_ff",
        "d_model, d_ff = config.d_model, 4 * config.d_model",
    ),
    "only one block is counted": ("config.n_layers * (", "("),
    "the tables are always counted": ("return count + tables if embeddings else count", "return count + tables"),
    "without embeddings the table of positions is still counted": (
        "if embeddings else count",
        "if embeddings else count + config.context * d_model",
    ),
    "without embeddings the norm at the top is left out as well": (
        "if embeddings else count",
        "if embeddings else count - final_norm",
    ),
}

# %% exercise="initialise"
def initialise(model: nn.Module, n_layers: int, seed: int = 0) -> None:
    """Give a model that is made of Lab 2.4's blocks the first weights of GPT-2, in place.

    Every parameter is overwritten, chosen by its number of axes and its name in ``model.named_parameters()``:
        - two axes (a matrix or a table): independent normal numbers with mean 0 and standard deviation 0.02;
        - two axes, and the name ends in ``attention.w_o`` or ``feed_forward.w_out``: the same with standard deviation
          0.02 / sqrt(2 * n_layers);
        - one axis, and the name ends in ``weight`` (a norm): ones;
        - one axis otherwise (a bias): zeros.

    Args:
        model: any module; its parameters stay the same objects, with their dtypes.
        n_layers: the number of blocks of the whole model, at least 1. The module in hand may have fewer.
        seed: the same seed gives the same weights, another seed gives others.

    Source: Radford et al., Language Models are Unsupervised Multitask Learners, 2019, section 2.3; 0.02 from Radford et
    al., Improving Language Understanding by Generative Pre-Training, 2018, section 4.1.
    """
    generator = torch.Generator().manual_seed(seed)
    spread = 0.02
    narrow = spread / math.sqrt(2 * n_layers)  # two branches of each block write to the stream
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                writes = name.endswith(("attention.w_o", "feed_forward.w_out"))
                parameter.normal_(0.0, narrow if writes else spread, generator=generator)
            elif name.endswith("weight"):
                parameter.fill_(1.0)
            else:
                parameter.fill_(0.0)

# %% mistakes="initialise"
{
    "the matrices that write to the residual stream get 0.02 like all others": (
        "narrow = spread / math.sqrt(2 * n_layers)",
        "narrow = spread",
    ),
    "a block is counted as one addition to the stream: the factor is sqrt(n_layers)": (
        "math.sqrt(2 * n_layers)",
        "math.sqrt(n_layers)",
    ),
    "the factor is 2 * n_layers, without the root": ("math.sqrt(2 * n_layers)", "(2 * n_layers)"),
    "the matrices that write to the stream are scaled up and not down": (
        "narrow = spread / math",
        "narrow = spread * math",
    ),
    "only w_o of attention is scaled down, and w_out of the feed-forward network is not": (
        '("attention.w_o", "feed_forward.w_out")',
        '"attention.w_o"',
    ),
    "only w_out of the feed-forward network is scaled down, and w_o of attention is not": (
        '("attention.w_o", "feed_forward.w_out")',
        '"feed_forward.w_out"',
    ),
    "both matrices of the feed-forward network are scaled down": (
        '("attention.w_o", "feed_forward.w_out")',
        '("attention.w_o", "feed_forward.w_out", "feed_forward.w_in")',
    ),
    "all matrices are scaled down": ("narrow if writes else spread", "narrow"),
    "0.02 is taken for a variance": ("spread = 0.02", "spread = math.sqrt(0.02)"),
    "the deviation is 1 / sqrt(d_model), as in Lab 1.3": (
        "narrow if writes else spread",
        "(narrow if writes else spread) / 0.02 / math.sqrt(parameter.shape[-1])",
    ),
    "the numbers are uniform, with the right standard deviation": (
        "parameter.normal_(0.0, narrow if writes else spread, generator=generator)",
        "wide = math.sqrt(3) * (narrow if writes else spread); parameter.uniform_(-wide, wide, generator=generator)",
    ),
    "the generator begins anew for every matrix, so that those of one shape are multiples of each other": (
        "generator=generator",
        "generator=torch.Generator().manual_seed(seed)",
    ),
    "the seed is ignored": ("torch.Generator().manual_seed(seed)", "torch.Generator().manual_seed(0)"),
    "the weights of the norms start at 0": ("parameter.fill_(1.0)", "parameter.fill_(0.0)"),
    "the biases start at 1, like the weights of the norms": ("parameter.fill_(0.0)", "parameter.fill_(1.0)"),
    "the biases are left as they were": ("parameter.fill_(0.0)", "pass"),
    "the norms are left as they were": ("parameter.fill_(1.0)", "pass"),
    "the biases are drawn like the matrices": (
        "parameter.fill_(0.0)",
        "parameter.normal_(0.0, spread, generator=generator)",
    ),
}

# %% exercise="GPT"
class GPT(nn.Module):
    """A decoder-only transformer with learned positions and a tied head: the architecture of GPT-2.

    Args:
        config: the settings.

    Attributes:
        config: the settings it was made with.

    State:
        token_embedding: (vocab_size, d_model), a parameter; the head is its transpose.
        position_embedding: (context, d_model), a parameter.
        blocks: an ``nn.ModuleList`` of n_layers blocks of Lab 2.4, pre-norm, with the activation "gelu_tanh" and the
            d_model, n_heads, d_ff, dropout and eps of the settings.
        final_norm: the LayerNorm of Lab 2.1 with the eps of the settings.
        And no other parameters or buffers, under no other names. All parameters are float32; their first values are those that `initialise` gives a model with
        the n_layers and the seed of the settings.

    Source: Radford et al., Language Models are Unsupervised Multitask Learners, 2019, section 2.3; the tied head: Press
    and Wolf, Using the Output Embedding to Improve Language Models, 2017.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Parameter(torch.zeros(config.vocab_size, config.d_model))
        self.position_embedding = nn.Parameter(torch.zeros(config.context, config.d_model))
        settings = BlockConfig(config.d_model, config.n_heads, config.d_ff, dropout=config.dropout, eps=config.eps)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(config.n_layers))
        self.final_norm = LayerNorm(config.d_model, config.eps)
        self.dropout = nn.Dropout(config.dropout)
        initialise(self, config.n_layers, config.seed)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Score every token of the vocabulary as the next one, at every position.

        Args:
            ids: (B, T) integers from 0 to vocab_size - 1, with T from 1 to context, contiguous or not.

        Returns:
            Logits (B, T, vocab_size), not normalised, of the parameters' dtype. What stands at position t depends on
            ``ids[:, : t + 1]`` alone. The first token is at position 0. In training mode the sum of the two embeddings
            goes through dropout with probability config.dropout before the first block; the blocks have their own.

        Raises:
            ValueError: if T is larger than context.
        """
        length = ids.shape[1]
        if length > self.config.context:
            raise ValueError(f"{length} tokens do not fit into a context of {self.config.context}")
        x = self.token_embedding[ids]  # (B, T, d_model)
        x = x + self.position_embedding[:length]  # (T, d_model), the same for every sequence
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)  # (B, T, d_model)
        x = self.final_norm(x)
        return x @ self.token_embedding.T  # (B, T, d_model) @ (d_model, V) -> (B, T, V)

    def parameter_gradients(self, ids: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(logits * direction).sum()`` for every parameter, by name."""
        total = (self(ids) * direction).sum()
        self.zero_grad()
        if total.requires_grad:
            total.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}

# %% mistakes="GPT"
{
    "there is no norm between the last block and the head": ("        x = self.final_norm(x)\n", ""),
    "the positions are never added": (" + self.position_embedding[:length]", ""),
    "the positions are counted from the end: the last token always gets the last row": (
        "self.position_embedding[:length]",
        "self.position_embedding[self.config.context - length :]",
    ),
    "the positions begin at 1": (
        "self.position_embedding[:length]",
        "self.position_embedding.roll(-1, 0)[:length]",
    ),
    "every token gets the row of position 0": ("self.position_embedding[:length]", "self.position_embedding[:1]"),
    "the positions start again after every four tokens": (
        "self.position_embedding[:length]",
        "self.position_embedding[torch.arange(length) % 4]",
    ),
    "the head is a copy of the table, which gets no gradient from it": (
        "x @ self.token_embedding.T",
        "x @ self.token_embedding.detach().clone().T",
    ),
    "the table gets no gradient where tokens are looked up": (
        "self.token_embedding[ids]",
        "self.token_embedding.detach()[ids]",
    ),
    "the positions get no gradient": ("self.position_embedding[:length]", "self.position_embedding.data[:length]"),
    "the head is a second table of its own": [
        (
            "self.dropout = nn.Dropout",
            "self.head = nn.Parameter(torch.zeros(config.vocab_size, config.d_model))\n        self.dropout = nn.Dropout",
        ),
        ("x @ self.token_embedding.T", "x @ self.head.T"),
    ],
    "the token table is an nn.Embedding, whose parameter has another name": [
        (
            "nn.Parameter(torch.zeros(config.vocab_size, config.d_model))",
            "nn.Embedding(config.vocab_size, config.d_model)",
        ),
        ("self.token_embedding[ids]", "self.token_embedding(ids)"),
        ("self.token_embedding.T", "self.token_embedding.weight.T"),
    ],
    "all layers are one and the same block": (
        "nn.ModuleList(Block(settings) for _ in range(config.n_layers))",
        "nn.ModuleList([Block(settings)] * config.n_layers)",
    ),
    "the blocks are in a plain list, so neither the optimiser nor state_dict knows of them": (
        "nn.ModuleList(Block(settings) for _ in range(config.n_layers))",
        "[Block(settings) for _ in range(config.n_layers)]",
    ),
    "the output of each block is added to its input once more": ("x = block(x)", "x = x + block(x)"),
    "the last block is left out": ("for block in self.blocks:", "for block in self.blocks[:-1]:"),
    "the blocks run from the last to the first": ("for block in self.blocks:", "for block in reversed(self.blocks):"),
    "the token rows are multiplied by sqrt(d_model), as in the Transformer of 2017": (
        "self.token_embedding[ids]",
        "math.sqrt(self.config.d_model) * self.token_embedding[ids]",
    ),
    "the embeddings are normalised before the first block, as in BERT": (
        "        x = self.dropout(x)",
        "        x = self.final_norm(self.dropout(x))",
    ),
    "the blocks are post-norm": ("dropout=config.dropout, eps", "norm_first=False, dropout=config.dropout, eps"),
    "the blocks use the exact GELU, and GPT-2 uses the tanh form": (
        "dropout=config.dropout, eps",
        'activation="gelu", dropout=config.dropout, eps',
    ),
    "probabilities are returned and not logits": (
        "return x @ self.token_embedding.T",
        "return (x @ self.token_embedding.T).softmax(-1)",
    ),
    "log-probabilities are returned and not logits": (
        "return x @ self.token_embedding.T",
        "return (x @ self.token_embedding.T).log_softmax(-1)",
    ),
    "the logits are divided by sqrt(d_model)": (
        "return x @ self.token_embedding.T",
        "return x @ self.token_embedding.T / math.sqrt(self.config.d_model)",
    ),
    "logits are returned for the last position only": (
        "        x = self.final_norm(x)",
        "        x = self.final_norm(x[:, -1:])",
    ),
    "the eps of the settings never reaches the final norm": (
        "LayerNorm(config.d_model, config.eps)",
        "LayerNorm(config.d_model)",
    ),
    "the eps of the settings never reaches the blocks": (
        "dropout=config.dropout, eps=config.eps",
        "dropout=config.dropout",
    ),
    "too long an input is not refused: the positions start again": [
        (
            '            raise ValueError(f"{length} tokens do not fit into a context of {self.config.context}")',
            "            pass",
        ),
        ("self.position_embedding[:length]", "self.position_embedding[torch.arange(length) % self.config.context]"),
    ],
    "an input as long as the context is refused": ("length > self.config.context", "length >= self.config.context"),
    "the blocks are built without the dropout of the settings": (
        "dropout=config.dropout, eps=config.eps",
        "eps=config.eps",
    ),
    "the rows of tokens and of positions go through dropout each by itself, and not their sum": [
        ("x = self.token_embedding[ids]", "x = self.dropout(self.token_embedding[ids])"),
        ("x + self.position_embedding[:length]", "x + self.dropout(self.position_embedding[:length].expand_as(x))"),
        ("        x = self.dropout(x)\n", ""),
    ],
    "there is no dropout on the embeddings": ("        x = self.dropout(x)\n", ""),
    "the dropout on the embeddings stays on in evaluation mode": (
        "self.dropout(x)",
        "torch.nn.functional.dropout(x, self.config.dropout)",
    ),
    "the model is never initialised": ("        initialise(self, config.n_layers, config.seed)\n", ""),
    "initialise does not reach the blocks, so they keep their own first weights: call it last": [
        ("        initialise(self, config.n_layers, config.seed)\n", ""),
        (
            "        settings = BlockConfig(",
            "        initialise(self, config.n_layers, config.seed)\n        settings = BlockConfig(",
        ),
    ],
    "the first weights are scaled for a model with one layer": (
        "initialise(self, config.n_layers, config.seed)",
        "initialise(self, 1, config.seed)",
    ),
    "the seed of the settings is ignored": (
        "initialise(self, config.n_layers, config.seed)",
        "initialise(self, config.n_layers)",
    ),
}

# %% exercise="next_token_loss"
def next_token_loss(logits: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The mean of -ln(probability of the next token), over all positions whose next token is known.

    Args:
        logits: (B, T, V), floating point, what a GPT returns for ``ids``. They may be as large as 10,000.
        ids: (B, T) integers from 0 to V - 1.
        mask: boolean (B, T), True where a token is real, False where it is padding. A guess counts if the token *that it
            is about* is real. None means that all tokens are real.

    Returns:
        A tensor without axes, of the logits' dtype: the sum over all guesses that count, of all sequences, divided by
        their number. Gradients flow to the logits.

    Raises:
        ValueError: if no guess counts, as with T = 1.
    """
    targets = ids[:, 1:]  # (B, T - 1): what position t has to guess stands at t + 1
    log_p = torch.log_softmax(logits[:, :-1], dim=-1)  # (B, T - 1, V)
    surprise = -log_p.gather(-1, targets.unsqueeze(-1))[..., 0]  # (B, T - 1)
    counts = torch.ones_like(targets, dtype=torch.bool) if mask is None else mask[:, 1:]
    if not counts.any():
        raise ValueError("there is no next token to guess")
    return surprise[counts].mean()

# %% mistakes="next_token_loss"
{
    "the answers are not shifted: position t is asked for the token that it was given": [
        ("ids[:, 1:]", "ids[:, :-1]"),
        ("mask[:, 1:]", "mask[:, :-1]"),
    ],
    "nothing is shifted: all T positions are asked for the token that they were given": [
        ("ids[:, 1:]", "ids"),
        ("logits[:, :-1]", "logits"),
        ("mask[:, 1:]", "mask"),
    ],
    "the shift goes the wrong way: position t is asked for the token before it": [
        ("ids[:, 1:]", "ids[:, :-1]"),
        ("logits[:, :-1]", "logits[:, 1:]"),
        ("mask[:, 1:]", "mask[:, :-1]"),
    ],
    "the answers come round: the last position is asked for the first token": [
        ("ids[:, 1:]", "ids.roll(-1, dims=1)"),
        ("logits[:, :-1]", "logits"),
        ("mask[:, 1:]", "mask.roll(-1, dims=1)"),
    ],
    "the sum is divided by the number of tokens and not of guesses: one too many for each sequence": (
        "surprise[counts].mean()",
        "surprise[counts].sum() / (counts.sum() + len(ids))",
    ),
    "padding is divided by: the sum is over what counts, the number is that of all guesses": (
        "surprise[counts].mean()",
        "(surprise * counts).mean()",
    ),
    "each sequence is averaged by itself, and then the sequences": (
        "surprise[counts].mean()",
        "((surprise * counts).sum(1) / counts.sum(1).clamp(min=1)).mean()",
    ),
    "the mask is not shifted with the answers": ("mask[:, 1:]", "mask[:, :-1]"),
    "the mask is ignored": ("if mask is None else mask[:, 1:]", "if True else mask"),
    "the mask is inverted, so that only padding counts": ("else mask[:, 1:]", "else ~mask[:, 1:]"),
    "the losses are added up and not averaged": ("surprise[counts].mean()", "surprise[counts].sum()"),
    "the losses of a sequence are added up, and the sequences averaged": (
        "surprise[counts].mean()",
        "surprise[counts].sum() / len(ids)",
    ),
    "the softmax runs over the positions and not over the vocabulary": (
        "logits[:, :-1], dim=-1",
        "logits[:, :-1], dim=1",
    ),
    "the logarithm is taken after the softmax, of probabilities that may be zero": (
        "torch.log_softmax(logits[:, :-1], dim=-1)",
        "torch.softmax(logits[:, :-1], dim=-1).log()",
    ),
    "the logits are taken for log-probabilities": ("torch.log_softmax(logits[:, :-1], dim=-1)", "logits[:, :-1]"),
    "the mean probability is returned, without a logarithm": (
        "torch.log_softmax(logits[:, :-1], dim=-1)",
        "torch.softmax(logits[:, :-1], dim=-1)",
    ),
    "the sign is lost": ("surprise = -log_p", "surprise = log_p"),
    "the loss is in bits, not in nats": ("surprise[counts].mean()", "surprise[counts].mean() / math.log(2)"),
    "the perplexity is returned, which is the exponential of the loss": (
        "surprise[counts].mean()",
        "surprise[counts].mean().exp()",
    ),
    "no gradient reaches the logits": ("surprise[counts].mean()", "surprise[counts].mean().detach()"),
    "nothing to guess gives NaN and not an error": (
        '    if not counts.any():\n        raise ValueError("there is no next token to guess")\n',
        "",
    ),
}

# %% exercise="generate"
def generate(model: GPT, ids: torch.Tensor, n_tokens: int) -> torch.Tensor:
    """Continue every sequence with the most probable next token, n_tokens times.

    Args:
        model: your GPT. It is asked in evaluation mode, and afterwards it is in the mode in which it was before.
        ids: (B, T) integers, the prompts. T is at least 1 and may be larger than the model's context.
        n_tokens: how many tokens to append to every sequence, 0 or more.

    Returns:
        (B, T + n_tokens): the whole prompt, as it was given, and the new tokens. Each is the one with the largest logit after
        all that stands before it, as far as that fits: of a longer text the model sees the last ``model.config.context``
        tokens, the first of them at position 0. An ordinary tensor, such as `torch.no_grad()` gives, that a model can be
        trained on; not one of `torch.inference_mode()`.

    Raises:
        ValueError: if n_tokens is negative or the prompt is empty (T = 0).
    """
    if n_tokens < 0 or ids.shape[1] == 0:
        raise ValueError(f"n_tokens must be 0 or more ({n_tokens}), and the prompt must hold a token ({ids.shape[1]})")
    training = model.training
    model.eval()
    with torch.no_grad():
        for _ in range(n_tokens):
            seen = ids[:, -model.config.context :]  # (B, at most context)
            scores = model(seen)[:, -1]  # (B, V): what the last position says of the next token
            following = scores.argmax(dim=-1, keepdim=True)  # (B, 1)
            ids = torch.cat([ids, following], dim=1)
    model.train(training)
    return ids

# %% mistakes="generate"
{
    "the first position is asked and not the last": ("model(seen)[:, -1]", "model(seen)[:, 0]"),
    "the last position but one is asked": ("model(seen)[:, -1]", "model(seen)[:, max(seen.shape[1] - 2, 0)]"),
    "all positions vote: the logits are averaged over the text": ("model(seen)[:, -1]", "model(seen).mean(dim=1)"),
    "the model is always shown the whole text, even where it is longer than the context": (
        "ids[:, -model.config.context :]",
        "ids",
    ),
    "the model is shown the first tokens of a long text and not the last": (
        "ids[:, -model.config.context :]",
        "ids[:, : model.config.context]",
    ),
    "the model is shown one token less than its context": (
        "ids[:, -model.config.context :]",
        "ids[:, -(model.config.context - 1) :]",
    ),
    "the model is shown the last token only": ("ids[:, -model.config.context :]", "ids[:, -1:]"),
    "the text is forgotten when the window is full, and begins anew": (
        "ids[:, -model.config.context :]",
        "ids[:, (ids.shape[1] - 1) // model.config.context * model.config.context :]",
    ),
    "what has left the window is missing in the result, too": (
        "            seen = ids[:, -model.config.context :]",
        "            seen = ids = ids[:, -model.config.context :]",
    ),
    "only the new tokens are returned": ("    return ids", "    return ids[:, ids.shape[1] - n_tokens :]"),
    "one token too many is made": ("range(n_tokens)", "range(n_tokens + 1)"),
    "the new tokens are never shown to the model": [
        ("            seen = ids[", "            seen = ids[:, : ids.shape[1] - _]["),
    ],
    "all sequences are continued like the first": (
        "scores.argmax(dim=-1, keepdim=True)",
        "scores[:1].argmax(dim=-1, keepdim=True).expand(len(ids), 1)",
    ),
    "the next token is drawn at random and not the most probable one": (
        "scores.argmax(dim=-1, keepdim=True)",
        "torch.multinomial(scores.softmax(-1), 1)",
    ),
    "the least probable token is taken": ("scores.argmax(", "scores.argmin("),
    "a token is never repeated: the one just written is ruled out": (
        "scores.argmax(dim=-1, keepdim=True)",
        "scores.scatter(1, seen[:, -1:], -torch.inf).argmax(dim=-1, keepdim=True)",
    ),
    "the model is asked in the mode in which it happens to be, dropout and all": ("    model.eval()\n", ""),
    "the model is left in evaluation mode": ("    model.train(training)\n", ""),
    "the model is put into training mode afterwards, whatever it was before": (
        "model.train(training)",
        "model.train()",
    ),
    "a negative number of tokens is taken for none": ("n_tokens < 0 or ids.shape[1] == 0", "ids.shape[1] == 0"),
    "an empty prompt is not refused": ("n_tokens < 0 or ids.shape[1] == 0", "n_tokens < 0"),
}
