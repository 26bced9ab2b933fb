"""Results of milestone and demonstration notebooks, with the machine that measured them."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import torch


def machine() -> dict[str, Any]:
    """What a reader must know to compare figures: processor, cores, threads, versions, GPU, date."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def save(result: dict[str, Any], path: str) -> None:
    """Print a summary of the result and, unless ``path`` is empty, write it as JSON with the machine named.

    Args:
        result: ``{"claim": str, "passed": bool, "figures": {name: number, text, or nested lists and dicts}}``, plain
            values only: turn tensors into numbers first. NaN and infinities are written as null.
        path: the file to write, its folder made where it is missing; "" writes nothing.

    Raises:
        ValueError: if a key is missing or a value is not plain.
    """
    for key, kind in (("claim", str), ("passed", bool), ("figures", dict)):
        if not isinstance(result.get(key), kind):
            raise ValueError(f"result[{key!r}] must be a {kind.__name__}, got {result.get(key)!r}")
    record = {**_plain(result, "result"), "machine": machine()}
    print(f"{'passed' if result['passed'] else 'NOT PASSED'}: {result['claim']}")
    for name, figure in result["figures"].items():
        if isinstance(figure, int | float | str):
            print(f"  {name}: {figure:.4g}" if isinstance(figure, float) else f"  {name}: {figure}")
    if not path:
        return
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.part")
    partial.write_text(json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, file)


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, dict):
        # JSON has text keys only; numbers, the usual axis of a measurement, are written as text.
        return {str(key): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    raise ValueError(f"{where} is a {type(value).__name__}; use plain numbers, text, lists and dicts")


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
