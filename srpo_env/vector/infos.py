"""Reads success flags, tasks and group keys from the infos of a vector environment.

Environments name these differently, and a wrong guess would reward the wrong episodes without an
error. The defaults are therefore a list of known names, and anything ambiguous raises an error that
names the argument to pass.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from srpo_env.types import as_array, as_key

SUCCESS_KEYS = ("is_success", "success")
"""Success flags by convention: this package, lerobot, Gymnasium-Robotics; Meta-World, ManiSkill."""

ONCE = "once"
"""Success setting: the flag was set in any step of the episode."""

BROKEN = "worker_error"
"""Key in the info of an episode that ended because its simulator failed. The episode is dropped,
because its end does not depend on the policy. This package's LIBERO environments set the key to the
error report."""

PERTURBATION = "perturbation"
"""Key in the info of a perturbed episode of this package's LIBERO environments: a text."""

FINAL_NAMES = {"final_obs": ("final_obs", "final_observation"), "final_info": ("final_info",)}
"""Names of the observation and the info of an episode's last step in SAME_STEP environments."""

Info = dict[str, Any]
Key = Callable[[Info, int], Hashable]
"""Maps the info of an episode's reset and the index of its sub-environment to a key."""


def info_of(infos: Any, index: int, num_envs: int) -> Info:
    """Returns the info of one sub-environment.

    Args:
        infos: Return value of a vector environment: a dictionary of arrays and masks, or a list of
            dictionaries. A key whose mask ``_key`` is False at ``index`` is left out. A string, a
            scalar, or an array whose length is not ``num_envs`` applies to all sub-environments.
        index: Index of the sub-environment.
        num_envs: Number of sub-environments.
    """
    if not isinstance(infos, Mapping):
        return dict(infos[index])
    info = {}
    for key, values in infos.items():
        if isinstance(key, str) and key.startswith("_") and key[1:] in infos:
            continue
        mask = infos.get(f"_{key}")
        if mask is not None and not mask[index]:
            continue
        info[key] = _part_of(values, index, num_envs)
    return info


def final_of(name: str, infos: Any, index: int, num_envs: int) -> Any:
    """Returns the last observation or info of an episode in SAME_STEP mode; None if it is missing.

    Args:
        name: ``"final_obs"`` or ``"final_info"``.
        infos: Return value of the vector environment.
        index: Index of the sub-environment.
        num_envs: Number of sub-environments.
    """
    info = info_of(infos, index, num_envs)
    return next((info[key] for key in FINAL_NAMES[name] if info.get(key) is not None), None)


def missing_final(name: str, infos: Any, index: int) -> ValueError:
    """Returns the error for an episode's end without its last observation or info."""
    return ValueError(
        f"AutoresetMode.SAME_STEP promises infos[{name!r}] when an episode ends, but that of "
        f"environment {index} is not among {sorted(infos)}"
        + ("" if name == "final_obs" else '; pass success="terminated" if it needs no info')
    )


def look_up(tree: Any, path: str) -> Any:
    """Returns the entry of nested mappings at a path such as ``"pixels/image"``, or None.

    A key may itself contain slashes.
    """
    if not isinstance(tree, (Mapping, spaces.Dict)):
        return None
    if path in tree.keys():
        return tree[path]
    for end in range(len(path)):
        if path[end] == "/" and path[:end] in tree.keys():
            found = look_up(tree[path[:end]], path[end + 1 :])
            if found is not None:
                return found
    return None


def _part_of(values: Any, index: int, num_envs: int) -> Any:
    if isinstance(values, Mapping):
        return info_of(values, index, num_envs)
    if isinstance(values, (str, bytes)) or np.ndim(values) == 0:
        return values
    return values[index] if len(values) == num_envs else values


# --- Success ---


def success_of(info: Info, terminated: bool, success: str | Callable[[Info], Any] | None) -> bool:
    """Returns whether an episode succeeded, from the info of its last step.

    Args:
        info: Info of the sub-environment at the last step.
        terminated: Whether that step terminated the episode.
        success: Path into the info, ``"terminated"``, a callable of the info, or ``None`` for the
            conventions in `SUCCESS_KEYS`.

    Raises:
        ValueError: If there is no flag, its value is not 0 or 1, or two conventions disagree.
    """
    if success == "terminated":
        return terminated
    if callable(success):
        return _flag(success(info), "`success(info)`")
    paths = SUCCESS_KEYS if success in (None, ONCE) else (str(success),)
    flags = {
        path: _flag(value, f"info[{path!r}]")
        for path in paths
        if (value := look_up(info, path)) is not None
    }
    if not flags:
        raise ValueError(
            f"No success flag {' or '.join(map(repr, paths))} in the info of an episode's last "
            f"step, which has {sorted(info)}; pass `success` the name of the flag, "
            'success="terminated" if the environment terminates on success only, or a callable of '
            "the info"
        )
    if len(set(flags.values())) > 1:
        raise ValueError(f"The success flags disagree: {flags}; pass `success` the one that counts")
    return next(iter(flags.values()))


