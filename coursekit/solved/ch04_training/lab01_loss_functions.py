"""Loss functions: the reference. Generated from source_solutions/ch04_training/lab01_loss_functions.py by `course build`; do not edit."""

# %% given
import math

import torch

# %% exercise="log_probabilities"
def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """The logarithm of the softmax over the last axis.

    Args:
        logits: (..., V), float32 or float64, with any number of leading axes, contiguous or not. Entries are finite, as large
            as 10,000 in either direction, or -inf for a class that is impossible. At least one entry of each row is finite.

    Returns:
        Natural logarithms of the probabilities, same shape and dtype; -inf where the logit is -inf. No other entry is
        infinite or NaN. As exact as the dtype allows, also where the logits are large: two logits of 10,000 give -0.693147
        twice. Gradients flow to the logits.

    Source: Blanchard, Higham and Higham, Accurately Computing the Log-Sum-Exp and Softmax Functions, 2021.
    """
    largest = logits.amax(dim=-1, keepdim=True)  # (..., 1)
    shifted = logits - largest  # at most 0, and 0 in at least one place
    total = shifted.exp().sum(dim=-1, keepdim=True)  # between 1 and V
    return shifted - total.log()  # (..., V)

# %% mistakes="log_probabilities"
{
    "the largest logit of the whole tensor is subtracted, and not that of each row": (
        "logits.amax(dim=-1, keepdim=True)",
        "logits.max()",
    ),
    "the largest logit is added back before the subtraction, and next to a large number the last digits are lost": (
        "return shifted - total.log()",
        "return logits - (largest + total.log())",
    ),
    "the largest logit is taken along the first axis, so every class is moved by another constant": (
        "logits.amax(dim=-1, keepdim=True)",
        "logits.amax(dim=0, keepdim=True)",
    ),
    "a small number is added to the probability before the logarithm, so the loss has a ceiling": (
        "return shifted - total.log()",
        "return (shifted.exp() / total + 1e-8).log()",
    ),
    "the softmax comes first and the logarithm second, so small probabilities are rounded to zero": (
        "return shifted - total.log()",
        "return (shifted.exp() / total).log()",
    ),
    "nothing is subtracted before the exponential": ("shifted = logits - largest", "shifted = logits"),
    "the smallest logit is subtracted and not the largest": ("logits.amax(", "logits.amin("),
    "the largest logit is subtracted in the exponential only": (
        "return shifted - total.log()",
        "return logits - total.log()",
    ),
    "the logits are clipped to a range in which the exponential is safe": (
        "largest = logits.amax(",
        "logits = logits.clamp(-50, 50)\n    largest = logits.amax(",
    ),
    "a logit of -inf is replaced by 0, so an impossible class gets a share": (
        "largest = logits.amax(",
        "logits = torch.where(logits.isinf(), torch.zeros_like(logits), logits)\n    largest = logits.amax(",
    ),
    "the sum runs over the first axis and not over the classes": (
        "exp().sum(dim=-1, keepdim=True)",
        "exp().sum(dim=0, keepdim=True)",
    ),
    "the sum runs over all numbers of the tensor": ("exp().sum(dim=-1, keepdim=True)", "exp().sum()"),
    "the exponentials are averaged and not added up": ("exp().sum(", "exp().mean("),
    "the probabilities are returned, without a logarithm": (
        "return shifted - total.log()",
        "return shifted.exp() / total",
    ),
    "the sign is lost: surprises are returned": ("return shifted - total.log()", "return total.log() - shifted"),
    "the logarithms are to base 2": ("return shifted - total.log()", "return (shifted - total.log()) / math.log(2)"),
    "the logarithms are to base 10": ("return shifted - total.log()", "return (shifted - total.log()) / math.log(10)"),
    "the sum is not subtracted, so the probabilities do not sum to one": (
        "return shifted - total.log()",
        "return shifted",
    ),
    "no gradient flows to the logits": (
        "largest = logits.amax(",
        "logits = logits.detach()\n    largest = logits.amax(",
    ),
    "no gradient flows through the sum": ("total.log()", "total.detach().log()"),
    "the work is done in float32, whatever the dtype": [
        ("largest = logits.amax(", "dtype = logits.dtype\n    logits = logits.float()\n    largest = logits.amax("),
        ("return shifted - total.log()", "return (shifted - total.log()).to(dtype)"),
    ],
}

