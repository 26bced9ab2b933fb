"""Text corpora (where they come from, and what is refused) and the synthetic tasks. No test reaches past 127.0.0.1."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from coursekit import data, tasks

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
PLAY = b"SECOND GUARD:\nWho goes there?\n\n" * 5000


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """An empty cache, no folder, and no way out to the network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("COURSE_DATA", "COURSE_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    connect = socket.socket.connect

    def local_only(self, address):
        if address[0] != "127.0.0.1":
            raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


class Server:
    """Answers every request with what the test puts in ``body``, and counts the requests."""

    def __init__(self):
        self.body, self.status, self.announce = PLAY, 200, None
        self.delay, self.stall, self.hits = 0.0, 0.0, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.hits.append(self.path)
                time.sleep(outer.delay)
                try:
                    self.send_response(outer.status)
                    self.send_header("Content-Length", str(outer.announce or len(outer.body)))
                    self.end_headers()
                    self.wfile.write(outer.body)
                    time.sleep(outer.stall)
                except OSError:  # the client gave up
                    pass

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/input.txt"


@pytest.fixture
def server(monkeypatch):
    """A stand-in for the place that serves tiny Shakespeare; the expected checksum is PLAY's."""
    serving = Server()
    thread = threading.Thread(target=serving.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    digest = hashlib.sha256(PLAY).hexdigest()
    monkeypatch.setattr(data, "_SHAKESPEARE", dataclasses.replace(data._SHAKESPEARE, url=serving.url, sha256=digest))
    yield serving
    serving.http.shutdown()
    serving.http.server_close()
    thread.join()


def cached(tmp_path: Path) -> list[str]:
    return sorted(str(p.relative_to(tmp_path / "cache")) for p in (tmp_path / "cache").rglob("*") if p.is_file())


def put(folder: Path, content: bytes, path: str = "tiny_shakespeare/input.txt") -> Path:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


# Where a text comes from ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the real corpora in {SHARED}")
def test_the_real_corpora_from_course_data(monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(SHARED))
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    shakespeare = data.tiny_shakespeare()
    assert len(shakespeare) == 1_115_394
    assert shakespeare.startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n")
    assert "= Homarus gammarus =" in data.wikitext2("valid")[:40]
    assert data.wikitext2("test").startswith(" \n = Robert <unk> = \n")


def test_the_pinned_checksum_is_that_of_the_specification():
    assert data._SHAKESPEARE.sha256 == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
    assert data._SHAKESPEARE.url.startswith("https://")


def test_a_download_is_checked_kept_and_not_repeated(server, tmp_path):
    assert data.tiny_shakespeare() == PLAY.decode()
    assert cached(tmp_path) == ["attention-to-silicon/tiny_shakespeare/input.txt"]
    assert (tmp_path / "cache/attention-to-silicon/tiny_shakespeare/input.txt").read_bytes() == PLAY
    assert data.tiny_shakespeare() == PLAY.decode()
    assert len(server.hits) == 1


def test_without_xdg_the_cache_is_in_the_home_folder(server, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    data.tiny_shakespeare()
    assert (tmp_path / "home/.cache/attention-to-silicon/tiny_shakespeare/input.txt").read_bytes() == PLAY


def test_course_data_comes_before_the_cache(server, tmp_path, monkeypatch):
    newer = b"another text"
    monkeypatch.setattr(
        data, "_SHAKESPEARE", dataclasses.replace(data._SHAKESPEARE, sha256=hashlib.sha256(newer).hexdigest())
    )
    put(tmp_path / "cache" / "attention-to-silicon", PLAY)  # wrong by now: asking it would print a line
    put(tmp_path / "folder", newer)
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "folder"))
    assert data.tiny_shakespeare() == newer.decode()
    assert server.hits == []


def test_course_data_without_that_file_goes_on_to_the_download(server, tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "folder"))
    assert data.tiny_shakespeare() == PLAY.decode()
    assert len(server.hits) == 1
    assert list((tmp_path / "folder").iterdir()) == []  # the learner's folder is read, never written


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (PLAY[:-1], "sha256"),
        (b"", "0 bytes"),
        (PLAY.replace(b"\n", b"\r\n"), "CRLF"),
    ],
)
def test_a_wrong_file_in_course_data_is_refused_by_name(server, tmp_path, monkeypatch, content, reason):
    file = put(tmp_path, content)
    put(tmp_path / "cache" / "attention-to-silicon", PLAY)  # a good copy elsewhere does not hide the mistake
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    with pytest.raises(data.DataError, match=reason) as caught:
        data.tiny_shakespeare()
    assert str(file) in str(caught.value)
    assert "Replace the file" in str(caught.value)
    assert server.hits == []
    assert file.read_bytes() == content


