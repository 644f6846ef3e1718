"""Models that look like LIBERO's and render ten times as fast: ``visuals="fast"``.

Nearly all of a scene's 250,000 faces are smaller than the pixels of a policy's camera. Here visual
meshes are decimated, large textures are shrunk, and each pixel is sampled once. Everything else,
from masses to contact geometry, is copied from the exact model, so the physics is equal to the last
bit.

A decimated model is made once per task and kept in the cache folder in MuJoCo's binary format
(data, not code), under a hash of everything that it depends on. Its meshes and textures are cached
one by one, because tasks share them, and processes that start together divide them among
themselves.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import io
import logging
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt

from srpo_env.libero.cache import cache_folder, lock, read_file, write_file
from srpo_env.libero.decimation import NO_DECIMATOR, Mesh, decimate
from srpo_env.libero.gl import choose_gl, has_gpu
from srpo_env.libero.worker_process import is_worker_process
from srpo_env.readers.arrays import read_npz
from srpo_env.system.machine import release_memory
from srpo_env.types import check_choice

choose_gl()  # before the first import of MuJoCo

import mujoco  # noqa: E402

logger = logging.getLogger(__name__)

Visuals = Literal["exact", "fast"]

MAX_TEXTURE_SIZE, MAX_CUBE_SIZE = 512, 256
"""Largest width in pixels of a flat texture, and of a cube texture (for boxes and the sky)."""

NEAR_TOLERANCE, FAR_TOLERANCE = (0.005, 0.0005, 0.006), (0.01, 0.003, 0.01)
"""Tolerance of a decimated mesh, as a share of its size, and its minimum and maximum in metres.
FAR_TOLERANCE is for the arm and its mount, which are far from all of LIBERO's cameras."""

MAX_LAYOUTS = 40
"""Maximum number of models of perturbed layouts in the cache folder, of 20 to 30 MB each."""

VERSION = 9
"""Increased with each change of this file or of decimation.py that alters the decimated models."""

OnProgress = Callable[[int, int], object]
"""Called with the number of meshes and textures that are ready, and their total number."""

# Fields of a model that describe only meshes and textures. The bvh trees start with the bodies'
# trees, which serve collisions and are compared below; the trees of meshes serve only ray casts.
_VISUAL_FIELDS = re.compile(r"(mesh|tex|bvh|oct)_")


def check_visuals(visuals: str | None) -> Visuals:
    """Checks ``visuals``; None becomes "exact" where a GPU renders, else "fast".

    Raises:
        ValueError: If it is neither ``"exact"`` nor ``"fast"``.
    """
    if visuals is None:
        return _default_visuals()
    check_choice("visuals", visuals, Visuals)
    return cast("Visuals", visuals)


@functools.cache
def _default_visuals() -> Visuals:
    if choose_gl() == "egl" and has_gpu():
        return "exact"
    # Workers of a vector environment repeat the message of their parent.
    level = logging.INFO if is_worker_process() else logging.WARNING
    logger.log(
        level,
        'No GPU for rendering: using software with visuals="fast" (decimated meshes, the same '
        'physics). visuals="exact" gives LIBERO\'s images pixel for pixel, ten times slower.',
    )
    return "fast"


_ROBOSUITE_SIZE = '<size nconmax="5000" njmax="5000"'


