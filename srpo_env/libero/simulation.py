"""Simulates one LIBERO task in MuJoCo: several times faster than upstream, equal to the last bit.

Upstream computes the simulator's derived quantities three times per substep and 39 observables 25
times per control step. Here each substep is one pass (``mj_step1``, controller, ``mj_step2``),
images are rendered on demand, and a reset writes a state into the compiled model instead of
building the model again. The tasks, the goal predicates and the robot are those of LIBERO and
robosuite.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from srpo_env.libero.gl import choose_gl
from srpo_env.libero.look import DEFAULT_LOOK, Look, apply_look, check_look
from srpo_env.libero.perturbations.appearance import Appearance, ModelFields
from srpo_env.libero.suites import Task

choose_gl()  # before the first import of MuJoCo and robosuite, which both read the choice

import mujoco  # noqa: E402

from srpo_env.libero.arrangement import Arrangement  # noqa: E402
from srpo_env.libero.building import build_upstream, global_randomness  # noqa: E402
from srpo_env.libero.fast_torques import ARM_JOINTS  # noqa: E402
from srpo_env.libero.fixtures import draw_fixtures  # noqa: E402
from srpo_env.libero.physics import Physics, begin_substep, check_physics, set_left_out  # noqa: E402
from srpo_env.libero.rendering import SHADOW_SIZE, Renderer  # noqa: E402
from srpo_env.libero.visuals import Visuals, check_visuals  # noqa: E402
from srpo_env.types import Floats  # noqa: E402

SUBSTEPS = 25
"""MuJoCo steps of 2 ms per control step of 50 ms."""

OBSERVED_SUBSTEP = SUBSTEPS - 2
"""Substep that observations show. robosuite samples its sensors once per control step, and the
samples in LIBERO's reset and ``set_init_state`` set the clock to the last but one substep."""

CAMERAS = {"agentview": "agentview", "wrist": "robot0_eye_in_hand"}
"""Names of the images in an observation, and of LIBERO's cameras."""

SETTLE_ACTION = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])
"""No motion, gripper open. Evaluations of LIBERO start with it until the objects are at rest."""

MAX_SAMPLES = 20
"""Number of times that a sampled initial state is drawn again because objects overlap."""

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION


@dataclass(frozen=True)
class Snapshot:
    """The complete state of a simulation; small, picklable, valid for the same task only."""

    physics: Floats
    seen_qpos: Floats
    """Joint positions of the derived quantities, which in MuJoCo are one substep old."""
    observed_qpos: Floats
    """Joint positions in the images: one substep older, as upstream's."""
    observed_alpha: Floats
    """Opacity of the sites in the images; a burner's light is visible one step after it is on."""
    goal_ori: Floats
    fingers: Floats
    fresh: bool
    fixtures: Floats
    """Positions (m) and quaternions of the fixtures, which no joint positions contain; (n, 7)"""
    rest_joints: Floats
    """Posture that the controller prefers, (7,), rad"""


