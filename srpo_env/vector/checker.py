"""`check_wrapped`: runs a wrapped environment for some episodes and reports problems with fixes."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from srpo_env.encoders.protocol import TrajectoryEncoder
from srpo_env.rewards.diagnostics import failures_above_success
from srpo_env.types import Bools, Episode, Group, Video, checked_count
from srpo_env.vector.infos import info_of, success_of
from srpo_env.vector.wrapper import SelfReferentialProgressWrapper

Policy = Callable[[Any], Any]


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    level: Literal["ok", "warning", "error"]
    topic: str
    message: str
    """Observation and, for a problem, its fix."""

    def __str__(self) -> str:
        """Returns one line of text."""
        return f"{self.level:8}{self.topic:10}{self.message}"


@dataclass(frozen=True)
class CheckReport:
    """All findings of `check_wrapped`; ``print`` shows one line for each."""

    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        """Returns one line of text for each finding."""
        return "\n".join(map(str, self.findings))


def check_wrapped(
    envs: SelfReferentialProgressWrapper,
    *,
    policy: Policy | None = None,
    num_episodes: int = 16,
    max_steps: int = 2000,
    seed: int = 0,
    options: dict[str, Any] | None = None,
) -> CheckReport:
    """Runs some episodes and checks everything that the reward depends on.

    Checks frames, success flags, ends of episodes, rewards, group keys and latents. Use a separate
    wrapper for this check: it is reset, and the groups that it closes are removed.

    Args:
        envs: Wrapped environments.
        policy: Maps observations to actions; ``None`` for random actions. Random actions rarely
            succeed, and some checks need a success.
        num_episodes: Number of ended episodes to wait for.
        max_steps: Maximum number of steps.
        seed: Seed of the reset and of the random actions.
        options: Passed to each `reset`, such as the task and initial state to start from.

    Returns:
        The findings. Those of level ``"warning"`` are also issued as warnings.

    Raises:
        TypeError: If ``envs`` are not wrapped.
        ValueError: If a number is not a positive integer.
        AssertionError: If there is a finding of level ``"error"``; its text is the report.

    Examples:
        ```python
        print(check_wrapped(SelfReferentialProgressWrapper(envs, PixelEncoder())))
        ```
    """
    if not isinstance(envs, SelfReferentialProgressWrapper):
        raise TypeError(
            "`envs` must be a SelfReferentialProgressWrapper, without another wrapper around it: "
            f"call check_wrapped(SelfReferentialProgressWrapper(envs, encoder)), got {envs}"
        )
    checked_count("num_episodes", num_episodes)
    checked_count("max_steps", max_steps)
    seen = _run(envs, policy, num_episodes, max_steps, seed, options or {})
    findings = [
        Finding("ok", "autoreset", f"{envs.metadata['autoreset_mode']} is declared"),
        *_check_ends(seen),
        *_check_success(seen),
        *_check_rewards(seen),
        *_check_frames(seen),
        *_check_latents(seen, envs.encoder),
        *_check_groups(seen),
    ]
    report = CheckReport(tuple(findings))
    if any(finding.level == "error" for finding in findings):
        text = f"The wrapped environment cannot be trained on:\n{report}"
        raise AssertionError(text) from seen.error
    for finding in findings:
        if finding.level == "warning":
            warnings.warn(str(finding), stacklevel=2)
    return report


@dataclass
class _Seen:
    """What was observed during the run."""

    videos: list[Video] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    num_steps: int = 0
    truncated: int = 0
    early_flags: int = 0
    """Number of steps with a success flag that did not end their episode."""
    error: Exception | None = None
    """The exception that ended the run."""

    @property
    def episodes(self) -> list[Episode]:
        return sorted(
            (episode for group in self.groups for episode in group.episodes),
            key=lambda episode: episode.episode_id,
        )


class _Probe:
    """Calls the encoder and keeps the videos that are passed to it."""

    def __init__(self, encoder: TrajectoryEncoder, videos: list[Video]) -> None:
        self.encoder, self.videos = encoder, videos
        self.latent_shape = encoder.latent_shape

    def encode(self, videos: Sequence[Video]) -> npt.NDArray[np.float32]:
        self.videos += videos
        return self.encoder.encode(videos)


def _run(
    envs: SelfReferentialProgressWrapper,
    policy: Policy | None,
    num_episodes: int,
    max_steps: int,
    seed: int,
    options: dict[str, Any],
) -> _Seen:
    seen = _Seen()
    encoder = envs.encoder
    # Errors about latents begin with the name of the encoder's class.
    envs.encoder = type(type(encoder).__name__, (_Probe,), {})(encoder, seen.videos)
    try:
        envs.action_space.seed(seed)
        observations, infos = envs.reset(seed=seed, options=dict(options) or None)
        num_ended = 0
        while num_ended < num_episodes and seen.num_steps < max_steps:
            actions = policy(observations) if policy else envs.action_space.sample()
            observations, _, terminations, truncations, infos = envs.step(actions)
            dones = np.logical_or(terminations, truncations)
            seen.num_steps += 1
            seen.truncated += int(truncations.sum())
            num_ended += int((dones & infos["_episode_id"]).sum())
            seen.early_flags += _count_early_flags(envs, infos, dones)
            if envs.autoreset_mode is AutoresetMode.DISABLED and dones.any():
                observations, infos = envs.reset(options={**options, "reset_mask": dones})
        envs.close_groups()
    # Every exception of the wrapper or of a user's callable becomes a finding. It is chained to the
    # AssertionError, whose traceback shows where it was raised.
    except Exception as error:
        seen.error = error
    finally:
        envs.encoder = encoder
        seen.groups = envs.pop_groups()
    return seen


def _count_early_flags(
    envs: SelfReferentialProgressWrapper, infos: dict[str, Any], dones: Bools
) -> int:
    if envs.success in ("terminated", "once"):
        return 0
    count = 0
    running: list[int] = np.flatnonzero(infos["_episode_id"] & ~dones).tolist()
    for index in running:
        try:
            count += success_of(info_of(infos, index, envs.num_envs), False, envs.success)
        except (ValueError, KeyError):
            continue  # an environment may set the flag in the last step only
    return count


def _check_ends(seen: _Seen) -> list[Finding]:
    if seen.error:
        error = f"{type(seen.error).__name__}: {seen.error}"
        return [Finding("error", "run", f"stopped after {seen.num_steps} steps by {error}")]
    episodes = seen.episodes
    if not episodes:
        return [
            Finding(
                "error",
                "ends",
                f"no episode ended in {seen.num_steps} steps, so no group can close; limit "
                "each environment with gymnasium.wrappers.TimeLimit(env, max_episode_steps=...) "
                "(lerobot's LiberoEnv, for example, never truncates); or pass a larger `max_steps`",
            )
        ]
    lengths = [episode.length for episode in episodes]
    text = (
        f"{len(episodes)} episodes ended in {seen.num_steps} steps, {seen.truncated} by truncation,"
        f" after {min(lengths)} to {max(lengths)} steps"
    )
    return [Finding("ok", "ends", text)]


def _check_success(seen: _Seen) -> list[Finding]:
    findings = []
    num_successes = sum(episode.success for episode in seen.episodes)
    if seen.episodes and not num_successes:
        findings.append(
            Finding(
                "warning",
                "success",
                f"none of {len(seen.episodes)} episodes succeeded, so it could not be checked that "
                "the flag is ever set; pass a `policy` that sometimes succeeds",
            )
        )
    elif seen.episodes:
        text = f"{num_successes} of {len(seen.episodes)} episodes"
        findings.append(Finding("ok", "success", text))
    if seen.early_flags:
        findings.append(
            Finding(
                "warning",
                "success",
                f"the flag was set in {seen.early_flags} steps that did not end their episode, but "
                "only that of the last step counts; end the episode on success, pass "
                'success="once", or pass `success` a flag that stays set',
            )
        )
    return findings


def _check_rewards(seen: _Seen) -> list[Finding]:
    findings = []
    failed = [episode.env_return for episode in seen.episodes if not episode.success]
    succeeded = [episode.env_return for episode in seen.episodes if episode.success]
    fix = "convert with gymnasium.wrappers.TransformReward"
    if any(failed):
        findings.append(
            Finding(
                "warning",
                "reward",
                f"failed episodes returned {min(failed):g} to {max(failed):g}, and the progress "
                "reward is added to that; it needs environments that pay 1 for a success and 0 "
                f"otherwise: {fix}",
            )
        )
    elif failed:
        findings.append(Finding("ok", "reward", "failed episodes return 0"))
    if succeeded and not np.allclose(succeeded, 1.0):
        findings.append(
            Finding(
                "warning",
                "reward",
                f"successful episodes returned {min(succeeded):g} to {max(succeeded):g}, and "
                f"progress rewards are scaled for a success that pays 1: {fix}",
            )
        )
    above = sum(failures_above_success(group) for group in seen.groups)
    if above:
        findings.append(
            Finding("warning", "reward", f"{above} failures return more than a success does")
        )
    return findings


def _check_frames(seen: _Seen) -> list[Finding]:
    if not seen.videos:
        return []
    findings = []
    shapes = {video.shape[1:] for video in seen.videos}
    text = f"{len(seen.videos)} videos of {' and '.join(map(str, shapes))} uint8"
    findings.append(Finding("ok", "frames", text))
    if all((video == video[0, 0, 0]).all() for video in seen.videos):
        findings.append(
            Finding(
                "error",
                "frames",
                "every frame has one single colour; pass `frames` a camera that shows the task",
            )
        )
    elif all((video == video[0]).all() for video in seen.videos):
        findings.append(
            Finding(
                "error",
                "frames",
                "no frame differs from the first one of its episode; pass `frames` a camera that "
                "shows the task",
            )
        )
    return findings


def _check_latents(seen: _Seen, encoder: TrajectoryEncoder) -> list[Finding]:
    latents = [episode.latent for episode in seen.episodes]
    if not latents:
        return []
    again = encoder.encode(seen.videos[:1])
    first = min(float(np.linalg.norm(again[0] - latent)) for latent in latents)
    if first > 1e-3 * max(float(np.linalg.norm(again[0])), 1e-6):
        text = "encoding a video again gives another latent; disable dropout and other randomness"
        return [Finding("error", "encoder", text)]
    different = any(
        video.shape != seen.videos[0].shape or (video != seen.videos[0]).any()
        for video in seen.videos
    )
    if different and all(np.array_equal(latent, latents[0]) for latent in latents):
        text = "returns the same latent for different videos"
        return [Finding("error", "encoder", f"{type(encoder).__name__} {text}")]
    norms = [float(np.linalg.norm(latent)) for latent in latents]
    text = f"latents of shape {latents[0].shape}, norm {min(norms):.3g} to {max(norms):.3g}"
    return [Finding("ok", "encoder", text)]


def _check_groups(seen: _Seen) -> list[Finding]:
    sizes: Counter[Hashable] = Counter()
    for group in seen.groups:
        sizes[group.key] += len(group.episodes)
    if not sizes:
        return []
    findings = []
    if len(sizes) > 1 and max(sizes.values()) == 1:
        findings.append(
            Finding(
                "warning",
                "groups",
                f"each of {len(sizes)} episodes has its own key ({next(iter(sizes))!r}, ...), "
                "so none is compared with another; pass `group_key`, start the episodes of a group "
                'from one task and initial state, or use reference="task"',
            )
        )
    elif set(sizes) == {(None, None)}:
        findings.append(
            Finding(
                "warning",
                "groups",
                "the info of `reset` has neither task_id nor init_state_id, so all episodes are "
                "compared with each other; if goals, tasks or scenes differ, this is wrong: pass "
                "`group_key`, such as lambda info, env_index: info[...]. If they do not differ, "
                "pass group_key=lambda info, env_index: 0",
            )
        )
    else:
        keys = ", ".join(f"{key!r} x {size}" for key, size in sizes.most_common(3))
        findings.append(Finding("ok", "groups", f"keys: {len(sizes)}, most often {keys}"))
    return findings
