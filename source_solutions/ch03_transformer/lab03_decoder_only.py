# ---
# title: A complete GPT
# lab: ch03/lab03
# minutes: 100
# difficulty: 3
# hardware: cpu
# needs: [ch02/lab01, ch02/lab04]
# builds: [parameter_count, initialise, GPT, next_token_loss, generate]
# ---

# %% [markdown]
# # Lab 3.3 · A complete GPT
#
# ## The idea
#
# A block turns vectors into vectors. A language model reads token numbers and guesses the next one. What is missing
# between the two is short: a table that turns numbers into vectors, a table that says where they stand, a norm at the
# top, and a way back from vectors to tokens.
#
# $$ x_0 = E[\text{ids}] + P[0 \ldots T-1] \qquad x_{l+1} = \text{block}_l(x_l) \qquad
# \text{logits} = \text{norm}(x_L)\, E^\top $$
#
# That is all of GPT-2. The way back uses the table $E$ a second time: the *logit* of a token is the dot product of the
# last vector with that token's own row. In numbers: let the rows of three tokens be $(1, 0)$, $(0, 1)$ and $(1, 1)$,
# and let the vector at the top be $(2, -1)$. The logits are 2, −1 and 1. The softmax makes them 0.705, 0.035 and
# 0.2595. If token 2 comes next, the loss is $-\ln 0.2595 = 1.349$.
#
# Every position makes such a guess, and thanks to the causal mask none has seen its answer. So one pass over five
# tokens gives four lessons:
#
# | position | 0 | 1 | 2 | 3 | 4 |
# |---|---|---|---|---|---|
# | token | the | cat | sat | down | . |
# | has to guess | cat | sat | down | . | nothing: no answer is known |
#
# The row of answers is the row of tokens moved by one place. Forget to move it, and position 2 is asked for the token
# it was just given. The loss falls faster than ever, and the model has learnt to repeat itself. At the end of this lab
# you watch that happen.
#
# In this lab you count the model before you build it, give it the first weights of GPT-2, put it together, train it
# and let it write. The judge is the implementation that everybody loads: the same weights in HuggingFace's
# `GPT2LMHeadModel` must give the same numbers. The block is explained on the page [The transformer
# block](../../book/ch02_block/transformer_block.md), the tables and the tied head on [Embeddings and
# vocabulary](../../book/ch03_transformer/embeddings_and_vocabulary.md), and which kind of transformer suits which task
# on [Three architectures](../../book/ch03_transformer/encoder_decoder_architectures.md).
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `ids` | `(B, T)` | token numbers, from 0 to `V - 1`; `T` is at most `context` |
# | `token_embedding` | `(V, d_model)` | one row for each token; also the head, then used as `x @ token_embedding.T` |
# | `position_embedding` | `(context, d_model)` | one row for each position |
# | `x` | `(B, T, d_model)` | the residual stream, from block to block |
# | `logits` | `(B, T, V)` | scores for the *next* token, at every position |
# | `mask` | `(B, T)` | True where a token is real and not padding |

# %% given
import math

import torch
from torch import nn
from torch.nn import functional as F

# %% given side="learner"
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


# %% [markdown]
# ## A picture
#
# Every block adds two vectors to the residual stream: one from attention, one from the feed-forward network. If what
# is added is independent of what is there, variances add up, and the stream grows with the root of the depth. The cell
# measures that on a caricature of a model. Each of its branches normalises the stream and multiplies it by a random
# matrix of 768 × 768 entries with standard deviation 0.02. Such a branch adds a variance of about $768 \cdot 0.02^2 =
# 0.307$. There are $2L$ branches in a model with $L$ blocks. Solid: all matrices alike. Dashed: the matrices that
# write to the stream are smaller by $\sqrt{2L}$.

# %%
import plotly.graph_objects as go

from coursekit import plots

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
width, tokens = 768, 64
start = 0.02 * math.sqrt(2) * torch.randn(tokens, width, generator=generator)  # a token's row plus a position's row
figure = go.Figure()
for colour, depth in zip(plots.COLOURS, (6, 12, 24, 48), strict=False):
    for dash, scaled in (("solid", False), ("dash", True)):
        stream, sizes = start, [float(start.std())]
        for _ in range(2 * depth):
            matrix = 0.02 * torch.randn(width, width, generator=generator)
            matrix = matrix / math.sqrt(2 * depth) if scaled else matrix
            stream = stream + torch.nn.functional.layer_norm(stream, (width,)) @ matrix
            sizes.append(float(stream.std()))
        name = f"{depth} blocks, {'scaled' if scaled else 'all alike'}"
        print(f"{name:22} standard deviation at the top {sizes[-1]:.2f}")
        figure.add_scatter(
            x=[n / (2 * depth) for n in range(2 * depth + 1)],
            y=sizes,
            name=f"{depth} blocks",
            mode="lines",
            legendgroup=depth,
            showlegend=not scaled,
            line={"color": colour, "dash": dash},
            hovertemplate=f"{name}<br>%{{x:.0%}} of the way up: %{{y:.2f}}<extra></extra>",
        )
figure.update_xaxes(title_text="how far up the model", tickformat=".0%")
figure.update_yaxes(title_text="standard deviation of the stream", rangemode="tozero")
figure.update_layout(height=440, legend={"orientation": "h", "y": -0.22})
figure.show()

# %% [markdown]
# With equal matrices the stream of the deepest model arrives almost three times as large as that of the shallowest
# one, because $\sqrt{48/6} = 2.8$. With the scaled ones all depths end at the same size, about $\sqrt{0.307} = 0.55$:
# each branch contributes its share of a fixed total.
#
# ## Exercise 1 · `parameter_count`
#
# Count the parameters of a GPT from its settings, before there is one. A block has two norms, attention with four
# matrices, and a feed-forward network with two; every one of these matrices is followed by adding a bias. Then come
# the two tables and the norm at the top.
#
# *Difficulty 2 of 5 · 10 minutes · 2 points*


# %% exercise="parameter_count" difficulty=2 minutes=10 forbid=["numel", "parameters", "state_dict"]
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
    ### BEGIN SOLUTION
    d_model, d_ff = config.d_model, config.d_ff
    attention = 4 * d_model * d_model + 4 * d_model
    feed_forward = 2 * d_model * d_ff + d_ff + d_model
    norms = 2 * (d_model + d_model)
    final_norm = d_model + d_model
    tables = (config.vocab_size + config.context) * d_model
    count = config.n_layers * (attention + feed_forward + norms) + final_norm
    return count + tables if embeddings else count
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Write down the shape of each parameter of one block. There are sixteen of them:
# four matrices and four biases in attention, two and two in the feed-forward network, and two vectors in each
# norm.</details>
# <details><summary>A bigger nudge</summary>One of the settings plays no part at all: heads cut the matrices up, and
# add nothing. Of what stands outside the blocks, the norm belongs to both counts and the tables to one.</details>

