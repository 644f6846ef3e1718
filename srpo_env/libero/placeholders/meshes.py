"""Creates closed triangle meshes with few faces, each a stack of outlines joined by their sides.

Cans, bottles, cartons, boxes and baskets are such stacks; they differ in the outline and in its
scale along the height. Texture coordinates have one layout: the unrolled sides in the upper part of
the image, the caps of the first and the last outline side by side below them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from srpo_env.types import Floats

CAP_INSET = 0.04
"""Margin of a cap in its part of the image, so that its border does not sample the neighbour."""


@dataclass(frozen=True)
class Mesh:
    """Triangles with separate indices of vertices and texture coordinates, as in OBJ files."""

    vertices: Floats  # (num_vertices, 3), metres
    texcoords: Floats  # (num_texcoords, 2), origin at the image's lower left
    faces: npt.NDArray[np.int64]  # (num_faces, 3), counter-clockwise from outside
    texfaces: npt.NDArray[np.int64]  # (num_faces, 3)

    def corner_normals(self, crease: float = 40.0) -> Floats:
        """Returns unit normals per corner of each face, shape ``(num_faces, 3, 3)``.

        Args:
            crease: Angle in degrees up to which neighbouring faces are shaded as one curved
                surface; sharper edges stay visible.
        """
        a, b, c = (self.vertices[self.faces[:, corner]] for corner in range(3))
        areas = np.cross(b - a, c - a)  # the face's normal, with twice its area as length
        units = areas / np.linalg.norm(areas, axis=1, keepdims=True)
        normals = np.empty((len(self.faces), 3, 3))
        for vertex in range(len(self.vertices)):
            faces, corners = np.nonzero(self.faces == vertex)
            is_smooth = units[faces] @ units[faces].T > np.cos(np.radians(crease))
            normals[faces, corners] = is_smooth @ areas[faces]
        unit_normals: Floats = normals / np.linalg.norm(normals, axis=2, keepdims=True)
        return unit_normals

    def to_obj(self) -> str:
        """Returns the mesh as the text of a Wavefront OBJ file."""
        normals = self.corner_normals().reshape(-1, 3)
        normal_ids = np.arange(len(normals)).reshape(-1, 3)
        corners = np.stack([self.faces, self.texfaces, normal_ids], axis=2) + 1
        lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in self.vertices]
        lines += [f"vt {u:.5f} {v:.5f}" for u, v in self.texcoords]
        lines += [f"vn {x:.4f} {y:.4f} {z:.4f}" for x, y, z in normals]
        for face in corners:
            lines.append("f " + " ".join(f"{v}/{vt}/{vn}" for v, vt, vn in face))
        return "\n".join(lines) + "\n"


def ellipse(num_points: int) -> Floats:
    """Returns the outline of an ellipse in the square [-1, 1]^2, shape ``(num_points, 2)``."""
    angles = np.linspace(0.0, 2 * np.pi, num_points, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def rectangle(bevel: float) -> Floats:
    """Returns the outline of a rectangle with cut corners in [-1, 1]^2, shape ``(8, 2)``."""
    a = 1.0 - bevel
    points = [(-a, -1), (a, -1), (1, -a), (1, a), (a, 1), (-a, 1), (-1, a), (-1, -a)]
    return np.array(points, dtype=np.float64)


def stack(
    outline: Floats,
    profile: Sequence[tuple[float, ...]],
    up: Literal["y", "z"],
    side_share: float,
    turns: int = 1,
) -> Mesh:
    """Joins scaled copies of ``outline`` into a closed mesh.

    Args:
        outline: Convex outline, counter-clockwise seen from above, shape ``(num_points, 2)``.
        profile: For each copy its height and its two half widths in metres, and optionally its
            position in the side part of the image, from 0 (bottom) to 1 (top); by default its
            share of the height.
        up: Axis of the height.
        side_share: Share of the image's height for the sides, in (0, 1).
        turns: Number of repetitions of the image around the sides.

    Returns:
        A mesh with ``2 * num_points * len(profile)`` faces.
    """
    num = len(outline)
    rings = np.array([row[:3] for row in profile])
    heights = rings[:, 0]
    default_rows = (heights - heights[0]) / (heights[-1] - heights[0])
    rows = np.array(
        [row[3] if len(row) > 3 else v for row, v in zip(profile, default_rows, strict=True)]
    )
    points = np.concatenate(
        [
            outline[None] * rings[:, None, 1:],
            np.broadcast_to(heights[:, None, None], (len(rings), num, 1)),
        ],
        axis=2,
    ).reshape(-1, 3)
    centres = np.array([[0.0, 0.0, heights[0]], [0.0, 0.0, heights[-1]]])
    vertices = np.concatenate([points, centres])
    if up == "y":
        vertices = np.stack([vertices[:, 0], vertices[:, 2], -vertices[:, 1]], axis=1)

    # --- Sides: two triangles per piece of outline and pair of neighbouring rings ---
    ring, piece = (grid.ravel() for grid in np.mgrid[: len(rings) - 1, :num])
    low, low_next = ring * num + piece, ring * num + (piece + 1) % num
    sides = _quads(low, low_next, low_next + num, low + num)
    # The seam has texture coordinates at both ends of the image, so there is one more than points.
    around = turns * _share_of_length(np.concatenate([outline, outline[:1]]))
    upper = 1.0 - side_share + side_share * rows
    side_coords = np.stack(np.broadcast_arrays(around[None], upper[:, None]), axis=2).reshape(-1, 2)
    tex = ring * (num + 1) + piece
    side_texfaces = _quads(tex, tex + 1, tex + num + 2, tex + num + 1)

    # --- Caps: fans around a center; the first one is mirrored, because it is seen from below ---
    i = np.arange(num)
    j = (i + 1) % num
    first, last = len(points), len(points) + 1
    top = len(points) - num
    caps = np.concatenate(
        [
            np.stack([np.full(num, first), j, i], axis=1),
            np.stack([np.full(num, last), top + i, top + j], axis=1),
        ]
    )
    scale = 0.5 - CAP_INSET
    tile = np.concatenate([outline, np.zeros((1, 2))]) * scale + 0.5  # in [0, 1]^2
    first_cap = np.stack([(1.0 - tile[:, 0]) / 2, tile[:, 1] * (1.0 - side_share)], axis=1)
    last_cap = np.stack([0.5 + tile[:, 0] / 2, tile[:, 1] * (1.0 - side_share)], axis=1)
    base = len(side_coords)
    cap_texfaces = np.concatenate(
        [
            np.stack([np.full(num, base + num), base + j, base + i], axis=1),
            np.stack(
                [np.full(num, base + 2 * num + 1), base + num + 1 + i, base + num + 1 + j], axis=1
            ),
        ]
    )
    return Mesh(
        vertices,
        np.concatenate([side_coords, first_cap, last_cap]),
        np.concatenate([sides, caps]),
        np.concatenate([side_texfaces, cap_texfaces]),
    )


def _quads(
    a: npt.NDArray[np.int64],
    b: npt.NDArray[np.int64],
    c: npt.NDArray[np.int64],
    d: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    return np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])


def _share_of_length(points: Floats) -> Floats:
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    shares: Floats = along / along[-1]
    return shares
