import numpy as np
import pytest
import torch

from srpo_env.libero.demos import Demo
from srpo_env.policy.cloning import (
    ClonedFrames,
    augment,
    chunk_targets,
    cloning_loss,
    soft_labels,
    waypoint_targets,
)
from tests.policy.fakes import INSTRUCTION, make_observations, make_policy

OPEN, CLOSE = -1.0, 1.0


def make_demo(num_steps=10, seed=0, instruction=INSTRUCTION):
    observations = make_observations(num_steps, seed=seed)
    proprio = observations.pop("proprio")
    actions = np.random.default_rng(seed).uniform(-1, 1, (num_steps, 7)).astype(np.float32)
    return Demo(instruction, observations, proprio, actions, f"demo {seed}")


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


def test_every_stride_th_frame_of_each_demonstration_is_used():
    policy = make_policy()
    first, second = make_demo(10, seed=0), make_demo(5, seed=1, instruction="put it back")
    frames = ClonedFrames.from_demos([first, second], policy, stride=4)
    assert len(frames) == 3 + 2
    np.testing.assert_array_equal(frames.inputs["wrist"][1], first.images["wrist"][4])
    np.testing.assert_array_equal(frames.actions[1, :6], first.actions[4:10])
    np.testing.assert_array_equal(frames.inputs["proprio"][4], second.proprio[4])
    assert frames.mask.sum(dim=1).tolist() == [8, 6, 2, 5, 1]
    assert frames.demos == {INSTRUCTION: 1, "put it back": 1}


def test_empty_data_is_refused():
    with pytest.raises(ValueError, match="at least one demonstration, got none"):
        ClonedFrames.from_demos([], make_policy(), stride=1)


def test_actions_of_another_robot_are_refused():
    demo = make_demo(10)
    wrong = Demo(INSTRUCTION, demo.images, demo.proprio, demo.actions[:, :6], "six.hdf5")
    with pytest.raises(ValueError, match=r"actions must have 7 entries, .* six.hdf5"):
        ClonedFrames.from_demos([wrong], make_policy(), stride=1)


def test_actions_after_the_end_do_not_change_the_loss():
    policy = make_policy()
    frames = ClonedFrames.from_demos([make_demo(3)], policy, stride=1)
    loss, _ = cloning_loss(policy, frames, label_width=1.5)
    frames.actions[~frames.mask] = 0.7
    assert cloning_loss(policy, frames, label_width=1.5)[0] == loss


def test_cloning_reproduces_a_demonstration():
    policy = make_policy()
    frames = ClonedFrames.from_demos([make_demo(8)], policy, stride=1)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    for _ in range(100):
        loss, parts = cloning_loss(policy, frames, label_width=1.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert parts["waypoint_error"] < 0.03
    actions = policy.actions(policy.logits(frames.inputs).argmax(dim=-1))
    error = np.abs(actions - frames.actions.numpy())[frames.mask.numpy()]
    assert np.median(error) < 0.05  # a random guess is off by 2/3


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
