"""Split execution as a whole: the learner's cells in the sandbox, the tests elsewhere, and what a loss costs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest

from autograder import sandbox, split, warm
from autograder.build import index_of
from autograder.limits import Limits
from autograder.references import references
from autograder.split import Terms
from autograder.task import Task, perform
from autograder.warm import RunFailed, Zygote
from tests import learners
from tests.conftest import ROOT
from tests.test_warm import is_gone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is made of parts of Linux")

#: Enough for honest cells on a busy machine.
LIMITS = Limits(cell_seconds=20, notebook_seconds=60, cpu_seconds=60)
OWN, OTHER = "ch90_example/lab01_own.py", "ch89_before/lab02_other.py"


@pytest.fixture(scope="module")
def clean():
    if lack := sandbox.missing():
        pytest.skip(f"this machine has no sandbox: {lack}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPLIT_CANARY", "canary")
        with Zygote(clean=True) as zygote:
            # The time of a notebook begins before its processes are asked for, and the first has to wait for torch.
            split.run({"lab": "ch90/lab01", "cells": []}, [], zygote, Terms({}))
            yield zygote


def cell(number, kind, source, **metadata):
    return {"id": str(number), "kind": kind, "exercise": "f", "source": source, "metadata": metadata}


@pytest.fixture
def run(clean):
    """Run cells, each a kind and a source; the reports on them."""

    def go(*cells, names=("f", "g"), sandbox=True, references=None, seed=0, **limits):
        made = [cell(number, kind, source) for number, (kind, source) in enumerate(cells)]
        terms = Terms(references or {}, seed, Limits(**(vars(LIMITS) | limits)), sandbox)
        job = {"lab": "ch90/lab01", "cells": made, "cell_seconds": terms.limits.cell_seconds, "diagnose": False}
        return split.run(job, list(names), clean, terms)["cells"]

    return go


def indented(source):
    return textwrap.indent(source, "    ")


def kinds(reports):
    """What each cell raised."""
    return [report["error"] and report["error"]["kind"] for report in reports]


def said(report):
    return "".join(output.get("text", "") for output in report["outputs"]).strip()


def look(run, source, **more):
    """What some code of the learner's prints, as JSON."""
    (report,) = run(("extra", source), **more)
    assert report["error"] is None, report["error"]
    return json.loads(said(report))


# Apart


def test_tests_see_the_learners_names_and_the_given_cells(run):
    reports = run(
        ("given", "import math\nscale = 3"),
        ("extra", "scale = 5\nmath.pi = 4"),
        ("exercise", "def f(x):\n    return x * scale"),
        ("test", "assert f(2) == 10\nassert scale == 3\nassert 3.14 < math.pi < 3.15"),
        ("test", "y = f(1)"),
        ("test", "print(y)"),
    )
    assert kinds(reports) == [None] * 6
    assert said(reports[5]) == "5"


def test_what_is_not_defined_over_there_is_not_defined_here(run):
    reports = run(
        ("exercise", "def f(): return 1"), ("test", "f()"), ("extra", "del f"), ("test", "f()"), ("test", "g()")
    )
    assert kinds(reports) == [None, None, None, "NameError", "NameError"]


PATCHES = {
    "torch": "import torch\nfor n in ('allclose', 'equal', 'isclose', 'all'): setattr(torch, n, lambda *a, **k: True)",
    "tensors": "import torch\ntorch.Tensor.__eq__ = torch.Tensor.all = torch.Tensor.__bool__ = lambda *a, **k: True",
    "assert_close": "import torch\ntorch.testing.assert_close = lambda *a, **k: None",
    "numpy": "import numpy.testing as t\nt.assert_allclose = t.assert_array_equal = lambda *a, **k: None",
    "checks": "from coursekit import check\ncheck.close = check.equal = check.that = lambda *a, **k: None",
    "builtins": "import builtins as b\nb.AssertionError = type('Quiet', (Exception,), {})\nb.abs = lambda x: 0",
    "transformers": (
        "import ast\nclass Quiet(ast.NodeTransformer):\n    def visit_Assert(self, node): return ast.Pass()\n"
        "get_ipython().ast_transformers.append(Quiet())"
    ),
    "inputs": (
        "def quiet(lines): return ['pass'] if 'assert' in ''.join(lines) else lines\n"
        "get_ipython().input_transformers_post.append(quiet)"
    ),
    "tracebacks": "get_ipython().showtraceback = get_ipython().run_cell = lambda *a, **k: None",
    "the wire": "import autograder.wire as wire\nwire.encode = lambda value, buffers, handle: 9",
}
CHECKS = (
    "import numpy, torch\nfrom coursekit import check",
    "assert f(3) == 9",
    "assert torch.allclose(torch.tensor(float(f(3))), torch.tensor(9.0))",
    "torch.testing.assert_close(torch.tensor(float(f(3))), torch.tensor(9.0))",
    "numpy.testing.assert_allclose(f(3), 9)",
    "check.equal(f(3), 9, 'nine')",
    "check.close(torch.tensor(float(f(3))), torch.tensor(9.0), 'nine')",
    "assert abs(f(3) - 9) < 1e-6",
)


