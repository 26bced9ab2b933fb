"""Tries: nothing. Helpers called torch.py, coursekit.py, random.py and sitecustomize.py lie beside the notebook.

A correct grader: imports none of them, neither for this learner nor for anybody else.
"""

EARNS = {"ema": 4, "steps_to": 1}


def FILES(folder, course):
    for name in ("torch", "coursekit", "random", "sitecustomize", "usercustomize", "conftest", "nbgrader_config"):
        (folder / f"{name}.py").write_text("raise SystemExit('mallory')\n")
        (folder.parent / f"{name}.py").write_text("raise SystemExit('mallory')\n")
    (folder / "numpy").mkdir()
    (folder / "numpy" / "__init__.py").write_text("raise SystemExit('mallory')\n")
