"""Visual meshes with far fewer faces that look the same from a robot's camera.

The shape is decimated by ``fast-simplification`` (quadric error metrics) until it deviates by a
given distance. It knows positions only, so normals and texture coordinates are taken over
afterwards from the nearest place on the original surface.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FEW_FACES = 64
"""meshes of so few faces stay as they are"""

SAMPLES = 4_000
"""points per mesh, beside four in each face, by which its surface is found"""

PROBES = 400
"""points per mesh at which the distance between two surfaces is measured"""

ROUNDS = 5
"""of the search for the number of faces; finds it to within a quarter"""

AGGRESSIVENESS = (3.0, 5.0, 7.0)
"""of the decimation: 7 is its default, which for round shapes needs five times the faces of 3"""

CANDIDATES = 6  # faces around a point that its normal and texture coordinates may come from


NO_DECIMATOR = (
    'visuals="fast" needs fast-simplification: run `pip install fast-simplification`, or use '
    'visuals="exact"'
)


@dataclass(frozen=True)
class Mesh:
    """Triangles with a normal and, if textured, a texture coordinate in each corner."""

    points: Floats
    """shape ``(num_points, 3)``, in metres"""
    faces: Ints
    """indices into ``points``, shape ``(num_faces, 3)``"""
    normals: Floats
    """of the corners, shape ``(num_faces, 3, 3)``, unit length"""
    texcoords: Floats | None
    """of the corners, shape ``(num_faces, 3, 2)``"""

    @property
    def corners(self) -> Floats:
        """Positions of the corners, shape ``(num_faces, 3, 3)``."""
        return self.points[self.faces]


def thin_mesh(mesh: Mesh, tolerance: float) -> Mesh:
    """Decimates a mesh as far as its surface stays within ``tolerance`` metres of the original.

    Raises:
        ModuleNotFoundError: If ``fast-simplification`` is not installed.
    """
    if len(mesh.faces) <= FEW_FACES:
        return mesh
    surface = _Surface(mesh)
    points, faces = _decimate(*_weld(mesh, grid=tolerance / 2), surface, tolerance)
    if len(faces) >= len(mesh.faces):
        return mesh
    normals, texcoords = surface.attributes(points[faces], blur=4 * tolerance)
    return Mesh(points, faces, normals, texcoords)


def _weld(mesh: Mesh, grid: float) -> tuple[Floats, Ints]:
    """Points and faces with those points made one that lie in one cell of a grid.

    Files store a position once for each normal and texture coordinate there, and parts that touch
    share no points at all; what is not connected can hardly be decimated, or is torn open.
    """
    _, cells = np.unique(np.round(mesh.points / grid), axis=0, return_inverse=True)
    cells = cells.reshape(-1)
    counts = np.bincount(cells)
    points = np.stack([np.bincount(cells, axis) / counts for axis in mesh.points.T], axis=-1)
    faces = cells[mesh.faces]
    faces = faces[_areas(points[faces]) > 0]
    _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    return points, faces[np.sort(first)]


def _decimate(
    points: Floats, faces: Ints, surface: _Surface, tolerance: float
) -> tuple[Floats, Ints]:
    try:
        import fast_simplification
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(NO_DECIMATOR, name="fast_simplification") from error
    best = points, faces
    if len(faces) <= FEW_FACES:
        return best
    # Bisects the number of faces on a logarithmic scale, between a tetrahedron and the original.
    low, high = math.log(4), math.log(len(faces))
    for _ in range(ROUNDS):
        target = round(math.exp((low + high) / 2))
        for aggressiveness in AGGRESSIVENESS:
            thin_points, thin_faces = fast_simplification.simplify(
                points, faces.astype(np.int32), target_count=target, agg=aggressiveness
            )
            if len(thin_faces) >= 4 and surface.deviation(thin_points[thin_faces]) <= tolerance:
                high = math.log(target)
                best = thin_points.astype(np.float64), thin_faces.astype(np.int64)
                break
        else:
            low = math.log(target)
    return best


class _Surface:
    """The original surface, as points on its faces."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._samples, self._face_of = _sample(mesh.corners)
        self._directions = _normals(mesh.corners)[self._face_of]
        self._tree = cKDTree(self._samples)
        self._charts = _charts(mesh)

    def deviation(self, corners: Floats) -> float:
        """About the largest distance between this surface and some triangles, in metres."""
        samples, face_of = _sample(corners)
        tree = cKDTree(samples)
        rng = np.random.default_rng(0)
        there = rng.choice(samples, PROBES)
        back = rng.choice(self._samples, PROBES)
        distances = np.concatenate(
            [
                _feet(there, self._tree, self._face_of, self._mesh.corners)[1].min(axis=1),
                _feet(back, tree, face_of, corners)[1].min(axis=1),
            ]
        )
        # Not the maximum: among slender faces the nearest is not always a candidate.
        return float(np.quantile(distances, 0.98))

    def attributes(self, corners: Floats, blur: float) -> tuple[Floats, Floats | None]:
        """Normals and texture coordinates for triangles near this surface.

        A place on the surface that looks the other way counts as ``2 * blur`` metres farther away.

        All corners of a triangle take them from the chart of the texture that its center lies in:
        across a seam the coordinates jump, and a triangle between two charts would show all that
        lies between them.
        """
        face_normals = _normals(corners)
        # Nearest in position and direction: thin walls have two sides, and edges too.
        places = np.concatenate([self._samples, blur * self._directions], axis=-1)
        wanted = np.concatenate([corners.mean(axis=1), blur * face_normals], axis=-1)
        at_centers = self._face_of[cKDTree(places).query(wanted)[1]]
        charts = self._charts[at_centers]
        wanted = np.concatenate(
            [corners, np.repeat(blur * face_normals[:, None], 3, axis=1)], axis=-1
        )
        at_corners = np.empty((len(corners), 3), np.int64)
        for chart in np.unique(charts):
            mine = charts == chart
            in_chart = np.flatnonzero(self._charts[self._face_of] == chart)
            nearest = cKDTree(places[in_chart]).query(wanted[mine])[1]
            at_corners[mine] = self._face_of[in_chart[nearest]]
        faces, points = at_corners.reshape(-1), corners.reshape(-1, 3)
        weights = _nearest_places(points, self._mesh.corners[faces]).reshape(-1, 3, 3, 1)
        normals = (weights * self._mesh.normals[at_corners]).sum(axis=2)
        length = np.linalg.norm(normals, axis=-1, keepdims=True)
        normals = np.where(length > 1e-6, normals / np.maximum(length, 1e-6), face_normals[:, None])
        if self._mesh.texcoords is None:
            return normals, None
        texcoords = (weights * self._mesh.texcoords[at_corners]).sum(axis=2)
        return normals, self._unwrapped(texcoords, corners, at_centers)

    def _unwrapped(self, texcoords: Floats, corners: Floats, at_centers: Ints) -> Floats:
        """Texture coordinates without jumps inside of a triangle.

        A chart may also meet itself at a seam, as around a can: there the coordinates go on
        beyond the seam (textures repeat) as they do at the triangle's center.
        """
        assert self._mesh.texcoords is not None
        origin, there = self._mesh.corners[at_centers], self._mesh.texcoords[at_centers]
        center_weights = _barycentric(corners.mean(axis=1), origin)
        center = (center_weights[..., None] * there).sum(axis=1)[:, None]
        corner_weights = _barycentric(corners.reshape(-1, 3), np.repeat(origin, 3, axis=0))
        onward = (corner_weights.reshape(-1, 3, 3, 1) * there[:, None]).sum(axis=2)
        density = np.sqrt(
            _areas(np.pad(there, ((0, 0), (0, 0), (0, 1)))) / _areas(origin).clip(1e-20)
        )
        distance = np.linalg.norm(corners - corners.mean(axis=1, keepdims=True), axis=-1)
        reach = (3.0 * density[:, None] * distance)[..., None]
        step = onward - center
        step *= np.minimum(1.0, reach / np.linalg.norm(step, axis=-1, keepdims=True).clip(1e-12))
        jumps = np.linalg.norm(texcoords - center, axis=-1, keepdims=True) > np.maximum(reach, 0.02)
        return np.where(jumps, center + step, texcoords)


