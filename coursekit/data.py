"""The course's data through one function each: text corpora here, synthetic tasks from `coursekit.tasks`.

A text is looked for in this order:

1. the folder named by ``COURSE_DATA`` (``tiny_shakespeare/input.txt``, ``wikitext-2/{train,valid,test}.txt``);
2. the cache, ``$XDG_CACHE_HOME/attention-to-silicon`` or ``~/.cache/attention-to-silicon``;
3. a download, kept in the cache once its checksum is right (``COURSE_OFFLINE=1`` skips the attempt);
4. a small play that the course writes itself, the same on every machine, announced in one line.

Everything said goes to stdout: nbgrader gives no points to a cell that writes to stderr.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import queue
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from coursekit.play import generated_play
from coursekit.tasks import (
    ADDITION_SYMBOLS,
    addition_task,
    associative_recall,
    copy_task,
    induction_task,
    next_token_form,
    reverse_task,
    sort_task,
)

__all__ = [
    "ADDITION_SYMBOLS",
    "DataError",
    "addition_task",
    "associative_recall",
    "copy_task",
    "generated_play",
    "induction_task",
    "next_token_form",
    "reverse_task",
    "sort_task",
    "tiny_shakespeare",
    "wikitext2",
]

#: Seconds without an answer after which the network counts as absent.
TIMEOUT = 5.0


class DataError(RuntimeError):
    """A data file is not what the course expects; the message says which, why, and what to try."""


@dataclass(frozen=True)
class _Text:
    """Where a text lies, and how to know it."""

    name: str
    path: str
    url: str
    sha256: str | None  # None: no copy at hand to pin it from, so only start and size are checked
    seed: int  # of the play that stands in for it
    starts_with: bytes = b""
    at_least: int = 0

    def fault(self, content: bytes) -> str | None:
        """What is wrong with ``content``, or None."""
        if self.sha256 is None:
            if content.startswith(self.starts_with) and len(content) >= self.at_least:
                return None
            return f"it does not look like {self.name}: {len(content):,} bytes, beginning {content[:24]!r}"
        digest = hashlib.sha256(content).hexdigest()
        if digest == self.sha256:
            return None
        if hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest() == self.sha256:
            return "its line endings were changed to CRLF (by git or an editor)"
        return f"its sha256 is {digest[:12]}..., expected {self.sha256[:12]}... ({len(content):,} bytes)"


_SHAKESPEARE = _Text(
    name="tiny Shakespeare",
    path="tiny_shakespeare/input.txt",
    url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    seed=0,
)
_WIKITEXT_SHA256 = {
    "train": None,
    "valid": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
    "test": "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
}
_WIKITEXT = {
    split: _Text(
        name=f"WikiText-2 ({split})",
        path=f"wikitext-2/{split}.txt",
        url=f"https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2/{split}.txt",
        sha256=sha256,
        seed=seed,
        starts_with=b" \n = ",
        at_least=5_000_000,
    )
    for seed, (split, sha256) in enumerate(_WIKITEXT_SHA256.items(), start=1)
}


def tiny_shakespeare() -> str:
    """About a million characters of Shakespeare's plays (1,115,394), as Karpathy's char-rnn (2015) collected them.

    Raises:
        DataError: if the file in COURSE_DATA or the download is not that text.
    """
    return _load(_SHAKESPEARE)


def wikitext2(split: str) -> str:
    """One split of WikiText-2, tokens separated by spaces (Merity et al., Pointer Sentinel Mixture Models, 2016).

    Args:
        split: "train", "valid" or "test".

    Raises:
        ValueError: for any other split.
        DataError: if the file in COURSE_DATA or the download is not that text.
    """
    if split not in _WIKITEXT:
        raise ValueError(f'split must be "train", "valid" or "test", got {split!r}')
    return _load(_WIKITEXT[split])


def _load(text: _Text) -> str:
    content = _from_folder(text) or _from_cache(text)
    if content is None:
        content, reason = _from_network(text)
    if content is None:
        print(f"{text.name}: {reason}; using a small play that the course generates itself instead.")
        return generated_play(text.seed)
    return content.decode("utf-8")


def _from_folder(text: _Text) -> bytes | None:
    folder = os.environ.get("COURSE_DATA")
    if not folder:
        return None
    if not Path(folder).expanduser().is_dir():
        raise DataError(f"COURSE_DATA is {folder!r}, which is not a folder. Correct it, or unset it to download.")
    file = Path(folder).expanduser() / text.path
    if not file.exists():
        return None
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from None
    if fault := text.fault(content):
        raise DataError(
            f"{file} is not {text.name}: {fault}. Replace the file, or remove it to let the course download a copy."
        )
    return content


def _cache_file(text: _Text) -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "attention-to-silicon" / text.path


def _from_cache(text: _Text) -> bytes | None:
    file = _cache_file(text)
    try:
        content = file.read_bytes()
    except OSError:
        return None
    if fault := text.fault(content):
        print(f"{text.name}: the cached file {file} is ignored: {fault}.")
        return None
    return content


def _from_network(text: _Text) -> tuple[bytes | None, str]:
    """The downloaded bytes, or None and the reason why there are none."""
    if os.environ.get("COURSE_OFFLINE", "0") not in ("", "0"):
        return None, "COURSE_OFFLINE is set"
    try:
        content = _download(text.url, text.name)
    except urllib.error.HTTPError as error:
        return None, f"the server answered {error.code}"
    except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
        return None, f"no download ({getattr(error, 'reason', None) or error or type(error).__name__})"
    if fault := text.fault(content):
        raise DataError(
            f"The download of {text.name} from {text.url} was refused and not kept: {fault}. A login page of the "
            "network often answers like this. Try again, set COURSE_DATA to a folder that holds "
            f"{text.path}, or set COURSE_OFFLINE=1 to work with a generated text."
        )
    _keep(_cache_file(text), content)
    return content, ""


def _download(url: str, name: str) -> bytes:
    with _open(url) as response:
        announced = response.headers.get("Content-Length", "")
        total = int(announced) if announced.isdigit() else None
        chunks = []
        with _progress(name, total) as advance:
            while chunk := response.read(64 * 1024):
                chunks.append(chunk)
                advance(len(chunk))
    content = b"".join(chunks)
    if total is not None and len(content) != total:
        raise OSError(f"the connection closed after {len(content):,} of {total:,} bytes")
    return content


def _open(url: str) -> http.client.HTTPResponse:
    """`urlopen` that also gives up on a slow name server, which its own time-out does not cover."""
    answers: queue.SimpleQueue = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(url, timeout=TIMEOUT))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=2 * TIMEOUT)
    except queue.Empty:
        raise TimeoutError(f"no answer in {2 * TIMEOUT:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


@contextlib.contextmanager
def _progress(name: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """A bar of rich or of tqdm, whichever is installed; silence otherwise."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        console = Console()
        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
        seen = console.is_terminal or console.is_jupyter
        with Progress(*columns, console=console, transient=True, disable=not seen) as bar:
            task = bar.add_task(name, total=total)
            yield lambda count: bar.advance(task, count)
        return
    except ImportError:
        pass
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda count: None
        return
    with tqdm(desc=name, total=total, unit="B", unit_scale=True, file=sys.stdout, leave=False) as bar:
        yield bar.update


def _keep(file: Path, content: bytes) -> None:
    """Write the whole file or nothing; a cache that cannot be written is no reason to stop."""
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".part-", delete=False) as out:
            temporary = out.name
            out.write(content)
        os.replace(temporary, file)
    except OSError as error:
        print(f"The download could not be kept in {file.parent}: {error.strerror}.")
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
