# ---
# title: Why attention? A recurrent network and a lookup, side by side
# chapter: ch01
# kind: demonstration
# claim: At equal parameters and equal training, an attention lookup recalls 128 pairs while a GRU's recall falls with length.
# minutes: 4
# ---

# %% [markdown]
# # Why attention? A recurrent network and a lookup, side by side
#
# Read a list of pairs: *k7 is 3, k2 is 0, k9 is 5 …* Then answer one question: what was k2? Programmers have a data
# structure for this. A neural network has to learn one.
#
# Two networks try it here. A **recurrent network** (a GRU) reads the list pair by pair and keeps what it can in one state of
# fixed size. When the question comes, the list is gone; only the state is left. An **attention lookup** keeps one key and one
# value for every pair and compares the question with all the keys at once. The page
# [Attention: the intuition](../book/ch01_attention/attention_intuition.md) tells the story behind this; here we measure it.
#
# Everything else is held equal: the same lists, the same questions, the same number of training steps, the same optimiser
# (each model at the learning rate that suits it), and the same number of parameters (within two per cent; the count is below).

# %% tags=["parameters"]
result_path = ""  # where to write the result as JSON; empty: only print it
quick = False  # a small version for the tests: one seed, two lengths, fewer steps
n_steps = 400  # training steps of each model, 64 lists a step
n_seeds = 3

# %%
import time
from concurrent.futures import ThreadPoolExecutor

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import nn

from coursekit import plots, results, timing
from coursekit.data import associative_recall

started = time.perf_counter()
# One thread to each model and two models at a time use two cores better than two threads in one small model.
torch.set_num_threads(1)
LENGTHS = [8, 32] if quick else [8, 16, 32, 64, 128]
STEPS = 200 if quick else n_steps
SEEDS = range(1 if quick else n_seeds)
BATCH, N_VALUES, MAX_QUESTIONS = 64, 8, 16
GRU_COLOUR, ATTENTION_COLOUR = plots.COLOURS[1], plots.COLOURS[0]


def lists(seed: int, n_pairs: int, batch: int = BATCH, every_question: bool = False):
    """Lists of n_pairs pairs, with keys from a set twice as large, and up to 16 different questions about each list."""
    n_queries = n_pairs if every_question else min(n_pairs, MAX_QUESTIONS)
    keys, values, where, answers = associative_recall(seed, batch, n_pairs, 2 * n_pairs, N_VALUES, n_queries)
    return keys, values, keys.gather(1, where), answers


keys, values, questions, answers = lists(seed=1, n_pairs=8)
print("the list:     ", ", ".join(f"k{k} is {v}" for k, v in zip(keys[0].tolist(), values[0].tolist(), strict=True)))
print("the questions:", ", ".join(f"k{k}?" for k in questions[0].tolist()))
print("the answers:  ", ", ".join(map(str, answers[0].tolist())))

# %% [markdown]
# ## Two models of one size
#
# Both add the embedding of a pair's key to the embedding of its value. A question is a key with a blank in place of the value.
#
# - `Recurrent`: `nn.GRU` reads the pairs into a state of 128 numbers. Each question is one more step, always from the same
#   state, so questions do not disturb each other.
# - `Lookup`: one head of attention, the question against all pairs. No position codes, no feed-forward layer.
#
# The lookup's only width is chosen by a loop, so that the two counts of parameters come out as close as they can.

# %%
STATE = 128


class Pairs(nn.Module):
    """Embeds pairs and questions; the part that both models share in form."""

    def __init__(self, n_pairs: int, width: int):
        super().__init__()
        self.key = nn.Embedding(2 * n_pairs, width)
        self.value = nn.Embedding(N_VALUES + 1, width)  # the last one is the blank

    def forward(self, keys, values):  # (B, T), (B, T) -> (B, T, width)
        return self.key(keys) + self.value(values)

    def ask(self, questions):  # (B, Q) -> (B, Q, width)
        return self.key(questions) + self.value.weight[-1]


