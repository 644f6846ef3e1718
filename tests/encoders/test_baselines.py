"""The contract that every encoder keeps, on those that need nothing but NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from srpo_env.encoders import PixelEncoder, RandomProjectionEncoder, TrajectoryEncoder
from srpo_env.encoders.protocol import encode_checked


@pytest.fixture(params=[PixelEncoder, RandomProjectionEncoder])
def encoder(request):
    return request.param()


def video(num_frames, height=32, width=48, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), np.uint8)


def test_it_is_a_trajectory_encoder(encoder):
    assert isinstance(encoder, TrajectoryEncoder)


def test_videos_of_any_length_and_size_become_finite_latents(encoder):
    videos = [video(1), video(3, 7, 5), video(64, 16, 16), video(500, 1, 1)]
    latents = encoder.encode(videos)
    assert latents.shape == (4, *encoder.latent_shape)
    assert latents.dtype == np.float32
    assert np.isfinite(latents).all()
    assert encoder.encode([]).shape == (0, *encoder.latent_shape)


def test_a_latent_depends_on_its_own_video_only(encoder):
    together = encoder.encode([video(4, seed=1), video(9, seed=2)])
    for row, alone in enumerate([video(4, seed=1), video(9, seed=2)]):
        np.testing.assert_allclose(encoder.encode([alone])[0], together[row], atol=1e-4)


def test_unlike_videos_are_farther_apart_than_like_ones(encoder):
    original = video(8)
    noisy = np.clip(original.astype(int) + 3, 0, 255).astype(np.uint8)
    latents = encoder.encode([original, noisy, 255 - original])
    assert np.linalg.norm(latents[0] - latents[1]) < np.linalg.norm(latents[0] - latents[2])


def test_pixels_are_block_means_at_evenly_spaced_times():
    frames = np.zeros((3, 2, 4, 3), np.uint8)
    frames[2, :, :2] = 255  # the left half of the last frame turns white
    frames[2, 0, 0] = 0  # but for one pixel of its four
    latent = PixelEncoder(num_times=2, size=1).encode([frames])[0].reshape(2, 3)
    np.testing.assert_allclose(latent, [[0, 0, 0], [3 / 8] * 3])
    halves = PixelEncoder(num_times=1, size=2).encode([frames[2:]])[0].reshape(2, 2, 3)
    np.testing.assert_allclose(halves[..., 0], [[1 / 2, 0], [1, 0]])


def test_a_random_projection_is_its_seed_and_keeps_distances_roughly():
    videos = [video(4, seed=seed) for seed in range(6)]
    one, same, other = (RandomProjectionEncoder(seed=seed).encode(videos) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    pixels = PixelEncoder().encode(videos)
    ratios = np.linalg.norm(one[1:] - one[:-1], axis=1) / np.linalg.norm(
        pixels[1:] - pixels[:-1], axis=1
    )
    np.testing.assert_allclose(ratios, 1.0, atol=0.25)  # 4 standard deviations at 256 dimensions


def test_a_resolution_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        PixelEncoder(size=0)


class Fake:
    latent_shape = (2,)

    def __init__(self, latents):
        self.latents = np.array(latents)

    def encode(self, videos):
        return self.latents


def test_a_wrong_number_of_latents_is_refused():
    with pytest.raises(ValueError, match=r"must return shape \(2, 2\).*got \(1, 2\)"):
        encode_checked(Fake([[0.0, 0.0]]), [video(1), video(1)], ["a", "b"])


def test_a_latent_that_is_not_finite_is_refused_by_the_name_of_its_video():
    with pytest.raises(ValueError, match=r"Fake .*not finite for b"):
        encode_checked(Fake([[0.0, 0.0], [np.inf, 0.0]]), [video(1), video(1)], ["a", "b"])
