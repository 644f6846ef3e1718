"""Reports of `check_wrapped` about environments with one problem each."""

from __future__ import annotations

import warnings
from functools import partial
from itertools import count

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from srpo_env import PixelEncoder, SelfReferentialProgressWrapper
from srpo_env.vector.checker import check_wrapped
from tests.corridor import GIVE_UP, WALK, Corridor, ReadingEncoder, make_corridor
from tests.snippets import python_blocks


def walk_or_give_up(observations):
    """Succeeds in slot 0 and walks one step in the others."""
    positions = observations["agentview"] if isinstance(observations, dict) else observations
    positions = positions[:, 0, 0, 0]
    return np.array([WALK if i == 0 or p == 0 else GIVE_UP for i, p in enumerate(positions)])


def check(env_class=Corridor, *, mode=AutoresetMode.NEXT_STEP, encoder=None, **kwargs):
    policy = kwargs.pop("policy", walk_or_give_up)
    max_steps = kwargs.pop("max_steps", 200)
    options = kwargs.pop("options", None)
    envs = SyncVectorEnv([partial(env_class, slot) for slot in range(2)], autoreset_mode=mode)
    wrapped = SelfReferentialProgressWrapper(
        envs, encoder or PixelEncoder(), group_size=2, **kwargs
    )
    return check_wrapped(
        wrapped, policy=policy, num_episodes=8, max_steps=max_steps, options=options
    )


def test_correct_environment_has_no_problems(vector, mode, as_dict):
    envs = make_corridor(2, vector=vector, mode=mode, as_dict=as_dict)
    wrapped = SelfReferentialProgressWrapper(envs, PixelEncoder(), group_size=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = check_wrapped(wrapped, policy=walk_or_give_up)
    assert {finding.level for finding in report.findings} == {"ok"}
    assert {finding.topic for finding in report.findings} == {
        "autoreset", "ends", "success", "reward", "frames", "encoder", "groups",
    }  # fmt: skip
    assert len(str(report).splitlines()) == len(report.findings)
    # The encoder is restored, and the groups are removed.
    assert isinstance(wrapped.encoder, PixelEncoder)
    assert wrapped.pop_groups() == []
    wrapped.close()


class NoFlag(Corridor):
    def step(self, action):
        return *super().step(action)[:4], {"distance": 1.0}


class Endless(Corridor):
    def step(self, action):
        observation, reward, _, _, info = super().step(action)
        return observation, reward, False, False, info


class Black(Corridor):
    def render(self):
        return np.zeros((4, 4, 3), np.uint8)


class Still(Corridor):
    def render(self):
        return np.indices((4, 4, 3), np.uint8).sum(0).astype(np.uint8)


class Reusing(Corridor):
    def render(self):
        self.array = getattr(self, "array", np.zeros((4, 4, 3), np.uint8))
        self.array[:] = super().render()
        return self.array


@pytest.mark.parametrize(
    ("env_class", "settings", "message"),
    [
        (NoFlag, {}, r"No success flag.*\['distance'\].*pass `success`"),
        (Endless, {}, "no episode ended in 200 steps.*TimeLimit"),
        (Black, {}, "one single colour"),
        (Still, {}, "no frame differs"),
        (Reusing, {"mode": AutoresetMode.SAME_STEP}, "The environment returns one array for both"),
        (Corridor, {"group_key": lambda info, i: {1}}, "key must be an int, float, bool"),
        (
            Corridor,
            {"group_key": lambda info, i: info["seed"]},
            "after 0 steps by KeyError: 'seed'",
        ),
        (Corridor, {"policy": lambda observations: None}, "after 0 steps by"),
    ],
)
def test_problems_that_prevent_training_are_errors(env_class, settings, message):
    with pytest.raises(AssertionError, match=message):
        check(env_class, **settings)


def test_reused_arrays_are_accepted_unless_the_mode_is_same_step():
    assert check(Reusing).findings


class Constant(ReadingEncoder):
    def encode(self, videos):
        return np.ones((len(videos), 2), np.float32)


class Random(ReadingEncoder):
    rng = np.random.default_rng(0)

    def encode(self, videos):
        return self.rng.standard_normal((len(videos), 2)).astype(np.float32)


class Single(ReadingEncoder):
    def encode(self, videos):
        return super().encode(videos)[0]


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (Constant(), "returns the same latent"),
        (Random(), "encoding a video again gives another"),
        (Single(), r"ValueError: Single.encode must return shape \(2, 2\)"),
    ],
)
def test_uninformative_encoder_is_an_error(encoder, message):
    with pytest.raises(AssertionError, match=message):
        check(encoder=encoder)


class Paying(Corridor):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, -1.0, *rest


class Passing(Corridor):
    """Sets the success flag in one step, and does not terminate."""

    def step(self, action):
        observation, reward, *_, info = super().step(action)
        return observation, reward, False, self.time >= self.limit, info


@pytest.mark.parametrize(
    ("env_class", "settings", "message"),
    [
        (Corridor, {"policy": lambda observations: np.array([GIVE_UP] * 2)}, "none of 8 episodes"),
        (Paying, {}, "failed episodes returned -2 to -2.*TransformReward"),
        (Passing, {"policy": lambda observations: np.array([WALK] * 2)}, "did not end their"),
        (
            Corridor,
            {"group_key": partial(lambda ids, info, i: next(ids), count())},
            "has its own key",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")  # an environment may cause a second warning
def test_problems_that_may_impair_training_are_warnings(env_class, settings, message):
    with pytest.warns(UserWarning, match=message):
        check(env_class, **settings)


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_options_select_task_and_initial_state(mode):
    report = check(mode=mode, options={"task_id": 4, "init_state_id": 2})
    assert "(4, 2) x" in str(report)
    # Gymnasium's automatic resets have no options.
    assert ("(0, 0) x" in str(report)) == (mode is not AutoresetMode.DISABLED)


def test_unwrapped_environment_raises():
    with pytest.raises(TypeError, match=r"check_wrapped\(SelfReferentialProgressWrapper\(envs"):
        check_wrapped(make_corridor(2))


@pytest.mark.filterwarnings("ignore:.*none of 16 episodes succeeded")
def test_example_of_the_docstring_runs(capsys):
    names = {"envs": make_corridor(2), "PixelEncoder": PixelEncoder}
    names |= {"SelfReferentialProgressWrapper": SelfReferentialProgressWrapper}
    for block in python_blocks(check_wrapped.__doc__):
        exec(block, {**names, "check_wrapped": check_wrapped})
    assert "keys: 1, most often (0, 0) x 16" in capsys.readouterr().out


def test_same_seed_gives_the_same_report():
    reports = []
    for _ in range(2):
        wrapped = SelfReferentialProgressWrapper(make_corridor(2), ReadingEncoder(), group_size=2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reports.append(str(check_wrapped(wrapped, seed=3)))
    assert reports[0] == reports[1]
