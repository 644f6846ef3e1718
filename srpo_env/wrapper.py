"""The vector wrapper that rewards failed episodes for their progress: bookkeeping, no formula.

The formula is in `reward`, the grouping in `grouping`, the search for frames and success flags in
`sources`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from srpo_env.encoders.protocol import TrajectoryEncoder, encode_checked
from srpo_env.episodes import Episode, FrameRecorder, Group
from srpo_env.grouping import EndedEpisode, GroupBook, OpenGroup, RunningEpisode
from srpo_env.memory import SuccessMemory
from srpo_env.reward import Formula, Relabeling, checked_weight, relabel
from srpo_env.sources import (
    Frame,
    FrameSource,
    default_group_key,
    default_task_key,
    info_of,
    plain,
    success_of,
)

Reference = Literal["group", "task", "memory"]
Array = npt.NDArray[Any]

KEPT_PAYMENTS = 2**16
"""Rewards of failures that wait for `rewrite`; more than that many episodes in one rollout fail."""


class RewardBuffer(Protocol):
    """A NumPy array or torch tensor of shape ``(num_steps, num_envs)``."""

    @property
    def shape(self) -> Any:
        """``(num_steps, num_envs)``."""

    def __setitem__(self, index: tuple[int, int], value: float) -> None:
        """Sets one reward."""


class SelfReferentialProgressWrapper(VectorWrapper[Any, Any, Any, Any, Array]):
    """Pays a failed episode for how near it came to the successes beside it.

    A failure's reward exists only when its group is closed, long after `step` returned. So `step`
    passes the environment's rewards on unchanged, and the shaped ones are fetched: `pop_groups` for
    code that trains on whole episodes, `rewrite` for code that fills a rollout buffer. With
    ``reference="memory"`` the reward exists at an episode's last step, and `step` returns it.

    An episode takes its place in a group when it starts: the first `group_size` episodes of a key
    are a group, the next ones another. An episode that is reset before its end leaves its group.

    Adds to ``infos``, with masks ``_key`` as everywhere in Gymnasium:

    * ``episode_id``: the episode that this step belongs to, int64, shape ``(num_envs,)``; none, by
      its mask and as -1, for the resetting step of NEXT_STEP and for a slot that awaits its reset.
    * ``env_reward``: the environment's own rewards, float64, shape ``(num_envs,)``.

    Frames are copied as they come. The videos of ended episodes wait until `group_size` of them
    are there, or a group closes, and are then encoded in one call; after that only latents stay.
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        encoder: TrajectoryEncoder,
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
    ) -> None:
        """Wraps ``envs``; steps nothing and loads nothing.

        Args:
            envs: Vector environment that declares ``metadata["autoreset_mode"]``.
            encoder: Turns the frames of an episode into its latent.
            group_size: Episodes after which a group closes; the paper's M.
            group_key: Maps the info of an episode's reset to what its group has in common; by
                default ``(task_id, init_state_id)``, each ``None`` where the info does not tell.
            task_key: The same for the task, used by the two wider references; by default
                ``task_id``.
            reference: Which successes a failure is compared with: those of its ``"group"``; all of
                the ``"task"`` up to `close_groups`; or earlier ones in a ``"memory"`` (not the
                paper's method).
            frames: Where the camera image is: a path into the observation (``"pixels/image"``),
                ``"render"``, or a callable of one sub-environment's observation; by default the
                third-person camera of LIBERO and lerobot, or the only image there is.
            success: Where the success flag is in the info of an episode's last step: a path, a
                callable of that info, or ``"terminated"``; by default ``is_success`` or
                ``success``.
            max_frames: Frames of an episode that the encoder sees; twice as many are held.
            formula: ``"paper"`` or ``"siirl"``, see `reward.progress_rewards`.
            weight: Upper bound of a failure's reward; ``None`` for the formula's own.
            memory_size: Successes kept for each task with ``reference="memory"``.

        Raises:
            ValueError: If a setting is out of range, the autoreset mode is not declared, or the
                camera is not found.
        """
        super().__init__(envs)
        mode = envs.metadata.get("autoreset_mode")
        # Each mode puts an episode's last frame elsewhere. A wrong guess would not crash: it
        # would encode the first frame of the next episode, and training would go on, wrong.
        if not isinstance(mode, AutoresetMode):
            raise ValueError(f"{envs} must declare metadata['autoreset_mode'], got {mode!r}")
        if group_size < 1:
            raise ValueError(f"`group_size` must be at least 1, got {group_size}")
        if reference not in get_args(Reference):
            raise ValueError(f"`reference` must be one of {get_args(Reference)}, got {reference!r}")
        FrameRecorder(max_frames)  # checks it
        self.encoder = encoder
        self.group_size = group_size
        self.reference: Reference = reference
        self.max_frames = max_frames
        self.formula: Formula = formula
        self.weight = checked_weight(formula, weight)
        self._mode = mode
        self._group_key = group_key or default_group_key
        self._task_key = task_key or default_task_key
        self._success = success
        self._frames = FrameSource(envs, frames)

        self.step_count = 0
        """calls of `step` so far, which is also the number of the next one"""
        self._next_episode_id = 0
        self._running: list[RunningEpisode | None] = [None] * envs.num_envs
        self._resets_next = np.zeros(envs.num_envs, dtype=np.bool_)
        self._book = GroupBook(group_size)
        self._unencoded: list[EndedEpisode] = []
        self._memory = SuccessMemory(memory_size)
        self._closed_groups: list[Group] = []
        self._payments: deque[tuple[int, int, float]] = deque(maxlen=KEPT_PAYMENTS)
        self._closed = False

    # --- Gymnasium's interface ---

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Resets all sub-environments, or those in ``options["reset_mask"]``.

        Their unfinished episodes are dropped. All options are passed down as they are.
        """
        self._check_open()
        # Read before passing down: Gymnasium 1.4.0 takes the key out of the dictionary that it
        # is given, which shall not be the caller's.
        mask = None if options is None else options.get("reset_mask")
        observations, infos = self.env.reset(
            seed=seed, options=None if options is None else dict(options)
        )
        chosen: list[int] = np.flatnonzero(
            np.ones(self.num_envs) if mask is None else mask
        ).tolist()
        frame_of = self._frames.batch(observations)
        for index in chosen:
            running = self._running[index]
            if running is not None:
                self._book.abandon(running.episode_id)
            self._start(index, info_of(infos, index), frame_of(index), self.step_count)
        return observations, {**infos, **self._episode_ids()}

    def step(self, actions: Any) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """Steps every sub-environment; the class says what the rewards mean."""
        self._check_open()
        if self.step_count == 0 and not any(self._running):
            raise ResetNeeded("Call `reset` before `step`")
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        dones = np.logical_or(terminations, truncations)
        infos = {**infos, **self._episode_ids()}
        infos["env_reward"] = np.array(rewards, dtype=np.float64)
        infos["_env_reward"] = np.ones(self.num_envs, dtype=np.bool_)
        frame_of = self._frames.batch(observations)
        same_step = self._mode is AutoresetMode.SAME_STEP
        ended = []
        for index, running in enumerate(self._running):
            if running is None:
                if self._resets_next[index]:
                    self._check_reset_step(index, bool(dones[index]))
                    info = info_of(infos, index)
                    self._start(index, info, frame_of(index), self.step_count + 1)
                continue
            done = bool(dones[index])
            running.env_return += float(rewards[index])
            if not (done and same_step):
                running.recorder.add(frame_of(index))
            if not done:
                continue
            if same_step:
                running.recorder.add(self._frames.single(self._final("final_obs", infos, index)))
                last_info = self._final("final_info", infos, index)
            else:
                last_info = info_of(infos, index)
            success = success_of(last_info, bool(terminations[index]), self._success)
            ended.append(self._end(running, success, float(rewards[index])))
            if same_step:
                info = info_of(infos, index)
                self._start(index, info, frame_of(index), self.step_count + 1)
        if ended:
            rewards = self._take(ended, rewards)
        self.step_count += 1
        return observations, rewards, terminations, truncations, infos

    def close(self, **kwargs: Any) -> None:
        """Closes the environments; what was collected can still be fetched."""
        if not self._closed:
            self._closed = True
            self.env.close(**kwargs)

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of every sub-environment, or gets an attribute."""
        return self._forward("call")(name, *args, **kwargs)

    def get_attr(self, name: str) -> Any:
        """Gets an attribute of every sub-environment."""
        return self._forward("get_attr")(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Sets an attribute of every sub-environment."""
        self._forward("set_attr")(name, values)

    # --- Shaped rewards ---

    def pop_groups(self) -> list[Group]:
        """Hands over the groups that were closed since the last call, in that order."""
        groups, self._closed_groups = self._closed_groups, []
        return groups

    def close_groups(self) -> None:
        """Closes all groups that have an ended episode, at the end of a rollout.

        With ``reference="task"`` this is the moment when everything is scored. Episodes that are
        still running go on, in a group of their own.
        """
        self._score(self._book.close())

    def rewrite(self, rewards: RewardBuffer, first_step: int | None = None) -> int:
        """Writes the shaped rewards into a rollout buffer, in place.

        Closes the open groups first: an episode that ended in this buffer can be paid nowhere
        else. A failure's progress reward comes on top of the environment's own reward at its last
        step, wherever the episode began. Calling it twice changes nothing more.

        Args:
            rewards: The rewards that `step` returned, shape ``(num_steps, num_envs)``.
            first_step: Value of `step_count` before the step in row 0; by default the last row is
                the newest step.

        Returns:
            Number of failures that were paid.

        Raises:
            ValueError: If the buffer does not fit the environments, or holds steps that were
                never made or are too long ago.
        """
        num_steps, num_envs = rewards.shape
        first_step = self.step_count - num_steps if first_step is None else first_step
        if num_envs != self.num_envs:
            raise ValueError(
                f"`rewards` must be (num_steps, {self.num_envs}), got {tuple(rewards.shape)}"
            )
        if first_step < 0 or first_step + num_steps > self.step_count:
            raise ValueError(
                f"`rewards` holds steps {first_step} to {first_step + num_steps - 1}, but only "
                f"steps 0 to {self.step_count - 1} were made"
            )
        self.close_groups()
        if len(self._payments) == KEPT_PAYMENTS and self._payments[0][0] >= first_step:
            raise ValueError(
                f"Only the newest {KEPT_PAYMENTS} rewards are kept, and more episodes failed since "
                f"step {first_step}; call `rewrite` after shorter rollouts"
            )
        # Older ones were for earlier buffers.
        kept = [payment for payment in self._payments if payment[0] >= first_step]
        self._payments = deque(kept, maxlen=KEPT_PAYMENTS)
        paid = [payment for payment in kept if payment[0] < first_step + num_steps]
        for step, index, reward in paid:
            rewards[step - first_step, index] = reward
        return len(paid)

    # --- Inside ---

    def _start(self, index: int, info: dict[str, Any], frame: Frame, first_step: int) -> None:
        episode = RunningEpisode(
            episode_id=self._next_episode_id,
            env_index=index,
            first_step=first_step,
            key=plain(self._group_key(info)),
            task=plain(self._task_key(info)),
            recorder=FrameRecorder(self.max_frames),
        )
        episode.recorder.add(frame)
        self._next_episode_id += 1
        self._running[index] = episode
        self._resets_next[index] = False
        self._book.start(episode)

    def _end(self, running: RunningEpisode, success: bool, last_reward: float) -> EndedEpisode:
        self._running[running.env_index] = None
        self._resets_next[running.env_index] = self._mode is AutoresetMode.NEXT_STEP
        return EndedEpisode(
            episode_id=running.episode_id,
            env_index=running.env_index,
            first_step=running.first_step,
            last_step=self.step_count,
            key=running.key,
            task=running.task,
            success=success,
            env_return=running.env_return,
            last_env_reward=last_reward,
            video=running.recorder.video(),
        )

    def _take(self, ended: list[EndedEpisode], rewards: Array) -> Array:
        """Books ended episodes, and returns the rewards of this step."""
        self._unencoded += ended
        complete = [group for episode in ended if (group := self._book.end(episode)) is not None]
        if self.reference == "memory":
            self._encode()
            rewards = self._pay_from_memory(ended, rewards)
        if self.reference == "task":
            self._book.complete += complete
        elif complete:
            self._score(complete)
        if len(self._unencoded) >= self.group_size:
            self._encode()
        return rewards

    def _pay_from_memory(self, ended: list[EndedEpisode], rewards: Array) -> Array:
        # Successes first: both can end in one step, and a failure may need that very success.
        for episode in ended:
            if episode.success:
                assert episode.latent is not None
                self._memory[episode.task].add_success(episode.latent)
                episode.progress_reward = 1.0
        rewards = np.array(rewards, dtype=np.float64)
        for episode in ended:
            if not episode.success:
                assert episode.latent is not None
                episode.progress_reward, episode.distance, _ = self._memory[
                    episode.task
                ].score_failure(episode.latent, formula=self.formula, weight=self.weight)
                rewards[episode.env_index] += episode.progress_reward
        return rewards

    def _encode(self) -> None:
        waiting, self._unencoded = self._unencoded, []
        if not waiting:
            return
        videos = [episode.video for episode in waiting if episode.video is not None]
        names = [f"episode {e.episode_id} (environment {e.env_index})" for e in waiting]
        for episode, latent in zip(
            waiting, encode_checked(self.encoder, videos, names), strict=True
        ):
            episode.latent, episode.video = latent, None

    def _score(self, groups: list[OpenGroup]) -> None:
        """Turns open groups into closed ones."""
        self._encode()
        episodes = [episode for group in groups for episode in group.ended]
        if not episodes:
            return
        if self.reference == "memory":
            self._closed_groups += [self._remembered_group(group) for group in groups]
        else:
            ids: list[Hashable] = (
                [episode.task for episode in episodes]
                if self.reference == "task"
                else [row for row, group in enumerate(groups) for _ in group.ended]
            )
            latents = np.stack([e.latent for e in episodes if e.latent is not None])
            result = relabel(
                latents,
                np.array([episode.success for episode in episodes]),
                ids,
                formula=self.formula,
                weight=self.weight,
            )
            first = 0
            for group in groups:
                rows = range(first, first + len(group.ended))
                self._closed_groups.append(_closed_group(group, result, rows, ids[first]))
                first += len(group.ended)
        for closed in self._closed_groups[-len(groups) :]:
            for e in closed.episodes:
                if not e.success and np.isfinite(e.distance):
                    pay = e.last_env_reward + e.progress_reward
                    self._payments.append((e.last_step, e.env_index, pay))

    def _remembered_group(self, group: OpenGroup) -> Group:
        clustering = self._memory[group.ended[0].task].clustering()
        episodes = [
            _episode(e, e.distance, e.progress_reward, e.nearest_center) for e in group.ended
        ]
        return _group(group, episodes, clustering)

    def _episode_ids(self) -> dict[str, Array]:
        ids = np.array([-1 if e is None else e.episode_id for e in self._running], dtype=np.int64)
        return {"episode_id": ids, "_episode_id": ids >= 0}

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedEnvironmentError("The environments were closed; make new ones")

    def _check_reset_step(self, index: int, done: bool) -> None:
        if done:
            raise RuntimeError(
                f"Environment {index} ended again in the step that should have reset it, as "
                "AutoresetMode.NEXT_STEP promises. A wrapper that repeats an episode's last "
                "transition (lerobot's FreezeAfterEpisodeEnd) does that; leave it out in training"
            )

    def _final(self, name: str, infos: dict[str, Any], index: int) -> Any:
        """What SAME_STEP keeps of the step before the reset."""
        values = infos.get(name)
        if values is None:
            raise ValueError(
                f"AutoresetMode.SAME_STEP promises infos[{name!r}] when an episode ends, but "
                f"environment {index} ended with {sorted(infos)}"
            )
        return info_of(values, index) if isinstance(values, dict) else values[index]

    def _forward(self, name: str) -> Any:
        env: Any = self.env
        # Gymnasium's own vector wrappers do not forward these, so look below them.
        while not hasattr(env, name) and isinstance(env, VectorWrapper):
            env = env.env
        return getattr(env, name)


def _closed_group(group: OpenGroup, result: Relabeling, rows: range, group_id: Hashable) -> Group:
    episodes = [
        _episode(
            episode,
            float(result.distances[row]),
            float(result.rewards[row]),
            int(result.nearest_centers[row]),
        )
        for episode, row in zip(group.ended, rows, strict=True)
    ]
    return _group(group, episodes, result.clusterings[group_id])


def _group(group: OpenGroup, episodes: list[Episode], clustering: Any) -> Group:
    return Group(
        key=group.key,
        task=group.ended[0].task,
        episodes=tuple(sorted(episodes, key=lambda episode: episode.episode_id)),
        centers=clustering.centers,
        num_clusters=clustering.num_clusters,
        num_singles=clustering.num_singles,
    )


def _episode(ended: EndedEpisode, distance: float, reward: float, center: int) -> Episode:
    assert ended.latent is not None
    return Episode(
        episode_id=ended.episode_id,
        env_index=ended.env_index,
        first_step=ended.first_step,
        last_step=ended.last_step,
        success=ended.success,
        env_return=ended.env_return,
        last_env_reward=ended.last_env_reward,
        distance=distance,
        progress_reward=reward,
        nearest_center=center,
        latent=ended.latent,
    )
