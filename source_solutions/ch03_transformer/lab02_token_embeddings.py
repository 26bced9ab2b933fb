# ---
# title: Tokens and embeddings
# lab: ch03/lab02
# minutes: 105
# difficulty: 3
# hardware: cpu
# needs: []
# builds: [CharTokenizer, count_pairs, merge_pair, train_bpe, BPETokenizer, pad_batch, embed, embed_one_hot, embedding_gradient, TiedEmbedding]
# ---

# %% [markdown]
# # Lab 3.2 · Tokens and embeddings
#
# ## The idea
#
# A transformer reads vectors, and text is no vector. Two things stand between them: a *tokenizer* cuts the text into
# pieces from a fixed list and gives each piece a number; a *table* holds one vector for every number. At the far end
# the same table turns vectors into scores for the next piece.
#
# What is a good piece? Single characters make a short list and long sequences, and the cost of attention grows with
# the square of the length. Whole words make short sequences and a list without end: many entries are seen once, and a
# word that is not on the list cannot be written at all. Byte-pair encoding takes the middle. It starts with the 256 bytes, out of
# which every text is made, and glues together the two neighbours that stand side by side most often. Then again, and
# again.
#
# Take the text `ten tent net tenet tent`, and keep words apart, each with the space before it: a merge never
# crosses from one into the next. The pair `t`+`e` occurs 4 times, and so does `e`+`n`. A tie goes to the pair with the
# smaller numbers. The byte of `e` is 101, that of `t` is 116, so the first new token is `en`. Now `t`+`en` occurs 4 times: `ten`. Then the space and `ten`, 3 times: `␣ten`. Then `e`+`t`, twice;
# then `␣ten`+`t`, twice. Here it stops, for every pair that is left occurs once. Of 23 bytes 8 tokens remain: `ten`,
# `␣tent`, then `␣`, `n` and `et`, then `␣ten` and `et`, and `␣tent`. The word `tenet` has no token of its own, and
# needs none: it is written with two that it shares with other words.
#
# You build this tokenizer, every step of it, and compare it with the library that real models use. Then comes the
# table: a lookup that is secretly a matrix product, with a gradient that is easy to get wrong.
#
# Why bytes, what tokens cost, and how much of a model is table, is on the page [Embeddings and
# vocabulary](../../book/ch03_transformer/embeddings_and_vocabulary.md).
#
# ## Shapes
#
# | name | shape | meaning |
# |---|---|---|
# | `ids` | list of `int` | one text as token numbers, `0 <= id < V` |
# | `merges` | list of pairs | the pair at place r is glued into token `256 + r`; `V = 256 + len(merges)` |
# | `ids` in a batch | `(B, T)` int64 | B texts, padded to the length T of the longest |
# | `mask` | `(B, T)` bool | True where a token is real, False at padding |
# | `table`, `token_embedding` | `(V, d_model)` | one row for each token |
# | `position_embedding` | `(context, d_model)` | one row for each place |
# | `x` | `(B, T, d_model)` | what the first block of the transformer reads |
# | `logits` | `(B, T, V)` | a score for every token of the vocabulary |

# %% given
import re
from collections import Counter
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

# A word takes the one space before it along. The alternatives cover every character there is, so no text is lost.
_WORD = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")


def split_words(text: str) -> list[str]:
    """Given: the words of a text, in order; joined together they are the text. Merges stay within a word."""
    return _WORD.findall(text)


# %% [markdown]
# ## A picture
#
# Why not one token for each word? Below are the words of a real text, the reference of the Python language, which
# lies on every machine that has Python. They are sorted by how often they occur. Hover to see which word stands where.

# %%
from collections import Counter
from pydoc_data.topics import topics

import plotly.graph_objects as go

from coursekit import plots

reference_text = "\n".join(topics[name] for name in sorted(topics))
counts = Counter(re.findall(r"[^\W\d_]+", reference_text.lower()))
ranked = counts.most_common()
once = sum(count == 1 for _, count in ranked)
few = sum(count <= 5 for _, count in ranked)
shown = sorted({min(int(1.07**step), len(ranked)) for step in range(200)})
figure = go.Figure(
    go.Scatter(
        x=shown,
        y=[ranked[rank - 1][1] for rank in shown],
        text=[ranked[rank - 1][0] for rank in shown],
        mode="lines+markers",
        marker_color=plots.COLOURS[0],
        hovertemplate="rank %{x}: <b>%{text}</b><br>%{y} times<extra></extra>",
    )
)
figure.update_xaxes(type="log", dtick=1, title_text="rank of the word")
figure.update_yaxes(type="log", dtick=1, title_text="how often it occurs")
figure.update_layout(height=360)
figure.show()
print(f"{sum(counts.values()):,} words, {len(ranked):,} different ones")
print(f"{once / len(ranked):.0%} of them occur once, {few / len(ranked):.0%} at most five times")
print(f"the 100 most frequent make {sum(count for _, count in ranked[:100]) / sum(counts.values()):.0%} of the text")

# %% [markdown]
# A few words do most of the work, and the tail is long. A row of the table learns only when its word occurs. The row
# of a word that occurs once gets one gradient in each pass over the text, and a word of tomorrow's text that is not among these
# has no row.
#
# ## Exercise 1 · `CharTokenizer`
#
# Begin at the simple end: one token for every character. It is also the tokenizer of the small models in Chapter 4.
# The text `hello world` has 8 different characters. Sorted, they are the space, `d`, `e`, `h`, `l`, `o`, `r`, `w`, so
# `hello` becomes `[3, 2, 4, 4, 5]`.
#
# *Difficulty 1 of 5 · 10 minutes · 2 points*


# %% exercise="CharTokenizer" difficulty=1 minutes=10
class CharTokenizer:
    """One token for each distinct character of a text.

    Args:
        text: its distinct characters are the vocabulary. They are numbered from 0 in the order of their code points,
            which is how `sorted` orders them. Characters are taken as they are: no lower case, no normalisation.

    Attributes:
        vocab_size: how many different characters there are.
    """

    def __init__(self, text: str):
        ### BEGIN SOLUTION
        self.characters = sorted(set(text))
        self.numbers = {character: number for number, character in enumerate(self.characters)}
        self.vocab_size = len(self.characters)
        ### END SOLUTION

    def encode(self, text: str) -> list[int]:
        """The id of every character, in order.

        Raises:
            ValueError: for a character that the vocabulary lacks; the message shows the character.
        """
        ### BEGIN SOLUTION
        for character in text:
            if character not in self.numbers:
                raise ValueError(f"the character {character!r} is not in the vocabulary")
        return [self.numbers[character] for character in text]
        ### END SOLUTION

    def decode(self, ids: list[int]) -> str:
        """The text of a list of ids: the inverse of `encode`.

        Raises:
            ValueError: for an id that is not in 0 .. vocab_size - 1.
        """
        ### BEGIN SOLUTION
        for number in ids:
            if number < 0 or number >= self.vocab_size:
                raise ValueError(f"ids are 0..{self.vocab_size - 1}, got {number}")
        return "".join(self.characters[number] for number in ids)
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Two lookups: from a character to its number, and back. A dict does the one, a list the other.</details>
# <details><summary>A bigger nudge</summary>A list answers a negative index from its end, without a word. So <code>decode</code> has to look at the ids
# before it uses them.</details>

# %% test="CharTokenizer" points=2
from coursekit import check

tokenizer = CharTokenizer("hello world")
check.equal(tokenizer.vocab_size, 8, "the number of different characters in 'hello world'")
check.equal(list(tokenizer.encode("hello")), [3, 2, 4, 4, 5], "the ids of 'hello'")
check.equal(tokenizer.decode([7, 5, 6, 1]), "word", "ids 7, 5, 6, 1, decoded")
check.raises(ValueError, lambda: tokenizer.encode("hello there"), "there is no 't' in 'hello world'")
check.raises(ValueError, lambda: tokenizer.decode([3, 8]), "there is no id 8 among 8 characters")
### BEGIN HIDDEN TESTS
import random

import numpy as np

alphabets = {
    "letters of both cases": "abcdefgABCDEFG",
    "white space and control characters": " \n\t\r\x00\u00a0\u2028.",
    "accents, alone and combined": "eé\u0301Eßǆ",
    "other scripts and emoji": "Жק中あ👋🏽\u200d🌍",
}
for number, (name, alphabet) in enumerate(alphabets.items()):
    dice = random.Random(check.seed(number))
    text = "".join(dice.choice(alphabet) for _ in range(63)) + alphabet
    points = np.array([ord(character) for character in text])
    known = np.unique(points)
    tokenizer = CharTokenizer(text)
    check.equal(tokenizer.vocab_size, len(known), f"{name}: the size of the vocabulary")
    check.equal(
        list(tokenizer.encode(text)),
        np.searchsorted(known, points).tolist(),
        f"{name}: ids in the order of code points",
    )
    check.equal(tokenizer.decode(list(range(len(known)))), "".join(map(chr, known)), f"{name}: every id, decoded")
    check.equal(tokenizer.decode(tokenizer.encode(text[::-1])), text[::-1], f"{name}: there and back again")
    check.raises(ValueError, lambda tokenizer=tokenizer: tokenizer.encode("☃"), "an unknown character", match="☃")
    for bad in (-1, len(known), len(known) + 7):
        check.raises(
            ValueError,
            lambda tokenizer=tokenizer, bad=bad: tokenizer.decode([0, bad]),
            f"id {bad} of {len(known)} is refused",
        )
tokenizer = CharTokenizer("zyx")
check.equal([list(tokenizer.encode("")), tokenizer.decode([])], [[], ""], "no characters, no ids")
check.equal(CharTokenizer("").vocab_size, 0, "an empty text has no characters")
### END HIDDEN TESTS


# %% alternative="CharTokenizer"
class CharTokenizer:
    def __init__(self, text):
        self.alphabet = "".join(sorted(dict.fromkeys(text)))
        print("characters:", len(self.alphabet))

    @property
    def vocab_size(self):
        return len(self.alphabet)

    def encode(self, text):
        found = [self.alphabet.find(character) for character in text]
        if -1 in found:
            raise ValueError(f"unknown: {text[found.index(-1)]}")
        return found

    def decode(self, ids):
        letters = dict(enumerate(self.alphabet))
        try:
            return "".join(letters[number] for number in ids)
        except KeyError as error:
            raise ValueError(f"no such id: {error}") from None


