"""Seeing attention: the reference. Generated from source_solutions/ch01_attention/lab02_visualization.py by `course build`; do not edit."""

# %% given
import itertools
import math
import string
import time

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import nn

from coursekit import plots

# %% exercise="attention_entropy"
def attention_entropy(weights: torch.Tensor) -> torch.Tensor:
    """Entropy of every query's attention weights, in bits.

    Args:
        weights: float32 or float64 tensor of shape (..., T_q, T_k) with any number of leading axes. Each row sums to 1,
            or is zero throughout (a query that may look at nothing).

    Returns:
        Tensor of shape (..., T_q) and the dtype of ``weights``. A row with all its weight on one key has 0 bits, a row
        spread evenly over n keys has log2(n) bits, a row of zeros has 0. A weight of exactly zero adds nothing, and
        the gradient is finite there. Followed back through a masked softmax, the gradient of the scores is what it would
        be without the masked keys.

    Source: Shannon, A Mathematical Theory of Communication, 1948, section 6.
    """
    # A zero weight is replaced before the logarithm: log2(1) = 0, and no infinity is ever made, forwards or backwards.
    safe = torch.where(weights > 0, weights, torch.ones_like(weights))  # (..., T_q, T_k)
    return -(weights * safe.log2()).sum(dim=-1)  # (..., T_q)

# %% mistakes="attention_entropy"
{
    "the logarithm is the natural one: these are nats, not bits": ("safe.log2()", "safe.log()"),
    "the logarithm has base ten": ("safe.log2()", "safe.log10()"),
    "the minus sign is missing": ("return -(", "return ("),
    "the sum runs over the queries, not over the keys": (".sum(dim=-1)", ".sum(dim=-2)"),
    "the terms are averaged over the keys instead of summed": (".sum(dim=-1)", ".mean(dim=-1)"),
    "the entropy is averaged over the queries, so that one number is left of them all": (
        ".sum(dim=-1)",
        ".sum(dim=-1).mean(dim=-1)",
    ),
    "0 · log 0 is computed as it stands, which is NaN": (
        "torch.where(weights > 0, weights, torch.ones_like(weights))",
        "weights",
    ),
    "the slope of w · log w is left as it is at zero, where it is infinite: the values are right, the gradients are not finite": (
        "-(weights * safe.log2()).sum(dim=-1)",
        "torch.special.entr(weights).sum(dim=-1) / math.log(2)",
    ),
    "a small number is added to every weight before the logarithm, which shifts the entropy": (
        "torch.where(weights > 0, weights, torch.ones_like(weights))",
        "weights + 1e-6",
    ),
    "all numbers are summed into one, not each row for itself": (".sum(dim=-1)", ".sum()"),
    "the axis that is summed is kept, with length 1": (".sum(dim=-1)", ".sum(dim=-1, keepdim=True)"),
    "the zeros are mended after the logarithm: the values are right, the gradients are NaN": [
        ("torch.where(weights > 0, weights, torch.ones_like(weights))", "weights"),
        ("return -(weights * safe.log2()).sum", "return -torch.where(weights > 0, weights * safe.log2(), 0).sum"),
    ],
    "the entropy is divided by its largest possible value, so that an even row gives 1": (
        ".sum(dim=-1)",
        ".sum(dim=-1) / max(torch.tensor(float(weights.shape[-1])).log2().item(), 1e-9)",
    ),
    "the logarithms are not weighted: every key counts the same": ("weights * safe.log2()", "safe.log2()"),
    "the weights are cut off from the graph, so no gradient flows": (
        "safe = torch.where(",
        "weights = weights.detach()\n    safe = torch.where(",
    ),
}

