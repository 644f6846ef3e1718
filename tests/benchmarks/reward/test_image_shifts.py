from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("PIL")

from srpo_env.benchmarks.reward.image_shifts import (
    MAX_DIMMING,
    MAX_TINT,
    NOISE,
    SHIFTS,
    camera,
    light,
    noise,
)


def video(seed=0, size=64):
    return np.random.default_rng(seed).integers(60, 120, (5, size, size, 3), np.uint8)


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_changes_every_frame_and_keeps_shape_and_type(name):
    before = video()
    after = SHIFTS[name](0)(before)
    assert after.shape == before.shape
    assert after.dtype == np.uint8
    assert all((a != b).any() for a, b in zip(after, before, strict=True))
    np.testing.assert_array_equal(before, video())  # not shifted in place


@pytest.mark.parametrize("name", SHIFTS)
def test_the_shift_is_fixed_by_the_task(name):
    first, again, other = (SHIFTS[name](task_id)(video()) for task_id in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("make", [camera, light])
def test_camera_and_light_are_equal_for_all_frames(make):
    shift, frame = make(1), video()[:1]
    np.testing.assert_array_equal(shift(np.repeat(frame, 3, axis=0)), np.repeat(shift(frame), 3, 0))


@pytest.mark.parametrize("task_id", range(10))
def test_the_rotated_image_has_no_empty_corner(task_id):
    assert camera(task_id)(np.full((1, 64, 64, 3), 200, np.uint8)).min() == 200


def test_the_camera_magnifies():
    frames = np.zeros((1, 128, 128, 3), np.uint8)
    frames[:, 54:74, 54:74] = 255
    assert 1.15**2 < camera(0)(frames).mean() / frames.mean() < 1.25**2


@pytest.mark.parametrize("task_id", range(10))
def test_light_changes_brightness_within_its_limits(task_id):
    gray = np.full((1, 4, 4, 3), 100, np.uint8)
    gains = light(task_id)(gray)[0, 0, 0] / 100
    overall = gains.mean() - 1
    assert abs(overall) <= (1 + MAX_DIMMING) * (1 + MAX_TINT) - 1
    assert np.abs(gains - 1).max() > MAX_DIMMING / 2 - MAX_TINT * 1.2


def test_noise_has_its_deviation_and_is_independent_between_frames():
    gray = np.full((2, 64, 64, 3), 128, np.uint8)
    first, second = noise(0)(gray).astype(float) - 128
    assert first.std() == pytest.approx(255 * NOISE, rel=0.05)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05
