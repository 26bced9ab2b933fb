"""A run that is killed goes on: the small version of `benchmarks/resume.py`."""

from __future__ import annotations

import random
import sys

import pytest

from benchmarks import resume


@pytest.mark.skipif(sys.platform != "linux", reason="it looks for processes in /proc")
def test_a_killed_run_goes_on_and_no_mark_is_lost_or_doubled(tmp_path):
    (tmp_path / "course").mkdir()
    template = resume.make_class(tmp_path / "course", 4)
    results = list(resume.rounds(template, tmp_path, 2, random.Random(1)))
    assert len(results) == 2
    assert all(1 <= result.judged <= 6 for result in results)