# %% mistakes="CharTokenizer"
{
    "the ids follow the order of first appearance, and not that of the code points": (
        "sorted(set(text))",
        "list(dict.fromkeys(text))",
    ),
    "the most frequent character comes first": (
        "sorted(set(text))",
        "sorted(set(text), key=lambda character: (-text.count(character), character))",
    ),
    "the ids count from 1": [
        ("enumerate(self.characters)", "enumerate(self.characters, 1)"),
        ("self.characters[number] for", "self.characters[number - 1] for"),
    ],
    "upper and lower case share a token": [
        ("sorted(set(text))", "sorted(set(text.lower()))"),
        ("for character in text:\n", "for character in text.lower():\n"),
        ("[self.numbers[character] for character in text]", "[self.numbers[character] for character in text.lower()]"),
    ],
    "the white space is left out": [
        ("sorted(set(text))", 'sorted(set("".join(text.split())))'),
        ("for character in text:\n", 'for character in "".join(text.split()):\n'),
        (
            "[self.numbers[character] for character in text]",
            '[self.numbers[character] for character in "".join(text.split())]',
        ),
    ],
    "vocab_size counts all characters of the text, not the different ones": (
        "self.vocab_size = len(self.characters)",
        "self.vocab_size = len(text)",
    ),
    "an unknown character is left out without an error": (
        '                raise ValueError(f"the character {character!r} is not in the vocabulary")\n'
        "        return [self.numbers[character] for character in text]",
        "                pass\n"
        "        return [self.numbers[character] for character in text if character in self.numbers]",
    ),
    "an unknown character gets the id 0, and decodes to another character": (
        '                raise ValueError(f"the character {character!r} is not in the vocabulary")\n'
        "        return [self.numbers[character] for character in text]",
        "                pass\n        return [self.numbers.get(character, 0) for character in text]",
    ),
    "an unknown character raises a KeyError": (
        'raise ValueError(f"the character {character!r}',
        'raise KeyError(f"the character {character!r}',
    ),
    "a negative id counts from the end of the vocabulary": (
        "if number < 0 or number >= self.vocab_size:",
        "if number >= self.vocab_size:",
    ),
    "an id outside the vocabulary is left out without an error": (
        '                raise ValueError(f"ids are 0..{self.vocab_size - 1}, got {number}")\n'
        '        return "".join(self.characters[number] for number in ids)',
        "                pass\n"
        '        return "".join(self.characters[number] for number in ids if 0 <= number < self.vocab_size)',
    ),
    "decode puts spaces between the characters": ('return "".join(', 'return " ".join('),
}

# %% [markdown]
# ## Exercise 2 · `train_bpe`
#
# Now the merges. Write three functions. `count_pairs` counts neighbours, `merge_pair` glues one pair in one word, and
# `train_bpe` takes turns with the two. A text holds the same words again and again, so keep each different word once, together
# with how often it occurs: that is what makes this fast enough.
#
# One case deserves thought. In `aaa` the pair `a`+`a` stands at two places, and they overlap. It *counts* twice, and
# it can be *merged* once: the left one wins, and `aaa` becomes `aa`+`a`.
#
# *Difficulty 3 of 5 · 25 minutes · 5 points*


# %% exercise="train_bpe" difficulty=3 minutes=25 forbid=["Tokenizer", "AutoTokenizer", "get_encoding"]
def count_pairs(words: dict[tuple[int, ...], int]) -> dict[tuple[int, int], int]:
    """How often each two ids stand side by side.

    Args:
        words: word -> how often it occurs. A word is a tuple of ids and may be empty.

    Returns:
        Pair (left, right) -> at how many places it stands, over all words, each word as often as it occurs. Places that
        overlap all count: (7, 7, 7) holds the pair (7, 7) at two places. A pair that does not occur has no entry.
    """
    ### BEGIN SOLUTION
    counts: dict[tuple[int, int], int] = {}
    for word, times in words.items():
        for pair in pairwise(word):
            counts[pair] = counts.get(pair, 0) + times
    return counts
    ### END SOLUTION


def merge_pair(ids: list[int], pair: tuple[int, int], new_id: int) -> list[int]:
    """One word with every occurrence of a pair replaced by a new id.

    Args:
        ids: the word, a list or a tuple of ids; it may be empty.
        pair: (left, right), the two ids that are glued together.
        new_id: what stands for them; it is neither of the two, and not in ids.

    Returns:
        A new list; the word itself is left as it is. Where occurrences overlap the leftmost is taken: (7, 7, 7) becomes [new_id, 7].
    """
    ### BEGIN SOLUTION
    merged: list[int] = []
    for number in ids:
        if merged and (merged[-1], number) == pair:
            merged[-1] = new_id
        else:
            merged.append(number)
    return merged
    ### END SOLUTION


def train_bpe(text: str, vocab_size: int) -> list[tuple[int, int]]:
    """Learn the merges of a byte-level BPE tokenizer.

    The text is cut with `split_words`. Each word becomes the bytes of its UTF-8 form, and byte b has the id b. Then, again
    and again, the pair with the highest count (see `count_pairs`) is merged in all words. The first merge makes the id
    256, the next 257, and so on.

    Where several pairs have the highest count, the smallest pair is taken: the one with the smaller left id, and among
    those the one with the smaller right id. (The `tokenizers` library does the same with its own numbers.)

    Args:
        text: any text that UTF-8 can encode; it may be empty.
        vocab_size: how many ids there are in the end, the 256 bytes among them.

    Returns:
        The pairs of ids in the order in which they were merged, vocab_size - 256 of them; fewer if at some point no pair
        has a count of at least 2.

    Raises:
        ValueError: if vocab_size is less than 256.

    Source: Sennrich, Haddow and Birch, Neural Machine Translation of Rare Words with Subword Units, 2016, section 3.2;
    on bytes: Radford et al., Language Models are Unsupervised Multitask Learners, 2019, section 2.2.
    """
    ### BEGIN SOLUTION
    if vocab_size < 256:
        raise ValueError(f"vocab_size must be at least 256, one id for each byte; got {vocab_size}")
    words: dict[tuple[int, ...], int] = {}
    for word in split_words(text):
        ids = tuple(word.encode("utf-8"))
        words[ids] = words.get(ids, 0) + 1
    merges: list[tuple[int, int]] = []
    for new_id in range(256, vocab_size):
        counts = count_pairs(words)
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        # Two different words never become equal: each still spells the same bytes.
        words = {tuple(merge_pair(word, best, new_id)): times for word, times in words.items()}
        merges.append(best)
    return merges
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>For <code>merge_pair</code>, build the result from the left, one id at a time. For <code>train_bpe</code>, do the
# example of "The idea" on paper first, and write down after each merge what the words look like.</details>
# <details><summary>A bigger nudge</summary>When the next id arrives, look at the last one of the result: do the two make the pair? Then the last one is
# replaced. For the tie, sort by two things at once: a tuple whose first entry is the negative count and whose second is the pair. Count anew after
# every merge; the text has changed.</details>

# %% test="train_bpe" points=2
from coursekit import check

words = {(1, 2, 3): 5, (1, 2): 2, (7, 7, 7): 1}
check.equal(
    dict(count_pairs(words)),
    {(1, 2): 7, (2, 3): 5, (7, 7): 2},
    "the pairs in (1, 2, 3), which occurs five times, in (1, 2), twice, and in (7, 7, 7), once",
)
check.equal(list(merge_pair([1, 2, 3, 1, 2, 1], (1, 2), 256)), [256, 3, 256, 1], "1, 2, 3, 1, 2, 1 with 1+2 glued")
check.equal(list(merge_pair([7, 7, 7], (7, 7), 256)), [256, 7], "7, 7, 7 with 7+7 glued: the left pair is taken")
check.equal(list(merge_pair([2, 1, 2], (1, 2), 256)), [2, 256], "the pair 1+2 is not the pair 2+1")
### BEGIN HIDDEN TESTS
import random
from itertools import pairwise

import torch

check.equal(dict(count_pairs({})), {}, "no words, no pairs")
check.equal(dict(count_pairs({(): 3, (5,): 4, (5, 6): 1})), {(5, 6): 1}, "words of no and of one id hold no pair")
check.equal(dict(count_pairs({(300, 5, 300, 5): 3})), {(300, 5): 6, (5, 300): 3}, "ids of 256 and more, in both orders")
for word, want in (((), []), ((1,), [1]), ((2,), [2]), ((1, 2), [256]), ((2, 1), [2, 1]), ((1, 1, 2, 2), [1, 256, 2])):
    check.equal(list(merge_pair(list(word), (1, 2), 256)), want, f"{word} with 1+2 glued")
check.equal(list(merge_pair((7,) * 6, (7, 7), 9)), [9, 9, 9], "six sevens, given as a tuple, with 7+7 glued into 9")
for case in range(12):
    dice = random.Random(check.seed(case))
    drawn = [tuple(dice.randrange(3) for _ in range(dice.randrange(1, 20))) for _ in range(6)]
    times = {word: dice.randrange(1, 9) for word in drawn}
    pairs = torch.tensor([pair for word in times for pair in pairwise(word) for _ in range(times[word])])
    if len(pairs):
        found, many = pairs.unique(dim=0, return_counts=True)
        want = {tuple(pair): count for pair, count in zip(found.tolist(), many.tolist(), strict=True)}
        check.equal(dict(count_pairs(times)), want, f"the pairs of six words over the ids 0, 1 and 2 (draw {case})")
    # Of a text of letters, `replace` does the same as merging.
    for left, right in ((0, 0), (0, 1), (2, 1)):
        for word in times:
            spelt = "".join("abc"[number] for number in word).replace("abc"[left] + "abc"[right], "X")
            want = [{"a": 0, "b": 1, "c": 2, "X": 999}[letter] for letter in spelt]
            check.equal(list(merge_pair(list(word), (left, right), 999)), want, f"{word} with {left}+{right} glued")
### END HIDDEN TESTS

# %% test="train_bpe" points=3
from coursekit import check

lines = "czz\nadd\nebb\ndaa\n" * 3
check.equal(
    [tuple(pair) for pair in train_bpe(lines, 258)],
    [(97, 97), (97, 100)],
    "two merges of the words czz, add, ebb and daa, three times each: in a tie the smallest pair goes first",
)
text = "ten tent net tenet tent"
example = [(101, 110), (116, 256), (32, 257), (101, 116), (258, 116)]
check.equal([tuple(pair) for pair in train_bpe(text, 258)], example[:2], f"the first two merges of {text!r}")
check.equal(
    [tuple(pair) for pair in train_bpe(text, 300)],
    example,
    f"all merges of {text!r}: after five of them, every pair occurs once",
)
check.equal(list(train_bpe(text, 256)), [], "a vocabulary of 256: the bytes, and no merge")
check.raises(ValueError, lambda: train_bpe(text, 255), "a vocabulary of 255 has no room for the bytes")
### BEGIN HIDDEN TESTS
import json
import os
import random