# %% exercise="cross_entropy"
def cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, ignore_index: int = -100, label_smoothing: float = 0.0
) -> torch.Tensor:
    """The mean surprise over all positions that count, as PyTorch's cross_entropy computes it, but with the classes last.

    Args:
        logits: (..., V), as for `log_probabilities`, with any number of leading axes, none included.
        targets: (...) integers of the logits' leading shape. Each is a class from 0 to V - 1 or equal to ignore_index.
        ignore_index: positions with this target do not count, neither in the sum nor in the number that divides it. It may
            be negative. If it is one of the classes, that class stays in the softmax and in the smoothing of all other
            positions.
        label_smoothing: the share from 0 to 1 of the wanted probability that is spread evenly over all V classes. If it is
            0, a class of probability zero does no harm unless it is the target.

    Returns:
        A tensor without axes, of the logits' dtype: the sum of the losses of all positions that count, divided by their
        number. NaN if no position counts, as in PyTorch: a mean of nothing. Infinite if a target has probability zero.
        Gradients flow to the logits.

    Raises:
        ValueError: if targets do not have the leading shape of logits, or label_smoothing is not between 0 and 1.

    Source: Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016, section 7, for label smoothing.
    """
    if targets.shape != logits.shape[:-1]:
        raise ValueError(f"targets {tuple(targets.shape)} do not go with logits {tuple(logits.shape)}")
    if label_smoothing < 0 or label_smoothing > 1:
        raise ValueError(f"label_smoothing must be between 0 and 1, got {label_smoothing}")
    log_p = log_probabilities(logits)  # (..., V)
    counts = targets != ignore_index  # (...)
    valid = targets.masked_fill(~counts, 0)  # any class will do where nothing counts
    losses = -log_p.gather(-1, valid.unsqueeze(-1))[..., 0]  # (...)
    if label_smoothing > 0:
        spread = -log_p.mean(dim=-1)  # (...): the mean surprise of all classes
        losses = (1 - label_smoothing) * losses + label_smoothing * spread
    return losses[counts].mean()

# %% mistakes="cross_entropy"
{
    "the softmax is taken twice: probabilities are treated as logits": (
        "log_probabilities(logits)  # (..., V)",
        "log_probabilities(log_probabilities(logits).exp())",
    ),
    "the sum is divided by the number of all positions, ignored ones included": (
        "return losses[counts].mean()",
        "return losses[counts].sum() / counts.numel()",
    ),
    "each sequence is averaged by itself, and then the sequences": (
        "return losses[counts].mean()",
        "return (torch.where(counts, losses, 0).sum(-1) / counts.sum(-1)).mean()",
    ),
    "ignored positions count as if class 0 were right there": ("return losses[counts].mean()", "return losses.mean()"),
    "the smoothing term is averaged over all positions, ignored ones included": (
        "spread = -log_p.mean(dim=-1)",
        "spread = -log_p.mean()",
    ),
    "the smoothing mass goes to the V - 1 wrong classes only": (
        "spread = -log_p.mean(dim=-1)",
        "spread = (-log_p.sum(dim=-1) - losses) / max(log_p.shape[-1] - 1, 1)",
    ),
    "the smoothing term is a sum over the classes and not a mean": (
        "spread = -log_p.mean(dim=-1)",
        "spread = -log_p.sum(dim=-1)",
    ),
    "the smoothing term is added, and the right class keeps its full weight": (
        "(1 - label_smoothing) * losses",
        "losses",
    ),
    "the right class loses its share of label_smoothing, and nobody gets it": (
        "(1 - label_smoothing) * losses + label_smoothing * spread",
        "(1 - label_smoothing) * losses",
    ),
    "label_smoothing and 1 - label_smoothing have changed places": (
        "(1 - label_smoothing) * losses + label_smoothing * spread",
        "label_smoothing * losses + (1 - label_smoothing) * spread",
    ),
    "label_smoothing is ignored": ("if label_smoothing > 0:", "if False:"),
    "the smoothing term is computed also where label_smoothing is 0, and zero times infinity is NaN": (
        "if label_smoothing > 0:",
        "if True:",
    ),
    "only targets of -100 are ignored, whatever ignore_index says": (
        "targets != ignore_index",
        "targets != -100",
    ),
    "all negative targets are ignored and no others, whatever ignore_index says": (
        "targets != ignore_index",
        "targets >= 0",
    ),
    "a class that is ignored as a target also loses its share of the probability": (
        "log_p = log_probabilities(logits)  # (..., V)",
        "hidden = torch.arange(logits.shape[-1]) == ignore_index\n"
        "    log_p = log_probabilities(logits.masked_fill(hidden, -math.inf))",
    ),
    "ignored positions are multiplied by zero, and zero times infinity is NaN": (
        "return losses[counts].mean()",
        "return (losses * counts).sum() / counts.sum()",
    ),
    "the losses are added up and not averaged": ("return losses[counts].mean()", "return losses[counts].sum()"),
    "the sign is lost: the mean log-probability is returned": (
        "return losses[counts].mean()",
        "return -losses[counts].mean()",
    ),
    "the loss is in bits, not in nats": ("return losses[counts].mean()", "return losses[counts].mean() / math.log(2)"),
    "the perplexity is returned, which is the exponential of the loss": (
        "return losses[counts].mean()",
        "return losses[counts].mean().exp()",
    ),
    "no gradient flows to the logits": ("return losses[counts].mean()", "return losses[counts].mean().detach()"),
    "the mean of nothing is 0 and not NaN, so an empty batch looks perfect": (
        "return losses[counts].mean()",
        "return losses[counts].sum() / counts.sum().clamp(min=1)",
    ),
    "a batch in which nothing counts is refused": (
        "return losses[counts].mean()",
        'if not counts.any():\n        raise ValueError("nothing counts")\n    return losses[counts].mean()',
    ),
    "fewer targets than positions are not refused, and gather pairs them from the left": (
        "if targets.shape != logits.shape[:-1]:",
        "if False:",
    ),
    "a label_smoothing outside 0 to 1 is not refused": (
        "if label_smoothing < 0 or label_smoothing > 1:",
        "if False:",
    ),
}

