"""A masked language model: the reference. Generated from source_solutions/ch03_transformer/lab05_masked_lm.py by `course build`; do not edit."""

# %% given
import torch
from torch import nn

PAD, CLS, SEP, MASK = 0, 1, 2, 3  # the special tokens: padding, begin, end of a sentence, hidden
FIRST_WORD = 4  # every number from here on is an ordinary token


def from_bert(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What belongs to the parameters of a BERT of transformers, under the names of this lab; nn.Linear stores transposes."""
    matrices = {f"attention.self.{long}": f"attention.*_{long[0]}" for long in ("query", "key", "value")}
    matrices |= {"attention.output.dense": "attention.*_o", "intermediate.dense": "feed_forward.*_in"}
    matrices |= {"output.dense": "feed_forward.*_out", "cls.predictions.transform.dense": "*_transform"}
    matrices |= {"pooler.dense": "*_pool", "classifier": "*_out"}
    norms = {"attention.output.LayerNorm": "norm_1", "output.LayerNorm": "norm_2"}
    norms |= {"embeddings.LayerNorm": "embedding_norm", "cls.predictions.transform.LayerNorm": "transform_norm"}
    tables = {"word": "token_embedding", "position": "position_embedding", "token_type": "segment_embedding"}
    tables = {f"embeddings.{long}_embeddings": short for long, short in tables.items()}
    mine = {}
    for name, value in values.items():
        path, _, kind = name.rpartition(".")
        where = "encoder." if path.startswith(("bert.embeddings", "bert.encoder")) else ""
        path = path.removeprefix("bert.")
        if path.startswith("encoder.layer."):
            number, path = path.removeprefix("encoder.layer.").split(".", 1)
            where += f"blocks.{number}."
        if path in matrices:
            short = where + matrices[path].replace("*", "w" if kind == "weight" else "b")
            mine[short] = value.T if kind == "weight" else value
        elif path in norms:
            mine[f"{where}{norms[path]}.{kind}"] = value
        elif path in tables:
            mine[where + tables[path]] = value
        elif name == "cls.predictions.bias":
            mine["b_vocab"] = value
    return mine

# %% given
from dataclasses import dataclass

from coursekit import carry

attention = carry("ch01/lab01", "attention")  # attention(q, k, v, mask=None) -> (output, weights); True = may look
split_heads = carry("ch01/lab03", "split_heads")  # split_heads(x, n_heads): (B, T, d_model) -> (B, H, T, d_k)
merge_heads = carry("ch01/lab03", "merge_heads")  # merge_heads(x): (B, H, T, d_k) -> (B, T, d_model)
LayerNorm = carry("ch02/lab01", "LayerNorm")  # LayerNorm(d_model, eps=1e-5), with the parameters weight and bias
FeedForward = carry("ch02/lab03", "FeedForward")  # FeedForward(d_model, d_ff, activation), w_in, b_in, w_out, b_out
gelu = carry("ch02/lab03", "gelu")  # the exact GELU


@dataclass(frozen=True)
class EncoderConfig:
    """The settings of an encoder; context is the largest number of tokens. BERT's eps is the default."""

    vocab_size: int
    context: int
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    n_segments: int = 2
    eps: float = 1e-12
    seed: int = 0


def first_weights(module: nn.Module, seed: int) -> None:
    """BERT's first weights for all parameters of a module, in place: matrices and tables normal with standard deviation
    0.02, the weights of norms 1, everything else 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.02, generator=generator)
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)


def new_generator(seed: int) -> torch.Generator:
    """For the checks of exercise 1: a source of random numbers."""
    return torch.Generator().manual_seed(seed)


def writes_into_its_input(ids: torch.Tensor, vocab_size: int, seed: int) -> bool:
    """For the checks of exercise 1: whether mask_tokens changes the tensor that it is given."""
    given = ids.clone()
    mask_tokens(given, vocab_size, new_generator(seed))
    return not torch.equal(given, ids)

# %% exercise="mask_tokens"
def mask_tokens(
    ids: torch.Tensor, vocab_size: int, generator: torch.Generator, share: float = 0.15
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hide some of the tokens, and say what was there.

    Args:
        ids: (B, T) int64, from 0 to vocab_size - 1. Numbers below FIRST_WORD are special tokens. It is not changed.
        vocab_size: V, larger than FIRST_WORD.
        generator: where all random numbers come from. It is used as it comes, and never given a seed here.
        share: the probability, from 0 to 1, with which an ordinary token is chosen. Each one is chosen or not
            independently of the others, in its sequence and elsewhere. A special token is never chosen.

    Returns:
        ``(inputs, labels)``, two new (B, T) int64 tensors.
        inputs: ``ids`` with the chosen tokens disguised. For each chosen token on its own: with probability 0.8 MASK stands
            there, with probability 0.1 an ordinary token, all ordinary ones equally likely (it may happen to be the
            same), and with probability 0.1 the token itself.
        labels: the token of ``ids`` where it was chosen, whatever its disguise, and -100 everywhere else.

    Source: Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, 2019,
    section 3.1 (task 1) and appendix A.1.
    """
    choice = torch.rand(ids.shape, generator=generator)
    chosen = (choice < share) & (ids >= FIRST_WORD)
    labels = ids.masked_fill(~chosen, -100)
    fate = torch.rand(ids.shape, generator=generator)  # a second draw: the first one is used up
    words = torch.randint(FIRST_WORD, vocab_size, ids.shape, generator=generator)
    inputs = torch.where(chosen & (fate < 0.8), MASK, ids)
    inputs = torch.where(chosen & (fate >= 0.9), words, inputs)
    return inputs, labels

# %% mistakes="mask_tokens"
{
    "the generator gets a seed inside, so that every epoch hides the same tokens": (
        "    choice = torch.rand(",
        "    generator.manual_seed(0)\n    choice = torch.rand(",
    ),
    "the 80, 10 and 10% are taken one after the other: a tenth of what is left becomes random, 2% in all": (
        "(fate >= 0.9)",
        "(fate >= 0.98)",
    ),
    "every chosen token becomes MASK": [
        ("chosen & (fate < 0.8)", "chosen"),
        ("chosen & (fate >= 0.9)", "chosen & False"),
    ],
    "the draw that chose the tokens also decides what becomes of them, and so all become MASK": (
        "fate = torch.rand(ids.shape, generator=generator)",
        "fate = choice",
    ),
    "only the tokens that become MASK are asked about, and those in sight are not": (
        "    return inputs, labels",
        "    return inputs, torch.where(inputs == MASK, labels, -100)",
    ),
    "the tokens that stay as they are have no label": (
        "    return inputs, labels",
        "    return inputs, torch.where(inputs == ids, -100, labels)",
    ),
    "the labels are taken from the masked input": (
        "    return inputs, labels",
        "    return inputs, inputs.masked_fill(~chosen, -100)",
    ),
    "every token has a label, chosen or not": ("labels = ids.masked_fill(~chosen, -100)", "labels = ids.clone()"),
    "special tokens may be chosen like all others": (" & (ids >= FIRST_WORD)", ""),
    "only padding is spared: the other special tokens may be chosen": ("ids >= FIRST_WORD", "ids != PAD"),
    "the random tokens are drawn from the whole vocabulary, special ones included": (
        "torch.randint(FIRST_WORD, vocab_size",
        "torch.randint(0, vocab_size",
    ),
    "the last token of the vocabulary is never drawn": (
        "torch.randint(FIRST_WORD, vocab_size",
        "torch.randint(FIRST_WORD, vocab_size - 1",
    ),
    "one random token is drawn for the whole batch": (
        "words = torch.randint(FIRST_WORD, vocab_size, ids.shape, generator=generator)",
        "words = torch.randint(FIRST_WORD, vocab_size, (1, 1), generator=generator)",
    ),
    "the input is overwritten": (
        "torch.where(chosen & (fate < 0.8), MASK, ids)",
        "ids.masked_fill_(chosen & (fate < 0.8), MASK)",
    ),
    "all sequences of a batch are asked about the same places": (
        "choice = torch.rand(ids.shape,",
        "choice = torch.rand(ids.shape[1:],",
    ),
    "in every sequence the same number of places is chosen": (
        "(choice < share) &",
        "(choice.argsort(dim=1).argsort(dim=1) < round(share * ids.shape[1])) &",
    ),
    "all chosen tokens of a sequence have the same fate": (
        "fate = torch.rand(ids.shape,",
        "fate = torch.rand((len(ids), 1),",
    ),
    "the share is 15%, whatever the argument says": ("choice < share", "choice < 0.15"),
    "the share is that of the tokens which are left alone": ("choice < share", "choice >= share"),
    "the tokens that are replaced by a random one stay as they are": (
        "torch.where(chosen & (fate >= 0.9), words, inputs)",
        "inputs",
    ),
    "no token stays in sight: what does not become MASK becomes random": ("fate >= 0.9", "fate >= 0.8"),
    "tokens that nobody asks about are replaced at random, too": ("chosen & (fate >= 0.9)", "(fate >= 0.9)"),
    "the places where nothing is asked have the label 0 and not -100": (
        "masked_fill(~chosen, -100)",
        "masked_fill(~chosen, 0)",
    ),
}

# %% exercise="EncoderBlock"
class SelfAttention(nn.Module):
    """Multi-head self-attention with biases, in which every token may look at every real token.

    Args:
        d_model: features of a token.
        n_heads: number of heads H, a positive divisor of d_model.

    State:
        Eight float32 parameters and nothing else: ``w_q``, ``w_k``, ``w_v``, ``w_o`` of shape (d_model, d_model), used as
        ``x @ w``, and ``b_q``, ``b_k``, ``b_v``, ``b_o`` of shape (d_model,), each added after the product with the
        matrix of the same letter. Head h owns the columns from h * d_k up to (h + 1) * d_k of w_q, w_k and w_v, as in Lab
        1.3. Their first values are up to you: the model that the module becomes a part of draws them.

    Raises:
        ValueError: if n_heads is less than 1 or does not divide d_model.
    """

    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        if n_heads < 1 or d_model % n_heads != 0:
            raise ValueError(f"n_heads must be a positive divisor of d_model={d_model}, got {n_heads}")
        self.n_heads = n_heads
        for letter in "qkvo":
            setattr(self, f"w_{letter}", nn.Parameter(torch.zeros(d_model, d_model)))
            setattr(self, f"b_{letter}", nn.Parameter(torch.zeros(d_model)))

    def forward(self, x: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        """Let every token look at all real tokens.

        Args:
            x: (B, T, d_model), of the parameters' dtype.
            real: bool (B, T), True where a token is real. What is not real is looked at by nobody. None: all are real.

        Returns:
            (B, T, d_model). What stands at places that are not real is of no interest.
        """
        mask = None if real is None else real[:, None, None, :]  # (B, 1, 1, T): the same keys for all heads and queries
        q = split_heads(x @ self.w_q + self.b_q, self.n_heads)  # (B, T, d_model) -> (B, H, T, d_k)
        k = split_heads(x @ self.w_k + self.b_k, self.n_heads)
        v = split_heads(x @ self.w_v + self.b_v, self.n_heads)
        heads, _ = attention(q, k, v, mask)  # (B, H, T, d_k)
        return merge_heads(heads) @ self.w_o + self.b_o  # (B, T, d_model)


class EncoderBlock(nn.Module):
    """One post-norm block of an encoder.

    Args:
        config: the settings; d_model, n_heads, d_ff and eps matter here.

    State:
        attention: a SelfAttention.
        norm_1, norm_2: two LayerNorms of Lab 2.1 with the eps of the settings.
        feed_forward: a FeedForward of Lab 2.3 with the activation "gelu", the exact one.
        And nothing else.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.1; Devlin et al., BERT, 2019, appendix A.2 (GELU).
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.attention = SelfAttention(config.d_model, config.n_heads)
        self.norm_1 = LayerNorm(config.d_model, config.eps)
        self.feed_forward = FeedForward(config.d_model, config.d_ff, "gelu")
        self.norm_2 = LayerNorm(config.d_model, config.eps)

    def forward(self, x: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        """Attention, addition, norm; feed-forward network, addition, norm.

        Args:
            x: (B, T, d_model), of the parameters' dtype.
            real: bool (B, T), True where a token is real; None: all are.

        Returns:
            (B, T, d_model). With ``h = norm_1(x + attention(x))`` it is ``norm_2(h + feed_forward(h))``. At real places it
            does not depend on what stands at the others.
        """
        h = self.norm_1(x + self.attention(x, real))  # (B, T, d_model)
        return self.norm_2(h + self.feed_forward(h))

    def parameter_gradients(
        self, x: torch.Tensor, real: torch.Tensor, direction: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(output * direction).sum()`` for every parameter, by name."""
        total = (self(x, real) * direction).sum()
        self.zero_grad()
        if total.requires_grad:
            total.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}

# %% mistakes="EncoderBlock"
{
    "the causal mask was left in": (
        "        q = split_heads(",
        "        mask = torch.ones(x.shape[1], x.shape[1]).tril().bool() & (True if mask is None else mask)\n        q = split_heads(",
    ),
    "padding is looked at like any other token": ("None if real is None else real[:, None, None, :]", "None"),
    "the mask lies along the queries: padded places look at nothing, and all others look at them": (
        "real[:, None, None, :]",
        "real[:, None, :, None]",
    ),
    "the mask is (B, 1, T) and not (B, 1, 1, T), so that the sequences meet the heads": (
        "real[:, None, None, :]",
        "real[:, None, :]",
    ),
    "the mask is inverted: only padding is looked at": ("real[:, None, None, :]", "~real[:, None, None, :]"),
    "the block never passes the mask on to the attention": ("self.attention(x, real)", "self.attention(x)"),
    "padded tokens are set to zero and then looked at all the same": (
        "None if real is None else real[:, None, None, :]",
        "None; x = x if real is None else x * real[..., None]",
    ),
    "the block is pre-norm": [
        ("h = self.norm_1(x + self.attention(x, real))", "h = x + self.attention(self.norm_1(x), real)"),
        ("return self.norm_2(h + self.feed_forward(h))", "return h + self.feed_forward(self.norm_2(h))"),
    ],
    "the norm is applied to each branch before the addition": [
        ("self.norm_1(x + self.attention(x, real))", "x + self.norm_1(self.attention(x, real))"),
        ("self.norm_2(h + self.feed_forward(h))", "h + self.norm_2(self.feed_forward(h))"),
    ],
    "the first norm is missing": ("self.norm_1(x + self.attention(x, real))", "x + self.attention(x, real)"),
    "the second norm is missing": ("self.norm_2(h + self.feed_forward(h))", "h + self.feed_forward(h)"),
    "the first norm is used twice, and the second never": ("self.norm_2(h", "self.norm_1(h"),
    "nothing is added around the attention": ("self.norm_1(x + self", "self.norm_1(self"),
    "nothing is added around the feed-forward network": ("self.norm_2(h + self", "self.norm_2(self"),
    "the second addition starts from the input of the block": ("self.norm_2(h + self", "self.norm_2(x + self"),
    "the feed-forward network reads the input of the block and not what attention made of it": (
        "self.feed_forward(h)",
        "self.feed_forward(x)",
    ),
    "the GELU is the tanh form, and BERT has the exact one": ('config.d_ff, "gelu")', 'config.d_ff, "gelu_tanh")'),
    "the eps of the settings never reaches the norms": ("config.d_model, config.eps)", "config.d_model)", "all"),
    "only one of the two norms gets the eps of the settings": (
        "self.norm_2 = LayerNorm(config.d_model, config.eps)",
        "self.norm_2 = LayerNorm(config.d_model)",
    ),
    "the heads are merged with a reshape alone": ("merge_heads(heads) @", "heads.reshape(x.shape) @"),
    "the bias of the output projection is left out": ("@ self.w_o + self.b_o", "@ self.w_o"),
    "the bias of the values is left out": ("x @ self.w_v + self.b_v", "x @ self.w_v"),
    "the bias of the queries is left out": ("x @ self.w_q + self.b_q", "x @ self.w_q"),
    "there is no output projection": ("merge_heads(heads) @ self.w_o + self.b_o", "merge_heads(heads)"),
    "the scores are scaled twice": ("attention(q, k, v, mask)", "attention(q / q.shape[-1] ** 0.5, k, v, mask)"),
    "a number of heads that does not divide d_model is accepted": (
        "n_heads < 1 or d_model % n_heads != 0",
        "n_heads < 1",
    ),
}

# %% exercise="Encoder"
class Encoder(nn.Module):
    """BERT without its heads: a vector for every token, made from the whole text.

    Args:
        config: the settings.

    Attributes:
        config: the settings it was made with.

    State:
        token_embedding (vocab_size, d_model), position_embedding (context, d_model) and segment_embedding (n_segments,
        d_model), three parameters.
        embedding_norm: the LayerNorm of Lab 2.1 with the eps of the settings.
        blocks: an ``nn.ModuleList`` of n_layers EncoderBlocks.
        And nothing else. All parameters are float32; their first values are those that ``first_weights`` gives the
        module with the seed of the settings.

    Source: Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, 2019,
    section 3 and figure 2; the norm of the embeddings is in its published code.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Parameter(torch.zeros(config.vocab_size, config.d_model))
        self.position_embedding = nn.Parameter(torch.zeros(config.context, config.d_model))
        self.segment_embedding = nn.Parameter(torch.zeros(config.n_segments, config.d_model))
        self.embedding_norm = LayerNorm(config.d_model, config.eps)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.n_layers))
        first_weights(self, config.seed)

    def forward(
        self, ids: torch.Tensor, real: torch.Tensor | None = None, segments: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Read a batch of texts.

        Args:
            ids: (B, T) integers from 0 to vocab_size - 1, with T from 1 to context.
            real: bool (B, T), True where a token is real; None: all are.
            segments: (B, T) integers from 0 to n_segments - 1; None: all are 0.

        Returns:
            (B, T, d_model), of the parameters' dtype: norm(token row + position row + segment row), passed through all
            blocks. Place t has position t, whether there is padding or not. At real places the result does not depend
            on what stands at the others.

        Raises:
            ValueError: if T is larger than context.
        """
        length = ids.shape[1]
        if length > self.config.context:
            raise ValueError(f"{length} tokens do not fit into a context of {self.config.context}")
        if segments is None:
            segments = torch.zeros_like(ids)
        x = self.token_embedding[ids]  # (B, T, d_model)
        x = x + self.position_embedding[:length]  # (T, d_model), the same for every sequence
        x = x + self.segment_embedding[segments]  # (B, T, d_model)
        x = self.embedding_norm(x)
        for block in self.blocks:
            x = block(x, real)  # (B, T, d_model)
        return x

    def parameter_gradients(
        self, ids: torch.Tensor, real: torch.Tensor, segments: torch.Tensor, direction: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(output * direction).sum()`` for every parameter, by name."""
        total = (self(ids, real, segments) * direction).sum()
        self.zero_grad()
        if total.requires_grad:
            total.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}

# %% mistakes="Encoder"
{
    "the segments are ignored": ("        x = x + self.segment_embedding[segments]  # (B, T, d_model)\n", ""),
    "every token is put into segment 0, whatever segments says": (
        "self.segment_embedding[segments]",
        "self.segment_embedding[torch.zeros_like(ids)]",
    ),
    "without segments no row is added, and segment 0 has one": [
        ("        if segments is None:\n            segments = torch.zeros_like(ids)\n", ""),
        (
            "x = x + self.segment_embedding[segments]",
            "x = x if segments is None else x + self.segment_embedding[segments]",
        ),
    ],
    "there is no norm on the embeddings": ("        x = self.embedding_norm(x)\n", ""),
    "the norm comes before the segments are added": [
        ("        x = self.embedding_norm(x)\n", ""),
        ("        x = x + self.segment_embedding", "        x = self.embedding_norm(x) + self.segment_embedding"),
    ],
    "the norm stands at the top of the encoder and not on the embeddings": [
        ("        x = self.embedding_norm(x)\n", ""),
        ("        return x\n", "        return self.embedding_norm(x)\n"),
    ],
    "the output is normalised once more": ("        return x\n", "        return self.embedding_norm(x)\n"),
    "the positions are never added": (
        "        x = x + self.position_embedding[:length]  # (T, d_model), the same for every sequence\n",
        "",
    ),
    "only real tokens are counted, so that a text with padding on its left starts at position 0": (
        "self.position_embedding[:length]",
        "(self.position_embedding[:length] if real is None else self.position_embedding[(real.cumsum(1) - 1).clamp(min=0)])",
    ),
    "the positions begin again in the second sentence": (
        "self.position_embedding[:length]",
        "self.position_embedding[torch.arange(length) - (segments > 0).long() * (segments == 0).sum(1, keepdim=True)]",
    ),
    "the positions begin at 1": ("self.position_embedding[:length]", "self.position_embedding.roll(-1, 0)[:length]"),
    "the mask never reaches the blocks": ("block(x, real)", "block(x)"),
    "only the first block gets the mask": (
        "            x = block(x, real)  # (B, T, d_model)",
        "            x, real = block(x, real), None",
    ),
    "the token rows are multiplied by sqrt(d_model)": (
        "x = self.token_embedding[ids]",
        "x = self.config.d_model**0.5 * self.token_embedding[ids]",
    ),
    "the output of each block is added to its input once more": ("x = block(x, real)", "x = x + block(x, real)"),
    "all layers are one and the same block": (
        "nn.ModuleList(EncoderBlock(config) for _ in range(config.n_layers))",
        "nn.ModuleList([EncoderBlock(config)] * config.n_layers)",
    ),
    "the blocks are in a plain list, so neither the optimiser nor state_dict knows of them": (
        "nn.ModuleList(EncoderBlock(config) for _ in range(config.n_layers))",
        "[EncoderBlock(config) for _ in range(config.n_layers)]",
    ),
    "there is one block too few": ("range(config.n_layers)", "range(config.n_layers - 1)"),
    "the blocks run from the last to the first": ("for block in self.blocks:", "for block in reversed(self.blocks):"),
    "the eps of the settings never reaches the norm of the embeddings": (
        "LayerNorm(config.d_model, config.eps)",
        "LayerNorm(config.d_model)",
    ),
    "there are always two segments": ("torch.zeros(config.n_segments,", "torch.zeros(2,"),
    "the segments get no gradient": ("self.segment_embedding[segments]", "self.segment_embedding.detach()[segments]"),
    "too long an input is not refused: its positions start again": [
        (
            '            raise ValueError(f"{length} tokens do not fit into a context of {self.config.context}")',
            "            pass",
        ),
        ("self.position_embedding[:length]", "self.position_embedding[torch.arange(length) % self.config.context]"),
    ],
    "an input as long as the context is refused": ("length > self.config.context", "length >= self.config.context"),
    "first_weights is never called": ("        first_weights(self, config.seed)\n", ""),
    "the seed of the settings is ignored": ("first_weights(self, config.seed)", "first_weights(self, 0)"),
}

# %% exercise="MaskedLM"
class MaskedLM(nn.Module):
    """An encoder and the head that guesses hidden tokens.

    Args:
        config: the settings of the encoder.

    State:
        encoder: an Encoder with these settings.
        w_transform (d_model, d_model), used as ``x @ w``, b_transform (d_model,) and b_vocab (vocab_size,): parameters.
        transform_norm: the LayerNorm of Lab 2.1 with the eps of the settings.
        And nothing else. First values: those that ``first_weights`` gives the whole model with the seed of the settings.

    Source: Devlin et al., BERT, 2019, section 3.1; the transform is in its published code.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.encoder = Encoder(config)
        self.w_transform = nn.Parameter(torch.zeros(config.d_model, config.d_model))
        self.b_transform = nn.Parameter(torch.zeros(config.d_model))
        self.transform_norm = LayerNorm(config.d_model, config.eps)
        self.b_vocab = nn.Parameter(torch.zeros(config.vocab_size))
        first_weights(self, config.seed)

    def forward(
        self, ids: torch.Tensor, real: torch.Tensor | None = None, segments: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Score every token of the vocabulary at every place.

        Args:
            ids, real, segments: as for the Encoder.

        Returns:
            Logits (B, T, vocab_size). With x for the encoder's output: norm(GELU(x @ w_transform + b_transform)), with the
            exact GELU, times the transpose of the encoder's token table, plus b_vocab.
        """
        x = self.encoder(ids, real, segments)  # (B, T, d_model)
        x = gelu(x @ self.w_transform + self.b_transform)
        x = self.transform_norm(x)  # (B, T, d_model)
        return x @ self.encoder.token_embedding.T + self.b_vocab  # (B, T, V)

    def parameter_gradients(
        self, ids: torch.Tensor, real: torch.Tensor, segments: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``mlm_loss(logits, labels)`` for every parameter, by name."""
        loss = mlm_loss(self(ids, real, segments), labels)
        self.zero_grad()
        if loss.requires_grad:
            loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}


def mlm_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean of -ln(probability of the right token), over the places that have a label.

    Args:
        logits: (B, T, V), floating point. They may be as large as 10,000.
        labels: (B, T) integers: the right token, from 0 to V - 1, or -100 where nothing is asked.

    Returns:
        A tensor without axes, of the logits' dtype: the sum over all places that have a label, of all sequences, divided
        by their number. Gradients flow to the logits.

    Raises:
        ValueError: if no place has a label.
    """
    asked = labels != -100  # (B, T)
    if not asked.any():
        raise ValueError("there is no label: nothing is asked")
    log_p = torch.log_softmax(logits[asked], dim=-1)  # (N, V)
    return -log_p.gather(-1, labels[asked].unsqueeze(-1)).mean()

# %% mistakes="MaskedLM"
{
    "the norm of the head comes before its GELU and not after it": [
        ("x = gelu(x @ self.w_transform + self.b_transform)", "x = x @ self.w_transform + self.b_transform"),
        ("x = self.transform_norm(x)  # (B, T, d_model)", "x = gelu(self.transform_norm(x))"),
    ],
    "the loss is averaged over all places, asked about or not": (
        "(-1, labels[asked].unsqueeze(-1)).mean()",
        "(-1, labels[asked].unsqueeze(-1)).sum() / labels.numel()",
    ),
    "places where nothing is asked count as if the answer were token 0": (
        "asked = labels != -100  # (B, T)",
        "asked, labels = labels == labels, labels.clamp(min=0)",
    ),
    "a label of 0 is taken for no label": ("asked = labels != -100", "asked = labels > 0"),
    "the answers are shifted by one place, as in a GPT": (
        "asked = labels != -100  # (B, T)",
        "logits, labels = logits[:, :-1], labels[:, 1:]; asked = labels != -100",
    ),
    "each sequence is averaged by itself, and then the sequences": (
        "    return -log_p.gather(-1, labels[asked].unsqueeze(-1)).mean()",
        "    each = torch.zeros(labels.shape, dtype=logits.dtype).masked_scatter(asked, -log_p.gather(-1, labels[asked].unsqueeze(-1)))\n"
        "    return (each.sum(1) / asked.sum(1).clamp(min=1)).sum() / asked.any(1).sum()",
    ),
    "the losses are added up and not averaged": ("unsqueeze(-1)).mean()", "unsqueeze(-1)).sum()"),
    "the softmax runs over the places and not over the vocabulary": ("logits[asked], dim=-1", "logits[asked], dim=0"),
    "the logarithm is taken after the softmax, of probabilities that may be zero": (
        "torch.log_softmax(logits[asked], dim=-1)",
        "torch.softmax(logits[asked], dim=-1).log()",
    ),
    "the logits are taken for log-probabilities": ("torch.log_softmax(logits[asked], dim=-1)", "logits[asked]"),
    "the sign is lost": ("return -log_p", "return log_p"),
    "nothing to answer gives NaN and not an error": (
        '    if not asked.any():\n        raise ValueError("there is no label: nothing is asked")\n',
        "",
    ),
    "nothing to answer gives a loss of 0": (
        'raise ValueError("there is no label: nothing is asked")',
        "return 0.0 * logits.sum()",
    ),
    "the bias of the vocabulary is left out": ("token_embedding.T + self.b_vocab", "token_embedding.T"),
    "the head is a copy of the table, which gets no gradient from it": (
        "self.encoder.token_embedding.T",
        "self.encoder.token_embedding.detach().clone().T",
    ),
    "the head has a table of its own": [
        (
            "        self.b_vocab = nn",
            "        self.w_vocab = nn.Parameter(torch.zeros(config.d_model, config.vocab_size))\n        self.b_vocab = nn",
        ),
        ("self.encoder.token_embedding.T", "self.w_vocab"),
    ],
    "there is no transform: the encoder's vectors meet the table directly": [
        ("        x = gelu(x @ self.w_transform + self.b_transform)\n", ""),
        ("        x = self.transform_norm(x)  # (B, T, d_model)\n", ""),
    ],
    "the transform has no GELU": (
        "gelu(x @ self.w_transform + self.b_transform)",
        "x @ self.w_transform + self.b_transform",
    ),
    "the transform has no norm": ("        x = self.transform_norm(x)  # (B, T, d_model)\n", ""),
    "the norm comes before the transform and not after it": [
        ("gelu(x @ self.w", "gelu(self.transform_norm(x) @ self.w"),
        ("        x = self.transform_norm(x)  # (B, T, d_model)\n", ""),
    ],
    "the GELU is the tanh form": (
        "x = gelu(x @ self.w_transform + self.b_transform)",
        'x = nn.functional.gelu(x @ self.w_transform + self.b_transform, approximate="tanh")',
    ),
    "something is added around the transform": ("x = gelu(", "x = x + gelu("),
    "the eps of the settings never reaches the norm of the head": (
        "LayerNorm(config.d_model, config.eps)",
        "LayerNorm(config.d_model)",
    ),
    "the mask of the padding never reaches the encoder": ("(ids, real, segments)  # (B", "(ids, None, segments)  # (B"),
    "the segments never reach the encoder": ("(ids, real, segments)  # (B", "(ids, real)  # (B"),
    "probabilities are returned and not logits": (
        "return x @ self.encoder.token_embedding.T + self.b_vocab",
        "return (x @ self.encoder.token_embedding.T + self.b_vocab).softmax(-1)",
    ),
    "the first weights of the head stay zero": ("        first_weights(self, config.seed)\n", ""),
    "the seed of the settings never reaches the head": ("first_weights(self, config.seed)", "first_weights(self, 0)"),
}

# %% exercise="pool"
def pool(x: torch.Tensor, real: torch.Tensor | None = None, how: str = "first") -> torch.Tensor:
    """One vector for each sequence.

    Args:
        x: (B, T, d_model), floating point: a vector for each token.
        real: bool (B, T), True where a token is real; None: all are. The padding may stand on either side.
        how: "first": the vector at place 0, real or not. "mean": the mean over the real places. "max": for each feature
            the largest value at a real place. What stands elsewhere plays no part.

    Returns:
        (B, d_model), of x's dtype. Gradients flow to x.

    Raises:
        ValueError: if how is none of the three, or if a sequence has no real place at all.
    """
    if how not in ("first", "mean", "max"):
        raise ValueError(f'how must be "first", "mean" or "max", got {how!r}')
    if real is None:
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    if not real.any(dim=1).all():
        raise ValueError("a sequence has no real token")
    if how == "first":
        return x[:, 0]
    outside = ~real.unsqueeze(-1)  # (B, T, 1)
    if how == "max":
        return x.masked_fill(outside, float("-inf")).amax(dim=1)
    return x.masked_fill(outside, 0.0).sum(dim=1) / real.sum(dim=1, keepdim=True)  # (B, d_model) / (B, 1)


class Classifier(nn.Module):
    """An encoder, pooling, and BERT's head for sorting texts.

    Args:
        encoder: an Encoder, trained or not. It becomes a part of the classifier: this very object, not a copy, and its
            parameters keep their values. Training the classifier trains it, too.
        n_classes: C, the number of classes.
        how: passed to `pool`.
        seed: the same seed gives the same first weights of the head, another seed gives others.

    State:
        encoder; ``w_pool`` (d_model, d_model), ``b_pool`` (d_model,), ``w_out`` (d_model, C) and ``b_out`` (C,): float32
        parameters, used as ``x @ w + b``. At first the entries of the two matrices are independent, normal with mean
        0 and standard deviation 0.02, and the biases are 0. And nothing else.

    Source: Devlin et al., BERT, 2019, section 4; the layer with the tanh (the "pooler") is in its published code.
    """

    def __init__(self, encoder: Encoder, n_classes: int, how: str = "first", seed: int = 0):
        super().__init__()
        self.encoder, self.how = encoder, how
        d_model = encoder.config.d_model
        generator = torch.Generator().manual_seed(seed)
        self.w_pool = nn.Parameter(0.02 * torch.randn(d_model, d_model, generator=generator))
        self.b_pool = nn.Parameter(torch.zeros(d_model))
        self.w_out = nn.Parameter(0.02 * torch.randn(d_model, n_classes, generator=generator))
        self.b_out = nn.Parameter(torch.zeros(n_classes))

    def forward(
        self, ids: torch.Tensor, real: torch.Tensor | None = None, segments: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Score the classes.

        Args:
            ids, real, segments: as for the Encoder.

        Returns:
            Logits (B, C): with p for the pooled vector, tanh(p @ w_pool + b_pool) @ w_out + b_out.
        """
        x = self.encoder(ids, real, segments)  # (B, T, d_model)
        pooled = pool(x, real, self.how)  # (B, d_model)
        hidden = torch.tanh(pooled @ self.w_pool + self.b_pool)
        return hidden @ self.w_out + self.b_out  # (B, C)

    def parameter_gradients(
        self, ids: torch.Tensor, real: torch.Tensor, segments: torch.Tensor, direction: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(logits * direction).sum()`` for every parameter, by name."""
        total = (self(ids, real, segments) * direction).sum()
        self.zero_grad()
        if total.requires_grad:
            total.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}

# %% mistakes="pool"
{
    "the classifier pools padding, too: the mask reaches the encoder only": (
        "pool(x, real, self.how)",
        "pool(x, None, self.how)",
    ),
    "the mean is taken over padding, too": (
        "x.masked_fill(outside, 0.0).sum(dim=1) / real.sum(dim=1, keepdim=True)",
        "x.mean(dim=1)",
    ),
    "the sum is over real tokens, but it is divided by the whole length": (
        "/ real.sum(dim=1, keepdim=True)",
        "/ x.shape[1]",
    ),
    "the sum is over all places, and it is divided by the number of real ones": (
        "x.masked_fill(outside, 0.0).sum(dim=1)",
        "x.sum(dim=1)",
    ),
    "every sequence is divided by the number of real tokens in the batch's longest": (
        "real.sum(dim=1, keepdim=True)",
        "real.sum(dim=1, keepdim=True).amax()",
    ),
    "padding counts as zero where the largest value is looked for": (
        'masked_fill(outside, float("-inf"))',
        "masked_fill(outside, 0.0)",
    ),
    "the largest value is looked for in the padding, too": (
        'x.masked_fill(outside, float("-inf")).amax(dim=1)',
        "x.amax(dim=1)",
    ),
    "the largest value is taken over the features and not over the tokens": (
        'x.masked_fill(outside, float("-inf")).amax(dim=1)',
        'x.masked_fill(outside, float("-inf")).amax(dim=2)',
    ),
    "the value of largest size is taken, whatever its sign": (
        'x.masked_fill(outside, float("-inf")).amax(dim=1)',
        "x.masked_fill(outside, 0.0).abs().amax(dim=1)",
    ),
    "mean and max have changed places": ('if how == "max":', 'if how == "mean":'),
    "the last place is taken and not the first": ("return x[:, 0]", "return x[:, -1]"),
    "the first real place is taken and not place 0": (
        "return x[:, 0]",
        "return x[torch.arange(len(x)), real.int().argmax(dim=1)]",
    ),
    "the mask is inverted, and only padding is pooled": ("~real.unsqueeze(-1)", "real.unsqueeze(-1)"),
    "a way of pooling that does not exist is taken for the mean": (
        'if how not in ("first", "mean", "max"):',
        "if False:",
    ),
    "a sequence without a real token is not refused": ("if not real.any(dim=1).all():", "if False:"),
    "only a batch without any real token is refused": ("real.any(dim=1).all()", "real.any()"),
    "no gradient gets through the pooling": (
        "    outside = ~real.unsqueeze(-1)",
        "    x = x.detach()\n    outside = ~real.unsqueeze(-1)",
    ),
    "the encoder is given new first weights, and what it has learnt is lost": (
        "        generator = torch.Generator().manual_seed(seed)",
        "        first_weights(encoder, seed)\n        generator = torch.Generator().manual_seed(seed)",
    ),
    "the encoder is copied, and the one that was handed in is never trained": (
        "self.encoder, self.how = encoder, how",
        "import copy; self.encoder, self.how = copy.deepcopy(encoder), how",
    ),
    "the encoder is in a plain list, so neither the optimiser nor state_dict knows of it": [
        ("self.encoder, self.how = encoder, how", "self.hidden, self.how = [encoder], how"),
        ("x = self.encoder(ids", "x = self.hidden[0](ids"),
    ],
    "no gradient reaches the encoder": ("pool(x, real, self.how)", "pool(x.detach(), real, self.how)"),
    "padding is looked at: the mask reaches the pooling only": (
        "self.encoder(ids, real, segments)",
        "self.encoder(ids, None, segments)",
    ),
    "the segments never reach the encoder": ("self.encoder(ids, real, segments)", "self.encoder(ids, real)"),
    "the first token is taken, whatever how says": ("pool(x, real, self.how)", "pool(x, real)"),
    "the tanh is missing": ("torch.tanh(pooled @ self.w_pool + self.b_pool)", "pooled @ self.w_pool + self.b_pool"),
    "there is no layer with a tanh: the pooled vector meets w_out directly": ("return hidden @", "return pooled @"),
    "probabilities are returned and not logits": (
        "return hidden @ self.w_out + self.b_out",
        "return (hidden @ self.w_out + self.b_out).softmax(-1)",
    ),
    "the first weights have a deviation of 1": ("0.02 * torch.randn", "torch.randn", "all"),
    "the seed is ignored": ("torch.Generator().manual_seed(seed)", "torch.Generator().manual_seed(0)"),
}