@pytest.mark.parametrize("patch", PATCHES.values(), ids=PATCHES.keys())
def test_nothing_that_a_learner_patches_changes_a_test(run, patch):
    wrong = ("exercise", "def f(x):\n    return x + 1")
    reports = run(("extra", patch), wrong, *[("test", f"{CHECKS[0]}\n{check}") for check in CHECKS[1:]])
    # The learner's process may have been lost with its own wire; no test has passed.
    assert None not in kinds(reports)[2:]


def test_the_right_answer_passes_those_tests(run):
    right = ("exercise", "def f(x):\n    return x * x")
    assert kinds(run(right, *[("test", f"{CHECKS[0]}\n{check}") for check in CHECKS[1:]])) == [None] * 8


def test_an_object_that_equals_everything_passes_nothing(run):
    liar = "class Liar:\n    def __eq__(self, other): return True\ndef f(x):\n    return Liar()"
    assert kinds(run(("exercise", liar), ("test", "assert f(3) == 9"))) == [None, "AssertionError"]


def test_a_test_that_catches_everything_does_not_catch_a_lost_process(run):
    reports = run(
        ("exercise", "import os\ndef f(): os._exit(0)\ndef g(): return 1"),
        ("test", "try:\n    f()\nexcept Exception:\n    pass"),
        ("test", "try:\n    f()\nexcept:\n    pass"),
        ("test", "g()"),
    )
    assert kinds(reports) == [None, "SubjectGone", "SubjectGone", None]


def test_seeds_set_by_a_test_count_on_both_sides(run):
    test = (
        "import torch\ntorch.manual_seed(3)\na = f()\ntorch.manual_seed(3)\nb = f()\ntorch.manual_seed(3)\n"
        "assert torch.equal(a, b) and torch.equal(a, torch.rand(4)) and not torch.equal(b, f())"
    )
    assert kinds(run(("exercise", "import torch\ndef f(): return torch.rand(4)"), ("test", test))) == [None, None]


def test_what_a_call_prints_is_no_output_of_the_test(run):
    reports = run(("exercise", "def f():\n    print('hello')\n    return 1"), ("test", "print(f())"))
    assert said(reports[1]) == "1"


def test_a_test_that_makes_much_of_a_little_ends_and_not_the_machine(run):
    # Without a bound this is memory that the machine would promise.
    reports = run(("exercise", "def f(): return 6 << 30"), ("test", "bytearray(f())"), ("test", "f()"))
    assert kinds(reports) == [None, "MemoryError", None]


# What the learner's process does not know

#: Looks for some bytes in all of its memory. They are not written down here as they are looked for.
SEARCH = """
import json, re
def found(pattern):
    hits = 0
    with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb', 0) as memory:
        for line in maps.read().splitlines():
            place, rights, *_, name = (line + ' ').split(' ')
            start, end = (int(part, 16) for part in place.split('-'))
            if 'r' not in rights or '[v' in line:
                continue
            try:
                memory.seek(start)
                hits += len(re.findall(pattern, memory.read(end - start)))
            except OSError:
                pass
    return hits
"""


def test_no_piece_of_a_test_is_anywhere_in_its_memory(run):
    needle = "b'oracle_of_the_hidde[n]_test'"
    test = ("test", "oracle_of_the_hidden_test = 9\nassert f(3) == oracle_of_the_hidden_test")
    source = f"{SEARCH}\nplanted = 'planted_' * 3\nprint(json.dumps([found({needle}), found(b'planted_plante[d]_')]))"
    reports = run(test, ("exercise", "def f(x): return x * x"), test, ("extra", source), memory_mebibytes=4096)
    assert kinds(reports) == ["NameError", None, None, None]
    hidden, planted = json.loads(said(reports[3]))
    assert planted > 0, "the search finds what is there"
    assert hidden == 0


