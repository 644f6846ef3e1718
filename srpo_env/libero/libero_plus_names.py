"""Parses the names of LIBERO-Plus's tasks, which say what is perturbed.

For example ``turn_on_the_stove_view_0_15_100_358_0_initstate_273_noise_4``: the base task, a view
(azimuth, elevation, distance in percent, yaw, pitch; angles in degrees from 0 to 359), the number
of the robot's initial state and the number of the noise. Other perturbations are files of their
own: ``_language_7``, ``_light_7``, ``_table_7``, ``_tb_7``, ``_add_7`` and ``_level2_sample3``, for
libero_goal ``_moved_level2_sample3``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from srpo_env.libero.perturbations import Camera, Noise, Perturbation
from srpo_env.libero.perturbations.camera import View
from srpo_env.libero.perturbations.noise import KINDS, MAX_SEVERITY

DIMENSION_OF_FILE = {
    "language": "language",
    "light": "light",
    "table": "background",
    "tb": "background",
    "add": "layout",
    "level": "layout",
}
"""Our dimension of each kind of file."""

NUM_ROBOTS = 500

_FILE = re.compile(r"_(?P<kind>language|light|table|tb|add)_(?P<number>\d+)$")
_LEVEL = re.compile(r"(?:_moved)?_level(?P<level>\d+)_sample(?P<sample>\d+)$")
_TAIL = re.compile(
    r"_view_(\d+)_(\d+)_(\d+)_(\d+)_(\d+)_initstate_(?P<robot>\d+)(?:_noise_(?P<noise>\d+))?$"
)


@dataclass(frozen=True)
class PlusName:
    """What the name of a task says."""

    file: str
    """Name of the BDDL file without ending."""
    base: str
    """Name of LIBERO's task."""
    kind: str | None = None
    """Kind of the file: language, light, table, tb, add, level; None: the base task's."""
    number: int = 0
    """Number of the file; for a level, the level."""
    view: View = (0.0, 0.0, 1.0, 0.0, 0.0)
    robot: int = 0
    """Number of the robot's initial state, 0 for LIBERO's."""
    noise: int = 0
    """Number of the noise, 0 for none."""

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The dimensions that are perturbed, in our names."""
        found = []
        if self.view != PlusName.view:
            found.append("camera")
        if self.robot:
            found.append("robot")
        if self.kind is not None:
            found.append(DIMENSION_OF_FILE[self.kind])
        if self.noise:
            found.append("noise")
        return tuple(found)

    @property
    def num_distractors(self) -> int:
        """Number of objects that a task ``_add_A`` adds: six variants of each number."""
        return math.ceil(self.number / 6) if self.kind == "add" else 0

    @property
    def joint_radius(self) -> float:
        """Length of the change of the robot's joints in radians: a hundred variants of each."""
        return 0.1 * math.ceil(self.robot / 100)

    def perturbations(self) -> list[Perturbation]:
        """Returns those that need no files: of the camera, and of its images."""
        found: list[Perturbation] = []
        if self.view != PlusName.view:
            found.append(Camera(view=self.view))
        if self.noise:
            kind, severity = divmod(self.noise - 1, MAX_SEVERITY)
            found.append(Noise(kind=KINDS[kind], severity=severity + 1))
        return found


def parse_plus_name(name: str) -> PlusName:
    """Parses the name of a task of LIBERO-Plus.

    Raises:
        ValueError: If a number is out of its range.

    Examples:
        >>> task = parse_plus_name("open_the_drawer_view_345_15_100_0_0_initstate_0_noise_23")
        >>> task.base, task.view, task.dimensions
        ('open_the_drawer', (-15.0, 15.0, 1.0, 0.0, 0.0), ('camera', 'noise'))
        >>> task.perturbations()[1].kind, task.perturbations()[1].severity
        ('zoom', 3)
        >>> parse_plus_name("open_the_drawer_add_8").num_distractors
        2
    """
    file, view, robot, noise = name, PlusName.view, 0, 0
    tail = _TAIL.search(name)
    if tail is not None:
        file = name[: tail.start()]
        azimuth, elevation, percent, yaw, pitch = (int(tail[group]) for group in range(1, 6))
        view = (_signed(azimuth), _signed(elevation), percent / 100, _signed(yaw), _signed(pitch))
        robot, noise = int(tail["robot"]), int(tail["noise"] or 0)
    highest = MAX_SEVERITY * len(KINDS)
    for what, number, limit in (("initstate", robot, NUM_ROBOTS), ("noise", noise, highest)):
        if number > limit:
            raise ValueError(
                f"the {what} of a task of LIBERO-Plus must be in 0..{limit}, got {number} in "
                f"{name!r}"
            )
    if (level := _LEVEL.search(file)) is not None:
        base, kind, number = file[: level.start()], "level", int(level["level"])
    elif (variant := _FILE.search(file)) is not None:
        base, kind, number = file[: variant.start()], variant["kind"], int(variant["number"])
    else:
        return PlusName(file, file, view=view, robot=robot, noise=noise)
    return PlusName(file, base, kind, number, view, robot, noise)


def _signed(degrees: int) -> float:
    """Returns an angle in [-180, 180): 345 stands for -15 degrees."""
    return float((degrees + 180) % 360 - 180)
