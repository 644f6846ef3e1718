"""Compares measured speed with the speed expected from MuJoCo's physics on the same machine.

`srpo_env.benchmarks.sim.speed_probe` measures; this module imports neither MuJoCo nor torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

EXPECTED_SHARE = 0.2
"""Share of MuJoCo's own speed that one worker should reach, including images. An AMD EPYC, by
processor time, reaches 1/3 with fast images and 1/10 with exact images from software rendering."""

EXPECTED_SCALING = 0.5
"""Share of one worker's speed that each of several workers should reach; two may share a core."""


@dataclass(frozen=True)
class SpeedTest:
    """Measured speeds."""

    visuals: str
    physics_steps_per_second: float
    """Control steps (25 MuJoCo steps each) per second of the physics alone on one core."""
    one_worker: float
    """Control steps per second of one environment, with two images per chunk of 8."""
    num_workers: int
    all_workers: float
    """Control steps per second of ``num_workers`` environments, each in its own process."""
    load: float
    """Load average over the last minute before the test."""


def judge(test: SpeedTest, cores: float) -> Iterator[tuple[bool, str, str]]:
    """Compares the measured speeds with the expected ones.

    Args:
        test: The measured speeds.
        cores: Number of cores that this process may use.

    Yields:
        Whether the speed is as expected, a description, and a fix (empty if none is needed).
    """
    expected = EXPECTED_SHARE * test.physics_steps_per_second
    busy = (
        f"other programs keep the cores busy (load {test.load:.1f}): stop them and run "
        "`srpo-env doctor` again"
    )
    is_busy = test.load > cores / 2
    is_fast = test.one_worker >= expected
    if is_fast:
        fix = ""
    elif is_busy:
        fix = busy
    elif test.visuals == "exact":
        fix = "see OpenGL above: exact images need a GPU; without one, use visuals='fast'"
    else:
        # Variables set by the user, which `choose_gl` does not change.
        set_by_user = [name for name in ("MUJOCO_GL", "LP_NUM_THREADS") if name in os.environ]
        fix = (
            f"unset {' '.join(set_by_user)}"
            if set_by_user
            else "srpo-env benchmark sim --parts profile"
        )
    yield (
        is_fast,
        f"speed: {test.one_worker:.0f} control steps/s in one worker, visuals={test.visuals!r}; "
        f"expected {expected:.0f} or more, because MuJoCo alone reaches "
        f"{test.physics_steps_per_second:.0f} here",
        fix,
    )
    if test.num_workers == 1:
        return
    expected = EXPECTED_SCALING * test.num_workers * test.one_worker
    is_scaling = test.all_workers >= expected
    if is_scaling:
        fix = ""
    elif is_busy:
        fix = busy
    else:
        fix = f"pass num_workers={max(1, test.num_workers // 2)}, and compare"
    yield (
        is_scaling,
        f"speed: {test.all_workers:.0f} control steps/s in {test.num_workers} workers; "
        f"expected {expected:.0f} or more",
        fix,
    )
