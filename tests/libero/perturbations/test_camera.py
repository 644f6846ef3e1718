"""Poses of the perturbed camera, against hand calculations."""

import collections

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from srpo_env.libero.perturbations import Camera
from srpo_env.libero.perturbations.camera import moved

POSITION = np.array([1.0, 0.0, 1.8])
QUATERNION = np.array([0.5, 0.5, 0.5, 0.5])  # looks along -x, upright


def forward(quaternion):
    """The direction in which a camera looks, its negative z axis."""
    return Rotation.from_quat(np.roll(quaternion, -1)).apply([0, 0, -1])


def test_without_a_change_the_camera_stays():
    position, quaternion = moved(POSITION, QUATERNION, (0, 0, 1, 0, 0))
    np.testing.assert_allclose(position, POSITION)
    np.testing.assert_allclose(quaternion, QUATERNION)


def test_an_orbit_turns_position_and_direction_about_the_vertical_axis():
    position, quaternion = moved(POSITION, QUATERNION, (90, 0, 1, 0, 0))
    np.testing.assert_allclose(position, [0, 1, 1.8], atol=1e-12)
    np.testing.assert_allclose(forward(quaternion), [0, -1, 0], atol=1e-12)


def test_an_elevation_raises_the_camera_about_the_pivot():
    # From (1, 0, 1) relative to the pivot, by 45 degrees towards z, to (0, 0, sqrt(2)).
    position, quaternion = moved(POSITION, QUATERNION, (0, 45, 1, 0, 0))
    np.testing.assert_allclose(position, [0, 0, 0.8 + np.sqrt(2)], atol=1e-12)
    np.testing.assert_allclose(forward(quaternion), [-np.sqrt(0.5), 0, -np.sqrt(0.5)], atol=1e-12)


def test_a_distance_is_a_multiple_of_that_to_the_pivot():
    position, quaternion = moved(POSITION, QUATERNION, (0, 0, 2, 0, 0))
    np.testing.assert_allclose(position, [2, 0, 2.8])
    np.testing.assert_allclose(quaternion, QUATERNION)


def test_a_turn_keeps_the_position():
    position, quaternion = moved(POSITION, QUATERNION, (0, 0, 1, 10, 0))
    np.testing.assert_allclose(position, POSITION)
    angle = np.degrees(np.arccos(forward(quaternion) @ forward(QUATERNION)))
    assert angle == pytest.approx(10)
    assert forward(moved(POSITION, QUATERNION, (0, 0, 1, 0, 10))[1])[2] < 0  # looks down


def test_one_kind_of_motion_is_drawn_with_libero_pluss_shares():
    views = [Camera.from_level(2, draw=draw).drawn_view() for draw in range(2000)]
    kinds = collections.Counter(
        "orbit" if view[0] else "distance" if view[2] != 1 else "turn" for view in views
    )
    for kind, count in (("orbit", 992), ("distance", 313), ("turn", 294)):
        assert kinds[kind] / 2000 == pytest.approx(count / 1599, abs=0.04)
    assert {abs(view[0]) for view in views} == {0.0, 30.0}
    assert {view[1] for view in views} == {0.0, 15.0}
    assert {view[2] for view in views} == {1.0, 1.35}
    turns = {view[3:] for view in views} - {(0.0, 0.0)}
    assert len(turns) == 8
    assert {abs(angle) for turn in turns for angle in turn} == {0.0, 4.0}
    assert {view[0] for view in views} == {0.0, 30.0, -30.0}


def test_an_exact_view_needs_no_draw():
    view = (12.0, 15.0, 1.2, -3.0, 4.0)
    assert Camera(view=view).drawn_view() == view
