import numpy as np
import pytest
import torch

from srpo_env.policy import Policy
from srpo_env.policy.imitation import (
    Examples,
    augment,
    chunk_targets,
    soft_labels,
    waypoint_targets,
)
from tests.policy.fakes import INSTRUCTION, make_observations, make_policy

OPEN, CLOSE = -1.0, 1.0


def along_x(num_steps):
    return np.arange(num_steps)[:, None] * np.array([1.0, 0.0, 0.0])


def test_chunk_holds_the_actions_from_its_frame_on():
    actions = np.arange(1.0, 6.0)[:, None]
    chunks, mask = chunk_targets(actions, np.array([0, 3]), chunk=3)
    assert chunks[..., 0].tolist() == [[1, 2, 3], [4, 5, 0]]
    assert mask.tolist() == [[True, True, True], [True, True, False]]


def test_waypoints_are_where_the_gripper_closes_and_then_opens():
    gripper = np.array([OPEN, OPEN, CLOSE, CLOSE, OPEN, OPEN])
    waypoints = waypoint_targets(gripper, along_x(6))
    assert waypoints.shape == (6, 2, 3)
    assert waypoints[:4, 0, 0].tolist() == [2, 2, 2, 2]  # before and while it is closed
    assert waypoints[:4, 1, 0].tolist() == [4, 4, 4, 4]


def test_waypoints_after_a_lost_grasp_are_those_of_the_next():
    gripper = np.array([OPEN, CLOSE, OPEN, CLOSE, CLOSE, OPEN])
    waypoints = waypoint_targets(gripper, along_x(6))
    assert waypoints[:, 0, 0].tolist() == [1, 1, 3, 3, 3, 5]
    assert waypoints[:, 1, 0].tolist() == [2, 2, 5, 5, 5, 5]


def test_missing_grasp_and_release_are_at_the_end():
    assert waypoint_targets(np.full(3, OPEN), along_x(3))[:, :, 0].tolist() == [[2, 2]] * 3
    assert waypoint_targets(np.full(3, CLOSE), along_x(3))[:, :, 0].tolist() == [[0, 2]] * 3


def test_soft_label_is_a_normal_distribution_around_its_bin():
    label = soft_labels(torch.tensor([[128.0]]), width=1.5)[0, 0]
    assert label.sum() == pytest.approx(1)
    assert label.argmax() == 128
    offsets = torch.arange(256) - 128
    assert (label * offsets).sum() == pytest.approx(0, abs=1e-4)
    assert (label * offsets**2).sum() == pytest.approx(1.5**2, rel=1e-3)


def test_augmentation_changes_only_the_images():
    policy = make_policy()
    inputs = policy.prepare(make_observations(16), [INSTRUCTION] * 16)
    changed = augment(inputs, torch.Generator().manual_seed(0), shift=2, jitter=0.3)
    for name in ("proprio", "instruction"):
        assert changed[name].equal(inputs[name])
    for name in ("agentview", "wrist"):
        assert changed[name].shape == inputs[name].shape
        assert changed[name].min() >= 0
        assert changed[name].max() <= 255
        assert not torch.equal(changed[name], inputs[name].float())


def test_augmentation_of_size_zero_changes_nothing():
    policy = make_policy()
    inputs = policy.prepare(make_observations(2), [INSTRUCTION] * 2)
    changed = augment(inputs, torch.Generator().manual_seed(0), shift=0, jitter=0.0)
    torch.testing.assert_close(changed["wrist"], inputs["wrist"].float(), atol=1e-4, rtol=0)


def test_shift_is_the_same_for_all_pixels_and_bounded():
    image = torch.zeros(32, 32, 32, 3, dtype=torch.uint8)
    image[:, 16, 16] = 255
    inputs = {"agentview": image, "wrist": image}
    changed = augment(inputs, torch.Generator().manual_seed(0), shift=2, jitter=0.0)["agentview"]
    where = changed[..., 0].nonzero()
    assert len(where) == 32  # one bright pixel each
    offsets = where[:, 1:] - 16
    assert offsets.abs().max() == 2
    assert len(offsets.unique(dim=0)) > 10


def make_examples(num_examples, seed=0):
    policy = make_policy()
    inputs = policy.prepare(
        make_observations(num_examples, seed=seed), [INSTRUCTION] * num_examples
    )
    actions = torch.rand(num_examples, 8, 7, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    mask = torch.ones(num_examples, 8, dtype=torch.bool)
    return Examples(inputs, actions, mask, torch.zeros(num_examples, 2, 3))


def test_selected_and_joined_examples_are_the_same_rows():
    examples = make_examples(5)
    parts = [examples.select([0, 1]), examples.select([2, 3, 4])]
    joined = Examples.concatenate(parts)
    assert len(joined) == 5
    assert joined.actions.equal(examples.actions)
    assert all(joined.inputs[name].equal(value) for name, value in examples.inputs.items())


def test_small_policy_also_learns_its_waypoints():
    policy, examples = make_policy(), make_examples(2)
    loss, parts = policy.imitation_loss(examples)
    tokens_only, _ = Policy.imitation_loss(policy, examples)
    assert loss.item() == pytest.approx(tokens_only.item() + 20 * parts["waypoint_error"].item())
