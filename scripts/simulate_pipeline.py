r"""Predict how busy simulators and learner are, from the times that their parts take.

    python scripts/simulate_pipeline.py check                    # measure here, predict, compare
    python scripts/simulate_pipeline.py predict --num-envs 64 --num-workers 16 \
        --times.decision 0.05 --times.decision-per-env 0.001
    python scripts/simulate_pipeline.py predict ... --overlap

The simulation knows what waits for what in ``agents/vla_grpo.py``: a decision of the policy for all
environments, a chunk in each of them, resets and encoding where episodes end, and an update after
an iteration. Imitation of own successes (``--replay-steps``) is not part of it. It has no noise of
the network and no other load of the machine.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tyro

CHUNK = 8
"""Control steps of a chunk."""


@dataclass(frozen=True)
class Times:
    """Seconds that the parts take; the defaults are those of the page on scale in the docs."""

    chunk: float = 0.020  # one chunk of one environment with its images, on one core
    chunk_spread: float = 0.2  # standard deviation of it, as a fraction
    message: float = 0.0  # sending commands to one worker and receiving its observations
    decision: float = 0.010  # one decision of the policy, without what depends on their number
    decision_per_env: float = 0.002  # what each environment adds to it
    reset: float = 0.030  # starting one episode, on one core
    encoding: float = 0.030  # encoding the video of one episode
    update: float = 0.0  # update, per episode


@dataclass(frozen=True)
class Pipeline:
    """What is simulated."""

    num_envs: int = 32  # number of environments
    num_workers: int = 2  # number of simulator processes
    overlap: bool = False  # half of the environments are simulated while the policy decides
    chunks_per_episode: int = 20  # length of an episode; they end at different times
    episodes: int = 256  # number of episodes that are simulated
    times: Times = field(default_factory=Times)
    seed: int = 0  # random seed of the durations


@dataclass(frozen=True)
class Prediction:
    """How fast a pipeline is, and how busy its parts are."""

    steps_per_second: float
    """control steps of all environments together"""
    simulators: float
    """fraction of the time that the workers compute, in [0, 1]"""
    learner: float
    """fraction of the time that the process with policy and encoder computes, in [0, 1]"""

    def __str__(self) -> str:
        """Returns one line."""
        return (
            f"{self.steps_per_second:.0f} control steps/s, simulators {self.simulators:.0%} busy, "
            f"learner {self.learner:.0%} busy"
        )


def simulate(pipeline: Pipeline) -> Prediction:
    """Simulates a pipeline event by event.

    Without overlap, all environments are one part: the policy decides for it, the workers execute
    it, episodes that have ended are reset and encoded. With overlap, there are two parts, which
    take turns at the learner and queue at the workers.
    """
    times, num_envs = pipeline.times, pipeline.num_envs
    rng = np.random.default_rng(pipeline.seed)
    worker_of = np.arange(num_envs) * pipeline.num_workers // num_envs
    part_of = np.arange(num_envs) % 2 if pipeline.overlap and num_envs > 1 else np.zeros(num_envs)
    parts = [np.flatnonzero(part_of == part) for part in np.unique(part_of)]
    left = rng.integers(1, pipeline.chunks_per_episode + 1, num_envs)  # chunks of each episode
    ready = [0.0] * len(parts)  # when the last chunks of each part were done
    free = np.zeros(pipeline.num_workers)  # when each worker has nothing more to do
    learner_free = learner_busy = workers_busy = 0.0
    chunks = episodes = 0
    while episodes < pipeline.episodes:
        part = int(np.argmin(ready))
        slots = parts[part]
        learner = times.decision + times.decision_per_env * len(slots)
        learner += times.message * len(np.unique(worker_of[slots]))
        ended = slots[left[slots] == 0]
        begin = max(learner_free, ready[part])
        for worker, count in zip(*np.unique(worker_of[ended], return_counts=True), strict=True):
            # Resets come first, after the chunk that the worker executes for the other part.
            waiting = times.chunk / 2 if free[worker] > ready[part] else 0.0
            begin = max(begin, ready[part] + waiting + count * times.reset)
            free[worker] = max(free[worker], ready[part]) + count * times.reset
            workers_busy += count * times.reset
        learner += (times.encoding + times.update) * len(ended)
        episodes += len(ended)
        left[ended] = pipeline.chunks_per_episode
        learner_free = begin + learner
        learner_busy += learner
        done = learner_free
        for slot in slots:
            worker = worker_of[slot]
            seconds = times.chunk * max(0.1, rng.normal(1.0, times.chunk_spread))
            free[worker] = max(free[worker], learner_free) + seconds
            workers_busy += seconds
            done = max(done, float(free[worker]))
        left[slots] -= 1
        ready[part] = done
        chunks += len(slots)
    seconds = max(*ready, learner_free)
    return Prediction(
        CHUNK * chunks / seconds,
        workers_busy / (pipeline.num_workers * seconds),
        learner_busy / seconds,
    )


@dataclass(frozen=True)
class Check:
    """Measures the times of the bundled policy on this machine, and compares with a short run."""

    num_envs: int = 8  # number of environments
    num_workers: int = 1  # number of simulator processes; leave a core to the policy
    steps: int = 40  # number of chunks of each environment
    repeats: int = 3  # measurements of the times and runs, in turn
    overlap: bool = False  # half of the environments are simulated while the policy decides
    max_steps: int = 80  # control steps of an episode


def check(settings: Check) -> list[tuple[Prediction, float]]:
    """Returns predictions and the measured control steps per second, of each repeat."""
    import torch
    from gymnasium.vector import AutoresetMode

    from srpo_env import SelfReferentialProgressWrapper
    from srpo_env.encoders.named import WORLD_MODEL, named_encoder
    from srpo_env.libero.vector import LiberoVectorEnv
    from srpo_env.policy import load_policy
    from srpo_env.training.decisions import Decider

    torch.set_num_threads(1)
    policy, encoder = load_policy("libero-object"), named_encoder(WORLD_MODEL)
    libero = LiberoVectorEnv(
        num_envs=settings.num_envs,
        num_workers=settings.num_workers,
        autoreset_mode=AutoresetMode.DISABLED,
        max_steps=settings.max_steps,
    )
    results = []
    with closing(libero):
        everywhere = {"task_id": 0}
        libero.reset(options=everywhere)  # compiles the task
        for _ in range(settings.repeats):
            times = measured(libero, policy, encoder, settings)
            pipeline = Pipeline(
                settings.num_envs,
                settings.num_workers,
                settings.overlap,
                chunks_per_episode=settings.max_steps // CHUNK,
                episodes=settings.num_envs * settings.steps * CHUNK // settings.max_steps,
                times=times,
            )
            # Without groups that are complete, as many videos are encoded as episodes end.
            envs = SelfReferentialProgressWrapper(libero, encoder, group_size=1)
            generator = torch.Generator().manual_seed(0)
            decider = Decider(envs, policy, generator, 1.0, settings.overlap)
            observations, infos = envs.reset(options=everywhere)
            tasks = [str(task) for task in infos["task"]]
            begin = time.perf_counter()
            steps = 0
            for step in range(settings.steps):
                _, taken = decider.step(observations, tasks, ahead=step < settings.steps - 1)
                observations, _, terminations, truncations, _ = taken
                ended = terminations | truncations
                steps += CHUNK * settings.num_envs
                if ended.any():
                    observations, _ = envs.reset(options={"reset_mask": ended, **everywhere})
            results.append((simulate(pipeline), steps / (time.perf_counter() - begin)))
    return results


def measured(libero: Any, policy: Any, encoder: Any, settings: Check) -> Times:
    """Measures the time of each part alone."""
    rng = np.random.default_rng(0)
    seconds, (observations, infos) = timed(libero.reset, options={"task_id": 0})
    reset = seconds * settings.num_workers / settings.num_envs
    tasks = [str(task) for task in infos["task"]]
    chunks = []
    for _ in range(settings.max_steps // CHUNK - 1):
        actions = rng.uniform(-1, 1, libero.action_space.shape).astype(np.float32)
        seconds, (observations, *_) = timed(libero.step, actions)
        chunks.append(seconds * settings.num_workers / settings.num_envs)

    def decide(count: int) -> None:
        rows = {name: value[:count] for name, value in observations.items()}
        policy.actions(policy.sample(policy.prepare(rows, tasks[:count]))[0])

    decide(settings.num_envs)
    one, every = (
        float(np.median([timed(decide, count)[0] for _ in range(5)]))
        for count in (1, settings.num_envs)
    )
    per_env = max(0.0, every - one) / max(1, settings.num_envs - 1)
    video = np.repeat(observations["agentview"][:1], settings.max_steps // CHUNK + 1, axis=0)
    encoding = float(np.median([timed(encoder.encode, [video])[0] for _ in range(3)]))
    return Times(
        chunk=float(np.median(chunks)),
        chunk_spread=0.0,  # medians of all environments of a worker together
        decision=max(0.0, one - per_env),
        decision_per_env=per_env,
        reset=reset,
        encoding=encoding,
    )


def timed(function: Any, *args: Any, **kwargs: Any) -> tuple[float, Any]:
    """Returns the seconds that a call takes, and its result."""
    begin = time.perf_counter()
    result = function(*args, **kwargs)
    return time.perf_counter() - begin, result


def main() -> None:
    """Predicts, or compares a prediction with a run."""
    settings = tyro.extras.subcommand_cli_from_dict({"predict": Pipeline, "check": Check})
    if isinstance(settings, Pipeline):
        print(simulate(settings))
        return
    results = check(settings)
    for prediction, steps_per_second in results:
        ratio = steps_per_second / prediction.steps_per_second
        print(f"predicted {prediction}; measured {steps_per_second:.0f} ({ratio:.2f} of it)")
    ratios = [measured / prediction.steps_per_second for prediction, measured in results]
    print(f"median ratio {np.median(ratios):.2f}")


if __name__ == "__main__":
    main()