# %% exercise="cross_entropy_gradient"
def cross_entropy_gradient(
    logits: torch.Tensor, targets: torch.Tensor, ignore_index: int = -100, label_smoothing: float = 0.0
) -> torch.Tensor:
    """The gradient of ``cross_entropy(logits, targets, ignore_index, label_smoothing)`` for the logits, by formula.

    Args:
        logits, targets, ignore_index, label_smoothing: as for `cross_entropy`, and valid.

    Returns:
        Tensor of the logits' shape and dtype. It is zero at every position that does not count, so it is all zeros if none
        does. The gradient of a class with the logit -inf is minus its wanted probability: the softmax gives it nothing.

    Source: Bridle, Probabilistic Interpretation of Feedforward Classification Network Outputs, 1990.
    """
    V = logits.shape[-1]
    p = log_probabilities(logits).exp()  # (..., V)
    counts = targets != ignore_index  # (...)
    valid = targets.masked_fill(~counts, 0).unsqueeze(-1)  # (..., 1)
    wanted = torch.full_like(p, label_smoothing / V)  # (..., V): everybody's share
    wanted.scatter_add_(-1, valid, torch.full_like(p, 1 - label_smoothing))  # and the rest for the right class
    gradient = (p - wanted).masked_fill(~counts.unsqueeze(-1), 0)
    return gradient / counts.sum().clamp(min=1)

