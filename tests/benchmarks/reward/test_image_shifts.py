from __future__ import annotations

import numpy as np
import pytest

from srpo_env.benchmarks.reward.image_shifts import SHIFTS, shift_of
from srpo_env.libero.perturbations import Camera, Layout, Light, Noise


def video(seed=0, size=64):
    frames = np.random.default_rng(seed).integers(60, 120, (3, size // 8, size // 8, 3), np.uint8)
    return frames.repeat(8, axis=1).repeat(8, axis=2)


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_changes_every_frame_and_keeps_shape_and_type(name):
    before = video()
    after = shift_of(name, 0)(before)
    assert after.shape == before.shape
    assert after.dtype == np.uint8
    assert all((a != b).any() for a, b in zip(after, before, strict=True))
    np.testing.assert_array_equal(before, video())  # not shifted in place


@pytest.mark.parametrize("name", SHIFTS)
def test_the_shift_is_fixed_by_the_task(name):
    first, again = (shift_of(name, 3)(video()) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    others = [shift_of(name, task_id)(video()) for task_id in range(4, 8)]
    assert any((first != other).any() for other in others)


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_is_equal_for_all_frames(name):
    shift, frame = shift_of(name, 1), video()[:1]
    np.testing.assert_array_equal(shift(np.repeat(frame, 3, axis=0)), np.repeat(shift(frame), 3, 0))


@pytest.mark.parametrize("task_id", range(10))
def test_a_turned_image_has_no_empty_corner(task_id):
    assert shift_of("camera", task_id)(np.full((1, 64, 64, 3), 200, np.uint8)).min() == 200


def test_light_multiplies_every_colour_by_its_factor():
    gray = np.full((4, 4, 3), 100, np.uint8)
    for draw in range(10):
        gains = Light(gain=1.5, tint=0.1, draw=draw).recorded_filter(4)(gray)[0, 0] / 100
        gain = 1.5 if gains.mean() > 1 else 1 / 1.5
        assert (np.abs(gains / gain - 1) <= 0.1 + 0.01).all()
    means = {
        Light(gain=1.5, draw=draw).recorded_filter(4)(gray)[0, 0, 0].item() for draw in range(10)
    }
    assert means == {67, 150}


@pytest.mark.parametrize(
    ("perturbation", "message"),
    [
        (Camera(azimuth=10, draw=0), "of Camera, only turns can be applied"),
        (Camera(distance=2, draw=0), "of Camera, only turns can be applied"),
        (Light(tilt=3, draw=0), "of Light, only gain and tint can be applied"),
        (Layout(shift=0.1, draw=0), "cannot be applied to recorded images: it needs the simulator"),
        (Noise(draw=0), "cannot be applied to recorded images"),
    ],
)
def test_what_needs_the_simulator_is_refused(perturbation, message):
    with pytest.raises(ValueError, match=message):
        perturbation.recorded_filter(64)


@pytest.mark.libero
@pytest.mark.parametrize("turn", [(8.0, 0.0), (0.0, -6.0), (-5.0, 5.0)])
def test_a_turned_recording_is_what_a_turned_camera_sees(turn):
    from srpo_env.libero.env import LiberoEnv

    env = LiberoEnv("libero_object", cameras=["agentview"], image_size=96)
    view = Camera(view=(0.0, 0.0, 1.0, *turn), draw=0)
    options = {"task_id": 0, "init_state_id": 0}
    recorded = env.reset(options={**options, "perturbation": None})[0]["agentview"]
    rendered = env.reset(options={**options, "perturbation": view})[0]["agentview"].astype(float)
    computed = view.recorded_filter(96)(recorded)
    inside = slice(24, 72)  # what both images show
    error = np.abs(computed - rendered)[inside, inside].mean()
    unturned = np.abs(recorded - rendered)[inside, inside].mean()
    assert error < unturned / 3
    env.close()