def test_course_data_that_is_no_folder_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "no such place"))
    with pytest.raises(data.DataError, match=r"no such place.*not a folder"):
        data.tiny_shakespeare()


def test_a_folder_in_place_of_the_file_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "tiny_shakespeare" / "input.txt").mkdir(parents=True)
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    with pytest.raises(data.DataError, match="cannot be read"):
        data.tiny_shakespeare()


def test_a_damaged_cache_is_replaced(server, tmp_path, capsys):
    file = put(tmp_path / "cache" / "attention-to-silicon", PLAY[:100])
    assert data.tiny_shakespeare() == PLAY.decode()
    assert file.read_bytes() == PLAY
    assert "is ignored" in capsys.readouterr().out


@pytest.mark.parametrize("body", [b"<html>Please log in</html>", PLAY + b" "])
def test_a_download_with_a_bad_checksum_is_refused_and_not_kept(server, tmp_path, body):
    server.body = body
    with pytest.raises(data.DataError, match="refused and not kept") as caught:
        data.tiny_shakespeare()
    assert server.url in str(caught.value)
    assert "COURSE_OFFLINE=1" in str(caught.value)
    assert cached(tmp_path) == []


def test_an_interrupted_write_leaves_nothing_behind(server, tmp_path, monkeypatch, capsys):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(data.os, "replace", full)
    assert data.tiny_shakespeare() == PLAY.decode()  # the text is there all the same
    assert "could not be kept" in capsys.readouterr().out
    assert cached(tmp_path) == []


