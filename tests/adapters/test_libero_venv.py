"""LIBERO's own vector environments behind Gymnasium's interface, on its real simulator."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode

from srpo_env import SelfReferentialProgressWrapper
from srpo_env.adapters import libero_venv
from srpo_env.adapters.libero_venv import LiberoVenvToGymnasium

pytest.importorskip("libero", reason="LIBERO is not installed: pip install 'srpo-env[libero]'")

from srpo_env.libero.assets import prepare_libero
from srpo_env.libero.gl import choose_gl
from srpo_env.libero.suites import get_task
from tests.corridor import ReadingEncoder
from tests.snippets import python_blocks

pytestmark = pytest.mark.libero

TASK = get_task("libero_object", 0)
SIZE = 32
STILL = np.zeros((2, 7))


def make_venv(kind, num_envs=2):
    choose_gl()
    prepare_libero()
    from libero.libero.envs import OffScreenRenderEnv, venv

    make = partial(
        OffScreenRenderEnv,
        bddl_file_name=str(TASK.bddl_file),
        camera_heights=SIZE,
        camera_widths=SIZE,
        hard_reset=False,  # the default compiles the model at every reset, for seconds
    )
    return getattr(venv, kind)([make] * num_envs)


@pytest.fixture(scope="module")
def dummy():
    venv = make_venv("DummyVectorEnv")
    yield venv
    venv.close()


@pytest.fixture(scope="module")
def states(dummy):
    """A stored initial state, and one in which the object falls into the basket."""
    model = dummy.workers[0].env.sim.model
    target, basket = (
        model.get_joint_qpos_addr(f"{name}_joint0")[0] + 1  # the state has the time in front
        for name in dummy.workers[0].env.obj_of_interest
    )
    stored = np.array(TASK.init_states()[0])
    solved = stored.copy()
    solved[target : target + 3] = stored[basket : basket + 3] + np.array([0, 0, 0.1])
    return np.stack([stored, solved])


def adapt(venv, states, **kwargs):
    return LiberoVenvToGymnasium(
        venv, states, **{"max_episode_steps": 3, "settle_steps": 1, **kwargs}
    )


def start(envs, **options):
    return envs.reset(seed=0, options=options)


def test_success_terminates_and_failure_is_truncated_at_the_limit(dummy, states):
    envs = adapt(dummy, states, max_episode_steps=30)
    _, infos = start(envs, init_state_id=[0, 1])
    assert infos["init_state_id"].tolist() == [0, 1]
    ends = []
    for step in range(30):
        _, rewards, terminations, truncations, infos = envs.step(STILL)
        np.testing.assert_array_equal(infos["is_success"], terminations)
        np.testing.assert_array_equal(rewards, terminations.astype(float))
        ends += [(i, step) for i in range(2) if terminations[i] and not truncations[i]]
        if terminations[1]:
            assert not terminations[0]
            break
    else:
        pytest.fail(f"the object in the basket did not count as a success; ends: {ends}")
    envs = adapt(dummy, states, max_episode_steps=2)
    start(envs, init_state_id=0)
    assert not envs.step(STILL)[3].any()
    _, _, terminations, truncations, _ = envs.step(STILL)
    assert truncations.all()
    assert not terminations.any()


def test_observations_are_in_their_space_and_one_image_is_upright(dummy, states):
    envs = adapt(dummy, states)
    observations, _ = start(envs, init_state_id=0)
    assert envs.observation_space.contains(observations)
    np.testing.assert_array_equal(
        observations["agentview"], observations["agentview_image"][:, ::-1]
    )
    # The robot's base stands at the far end of the floor, so it is high in the upright image.
    image = observations["agentview"][0].astype(int)
    floor = np.median(image[SIZE // 2 :].reshape(-1, 3), axis=0)
    unlike_floor = np.abs(image - floor).sum(axis=2)[:, SIZE // 3 : -SIZE // 3]
    assert unlike_floor[: SIZE // 4].mean() > unlike_floor[-SIZE // 8 :].mean()


def test_next_step_starts_another_episode(dummy, states):
    envs = adapt(dummy, states[:1], max_episode_steps=1)
    first, _ = start(envs, init_state_id=0)
    assert envs.step(np.tile([0, 0, 1, 0, 0, 0, -1], (2, 1)))[3].all()
    again, rewards, terminations, truncations, infos = envs.step(STILL)
    assert not np.any([rewards, terminations, truncations])
    assert infos["init_state_id"].tolist() == [0, 0]
    np.testing.assert_allclose(again["robot0_eef_pos"], first["robot0_eef_pos"], atol=1e-6)


def test_ended_environment_waits_with_autoreset_disabled(dummy, states):
    envs = adapt(dummy, states, max_episode_steps=2, autoreset_mode=AutoresetMode.DISABLED)
    start(envs, init_state_id=0)
    envs.step(STILL)
    ended, *_ = envs.step(STILL)
    with pytest.raises(ResetNeeded):
        envs.step(STILL)
    envs.reset(options={"reset_mask": np.array([True, False]), "init_state_id": 1})
    observations, rewards, _, truncations, infos = envs.step(STILL)
    assert truncations.tolist() == [False, True]
    assert rewards[1] == 0
    assert infos["init_state_id"].tolist() == [1, 0]
    np.testing.assert_array_equal(observations["agentview"][1], ended["agentview"][1])


@pytest.mark.parametrize("kind", ["DummyVectorEnv", "SubprocVectorEnv"])
def test_wrapper_closes_groups(dummy, states, kind):
    venv = dummy if kind == "DummyVectorEnv" else make_venv(kind)
    try:
        envs = SelfReferentialProgressWrapper(adapt(venv, states), ReadingEncoder(), group_size=2)
        start(envs, init_state_id=0)
        for _ in range(3):
            envs.step(STILL)
        (group,) = envs.pop_groups()
        assert group.key == (0, 0)
        assert [(episode.success, episode.length) for episode in group.episodes] == [(False, 3)] * 2
    finally:
        if venv is not dummy:
            venv.close()


def test_example_of_the_module_runs(dummy, states):
    names = {
        "SubprocVectorEnv": lambda makers: dummy,  # it has two environments, not eight
        "benchmark": SimpleNamespace(get_task_init_states=lambda task_id: states),
        "encoder": ReadingEncoder(),
        "LiberoVenvToGymnasium": LiberoVenvToGymnasium,
        "SelfReferentialProgressWrapper": SelfReferentialProgressWrapper,
    }
    (block,) = python_blocks(libero_venv.__doc__)
    exec(block, names)
    assert names["envs"].reset()[1]["task_id"].tolist() == [0, 0]


def broken_env():
    from libero.libero.envs.env_wrapper import ControlEnv

    class Simulator:
        def reset(self):
            raise ValueError("no such texture")

        def close(self):
            pass

    class Broken(ControlEnv):
        """LIBERO's `reset` over a simulator whose reset raises."""

        def __init__(self):
            self.env = Simulator()

        def set_init_state(self, init_state):
            return {"agentview_image": np.zeros((4, 4, 3), np.uint8)}

    return Broken()


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("DummyVectorEnv", ValueError, "no such texture"),
        (
            "SubprocVectorEnv",
            RuntimeError,
            r"Environment 0 was not reset within 1 s.*env\.env\.reset",
        ),
    ],
)
def test_reset_that_raises_is_not_repeated_without_end(kind, error, message):
    prepare_libero()
    from libero.libero.envs import venv

    broken = getattr(venv, kind)([broken_env])
    envs = adapt(broken, np.zeros((1, 5)), observations=["agentview_image"], timeout=1.0)
    with pytest.raises(error, match=message):
        envs.reset()
    envs.close()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"max_episode_steps": 0}, "max_episode_steps"),
        ({"autoreset_mode": AutoresetMode.SAME_STEP}, "NEXT_STEP or DISABLED, got SAME_STEP"),
        ({"observations": ["agent_view"]}, r"\['agent_view'\] are not among .*agentview_image"),
        ({"task_ids": [1, 2, 3]}, r"`task_ids` must be .* \(2,\), got \(3,\)"),
    ],
)
def test_wrong_settings_are_errors(dummy, states, kwargs, message):
    with pytest.raises(ValueError, match=message):
        adapt(dummy, states, **kwargs)


def test_wrong_options_and_actions_are_errors(dummy, states):
    envs = adapt(dummy, states)
    with pytest.raises(ResetNeeded):
        envs.step(STILL)
    for wrong in (2, -1, 0.5):
        with pytest.raises(ValueError, match=rf"0\.\.1, got {wrong}"):
            start(envs, init_state_id=wrong)
    with pytest.raises(ValueError, match="got also init_state"):
        start(envs, init_state=0)
    with pytest.raises(ValueError, match=r"shape \(2, 7\)"):
        envs.step(np.zeros((2, 6)))
    with pytest.raises(ValueError, match="list of 2 such arrays"):
        adapt(dummy, states[0])
