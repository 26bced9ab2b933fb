"""Mini-GPT: the reference. Generated from source_solutions/capstone/mini_gpt.py by `course build`; do not edit."""

# %% given
import hashlib
import json
import math
import os
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

FORMAT = "mini-gpt/1"  # the name of your file format


def unigram_loss(train_ids: torch.Tensor, ids: torch.Tensor, vocab_size: int) -> float:
    """Given: what a token costs, in nats, if only its frequency in the training part is known (counts plus one)."""
    counts = torch.bincount(train_ids, minlength=vocab_size).double() + 1
    return float(-(counts / counts.sum()).log()[ids].mean())

# %% given
import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from coursekit import carry

BPETokenizer = carry("ch03/lab02", "BPETokenizer")  # BPETokenizer(merges): encode, decode, vocab_size
train_bpe = carry("ch03/lab02", "train_bpe")  # train_bpe(text, vocab_size) -> merges
GPT = carry("ch03/lab03", "GPT")  # GPT(config)(ids): (B, T) -> logits (B, T, V)
GPTConfig = carry(
    "ch03/lab03", "GPTConfig"
)  # vocab_size, context, d_model, n_layers, n_heads, d_ff, dropout, eps, seed
TrainConfig = carry("ch04/lab03", "TrainConfig")  # steps, batch_size, context, lr, ..., seed
train = carry("ch04/lab03", "train")  # train(model, data, config, validation=None, path=None, until=None) -> history
evaluate = carry("ch04/lab03", "evaluate")  # evaluate(model, data, batch_size, context) -> mean loss of a token


class Tokenizer(BPETokenizer):
    """Your BPETokenizer. It also remembers its merges, so that it can be written to a file."""

    def __init__(self, merges: list[tuple[int, int]]):
        super().__init__([(int(left), int(right)) for left, right in merges])
        self.merges = [(int(left), int(right)) for left, right in merges]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: the logits are divided by it; 0 means: always the largest.
        top_k: only so many tokens may be chosen; None for all.
        top_p: only the smallest set of tokens that reaches this probability; None for all.
        repetition_penalty: what has occurred gets less probable if this is more than 1.
        stop: the text ends before the first of these.
        max_tokens: and after so many tokens at the latest.
        seed: of the draws.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    max_tokens: int = 200
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"the temperature is 0 or more, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is 1 or more, or None; got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is more than 0 and at most 1, or None; got {self.top_p}")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"the repetition penalty is more than 0, got {self.repetition_penalty}")
        if isinstance(self.stop, str) or not all(self.stop):
            raise ValueError(f"stop is a tuple of texts that are not empty, got {self.stop!r}")
        if self.max_tokens < 0:
            raise ValueError(f"max_tokens is 0 or more, got {self.max_tokens}")


@contextlib.contextmanager
def asking(model: nn.Module) -> Iterator[None]:
    """Within ``with asking(model):`` the model is in evaluation mode and keeps nothing for a backward pass.

    Afterwards every part of it has the mode that it had before, also after an error.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training

# %% given
def unchanged(name: str, logits: torch.Tensor, *more: Any) -> bool:
    """For the checks: whether a function leaves the logits that it is given as they are."""
    kept = logits.clone()
    globals()[name](logits, *more)
    return torch.equal(logits, kept)

# %% exercise="keep_top_p"
def scale(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Make the distribution flatter (temperature above 1) or steeper (below 1).

    Args:
        logits: (V,) or (B, V), of any floating-point dtype; -inf is possible and stays.
        temperature: the logits are divided by it.

    Returns:
        A new tensor of the same shape and dtype.

    Raises:
        ValueError: if the temperature is not a positive, finite number.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"a temperature is positive and finite, got {temperature}")
    return logits / temperature


def keep_top_k(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Keep the k largest logits of each row; the others become -inf.

    Args:
        logits: (V,) or (B, V), contiguous or not; it is not changed.
        k: how many stay; all of them if k is V or more. Of equal logits those with the smaller token numbers stay, so exactly
            k tokens do.

    Returns:
        A new tensor of the same shape and dtype. What stays has its old value.

    Raises:
        ValueError: if k is less than 1.

    Source: Fan, Lewis and Dauphin, Hierarchical Neural Story Generation, 2018, section 5.4.
    """
    if k < 1:
        raise ValueError(f"at least one token has to stay, got k={k}")
    order = logits.argsort(dim=-1, descending=True, stable=True)  # (..., V), the largest first
    return logits.scatter(-1, order[..., k:], -math.inf)


def keep_top_p(logits: torch.Tensor, p: float) -> torch.Tensor:
    """Keep the smallest set of tokens whose probability reaches p, in each row; the others become -inf.

    The tokens are taken from the most probable one on; of equally probable ones the smaller token number comes first. The
    token with which the sum reaches p (is p or more) is the last that stays. So at least one stays.

    Args:
        logits: (V,) or (B, V), contiguous or not; it is not changed. Their softmax gives the probabilities; compute it in
            float32 or better.
        p: more than 0, at most 1. With 1 nothing is taken away, however improbable it is.

    Returns:
        A new tensor of the same shape and dtype. What stays has its old value.

    Raises:
        ValueError: if p is not more than 0 and at most 1.

    Source: Holtzman, Buys, Du, Forbes and Choi, The Curious Case of Neural Text Degeneration, 2020, section 3.1.
    """
    if not 0 < p <= 1:
        raise ValueError(f"p is more than 0 and at most 1, got {p}")
    if p == 1:
        return logits.clone()
    order = logits.argsort(dim=-1, descending=True, stable=True)  # (..., V), the largest first
    probabilities = logits.softmax(dim=-1, dtype=torch.float64).gather(-1, order)
    before = probabilities.cumsum(dim=-1) - probabilities  # what the tokens in front of this one have together
    dropped = torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before >= p)
    return logits.masked_fill(dropped, -math.inf)

# %% mistakes="keep_top_p"
{
    "the logits are multiplied by the temperature and not divided": (
        "return logits / temperature",
        "return logits * temperature",
    ),
    "the temperature is applied to the probabilities: the softmax comes before the division": (
        "return logits / temperature",
        "return logits.softmax(-1) / temperature",
    ),
    "the square root of the temperature divides": ("logits / temperature", "logits / math.sqrt(temperature)"),
    "a temperature of zero gives inf and nan, and no error": (
        "if not 0 < temperature < math.inf:",
        "if not temperature < math.inf:",
    ),
    "an infinite temperature is accepted, which makes every token equally probable": (
        "if not 0 < temperature < math.inf:",
        "if not 0 < temperature:",
    ),
    "k + 1 tokens stay": ("order[..., k:]", "order[..., k + 1 :]"),
    "k - 1 tokens stay": ("order[..., k:]", "order[..., k - 1 :]"),
    "the k smallest logits stay": (
        "order = logits.argsort(dim=-1, descending=True, stable=True)  # (..., V), the largest first\n    return",
        "order = logits.argsort(dim=-1, stable=True)\n    return",
    ),
    "all logits that equal the k-th largest stay, which may be more than k": (
        "    return logits.scatter(-1, order[..., k:], -math.inf)",
        "    last = logits.gather(-1, order[..., min(k, order.shape[-1]) - 1 :][..., :1])\n"
        "    return logits.masked_fill(logits < last, -math.inf)",
    ),
    "of equal logits the larger token numbers stay": (
        "order = logits.argsort(dim=-1, descending=True, stable=True)  # (..., V), the largest first\n    return",
        "order = logits.argsort(dim=-1, stable=True).flip(-1)\n    return",
    ),
    "the logits are returned in sorted order by top-k": (
        "    return logits.scatter(-1, order[..., k:], -math.inf)",
        "    ranked = logits.gather(-1, order)\n    ranked[..., k:] = -math.inf\n    return ranked",
    ),
    "the logits that are passed in are changed by top-k": (
        "logits.scatter(-1, order[..., k:]",
        "logits.scatter_(-1, order[..., k:]",
    ),
    "what top-k drops gets a logit of 0, and so a probability": ("order[..., k:], -math.inf)", "order[..., k:], 0.0)"),
    "k = 0 is accepted, and leaves nothing": ("if k < 1:", "if k < 0:"),
    "the token that crosses p is dropped": ("before >= p)", "before + probabilities >= p)"),
    "the token that crosses p is dropped, except where it is the first": (
        "before >= p)",
        "(before > 0) & (before + probabilities >= p))",
    ),
    "one token too many stays where the sum is p exactly": ("before >= p)", "before > p)"),
    "a whole token more than needed stays": ("before >= p)", "before - probabilities >= p)"),
    "the sorted order is not undone, so other tokens are dropped": (
        "torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before >= p)",
        "before >= p",
    ),
    "the order is undone with gather and not with scatter": (
        "torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before >= p)",
        "(before >= p).gather(-1, order)",
    ),
    "tokens are kept that have a probability of p each": (
        "torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before >= p)",
        "logits.softmax(-1) < p",
    ),
    "the logits are added up and not their probabilities": (
        "logits.softmax(dim=-1, dtype=torch.float64).gather(-1, order)",
        "logits.double().gather(-1, order)",
    ),
    "the least probable tokens are taken first": (
        "order = logits.argsort(dim=-1, descending=True, stable=True)  # (..., V), the largest first\n    probabilities",
        "order = logits.argsort(dim=-1, stable=True)\n    probabilities",
    ),
    "of equally probable tokens the larger numbers stay": (
        "order = logits.argsort(dim=-1, descending=True, stable=True)  # (..., V), the largest first\n    probabilities",
        "order = logits.argsort(dim=-1, stable=True).flip(-1)\n    probabilities",
    ),
    "the probabilities are returned and not the logits": (
        "return logits.masked_fill(dropped, -math.inf)",
        "return logits.softmax(-1).masked_fill(dropped, 0.0)",
    ),
    "what top-p drops gets a logit of 0, and so a probability": (
        "logits.masked_fill(dropped, -math.inf)",
        "logits.masked_fill(dropped, 0.0)",
    ),
    "the logits that are passed in are changed by top-p": ("logits.masked_fill(dropped", "logits.masked_fill_(dropped"),
    "all rows of a batch keep what the first row keeps": (
        "return logits.masked_fill(dropped, -math.inf)",
        "return logits.masked_fill(dropped if logits.ndim == 1 else dropped[:1], -math.inf)",
    ),
    "with p = 1 the tail is dropped where the sum is 1 up to rounding": (
        "    if p == 1:\n        return logits.clone()\n",
        "",
    ),
    "p = 0 is accepted": ("if not 0 < p <= 1:", "if not 0 <= p <= 1:"),
}

