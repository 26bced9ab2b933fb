"""Watching gradients: the reference. Generated from source_solutions/ch04_training/lab02_gradient_visualization.py by `course build`; do not edit."""

# %% given
import math

import plotly.graph_objects as go
import torch
from torch import nn

# %% given
import gc
import weakref


class Tower(nn.Module):
    """A small network for the checks. Its parts do not run in the order in which they were made."""

    def __init__(self, width: int, n_blocks: int, seed: int, dtype: torch.dtype):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))  # a parameter without a layer of its own
        self.head = nn.Linear(width, 3)  # made first, runs last
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.Linear(2 * width, width)) for _ in range(n_blocks)
        )
        self.activation = nn.ReLU()  # runs after every block
        self.spare = nn.Linear(width, 2)  # never runs
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0.0, 0.5, generator=generator)
        self.to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * self.scale
        for block in self.blocks:
            x = x + self.activation(block(x))
        return self.head(x)


def tower(width: int, n_blocks: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tower:
    """A new tower with random parameters."""
    return Tower(width, n_blocks, seed, dtype)


def backward(model: nn.Module, x: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor | None]:
    """Forward, mean squared error, backward; returns a copy of every parameter's gradient, or None where there is none."""
    model.zero_grad()
    (model(x) - target).square().mean().backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def put_gradients(model: nn.Module, gradients: dict[str, torch.Tensor | None]) -> None:
    """Replace the gradients of the parameters that are named."""
    for name, parameter in model.named_parameters():
        if name in gradients:
            parameter.grad = gradients[name]


def put_weights(model: nn.Module, name: str, value: float) -> None:
    """Fill the parameter of this name with one number."""
    with torch.no_grad():
        dict(model.named_parameters())[name].fill_(value)


def optimiser_for(model: nn.Module, kind: str, lr: float):
    """An optimiser from torch.optim for all parameters of the model."""
    return getattr(torch.optim, kind)(model.parameters(), lr=lr, weight_decay=0.1)


def forward(model: nn.Module, x: torch.Tensor, with_gradients: bool = True) -> torch.Tensor:
    """A forward pass alone."""
    with torch.set_grad_enabled(with_gradients):
        return model(x).detach()


def hooks_on(model: nn.Module) -> int:
    """How many hooks hang on the modules of the model."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def outputs_kept(model: nn.Module, x: torch.Tensor) -> int:
    """How many outputs of layers are still in memory after a forward and a backward pass, when nobody needs them."""
    kept = []

    def note(module, inputs, output):
        kept.append(weakref.ref(output))

    notes = [module.register_forward_hook(note) for module in model.modules()]
    model(x).sum().backward()
    for handle in notes:
        handle.remove()
    if any(output() is not None for output in kept):
        gc.collect()  # what hangs in a circle goes now
    return sum(output() is not None for output in kept)

# %% exercise="gradient_norms"
def gradient_norms(model: nn.Module, depth: int | None = None) -> dict[str, float | None]:
    """The Euclidean norm of the gradients that the parameters hold, by group.

    A parameter belongs to the module that holds it: the group is its name in ``model.named_parameters()`` without the last
    part, so ``blocks.0.1.weight`` and ``blocks.0.1.bias`` belong to ``blocks.0.1``. A parameter of the model itself, such as
    ``scale``, is a group of its own, under its own name.

    Args:
        model: any module. It is not changed, and neither are the gradients.
        depth: keep only so many parts of a group's name, so ``blocks.0.1`` becomes ``blocks.0`` with depth 2 and ``blocks``
            with depth 1. Groups of the same name are one group. None keeps all parts.

    Returns:
        For each group, in the order in which its first parameter appears: the root of the sum of the squares of all its
        gradients, a float. Parameters without a gradient (``grad`` is None) do not count. If none of the group has one,
        the value is None. Computed in float64, so that entries of 1e-30 or 1e30 in float32 are no trouble. An infinite
        or NaN gradient shows: the norm is then not finite either.

    Raises:
        ValueError: if depth is less than 1.

    Source: Pascanu, Mikolov and Bengio, On the Difficulty of Training Recurrent Neural Networks, 2013.
    """
    if depth is not None and depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    squares: dict[str, float | None] = {}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        group = ".".join(parts[:-1][:depth]) if len(parts) > 1 else name
        squares.setdefault(group, None)
        if parameter.grad is not None:
            square = parameter.grad.double().square().sum().item()
            squares[group] = (squares[group] or 0.0) + square
    return {group: None if square is None else math.sqrt(square) for group, square in squares.items()}

# %% mistakes="gradient_norms"
{
    "norms are added up and not their squares": [
        (".square().sum().item()", ".norm().item()"),
        ("math.sqrt(square)", "square"),
    ],
    "the mean of the parameters' norms is taken": [
        (
            "    squares: dict",
            "    counts = {}\n    squares: dict",
        ),
        (".square().sum().item()", ".norm().item()\n            counts[group] = counts.get(group, 0) + 1"),
        ("math.sqrt(square)", "square / counts[group]"),
    ],
    "the squares are averaged over the entries, so a wide layer looks like a narrow one": (
        ".square().sum()",
        ".square().mean()",
    ),
    "there is no root: squares of norms are returned": ("math.sqrt(square)", "square"),
    "absolute values are added up and not squares": [
        (".square().sum()", ".abs().sum()"),
        ("math.sqrt(square)", "square"),
    ],
    "a group without gradients gets 0, as if its gradient had vanished": (
        "squares.setdefault(group, None)",
        "squares.setdefault(group, 0.0)",
    ),
    "a group without gradients is left out": (
        "        squares.setdefault(group, None)\n",
        "        if parameter.grad is not None:\n            squares.setdefault(group, None)\n",
    ),
    "a group whose gradients are all zero is reported as having none": (
        "None if square is None else",
        "None if not square else",
    ),
    "a parameter without a gradient makes its whole group None": (
        "            squares[group] = (squares[group] or 0.0) + square\n",
        "            squares[group] = (squares[group] or 0.0) + square\n    for name, parameter in model.named_parameters():\n"
        '        parts = name.split(".")\n        if parameter.grad is None:\n'
        '            squares[".".join(parts[:-1][:depth]) if len(parts) > 1 else name] = None\n',
    ),
    "each parameter of a group overwrites the one before it": ("(squares[group] or 0.0) + square", "square"),
    "only matrices count, and biases are left out": (
        "if parameter.grad is not None:",
        "if parameter.grad is not None and parameter.ndim > 1:",
    ),
    "the weights are measured and not their gradients": ("parameter.grad.double()", "parameter.detach().double()"),
    "the squares are taken in float32, so small gradients are rounded to zero": (
        "parameter.grad.double().square()",
        "parameter.grad.square().double()",
    ),
    "NaN is replaced by zero, so a broken layer looks calm": (
        "parameter.grad.double()",
        "parameter.grad.double().nan_to_num()",
    ),
    "depth is ignored": ("parts[:-1][:depth]", "parts[:-1]"),
    "depth counts the last part of the name": ("parts[:-1][:depth]", "parts[:depth][:-1]"),
    "every parameter is a group of its own": ('".".join(parts[:-1][:depth]) if len(parts) > 1 else name', "name"),
    "the groups are sorted by their names": ("in squares.items()}", "in sorted(squares.items())}"),
    "parameters of the model itself have an empty name": (" if len(parts) > 1 else name", ""),
    "a depth of 0 is taken for no depth at all": ("depth is not None and depth < 1", "depth is not None and depth < 0"),
}

# %% exercise="update_ratios"
def update_ratios(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, float | None]:
    """Let the optimiser make one step, and say how far it moved each matrix.

    Args:
        model: its parameters hold gradients.
        optimiser: from torch.optim, over the parameters of the model. Its ``step()`` is called once. Nothing else is done
            with it, and the gradients stay where they are.

    Returns:
        For each parameter with two axes or more, by its name and in the order of ``model.named_parameters()``: the
        Euclidean norm of what the step changed, over the norm that the matrix had before the step, as a float, both
        computed in float64. 0.0 where nothing was changed. None where the matrix was all zeros, for there is no ratio.
        Vectors (biases, and the gains of norms) are left out: they start at 0 or 1, and their ratios mean something else.
    """
    before = {name: p.detach().double().clone() for name, p in model.named_parameters() if p.ndim >= 2}
    optimiser.step()
    ratios: dict[str, float | None] = {}
    for name, parameter in model.named_parameters():
        if name in before:
            size = before[name].norm().item()
            moved = (parameter.detach().double() - before[name]).norm().item()
            ratios[name] = moved / size if size > 0 else None
    return ratios

# %% mistakes="update_ratios"
{
    "the weights from before are no copy, and change with the step": (
        "p.detach().double().clone()",
        "p.detach()",
    ),
    "the ratio is upside down: size over movement": (
        "moved / size if size > 0 else None",
        "(size / moved if moved else 0.0) if size > 0 else None",
    ),
    "the movement is not divided by anything": ("moved / size", "moved"),
    "the movement is divided by the norm of the gradient and not of the weight": (
        "moved / size if",
        "moved / (parameter.grad.double().norm().item() if parameter.grad is not None else 1.0) if",
    ),
    "the gradient itself is taken for the movement": (
        "(parameter.detach().double() - before[name]).norm().item()",
        "parameter.grad.double().norm().item() if parameter.grad is not None else 0.0",
    ),
    "the learning rate times the gradient is taken for the movement, whatever the optimiser makes of it": (
        "(parameter.detach().double() - before[name]).norm().item()",
        'optimiser.param_groups[0]["lr"] * parameter.grad.double().norm().item() if parameter.grad is not None else 0.0',
    ),
    "the lengths before and after are compared, so a matrix that turns has not moved": (
        "(parameter.detach().double() - before[name]).norm().item()",
        "abs(parameter.detach().double().norm().item() - size)",
    ),
    "the movement is divided by the size after the step": (
        "moved / size if size > 0",
        "moved / parameter.detach().double().norm().item() if size > 0",
    ),
    "the largest entry is taken and not the norm": (
        "(parameter.detach().double() - before[name]).norm()",
        "(parameter.detach().double() - before[name]).abs().max()",
    ),
    "biases and gains are mixed in": (" if p.ndim >= 2", ""),
    "the step is never made": ("    optimiser.step()\n", ""),
    "two steps are made": ("    optimiser.step()\n", "    optimiser.step()\n    optimiser.step()\n"),
    "the gradients are set to zero before the step, so that nothing but weight decay moves": (
        "    optimiser.step()\n",
        "    optimiser.zero_grad(set_to_none=False)\n    optimiser.step()\n",
    ),
    "the gradients are set to zero after the step": (
        "    return ratios",
        "    optimiser.zero_grad()\n    return ratios",
    ),
    "the gradients are clipped before the step": (
        "    optimiser.step()\n",
        "    nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n    optimiser.step()\n",
    ),
    "a matrix of zeros has an infinite ratio": ("else None", 'else float("inf")'),
    "a matrix without a gradient is left out": (
        "if name in before:",
        "if name in before and parameter.grad is not None:",
    ),
    "a small number is added to the size, so that small weights seem to stand still": (
        "moved / size if size > 0",
        "moved / (size + 1e-8) if size > 0",
    ),
}

# %% exercise="Watch"
class Watch:
    """Records what comes out of the layers of a model, and the gradients that arrive there.

    A layer is a module without modules inside; the model itself, if it has none. Each layer returns one tensor.

    Args:
        model: any module. What it computes, and what its parameters get as gradients, stays the same to the last digit.

    Once the watch is made, every forward pass of the model is recorded, until `remove` is called. Each pass
    begins with an empty list: what an earlier one left is forgotten.
    """

    def __init__(self, model: nn.Module):
        self._records: list[dict] = []

        def begin(module, inputs):
            self._records = []

        def observer(name):
            def observe(module, inputs, output):
                values = output.detach().double()
                rms = values.square().mean().sqrt().item()
                zeros = (values == 0).double().mean().item()
                record = {"name": name, "rms": rms, "zeros": zeros, "gradient": None}
                self._records.append(record)

                def arrive(gradient):
                    record["gradient"] = gradient.double().norm().item()

                if output.requires_grad:
                    output.register_hook(arrive)

            return observe

        self._handles = [model.register_forward_pre_hook(begin)]
        for name, module in model.named_modules():
            if not list(module.children()):
                self._handles.append(module.register_forward_hook(observer(name)))

    def records(self) -> list[dict]:
        """What the last forward pass of the model left, and the backward pass after it.

        Returns:
            An empty list before the first pass. Then one dict for each time that a layer ran, in the order in which they
            ran. A layer that ran twice is there twice, one that did not run is not there. Numbers are plain floats,
            computed in float64:
                "name": the layer's name in ``model.named_modules()``.
                "rms": root mean square of all numbers of its output.
                "zeros": share of the numbers that are exactly zero, from 0 to 1.
                "gradient": Euclidean norm of the gradient of the loss for this output. None while no gradient has arrived:
                    before the backward pass, in a pass under ``torch.no_grad()``, below a ``detach()``.
        """
        return self._records

    def remove(self) -> None:
        """Take all hooks off the model's modules; the records stay. Doing it twice does no harm.

        No tensor of the model's passes is kept alive, neither before nor after this call.
        """
        for handle in self._handles:
            handle.remove()

# %% mistakes="Watch"
{
    "the gradient is filed under the layer's name, so a layer that ran twice has the same gradient in both records": (
        '                    record["gradient"] = gradient.double().norm().item()\n',
        "                    for other in self._records:\n"
        '                        if other["name"] == record["name"]:\n'
        '                            other["gradient"] = gradient.double().norm().item()\n',
    ),
    "the hooks are left behind": ("            handle.remove()\n", "            pass\n"),
    "only the first hook is removed": ("in self._handles:", "in self._handles[:1]:"),
    "only the hooks of the layers are removed, and the next pass empties the records": (
        "in self._handles:",
        "in self._handles[1:]:",
    ),
    "the records of all passes pile up": ("            self._records = []\n", "            pass\n"),
    "modules that hold others are recorded, too": ("if not list(module.children()):", "if True:"),
    "the layers are in the order in which they were made": [
        ("        self._records: list[dict] = []\n", "        self._records, self._model = [], model\n"),
        (
            "        return self._records\n",
            "        names = [name for name, _ in self._model.named_modules()]\n"
            '        return sorted(self._records, key=lambda record: names.index(record["name"]))\n',
        ),
    ],
    "the last layer comes first": ("return self._records\n", "return self._records[::-1]\n"),
    "a layer that runs twice is recorded once": (
        "self._records.append(record)",
        "self._records = [r for r in self._records if r['name'] != name] + [record]",
    ),
    "the input of the layer is measured and not its output": (
        "values = output.detach().double()",
        "values = inputs[0].detach().double()",
    ),
    "the standard deviation is taken, which is zero for a layer that returns a constant": (
        "values.square().mean().sqrt().item()",
        "values.std(correction=0).item()",
    ),
    "the mean of the absolute values is taken and not the root mean square": (
        "values.square().mean().sqrt().item()",
        "values.abs().mean().item()",
    ),
    "the norm is taken and not the root mean square, so a large batch looks loud": (
        "values.square().mean().sqrt().item()",
        "values.norm().item()",
    ),
    "negative numbers count as zeros": ("(values == 0)", "(values <= 0)"),
    "zeros are counted, and not their share": ("(values == 0).double().mean()", "(values == 0).double().sum()"),
    "the gradient for the input is taken and not that for the output": [
        ("output.requires_grad:", "inputs[0].requires_grad:"),
        ("output.register_hook(arrive)", "inputs[0].register_hook(arrive)"),
    ],
    "the mean of the gradients is taken, in which they cancel": (
        "gradient.double().norm().item()",
        "gradient.double().mean().item()",
    ),
    "the root mean square of the gradient is taken and not its norm": (
        "gradient.double().norm().item()",
        "gradient.double().square().mean().sqrt().item()",
    ),
    "the rows' norms are averaged": (
        "gradient.double().norm().item()",
        "gradient.double().norm(dim=-1).mean().item()",
    ),
    "the outputs are kept in a list, so no pass ever leaves the memory": (
        "                self._records.append(record)\n",
        "                self._records.append(record)\n                self.__dict__.setdefault('kept', []).append(output)\n",
    ),
    "the hook returns the output cut off from the graph, and nothing below it learns": (
        "                    output.register_hook(arrive)\n",
        "                    output.register_hook(arrive)\n                return output.detach().requires_grad_(output.requires_grad)\n",
    ),
    "the hook on the gradient returns it scaled to length 1": (
        'record["gradient"] = gradient.double().norm().item()',
        'record["gradient"] = gradient.double().norm().item()\n                    return gradient / gradient.norm().clamp(min=1e-12)',
    ),
    "a layer without a gradient gets 0": ('"gradient": None}', '"gradient": 0.0}'),
    "only passes with gradients are recorded": (
        "                values = output.detach().double()",
        "                if not output.requires_grad:\n                    return\n                values = output.detach().double()",
    ),
}

# %% exercise="gradient_figure"
def gradient_figure(history: list[dict[str, float | None]]) -> dict:
    """A plotly figure of gradient norms over training.

    Args:
        history: what `gradient_norms` returned at step 0, 1, 2 and so on; at least one, all with the same groups.

    Returns:
        The figure as a dict, as ``go.Figure.to_dict()`` gives it: one trace of type "scatter" for each group, in the order
        of the groups, with the group as its ``name``, the steps 0, 1, 2, ... as its ``x`` and the norms as its ``y``.
        Where a norm is None, zero or not finite, y is None: the line has a gap. Gaps are not bridged. The y axis is
        logarithmic, and both axes have a title.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    steps = list(range(len(history)))
    for group in history[0]:
        norms = [norms[group] for norms in history]
        shown = [norm if norm is not None and 0 < norm < math.inf else None for norm in norms]
        figure.add_trace(go.Scatter(x=steps, y=shown, name=group, mode="lines+markers"))
    figure.update_xaxes(title_text="training step")
    figure.update_yaxes(title_text="gradient norm", type="log")
    return figure.to_dict()

# %% mistakes="gradient_figure"
{
    "steps with a gap are dropped, so all that follows is drawn too early": [
        ("shown = [", "shown = [norm for norm in ["),
        ("else None for norm in norms]", "else None for norm in norms] if norm is not None]"),
    ],
    "the axis is linear, so only the largest group can be seen": (', type="log"', ""),
    "logarithms are drawn on a linear axis": [
        ("shown = [norm if", "shown = [math.log10(norm) if"),
        (', type="log"', ""),
    ],
    "logarithms are drawn on a logarithmic axis": ("shown = [norm if", "shown = [math.log10(norm) if"),
    "a gradient of zero gets a point, as zero or as a very small number, and not a gap": (
        "norm if norm is not None and 0 < norm < math.inf else None",
        "norm + 1e-12 if norm is not None and norm < math.inf else None",
    ),
    "no gradient is drawn as zero": (
        "norm if norm is not None and 0 < norm < math.inf else None",
        "norm if norm is not None and 0 < norm < math.inf else 0.0",
    ),
    "gaps are bridged by a straight line": ('mode="lines+markers"', 'mode="lines+markers", connectgaps=True'),
    "infinity is passed on as a number": ("0 < norm < math.inf", "0 < norm"),
    "steps are counted from 1": ("range(len(history))", "range(1, len(history) + 1)"),
    "the groups are sorted by their names": ("for group in history[0]:", "for group in sorted(history[0]):"),
    "there is one trace for each step and not for each group": [
        ("for group in history[0]:", "for group in steps:"),
        ("norms = [norms[group] for norms in history]", "norms = list(history[group].values())"),
        ("name=group", "name=str(group)"),
    ],
    "the norms are divided by that of the first step": (
        "shown = [norm if",
        "shown = [norm / (norms[0] or 1.0) if",
    ),
    "the axes have no titles": [
        ('    figure.update_xaxes(title_text="training step")\n', ""),
        ('title_text="gradient norm", ', ""),
    ],
}

# %% given
def patient(disease: str, width: int = 32, depth: int = 8, seed: int = 0) -> dict:
    """A network with a disease (or "healthy"), examined at its first step.

    Returns:
        A dict: "records" as from `Watch`, "norms" as from `gradient_norms`, "ratios" as from `update_ratios`.
    """
    draw = torch.Generator().manual_seed(seed)
    place = seed % (depth - 2)  # where the disease sits
    gain = {"exploding": 4 * 2**0.5, "vanishing": 1.0}.get(disease, 2**0.5)
    layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
    with torch.no_grad():
        for layer in layers:
            layer.weight.normal_(0.0, gain / width**0.5, generator=draw)
            layer.bias.zero_()
        if disease == "dead":
            layers[place].bias.fill_(-20.0)
    if disease == "cut off" and seed % 2:
        layers[place].requires_grad_(False)
    stream, records, outputs = torch.randn(64, width, generator=draw), [], []
    for i, layer in enumerate(layers):
        steps = [(f"{2 * i}", layer)]
        if i < depth - 1:
            steps.append((f"{2 * i + 1}", torch.sigmoid if disease == "vanishing" else torch.relu))
        for name, step in steps:
            stream = step(stream)
            if stream.requires_grad:
                stream.retain_grad()
            outputs.append(stream)
            rms, zeros = stream.square().mean().sqrt().item(), (stream == 0).double().mean().item()
            records.append({"name": name, "rms": rms, "zeros": zeros})
        if disease == "cut off" and seed % 2 == 0 and i == place:
            stream = stream.detach()
    nn.functional.cross_entropy(stream, torch.randint(width, (64,), generator=draw)).backward()
    for record, output in zip(records, outputs, strict=True):
        record["gradient"] = None if not output.requires_grad or output.grad is None else output.grad.norm().item()
    norms = {}
    for i, layer in enumerate(layers):
        gradients = [p.grad.double().flatten() for p in layer.parameters() if p.grad is not None]
        norms[f"{2 * i}"] = torch.cat(gradients).norm().item() if gradients else None
    groups = [
        {"params": layer.parameters(), "lr": 0.3 if disease == "step too large" and i == place else 1e-3}
        for i, layer in enumerate(layers)
    ]
    plain = disease == "exploding" and seed % 2 == 0
    optimiser = torch.optim.SGD(layers.parameters(), lr=0.1) if plain else torch.optim.Adam(groups)
    before = [layer.weight.detach().clone() for layer in layers]
    optimiser.step()
    moved = [
        float((layer.weight.detach() - old).norm() / old.norm()) for layer, old in zip(layers, before, strict=True)
    ]
    return {"records": records, "norms": norms, "ratios": {f"{2 * i}.weight": r for i, r in enumerate(moved)}}


DISEASES = ("healthy", "cut off", "dead", "exploding", "vanishing", "step too large")

# %% exercise="diagnose"
def diagnose(report: dict) -> str:
    """Name what is wrong with a network.

    The signs, in no particular order:
        "step too large": some ratio is above 0.1.
        "vanishing": the norm of the first group is less than 1% of the norm of the last group.
        "dead": some record has more than 95% zeros.
        "cut off": some group of parameters has no gradient: its norm is None.
        "exploding": the rms of the last record is more than 50 times that of the first, or one of all the rms and norms is
            not finite.
        "healthy": none of these.

    Args:
        report: a dict with the keys
            "records": a list as from `Watch.records()`, at least one. "gradient" may be None.
            "norms": a dict as from `gradient_norms`, at least one group, from the input to the output; a norm may be None.
            "ratios": a dict as from `update_ratios`, perhaps empty; a ratio may be None, which is no sign of anything.

    Returns:
        One of the six names. If a network has several signs, and one disease is the cause of the others, that one: dead
        layers let gradients vanish, and exploding outputs make steps too large. A network that is cut off is called so,
        whatever else it shows.
    """
    records, norms = report["records"], list(report["norms"].values())
    if None in norms:
        return "cut off"
    if any(record["zeros"] > 0.95 for record in records):
        return "dead"
    sizes = [record["rms"] for record in records]
    if sizes[-1] > 50 * sizes[0] or not all(math.isfinite(number) for number in sizes + norms):
        return "exploding"
    if norms[0] < 0.01 * norms[-1]:
        return "vanishing"
    if any(ratio is not None and ratio > 0.1 for ratio in report["ratios"].values()):
        return "step too large"
    return "healthy"

# %% mistakes="diagnose"
{
    "vanishing gradients are named first, which a dead layer causes as well": (
        "    if None in norms:\n",
        '    if None not in norms and norms[0] < 0.01 * norms[-1]:\n        return "vanishing"\n    if None in norms:\n',
    ),
    "large steps are named first, which exploding outputs cause as well": (
        "    sizes = [",
        '    if any(r is not None and r > 0.1 for r in report["ratios"].values()):\n'
        '        return "step too large"\n    sizes = [',
    ),
    "missing gradients are taken for zeros": (
        '    if None in norms:\n        return "cut off"\n',
        "    norms = [norm or 0.0 for norm in norms]\n",
    ),
    "groups without a gradient are left out": (
        '    if None in norms:\n        return "cut off"\n',
        "    norms = [norm for norm in norms if norm is not None]\n",
    ),
    "a gradient of zero is taken for a missing one": ("if None in norms:", "if not all(norms):"),
    "NaN is overlooked, since every comparison with it is false": (
        " or not all(math.isfinite(number) for number in sizes + norms)",
        "",
    ),
    "only the outputs are searched for NaN, and not the gradients": ("in sizes + norms)", "in sizes)"),
    "only the gradients are searched for NaN, and not the outputs": ("in sizes + norms)", "in norms)"),
    "the first and the last output are taken the wrong way round": (
        "sizes[-1] > 50 * sizes[0]",
        "sizes[0] > 50 * sizes[-1]",
    ),
    "the largest output is compared with the first, and not the last": ("sizes[-1] > 50", "max(sizes) > 50"),
    "the outputs are judged by themselves, and not by how much they grow": (
        "sizes[-1] > 50 * sizes[0]",
        "sizes[-1] > 50",
    ),
    "the first and the last norm are taken the wrong way round": (
        "norms[0] < 0.01 * norms[-1]",
        "norms[-1] < 0.01 * norms[0]",
    ),
    "the smallest norm is compared with the largest, wherever they are": (
        "norms[0] < 0.01 * norms[-1]",
        "min(norms) < 0.01 * max(norms)",
    ),
    "a small gradient counts as vanishing, however small the others are": (
        "norms[0] < 0.01 * norms[-1]",
        "norms[0] < 0.01",
    ),
    "the zeros are averaged over the layers, so one dead layer among many is not seen": (
        'any(record["zeros"] > 0.95 for record in records)',
        'sum(record["zeros"] for record in records) / len(records) > 0.95',
    ),
    "half of the outputs being zero counts as dead, which a healthy ReLU reaches": (
        'record["zeros"] > 0.95',
        'record["zeros"] > 0.4',
    ),
    "the ratios are averaged, so one large step among many is not seen": (
        'any(ratio is not None and ratio > 0.1 for ratio in report["ratios"].values())',
        'sum(r or 0.0 for r in report["ratios"].values()) / max(len(report["ratios"]), 1) > 0.1',
    ),
    "only the last matrix is looked at": ('report["ratios"].values())', 'list(report["ratios"].values())[-1:])'),
    "small steps are taken for the disease": ("ratio > 0.1", "ratio < 0.1"),
}
