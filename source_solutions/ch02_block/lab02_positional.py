# ---
# title: Positions
# lab: ch02/lab02
# minutes: 110
# difficulty: 3
# hardware: cpu
# needs: [ch01/lab01]
# builds: [sinusoidal_table, LearnedPositions, apply_rope, apply_rope_interleaved, pair_permutation, rope_tables, rope_attention]
# ---

# %% [markdown]
# # Lab 2.2 · Positions
#
# ## The idea
#
# Attention compares a query with every key and averages the values. Nothing in it asks where a key stands. Shuffle the
# tokens and you get the same results, shuffled: to attention, "dog bites man" is "man bites dog". So the place of a
# token has to be put into the numbers. This lab builds three ways to do it.
#
# The first two *add* something to each token: a row of a fixed table of sines and cosines, or a row of a table that is
# learned. The third adds nothing. It *turns* the queries and keys. Cut a query into pairs of features, read each pair
# as an arrow in the plane, and turn it by an angle in proportion to the token's position. Do the same with the keys.
#
# Follow one pair, turned by 90 degrees for every position, so that $(a, b)$ becomes $(-b, a)$. Take the query
# $q = (2, 1)$ and the key $k = (1, 2)$:
#
# | query at | key at | query, turned | key, turned | dot product |
# |---|---|---|---|---|
# | 0 | 0 | $(2, 1)$ | $(1, 2)$ | 4 |
# | 1 | 0 | $(-1, 2)$ | $(1, 2)$ | 3 |
# | 2 | 1 | $(-2, -1)$ | $(-2, 1)$ | 3 |
# | 3 | 2 | $(1, -2)$ | $(-1, -2)$ | 3 |
# | 2 | 0 | $(-2, -1)$ | $(1, 2)$ | -4 |
#
# The three rows in the middle agree. Turning both arrows by the same angle does not change the angle between them, so
# the score depends on how far apart the two tokens are and not on where they stand. Lengths do not change either.
# This is *rotary position embedding*, RoPE, and most open language models since 2023 use it. Each pair turns at its own
# speed, as the hands of a clock do: the fast ones tell neighbours apart, the slow ones tell far from near.
#
# Why these formulas and not others, and what happens beyond the training length, is on the page [Where a token
# stands](../../book/ch02_block/positional_encoding.md).
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `x` | `(B, T, d_model)` | tokens; in RoPE `(..., T, d_k)`, the queries or the keys |
# | `table` | `(T, d_model)` | one row for each position |
# | `positions` | `(T,)` or `(B, T)` | where each token stands; it need not begin at 0 |
# | `cos`, `sin` | `(T, d_k / 2)`, or `(B, T, d_k / 2)` where positions are `(B, T)` | of the angle of every position and pair |
# | `q` | `(B, H, T_q, d_k)` | queries; the heads have an axis of their own, as in Lab 1.3 |
# | `k` | `(B, H, T_k, d_k)` | keys |
# | `v` | `(B, H, T_k, d_v)` | values |
#
# Pair $i$ of a head with $d_k$ features turns by $\theta_i = \text{base}^{-2i / d_k}$ radians for every position, for
# $i = 0, 1, \dots, d_k / 2 - 1$.

# %% given
import math

import torch
from torch import nn

from coursekit import carry

# attention(q, k, v, mask=None) -> (output, weights); True in the mask means: may attend
attention = carry("ch01/lab01", "attention")

# %% [markdown]
# ## A picture
#
# Which features make a pair? There are two customs. *Half-split* pairs feature $i$ with feature $i + d_k / 2$; Llama's
# weights as the `transformers` library stores them are made for that. *Interleaved* pairs neighbours, $2i$ with
# $2i + 1$; so does the paper, and so do the files that Meta published. The colour below is the cosine of each
# feature's angle, for a head of 16 features and base 100. Read a column downwards to see how fast it turns. Hover to
# see its partner.

# %%
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from coursekit import plots

d_k, base = 16, 100.0  # a small base, so that all pairs turn visibly within 48 positions
feature = torch.arange(d_k)
layouts = {  # for each feature: the number of its pair, and its partner
    "half-split": (feature % (d_k // 2), (feature + d_k // 2) % d_k),
    "interleaved": (feature // 2, feature + 1 - 2 * (feature % 2)),
}
both_ways = [[0, plots.COLOURS[0]], [0.5, "rgba(138, 143, 152, 0.08)"], [1, plots.COLOURS[1]]]
figure = make_subplots(rows=1, cols=2, subplot_titles=list(layouts), shared_yaxes=True, horizontal_spacing=0.05)
for panel, (pair, partner) in enumerate(layouts.values(), start=1):
    speed = base ** (-2.0 * pair / d_k)  # radians for every position
    turning = torch.outer(torch.arange(48.0), speed).cos()
    notes = [
        f"turns with feature {p}, {2 * math.pi / s:,.0f} positions a turn" for p, s in zip(partner, speed, strict=True)
    ]
    figure.add_trace(
        go.Heatmap(
            z=turning.numpy().round(3),
            customdata=[notes] * 48,
            zmin=-1,
            zmax=1,
            colorscale=both_ways,
            showscale=panel == 2,
            colorbar={"title": "cos", "thickness": 12},
            hovertemplate="feature %{x} at position %{y}<br>%{customdata}<br>cosine %{z:.2f}<extra></extra>",
        ),
        row=1,
        col=panel,
    )
    figure.update_xaxes(title_text="feature", dtick=4, showgrid=False, zeroline=False, row=1, col=panel)
figure.update_yaxes(autorange="reversed", showgrid=False, zeroline=False)
figure.update_yaxes(title_text="position", col=1)
figure.update_layout(height=380)
figure.show()

# %% [markdown]
# The same columns stand in both panels, in another order. A model trained either way is as good. Weights made for one
# custom and run with the other are noise, and nothing crashes.
#
# ## Exercise 1 · `sinusoidal_table`
#
# Begin with the table of the original transformer. Column $2i$ holds the sine and column $2i + 1$ the cosine of the
# same angle, position times $\text{base}^{-2i / d_\text{model}}$. With six features and base 1,000 the three speeds are
# 1, 0.1 and 0.01, and position 2 has the row $[\sin 2, \cos 2, \sin 0.2, \cos 0.2, \sin 0.02, \cos 0.02]$.
#
# *Difficulty 2 of 5 · 15 minutes · 3 points*


# %% exercise="sinusoidal_table" difficulty=2 minutes=15
def sinusoidal_table(T: int, d_model: int, base: float = 10_000.0) -> torch.Tensor:
    """The fixed table of positions of the original transformer.

    Args:
        T: number of positions, at least 1; they are counted from 0.
        d_model: number of features, even and at least 2.
        base: sets the slowest speed; larger than 1.

    Returns:
        float32 tensor of shape (T, d_model). Pair i, counted from 0, turns by base ** (-2 i / d_model) radians for every
        position. Column 2 i holds the sines and column 2 i + 1 the cosines of its angles.

    Raises:
        ValueError: if d_model is odd or less than 2.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.5.
    """
    ### BEGIN SOLUTION
    if d_model < 2 or d_model % 2 != 0:
        raise ValueError(f"d_model must be even and at least 2, got {d_model}")
    positions = torch.arange(T, dtype=torch.float64)  # (T,)
    evens = torch.arange(0, d_model, 2, dtype=torch.float64)  # (d_model / 2,): the numbers 2 i
    speeds = base ** (-evens / d_model)  # (d_model / 2,)
    angles = torch.outer(positions, speeds)  # (T, d_model / 2)
    table = torch.stack([angles.sin(), angles.cos()], dim=-1)  # (T, d_model / 2, 2)
    return table.flatten(1).float()  # (T, d_model)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>There are only <code>d_model / 2</code> speeds. Every position times every speed is an outer product.</details>
# <details><summary>A bigger nudge</summary>You have two arrays of shape (T, d_model / 2) and want their columns to alternate. Put them beside
# each other on a new last axis, and glue that axis to the one before it. Or write into every second column of an empty table.</details>

# %% test="sinusoidal_table" points=3
from coursekit import check

import torch

angles = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.1, 0.01], [2.0, 0.2, 0.02]])
alternating = [f(angles[:, i]) for i in range(3) for f in (torch.sin, torch.cos)]
check.close(
    sinusoidal_table(3, 6, base=1_000.0),
    torch.stack(alternating, dim=1),
    "three positions, six features, base 1,000: speeds 1, 0.1 and 0.01",
)
check.raises(ValueError, lambda: sinusoidal_table(3, 5), "five features do not make pairs")
### BEGIN HIDDEN TESTS