# %% test="parameter_count" points=2
from coursekit import check

import torch
from torch import nn

gpt2_small = GPTConfig(vocab_size=50257, context=1024, d_model=768, n_layers=12, n_heads=12, d_ff=3072)
check.equal(parameter_count(gpt2_small), 124_439_808, "the smallest GPT-2: 12 layers, d_model 768, d_ff 3072")
check.equal(parameter_count(gpt2_small, embeddings=False), 85_056_000, "the same without its two tables")
by_hand = GPTConfig(vocab_size=5, context=3, d_model=2, n_layers=1, n_heads=1, d_ff=3)
check.equal(parameter_count(by_hand), 69, "5 tokens, context 3, d_model 2, one block with d_ff 3: 16 + 49 + 4")
### BEGIN HIDDEN TESTS
sizes = {
    "medium": (1024, 24, 16, 354_823_168),
    "large": (1280, 36, 20, 774_030_080),
    "xl": (1600, 48, 25, 1_557_611_200),
}
for name, (d_model, n_layers, n_heads, count) in sizes.items():
    config = GPTConfig(50257, 1024, d_model, n_layers, n_heads, 4 * d_model)
    check.equal(parameter_count(config), count, f"GPT-2 {name}")
for vocab_size, context, d_model, n_layers, n_heads, d_ff in (
    (61, 17, 12, 3, 4, 31),
    (2, 1, 1, 1, 1, 1),
    (9, 40, 10, 7, 5, 3),
):
    layer = nn.TransformerEncoderLayer(d_model, n_heads, d_ff, device="meta")
    layers, norm = [layer] * n_layers, nn.LayerNorm(d_model, device="meta")
    tables = [nn.Embedding(vocab_size, d_model, device="meta"), nn.Embedding(context, d_model, device="meta")]
    config = GPTConfig(vocab_size, context, d_model, n_layers, n_heads, d_ff, dropout=0.1)
    case = f"V={vocab_size}, context {context}, d_model={d_model}, {n_layers} layers, d_ff={d_ff}"
    for embeddings, parts in ((True, [*layers, norm, *tables]), (False, [*layers, norm])):
        found = parameter_count(config, embeddings)
        want = sum(p.numel() for part in parts for p in part.parameters())
        check.equal(found, want, f"{case}, {'with' if embeddings else 'without'} the tables, counted by PyTorch")
### END HIDDEN TESTS


# %% alternative="parameter_count"
def parameter_count(config, embeddings=True):
    d, f = config.d_model, config.d_ff
    products = [(d, d)] * 4 + [(d, f), (f, d)]
    print("one block:", products)
    block = sum((rows + 1) * columns for rows, columns in products) + 4 * d
    total = sum(block for _ in range(config.n_layers)) + 2 * d
    if embeddings:
        total += config.vocab_size * d + config.context * d
    return total


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

# %% [markdown]
# ## Exercise 2 · `initialise`
#
# Now the first weights. GPT-2 draws all matrices from a normal distribution with standard deviation 0.02, whatever
# their shape, with one exception. The matrices that write to the residual stream are scaled down by $\sqrt{2L}$, for
# the reason in the picture. Two matrices of a block write to the stream: `w_o` of attention and `w_out` of the
# feed-forward network. With 12 blocks they get $0.02/\sqrt{24} = 0.0041$.
#
# Write `initialise`. It does not know the class of the model. It goes by the names of the parameters, and overwrites
# them where they are.
#
# *Difficulty 2 of 5 · 15 minutes · 3 points*


# %% exercise="initialise" difficulty=2 minutes=15
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
    ### BEGIN SOLUTION
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
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>One loop over <code>named_parameters()</code> and four cases. Tensors have methods
# that fill them in place; their names end in an underscore.</details>
# <details><summary>A bigger nudge</summary>Changing a parameter in place while autograd watches is an error: switch it
# off around the loop. Make one generator before the loop. Made inside the loop it would begin anew each time, and
# matrices of the same shape would be equal.</details>

# %% test="initialise" points=3
from coursekit import check

import torch

stack = stack_of_blocks(64, 4, 96, 1)
initialise(stack, n_layers=8)
state = stack.state_dict()
spreads = {"table": 0.02, "blocks.0.attention.w_q": 0.02, "blocks.0.feed_forward.w_in": 0.02}
spreads |= {"blocks.0.attention.w_o": 0.005, "blocks.0.feed_forward.w_out": 0.005}
found = torch.stack([state[name].std() for name in spreads])
what = "8 layers: the standard deviations of table, w_q, w_in (0.02) and of w_o, w_out (0.02 / sqrt(16) = 0.005)"
check.close(found, torch.tensor(list(spreads.values())), what, atol=0.0, rtol=0.12)
check.equal(state["blocks.0.norm_1.weight"], torch.ones(64), "the weight of a norm")
check.equal(state["blocks.0.feed_forward.b_in"], torch.zeros(96), "a bias")
### BEGIN HIDDEN TESTS
for n_layers, n_blocks, seed in ((8, 2, 3), (2, 1, 0)):
    stack = stack_of_blocks(64, 4, 96, n_blocks)
    initialise(stack, n_layers, seed)
    state = stack.state_dict()
    narrow = 0.02 / (2 * n_layers) ** 0.5
    pools = {0.02: [], narrow: []}
    for name, w in state.items():
        if w.ndim == 2:
            spread = narrow if name.rpartition(".")[2] in ("w_o", "w_out") else 0.02
            pools[spread].append(w.flatten() / spread)
            # 4,096 entries or more: the sample's deviation is within 1.1% of the true one two times in three.
            check.close(
                float(pools[spread][-1].std()),
                1.0,
                f"{n_layers} layers: the deviation of {name}, over {spread:.4f}",
                atol=0.1,
            )
            check.close(
                float(pools[spread][-1].mean()),
                0.0,
                f"{n_layers} layers: the mean of {name}, over {spread:.4f}",
                atol=0.14,
            )
        else:
            want = torch.ones_like(w) if name.endswith("weight") else torch.zeros_like(w)
            check.equal(w, want, f"the vector {name}")
    drawn = torch.cat(pools[0.02] + pools[narrow])
    beyond = float((drawn.abs() > 2.5).double().mean())
    check.close(beyond, 0.0124, "normal numbers: the share beyond 2.5 standard deviations", atol=0.006)
    in_blocks = [state[name] for name in state if name.startswith("blocks") and state[name].shape == (64, 64)]
    for i, one in enumerate(in_blocks):
        for other in in_blocks[:i]:
            overlap = float((one * other).mean() / (one.std() * other.std()))
            check.close(overlap, 0.0, "two matrices are independent of each other (their correlation)", atol=0.15)
