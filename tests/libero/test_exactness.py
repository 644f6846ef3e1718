"""States, rewards and images equal those of LIBERO's own environment to the last bit.

Images are compared with the look of the installed MuJoCo, which upstream's environment shows.

Upstream's environment runs with the same actions as ours. Fixtures (cabinets, stoves, racks) have
no joints, so stored states do not contain their position: upstream draws it within some centimetres
at each reset, and ours keeps that of seed 0. Here ours copies upstream's.

With older versions of MuJoCo (seen with 3.3.0), `mj_forward` sets the starting point of the solver,
so that the last bits of a state depend on upstream's random reset, which comes before the stored
state is set. There, ours copies the starting point.

``ControlEnv.reset`` is not called, because it loops forever if something raises.
"""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from srpo_env.libero.assets import check_suite, resolve_assets
from srpo_env.libero.env import LiberoEnv
from srpo_env.libero.experts import run_expert
from srpo_env.libero.physics import FORWARD_SETS_START
from srpo_env.libero.simulation import CAMERAS, SETTLE_ACTION, Simulation
from srpo_env.libero.suites import get_task, tasks_of

pytestmark = pytest.mark.libero

CHUNK = 8
QUICK = [("libero_object", 3), ("libero_goal", 1), ("libero_10", 2)]
SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")


def build(suite, task_id, visuals):
    try:
        check_suite(resolve_assets(), suite)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return Simulation(get_task(suite, task_id), visuals=visuals, look="mujoco")


def reset_upstream(task, init_state_id, *, seed=7):
    """Returns upstream's environment after a reset to a stored state, and its observation."""
    from libero.libero.envs import OffScreenRenderEnv

    upstream = OffScreenRenderEnv(bddl_file_name=str(task.bddl_file), horizon=10**6)
    np.random.seed(seed)  # noqa: NPY002  upstream draws from the global generator
    upstream.env.reset()
    return upstream, upstream.set_init_state(task.init_states()[init_state_id])


def copy_fixtures(simulation, upstream):
    simulation.model.body_pos[:] = upstream.sim.model.body_pos
    simulation.model.body_quat[:] = upstream.sim.model.body_quat


def state_of(simulation):
    return np.concatenate([[simulation.data.time], simulation.data.qpos, simulation.data.qvel])


def no_image(_):
    return np.zeros((128, 128, 3), np.uint8)


no_image.__modality__ = "image"


class Cameras:
    """Upstream's cameras, which can be switched off: without them it is ten times faster."""

    def __init__(self, upstream):
        self._upstream = upstream
        self._observables = [
            upstream.env._observables[f"{name}_image"] for name in CAMERAS.values()
        ]
        self._sensors = [observable._sensor for observable in self._observables]

    def switch_off(self, off):
        # The observables stay enabled, because disabling them would reset their clocks.
        for observable, sensor in zip(self._observables, self._sensors, strict=True):
            observable._sensor = no_image if off else sensor
        # Upstream assumes that its OpenGL context is the only one of the process.
        self._upstream.sim._render_context_offscreen.gl_ctx.make_current()


def check_observation(simulation, observation):
    for camera, name in CAMERAS.items():
        theirs = observation[f"{name}_image"][::-1]
        np.testing.assert_array_equal(simulation.render(camera), theirs, err_msg=camera)
    proprio = simulation.proprio()
    theirs = [observation["robot0_eef_pos"], observation["robot0_gripper_qpos"]]
    np.testing.assert_array_equal(
        np.delete(proprio, slice(3, 6)), np.concatenate(theirs).astype(np.float32)
    )
    x, y, z, w = observation["robot0_eef_quat"]
    quaternion = Rotation.from_rotvec(proprio[3:6]).as_quat(canonical=True)
    expected = np.array([x, y, z, w]) * (1 if w > 0 else -1)
    np.testing.assert_allclose(quaternion, expected, atol=1e-6)


def check_reset(simulation, upstream):
    """Checks that nothing of an earlier episode is left."""
    for name in ("time", "qpos", "qvel", "qacc", "qacc_warmstart", "xpos", "xquat", "site_xpos"):
        ours, theirs = getattr(simulation.data, name), getattr(upstream.sim.data._data, name)
        if FORWARD_SETS_START and name in ("qacc", "qacc_warmstart"):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9, err_msg=name)
            ours[:] = theirs
        np.testing.assert_array_equal(ours, theirs, err_msg=name)