# %% given
def draws(logits: torch.Tensor, n: int, seed: int = 0, ids: list[int] | None = None, **sampling: Any) -> list[int]:
    """For the checks of exercise 2: what `next_token` chooses, n times, with one generator and the given settings."""
    generator, settings = torch.Generator().manual_seed(seed), Sampling(**sampling)
    return [next_token(logits.clone(), list(ids or []), settings, generator) for _ in range(n)]


def draw_facts(logits: torch.Tensor, **sampling: Any) -> dict[str, bool]:
    """For the checks of exercise 2: what else changes when a token is drawn."""
    kept, ids, before = logits.clone(), [1, 2, 1], torch.get_rng_state()
    generator = torch.Generator().manual_seed(5)
    found = next_token(logits, ids, Sampling(**sampling), generator)
    return {
        "the logits are as they were": torch.equal(logits, kept),
        "the ids are as they were": ids == [1, 2, 1],
        "torch's own random state is as it was": torch.equal(before, torch.get_rng_state()),
        "the result is an int": type(found) is int,
    }

# %% exercise="next_token"
def penalise(logits: torch.Tensor, ids: list[int] | torch.Tensor, penalty: float) -> torch.Tensor:
    """Make tokens less probable that have occurred.

    The logit of each token in ``ids`` is divided by the penalty if it is positive and multiplied by it otherwise. It happens
    once for each token, however often the token occurs.

    Args:
        logits: (V,) or (B, V); it is not changed.
        ids: the tokens that have occurred: a list or a tensor of T numbers, which may be empty. For (B, V) a tensor (B, T);
            every row of the logits pays for its own tokens.
        penalty: more than 1 makes repetition less probable, 1 changes nothing, less than 1 makes it more probable.

    Returns:
        A new tensor of the same shape and dtype.

    Raises:
        ValueError: if the penalty is not a positive, finite number.

    Source: Keskar, McCann, Varshney, Xiong and Socher, CTRL: A Conditional Transformer Language Model for Controllable
    Generation, 2019, section 4.1, with the signs as in today's libraries.
    """
    if not 0 < penalty < math.inf:
        raise ValueError(f"a penalty is positive and finite, got {penalty}")
    ids = torch.as_tensor(ids, dtype=torch.int64, device=logits.device)
    occurred = logits.gather(-1, ids)
    paid = torch.where(occurred > 0, occurred / penalty, occurred * penalty)
    return logits.scatter(-1, ids, paid)