def load_model(
    xml: str,
    visuals: Visuals,
    on_progress: OnProgress | None = None,
    *,
    is_layout: bool = False,
) -> mujoco.MjModel:
    """Compiles a scene; with ``"fast"``, makes its decimated model or loads it from the cache.

    Args:
        xml: The scene in MJCF, with absolute file names.
        visuals: ``"exact"`` or ``"fast"``.
        on_progress: Called while a decimated model is made.
        is_layout: Whether it is one of the many scenes of perturbed layouts, of which only the
            newest `MAX_LAYOUTS` are kept.

    Raises:
        ModuleNotFoundError: If ``"fast"`` is wanted and ``fast-simplification`` is not installed.
    """
    # robosuite reserves memory for 5000 contacts: 1.3 GB of address space per task, of which 1 MB
    # is used. A process with many tasks could then not fork, because the system refuses to reserve
    # that much.
    xml = xml.replace(_ROBOSUITE_SIZE, '<size memory="64M"')
    if visuals == "exact":
        return mujoco.MjModel.from_xml_string(xml)
    folder = cache_folder() / decimation_folder() / ("layouts" if is_layout else "models")
    file = folder / f"{_content_key(xml)}.mjb"
    content = read_file(file)
    if content is None:
        logger.info("making a decimated model, once: %s", file)
        content = _to_bytes(decimated_model(xml, on_progress))
        write_file(file, content)
        if is_layout:
            _remove_oldest(folder, MAX_LAYOUTS)
        _free_memory()
    model = mujoco.MjModel.from_binary_path("model.mjb", {"model.mjb": content})
    # Multisampling doubles the cost of an image in software, for smoother edges.
    model.vis.quality.offsamples = 0
    return model


def _remove_oldest(folder: Path, max_files: int) -> None:
    """Removes a folder's oldest files; another process that needs one makes it again."""
    ages = {}
    for file in folder.glob("*.mjb"):
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            ages[file] = file.stat().st_mtime
    for file in sorted(ages, key=lambda file: ages[file])[:-max_files]:
        file.unlink(missing_ok=True)


def _to_bytes(model: mujoco.MjModel) -> bytes:
    """Returns a model in MuJoCo's binary format."""
    # MuJoCo's writing into a file does not report a full disk.
    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return buffer.tobytes()


def decimated_model(xml: str, on_progress: OnProgress | None = None) -> mujoco.MjModel:
    """Compiles a scene with decimated visual meshes and smaller textures; all else is unchanged.

    Args:
        xml: The scene in MJCF, with absolute file names.
        on_progress: Called after each mesh and each texture.

    Raises:
        ModuleNotFoundError: If ``fast-simplification`` is not installed.
    """
    # Decoding large textures takes most of the time that compiling takes, and only the smaller
    # ones are needed.
    exact = _without_textures(xml).compile()
    meshes = [_cached_mesh(exact, mesh_id) for mesh_id in _visual_meshes(exact)]
    textures = [
        _cached_texture(element, _is_drawn(exact, name), _texture_triangles(exact, name))
        for name, element in _texture_files(xml).items()
    ]
    contents = _make_all([*meshes, *textures], on_progress or (lambda done, total: None))
    spec = mujoco.MjSpec.from_string(xml)
    for mesh_id, cached in zip(_visual_meshes(exact), meshes, strict=True):
        _replace_mesh(spec.mesh(exact.mesh(mesh_id).name), _read_mesh(contents[cached.file]))
    for name, cached in zip(_texture_files(xml), textures, strict=True):
        _replace_texture(spec.texture(name), _read_texture(contents[cached.file]))
    decimated = spec.compile()
    _undo_mesh_frames(decimated, exact)
    _copy_all_else(decimated, exact)
    return decimated


def face_count(model: mujoco.MjModel) -> int:
    """Returns the number of mesh faces that cameras see."""
    drawn = (model.geom_type == mujoco.mjtGeom.mjGEOM_MESH) & (model.geom_group == 1)
    return int(model.mesh_facenum[model.geom_dataid[drawn]].sum())


def _free_memory() -> None:
    # Compiling an exact model takes 0.5 GB, which MuJoCo's cache and glibc would keep.
    if hasattr(mujoco, "mj_clearCache"):  # old versions have no such cache
        mujoco.mj_clearCache(mujoco.mj_getCache())
    release_memory()


# --- Meshes -------------------------------------------------------------------------------------


