"""A small English whose second sentences speak of the first ones' subjects: what masked language models learn here.

Four rules decide words, and the rest is chance. "An" stands before a vowel, "a" before a consonant. Nouns go with "a"
or "an" in the singular, with "these" or "two" in the plural. Verbs agree. "It" and "they" agree with the first subject.
"""

from __future__ import annotations

import random

NOUNS = ["dog", "cat", "hen", "owl", "ant", "ape"]
ADJECTIVES = ["red", "small", "quiet", "old", "idle", "odd"]
#: Singular -> plural.
VERBS = {"sees": "see", "hears": "hear", "follows": "follow"}
#: The vocabulary: [PAD], [CLS], [SEP] and [MASK] first.
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", ".", "a", "an", "these", "two", "it", "they"]
WORDS += [*NOUNS, *(noun + "s" for noun in NOUNS), *ADJECTIVES, *VERBS, *VERBS.values()]


def pair(draw: random.Random, plural: bool, fits: bool = True) -> tuple[list[str], list[str]]:
    """Two sentences, each a list of words that ends in a full stop; together at most 14 words.

    Args:
        draw: where the chance comes from.
        plural: whether the first sentence's subject is.
        fits: whether the second speaks of it, and not of a subject of the other number.
    """
    verb = draw.choice(list(VERBS))
    first = [
        *_noun_phrase(draw, plural),
        VERBS[verb] if plural else verb,
        *_noun_phrase(draw, draw.random() < 0.5),
        ".",
    ]
    plural, verb = plural == fits, draw.choice(list(VERBS))
    second = ["they" if plural else "it", VERBS[verb] if plural else verb, *_noun_phrase(draw, draw.random() < 0.5)]
    return first, [*second, "."]


def _noun_phrase(draw: random.Random, plural: bool) -> list[str]:
    rest = [draw.choice(ADJECTIVES)] if draw.random() < 0.5 else []
    rest.append(draw.choice(NOUNS) + ("s" if plural else ""))
    article = "an" if rest[0][0] in "aeiou" else "a"
    return [draw.choice(["these", "two"]) if plural else article, *rest]
