"""Tries: nothing. Tools have left schema versions, identifiers and metadata of their own.

A correct grader: goes by the names of the cells and ignores the rest.
"""

EARNS = {"ema": 4, "steps_to": 1}


def NOTEBOOK(content):
    for number, cell in enumerate(content["cells"]):
        marks = cell["metadata"].get("nbgrader", {})
        marks |= {
            "schema_version": [1, 99, "three", None][number % 4],
            "checksum": 7,
            "locked": "yes",
            "points": "many",
        }
        cell["metadata"] |= {"tags": "none", "collapsed": 1}
        cell["id"] = number
        cell["outputs"] = [{"output_type": "unheard of"}] if cell["cell_type"] == "code" else []
    return content | {"nbformat": 4, "nbformat_minor": 99, "metadata": "none"}
