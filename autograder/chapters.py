"""The plan of the whole course: its chapters, their milestones, and the ways through them.

What exists is never stated here. It is counted from the labs and pages in the tree (see `catalog_pages`), so a chapter
turns from "planned" to "ready" by being written.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chapter:
    """One chapter of the plan. `key` begins the name of its folders: `ch01` for `ch01_attention`."""

    key: str
    title: str
    phase: str
    labs: int
    pages: int
    hardware: str
    milestone: str

    @property
    def number(self) -> str:
        """How the chapter is called in a title: '1', or the key's own name for a chapter without a number."""
        return str(int(self.key[2:])) if self.key[2:].isdigit() else ""

    @property
    def name(self) -> str:
        """Number and title, as in '1 · The Attention Mechanism'."""
        return f"{self.number} · {self.title}" if self.number else self.title


@dataclass(frozen=True)
class Way:
    """One way through the course: which chapters, for whom, and whether its labs or only its pages are meant."""

    name: str
    chapters: tuple[str, ...]
    whom: str
    pages_only: bool = False


CHAPTERS: tuple[Chapter, ...] = (
    Chapter(
        "ch00",
        "A Transformer in NumPy",
        "Prelude",
        9,
        9,
        "laptop",
        "A transformer with a backward pass written by hand learns two-digit addition.",
    ),
    Chapter(
        "ch01",
        "The Attention Mechanism",
        "Foundation",
        4,
        4,
        "laptop",
        "Your own multi-head attention equals PyTorch's within 1e-5, outputs and gradients.",
    ),
    Chapter(
        "ch02",
        "Building a Transformer Block",
        "Foundation",
        5,
        5,
        "laptop",
        "Your own block equals GPT-2's block, and Llama's.",
    ),
    Chapter(
        "ch03",
        "The Complete Transformer",
        "Foundation",
        6,
        6,
        "laptop",
        "Your own model gives the same logits as GPT-2.",
    ),
    Chapter(
        "ch04",
        "Training Fundamentals",
        "Foundation",
        6,
        6,
        "laptop",
        "A model of about a million parameters, trained by you, writes text in the manner of Shakespeare.",
    ),
    Chapter(
        "capstone",
        "Capstone: Mini-GPT",
        "Foundation",
        1,
        1,
        "laptop",
        "From tokenizer to samples, with checkpoints and a script that generates text.",
    ),
    Chapter(
        "ch05",
        "Linear Attention",
        "Variants",
        4,
        4,
        "laptop",
        "Linear attention runs ten times faster than standard attention at 4,096 tokens.",
    ),
    Chapter(
        "ch06",
        "Flash Linear Attention",
        "Variants",
        5,
        5,
        "laptop",
        "Your gated linear attention equals the reference of the fla library.",
    ),
    Chapter(
        "ch07",
        "Sparse Attention and Mixture of Experts",
        "Variants",
        5,
        6,
        "laptop",
        "Multi-head latent attention cuts the KV cache to a quarter at equal quality.",
    ),
    Chapter(
        "ch08",
        "Memory and Inference",
        "Production",
        5,
        4,
        "laptop",
        "Generation runs ten times faster with a KV cache.",
    ),
    Chapter(
        "ch09",
        "Inference Frameworks",
        "Production",
        5,
        5,
        "laptop or GPU",
        "vLLM serves a 7B model at over 100 tokens a second.",
    ),
    Chapter(
        "ch10",
        "Flash Attention",
        "Hardware",
        5,
        6,
        "GPU",
        "Training fits sequences four times as long.",
    ),
    Chapter(
        "ch11",
        "Distributed Training",
        "Hardware",
        5,
        5,
        "several GPUs",
        "FSDP trains a model that is too large for one device.",
    ),
    Chapter(
        "ch12",
        "Custom Kernels and Hardware",
        "Hardware",
        5,
        6,
        "GPU or TPU",
        "Your own Triton attention reaches 80% of the speed of Flash Attention.",
    ),
)

_NUMBERED = tuple(c.key for c in CHAPTERS if c.number)

WAYS: tuple[Way, ...] = (
    Way(
        "From scratch",
        ("ch00", "ch01", "ch02", "ch03", "ch04", "capstone"),
        "You want to build a language model and "
        "understand each line of it. Nothing but Python and linear algebra is assumed.",
    ),
    Way(
        "Full path",
        (*_NUMBERED[:5], "capstone", *_NUMBERED[5:]),
        "You want the whole stack, from the dot product to the kernel.",
    ),
    Way(
        "Production",
        ("ch01", "ch03", "ch08", "ch09", "ch10"),
        "You serve models and want to know what the engine does with your memory.",
    ),
    Way(
        "Variants",
        ("ch01", "ch02", "ch05", "ch06", "ch07"),
        "You read papers on linear, gated and sparse attention and want to have built them.",
    ),
    Way(
        "Quick survey",
        tuple(c.key for c in CHAPTERS),
        "You want the ideas first. Read the pages, leave the labs for later.",
        pages_only=True,
    ),
)
