"""Make a Colab runtime ready: install what the course needs and the runtime lacks, and replace nothing it has.

Versions are probed, not pinned: Colab changes its own, and what it ships together works together.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from packaging.requirements import Requirement

PACKAGE = "attention-to-silicon"
#: Never installed, upgraded or replaced: the runtime's own builds fit its drivers.
PROTECTED = ("torch", "numpy", "jax", "jaxlib", "triton", "torchvision", "torchaudio", "scipy")


def prepare(
    requires: list[str] | None = None,
    version_of: Callable[[str], str | None] | None = None,
    install: Callable[[list[str]], None] | None = None,
) -> list[str]:
    """Install the course's requirements that are missing, and say in one line what was done.

    Args:
        requires: requirement strings; those of the installed course package where left out.
        version_of: gives the installed version of a package or None; importlib.metadata where left out.
        install: runs pip with the given arguments; a subprocess where left out.

    Returns:
        The requirements that were installed.

    Raises:
        RuntimeError: if a protected package is missing or too old, which only a newer runtime can mend.
    """
    requires = importlib.metadata.requires(PACKAGE) or [] if requires is None else requires
    version_of = version_of or _version_of
    missing = []
    for text in requires:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = version_of(requirement.name)
        fits = installed is not None and requirement.specifier.contains(installed, prereleases=True)
        if fits:
            continue
        if requirement.name.lower() in PROTECTED:
            raise RuntimeError(
                f"this runtime has {requirement.name} {installed or '(none)'}, the course needs {requirement}; it is "
                "the runtime's own and is not replaced. Choose Runtime > Disconnect and delete runtime, then reconnect."
            )
        missing.append(f"{requirement.name}{requirement.specifier}")
    if missing:
        with tempfile.TemporaryDirectory() as folder:
            # pip may upgrade dependencies of what it installs; the constraints keep the runtime's own as they are.
            constraints = Path(folder) / "constraints.txt"
            held = [f"{name}=={version}" for name in PROTECTED if (version := version_of(name))]
            constraints.write_text("\n".join(held) + "\n", encoding="utf-8")
            (install or _pip)(["-q", "--constraint", str(constraints), *missing])
    print(f"The course is ready. Installed: {', '.join(missing) or 'nothing, all was there'}.")
    return missing


def _version_of(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pip(arguments: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", *arguments], check=True)
