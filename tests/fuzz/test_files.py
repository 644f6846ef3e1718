"""Readers of files on mutated and random bytes: what was written, or a documented error."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import strategies as st

from srpo_env.readers.arrays import read_npz, read_safetensors
from srpo_env.system.files import parse_json
from tests.corridor import drive, make_corridor, wrap
from tests.fuzz.running import fuzz

mutations = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0), st.integers(0, 255)),
        st.tuples(st.just("flip"), st.integers(0), st.integers(0, 7)),
        st.tuples(st.just("insert"), st.integers(0), st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("delete"), st.integers(0), st.integers(1, 64)),
        st.tuples(st.just("repeat"), st.integers(0), st.integers(1, 64)),
        st.tuples(st.just("cut"), st.integers(0), st.none()),
        st.tuples(st.just("number"), st.integers(0), st.sampled_from(
            [b"\xff" * 4, b"\xff" * 8, b"\0" * 8, b"\x7f" * 8, b"\0\0\0\x80"])),
    ),
    min_size=1, max_size=5,
)  # fmt: skip


def mutated(content, changes):
    content = bytearray(content)
    for kind, place, value in changes:
        place %= len(content) + 1
        if kind == "set" and place < len(content):
            content[place] = value
        elif kind == "flip" and place < len(content):
            content[place] ^= 1 << value
        elif kind == "insert":
            content[place:place] = value
        elif kind == "delete":
            del content[place : place + value]
        elif kind == "repeat":
            content[place:place] = content[place : place + value]
        elif kind == "cut":
            del content[place:]
        elif kind == "number":
            content[place : place + len(value)] = value
    return bytes(content)


def archive_of(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


ARCHIVE = archive_of(
    a=np.arange(12.0).reshape(3, 4), b=np.array("text"), c=np.zeros((0, 2), np.uint8)
)


@fuzz(80, 12_000, changes=mutations)
def test_mutated_archives_are_read_or_refused(changes):
    content = mutated(ARCHIVE, changes)
    try:
        arrays = read_npz(content)
    except ValueError:
        return
    assert sum(array.nbytes for array in arrays.values()) <= len(content)
    assert not any(array.dtype.hasobject for array in arrays.values())


def stored_again(content, name, changes):
    """An archive with one changed member and the right checksum, which an attacker can compute."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        for member in old.namelist():
            data = old.read(member)
            new.writestr(member, mutated(data, changes) if member == name else data)
    return stream.getvalue()


@fuzz(60, 8_000, changes=mutations, name=st.sampled_from(["a.npy", "b.npy", "c.npy"]))
def test_mutated_arrays_are_read_or_refused(changes, name):
    content = stored_again(ARCHIVE, name, changes)
    try:
        arrays = read_npz(content)
    except ValueError:
        return
    assert sum(array.nbytes for array in arrays.values()) <= len(content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)


@fuzz(60, 6_000, value=json_values, changes=st.one_of(st.just([]), mutations))
def test_json_is_read_to_the_bit_or_refused(value, changes):
    content = mutated(json.dumps(value).encode(), changes)
    try:
        parsed = parse_json(content, "text")
    except ValueError:
        assert changes
        return
    if not changes:
        np.testing.assert_equal(parsed, value)


# --- The wrapper's state --------------------------------------------------------------------------


def wrapper_of(reference="group", group_size=3):
    return wrap(
        make_corridor(2, mode=AutoresetMode.NEXT_STEP, limit=4),
        reference=reference, group_size=group_size, max_frames=3, memory_size=2,
    )  # fmt: skip


def state_of(reference):
    envs = wrapper_of(reference)
    envs.reset(seed=0)
    list(drive(envs, [[1, 0], [1, 2], [1, 1], [0, 1], [2, 1], [1, 1], [1, 0]]))
    return envs.state_dict()["srpo_env"]


STATES = {name: state_of(name) for name in ("group", "task", "memory")}


@fuzz(40, 4_000, reference=st.sampled_from(list(STATES)), changes=mutations)
def test_mutated_states_are_refused_or_equal(reference, changes):
    envs = wrapper_of(reference)
    before = envs.state_dict()
    try:
        envs.load_state_dict({"srpo_env": mutated(STATES[reference], changes)})
    except ValueError:
        assert envs.state_dict() == before  # nothing was restored in part


def places_in(tree, path=()):
    yield path
    items = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree if isinstance(tree, list) else ())
    )
    for name, value in items:
        yield from places_in(value, (*path, name))


def with_value(tree, path, value):
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[path[0]] = with_value(tree[path[0]], path[1:], value)
    return copy


HEADERS = {}
for _name, _state in STATES.items():
    with zipfile.ZipFile(io.BytesIO(_state)) as _file:
        HEADERS[_name] = json.loads(str(np.load(io.BytesIO(_file.read("header.npy")))))
replacements = st.one_of(
    json_values, st.sampled_from([-1, 0, 1, 2, 3, 10**12, 0.5, "", [], {}, float("nan")]),
    st.sampled_from([{"array": "array_0"}, {"array": "header"}, {"tuple": []}, {"dict": {}},
                     {"class": "Group", "dict": {}}, {"class": "os.system", "dict": {}}]),
)  # fmt: skip


