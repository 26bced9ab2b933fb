"""A learner's process that lies to the referee: it can give wrong values or break the line, and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import threading
import time

import pytest
import torch

from autograder import execute, hearsay
from autograder.channel import Channel, Closed
from autograder.execute import CellTimeout
from autograder.proxy import MAX_OUTPUTS, Link, Proxy, SubjectGone
from autograder.wire import WireError
from tests.far_side import started
from tests.test_channel import mutated

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="without fork there is no second process")

CELL = {"id": "cell", "kind": "extra", "exercise": None, "source": ""}
OBJECT = {"handle": 0, "kind": "object", "name": "Thing", "methods": ["f"]}
FUNCTION = {"handle": 1, "kind": "callable", "name": "function", "methods": []}


@contextlib.contextmanager
def answered(*answers, seconds=5.0):
    """A link whose questions get these answers, one after the other: JSON, JSON and buffers, raw bytes, or none."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link = Link(Channel(ours))
        link.begin(seconds)
        over = threading.Event()

        def speak():
            channel = Channel(theirs)
            with contextlib.suppress(Closed, OSError):
                for answer in answers:
                    channel.receive(time.monotonic() + 10)
                    if isinstance(answer, bytes):
                        theirs.sendall(answer)
                    elif answer is not None:
                        header, buffers = answer if isinstance(answer, tuple) else (answer, [])
                        channel.send(header, buffers)
                over.wait(10)

        speaker = threading.Thread(target=speak)
        speaker.start()
        try:
            yield link
        finally:
            over.set()
            ours.shutdown(socket.SHUT_RDWR)
            speaker.join()


NO_ANSWERS = [{}, {"result": 1}, {"error": "ValueError"}, {"error": None}, b"\0\0\0\2{}", b"garbage!"]


@pytest.mark.parametrize("answer", NO_ANSWERS)
def test_what_is_no_answer_breaks_the_line(answer):
    with answered(answer, {"value": 1}) as link:
        with pytest.raises(SubjectGone):
            link.ask("name", name="a")
        assert link.broken
        assert not link.late
        with pytest.raises(SubjectGone):
            link.ask("name", name="a")


def test_no_test_takes_a_broken_line_for_an_answer():
    assert not issubclass(SubjectGone, Exception)


@pytest.mark.parametrize(
    "value",
    [
        {"handle": -1, "kind": "object", "name": "a", "methods": []},
        {"handle": True, "kind": "object", "name": "a", "methods": []},
        {"handle": 1.0, "kind": "object", "name": "a", "methods": []},
        {"handle": "0", "kind": "object", "name": "a", "methods": []},
        {"handle": None, "kind": "object", "name": "a", "methods": []},
        {"handle": 0, "kind": "object", "name": 5, "methods": []},
        {"handle": 0, "kind": "object", "name": "a", "methods": "abc"},
        {"handle": 0, "kind": "object", "name": "a", "methods": [1]},
        {"handle": 0, "kind": "object", "name": "a"},
        {"handle": 0},
        {"kind": "object"},
        {"tensor": "float32"},
    ],
)
def test_a_malformed_object_is_refused_and_the_line_stays(value):
    with answered({"value": value}, {"value": 1}) as link:
        with pytest.raises(WireError):
            link.ask("name", name="a")
        assert link.ask("name", name="a") == 1


def test_names_are_bounded_and_foreign_kinds_mean_nothing():
    value = {"handle": 10**15, "kind": ["eval"], "name": "x" * 10_000, "methods": ["f"] * 5000, "more": 1}
    with answered({"value": value}) as link:
        proxy = link.ask("name", name="a")
    assert isinstance(proxy, Proxy)
    assert len(repr(proxy)) < 300


@pytest.mark.parametrize("error", [{}, {"kinds": 5}, {"kinds": {}}])
def test_a_malformed_exception_is_refused(error):
    with answered({"error": error}) as link, pytest.raises(WireError):
        link.ask("name", name="a")


RESULTS = {
    "a bare value": 5,
    "a list": {"list": [5, 0]},
    "no result": {"dict": [["call", 0]]},
    "null": None,
}


@pytest.mark.parametrize("value", RESULTS.values(), ids=RESULTS.keys())
def test_what_is_no_result_of_a_call_is_refused(value):
    with answered({"value": FUNCTION}, {"value": value}) as link:
        function = link.ask("name", name="f")
        with pytest.raises(WireError):
            function(1)


def result(value, call):
    return {"value": {"dict": [["result", value], ["call", call]]}}


