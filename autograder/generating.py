"""`course generate`: text of a checkpoint, by the capstone's `load_model` and `stream`: the learner's own if they pass.

Standard output carries the text and nothing else; what the learner's code prints goes to standard error.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from autograder.checking import own_notebook
from coursekit import carry

LAB = "capstone/mini_gpt"
ENDING = ".safetensors"
#: How many neighbours of a missing file are named.
NAMED = 5
#: How many characters of a checkpoint's facts are shown.
LONGEST = 200


class CannotGenerate(Exception):
    """The lab, the checkpoint or the prompt does not allow it; the message says what, why and what to try."""


@dataclass(frozen=True)
class Tools:
    """What the capstone built.

    Attributes:
        load_model: path -> (model, tokenizer, facts).
        stream: (model, tokenizer, prompt, sampling) -> pieces of text.
        Sampling: the class of the settings.
        said: whose they are, in one line; nothing while grading.
    """

    load_model: Callable[[Path], tuple[Any, Any, dict[str, Any]]]
    stream: Callable[[Any, Any, str, Any], Iterable[str]]
    Sampling: type
    said: str


def tools(root: Path) -> Tools:
    """The learner's own functions where their notebook passes its visible checks, else those of the reference.

    Raises:
        CannotGenerate: if the course has no such lab.
    """
    folder = own_notebook(root, *LAB.split("/")).parent
    said = io.StringIO()
    # The notebook carries from labs too, and looks for them from the folder in which it runs.
    with contextlib.chdir(folder if folder.is_dir() else root), contextlib.redirect_stdout(said):
        try:
            found = {name: carry(LAB, name) for name in ("load_model", "stream", "Sampling")}
        except LookupError as problem:
            raise CannotGenerate(f"the capstone is not there: {problem.args[0]}; try `course build`") from None
    return Tools(**found, said=_whose(said.getvalue()))


def find(path: Path) -> Path:
    """The checkpoint's path, if there is such a file.

    Raises:
        CannotGenerate: if there is none, naming what lies beside it.
    """
    if path.is_dir():
        raise CannotGenerate(f"{path} is a folder, and a checkpoint is one file. {_files_in(path)}")
    if not path.exists():
        raise CannotGenerate(f"there is no file {path}. {_files_in(path.parent)}")
    return path


def open_checkpoint(load_model: Callable[[Path], tuple[Any, Any, dict[str, Any]]], path: Path) -> tuple[Any, Any, str]:
    """A model, its tokenizer, and what the file says about them in one line (which may be empty).

    Raises:
        CannotGenerate: if it is not what `save_model` wrote.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            model, tokenizer, facts = load_model(path)
    except Exception as problem:
        # A learner's own load_model may end in any way; what it refuses on purpose speaks for itself.
        meant = isinstance(problem, OSError | ValueError)
        said = str(problem) if meant else f"load_model ended with {type(problem).__name__}: {problem}"
        said = said if path.name in said else f"{path}: {said}"
        raise CannotGenerate(
            f"{said.rstrip('. ')}. A checkpoint is the one {ENDING} file that `save_model` writes in the capstone: "
            "save it again, or name another."
        ) from None
    return model, tokenizer, _one_line(path.name, facts)


def text(found: Tools, model: Any, tokenizer: Any, prompt: str, **settings: Any) -> Iterator[str]:
    """The pieces of the text after a prompt; ``settings`` are those of `Sampling`.

    Raises:
        CannotGenerate: if the sampler refuses the prompt, the settings or what the model says.
    """
    try:
        yield from found.stream(model, tokenizer, prompt, found.Sampling(**settings))
    except ValueError as problem:
        raise CannotGenerate(str(problem)) from None


def prompt_of(given: str, stdin: TextIO) -> str:
    """The prompt: as it was given, or all of standard input where it is "-".

    Raises:
        CannotGenerate: if it is no valid UTF-8.
    """
    try:
        prompt = stdin.read() if given == "-" else given
        prompt.encode()
    except UnicodeError:
        raise CannotGenerate(
            "the prompt is not valid UTF-8, and tokens are made from UTF-8 bytes; convert it"
        ) from None
    return prompt


def write(pieces: Iterable[str], out: TextIO) -> None:
    """Write each piece as soon as it is there, and end the line, also where Ctrl-C or an error ends the text.

    Raises:
        BrokenPipeError: if nobody reads any more.
    """
    # A character that the terminal cannot show is no reason to stop.
    if hasattr(out, "reconfigure"):
        out.reconfigure(errors="replace")
    last = "\n"
    try:
        with contextlib.redirect_stdout(sys.stderr):
            for piece in pieces:
                out.write(piece)
                out.flush()
                last = piece or last
    except BrokenPipeError:
        last = "\n"
        raise
    finally:
        if not last.endswith("\n"):
            out.write("\n")
            out.flush()


def close_quietly(out: TextIO) -> None:
    """Let what a closed pipe did not take vanish; else Python complains when it flushes at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, out.fileno())
    os.close(nowhere)


def _whose(said: str) -> str:
    """The lines of `carry` as one: "load_model, stream: your own, from mini_gpt.ipynb"."""
    names: dict[str, list[str]] = {}
    for line in said.splitlines():
        name, _, rest = line.partition(": ")
        names.setdefault(rest, []).append(name)
    return "; ".join(f"{', '.join(which)}: {rest}" for rest, which in names.items())


def _files_in(folder: Path) -> str:
    """What a person may have meant."""
    found = sorted(path.name for path in folder.glob(f"*{ENDING}")) if folder.is_dir() else []
    if not found:
        return f"Name the {ENDING} file that `save_model` wrote in the capstone."
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return f"In {folder} there are: {', '.join(found[:NAMED])}{more}."


def _one_line(name: str, facts: Any) -> str:
    """What a checkpoint says about itself, so that a person sees which one it is."""
    plain = facts.items() if isinstance(facts, dict) else ()
    said = ", ".join(f"{key} {value}" for key, value in plain if isinstance(value, str | int | float))
    said = " ".join(said.split())
    return f"{name}: {said[:LONGEST]}{'…' if len(said) > LONGEST else ''}" if said else ""
