"""Decimated models: the same physics, images that are alike, and little memory."""

from __future__ import annotations

import multiprocessing
import threading

import numpy as np
import pytest

from srpo_env.libero.cache import cache_folder, lock
from srpo_env.libero.decimation import Mesh, decimate
from srpo_env.libero.env import LiberoEnv
from srpo_env.libero.progress import Progress, ProgressBar
from srpo_env.libero.simulation import Simulation
from srpo_env.libero.suites import get_task
from srpo_env.libero.visuals import face_count

pytestmark = pytest.mark.libero


def test_a_task_reserves_little_more_memory_than_it_uses():
    env = LiberoEnv(image_size=32)
    env.reset(options={"task_id": 0, "init_state_id": 0})
    data = env.simulation.data
    assert data.narena == 64 * 2**20  # bytes; as LIBERO has it, twenty times that
    assert data.maxuse_arena < data.narena / 20
    env.close()


@pytest.fixture(scope="module")
def pair():
    """A task with exact and with fast visuals, and with the colour spaces of its files."""
    task = get_task("libero_object", 0)
    pair = tuple(Simulation(task, visuals=kind, look="mujoco") for kind in ("exact", "fast"))
    yield pair
    for simulation in pair:
        simulation.close()


def test_only_meshes_and_textures_differ_from_the_exact_model(pair):
    exact, fast = (simulation.model for simulation in pair)
    for name in dir(exact):
        value = getattr(exact, name)
        if isinstance(value, np.ndarray) and not name.startswith(("_", "mesh_", "tex_", "bvh_")):
            np.testing.assert_array_equal(getattr(fast, name), value, err_msg=name)
    # Read from the files of the textures. With another one, a texture is too bright.
    if hasattr(exact, "tex_colorspace"):  # since MuJoCo 3.3.3
        np.testing.assert_array_equal(fast.tex_colorspace, exact.tex_colorspace)
    assert face_count(fast) < max(2_000, 0.1 * face_count(exact))


def test_images_have_the_brightness_of_the_exact_ones(pair):
    for simulation in pair:
        simulation.reset(simulation.task.init_states()[0])
    for camera in ("agentview", "wrist"):
        exact, fast = (simulation.render(camera).astype(float) for simulation in pair)
        # In blocks of 16 x 16 pixels; in levels of 255.
        blocks = (fast - exact).reshape(8, 16, 8, 16, 3).mean(axis=(1, 3))
        assert np.abs(blocks).max() < 15, camera
        assert np.abs(fast.mean() - exact.mean()) < 1.5, camera


# --- Decimation ---------------------------------------------------------------------------------


def grid(width, height, num, z=0.0):
    """Returns points and faces of a flat rectangle of ``2 * num**2`` triangles."""
    x, y = np.meshgrid(np.linspace(0, width, num + 1), np.linspace(0, height, num + 1))
    points = np.stack([x, y, np.full_like(x, z)], axis=-1).reshape(-1, 3)
    ids = np.arange(len(points)).reshape(num + 1, num + 1)
    a, b, c, d = (part.ravel() for part in (ids[:-1, :-1], ids[:-1, 1:], ids[1:, 1:], ids[1:, :-1]))
    faces = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    return points, faces.astype(np.int64)


def mesh_of(*parts):
    offsets = np.cumsum([0, *(len(points) for points, _ in parts)])
    points = np.concatenate([points for points, _ in parts])
    faces = np.concatenate([f + offset for (_, f), offset in zip(parts, offsets, strict=False)])
    normals = np.broadcast_to([0.0, 0.0, 1.0], (len(faces), 3, 3)).copy()
    return Mesh(points, faces, normals, points[faces][..., :2])


def area(mesh):
    a, b, c = (mesh.corners[:, i] for i in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2


def test_a_flat_mesh_becomes_a_few_faces_with_the_same_area_and_texture():
    mesh = mesh_of(grid(1.0, 1.0, 20))
    fewer = decimate(mesh, tolerance=0.005)
    assert len(fewer.faces) < 100
    assert area(fewer) == pytest.approx(1.0, abs=0.03)
    np.testing.assert_allclose(fewer.texcoords, fewer.corners[..., :2], atol=0.03)
    np.testing.assert_allclose(fewer.normals, np.broadcast_to([0, 0, 1.0], fewer.normals.shape))


def test_a_large_part_of_few_faces_is_kept_beside_fine_parts():
    """A wall of two triangles beside an ornament of 3200: nearly all corners are the ornament's."""
    mesh = mesh_of(grid(0.1, 0.1, 40), grid(1.0, 1.0, 1, z=0.5))
    fewer = decimate(mesh, tolerance=0.005)
    assert len(fewer.faces) < len(mesh.faces)
    assert area(fewer) == pytest.approx(1.01, abs=0.05)


def test_a_mesh_of_few_faces_is_not_decimated():
    mesh = mesh_of(grid(1.0, 1.0, 4))
    assert decimate(mesh, tolerance=0.01) is mesh


# --- Several processes, progress ----------------------------------------------------------------


def try_lock(results):
    with lock(cache_folder() / "some-mesh.npz", wait=False) as is_locked:
        results.put(is_locked)


def test_a_lock_of_another_process_is_not_acquired():
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with lock(cache_folder() / "some-mesh.npz", wait=True):
        process = context.Process(target=try_lock, args=(results,))
        process.start()
        assert results.get(timeout=60) is False
        process.join()
    with lock(cache_folder() / "some-mesh.npz", wait=False) as is_locked:
        assert is_locked


def test_a_lock_is_waited_for():
    file = cache_folder() / "some-mesh.npz"
    order = []

    def second():
        with lock(file, wait=True):
            order.append("second")

    thread = threading.Thread(target=second)
    with lock(file, wait=True):
        thread.start()
        order.append("first")
    thread.join(timeout=60)
    assert order == ["first", "second"]


def test_progress_of_several_tasks_is_one_line(capsys):
    show = ProgressBar(delay=0.0)
    show(Progress("libero_object", 3, 1, 10))
    show(Progress("libero_object", 5, 2, 12))
    show(Progress("libero_object", 3, 10, 10))
    show(Progress("libero_object", 5, 12, 12))
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert lines[-1].startswith("preparing meshes of libero_object task 3, 5: 22/22 [")


def test_short_work_shows_no_progress(capsys):
    show = ProgressBar(delay=60.0)
    for num_ready in range(1, 6):
        show(Progress("libero_object", 3, num_ready, 5))
    assert capsys.readouterr().err == ""
