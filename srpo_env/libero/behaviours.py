"""Plays behaviours: episodes in which a scripted hand succeeds or fails in many ways.

World models are trained and rewards are evaluated on them: each episode has its video and its
oracle progress. Its speed, its noise, and where and how it fails depend on its own seed only, so
that each episode can be replayed separately.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from srpo_env.libero.basket_progress import STAGES
from srpo_env.libero.behaviour_files import BehaviourEpisode
from srpo_env.libero.experts import CLOSE, OPEN, PickAndPlaceExpert, make_expert
from srpo_env.libero.experts.hand import HALT, Hand
from srpo_env.libero.experts.pick_place import PickPlace
from srpo_env.libero.experts.sideways import InsertSideways
from srpo_env.libero.experts.tasks import SkillExpert
from srpo_env.libero.grasps import Shape
from srpo_env.libero.oracle import OracleProgress
from srpo_env.libero.simulation import SETTLE_ACTION, Simulation
from srpo_env.libero.suites import MAX_STEPS
from srpo_env.types import Floats

Actions = Iterator[Floats]

OBJECT_SUITE = "libero_object"
"""The suite that has all kinds."""

UP = np.array([0.0, 0.0, 1.0])

MAX_NOISE = 0.3
"""Largest standard deviation of the noise on executed motions, which are in [-1, 1]."""

HIGH = 0.3
"""Height above the floor, in metres, at which an empty hand moves to the basket."""


class Scene:
    """A running episode and the random generator of its seed."""

    def __init__(self, simulation: Simulation, rng: np.random.Generator) -> None:
        """Starts an episode in the simulator's current state."""
        self.simulation, self.rng = simulation, rng
        self.expert = make_expert(simulation)
        self.gripper = Hand(simulation)
        self.oracle = OracleProgress(simulation)
        self.progress = self.oracle.measure()
        bodies = simulation.objects.values()
        self._geoms = np.concatenate(
            [Shape(simulation.model, simulation.data, body).geoms for body in bodies]
        )

    @property
    def hand(self) -> Floats:
        """Position of the grip point in metres, shape ``(3,)``."""
        return self.simulation.grip_position

    @property
    def holds_an_object(self) -> bool:
        """Whether both fingers touch movable objects."""
        return self.gripper.holds(self._geoms)

    @property
    def picker(self) -> PickAndPlaceExpert:
        """The expert of libero_object."""
        assert isinstance(self.expert, PickAndPlaceExpert)
        return self.expert

    @property
    def basket(self) -> Floats:
        """Position of the basket in metres, shape ``(3,)``."""
        name = self.simulation.objects_of_interest[1]
        position: Floats = self.simulation.data.xpos[self.simulation.objects[name]].copy()
        return position


# --- Kinds: generators that yield one action per control step, from the scene's current state ---


def _expert(scene: Scene) -> Actions:
    while True:
        yield scene.expert.act()


def _high(scene: Scene) -> Actions:
    """Succeeds in another way: carries the object high above everything else."""
    expert = PickAndPlaceExpert(scene.simulation, clearance=scene.rng.uniform(0.18, 0.22))
    while True:
        yield expert.act()


def _stops_in(stage: str) -> Callable[[Scene], Actions]:
    """Returns a kind that acts like the expert up to a random point of a stage, then stops."""
    first = STAGES.index(stage) / len(STAGES)

    def actions(scene: Scene) -> Actions:
        # Before the stage's end, because a control step can cover a large part of it, and fingers
        # keep moving for a moment after they are halted.
        limit = first + scene.rng.uniform(0.02, 0.5 if stage == "grasp" else 0.9) / len(STAGES)
        gripper = OPEN
        while scene.progress < limit:
            action = scene.expert.act()
            gripper = action[6]
            yield action
        # Closing fingers stop, too. Fingers that hold something keep it.
        closing = stage == "grasp" and gripper == CLOSE
        wander = stage not in ("grasp", "lower")  # it could make progress by accident
        yield from _linger(scene, HALT if closing else gripper, wander=wander)

    return actions


def _drops(scene: Scene) -> Actions:
    """Drops the object while lifting or carrying it; continues without it, or stays.

    Where the task moves several objects, it is a random one of them; a drawer, a door or a knob is
    left half-way.
    """
    limit, held = scene.rng.uniform(0.45, 0.72), True
    if isinstance(scene.expert, SkillExpert):
        num_parts = scene.oracle.num_parts
        limit = (scene.rng.integers(num_parts) + limit) / num_parts
        held = not any(isinstance(s, PickPlace | InsertSideways) for s in scene.expert.skills)
    while scene.progress < limit or not (held or scene.holds_an_object):
        yield scene.expert.act()
    for _ in range(12):
        yield scene.gripper.move_to(scene.hand, OPEN)
    if scene.rng.random() < 0.5 and isinstance(scene.expert, PickAndPlaceExpert):
        yield from _pretend_to_deliver(scene, OPEN)
    yield from _linger(scene, OPEN)


