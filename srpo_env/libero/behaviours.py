"""Episodes of many kinds: how the scripted expert succeeds, and how a policy fails.

A world model learns from them, and a reward is judged on them: each episode comes with its video
and its true progress. What a kind leaves open (speed, noise, where and how it fails) is drawn from
the episode's own seed, so that any episode can be made again by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from srpo_env.libero.behaviour_files import BehaviourEpisode
from srpo_env.libero.experts import CLOSE, OPEN, PickAndPlaceExpert
from srpo_env.libero.oracle import STAGES, TrueProgress
from srpo_env.libero.simulation import SETTLE_ACTION, Simulation
from srpo_env.libero.suites import MAX_STEPS

Floats = npt.NDArray[np.float64]
Actions = Iterator[Floats]

HALT = 0.0
"""Gripper command that leaves the fingers where they are; robosuite takes the sign"""

UP = np.array([0.0, 0.0, 1.0])

MAX_NOISE = 0.3
"""Greatest standard deviation of the noise on executed motions, which are in [-1, 1]"""

HIGH = 0.3
"""Height over the floor, in metres, at which an empty hand travels to the basket"""


class Scene:
    """What the kinds of behaviour act in: a running episode and the draws of its seed."""

    def __init__(self, simulation: Simulation, rng: np.random.Generator) -> None:
        """Begins an episode in the state that the simulator is in."""
        self.simulation, self.rng = simulation, rng
        self.expert = PickAndPlaceExpert(simulation)
        self.meter = TrueProgress(simulation)
        self.progress = self.meter.measure()

    @property
    def hand(self) -> Floats:
        """The grip point, in metres, shape ``(3,)``."""
        return self.simulation.grip_position

    @property
    def basket(self) -> Floats:
        """Position of the basket, in metres, shape ``(3,)``."""
        name = self.simulation.objects_of_interest[1]
        position: Floats = self.simulation.data.xpos[self.simulation.objects[name]].copy()
        return position


# --- The kinds: each yields one action per control step, looking at the scene before each ---------


def _expert(scene: Scene) -> Actions:
    while True:
        yield scene.expert.act()


def _high(scene: Scene) -> Actions:
    """Another strategy that succeeds: carries the object high over all else."""
    expert = PickAndPlaceExpert(scene.simulation, clearance=scene.rng.uniform(0.18, 0.22))
    while True:
        yield expert.act()


def _stops_in(stage: str) -> Callable[[Scene], Actions]:
    """Does as the expert does up to a point within a stage, and no more."""
    first = STAGES.index(stage) / len(STAGES)

    def actions(scene: Scene) -> Actions:
        # Short of the stage's end, as a control step may go a good part of the way. Fingers go on
        # for a moment after they are halted.
        limit = first + scene.rng.uniform(0.02, 0.5 if stage == "grasp" else 0.9) / len(STAGES)
        gripper = OPEN
        while scene.progress < limit:
            action = scene.expert.act()
            gripper = action[6]
            yield action
        # Fingers that were about to close stop as well; those that hold something keep it.
        closing = stage == "grasp" and gripper == CLOSE
        wander = stage not in ("grasp", "lower")  # it might get further by accident
        yield from _linger(scene, HALT if closing else gripper, wander=wander)

    return actions


def _drops(scene: Scene) -> Actions:
    """Loses the object while lifting or carrying it, and goes on without, or stays."""
    limit = scene.rng.uniform(0.45, 0.72)
    while scene.progress < limit:
        yield scene.expert.act()
    for _ in range(12):
        yield scene.expert.move_to(scene.hand, OPEN)
    if scene.rng.random() < 0.5:
        yield from _pretend_to_deliver(scene, OPEN)
    yield from _linger(scene, OPEN)


def _misses(scene: Scene) -> Actions:
    """Closes the fingers beside or above the object, and delivers nothing."""
    rng = scene.rng
    grasp = scene.expert.current_grasp()
    place = grasp.position.copy()
    if rng.random() < 0.5:
        angle = rng.uniform(-np.pi, np.pi)
        place[:2] += rng.uniform(0.05, 0.09) * np.array([np.cos(angle), np.sin(angle)])
        place[2] += 0.02  # fingers on the floor would push what stands there
    else:
        top = float(scene.expert.shape.corners()[..., 2].max())
        place[2] = top + rng.uniform(0.025, 0.06)
    yield from _go(scene, place + 0.1 * UP, OPEN, grasp.yaw)
    yield from _go(scene, place, OPEN, grasp.yaw)
    for _ in range(10):
        yield scene.expert.move_to(place, CLOSE, grasp.yaw)
    if rng.random() < 0.7:
        yield from _pretend_to_deliver(scene, CLOSE)
        yield from _linger(scene, OPEN)
    yield from _linger(scene, CLOSE)


def _takes_another(scene: Scene) -> Actions:
    """Delivers an object that nobody asked for."""
    wanted, basket = scene.simulation.objects_of_interest
    others = sorted(set(scene.simulation.objects) - {wanted, basket})
    expert = PickAndPlaceExpert(scene.simulation, target=str(scene.rng.choice(others)))
    while True:
        yield expert.act()


def _moves_at_random(scene: Scene) -> Actions:
    """A random walk of the hand's velocity; now and then the fingers open or close."""
    rng = scene.rng
    middle = np.array([0.0, 0.0, 0.15])  # of what the camera sees
    memory = rng.uniform(0.8, 0.97)  # share of the velocity that is kept in a control step
    velocity, gripper = rng.normal(0.0, 0.6, 6), OPEN
    while True:
        velocity = memory * velocity + np.sqrt(1.0 - memory**2) * rng.normal(0.0, 0.6, 6)
        velocity[:3] += 0.1 * (middle - scene.hand)
        if rng.random() < 0.03:
            gripper = -gripper
        # Little turning: a hand upside down is no failure that a policy shows.
        yield np.array([*velocity[:3], *(0.2 * velocity[3:]), gripper])


