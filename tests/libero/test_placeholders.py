"""Placeholders for LIBERO's assets: LIBERO's physics and sizes, generated textures."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from srpo_env.libero import placeholders
from srpo_env.libero.placeholders.drawing import Panel, sheet, smooth_noise
from srpo_env.libero.placeholders.measurements import BOXES
from srpo_env.libero.placeholders.meshes import ellipse, rectangle, stack
from srpo_env.libero.placeholders.objects import LOOKS

NAMES = sorted(BOXES)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("placeholders")
    placeholders.generate(folder)
    return folder


def test_altered_placeholders_have_a_new_version(folder):
    """If this fails, increase VERSION, so that no earlier files of the cache folder are used."""
    xml = b"".join((folder / file).read_bytes() for file in placeholders.XML_FILES)
    lines = [line for file in folder.rglob("*.obj") for line in file.read_text().splitlines()]
    rows = [line.split()[1:] for line in lines if line.startswith("v")]
    numbers = np.abs([float(number) for row in rows for number in row])
    images = [np.array(Image.open(file).convert("RGB")) for file in folder.rglob("*.png")]
    pixels = np.concatenate([image.ravel() for image in images])
    figures = {
        "xml": hashlib.sha256(xml).hexdigest()[:8],
        "meshes": (len(numbers), round(numbers.sum(), 1)),
        "textures": (len(pixels), round(pixels.mean(), 1), round(pixels.std(), 1)),
    }
    assert (placeholders.VERSION, figures) == (
        1,
        {"xml": "331c9280", "meshes": (24628, 9724.8), "textures": (638976, 106.5, 59.5)},
    )


# --- Meshes -------------------------------------------------------------------------------------


def volume(mesh):
    """Computes the enclosed volume by the divergence theorem; positive for outward faces."""
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    return np.sum(a * np.cross(b, c)) / 6


def test_a_stack_of_rectangles_has_the_volume_of_the_box():
    mesh = stack(rectangle(0.0), [(-0.1, 0.2, 0.3), (0.1, 0.2, 0.3)], "z", 0.5)
    assert volume(mesh) == pytest.approx(0.4 * 0.6 * 0.2)


def test_a_stack_of_ellipses_approximates_the_volume_of_a_cone():
    mesh = stack(ellipse(400), [(0.0, 1.0, 2.0), (3.0, 1e-9, 1e-9)], "y", 0.5)
    assert volume(mesh) == pytest.approx(np.pi * 1.0 * 2.0 * 3.0 / 3, rel=1e-3)
    assert mesh.vertices[:, 1].max() == pytest.approx(3.0)


def test_the_first_cap_of_a_stack_is_drawn_from_the_left_half():
    mesh = stack(rectangle(0.0), [(0.0, 1.0, 1.0), (1.0, 1.0, 1.0)], "z", 0.75)
    heights = mesh.vertices[mesh.faces, 2]
    columns = mesh.texcoords[mesh.texfaces, 0]
    rows = mesh.texcoords[mesh.texfaces, 1]
    below, above = (heights == 0).all(axis=1), (heights == 1).all(axis=1)
    assert columns[below].max() < 0.5 < columns[above].min()
    assert rows[below | above].max() < 0.25  # the sides have the upper three quarters
    assert rows[~(below | above)].min() == 0.25


def test_normals_keep_edges_and_smooth_curves():
    box = stack(rectangle(0.1), [(0.0, 1.0, 1.0), (1.0, 1.0, 1.0)], "z", 0.5)
    normals = box.corner_normals()
    assert np.allclose(np.abs(normals[np.ptp(box.vertices[box.faces, 2], axis=1) == 0]), [0, 0, 1])
    can = stack(ellipse(24), [(0.0, 1.0, 1.0), (1.0, 1.0, 1.0)], "z", 0.5)
    side = np.ptp(can.vertices[can.faces, 2], axis=1) > 0
    corners, shading = can.vertices[can.faces[side]], can.corner_normals()[side]
    # On a round wall the normal points away from the axis, at every corner.
    cosines = (corners[..., :2] * shading[..., :2]).sum(axis=2)
    assert cosines.min() > np.cos(np.radians(8))  # half of the 15 degrees between two facets


@pytest.mark.parametrize("name", NAMES)
def test_meshes_are_closed_with_outward_normals(name):
    mesh = LOOKS[name].mesh()
    corners = mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    directed = Counter(map(tuple, corners.tolist()))
    assert max(directed.values()) == 1
    assert all((b, a) in directed for a, b in directed)
    assert volume(mesh) > 0
    faces = mesh.vertices[mesh.faces]
    flat = np.cross(faces[:, 1] - faces[:, 0], faces[:, 2] - faces[:, 0])
    assert np.einsum("fi,fci->fc", flat, mesh.corner_normals()).min() > 0


@pytest.mark.parametrize("name", NAMES)
def test_meshes_and_textures_are_small(name):
    assert len(LOOKS[name].mesh().faces) <= 500
    assert max(LOOKS[name].texture().size) <= 128


@pytest.mark.parametrize("name", NAMES)
def test_visual_meshes_cover_the_contact_boxes(name):
    """No contact box extends more than 3 mm beyond the visual mesh."""
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T
    corners = np.concatenate(
        [np.array(box[:3]) + (signs * box[7:]) @ rotation_of(box[3:7]).T for box in BOXES[name]]
    )
    vertices = LOOKS[name].mesh().vertices
    assert (corners.min(axis=0) > vertices.min(axis=0) - 3e-3).all()
    assert (corners.max(axis=0) < vertices.max(axis=0) + 3e-3).all()


def rotation_of(quaternion):
    w, x, y, z = np.array(quaternion) / np.linalg.norm(quaternion)
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * skew + 2 * skew @ skew


# --- Textures -----------------------------------------------------------------------------------


def test_no_two_objects_look_alike():
    textures = {name: np.asarray(LOOKS[name].texture(), float) for name in NAMES}
    for i, first in enumerate(NAMES):
        for second in NAMES[i + 1 :]:
            difference = np.abs(textures[first] - textures[second]).mean()
            assert difference > 15, (first, second)  # of 255 per pixel and channel


def test_a_sheet_has_sides_above_and_caps_below():
    image = np.asarray(sheet([Panel(8, 8, (9, 0, 0))], (0, 9, 0), (0, 0, 9), 0.75))
    assert image.shape == (128, 128, 3)
    assert (image[:96] == (9, 0, 0)).all()
    assert (image[96:, :64] == (0, 9, 0)).all()
    assert (image[96:, 64:] == (0, 0, 9)).all()


def test_a_word_fills_its_rectangle():
    image = np.asarray(
        Panel(100, 100, (0, 0, 0)).word("MILK", 0.5, 0.25, 0.6, 0.2, (200, 0, 0)).image()
    )
    rows, columns = np.nonzero(image[..., 0])
    # Its edges may blur by a pixel.
    np.testing.assert_allclose((rows.min(), rows.max()), (15, 34), atol=1)
    np.testing.assert_allclose((columns.min(), columns.max()), (20, 79), atol=1)


def test_noise_tiles_without_a_seam():
    noise = smooth_noise(np.random.default_rng(0), 8, 8)
    inside = np.abs(np.diff(noise, axis=0)).max()
    assert np.abs(noise[0] - noise[-1]).max() <= inside + 1e-12
    assert np.abs(noise).max() <= 1


# --- The folder ---------------------------------------------------------------------------------


def test_generation_is_reproducible_to_the_last_byte(folder, tmp_path):
    placeholders.generate(tmp_path)
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    assert len(files) == 3 * len(NAMES) + 1 + 2 + 1  # objects, scene, floor and wall, marker
    for file in files:
        assert (folder / file).read_bytes() == (tmp_path / file).read_bytes(), file


def test_a_folder_of_placeholders_is_recognised(folder, tmp_path):
    assert placeholders.is_generated(folder)
    assert not placeholders.is_generated(tmp_path)


# --- In the simulator ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def simulations(folder):
    """The tasks of libero_object on placeholders, compiled when a test first needs them."""
    from srpo_env.libero.simulation import Simulation
    from srpo_env.libero.suites import tasks_of

    compiled = {}

    def simulation(task_id):
        if task_id not in compiled:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("LIBERO_ASSETS", str(folder))
                compiled[task_id] = Simulation(tasks_of("libero_object")[task_id])
        return compiled[task_id]

    yield simulation
    for simulation in compiled.values():
        simulation.close()


def lowest_point(simulation, body):
    """Returns the height of the lowest corner of a body's contact boxes, in metres."""
    model, data = simulation.model, simulation.data
    boxes = np.flatnonzero((model.geom_bodyid == body) & (model.geom_group == 0))
    upright = data.geom_xmat[boxes].reshape(-1, 3, 3)[:, 2]
    reach = (np.abs(upright) * model.geom_size[boxes]).sum(axis=1)
    return (data.geom_xpos[boxes, 2] - reach).min()