# %% exercise="top_keys"
def top_keys(weights: torch.Tensor, tokens: list[str], n: int) -> list[list[tuple[str, float]]]:
    """The n keys that each query looks at most.

    Args:
        weights: float tensor of shape (T_q, T_k).
        tokens: the names of the T_k keys; a name may occur more than once.
        n: how many keys to name, n >= 1. With n > T_k all keys are named.

    Returns:
        One list for each query, in order: pairs (token, weight), the largest weight first. Of equal weights the key at
        the earlier position comes first. Weights are plain Python floats, not rounded.

    Raises:
        ValueError: if n < 1, or if ``tokens`` does not name every key.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if len(tokens) != weights.shape[1]:
        raise ValueError(f"{len(tokens)} tokens for {weights.shape[1]} keys")
    found = []
    for row in weights.tolist():
        # sorted() is stable: positions with equal weights stay in order.
        order = sorted(range(len(row)), key=lambda j: -row[j])
        found.append([(tokens[j], row[j]) for j in order[:n]])
    return found

# %% mistakes="top_keys"
{
    "the weakest keys come first": ("key=lambda j: -row[j]", "key=lambda j: row[j]"),
    "of equal weights the later position comes first": ("key=lambda j: -row[j]", "key=lambda j: (-row[j], -j)"),
    "the n keys stand in the order of their positions, not of their weights": (
        "in order[:n]]",
        "in sorted(order[:n])]",
    ),
    "the columns are read as queries": ("weights.tolist()", "weights.T.tolist()"),
    "one key too few is named": ("order[:n]", "order[: n - 1]"),
    "topk or another sort that is not stable decides between equal weights": (
        "sorted(range(len(row)), key=lambda j: -row[j])",
        "torch.tensor(row).topk(min(n, len(row))).indices.tolist()",
    ),
    "the sort is not a stable one: of many equal weights a later position may come first": (
        "sorted(range(len(row)), key=lambda j: -row[j])",
        "torch.tensor(row).argsort(descending=True).tolist()",
    ),
    "the weight is looked up by name, so that all keys of one name get the weight of the first": (
        "(tokens[j], row[j])",
        "(tokens[j], row[tokens.index(tokens[j])])",
    ),
    "the weights are still tensors, where plain floats are asked for": ("in weights.tolist():", "in weights:"),
    "the weights are scaled so that the n of them sum to one": (
        "(tokens[j], row[j])",
        "(tokens[j], row[j] / (sum(row[k] for k in order[:n]) or 1))",
    ),
    "the weights are rounded to two decimals": ("(tokens[j], row[j])", "(tokens[j], round(row[j], 2))"),
    "the names are sorted but the weights are not": (
        "[(tokens[j], row[j]) for j in order[:n]]",
        "[(tokens[j], row[rank]) for rank, j in enumerate(order[:n])]",
    ),
    "of equal weights the token that comes first in the alphabet is named first": (
        "key=lambda j: -row[j]",
        "key=lambda j: (-row[j], tokens[j])",
    ),
}

# %% given
from coursekit.figures import hover_names, read_heatmaps


def grid_height(n_rows: int) -> int:
    """A height in pixels that suits a grid with this many rows of panels."""
    return 110 + 210 * n_rows

# %% exercise="attention_heatmap"
def attention_heatmap(weights: torch.Tensor, tokens_q: list[str], tokens_k: list[str] | None = None) -> go.Figure:
    """Heat map of one head's attention weights.

    Args:
        weights: float tensor of shape (T_q, T_k); it may carry gradients.
        tokens_q: the names of the T_q queries. A name may occur more than once, and may look like a number.
        tokens_k: the names of the T_k keys; those of the queries where it is left out (self-attention).

    Returns:
        A plotly figure with one heat map of T_q rows and T_k columns:

        - row i from the top is query i, column j from the left is key j, and the cell holds exactly ``weights[i, j]``;
        - tick labels name the tokens; the x axis title says "key", the y axis title says "query";
        - the colour range is fixed at 0 to 1;
        - the hover text of a cell says the words query, key and weight, each before its value,
          for example "query: sat, key: cat, weight: 0.625" (two decimals or more).

    Raises:
        ValueError: if the shape of ``weights`` is not (number of queries, number of keys).
    """
    tokens_k = tokens_q if tokens_k is None else tokens_k
    if tuple(weights.shape) != (len(tokens_q), len(tokens_k)):
        raise ValueError(f"weights {tuple(weights.shape)} for {len(tokens_q)} queries and {len(tokens_k)} keys")
    heatmap = go.Heatmap(
        z=weights.tolist(),  # T_q rows of T_k floats
        zmin=0,
        zmax=1,
        colorscale=plots.WEIGHTS,
        colorbar={"title": {"text": "weight"}},
        hovertemplate="query: %{y}<br>key: %{x}<br>weight: %{z:.3f}<extra></extra>",
    )
    fig = go.Figure(heatmap)
    # The axes count positions and only show names, so that equal names stay apart.
    fig.update_xaxes(title="key", tickvals=list(range(len(tokens_k))), ticktext=tokens_k)
    fig.update_yaxes(title="query", tickvals=list(range(len(tokens_q))), ticktext=tokens_q, autorange="reversed")
    return fig

# %% mistakes="attention_heatmap"
{
    "rows and columns have changed places: the queries run across": ("z=weights.tolist()", "z=weights.T.tolist()"),
    "the first query is at the bottom": (', autorange="reversed"', ""),
    "the colour range is taken from the data": ("        zmin=0,\n        zmax=1,\n", ""),
    "the colour range ends at the largest weight": ("zmax=1", "zmax=weights.max().item()"),
    "the weights are normalised per column": ("z=weights.tolist()", "z=(weights / weights.sum(0)).tolist()"),
    "the weights are rounded to two decimals before they are drawn": (
        "z=weights.tolist()",
        "z=weights.detach().numpy().round(2)",
    ),
    "the names are the axes' values, so that two tokens of the same name share one row and one column": [
        ("z=weights.tolist(),", "z=weights.tolist(), x=tokens_k, y=tokens_q,"),
        (", tickvals=list(range(len(tokens_k))), ticktext=tokens_k", ""),
        (", tickvals=list(range(len(tokens_q))), ticktext=tokens_q", ""),
    ],
    "the hover text calls the key query and the query key": ("query: %{y}<br>key: %{x}", "query: %{x}<br>key: %{y}"),
    "the hover text is plotly's own, which calls them x, y and z": (
        '        hovertemplate="query: %{y}<br>key: %{x}<br>weight: %{z:.3f}<extra></extra>",\n',
        "",
    ),
    "the axes have no titles": [('title="key", ', ""), ('title="query", ', "")],
    "the hover text shows positions or tokens but not the weight": ("<br>weight: %{z:.3f}", ""),
    "the axis titles have changed places": [
        ('title="key"', 'title="QUERY"'),
        ('title="query"', 'title="key"'),
        ('title="QUERY"', 'title="query"'),
    ],
    "the labels are in the wrong order: the axis is reversed and so are they": (
        "ticktext=tokens_q",
        "ticktext=tokens_q[::-1]",
    ),
    "the keys are labelled with the tokens of the queries": ("ticktext=tokens_k", "ticktext=tokens_q"),
    "labels that do not fit the weights are accepted": (
        "if tuple(weights.shape) !=",
        "if False and tuple(weights.shape) !=",
    ),
}

# %% exercise="head_grid"
def head_grid(weights: torch.Tensor, tokens: list[str]) -> go.Figure:
    """All heads of a layer, one panel each.

    Args:
        weights: float tensor of shape (H, T, T), H >= 1.
        tokens: the names of the T tokens, queries and keys alike. A name may occur more than once.

    Returns:
        A plotly figure with H heat maps:

        - in reading order (left to right, then the next row), four in a row: H = 6 makes a row of 4 and a row of 2,
          H = 3 makes one row of 3. There is no empty row;
        - above each panel its title: "head 1" to "head H";
        - each panel shows its head as `attention_heatmap` does: first query at the top, one row and one column a token,
          tick labels that name the tokens, and the words query, key and weight in the hover text;
        - the axis titles say "query" at the panels on the left and "key" at the panels of the bottom row;
        - all panels share one colour scale from 0 to 1, shown by a single colour bar.

    Raises:
        ValueError: if the shape of ``weights`` is not (H, number of tokens, number of tokens).
    """
    n_heads, n_tokens = len(weights), len(tokens)
    if tuple(weights.shape) != (n_heads, n_tokens, n_tokens):
        raise ValueError(f"weights {tuple(weights.shape)} for {n_tokens} tokens")
    n_columns = min(n_heads, 4)
    n_rows = math.ceil(n_heads / n_columns)
    fig = make_subplots(n_rows, n_columns, subplot_titles=[f"head {h + 1}" for h in range(n_heads)])
    hover = "query: %{y}<br>key: %{x}<br>weight: %{z:.3f}<extra></extra>"
    for h, head in enumerate(weights.tolist()):  # T rows of T floats
        panel = go.Heatmap(z=head, coloraxis="coloraxis", hovertemplate=hover)
        fig.add_trace(panel, row=h // n_columns + 1, col=h % n_columns + 1)
    names = {"tickvals": list(range(n_tokens)), "ticktext": tokens}
    fig.update_xaxes(names)
    fig.update_yaxes(names, autorange="reversed")
    fig.update_xaxes(title="key", row=n_rows)
    fig.update_yaxes(title="query", col=1)
    scale = {"cmin": 0, "cmax": 1, "colorscale": plots.WEIGHTS, "colorbar": {"title": {"text": "weight"}}}
    fig.update_layout(coloraxis=scale, height=grid_height(n_rows))
    return fig

# %% mistakes="head_grid"
{
    "the panels are filled column by column while the titles run along the rows": (
        "row=h // n_columns + 1, col=h % n_columns + 1",
        "row=h % n_rows + 1, col=h // n_rows + 1",
    ),
    "the titles count the heads from 0": ('f"head {h + 1}"', 'f"head {h}"'),
    "every panel has a colour range of its own": ('coloraxis="coloraxis"', "colorscale=plots.WEIGHTS"),
    "the shared colour range is taken from the data": ('"cmin": 0, "cmax": 1, ', ""),
    "every panel brings its own colour bar": ('coloraxis="coloraxis"', "colorscale=plots.WEIGHTS, zmin=0, zmax=1"),
    "only the first panel has its first query at the top": [
        (
            'fig.update_yaxes(names, autorange="reversed")',
            'fig.update_yaxes(names)\n    fig.update_yaxes(autorange="reversed", row=1, col=1)',
        ),
    ],
    "no panel has its first query at the top": (
        'fig.update_yaxes(names, autorange="reversed")',
        "fig.update_yaxes(names)",
    ),
    "rows and columns have changed places in every panel": ("weights.tolist()", "weights.mT.tolist()"),
    "only the first panel names its keys": (
        "fig.update_xaxes(names)",
        "fig.update_xaxes(names, row=1, col=1)",
    ),
    "the panels at the bottom have no axis title": ('    fig.update_xaxes(title="key", row=n_rows)\n', ""),
    "the panels on the left have no axis title": ('    fig.update_yaxes(title="query", col=1)\n', ""),
    "a number of heads that 4 divides gets an empty row": ("math.ceil(n_heads / n_columns)", "n_heads // 4 + 1"),
    "every panel shows the average over the heads": ("z=head", "z=weights.mean(0).tolist()"),
    "every panel shows head 1": ("z=head", "z=weights[0].tolist()"),
    "the heads stand in reverse order": ("weights.tolist()", "weights.flip(0).tolist()"),
    "the names are the axes' values, so that two tokens of the same name share one row and one column": [
        ("z=head,", "z=head, x=tokens, y=tokens,"),
        ("fig.update_xaxes(names)\n", "\n"),
        ("update_yaxes(names, ", "update_yaxes("),
    ],
}

# %% exercise="pattern_scores"
def pattern_scores(weights: torch.Tensor, tokens: list[str]) -> dict[str, float]:
    """How much attention one head pays, on average, to five kinds of position.

    For query i (counted from 0) of T, the target keys are:

    - "previous": position i - 1;
    - "same": position i itself;
    - "first": position 0;
    - "reversed": position T - 1 - i;
    - "induction": every position j + 1 such that j < i and ``tokens[j] == tokens[i]``.

    The score of a pattern: for each query that has a target, the sum of its weights on its targets; then the mean over those
    queries. Queries without a target (the first one has no previous position) do not count. 0.0 if no query has a target.

    Args:
        weights: float tensor of shape (T, T), one head; it may carry gradients.
        tokens: the T tokens that the head looked at.

    Returns:
        A dict with the five names above, in that order, and plain Python floats between 0 and 1.

    Raises:
        ValueError: if the shape of ``weights`` is not (number of tokens, number of tokens).

    Source: the induction score follows Olsson et al., In-context Learning and Induction Heads, 2022.
    """
    n_tokens = len(tokens)
    if tuple(weights.shape) != (n_tokens, n_tokens):
        raise ValueError(f"weights {tuple(weights.shape)} for {n_tokens} tokens")
    i = torch.arange(n_tokens)[:, None]  # queries: (T, 1)
    j = torch.arange(n_tokens)[None, :]  # keys: (1, T)
    equal = torch.tensor([[key == query for key in tokens] for query in tokens])  # (T, T)
    targets = {
        "previous": j == i - 1,
        "same": j == i,
        "first": j == torch.zeros_like(i),
        "reversed": j == n_tokens - 1 - i,
        # Where the token stood before, then one step to the right. The last column is False before the step: nothing wraps.
        "induction": (equal & (j < i)).roll(1, dims=1),
    }
    scores = {}
    for name, target in targets.items():
        on_target = (weights * target).sum(dim=1)  # (T,)
        counted = on_target[target.any(dim=1)]
        scores[name] = counted.mean().item() if len(counted) else 0.0
    return scores

# %% mistakes="pattern_scores"
{
    "previous looks at the next position": ("j == i - 1", "j == i + 1"),
    "previous wraps around: the first query looks at position -1, which Python takes for the last": (
        "j == i - 1",
        "j == (i - 1) % n_tokens",
    ),
    "same means every place of the same token, not the position itself": ('"same": j == i', '"same": equal'),
    "queries without a target count as zeros": ("on_target[target.any(dim=1)]", "on_target"),
    "rows and columns have changed places: the keys are read as queries": (
        "(weights * target)",
        "(weights.T * target)",
    ),
    "first is the first query, not the first key": (
        '"first": j == torch.zeros_like(i)',
        '"first": i == torch.zeros_like(j)',
    ),
    "induction looks at the earlier token itself, not at the one after it": (".roll(1, dims=1)", ""),
    "induction looks at the token before the earlier one": (".roll(1, dims=1)", ".roll(-1, dims=1)"),
    "induction also takes places that are not earlier": (
        "(equal & (j < i))",
        "(equal & (j != i) & (j < n_tokens - 1))",
    ),
    "induction takes a token's own position for an earlier one": ("(j < i)", "(j <= i) & (j < n_tokens - 1)"),
    "induction takes only the latest of a token's earlier places": (
        "(equal & (j < i))",
        "(equal & (j < i) & (j == (equal * (j < i) * (j + 1)).amax(dim=1, keepdim=True) - 1))",
    ),
    "induction takes only the first of a token's earlier places": (
        "(equal & (j < i))",
        "(equal & (j < i) & ((equal & (j < i)).cumsum(dim=1) == 1))",
    ),
    "induction leaves out a token that follows itself": ("(j < i)", "(j < i - 1)"),
    "a mean is taken even of no queries at all, which is NaN": (" if len(counted) else 0.0", ""),
    "reversed is off by one": ("n_tokens - 1 - i", "n_tokens - i"),
    "the weights on several targets are averaged, not summed": (
        "(weights * target).sum(dim=1)",
        "(weights * target).sum(dim=1) / target.sum(dim=1).clamp(min=1)",
    ),
    "the score is the largest query's, not the mean": ("counted.mean()", "counted.max()"),
}

# %% given
TASKS = {"copy": 100, "reverse": 200, "induction": 400}  # training steps
N_LETTERS = T_TASK = 12


class AttentionOnly(nn.Module):
    """Token and position embeddings, then layers of two-head attention with a residual connection, then letters."""

    def __init__(self, n_layers: int, causal: bool, d_model: int = 32, n_heads: int = 2):
        super().__init__()
        self.n_heads, self.causal = n_heads, causal
        self.letter = nn.Embedding(N_LETTERS, d_model)
        self.position = nn.Embedding(T_TASK, d_model)
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(n_layers + 1))
        self.inputs = nn.ModuleList(nn.Linear(d_model, 3 * d_model, bias=False) for _ in range(n_layers))
        self.outputs = nn.ModuleList(nn.Linear(d_model, d_model, bias=False) for _ in range(n_layers))
        self.read_out = nn.Linear(d_model, N_LETTERS)

    def forward(self, letters: torch.Tensor, attend: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, T, letters) and weights (L, B, H, T, T); with ``attend=False`` the heads' outputs are left out."""
        x = self.letter(letters) + self.position.weight
        future = torch.ones(T_TASK, T_TASK, dtype=torch.bool).triu(1)
        seen = []
        for norm, into, out in zip(self.norms, self.inputs, self.outputs, strict=False):
            heads = into(norm(x)).unflatten(-1, (3, self.n_heads, -1))  # (B, T, 3, H, d_k)
            q, k, v = heads.permute(2, 0, 3, 1, 4)
            scores = q @ k.mT / q.shape[-1] ** 0.5
            weights = (scores.masked_fill(future, -torch.inf) if self.causal else scores).softmax(-1)
            x = x + out((weights @ v).transpose(1, 2).flatten(2)) * attend
            seen.append(weights)
        return self.read_out(self.norms[-1](x)), torch.stack(seen)