# %% mistakes="cross_entropy_gradient"
{
    "the gradient is not divided by the number of positions that count": (
        "return gradient / counts.sum().clamp(min=1)",
        "return gradient",
    ),
    "the gradient is divided by the number of all positions, ignored ones included": (
        "return gradient / counts.sum().clamp(min=1)",
        "return gradient / counts.numel()",
    ),
    "the gradient is divided by the number of classes as well": (
        "return gradient / counts.sum().clamp(min=1)",
        "return gradient / counts.sum().clamp(min=1) / V",
    ),
    "ignored positions get the gradient of class 0": (
        "(p - wanted).masked_fill(~counts.unsqueeze(-1), 0)",
        "(p - wanted)",
    ),
    "at ignored positions y is zero, and p alone is left": (
        "(p - wanted).masked_fill(~counts.unsqueeze(-1), 0)",
        "p - wanted.masked_fill(~counts.unsqueeze(-1), 0)",
    ),
    "the sign is wrong: y - p, which climbs": ("(p - wanted)", "(wanted - p)"),
    "only the right class gets a gradient, and the others should be pushed down": (
        "(p - wanted)",
        "((p - wanted) * torch.zeros_like(p).scatter_(-1, valid, 1.0))",
    ),
    "y is multiplied by p: the gradient of the probabilities is missing a factor": ("(p - wanted)", "(p - wanted * p)"),
    "the gradient is that of the log-probabilities, -y, and not of the logits": ("(p - wanted)", "(-wanted)"),
    "the gradient is that of a squared error, with the factor p (1 - p)": (
        "(p - wanted)",
        "((p - wanted) * p * (1 - p))",
    ),
    "the logarithm of p is used in the place of p": (
        "p = log_probabilities(logits).exp()",
        "p = log_probabilities(logits)",
    ),
    "the logits are used in the place of p": ("p = log_probabilities(logits).exp()", "p = logits"),
    "label_smoothing is ignored": [
        ("label_smoothing / V", "0.0"),
        ("torch.full_like(p, 1 - label_smoothing)", "torch.ones_like(p)"),
    ],
    "with smoothing the right class wants 1 - label_smoothing, without its own share": (
        "wanted.scatter_add_(",
        "wanted.scatter_(",
    ),
    "with smoothing the right class still wants a full one, beside its share": (
        "torch.full_like(p, 1 - label_smoothing)",
        "torch.ones_like(p)",
    ),
    "with smoothing the wrong classes want nothing": (
        "torch.full_like(p, label_smoothing / V)",
        "torch.zeros_like(p)",
    ),
    "the smoothing mass goes to the V - 1 wrong classes only": [
        ("label_smoothing / V", "label_smoothing / max(V - 1, 1)"),
        ("wanted.scatter_add_(", "wanted.scatter_("),
    ],
    "only targets of -100 are ignored, whatever ignore_index says": ("targets != ignore_index", "targets != -100"),
    "where nothing counts the result is NaN and not zero": ("counts.sum().clamp(min=1)", "counts.sum()"),
    "each sequence is divided by its own number of positions": (
        "return gradient / counts.sum().clamp(min=1)",
        "return gradient / counts.sum(-1, keepdim=True).clamp(min=1).unsqueeze(-1) / counts[..., 0].numel()",
    ),
}

# %% exercise="perplexity"
def perplexity(batches: list[tuple[torch.Tensor, torch.Tensor]], ignore_index: int = -100) -> float:
    """The exponential of the mean surprise over all tokens that count, in all batches together.

    Args:
        batches: a list of (logits, targets) as for `cross_entropy`, the targets aligned with the logits already. Shapes may
            differ, only V is the same. In some batches no position may count.
        ignore_index: positions with this target do not count.

    Returns:
        A number, 1 or more: every token that counts has the same weight, whatever batch it is in. Infinite if one of them
        has probability zero.

    Raises:
        ValueError: if no position of any batch counts, or the list is empty.

    Source: Jelinek, Mercer, Bahl and Baker, Perplexity: a Measure of the Difficulty of Speech Recognition Tasks, 1977.
    """
    total, number = 0.0, 0
    for logits, targets in batches:
        counted = int((targets != ignore_index).sum())
        if counted > 0:  # the mean of nothing is NaN, and NaN times zero is still NaN
            total += counted * cross_entropy(logits, targets, ignore_index).item()
            number += counted
    if number == 0:
        raise ValueError("no position counts")
    return math.exp(total / number)


def bits_per_character(loss: float, n_tokens: int, text: str, unit: str = "character") -> float:
    """What a loss per token costs for each character, or each byte, of the text.

    Args:
        loss: the mean surprise of a token, in nats.
        n_tokens: how many tokens that mean is over.
        text: what these tokens spell. Every character counts, spaces and line breaks included.
        unit: "character" for code points, as len counts them, or "byte" for the bytes of the text in UTF-8.

    Returns:
        The cost of all tokens in bits, divided by the number of characters or bytes.

    Raises:
        ValueError: if the text is empty, or the unit is none of the two.

    Source: Shannon, Prediction and Entropy of Printed English, 1951; Gao et al., The Pile, 2020, for bytes.
    """
    if unit == "character":
        length = len(text)
    elif unit == "byte":
        length = len(text.encode("utf-8"))
    else:
        raise ValueError(f'unit must be "character" or "byte", got {unit!r}')
    if length == 0:
        raise ValueError("an empty text has no characters to share the cost")
    nats = loss * n_tokens
    return nats / math.log(2) / length

