"""OpenVLA-OFT with discrete action tokens, trained through adapters.

The policy of SRPO's paper, a Llama 2 7B with two image towers, in the form in which SimpleVLA-RL
trains it: one image, no proprioception, all 56 tokens of a chunk from one pass. The weights come
from a published checkpoint; checkpoints of this package hold the adapters and name it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from srpo_env.policy.adapters import LoraSettings, add_adapters, quantize
from srpo_env.policy.base import Inputs, Policy
from srpo_env.policy.checkpoint import load_checkpoint, save_checkpoint
from srpo_env.policy.observations import image_batch
from srpo_env.policy.openvla_images import policy_images
from srpo_env.policy.openvla_layout import NEEDED_FILES, PublishedModel, read_published
from srpo_env.policy.openvla_model import EMPTY_TOKEN
from srpo_env.policy.openvla_statistics import ActionStatistics, read_statistics
from srpo_env.policy.parallel import enable_checkpointing, in_parts
from srpo_env.policy.prompts import PromptTokenizer, check_vocabulary, padded
from srpo_env.policy.tokens import NUM_BINS
from srpo_env.readers.pretrained import download, is_hub_id

ARCHITECTURE = "openvla-oft"

PROMPT = "In: What action should the robot take to {}?\nOut:"

RENDERED_SIZE = 256
"""Height and width of the images in OpenVLA-OFT's training data, in pixels"""

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class OpenVLASettings:
    """How a published OpenVLA-OFT is loaded and trained; part of its checkpoints."""

    base: str
    """Folder, or id of the Hugging Face hub, of the published checkpoint."""
    lora: LoraSettings
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Data type of the frozen weights; the adapters are float32."""
    four_bit: bool = False
    """Whether the layers of the language model are stored in 4 bits, by bitsandbytes."""
    gradient_checkpointing: bool = True
    """Whether the layers are computed again in the backward pass instead of being kept."""
    batch_size: int = 8
    """Decisions that are computed at once; limits the memory, and changes no result."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            ValueError: If one is out of its range.
        """
        if self.dtype not in DTYPES:
            raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if type(self.batch_size) is not int or self.batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {self.batch_size!r}")


class OpenVLAOFT(Policy):
    """OpenVLA-OFT behind the interface of `Policy`; its tokens are ascending bins of actions.

    In float32, probabilities of rollouts and updates are equal up to rounding; bfloat16 has only
    three significant digits, so they differ when the batches differ.
    """

    def __init__(
        self,
        published: PublishedModel,
        tokenizer: PromptTokenizer,
        statistics: ActionStatistics,
        settings: OpenVLASettings,
    ) -> None:
        """Adds new adapters to a published model.

        Args:
            published: The model.
            tokenizer: Its tokenizer.
            statistics: Range of the actions in its training data.
            settings: How it is trained.

        Raises:
            ModuleNotFoundError: If ``four_bit`` is set and bitsandbytes is not installed.
            ValueError: If the tokenizer or the statistics do not belong to the model.
        """
        super().__init__()
        self.settings, self.statistics, self.tokenizer = settings, statistics, tokenizer
        self.image_size, self.normalization = published.image_size, published.normalization
        self.action_dim = len(statistics.q01)
        self.model = published.model
        start = tokenizer.encode("")
        if start != (self.model.bos_token,):
            raise ValueError(
                "the tokenizer must put the model's first token, "
                f"{self.model.bos_token}, before each prompt, got {start}"
            )
        language = self.model.language_model
        check_vocabulary(tokenizer, language.get_input_embeddings())
        if settings.four_bit:
            quantize(self.model, language.get_decoder().layers, DTYPES[settings.dtype])
        if settings.gradient_checkpointing:
            enable_checkpointing(language)
        add_adapters(self.model, settings.lora)

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | Path,
        *,
        lora: LoraSettings | None = None,
        statistics: str | Path | None = None,
        data_set: str | None = None,
        **settings: Any,
    ) -> OpenVLAOFT:
        """Loads a published checkpoint, and adds new adapters, which change nothing at first.

        Args:
            checkpoint: Its folder, or its id of the Hugging Face hub, such as
                ``Haozhan72/Openvla-oft-SFT-libero-object-traj1``.
            lora: Size and place of the adapters; default: `LoraSettings`'.
            statistics: Another checkpoint, a folder or an id of the hub, to take
                ``dataset_statistics.json`` from. Default: the checkpoint's own; if there are none,
                those of ``moojink/openvla-7b-oft-finetuned-libero-...`` for the suite in its name.
            data_set: Name of the data set in it; see `read_statistics`.
            **settings: Further entries of `OpenVLASettings`.

        Raises:
            ConnectionError: If a download fails.
            FileNotFoundError: If a file is missing.
            ModuleNotFoundError: If ``four_bit`` is set and bitsandbytes is not installed.
            ValueError: If a file is damaged or of another model, or a setting is out of range.
        """
        folder = _find(checkpoint)
        base = str(folder.resolve()) if Path(checkpoint).is_dir() else str(checkpoint)
        chosen = OpenVLASettings(base, lora or LoraSettings(), **settings)
        published = read_published(folder, DTYPES[chosen.dtype])
        found = read_statistics(folder, published.config, str(checkpoint), statistics, data_set)
        return cls(published, PromptTokenizer.read(folder), found, chosen)

    @classmethod
    def load(cls, path: str | Path) -> OpenVLAOFT:
        """Loads a checkpoint that `save` wrote, and the published one that it names.

        Raises:
            ConnectionError: If a download fails.
            FileNotFoundError: If a file is missing.
            ValueError: If a checkpoint is damaged or of another model.
        """
        adapters, header = load_checkpoint(path)
        settings, statistics = _read_config(header.get("config"), path)
        folder = _find(settings.base)
        published = read_published(folder, DTYPES[settings.dtype])
        policy = cls(published, PromptTokenizer.read(folder), statistics, settings)
        policy._set_adapters(adapters, path)
        return policy

    @property
    def env_settings(self) -> dict[str, Any]:
        """Arguments of `LiberoEnv`: the camera of the policy, in the size of its training data."""
        return {"image_size": RENDERED_SIZE, "cameras": ("agentview",)}

    def prepare(
        self, observations: Mapping[str, npt.NDArray[Any]], instructions: Sequence[str]
    ) -> Inputs:
        """Converts a batch of observations into what is kept of it; only the agent view is used.

        Returns:
            ``agentview`` ``(B, image_size, image_size, 3)``, the image of `policy_images`, as uint8
            (150 kB for 224 pixels), and ``prompt`` ``(B, MAX_TOKENS)``, tokens.

        Raises:
            KeyError: If the agent view is missing.
            ValueError: If a shape or type is wrong, or an instruction is too long.
        """
        images = image_batch(observations, "agentview", len(instructions))
        device = self.model.projector.fc1.weight.device
        inputs = {
            "agentview": policy_images(images, self.image_size),
            "prompt": padded([self.prompt_tokens(instruction) for instruction in instructions]),
        }
        return {name: value.to(device) for name, value in inputs.items()}

    def prompt_tokens(self, instruction: str) -> tuple[int, ...]:
        """Returns the tokens of an instruction's prompt, without the first, which stands apart."""
        tokens = self.tokenizer.encode(PROMPT.format(instruction.lower()))[1:]
        return tokens if tokens[-1:] == (EMPTY_TOKEN,) else (*tokens, EMPTY_TOKEN)

    def logits(self, inputs: Inputs) -> Tensor:
        """Computes logits ``(B, T, 256)`` of the tokens of a chunk, by ascending action."""
        return in_parts(self._logits, inputs, self.settings.batch_size)

    def _logits(self, inputs: Inputs) -> Tensor:
        # Nothing is normalised before, because floats of six channels take eight times as much
        # memory as the images.
        pixels = self.normalization.pixels(inputs["agentview"])
        dtype = DTYPES[self.settings.dtype]
        with torch.autocast(pixels.device.type, dtype, enabled=dtype != torch.float32):
            logits: Tensor = self.model(pixels, inputs["prompt"], self.chunk * self.action_dim)
        return logits

    def action_bins(self, actions: Tensor) -> Tensor:
        """Converts actions ``(B, chunk, action_dim)`` into unrounded tokens ``(B, T)``."""
        low, high, mask = (actions.new_tensor(row) for row in self._ranges())
        scaled = 2 * (actions - low) / (high - low).clamp_min(1e-8) - 1
        normalized = torch.where(mask.bool(), scaled, actions)
        # In the training data, 1 opens the gripper and 0 closes it.
        gripper = ((1 - actions[..., -1:].sign()) / 2).clamp(0, 1)
        normalized = torch.cat([normalized[..., :-1], gripper], dim=-1).clamp(-1, 1)
        return ((normalized + 1) / 2 * (NUM_BINS - 1) - 0.5).flatten(-2)

    def actions(self, tokens: Tensor) -> npt.NDArray[np.float32]:
        """Converts tokens ``(B, T)`` into actions ``(B, chunk, action_dim)`` in [-1, 1].

        A token is a bin between 256 equal steps from -1 to 1, of which there are 255; the highest
        two tokens mean the same. Scaled dimensions go from the 1% to the 99% quantile of the
        training data.
        """
        edges = np.linspace(-1, 1, NUM_BINS)
        centers = (edges[:-1] + edges[1:]) / 2
        bins = np.minimum(tokens.cpu().numpy(), NUM_BINS - 2)
        normalized = centers[bins].reshape(*bins.shape[:-1], -1, self.action_dim)
        low, high, mask = (np.array(row, dtype=np.float64) for row in self._ranges())
        scaled = (normalized + 1) / 2 * (high - low + 1e-8) + low
        actions = np.where(mask.astype(bool), scaled, normalized)
        # From 0 (close) and 1 (open) to LIBERO's 1 and -1.
        actions[..., -1] = -np.sign(2 * actions[..., -1] - 1)
        clipped: npt.NDArray[np.float32] = actions.clip(-1, 1).astype(np.float32)
        return clipped

    def save(self, path: str | Path, provenance: Mapping[str, Any] | None = None) -> None:
        """Writes ``path.safetensors`` with the adapters and ``path.json`` with the rest.

        Args:
            path: Folder and name, without an extension.
            provenance: Description of the training, for JSON.
        """
        config = {
            "architecture": ARCHITECTURE,
            **asdict(self.settings),
            "statistics": asdict(self.statistics),
        }
        save_checkpoint(path, self._adapters(), config, provenance or {})

    def restore(self, path: str | Path) -> None:
        """Takes over the adapters of a checkpoint; see `Policy.restore`."""
        adapters, header = load_checkpoint(path)
        settings, _ = _read_config(header.get("config"), path)
        if (settings.base, settings.lora) != (self.settings.base, self.settings.lora):
            raise ValueError(
                f"checkpoint {str(path)!r} must have adapters of this policy, "
                f"{self.settings.lora} on {self.settings.base}, got {settings.lora} on "
                f"{settings.base}"
            )
        self._set_adapters(adapters, path)

    def _adapters(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def _set_adapters(self, adapters: Mapping[str, Tensor], path: str | Path) -> None:
        own = self._adapters()
        shapes = {name: value.shape for name, value in adapters.items()}
        if shapes != {name: value.shape for name, value in own.items()}:
            raise ValueError(
                f"checkpoint {str(path)!r} does not fit its base {self.settings.base}: the names "
                "or shapes of the adapters differ"
            )
        with torch.no_grad():
            for name, value in adapters.items():
                own[name].copy_(value)

    def _ranges(self) -> tuple[Any, Any, Any]:
        statistics = self.statistics
        return statistics.q01, statistics.q99, [float(value) for value in statistics.mask]


def _find(checkpoint: str | Path) -> Path:
    """Returns the folder of a published checkpoint; downloads it if it is an id of the hub."""
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    if not is_hub_id(checkpoint):
        raise FileNotFoundError(
            "a published OpenVLA-OFT must be a folder, or an id of the Hugging Face hub such as "
            f"Haozhan72/Openvla-oft-SFT-libero-object-traj1, got {str(checkpoint)!r}"
        )
    return download(str(checkpoint), NEEDED_FILES)


def _read_config(config: Any, path: str | Path) -> tuple[OpenVLASettings, ActionStatistics]:
    source = f"`config` of checkpoint {str(path)!r}"
    try:
        entries = dict(config)
        if entries.pop("architecture") != ARCHITECTURE:
            raise ValueError(f"`architecture` must be {ARCHITECTURE!r}")
        statistics = ActionStatistics.from_json(entries.pop("statistics"), source)
        lora = LoraSettings(**entries.pop("lora"))
        if {*entries} != {field.name for field in fields(OpenVLASettings)} - {"lora"}:
            raise ValueError(f"unknown or missing entries: {', '.join(map(str, entries))}")
        return OpenVLASettings(lora=lora, **entries), statistics
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{source} does not fit this policy ({type(error).__name__}: {error})"
        ) from error