def task_batch(task: str, size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Letters, answers and which answers count, each of shape (size, T)."""
    if task != "induction":
        letters = torch.randint(N_LETTERS, (size, T_TASK), generator=generator)
        return letters, letters if task == "copy" else letters.flip(1), torch.ones_like(letters, dtype=torch.bool)
    period = torch.randint(4, 9, (size, 1), generator=generator)
    once = torch.rand(size, N_LETTERS, generator=generator).argsort(1)  # letters in random order, none of them twice
    place = torch.arange(T_TASK + 1)
    letters = once.gather(1, place % period)
    return letters[:, :-1], letters[:, 1:], place[:-1] >= period


def train_and_watch(task: str, seed: int = 0) -> dict:
    """Train on one task; plain results: what the heads of every layer looked at, and when.

    Returns:
        tokens (T letters), steps (S numbers), weights (S, L, H, T, T) on those tokens, loss (S numbers), accuracy at the end,
        accuracy_without_attention (the same model with the heads' outputs left out), seconds.
    """
    started, threads = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model only loses time to a second thread
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AttentionOnly(n_layers=2 if task == "induction" else 1, causal=task == "induction")
    n_steps = TASKS[task]
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=n_steps)
    generator = torch.Generator().manual_seed(seed)
    probe = torch.tensor(
        [[4, 9, 0, 7, 2, 4, 9, 0, 7, 2, 4, 9]] if task == "induction" else [[4, 9, 0, 7, 2, 11, 5, 9, 3, 8, 1, 4]]
    )
    steps, snapshots, losses = [], [], []
    for step in range(n_steps + 1):
        letters, answers, counts = task_batch(task, 64, generator)
        loss = nn.functional.cross_entropy(model(letters)[0][counts], answers[counts])
        if step % (n_steps // 10) == 0:
            steps.append(step)
            losses.append(loss.item())
            snapshots.append(model(probe)[1][:, 0].detach())
        if step < n_steps:
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    letters, answers, counts = task_batch(task, 512, generator)
    with torch.no_grad():
        right, right_without = (
            (model(letters, attend)[0].argmax(-1) == answers)[counts].float().mean().item() for attend in (True, False)
        )
    torch.set_num_threads(threads)
    return {
        "tokens": [string.ascii_lowercase[letter] for letter in probe[0]],
        "steps": steps,
        "weights": torch.stack(snapshots),
        "loss": losses,
        "accuracy": right,
        "accuracy_without_attention": right_without,
        "seconds": time.perf_counter() - started,
    }
