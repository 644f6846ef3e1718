"""Builds LIBERO's own environment of a task, with a model that renders fast if that is wanted.

The tasks, the goal predicates and the robot are those of LIBERO and robosuite, unmodified.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from srpo_env.libero.assets import HOW_TO_GET_ASSETS, check_suite, prepare_libero
from srpo_env.libero.gl import choose_gl
from srpo_env.libero.manifest import first_few
from srpo_env.libero.suites import SUITES, Task
from srpo_env.libero.upstream import import_upstream

choose_gl()  # before the first import of MuJoCo and robosuite, which both read the choice

import mujoco  # noqa: E402

from srpo_env.libero.progress import Progress, report  # noqa: E402
from srpo_env.libero.visuals import Visuals, load_model  # noqa: E402

GOAL_METHODS = {
    "in": "in_box",
    "open": "is_open",
    "close": "is_close",
    "turnon": "turn_on",
    "turnoff": "turn_off",
}
"""Goal predicates, and the method that LIBERO's class of their last argument must have."""


def build_upstream(task: Task, visuals: Visuals) -> Any:
    """Returns LIBERO's environment of a task, whose model is compiled and whose robot is reset.

    Fixtures stand where seed 0 puts them. ``compiled_poses`` are the positions and orientations of
    the bodies before, in the scene's XML.

    Raises:
        FileNotFoundError: If assets of the task are missing.
        ValueError: If LIBERO cannot build the task.
    """
    env = _construct(task, functools.partial(_initialize_sim, task=task, visuals=visuals))
    # As in upstream's `reset`: hides the gripper's coloured aiming marks.
    env.visualize(vis_settings=dict.fromkeys(env._visualizations, False))
    return env


def check_scene(task: Task) -> int:
    """Checks that LIBERO can build a task, and returns the length of its states, ``1 + nq + nv``.

    Builds the scene, but does not compile its model, which takes ten times as long.

    Raises:
        FileNotFoundError: If assets of the task are missing.
        ValueError: If LIBERO cannot build the task, or its goal is not about what the scene has.
    """
    env = _construct(task, _raise_built)
    with _errors_of_building(task):
        spec = mujoco.MjSpec.from_string(env.model.get_xml())
        files = {element.file for element in (*spec.meshes, *spec.textures)} - {""}
        missing = sorted(file for file in files if not Path(file).is_file())
        if missing:
            raise FileNotFoundError(0, "", first_few(missing))
        _check_goal(env)
    # The positions and velocities of a joint.
    sizes = {mujoco.mjtJoint.mjJNT_FREE: 7 + 6, mujoco.mjtJoint.mjJNT_BALL: 4 + 3}
    return 1 + sum(sizes.get(joint.type, 1 + 1) for joint in spec.joints)


def _check_goal(env: Any) -> None:
    """Checks what LIBERO finds out at the first step, or never: then the goal is out of reach."""
    for predicate, *arguments in env.parsed_problem["goal_state"]:
        for name in arguments:
            if name not in env.object_states_dict:
                raise ValueError(f"the goal is about {name}, which its object does not have")
        method, state = GOAL_METHODS.get(predicate), env.object_states_dict[arguments[-1]]
        if method is None:
            continue
        # A region is contained in itself, and is opened and closed by its object.
        name = getattr(state, "parent_name", arguments[-1]) if predicate != "in" else arguments[-1]
        checked = [env.get_object(name)] if predicate == "in" else [env.get_object(name), state]
        if not all(hasattr(part, method) for part in checked):
            raise ValueError(f"the goal ({predicate} {' '.join(arguments)}) needs another object")


class _Built(Exception):
    """Ends the construction of upstream's environment before the model is compiled."""


def _raise_built(env: Any) -> None:
    raise _Built


def _construct(task: Task, initialize_sim: Callable[[Any], None]) -> Any:
    assets = prepare_libero()
    if task.suite in SUITES:
        check_suite(assets, task.suite)
    task.check_unchanged()
    upstream, controller_config = _upstream(task)
    env = upstream.__new__(upstream)
    # An attribute, not a subclass, because robosuite would replace LIBERO's class in its registry.
    env._initialize_sim = functools.partial(initialize_sim, env)
    with global_randomness(0), _errors_of_building(task), contextlib.suppress(_Built):
        env.__init__(
            str(task.bddl_file),
            robots=["Panda"],
            controller_configs=controller_config,
            initialization_noise=None,
            use_camera_obs=False,
            has_renderer=False,
            has_offscreen_renderer=False,
            control_freq=20,
            ignore_done=True,
            # Keeps the model that the constructor compiles.
            hard_reset=False,
        )
    return env


@contextlib.contextmanager
def _errors_of_building(task: Task) -> Iterator[None]:
    """Turns upstream's errors for a user's task, of any type, into one that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{task.name} needs files that are missing: {error.filename or error}; to get LIBERO's "
            f"assets, {HOW_TO_GET_ASSETS}"
        ) from error
    except (ImportError, OSError):
        raise
    except Exception as error:
        if task.suite in SUITES:
            raise
        raise ValueError(
            f"LIBERO cannot build the task of {str(task.bddl_file)!r} "
            f"({type(error).__name__}: {error})"
        ) from error


def _initialize_sim(env: Any, task: Task, visuals: Visuals) -> None:
    """Replaces robosuite's method of this name, and uses a model from `load_model`."""
    from robosuite.utils.binding_utils import MjSim

    def on_progress(num_ready: int, num_items: int) -> None:
        report(Progress(task.suite, task.task_id, num_ready, num_items))

    is_layout = bool(task.extra_objects)
    model = load_model(env.model.get_xml(), visuals, on_progress, is_layout=is_layout)
    env.compiled_poses = model.body_pos.copy(), model.body_quat.copy()
    env.sim = MjSim(model)
    env.sim.forward()
    env.initialize_time(env.control_freq)


def _upstream(task: Task) -> tuple[Any, Any]:
    """Returns LIBERO's class of the task, and robosuite's controller settings."""
    import_upstream()
    import robosuite
    from libero.libero.envs import TASK_MAPPING
    from libero.libero.envs.bddl_utils import get_problem_info

    problem = get_problem_info(str(task.bddl_file))["problem_name"]
    return TASK_MAPPING[problem], robosuite.load_controller_config(default_controller="OSC_POSE")


@contextlib.contextmanager
def global_randomness(seed: int) -> Iterator[None]:
    """Seeds NumPy's global generator for the block, and restores it."""
    # Upstream draws placements from NumPy's global generator, whose state belongs to the user.
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
