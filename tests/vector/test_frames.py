"""Sources of frames, invalid sources, and videos of bounded length."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from hypothesis import given
from hypothesis import strategies as st

from srpo_env.vector.frames import FrameRecorder, FrameSource, reduced

IMAGE = spaces.Box(0, 255, (2, 3, 3), np.uint8)
STATE = spaces.Box(-1, 1, (4,), np.float32)


def envs_of(space, **attributes):
    """A vector environment with spaces and modes only."""
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
def test_third_person_camera_is_found(space, path):
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
def test_missing_or_ambiguous_camera_raises_and_names_the_fix(space, frames, message):
    with pytest.raises(ValueError, match=message):
        FrameSource(envs_of(space), frames)


def test_frames_by_render_raise_with_same_step():
    envs = envs_of(STATE, mode=AutoresetMode.SAME_STEP, render_mode="rgb_array")
    with pytest.raises(ValueError, match=r"cannot see an episode's last frame .*RenderInInfo"):
        FrameSource(envs, "render")


def test_callable_gets_the_observation_of_one_sub_environment():
    space = spaces.Dict(chw=spaces.Box(0, 255, (3, 4, 5), np.uint8))
    source = FrameSource(envs_of(space), lambda observation: observation["chw"].transpose(1, 2, 0))
    observations = envs_of(space).observation_space.sample()
    expected = observations["chw"][1].transpose(1, 2, 0)
    np.testing.assert_array_equal(source.batch(observations, {})(1), expected)


@pytest.mark.parametrize("frame", [np.zeros((2, 2, 3)), np.zeros((2, 2), np.uint8), None])
def test_callable_must_return_an_rgb_image(frame):
    with pytest.raises(ValueError, match=r"uint8 array or tensor of shape \(height, width, 3\)"):
        FrameSource(envs_of(STATE), lambda _: frame).single(np.zeros(4), {})


def test_frames_can_be_in_the_info():
    source = FrameSource(envs_of(STATE), "info/camera/front")
    images = np.arange(2 * 2 * 3 * 3, dtype=np.uint8).reshape(2, 2, 3, 3)
    infos = {"camera": {"front": images, "_front": np.array([True, True])}}
    np.testing.assert_array_equal(source.batch(np.zeros((2, 4)), infos)(1), images[1])
    single = {"camera": {"front": images[0]}}
    np.testing.assert_array_equal(source.single(np.zeros(4), single), images[0])


def test_info_without_the_image_raises_and_lists_its_keys():
    source = FrameSource(envs_of(STATE), "info/camera")
    infos = {"camera": np.zeros((2, 2, 3, 3), np.uint8), "_camera": np.array([True, False])}
    source.batch(np.zeros((2, 4)), infos)(0)
    with pytest.raises(ValueError, match=r"every reset and every step, .* info with \[\]"):
        source.batch(np.zeros((2, 4)), infos)(1)


@pytest.mark.parametrize(
    ("shape", "max_size", "expected"),
    [((128, 128), 64, (64, 64)), ((128, 96), 64, (64, 48)), ((100, 100), 64, (50, 50)),
     ((99, 50), 40, (33, 16)), ((64, 64), 64, (64, 64)), ((200, 1), 10, (10, 1))],
)  # fmt: skip
def test_large_frames_are_reduced_by_a_whole_factor(shape, max_size, expected):
    frame = np.arange(np.prod(shape) * 3, dtype=np.uint64).astype(np.uint8).reshape(*shape, 3)
    assert reduced(frame, max_size).shape == (*expected, 3)


def test_reduced_pixel_is_the_mean_of_its_block():
    frame = np.zeros((4, 4, 3), np.uint8)
    frame[:2, 2:] = [[[0], [100]], [[200], [100]]]
    np.testing.assert_array_equal(reduced(frame, 2)[..., 0], [[0, 100], [0, 0]])


def test_frames_must_be_a_path_a_callable_or_none():
    with pytest.raises(TypeError, match="path, a callable or None, got 3"):
        FrameSource(envs_of(IMAGE), 3)


# --- Recorder ---


def record(max_frames, num_frames):
    """Records frames whose pixels hold their time; returns the times of the video."""
    recorder = FrameRecorder(max_frames)
    for time in range(num_frames - 1):
        recorder.add(np.full((1, 1, 3), time))
        assert len(recorder.kept) < 2 * max_frames
    return recorder, recorder.video(np.full((1, 1, 3), num_frames - 1))[:, 0, 0, 0]


def test_all_frames_of_a_short_episode_are_kept():
    assert record(8, 5)[1].tolist() == [0, 1, 2, 3, 4]
    assert record(8, 1)[1].tolist() == [0]


def test_frames_of_a_long_episode_are_evenly_spaced_from_first_to_last():
    # 4 of 10 frames: indices 0, 3, 6, 9. The stride is 2 at the end, so 3 is rounded to 4.
    assert record(4, 10)[1].tolist() == [0, 4, 6, 9]
    assert record(2, 1000)[1].tolist() == [0, 999]


@given(max_frames=st.integers(2, 9), num_frames=st.integers(1, 300))
def test_frames_are_distinct_ordered_and_nearly_evenly_spaced(max_frames, num_frames):
    recorder, times = record(max_frames, num_frames)
    assert len(times) == min(max_frames, num_frames)
    assert (times[0], times[-1]) == (0, num_frames - 1)
    assert (np.diff(times) > 0).all()
    even = np.linspace(0, num_frames - 1, len(times))
    assert np.abs(times - even.round()).max() <= recorder.stride / 2
    # The stride is below the even spacing, and a frame is at most half a stride off.
    if num_frames > max_frames:
        assert recorder.stride <= (num_frames - 1) / (max_frames - 1)


@pytest.mark.parametrize("num_frames", [50, 50_000])
def test_memory_does_not_grow_with_the_length_of_the_episode(num_frames):
    recorder, times = record(64, num_frames)
    assert len(times) == min(num_frames, 64)
    assert len(recorder.kept) < 128


def test_kept_frames_are_copies():
    recorder = FrameRecorder(2)
    frame = np.zeros((1, 1, 3), np.uint8)
    recorder.add(frame)
    frame += 9
    assert recorder.video(frame)[:, 0, 0, 0].tolist() == [0, 9]


def test_max_frames_must_be_at_least_two():
    with pytest.raises(ValueError, match="at least 2, got 1"):
        FrameRecorder(1)
