"""Demonstrations, behaviours and initial states from other people."""

from __future__ import annotations

import pickle
import zipfile

import numpy as np
import pytest

from tests.hostile.files import JSON_ATTACKS, Payload, failures_in_bounded_memory, was_executed
from tests.hostile.hdf5_files import (
    ACCEPTED,
    CAMERA,
    LENGTH,
    attacks,
    attribute,
    declared,
    external_link,
    of_demo,
    recording,
    references,
    replaced,
    video,
)

pytest.importorskip("libero", reason="LIBERO is not installed: pip install 'srpo-env[libero]'")

from srpo_env.libero.behaviour_files import (
    BehaviourEpisode,
    read_behaviours,
    read_videos,
    writing_behaviours,
)
from srpo_env.libero.demos import read_demos, recording_settings
from srpo_env.libero.suites import Task, get_task

ROWS = {"actions": 7, "states": 30, "obs/ee_pos": 3, "obs/ee_ori": 3, "obs/gripper_states": 2,
        "obs/joint_states": 7}  # fmt: skip


def write_demo(path, change=lambda file: None):
    with recording(path) as file:
        group = file["data/demo_0"]
        group["obs/eye_in_hand_rgb"] = np.zeros((LENGTH, 4, 4, 3), np.uint8)
        for name, size in ROWS.items():
            group[name] = np.zeros((LENGTH, size))
        change(file)
    return path


def numbers(shape, value=0.0):
    return lambda group, name: group.create_dataset(name, data=np.full(shape, value))


# The reader of demonstrations does not read the rewards.
DEMO_ATTACKS = {
    **{name: attack for name, attack in attacks("").items() if "rewards" not in name
       and "soft link" not in name and "external" not in name and "virtual" not in name},
    "actions that are not finite": of_demo("actions", numbers((LENGTH, 7), np.nan)),
    "actions of another size": of_demo("actions", numbers((LENGTH, 3))),
    "states without joints": of_demo("states", numbers((LENGTH, 3))),
    "states of one dimension": of_demo("states", numbers(LENGTH)),
    "references as states": of_demo("states", references),
    "joints that are not finite": of_demo("obs/joint_states", numbers((LENGTH, 7), np.inf)),
    "rows of terabytes": of_demo("states", declared((LENGTH, 2**40), (1, 2**16), "f8")),
    "number as task": attribute("bddl_file_name", 3),
    "dataset as observations": lambda file: replaced(file["data/demo_0"], "obs", video()),
}  # fmt: skip


@pytest.mark.parametrize("attack", list(DEMO_ATTACKS))
def test_hostile_demonstrations_are_refused(attack, tmp_path):
    file = write_demo(tmp_path / "walk_demo.hdf5", DEMO_ATTACKS[attack])
    with pytest.raises(ValueError, match=r"walk_demo\.hdf5"):
        list(read_demos(file))


@pytest.mark.parametrize("name", ["actions", "states", "obs/ee_pos", CAMERA])
def test_demonstrations_are_not_read_from_other_files(name, tmp_path):
    secret = write_demo(tmp_path / "secret.hdf5")
    file = write_demo(tmp_path / "walk_demo.hdf5", of_demo(name, external_link(secret)))
    with pytest.raises(ValueError, match="got a link to another"):
        list(read_demos(file))


@pytest.mark.parametrize("case", [name for name in ACCEPTED if "convention" in name])
def test_both_readers_turn_images_alike(case, tmp_path):
    from srpo_env.offline import read_libero

    def change(file):
        ACCEPTED[case](file)
        file[f"data/demo_0/{CAMERA}"][:, -1] = 255

    file = write_demo(tmp_path / "walk_demo.hdf5", change)
    (demo,), (episode,) = read_demos(file), read_libero(file)
    np.testing.assert_array_equal(demo.images["agentview"], episode.video)
    assert (episode.video[:, 0] == 255).all()


TEXTS = {name: text for name, text in JSON_ATTACKS.items() if isinstance(text, str)}


@pytest.mark.parametrize("text", [*TEXTS.values(), 3, "[1]", "null"], ids=[*TEXTS, "3", "[]", "0"])
def test_hostile_settings_of_a_recording_are_refused(text, tmp_path):
    file = tmp_path / "walk_demo.hdf5"
    if isinstance(text, str) and len(text) > 60_000:  # the limit of HDF5
        text = text[:60_000]
    write_demo(file, attribute("recording", text))
    with pytest.raises(ValueError, match=r"walk_demo\.hdf5"):
        recording_settings(file)


def of_episode(name, make):
    return lambda file: replaced(file["data/episode_0"], name, make)


def in_episode(name, value):
    return lambda file: file["data/episode_0"].attrs.__setitem__(name, value)


BEHAVIOUR_ATTACKS = {
    "no kind": lambda file: file["data/episode_0"].attrs.pop("kind"),
    "text as seed": in_episode("seed", "x"),
    "text as success": in_episode("success", "no"),
    "array as success": in_episode("success", [True, False]),
    "NaN as steps": in_episode("num_steps", np.nan),
    "infinite steps": in_episode("num_steps", np.inf),
    "fraction as seed": in_episode("seed", 0.5),
    "another name": lambda file: file["data"].move("episode_0", "episode_7"),
    "progress that is not finite": of_episode("progress", numbers(3, np.nan)),
    "progress of another length": of_episode("progress", numbers(9)),
    "progress of terabytes": of_episode("progress", declared((2**42,), (2**16,), "f8")),
    "images of terabytes": of_episode(CAMERA, declared((3, 2**20, 2**20, 3), (1, 64, 64, 3))),
    "images of floats": of_episode(CAMERA, video(dtype=np.float32)),
    "no images": of_episode(CAMERA, video((0, 4, 4, 3))),
    "references as images": of_episode(CAMERA, references),
    "link to images": of_episode(CAMERA, external_link("secret.hdf5")),
}


