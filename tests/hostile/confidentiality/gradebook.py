"""Reads the marks of the class.

Tries: opens the gradebook where it lies, and any other SQLite file that can be found.
A correct grader: shows the learner's process no gradebook.
"""

EXTRA = """
import glob
import sqlite3

places = ["@COURSE@/grading/gradebook.db", *glob.glob("/tmp/**/*.db", recursive=True), *glob.glob("/**/gradebook.db")]
for place in places:
    try:
        with sqlite3.connect(f"file:{place}?mode=ro", uri=True) as book:
            # nbgrader's own tests bring an empty one.
            for student in book.execute("select id, email from student"):
                print("trophy: the gradebook", student)
    except sqlite3.Error as error:
        print(type(error).__name__)
"""
EARNS = {"ema": 4, "steps_to": 1}
