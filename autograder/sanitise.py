"""Make what learners wrote harmless for whoever looks at it: a browser, a spreadsheet.

Formgrader and feedback pages show a notebook's markdown and outputs as they are: markup, scripts, links and pictures
from anywhere. So the autograded notebook holds of a learner only plain text and PNG and JPEG pictures. Nothing is
filtered: outputs are built anew from what is known to be harmless, and all other kinds become text that says what was
there. HTML is shown as its source, not cleaned (a cleaner such as bleach takes seconds for a few hostile kilobytes,
and no lab shows HTML); so are notes of the learner's own, since markdown is HTML with more ways in.

The amounts are bounded too, since drawing a page takes far longer than printing what stands on it: one line of 200 kB
keeps the highlighter of code busy for five minutes, sixty thousand empty lines for ten seconds.
"""

from __future__ import annotations

import base64
import io
import re
import string
import warnings
from typing import Any

from nbconvert.filters import strip_ansi
from nbformat import NotebookNode
from PIL import Image

from autograder.restore import OWN

#: What is shown of one notebook, in characters: the learner's sources, outputs as text, pictures in base64.
MAX_SOURCE = 60_000
MAX_TEXT = 1_000_000
MAX_PICTURES = 10_000_000
#: Characters of one output, of a message, of a line of code.
MAX_PIECE, MAX_MESSAGE, MAX_LINE = 200_000, 10_000, 1_000
#: Lines of one cell, of a traceback.
MAX_LINES, MAX_TRACEBACK = 2_000, 60
#: Pixels of one picture; a small file may unpack to gigabytes.
MAX_PIXELS = 30_000_000
#: What an output costs beyond its text: each has markup around it.
_FRAME = 500
_PICTURES = {"image/png": "PNG", "image/jpeg": "JPEG"}
_SOURCES = ("text/html", "text/markdown", "text/latex")
_CUT = "[cut here: too long to be shown]"
_FORMULA = tuple("=+-@＝＋－＠")


def text(value: str) -> str:
    """A text for a markdown cell that shows it literally, whatever it holds: markup, links, formulas, entities.

    Args:
        value: any text, such as the message of an exception.

    Returns:
        Markdown for the middle of a paragraph or of an item of a list; lines become lines of it.
    """
    # `bdi` keeps letters written from right to left from turning round what follows; MathJax skips the class.
    lines = (_literal(line) for line in _clean(value, MAX_MESSAGE).splitlines())
    return f'<bdi class="tex2jax_ignore">{"<br>".join(lines)}</bdi>'


def csv(value: Any) -> Any:
    """A value for a cell of a CSV file that no spreadsheet takes for a formula.

    Args:
        value: a text or a number; numbers and None come back as they are.

    Returns:
        A text that begins like a formula gets an apostrophe before it; others are unchanged.
    """
    if not isinstance(value, str):
        return value
    value = _encodable(value)
    # Spreadsheets pass over white space, and over a byte-order mark.
    return f"'{value}" if value.lstrip("\ufeff" + string.whitespace).startswith(_FORMULA) else value


def notebook(nb: NotebookNode) -> NotebookNode:
    """Make an autograded notebook harmless, in place.

    Args:
        nb: cells as `autograder.restore` orders them: the ids of the learner's own begin with `restore.OWN`. Markdown
            of other cells is the course's and stays as it is, but for answers in words; pass what it quotes of a
            learner through `text`.

    Returns:
        The same notebook. Sources of code are only cut where they are too long; test cells never are.
    """
    room = _Room()
    for cell in nb.cells:
        marks = cell.metadata.get("nbgrader", {})
        in_words = cell.cell_type == "markdown" and marks.get("solution")
        own = cell.get("id", "").startswith(OWN) or in_words
        if cell.cell_type == "code":
            count = cell.get("execution_count")
            cell.execution_count = count if type(count) is int else None
            cell.outputs = room.outputs(cell.outputs)
            if own or not marks.get("locked"):
                cell.source = room.source(cell.source, comment="# ")
        elif own:
            cell.cell_type = "markdown"
            # On one line, so that no blank line ends the block of HTML that this is to every reader of markdown.
            cell.source = f'<pre class="tex2jax_ignore">{_literal(room.source(cell.source))}</pre>'
            cell.pop("attachments", None)
    nb.metadata.pop("widgets", None)
    return nb


def outputs(found: list[Any]) -> list[NotebookNode]:
    """The outputs of one cell, built anew from what is harmless in them.

    Args:
        found: outputs of nbformat 4, or anything else that a learner's process has sent in their place.

    Returns:
        Streams, errors and displayed data with nothing but plain text and pictures.
    """
    return _Room().outputs(found)