def _misses(scene: Scene) -> Actions:
    """Closes the fingers beside or above the object, and goes to the basket without it."""
    rng = scene.rng
    grasp = scene.picker.current_grasp()
    place = grasp.position.copy()
    if rng.random() < 0.5:
        angle = rng.uniform(-np.pi, np.pi)
        place[:2] += rng.uniform(0.05, 0.09) * np.array([np.cos(angle), np.sin(angle)])
        place[2] += 0.02  # fingers at floor level would push other objects
    else:
        top = float(scene.picker.shape.corners()[..., 2].max())
        place[2] = top + rng.uniform(0.025, 0.06)
    yield from _go(scene, place + 0.1 * UP, OPEN, grasp.yaw)
    yield from _go(scene, place, OPEN, grasp.yaw)
    for _ in range(10):
        yield scene.gripper.move_to(place, CLOSE, grasp.yaw)
    if rng.random() < 0.7:
        yield from _pretend_to_deliver(scene, CLOSE)
        yield from _linger(scene, OPEN)
    yield from _linger(scene, CLOSE)


def _takes_another(scene: Scene) -> Actions:
    """Delivers another object than the task's."""
    wanted, basket = scene.simulation.objects_of_interest
    others = sorted(set(scene.simulation.objects) - {wanted, basket})
    expert = PickAndPlaceExpert(scene.simulation, target=str(scene.rng.choice(others)))
    while True:
        yield expert.act()


def _moves_at_random(scene: Scene) -> Actions:
    """Moves with a velocity that is a random walk; the fingers open or close at random times."""
    rng = scene.rng
    middle = np.array([0.0, 0.0, 0.15])  # of the camera's view
    if scene.simulation.task.suite != OBJECT_SUITE:
        middle = scene.hand + np.array([0.1, 0.0, -0.15])
    memory = rng.uniform(0.8, 0.97)  # share of the velocity that is kept per control step
    velocity, gripper = rng.normal(0.0, 0.6, 6), OPEN
    while True:
        velocity = memory * velocity + np.sqrt(1.0 - memory**2) * rng.normal(0.0, 0.6, 6)
        velocity[:3] += 0.1 * (middle - scene.hand)
        if rng.random() < 0.03:
            gripper = -gripper
        # Small rotations only: policies do not turn the hand upside down.
        yield np.array([*velocity[:3], *(0.2 * velocity[3:]), gripper])


# --- Parts of kinds -------------------------------------------------------------------------------


def _go(scene: Scene, place: Floats, gripper: float, yaw: float | None = None) -> Actions:
    """Moves the hand to a position in metres; stops after a limited number of steps."""
    for _ in range(70):
        if np.linalg.norm(place - scene.hand) < 0.02:
            return
        yield scene.gripper.move_to(place, gripper, yaw)


def _pretend_to_deliver(scene: Scene, gripper: float) -> Actions:
    """Moves to the basket without an object, and opens the fingers there."""
    yield from _go(scene, np.array([*scene.hand[:2], HIGH]), gripper)
    yield from _go(scene, np.array([*scene.basket[:2], HIGH]), gripper)
    yield from _go(scene, scene.basket + 0.15 * UP, gripper)
    for _ in range(8):
        yield scene.gripper.move_to(scene.hand, OPEN)


def _linger(scene: Scene, gripper: float, *, wander: bool = True) -> Actions:
    """Stays for the rest of the episode: without motion, or drifting around the position."""
    place, drift = scene.hand.copy(), np.zeros(3)
    size = scene.rng.choice([0.0, 0.02]) if wander else 0.0
    while True:
        drift = 0.95 * drift + np.sqrt(1.0 - 0.95**2) * scene.rng.normal(0.0, size, 3)
        yield scene.gripper.move_to(place + drift, gripper)


