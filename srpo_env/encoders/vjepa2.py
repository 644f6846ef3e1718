"""V-JEPA 2 as an encoder: the bundled checkpoint, or any checkpoint that ``transformers`` reads.

SRPO measures progress with V-JEPA 2 (https://arxiv.org/abs/2506.09985).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from srpo_env.system.machine import load_triton

try:
    load_triton()  # before transformers does, in case MuJoCo was imported already
    import torch
    from transformers import VJEPA2Config, VJEPA2Model
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"VJEPA2Encoder needs {error.name}: run `pip install 'srpo-env[encoders]'`", name=error.name
    ) from error

from srpo_env.encoders.preprocessing import VideoPreprocessing, stack_clips
from srpo_env.encoders.projection import random_projection
from srpo_env.readers.pretrained import download, is_hub_id, load_weights, read_weights
from srpo_env.rewards.distances import Distance, distances_to_centers, remaining_share
from srpo_env.system.files import read_json, write_file
from srpo_env.system.text import one_line
from srpo_env.types import Video, checked_count, even_indices

Pooling = Literal["mean", "time", "grid"]

LATENTS_FILE = "latents.json"
"""Name of the file in a checkpoint's folder that holds its default pooling and number of clips"""

GRID_DIM = 256
"""Dimensions that the grid of a moment's tokens is projected to"""

SIZES = (
    "patch_size", "crop_size", "frames_per_clip", "tubelet_size", "hidden_size", "in_chans",
    "num_attention_heads", "num_hidden_layers", "drop_path_rate", "mlp_ratio", "layer_norm_eps",
    "qkv_bias", "attention_probs_dropout_prob", "hidden_act", "initializer_range",
    "attention_dropout", "num_pooler_layers", "pred_hidden_size", "pred_num_attention_heads",
    "pred_num_hidden_layers", "pred_num_mask_tokens", "pred_zero_init_mask_tokens",
    "pred_mlp_ratio",
)  # fmt: skip
"""Entries of config.json that are used"""

HEADS = ("pooler.", "classifier.")
"""Begin of the names of tensors that checkpoints for video classification have besides the model's;
they are not used"""

MAX_EXCESS = 4
"""How many times as many weights as there are a config.json may declare"""

MAX_EXTENT = 4096
"""Largest height, width and number of frames of a model's input"""

WEIGHTS = Path(__file__).parent.parent / "weights"
"""Folder of the bundled checkpoints."""


