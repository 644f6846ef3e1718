"""LIBERO as Gymnasium environments: assets, fast simulation, scripted experts, recording."""

from srpo_env.system.machine import require_extra

require_extra("libero", "srpo_env.libero")
