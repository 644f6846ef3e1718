"""`rewrite` on any buffer: paid to the cell, or refused and left as it was."""

from __future__ import annotations

import numpy as np
from gymnasium.vector import AutoresetMode
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.corridor import drive, make_corridor, wrap
from tests.fuzz.running import fuzz

NUM_ENVS = 2

scripts = st.lists(
    st.lists(st.sampled_from([0, 1, 1, 2]), min_size=NUM_ENVS, max_size=NUM_ENVS),
    min_size=1, max_size=16,
)  # fmt: skip


def played(script, mode, group_size):
    envs = wrap(make_corridor(NUM_ENVS, mode=mode, limit=4), group_size=group_size)
    envs.reset(seed=0)
    rewards = np.array([result[1] for result in drive(envs, script)], np.float64)
    return envs, rewards


def expected_of(groups, rewards, first_step=0):
    """The buffer with each compared failure's progress reward at its last step."""
    expected = rewards.copy()
    for episode in (episode for group in groups for episode in group.episodes):
        row = episode.last_step - first_step
        if not episode.success and not np.isnan(episode.distance) and 0 <= row < len(expected):
            expected[row, episode.env_index] += episode.progress_reward
    return expected


layouts = st.sampled_from(
    ["plain", "float32", "float16", "longdouble", "fortran", "transposed", "last of three axes",
     "every other row", "reversed twice", "torch", "torch half", "torch bfloat16", "torch view"]
)  # fmt: skip


def laid_out(rewards, layout):
    """The same rewards as an array or tensor of another layout, and its tolerance."""
    if layout.startswith("torch"):
        import torch

        dtype = {"torch half": torch.float16, "torch bfloat16": torch.bfloat16}.get(
            layout, torch.float64
        )
        tensor = torch.tensor(rewards, dtype=dtype)
        if layout == "torch view":
            return torch.stack([tensor, tensor], dim=2)[..., 1], 1e-12
        return tensor, {torch.float16: 2e-3, torch.bfloat16: 1e-2}.get(dtype, 1e-12)
    views = {
        "fortran": lambda: np.asfortranarray(rewards),
        "transposed": lambda: np.ascontiguousarray(rewards.T).T,
        "last of three axes": lambda: np.stack([rewards, rewards], axis=2)[..., 1],
        "every other row": lambda: np.repeat(rewards, 2, axis=0)[::2],
        "reversed twice": lambda: rewards[::-1].copy()[::-1],
    }
    if layout in views:
        return views[layout](), 1e-12
    dtype = {"plain": np.float64}.get(layout) or getattr(np, layout)
    return rewards.astype(dtype), {np.float32: 1e-6, np.float16: 2e-3}.get(dtype, 1e-12)


def as_floats(buffer):
    """A copy as a NumPy array of float64."""
    if hasattr(buffer, "double"):
        buffer = buffer.double().numpy()
    return np.array(buffer, np.float64)


@fuzz(
    40, 6_000, script=scripts, mode=st.sampled_from(list(AutoresetMode)), layout=layouts,
    group_size=st.integers(1, 4),
)  # fmt: skip
def test_buffers_of_any_layout_are_paid_in_place(script, mode, layout, group_size):
    envs, rewards = played(script, mode, group_size)
    buffer, tolerance = laid_out(rewards, layout)
    num_paid = envs.rewrite(buffer)
    groups = envs.pop_groups()
    expected = expected_of(groups, rewards)
    as_numpy = as_floats(buffer)
    np.testing.assert_allclose(as_numpy, expected, rtol=0, atol=tolerance)
    assert num_paid == (expected != rewards).sum()
    assert envs.rewrite(buffer) == num_paid
    np.testing.assert_array_equal(as_floats(buffer), as_numpy)


any_buffers = st.one_of(
    arrays.arrays(
        st.one_of(arrays.scalar_dtypes(), st.sampled_from([np.dtype(object), np.dtype("f8")])),
        arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    ),
    st.lists(st.lists(st.floats(), max_size=2), max_size=3),
    st.none(), st.text(max_size=2), st.floats(),
)  # fmt: skip
first_steps = st.one_of(st.none(), st.integers(-3, 20))


@fuzz(60, 8_000, script=scripts, buffer=any_buffers, first_step=first_steps)
def test_any_other_buffer_is_refused_and_left_as_it_was(script, buffer, first_step):
    envs, rewards = played(script, AutoresetMode.NEXT_STEP, 2)
    before = buffer.copy() if isinstance(buffer, np.ndarray) else buffer
    try:
        envs.rewrite(buffer, first_step)
    except (ValueError, TypeError):
        assert repr(buffer) == repr(before)  # NaN is not equal to itself
    own = rewards.copy()
    envs.rewrite(rewards)  # what was refused has lost nothing
    np.testing.assert_array_equal(rewards, expected_of(envs.pop_groups(), own))


@fuzz(40, 6_000, script=scripts, data=st.data())
def test_a_changed_cell_is_found_or_does_not_matter(script, data):
    envs, rewards = played(script, AutoresetMode.NEXT_STEP, 2)
    own = rewards.copy()
    row = data.draw(st.integers(0, len(script) - 1))
    slot = data.draw(st.integers(0, NUM_ENVS - 1))
    changed = rewards.copy()
    value = data.draw(st.one_of(st.floats(), st.sampled_from([0.0, 1.0, 0.5])))
    assume(not 0 < abs(value - own[row, slot]) < 1e-9)  # within the tolerance, or near to it
    changed[row, slot] = value
    before = changed.copy()
    try:
        envs.rewrite(changed)
    except ValueError as error:
        message = str(error)
        np.testing.assert_array_equal(changed, before)
    else:
        message = ""
    envs.rewrite(rewards)
    groups = envs.pop_groups()
    expected = expected_of(groups, own)
    np.testing.assert_array_equal(rewards, expected)
    ends = {(e.last_step, e.env_index) for group in groups for e in group.episodes}
    if (row, slot) in ends:
        is_right = np.isclose(before[row, slot], [own[row, slot], expected[row, slot]], atol=1e-9)
        assert bool(message) == (not is_right.any())
    else:
        assert not message  # it is not this wrapper's to judge


@fuzz(40, 6_000, script=scripts, data=st.data())
def test_windows_of_any_length_pay_each_failure_once(script, data):
    """Rewrites with `first_step`, in the order of the steps and with gaps."""
    envs, rewards = played(script, AutoresetMode.NEXT_STEP, 2)
    own, first = rewards.copy(), 0
    cuts = sorted(data.draw(st.sets(st.integers(1, len(script)), max_size=4)) | {len(script)})
    groups = []
    for cut in cuts:
        window = rewards[first:cut]
        envs.rewrite(window, first)
        groups += envs.pop_groups()
        first = cut
    np.testing.assert_array_equal(rewards, expected_of(groups, own))