again, another, default, zero = (stack_of_blocks(64, 4, 96, 1) for _ in range(4))
initialise(again, 2, 5)
initialise(another, 2, 6)
initialise(default, 2)
initialise(zero, 2, 0)
five, six = again.state_dict(), another.state_dict()
for name, w in five.items():
    check.equal(str(w.dtype), "torch.float32", f"the dtype of {name}")
    if w.ndim == 2:
        check.that(not torch.equal(w, six[name]), f"another seed gives another {name}")
initialise(another, 2, 5)
for name, w in another.state_dict().items():
    check.equal(
        w,
        five[name],
        f"the same seed gives the same {name}",
        hint="Draw from a torch.Generator that is seeded with seed.",
    )
wanted = zero.state_dict()
for name, w in default.state_dict().items():
    check.equal(w, wanted[name], f"the seed is 0 where it is left out: {name}")
### END HIDDEN TESTS


# %% alternative="initialise"
def initialise(model, n_layers, seed=0):
    torch.manual_seed(seed)
    for name, parameter in reversed(list(model.named_parameters())):
        kind = name.split(".")[-1]
        if parameter.dim() == 1:
            nn.init.ones_(parameter) if kind == "weight" else nn.init.zeros_(parameter)
            continue
        nn.init.normal_(parameter, std=0.02)
        if kind in ("w_o", "w_out"):
            parameter.data /= (2 * n_layers) ** 0.5


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

# %% [markdown]
# ## Exercise 3 · `GPT`
#
# Put the model together. You need little code: two tables, a list of blocks, a norm. Most of the task is to get the
# few lines exactly right, since nearly every slip here still trains. `parameter_gradients` is given; the tests use it,
# so leave it as it is.
#
# *Difficulty 3 of 5 · 30 minutes · 9 points*