# --- Parts of them --------------------------------------------------------------------------------


def _go(scene: Scene, place: Floats, gripper: float, yaw: float | None = None) -> Actions:
    """Moves the hand to a place in metres, or as near as it comes."""
    for _ in range(70):
        if np.linalg.norm(place - scene.hand) < 0.02:
            return
        yield scene.expert.move_to(place, gripper, yaw)


def _pretend_to_deliver(scene: Scene, gripper: float) -> Actions:
    """Carries nothing to the basket and lets go of it."""
    yield from _go(scene, np.array([*scene.hand[:2], HIGH]), gripper)
    yield from _go(scene, np.array([*scene.basket[:2], HIGH]), gripper)
    yield from _go(scene, scene.basket + 0.15 * UP, gripper)
    for _ in range(8):
        yield scene.expert.move_to(scene.hand, OPEN)


def _linger(scene: Scene, gripper: float, *, wander: bool = True) -> Actions:
    """Stays for the rest of the episode: still, or drifting about the place."""
    place, drift = scene.hand.copy(), np.zeros(3)
    size = scene.rng.choice([0.0, 0.02]) if wander else 0.0
    while True:
        drift = 0.95 * drift + np.sqrt(1.0 - 0.95**2) * scene.rng.normal(0.0, size, 3)
        yield scene.expert.move_to(place + drift, gripper)


# --- What they are called -------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """One way in which an episode goes."""

    actions: Callable[[Scene], Actions]
    succeeds: bool
    least_speed: float = 0.5
    """share of the expert's speed that an episode has at least; each draws its own up to 1"""
    max_noise: float = MAX_NOISE / 2
    """noise on executed motions that an episode has at most; each draws its own from 0"""


KINDS: dict[str, Kind] = {
    "expert": Kind(_expert, succeeds=True, least_speed=1.0, max_noise=0.0),
    "noisy": Kind(_expert, succeeds=True, least_speed=1.0, max_noise=MAX_NOISE),
    "slow": Kind(_expert, succeeds=True, least_speed=0.6),
    "high": Kind(_high, succeeds=True, least_speed=0.8),
    **{f"stops_in_{stage}": Kind(_stops_in(stage), succeeds=False) for stage in STAGES},
    "misses": Kind(_misses, succeeds=False, least_speed=0.7),
    "drops": Kind(_drops, succeeds=False, least_speed=0.7),
    "takes_another": Kind(_takes_another, succeeds=False, least_speed=0.8),
    "random": Kind(_moves_at_random, succeeds=False, least_speed=1.0, max_noise=0.0),
}
"""All kinds by name; ``succeeds`` says what the kind is meant to end in"""

SUCCESSES = tuple(name for name, kind in KINDS.items() if kind.succeeds)
FAILURES = tuple(name for name, kind in KINDS.items() if not kind.succeeds)


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

    A kind *means* to succeed or to fail; what came of it, the episode's ``success`` says.

    Args:
        simulation: A task of libero_object.
        kind: A name in ``KINDS``.
        init_state_id: Which of the task's stored initial states to start from.
        seed: Of all that the kind leaves open; with task and initial state, it fixes the episode.
        chunk: Control steps between two frames, as ``LiberoEnv`` has them.
        max_steps: The limit; default: the suite's.
        settle_steps: Control steps without motion before the first frame.

    Raises:
        ValueError: If the task, the kind or the initial state is none of those.
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}, got {kind!r}")
    states = simulation.task.init_states()
    if not 0 <= init_state_id < len(states):
        raise ValueError(f"`init_state_id` must be in 0..{len(states) - 1}, got {init_state_id}")
    simulation.reset(states[init_state_id])
    for _ in range(settle_steps):
        simulation.step(SETTLE_ACTION)

    number = list(KINDS).index(kind)
    rng = np.random.default_rng([seed, simulation.task.task_id, init_state_id, number])
    scene, manner = Scene(simulation, rng), KINDS[kind]
    speed, noise = rng.uniform(manner.least_speed, 1.0), rng.uniform(0.0, manner.max_noise)
    actions = manner.actions(scene)
    frames, progress = [simulation.render("agentview")], [scene.progress]
    success, steps, limit = False, 0, max_steps or MAX_STEPS[simulation.task.suite]
    while not success and steps < limit:
        action = next(actions)
        action[:3] *= speed
        action[:6] += noise * rng.standard_normal(6)
        success = simulation.step(np.clip(action, -1.0, 1.0))
        scene.progress = scene.meter.measure()
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