def _visual_meshes(model: mujoco.MjModel) -> list[int]:
    """Returns the ids of the meshes that take part in no contact."""
    collides = set()
    for geom_id in range(model.ngeom):
        if (
            model.geom_type[geom_id] == mujoco.mjtGeom.mjGEOM_MESH
            and model.geom_group[geom_id] != 1
        ):
            collides.add(int(model.geom_dataid[geom_id]))
        elif model.geom_contype[geom_id] or model.geom_conaffinity[geom_id]:
            collides.add(int(model.geom_dataid[geom_id]))
    return [mesh_id for mesh_id in range(model.nmesh) if mesh_id not in collides]


def _mesh_of(model: mujoco.MjModel, mesh_id: int) -> Mesh:
    points = model.mesh_vert[_span(model.mesh_vertadr, model.mesh_vertnum, mesh_id)]
    faces = _span(model.mesh_faceadr, model.mesh_facenum, mesh_id)
    normals = model.mesh_normal[model.mesh_normaladr[mesh_id] + model.mesh_facenormal[faces]]
    texcoords = None
    if _is_textured(model, mesh_id):
        texcoords = model.mesh_texcoord[
            model.mesh_texcoordadr[mesh_id] + model.mesh_facetexcoord[faces]
        ].astype(np.float64)
    return Mesh(
        points.astype(np.float64),
        model.mesh_face[faces].astype(np.int64),
        normals.astype(np.float64),
        texcoords,
    )


def _is_far(model: mujoco.MjModel, mesh_id: int) -> bool:
    bodies = model.geom_bodyid[_uses(model, mesh_id)]
    return all(
        model.body(body).name.startswith(("robot0_link", "robot0_base", "mount0_"))
        for body in bodies
    )


def _uses(model: mujoco.MjModel, mesh_id: int) -> npt.NDArray[np.bool_]:
    """Returns which geoms use the mesh, shape ``(ngeom,)``."""
    uses: npt.NDArray[np.bool_] = (model.geom_type == mujoco.mjtGeom.mjGEOM_MESH) & (
        model.geom_dataid == mesh_id
    )
    return uses


def _cached_mesh(model: mujoco.MjModel, mesh_id: int) -> _Cached:
    mesh = _mesh_of(model, mesh_id)
    relative, minimum, maximum = FAR_TOLERANCE if _is_far(model, mesh_id) else NEAR_TOLERANCE
    size = float(np.linalg.norm(np.ptp(mesh.points, axis=0)))
    tolerance = min(max(relative * size, minimum), maximum)
    digest = hashlib.sha256(f"{_versions()} {tolerance}".encode())
    for array in (mesh.points, mesh.faces, mesh.normals, mesh.texcoords):
        digest.update(b"" if array is None else array.tobytes())

    def make() -> bytes:
        decimated = vars(decimate(mesh, tolerance))
        return _arrays_to_bytes({k: v for k, v in decimated.items() if v is not None})

    folder = cache_folder() / decimation_folder() / "meshes"
    return _Cached(folder / f"{digest.hexdigest()[:32]}.npz", make)


def _read_mesh(content: bytes) -> Mesh:
    arrays = read_npz(content)
    return Mesh(arrays["points"], arrays["faces"], arrays["normals"], arrays.get("texcoords"))


def _is_textured(model: mujoco.MjModel, mesh_id: int) -> bool:
    materials = model.geom_matid[_uses(model, mesh_id)]
    has_texture = (model.mat_texid[materials[materials >= 0]] >= 0).any()
    return bool(model.mesh_texcoordadr[mesh_id] >= 0 and has_texture)


