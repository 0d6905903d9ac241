"""Labels of points in a plot, placed so that they cover neither points nor each other."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from peft_tradeoffs.report import style

DISTANCES = (2, 4, 6, 10, 16, 24, 34, 46, 60)  # points (1/72 inch) between a marker and its label
ANGLES = range(0, 360, 15)
LEADER = 8  # points: a label further away gets a line to its point


def place_labels(
    axes: Axes,
    members: Sequence[int],
    names: Sequence[str],
    points: np.ndarray,
    radii: np.ndarray,
    path: np.ndarray,
    direction: float,
) -> None:
    """Write the names of some of the plot's points beside them; call once the axes' limits are final.

    `points` [n, 2] are all markers in data coordinates, `radii` [n] their sizes in points (1/72 inch),
    `members` the indices of those named, `path` [m, 2] a polyline to keep clear of, `direction` the side of a
    point [degrees, 0 is right, 90 up] where a label stands best. A label covers a marker or
    another label only where there is no free place.
    """
    figure = axes.figure
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    dot = figure.dpi / 72
    scene = Scene(
        axes.get_window_extent(renderer),
        axes.transData.transform(points),
        radii * dot,
        dense(axes.transData.transform(path), 4 * dot),
        2 * dot,
        [],
    )
    for index, name in sorted(zip(members, names, strict=True), key=lambda pair: -points[pair[0], 1]):
        note = axes.annotate(name, points[index], xytext=(0, 0), textcoords="offset points", fontsize=style.SMALL)
        note.set_in_layout(False)
        note.set_path_effects([withStroke(linewidth=2, foreground="white")])
        extent = note.get_window_extent(renderer)
        centre, radius = scene.markers[index], scene.radii[index]
        places = [
            (
                distance + 3 * (1 - math.cos(math.radians(angle - direction))),
                distance,
                place(centre, extent.width, extent.height, angle, radius + distance * dot),
            )
            for distance in DISTANCES
            for angle in ANGLES
        ]
        _, distance, box = min(places, key=lambda found: found[0] + scene.cost(found[2], index))
        scene.labels.append(box)
        note.set_position(((box.x0 - centre[0]) / dot, (box.y0 - centre[1]) / dot))
        if distance > LEADER:
            ends = axes.transData.inverted().transform([centre, nearest(box, centre)])
            axes.plot(*ends.T, color="#8a8a8a", linewidth=0.5, zorder=2, scalex=False, scaley=False)


@dataclass(frozen=True)
class Scene:
    """What labels must not cover, in pixels."""

    frame: Bbox  # the axes
    markers: np.ndarray  # [n, 2] centres
    radii: np.ndarray  # [n]
    path: np.ndarray  # [m, 2] points along the polyline
    gap: float  # what stays free around a label
    labels: list[Bbox]  # those written so far

    def cost(self, box: Bbox, own: int) -> float:
        """What marker `own`'s label would cover in this box, weighted; 0 where all is free and `own` is nearest."""
        beyond = max(self.frame.x0 - box.x0, box.x1 - self.frame.x1, self.frame.y0 - box.y0, box.y1 - self.frame.y1)
        gaps = np.maximum(np.maximum(box.min - self.markers, self.markers - box.max), 0)
        free = np.hypot(*gaps.T) - self.radii
        hidden = int((free < self.gap / 2).sum())
        strange = free.min() < free[own]
        near = box.padded(self.gap)
        others = sum(near.overlaps(other) for other in self.labels)
        crossed = int(np.all((self.path >= near.min) & (self.path <= near.max), axis=1).sum())
        return 1000 * (beyond > 0) + 400 * others + 150 * hidden + 12 * crossed + 100 * strange


def place(centre: np.ndarray, width: float, height: float, angle: float, distance: float) -> Bbox:
    """The box [pixels] of a label whose edge is about `distance` from `centre` in the direction `angle`."""
    turn = math.radians(angle)
    across, up = math.cos(turn), math.sin(turn)
    middle = (centre[0] + across * (distance + width / 2), centre[1] + up * (distance + height / 2))
    return Bbox.from_bounds(middle[0] - width / 2, middle[1] - height / 2, width, height)


def nearest(box: Bbox, point: np.ndarray) -> tuple[float, float]:
    """The point of the box that is nearest to a point outside it."""
    return min(max(point[0], box.x0), box.x1), min(max(point[1], box.y0), box.y1)


def dense(path: np.ndarray, gap: float) -> np.ndarray:
    """Points along a polyline [n, 2], at most `gap` apart."""
    parts = [path[:1]]
    for start, end in itertools.pairwise(path):
        steps = max(1, math.ceil(float(np.hypot(*(end - start))) / gap))
        parts.append(start + (end - start) * np.linspace(0, 1, steps + 1)[1:, None])
    return np.concatenate(parts)
