"""Gives the policy the instruction in other words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from srpo_env.libero.perturbations.base import Perturbation
from srpo_env.libero.perturbations.instructions import rewritten

if TYPE_CHECKING:
    from srpo_env.libero.suites import Task

KINDS = {
    1: "other words",
    2: "longer sentence",
    3: "distraction",
    4: "description",
    5: "situation",
}
"""What is rewritten at each level; see `srpo_env.libero.perturbations.instructions`."""


@dataclass(frozen=True, kw_only=True)
class Language(Perturbation):
    """Rewrites the instruction; the draw selects one of the texts of a kind.

    The task in ``info["task_id"]`` and the goal stay the same; ``info["task"]`` is the new text.
    Kinds 2 and 3 exist for every task, the others for LIBERO's forty.
    """

    level: int = 0
    """Kind of the text: 0 is the task's own, 1 other words, 2 a longer sentence, 3 a distraction, 4
    things described instead of named, 5 a situation from which the task follows."""
    text: str | None = None
    """An exact text instead; nothing is drawn then."""

    dimension: ClassVar[str] = "language"

    def check(self) -> None:
        """Checks the ranges."""
        self._check_number("level", 0, 5, integer=True)
        if self.text is not None:
            if not isinstance(self.text, str) or not self.text.strip():
                raise ValueError(f"`text` of Language must not be empty, got {self.text!r}")
            if self.level:
                raise ValueError("`text` of Language is exact: leave out `level`")

    @classmethod
    def fields_of_level(cls, level: int) -> dict[str, Any]:
        """Returns the kind of text with this number."""
        return {"level": level}

    def instruction(self, task: Task, instruction: str) -> str:
        """Returns the new text.

        Raises:
            ValueError: If there is none of this kind for the task.
        """
        if self.text is not None:
            return self.text
        if self.level == 0:
            return instruction
        texts = rewritten(instruction, self.level)
        if not texts:
            raise ValueError(
                f"Language has no texts of level {self.level} ({KINDS[self.level]}) for {task.name}"
                ": use level 2 or 3, or `text`"
            )
        return texts[int(self.generator().integers(len(texts)))]
