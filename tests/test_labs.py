"""A malformed lab source stops with file, line, what and why; the build touches nothing meanwhile (see test_build)."""

from __future__ import annotations

import re

import pytest

from autograder import labs
from autograder.labs import LabError
from tests.conftest import ROOT

SOURCE = (ROOT / "tests" / "data" / "lab01_ema.py").read_text(encoding="utf-8")
TABLE = SOURCE[SOURCE.index('# %% mistakes="steps_to"') : SOURCE.index("# %% [markdown]\n# ## Look at it")]


def lab_file(folder, text, name="ch90_example/lab01_ema.py"):
    path = folder / "source_solutions" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def line_of(text, marker, occurrence=0):
    """Where a line begins with ``marker``, counted from 1: the oracle for the line that an error names."""
    return [number for number, line in enumerate(text.split("\n"), 1) if line.startswith(marker)][occurrence]


def test_the_example_is_read_as_written(tmp_path):
    lab = labs.parse(lab_file(tmp_path, SOURCE))
    assert (lab.id, lab.chapter, lab.stem) == ("ch90/lab01", "ch90_example", "lab01_ema")
    assert (lab.title, lab.minutes, lab.difficulty, lab.needs) == ("Exponential moving averages", 25, 2, [])
    assert [cell.name for cell in lab.exercises] == ["ema", "steps_to"]
    assert [cell.options["points"] for cell in lab.tests("ema")] == [2, 2]
    assert lab.points == 5
    assert lab.exercises[0].options["forbid"] == ["scipy.signal.lfilter", "cumsum"]
    assert lab.exercises[0].line == line_of(SOURCE, '# %% exercise="ema"')
    assert lab.mistakes("steps_to")["the step before is returned"] == [("return steps", "return steps - 1", False)]


