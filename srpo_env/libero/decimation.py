"""Decimates visual meshes: far fewer faces, and nearly the same image from a robot's camera.

``fast-simplification`` (quadric error metrics) removes faces as long as the surface stays within a
given distance of the original one. It works on positions only, so normals and texture coordinates
are copied afterwards from the nearest point of the original surface.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from srpo_env.types import Floats, Ints

MIN_FACES = 64
"""Meshes with at most this number of faces are not decimated."""

NUM_SAMPLES = 4_000
"""Number of random sample points per surface, in addition to four per face."""

NUM_PROBES = 200
"""Number of points at which the distance between two surfaces is measured, chosen by faces, which
tests fine parts, and again by area, which tests that no large face is missing."""

MAX_DEVIATING = 0.04
"""Share of the points by faces, and of those by area, that may exceed the tolerance. It is
not 0, because among slender faces the nearest face is not always a candidate."""

NUM_ROUNDS = 5
"""Number of bisection steps for the number of faces; the result is within 25% of the best one."""

AGGRESSIVENESS = (3.0, 5.0, 7.0)
"""Settings of fast-simplification to try. 7 is its default; for round shapes, 3 needs a fifth of
the faces that 7 needs."""

NUM_CANDIDATES = 6
"""Number of faces near a point that are searched for the nearest point of the surface."""

NO_DECIMATOR = (
    'visuals="fast" needs fast-simplification: run `pip install fast-simplification`, or use '
    'visuals="exact"'
)


@dataclass(frozen=True)
class Mesh:
    """Triangles with a normal and, if textured, a texture coordinate at each corner."""

    points: Floats
    """Shape ``(num_points, 3)``, in metres."""
    faces: Ints
    """Indices into ``points``, shape ``(num_faces, 3)``."""
    normals: Floats
    """Unit normals of the corners, shape ``(num_faces, 3, 3)``."""
    texcoords: Floats | None
    """Texture coordinates of the corners, shape ``(num_faces, 3, 2)``."""

    @property
    def corners(self) -> Floats:
        """Positions of the corners, shape ``(num_faces, 3, 3)``."""
        return self.points[self.faces]


def decimate(mesh: Mesh, tolerance: float) -> Mesh:
    """Removes faces as long as the surface stays near the original one.

    Args:
        mesh: The mesh to decimate.
        tolerance: Largest distance between the two surfaces, in metres.

    Returns:
        The decimated mesh; ``mesh`` itself if it has few faces. Equal meshes give equal results.

    Raises:
        ModuleNotFoundError: If ``fast-simplification`` is not installed.
    """
    if len(mesh.faces) <= MIN_FACES:
        return mesh
    surface = _Surface(mesh)
    points, faces = _search(*_weld(mesh, grid=tolerance / 2), surface, tolerance)
    if len(faces) >= len(mesh.faces):
        return mesh
    normals, texcoords = surface.attributes(points[faces], blur=4 * tolerance)
    return Mesh(points, faces, normals, texcoords)


def _weld(mesh: Mesh, grid: float) -> tuple[Floats, Ints]:
    """Merges the points that lie in the same cell of a grid; returns points and faces.

    Files repeat a position for each of its normals and texture coordinates, and adjacent parts
    share no points. Faces that are not connected can hardly be decimated, and cracks open between
    them.
    """
    cells = _group_rows(np.round(mesh.points / grid).astype(np.int64))
    counts = np.bincount(cells)
    points = np.stack([np.bincount(cells, axis) / counts for axis in mesh.points.T], axis=-1)
    faces = cells[mesh.faces]
    faces = faces[_areas(points[faces]) > 0]
    groups = _group_rows(np.sort(faces, axis=1))
    _, first = np.unique(groups, return_index=True)
    return points, faces[np.sort(first)]


def _group_rows(rows: Ints) -> Ints:
    """Numbers the distinct rows of an array, in lexicographic order; returns each row's number.

    The same as ``np.unique(rows, axis=0, return_inverse=True)[1]``, which is ten times slower.
    """
    groups = np.zeros(len(rows), np.int64)
    for column in rows.T:
        _, values = np.unique(column, return_inverse=True)
        # Both factors are at most the number of rows, so the product fits into 64 bits.
        pairs = groups * (int(values.max()) + 1) + values.reshape(-1)
        groups = np.unique(pairs, return_inverse=True)[1].reshape(-1)
    return groups


def _search(
    points: Floats, faces: Ints, surface: _Surface, tolerance: float
) -> tuple[Floats, Ints]:
    """Searches for the smallest number of faces with which the surface stays within tolerance."""
    try:
        import fast_simplification
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(NO_DECIMATOR, name="fast_simplification") from error
    best = points, faces
    if len(faces) <= MIN_FACES:
        return best
    # Bisects the number of faces on a logarithmic scale, between a tetrahedron and the original.
    low, high = math.log(4), math.log(len(faces))
    for _ in range(NUM_ROUNDS):
        target = round(math.exp((low + high) / 2))
        for aggressiveness in AGGRESSIVENESS:
            fewer_points, fewer_faces = fast_simplification.simplify(
                points, faces.astype(np.int32), target_count=target, agg=aggressiveness
            )
            if len(fewer_faces) >= 4 and surface.is_near(fewer_points[fewer_faces], tolerance):
                high = math.log(target)
                best = fewer_points.astype(np.float64), fewer_faces.astype(np.int64)
                break
        else:
            low = math.log(target)
    return best


class _Surface:
    """The original surface, represented by sample points on its faces."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._samples, self._face_of = _sample(mesh.corners)
        self._directions = _normals(mesh.corners)[self._face_of]
        self._tree = cKDTree(self._samples)
        self._charts = _charts(mesh)

    def is_near(self, corners: Floats, tolerance: float) -> bool:
        """Returns whether triangles and this surface lie within ``tolerance`` metres.

        Args:
            corners: Corners of the triangles, shape ``(num_triangles, 3, 3)``.
            tolerance: Largest distance, in metres; a few of the probes may exceed it.
        """
        samples, face_of = _sample(corners)
        distances = _distances(_probes(samples), self._tree, self._face_of, self._mesh.corners)
        if not _are_within(distances, tolerance):
            return False  # saves the other direction, with its search tree
        distances = _distances(_probes(self._samples), cKDTree(samples), face_of, corners)
        return _are_within(distances, tolerance)

    def attributes(self, corners: Floats, blur: float) -> tuple[Floats, Floats | None]:
        """Returns normals and texture coordinates for triangles near this surface.

        A point of the surface with the opposite normal counts as ``2 * blur`` metres farther away.

        All corners of a triangle use the texture chart at the triangle's center: the coordinates
        jump from chart to chart, and a triangle between two charts would show all texels between
        them.
        """
        face_normals = _normals(corners)
        # Nearest in position and direction, because thin walls and edges have two sides.
        places = np.concatenate([self._samples, blur * self._directions], axis=-1)
        wanted = np.concatenate([corners.mean(axis=1), blur * face_normals], axis=-1)
        at_centers = self._face_of[cKDTree(places).query(wanted)[1]]
        charts = self._charts[at_centers]
        wanted = np.concatenate(
            [corners, np.repeat(blur * face_normals[:, None], 3, axis=1)], axis=-1
        )
        at_corners = np.empty((len(corners), 3), np.int64)
        chart_of_sample = self._charts[self._face_of]
        by_chart = np.argsort(chart_of_sample, kind="stable")
        sorted_charts = chart_of_sample[by_chart]
        for chart in np.unique(charts):
            in_triangles = np.flatnonzero(charts == chart)
            start, end = np.searchsorted(sorted_charts, (chart, chart + 1))
            in_chart = by_chart[start:end]
            nearest = cKDTree(places[in_chart]).query(wanted[in_triangles])[1]
            at_corners[in_triangles] = self._face_of[in_chart[nearest]]
        faces, points = at_corners.reshape(-1), corners.reshape(-1, 3)
        weights = _nearest_places(points, self._mesh.corners[faces]).reshape(-1, 3, 3)
        normals = np.einsum("fpc,fpcx->fpx", weights, self._mesh.normals[at_corners])
        length = np.linalg.norm(normals, axis=-1, keepdims=True)
        normals = np.where(length > 1e-6, normals / np.maximum(length, 1e-6), face_normals[:, None])
        if self._mesh.texcoords is None:
            return normals, None
        texcoords = np.einsum("fpc,fpcx->fpx", weights, self._mesh.texcoords[at_corners])
        return normals, self._unwrapped(texcoords, corners, at_centers)

    def _unwrapped(self, texcoords: Floats, corners: Floats, at_centers: Ints) -> Floats:
        """Returns texture coordinates without jumps inside of a triangle.

        A chart can also meet itself at a seam, as around a can. There the coordinates are
        extrapolated from the triangle's center beyond the seam, because textures repeat.
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


def _probes(samples: Floats) -> Floats:
    """Chooses from the points of `_sample`: by faces first, then by area."""
    rng = np.random.default_rng(0)
    by_faces, by_area = samples[:-NUM_SAMPLES], samples[-NUM_SAMPLES:]
    return np.concatenate([rng.choice(by_faces, NUM_PROBES), by_area[:NUM_PROBES]])


def _are_within(distances: Floats, tolerance: float) -> bool:
    """Returns whether enough of the probes by faces, and of those by area, are within tolerance."""
    is_deviating = (distances > tolerance).reshape(2, NUM_PROBES)
    return bool((is_deviating.mean(axis=1) <= MAX_DEVIATING).all())


def _distances(points: Floats, tree: cKDTree, face_of: Ints, corners: Floats) -> Floats:
    """Returns the distance of each point from a sampled surface, shape ``(num_points,)``.

    Args:
        points: Shape ``(num_points, 3)``.
        tree: Search tree of the surface's sample points.
        face_of: The face of each sample point, shape ``(num_samples,)``.
        corners: Corners of the surface's faces, shape ``(num_faces, 3, 3)``.
    """
    num = min(NUM_CANDIDATES, tree.n)
    faces = face_of[tree.query(points, k=num)[1].reshape(len(points), num)]
    candidates = corners[faces]
    weights = _nearest_places(np.repeat(points, num, axis=0), candidates.reshape(-1, 3, 3))
    nearest = np.einsum("nkc,nkcx->nkx", weights.reshape(*faces.shape, 3), candidates)
    offsets = nearest - points[:, None]
    distances: Floats = np.sqrt(_dot(offsets, offsets).min(axis=1))
    return distances


def _charts(mesh: Mesh) -> Ints:
    """Returns for each face the connected piece of the texture that it uses, ``(num_faces,)``."""
    num_faces = len(mesh.faces)
    if mesh.texcoords is None:
        return np.zeros(num_faces, np.int64)
    places = np.concatenate([mesh.corners, mesh.texcoords], axis=-1).astype(np.float32)
    places += 0.0  # -0.0 becomes 0.0, so that equal numbers have equal bits
    vertices = _group_rows(places.reshape(-1, 5).view(np.int32).astype(np.int64))
    rows, columns = np.repeat(np.arange(num_faces), 3), num_faces + vertices
    size = num_faces + int(vertices.max()) + 1
    graph = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=(size, size))
    charts: Ints = connected_components(graph, directed=False)[1][:num_faces].astype(np.int64)
    return charts


def _sample(corners: Floats) -> tuple[Floats, Ints]:
    """Returns points on triangles, shape ``(num_samples, 3)``, and the triangle of each."""
    rng = np.random.default_rng(0)  # so that equal meshes give equal results
    # The corners, moved inwards so that each belongs to one face, and the centre of each face.
    fixed = np.array(
        [[0.98, 0.01, 0.01], [0.01, 0.98, 0.01], [0.01, 0.01, 0.98], [1 / 3, 1 / 3, 1 / 3]]
    )
    per_face = np.einsum("wc,fcx->fwx", fixed, corners).reshape(-1, 3)
    areas = _areas(corners)
    faces = rng.choice(len(corners), NUM_SAMPLES, p=areas / areas.sum())
    weights = rng.dirichlet(np.ones(3), NUM_SAMPLES)
    spread = np.einsum("sc,scx->sx", weights, corners[faces])
    owners = np.concatenate([np.repeat(np.arange(len(corners)), len(fixed)), faces])
    return np.concatenate([per_face, spread]), owners


def _dot(a: Floats, b: Floats) -> Floats:
    """Returns the dot products along the last axis."""
    products: Floats = np.einsum("...x,...x->...", a, b)
    return products


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
    """Returns the point of each triangle nearest to each point, as weights of the corners.

    Args:
        points: Shape ``(n, 3)``.
        corners: Corners of one triangle per point, shape ``(n, 3, 3)``.

    Returns:
        Weights in [0, 1] that sum to 1, shape ``(n, 3)``.
    """
    weights = _barycentric(points, corners)
    outside = np.flatnonzero((weights < 0).any(axis=-1))
    points, corners = points[outside], corners[outside]
    nearest = np.full(len(outside), np.inf)
    for start, end in ((0, 1), (1, 2), (2, 0)):
        edge = corners[:, end] - corners[:, start]
        along = _dot(points - corners[:, start], edge) / _dot(edge, edge).clip(1e-30)
        along = along.clip(0.0, 1.0)
        offset = corners[:, start] + along[:, None] * edge - points
        distance = _dot(offset, offset)
        better = distance < nearest
        nearest = np.where(better, distance, nearest)
        here = outside[better]
        weights[here] = 0.0
        weights[here, start], weights[here, end] = 1.0 - along[better], along[better]
    return weights


def _barycentric(points: Floats, corners: Floats) -> Floats:
    """Returns the projection of each point to its triangle's plane, as weights of the corners.

    The weights, shape ``(n, 3)``, sum to 1; outside of the triangle one or two are negative.
    """
    a, ab, ac = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    ap = points - a
    d00, d01, d11 = _dot(ab, ab), _dot(ab, ac), _dot(ac, ac)
    d20, d21 = _dot(ap, ab), _dot(ap, ac)
    scale = np.maximum(d00 * d11 - d01 * d01, 1e-30)
    v, w = (d11 * d20 - d01 * d21) / scale, (d00 * d21 - d01 * d20) / scale
    weights: Floats = np.stack([1.0 - v - w, v, w], axis=-1)
    return weights