@pytest.mark.parametrize("call", [None, True, -1, 1.5, "0", 10**12, {"list": [0]}])
def test_a_strange_number_of_a_call_harms_nobody(call):
    tensor = {"tensor": "float32", "shape": [1], "grad": True, "at": 0}
    answer = (result(tensor, call), [b"\0\0\x80?"])
    with answered({"value": FUNCTION}, answer, {"error": {"kinds": ["IndexError"], "message": "no such call"}}) as link:
        x = torch.ones(1, requires_grad=True)
        y = link.ask("name", name="f")(x)
        assert y.tolist() == [1.0]
        if y.requires_grad:
            with pytest.raises(IndexError):
                y.sum().backward()
        assert x.grad is None


@pytest.mark.parametrize(
    "grads",
    [
        5,
        {"list": []},
        {"list": [1, 2]},
        {"list": ["a"]},
        {"list": [OBJECT]},
        {"list": [{"tensor": "float32", "shape": [3], "grad": False, "at": 0}]},
        {"tuple": [None]},
    ],
    ids=["a number", "too few", "too many", "a text", "an object", "another shape", "a tuple"],
)
def test_malformed_gradients_are_an_error(grads):
    tensor = {"tensor": "float32", "shape": [2], "grad": True, "at": 0}
    given = [b"\0" * 12] if isinstance(grads, dict) and "tensor" in str(grads) else []
    with answered({"value": FUNCTION}, (result(tensor, 0), [b"\0" * 8]), ({"value": grads}, given)) as link:
        x = torch.ones(2, requires_grad=True)
        y = link.ask("name", name="f")(x)
        with pytest.raises((WireError, RuntimeError, TypeError)):
            y.sum().backward()
        assert x.grad is None


@pytest.mark.parametrize("length", [-1, 1 << 70, "3", None, 2.5, True, {"int": "99999999999999999999999"}])
def test_a_strange_length_is_an_error_or_none(length):
    with answered({"value": OBJECT}, {"value": length}) as link:
        thing = link.ask("name", name="a")
        with contextlib.suppress(ValueError, OverflowError, WireError):
            assert len(thing) in (0, 1)


@pytest.mark.parametrize("item", [5, "abc", None, OBJECT, {"list": []}])
def test_what_is_no_item_ends_the_iteration(item):
    with answered({"value": OBJECT}, {"value": OBJECT}, {"value": item}) as link:
        assert list(iter(link.ask("name", name="a"))) == []


# Time


def test_silence_is_late_and_not_waited_for(monkeypatch):
    monkeypatch.setattr("autograder.proxy.GRACE", 0.05)
    with answered(None, seconds=0.05) as link:
        start = time.monotonic()
        with pytest.raises(SubjectGone):
            link.ask("name", name="a")
        assert time.monotonic() - start < 3
        assert link.late


def test_a_question_after_the_time_is_not_asked():
    with answered({"value": 1}, seconds=0.0) as link:
        with pytest.raises(CellTimeout):
            link.ask("name", name="a")
        link.begin(5.0)
        assert link.ask("name", name="a") == 1


def test_an_interrupted_question_breaks_the_line():
    # Otherwise its answer, or half of it, would be taken for that to the next one.
    previous = signal.signal(signal.SIGALRM, execute.alarm)
    try:
        with answered(None, {"value": 2}) as link:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(CellTimeout):
                link.ask("name", name="a")
            assert link.broken
            assert link.late
            with pytest.raises(SubjectGone):
                link.ask("name", name="a")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


# Reports on cells


def report(**more):
    return json.dumps({"outputs": [], "seconds": 0.1, "execution_count": 1, "error": None} | more).encode()


NO_REPORTS = {
    "an error": {"error": {"kinds": ["ValueError"], "message": "forged"}},
    "a timeout": {"error": {"kinds": ["CellTimeout"], "message": "forged"}},
    "a number": {"value": 5},
    "a dict": {"value": {"dict": [["outputs", {"list": []}]]}},
    "garbage": ({"value": {"bytes": 0}}, [b"garbage"]),
    "half a report": ({"value": {"bytes": 0}}, [report()[:-5]]),
    "a malformed value": {"value": {"tensor": 5}},
}


@pytest.mark.parametrize("answer", NO_REPORTS.values(), ids=NO_REPORTS.keys())
def test_without_a_report_on_a_cell_the_learners_process_is_given_up(answer):
    with answered(answer) as link:
        with pytest.raises(SubjectGone):
            link.run(CELL)
        assert link.broken
        assert link.late == ("CellTimeout" in str(answer))