os.environ["TOKENIZERS_PARALLELISM"] = "false"
from tokenizers import Tokenizer, models, trainers


def library_merges(text, vocab_size):
    # The library merges characters. Byte b is written as character 256 + b, so its numbers are the bytes.
    spelt = ["".join(chr(256 + byte) for byte in word.encode()) for word in split_words(text)]
    tokenizer = Tokenizer(models.BPE())
    alphabet = [chr(256 + byte) for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, initial_alphabet=alphabet, special_tokens=[], show_progress=False
    )
    tokenizer.train_from_iterator(spelt, trainer)
    numbers = tokenizer.get_vocab()
    pairs = [p if isinstance(p, list) else p.split(" ") for p in json.loads(tokenizer.to_str())["model"]["merges"]]
    return [(numbers[left], numbers[right]) for left, right in pairs]


texts = {
    "runs of one letter": "aaa aaaa aaaaa aaaaaaa aa aaaaaaaaaaa aaa",
    "the same two words in another order": "ba ab ab ba ba ab",
    "accents, other scripts and emoji": "Füße größer, Größe süß; 中文 中文字 文字 👋👋🏽 👋 naïve naïf " * 2,
    "white space of many kinds": "if x:\n    return x\n\n\nif y:\n    return  y\t\t\n" * 2,
    "words that occur once": "every one of these differs",
    "no text": "",
}
for number in range(3):
    dice = random.Random(check.seed(20 + number))
    letters = ("ab", "abc ", "aé中 ")[number]
    texts[f"drawn from {letters!r}"] = "".join(dice.choice(letters) for _ in range(150))
for name, text in texts.items():
    for vocab_size in (257, 263, 400):
        want = library_merges(text, vocab_size)
        found = [tuple(pair) for pair in train_bpe(text, vocab_size)]
        check.equal(found, want, f"{name}, vocab_size={vocab_size}: the merges equal those of the tokenizers library")
check.equal(len(train_bpe("low lower lowest " * 9, 259)), 3, "vocab_size=259 makes three merges")
for vocab_size in (0, -1, 100):
    check.raises(ValueError, lambda vocab_size=vocab_size: train_bpe("", vocab_size), f"vocab_size={vocab_size}")
### END HIDDEN TESTS


# %% alternative="train_bpe"
def count_pairs(words):
    from collections import Counter

    counts = Counter()
    for word, times in words.items():
        for place in range(len(word) - 1):
            counts[tuple(word[place : place + 2])] += times
    return counts


def merge_pair(ids, pair, new_id):
    result, place = [], 0
    while place < len(ids):
        if place + 1 < len(ids) and ids[place] == pair[0] and ids[place + 1] == pair[1]:
            result.append(new_id)
            place += 2
        else:
            result.append(ids[place])
            place += 1
    return result


def train_bpe(text, vocab_size):
    # Every word of the text on its own, equal or not, and the bookkeeping of a beginner.
    if vocab_size < 256:
        raise ValueError("too small")
    words = [list(word.encode()) for word in split_words(text)]
    merges = []
    print("training")
    while 256 + len(merges) < vocab_size:
        counts = {}
        for word in words:
            for left, right in pairwise(word):
                counts[left, right] = counts.get((left, right), 0) + 1
        highest = max(counts.values(), default=0)
        if highest <= 1:
            return merges
        merges.append(sorted(pair for pair, count in counts.items() if count == highest)[0])
        words = [merge_pair(word, merges[-1], 255 + len(merges)) for word in words]
    return merges


# %% mistakes="train_bpe"
{
    "a tie goes to the pair that was met first, and not to the smallest": (
        "key=lambda pair: (-counts[pair], pair)",
        "key=lambda pair: -counts[pair]",
    ),
    "a tie goes to the largest pair": (
        "min(counts, key=lambda pair: (-counts[pair], pair), default=None)",
        "max(counts, key=lambda pair: (counts[pair], pair), default=None)",
    ),
    "a tie is decided by the right id, and by the left only after that": (
        "(-counts[pair], pair)",
        "(-counts[pair], pair[1], pair[0])",
    ),
    "the text is not cut into words, so merges cross from one word into the next": (
        "split_words(text)",
        "([text] if text else [])",
    ),
    "the words are cut at white space and lose it": ("split_words(text)", "text.split()"),
    "overlapping places count once, so (7, 7, 7) holds one pair (7, 7)": (
        "        for pair in pairwise(word):\n",
        "        taken = -1\n"
        "        for place, pair in enumerate(pairwise(word)):\n"
        "            if pair[0] == pair[1] and taken == place - 1 and place and word[place - 1] == pair[0]:\n"
        "                continue\n"
        "            taken = place\n",
    ),
    "each different word counts once, however often it occurs": (
        "counts.get(pair, 0) + times",
        "counts.get(pair, 0) + 1",
    ),
    "the count of a pair is that of the last word that holds it": (
        "counts[pair] = counts.get(pair, 0) + times",
        "counts[pair] = times",
    ),
    "the order within a pair is ignored, so 1+2 and 2+1 are counted together": (
        "counts[pair] = counts.get(pair, 0) + times",
        "pair = (min(pair), max(pair)); counts[pair] = counts.get(pair, 0) + times",
    ),
    "merge_pair counts an id twice where occurrences overlap: 7, 7, 7 becomes two new ids": (
        "    for number in ids:\n"
        "        if merged and (merged[-1], number) == pair:\n"
        "            merged[-1] = new_id\n"
        "        else:\n"
        "            merged.append(number)\n"
        "    return merged",
        "    ids, skip = list(ids), False\n"
        "    for place, number in enumerate(ids):\n"
        "        if tuple(ids[place : place + 2]) == pair:\n"
        "            merged.append(new_id)\n"
        "            skip = True\n"
        "        elif not skip:\n"
        "            merged.append(number)\n"
        "        else:\n"
        "            skip = False\n"
        "    return merged",
    ),
    "merge_pair works from the right, so 7, 7, 7 becomes 7 and the new id": (
        "    for number in ids:\n"
        "        if merged and (merged[-1], number) == pair:\n"
        "            merged[-1] = new_id\n"
        "        else:\n"
        "            merged.append(number)\n"
        "    return merged",
        "    for number in reversed(list(ids)):\n"
        "        if merged and (number, merged[-1]) == pair:\n"
        "            merged[-1] = new_id\n"
        "        else:\n"
        "            merged.append(number)\n"
        "    return merged[::-1]",
    ),
    "merge_pair replaces the first occurrence only": (
        "if merged and (merged[-1], number) == pair:",
        "if merged and new_id not in merged and (merged[-1], number) == pair:",
    ),
    "merge_pair glues the pair in either order": (
        "(merged[-1], number) == pair:",
        "(merged[-1], number) in (pair, pair[::-1]):",
    ),
    "merge_pair loses the last id when it is not part of a pair": (
        "    return merged\n",
        "    return merged if merged and merged[-1] == new_id else merged[:-1]\n",
    ),
    "characters are counted and not the bytes of UTF-8": (
        'tuple(word.encode("utf-8"))',
        "tuple(map(ord, word))",
    ),
    "the new ids begin at 257": ("merge_pair(word, best, new_id)", "merge_pair(word, best, new_id + 1)"),
    "vocab_size is taken for the number of merges": ("range(256, vocab_size)", "range(256, 256 + vocab_size)"),
    "one merge is missing: the last id is left unused": ("range(256, vocab_size)", "range(257, vocab_size)"),
    "pairs that occur once are merged too": ("counts[best] < 2", "counts[best] < 1"),
    "a pair has to occur three times": ("counts[best] < 2", "counts[best] < 3"),
    "the rarest pair is merged, and not the most frequent": ("(-counts[pair], pair)", "(counts[pair], pair)"),
    "the pairs are counted once, at the start, and not after every merge": [
        (
            "    for new_id in range(256, vocab_size):\n        counts = count_pairs(words)\n",
            "    counts = count_pairs(words)\n    for new_id in range(256, vocab_size):\n",
        ),
        ("        merges.append(best)", "        merges.append(best)\n        del counts[best]"),
    ],
    "a vocabulary of less than 256 is accepted": ("if vocab_size < 256:", "if vocab_size < 0:"),
}

# %% [markdown]
# ## Exercise 3 · `BPETokenizer`
#
# The merges are all that a tokenizer has to remember. To encode a word, replay history: apply the merge that was
# learned *first*, wherever it fits, then the next one that fits, until none does. Not the first pair from the left,
# and not the longest token that fits. Take the merges `b`+`c`, then `a`+`b`. The word `abc` becomes `a`+`bc`, because
# `bc` is older; whoever goes from left to right gets `ab`+`c`. Both spell the same text. But a model that was trained on the one
# has hardly ever seen the other.
#
# Decoding is easier: each token stands for some bytes. Join the bytes first and read them as text afterwards, for a token may end in
# the middle of a character.
#
# *Difficulty 3 of 5 · 20 minutes · 4 points*