def next_token(logits: torch.Tensor, ids: list[int], sampling: Sampling, generator: torch.Generator) -> int:
    """Choose the next token.

    In this order: `penalise` with all of ``ids``, `scale`, `keep_top_k`, `keep_top_p`; the last two only if they are not None.
    What is left is drawn with the probabilities of its softmax. With temperature 0 the choice is the largest logit after the
    penalty, of equal ones the one with the smallest number; top_k and top_p have no part in it.

    Args:
        logits: (V,), what the model says of the next token; it is not changed.
        ids: all tokens so far, the prompt included.
        sampling: the settings; ``stop``, ``max_tokens`` and ``seed`` have no part in it.
        generator: the only source of chance. In the same state it gives the same token. The random state of torch itself is
            neither used nor changed.

    Returns:
        The number of the token, an int.

    Raises:
        ValueError: if a logit is NaN or +inf, or all are -inf. The message says what was found ("NaN" or "inf"), what it means,
            and what to try. Also with temperature 0.
    """
    if logits.isnan().any():
        raise ValueError("a logit is NaN: the weights are broken, or training went too far; try an earlier checkpoint")
    if (logits == math.inf).any() or (logits == -math.inf).all():
        raise ValueError("the logits hold +inf, or nothing but -inf: no token can be chosen; look at masks and weights")
    logits = penalise(logits, ids, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return int(logits.argmax())
    logits = scale(logits, sampling.temperature)
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = keep_top_p(logits, sampling.top_p)
    return int(torch.multinomial(logits.softmax(dim=-1), 1, generator=generator))

# %% mistakes="next_token"
{
    "positive logits are multiplied by the penalty and negative ones divided": (
        "torch.where(occurred > 0, occurred / penalty, occurred * penalty)",
        "torch.where(occurred > 0, occurred * penalty, occurred / penalty)",
    ),
    "all logits are divided by the penalty, so negative ones get more probable": (
        "torch.where(occurred > 0, occurred / penalty, occurred * penalty)",
        "occurred / penalty",
    ),
    "all logits are multiplied by the penalty": (
        "torch.where(occurred > 0, occurred / penalty, occurred * penalty)",
        "occurred * penalty",
    ),
    "the penalty is subtracted": (
        "torch.where(occurred > 0, occurred / penalty, occurred * penalty)",
        "occurred - penalty",
    ),
    "a token pays for every time that it occurred": (
        "    paid = torch.where(occurred > 0, occurred / penalty, occurred * penalty)\n",
        "    times = (ids.unsqueeze(-1) == ids.unsqueeze(-2)).sum(-1)\n"
        "    paid = torch.where(occurred > 0, occurred / penalty**times, occurred * penalty**times)\n",
    ),
    "only the last token counts as what has occurred": (
        "penalise(logits, ids, sampling.repetition_penalty)",
        "penalise(logits, ids[-1:], sampling.repetition_penalty)",
    ),
    "only the last token pays": (
        "ids = torch.as_tensor(ids, dtype=torch.int64, device=logits.device)",
        "ids = torch.as_tensor(ids, dtype=torch.int64, device=logits.device)[..., -1:]",
    ),
    "the tokens pay that have not occurred": (
        "return logits.scatter(-1, ids, paid)",
        "return torch.where(logits > 0, logits / penalty, logits * penalty).scatter(-1, ids, occurred)",
    ),
    "the logits that are passed in are changed": ("logits.scatter(-1, ids, paid)", "logits.scatter_(-1, ids, paid)"),
    "a penalty of 0 is accepted": ("if not 0 < penalty < math.inf:", "if not 0 <= penalty < math.inf:"),
    "the penalty is forgotten": (
        "    logits = penalise(logits, ids, sampling.repetition_penalty)\n    if sampling.temperature == 0:",
        "    if sampling.temperature == 0:",
    ),
    "with temperature 0 there is no penalty": (
        "    logits = penalise(logits, ids, sampling.repetition_penalty)\n    if sampling.temperature == 0:\n        return int(logits.argmax())\n",
        "    if sampling.temperature == 0:\n        return int(logits.argmax())\n    logits = penalise(logits, ids, sampling.repetition_penalty)\n",
    ),
    "temperature 0 is divided by, after a small number is added": (
        "    if sampling.temperature == 0:\n        return int(logits.argmax())\n    logits = scale(logits, sampling.temperature)\n",
        "    logits = scale(logits, sampling.temperature + 1e-3)\n",
    ),
    "the most probable token is always taken": (
        "int(torch.multinomial(logits.softmax(dim=-1), 1, generator=generator))",
        "int(logits.argmax())",
    ),
    "with temperature 0 the last of equal logits is taken": (
        "return int(logits.argmax())",
        "return len(logits) - 1 - int(logits.flip(0).argmax())",
    ),
    "the temperature is forgotten": ("    logits = scale(logits, sampling.temperature)\n", ""),
    "the temperature comes last, after top-k and top-p": [
        ("    logits = scale(logits, sampling.temperature)\n", ""),
        ("logits.softmax(dim=-1)", "scale(logits, sampling.temperature).softmax(dim=-1)"),
    ],
    "top-p comes before top-k": [
        ("    if sampling.top_k is not None:\n        logits = keep_top_k(logits, sampling.top_k)\n", ""),
        (
            "        logits = keep_top_p(logits, sampling.top_p)\n",
            "        logits = keep_top_p(logits, sampling.top_p)\n"
            "    if sampling.top_k is not None:\n        logits = keep_top_k(logits, sampling.top_k)\n",
        ),
    ],
    "the penalty comes last": [
        (
            "    logits = penalise(logits, ids, sampling.repetition_penalty)\n    if sampling.temperature == 0:\n        return int(logits.argmax())\n",
            "    if sampling.temperature == 0:\n        return int(penalise(logits, ids, sampling.repetition_penalty).argmax())\n",
        ),
        (
            "    return int(torch.multinomial(",
            "    logits = penalise(logits, ids, sampling.repetition_penalty)\n    return int(torch.multinomial(",
        ),
    ],
    "top-k is forgotten": (
        "    if sampling.top_k is not None:\n        logits = keep_top_k(logits, sampling.top_k)\n",
        "",
    ),
    "top-p is forgotten": (
        "    if sampling.top_p is not None:\n        logits = keep_top_p(logits, sampling.top_p)\n",
        "",
    ),
    "top-p is used only where there is no top-k": (
        "    if sampling.top_p is not None:",
        "    elif sampling.top_p is not None:",
    ),
    "what is left is drawn with equal probabilities": (
        "logits.softmax(dim=-1), 1,",
        "(logits > -math.inf).double(), 1,",
    ),
    "the softmax is taken twice": (
        "logits.softmax(dim=-1), 1,",
        "logits.softmax(dim=-1).masked_fill(logits == -math.inf, -math.inf).softmax(dim=-1), 1,",
    ),
    "the generator is ignored, and torch's own random state is used": (", 1, generator=generator)", ", 1)"),
    "the generator begins anew at every token": (
        "    return int(torch.multinomial(",
        "    generator.manual_seed(generator.initial_seed())\n    return int(torch.multinomial(",
    ),
    "the seed of the settings is used, and not the generator": (
        "generator=generator))",
        "generator=torch.Generator().manual_seed(sampling.seed)))",
    ),
    "a tensor is returned and not an int": (
        "return int(torch.multinomial(logits.softmax(dim=-1), 1, generator=generator))",
        "return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)[0]",
    ),
    "NaN is not noticed, and temperature 0 chooses it": (
        '    if logits.isnan().any():\n        raise ValueError("a logit is NaN: the weights are broken, or training went too far; try an earlier checkpoint")\n',
        "",
    ),
    "+inf is not noticed": ("(logits == math.inf).any() or ", ""),
    "nothing but -inf is not noticed": (" or (logits == -math.inf).all()", ""),
    "one logit of -inf is refused, which is an ordinary thing": (
        "(logits == -math.inf).all()",
        "(logits == -math.inf).any()",
    ),
}

# %% given
class Script(nn.Module):
    """A model for checks. Whatever it reads, at call n it scores the next token with row n of its script.

    At all positions but the last it says token 0. It has a part in the other mode than the rest, and notes what it is asked.
    """

    def __init__(self, rows: torch.Tensor, context: int, training: bool, breaks_at: int | None):
        super().__init__()
        self.config = GPTConfig(rows.shape[1], context, 4, 1, 1, 4)
        self.rows, self.breaks_at, self.asked = rows, breaks_at, []
        self.size = nn.Parameter(torch.ones(()))
        self.dropout, self.frozen = nn.Dropout(0.5), nn.Dropout(0.5)
        self.train(training)
        self.frozen.train(not training)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        call = len(self.asked)
        evaluation = not any(module.training for module in self.modules())
        self.asked.append({"ids": ids.tolist(), "evaluation": evaluation, "gradients": torch.is_grad_enabled()})
        if call == self.breaks_at:
            raise RuntimeError("the model breaks down")
        if ids.shape[1] > self.config.context:
            raise ValueError(f"{ids.shape[1]} tokens do not fit into a context of {self.config.context}")
        logits = torch.zeros(*ids.shape, self.rows.shape[1], dtype=self.rows.dtype)
        logits[..., 0] = 1e3
        logits[:, -1] = self.rows[call % len(self.rows)]
        return self.dropout(logits) * self.size

    def modes(self) -> list[bool]:
        return [module.training for module in self.modules()]


def rows_for(tokens: list[int], vocab_size: int) -> torch.Tensor:
    """A script in which these tokens have the largest logits, one after the other."""
    return 20 * F.one_hot(torch.tensor(tokens), vocab_size).float()


def streamed(
    script: list[int] | torch.Tensor,
    prompt: str = "Q",
    merges: list[tuple[int, int]] | None = None,
    context: int = 8,
    training: bool = False,
    breaks_at: int | None = None,
    leave_after: int | None = None,
    **sampling: Any,
) -> dict[str, Any]:
    """For the checks of exercise 3: what comes out of `stream`, and what it does on the way.

    Args:
        script: the tokens that the model says with certainty, or logits (calls, V).
        merges: of the tokenizer; none if left out, so that a token is a byte.
        breaks_at: the number of the model's call that raises a RuntimeError.
        leave_after: after so many pieces the caller loses interest.
        sampling: the settings; temperature 0 and as many tokens as the script has where they are left out.

    Returns:
        "text": the pieces, joined; "shown": for each call of the model the text that had come out before it, and at last
        all of it; "empty": whether a piece was empty; "asked": the windows; "error"; "facts", all of which should be True.
    """
    tokenizer = Tokenizer(merges or [])
    rows = script if isinstance(script, torch.Tensor) else rows_for(script, tokenizer.vocab_size)
    model = Script(rows, context, training, breaks_at)
    settings = Sampling(**({"temperature": 0.0, "max_tokens": len(rows)} | sampling))
    modes, random, pieces, shown = model.modes(), torch.get_rng_state(), [], []
    between, gradients, error = modes, True, ""
    try:
        for piece in stream(model, tokenizer, prompt, settings):
            shown += ["".join(pieces)] * (len(model.asked) - len(shown))
            pieces.append(piece)
            between = between if between != modes else model.modes()
            gradients = gradients and torch.is_grad_enabled()
            if len(pieces) == leave_after:
                break
    except NotImplementedError:
        raise
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    torch.set_grad_enabled(True)
    shown += ["".join(pieces)] * (len(model.asked) - len(shown))
    facts = {
        "between two pieces gradients are on, as the caller left them": gradients,
        "between two pieces every part of the model is in the mode that it had": between == modes or str(between),
        "afterwards every part of the model is in the mode that it had": model.modes() == modes or str(model.modes()),
        "the model is asked in evaluation mode": all(call["evaluation"] for call in model.asked),
        "the model is asked without gradients": not any(call["gradients"] for call in model.asked),
        "torch's own random state is as it was": torch.equal(random, torch.get_rng_state()),
        "every window is one sequence": all(len(call["ids"]) == 1 for call in model.asked),
    }
    return {
        "text": "".join(pieces),
        "shown": [*shown, "".join(pieces)],
        "empty": "" in pieces,
        "asked": [call["ids"][0] for call in model.asked],
        "error": error,
        "facts": facts,
    }


def side_by_side(rows: torch.Tensor, seeds: tuple[int, int], **sampling: Any) -> list[str]:
    """For the checks of exercise 3: two streams that take turns, piece by piece; the text of each."""
    tokenizer, texts = Tokenizer([]), ["", ""]
    models = [Script(rows, 8, False, None) for _ in seeds]
    streams = [
        iter(stream(model, tokenizer, "Q", Sampling(seed=seed, max_tokens=len(rows), **sampling)))
        for model, seed in zip(models, seeds, strict=True)
    ]
    for _ in range(len(rows) + 1):
        for number, pieces in enumerate(streams):
            texts[number] += next(pieces, "")
    return texts

# %% exercise="stream"
def stream(model: nn.Module, tokenizer: Tokenizer, prompt: str, sampling: Sampling) -> Iterator[str]:
    """Continue a text, and give out the new part piece by piece.

    Every token is chosen by `next_token` with the ids of the whole text so far, the prompt included. The model sees the last
    ``model.config.context`` of these ids, and its answer at the last position counts. All chance comes from one generator
    that is seeded with sampling.seed, so the same arguments give the same text, whatever else runs in between.

    Args:
        model: takes ids (1, T), returns logits (1, T, V); it may be on any device. It is asked within ``asking(model)``, and
            whenever the caller's code runs (between two pieces, at the end, after an error) every part of it is in the mode that
            it had, and gradients are as the caller left them. It is not asked more often than once for each token.
        tokenizer: with `encode` and `decode`.
        prompt: the beginning; not part of what is given out.
        sampling: the settings.

    Yields:
        Pieces of text, none of them empty. Joined they are the new text: the new ids, decoded together, up to the first stop
        string. That is the one in ``sampling.stop`` that is complete first, character by character, and of two that are
        complete with the same character the longer one. Neither it nor anything after it is part of the text. A stop string
        counts if all of it is new; what stands in the prompt has no part in it.

        A text is shown as soon as no later token can change it. After each token all is given out except U+FFFD at its end
        (that may be the beginning of a character) and, before that, the longest end that is the beginning of a stop string.
        What was held back is given out when the text is over because max_tokens new ids are there; a character that is
        not complete then is U+FFFD, as `decode` gives it. After a stop string the model is not asked again.

    Raises:
        ValueError: if the prompt has no tokens, with a message that says what to try; or from `next_token`. At the latest when
            the first piece is asked for.
    """
    ids = list(tokenizer.encode(prompt))
    if not ids:
        raise ValueError("the prompt is empty, and a model needs a token to go on from: try a line break")
    generator = torch.Generator().manual_seed(sampling.seed)
    device = next(model.parameters()).device
    new, done, held = [], 0, ""  # the new ids; how many of their characters are dealt with; what waits
    while len(new) < sampling.max_tokens:
        with asking(model):
            window = torch.tensor([ids[-model.config.context :]], device=device)  # (1, at most context)
            logits = model(window)[0, -1].cpu()  # (V,)
        token = next_token(logits, ids, sampling, generator)
        ids.append(token)
        new.append(token)
        over = len(new) == sampling.max_tokens
        text = tokenizer.decode(new)
        if not over:
            text = text.rstrip("\ufffd")
        held, done = held + text[done:], len(text)
        found = [(held.find(stop) + len(stop), held.find(stop)) for stop in sampling.stop if stop in held]
        if found:
            begin = min(found)[1]
            if begin:
                yield held[:begin]
            return
        waits = 0
        if not over:
            waits = max((n for stop in sampling.stop for n in range(len(stop)) if held.endswith(stop[:n])), default=0)
        piece, held = held[: len(held) - waits], held[len(held) - waits :]
        if piece:
            yield piece

# %% mistakes="stream"
{
    "the model is shown the whole text, also where it is longer than the context": (
        "ids[-model.config.context :]",
        "ids",
    ),
    "the model is shown the first tokens of a long text and not the last": (
        "ids[-model.config.context :]",
        "ids[: model.config.context]",
    ),
    "the model is shown one token less than its context": (
        "ids[-model.config.context :]",
        "ids[-max(model.config.context - 1, 1) :]",
    ),
    "the model is shown the new tokens only, and the prompt is forgotten": (
        "ids[-model.config.context :]",
        "(new or ids)[-model.config.context :]",
    ),
    "the model's answer at the first position counts, and not that at the last": (
        "model(window)[0, -1]",
        "model(window)[0, 0]",
    ),
    "the prompt is given out, too": (
        '    new, done, held = [], 0, ""',
        '    yield prompt\n    new, done, held = [], 0, ""',
    ),
    "the text comes out in one piece when it is finished": (
        "        if not over:\n            waits = max(",
        "        if not over:\n            waits = len(held) or max(",
    ),
    "an empty prompt is not refused": ("    if not ids:\n", "    if False:\n"),
    "the text is one token too long": (
        "while len(new) < sampling.max_tokens:",
        "while len(new) <= sampling.max_tokens:",
    ),
    "the model is asked once more after the last token": (
        "        if piece:\n            yield piece\n",
        "        if piece:\n            yield piece\n        if over:\n            with asking(model):\n                model(window)\n",
    ),
    "the model is asked in the mode in which it happens to be, dropout and all": (
        "        with asking(model):\n",
        "        with torch.no_grad():\n",
    ),
    "the model is left in evaluation mode": (
        "        with asking(model):\n",
        "        model.eval()\n        with torch.no_grad():\n",
    ),
    "the model is put into training mode afterwards, whatever it was before": (
        "        token = next_token(",
        "        model.train()\n        token = next_token(",
    ),
    "everything is kept for a backward pass that never comes": (
        "        with asking(model):\n",
        "        with asking(model), torch.enable_grad():\n",
    ),
    "yield stands within asking, so that the caller has no gradients, and a model in evaluation mode, between two pieces": [
        (
            "    while len(new) < sampling.max_tokens:\n        with asking(model):\n",
            "    with asking(model):\n      while len(new) < sampling.max_tokens:\n        if True:\n",
        ),
    ],
    "torch's own random state is seeded": (
        "generator = torch.Generator().manual_seed(sampling.seed)",
        "torch.manual_seed(sampling.seed)\n    generator = torch.default_generator",
    ),
    "chance comes from torch's own random state, and the seed is ignored": (
        "generator = torch.Generator().manual_seed(sampling.seed)",
        "generator = torch.default_generator",
    ),
    "the seed of the settings is ignored": ("manual_seed(sampling.seed)", "manual_seed(0)"),
    "the generator begins anew at every token": (
        "        token = next_token(",
        "        generator.manual_seed(sampling.seed)\n        token = next_token(",
    ),
    "the penalty does not see the prompt": ("next_token(logits, ids, sampling", "next_token(logits, new, sampling"),
    "the penalty forgets what has left the window": (
        "next_token(logits, ids, sampling",
        "next_token(logits, ids[-model.config.context :], sampling",
    ),
    "the most probable token is always taken, whatever the settings": (
        "token = next_token(logits, ids, sampling, generator)",
        "token = int(logits.argmax()) if logits.isfinite().all() else next_token(logits, ids, sampling, generator)",
    ),
    "a character that is not complete is shown as U+FFFD at once": (
        '        if not over:\n            text = text.rstrip("\\ufffd")\n',
        "",
    ),
    "every token is decoded by itself": [
        (
            '        text = tokenizer.decode(new)\n        if not over:\n            text = text.rstrip("\\ufffd")\n',
            "        text = tokenizer.decode([token])\n",
        ),
        ("held + text[done:], len(text)", "held + text, 0"),
    ],
    "a character that is not complete at the end is left out": (
        '        if not over:\n            text = text.rstrip("\\ufffd")\n',
        '        text = text.rstrip("\\ufffd")\n',
    ),
    "the text before an unfinished character waits with it": (
        '            text = text.rstrip("\\ufffd")\n',
        '            text = text if not text.endswith("\\ufffd") else text[:done]\n',
    ),
    "a stop string is found only within one token": [
        ("held, done = held + text[done:], len(text)", "held, done = text[done:], len(text)"),
        ("        if not over:\n            waits = max(", "        if False:\n            waits = max("),
    ],
    "the beginning of a stop string is shown before the rest of it comes": [
        ('    new, done, held = [], 0, ""', '    new, done, held, shown = [], 0, "", 0'),
        (
            "            if begin:\n                yield held[:begin]\n",
            "            if begin > shown:\n                yield held[shown:begin]\n",
        ),
        (
            "        piece, held = held[: len(held) - waits], held[len(held) - waits :]\n",
            "        piece, shown = held[shown:], len(held)\n",
        ),
    ],
    "the stop string itself is shown": ("yield held[:begin]", "yield held[: min(found)[0]]"),
    "the text before the stop string in the same token is lost": (
        "            if begin:\n                yield held[:begin]\n            return",
        "            return",
    ),
    "a stop string ends nothing: the text goes on behind it": [
        ("            return\n        waits", "            held = held[min(found)[0] :]\n        waits"),
    ],
    "a stop string is ignored": ("if stop in held]", "if False]"),
    "only the first stop string of the list is looked for": (
        "for stop in sampling.stop if stop in held]",
        "for stop in sampling.stop[:1] if stop in held]",
    ),
    "of several stop strings the one that begins first counts, and not the one that is complete first": (
        "min(found)[1]",
        "min(begin for _, begin in found)",
    ),
    "of several stop strings the one that stands first in the list counts": (
        "min(found)[1]",
        "found[0][1]",
    ),
    "one character less than needed waits": ("for n in range(len(stop))", "for n in range(len(stop) - 1)"),
    "as many characters wait as the longest stop string has, whatever they are": (
        "waits = max((n for stop in sampling.stop for n in range(len(stop)) if held.endswith(stop[:n])), default=0)",
        "waits = min(len(held), max((len(stop) for stop in sampling.stop), default=0))",
    ),
    "only the longest stop string is considered when text is held back": (
        "for stop in sampling.stop for n",
        "for stop in sorted(sampling.stop, key=len)[-1:] for n",
    ),
    "the shortest end that may become a stop string waits, and not the longest": (
        "waits = max((n for stop in sampling.stop for n in range(len(stop)) if held.endswith(stop[:n])), default=0)",
        "waits = min((n for stop in sampling.stop for n in range(1, len(stop)) if held.endswith(stop[:n])), default=0)",
    ),
    "what waits at the end is lost": (
        "        waits = 0\n        if not over:\n            waits =",
        "        waits = 0\n        if True:\n            waits =",
    ),
    "the prompt is searched for stop strings, too": (
        '    new, done, held = [], 0, ""',
        '    if any(stop in prompt for stop in sampling.stop):\n        return\n    new, done, held = [], 0, ""',
    ),
    "a stop string may begin in the prompt": (
        "        found = [(",
        "        if any((prompt + text).endswith(stop) and not text.endswith(stop) for stop in sampling.stop):\n            return\n        found = [(",
    ),
    "empty pieces are given out while text waits": (
        "        if piece:\n            yield piece\n",
        "        yield piece\n",
    ),
}

# %% given
@dataclass(frozen=True)
class Parts:
    """What a text has been made into.

    Attributes:
        tokenizer, model, config: yours; the config belongs to the model.
        train_ids, validation_ids: the two parts of the text.
    """

    tokenizer: Tokenizer
    model: nn.Module
    config: Any
    train_ids: torch.Tensor
    validation_ids: torch.Tensor


SHAPE = {"context": 6, "d_model": 8, "n_layers": 1, "n_heads": 2, "d_ff": 12}
SETTINGS = {
    "batch_size": 2,
    "context": 6,
    "lr": 0.1,
    "min_lr": 0.05,
    "warmup": 0,
    "eval_every": 1000,
    "save_every": 3,
}


def built(text: str, vocab_size: int, **more: Any) -> dict[str, Any]:
    """For the checks of exercise 4: what `build` has made, as plain values."""
    parts = build(text, vocab_size, **(SHAPE | more))
    with torch.no_grad():
        logits = parts.model(torch.zeros(1, 2, dtype=torch.int64))
    twin = GPT(parts.config).state_dict()
    return {
        "merges": parts.tokenizer.merges,
        "train": parts.train_ids,
        "validation": parts.validation_ids,
        "train text": parts.tokenizer.decode(parts.train_ids.tolist()),
        "validation text": parts.tokenizer.decode(parts.validation_ids.tolist()),
        "config": asdict(parts.config),
        "logits for each position": logits.shape[-1],
        "the weights are those of the config": all(
            torch.equal(value, twin[name]) for name, value in parts.model.state_dict().items()
        ),
    }


def stages_of(
    stages: list[int],
    text: str,
    earlier: list[int] | None = None,
    steps: int = 4,
    dropout: float = 0.3,
    prompt: str = "ab",
    settings: dict[str, Any] | None = None,
    **sampling: Any,
) -> dict[str, Any]:
    """For the checks of exercise 4: a run in stages, and what `train` alone makes of the same stages.

    Args:
        stages: of the call of `train_in_stages` that is judged.
        earlier: stages of a call before that, with another model and the same file.
        settings: of the TrainConfig, where they differ from SETTINGS.
        sampling: of the samples.

    Returns:
        "rows" (what the judged call returned); "error"; "files"; "same weights": whether the model is equal to the bit to
        one that `train` has brought to the last stage; "want": for each stage the loss of its step, the
        validation loss, and the sample, from a model that was loaded at that stage.
    """
    config = TrainConfig(steps=steps, **(SETTINGS | (settings or {})))
    writing = Sampling(**({"max_tokens": 5, "seed": 3} | sampling))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "run.pt")
        parts = build(text, 260, dropout=dropout, **SHAPE)
        if earlier:
            train_in_stages(build(text, 260, dropout=dropout, **SHAPE), config, earlier, prompt, writing, path)
        torch.manual_seed(99)
        rows, error = [], ""
        try:
            rows = train_in_stages(parts, config, stages, prompt, writing, path)
        except NotImplementedError:
            raise
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
        files = sorted(os.listdir(folder))
        want, other = [], parts
        for stage in stages if not error else []:
            # The same run once more, each stage loaded into a model of its own.
            other = build(text, 260, dropout=dropout, **SHAPE)
            history = train(other.model, other.train_ids, config, path=os.path.join(folder, "twin.pt"), until=stage)
            validation = evaluate(other.model, other.validation_ids, config.batch_size, config.context)
            sample = "".join(stream(other.model, other.tokenizer, prompt, writing))
            want.append({"step": stage, "loss": history[-1]["loss"], "validation": validation, "sample": sample})
        weights = other.model.state_dict()
        same = all(torch.equal(value, weights[name]) for name, value in parts.model.state_dict().items())
    return {"rows": rows, "error": error, "files": files, "same weights": same, "want": want}