# Each case: (name, text to replace, its replacement, where the error must point (the line that begins so), what, why).
# The first occurrence is replaced.
HEADER = "# ---"
EXERCISE = '# %% exercise="ema"'
TEST = '# %% test="ema" points=2'
CELLS = [
    ("misspelt key", "# %% exercise=", "# %% excercise=", "# %% excercise=", "unknown tag excercise", "plain"),
    ("misspelt word", "# %% given", "# %% givn", "# %% givn", "unknown tag 'givn'", "given"),
    ("unknown option", TEST, TEST + " weight=3", TEST, "unknown tag weight", "points"),
    ("raw cell", "# %%\nprint", "# %% [raw]\nprint", "# %% [raw]", "unknown tag '[raw]'", "code"),
    ("two tags", EXERCISE, EXERCISE + ' test="ema"', EXERCISE, "both exercise and test", "one tag"),
    ("no name", TEST, "# %% test=3 points=2", "# %% test=3", "test=3 is no name", "quotes"),
    ("no blank after %%", "# %% test=", "# %%test=", "# %%test=", "no cell header", "swallowed"),
    ("no blank after #", "# %% given", "#%% given", "#%% given", "no cell header", "swallowed"),
    ("exercise twice", '"steps_to" difficulty', '"ema" difficulty', None, "'ema' stands twice", "First at line"),
    ("points missing", TEST, '# %% test="ema"', '# %% test="ema"', "has no points", "points=3"),
    ("points zero", TEST, '# %% test="ema" points=0', '# %% test="ema"', "points is 0", "whole number"),
    ("points true", TEST, '# %% test="ema" points=true', '# %% test="ema"', "points is True", "whole number"),
    ("points in words", TEST, '# %% test="ema" points=two', '# %% test="ema"', "cannot be read", 'name="text"'),
    ("forbid no list", '["scipy.signal.lfilter", "cumsum"]', '"cumsum"', EXERCISE, "forbid is 'cumsum'", "list"),
    ("test of nothing", TEST, '# %% test="emma" points=2', '# %% test="emma"', "no exercise above it", "misspelt"),
    ("alternative of nothing", '# %% alternative="ema"', '# %% alternative="emma"', "# %% alternative", "'emma'", ""),
    ("mistakes of nothing", '# %% mistakes="ema"', '# %% mistakes="emma"', "# %% mistakes", "'emma', which is no", ""),
    ("test without check", "from coursekit import check\n", "import torch\n", TEST, "does not begin with", "announces"),
    ("syntax error in given", "import torch\n", "\n\nimport torch torch\n", "import torch torch", "no Python", "run"),
    ("syntax error in a test", "five = ", "five = = ", "five = = ", "the cell is no Python", "run"),
    (
        "syntax error in an alternative",
        "    import warnings",
        "    imports warnings",
        "    imports",
        "no Python",
        "run",
    ),
]
ANSWER = SOURCE[SOURCE.index("    ### BEGIN") : SOURCE.index("\n\n# %% test=")]
REGIONS = [
    ("no markers", ANSWER, "    return x\n", EXERCISE, "no `### BEGIN SOLUTION`", "released"),
    ("no begin", "    ### BEGIN SOLUTION\n", "", "    ### END SOLUTION", "does not match", "in turn"),
    ("no end", "    ### END SOLUTION\n", "", "    ### BEGIN SOLUTION", "has no END", "nbgrader"),
    (
        "misspelt solution",
        "### END SOLUTION",
        "### End solution",
        "    ### End solution",
        "misspelt",
        "### END SOLUTION",
    ),
    (
        "solution in given",
        "import torch\n",
        "### BEGIN SOLUTION\n### END SOLUTION\n",
        "### BEGIN S",
        "given",
        "exercise",
    ),
    ("hidden, no end", "### END HIDDEN TESTS\n", "", "### BEGIN HIDDEN", "has no END", "nbgrader"),
    ("hidden, no begin", "### BEGIN HIDDEN TESTS\n", "", "### END HIDDEN", "does not match", "in turn"),
    (
        "hidden, indented, no end",
        "check.raises(",
        "  ### BEGIN HIDDEN TESTS\ncheck.raises(",
        "  ### BEGIN H",
        "has no",
        "",
    ),
    (
        "hidden, swapped",
        "### BEGIN HIDDEN TESTS\n",
        "### END HIDDEN TESTS\n### BEGIN HIDDEN TESTS\n",
        "### END",
        "match",
        "",
    ),
    ("hidden, two hashes", "### BEGIN HIDDEN TESTS", "## BEGIN HIDDEN TESTS", "## BEGIN", "misspelt", "released"),
    ("hidden, singular", "### BEGIN HIDDEN TESTS", "### BEGIN HIDDEN TEST", "### BEGIN HIDDEN", "misspelt", "released"),
    (
        "hidden in exercise",
        "    ### BEGIN SOL",
        "    ### BEGIN HIDDEN TESTS\n    ### BEGIN SOL",
        "    ### BEGIN H",
        "exercise",
        "test",
    ),
]
TABLES = [
    ("matches nothing", '("return steps", ', '("return step_s", ', "matches nothing", "the step before is returned"),
    ("several places", '("steps = 0", ', '("steps", ', "matches 6 places", "counting starts at one"),
    (
        "second edit matches nothing",
        '("return steps", "return steps - 1")',
        '[("return steps", "x"), ("lost", "z")]',
        "'lost'",
        "",
    ),
    (
        "an edit of three texts",
        '"return steps - 1")',
        '"return steps - 1", "some")',
        'an edit is ("old", "new")',
        "'some'",
    ),
    (
        "an edit that is a text",
        '("return steps", "return steps - 1")',
        '"return steps"',
        'an edit is ("old", "new")',
        "",
    ),
    ("no literal", '("return steps", ', "(str(), ", "one literal dict", ""),
    ("a dict and more", '# %% mistakes="steps_to"\n{', '# %% mistakes="steps_to"\nprint()\n{', "one literal dict", ""),
    ("a list", TABLE, '# %% mistakes="steps_to"\n["x"]\n', "one dict with a sentence", ""),
    ("a key that is no text", '"counting starts at one":', "1:", "one dict with a sentence", ""),
    ("not closed", '"steps = 1; beta = beta"),\n}', '"steps = 1; beta = beta"),\n', "one literal dict", ""),
]