# %% exercise="BPETokenizer" difficulty=3 minutes=20 forbid=["Tokenizer", "AutoTokenizer", "get_encoding"]
class BPETokenizer:
    """Text to ids and back, by the merges that `train_bpe` has learned.

    Args:
        merges: pairs of ids. The pair at place r makes the id 256 + r; each of its two ids is smaller than that.

    Attributes:
        vocab_size: how many ids there are: the 256 bytes, and one for each merge.
    """

    def __init__(self, merges: list[tuple[int, int]]):
        ### BEGIN SOLUTION
        self.ranks = {(left, right): rank for rank, (left, right) in enumerate(merges)}
        self.spelling = [bytes([byte]) for byte in range(256)]
        for left, right in merges:
            self.spelling.append(self.spelling[left] + self.spelling[right])
        self.vocab_size = len(self.spelling)
        ### END SOLUTION

    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        The text is cut with `split_words`, and each word is encoded on its own. It starts as its UTF-8 bytes. Of all the
        pairs of neighbours in it that are merges, the one that was learned first is merged, wherever it stands (see
        `merge_pair`); then again, until no two neighbours are a merge.

        Args:
            text: any text that UTF-8 can encode, seen in training or not; it may be empty.
        """
        ### BEGIN SOLUTION
        ids: list[int] = []
        never = len(self.ranks)
        for word in split_words(text):
            pieces = list(word.encode("utf-8"))
            for _ in pieces[1:]:  # so often at most: each merge leaves at least one piece fewer
                pairs = pairwise(pieces)
                oldest = min(pairs, key=lambda pair: self.ranks.get(pair, never), default=None)
                if oldest not in self.ranks:
                    break
                pieces = merge_pair(pieces, oldest, 256 + self.ranks[oldest])
            ids.extend(pieces)
        return ids
        ### END SOLUTION

    def decode(self, ids: list[int]) -> str:
        """The text of a list of ids; what `encode` gives decodes to the very same text.

        The bytes of all tokens are joined and then read as UTF-8. Where they are no valid UTF-8, as in a list that ends
        within a character, the character U+FFFD stands in, as Python's ``errors="replace"`` puts it.

        Raises:
            ValueError: for an id that is not in 0 .. vocab_size - 1.
        """
        ### BEGIN SOLUTION
        for number in ids:
            if number < 0 or number >= self.vocab_size:
                raise ValueError(f"ids are 0..{self.vocab_size - 1}, got {number}")
        return b"".join(self.spelling[number] for number in ids).decode("utf-8", errors="replace")
        ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>Prepare two lookups when the tokenizer is made: from a pair to its rank, and from an id to its bytes. The bytes of a merged
# token are those of its two parts, and both parts have been there before.</details>
# <details><summary>A bigger nudge</summary>Among the pairs of neighbours, find the one of the lowest rank; a pair that is no merge ranks behind all others. Then
# <code>merge_pair</code> does the rest. Or turn it round: go through the merges in order, and apply each to the whole word. Why does that give the same?</details>

# %% test="BPETokenizer" points=2
from coursekit import check

tokenizer = BPETokenizer([(101, 110), (116, 256), (32, 257), (101, 116), (258, 116)])
check.equal(tokenizer.vocab_size, 261, "256 bytes and five merges")
check.equal(
    list(tokenizer.encode("ten tent net tenet tent")),
    [257, 260, 32, 110, 259, 258, 259, 260],
    "the text of the example, with the merges that were learned from it",
)
by_rank = BPETokenizer([(98, 99), (97, 98), (257, 99), (112, 113), (113, 114), (112, 260), (120, 121), (121, 122)])
check.equal(
    list(by_rank.encode("abc pqr xyz")),
    [97, 256, 32, 259, 114, 32, 262, 122],
    "'abc pqr xyz' with the merges bc, ab, ab+c, pq, qr, p+qr, xy, yz in this order: the oldest goes first",
)
check.equal(list(BPETokenizer([(97, 97)]).encode("aaaaa")), [256, 256, 97], "'aaaaa' with the merge aa")
check.equal(list(BPETokenizer([(97, 98)]).encode("abba")), [256, 98, 97], "'abba' with the merge ab: 'ba' is no 'ab'")
check.equal(list(BPETokenizer([(97, 32)]).encode("a b")), [97, 32, 98], "'a b': the space belongs to the word 'b'")
check.equal(list(tokenizer.encode("")), [], "no text, no ids")
### BEGIN HIDDEN TESTS
import json
import os
import random

os.environ["TOKENIZERS_PARALLELISM"] = "false"
from tokenizers import Tokenizer, models, trainers


def spell(word):
    return "".join(chr(256 + byte) for byte in word.encode())


def library_tokenizer(text, vocab_size):
    # The library merges characters. Byte b is written as character 256 + b, so its numbers are the bytes.
    tokenizer = Tokenizer(models.BPE())
    alphabet = [chr(256 + byte) for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, initial_alphabet=alphabet, special_tokens=[], show_progress=False
    )
    tokenizer.train_from_iterator([spell(word) for word in split_words(text)], trainer)
    numbers = tokenizer.get_vocab()
    pairs = [p if isinstance(p, list) else p.split(" ") for p in json.loads(tokenizer.to_str())["model"]["merges"]]
    return tokenizer, [(numbers[left], numbers[right]) for left, right in pairs]


training = {
    "sentences": "the other weather bothers the others; together they gather there, then the three of them rather tether "
    "the tethered otter to the thither shore than bother the mother otter's brother. ",
    "runs of one letter": "aaaa aaaaa aaaaaaa aa aaaaaaaaaaa aaa",
    "other scripts": "größer süßer Größe Füße 中文字 文字 中文 👋👋🏽 👋 naïve ",
    "two letters": "abba baab abab bbaa aabb babba ",
}
for number, (name, text) in enumerate(training.items()):
    library, merges = library_tokenizer(text * 3, 330)
    tokenizer = BPETokenizer(merges)
    check.equal(tokenizer.vocab_size, 256 + len(merges), f"{name}: the size of the vocabulary")
    dice = random.Random(check.seed(40 + number))
    words = split_words(text)
    unseen = ["".join(dice.choice(text) for _ in range(40)), "".join(dice.choice(words) for _ in range(20))]
    fixed = ["bothered thitherto", "aaaaaaaaaaaaaa", "abaabbab babab", "Grüße, 中中文 ☃", "  x\n\n  the\tther ", "a b"]
    for other in [text, *fixed, *unseen]:
        want = [token for word in split_words(other) for token in library.encode(spell(word)).ids]
        check.equal(list(tokenizer.encode(other)), want, f"{name}: the ids of {other[:40]!r} equal the library's")
plain = BPETokenizer([])
check.equal(list(plain.encode("né\n")), [110, 195, 169, 10], "without merges the ids are the bytes of UTF-8")
### END HIDDEN TESTS

# %% test="BPETokenizer" points=2
from coursekit import check

tokenizer = BPETokenizer([(101, 110), (116, 256), (32, 257), (101, 116), (258, 116)])
for text in ("ten tent net tenet tent", "net  worth: €10\n", "enne, naïve 👋🏽", ""):
    check.equal(tokenizer.decode(tokenizer.encode(text)), text, f"{text!r}, there and back again")
doubles = BPETokenizer([(97, 97), (130, 172)])
check.equal(
    doubles.decode(doubles.encode("aaa € aa")), "aaa € aa", "'aaa € aa' with the merge aa, there and back again"
)
check.equal(doubles.decode([226, 257]), "€", "the three bytes of the euro sign in two tokens, the first of them 226")
check.equal(doubles.decode([97, 226]), "a\ufffd", "a list that ends within a character ends in U+FFFD")
check.raises(ValueError, lambda: tokenizer.decode([261]), "there is no id 261 among 261")
### BEGIN HIDDEN TESTS
import random

merges = [(101, 110), (116, 256), (32, 257), (195, 164), (101, 101), (240, 159), (228, 184), (260, 260), (262, 145)]
tokenizer = BPETokenizer(merges)
spelling = [bytes([byte]) for byte in range(256)]
for left, right in merges:
    spelling.append(spelling[left] + spelling[right])
for number, raw in enumerate(spelling):
    check.equal(tokenizer.decode([number]), raw.decode(errors="replace"), f"id {number} alone, bytes {raw!r}")
for text in ("e\u0301 é \u212b ﬁ", "a\r\nb\rc", " ten\u00a0", "TEN Ten", "'s 's've", "a_b__ 12½²٣", "\ufeffx\x00"):
    check.equal(tokenizer.decode(tokenizer.encode(text)), text, f"{text!r}, there and back again")
pools = ["ten ", "aeäö 中丑文👋", " \t\n\r\x00\x1f\u00a0\u2028\u3000", "e\u0301\u200d🏽👩", "'s've_--09٣½²"]
anything = [chr(point) for point in (0, 127, 128, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFD, 0xFFFF, 0x10000, 0x10FFFF)]
for number in range(150):
    dice = random.Random(check.seed(200 + number))
    letters = pools[number % 6] if number % 6 < 5 else "".join(anything)
    text = "".join(dice.choice(letters) for _ in range(number % 30))
    if number % 4 == 3:  # any code point that UTF-8 can encode
        text += "".join(chr(dice.choice((dice.randrange(0xD800), dice.randrange(0xE000, 0x110000)))) for _ in range(9))
    check.equal(tokenizer.decode(tokenizer.encode(text)), text, f"{text!r}, there and back again")
    ids = [dice.randrange(len(spelling)) for _ in range(number % 20)]
    want = b"".join(spelling[number] for number in ids).decode(errors="replace")
    check.equal(tokenizer.decode(ids), want, f"the ids {ids}, which may be no valid text")
for bad in (-1, -256, len(spelling), len(spelling) + 100):
    check.raises(ValueError, lambda bad=bad: tokenizer.decode([97, bad]), f"id {bad} is refused")
check.equal(tokenizer.decode([]), "", "no ids, no text")
### END HIDDEN TESTS


# %% alternative="BPETokenizer"
class BPETokenizer:
    # Each merge in turn over the whole word; a cache; the bytes of a token worked out again every time.
    def __init__(self, merges):
        self.merges = [tuple(pair) for pair in merges]
        self.vocab_size = len(self.merges) + 256
        self.known = {}

    def bytes_of(self, number):
        if number < 256:
            return [number]
        left, right = self.merges[number - 256]
        return self.bytes_of(left) + self.bytes_of(right)

    def encode(self, text):
        result = []
        for word in split_words(text):
            if word not in self.known:
                ids = [*word.encode()]
                for rank, pair in enumerate(self.merges):
                    ids = merge_pair(ids, pair, 256 + rank)
                self.known[word] = ids
            result += self.known[word]
        return result

    def decode(self, ids):
        raw = []
        for number in ids:
            if number not in range(self.vocab_size):
                raise ValueError(number)
            raw += self.bytes_of(number)
        return str(bytes(raw), "utf-8", "replace")


# %% mistakes="BPETokenizer"
{
    "the first pair from the left that is a merge goes first, and not the one that was learned first": (
        "key=lambda pair: self.ranks.get(pair, never)",
        "key=lambda pair: pair not in self.ranks",
    ),
    "the merge that was learned last goes first": (
        "key=lambda pair: self.ranks.get(pair, never)",
        "key=lambda pair: -self.ranks.get(pair, -1)",
    ),
    "from the left, the longest token that fits is taken, whatever the order of the merges": (
        "            for _ in pieces[1:]:  # so often at most: each merge leaves at least one piece fewer\n",
        "            raw, pieces = bytes(pieces), []\n"
        "            while raw:\n"
        "                size = max(len(token) for token in self.spelling if raw.startswith(token))\n"
        "                pieces.append(self.spelling.index(raw[:size]))\n"
        "                raw = raw[size:]\n"
        "            for _ in ():\n",
    ),
    "the text is not cut into words, so merges may cross from one word into the next": (
        "in split_words(text):",
        "in ([text] if text else []):",
    ),
    "the words are cut at white space and lose it": ("in split_words(text):", "in text.split():"),
    "only one merge is made in each word": (
        "pieces = merge_pair(pieces, oldest, 256 + self.ranks[oldest])",
        "pieces = merge_pair(pieces, oldest, 256 + self.ranks[oldest]); break",
    ),
    "the new ids begin at 257": (
        "merge_pair(pieces, oldest, 256 + self.ranks[oldest])",
        "merge_pair(pieces, oldest, 257 + self.ranks[oldest])",
    ),
    "the rank is used as the id, without the 256 bytes before it": (
        "merge_pair(pieces, oldest, 256 + self.ranks[oldest])",
        "merge_pair(pieces, oldest, self.ranks[oldest])",
    ),
    "characters are looked up and not the bytes of UTF-8": (
        'list(word.encode("utf-8"))',
        "list(map(ord, word))",
    ),
    "the text is normalised first, so an e with an accent of its own becomes one character": (
        "in split_words(text):",
        'in split_words(__import__("unicodedata").normalize("NFC", text)):',
    ),
    "the text is put into lower case first": ("in split_words(text):", "in split_words(text.lower()):"),
    "what is no ASCII is replaced by a question mark": (
        'word.encode("utf-8")',
        'word.encode("ascii", errors="replace")',
    ),
    "every token is read as text on its own, and a token may end within a character": (
        'return b"".join(self.spelling[number] for number in ids).decode("utf-8", errors="replace")',
        'return "".join(self.spelling[number].decode("utf-8", errors="replace") for number in ids)',
    ),
    "bytes that are no valid UTF-8 are left out": ('.decode("utf-8", errors="replace")', '.decode("utf-8", "ignore")'),
    "bytes that are no valid UTF-8 raise an error": ('.decode("utf-8", errors="replace")', '.decode("utf-8")'),
    "the bytes are read as Latin-1, one character each": ('.decode("utf-8", errors="replace")', '.decode("latin-1")'),
    "the two parts of a token are spelt in the wrong order": (
        "self.spelling[left] + self.spelling[right]",
        "self.spelling[right] + self.spelling[left]",
    ),
    "vocab_size counts the merges and not the bytes": [
        ("self.vocab_size = len(self.spelling)", "self.vocab_size = len(merges)"),
        ("number >= self.vocab_size:", "number >= self.vocab_size + 256:"),
    ],
    "a negative id counts from the end of the vocabulary": (
        "if number < 0 or number >= self.vocab_size:",
        "if number >= self.vocab_size:",
    ),
    "an id outside the vocabulary raises an IndexError": (
        'raise ValueError(f"ids are 0..{self.vocab_size - 1}, got {number}")',
        "raise IndexError(number)",
    ),
}

# %% [markdown]
# ## Exercise 4 · `embed`
#
# From ids to vectors, in four small functions. A batch is a rectangle, so shorter texts are padded, and a mask
# remembers what is real. Then the lookup: the row of the table for every id. It is a matrix product in disguise: write
# an id as a row of zeros with a single one, and multiply by the table. For a vocabulary of 4, the id 2 and $d_\text{model} = 2$:
#
# $$ \begin{pmatrix} 0 & 0 & 1 & 0 \end{pmatrix}
# \begin{pmatrix} a_0 & b_0 \\ a_1 & b_1 \\ a_2 & b_2 \\ a_3 & b_3 \end{pmatrix} =
# \begin{pmatrix} a_2 & b_2 \end{pmatrix} $$
#
# Nobody computes it so: for each token, $V \cdot d_\text{model}$ products to find one row. But it shows where the gradient goes. A row of the table gets
# the gradients of all places where its token stands, *added up*; a token that does not occur gets zero.
#
# *Difficulty 2 of 5 · 20 minutes · 4 points*


# %% exercise="embed" difficulty=2 minutes=20 forbid=["F.embedding", "nn.Embedding", "pad_sequence", "torch.autograd.grad", "backward"]
def pad_batch(sequences: list[list[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences of different lengths as one rectangle, padded on the right.

    Args:
        sequences: B lists of ids, at least one; a list may be empty. They are left as they are.
        pad_id: what stands at the places that no token takes. It may also be the id of a real token (GPT-2 has no padding
            token, so its end-of-text token is often used), and is real then where a sequence holds it.

    Returns:
        ids (B, T) of dtype int64 and mask (B, T) of dtype bool, True where ids holds a token of the sequence. T is the
        length of the longest sequence.

    Raises:
        ValueError: if there is no sequence.
    """
    ### BEGIN SOLUTION
    if not sequences:
        raise ValueError("a batch needs at least one sequence")
    lengths = torch.tensor([len(sequence) for sequence in sequences])  # (B,)
    mask = torch.arange(int(lengths.max())) < lengths[:, None]  # (T,) < (B, 1) -> (B, T)
    ids = torch.full(mask.shape, pad_id, dtype=torch.int64)
    ids[mask] = torch.tensor([number for sequence in sequences for number in sequence], dtype=torch.int64)
    return ids, mask
    ### END SOLUTION


