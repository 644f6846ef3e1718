import numpy as np
import pytest
import torch

from srpo_env.policy.tokens import actions_to_tokens
from srpo_env.training.success_replay import SuccessReplay, hindsight_examples
from srpo_env.training.trajectories import Chunk, Trajectory
from tests.policy.fakes import INSTRUCTION, make_observations, make_policy

OPEN, CLOSE = -1.0, 1.0


def make_trajectory(policy, task_id, grippers, executed=None, seed=0):
    """One decision for each row of gripper actions; the gripper moves 1 cm along x per step."""
    num_chunks, chunk = np.shape(grippers)
    actions = torch.zeros(num_chunks, chunk, 7)
    actions[..., -1] = torch.as_tensor(grippers, dtype=torch.float32)
    actions[..., 0] = seed / 10
    mask = torch.ones(num_chunks, chunk, dtype=torch.bool)
    if executed is not None:
        mask[-1, executed:] = False
    positions = torch.zeros(num_chunks, chunk, 3)
    positions[..., 0] = torch.arange(num_chunks * chunk).view(num_chunks, chunk) / 100
    inputs = policy.prepare(make_observations(num_chunks, seed=seed), [INSTRUCTION] * num_chunks)
    tokens = actions_to_tokens(actions)
    chunks = Chunk(
        inputs, tokens, torch.zeros(tokens.shape), mask.repeat_interleave(7, dim=1), positions,
        torch.full((num_chunks,), torch.nan),
    )  # fmt: skip
    return Trajectory(task_id, 0, [chunks.select(row) for row in range(num_chunks)])


def test_examples_hold_the_actions_and_the_waypoints_that_were_reached():
    policy = make_policy(chunk=4)
    # Closed in steps 7 to 14, so it closed at 7 cm and opened at 15 cm; step 19 was not executed.
    grippers = [[OPEN] * 4, [OPEN] * 3 + [CLOSE], [CLOSE] * 4, [CLOSE] * 3 + [OPEN]]
    grippers += [[OPEN, OPEN, OPEN, CLOSE]]
    trajectory = make_trajectory(policy, 0, grippers, executed=3)
    examples = hindsight_examples([(trajectory, 1), (trajectory, 3), (trajectory, 4)], policy)
    torch.testing.assert_close(examples.actions[0, :, -1], torch.tensor(grippers[1]))
    assert examples.mask.tolist() == [[True] * 4, [True] * 4, [True, True, True, False]]
    torch.testing.assert_close(examples.waypoints[:2, :, 0], torch.tensor([[0.07, 0.15]] * 2))
    assert examples.inputs["wrist"][1].equal(trajectory.chunks[3].inputs["wrist"])


def test_gripper_actions_that_are_too_short_are_neither_imitated_nor_waypoints():
    policy = make_policy(chunk=4)
    # Closed from step 7 to 26, but for two steps; for one step at the start.
    gripper = np.full(32, OPEN)
    gripper[7:27], gripper[[16, 17]], gripper[1] = CLOSE, OPEN, CLOSE
    trajectory = make_trajectory(policy, 0, gripper.reshape(8, 4))
    examples = hindsight_examples([(trajectory, row) for row in range(8)], policy)
    steady = np.full(32, OPEN)
    steady[7:27] = CLOSE
    np.testing.assert_array_equal(examples.actions[..., -1].flatten(), steady)
    torch.testing.assert_close(examples.waypoints[:7, :, 0], torch.tensor([[0.07, 0.27]] * 7))


def test_only_the_newest_successes_of_a_task_are_kept():
    policy, replay = make_policy(chunk=4), SuccessReplay(num_tasks=2, capacity=2)
    for seed in range(4):
        replay.add(make_trajectory(policy, 0, [[OPEN] * 4], seed=seed))
    assert len(replay) == 2
    examples = replay.examples(policy, [1.0, 1.0], 64, torch.Generator().manual_seed(0))
    drawn = (examples.actions[:, 0, 0] * 10).round().int()
    assert set(drawn.tolist()) == {2, 3}


def test_tasks_are_drawn_by_their_weights():
    policy, replay = make_policy(chunk=4), SuccessReplay(num_tasks=3)
    for task in (0, 1):
        replay.add(make_trajectory(policy, task, [[OPEN] * 4], seed=task))
    # The third task weighs most, but has no success.
    examples = replay.examples(policy, [0.75, 0.25, 9.0], 400, torch.Generator().manual_seed(0))
    share = (examples.actions[:, 0, 0] > 0.05).float().mean()
    assert share == pytest.approx(0.25, abs=0.07)


def test_nothing_to_imitate_is_an_error():
    policy, replay = make_policy(chunk=4), SuccessReplay(num_tasks=2)
    replay.add(make_trajectory(policy, 0, [[OPEN] * 4]))
    with pytest.raises(ValueError, match="positive weight"):
        replay.examples(policy, [0.0, 1.0], 4, torch.Generator())


class RecordingOptimizer(torch.optim.SGD):
    """Records the learning rate of each step; at one of them, training is interrupted."""

    def __init__(self, parameters, lr, interrupt_at=None):
        super().__init__(parameters, lr)
        self.rates, self.interrupt_at = [], interrupt_at

    def step(self):
        if len(self.rates) == self.interrupt_at:
            raise KeyboardInterrupt
        self.rates.append(self.param_groups[0]["lr"])
        return super().step()


def imitate(optimizer_settings, success_rates, max_steps):
    policy, replay = make_policy(chunk=4), SuccessReplay(num_tasks=2)
    replay.add(make_trajectory(policy, 0, [[OPEN] * 4, [CLOSE] * 4]))
    optimizer = RecordingOptimizer(policy.parameters(), lr=0.1, **optimizer_settings)
    generator = torch.Generator().manual_seed(0)
    try:
        metrics = replay.imitate(policy, optimizer, success_rates, max_steps, generator)
    except KeyboardInterrupt:
        metrics = None
    return optimizer, metrics


def test_learning_rate_falls_to_zero_and_is_restored():
    # Half of the episodes succeed, so half of the eight gradient steps are taken.
    optimizer, metrics = imitate({}, [0.25, 0.75], max_steps=8)
    assert metrics["charts/replay_steps"] == 4
    assert optimizer.rates == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_learning_rate_is_restored_when_imitation_is_interrupted():
    optimizer, metrics = imitate({"interrupt_at": 2}, [0.0, 0.0], max_steps=4)
    assert metrics is None
    assert len(optimizer.rates) == 2
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_state_survives_a_round_trip():
    policy, replay = make_policy(chunk=4), SuccessReplay(num_tasks=2)
    for task in (1, 0, 1):
        replay.add(make_trajectory(policy, task, [[OPEN] * 4, [CLOSE] * 4], seed=task))
    other = SuccessReplay(num_tasks=2)
    other.load_state_dict(replay.state_dict())
    batches = [
        r.examples(policy, [1.0, 1.0], 16, torch.Generator().manual_seed(0))
        for r in (replay, other)
    ]
    assert batches[0].actions.equal(batches[1].actions)
    assert batches[0].waypoints.equal(batches[1].waypoints)
