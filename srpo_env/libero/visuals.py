"""Models that look like LIBERO's and cost a tenth to draw: ``visuals="fast"``.

Of a scene's 250,000 faces nearly all lie closer together than the pixels of a policy's camera. Here
visual meshes are decimated, large textures shrunk and pixels sampled once. Everything else, from
masses to contact geometry, is copied from the exact model: the physics is equal to the last bit.

A thin model is made once and kept in the cache folder, as MuJoCo's own binary format (data, not
code), under a name made from all that it depends on; loading it takes a fifth of the time that
compiling the exact one takes.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.metadata
import logging
import multiprocessing
import re
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from srpo_env.libero.cache import cache_folder, write_file
from srpo_env.libero.decimation import NO_DECIMATOR, Mesh, thin_mesh
from srpo_env.libero.gl import choose_gl, has_gpu

choose_gl()  # before the first import of MuJoCo

import mujoco  # noqa: E402

logger = logging.getLogger(__name__)

Visuals = Literal["exact", "fast"]

MAX_TEXTURE_SIZE, MAX_CUBE_SIZE = 512, 256
"""pixels on a side of a texture, and of each face of one that is wrapped around a scene or a box"""

NEAR_TOLERANCE, FAR_TOLERANCE = (0.005, 0.0005), (0.01, 0.003)
"""how far a thin mesh may lie from the exact one: in parts of its size, but at least in metres.
The second is for the arm and its mount, which no camera of LIBERO's comes close to."""

VERSION = 6
"""counts changes of this file or of decimation.py that alter the thin models"""

# Fields of a model that describe meshes and textures alone. The trees (bvh) that find collisions
# begin with the bodies', which are compared below; the meshes' own serve only ray casts.
_VISUAL_FIELDS = re.compile(r"(mesh|tex|bvh|oct)_")


def check_visuals(visuals: str | None) -> Visuals:
    """Returns ``visuals``, for None the kind that suits this machine.

    Raises:
        ValueError: If it is neither ``"exact"`` nor ``"fast"``.
    """
    if visuals is None:
        return _default_visuals()
    if visuals not in get_args(Visuals):
        raise ValueError(f"`visuals` must be 'exact' or 'fast', got {visuals!r}")
    return visuals  # type: ignore[return-value]


@functools.cache
def _default_visuals() -> Visuals:
    if choose_gl() == "egl" and has_gpu():
        return "exact"
    # Workers of a vector environment repeat what their parent has said, so they say it quietly.
    level = logging.INFO if multiprocessing.parent_process() else logging.WARNING
    logger.log(
        level,
        'No GPU renders here: images come from software, with visuals="fast" (decimated meshes, '
        'same physics). visuals="exact" gives LIBERO\'s images pixel for pixel, ten times slower.',
    )
    return "fast"


_ROBOSUITE_SIZE = '<size nconmax="5000" njmax="5000"'


def load_model(xml: str, visuals: Visuals) -> mujoco.MjModel:
    """Compiles a scene; with ``"fast"``, makes its thin model or loads it from the cache folder.

    Raises:
        ModuleNotFoundError: If ``"fast"`` is wanted and ``fast-simplification`` is not installed.
    """
    # robosuite asks for room for 5000 contacts: 1.3 GB of address space per task, of which 1 MB is
    # used. A process with many tasks could then not fork: the system refuses to promise so much.
    xml = xml.replace(_ROBOSUITE_SIZE, '<size memory="64M"')
    if visuals == "exact":
        return mujoco.MjModel.from_xml_string(xml)
    file = _folder("thin-models") / f"{_content_key(xml)}.mjb"
    if not file.is_file():
        logger.info("making a thin model, once: %s", file)
        write_file(file, lambda new: mujoco.mj_saveModel(thin_model(xml), str(new), None))
        _give_memory_back()
    model = mujoco.MjModel.from_binary_path(str(file))
    # Four samples per pixel double an image's cost in software, for edges that are smoother.
    model.vis.quality.offsamples = 0
    return model


def thin_model(xml: str) -> mujoco.MjModel:
    """The model of a scene with decimated visual meshes and smaller textures, all else as it was.

    Raises:
        ModuleNotFoundError: If ``fast-simplification`` is not installed.
    """
    exact = mujoco.MjModel.from_xml_string(xml)
    spec = mujoco.MjSpec.from_string(xml)
    for mesh_id in _visual_meshes(exact):
        _replace_mesh(spec.mesh(exact.mesh(mesh_id).name), _thin_mesh_of(exact, mesh_id))
    for texture_id in range(exact.ntex):
        _shrink_texture(spec.texture(exact.tex(texture_id).name), exact, texture_id)
    thin = spec.compile()
    _undo_mesh_frames(thin, exact)
    _copy_all_else(thin, exact)
    return thin