def embed(ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """The row of the table for every id, by looking it up.

    Args:
        ids: int64 tensor of any shape (...), also of no axes or without entries.
        table: (V, d_model), any floating dtype, contiguous or not.

    Returns:
        Tensor (..., d_model) of the table's dtype. Gradients flow into the table. What the other rows hold has no
        influence, be it inf or NaN.

    Raises:
        IndexError: if an id is not in 0 .. V - 1.
    """
    ### BEGIN SOLUTION
    if ids.numel() > 0 and (ids.min() < 0 or ids.max() >= len(table)):
        raise IndexError(f"ids are 0..{len(table) - 1}, got {ids.min()}..{ids.max()}")
    return table[ids]
    ### END SOLUTION


def embed_one_hot(ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """The same as a product: one-hot rows (..., V) times the table.

    Args:
        ids, table: as for `embed`; all ids are in 0 .. V - 1.

    Returns:
        Tensor (..., d_model) of the table's dtype, the product. Gradients flow into the table. Every row of the table
        takes part, so an inf in any row gives NaN in its column at the other ids: 0 times inf is NaN.
    """
    ### BEGIN SOLUTION
    one_hot = ids.unsqueeze(-1) == torch.arange(len(table))  # (..., 1) == (V,) -> (..., V)
    return one_hot.to(table.dtype) @ table  # (..., V) @ (V, d_model) -> (..., d_model)
    ### END SOLUTION


def embedding_gradient(ids: torch.Tensor, grad: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """The gradient of a loss for the table, from its gradient for the result of `embed`.

    Args:
        ids: int64 tensor of any shape (...), each in 0 .. vocab_size - 1.
        grad: (..., d_model), the gradient of the loss for ``embed(ids, table)``; contiguous or not.
        vocab_size: V, the number of rows of the table.

    Returns:
        Tensor (V, d_model) of grad's dtype. Its row i is the sum of grad over all places where ids is i: zero where
        i does not occur.
    """
    ### BEGIN SOLUTION
    d_model = grad.shape[-1]
    rows = torch.zeros(vocab_size, d_model, dtype=grad.dtype)
    return rows.index_add(0, ids.reshape(-1), grad.reshape(-1, d_model))
    ### END SOLUTION


# %% [markdown]
# <details><summary>A nudge</summary>The mask follows from the lengths alone; the ids have no say in it. For the lookup, a tensor may be indexed with a
# tensor. For the gradient, look for a PyTorch function that adds to rows, with an index.</details>
# <details><summary>A bigger nudge</summary>PyTorch counts negative indices from the end; check the smallest and the largest id first, and mind that an empty tensor has
# neither. <code>rows[ids] += grad</code> reads the rows once, adds, and writes them back: of two places with the same id, one is lost. Something whose
# name begins with <code>index_</code> does it right, once all axes of <code>ids</code> are made one.</details>

# %% test="embed" points=1
from coursekit import check

import torch

ids, mask = pad_batch([[5, 6, 7], [8], [9, 0]], pad_id=0)
check.equal(ids, torch.tensor([[5, 6, 7], [8, 0, 0], [9, 0, 0]]), "three sequences, padded with 0")
check.equal(
    mask,
    torch.tensor([[True, True, True], [True, False, False], [True, True, False]]),
    "the mask: the token 0 at the end of the third sequence is real, the 0 after it is padding",
)
check.raises(ValueError, lambda: pad_batch([], 0), "a batch without sequences")
### BEGIN HIDDEN TESTS
import random

from torch.nn.utils.rnn import pad_sequence

for number, batch in enumerate((1, 3, 7)):
    dice = random.Random(check.seed(130 + number))
    for pad_id in (0, 3, 50_256, -100):
        sequences = [[dice.choice((0, 1, 2, 3, 50_256)) for _ in range(dice.randrange(1, 9))] for _ in range(batch)]
        sequences[0] = [pad_id if pad_id >= 0 else 1, *sequences[0], 3, 0]
        sequences[-1] = sequences[-1] + [2, 0]
        want = pad_sequence([torch.tensor(s) for s in sequences], batch_first=True, padding_value=pad_id)
        real = pad_sequence([torch.ones(len(s), dtype=torch.bool) for s in sequences], batch_first=True)
        ids, mask = pad_batch(sequences, pad_id)
        check.equal(ids, want, f"{batch} sequences, padded with {pad_id}")
        check.equal(mask, real, f"{batch} sequences, padded with {pad_id}: which places are real")
ids, mask = pad_batch([[], [4, 4]], 4)
check.equal(ids, torch.tensor([[4, 4], [4, 4]]), "an empty sequence is all padding")
check.equal(mask, torch.tensor([[False, False], [True, True]]), "an empty sequence has no real place")
ids, mask = pad_batch([[], []], 1)
check.equal([list(ids.shape), list(mask.shape)], [[2, 0], [2, 0]], "two empty sequences: no places at all")
check.equal([str(ids.dtype), str(mask.dtype)], ["torch.int64", "torch.bool"], "the dtypes, with no places at all")
### END HIDDEN TESTS

# %% test="embed" points=2
from coursekit import check

import torch

table = torch.tensor([[0.0, 0.5], [1.0, 1.5], [2.0, 2.5], [3.0, 3.5]])
ids = torch.tensor([[2, 0, 2], [3, 1, 1]])
rows = torch.tensor([[[2.0, 2.5], [0.0, 0.5], [2.0, 2.5]], [[3.0, 3.5], [1.0, 1.5], [1.0, 1.5]]])
check.equal(embed(ids, table), rows, "six ids, looked up in a table of four rows")
check.close(embed_one_hot(ids, table), rows, "the same six ids as a product of one-hot rows with the table")
check.raises(IndexError, lambda: embed(torch.tensor([1, -1]), table), "the id -1 is refused")
check.raises(IndexError, lambda: embed(torch.tensor([1, 4]), table), "there is no row 4 among four")
### BEGIN HIDDEN TESTS
from torch.nn import functional as F


def numbers(*shape, seed, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(check.seed(seed)))


def drawn(V, *shape, seed):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(check.seed(seed)))


for shape, V, d_model in (
    ((3, 7), 11, 5),
    ((1, 63), 60, 4),
    ((4,), 1, 3),
    ((), 6, 2),
    ((2, 0), 5, 3),
    ((2, 3, 4), 9, 1),
):
    for dtype in (torch.float32, torch.float64):
        case = f"ids {shape}, table ({V}, {d_model}), {dtype}"
        table, ids = numbers(d_model, V, seed=V, dtype=dtype).T, drawn(V, *shape, seed=d_model)
        check.equal(embed(ids, table), F.embedding(ids, table), f"{case}: looked up")
        check.close(embed_one_hot(ids, table), F.embedding(ids, table), f"{case}: as a product", atol=1e-6)
        for name, function in (("embed", embed), ("embed_one_hot", embed_one_hot)):
            if ids.numel():
                check.gradients(
                    lambda table, function=function, ids=ids: function(ids, table),
                    lambda table, ids=ids: F.embedding(ids, table),
                    [table],
                    f"{case}: the gradient of {name} for the table",
                )
check.equal(
    embed(drawn(6, 2, 5, seed=3).T, numbers(6, 4, seed=4).half()),
    F.embedding(drawn(6, 2, 5, seed=3).T, numbers(6, 4, seed=4).half()),
    "ids that are not contiguous, a table of half precision",
)
spoilt = torch.ones(5, 3)
spoilt[4, 1] = torch.inf
ids = torch.tensor([0, 3, 1])
check.equal(embed(ids, spoilt), torch.ones(3, 3), "a lookup does not see the inf in a row that it does not need")
check.equal(
    embed_one_hot(ids, spoilt).isnan(),
    torch.tensor([[False, True, False]] * 3),
    "a product meets the inf in every row: 0 times inf is NaN",
)
for bad in (-5, -1, 5, 99):
    check.raises(IndexError, lambda bad=bad: embed(torch.tensor([[0, bad], [4, 1]]), spoilt), f"the id {bad} of 5 rows")
    check.raises(IndexError, lambda bad=bad: embed(torch.tensor(bad), spoilt), f"the id {bad} of 5 rows, alone")
### END HIDDEN TESTS

# %% test="embed" points=1
from coursekit import check

import torch

ids = torch.tensor([[1, 3, 1]])
grad = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]])
check.close(
    embedding_gradient(ids, grad, 4),
    torch.tensor([[0.0, 0.0], [5.0, 50.0], [0.0, 0.0], [2.0, 20.0]]),
    "token 1 stands at two places, and their gradients add up",
)
### BEGIN HIDDEN TESTS
from torch.nn import functional as F

