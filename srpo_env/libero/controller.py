"""robosuite's operational-space controller without its overhead, equal to the last bit.

Upstream's controller reads the same quantities from MuJoCo repeatedly and by name. Here they are
read once per substep, and one compiled function computes the joint torques. The arithmetic, its
order, its memory layouts and the behaviour after a reset (`OscController.reset`) are those of
robosuite. For ``physics="fast"``, `srpo_env.libero.fast_torques` computes them up to rounding.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numba
import numpy as np
from robosuite.utils.control_utils import nullspace_torques, opspace_matrices, orientation_error

from srpo_env.libero.fast_torques import (
    ARM_JOINTS,
    NULLSPACE_KP,
    any_selected,
    mass_positions,
    write_torques,
)
from srpo_env.types import Floats


class OscController:
    """Converts actions (position, axis-angle, gripper; 7 numbers in [-1, 1]) to MuJoCo's controls.

    The first seven joints and actuators of the model must belong to the arm, and the next two
    actuators to the gripper, as in LIBERO's Panda.
    """

    def __init__(self, robot: Any, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Copies the constants of robosuite's ``robot``, which must have been reset."""
        self._model, self._data = model, data
        self._osc = osc = robot.controller
        self._site = model.site(osc.eef_name).id
        self._initial_ori, self._initial_joints = osc.goal_ori.copy(), osc.initial_joint.copy()
        self._initial = _Kinematics.of(osc)
        low, high = robot.torque_limits
        self._torque_low, self._torque_high = np.array(low), np.array(high)
        finger_range = model.actuator_ctrlrange[ARM_JOINTS : ARM_JOINTS + 2]
        self._finger_bias = 0.5 * (finger_range[:, 1] + finger_range[:, 0])
        self._finger_weight = 0.5 * (finger_range[:, 1] - finger_range[:, 0])
        self._finger_speed = np.array([-1.0, 1.0]) * robot.gripper.speed

        # Views into MuJoCo's memory, because an attribute access costs as much as the arithmetic.
        self._eef_pos = data.site_xpos[self._site]
        self._eef_ori = data.site_xmat[self._site].reshape(3, 3)
        self._qpos, self._qvel, self._bias, self._ctrl = (
            data.qpos,
            data.qvel,
            data.qfrc_bias,
            data.ctrl,
        )
        self._jac_pos, self._jac_ori = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        self._mass = np.zeros((model.nv, model.nv))
        self._mass_values, self._mass_positions = data.qM, mass_positions(model)
        self._arm = _ArmBuffers()
        root = model.body_rootid[model.site_bodyid[self._site]]
        self._is_robot_geom = model.body_rootid[model.geom_bodyid] == root
        self._contacts = data.contact
        self.reset()

    def reset(self) -> None:
        """Resets the goal to that of a new robosuite controller."""
        self.goal_ori = self._initial_ori.copy()
        self.rest_joints = self._initial_joints.copy()
        self.fingers = np.zeros(2)
        # robosuite computes a controller's state at its creation, before the initial state is set,
        # and not again in the first substep. An episode's first torque is thus for the rest pose.
        self.fresh = True

    def take_posture(self) -> None:
        """Takes the arm's current posture as that in which the controller was created.

        Call it after `reset`: the arm then keeps this posture as long as there is no action.
        """
        self.goal_ori = self._eef_ori.copy()
        self.rest_joints = self._qpos[:ARM_JOINTS].copy()
        self.fresh = False

    def set_goal(self, action: Floats) -> None:
        """Sets the goal of one control step; call it after `begin_substep` of the first."""
        osc = self._osc
        if self.fresh:
            osc.ee_pos, osc.ee_ori_mat = self._initial.eef_pos, self._initial.eef_ori
        else:
            osc.ee_pos, osc.ee_ori_mat = self._eef_pos.copy(), self._eef_ori.copy()
        osc.new_update = False  # prevents another mj_forward in robosuite
        osc.goal_ori = self.goal_ori
        osc.set_goal(action[:6])
        self.goal_pos, self.goal_ori = osc.goal_pos, osc.goal_ori
        self._finger_delta = self._finger_speed * np.sign(action[6:7])

    def apply(self) -> None:
        """Writes the controls of one substep; call it between `begin_substep` and ``mj_step2``."""
        osc, arm = self._osc, self._arm
        if self.fresh:
            self.fresh = False
            torques = _torques(  # type: ignore[call-arg]  # the compiled function's type has no *args
                *self._initial.arguments(), self._bias, self.goal_pos, self.goal_ori,
                self.rest_joints, osc.kp, osc.kd, self._torque_low, self._torque_high,
            )  # fmt: skip
        else:
            mujoco.mj_jacSite(self._model, self._data, self._jac_pos, self._jac_ori, self._site)
            mujoco.mj_fullM(self._model, self._mass, self._data.qM)
            torques = _torques_from_simulator(
                self._jac_pos, self._jac_ori, self._qvel, self._qpos, self._mass,
                self._eef_pos, self._eef_ori, self._bias, self.goal_pos, self.goal_ori,
                self.rest_joints, osc.kp, osc.kd, self._torque_low, self._torque_high,
                arm.jac_pos, arm.jac_ori, arm.jac, arm.mass,
            )  # fmt: skip
        self._ctrl[:ARM_JOINTS] = torques
        self._apply_gripper()

    def apply_fast(self) -> bool:
        """Does the same as `apply`, up to rounding, where rounding errors stay small.

        Returns:
            Whether it has written the controls. Not if the robot touches anything, itself included,
            and not if the arm is near a singularity.
        """
        if self.fresh:
            self.apply()
            return True
        if any_selected(self._contacts.geom, self._is_robot_geom):
            return False
        osc = self._osc
        mujoco.mj_jacSite(self._model, self._data, self._jac_pos, self._jac_ori, self._site)
        if not write_torques(
            self._jac_pos, self._jac_ori, self._qvel, self._qpos, self._mass_values,
            self._mass_positions, self._eef_pos, self._eef_ori, self._bias, self.goal_pos,
            self.goal_ori, self.rest_joints, osc.kp, osc.kd, self._torque_low, self._torque_high,
            self._ctrl,
        ):  # fmt: skip
            return False
        self._apply_gripper()
        return True

    def _apply_gripper(self) -> None:
        _move_fingers(
            self.fingers, self._finger_delta, self._finger_bias, self._finger_weight, self._ctrl
        )