class _Room:
    """What may still be shown of one notebook."""

    def __init__(self) -> None:
        self.sources, self.texts, self.pictures = MAX_SOURCE, MAX_TEXT, MAX_PICTURES

    def source(self, value: str, comment: str = "") -> str:
        lines = _encodable(value[: self.sources]).split("\n")
        # A paragraph of a note is one line, and nothing highlights it.
        longest = MAX_LINE if comment else MAX_SOURCE
        shown = [line if len(line) <= longest else f"{line[:longest]}{comment}{_CUT}" for line in lines[:MAX_LINES]]
        if len(value) > self.sources or len(lines) > MAX_LINES:
            shown.append(f"{comment}{_CUT}")
        self.sources -= min(len(value), self.sources)
        return "\n".join(shown)

    def outputs(self, found: Any) -> list[NotebookNode]:
        made = []
        for output in found if isinstance(found, list) else []:
            if self.texts <= 0:
                break
            self.texts -= _FRAME
            built = self._rebuilt(output) if isinstance(output, dict) else None
            made += [built] if built else []
            if self.texts <= 0:
                made.append(_output("stream", name="stderr", text="[more output, not shown]\n"))
        return made

    def _rebuilt(self, output: dict[str, Any]) -> NotebookNode | None:
        kind = output.get("output_type")
        if kind == "stream":
            name = "stderr" if output.get("name") == "stderr" else "stdout"
            return _output(kind, name=name, text=self._text(output.get("text")))
        if kind == "error":
            lines = output.get("traceback")
            return _output(
                kind,
                ename=self._text(output.get("ename")),
                evalue=self._text(output.get("evalue")),
                traceback=[self._text(line) for line in (lines if isinstance(lines, list) else [])[:MAX_TRACEBACK]],
            )
        if kind in ("display_data", "execute_result"):
            data = output.get("data")
            shown = self._data(data if isinstance(data, dict) else {})
            numbered = {"execution_count": None} if kind == "execute_result" else {}
            return _output(kind, data=NotebookNode(shown), metadata=NotebookNode(), **numbered)
        return None

    def _text(self, value: Any) -> str:
        shown = _clean(strip_ansi(_joined(value)), max(0, min(MAX_PIECE, self.texts)))
        self.texts -= len(shown)
        return shown

    def _data(self, data: dict[str, Any]) -> dict[str, str]:
        for mime, kind in _PICTURES.items():
            picture = _picture(data[mime], kind) if mime in data else None
            if picture and len(picture) <= self.pictures:
                self.pictures -= len(picture)
                return {mime: picture}
        plain, kinds = _joined(data.get("text/plain")), sorted(str(kind) for kind in data)
        if any("plotly" in kind for kind in kinds):
            return {"text/plain": "[an interactive figure was here; run the notebook to see it]"}
        source = next((kind for kind in _SOURCES if kind in kinds), None)
        if source and (not plain or plain.startswith("<IPython.core.display.")):
            plain = f"[{source.removeprefix('text/')}, not drawn here; its source:]\n{_joined(data[source])}"
        return {"text/plain": self._text(plain or f"[an output that is not shown here: {', '.join(kinds)}]")}


def _output(kind: str, **fields: Any) -> NotebookNode:
    """As nbformat makes one, but without validating it, which takes longer than all the rest."""
    return NotebookNode(output_type=kind, **fields)


def _picture(value: Any, kind: str) -> str | None:
    """Base64 of a picture that is what it says to be and of a bearable size; None otherwise."""
    try:
        raw = base64.b64decode("".join(_joined(value)[: 2 * MAX_PICTURES].split()), validate=True)
        with warnings.catch_warnings():
            # Pillow warns of a size that is refused here anyway.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # Reads the head of the file; the pixels are never unpacked.
            with Image.open(io.BytesIO(raw), formats=[kind]) as picture:
                width, height = picture.size
    except Exception:
        # Whatever a decoder stumbles over is no picture that a learner needs.
        return None
    return base64.b64encode(raw).decode() if width * height <= MAX_PIXELS else None


def _joined(value: Any) -> str:
    """A text of nbformat: one string or a list of lines."""
    if isinstance(value, list):
        value = "".join(line for line in value if isinstance(line, str))
    return value if isinstance(value, str) else ""


def _clean(value: str, limit: int) -> str:
    value = _encodable(value)
    return value if len(value) <= limit else f"{value[:limit]}\n{_CUT}"


def _encodable(value: str) -> str:
    """Without lone surrogates, which no file in UTF-8 can hold."""
    return value.encode("utf-8", "replace").decode()


def _literal(value: str) -> str:
    """HTML and markdown alike: every ASCII character that may mean something is written by its number."""
    return re.sub(r"[^\w ]|_", lambda found: f"&#{ord(found[0])};" if found[0].isascii() else found[0], value)
