"""Starts an episode with other angles of the arm's joints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from srpo_env.libero.perturbations.base import Perturbation, unit_vector
from srpo_env.types import Floats

if TYPE_CHECKING:
    from srpo_env.libero.simulation import Simulation

NUM_JOINTS = 7

MAX_RADIUS = 0.5

MAX_TRIES = 100
"""Number of directions that are tried until the arm touches nothing."""


@dataclass(frozen=True, kw_only=True)
class RobotState(Perturbation):
    """Moves the seven joints by ``radius`` times a unit vector of random direction.

    The joints are those of the initial state, and the objects stay where they are. The controller
    is that of an arm which was created in this posture: it holds the posture until the policy acts.
    A direction in which the arm would touch something is drawn again.
    """

    radius: float = 0.0
    """Length of the change, in radians, 0 to 0.5."""
    offsets: tuple[float, ...] | None = None
    """Exact changes of the seven joints in radians instead; nothing is drawn then."""
    rest_only: bool = False
    """Whether only the controller is that of the other posture, while the joints are the initial
    state's. This is what remains of LIBERO-Plus's perturbation in its own evaluation, which sets
    the initial state after the reset: the controller turns the hand to the orientation that it had
    in the perturbed posture, and prefers its elbow."""

    dimension: ClassVar[str] = "robot"

    def check(self) -> None:
        """Checks the ranges."""
        self._check_number("radius", 0, MAX_RADIUS)
        if not isinstance(self.rest_only, bool):
            raise ValueError(f"`rest_only` of RobotState must be a bool, got {self.rest_only!r}")
        if self.offsets is not None:
            self._check_numbers("offsets", NUM_JOINTS)
            if self.radius:
                raise ValueError("`offsets` of RobotState are exact: leave out `radius`")

    @classmethod
    def fields_of_level(cls, level: int) -> dict[str, Any]:
        """Returns a radius of 0.1 to 0.5 rad."""
        return {"radius": 0.1 * level}

    def start(self, simulation: Simulation) -> None:
        """Moves the joints.

        Raises:
            ValueError: If the arm touches something in all directions that were tried.
        """
        if self.offsets is not None:
            simulation.move_arm(np.array(self.offsets), rest_only=self.rest_only)
            return
        if self.radius == 0:
            return
        rng = self.generator()
        moved: Floats = np.zeros(NUM_JOINTS)
        for _ in range(MAX_TRIES):
            offsets = self.radius * unit_vector(rng, NUM_JOINTS)
            simulation.move_arm(offsets - moved)
            moved = offsets
            if not simulation.arrangement.arm_touches:
                if self.rest_only:
                    simulation.move_arm(-moved)
                    simulation.move_arm(moved, rest_only=True)
                return
        raise ValueError(
            f"the arm touches something in {MAX_TRIES} postures at a radius of {self.radius} rad "
            f"in {simulation.task.name} (draw {self.draw}): use a smaller radius or another draw"
        )
