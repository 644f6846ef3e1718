import numpy as np
import pytest
import torch

from srpo_env.libero.demos import Demo
from srpo_env.policy.cloning import ClonedFrames
from tests.policy.fakes import INSTRUCTION, make_observations, make_policy


def make_demo(num_steps=10, seed=0, instruction=INSTRUCTION):
    observations = make_observations(num_steps, seed=seed)
    proprio = observations.pop("proprio")
    actions = np.random.default_rng(seed).uniform(-1, 1, (num_steps, 7)).astype(np.float32)
    return Demo(instruction, observations, proprio, actions, f"demo {seed}")


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
    loss, _ = policy.imitation_loss(frames)
    frames.actions[~frames.mask] = 0.7
    assert policy.imitation_loss(frames)[0] == loss


def test_cloning_reproduces_a_demonstration():
    policy = make_policy()
    frames = ClonedFrames.from_demos([make_demo(8)], policy, stride=1)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    for _ in range(100):
        loss, parts = policy.imitation_loss(frames)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert parts["waypoint_error"] < 0.03
    actions = policy.actions(policy.logits(frames.inputs).argmax(dim=-1))
    error = np.abs(actions - frames.actions.numpy())[frames.mask.numpy()]
    assert np.median(error) < 0.05  # a random guess is off by 2/3
