"""The wrapper compared with hand-written timelines, in every kind of vector environment."""

from __future__ import annotations

import copy
import math
import pickle
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from tests.corridor import GIVE_UP, STAY, WALK, Corridor, ReadingEncoder, drive, make_corridor, wrap

SIGMOID_1 = 1 / (1 + math.exp(-1))


def ended_episodes(envs):
    envs.close_groups()
    return sorted(
        (e.episode_id, e.env_index, e.first_step, e.last_step, e.success)
        for group in envs.pop_groups()
        for e in group.episodes
    )


# One slot walks (succeeds at every third step), one stays (truncated at every fifth), one gives up
# at every step: staggered ends, several ends in one step, ends at the first step.
SCRIPT = [[WALK, STAY, GIVE_UP]] * 7

# (episode, slot, first step, last step, success). With NEXT_STEP each reset takes one step.
WITH_LOST_STEPS = [
    (0, 0, 0, 2, True),
    (1, 1, 0, 4, False),
    (2, 2, 0, 0, False),
    (3, 2, 2, 2, False),
    (4, 0, 4, 6, True),
    (5, 2, 4, 4, False),
    (7, 2, 6, 6, False),
]
WITHOUT = [
    (0, 0, 0, 2, True),
    (1, 1, 0, 4, False),
    (2, 2, 0, 0, False),
    (3, 2, 1, 1, False),
    (4, 2, 2, 2, False),
    (5, 0, 3, 5, True),
    (6, 2, 3, 3, False),
    (7, 2, 4, 4, False),
    (9, 2, 5, 5, False),
    (11, 2, 6, 6, False),
]
TIMELINES = {
    AutoresetMode.NEXT_STEP: WITH_LOST_STEPS,
    AutoresetMode.SAME_STEP: WITHOUT,
    AutoresetMode.DISABLED: WITHOUT,
}
EPISODE_IDS = {
    AutoresetMode.NEXT_STEP: [
        [0, 1, 2],
        [0, 1, -1],
        [0, 1, 3],
        [-1, 1, -1],
        [4, 1, 5],
        [4, -1, -1],
        [4, 6, 7],
    ],
    AutoresetMode.SAME_STEP: [
        [0, 1, 2],
        [0, 1, 3],
        [0, 1, 4],
        [5, 1, 6],
        [5, 1, 7],
        [5, 8, 9],
        [10, 8, 11],
    ],
}
EPISODE_IDS[AutoresetMode.DISABLED] = EPISODE_IDS[AutoresetMode.SAME_STEP]


@pytest.fixture
def timeline(vector, mode, as_dict):
    envs = wrap(make_corridor(3, vector=vector, mode=mode, as_dict=as_dict), group_size=3)
    envs.reset(seed=0)
    yield mode, envs, list(drive(envs, SCRIPT))
    envs.close()


def test_first_and_last_steps_follow_the_autoreset_mode(timeline):
    mode, envs, _ = timeline
    assert ended_episodes(envs) == TIMELINES[mode]


def test_video_contains_exactly_the_frames_of_its_episode(timeline):
    mode, envs, _ = timeline
    envs.close_groups()
    videos = {tuple(map(tuple, video.tolist())) for video in envs.encoder.videos}
    walked = tuple((t, t, 0) for t in range(4))
    stayed = tuple((0, t, 1) for t in range(6))
    gave_up = ((0, 0, 2), (0, 1, 2))
    assert videos == {walked, stayed, gave_up}
    assert len(envs.encoder.videos) == len(TIMELINES[mode])


def test_infos_contain_the_episode_id_of_each_step(timeline):
    mode, _, results = timeline
    ids = np.array([infos["episode_id"] for *_, infos in results])
    np.testing.assert_array_equal(ids, EPISODE_IDS[mode])
    masks = np.array([infos["_episode_id"] for *_, infos in results])
    np.testing.assert_array_equal(masks, ids >= 0)


