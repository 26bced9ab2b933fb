"""Read a plotly figure the way an eye does, so that a check accepts every figure that shows the right thing."""

from __future__ import annotations

import base64
import re
from typing import Any

import numpy as np


def read_heatmaps(figure: Any) -> list[dict[str, Any]]:
    """What can be seen in every heat map of a plotly figure (or of its ``to_dict()``), in reading order.

    Each dict has: values (rows from the top, columns from the left), rows, columns (tick labels), hover (one text a
    cell), colour_range, colour_scale, colour_bar (its name, or None), x_title, y_title, title, left, top, bottom.
    """
    if figure is None:
        raise TypeError("there is no figure to read, only None: is a `return` missing?")
    if not isinstance(figure, dict) and not hasattr(figure, "to_dict"):
        raise TypeError(f"expected a plotly figure, got {type(figure).__module__}.{type(figure).__name__}")
    figure = figure if isinstance(figure, dict) else figure.to_dict()
    layout = figure.get("layout") or {}
    found = []
    for number, trace in enumerate(figure.get("data") or []):
        if trace.get("type") != "heatmap" or trace.get("visible") is False:
            continue
        z = plain_array(trace["z"]).astype(float)
        z = z.T if trace.get("transpose") else z
        x, y = (_read_axis(trace, layout, letter, n) for letter, n in (("x", z.shape[1]), ("y", z.shape[0])))
        across = sorted(x["cells"], reverse=x["reversed"])
        down = sorted(y["cells"], reverse=not y["reversed"])
        left, right, bottom, top = *x["domain"], *y["domain"]
        cells = [[(y["cells"][r], x["cells"][c]) for c in across] for r in down]
        scale = layout.get(trace.get("coloraxis") or "", {})
        ends = (
            (scale.get("cmin"), scale.get("cmax")) if trace.get("coloraxis") else (trace.get("zmin"), trace.get("zmax"))
        )
        bar_shown = scale.get("showscale", True) and trace.get("showscale", True)
        found.append(
            {
                "values": np.array([[z[i, j] for i, j in row] for row in cells]),
                "rows": [y["labels"][r] for r in down],
                "columns": [x["labels"][c] for c in across],
                "hover": [[_hover(trace, z, i, j, x, y) for i, j in row] for row in cells],
                "colour_range": ends,
                "colour_scale": str(scale.get("colorscale") or trace.get("colorscale")),
                "colour_bar": (trace.get("coloraxis") or f"panel {number}") if bar_shown else None,
                "x_title": x["title"],
                "y_title": y["title"],
                "title": _panel_title(layout, (left + right) / 2, top),
                "left": round(left, 3),
                "top": round(top, 3),
                "bottom": round(bottom, 3),
            }
        )
    return sorted(found, key=lambda panel: (-panel["top"], panel["left"]))


def plain_array(value: Any) -> np.ndarray:
    """A numpy array from any form in which plotly keeps one: nested lists, arrays, tensors or base64 text."""
    if isinstance(value, dict) and "bdata" in value:
        flat = np.frombuffer(base64.b64decode(value["bdata"]), dtype=np.dtype(value["dtype"]))
        shape = value.get("shape", -1)
        return flat.reshape([int(n) for n in shape.split(",")] if isinstance(shape, str) else shape)
    return (
        np.array([plain_array(v) if isinstance(v, dict) else v for v in value])
        if isinstance(value, list)
        else np.asarray(value)
    )


def hover_names(text: str, query: str, key: str, weight: float) -> bool:
    """Whether a hover text says query, key and weight, each word before its value (the weight to two digits)."""
    parts = re.split(r"\b(query|key|weight)\b", text, flags=re.IGNORECASE)
    said = {word.lower(): value for word, value in zip(parts[1::2], parts[2::2], strict=True)}
    numbers = re.findall(r"(-?\d*\.?\d+(?:e-?\d+)?)\s*(%?)", said.get("weight", ""))
    close = any(abs(float(number) / (100 if percent else 1) - weight) < 0.006 for number, percent in numbers)
    return query in said.get("query", "") and key in said.get("key", "") and close