def _feet(points: Floats, tree: cKDTree, face_of: Ints, corners: Floats) -> tuple[Ints, Floats]:
    """Candidate faces near each point and their distances, each ``(num_points, candidates)``."""
    count = min(CANDIDATES, tree.n)
    faces = face_of[tree.query(points, k=count)[1].reshape(len(points), count)]
    nearby = corners[faces]
    weights = _nearest_places(np.repeat(points, count, axis=0), nearby.reshape(-1, 3, 3))
    feet = (weights.reshape(*faces.shape, 3, 1) * nearby).sum(axis=2)
    return faces, np.linalg.norm(feet - points[:, None], axis=-1)


def _charts(mesh: Mesh) -> Ints:
    """Number of the texture's connected piece that each face lies in, shape ``(num_faces,)``."""
    num_faces = len(mesh.faces)
    if mesh.texcoords is None:
        return np.zeros(num_faces, np.int64)
    places = (
        np.concatenate([mesh.corners, mesh.texcoords], axis=-1).reshape(-1, 5).astype(np.float32)
    )
    _, vertices = np.unique(places, axis=0, return_inverse=True)
    rows, columns = np.repeat(np.arange(num_faces), 3), num_faces + vertices.reshape(-1)
    size = num_faces + int(vertices.max()) + 1
    graph = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=(size, size))
    charts: Ints = connected_components(graph, directed=False)[1][:num_faces].astype(np.int64)
    return charts