def test_a_cache_that_cannot_be_made_does_not_stop_the_lesson(server, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert data.tiny_shakespeare() == PLAY.decode()
    assert "could not be kept" in capsys.readouterr().out


# No network -----------------------------------------------------------------------------------------------------------


def check_generated(text: str, out: str, reason: str) -> None:
    assert text == data.generated_play(0)
    assert out.count("\n") == 1, "said in one line"
    assert out.startswith("tiny Shakespeare: ")
    assert reason in out
    assert "generates itself" in out


def test_course_offline_does_not_even_try(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    check_generated(data.tiny_shakespeare(), capsys.readouterr().out, "COURSE_OFFLINE")
    assert server.hits == []
    assert cached(tmp_path) == []  # the stand-in is never taken for the real thing later


def test_course_offline_zero_means_online(server, monkeypatch):
    monkeypatch.setenv("COURSE_OFFLINE", "0")
    assert data.tiny_shakespeare() == PLAY.decode()


def test_course_offline_still_reads_the_cache(server, tmp_path, monkeypatch):
    put(tmp_path / "cache" / "attention-to-silicon", PLAY)
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    assert data.tiny_shakespeare() == PLAY.decode()


def test_nobody_listens(server, monkeypatch, capsys):
    with socket.socket() as taken:  # a port that is reserved but not listened on
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        monkeypatch.setattr(data, "_SHAKESPEARE", dataclasses.replace(data._SHAKESPEARE, url=url))
        check_generated(data.tiny_shakespeare(), capsys.readouterr().out, "no download")


def test_a_silent_server_counts_as_no_network_after_the_time_out(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "TIMEOUT", 0.2)
    server.delay = 3.0
    begun = time.monotonic()
    check_generated(data.tiny_shakespeare(), capsys.readouterr().out, "no download")
    assert time.monotonic() - begun < 2.0
    assert cached(tmp_path) == []


def test_a_server_that_falls_silent_in_the_middle(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "TIMEOUT", 0.2)
    server.body, server.announce, server.stall = PLAY[:1000], len(PLAY), 3.0
    begun = time.monotonic()
    check_generated(data.tiny_shakespeare(), capsys.readouterr().out, "timed out")
    assert time.monotonic() - begun < 2.0
    assert cached(tmp_path) == []


def test_a_name_server_that_hangs_counts_as_no_network_too(server, monkeypatch, capsys):
    monkeypatch.setattr(data, "TIMEOUT", 0.1)
    monkeypatch.setattr(data.urllib.request, "urlopen", lambda *args, **kwargs: time.sleep(3))
    begun = time.monotonic()
    check_generated(data.tiny_shakespeare(), capsys.readouterr().out, "no answer")
    assert time.monotonic() - begun < 2.0


def test_a_page_that_is_gone_is_named(server, capsys):
    server.status = 404
    check_generated(data.tiny_shakespeare(), capsys.readouterr().out, "answered 404")


def test_a_connection_cut_in_the_middle_is_not_kept(server, tmp_path, capsys):
    server.body, server.announce = PLAY[:1000], len(PLAY)
    check_generated(data.tiny_shakespeare(), capsys.readouterr().out, "1,000 of")
    assert cached(tmp_path) == []


@pytest.mark.parametrize("missing", [(), ("rich.progress",), ("rich.progress", "tqdm")])
def test_any_progress_bar_or_none_and_nothing_on_stderr(server, monkeypatch, capfd, missing):
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    assert data.tiny_shakespeare() == PLAY.decode()
    assert capfd.readouterr().err == ""


def test_the_bar_is_told_the_size_and_every_byte(server, monkeypatch):
    pytest.importorskip("tqdm")
    seen = []

    class Bar:
        def __init__(self, **options):
            seen.append(options["total"])

        def __enter__(self):
            return self

        def __exit__(self, *args):
            pass

        def update(self, count):
            seen.append(count)

    monkeypatch.setitem(sys.modules, "rich.progress", None)
    monkeypatch.setattr("tqdm.tqdm", Bar)
    data.tiny_shakespeare()
    assert seen[0] == len(PLAY)
    assert sum(seen[1:]) == len(PLAY)


# WikiText-2 -----------------------------------------------------------------------------------------------------------


def test_wikitext_has_three_splits_with_their_own_files():
    assert sorted(data._WIKITEXT) == ["test", "train", "valid"]
    for split, text in data._WIKITEXT.items():
        assert text.path == f"wikitext-2/{split}.txt"
        assert text.url.endswith(f"/{split}.txt")
    with pytest.raises(ValueError, match="validation"):
        data.wikitext2("validation")


def test_wikitext_offline_gives_each_split_its_own_text(monkeypatch, capsys):
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    texts = {data.wikitext2(split) for split in ("train", "valid", "test")} | {data.tiny_shakespeare()}
    assert len(texts) == 4
    assert "WikiText-2 (valid)" in capsys.readouterr().out


def test_the_train_split_has_no_pinned_checksum_but_nonsense_is_refused(server, tmp_path, monkeypatch):
    article = b" \n = Heading = \n \n Some words . \n"
    train = dataclasses.replace(data._WIKITEXT["train"], url=server.url, at_least=10 * len(article))
    monkeypatch.setitem(data._WIKITEXT, "train", train)
    for wrong in (b"<html>" + article * 20, article * 9):
        server.body = wrong
        with pytest.raises(data.DataError, match="does not look like"):
            data.wikitext2("train")
        assert cached(tmp_path) == []
    server.body = article * 10
    assert data.wikitext2("train") == (article * 10).decode()


# The play that the course writes itself -------------------------------------------------------------------------------


def test_the_generated_play_is_the_same_everywhere():
    digest = hashlib.sha256(data.generated_play().encode("ascii")).hexdigest()
    assert digest == "5b185f4913a6ba039cf49ab760c33603ed3772334d6c736da71a6a60e6769d88"
    data.generated_play.cache_clear()
    assert hashlib.sha256(data.generated_play().encode("ascii")).hexdigest() == digest


def test_the_generated_play_reads_like_one():
    play = data.generated_play(3, 50_000)
    assert len(play) == 50_000
    assert play != data.generated_play(4, 50_000)
    assert "{" not in play
    speeches = play.split("\n\n")[:-1]
    assert len(speeches) > 200
    for speech in speeches:
        name, *lines = speech.split("\n")
        assert name.endswith(":")
        assert 1 <= len(lines) <= 6
        assert all(line[0].isupper() and line[-1] in ",.;:!?" for line in lines)


# Synthetic tasks ------------------------------------------------------------------------------------------------------

TASKS = {
    tasks.copy_task: {},
    tasks.reverse_task: {},
    tasks.sort_task: {},
    tasks.addition_task: {},
    tasks.induction_task: {},
    tasks.associative_recall: {"n_queries": 3},
}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.__name__)
def test_a_task_depends_on_its_seed_and_on_nothing_else(task):
    state = torch.get_rng_state()
    first = task(5, **TASKS[task])
    assert torch.equal(torch.get_rng_state(), state), "the global random state is left alone"
    torch.manual_seed(99)
    again, other = task(5, **TASKS[task]), task(6, **TASKS[task])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert all(t.dtype == torch.int64 and len(t) == 32 for t in first)
    assert getattr(data, task.__name__) is task
    with pytest.raises(ValueError, match="batch must be at least 1"):
        task(0, batch=0)


def test_copy_reverse_sort():
    for task, want in (
        (tasks.copy_task, lambda row: row),
        (tasks.reverse_task, lambda row: row[::-1]),
        (tasks.sort_task, sorted),
    ):
        source, target = task(1, batch=50, length=7, n_symbols=4)
        assert source.shape == target.shape == (50, 7)
        assert set(source.unique().tolist()) == {0, 1, 2, 3}
        assert [want(row) for row in source.tolist()] == target.tolist()
        target[0, 0] = 77
        assert source.max() < 77, "the target has its own memory"


@pytest.mark.parametrize("digits", [1, 2, 5, 17])
def test_addition_is_right_digit_by_digit(digits):
    source, target = tasks.addition_task(2, batch=200, digits=digits)
    assert source.shape == (200, 2 * digits + 2)
    assert target.shape == (200, digits + 1)
    for question, answer in zip(source.tolist(), target.tolist(), strict=True):
        text = "".join(tasks.ADDITION_SYMBOLS[i] for i in question)
        a, b = text.removesuffix("=").split("+")
        assert len(a) == len(b) == digits
        assert "".join(map(str, answer)) == str(int(a) + int(b)).zfill(digits + 1)
    if digits == 1:
        assert {tuple(q[:1] + q[2:3]) for q in source.tolist()} > {(0, 0), (9, 9)}, "0 and 9 both occur"
    with pytest.raises(ValueError, match="17"):
        tasks.addition_task(0, digits=18)


@pytest.mark.parametrize(("length", "n_symbols"), [(3, 2), (4, 2), (16, 20), (30, 3)])
def test_induction_answers_what_followed_the_cue(length, n_symbols):
    tokens, answers = tasks.induction_task(3, batch=300, length=length, n_symbols=n_symbols)
    assert tokens.shape == (300, length)
    assert answers.shape == (300,)
    places = set()
    for row, answer in zip(tokens.tolist(), answers.tolist(), strict=True):
        *before, cue = row
        assert all(0 <= symbol < n_symbols for symbol in row)
        assert before.count(cue) == 1
        where = before.index(cue)
        assert where + 1 < length - 1, "the answer is a symbol of its own, not the cue again"
        assert row[where + 1] == answer
        places.add(where)
    assert places == set(range(length - 2)), "every place is used"
    assert len(answers.unique()) == n_symbols
    for bad in ({"length": 2}, {"n_symbols": 1}):
        with pytest.raises(ValueError, match="need length >= 3"):
            tasks.induction_task(0, **bad)


def test_associative_recall_has_one_answer_to_each_question():
    keys, values, where, answers = tasks.associative_recall(4, batch=100, n_pairs=6, n_keys=9, n_values=3, n_queries=4)
    assert keys.shape == values.shape == (100, 6)
    assert where.shape == answers.shape == (100, 4)
    assert set(keys.unique().tolist()) == set(range(9))
    assert set(values.unique().tolist()) == {0, 1, 2}
    assert set(where.unique().tolist()) == set(range(6))
    for k, v, w, a in zip(keys.tolist(), values.tolist(), where.tolist(), answers.tolist(), strict=True):
        assert len(set(k)) == 6
        assert len(set(w)) == 4
        table = dict(zip(k, v, strict=True))
        assert [table[k[place]] for place in w] == a
    with pytest.raises(ValueError, match="distinct keys"):
        tasks.associative_recall(0, n_pairs=10, n_keys=9)
    with pytest.raises(ValueError, match="distinct questions"):
        tasks.associative_recall(0, n_pairs=4, n_queries=5)
    tasks.associative_recall(0, n_pairs=9, n_keys=9, n_queries=9)


@pytest.mark.parametrize("separator", [None, 9])
def test_next_token_form_trains_on_the_answer_only(separator):
    source, target = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[7, 8], [0, 1]])
    tokens, labels = tasks.next_token_form(source, target, separator)
    middle = [] if separator is None else [9]
    for s, t, x, y in zip(source.tolist(), target.tolist(), tokens.tolist(), labels.tolist(), strict=True):
        assert x == [*s, *middle, *t[:-1]]
        assert y == [-100] * (len(s) + len(middle) - 1) + t