def _read_axis(trace: dict, layout: dict, letter: str, n: int) -> dict:
    axis = layout.get(letter + "axis" + (trace.get(letter + "axis") or letter)[1:]) or {}
    leader = layout.get(letter + "axis" + (axis.get("matches") or letter)[1:]) or {} if axis.get("matches") else {}
    start, step = float(trace.get(letter + "0") or 0), float(trace.get("d" + letter) or 1)
    given = trace.get(letter)
    names = [start + step * i for i in range(n)] if given is None else plain_array(given).tolist()
    if any(isinstance(name, str) for name in names):
        template = (layout.get("template") or {}).get("layout") or {}
        strict = "strict" in [where.get("autotypenumbers") for where in (axis, layout, template)]
        try:  # without `autotypenumbers="strict"` plotly takes names such as "3" for numbers
            places = [float("no") if strict or axis.get("type") == "category" else float(name) for name in names]
        except ValueError:
            known = list(dict.fromkeys([*map(str, axis.get("categoryarray") or []), *map(str, names)]))
            places = [float(known.index(str(name))) for name in names]
    else:
        places = [float(name) for name in names]
    labels = {
        place: f"{name:g}" if isinstance(name, float) else str(name) for place, name in zip(places, names, strict=True)
    }
    if axis.get("tickvals") is not None and axis.get("tickmode", "array") == "array":
        ticks = plain_array(axis["tickvals"]).tolist()
        texts = plain_array(axis["ticktext"]).tolist() if axis.get("ticktext") is not None else ticks
        for tick, text in zip(ticks, texts, strict=False):
            for place, name in zip(places, names, strict=True):
                if tick in (name, place):
                    labels[place] = str(text)
    ends = axis.get("range") or leader.get("range") or [0, 1]
    backwards = "reversed" in str(axis.get("autorange", leader.get("autorange"))) or (
        None not in ends and ends[0] > ends[1]
    )
    title = axis.get("title") or {}
    return {
        "cells": {place: index for index, place in enumerate(places)},  # of two at one place the later one is seen
        "places": places,
        "labels": labels,
        "reversed": backwards,
        "title": str(title.get("text", "") if isinstance(title, dict) else title),
        "domain": tuple(axis.get("domain") or (0.0, 1.0)),
    }


def _hover(trace: dict, z: np.ndarray, i: int, j: int, x: dict, y: dict) -> str:
    def at(field):
        cells = trace.get(field)
        if cells is None or isinstance(cells, str):
            return cells or ""
        cells = plain_array(cells)
        return cells[j][i] if trace.get("transpose") else cells[i][j]

    values = {"x": x["labels"][x["places"][j]], "y": y["labels"][y["places"][i]], "z": z[i, j]}
    values |= {
        "xaxis.title.text": x["title"],
        "yaxis.title.text": y["title"],
        "text": at("text"),
        "hovertext": at("hovertext"),
    }
    template, info = at("hovertemplate"), trace.get("hoverinfo") or "all"
    if not template:
        said = {letter: f"{letter}: {values[letter]}" for letter in "xyz"} | {
            "text": values["hovertext"] or values["text"]
        }
        return " ".join(str(said[part]) for part in said if info == "all" or part in info.split("+"))

    def fill(match):
        name, form = match[1], match[2] or ""
        custom = re.fullmatch(r"customdata((?:\[\d+\])*)", name)
        value = at("customdata") if custom else values.get(name, "")
        try:
            for place in re.findall(r"\[(\d+)\]", custom[1]) if custom else []:
                value = value[int(place)]
        except IndexError:
            return ""  # a template that asks for data which are not there shows nothing
        try:
            return format(float(value), form.replace("~", "")) if form else str(value)
        except (TypeError, ValueError):
            return str(value)

    text = re.sub(r"%\{([^}:]+)(?::([^}]*))?\}", fill, str(template))
    return re.sub(r"<[^>]*>", " ", re.sub(r"<extra>.*?</extra>", " ", text))


def _panel_title(layout: dict, middle: float, top: float) -> str:
    notes = []
    for note in layout.get("annotations") or []:
        ends = []
        for letter in "xy":
            place, ref = note.get(letter) or 0.0, note.get(letter + "ref") or "paper"
            if ref.endswith(" domain"):
                low, high = (layout.get(f"{letter}axis{ref.split()[0][1:]}") or {}).get("domain") or (0.0, 1.0)
                place = low + place * (high - low)
            ends.append(place)
        distance = abs(ends[0] - middle) + abs(ends[1] - top)
        if distance < 0.12:
            notes.append((distance, re.sub(r"<[^>]*>", "", str(note.get("text", "")))))
    return min(notes)[1] if notes else ""
