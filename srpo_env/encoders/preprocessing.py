"""Converts frames to a video model's input, as the JSON file next to its weights describes.

Implemented here because the processors of ``transformers`` need torchvision, which this package
does not require otherwise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from srpo_env.system.files import read_json
from srpo_env.types import Video, even_indices

FILES = ("video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json")
"""Names of that file in ``transformers``, from the newest version to the oldest."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Per channel (RGB), in [0, 1]. Source: torchvision's ImageNet models."""

MAX_SIZE = 4096
"""Largest size of the model's input in pixels: a file may ask for more than there is memory"""

_MODES = {2: "bilinear", 3: "bicubic"}
"""Torch's names of the interpolations, by Pillow's number, which the files contain."""


@dataclass(frozen=True)
class VideoPreprocessing:
    """Settings to resize the shorter side, crop the middle, scale and normalise."""

    crop: int
    """Height and width of the model's input in pixels."""
    size: int
    """Length in pixels that the shorter side is resized to before the crop."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    scale: float = 1 / 255
    """Factor of the pixel values before normalisation."""
    resample: int = 2
    """Pillow's number of the interpolation: 2 bilinear, 3 bicubic."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            ValueError: If a setting is out of range.
        """
        if not 1 <= self.crop <= self.size <= MAX_SIZE:
            raise ValueError(
                f"crop and size must be in 1..{MAX_SIZE}, and the crop not above the size, got "
                f"{self.crop} and {self.size}"
            )
        if self.resample not in _MODES:
            raise ValueError(f"`resample` must be 2 or 3 (Pillow's numbers), got {self.resample}")
        numbers = (*self.mean, *self.std, self.scale)
        if len(self.mean) != 3 or len(self.std) != 3 or min(*self.std, self.scale) <= 0:
            raise ValueError(
                "mean and std must have three values, std and scale must be above 0, got "
                f"{self.mean}, {self.std} and {self.scale}"
            )
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"mean, std and scale must be finite, got {numbers}")

    @classmethod
    def for_crop(cls, crop: int) -> VideoPreprocessing:
        """Returns V-JEPA 2's settings: a crop of the middle 7/8 of the image.

        Source: ``VJEPA2VideoProcessor`` of ``transformers``, which ignores the ``size`` in a file.
        """
        return cls(crop, size=crop * 256 // 224)

    @classmethod
    def read(cls, folder: Path) -> VideoPreprocessing:
        """Reads the processor's file in a checkpoint's folder.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged, or describes unsupported steps.
        """
        file = next((folder / name for name in FILES if (folder / name).is_file()), None)
        if file is None:
            raise FileNotFoundError(
                f"a checkpoint must contain one of {', '.join(FILES)}, which describe how frames "
                f"are resized and normalised, and {str(folder)!r} has none"
            )
        try:
            content = read_json(file)
            return cls._parse(content.get("video_processor", content))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"{file} does not describe a video processor: {error!r}") from error

    @classmethod
    def _parse(cls, content: dict[str, Any]) -> VideoPreprocessing:
        for step in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
            if not content.get(step, True):
                raise ValueError(f"`{step}` must be true, got {content[step]}")
        crop = content["crop_size"]
        if isinstance(crop, dict):
            if crop["height"] != crop["width"]:
                raise ValueError(f"`crop_size` must be a square, got {crop}")
            crop = crop["height"]
        default = cls.for_crop(int(crop))
        return cls(
            crop=int(crop),
            size=default.size,
            mean=tuple(map(float, content.get("image_mean") or IMAGENET_MEAN)),
            std=tuple(map(float, content.get("image_std") or IMAGENET_STD)),
            scale=float(content.get("rescale_factor", default.scale)),
            resample=int(content.get("resample", default.resample)),
        )

    def write(self, folder: Path) -> None:
        """Writes the file in the format of ``transformers``, which `read` reads.

        Raises:
            ValueError: If the size is not that of `for_crop`, which readers would use instead.
        """
        if self.size != self.for_crop(self.crop).size:
            raise ValueError(
                f"`size` must be {self.for_crop(self.crop).size} for a crop of {self.crop}, as in "
                f"transformers, to be written, got {self.size}"
            )
        content = {
            "video_processor_type": "VJEPA2VideoProcessor",
            "do_resize": True,
            "size": {"shortest_edge": self.size},
            "resample": self.resample,
            "do_center_crop": True,
            "crop_size": {"height": self.crop, "width": self.crop},
            "do_rescale": True,
            "rescale_factor": self.scale,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }
        (folder / FILES[0]).write_text(json.dumps(content, indent=2) + "\n")

    def resize(self, frames: Tensor) -> Tensor:
        """Resizes the shorter side to ``size``; uint8 in and out.

        Takes ``(num_frames, height, width, 3)`` and returns ``(num_frames, 3, height, width)``.
        """
        images = frames.permute(0, 3, 1, 2)
        height, width = images.shape[2:]
        short = min(height, width)
        if short == self.size:
            return images
        shape = (self.size * height // short, self.size * width // short)
        mode = _MODES[self.resample]
        resized = interpolate(images.float(), size=shape, mode=mode, antialias=True)
        # Rounded to integers, as in the processors of transformers.
        return resized.round_().clamp_(0, 255).to(torch.uint8)

    def crop_middle(self, images: Tensor) -> Tensor:
        """Crops the middle of images, ``(..., height, width)`` to ``(..., crop, crop)``."""
        top, left = (round((extent - self.crop) / 2) for extent in images.shape[-2:])
        return images[..., top : top + self.crop, left : left + self.crop]

    def normalize(self, images: Tensor) -> Tensor:
        """Scales and normalises uint8 images, ``(..., 3, crop, crop)``, to float32."""
        mean = torch.tensor(self.mean, device=images.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(3, 1, 1)
        return images.float().mul(self.scale).sub_(mean).div_(std)


def evenly_spaced(video: Video, num_frames: int) -> Video:
    """Selects evenly spaced frames of a video, the first and the last among them.

    Frames of a shorter video are repeated.

    Raises:
        ValueError: If the array is not a video.
    """
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[3] != 3 or 0 in video.shape:
        raise ValueError(
            "a video must be uint8 of shape (num_frames, height, width, 3) with at least one "
            f"frame, got {video.dtype} {video.shape}"
        )
    return video[even_indices(len(video), num_frames)]


def stack_clips(
    videos: Sequence[Video],
    num_frames: int,
    preprocessing: VideoPreprocessing,
    device: torch.device | None = None,
) -> Tensor:
    """Samples, resizes and crops videos to uint8 ``(num_videos, num_frames, 3, crop, crop)``."""
    clips = []
    for video in videos:
        # Copied, because torch warns about arrays that are not writable.
        frames = torch.from_numpy(np.array(evenly_spaced(video, num_frames)))
        clips.append(preprocessing.crop_middle(preprocessing.resize(frames.to(device))))
    return torch.stack(clips)
