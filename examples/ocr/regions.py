"""Connected regions of a bitmap, and the smallest turned rectangle round each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
# One horizontal stretch of set pixels: row, first column, column after the last.
Run = tuple[int, int, int]


def _runs_of_rows(bitmap: npt.NDArray[np.bool_]) -> list[list[Run]]:
    """The runs of every row, left to right."""
    edges = np.diff(np.pad(bitmap, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows: list[list[Run]] = [[] for _ in range(bitmap.shape[0])]
    # Both lists are in row-major order, so the n-th start belongs to the n-th end.
    starts, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    for (row, start), (_, end) in zip(starts.tolist(), ends.tolist(), strict=True):
        rows[row].append((row, start, end))
    return rows


def find_regions(bitmap: npt.NDArray[np.bool_]) -> list[list[Run]]:
    """The runs of each region; pixels that touch at a corner belong together."""
    parent: dict[Run, Run] = {}

    def root(run: Run) -> Run:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    above: list[Run] = []
    for runs in _runs_of_rows(bitmap):
        first = 0
        for run in runs:
            parent[run] = run
            while first < len(above) and above[first][2] < run[1]:
                first += 1
            # The last run that touches this one may touch the next one too.
            index = first
            while index < len(above) and above[index][1] <= run[2]:
                parent[root(above[index])] = root(run)
                index += 1
        above = runs
    regions: dict[Run, list[Run]] = {}
    for run in parent:
        regions.setdefault(root(run), []).append(run)
    return list(regions.values())


def outline(region: list[Run]) -> Points:
    """The corners of the region's runs as [n,2] points (x, y)."""
    corners = [
        (column, line) for row, start, end in region for column in (start, end) for line in (row, row + 1)
    ]
    return np.array(corners, dtype=np.float64)


def convex_hull(points: Points) -> Points:
    """The hull's corners in order (Andrew's monotone chain)."""
    ordered = sorted({(float(x), float(y)) for x, y in points})

    def chain(sequence: list[tuple[float, float]]) -> list[tuple[float, float]]:
        kept: list[tuple[float, float]] = []
        for x, y in sequence:
            while len(kept) > 1:
                (ax, ay), (bx, by) = kept[-2], kept[-1]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                    break
                kept.pop()
            kept.append((x, y))
        return kept[:-1]

    return np.array(chain(ordered) + chain(ordered[::-1]))


@dataclass(frozen=True)
class Rectangle:
    """A rectangle turned by less than 45 degrees; `along` is the unit vector of its width."""

    centre: Points
    along: Points
    width: float
    height: float

    def grown(self, distance: float) -> Rectangle:
        """The same with every side moved outwards."""
        return Rectangle(self.centre, self.along, self.width + 2 * distance, self.height + 2 * distance)

    def corners(self) -> Points:
        """Top left, top right, bottom right, bottom left."""
        across = np.array([-self.along[1], self.along[0]])
        half_width, half_height = self.along * (self.width / 2), across * (self.height / 2)
        return np.array(
            [
                self.centre - half_width - half_height,
                self.centre + half_width - half_height,
                self.centre + half_width + half_height,
                self.centre - half_width + half_height,
            ]
        )


def smallest_rectangle(points: Points) -> Rectangle:
    """The rectangle of least area that holds all points: one of its sides lies on a side of their hull."""
    hull = convex_hull(points)
    sides = np.roll(hull, -1, axis=0) - hull
    along = sides / np.linalg.norm(sides, axis=1, keepdims=True)
    # A quarter turn gives the same rectangle; keep the direction that points to the right.
    steep = np.abs(along[:, 0]) < np.abs(along[:, 1])
    along[steep] = np.stack([along[steep, 1], -along[steep, 0]], axis=1)
    along[along[:, 0] < 0] *= -1
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    u, v = hull @ along.T, hull @ across.T
    widths, heights = np.ptp(u, axis=0), np.ptp(v, axis=0)
    best = int(np.argmin(widths * heights))
    middle_u, middle_v = (u[:, best].min() + u[:, best].max()) / 2, (v[:, best].min() + v[:, best].max()) / 2
    centre = along[best] * middle_u + across[best] * middle_v
    return Rectangle(centre, along[best], float(widths[best]), float(heights[best]))