def test_step_returns_the_rewards_of_the_environment_unchanged(timeline):
    mode, _, results = timeline
    rewards = np.array([result[1] for result in results])
    expected = np.zeros((7, 3))
    for _, slot, _, last_step, success in TIMELINES[mode]:
        expected[last_step, slot] = success
    np.testing.assert_array_equal(rewards, expected)
    np.testing.assert_array_equal([r[4]["env_reward"] for r in results], rewards)
    assert all(r[4]["_env_reward"].all() for r in results)


def test_group_contains_the_episodes_that_started_together(timeline):
    mode, envs, _ = timeline
    envs.close_groups()
    groups = [[e.episode_id for e in group.episodes] for group in envs.pop_groups()]
    ended = {episode[0] for episode in TIMELINES[mode]}
    by_start = [[i for i in range(start, start + 3) if i in ended] for start in (0, 3, 6, 9)]
    assert sorted(groups) == [group for group in by_start if group]


def test_failures_are_paid_at_their_last_steps_and_successes_are_unchanged(timeline):
    mode, envs, results = timeline
    buffer = np.array([result[1] for result in results])
    envs.rewrite(buffer)
    expected = np.zeros((7, 3))
    for _, slot, _, last_step, success in TIMELINES[mode]:
        expected[last_step, slot] = success
    # Episodes 0, 1, 2: (3, 4 frames) succeeded; (0, 6) and (0, 2) are both sqrt(13) away.
    expected[4, 1] = expected[0, 2] = 0.4
    # The next three hold the other success, and again two failures at equal distances.
    for episode, slot, _, last_step, success in TIMELINES[mode]:
        if 3 <= episode <= 5 and not success:
            expected[last_step, slot] = 0.4
    np.testing.assert_array_equal(buffer, expected)


def test_all_episodes_may_end_in_their_first_step(vector, mode, as_dict):
    envs = wrap(make_corridor(3, vector=vector, mode=mode, as_dict=as_dict, limit=1), group_size=3)
    envs.reset(seed=0)
    results = list(drive(envs, [[STAY] * 3] * 4))
    steps = [0, 2] if mode is AutoresetMode.NEXT_STEP else [0, 1, 2, 3]
    groups = [[(e.episode_id, e.env_index, e.first_step, e.last_step) for e in group.episodes]
              for group in envs.pop_groups()]  # fmt: skip
    assert groups == [
        [(3 * number + slot, slot, step, step) for slot in range(3)]
        for number, step in enumerate(steps)
    ]
    closing = [infos["_srpo"].tolist() for *_, infos in results if "srpo" in infos]
    assert closing == [[False, False, True]] * len(steps)
    videos = {tuple(map(tuple, video.tolist())) for video in envs.encoder.videos}
    assert videos == {((0, 0, slot), (0, 1, slot)) for slot in range(3)}
    # Without a success nothing is paid.
    buffer = np.array([result[1] for result in results])
    assert envs.rewrite(buffer) == 0
    assert not buffer.any()
    envs.close()


def test_rewards_of_a_group_equal_a_calculation_by_hand(mode):
    # Succeeds after 3 steps; gives up at position 2 after 3 steps; stays until 5 steps are over.
    envs = wrap(make_corridor(3, mode=mode), group_size=3)
    envs.reset(seed=0)
    for _ in drive(envs, [[WALK, WALK, STAY], [WALK, WALK, STAY], [WALK, GIVE_UP, STAY]]):
        assert envs.pop_groups() == []
    if mode is AutoresetMode.DISABLED:
        envs.reset(options={"reset_mask": np.array([True, True, False])})
    results = list(drive(envs, [[STAY, STAY, STAY]] * 2))
    assert results[-1][4]["_srpo"].tolist() == [False, False, True]
    (group,) = envs.pop_groups()
    assert (group.key, group.task, group.num_successes, group.shaped) == ((0, 0), 0, 1, True)
    np.testing.assert_array_equal(group.latents, [[3, 4], [2, 4], [0, 6]])
    np.testing.assert_allclose([e.distance for e in group.episodes], [0, 1, math.sqrt(13)])
    # The z-scores of two failures are -1 and 1 for all distances.
    np.testing.assert_allclose(group.rewards, [1, 0.8 * SIGMOID_1, 0.8 * (1 - SIGMOID_1)])
    assert [e.nearest_center for e in group.episodes] == [0, 0, 0]
    assert [e.length for e in group.episodes] == [3, 3, 5]
    assert [e.env_return for e in group.episodes] == [1, 0, 0]


