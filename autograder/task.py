"""One submission to grade, whole: bytes in, a verdict out, and no file of the machine that hands it out."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from autograder.limits import Limits
from autograder.split import Terms
from autograder.verdict import Verdict, judge
from autograder.warm import Zygote


@dataclass(frozen=True)
class Task:
    """One notebook to grade.

    Attributes:
        index: the lab's index (`autograder.build.index_of`).
        notebook: the content of the learner's file.
        references: path below ``coursekit/solved`` -> text, for every lab that the grading needs: this one, to name
            mistakes, and those that its given cells carry from.
        seed: of the hidden tests' random inputs; 0 for those that learners see in the notebook.
        limits: what the submission may use.
        sandbox: whether its cells run in the sandbox; only somebody who trusts the code turns it off.
    """

    index: dict[str, Any]
    notebook: bytes
    references: dict[str, str]
    seed: int = 0
    limits: Limits = field(default_factory=Limits)
    sandbox: bool = True

    @cached_property
    def key(self) -> str:
        """A digest of all that decides the verdict."""
        return hashlib.sha256(self.pack()).hexdigest()

    def pack(self) -> bytes:
        """As bytes, the same for the same task."""
        content = vars(self) | {
            "notebook": base64.b64encode(self.notebook).decode(),
            "limits": self.limits.to_json(),
        }
        content.pop("key", None)
        return json.dumps(content, sort_keys=True).encode()

    @classmethod
    def unpack(cls, packed: bytes) -> Task:
        content = json.loads(packed)
        content["notebook"] = base64.b64decode(content["notebook"])
        content["limits"] = Limits(**content["limits"])
        return cls(**content)


def perform(task: Task, zygote: Zygote) -> Verdict:
    """Grade one notebook. Whatever it does, the answer is a verdict; exceptions are faults of the grader."""
    terms = Terms(task.references, task.seed, task.limits, task.sandbox)
    return judge(task.index, task.notebook, zygote, everything=True, terms=terms)
