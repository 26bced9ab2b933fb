"""The gradebook in PostgreSQL: a real server, installed (Debian's package) and started for these tests."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import psycopg
import pytest
from nbgrader.api import Gradebook
from sqlalchemy import make_url

from autograder import classroom, gradebook
from tests import learners, marks
from tests.learners import CHAPTER, STEM
from tests.nbgrader_shell import nbgrader
from tests.stub_pool import StubPool, hand_in

INSTALL_SECONDS = 300
CLASS = ["ann", "José Ñandú", 'o\'neill, 50% "x"', "名前", "late", "unwritten", "nothing"]


def programs() -> Path | None:
    """The folder of PostgreSQL's own programs; Debian leaves them out of PATH."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return found[-1].parent if found else None


def install() -> str:
    """Install Debian's package; what it said where that did not work."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return "PostgreSQL is not installed (initdb is nowhere), and only root can install it with apt-get"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    said = ""
    for command in (["update"], ["install", "-y", "--no-install-recommends", "postgresql"]):
        try:
            done = subprocess.run(
                ["apt-get", "-q", *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=INSTALL_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return f"apt-get {command[0]} took longer than {INSTALL_SECONDS} s"
        said = f"apt-get {command[0]} ended with {done.returncode}: {done.stderr.strip()[-300:]}"
    return said


class Server:
    """A server of its own on a socket in a folder of its own, run by somebody who is not root."""

    def __init__(self, folder: Path, bin_folder: Path):
        self.folder, self.bin = folder, bin_folder
        self.user = None
        if os.geteuid() == 0:
            self.user = "postgres" if "\npostgres:" in Path("/etc/passwd").read_text() else "nobody"
            shutil.chown(folder, self.user)

    def run(self, program: str, *arguments: str) -> None:
        # To a file and not a pipe, which the server would keep open.
        with (self.folder.parent / f"{self.folder.name}.log").open("a+") as log:
            command = [str(self.bin / program), "-D", str(self.folder / "data"), *arguments]
            done = subprocess.run(
                command, user=self.user, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=120
            )
            log.seek(0)
            assert done.returncode == 0, f"{program} ended with {done.returncode}: {log.read()[-1000:]}"

    def create(self) -> None:
        self.run("initdb", "--auth=trust", "--username=teacher", "--encoding=UTF8", "--locale=C", "--no-sync")

    def start(self) -> None:
        settings = f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c fsync=off"
        self.run("pg_ctl", "-w", "-t", "60", "-l", str(self.folder / "server.log"), "-o", settings, "start")

    def stop(self) -> None:
        """As the loss of a machine would: no transaction may finish."""
        self.run("pg_ctl", "-w", "-m", "immediate", "stop")

    def url(self, name: str) -> str:
        return f"postgresql://teacher@/{name}?host={self.folder}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    problem = "" if programs() else install()
    bin_folder = programs()
    if bin_folder is None:
        pytest.skip(problem)
    # Not below pytest's folder: that is closed to others, and too long for the name of a socket.
    with tempfile.TemporaryDirectory(prefix="course-pg-", dir="/tmp") as scratch:
        Path(scratch).chmod(0o755)
        folder = Path(scratch) / "pg"
        folder.mkdir()
        running = Server(folder, bin_folder)
        try:
            running.create()
            running.start()
        except (AssertionError, OSError, subprocess.SubprocessError) as broken:
            pytest.skip(f"PostgreSQL is installed in {bin_folder} but does not start: {broken}")
        yield running
        running.stop()


@pytest.fixture
def url(server, request):
    """The address of a new database."""
    name = f"grades_{abs(hash(request.node.name))}"
    with psycopg.connect(f"host={server.folder} user=teacher dbname=postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.url(name)


@pytest.fixture
def course(built_course, tmp_path):
    """The tiny course with a class whose names are not all easy."""
    root = tmp_path / "course"
    shutil.copytree(built_course, root)
    right = learners.notebook(root, learners.reference(root))
    for name in CLASS[:5]:
        hand_in(root, name, right)
    hand_in(root, "late", timestamp=b"2026-11-20 12:30:00.25 Europe/Berlin")
    hand_in(root, "unwritten", learners.notebook(root))
    hand_in(root, "nothing")
    return root


def grade(course, url, stub=None, **options):
    results, _ = classroom.grade(
        course, CHAPTER, db_url=url, pool=stub or StubPool(), **{"feedback": False, "patience": 60.0} | options
    )
    return {result.student: result.verdict for result in results}


def test_the_plain_address_takes_the_driver_that_is_pinned(url):
    assert make_url(url).get_dialect().driver == "psycopg"


def test_rows_are_those_of_sqlite(course, url):
    lite = f"sqlite:///{course}/grading/lite.db"
    grade(course, lite)
    grade(course, url)
    rows = marks.everything(url)
    assert rows == marks.everything(lite)
    assert [row[0] for row in rows["student"]] == sorted(CLASS)
    assert ("late", CHAPTER, datetime(2026, 11, 20, 11, 30, 0, 250000), None) in rows["submitted_assignment"]
    assert marks.points(url) == dict.fromkeys(CLASS, 5.0) | {"unwritten": 0.0, "nothing": 0.0}


def test_a_second_run_changes_nothing_and_adds_nothing(course, url):
    grade(course, url)
    before = marks.everything(url)
    grade(course, url)
    grade(course, url, again=True)
    assert marks.everything(url) == before


class Interrupted(StubPool):
    """A pool during whose work the server goes down; it comes back a second later."""

    def __init__(self, server: Server, when: int):
        super().__init__()
        self.server, self.when, self.thread = server, when, threading.Timer(1.5, server.start)

    def verdict(self, task):
        if len(self.tasks) == self.when:
            self.server.stop()
            self.thread.start()
        return super().verdict(task)


def test_a_server_that_is_restarted_in_the_middle_of_a_run_costs_nothing(course, url, server, monkeypatch):
    monkeypatch.setattr(gradebook, "BATCH_SECONDS", 0.0)
    said = []
    stub = Interrupted(server, when=4)
    grade(course, url, stub, progress=lambda done, total, label: said.append(label))
    stub.thread.join()
    assert any("waiting for the gradebook" in label for label in said)
    undisturbed = f"sqlite:///{course}/grading/lite.db"
    grade(course, undisturbed)
    assert marks.everything(url) == marks.everything(undisturbed)


def test_a_server_that_stays_away_ends_the_run_and_the_next_one_goes_on(course, url, server, monkeypatch):
    monkeypatch.setattr(gradebook, "BATCH_SECONDS", 0.0)
    stub = Interrupted(server, when=4)
    stub.thread = threading.Timer(0, lambda: None)
    with pytest.raises(classroom.CannotGrade, match="Nothing is lost"):
        grade(course, url, stub, patience=0.5)
    with pytest.raises(classroom.CannotGrade, match="cannot be reached"):
        grade(course, url)
    server.start()
    after = StubPool()
    grade(course, url, after)
    assert len(stub.tasks) + len(after.tasks) == len(CLASS) - 1, "each notebook ran once"
    assert marks.points(url) == dict.fromkeys(CLASS, 5.0) | {"unwritten": 0.0, "nothing": 0.0}


def test_a_name_that_the_database_has_no_room_for_costs_one_learner(course, url):
    """SQLite takes any length; nbgrader's column has 128 characters."""
    long = "x" * 200
    hand_in(course, long, learners.notebook(course, learners.reference(course)))
    found = grade(course, url)
    assert found[long].status == "unrecorded"
    assert "too long" in found[long].flags[-1]
    assert {name: verdict.status for name, verdict in found.items() if name not in (long, "nothing")} == dict.fromkeys(
        CLASS[:-1], "graded"
    )
    assert sorted(marks.points(url)) == sorted(CLASS)


def test_nbgrader_s_own_api_and_commands_work_on_it(course, url, tmp_path):
    grade(course, url)
    with Gradebook(url, marks.COURSE) as book:
        assert {s["student"]: s["score"] for s in book.submission_dicts(CHAPTER)}["José Ñandú"] == 5.0
        grade_of_ann = book.find_grade("test_ema", STEM, CHAPTER, "ann")
        grade_of_ann.manual_score, grade_of_ann.needs_manual_grade = 0.5, False
        book.db.commit()
    address = f"--CourseDirectory.db_url={url}"
    nbgrader(course, tmp_path / "home", ["export", address], ["generate_feedback", CHAPTER, "--force", address])
    with (course / "grades.csv").open(newline="", encoding="utf-8") as file:
        exported = {row[3]: row[-2] for row in csv.reader(file) if "," not in row[3]}
    assert exported["ann"] == "3.5"
    assert exported["名前"] == "5.0"
    for name, score in (("ann", 3.5), ("late", 5.0), ("nothing", 0.0)):
        page = course / "grading" / "feedback" / name / CHAPTER / f"{STEM}.html"
        assert f"Score: {score} / 5" in page.read_text(encoding="utf-8")
    assert not grade(course, url, feedback=True)["ann"].flags
