"""What a milestone writes down: its figures, and the machine they were measured on."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest
import torch

from coursekit import results

RESULT = {
    "claim": "own attention equals the library's within 1e-5",
    "passed": True,
    "figures": {
        "largest difference": 8.9e-8,
        "shapes": 12,
        "by mask": {"none": 1e-8, 64: [1.0, 2], (1, 2): None},
        "quick": False,
    },
}


def test_save_writes_result_and_machine(tmp_path):
    file = tmp_path / "results" / "ch01" / "milestone.json"
    before = copy.deepcopy(RESULT)
    results.save(RESULT, str(file))
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["claim"] == RESULT["claim"]
    assert written["passed"] is True
    assert written["figures"] == {
        "largest difference": 8.9e-8,
        "shapes": 12,
        "by mask": {"none": 1e-8, "64": [1.0, 2], "(1, 2)": None},
        "quick": False,
    }
    assert set(written) == {"claim", "passed", "figures", "machine"}
    assert {**written["machine"], "date": ""} == {**results.machine(), "date": ""}
    assert before == RESULT, "the caller's dict is left as it was"
    assert [p.name for p in file.parent.iterdir()] == ["milestone.json"]


def test_the_machine_is_named(monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        machine = results.machine()
    finally:
        torch.set_num_threads(threads)
    assert machine["threads"] == 1
    assert machine["cpu"].strip()
    assert machine["cores"] >= 1
    assert machine["torch"] == torch.__version__
    assert re.fullmatch(r"3\.\d+\.\d+\S*", machine["python"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", machine["date"])
    assert (machine["gpu"] is None) == (not torch.cuda.is_available())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    assert results.machine()["gpu"] == "Some GPU"


def test_the_cpu_is_read_from_proc_or_asked_of_platform(monkeypatch, tmp_path):
    class Proc:
        def __init__(self, name):
            assert name == "/proc/cpuinfo"

        def read_text(self, **options):
            return "processor\t: 0\nmodel name\t: Some CPU: 3 GHz\nmodel name\t: Another\n"

    monkeypatch.setattr(results, "Path", Proc)
    assert results.machine()["cpu"] == "Some CPU: 3 GHz"
    monkeypatch.setattr(Proc, "read_text", lambda self, **options: (_ for _ in ()).throw(FileNotFoundError()))
    monkeypatch.setattr(results.platform, "processor", lambda: "")
    monkeypatch.setattr(results.platform, "machine", lambda: "arm64")
    assert results.machine()["cpu"] == "arm64"


def test_an_empty_path_prints_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    results.save(RESULT, "")
    assert list(tmp_path.iterdir()) == []
    out = capsys.readouterr().out
    assert out.startswith("passed: own attention equals")
    assert "largest difference: 8.9e-08" in out
    assert "shapes: 12" in out


def test_a_failure_says_so(capsys):
    results.save({**RESULT, "passed": False}, "")
    assert capsys.readouterr().out.startswith("NOT PASSED: own attention")


def test_nan_and_infinity_become_null_since_json_has_neither(tmp_path):
    file = tmp_path / "r.json"
    results.save({**RESULT, "figures": {"a": float("nan"), "b": [float("inf"), 1.5]}}, str(file))
    assert json.loads(file.read_text(), parse_constant=lambda name: pytest.fail(name))["figures"] == {
        "a": None,
        "b": [None, 1.5],
    }


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"claim": None}, "claim"),
        ({"passed": 1}, "passed"),
        ({"passed": torch.tensor(True)}, "passed"),
        ({"figures": [1]}, "figures"),
        ({"figures": {"loss": torch.tensor(1.0)}}, r"\['loss'\] is a Tensor"),
        ({"figures": {"loss": [np.float32(1)]}}, r"\['loss'\]\[0\] is a float32"),
        ({"figures": {"loss": {"deep": {1, 2}}}}, r"\['deep'\] is a set"),
    ],
)
@pytest.mark.parametrize("writes", [True, False])
def test_a_result_that_is_not_plain_is_refused_before_anything_is_written(tmp_path, capsys, change, word, writes):
    file = tmp_path / "r.json"
    with pytest.raises(ValueError, match=word):
        results.save({**RESULT, **change}, str(file) if writes else "")
    assert not file.exists()
    assert capsys.readouterr().out == ""


def test_a_missing_key_is_refused(tmp_path):
    with pytest.raises(ValueError, match="figures"):
        results.save({"claim": "x", "passed": True}, "")


def test_a_failed_write_leaves_the_old_result(tmp_path, monkeypatch):
    file = tmp_path / "r.json"
    results.save(RESULT, str(file))
    old = file.read_text()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        results.save({**RESULT, "claim": "a newer claim"}, str(file))
    assert file.read_text() == old
