"""The vector wrapper that rewards failed episodes for their progress: bookkeeping, no formula.

Frames are found in `frames`, success flags and keys in `infos`, a step's effect is read in
`step_reader` and recorded in `running_episodes`, groups are scored in `scorer`, rewards are written
into buffers in `reward_buffer`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from srpo_env.encoders.named import default_encoder
from srpo_env.encoders.protocol import TrajectoryEncoder
from srpo_env.rewards.diagnostics import SignalMonitor, group_info
from srpo_env.rewards.progress import ProgressReward
from srpo_env.types import Array, Credit, Group, as_array, checked_credit
from srpo_env.vector.frames import Frame, FrameRecorder, FrameSource
from srpo_env.vector.infos import Info, Key, KeySource, with_added
from srpo_env.vector.reset_check import check_options, check_partial_reset
from srpo_env.vector.reward_buffer import PAY_ONE, RewardBuffer, RewardWriter
from srpo_env.vector.running_episodes import RunningEpisodes
from srpo_env.vector.saved_state import DAMAGED, SavedState, pack_state, read_state
from srpo_env.vector.scorer import GroupScorer, Reference
from srpo_env.vector.step_reader import StepReader, Transition

logger = logging.getLogger(__name__)


MANY_CLOSED = 1024
"""Number of closed groups waiting to be fetched at which a warning is logged, and maximum number
held with the memory reference: 8192 episodes in groups of 8, 48 MB of 1408-dimensional latents."""


# Without type parameters: Gymnasium versions before they were added cannot subscript the class.
class SelfReferentialProgressWrapper(VectorWrapper):
    """Rewards a failed episode by how near its video comes to the successes of its group.

    A failure's reward is known only when its group is closed, after `step` has returned. Therefore
    `step` returns the environment's rewards unchanged. Call `pop_groups` to train on whole
    episodes, or `rewrite` to add the progress rewards to a rollout buffer. With
    ``reference="memory"``, the reward is known at an episode's last step, and `step` returns it.

    An episode is assigned to a group when it starts: the first `group_size` episodes of a key form
    one group, the next ones another. If an episode is reset before its end, or its simulator fails
    (``infos["worker_error"]``), it is dropped, and the next episode of its key takes its place.

    Adds to ``infos``, with the masks ``_key`` that Gymnasium uses:

    * ``episode_id``: the episode that this step belongs to, int64, shape ``(num_envs,)``; -1 and
      masked in the resetting step of NEXT_STEP and while a sub-environment waits for its reset. If
      the environment itself sets ``episode_id``, its value is moved to ``env_episode_id``.
    * ``env_reward``: the environment's own rewards, float64, shape ``(num_envs,)``.
    * ``srpo``: when an episode's end closes its group, statistics of that group (`group_info`).

    Frames are copied, and fewer than ``2 * max_frames`` frames of an episode are held.

    If a user's callable (the encoder, a distance, a key, ...) raises an error in `step`, nothing is
    lost: the environments were stepped, and repeating the call with the same actions continues from
    there. All other methods can be repeated, too.

    Examples:
        Three walkers: one succeeds after five steps, the others stop after 3 steps and 1 step.

        >>> import gymnasium, numpy as np
        >>> from gymnasium import spaces
        >>> from srpo_env import PixelEncoder, SelfReferentialProgressWrapper
        >>> class Walk(gymnasium.Env):
        ...     observation_space = spaces.Box(0, 255, (16, 16, 3), np.uint8)
        ...     action_space = spaces.Discrete(2)
        ...     def observation(self):
        ...         image = np.zeros((16, 16, 3), np.uint8)
        ...         image[:, : 2 * self.column] = 255
        ...         return image
        ...     def reset(self, *, seed=None, options=None):
        ...         self.column = self.time = 0
        ...         return self.observation(), {"task_id": 0}
        ...     def step(self, action):
        ...         self.column, self.time = self.column + action, self.time + 1
        ...         success = bool(self.column == 5)
        ...         info = {"is_success": success}
        ...         return self.observation(), float(success), success, self.time == 6, info
        >>> envs = gymnasium.vector.SyncVectorEnv([Walk] * 3)
        >>> envs = SelfReferentialProgressWrapper(envs, PixelEncoder(), group_size=3)
        >>> _ = envs.reset(seed=0)
        >>> rewards = np.array(
        ...     [envs.step(np.array([1, step < 3, step < 1], int))[1] for step in range(6)]
        ... )
        >>> envs.rewrite(rewards)
        2
        >>> rewards.sum(axis=0).round(2)
        array([1.  , 0.58, 0.22])
        >>> envs.pop_groups()
        [Group(key=(0, None), 1 of 3 succeeded, rewards=[1.00, 0.58, 0.22])]
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        encoder: TrajectoryEncoder | None = None,
        *,
        reward: ProgressReward | None = None,
        group_size: int = 8,
        group_key: Key | None = None,
        task_key: Key | None = None,
        reference: Reference = "group",
        borrow: bool = False,
        frames: str | Callable[[Any], Frame] | None = None,
        success: str | Callable[[Info], Any] | None = None,
        max_frames: int = 64,
        max_frame_size: int | None = None,
        memory_size: int = 64,
    ) -> None:
        """Wraps ``envs`` without stepping them.

        Args:
            envs: Vector environment that declares ``metadata["autoreset_mode"]``.
            encoder: Maps the frames of an episode to its latent; ``None`` for the bundled world
                model, a small V-JEPA 2 trained on videos of libero_object, which needs
                ``pip install 'srpo-env[encoders]'``.
            reward: How a failure is rewarded; ``None`` for the paper's formula and the encoder's
                own distance.
            group_size: Number of episodes after which a group closes; the paper's M.
            group_key: Maps the info of an episode's reset and the index of its sub-environment to
                the key that all episodes of its group share; by default the task and
                ``init_state_id``, each ``None`` if the info does not name it.
            task_key: Maps the same arguments to the key of the task, which the references
                ``"task"`` and ``"memory"`` use; by default ``task_id``, or ``task``, or the name of
                the sub-environment if the names differ.
            reference: Which successes a failure is compared with: those of its ``"group"``; all of
                the ``"task"`` up to `close_groups`; or earlier ones in a ``"memory"`` (not the
                paper's method).
            borrow: Whether a group without a success is compared with earlier successes of its task
                (`Group.borrowed`; not the paper's method). Only with ``reference="group"``;
                `ProgressReward.fail_safe` limits what such failures earn.
            frames: Where the camera image is: a path into the observation (``"pixels/image"``) or
                into the info (``"info/image"``), ``"render"``, or a callable of one
                sub-environment's observation; by default the third-person camera of LIBERO and
                lerobot, or the only image. ``"encoded"``: the environments have encoded their
                episodes themselves (`LatentInInfo`), with the same encoder.
            success: Where the success flag is in the info of an episode's last step: a path, a
                callable of that info, or ``"terminated"``; by default ``is_success`` or
                ``success``. ``"once"``: the default flag was set in any step of the episode.
            max_frames: Number of frames of an episode that the encoder gets; twice as many are
                held.
            max_frame_size: Largest height and width in pixels of the frames that are held; larger
                ones are reduced by a whole factor. ``None`` keeps their size. 64 environments hold
                up to 400 MB at 128 x 128 pixels, and 100 MB at 64 x 64.
            memory_size: Number of successes, and of failures, kept per task with
                ``reference="memory"``, and of successes with ``borrow``.

        Raises:
            ModuleNotFoundError: If the default encoder is used without torch or transformers.
            TypeError: If ``envs`` is no vector environment, ``encoder`` no encoder, ``reward`` no
                `ProgressReward`, a key no callable, or ``frames`` or ``success`` neither a path nor
                a callable.
            ValueError: If a setting is out of range, the autoreset mode is not declared, the camera
                is not found, or the distance does not fit the encoder's latents.
        """
        if not isinstance(envs, VectorEnv):
            raise TypeError(
                "`envs` must be a gymnasium.vector.VectorEnv: use gymnasium.make_vec, or "
                "SyncVectorEnv([make_env] * 8); srpo_env.adapters has adapters for the vector "
                f"environments of LIBERO and Stable-Baselines3. Got {type(envs)}"
            )
        self._closed = False
        super().__init__(envs)
        mode = envs.metadata.get("autoreset_mode")
        # Where an episode's last frame is depends on the mode. A wrong guess would raise no error:
        # the first frame of the next episode would be encoded, and training would continue.
        if not isinstance(mode, AutoresetMode):
            raise ValueError(
                f"{envs} must declare a gymnasium.vector.AutoresetMode as "
                f"metadata['autoreset_mode'], got {mode!r}; if they do not declare their mode, "
                "set it: SAME_STEP if the step that ends an episode "
                "returns the next one's first observation, NEXT_STEP if the step after it does, "
                "DISABLED if neither"
            )
        self.max_frames = FrameRecorder(max_frames).max_frames  # validated
        self._mode = mode
        self._reader = StepReader(
            envs.num_envs,
            mode,
            FrameSource(envs, frames, max_frame_size),
            KeySource(envs, group_key, task_key),
            success,
        )
        self._scorer = GroupScorer(
            default_encoder() if encoder is None else encoder,
            reward,
            group_size=group_size,
            reference=reference,
            memory_size=memory_size,
            borrow=borrow,
        )
        self._writer = RewardWriter(envs.num_envs)
        self._monitor = SignalMonitor()
        self._running = RunningEpisodes(envs.num_envs, mode, self.max_frames, self._scorer.book)
        self._step_count = 0
        self._closed_groups: list[Group] = []
        self._num_rewritten = 0
        self._last_rewrite = 0
        """Number of steps that were made when `rewrite` was called last."""
        self._transition: Transition | None = None
        self._last: tuple[Any, Any] | None = None
        """Observations and infos of the last step or reset, to compare frames with."""
        self._warned = False

    @property
    def encoder(self) -> TrajectoryEncoder:
        """Encoder of the videos; can be replaced by one with the same `latent_shape`."""
        return self._scorer.encoder

    @encoder.setter
    def encoder(self, encoder: TrajectoryEncoder) -> None:
        if encoder.latent_shape != self._scorer.encoder.latent_shape:
            raise ValueError(
                "The new encoder must have the old one's `latent_shape` "
                f"{self._scorer.encoder.latent_shape}, got {encoder.latent_shape}"
            )
        self._scorer.encoder = encoder

    @property
    def success(self) -> str | Callable[[Info], Any] | None:
        """The argument ``success``: where the success flag is."""
        return self._reader.success

    @property
    def reward(self) -> ProgressReward:
        """How a failure is rewarded."""
        return self._scorer.reward

    @property
    def reference(self) -> Reference:
        """Which successes a failure is compared with."""
        return self._scorer.reference

    @property
    def step_count(self) -> int:
        """Number of calls of `step` so far; the next step has this number."""
        return self._step_count

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """When a sub-environment resets after an episode's end."""
        return self._mode

    @property
    def num_frames_held(self) -> int:
        """Number of frames of running episodes that are held."""
        return self._running.num_frames

    @property
    def num_bytes_held(self) -> int:
        """Memory that the frames of running episodes take, in bytes."""
        return self._running.num_bytes

    @property
    def num_videos_held(self) -> int:
        """Number of videos of ended episodes that wait to be encoded."""
        return self._scorer.videos_held

    @property
    def num_closed_groups(self) -> int:
        """Number of closed groups that wait for `pop_groups`."""
        return len(self._closed_groups)

    # --- Gymnasium's interface ---

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Resets all sub-environments, or those in ``options["reset_mask"]``.

        Their unfinished episodes are dropped. All options are passed on unchanged.

        Raises:
            ValueError: If another option selects sub-environments.
            RuntimeError: If a sub-environment outside the mask was reset, or one inside it was not.
        """
        self._check_open()
        # The mask is read first, and a copy of the options is passed on, because Gymnasium 1.4.0
        # removes the mask from the dictionary.
        mask = None if options is None else options.get("reset_mask")
        check_options(options)
        options = None if options is None else dict(options)
        chosen = np.ones(self.num_envs, dtype=np.bool_) if mask is None else np.array(mask)
        last = self._last if options and self._reader.frames.in_observations else None
        before = None if last is None else self._reader.frames.batch(*last)
        observations, infos = self.env.reset(seed=seed, options=options)
        if self._transition is not None:
            # A `step` failed and was not repeated. The environments were stepped, so it counts.
            if not self._transition.recorded:
                self._running.record_rewards(as_array(self._transition.rewards))
            self._transition = None
            self._step_count += 1
        frame_of = self._reader.frames.batch(observations, infos)
        if before is not None:
            check_partial_reset(self._running.slots, chosen, before, frame_of)
        indices: list[int] = np.flatnonzero(chosen).tolist()
        starts = [self._reader.read_start(index, infos, frame_of(index)) for index in indices]
        for start in starts:
            self._running.abandon(start.index)
            self._running.start(start, self._step_count)
        self._last = observations, infos
        return observations, self._with_added(infos, {})

    def step(self, actions: Any) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """Steps every sub-environment; the documentation of the class describes the rewards.

        Raises:
            ResetNeeded: If `reset` was not called before.
            RuntimeError: If the environment does not reset as it declares, or a step that failed is
                repeated with other actions.
            ValueError: If frames, success flags or keys are not found in what it returns.
        """
        self._check_open()
        if self._running.next_episode_id == 0:
            raise ResetNeeded("`reset` must come before the first `step`")
        if self._transition is None:
            self._transition = Transition(actions, *self.env.step(actions))
        elif not data_equivalence(actions, self._transition.actions):
            raise RuntimeError(
                "The previous `step` raised an error after the environments were stepped: repeat "
                "it with the same actions to get its result, or call `reset`"
            )
        transition = self._transition
        if not transition.recorded:
            # The user's callables are called first; the state changes afterwards.
            running = self._running
            changes = self._reader.read_step(transition, running.slots, running.late_task)
            self._scorer.check_latents([c.latent for c in changes if c.latent is not None])
            transition.added = self._episode_ids()
            running.record_rewards(as_array(transition.rewards))
            transition.ended = running.record(changes, self._step_count)
            if transition.ended:
                self._scorer.end(transition.ended)
            transition.recorded = True
            self._last = transition.observations, transition.infos
        groups = self._scorer.score() if transition.ended else []
        rewards = self._paid(transition)
        self._settle(groups)
        added = transition.added
        added["env_reward"] = as_array(transition.rewards).astype(np.float64)
        added["_env_reward"] = np.ones(self.num_envs, dtype=np.bool_)
        for group in groups:
            last = max(group.episodes, key=lambda episode: (episode.last_step, episode.env_index))
            self._add_info(added, {"srpo": group_info(group)}, last.env_index)
        self._transition = None
        self._step_count += 1
        return (
            transition.observations,
            rewards,
            transition.terminations,
            transition.truncations,
            self._with_added(transition.infos, added),
        )

    def close(self, **kwargs: Any) -> None:
        """Closes the environments; closed groups can still be fetched."""
        if not self._closed:
            self._closed = True
            self.env.close(**kwargs)

    def __del__(self) -> None:
        """Leaves the environments open, which may still be used; Gymnasium 1.2 would close them."""

    def render(self) -> tuple[Any, ...] | None:
        """Returns the images of all sub-environments, or None without a ``render_mode``."""
        self._check_open()
        return self.env.render()

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of every sub-environment, or gets an attribute."""
        return self._below("call")(name, *args, **kwargs)

    def get_attr(self, name: str) -> Any:
        """Gets an attribute of every sub-environment."""
        return self._below("get_attr")(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Sets an attribute of every sub-environment."""
        self._below("set_attr")(name, values)

    # --- Shaped rewards ---

    def pop_groups(self) -> list[Group]:
        """Returns the groups that were closed since the last call, in the order of closing.

        `rewrite` drops those that were closed before the previous `rewrite`, so that a loop that
        only rewrites holds the groups of one rollout. With ``reference="memory"``, which needs
        neither, the newest 1024 are held.
        """
        groups, self._closed_groups = self._closed_groups, []
        self._num_rewritten = 0
        return groups

    def close_groups(self) -> None:
        """Closes all groups that have an ended episode, at the end of a rollout.

        With ``reference="task"``, this scores all episodes of the rollout. Episodes that are still
        running continue, and those of one group stay together.
        """
        self._settle(self._scorer.close())

    def remember(self, groups: Sequence[Group]) -> None:
        """Adds the episodes of groups that another process has closed to the memory.

        For several learners that share what failures are compared with: with
        ``reference="memory"``, successes and failures; with ``borrow``, successes. Other references
        have no memory, and nothing happens.

        Raises:
            ValueError: If a latent is not of the encoder's shape.
        """
        self._scorer.remember(groups)

    def rewrite(
        self,
        rewards: RewardBuffer,
        first_step: int | None = None,
        *,
        credit: Credit = "episode",
    ) -> int:
        """Adds the progress rewards to a rollout buffer, in place.

        Closes the open groups first, because the reward of an episode that ended in this buffer
        must be written into this buffer. A failure's progress reward is added to the environment's
        own rewards, even if the episode started in an earlier buffer. A second call changes
        nothing.

        With ``credit="episode"``, it is added on the episode's last step. With ``"dense"``, it is
        paid along the way, in proportion to the increments of the progress potential, and so is
        what the last step of a success was paid: each episode's sum stays the same, and no addition
        to a step is negative but the one that takes the success's reward from its last step.
        An episode is paid in the buffer that holds its last step; what it has earned in steps
        before this buffer is paid on its first step in it.

        Args:
            rewards: The rewards that `step` returned, floats, shape ``(num_steps, num_envs)``.
            first_step: Value of `step_count` before the step in row 0; by default the last row is
                the newest step.
            credit: ``"episode"`` or ``"dense"``, which needs an encoder whose latents are paths.

        Returns:
            Number of failures that were paid.

        Raises:
            ValueError: If the shape or type of the buffer is wrong, a step has not been made yet or
                its rewards are no longer kept, the buffer does not hold the environment's rewards
                where episodes ended (with dense credit, in all of their steps), a failure would
                earn more than a success, or dense credit does not fit the encoder.
        """
        checked_credit(credit, self.encoder.latent_shape)
        num_steps = self._writer.checked_length(rewards)
        if num_steps == 0:
            return 0
        if first_step is None:
            first_step = self._step_count - num_steps
        self._writer.check_steps(first_step, num_steps, self._step_count)
        groups = self._scorer.close()
        # A repeated call, also after an error, keeps what the first one closed.
        if self._last_rewrite != self._step_count:
            del self._closed_groups[: self._num_rewritten]
        self._last_rewrite = self._step_count
        self._settle(groups)
        self._num_rewritten = len(self._closed_groups)
        in_step = self.reference == "memory"  # then `step` returned the shaped rewards already
        if in_step and credit == "episode":
            return 0
        return self._writer.write(rewards, first_step, credit, paid_in_step=in_step)

    # --- State ---

    def state_dict(self) -> dict[str, bytes]:
        """Returns the state of the wrapper between two steps, without that of the environments.

        Returns:
            One entry, ``"srpo_env"``, an ``.npz`` archive without code. ``torch.save`` stores it
            beside other states, and ``torch.load`` reads it with ``weights_only=True``; without
            torch, ``path.write_bytes(envs.state_dict()["srpo_env"])`` does.

        Raises:
            RuntimeError: If the last `step` raised an error and was not repeated.
        """
        if self._transition is not None:
            raise RuntimeError("The last `step` raised an error: repeat it, or call `reset`, first")
        state: SavedState = {
            "settings": self._settings(),
            "step_count": self._step_count,
            "next_episode_id": self._running.next_episode_id,
            "closed_groups": list(self._closed_groups),
            "num_rewritten": self._num_rewritten,
            "last_rewrite": self._last_rewrite,
            "scorer": self._scorer.state(),
            "writer": self._writer.state(),
            "monitor": self._monitor.state(),
            "late_task": self._running.late_task,
        }
        return pack_state(state)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores a state of `state_dict`, bit for bit; changes nothing if it raises an error.

        Raises:
            ValueError: If it is not the state of a wrapper with the same settings, encoder and
                distance.
        """
        state = read_state(state_dict, self._settings(), self.encoder.latent_shape)
        writer = RewardWriter(self.num_envs)
        try:
            writer.load(state["writer"])
            running = self._scorer.load(state["scorer"])
        except ValueError as error:
            raise ValueError(f"{DAMAGED}: {error}") from error
        self._running.restore(running, state["next_episode_id"], state["late_task"])
        self._step_count = state["step_count"]
        self._closed_groups = state["closed_groups"]
        self._num_rewritten = state["num_rewritten"]
        self._last_rewrite = state["last_rewrite"]
        self._writer = writer
        self._monitor.load(state["monitor"])
        self._last = None
        self._transition = None

    def _settings(self) -> dict[str, Any]:
        """Returns the settings that must be equal when a state is loaded."""
        return {
            "num_envs": self.num_envs,
            "autoreset_mode": self._mode.name,
            "max_frames": self.max_frames,
            "max_frame_size": self._reader.frames.max_size,
            **self._scorer.settings(),
        }

    # --- Results of a step ---

    def _paid(self, step: Transition) -> Array:
        """Returns the rewards of a step: the environment's, shaped with the memory reference."""
        if self.reference != "memory" or not step.ended:
            unchanged: Array = step.rewards
            return unchanged
        rewards = np.array(as_array(step.rewards), dtype=np.float64)
        for episode in step.ended:
            if not episode.success:
                rewards[episode.env_index] += episode.progress_reward
            elif episode.env_return < self.reward.weight:
                raise ValueError(
                    f"Episode {episode.episode_id} succeeded and returned {episode.env_return:.3g},"
                    f" and a failure can earn {self.reward.weight:g} for its progress. {PAY_ONE}"
                )
        return rewards

    def _settle(self, groups: list[Group]) -> None:
        self._closed_groups += groups
        self._writer.add(groups)
        self._monitor.update(groups)
        if self.reference == "memory":
            # Their episodes are paid already, so the groups need not be fetched.
            del self._closed_groups[:-MANY_CLOSED]
        elif len(self._closed_groups) >= MANY_CLOSED and not self._warned:
            self._warned = True
            logger.warning(
                "%d closed groups wait: call `pop_groups` or `rewrite` after each rollout",
                len(self._closed_groups),
            )

    def _episode_ids(self) -> dict[str, Array]:
        ids = self._running.ids
        return {"episode_id": ids, "_episode_id": ids >= 0}

    def _with_added(self, infos: Any, added: dict[str, Any]) -> dict[str, Any]:
        return with_added(infos, {**self._episode_ids(), **added}, self._add_info)

    # --- Checks ---

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedEnvironmentError("The environments were closed; make new ones")

    def _below(self, name: str) -> Any:
        """Returns a method of the outermost inner environment that has it; wrappers may not."""
        self._check_open()
        env: Any = self.env
        while not hasattr(env, name) and isinstance(env, VectorWrapper):
            env = env.env
        return getattr(env, name)