# --- Options, masks, abandoned episodes ---


def options_of(mask, task_id, init_state_id):
    return {
        "reset_mask": np.array(mask),
        "task_id": np.array(task_id),
        "init_state_id": np.array(init_state_id),
    }


def test_reset_passes_options_on_without_changing_them(vector):
    envs = wrap(make_corridor(3, vector=vector, mode=AutoresetMode.DISABLED), group_size=1)
    envs.reset(seed=0, options={"task_id": np.array([7, 8, 9]), "init_state_id": 1})
    list(drive(envs, [[GIVE_UP, STAY, GIVE_UP]]))
    options = options_of([True, False, True], [5, 5, 6], [3, 3, 4])
    _, infos = envs.reset(options=options)
    assert infos["episode_id"].tolist() == [3, 1, 4]
    assert list(options) == ["reset_mask", "task_id", "init_state_id"]
    assert options["reset_mask"].tolist() == [True, False, True]
    list(drive(envs, [[GIVE_UP, GIVE_UP, GIVE_UP]]))
    groups = {group.episodes[0].episode_id: (group.key, group.task) for group in envs.pop_groups()}
    assert groups == {
        0: ((7, 1), 7),
        1: ((8, 1), 8),
        2: ((9, 1), 9),
        3: ((5, 3), 5),
        4: ((6, 4), 6),
    }
    envs.close()


def test_environment_that_awaits_its_reset_has_no_episode_id():
    class Patient(gymnasium.vector.VectorEnv):
        """Steps ended slots as well, as simulators without Gymnasium's assertion do."""

        metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012
        num_envs = 2
        single_observation_space = Corridor().observation_space

        def reset(self, *, seed=None, options=None):
            return np.zeros((2, 4, 4, 3), np.uint8), {}

        def step(self, actions):
            dones = np.array([True, False])
            infos = {"is_success": np.array([True, False])}
            return (
                np.zeros((2, 4, 4, 3), np.uint8),
                dones.astype(float),
                dones,
                ~dones & dones,
                infos,
            )

    envs = wrap(Patient(), group_size=1)
    envs.reset()
    ids = [envs.step(None)[4]["episode_id"].tolist() for _ in range(3)]
    assert ids == [[0, 1], [-1, 1], [-1, 1]]
    assert ended_episodes(envs) == [(0, 0, 0, 0, True)]


def test_episode_that_is_reset_before_its_end_is_removed_from_its_group(mode):
    envs = wrap(make_corridor(2, mode=mode), group_size=2)
    envs.reset(seed=0)
    list(drive(envs, [[WALK, WALK]]))
    envs.reset(options={"reset_mask": np.array([False, True])})
    list(drive(envs, [[WALK, WALK], [WALK, GIVE_UP]]))
    (group,) = envs.pop_groups()
    assert [(e.episode_id, e.first_step, e.last_step) for e in group.episodes] == [
        (0, 0, 2),
        (2, 1, 2),
    ]


class Breaking(Corridor):
    """Its simulator fails in the second step of the first episode of slot 0."""

    def step(self, action):
        result = super().step(action)
        if (self.slot, self.num_resets, self.time) == (0, 1, 2):
            return result[0], 0.0, False, True, {"is_success": False, "worker_error": "report"}
        return result


def test_episode_with_a_worker_error_is_dropped(mode, vector):
    inner = vector([partial(Breaking, slot) for slot in range(2)], autoreset_mode=mode)
    envs = wrap(inner, group_size=2)
    envs.reset(seed=0)
    script = [[STAY, STAY]] * 2 + [[GIVE_UP, GIVE_UP]] * 2
    *_, infos = list(drive(envs, script))[1]
    assert infos["episode_id"].tolist() == [0, 1]
    groups = [[e.episode_id for e in group.episodes] for group in envs.pop_groups()]
    assert groups[0] == [1, 2]  # the next episode of slot 0 replaced it
    left = [e[0] for e in ended_episodes(envs)]
    assert all(0 not in ids for ids in [*groups, left])
    envs.close()