def check_episode(suite, task_id, init_state_id, chunks, compared):
    """Plays random chunks, and compares the observations after the chunks in ``compared``."""
    exact, fast = build(suite, task_id, "exact"), build(suite, task_id, "fast")
    upstream, observation = reset_upstream(exact.task, init_state_id)
    states = exact.task.init_states()
    for simulation in (exact, fast):
        copy_fixtures(simulation, upstream)
        simulation.reset(states[init_state_id - 1])
        simulation.step(np.ones(7))
        simulation.reset(states[init_state_id])
        check_reset(simulation, upstream)
    check_observation(exact, observation)
    cameras = Cameras(upstream)
    rng = np.random.default_rng(task_id)
    for chunk in range(chunks):
        for step, action in enumerate(rng.uniform(-1.0, 1.0, (CHUNK, 7))):
            cameras.switch_off(not (chunk in compared and step == CHUNK - 1))
            observation, reward, done, _ = upstream.step(action)
            for simulation in (exact, fast):
                success = simulation.step(action)
                np.testing.assert_array_equal(
                    state_of(simulation),
                    upstream.get_sim_state(),
                    err_msg=f"{simulation.visuals}, chunk {chunk}, step {step}",
                )
                assert (float(success), success) == (reward, done)
        if chunk in compared:
            check_observation(exact, observation)
    upstream.close()


@pytest.mark.parametrize(("suite", "task_id"), QUICK)
def test_resets_states_rewards_and_observations_equal_upstreams(suite, task_id):
    check_episode(suite, task_id, init_state_id=1, chunks=3, compared=(0, 2))


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("task_id", range(10))
@pytest.mark.parametrize("suite", SUITES)
def test_resets_states_rewards_and_observations_equal_upstreams_over_200_chunks(suite, task_id):
    check_episode(suite, task_id, init_state_id=0, chunks=200, compared=range(0, 200, 20))


def test_only_the_positions_of_fixtures_are_drawn_by_upstream():
    simulation = build("libero_goal", 1, "exact")
    upstream, _ = reset_upstream(simulation.task, 0, seed=11)
    fixtures = set(upstream.env.fixtures_dict)
    theirs = upstream.sim.model._model
    for name in dir(theirs):
        value = getattr(theirs, name)
        if name.startswith("_") or not isinstance(value, np.ndarray):
            continue
        ours = getattr(simulation.model, name)
        # Older versions of MuJoCo have NaN in normals of meshes.
        moved = np.argwhere((value != ours) & ~((value != value) & (ours != ours)))
        if len(moved) == 0:
            continue
        assert name in ("body_pos", "body_quat"), name
        bodies = {theirs.body(index[0]).name for index in moved}
        assert all(any(body.startswith(fixture) for fixture in fixtures) for body in bodies), bodies
    assert np.abs(theirs.body_pos - simulation.model.body_pos).max() < 0.05
    upstream.close()


def test_success_is_reached_at_the_same_step_and_terminates():
    simulation = build("libero_object", 0, "fast")
    attempt = run_expert(simulation, 5)
    assert attempt.success
    actions = attempt.executed_actions
    upstream, _ = reset_upstream(simulation.task, 5)
    Cameras(upstream).switch_off(True)
    for _ in range(10):
        upstream.step(SETTLE_ACTION)
    results = [upstream.step(action)[1:3] for action in actions]
    assert results == [(0.0, False)] * (len(actions) - 1) + [(1.0, True)]
    tolerance = 1e-5 if FORWARD_SETS_START else 0.0
    np.testing.assert_allclose(
        state_of(simulation), upstream.get_sim_state(), rtol=0, atol=tolerance
    )
    upstream.close()

    env = LiberoEnv(chunk=CHUNK, visuals="fast")
    env.reset(options={"task_id": 0, "init_state_id": 5})
    padded = np.concatenate([actions, np.zeros((-len(actions) % CHUNK, 7))])
    for chunk in padded.reshape(-1, CHUNK, 7):
        _, reward, terminated, truncated, info = env.step(chunk)
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert info["control_steps"] == len(actions)
    env.close()


def test_the_four_suites_have_forty_tasks():
    assert sum(len(tasks_of(suite)) for suite in SUITES) == 40
