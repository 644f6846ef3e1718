import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv

from srpo_env.reflection import ReflectionReward, ReflectionRewardWrapper, SingleTurnTextEnv
from tests.reflection.responses import CASES, LABEL, response

IMAGES = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
TOTALS = {"rr": 1.60, "wr": 1.35, "rw": 1.10, "ww": 0.85}


def make(images=IMAGES):
    return SingleTurnTextEnv(["3 + 4 ≟", "How many?"], [LABEL, "2"], images)


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version:UserWarning")
@pytest.mark.parametrize("images", [IMAGES, None], ids=["image", "text"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_environment_passes_the_checks_of_gymnasium(images, wrapped):
    env = make(images)
    check_env(ReflectionRewardWrapper(env) if wrapped else env, skip_render_check=True)


def test_observation_is_the_question_and_its_own_copy_of_the_image():
    env = make()
    observation, info = env.reset(options={"problem": 1})
    assert observation in env.observation_space
    assert observation["question"] == "How many?"
    np.testing.assert_array_equal(observation["image"], IMAGES[1])
    observation["image"][:] = 0
    assert IMAGES[1].any()
    assert info == {"problem": 1, "gold": "2"}


def test_problems_are_drawn_by_the_seed():
    env = make(None)
    drawn = [env.reset(seed=seed)[1]["problem"] for seed in range(20)]
    assert set(drawn) == {0, 1}
    assert drawn == [env.reset(seed=seed)[1]["problem"] for seed in range(20)]


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (response(), 1.0),
        (response(*CASES["wr"]), 1.0),
        (response(*CASES["rw"]), 0.0),
        (f"<answer>{LABEL}</answer>", 1.0),
        (f"{LABEL} é", 0.0),
    ],
)
def test_episode_has_one_step_and_pays_for_the_last_answer(text, reward):
    env = make()
    env.reset(options={"problem": 0})
    _, paid, terminated, truncated, info = env.step(text)
    assert (paid, terminated, truncated, info["gold"]) == (reward, True, False, LABEL)
    with pytest.raises(RuntimeError, match="call `reset`"):
        env.step(text)


@pytest.mark.parametrize("case", CASES)
def test_wrapper_pays_the_reflection_reward(case):
    env = ReflectionRewardWrapper(make())
    env.reset(options={"problem": 0})
    _, reward, _, _, info = env.step(response(*CASES[case]))
    assert reward == pytest.approx(TOTALS[case])
    assert sum(info["reward_components"].values()) == reward
    assert info["base_reward"] == (case[1] == "r")


def test_rewards_can_be_added():
    env = ReflectionRewardWrapper(make(), ReflectionReward(brevity=0), mode="add")
    env.reset(options={"problem": 0})
    assert env.step(response())[1] == pytest.approx(1.5 + 1.0)


def test_wrapper_works_in_vector_environments():
    envs = SyncVectorEnv([lambda: ReflectionRewardWrapper(make())] * 2)
    observations, infos = envs.reset(seed=0, options={"problem": 0})
    assert observations["question"] == ("3 + 4 ≟",) * 2
    assert list(infos["gold"]) == [LABEL] * 2
    rewards, ended = envs.step((response(*CASES["wr"]), "?"))[1:3]
    np.testing.assert_allclose(rewards, [1.35, 0.0])
    assert ended.all()


def test_wrapper_is_recorded_in_the_specification():
    gymnasium.register("reflection-test-v0", SingleTurnTextEnv)
    try:
        env = gymnasium.make(
            "reflection-test-v0", questions=["a"], answers=["b"], disable_env_checker=True
        )
        wrapped = ReflectionRewardWrapper(env, ReflectionReward(brevity=0.2), mode="add")
        again = gymnasium.make(pickle.loads(pickle.dumps(wrapped.spec)))
    finally:
        del gymnasium.registry["reflection-test-v0"]
    assert isinstance(again, ReflectionRewardWrapper)
    assert (again.reflection_reward, again.mode) == (ReflectionReward(brevity=0.2), "add")


def test_wrapper_names_what_the_info_lacks():
    env = ReflectionRewardWrapper(make(), gold_key="label")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"'label', got \['gold', 'problem'\]"):
        env.step("")


def test_label_that_cannot_be_used_is_an_error():
    env = ReflectionRewardWrapper(make(), ReflectionReward(verify=lambda answer, label: None))
    env.reset(options={"problem": 0})
    with pytest.raises(ValueError, match="right answer must be usable, got '7'"):
        env.step(response())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "at least one, got 0 questions"),
        ((["a"], ["b", "c"]), "1 questions and 2 answers"),
        ((["a"], ["b"], IMAGES), r"shape \(1, height, width, 3\), got uint8 of shape \(2, 4, 4, 3"),
        ((["a"], ["b"], IMAGES[:1] / 255), "must be uint8"),
    ],
)
def test_wrong_problems_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        SingleTurnTextEnv(*arguments)


def test_other_wrong_arguments_are_errors():
    with pytest.raises(ValueError, match=r"must be an index below 2, got 2"):
        make().reset(options={"problem": 2})
    with pytest.raises(TypeError, match="`reward` must be a ReflectionReward, got 1"):
        ReflectionRewardWrapper(make(), 1)
    with pytest.raises(ValueError, match="`mode` must be one of"):
        ReflectionRewardWrapper(make(), mode="sum")
    env = make()
    env.reset()
    with pytest.raises(TypeError, match="must be a string, got 3"):
        env.step(3)
