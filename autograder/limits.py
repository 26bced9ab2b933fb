"""What one submission may use. Everything is a total over all processes that it starts, unless it says otherwise."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

#: What an exception says when a cell's time is over.
TIME_IS_UP = "this cell ran longer than its time limit"


@dataclass(frozen=True)
class Limits:
    """Bounds of one submission's run.

    Attributes:
        cell_seconds: wall time of one cell, or of one call that a test makes.
        notebook_seconds: wall time of the whole notebook.
        cpu_seconds: processor time of all its processes together.
        memory_mebibytes: memory that it may add to what a fresh process has.
        processes: processes and threads.
        disk_mebibytes, files: size of its private file system, in memory, and the number of files there.
        open_files: open files of one process.
    """

    cell_seconds: float = 60.0
    notebook_seconds: float = 300.0
    cpu_seconds: float = 600.0
    memory_mebibytes: int = 4096
    processes: int = 64
    disk_mebibytes: int = 256
    files: int = 2000
    open_files: int = 256

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
