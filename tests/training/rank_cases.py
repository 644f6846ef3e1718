"""What the processes of the tests of several ranks compute, and how they are started."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from agents.vla_grpo import Args, main, update
from srpo_env import Episode, Group, SelfReferentialProgressWrapper
from srpo_env.training.checkpoint import load_training, newest_checkpoint
from srpo_env.training.distributed import Ranks
from srpo_env.training.held_out import HeldOutEvaluation
from srpo_env.training.run import TrainingRun
from srpo_env.training.settings import RunSettings
from srpo_env.training.shared_groups import share_groups
from srpo_env.training.task_sampler import TaskSampler
from srpo_env.training.trajectories import Chunk, Trajectory
from srpo_env.training.trust_region import TrustRegion
from tests.agents.toy_suite import registered_toy, toy_args
from tests.corridor import STAY, WALK, PathEncoder, make_corridor
from tests.faults.child_runs import CONTEXT
from tests.policy.fakes import INSTRUCTION, make_observations, make_policy

LATENT_SHAPE = (3, 2)

UPDATES = {
    "episode": {"credit": "episode"},
    "dense": {"credit": "dense", "reward": "binary"},
    "kl to the initial policy": {"credit": "episode", "kl_coef": 0.3},
    "target": {"credit": "episode", "target_kl": 0.03},
}
"""Settings of the updates that are compared, by name."""


# --- What is computed ---


def make_batch(policy, successes, seed):
    """One group for each row of successes; episodes of one to three decisions."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    batch = []
    for number, row in enumerate(successes):
        trajectories = []
        for _ in row:
            length = int(rng.integers(1, 4))
            observations = make_observations(length, seed=int(rng.integers(1000)))
            inputs = policy.prepare(observations, [INSTRUCTION] * length)
            tokens, log_probs = policy.sample(inputs)
            mask = torch.ones_like(tokens, dtype=torch.bool)
            mask[-1, 28:] = False  # the last chunk was not executed as a whole
            measured = torch.zeros(length, 8, 3), torch.rand(length)
            chunks = Chunk(inputs, tokens, log_probs, mask, *measured)
            trajectory = Trajectory(number % 2, 0, [chunks.select(n) for n in range(length)])
            trajectories.append(trajectory)
        batch.append((make_group(row, number % 2, rng), trajectories))
    return batch


def make_group(successes, task, rng):
    episodes = tuple(
        Episode(
            episode_id=index, env_index=index, first_step=0, last_step=3, success=success,
            env_return=float(success), last_env_reward=float(success), distance=0.1,
            progress_reward=1.0 if success else float(rng.uniform(0.1, 0.7)), nearest_center=0,
            latent=rng.normal(size=LATENT_SHAPE).astype(np.float32),
            potential=np.array([0.0, 0.5, 1.0]), potential_steps=np.array([0, 2, 4]),
        )
        for index, success in enumerate(successes)
    )  # fmt: skip
    return Group((task, 0), task, episodes, np.zeros((1, *LATENT_SHAPE)), 1, 0)


OUTCOMES = (
    [[True, False, False], [False, True, False, True]],  # of the first rank
    [[True, True], [False, False, True]],  # of the second one; its first group has no signal
)


def batches():
    """Returns the batch of each of two ranks."""
    policy = make_policy()
    return [make_batch(policy, rows, seed) for seed, rows in enumerate(OUTCOMES)]


def updated(name, batch, ranks=None):
    """Returns the metrics of an update and the policy after it."""
    policy, reference = make_policy(), make_policy(seed=1)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, eps=1e-5, weight_decay=0.0)
    settings = {"update_epochs": 2, "minibatch_size": 4, "target_kl": 1e9, **UPDATES[name]}
    args = Args(**settings)
    region = TrustRegion(policy, optimizer, args.target_kl, 1e-3, ranks)
    generator = torch.Generator().manual_seed(ranks.seed(5) if ranks else 5)
    metrics = update(policy, reference if args.kl_coef else None, region, batch, args, generator)
    return metrics, {key: value.clone() for key, value in policy.state_dict().items()}


WALKS = [
    [STAY, WALK, STAY, STAY],
    [STAY, WALK, STAY, STAY],
    [WALK, STAY, WALK, STAY],
    [STAY, STAY, WALK, WALK],
    [STAY, STAY, WALK, STAY],
]
"""Actions of four corridors, the first two of the first rank. Only the third one succeeds, in the
last step, in which the others are truncated."""


