"""Tries: nothing. Cells hold what people type into notebooks: !pip, %pip, %timeit, %%bash, %matplotlib, ?, %cd, %run.

A correct grader: runs what it can; the answers count whatever comes of the others.
"""

from tests import learners

EARNS = {"ema": 4, "steps_to": 1}
LIMITS = {"cell_seconds": 20.0}


def NOTEBOOK(content):
    sources = [
        "%matplotlib inline\nimport matplotlib.pyplot as plt\n\nplt.plot([1, 2])\nplt.show()",
        "!pip install --quiet --disable-pip-version-check --no-index no-such-package",
        "%pip --version",
        "%timeit -n 1 -r 1 1 + 1",
        "%%bash\nls / | head -3; exit 3",
        "torch.stack?",
        "%cd /tmp\n%run no_such_file.py",
        "%load_ext autoreload\n%autoreload 2",
    ]
    for number, source in enumerate(sources):
        content["cells"].insert(3 + number, learners.code_cell(source) | {"id": f"magic{number}"})
    return content