class Recurrent(nn.Module):
    def __init__(self, n_pairs: int, width: int = 32):
        super().__init__()
        self.pairs = Pairs(n_pairs, width)
        self.gru = nn.GRU(width, STATE, batch_first=True)
        self.out = nn.Linear(STATE, N_VALUES)

    def forward(self, keys, values, questions):
        asked = self.pairs.ask(questions)
        B, Q, width = asked.shape
        _, state = self.gru(self.pairs(keys, values))  # (1, B, STATE): all that is left of the list
        state = state[0, :, None].expand(B, Q, STATE).reshape(1, B * Q, STATE).contiguous()
        _, state = self.gru(asked.reshape(B * Q, 1, width), state)
        return self.out(state).view(B, Q, N_VALUES)


class Lookup(nn.Module):
    def __init__(self, n_pairs: int, width: int):
        super().__init__()
        self.pairs = Pairs(n_pairs, width)
        self.w_q, self.w_k, self.w_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, N_VALUES)

    def forward(self, keys, values, questions):
        x = self.pairs(keys, values)
        q, k, v = self.w_q(self.pairs.ask(questions)), self.w_k(x), self.w_v(x)  # (B, Q, d), (B, T, d), (B, T, d)
        weights = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, dim=-1)  # (B, Q, T)
        return self.out(weights @ v)


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def lookup_width(n_pairs: int) -> int:
    """The width at which the lookup has as many parameters as the recurrent network, as nearly as possible."""
    target = size(Recurrent(n_pairs))
    return min(range(16, 257), key=lambda width: abs(size(Lookup(n_pairs, width)) - target))


width_for = {n: lookup_width(n) for n in LENGTHS}
sizes = {n: (size(Recurrent(n)), size(Lookup(n, width_for[n]))) for n in LENGTHS}
print(f"{'pairs':>5} {'GRU':>8} {'lookup':>8} {'difference':>11}")
for n, (recurrent, lookup) in sizes.items():
    print(f"{n:>5} {recurrent:>8,} {lookup:>8,} {lookup / recurrent - 1:>+11.2%}")
largest_size_difference = max(abs(lookup / recurrent - 1) for recurrent, lookup in sizes.values())

# %% [markdown]
# ## Train both
#
# One training for each model, length and seed, on fresh lists at every step. Each model gets the learning rate that served it best when
# we tried several by hand, between 0.0025 and 0.05, on lists of 8 to 32 pairs. They are not the same: the GRU does best at a rate at which the lookup
# no longer learns 32 pairs. (Put 0.02 in both places and see.) One rate for both would have been unfair to one of them.

# %%
RATES = {"GRU": 2e-2, "lookup": 5e-3}
GUESS_LISTS = 4096


def train(model: nn.Module, kind: str, n_pairs: int, seed: int) -> list[float]:
    """Train the model in place; return its accuracy on each training batch, before the step on it."""
    torch.set_num_threads(1)
    optimiser = torch.optim.Adam(model.parameters(), lr=RATES[kind])
    history = []
    for step in range(STEPS):
        keys, values, questions, answers = lists(1_000_000 * (seed + 1) + step, n_pairs)
        logits = model(keys, values, questions)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        history.append((logits.argmax(-1) == answers).float().mean().item())
    return history


@torch.no_grad()
def accuracy(model: nn.Module, n_pairs: int) -> float:
    """Share of right answers on 256 lists that no training has seen, every key asked."""
    keys, values, questions, answers = lists(7, n_pairs, batch=256, every_question=True)
    return (model(keys, values, questions).argmax(-1) == answers).float().mean().item()


def best_guess(n_pairs: int) -> float:
    """What an answerer gets that knows all values of the list but not whose they are: it names the commonest one."""
    values = lists(11, n_pairs, batch=GUESS_LISTS)[1]
    return (nn.functional.one_hot(values, N_VALUES).sum(1).amax(1) / n_pairs).mean().item()