# %% exercise="GPT" difficulty=3 minutes=30 forbid=["GPT2LMHeadModel", "GPT2Model", "TransformerEncoder", "TransformerDecoder", "Linear"]
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
        ### BEGIN SOLUTION
        self.config = config
        self.token_embedding = nn.Parameter(torch.zeros(config.vocab_size, config.d_model))
        self.position_embedding = nn.Parameter(torch.zeros(config.context, config.d_model))
        settings = BlockConfig(config.d_model, config.n_heads, config.d_ff, dropout=config.dropout, eps=config.eps)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(config.n_layers))
        self.final_norm = LayerNorm(config.d_model, config.eps)
        self.dropout = nn.Dropout(config.dropout)
        initialise(self, config.n_layers, config.seed)
        ### END SOLUTION

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
        ### BEGIN SOLUTION
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
        ### END SOLUTION

    def parameter_gradients(self, ids: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(logits * direction).sum()`` for every parameter, by name."""
        total = (self(ids) * direction).sum()
        self.zero_grad()
        if total.requires_grad:
            total.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}


# %% [markdown]
# <details><summary>A nudge</summary>The formula in "The idea" is the whole forward pass. A table is looked up by
# indexing: a tensor of numbers in the square brackets gives a tensor of rows.</details>
# <details><summary>A bigger nudge</summary>A list of blocks in a plain Python list is invisible to
# <code>parameters()</code> and <code>state_dict()</code>. A tied head is no parameter of its own: use the table a
# second time in <code>forward</code>, and the gradients of both uses add up by themselves. When all parts are there,
# the last line of the constructor sets their first values.</details>

# %% test="GPT" points=4
from coursekit import check

import torch
from torch.nn import functional as F

# With zeros in all matrices of the block nothing is added to the stream: what is left is tables, norm and head.
model = GPT(GPTConfig(vocab_size=7, context=5, d_model=4, n_layers=1, n_heads=2, d_ff=8))
state = {name: torch.zeros_like(w) for name, w in model.state_dict().items()}
check.equal(
    sorted(name for name in state if not name.startswith("blocks.")),
    ["final_norm.bias", "final_norm.weight", "position_embedding", "token_embedding"],
    "the parameters outside the blocks",
    hint="The head has no parameter of its own, not even under a second name: use token_embedding again in forward. "
    "Tables are nn.Parameter, not nn.Embedding.",
)
draw = torch.Generator().manual_seed(0)
table, places = torch.randn(7, 4, generator=draw), torch.randn(5, 4, generator=draw)
weight, bias = torch.tensor([1.0, 2.0, -1.0, 0.5]), torch.tensor([0.0, 0.5, 0.0, -1.0])
state |= {"token_embedding": table, "position_embedding": places, "final_norm.weight": weight, "final_norm.bias": bias}
model.load_state_dict(state)
ids = torch.tensor([[3, 0, 6], [1, 1, 2]])
wanted = F.layer_norm(table[ids] + places[:3], (4,), weight, bias) @ table.T
check.close(model(ids), wanted, "a block that adds nothing: norm of (token row + position row), times the table")
check.raises(ValueError, lambda: model(torch.zeros(1, 6, dtype=torch.int64)), "six tokens, and a context of five")
### BEGIN HIDDEN TESTS
from transformers import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel
from transformers.utils import logging

logging.set_verbosity_error()


def drawn_state(V, context, d, n_layers, d_ff, seed, dtype=torch.float64):
    draw = torch.Generator().manual_seed(check.seed(seed))
    shapes = {
        "token_embedding": (V, d),
        "position_embedding": (context, d),
        "final_norm.weight": (d,),
        "final_norm.bias": (d,),
    }
    for i in range(n_layers):
        here = {f"attention.w_{part}": (d, d) for part in "qkvo"} | {f"attention.b_{part}": (d,) for part in "qkvo"}
        here |= {f"norm_{n}.{part}": (d,) for n in (1, 2) for part in ("weight", "bias")}
        here |= {
            "feed_forward.w_in": (d, d_ff),
            "feed_forward.b_in": (d_ff,),
            "feed_forward.w_out": (d_ff, d),
            "feed_forward.b_out": (d,),
        }
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in here.items()}
    state = {name: torch.randn(shape, generator=draw, dtype=dtype) for name, shape in shapes.items()}
    for name, w in state.items():
        if name.startswith("blocks") and w.ndim == 2:
            w /= w.shape[0] ** 0.5
        elif w.ndim == 1:
            w *= 0.3
            w += 1.0 if name.endswith("weight") else 0.0
    return state


def gpt2(state, n_heads, eps=1e-5):
    (V, d), dtype = state["token_embedding"].shape, state["token_embedding"].dtype
    settings = {"n_inner": state["blocks.0.feed_forward.b_in"].shape[0], "n_head": n_heads, "layer_norm_epsilon": eps}
    n_layer = sum(name.endswith("norm_1.weight") for name in state)
    settings |= {"n_positions": len(state["position_embedding"]), "n_embd": d, "n_layer": n_layer, "vocab_size": V}
    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": None, "eos_token_id": None}
    config = GPT2Config(activation_function="gelu_new", **settings, **none)
    config._attn_implementation = "eager"
    moved = {"transformer.wte.weight": state["token_embedding"], "transformer.wpe.weight": state["position_embedding"]}
    moved |= {"lm_head.weight": state["token_embedding"]}
    moved |= {f"transformer.ln_f.{part}": state[f"final_norm.{part}"] for part in ("weight", "bias")}
    for i in range(n_layer):
        mine, theirs = f"blocks.{i}.", f"transformer.h.{i}."
        for short, long in (("w", "weight"), ("b", "bias")):
            joined = torch.cat([state[f"{mine}attention.{short}_{part}"] for part in "qkv"], dim=-1)
            moved[f"{theirs}attn.c_attn.{long}"] = joined
            moved[f"{theirs}attn.c_proj.{long}"] = state[f"{mine}attention.{short}_o"]
            moved[f"{theirs}mlp.c_fc.{long}"] = state[f"{mine}feed_forward.{short}_in"]
            moved[f"{theirs}mlp.c_proj.{long}"] = state[f"{mine}feed_forward.{short}_out"]
            for n in (1, 2):
                moved[f"{theirs}ln_{n}.{long}"] = state[f"{mine}norm_{n}.{long}"]
    twin = GPT2LMHeadModel(config).to(dtype).eval()
    twin.load_state_dict(moved)
    return twin


for batch, length, V, context, d, n_layers, n_heads, d_ff, eps in (
    (3, 7, 19, 9, 12, 3, 4, 20, 1e-5),
    (1, 9, 19, 9, 12, 2, 3, 48, 0.1),
    (2, 1, 5, 4, 6, 1, 1, 7, 1e-5),
):
    state = drawn_state(V, context, d, n_layers, d_ff, seed=length)
    model = GPT(GPTConfig(V, context, d, n_layers, n_heads, d_ff, eps=eps))
    model.double()
    model.load_state_dict(state)
    ids = torch.randint(V, (length, batch), generator=torch.Generator().manual_seed(check.seed(batch))).T
    case = (
        f"B={batch}, T={length} of {context}, d_model={d}, {n_layers} layers, {n_heads} heads, d_ff={d_ff}, eps={eps:g}"
    )
    want = gpt2(state, n_heads, eps)(ids, use_cache=False).logits.detach()
    check.close(model(ids), want, f"{case}, float64: the logits equal those of GPT2LMHeadModel", atol=1e-9)
state = drawn_state(53, 40, 24, 4, 60, seed=40, dtype=torch.float32)
model = GPT(GPTConfig(53, 40, 24, 4, 2, 60))
model.load_state_dict(state)
ids = torch.randint(53, (2, 33), generator=torch.Generator().manual_seed(check.seed(1)))
want = gpt2(state, 2)(ids, use_cache=False).logits.detach()
check.close(model(ids), want, "4 layers, T=33 of 40, float32: the logits equal those of GPT2LMHeadModel", atol=1e-4)
check.raises(ValueError, lambda: model(torch.zeros(2, 41, dtype=torch.int64)), "41 tokens, and a context of 40")
### END HIDDEN TESTS

# %% test="GPT" points=3
from coursekit import check

import torch

model = GPT(GPTConfig(vocab_size=11, context=8, d_model=12, n_layers=2, n_heads=3, d_ff=24))
draw = torch.Generator().manual_seed(1)
model.load_state_dict({name: torch.randn(w.shape, generator=draw) / 2 for name, w in model.state_dict().items()})
ids = torch.tensor([[4, 0, 9, 9, 2], [1, 10, 3, 5, 5]])
changed = torch.cat([ids[:, :3], 10 - ids[:, 3:]], dim=1)
check.close(
    model(changed)[:, :3], model(ids)[:, :3].detach(), "the logits at positions 0 to 2 do not depend on tokens 3 and 4"
)
check.close(model(ids[:, :3]), model(ids)[:, :3].detach(), "the first three tokens alone give the same logits")
### BEGIN HIDDEN TESTS
from transformers import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel
from transformers.utils import logging

logging.set_verbosity_error()

# Every gradient, the tied table's included: it is used at the bottom and at the top.
V, context, d, n_heads, d_ff = 13, 6, 12, 3, 20
config = GPT2Config(
    vocab_size=V, n_positions=context, n_embd=d, n_layer=2, n_head=n_heads, n_inner=d_ff, activation_function="gelu_new",
    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
)  # fmt: skip
config._attn_implementation = "eager"
twin = GPT2LMHeadModel(config).double().eval()
draw = torch.Generator().manual_seed(check.seed(5))
with torch.no_grad():
    for w in twin.parameters():
        w.copy_(torch.randn(w.shape, generator=draw, dtype=torch.float64) * (0.3 if w.ndim == 2 else 0.5))


def renamed(values):
    """What belongs to the twin's parameters, under the names of the GPT."""
    mine = {"token_embedding": values["transformer.wte.weight"], "position_embedding": values["transformer.wpe.weight"]}
    for long, short in (("weight", "w"), ("bias", "b")):
        mine[f"final_norm.{long}"] = values[f"transformer.ln_f.{long}"]
        for i in range(2):
            there, here = f"transformer.h.{i}.", f"blocks.{i}."
            for part, value in zip("qkv", values[f"{there}attn.c_attn.{long}"].chunk(3, dim=-1), strict=True):
                mine[f"{here}attention.{short}_{part}"] = value
            mine[f"{here}attention.{short}_o"] = values[f"{there}attn.c_proj.{long}"]
            mine[f"{here}feed_forward.{short}_in"] = values[f"{there}mlp.c_fc.{long}"]
            mine[f"{here}feed_forward.{short}_out"] = values[f"{there}mlp.c_proj.{long}"]
            for n in (1, 2):
                mine[f"{here}norm_{n}.{long}"] = values[f"{there}ln_{n}.{long}"]
    return mine


model = GPT(GPTConfig(V, context, d, 2, n_heads, d_ff))
model.double()
model.load_state_dict(renamed({name: w.detach() for name, w in twin.named_parameters()}))
ids = torch.randint(V, (3, 6), generator=torch.Generator().manual_seed(check.seed(6)))
direction = torch.randn(3, 6, V, generator=torch.Generator().manual_seed(check.seed(7)), dtype=torch.float64)
(twin(ids, use_cache=False).logits * direction).sum().backward()
wanted = renamed({name: w.grad for name, w in twin.named_parameters()})
found = [model.parameter_gradients(ids, direction) for _ in range(2)][-1]  # asked twice: nothing piles up
for name, gradient in wanted.items():
    check.that(
        found.get(name) is not None,
        f"a gradient reaches {name}",
        hint="Look for .data, .detach(), .clone() or torch.no_grad().",
    )
    check.close(found[name], gradient, f"the gradient of {name}", atol=1e-9)
for row in range(3):
    check.close(model(ids[row : row + 1])[0], model(ids)[row].detach(), "a sequence alone and in a batch", atol=1e-9)

# Dropout: nowhere in evaluation, and in training also on the sum of the embeddings.
careless = GPT(GPTConfig(V, context, d, 2, n_heads, d_ff, dropout=0.5))
careless.double()
careless.load_state_dict(renamed({name: w.detach() for name, w in twin.named_parameters()}))
careless.eval()
torch.manual_seed(check.seed(0))
check.close(careless(ids), model(ids).detach(), "dropout 0.5 in evaluation mode changes nothing", atol=1e-9)
silent = {name: w if "embedding" in name or "final" in name else 0 * w for name, w in careless.state_dict().items()}
careless.load_state_dict(silent)
still = careless(ids).detach()
careless.train()
torch.manual_seed(check.seed(1))
apart = float((careless(ids) - still).abs().max())
check.that(
    apart > 1e-3,
    "in training mode dropout reaches the sum of the embeddings",
    why=f"blocks that add nothing, dropout 0.5: the logits in training and in evaluation mode differ by at most {apart:.1g}",
)
# Every position's row is minus the row of token 3, and all tokens are 3: the sum is zero, and so is what dropout makes of it.
zero = silent | {"position_embedding": -silent["token_embedding"][3].expand(context, d)}
threes = torch.full((1, 2), 3)
careless.load_state_dict(zero)
in_training = careless(threes).detach()
careless.eval()
check.close(
    in_training,
    careless(threes).detach(),
    "rows of token and position that cancel: dropout is applied to their sum, and to zero it does nothing",
    atol=1e-9,
)
careless.train()
norms = {name: 1 + 0 * w for name, w in zero.items() if name.startswith("blocks") and w.ndim == 1}
matrices = {
    name: torch.eye(*w.shape, dtype=w.dtype) for name, w in zero.items() if name.startswith("blocks") and w.ndim == 2
}
careless.load_state_dict(zero | norms | matrices)
torch.manual_seed(check.seed(2))
apart = max(float((careless(threes) - careless(threes)).abs().max()) for _ in range(5))
check.that(
    apart > 1e-3,
    "in training mode the blocks have dropout, too",
    why=f"embeddings that cancel, dropout 0.5 in the settings: repeated calls differ by at most {apart:.1g}",
    hint="BlockConfig has a dropout of its own: pass it on.",
)
### END HIDDEN TESTS

# %% test="GPT" points=2
from coursekit import check

import torch

settings = {"vocab_size": 40, "context": 24, "d_model": 48, "n_layers": 3, "n_heads": 3, "d_ff": 80}
state = GPT(GPTConfig(**settings)).state_dict()
outside = sorted(name for name in state if not name.startswith("blocks."))
check.equal(
    outside,
    ["final_norm.bias", "final_norm.weight", "position_embedding", "token_embedding"],
    "the parameters outside the blocks",
    hint="The head has no parameter of its own. Tables are nn.Parameter, not nn.Embedding.",
)
check.equal(sum(w.numel() for w in state.values()), 55_392, "the number of parameters with 3 layers")
check.close(float(state["token_embedding"].std()), 0.02, "the deviation of the first token table", atol=0.0, rtol=0.15)
### BEGIN HIDDEN TESTS
per_block = [
    "attention.b_k",
    "attention.b_o",
    "attention.b_q",
    "attention.b_v",
    "attention.w_k",
    "attention.w_o",
    "attention.w_q",
]
per_block += ["attention.w_v", "feed_forward.b_in", "feed_forward.b_out", "feed_forward.w_in", "feed_forward.w_out"]
per_block += ["norm_1.bias", "norm_1.weight", "norm_2.bias", "norm_2.weight"]
inside = sorted(name for name in state if name.startswith("blocks."))
check.equal(inside, [f"blocks.{i}.{name}" for i in range(3) for name in per_block], "the parameters of three blocks")
for name, w in state.items():
    check.equal(str(w.dtype), "torch.float32", f"the dtype of {name}")
    if w.ndim == 2:
        # Smallest: 1,152 entries, of which the sample's deviation is within 2.1% two times in three.
        spread = 0.02 / 6**0.5 if name.endswith(("w_o", "w_out")) else 0.02
        check.close(float(w.std()), spread, f"the deviation of the first {name}", atol=0.0, rtol=0.2)
    else:
        want = torch.ones_like(w) if name.endswith("weight") else torch.zeros_like(w)
        check.equal(w, want, f"the first {name}")
check.equal(list(state["position_embedding"].shape), [24, 48], "the shape of the position table")
one, other = state["blocks.0.attention.w_q"], state["blocks.2.attention.w_q"]
check.that(not torch.equal(one, other), "the first and the last block begin with different weights")
again, another = (GPT(GPTConfig(**settings, seed=seed)).state_dict() for seed in (0, 1))
for name in ("token_embedding", "position_embedding", "blocks.1.feed_forward.w_in", "blocks.2.attention.w_o"):
    check.equal(
        again[name],
        state[name],
        f"the same seed gives the same {name}",
        hint="Draw from a torch.Generator that is seeded with seed.",
    )
    check.that(not torch.equal(another[name], state[name]), f"another seed gives another {name}")
model = GPT(GPTConfig(**settings))
found = [getattr(model.config, name) for name in settings]
check.equal(found, list(settings.values()), "the attribute config holds the settings")
### END HIDDEN TESTS


# %% alternative="GPT"
class GPT(nn.Module):
    # Lookups as products with one-hot rows, the head as einsum, dropout by function, an attribute more than asked for.
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.d_model = config.d_model
        block = BlockConfig(
            d_model=config.d_model, n_heads=config.n_heads, d_ff=config.d_ff, eps=config.eps, dropout=config.dropout
        )
        self.blocks = nn.ModuleList()
        for _ in range(config.n_layers):
            self.blocks.append(Block(block))
        self.position_embedding = nn.Parameter(torch.randn(config.context, config.d_model))
        self.token_embedding = nn.Parameter(torch.randn(config.vocab_size, config.d_model))
        self.final_norm = LayerNorm(config.d_model, eps=config.eps)
        initialise(self, n_layers=config.n_layers, seed=config.seed)
        print("made a model of", sum(p.numel() for p in self.parameters()))

    def forward(self, ids):
        if ids.size(1) > len(self.position_embedding):
            raise ValueError("too long")
        one_hot = torch.nn.functional.one_hot(ids, self.config.vocab_size).to(self.token_embedding.dtype)
        places = torch.nn.functional.embedding(torch.arange(ids.size(1)), self.position_embedding)
        x = one_hot @ self.token_embedding + places[None]
        x = torch.nn.functional.dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        return torch.einsum("btd,vd->btv", self.final_norm(x), self.token_embedding)

    def parameter_gradients(self, ids, direction):
        total = (self(ids) * direction).sum()
        self.zero_grad()
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

# %% [markdown]
# ## Exercise 4 · `next_token_loss`
#
# The model guesses at every position. How good are the guesses? Take the mean of $-\ln p$ over all guesses whose
# answer is known, where $p$ is the probability that the model gave to the right token. Sequences of a batch may have
# different lengths; then the short ones are filled up with padding, and a guess that has only padding for an answer is
# no lesson.
#
# *Difficulty 2 of 5 · 15 minutes · 4 points*


# %% exercise="next_token_loss" difficulty=2 minutes=15
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
    ### BEGIN SOLUTION
    targets = ids[:, 1:]  # (B, T - 1): what position t has to guess stands at t + 1
    log_p = torch.log_softmax(logits[:, :-1], dim=-1)  # (B, T - 1, V)
    surprise = -log_p.gather(-1, targets.unsqueeze(-1))[..., 0]  # (B, T - 1)
    counts = torch.ones_like(targets, dtype=torch.bool) if mask is None else mask[:, 1:]
    if not counts.any():
        raise ValueError("there is no next token to guess")
    return surprise[counts].mean()
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Of T positions the last has no answer, and of T tokens the first is nobody's
# answer. Drop one from each side, and the two line up.</details>
# <details><summary>A bigger nudge</summary>The mask goes with the answers, not with the guesses: it is moved by one
# place as they are. Take the logarithm and the softmax in one function; a probability that has been rounded to zero
# has no logarithm.</details>

# %% test="next_token_loss" points=4
from coursekit import check

import torch
from torch.nn import functional as F

# One guess, from "The idea": logits 2, -1, 1, and token 2 comes next. What stands at the last position has no answer.
logits = torch.tensor([[[2.0, -1.0, 1.0], [5.0, 0.0, 1.0]]])
check.close(next_token_loss(logits, torch.tensor([[0, 2]])), torch.tensor(1.349012), "one guess: -ln 0.2595")
# Logits of zero give every one of 4 tokens the probability 1/4, so each guess costs ln 4, with and without padding.
real = torch.tensor([[True, True, True], [True, True, False]])
for mask in (None, real):
    found = next_token_loss(torch.zeros(2, 3, 4), torch.tensor([[1, 3, 0], [2, 2, 0]]), mask)
    check.close(
        found, torch.tensor(1.386294), f"nothing but zeros, {'no' if mask is None else 'one'} padding token: ln 4"
    )
check.raises(ValueError, lambda: next_token_loss(torch.zeros(2, 1, 4), torch.tensor([[1], [2]])), "one token, no guess")
### BEGIN HIDDEN TESTS


def by_torch(logits, ids, mask=None):
    labels = ids if mask is None else ids.masked_fill(~mask, -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


for batch, length, V in ((3, 7, 11), (1, 2, 5), (5, 5, 5), (2, 63, 17)):
    draw = torch.Generator().manual_seed(check.seed(length))
    logits = torch.randn(length, batch, V, generator=draw, dtype=torch.float64).transpose(0, 1)
    ids = torch.randint(V, (batch, length), generator=draw)
    case = f"B={batch}, T={length}, V={V}"
    check.close(next_token_loss(logits, ids), by_torch(logits, ids), case, atol=1e-12)
    check.close(next_token_loss(logits.float(), ids), by_torch(logits.float(), ids), f"{case}, float32")
    # Sequences that end, that begin late, and one of padding alone.
    mask = torch.arange(length) < torch.arange(batch, 0, -1)[:, None] + 1
    for name, real in (("padding on the right", mask), ("padding on the left", mask.flip(1))):
        if bool(real[:, 1:].any()):
            check.close(next_token_loss(logits, ids, real), by_torch(logits, ids, real), f"{case}, {name}", atol=1e-12)
            check.gradients(
                lambda x, ids=ids, real=real: next_token_loss(x, ids, real),
                lambda x, ids=ids, real=real: by_torch(x, ids, real),
                [logits],
                f"{case}, {name}: the gradient of the logits",
                atol=1e-12,
            )
draw = torch.Generator().manual_seed(check.seed(3))
logits, ids = torch.randn(3, 8, 6, generator=draw), torch.randint(6, (3, 8), generator=draw)
check.gradients(
    lambda x: next_token_loss(x, ids), lambda x: by_torch(x, ids), [logits], "the gradient of the logits, no mask"
)
real = torch.ones(3, 8, dtype=torch.bool)
real[1, 3:] = False
real[2] = False
check.close(next_token_loss(logits, ids, real), by_torch(logits, ids, real), "one sequence of padding alone")
padded = torch.where(real, ids, 0)
check.close(
    next_token_loss(logits, padded, real), by_torch(logits, ids, real), "what stands in the padding plays no part"
)
large = torch.tensor([1e4, -1e4, 1e4, -1e4]).expand(2, 5, 4)
ids = torch.tensor([[0, 1, 2, 3, 0], [3, 2, 1, 0, 0]])
check.close(next_token_loss(large, ids), by_torch(large, ids), "logits of plus and minus 10,000", atol=1e-2)
check.raises(
    ValueError,
    lambda: next_token_loss(
        torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64), torch.tensor([[True, False, False]] * 2)
    ),
    "only the first token of each sequence is real",
)
### END HIDDEN TESTS


# %% alternative="next_token_loss"
def next_token_loss(logits, ids, mask=None):
    total, number = 0.0, 0
    for b in range(ids.shape[0]):
        for t in range(ids.shape[1] - 1):
            if mask is None or mask[b, t + 1]:
                guess = logits[b, t].double()
                total = total + torch.logsumexp(guess, dim=0) - guess[ids[b, t + 1]]
                number += 1
    if number == 0:
        raise ValueError("nothing to guess")
    return (total / number).to(logits.dtype)


# %% alternative="next_token_loss"
def next_token_loss(logits, ids, mask=None):
    labels = ids[:, 1:].clone()
    if mask is not None:
        labels[~mask[:, 1:]] = -100
    if (labels == -100).all():
        raise ValueError("nothing to guess")
    return nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), labels.reshape(-1))


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