class VJEPA2Encoder:
    """Encodes episodes with the encoder half of a V-JEPA 2 and pools its tokens to a latent.

    An episode is shown to the model as evenly spaced frames, the first and the last among them: one
    clip of ``frames_per_clip`` frames, or several clips that follow each other. The model maps
    every ``tubelet_size`` frames to one *time*, a grid of tokens. The latents are not standardised.
    `distance` compares them by L2, as in the paper, or by `remaining_share` if they are paths of
    grids.

    Examples:
        The paper's world model, downloaded from the Hugging Face hub on first use (1.3 GB):

        ```python
        encoder = VJEPA2Encoder("facebook/vjepa2-vitl-fpc64-256", device="cuda")
        envs = SelfReferentialProgressWrapper(envs, encoder)
        ```
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        pooling: Pooling | None = None,
        num_clips: int | None = None,
        batch_size: int = 8,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Loads a checkpoint from safetensors and JSON files, never from pickles.

        Args:
            checkpoint: A folder, the name of a bundled checkpoint, or an id of the Hugging Face
                hub such as ``facebook/vjepa2-vitg-fpc64-256``. Folders need no download.
            pooling: ``"mean"``: the mean of all tokens, as in the paper. ``"time"``: a path of the
                mean tokens of each time; L2 compares equal times with each other. ``"grid"``: a
                path of all tokens of each time, which keeps their places in the image, projected to
                `GRID_DIM` dimensions by a fixed random matrix, which nearly keeps distances; not
                from the paper. Default: that of `LATENTS_FILE`, which the bundled checkpoint and
                those of ``agents/world_model.py`` have (``"grid"``), else ``"mean"``.
            num_clips: Number of clips that an episode is cut into. Default: that of `LATENTS_FILE`
                with its pooling, else 1, as in the paper.
            batch_size: Number of episodes that are encoded at once; limits the memory.
            device: Device to compute on; default: the GPU if there is one.
            dtype: Data type to compute in; default: float16 on a GPU, as in the paper, else
                float32.

        Raises:
            FileNotFoundError: If the checkpoint or one of its files does not exist.
            ConnectionError: If the download fails.
            ValueError: If the checkpoint is damaged or of another type, or an argument is out of
                range.
        """
        pooling = None if pooling is None else as_pooling(pooling)
        num_clips = None if num_clips is None else checked_count("num_clips", num_clips)
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.batch_size = checked_count("batch_size", batch_size)
        self.device = torch.device(device)
        if dtype is None:
            dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        self.checkpoint = find_checkpoint(checkpoint)
        model = load_model(self.checkpoint, dtype)
        self.preprocessing = VideoPreprocessing.read(self.checkpoint)
        config = model.config
        # Position embeddings assume this size; with another size, tokens get wrong positions.
        if self.preprocessing.crop != config.crop_size:
            raise ValueError(
                f"{self.checkpoint}: the crops of the processor and the model must be equal, "
                f"got {self.preprocessing.crop} and {config.crop_size}"
            )
        default_pooling, default_clips = read_latents(self.checkpoint)
        self.pooling: Pooling = pooling or default_pooling
        self.num_clips = num_clips or (default_clips if self.pooling == default_pooling else 1)
        self.num_frames: int = self.num_clips * config.frames_per_clip
        self._tubelet_size: int = config.tubelet_size
        self.num_times: int = self.num_clips * max(1, config.frames_per_clip // config.tubelet_size)
        self.moment_dim: int = config.hidden_size
        self._projection: torch.Tensor | None = None
        if self.pooling == "grid":
            tokens = (config.crop_size // config.patch_size) ** 2
            matrix = random_projection(tokens * config.hidden_size, GRID_DIM, seed=0)
            self._projection = torch.from_numpy(matrix).to(self.device)
            self.moment_dim = GRID_DIM
        self.latent_shape: tuple[int, ...] = (
            (self.moment_dim,) if self.pooling == "mean" else (self.num_times, self.moment_dim)
        )
        self.distance: Distance = (
            remaining_share if self.pooling == "grid" else distances_to_centers
        )
        """Compares latents: L2, as in the paper, or what remains of a success for grids."""
        self.settings = {
            "checkpoint": self.checkpoint.name,
            "pooling": self.pooling,
            "num_clips": self.num_clips,
        }
        self._dtype = dtype
        self.model = model.encoder.to(self.device).eval()
        """The encoder half, without the predictor."""

    def encode(self, videos: Sequence[Video]) -> npt.NDArray[np.float32]:
        """Encodes videos ``(num_frames, height, width, 3)`` to ``(num_videos, *latent_shape)``.

        Raises:
            ValueError: If an array is not a video, or a latent is not finite.
        """
        paths = self.encode_paths(videos)
        latents: npt.NDArray[np.float32] = paths.mean(axis=1) if self.pooling == "mean" else paths
        return latents

    def moment_frames(self, num_frames: int) -> npt.NDArray[np.int64]:
        """Returns the index of the last frame of each moment, shape ``(num_times,)``.

        Args:
            num_frames: Number of frames of the video.
        """
        # Frames of a clip that do not fill a moment are not seen.
        ends = self._tubelet_size * np.arange(1, self.num_times // self.num_clips + 1) - 1
        length = self.num_frames // self.num_clips
        ends = np.minimum(ends, length - 1) + length * np.arange(self.num_clips)[:, None]
        return even_indices(num_frames, self.num_frames)[ends.ravel()]

    def encode_paths(self, videos: Sequence[Video]) -> npt.NDArray[np.float32]:
        """Encodes videos to paths through latent space; their mean over time is ``"mean"``.

        Args:
            videos: Each ``(num_frames, height, width, 3)``, RGB.

        Returns:
            The pooled tokens of each time, shape ``(num_videos, num_times, moment_dim)``.

        Raises:
            ValueError: If an array is not a video, or a latent is not finite.
        """
        paths = np.empty((len(videos), self.num_times, self.moment_dim), dtype=np.float32)
        for start in range(0, len(videos), self.batch_size):
            batch = videos[start : start + self.batch_size]
            paths[start : start + len(batch)] = self._encode_batch(batch)
        broken = np.flatnonzero(~np.isfinite(paths).all(axis=(1, 2)))
        if len(broken):
            raise ValueError(
                f"the latent of video {broken[0]} is not finite in {self._dtype}: try "
                "dtype=torch.bfloat16 or torch.float32, whose range is wider than float16's"
            )
        return paths

    @torch.inference_mode()
    def _encode_batch(self, videos: Sequence[Video]) -> npt.NDArray[np.float32]:
        frames = stack_clips(videos, self.num_frames, self.preprocessing, self.device)
        clips = frames.reshape(len(videos) * self.num_clips, -1, *frames.shape[2:])
        pixels = self.preprocessing.normalize(clips).to(self._dtype)
        tokens = self.model(pixel_values_videos=pixels).last_hidden_state.float()
        moments = tokens.reshape(len(videos), self.num_times, -1, tokens.shape[-1])
        if self._projection is None:
            pooled = moments.mean(dim=2)
        else:
            pooled = moments.flatten(2) @ self._projection
        paths: npt.NDArray[np.float32] = pooled.cpu().numpy()
        return paths


def as_pooling(name: str) -> Pooling:
    """Validates the name of a pooling and returns it.

    Raises:
        ValueError: If there is no pooling of this name.
    """
    for pooling in get_args(Pooling):
        if name == pooling:
            return cast("Pooling", pooling)
    raise ValueError(f"`pooling` must be 'mean', 'time' or 'grid', got {name!r}")


# --- Loading --------------------------------------------------------------------------------------


def find_checkpoint(checkpoint: str | Path) -> Path:
    """Returns the folder of a checkpoint: a folder, a bundled one, or a download from the hub.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ConnectionError: If the download fails.
    """
    folder = Path(checkpoint)
    if folder.is_dir():
        return folder
    if len(folder.parts) == 1 and (WEIGHTS / folder).is_dir():
        return WEIGHTS / folder
    name = checkpoint if isinstance(checkpoint, str) else ""
    if not is_hub_id(name):
        bundled = sorted(file.parent.name for file in WEIGHTS.glob("*/config.json"))
        raise FileNotFoundError(
            "a checkpoint of V-JEPA 2 must be a folder, the name of a bundled one "
            f"({', '.join(bundled) or 'none'}), or an id of the Hugging Face hub such as "
            f"facebook/vjepa2-vitl-fpc64-256, got {str(checkpoint)!r}"
        )
    return download(name, "config.json, video_preprocessor_config.json and model.safetensors")


def read_latents(folder: Path) -> tuple[Pooling, int]:
    """Reads the default pooling and number of clips of a checkpoint: the paper's without a file.

    Raises:
        ValueError: If the file is damaged.
    """
    file = folder / LATENTS_FILE
    if not file.is_file():
        return "mean", 1
    content = read_json(file)
    try:
        clips = content["num_clips"]
        if type(clips) is not int or not 1 <= clips <= MAX_EXTENT:
            raise ValueError(f"`num_clips` must be an integer in 1..{MAX_EXTENT}, got {clips!r}")
        return as_pooling(content["pooling"]), clips
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{file} must hold "pooling" and "num_clips", as agents/world_model.py writes them, '
            f"and does not: {one_line(error)}"
        ) from error


def write_latents(folder: Path, pooling: Pooling, num_clips: int) -> None:
    """Writes the file that `read_latents` reads."""
    content = {"pooling": pooling, "num_clips": num_clips}
    write_file(folder / LATENTS_FILE, (json.dumps(content, indent=2) + "\n").encode())


def load_model(folder: Path, dtype: torch.dtype) -> VJEPA2Model:
    """Loads the model of a checkpoint's folder.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, or belongs to another type of model.
    """
    weights = read_weights(folder)
    config = _read_config(folder / "config.json", weights)
    return load_weights(
        VJEPA2Model, config, weights, dtype, f"the checkpoint {folder}",
        not_needed=("predictor.",), not_used=HEADS,
    )  # fmt: skip


def _read_config(file: Path, weights: dict[str, torch.Tensor]) -> VJEPA2Config:
    """Reads the sizes of the model; refuses ones that take more memory than the weights do."""
    try:
        content = read_json(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"a checkpoint of V-JEPA 2 must contain config.json, and {str(file.parent)!r} does not"
        ) from error
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind != "vjepa2":
        raise ValueError(f"{file.parent} must hold a model of type 'vjepa2', got {kind!r}")
    sizes = {name: content[name] for name in SIZES if name in content}
    try:
        config = VJEPA2Config(**sizes)
        layers = config.num_hidden_layers, config.pred_num_hidden_layers
        extents = config.crop_size, config.frames_per_clip, config.tubelet_size, config.patch_size
        if not all(1 <= count <= len(weights) for count in layers):
            raise ValueError(f"it declares {layers} layers, with {len(weights)} tensors")
        if not all(1 <= extent <= MAX_EXTENT for extent in extents):
            raise ValueError(f"sizes of the video must be in 1..{MAX_EXTENT}, got {extents}")
        with torch.device("meta"):  # allocates nothing
            model = VJEPA2Model(config)
    # StrictDataclassError, of huggingface_hub, is no ValueError.
    except Exception as error:
        raise ValueError(
            f"{file} does not describe a V-JEPA 2 ({type(error).__name__}: {one_line(error)})"
        ) from error
    # What the file lacks is allocated before it is noticed. The predictor may be left out.
    available = sum(weight.numel() for weight in weights.values())
    declared = sum(parameter.numel() for parameter in model.parameters())
    if declared > MAX_EXCESS * available:
        raise ValueError(
            f"{file} declares {declared} weights, and the checkpoint has {available}: its files do "
            "not belong together"
        )
    return config
