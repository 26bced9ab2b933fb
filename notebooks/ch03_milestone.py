# ---
# title: "Milestone 3: our GPT equals GPT-2 at 124 million parameters"
# chapter: ch03
# kind: milestone
# claim: Our loader and our GPT give GPT-2's logits within 1e-4 at 1 to 1024 tokens, and the same 50 greedy tokens (124M configuration, random weights).
# minutes: 3
# ---

# %% [markdown]
# # Milestone 3: our GPT equals GPT-2 at 124 million parameters
#
# In [Lab 3.3](../release/ch03_transformer/lab03_decoder_only.ipynb) you built a GPT, in
# [Lab 3.4](../release/ch03_transformer/lab04_load_pretrained.ipynb) a loader for the files of `transformers`. This notebook uses both at the size of the
# smallest real GPT-2: `transformers` makes a model with its standard settings, 124 million parameters, and saves it. Our loader reads the folder. Then the logits of
# both models are compared at five lengths, and both continue three texts by 50 tokens.
#
# The weights are random, because this course is tested without a network. For the question asked here that is no loss: a copy of random numbers is as right or wrong as a
# copy of trained ones.
#
# `course milestones ch03` measures *your* functions when your notebooks of those labs are in `work/` and pass their checks; otherwise the course's reference. The
# next lines of output say which. It writes a file of 500 MB to the folder for temporary files, and removes it.

# %% tags=["parameters"]
result_path = ""  # where to write the result as JSON; empty: only print it
quick = False  # fewer lengths and tokens, for the tests

# %%
import tempfile
import time
from pathlib import Path

import plotly.graph_objects as go
import torch
from transformers import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel
from transformers.utils import logging

from coursekit import carry, plots, results, timing

started = time.perf_counter()
logging.set_verbosity_error()
logging.disable_progress_bar()
load_pretrained = carry("ch03/lab04", "load_pretrained")
generate = carry("ch03/lab03", "generate")
parameter_count = carry("ch03/lab03", "parameter_count")
LIMIT = 1e-4
LENGTHS = [1, 7, 64] if quick else [1, 7, 64, 256, 1024]
NEW_TOKENS = 5 if quick else 50

# %% [markdown]
# ## A model to be copied
#
# Fresh from its constructor a GPT-2 has norms of ones and biases of zeros, and two of them could change places unnoticed. So these are drawn at random, too. The
# matrices are made larger by half, so that each block changes the stream, and the positions are made stronger, because otherwise a random model with a tied head
# does little but repeat its last token.

# %%
torch.manual_seed(0)
theirs = GPT2LMHeadModel(GPT2Config()).eval()
with torch.no_grad():
    for name, parameter in theirs.named_parameters():
        if parameter.ndim == 1:
            parameter.add_(0.1 * torch.randn(parameter.shape))
        elif "wpe" in name:
            parameter.mul_(10.0)
        elif "wte" not in name:
            parameter.mul_(1.5)
at = time.perf_counter()
with tempfile.TemporaryDirectory(prefix="milestone-ch03-") as folder:
    theirs.save_pretrained(folder)
    file_bytes = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
    seconds_saving = time.perf_counter() - at
    del theirs
    at = time.perf_counter()
    theirs = GPT2LMHeadModel.from_pretrained(folder).eval()
    seconds_theirs = time.perf_counter() - at
    at = time.perf_counter()
    ours = load_pretrained(folder)
    seconds_ours = time.perf_counter() - at
print(
    f"a file of {file_bytes:,} bytes: saved in {seconds_saving:.1f} s, loaded by transformers in {seconds_theirs:.1f} s,"
)
print(f"by our loader in {seconds_ours:.1f} s")

# %% [markdown]
# ## Where the parameters are

# %%
parts = {
    "token table (and head)": ("token_embedding",),
    "position table": ("position_embedding",),
    "attention: q, k, v": ("w_q", "w_k", "w_v", "b_q", "b_k", "b_v"),
    "attention: output": ("w_o", "b_o"),
    "feed-forward: in": ("w_in", "b_in"),
    "feed-forward: out": ("w_out", "b_out"),
    "norms": ("weight", "bias"),
}
sizes = dict.fromkeys(parts, 0)
for name, parameter in ours.named_parameters():
    part = next(part for part, endings in parts.items() if name.rpartition(".")[2] in endings)
    sizes[part] += parameter.numel()
total = sum(sizes.values())
print(f"{'':24} {'parameters':>12} {'share':>7} {'MB in float32':>14}")
for part, count in sizes.items():
    print(f"{part:24} {count:>12,} {count / total:>7.1%} {4 * count / 1e6:>14.1f}")
print(f"{'all':24} {total:>12,} {1:>7.1%} {4 * total / 1e6:>14.1f}")
counts = {
    "ours": total,
    "by formula": parameter_count(ours.config),
    "transformers": sum(parameter.numel() for parameter in theirs.parameters()),
}
print(counts)

# %% [markdown]
# ## The logits

# %%
generator = torch.Generator().manual_seed(1)
ids = torch.randint(50257, (1, max(LENGTHS)), generator=generator)


def largest_difference(length: int) -> tuple[float, float]:
    """Of the logits of both models for so many tokens, and the largest logit."""
    with torch.no_grad():
        got, want = ours(ids[:, :length]), theirs(ids[:, :length], use_cache=False).logits
    if got.shape != want.shape or got.dtype != want.dtype or not bool(got.isfinite().all()):
        return float("inf"), float(want.abs().max())
    return float((got - want).abs().max()), float(want.abs().max())


differences = {length: largest_difference(length) for length in LENGTHS}
for length, (difference, largest) in differences.items():
    print(f"{length:5} tokens: the logits differ by at most {difference:.1e}; the largest is {largest:.1f}")

