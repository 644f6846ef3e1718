"""The images of OpenVLA-OFT, against slow loops that are written from TensorFlow's definitions."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image, JpegImagePlugin

from srpo_env.policy.openvla_images import center_crop, jpeg_round_trip, lanczos, policy_images


def noise(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def lanczos_by_loops(image, size):
    """``tf.image.resize(image, method="lanczos3", antialias=True)``, then rounded and clipped."""

    def kernel(x):
        x = abs(x)
        if x < 1e-9:
            return 1.0
        return 3 * math.sin(math.pi * x) * math.sin(math.pi * x / 3) / (math.pi * x) ** 2 * (x < 3)

    scale = len(image) / size
    weights = np.zeros((size, len(image)))
    for out in range(size):
        center = (out + 0.5) * scale
        for source in range(len(image)):
            weights[out, source] = kernel((source + 0.5 - center) / max(scale, 1))
        weights[out] /= weights[out].sum()
    resized = np.einsum("ai,bj,ijc->abc", weights, weights, image.astype(float), optimize=True)
    return np.clip(np.round(resized), 0, 255).astype(np.uint8)


def crop_by_loops(image, area=0.9):
    """``tf.image.crop_and_resize`` of the center, between conversions to floats and back."""
    size, side = len(image), math.sqrt(area)
    first, last = (1 - side) / 2, (1 - side) / 2 + side
    floats, out = image / 255, np.zeros(image.shape)
    steps = [first * (size - 1) + i * (last - first) for i in range(size)]
    for i, y in enumerate(steps):
        for j, x in enumerate(steps):
            top, left = math.floor(y), math.floor(x)
            bottom, right = math.ceil(y), math.ceil(x)
            upper = floats[top, left] + (floats[top, right] - floats[top, left]) * (x - left)
            lower = floats[bottom, left] + (floats[bottom, right] - floats[bottom, left]) * (
                x - left
            )
            out[i, j] = upper + (lower - upper) * (y - top)
    return (np.clip(out, 0, 1) * 255.5).astype(np.uint8)


def difference(image, expected):
    return np.abs(np.asarray(image, dtype=int) - np.asarray(expected, dtype=int))


@pytest.mark.parametrize(("source", "size"), [(64, 56), (48, 56), (56, 56)])
def test_lanczos_is_that_of_the_definition(source, size):
    image = noise(source)
    off = difference(lanczos(image, size), lanczos_by_loops(image, size))
    assert off.max() <= 1  # where 32 and 64 bits round differently
    assert (off > 0).mean() < 1e-3


def test_center_crop_is_that_of_the_definition():
    image = noise(56)
    off = difference(center_crop(torch.as_tensor(image)[None])[0], crop_by_loops(image))
    assert off.max() <= 1
    assert (off > 0).mean() < 1e-3


def test_center_crop_enlarges_the_center():
    ramp = np.zeros((101, 101, 3), np.uint8)
    ramp[:] = np.arange(101)[:, None, None] * 2
    cropped = center_crop(torch.as_tensor(ramp)[None])[0, :, 50, 0].tolist()
    assert cropped[50] == 100
    # The side of nine tenths of the area is 0.949 of the whole: 5.1 of 201 levels from its end.
    assert (cropped[0], cropped[-1]) == (5, 195)


def test_jpeg_has_the_quality_and_the_colour_resolution_of_the_training_data(monkeypatch):
    written = []
    save = Image.Image.save

    def keep(self, stream, *arguments, **settings):
        save(self, stream, *arguments, **settings)
        written.append(stream.getvalue())

    monkeypatch.setattr(Image.Image, "save", keep)
    jpeg_round_trip(noise(32))
    (content,) = written
    image = Image.open(io.BytesIO(content))
    assert JpegImagePlugin.get_sampling(image) == 2  # 4:2:0
    # Quality 95 divides the standard's table by ten: its first entry is 16.
    assert image.quantization[0][0] == 2


def test_smooth_images_survive_jpeg():
    line = np.arange(64) * 3
    image = np.stack([np.add.outer(line, line) // 2] * 3, axis=-1).astype(np.uint8)
    assert difference(jpeg_round_trip(image), image).max() <= 2


def test_upright_images_are_mirrored():
    image = np.zeros((1, 64, 64, 3), np.uint8)
    image[:, :16, :16] = 255  # top left
    (seen,) = policy_images(image, 56)
    assert seen.shape == (56, 56, 3)
    assert seen[4, -5].min() > 250
    assert seen[4, 4].max() < 5


def test_no_images_are_no_images():
    assert policy_images(np.zeros((0, 64, 64, 3), np.uint8), 56).shape == (0, 56, 56, 3)