def test_the_warm_process_is_nobody_and_has_none_of_this_environment(clean):
    source = "import json, os, sys\nprint(json.dumps([os.getuid(), os.getgroups(), sorted(os.environ), sys.path[0]]))"
    job = {"lab": "ch90/lab01", "cells": [cell(0, "extra", source)], "cell_seconds": 60, "folder": "/"}
    (report,) = clean.call("run", job, 60)["cells"]
    user, groups, names, first = json.loads(said(report))
    root = os.geteuid() == 0
    assert user == (sandbox.nobody() if root else os.getuid())
    assert groups == [] or not root
    assert "SPLIT_CANARY" not in names
    assert not {"HOSTILE_CANARY", "USER", "SSH_AUTH_SOCK", "PYTHONPATH", "VIRTUAL_ENV"} & set(names)
    assert first != "", "what lies in the current folder is no module"


def test_its_environment_is_empty_but_for_what_the_sandbox_sets(run, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "canary")
    source = (
        "import json, os\n"
        "first = [pair.split('=')[0] for pair in open('/proc/1/environ').read().split(chr(0)) if pair]\n"
        "print(json.dumps([dict(os.environ), first]))"
    )
    now, first = look(run, source, seed=7)
    assert now == sandbox.environment()
    # What the warm process was started with is still to be read, and that is nothing of this process's.
    known = {"PATH", "LANG", "HOME", "OMP_NUM_THREADS", "MPLBACKEND", "MPLCONFIGDIR", "COURSE_DATA", "LC_CTYPE"}
    assert set(first) <= known


def test_the_seed_is_known_to_the_tests_alone(run):
    test = "import os\nassert os.environ['COURSE_SEED'] == '7'"
    seen = "import os\nprint('COURSE_SEED' in os.environ)"
    reports = run(("test", test), ("extra", seen), ("given", "import os"), ("extra", seen), seed=7)
    assert kinds(reports) == [None] * 4
    assert said(reports[1]) == said(reports[3]) == "False"


def test_it_has_the_references_that_are_carried_and_not_the_labs_own(run):
    source = """
import json, os
from pathlib import Path
root = Path(os.environ['COURSE_ROOT'])
print(json.dumps([sorted(str(p.relative_to(root)) for p in root.rglob('*.py')), os.environ['COURSE_ROOT']]))
"""
    texts = {OWN: "answer_of_this_lab = 1", OTHER: "answer_of_another = 2"}
    files, root = look(run, source, references=texts)
    assert files == [f"coursekit/solved/{OTHER}"]
    assert root == sandbox.COURSE
    hits = look(run, f"{SEARCH}\nprint(json.dumps(found(b'answer_of_this_la[b]')))", references=texts)
    assert hits == 0


def test_it_has_one_open_connection_and_no_files(run):
    source = """
import json, os
kinds = []
for name in os.listdir('/proc/self/fd'):
    try:
        kinds.append(os.readlink(f'/proc/self/fd/{name}').split(':')[0])
    except OSError:
        pass
print(json.dumps(sorted(kinds)))
"""
    # The listing itself, and IPython's history, are the learner's own.
    found = [kind for kind in look(run, source) if not kind.startswith(("/proc", sandbox.WORK))]
    assert found == ["/dev/null"] * 3 + ["socket"]


def test_it_has_not_imported_what_only_an_instructor_needs(run):
    source = (
        "import json, sys\nprint(json.dumps(sorted({n.partition('.')[0] for n in sys.modules} | set(sys.modules))))"
    )
    loaded = set(look(run, source))
    assert "autograder.subject" in loaded
    assert not loaded & {"nbgrader", "sqlalchemy", "nbconvert", "autograder.classroom", "autograder.gradebook"}


# Losses