def test_reset_with_a_worker_error_is_repeated():
    class BrokenReset(SyncVectorEnv):
        """The first resetting step fails, as `LiberoVectorEnv` reports it."""

        failed = False

        def step(self, actions):
            resets = self._autoreset_envs.copy()
            observations, rewards, terminations, truncations, infos = super().step(actions)
            if resets.any() and not self.failed:
                self.failed = True
                truncations |= resets
                self._autoreset_envs |= resets
                infos.update(worker_error=np.array(["report"]), _worker_error=resets)
            return observations, rewards, terminations, truncations, infos

    envs = wrap(BrokenReset([Corridor]), group_size=1)
    envs.reset()
    ids = [result[4]["episode_id"][0] for result in drive(envs, [[GIVE_UP]] * 4)]
    assert ids == [0, -1, -1, 1]


def test_full_reset_drops_all_running_episodes():
    envs = wrap(make_corridor(2), group_size=2)
    envs.reset(seed=0)
    list(drive(envs, [[WALK, GIVE_UP]]))
    envs.reset(seed=0)
    list(drive(envs, [[GIVE_UP, GIVE_UP]]))
    assert ended_episodes(envs) == [(1, 1, 0, 0, False), (2, 0, 1, 1, False), (3, 1, 1, 1, False)]


def test_frames_are_copied_because_environments_reuse_arrays():
    encoder = ReadingEncoder()
    envs = wrap(make_corridor(1, vector=partial(SyncVectorEnv, copy=False)), encoder, group_size=1)
    envs.reset(seed=0)
    list(drive(envs, [[WALK]] * 3))
    np.testing.assert_array_equal(encoder.videos[0][:, 0], [0, 1, 2, 3])


def test_frames_can_be_rendered(vector):
    encoder = ReadingEncoder()
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED):
        inner = make_corridor(2, vector=vector, mode=mode, render=True)
        envs = wrap(inner, encoder, group_size=1, frames="render")
        envs.reset(seed=0)
        list(drive(envs, [[GIVE_UP, WALK]] * 3))
        envs.close()
    walked = [video[:, :2].tolist() for video in encoder.videos if len(video) == 4]
    assert walked == [[[0, 0], [1, 1], [2, 2], [3, 3]]] * 2


class InInfo(gymnasium.Wrapper):
    """Returns its image in the info only."""

    def __init__(self, slot):
        super().__init__(Corridor(slot))
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)

    def reset(self, **kwargs):
        image, info = self.env.reset(**kwargs)
        return np.zeros(1), {**info, "camera": {"front": image}}

    def step(self, action):
        image, *result, info = self.env.step(action)
        return np.zeros(1), *result, {**info, "camera": {"front": image}}


def test_frames_can_be_in_the_infos(vector, mode):
    inner = vector([partial(InInfo, slot) for slot in range(3)], autoreset_mode=mode)
    envs = wrap(inner, group_size=1, frames="info/camera/front")
    envs.reset(seed=0)
    list(drive(envs, SCRIPT))
    assert ended_episodes(envs) == TIMELINES[mode]
    videos = {tuple(map(tuple, video.tolist())) for video in envs.encoder.videos}
    walked = tuple((t, t, 0) for t in range(4))
    stayed = tuple((0, t, 1) for t in range(6))
    assert videos == {walked, stayed, ((0, 0, 2), (0, 1, 2))}
    envs.close()


def test_wrapper_works_around_wrappers_of_gymnasium():
    envs = wrap(RecordEpisodeStatistics(make_corridor(2)), group_size=2)
    envs.reset(seed=0)
    *_, infos = list(drive(envs, [[GIVE_UP, GIVE_UP]]))[-1]
    assert infos["episode"]["l"].tolist() == [1, 1]
    assert envs.get_attr("slot") == (0, 1)
    assert len(envs.pop_groups()) == 1


