"""nbgrader's own API, quiet, and without the process that it starts to learn one number.

A new gradebook is stamped with the revision of its schema. nbgrader asks the `alembic` program for it, which imports
everything anew and takes seconds; here the same files are read in this process.
"""

from __future__ import annotations

import logging
from functools import cache

import nbgrader.api
from alembic.script import ScriptDirectory
from nbgrader.apps import NbGraderAPI
from nbgrader.dbutil import ALEMBIC_DIR
from traitlets.config import Config


@cache
def schema_revision() -> str:
    """The newest revision of nbgrader's schema, as `alembic heads` prints it."""
    return ScriptDirectory(ALEMBIC_DIR).get_current_head()


nbgrader.api.get_alembic_version = schema_revision


def quiet_api(config: Config) -> NbGraderAPI:
    """nbgrader's API for a configuration, with its progress messages left out."""
    api = NbGraderAPI(config=config)
    api.log.setLevel(logging.ERROR)
    return api
