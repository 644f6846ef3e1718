"""The wrapper over random timelines, with faults, against bookkeeping by hand.

A timeline is a list of operations: steps, masked resets, calls that fetch, close or rewrite, and
saved states that a new wrapper continues. The encoder, the distance and the keys raise errors now
and then; the call is repeated, and nothing may be lost or counted twice.
"""

from __future__ import annotations

from functools import partial

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import assume
from hypothesis import strategies as st

from srpo_env import ProgressReward, SelfReferentialProgressWrapper
from srpo_env.rewards.distances import distances_to_centers
from tests.fuzz.oracle import Ambiguous, Book
from tests.fuzz.running import fuzz

STAY, WALK, GIVE_UP, TOUCH, BREAK = range(5)
GOAL = 3
MAX_FRAMES = 3
WEIGHTS = {"paper": 0.8, "siirl": 0.6}


class Walk(gymnasium.Env):
    """Walks to a goal. TOUCH sets the success flag for one step only, BREAK breaks the simulator.

    The frame shows position, time and slot. Its info names the key of the episode.
    """

    observation_space = spaces.Box(0, 255, (4, 4, 3), np.uint8)
    action_space = spaces.Discrete(5)

    def __init__(self, slot, limit, keys):
        self.slot, self.limit, self.keys = slot, limit, keys
        self.num_resets = 0

    def image(self):
        return np.tile(np.array([self.position, self.time, self.slot], np.uint8), (4, 4, 1))

    def reset(self, *, seed=None, options=None):
        self.position = self.time = 0
        self.num_resets += 1
        return self.image(), {"number": key_of(self.slot, self.num_resets, self.keys)}

    def step(self, action):
        self.position += int(action == WALK)
        self.time += 1
        success = self.position == GOAL
        flag = success or action == TOUCH
        ended = success or action == GIVE_UP
        truncated = (self.time >= self.limit or action == BREAK) and not ended
        info = {"is_success": flag}
        if action == BREAK:
            info["worker_error"] = "broken"
        return self.image(), float(flag), ended, truncated, info


def key_of(slot, num_resets, keys):
    return keys[(slot * 5 + num_resets) % len(keys)]


class Faults:
    """Raises an error in some of its calls."""

    def __init__(self, schedule):
        self.schedule = list(schedule)

    def __call__(self):
        if self.schedule and self.schedule.pop(0):
            raise Fault


class Fault(Exception):
    pass


class Encoder:
    """Latent ``(last position, number of frames / 8)``."""

    latent_shape = (2,)

    def __init__(self, faults):
        self.faults = faults

    def encode(self, videos):
        self.faults()
        return np.array([[video[-1, 0, 0, 0], len(video) / 8] for video in videos], np.float32)


def repeat(function, attempts=None):
    """Calls a function until it raises no fault."""
    while True:
        if attempts is not None:
            attempts.append(0)
        try:
            return function()
        except Fault:
            continue


