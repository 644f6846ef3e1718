"""Random observations, and a policy that is fast to create."""

import numpy as np
import torch

from srpo_env.policy import PolicyConfig, SmallPolicy

INSTRUCTION = "pick up the milk and place it in the basket"


def make_policy(seed=0, **config):
    torch.manual_seed(seed)
    small = {"image_size": 32, "channels": (8, 8, 8), "width": 32, "text_width": 16, "heads": 2}
    return SmallPolicy(PolicyConfig(**{**small, **config}))


def make_observations(batch=3, size=32, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "agentview": rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8),
        "wrist": rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8),
        "proprio": rng.uniform(-0.3, 0.3, (batch, 8)).astype(np.float32),
    }