# %% exercise="build"
def build(text: str, vocab_size: int, share: float = 0.9, **shape: Any) -> Parts:
    """A tokenizer, a model and the tokens, all from one text.

    Args:
        text: its first int(share * number of characters) characters are for training, all that follow for validation. The
            two parts are encoded separately.
        vocab_size: of the tokenizer, at most. `train_bpe` learns the merges, from the training part alone.
        share: of the training part.
        shape: the other settings of the model: context, d_model, n_layers, n_heads, d_ff and, if wanted, dropout, eps, seed.

    Returns:
        The parts. The model's vocab_size is the number of tokens that the tokenizer really has, which is smaller than
        ``vocab_size`` if the text has not so many merges.

    Raises:
        ValueError: if one of the two parts has less than two tokens, too few to predict anything. The message
            names the part: "training" or "validation".
    """
    cut = int(share * len(text))
    tokenizer = Tokenizer(train_bpe(text[:cut], vocab_size))
    train_ids, validation_ids = (torch.tensor(tokenizer.encode(part)) for part in (text[:cut], text[cut:]))
    for name, ids in (("training", train_ids), ("validation", validation_ids)):
        if len(ids) < 2:
            raise ValueError(f"the {name} part has {len(ids)} tokens; take a longer text, or another share")
    config = GPTConfig(vocab_size=tokenizer.vocab_size, **shape)
    return Parts(tokenizer, GPT(config), config, train_ids, validation_ids)