class _ArmBuffers:
    """Buffers for the arm's part of the simulator's matrices.

    In column order, as robosuite's fancy indexing returns them: the order determines which BLAS
    routine multiplies them, and so the last bit.
    """

    def __init__(self) -> None:
        self.jac_pos = np.zeros((3, ARM_JOINTS), order="F")
        self.jac_ori = np.zeros((3, ARM_JOINTS), order="F")
        self.jac = np.zeros((6, ARM_JOINTS), order="F")
        self.mass = np.zeros((ARM_JOINTS, ARM_JOINTS), order="F")


class _Kinematics:
    """The arm's kinematics at the creation of robosuite's controller."""

    def __init__(self, osc: Any) -> None:
        self.eef_pos, self.eef_ori = osc.ee_pos.copy(), osc.ee_ori_mat.copy()
        self._values = tuple(
            np.copy(value, order="K")
            for value in (
                osc.ee_pos_vel, osc.ee_ori_vel, osc.joint_pos, osc.joint_vel, osc.mass_matrix,
                osc.ee_pos, osc.ee_ori_mat, osc.J_pos, osc.J_ori, osc.J_full,
            )
        )  # fmt: skip

    @classmethod
    def of(cls, osc: Any) -> _Kinematics:
        if not osc.new_update:
            return cls(osc)
        raise ValueError(
            "the controller has run since its creation: copy its constants before the first step"
        )

    def arguments(self) -> tuple[Any, ...]:
        return self._values


@numba.njit(cache=True)
def _torques_from_simulator(
    jac_pos_all: Floats, jac_ori_all: Floats, qvel: Floats, qpos: Floats, mass_all: Floats,
    eef_pos: Floats, eef_ori: Floats, bias: Floats, goal_pos: Floats, goal_ori: Floats,
    rest_joints: Floats, kp: Floats, kd: Floats, low: Floats, high: Floats,
    jac_pos: Floats, jac_ori: Floats, jac: Floats, mass: Floats,
) -> Floats:  # fmt: skip
    for j in range(7):
        for i in range(3):
            jac_pos[i, j] = jac[i, j] = jac_pos_all[i, j]
            jac_ori[i, j] = jac[i + 3, j] = jac_ori_all[i, j]
        for i in range(7):
            mass[i, j] = mass_all[i, j]
    # Over all joints of the scene, not only the arm's seven: the zeros do not change the value, but
    # the number of terms determines how BLAS groups them.
    vel_pos = np.dot(jac_pos_all, qvel)
    vel_ori = np.dot(jac_ori_all, qvel)
    return _torques(
        vel_pos, vel_ori, qpos[:7].copy(), qvel[:7].copy(), mass, eef_pos, eef_ori,
        jac_pos, jac_ori, jac, bias, goal_pos, goal_ori, rest_joints, kp, kd, low, high,
    )  # fmt: skip


@numba.njit(cache=True)
def _torques(
    vel_pos: Floats, vel_ori: Floats, joint_pos: Floats, joint_vel: Floats, mass: Floats,
    eef_pos: Floats, eef_ori: Floats, jac_pos: Floats, jac_ori: Floats, jac: Floats,
    bias: Floats, goal_pos: Floats, goal_ori: Floats, rest_joints: Floats, kp: Floats, kd: Floats,
    low: Floats, high: Floats,
) -> Floats:  # fmt: skip
    """Returns the arm's joint torques, shape ``(7,)``.

    Source: Khatib (1987), as implemented in robosuite 1.4.
    """
    ori_error = orientation_error(goal_ori, eef_ori)
    force = (goal_pos - eef_pos) * kp[:3] + (-vel_pos) * kd[:3]
    torque = ori_error * kp[3:6] + (-vel_ori) * kd[3:6]
    _, lambda_pos, lambda_ori, nullspace = opspace_matrices(mass, jac, jac_pos, jac_ori)
    wrench = np.empty(6)
    wrench[:3] = np.dot(lambda_pos, force)
    wrench[3:] = np.dot(lambda_ori, torque)
    torques = np.dot(jac.T, wrench) + bias[:7]
    torques += nullspace_torques(mass, nullspace, rest_joints, joint_pos, joint_vel, NULLSPACE_KP)
    clipped: Floats = np.minimum(np.maximum(torques, low), high)
    return clipped


@numba.njit(cache=True)
def _move_fingers(
    fingers: Floats, delta: Floats, bias: Floats, weight: Floats, ctrl: Floats
) -> None:
    """Moves the gripper's targets, in [-1, 1], and writes them to MuJoCo's controls."""
    for i in range(2):
        fingers[i] = min(max(fingers[i] + delta[i], -1.0), 1.0)
        ctrl[ARM_JOINTS + i] = bias[i] + weight[i] * fingers[i]
