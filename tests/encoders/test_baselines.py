"""The contract of every encoder, tested with those that need NumPy only."""

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


def test_different_videos_are_farther_apart_than_similar_ones(encoder):
    original = video(8)
    noisy = np.clip(original.astype(int) + 3, 0, 255).astype(np.uint8)
    latents = encoder.encode([original, noisy, 255 - original])
    assert np.linalg.norm(latents[0] - latents[1]) < np.linalg.norm(latents[0] - latents[2])


def test_pixels_are_block_means_at_evenly_spaced_times():
    frames = np.zeros((3, 2, 4, 3), np.uint8)
    frames[2, :, :2] = 255  # the left half of the last frame turns white
    frames[2, 0, 0] = 0  # except one of its four pixels
    latent = PixelEncoder(num_times=2, size=1).encode([frames])[0].reshape(2, 3)
    np.testing.assert_allclose(latent, [[0, 0, 0], [3 / 8] * 3])
    halves = PixelEncoder(num_times=1, size=2).encode([frames[2:]])[0].reshape(2, 2, 3)
    np.testing.assert_allclose(halves[..., 0], [[1 / 2, 0], [1, 0]])


def test_a_random_projection_depends_on_its_seed_and_nearly_keeps_distances():
    videos = [video(4, seed=seed) for seed in range(6)]
    one, same, other = (RandomProjectionEncoder(seed=seed).encode(videos) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    pixels = PixelEncoder().encode(videos)
    ratios = np.linalg.norm(one[1:] - one[:-1], axis=1) / np.linalg.norm(
        pixels[1:] - pixels[:-1], axis=1
    )
    np.testing.assert_allclose(ratios, 1.0, atol=0.25)  # 4 standard deviations at 256 dimensions


def test_a_size_of_0_is_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        PixelEncoder(size=0)


class Fake:
    latent_shape = (2,)

    def __init__(self, latents):
        self.latents = np.array(latents)

    def encode(self, videos):
        return self.latents


def test_a_wrong_number_of_latents_is_an_error():
    with pytest.raises(ValueError, match=r"must return shape \(2, 2\).*got \(1, 2\)"):
        encode_checked(Fake([[0.0, 0.0]]), [video(1), video(1)], ["a", "b"])


def test_a_latent_that_is_not_finite_is_an_error_that_names_its_video():
    with pytest.raises(ValueError, match=r"Fake .*not finite for b"):
        encode_checked(Fake([[0.0, 0.0], [np.inf, 0.0]]), [video(1), video(1)], ["a", "b"])
