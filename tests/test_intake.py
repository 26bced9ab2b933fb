"""Taking files out of a folder that learners can fill: what is no plain file is named, not followed or waited for."""

from __future__ import annotations

import errno
import os
import signal
import socket

import pytest

from autograder import intake
from autograder.intake import BadNotebook

PLACE = ("mal", "ch90_example", "lab.ipynb")


@pytest.fixture(autouse=True)
def never_waits():
    """Whoever waits for a pipe waits for ever: then the alarm ends the test."""

    def late(number, frame):
        # Not an OSError, which would be taken for a fault of the file.
        pytest.fail("reading a submission has waited")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def submitted(tmp_path):
    """The folder of submissions with one empty submission; beside it lies what no learner may read."""
    folder = tmp_path / "submitted"
    (folder / "mal" / "ch90_example").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "lab.ipynb").write_bytes(b"the solution")
    return folder


def status_of(call, *arguments):
    with pytest.raises(BadNotebook) as caught:
        call(*arguments)
    assert ";" in str(caught.value), "it says what to do"
    assert "the solution" not in str(caught.value)
    return caught.value.status


def make_link(place):
    place.symlink_to(place.parents[3] / "secret" / "lab.ipynb")


def make_link_inside(place):
    (place.parent / "other.ipynb").write_bytes(b"mine")
    place.symlink_to("other.ipynb")


def make_dangling_link(place):
    place.symlink_to("nowhere")


def make_endless_link(place):
    place.symlink_to(place.name)


def make_link_of_the_chapter(place):
    place.parent.rmdir()
    place.parent.symlink_to(place.parents[3] / "secret", target_is_directory=True)


def make_link_of_the_learner(place):
    place.parent.rmdir()
    place.parents[1].rmdir()
    (place.parents[3] / "secret" / "ch90_example").mkdir()
    place.parents[1].symlink_to(place.parents[3] / "secret", target_is_directory=True)


def make_pipe(place):
    os.mkfifo(place)


def make_socket(place):
    with socket.socket(socket.AF_UNIX) as end:
        # The address of a socket is short, the path of a test's folder is not.
        here = os.open(".", os.O_RDONLY)
        os.chdir(place.parent)
        try:
            end.bind(place.name)
        finally:
            os.fchdir(here)
            os.close(here)


def make_folder(place):
    place.mkdir()


def make_chapter_a_file(place):
    place.parent.rmdir()
    place.parent.write_bytes(b"")


def make_learner_a_pipe(place):
    place.parent.rmdir()
    place.parents[1].rmdir()
    os.mkfifo(place.parents[1])


def make_nothing(place):
    pass


def make_no_chapter(place):
    place.parent.rmdir()


