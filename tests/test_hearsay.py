"""What the learner's process says of a cell or an exception: made plain, bounded, and fit for a notebook."""

from __future__ import annotations

import json
import pickle
import random

import nbformat
import pytest

from autograder import hearsay
from autograder.execute import CellTimeout
from tests.test_channel import mutated

ERROR = {
    "kind": "ValueError",
    "message": "no",
    "frames": [{"line": 3, "code": "return x", "function": "f"}],
    "what": "forged",
    "mistakes": ["forged"],
}
OUTPUTS = [
    {"output_type": "stream", "name": "stdout", "text": "hello\n"},
    {"output_type": "display_data", "data": {"text/plain": "x", "application/json": {"a": [1]}}, "metadata": {"w": 1}},
    {"output_type": "execute_result", "data": {"text/html": ["<b>", "</b>"]}, "metadata": {}, "execution_count": 3},
    {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": ["line 1", "line 2"]},
]
REPORT = {"id": "forged", "outputs": OUTPUTS, "seconds": 0.5, "execution_count": 3, "error": ERROR}
NAN, INF = float("nan"), float("inf")
REFUSED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


def told(said):
    return hearsay.report(json.dumps(said).encode(), "cell")


def assert_fit_for_a_notebook(report):
    """As whoever stores and shows it needs it."""
    cell = nbformat.v4.new_code_cell("", id="a", execution_count=report["execution_count"])
    cell.outputs = [nbformat.from_dict(output) for output in report["outputs"]]
    nbformat.validate(nbformat.v4.new_notebook(cells=[cell]))
    json.dumps(report, ensure_ascii=False, allow_nan=False).encode("utf-8")
    assert report["id"] == "cell"
    assert 0 <= report["seconds"] < 1 << 31
    if report["error"] is not None:
        assert all(isinstance(report["error"][key], str) for key in ("kind", "message"))
        assert report["error"]["mistakes"] == []
        assert report["error"]["what"] is None


def test_an_honest_report_is_kept():
    report = told(REPORT)
    assert report["seconds"] == 0.5
    assert report["execution_count"] == 3
    assert report["outputs"][:2] == OUTPUTS[:2]
    assert report["outputs"][2]["data"] == OUTPUTS[2]["data"]
    assert report["outputs"][3] == OUTPUTS[3]
    assert report["error"]["kind"] == "ValueError"
    assert report["error"]["frames"] == ERROR["frames"]
    assert_fit_for_a_notebook(report)


def test_a_report_speaks_for_its_own_cell_and_names_no_mistake():
    report = told(REPORT)
    assert report["id"] == "cell"
    assert report["error"]["what"] is None
    assert report["error"]["mistakes"] == []


def deep(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


def output(kind="display_data", **more):
    return REPORT | {"outputs": [{"output_type": kind, "data": {}, "metadata": {}} | more]}


ODD = {
    **{f"seconds {value}": REPORT | {"seconds": value} for value in (NAN, -NAN, INF, -1, True, 10**400, "1")},
    **{f"count {value}": REPORT | {"execution_count": value} for value in (-1, True, 1.5, 1 << 70, "1", [])},
    "a text that is no text": output(data={"text/plain": 5}),
    "lines that are no texts": output(data={"text/plain": [5]}),
    "a dict for an image": output(data={"image/png": {"a": 1}}),
    "deep JSON": output(data={"application/json": deep(500)}),
    "deep metadata": output(metadata=deep(500)),
    "metadata that is a list": output(metadata=[]),
    "half a pair": output("stream", name="stdout", text="\ud800"),
    "half a pair in data": output(data={"application/json": {"\udfff": "\ud800"}}),
    "half a pair in metadata": output(metadata={"\udfff": "\ud800"}),
    "NaN in data": output(data={"application/json": [float("nan")]}),
    "a stream of another name": output("stream", name="/etc/passwd", text="x"),
    "a stream without text": output("stream"),
    "a field too many": output("stream", name="stdout", text="x", metadata={"a": 1}),
    "a traceback that is none": output("error", ename=5, evalue=None, traceback="abc"),
    "a traceback of numbers": output("error", ename="a", evalue="b", traceback=[1, None]),
    "an unknown output": output("update_display_data"),
    "a result with a count": output("execute_result", execution_count=-5),
    "frames of all kinds": REPORT | {"error": ERROR | {"frames": [1, None, {}, {"line": "x"}, {"line": -1}]}},
    "frames that are none": REPORT | {"error": ERROR | {"frames": {"a": 1}}},
    "an error of numbers": REPORT | {"error": {"kind": 5, "message": [1], "frames": []}},
}


@pytest.mark.parametrize("said", ODD.values(), ids=ODD.keys())
def test_what_is_odd_becomes_plain(said):
    assert_fit_for_a_notebook(told(said))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"garbage",
        b"[]",
        b"5",
        b"null",
        b"{}",
        b'{"error": 5, "outputs": []}',
        b'{"error": null}',
        b'{"error": null, "outputs": 5}',
        b'{"error": null, "outputs": [5]}',
        b'{"error": {}, "outputs": []}',
        b'{"error": null, "outputs": [' + b"[" * 100_000 + b"]" * 100_000 + b"]}",
        b'{"error": null, "outputs": [], "seconds": ' + b"9" * 10_000 + b"}",
        json.dumps(REPORT).encode() + b" " * hearsay.MAX_REPORT,
    ],
    ids=range(14),
)
def test_what_is_no_report_is_refused(raw):
    with pytest.raises(REFUSED):
        hearsay.report(raw, "cell")


