"""LIBERO as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Dict, Space

from srpo_env.libero import pool
from srpo_env.libero.fixtures import Fixtures, check_fixture_seed, check_fixtures
from srpo_env.libero.look import DEFAULT_LOOK, Look, check_look
from srpo_env.libero.oracle import OracleProgress
from srpo_env.libero.own_suites import single_task
from srpo_env.libero.perturbations import AnyMixture, Mixture, as_mixture, as_text, resolved
from srpo_env.libero.perturbations.base import Image
from srpo_env.libero.physics import Physics, check_physics
from srpo_env.libero.rendering import MAX_SIZE, describe_gl
from srpo_env.libero.simulation import CAMERAS, Simulation
from srpo_env.libero.suites import NUM_SEEDS, Suite, Task, get_suite
from srpo_env.libero.visuals import Visuals, check_visuals
from srpo_env.types import checked_count

Observation = dict[str, npt.NDArray[Any]]


class LiberoEnv(gymnasium.Env[Observation, npt.NDArray[np.float32]]):
    """The tasks of one suite, LIBERO's or your own; each reset selects a task and an initial state.

    Observation, a Dict:

    * ``agentview``, ``wrist``: uint8 images, upright, ``(image_size, image_size, 3)``; only the
      ones in ``cameras``;
    * ``proprio``: float32 ``(8,)``: gripper position (m), its orientation as axis-angle (rad), two
      finger positions (m).

    Action: a *chunk* of control steps, ``(chunk, 7)`` in [-1, 1]: change of position (1 is 5 cm)
    and of orientation (1 is 0.5 rad), gripper (negative opens, positive closes). Values outside are
    clipped, as in robosuite. The images show the end of the chunk, which stops early when the
    episode ends.

    The reward is 1 on success, else 0. The episode terminates on success and is truncated at the
    suite's limit of control steps. ``info``: ``task_id``, ``task`` (the instruction),
    ``init_state_id``, ``is_success``, ``control_steps`` (number of control steps of the episode),
    and with ``true_progress`` also ``max_progress``, the episode's maximum oracle progress so far,
    in [0, 1]. `step` adds ``positions``: the gripper's position (m) before each control step of the
    chunk, float32 ``(chunk, 3)``, zero for those that were not executed.

    ``reset(options={"task_id": .., "init_state_id": ..})`` selects; an id that is not given is
    drawn from the environment's generator. With ``fixtures="random"``, also ``fixture_seed``, which
    the info contains then. ``perturbation`` replaces the environment's own for this episode; the
    info of a perturbed episode has it as a text, which ``perturbation`` accepts too. Environments
    of one process share compiled tasks; they can be used in several threads, one at a time.

    >>> env = LiberoEnv("libero_object", chunk=8)  # doctest: +SKIP
    >>> observation, info = env.reset(options={"task_id": 0, "init_state_id": 0})  # doctest: +SKIP
    >>> info["task"]  # doctest: +SKIP
    'pick up the alphabet soup and place it in the basket'
    """

    # Not a ClassVar, because Gymnasium declares it as an instance variable.
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(
        self,
        suite: str | Suite | None = None,
        *,
        bddl: str | Path | None = None,
        init_states: str | Path | None = None,
        chunk: int = 8,
        cameras: Sequence[str] = tuple(CAMERAS),
        image_size: int = 128,
        visuals: Visuals | None = None,
        physics: Physics = "exact",
        look: Look = DEFAULT_LOOK,
        fixtures: Fixtures = "fixed",
        perturbation: AnyMixture = None,
        settle_steps: int = 10,
        max_steps: int | None = None,
        true_progress: bool = False,
        render_mode: str | None = None,
    ) -> None:
        """Initialises the environment; a task is compiled at the first reset to it.

        Args:
            suite: ``libero_spatial``, ``libero_object``, ``libero_goal``, ``libero_10``,
                ``libero_90``, or the name of a suite that `srpo_env.register_suite` has added;
                default: ``libero_object``.
            bddl: The BDDL file of a task of your own, instead of a suite.
            init_states: The file of its initial states (``.pruned_init``, ``.init``, ``.npz`` or
                ``.npy``); default: the file beside the BDDL file with its name. If there is none,
                a state is sampled at each reset, and ``init_state_id`` is its seed.
            chunk: Control steps (of 50 ms) per call of `step`.
            cameras: Names of the images in the observation; if empty, nothing is rendered.
            image_size: Height and width of the images in pixels, at most 480.
            visuals: ``"exact"``: LIBERO's meshes and textures; ``"fast"``: decimated meshes, ten
                times faster, the same physics. Default: "exact" where a GPU renders, else "fast".
            physics: ``"exact"``: LIBERO's states, to the last bit; ``"fast"``: the same up to 1e-9
                per control step, for training.
            look: ``"libero"``: the colours of LIBERO's demonstrations; ``"mujoco"``: those of the
                installed MuJoCo, which since version 3.3.3 are darker. With
                ``visuals="exact"``, "mujoco" gives the images of LIBERO's own environment, pixel
                for pixel.
            fixtures: ``"fixed"``: cabinets, stoves and racks stand at the same place in all
                episodes of a task; ``"random"``: they are placed at random at each reset, in their
                regions, as by LIBERO.
            perturbation: One or several of `srpo_env.libero.perturbations`, at most one of each
                dimension, for all episodes. One without a draw is drawn again at each reset.
            settle_steps: Control steps without motion after a reset; not counted as steps.
            max_steps: Control steps before truncation; default: the suite's limit.
            true_progress: Adds ``max_progress`` to the info, measured by
                `OracleProgress`, to evaluate rewards from video. A reset to a task whose goal no
                skill of the experts reaches is an error; LIBERO's suites have none, except
                libero_90.
            render_mode: ``"rgb_array"`` or None.

        Raises:
            FileNotFoundError: If ``bddl`` or ``init_states`` is missing, or assets that it needs.
            ValueError: If an argument is out of its range, or LIBERO cannot build ``bddl``.
            ModuleNotFoundError: If LIBERO is not installed.
        """
        self.task_suite = _suite_of(suite, bddl, init_states)
        """The suite; `suite` is its name."""
        self.suite = self.task_suite.name
        max_steps = self.task_suite.max_steps if max_steps is None else max_steps
        if isinstance(cameras, str) or not set(cameras) <= set(CAMERAS):
            raise ValueError(f"`cameras` must be names from {', '.join(CAMERAS)}, got {cameras!r}")
        if checked_count("image_size", image_size) > MAX_SIZE:
            raise ValueError(f"`image_size` must be in 1..{MAX_SIZE} pixels, got {image_size}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"`render_mode` must be None or 'rgb_array', got {render_mode!r}")
        self.chunk, self.image_size = checked_count("chunk", chunk), int(image_size)
        self.settle_steps = checked_count("settle_steps", settle_steps, minimum=0)
        self.cameras = tuple(cameras)
        self.visuals, self.look = check_visuals(visuals), check_look(look)
        self.physics, self.fixtures = check_physics(physics), check_fixtures(fixtures)
        self.perturbation = as_mixture(perturbation)
        self.max_steps = checked_count("max_steps", max_steps)
        self.true_progress = true_progress
        self.render_mode = render_mode
        self.num_tasks = len(self.task_suite.tasks)
        image = Box(0, 255, (image_size, image_size, 3), np.uint8)
        proprio = Box(-np.inf, np.inf, (8,), np.float32)
        spaces: dict[str, Space[Any]] = {**dict.fromkeys(self.cameras, image), "proprio": proprio}
        self.observation_space = cast("Space[Observation]", Dict(spaces))
        self.action_space = Box(-1.0, 1.0, (chunk, 7), np.float32)
        self._slot: pool.EpisodeSlot | None = None
        self._task_id, self._init_state_id, self._steps = 0, 0, 0
        self._fixture_seed: int | None = None
        self._perturbation: Mixture = ()
        self._instruction = ""
        self._filters: dict[str, Callable[[Image], Image]] = {}
        self._ended = True
        self._oracle: OracleProgress | None = None
        self._max_progress = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode; ``options`` may contain ``task_id`` and ``init_state_id``.

        With ``fixtures="random"``, ``options`` may also contain ``fixture_seed``, in
        ``0..2**32 - 1``: fixtures then stand where a new environment of LIBERO has them after
        ``seed(fixture_seed)`` and ``reset()``. ``perturbation`` is what the constructor accepts;
        None is an episode without one.

        Raises:
            ValueError: If an option is unknown, or there is no such task or initial state.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        task_id = self._choose(options, "task_id", self.num_tasks)
        task = self.task_suite.task(task_id)
        init_state_id = self._choose(options, "init_state_id", task.num_init_states)
        fixture_seed = self._choose_fixtures(options, task)
        own = self.perturbation or task.perturbation
        perturbation = as_mixture(options.pop("perturbation", own))
        if options:
            raise ValueError(
                "`options` may contain only task_id, init_state_id, fixture_seed and perturbation, "
                f"got also {', '.join(map(str, options))}"
            )
        perturbation = resolved(perturbation, self.np_random)
        instruction, scene = task.instruction, task
        filters = {}
        for part in perturbation:
            instruction = part.instruction(task, instruction)
            scene = part.task(scene)
            for camera in self.cameras:
                image_filter = part.image_filter(camera, self.image_size)
                if image_filter is not None:
                    filters[camera] = image_filter
        with pool.lock:
            self.close()
            shared = pool.shared_simulation(scene, self.image_size, self.visuals, self.look)
            self._slot = pool.EpisodeSlot(
                shared, init_state_id, self.settle_steps, fixture_seed, perturbation
            )
            self._perturbation, self._instruction = perturbation, instruction
            self._filters = filters
            self._task_id, self._init_state_id, self._steps = task_id, init_state_id, 0
            # Without stored states, the initial state's seed is also that of the fixtures.
            self._fixture_seed = init_state_id if fixture_seed is None else fixture_seed
            self._ended = False
            if self.true_progress:
                self._oracle = OracleProgress(self.simulation)
                self._max_progress = self._oracle.measure()
            return self._observe(), self._info(is_success=False)

    def step(
        self, action: npt.NDArray[np.float32]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Executes a chunk of control steps.

        Raises:
            ValueError: If the action's shape is not ``(chunk, 7)``, or it has NaN.
            gymnasium.error.ResetNeeded: If the episode has ended.
        """
        if self._ended:
            raise gymnasium.error.ResetNeeded(
                "the episode has ended or has not started: call `reset` before `step`"
            )
        actions = np.asarray(action, dtype=np.float64)
        if actions.shape != (self.chunk, 7):
            raise ValueError(
                f"an action must have shape ({self.chunk}, 7): (chunk, 7), got {actions.shape}"
            )
        if not np.isfinite(actions).all():
            bad = int(np.argmin(np.isfinite(actions).all(axis=1)))
            raise ValueError(
                f"an action must be finite, got NaN or infinity in step {bad} of the chunk"
            )
        with pool.lock:
            simulation = self.simulation
            success = False
            positions = np.zeros((self.chunk, 3), dtype=np.float32)
            for index, single in enumerate(actions[: self.max_steps - self._steps]):
                positions[index] = simulation.proprio()[:3]
                success = simulation.step(single)
                self._steps += 1
                if self._oracle is not None:
                    self._max_progress = max(self._max_progress, self._oracle.measure())
                if success:
                    break
            truncated = not success and self._steps >= self.max_steps
            self._ended = success or truncated
            info = {**self._info(is_success=success), "positions": positions}
            return self._observe(), float(success), success, truncated, info

    def render(self) -> npt.NDArray[np.uint8] | None:
        """Returns the current agent view, or None without a ``render_mode``."""
        if self.render_mode is None:
            return None
        with pool.lock:
            return self.simulation.render("agentview")

    def close(self) -> None:
        """Ends the episode; may be called twice. Compiled tasks are kept for other environments."""
        with pool.lock:
            if self._slot is not None:
                self._slot.end()
        self._slot, self._oracle, self._ended = None, None, True

    @property
    def simulation(self) -> Simulation:
        """The simulator with this environment's episode loaded; for experts and for debugging.

        Valid until another environment of the process is used. While several threads use
        environments, hold :data:`srpo_env.libero.pool.lock`.

        Raises:
            gymnasium.error.ResetNeeded: Before the first reset.
        """
        if self._slot is None:
            raise gymnasium.error.ResetNeeded(
                "the environment has no simulator before its first `reset`"
            )
        with pool.lock:
            simulation = self._slot.load()
            simulation.physics = self.physics
            return simulation

    @property
    def conditions(self) -> dict[str, str]:
        """What images and states depend on, for the records of experiments."""
        return {
            "look": self.look,
            "visuals": self.visuals,
            "physics": self.physics,
            "fixtures": self.fixtures,
            **({"perturbation": as_text(self.perturbation)} if self.perturbation else {}),
            "mujoco": version("mujoco"),
        }

    @property
    def gl(self) -> str:
        """OpenGL's vendor, renderer and version."""
        return describe_gl()

    # --- Observations and infos -----------------------------------------------------------------

    def _observe(self) -> Observation:
        simulation = self.simulation
        images = {name: simulation.render(name) for name in self.cameras}
        filtered = {name: apply(images[name]) for name, apply in self._filters.items()}
        return {**images, **filtered, "proprio": simulation.proprio()}

    def _info(self, is_success: bool) -> dict[str, Any]:
        info = {
            "task_id": self._task_id,
            "task": self._instruction,
            "init_state_id": self._init_state_id,
            "is_success": is_success,
            "control_steps": self._steps,
        }
        if self.fixtures == "random":
            info["fixture_seed"] = self._fixture_seed
        if self._perturbation:
            info["perturbation"] = as_text(self._perturbation)
        if self.true_progress:
            info["max_progress"] = self._max_progress
        return info

    def _choose(self, options: dict[str, Any], name: str, count: int) -> int:
        value = options.pop(name, None)
        if value is None:
            return int(self.np_random.integers(count))
        is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not is_integer or not 0 <= value < count:
            raise ValueError(
                f"`{name}` must be an integer in 0..{count - 1} for {self.suite}, got {value!r}"
            )
        return int(value)

    def _choose_fixtures(self, options: dict[str, Any], task: Task) -> int | None:
        """Returns the seed of the fixtures, or None where `Simulation.start` needs none."""
        if options.get("fixture_seed") is not None:
            check_fixture_seed(options["fixture_seed"], self.fixtures, task)
        if self.fixtures == "fixed" or task.init_states_file is None:
            options.pop("fixture_seed", None)
            return None
        return self._choose(options, "fixture_seed", NUM_SEEDS)


def _suite_of(
    suite: str | Suite | None, bddl: str | Path | None, init_states: str | Path | None
) -> Suite:
    if bddl is None and init_states is None:
        return suite if isinstance(suite, Suite) else get_suite(suite or "libero_object")
    if bddl is None or suite is not None:
        raise ValueError(
            "`bddl` is a task of your own, with its `init_states`, instead of a `suite`: got "
            f"bddl={bddl!r}, init_states={init_states!r}, suite={suite!r}"
        )
    return single_task(bddl, init_states)