# %% mistakes="perplexity"
{
    "the means of the batches are averaged, whatever their sizes": (
        "            total += counted * cross_entropy(logits, targets, ignore_index).item()\n            number += counted",
        "            total += cross_entropy(logits, targets, ignore_index).item()\n            number += 1",
    ),
    "the perplexities of the batches are averaged, and not the losses": [
        (
            "            total += counted * cross_entropy(logits, targets, ignore_index).item()\n            number += counted",
            "            total += cross_entropy(logits, targets, ignore_index).exp().item()\n            number += 1",
        ),
        ("return math.exp(total / number)", "return total / number"),
    ],
    "the perplexities of the batches are averaged, weighted by their tokens": [
        (
            "cross_entropy(logits, targets, ignore_index).item()",
            "cross_entropy(logits, targets, ignore_index).exp().item()",
        ),
        ("return math.exp(total / number)", "return total / number"),
    ],
    "the exponential is taken of the sum and not of the mean": ("math.exp(total / number)", "math.exp(total)"),
    "batches are weighted by all their positions, padding included": (
        "            total += counted * cross_entropy(logits, targets, ignore_index).item()\n            number += counted",
        "            total += targets.numel() * cross_entropy(logits, targets, ignore_index).item()\n"
        "            number += targets.numel()",
    ),
    "the sum is over the tokens that count, and it is divided by the number of all positions": (
        "number += counted",
        "number += targets.numel()",
    ),
    "batches are weighted by the number of their sequences": (
        "            total += counted * cross_entropy(logits, targets, ignore_index).item()\n            number += counted",
        "            total += len(targets) * cross_entropy(logits, targets, ignore_index).item()\n"
        "            number += len(targets)",
    ),
    "a batch of padding alone turns everything into NaN": ("if counted > 0:", "if True:"),
    "the mean loss is returned, without the exponential": ("return math.exp(total / number)", "return total / number"),
    "2 is raised to a loss in nats": ("return math.exp(total / number)", "return 2 ** (total / number)"),
    "the sign is wrong: the result is a probability": ("math.exp(total / number)", "math.exp(-total / number)"),
    "only the last batch with tokens is reported": (
        "            total += counted * cross_entropy(logits, targets, ignore_index).item()\n            number += counted",
        "            total = counted * cross_entropy(logits, targets, ignore_index).item()\n            number = counted",
    ),
    "the last batch is dropped because it may be incomplete": (
        "in batches:",
        "in batches[: max(len(batches) - 1, 1)]:",
    ),
    "ignore_index is not handed on to cross_entropy": (
        "cross_entropy(logits, targets, ignore_index)",
        "cross_entropy(logits, targets)",
    ),
    "nothing to count gives NaN and not an error": (
        '        raise ValueError("no position counts")\n    return math',
        "        return math.nan\n    return math",
    ),
    "the cost stays in nats: the division by ln 2 is missing": ("nats / math.log(2) / length", "nats / length"),
    "ln 2 is multiplied by and not divided by": ("nats / math.log(2) / length", "nats * math.log(2) / length"),
    "the logarithm to base 2 is taken of the loss, which is a logarithm already": (
        "nats / math.log(2) / length",
        "math.log2(max(loss, 1e-9)) * n_tokens / length",
    ),
    "bits per token are sold as bits per character": ("nats / math.log(2) / length", "loss / math.log(2)"),
    "the ratio is upside down: characters per token, and not tokens per character": (
        "nats / math.log(2) / length",
        "loss / math.log(2) * length / n_tokens",
    ),
    "the tokens are forgotten: the loss of one token is spread over all characters": (
        "nats = loss * n_tokens",
        "nats = loss",
    ),
    "the unit is ignored, and characters are taken for bytes": ('len(text.encode("utf-8"))', "len(text)"),
    "bytes are counted whatever the unit": ("length = len(text)\n", 'length = len(text.encode("utf-8"))\n'),
    "bytes are counted in UTF-16": ('text.encode("utf-8")', 'text.encode("utf-16-le")'),
    "spaces and line breaks at the ends are not counted": [
        ("len(text)", "len(text.strip())"),
        ('text.encode("utf-8")', 'text.strip().encode("utf-8")'),
    ],
    "spaces and line breaks are not counted at all": [
        ("len(text)", 'len("".join(text.split()))'),
        ('text.encode("utf-8")', '"".join(text.split()).encode("utf-8")'),
    ],
    "different characters are counted, and each only once": ("len(text)", "len(set(text))"),
    "an unknown unit is taken for characters": (
        '        raise ValueError(f\'unit must be "character" or "byte", got {unit!r}\')',
        "        length = len(text)",
    ),
}

