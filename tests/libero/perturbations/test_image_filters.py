"""Blur, fog and glass: laws that each kind has to obey."""

import numpy as np
import pytest
from scipy import ndimage

from srpo_env.libero.perturbations.image_filters import (
    FILTERS,
    fog,
    frosted_glass,
    gaussian_blur,
    motion_blur,
    plasma,
    zoom_blur,
)
from srpo_env.libero.perturbations.noise import KINDS, Noise

SIZE = 64


def scene(size=SIZE, seed=0):
    """Smooth shapes with edges, as in a rendered image."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random((size, size, 3)), (4, 4, 0))
    return (255 * (noise > np.median(noise))).astype(np.uint8)


def made(kind, severity, seed=0, size=SIZE):
    return FILTERS[kind](severity, size, np.random.default_rng(seed))


@pytest.mark.parametrize("severity", [1, 5, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_returns_an_image_and_does_not_change_its_input(kind, severity):
    image = scene(128)
    filtered = made(kind, severity, size=128)(image)
    assert (filtered.shape, filtered.dtype) == (image.shape, np.uint8)
    np.testing.assert_array_equal(image, scene(128))
    assert (filtered != image).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_is_fixed_by_its_seed_and_does_not_depend_on_earlier_images(kind):
    first, again = made(kind, 4), made(kind, 4)
    expected = first(scene())
    again(scene(seed=1))
    np.testing.assert_array_equal(again(scene()), expected)


@pytest.mark.parametrize("kind", ["motion", "gaussian", "zoom", "glass"])
@pytest.mark.parametrize("severity", range(1, 11))
def test_a_uniform_image_is_not_blurred(kind, severity):
    gray = np.full((SIZE, SIZE, 3), [10, 120, 240], np.uint8)
    np.testing.assert_allclose(made(kind, severity)(gray).astype(int), gray, atol=1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_change_grows_with_the_severity(kind):
    image = scene(128).astype(float)
    changes = [
        np.abs(made(kind, severity, size=128)(scene(128)) - image).mean()
        for severity in range(1, 11)
    ]
    # Glass draws another structure at each severity, and repeats it fewer times from 4 on.
    slack = 5.0 if kind == "glass" else 1.0
    assert (np.diff(changes) > -slack).all()
    assert changes[-1] > 1.5 * changes[0]


def test_a_gaussian_blur_is_scipys():
    image = scene()
    expected = ndimage.gaussian_filter(
        image.astype(float), (1.25, 1.25, 0), mode="nearest", truncate=4.0
    )
    blurred = gaussian_blur(5, SIZE, np.random.default_rng(0))(image)  # 5 px of 256
    np.testing.assert_allclose(blurred, expected, atol=0.6)


def test_a_motion_blur_spreads_a_point_along_a_line():
    image = np.zeros((128, 128, 3), np.uint8)
    image[64, 64] = 255
    rows, columns = np.nonzero(motion_blur(10, 128, np.random.default_rng(3))(image)[..., 0])
    assert len(rows) > 8
    slope = np.polyfit(columns, rows, 1)
    assert np.abs(np.polyval(slope, columns) - rows).max() <= 1
    assert abs(slope[0]) <= 1.1  # at most 45 degrees


def test_a_zoom_blur_keeps_the_middle_and_blurs_the_border():
    image = scene(128)
    change = np.abs(zoom_blur(5, 128, np.random.default_rng(0))(image) - image.astype(float))
    assert change[60:68, 60:68].mean() < change[:16].mean() / 3


def test_a_zoom_blur_equals_the_mean_of_magnified_images():
    image = scene(32)
    expected = np.zeros(image.shape)
    middle = (32 - 1) / 2
    for zoom in np.linspace(1, 1.55, 12):
        at = middle + (np.arange(32) - middle) / zoom
        rows, columns = np.meshgrid(at, at, indexing="ij")
        for channel in range(3):
            expected[..., channel] += (
                ndimage.map_coordinates(image[..., channel].astype(float), [rows, columns], order=1)
                / 12
            )
    blurred = zoom_blur(10, 32, np.random.default_rng(0))(image)
    np.testing.assert_allclose(blurred, expected, atol=0.6)


def test_fog_follows_its_equation():
    image = scene()
    clouds = plasma(SIZE, 2.5, np.random.default_rng(5))[..., None]
    values = image / 255
    expected = np.clip((values + 1.5 * clouds) * values.max() / (values.max() + 1.5), 0, 1)
    fogged = fog(3, SIZE, np.random.default_rng(5))(image)
    np.testing.assert_allclose(fogged, 255 * expected, atol=0.6)


@pytest.mark.parametrize("size", [32, 100, 128])
def test_a_cloud_covers_the_range_from_0_to_1(size):
    cloud = plasma(size, 2.0, np.random.default_rng(1))
    assert (cloud.min(), cloud.max(), cloud.shape) == (0.0, 1.0, (size, size))


def test_glass_moves_no_pixel_further_than_its_reach():
    # Severity 10: 2.5 px of blur and 5 px of displacement, once, of 256.
    image = np.zeros((256, 256, 3), np.uint8)
    image[:, :128] = 255
    glass = frosted_glass(10, 256, np.random.default_rng(0))(image)
    assert (glass[:, : 128 - 5 - 21] == 255).all()
    assert (glass[:, 128 + 5 + 21 :] == 0).all()
    assert 0 < glass[:, 120:136].mean() < 255


def test_noise_draws_one_of_five_kinds():
    assert {Noise(severity=1, draw=draw).drawn_kind for draw in range(60)} == set(KINDS)
    assert Noise(severity=1, kind="fog", draw=0).drawn_kind == "fog"


def test_noise_filters_the_third_person_camera_only():
    noise = Noise(severity=3, draw=1)
    assert noise.image_filter("wrist", SIZE) is None
    assert noise.image_filter("agentview", SIZE) is not None
    assert Noise(draw=1).image_filter("agentview", SIZE) is None
