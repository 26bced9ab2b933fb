"""One set of versions, said in three places; style; and the package's declared ranges."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tests.conftest import ROOT


def pins(lines: list[str]) -> dict[str, str]:
    """Name -> version of every pinned line."""
    found = {}
    for line in lines:
        text = line.partition("#")[0].strip()
        if text and not text.startswith("-"):
            requirement = Requirement(text)
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", f"{text} is not pinned"
            found[requirement.name.lower().replace("_", "-")] = specifier.version
    return found


TOP = pins((ROOT / "requirements.in").read_text().splitlines())
LOCK = pins((ROOT / "requirements.txt").read_text().splitlines())


def test_the_lock_holds_every_top_level_pin():
    assert {name: LOCK.get(name) for name in TOP} == TOP


def test_conda_environment_has_the_same_versions():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    assert pins(pip) == TOP


def test_declared_ranges_admit_the_pins():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *(r for group in project["optional-dependencies"].values() for r in group)]
    for text in declared:
        requirement = Requirement(text)
        version = LOCK[requirement.name.lower()]
        assert requirement.specifier.contains(version), f"{text} does not admit the tested {version}"


@pytest.mark.parametrize("arguments", [["check", "."], ["format", "--check", "."]], ids=["lint", "format"])
def test_ruff_is_clean(arguments):
    ruff = Path(sys.executable).with_name("ruff")
    done = subprocess.run([ruff, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_coursekit_never_imports_autograder():
    offenders = [
        path
        for path in (ROOT / "coursekit").rglob("*.py")
        if any(
            line.strip().startswith(("import autograder", "from autograder")) for line in path.read_text().splitlines()
        )
    ]
    assert offenders == []


def test_modules_stay_small():
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in ("autograder", "coursekit")
        for path in (ROOT / folder).rglob("*.py")
        if "solved" not in path.parts and (lines := len(path.read_text().splitlines())) > 400
    }
    assert long == {}