def changed(old, new, source=SOURCE):
    assert old in source, f"the case is out of date: {old!r}"
    return source.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "at", "what", "why"), [c[1:] for c in CELLS + REGIONS], ids=[c[0] for c in CELLS + REGIONS]
)
def test_a_malformed_cell_is_named(tmp_path, old, new, at, what, why):
    text = changed(old, new)
    path = lab_file(tmp_path, text)
    with pytest.raises(LabError) as caught:
        labs.parse(path)
    error = caught.value
    line = line_of(text, at) if at else line_of(text, EXERCISE, 1)
    assert str(error).startswith(f"{path}:{line}: ")
    assert what in error.what
    assert why in error.why
    assert error.why


@pytest.mark.parametrize(("old", "new", "why", "also"), [c[1:] for c in TABLES], ids=[c[0] for c in TABLES])
def test_a_malformed_mistakes_table_is_named(tmp_path, old, new, why, also):
    text = changed(old, new)
    with pytest.raises(LabError) as caught:
        labs.parse(lab_file(tmp_path, text))
    assert caught.value.line == line_of(text, '# %% mistakes="steps_to"')
    assert caught.value.what == "bad mistakes table of 'steps_to'"
    assert why in caught.value.why
    assert also in caught.value.why


def test_an_edit_may_name_all_places(tmp_path):
    text = changed('("steps = 0", "steps = 1; beta = beta")', '("steps", "n", "all")')
    assert labs.parse(lab_file(tmp_path, text)).mistakes("steps_to")["counting starts at one"] == [("steps", "n", True)]


@pytest.mark.parametrize("table", ["{1: 'a'}", "{'a': 1}", "['a']", "{'a': str(1)}", "{'a': 'b'"])
def test_an_equivalent_table_is_a_dict_of_texts(tmp_path, table):
    text = SOURCE + f'\n# %% equivalent="ema"\n{table}\n'
    with pytest.raises(LabError, match="bad equivalent table of 'ema'") as caught:
        labs.parse(lab_file(tmp_path, text))
    assert caught.value.line == line_of(text, "# %% equivalent")


def test_a_second_table_is_no_silent_loss(tmp_path):
    text = SOURCE + "\n" + TABLE
    with pytest.raises(LabError, match="mistakes table of 'steps_to' stands twice") as caught:
        labs.parse(lab_file(tmp_path, text))
    assert caught.value.line == line_of(text, '# %% mistakes="steps_to"', 1)
    assert str(line_of(text, '# %% mistakes="steps_to"')) in caught.value.why


@pytest.mark.parametrize(
    ("tag", "what"), [('# %% test="steps_to"', "has no tests"), ('# %% mistakes="steps_to"', "has no mistakes table")]
)
def test_an_exercise_without_tests_or_mistakes_is_named(tmp_path, tag, what):
    begin = SOURCE.index(tag)
    text = SOURCE[:begin] + SOURCE[SOURCE.index("# %%", begin + 1) :]
    with pytest.raises(LabError, match=f"exercise 'steps_to' {what}") as caught:
        labs.parse(lab_file(tmp_path, text))
    assert caught.value.line == line_of(text, '# %% exercise="steps_to"')
    assert tag.split(" ")[2] in caught.value.why, "why says which cell to add"


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("# minutes: 25\n", "", "the header has the wrong keys: minutes"),
        ("# minutes: 25\n", "# minutes: 25\n# author: me\n", "the header has the wrong keys: author"),
        ("# minutes: 25\n", "# 25: 25\n", "the header has the wrong keys: 25, minutes"),
        ("# minutes: 25\n", "# minutes: soon\n", "the header's minutes is 'soon'"),
        ("# minutes: 25\n", "# minutes: true\n", "the header's minutes is True"),
        ("# title: Exponential moving averages\n", "# title: No\n", "the header's title is False"),
        ("# needs: []\n", "# needs: ch01/lab01\n", "the header's needs is 'ch01/lab01'"),
        ("# needs: []\n", "# needs:\n", "the header's needs is None"),
        ("# builds: [ema, steps_to]\n", "# builds: [[ema]]\n", "the header's builds is [['ema']]"),
        ("# builds: [ema, steps_to]\n", "# builds: [ema, emma]\n", "builds names emma"),
        ("# hardware: cpu\n", "# hardware: tpu\n", "hardware is 'tpu'"),
        ("# lab: ch90/lab01\n", "# lab: ch90/lab02\n", "the header says lab 'ch90/lab02'"),
        ("# needs: []\n", "# needs: [\n", "the header is no YAML"),
        (SOURCE[: SOURCE.index("# %%")], "# ---\n# - a\n# ---\n\n", "the header has the wrong keys"),
        (SOURCE[: SOURCE.index("# %%")], "", "the YAML header is missing"),
        ("# ---\n\n# %%", "# ---\n\nimport os\n\n# %%", "14 cell headers but 15 cells"),
        (SOURCE, "", "the YAML header is missing"),
    ],
)
def test_a_malformed_header_is_named(tmp_path, old, new, what):
    path = lab_file(tmp_path, changed(old, new))
    with pytest.raises(LabError, match=re.escape(f"{path}:1: {what}")) as caught:
        labs.parse(path)
    assert caught.value.why


