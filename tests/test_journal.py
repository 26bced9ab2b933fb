"""The journal: what it has is there whatever happens, and it answers only for what cannot have changed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from autograder import journal
from autograder.journal import Journal, Locked, Record, grader_version
from autograder.verdict import Exercise, Verdict

PASSED = Exercise("ema", 4.0, 4.0, "passed", scores={"test_ema": 4.0})
FAILED = Exercise("steps_to", 0.0, 1.0, "failed", "What: \ud83d \x00 Why: none", "counting starts at one", ["line 3"])


def record(status="graded", *exercises, key="k", seed=7, grader=None):
    cells = [{"id": "ema", "kind": "exercise", "source": "x = 1", "outputs": [{"text": "a" * 1000}], "metadata": {}}]
    verdict = Verdict("ch90/lab01", status, list(exercises or (PASSED, FAILED)), ["odd"], cells, 1.5)
    return Record(key, seed, grader or grader_version(), verdict)


@pytest.fixture
def book(tmp_path):
    with Journal(tmp_path / "journal" / "ch90_example") as opened:
        yield opened


def test_what_was_written_is_read_again_whole(book):
    written = record()
    assert book.read("ann", "lab01") is None
    book.write("ann", "lab01", written)
    assert book.read("ann", "lab01") == written
    assert (book.read("ann", "lab02"), book.read("ben", "lab01")) == (None, None)
    newer = record("graded", PASSED, key="other", seed=None)
    book.write("ann", "lab01", newer)
    assert book.read("ann", "lab01") == newer


NAMES = [
    "José Ñandú",
    "[team] o'neill+2@x.org",
    "a\nb",
    "tab\there",
    "%41",
    "A",
    "..a",
    "lab01.gz",
    "名" * 85,
    "x" * 255,
    b"caf\xe9".decode("utf-8", "surrogateescape"),
]


def test_any_folder_name_may_be_a_learner_s(book):
    for number, name in enumerate(NAMES):
        book.write(name, "lab01", record(seed=number))
    assert [book.read(name, "lab01").seed for name in NAMES] == list(range(len(NAMES)))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../ann", "/etc", "ann/"])
def test_what_is_no_folder_name_goes_nowhere(book, name):
    before = sorted(book.folder.parent.rglob("*"))
    with pytest.raises(ValueError, match="not the name of a folder"):
        book.write(name, "lab01", record())
    with pytest.raises(ValueError, match="not the name of a folder"):
        book.read(name, "lab01")
    assert sorted(book.folder.parent.rglob("*")) == before


def damaged(content):
    half = len(content) // 2
    yield b""
    yield b"{}"
    for length in (1, 10, half, len(content) - 1):
        yield content[:length]
    for place in range(len(content)):
        yield content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]


def test_a_damaged_file_is_ignored_and_rewritten(book):
    book.write("ann", "lab01", record())
    (path,) = book.folder.rglob("*.gz")
    sound = path.read_bytes()
    for content in damaged(sound):
        path.write_bytes(content)
        # A flipped bit in the header (its time, its flags) may leave the content as it was; a wrong content never.
        assert book.read("ann", "lab01") in (None, record())
    path.write_bytes(sound[:-1])
    assert book.read("ann", "lab01") is None
    book.write("ann", "lab01", record(seed=9))
    assert book.read("ann", "lab01") == record(seed=9)


@pytest.mark.parametrize("head", ['{"key": "k"}', '{"key": "k", "seed": 1, "grader": "g", "later": 1}', "[]", "7"])
def test_what_another_version_of_the_course_wrote_is_ignored(book, head):
    import gzip

    book.write("ann", "lab01", record())
    (path,) = book.folder.rglob("*.gz")
    path.write_bytes(gzip.compress(head.encode() + b"\n" + record().verdict.pack()))
    assert book.read("ann", "lab01") is None


def test_a_write_that_breaks_off_leaves_the_old_record(book, monkeypatch):
    book.write("ann", "lab01", record(seed=1))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            book.write("ann", "lab01", record(seed=2))
    assert book.read("ann", "lab01") == record(seed=1)


def test_a_record_is_on_the_disk_before_it_has_its_name_and_its_name_before_write_returns(book, monkeypatch):
    done = []
    fsync, rename = os.fsync, Path.replace

    def synced(descriptor):
        done.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def renamed(path, target):
        done.append(("name", Path(target).name))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    book.write("ann", "lab01", record())
    assert done == [("fsync", "lab01.part"), ("name", "lab01.gz"), ("fsync", "ann"), ("fsync", "ch90_example")]


def test_only_one_process_at_a_time_has_a_chapter(book, tmp_path):
    with pytest.raises(Locked, match=str(os.getpid())), Journal(book.folder):
        pass
    with Journal(tmp_path / "journal" / "ch91_other"):
        pass


def test_a_process_that_was_killed_holds_no_lock(tmp_path):
    hold = (
        "import sys, time; from pathlib import Path; from autograder.journal import Journal\n"
        "with Journal(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", hold, tmp_path / "ch"], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(Locked, match=str(holder.pid)), Journal(tmp_path / "ch"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with Journal(tmp_path / "ch"):
        pass


def test_a_verdict_answers_for_the_same_task_and_the_same_grader_alone():
    assert record().answers("k")
    assert not record().answers("other")
    assert not record(grader="older").answers("k")


@pytest.mark.parametrize(
    ("status", "exercise", "answers"),
    [
        ("graded", "passed", True),
        ("graded", "failed", True),
        ("graded", "error", True),
        ("graded", "unwritten", True),
        ("graded", "missing", True),
        ("graded", "timeout", False),
        ("graded", "died", False),
        ("graded", "whatever comes", False),
        ("timeout", "passed", False),
        ("died", "died", False),
        ("internal", "internal", False),
    ],
)
def test_only_what_is_a_fact_of_the_submission_is_used_again(status, exercise, answers):
    assert record(status, PASSED, replace(FAILED, status=exercise)).answers("k") is answers


def test_the_grader_s_version_is_that_of_its_code_and_of_what_it_computes_with(monkeypatch):
    def version():
        grader_version.cache_clear()
        return grader_version()

    first = version()
    assert version() == first
    read, installed = Path.read_bytes, journal.importlib.metadata.version
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path.name == "verdict.py"))
    second = version()
    monkeypatch.setattr(journal.importlib.metadata, "version", lambda name: installed(name) + "1" * (name == "torch"))
    assert len({first, second, version()}) == 3
    monkeypatch.undo()
    assert version() == first