def test_wrapper_can_be_copied_and_pickled_if_the_environments_can():
    envs = wrap(make_corridor(2), group_size=2)
    envs.reset(seed=0)
    list(drive(envs, [[WALK, STAY]] * 2))
    for other in (copy.deepcopy(envs), pickle.loads(pickle.dumps(envs))):
        list(drive(other, [[WALK, GIVE_UP]]))
        assert len(other.pop_groups()) == 1
    assert envs.step_count == 2
    assert envs.pop_groups() == []


# --- The wider references ---


def task_corridor(**kwargs):
    envs = wrap(make_corridor(4, mode=AutoresetMode.DISABLED), group_size=2, **kwargs)
    options = {"task_id": np.array([1, 1, 1, 2]), "init_state_id": np.array([0, 0, 5, 0])}
    envs.reset(seed=0, options=options)
    return envs


def test_task_reference_scores_all_episodes_when_groups_are_closed():
    envs = task_corridor(reference="task")
    script = [[WALK, WALK, WALK, STAY]] * 2 + [[WALK, GIVE_UP, STAY, STAY]]
    list(drive(envs, script))
    assert envs.pop_groups() == []
    envs.close_groups()
    groups = {group.key: group for group in envs.pop_groups()}
    assert list(groups) == [(1, 0)]
    np.testing.assert_array_equal(groups[1, 0].rewards, [1.0, 0.4])


def test_task_reference_compares_with_successes_of_other_groups():
    envs = task_corridor(reference="task")
    # Slots 0 and 1 are one group, slot 2 another of the same task, slot 3 of another task.
    list(drive(envs, [[WALK, WALK, GIVE_UP, GIVE_UP]]))
    envs.reset(options=options_of([False, False, True, True], [1, 1, 1, 2], [0, 0, 5, 0]))
    list(drive(envs, [[WALK, WALK, WALK, STAY], [WALK, GIVE_UP, GIVE_UP, GIVE_UP]]))
    envs.close_groups()
    groups = {group.key: group for group in envs.pop_groups()}
    assert set(groups) == {(1, 0), (1, 5), (2, 0)}
    # The success is (3, 4 frames); the task's failures are (2, 4), (0, 2) and (1, 3), so 1,
    # sqrt(13) and sqrt(5) away, and share one mean and one deviation.
    distances = np.sqrt([1, 13, 5])
    z = (distances - distances.mean()) / distances.std()
    expected = 0.8 / (1 + np.exp(z))
    np.testing.assert_allclose(groups[1, 0].rewards, [1, expected[0]])
    np.testing.assert_allclose(groups[1, 5].rewards, expected[1:])
    assert groups[1, 5].shaped
    # Task 2 has no success at all.
    np.testing.assert_array_equal(groups[2, 0].rewards, [0, 0])


def test_memory_reference_pays_in_the_last_step(mode):
    envs = wrap(make_corridor(1, mode=mode, limit=4), group_size=8, reference="memory")
    envs.reset(seed=0)
    lost = [[STAY]] if mode is AutoresetMode.NEXT_STEP else []
    # Nothing to compare with yet.
    assert next(drive(envs, [[GIVE_UP]]))[1][0] == 0.0
    list(drive(envs, lost))
    if mode is AutoresetMode.DISABLED:
        envs.reset()
    assert [r[1][0] for r in drive(envs, [[WALK]] * 3 + lost)][:3] == [0, 0, 1]
    if mode is AutoresetMode.DISABLED:
        envs.reset()
    results = list(drive(envs, [[WALK], [WALK], [GIVE_UP]]))
    # (2, 4 frames) is 1 away from (3, 4), and the failure in memory, (0, 2), sqrt(13): z is -1.
    np.testing.assert_allclose([r[1][0] for r in results], [0, 0, 0.8 * SIGMOID_1])
    assert results[-1][4]["env_reward"][0] == 0.0
    envs.close_groups()
    (group,) = envs.pop_groups()
    np.testing.assert_allclose(group.rewards, [0, 1, 0.8 * SIGMOID_1])
    assert math.isnan(group.episodes[0].distance)


