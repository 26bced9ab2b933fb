"""Take hidden tests out of feedback pages. `nbgrader_config.py` puts this into nbgrader's own `generate_feedback`.

What a learner is shown of a test cell with a hidden part, and why:

- the visible source, and a remark where the hidden part was;
- if it failed, the words of the check that failed: what should hold, shapes and the largest difference, what to try.
  That is what one learns from, and the lab's author wrote it to be read. Of another exception only the kind and the
  beginning of the message: it tells what went wrong in the learner's code;
- nothing else: no traceback, which quotes the test's lines, and nothing that was printed or displayed while hidden
  tests ran, in whatever form.

So what is shown depends on where an output came from, not on what it looks like. The inputs of hidden tests are no
secret from the function that receives them; their random part is drawn anew for each learner instead.
"""

from __future__ import annotations

from typing import Any

from nbformat.v4 import new_output
from nbgrader.preprocessors import ClearHiddenTests

from autograder import sanitise

#: Characters shown of an exception that is not a check's own.
MAX_MESSAGE = 300
_NOTE = "# hidden tests ran here"
_UNSHOWN = "[what was printed or displayed while hidden tests ran is not shown]\n"


class RedactHiddenTests(ClearHiddenTests):
    """Show of a test cell what a learner may see, and of outputs nothing that does harm."""

    def preprocess_cell(self, cell: Any, resources: dict, index: int) -> tuple[Any, dict]:
        """Redact one cell of a notebook on its way to a feedback page."""
        if cell.cell_type != "code":
            return cell, resources
        # For notebooks that stock `nbgrader autograde` has made; those of `course grade` are harmless already.
        cell.outputs = sanitise.outputs(cell.outputs)
        marks = cell.metadata.get("nbgrader", {})
        if not (marks.get("grade") and marks.get("locked")):
            return cell, resources
        hidden = self._remove_hidden_test_region(cell)
        if hidden:
            cell.source = f"{cell.source.rstrip()}\n{_NOTE}"
        errors = [_short(output, hidden) for output in cell.outputs if output.output_type == "error"]
        others = [output for output in cell.outputs if output.output_type != "error"]
        if hidden and others:
            others = [new_output("stream", name="stderr", text=_UNSHOWN)]
        cell.outputs = others + errors
        return cell, resources


def _short(error: Any, hidden: bool) -> Any:
    """The message without the traceback. A bare assert has none, and nbgrader would show an empty box."""
    said = error.evalue or "a check did not hold"
    if hidden and error.ename != "CheckFailed":
        said = said[:MAX_MESSAGE]
    return new_output("error", ename=error.ename, evalue=said, traceback=[f"{error.ename}: {said}"])
