# ---
# title: Train a small model
# lab: ch04/lab04
# minutes: 120
# difficulty: 3
# hardware: cpu
# needs: [ch03/lab02, ch03/lab03, ch04/lab01, ch04/lab03]
# builds: [split, prepare, fit_config, sample, run, distance, distance_floor, learning_report]
# ---

# %% [markdown]
# # Lab 4.4 · Train a small model
#
# ## The idea
#
# Everything is there: a tokenizer, a GPT, a loss, a loop that can be killed and goes on. Put them together, and after
# a few minutes there is a model and a number, its validation loss. This lab is about everything around the loop that
# decides whether that number is true.
#
# Four choices decide it. *Which text judges?* If pieces of the validation text were also trained on, the model is
# rewarded for remembering. *Which epoch is reported?* A model that is trained long enough on a small text gets better
# on that text and worse on any other. Let the validation losses after four epochs be 1.90, 1.62, 1.58 and 1.66. The
# run has produced a model of 1.58, if somebody kept a copy of the third epoch. *In which unit?* 1.58 nats for each
# character are $1.58 / \ln 2 = 2.28$ bits. Another model reads tokens of 2.5 characters on average and has a loss of
# 3.90 nats for each of them. Its loss is more than twice as large. But $3.90 / \ln 2 / 2.5 = 2.25$ bits for each
# character: it is the better one. *Does it write like its text?* A loss does not say. Samples do, and one can measure
# how far their letters are from those of the text.
#
# None of these goes wrong with an error message. A wrong split, a best model that was kept by reference, a loss in the
# wrong unit: all of them print a plausible number, most often a better one than the truth.
#
# You build the parts around the loop and then train. First a small model, in less than a minute; then, if you like,
# one of a million parameters, while you have lunch. What a loss means stands on the page [Loss and
# perplexity](../../book/ch04_training/loss_and_perplexity.md). Why the optimiser and the learning rate are what they are
# stands on [Optimisers](../../book/ch04_training/optimizers.md) and [Learning-rate
# schedules](../../book/ch04_training/lr_schedules.md).
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `text` | string | everything there is to read |
# | part | string | a piece of `text`; the parts, in order, are the text |
# | `training`, `validation` | `(N,)`, `(M,)` | two parts as token numbers, int64 |
# | `ids` | `(n_samples, T)` | what is written so far, one row for each sample |
# | `logits` | `(n_samples, T, V)` | the scores of the next token, at every position |
# | `rows` | list of dicts | one for each epoch: `epoch`, `step`, `training`, `validation`, `sample` |

# %% given
import math

import torch
from torch import nn
from torch.nn import functional as F

from coursekit import carry

TinyLM = carry("ch04/lab03", "TinyLM")  # a language model of 168 numbers over 11 tokens, for checks

# %% given side="learner"
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from typing import Any

CharTokenizer = carry("ch03/lab02", "CharTokenizer")  # CharTokenizer(text): encode, decode, vocab_size
train_bpe = carry("ch03/lab02", "train_bpe")  # train_bpe(text, vocab_size) -> merges
BPETokenizer = carry("ch03/lab02", "BPETokenizer")  # BPETokenizer(merges): encode, decode, vocab_size
GPTConfig = carry("ch03/lab03", "GPTConfig")  # GPTConfig(vocab_size, context, d_model, n_layers, n_heads, d_ff, ...)
parameter_count = carry("ch03/lab03", "parameter_count")  # parameter_count(config) -> int
bits_per_character = carry("ch04/lab01", "bits_per_character")  # bits_per_character(loss, n_tokens, text)
TrainConfig = carry("ch04/lab03", "TrainConfig")  # TrainConfig(steps, batch_size, context, lr=1e-3, ...)
evaluate = carry(
    "ch04/lab03", "evaluate"
)  # evaluate(model, data, batch_size, context, bf16=False) -> nats for each token
train = carry("ch04/lab03", "train")  # train(model, data, config, validation=None, path=None, until=None) -> history

# %% [markdown]
# ## A picture
#
# How much does a bad split lie? The cell takes the simplest language model there is: it counts which letter follows
# which letters, and it gets 0 to 8 letters of context. With more context it remembers more. It is judged three times,
# in bits for each character: on the text that it has counted; on the next tenth of the play, which it has never seen;
# and on pieces that were held out in the way of many a notebook. There the text is cut into pieces of 64 letters that
# overlap by a half, the pieces are shuffled, and a tenth of them is put aside.

# %%
import random
from collections import defaultdict

import plotly.graph_objects as go

from coursekit import data, plots


def bits_by_context(read, judged, longest=8, alphabet=65):
    """Bits per character of a counting model (Witten and Bell's smoothing) for contexts of 0 to ``longest`` letters."""
    after = defaultdict(lambda: defaultdict(int))
    for piece in read:
        for i, letter in enumerate(piece):
            for k in range(min(i, longest) + 1):
                after[piece[i - k : i]][letter] += 1
    totals, n_letters = [0.0] * (longest + 1), 0
    for piece in judged:
        for i in range(longest, len(piece)):
            p, n_letters = 1 / alphabet, n_letters + 1
            for k in range(longest + 1):
                seen = after.get(piece[i - k : i])
                if seen:  # mix what followed this context with the guess of the shorter one
                    p = (seen.get(piece[i], 0) + len(seen) * p) / (sum(seen.values()) + len(seen))
                totals[k] -= math.log2(p)
    return [total / n_letters for total in totals]


play = data.tiny_shakespeare()[:60_000]
honest, unseen = play[:54_000], play[54_000:]
pieces = [play[i : i + 64] for i in range(0, len(play) - 63, 32)]
random.Random(0).shuffle(pieces)
tenth = len(pieces) // 10
curves = {
    "the text that was counted": bits_by_context([honest], [honest[:6000]]),
    "shuffled pieces, held out": bits_by_context(pieces[tenth:], pieces[:tenth]),
    "the next tenth of the play": bits_by_context([honest], [unseen]),
}
figure = go.Figure()
for colour, (name, found) in zip(plots.COLOURS, curves.items(), strict=False):
    best = min(range(len(found)), key=found.__getitem__)
    print(f"{name:28} best with {best} letters of context: {found[best]:.2f} bits per character")
    figure.add_scatter(x=list(range(9)), y=found, name=name, mode="lines+markers", line={"color": colour})
figure.update_xaxes(title_text="letters of context", dtick=1)
figure.update_yaxes(title_text="bits per character", rangemode="tozero")
figure.update_layout(height=420, legend={"orientation": "h", "y": -0.22})
figure.show()

# %% [markdown]
# The honest curve falls, and turns when the contexts become so long that the model only remembers. The middle curve
# never turns. Whoever looks at it picks the model with the best memory, and reports a number that no new text will
# ever confirm. Nothing in the code looks wrong: no piece of the validation set is a piece of the training set. But
# each of its letters is in another piece, too.

# %% [markdown]
# ## Exercise 1 · `prepare`
#
# First `split`: the text is cut into parts, in order, and every character is in exactly one of them. With 20 characters
# and shares of 0.5, 0.3 and 0.2 the cuts are after 10 and after 16 characters. Most often there are two parts. A third
# one, which is looked at once and at the very end, is worth having: whoever picks the best of twenty epochs by the
# validation loss has picked a little luck as well.
#
# Then `prepare`, which cuts, makes the tokenizer and turns the parts into numbers. What may the tokenizer know of the
# validation text? If its alphabet comes from the training part alone, the first ☃ after the cut ends the run with an
# error. So take the *alphabet* from the whole text. It says which characters exist, and nothing about what follows
# what; a character that training never shows is one that the model learns never to write. Merges of byte-pair encoding
# are another matter. A merge says what stands beside what, and how often. Those come from the training part alone, and
# nothing is lost: every text can be written in bytes.
#
# *Difficulty 2 of 5 · 15 minutes · 5 points*