# %% [markdown]
# ## Exercise 5 · `generate`
#
# To write, ask for the next token, append it, and ask again. Here the most probable token is always taken: *greedy*
# decoding. Two details decide between right and almost right. The model cannot see more than `context` tokens, and a
# model that was being trained is in training mode, where dropout makes its answers random.
#
# *Difficulty 3 of 5 · 15 minutes · 4 points*


# %% exercise="generate" difficulty=3 minutes=15
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
    ### BEGIN SOLUTION
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
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Which of the T guesses that the model returns is about a token that is not there
# yet?</details>
# <details><summary>A bigger nudge</summary>Keep the whole text for the answer, and cut a window out of it for the
# model, anew each time. A negative start in a slice does the right thing also while the text is shorter than the
# window. Remember <code>model.training</code> before you change it.</details>

# %% test="generate" points=4
from coursekit import check

import torch

# A model that goes by position: at position 0 it repeats the token, at 1 to 5 it says 4, 1, 5, 2, 3 whatever it has read.
model = GPT(GPTConfig(vocab_size=6, context=6, d_model=6, n_layers=1, n_heads=2, d_ff=6))
state = {name: torch.zeros_like(w) for name, w in model.state_dict().items()}
state["token_embedding"], state["final_norm.weight"] = torch.eye(6), torch.ones(6)
state["position_embedding"][1:] = 10 * torch.eye(6)[[4, 1, 5, 2, 3]]
model.load_state_dict(state)
check.equal(
    generate(model, torch.tensor([[0, 2], [2, 3]]), 8),
    torch.tensor([[0, 2, 4, 1, 5, 2, 3, 3, 3, 3], [2, 3, 4, 1, 5, 2, 3, 3, 3, 3]]),
    "a model that says 4 1 5 2 3 at positions 1 to 5, context 6: once the window is full, position 5 speaks each time",
)
check.raises(ValueError, lambda: generate(model, torch.tensor([[0]]), -1), "minus one token")
### BEGIN HIDDEN TESTS
from transformers import GenerationConfig, GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel
from transformers.utils import logging

