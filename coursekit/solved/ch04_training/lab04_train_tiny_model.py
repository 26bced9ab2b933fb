"""Train a small model: the reference. Generated from source_solutions/ch04_training/lab04_train_tiny_model.py by `course build`; do not edit."""

# %% given
import math

import torch
from torch import nn
from torch.nn import functional as F

from coursekit import carry

TinyLM = carry("ch04/lab03", "TinyLM")  # a language model of 168 numbers over 11 tokens, for checks

# %% given
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

# %% exercise="prepare"
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
    if abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"the shares {shares} do not sum to 1")
    ends = [round(len(text) * sum(shares[: i + 1])) for i in range(len(shares))]
    parts = [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    if min(len(part) for part in parts) < 2:
        raise ValueError(f"{len(text)} characters are too few for parts of {shares}")
    return parts


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
    parts = split(text, shares)
    tokenizer = CharTokenizer(text) if vocab_size is None else BPETokenizer(train_bpe(parts[0], vocab_size))
    return tokenizer, [torch.tensor(tokenizer.encode(part)) for part in parts]

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

# %% exercise="fit_config"
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

    def with_heads(n_heads: int) -> GPTConfig:
        d_model = n_heads * head_width
        return GPTConfig(vocab_size, context, d_model, n_layers, n_heads, 4 * d_model, dropout=dropout, seed=seed)

    n_heads = 0
    while parameter_count(with_heads(n_heads + 1)) <= budget:
        n_heads += 1
    if n_heads == 0:
        raise ValueError(f"{budget} parameters are too few for a single head of {head_width}")
    return with_heads(n_heads)

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

# %% given
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

# %% exercise="sample"
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

# %% given
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

# %% exercise="run"
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

# %% exercise="learning_report"
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

    def shares(text: str) -> dict[str, float]:
        grams = Counter(text[i : i + n] for i in range(len(text) - n + 1))
        if not grams:
            raise ValueError(f"{text!r} has no piece of {n} characters")
        return {gram: count / grams.total() for gram, count in grams.items()}

    p, q = shares(one), shares(other)
    return sum(abs(p.get(gram, 0) - q.get(gram, 0)) for gram in p.keys() | q.keys()) / 2


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
    pieces = [real[i : i + length] for i in range(0, len(real) - length + 1, length)]
    if not pieces:
        raise ValueError(f"{len(real)} characters do not make one piece of {length}")
    return sum(distance(piece, reference, n) for piece in pieces) / len(pieces)


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