def train_in_stages(
    parts: Parts, settings: TrainConfig, stages: list[int], prompt: str, sampling: Sampling, path: str
) -> list[dict[str, Any]]:
    """Train with your `train`, and at each stage judge the model and let it write.

    Args:
        parts: of `build`; the model is trained in place, on the training part.
        settings: of the run.
        stages: numbers of steps, counted from the start of the run, each larger than the one before; the last is at most
            settings.steps.
        prompt, sampling: for `stream`.
        path: of the checkpoint. If there is one, the run goes on from it. Stages that it has passed already are left out: nobody
            can go back to them.

    Returns:
        For each stage a dict: "step", "loss" (of that step, as in the history), "validation" (the loss of the whole validation
        part at that moment, from `evaluate`, with the batch size and the context of the settings), "sample" (the new text,
        without the prompt). In the end the model has the weights of the last stage, the same to the bit as without stages.

    Raises:
        ValueError: if the stages do not grow, begin below 1 or end beyond settings.steps; before anything is trained.
    """
    if any(after <= before for before, after in pairwise([0, *stages, settings.steps + 1])):
        raise ValueError(f"stages have to grow, from 1 to at most {settings.steps}, got {stages}")
    rows = []
    for stage in stages:
        history = train(parts.model, parts.train_ids, settings, path=path, until=stage)
        if len(history) > stage:
            continue
        validation = evaluate(parts.model, parts.validation_ids, settings.batch_size, settings.context)
        sample = "".join(stream(parts.model, parts.tokenizer, prompt, sampling))
        rows.append({"step": stage, "loss": history[-1]["loss"], "validation": validation, "sample": sample})
    return rows

# %% mistakes="build"
{
    "the tokenizer learns its merges from the whole text, the validation part included": (
        "train_bpe(text[:cut], vocab_size)",
        "train_bpe(text, vocab_size)",
    ),
    "the tokenizer learns its merges from the validation part": (
        "train_bpe(text[:cut], vocab_size)",
        "train_bpe(text[cut:], vocab_size)",
    ),
    "the end of the text is for training and its beginning for validation": (
        "for part in (text[:cut], text[cut:])",
        "for part in (text[len(text) - cut :], text[: len(text) - cut])",
    ),
    "the validation part is the whole text": ("for part in (text[:cut], text[cut:])", "for part in (text[:cut], text)"),
    "the training part is the whole text": ("for part in (text[:cut], text[cut:])", "for part in (text, text[cut:])"),
    "the two parts share a character": ("text[cut:])", "text[max(cut - 1, 0) :])"),
    "a character between the two parts is lost": ("text[cut:])", "text[cut + 1 :])"),
    "the tokens are cut and not the text": (
        "train_ids, validation_ids = (torch.tensor(tokenizer.encode(part)) for part in (text[:cut], text[cut:]))",
        "ids = torch.tensor(tokenizer.encode(text))\n"
        "    train_ids, validation_ids = ids[: int(share * len(ids))], ids[int(share * len(ids)) :]",
    ),
    "the share is always 0.9": ("int(share * len(text))", "int(0.9 * len(text))"),
    "the model has the vocabulary that was allowed, and not that of the tokenizer": (
        "vocab_size=tokenizer.vocab_size",
        "vocab_size=vocab_size",
    ),
    "the model has as many tokens as the tokenizer has merges, and the bytes are forgotten": (
        "vocab_size=tokenizer.vocab_size",
        "vocab_size=max(len(tokenizer.merges), 1)",
    ),
    "the settings of the shape are not all passed on: dropout, eps and seed are lost": (
        "config = GPTConfig(vocab_size=tokenizer.vocab_size, **shape)",
        'config = GPTConfig(tokenizer.vocab_size, *(shape[key] for key in ("context", "d_model", "n_layers", "n_heads", "d_ff")))',
    ),
    "parts without anything to predict are accepted": ("if len(ids) < 2:", "if len(ids) < 0:"),
    "a part with one token is accepted": ("if len(ids) < 2:", "if len(ids) < 1:"),
    "each stage begins anew: the path is not passed on": (
        "settings, path=path, until=stage)",
        "settings, until=stage)",
    ),
    "the run never stops before its end": ("path=path, until=stage)", "path=path)"),
    "the steps of a stage are counted from the stage before": (
        "path=path, until=stage)",
        'path=path, until=stage + (rows[-1]["step"] if rows else 0))',
    ),
    "the model is trained on the validation part": (
        "train(parts.model, parts.train_ids,",
        "train(parts.model, parts.validation_ids,",
    ),
    "the validation loss is that of the training part": (
        "evaluate(parts.model, parts.validation_ids,",
        "evaluate(parts.model, parts.train_ids,",
    ),
    "the validation loss is the training loss of the step": (
        "        validation = evaluate(parts.model, parts.validation_ids, settings.batch_size, settings.context)\n",
        '        validation = history[-1]["loss"]\n',
    ),
    "the loss is that of the first step": ('history[-1]["loss"]', 'history[0]["loss"]'),
    "the loss is the mean over all steps": (
        '"loss": history[-1]["loss"]',
        '"loss": sum(row["loss"] for row in history) / len(history)',
    ),
    "the samples come from a model with first weights": (
        "stream(parts.model, parts.tokenizer, prompt",
        "stream(GPT(parts.config), parts.tokenizer, prompt",
    ),
    "the samples hold the prompt": ('sample = "".join(', 'sample = prompt + "".join('),
    "all samples are taken when the run is over": (
        "    return rows\n",
        '    for row in rows:\n        row["sample"] = sample\n    return rows\n',
    ),
    "a stage that the checkpoint has passed gets a row of its own, with the weights of a later step": (
        "        if len(history) > stage:\n            continue\n",
        "",
    ),
    "stages that do not grow are accepted": (
        "pairwise([0, *stages, settings.steps + 1])",
        "pairwise([0, *sorted(set(stages)), settings.steps + 1])",
    ),
    "a stage may be given twice": (
        "any(after <= before for before, after in pairwise([0, *stages, settings.steps + 1]))",
        "any(after < before for before, after in pairwise([0, *stages, settings.steps]))",
    ),
    "stages beyond the end of the run are accepted": (
        "pairwise([0, *stages, settings.steps + 1])",
        "pairwise([0, *stages])",
    ),
    "a first stage of 0 or less is accepted": (
        "pairwise([0, *stages, settings.steps + 1])",
        "pairwise([*stages, settings.steps + 1])",
    ),
    "a stage that is wrong is noticed only when its turn comes": [
        (
            "    if any(after <= before for before, after in pairwise([0, *stages, settings.steps + 1])):\n"
            '        raise ValueError(f"stages have to grow, from 1 to at most {settings.steps}, got {stages}")\n',
            "",
        ),
        (
            "    for stage in stages:\n",
            "    for number, stage in enumerate(stages):\n"
            "        if stage <= [0, *stages][number] or stage > settings.steps:\n            raise ValueError(stage)\n",
        ),
    ],
}

