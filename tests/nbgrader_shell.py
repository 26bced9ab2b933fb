"""Stock nbgrader commands in a process of their own, several in one to save its seconds of imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

_DRIVER = """
import json, os, shutil, sys, traceback
from nbgrader.apps.nbgraderapp import NbGraderApp
from traitlets.config import Application

results = []
for number, arguments in enumerate(json.load(sys.stdin)):
    with open(f"{sys.argv[1]}/{number}.log", "w+") as log:
        os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
        code = 0
        try:
            if arguments[0] == "type in":
                shutil.copy(*arguments[1:])
            else:
                NbGraderApp.launch_instance(argv=arguments)
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush(), sys.stderr.flush()
        if Application.initialized():
            type(Application._instance).clear_instance()
        log.seek(0)
        results.append([code, log.read()])
with open(f"{sys.argv[1]}/results.json", "w") as file:
    json.dump(results, file)
"""


def nbgrader(folder: Path, home: Path, *commands: list[str]) -> list[str]:
    """Run `nbgrader …` commands one after the other in a folder, as somebody with that home, and return their outputs.

    Between them somebody may work: `["type in", answers, notebook]` copies a file.

    Raises:
        AssertionError: if one fails, with what it said.
    """
    home.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, str(home)],
        input=json.dumps(commands),
        cwd=folder,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((home / "results.json").read_text(encoding="utf-8"))
    for command, (code, said) in zip(commands, results, strict=True):
        assert code == 0, f"nbgrader {' '.join(command)} ended with {code}:\n{said}"
    return [said for _, said in results]


def environment(home: Path) -> dict[str, str]:
    """The environment of somebody whose own settings of Jupyter are all under one folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COURSE_", "JUPYTER", "IPYTHON"))}
    places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "run"}
    own = {name: str(home / folder) for name, folder in places.items()}
    return kept | own | {"HOME": str(home), "IPYTHONDIR": str(home / "ipython"), "OMP_NUM_THREADS": "1"}
