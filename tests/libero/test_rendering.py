"""Rendering is right while other libraries, and other threads, use OpenGL in the same process."""

import gc
import threading

import numpy as np
import pytest

from srpo_env.libero import rendering
from srpo_env.libero.env import LiberoEnv

mujoco = rendering.mujoco
pytestmark = pytest.mark.libero

BOX = (
    '<mujoco><worldbody><light pos="0 0 3"/><geom type="box" size=".5 .4 .3"/></worldbody></mujoco>'
)


@pytest.fixture(scope="module")
def envs():
    """Two tasks, with images of different sizes."""
    envs = LiberoEnv(image_size=32, max_steps=8, chunk=1), LiberoEnv(image_size=24, chunk=1)
    for task_id, env in zip((0, 3), envs, strict=True):
        env.reset(options={"task_id": task_id, "init_state_id": 0})
    yield envs
    for env in envs:
        env.close()


def images_of(envs):
    return [env.simulation.render(camera) for env in envs for camera in env.cameras]


def assert_equal(images, expected):
    for image, other in zip(images, expected, strict=True):
        np.testing.assert_array_equal(image, other)


@pytest.fixture
def box():
    model = mujoco.MjModel.from_xml_string(BOX)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def test_another_renderer_of_the_process_changes_no_image(envs, box):
    expected = images_of(envs)
    assert len({image.tobytes() for image in expected}) == 4  # each camera has its own view
    model, data = box
    other = mujoco.Renderer(model, 16, 16)
    other.update_scene(data)
    picture = other.render()
    assert_equal(images_of(envs), expected)
    np.testing.assert_array_equal(other.render(), picture)
    images_of(envs)
    other.close()  # deletes its buffers by number, in the context that is current
    assert_equal(images_of(envs), expected)


def test_another_context_that_ends_changes_no_image(envs):
    expected = images_of(envs)
    context = mujoco.GLContext(8, 8)
    context.make_current()
    assert_equal(images_of(envs)[:1], expected[:1])
    context.free()
    assert_equal(images_of(envs), expected)


def test_a_renderer_that_is_collected_changes_no_image(envs):
    expected = images_of(envs)
    model = mujoco.MjModel.from_xml_string(BOX)
    renderer = rendering.Renderer(model, 16)
    images_of(envs)
    del renderer
    gc.collect()
    assert_equal(images_of(envs), expected)


def test_after_an_opengl_error_the_model_is_uploaded_again(envs, monkeypatch, caplog):
    expected = images_of(envs)
    errors = [0x506]  # GL_INVALID_FRAMEBUFFER_OPERATION
    monkeypatch.setattr(mujoco, "mjr_getError", lambda: errors.pop() if errors else 0)
    assert_equal(images_of(envs), expected)
    assert "OpenGL error 0x506" in caplog.text


def test_an_opengl_error_that_stays_is_an_error_and_no_image(envs, monkeypatch):
    expected = images_of(envs)
    with monkeypatch.context() as patch:
        patch.setattr(mujoco, "mjr_getError", lambda: 0x506)
        with pytest.raises(RuntimeError, match=r"OpenGL reports error 0x506 .* another library"):
            envs[0].simulation.render("agentview")
    assert_equal(images_of(envs), expected)


def test_environments_in_two_threads_equal_those_in_one(envs):
    """Of one task, so that they share a simulation."""

    def play(init_state_id, episodes):
        env = LiberoEnv(image_size=32, max_steps=8, chunk=1)
        rng = np.random.default_rng(init_state_id)
        for _ in range(2):
            observation, _ = env.reset(options={"task_id": 0, "init_state_id": init_state_id})
            episodes.append(observation)
            for _ in range(8):
                episodes.append(env.step(rng.uniform(-1, 1, (1, 7)))[0])
        env.close()

    alone, together = [[], []], [[], []]
    for index in range(2):
        play(index, alone[index])
    threads = [threading.Thread(target=play, args=(i, together[i])) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    for index in range(2):
        assert len(together[index]) == 18
        for observation, expected in zip(together[index], alone[index], strict=True):
            for name in expected:
                np.testing.assert_array_equal(observation[name], expected[name])


def arms_in_motion(env, num_chunks):
    """Yields the simulation of a task as the arm moves at random."""
    rng = np.random.default_rng(0)
    env.reset(options={"task_id": 1, "init_state_id": 0})
    for _ in range(num_chunks):
        env.step(rng.uniform(-1, 1, env.action_space.shape))
        yield env.simulation


@pytest.mark.parametrize("suite", ["libero_object", "libero_goal"])
def test_leaving_out_what_a_camera_does_not_show_changes_no_pixel(suite, monkeypatch):
    """libero_goal has a mirror, the box of its stove."""
    env = LiberoEnv(suite, image_size=64)
    outside_view, counts = rendering.outside_view, []

    def outside(model, data, camera, geoms):
        counts.append(outside_view(model, data, camera, geoms).sum())
        return outside_view(model, data, camera, geoms)

    for simulation in arms_in_motion(env, num_chunks=4):
        images = []
        for function in (outside, lambda model, data, camera, geoms: np.zeros(len(geoms), bool)):
            monkeypatch.setattr(rendering, "outside_view", function)
            images.append([simulation.render(camera) for camera in env.cameras])
        assert_equal(*images)
    assert min(counts) > 0
    env.close()


SPHERES = """
<mujoco><worldbody>
  <camera name="down" pos="0 0 2" fovy="90"/>
  <geom type="plane" size="1 1 .1" pos="0 0 -9" group="1"/>
  <geom size=".5" pos="{x} 0 {z}" group="1"/>
</worldbody></mujoco>
"""


@pytest.mark.parametrize(
    ("x", "z", "outside"),
    [
        (0.0, 0.0, False),  # in front of the camera
        (0.0, 3.0, True),  # behind it
        (0.0, 2.4, False),  # around it
        # Two metres below, the view ends at x = 2; a sphere's edge is there at 2 + 0.5 * sqrt(2).
        (2.6, 0.0, False),
        (2.8, 0.0, True),
        (-2.8, 0.0, True),
    ],
)
def test_a_sphere_is_outside_if_no_point_of_it_is_in_the_view(x, z, outside):
    model = mujoco.MjModel.from_xml_string(SPHERES.format(x=x, z=z))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    found = rendering.outside_view(model, data, 0, np.array([0, 1]))
    np.testing.assert_array_equal(found, [False, outside])  # a plane has no end
