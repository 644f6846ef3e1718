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
