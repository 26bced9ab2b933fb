"""The measuring notebooks of the course run, reach their claims, and are listed in the plan."""

from __future__ import annotations

import json

from rich.console import Console

from autograder import measure
from tests.conftest import ROOT


def test_every_notebook_runs_quickly_and_reaches_its_claim(tmp_path):
    results = measure.run(ROOT, [], ["quick=True"], Console(quiet=True), demonstrations=True, folder=tmp_path)
    assert [result["notebook"] for result in results if not result["passed"]] == []
    assert {result["notebook"] for result in results} == {path.stem for path in (ROOT / "notebooks").glob("ch*.py")}
    for result in results:
        saved = json.loads((tmp_path / f"{result['notebook']}.json").read_text())
        assert saved["figures"]
        assert saved["machine"]["cpu"]
