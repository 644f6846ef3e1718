"""Composes the skills that reach a task's goal from its goal predicates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from srpo_env.libero.experts.basket import PickAndPlaceExpert
from srpo_env.libero.experts.drawers import PullOpen, PushClosed
from srpo_env.libero.experts.hand import OPEN, Hand
from srpo_env.libero.experts.knobs import TurnOn
from srpo_env.libero.experts.meters import Meter
from srpo_env.libero.experts.pick_place import PickPlace
from srpo_env.libero.experts.places import OnObject, Region
from srpo_env.libero.experts.scene import Scene
from srpo_env.libero.experts.sideways import InsertSideways
from srpo_env.libero.experts.sliding import Slide
from srpo_env.libero.simulation import Simulation
from srpo_env.types import Floats

Predicate = tuple[str, ...]
"""A goal predicate of LIBERO with its arguments."""

ORDER = ("turnon", "open", "on", "in", "close")
"""Stoves are turned on first, and containers are closed last."""

SLOTS = {"in": 0.03, "on": 0.045}
"""Distance of each of two objects from the center of their region, in metres."""


class Expert(Protocol):
    """Chooses actions from the simulator's current state."""

    def act(self) -> Floats:
        """Returns the action for the simulator's current state, shape ``(7,)``, in [-1, 1]."""
        ...


class Skill(Expert, Protocol):
    """Reaches one predicate."""

    def done(self) -> bool:
        """Returns whether the predicate holds and the hand has left what it moved."""
        ...

    def prepared(self) -> bool:
        """Returns whether the predicate holds, wherever the hand is."""
        ...

    def meter(self) -> Meter:
        """Returns a meter of the skill's progress that starts in the current state."""
        ...


@dataclass(frozen=True)
class Part:
    """One predicate of a task's goal."""

    predicate: Predicate
    skills: tuple[Skill, ...]
    """The skills that reach it, in their order."""
    after: tuple[Predicate, ...] = ()
    """Predicates of the goal that must hold before: a container is closed last."""


class SkillExpert:
    """Runs skills in their order; one that is undone later is done again."""

    def __init__(self, hand: Hand, skills: Sequence[Skill]) -> None:
        """Stores the skills."""
        self.skills = tuple(skills)
        self._hand = hand

    def act(self) -> Floats:
        """Returns the action of the first skill that is not done."""
        for skill in self.skills:
            if not skill.done():
                return skill.act()
        return self._hand.move_to(self._hand.sense()[0], OPEN)


def make_expert(simulation: Simulation) -> Expert:
    """Returns the expert of a task, for one episode that starts in the current state.

    Raises:
        ValueError: If no skill reaches one of the goal's predicates.
    """
    if simulation.task.suite == "libero_object":
        return PickAndPlaceExpert(simulation)
    skills = [skill for part in parts_of(simulation) for skill in part.skills]
    return SkillExpert(Hand(simulation), skills)


def parts_of(simulation: Simulation) -> list[Part]:
    """Returns the parts of a task's goal, in the order in which the expert reaches them.

    Raises:
        ValueError: If no skill reaches one of the goal's predicates.
    """
    scene, hand = Scene(simulation), Hand(simulation)

    def order(predicate: Predicate) -> tuple[int, float]:
        # A tall object at its place would be in the way of the hand that puts a low one beside it.
        height = scene.height(predicate[1]) if predicate[1] in scene.bodies else 0.0
        return (ORDER.index(predicate[0]) if predicate[0] in ORDER else 0), height

    return [
        Part(predicate, tuple(_skills(scene, hand, predicate)), _before(scene, predicate))
        for predicate in sorted(simulation.goal, key=order)
    ]


def _before(scene: Scene, predicate: Predicate) -> tuple[Predicate, ...]:
    if predicate[0] != "close":
        return ()
    inside = [other for other in scene.simulation.goal if other[0] == "in"]
    container = scene.simulation.fixture_of(predicate[1])
    return tuple(p for p in inside if scene.simulation.fixture_of(p[2]) == container)


def _skills(scene: Scene, hand: Hand, predicate: Predicate) -> list[Skill]:
    kind, *names = predicate
    simulation = scene.simulation
    if kind == "turnon":
        return [TurnOn(scene, hand, predicate)]
    if kind == "open" and simulation.can_open(names[0]):
        return [PullOpen(scene, hand, predicate)]
    if kind == "close":
        return [PushClosed(scene, hand, predicate)]
    if kind == "on" and names[0] in scene.bodies and names[0].startswith("plate"):
        return [Slide(scene, hand, predicate)]
    if kind == "on" and names[0] in scene.bodies and names[1] in scene.bodies:
        return [PickPlace(scene, hand, predicate, OnObject(scene, names[1]))]
    if kind == "in" and simulation.fixture_of(names[1]).startswith("microwave"):
        return [InsertSideways(scene, hand, predicate)]
    if kind in SLOTS and names[0] in scene.bodies:
        together = [p for p in simulation.goal if p[0] == kind and p[2] == names[1]]
        slot = 0.0
        if len(together) > 1:
            slot = SLOTS[kind] * (-1.0 if together[0] == predicate else 1.0)
        region = Region(scene, names[1], names[0], inside=kind == "in", slot=slot)
        skills: list[Skill] = [PickPlace(scene, hand, predicate, region)]
        if kind == "in" and simulation.can_open(names[1]):
            skills.insert(0, PullOpen(scene, hand, ("open", names[1]), predicate, region))
        return skills
    raise ValueError(
        f"the goal predicates of a task must be among those that the experts' skills reach, got "
        f"{' '.join(predicate)} in {simulation.task.name}"
    )
