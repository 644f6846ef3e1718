"""A short test of speed: what is expected of a machine, by what MuJoCo alone does on it.

:mod:`srpo_env.benchmarks.sim.speed_probe` measures; nothing heavy is imported here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

EXPECTED_SHARE = 0.2
"""
of MuJoCo's own speed that one worker should reach, images and all; an AMD EPYC, by processor time,
reaches a third with fast ones, and a tenth with exact ones from software
"""

EXPECTED_SCALING = 0.5
"""of its own speed that each worker should keep beside the others; two may share a core"""


@dataclass(frozen=True)
class SpeedTest:
    """What was measured."""

    visuals: str
    physics_steps_per_second: float
    """control steps that MuJoCo makes on one core: 25 of its own, without controller and images"""
    one_worker: float
    """control steps per second of one environment, with two images per chunk of 8"""
    num_workers: int
    all_workers: float
    """of ``num_workers`` environments, each in a process of its own"""
    load: float
    """processes that wanted to run before the test began, over the last minute"""


def judge(test: SpeedTest, cores: float) -> Iterator[tuple[bool, str, str]]:
    """Compares a test with what can be expected.

    Args:
        test: The measurement.
        cores: That this process may use.

    Yields:
        Whether all is well, what was found, and what to do about it.
    """
    expected = EXPECTED_SHARE * test.physics_steps_per_second
    busy = f"other programs keep the cores busy (load {test.load:.1f}): stop them and ask again"
    is_busy = test.load > cores / 2
    is_quick = test.one_worker >= expected
    if is_quick:
        mend = ""
    elif is_busy:
        mend = busy
    elif test.visuals == "exact":
        mend = "see OpenGL above: exact images need a GPU; without one use visuals='fast'"
    else:
        # Settings of the user's own that `choose_gl` leaves in force.
        own = [name for name in ("MUJOCO_GL", "LP_NUM_THREADS") if name in os.environ]
        mend = f"unset {' '.join(own)}" if own else "srpo-env benchmark sim --parts profile"
    yield (
        is_quick,
        f"speed: {test.one_worker:.0f} control steps/s in one worker, visuals={test.visuals!r}; "
        f"expected {expected:.0f} or more, as MuJoCo alone makes "
        f"{test.physics_steps_per_second:.0f} here",
        mend,
    )
    if test.num_workers == 1:
        return
    expected = EXPECTED_SCALING * test.num_workers * test.one_worker
    is_scaling = test.all_workers >= expected
    if is_scaling:
        mend = ""
    elif is_busy:
        mend = busy
    else:
        mend = f"pass num_workers={max(1, test.num_workers // 2)}, and compare"
    yield (
        is_scaling,
        f"speed: {test.all_workers:.0f} control steps/s in {test.num_workers} workers; "
        f"expected {expected:.0f} or more",
        mend,
    )