# %% given
def saved(
    shape: dict[str, Any], merges: list[tuple[int, int]], facts: dict[str, Any], seed: int = 0, times: int = 1
) -> dict[str, Any]:
    """For the checks of exercise 5: what `save_model` leaves in a folder.

    Args:
        shape: of the GPTConfig. The weights are drawn with ``seed``; those of the last saving count.
        times: how often a model is saved under the same name, each time with another seed.

    Returns:
        "content" (the bytes of the file), "state" (the weights that went in), "files", and two facts that should be True.
    """
    config, tokenizer = GPTConfig(**shape), Tokenizer(merges)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.safetensors")
        reader, before = None, b""
        for number in range(times):
            model = GPT(config)
            draw = torch.Generator().manual_seed(seed + number)
            for parameter in model.parameters():
                drawn = torch.randn(*reversed(parameter.shape), generator=draw)
                parameter.data = drawn.T if parameter.ndim == 2 else drawn
            if number == times - 1 and times > 1:
                reader = open(path, "rb")  # noqa: SIM115
                with open(path, "rb") as file:
                    before = file.read()
            held = dict(facts)
            save_model(path, model, tokenizer, config, facts)
        kept = reader is None or reader.read() == before
        if reader:
            reader.close()
        with open(path, "rb") as file:
            content = file.read()
        files = sorted(os.listdir(folder))
    return {
        "content": content,
        "state": {name: value.detach().clone() for name, value in model.state_dict().items()},
        "files": files,
        "whoever has the old file open still reads the old one": kept,
        "the facts are as they were": facts == held,
    }


def saving_fails() -> dict[str, Any]:
    """For the checks of exercise 5: a second model is to be saved, and the disk is full. What is there afterwards?"""
    import safetensors.torch

    config, tokenizer = GPTConfig(259, **SHAPE), Tokenizer([(97, 98), (256, 99), (99, 99)])
    names, kept = globals(), (safetensors.torch.save_file, safetensors.torch.save, save_file)

    def disk_full(content, file=None, *args, **kwargs):
        if isinstance(file, str | os.PathLike):
            with open(file, "wb") as out:
                out.write(b"half a mod")
        raise OSError("no space left on device")

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.safetensors")
        save_model(path, GPT(config), tokenizer, config, {"number": 1})
        with open(path, "rb") as file:
            before = file.read()
        try:
            safetensors.torch.save_file = safetensors.torch.save = names["save_file"] = disk_full
            save_model(path, GPT(config), tokenizer, config, {"number": 2})
            error = "nothing was raised"
        except NotImplementedError:
            raise
        except Exception as raised:
            error = type(raised).__name__
        finally:
            safetensors.torch.save_file, safetensors.torch.save, names["save_file"] = kept
        with open(path, "rb") as file:
            after = file.read()
    return {"error": error, "the older file is as it was": after == before}


def loaded(content: bytes | None, name: str = "model.safetensors") -> dict[str, Any]:
    """For the checks of exercise 5: what `load_model` makes of a file with this content (None: there is no file)."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, name)
        if content is not None:
            with open(path, "wb") as file:
                file.write(content)
        try:
            model, tokenizer, facts = load_model(path)
        except NotImplementedError:
            raise
        except Exception as raised:
            return {"error": type(raised).__name__, "names the file": name in str(raised)}
    return {
        "error": "",
        "state": {key: value.detach().clone() for key, value in model.state_dict().items()},
        "config": asdict(model.config),
        "merges": [tuple(pair) for pair in tokenizer.merges],
        "there and back": tokenizer.decode(tokenizer.encode("abc, é")),
        "facts": facts,
        "training": any(module.training for module in model.modules()),
        "logits": model(torch.tensor([[97, 98, 99]])).detach(),
    }

# %% exercise="save_model"
def digest(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> str:
    """The SHA-256 of a model's file, in hex digits.

    The hash runs over these bytes, one after the other. For each tensor, in the sorted order of the names: the list ``[name,
    dtype, shape]`` as JSON, such as ``["w", "torch.float32", [2, 3]]``, then the bytes of its numbers, row by row. After the
    last tensor: the metadata without its entry "digest", if it has one, as a JSON object with sorted keys. JSON is what
    ``json.dumps`` makes with its ordinary separators, as UTF-8.

    Args:
        tensors: of any dtype and shape, contiguous or not, in any order.
        metadata: texts by name.
    """
    found = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous()
        found.update(json.dumps([name, str(values.dtype), list(values.shape)]).encode())
        found.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    others = {key: text for key, text in metadata.items() if key != "digest"}
    found.update(json.dumps(others, sort_keys=True).encode())
    return found.hexdigest()


def save_model(path: str, model: nn.Module, tokenizer: Tokenizer, config: GPTConfig, facts: dict[str, Any]) -> None:
    """Write a model and all that is needed to use it into one file in the safetensors format.

    The tensors are those of ``model.state_dict()``. The metadata are five texts: "format", which is FORMAT; "config", the
    settings as a JSON object; "tokenizer", the JSON object ``{"merges": [[101, 110], ...]}``; "facts" as JSON; and "digest",
    of `digest`, over all of this.

    An older file of that name is replaced in one go: at any moment there is a complete file under that name, the old or the
    new one, also if writing fails. When all went well, the folder holds no other file than before and this one.

    Args:
        path: where to; its folder exists.
        model: a GPT with float32 parameters, on any device, in any memory order; it does not change.
        tokenizer: its merges are kept.
        config: the settings of the model.
        facts: anything that JSON can hold: where the text came from, how long the training was, what the losses are.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "config": json.dumps(asdict(config)),
        "tokenizer": json.dumps({"merges": tokenizer.merges}),
        "facts": json.dumps(facts),
    }
    metadata["digest"] = digest(tensors, metadata)
    part = os.fspath(path) + ".part"
    save_file(tensors, part, metadata)
    os.replace(part, path)