logging.set_verbosity_error()
check.raises(ValueError, lambda: generate(model, torch.zeros(2, 0, dtype=torch.int64), 3), "an empty prompt")
check.equal(generate(model, torch.tensor([[4, 0, 1]]), 0), torch.tensor([[4, 0, 1]]), "no tokens: the prompt")


# Waves for weights: they make a model whose text is never the same for long. In float64 no two logits are as good as equal.
V, context, d = 17, 12, 12
config = GPT2Config(
    vocab_size=V, n_positions=context, n_embd=d, n_layer=2, n_head=3, n_inner=20, activation_function="gelu_new",
    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
)  # fmt: skip
config._attn_implementation = "eager"
twin = GPT2LMHeadModel(config).double().eval()
theirs = {}
begin = 1
for name, w in twin.named_parameters():
    wave = torch.sin(0.37 * torch.arange(begin, begin + w.numel(), dtype=torch.float64) ** 2).view(w.shape)
    begin += w.numel()
    with torch.no_grad():
        if w.ndim == 2:
            w.copy_(wave * (0.7 if "wte" in name else 2.1 if "wpe" in name else 1.0))
        else:
            w.copy_(0.4 * wave + 1 if name.endswith("weight") else 0.14 * wave * ("ln_f" not in name))
    theirs[name] = w.detach().clone()
