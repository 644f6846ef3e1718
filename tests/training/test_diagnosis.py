"""What is found wrong in made-up histories."""

import pytest

from srpo_env.training.diagnosis import diagnose, new_findings

SETTINGS = {
    "group_size": 8, "temperature": 1.0, "target_kl": 1.0, "learning_rate": 1.5e-4,
    "groups_per_iteration": 12, "rollout_steps": 160, "clip_high": 0.28, "eval_episodes": 100,
    "replay_steps": 400, "update_epochs": 2,
}  # fmt: skip


def iteration(number=1, **changed):
    """A record of an iteration in which nothing is wrong."""
    return {
        "iteration": number, "rollout/num_groups": 20.0, "rollout/without_signal": 0.4,
        "rollout/all_failed": 0.3, "rollout/all_succeeded": 0.1, "losses/kl": 0.5,
        "losses/entropy": 2.0, "charts/update_completed": 1.0, "charts/learning_rate": 1e-4,
        **{name.replace("__", "/"): value for name, value in changed.items()},
    }  # fmt: skip


def evaluation(rate, number=0, **tasks):
    by_task = {f"eval/{name}": value for name, value in tasks.items()}
    return {"iteration": number, "eval/success_rate": rate, **by_task}


def names(records, settings=SETTINGS):
    return [finding.name for finding in diagnose(records, settings)]


def test_nothing_is_wrong_with_a_run_that_learns():
    records = [evaluation(0.5), *[iteration(n) for n in range(1, 11)], evaluation(0.7, 10)]
    assert diagnose(records, SETTINGS) == []
    assert diagnose([], SETTINGS) == []
    assert diagnose(records, {}) == []


# --- No signal ---


def test_too_few_groups_with_signal_are_found_and_the_weak_policy_named():
    # (10 x 0.1 + 10 x 0.1 + 20 x 0.4) of 40 groups have signal, a quarter: not below it.
    few = {"rollout__without_signal": 0.9, "rollout__num_groups": 10.0, "rollout__all_failed": 0.8}
    enough = [iteration(**few), iteration(**few), iteration(rollout__without_signal=0.6)]
    assert names(enough) == []
    less = [*enough[:2], iteration(rollout__without_signal=0.65, rollout__all_failed=0.65)]
    (finding,) = diagnose(less, SETTINGS)
    assert finding.name == "no signal"
    # 2 + 0.35 x 20 = 9 of 40 groups; all failed: 16 + 13 = 29; all succeeded: 1 + 1 + 2 = 4.
    assert finding.observation == (
        "only 22% of the last 40 groups carry signal, in 72% all episodes failed and in 10% all "
        "succeeded"
    )
    assert "--group-size 8" in finding.advice
    assert "--checkpoint" in finding.advice
    assert "more (--replay-steps 400)" in finding.advice
    assert names(less, {**SETTINGS, "update_epochs": 0}) == []  # imitation learns from few


def test_solved_tasks_have_another_advice_and_a_solved_suite_has_none():
    solved = {"rollout__without_signal": 0.9, "rollout__all_failed": 0.1}
    records = [iteration(**solved, rollout__all_succeeded=0.8)] * 3
    (finding,) = diagnose([evaluation(0.94), *records], SETTINGS)
    assert "--stop-at" in finding.advice
    assert diagnose([evaluation(0.95), *records], SETTINGS) == []


def test_three_iterations_are_needed():
    silent = iteration(rollout__without_signal=1.0, rollout__all_failed=1.0)
    assert names([silent] * 2) == []
    assert names([silent] * 3) == ["no signal"]
    # Updates without signal log no losses.
    bare = {name: value for name, value in silent.items() if name.startswith("rollout/")}
    assert names([bare] * 3) == ["no signal"]


# --- KL limit ---


@pytest.mark.parametrize(
    ("shares", "found"),
    [
        ([0.4, 0.4], False),
        ([0.4, 0.49, 0.0], True),
        ([1.0, 0.4, 0.4, 0.4], True),
        ([0.4, 0.5, 0.4], False),
        ([0.4, 0.4, 0.4, 1.0], False),
    ],
)
def test_updates_that_end_early_in_a_row_are_found(shares, found):
    records = [iteration(charts__update_completed=share) for share in shares]
    assert names(records) == (["KL limit"] if found else [])


