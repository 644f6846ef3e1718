"""Rollouts in which some environments are simulated while the policy decides for the others."""

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from agents.vla_grpo import Args, Rollout, TaskSampler
from srpo_env import PixelEncoder, SelfReferentialProgressWrapper
from srpo_env.libero.env import LiberoEnv
from srpo_env.libero.vector import LiberoVectorEnv
from srpo_env.training.decisions import Decider
from tests.policy.fakes import make_policy

pytestmark = pytest.mark.libero

ARGS = Args(overlap=True, group_size=2, groups_per_iteration=1, max_groups_per_iteration=3)


@pytest.fixture(scope="module")
def policy():
    return make_policy()


def collect(policy, num_workers):
    """Returns the trajectories of a rollout and what goes on after it."""
    libero = LiberoVectorEnv(
        num_envs=4, num_workers=num_workers, image_size=32,
        autoreset_mode=AutoresetMode.DISABLED,
    )  # fmt: skip
    libero.set_attr("max_steps", [8, 16, 24, 24])  # episodes end at different times
    envs = SelfReferentialProgressWrapper(libero, PixelEncoder(), group_size=2)
    decider = Decider(envs, policy, torch.Generator().manual_seed(0), 1.0, ARGS.overlap)
    rollout = Rollout(envs, decider, TaskSampler(2, range(3), seed=0), ARGS)
    batch, control_steps = rollout.collect()
    assert not decider.is_ahead
    running = list(rollout.trajectories.values())
    envs.close()
    return [t for _, trajectories in batch for t in trajectories], running, control_steps


@pytest.fixture(scope="module")
def collected(policy):
    return collect(policy, num_workers=2)


def test_a_rollout_does_not_depend_on_timing(policy, collected):
    # One worker executes in turn what two execute at once.
    for found, expected in zip(collect(policy, num_workers=1), collected, strict=True):
        if isinstance(expected, int):
            assert found == expected
            continue
        assert len(found) == len(expected)
        for trajectory, other in zip(found, expected, strict=True):
            assert (trajectory.task_id, trajectory.init_state_id) == (
                other.task_id,
                other.init_state_id,
            )
            for chunk, same in zip(trajectory.chunks, other.chunks, strict=True):
                torch.testing.assert_close(
                    tuple(chunk), tuple(same), rtol=0, atol=0, equal_nan=True
                )


def test_decisions_are_made_from_the_observations_before_them(policy, collected):
    ended, running, control_steps = collected
    trajectories = [*ended, *running]
    single = LiberoEnv(image_size=32)
    for trajectory in trajectories:
        options = {"task_id": trajectory.task_id, "init_state_id": trajectory.init_state_id}
        observation, info = single.reset(options=options)
        for chunk in trajectory.chunks:
            batch = {name: value[None] for name, value in observation.items()}
            inputs = policy.prepare(batch, [info["task"]])
            for name, value in inputs.items():
                np.testing.assert_array_equal(chunk.inputs[name], value[0])
            expected, _ = policy.log_probs(inputs, chunk.tokens[None])
            torch.testing.assert_close(chunk.log_probs, expected[0].detach())
            assert chunk.mask.all()
            observation, *_ = single.step(policy.actions(chunk.tokens[None])[0])
    num_chunks = sum(len(trajectory.chunks) for trajectory in trajectories)
    assert control_steps == 8 * num_chunks