class Simulation:
    """A compiled task. `save` and `load` let several episodes take turns in it."""

    def __init__(
        self,
        task: Task,
        image_size: int = 128,
        visuals: Visuals | None = None,
        physics: Physics = "exact",
        look: Look = DEFAULT_LOOK,
    ) -> None:
        """Builds the task.

        Takes 0.3 to 1 s with ``visuals="exact"``; 0.1 s with "fast", except the first time, when
        the decimated model is made (one to a few seconds, with a progress bar).

        Fixtures stand where LIBERO's constructor puts them with seed 0; `start` can move them.

        Args:
            task: The task to build.
            image_size: Height and width of the images in pixels.
            visuals: ``"exact"``: LIBERO's meshes and textures; ``"fast"``: decimated meshes, the
                same physics to the last bit. Default: "exact" where a GPU renders, else "fast".
            physics: See `physics`.
            look: ``"libero"``: the colours of LIBERO's demonstrations; ``"mujoco"``: those of the
                installed MuJoCo, which upstream's environment shows (`srpo_env.libero.look`).

        Raises:
            FileNotFoundError: If assets of the suite are missing.
            ModuleNotFoundError: If LIBERO, or a requirement of ``"fast"``, is not installed.
            ValueError: If ``visuals`` or ``physics`` is neither "exact" nor "fast", if ``look`` is
                neither "libero" nor "mujoco", or LIBERO cannot build the task.
        """
        self.task = task
        self.image_size = image_size
        self.visuals = check_visuals(visuals)
        self.look = check_look(look)
        check_physics(physics)
        self._env = build_upstream(task, self.visuals)
        self.model: mujoco.MjModel = self._env.sim.model._model
        apply_look(self.model, self.look)
        self.data: mujoco.MjData = self._env.sim.data._data
        # Imported here, because it needs robosuite, which the build above has prepared.
        from srpo_env.libero.controller import OscController

        self._controller = OscController(self._env.robots[0], self.model, self.data)
        self._has_visual_state = bool(
            self._env.tracking_object_states_change or self._env.visualization_sites_list
        )
        self._hand = self.model.body(self._env.robots[0].robot_model.eef_name).id
        self._grip_site = self._env.robots[0].eef_site_id
        self.arrangement = Arrangement(self._env, self.model, self.data, self._hand)
        """Where things stand, what they touch and where they can be put."""
        self._site_alpha = self.model.site_rgba[:, 3]  # a view
        self._fixtures = [self._env.obj_body_id[name] for name in self._env.fixtures_dict]
        self._fixed_poses = self.fixtures
        self._built_qpos = self.data.qpos.copy()
        self._renderers: dict[bool, Renderer] = {}
        self._fields = ModelFields(self.model)
        self._appearance = Appearance()
        self._before = np.empty(mujoco.mj_stateSize(self.model, _STATE))
        self.physics = physics

    @property
    def physics(self) -> Physics:
        """How `step` computes: ``"exact"``, LIBERO's states to the last bit, or ``"fast"``.

        With "fast", a control step's joint positions and velocities differ by at most 1e-9 from
        those of "exact". Can be changed at any time.
        """
        return self._physics

    @physics.setter
    def physics(self, physics: Physics) -> None:
        self._physics = check_physics(physics)
        set_left_out(self.model, physics)

    # --- The episode --------------------------------------------------------------------------

    def reset(self, state: Floats, solver_start: Floats | None = None) -> None:
        """Starts an episode from a state.

        Args:
            state: Time, positions and velocities, shape ``(1 + nq + nv,)``.
            solver_start: Accelerations from which MuJoCo's solver starts, shape ``(nv,)``;
                default: 0.

        Raises:
            ValueError: If the state has another length than the task's states.
        """
        nq, nv = self.model.nq, self.model.nv
        if state.shape != (1 + nq + nv,):
            raise ValueError(
                f"a state of {self.task.name} must have shape ({1 + nq + nv},), got {state.shape}; "
                "does it belong to another task, or to another version of LIBERO?"
            )
        mujoco.mj_resetData(self.model, self.data)
        self.data.time = state[0]
        self.data.qpos[:] = state[1 : 1 + nq]
        self.data.qvel[:] = state[1 + nq :]
        if solver_start is not None:
            self.data.qacc_warmstart[:] = solver_start
        mujoco.mj_forward(self.model, self.data)
        self._controller.reset()
        self._seen_qpos = self._observed_qpos = self.data.qpos.copy()
        self._update_visual_state()
        self._observed_alpha = self._site_alpha.copy()

    @property
    def fixtures(self) -> dict[str, Floats]:
        """Position (m) and quaternion of each fixture by the name of its body, ``(7,)``.

        Fixtures have no joints, so no state contains them. What is assigned takes effect at the
        next reset; fixtures that are not named stay where they are.
        """
        model = self.model
        return {
            model.body(body).name: np.hstack([model.body_pos[body], model.body_quat[body]])
            for body in self._fixtures
        }

    @fixtures.setter
    def fixtures(self, poses: Mapping[str, Floats]) -> None:
        for name, pose in poses.items():
            body = self.model.body(name).id
            self.model.body_pos[body], self.model.body_quat[body] = pose[:3], pose[3:]

    def place_fixtures(self, seed: int | None) -> None:
        """Places all fixtures; takes effect at the next reset.

        Args:
            seed: None: where LIBERO's constructor puts them with seed 0. In ``0..2**32 - 1``: where
                a new upstream environment has them after ``seed(seed)`` and ``reset()``.

        Raises:
            ValueError: If the objects cannot be placed without contact.
        """
        drawn = {} if seed is None else draw_fixtures(self._env, self.task, seed)
        self.fixtures = {**self._fixed_poses, **drawn}

    def start(self, init_state_id: int, fixture_seed: int | None = None) -> None:
        """Starts an episode from an initial state of the task: a stored one, or a sampled one.

        Args:
            init_state_id: Index of the stored state; the seed if the task has no stored states.
            fixture_seed: Where fixtures stand, as in `place_fixtures`. Only for tasks with stored
                states: in others, they are sampled together with the objects.

        Raises:
            ValueError: If there is no such state, or the objects cannot be placed.
        """
        count = self.task.num_init_states
        if not 0 <= init_state_id < count:
            raise ValueError(
                f"`init_state_id` must be in 0..{count - 1} for {self.task.name}, "
                f"got {init_state_id}"
            )
        if self.task.init_states_file is None:
            self.sample(init_state_id)
        else:
            self.place_fixtures(fixture_seed)
            self.reset(self._completed(self.task.init_states()[init_state_id]))

    def sample(self, seed: int) -> None:
        """Starts an episode from a sampled state: that of a new upstream environment.

        Upstream calls are ``seed(seed)`` and ``reset()``.

        Objects, fixtures and the joints that the task names are placed at random in their regions.

        Args:
            seed: Seed of the placement, in ``0..2**32 - 1``.

        Raises:
            ValueError: If the objects cannot be placed without contact.
        """
        from robosuite.utils.errors import RandomizationError

        env, model = self._env, self.model
        # What upstream does in building the model again.
        mujoco.mj_resetData(model, self.data)
        model.body_pos[:], model.body_quat[:] = env.compiled_poses
        mujoco.mj_forward(model, self.data)
        # Upstream adds these samplers once more with each model that it builds, so that its first
        # reset draws from each of them twice, and the second value counts.
        once, env.object_property_initializers = env.object_property_initializers, [
            *env.object_property_initializers, *env.object_property_initializers
        ]  # fmt: skip
        try:
            with global_randomness(seed):
                for _ in range(MAX_SAMPLES):
                    with contextlib.suppress(RandomizationError):
                        env._reset_internal()
                        break
                else:
                    raise ValueError(
                        f"the objects of {self.task.name} could not be placed without contact in "
                        f"{MAX_SAMPLES} tries (seed {seed}): enlarge their regions in "
                        f"{self.task.bddl_file}"
                    )
        finally:
            env.object_property_initializers = once
        # Upstream's solver starts where that of the sampling has ended. Only older versions of
        # MuJoCo have an end other than 0, see `FORWARD_SETS_START`.
        end = self.data.qacc_warmstart.copy()
        self.reset(np.concatenate([[0.0], self.data.qpos, self.data.qvel]), end)

    def step(self, action: Floats) -> bool:
        """Runs one control step.

        Args:
            action: Shape ``(7,)``, in [-1, 1].

        Returns:
            Whether the goal is reached.
        """
        if self.physics == "exact" or not self._run_substeps(action, fast=True):
            self._run_substeps(action, fast=False)
        self._observed_alpha = self._site_alpha.copy()
        self._update_visual_state()
        return self.is_success()

    def _run_substeps(self, action: Floats, fast: bool) -> bool:
        """Runs the substeps of a control step.

        Rounding errors stay small while the robot moves freely. When it touches something, MuJoCo's
        contacts amplify a difference in the last bit to 1e-6 or more within a control step, and so
        does the controller near a singularity of the arm. Only exact torques then give upstream's
        states.

        Returns:
            Whether the control step is done. If not, that happened after substeps with fast
            torques, and the state is that before the control step.
        """
        model, data, controller = self.model, self.data, self._controller
        if fast:
            mujoco.mj_getState(model, data, self._before, _STATE)
            fingers, fresh = controller.fingers.copy(), controller.fresh
        for substep in range(SUBSTEPS):
            begin_substep(model, data, controller.fresh)
            if substep == 0:
                controller.set_goal(action)
            if fast and not controller.apply_fast():
                if substep > 0:
                    mujoco.mj_setState(model, data, self._before, _STATE)
                    controller.fingers, controller.fresh = fingers, fresh
                    return False
                fast = False
            if not fast:
                controller.apply()
            if substep == OBSERVED_SUBSTEP:
                self._observed_qpos = data.qpos.copy()
            elif substep == SUBSTEPS - 1:
                self._seen_qpos = data.qpos.copy()
            mujoco.mj_step2(model, data)
        return True

    def is_success(self) -> bool:
        """Returns whether LIBERO's goal predicates hold."""
        return bool(self._env._check_success())

    def save(self) -> Snapshot:
        """Returns the current state, for `load`."""
        physics = np.empty(mujoco.mj_stateSize(self.model, _STATE))
        mujoco.mj_getState(self.model, self.data, physics, _STATE)
        controller = self._controller
        return Snapshot(
            physics,
            self._seen_qpos.copy(),
            self._observed_qpos.copy(),
            self._observed_alpha.copy(),
            controller.goal_ori.copy(),
            controller.fingers.copy(),
            controller.fresh,
            np.hstack([self.model.body_pos[self._fixtures], self.model.body_quat[self._fixtures]]),
            controller.rest_joints.copy(),
        )

    def load(self, snapshot: Snapshot) -> None:
        """Restores a snapshot; images, states and all later steps are equal to the last bit."""
        model, data, controller = self.model, self.data, self._controller
        model.body_pos[self._fixtures] = snapshot.fixtures[:, :3]
        model.body_quat[self._fixtures] = snapshot.fixtures[:, 3:]
        mujoco.mj_setState(model, data, snapshot.physics, _STATE)
        self._observed_qpos = snapshot.observed_qpos.copy()
        self._observed_alpha = snapshot.observed_alpha.copy()
        self._seen_qpos = snapshot.seen_qpos.copy()
        self._place(self._seen_qpos)
        controller.goal_ori = snapshot.goal_ori.copy()
        controller.rest_joints = snapshot.rest_joints.copy()
        controller.fingers = snapshot.fingers.copy()
        controller.fresh = snapshot.fresh
        self._update_visual_state()

    # --- Perturbations ------------------------------------------------------------------------

    @property
    def appearance(self) -> Appearance:
        """How images differ from the task's own; no state depends on it.

        What is assigned replaces the one before, whose changes are undone exactly.
        """
        return self._appearance

    @appearance.setter
    def appearance(self, appearance: Appearance) -> None:
        if appearance is not self._appearance:
            self._fields.set(appearance.values)
            self._appearance = appearance

    def original_field(self, name: str) -> npt.NDArray[Any]:
        """Returns a copy of a field of the model as it is without an `appearance`."""
        return self._fields.original(name)

    def state(self) -> Floats:
        """Returns time, positions and velocities, for `reset`, shape ``(1 + nq + nv,)``."""
        return np.concatenate([[self.data.time], self.data.qpos, self.data.qvel])

    def move_arm(self, offsets: Floats, *, rest_only: bool = False) -> None:
        """Starts the episode again with other angles of the arm; call it directly after `start`.

        The controller is as if it had been created in this posture.

        Args:
            offsets: Changes of the seven joints in radians, ``(7,)``.
            rest_only: Moves the joints back afterwards, and leaves the controller as it is.
        """
        before = self.state()
        state = before.copy()
        state[1 : 1 + ARM_JOINTS] += offsets
        self.reset(state)
        self._controller.take_posture()
        if rest_only:
            goal, rest = self._controller.goal_ori, self._controller.rest_joints
            self.reset(before)
            self._controller.goal_ori, self._controller.rest_joints = goal, rest

    def _completed(self, state: Floats) -> Floats:
        """Adds the task's extra objects to a stored state: at the places where they were built."""
        extra = [self._env.get_object(name).joints[0] for name in self.task.extra_objects]
        if not extra:
            return state
        model = self.model
        is_own_position, is_own_speed = np.ones(model.nq, bool), np.ones(model.nv, bool)
        for name in extra:
            joint = model.joint(name)
            is_own_position[joint.qposadr[0] : joint.qposadr[0] + 7] = False
            is_own_speed[joint.dofadr[0] : joint.dofadr[0] + 6] = False
        # The task's own joints have the same order in both models.
        num_positions = int(is_own_position.sum())
        positions, speeds = self._built_qpos.copy(), np.zeros(model.nv)
        positions[is_own_position] = state[1 : 1 + num_positions]
        speeds[is_own_speed] = state[1 + num_positions :]
        return np.concatenate([state[:1], positions, speeds])

    # --- Observations -------------------------------------------------------------------------

    def render(self, camera: str) -> npt.NDArray[np.uint8]:
        """Renders ``agentview`` or ``wrist``, upright, ``(image_size, image_size, 3)``."""
        # A shadow map is made with the renderer, and costs time.
        has_shadows = bool(self.model.light_castshadow.any())
        if has_shadows not in self._renderers:
            is_own = self.original_field("light_castshadow").any()
            self._renderers[has_shadows] = Renderer(
                self.model, self.image_size, None if is_own else SHADOW_SIZE
            )
        renderer = self._renderers[has_shadows]
        renderer.show_textures(self._appearance.textures)
        with self.as_observed() as data:
            return renderer.render(data, CAMERAS[camera])

    @contextlib.contextmanager
    def as_observed(self) -> Iterator[mujoco.MjData]:
        """Sets the simulator's data to the time of the observations; read only, not nested.

        As in upstream's sensors: joint positions of one substep before the control step's end, and
        the quantities that are derived from them, such as ``xpos``, one substep older.
        """
        qpos, alpha = self.data.qpos.copy(), self._site_alpha.copy()
        self._place(self._observed_qpos)
        self.data.qpos[:], self._site_alpha[:] = self._seen_qpos, self._observed_alpha
        try:
            yield self.data
        finally:
            self._place(self._seen_qpos)
            self.data.qpos[:], self._site_alpha[:] = qpos, alpha

    def proprio(self) -> npt.NDArray[np.float32]:
        """Returns gripper position (m), axis-angle orientation (rad), two fingers (m); ``(8,)``."""
        with self.as_observed() as data:
            rotation = _axis_angle(data.xquat[self._hand])
            position, fingers = data.site_xpos[self._grip_site], data.qpos[7:9]
            return np.concatenate([position, rotation, fingers]).astype(np.float32)

    @property
    def grip_position(self) -> Floats:
        """Position of the point between the fingers, in metres, shape ``(3,)``."""
        position: Floats = self.data.site_xpos[self._grip_site].copy()
        return position

    @property
    def objects(self) -> dict[str, int]:
        """Body ids of the task's movable objects by name."""
        return {name: self._env.obj_body_id[name] for name in self._env.objects_dict}

    @property
    def objects_of_interest(self) -> list[str]:
        """Names of the objects in the task's goal: the object to move, and the target."""
        return list(self._env.obj_of_interest)

    @property
    def fixture_bodies(self) -> dict[str, int]:
        """Body ids of the fixtures that stand on the task's table or floor, by name."""
        workspace = self._env.workspace_name
        fixtures = {name: self._env.obj_body_id[name] for name in self._env.fixtures_dict}
        return {name: body for name, body in fixtures.items() if name != workspace}

    @property
    def goal(self) -> list[tuple[str, ...]]:
        """LIBERO's goal predicates with their arguments, all of which must hold."""
        return [tuple(predicate) for predicate in self._env.parsed_problem["goal_state"]]

    def holds(self, predicate: Sequence[str]) -> bool:
        """Returns whether a predicate of LIBERO holds, such as ``("on", "bowl_1", "plate_1")``."""
        return bool(self._env._eval_predicate(list(predicate)))

    def joint_of(self, name: str) -> int:
        """Returns the joint of a fixture, or of one of its regions, such as a drawer."""
        owner = self._env.object_sites_dict.get(name) or self._env.get_object(name)
        return int(self.model.joint(owner.joints[0]).id)

    def can_open(self, name: str) -> bool:
        """Returns whether a name is that of a drawer's inside."""
        region = self._env.object_sites_dict.get(name)
        return bool(region is not None and region.joints)

    def fixture_of(self, name: str) -> str:
        """Returns the object or fixture that a region belongs to; otherwise the name itself."""
        region = self._env.object_sites_dict.get(name)
        return name if region is None else str(region.parent_name)

    def close(self) -> None:
        """Frees the OpenGL context; may be called twice."""
        while self._renderers:
            self._renderers.popitem()[1].close()

    def _place(self, qpos: Floats) -> None:
        """Computes the positions of all bodies for ``qpos``, without changing the state."""
        model, data = self.model, self.data
        current = data.qpos.copy()
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_camlight(model, data)
        data.qpos[:] = current

    def _update_visual_state(self) -> None:
        # Sites that are visible depending on a joint, such as burner lights. Most tasks have none.
        if self._has_visual_state:
            self._env._post_process()


def _axis_angle(quat_wxyz: Floats) -> Floats:
    w, axis = float(np.clip(quat_wxyz[0], -1.0, 1.0)), quat_wxyz[1:]
    length = math.sqrt(1.0 - w * w)
    return np.zeros(3) if length < 1e-9 else axis * (2.0 * math.acos(w) / length)