ENDS = {
    "exit": "import os\nos._exit(3)",
    "exit as if all were well": "import os\nos._exit(0)",
    "segmentation fault": "import ctypes\nctypes.string_at(8)",
    "kill": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\nos._exit(1)",
    "closed line": "import os\nos.closerange(3, 100)",
    "garbage": "import os\n[os.write(n, b'x' * 999) for n in range(3, 20) if os.path.exists(f'/proc/self/fd/{n}')]",
    "memory": "import os, time\nfor _ in range(3):\n    if not os.fork(): break\nm = b'1' * (150 << 20)\ntime.sleep(9)",
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize("where", ["cell", "call"])
def test_what_ends_the_process_costs_its_own_exercise(run, end, where):
    bad = ("exercise", end if where == "cell" else f"def f(x):\n{indented(end)}")
    good = ("exercise", "def g(): return 2"), ("test", "assert g() == 2")
    first, *rest = kinds(run(bad, ("test", "assert f(1) == 1"), *good, memory_mebibytes=300))
    assert first == ("SubjectGone" if where == "cell" else None)
    assert rest == ["NameError" if where == "cell" else "SubjectGone", None, None]


GROW = """
import os, time
for _ in range(10):
    if os.fork() == 0:
        memory = b'1' * (30 << 20)
        break
time.sleep(9)
"""
#: Nothing interrupts it.
STUCK = """
import signal
signal.signal(signal.SIGALRM, signal.SIG_IGN)
while True: pass
"""


@pytest.mark.parametrize(
    ("source", "kind", "words", "limits"),
    [
        ("import os\nos._exit(3)", "SubjectGone", "exit 3", {}),
        (GROW, "SubjectGone", "more than 100 MiB", {"memory_mebibytes": 100}),
        (STUCK, "CellTimeout", "0.5 s", {"cpu_seconds": 0.5}),
        (STUCK, "CellTimeout", "0.4 s", {"cell_seconds": 0.4}),
    ],
    ids=["exit", "memory", "processor time", "time"],
)
def test_the_reason_of_a_loss_is_told(run, source, kind, words, limits):
    (report,) = run(("extra", source), **limits)
    assert report["error"]["kind"] == kind
    assert words in report["error"]["message"]


def test_after_too_many_losses_the_rest_is_not_tried(run):
    end = ("extra", "import os\nos._exit(1)")
    reports = run(("exercise", "def f(): return 1"), ("test", "f()"), *[end] * 6, ("test", "f()"))
    assert kinds(reports) == [None, None, *["SubjectGone"] * 7]
    assert "did not run" not in reports[5]["error"]["message"]
    assert "too often" in reports[6]["error"]["message"]
    assert "too often" in reports[8]["error"]["message"]


def test_a_loop_that_ignores_interrupts_is_late_and_not_dead(run):
    both = f"def f():\n{indented(STUCK)}\ndef g(): return 2"
    reports = run(("exercise", both), ("test", "f()"), ("test", "g()"), cell_seconds=0.5)
    assert kinds(reports) == [None, "CellTimeout", None]


def test_a_loop_that_can_be_interrupted_costs_no_process(run):
    source = """
count = 0
def f():
    while True: pass
def g():
    global count
    count += 1
    return count
"""
    tests = [("test", "g()"), ("test", "f()"), ("test", "assert g() == 2")]
    assert kinds(run(("exercise", source), *tests, cell_seconds=0.4)) == [None, None, "CellTimeout", None]


@pytest.mark.parametrize("loop", [STUCK, "while True: pass"], ids=["stuck", "interruptible"])
def test_when_the_notebooks_time_is_over_what_has_passed_has_passed(run, loop):
    cells = [
        ("exercise", f"def g(): return 1\ndef f():\n{indented(loop)}"),
        *[("test", test) for test in ("g()", "f()", "g()")],
        ("extra", "1"),
    ]
    start = time.monotonic()
    reports = run(*cells, cell_seconds=10, notebook_seconds=1.0)
    assert time.monotonic() - start < 10
    assert kinds(reports) == [None, None, "CellTimeout", "CellTimeout", "CellTimeout"]
    assert "ran longer than 1 s in all" in reports[3]["error"]["message"]


def test_a_test_that_hangs_by_itself_ends_the_notebook(run, monkeypatch):
    monkeypatch.setattr(split, "SLACK_SECONDS", 0.5)
    hang = "import signal, time\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\ntime.sleep(60)"
    with pytest.raises(RunFailed) as failure:
        run(("test", hang), notebook_seconds=0.5)
    assert failure.value.status == "timeout"


# Without a sandbox nothing runs


def test_where_it_cannot_be_confined_nothing_runs_and_the_reason_is_told(built_course, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import autograder.kernel as kernel\n"
        "def lacking(*arguments): raise OSError(38, 'no such part here')\n"
        "kernel.landlock = lacking\n"
    )
    original = warm._clean_environment
    monkeypatch.setattr(warm, "_clean_environment", lambda: original() | {"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    index = index_of(learners.LAB, built_course)
    with Zygote(clean=True) as lacking, tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o777)
        extra = f"open('{folder}/it ran', 'w')"
        content = json.dumps(learners.notebook(built_course, learners.reference(built_course), extra)).encode()
        verdict = perform(Task(index, content, references(index, built_course)), lacking)
        ran = os.listdir(folder)
    assert verdict.status == "internal"
    assert {exercise.points for exercise in verdict.exercises} == {0}
    assert "CannotConfine" in verdict.exercises[0].message
    assert "no such part here" in verdict.exercises[0].message
    assert ran == []


def test_only_who_trusts_the_code_runs_it_without_a_sandbox(run):
    source = "import json, os\nprint(json.dumps([os.getpid() == 1, 'COURSE_SEED' in os.environ]))"
    assert look(run, source) == [True, False]
    assert look(run, source, sandbox=False) == [False, False]


# Ends


def descendants(pid):
    found = [pid]
    for process in found:
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{process}/task"):
                found += map(int, Path(f"/proc/{process}/task/{thread}/children").read_text().split())
    return found[1:]


def wait_for_descendants(pid, count):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if len(found := descendants(pid)) >= count:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{pid} has only {found}")


STUBBORN = """
import ctypes, os, signal, time
for number in range(1, 32):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        break
while True:
    try: time.sleep(60)
    except BaseException: pass
"""


def test_the_end_of_the_warm_process_ends_all_that_it_has_started(clean):
    own = Zygote(clean=True)
    with own:
        failed = []

        def go():
            job = {"lab": "ch90/lab01", "cells": [cell(0, "extra", STUBBORN)], "cell_seconds": 60, "diagnose": False}
            try:
                split.run(job, [], own, Terms({}, 0, LIMITS))
            except RunFailed as failure:
                failed.append(failure.status)

        asking = threading.Thread(target=go)
        asking.start()
        while own.process is None:
            time.sleep(0.01)
        # A referee, a warden, and four processes of the learner's.
        started = wait_for_descendants(own.process.pid, 6)
        own.process.send_signal(signal.SIGKILL)
        asking.join(30)
        assert failed == ["died"]
        assert all(is_gone(pid) for pid in started)


def test_the_end_of_the_one_who_asked_ends_all(clean):
    program = (
        "import sys, json\n"
        "from autograder import split\n"
        "from autograder.split import Terms\n"
        "from autograder.warm import Zygote\n"
        "job = json.loads(sys.argv[1])\n"
        "with Zygote(clean=True) as zygote:\n"
        "    split.run(job, [], zygote, Terms({}))\n"
    )
    job = {"lab": "ch90/lab01", "cells": [cell(0, "extra", STUBBORN)], "cell_seconds": 60, "diagnose": False}
    # What it would have removed at its end goes with this folder.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        command = [sys.executable, "-c", program, json.dumps(job)]
        asking = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"TMPDIR": folder})
        try:
            started = wait_for_descendants(asking.pid, 7)
        finally:
            asking.kill()
            asking.wait()
        assert all(is_gone(pid) for pid in started)


