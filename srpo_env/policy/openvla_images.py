"""The images that OpenVLA-OFT was trained on, from those of `LiberoEnv`.

OpenVLA-OFT's code makes them with TensorFlow. Here, the same steps are made with Pillow and torch:

1. The image is turned by 180 degrees from robosuite's order of rows, bottom row first. That is the
   mirror image of the upright one.
2. It is stored as JPEG (quality 95, colours at half resolution) and read again, as the training
   data were. The pixels differ from TensorFlow's by a few levels where the decoders round
   differently.
3. It is resized with a Lanczos kernel of three lobes, widened when it shrinks the image, and
   rounded.
4. The central 90% of its area are resized to the same size, bilinearly, with the corners of the
   crop on the corners of the result.

Source: ``experiments/robot/openvla_utils.py`` of https://github.com/moojink/openvla-oft.
"""

from __future__ import annotations

import io
import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Images = npt.NDArray[np.uint8]

JPEG_QUALITY = 95

CROPPED_AREA = 0.9
"""Fraction of the image's area that the policy sees; training crops as much at random places."""

LEVELS = 255.5
"""Factor of TensorFlow's conversion from floats in [0, 1] to uint8, which then rounds down."""


def policy_images(images: Images, size: int) -> Tensor:
    """Converts upright images into those that the policy sees.

    Args:
        images: Agent views, ``(B, height, width, 3)``, uint8; OpenVLA-OFT was trained on 256
            pixels.
        size: Height and width of the policy's images in pixels.

    Returns:
        Images ``(B, size, size, 3)``, uint8.
    """
    if not len(images):
        return torch.empty(0, size, size, 3, dtype=torch.uint8)
    mirrored = images[:, :, ::-1]
    resized = [lanczos(jpeg_round_trip(image), size) for image in mirrored]
    return center_crop(torch.as_tensor(np.stack(resized)))


def jpeg_round_trip(image: Images) -> Images:
    """Stores an image ``(height, width, 3)`` as JPEG and reads it again."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(stream, "JPEG", quality=JPEG_QUALITY)
    return np.asarray(Image.open(stream))


def lanczos(image: Images, size: int) -> Images:
    """Resizes an image ``(height, width, 3)`` to ``(size, size, 3)``, with one rounding."""
    # As floats, because Pillow rounds uint8 after each of its two passes.
    channels = [
        Image.fromarray(plane).resize((size, size), Image.Resampling.LANCZOS)
        for plane in np.moveaxis(image.astype(np.float32), -1, 0)
    ]
    # Half a level is rounded to the even one, as by TensorFlow.
    floats = np.stack([np.asarray(channel) for channel in channels], axis=-1)
    rounded: Images = floats.round().clip(0, 255).astype(np.uint8)
    return rounded


def center_crop(images: Tensor) -> Tensor:
    """Enlarges the center of images ``(B, size, size, 3)``, uint8, to their own size."""
    batch, size = images.shape[:2]
    # In coordinates from -1 to 1, the centers of the outermost pixels.
    line = torch.linspace(-1, 1, size, dtype=torch.float64) * math.sqrt(CROPPED_AREA)
    y, x = torch.meshgrid(line.float(), line.float(), indexing="ij")
    grid = torch.stack([x, y], dim=-1).expand(batch, size, size, 2)
    planes = images.permute(0, 3, 1, 2).float() / 255
    cropped = F.grid_sample(planes, grid, mode="bilinear", align_corners=True).clamp(0, 1)
    return (cropped * LEVELS).byte().permute(0, 2, 3, 1).contiguous()
