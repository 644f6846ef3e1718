import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from srpo_env.training.evaluation import (
    HELD_OUT_STATES,
    TRAINING_STATES,
    EpisodeResult,
    Evaluation,
    evaluate,
    held_out_episodes,
    wilson_interval,
)


class Lengths:
    """Vector environment whose episodes last ``1 + task`` steps and succeed from even states."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(self, num_envs):
        self.num_envs = num_envs
        self.task, self.state, self.steps = np.zeros((3, num_envs), dtype=int)
        self.ended = np.ones(num_envs, dtype=bool)
        self.started, self.seeds = [], []

    def reset(self, *, seed=None, options):
        self.seeds.append(seed)
        mask = options["reset_mask"]
        assert mask.dtype == bool
        assert self.ended[mask].all(), "a running episode was reset"
        self.task[mask] = options["task_id"][mask]
        self.state[mask] = options["init_state_id"][mask]
        self.steps[mask], self.ended[mask] = 0, False
        self.started += list(zip(self.task[mask].tolist(), self.state[mask].tolist(), strict=True))
        return self.observe(), {"task": np.array([f"task {task}" for task in self.task])}

    def step(self, actions):
        if self.ended.all():
            raise gymnasium.error.ResetNeeded("all episodes have ended")
        np.testing.assert_array_equal(actions[:, 0, 0], self.task)
        self.steps[~self.ended] += 1
        self.ended = self.steps >= 1 + self.task
        success = self.ended & (self.state % 2 == 0)
        infos = {"is_success": success, "control_steps": 8 * self.steps}
        return self.observe(), success.astype(float), success, self.ended & ~success, infos

    def observe(self):
        return {"task": self.task.copy()}


def act(observations, instructions):
    """Returns the task, which observation and instruction must agree on."""
    assert instructions == [f"task {task}" for task in observations["task"]]
    return np.broadcast_to(observations["task"][:, None, None], (len(instructions), 8, 7))


@pytest.mark.parametrize("num_envs", [1, 3, 8, 20])
def test_every_episode_is_run_once_and_gets_its_own_result(num_envs):
    envs = Lengths(num_envs)
    episodes = held_out_episodes(num_tasks=3, num_episodes=12)
    result = evaluate(act, envs, episodes)
    assert [(e.task_id, e.init_state_id) for e in result.episodes] == sorted(episodes)
    for episode in result.episodes:
        assert episode.success == (episode.init_state_id % 2 == 0)
        assert episode.control_steps == 8 * (1 + episode.task_id)
    assert result.num_successes == 6


def test_idle_environments_start_the_next_episode_at_once():
    envs = Lengths(2)
    evaluate(act, envs, [(9, 40), (0, 41), (0, 42), (0, 43)])
    # The short episodes all run in the second environment.
    assert envs.started == [(9, 40), (0, 41), (0, 42), (0, 43)]


def test_environments_are_seeded_once():
    envs = Lengths(1)
    evaluate(act, envs, [(0, 40), (0, 41), (0, 42)], seed=7)
    assert envs.seeds == [7, None, None]


def test_number_of_ended_episodes_is_reported_after_each_step():
    seen = []
    evaluate(act, Lengths(2), [(2, 40), (0, 41), (1, 41)], on_step=seen.append)
    assert seen == [1, 1, 3]


def test_held_out_states_are_never_trained_on():
    assert not set(HELD_OUT_STATES) & set(TRAINING_STATES)
    assert sorted([*HELD_OUT_STATES, *TRAINING_STATES]) == list(range(50))


def test_episodes_are_spread_evenly_over_the_tasks():
    assert held_out_episodes(3, 4) == [(0, 40), (1, 40), (2, 40), (0, 41)]
    assert len(set(held_out_episodes(10, 100))) == 100


@pytest.mark.parametrize("number", [0, 31])
def test_impossible_number_of_episodes_is_refused(number):
    with pytest.raises(ValueError, match=f"must be in 1..30, got {number}"):
        held_out_episodes(3, number)


def test_interval_is_wilsons():
    # Wilson (1927): center (p + z^2/2n) / (1 + z^2/n), here p = 1/2, n = 10, z = 1.96.
    z, n = 1.959964, 10
    half = z * np.sqrt(0.25 / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert wilson_interval(5, 10) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-5)


def test_result_prints_rate_interval_and_counts():
    episodes = tuple(EpisodeResult(task, 40, task == 0, 8) for task in (0, 1) for _ in range(5))
    result = Evaluation(episodes)
    assert result.success_rate == 0.5
    assert str(result) == "50% [24%, 76%] of 10"
    assert result.counts_by_task() == "5/5 0/5"
    assert [part.success_rate for part in result.by_task().values()] == [1, 0]