def face_count(model: mujoco.MjModel) -> int:
    """Mesh faces that a camera's image of the model is made of."""
    drawn = (model.geom_type == mujoco.mjtGeom.mjGEOM_MESH) & (model.geom_group == 1)
    return int(model.mesh_facenum[model.geom_dataid[drawn]].sum())


def _give_memory_back() -> None:
    # Compiling an exact model takes 0.5 GB, which MuJoCo's cache and glibc would keep.
    mujoco.mj_clearCache(mujoco.mj_getCache())
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


# --- Meshes -------------------------------------------------------------------------------------


def _visual_meshes(model: mujoco.MjModel) -> list[int]:
    """Meshes that no contact is computed with."""
    touched = set()
    for geom_id in range(model.ngeom):
        if (
            model.geom_type[geom_id] == mujoco.mjtGeom.mjGEOM_MESH
            and model.geom_group[geom_id] != 1
        ):
            touched.add(int(model.geom_dataid[geom_id]))
        elif model.geom_contype[geom_id] or model.geom_conaffinity[geom_id]:
            touched.add(int(model.geom_dataid[geom_id]))
    return [mesh_id for mesh_id in range(model.nmesh) if mesh_id not in touched]


def _thin_mesh_of(model: mujoco.MjModel, mesh_id: int) -> Mesh:
    points = model.mesh_vert[_span(model.mesh_vertadr, model.mesh_vertnum, mesh_id)].astype(
        np.float64
    )
    faces = _span(model.mesh_faceadr, model.mesh_facenum, mesh_id)
    normals = model.mesh_normal[model.mesh_normaladr[mesh_id] + model.mesh_facenormal[faces]]
    texcoords = None
    if _is_textured(model, mesh_id):
        texcoords = model.mesh_texcoord[
            model.mesh_texcoordadr[mesh_id] + model.mesh_facetexcoord[faces]
        ]
        texcoords = texcoords.astype(np.float64)
    mesh = Mesh(
        points, model.mesh_face[faces].astype(np.int64), normals.astype(np.float64), texcoords
    )
    relative, least = FAR_TOLERANCE if _is_far(model, mesh_id) else NEAR_TOLERANCE
    size = float(np.linalg.norm(np.ptp(points, axis=0)))
    return _cached_thin_mesh(mesh, max(relative * size, least))


def _is_far(model: mujoco.MjModel, mesh_id: int) -> bool:
    bodies = model.geom_bodyid[_uses(model, mesh_id)]
    return all(
        model.body(body).name.startswith(("robot0_link", "robot0_base", "mount0_"))
        for body in bodies
    )


def _uses(model: mujoco.MjModel, mesh_id: int) -> npt.NDArray[np.bool_]:
    """Which geoms have the mesh, shape ``(ngeom,)``."""
    uses: npt.NDArray[np.bool_] = (model.geom_type == mujoco.mjtGeom.mjGEOM_MESH) & (
        model.geom_dataid == mesh_id
    )
    return uses


def _cached_thin_mesh(mesh: Mesh, tolerance: float) -> Mesh:
    # Tasks share their robot and many of their objects.
    digest = hashlib.sha256(f"{_versions()} {tolerance}".encode())
    for array in (mesh.points, mesh.faces, mesh.normals, mesh.texcoords):
        digest.update(b"" if array is None else array.tobytes())
    file = _folder("thin-meshes") / f"{digest.hexdigest()[:32]}.npz"
    if not file.is_file():
        thin = thin_mesh(mesh, tolerance)
        arrays = {name: value for name, value in vars(thin).items() if value is not None}
        write_file(file, lambda new: np.savez(new, **arrays))
    with np.load(file, allow_pickle=False) as arrays:
        return Mesh(arrays["points"], arrays["faces"], arrays["normals"], arrays.get("texcoords"))


def _is_textured(model: mujoco.MjModel, mesh_id: int) -> bool:
    materials = model.geom_matid[_uses(model, mesh_id)]
    has_texture = (model.mat_texid[materials[materials >= 0]] >= 0).any()
    return bool(model.mesh_texcoordadr[mesh_id] >= 0 and has_texture)


def _replace_mesh(element: mujoco.MjsMesh, mesh: Mesh) -> None:
    # MuJoCo draws each corner with a position, a normal and a texture coordinate; equals merge.
    parts = [mesh.corners, mesh.normals] + ([] if mesh.texcoords is None else [mesh.texcoords])
    corners = np.concatenate(parts, axis=-1).astype(np.float32)
    vertices, indices = np.unique(
        corners.reshape(-1, corners.shape[-1]), axis=0, return_inverse=True
    )
    faces = indices.reshape(-1).astype(np.int32)
    element.file = ""
    element.scale, element.refpos, element.refquat = [1, 1, 1], [0, 0, 0], [1, 0, 0, 0]
    # Visual meshes are open or turned inside out at times, which has no volume.
    element.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
    element.uservert = vertices[:, :3].ravel()
    element.usernormal = vertices[:, 3:6].ravel()
    element.userface = element.userfacenormal = faces
    if mesh.texcoords is not None:
        element.usertexcoord = vertices[:, 6:].ravel()
        element.userfacetexcoord = faces


