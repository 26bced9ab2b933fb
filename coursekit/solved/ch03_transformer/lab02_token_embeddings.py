"""Tokens and embeddings: the reference. Generated from source_solutions/ch03_transformer/lab02_token_embeddings.py by `course build`; do not edit."""

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

# %% exercise="CharTokenizer"
class CharTokenizer:
    """One token for each distinct character of a text.

    Args:
        text: its distinct characters are the vocabulary. They are numbered from 0 in the order of their code points,
            which is how `sorted` orders them. Characters are taken as they are: no lower case, no normalisation.

    Attributes:
        vocab_size: how many different characters there are.
    """

    def __init__(self, text: str):
        self.characters = sorted(set(text))
        self.numbers = {character: number for number, character in enumerate(self.characters)}
        self.vocab_size = len(self.characters)

    def encode(self, text: str) -> list[int]:
        """The id of every character, in order.

        Raises:
            ValueError: for a character that the vocabulary lacks; the message shows the character.
        """
        for character in text:
            if character not in self.numbers:
                raise ValueError(f"the character {character!r} is not in the vocabulary")
        return [self.numbers[character] for character in text]

    def decode(self, ids: list[int]) -> str:
        """The text of a list of ids: the inverse of `encode`.

        Raises:
            ValueError: for an id that is not in 0 .. vocab_size - 1.
        """
        for number in ids:
            if number < 0 or number >= self.vocab_size:
                raise ValueError(f"ids are 0..{self.vocab_size - 1}, got {number}")
        return "".join(self.characters[number] for number in ids)

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

# %% exercise="train_bpe"
def count_pairs(words: dict[tuple[int, ...], int]) -> dict[tuple[int, int], int]:
    """How often each two ids stand side by side.

    Args:
        words: word -> how often it occurs. A word is a tuple of ids and may be empty.

    Returns:
        Pair (left, right) -> at how many places it stands, over all words, each word as often as it occurs. Places that
        overlap all count: (7, 7, 7) holds the pair (7, 7) at two places. A pair that does not occur has no entry.
    """
    counts: dict[tuple[int, int], int] = {}
    for word, times in words.items():
        for pair in pairwise(word):
            counts[pair] = counts.get(pair, 0) + times
    return counts


def merge_pair(ids: list[int], pair: tuple[int, int], new_id: int) -> list[int]:
    """One word with every occurrence of a pair replaced by a new id.

    Args:
        ids: the word, a list or a tuple of ids; it may be empty.
        pair: (left, right), the two ids that are glued together.
        new_id: what stands for them; it is neither of the two, and not in ids.

    Returns:
        A new list; the word itself is left as it is. Where occurrences overlap the leftmost is taken: (7, 7, 7) becomes [new_id, 7].
    """
    merged: list[int] = []
    for number in ids:
        if merged and (merged[-1], number) == pair:
            merged[-1] = new_id
        else:
            merged.append(number)
    return merged


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

# %% exercise="BPETokenizer"
class BPETokenizer:
    """Text to ids and back, by the merges that `train_bpe` has learned.

    Args:
        merges: pairs of ids. The pair at place r makes the id 256 + r; each of its two ids is smaller than that.

    Attributes:
        vocab_size: how many ids there are: the 256 bytes, and one for each merge.
    """

    def __init__(self, merges: list[tuple[int, int]]):
        self.ranks = {(left, right): rank for rank, (left, right) in enumerate(merges)}
        self.spelling = [bytes([byte]) for byte in range(256)]
        for left, right in merges:
            self.spelling.append(self.spelling[left] + self.spelling[right])
        self.vocab_size = len(self.spelling)

    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        The text is cut with `split_words`, and each word is encoded on its own. It starts as its UTF-8 bytes. Of all the
        pairs of neighbours in it that are merges, the one that was learned first is merged, wherever it stands (see
        `merge_pair`); then again, until no two neighbours are a merge.

        Args:
            text: any text that UTF-8 can encode, seen in training or not; it may be empty.
        """
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

    def decode(self, ids: list[int]) -> str:
        """The text of a list of ids; what `encode` gives decodes to the very same text.

        The bytes of all tokens are joined and then read as UTF-8. Where they are no valid UTF-8, as in a list that ends
        within a character, the character U+FFFD stands in, as Python's ``errors="replace"`` puts it.

        Raises:
            ValueError: for an id that is not in 0 .. vocab_size - 1.
        """
        for number in ids:
            if number < 0 or number >= self.vocab_size:
                raise ValueError(f"ids are 0..{self.vocab_size - 1}, got {number}")
        return b"".join(self.spelling[number] for number in ids).decode("utf-8", errors="replace")

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

# %% exercise="embed"
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
    if not sequences:
        raise ValueError("a batch needs at least one sequence")
    lengths = torch.tensor([len(sequence) for sequence in sequences])  # (B,)
    mask = torch.arange(int(lengths.max())) < lengths[:, None]  # (T,) < (B, 1) -> (B, T)
    ids = torch.full(mask.shape, pad_id, dtype=torch.int64)
    ids[mask] = torch.tensor([number for sequence in sequences for number in sequence], dtype=torch.int64)
    return ids, mask


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
    if ids.numel() > 0 and (ids.min() < 0 or ids.max() >= len(table)):
        raise IndexError(f"ids are 0..{len(table) - 1}, got {ids.min()}..{ids.max()}")
    return table[ids]


def embed_one_hot(ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """The same as a product: one-hot rows (..., V) times the table.

    Args:
        ids, table: as for `embed`; all ids are in 0 .. V - 1.

    Returns:
        Tensor (..., d_model) of the table's dtype, the product. Gradients flow into the table. Every row of the table
        takes part, so an inf in any row gives NaN in its column at the other ids: 0 times inf is NaN.
    """
    one_hot = ids.unsqueeze(-1) == torch.arange(len(table))  # (..., 1) == (V,) -> (..., V)
    return one_hot.to(table.dtype) @ table  # (..., V) @ (V, d_model) -> (..., d_model)


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
    d_model = grad.shape[-1]
    rows = torch.zeros(vocab_size, d_model, dtype=grad.dtype)
    return rows.index_add(0, ids.reshape(-1), grad.reshape(-1, d_model))

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

# %% exercise="TiedEmbedding"
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
        generator = torch.Generator().manual_seed(seed)
        self.token_embedding = nn.Parameter(0.02 * torch.randn(vocab_size, d_model, generator=generator))
        self.position_embedding = nn.Parameter(0.02 * torch.randn(context, d_model, generator=generator))

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
        end = start + ids.shape[1]
        if start < 0 or end > len(self.position_embedding):
            raise ValueError(f"positions {start}..{end - 1} are not in 0..{len(self.position_embedding) - 1}")
        tokens = embed(ids, self.token_embedding)  # (B, T, d_model)
        positions = self.position_embedding[start:end]  # (T, d_model)
        return tokens + positions  # (B, T, d_model)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """The score of every token: the dot product of x with its row of ``token_embedding``, without any factor.

        Args:
            x: (..., d_model), of the parameters' dtype.

        Returns:
            Tensor (..., V) of the parameters' dtype. It always follows the table as it is now, and its gradient flows
            into the table too.
        """
        return x @ self.token_embedding.T  # (..., d_model) @ (d_model, V) -> (..., V)

    def parameter_gradients(self, ids: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor]:
        """Given: the gradient of ``(logits(forward(ids)) * direction).sum()`` for every parameter, by name."""
        loss = (self.logits(self(ids)) * direction).sum()
        self.zero_grad()
        if loss.requires_grad:
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
