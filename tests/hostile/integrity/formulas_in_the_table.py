"""Runs a formula in the instructor's spreadsheet.

Tries: a folder whose name is a formula, which stands in the first column of the table of marks.
A correct grader: grades it, and writes a table in which no cell begins a formula.
"""

import csv

LEARNER = "=HYPERLINK(mallory)+cmd|' C'!A0"
EARNS = {"ema": 4, "steps_to": 1}


def AFTER(outcome):
    with outcome.table.open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert [cell for cell in cells if cell[:1] in "=+-@\t\r" and cell and not cell[1:2].isdigit()] == []
    assert any("HYPERLINK" in cell for cell in cells)