def _undo_mesh_frames(thin: mujoco.MjModel, exact: mujoco.MjModel) -> None:
    # MuJoCo moves each mesh into the frame of its inertia, and its geoms the other way. Thin meshes
    # have another inertia, so they are moved back: then the exact model's geom frames hold.
    rotation = np.empty(9)
    for mesh_id in _visual_meshes(exact):
        mujoco.mju_quat2Mat(rotation, thin.mesh_quat[mesh_id])
        turn = rotation.reshape(3, 3).T
        points = thin.mesh_vert[_span(thin.mesh_vertadr, thin.mesh_vertnum, mesh_id)]
        points[:] = points @ turn + thin.mesh_pos[mesh_id]
        normals = thin.mesh_normal[_span(thin.mesh_normaladr, thin.mesh_normalnum, mesh_id)]
        normals[:] = normals @ turn
    thin.mesh_pos[:], thin.mesh_quat[:] = exact.mesh_pos, exact.mesh_quat
    thin.mesh_scale[:] = exact.mesh_scale


def _span(addresses: npt.NDArray[np.int32], counts: npt.NDArray[np.int32], item: int) -> slice:
    return slice(int(addresses[item]), int(addresses[item] + counts[item]))


# --- Textures -----------------------------------------------------------------------------------


def _is_drawn(model: mujoco.MjModel, texture_id: int) -> bool:
    if model.tex_type[texture_id] == mujoco.mjtTexture.mjTEXTURE_SKYBOX:
        return True
    materials = model.geom_matid[(model.geom_group == 1) & (model.geom_matid >= 0)]
    return bool((model.mat_texid[materials] == texture_id).any())


def _shrink_texture(element: mujoco.MjsTexture, model: mujoco.MjModel, texture_id: int) -> None:
    height, width = int(model.tex_height[texture_id]), int(model.tex_width[texture_id])
    is_flat = model.tex_type[texture_id] == mujoco.mjtTexture.mjTEXTURE_2D
    if _is_drawn(model, texture_id):
        # A cube's six faces may lie below each other, so its size is the width.
        factor = -(-width // (MAX_TEXTURE_SIZE if is_flat else MAX_CUBE_SIZE))
    else:
        factor = min(height, width)
    if factor <= 1:
        return
    channels, start = int(model.tex_nchannel[texture_id]), int(model.tex_adr[texture_id])
    pixels = model.tex_data[start : start + height * width * channels].reshape(
        height, width, channels
    )
    rows, columns = height // factor, width // factor
    blocks = pixels[: rows * factor, : columns * factor].reshape(
        rows, factor, columns, factor, channels
    )
    small = blocks.mean(axis=(1, 3)).round().astype(np.uint8)
    element.file = ""
    element.height, element.width, element.nchannel = rows, columns, channels
    element.data = small.tobytes()


# --- All else -----------------------------------------------------------------------------------


def _copy_all_else(thin: mujoco.MjModel, exact: mujoco.MjModel) -> None:
    bodies = slice(0, int(exact.body_bvhnum.sum()))
    for name in dir(exact):
        value = getattr(exact, name)
        if name.startswith("_") or not isinstance(value, np.ndarray):
            continue
        if not _VISUAL_FIELDS.match(name):
            getattr(thin, name)[...] = value
        elif name.startswith("bvh_") and not np.array_equal(
            getattr(thin, name)[bodies], value[bodies]
        ):
            raise RuntimeError(f"thinning changed the collision tree ({name}); please report this")
    for name in ("center", "extent", "meaninertia", "meanmass", "meansize"):
        setattr(thin.stat, name, getattr(exact.stat, name))


# --- Cache --------------------------------------------------------------------------------------


def _content_key(xml: str) -> str:
    """Name of the thin model: changes with the scene, its files, the libraries and this code."""
    content = re.sub(r'file="([^"]+)"', lambda match: f'file="{_file_digest(match[1])}"', xml)
    return hashlib.sha256(f"{_versions()}\n{content}".encode()).hexdigest()[:32]


@functools.cache
def _file_digest(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


@functools.cache
def _versions() -> str:
    try:
        decimator = importlib.metadata.version("fast-simplification")
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(NO_DECIMATOR, name="fast_simplification") from error
    return f"{VERSION} {mujoco.__version__} {decimator}"


def _folder(name: str) -> Path:
    folder = cache_folder() / name
    folder.mkdir(exist_ok=True)
    return folder