def test_a_source_that_is_not_utf8_is_named_with_its_line(tmp_path):
    path = lab_file(tmp_path, SOURCE.replace("five =", "fünf =").replace("·", "-").encode("latin-1"))
    with pytest.raises(LabError, match=f":{line_of(SOURCE, 'five =')}: the file is not UTF-8"):
        labs.parse(path)


def test_needs_names_labs_that_exist(tmp_path):
    lab_file(tmp_path, SOURCE)
    second = lab_file(
        tmp_path,
        SOURCE.replace("ch90/lab01", "ch90/lab02").replace("needs: []", "needs: [ch90/lab01, ch90/lab07]"),
        "ch90_example/lab02_more.py",
    )
    with pytest.raises(LabError, match="needs 'ch90/lab07', which is no lab") as caught:
        labs.catalog(tmp_path)
    assert caught.value.path == second
    assert "ch90/lab01, ch90/lab02" in caught.value.why


@pytest.mark.parametrize("name", ["ch90_example/lab01_again.py", "ch90_other/lab01_ema.py"])
def test_two_files_with_one_id_are_refused(tmp_path, name):
    first, second = lab_file(tmp_path, SOURCE), lab_file(tmp_path, SOURCE, name)
    with pytest.raises(LabError, match="lab 'ch90/lab01' stands twice") as caught:
        labs.catalog(tmp_path)
    assert {str(caught.value.path), caught.value.why.removeprefix("The other is ")} == {str(first), str(second)}


@pytest.mark.parametrize("lab_id", ["ch90/lab02", "ch90", "../../etc", "", "ch90/lab01/x"])
def test_an_unknown_id_lists_the_labs_there_are(tiny_course, lab_id):
    with pytest.raises(LookupError, match="the labs are ch90/lab01"):
        labs.find(lab_id)


def test_the_capstone_is_a_lab_that_closes_chapter_four(tiny_course):
    sources = tiny_course / "source_solutions"
    text = (sources / "ch90_example" / "lab01_ema.py").read_text(encoding="utf-8")
    for chapter, stem, name in (
        ("capstone", "mini_gpt", "capstone/mini_gpt"),
        ("ch04_training", "lab06_lora", "ch04/lab06"),
        ("ch05_linear", "lab01_cost", "ch05/lab01"),
    ):
        (sources / chapter).mkdir()
        (sources / chapter / f"{stem}.py").write_text(text.replace("ch90/lab01", name), encoding="utf-8")
    found = [lab.id for lab in labs.catalog(tiny_course)]
    assert found == ["ch04/lab06", "capstone/mini_gpt", "ch05/lab01", "ch90/lab01"]
    lab = labs.find("capstone/mini_gpt", tiny_course)
    assert (lab.chapter, lab.stem) == ("capstone", "mini_gpt")
    with pytest.raises(LookupError, match="capstone/mini_gpt"):
        labs.find("capstone/other", tiny_course)
    with pytest.raises(LookupError):
        labs.find("capstone/..", tiny_course)
