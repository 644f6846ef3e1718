"""The simulators of an agent: processes of this machine, or Ray actors on any hosts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import gymnasium
from gymnasium.vector import AutoresetMode

from srpo_env.system.machine import require_extra, usable_cores
from srpo_env.training.distributed import Ranks

Simulators = Literal["local", "ray"]

RAY_ENTRY_POINT = "srpo_env.libero.ray_vector:RayVectorEnv"


def make_simulators(
    kind: Simulators, gym_id: str, ranks: Ranks, *, num_workers: int | None, **kwargs: Any
) -> Any:
    """Makes the vector environment of a suite, with autoreset disabled.

    Args:
        kind: ``"local"``: worker processes of this machine; ``"ray"``: Ray actors.
        gym_id: Id of the suite in Gymnasium's registry.
        ranks: The learners; those on one host share its cores.
        num_workers: Number of workers; None: one per core of this machine, or of the Ray cluster.
        **kwargs: Further arguments of `LiberoVectorEnv`.

    Raises:
        ModuleNotFoundError: If LIBERO or Ray is not installed.
        ValueError: If an argument is out of its range.
    """
    spec = gymnasium.spec(gym_id)
    if kind == "ray":
        require_extra("ray", "--simulators ray")
        spec = replace(spec, vector_entry_point=RAY_ENTRY_POINT)
    elif num_workers is None and ranks.local_size > 1:
        num_workers = max(1, min(kwargs["num_envs"], int(usable_cores()) // ranks.local_size))
    return gymnasium.make_vec(
        spec, num_workers=num_workers, autoreset_mode=AutoresetMode.DISABLED, **kwargs
    )