def played(reference, slots):
    """Returns a wrapper around some of the corridors, and its closed groups."""
    envs = SelfReferentialProgressWrapper(
        make_corridor(len(slots), mode=AutoresetMode.DISABLED), PathEncoder(3),
        group_size=2, reference=reference,
    )  # fmt: skip
    envs.reset(seed=0)
    for actions in np.array(WALKS)[:, slots]:
        envs.step(actions)
    envs.close_groups()
    return envs, envs.pop_groups()


def described(groups):
    """Everything about groups but the ids of their episodes."""
    return [
        (group.num_clusters, group.num_singles, episode.progress_reward, episode.distance,
         episode.nearest_center, episode.potential.tolist())
        for group in groups for episode in group.episodes
    ]  # fmt: skip


def shared(ranks, reference):
    """Returns what a rank knows after the exchange of groups."""
    envs, groups = played(reference, [2 * ranks.rank, 2 * ranks.rank + 1])
    sampler = TaskSampler(2, range(3), seed=0)
    sampler.success_rates = [[0.0, 1.0], [0.5, 0.5]][ranks.rank]
    batch, every = share_groups(ranks, envs, sampler, [(g, []) for g in groups], "srpo")
    envs.reset(seed=0)
    for actions in np.array(WALKS)[:, [1, 0]]:
        rewards = envs.step(actions)[1]  # with the memory reference, those of failures, too
    return {
        "own": described([group for group, _ in batch]), "all": described(every),
        "rates": sampler.success_rates, "next": rewards.tolist(),
    }  # fmt: skip


class Counter:
    """A part of a run with one number."""

    def __init__(self, value):
        self.value = value

    def state_dict(self):
        return {"value": self.value, "array": np.full(2, self.value)}

    def load_state_dict(self, state):
        self.value = state["value"]
        np.testing.assert_array_equal(state["array"], self.value)


# --- The processes ---


def compute(folder):
    """Computes all cases in one of two processes, and writes the results of the rank."""
    ranks = Ranks.join()
    own = batches()[ranks.rank]
    results = {"updates": {name: updated(name, own, ranks) for name in UPDATES}}
    results["groups"] = {name: shared(ranks, name) for name in ("group", "task", "memory")}
    results["seeds"] = [ranks.seed(3), ranks.seed(4)]
    results["sum"] = ranks.sum(0.1, ranks.rank)
    settings = RunSettings(run_dir=folder / "runs")
    mine = {"counter": Counter(10 + ranks.rank)}
    with TrainingRun("test", "name", settings, {}, own_parts=mine, ranks=ranks) as run:
        run.count(iteration=1)
        run.write({"losses/surrogate": 0.5})
        run.save()
        mine["counter"].value = 0
        load_training(newest_checkpoint(run.folder), run._parts)
        results |= {"counter": mine["counter"].value, "records": len(run.log.records)}
        torch.save(results, folder / f"results{ranks.rank}.pt")


def die(folder):
    """The second rank ends in the middle of a run, while the first one waits for it."""
    ranks = Ranks.join()
    with TrainingRun("test", "name", RunSettings(run_dir=folder), {}, ranks=ranks) as run:
        run.save()
        if not ranks.is_first:
            os._exit(7)
        ranks.sum(1.0)


def toy_run(folder, evaluates=True, **settings):
    """Trains the agent on the toy suite.

    An evaluation drops the episodes that are running; without any, some run at a checkpoint.
    """
    if not evaluates:
        HeldOutEvaluation.is_due = lambda self, run: False
    with registered_toy():
        main(toy_args(folder, **settings))


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    exit_code: int
    output: str
    errors: str


def run_ranks(function, *arguments, size=2, **settings):
    """Calls a function of a module in several processes that are ranks, and waits for their end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1"}
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for rank in range(size):
            variables = {**common, "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank}
            call = (function, arguments, settings, variables, Path(folder) / str(rank))
            processes.append(CONTEXT.Process(target=_rank, args=call))
            processes[-1].start()
        try:
            for process in processes:
                process.join(timeout=240)
                assert process.exitcode is not None, "a rank hangs"
        finally:
            for process in processes:
                process.kill()
        texts = [
            [Path(f"{folder}/{rank}.{stream}").read_text() for stream in ("out", "err")]
            for rank in range(size)
        ]
    return [Ended(process.exitcode, *text) for process, text in zip(processes, texts, strict=True)]


def _rank(function, arguments, settings, variables, output):
    for descriptor, end in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(f"{output}{end}", os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.update({name: str(value) for name, value in variables.items()})
    torch.set_num_threads(1)
    function(*arguments, **settings)


if __name__ == "__main__":
    toy_run(Path(sys.argv[1]), iterations=1, eval_every=9)
