"""Labels of points in a plot, placed so that they cover neither points nor each other."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

DISTANCES = (7, 11, 16, 23, 32, 44, 58)  # points between a label's point and its nearest edge
ANGLES = range(0, 360, 15)
LEADER = 16  # points: a label further away gets a line to its point


def place_labels(
    axes: Axes, points: Sequence[tuple[float, float, str]], obstacles: np.ndarray, lines: np.ndarray
) -> None:
    """Write each point's text beside it; call once the axes' limits are final.

    `points` are (x, y, text); `obstacles` [n, 2] are markers and `lines` [m, 2] vertices of a polyline, all in
    data coordinates. A label covers an obstacle or another label only where there is no free place.
    """
    figure = axes.figure
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    dot = figure.dpi / 72
    markers = axes.transData.transform(obstacles)
    path = dense(axes.transData.transform(lines), 4 * dot) if len(lines) > 1 else np.empty((0, 2))
    inside = axes.get_window_extent(renderer)
    taken: list[Bbox] = []
    for x, y, text in sorted(points, key=lambda point: -point[1]):
        note = axes.annotate(text, (x, y), xytext=(0, 0), textcoords="offset points", fontsize=7.5)
        note.set_in_layout(False)
        extent = note.get_window_extent(renderer)
        centre = axes.transData.transform((x, y))
        cost, offset, box, distance = min(
            (
                candidate(centre, extent.width, extent.height, angle, distance * dot, inside, taken, markers, path)
                for distance in DISTANCES
                for angle in ANGLES
            ),
            key=lambda found: found[0],
        )
        taken.append(box)
        note.set_position((offset[0] / dot, offset[1] / dot))
        if distance > LEADER * dot:
            middle = (box.x0 + box.width / 2, box.y0 + box.height / 2)
            ends = axes.transData.inverted().transform([centre, nearest(box, centre, middle)])
            axes.plot(*ends.T, color="#8a8a8a", linewidth=0.5, zorder=2, scalex=False, scaley=False)


def candidate(centre, width, height, angle, distance, inside, taken, markers, path):  # noqa: ANN001, ANN201
    """Cost, offset of the lower left corner, box and distance of one place for a label, all in pixels."""
    turn = math.radians(angle)
    across, up = math.cos(turn), math.sin(turn)
    left = centre[0] + across * (distance + width / 2) - width / 2
    low = centre[1] + up * (distance + height / 2) - height / 2
    box = Bbox.from_bounds(left, low, width, height)
    outside = max(0, inside.x0 - box.x0, box.x1 - inside.x1, inside.y0 - box.y0, box.y1 - inside.y1)
    wide = box.padded(3)
    cost = distance + 1000 * (outside > 0)
    cost += 400 * sum(wide.overlaps(other) for other in taken)
    cost += 120 * count(box.padded(6), markers) + 12 * count(wide, path)
    return cost, (left - centre[0], low - centre[1]), box, distance


def count(box: Bbox, points: np.ndarray) -> int:
    """How many of the points [n, 2] lie in the box."""
    return int(np.all((points >= box.min) & (points <= box.max), axis=1).sum())


def nearest(box: Bbox, point: Sequence[float], middle: tuple[float, float]) -> tuple[float, float]:
    """Where a line from the box's middle to the point leaves the box."""
    across, up = point[0] - middle[0], point[1] - middle[1]
    share = min(
        box.width / 2 / abs(across) if across else math.inf,
        box.height / 2 / abs(up) if up else math.inf,
        1.0,
    )
    return middle[0] + share * across, middle[1] + share * up


def dense(path: np.ndarray, gap: float) -> np.ndarray:
    """Points along a polyline [n, 2], at most `gap` apart."""
    parts = [path[:1]]
    for start, end in zip(path[:-1], path[1:], strict=True):
        steps = max(1, math.ceil(float(np.hypot(*(end - start))) / gap))
        parts.append(start + (end - start) * np.linspace(0, 1, steps + 1)[1:, None])
    return np.concatenate(parts)
