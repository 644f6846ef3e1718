"""Loads policies of any architecture: checkpoints of this package, and published ones."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from srpo_env.policy.base import Policy
from srpo_env.policy.checkpoint import has_checkpoint, read_header
from srpo_env.policy.network import SmallPolicy
from srpo_env.readers.pretrained import is_hub_id

ARCHITECTURES = {
    "openvla-oft": "srpo_env.policy.openvla_oft:OpenVLAOFT",
    "smolvlm": "srpo_env.policy.smolvlm:SmolVLMPolicy",
}
"""class of each architecture that a checkpoint can name; without a name, it is a `SmallPolicy`"""

PUBLISHED = "openvla-oft"
"""architecture of folders and of ids of the Hugging Face hub"""


def load_policy(path: str | Path) -> Policy:
    """Loads a policy.

    Args:
        path: Path of a checkpoint, or name of a bundled one, such as ``libero-object``; or a
            published OpenVLA-OFT with discrete tokens: its folder, or its id of the Hugging Face
            hub, such as ``Haozhan72/Openvla-oft-SFT-libero-object-traj1``.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ConnectionError: If a download fails.
        ModuleNotFoundError: If the architecture needs a package that is not installed.
        ValueError: If the checkpoint is damaged, or of another kind of policy.
    """
    if not has_checkpoint(path):
        # Both agents write the first, and `vla_bc.py` also the second, at its end.
        places = ("checkpoints/iteration_*[0-9]/policy.json", "policy.json")
        own = [file for place in places for file in sorted(Path(path).glob(place))]
        if own:
            newest = own[-1].with_suffix("")
            raise FileNotFoundError(f"{path} is a run's folder: pass its policy, {newest}")
        if Path(path).is_dir() or is_hub_id(path):
            policy: Policy = architecture(PUBLISHED).from_pretrained(path)
            return policy
    config = read_header(path).get("config")
    name = config.get("architecture") if isinstance(config, dict) else None
    if name is None:
        return SmallPolicy.load(path)
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ValueError(
            f"checkpoint {str(path)!r} must be of one of the architectures "
            f"{', '.join(ARCHITECTURES)}, got {name!r}: use the version of srpo-env that wrote it"
        )
    loaded: Policy = architecture(name).load(path)
    return loaded


def architecture(name: str) -> Any:
    """Returns the class of an architecture.

    Raises:
        ModuleNotFoundError: If it needs a package that is not installed.
    """
    module, _, attribute = ARCHITECTURES[name].partition(":")
    # Imported here, because transformers takes seconds.
    return getattr(importlib.import_module(module), attribute)