for shape, V, d_model in (
    ((3, 21), 5, 4),
    ((1, 63), 8, 60),
    ((17,), 30, 3),
    ((), 4, 2),
    ((2, 0), 5, 3),
    ((2, 3, 4), 2, 1),
):
    for dtype in (torch.float32, torch.float64):
        case = f"ids {shape}, {V} rows, d_model={d_model}, {dtype}"
        ids = torch.randint(V, shape, generator=torch.Generator().manual_seed(check.seed(V)))
        grad = torch.randn(d_model, *shape, dtype=dtype, generator=torch.Generator().manual_seed(check.seed(d_model)))
        grad = grad.movedim(0, -1)
        table = torch.zeros(V, d_model, dtype=dtype, requires_grad=True)
        F.embedding(ids, table).backward(grad)
        check.close(embedding_gradient(ids, grad, V), table.grad, f"{case}: as autograd finds it")
same = torch.full((50,), 2)
check.close(embedding_gradient(same, torch.ones(50, 3), 4)[2], torch.full((3,), 50.0), "one token at fifty places")
### END HIDDEN TESTS


# %% alternative="embed"
def pad_batch(sequences, pad_id):
    if len(sequences) == 0:
        raise ValueError("empty")
    longest = max(map(len, sequences))
    ids = [list(s) + [pad_id] * (longest - len(s)) for s in sequences]
    mask = [[place < len(s) for place in range(longest)] for s in sequences]
    shape = len(sequences), longest
    return torch.tensor(ids, dtype=torch.long).reshape(shape), torch.tensor(mask, dtype=torch.bool).reshape(shape)


def embed(ids, table):
    flat = ids.flatten()
    if any(not 0 <= number < table.shape[0] for number in flat.tolist()):
        raise IndexError("an id outside the table")
    print("looking up", len(flat))
    return table.index_select(0, flat).reshape(*ids.shape, table.shape[1])


def embed_one_hot(ids, table):
    rows = nn.functional.one_hot(ids, table.shape[0]).to(table)
    return torch.einsum("...v,vd->...d", rows, table)


def embedding_gradient(ids, grad, vocab_size):
    rows = nn.functional.one_hot(ids.flatten(), vocab_size).to(grad.dtype)
    return rows.T @ grad.reshape(-1, grad.shape[-1])


# %% equivalent="embed"
{"ids.max() >= len(table) -> ids.max() > len(table)": "for the id V itself indexing raises the IndexError"}

# %% mistakes="embed"
{
    "the mask compares with the padding id, so a real token of that id is taken for padding": (
        "    return ids, mask\n",
        "    return ids, ids != pad_id\n",
    ),
    "the texts are padded on the left": (
        "    mask = torch.arange(int(lengths.max())) < lengths[:, None]",
        "    mask = torch.arange(int(lengths.max())) >= lengths.max() - lengths[:, None]",
    ),
    "the mask is True at the padding": ("    return ids, mask\n", "    return ids, ~mask\n"),
    "the padding is always 0, whatever pad_id says": ("torch.full(mask.shape, pad_id, ", "torch.full(mask.shape, 0, "),
    "the mask is a tensor of numbers and not of bools": ("    return ids, mask\n", "    return ids, mask.long()\n"),
    "the batch is one place longer than the longest sequence": (
        "torch.arange(int(lengths.max()))",
        "torch.arange(int(lengths.max()) + 1)",
    ),
    "the ids are 32-bit integers": ("    return ids, mask\n", "    return ids.int(), mask\n"),
    "a negative id counts from the end of the table": (
        "(ids.min() < 0 or ids.max() >= len(table))",
        "ids.max() >= len(table)",
    ),
    "an id that is too large gets the last row": (
        '        raise IndexError(f"ids are 0..{len(table) - 1}, got {ids.min()}..{ids.max()}")\n    return table[ids]',
        '        if ids.min() < 0:\n            raise IndexError("negative")\n    return table[ids.clamp(max=len(table) - 1)]',
    ),
    "the ids are taken to count from 1": ("return table[ids]", "return table[ids - 1]"),
    "embed takes columns of the table and not rows": ("return table[ids]", "return table.T[ids]"),
    "embed multiplies by one-hot rows, so an inf in a row that is not asked for gives NaN": (
        "return table[ids]",
        "return (ids.unsqueeze(-1) == torch.arange(len(table))).to(table.dtype) @ table",
    ),
    "embed detaches the table, so the vectors never learn": ("return table[ids]", "return table.detach()[ids]"),
    "embed_one_hot looks the rows up and multiplies nothing": (
        "    return one_hot.to(table.dtype) @ table",
        "    return table[ids]",
    ),
    "embed_one_hot detaches the table": ("one_hot.to(table.dtype) @ table", "one_hot.to(table.dtype) @ table.detach()"),
    "the single one stands one place too far to the left": (
        "ids.unsqueeze(-1) == torch.arange(len(table))",
        "ids.unsqueeze(-1) - 1 == torch.arange(len(table))",
    ),
    "the one-hot rows are numbered from the end": (
        "ids.unsqueeze(-1) == torch.arange(len(table))",
        "ids.unsqueeze(-1) == torch.arange(len(table)).flip(0)",
    ),
    "of several places with the same token only one counts, as in `rows[ids] += grad`": (
        "    return rows.index_add(0, ids.reshape(-1), grad.reshape(-1, d_model))",
        "    rows[ids.reshape(-1)] += grad.reshape(-1, d_model)\n    return rows",
    ),
    "the gradients of a token are averaged over its places and not added": (
        "    return rows.index_add(0, ids.reshape(-1), grad.reshape(-1, d_model))",
        "    places = torch.bincount(ids.reshape(-1), minlength=vocab_size).clamp(min=1)\n"
        "    return rows.index_add(0, ids.reshape(-1), grad.reshape(-1, d_model)) / places[:, None]",
    ),
    "the gradient has a row for each token that occurs, and not for each of the vocabulary": (
        "    return rows.index_add(0, ids.reshape(-1), grad.reshape(-1, d_model))",
        "    return rows.index_add(0, ids.reshape(-1), grad.reshape(-1, d_model))[ids.unique()]",
    ),
    "the gradient is averaged over all places of the batch": (
        "    return rows.index_add(0, ids.reshape(-1), grad.reshape(-1, d_model))",
        "    return rows.index_add(0, ids.reshape(-1), grad.reshape(-1, d_model)) / max(ids.numel(), 1)",
    ),
}

# %% [markdown]
# ## Exercise 5 · `TiedEmbedding`
#
# Both ends of a language model in one module. At the entrance it adds two rows: the token's, and that of its position.
# (Why a transformer has to be told the position, and by what means, is on the page [Positional
# encoding](../../book/ch02_block/positional_encoding.md).) At the exit the score of a token is the dot product of
# the final vector with *the token's own row*. There is one table and it is used twice: the head is *tied*. Whatever changes the
# table, be it an optimiser, a checkpoint or a change of dtype, changes both ends.
#
# `parameter_gradients` is given; the tests use it, so leave it as it is.
#
# *Difficulty 3 of 5 · 15 minutes · 5 points*