def load_model(path: str) -> tuple[nn.Module, Tokenizer, dict[str, Any]]:
    """Read what `save_model` wrote.

    Returns:
        (model, tokenizer, facts). The model is a GPT of the saved settings, in evaluation mode.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: with the name of the file in the message, if it is not a safetensors file or is cut off; one of the five
            texts is missing, or there is no metadata at all; the format is not FORMAT; the digest is not right, because a weight
            or a text has changed; the settings, the tokenizer or the facts cannot be read; the tokenizer has another number of
            tokens than the settings; or a tensor is missing, is one too many, or has another shape than in a GPT of these
            settings.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no file {path}; save_model writes one")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise ValueError(f"{path} is no safetensors file, or it is cut off: {error}") from None
    missing = [name for name in ("format", "config", "tokenizer", "facts", "digest") if name not in metadata]
    if missing:
        raise ValueError(f"{path} was not written by save_model: it has no {', '.join(missing)}")
    if metadata["format"] != FORMAT:
        raise ValueError(f"{path} has the format {metadata['format']!r}; this program reads {FORMAT!r}")
    if digest(tensors, metadata) != metadata["digest"]:
        raise ValueError(f"{path} is damaged: it has changed since it was written; take another copy")
    try:
        config = GPTConfig(**json.loads(metadata["config"]))
        tokenizer = Tokenizer(json.loads(metadata["tokenizer"])["merges"])
        facts = json.loads(metadata["facts"])
        model = GPT(config)
    except Exception as error:
        raise ValueError(f"{path} has settings that cannot be read: {error}") from None
    if tokenizer.vocab_size != config.vocab_size:
        raise ValueError(f"{path}: the tokenizer has {tokenizer.vocab_size} tokens, the model {config.vocab_size}")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} has other weights than its settings ask for: {error}") from None
    model.eval()
    return model, tokenizer, facts

# %% mistakes="save_model"
{
    "the digest is over the values alone: names, shapes and dtypes may change": (
        "        found.update(json.dumps([name, str(values.dtype), list(values.shape)]).encode())\n",
        "",
    ),
    "the digest leaves the metadata out": ("    found.update(json.dumps(others, sort_keys=True).encode())\n", ""),
    "a changed byte is not noticed: the digest is not compared": (
        'if digest(tensors, metadata) != metadata["digest"]:',
        "if False:",
    ),
    "the digest leaves the values out": (
        "        found.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())\n",
        "",
    ),
    "the digest depends on the order in which the tensors are listed": (
        "for name in sorted(tensors):",
        "for name in tensors:",
    ),
    "the digest depends on the order of the metadata": ("sort_keys=True", "sort_keys=False"),
    "the digest includes the digest": ('if key != "digest"', "if True"),
    "only the last tensor is hashed": (
        "        found.update(json.dumps([name",
        "        found = hashlib.sha256()\n        found.update(json.dumps([name",
    ),
    "a tensor that is not contiguous is hashed in the order of its memory": (
        "values = tensors[name].detach().cpu().contiguous()",
        "values = tensors[name].detach().cpu()\n"
        "        values = values.as_strided(values.shape, torch.empty(values.shape).stride(), 0)",
    ),
    "the digest is that of another hash, SHA-512": ("hashlib.sha256()", "hashlib.sha512()"),
    "the merges of the tokenizer are not saved": (
        'json.dumps({"merges": tokenizer.merges})',
        'json.dumps({"merges": []})',
    ),
    "the settings are not saved as JSON but as Python writes them": (
        "json.dumps(asdict(config))",
        "str(asdict(config))",
    ),
    "the facts are not saved": ("json.dumps(facts)", "json.dumps({})"),
    "there is no digest in the file": ('    metadata["digest"] = digest(tensors, metadata)\n', ""),
    "the file is written in place, so that a failure leaves half of it": [
        ("save_file(tensors, part, metadata)", "save_file(tensors, path, metadata)"),
        ("    os.replace(part, path)\n", ""),
    ],
    "the old file is removed before the new one is written": (
        "    save_file(tensors, part, metadata)\n",
        "    if os.path.exists(path):\n        os.remove(path)\n    save_file(tensors, part, metadata)\n",
    ),
    "the file under the other name stays": (
        "    os.replace(part, path)",
        '    with open(part, "rb") as source, open(f"{part}.copy", "wb") as target:\n'
        "        target.write(source.read())\n"
        '    os.replace(f"{part}.copy", path)',
    ),
    "an older file is never replaced": (
        "    os.replace(part, path)",
        "    os.remove(part) if os.path.exists(path) else os.replace(part, path)",
    ),
    "weights that are not contiguous are not put into order, and cannot be written": (
        "value.detach().cpu().contiguous() for name",
        "value.detach().cpu() for name",
    ),
    "another format is read as if it were this one": ('if metadata["format"] != FORMAT:', "if False:"),
    "what is missing in the metadata ends in a KeyError": ("    if missing:\n", "    if False:\n"),
    "a file without metadata ends in a TypeError": ("metadata = file.metadata() or {}", "metadata = file.metadata()"),
    "a file that is something else ends in whatever error the library has": (
        '        raise ValueError(f"{path} is no safetensors file, or it is cut off: {error}") from None',
        "        raise",
    ),
    "a missing file is called no safetensors file": (
        '    if not os.path.exists(path):\n        raise FileNotFoundError(f"there is no file {path}; save_model writes one")\n',
        "",
    ),
    "the message for a missing file does not name it": (
        'FileNotFoundError(f"there is no file {path}; save_model writes one")',
        'FileNotFoundError("there is no such file")',
    ),
    "the message for a damaged file does not name it": (
        'f"{path} is damaged: it has changed since it was written; take another copy"',
        '"the file is damaged"',
    ),
    "settings that cannot be read end in whatever error Python has": (
        '        raise ValueError(f"{path} has settings that cannot be read: {error}") from None',
        "        raise",
    ),
    "the tokenizer and the model may have different numbers of tokens": (
        "if tokenizer.vocab_size != config.vocab_size:",
        "if False:",
    ),
    "a tokenizer with more tokens than the model is accepted": (
        "tokenizer.vocab_size != config.vocab_size",
        "tokenizer.vocab_size < config.vocab_size",
    ),
    "missing and surplus tensors are passed over": (
        "model.load_state_dict(tensors)",
        "model.load_state_dict(tensors, strict=False)",
    ),
    "weights that do not fit end in a RuntimeError": (
        '        raise ValueError(f"{path} has other weights than its settings ask for: {error}") from None',
        "        raise",
    ),
    "the weights are never loaded: the model has its first ones": (
        "        model.load_state_dict(tensors)\n",
        "        GPT(config).load_state_dict(tensors)\n",
    ),
    "the loaded model is in training mode": ("    model.eval()\n", ""),
    "the facts are not returned": ("return model, tokenizer, facts", "return model, tokenizer, {}"),
}

# %% given
class Judge(nn.Module):
    """A language model for checks: its answer depends on the last token, on the first of its window and on the position."""

    def __init__(self, last: torch.Tensor, first: torch.Tensor, place: torch.Tensor):
        super().__init__()
        self.config = GPTConfig(len(last), len(place), 4, 1, 1, 4)
        self.last, self.first, self.place = nn.Parameter(last), nn.Parameter(first), nn.Parameter(place)
        self.dropout, self.frozen, self.gradients = nn.Dropout(0.5), nn.Dropout(0.5), False

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if not 1 <= ids.shape[1] <= self.config.context:
            raise ValueError(f"{ids.shape[1]} tokens do not fit into a context of {self.config.context}")
        self.gradients = self.gradients or torch.is_grad_enabled()
        return self.dropout(self.last[ids] + self.first[ids[:, :1]] + self.place[: ids.shape[1]])


def judged(
    tables: list[torch.Tensor], ids_list: list[list[int]], training: bool = False, **more: Any
) -> dict[str, Any]:
    """For the checks of exercise 6: the perplexity under a `Judge` with these tables, and what else has happened."""
    model = Judge(*tables).train(training)
    model.frozen.train(not training)
    modes = [module.training for module in model.modules()]
    kept, random = [list(ids) for ids in ids_list], torch.get_rng_state()
    found = perplexity_under(model, ids_list, **more)
    return {
        "perplexity": found,
        "every part of the model is in the mode that it had": modes == [module.training for module in model.modules()],
        "nothing is kept for a backward pass": not model.gradients,
        "the lists are as they were": kept == [list(ids) for ids in ids_list],
        "torch's own random state is as it was": torch.equal(random, torch.get_rng_state()),
        "the result is a float": type(found) is float,
    }

# %% exercise="blame"
def repetition_rate(ids: list[int], n: int) -> float:
    """The share of the n-grams in a text that occurred before in the same text.

    Args:
        ids: tokens; an n-gram is n neighbours, and n-grams overlap.
        n: 1 or more.

    Returns:
        From 0.0 (each n-gram is new) to less than 1.0; 0.0 for a text that is shorter than n.

    Raises:
        ValueError: if n is less than 1.
    """
    if n < 1:
        raise ValueError(f"n is 1 or more, got {n}")
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct_n(samples: list[list[int] | str], n: int) -> float:
    """The number of different n-grams in several samples, divided by the number of all their n-grams.

    Args:
        samples: lists of tokens, or texts. A text counts as its words, cut at white space. An n-gram lies within one sample;
            the same n-gram in two samples is one different n-gram.
        n: 1 or more.

    Returns:
        More than 0.0, at most 1.0; 1.0 if there is no n-gram at all.

    Raises:
        ValueError: if n is less than 1.

    Source: Li, Galley, Brockett, Gao and Dolan, A Diversity-Promoting Objective Function for Neural Conversation Models, 2016,
    section 5.2. They divide by the number of words; the number of n-grams makes the largest value 1.
    """
    if n < 1:
        raise ValueError(f"n is 1 or more, got {n}")
    grams = []
    for sample in samples:
        tokens = sample.split() if isinstance(sample, str) else sample
        grams += [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def perplexity_under(model: nn.Module, ids_list: list[list[int]], given: int = 1) -> float:
    """The perplexity of some texts under a model, which is usually another one than that which wrote them.

    Each token after the first ``given`` ones of its text is judged by its probability after the tokens before it, as far as they
    fit into the context: of a longer beginning the model sees the last ``model.config.context`` tokens, as in `stream`.

    Args:
        model: takes ids (B, T), returns logits (B, T, V). It is asked within ``asking(model)``. The windows of a text may be
            asked together.
        ids_list: the texts as tokens of that model; a text may be as short as it likes.
        given: how many tokens at the beginning of each text are only read: the prompt. At least one, because the first token has
            nothing before it.

    Returns:
        exp of the mean surprise (-ln of the probability) over all judged tokens of all texts, each with the same weight; inf if
        one of them is impossible, or if the result is too large for a float (`math.exp` raises an error there).

    Raises:
        ValueError: if ``given`` is less than 1, or there is no token to judge.
    """
    if given < 1:
        raise ValueError(f"the first token has nothing before it, so given is 1 or more; got {given}")
    context, device = model.config.context, next(model.parameters()).device
    total, count = torch.zeros((), dtype=torch.float64), 0
    for ids in ids_list:
        if len(ids) <= given:
            continue
        row = torch.tensor(ids, device=device)
        with asking(model):
            logits = model(row[None, :context])[0]  # position i is about token i + 1
            if len(row) > context + 1:
                windows = row[1:-1].unfold(0, context, 1)  # those of tokens context + 1, context + 2, ...
                logits = torch.cat([logits, model(windows)[:, -1]])
        log_p = logits.double().log_softmax(dim=-1)
        judged = log_p.gather(-1, row[1:, None])[given - 1 :]  # what the last position says has no answer
        total = total - judged.sum().cpu()
        count += len(judged)
    if count == 0:
        raise ValueError("there is no token to judge: every text is as short as what is given")
    return float((total / count).exp())


def blame(validation: float, unigram: float, measured: dict[str, dict[str, float]], used: str) -> str:
    """Is it the checkpoint or the sampler?

    Args:
        validation: the loss of a token of the validation part under the checkpoint, in nats.
        unigram: what the same tokens cost if only their frequencies are known, in nats.
        measured: numbers for four kinds of text or more: "text" (real text), "greedy" (temperature 0), "plain" (temperature 1
            and nothing else), "truncated" (top-k or top-p), and others by any name. Each has "repetition" and "perplexity" (under
            a second model).
        used: whose text is bad: one of these names, not "text".

    Returns:
        By these rules, the first that applies:
            "checkpoint", if the validation loss is 0.9 times the unigram loss or more: the model has hardly learned anything.
            "neither", if the numbers of ``used`` are not bad.
            "sampler", if those of "greedy", "plain" or "truncated" are not bad: the same weights can do better.
            "checkpoint" otherwise.
        Numbers are bad if the repetition is more than 0.25 above that of the real text, or the perplexity more than twice that
        of the real text.

    Raises:
        ValueError: if one of the four names is missing in ``measured``, or ``used`` is not there or is "text"; the message
            names it.
    """
    for name in ("text", "greedy", "plain", "truncated", used):
        if name not in measured:
            raise ValueError(f"there are no numbers for {name!r}")
    if used == "text":
        raise ValueError("'text' is what the others are compared with; name a sampler")
    real = measured["text"]

    def bad(name: str) -> bool:
        numbers = measured[name]
        return numbers["repetition"] > real["repetition"] + 0.25 or numbers["perplexity"] > 2 * real["perplexity"]

    if validation >= 0.9 * unigram:
        return "checkpoint"
    if not bad(used):
        return "neither"
    return "checkpoint" if all(bad(name) for name in ("greedy", "plain", "truncated")) else "sampler"

# %% mistakes="blame"
{
    "n-grams do not overlap: each begins where the one before it ended": (
        "for i in range(len(ids) - n + 1)]",
        "for i in range(0, len(ids) - n + 1, n)]",
    ),
    "the last n-gram of a text is forgotten": ("range(len(ids) - n + 1)]", "range(len(ids) - n)]"),
    "the share of new n-grams is returned, and not of repeated ones": (
        "return 1 - len(set(grams)) / len(grams)",
        "return len(set(grams)) / len(grams)",
    ),
    "an n-gram that occurs twice is counted twice: also its first occurrence is called a repetition": (
        "return 1 - len(set(grams)) / len(grams) if grams",
        "return sum(grams.count(gram) > 1 for gram in grams) / len(grams) if grams",
    ),
    "the order within an n-gram is ignored": (
        "grams = [tuple(ids[i : i + n])",
        "grams = [tuple(sorted(ids[i : i + n]))",
    ),
    "the repeated n-grams are divided by the number of tokens": (
        "return 1 - len(set(grams)) / len(grams) if grams",
        "return (len(grams) - len(set(grams))) / len(ids) if grams",
    ),
    "a text that is too short for an n-gram divides by zero": (" if grams else 0.0", ""),
    "n-grams cross from one sample into the next": (
        "        grams += [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]\n    return",
        "        grams += list(tokens)\n    grams = [tuple(grams[i : i + n]) for i in range(len(grams) - n + 1)]\n    return",
    ),
    "distinct-n is computed for each sample, and then averaged": (
        "    return len(set(grams)) / len(grams) if grams else 1.0",
        "    rates = [1 - repetition_rate(s.split() if isinstance(s, str) else s, n) for s in samples]\n"
        "    return sum(rates) / len(rates) if rates else 1.0",
    ),
    "the different n-grams of each sample are added up, so that what two samples share counts twice": (
        "    return len(set(grams)) / len(grams) if grams else 1.0",
        "    own = sum(len({tuple(t[i : i + n]) for i in range(len(t) - n + 1)})\n"
        "              for t in (s.split() if isinstance(s, str) else s for s in samples))\n"
        "    return own / len(grams) if grams else 1.0",
    ),
    "distinct-n divides by the number of tokens": (
        "return len(set(grams)) / len(grams) if grams",
        "return len(set(grams)) / sum(len(s.split() if isinstance(s, str) else s) for s in samples) if grams",
    ),
    "all pairs of tokens count, and not only neighbours": (
        "grams += [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]",
        "grams += list(__import__('itertools').combinations(tokens, n))",
    ),
    "a text counts as its characters and not as its words": (
        "sample.split() if isinstance(sample, str) else sample",
        "sample",
    ),
    "a text is cut at single spaces, so that two spaces make an empty word": (
        "sample.split() if",
        'sample.split(" ") if',
    ),
    "no n-gram at all counts as no diversity": ("else 1.0", "else 0.0"),
    "the perplexities of the texts are averaged: a mean of exponentials": [
        ("total - judged.sum().cpu()", "total + (-judged.mean()).exp().cpu()"),
        ("count += len(judged)", "count += 1"),
        ("float((total / count).exp())", "float(total / count)"),
    ],
    "the mean surprises of the texts are averaged, however long they are": [
        ("total - judged.sum().cpu()", "total - judged.mean().cpu()"),
        ("count += len(judged)", "count += 1"),
    ],
    "the exponential is taken of the sum and not of the mean": ("(total / count).exp()", "total.exp()"),
    "the mean surprise is returned, without the exponential": ("float((total / count).exp())", "float(total / count)"),
    "the sum is divided by the number of all tokens, those that are given included": (
        "count += len(judged)",
        "count += len(row)",
    ),
    "each token is judged by the position that has already read it": (
        "judged = log_p.gather(-1, row[1:, None])[given - 1 :]",
        "judged = log_p.gather(-1, row[:-1, None])[given - 1 :]",
    ),
    "the tokens that are given are judged as well": ("[given - 1 :]", ""),
    "one token more than the given ones is not judged": ("[given - 1 :]", "[given - 1 :][1:]"),
    "a long text is cut into pieces of the context, so that tokens lose what stood before them": (
        "            logits = model(row[None, :context])[0]  # position i is about token i + 1\n"
        "            if len(row) > context + 1:\n"
        "                windows = row[1:-1].unfold(0, context, 1)  # those of tokens context + 1, context + 2, ...\n"
        "                logits = torch.cat([logits, model(windows)[:, -1]])\n",
        "            logits = torch.cat([model(piece[None])[0] for piece in row.split(context)])\n",
    ),
    "what does not fit into the context is not judged": [
        ("            if len(row) > context + 1:\n", "            row = row[: context + 1]\n            if False:\n"),
    ],
    "the model sees the first tokens of a long text and not the last before the token": (
        "logits = torch.cat([logits, model(windows)[:, -1]])",
        "logits = torch.cat([logits, model(row[None, :context])[0, -1:].expand(len(windows), -1)])",
    ),
    "dropout is on": ("        with asking(model):\n", "        with torch.no_grad():\n"),
    "the model is left in evaluation mode": (
        "        with asking(model):\n",
        "        model.eval()\n        with torch.no_grad():\n",
    ),
    "everything is kept for a backward pass": (
        "        with asking(model):\n",
        "        with asking(model), torch.enable_grad():\n",
    ),
    "nothing to judge gives NaN and not an error": ("    if count == 0:\n", "    if False:\n"),
    "given = 0 is accepted": ("    if given < 1:\n", "    if given < 0:\n"),
    "the checkpoint is not compared with the frequencies": ("if validation >= 0.9 * unigram:", "if False:"),
    "the checkpoint has to be worse than the frequencies to be blamed": (
        "validation >= 0.9 * unigram",
        "validation >= unigram",
    ),
    "the frequencies are compared after the sampler": [
        (
            '    if validation >= 0.9 * unigram:\n        return "checkpoint"\n    if not bad(used):\n        return "neither"\n',
            '    if not bad(used):\n        return "neither"\n    if validation >= 0.9 * unigram:\n        return "checkpoint"\n',
        ),
    ],
    "a text has to be bad in both ways to be bad": (
        '+ 0.25 or numbers["perplexity"]',
        '+ 0.25 and numbers["perplexity"]',
    ),
    "a low perplexity is taken for bad, and a high one for good": (
        'numbers["perplexity"] > 2 * real["perplexity"]',
        'numbers["perplexity"] < real["perplexity"] / 2',
    ),
    "the repetition is judged by itself, and not beside that of real text": (
        'numbers["repetition"] > real["repetition"] + 0.25',
        'numbers["repetition"] > 0.25',
    ),
    "what is exactly at the limit is bad": [
        ('numbers["repetition"] > real["repetition"] + 0.25', 'numbers["repetition"] >= real["repetition"] + 0.25'),
        ('numbers["perplexity"] > 2 * real["perplexity"]', 'numbers["perplexity"] >= 2 * real["perplexity"]'),
    ],
    "one bad sampler is enough to blame the checkpoint": ("if all(bad(name)", "if any(bad(name)"),
    "a bad text is always the sampler's fault": (
        'return "checkpoint" if all(bad(name) for name in ("greedy", "plain", "truncated")) else "sampler"',
        'return "sampler"',
    ),
    "the verdict does not depend on the sampler that was used": ("if not bad(used):", 'if not bad("truncated"):'),
    "numbers that are missing end in a KeyError": ("        if name not in measured:\n", "        if False:\n"),
}