def by_turning(T, d_model, base):
    # Not by sines of an angle: each row is the row before it, turned once more, as complex numbers.
    once = torch.polar(
        torch.ones(d_model // 2, dtype=torch.float64),
        torch.tensor([base ** (-2 * i / d_model) for i in range(d_model // 2)], dtype=torch.float64),
    )
    rows = [torch.ones(d_model // 2, dtype=torch.complex128)]
    for _ in range(T - 1):
        rows.append(rows[-1] * once)
    table = torch.zeros(T, d_model)
    table[:, 0::2], table[:, 1::2] = torch.stack(rows).imag.float(), torch.stack(rows).real.float()
    return table


for T, d_model, base in ((63, 60, 10_000.0), (1, 6, 10_000.0), (7, 2, 10_000.0), (100, 10, 50.0), (5, 64, 500_000.0)):
    want = by_turning(T, d_model, base)
    check.close(sinusoidal_table(T, d_model, base), want, f"T={T}, d_model={d_model}, base {base:,.0f}", atol=3e-5)
check.close(
    sinusoidal_table(63, 60), by_turning(63, 60, 10_000.0), "the base is 10,000 where it is left out", atol=3e-5
)
products = sinusoidal_table(40, 32) @ sinusoidal_table(40, 32).T
for distance in (0, 1, 7, 20):
    along = products.diagonal(distance)
    check.close(
        along, along[:1].expand_as(along), f"rows {distance} apart have one dot product, wherever they stand", atol=1e-4
    )
for d_model in (0, 1, 3, 63):
    check.raises(ValueError, lambda d_model=d_model: sinusoidal_table(4, d_model), f"d_model={d_model}")
### END HIDDEN TESTS


# %% alternative="sinusoidal_table"
def sinusoidal_table(T, d_model, base=10_000.0):
    # float32 throughout, column by column, and the exponential of a logarithm as in many libraries.
    if d_model <= 0 or d_model & 1:
        raise ValueError(d_model)
    table = torch.zeros(T, d_model)
    t = torch.arange(T).unsqueeze(1)
    speed = torch.exp(torch.arange(0, d_model, 2) * (-math.log(base) / d_model))
    table[:, 0::2] = torch.sin(t * speed)
    table[:, 1::2] = torch.cos(t * speed)
    return table


# %% mistakes="sinusoidal_table"
{
    "the sines and the cosines have changed places": (
        "torch.stack([angles.sin(), angles.cos()], dim=-1)",
        "torch.stack([angles.cos(), angles.sin()], dim=-1)",
    ),
    "all sines come first and then all cosines, and they should alternate": (
        "torch.stack([angles.sin(), angles.cos()], dim=-1)",
        "torch.stack([angles.sin(), angles.cos()], dim=1)",
    ),
    "every column has a speed of its own, so a sine and the cosine beside it are not of the same angle": (
        "table = torch.stack([angles.sin(), angles.cos()], dim=-1)",
        "columns = torch.arange(d_model, dtype=torch.float64)\n    own = torch.outer(positions, base ** (-columns / d_model))\n    table = torch.where(columns % 2 == 0, own.sin(), own.cos()).unsqueeze(-1)",
    ),
    "the exponent is i / d_model and not 2 i / d_model, so the slowest pair is far too fast": (
        "(-evens / d_model)",
        "(-evens / 2 / d_model)",
    ),
    "the exponent is 2 i / (d_model - 2): the slowest speed is exactly 1 / base": (
        "(-evens / d_model)",
        "(-evens / (d_model - 2))",
    ),
    "the pairs are counted from 1, so no pair turns by one radian a position": (
        "(-evens / d_model)",
        "(-(evens + 2) / d_model)",
    ),
    "the exponent has the wrong sign, so the speeds grow and not shrink": ("(-evens / d_model)", "(evens / d_model)"),
    "the positions are counted from 1": ("angles = torch.outer(positions,", "angles = torch.outer(positions + 1,"),
    "the angles are taken for degrees": (
        "angles = torch.outer(positions, speeds)",
        "angles = torch.outer(positions, speeds).deg2rad()",
    ),
    "the speeds are taken for turns, so the angles are too large by a factor of 2 pi": (
        "angles = torch.outer(positions, speeds)",
        "angles = torch.outer(positions, 2 * math.pi * speeds)",
    ),
    "the positions are divided by T, so the row of a token depends on how long the sequence is": (
        "angles = torch.outer(positions,",
        "angles = torch.outer(positions / T,",
    ),
    "the base is always 10,000": ("speeds = base **", "speeds = 10_000.0 **"),
    "the table is divided by sqrt(d_model)": (
        "return table.flatten(1).float()",
        "return table.flatten(1).float() / math.sqrt(d_model)",
    ),
    "the table is float64": ("return table.flatten(1).float()", "return table.flatten(1)"),
    "an odd d_model is accepted, and one column is dropped or left over": (
        "if d_model < 2 or d_model % 2 != 0:",
        "if d_model < 2:",
    ),
}

# %% [markdown]
# ## Exercise 2 · `LearnedPositions`
#
# GPT-2 leaves the choice of the table to training: a parameter with one row for each position. The module adds those
# rows to the tokens. It also takes `start`, the position of the first token, because a model that generates text one
# token at a time feeds token 57 alone, and that token must still get row 57. What it cannot do is name a position that
# it has no row for. `parameter_gradients` is given; the tests use it, so leave it as it is.
#
# *Difficulty 2 of 5 · 10 minutes · 3 points*


# %% exercise="LearnedPositions" difficulty=2 minutes=10
class LearnedPositions(nn.Module):
    """A learned vector for each position, added to the tokens.

    Args:
        max_T: number of positions that there are rows for.
        d_model: features of a token.
        seed: the same seed gives the same first table, another seed gives another.

    State:
        One float32 parameter named ``table`` of shape (max_T, d_model), and nothing else. At first its entries are
        independent, with mean 0 and standard deviation 0.02.

    Source: Radford et al., Language Models are Unsupervised Multitask Learners, 2019 (GPT-2); the first values as in the
        transformers library.
    """

    def __init__(self, max_T: int, d_model: int, seed: int = 0):
        super().__init__()
        ### BEGIN SOLUTION
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(0.02 * torch.randn(max_T, d_model, generator=generator))
        ### END SOLUTION

    def forward(self, x: torch.Tensor, start: int = 0) -> torch.Tensor:
        """Add to each token the row of its position.

        Args:
            x: (B, T, d_model), of the parameter's dtype.
            start: the position of the first of the T tokens; the others follow.

        Returns:
            Tensor (B, T, d_model): token t of every sequence plus row start + t.

        Raises:
            ValueError: if start is negative, or if there is no row for the last token.
        """
        ### BEGIN SOLUTION
        end, max_T = start + x.shape[1], self.table.shape[0]
        if start < 0 or end > max_T:
            raise ValueError(f"there are rows for positions 0 to {max_T - 1}, asked for {start} to {end - 1}")
        return x + self.table[start:end]  # (B, T, d_model) + (T, d_model)
        ### END SOLUTION

    def parameter_gradients(self, x: torch.Tensor, direction: torch.Tensor, start: int) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(output * direction).sum()`` for every parameter, by name."""
        loss = (self(x, start) * direction).sum()
        self.zero_grad()
        if loss.requires_grad:
            loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}


# %% [markdown]
# <details><summary>A nudge</summary>The rows that you need are neighbours: a slice of the table. Broadcasting then serves all sequences of the batch.</details>
# <details><summary>A bigger nudge</summary>A Python slice that reaches beyond the end is cut short without a word, and a negative start counts from the
# end. Compare the first and the last position with the table before you slice.</details>

# %% test="LearnedPositions" points=2
from coursekit import check

import torch

module = LearnedPositions(4, 2)
check.equal(
    sorted(module.state_dict()),
    ["table"],
    "the names of the parameters",
    hint="The table itself is the nn.Parameter. nn.Embedding would call it table.weight.",
)
module.load_state_dict({"table": torch.tensor([[0.0, 0.0], [10.0, 100.0], [20.0, 200.0], [30.0, 300.0]])})
two_sequences = torch.tensor([[[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]], [[4.0, 4.0], [5.0, 5.0], [6.0, 6.0]]])
check.close(
    module(two_sequences),
    torch.tensor([[[1.0, 1], [12, 102], [23, 203]], [[4, 4], [15, 105], [26, 206]]]),
    "two sequences of three tokens, given rows 0, 1 and 2",
)
check.close(module(two_sequences[:, :1], 2), torch.tensor([[[21.0, 201]], [[24, 204]]]), "one token at position 2")
check.raises(ValueError, lambda: module(two_sequences, 2), "three tokens from position 2 on: there is no row 4")
### BEGIN HIDDEN TESTS
for batch, length, d_model, max_T, start in ((3, 63, 60, 70, 0), (1, 5, 6, 5, 0), (4, 4, 4, 9, 5), (2, 1, 3, 8, 7)):
    table = torch.randn(
        max_T, d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(length))
    )
    module = LearnedPositions(max_T, d_model)
    module.double()
    module.load_state_dict({"table": table})
    x, direction = torch.randn(
        2, d_model, length, batch, dtype=torch.float64, generator=torch.Generator().manual_seed(check.seed(batch))
    ).transpose(1, 3)
    numbers = torch.arange(start, start + length).expand(batch, length)
    case = f"B={batch}, T={length}, max_T={max_T}, start={start}"
    check.close(module(x, start), x + torch.nn.functional.embedding(numbers, table), case, atol=1e-12)
    leaf = table.clone().requires_grad_()
    (wanted,) = torch.autograd.grad((torch.nn.functional.embedding(numbers, leaf) * direction).sum(), leaf)
    found = [module.parameter_gradients(x, direction, start) for _ in range(2)][-1].get("table")
    check.that(
        found is not None,
        f"{case}: a gradient reaches the table",
        hint="Is the table an nn.Parameter? Look for .data, .detach() or torch.no_grad().",
    )
    check.close(found, wanted, f"{case}: the gradient of the table; rows that were not used get zero", atol=1e-12)
    check.gradients(lambda x, module=module, start=start: module(x, start), lambda x: x, [x], f"{case}: gradient of x")
for length, start in ((5, 0), (3, 2), (1, 4), (1, 7)):
    small = LearnedPositions(4, 2)
    check.raises(
        ValueError,
        lambda length=length, start=start, small=small: small(torch.zeros(1, length, 2), start),
        f"{length} tokens from position {start}, and rows for 4",
    )
for start in (-1, -4):
    check.raises(
        ValueError,
        lambda start=start: LearnedPositions(4, 2)(torch.zeros(1, 1, 2), start),
        f"one token at position {start}",
    )
### END HIDDEN TESTS

# %% test="LearnedPositions" points=1
from coursekit import check

import torch

state = LearnedPositions(5, 3).state_dict()
check.equal(sorted(state), ["table"], "the names of the parameters", hint="Wrap the table in nn.Parameter.")
check.equal(list(state["table"].shape), [5, 3], "the shape of the table")
### BEGIN HIDDEN TESTS
table = LearnedPositions(100, 256, seed=5).state_dict()["table"]
check.equal(list(table.shape), [100, 256], "the shape of a larger table")
check.equal(str(table.dtype), "torch.float32", "the dtype of the table")
# 25,600 entries: the sample's standard deviation is within 0.5% of the true one two times in three.
check.close(float(table.std() / 0.02), 1.0, "the standard deviation of the first table, divided by 0.02", atol=0.03)
check.close(float(table.mean() / 0.02), 0.0, "the mean of the first table, divided by 0.02", atol=0.04)
overlap = table @ table.T / (256 * 0.02**2)
check.that((overlap - torch.diag(overlap.diag())).abs().max() < 0.6, "the rows of the first table are independent")
check.equal(
    LearnedPositions(100, 256, seed=5).state_dict()["table"],
    table,
    "the same seed gives the same table",
    hint="Draw from a torch.Generator that is seeded with seed.",
)
check.that(
    not torch.equal(LearnedPositions(100, 256, seed=6).state_dict()["table"], table), "another seed gives another table"
)
default, zero = LearnedPositions(7, 4).state_dict(), LearnedPositions(7, 4, 0).state_dict()
check.equal(default["table"], zero["table"], "the seed is 0 where it is left out")
### END HIDDEN TESTS


# %% alternative="LearnedPositions"
class LearnedPositions(nn.Module):
    def __init__(self, max_T, d_model, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.table = nn.Parameter(torch.empty(max_T, d_model))
        nn.init.normal_(self.table, std=0.02)

    def forward(self, x, start=0):
        numbers = torch.arange(x.size(1)) + start
        if numbers[0] < 0 or numbers[-1] >= len(self.table):
            raise ValueError(start)
        print("rows", numbers.tolist())
        return torch.stack([tokens + self.table[numbers] for tokens in x])

    def parameter_gradients(self, x, direction, start):
        loss = (self(x, start) * direction).sum()
        self.zero_grad()
        loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}


# %% mistakes="LearnedPositions"
{
    "the rows are chosen by the sequence's place in the batch and not by the token's position": (
        "return x + self.table[start:end]",
        "return x + self.table[start : start + x.shape[0]].unsqueeze(1)",
    ),
    "start is ignored, so a token that is fed alone is always told that it is the first": (
        "return x + self.table[start:end]",
        "return x + self.table[: end - start]",
    ),
    "every token gets the row of the first one": ("self.table[start:end]", "self.table[start]"),
    "the rows are added in reverse order": ("self.table[start:end]", "self.table[start:end].flip(0)"),
    "the rows are those after the right ones: positions are counted from 1": (
        "self.table[start:end]",
        "self.table.roll(-1, 0)[start:end]",
    ),
    "a position beyond the table gets the last row, and no error says so": [
        ("if start < 0 or end > max_T:", "if start < 0:"),
        ("self.table[start:end]", "self.table[torch.arange(start, end).clamp(max=max_T - 1)]"),
    ],
    "a position beyond the table begins again at row 0, and no error says so": [
        ("if start < 0 or end > max_T:", "if start < 0:"),
        ("self.table[start:end]", "self.table[torch.arange(start, end) % max_T]"),
    ],
    "a negative start counts from the end of the table": ("if start < 0 or end > max_T:", "if end > max_T:"),
    "the last row can never be used": ("end > max_T:", "end >= max_T:"),
    "the rows are multiplied with the tokens": ("return x + self.table", "return x * self.table"),
    "only the rows are returned, without the tokens": (
        "return x + self.table[start:end]",
        "return self.table[start:end].expand(x.shape[0], -1, -1)",
    ),
    "the tokens are scaled by sqrt(d_model) first, as the original transformer does and GPT-2 does not": (
        "return x + self.table",
        "return x * x.shape[-1] ** 0.5 + self.table",
    ),
    "the table is a buffer, so it is saved and loaded but never learned": (
        "self.table = nn.Parameter(0.02 * torch.randn(max_T, d_model, generator=generator))",
        'self.register_buffer("table", 0.02 * torch.randn(max_T, d_model, generator=generator))',
    ),
    "the table is a plain tensor, so neither the optimiser nor state_dict knows of it": ("nn.Parameter(", "("),
    "the table is used through .data, so it never learns": ("self.table[start:end]", "self.table.data[start:end]"),
    "the table begins with a standard deviation of 1": ("0.02 * torch.randn", "torch.randn"),
    "the table begins with a variance (not a standard deviation) of 0.02": (
        "0.02 * torch.randn",
        "0.02**0.5 * torch.randn",
    ),
    "the table begins with zeros, so all positions look alike": ("0.02 * torch.randn(", "0.0 * torch.randn("),
    "the table begins uniform between 0 and 1, times 0.02": ("torch.randn(", "torch.rand("),
    "every position begins with the same row": (
        "0.02 * torch.randn(max_T, d_model, generator=generator)",
        "0.02 * torch.randn(d_model, generator=generator).repeat(max_T, 1)",
    ),
    "the seed is ignored": ("torch.Generator().manual_seed(seed)", "torch.Generator().manual_seed(0)"),
    "the table is stored as (d_model, max_T)": [
        ("torch.randn(max_T, d_model, generator", "torch.randn(d_model, max_T, generator"),
        ("self.table.shape[0]", "self.table.shape[1]"),
        ("self.table[start:end]", "self.table[:, start:end].T"),
    ],
}

# %% [markdown]
# ## Exercise 3 · `apply_rope`
#
# Now turn. The angles come from outside, as tables of cosines and sines. A pair $(a, b)$ at the angle $\varphi$ becomes
#
# $$ (a \cos\varphi - b \sin\varphi,\;\; a \sin\varphi + b \cos\varphi). $$
#
# Write it for both customs: `apply_rope` for half-split pairs, which the rest of the course uses, and
# `apply_rope_interleaved` for neighbours. If you like complex numbers, $a + b\,\mathrm{i}$ times
# $\cos\varphi + \mathrm{i} \sin\varphi$ is the same turn. Then write `pair_permutation`, the order of features that makes
# half-split pairs out of neighbours. A small case: the token `[1, 2, 3, 4]`, its pair 0 turned by 90 degrees and its pair 1 by 180. Half-split
# gives `[-3, -2, 1, -4]`, interleaved gives `[-2, 1, -3, -4]`.
#
# *Difficulty 3 of 5 · 25 minutes · 6 points*


# %% exercise="apply_rope" difficulty=3 minutes=25 forbid=["apply_rotary_pos_emb"]
def apply_rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn the pairs (i, i + d_k / 2) of every token by the angles of its position: RoPE, half-split.

    Args:
        x: queries or keys, floating point of any width, of shape (..., T, d_k), contiguous or not.
        cos, sin: (T, d_k / 2), or any shape that broadcasts to (..., T, d_k / 2): of the angle of each position and pair.
            Usually float32.

    Returns:
        Tensor of x's shape and dtype. A pair (a, b) turned by the angle p is (a cos p - b sin p, a sin p + b cos p), and
        stands where the pair stood. The products and sums are computed in the wider of the dtypes of x and cos; only the
        result is rounded to x's dtype.

    Raises:
        ValueError: if the last axis of x is not twice as long as that of cos.

    Source: Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021, section 3.2.2; the pairs as in
        the Llama models of the transformers library.
    """
    ### BEGIN SOLUTION
    if x.shape[-1] != 2 * cos.shape[-1]:
        raise ValueError(f"{x.shape[-1]} features need tables for half as many pairs, got {cos.shape[-1]}")
    first, second = x.chunk(2, dim=-1)  # (..., T, d_k / 2) each
    halves = [first * cos - second * sin, first * sin + second * cos]
    return torch.cat(halves, dim=-1).to(x.dtype)  # (..., T, d_k)
    ### END SOLUTION


def apply_rope_interleaved(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The same, with neighbours (2 i, 2 i + 1) as pairs; arguments, result and errors as in `apply_rope`."""
    ### BEGIN SOLUTION
    if 2 * sin.shape[-1] != x.shape[-1]:
        raise ValueError(f"{x.shape[-1]} features need tables for half as many pairs, got {sin.shape[-1]}")
    even, odd = x[..., 0::2], x[..., 1::2]  # (..., T, d_k / 2) each
    pairs = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)  # (..., T, d_k / 2, 2)
    return pairs.flatten(-2).to(x.dtype)  # (..., T, d_k)
    ### END SOLUTION


def pair_permutation(d_k: int) -> torch.Tensor:
    """The order of features that makes half-split pairs out of interleaved ones.

    Args:
        d_k: features of a head, even and at least 2.

    Returns:
        int64 tensor ``order`` of shape (d_k,), for which ``x[..., order]`` has at i and i + d_k / 2 what x has at 2 i and
        2 i + 1. So ``apply_rope(x[..., order], cos, sin)`` equals ``apply_rope_interleaved(x, cos, sin)[..., order]``.

    Raises:
        ValueError: if d_k is odd or less than 2.
    """
    ### BEGIN SOLUTION
    if d_k < 2 or d_k % 2 != 0:
        raise ValueError(f"d_k must be even and at least 2, got {d_k}")
    neighbours = torch.arange(d_k).reshape(-1, 2)  # (d_k / 2, 2)
    return neighbours.T.flatten()  # (d_k,)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Take the pairs apart first: all first members in one tensor, all second members in another. Then each of the two
# formulas is one line, and broadcasting does the rest. Put them back where they came from.</details>
# <details><summary>A bigger nudge</summary>For half-split, the first members are the first half of the features; the results are put end to end. For
# interleaved, they are every second feature, and the results have to alternate again. The permutation is a list that you can write
# down for six features: which of the old features has to stand at place 0, at place 1, and so on? Compute both results from
# the <em>old</em> pair.</details>

# %% test="apply_rope" points=3
from coursekit import check

import torch

cos, sin = torch.tensor([[1.0, 1.0], [0.0, -1.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0]])
tokens = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]])
check.close(
    apply_rope(tokens, cos, sin),
    torch.tensor([[1.0, 2.0, 3.0, 4.0], [-3.0, -2.0, 1.0, -4.0]]),
    "token 0 is not turned; token 1: the values 1 and 3 are a pair and turned by 90 degrees, 2 and 4 by 180",
)
check.raises(ValueError, lambda: apply_rope(torch.zeros(2, 6), cos, sin), "six features, and tables for two pairs")
### BEGIN HIDDEN TESTS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb


def turned(x, cos, sin):
    d = x.shape[-1] // 2
    z = torch.complex(x[..., :d].double(), x[..., d:].double()) * torch.complex(cos.double(), sin.double())
    return torch.cat([z.real, z.imag], dim=-1)


def values(*shape, seed, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(check.seed(seed)))


for batch, n_heads, length, d_k in ((3, 2, 63, 60), (1, 1, 1, 2), (4, 4, 4, 8), (2, 3, 5, 14)):
    angles = 9 * values(length, d_k // 2, seed=length, dtype=torch.float64)
    cos, sin = angles.cos().float(), angles.sin().float()
    x = values(batch, length, n_heads, d_k, seed=d_k).transpose(1, 2)
    result, case = apply_rope(x, cos, sin), f"B={batch}, H={n_heads}, T={length}, d_k={d_k}"
    check.close(result, turned(x, cos, sin).float(), f"{case}: pairs as complex numbers, multiplied in float64")
    doubled = [torch.cat([part, part], dim=-1)[None] for part in (cos, sin)]
    check.close(result, apply_rotary_pos_emb(x, x, *doubled)[0], f"{case}: as transformers' Llama does it")
    check.close(result.norm(dim=-1), x.norm(dim=-1), f"{case}: no length changes")
    check.close(apply_rope(x[0, 0], cos, sin), turned(x[0, 0], cos, sin).float(), f"{case}: one head of one sequence")

# A dot product of two turned vectors depends on the difference of their angles only.
q, k, a, b, both = values(5, 1, 20, seed=1, dtype=torch.float64).repeat(1, 30, 1)
a, b, both = 7 * a[:, :10], 7 * b[:, :10], torch.linspace(0, 50, 30, dtype=torch.float64)[:, None]
products = (apply_rope(q, (a + both).cos(), (a + both).sin()) * apply_rope(k, (b + both).cos(), (b + both).sin())).sum(
    -1
)
check.close(
    products,
    products[:1].expand(30),
    "both arrows turned by the same further angle: the dot product stays",
    atol=1e-9,
)
x, angles = values(3, 7, 6, seed=2, dtype=torch.float64), 9 * values(7, 3, seed=3)
cos, sin = angles.cos(), angles.sin()
check.close(apply_rope(x, cos, sin), turned(x, cos, sin), "float64 stays float64", atol=1e-12, rtol=1e-9)
check.close(apply_rope(1e4 * x, cos, sin) / 1e4, turned(x, cos, sin), "features of ten thousand", atol=1e-12, rtol=1e-9)
check.gradients(
    lambda x: apply_rope(x, cos, sin), lambda x: turned(x, cos, sin), [x], "gradients of apply_rope", atol=1e-9
)
per_sequence = 9 * values(3, 1, 7, 5, seed=4)
x = values(3, 2, 7, 10, seed=5)
cos, sin = per_sequence.cos(), per_sequence.sin()
check.close(
    apply_rope(x, cos, sin), turned(x, cos, sin).float(), "other angles for each sequence: cos (B, 1, T, d_k / 2)"
)
for dtype, precision in ((torch.bfloat16, 2**-7), (torch.float16, 2**-10)):
    x, angles = values(2, 63, 60, seed=6).to(dtype), 9 * values(63, 30, seed=7)
    want = turned(x, angles.cos(), angles.sin()).to(dtype)
    check.close(
        apply_rope(x, angles.cos(), angles.sin()),
        want,
        f"{dtype} is rounded once, at the end",
        atol=1e-6,
        rtol=precision,
    )
for d_k, pairs in ((6, 1), (3, 1), (4, 4), (2, 4)):
    check.raises(
        ValueError,
        lambda d_k=d_k, pairs=pairs: apply_rope(torch.zeros(5, d_k), torch.ones(5, pairs), torch.zeros(5, pairs)),
        f"{d_k} features, and tables for {pairs} pairs",
    )
### END HIDDEN TESTS

# %% test="apply_rope" points=3
from coursekit import check

import torch

cos, sin = torch.tensor([[1.0, 1.0], [0.0, -1.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0]])
tokens = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]])
check.close(
    apply_rope_interleaved(tokens, cos, sin),
    torch.tensor([[1.0, 2.0, 3.0, 4.0], [-2.0, 1.0, -3.0, -4.0]]),
    "token 0 is not turned; token 1: the values 1 and 2 are a pair and turned by 90 degrees, 3 and 4 by 180",
)
check.equal(pair_permutation(2), torch.tensor([0, 1]), "with one pair there is nothing to move")
six, order = torch.tensor([[1.0, 2, 3, 4, 5, 6]]), pair_permutation(6)
cos, sin = torch.tensor([[0.6, 0.0, -1.0]]), torch.tensor([[0.8, 1.0, 0.0]])
check.close(
    apply_rope(six[:, order], cos, sin),
    apply_rope_interleaved(six, cos, sin)[:, order],
    "six features: put in order and turned half-split, or turned as neighbours and then put in order",
)
check.raises(ValueError, lambda: pair_permutation(5), "five features do not make pairs")
### BEGIN HIDDEN TESTS


def turned(x, cos, sin):
    z = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous()) * torch.complex(
        cos.double(), sin.double()
    )
    return torch.view_as_real(z).flatten(-2)


def values(*shape, seed, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(check.seed(seed)))


for batch, n_heads, length, d_k in ((3, 2, 63, 60), (1, 1, 1, 2), (4, 4, 4, 8), (2, 3, 5, 14)):
    angles = 9 * values(length, d_k // 2, seed=length, dtype=torch.float64)
    cos, sin = angles.cos().float(), angles.sin().float()
    x = values(batch, length, n_heads, d_k, seed=d_k).transpose(1, 2)
    result, case = apply_rope_interleaved(x, cos, sin), f"B={batch}, H={n_heads}, T={length}, d_k={d_k}"
    check.close(result, turned(x, cos, sin).float(), f"{case}: neighbours as complex numbers, multiplied in float64")
    order = pair_permutation(d_k)
    check.equal(order, torch.cat([torch.arange(0, d_k, 2), torch.arange(1, d_k, 2)]), f"pair_permutation({d_k})")
    check.close(
        apply_rope(x[..., order], cos, sin), result[..., order], f"{case}: one custom, in the order of the other"
    )
x, angles = values(3, 7, 6, seed=2, dtype=torch.float64), 9 * values(3, 7, 3, seed=3)
cos, sin = angles.cos(), angles.sin()
check.close(
    apply_rope_interleaved(x, cos, sin),
    turned(x, cos, sin),
    "float64; other angles for each sequence",
    atol=1e-12,
    rtol=1e-9,
)
check.gradients(
    lambda x: apply_rope_interleaved(x, cos, sin),
    lambda x: turned(x, cos, sin),
    [x],
    "gradients of apply_rope_interleaved",
    atol=1e-9,
)
x, angles = values(2, 63, 60, seed=6).bfloat16(), 9 * values(63, 30, seed=7)
check.close(
    apply_rope_interleaved(x, angles.cos(), angles.sin()),
    turned(x, angles.cos(), angles.sin()).bfloat16(),
    "bfloat16 is rounded once, at the end",
    atol=1e-6,
    rtol=2**-7,
)
for d_k, pairs in ((6, 1), (3, 1), (4, 4), (2, 4)):
    check.raises(
        ValueError,
        lambda d_k=d_k, pairs=pairs: apply_rope_interleaved(
            torch.zeros(5, d_k), torch.ones(5, pairs), torch.zeros(5, pairs)
        ),
        f"{d_k} features, and tables for {pairs} pairs",
    )
for d_k in (0, -2, 1, 7):
    check.raises(ValueError, lambda d_k=d_k: pair_permutation(d_k), f"an order for d_k={d_k}")
### END HIDDEN TESTS


# %% alternative="apply_rope"
def apply_rope(x, cos, sin):
    # As the transformers library writes it: tables of full width, and a vector turned by a quarter.
    if 2 * cos.shape[-1] != x.shape[-1]:
        raise ValueError(x.shape)
    d = cos.shape[-1]
    wide = torch.promote_types(x.dtype, cos.dtype)
    x_wide, cos, sin = x.to(wide), torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)
    quarter = torch.cat([-x_wide[..., d:], x_wide[..., :d]], -1)
    return (x_wide * cos + quarter * sin).to(x.dtype)


def apply_rope_interleaved(x, cos, sin):
    # With complex numbers, in float64.
    if 2 * cos.shape[-1] != x.shape[-1]:
        raise ValueError(x.shape)
    z = torch.complex(x[..., 0::2].double(), x[..., 1::2].double()) * torch.complex(cos.double(), sin.double())
    print("pairs", z.shape)
    return torch.view_as_real(z).flatten(-2).to(x.dtype)


def pair_permutation(d_k):
    if d_k not in range(2, 1_000_000, 2):
        raise ValueError(d_k)
    return torch.tensor([2 * i for i in range(d_k // 2)] + [2 * i + 1 for i in range(d_k // 2)])


# %% mistakes="apply_rope"
{
    "the pairs are turned the other way, so scores still depend on the distance but weights from elsewhere do not fit": (
        "halves = [first * cos - second * sin, first * sin + second * cos]",
        "halves = [first * cos + second * sin, second * cos - first * sin]",
    ),
    "apply_rope turns neighbours, as apply_rope_interleaved should": (
        "first, second = x.chunk(2, dim=-1)  # (..., T, d_k / 2) each\n    halves = [first * cos - second * sin, first * sin + second * cos]\n    return torch.cat(halves, dim=-1).to(x.dtype)",
        "return apply_rope_interleaved(x, cos, sin)",
    ),
    "apply_rope_interleaved turns half-split pairs, as apply_rope should": (
        "even, odd = x[..., 0::2], x[..., 1::2]  # (..., T, d_k / 2) each\n    pairs = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)  # (..., T, d_k / 2, 2)\n    return pairs.flatten(-2).to(x.dtype)",
        "return apply_rope(x, cos, sin)",
    ),
    "apply_rope turns the right pairs and returns them interleaved: the scores are right, the order is not": (
        "return torch.cat(halves, dim=-1).to(x.dtype)",
        "return torch.stack(halves, dim=-1).flatten(-2).to(x.dtype)",
    ),
    "the interleaved pairs are returned with all first members in front: the scores are right, the order is not": (
        "return pairs.flatten(-2).to(x.dtype)",
        "return pairs.transpose(-1, -2).flatten(-2).to(x.dtype)",
    ),
    "half-split pairs meet interleaved tables: feature i is turned by the angle of pair i // 2": (
        "halves = [first * cos - second * sin, first * sin + second * cos]",
        "cos, sin = cos.repeat_interleave(2, -1), sin.repeat_interleave(2, -1)\n    halves = [x * cos + torch.cat([-second, first], -1) * sin]",
    ),
    "the second formula of apply_rope uses the first half that was turned already": (
        "halves = [first * cos - second * sin, first * sin + second * cos]",
        "first = first * cos - second * sin; halves = [first, first * sin + second * cos]",
    ),
    "the second formula of apply_rope_interleaved uses the feature that was turned already": (
        "pairs = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)",
        "even = even * cos - odd * sin; pairs = torch.stack([even, even * sin + odd * cos], dim=-1)",
    ),
    "both formulas have a plus, so nothing is turned and lengths change": (
        "first * cos - second * sin",
        "first * cos + second * sin",
    ),
    "the cosines and the sines have changed places in apply_rope": (
        "halves = [first * cos - second * sin, first * sin + second * cos]",
        "halves = [first * sin - second * cos, first * cos + second * sin]",
    ),
    "only the first half of the features is changed": (
        "first * sin + second * cos]\n",
        "second + 0 * cos]\n",
    ),
    "the features are multiplied by the cosines only": (
        "halves = [first * cos - second * sin, first * sin + second * cos]",
        "halves = [first * cos, second * cos]",
    ),
    "the turned vector is added to the old one": (
        "return torch.cat(halves, dim=-1).to(x.dtype)",
        "return x + torch.cat(halves, dim=-1).to(x.dtype)",
    ),
    "the tables are lined up with the heads and not with the tokens": (
        "first, second = x.chunk(2, dim=-1)",
        "cos, sin = (cos[:, None], sin[:, None]) if x.ndim == 4 else (cos, sin)\n    first, second = x.chunk(2, dim=-1)",
    ),
    "the interleaved pairs are turned the other way": (
        "[even * cos - odd * sin, even * sin + odd * cos]",
        "[even * cos + odd * sin, odd * cos - even * sin]",
    ),
    "the cosines and the sines have changed places in apply_rope_interleaved": (
        "[even * cos - odd * sin, even * sin + odd * cos]",
        "[even * sin - odd * cos, even * cos + odd * sin]",
    ),
    "the permutation goes the other way: it makes interleaved pairs out of half-split ones": (
        "return neighbours.T.flatten()",
        "return neighbours.T.flatten().argsort()",
    ),
    "the permutation exchanges the members of each pair": (
        "return neighbours.T.flatten()",
        "return neighbours.flip(1).T.flatten()",
    ),
    "the permutation changes nothing": ("return neighbours.T.flatten()", "return neighbours.flatten()"),
    "the tables are rounded to the dtype of x, so a model in bfloat16 computes with rough angles": (
        "first, second = x.chunk(2, dim=-1)",
        "cos, sin = cos.to(x.dtype), sin.to(x.dtype)\n    first, second = x.chunk(2, dim=-1)",
    ),
    "the result has the dtype of the tables and not that of x": (
        "return torch.cat(halves, dim=-1).to(x.dtype)",
        "return torch.cat(halves, dim=-1)",
    ),
    "a float64 x is computed in float32": (
        "return torch.cat(halves, dim=-1).to(x.dtype)",
        "return torch.cat(halves, dim=-1).float().to(x.dtype)",
    ),
    "apply_rope detaches its result, so no gradient gets through": (
        "return torch.cat(halves, dim=-1).to(x.dtype)",
        "return torch.cat(halves, dim=-1).to(x.dtype).detach()",
    ),
    "tables for one pair only are used for all pairs, and no error says so": (
        "if x.shape[-1] != 2 * cos.shape[-1]:",
        "if x.shape[-1] != 2 * cos.shape[-1] and cos.shape[-1] != 1:",
    ),
}

# %% [markdown]
# ## Exercise 4 · `rope_tables`
#
# Which angle? Position times speed, and the speeds are those of Exercise 1: pair $i$ turns by
# $\theta_i = \text{base}^{-2i/d_k}$ radians for every position. Two things are worth care. The positions are an
# *argument*: they need not begin at 0, and sequences of a batch may have different ones. And they may be large. A
# float32 number near 75,000 has neighbours 0.008 apart, so an angle of that size is already blurred before its cosine is taken.
# Compute the angles in float64 and round the tables.
#
# Then stretch. A model that was trained on 2,048 tokens has seen every angle of the fast pairs, but not the angles that
# the slow pairs reach at position 8,000. *Linear* scaling by a factor $s$ divides the positions by $s$, so that all
# angles lie in the old range; neighbours become harder to tell apart.
# *NTK-aware* scaling leaves the positions alone and raises the base to $\text{base} \cdot s^{\,d_k / (d_k - 2)}$. Insert it in $\theta_i$ for the
# first pair and for the last one, and you see what the strange exponent is for.
#
# *Difficulty 3 of 5 · 25 minutes · 6 points*


# %% exercise="rope_tables" difficulty=3 minutes=25 forbid=["LlamaRotaryEmbedding"]
def rope_tables(
    positions: torch.Tensor, d_k: int, base: float = 10_000.0, scaling: tuple[str, float] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of RoPE's angles.

    Args:
        positions: tensor of shape (..., T), of an integer or floating dtype: where each token stands, in any order,
            with repetitions, up to a million and more.
        d_k: features of a head, even and at least 2.
        base: pair i turns by base ** (-2 i / d_k) radians for every position, for i from 0 to d_k / 2 - 1.
        scaling: None; ("linear", s), which divides the positions by s (they need not be whole afterwards); or
            ("ntk", s), which multiplies the base by s ** (d_k / (d_k - 2)). A factor s of 1 changes nothing.

    Returns:
        (cos, sin), two float32 tensors of shape (..., T, d_k / 2). They are within 1e-6 of the true values for positions
        up to a million: compute the angles in float64.

    Raises:
        ValueError: if d_k is odd or less than 2; if the name in ``scaling`` is another one; if s is less than 1; or for
            "ntk" with d_k = 2, where there is no slower pair to stretch.

    Source: Su et al., RoFormer, 2021, section 3.2.2. Linear scaling: Chen et al., Extending Context Window of Large Language
        Models via Positional Interpolation, 2023. NTK-aware: Peng et al., YaRN, 2023, section 3.1.
    """
    ### BEGIN SOLUTION
    if d_k < 2 or d_k % 2 != 0:
        raise ValueError(f"d_k must be even and at least 2, got {d_k}")
    name, factor = scaling or ("linear", 1.0)
    if name not in ("linear", "ntk") or factor < 1:
        raise ValueError(f'scaling must be ("linear", s) or ("ntk", s) with s at least 1, got {scaling}')
    positions = positions.double()  # (..., T)
    if name == "linear":
        positions = positions / factor
    elif d_k == 2:
        raise ValueError("ntk scaling needs at least two pairs, and d_k = 2 has one")
    else:
        base = base * factor ** (d_k / (d_k - 2))
    evens = torch.arange(0, d_k, 2, dtype=torch.float64)  # (d_k / 2,): the numbers 2 i
    speeds = base ** (-evens / d_k)  # (d_k / 2,)
    angles = positions.unsqueeze(-1) * speeds  # (..., T, d_k / 2)
    return angles.cos().float(), angles.sin().float()
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Write it without scaling first, and pass the first test. An outer product takes two vectors; here the positions may have
# more axes than one. A new last axis and broadcasting do it for any number of them.</details>
# <details><summary>A bigger nudge</summary>Both kinds of scaling change one of the two numbers that you begin with, the positions or the base, and leave the
# rest of the function alone. Convert to float64 before the first multiplication, not after it.</details>

# %% test="rope_tables" points=3
from coursekit import check

import torch

angles = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.1, 0.01], [7.0, 0.7, 0.07]])
check.close(
    rope_tables(torch.tensor([0, 1, 7]), 6, base=1_000.0),
    [angles.cos(), angles.sin()],
    "positions 0, 1 and 7, three pairs, base 1,000: speeds 1, 0.1 and 0.01",
)
angles = torch.tensor([[99_999.0, 9_999.9, 999.99]], dtype=torch.float64)
check.close(
    rope_tables(torch.tensor([99_999]), 6, base=1_000.0),
    [angles.cos().float(), angles.sin().float()],
    "position 99,999, the same three speeds",
    atol=1e-6,
    rtol=0,
    hint="Near 10,000 a float32 number is off by up to 0.0005. Convert positions and speeds to float64 first.",
)
check.raises(ValueError, lambda: rope_tables(torch.tensor([0, 1]), 5), "five features do not make pairs")
### BEGIN HIDDEN TESTS
import math

from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding


def by_python(positions, d_k, base):
    flat = [m * base ** (-2 * i / d_k) for m in positions.double().flatten().tolist() for i in range(d_k // 2)]
    shape = (*positions.shape, d_k // 2)
    return [torch.tensor([f(angle) for angle in flat]).reshape(shape) for f in (math.cos, math.sin)]


for T, d_k, base in ((63, 60, 10_000.0), (7, 8, 500_000.0)):
    config = LlamaConfig(
        hidden_size=3 * d_k,
        num_attention_heads=3,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": base},
    )
    positions = torch.arange(T)
    want = [part[0, :, : d_k // 2] for part in LlamaRotaryEmbedding(config)(torch.zeros(1), positions[None])]
    check.close(
        rope_tables(positions, d_k, base),
        want,
        f"T={T}, d_k={d_k}, base {base:,.0f}: as transformers' Llama",
        atol=3e-5,
    )
cases = {
    "positions that begin at 1,000": torch.arange(1_000, 1_009),
    "positions of three sequences, two of them padded at the left": torch.tensor(
        [[0, 1, 2, 3], [0, 0, 1, 2], [0, 0, 0, 1]]
    ),
    "positions with four axes": torch.arange(2 * 3 * 5).reshape(2, 1, 3, 5),
    "int32 positions, in no order": torch.tensor([5, 900, 5, 0, 31], dtype=torch.int32),
    "positions between the whole numbers": torch.tensor([0.5, 2.25, 1_000.125], dtype=torch.float64),
    "far positions": torch.tensor([100_000, 131_071, 1_000_003]),
}
for case, positions in cases.items():
    for d_k, base in ((6, 10_000.0), (2, 10_000.0), (64, 1_000_000.0)):
        check.close(
            rope_tables(positions, d_k, base),
            by_python(positions, d_k, base),
            f"{case}; d_k={d_k}, base {base:,.0f}",
            atol=1e-6,
            rtol=0,
            hint="If only large positions are off: an angle in float32 is blurred. Convert positions and speeds to float64 first.",
        )
far = cases["far positions"]
check.close(rope_tables(far, 16), by_python(far, 16, 10_000.0), "the base is 10,000 where it is left out", atol=1e-6)
# The turn by m and the turn back by n make the turn by m - n: so a score can depend on the distance only.
m, n = torch.randint(5_000, (2, 40), generator=torch.Generator().manual_seed(check.seed(1)))
z_m, z_n, z_distance = (torch.complex(*rope_tables(where, 12)) for where in (m, n, (m - n).abs()))
want = torch.where((m >= n)[:, None], z_distance, z_distance.conj())
check.close(z_m * z_n.conj(), want, "a turn by m and back by n is a turn by m - n", atol=1e-6)
for d_k in (0, -2, 1, 63):
    check.raises(ValueError, lambda d_k=d_k: rope_tables(torch.tensor([0, 1]), d_k), f"d_k={d_k}")
### END HIDDEN TESTS

# %% test="rope_tables" points=3
from coursekit import check

import torch

positions = torch.tensor([0, 4, 8, 10])
check.close(
    rope_tables(positions, 6, scaling=("linear", 4.0)),
    list(rope_tables(torch.tensor([0.0, 1.0, 2.0, 2.5]), 6)),
    "linear scaling by 4: position 4 is turned as position 1 was, and position 10 as 2.5",
)
ntk, plain = rope_tables(positions, 6, scaling=("ntk", 4.0)), rope_tables(positions, 6)
linear = rope_tables(positions, 6, scaling=("linear", 4.0))
check.close([t[:, 0] for t in ntk], [t[:, 0] for t in plain], "ntk scaling leaves the fastest pair as it is")
check.close([t[:, -1] for t in ntk], [t[:, -1] for t in linear], "and it slows the slowest pair as linear scaling does")
check.raises(ValueError, lambda: rope_tables(positions, 6, scaling=("log", 4.0)), 'there is no scaling "log"')
### BEGIN HIDDEN TESTS
import math

from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding


def by_python(positions, d_k, base, name, s):
    stretched = base * s ** (d_k / (d_k - 2)) if name == "ntk" else base
    shrunk = [m / s if name == "linear" else m for m in positions.double().tolist()]
    flat = [m * stretched ** (-2 * i / d_k) for m in shrunk for i in range(d_k // 2)]
    return [torch.tensor([f(angle) for angle in flat]).reshape(-1, d_k // 2) for f in (math.cos, math.sin)]


for d_k, base, factor in ((60, 10_000.0, 4), (8, 500_000.0, 2)):
    # What transformers calls "dynamic" raises the base with the length; at the length factor * 32 by this factor.
    kinds = {"linear": ("linear", float(factor)), "ntk": ("dynamic", 1.0)}
    for name, (rope_type, given) in kinds.items():
        config = LlamaConfig(
            hidden_size=3 * d_k,
            num_attention_heads=3,
            max_position_embeddings=32,
            rope_parameters={"rope_type": rope_type, "factor": given, "rope_theta": base},
        )
        positions = torch.arange(32 * factor)
        want = [part[0, :, : d_k // 2] for part in LlamaRotaryEmbedding(config)(torch.zeros(1), positions[None])]
        check.close(
            rope_tables(positions, d_k, base, (name, float(factor))),
            want,
            f"{name} scaling by {factor}, d_k={d_k}, base {base:,.0f}: as transformers' Llama, {rope_type}",
            atol=1e-4,
        )
far = torch.tensor([3, 777, 100_003, 1_000_001])
for name in ("linear", "ntk"):
    for d_k, base, factor in ((4, 10_000.0, 1.5), (64, 10_000.0, 8.0), (6, 500.0, 3)):
        check.close(
            rope_tables(far, d_k, base, (name, factor)),
            by_python(far, d_k, base, name, factor),
            f"{name} scaling by {factor:g}, d_k={d_k}, base {base:,.0f}, far positions",
            atol=1e-6,
            rtol=0,
        )
    check.close(
        rope_tables(far, 10, scaling=(name, 1.0)),
        by_python(far, 10, 10_000.0, "none", 1),
        f"{name} scaling by 1 changes nothing",
        atol=1e-6,
    )
    for factor in (0.5, 0.0, -2.0):
        check.raises(
            ValueError,
            lambda name=name, factor=factor: rope_tables(far, 8, scaling=(name, factor)),
            f"scaling ({name!r}, {factor}): a factor below 1",
        )
check.close(
    rope_tables(far, 2, scaling=("linear", 2.0)),
    [(far / 2).double()[:, None].cos().float(), (far / 2).double()[:, None].sin().float()],
    "one pair alone, linear scaling by 2",
    atol=1e-6,
)
check.raises(ValueError, lambda: rope_tables(far, 2, scaling=("ntk", 2.0)), "one pair alone cannot be stretched by ntk")
check.raises(ValueError, lambda: rope_tables(far, 8, scaling=("", 2.0)), "a scaling without a name")
### END HIDDEN TESTS


# %% alternative="rope_tables"
def rope_tables(positions, d_k, base=10_000.0, scaling=None):
    if d_k <= 0 or d_k % 2:
        raise ValueError(d_k)
    speeds = torch.tensor([base ** (-2 * i / d_k) for i in range(d_k // 2)], dtype=torch.float64)
    if scaling is not None:
        name, s = scaling
        if not s >= 1:
            raise ValueError(s)
        if name == "linear":
            speeds = speeds / s
        elif name == "ntk" and d_k > 2:
            speeds = speeds * s ** -torch.linspace(0, 1, d_k // 2, dtype=torch.float64)  # the same, pair by pair
        else:
            raise ValueError(name)
    z = torch.exp(1j * torch.einsum("...t,i->...ti", positions.to(torch.float64), speeds))
    return z.real.to(torch.float32), z.imag.to(torch.float32)


# %% mistakes="rope_tables"
{
    "the exponent is i / d_k and not 2 i / d_k, so the slowest pair is far too fast": (
        "(-evens / d_k)",
        "(-evens / 2 / d_k)",
    ),
    "the exponent is 2 i / (d_k - 2): the slowest speed is exactly 1 / base": (
        "(-evens / d_k)",
        "(-evens / max(d_k - 2, 1))",
    ),
    "the pairs are counted from 1, so no pair turns by one radian a position": (
        "(-evens / d_k)",
        "(-(evens + 2) / d_k)",
    ),
    "the speeds come in reverse order, the slowest pair first": ("(-evens / d_k)", "(-evens.flip(0) / d_k)"),
    "the exponent has the wrong sign, so the speeds grow and not shrink": ("(-evens / d_k)", "(evens / d_k)"),
    "the positions are replaced by 0, 1, 2, ...: right for a whole sequence, wrong for a token that is fed alone": (
        "positions = positions.double()",
        "positions = torch.arange(positions.shape[-1]).expand(positions.shape).double()",
    ),
    "the positions are counted from 1": ("positions = positions.double()", "positions = positions.double() + 1"),
    "the angles are computed in float32, so they are blurred at far positions": (
        "angles = positions.unsqueeze(-1) * speeds",
        "angles = positions.float().unsqueeze(-1) * speeds.float()",
    ),
    "only the angles are rounded to float32 before their cosine is taken": (
        "angles = positions.unsqueeze(-1) * speeds",
        "angles = (positions.unsqueeze(-1) * speeds).float()",
    ),
    "the positions are kept in bfloat16, in which there is no number between 256 and 258": (
        "positions = positions.double()",
        "positions = positions.bfloat16().double()",
    ),
    "the cosines and the sines have changed places": (
        "return angles.cos().float(), angles.sin().float()",
        "return angles.sin().float(), angles.cos().float()",
    ),
    "the sines have the wrong sign": ("angles.sin().float()", "-angles.sin().float()"),
    "the angles are taken for degrees": ("* speeds  # (..., T", "* speeds.deg2rad()  # (..., T"),
    "the speeds are taken for turns, so the angles are too large by a factor of 2 pi": (
        "* speeds  # (..., T",
        "* (2 * math.pi * speeds)  # (..., T",
    ),
    "the base is always 10,000": ("    evens = torch", "    base = 10_000.0\n    evens = torch"),
    "the tables are float64": (
        "return angles.cos().float(), angles.sin().float()",
        "return angles.cos(), angles.sin()",
    ),
    "the tables have all d_k columns, each angle twice": (
        "angles = positions.unsqueeze(-1) * speeds",
        "angles = positions.unsqueeze(-1) * torch.cat([speeds, speeds])",
    ),
    "an odd d_k is accepted": ("if d_k < 2 or d_k % 2 != 0:", "if d_k < 2:"),
    "the scaling is ignored": ("name, factor = scaling or", "name, factor ="),
    "linear scaling rounds the positions down to whole numbers, so four neighbours share one angle": (
        "positions = positions / factor",
        "positions = (positions / factor).floor() if factor > 1 else positions",
    ),
    "linear scaling multiplies the positions": ("positions = positions / factor", "positions = positions * factor"),
    "linear scaling divides the base and not the positions": ("positions = positions / factor", "base = base / factor"),
    "linear scaling multiplies the base by s": ("positions = positions / factor", "base = base * factor"),
    "ntk scaling multiplies the base by s alone, without the exponent": (
        "base * factor ** (d_k / (d_k - 2))",
        "base * factor",
    ),
    "the exponent of ntk scaling is (d_k - 2) / d_k, upside down": (
        "factor ** (d_k / (d_k - 2))",
        "factor ** ((d_k - 2) / d_k)",
    ),
    "the exponent of ntk scaling is d_k - 2": ("factor ** (d_k / (d_k - 2))", "factor ** (d_k - 2)"),
    "ntk scaling divides the base, so the slow pairs turn faster": (
        "base = base * factor ** (d_k",
        "base = base / factor ** (d_k",
    ),
    "ntk scaling also divides the positions": (
        "base = base * factor ** (d_k",
        "positions = positions / factor; base = base * factor ** (d_k",
    ),
    "the two kinds of scaling have changed places": ('if name == "linear":', 'if name != "linear" or factor == 1:'),
    "an unknown kind of scaling is ignored without an error": (
        '    if name not in ("linear", "ntk") or factor < 1:',
        '    if name not in ("linear", "ntk"):\n        name, factor = "linear", 1.0\n    if factor < 1:',
    ),
    "an unknown kind of scaling counts as ntk": ('if name not in ("linear", "ntk") or factor < 1:', "if factor < 1:"),
    "a factor below 1 is accepted": (
        'if name not in ("linear", "ntk") or factor < 1:',
        'if name not in ("linear", "ntk"):',
    ),
}

# %% [markdown]
# ## Exercise 5 · `rope_attention`
#
# Put it to work. The queries and the keys are turned, each by their own positions, and then it is the attention of Lab
# 1.1. The values are left alone: they carry content, and a turned value would have to be turned back by
# whoever reads the average. Queries and keys have their positions separately, because when text is generated with a
# cache, one query at position 57 meets 58 keys at 0 to 57.
#
# *Difficulty 3 of 5 · 20 minutes · 4 points*


# %% exercise="rope_attention" difficulty=3 minutes=20 forbid=["apply_rotary_pos_emb", "LlamaRotaryEmbedding"]
def rope_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    positions_q: torch.Tensor,
    positions_k: torch.Tensor,
    mask: torch.Tensor | None = None,
    base: float = 10_000.0,
    scaling: tuple[str, float] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention with rotary positions, half-split pairs.

    Args:
        q: queries (B, H, T_q, d_k), with d_k even.
        k: keys (B, H, T_k, d_k), not turned yet.
        v: values (B, H, T_k, d_v).
        positions_q: where the queries stand: (T_q,) for all sequences alike, or (B, T_q), one row for each sequence.
        positions_k: where the keys stand: (T_k,) or (B, T_k). The two need not have the same number of axes.
        mask: boolean, True where a query may attend to a key; it broadcasts to (B, H, T_q, T_k). None allows everything.
        base, scaling: as in `rope_tables`, the same for queries and keys.

    Returns:
        output (B, H, T_q, d_v) and weights (B, H, T_q, T_k), as `attention` returns them.
    """
    ### BEGIN SOLUTION
    d_k = q.shape[-1]
    # An axis for the heads: (T,) -> (1, T), and (B, T) -> (B, 1, T).
    cos_q, sin_q = rope_tables(positions_q.unsqueeze(-2), d_k, base, scaling)  # (..., 1, T_q, d_k / 2)
    cos_k, sin_k = rope_tables(positions_k.unsqueeze(-2), d_k, base, scaling)  # (..., 1, T_k, d_k / 2)
    turned_q = apply_rope(q, cos_q, sin_q)  # (B, H, T_q, d_k)
    turned_k = apply_rope(k, cos_k, sin_k)  # (B, H, T_k, d_k)
    return attention(turned_q, turned_k, v, mask)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Two pairs of tables, two turns, one call of <code>attention</code>. You have written everything that it needs.</details>
# <details><summary>A bigger nudge</summary>With positions (B, T) the tables are (B, T, d_k / 2), and broadcasting lines axes up from the right: what does their B
# meet in (B, H, T, d_k / 2)? One more axis, at the right place, settles it. The same line may serve positions (T,) too.</details>

# %% test="rope_attention" points=4
from coursekit import check

import torch

q, k, v = torch.randn(3, 1, 2, 5, 8, generator=torch.Generator().manual_seed(0))
here = torch.arange(5)
output, weights = rope_attention(q, k, v, here, here)
check.close(
    rope_attention(q, k, v, here + 700, here + 700),
    [output, weights],
    "everything 700 positions further on: only distances count",
)
check.that(
    not torch.allclose(rope_attention(q, k, v, here, here.flip(0))[1], weights, atol=1e-3),
    "other distances give other weights",
    hint="Do the angles of the keys come from positions_k?",
)
same_value = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]).expand(1, 2, 5, 8)
check.close(
    rope_attention(q, k, same_value, here, here)[0],
    same_value,
    "all values are the same vector, and so is every average of them",
    hint="Values carry content. Only queries and keys are turned.",
)
### BEGIN HIDDEN TESTS
import math

from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb


def values(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(check.seed(seed)))


def turned(x, positions, base):
    # x (B, H, T, d_k), positions (B, T) or (T,): pairs as complex numbers, in float64.
    d = x.shape[-1] // 2
    where = positions.double().expand(x.shape[0], -1)[:, None, :, None]
    angles = where * torch.tensor([base ** (-i / d) for i in range(d)], dtype=torch.float64)
    z = torch.complex(x[..., :d], x[..., d:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([z.real, z.imag], dim=-1)


def expected(q, k, v, positions_q, positions_k, mask=None, base=10_000.0):
    q, k, v = q.double(), k.double(), v.double()
    scores = turned(q, positions_q, base) @ turned(k, positions_k, base).mT / math.sqrt(q.shape[-1])
    weights = torch.softmax(scores if mask is None else scores.masked_fill(~mask, -torch.inf), dim=-1)
    return [weights @ v, weights]


# As many sequences as heads, and as many as tokens: nothing crashes when axes are mixed up.
q, k, v = (values(3, 3, 3, 8, seed=seed) for seed in (1, 2, 3))
each = torch.tensor([[0, 1, 2], [0, 0, 1], [40, 41, 42]])
check.close(rope_attention(q, k, v, each, each), expected(q, k, v, each, each), "positions (B, T), with B = H = T")
check.close(
    rope_attention(q, k, v, each, each[0] + 5),
    expected(q, k, v, each, each[0] + 5),
    "positions of the queries (B, T_q), of the keys (T_k,)",
)
for batch, n_heads, t_q, t_k, d_k, d_v in ((3, 2, 7, 11, 10, 10), (1, 1, 1, 63, 60, 5), (2, 5, 4, 4, 2, 3)):
    q, k, v = (
        values(batch, length, n_heads, width, seed=10 * width + length).transpose(1, 2)
        for length, width in ((t_q, d_k), (t_k, d_k), (t_k, d_v))
    )
    positions_k = torch.arange(t_k) + 3
    positions_q = torch.arange(t_q) + t_k + 3 - t_q
    causal = positions_q[:, None] >= positions_k[None, :]
    for mask in (None, causal):
        case = f"B={batch}, H={n_heads}, T_q={t_q}, T_k={t_k}, d_k={d_k}, d_v={d_v}, {'no' if mask is None else 'causal'} mask"
        want = expected(q, k, v, positions_q, positions_k, mask)
        check.close(rope_attention(q, k, v, positions_q, positions_k, mask), want, case)
        single = [part.float() for part in (q, k, v)]
        check.close(
            rope_attention(*single, positions_q, positions_k, mask), [part.float() for part in want], f"float32, {case}"
        )

# One token at a time, with the keys kept, is the whole sequence.
q, k, v = (values(2, 3, 9, 12, seed=seed) for seed in (4, 5, 6))
here, causal = torch.arange(9), torch.ones(9, 9, dtype=torch.bool).tril()
whole = rope_attention(q, k, v, here, here, causal)[0]
for t in (0, 4, 8):
    one = rope_attention(q[:, :, t : t + 1], k[:, :, : t + 1], v[:, :, : t + 1], here[t : t + 1], here[: t + 1])[0]
    check.close(one[:, :, 0], whole[:, :, t], f"the query at position {t} alone, with {t + 1} keys")
far = torch.tensor([9_000, 9_001, 12_345])
check.close(
    rope_attention(q[:, :, :3], k, v, far, here),
    expected(q[:, :, :3], k, v, far, here),
    "queries nine thousand positions from their keys; the base is 10,000 where it is left out",
    atol=3e-3,
)
check.close(
    rope_attention(q, k, v, here, here, base=500.0),
    expected(q, k, v, here, here, base=500.0),
    "base 500 reaches the tables",
)
check.close(
    rope_attention(q, k, v, here, here, scaling=("linear", 4.0)),
    expected(q, k, v, here / 4, here / 4),
    "linear scaling by 4",
)
check.close(
    rope_attention(q, k, v, here, here, scaling=("ntk", 4.0)),
    expected(q, k, v, here, here, base=10_000.0 * 4 ** (12 / 10)),
    "ntk scaling by 4",
)
check.gradients(
    lambda q, k, v: tuple(rope_attention(q, k, v, here, here, causal)),
    lambda q, k, v: tuple(expected(q, k, v, here, here, causal)),
    [q, k, v],
    "gradients for q, k and v",
)
config = LlamaConfig(
    hidden_size=36,
    num_attention_heads=3,
    max_position_embeddings=64,
    rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
)
q, k, v = q.float(), k.float(), v.float()
cos, sin = LlamaRotaryEmbedding(config)(q, here[None])
llama_q, llama_k = apply_rotary_pos_emb(q, k, cos, sin)
want = torch.nn.functional.scaled_dot_product_attention(llama_q, llama_k, v, is_causal=True)
check.close(rope_attention(q, k, v, here, here, causal)[0], want, "turned by transformers' Llama, attended by PyTorch")
### END HIDDEN TESTS


# %% alternative="rope_attention"
def rope_attention(q, k, v, positions_q, positions_k, mask=None, base=10_000.0, scaling=None):
    # Only the keys are turned, by their distance from each query: one query at a time.
    rows = []
    positions_q = positions_q.expand(q.shape[0], -1)
    positions_k = positions_k.expand(q.shape[0], -1)
    outputs = []
    for t in range(q.shape[2]):
        cos, sin = rope_tables(positions_k - positions_q[:, t : t + 1], q.shape[-1], base, scaling)
        keys = apply_rope(k, cos[:, None], sin[:, None])
        seen = None if mask is None else mask.expand(*q.shape[:3], k.shape[2])[:, :, t : t + 1]
        output, weights = attention(q[:, :, t : t + 1], keys, v, seen)
        outputs.append(output)
        rows.append(weights)
    return torch.cat(outputs, dim=2), torch.cat(rows, dim=2)


# %% mistakes="rope_attention"
{
    "the values are turned too": (
        "return attention(turned_q, turned_k, v, mask)",
        "return attention(turned_q, turned_k, apply_rope(v, cos_k[..., : v.shape[-1] // 2], sin_k[..., : v.shape[-1] // 2]), mask)",
    ),
    "only the queries are turned, so the scores depend on where the query stands": (
        "attention(turned_q, turned_k, v, mask)",
        "attention(turned_q, k, v, mask)",
    ),
    "only the keys are turned, so the scores depend on where the key stands": (
        "attention(turned_q, turned_k, v, mask)",
        "attention(q, turned_k, v, mask)",
    ),
    "nothing is turned": ("attention(turned_q, turned_k, v, mask)", "attention(q, k, v, mask)"),
    "the queries are turned the other way than the keys, so the sum of the positions counts and not their difference": (
        "apply_rope(q, cos_q, sin_q)",
        "apply_rope(q, cos_q, -sin_q)",
    ),
    "everything is turned the other way: the query sees a key in front as if it were behind": [
        ("apply_rope(q, cos_q, sin_q)", "apply_rope(q, cos_q, -sin_q)"),
        ("apply_rope(k, cos_k, sin_k)", "apply_rope(k, cos_k, -sin_k)"),
    ],
    "the tables of each sequence are lined up with the heads": [
        ("positions_q.unsqueeze(-2)", "positions_q"),
        ("positions_k.unsqueeze(-2)", "positions_k"),
    ],
    "only the positions of the first sequence are used": [
        ("positions_q.unsqueeze(-2)", "(positions_q if positions_q.ndim == 1 else positions_q[0])"),
        ("positions_k.unsqueeze(-2)", "(positions_k if positions_k.ndim == 1 else positions_k[0])"),
    ],
    "the positions are ignored and counted from 0: a single query with a cache is told that it is the first": [
        ("rope_tables(positions_q.unsqueeze(-2)", "rope_tables(torch.arange(q.shape[2])"),
        ("rope_tables(positions_k.unsqueeze(-2)", "rope_tables(torch.arange(k.shape[2])"),
    ],
    "the queries are turned by the last positions of the keys, whatever positions_q says": (
        "rope_tables(positions_q.unsqueeze(-2)",
        "rope_tables(positions_k[..., -q.shape[2] :].unsqueeze(-2)",
    ),
    "both are counted from their own first position": [
        ("rope_tables(positions_q.unsqueeze(-2)", "rope_tables((positions_q - positions_q[..., :1]).unsqueeze(-2)"),
        ("rope_tables(positions_k.unsqueeze(-2)", "rope_tables((positions_k - positions_k[..., :1]).unsqueeze(-2)"),
    ],
    "the pairs are neighbours and not half-split": [
        ("apply_rope(q, cos_q, sin_q)", "apply_rope_interleaved(q, cos_q, sin_q)"),
        ("apply_rope(k, cos_k, sin_k)", "apply_rope_interleaved(k, cos_k, sin_k)"),
    ],
    "the queries are half-split and the keys interleaved": (
        "apply_rope(k, cos_k, sin_k)",
        "apply_rope_interleaved(k, cos_k, sin_k)",
    ),
    "queries and keys are turned twice": [
        ("apply_rope(q, cos_q, sin_q)", "apply_rope(apply_rope(q, cos_q, sin_q), cos_q, sin_q)"),
        ("apply_rope(k, cos_k, sin_k)", "apply_rope(apply_rope(k, cos_k, sin_k), cos_k, sin_k)"),
    ],
    "the scores are scaled twice: once here and once in attention": (
        "attention(turned_q, turned_k, v, mask)",
        "attention(turned_q / d_k**0.5, turned_k, v, mask)",
    ),
    "the mask never reaches the attention": (
        "attention(turned_q, turned_k, v, mask)",
        "attention(turned_q, turned_k, v)",
    ),
    "a causal mask is applied although nobody asked for one": (
        "attention(turned_q, turned_k, v, mask)",
        "attention(turned_q, turned_k, v, torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2]) if mask is None else mask)",
    ),
    "the base is not passed on": ("d_k, base, scaling)", "d_k, 10_000.0, scaling)", "all"),
    "the scaling is not passed on": ("d_k, base, scaling)", "d_k, base)", "all"),
    "only the keys are scaled": (
        "rope_tables(positions_q.unsqueeze(-2), d_k, base, scaling)",
        "rope_tables(positions_q.unsqueeze(-2), d_k, base)",
    ),
    "the output alone is returned": (
        "return attention(turned_q, turned_k, v, mask)",
        "return attention(turned_q, turned_k, v, mask)[0]",
    ),
    "the gradients stop at the turn": (
        "attention(turned_q, turned_k, v, mask)",
        "attention(turned_q.detach(), turned_k.detach(), v, mask)",
    ),
}

# %% [markdown]
# ## Look at it
#
# A head that looks a fixed number of tokens back can be written down without any training. Let every key hold the arrow
# $(1, 0)$ in all pairs, and every query the same arrows turned *back* by three positions. At distance 3 the two turns
# cancel, and all arrows agree. Now scale by 4, as one does to run such a model on texts four times as long. The weights
# of the head stay what they were. Where does it look?

# %%
import plotly.graph_objects as go

from coursekit import plots

d_k, here = 64, 8_000  # where the query stands; only distances count, so any number does
key = torch.cat([torch.ones(d_k // 2), torch.zeros(d_k // 2)])  # half-split: (1, 0) in every pair


def scores_of(back: int, distance: torch.Tensor, scaling: tuple[str, float] | None) -> torch.Tensor:
    """What a head made to look `back` tokens back thinks of keys at some distances; 1 where all arrows agree."""
    cos, sin = rope_tables(torch.tensor([back]), d_k)
    query = apply_rope(key[None], cos, -sin)  # (1, d_k): turned back by as many positions, without scaling
    turned_query = apply_rope(query, *rope_tables(torch.tensor([here]), d_k, scaling=scaling))
    turned_keys = apply_rope(key.expand(len(distance), d_k), *rope_tables(here - distance, d_k, scaling=scaling))
    return (turned_query @ turned_keys.T)[0] / (d_k // 2)


kinds = {"no scaling": None, "linear, 4": ("linear", 4.0), "ntk, 4": ("ntk", 4.0)}
print("made to look back       " + "".join(f"{kind:>12}" for kind in kinds))
for back in (3, 30, 300, 1_000):
    found = [int(scores_of(back, torch.arange(5 * back), scaling).argmax()) for scaling in kinds.values()]
    print(f"{back:6,d} tokens: it looks " + "".join(f"{tokens:12,d}" for tokens in found))

distance = torch.arange(25)
figure = go.Figure()
for colour, (kind, scaling) in zip(plots.COLOURS, kinds.items(), strict=False):
    figure.add_scatter(
        x=distance,
        y=scores_of(3, distance, scaling),
        name=kind,
        mode="lines+markers",
        line_color=colour,
        hovertemplate="%{x} tokens back: score %{y:.3f}",
    )
figure.add_vline(x=3, line={"color": plots.GREY, "dash": "dot"})
figure.update_xaxes(title="how many tokens back the key stands")
figure.update_yaxes(title="score, 1 = all arrows agree")
figure.update_layout(height=380, hovermode="x unified", legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})
figure.show()

# %% [markdown]
# With linear scaling every head looks exactly four times as far as it was made to, and around its peak the neighbours
# are hard to tell apart: for the head of the figure, 11, 12 and 13 tokens back are nearly one place. With NTK-aware scaling
# the head that looks 3 back still does. The one for 30 is a little off, the one for 1,000 looks almost twice as far. Near
# is measured by the fast pairs, which are left alone; far is measured by the slow ones, which are stretched.
#
# A grammar rule says "the previous word", and that stays the previous word however long the text is. "In the first
# paragraph" does stretch. Which kind of scaling would you try on a model that cannot be trained any further, and which one
# if you may train on for a while? And what would you have to know about a model's heads to decide better?
#
# ## Common mistakes
#
# - **The other custom of pairs.** Half-split code with weights that were trained interleaved, or the other way round. Shapes
#   and lengths are right, scores depend on the distance, the text that comes out is noise. Compare with a reference in
#   values; nothing else shows it. A test with `d_k = 4` may not either: the permutation of four features is its own inverse.
# - **Turned the other way.** With a minus where the plus belongs, scores still depend on the distance alone, and
#   a model trains as well as before. It only disagrees with weights that were trained the usual way.
# - **Positions counted from 0 in every call.** Right for whole sequences, and so for all of training. With a cache, the new
#   token is told that it is the first one. The text derails after the first generated token.
# - **A `(B, T, d_k / 2)` table beside `(B, H, T, d_k / 2)`.** Broadcasting lines up the batch with the heads. With as many
#   sequences as heads nothing crashes, and with a batch of one it is even right.
# - **Turned values.** The outputs then depend on absolute positions, and the promise of RoPE is broken where no test
#   of scores looks.
# - **Angles in low precision.** In bfloat16 there is no number between 256 and 258, so position 257 does not exist. Build
#   the tables in float64 or float32 and never cast positions.
# - **A learned table that is too short.** A position beyond it must be an error. Clamping hides it, and every token
#   from there on stands at the same place.
#
# More faults that do not crash are on the page [Pitfalls](../../book/ch01_attention/pitfalls.md). The next lab,
# [Lab 2.3](lab03_feed_forward.ipynb), builds the other half of a block.
#
# ## Going further
#
# - **Convert a checkpoint.** Weights trained with interleaved pairs run under half-split code once the columns of `w_q`
#   and `w_k` are put in another order, head by head. Write it with `pair_permutation` and
#   `MultiHeadAttention` from Lab 1.3, and show that the scores of both are equal. Why must `w_v` be left as it is?
# - **YaRN.** Linear scaling for pairs that never finish a turn within the training length, nothing for those that turn often, a
#   ramp between them, and a temperature on the scores. Add `("yarn", s)` to `rope_tables`, and see where the head
#   of the last cell looks. (Bowen Peng, Jeffrey Quesnelle, Honglu Fan, Enrico Shippole, YaRN: Efficient Context Window
#   Extension of Large Language Models, 2023.)
# - **A bias for the distance.** ALiBi turns nothing: it subtracts a multiple of the distance from each score. Write it as
#   an additive mask. (Ofir Press, Noah A. Smith, Mike Lewis, Train Short, Test Long: Attention with Linear
#   Biases Enables Input Length Extrapolation, 2022.)