@pytest.mark.libero
@pytest.mark.parametrize("task_id", range(10))
def test_the_stored_initial_states_are_valid(simulations, task_id):
    simulation = simulations(task_id)
    states = simulation.task.init_states()
    # Seven arm joints, two fingers, and for six groceries and the basket a pose of seven numbers.
    assert (simulation.model.nq, simulation.model.nv) == (7 + 2 + 7 * 7, 7 + 2 + 7 * 6)
    assert states.shape == (50, 1 + simulation.model.nq + simulation.model.nv)
    joints = [simulation.model.joint(i).name for i in range(simulation.model.njnt)]
    assert joints[:7] == [f"robot0_joint{i}" for i in range(1, 8)]
    assert joints[9:] == [f"{name}_joint0" for name in simulation.objects]
    for state in states:  # every object is in front of the robot and near the floor
        poses = state[1 + 9 : 1 + simulation.model.nq].reshape(-1, 7)
        assert np.abs(poses[:, :2]).max() < 0.5
        assert np.abs(poses[:, 2]).max() < 0.05
        np.testing.assert_allclose(np.linalg.norm(poses[:, 3:], axis=1), 1.0, atol=1e-6)


@pytest.mark.libero
@pytest.mark.parametrize("task_id", range(10))
def test_objects_come_to_rest_standing_on_the_floor(simulations, task_id):
    from srpo_env.libero.simulation import SETTLE_ACTION

    simulation = simulations(task_id)
    # In the stored states, some objects are some millimetres below or above the floor.
    simulation.reset(simulation.task.init_states()[task_id])
    data, bodies = simulation.data, list(simulation.objects.values())
    start, turned = data.xpos[bodies].copy(), data.xmat[bodies].copy()
    for _ in range(10):
        simulation.step(SETTLE_ACTION)
    settled = data.xpos[bodies].copy()
    for _ in range(40):
        simulation.step(SETTLE_ACTION)
    np.testing.assert_allclose(data.xpos[bodies], settled, atol=1e-4)
    np.testing.assert_allclose(data.xpos[bodies, :2], start[:, :2], atol=2e-3)
    np.testing.assert_allclose(data.xmat[bodies], turned, atol=0.01)  # nothing tips over
    heights = [lowest_point(simulation, body) for body in bodies]
    np.testing.assert_allclose(heights, 0.0, atol=1e-4)


