"""Stable-Baselines3: converts its vector environments to Gymnasium's and back, for shaped rewards.

```python
venv = wrap_vec_env(make_vec_env(...), encoder, group_size=8)
PPO("CnnPolicy", venv).learn(100_000, callback=ShapedRewards())
```

If the observations contain no image, render it inside each environment:

```python
venv = make_vec_env("CartPole-v1", n_envs=8, wrapper_class=RenderInInfo)
venv = wrap_vec_env(venv, encoder, frames="info/rendered")
```

The callback is for algorithms with a rollout buffer: PPO, A2C, TRPO, RecurrentPPO, MaskablePPO.
Those with a replay buffer, such as SAC and DQN, use `sb3_replay.ShapedReplayRewards`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space, iterate

from srpo_env.encoders.protocol import TrajectoryEncoder
from srpo_env.rewards.diagnostics import group_statistics
from srpo_env.types import Array, Credit, Group, checked_credit
from srpo_env.vector.infos import final_of, info_of
from srpo_env.vector.wrapper import SelfReferentialProgressWrapper

try:
    from stable_baselines3.common.buffers import RolloutBuffer
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import is_wrapped
    from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"srpo_env.adapters.stable_baselines3 needs {error.name}: "
        "run `pip install 'srpo-env[sb3]'`",
        name=error.name,
    ) from error

Indices = None | int | Iterable[int]

ADDED_INFOS = ("episode_id", "env_reward", "srpo")
"""Keys that `SelfReferentialProgressWrapper` adds. They describe the step, even where the rest of
the info describes a reset."""

MAX_UNFETCHED_EPISODES = 64
"""Number of ended episodes after which a warning is issued if nothing fetches their rewards."""


def wrap_vec_env(
    venv: VecEnv, encoder: TrajectoryEncoder | None = None, **settings: Any
) -> GymnasiumToVecEnv:
    """Wraps a ``VecEnv`` of Stable-Baselines3 for shaped rewards.

    Args:
        venv: For example from ``make_vec_env``.
        encoder: Maps the frames of an episode to its latent; ``None`` for the wrapper's default.
        **settings: Further arguments of `SelfReferentialProgressWrapper`.

    Returns:
        A ``VecEnv`` for the algorithms of Stable-Baselines3.

    Raises:
        TypeError: If ``venv`` is not a ``VecEnv``.
        ValueError: If a setting is wrong, or ``venv`` has a ``VecNormalize`` that scales rewards.
    """
    if settings.get("frames") == "render":
        raise ValueError(
            'frames="render" cannot see the last frame of an episode, because Stable-Baselines3 '
            "resets before it returns: write make_vec_env(..., wrapper_class="
            'srpo_env.RenderInInfo) and wrap_vec_env(venv, encoder, frames="info/rendered")'
        )
    envs = SelfReferentialProgressWrapper(VecEnvToGymnasium(venv), encoder, **settings)
    return GymnasiumToVecEnv(envs)


class VecEnvToGymnasium(VectorEnv[Any, Any, Any]):
    """Converts a ``VecEnv`` of Stable-Baselines3 to a vector environment of Gymnasium.

    Stable-Baselines3 resets in the step that ends an episode, so the mode is
    `AutoresetMode.SAME_STEP`, with the last observation in ``infos["final_obs"]``.
    """

    def __init__(self, venv: VecEnv) -> None:
        """Converts ``venv``, which must not scale its rewards.

        Raises:
            TypeError: If ``venv`` is not a ``VecEnv``.
            ValueError: If ``venv`` has a ``VecNormalize`` that scales rewards.
        """
        if not isinstance(venv, VecEnv):
            raise TypeError(
                "`venv` must be a VecEnv of Stable-Baselines3, such as make_vec_env(...); for a "
                "vector environment of Gymnasium write GymnasiumToVecEnv("
                f"SelfReferentialProgressWrapper(envs, encoder)). Got {venv}"
            )
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
            ValueError: If only some environments are selected, or the seeds are not consecutive;
                Stable-Baselines3 supports neither.
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
                    "`seed` must be a number, or a list that counts up from its first element, "
                    f"because Stable-Baselines3 seeds its environments this way, got {seed!r}"
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
        """Steps every sub-environment.

        Raises:
            ValueError: If ``venv`` does not return the last observation of an episode.
        """
        observations, rewards, dones, info_list = self.venv.step(actions)
        truncations = np.zeros(self.num_envs, dtype=np.bool_)
        infos: dict[str, Any] = {}
        for index, info in enumerate(info_list):
            if dones[index]:
                truncations[index] = info.get("TimeLimit.truncated", False)
                final_info = dict(info)
                if "terminal_observation" not in final_info:
                    raise ValueError(
                        "`venv` must put the last observation of an episode into its info, as "
                        "info['terminal_observation'], like DummyVecEnv and SubprocVecEnv do; "
                        f"{type(self.venv.unwrapped).__name__} returned an info with {sorted(info)}"
                    )
                final_obs = final_info.pop("terminal_observation")
                final = {"final_obs": final_obs, "final_info": final_info}
                infos = self._add_info(infos, final, index)
                info = self._reset_infos[index]
            infos = self._add_info(infos, info, index)
        terminations = np.logical_and(dones, ~truncations)
        return observations, np.asarray(rewards, np.float64), terminations, truncations, infos

    def render(self) -> tuple[Any, ...] | None:
        """Returns the images of all sub-environments, or None without a ``render_mode``."""
        return None if self.render_mode is None else tuple(self.venv.get_images())

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Calls a method of every sub-environment."""
        return tuple(self.venv.env_method(name, *args, **kwargs))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Returns an attribute of every sub-environment."""
        return tuple(self.venv.get_attr(name))

    def set_attr(self, name: str, values: Any) -> None:
        """Sets an attribute of every sub-environment: one value, or a list with one for each."""
        if not isinstance(values, (list, tuple)):
            self.venv.set_attr(name, values)
            return
        for index, value in enumerate(values):
            self.venv.set_attr(name, value, indices=index)

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the sub-environments."""
        self.venv.close()

    def __del__(self) -> None:
        """Leaves ``venv`` open, because it is the caller's; Gymnasium 1.2 would close it."""

    @property
    def _reset_infos(self) -> list[dict[str, Any]]:
        # `VecEnvWrapper` inherits an attribute of this name and never fills it.
        return self.venv.unwrapped.reset_infos