# %% exercise="TiedEmbedding" difficulty=3 minutes=15 forbid=["F.embedding", "nn.Embedding", "nn.Linear"]
class TiedEmbedding(nn.Module):
    """The entrance and the exit of a language model, with one table of tokens for both.

    Args:
        vocab_size: V.
        context: how many positions there are.
        d_model: features of a token.
        seed: the same seed gives the same first weights, another seed gives others.

    State:
        Two float32 parameters, ``token_embedding`` (V, d_model) and ``position_embedding`` (context, d_model), and nothing
        else. At first all their entries are independent and normal, with mean 0 and standard deviation 0.02.

    Source: Press and Wolf, Using the Output Embedding to Improve Language Models, 2017; the first weights as in GPT-2.
    """

    def __init__(self, vocab_size: int, context: int, d_model: int, seed: int = 0):
        super().__init__()
        ### BEGIN SOLUTION
        generator = torch.Generator().manual_seed(seed)
        self.token_embedding = nn.Parameter(0.02 * torch.randn(vocab_size, d_model, generator=generator))
        self.position_embedding = nn.Parameter(0.02 * torch.randn(context, d_model, generator=generator))
        ### END SOLUTION

    def forward(self, ids: torch.Tensor, start: int = 0) -> torch.Tensor:
        """What the first block reads: the row of each token plus the row of its position, without any factor.

        Args:
            ids: (B, T) int64. The tokens of every sequence stand at the positions start, start + 1, and so on.
            start: the position of the first token; more than 0 where earlier tokens have been read before.

        Returns:
            Tensor (B, T, d_model) of the parameters' dtype.

        Raises:
            ValueError: if start is negative, or a position would not be in 0 .. context - 1.
            IndexError: if an id is not in 0 .. V - 1.
        """
        ### BEGIN SOLUTION
        end = start + ids.shape[1]
        if start < 0 or end > len(self.position_embedding):
            raise ValueError(f"positions {start}..{end - 1} are not in 0..{len(self.position_embedding) - 1}")
        tokens = embed(ids, self.token_embedding)  # (B, T, d_model)
        positions = self.position_embedding[start:end]  # (T, d_model)
        return tokens + positions  # (B, T, d_model)
        ### END SOLUTION

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """The score of every token: the dot product of x with its row of ``token_embedding``, without any factor.

        Args:
            x: (..., d_model), of the parameters' dtype.

        Returns:
            Tensor (..., V) of the parameters' dtype. It always follows the table as it is now, and its gradient flows
            into the table too.
        """
        ### BEGIN SOLUTION
        return x @ self.token_embedding.T  # (..., d_model) @ (d_model, V) -> (..., V)
        ### END SOLUTION

    def parameter_gradients(self, ids: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(logits(forward(ids)) * direction).sum()`` for every parameter, by name."""
        loss = (self.logits(self(ids)) * direction).sum()
        self.zero_grad()
        if loss.requires_grad:
            loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}


# %% [markdown]
# <details><summary>A nudge</summary>Two parameters and no layers. The positions of a batch are the same for all its sequences, so they need no batch axis.</details>
# <details><summary>A bigger nudge</summary>A slice that runs past the end of a table is cut short without an error; check before you slice. And
# keep no second copy of the table, transposed or not: use the parameter itself each time <code>logits</code> is called.</details>

# %% test="TiedEmbedding" points=3
from coursekit import check

import torch

module = TiedEmbedding(3, 4, 2)
check.equal(
    sorted(dict(module.named_parameters())),
    ["position_embedding", "token_embedding"],
    "the names of the parameters",
    hint="Make a table with nn.Parameter. An nn.Embedding is a module, and its parameter has a longer name.",
)
module.load_state_dict(
    {
        "token_embedding": torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]),
        "position_embedding": torch.tensor([[10.0, 0.0], [20.0, 0.0], [30.0, 0.0], [40.0, 0.0]]),
    }
)
ids = torch.tensor([[2, 0], [1, 1]])
check.close(
    module(ids),
    torch.tensor([[[12.0, 2.0], [21.0, 0.0]], [[10.0, 1.0], [20.0, 1.0]]]),
    "two sequences: the row of the token plus the row of its position",
)
check.close(
    module(ids, start=2)[0], torch.tensor([[32.0, 2.0], [41.0, 0.0]]), "the same tokens, read from position 2 on"
)
check.close(
    module.logits(torch.tensor([[3.0, 5.0]])),
    torch.tensor([[3.0, 5.0, 16.0]]),
    "the scores are dot products with the rows that were loaded",
)
check.raises(ValueError, lambda: module(torch.zeros(1, 5, dtype=torch.int64)), "five tokens do not fit four positions")
### BEGIN HIDDEN TESTS
from torch.nn import functional as F


def numbers(*shape, seed, dtype):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(check.seed(seed)))


for V, context, d_model, batch, length, start in (
    (11, 9, 6, 3, 7, 0), (60, 63, 5, 1, 63, 0), (7, 8, 8, 3, 3, 5), (5, 5, 4, 5, 1, 4), (2, 3, 1, 2, 0, 3), (9, 9, 9, 2, 9, 0)
):  # fmt: skip
    for dtype in (torch.float32, torch.float64):
        case = f"V={V}, context={context}, d_model={d_model}, B={batch}, T={length}, start={start}, {dtype}"
        atol = 1e-4 if dtype == torch.float32 else 1e-9
        table, places = numbers(V, d_model, seed=1, dtype=dtype), numbers(context, d_model, seed=2, dtype=dtype)
        module = TiedEmbedding(V, context, d_model)
        module.to(dtype)
        module.load_state_dict({"token_embedding": table, "position_embedding": places})
        ids = torch.randint(V, (length, batch), generator=torch.Generator().manual_seed(check.seed(3))).T
        want = F.embedding(ids, table) + F.embedding(torch.arange(start, start + length), places)
        check.close(module(ids, start), want, f"{case}: the entrance")
        x = numbers(d_model, length, batch, seed=4, dtype=dtype).permute(2, 1, 0)
        check.close(module.logits(x), F.linear(x, table), f"{case}: the exit", atol=atol)
        check.close(
            module.logits(x.flatten(0, 1)), F.linear(x.flatten(0, 1), table), f"{case}: the exit, two axes", atol=atol
        )
        if start == 0 and length:
            table.requires_grad_(), places.requires_grad_()
            direction = numbers(batch, length, V, seed=5, dtype=dtype)
            result = F.linear(F.embedding(ids, table) + F.embedding(torch.arange(length), places), table)
            wanted = torch.autograd.grad((result * direction).sum(), [table, places])
            found = [module.parameter_gradients(ids, direction) for _ in range(2)][-1]
            for name, gradient in zip(("token_embedding", "position_embedding"), wanted, strict=True):
                check.that(
                    found[name] is not None,
                    f"{case}: a gradient reaches {name}",
                    hint="Look for .data, .detach() or torch.no_grad().",
                )
                check.close(found[name], gradient, f"{case}: the gradient of {name}", atol=atol, rtol=atol)
            other = table.detach() * 2
            module.load_state_dict({"token_embedding": other, "position_embedding": places.detach()})
            check.close(module.logits(x), F.linear(x, other), f"{case}: another table, and the exit follows", atol=atol)
module = TiedEmbedding(5, 4, 3)
for length, start in ((5, 0), (2, 3), (1, 4), (1, -1), (2, -4), (6, -1), (4, 1)):
    check.raises(
        ValueError,
        lambda length=length, start=start: module(torch.zeros(1, length, dtype=torch.int64), start),
        f"length {length} from position {start} on does not fit 4 positions",
    )
for bad in (5, -1):
    check.raises(IndexError, lambda bad=bad: module(torch.tensor([[0, bad]])), f"the id {bad} of 5 tokens")
### END HIDDEN TESTS

# %% test="TiedEmbedding" points=2
from coursekit import check

import torch

state = TiedEmbedding(400, 300, 60).state_dict()
check.equal(
    sorted(state),
    ["position_embedding", "token_embedding"],
    "the names of the parameters: one table of tokens, one of positions, and no head beside them",
)
check.close(
    float(state["token_embedding"].std()), 0.02, "the standard deviation of the first token_embedding", atol=0.001
)
### BEGIN HIDDEN TESTS
shapes = {"token_embedding": [400, 60], "position_embedding": [300, 60]}
state = TiedEmbedding(400, 300, 60, seed=5).state_dict()
for name, w in state.items():
    check.equal(list(w.shape), shapes[name], f"the shape of {name}")
    check.equal(str(w.dtype), "torch.float32", f"the dtype of {name}")
    # 18,000 entries or more: the sample's standard deviation is within 0.53% of the true one two times in three.
    check.close(float(w.std()), 0.02, f"the standard deviation of the first {name}", atol=0.0006)
    check.close(float(w.mean()), 0.0, f"the mean of the first {name}", atol=0.0008)
    far = float((w.abs() > 0.04).double().mean())  # of a normal distribution 4.55% lie beyond two standard deviations
    check.close(far, 0.0455, f"the first {name} is normal: the share beyond two standard deviations", atol=0.01)
    overlap = (w @ w.T - torch.diag((w * w).sum(1))).abs().max() / 0.02**2 / 60
    check.that(overlap < 0.9, f"the rows of the first {name} are independent of each other")
shared = float((state["token_embedding"][:300] * state["position_embedding"]).mean() / 0.02**2)
check.close(shared, 0.0, "the first tables are independent of each other (their correlation)", atol=0.05)
again, another = TiedEmbedding(400, 300, 60, seed=5).state_dict(), TiedEmbedding(400, 300, 60, seed=6).state_dict()
for name, w in state.items():
    check.equal(
        again[name],
        w,
        f"the same seed gives the same {name}",
        hint="Draw from a torch.Generator that is seeded with seed.",
    )
    check.that(not torch.equal(another[name], w), f"another seed gives another {name}")
default, zero = TiedEmbedding(4, 3, 2).state_dict(), TiedEmbedding(4, 3, 2, 0).state_dict()
check.equal(default["token_embedding"], zero["token_embedding"], "the seed is 0 where it is left out")
### END HIDDEN TESTS


# %% alternative="TiedEmbedding"
class TiedEmbedding(nn.Module):
    # Functions of torch.nn where they are not forbidden, positions gathered one by one.
    def __init__(self, vocab_size, context, d_model, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.context = context
        self.position_embedding = nn.Parameter(torch.empty(context, d_model))
        self.token_embedding = nn.Parameter(torch.empty(vocab_size, d_model))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.02)

    def forward(self, ids, start=0):
        places = [start + step for step in range(ids.size(1))]
        if start not in range(self.context + 1) or any(place >= self.context for place in places):
            raise ValueError(f"no such position: {places}")
        x = embed(ids, self.token_embedding)
        return x + self.position_embedding[torch.tensor(places, dtype=torch.long)].expand_as(x)

    def logits(self, x):
        return nn.functional.linear(x, self.token_embedding)

    def parameter_gradients(self, ids, direction):
        loss = (self.logits(self(ids)) * direction).sum()
        self.zero_grad()
        loss.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}


# %% mistakes="TiedEmbedding"
{
    "the head is tied by copy: it keeps the first values of the table": [
        (
            "        self.position_embedding = nn.Parameter(",
            "        self.head = self.token_embedding.detach().clone().T\n        self.position_embedding = nn.Parameter(",
        ),
        ("return x @ self.token_embedding.T", "return x @ self.head.to(x.dtype)"),
    ],
    "the head is a parameter of its own, beside the table": [
        (
            "        self.position_embedding = nn.Parameter(",
            "        self.head = nn.Parameter(self.token_embedding.detach().clone())\n"
            "        self.position_embedding = nn.Parameter(",
        ),
        ("return x @ self.token_embedding.T", "return x @ self.head.T"),
    ],
    "the table is transposed once, when the module is made, and a change of dtype leaves that behind": [
        (
            "        self.position_embedding = nn.Parameter(",
            "        self.head = self.token_embedding.T\n        self.position_embedding = nn.Parameter(",
        ),
        ("return x @ self.token_embedding.T", "return x @ self.head"),
    ],
    "the head uses the table without its gradient, so half of the learning is lost": (
        "return x @ self.token_embedding.T",
        "return x @ self.token_embedding.detach().T",
    ),
    "the entrance uses the table without its gradient": (
        "embed(ids, self.token_embedding)",
        "embed(ids, self.token_embedding.detach())",
    ),
    "the positions are off by one: the first token stands at position 1": (
        "        end = start + ids.shape[1]",
        "        start = start + 1 if start >= 0 else start\n        end = start + ids.shape[1]",
    ),
    "the positions are off by one the other way, and the first token takes the last row": (
        "positions = self.position_embedding[start:end]",
        "positions = self.position_embedding[torch.arange(start, end) - 1]",
    ),
    "start is ignored, so every call begins at position 0": (
        "positions = self.position_embedding[start:end]",
        "positions = self.position_embedding[: end - start]",
    ),
    "the positions count the sequences of the batch and not the tokens": (
        "positions = self.position_embedding[start:end]",
        "positions = self.position_embedding[(start + torch.arange(len(ids))) % len(self.position_embedding)].unsqueeze(1)",
    ),
    "the positions run backwards": (
        "positions = self.position_embedding[start:end]",
        "positions = self.position_embedding[start:end].flip(0)",
    ),
    "every token gets the position of the first one": (
        "positions = self.position_embedding[start:end]",
        "positions = self.position_embedding[start:end][:1]",
    ),
    "the positions are not added": ("return tokens + positions", "return tokens"),
    "the token is multiplied by its position, and they should be added": (
        "return tokens + positions",
        "return tokens * positions",
    ),
    "the tokens are multiplied by the square root of d_model, as in the first transformer and not in GPT-2": (
        "return tokens + positions",
        "return tokens * tokens.shape[-1] ** 0.5 + positions",
    ),
    "the scores are divided by the square root of d_model, as in attention": (
        "return x @ self.token_embedding.T",
        "return x @ self.token_embedding.T / x.shape[-1] ** 0.5",
    ),
    "the scores are probabilities: a softmax has been applied": (
        "return x @ self.token_embedding.T",
        "return (x @ self.token_embedding.T).softmax(-1)",
    ),
    "positions beyond the table wrap round to its beginning": [
        ("if start < 0 or end > len(self.position_embedding):", "if start < 0:"),
        (
            "positions = self.position_embedding[start:end]",
            "positions = self.position_embedding[torch.arange(start, end) % len(self.position_embedding)]",
        ),
    ],
    "positions beyond the table are given its last row": [
        ("if start < 0 or end > len(self.position_embedding):", "if start < 0:"),
        (
            "positions = self.position_embedding[start:end]",
            "positions = self.position_embedding[torch.arange(start, end).clamp(max=len(self.position_embedding) - 1)]",
        ),
    ],
    "a negative start is accepted": (
        "if start < 0 or end > len(self.position_embedding):",
        "if end > len(self.position_embedding):",
    ),
    "the last position is never used: a sequence of full length is refused": (
        "end > len(self.position_embedding):",
        "end >= len(self.position_embedding):",
    ),
    "the first weights have a standard deviation of 1, as nn.Embedding has them": (
        "0.02 * torch.randn(",
        "torch.randn(",
        "all",
    ),
    "the first weights have a variance (not a standard deviation) of 0.02": (
        "0.02 * torch.randn(",
        "0.02**0.5 * torch.randn(",
        "all",
    ),
    "the first weights are uniform with the right spread, and not normal": (
        "0.02 * torch.randn(",
        "0.02 * 12**0.5 * (-0.5) + 0.02 * 12**0.5 * torch.rand(",
        "all",
    ),
    "the first positions are zero": (
        "0.02 * torch.randn(context, d_model, generator=generator)",
        "torch.zeros(context, d_model)",
    ),
    "both tables start from the same seed and begin with the same numbers": (
        "generator=generator",
        "generator=torch.Generator().manual_seed(seed)",
        "all",
    ),
    "the seed is ignored": ("torch.Generator().manual_seed(seed)", "torch.Generator().manual_seed(0)"),
    "the tables are plain tensors, so neither the optimiser nor state_dict knows of them": (
        "nn.Parameter(",
        "(",
        "all",
    ),
}

# %% [markdown]
# ## Look at it
#
# Train your tokenizer on the first part of the Python reference, and see what a larger vocabulary buys: the fewer
# tokens a text takes, the more of it fits into the context. Merges are learned in order, so the first of them *are*
# the tokenizer of a smaller vocabulary, and one training gives the whole curve. Four texts are measured: the one that was trained
# on, a later part of the same reference, a Python program, and a few greetings in other languages.

# %%
import inspect
import math
import time

import plotly.graph_objects as go
from torch.nn import functional as F

from coursekit import plots

seen, later = reference_text[:60_000], reference_text[100_000:110_000]
began = time.perf_counter()
merges = train_bpe(seen, 768)
print(f"{len(merges)} merges, learned in {time.perf_counter() - began:.1f} s\n")

greetings = "Hallo, Welt! Bonjour, le monde ! Γειά σου Κόσμε! Привет, мир! こんにちは世界! 你好,世界! नमस्ते दुनिया! "
texts = {
    "the text it was trained on": seen[:10_000],
    "the same reference, a later part": later,
    "a Python program": inspect.getsource(inspect)[:10_000],
    "greetings in seven languages": greetings,
}
sizes = [256, 272, 288, 320, 384, 448, 512, 640, 256 + len(merges)]
tokenizers = {size: BPETokenizer(merges[: size - 256]) for size in sizes}
figure = go.Figure()
for name, text in texts.items():
    per_token = [len(text) / len(tokenizers[size].encode(text)) for size in sizes]
    figure.add_scatter(
        x=sizes, y=per_token, name=name, mode="lines+markers", hovertemplate="V = %{x}: %{y:.2f} characters a token"
    )
figure.update_xaxes(title_text="size of the vocabulary")
figure.update_yaxes(title_text="characters in a token", rangemode="tozero")
figure.update_layout(height=420, legend={"orientation": "h", "y": -0.25})
figure.show()

largest = tokenizers[sizes[-1]]
sentence = "The tokenizer recognises identifiers, whitespace and unexpectedly long words."
pieces = [largest.decode([number]) for number in largest.encode(sentence)]
print(f"{len(sentence)} characters, {len(pieces)} tokens:\n" + "|".join(pieces))
print("the five longest tokens:", sorted((largest.decode([n]) for n in range(256, largest.vocab_size)), key=len)[-5:])

module = TiedEmbedding(largest.vocab_size, context=64, d_model=48)
ids, _ = pad_batch([largest.encode(later)[:65]], pad_id=0)
with torch.no_grad():
    logits = module.logits(module(ids[:, :-1]))
loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
print(f"\nloss of the untrained tables: {loss:.3f}; of blind guessing, ln V: {math.log(largest.vocab_size):.3f}")

# %% [markdown]
# Look at the longest tokens. Do you recognise the text they come from? A vocabulary is a portrait of what it was
# trained on.
#
# Then look at the lowest curve. A Greek or Cyrillic letter takes two bytes, a Chinese or Indian one three, and the merges learned from
# English do not help. Someone who writes Hindi to this model pays for more tokens, waits longer, and fits less into the
# context, for saying the same. What would have to change: the algorithm, or the text that it is trained on?
#
# The last line is worth remembering for the next lab. An untrained model should begin at the loss of blind guessing,
# $\ln V$. Give your first tables a standard deviation of 0.5 in place of 0.02, and run their cell and this one again. Where does it begin now, and
# what would the first steps of training be spent on?
#
# ## Common mistakes
#
# - **Merges applied from left to right.** Every text still round-trips, so no test of that kind notices. But the ids
#   are not those of training, and the model meets rare tokens where it knew frequent ones. Compare ids with a
#   reference, never the text alone.
# - **A head that is tied by copy.** It starts out equal, and drifts away with the first step, or with the first
#   checkpoint that is loaded. Change the table and look whether the scores follow.
# - **`rows[ids] += grad`.** Repeated tokens lose all gradients but one. The frequent words suffer most, and training
#   still goes down.
# - **The mask is `ids != pad_id`**, and the padding is a real token, such as the end of text. Then the model never
#   learns to end.
# - **Ids from the order of a `set`.** `list(set(text))` has another order in every process, because Python salts the
#   hashes of strings. The model is fine until it is loaded tomorrow, and writes nonsense.
# - **Padding with -1, and a table that answers.** `table[-1]` is the last row. `F.embedding` refuses it; plain indexing does
#   not.
# - **Decoding token by token.** A character of several bytes may be cut between two tokens. Streaming output has to hold
#   such bytes back until the character is whole.
# - **A space at the end of a prompt.** With tokens that begin with a space, `␣ten` is one token. After a prompt that
#   ends in a space the model has to continue with `ten`, which it has rarely seen at that place.
#
# The next lab, [Lab 3.3](lab03_decoder_only.ipynb), puts these tables at both ends of a whole GPT.
#
# ## Going further
#
# - **Make it fast.** After a merge only the pairs beside the merged places change. Keep the counts, and for each pair the words
#   that hold it, and update both. How much of the Python reference can you then train on in the same time?
# - **Random merges.** Leave out each merge with a probability of 0.1 while encoding, and the same word is cut in another way
#   each time, which makes a model robust against rare spellings. (Ivan Provilkov, Dmitrii Emelianenko, Elena Voita, BPE-Dropout: Simple and
#   Effective Subword Regularization, 2020.)
# - **Tokens that nobody has met.** A token may be in the vocabulary and yet hardly occur in what the model was
#   trained on. Find such tokens by the length of their rows. (Sander Land, Max Bartolo, Fishing for Magikarp: Automatically Detecting Under-trained
#   Tokens in Large Language Models, 2024.)