jobs = {}
for seed in SEEDS:
    for n in LENGTHS:
        torch.manual_seed(seed)
        jobs["GRU", n, seed] = Recurrent(n)
        jobs["lookup", n, seed] = Lookup(n, width_for[n])
begun = time.perf_counter()
with ThreadPoolExecutor(2) as pool:
    # The longest first, so that no thread waits long at the end.
    order = sorted(jobs, key=lambda job: (-job[1], job[0]))
    histories = dict(zip(order, pool.map(lambda job: train(jobs[job], *job), order), strict=True))
training_seconds = time.perf_counter() - begun
scores = {job: accuracy(model, job[1]) for job, model in jobs.items()}
guesses = {n: best_guess(n) for n in LENGTHS}


def over_seeds(kind: str, n: int) -> torch.Tensor:
    return torch.tensor([scores[kind, n, seed] for seed in SEEDS])


print(f"{len(jobs)} trainings of {STEPS} steps in {training_seconds:.0f} s")
print(f"{'pairs':>5}  {'GRU: mean (min to max)':>24}  {'lookup: mean (min to max)':>26}  {'best guess':>10}")
for n in LENGTHS:
    g, a = over_seeds("GRU", n), over_seeds("lookup", n)
    texts = [f"{s.mean():.1%} ({s.min():.1%} to {s.max():.1%})" for s in (g, a)]
    print(f"{n:>5}  {texts[0]:>24}  {texts[1]:>26}  {guesses[n]:>10.1%}")

# %% [markdown]
# ## Accuracy against length
#
# Points are means over the seeds; bars reach from the worst seed to the best. Two dashed lines tell what an answer is
# worth: one value in eight is right by blind chance, and an answerer that remembers *which values* occurred, but not with which
# key, gets the upper one.

# %%
figure = go.Figure()
for kind, name, colour in (("GRU", "GRU", GRU_COLOUR), ("lookup", "attention lookup", ATTENTION_COLOUR)):
    mean = [over_seeds(kind, n).mean().item() for n in LENGTHS]
    figure.add_scatter(
        x=LENGTHS,
        y=mean,
        name=name,
        mode="lines+markers",
        line_color=colour,
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [over_seeds(kind, n).max().item() - m for n, m in zip(LENGTHS, mean, strict=True)],
            "arrayminus": [m - over_seeds(kind, n).min().item() for n, m in zip(LENGTHS, mean, strict=True)],
        },
        hovertemplate="%{x} pairs: %{y:.1%}<extra>" + name + "</extra>",
    )
dashes = {"color": plots.GREY, "dash": "dash", "width": 1.5}
figure.add_scatter(x=LENGTHS, y=list(guesses.values()), name="knows the values, not whose", mode="lines", line=dashes)
figure.add_scatter(
    x=LENGTHS, y=[1 / N_VALUES] * len(LENGTHS), name="blind chance", mode="lines", line={**dashes, "dash": "dot"}
)
figure.update_layout(title="Right answers against the length of the list", height=400)
figure.update_xaxes(title="pairs in the list", type="log", tickvals=LENGTHS, ticktext=[str(n) for n in LENGTHS])
figure.update_yaxes(title="right answers", range=[0, 1.05], tickformat=".0%")
figure

# %% [markdown]
# Is the GRU unable, or only slow? The next picture shows the training itself. Where a curve still climbs at the end, more
# steps would have bought more. So read the result as *what equal training buys*, not as a bound on what a GRU can ever do.

