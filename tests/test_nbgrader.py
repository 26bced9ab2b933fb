"""nbgrader stays nbgrader: its own commands, exchange, Formgrader and Validate work on this folder layout.

`nbgrader_class` in conftest.py plays a term with the commands that the instructors' page gives, in two roles: an
instructor in the course's folder and a learner in an empty one, with a local exchange between them.
"""

from __future__ import annotations

import csv
import json
import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from nbgrader.apps.nbgraderapp import NbGraderApp

from tests import learners
from tests.conftest import ROOT
from tests.nbgrader_shell import environment


def test_the_instructors_page_gives_no_command_that_is_not_tested(nbgrader_class):
    pages = [ROOT / "book" / "instructors.md", ROOT / "README.md"]
    named = {verb for page in pages for verb in re.findall(r"nbgrader ([a-z_]+)", page.read_text(encoding="utf-8"))}
    assert {"release_assignment", "collect", "release_feedback", "export"} <= named
    assert named & set(NbGraderApp.subcommands) <= {command for command, _ in nbgrader_class.said}


def test_a_learner_fetches_and_submits_and_the_instructor_collects(nbgrader_class):
    assert learners.CHAPTER in dict(nbgrader_class.said)["list"]
    fetched = nbgrader_class.desk / learners.CHAPTER / f"{learners.STEM}.ipynb"
    collected = nbgrader_class.root / "grading" / "submitted" / "ann" / learners.CHAPTER
    assert (collected / fetched.name).read_bytes() == fetched.read_bytes()
    assert (collected / "timestamp.txt").is_file()


def test_autograde_marks_honest_work_as_it_deserves(nbgrader_class):
    with (nbgrader_class.root / "grades.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["student_id"]: row for row in csv.DictReader(file)}
    assert {name: float(row["score"]) for name, row in rows.items()} == {"ann": 5.0, "ben": 2.0}
    assert {float(row["max_score"]) for row in rows.values()} == {5.0}


@pytest.mark.parametrize(("name", "score"), [("ann", 5.0), ("ben", 2.0)])
def test_feedback_of_the_stock_command_shows_marks_and_no_hidden_test(nbgrader_class, name, score):
    page = nbgrader_class.root / "grading" / "feedback" / name / learners.CHAPTER / f"{learners.STEM}.html"
    text = page.read_text(encoding="utf-8")
    assert "hidden tests ran here" in text
    assert [secret for secret in learners.HIDDEN if secret in text] == []
    assert f"Score: {score} / 5" in text


def test_released_feedback_reaches_its_learner_alone(nbgrader_class):
    (page,) = (nbgrader_class.desk / learners.CHAPTER / "feedback").rglob("*.html")
    assert "Score: 5.0 / 5" in page.read_text(encoding="utf-8")


def test_validate_tells_an_untouched_from_a_solved_notebook(nbgrader_class):
    untouched, solved = (output for command, output in nbgrader_class.said if command == "validate")
    assert "VALIDATION FAILED ON 3 CELL(S)" in untouched
    assert "Success! Your notebook passes all the tests." in solved


@contextmanager
def server(folder, home):
    """A Jupyter server in a folder, as a function from address (and form fields) to the text of the answer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "jupyter", "server", "--no-browser", f"--ServerApp.port={port}"]
    command += ["--IdentityProvider.token=secret", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}"]
    log = (home / "server.log").open("wb")
    process = subprocess.Popen([*command, "--allow-root"], cwd=folder, env=environment(home), stdout=log, stderr=log)

    def ask(place, **fields):
        data = urlencode(fields).encode() if fields else None
        request = Request(f"http://127.0.0.1:{port}/{place}", data, {"Authorization": "token secret"})
        with urlopen(request, timeout=120) as answer:
            return answer.read().decode()

    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                ask("api/status")
                break
            except OSError:
                assert process.poll() is None, (home / "server.log").read_text()
                assert time.monotonic() < deadline, (home / "server.log").read_text()
                time.sleep(0.2)
        yield ask
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def test_formgrader_and_validate_work_in_a_server(nbgrader_class, tmp_path):
    with server(nbgrader_class.root, tmp_path) as ask:
        assert "formgrader" in ask("formgrader").lower()
        (assignment,) = json.loads(ask("formgrader/api/assignments"))
        assert (assignment["name"], assignment["max_score"]) == (learners.CHAPTER, 5.0)
        assert assignment["num_submissions"] == 2
        (notebook,) = json.loads(ask(f"formgrader/api/notebooks/{learners.CHAPTER}"))
        assert (notebook["name"], notebook["average_score"]) == (learners.STEM, 3.5)
        released = f"release/{learners.CHAPTER}/{learners.STEM}.ipynb"
        validated = json.loads(ask("assignments/validate", path=released))
    assert validated["success"] is True
    assert len(validated["value"]["failed"]) == 3
