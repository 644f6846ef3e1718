"""Where frames, success flags and keys are found, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from srpo_env.vector.infos import FrameSource, KeySource, info_of, plain, success_of

IMAGE = spaces.Box(0, 255, (2, 3, 3), np.uint8)
STATE = spaces.Box(-1, 1, (4,), np.float32)


def envs_of(space, **attributes):
    """A vector environment of which only the spaces and the modes are asked for."""
    envs = VectorEnv()
    envs.num_envs = 2
    envs.single_observation_space = space
    envs.observation_space = batch_space(space, 2)
    envs.metadata = {"autoreset_mode": attributes.pop("mode", AutoresetMode.NEXT_STEP)}
    for name, value in attributes.items():
        setattr(envs, name, value)
    return envs


# --- Frames ---


@pytest.mark.parametrize(
    ("space", "path"),
    [
        (spaces.Dict(agentview=IMAGE, wrist=IMAGE, proprio=STATE), "agentview"),
        (spaces.Dict(pixels=spaces.Dict(image=IMAGE, image2=IMAGE)), "pixels/image"),
        (spaces.Dict(agentview_image=IMAGE, robot0_eye_in_hand_image=IMAGE), "agentview_image"),
        (spaces.Dict(pixels=IMAGE, state=STATE), "pixels"),
        (spaces.Dict(front=IMAGE, state=STATE), "front"),
        (IMAGE, ""),
    ],
    ids=["libero", "lerobot", "robosuite", "add-render-observation", "only-image", "box"],
)
def test_the_third_person_camera_is_found(space, path):
    source = FrameSource(envs_of(space), None)
    assert source.path == path
    observations = envs_of(space).observation_space.sample()
    batch, single = observations, {} if path else observations[1]
    if path:
        for name in path.split("/"):
            batch = batch[name]
        for name in reversed(path.split("/")):
            single = {name: single or batch[1]}
    np.testing.assert_array_equal(source.batch(observations, {})(1), batch[1])
    np.testing.assert_array_equal(source.single(single, {}), batch[1])


@pytest.mark.parametrize(
    ("space", "frames", "message"),
    [
        (spaces.Dict(left=IMAGE, right=IMAGE), None, r"\['left', 'right'\].*frames=\"left\""),
        (STATE, None, 'frames="render"'),
        (spaces.Box(0, 1, (2, 3, 3), np.float32), None, "No camera image"),
        (spaces.Box(0, 255, (84, 84, 4), np.uint8), None, "No camera image"),
        (spaces.Dict(wrist=IMAGE), "agentview", r"has? ?.*\['wrist'\]"),
        (spaces.Dict(state=STATE, wrist=IMAGE), "state", "must name a uint8 Box"),
        (IMAGE, "render", 'render_mode="rgb_array", got None'),
    ],
)
def test_no_camera_or_an_ambiguous_one_is_an_error_that_says_what_to_pass(space, frames, message):
    with pytest.raises(ValueError, match=message):
        FrameSource(envs_of(space), frames)


def test_rendering_after_a_same_step_reset_would_show_the_next_episode():
    envs = envs_of(STATE, mode=AutoresetMode.SAME_STEP, render_mode="rgb_array")
    with pytest.raises(ValueError, match=r"cannot see an episode's last frame .*RenderInInfo"):
        FrameSource(envs, "render")


def test_a_callable_makes_the_image_of_one_sub_environment():
    space = spaces.Dict(chw=spaces.Box(0, 255, (3, 4, 5), np.uint8))
    source = FrameSource(envs_of(space), lambda observation: observation["chw"].transpose(1, 2, 0))
    observations = envs_of(space).observation_space.sample()
    expected = observations["chw"][1].transpose(1, 2, 0)
    np.testing.assert_array_equal(source.batch(observations, {})(1), expected)


@pytest.mark.parametrize("frame", [np.zeros((2, 2, 3)), np.zeros((2, 2), np.uint8), None])
def test_what_a_callable_returns_must_be_an_rgb_image(frame):
    with pytest.raises(ValueError, match=r"uint8 array of shape \(height, width, 3\)"):
        FrameSource(envs_of(STATE), lambda _: frame).single(np.zeros(4), {})


def test_frames_can_be_in_the_info():
    source = FrameSource(envs_of(STATE), "info/camera/front")
    images = np.arange(2 * 2 * 3 * 3, dtype=np.uint8).reshape(2, 2, 3, 3)
    infos = {"camera": {"front": images, "_front": np.array([True, True])}}
    np.testing.assert_array_equal(source.batch(np.zeros((2, 4)), infos)(1), images[1])
    single = {"camera": {"front": images[0]}}
    np.testing.assert_array_equal(source.single(np.zeros(4), single), images[0])


def test_an_info_without_the_image_is_an_error_that_says_what_it_has():
    source = FrameSource(envs_of(STATE), "info/camera")
    infos = {"camera": np.zeros((2, 2, 3, 3), np.uint8), "_camera": np.array([True, False])}
    source.batch(np.zeros((2, 4)), infos)(0)
    with pytest.raises(ValueError, match=r"every reset and every step, .* info with \[\]"):
        source.batch(np.zeros((2, 4)), infos)(1)


def test_what_says_where_things_are_must_be_of_its_kind():
    with pytest.raises(TypeError, match="path, a callable or None, got 3"):
        FrameSource(envs_of(IMAGE), 3)
    with pytest.raises(TypeError, match=r"`group_key` must be a callable .*, got 'task_id'"):
        KeySource("task_id", None)
    with pytest.raises(TypeError, match="`task_key` must be a callable"):
        KeySource(None, 7)


# --- Success ---


@pytest.mark.parametrize("value", [True, np.bool_(True), 1, 1.0, np.float32(1), np.array([1])])
@pytest.mark.parametrize("name", ["is_success", "success"])
def test_a_success_flag_is_found_by_convention(name, value):
    assert success_of({name: value, "other": 3}, False, None) is True
    assert success_of({name: 0 * np.asarray(value)}, True, None) is False


def test_a_success_flag_can_be_named_computed_or_be_the_termination():
    info = {"done": {"goal": True}, "height": 0.7}
    assert success_of(info, False, "done/goal") is True
    assert success_of(info, False, lambda info: info["height"] > 0.8) is False
    assert success_of(info, True, "terminated") is True
    assert success_of(info, False, "terminated") is False


@pytest.mark.parametrize(
    ("info", "success", "message"),
    [
        ({"reward_run": 1.0}, None, r"\['reward_run'\]; pass `success`"),
        ({"is_success": 0.7}, None, "0 or 1, got 0.7"),
        ({"is_success": np.array([True, False])}, None, "single bool"),
        ({"is_success": True, "success": False}, None, "disagree"),
        ({"is_success": True}, "solved", "'solved'"),
        ({}, lambda info: None, r"`success\(info\)`"),
    ],
)
def test_a_success_flag_is_never_guessed(info, success, message):
    with pytest.raises(ValueError, match=message):
        success_of(info, True, success)


# --- Infos and keys ---


def test_the_info_of_one_sub_environment_is_what_its_masks_say():
    infos = {
        "task_id": np.array([3, 0]),
        "_task_id": np.array([True, False]),
        "episode": {"l": np.array([4, 5]), "_l": np.array([True, True])},
        "_episode": np.array([True, True]),
        "unmasked": [7, 8],
        "_private": [1, 2],
    }
    assert info_of(infos, 0) == {"task_id": 3, "episode": {"l": 4}, "unmasked": 7, "_private": 1}
    assert info_of(infos, 1) == {"episode": {"l": 5}, "unmasked": 8, "_private": 2}


@pytest.mark.parametrize(
    ("info", "key"),
    [
        ({"task_id": 3, "init_state_id": 7, "task": "pick"}, (3, 7)),
        ({"task": "pick up the soup", "is_success": False}, ("pick up the soup", None)),
        ({"task_id": 3}, (3, None)),
        ({"is_success": False, "task": {"not": "a name"}}, (None, None)),
    ],
)
def test_episodes_are_grouped_by_what_the_reset_tells_of_task_and_state(info, key):
    assert KeySource(None, None).at_start(info) == (key, key[0])


def test_keys_are_plain_data():
    key = plain((np.int64(3), np.str_("pick"), (np.array([2]), None)))
    assert key == (3, "pick", (2, None))
    assert [type(part) for part in key] == [int, str, tuple]
    with pytest.raises(TypeError, match="must return int"):
        plain([1, 2])