@pytest.mark.parametrize(
    ("make", "status"),
    [
        (make_link, "link"),
        (make_link_inside, "link"),
        (make_dangling_link, "link"),
        (make_endless_link, "link"),
        (make_link_of_the_chapter, "link"),
        (make_link_of_the_learner, "link"),
        (make_pipe, "not-a-file"),
        (make_socket, "not-a-file"),
        (make_folder, "not-a-file"),
        (make_chapter_a_file, "not-a-file"),
        (make_learner_a_pipe, "not-a-file"),
        (make_nothing, "not-found"),
        (make_no_chapter, "not-found"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_is_no_ordinary_file_has_a_named_status(submitted, make, status):
    make(submitted.joinpath(*PLACE))
    assert status_of(intake.fetch, submitted, *PLACE) == status


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device")
def test_a_device_is_not_opened(submitted):
    try:
        os.mknod(submitted.joinpath(*PLACE), 0o20666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("this machine lets nobody make a device")
    assert status_of(intake.fetch, submitted, *PLACE) == "not-a-file"


@pytest.mark.parametrize("make", [make_link, make_pipe, make_folder, make_link_of_the_chapter])
def test_what_changes_between_the_look_and_the_opening_is_not_read_either(submitted, monkeypatch, make):
    """The look sees an ordinary file; by the time of opening it is something else."""
    place = submitted.joinpath(*PLACE)
    changed = place.parent if make is make_link_of_the_chapter else place
    place.write_bytes(b"honest")
    open_file = os.open

    def late(name, *rest, **options):
        if name == changed.name and place.read_bytes() == b"honest":
            place.unlink()
            make(place)
        return open_file(name, *rest, **options)

    monkeypatch.setattr(os, "open", late)
    assert status_of(intake.fetch, submitted, *PLACE) in ("link", "not-a-file", "unreadable")
    assert not place.is_file() or changed.is_symlink(), "the change was made"


def test_a_file_is_read_whole_and_without_a_remark(submitted):
    submitted.joinpath(*PLACE).write_bytes(b"mine\r\n\xff" * 10_000)
    assert intake.fetch(submitted, *PLACE) == (b"mine\r\n\xff" * 10_000, [])


def test_the_way_to_the_folder_of_submissions_may_lead_over_links(submitted, tmp_path):
    submitted.joinpath(*PLACE).write_bytes(b"mine")
    (tmp_path / "elsewhere").symlink_to(submitted)
    assert intake.fetch(tmp_path / "elsewhere", *PLACE) == (b"mine", [])
    assert intake.submissions(tmp_path / "elsewhere", "ch90_example") == ["mal"]


def test_a_file_with_a_second_name_is_read_and_mentioned(submitted, tmp_path):
    os.link(tmp_path / "secret" / "lab.ipynb", submitted.joinpath(*PLACE))
    content, flags = intake.fetch(submitted, *PLACE)
    assert content == b"the solution"
    assert ["2 names (hard links)" in flag for flag in flags] == [True]


@pytest.mark.parametrize(("size", "fits"), [(100, True), (101, False), (1 << 40, False)])
def test_a_limit_is_a_limit(submitted, size, fits):
    with submitted.joinpath(*PLACE).open("wb") as file:
        file.truncate(size)
    if fits:
        assert intake.fetch(submitted, *PLACE, limit=100) == (bytes(size), [])
    else:
        assert status_of(lambda: intake.fetch(submitted, *PLACE, limit=100)) == "too-large"


def test_a_file_that_grows_is_read_no_further_than_the_limit(submitted, monkeypatch):
    submitted.joinpath(*PLACE).write_bytes(bytes(1000))
    told = os.stat_result([*os.stat(submitted.joinpath(*PLACE))[:6], 10, 0, 0, 0])
    assert (told.st_size, told.st_mode) == (10, os.stat(submitted.joinpath(*PLACE)).st_mode)
    monkeypatch.setattr(os, "fstat", lambda descriptor: told)
    assert status_of(lambda: intake.fetch(submitted, *PLACE, limit=100)) == "too-large"


def test_nothing_stays_open(submitted):
    def opened():
        return sorted(os.listdir("/dev/fd"))

    before = opened()
    submitted.joinpath(*PLACE).write_bytes(b"mine")
    intake.fetch(submitted, *PLACE)
    for names in [("mal", "ch90_example", "none"), ("mal", "none", "none"), ("none", "none", "none")]:
        status_of(intake.fetch, submitted, *names)
    assert opened() == before


@pytest.mark.parametrize(
    "names",
    [("..", "secret", "lab.ipynb"), ("mal", ".", "x"), ("mal", "", "x"), ("mal", "x", "../../../secret/lab.ipynb")],
)
def test_a_path_is_no_name(submitted, names):
    with pytest.raises(ValueError, match="not the name of one file"):
        intake.fetch(submitted, *names)


def test_a_file_that_may_not_be_read_is_unreadable(submitted, monkeypatch):
    submitted.joinpath(*PLACE).write_bytes(b"mine")
    open_file = os.open

    def refuse(name, *rest, **options):
        # As root every file can be read, so the refusal is made here.
        if name == PLACE[-1]:
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_file(name, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    assert status_of(intake.fetch, submitted, *PLACE) == "unreadable"


def test_learners_are_listed_whatever_they_have_made_of_their_folder(submitted):
    for name in ("zoe", "Ann", "[a] *o'b"):
        (submitted / name / "ch90_example").mkdir(parents=True)
    for name in (".hidden", "other"):
        (submitted / name / ("ch90_example" if name == ".hidden" else "ch91")).mkdir(parents=True)
    (submitted / "a file").write_bytes(b"")
    (submitted / "linked").symlink_to(submitted / "zoe", target_is_directory=True)
    (submitted / "chapter is a file").mkdir()
    (submitted / "chapter is a file" / "ch90_example").write_bytes(b"")
    (submitted / "chapter is a dangling link").mkdir()
    (submitted / "chapter is a dangling link" / "ch90_example").symlink_to("nowhere")
    found = intake.submissions(submitted, "ch90_example")
    odd = ["chapter is a dangling link", "chapter is a file", "linked"]
    assert found == sorted(["Ann", "[a] *o'b", "mal", "zoe", *odd])
    assert {name: status_of(intake.fetch, submitted, name, "ch90_example", "lab.ipynb") for name in odd} == {
        "chapter is a dangling link": "link",
        "chapter is a file": "not-a-file",
        "linked": "link",
    }


def test_a_folder_whose_name_is_no_text_is_left_out_with_a_word(submitted):
    os.makedirs(os.fsencode(submitted) + b"/caf\xe9/ch90_example")
    with pytest.warns(UserWarning, match="not UTF-8; rename it"):
        assert intake.submissions(submitted, "ch90_example") == ["mal"]


def test_without_a_folder_of_submissions_nobody_has_handed_in(tmp_path):
    assert intake.submissions(tmp_path / "none", "ch90_example") == []


# A learner's own file, with `course check`


def test_links_to_one_s_own_file_are_followed(tmp_path):
    (tmp_path / "mine.ipynb").write_bytes(b"mine")
    (tmp_path / "lab.ipynb").symlink_to("mine.ipynb")
    assert intake.read_file(tmp_path / "lab.ipynb") == b"mine"


def test_a_notebook_beyond_the_limit_is_refused_unread(tmp_path):
    path = tmp_path / "lab.ipynb"
    with path.open("wb") as file:
        file.truncate(intake.MAX_BYTES + 1)
    with pytest.raises(BadNotebook, match="more than 20 MiB") as caught:
        intake.read_file(path)
    assert caught.value.status == "too-large"


@pytest.mark.parametrize("name", ["nowhere.ipynb", "nowhere/lab.ipynb", "file/lab.ipynb", "dangling"])
def test_a_missing_file_is_not_found(tmp_path, name):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert status_of(intake.read_file, tmp_path / name) == "not-found"


def test_a_folder_or_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert status_of(intake.read_file, tmp_path) == "not-a-file"
    assert status_of(intake.read_file, tmp_path / "pipe") == "not-a-file"


def test_a_file_that_cannot_be_read_has_a_named_status(tmp_path, monkeypatch):
    (tmp_path / "lab.ipynb").write_bytes(b"mine")

    def refused(*rest, **options):
        raise PermissionError(13, "Permission denied")

    # As root every file can be read, so the refusal is made here.
    monkeypatch.setattr(os, "open", refused)
    assert status_of(intake.read_file, tmp_path / "lab.ipynb") == "unreadable"
