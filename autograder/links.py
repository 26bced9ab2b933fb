"""Every link into the public repository comes from one setting: `repository:` in `_config.yml`."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import yaml

from autograder import paths

GITHUB = "https://github.com/"


def repository(root: Path | None = None) -> tuple[str, str]:
    """The public repository as (address without a closing slash, branch).

    Raises:
        ValueError: if `_config.yml` does not name it.
    """
    path = (root or paths.root()) / "_config.yml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8")).get("repository") or {}
    if not settings.get("url"):
        raise ValueError(f"{path}: repository.url is not set; every link of the course comes from it")
    return str(settings["url"]).rstrip("/"), str(settings.get("branch") or "main")


def file_url(path: str, root: Path | None = None) -> str:
    """Where the public repository shows a file of the tree, named by its path relative to the root."""
    url, branch = repository(root)
    return f"{url}/blob/{branch}/{quote(path)}"


def colab_url(path: str, root: Path | None = None) -> str | None:
    """The address that opens a notebook of the tree in Colab; None where the host is not GitHub, as Colab needs."""
    url, branch = repository(root)
    if not url.startswith(GITHUB):
        return None
    return f"https://colab.research.google.com/github/{url.removeprefix(GITHUB)}/blob/{branch}/{quote(path)}"


def kaggle_url(path: str, root: Path | None = None) -> str | None:
    """The address that imports a notebook of the tree into Kaggle; None where the host is not GitHub."""
    if not repository(root)[0].startswith(GITHUB):
        return None
    return f"https://www.kaggle.com/kernels/welcome?src={quote(file_url(path, root), safe='')}"
