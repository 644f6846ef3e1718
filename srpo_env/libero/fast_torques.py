"""The arm's torques for ``physics="fast"``: the formulas of `OscController` in fewer operations.

Let M be the arm's mass matrix, J the gripper's Jacobian with rows Jp (position) and Jo
(orientation), a and b the desired accelerations in position and orientation, and u those that move
the joints towards their rest position. robosuite computes

    torques = Jp' (Jp M^-1 Jp')^-1 a + Jo' (Jo M^-1 Jo')^-1 b + N' M u + bias
    N = 1 - M^-1 J' (J M^-1 J')^-1 J

with an inverse and three pseudo-inverses. As N' M u = M u - J' (J M^-1 J')^-1 J u, here Cholesky
factors of M, of J M^-1 J' and of its lower right block suffice. A pseudo-inverse differs from the
inverse only if a singular value is below 1e-15 of the largest. Long before that, `write_torques`
reports a matrix as ill-conditioned.
"""

from __future__ import annotations

import math

import mujoco
import numba
import numpy as np

from srpo_env.types import Array, Floats

ARM_JOINTS = 7
NULLSPACE_KP = 10
"""Default gain of robosuite; compiled functions cannot call it with a default argument."""

MIN_PIVOT = 1e-3
"""Smallest squared pivot of a Cholesky factor, as a share of the matrix's diagonal element."""


def mass_positions(model: mujoco.MjModel) -> Array:
    """Returns where MuJoCo's sparse mass matrix ``qM`` has the arm's elements, ``(7, 7)``."""
    dense = np.zeros((model.nv, model.nv))
    mujoco.mj_fullM(model, dense, np.arange(1.0, model.nM + 1))
    positions: Array = dense[:ARM_JOINTS, :ARM_JOINTS].astype(np.int64) - 1
    assert positions.min() >= 0, "the arm's joints are not a chain"
    return positions


@numba.njit(cache=True)
def any_selected(geoms: Array, selected: Array) -> bool:
    """Returns whether any contact of ``geoms``, shape ``(ncon, 2)``, has a selected geom."""
    for contact in range(len(geoms)):
        if selected[geoms[contact, 0]] or selected[geoms[contact, 1]]:
            return True
    return False


