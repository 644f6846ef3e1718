"""A policy on SmolVLM (256M or 500M parameters), of the size that a 12 to 24 GB GPU trains fully.

Both images, proprioception and the instruction go to the language model, followed by one learned
query for each action token; attention is bidirectional, and a linear layer maps the queries' last
states to 256 bins. Published weights of SmolVLM are the start, and `agents/vla_bc.py` has to clone
demonstrations before reinforcement learning. SmolVLM: arXiv:2504.05299.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SmolVLMModel

from srpo_env.policy.base import JITTER, SHIFT, Inputs, Policy
from srpo_env.policy.checkpoint import load_checkpoint, save_checkpoint
from srpo_env.policy.imitation import IMAGES, augment
from srpo_env.policy.modules import BODY_FEATURES, body_features
from srpo_env.policy.observations import image_batch, proprio_batch
from srpo_env.policy.parallel import PADDING, bidirectional, enable_checkpointing, in_parts, trimmed
from srpo_env.policy.prompts import PromptTokenizer, check_vocabulary, padded
from srpo_env.policy.smolvlm_sizes import check_declared, read_sizes
from srpo_env.policy.tokens import NUM_BINS
from srpo_env.readers.pretrained import (
    download,
    is_hub_id,
    load_weights,
    quiet_transformers,
    read_weights,
)
from srpo_env.system.files import read_json
from srpo_env.system.text import one_line

ARCHITECTURE = "smolvlm"

PROMPT = "What action should the robot take to {}?"

NEEDED_FILES = "config.json, tokenizer.json and model.safetensors"

INITIAL_STD = 0.02
"""standard deviation of the weights that SmolVLM does not have"""


@dataclass(frozen=True)
class SmolVLMPolicySettings:
    """Sizes of the policy besides SmolVLM's, and how it is computed; part of its checkpoints."""

    image_size: int = 512
    """Height and width to which images are enlarged, in pixels; a multiple of SmolVLM's patches
    times its `scale_factor`. 512 is SmolVLM's own; 256 is four times faster"""
    chunk: int = 8
    action_dim: int = 7
    batch_size: int = 16
    """Decisions that are computed at once; limits the memory, and changes no result."""
    gradient_checkpointing: bool = False
    """Whether the layers are computed again in the backward pass instead of being kept."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            ValueError: If one is out of its range.
        """
        for name in ("image_size", "chunk", "action_dim", "batch_size"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= 2048:
                raise ValueError(f"`{name}` must be an integer in 1..2048, got {value!r}")


class SmolVLMPolicy(Policy):
    """SmolVLM with action tokens behind the interface of `Policy`; all of it is trained.

    The weights are float32. A GPU computes in bfloat16, which has three significant digits, so that
    probabilities of rollouts and updates differ when the batches differ; a CPU computes in float32.
    """

    def __init__(
        self,
        sizes: Mapping[str, Any],
        tokenizer: PromptTokenizer,
        settings: SmolVLMPolicySettings | None = None,
        model: SmolVLMModel | None = None,
    ) -> None:
        """Initialises a policy with random weights.

        Args:
            sizes: ``text_config``, ``vision_config`` and ``scale_factor`` of SmolVLM's config.json.
            tokenizer: SmolVLM's tokenizer.
            settings: Further sizes.
            model: SmolVLM with weights, instead of random ones.

        Raises:
            ValueError: If the sizes do not describe a SmolVLM, or do not fit together.
        """
        super().__init__()
        self.settings = settings = settings or SmolVLMPolicySettings()
        self.tokenizer = tokenizer
        self.chunk, self.action_dim = settings.chunk, settings.action_dim
        self.sizes, config = read_sizes(sizes)
        side = config.vision_config.patch_size * config.scale_factor
        if settings.image_size % side:
            raise ValueError(
                f"`image_size` must be a multiple of {side}, SmolVLM's patches times its "
                f"`scale_factor`, got {settings.image_size}"
            )
        if model is None:
            with quiet_transformers():
                model = SmolVLMModel(config)
        self.model = model
        check_vocabulary(tokenizer, model.text_model.get_input_embeddings())
        width = config.text_config.hidden_size
        self.body = nn.Linear(BODY_FEATURES, width)
        self.queries = nn.Parameter(torch.empty(self.chunk * self.action_dim, width))
        self.head = nn.Linear(width, NUM_BINS)
        for weight in (self.queries, self.head.weight):
            nn.init.normal_(weight, std=INITIAL_STD)
        nn.init.zeros_(self.head.bias)
        if settings.gradient_checkpointing:
            enable_checkpointing(self.model)

    @classmethod
    def from_pretrained(cls, checkpoint: str | Path, **settings: Any) -> SmolVLMPolicy:
        """Takes the weights of a published SmolVLM; what it lacks is random.

        Args:
            checkpoint: A folder, or an id of the Hugging Face hub such as
                ``HuggingFaceTB/SmolVLM-256M-Instruct`` or ``.../SmolVLM-500M-Instruct``.
            **settings: Entries of `SmolVLMPolicySettings`.

        Raises:
            ConnectionError: If the download fails.
            FileNotFoundError: If a file is missing.
            ValueError: If a file is damaged or of another model, or a setting is out of range.
        """
        chosen = SmolVLMPolicySettings(**settings)
        folder = Path(checkpoint)
        if not folder.is_dir():
            if not is_hub_id(checkpoint):
                raise FileNotFoundError(
                    "a published SmolVLM must be a folder, or an id of the Hugging Face hub such "
                    f"as HuggingFaceTB/SmolVLM-256M-Instruct, got {str(checkpoint)!r}"
                )
            folder = download(str(checkpoint), NEEDED_FILES)
        content = read_json(folder / "config.json")
        kind = content.get("model_type") if isinstance(content, dict) else None
        if kind not in ("smolvlm", "idefics3"):  # its first checkpoints have the older name
            raise ValueError(f"{folder} must hold a model of type 'smolvlm', got {kind!r}")
        sizes, config = read_sizes(content)
        weights = {
            name.removeprefix("model."): value
            for name, value in read_weights(folder).items()
            if name != "lm_head.weight"
        }
        check_declared(sizes, weights, str(folder))
        source = f"the checkpoint {folder}"
        model = load_weights(SmolVLMModel, config, weights, torch.float32, source)
        return cls(sizes, PromptTokenizer.read(folder), chosen, model)

    @classmethod
    def load(cls, path: str | Path) -> SmolVLMPolicy:
        """Loads a checkpoint that `save` wrote.

        Raises:
            FileNotFoundError: If there is no such checkpoint.
            ValueError: If the checkpoint is damaged, or of another kind of policy.
        """
        weights, header = load_checkpoint(path)
        try:
            entries = dict(header["config"])
            if entries.pop("architecture") != ARCHITECTURE:
                raise ValueError(f"`architecture` must be {ARCHITECTURE!r}")
            sizes, tokenizer = entries.pop("sizes"), PromptTokenizer(entries.pop("tokenizer"))
            if {*entries} != {field.name for field in fields(SmolVLMPolicySettings)}:
                raise ValueError(f"unknown or missing entries: {', '.join(map(str, entries))}")
            settings = SmolVLMPolicySettings(**entries)
            check_declared(sizes, weights, str(path))
            policy = cls(sizes, tokenizer, settings)
            policy.load_state_dict(weights)
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise ValueError(
                f"checkpoint {str(path)!r} does not fit this policy ({type(error).__name__}: "
                f"{one_line(error)})"
            ) from error
        return policy

    def prepare(
        self, observations: Mapping[str, npt.NDArray[Any]], instructions: Sequence[str]
    ) -> Inputs:
        """Converts a batch of observations into tensors; images keep their size and type.

        Returns:
            ``agentview`` and ``wrist`` ``(B, height, width, 3)`` uint8, ``proprio`` ``(B, 8)`` and
            ``prompt`` ``(B, MAX_TOKENS)``, tokens.

        Raises:
            KeyError: If an observation is missing.
            ValueError: If a shape or type is wrong, or an instruction is too long.
        """
        batch = len(instructions)
        inputs = {name: torch.as_tensor(image_batch(observations, name, batch)) for name in IMAGES}
        inputs["proprio"] = torch.as_tensor(proprio_batch(observations, batch))
        prompts = [self.tokenizer.encode(PROMPT.format(text.lower())) for text in instructions]
        inputs["prompt"] = padded(prompts)
        return {name: value.to(self.queries.device) for name, value in inputs.items()}

    def logits(self, inputs: Inputs) -> Tensor:
        """Computes logits ``(B, T, NUM_BINS)`` of the tokens of a chunk."""
        return in_parts(self._logits, inputs, self.settings.batch_size)

    def _logits(self, inputs: Inputs) -> Tensor:
        device = self.queries.device
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            prompts = trimmed(inputs["prompt"])
            text = self.model.text_model.get_input_embeddings()(prompts.clamp_min(0))
            batch = len(prompts)
            body = self.body(body_features(inputs["proprio"]))[:, None]
            queries = self.queries.expand(batch, -1, -1)
            images = [self._image_embeddings(inputs[name]) for name in IMAGES]
            parts = [*images, body, text, queries]
            sequence = torch.cat([part.to(text.dtype) for part in parts], dim=1)
            mask = torch.ones(sequence.shape[:2], dtype=torch.bool, device=device)
            first = sequence.shape[1] - queries.shape[1] - prompts.shape[1]
            mask[:, first : first + prompts.shape[1]] = prompts != PADDING
            hidden = bidirectional(self.model.text_model, sequence, mask)
            logits: Tensor = self.head(hidden[:, -queries.shape[1] :]).float()
        return logits

    def _image_embeddings(self, images: Tensor) -> Tensor:
        """Maps images ``(B, height, width, 3)`` in 0..255 to embeddings ``(B, tokens, width)``."""
        planes = images.permute(0, 3, 1, 2).float() / 127.5 - 1
        size = (self.settings.image_size,) * 2
        if planes.shape[2:] != size:
            planes = F.interpolate(planes, size, mode="bilinear", antialias=True)
        features = self.model.vision_model(pixel_values=planes).last_hidden_state
        embeddings: Tensor = self.model.connector(features)
        return embeddings

    def augment(
        self,
        inputs: Inputs,
        generator: torch.Generator,
        shift: int = SHIFT,
        jitter: float = JITTER,
    ) -> Inputs:
        """Shifts and recolours the images, see `srpo_env.policy.imitation.augment`."""
        return augment(inputs, generator, shift, jitter)

    def save(self, path: str | Path, provenance: Mapping[str, Any] | None = None) -> None:
        """Writes ``path.safetensors`` and ``path.json``, with sizes and tokenizer.

        Args:
            path: Folder and name, without an extension.
            provenance: Description of the training, for JSON.
        """
        config = {
            "architecture": ARCHITECTURE,
            **asdict(self.settings),
            "sizes": self.sizes,
            "tokenizer": self.tokenizer.content,
        }
        save_checkpoint(path, self.state_dict(), config, provenance or {})

    def restore(self, path: str | Path) -> None:
        """Takes over the weights of a checkpoint; see `Policy.restore`."""
        self.load_state_dict(SmolVLMPolicy.load(path).state_dict())
