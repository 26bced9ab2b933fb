"""The hostile suite can fail: what it looks for is found where it is, with the sandbox off or the expectation wrong."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.hostile import checks, witness
from tests.hostile.case import Case, load
from tests.hostile.kit import WRONG_EMA, live

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is made of parts of Linux")
FULL = {"ema": 4, "steps_to": 1}
#: Code of a submission, and the finding that it must lead to when nothing confines it.
UNCONFINED = {
    "import subprocess\nsubprocess.Popen(['sleep', '40'], start_new_session=True)": "a process survived",
    "open('/tmp/@TRACE@', 'w').close()": "a file outlived the run: /tmp/",
    "open('@HOME@/@TRACE@', 'w').close()": "a file outlived the run: ",
    "open('@TMP@/something', 'w').close()": "not as it was: temporary: something",
    "import socket\nsocket.create_connection(('127.0.0.1', @TCP@))": "it reached a socket outside: TCP",
    "import socket\nsocket.socket(socket.AF_UNIX).connect(chr(0) + '@ABSTRACT@')": "a socket outside: ABSTRACT",
    "import socket\nsocket.socket(socket.AF_UNIX).connect('@SOCKET@')": "it reached a socket outside: SOCKET",
    "import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', @UDP@))": "a socket outside: UDP",
    "print(open('@HOME@/.netrc').read())": "holds the secret of home",
    "print('secret_' + 'marker')": "the outputs of their own cells show 'secret_marker'",
    "print('trophy: a cup')": "outputs: trophy: a cup",
}


def case(**given):
    return Case("harness", "case", "", FULL, **given)


def test_what_an_unconfined_submission_does_is_found(stage):
    outcome = stage.run(case(extra="\n".join(f"{code}\n" for code in UNCONFINED)), trust=True)
    (stage.temporary / "something").unlink()
    found = checks.harmless(outcome, stage)
    assert [finding for finding in UNCONFINED.values() if not any(finding in problem for problem in found)] == []
    assert checks.earned(outcome) == []
    assert stage.run(case(), trust=True).survivors == [], "what survived is ended before the next class"


def test_a_wrong_mark_a_missing_flag_and_a_wrong_status_are_found(stage):
    wrong = case(answers={"ema": WRONG_EMA}, status="died", statuses={"ema": "passed"}, flags=("odd",), says=("done",))
    found = " ".join(checks.earned(stage.run(wrong)))
    for finding in (
        "ema earned 0",
        "the notebook is 'graded', not 'died'",
        "ema is 'failed', not 'passed'",
        "no flag says 'odd'",
        "no message says 'done'",
    ):
        assert finding in found


def test_a_mark_that_the_gradebook_has_otherwise_is_found(stage, monkeypatch):
    outcome = stage.run(case())
    assert checks.earned(outcome) == []
    without = dict.fromkeys(outcome.marks(), 0)
    monkeypatch.setattr(type(outcome), "marks", lambda self: without)
    assert "the gradebook holds 0 for steps_to, the verdict 1.0" in checks.earned(outcome)


def test_a_change_of_an_honest_learners_result_is_found(stage):
    def spoil(folder, course):
        path = next((folder.parents[1] / "zoe").rglob("*.ipynb"))
        path.write_text(path.read_text().replace("beta * average", "average"))

    found = checks.honest(stage.run(case(files=spoil)), stage)
    assert {problem.partition(" has")[0] for problem in found} == {
        "zoe's verdict",
        "zoe's marks in the gradebook",
        "zoe's outputs",
        "zoe's feedback page",
    }


def test_processes_and_memory_beyond_their_bounds_are_found(stage):
    code = "import os, time\nfilled = b'x' * (400 << 20)\nos.fork() or (time.sleep(2), os._exit(0))\ntime.sleep(1)"
    found = checks.harmless(stage.run(case(extra=code, at_most={"processes": 1, "mebibytes": 200})), stage)
    assert [problem.split()[1] for problem in found] == ["processes", "mebibytes"]


def test_a_dead_bystander_and_a_changed_course_are_found(stage):
    class Killing:
        def __enter__(self):
            stage.bystander.kill()
            next((stage.folder / f"course{stage.number}" / "release").rglob("*.ipynb")).write_text("{}")
            return self

        def __exit__(self, *exception):
            pass

        def run(self, tasks):
            yield from ()

    outcome = stage.run(case(), pool=Killing(), feedback=False)
    assert any("bystander" in one for one in outcome.survivors)
    assert any(name.startswith("release/") for name in outcome.changed)
    assert stage.bystander.poll() is None


def test_what_hangs_is_ended():
    before = witness.family()
    started = time.monotonic()
    with pytest.raises(witness.Hung), witness.deadline(0.5, before):
        subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"])
    assert time.monotonic() - started < 30
    assert witness.family() - before == set()


@pytest.mark.parametrize(
    "page",
    [
        "<script>mallory()</script>",
        "<img src=x onerror='mallory()'>",
        "<a href=' JavaScript:mallory()'>x</a>",
        "<p style='background: url(http://mallory)'>",
        "<style>@import 'http://mallory'</style>",
        "<iframe srcdoc='&lt;script&gt;mallory()'>",
    ],
)
def test_what_a_browser_would_run_or_fetch_is_found(page):
    assert live(page, "mallory")


def test_what_a_browser_shows_is_no_finding():
    page = "<p title='mallory'>mallory &lt;script&gt;mallory()&lt;/script&gt; <a href='http://mallory'>x</a></p>"
    assert live(page, "mallory") == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('"""Tries: x.\n\nA correct grader: y.\n"""\n', "EARNS is missing"),
        ('"""Tries: x.\n\nA correct grader: y.\n"""\nEARNS = {}\nANSWER = {}\n', "'ANSWER'"),
        ('"""Tries: x.\n"""\nEARNS = {}\n', "A correct grader:"),
        ("EARNS = {}\n", "Tries:"),
    ],
)
def test_a_case_that_says_too_little_or_is_misspelt_is_refused(tmp_path, text, problem):
    path = tmp_path / "odd.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=problem):
        load(path)