@numba.njit(cache=True)
def write_torques(
    jac_pos: Floats, jac_ori: Floats, qvel: Floats, qpos: Floats, mass_values: Floats,
    mass_positions: Array, eef_pos: Floats, eef_ori: Floats, bias: Floats, goal_pos: Floats,
    goal_ori: Floats, rest_joints: Floats, kp: Floats, kd: Floats, low: Floats, high: Floats,
    ctrl: Floats,
) -> bool:  # fmt: skip
    """Writes the arm's joint torques to ``ctrl[:7]``.

    Args:
        jac_pos: Jacobian of the gripper's position, shape ``(3, nv)``.
        jac_ori: Jacobian of its orientation, shape ``(3, nv)``.
        qvel: Joint velocities, shape ``(nv,)``.
        qpos: Joint positions, shape ``(nq,)``.
        mass_values: MuJoCo's sparse mass matrix ``qM``.
        mass_positions: See the function of this name.
        eef_pos: The gripper's position, shape ``(3,)``.
        eef_ori: Its orientation, shape ``(3, 3)``.
        bias: MuJoCo's Coriolis and gravity forces, shape ``(nv,)``.
        goal_pos: Desired position, shape ``(3,)``.
        goal_ori: Desired orientation, shape ``(3, 3)``.
        rest_joints: The arm's rest position, shape ``(7,)``.
        kp: Gains of position and orientation, shape ``(6,)``.
        kd: Gains of their velocities, shape ``(6,)``.
        low: Minimum torques, shape ``(7,)``.
        high: Maximum torques, shape ``(7,)``.
        ctrl: MuJoCo's controls; changed.

    Returns:
        Whether all matrices are well-conditioned; if not, ``ctrl`` is not changed.
    """
    jac, mass = np.empty((6, 7)), np.empty((7, 7))
    for j in range(7):
        for i in range(3):
            jac[i, j], jac[i + 3, j] = jac_pos[i, j], jac_ori[i, j]
        for i in range(7):
            mass[i, j] = mass_values[mass_positions[i, j]]
    rest = np.empty(7)
    for j in range(7):
        rest[j] = NULLSPACE_KP * (rest_joints[j] - qpos[j])
        rest[j] -= 2.0 * math.sqrt(NULLSPACE_KP) * qvel[j]

    wrench = np.empty(6)  # desired accelerations, then forces
    for i in range(3):
        wrench[i] = (goal_pos[i] - eef_pos[i]) * kp[i]
        j, k = (i + 1) % 3, (i + 2) % 3
        error = 0.0  # sum of the cross products of the axes
        for axis in range(3):
            error += eef_ori[j, axis] * goal_ori[k, axis] - eef_ori[k, axis] * goal_ori[j, axis]
        wrench[i + 3] = 0.5 * error * kp[i + 3]
    nullspace = np.empty(6)
    for i in range(6):
        velocity, rest_motion = 0.0, 0.0
        for j in range(7):
            velocity += jac[i, j] * qvel[j]
            rest_motion += jac[i, j] * rest[j]
        wrench[i] -= kd[i] * velocity
        nullspace[i] = rest_motion

    # With M = L L', the rows of Z = J L'^-1 give J M^-1 J' = Z Z'.
    lower = np.empty((7, 7))
    if not _factorise(mass, lower):
        return False
    half = jac.copy()
    for i in range(6):
        _solve_lower(lower, half[i])
    inertia_inverse = np.empty((6, 6))
    for i in range(6):
        for j in range(i + 1):
            inertia_inverse[i, j] = 0.0
            for k in range(7):
                inertia_inverse[i, j] += half[i, k] * half[j, k]
    factor = np.empty((6, 6))
    if not _factorise(inertia_inverse, factor):
        return False
    _solve(factor, nullspace)
    _solve(factor[:3, :3], wrench[:3])  # the upper left block's factor is a block of the factor
    if not _factorise(inertia_inverse[3:, 3:], factor[3:, 3:]):
        return False
    _solve(factor[3:, 3:], wrench[3:])

    for j in range(7):
        torque = bias[j]
        for i in range(6):
            torque += jac[i, j] * (wrench[i] - nullspace[i])
        for i in range(7):
            torque += mass[i, j] * rest[i]
        ctrl[j] = min(max(torque, low[j]), high[j])
    return True


@numba.njit(cache=True)
def _factorise(matrix: Floats, factor: Floats) -> bool:
    """Computes the lower Cholesky factor from the matrix's lower half.

    Returns:
        Whether the matrix is well-conditioned; False also if it has NaN.
    """
    for i in range(len(matrix)):
        for j in range(i + 1):
            value = matrix[i, j]
            for k in range(j):
                value -= factor[i, k] * factor[j, k]
            if j < i:
                factor[i, j] = value / factor[j, j]
            elif value > MIN_PIVOT * matrix[i, i]:
                factor[i, i] = math.sqrt(value)
            else:
                return False
    return True


@numba.njit(cache=True)
def _solve_lower(factor: Floats, vector: Floats) -> None:
    """Replaces the vector b by L^-1 b."""
    for i in range(len(vector)):
        for j in range(i):
            vector[i] -= factor[i, j] * vector[j]
        vector[i] /= factor[i, i]


@numba.njit(cache=True)
def _solve(factor: Floats, vector: Floats) -> None:
    """Replaces the vector b by (L L')^-1 b."""
    _solve_lower(factor, vector)
    for i in range(len(vector) - 1, -1, -1):
        for j in range(i + 1, len(vector)):
            vector[i] -= factor[j, i] * vector[j]
        vector[i] /= factor[i, i]