@pytest.mark.parametrize("attack", list(BEHAVIOUR_ATTACKS))
@pytest.mark.parametrize("read", [read_behaviours, read_videos])
def test_hostile_behaviours_are_refused(attack, read, tmp_path):
    import h5py

    file = tmp_path / "walk.hdf5"
    with writing_behaviours(file, {}) as add:
        frames = np.zeros((3, 4, 4, 3), np.uint8)
        add(BehaviourEpisode(0, 0, "success", 0, True, 3, frames, np.zeros(3)))
    with h5py.File(file, "r+") as content:
        BEHAVIOUR_ATTACKS[attack](content)
    with pytest.raises(ValueError, match=r"walk\.hdf5"):
        list(read(file))


# --- Initial states -------------------------------------------------------------------------------


class Giant:
    """An array that declares 64 GiB."""

    def __reduce__(self):
        return np.ndarray, ((2**33,), "f8")


class Call:
    """A call of a function that is in every pickled array, on other arguments."""

    def __reduce__(self):
        import _codecs

        return _codecs.encode, ("text", "idna")


def init_states_attacks(folder):
    good = pickle.dumps(np.zeros((2, 3)), protocol=2)
    return {
        "payload": pickle.dumps(Payload(folder), protocol=2),
        "payload in an array": pickle.dumps(np.array([[Payload(folder)]]), protocol=2),
        "payload after an array": good[:-1] + b"0cos\nsystem\n(X\x04\x00\x00\x00exittR.",
        "payload before an array": b"\x80\x02cos\nsystem\n(X\x04\x00\x00\x00exittR0" + good[2:],
        "giant": pickle.dumps(Giant(), protocol=2),
        "terabyte of bytes": b"\x80\x04\x8e" + (2**40).to_bytes(8, "little"),
        "table of gigabytes": b"\x80\x02]r\xff\xff\xff\x7f.",
        "frame of terabytes": b"\x80\x04\x95" + (2**40).to_bytes(8, "little") + b"N.",
        "another codec": pickle.dumps(Call(), protocol=2),
        "objects": pickle.dumps(np.array([[None]]), protocol=2),
        "text": pickle.dumps("text", protocol=2),
        "list": pickle.dumps([[0.0]], protocol=2),
        "three dimensions": pickle.dumps(np.zeros((1, 1, 1)), protocol=2),
        "not finite": pickle.dumps(np.array([[np.nan]]), protocol=2),
        "half precision": pickle.dumps(np.zeros((2, 3), np.float16), protocol=2),
        "other shape": good.replace(b"K\x02K\x03", b"K\x02K\x04"),
        "negative shape": good.replace(b"K\x02K\x03", b"J\xff\xff\xff\xffJ\xff\xff\xff\xff"),
        "truncated": good[:-20],
        "empty": b"",
    }


def init_states_of(content, file, compression=zipfile.ZIP_STORED, name="archive/data.pkl"):
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(name, content)
    return Task("libero_object", 0, "task", "", file, file).init_states


@pytest.mark.parametrize("attack", list(init_states_attacks(".")))
def test_hostile_initial_states_are_refused(attack, tmp_path):
    content = init_states_attacks(tmp_path)[attack]
    with pytest.raises(ValueError, match=r"a\.pruned_init must hold initial states"):
        init_states_of(content, tmp_path / "a.pruned_init")()
    assert not was_executed(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"{}", pickle.dumps(np.zeros((2, 2)))])
def test_other_files_are_no_initial_states(content, tmp_path):
    file = tmp_path / "a.pruned_init"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pruned_init must hold initial states"):
        Task("libero_object", 0, "task", "", file, file).init_states()


def test_memory_of_the_reader_of_initial_states_is_bounded(tmp_path):
    for name, content in init_states_attacks(tmp_path).items():
        init_states_of(content, tmp_path / f"{name}.init")
    init_states_of(bytes(2**28), tmp_path / "bomb.init", zipfile.ZIP_DEFLATED)
    assert not failures_in_bounded_memory(
        "from pathlib import Path\nfrom srpo_env.libero.suites import Task\n"
        f"files = list(Path({str(tmp_path)!r}).glob('*.init'))",
        "[(f.name, Task('libero_object', 0, 'task', '', f, f).init_states) for f in files]",
        limit=2**27,
    )


@pytest.mark.parametrize("order", ["C", "F"])
def test_plain_arrays_are_initial_states(order, tmp_path):
    states = np.arange(600.0).reshape(200, 3).copy(order=order)
    read = init_states_of(pickle.dumps(states, protocol=2), tmp_path / "a.pruned_init")
    np.testing.assert_array_equal(read(), states)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # numpy.core
def test_liberos_own_initial_states_are_read_to_the_bit():
    for suite, task_id in (("libero_goal", 2), ("libero_10", 9)):
        task = get_task(suite, task_id)
        with zipfile.ZipFile(task.init_states_file) as archive:
            expected = pickle.loads(archive.read("archive/data.pkl"))
        np.testing.assert_array_equal(task.init_states(), expected)