mine = {"token_embedding": theirs["transformer.wte.weight"], "position_embedding": theirs["transformer.wpe.weight"]}
for long, short in (("weight", "w"), ("bias", "b")):
    mine[f"final_norm.{long}"] = theirs[f"transformer.ln_f.{long}"]
    for i in range(2):
        there, here = f"transformer.h.{i}.", f"blocks.{i}."
        for part, value in zip("qkv", theirs[f"{there}attn.c_attn.{long}"].chunk(3, dim=-1), strict=True):
            mine[f"{here}attention.{short}_{part}"] = value
        mine[f"{here}attention.{short}_o"] = theirs[f"{there}attn.c_proj.{long}"]
        mine[f"{here}feed_forward.{short}_in"] = theirs[f"{there}mlp.c_fc.{long}"]
        mine[f"{here}feed_forward.{short}_out"] = theirs[f"{there}mlp.c_proj.{long}"]
        for n in (1, 2):
            mine[f"{here}norm_{n}.{long}"] = theirs[f"{there}ln_{n}.{long}"]
model = GPT(GPTConfig(V, context, d, 2, 3, 20, dropout=0.5))
model.double()
model.load_state_dict(mine)
prompts = torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6], [15, 3, 5, 8]])
greedy = GenerationConfig(max_new_tokens=context - 4, do_sample=False, pad_token_id=0)
want = twin.generate(prompts, attention_mask=torch.ones_like(prompts), generation_config=greedy)
torch.manual_seed(check.seed(0))
for training in (False, True):
    model.train(training)
    case = f"3 prompts of 4 tokens; the model has dropout 0.5 and is in {'training' if training else 'evaluation'} mode"
    check.equal(generate(model, prompts, context - 4), want, f"{case}: 8 more, equal to GPT2LMHeadModel.generate")
    check.equal(model.training, training, f"{case}: it is in that mode afterwards")
    check.equal(generate(model, prompts, 0), prompts, f"{case}: no tokens")
    check.equal(model.training, training, f"{case}: no tokens, and it is in that mode afterwards")
everything = (torch.arange(40) ** 2 * 3 + torch.arange(40)) % V
for batch, length, n_tokens in ((2, 5, 12), (1, 12, 2), (2, 19, 3)):
    text = everything[: batch * length].view(length, batch).T
    case = f"B={batch}, a prompt of {length} tokens and {n_tokens} more, context {context}"
    want = text
    with torch.no_grad():
        for _ in range(n_tokens):
            logits = twin(want[:, -context:], use_cache=False).logits
            want = torch.cat([want, logits[:, -1].argmax(-1)[:, None]], dim=1)
    check.equal(generate(model, text, n_tokens), want, f"{case}: GPT2LMHeadModel, window by window")

# Other weights and prompts: every new token is the model's own first choice for the window before it.
model.eval()
draw = torch.Generator().manual_seed(check.seed(11))
model.load_state_dict({name: torch.randn(w.shape, generator=draw, dtype=w.dtype) / 2 for name, w in mine.items()})
for batch, length, n_tokens in ((3, 3, 12), (1, 14, 2)):
    text = torch.randint(V, (batch, length), generator=draw)
    written = generate(model, text, n_tokens)
    case = f"B={batch}, {length} random tokens and {n_tokens} more"
    check.equal(list(written.shape), [batch, length + n_tokens], f"{case}: the shape")
    check.equal(written[:, :length], text, f"{case}: the prompt comes first")
    for end in range(length, length + n_tokens):
        chosen = model(written[:, max(0, end - context) : end])[:, -1].argmax(-1)
        check.equal(written[:, end], chosen, f"{case}: token {end} is the model's first choice")
### END HIDDEN TESTS


