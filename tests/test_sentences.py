"""The small language, against a grammar that is written down here as patterns."""

from __future__ import annotations

import random
import re

import pytest

from coursekit.sentences import WORDS, pair

ONE = r"(an (?=[aeiou])|a (?![aeiou]))((red|small|quiet|old|idle|odd) )?(dog|cat|hen|owl|ant|ape)"
SEVERAL = r"(these|two) ((red|small|quiet|old|idle|odd) )?(dogs|cats|hens|owls|ants|apes)"
ANY = f"({ONE}|{SEVERAL})"
FIRST = {False: f"{ONE} (sees|hears|follows) {ANY} .", True: f"{SEVERAL} (see|hear|follow) {ANY} ."}
SECOND = {False: f"it (sees|hears|follows) {ANY} .", True: f"they (see|hear|follow) {ANY} ."}


@pytest.mark.parametrize("plural", [False, True])
@pytest.mark.parametrize("fits", [False, True])
def test_every_pair_keeps_the_rules(plural, fits):
    draw, seen = random.Random(0), set()
    for _ in range(500):
        first, second = pair(draw, plural, fits)
        assert re.fullmatch(FIRST[plural], " ".join(first))
        assert re.fullmatch(SECOND[plural == fits], " ".join(second))
        assert len(first) + len(second) <= 14
        seen |= {*first, *second}
    assert seen <= set(WORDS)
    assert len(seen) > 25, "chance chooses"


def test_the_words_begin_with_the_special_ones_and_are_all_different():
    assert WORDS[:4] == ["[PAD]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(WORDS) == len(set(WORDS)) == 35
