"""Verdict on the reward of recorded episodes, and the next step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from srpo_env.benchmarks.recorded.figures import EncoderCheck, check_latents
from srpo_env.benchmarks.recorded.latents import encode_episodes
from srpo_env.encoders.baselines import PixelEncoder
from srpo_env.encoders.named import WORLD_MODEL, split_name
from srpo_env.encoders.protocol import TrajectoryEncoder
from srpo_env.offline import RecordedEpisode

Status = Literal["usable", "not usable", "too little data"]

MIN_SUCCESSES = 3
"""Number of successes that at least one task must have. With two, each is compared with a single
other success, which depends more on that success than on the task."""

MIN_CORRELATION = 0.7
"""Mean rank correlation with time. On scripted episodes of libero_object: the bundled world model
(with its earlier latents) 0.99, pixels 0.85, untrained V-JEPA 2 0.75, random latents below 0.3."""

MIN_SEPARATION = 0.8
"""AUC; 0.5 is chance. On the same episodes: bundled world model 1.00, pixels 0.98; untrained V-JEPA
2 0.76, which ranks those failures badly by the simulator's progress (Kendall's tau 0.3)."""

MIN_SPREAD = 0.05
"""Relative spread of the failures' distances. Random latents in 64 dimensions spread by 0.06; the
reward divides by the spread, so a smaller one amplifies noise."""


@dataclass(frozen=True)
class Verdict:
    """Whether the reward can be used on these episodes, and what to do next."""

    status: Status
    text: str
    next_steps: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class RewardCheck:
    """Figures of the encoder and of the pixel baseline, and the verdict."""

    encoder: EncoderCheck
    pixels: EncoderCheck | None
    """The pixel baseline on the same episodes; None if it is itself the encoder."""
    verdict: Verdict

    def as_dict(self) -> dict[str, Any]:
        """Returns nested data for `to_json`."""
        checks = [check for check in (self.encoder, self.pixels) if check is not None]
        return {
            "verdict": vars(self.verdict),
            "thresholds": {
                "successes": MIN_SUCCESSES,
                "correlation": MIN_CORRELATION,
                "separation": MIN_SEPARATION,
                "spread": MIN_SPREAD,
            },
            "encoders": [
                {
                    "encoder": check.encoder,
                    "correlation": vars(check.correlation),
                    "separation": vars(check.separation),
                    "spread": check.spread,
                    "tasks": [task.as_dict() for task in check.tasks],
                }
                for check in checks
            ],
        }


def check_reward(
    episodes: Iterable[RecordedEpisode],
    encoder: TrajectoryEncoder,
    *,
    name: str | None = None,
    batch_size: int = 8,
    num_samples: int = 1000,
    seed: int = 0,
    progress: Callable[[], object] | None = None,
) -> RewardCheck:
    """Checks the reward of an encoder on recorded episodes, and compares it with pixels.

    Args:
        episodes: Successes and failures of any number of tasks; at most ``batch_size`` are held in
            memory.
        encoder: Maps their frames to latents.
        name: Name of the encoder in the report; default: its class.
        batch_size: Number of episodes that are encoded in one call, with their prefixes.
        num_samples: Number of bootstrap samples for the intervals, over episodes.
        seed: Random seed of the bootstrap.
        progress: Called after each episode.

    Raises:
        ValueError: If there is no episode, none succeeded, or the encoder fails on one.

    Examples:
        ```python
        check = check_reward(read_libero("task_demo.hdf5"), VJEPA2Encoder("libero-vjepa2"))
        print(check.verdict.text)
        ```
    """
    encoders = {name or type(encoder).__name__: encoder}
    if not isinstance(encoder, PixelEncoder):
        encoders["pixels"] = PixelEncoder()
    encoded = encode_episodes(episodes, encoders, batch_size=batch_size, progress=progress)
    checks = [check_latents(one, num_samples=num_samples, seed=seed) for one in encoded]
    pixels = checks[1] if len(checks) > 1 else None
    return RewardCheck(checks[0], pixels, judge(checks[0], pixels))


def below_threshold(check: EncoderCheck) -> list[str]:
    """Returns the names of the measures below their thresholds, except those not measured."""
    figures = {
        "correlation": (check.correlation.value, MIN_CORRELATION),
        "separation": (check.separation.value, MIN_SEPARATION),
        "spread": (check.spread, MIN_SPREAD),
    }
    return [name for name, (value, threshold) in figures.items() if value < threshold]


def judge(check: EncoderCheck, pixels: EncoderCheck | None = None) -> Verdict:
    """Compares the figures with their thresholds.

    Args:
        check: Figures of the encoder.
        pixels: Figures of the pixel baseline on the same episodes, unless it is the encoder.
    """
    max_successes = max(task.num_successes for task in check.tasks)
    if max_successes < MIN_SUCCESSES:
        return Verdict(
            "too little data",
            f"Too few successes: at least one task must have {MIN_SUCCESSES}, but no task has more "
            f"than {max_successes}.",
            ("Record more successes of the same task, or pass more files (demonstrations count).",),
        )
    too_low = below_threshold(check)
    if "correlation" in too_low:
        return Verdict(
            "not usable",
            "The encoder does not see progress on this data: in the course of a success, its "
            "distance to the other successes does not fall steadily (rank correlation with time "
            f"{check.correlation}, at least {MIN_CORRELATION} needed).",
            _steps_if_not_usable(check, pixels, check.correlation.high >= MIN_CORRELATION),
        )
    if np.isnan(check.separation.value):
        return Verdict(
            "too little data",
            "The encoder sees progress on this data (rank correlation with time "
            f"{check.correlation.value:.2f}), but no failure was recorded, so the separation of "
            "failures and successes could not be measured.",
            ("Add failed episodes of the same task, such as a policy's own.",),
        )
    if "separation" in too_low:
        return Verdict(
            "not usable",
            "The encoder does not separate failures from successes: only "
            f"{check.separation.value:.0%} of the failures are farther from the other successes "
            f"than a success is (separation {check.separation}, at least "
            f"{MIN_SEPARATION} needed, 0.5 is chance).",
            _steps_if_not_usable(check, pixels, check.separation.high >= MIN_SEPARATION),
        )
    if "spread" in too_low:
        return Verdict(
            "not usable",
            "All failures are almost equally far from the successes (relative spread "
            f"{check.spread:.3f}, at least {MIN_SPREAD} needed): their rewards would rank noise.",
            _steps_if_not_usable(check, pixels, is_close=False),
        )
    text = (
        "The reward is usable: progress rises along successes (rank correlation with time "
        f"{check.correlation.value:.2f}, at least {MIN_CORRELATION} needed), and failures are "
        f"farther away than successes (separation {check.separation.value:.2f}, at least "
        f"{MIN_SEPARATION} needed)."
    )
    return Verdict("usable", text, _steps_if_usable(check, pixels))


def _steps_if_not_usable(
    check: EncoderCheck, pixels: EncoderCheck | None, is_close: bool
) -> tuple[str, ...]:
    steps = ["Check that `--camera` is a camera that shows the robot and the objects throughout."]
    if is_close:
        steps.append("Pass more episodes: the 95% interval still reaches the threshold.")
    if pixels is not None and not below_threshold(pixels):
        steps.append(
            "Try `--encoder pixels` (srpo_env.PixelEncoder()), which passes on this data: rank "
            f"correlation {pixels.correlation.value:.2f}, separation {pixels.separation.value:.2f}."
        )
    if split_name(check.encoder)[0] == WORLD_MODEL:
        steps.append(
            "The bundled world model was trained on LIBERO's libero_object only. Try "
            "`--encoder facebook/vjepa2-vitl-fpc64-256`, or train one on your videos with "
            "agents/world_model.py."
        )
    else:
        steps.append(
            f"Try another encoder: `--encoder {WORLD_MODEL}` for LIBERO, else train a world model "
            "on your videos with agents/world_model.py."
        )
    return tuple(steps)


def _steps_if_usable(check: EncoderCheck, pixels: EncoderCheck | None) -> tuple[str, ...]:
    steps = ["Pass this encoder to srpo_env.SelfReferentialProgressWrapper."]
    weak = [
        task.task
        for task in check.tasks
        if task.correlation < MIN_CORRELATION or task.separation < MIN_SEPARATION
    ]
    if weak:
        steps.append(f"Look at the tasks below the thresholds: {', '.join(weak)}.")
    if pixels is not None and (
        pixels.separation.value >= check.separation.value
        and pixels.correlation.value >= check.correlation.value
    ):
        steps.append("The pixel baseline is as good here and cheaper: compare both in training.")
    return tuple(steps)