class Model:
    """The same timeline by hand: what episodes there are, and what they earn."""

    def __init__(self, run):
        self.run, self.num_envs = run, run["num_envs"]
        self.book = Book(
            run["group_size"], run["reference"], run["formula"], WEIGHTS[run["formula"]],
            run["memory_size"],
        )  # fmt: skip
        self.resets = [0] * self.num_envs
        self.records = [None] * self.num_envs
        self.position, self.time = [0] * self.num_envs, [0] * self.num_envs
        self.touched = [False] * self.num_envs
        self.waits = [False] * self.num_envs
        self.steps = 0
        self.ended = []

    def reset(self, mask, attempts=1):
        for slot in np.flatnonzero(mask).tolist():
            self.resets[slot] += attempts
            if self.records[slot] is not None:
                self.book.abandon(self.records[slot])
            self.begin(slot, self.steps)

    def begin(self, slot, first):
        self.position[slot] = self.time[slot] = 0
        self.touched[slot] = self.waits[slot] = False
        key = key_of(slot, self.resets[slot], self.run["keys"])
        self.records[slot] = self.book.start(slot, first, key)

    def step(self, actions):
        """Returns the rewards that the environments pay."""
        rewards, ended = [0.0] * self.num_envs, []
        for slot, action in enumerate(actions):
            if self.waits[slot]:
                self.resets[slot] += 1
                self.begin(slot, self.steps + 1)
                continue
            self.position[slot] += action == WALK
            self.time[slot] += 1
            won = self.position[slot] == GOAL
            rewards[slot] = float(won or action == TOUCH)
            self.touched[slot] |= action == TOUCH
            if not (won or action in (GIVE_UP, BREAK) or self.time[slot] >= self.run["limit"]):
                continue
            record, self.records[slot] = self.records[slot], None
            # A success in the step in which the simulator breaks is not seen.
            if action == BREAK and not won:
                self.book.abandon(record)
            else:
                record.last = self.steps
                once = self.touched[slot] and self.run["success"] == "once"
                record.success = won or action == TOUCH or once
                frames = min(self.time[slot] + 1, MAX_FRAMES)
                record.latent = [float(self.position[slot]), frames / 8]
                ended.append(record)
            if self.run["mode"] is AutoresetMode.SAME_STEP:
                self.resets[slot] += 1
                self.begin(slot, self.steps + 1)
            elif self.run["mode"] is AutoresetMode.NEXT_STEP:
                self.waits[slot] = True
        self.ended += ended
        self.book.after_step(ended)
        self.steps += 1
        if self.run["reference"] == "memory":
            for record in ended:
                rewards[record.slot] += 0.0 if record.success else record.reward
        return rewards


schedules = st.lists(st.booleans(), max_size=6)
operations = st.deferred(
    lambda: st.one_of(
        st.just(("step",)), st.just(("step",)), st.just(("step",)), st.just(("step",)),
        st.tuples(st.just("reset"), st.integers(0, 7)), st.just(("pop",)), st.just(("close",)),
        st.just(("rewrite",)), st.just(("save",)),
    )
)  # fmt: skip
runs = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(list(AutoresetMode)),
        "reference": st.sampled_from(["group", "task", "memory"]),
        "formula": st.sampled_from(["paper", "siirl"]),
        "success": st.sampled_from([None, "once"]),
        "num_envs": st.integers(1, 3),
        "group_size": st.integers(1, 4),
        "memory_size": st.integers(1, 4),
        "limit": st.integers(1, 6),
        "keys": st.lists(st.integers(0, 1), min_size=1, max_size=5),
        "faults": st.fixed_dictionaries(
            {"encoder": schedules, "distance": schedules, "key": schedules}
        ),
        "operations": st.lists(operations, min_size=1, max_size=30),
        "actions": st.lists(
            st.sampled_from([STAY, WALK, WALK, WALK, GIVE_UP, TOUCH, BREAK]),
            min_size=12, max_size=60,
        ),
    }
)  # fmt: skip


def make_wrapper(run, envs, faults):
    def distance(latents, centers):
        if not distance.is_ready:
            return distances_to_centers(latents, centers)
        faults["distance"]()
        return distances_to_centers(latents, centers)

    def key(info, env_index):
        faults["key"]()
        return info["number"]

    distance.is_ready = False
    wrapper = SelfReferentialProgressWrapper(
        envs, Encoder(faults["encoder"]), reward=ProgressReward(run["formula"], distance=distance),
        group_size=run["group_size"], reference=run["reference"], success=run["success"],
        memory_size=run["memory_size"], max_frames=MAX_FRAMES, group_key=key,
        task_key=lambda info, env_index: info["number"],
    )  # fmt: skip
    distance.is_ready = True
    return wrapper


@fuzz(60, 20_000, run=runs)
def test_wrapper_agrees_with_bookkeeping_by_hand(run):
    try:
        play(run)
    except Ambiguous:
        assume(False)


