"""Stable-Baselines3: its vector environments as Gymnasium's and back, and its rollout buffer.

```python
venv = wrap_vec_env(make_vec_env(...), encoder, group_size=8)
PPO("CnnPolicy", venv).learn(100_000, callback=ShapedRewards())
```

The callback is for algorithms with a rollout buffer (PPO, A2C and their relatives). Those with a
replay buffer need ``reference="memory"`` in the wrapper, and no callback.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from srpo_env.encoders.protocol import TrajectoryEncoder
from srpo_env.rewards.diagnostics import group_statistics
from srpo_env.types import Group
from srpo_env.vector.infos import final_of, info_of
from srpo_env.vector.wrapper import SelfReferentialProgressWrapper

Array = npt.NDArray[Any]
Indices = None | int | Iterable[int]

ADDED_INFOS = ("episode_id", "env_reward", "srpo")
"""What `SelfReferentialProgressWrapper` adds: of the step, even where the rest is of a reset."""


def wrap_vec_env(
    venv: VecEnv, encoder: TrajectoryEncoder | None = None, **settings: Any
) -> GymnasiumToVecEnv:
    """Wraps a ``VecEnv`` of Stable-Baselines3 for shaped rewards; still one for its algorithms.

    Args:
        venv: From ``make_vec_env``, say.
        encoder: Turns the frames of an episode into its latent; ``None`` for the wrapper's default.
        **settings: Further arguments of `SelfReferentialProgressWrapper`.

    Raises:
        ValueError: If a setting is wrong, or ``venv`` has a ``VecNormalize`` that scales rewards.
    """
    envs = SelfReferentialProgressWrapper(VecEnvToGymnasium(venv), encoder, **settings)
    return GymnasiumToVecEnv(envs)


class VecEnvToGymnasium(VectorEnv[Any, Any, Any]):
    """A ``VecEnv`` of Stable-Baselines3 as a vector environment of Gymnasium.

    Stable-Baselines3 resets in the very step that ends an episode, so this is
    `AutoresetMode.SAME_STEP`: the last observation is in ``infos["final_obs"]``.
    """

    def __init__(self, venv: VecEnv) -> None:
        """Adapts ``venv``, which must not scale its rewards.

        Raises:
            ValueError: If ``venv`` has a ``VecNormalize`` that scales rewards.
        """
        _refuse_scaled_rewards(venv)
        self.venv = venv
        self.num_envs = venv.num_envs
        self.single_observation_space = venv.observation_space
        self.single_action_space = venv.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.render_mode = venv.render_mode
        self.metadata = {**venv.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Resets all sub-environments; ``options`` go to each of them.

        Raises:
            ValueError: If asked for what Stable-Baselines3 cannot do: to reset some of them only,
                or with seeds that do not count up from the first.
        """
        if options is not None and "reset_mask" in options:
            raise ValueError(
                "Stable-Baselines3 resets all environments at once, got options['reset_mask']"
            )
        seeds = list(seed) if np.ndim(seed) else [seed]
        if any(each is not None for each in seeds):
            first = seeds[0]
            if np.ndim(seed) and seeds != [first + index for index in range(self.num_envs)]:
                raise ValueError(
                    "`seed` must be a number, or a list that counts up from its first, as "
                    f"Stable-Baselines3 seeds its environments, got {seed!r}"
                )
            self.venv.seed(int(first))
        if options:
            self.venv.set_options(options)
        observations = self.venv.reset()
        infos: dict[str, Any] = {}
        for index, info in enumerate(self._reset_infos):
            infos = self._add_info(infos, info, index)
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """Steps every sub-environment."""
        observations, rewards, dones, info_list = self.venv.step(actions)
        truncations = np.zeros(self.num_envs, dtype=np.bool_)
        infos: dict[str, Any] = {}
        for index, info in enumerate(info_list):
            if dones[index]:
                truncations[index] = info.get("TimeLimit.truncated", False)
                final_info = dict(info)
                final_obs = final_info.pop("terminal_observation")
                final = {"final_obs": final_obs, "final_info": final_info}
                infos = self._add_info(infos, final, index)
                info = self._reset_infos[index]
            infos = self._add_info(infos, info, index)
        terminations = np.logical_and(dones, ~truncations)
        return observations, np.asarray(rewards, np.float64), terminations, truncations, infos

    def render(self) -> tuple[Any, ...] | None:
        """The images of all sub-environments, or None without a ``render_mode``."""
        return None if self.render_mode is None else tuple(self.venv.get_images())

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Calls a method of every sub-environment."""
        return tuple(self.venv.env_method(name, *args, **kwargs))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Gets an attribute of every sub-environment."""
        return tuple(self.venv.get_attr(name))

    def set_attr(self, name: str, values: Any) -> None:
        """Sets an attribute of every sub-environment: one value, or a list with one for each."""
        if not isinstance(values, (list, tuple)):
            self.venv.set_attr(name, values)
            return
        for index, value in enumerate(values):
            self.venv.set_attr(name, value, indices=index)

    def close_extras(self, **kwargs: Any) -> None:
        """Closes them."""
        self.venv.close()

    @property
    def _reset_infos(self) -> list[dict[str, Any]]:
        # Wrappers inherit an attribute of this name that nobody fills.
        return self.venv.unwrapped.reset_infos


