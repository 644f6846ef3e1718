"""Runs LIBERO environments on many hosts: the workers of `LiberoVectorEnv` as Ray actors.

Ray decides which host runs which actor, starts it there, and reports when it has died.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from srpo_env.libero.vector import LiberoVectorEnv
from srpo_env.libero.worker import Setup
from srpo_env.system.machine import install_command

try:
    import ray

    from srpo_env.libero.ray_worker import RayWorker
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"RayVectorEnv needs {error.name}: run `{install_command('ray')}`", name=error.name
    ) from error

OWN_OPTIONS = ("max_restarts", "max_task_retries", "max_concurrency", "concurrency_groups", "name")
"""Options of Ray's actors that `RayVectorEnv` sets itself."""


class RayVectorEnv(LiberoVectorEnv):
    """`LiberoVectorEnv` whose workers are Ray actors, on any hosts of a Ray cluster.

    All of it works in the same way, and the states are the same. A worker that dies, also with its
    host, is replaced by a new actor, for which Ray finds a host; its episodes are returned as
    truncated, with ``infos["worker_error"]``.

    This process uses the Ray that it is connected to. Otherwise it calls ``ray.init()``, which
    connects to the cluster in the variable ``RAY_ADDRESS``, or to one on this machine, or starts
    Ray on this machine. The hosts need ``srpo-env[libero,ray]`` of the same version, and LIBERO's
    assets.

    A chunk sends 224 bytes of actions per environment, and brings its observation back: 98 kB for
    two images of 128 x 128 pixels. Images that the policy does not read need not be sent: with
    ``wrap=EncodeEpisodes(...)``, the actors encode the videos, and the latents are sent.

    >>> envs = RayVectorEnv("libero_object", num_envs=64, num_workers=16)  # doctest: +SKIP
    """

    def __init__(
        self,
        suite: str | None = None,
        num_envs: int = 8,
        *,
        num_workers: int | None = None,
        ray_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Creates the actors, which Ray starts as it finds room for them.

        Args:
            suite: As in `LiberoVectorEnv`.
            num_envs: Number of environments.
            num_workers: Number of actors; default: one per CPU of the cluster, at most
                ``num_envs``.
            ray_options: Ray's options of each actor, such as ``{"num_cpus": 1}`` (the default),
                ``{"num_gpus": 0.1}``, ``{"scheduling_strategy": "SPREAD"}`` or ``runtime_env``.
            **kwargs: Further arguments of `LiberoVectorEnv`. Its ``timeout`` includes the time that
                Ray needs to start an actor.

        Raises:
            ValueError: If an argument is out of its range, or Ray has no room for one actor.
        """
        self._ray_options = {"num_cpus": 1, **(ray_options or {})}
        own = sorted(set(self._ray_options) & set(OWN_OPTIONS))
        if own:
            raise ValueError(
                f"`ray_options` must not contain {', '.join(own)}, which the environment sets "
                "itself: it replaces actors that have died"
            )
        if not ray.is_initialized():
            ray.init(include_dashboard=False)
        if num_workers is None:
            cpus = ray.cluster_resources().get("CPU", 0) / (self._ray_options["num_cpus"] or 1)
            if cpus < 1:
                raise ValueError(
                    f"`ray_options` must ask for CPUs that the cluster has, got num_cpus="
                    f"{self._ray_options['num_cpus']} for {ray.cluster_resources().get('CPU', 0)}"
                )
            num_workers = max(1, min(int(cpus), num_envs))
        super().__init__(suite, num_envs, num_workers=num_workers, **kwargs)

    @property
    def worker_nodes(self) -> list[str]:
        """Ray's id of the node of each worker."""
        return [node for node, _ in self._places()]

    @property
    def worker_pids(self) -> list[int]:
        """Process id of each worker on its host."""
        return [pid for _, pid in self._places()]

    def _places(self) -> list[tuple[str, int]]:
        return [w.process.place() for w in self._dispatcher.workers if isinstance(w, RayWorker)]

    def _start_worker(
        self, slots: tuple[int, ...], show_progress: Callable[[Any], object]
    ) -> RayWorker:
        setup = Setup(self._env_kwargs, slots, self.num_envs, self.wrap, memory=None)
        return RayWorker(setup, show_progress, self._shared.put, self._ray_options)