def _flag(value: Any, name: str) -> bool:
    flag = as_array(value)
    if flag.size != 1 or flag.item() not in (0, 1):
        raise ValueError(f"{name} must be a single bool, or 0 or 1, got {value!r}")
    return bool(flag.item())


# --- Keys ---


class KeySource:
    """Determines the group and the task of an episode from the info of its reset."""

    def __init__(
        self, envs: VectorEnv[Any, Any, Any], group_key: Key | None, task_key: Key | None
    ) -> None:
        """Initialises the source.

        Args:
            envs: Vector environment; the default task key uses the names of its sub-environments.
            group_key: Callable that returns the group key; ``None`` for the default.
            task_key: Callable that returns the task key; ``None`` for the default.

        Raises:
            TypeError: If a key is not a callable.
        """
        for name, key in (("group_key", group_key), ("task_key", task_key)):
            if not (key is None or callable(key)):
                raise TypeError(
                    f"`{name}` must be a callable of the info of an episode's reset and the index "
                    f'of its sub-environment, such as lambda info, env_index: info["task_id"], '
                    f"got {key!r}"
                )
        self._names = _names_of_different(envs)
        self._task_key: Key = task_key or self._default_task
        self._group_key: Key = group_key or self._default_group
        self._checks_end = group_key is None and task_key is None

    def at_start(self, info: Info, env_index: int) -> tuple[Hashable, Hashable]:
        """Returns the key of the group and the key of the task."""
        return as_key(self._group_key(info, env_index)), as_key(self._task_key(info, env_index))

    def late_task(self, task: Hashable, info: Info, known: Hashable) -> Hashable:
        """Returns the task of the episodes if only the infos of their last steps name it.

        Args:
            task: Task key of the episode, from its reset.
            info: Info of the episode's last step.
            known: Return value of the last call for an earlier episode; None at first.

        Raises:
            ValueError: If episodes of different tasks would be compared with each other.
        """
        late_task = as_key(task_in(info))
        if not self._checks_end or task is not None or late_task is None:
            return known
        if known not in (None, late_task):
            raise ValueError(
                f"Episodes of tasks {known!r} and {late_task!r} would be compared as one "
                "task, because only the info of `step` names the task; put `task_id` into the info "
                "of `reset`, or pass `group_key` and `task_key`"
            )
        return late_task

    def _default_task(self, info: Info, env_index: int) -> Hashable:
        """Returns the task in the info, or else the environment's name if the names differ."""
        task = task_in(info)
        return self._names[env_index] if task is None and self._names else task

    def _default_group(self, info: Info, env_index: int) -> Hashable:
        """Returns the task and the initial state, each None if the info does not name it.

        Also the perturbation of an episode that has one.
        """
        key = (self._task_key(info, env_index), info.get("init_state_id"))
        return key if info.get(PERTURBATION) is None else (*key, info[PERTURBATION])


def task_in(info: Info) -> Any:
    """Returns ``task_id`` or the text ``task`` of an info; None if it has neither."""
    task = info.get("task_id")
    if task is None and isinstance(info.get("task"), str):
        task = info["task"]
    return task


def _names_of_different(envs: VectorEnv[Any, Any, Any]) -> list[str]:
    """Returns the name of each sub-environment, or an empty list if all names are equal."""
    base = envs.unwrapped
    if not isinstance(base, (SyncVectorEnv, AsyncVectorEnv)):
        return []
    # Names of all wrappers, and the id of the environment or the name of its class.
    names = [str(name) for name in base.call("__str__")]
    return names if len(set(names)) > 1 else []


def with_added(
    infos: Any, added: Mapping[str, Any], add_info: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    """Returns the infos of a step with further entries.

    Args:
        infos: Infos of the environments, a dictionary or a list of dictionaries.
        added: Further entries with their masks; an ``episode_id`` of the environments' own is
            called ``env_episode_id`` in the result.
        add_info: Gymnasium's ``VectorEnv._add_info``.
    """
    if not isinstance(infos, Mapping):
        # A list of dictionaries, as older libraries return it.
        merged: dict[str, Any] = {}
        for index, info in enumerate(infos):
            merged = add_info(merged, info, index)
        infos = merged
    names = {"episode_id": "env_episode_id", "_episode_id": "_env_episode_id"}
    own = {names[name]: value for name, value in infos.items() if name in names}
    return {**infos, **own, **added}