def play(run):
    mode, num_envs = run["mode"], run["num_envs"]
    if run["success"] is None:  # the environment pays each flag, and only "once" counts each
        run = {**run, "actions": [STAY if a == TOUCH else a for a in run["actions"]]}
    faults = {name: Faults(schedule) for name, schedule in run["faults"].items()}
    makers = [partial(Walk, slot, run["limit"], run["keys"]) for slot in range(num_envs)]
    envs = SyncVectorEnv(makers, autoreset_mode=mode)
    wrapper = make_wrapper(run, envs, faults)
    model = Model(run)
    attempts = []
    repeat(lambda: wrapper.reset(seed=0), attempts)
    model.reset(np.ones(num_envs, bool), len(attempts))
    actions = iter(run["actions"] * 10)
    popped, buffer = [], []
    num_checked = 0

    for operation, *arguments in run["operations"]:
        if operation == "step":
            waiting = np.array([record is None for record in model.records]) & ~np.array(
                model.waits
            )
            if mode is AutoresetMode.DISABLED and waiting.any():
                masked_reset(wrapper, model, waiting)
            chosen = [next(actions) for _ in range(num_envs)]
            ids = [-1 if r is None else r.number for r in model.records]
            expected = model.step(chosen)
            result = repeat(partial(wrapper.step, np.array(chosen)))
            np.testing.assert_allclose(result[1], expected, rtol=0, atol=1e-9)
            assert result[4]["episode_id"].tolist() == ids
            assert wrapper.step_count == model.steps
            buffer.append(np.array(result[1], np.float64))
        elif operation == "reset":
            mask = np.array([bool(arguments[0] >> slot & 1) for slot in range(num_envs)])
            if mask.any():
                masked_reset(wrapper, model, mask)
        elif operation == "pop":
            popped += wrapper.pop_groups()
        elif operation == "close":
            model.book.close()
            repeat(wrapper.close_groups)
        elif operation == "save":
            state = wrapper.state_dict()
            wrapper = make_wrapper(run, envs, faults)
            wrapper.load_state_dict(state)
            assert wrapper.state_dict() == state
        elif operation == "rewrite" and buffer:
            popped += wrapper.pop_groups()
            model.book.close()
            rewards = np.array(buffer)
            own = rewards.copy()
            repeat(partial(wrapper.rewrite, rewards))
            check_payment(own, rewards, model, num_checked)
            repeat(partial(wrapper.rewrite, rewards))
            check_payment(own, rewards, model, num_checked)
            num_checked, buffer = model.steps, []
        check_groups(popped, model, complete=False)
    model.book.close()
    repeat(wrapper.close_groups)
    popped += wrapper.pop_groups()
    check_groups(popped, model, complete=True)
    wrapper.close()


def masked_reset(wrapper, model, mask):
    attempts = []
    repeat(lambda: wrapper.reset(options={"reset_mask": mask.copy()}), attempts)
    model.reset(mask, len(attempts))


def check_payment(own, rewards, model, first_step):
    """Every failure that ended in the buffer is paid at its last step, and nothing else is."""
    expected = own.copy()
    if model.run["reference"] != "memory":
        for record in model.ended:
            if record.last >= first_step and not record.success:
                expected[record.last - first_step, record.slot] += record.reward
    np.testing.assert_allclose(rewards, expected, rtol=0, atol=1e-9)


def check_groups(groups, model, complete):
    expected = model.book.closed[: len(groups)]
    assert len(expected) == len(groups)
    assert not complete or len(model.book.closed) == len(groups)
    for group, records in zip(groups, expected, strict=True):
        found = [(e.episode_id, e.env_index, e.first_step, e.last_step, e.success)
                 for e in group.episodes]  # fmt: skip
        assert found == [(r.number, r.slot, r.first, r.last, r.success) for r in records]
        assert {record.key for record in records} == {group.key}
        weight = WEIGHTS[model.run["formula"]]
        for episode, record in zip(group.episodes, records, strict=True):
            assert abs(episode.progress_reward - record.reward) <= 1e-9
            assert np.isnan(episode.distance) == (record.distance is None)
            if record.distance is not None:
                assert abs(episode.distance - record.distance) <= 1e-9
            assert (episode.progress_reward == 1) == episode.success
            assert episode.success or 0 <= episode.progress_reward < weight
    if complete:
        numbers = [e.episode_id for group in groups for e in group.episodes]
        assert sorted(numbers) == sorted(record.number for record in model.ended)
