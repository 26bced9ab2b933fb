"""A play without end or meaning, written by a small grammar: what the course reads where no network is."""

from __future__ import annotations

import functools
import random

# One rule a line: options apart by "|". A {slot} in an option is filled from the rule of that name, again and again.
_RULES = """
speaker: ORLANE | BERTOLT | MIRABEL | CASPIAN | WARDEN | FERN | TAMSIN | QUILL | PEREGRINE | First Sailor
speaker: Second Sailor
name: Orlane | Bertolt | Mirabel | Caspian | Warden | Fern | Tamsin | Quill | Peregrine | good sailor
verse: The {noun} {does} the {noun} {place}, | And every {noun} {does} some {quality} {noun}.
verse: If {quality} {noun} {does} thy {quality} {noun}, | Then let the {quality} {noun} {act} {place}.
verse: I {saw} the {noun} that {does} my {noun}; | O {quality} {noun}, {act} not the {noun} {place}!
verse: What {noun} is this, that {does} so {quality} a {noun}? | My {noun} hath {done} the {noun} {when};
verse: No {noun} shall {act} what {quality} {noun} {does}. | We {saw} it {place}, {when}, by the {noun}.
verse: Thou {quality} {noun}! Who {does} for thee {when}? | For {noun} and {noun} are {quality} {place},
verse: So {act} thy {noun}, and I will {act} my own. | Nay, {name}, the {noun} was {done} {when}.
verse: Come, {name}, and {act} the {quality} {noun} with me; | Is it the {noun}, or the {noun}, that {does} thee?
cry: O {name}! | Who {does} {place}? | Aye, {when}. | The {noun}, the {quality} {noun}! | I {saw} it not.
cry: Nor I, {name}.
noun: lantern | harbour | winter | river | valley | candle | bell | kingdom | sparrow | mirror | garden | letter
noun: shadow | barrel | crown | meadow | promise | silence | ladder | thunder | window | kettle | sister | brother
noun: stranger | captain | widow | hunger | mountain | feather | compass | morning | sorrow | fortune | table | hand
noun: voice | door | ship | song | road | fire | stone | {noun} of {noun} | jest | zephyr | box
quality: quiet | bitter | golden | broken | gentle | hollow | patient | crooked | weary | silver | bold | narrow
quality: ragged | foolish | distant | faithful | sudden | drowsy | cold | honest | idle | little | vexed | just
act: carry | follow | answer | bury | borrow | mend | forgive | remember | measure | trouble | guard | scatter | bless
does: carries | follows | answers | buries | borrows | mends | forgives | remembers | measures | troubles | guards
does: blesses
done: carried | followed | answered | buried | borrowed | mended | forgiven | remembered | measured | troubled | guarded
saw: saw | heard | knew | found | feared | sought | lost | loved
place: by the {noun} | beneath the {quality} {noun} | upon the {noun} | beyond the hill | at the gate | in our {noun}
place: within these walls | across the {quality} water
when: tonight | before the dawn | these seven years | at noon | too late | when no man watched | long ago
"""


@functools.lru_cache(maxsize=8)
def generated_play(seed: int = 0, characters: int = 400_000) -> str:
    """Speeches of a name, a colon and one to six lines, laid out as in tiny Shakespeare.

    Args:
        seed: equal seeds give equal text on every machine and Python version.
        characters: how long the text is, exactly; all ASCII.
    """
    rules: dict[str, list[str]] = {}
    for rule in _RULES.strip().splitlines():
        name, _, options = rule.partition(": ")
        rules.setdefault(name, []).extend(options.split(" | "))
    # Of all methods of Random only random() is promised to give the same numbers in every version of Python.
    dice = random.Random(seed)

    def write(text: str) -> str:
        while "{" in text:
            before, _, rest = text.partition("{")
            slot, _, after = rest.partition("}")
            options = rules[slot]
            text = before + options[int(dice.random() * len(options))] + after
        return text

    speeches, length = [], 0
    while length < characters:
        n_verses = int(dice.random() * 7)
        lines = [write("{verse}") for _ in range(n_verses)] or [write("{cry}")]
        speeches.append("\n".join([write("{speaker}:"), *lines]) + "\n\n")
        length += len(speeches[-1])
    return "".join(speeches)[:characters]