# %% [markdown]
# ## The same words
#
# Both models continue three texts, greedily. Ours computes everything anew for each token, `transformers` keeps keys and values in a cache.
#
# "The same tokens" says little if they hang on a hair. So the gap between the best and the second best logit is measured at every step. Two models whose logits differ by
# at most $\delta$ must choose the same token wherever the gap is larger than $2\delta$.

# %%
PROMPTS = [torch.randint(50257, (1, length), generator=generator) for length in (3, 12, 33)]
same, gaps, apart, distinct = [], [], [], []
for prompt in PROMPTS:
    mine = generate(ours, prompt, NEW_TOKENS)
    want = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    same.append(mine.tolist() == want.tolist())
    distinct.append(len(set(want[0, prompt.shape[1] :].tolist())))
    with torch.no_grad():
        asked = slice(prompt.shape[1] - 1, -1)  # the positions that chose a new token
        logits = theirs(want, use_cache=False).logits[0, asked]
        apart.append(float((ours(want)[0, asked] - logits).abs().max()))
    best, second = logits.topk(2).values.T
    gaps.append((best - second).tolist())
    print(f"{prompt.shape[1]:3} tokens and {NEW_TOKENS} more, {distinct[-1]} of them different: ", end="")
    print(f"{'the same' if same[-1] else 'NOT the same'}; smallest gap {min(gaps[-1]):.1e}, ", end="")
    print(f"logits differ by at most {apart[-1]:.1e}")
smallest_gap = min(min(row) for row in gaps)
decided = smallest_gap > 2 * max(apart)
print("every choice was clear" if decided else "at least one choice was as good as a tie")

# %%
figure = go.Figure()
for number, (prompt, row) in enumerate(zip(PROMPTS, gaps, strict=True)):
    figure.add_scatter(
        x=list(range(1, NEW_TOKENS + 1)),
        y=row,
        mode="markers",
        name=f"after {prompt.shape[1]} tokens",
        marker={"color": plots.COLOURS[number], "size": 7},
        hovertemplate="token %{x}: gap %{y:.2e}",
    )
figure.add_hline(y=2 * max(apart), line={"color": plots.GREY, "dash": "dash"})
figure.update_xaxes(title="new token")
figure.update_yaxes(title="gap of best and second logit", type="log", exponentformat="power")
figure.update_layout(
    height=380,
    title="How clear each choice was (dashed: twice the largest difference)",
    legend={"orientation": "h", "y": -0.25},
)
figure

# %% [markdown]
# ## Would this notebook notice?
#
# Four slips in our copy, each in a single place of one block, none of which changes a shape. All of them have to exceed the limit by far. Afterwards the model
# is put right again.

# %%
state = dict(ours.named_parameters())


def exchanged(one: str, other: str):
    def spoil() -> None:
        kept = state[one].clone()
        state[one].copy_(state[other])
        state[other].copy_(kept)

    return [one, other], spoil


def changed(name: str, how):
    return [name], lambda: state[name].copy_(how(state[name]).clone())


SLIPS = {
    "w_o of block 11 transposed": changed("blocks.11.attention.w_o", lambda w: w.T),
    "the biases of two norms of block 3 exchanged": exchanged("blocks.3.norm_1.bias", "blocks.3.norm_2.bias"),
    "w_q and w_k of block 6 exchanged": exchanged("blocks.6.attention.w_q", "blocks.6.attention.w_k"),
    "columns of w_v of block 0 moved by one head": changed("blocks.0.attention.w_v", lambda w: w.roll(64, 1)),
}
length = 7 if quick else 64
noticed = {}
with torch.no_grad():
    for name, (touched, spoil) in SLIPS.items():
        kept = {key: state[key].clone() for key in touched}
        spoil()
        noticed[name] = largest_difference(length)[0]
        for key, value in kept.items():
            state[key].copy_(value)
        print(f"{name:45} {noticed[name]:.1e}")
restored = largest_difference(length)[0]
print(f"{'put right again':45} {restored:.1e}")

# %% [markdown]
# ## Time
#
# One forward pass of each, measured in turns on one thread. Ours is written to be read.

# %%
timed_length = 64 if quick else 256
with torch.no_grad():
    ratio = timing.ratio(
        lambda: ours(ids[:, :timed_length]),
        lambda: theirs(ids[:, :timed_length], use_cache=False),
        rounds=1 if quick else 5,
    )
print(f"{timed_length} tokens: our forward pass takes {ratio:.2f} times as long as that of transformers")

# %%
worst = max(difference for difference, _ in differences.values())
passed = (
    worst <= LIMIT
    and all(same)
    and len(set(counts.values())) == 1
    and restored <= LIMIT
    and all(difference > 10 * LIMIT for difference in noticed.values())
)
result = {
    "claim": "our loader and our GPT give the logits of GPT-2 (124M configuration, random weights) within 1e-4, and the same "
    f"{NEW_TOKENS} greedy tokens from three prompts",
    "passed": bool(passed),
    "figures": {
        "parameters": total,
        "file, bytes": file_bytes,
        "largest difference of the logits": worst,
        "by length": {length: difference for length, (difference, _) in differences.items()},
        "largest logit": max(largest for _, largest in differences.values()),
        "same tokens": all(same),
        "new tokens": NEW_TOKENS,
        "different tokens among the new ones": distinct,
        "smallest gap of best and second logit": smallest_gap,
        "largest difference along the way": max(apart),
        "every choice clear": decided,
        "smallest difference of a spoilt copy": min(noticed.values()),
        "forward pass, ours over theirs": ratio,
        "seconds to load, ours": seconds_ours,
        "seconds to load, theirs": seconds_theirs,
        "by part": sizes,
        "quick": quick,
        "seconds": time.perf_counter() - started,
    },
}
results.save(result, result_path)