def _sample(corners: Floats) -> tuple[Floats, Ints]:
    """Points on triangles, shape ``(num_samples, 3)``, and the triangle of each."""
    rng = np.random.default_rng(0)  # the same thin mesh from the same mesh
    # Corners, moved inwards a little so that they belong to one face, and the centre of each face.
    fixed = np.array(
        [[0.98, 0.01, 0.01], [0.01, 0.98, 0.01], [0.01, 0.01, 0.98], [1 / 3, 1 / 3, 1 / 3]]
    )
    per_face = np.einsum("wc,fcx->fwx", fixed, corners).reshape(-1, 3)
    areas = _areas(corners)
    faces = rng.choice(len(corners), SAMPLES, p=areas / areas.sum())
    weights = rng.dirichlet(np.ones(3), SAMPLES)
    spread = (weights[..., None] * corners[faces]).sum(axis=1)
    owners = np.concatenate([np.repeat(np.arange(len(corners)), len(fixed)), faces])
    return np.concatenate([per_face, spread]), owners


def _areas(corners: Floats) -> Floats:
    cross = np.cross(
        corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :]
    )
    areas: Floats = np.linalg.norm(cross, axis=-1) / 2
    return areas


def _normals(corners: Floats) -> Floats:
    cross = np.cross(
        corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :]
    )
    normals: Floats = cross / np.maximum(np.linalg.norm(cross, axis=-1, keepdims=True), 1e-20)
    return normals


def _nearest_places(points: Floats, corners: Floats) -> Floats:
    """Weights of the corners for the place on each triangle nearest to each point, ``(n, 3)``."""
    weights = _barycentric(points, corners)
    outside = np.flatnonzero((weights < 0).any(axis=-1))
    points, corners = points[outside], corners[outside]
    nearest = np.full(len(outside), np.inf)
    for start, end in ((0, 1), (1, 2), (2, 0)):
        edge = corners[:, end] - corners[:, start]
        along = ((points - corners[:, start]) * edge).sum(-1) / (edge * edge).sum(-1).clip(1e-30)
        along = along.clip(0.0, 1.0)
        distance = np.linalg.norm(corners[:, start] + along[:, None] * edge - points, axis=-1)
        better = distance < nearest
        nearest = np.where(better, distance, nearest)
        here = outside[better]
        weights[here] = 0.0
        weights[here, start], weights[here, end] = 1.0 - along[better], along[better]
    return weights


def _barycentric(points: Floats, corners: Floats) -> Floats:
    """Weights of the corners for each point's projection to its triangle's plane, ``(n, 3)``.

    They sum to 1; outside of the triangle one or two are negative.
    """
    a, ab, ac = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    ap = points - a
    d00, d01, d11 = (ab * ab).sum(-1), (ab * ac).sum(-1), (ac * ac).sum(-1)
    d20, d21 = (ap * ab).sum(-1), (ap * ac).sum(-1)
    scale = np.maximum(d00 * d11 - d01 * d01, 1e-30)
    v, w = (d11 * d20 - d01 * d21) / scale, (d00 * d21 - d01 * d20) / scale
    weights: Floats = np.stack([1.0 - v - w, v, w], axis=-1)
    return weights
