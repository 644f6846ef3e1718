"""Success flags, keys and the info of one sub-environment."""

from __future__ import annotations

import numpy as np
import pytest

from srpo_env.types import as_key
from srpo_env.vector.infos import KeySource, info_of, success_of
from tests.corridor import make_corridor


def test_keys_must_be_callables():
    with pytest.raises(TypeError, match=r"`group_key` must be a callable .*, got 'task_id'"):
        KeySource(make_corridor(1), "task_id", None)
    with pytest.raises(TypeError, match="`task_key` must be a callable"):
        KeySource(make_corridor(1), None, 7)


# --- Success ---


@pytest.mark.parametrize("value", [True, np.bool_(True), 1, 1.0, np.float32(1), np.array([1])])
@pytest.mark.parametrize("name", ["is_success", "success"])
def test_success_flag_is_found_by_its_usual_names(name, value):
    assert success_of({name: value, "other": 3}, False, None) is True
    assert success_of({name: 0 * np.asarray(value)}, True, None) is False


def test_success_may_be_a_path_a_callable_or_the_termination():
    info = {"done": {"goal": True}, "height": 0.7}
    assert success_of(info, False, "done/goal") is True
    assert success_of(info, False, lambda info: info["height"] > 0.8) is False
    assert success_of(info, True, "terminated") is True
    assert success_of(info, False, "terminated") is False


@pytest.mark.parametrize(
    ("info", "success", "message"),
    [
        ({"reward_run": 1.0}, None, r"\['reward_run'\]; pass `success`"),
        ({"is_success": 0.7}, None, "0 or 1, got 0.7"),
        ({"is_success": np.array([True, False])}, None, "single bool"),
        ({"is_success": True, "success": False}, None, "disagree"),
        ({"is_success": True}, "solved", "'solved'"),
        ({}, lambda info: None, r"`success\(info\)`"),
    ],
)
def test_missing_or_invalid_success_flag_raises(info, success, message):
    with pytest.raises(ValueError, match=message):
        success_of(info, True, success)


# --- Infos and keys ---


def test_info_of_one_sub_environment_follows_the_masks():
    infos = {
        "task_id": np.array([3, 0]),
        "_task_id": np.array([True, False]),
        "episode": {"l": np.array([4, 5]), "_l": np.array([True, True])},
        "_episode": np.array([True, True]),
        "unmasked": [7, 8],
        "_private": [1, 2],
    }
    assert info_of(infos, 0, 2) == {"task_id": 3, "episode": {"l": 4}, "unmasked": 7, "_private": 1}
    assert info_of(infos, 1, 2) == {"episode": {"l": 5}, "unmasked": 8, "_private": 2}


@pytest.mark.parametrize(
    ("info", "key"),
    [
        ({"task_id": 3, "init_state_id": 7, "task": "pick"}, (3, 7)),
        ({"task": "pick up the soup", "is_success": False}, ("pick up the soup", None)),
        ({"task_id": 3}, (3, None)),
        ({"is_success": False, "task": {"not": "a name"}}, (None, None)),
    ],
)
def test_default_key_is_task_and_initial_state_of_the_reset_info(info, key):
    assert KeySource(make_corridor(1), None, None).at_start(info, 0) == (key, key[0])


def test_keys_are_plain_data():
    key = as_key((np.int64(3), np.str_("pick"), (np.array([2]), None)))
    assert key == (3, "pick", (2, None))
    assert [type(part) for part in key] == [int, str, tuple]
    with pytest.raises(TypeError, match="must be an int, float"):
        as_key({1, 2})
