"""Registers LIBERO's suites with Gymnasium, without importing LIBERO."""

from __future__ import annotations

import gymnasium

SUITE_IDS = ("libero-spatial", "libero-object", "libero-goal", "libero-10", "libero-90")


def register_envs() -> None:
    """Registers the ids, such as ``srpo_env/libero-object``; may be called twice."""
    for suite in SUITE_IDS:
        env_id = f"srpo_env/{suite}"
        if env_id not in gymnasium.registry:
            gymnasium.register(
                env_id,
                entry_point="srpo_env.libero.env:LiberoEnv",
                vector_entry_point="srpo_env.libero.vector:LiberoVectorEnv",
                kwargs={"suite": suite},
            )