# %% exercise="sequence_log_prob"
def sequence_log_prob(logits: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The log-probability of each sequence: the sum of ln p(token | the tokens before it) over the tokens that count.

    Args:
        logits: (B, T, V), as for `log_probabilities`; what stands at position t is about the token at t + 1.
        ids: (B, T) integers from 0 to V - 1.
        mask: boolean (B, T), True where a token counts. None means that all do. The first token of a sequence never
            counts, whatever the mask says, since no logits are about it. Where the mask is False the token plays no part,
            not even if its probability is zero.

    Returns:
        (B,), of the logits' dtype, 0 or less: natural logarithms, 0 for a sequence in which no token counts, -inf if a token
        that counts has probability zero. Gradients flow to the logits.
    """
    log_p = log_probabilities(logits[:, :-1])  # (B, T - 1, V): the last position is about nothing that is here
    said = log_p.gather(-1, ids[:, 1:].unsqueeze(-1))[..., 0]  # (B, T - 1)
    if mask is not None:
        said = said.masked_fill(~mask[:, 1:], 0.0)
    return said.sum(dim=1)  # (B,)

# %% mistakes="sequence_log_prob"
{
    "nothing is shifted: each position is asked for the token that it was given": [
        ("ids[:, 1:]", "ids[:, :-1]"),
        ("mask[:, 1:]", "mask[:, :-1]"),
    ],
    "nothing is shifted, only the first token is left out: position t is scored with token t, and not with t + 1": (
        "logits[:, :-1]",
        "logits[:, 1:]",
    ),
    "nothing is shifted: all positions, the last one too, are scored with the token that they were given": [
        ("logits[:, :-1]", "logits"),
        ("ids[:, 1:]", "ids"),
        ("mask[:, 1:]", "mask"),
    ],
    "the shift goes the wrong way: position t is asked for the token before it": [
        ("logits[:, :-1]", "logits[:, 1:]"),
        ("ids[:, 1:]", "ids[:, :-1]"),
        ("mask[:, 1:]", "mask[:, :-1]"),
    ],
    "the first token is scored by the last position: the sequence comes round": [
        ("logits[:, :-1]", "logits"),
        ("ids[:, 1:]", "ids.roll(-1, 1)"),
        ("mask[:, 1:]", "mask.roll(-1, 1)"),
    ],
    "the mask is not shifted with the tokens": ("mask[:, 1:]", "mask[:, :-1]"),
    "padding is counted: the mask is ignored": ("if mask is not None:", "if False:"),
    "the mask is inverted": ("said.masked_fill(~mask[:, 1:], 0.0)", "said.masked_fill(mask[:, 1:], 0.0)"),
    "what does not count is multiplied by zero, and minus infinity times zero is NaN": (
        "said.masked_fill(~mask[:, 1:], 0.0)",
        "said * mask[:, 1:]",
    ),
    "the mean is returned and not the sum": (
        "return said.sum(dim=1)",
        "return said.sum(dim=1) / max(said.shape[1], 1)",
    ),
    "the sum is divided by the number of tokens that count": (
        "return said.sum(dim=1)",
        "number = (torch.ones_like(ids, dtype=torch.bool) if mask is None else mask)[:, 1:].sum(1)\n"
        "    return said.sum(dim=1) / number.clamp(min=1)",
    ),
    "the sequences of the batch are added up": ("return said.sum(dim=1)", "return said.sum().expand(len(ids))"),
    "the probabilities are multiplied first, and a long product is rounded to zero": (
        "return said.sum(dim=1)",
        "return said.exp().prod(dim=1).log()",
    ),
    "the probabilities are added up and not their logarithms": (
        "return said.sum(dim=1)",
        "return said.exp().sum(dim=1).log()",
    ),
    "the probability is returned and not its logarithm": ("return said.sum(dim=1)", "return said.sum(dim=1).exp()"),
    "the sign is lost: the surprise is returned": ("return said.sum(dim=1)", "return -said.sum(dim=1)"),
    "the result is in bits, not in nats": ("return said.sum(dim=1)", "return said.sum(dim=1) / math.log(2)"),
    "the logits are added up as they are, without a softmax": ("log_probabilities(logits[:, :-1])", "logits[:, :-1]"),
    "the softmax runs over the positions and not over the vocabulary": (
        "log_probabilities(logits[:, :-1])",
        "log_probabilities(logits[:, :-1].transpose(1, 2)).transpose(1, 2)",
    ),
    "only the last token is scored": ("return said.sum(dim=1)", "return said[:, -1:].sum(dim=1)"),
    "the most probable token is scored, whatever the text says": (
        "log_p.gather(-1, ids[:, 1:].unsqueeze(-1))[..., 0]",
        "log_p.amax(dim=-1)",
    ),
    "no gradient flows to the logits": ("return said.sum(dim=1)", "return said.sum(dim=1).detach()"),
}