# %%
figure = go.Figure()
window = max(1, STEPS // 24)
shown = LENGTHS[:3] if len(LENGTHS) > 3 else LENGTHS
for kind, colour in (("GRU", GRU_COLOUR), ("lookup", ATTENTION_COLOUR)):
    for n, dash in zip(shown, ("solid", "dash", "dot"), strict=False):
        mean = torch.tensor([histories[kind, n, seed] for seed in SEEDS]).mean(0)
        smooth = mean[: STEPS // window * window].view(-1, window).mean(1)
        figure.add_scatter(
            x=[(i + 1) * window for i in range(len(smooth))],
            y=smooth.tolist(),
            name=f"{kind}, {n} pairs",
            line={"color": colour, "dash": dash},
        )
figure.update_layout(title=f"Training accuracy, averaged over {window} steps and all seeds", height=360)
figure.update_xaxes(title="training step")
figure.update_yaxes(title="right answers", range=[0, 1.05], tickformat=".0%")
figure

# %% [markdown]
# ## The bottleneck, first look: what is kept
#
# Turn accuracy into *pairs recalled*. If a model knew $r$ of the $n$ pairs and made the best guess $g$ about the rest, its accuracy would be
# $\frac{r}{n} + (1 - \frac{r}{n})\, g$. Solve for $r$:
#
# $$ r = n \, \frac{\text{accuracy} - g}{1 - g} $$
#
# With 8 pairs, a guess worth 0.3 and an accuracy of 0.93, that is $8 \times 0.63 / 0.7 = 7.2$ pairs. Beside it stands what each model
# keeps in memory when the question arrives: the GRU its state, the lookup a key and a value vector for every pair.

# %%
recalled = {
    kind: {n: max(0.0, n * (over_seeds(kind, n).mean().item() - guesses[n]) / (1 - guesses[n])) for n in LENGTHS}
    for kind in ("GRU", "lookup")
}
kept = {"GRU": dict.fromkeys(LENGTHS, STATE), "lookup": {n: 2 * n * width_for[n] for n in LENGTHS}}
figure = make_subplots(
    cols=2, subplot_titles=("pairs recalled", "numbers kept when the question comes"), horizontal_spacing=0.12
)
for kind, name, colour in (("GRU", "GRU", GRU_COLOUR), ("lookup", "attention lookup", ATTENTION_COLOUR)):
    for column, table in ((1, recalled), (2, kept)):
        figure.add_scatter(
            x=LENGTHS,
            y=list(table[kind].values()),
            name=name,
            mode="lines+markers",
            line_color=colour,
            legendgroup=kind,
            showlegend=column == 1,
            hovertemplate="%{x} pairs: %{y:,.4~g}<extra>" + name + "</extra>",
            row=1,
            col=column,
        )
figure.update_xaxes(title="pairs in the list", type="log", tickvals=LENGTHS, ticktext=[str(n) for n in LENGTHS])
figure.update_yaxes(title="pairs", col=1)
figure.update_yaxes(title="numbers", type="log", col=2)
figure.update_layout(height=380, legend={"orientation": "h", "y": -0.25})
for n in LENGTHS:
    print(
        f"{n:>4} pairs: GRU recalls {recalled['GRU'][n]:6.1f} and keeps {kept['GRU'][n]:>6,} numbers,"
        f" lookup recalls {recalled['lookup'][n]:6.1f} and keeps {kept['lookup'][n]:>6,}"
    )
figure

# %% [markdown]
# The right-hand panel is the price. Attention does not compress: its memory grows with every pair, and each new question looks at all of
# it. Much of this course is about paying less.
#
# ## The bottleneck, second look: who influences the answer
#
# Take a list, change the value of *one* pair, and ask every question again. How far does each answer's probability
# distribution move? (We use half the sum of absolute changes: 0 is no change at all, 1 is a complete change of mind.) A perfect memory gives
# a bright diagonal on nothing: the answer about pair 5 depends on pair 5 only. Light off the diagonal means that pairs have been mixed up.

# %%
N_SEEN = 32 if 32 in LENGTHS else LENGTHS[-1]


@torch.no_grad()
def influence(model: nn.Module, n_pairs: int) -> torch.Tensor:
    """(asked, changed): how far the answer about pair `asked` moves when the value of pair `changed` is another one."""
    keys, values, _, _ = lists(13, n_pairs, batch=64)
    before = torch.softmax(model(keys, values, keys), -1)  # every pair asked, in the list's order: (B, T, N_VALUES)
    columns = []
    for changed in range(n_pairs):
        other = values.clone()
        other[:, changed] = (other[:, changed] + 1 + torch.arange(len(values)) % (N_VALUES - 1)) % N_VALUES
        after = torch.softmax(model(keys, other, keys), -1)
        columns.append(((after - before).abs().sum(-1) / 2).mean(0))
    return torch.stack(columns, dim=1)


def picture(n_pairs: int) -> tuple[go.Figure, dict]:
    maps = {
        kind: torch.stack([influence(jobs[kind, n_pairs, s], n_pairs) for s in SEEDS]).mean(0)
        for kind in ("GRU", "lookup")
    }
    figure = make_subplots(cols=2, subplot_titles=("GRU", "attention lookup"), horizontal_spacing=0.1)
    for column, kind in enumerate(maps, start=1):
        figure.add_heatmap(
            z=maps[kind].tolist(),
            coloraxis="coloraxis",
            hovertemplate="asked pair %{y}, changed pair %{x}: moves by %{z:.3f}<extra></extra>",
            x=list(range(1, n_pairs + 1)),
            y=list(range(1, n_pairs + 1)),
            row=1,
            col=column,
        )
    figure.update_xaxes(title="pair whose value is changed")
    figure.update_yaxes(title="pair asked for", autorange="reversed")
    figure.update_layout(
        title=f"How far each answer moves, {n_pairs} pairs",
        height=440,
        margin_t=90,
        coloraxis={"colorscale": plots.WEIGHTS, "cmin": 0, "cmax": 1, "colorbar": {"title": "moves by"}},
    )
    share = {kind: (m.diagonal().sum() / m.sum()).item() for kind, m in maps.items()}
    return figure, share


figure, short_share = picture(LENGTHS[0])
print("share of all movement that lies on the diagonal:", {kind: f"{s:.0%}" for kind, s in short_share.items()})
figure

# %%
figure, diagonal_share = picture(N_SEEN)
print("share of all movement that lies on the diagonal:", {kind: f"{s:.0%}" for kind, s in diagonal_share.items()})
print(f"if every pair counted alike, the diagonal would hold {1 / N_SEEN:.0%}")
figure

# %% [markdown]
# Point at a cell to read it. Go down the GRU's diagonal from top to bottom: do pairs read late fare better than pairs read early? And is
# a dim map the sign of a model that mixes pairs up, or of one that hardly uses the list?
#
# ## Parallel against sequential time
#
# The GRU has a second bottleneck. Step 100 cannot begin before step 99 has ended. To see what that alone costs, take
# *the same* GRU and the same pairs twice: once chained, as a list of $n$ steps, and once as $n$ lists of one step each. The arithmetic is
# the same, product for product; only the waiting differs. Then compare whole models: the GRU and the lookup, each reading one list and answering one
# question about it. All ratios are medians over interleaved pairs of runs on one thread, so a busy machine disturbs both sides alike.

# %%
B_TIMED = 1
chained_ratio, model_ratio = {}, {}
with torch.no_grad():
    for n in LENGTHS:
        recurrent, lookup = Recurrent(n), Lookup(n, width_for[n])
        keys, values, questions, _ = lists(17, n, batch=B_TIMED)
        one = questions[:, :1]
        x = recurrent.pairs(keys, values)  # (B, n, 32)
        unchained = x.reshape(B_TIMED * n, 1, -1).contiguous()
        rounds = 5 if quick else 31
        chained_ratio[n] = timing.ratio(lambda: recurrent.gru(x), lambda: recurrent.gru(unchained), rounds=rounds)
        model_ratio[n] = timing.ratio(
            lambda: recurrent(keys, values, one), lambda: lookup(keys, values, one), rounds=rounds
        )
        print(
            f"{n:>4} pairs: chained steps take {chained_ratio[n]:5.1f} times as long as the same steps unchained;"
            f" the GRU takes {model_ratio[n]:5.1f} times as long as the lookup"
        )
figure = go.Figure()
for table, name, colour in (
    (chained_ratio, "same GRU: chained / unchained", GRU_COLOUR),
    (model_ratio, "GRU / attention lookup", ATTENTION_COLOUR),
):
    figure.add_scatter(x=LENGTHS, y=list(table.values()), name=name, mode="lines+markers", line_color=colour)
figure.add_hline(y=1, line={"color": plots.GREY, "dash": "dot"})
figure.update_layout(title="What the chain costs, one CPU thread", height=380)
figure.update_xaxes(title="pairs in the list", type="log", tickvals=LENGTHS, ticktext=[str(n) for n in LENGTHS])
figure.update_yaxes(title="ratio of times", rangemode="tozero")
figure

# %% [markdown]
# One thread is the mildest setting for a chain. It does one thing at a time anyway, so all that is measured here is the overhead of many small products in
# place of a few large ones. Hardware with thousands of arithmetic units has more to lose: a small step leaves most of them idle.
#
# ## What this run supports
#
# The last cell puts the measured figures into sentences; they change when the figures do. What the run does **not** show: that a GRU could never do
# this (other widths, more steps or another recipe would move its curve), or that attention is always the better choice. The task
# is made of lookups, and one of the two models is a lookup. What it does show is where the difference comes from: one model has to decide what to keep before
# it knows the question, the other afterwards.
#
# Build it yourself: [Lab 1.1](../release/ch01_attention/lab01_dot_product.ipynb).

# %%
shortest, longest = LENGTHS[0], LENGTHS[-1]
gru_short, gru_long = over_seeds("GRU", shortest), over_seeds("GRU", longest)
lookup_short, lookup_long = over_seeds("lookup", shortest), over_seeds("lookup", longest)
print(f"Parameters agree within {largest_size_difference:.1%}; {len(SEEDS)} seed(s), {STEPS} steps each.")
print(
    f"GRU: {gru_short.mean():.1%} right at {shortest} pairs, {gru_long.mean():.1%} at {longest} (a blind guess: {1 / N_VALUES:.1%})."
)
print(f"Lookup: {lookup_short.mean():.1%} at {shortest} pairs, {lookup_long.mean():.1%} at {longest}.")
print(
    f"Memory at {longest} pairs: {kept['lookup'][longest] / STATE:,.0f} times as many numbers for the lookup as for the GRU."
)
print(
    f"Time at {longest} pairs: the chain alone costs a factor {chained_ratio[longest]:.1f}; GRU against lookup {model_ratio[longest]:.1f}."
)

result = {
    "claim": (
        f"at equal parameters and equal training an attention lookup recalls {longest} pairs (at least 95% right), while a GRU "
        f"falls from its accuracy at {shortest} pairs by 30 points or more"
    ),
    "passed": bool(
        lookup_long.min() >= 0.95 and gru_short.mean() - gru_long.mean() >= 0.3 and largest_size_difference <= 0.02
    ),
    "figures": {
        "quick": quick,
        "steps": STEPS,
        "seeds": len(SEEDS),
        "learning rates": RATES,
        "largest parameter difference": largest_size_difference,
        "accuracy": {
            kind: {n: [scores[kind, n, seed] for seed in SEEDS] for n in LENGTHS} for kind in ("GRU", "lookup")
        },
        "best guess": guesses,
        "pairs recalled": recalled,
        "numbers kept": kept,
        "share of influence on the diagonal": {shortest: short_share, N_SEEN: diagonal_share},
        "chained / unchained time": chained_ratio,
        "GRU / lookup time": model_ratio,
        "training seconds": training_seconds,
        "total seconds": time.perf_counter() - started,
    },
}
results.save(result, result_path)
