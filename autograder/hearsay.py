"""What the learner's process says of a cell it has run, or of an exception: checked, and taken for no more than that.

Every part of what comes out has the type that it should have and a bounded size, so that whoever judges, stores or
shows it later has nothing to fear. Whether it is true is another matter; no mark depends on it.
"""

from __future__ import annotations

import builtins
import json
import re
from typing import Any

from autograder.execute import CellTimeout

#: Bytes of a report on one cell. What an honest process sends is far below (see `autograder.execute.Outputs`).
MAX_REPORT = 12 << 20
#: Characters of a text that the other process chose, where a person reads it; of a name; of a line of code.
MAX_TEXT, MAX_NAME, MAX_CODE = 5_000, 200, 500
#: Levels of nesting of displayed data. What stores a verdict recurses into it.
MAX_LEVELS = 30
MAX_OUTPUTS, MAX_LINES, MAX_FRAMES, MAX_KINDS = 10_000, 1_000, 100, 30
_MAX_NUMBER = 1 << 31
_MAY_BE_JSON = re.compile(r"application/(.*\+)?json")
_ESCAPED_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
#: An exception of these types would do something where it passes: end a loop, or hold others.
_NOT_AS_BASE = (StopIteration, StopAsyncIteration, BaseExceptionGroup)


def exception(said: dict[str, Any]) -> BaseException:
    """The learner's exception as one of the same name; its base is the nearest type that Python itself has.

    Raises:
        TypeError: if it is none.
    """
    kinds = [kind for kind in said["kinds"][:MAX_KINDS] if isinstance(kind, str) and kind.isidentifier()]
    name, shown = (kinds or ["Exception"])[0][:MAX_NAME], text(said.get("message"))
    if name == CellTimeout.__name__:
        return CellTimeout(shown)
    found = (getattr(builtins, kind, None) for kind in kinds)
    bases = (b for b in found if isinstance(b, type) and issubclass(b, Exception) and not issubclass(b, _NOT_AS_BASE))
    # Made without the arguments that some types insist on; the name and the text are what tests and people look at.
    made = type(name, (next(bases, Exception),), {"__init__": lambda self: None, "__str__": lambda self: shown})()
    made.remote_frames = _frames(said.get("frames"))
    return made


def report(raw: bytes, cell: str) -> dict[str, Any]:
    """A report on a cell (see `autograder.execute.run`).

    Args:
        raw: what came.
        cell: the id of the cell that it is about.

    Raises:
        ValueError, TypeError, KeyError, AttributeError, RecursionError: if it is none.
    """
    if len(raw) > MAX_REPORT:
        raise ValueError(f"a report of {len(raw)} bytes")
    said = json.loads(raw, parse_constant=lambda _: None)
    if _ESCAPED_HALF.search(raw):
        # Half of a pair of surrogates, which no file in UTF-8 can hold.
        said = json.loads(json.dumps(said, ensure_ascii=False).encode("utf-8", "replace"))
    error = said["error"]
    if error is not None:
        error = {
            "kind": text(error["kind"], MAX_NAME),
            "message": text(error["message"]),
            **dict.fromkeys(("what", "why", "hint")),
            "mistakes": [],
            "frames": _frames(error["frames"]),
        }
    count = said.get("execution_count")
    return {
        "id": cell,
        "outputs": [output for output in map(_output, said["outputs"][:MAX_OUTPUTS]) if output],
        "seconds": _seconds(said.get("seconds")),
        "execution_count": count if _is_number(count) else None,
        "error": error,
    }


def text(value: Any, limit: int = MAX_TEXT) -> str:
    """A text of bounded length that a file can hold; the empty one for what is none."""
    return value[:limit].encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _frames(frames: Any) -> list[dict[str, Any]]:
    frames = [frame for frame in frames[:MAX_FRAMES] if isinstance(frame, dict)] if isinstance(frames, list) else []
    return [
        {
            "line": frame["line"],
            "code": text(frame.get("code"), MAX_CODE),
            "function": text(frame.get("function"), MAX_NAME),
        }
        for frame in frames
        if _is_number(frame.get("line"))
    ]


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_NUMBER


def _seconds(value: Any) -> float:
    # Of NaN no comparison holds.
    return float(value) if type(value) in (int, float) and 0 <= value < _MAX_NUMBER else 0.0


def _output(output: dict[str, Any]) -> dict[str, Any] | None:
    kind = output.get("output_type")
    if kind == "stream":
        name = "stderr" if output.get("name") == "stderr" else "stdout"
        return {"output_type": "stream", "name": name, "text": text(output.get("text"), MAX_REPORT)}
    if kind == "error":
        lines = output.get("traceback")
        lines = [text(line) for line in lines[:MAX_LINES]] if isinstance(lines, list) else []
        named = {key: text(output.get(key)) for key in ("ename", "evalue")}
        return {"output_type": "error", **named, "traceback": lines}
    if kind in ("display_data", "execute_result"):
        data, metadata = output.get("data"), output.get("metadata")
        data = {text(key, MAX_NAME): value for key, value in data.items() if _is_data(key, value)}
        metadata = metadata if isinstance(metadata, dict) and _is_shallow(metadata) else {}
        plain = {"output_type": kind, "data": data, "metadata": metadata}
        return plain | ({"execution_count": None} if kind == "execute_result" else {})
    return None


def _is_data(kind: str, value: Any) -> bool:
    """Whether nbformat allows a value of this media type: texts, and for JSON whatever JSON has."""
    if _MAY_BE_JSON.fullmatch(kind):
        return _is_shallow(value)
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(line, str) for line in value))


def _is_shallow(value: Any, levels: int = MAX_LEVELS) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_shallow(item, levels - 1) for item in inner)
