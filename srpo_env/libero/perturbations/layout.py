"""Adds distractors to a scene, or moves the places at which its things stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from srpo_env.libero.perturbations.base import Perturbation
from srpo_env.libero.perturbations.layout_files import NUM_SETS, with_distractors
from srpo_env.types import Floats

if TYPE_CHECKING:
    from srpo_env.libero.simulation import Simulation
    from srpo_env.libero.suites import Task

MAX_DISTRACTORS, MAX_SHIFT = 5, 0.15

SHARES = {"distractors": 829, "shift": 696}
"""Number of LIBERO-Plus's layout tasks of each kind."""

MAX_TRIES = 200
"""Number of placements that are tried until nothing overlaps."""

REACH = (0.28, 0.32)
"""Distractors are within this distance of the centre of the table, in x and y, in metres."""

GAP = 0.02
"""Distance in metres between a distractor and the things around it."""

DEPTH = 0.001
"""Depth in metres from which two things that are moved overlap."""


@dataclass(frozen=True, kw_only=True)
class Layout(Perturbation):
    """Adds objects that the task does not need, or moves the regions of the task's own.

    If both are set, the draw selects one of them, as often as LIBERO-Plus does (54% and 46% of its
    layout tasks). Distractors need another scene, which is compiled at the first reset to it:
    there are at most three sets of them for each task and number of distractors.
    """

    distractors: int = 0
    """Number of distractors, 0 to 5, at free places that are drawn."""
    shift: float = 0.0
    """Maximum change of each region's position in x and in y, in metres, 0 to 0.15; drawn. What
    stands in a region moves with it. Regions of the goal on the table stay where they are."""

    dimension: ClassVar[str] = "layout"

    def check(self) -> None:
        """Checks the ranges."""
        self._check_number("distractors", 0, MAX_DISTRACTORS, integer=True)
        self._check_number("shift", 0, MAX_SHIFT)

    @classmethod
    def fields_of_level(cls, level: int) -> dict[str, Any]:
        """Returns 1 to 5 distractors, or shifts of 1 to 5 cm."""
        return {"distractors": level, "shift": 0.01 * level}

    def task(self, task: Task) -> Task:
        """Returns the task with distractors if the draw adds some."""
        if self._drawn != "distractors":
            return task
        number = int(self.generator(1).integers(NUM_SETS))
        return with_distractors(task, self.distractors, number)

    def start(self, simulation: Simulation) -> None:
        """Places the distractors, or moves the things.

        Raises:
            ValueError: If there is no placement without contact.
        """
        if self._drawn == "distractors":
            self._place_distractors(simulation)
        elif self._drawn == "shift":
            self._shift_regions(simulation)

    @property
    def _drawn(self) -> str | None:
        kinds = [kind for kind in SHARES if getattr(self, kind)]
        if not kinds:
            return None
        shares = np.array([SHARES[kind] for kind in kinds], dtype=float)
        return kinds[int(self.generator().choice(len(kinds), p=shares / shares.sum()))]

    def _place_distractors(self, simulation: Simulation) -> None:
        rng = self.generator(2)
        names = simulation.task.extra_objects
        model, data = simulation.model, simulation.data
        centre = simulation.arrangement.workspace_centre
        # The robot is not among them: contacts with it are checked below.
        standing = {
            body: simulation.arrangement.radius_of(name)
            for name, body in {**simulation.objects, **simulation.fixture_bodies}.items()
            if name not in names
        }
        bodies = {name: simulation.objects[name] for name in names}
        for _ in range(MAX_TRIES):
            state = simulation.state()
            placed = [(data.xpos[body][:2].copy(), radius) for body, radius in standing.items()]
            for name, body in bodies.items():
                radius = simulation.arrangement.radius_of(name)
                position = _free_place(rng, centre, placed, radius)
                if position is None:
                    break
                placed.append((position, radius))
                address = 1 + model.jnt_qposadr[model.body_jntadr[body]]
                state[address : address + 2] = position
                state[address + 2] = simulation.arrangement.height_above_ground(name, position)
            else:
                simulation.reset(state)
                if not simulation.arrangement.overlaps(bodies.values(), depth=0.0):
                    return
        raise ValueError(
            f"there is no free place for {len(names)} distractors in {simulation.task.name} (draw "
            f"{self.draw}): use fewer, or another draw"
        )

    def _shift_regions(self, simulation: Simulation) -> None:
        rng = self.generator(2)
        supports = simulation.arrangement.supports
        roots = {name: _root(name, supports) for name in supports}
        before, poses = simulation.state(), simulation.fixtures
        model = simulation.model
        bodies = {**simulation.objects, **simulation.fixture_bodies}
        for _ in range(MAX_TRIES):
            moves = {
                root: rng.uniform(-self.shift, self.shift, 2)
                for root in sorted(set(roots.values()))
            }
            state, moved = before.copy(), {name: pose.copy() for name, pose in poses.items()}
            for name, root in roots.items():
                body = bodies[name]
                joint = int(model.body_jntadr[body])
                if model.body(body).name in moved:
                    moved[model.body(body).name][:2] += moves[root]
                elif joint >= 0:
                    address = 1 + model.jnt_qposadr[joint]
                    state[address : address + 2] += moves[root]
            simulation.fixtures = moved
            simulation.reset(state)
            groups = {bodies[name]: root for name, root in roots.items()}
            if not simulation.arrangement.overlaps(bodies.values(), depth=DEPTH, groups=groups):
                return
        raise ValueError(
            f"the things of {simulation.task.name} overlap in {MAX_TRIES} shifts of up to "
            f"{self.shift} m (draw {self.draw}): use a smaller shift or another draw"
        )


def _free_place(
    rng: np.random.Generator, centre: Floats, placed: list[tuple[Floats, float]], radius: float
) -> Floats | None:
    """Draws a position that is far enough from all others; None if none was found."""
    for _ in range(MAX_TRIES):
        position: Floats = centre[:2] + rng.uniform(-1, 1, 2) * REACH
        if all(np.linalg.norm(position - at) > radius + other + GAP for at, other in placed):
            return position
    return None


def _root(name: str, supports: dict[str, str | None]) -> str:
    """Returns the thing on the table on which a thing stands, maybe the thing itself."""
    below = supports[name]
    while below is not None:
        name, below = below, supports.get(below)
    return name