@pytest.mark.libero
def test_a_box_weighs_its_volume_times_the_density(simulations):
    simulation = simulations(0)
    butter = simulation.objects["butter_1"]
    expected = 2 * 0.00871 * 2 * 0.01977 * 2 * 0.03809 * 100.0  # one box of 100 kg/m^3
    assert simulation.model.body_mass[butter] == pytest.approx(expected)


@pytest.mark.libero
def test_an_object_in_the_basket_is_a_success(simulations):
    simulation = simulations(0)
    simulation.reset(simulation.task.init_states()[0])
    assert not simulation.is_success()
    bodies, data = simulation.objects, simulation.data
    soup = simulation.model.joint("alphabet_soup_1_joint0").qposadr[0]
    data.qpos[soup : soup + 3] = data.xpos[bodies["basket_1"]] + [0, 0, 0.10]
    simulation.step(np.array([0, 0, 0, 0, 0, 0, -1.0]))
    assert simulation.is_success()


@pytest.mark.libero
@pytest.mark.parametrize("task_id", range(10))
def test_every_object_of_a_task_is_visible(simulations, task_id):
    """The image changes without the object."""
    simulation = simulations(task_id)
    simulation.reset(simulation.task.init_states()[0])
    for _ in range(10):
        simulation.step(np.array([0, 0, 0, 0, 0, 0, -1.0]))
    data = simulation.data
    settled = np.concatenate([[data.time], data.qpos, data.qvel])
    simulation.reset(settled)
    before = simulation.render("agentview").astype(int)
    for name, body in simulation.objects.items():
        height = 1 + simulation.model.joint(f"{name}_joint0").qposadr[0] + 2
        simulation.reset(np.where(np.arange(len(settled)) == height, -5.0, settled))  # underground
        changed = np.abs(simulation.render("agentview") - before).max(axis=2) > 12
        assert changed.sum() >= 20, (name, body)  # pixels of 128 x 128