def test_a_run_that_is_over_leaves_nothing(clean, run):
    before = set(descendants(clean.process.pid))
    daemon = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(60)\n    os._exit(0)"
    )
    run(("extra", daemon), ("extra", "1"))
    assert all(is_gone(pid) for pid in set(descendants(clean.process.pid)) - before)
    with contextlib.suppress(RunFailed):
        run(("extra", STUBBORN), cell_seconds=0.3, notebook_seconds=0.5)
    assert all(is_gone(pid) for pid in set(descendants(clean.process.pid)) - before)


@pytest.mark.parametrize("confined", [True, False])
def test_a_run_leaves_no_files(run, confined, monkeypatch):
    # Where IPython finds no home that it may write to it makes one, and nobody removes that.
    before = set(Path("/tmp").glob("*/profile_default"))
    cells = ("extra", "import tempfile\ntempfile.mkdtemp()"), ("test", "import tempfile\ntempfile.mkdtemp()")
    # A folder of its own, which the processes inside may enter: others grade on this machine, too.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o711)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        assert kinds(run(*cells, sandbox=confined)) == [None, None]
        assert os.listdir(folder) == []
    assert set(Path("/tmp").glob("*/profile_default")) - before == set()


# As a grader sees it


def test_a_submission_is_graded_the_same_with_and_without_a_sandbox(clean, built_course):
    index = index_of(learners.LAB, built_course)
    right = learners.reference(built_course)
    wrong = right | {"ema": right["ema"].replace("beta**t", "beta ** (t - 1)")}
    for answers, points in ((right, 5.0), (wrong, 1.0), ({}, 0.0)):
        content = json.dumps(learners.notebook(built_course, answers)).encode()
        tasks = [Task(index, content, references(index, built_course), sandbox=inside) for inside in (True, False)]
        verdicts = [perform(task, clean).to_json() for task in tasks]
        assert verdicts[0] == verdicts[1]
        assert verdicts[0]["points"] == points