# --- Names ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """One kind of behaviour."""

    actions: Callable[[Scene], Actions]
    succeeds: bool
    """Whether episodes of this kind are intended to succeed."""
    min_speed: float = 0.5
    """Minimum speed of an episode, relative to the expert's; drawn from [min_speed, 1]."""
    max_noise: float = MAX_NOISE / 2
    """Maximum noise on an episode's executed motions; drawn from [0, max_noise]."""
    any_suite: bool = True
    """Whether all suites have it, not only libero_object."""
    varies: bool = True
    """Whether its episodes from one initial state differ by their seed."""
    instead: str | None = None
    """Kind that is recorded where no episode of this kind ends as intended."""


KINDS: dict[str, Kind] = {
    "expert": Kind(
        _expert, succeeds=True, min_speed=1.0, max_noise=0.0, varies=False, instead="noisy"
    ),
    "noisy": Kind(_expert, succeeds=True, min_speed=1.0, max_noise=MAX_NOISE),
    "slow": Kind(_expert, succeeds=True, min_speed=0.6),
    "high": Kind(_high, succeeds=True, min_speed=0.8, any_suite=False),
    **{f"stops_in_{stage}": Kind(_stops_in(stage), succeeds=False) for stage in STAGES[:-1]},
    # An object that has reached its place from above can be at its goal at once.
    "stops_in_lower": Kind(_stops_in("lower"), succeeds=False, instead="stops_in_carry"),
    "misses": Kind(_misses, succeeds=False, min_speed=0.7, any_suite=False),
    "drops": Kind(_drops, succeeds=False, min_speed=0.7),
    "takes_another": Kind(_takes_another, succeeds=False, min_speed=0.8, any_suite=False),
    "random": Kind(_moves_at_random, succeeds=False, min_speed=1.0, max_noise=0.0),
}
"""All kinds by name."""

SUCCESSES = tuple(name for name, kind in KINDS.items() if kind.succeeds)
FAILURES = tuple(name for name, kind in KINDS.items() if not kind.succeeds)


def kinds_of(suite: str) -> tuple[str, ...]:
    """Returns the names of the kinds that a suite has."""
    is_object = suite == OBJECT_SUITE
    return tuple(name for name, kind in KINDS.items() if is_object or kind.any_suite)


def play(
    simulation: Simulation,
    kind: str,
    init_state_id: int,
    seed: int,
    *,
    chunk: int = 8,
    max_steps: int | None = None,
    settle_steps: int = 10,
) -> BehaviourEpisode:
    """Plays one episode up to success or the limit of control steps.

    A kind is only *intended* to succeed or to fail; the episode's ``success`` is the result.

    Args:
        simulation: A task that the experts solve.
        kind: A name in ``KINDS``, of a kind that the suite has.
        init_state_id: Stored initial state of the task to start from.
        seed: Random seed; together with task, kind and initial state, it determines the episode.
        chunk: Control steps between two frames, as in ``LiberoEnv``.
        max_steps: Limit of control steps; default: the suite's.
        settle_steps: Control steps without motion before the first frame.

    Raises:
        ValueError: If the experts do not solve the task, or there is no such kind or initial
            state.
    """
    kinds = kinds_of(simulation.task.suite)
    if kind not in kinds:
        raise ValueError(
            f"`kind` must be one of {', '.join(kinds)} in {simulation.task.suite}, got {kind!r}"
        )
    states = simulation.task.init_states()
    if not 0 <= init_state_id < len(states):
        raise ValueError(f"`init_state_id` must be in 0..{len(states) - 1}, got {init_state_id}")
    simulation.reset(states[init_state_id])
    for _ in range(settle_steps):
        simulation.step(SETTLE_ACTION)

    number = list(KINDS).index(kind)
    rng = np.random.default_rng([seed, simulation.task.task_id, init_state_id, number])
    scene, behaviour = Scene(simulation, rng), KINDS[kind]
    speed = rng.uniform(behaviour.min_speed, 1.0)
    noise = rng.uniform(0.0, behaviour.max_noise)
    actions = behaviour.actions(scene)
    frames, progress = [simulation.render("agentview")], [scene.progress]
    success, steps, limit = False, 0, max_steps or MAX_STEPS[simulation.task.suite]
    while not success and steps < limit:
        action = next(actions)
        action[:3] *= speed
        action[:6] += noise * rng.standard_normal(6)
        success = simulation.step(np.clip(action, -1.0, 1.0))
        scene.progress = scene.oracle.measure()
        steps += 1
        if success or steps == limit or steps % chunk == 0:
            frames.append(simulation.render("agentview"))
            progress.append(scene.progress)
    return BehaviourEpisode(
        simulation.task.task_id,
        init_state_id,
        kind,
        seed,
        success,
        steps,
        np.stack(frames),
        np.array(progress),
    )
