"""States of the wrapper from other people: refused as a whole, or restored."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest

from tests.corridor import drive, make_corridor, wrap
from tests.hostile.files import JSON_ATTACKS, npz_attacks, was_executed


def new_wrapper():
    return wrap(make_corridor(2, limit=4), group_size=3, max_frames=3)


@pytest.fixture
def saved():
    envs = new_wrapper()
    envs.reset(seed=0)
    list(drive(envs, [[1, 0], [1, 2], [1, 1], [0, 1], [2, 1], [1, 1], [1, 1], [1, 0]]))
    return envs.state_dict()["srpo_env"]


def edited(state, change):
    """The state with a changed header, as somebody could write it."""
    with zipfile.ZipFile(io.BytesIO(state)) as file:
        arrays = {name.removesuffix(".npy"): np.load(io.BytesIO(file.read(name)))
                  for name in file.namelist()}  # fmt: skip
    header = json.loads(str(arrays["header"]))["dict"]
    change(header, arrays)
    stream = io.BytesIO()
    np.savez(stream, **{**arrays, "header": np.array(json.dumps({"dict": header}))})
    return stream.getvalue()


def first_open_episode(header):
    return header["scorer"]["dict"]["groups"][0]["dict"]["episodes"][0]["dict"]


def replace(name, value):
    return lambda header, arrays: header.__setitem__(name, value)


def in_episode(name, value):
    return lambda header, arrays: first_open_episode(header).__setitem__(name, value)


CHANGES = {
    "text as count": replace("step_count", "3"),
    "true as count": replace("step_count", True),
    "fraction as count": replace("next_episode_id", 0.5),
    "no episode so far": replace("next_episode_id", 0),
    "negative number of the next episode": replace("next_episode_id", -1),
    "fewer steps than episodes have": replace("step_count", 0),
    "negative steps": replace("step_count", -5),
    "a later rewrite": replace("last_rewrite", 10**6),
    "more rewritten groups than there are": replace("num_rewritten", 10**6),
    "no counter": lambda header, arrays: header.pop("num_rewritten"),
    "groups of nothing": replace("closed_groups", [None]),
    "settings of nothing": replace("settings", None),
    "list as key": replace("late_task", {"dict": {}}),
    "no scorer": lambda header, arrays: header.pop("scorer"),
    "other slot": in_episode("env_index", 7),
    "negative slot": in_episode("env_index", -1),
    "text as slot": in_episode("env_index", "0"),
    "no recorder": in_episode("recorder", None),
    "text as success": in_episode("success", "no"),
    "empty list as key": in_episode("key", []),
    "list as task": in_episode("task", [1, 2]),
    "array as key": in_episode("key", {"array": "array_0"}),
    "code as class": lambda header, arrays: header["scorer"].update({"class": "os.system"}),
    "another class": lambda header, arrays: header["scorer"].update({"class": "Group"}),
    "array without content": in_episode("video", {"array": "missing"}),
    "recorder without images": in_episode(
        "recorder", {"class": "FrameRecorder", "dict": {"max_frames": 1}}
    ),
    "running without images": lambda header, arrays: [
        episode["dict"]["recorder"]["dict"].update(kept=[])
        for group in header["scorer"]["dict"]["groups"] for episode in group["dict"]["episodes"]
    ],
    "running without a stride": lambda header, arrays: [
        episode["dict"]["recorder"]["dict"].update(stride=0)
        for group in header["scorer"]["dict"]["groups"] for episode in group["dict"]["episodes"]
    ],
    "images of floats": lambda header, arrays: arrays.update(
        {name: array.astype(float) for name, array in arrays.items() if array.dtype == np.uint8}
    ),
    "images of two sizes": lambda header, arrays: arrays.update(
        {name: array[: 1 + int(name[6:]) % 2] for name, array in arrays.items()
         if array.dtype == np.uint8}
    ),
    "unknown episode waits": lambda header, arrays: header["scorer"]["dict"]["waiting"].append(99),
    "rewards of other steps": in_episode("env_rewards", [0.0] * 99),
    "text as rewards": in_episode("env_rewards", "none"),
    "steps of other frames": in_episode("frame_steps", {"array": "array_0"}),
    "fewer rewards than ended episodes": lambda header, arrays: header["writer"]["dict"].update(
        num_steps={"array": "array_0"}
    ),
    "two episodes of one number": lambda header, arrays: [
        episode["dict"].update(episode_id=0)
        for group in header["scorer"]["dict"]["groups"] for episode in group["dict"]["episodes"]
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", list(CHANGES))
def test_edited_states_are_refused_and_change_nothing(saved, name):
    envs = new_wrapper()
    envs.reset(seed=0)
    before = envs.state_dict()
    with pytest.raises(ValueError, match=r"(?i)not a saved state"):
        envs.load_state_dict({"srpo_env": edited(saved, CHANGES[name])})
    assert envs.state_dict() == before


def test_a_state_that_is_stored_again_is_restored(saved):
    envs = new_wrapper()
    envs.load_state_dict({"srpo_env": edited(saved, lambda header, arrays: None)})
    assert envs.state_dict()["srpo_env"] == saved


@pytest.mark.parametrize("attack", list(npz_attacks(".")))
def test_hostile_archives_are_no_states(attack, tmp_path):
    with pytest.raises(ValueError, match="Not a saved state, or a damaged one"):
        new_wrapper().load_state_dict({"srpo_env": npz_attacks(tmp_path)[attack]()})
    assert not was_executed(tmp_path)


@pytest.mark.parametrize("name", [n for n, c in JSON_ATTACKS.items() if isinstance(c, str)])
def test_hostile_headers_are_no_states(name):
    stream = io.BytesIO()
    np.savez(stream, header=np.array(JSON_ATTACKS[name]))
    with pytest.raises(ValueError, match="Not a saved state, or a damaged one"):
        new_wrapper().load_state_dict({"srpo_env": stream.getvalue()})


@pytest.mark.parametrize("value", [None, 3, "text", [], {"a": 1}])
def test_other_values_are_no_states(value):
    with pytest.raises(ValueError, match="Not a saved state"):
        new_wrapper().load_state_dict({"srpo_env": value})