def _replace_mesh(element: mujoco.MjsMesh, mesh: Mesh) -> None:
    # MuJoCo draws each corner with a position, a normal and a texture coordinate. Equal corners
    # become one vertex.
    parts = [mesh.corners, mesh.normals] + ([] if mesh.texcoords is None else [mesh.texcoords])
    corners = np.concatenate(parts, axis=-1).astype(np.float32)
    vertices, indices = np.unique(
        corners.reshape(-1, corners.shape[-1]), axis=0, return_inverse=True
    )
    faces = indices.reshape(-1).astype(np.int32)
    element.file = ""
    element.scale, element.refpos, element.refquat = [1, 1, 1], [0, 0, 0], [1, 0, 0, 0]
    # Some visual meshes are open or have inverted faces, so they have no volume.
    element.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
    element.uservert = vertices[:, :3].ravel()
    element.usernormal = vertices[:, 3:6].ravel()
    element.userface = faces
    # Some old versions of MuJoCo have no indices of normals: they are those of the vertices.
    if hasattr(element, "userfacenormal"):
        element.userfacenormal = faces
    if mesh.texcoords is not None:
        element.usertexcoord = vertices[:, 6:].ravel()
        element.userfacetexcoord = faces


def _undo_mesh_frames(decimated: mujoco.MjModel, exact: mujoco.MjModel) -> None:
    # MuJoCo moves each mesh into the frame of its inertia, and its geoms the other way. Decimated
    # meshes have another inertia, so they are moved back. Then the exact model's geom frames hold.
    rotation = np.empty(9)
    for mesh_id in _visual_meshes(exact):
        mujoco.mju_quat2Mat(rotation, decimated.mesh_quat[mesh_id])
        turn = rotation.reshape(3, 3).T
        points = _span(decimated.mesh_vertadr, decimated.mesh_vertnum, mesh_id)
        decimated.mesh_vert[points] = (
            decimated.mesh_vert[points] @ turn + decimated.mesh_pos[mesh_id]
        )
        normals = _span(decimated.mesh_normaladr, decimated.mesh_normalnum, mesh_id)
        decimated.mesh_normal[normals] = decimated.mesh_normal[normals] @ turn
    decimated.mesh_pos[:], decimated.mesh_quat[:] = exact.mesh_pos, exact.mesh_quat
    decimated.mesh_scale[:] = exact.mesh_scale


def _span(addresses: npt.NDArray[np.int32], counts: npt.NDArray[np.int32], item: int) -> slice:
    return slice(int(addresses[item]), int(addresses[item] + counts[item]))


# --- Textures -----------------------------------------------------------------------------------


def _texture_files(xml: str) -> dict[str, ET.Element]:
    """Returns the texture elements of a scene that have a file, by name."""
    return {
        str(element.get("name")): element
        for element in ET.fromstring(xml).iterfind("asset/texture")
        if element.get("file")
    }


class _Texture(NamedTuple):
    pixels: npt.NDArray[np.uint8]
    """Shape ``(height, width, channels)``."""
    colorspace: int = 0
    """MuJoCo's ``mjtColorSpace``, which it finds in the file; 0 before MuJoCo 3.3.3."""


_ONE_PIXEL = _Texture(np.zeros((1, 1, 3), np.uint8))


def _without_textures(xml: str) -> mujoco.MjSpec:
    """Reads a scene, with a single pixel in place of each texture file."""
    spec = mujoco.MjSpec.from_string(xml)
    for name in _texture_files(xml):
        _replace_texture(spec.texture(name), _ONE_PIXEL)
    return spec


def _is_drawn(model: mujoco.MjModel, name: str) -> bool:
    texture_id = model.texture(name).id
    if model.tex_type[texture_id] == mujoco.mjtTexture.mjTEXTURE_SKYBOX:
        return True
    materials = model.geom_matid[(model.geom_group == 1) & (model.geom_matid >= 0)]
    return bool((model.mat_texid[materials] == texture_id).any())