# %% alternative="generate"
def generate(model, ids, n_tokens):
    if n_tokens < 0:
        raise ValueError("n_tokens")
    if not ids.shape[1]:
        raise ValueError("ids")
    before = model.training
    model.train(False)
    texts = [list(map(int, row)) for row in ids]
    for text in texts:  # one sequence after the other
        for _ in range(n_tokens):
            window = torch.tensor([text[max(0, len(text) - model.config.context) :]])
            with torch.inference_mode():
                probabilities = torch.softmax(model(window)[0, len(window[0]) - 1].double(), dim=0)
            text.append(int(torch.topk(probabilities, 1).indices[0]))
    model.train(before)
    return torch.tensor(texts)


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

# %% [markdown]
# ## Look at it
#
# A model with two blocks learns an old nursery rhyme, letter by letter. It is trained twice, from the same first
# weights and on the same pieces of text: once with `next_token_loss`, and once with answers that are not shifted. Then
# each continues the same beginning, 15 letters long. The bar in the text stands where 64 letters are full, which is
# the context.

# %%
import plotly.graph_objects as go

from coursekit import plots

torch.set_num_threads(1)
parts = ["the house that Jack built", "the malt that lay in", "the rat that ate", "the cat that killed"]
parts += ["the dog that worried"]
verses = ["This is " + " ".join(reversed(parts[: n + 1])) + ".\n" for n in range(len(parts))]
text = "".join(verses)
letters = sorted(set(text))
numbers = torch.tensor([letters.index(letter) for letter in text])
settings = GPTConfig(vocab_size=len(letters), context=64, d_model=64, n_layers=2, n_heads=4, d_ff=256)


def unshifted(logits, ids):
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())


def train(loss_of, steps):
    model, losses = GPT(settings), []
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        starts = torch.randint(len(numbers) - settings.context, (8,), generator=generator)
        ids = numbers[starts[:, None] + torch.arange(settings.context)]  # (8, 64)
        loss = loss_of(model(ids), ids)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return model, losses


beginning = "This is the cat"
prompt = torch.tensor([[letters.index(letter) for letter in beginning]])
models = {}
figure = go.Figure()
runs = {"answers shifted by one": (next_token_loss, 200), "answers not shifted": (unshifted, 60)}
for name, (loss_of, steps) in runs.items():
    models[name], losses = train(loss_of, steps)
    written = "".join(letters[i] for i in generate(models[name], prompt, 100)[0])
    print(f"{name}: first loss {losses[0]:.2f}, last loss {losses[-1]:.3f}")
    print(f"    {written[: settings.context]!r} | {written[settings.context :]!r}")
    figure.add_scatter(y=losses, name=name, hovertemplate="step %{x}: loss %{y:.3f}")
print(f"guessing among {len(letters)} letters costs ln {len(letters)} = {math.log(len(letters)):.2f}")
figure.add_hline(y=math.log(len(letters)), line={"color": plots.GREY, "dash": "dot"})
figure.update_xaxes(title_text="training step")
figure.update_yaxes(title_text="loss (nats)", rangemode="tozero")
figure.update_layout(height=380, legend={"orientation": "h", "y": -0.25})
figure.show()

# %% [markdown]
# The curve of the shifted answers begins close to the dotted line. With GPT-2's first weights nearly all logits are
# close to zero, so every letter is about equally probable. A first loss far above $\ln V$ tells you that the initialisation is wrong, before any
# training. The other curve begins well below the line: the stream carries the row of the token to the top, where the
# tied head finds it again, so one logit is not small: that of the token itself. A model that is asked for its own input has a lead before it has learnt anything.
#
# Judged by the curves alone, which run would you have stopped? And judged by what the two write?
#
# Now look at what the model with the shifted answers writes. Up to the bar it knows the rhyme by heart. At the bar it begins to stammer,
# although its loss is low. Its code is right, and so is yours. What happens at letter 65? Which row of which table is
# used for the first time there?
#
# <details><summary>An answer</summary>From here on the window is full, and the guess comes from position 63. In
# training there were 64 tokens, and the last of them had no answer. So position 63 was never asked anything, its row
# of <code>position_embedding</code> has never had a gradient, and it is still about what <code>initialise</code> made
# it. The remedy is to cut pieces of <code>context + 1</code> tokens. Show the model all but the last, and use the last
# as an answer only. In <code>train</code>, write <code>torch.arange(settings.context + 1)</code> and
# <code>loss = loss_of(F.pad(model(ids[:, :-1]), (0, 0, 0, 1)), ids)</code>: what the padding puts at the last position
# has no influence on <code>next_token_loss</code>. Look at the first of the two runs: the stammer is gone.</details>
#
# One more question (the two models are in `models`). After `"This is the "` the rhyme goes on in five ways.
# Which letter does greedy decoding take, and how often? Does the word that it begins stand in the rhyme at all? What
# would it take to hear the others?
#
# ## Common mistakes
#
# - **Answers that are not shifted.** The loss falls quickly to almost zero. A loss that is too good is a bug report.
# - **Shifted twice.** HuggingFace's models shift inside the model when you pass `labels`. Pass them already shifted,
#   and the model learns to guess the token after the next. The loss looks normal, only higher.
# - **No norm before the head.** The stream grows from block to block, and so do the logits. The model trains all the
#   same, and weights from elsewhere do not fit.
# - **A head that is a copy.** At the first step there is no difference. From then on the table and the copy drift
#   apart, and the model has $V \cdot d_\text{model}$ parameters more than its paper says.
# - **The last position is never trained.** Pieces of exactly `context` tokens have no answer for the last one. All is
#   well until a text fills the window.
# - **Positions that start in the wrong place.** Counting them from the end of the window works in training, where all
#   windows are full. It shows when you generate from a short prompt.
# - **All matrices at 0.02.** Nothing breaks in a model with two blocks. The deeper the model, the larger the stream at
#   the top, as the picture shows.
# - **A mean of means.** Averaging each sequence first gives a token of a short sequence more weight than one of a long
#   sequence. With padding in the count it is worse: then the loss depends on how long the longest neighbour is.
# - **Generating in training mode.** The text is different each time although decoding is greedy.
#
# ## Going further
#
# - **Without positions.** Set `position_embedding` to zero, keep it there, and train again. The model still learns,
#   because the causal mask tells position 3 from position 7 by what each can see. How much is lost here? (Adi Haviv,
#   Ori Ram, Ofir Press, Peter Izsak, Omer Levy, Transformer Language Models without Positional Encodings Still Learn
#   Positional Information, 2022.)
# - **Tied or not.** Give the head a table of its own and train both on the rhyme. Compare the loss on verses that were
#   held out, and the number of parameters. (Ofir Press, Lior Wolf, Using the Output Embedding to Improve Language
#   Models, 2017.)