class GymnasiumToVecEnv(VecEnv):
    """Gymnasium's vector environment, wrapped for shaped rewards, as a ``VecEnv``.

    Every end of an episode is final: ``info["TimeLimit.truncated"]`` is never set, and whether a
    time limit was the reason is in ``info["truncated"]``. Otherwise Stable-Baselines3 would add the
    discounted value of the last state, as if the episode went on after it was paid for its
    progress. The values would sum such payments up without end, and failing slowly would come to be
    worth more than a success, which ends with its 1.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        """Adapts ``envs``.

        Args:
            envs: A `SelfReferentialProgressWrapper`, possibly with other wrappers around it, over
                an environment with `AutoresetMode.SAME_STEP` or ``DISABLED``.

        Raises:
            ValueError: If the autoreset mode is another, or the wrapper is not among the layers.
        """
        self.envs = envs
        self.wrapper = _find_wrapper(envs)
        self._mode = envs.metadata["autoreset_mode"]
        if self._mode is AutoresetMode.NEXT_STEP:
            # Its resetting step would be one more transition in the buffer, with an action that
            # did nothing.
            raise ValueError(
                "Stable-Baselines3 expects the reset in the step that ends an episode; make the "
                "environments with autoreset_mode=AutoresetMode.SAME_STEP, or DISABLED if "
                f'frames="render", got {self._mode}'
            )
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)
        self._actions: Array | None = None

    def reset(self) -> VecEnvObs:
        """Resets all sub-environments, with the seeds and options that were set for it."""
        options = self._options[0]
        if any(other != options for other in self._options):
            raise ValueError(
                "Gymnasium's vector environments take one set of options for all, got "
                f"{self._options}"
            )
        seeds: Any = list(self._seeds)  # a list is not in the base class's signature, but in all
        observations, infos = self.envs.reset(seed=seeds, options=options or None)
        self.reset_infos = [
            _without(ADDED_INFOS, info_of(infos, index, self.num_envs))
            for index in range(self.num_envs)
        ]
        self._reset_seeds()
        self._reset_options()
        return cast(VecEnvObs, observations)

    def step_async(self, actions: Array) -> None:
        """Takes the actions that `step_wait` executes."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Steps every sub-environment, and resets those whose episode has ended."""
        observations, rewards, terminations, truncations, infos = self.envs.step(self._actions)
        dones = np.logical_or(terminations, truncations)
        info_list = [info_of(infos, index, self.num_envs) for index in range(self.num_envs)]
        ended = [int(index) for index in np.flatnonzero(dones)]
        if ended and self._mode is AutoresetMode.SAME_STEP:
            for index in ended:
                info = info_list[index]
                last = final_of("final_info", infos, index, self.num_envs)
                added = {name: info[name] for name in ADDED_INFOS if name in info}
                self.reset_infos[index] = _without((*ADDED_INFOS, "final_obs", "final_info"), info)
                last_observation = final_of("final_obs", infos, index, self.num_envs)
                info_list[index] = {**last, **added, "terminal_observation": last_observation}
        elif ended:
            singles = list(iterate(self.envs.observation_space, observations))
            for index in ended:
                info_list[index]["terminal_observation"] = singles[index]
            observations, infos = self.envs.reset(options={"reset_mask": dones})
            for index in ended:
                self.reset_infos[index] = _without(
                    ADDED_INFOS, info_of(infos, index, self.num_envs)
                )
        for index, info in enumerate(info_list):
            info["truncated"] = bool(truncations[index])
            info["TimeLimit.truncated"] = False  # the class says why
        return cast(VecEnvObs, observations), np.asarray(rewards, np.float32), dones, info_list

    def close(self) -> None:
        """Closes the environments."""
        self.envs.close()

    def get_images(self) -> Sequence[Array | None]:
        """The image of each sub-environment; None without a ``render_mode``."""
        images: Any = self.envs.render()
        return [None] * self.num_envs if images is None else list(images)

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Gets an attribute of sub-environments."""
        if attr_name == "render_mode":
            values: Sequence[Any] = [self.envs.render_mode] * self.num_envs
        else:
            values = self.wrapper.get_attr(attr_name)
        return [values[index] for index in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Sets an attribute of all sub-environments."""
        self._check_all(indices)
        self.wrapper.set_attr(attr_name, [value] * self.num_envs)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Calls a method of all sub-environments."""
        self._check_all(indices)
        return list(self.wrapper.call(method_name, *method_args, **method_kwargs))

    def env_is_wrapped(self, wrapper_class: Any, indices: Indices = None) -> list[bool]:
        """Whether sub-environments have a wrapper; False where Gymnasium cannot tell."""
        base = self.envs.unwrapped
        if isinstance(base, VecEnvToGymnasium):
            return base.venv.env_is_wrapped(wrapper_class, indices)
        return [False for _ in self._get_indices(indices)]

    def _check_all(self, indices: Indices) -> None:
        if list(self._get_indices(indices)) != list(range(self.num_envs)):
            raise ValueError(
                "Gymnasium's vector environments call all sub-environments at once, got indices "
                f"{indices}"
            )


class ShapedRewards(BaseCallback):
    """Writes the shaped rewards into the rollout buffer, and computes its advantages anew.

    Logs the figures of `group_statistics` as ``srpo/...``.
    """

    def __init__(self) -> None:
        """Waits for the algorithm that it is passed to."""
        super().__init__()
        self.groups: list[Group] = []
        """groups that were closed in the last rollout"""

    def _init_callback(self) -> None:
        if not isinstance(getattr(self.model, "rollout_buffer", None), RolloutBuffer):
            raise TypeError(
                "ShapedRewards needs an algorithm with a rollout buffer, such as PPO, got "
                f"{type(self.model).__name__}; for one with a replay buffer leave it out and pass "
                'the wrapper reference="memory"'
            )
        _refuse_scaled_rewards(self.training_env)
        base = self.training_env.unwrapped
        if not isinstance(base, GymnasiumToVecEnv):
            raise TypeError(
                "ShapedRewards needs a GymnasiumToVecEnv as the innermost environment of the "
                f"algorithm, got {type(base).__name__}"
            )
        self._wrapper = base.wrapper

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer: RolloutBuffer = cast(Any, self.model).rollout_buffer
        self._wrapper.rewrite(buffer.rewards)
        # Computed once already, from the rewards that the environment paid. At this moment the
        # algorithm's local `values` are those of the state after the last step.
        buffer.compute_returns_and_advantage(self.locals["values"], self.locals["dones"])
        self.groups = self._wrapper.pop_groups()
        for name, value in group_statistics(self.groups).as_dict("srpo/").items():
            self.logger.record(name, value)


def _find_wrapper(envs: VectorEnv[Any, Any, Any]) -> SelfReferentialProgressWrapper:
    layer: Any = envs
    while layer is not None:
        if isinstance(layer, SelfReferentialProgressWrapper):
            return layer
        layer = getattr(layer, "env", None)
    raise ValueError(
        f"`envs` must have a SelfReferentialProgressWrapper among its layers, got {envs}"
    )


def _refuse_scaled_rewards(venv: VecEnv) -> None:
    layer: Any = venv
    while isinstance(layer, VecEnvWrapper):
        # A success would earn 1 divided by something, and a failure still up to 0.8.
        if isinstance(layer, VecNormalize) and layer.norm_reward:
            raise ValueError(
                "VecNormalize must leave the rewards as they are, or a failure could earn more "
                "than a success: pass it norm_reward=False"
            )
        layer = layer.venv


def _without(names: Iterable[str], info: dict[str, Any]) -> dict[str, Any]:
    dropped = set(names)
    return {name: value for name, value in info.items() if name not in dropped}