class GymnasiumToVecEnv(VecEnv):
    """Converts Gymnasium's vector environment, wrapped for shaped rewards, to a ``VecEnv``.

    **Time limits.** Every end of an episode is final: ``info["TimeLimit.truncated"]`` is always
    False, and ``info["truncated"]`` is True if a time limit ended the episode. Stable-Baselines3
    would otherwise add the discounted value of the last observation to the last reward (time-limit
    bootstrapping), as if the episode continued after its progress reward. The value function would
    sum such rewards without bound, and a slow failure could return more than a success, which ends
    with its reward of 1. In a replay buffer, `ShapedReplayRewards` marks only the ends of rewarded
    failures as terminal.

    Attributes:
        wrapper: The `SelfReferentialProgressWrapper` among the layers.
        rewards_are_fetched: Whether something fetches the shaped rewards. `ShapedRewards` sets it.
            Set it yourself if your code calls `wrapper.rewrite` or `wrapper.pop_groups`; otherwise
            a warning is issued after some episodes.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        """Converts ``envs``.

        Args:
            envs: A `SelfReferentialProgressWrapper`, possibly with other wrappers around it, over
                an environment with `AutoresetMode.SAME_STEP` or ``DISABLED``.

        Raises:
            ValueError: If the autoreset mode is another, or the wrapper is not among the layers.
        """
        self.envs = envs
        self.wrapper = _find_wrapper(envs)
        # With reference="memory", `step` itself returns the shaped rewards.
        self.rewards_are_fetched = self.wrapper.reference == "memory"
        self._mode = envs.metadata["autoreset_mode"]
        if self._mode is AutoresetMode.NEXT_STEP:
            # Its resetting step would be one more transition in the buffer, with an action that
            # has no effect.
            raise ValueError(
                "Stable-Baselines3 needs environments that do not reset in the next step, but "
                "NEXT_STEP is the default of Gymnasium: make them with gymnasium.make_vec(..., "
                'vectorization_mode="sync", vector_kwargs={"autoreset_mode": '
                "gymnasium.vector.AutoresetMode.DISABLED}), or with SyncVectorEnv(..., "
                f"autoreset_mode=AutoresetMode.DISABLED). Got {self._mode}"
            )
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)
        self._actions: Array | None = None
        self._num_unfetched = 0

    def reset(self) -> VecEnvObs:
        """Resets all sub-environments, with the seeds and options that were set for it.

        Raises:
            ValueError: If the options of the sub-environments differ.
        """
        options = self._options[0]
        if any(other != options for other in self._options):
            raise ValueError(
                "Gymnasium's vector environments take one set of options for all, got "
                f"{self._options}"
            )
        seeds: Any = list(self._seeds)  # all implementations take a list, the signature does not
        observations, infos = self.envs.reset(seed=seeds, options=options or None)
        self.reset_infos = [
            _without(ADDED_INFOS, info_of(infos, index, self.num_envs))
            for index in range(self.num_envs)
        ]
        self._reset_seeds()
        self._reset_options()
        return cast(VecEnvObs, observations)

    def step_async(self, actions: Array) -> None:
        """Stores the actions that `step_wait` executes."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Steps every sub-environment, and resets those whose episode has ended."""
        observations, rewards, terminations, truncations, infos = self.envs.step(self._actions)
        dones = np.logical_or(terminations, truncations)
        info_list = [info_of(infos, index, self.num_envs) for index in range(self.num_envs)]
        ended = [int(index) for index in np.flatnonzero(dones)]
        if not self.rewards_are_fetched:
            self._warn_if_unfetched(len(ended))
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
            info["TimeLimit.truncated"] = False  # see "Time limits" above
        return cast(VecEnvObs, observations), np.asarray(rewards, np.float32), dones, info_list

    def close(self) -> None:
        """Closes the environments."""
        self.envs.close()

    def get_images(self) -> Sequence[Array | None]:
        """Returns the image of each sub-environment; None without a ``render_mode``."""
        images: Any = self.envs.render()
        return [None] * self.num_envs if images is None else list(images)

    # --- Access to sub-environments ---

    def has_attr(self, attr_name: str) -> bool:
        """Returns whether all sub-environments have an attribute."""
        if isinstance(self.envs.unwrapped, AsyncVectorEnv):
            # An AttributeError in a worker process would end all of them.
            return all(self.wrapper.call("has_wrapper_attr", attr_name))
        return super().has_attr(attr_name)

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Returns an attribute of sub-environments.

        Raises:
            AttributeError: If they do not have it.
        """
        base, chosen = self.envs.unwrapped, list(self._get_indices(indices))
        if attr_name == "render_mode":
            return [self.envs.render_mode] * len(chosen)
        if isinstance(base, VecEnvToGymnasium):
            return base.venv.get_attr(attr_name, chosen)
        if isinstance(base, SyncVectorEnv):
            return [base.envs[index].get_wrapper_attr(attr_name) for index in chosen]
        self._check_attr(attr_name)
        values = self.wrapper.get_attr(attr_name)
        return [values[index] for index in chosen]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Sets an attribute of sub-environments."""
        base, chosen = self.envs.unwrapped, list(self._get_indices(indices))
        if isinstance(base, VecEnvToGymnasium):
            base.venv.set_attr(attr_name, value, chosen)
        elif isinstance(base, SyncVectorEnv):
            for index in chosen:
                base.envs[index].set_wrapper_attr(attr_name, value)
        elif len(set(chosen)) == self.num_envs:
            self.wrapper.set_attr(attr_name, [value] * self.num_envs)
        else:
            # Gymnasium sets all of them at once, so the others get the value that they have.
            values = self.get_attr(attr_name)
            for index in chosen:
                values[index] = value
            self.wrapper.set_attr(attr_name, values)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Calls a method of sub-environments.

        Raises:
            AttributeError: If they do not have it.
            ValueError: If only some of them are to be called and their vector environment can only
                call all of them.
        """
        base, chosen = self.envs.unwrapped, list(self._get_indices(indices))
        if isinstance(base, VecEnvToGymnasium):
            venv = base.venv
            return venv.env_method(method_name, *method_args, indices=chosen, **method_kwargs)
        if isinstance(base, SyncVectorEnv):
            methods = [base.envs[index].get_wrapper_attr(method_name) for index in chosen]
            return [method(*method_args, **method_kwargs) for method in methods]
        if chosen != list(range(self.num_envs)):
            raise ValueError(
                f"{type(base).__name__} can call a method of all sub-environments only, got indices"
                f" {indices}: use gymnasium.vector.SyncVectorEnv, or a VecEnv of Stable-Baselines3"
            )
        self._check_attr(method_name)
        return list(self.wrapper.call(method_name, *method_args, **method_kwargs))

    def env_is_wrapped(self, wrapper_class: Any, indices: Indices = None) -> list[bool]:
        """Returns whether sub-environments have a wrapper; False if it is unknown."""
        base, chosen = self.envs.unwrapped, list(self._get_indices(indices))
        if isinstance(base, VecEnvToGymnasium):
            return base.venv.env_is_wrapped(wrapper_class, chosen)
        if isinstance(base, SyncVectorEnv):
            return [is_wrapped(base.envs[index], wrapper_class) for index in chosen]
        return [False] * len(chosen)

    def _check_attr(self, name: str) -> None:
        if isinstance(self.envs.unwrapped, AsyncVectorEnv) and not self.has_attr(name):
            raise AttributeError(f"The sub-environments have no attribute {name!r}")

    def _warn_if_unfetched(self, num_ended: int) -> None:
        self._num_unfetched += num_ended
        if self._num_unfetched < MAX_UNFETCHED_EPISODES:
            return
        self.rewards_are_fetched = True  # one warning is enough
        warnings.warn(
            f"{self._num_unfetched} episodes have ended, and nothing fetches their shaped rewards: "
            "write learn(..., callback=ShapedRewards()), or ShapedReplayRewards() with a replay "
            "buffer. If your own code calls `venv.wrapper.rewrite` or `venv.wrapper.pop_groups`, "
            "set venv.rewards_are_fetched = True. For evaluation use environments without the "
            "wrapper: it encodes every episode",
            stacklevel=4,
        )


class ShapedRewards(BaseCallback):
    """Adds the shaped rewards to the rollout buffer, and to its advantages and returns.

    ``ShapedRewards(credit="dense")`` pays each return along the way.

    Logs the statistics of the rollout's groups as ``srpo/...``, because Stable-Baselines3 already
    logs a success rate as ``rollout/...``.

    Attributes:
        groups: The groups that were closed in the last rollout.
    """

    def __init__(self, credit: Credit = "episode") -> None:
        """Initialises the callback; `learn` connects it with the algorithm.

        Args:
            credit: ``"episode"`` pays an episode's return on its last step, ``"dense"`` along its
                way (`SelfReferentialProgressWrapper.rewrite`); needs latents that are paths.
        """
        super().__init__()
        self.credit = credit
        self.groups: list[Group] = []

    def _init_callback(self) -> None:
        buffer = getattr(self.model, "rollout_buffer", None)
        if not isinstance(buffer, RolloutBuffer):
            raise TypeError(
                "ShapedRewards needs an algorithm with a rollout buffer, such as PPO, got "
                f"{type(self.model).__name__}; for one with a replay buffer use "
                "srpo_env.adapters.sb3_replay.ShapedReplayRewards"
            )
        method = "compute_returns_and_advantage"
        if getattr(type(buffer), method) is not getattr(RolloutBuffer, method):
            raise TypeError(
                "ShapedRewards needs a buffer with Stable-Baselines3's generalised advantage "
                f"estimation, but {type(buffer).__name__} overrides `{method}`"
            )
        _refuse_scaled_rewards(self.training_env)
        base = self.training_env.unwrapped
        if not isinstance(base, GymnasiumToVecEnv):
            raise TypeError(
                "ShapedRewards needs a GymnasiumToVecEnv as the innermost environment of the "
                f"algorithm, got {type(base).__name__}: make it with wrap_vec_env"
            )
        checked_credit(self.credit, base.wrapper.encoder.latent_shape)
        base.rewards_are_fetched = True
        self._wrapper = base.wrapper

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer: RolloutBuffer = cast(Any, self.model).rollout_buffer
        env_rewards = buffer.rewards.copy()
        self._wrapper.rewrite(buffer.rewards, credit=self.credit)
        _add_to_advantages(buffer, buffer.rewards - env_rewards)
        self.groups = self._wrapper.pop_groups()
        for name, value in group_statistics(self.groups).as_dict("srpo/").items():
            self.logger.record(name, value)


def _add_to_advantages(buffer: RolloutBuffer, added: Array) -> None:
    """Updates the advantages and returns of a buffer after rewards were added to it.

    The algorithm has computed them from the environment's rewards. Advantages are linear in the
    rewards, so the advantages of the added rewards alone are added. This needs no value of the last
    observation, which not every algorithm keeps.

    Args:
        buffer: A full rollout buffer.
        added: Rewards that were added, shape ``(num_steps, num_envs)``.
    """
    total = np.zeros_like(added[0])
    for step in reversed(range(len(added))):
        total = added[step] + buffer.gamma * buffer.gae_lambda * total
        buffer.advantages[step] += total
        buffer.returns[step] += total
        total = total * (1.0 - buffer.episode_starts[step])  # an earlier episode gets nothing


def _find_wrapper(envs: VectorEnv[Any, Any, Any]) -> SelfReferentialProgressWrapper:
    layer: Any = envs
    while layer is not None:
        if isinstance(layer, SelfReferentialProgressWrapper):
            return layer
        layer = getattr(layer, "env", None)
    raise ValueError(
        f"`envs` must have a SelfReferentialProgressWrapper among its layers, got {envs}: write "
        "GymnasiumToVecEnv(SelfReferentialProgressWrapper(envs, encoder))"
    )


def _refuse_scaled_rewards(venv: VecEnv) -> None:
    layer: Any = venv
    while isinstance(layer, VecEnvWrapper):
        # A success would earn 1 divided by a running scale, and a failure still up to 0.8.
        if isinstance(layer, VecNormalize) and layer.norm_reward:
            raise ValueError(
                "VecNormalize must not scale rewards, or a failure could earn more than a success: "
                "pass it norm_reward=False"
            )
        layer = layer.venv


def _without(names: Iterable[str], info: dict[str, Any]) -> dict[str, Any]:
    dropped = set(names)
    return {name: value for name, value in info.items() if name not in dropped}
