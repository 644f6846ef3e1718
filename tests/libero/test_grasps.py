from __future__ import annotations

import numpy as np
import pytest

from srpo_env.libero.gl import choose_gl

choose_gl()

mujoco = pytest.importorskip("mujoco")

from srpo_env.libero.grasps import MAX_WIDTH, Shape, plan_grasp, top_within  # noqa: E402

pytestmark = pytest.mark.libero

RIGHT_ANGLE = np.pi / 2


def shapes(**boxes):
    """Makes shapes of boxes on the floor; each box is (half sizes, x, y, yaw in degrees)."""
    bodies = "".join(
        f'<body name="{name}" pos="{x} {y} {half[2]}" euler="0 0 {turn}">'
        f'<geom type="box" size="{half[0]} {half[1]} {half[2]}"/></body>'
        for name, (half, x, y, turn) in boxes.items()
    )
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{bodies}</worldbody></mujoco>")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return {name: Shape(model, data, model.body(name).id) for name in boxes}


def grasp_of(target, *, beside=False, **obstacles):
    found = shapes(target=target, **obstacles)
    return plan_grasp(found.pop("target"), list(found.values()), beside=beside)


def test_a_box_that_fits_is_grasped_without_rotation():
    # The fingers open along y, where it is 4 cm wide.
    grasp = grasp_of(([0.04, 0.02, 0.02], 0.1, -0.2, 0))
    assert grasp.yaw == 0
    assert grasp.width == pytest.approx(0.04)
    np.testing.assert_allclose(grasp.position[:2], [0.1, -0.2], atol=1e-9)


def test_a_long_box_is_grasped_across():
    grasp = grasp_of(([0.02, 0.06, 0.02], 0, 0, 0))
    assert abs(grasp.yaw) > np.deg2rad(45)
    assert grasp.width < 0.07


def test_the_hand_rotates_with_the_box():
    # A long box rotated by 45 degrees: its narrow side fits near that yaw, and not at 0.
    grasp = grasp_of(([0.06, 0.02, 0.02], 0, 0, 45))
    assert grasp.yaw == pytest.approx(np.deg2rad(45), abs=np.deg2rad(16))
    assert grasp.width < 0.07


@pytest.mark.parametrize(
    ("half_height", "height"),
    [
        pytest.param(0.01, 0.012, id="flat: just above the floor"),
        pytest.param(0.06, 0.09, id="tall: 3 cm below its top of 12 cm"),
    ],
)
def test_the_height_suits_the_object(half_height, height):
    grasp = grasp_of(([0.02, 0.02, half_height], 0, 0, 0))
    assert grasp.position[2] == pytest.approx(height)


def test_the_grasp_avoids_a_tall_neighbour():
    target = ([0.04, 0.02, 0.01], 0.0, 0.0, 0)
    # 11 cm beside the object in y, within the hand's extent; 7.5 cm tall, higher than the hand.
    neighbour = ([0.03, 0.03, 0.0375], 0.055, -0.095, 0)
    alone, beside = grasp_of(target), grasp_of(target, neighbour=neighbour)
    assert (alone.yaw, *alone.position[:2]) == pytest.approx((0, 0, 0), abs=1e-9)
    assert (beside.yaw, *beside.position[:2]) != pytest.approx((0, 0, 0), abs=1e-9)


def test_a_grasp_beside_the_middle_is_farther_from_a_neighbour():
    target = ([0.038, 0.02, 0.009], 0.0, 0.0, 0)
    tall = ([0.03, 0.03, 0.065], 0.0, -0.115, 0)
    middle, narrow = grasp_of(target, tall=tall), grasp_of(target, tall=tall, beside=True)
    assert middle.position[1] == pytest.approx(0.0, abs=1e-9)
    assert narrow.width <= MAX_WIDTH
    assert narrow.position[1] > 0.01
    # The object is within the open fingers on both sides.
    assert narrow.width / 2 == pytest.approx(narrow.position[1] + 0.02)


def test_the_tallest_box_that_enters_a_rectangle():
    found = shapes(low=([0.1, 0.1, 0.01], 0, 0, 0), tall=([0.01, 0.01, 0.05], 0.2, 0, 0))
    corners = np.concatenate([shape.corners() for shape in found.values()])
    half = np.array([0.05, 0.05])
    for x, height in ((0.0, 0.02), (0.17, 0.1), (0.5, -np.inf)):
        top = top_within(corners, np.eye(2), np.array([x, 0.0]), half)
        assert top == pytest.approx(height), x


def test_a_neighbour_lower_than_the_hand_changes_nothing():
    target = ([0.04, 0.02, 0.02], 0.0, 0.0, 0)
    low = ([0.03, 0.02, 0.01], 0.0, -0.09, 0)
    assert grasp_of(target, low=low).yaw == 0


def test_a_body_without_collision_geometry_is_an_error():
    model = mujoco.MjModel.from_xml_string(
        '<mujoco><worldbody><body name="ghost"><geom type="sphere" size="1" contype="0" '
        'conaffinity="0"/></body></worldbody></mujoco>'
    )
    with pytest.raises(ValueError, match="'ghost' has no collision geometry"):
        Shape(model, mujoco.MjData(model), model.body("ghost").id)