# --- Comparison with LIBERO's own ---------------------------------------------------------------


def compiled_object(file):
    import mujoco

    spec = mujoco.MjSpec.from_file(str(file))
    spec.compiler.inertiagrouprange = (0, 0)  # as robosuite compiles it
    return spec.compile()


@pytest.mark.libero
@pytest.mark.parametrize("name", NAMES)
def test_contact_boxes_masses_and_sites_are_liberos(folder, libero_assets, name):
    file = placeholders.OBJECT_FILES[name]
    ours, theirs = compiled_object(folder / file), compiled_object(libero_assets / file)
    boxes, their_boxes = ours.geom_group == 0, theirs.geom_group == 0
    for field in ("size", "pos", "quat", "friction", "solref", "solimp", "contype", "conaffinity"):
        values = getattr(ours, f"geom_{field}")[boxes]
        np.testing.assert_array_equal(values, getattr(theirs, f"geom_{field}")[their_boxes], field)
    assert not ours.geom_contype[~boxes].any()  # visual geoms have no contacts
    for field in ("body_mass", "body_inertia", "body_ipos", "site_pos", "site_quat", "site_size"):
        np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field), field)


@pytest.mark.libero
@pytest.mark.parametrize("name", NAMES)
def test_outer_sizes_are_liberos(folder, libero_assets, name):
    """Visual meshes have the original size, within 4 mm on every side."""
    file = placeholders.OBJECT_FILES[name]
    extents = []
    for root in (folder, libero_assets):
        model = compiled_object(root / file)
        (geom,) = np.flatnonzero(model.geom_group == 1)
        vertices = model.mesh_vert @ rotation_of(model.geom_quat[geom]).T + model.geom_pos[geom]
        extents.append((vertices.min(axis=0), vertices.max(axis=0)))
    np.testing.assert_allclose(*extents, atol=4e-3)


@pytest.mark.libero
@pytest.mark.parametrize("task_id", [0, 9])  # together they have all groceries
def test_the_same_actions_lead_to_the_same_states_as_on_liberos_assets(
    simulations, libero_assets, monkeypatch, task_id
):
    from srpo_env.libero.simulation import Simulation

    ours = simulations(task_id)
    monkeypatch.setenv("LIBERO_ASSETS", str(libero_assets))
    theirs = Simulation(ours.task)
    actions = np.random.default_rng(task_id).uniform(-1, 1, (60, 7))
    actions[:, 2] -= 0.4  # down, where the objects are
    start = ours.task.init_states()[0]
    for simulation in (ours, theirs):
        simulation.reset(start)
    for action in np.clip(actions, -1, 1):
        ours.step(action)
        theirs.step(action)
        np.testing.assert_array_equal(ours.data.qpos, theirs.data.qpos)
    assert np.abs(ours.data.qpos[:7] - start[1:8]).max() > 0.1  # the arm did move
