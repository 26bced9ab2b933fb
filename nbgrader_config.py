"""nbgrader on this folder layout: `nbgrader` commands and Formgrader, started in the root of the course, read this."""

from pathlib import Path

from nbconvert.preprocessors import CSSHTMLHeaderPreprocessor
from nbgrader.preprocessors import GetGrades

from autograder.build import STUB
from autograder.redact import RedactHiddenTests

c = get_config()  # noqa: F821 (nbgrader provides it)

root = Path(__file__).resolve().parent
c.CourseDirectory.root = str(root)
c.CourseDirectory.course_id = "attention-to-silicon"
# `course build` makes the source notebooks; nbgrader's assignments are the chapters, its notebooks the labs.
c.CourseDirectory.source_directory = "build/source"
c.CourseDirectory.release_directory = "release"
c.CourseDirectory.submitted_directory = "grading/submitted"
c.CourseDirectory.autograded_directory = "grading/autograded"
c.CourseDirectory.feedback_directory = "grading/feedback"
# SQLite makes its file, but not the folder for it.
(root / "grading").mkdir(exist_ok=True)
c.CourseDirectory.db_url = f"sqlite:///{root}/grading/gradebook.db"
c.CourseDirectory.ignore = [".ipynb_checkpoints", "*.pyc", "__pycache__", ".DS_Store"]
c.ClearSolutions.code_stub = {"python": STUB}
c.ExecutePreprocessor.timeout = 300
# Feedback pages show what a check said, never the hidden test that said it.
c.GenerateFeedback.preprocessors = [GetGrades, RedactHiddenTests, CSSHTMLHeaderPreprocessor]
