"""Take hidden tests out of feedback pages: their source, and every traceback that quotes it.

`nbgrader_config.py` puts it into nbgrader's own `generate_feedback`, so that the stock
command is as safe as `course grade`.
"""

from __future__ import annotations

import re
from typing import Any

from nbgrader.preprocessors import NbGraderPreprocessor

_HIDDEN = re.compile(r"^[ \t]*### BEGIN HIDDEN TESTS.*?^[ \t]*### END HIDDEN TESTS[ \t]*$", re.DOTALL | re.MULTILINE)
_NOTE = "# hidden tests ran here"


class RedactHiddenTests(NbGraderPreprocessor):
    """Replace hidden test source by a remark, and tracebacks of test cells by the check's own message."""

    def preprocess_cell(self, cell: Any, resources: dict, index: int) -> tuple[Any, dict]:
        """Redact one cell of a notebook on its way to a feedback page."""
        marks = cell.metadata.get("nbgrader", {})
        if cell.cell_type != "code" or not (marks.get("grade") and marks.get("locked")):
            return cell, resources
        hidden = {line.strip() for region in _HIDDEN.findall(cell.source) for line in region.splitlines()} - {""}
        cell.source = _HIDDEN.sub(_NOTE, cell.source)
        for output in cell.outputs:
            if output.output_type == "stream":
                # A warning that the learner's code gave its caller shows the caller's line.
                lines = output.text.splitlines(keepends=True)
                output.text = "".join(f"  {_NOTE}\n" if line.strip() in hidden else line for line in lines)
            if output.output_type == "error":
                # A traceback quotes source lines; the message does not, except for a bare assert, which has none.
                output.traceback = [
                    f"{output.ename}: {output.evalue}" if output.evalue else f"{output.ename}: a check did not hold"
                ]
        return cell, resources