def test_all_that_a_person_reads_is_bounded():
    long = "x" * 50_000
    frames = [{"line": 1, "code": long, "function": long}] * 20
    lines = {"output_type": "error", "ename": long, "evalue": long, "traceback": [long] * 2}
    report = told(REPORT | {"error": {"kind": long, "message": long, "frames": frames}, "outputs": [lines]})
    assert len(json.dumps(report)) < 50_000
    assert len(told(REPORT | {"outputs": OUTPUTS * 10_000})["outputs"]) == hearsay.MAX_OUTPUTS


def test_no_mutation_of_a_report_gives_anything_but_a_fit_report_or_a_refusal():
    choose = random.Random(5)
    fit = 0
    for _ in range(1500):
        try:
            report = told(mutated(REPORT, choose))
        except REFUSED:
            continue
        assert_fit_for_a_notebook(report)
        fit += 1
    assert fit > 500


# Exceptions


def said(*kinds, **more):
    return {"kinds": list(kinds), "message": "told", "frames": []} | more


def test_an_exception_has_its_name_the_nearest_base_that_python_has_and_its_message():
    for kinds, base in (
        (["ValueError", "Exception"], ValueError),
        (["WrongShape", "ValueError", "Exception"], ValueError),
        (["Mine", "Exception", "BaseException"], Exception),
        (["Mine"], Exception),
        (["UnicodeDecodeError", "UnicodeError", "ValueError"], UnicodeDecodeError),
        (["FileNotFoundError", "OSError"], FileNotFoundError),
        (["KeyError", "LookupError"], KeyError),
        (["AssertionError"], AssertionError),
        (["NotImplementedError", "RuntimeError"], NotImplementedError),
    ):
        raised = hearsay.exception(said(*kinds))
        assert type(raised).__name__ == kinds[0]
        assert isinstance(raised, base)
        assert str(raised) == "told"


@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "SubjectGone", "BaseException"])
def test_nothing_that_a_learner_raises_ends_the_referee(kind):
    raised = hearsay.exception(said(kind, "BaseException"))
    assert type(raised).__name__ == kind
    assert isinstance(raised, Exception)
    assert not isinstance(raised, SystemExit | KeyboardInterrupt | GeneratorExit)


def test_no_exception_of_a_learners_ends_a_loop_of_the_test():
    def never(_):
        raise hearsay.exception(said("StopIteration", "Exception"))

    with pytest.raises(Exception, match="told"):
        # Not a generator: within one Python itself makes a RuntimeError of it.
        list(map(never, [1, 2]))
    assert not isinstance(hearsay.exception(said("StopAsyncIteration")), StopAsyncIteration)


@pytest.mark.parametrize("kind", ["ExceptionGroup", "BaseExceptionGroup"])
def test_a_group_of_exceptions_is_one(kind):
    raised = hearsay.exception(said(kind, "ExceptionGroup", "BaseExceptionGroup", "Exception"))
    assert type(raised).__name__ == kind
    assert not isinstance(raised, BaseExceptionGroup)


def test_a_timeout_over_there_is_one_here():
    assert isinstance(hearsay.exception(said("CellTimeout")), CellTimeout)


def test_frames_are_the_learners_own():
    raised = hearsay.exception(said("ValueError", frames=[{"line": 3, "code": "x", "function": "f", "more": 1}, 5]))
    assert raised.remote_frames == [{"line": 3, "code": "x", "function": "f"}]


@pytest.mark.parametrize(
    "odd",
    [
        said("not a name", "1", "", "import os"),
        said("__import__", "eval", "print", "type", "object", "int"),
        said(5, None, ["ValueError"]),
        said("x" * 1_000_000, message="y" * 1_000_000),
        said("ValueError", message=["no", "text"]),
        said("ValueError", message="\ud800"),
        said("ValueError", frames=5),
        said("ValueError", frames=[{"line": 1 << 80}, {"line": True}]),
        said(*["ValueError"] * 100_000),
    ],
    ids=range(9),
)
def test_an_odd_exception_is_an_exception(odd):
    raised = hearsay.exception(odd)
    assert isinstance(raised, Exception)
    assert len(type(raised).__name__) <= hearsay.MAX_NAME
    assert len(str(raised)) <= hearsay.MAX_TEXT
    str(raised).encode()
    json.dumps(raised.remote_frames)
    assert pickle.dumps([type(raised).__name__, raised.remote_frames])


@pytest.mark.parametrize("none", [{}, {"kinds": 5}, {"kinds": None}, {"kinds": {"a": 1}}])
def test_what_is_no_exception_is_refused(none):
    with pytest.raises((TypeError, KeyError)):
        hearsay.exception(none)
