"""lerobot's policies (ACT, SmolVLA, pi0, ...) in `LiberoVectorEnv`, through its own processors.

```python
policy = LerobotPolicy("HuggingFaceVLA/smolvla_libero")
envs = LiberoVectorEnv("libero_object", 16, chunk=policy.chunk, image_size=policy.image_size,
                       autoreset_mode=AutoresetMode.DISABLED)
result = evaluate(policy.act, envs, held_out_episodes(envs.num_tasks, 100))
```

Facts about lerobot are those of version 0.6.1, which needs Python 3.12.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

logger = logging.getLogger(__name__)

IMAGES = {"agentview": "image", "wrist": "image2"}
"""Names of our images in lerobot's LIBERO environment, ``observation.images.NAME`` in policies."""

STATE = "observation.state"

DEFAULT_SIZE = 256
"""Size in pixels of LIBERO's images in lerobot's datasets, for policies that do not name one."""

MAX_SIZE = 480
"""Size in pixels of the largest image that `LiberoEnv` renders."""


class LerobotPolicy:
    """A policy that lerobot has saved, as a function of our observations.

    lerobot's own code does the rest: the policy class that the checkpoint names, its saved pre- and
    postprocessor (normalisation, tokenizer), and the processor of lerobot's LIBERO environment,
    which rotates images by 180 degrees.

    A call predicts a chunk and returns the ``n_action_steps`` actions of it that lerobot's
    ``select_action`` would execute before it predicts the next one.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        device: str | None = None,
        rename: Mapping[str, str] | None = None,
    ) -> None:
        """Loads the policy.

        Args:
            path: Folder that ``policy.save_pretrained`` has written, with its processors, or an id
                of the Hugging Face hub.
            device: ``"cpu"``, ``"cuda"``, ...; None: the one in the checkpoint, or the CPU if that
                is not available.
            rename: Names of observations in this policy, by lerobot's names, as
                ``{"observation.images.image": "observation.images.camera1"}``.

        Raises:
            ModuleNotFoundError: If lerobot is not installed.
            FileNotFoundError: If the folder has no policy.
            ValueError: If the policy needs other observations or actions than LIBERO's, or keeps a
                state between chunks.
        """
        import torch

        policies = _imported("lerobot.policies")
        envs, processors = _imported("lerobot.envs"), _imported("lerobot.processor")
        steps = _imported("lerobot.processor.env_processor")
        folder = Path(path)
        if folder.exists() and not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"a lerobot policy must be a folder with config.json, which `save_pretrained` "
                f"writes, got {str(path)!r}"
            )
        config = _imported("lerobot.configs").PreTrainedConfig.from_pretrained(str(path))
        if device is not None:
            config.device = device
        elif config.device != "cpu" and not torch.cuda.is_available():
            config.device = "cpu"
        self.config = config
        _check(config, rename or {})
        self.chunk = int(config.n_action_steps)
        """Number of control steps between two decisions."""
        self.image_size = _image_size(config)
        """Height and width in pixels of the images that the policy was trained on."""
        cls = policies.get_policy_class(config.type)
        self._policy: Any = cls.from_pretrained(str(path), config=config)
        self._policy.eval()
        overrides: dict[str, Any] = {"device_processor": {"device": config.device}}
        if rename:
            overrides["rename_observations_processor"] = {"rename_map": dict(rename)}
        self._before, self._after = policies.make_pre_post_processors(
            config, str(path), preprocessor_overrides=overrides
        )
        self._from_env = envs.preprocess_observation
        self._libero = processors.PolicyProcessorPipeline(steps=[steps.LiberoProcessorStep()])

    def act(
        self, observations: Mapping[str, npt.NDArray[Any]], instructions: Sequence[str]
    ) -> npt.NDArray[np.float32]:
        """Returns actions ``(B, chunk, 7)`` in [-1, 1].

        Args:
            observations: As of `LiberoEnv`, with a leading axis of B.
            instructions: Instructions, of length B.
        """
        import torch

        # As lerobot's environment returns it: images upside down.
        pixels = {
            name: np.ascontiguousarray(observations[ours][:, ::-1]) for ours, name in IMAGES.items()
        }
        raw = {"pixels": pixels, "agent_pos": observations["proprio"]}
        batch = self._libero({**self._from_env(raw), "task": list(instructions)})
        with torch.inference_mode():
            chunk = self._policy.predict_action_chunk(self._before(batch))[:, : self.chunk]
            actions = torch.stack([self._after(chunk[:, t]) for t in range(chunk.shape[1])], dim=1)
        result: npt.NDArray[np.float32] = actions.cpu().float().numpy()
        return result.clip(-1.0, 1.0)


def _imported(module: str) -> Any:
    """Imports a module of lerobot, which is no requirement of this package."""
    try:
        return importlib.import_module(module)
    except ImportError as error:  # lerobot raises it for missing packages of its own, too
        raise ModuleNotFoundError(
            f"a lerobot policy needs {getattr(error, 'name', None) or 'lerobot'} ({error}): run "
            "`pip install 'lerobot>=0.6.1'` with Python 3.12 or newer, with the extra of the "
            "policy, as in 'lerobot[smolvla]'",
            name="lerobot",
        ) from error


def _check(config: Any, rename: Mapping[str, str]) -> None:
    """Checks that a policy fits the simulator and needs nothing but the current observation."""
    ours = [STATE, *(f"observation.images.{name}" for name in IMAGES.values())]
    offered = {rename.get(name, name) for name in ours}
    missing = sorted(set(config.input_features) - offered)
    if missing:
        raise ValueError(
            f"the policy must read {', '.join(sorted(offered))}, and needs {', '.join(missing)}: "
            "rename one with --rename OURS=THEIRS"
        )
    shape = tuple(config.output_features["action"].shape)
    if shape != (7,):
        raise ValueError(f"the policy must have LIBERO's actions, of shape (7,), got {shape}")
    if config.n_obs_steps != 1 or getattr(config, "temporal_ensemble_coeff", None) is not None:
        raise ValueError(
            "the policy must decide from one observation, because episodes start and end at "
            f"different times; got n_obs_steps={config.n_obs_steps} and temporal_ensemble_coeff="
            f"{getattr(config, 'temporal_ensemble_coeff', None)}"
        )
    if config.type == "xvla":
        raise ValueError("X-VLA reads another state of LIBERO's robot, which is not supported")


def _image_size(config: Any) -> int:
    sizes = {tuple(feature.shape[1:]) for feature in config.image_features.values()}
    if not sizes:
        return DEFAULT_SIZE
    size = min(max(int(max(pair)) for pair in sizes), MAX_SIZE)
    if sizes != {(size, size)}:
        logger.warning(
            "the policy was trained on images of %s pixels, and gets %d x %d",
            sorted(sizes),
            size,
            size,
        )
    return size