def test_memory_reference_compares_with_a_success_of_the_same_step():
    envs = wrap(make_corridor(2), reference="memory", group_size=2)
    envs.reset(seed=0)
    for actions in ([STAY, WALK], [STAY, WALK], [GIVE_UP, WALK]):
        rewards = envs.step(np.array(actions))[1]
    assert rewards.tolist() == [0.4, 1.0]


# --- Rollout buffers ---


def test_episode_that_began_in_an_earlier_rollout_is_paid_where_it_ends():
    envs = wrap(make_corridor(2, mode=AutoresetMode.SAME_STEP), group_size=2)
    envs.reset(seed=0)
    first = np.array([r[1] for r in drive(envs, [[WALK, STAY]] * 3)])
    assert envs.rewrite(first) == 0  # its other episode is still running
    np.testing.assert_array_equal(first, [[0, 0], [0, 0], [1, 0]])
    second = np.array([r[1] for r in drive(envs, [[WALK, STAY]] * 3)])
    # The other episode of that group and the next episode of slot 0 are one group now.
    assert envs.rewrite(second, first_step=3) == 1
    np.testing.assert_array_equal(second, [[0, 0], [0, 0.4], [1, 0]])


def test_second_rewrite_changes_nothing_even_after_pop_groups():
    envs = wrap(make_corridor(2, mode=AutoresetMode.SAME_STEP), group_size=2)
    envs.reset(seed=0)
    buffer = np.array([r[1] for r in drive(envs, [[WALK, STAY]] * 5)])
    assert len(envs.pop_groups()) == 1
    envs.rewrite(buffer)
    once = buffer.copy()
    assert envs.rewrite(buffer) == 1
    np.testing.assert_array_equal(buffer, once)


def test_a_repeated_rewrite_keeps_the_groups_that_the_first_one_closed():
    envs = wrap(make_corridor(2), group_size=3)
    envs.reset(seed=0)
    rewards = np.array([result[1] for result in drive(envs, [[WALK, GIVE_UP], [WALK, STAY]])])
    with pytest.raises(ValueError, match="must hold the reward"):
        envs.rewrite(rewards + 0.5)
    envs.rewrite(rewards)
    envs.rewrite(rewards)
    assert [len(group.episodes) for group in envs.pop_groups()] == [1]


def test_rewrite_drops_the_groups_of_the_previous_rollout():
    envs = wrap(make_corridor(2, mode=AutoresetMode.SAME_STEP), group_size=2)
    envs.reset(seed=0)
    for _ in range(5):
        buffer = np.array([r[1] for r in drive(envs, [[GIVE_UP, GIVE_UP]] * 3)])
        envs.rewrite(buffer)
        assert envs.num_closed_groups == 3
    assert [group.episodes[0].first_step for group in envs.pop_groups()] == [12, 13, 14]


@pytest.mark.parametrize(
    ("buffer", "first_step", "message"),
    [
        (np.zeros((2, 3)), None, r"\(num_steps, 2\), got ndarray of shape \(2, 3\)"),
        (np.zeros(2), None, r"ndarray of shape \(2,\)"),
        (np.zeros((2, 2, 1)), None, r"\(2, 2, 1\); .* `rewards\[..., 0\]` works"),
        ([[0.0, 0.0]], None, "must be an array .* got list"),
        (None, None, "must be an array .* got NoneType"),
        (np.zeros((2, 2), int), None, "floating point"),
        (np.zeros((2, 2)), 2, "steps 2 to 3"),
        (np.zeros((4, 2)), None, "steps -1 to 2"),
    ],
)
def test_rewrite_raises_before_any_change_if_the_buffer_does_not_fit(buffer, first_step, message):
    envs = wrap(make_corridor(2), group_size=4)
    envs.reset(seed=0)
    list(drive(envs, [[GIVE_UP, STAY]] * 3))
    with pytest.raises(ValueError, match=message):
        envs.rewrite(buffer, first_step)
    assert envs.pop_groups() == []