# %% exercise="prepare" difficulty=2 minutes=15
def split(text: str, shares: tuple[float, ...] = (0.9, 0.1)) -> list[str]:
    """Cut a text into neighbouring parts.

    Args:
        text: what to cut; it is not changed in any way.
        shares: how much of the text each part gets, in order. Positive numbers that sum to 1, up to 1e-9.

    Returns:
        As many strings as there are shares. Joined together in order they are the text. Part i ends after
        ``round(len(text) * (shares[0] + ... + shares[i]))`` characters of the text.

    Raises:
        ValueError: if a share is zero or negative, if they do not sum to 1, or if a part would have fewer than 2 characters
            (there would be nothing to predict in it).
    """
    ### BEGIN SOLUTION
    if abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"the shares {shares} do not sum to 1")
    ends = [round(len(text) * sum(shares[: i + 1])) for i in range(len(shares))]
    parts = [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    if min(len(part) for part in parts) < 2:
        raise ValueError(f"{len(text)} characters are too few for parts of {shares}")
    return parts
    ### END SOLUTION


def prepare(
    text: str, shares: tuple[float, ...] = (0.9, 0.1), vocab_size: int | None = None
) -> tuple[Any, list[torch.Tensor]]:
    """Split a text, make its tokenizer and turn the parts into token numbers.

    Args:
        text, shares: as for `split`. The first part is what a model will be trained on.
        vocab_size: None for one token per character, with the characters of the whole text as the alphabet. A number for
            byte-pair encoding with at most so many tokens, whose merges are learned from the first part and see no other.

    Returns:
        (tokenizer, parts): a `CharTokenizer` or a `BPETokenizer`, and for each part an int64 tensor with one axis. Each part
        is encoded by itself, so that no token reaches across a cut.

    Raises:
        ValueError: as `split`.
    """
    ### BEGIN SOLUTION
    parts = split(text, shares)
    tokenizer = CharTokenizer(text) if vocab_size is None else BPETokenizer(train_bpe(parts[0], vocab_size))
    return tokenizer, [torch.tensor(tokenizer.encode(part)) for part in parts]
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Compute where the parts end, all of them from the beginning of the text. Where one
# part ends the next one begins.</details>
# <details><summary>A bigger nudge</summary>Rounding the length of each part by itself can lose a character at the end of
# the text, or ask for one that is not there. Rounding the sum of the shares so far cannot. In <code>prepare</code>, ask of
# each line which text it looks at: the whole, or the first part? Cut first and encode afterwards.</details>

# %% test="prepare" points=2
from coursekit import check

text = "To be, or not to be."  # 20 characters
check.equal(split(text, (0.5, 0.3, 0.2)), ["To be, or ", "not to", " be."], "20 characters, shares 0.5, 0.3 and 0.2")
check.equal(split(text), ["To be, or not to b", "e."], "the shares are 0.9 and 0.1 where they are left out")
check.raises(ValueError, lambda: split(text, (0.9, 0.2)), "shares that sum to 1.1")
check.raises(ValueError, lambda: split("hey", (0.9, 0.1)), "3 characters: nothing is left for the second part")
### BEGIN HIDDEN TESTS
import random

import numpy as np

dice = random.Random(check.seed(1))
for length, shares in (
    (100, (0.29, 0.71)),
    (101, (0.9, 0.1)),
    (1004, (0.8, 0.1, 0.1)),
    (63, (1 / 3, 1 / 3, 1 / 3)),
    (20, (0.13,) * 7 + (0.09,)),
    (7, (1.0,)),
    (40, (0.05, 0.95)),
):
    text = "".join(dice.choice("abc \n\u00e9") for _ in range(length)) + "\n "
    ends = np.rint(np.cumsum(shares) * len(text)).astype(int)
    case = f"{len(text)} characters, shares {', '.join(f'{share:.3g}' for share in shares)}"
    found = split(text, shares)
    check.equal([len(part) for part in found], np.diff(ends, prepend=0).tolist(), f"{case}: the lengths of the parts")
    check.equal("".join(found), text, f"{case}: the parts, joined in order, are the text")
for text, shares in (
    ("x" * 50, (0.5, 0.4)),
    ("x" * 50, (0.5, 0.5001)),
    ("x" * 50, (1.2, -0.2)),
    ("x" * 50, (0.5, 0.0, 0.5)),
    ("x" * 50, (0.98, 0.01, 0.01)),
    ("x" * 50, (0.01, 0.99)),
    ("x" * 50, (0.98, 0.02)),
    ("x", (1.0,)),
    ("", (0.5, 0.5)),
):
    check.raises(ValueError, lambda text=text, shares=shares: split(text, shares), f"{len(text)} times x, {shares}")
check.equal([len(part) for part in split("xyz" * 2, (2 / 3, 1 / 3))], [4, 2], "a part of 2 characters is long enough")
### END HIDDEN TESTS

# %% test="prepare" points=3
from coursekit import check

import torch

tokenizer, parts = prepare("abba ab☃", (0.75, 0.25))
check.equal(tokenizer.vocab_size, 4, "'abba ab☃': the whole text has four different characters")
check.equal(parts[0], torch.tensor([1, 2, 2, 1, 0, 1]), "'abba a', with the space as 0, a as 1, b as 2, ☃ as 3")
check.equal(parts[1], torch.tensor([2, 3]), "the second part, 'b☃'")
# The most frequent pair of the first part is z, o; of the second k, q; and of the whole text x, a or a space and x.
tokenizer, parts = prepare("zo zo zo xa xa" + " kqkqkqkq xa xa xa", (14 / 32, 18 / 32), vocab_size=257)
check.equal(
    tokenizer.decode([256]), "zo", "'zo zo zo xa xa' is trained on, ' kqkqkqkq xa xa xa' is not: the first merge"
)
want = torch.tensor([256, 32, 256, 32, 256, 32, 120, 97, 32, 120, 97])
check.equal(parts[0], want, "'zo zo zo xa xa' in tokens: 256 is zo, 32 the space, 120 x, 97 a")
### BEGIN HIDDEN TESTS
import random

import numpy as np

dice = random.Random(check.seed(2))
for shares in ((0.9, 0.1), (0.6, 0.3, 0.1)):
    text = "".join(dice.choice("edcba .\n") for _ in range(200)) + "XYé☃"
    points = np.array([ord(letter) for letter in text])
    known = np.unique(points)
    tokenizer, parts = prepare(text, shares)
    case = f"{len(text)} characters, shares {shares}"
    check.equal(tokenizer.vocab_size, len(known), f"{case}: the alphabet of the whole text")
    check.equal(len(parts), len(shares), f"{case}: the number of parts")
    check.equal(
        torch.cat(list(parts)),
        torch.from_numpy(np.searchsorted(known, points)),
        f"{case}: the parts one after the other, as places in the sorted alphabet",
    )
    ends = np.rint(np.cumsum(shares) * len(text)).astype(int)
    check.equal([len(part) for part in parts], np.diff(ends, prepend=0).tolist(), f"{case}: the lengths of the parts")
tokenizer, parts = prepare(text)
check.equal([len(part) for part in parts], [184, 20], "204 characters: 0.9 and 0.1 where the shares are left out")
# A marker that only later parts have is no merge, however often it stands there.
before, after, last = "the cat and the hat and the rat " * 3, "wxwx wxwx wxwx wxwx " * 9, "jvjv jvjv jvjv jvjv " * 9
whole = before + after + last
shares = tuple(len(part) / len(whole) for part in (before, after, last))
tokenizer, parts = prepare(whole, shares, vocab_size=290)
merged = [tokenizer.decode([number]) for number in range(256, tokenizer.vocab_size)]
check.that(len(merged) > 5, "there are merges", why=f"the vocabulary has {tokenizer.vocab_size} tokens")
check.equal(
    [word for word in merged if set(word) & set("wxjv")], [], "merges of letters that the first part does not have"
)
check.equal([word for word in ("the", " and") if word not in merged], [], "words that the first part repeats, unmerged")
check.that(tokenizer.vocab_size <= 290, "at most 290 tokens", why=f"there are {tokenizer.vocab_size}")
check.equal(
    [tokenizer.decode(part.tolist()) for part in parts], [before, after, last], "each part, decoded, is what it was"
)
check.that(len(parts[0]) < len(before) / 2, "the first part is shorter in tokens", why=f"it has {len(parts[0])} tokens")
check.equal(len(parts[2]), len(last), "a part with nothing to merge has a token for each byte")
check.equal([str(part.dtype) for part in parts], ["torch.int64"] * 3, "the dtypes of the parts")
# The cut goes through a word that would be one token.
tokenizer, parts = prepare("abababab", (5 / 8, 3 / 8), vocab_size=257)
check.equal(parts[0], torch.tensor([256, 256, 97]), "'abababab', cut after 5: 'ababa' in tokens")
check.equal(parts[1], torch.tensor([98, 256]), "'abababab', cut after 5: 'bab' in tokens")
check.raises(ValueError, lambda: prepare("abc", (0.9, 0.1)), "3 characters for shares of 0.9 and 0.1")
### END HIDDEN TESTS


# %% alternative="prepare"
def split(text, shares=(0.9, 0.1)):
    if not all(share > 0 for share in shares) or not math.isclose(math.fsum(shares), 1.0, rel_tol=0, abs_tol=1e-9):
        raise ValueError("shares")
    parts, begin, so_far = [], 0, 0.0
    for share in shares:
        so_far += share
        end = int(so_far * len(text) + 0.5)
        if end - begin < 2:
            raise ValueError("too short")
        parts.append("".join(text[i] for i in range(begin, end)))
        begin = end
    return parts


def prepare(text, shares=(0.9, 0.1), vocab_size=None):
    parts = split(text, shares)
    tokenizer = CharTokenizer("".join(sorted(set(text)))) if vocab_size is None else None
    tokenizer = tokenizer or BPETokenizer(train_bpe(parts[0], vocab_size))
    print(tokenizer.vocab_size, "tokens")
    return tokenizer, tuple(torch.tensor(list(tokenizer.encode(part)), dtype=torch.int64) for part in parts)


# %% mistakes="prepare"
{
    "the characters are shuffled before the text is cut": (
        "    ends = [round(",
        "    import random\n\n    text = ''.join(random.Random(0).sample(text, len(text)))\n    ends = [round(",
    ),
    "the words are sorted before the text is cut": (
        "    ends = [round(",
        "    text = ' '.join(sorted(text.split(' ')))\n    ends = [round(",
    ),
    "the parts are interleaved: each takes every so-manieth character": (
        "text[begin:end] for begin, end in zip([0, *ends], ends, strict=False)",
        "text[i :: len(shares)] for i in range(len(shares))",
    ),
    "the parts are returned in reverse order, so the model is trained on what was held out": (
        "    return parts\n\n\ndef prepare",
        "    return parts[::-1]\n\n\ndef prepare",
    ),
    "each part begins one character before the last one ends: a character is in both": (
        "text[begin:end] for",
        "text[max(begin - 1, 0) : end] for",
    ),
    "the parts overlap by ten characters, so that the validation text begins with a context": (
        "text[begin:end] for",
        "text[max(begin - 10, 0) : end] for",
    ),
    "a character is lost at every cut": ("text[begin:end] for", "text[begin + (begin > 0) : end] for"),
    "every part begins at the start of the text": ("text[begin:end] for", "text[:end] for"),
    "the ends are cut off and not rounded": ("round(len(text) * sum(", "int(len(text) * sum("),
    "the length of each part is rounded by itself, so characters may be left over": (
        "ends = [round(len(text) * sum(shares[: i + 1])) for i in range(len(shares))]",
        "ends = [sum(round(len(text) * share) for share in shares[: i + 1]) for i in range(len(shares))]",
    ),
    "white space at the ends of the parts is stripped": ("text[begin:end] for", "text[begin:end].strip() for"),
    "shares that do not sum to 1 are not refused": ("abs(sum(shares) - 1) > 1e-9", "min(shares) <= 0"),
    "parts with nothing to predict are not refused": (
        "    if min(len(part) for part in parts) < 2:\n"
        '        raise ValueError(f"{len(text)} characters are too few for parts of {shares}")\n',
        "",
    ),
    "only empty parts are refused, and one character is nothing to predict": (
        "if min(len(part) for part in parts) < 2:",
        "if min(len(part) for part in parts) < 1:",
    ),
    "the alphabet comes from the training part alone, so a new character in another part is an error": (
        "CharTokenizer(text)",
        "CharTokenizer(parts[0])",
    ),
    "each part has an alphabet of its own, so the same number means different characters": (
        "torch.tensor(tokenizer.encode(part)) for part in parts]",
        "torch.tensor((tokenizer if vocab_size else CharTokenizer(part)).encode(part)) for part in parts]",
    ),
    "the merges are learned from the whole text, validation included": (
        "train_bpe(parts[0], vocab_size)",
        "train_bpe(text, vocab_size)",
    ),
    "the merges are learned from the last part": (
        "train_bpe(parts[0], vocab_size)",
        "train_bpe(parts[-1], vocab_size)",
    ),
    "vocab_size is taken for the number of merges, and the 256 bytes come on top": (
        "train_bpe(parts[0], vocab_size)",
        "train_bpe(parts[0], 256 + vocab_size)",
    ),
    "the whole text is encoded and its tokens are cut, not the text": (
        "[torch.tensor(tokenizer.encode(part)) for part in parts]",
        "(lambda ids: [ids[round(len(ids) * sum(shares[:i])) : round(len(ids) * sum(shares[: i + 1]))]"
        " for i in range(len(shares))])(torch.tensor(tokenizer.encode(text)))",
    ),
    "prepare does not pass the shares on": ("parts = split(text, shares)", "parts = split(text)"),
    "vocab_size is ignored: there is a token for each character": (
        "CharTokenizer(text) if vocab_size is None else",
        "CharTokenizer(text) if True else",
    ),
}

# %% equivalent="prepare"
{
    "abs(sum(shares) - 1) > 1e-09 -> abs(sum(shares) - 1) >= 1e-09": "no float is exactly 1e-9 away from 1",
}

# %% [markdown]
# ## Exercise 2 · `fit_config`
#
# How large should the model be? Here the question is put the other way round: there is a budget of parameters, and the
# model shall be as wide as the budget allows. Four of its settings hang together. The width is a number of heads times
# the width of a head, and the feed-forward network is four times as wide. So there is one knob, the number of heads.
#
# In numbers: 65 characters, a context of 128, four blocks and heads of 32. With four heads, `d_model` is 128 and the
# model has 818,048 parameters. With five it is 160, and they are 1,268,320. A budget of a million buys four heads.
#
# *Difficulty 2 of 5 · 10 minutes · 3 points*


# %% exercise="fit_config" difficulty=2 minutes=10
def fit_config(
    budget: int,
    vocab_size: int,
    context: int,
    n_layers: int = 4,
    head_width: int = 32,
    dropout: float = 0.0,
    seed: int = 0,
) -> GPTConfig:
    """The settings of the widest GPT that a budget of parameters allows.

    Args:
        budget: the model has at most so many parameters, by Lab 3.3's `parameter_count`, tables included.
        vocab_size, context, n_layers, dropout, seed: of the `GPTConfig`.
        head_width: how many columns each head has.

    Returns:
        A `GPTConfig` with the largest n_heads for which the parameters fit, d_model = n_heads * head_width and d_ff =
        4 * d_model. Its eps is the one that GPTConfig has by itself.

    Raises:
        ValueError: if not even one head fits.
    """
    ### BEGIN SOLUTION

    def with_heads(n_heads: int) -> GPTConfig:
        d_model = n_heads * head_width
        return GPTConfig(vocab_size, context, d_model, n_layers, n_heads, 4 * d_model, dropout=dropout, seed=seed)

    n_heads = 0
    while parameter_count(with_heads(n_heads + 1)) <= budget:
        n_heads += 1
    if n_heads == 0:
        raise ValueError(f"{budget} parameters are too few for a single head of {head_width}")
    return with_heads(n_heads)
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Write a small function inside that makes the settings for a given number of heads.
# How do the parameters change when there is one head more?</details>
# <details><summary>A bigger nudge</summary>They only ever grow. So count upwards and stop before the first one that does
# not fit. A formula for the answer would have to solve a quadratic equation, and would save nobody any time.</details>

# %% test="fit_config" points=3
from coursekit import check

FIELDS = ("vocab_size", "context", "d_model", "n_layers", "n_heads", "d_ff", "dropout", "eps", "seed")
found = fit_config(1_000_000, 65, 128)
check.equal(
    [getattr(found, name) for name in FIELDS],
    [65, 128, 128, 4, 4, 512, 0.0, 1e-5, 0],
    f"a million parameters, 65 characters, context 128: {', '.join(FIELDS)}",
)
for budget, n_heads in ((1_100_000, 4), (1_240_000, 4), (818_048, 4), (818_047, 3), (1_268_320, 5)):
    check.equal(fit_config(budget, 65, 128).n_heads, n_heads, f"{budget:,} parameters: the number of heads")
check.raises(ValueError, lambda: fit_config(1000, 65, 128), "a thousand parameters are too few")
### BEGIN HIDDEN TESTS
from torch import nn


def by_torch(vocab_size, context, n_layers, d_model):
    layer, norm = nn.TransformerEncoderLayer(d_model, 1, 4 * d_model, device="meta"), nn.LayerNorm(d_model)
    tables = [nn.Embedding(n, d_model, device="meta") for n in (vocab_size, context)]
    return sum(p.numel() for part in [*[layer] * n_layers, norm, *tables] for p in part.parameters())


for vocab_size, context, n_layers, head_width, n_heads, dropout, seed in (
    (65, 256, 6, 64, 6, 0.2, 7),
    (300, 16, 1, 5, 3, 0.0, 1),
    (11, 9, 2, 1, 13, 0.5, 0),
    (5000, 64, 3, 48, 1, 0.0, 3),
    (17, 63, 5, 8, 8, 0.1, 2),
):
    count, more = (by_torch(vocab_size, context, n_layers, n * head_width) for n in (n_heads, n_heads + 1))
    settings = {"n_layers": n_layers, "head_width": head_width, "dropout": dropout, "seed": seed}
    d_model = n_heads * head_width
    want = [vocab_size, context, d_model, n_layers, n_heads, 4 * d_model, dropout, 1e-5, seed]
    for budget in (count, (count + more) // 2, more - 1):
        found = fit_config(budget, vocab_size, context, **settings)
        case = f"budget {budget:,}, {vocab_size} tokens, context {context}, {settings}"
        check.equal([getattr(found, name) for name in FIELDS], want, f"{case}: {', '.join(FIELDS)}")
    if n_heads == 1:
        check.raises(
            ValueError,
            lambda: fit_config(count - 1, vocab_size, context, **settings),  # noqa: B023
            f"budget {count - 1:,}: one less than the smallest model needs",
        )
    else:
        found = fit_config(count - 1, vocab_size, context, **settings).n_heads
        check.equal(found, n_heads - 1, f"budget {count - 1:,}: one less than {n_heads} heads need")
### END HIDDEN TESTS


# %% alternative="fit_config"
def fit_config(budget, vocab_size, context, n_layers=4, head_width=32, dropout=0.0, seed=0):
    best = None
    for n_heads in range(1, 1 + budget // head_width):  # a width costs at least one parameter for each column
        width = head_width * n_heads
        config = GPTConfig(
            vocab_size=vocab_size, context=context, d_model=width, n_layers=n_layers, n_heads=n_heads, d_ff=width * 4,
            dropout=dropout, seed=seed,
        )  # fmt: skip
        if parameter_count(config) > budget:
            break
        best = config
    if best is None:
        raise ValueError("nothing fits")
    return best


# %% mistakes="fit_config"
{
    "the tables are left out of the count": (
        "parameter_count(with_heads(n_heads + 1))",
        "parameter_count(with_heads(n_heads + 1), embeddings=False)",
    ),
    "the smallest model above the budget is taken and not the largest below it": (
        "    return with_heads(n_heads)\n",
        "    return with_heads(n_heads + 1)\n",
    ),
    "a model that needs the whole budget is refused": ("<= budget:", "< budget:"),
    "the nearest model is taken, even if it is above the budget": (
        "    return with_heads(n_heads)\n",
        "    below, above = (parameter_count(with_heads(n)) for n in (n_heads, n_heads + 1))\n"
        "    return with_heads(n_heads + (above - budget < budget - below))\n",
    ),
    "the number of heads is doubled until it does not fit, so numbers in between are passed over": (
        "    while parameter_count(with_heads(n_heads + 1)) <= budget:\n        n_heads += 1\n",
        "    while parameter_count(with_heads(max(2 * n_heads, 1))) <= budget:\n        n_heads = max(2 * n_heads, 1)\n",
    ),
    "there are always four heads, and they get wider": (
        "d_model, n_layers, n_heads, 4 * d_model",
        "d_model, n_layers, 4, 4 * d_model",
    ),
    "head_width is taken for the number of heads": (
        "d_model, n_layers, n_heads, 4 * d_model",
        "d_model, n_layers, head_width, 4 * d_model",
    ),
    "the feed-forward network is as wide as the model": ("n_heads, 4 * d_model, dropout", "n_heads, d_model, dropout"),
    "the feed-forward network keeps the width of one head": (
        "n_heads, 4 * d_model, dropout",
        "n_heads, 4 * head_width, dropout",
    ),
    "dropout does not reach the settings": ("dropout=dropout, ", ""),
    "the seed does not reach the settings": (", seed=seed)", ")"),
    "a budget that is too small gives a model that is too large, and no error": (
        '        raise ValueError(f"{budget} parameters are too few for a single head of {head_width}")\n',
        "        n_heads = 1\n",
    ),
}


# %% given side="learner"
class Speaker(nn.Module):
    """For the checks of exercise 3: a language model whose guess depends on the last token alone, by a table of logits.

    Attributes:
        config: as that of a GPT; only ``config.context`` matters.
        calls: what it was asked so far: (sequences, tokens, gradients wanted?, any part in training mode?).
    """

    def __init__(self, table: torch.Tensor, context: int):
        super().__init__()
        self.table = nn.Parameter(table.clone())
        self.config = GPTConfig(len(table), context, 1, 1, 1, 1)
        self.parts = nn.ModuleList([nn.Dropout(0.5), nn.Dropout(0.5)])
        self.calls = []

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if ids.shape[1] > self.config.context:
            raise ValueError(f"{ids.shape[1]} tokens do not fit into a context of {self.config.context}")
        self.calls.append((*ids.shape, torch.is_grad_enabled(), any(self.modes())))
        return self.table[ids]

    def modes(self) -> list[bool]:
        """Whether the model, and each of its two parts, is in training mode."""
        return [self.training, *(part.training for part in self.parts)]

    def set_modes(self, modes: list[bool]) -> None:
        """Set the mode of the model and of each part."""
        for module, mode in zip([self, *self.parts], modes, strict=True):
            module.training = mode


def random_state_after(n_tokens: int) -> bool:
    """For the checks of exercise 3: whether `sample` leaves torch's own random state as it was."""
    before = torch.get_rng_state()
    sample(Speaker(torch.zeros(3, 3), 4), CharTokenizer("abc"), "a", n_tokens, n_samples=2, seed=5)
    return torch.equal(before, torch.get_rng_state())


# %% [markdown]
# ## Exercise 3 · `sample`
#
# A model has learned to give probabilities. To see what it has learned, let it draw from them: take the probabilities
# of the next token, draw one, append it, and ask again. The greedy `generate` of [Lab
# 3.3](../ch03_transformer/lab03_decoder_only.ipynb) would not do here. A model of letters that always takes the most
# probable one soon writes in circles, and its text has not the statistics that the model has learned.
#
# The *temperature* divides the logits. Let two letters have the logits 2 and 0, so that the first has a probability of
# $1/(1 + e^{-2}) = 0.88$. At a temperature of 2 it is $1/(1 + e^{-1}) = 0.73$, at 0.5 it is $1/(1 + e^{-4}) = 0.98$.
#
# Several samples are drawn at once, as the rows of a batch. More about drawing (the most probable k tokens only, the
# repetition penalty) is in the capstone.
#
# *Difficulty 3 of 5 · 20 minutes · 5 points*


# %% exercise="sample" difficulty=3 minutes=20
def sample(
    model: nn.Module,
    tokenizer: Any,
    prompt: str,
    n_tokens: int,
    temperature: float = 1.0,
    n_samples: int = 1,
    seed: int = 0,
) -> list[str]:
    """Continue a prompt by drawing from the model's probabilities.

    Args:
        model: takes ids (B, T) with T from 1 to ``model.config.context`` and returns logits (B, T, V). Of a longer text it
            is shown the last ``model.config.context`` tokens.
        tokenizer: has encode(text) -> list of ids and decode(list of ids) -> text.
        prompt: at least one token; it may be longer than the context.
        n_tokens: how many tokens are drawn for each sample, 0 or more.
        temperature: greater than 0. A token is drawn with the probability softmax(logits / temperature), where the logits
            are those of the last position.
        n_samples: how many continuations, at least 1. They are drawn independently of each other, in one batch: the model is
            called n_tokens times.
        seed: of a generator of its own, which draws every random number. The same seed gives the same texts; torch's own
            random state is neither used nor changed.

    Returns:
        A list of n_samples strings: the prompt as it was given, and after it the drawn tokens, decoded together.

    While it is asked, the model is in evaluation mode and no gradients are recorded. Afterwards every part of it is in the
    mode in which it was before, which need not be the same for all parts, also if something was raised.

    Raises:
        ValueError: if n_tokens is negative, n_samples is less than 1, the temperature is not greater than 0, or the prompt is
            empty; what the tokenizer raises comes through.
    """
    ### BEGIN SOLUTION
    if n_tokens < 0 or n_samples < 1 or temperature <= 0 or not prompt:
        raise ValueError(f"n_tokens {n_tokens}, n_samples {n_samples}, temperature {temperature}, prompt {prompt!r}")
    ids = torch.tensor([tokenizer.encode(prompt)] * n_samples)  # (n_samples, T)
    first = ids.shape[1]
    generator = torch.Generator().manual_seed(seed)
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            for _ in range(n_tokens):
                logits = model(ids[:, -model.config.context :])[:, -1]  # (n_samples, V)
                probabilities = (logits / temperature).softmax(dim=-1)
                drawn = torch.multinomial(probabilities, 1, generator=generator)  # (n_samples, 1)
                ids = torch.cat([ids, drawn], dim=1)
    finally:
        for module, training in modes.items():
            module.training = training
    return [prompt + tokenizer.decode(row[first:].tolist()) for row in ids]
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>It is <code>generate</code> with one line changed, a batch of equal prompts, and a
# generator that is made once. <code>torch.multinomial</code> draws one column for each row and takes a
# <code>generator</code>.</details>
# <details><summary>A bigger nudge</summary>Make the generator before the loop: made inside it, every step would draw the
# same random numbers. Note the mode of each of <code>model.modules()</code> before you change any, and put them back in
# <code>finally</code>, as <code>evaluate</code> does in Lab 4.3. Decode the new ids as one list: a token may end in the
# middle of a character.</details>

# %% test="sample" points=2
from coursekit import check

import torch

# After a comes b, after b comes c, after c comes a: the other logits are a thousand lower.
circle = 1000 * torch.eye(3)[[1, 2, 0]]
model, tokenizer = Speaker(circle, context=4), CharTokenizer("abc")
check.equal(sample(model, tokenizer, "ca", 5), ["cabcabc"], "a model that says a b c a b c: 5 tokens after 'ca'")
check.equal(sample(model, tokenizer, "abcabc", 2), ["abcabcab"], "a prompt of 6 tokens, and a context of 4")
check.equal(sample(model, tokenizer, "b", 1, n_samples=3), ["bc"] * 3, "three samples of one token")
check.equal([call[:2] for call in model.calls[1:3]], [(1, 3), (1, 4)], "what the model was shown in the first sample")
check.equal(any(call[3] for call in model.calls), False, "whether any part is in training mode at any call")
check.equal(any(call[2] for call in model.calls), False, "whether gradients are on at any call")
check.equal(model.modes(), [True, True, True], "the modes of the model and its parts afterwards, as before")
check.raises(ValueError, lambda: sample(model, tokenizer, "a", 1, temperature=0.0), "a temperature of 0")
### BEGIN HIDDEN TESTS
import contextlib

for n_tokens, n_samples, prompt, context in ((0, 2, "ab", 4), (9, 3, "cabcabcab", 4), (3, 1, "b", 1), (7, 2, "c", 3)):
    case = f"{n_samples} samples of {n_tokens} tokens after {prompt!r}, context {context}"
    model = Speaker(circle, context)
    want = [prompt + ("abc" * 9)["abc".index(prompt[-1]) + 1 :][:n_tokens]] * n_samples
    check.equal(sample(model, tokenizer, prompt, n_tokens, 0.5, n_samples, seed=3), want, case)
    shown = [(n_samples, min(len(prompt) + n, context)) for n in range(n_tokens)]
    check.equal([call[:2] for call in model.calls], shown, f"{case}: sequences and tokens of each call")
for modes in ([False, True, False], [True, False, True], [False, False, False]):
    model = Speaker(circle, 4)
    model.set_modes(modes)
    sample(model, tokenizer, "ab", 2)
    check.equal(model.modes(), modes, "the modes of the model and of its two parts afterwards")
    check.equal([call[2:] for call in model.calls], [(False, False)] * 2, "gradients and training mode at each call")
    wide = Speaker(torch.full((4, 4), float("nan")), 4)
    wide.set_modes(modes)
    with contextlib.suppress(Exception):
        sample(wide, tokenizer, "ab", 2)
    check.equal(wide.modes(), modes, "the modes after the model's logits were NaN and nothing could be drawn")
for settings in ({"n_tokens": -1}, {"n_samples": 0}, {"temperature": -1.0}, {"prompt": ""}, {"prompt": "abx"}):
    given = {"prompt": "ab", "n_tokens": 2} | settings
    check.raises(ValueError, lambda given=given: sample(model, tokenizer, **given), f"{settings}")
# Three tokens for the three bytes of one character: they have to be decoded together.
table = torch.zeros(257, 257)
for before, after in ((97, 226), (226, 152), (152, 131), (131, 256), (256, 226)):
    table[before, after] = 1000.0
model, tokenizer = Speaker(table, 5), BPETokenizer([(97, 98)])
check.equal(sample(model, tokenizer, "a", 4), ["a\u2603ab"], "bytes 226, 152 and 131 are ☃, and 256 is ab")
check.equal(sample(model, tokenizer, "x a", 5), ["x a\u2603ab\ufffd"], "one token more is half a character: U+FFFD")
### END HIDDEN TESTS

# %% test="sample" points=3
from coursekit import check

import torch

# From the text: logits 2 and 0 after a and after b, at three temperatures.
model, tokenizer = Speaker(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), context=3), CharTokenizer("ab")
for temperature, want in (({}, 0.88), ({"temperature": 2.0}, 0.73), ({"temperature": 0.5}, 0.98)):
    texts = sample(model, tokenizer, "b", 6, n_samples=1000, **temperature)
    share = sum(text.count("a") for text in texts) / 6000
    check.close(share, want, f"logits 2 and 0, {temperature or 'no temperature given'}: the share of a", atol=0.03)
check.that(random_state_after(6), "torch's own random state is left alone", why="torch.get_rng_state() has changed")
### BEGIN HIDDEN TESTS
from itertools import pairwise

draw = torch.Generator().manual_seed(check.seed(3))
table = torch.randn(5, 5, generator=draw)
model, tokenizer = Speaker(table, context=4), CharTokenizer("abcde")
for temperature in (1.0, 0.4, 3.0):
    texts = sample(model, tokenizer, "c", 9, temperature, n_samples=900, seed=check.seed(4))
    ids = torch.tensor([[ord(letter) - 97 for letter in text] for text in texts])
    check.equal(list(ids.shape), [900, 10], "900 samples of 9 tokens after a prompt of one")
    pairs = torch.zeros(5, 5, dtype=torch.float64)
    pairs.index_put_((ids[:, :-1].flatten(), ids[:, 1:].flatten()), torch.tensor(1.0).double(), accumulate=True)
    wanted = torch.softmax(table.double() / temperature, dim=-1)
    # The number of pairs that begin with a token, and how far a share may be off: six times its standard deviation.
    often = pairs.sum(dim=1, keepdim=True).clamp(min=1)
    allowed = 6 * (wanted * (1 - wanted) / often).sqrt() + 3 / often
    beyond = ((pairs / often - wanted).abs() / allowed).max()
    check.that(
        beyond <= 1,
        f"8,100 pairs of letters at temperature {temperature}: their shares are the model's probabilities",
        why=f"the largest difference is {6 * float(beyond):.1f} standard deviations, and at most 6 are allowed",
    )
# Independent draws: of even logits no two samples, and no two steps, know of each other.
model = Speaker(torch.zeros(5, 5), 4)
texts = sample(model, tokenizer, "a", 8, n_samples=800, seed=check.seed(5))
drawn = [text[1:] for text in texts]
same = [one == other for pair in pairwise(drawn) for one, other in zip(*pair, strict=True)]
check.close(sum(same) / len(same), 0.2, "neighbouring samples agree in a fifth of their letters", atol=0.04)
same = [one == other for text in drawn for one, other in pairwise(text)]
check.close(sum(same) / len(same), 0.2, "neighbouring letters of a sample agree in a fifth of the cases", atol=0.04)
again = sample(model, tokenizer, "a", 8, n_samples=800, seed=check.seed(5))
check.equal(again, texts, "the same seed gives the same texts")
other = sample(model, tokenizer, "a", 8, n_samples=800, seed=check.seed(6))
check.that(other != texts, "another seed gives other texts")
zero, left_out = (sample(model, tokenizer, "a", 30, **settings) for settings in ({"seed": 0}, {}))
check.equal(left_out, zero, "the seed is 0 where it is left out")
for settings in ({"temperature": 0.05}, {"temperature": 100.0}):
    found = sample(Speaker(torch.tensor([[3e4, -3e4], [-3e4, 3e4]]), 4), CharTokenizer("ab"), "ab", 5, **settings)
    check.equal(found, ["abbbbbb"], f"logits of 30,000 and -30,000, {settings}: nothing overflows")
check.that(random_state_after(0), "torch's own random state is left alone, with no token drawn")
### END HIDDEN TESTS


# %% alternative="sample"
def sample(model, tokenizer, prompt, n_tokens, temperature=1.0, n_samples=1, seed=0):
    # The Gumbel trick, in float64: the largest of logits plus noise is a draw from their softmax.
    if n_tokens < 0 or n_samples <= 0 or not temperature > 0 or len(prompt) == 0:
        raise ValueError("n_tokens, n_samples, temperature or prompt")
    noise, start = torch.Generator(), torch.tensor(tokenizer.encode(prompt))
    noise.manual_seed(seed)
    before = [(module, module.training) for module in model.modules()]
    ids, written = start.repeat(n_samples, 1), [[] for _ in range(n_samples)]
    try:
        model.train(False)
        for _ in range(n_tokens):
            with torch.inference_mode():
                scores = model(ids[:, max(0, ids.shape[1] - model.config.context) :])[:, -1].double() / temperature
            if scores.isnan().any():
                raise RuntimeError("NaN")
            uniform = torch.rand(scores.shape, generator=noise, dtype=torch.float64)
            chosen = (scores - torch.log(-torch.log(uniform))).argmax(-1)
            for row, number in zip(written, chosen.tolist(), strict=True):
                row.append(number)
            ids = torch.cat([ids, chosen[:, None]], dim=1)
    finally:
        for module, mode in before:
            module.training = mode
    return [f"{prompt}{tokenizer.decode(row)}" for row in written]


# %% alternative="sample"
def sample(model, tokenizer, prompt, n_tokens, temperature=1.0, n_samples=1, seed=0):
    if not (n_tokens >= 0 and n_samples >= 1 and temperature > 0 and prompt):
        raise ValueError("no")
    modes = [module.training for module in model.modules()]
    generator = torch.Generator().manual_seed(seed)
    rows = [list(tokenizer.encode(prompt)) for _ in range(n_samples)]
    first = len(rows[0])
    model.eval()
    try:
        for _ in range(n_tokens):
            with torch.no_grad():
                logits = model(torch.tensor([row[-model.config.context :] for row in rows]))[:, -1]
            p = F.softmax(logits.double() / temperature, dim=-1)
            if bool(p.isnan().any()):
                raise ValueError("NaN")
            at = torch.rand(n_samples, 1, generator=generator, dtype=torch.float64)
            chosen = torch.searchsorted(p.cumsum(-1), at).clamp(max=p.shape[-1] - 1)
            for row, number in zip(rows, chosen[:, 0].tolist(), strict=True):
                row.append(number)
    finally:
        for module, mode in zip(model.modules(), modes, strict=True):
            module.training = mode
    return [prompt + tokenizer.decode(row[first:]) for row in rows]


# %% mistakes="sample"
{
    "the most probable token is taken and nothing is drawn": (
        "torch.multinomial(probabilities, 1, generator=generator)",
        "probabilities.argmax(dim=-1, keepdim=True)",
    ),
    "the logits are multiplied by the temperature": (
        "(logits / temperature).softmax",
        "(logits * temperature).softmax",
    ),
    "the temperature changes nothing: it is ignored, or divides the probabilities and not the logits": (
        "(logits / temperature).softmax",
        "logits.softmax",
    ),
    "the logits are drawn from as if they were probabilities": (
        "(logits / temperature).softmax(dim=-1)",
        "(logits - logits.min(-1, keepdim=True).values) / temperature + 1",
    ),
    "the first position is asked and not the last": (":])[:, -1]", ":])[:, 0]"),
    "the model is shown the whole text, even where it is longer than the context": (
        "ids[:, -model.config.context :]",
        "ids",
    ),
    "the model is shown the first tokens of a long text and not the last": (
        "ids[:, -model.config.context :]",
        "ids[:, : model.config.context]",
    ),
    "the model is shown one token less than its context": (
        "ids[:, -model.config.context :]",
        "ids[:, -max(model.config.context - 1, 1) :]",
    ),
    "the model is shown the last token only": ("ids[:, -model.config.context :]", "ids[:, -1:]"),
    "all samples are continued with the token that was drawn for the first": (
        "generator=generator)  #",
        "generator=generator)[:1].expand(n_samples, 1)  #",
    ),
    "all samples follow the logits of the last one": (
        "(logits / temperature).softmax",
        "(logits[-1:] / temperature).expand_as(logits).softmax",
    ),
    "the generator begins anew at every step, so every step draws the same random numbers": (
        "                logits = model(",
        "                generator.manual_seed(seed)\n                logits = model(",
    ),
    "the seed is ignored": (".manual_seed(seed)", ".manual_seed(0)"),
    "chance comes from torch's own random state": (", generator=generator)", ")"),
    "torch's own random state is seeded, for everybody": (
        "torch.Generator().manual_seed(seed)",
        "torch.manual_seed(seed)",
    ),
    "the model is asked with dropout on": ("        model.eval()\n", ""),
    "the model is left in evaluation mode": (
        "            module.training = training\n",
        "            pass\n",
    ),
    "the model is put into training mode afterwards, whatever it was before": (
        "            module.training = training\n",
        "            module.training = True\n",
    ),
    "all parts are put into the mode of the whole": (
        "            module.training = training\n",
        "            module.training = modes[model]\n",
    ),
    "the modes are not restored if something was raised": (
        "    finally:\n",
        "    except ZeroDivisionError:\n        pass\n    else:\n",
    ),
    "a graph is kept for a backward pass that never comes": ("with torch.no_grad():", "with torch.enable_grad():"),
    "the prompt is missing in the result": ("[prompt + tokenizer", "[tokenizer"),
    "the prompt is there twice": ("row[first:].tolist()", "row.tolist()"),
    "each token is decoded by itself, so a character of several tokens falls apart": (
        "tokenizer.decode(row[first:].tolist())",
        '"".join(tokenizer.decode([number]) for number in row[first:].tolist())',
    ),
    "one token too many is drawn": ("range(n_tokens)", "range(n_tokens + 1)"),
    "one sample is drawn, whatever n_samples says": ("] * n_samples)", "])"),
    "a temperature of zero or less is not refused": (" or temperature <= 0", ""),
    "a negative number of tokens is taken for none": ("n_tokens < 0 or ", ""),
    "no samples at all are asked for, and nobody complains": (" or n_samples < 1", ""),
    "an empty prompt is not refused": (" or not prompt", ""),
}


# %% given side="learner"
class Watched(TinyLM):
    """For the checks of exercise 4: a TinyLM that notes what it reads while it learns.

    With ``ageing`` its weights are frozen, and the only thing that it can learn is a number without effect when it is judged.

    Attributes:
        read: the tokens that it was shown with gradients on.
    """

    def __init__(self, dropout: float = 0.0, seed: int = 0, interrupt_at: int | None = None, ageing: bool = False):
        super().__init__(dropout, seed, interrupt_at)
        self.read: set[int] = set()
        if ageing:
            self.requires_grad_(False)
            self.age = nn.Parameter(torch.ones(1))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            self.read |= set(ids.flatten().tolist())
        logits = super().forward(ids)
        return logits * self.age if self.training and hasattr(self, "age") else logits


def fingerprint(model: nn.Module) -> str:
    """For the checks of exercise 4, in the place of a sample: the sum of all weights, as text."""
    return f"{sum(float(weight.detach().double().sum()) for weight in model.parameters()):.9f}"


def rehearse(
    settings: dict[str, Any],
    training: torch.Tensor,
    validation: torch.Tensor,
    stops: tuple[int | None, ...] = (None,),
    dropout: float = 0.0,
    double: bool = False,
    ageing: bool = False,
    interrupt_at: int | None = None,
    fail_at: int | None = None,
    write: bool = True,
) -> dict[str, Any]:
    """For the checks of exercise 4: what `run` returns and leaves behind.

    Calls `run` once for each entry of ``stops``, its ``epochs``, each time with a new model, as if the machine had been
    switched off in between. Only the folder stays.

    Args:
        settings: of the TrainConfig.
        interrupt_at: in this call of the first model Ctrl-C is pressed.
        fail_at: this call of torch.save finds the disk full, in the first call of `run`.
    """
    ended, read, rows, after_failure, kept_save = [], set(), [], "nothing failed", torch.save

    def recorded(path: str) -> tuple[float | str, int]:
        """The loss of the best weights in record.pt, and how many rows it holds."""
        judge = Watched(dropout, ageing=ageing).to(torch.float64 if double else torch.float32)
        try:
            content = torch.load(path, weights_only=True)
            judge.load_state_dict(content["best"])
        except Exception as error:
            return type(error).__name__, 0
        return evaluate(judge, validation, settings["batch_size"], settings["context"]), len(content["rows"])

    with tempfile.TemporaryDirectory() as folder:
        record, count = os.path.join(folder, "record.pt"), 0

        def disk_full(content, file, *args, **kwargs):
            nonlocal count
            count += 1
            if count != fail_at:
                return kept_save(content, file, *args, **kwargs)
            with open(file, "wb") as out:
                out.write(b"half a file")
            raise OSError("no space left on device")

        for number, stop in enumerate(stops):
            seed = number if os.path.exists(os.path.join(folder, "last.pt")) else 0
            model = Watched(dropout, seed, None if number else interrupt_at, ageing)
            model = model.to(torch.float64 if double else torch.float32)
            torch.manual_seed(1000 + number)
            torch.save = disk_full if number == 0 else kept_save
            try:
                config = TrainConfig(**settings)
                rows = run(model, training, validation, config, folder, fingerprint if write else None, stop)
                ended.append("")
            except NotImplementedError:
                raise
            except (Exception, KeyboardInterrupt) as error:
                ended.append(type(error).__name__)
                after_failure = recorded(record)[0] if os.path.exists(record) else "no record"
            finally:
                torch.save = kept_save
            read |= model.read
        return {
            "rows": [dict(row) for row in rows],
            "ended": ended,
            "files": sorted(os.listdir(folder)),
            "weights": {name: value.detach().clone() for name, value in model.state_dict().items()},
            "loss of the model": evaluate(model, validation, settings["batch_size"], settings["context"]),
            "loss of the best in the file": recorded(record)[0],
            "rows in the file": recorded(record)[1],
            "after the failure": after_failure,
            "read": sorted(read),
            "steps": sum(call[2] for call in model.calls),
        }


# %% [markdown]
# ## Exercise 4 · `run`
#
# Now the run. `train` of Lab 4.3 does the steps, writes its checkpoint and goes on from it: call it once for every
# epoch, each time with a larger `until`. Between two calls you judge the model, let it write, and keep a copy of its
# weights if it is the best one so far.
#
# An epoch is as many steps as it takes to draw as many tokens as the training text has. The pieces are drawn at
# random, so an epoch does not read every token once; it is a measure of how much was read. With 100,000 tokens and
# batches of 16 pieces of 64 tokens it has 97 steps.
#
# A run should survive Ctrl-C and the loss of power at any moment, and end as if nothing had happened. `train` takes
# care of its own part. What is left is yours: the rows, and the best weights. They belong together. In two files, the
# one would sometimes be of this epoch and the other still of the last. So write them into one file, in one go.
#
# The training loss in the rows is measured in the same way as the validation loss: after the epoch, without dropout,
# on as many tokens. The losses that `train` returns are something else. They are means over an epoch in which the
# model was changing, and with dropout. Put beside the validation loss they show a gap that is not there, or hide one.
#
# *Difficulty 4 of 5 · 30 minutes · 8 points*


# %% exercise="run" difficulty=4 minutes=30
def run(
    model: nn.Module,
    training: torch.Tensor,
    validation: torch.Tensor,
    config: TrainConfig,
    folder: str,
    write: Callable[[nn.Module], str] | None = None,
    epochs: int | None = None,
) -> list[dict[str, Any]]:
    """Train epoch by epoch, and keep the best weights; go on with an earlier run if the folder holds one.

    An epoch has ``len(training) // (config.batch_size * config.context)`` steps, but at least one. The run has
    config.steps steps; its last epoch may be a shorter one.

    Args:
        model: takes ids (b, T), returns logits (b, T, V).
        training: (N,), token numbers. Nothing else is ever shown to the model while it learns.
        validation: (M,), token numbers to judge it by, at least 2.
        config: the settings of the run.
        folder: of the run's files; it exists. "last.pt" is the checkpoint of `train`. "record.pt" is written with torch.save
            after every epoch, a dict with "rows" (what is returned) and "best" (the model's state_dict after the epoch with
            the lowest validation loss so far; of equals, the first). It is replaced in one go: at any moment there is a
            complete one, also if writing fails. There are no other files in the end.
        write: called with the model after every epoch, when it has the weights of that epoch; returns a text.
        epochs: stop when so many epochs of the run are done, those of earlier calls included, at least 1; None for all.

    Returns:
        A dict for each epoch of the run that is done, in order: "epoch" (from 1), "step" (how many steps of the run are done
        after it), "training" and "validation" (`evaluate` after it with the batch size, context and bf16 of the settings, on
        the first M tokens of ``training`` and on ``validation``), "sample" (what ``write`` returned, "" without it).

    Afterwards the model has the weights of the best epoch, also if there was nothing left to do. A run that was stopped or
    interrupted and then goes on gives the same rows, files and weights as one that was not, to the bit.
    """
    ### BEGIN SOLUTION
    last, record = os.path.join(folder, "last.pt"), os.path.join(folder, "record.pt")
    rows, best = [], {}
    if os.path.exists(record):
        content = torch.load(record)
        rows, best = content["rows"], content["best"]
    per_epoch = max(len(training) // (config.batch_size * config.context), 1)
    n_epochs = math.ceil(config.steps / per_epoch)
    for epoch in range(len(rows) + 1, (n_epochs if epochs is None else min(epochs, n_epochs)) + 1):
        step = min(epoch * per_epoch, config.steps)
        train(model, training, config, path=last, until=step)
        row = {"epoch": epoch, "step": step}
        for name, text in (("training", training[: len(validation)]), ("validation", validation)):
            row[name] = evaluate(model, text, config.batch_size, config.context, config.bf16)
        row["sample"] = "" if write is None else write(model)
        if all(row["validation"] < earlier["validation"] for earlier in rows):
            best = {name: value.clone() for name, value in model.state_dict().items()}
        rows.append(row)
        torch.save({"rows": rows, "best": best}, record + ".part")
        os.replace(record + ".part", record)
    model.load_state_dict(best)
    return rows
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>The record tells you how many epochs are done: as many as it has rows. Start the
# loop behind them. <code>train</code> finds its own place by itself, also in the middle of an epoch.</details>
# <details><summary>A bigger nudge</summary>A state_dict does not hold copies: its tensors are the model's own, and the
# next step changes them. If the best weights turn out to be the last ones, <code>clone</code> is missing. A new row is
# the best so far if it is lower than <em>all</em> rows before it. Write to another file first, then
# <code>os.replace</code>. The very last line of work is to give the model its best weights back.</details>

# %% test="run" points=3
from coursekit import check

import torch
from torch.nn import functional as F

# A learning rate of zero: every epoch is the untrained model. 17 tokens, batches of 2 times 4: epochs of two steps.
text, judge = (torch.arange(17) ** 2 + 3) % 11, torch.tensor([3, 1, 4, 1, 5, 9, 2])
still = {"steps": 9, "batch_size": 2, "context": 4, "lr": 0.0, "min_lr": 0.0}
found = rehearse(still, text, judge)
check.equal([row["step"] for row in found["rows"]], [2, 4, 6, 8, 9], "9 steps, 17 tokens: the steps after each epoch")
check.equal([row["epoch"] for row in found["rows"]], [1, 2, 3, 4, 5], "9 steps, 17 tokens: the numbers of the epochs")
twin = TinyLM()


def mean_loss(tokens):
    pieces = [tokens[i : i + 5] for i in range(0, len(tokens) - 1, 4)]
    losses = [F.cross_entropy(twin(piece[None, :-1])[0].detach(), piece[1:], reduction="sum") for piece in pieces]
    return float(sum(losses)) / (len(tokens) - 1)


for name, tokens in (("training", text[:7]), ("validation", judge)):
    for row in found["rows"]:
        check.close(row[name], mean_loss(tokens), f"nothing learned: {name} after epoch {row['epoch']}, on 7 tokens")
check.equal(found["files"], ["last.pt", "record.pt"], "the files in the folder")
check.equal(found["rows in the file"], 5, "how many rows record.pt holds")
### BEGIN HIDDEN TESTS


def by_torch(settings, piece, validation):
    """The rows of a run whose batches are all alike, with PyTorch's parts, in float64, and the weights after each epoch."""
    model, rows, states = TinyLM().double(), [], []
    pairs = [([model.token, model.w], settings["weight_decay"]), ([model.gain, model.b], 0.0)]
    adam = torch.optim.AdamW(
        [{"params": params, "weight_decay": decay} for params, decay in pairs], betas=settings["betas"]
    )
    half_circle = torch.linspace(0, torch.pi, settings["steps"], dtype=torch.float64)
    low, high = settings["min_lr"], settings["lr"]
    for n, rate in enumerate(((1 + half_circle.cos()) / 2 * (high - low) + low).tolist(), start=1):
        for group in adam.param_groups:
            group["lr"] = rate
        adam.zero_grad()
        F.cross_entropy(model(piece[None, :-1])[0], piece[1:]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip"])
        adam.step()
        row = {"epoch": n, "step": n}
        for name, tokens in (("training", piece), ("validation", validation)):
            windows = [tokens[i : i + 7] for i in range(0, len(tokens) - 1, 6)]
            losses = [F.cross_entropy(model(w[None, :-1])[0].detach(), w[1:], reduction="sum") for w in windows]
            row[name] = float(sum(losses)) / (len(tokens) - 1)
        row["sample"] = float(sum(parameter.detach().sum() for parameter in model.parameters()))
        rows.append(row)
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    return rows, states


# Seven tokens and a context of six: every batch is the same, and an epoch has one step.
piece = torch.tensor([3, 1, 4, 1, 5, 9, 2])
for steps, batch_size, lr, validation in (
    (6, 2, 0.3, torch.tensor([3, 1, 4, 1, 5, 2, 9, 9, 1, 3, 3, 5])),
    (4, 5, 0.05, (torch.arange(27) ** 2) % 11),
):
    settings = {"steps": steps, "batch_size": batch_size, "context": 6, "lr": lr, "min_lr": 0.01, "clip": 0.7}
    settings |= {"betas": (0.8, 0.9), "weight_decay": 0.5}
    rows, states = by_torch(settings, piece, validation)
    found = rehearse(settings, piece, validation, double=True)
    what = f"{steps} epochs of one step with lr {lr}, batches of {batch_size}, float64, beside PyTorch's parts"
    check.equal(len(found["rows"]), steps, f"{what}: how many rows there are")
    check.equal([sorted(row) for row in found["rows"]], [sorted(row) for row in rows], f"{what}: the keys of the rows")
    for key in ("epoch", "step", "training", "validation", "sample"):
        got = torch.tensor([float(row[key]) for row in found["rows"]], dtype=torch.float64)
        want = torch.tensor([row[key] for row in rows], dtype=torch.float64)
        check.close(got, want, f"{what}: {'the fingerprint of the weights' if key == 'sample' else key}", atol=1e-6)
    best = min(range(steps), key=lambda n: rows[n]["validation"])
    for name, value in states[best].items():
        check.close(found["weights"][name], value, f"{what}: {name} at the end is that of the best epoch", atol=1e-6)
# Epochs: the number of steps, the last one shorter, and a text that is shorter than a batch.
for size, batch_size, context, steps, want in (
    (38, 2, 6, 7, [3, 6, 7]),
    (36, 2, 6, 3, [3]),
    (9, 3, 8, 2, [1, 2]),
    (30, 3, 2, 2, [2]),
):
    settings = {"steps": steps, "batch_size": batch_size, "context": context}
    found = rehearse(settings, torch.arange(size) % 11, judge)
    what = f"{size} tokens, batches of {batch_size} times {context}, {steps} steps"
    check.equal([row["step"] for row in found["rows"]], want, f"{what}: the steps after each epoch")
    check.equal(found["steps"], steps, f"{what}: how often the model was shown a batch")
check.equal([row["sample"] for row in rehearse(settings, text, judge, write=False)["rows"]], [""], "nothing writes")
# With a learning rate of zero the weights stay what they are, so only the arithmetic differs.
half, full = (rehearse({**still, "steps": 1, "bf16": bf16}, text, judge)["rows"][-1] for bf16 in (True, False))
for key in ("training", "validation"):
    apart = abs(half[key] - full[key])
    check.that(0 < apart < 0.3, f"with bf16 {key} is another, but not by much", why=f"they differ by {apart:.3g}")
### END HIDDEN TESTS

# %% test="run" points=3
from coursekit import check

import torch

# The model learns from tokens 0 to 5. The validation text has others as well, and they are never shown while it learns.
text = (torch.arange(90) ** 2 + torch.arange(90) // 7) % 6
judge = text[:36] + 5 * (torch.arange(36) % 9 == 4)
settings = {"steps": 18, "batch_size": 3, "context": 10, "lr": 0.3, "min_lr": 0.3, "seed": 21}
whole = rehearse(settings, text, judge, dropout=0.2)
check.equal(whole["read"], [0, 1, 2, 3, 4, 5], "the tokens that the model was shown with gradients on")
losses = [row["validation"] for row in whole["rows"]]
check.equal(len(losses), 6, "90 tokens, batches of 3 times 10, 18 steps: how many epochs there are")
check.equal(whole["steps"], 18, "90 tokens, batches of 3 times 10, 18 steps: how many batches the model was shown")
# Of six epochs the second is the best. In one go; stopped after epoch 1 and resumed; the same after epoch 3; epoch 6 left out.
runs = [whole, *(rehearse(settings, text, judge, stops, dropout=0.2) for stops in ((1, None), (3, None), (5,)))]
what = f"in four runs whose losses are {[round(loss, 2) for loss in losses]}, with and without a stop"
found = [[found["loss of the best in the file"], found["loss of the model"]] for found in runs]
check.equal(found, [[min(losses)] * 2] * 4, f"{what}: the losses of the best weights in record.pt and of the model")
check.equal(
    [row["validation"] for row in runs[2]["rows"]], losses, "stopped after 3 of 6 epochs: the losses, to the bit"
)
### BEGIN HIDDEN TESTS


def same(found, what):
    check.equal(len(found["rows"]), len(whole["rows"]), f"{what}: how many rows there are")
    for key in ("epoch", "step", "training", "validation", "sample"):
        got, want = ([row[key] for row in one["rows"]] for one in (found, whole))
        check.equal(got, want, f"{what}: {key} in the rows, to the bit")
    for name, value in whole["weights"].items():
        check.equal(found["weights"][name], value, f"{what}: {name} at the end, to the bit")
    check.equal(found["files"], ["last.pt", "record.pt"], f"{what}: the files")
    check.equal(found["loss of the best in the file"], whole["loss of the best in the file"], f"{what}: the best")


first = rehearse(settings, text, judge, (2,), dropout=0.2)
check.equal(
    [row["sample"] for row in first["rows"]], [row["sample"] for row in whole["rows"][:2]], "epochs=2: the samples"
)
check.equal(first["rows in the file"], 2, "epochs=2: how many rows the file holds")
check.equal(first["steps"], 6, "epochs=2, epochs of three steps: how many batches the model was shown")
for found, what in zip(runs, ("in one go", "stopped after epoch 1", "stopped after epoch 3"), strict=False):
    same(found, what)
found = rehearse(settings, text, judge, (1, 4, 2, 99), dropout=0.2)
same(found, "calls with epochs=1, 4, 2 and 99")
check.equal(found["steps"], 6, "calls with epochs=1, 4, 2 and 99, epochs of three steps: steps of the last call")
# Ctrl-C in any call of the model: while it learns, and while it is judged.
for call in (8, 12):
    found = rehearse(settings, text, judge, (None, None), dropout=0.2, interrupt_at=call)
    check.equal(
        found["ended"], ["KeyboardInterrupt", ""], f"Ctrl-C in call {call} of the model, and again: how both end"
    )
    same(found, f"Ctrl-C in call {call} of the model, and the run goes on")
# The disk is full at one of the files that are written, whichever it is.
for number in (5, 6):
    found = rehearse(settings, text, judge, (None, None), dropout=0.2, fail_at=number)
    what = f"file {number} that is written fails"
    if found["ended"] == ["OSError", ""]:
        kept = found["after the failure"]
        possible = ["no record", *[min(losses[: n + 1]) for n in range(6)]]
        check.that(
            kept in possible, f"{what}: the record is still a complete one", why=f"its best weights give {kept!r}"
        )
    same(found, f"{what}, and the run goes on")
# Of two epochs with equal losses the first is kept: a number that has no effect on the loss tells them apart.
found = rehearse({**settings, "lr": 0.02, "min_lr": 0.02}, text, judge, ageing=True)
check.that(len({row["validation"] for row in found["rows"]}) == 1, "the weights are frozen: all losses are equal")
ages = [float(row["sample"]) for row in found["rows"]]
rest = sum(float(value.double().sum()) for name, value in found["weights"].items() if name != "age")
check.close(
    float(found["weights"]["age"]) + rest, ages[0], "6 equal losses: the weights of the first are kept", atol=1e-6
)
# Other texts.
draw = torch.Generator().manual_seed(check.seed(7))
text, judge = torch.randint(5, (60,), generator=draw), torch.randint(5, 11, (25,), generator=draw)
found = rehearse(settings, text, judge, dropout=0.1)
losses = [row["validation"] for row in found["rows"]]
check.that(max(found["read"]) < 5, "tokens 5 to 10 are in the validation text alone, and are never learned from")
check.equal(found["loss of the model"], min(losses), "a random text: the loss of the model at the end")
check.equal(
    found["loss of the best in the file"], min(losses), "a random text: the loss of the best weights in the file"
)
### END HIDDEN TESTS

# %% test="run" points=2
from coursekit import check

import torch

# A text whose next token is drawn from a table: nobody can predict it better than the table does.
follows = torch.softmax(2.5 * torch.sin(3.0 * torch.arange(121.0) ** 2).view(11, 11), dim=-1)


def drawn_text(size, seed):
    draw, ids = torch.rand(size, generator=torch.Generator().manual_seed(seed)).tolist(), [0]
    ladders = follows.cumsum(-1).tolist()
    for at in draw:
        ids.append(next((i for i, rung in enumerate(ladders[ids[-1]]) if rung > at), 10))
    return torch.tensor(ids)


text, judge = drawn_text(2000, 0), drawn_text(800, 1)
table = float(-follows[judge[:-1], judge[1:]].log().mean())
letters = float(-(torch.bincount(text, minlength=11) / len(text))[judge[1:]].log().mean())
settings = {"steps": 40, "batch_size": 16, "context": 16, "lr": 0.1, "warmup": 5}
losses = [row["validation"] for row in rehearse(settings, text, judge)["rows"]]
what = f"losses {[round(loss, 2) for loss in losses]}; the table has {table:.2f}, who knows only how often a token is {letters:.2f}"
check.that(min(losses) > table - 0.05, "no model is better than the table that has written the text", why=what)
# With 8 seeds of text and run the best loss was 0.40 to 0.48 above the table's, and the shares of the tokens alone 0.65 to 0.77.
check.that(min(losses) < table + 0.6, "40 steps are enough to learn much of what follows what", why=what)
### BEGIN HIDDEN TESTS
text, judge = drawn_text(2000, check.seed(10)), drawn_text(800, check.seed(11))
table = float(-follows[judge[:-1], judge[1:]].log().mean())
losses = [row["validation"] for row in rehearse({**settings, "seed": 3}, text, judge, (2, None))["rows"]]
what = f"another text, in two calls: losses {[round(loss, 2) for loss in losses]}; the table has {table:.2f}"
check.that(
    table - 0.05 < min(losses) < table + 0.6,
    "the best loss is between 0.05 below the table's and 0.6 above",
    why=what,
)
### END HIDDEN TESTS


# %% alternative="run"
def run(model, training, validation, config, folder, write=None, epochs=None):
    # With pathlib, a while loop, the best loss kept as a number, and the rows read again from the file at the end.
    from copy import deepcopy
    from pathlib import Path

    folder = Path(folder)
    record = folder / "record.pt"

    def saved():
        return torch.load(record) if record.is_file() else {"rows": [], "best": None}

    def loss_on(text):
        model.eval()
        return evaluate(model, text, batch_size=config.batch_size, context=config.context, bf16=config.bf16)

    length = len(training) // config.batch_size // config.context or 1
    while True:
        content = saved()
        rows = content["rows"]
        done = rows[-1]["step"] if rows else 0
        if done >= config.steps or (epochs is not None and len(rows) >= epochs):
            break
        number = len(rows) + 1
        goal = number * length if number * length < config.steps else config.steps
        train(model, training, config, None, str(folder / "last.pt"), goal)
        text = write(model) if write is not None else ""
        row = {"epoch": number, "step": goal, "sample": text}
        row |= {"training": loss_on(training[: validation.numel()]), "validation": loss_on(validation)}
        lowest = min([old["validation"] for old in rows], default=math.inf)
        if row["validation"] < lowest:
            content["best"] = deepcopy(model.state_dict())
        content["rows"] = [*rows, row]
        with tempfile.NamedTemporaryFile(dir=tempfile.gettempdir(), delete=False) as out:
            name = out.name
        torch.save(content, name)
        os.replace(name, record)
    model.load_state_dict(content["best"])
    return rows


# %% mistakes="run"
{
    "the model is trained on the validation text as well": (
        "train(model, training, config,",
        "train(model, torch.cat([training, validation]), config,",
    ),
    "the model is trained on the validation text, and judged by it": (
        "train(model, training, config,",
        "train(model, validation, config,",
    ),
    "the validation loss is measured on the training text": (
        '("validation", validation)',
        '("validation", training[: len(validation)])',
    ),
    "both losses are measured on the validation text": ("training[: len(validation)])", "validation)"),
    "the training loss is measured on the whole training text": ("training[: len(validation)])", "training)"),
    "the training loss is measured on the end of the training text": (
        "training[: len(validation)])",
        "training[-len(validation) :])",
    ),
    "the training loss is the mean of the losses of the steps, with dropout and while the weights changed": [
        ("        train(model,", "        history = train(model,"),
        (
            '        row["sample"]',
            '        row["training"] = sum(past["loss"] for past in history[-per_epoch:]) / len(history[-per_epoch:])\n'
            '        row["sample"]',
        ),
    ],
    "the validation loss is measured by hand, in one long window and with dropout on": (
        '        row["sample"]',
        "        model.train()\n"
        "        logits = model(validation[None, :-1])[0].detach()\n"
        '        row["validation"] = F.cross_entropy(logits, validation[1:]).item()\n'
        '        row["sample"]',
    ),
    "batch size and context are given to evaluate in the wrong order": (
        "text, config.batch_size, config.context,",
        "text, config.context, config.batch_size,",
    ),
    "bf16 of the settings does not reach the evaluation": (", config.context, config.bf16)", ", config.context)"),
    "the model keeps the weights of the last epoch": ("    model.load_state_dict(best)\n", ""),
    "the best weights are kept by reference, so they change with every step that follows": (
        "name: value.clone() for",
        "name: value for",
    ),
    "the epoch with the highest validation loss is kept": (
        'row["validation"] < earlier["validation"]',
        'row["validation"] > earlier["validation"]',
    ),
    "the last of several equal epochs is kept and not the first": (
        'row["validation"] < earlier["validation"]',
        'row["validation"] <= earlier["validation"]',
    ),
    "the epoch with the lowest training loss is kept": (
        'row["validation"] < earlier["validation"]',
        'row["training"] < earlier["training"]',
    ),
    "an epoch is taken for the best if it is better than the one before it": (
        "for earlier in rows):",
        "for earlier in rows[-1:]):",
    ),
    "every epoch is taken for the best": (
        '        if all(row["validation"] < earlier["validation"] for earlier in rows):\n',
        "        if True:\n",
    ),
    "the best of this call is kept, and the epochs of earlier calls are forgotten": [
        ("    per_epoch = max(", "    before = len(rows)\n    per_epoch = max("),
        ("for earlier in rows):", "for earlier in rows[before:]):"),
    ],
    "the best weights are not restored from the record, only those of this call are known": (
        'rows, best = content["rows"], content["best"]',
        'rows, best = content["rows"], model.state_dict()',
    ),
    "an epoch is as many steps as the text has batches of single tokens: the context is forgotten": (
        "// (config.batch_size * config.context), 1)",
        "// config.batch_size, 1)",
    ),
    "the batch size is forgotten in the length of an epoch": (
        "// (config.batch_size * config.context), 1)",
        "// config.context, 1)",
    ),
    "an epoch is as many steps as the text has tokens": ("// (config.batch_size * config.context), 1)", "// 1, 1)"),
    "the steps of an epoch are rounded up and not down": (
        "max(len(training) // (config.batch_size * config.context),",
        "max(-(-len(training) // (config.batch_size * config.context)),",
    ),
    "a text that is shorter than a batch has epochs of no steps": (
        "per_epoch = max(len(training) // (config.batch_size * config.context), 1)",
        "per_epoch = len(training) // (config.batch_size * config.context)",
    ),
    "a last, shorter epoch is left out": (
        "math.ceil(config.steps / per_epoch)",
        "max(config.steps // per_epoch, 1)",
    ),
    "the last epoch is always a full one in the rows, even if the run ends before": (
        "step = min(epoch * per_epoch, config.steps)",
        "step = epoch * per_epoch",
    ),
    "until is the length of an epoch, so only the first epoch trains": ("until=step)", "until=per_epoch)"),
    "until is forgotten, and all steps are done in the first epoch": (", until=step)", ")"),
    "train is given no path, so every epoch begins with step 1, new moments and the same batches": (
        "path=last, until",
        "path=None, until",
    ),
    "a run never goes on: the record is not read": ("    if os.path.exists(record):", "    if False:"),
    "only the rows of this call are returned": [
        ("    per_epoch = max(", "    before = len(rows)\n    per_epoch = max("),
        ("    return rows\n", "    return rows[before:]\n"),
    ],
    "the record is written when all is done, so an interruption loses the rows": [
        (
            '        torch.save({"rows": rows, "best": best}, record + ".part")\n        os.replace(record + ".part", record)\n',
            "",
        ),
        (
            "    model.load_state_dict(best)\n",
            '    torch.save({"rows": rows, "best": best}, record + ".part")\n    os.replace(record + ".part", record)\n'
            "    model.load_state_dict(best)\n",
        ),
    ],
    "the record is written in place, so that a failure leaves half of it": [
        (', record + ".part")\n', ", record)\n"),
        ('        os.replace(record + ".part", record)\n', ""),
    ],
    "the record is copied to its name, and the other file stays": (
        '        os.replace(record + ".part", record)\n',
        '        with open(record + ".part", "rb") as part, open(record, "wb") as out:\n'
        "            out.write(part.read())\n",
    ),
    "the record is written before the new row is in it": [
        ("        rows.append(row)\n", ""),
        (
            '        os.replace(record + ".part", record)\n',
            '        os.replace(record + ".part", record)\n        rows.append(row)\n',
        ),
    ],
    "the record holds the last weights and not the best": ('"best": best}', '"best": model.state_dict()}'),
    "the sample is written before the epoch": [
        ("        train(model,", '        before = write(model) if write else ""\n        train(model,'),
        ('"" if write is None else write(model)', "before"),
    ],
    "the sample is always written by the best model so far": [
        ('        row["sample"] = "" if write is None else write(model)\n', ""),
        (
            "        rows.append(row)\n",
            "        model.load_state_dict(best)\n"
            '        row["sample"] = "" if write is None else write(model)\n        rows.append(row)\n',
        ),
    ],
    "epochs counts those of this call and not those of the run": (
        "min(epochs, n_epochs)",
        "min(len(rows) + epochs, n_epochs)",
    ),
    "one epoch too many is done": ("min(epochs, n_epochs)", "min(epochs + 1, n_epochs)"),
    "epochs is ignored": ("(n_epochs if epochs is None else min(epochs, n_epochs))", "n_epochs"),
}

# %% [markdown]
# ## Exercise 5 · `learning_report`
#
# What did the run learn, in numbers that can be compared with those of other people?
#
# A loss in nats per token goes over into bits per character: many have a tokenizer of their own, and characters are
# what all of them spell. Mind which ones. The first token of the validation text is only read. The loss is a mean over
# the $M - 1$ others, and it is these that have spelled the characters you divide by.
#
# For the samples, count all pairs of neighbouring letters and divide by their number: that is a distribution. How far
# apart are two of those? Their *total variation distance* is half the sum of all differences,
# $\frac12\sum_g |p(g) - q(g)|$. It is 0 if they are equal and 1 if they have no pair in common. An example: `abab` has
# the pairs `ab`, `ba`, `ab`, so $2/3$ and $1/3$. And `abb` has `ab` and `bb`, a half each. The differences are $1/6$,
# $1/3$ and $1/2$, and half of their sum is $1/2$.
#
# A short text never has the distribution of a long one, not even if Shakespeare wrote both. So a distance means
# nothing without its floor: how far are pieces of *real* text, as long as the sample, from the long text?
#
# *Difficulty 3 of 5 · 20 minutes · 6 points*


# %% exercise="learning_report" difficulty=3 minutes=20
def distance(one: str, other: str, n: int = 2) -> float:
    """The total variation distance between the n-grams of two texts.

    The n-grams of a text are its pieces of n neighbouring characters, one for each place where such a piece begins. Divided
    by their number, their counts are shares that sum to 1.

    Args:
        one, other: texts of at least n characters.
        n: how many characters an n-gram has, at least 1.

    Returns:
        Half the sum, over all n-grams of either text, of the absolute difference of their shares: a number from 0 to 1.

    Raises:
        ValueError: if a text has fewer than n characters.
    """
    ### BEGIN SOLUTION

    def shares(text: str) -> dict[str, float]:
        grams = Counter(text[i : i + n] for i in range(len(text) - n + 1))
        if not grams:
            raise ValueError(f"{text!r} has no piece of {n} characters")
        return {gram: count / grams.total() for gram, count in grams.items()}

    p, q = shares(one), shares(other)
    return sum(abs(p.get(gram, 0) - q.get(gram, 0)) for gram in p.keys() | q.keys()) / 2
    ### END SOLUTION


def distance_floor(reference: str, real: str, length: int, n: int = 2) -> float:
    """How far short pieces of a real text are from a long one.

    Args:
        reference: the long text.
        real: another text, cut into neighbouring pieces of ``length`` characters; what is left at its end is not used.
        length: of the pieces, at least n.
        n: as in `distance`.

    Returns:
        The mean, over the pieces, of their `distance` from ``reference``.

    Raises:
        ValueError: if ``real`` is shorter than one piece.
    """
    ### BEGIN SOLUTION
    pieces = [real[i : i + length] for i in range(0, len(real) - length + 1, length)]
    if not pieces:
        raise ValueError(f"{len(real)} characters do not make one piece of {length}")
    return sum(distance(piece, reference, n) for piece in pieces) / len(pieces)
    ### END SOLUTION


def learning_report(rows: list[dict[str, Any]], tokenizer: Any, validation: torch.Tensor) -> dict[str, float]:
    """What the rows of a `run` say.

    Args:
        rows: as `run` returns them, in order, at least one.
        tokenizer: has decode(list of ids) -> text.
        validation: (M,), the validation text in tokens of this tokenizer, as it was given to `run`.

    Returns:
        A dict of numbers:
            - "best_epoch": the epoch with the lowest validation loss; of equals, the first;
            - "loss": its validation loss, in nats for each token;
            - "bits_per_character": the same in bits for each character that is predicted, those of the tokens after the
              first;
            - "gap": its validation loss minus its training loss;
            - "rise": the validation loss of the last epoch minus that of the best one, 0 if the last is the best.
    """
    ### BEGIN SOLUTION
    best = min(rows, key=lambda row: row["validation"])
    loss = best["validation"]
    predicted = tokenizer.decode(validation[1:].tolist())
    return {
        "best_epoch": best["epoch"],
        "loss": loss,
        "bits_per_character": bits_per_character(loss, len(validation) - 1, predicted),
        "gap": loss - best["training"],
        "rise": rows[-1]["validation"] - loss,
    }
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary><code>collections.Counter</code> counts whatever it is given, and a missing key counts
# 0. How many pairs of neighbours has a text of five letters?</details>
# <details><summary>A bigger nudge</summary>Go over the n-grams of <em>both</em> texts: one that only the other text has
# contributes its whole share. Python's <code>min</code> takes a <code>key</code> and, of equals, the first. For the bits,
# <code>bits_per_character(loss, n_tokens, text)</code> from Lab 4.1 knows the units: give it the number of tokens that were
# predicted, and the text which exactly those tokens spell.</details>

# %% test="learning_report" points=3
from coursekit import check

check.close(distance("abab", "abb"), 0.5, "the pairs of 'abab' and of 'abb': the example from the text", atol=1e-9)
check.close(distance("banana", "band"), 7 / 15, "pairs of 'banana' (ba, 2 an, 2 na) and 'band' (ba, an, nd)", atol=1e-9)
check.close(distance("abab", "abab"), 0.0, "a text and itself", atol=1e-9)
check.close(distance("abab", "cdcdcd", n=1), 1.0, "two texts without a letter in common", atol=1e-9)
check.raises(ValueError, lambda: distance("abab", "c"), "a text of one letter has no pairs")
# Pieces 'bbbb' and 'abab' (the last 'a' is left over): distances 1 and 0 from the pairs of 'abab'.
check.close(distance_floor("abab", "bbbbababa", 4), 0.5, "pieces of four letters of 'bbbbababa'", atol=1e-9)
check.raises(ValueError, lambda: distance_floor("abab", "aba", 4), "three letters are no piece of four")
### BEGIN HIDDEN TESTS
import random

import numpy as np


def by_numpy(one, other, n):
    grams = [np.array([text[i : i + n] for i in range(len(text) - n + 1)]) for text in (one, other)]
    known = np.unique(np.concatenate(grams))
    shares = [(gram[:, None] == known).mean(axis=0) for gram in grams]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


dice = random.Random(check.seed(8))
for size, other_size, n in ((63, 40, 2), (5, 200, 1), (30, 30, 3), (4, 9, 4), (100, 3, 2)):
    one = "".join(dice.choice("abcAB \n") for _ in range(size))
    other = "".join(dice.choice("bcd\u00e9 ") for _ in range(other_size))
    case = f"texts of {size} and {other_size} characters, n = {n}"
    check.close(distance(one, other, n), by_numpy(one, other, n), case, atol=1e-9)
    check.close(distance(other, one, n), by_numpy(one, other, n), f"{case}, the other way round", atol=1e-9)
    for length in (n, n + 3, size):
        pieces = [one[i : i + length] for i in range(0, size, length)]
        want = [by_numpy(piece, other, n) for piece in pieces if len(piece) == length]
        if want:
            found = distance_floor(other, one, length, n)
            check.close(found, sum(want) / len(want), f"{case}: the floor for pieces of {length}", atol=1e-9)
check.close(distance(one, other), by_numpy(one, other, 2), "pairs are counted where n is left out", atol=1e-9)
check.close(
    distance_floor("abab" * 3, "abbabaab", 4), by_numpy("abba", "abab" * 3, 2) / 2 + by_numpy("baab", "abab" * 3, 2) / 2,
    "the floor, with n left out", atol=1e-9,
)  # fmt: skip
for one, other, n in (("", "ab", 1), ("ab", "", 1), ("ab", "abc", 3), ("abc", "ab", 3)):
    check.raises(ValueError, lambda one=one, other=other, n=n: distance(one, other, n), f"{one!r}, {other!r}, n = {n}")
check.raises(ValueError, lambda: distance_floor("abab", "", 2), "no real text at all")
### END HIDDEN TESTS

# %% test="learning_report" points=3
from coursekit import check

import math

import torch

# Tokens of 2 characters on average: 'hm' has been merged, and the validation text is hm, hm, !, hm.
tokenizer, tokens = BPETokenizer([(104, 109)]), torch.tensor([256, 256, 33, 256])
losses = [(2.0, 2.5), (1.0, 2.0), (0.4, 2.25), (0.5, 2.3)]
rows = [{"epoch": n, "step": 9 * n, "training": t, "validation": v, "sample": ""} for n, (t, v) in enumerate(losses, 1)]
found = learning_report(rows, tokenizer, tokens)
check.equal(found["best_epoch"], 2, "validation losses of 2.5, 2.0, 2.25 and 2.3: the best epoch")
want = [2.0, 3 * 2.0 / math.log(2) / 5, 1.0, 0.3]
names = ["loss", "bits_per_character", "gap", "rise"]
for name, number in zip(names, want, strict=True):
    check.close(found[name], number, f"three tokens with a loss of 2.0 spell five characters: {name}", atol=1e-9)
### BEGIN HIDDEN TESTS
check.equal(sorted(found), sorted(["best_epoch", *names]), "the names in the report")
draw = torch.Generator().manual_seed(check.seed(9))
spelling = {0: "a", 1: "b", 2: "c", 3: "d"}
for size, n_rows in ((63, 5), (2, 1), (100, 9)):
    numbers = (0.5 + torch.rand(n_rows, 2, generator=draw, dtype=torch.float64)).tolist()
    rows = [
        {"epoch": n + 1, "step": 7 * n + 7, "training": t, "validation": v, "sample": "ab"}
        for n, (t, v) in enumerate(numbers)
    ]
    text = torch.randint(4, (size,), generator=draw)
    best = min(range(n_rows), key=lambda n: numbers[n][1])
    loss = numbers[best][1]
    case = f"{n_rows} rows, a validation text of {size} characters"
    found = learning_report(rows, CharTokenizer("abcd"), text)
    check.equal(found["best_epoch"], best + 1, f"{case}: best_epoch")
    # One token for each character: the number of characters cancels.
    want = [loss, loss / math.log(2), loss - numbers[best][0], numbers[-1][1] - loss]
    for name, number in zip(names, want, strict=True):
        check.close(found[name], number, f"{case}: {name}", atol=1e-9)
tokenizer = BPETokenizer([(97, 98), (256, 256), (257, 99)])
for text, ids, characters in (("ababcab", [258, 256], 2), ("aababc", [97, 258], 5), ("cccabab", [99, 99, 99, 257], 6)):
    rows = [{"epoch": 1, "step": 1, "training": 1.5, "validation": 1.25, "sample": ""}]
    found = learning_report(rows, tokenizer, torch.tensor(ids))
    want = (len(ids) - 1) * 1.25 / math.log(2) / characters
    check.close(found["bits_per_character"], want, f"{text!r} in tokens {ids}: bits_per_character", atol=1e-9)
    check.close(found["gap"], -0.25, "a validation loss below the training loss: a negative gap", atol=1e-9)
    check.close(found["rise"], 0.0, "one epoch: nothing has risen", atol=1e-9)
equal = [(1.0, 3.0), (0.9, 2.0), (0.5, 2.0), (0.4, 2.5), (0.3, 2.0)]
rows = [{"epoch": n, "step": n, "training": t, "validation": v, "sample": ""} for n, (t, v) in enumerate(equal, 1)]
found = learning_report(rows, tokenizer, torch.tensor([97, 98]))
check.equal(found["best_epoch"], 2, "validation losses of 3, 2, 2, 2.5 and 2: the first of the best epochs")
check.close([found["gap"], found["rise"]], [1.1, 0.0], "losses of 3, 2, 2, 2.5 and 2: gap and rise", atol=1e-9)
rows = [row | {"epoch": row["epoch"] + 4} for row in rows]
check.equal(learning_report(rows, tokenizer, torch.tensor([97, 98]))["best_epoch"], 6, "rows of epochs 5 to 9")
### END HIDDEN TESTS


# %% alternative="learning_report"
def distance(one, other, n=2):
    # Without dicts: the shares of the smaller of the two, summed, are what the texts have in common.
    if min(len(one), len(other)) < n:
        raise ValueError("too short")
    grams = [[text[i : i + n] for i in range(len(text) + 1 - n)] for text in (one, other)]
    common = 0.0
    for gram in set(grams[0]):
        common += min(grams[0].count(gram) / len(grams[0]), grams[1].count(gram) / len(grams[1]))
    return 1 - common


def distance_floor(reference, real, length, n=2):
    found = []
    while len(real) >= length:
        found.append(distance(reference, real[:length], n))
        real = real[length:]
    if not found:
        raise ValueError("no piece")
    return torch.tensor(found, dtype=torch.float64).mean().item()


def learning_report(rows, tokenizer, validation):
    losses = torch.tensor([row["validation"] for row in rows], dtype=torch.float64)
    lowest = float(losses.min())
    number = losses.tolist().index(lowest)
    ids = [int(token) for token in validation]
    letters = len(tokenizer.decode(ids)) - len(tokenizer.decode(ids[:1]))
    print("best epoch", rows[number]["epoch"])
    return {
        "rise": float(losses[-1]) - lowest,
        "gap": lowest - rows[number]["training"],
        "bits_per_character": math.log2(math.e) * lowest * (len(ids) - 1) / letters,
        "loss": lowest,
        "best_epoch": rows[number]["epoch"],
    }


# %% mistakes="learning_report"
{
    "the sum of the differences is not halved": (
        "for gram in p.keys() | q.keys()) / 2",
        "for gram in p.keys() | q.keys())",
    ),
    "only n-grams of the first text are looked at": ("for gram in p.keys() | q.keys()", "for gram in p.keys()"),
    "only n-grams that both texts have are looked at": ("p.keys() | q.keys()", "p.keys() & q.keys()"),
    "counts are compared and not shares": ("count / grams.total()", "count"),
    "the counts are divided by the length of the text and not by the number of n-grams": (
        "count / grams.total()",
        "count / len(text)",
    ),
    "it is counted which n-grams occur, and not how often": (
        "count / grams.total()",
        "1 / len(grams)",
    ),
    "the differences are squared": ("abs(p.get(gram, 0) - q.get(gram, 0))", "(p.get(gram, 0) - q.get(gram, 0)) ** 2"),
    "n-grams do not overlap: the text is cut into pieces of n": (
        "for i in range(len(text) - n + 1))",
        "for i in range(0, len(text) - n + 1, n))",
    ),
    "the last n-gram is left out": ("range(len(text) - n + 1))", "range(len(text) - n))"),
    "shorter pieces at the end of the text are counted as n-grams": ("range(len(text) - n + 1))", "range(len(text)))"),
    "n is ignored: always pairs": (
        "text[i : i + n] for i in range(len(text) - n + 1)",
        "text[i : i + 2] for i in range(len(text) - 1)",
    ),
    "upper and lower case are the same": ("shares(one), shares(other)", "shares(one.lower()), shares(other.lower())"),
    "a text without n-grams is not refused": (
        '        if not grams:\n            raise ValueError(f"{text!r} has no piece of {n} characters")\n',
        "",
    ),
    "the floor uses every place where a piece can begin": (
        "len(real) - length + 1, length)",
        "len(real) - length + 1)",
    ),
    "the floor uses the first piece alone": (
        "for i in range(0, len(real) - length + 1, length)]",
        "for i in range(0, min(len(real) - length + 1, 1), length)]",
    ),
    "the floor uses the short piece at the end as well": (
        "for i in range(0, len(real) - length + 1, length)]",
        "for i in range(0, len(real) - n + 1, length)]",
    ),
    "a last piece that just fits is left out": ("len(real) - length + 1, length)", "len(real) - length, length)"),
    "the floor does not pass n on": ("distance(piece, reference, n)", "distance(piece, reference)"),
    "the floor is the smallest distance and not the mean": (
        "return sum(distance(piece, reference, n) for piece in pieces) / len(pieces)",
        "return min(distance(piece, reference, n) for piece in pieces)",
    ),
    "the pieces are joined again before they are compared, so they are not short any more": (
        "return sum(distance(piece, reference, n) for piece in pieces) / len(pieces)",
        'return distance("".join(pieces), reference, n)',
    ),
    "a real text that is too short is not refused": (
        '    if not pieces:\n        raise ValueError(f"{len(real)} characters do not make one piece of {length}")\n',
        "    if not pieces:\n        return 0.0\n",
    ),
    "the last epoch is reported and not the best": (
        'best = min(rows, key=lambda row: row["validation"])',
        "best = rows[-1]",
    ),
    "the epoch with the lowest training loss is reported": (
        'key=lambda row: row["validation"]',
        'key=lambda row: row["training"]',
    ),
    "the last of several equal epochs is reported": ("best = min(rows,", "best = min(rows[::-1],"),
    "epochs are counted from 0": ('"best_epoch": best["epoch"]', '"best_epoch": rows.index(best)'),
    "the place in the list is reported and not the number of the epoch": (
        '"best_epoch": best["epoch"]',
        '"best_epoch": rows.index(best) + 1',
    ),
    "the bits are those of a token and not of a character": (
        "bits_per_character(loss, len(validation) - 1, predicted)",
        "loss / math.log(2)",
    ),
    "nats are taken for bits: the division by ln 2 is missing": (
        "bits_per_character(loss, len(validation) - 1, predicted)",
        "loss * (len(validation) - 1) / len(predicted)",
    ),
    "the decimal logarithm is taken: nats are divided by ln 10": (
        "bits_per_character(loss, len(validation) - 1, predicted)",
        "loss * (len(validation) - 1) / len(predicted) / math.log(10)",
    ),
    "the cost of all tokens is spread over all characters, those of the first token included": (
        "decode(validation[1:].tolist())",
        "decode(validation.tolist())",
    ),
    "the first token is counted as if it had been predicted": (
        "len(validation) - 1, predicted",
        "len(validation), predicted",
    ),
    "the first token is counted, and so are its characters": [
        ("len(validation) - 1, predicted", "len(validation), predicted"),
        ("decode(validation[1:].tolist())", "decode(validation.tolist())"),
    ],
    "the last token is left out and not the first": ("validation[1:].tolist()", "validation[:-1].tolist()"),
    "the gap has the wrong sign": ('loss - best["training"]', 'best["training"] - loss'),
    "the gap is that of the last epoch": ('loss - best["training"]', 'rows[-1]["validation"] - rows[-1]["training"]'),
    "the lowest training loss of all epochs is subtracted": (
        'loss - best["training"]',
        'loss - min(row["training"] for row in rows)',
    ),
    "the rise is measured from the first epoch": (
        'rows[-1]["validation"] - loss',
        'rows[-1]["validation"] - rows[0]["validation"]',
    ),
    "the rise is that of the training loss": (
        'rows[-1]["validation"] - loss',
        'rows[-1]["training"] - best["training"]',
    ),
}

# %% equivalent="learning_report"
{
    "distance(piece, reference, n) -> distance(reference, piece, n)": "a distance is the same in both directions",
    "bits_per_character(loss, len(validation) - 1, predicted) -> bits_per_character(len(validation) - 1, loss, predicted)": "the two are multiplied",
}

# %% [markdown]
# ## Look at it
#
# Two runs, side by side. Both train the same model of about 100,000 parameters for the same number of steps. The one
# reads 6,000 characters of the play, over and over; the other reads 50,000. Both are judged by the same unseen 3,000.
#
# The bar counts the steps of each epoch. Try the stop button of the notebook in the middle, then run the cell again:
# the run goes on where its last checkpoint was. The files are in a folder that is made once, in the line with
# `place`; delete it, or restart the kernel, to begin anew.

# %%
import time

from plotly.subplots import make_subplots

torch.set_num_threads(1)
GPT = carry("ch03/lab03", "GPT")  # GPT(config)(ids) -> logits
play = data.tiny_shakespeare()[:60_000]
tokenizer, (long_text, unseen, later) = prepare(play, (50 / 60, 3 / 60, 7 / 60))
shape = fit_config(110_000, tokenizer.vocab_size, context=32, n_layers=2, head_width=16)
print(f"d_model {shape.d_model}, {shape.n_heads} heads, {parameter_count(shape):,} parameters")
if "place" not in globals():
    place = tempfile.mkdtemp()


def write(model):
    """Eight beginnings of a speech, 60 letters each."""
    return "".join(sample(model, tokenizer, "\n", 60, n_samples=8, seed=1))


results = {}
for name, text in (("6,000 characters", long_text[:6_000]), ("50,000 characters", long_text)):
    folder, begun = os.path.join(place, name), time.perf_counter()
    os.makedirs(folder, exist_ok=True)
    config = TrainConfig(320, 16, shape.context, lr=1e-2, min_lr=1e-3, warmup=20, save_every=50)
    model = GPT(shape)
    rows = run(model, text, unseen, config, folder, write)
    results[name] = rows, learning_report(rows, tokenizer, unseen)
    print(f"\n{name}: {len(rows)} epochs, {time.perf_counter() - begun:.0f} s")
    print(", ".join(f"{key} {value:.3g}" for key, value in results[name][1].items()))

real, reference = tokenizer.decode(later.tolist()), tokenizer.decode(long_text.tolist())
floor = distance_floor(reference, real, len(rows[-1]["sample"]))
figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
for colour, (name, (rows, report)) in zip(plots.COLOURS, results.items(), strict=False):
    steps = [row["step"] for row in rows]
    for key, dash in (("training", "dot"), ("validation", "solid")):
        line = {"color": colour, "dash": dash}
        figure.add_scatter(x=steps, y=[row[key] for row in rows], name=f"{name}, {key}", line=line, row=1, col=1)
    best = rows[report["best_epoch"] - 1]
    star = {"size": 13, "symbol": "star", "color": colour}
    figure.add_scatter(
        x=[best["step"]], y=[best["validation"]], mode="markers", marker=star, showlegend=False, row=1, col=1
    )
    far = [distance(row["sample"], reference) for row in rows]
    figure.add_scatter(x=steps, y=far, line={"color": colour}, showlegend=False, row=2, col=1)
figure.add_hline(y=floor, line={"color": plots.GREY, "dash": "dash"}, row=2, col=1)
figure.update_yaxes(title_text="loss (nats)", row=1, col=1)
figure.update_yaxes(title_text="distance of pairs", row=2, col=1)
figure.update_xaxes(title_text="step", row=2, col=1)
figure.update_layout(height=460, legend={"orientation": "h", "y": -0.18})
figure.show()
print(f"the floor: pieces of the real play, as long as a sample, have a mean distance of {floor:.3f}")
for name, (rows, report) in results.items():
    for which in dict.fromkeys((1, report["best_epoch"], len(rows))):
        lines = rows[which - 1]["sample"].split("\n")
        print(f"\n{name}, epoch {which}, distance {distance(rows[which - 1]['sample'], reference):.3f}:")
        print("    " + "\n    ".join(line for line in lines[:9] if line))

# %% [markdown]
# Look at the upper half first. Solid lines are the validation loss, dotted ones the training loss, and a star is the
# epoch that was kept. What does the end of the short text's run look like if you see only its dotted line?
#
# Now the lower half: how far the pairs of letters in the samples are from those of the play. The dashed line is what
# real pieces of the play reach. Compare the two runs at their ends. Would you have noticed from the pairs of letters
# that one of the two models has seen too little text? Which statistic of a sample would show it?
#
# <details><summary>An answer</summary>Pairs of letters are learned early, and remembering does not spoil them: text that
# is copied from the play has the pairs of the play. So this distance says whether a model writes letters as its text
# does, and it cannot say whether it has learned or remembered. Longer n-grams can: count which share of a sample's pieces
# of 12 letters stands word for word in the training text. Try it with the samples in <code>results</code>.</details>
#
# There are three parts, and `later` has only served as the floor. It is the text for the last question: what is the
# loss of the best model on text that played no part in choosing it? `evaluate(model, later, 16, 32)` gives it for the
# second run. It need not be larger: the two texts are not equally hard. But it is the number to report.
#
# ### A million parameters
#
# The next cell has the whole thing: the budget of a million from Exercise 2, the whole play, nine tenths of it to
# train on. It runs only if you set `whole_play = True`. Without that it takes three steps, and tells you how long the
# run would take on your machine. It can be interrupted and run again as often as you like.

# %%
whole_play = False

tokenizer, (training, validation) = prepare(data.tiny_shakespeare())
shape = fit_config(1_000_000, tokenizer.vocab_size, context=128)
config = TrainConfig(2500, 32, 128, lr=3e-3, min_lr=3e-4, warmup=100, bf16=True, save_every=100)
print(f"{parameter_count(shape):,} parameters, {config.steps * 32 * 128 / 1e6:.1f} million tokens")
if whole_play:
    os.makedirs("whole_play", exist_ok=True)
    model = GPT(shape)
    rows = run(model, training, validation, config, "whole_play", write)
    print(learning_report(rows, tokenizer, validation))
    print(sample(model, tokenizer, "ROMEO:", 500, temperature=0.8)[0])
else:
    with tempfile.TemporaryDirectory() as folder:
        seconds = []
        for until in (1, 3):
            begun = time.perf_counter()
            train(GPT(shape), training, config, path=os.path.join(folder, "trial.pt"), until=until)
            seconds.append(time.perf_counter() - begun)
    per_step = seconds[1] / 2
    print(f"{per_step:.2f} s for each step with {torch.get_num_threads()} thread(s): ", end="")
    print(f"about {config.steps * per_step / 60:.0f} minutes of training")

# %% [markdown]
# ## Common mistakes
#
# - **Shuffling before cutting.** Pieces of one text overlap, or quote each other. Cut first, in order; shuffle within the
#   training part as much as you like.
# - **Merges learned from everything.** The tokenizer has seen which letters of the validation text go together, and its
#   tokens are cut to fit. The loss is a little too low, and nobody ever finds out why.
# - **The best model by reference.** `best = model.state_dict()` is a set of names for tensors that the next step
#   changes. At the end "the best" is the last.
# - **The last model.** The curve in the report shows 1.58, and the file that is handed on has 1.66.
# - **Two kinds of loss in one figure.** A training loss with dropout beside a validation loss without it: the gap is too
#   small, or even negative.
# - **Nats as bits, tokens as characters.** A factor of 1.44, and one of the length of a token. Both make numbers that look
#   like those of somebody else.
# - **Choosing and reporting by the same text.** The best of twenty numbers with noise in them is too good. The more epochs,
#   learning rates and seeds you choose from, the more.
# - **Samples at another temperature.** A sample at 0.5 reads better than the model is. To compare statistics, draw at 1.
# - **A distance without a floor.** Every short text is far from a long one.
# - **Dropout while sampling.** The text is worse than the model, and the model is left in the wrong mode on top.
#
# ## Going further
#
# - **How much of the best is luck?** Train the same model with ten seeds. By how much do the best validation losses differ,
#   and how much lower is the lowest of ten than their mean? (Jesse Dodge, Suchin Gururangan, Dallas Card, Roy Schwartz,
#   Noah Smith, Show Your Work: Improved Reporting of Experimental Results, 2019.)
# - **Bytes or merges?** Call `prepare` with `vocab_size=512` and give both models the same budget. Compare bits per
#   character, and the time. Which of the two reads more text in the same number of steps?
# - **How often may a text be read again?** Train on a half, a quarter and an eighth of the play for the same number of steps,
#   and note the best epoch of each. (Niklas Muennighoff and others, Scaling Data-Constrained Language Models, 2023.)
# - **Where the floor comes from.** The distance of a piece from its own source falls with the length of the piece. Plot it
#   on two logarithmic axes. Which power of the length is it, and why?