def test_advice_on_the_kl_limit_names_the_settings_and_the_learning_rate_of_now():
    records = [iteration(charts__update_completed=0.1, charts__learning_rate=4.4e-5)] * 3
    assert str(diagnose(records, SETTINGS)[0]) == (
        "3 updates in a row ended at --target-kl 1.0 before half of their gradient steps, and the "
        "learning rate has come to 4e-05: a lower --learning-rate 0.00015 may learn more steadily; "
        "if it fell that far already, more groups per update (--groups-per-iteration 12) make "
        "gradients less noisy"
    )
    # Settings that are not known are named without a value.
    assert "ended at --target-kl before half" in str(diagnose(records, {})[0])


# --- Entropy ---


def test_entropy_below_a_quarter_of_its_beginning_is_a_collapse():
    first = [iteration(losses__entropy=x) for x in (1.8, 2.0, 2.2)]  # mean 2
    assert names([*first, *[iteration(losses__entropy=0.5)] * 3]) == []
    fallen = [*first, *[iteration(losses__entropy=x) for x in (0.5, 0.5, 0.4)]]
    (finding,) = diagnose(fallen, SETTINGS)
    assert finding.name == "entropy collapse"
    assert finding.observation.startswith("the entropy per token has fallen from 2 to 0.47 nats")
    assert "--temperature 1.0" in finding.advice
    assert names(fallen[:5]) == []  # of fewer than six updates, three are first and newest
    assert names([*fallen, evaluation(0.96)]) == []  # a solved suite needs no exploration


# --- Dead tasks ---


def evaluations(rate, **tasks):
    return [evaluation(rate, number, **tasks) for number in (0, 10, 20)]


def test_task_without_success_is_dead_if_the_others_do_better_beyond_its_interval():
    # 30 episodes of each of ten tasks without a success: at most 3.84 / (30 + 3.84) = 11.4%.
    others = {f"task_{task}": 0.3 for task in range(9)}
    (finding,) = diagnose(evaluations(0.27, **others, task_9=0.0), SETTINGS)
    assert finding.name == "task 9 dead"
    assert finding.observation == (
        "task 9 had no success in the last 3 evaluations, of 30 episodes each, and the others 30%"
    )
    others = {f"task_{task}": 0.2 for task in range(9)}  # half of it is 10%
    assert names(evaluations(0.18, **others, task_9=0.0)) == []


def test_dead_tasks_are_named_together_in_order():
    others = {f"task_{task}": 0.9 for task in (0, 1, 3, 4, 5, 6, 7, 8, 9)}
    records = evaluations(0.7, task_10=0.0, task_2=0.0, **others)
    assert names(records) == ["tasks 2, 10 dead"]


def test_few_episodes_of_a_task_are_no_proof():
    # Three episodes without a success: up to 3.84 / (3 + 3.84) = 56%.
    tasks = {f"task_{task}": 1.0 for task in range(9)}
    records = evaluations(0.9, **tasks, task_9=0.0)
    assert names(records, {**SETTINGS, "eval_episodes": 10}) == []
    assert names(records) == ["task 9 dead"]
    assert names(records, {}) == []
    assert names(records, {**SETTINGS, "eval_episodes": 5}) == []


def test_one_success_in_three_evaluations_is_life():
    tasks = {f"task_{task}": 0.9 for task in range(9)}
    records = evaluations(0.8, **tasks, task_9=0.0)
    records[0]["eval/task_9"] = 0.1
    assert names(records) == []


# --- Success that falls ---


def test_fall_beyond_both_intervals_is_found():
    # Of 100 episodes, 50%: [40.4%, 59.6%]; 31%: [22.8%, 40.6%]; 30%: [21.9%, 39.6%].
    assert names([evaluation(0.5), evaluation(0.31, 10)]) == []
    records = [evaluation(0.4), evaluation(0.5, 10), evaluation(0.3, 20)]
    (finding,) = diagnose(records, SETTINGS)
    assert finding.observation == "held-out success has fallen from 50% at iteration 10 to 30%"
    assert "iteration_0010/policy" in finding.advice
    assert names([*records, evaluation(0.45, 30)]) == []


# --- What is new ---


def test_a_finding_is_new_once_as_long_as_it_lasts():
    good, bad = iteration(), iteration(charts__update_completed=0.2)
    records = [good, bad, bad, bad, bad, good, bad, bad, bad]
    new = [len(new_findings(records[:end], SETTINGS)) for end in range(1, len(records) + 1)]
    assert new == [0, 0, 0, 1, 0, 0, 0, 0, 1]


def test_a_finding_of_an_evaluation_is_new_with_it():
    before = [evaluation(0.9), iteration()]
    assert new_findings(before, SETTINGS) == []
    after = [*before, evaluation(0.2, 1)]
    assert [finding.name for finding in new_findings(after, SETTINGS)] == ["success falls"]
    assert new_findings([*after, iteration(2)], SETTINGS) == []
