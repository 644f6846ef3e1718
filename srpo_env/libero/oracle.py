"""Oracle progress: how near an episode is to its task's goal, from the simulator's ground truth.

Rewards from videos are compared with it and never use it. The agent's ``--reward oracle`` rewards
failures by it, as an upper bound for rewards from videos.
"""

from __future__ import annotations

import numpy as np

from srpo_env.libero.basket_progress import BasketProgress
from srpo_env.libero.experts.tasks import parts_of
from srpo_env.libero.simulation import Simulation


class OracleProgress:
    """Measures the current progress in [0, 1] from positions and contacts; it can also decrease.

    It is 1 exactly where LIBERO's goal predicates hold. For the tasks of libero_object, see
    `BasketProgress`. In all other tasks each goal predicate is a part, with the stages of the
    skills that reach it: *reach, grasp, lift, carry, lower* for an object that is put somewhere,
    *reach* and *move* for a drawer, a door, a knob or a plate. Parts count in any order: progress
    is the number of predicates that hold, plus the progress of the most advanced other part,
    divided by the number of parts. A predicate that holds from the beginning is no part, unless it
    is violated later; closing a container counts only while what belongs inside is there.
    """

    def __init__(self, simulation: Simulation) -> None:
        """Starts to measure an episode in the simulator's current state.

        Args:
            simulation: A task whose goal predicates have skills, as all of libero_spatial,
                libero_object, libero_goal and libero_10.

        Raises:
            ValueError: If no skill reaches one of the goal's predicates.
        """
        self._simulation = simulation
        self._basket: BasketProgress | None = None
        self.num_parts = 1
        """Number of goal predicates that do not hold at the beginning."""
        if simulation.task.suite == "libero_object":
            self._basket = BasketProgress(simulation)
            return
        self._parts = parts_of(simulation)
        self._meters = [[skill.meter() for skill in part.skills] for part in self._parts]
        self._given = [simulation.holds(part.predicate) for part in self._parts]
        self.num_parts = max(1, len(self._given) - sum(self._given))

    def measure(self) -> float:
        """Returns the current progress; call it once per control step."""
        if self._basket is not None:
            return self._basket.measure()
        if self._simulation.is_success():
            return 1.0
        holds = {part.predicate: self._simulation.holds(part.predicate) for part in self._parts}
        num_reached, num_parts, best = 0, 0, 0.0
        for part, meters, given in zip(self._parts, self._meters, self._given, strict=True):
            measured = [meter.measure() for meter in meters]
            is_reached = holds[part.predicate]
            if given and is_reached:
                continue
            num_parts += 1
            if not all(holds[other] for other in part.after):
                continue
            if is_reached:
                num_reached += 1
                continue
            # A skill that prepares another one, such as opening a drawer, can be done already.
            done = [skill.prepared() for skill in part.skills]
            first = int(np.argmin(done)) if not all(done) else len(done) - 1
            best = max(best, (first + measured[first]) / len(meters))
        return min((num_reached + best) / max(1, num_parts), 0.999)
