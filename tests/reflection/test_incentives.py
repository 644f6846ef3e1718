import pytest

from srpo_env.reflection import ReflectionReward, incentives
from srpo_env.reflection.incentives import Incentives


def test_paper_pays_for_both_answers():
    table = incentives(ReflectionReward.paper())
    assert table == Incentives(0.75, 0.50, 0.25, 0.0)
    assert table.problems == []


def test_released_preset_punishes_a_right_first_answer():
    with pytest.warns(UserWarning, match="released"):
        table = incentives(ReflectionReward.released())
    assert table == Incentives(0.75, 1.0, 0.25, 0.0)
    assert table.problems == ["A right first answer costs 0.25 if the second is right"]


def test_without_effectiveness_the_final_answer_has_no_weight():
    assert incentives(ReflectionReward(keep=0, fix=0, mislead=0)).problems == [
        "A right second answer earns nothing if the first is right",
        "A right second answer earns nothing if the first is wrong",
    ]


def test_final_only_punishes_nothing():
    assert incentives(ReflectionReward.final_only()).problems == []


def test_reward_that_pays_for_a_spoilt_answer_is_flagged():
    problems = incentives(ReflectionReward(mislead=1.0)).problems
    assert problems == ["A right second answer costs 0.75 if the first is right"]


def test_reward_that_pays_more_for_two_wrong_answers_than_for_the_first_is_flagged():
    problems = incentives(ReflectionReward(fail=0.4)).problems
    assert problems == ["A right first answer costs 0.15 if the second is wrong"]