def _texture_triangles(model: mujoco.MjModel, name: str) -> npt.NDArray[np.float32] | None:
    """Returns the triangles of a texture that meshes show, in [0, 1], ``(num_triangles, 3, 2)``.

    None if the texture is not only shown by meshes, or repeats.
    """
    materials = np.flatnonzero((model.mat_texid == model.texture(name).id).any(axis=1))
    geoms = np.flatnonzero(np.isin(model.geom_matid, materials))
    if not (model.geom_type[geoms] == mujoco.mjtGeom.mjGEOM_MESH).all():
        return None
    found = []
    for mesh_id in np.unique(model.geom_dataid[geoms]):
        if model.mesh_texcoordadr[mesh_id] < 0:
            return None
        faces = _span(model.mesh_faceadr, model.mesh_facenum, mesh_id)
        corners = model.mesh_texcoordadr[mesh_id] + model.mesh_facetexcoord[faces]
        found.append(model.mesh_texcoord[corners])
    triangles = np.concatenate(found) if found else np.zeros((0, 3, 2), np.float32)
    is_inside = triangles.size > 0 and triangles.min() > -0.01 and triangles.max() < 1.01
    return triangles if is_inside else None


def _cached_texture(
    element: ET.Element, is_drawn: bool, triangles: npt.NDArray[np.float32] | None
) -> _Cached:
    # The key has no name, so that the same texture in several tasks is made once.
    attributes = {key: value for key, value in element.items() if key not in ("name", "file")}
    content = _file_digest(str(element.get("file")))
    shown = "" if triangles is None else hashlib.sha256(triangles.tobytes()).hexdigest()
    key = f"{_versions()} {sorted(attributes.items())} {content} {is_drawn} {shown}"

    def make() -> bytes:
        pixels, colorspace = _decode(element)
        # A cube's six faces can be stacked in one image, so its size is the width.
        is_flat = element.get("type", "cube") == "2d"
        factor = -(-pixels.shape[1] // (MAX_TEXTURE_SIZE if is_flat else MAX_CUBE_SIZE))
        if not is_drawn:
            pixels = _shrink(pixels, min(pixels.shape[:2]))
        elif triangles is None:
            pixels = _shrink(pixels, factor)
        else:
            pixels = _shrink_shown(pixels, factor, triangles)
        return _arrays_to_bytes({"pixels": pixels, "colorspace": np.array(colorspace)})

    digest = hashlib.sha256(key.encode()).hexdigest()[:32]
    return _Cached(cache_folder() / decimation_folder() / "textures" / f"{digest}.npz", make)


def _read_texture(content: bytes) -> _Texture:
    arrays = read_npz(content)
    return _Texture(arrays["pixels"], int(arrays["colorspace"]))


def _decode(element: ET.Element) -> _Texture:
    """Returns a texture as MuJoCo reads it from its file."""
    text = ET.tostring(element, encoding="unicode")
    model = mujoco.MjModel.from_xml_string(f"<mujoco><asset>{text}</asset></mujoco>")
    shape = int(model.tex_height[0]), int(model.tex_width[0]), int(model.tex_nchannel[0])
    colorspace = int(model.tex_colorspace[0]) if hasattr(model, "tex_colorspace") else 0
    return _Texture(model.tex_data.reshape(shape).copy(), colorspace)


def _shrink(pixels: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.uint8]:
    """Averages blocks of ``factor`` x ``factor`` pixels; an incomplete block is cut off."""
    rows, columns = pixels.shape[0] // factor, pixels.shape[1] // factor
    blocks = pixels[: rows * factor, : columns * factor].reshape(
        rows, factor, columns, factor, pixels.shape[2]
    )
    sums = blocks.sum(axis=1, dtype=np.uint32).sum(axis=2)
    means: npt.NDArray[np.uint8] = (sums / factor**2).round().astype(np.uint8)
    return means


def _shrink_shown(
    pixels: npt.NDArray[np.uint8], factor: int, triangles: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    """Averages only pixels that meshes show, and fills the gaps between the pieces of the texture.

    The gaps are often black. They would darken the edges of the pieces, and larger triangles reach
    into them.
    """
    height, width = pixels.shape[:2]
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    for triangle in (triangles * (width, height) - 0.5).reshape(-1, 6).tolist():
        draw.polygon(triangle, fill=1, outline=1)
    is_shown = np.asarray(image)
    rows, columns = height // factor, width // factor
    blocks = (rows, factor, columns, factor, -1)
    cut = (slice(rows * factor), slice(columns * factor))
    counts = is_shown[cut].reshape(blocks).sum(axis=(1, 3), dtype=np.uint32)
    shown = (pixels * is_shown[..., None])[cut].reshape(blocks)
    sums = shown.sum(axis=1, dtype=np.uint32).sum(axis=2)
    means = (sums / counts.clip(1)).round().astype(np.uint8)
    nearest = distance_transform_edt(
        counts[..., 0] == 0, return_distances=False, return_indices=True
    )
    filled: npt.NDArray[np.uint8] = means[tuple(nearest)]
    return filled


def _replace_texture(element: mujoco.MjsTexture, texture: _Texture) -> None:
    element.file = ""
    element.height, element.width, element.nchannel = texture.pixels.shape
    element.data = texture.pixels.tobytes()
    if hasattr(element, "colorspace"):
        element.colorspace = mujoco.mjtColorSpace(texture.colorspace)


# --- All else -----------------------------------------------------------------------------------


def _copy_all_else(decimated: mujoco.MjModel, exact: mujoco.MjModel) -> None:
    bodies = slice(0, int(exact.body_bvhnum.sum()))
    for name in dir(exact):
        value = getattr(exact, name)
        if name.startswith("_") or not isinstance(value, np.ndarray):
            continue
        if not _VISUAL_FIELDS.match(name):
            getattr(decimated, name)[...] = value
        elif name.startswith("bvh_") and not np.array_equal(
            getattr(decimated, name)[bodies], value[bodies]
        ):
            raise RuntimeError(f"decimation changed the collision tree {name}: please report this")
    for name in ("center", "extent", "meaninertia", "meanmass", "meansize"):
        setattr(decimated.stat, name, getattr(exact.stat, name))


# --- Cache --------------------------------------------------------------------------------------


class _Cached(NamedTuple):
    """A file of the cache folder and the function that makes its content."""

    file: Path
    make: Callable[[], bytes]


def _make_all(items: Sequence[_Cached], on_progress: OnProgress) -> dict[Path, bytes]:
    """Reads the files, and makes those that do not exist, dividing the work with other processes.

    Each process skips the files that another one is making, and waits for them at the end.
    """
    items = list({item.file: item for item in items}.values())
    contents: dict[Path, bytes] = {}
    num_items = len(items)
    for wait in (False, True):
        skipped = []
        for item in items:
            content = read_file(item.file)
            if content is None:
                with lock(item.file, wait=wait) as is_locked:
                    if not is_locked:
                        skipped.append(item)
                        continue
                    content = read_file(item.file)
                    if content is None:
                        content = item.make()
                        write_file(item.file, content)
            contents[item.file] = content
            on_progress(len(contents), num_items)
        items = skipped
    return contents


def _arrays_to_bytes(arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _content_key(xml: str) -> str:
    """Returns a hash of the scene, its files, the libraries' versions and this code's version."""
    content = re.sub(r'file="([^"]+)"', lambda match: f'file="{_file_digest(match[1])}"', xml)
    return hashlib.sha256(f"{_versions()}\n{content}".encode()).hexdigest()[:32]


def _file_digest(file: str) -> str:
    status = Path(file).stat()
    return _digest_of(file, status.st_size, status.st_mtime_ns)


@functools.cache
def _digest_of(file: str, size: int, mtime_ns: int) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def decimation_folder() -> str:
    """Returns the name of the folder in the cache folder that holds decimated models.

    Other versions of this code, of MuJoCo or of fast-simplification have other folders.

    Raises:
        ModuleNotFoundError: If ``fast-simplification`` is not installed.
    """
    return f"decimated-{_versions().replace(' ', '-')}"


@functools.cache
def _versions() -> str:
    try:
        decimator = importlib.metadata.version("fast-simplification")
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(NO_DECIMATOR, name="fast_simplification") from error
    return f"{VERSION} {mujoco.__version__} {decimator}"
