"""Training recipes: the reference. Generated from source_solutions/ch04_training/lab05_training_recipes.py by `course build`; do not edit."""

# %% given
import math

import torch
from torch import nn
from torch.nn import functional as F

import statistics
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

#: Of n seeds: how many standard errors a mean has to be away from 0 to be told from it (Student's t, 95%, two sides).
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


class LeanGPT(nn.Module):
    """The GPT of Lab 3.3, without dropout, in plain PyTorch: what autograd keeps of it can be read off line by line."""

    def __init__(self, config: Any):
        super().__init__()
        d, f = config.d_model, config.d_ff
        draw = torch.Generator().manual_seed(config.seed)

        def matrix(*shape, size=0.02):
            return nn.Parameter(size * torch.randn(shape, generator=draw))

        self.config = config
        self.token, self.position = matrix(config.vocab_size, d), matrix(config.context, d)
        self.blocks = nn.ModuleList()
        for _ in range(config.n_layers):
            small = 0.02 / math.sqrt(2 * config.n_layers)
            block = {name: matrix(d, d) for name in ("w_q", "w_k", "w_v")} | {"w_o": matrix(d, d, size=small)}
            block |= {"w_in": matrix(d, f), "w_out": matrix(f, d, size=small), "b_in": nn.Parameter(torch.zeros(f))}
            biases = ("b_q", "b_k", "b_v", "b_o", "b_out", "shift_1", "shift_2")
            block |= {name: nn.Parameter(torch.zeros(d)) for name in biases}
            block |= {name: nn.Parameter(torch.ones(d)) for name in ("gain_1", "gain_2")}
            self.blocks.append(nn.ParameterDict(block))
        self.gain, self.shift = nn.Parameter(torch.ones(d)), nn.Parameter(torch.zeros(d))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        B, T = ids.shape
        d, H = self.config.d_model, self.config.n_heads
        x = self.token[ids] + self.position[:T]
        future = torch.full((T, T), -math.inf, dtype=x.dtype, device=x.device).triu(1)
        for p in self.blocks:
            n = F.layer_norm(x, (d,), p["gain_1"], p["shift_1"])
            q, k, v = (
                (n @ p[f"w_{name}"] + p[f"b_{name}"]).view(B, T, H, d // H).transpose(1, 2) for name in ("q", "k", "v")
            )
            scores = q @ k.mT / math.sqrt(d // H) + future
            weights = scores.softmax(-1)
            y = (weights @ v).transpose(1, 2).reshape(B, T, d)
            x = x + (y @ p["w_o"] + p["b_o"])
            n = F.layer_norm(x, (d,), p["gain_2"], p["shift_2"])
            h = n @ p["w_in"] + p["b_in"]
            a = F.gelu(h)
            x = x + (a @ p["w_out"] + p["b_out"])
        n = F.layer_norm(x, (d,), self.gain, self.shift)
        return n @ self.token.T


def kept(config: Any, batch_size: int, context: int, dtype: torch.dtype = torch.float32) -> list[tuple[int, ...]]:
    """The shapes of what autograd keeps for the backward pass of one step of a LeanGPT, in order, each tensor once.

    Left out: the weights, which are there anyway, token numbers, and single numbers.
    """
    model = LeanGPT(config).to(dtype)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, torch.Tensor] = {}

    def note_down(tensor):
        place = tensor.untyped_storage().data_ptr()
        if tensor.is_floating_point() and tensor.ndim and place not in own:
            found.setdefault(place, tensor)
        return tensor

    ids = torch.zeros(batch_size, context + 1, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(note_down, lambda tensor: tensor):
        F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    return [tuple(tensor.shape) for tensor in found.values()]

# %% given
from coursekit import carry

clip_gradients = carry("ch04/lab03", "clip_gradients")  # clip_gradients(parameters, max_norm) -> the norm before


def sized(**settings: int) -> Any:
    """The settings of a LeanGPT, by name: for the checks of exercise 3."""
    return SimpleNamespace(**settings, seed=0)

# %% given
def scaled_steps(
    start: list[torch.Tensor],
    scaled: list[list[torch.Tensor | None]],
    lr: float = 0.1,
    unscale_at: tuple[int, ...] = (),
    sgd: bool = False,
    **settings: Any,
) -> list[dict[str, Any]]:
    """For the checks of exercise 1: what happens when your LossScaler meets these *scaled* gradients, step by step.

    Args:
        start: first values of the parameters; the first two are one group of the optimiser, the others are another.
        scaled: for each step the gradient of each parameter as the backward pass would leave it, or None.
        unscale_at: in these steps `unscale_` is called before `step`; in the others `step` alone.
        sgd: plain gradient descent and not AdamW.
        settings: of the LossScaler.
    """
    parameters = [nn.Parameter(value.clone()) for value in start]
    groups = [{"params": part} for part in (parameters[:2], parameters[2:]) if part]
    optimizer = torch.optim.SGD(groups, lr=lr) if sgd else torch.optim.AdamW(groups, lr=lr, foreach=False)
    scaler, rows = LossScaler(**settings), []
    for number, wanted in enumerate(scaled):
        for parameter, gradient in zip(parameters, wanted, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        row = {"finite": scaler.unscale_(optimizer) if number in unscale_at else None}
        row["stepped"] = scaler.step(optimizer)
        left = [p.grad.flatten() for p in parameters if p.grad is not None]
        row["gradients"] = torch.cat(left) if left else None
        scaler.update()
        row |= {"factor": scaler.factor, "clean": scaler.clean_steps}
        rows.append(row | {"weights": torch.cat([p.detach().flatten() for p in parameters])})
    return rows


def misuse(calls: tuple[str, ...], dtype: torch.dtype = torch.float32) -> str:
    """For the checks of exercise 1: call these methods of a LossScaler(8.0) one after the other, and say how it ends."""
    parameter = nn.Parameter(torch.ones(2, dtype=dtype))
    parameter.grad = torch.full_like(parameter, 8.0)
    optimizer, scaler = torch.optim.SGD([parameter], lr=0.5), LossScaler(8.0)
    for number, name in enumerate(calls, start=1):
        try:
            getattr(scaler, name)(*(() if name == "update" else (optimizer,)))
        except NotImplementedError:
            raise
        except Exception as error:
            return f"{type(error).__name__} in call {number}"
    return "no error"


def good_steps_to_grow() -> int:
    """For the checks of exercise 1: after how many good steps a LossScaler() has another factor; 0 if it has none in 2,100."""
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    scaler = LossScaler()
    optimizer, before = SimpleNamespace(param_groups=[{"params": [parameter]}], step=lambda: None), scaler.factor
    for number in range(1, 2101):
        scaler.step(optimizer)
        scaler.update()
        if scaler.factor != before:
            return number
    return 0

# %% exercise="LossScaler"
class LossScaler:
    """Dynamic loss scaling for training in float16.

    Args:
        init_scale: the first factor, positive.
        growth_factor: what the factor is multiplied by after a row of good steps; larger than 1.
        backoff_factor: what it is multiplied by after a bad step; between 0 and 1, both excluded.
        growth_interval: how many good steps in a row it takes, at least 1.

    Attributes:
        factor: the factor now, a float.
        clean_steps: how many good steps in a row there have been since the last change of the factor, or since it was
            due to grow. With ``factor`` this is what a checkpoint would have to keep.

    Raises:
        ValueError: for settings other than those above.

    Source: Micikevicius and others, Mixed Precision Training, 2018, section 3.2; the rule is that of torch.amp.GradScaler.
    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
    ):
        if not (init_scale > 0 and growth_factor > 1 and 0 < backoff_factor < 1 and growth_interval >= 1):
            raise ValueError("need init_scale > 0, growth_factor > 1, 0 < backoff_factor < 1, growth_interval >= 1")
        self.factor, self.clean_steps = float(init_scale), 0
        self.growth_factor, self.backoff_factor = growth_factor, backoff_factor
        self.growth_interval = growth_interval
        self.finite, self.stepped = None, False  # of this step: None until the gradients are divided

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss times the factor; gradients flow through it.

        Args:
            loss: a single number in float32 or float64. The result has the same dtype.
        """
        return loss * self.factor

    def unscale_(self, optimizer: Any) -> bool:
        """Divide the gradient of every parameter of the optimiser by the factor; once in a step.

        Args:
            optimizer: has ``param_groups``, a list of dicts with "params" (of torch.optim, or your AdamW of Lab 4.3).
                Parameters whose ``grad`` is None are left out. Afterwards ``grad`` holds the divided gradient, whether it
                is finite or not.

        Returns:
            Whether all numbers in all gradients were finite: neither infinite nor NaN.

        Raises:
            RuntimeError: if the gradients have been divided since the last `update`, by this method or by `step`.
            ValueError: if a gradient is itself float16. Divided there, it would lose again what scaling has saved.
        """
        if self.finite is not None:
            raise RuntimeError("the gradients of this step have been divided already")
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if any(g.dtype == torch.float16 for g in gradients):
            raise ValueError("a gradient is float16; keep the weights in float32 and compute in float16 by autocast")
        self.finite = all(bool(g.isfinite().all()) for g in gradients)
        for g in gradients:
            g.div_(self.factor)
        return self.finite

    def step(self, optimizer: Any) -> bool:
        """Let the optimiser step if all gradients were finite; otherwise leave its weights and moments alone.

        The gradients are divided first, by `unscale_`, if they have not been in this step.

        Returns:
            Whether the optimiser stepped.

        Raises:
            RuntimeError: if it is called a second time before `update`.
        """
        if self.stepped:
            raise RuntimeError("step has been called already; call update first")
        if self.finite is None:
            self.unscale_(optimizer)
        if self.finite:
            optimizer.step()
        self.stepped = True
        return self.finite

    def update(self) -> None:
        """Choose the factor of the next step, which may then begin.

        After a step that was skipped the factor is multiplied by backoff_factor, even if it falls below 1, and the count
        of good steps begins at 0. After a step that was taken the count goes up; when it reaches growth_interval, the
        factor is multiplied by growth_factor and the count begins at 0. A factor that would be larger than float32 can
        hold (``torch.finfo(torch.float32).max``) stays as it is, and the count begins at 0 all the same.

        Raises:
            RuntimeError: if there was no `step` since the last update.
        """
        if not self.stepped:
            raise RuntimeError("there was no step since the last update")
        if self.finite:
            self.clean_steps += 1
            if self.clean_steps == self.growth_interval:
                larger = self.factor * self.growth_factor
                if larger <= torch.finfo(torch.float32).max:
                    self.factor = larger
                self.clean_steps = 0
        else:
            self.factor = self.factor * self.backoff_factor
            self.clean_steps = 0
        self.finite, self.stepped = None, False

# %% mistakes="LossScaler"
{
    "the gradients are never divided by the factor": ("            g.div_(self.factor)\n", "            pass\n"),
    "step divides gradients that unscale_ has divided already": (
        "        if self.finite is None:\n            self.unscale_(optimizer)",
        "        self.finite = None\n        self.unscale_(optimizer)",
    ),
    "the gradients are multiplied by the factor a second time": ("g.div_(self.factor)", "g.mul_(self.factor)"),
    "infinite gradients are noticed, and NaN is not": ("bool(g.isfinite().all())", "not bool(g.isinf().any())"),
    "NaN is noticed, and infinite gradients are not": ("bool(g.isfinite().all())", "not bool(g.isnan().any())"),
    "only the first gradient is searched for bad numbers": (
        "for g in gradients)\n        for g",
        "for g in gradients[:1])\n        for g",
    ),
    "a gradient is called finite when any of its numbers is": ("g.isfinite().all()", "g.isfinite().any()"),
    "only the first group of the optimiser is divided": (
        "in optimizer.param_groups for",
        "in optimizer.param_groups[:1] for",
    ),
    "the step is taken in spite of an overflow": (
        "        if self.finite:\n            optimizer.step()",
        "        optimizer.step()",
    ),
    "bad numbers are replaced by zeros and the step is taken, so the moments decay": (
        "        if self.finite:\n            optimizer.step()",
        "        for group in optimizer.param_groups:\n            for p in group['params']:\n"
        "                if p.grad is not None:\n                    p.grad.nan_to_num_(0.0, 0.0, 0.0)\n        optimizer.step()",
    ),
    "no step is ever taken": ("            optimizer.step()\n", "            pass\n"),
    "the answer of step is whether it was skipped": (
        "        self.stepped = True\n        return self.finite",
        "        self.stepped = True\n        return not self.finite",
    ),
    "the count goes on over a skipped step, so the good steps need not be in a row": (
        "            self.factor = self.factor * self.backoff_factor\n            self.clean_steps = 0\n",
        "            self.factor = self.factor * self.backoff_factor\n",
    ),
    "the count does not begin anew after a growth, so the factor grows once and never again": (
        "                    self.factor = larger\n                self.clean_steps = 0\n",
        "                    self.factor = larger\n",
    ),
    "the factor grows one good step too late": (
        "self.clean_steps == self.growth_interval",
        "self.clean_steps > self.growth_interval",
    ),
    "the factor grows after every good step": ("if self.clean_steps == self.growth_interval:", "if True:"),
    "the factor never grows": ("self.clean_steps == self.growth_interval", "False"),
    "after an overflow the factor is divided by growth_factor, which is the same only while one is 2 and the other 0.5": (
        "self.factor * self.backoff_factor",
        "self.factor / self.growth_factor",
    ),
    "the factor stays as it is after an overflow": ("self.factor = self.factor * self.backoff_factor", "pass"),
    "the factor is not allowed to fall below 1": (
        "self.factor * self.backoff_factor",
        "max(1.0, self.factor * self.backoff_factor)",
    ),
    "the factor grows without a limit": ("if larger <= torch.finfo(torch.float32).max:", "if True:"),
    "where the factor cannot grow, the count does not begin anew": (
        "                    self.factor = larger\n                self.clean_steps = 0\n",
        "                    self.factor, self.clean_steps = larger, 0\n",
    ),
    "the loss is not multiplied at all": ("return loss * self.factor", "return loss * 1.0"),
    "the scaled loss is cut off from the graph": ("return loss * self.factor", "return loss.detach() * self.factor"),
    "unscale_ may be called twice, and divides twice": (
        "        if self.finite is not None:\n"
        '            raise RuntimeError("the gradients of this step have been divided already")\n',
        "",
    ),
    "step may be called twice": (
        '        if self.stepped:\n            raise RuntimeError("step has been called already; call update first")\n',
        "",
    ),
    "update may be called without a step": (
        '        if not self.stepped:\n            raise RuntimeError("there was no step since the last update")\n',
        "",
    ),
    "update forgets to open the next step for unscale_": (
        "            self.clean_steps = 0\n        self.finite, self.stepped = None, False",
        "            self.clean_steps = 0\n        self.stepped = False",
    ),
    "gradients in float16 are divided in float16": (
        "if any(g.dtype == torch.float16 for g in gradients):",
        "if False:",
    ),
    "settings that make no sense are taken": (
        "if not (init_scale > 0 and growth_factor > 1 and 0 < backoff_factor < 1 and growth_interval >= 1):",
        "if False:",
    ),
}

# %% given
def half_steps(
    start: list[torch.Tensor],
    gradients: list[list[torch.Tensor]],
    parts: int = 1,
    max_norm: float | None = None,
    lr: float = 0.1,
    sgd: bool = False,
    **settings: Any,
) -> list[dict[str, Any]]:
    """For the checks of exercise 2: what your `scaled_step` returns and leaves behind, step by step.

    The loss of a step is the sum of weight times wanted gradient, with the weights cast to float16. So the gradient is what
    is wanted, and passes through float16 on its way back, where it may overflow or vanish. Where the loss comes in parts,
    each is larger than the one before.
    """
    parameters = [nn.Parameter(value.clone()) for value in start]
    optimizer = torch.optim.SGD(parameters, lr=lr) if sgd else torch.optim.AdamW(parameters, lr=lr, foreach=False)
    scaler, rows = LossScaler(**settings), []
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 7.0)  # left over from something else
    for wanted in gradients:
        arrived = []

        def losses(wanted=wanted, arrived=arrived):
            for number in range(parts):
                if number:  # the part before has to have left its gradient by now
                    arrived.append(all(p.grad is not None and bool((p.grad != 0).any()) for p in parameters))
                share = 2 * (number + 1) / (parts * (parts + 1))
                products = [(p.half().float() * g * share).sum() for p, g in zip(parameters, wanted, strict=True)]
                yield torch.stack(products).sum()

        row = dict(scaled_step(losses(), optimizer, scaler, *(() if max_norm is None else (max_norm,))))
        row |= {"one by one": all(arrived) and len(arrived) == parts - 1, "factor after": scaler.factor}
        rows.append(row | {"weights": torch.cat([p.detach().flatten() for p in parameters])})
    return rows

# %% exercise="scaled_step"
def scaled_step(
    losses: Iterable[torch.Tensor], optimizer: Any, scaler: LossScaler, max_norm: float = 1.0
) -> dict[str, Any]:
    """One whole training step with loss scaling and clipping.

    Gradients that are there when it begins are forgotten; each part of the loss is scaled and goes backwards; the gradients are divided by the factor,
    clipped to max_norm by your `clip_gradients`, and used for a step unless one of them is not finite; then the factor
    of the next step is chosen.

    Args:
        losses: an iterable of single numbers (tensors in float32) that add up to the loss of the batch. A part may be
            made only when it is asked for, so each goes backwards before the next is asked for.
        optimizer: has ``param_groups``, ``step()`` and ``zero_grad()``.
        scaler: your LossScaler.
        max_norm: the largest length that the true gradient, of all parameters together, may have.

    Returns:
        A dict: "loss", the sum of the parts, not scaled, as a float; "norm", the length of the true gradient before
        clipping, or ``math.inf`` where the step was skipped; "factor", the one used in this step; "stepped", whether the
        optimiser stepped.
    """
    factor, total = scaler.factor, 0.0
    optimizer.zero_grad()
    for loss in losses:
        scaler.scale(loss).backward()
        total += loss.item()
    norm = math.inf
    if scaler.unscale_(optimizer):
        norm = clip_gradients([p for group in optimizer.param_groups for p in group["params"]], max_norm)
    stepped = scaler.step(optimizer)
    scaler.update()
    return {"loss": total, "norm": norm, "factor": factor, "stepped": stepped}

# %% mistakes="scaled_step"
{
    "the scaled gradient is clipped, and divided afterwards": (
        "    if scaler.unscale_(optimizer):\n"
        '        norm = clip_gradients([p for group in optimizer.param_groups for p in group["params"]], max_norm)\n',
        '    parameters = [p for group in optimizer.param_groups for p in group["params"]]\n'
        "    if all(bool(p.grad.isfinite().all()) for p in parameters):\n"
        "        norm = clip_gradients(parameters, max_norm) / factor\n"
        "    scaler.unscale_(optimizer)\n",
    ),
    "the gradient is clipped after the step, when it is of no use any more": [
        (
            "    if scaler.unscale_(optimizer):\n"
            '        norm = clip_gradients([p for group in optimizer.param_groups for p in group["params"]], max_norm)\n',
            "",
        ),
        (
            "    scaler.update()\n",
            '    if stepped:\n        norm = clip_gradients([p for group in optimizer.param_groups for p in group["params"]], max_norm)\n'
            "    scaler.update()\n",
        ),
    ],
    "the norm is that of the scaled gradient": (
        '    return {"loss": total, "norm": norm,',
        '    return {"loss": total, "norm": norm * factor,',
    ),
    "the norm is that after clipping": (
        '    return {"loss": total, "norm": norm,',
        '    return {"loss": total, "norm": min(norm, max_norm) if stepped else norm,',
    ),
    "a skipped step is said to have the norm 0": ("    norm = math.inf\n", "    norm = 0.0\n"),
    "the loss is not scaled, and its gradient is divided all the same": (
        "scaler.scale(loss).backward()",
        "loss.backward()",
    ),
    "the loss that is returned is the scaled one": ("total += loss.item()", "total += loss.item() * factor"),
    "the loss that is returned is that of the last part": ("total += loss.item()", "total = loss.item()"),
    "gradients that are not finite are clipped too, and the error of clip_gradients ends the run": (
        "    if scaler.unscale_(optimizer):\n        norm",
        "    scaler.unscale_(optimizer)\n    if True:\n        norm",
    ),
    "the optimiser steps by itself, beside the scaler": (
        "    stepped = scaler.step(optimizer)\n",
        "    optimizer.step()\n    stepped = scaler.step(optimizer)\n",
    ),
    "after an overflow the function returns at once, and the factor is never updated": (
        "    stepped = scaler.step(optimizer)\n",
        '    if norm == math.inf:\n        return {"loss": total, "norm": norm, "factor": factor, "stepped": False}\n    stepped = scaler.step(optimizer)\n',
    ),
    "the factor is never updated": ("    scaler.update()\n", ""),
    "the factor that is returned is that of the next step": ('"factor": factor,', '"factor": scaler.factor,'),
    "the gradients of the step before are still there": ("    optimizer.zero_grad()\n", ""),
    "gradients are forgotten at the end only, and those that something else has left are used in the first step": [
        ("    optimizer.zero_grad()\n", ""),
        ("    scaler.update()\n", "    scaler.update()\n    optimizer.zero_grad()\n"),
    ],
    "each part of the loss forgets the gradients of the part before": (
        "    for loss in losses:\n        scaler",
        "    for loss in losses:\n        optimizer.zero_grad()\n        scaler",
    ),
    "all parts are added up first, so all of their graphs are in memory at once": (
        "    for loss in losses:\n        scaler.scale(loss).backward()\n        total += loss.item()\n",
        "    whole = sum(losses)\n    scaler.scale(whole).backward()\n    total += whole.item()\n",
    ),
    "the parts are averaged, and they should add up": (
        "    for loss in losses:\n        scaler.scale(loss).backward()\n        total += loss.item()\n",
        "    count = 0\n    for loss in losses:\n        scaler.scale(loss).backward()\n        total += loss.item()\n        count += 1\n"
        '    for group in optimizer.param_groups:\n        for p in group["params"]:\n            p.grad.div_(count)\n    total /= count\n',
    ),
    "the answer is always that the optimiser stepped": ('"stepped": stepped}', '"stepped": True}'),
}

# %% exercise="memory"
def memory(config: Any, batch_size: int, context: int, precision: str = "float32") -> dict[str, int]:
    """The bytes that one training step of a `LeanGPT` with AdamW holds, by arithmetic alone.

    Args:
        config: the settings of a LeanGPT, such as a GPTConfig of Lab 3.3: vocab_size V, context C, d_model d, n_layers L, n_heads H,
            d_ff f. It has L (4 d² + 2 d f + f + 9 d) + 2 d + (V + C) d weights, as you counted there.
        batch_size, context: sequences of a batch and tokens of a sequence, B and T; T is at most config.context.
        precision: "float32": every number takes 4 bytes, and AdamW remembers two for each weight. "mixed": weights, gradients
            and activations take 2 bytes, and the optimiser holds three float32 numbers for each weight: a copy of the
            weight itself, and its two moments.

    Returns:
        A dict of whole numbers of bytes: "weights", "gradients", "optimizer" and "activations", which is all that `kept`
        lists: the numbers that autograd keeps for the backward pass, each once.

    Raises:
        ValueError: if ``precision`` is neither of the two, or ``context`` is larger than config.context.

    Source: Rajbhandari and others, ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, 2020, section 3.
    """
    if precision not in ("float32", "mixed"):
        raise ValueError(f"precision is 'float32' or 'mixed', not {precision!r}")
    if context > config.context:
        raise ValueError(f"{context} tokens do not fit into a context of {config.context}")
    width, remembered = (4, 8) if precision == "float32" else (2, 12)
    d, f, n_tokens = config.d_model, config.d_ff, batch_size * context
    norm = n_tokens * (d + 2) + n_tokens * d  # its input, mean and spread; its result, which the next product keeps
    attention = 3 * n_tokens * d + batch_size * config.n_heads * context**2 + n_tokens * d  # q, k, v; weights; y
    feed_forward = 2 * n_tokens * f  # before and after the gelu
    top = norm + n_tokens * config.vocab_size
    numbers = config.n_layers * (2 * norm + attention + feed_forward) + top
    block = 4 * d * d + 2 * d * f + f + 9 * d
    weights = config.n_layers * block + 2 * d + (config.vocab_size + config.context) * d
    return {
        "weights": width * weights,
        "gradients": width * weights,
        "optimizer": remembered * weights,
        "activations": width * numbers,
    }


def largest_batch(config: Any, context: int, limit: int, precision: str = "float32") -> int:
    """The largest batch whose training step holds no more than ``limit`` bytes, all four parts of `memory` together.

    Returns:
        A whole number of sequences; 0 if not even one fits. It is computed, not searched for: activations are
        proportional to the batch.

    Raises:
        ValueError: as `memory` does.
    """
    one = memory(config, 1, context, precision)
    each = one.pop("activations")
    return max(0, (limit - sum(one.values())) // each)

# %% mistakes="memory"
{
    "the attention weights are forgotten": (" + batch_size * config.n_heads * context**2", ""),
    "the attention weights are counted for one head": (
        "batch_size * config.n_heads * context**2",
        "batch_size * context**2",
    ),
    "the attention weights are counted twice, as scores and as weights or for two operations": (
        "batch_size * config.n_heads * context**2",
        "2 * batch_size * config.n_heads * context**2",
    ),
    "the attention weights are as large as the largest context, whatever the context of the step": (
        "config.n_heads * context**2",
        "config.n_heads * config.context**2",
    ),
    "the attention weights grow with the context and not with its square": (
        "config.n_heads * context**2",
        "config.n_heads * context",
    ),
    "q, k and v are forgotten": ("3 * n_tokens * d + batch_size", "batch_size"),
    "the result of attention is forgotten, which the product with w_o keeps": (
        "context**2 + n_tokens * d ",
        "context**2 ",
    ),
    "the result of the first norm is counted three times, for q, k and v": (
        "attention = 3 * n_tokens * d",
        "attention = 5 * n_tokens * d",
    ),
    "the two numbers for each token that a norm keeps are forgotten": ("n_tokens * (d + 2)", "n_tokens * d"),
    "the input of a norm is forgotten, or its result, which the next product keeps": (
        "n_tokens * (d + 2)",
        "n_tokens * 2",
    ),
    "only one of the two norms of a block is counted": ("(2 * norm + attention", "(norm + attention"),
    "what gelu takes in is forgotten, or what it gives": (
        "feed_forward = 2 * n_tokens * f",
        "feed_forward = n_tokens * f",
    ),
    "the norm at the top is forgotten": ("top = norm + n_tokens", "top = n_tokens"),
    "the log-probabilities at the top are forgotten": (" + n_tokens * config.vocab_size", ""),
    "the vocabulary is counted twice, as logits and as log-probabilities": (
        "+ n_tokens * config.vocab_size",
        "+ 2 * n_tokens * config.vocab_size",
    ),
    "the top is counted in every block": ("feed_forward) + top", "feed_forward + top)"),
    "the activations are those of one block": ("config.n_layers * (2", "1 * (2"),
    "the activations are those of one sequence": (
        "n_tokens = config.d_model, config.d_ff, batch_size * context",
        "n_tokens = config.d_model, config.d_ff, context",
    ),
    "there is one moment for each weight, and AdamW has two": ("(4, 8) if", "(4, 4) if"),
    "mixed precision has no float32 copy of the weights": ("else (2, 12)", "else (2, 8)"),
    "the optimiser of mixed precision remembers in 16 bits": ("else (2, 12)", "else (2, 6)"),
    "the largest batch is for float32 in any precision": (
        "memory(config, 1, context, precision)\n",
        "memory(config, 1, context)\n",
    ),
    "the activations take 4 bytes in any precision": ('"activations": width * numbers', '"activations": 4 * numbers'),
    "the gradients take 4 bytes in any precision": ('"gradients": width * weights', '"gradients": 4 * weights'),
    "an unknown precision is taken for mixed": ("if precision not in (", "if False and precision not in ("),
    "a context that the model does not have is not refused": ("if context > config.context:", "if False:"),
    "the limit is for the activations alone": ("(limit - sum(one.values())) // each", "limit // each"),
    "half a sequence counts as one: the batch is rounded up": (
        "(limit - sum(one.values())) // each",
        "-((sum(one.values()) - limit) // each)",
    ),
    "the largest batch is negative where the model itself does not fit": ("return max(0, ", "return (0 + "),
    "the largest batch is at least 1": ("return max(0, ", "return max(1, "),
    "the weights have no biases and no norms": (
        "block = 4 * d * d + 2 * d * f + f + 9 * d",
        "block = 4 * d * d + 2 * d * f",
    ),
}

# %% exercise="token_budget"
def token_budget(shapes: list[tuple[int, int]], tokens: int) -> list[int]:
    """How many steps each shape of a batch takes to see a number of tokens.

    Args:
        shapes: (batch_size, context) of each recipe, whole numbers of at least 1.
        tokens: how many tokens each recipe may see, at least 1.

    Returns:
        A list of steps, in the order of the shapes.

    Raises:
        ValueError: if any of the numbers is below 1, or a shape cannot see exactly so many tokens in whole steps.
    """
    steps = []
    for batch_size, context in shapes:
        if min(batch_size, context, tokens) < 1:
            raise ValueError(f"a batch of {batch_size} x {context} and {tokens} tokens are no budget")
        if tokens % (batch_size * context) != 0:
            raise ValueError(f"{tokens} tokens are no whole number of steps of {batch_size} x {context}")
        steps.append(tokens // (batch_size * context))
    return steps


def summarise(
    runs: list[dict[str, Any]], axis: str = "tokens", limit: float | None = None
) -> dict[str, dict[str, Any]]:
    """A table of runs, read at the same number of tokens, steps or seconds.

    Args:
        runs: dicts with "recipe", "seed" and "history", a list of rows in the order of training. Every row has "step",
            "tokens" and "seconds", all counted from the start of the run. Only rows with "validation" are looked at; every
            run has one.
        axis: "tokens", "step" or "seconds".
        limit: where on this axis the runs are read. Left out: the place of the last row of the run that ends first.

    Returns:
        For each recipe, in the order in which they first appear, a dict: "axis" and "limit"; "seeds", in rising order, and
        "n", how many; "values", for each seed the validation loss of the last row that is not beyond the limit; their
        "mean" and "sd", the standard deviation with n - 1 below; "low" and "high", the least and the largest; "diverged", how
        many values are infinite. A loss that is NaN or infinite counts as infinite, and makes "mean", "sd" and
        "high" infinite.

    Raises:
        ValueError: if there is no such axis; if a recipe has fewer than two seeds, or a seed twice; if two recipes differ in
            their seeds; if a run ends before the limit; or if, on the axes "tokens" and "step", it has no row exactly there.
            (Time cannot be met exactly. There a run is read at its last row before the limit; it needs to have one.)
    """
    if axis not in ("tokens", "step", "seconds"):
        raise ValueError(f"the axis is 'tokens', 'step' or 'seconds', not {axis!r}")
    judged = [[row for row in run["history"] if "validation" in row] for run in runs]
    if limit is None:
        limit = min(rows[-1][axis] for rows in judged)
    found: dict[str, list[tuple[int, float]]] = {}
    for run, rows in zip(runs, judged, strict=True):
        within = [row for row in rows if row[axis] <= limit]
        if not within or rows[-1][axis] < limit or (axis != "seconds" and within[-1][axis] != limit):
            raise ValueError(f"{run['recipe']}, seed {run['seed']}, is not measured at {limit} {axis}")
        loss = within[-1]["validation"]
        found.setdefault(run["recipe"], []).append((run["seed"], loss if math.isfinite(loss) else math.inf))
    table, expected = {}, sorted(seed for seed, _ in next(iter(found.values()), []))
    for recipe, pairs in found.items():
        seeds, values = zip(*sorted(pairs), strict=True)
        if len(seeds) < 2 or len(set(seeds)) < len(seeds) or list(seeds) != expected:
            raise ValueError(f"{recipe} has the seeds {seeds}: at least two, each once, the same for all recipes")
        diverged = sum(value == math.inf for value in values)
        table[recipe] = {
            "axis": axis,
            "limit": limit,
            "seeds": list(seeds),
            "n": len(seeds),
            "values": list(values),
            "mean": math.inf if diverged else statistics.mean(values),
            "sd": math.inf if diverged else statistics.stdev(values),
            "low": min(values),
            "high": max(values),
            "diverged": diverged,
        }
    return table

# %% mistakes="token_budget"
{
    "a budget that is no whole number of steps is rounded down, and not refused": (
        "if tokens % (batch_size * context) != 0:",
        "if False:",
    ),
    "every shape gets equally many steps, and so sees another number of tokens": (
        "steps.append(tokens // (batch_size * context))",
        "steps.append(tokens // (shapes[0][0] * shapes[0][1]))",
    ),
    "the budget counts sequences and not tokens": ("(batch_size * context)", "batch_size", "all"),
    "batches of nothing are not refused": ("if min(batch_size, context, tokens) < 1:", "if False:"),
    "every run is read at its own last row, however far it went": (
        'loss = within[-1]["validation"]',
        'loss = rows[-1]["validation"]',
    ),
    "the best loss of a run is taken and not the one at the limit": (
        'loss = within[-1]["validation"]',
        'loss = min(row["validation"] for row in within)',
    ),
    "the training loss is read": ('loss = within[-1]["validation"]', 'loss = within[-1]["loss"]'),
    "the first row counts and not the last one before the limit": (
        'loss = within[-1]["validation"]',
        'loss = within[0]["validation"]',
    ),
    "a row exactly at the limit is left out": ("if row[axis] <= limit]", "if row[axis] < limit]"),
    "rows are compared by tokens on every axis": ("if row[axis] <= limit]", 'if row["tokens"] <= limit]'),
    "the limit is where the longest run ends": ("limit = min(rows", "limit = max(rows"),
    "the limit is where the first run ends": ("min(rows[-1][axis] for rows in judged)", "judged[0][-1][axis]"),
    "a limit that is passed in is ignored": ("    if limit is None:\n        limit", "    if True:\n        limit"),
    "a run that has no row at the limit is read at an earlier one: unequal tokens": (
        ' or (axis != "seconds" and within[-1][axis] != limit)',
        "",
    ),
    "a run that ended before the limit is taken as it is": (" or rows[-1][axis] < limit", ""),
    "a run without any row before the limit ends in whatever error there is": ("if not within or", "if"),
    "an unknown axis is not refused": ("if axis not in", "if False and axis not in"),
    "one seed is enough": [
        ("if len(seeds) < 2 or len(set(", "if len(set("),
        ("else statistics.stdev(values)", "else statistics.stdev(values) if len(values) > 1 else 0.0"),
    ],
    "a seed that is there twice counts as two": ("len(set(seeds)) < len(seeds) or ", ""),
    "recipes with other seeds, or with more of them, are compared": (" or list(seeds) != expected:", ":"),
    "the values stand in the order of the runs and not of the seeds": [
        ("zip(*sorted(pairs), strict=True)", "zip(*pairs, strict=True)"),
        ("list(seeds) != expected", "sorted(seeds) != expected"),
        ('"seeds": list(seeds)', '"seeds": sorted(seeds)'),
    ],
    "the standard deviation has n below": ("statistics.stdev(values)", "statistics.pstdev(values)"),
    "sd is the standard error, divided by the root of n": (
        "statistics.stdev(values)",
        "statistics.stdev(values) / math.sqrt(len(values))",
    ),
    "sd is the variance": ("statistics.stdev(values)", "statistics.variance(values)"),
    "the median stands in for the mean": ("statistics.mean(values)", "statistics.median(values)"),
    "the best seed stands in for the mean": ("statistics.mean(values)", "min(values)"),
    "runs that diverged are left out of the mean": (
        '"mean": math.inf if diverged else statistics.mean(values)',
        '"mean": statistics.mean([v for v in values if v < math.inf] or [math.inf])',
    ),
    "runs that diverged are left out altogether": (
        'found.setdefault(run["recipe"], []).append((run["seed"], loss if math.isfinite(loss) else math.inf))',
        'found.setdefault(run["recipe"], []).extend([(run["seed"], loss)] if math.isfinite(loss) else [])',
    ),
    "a NaN stays a NaN": ("loss if math.isfinite(loss) else math.inf", "loss"),
}

# %% exercise="conclude"
def conclude(table: dict[str, dict[str, Any]], one: str, other: str) -> dict[str, Any]:
    """Which of two recipes is better, if the runs can tell.

    Args:
        table: of `summarise`, with up to 10 seeds. A lower loss is better.
        one, other: two recipes of the table.

    Returns:
        A dict: "n", the number of seeds; "difference", the mean over the seeds of the loss of ``one`` minus that of ``other``;
        "margin", ``T95[n]`` standard errors of that mean, where the standard error is the standard deviation of the
        differences (with n - 1 below) divided by the root of n; and "sentence", which is one of

        - where the difference is further from 0 than the margin, with the name of the recipe that has the lower mean, and
          the difference without its sign: ``"one is better by 0.123 ± 0.045 over 5 seeds"``
        - where it is not, with its sign: ``"no difference that 5 seeds can show: one minus other is -0.012 ± 0.045"``
        - where any of the runs diverged; then difference and margin are NaN, and the numbers are how many:
          ``"one diverged in 1 of 5 runs, other in 0: their losses are not compared"``

        with the names of the recipes in the place of ``one`` and ``other``, and three digits after the point.

    Raises:
        ValueError: if the two recipes were read on different axes or at different limits, or with different seeds.

    Source: Student, The Probable Error of a Mean, 1908.
    """
    a, b = table[one], table[other]
    if any(a[key] != b[key] for key in ("axis", "limit", "seeds")):
        raise ValueError(f"{one} and {other} were not measured alike")
    n = a["n"]
    if a["diverged"] or b["diverged"]:
        counts = f"{one} diverged in {a['diverged']} of {n} runs, {other} in {b['diverged']}"
        sentence = f"{counts}: their losses are not compared"
        return {"n": n, "difference": math.nan, "margin": math.nan, "sentence": sentence}
    differences = [x - y for x, y in zip(a["values"], b["values"], strict=True)]
    difference = statistics.mean(differences)
    margin = T95[n] * statistics.stdev(differences) / math.sqrt(n)
    if abs(difference) > margin:
        better = one if difference < 0 else other
        sentence = f"{better} is better by {abs(difference):.3f} ± {margin:.3f} over {n} seeds"
    else:
        numbers = f"{one} minus {other} is {difference:+.3f} ± {margin:.3f}"
        sentence = f"no difference that {n} seeds can show: {numbers}"
    return {"n": n, "difference": difference, "margin": margin, "sentence": sentence}


def note(title: str, runs: list[dict[str, Any]], baseline: str, hardware: str) -> str:
    """A benchmark note in Markdown, written by code from runs.

    Args:
        title: what was asked.
        runs: as for `summarise`.
        baseline: the recipe that all others are compared with.
        hardware: what the runs ran on, in words.

    Returns:
        A text of these lines, joined by newlines. The three tables behind it are ``summarise(runs, axis)`` for "tokens",
        "step" and "seconds", in this order everywhere:

        - ``### title``, and an empty line
        - ``Hardware: hardware. Loss on held-out text, mean ± standard deviation over 5 seeds.``, and an empty line
        - ``| recipe | at 400,000 tokens | at 4,000 steps | after 12.3 s |``, with the limits of the three tables (the first two
          with commas between thousands, the last with one
          digit after the point), and ``|---|---|---|---|``
        - for each recipe, in the order of the table, a row ``| recipe | 2.345 ± 0.012 | 2.345 ± 0.012 | 2.345 ± 0.012 |``,
          and after the last of them an empty line
        - for each recipe but the baseline three lines, ``- equal tokens: sentence``, ``- equal steps: sentence`` and
          ``- equal time: sentence``, where the sentence is that of ``conclude(table, recipe, baseline)``

    Raises:
        ValueError: if ``hardware`` is empty or blank, or ``baseline`` is no recipe of the runs; and what `summarise` refuses.
    """
    tables = {axis: summarise(runs, axis) for axis in ("tokens", "step", "seconds")}
    tokens, steps, seconds = tables.values()
    if not hardware.strip() or baseline not in tokens:
        raise ValueError("a note names its hardware, and a baseline that was run")
    first = tokens[baseline]
    lines = [f"### {title}", ""]
    lines += [f"Hardware: {hardware}. Loss on held-out text, mean ± standard deviation over {first['n']} seeds.", ""]
    places = f"at {first['limit']:,} tokens | at {steps[baseline]['limit']:,} steps"
    lines += [f"| recipe | {places} | after {seconds[baseline]['limit']:.1f} s |", "|---|---|---|---|"]
    for recipe in tokens:
        cells = [f"{table[recipe]['mean']:.3f} ± {table[recipe]['sd']:.3f}" for table in tables.values()]
        lines.append(f"| {recipe} | {' | '.join(cells)} |")
    lines.append("")
    for recipe in tokens:
        if recipe != baseline:
            for what, table in zip(("tokens", "steps", "time"), tables.values(), strict=True):
                lines.append(f"- equal {what}: {conclude(table, recipe, baseline)['sentence']}")
    return "\n".join(lines)

# %% mistakes="conclude"
{
    "the spreads of the two recipes are used, as if their seeds had nothing in common": (
        "T95[n] * statistics.stdev(differences) / math.sqrt(n)",
        "T95[n] * math.hypot(statistics.stdev(a['values']), statistics.stdev(b['values'])) / math.sqrt(n)",
    ),
    "the margin is the spread of single differences and not of their mean": (
        "statistics.stdev(differences) / math.sqrt(n)",
        "statistics.stdev(differences)",
    ),
    "the standard deviation is divided by n and not by its root": ("/ math.sqrt(n)", "/ n"),
    "the margin is one standard error": ("T95[n] * statistics", "1.0 * statistics"),
    "the margin is 1.96 standard errors, as if there were hundreds of seeds": (
        "T95[n] * statistics",
        "1.96 * statistics",
    ),
    "T95 is taken for one seed more": ("T95[n] *", "T95.get(n + 1, 2.228) *"),
    "the standard deviation of the differences has n below": (
        "statistics.stdev(differences)",
        "statistics.pstdev(differences)",
    ),
    "the median of the differences stands in for their mean": (
        "difference = statistics.mean(differences)",
        "difference = statistics.median(differences)",
    ),
    "the values are compared in order of size and not by seed": (
        'zip(a["values"], b["values"], strict=True)',
        'zip(sorted(a["values"]), sorted(b["values"]), strict=True)',
    ),
    "the difference is the other minus the one": ("[x - y for", "[y - x for"),
    "the recipe with the larger loss is called better": (
        "one if difference < 0 else other",
        "one if difference > 0 else other",
    ),
    "the first recipe is called better, whatever the numbers say": (
        "better = one if difference < 0 else other",
        "better = one",
    ),
    "a difference is a difference, however wide the margin": ("if abs(difference) > margin:", "if True:"),
    "only a positive difference counts": ("if abs(difference) > margin:", "if difference > margin:"),
    "a difference counts when it is larger than the standard deviation": (
        "if abs(difference) > margin:",
        "if abs(difference) > statistics.stdev(differences):",
    ),
    "the sentence of no difference has lost the sign": ("{difference:+.3f}", "{abs(difference):.3f}"),
    "runs that diverged are compared like all others": ('if a["diverged"] or b["diverged"]:', "if False:"),
    "only the first recipe is asked whether it diverged": ('if a["diverged"] or b["diverged"]:', 'if a["diverged"]:'),
    "where a run diverged, difference and margin are 0": (
        '"difference": math.nan, "margin": math.nan',
        '"difference": 0.0, "margin": 0.0',
    ),
    "recipes are compared although they were read at different places": (
        'for key in ("axis", "limit", "seeds")',
        'for key in ("axis", "seeds")',
    ),
    "recipes are compared although they were read on different axes": (
        'for key in ("axis", "limit", "seeds")',
        'for key in ("limit", "seeds")',
    ),
    "recipes are compared although their seeds differ": (
        'for key in ("axis", "limit", "seeds")',
        'for key in ("axis", "limit")',
    ),
    "the note shows the three columns, all at equal tokens": (
        "{axis: summarise(runs, axis) for axis in",
        "{axis: summarise(runs) for axis in",
    ),
    "the note's sentences are all about equal tokens": (
        "{conclude(table, recipe, baseline)",
        "{conclude(tokens, recipe, baseline)",
    ),
    "the note compares the baseline with each recipe and not each recipe with the baseline": (
        "{conclude(table, recipe, baseline)",
        "{conclude(table, baseline, recipe)",
    ),
    "the note compares the baseline with itself, too": ("        if recipe != baseline:", "        if True:"),
    "the standard deviations are missing in the rows of the note": (
        "{table[recipe]['mean']:.3f} ± {table[recipe]['sd']:.3f}",
        "{table[recipe]['mean']:.3f}",
    ),
    "the note shows the best seed and not the mean": ("{table[recipe]['mean']:.3f}", "{table[recipe]['low']:.3f}"),
    "the note takes any hardware, even none": ("if not hardware.strip() or baseline", "if baseline"),
    "an unknown baseline ends the note in a KeyError": (" or baseline not in tokens:", ":"),
}