def test_all_outputs_of_a_notebook_together_are_bounded():
    large = report(outputs=[{"output_type": "stream", "name": "stdout", "text": "x" * (11 << 20)}])
    cells = MAX_OUTPUTS // len(large) + 2
    with answered(*[({"value": {"bytes": 0}}, [large])] * cells, {"value": 1}) as link:
        kept = [len(json.dumps(link.run(CELL)["outputs"])) for _ in range(cells)]
    assert sum(kept) <= MAX_OUTPUTS + 1000
    assert kept[0] > 11 << 20
    assert kept[-1] < 200
    assert len(large) < hearsay.MAX_REPORT


# Everything else

FRAME = {"line": 1, "code": "", "function": ""}
ANSWERS = [
    {"value": {"list": [OBJECT, FUNCTION, 1, {"dict": [["a", {"tuple": [1.5, None]}]]}]}},
    {"error": {"kinds": ["ValueError", "Exception"], "message": "no", "frames": [FRAME]}},
    {"value": {"dict": [["result", {"set": [1, 2]}], ["call", 0]]}},
]


def test_no_mutation_of_an_answer_gives_anything_but_a_value_a_refusal_or_the_end():
    choose = random.Random(6)
    seen = dict.fromkeys(("value", "refused", "raised", "gone"), 0)
    for _ in range(60):
        answers = [mutated(choose.choice(ANSWERS), choose) for _ in range(25)]
        with answered(*answers) as link:
            for _ in answers:
                try:
                    link.ask("name", name="a")
                    seen["value"] += 1
                except SubjectGone:
                    seen["gone"] += 1
                    break
                except WireError:
                    seen["refused"] += 1
                except Exception as error:
                    # One that `hearsay` has made; any other is a fault of the referee's.
                    seen["raised"] += 1 if hasattr(error, "remote_frames") else pytest.fail(repr(error))
    assert min(seen.values()) > 20, seen


# From within: the learner's code finds the line and speaks itself

SPEAK = """
import gc, json, os, struct
def line():
    return next(o for o in gc.get_objects() if type(o).__name__ == 'Channel').connection.fileno()
def say(header):
    text = json.dumps(header).encode()
    os.write(line(), struct.pack('>I', len(text)) + text)
"""


@pytest.fixture
def learner(zygote, tmp_path):
    with started(zygote, tmp_path) as learner:
        yield learner


def test_a_forged_answer_gives_a_wrong_value(learner):
    forged = "{'value': {'dict': [['result', 42], ['call', None]]}, 'buffers': []}"
    f = learner(f"{SPEAK}def f():\n    say({forged})\n    return 1", "f")
    assert f() == 42
    # From now on every answer is that to the question before: still values.
    assert f() == 1


@pytest.mark.parametrize("garbage", [r"b'\0\0\0\2{}'", "os.urandom(200)", r"b'\xff' * 1000", r"b'\0' * 1000"])
def test_garbage_on_the_line_breaks_it(learner, garbage):
    f = learner(f"{SPEAK}def f():\n    os.write(line(), {garbage})\n    return 1", "f")
    with pytest.raises(SubjectGone):
        f()
    assert learner.link.broken


def test_a_closed_line_is_the_end(learner):
    f = learner(f"{SPEAK}def f():\n    os.close(line())\n    return 1", "f")
    with pytest.raises(SubjectGone):
        f()
    assert not learner.link.late


def test_the_end_of_the_process_is_the_end(learner):
    f = learner("import os\ndef f():\n    os._exit(0)", "f")
    with pytest.raises(SubjectGone):
        f()
    assert not learner.link.late


def test_a_learner_that_reads_the_questions_itself_is_late(learner, monkeypatch):
    monkeypatch.setattr("autograder.proxy.GRACE", 0.1)
    steal = "def f():\n    while os.read(line(), 65536): pass"
    f = learner(f"{SPEAK}import signal\n{steal}\n    return 1", "f")
    learner.run("signal.signal(signal.SIGALRM, signal.SIG_IGN)")
    learner.link.begin(0.2)
    with pytest.raises(SubjectGone):
        f()
    assert learner.link.late


def test_a_handle_from_elsewhere_is_an_error_over_there(learner):
    f = learner("def f(x):\n    return 1", "f")
    with pytest.raises(Exception, match="malformed") as refused:
        f(Proxy(learner.link, 10**6, "object", "alien", frozenset()))
    assert type(refused.value).__name__ == "WireError"
    assert f(1) == 1
