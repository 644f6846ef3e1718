"""Records episodes of a policy, with groups of several episodes per initial state as in training.

Their failures are harder to rank than scripted ones, which follow the expert until they stop.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from srpo_env.benchmarks.reward.latents import save_states, states_file
from srpo_env.benchmarks.reward.simulator_states import state_of
from srpo_env.libero.assets import resolve_assets
from srpo_env.libero.behaviour_files import BehaviourEpisode, writing_behaviours
from srpo_env.libero.behaviour_recording import SUITE
from srpo_env.libero.demos import recording_settings
from srpo_env.libero.look import DEFAULT_LOOK, Look
from srpo_env.libero.oracle import OracleProgress
from srpo_env.libero.simulation import CAMERAS, SETTLE_ACTION, Simulation
from srpo_env.libero.suites import get_task
from srpo_env.libero.visuals import Visuals, check_visuals
from srpo_env.policy import Policy, load_policy
from srpo_env.policy.checkpoint import resolve_checkpoint
from srpo_env.system.files import sha256_of
from srpo_env.types import Floats

KIND = "policy"
"""Kind of these episodes."""

SETTLE_STEPS = 10


@dataclass(frozen=True)
class PolicyRecording:
    """Settings of a recording, for each task."""

    policy: str = "libero-object"
    """Path of a checkpoint, or name of a bundled one."""
    temperature: float = 1.0
    """Sampling temperature of the actions, as in training."""
    per_state: int = 8
    """Number of episodes per initial state, which form a group."""
    init_states: tuple[int, ...] = tuple(range(40, 50))
    max_steps: int = 160
    """Number of control steps after which a failure is truncated, as in training."""
    image_size: int = 128
    visuals: Visuals | None = None
    look: Look = DEFAULT_LOOK
    seed: int = 0


def record_policy(
    task_id: int,
    folder: Path,
    recording: PolicyRecording,
    *,
    suite: str = SUITE,
    progress: Callable[[BehaviourEpisode], object] | None = None,
) -> Path:
    """Records a policy in one task; in libero_object with simulator states.

    An existing file that was recorded with the same settings is kept.

    Args:
        task_id: The task, in LIBERO's order.
        folder: Folder of the file; created if it does not exist.
        recording: Settings of the recording.
        suite: One of LIBERO's suites whose tasks the oracle measures.
        progress: Called with each recorded episode.

    Returns:
        Path of the file.

    Raises:
        FileExistsError: If the file exists and was recorded with other settings.
        FileNotFoundError: If the policy does not exist.
    """
    task, assets = get_task(suite, task_id), resolve_assets().kind
    path = folder / f"{task.name}_{assets}.hdf5"
    weights = resolve_checkpoint(recording.policy)
    settings: dict[str, Any] = {
        **asdict(recording),
        "init_states": list(recording.init_states),
        "visuals": check_visuals(recording.visuals),
        "weights": sha256_of(weights.with_name(f"{weights.name}.safetensors")),
        "assets": assets,
        "mujoco": importlib.metadata.version("mujoco"),
    }
    if path.exists():
        if recording_settings(path) == settings:
            return path
        raise FileExistsError(
            f"{str(path)!r} exists and was recorded with other settings: choose another folder, or "
            "remove it"
        )
    policy = load_policy(recording.policy)
    simulation = Simulation(task, recording.image_size, recording.visuals, look=recording.look)
    states_of_episodes = []
    try:
        with writing_behaviours(path, settings) as write:
            for init_state_id in recording.init_states:
                for number in range(recording.per_state):
                    seed = recording.seed + number
                    episode, states = play_policy(
                        simulation, policy, init_state_id, seed, recording
                    )
                    write(episode)
                    states_of_episodes.append(states)
                    if progress is not None:
                        progress(episode)
            # Written before the file is renamed, so that a complete file always has its states.
            if task.suite == SUITE:
                save_states(states_file(path), states_of_episodes)
    finally:
        simulation.close()
    return path


def play_policy(
    simulation: Simulation,
    policy: Policy,
    init_state_id: int,
    seed: int,
    recording: PolicyRecording,
) -> tuple[BehaviourEpisode, Floats]:
    """Plays one episode of a policy, until success or the step limit.

    Args:
        simulation: A task that the oracle measures.
        policy: The policy.
        init_state_id: Index of the stored initial state to start from.
        seed: Random seed of the sampled actions.
        recording: Temperature and step limit.

    Returns:
        The episode, with a frame after each chunk of actions, and the states at the times of its
        frames, ``(num_frames, 7)``; in other suites than libero_object ``(0,)``.
    """
    task = simulation.task
    simulation.reset(task.init_states()[init_state_id])
    for _ in range(SETTLE_STEPS):
        simulation.step(SETTLE_ACTION)
    drawn = np.random.default_rng([seed, task.task_id, init_state_id]).integers(2**31)
    generator = torch.Generator().manual_seed(int(drawn))
    meter = OracleProgress(simulation)
    now = meter.measure()
    frames, progress, states = [], [], []
    success, steps = False, 0
    while True:
        images: dict[str, npt.NDArray[Any]] = {name: simulation.render(name) for name in CAMERAS}
        frames.append(images["agentview"])
        progress.append(now)
        if task.suite == SUITE:
            states.append(state_of(simulation))
        if success or steps >= recording.max_steps:
            break
        observation = {name: image[None] for name, image in images.items()}
        observation["proprio"] = simulation.proprio()[None]
        inputs = policy.prepare(observation, [task.instruction])
        tokens, _ = policy.sample(inputs, recording.temperature, generator)
        for action in policy.actions(tokens)[0].astype(np.float64):
            success = simulation.step(action)
            now = meter.measure()
            steps += 1
            if success or steps >= recording.max_steps:
                break
    episode = BehaviourEpisode(
        task.task_id,
        init_state_id,
        KIND,
        seed,
        success,
        steps,
        np.stack(frames),
        np.array(progress),
    )
    return episode, np.array(states)
