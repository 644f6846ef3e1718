"""The vector wrapper that rewards failed episodes for their progress: bookkeeping, no formula.

It decides what an episode is and which frames it has. The search for frames and success flags is in
`sources`, grouping and reward in `scoring`, the way into a rollout buffer in `payments`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from srpo_env.encoders.named import default_encoder
from srpo_env.encoders.protocol import TrajectoryEncoder
from srpo_env.rewards.diagnostics import SignalWatch, group_figures
from srpo_env.rewards.progress import Distance, Formula
from srpo_env.types import Episode, FrameRecorder, Group
from srpo_env.vector import serialization as state
from srpo_env.vector.grouping import EndedEpisode, OpenGroup, RunningEpisode
from srpo_env.vector.infos import (
    BROKEN,
    Frame,
    FrameSource,
    KeySource,
    final_of,
    info_of,
    success_of,
)
from srpo_env.vector.reward_buffer import Payments, RewardBuffer
from srpo_env.vector.scorer import GroupScorer, Reference

Array = npt.NDArray[Any]


# Without type parameters: the Gymnasium versions before they were added cannot subscript the class.
class SelfReferentialProgressWrapper(VectorWrapper):
    """Pays a failed episode for how near it came to the successes beside it.

    A failure's reward exists only when its group is closed, long after `step` returned. So `step`
    passes the environment's rewards on unchanged, and the shaped ones are fetched: `pop_groups` for
    code that trains on whole episodes, `rewrite` for code that fills a rollout buffer. With
    ``reference="memory"`` the reward exists at an episode's last step, and `step` returns it.

    An episode takes its place in a group when it starts: the first `group_size` episodes of a key
    are a group, the next ones another. If it is reset before its end, or its simulator breaks
    (``infos["worker_error"]``), it is dropped and the next one of its key takes the place.

    Adds to ``infos``, with masks ``_key`` as everywhere in Gymnasium:

    * ``episode_id``: the episode that this step belongs to, int64, shape ``(num_envs,)``; none, by
      its mask and as -1, for the resetting step of NEXT_STEP and for a slot that awaits its reset.
    * ``env_reward``: the environment's own rewards, float64, shape ``(num_envs,)``.
    * ``srpo``: when an episode's end closes its group, figures of that group (`group_figures`).

    Frames are copied as they come, and less than ``2 * max_frames`` of an episode are held.
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        encoder: TrajectoryEncoder | None = None,
        *,
        group_size: int = 8,
        group_key: Callable[[dict[str, Any]], Hashable] | None = None,
        task_key: Callable[[dict[str, Any]], Hashable] | None = None,
        reference: Reference = "group",
        frames: str | Callable[[Any], Frame] | None = None,
        success: str | Callable[[dict[str, Any]], Any] | None = None,
        max_frames: int = 64,
        formula: Formula = "paper",
        weight: float | None = None,
        memory_size: int = 64,
        distance: Distance | None = None,
    ) -> None:
        """Wraps ``envs``; steps nothing.

        Args:
            envs: Vector environment that declares ``metadata["autoreset_mode"]``.
            encoder: Turns the frames of an episode into its latent; ``None`` for the world model
                that ships, a small V-JEPA 2 trained on videos of libero_object, which needs
                ``pip install 'srpo-env[encoders]'``.
            group_size: Episodes after which a group closes; the paper's M.
            group_key: Maps the info of an episode's reset to what its group has in common; by
                default task and ``init_state_id``, each ``None`` where the info does not tell.
            task_key: The same for the task, which the two wider references use; by default
                ``task_id``, or else ``task``.
            reference: Which successes a failure is compared with: those of its ``"group"``; all of
                the ``"task"`` up to `close_groups`; or earlier ones in a ``"memory"`` (not the
                paper's method).
            frames: Where the camera image is: a path into the observation (``"pixels/image"``) or
                into the info (``"info/image"``), ``"render"``, or a callable of one
                sub-environment's observation; by default the third-person camera of LIBERO and
                lerobot, or the only image there is.
            success: Where the success flag is in the info of an episode's last step: a path, a
                callable of that info, or ``"terminated"``; by default ``is_success`` or
                ``success``.
            max_frames: Frames of an episode that the encoder sees; twice as many are held.
            formula: ``"paper"`` or ``"siirl"``, see `reward.progress_rewards`.
            weight: Upper bound of a failure's reward, in (0, 1]; ``None`` for the formula's own.
            memory_size: Successes, and failures, kept for each task with ``reference="memory"``.
            distance: How a failure's latent is compared with the centers; ``None`` for the
                encoder's own way (`encoders.protocol.distance_of`), which is L2, as in the paper,
                unless it says otherwise. Others are in `srpo_env.rewards.distances`.

        Raises:
            ModuleNotFoundError: If the default encoder is asked for without torch or transformers.
            TypeError: If ``envs`` or ``encoder`` is not one, or a callable is something else.
            ValueError: If a setting is out of range, the autoreset mode is not declared, or the
                camera is not found.
        """
        # First of all: an older Gymnasium closes what it throws away, a half-made wrapper as well.
        self._closed = True
        if not isinstance(envs, VectorEnv):
            raise TypeError(
                "`envs` must be a gymnasium.vector.VectorEnv: use gymnasium.make_vec, or "
                "SyncVectorEnv([make_env] * 8); srpo_env.adapters has bridges from the vector "
                f"environments of LIBERO and Stable-Baselines3. Got {type(envs)}"
            )
        self._closed = False
        super().__init__(envs)
        mode = envs.metadata.get("autoreset_mode")
        # Each mode puts an episode's last frame elsewhere. A wrong guess would not crash: it
        # would encode the first frame of the next episode, and training would go on, wrong.
        if not isinstance(mode, AutoresetMode):
            raise ValueError(
                f"{envs} must declare a gymnasium.vector.AutoresetMode as "
                f"metadata['autoreset_mode'], got {mode!r}; if they reset by themselves and do not "
                "say so, set it to what they do: SAME_STEP if the step that ends an episode "
                "returns the next one's first observation, NEXT_STEP if the step after it does, "
                "DISABLED if neither"
            )
        self.max_frames = FrameRecorder(max_frames).max_frames  # checked
        self._mode = mode
        self._frames = FrameSource(envs, frames)
        self._success = success
        self._keys = KeySource(group_key, task_key)
        self._scorer = GroupScorer(
            default_encoder() if encoder is None else encoder,
            group_size=group_size,
            reference=reference,
            formula=formula,
            weight=weight,
            memory_size=memory_size,
            distance=distance,
        )
        self._payments = Payments(envs.num_envs)
        self._watch = SignalWatch()
        self._step_count = 0
        self._next_episode_id = 0
        self._running: list[RunningEpisode | None] = [None] * envs.num_envs
        self._resets_next = [False] * envs.num_envs
        self._num_rewritten = 0

    @property
    def encoder(self) -> TrajectoryEncoder:
        """What turns the frames of an episode into its latent."""
        return self._scorer.encoder

    @property
    def step_count(self) -> int:
        """Calls of `step` so far, which is also the number of the next one."""
        return self._step_count

    # --- Gymnasium's interface ---

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Resets all sub-environments, or those in ``options["reset_mask"]``.

        Their unfinished episodes are dropped. All options are passed down as they are.
        """
        self._check_open()
        # Read before passing down, and a copy passed: Gymnasium 1.4.0 takes the mask out of the
        # dictionary that it is given, so that neither we nor the caller would find it again.
        mask = None if options is None else options.get("reset_mask")
        options = None if options is None else dict(options)
        observations, infos = self.env.reset(seed=seed, options=options)
        chosen = np.ones(self.num_envs, dtype=np.bool_) if mask is None else np.array(mask)
        frame_of = self._frames.batch(observations, infos)
        for index in range(self.num_envs):
            if chosen[index]:
                self._abandon(index)
                self._start(index, infos, frame_of(index), first_step=self._step_count)
        return observations, {**infos, **self._episode_ids()}

    def step(self, actions: Any) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """Steps every sub-environment; the class says what the rewards mean."""
        self._check_open()
        if self._next_episode_id == 0:
            raise ResetNeeded("`reset` must come before the first `step`")
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        dones = np.logical_or(terminations, truncations)
        frame_of = self._frames.batch(observations, infos)
        added: dict[str, Any] = {
            **self._episode_ids(),
            "env_reward": np.array(rewards, dtype=np.float64),
            "_env_reward": np.ones(self.num_envs, dtype=np.bool_),
        }
        ended = []
        for index, running in enumerate(self._running):
            if running is None:
                # With NEXT_STEP this step was the reset. With DISABLED the slot waits for its own.
                if self._resets_next[index] and dones[index]:
                    self._check_reset_step(index, info_of(infos, index))
                elif self._resets_next[index]:
                    self._start(index, infos, frame_of(index), first_step=self._step_count + 1)
                continue
            running.env_return += float(rewards[index])
            if not dones[index]:
                running.recorder.add(frame_of(index))
                continue
            if self._mode is AutoresetMode.SAME_STEP:
                last_info = final_of("final_info", infos, index)
                last_frame = self._frames.single(final_of("final_obs", infos, index), last_info)
            else:
                last_frame, last_info = frame_of(index), info_of(infos, index)
            if BROKEN in last_info:
                self._abandon(index)
            else:
                ended.append(self._end(running, last_frame, last_info, rewards, terminations))
            if self._mode is AutoresetMode.SAME_STEP:
                self._start(index, infos, frame_of(index), first_step=self._step_count + 1)
            self._resets_next[index] = self._mode is AutoresetMode.NEXT_STEP
        if ended:
            rewards = self._take(ended, rewards, added)
        self._step_count += 1
        return observations, rewards, terminations, truncations, {**infos, **added}

    def close(self, **kwargs: Any) -> None:
        """Closes the environments; what was collected can still be fetched."""
        if not self._closed:
            self._closed = True
            self.env.close(**kwargs)

    def render(self) -> tuple[Any, ...] | None:
        """The images of all sub-environments, or None without a ``render_mode``."""
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
        """Hands over the groups that were closed since the last call, in that order.

        `rewrite` drops those that were closed before the previous `rewrite`, so that a loop that
        only rewrites holds the groups of one rollout. With ``reference="memory"``, which needs
        neither, the newest 1024 are held.
        """
        groups, self._scorer.closed = self._scorer.closed, []
        self._num_rewritten = 0
        return groups

    def close_groups(self) -> None:
        """Closes all groups that have an ended episode, at the end of a rollout.

        With ``reference="task"`` this is the moment when everything is scored. Episodes that are
        still running go on, and those of one group stay together.
        """
        self._settle(self._scorer.close())

    def rewrite(self, rewards: RewardBuffer, first_step: int | None = None) -> int:
        """Writes the shaped rewards into a rollout buffer, in place.

        Closes the open groups first: an episode that ended in this buffer can be paid nowhere
        else. A failure's progress reward comes on top of the environment's own reward at its last
        step, wherever the episode began. Calling it twice changes nothing more.

        Args:
            rewards: The rewards that `step` returned, floats, shape ``(num_steps, num_envs)``.
            first_step: Value of `step_count` before the step in row 0; by default the last row is
                the newest step.

        Returns:
            Number of failures that were paid.

        Raises:
            ValueError: If the buffer does not fit the environments, or holds steps that were never
                made or whose rewards are no longer kept.
        """
        num_steps = self._payments.checked_length(rewards)
        if first_step is None:
            first_step = self._step_count - num_steps
        self._payments.check_steps(first_step, num_steps, self._step_count)
        del self._scorer.closed[: self._num_rewritten]
        self.close_groups()
        self._num_rewritten = len(self._scorer.closed)
        return self._payments.write(rewards, first_step)

    # --- State ---

    def state_dict(self) -> dict[str, Array]:
        """Everything that the wrapper holds, between any two steps; the environments excluded.

        Returns:
            Arrays by name, data only: ``np.savez(path, **envs.state_dict())`` saves them, and
            ``envs.load_state_dict(np.load(path))`` needs no pickle.
        """
        return state.pack(
            {
                "settings": self._settings(),
                "step_count": self._step_count,
                "next_episode_id": self._next_episode_id,
                "running": list(self._running),
                "resets_next": list(self._resets_next),
                "num_rewritten": self._num_rewritten,
                "scorer": self._scorer.state(),
                "payments": self._payments.state(),
                "watch": self._watch.state(),
                "keys": self._keys.state(),
            }
        )

    def load_state_dict(self, arrays: Mapping[str, Any]) -> None:
        """Continues where `state_dict` was called, to the bit.

        Raises:
            ValueError: If the state is of a wrapper with other settings.
        """
        tree = state.unpack(
            arrays, (FrameRecorder, RunningEpisode, EndedEpisode, OpenGroup, Episode, Group)
        )
        mine = self._settings()
        other = {name: (tree["settings"].get(name), mine[name]) for name in mine}
        differing = {name: pair for name, pair in other.items() if pair[0] != pair[1]}
        if differing:
            raise ValueError(
                "The state must come from a wrapper with the same settings; (saved, present) "
                f"differ: {differing}"
            )
        self._step_count = tree["step_count"]
        self._next_episode_id = tree["next_episode_id"]
        self._running = tree["running"]
        self._resets_next = tree["resets_next"]
        self._num_rewritten = tree["num_rewritten"]
        self._scorer.load(tree["scorer"])
        self._payments.load(tree["payments"])
        self._watch.load(tree["watch"])
        self._keys.load(tree["keys"])

    # --- Inside ---

    def _start(self, index: int, infos: dict[str, Any], frame: Frame, first_step: int) -> None:
        key, task = self._keys.at_start(info_of(infos, index))
        episode = RunningEpisode(
            episode_id=self._next_episode_id,
            env_index=index,
            first_step=first_step,
            key=key,
            task=task,
            recorder=FrameRecorder(self.max_frames),
        )
        episode.recorder.add(frame)
        self._next_episode_id += 1
        self._running[index] = episode
        self._resets_next[index] = False
        self._scorer.book.start(episode)

    def _abandon(self, index: int) -> None:
        running = self._running[index]
        if running is not None:
            self._scorer.book.abandon(running.episode_id)
            self._running[index] = None

    def _end(
        self,
        running: RunningEpisode,
        frame: Frame,
        info: dict[str, Any],
        rewards: Array,
        terminations: Array,
    ) -> EndedEpisode:
        index = running.env_index
        self._keys.check_end(running.task, info)
        self._running[index] = None
        return EndedEpisode(
            episode_id=running.episode_id,
            env_index=index,
            first_step=running.first_step,
            last_step=self._step_count,
            key=running.key,
            task=running.task,
            success=success_of(info, bool(terminations[index]), self._success),
            env_return=running.env_return,
            last_env_reward=float(rewards[index]),
            video=running.recorder.video(frame),
        )

    def _take(self, ended: list[EndedEpisode], rewards: Array, added: dict[str, Any]) -> Array:
        """Scores what ended in this step; returns the step's rewards and adds to its infos."""
        groups = self._scorer.take(ended)
        self._settle(groups)
        for group in groups:
            last = max(group.episodes, key=lambda episode: (episode.last_step, episode.env_index))
            self._add_info(added, {"srpo": group_figures(group)}, last.env_index)
        if self._scorer.reference != "memory":
            return rewards
        rewards = np.array(rewards, dtype=np.float64)
        for episode in ended:
            if not episode.success:
                rewards[episode.env_index] += episode.progress_reward
        return rewards

    def _settle(self, groups: list[Group]) -> None:
        self._payments.add(groups)
        self._watch.watch(groups)

    def _episode_ids(self) -> dict[str, Array]:
        ids = np.array([-1 if e is None else e.episode_id for e in self._running], dtype=np.int64)
        return {"episode_id": ids, "_episode_id": ids >= 0}

    def _settings(self) -> dict[str, Any]:
        """What decides the meaning of a saved state."""
        return {
            "num_envs": self.num_envs,
            "autoreset_mode": self._mode.name,
            "latent_dim": int(self._scorer.encoder.latent_dim),
            "group_size": self._scorer.group_size,
            "reference": self._scorer.reference,
            "formula": self._scorer.formula,
            "weight": self._scorer.weight,
            "max_frames": self.max_frames,
            "memory_size": self._scorer.memory.size,
        }

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedEnvironmentError("The environments were closed; make new ones")

    def _check_reset_step(self, index: int, info: dict[str, Any]) -> None:
        # A reset may break like a step; then the next step tries again.
        if BROKEN not in info:
            raise RuntimeError(
                f"Environment {index} ended again in the step that should have reset it, as "
                "AutoresetMode.NEXT_STEP promises. A wrapper that repeats an episode's last "
                "transition (lerobot's FreezeAfterEpisodeEnd) does that; leave it out in training"
            )

    def _below(self, name: str) -> Any:
        """A method of the nearest environment inside that has it; Gymnasium's wrappers do not."""
        self._check_open()
        env: Any = self.env
        while not hasattr(env, name) and isinstance(env, VectorWrapper):
            env = env.env
        return getattr(env, name)