@fuzz(
    80, 15_000, reference=st.sampled_from(list(STATES)), place=st.integers(0), value=replacements,
    actions=st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=2), max_size=12),
)  # fmt: skip
def test_edited_states_are_refused_or_the_wrapper_works(reference, place, value, actions):
    header = HEADERS[reference]
    places = list(places_in(header))
    edited = with_value(header, places[place % len(places)], value)
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(STATES[reference])) as old:
        arrays = {name: np.load(io.BytesIO(old.read(name))) for name in old.namelist()}
    arrays = {name.removesuffix(".npy"): array for name, array in arrays.items()}
    np.savez(stream, **{**arrays, "header": np.array(json.dumps(edited))})
    envs = wrapper_of(reference)
    envs.reset(seed=0)
    before = envs.state_dict()
    try:
        envs.load_state_dict({"srpo_env": stream.getvalue()})
    except ValueError:
        assert envs.state_dict() == before
        return
    try:
        list(drive(envs, actions))
        envs.close_groups()
        for group in envs.pop_groups():
            assert len(repr(group)) > 0
        envs.state_dict()
    except (ValueError, RuntimeError):
        pass  # the state of another environment


# --- Files ----------------------------------------------------------------------------------------


def with_file(content, name, read):
    """What a reader makes of a file's content."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(content)
        return read(file)


def safetensors_content():
    header = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
              "b": {"dtype": "I64", "shape": [1], "data_offsets": [24, 32]}}  # fmt: skip
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(32)


@fuzz(60, 6_000, changes=mutations)
def test_mutated_safetensors_are_read_or_refused(changes):
    pytest.importorskip("torch")
    content = mutated(safetensors_content(), changes)
    try:
        tensors = with_file(content, "model.safetensors", read_safetensors)
    except ValueError:
        return
    assert sum(tensor.nbytes for tensor in tensors.values()) <= len(content)


def policy_files():
    from tests.policy.fakes import make_policy

    with tempfile.TemporaryDirectory() as folder:
        make_policy().save(Path(folder) / "policy")
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


POLICY = {}


@fuzz(30, 2_000, changes=mutations, name=st.sampled_from(["policy.json", "policy.safetensors"]),
      with_checksum=st.booleans())  # fmt: skip
def test_mutated_policies_are_read_or_refused(changes, name, with_checksum):
    pytest.importorskip("torch")
    import hashlib

    from srpo_env.policy import load_policy

    POLICY.update(POLICY or policy_files())
    files = {**POLICY, name: mutated(POLICY[name], changes)}
    if with_checksum and name == "policy.safetensors":
        header = json.loads(files["policy.json"])
        header["sha256"] = hashlib.sha256(files[name]).hexdigest()
        files["policy.json"] = json.dumps(header).encode()
    with tempfile.TemporaryDirectory() as folder:
        for file, content in files.items():
            (Path(folder) / file).write_bytes(content)
        try:
            load_policy(Path(folder) / "policy")
        except (ValueError, FileNotFoundError) as error:
            assert "\n" not in str(error).strip() or "shape" in str(error)  # noqa: PT017


PUBLISHED = {}


@fuzz(30, 1_500, changes=mutations, name=st.sampled_from([
    "config.json", "dataset_statistics.json", "preprocessor_config.json", "tokenizer.json",
    "model.safetensors.index.json", "model-00001-of-00002.safetensors"]))  # fmt: skip
def test_mutated_published_policies_are_read_or_refused(changes, name):
    pytest.importorskip("peft")
    from srpo_env.policy.openvla_oft import OpenVLAOFT
    from tests.policy.published_openvla import write_published

    if not PUBLISHED:
        PUBLISHED["folder"] = tempfile.TemporaryDirectory(suffix="libero-object")
        write_published(Path(PUBLISHED["folder"].name))
        colours = json.dumps({key: [[0.5] * 3] * 2 for key in ("means", "stds")})
        (Path(PUBLISHED["folder"].name) / "preprocessor_config.json").write_text(colours)
    folder = Path(PUBLISHED["folder"].name)
    content = (folder / name).read_bytes()

    def write(content):
        # As a new file, because tensors of the last example may be mapped from the old one.
        (folder / "draft").write_bytes(content)
        (folder / "draft").replace(folder / name)

    # Not in the megabytes of weights, of which any value is valid.
    write(mutated(content[:20_000], changes) + content[20_000:])
    try:
        OpenVLAOFT.from_pretrained(folder, dtype="float32")
    except (ValueError, FileNotFoundError):
        pass
    finally:
        write(content)


def recording_content():
    from tests.hostile.hdf5_files import recording

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "walk_demo.hdf5"
        with recording(file) as content:
            # Of fixed length: texts of variable length are in HDF5's global heap, and its library
            # (2.0.0) never returns from reading a heap in which a size is 0.
            content["data"].attrs["macros_image_convention"] = np.bytes_(b"opengl")
        return file.read_bytes()


RECORDING = []


@fuzz(60, 6_000, changes=mutations)
def test_mutated_recordings_are_read_or_refused(changes):
    pytest.importorskip("h5py")
    from srpo_env.cli.recordings import read_source

    RECORDING.extend([] if RECORDING else [recording_content()])
    content = mutated(RECORDING[0], changes)
    try:
        episodes = with_file(content, "walk_demo.hdf5", lambda file: list(read_source(file)))
    except ValueError:
        return
    for episode in episodes:
        assert episode.video.dtype == np.uint8
        assert episode.video.ndim == 4
