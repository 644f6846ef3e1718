"""HDF5 files of recorded episodes that were made to do harm."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install 'srpo-env[encoders]'")

CAMERA = "obs/agentview_rgb"
LENGTH = 4


@contextmanager
def recording(path):
    """Opens a new file with one valid episode in LIBERO's layout, to be changed in the block."""
    with h5py.File(path, "w") as file:
        group = file.create_group("data").create_group("demo_0")
        group[CAMERA] = np.zeros((LENGTH, 4, 4, 3), np.uint8)
        group["rewards"] = np.eye(1, LENGTH, LENGTH - 1, dtype=np.uint8)[0]
        yield file


def replaced(group, name, make):
    del group[name]
    make(group, name)


def video(shape=(LENGTH, 4, 4, 3), dtype=np.uint8):
    return lambda group, name: group.create_dataset(name, data=np.zeros(shape, dtype))


def references(group, name):
    group.create_dataset(name, (LENGTH,), h5py.ref_dtype)[0] = group.ref


def region_references(group, name):
    group.create_dataset(name, (LENGTH,), h5py.regionref_dtype)


def declared(shape, chunks, dtype=np.uint8):
    """A chunked dataset without any data."""
    return lambda group, name: group.create_dataset(
        name, shape, dtype, chunks=chunks, compression="gzip"
    )


def external_link(target):
    def make(group, name):
        group[name] = h5py.ExternalLink(str(target), f"data/demo_0/{name}")

    return make


def soft_link(target):
    def make(group, name):
        group[name] = h5py.SoftLink(target)

    return make


def external_storage(target):
    return lambda group, name: group.create_dataset(
        name, (LENGTH, 4, 4, 3), np.uint8, external=[(str(target), 0, LENGTH * 48)]
    )


def virtual(target):
    def make(group, name):
        layout = h5py.VirtualLayout((LENGTH, 4, 4, 3), np.uint8)
        layout[...] = h5py.VirtualSource(str(target), f"data/demo_0/{name}", (LENGTH, 4, 4, 3))
        group.create_virtual_dataset(name, layout)

    return make


def of_demo(name, make):
    return lambda file: replaced(file["data/demo_0"], name, make)


def attribute(name, value):
    return lambda file: file["data"].attrs.__setitem__(name, value)


def attacks(secret):
    """Changes of a recording by name; ``secret`` is a file that must not be read."""
    return {
        "external link to the images": of_demo(CAMERA, external_link(secret)),
        "external link to the rewards": of_demo("rewards", external_link(secret)),
        "external link to the episode": lambda file: replaced(
            file["data"], "demo_0", lambda group, name: group.__setitem__(
                name, h5py.ExternalLink(str(secret), "data/demo_0"))),
        "external link to all": lambda file: replaced(
            file, "data", lambda group, name: group.__setitem__(
                name, h5py.ExternalLink(str(secret), "data"))),
        "soft link": of_demo("rewards", soft_link("/data/demo_0/obs")),
        "circle of soft links": of_demo("rewards", soft_link("/data/demo_0/rewards")),
        "broken soft link": of_demo(CAMERA, soft_link("/nothing")),
        "external storage": of_demo(CAMERA, external_storage(secret)),
        "virtual dataset": of_demo(CAMERA, virtual(secret)),
        "object references as images": of_demo(CAMERA, references),
        "object references as rewards": of_demo("rewards", references),
        "region references as rewards": of_demo("rewards", region_references),
        "text as rewards": of_demo("rewards", lambda g, n: g.create_dataset(n, data=["1"] * 4)),
        "structures as rewards": of_demo("rewards", lambda g, n: g.create_dataset(
            n, data=np.zeros(4, [("a", "u1")]))),
        "group as rewards": of_demo("rewards", lambda g, n: g.create_group(n)),
        "group as images": of_demo(CAMERA, lambda g, n: g.create_group(n)),
        "dataset as episode": lambda file: replaced(file["data"], "demo_0", video()),
        "dataset as data": lambda file: replaced(file, "data", video()),
        "single number as rewards": of_demo("rewards", lambda g, n: g.create_dataset(n, data=1)),
        "nothing as rewards": of_demo("rewards", lambda g, n: g.create_dataset(
            n, data=h5py.Empty("f4"))),
        "no rewards": of_demo("rewards", video((0,))),
        "NaN as rewards": of_demo("rewards", lambda g, n: g.create_dataset(
            n, data=np.full(4, np.nan))),
        "infinite rewards": of_demo("rewards", lambda g, n: g.create_dataset(
            n, data=np.full(4, np.inf))),
        "images of floats": of_demo(CAMERA, video(dtype=np.float32)),
        "grey images": of_demo(CAMERA, video((LENGTH, 4, 4))),
        "images with four channels": of_demo(CAMERA, video((LENGTH, 4, 4, 4))),
        "images without pixels": of_demo(CAMERA, video((LENGTH, 0, 4, 3))),
        "images of terabytes": of_demo(CAMERA, declared((4, 2**20, 2**20, 3), (1, 64, 64, 3))),
        "chunks of gigabytes": of_demo(
            CAMERA, declared((1, 2**15, 2**15, 3), (1, 2**15, 2**15, 2))),
        "rewards of terabytes": of_demo("rewards", declared((2**42,), (2**16,))),
        "another convention": attribute("macros_image_convention", "upside down"),
        "number as convention": attribute("macros_image_convention", 3),
        "several conventions": attribute("macros_image_convention", ["opengl", "opencv"]),
        "object reference as convention": lambda file: file["data"].attrs.create(
            "macros_image_convention", file["data"].ref, dtype=h5py.ref_dtype),
    }  # fmt: skip


ACCEPTED = {
    "convention as bytes": attribute("macros_image_convention", np.bytes_(b"opengl")),
    "convention as array": attribute("macros_image_convention", np.array([b"opengl"])),
    "convention in capitals": attribute("macros_image_convention", "OpenGL"),
    "convention as bytes in capitals": attribute("macros_image_convention", np.bytes_(b"OpenGL")),
    "hard link": lambda file: file["data"].__setitem__("demo_1", file["data/demo_0"]),
    "number of 64 bits": of_demo("rewards", lambda g, n: g.create_dataset(n, data=[0.0, 0, 0, 1])),
    "terabytes of which little is read": of_demo(
        CAMERA, declared((2**24, 128, 128, 3), (1, 128, 128, 3))
    ),
}
"""Changes of a recording by name; each is still valid"""
