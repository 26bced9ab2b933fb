"""Hands in for somebody else.

Tries: notebook metadata and extra files that name another learner, another lab and another assignment.
A correct grader: goes by the folder and the file's name, and by nothing inside.
"""

from tests.hostile import kit

ANSWERS = {"ema": kit.WRONG_EMA, "steps_to": kit.WRONG_STEPS}
EARNS = {"ema": 0, "steps_to": 0}


def NOTEBOOK(content):
    content["metadata"] |= {"nbgrader": {"student": "zoe", "student_id": "zoe"}, "course": {"lab": "ch91/lab01"}}
    for cell in content["cells"]:
        cell["metadata"]["student"] = "zoe"
    return content


def FILES(folder, course):
    (folder / "zoe.ipynb").write_bytes(next(folder.glob("*.ipynb")).read_bytes())
    (folder / "zoe").mkdir()
    (folder / "gradebook.db").write_bytes(b"SQLite format 3\0")
    (folder / "nbgrader_config.py").write_text("raise SystemExit('mallory')")
    (folder / "sitecustomize.py").write_text("raise SystemExit('mallory')")
