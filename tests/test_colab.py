"""Making a Colab runtime ready, tested without Colab: pip is never asked for what the runtime brings."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from autograder.links import repository
from autograder.setup_cell import setup_cell
from coursekit import colab
from tests.conftest import ROOT

REQUIRES = [
    "torch>=2.6",
    "numpy>=1.26",
    "plotly>=5.20",
    "matplotlib>=3.8",
    "einops",
    'tomli>=2; python_version < "3"',
    'jupyterlab>=4.2,<5; extra == "course"',
]
RUNTIME = {"torch": "2.9.0+cu126", "numpy": "2.0.2", "jax": "0.7.2", "triton": "3.5.0", "matplotlib": "3.10.0"}


class Pip:
    """Stands in for pip: keeps its arguments, and the constraints file while it is there."""

    def __init__(self):
        self.calls = []
        self.constraints = []

    def __call__(self, arguments):
        self.calls.append(arguments)
        place = arguments[arguments.index("--constraint") + 1]
        self.constraints = Path(place).read_text(encoding="utf-8").split()

    @property
    def packages(self):
        (arguments,) = self.calls
        options = {"-q", "--constraint", arguments[arguments.index("--constraint") + 1]}
        return [argument for argument in arguments if argument not in options]


def prepare(installed, requires=REQUIRES):
    pip = Pip()
    return pip, colab.prepare(requires, installed.get, pip)


def test_only_what_is_missing_or_too_old_is_installed(capsys):
    pip, installed = prepare(RUNTIME | {"plotly": "5.3.1"})
    assert pip.packages == installed == ["plotly>=5.20", "einops"]
    assert "Installed: plotly>=5.20, einops." in capsys.readouterr().out


def test_nothing_is_run_where_all_is_there(capsys):
    pip, installed = prepare(RUNTIME | {"plotly": "6.0rc1", "einops": "0.8"})
    assert (pip.calls, installed) == ([], [])
    assert "nothing, all was there" in capsys.readouterr().out


def test_the_runtime_s_own_builds_are_held_and_never_asked_for():
    pip, _ = prepare(RUNTIME)
    assert set(pip.constraints) == {"torch==2.9.0+cu126", "numpy==2.0.2", "jax==0.7.2", "triton==3.5.0"}
    named = {re.split(r"[<>=!~]", package)[0] for package in pip.packages}
    assert named & {"torch", "numpy", "jax", "jaxlib", "triton", "torchvision"} == set()


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        (RUNTIME | {"torch": "2.1.0"}, "this runtime has torch 2.1.0, the course needs torch>=2.6"),
        ({"numpy": "2.0.2"}, "this runtime has torch (none), the course needs torch>=2.6"),
        (RUNTIME | {"numpy": "1.23"}, "this runtime has numpy 1.23, the course needs numpy>=1.26"),
    ],
)
def test_a_runtime_that_is_too_old_gets_a_clear_error_and_keeps_what_it_has(installed, said):
    pip = Pip()
    with pytest.raises(RuntimeError, match=re.escape(said)) as caught:
        colab.prepare(REQUIRES, installed.get, pip)
    assert pip.calls == []
    assert "Disconnect and delete runtime" in str(caught.value)


def test_a_protected_name_is_known_in_any_spelling():
    with pytest.raises(RuntimeError, match="not replaced"):
        colab.prepare(["Torch>=99"], {"Torch": "2.9"}.get, Pip())


def test_the_package_s_own_requirements_are_used_without_its_extras():
    asked = []
    colab.prepare(None, lambda name: asked.append(name) or "99", Pip())
    declared = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)[1]
    assert asked == re.findall(r'"([a-z0-9-]+)', declared)


# The first cell of a lab


@pytest.fixture
def pip_runs(monkeypatch):
    """Every subprocess that is asked for, with the constraints that it would read; none is started."""
    runs = []

    def run(command, check=False):
        assert check, "a failing pip must stop the cell"
        held = None
        if "--constraint" in command:
            held = Path(command[command.index("--constraint") + 1]).read_text(encoding="utf-8").split()
        runs.append((command, held))

    monkeypatch.setattr(subprocess, "run", run)
    return runs


def test_on_colab_the_first_cell_installs_the_package_alone_and_then_what_is_missing(pip_runs, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    real = importlib.metadata.version

    def version(name):
        if name == "plotly":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    exec(setup_cell(ROOT), {})
    url, branch = repository(ROOT)
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    (first, _), (second, held) = pip_runs
    assert first == [*pip, "--no-deps", f"attention-to-silicon @ git+{url}@{branch}"]
    assert second[:6] == [*pip, "--constraint"]
    assert second[7:] == ["plotly>=5.20"]
    assert f"torch=={real('torch')}" in held
    assert "Installed: plotly>=5.20." in capsys.readouterr().out


def test_elsewhere_the_first_cell_does_nothing(pip_runs, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    scope = {}
    exec(setup_cell(ROOT), scope)
    assert pip_runs == []
    assert capsys.readouterr().out == ""
    assert "colab" not in scope


def test_the_package_can_be_asked_before_anything_is_installed():
    """On a bare runtime the first cell imports `coursekit.colab` before the requirements are there."""
    code = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'plotly', 'matplotlib', 'scipy', 'IPython'):\n"
        "    sys.modules[name] = None\n"
        "from coursekit import colab\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
