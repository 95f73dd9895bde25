"""A chest in millimetres and the tissue that a ray meets in it, seen from the front or from the side.

Axes: x from the midline, positive to the patient's left; y down from the lung apices; z from the front of the chest
to its back. A frontal film projects along z, a lateral one along x. The patient's right is the viewer's left.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Array = NDArray[Any]  # float32
Stroke = tuple[Array, float, float]  # points (points xyz) in mm, width in mm, thickness in mm
SIGN = {"right": -1, "left": 1}
RIB_HALF_HEIGHT = 6.0  # mm


@dataclass(frozen=True)
class Anatomy:
    """One patient's chest; lengths in mm. `domes` and `raised` are (right, left)."""

    half_width: float  # of the inner thorax at its widest
    height: float  # from the apices to the middle of the domes
    depth: float  # of the inner thorax, front to back
    wall: float  # soft tissue over the ribs
    domes: tuple[float, float]
    heart_ratio: float  # cardiothoracic ratio
    heart_tilt: float
    mediastinum: float  # half width of the upper mediastinum
    widening: float  # added to it by disease
    raised: tuple[float, float]  # how far disease lifts each hemidiaphragm
    rib_spacing: float
    rib_start: float
    rib_slope: float
    scoliosis: float
    trachea: float
    breast: float  # radius; 0 for none
    bubble: float  # radius of the stomach's air; 0 for none
    vessels: int  # seed of the vascular tree

    def dome(self, side: str) -> float:
        """y of the top of a hemidiaphragm."""
        index = 0 if side == "right" else 1
        return self.domes[index] - self.raised[index]

    def at(self, side: str, across: float, down: float, back: float) -> Array:
        """(xyz) of a point given as fractions of half width, height and depth."""
        return np.array([SIGN[side] * across * self.half_width, down * self.height, back * self.depth], np.float32)

    def wall_at(self, y: Array) -> Array:
        """Half width of the inner thorax at a height."""
        level = np.clip(y / (0.85 * self.height), 0, 1)
        return self.half_width * (0.40 + 0.60 * np.sqrt(1 - (1 - level) ** 2.3))

    def rib_at(self, u: Array, rib: float) -> Array:
        """y of the middle of a posterior rib at a distance u from the midline; ribs count from 0 at the top."""
        out = np.clip(u - 18, 0, None) / self.half_width
        drop: Array = self.half_width * (self.rib_slope * out + 0.22 * out**4)
        return self.rib_start + rib * self.rib_spacing + drop

    def heart_half_width(self) -> float:
        return self.heart_ratio * self.half_width


def sample_anatomy(rng: np.random.Generator) -> Anatomy:
    """A patient without disease: cardiothoracic ratio at most 0.47, upper mediastinum at most 64 mm wide."""
    habitus = rng.uniform(0.9, 1.1)
    height = rng.uniform(205, 235) * habitus
    return Anatomy(
        half_width=rng.uniform(128, 146) * habitus,
        height=height,
        depth=rng.uniform(175, 215) * habitus,
        wall=rng.uniform(14, 38),
        domes=(height - rng.uniform(2, 8), height + rng.uniform(4, 12)),
        heart_ratio=rng.uniform(0.38, 0.47),
        heart_tilt=rng.uniform(0.25, 0.45),
        mediastinum=rng.uniform(24, 29) * habitus,
        widening=0.0,
        raised=(0.0, 0.0),
        rib_spacing=rng.uniform(22, 26) * habitus,
        rib_start=rng.uniform(-16, -2),
        rib_slope=rng.uniform(0.10, 0.26),
        scoliosis=rng.uniform(-5, 5),
        trachea=rng.uniform(-4, 3),
        breast=rng.uniform(45, 65) if rng.random() < 0.5 else 0.0,
        bubble=rng.uniform(14, 24) if rng.random() < 0.6 else 0.0,
        vessels=int(rng.integers(2**31)),
    )


def edge(distance: Array, radius: float) -> Array:
    """Relative chord of a body with a rounded border: 0 outside, 1 at `radius` mm inside its outline."""
    inside = distance / np.float32(radius)
    np.clip(inside, 0, 1, out=inside)
    inside *= 2 - inside
    return np.sqrt(inside, out=inside)


def smooth(distance: Array, width: float) -> Array:
    """0 to 1 across a border `width` mm wide."""
    return np.clip(distance / np.float32(width) + 0.5, 0, 1)


def bump(y: Array, centre: float, width: float) -> Array:
    return np.exp(-(((y - centre) / width) ** 2))


@dataclass
class Canvas:
    """The detector: where each pixel lies, and drawing of bodies as path lengths in mm."""

    view: str
    rows: int
    columns: int
    pixel: float  # mm
    centre: tuple[float, float]  # y and x (frontal) or z (lateral) of the film's middle
    y: Array = field(init=False)  # (rows 1)
    h: Array = field(init=False)  # (1 columns): x or z

    def __post_init__(self) -> None:
        self.y = self._axis(self.rows, self.centre[0])[:, None]
        self.h = self._axis(self.columns, self.centre[1])[None, :]

    def _axis(self, count: int, middle: float) -> Array:
        return ((np.arange(count) - (count - 1) / 2) * self.pixel + middle).astype(np.float32)

    def project(self, points: Array) -> Array:
        """(points xyz) in mm to (points 2), column and row."""
        across = points[:, 0 if self.view == "frontal" else 2]
        return np.stack([(across - self.h[0, 0]) / self.pixel, (points[:, 1] - self.y[0, 0]) / self.pixel], axis=1)

    def ellipsoid(self, layer: Array, centre: Array, radii: Sequence[float], mm: float, soft: bool = False) -> None:
        """Add an ellipsoid, `mm` thick at its middle, to a layer (rows columns); a soft one fades like a Gaussian."""
        reach = 2.2 if soft else 1.0
        across = 0 if self.view == "frontal" else 2
        column, row = self.project(centre[None])[0]
        wide, high = reach * radii[across] / self.pixel + 1, reach * radii[1] / self.pixel + 1
        rows = slice(max(0, int(row - high)), max(0, int(row + high) + 1))
        columns = slice(max(0, int(column - wide)), max(0, int(column + wide) + 1))
        q = ((self.y[rows] - centre[1]) / radii[1]) ** 2 + ((self.h[:, columns] - centre[across]) / radii[across]) ** 2
        layer[rows, columns] += mm * (np.exp(-q) if soft else np.sqrt(np.clip(1 - q, 0, None)))

    def strokes(self, strokes: Sequence[Stroke]) -> Array:
        """Tubes along polylines, (rows columns) in mm; where they cross, the last one counts."""
        scale = 255 / max(mm for _, _, mm in strokes)
        image = Image.new("L", (2 * self.columns, 2 * self.rows))
        pen = ImageDraw.Draw(image)
        corners, start = (2 * self.project(np.concatenate([points for points, _, _ in strokes]))).tolist(), 0
        for points, width, mm in strokes:
            line = [tuple(corner) for corner in corners[start : start + len(points)]]
            pen.line(line, fill=round(mm * scale), width=max(1, round(2 * width / self.pixel)), joint="curve")
            start += len(points)
        return np.asarray(image.reduce(2), np.float32) / np.float32(scale)


def bezier(*points: Array) -> Array:
    """A smooth curve (24 xyz) with these control points (de Casteljau)."""
    t = np.linspace(0, 1, 24, dtype=np.float32)[:, None]
    curves: list[Array] = [np.broadcast_to(p, (24, 3)) for p in points]
    while len(curves) > 1:
        curves = [(1 - t) * a + t * b for a, b in pairwise(curves)]
    return curves[0]


def vascular_tree(anatomy: Anatomy) -> list[Stroke]:
    """Vessels that branch from both hila towards the pleura, thinnest first."""
    rng = np.random.default_rng(anatomy.vessels)
    strokes: list[Stroke] = []
    for side in ("right", "left"):
        start = np.tile(anatomy.at(side, 0.24, 0.47 if side == "right" else 0.44, 0.55), (11, 1))
        angle = np.linspace(-1.4, 1.35, 11) + rng.normal(0, 0.08, 11)  # 0 points to the side, positive down
        length, width = 0.30 * anatomy.height * rng.uniform(0.7, 1.1, 11), 5.0
        for _ in range(4):
            step = np.stack([SIGN[side] * np.cos(angle) * length, np.sin(angle) * length], axis=1)
            end = start + np.column_stack([step, rng.normal(0, 0.35, len(angle)) * length]).astype(np.float32)
            middle = (start + end) / 2 + rng.normal(0, 0.05, start.shape) * length[:, None]
            for path in np.stack([start, middle, end], axis=1).astype(np.float32):
                strokes.append((path, width, 1.9 * width))
            start, width = np.repeat(end, 2, axis=0), width * 0.66
            spread = rng.uniform(0.18, 0.55, len(angle))
            angle = np.column_stack([angle - spread, angle + spread]).ravel()
            length = np.repeat(length, 2) * rng.uniform(0.45, 0.8, len(angle))
    return sorted(strokes, key=lambda stroke: stroke[1])


@dataclass
class Layers:
    """What rays meet, each (rows columns) in mm. `lungs`, and their margins, are keyed by side."""

    body: Array
    lungs: dict[str, Array]
    solid: Array  # heart and mediastinum
    soft: Array  # soft tissue on top of everything else, vessels included; negative for air passages
    haze: Array  # lung that is filled: never more than there is
    air: Array  # lung that holds air without tissue: a pneumothorax
    bone: Array
    metal: Array
    vessels: Array


def project_chest(canvas: Canvas, a: Anatomy, tree: Sequence[Stroke]) -> Layers:
    """The chest without what findings add."""
    y, h = canvas.y, canvas.h
    zeros = [np.zeros((canvas.rows, canvas.columns), np.float32) for _ in range(5)]
    body, lungs, solid, bone = (_frontal if canvas.view == "frontal" else _lateral)(a, y, h)
    soft, haze, air, metal, hila = zeros
    vessels = canvas.strokes(tree) * smooth(lungs["right"] + lungs["left"] - 15, 30)
    for side in ("right", "left"):
        canvas.ellipsoid(hila, a.at(side, 0.22, 0.46, 0.55), (15, 24, 18), 16, soft=True)
        if a.breast:
            r = a.breast
            canvas.ellipsoid(soft, a.at(side, 0.55, 0.75, 0.02), (r, 0.85 * r, 0.4 * r), 0.35 * r)
    if a.bubble:
        canvas.ellipsoid(
            soft, a.at("left", 0.42, a.dome("left") / a.height + 0.15, 0.5), (1.3 * a.bubble, a.bubble, 25), -30
        )
    middle = 0.55 * a.depth
    carina = np.array([a.trachea, 0.40 * a.height, middle], np.float32)
    top = np.array([a.trachea, -90, 0.45 * a.depth], np.float32)
    airway = [(np.stack([top, carina]), 15.0, 14.0)]
    airway += [(np.stack([carina, a.at(s, 0.20, 0.47, 0.56)]), 9.0, 9.0) for s in ("right", "left")]
    soft -= canvas.strokes(airway)
    soft += hila + vessels
    return Layers(body, lungs, solid, soft, haze, air, bone, metal, vessels)


def _frontal(a: Anatomy, y: Array, x: Array) -> tuple[Array, dict[str, Array], Array, Array]:
    u, wall = np.abs(x), a.wall_at(y)
    shoulder = np.interp(u[0], [0, 48, 62, 110, 200], [-400, -300, -42, -30, 25]).astype(np.float32)[None]
    side_border = wall + a.wall + 70 * bump(y, 25, 60)
    body = 1.12 * a.depth * edge(np.minimum(side_border - u, y - shoulder), 70)
    lungs = {s: _frontal_lung(a, s, y, x * SIGN[s], wall) for s in ("right", "left")}

    hx = a.heart_half_width()
    hy, x0 = 0.50 * hx + 22, 0.30 * hx
    y0 = a.domes[1] - 0.72 * hy
    q = ((x - x0) / hx) ** 2 + ((y - y0 - a.heart_tilt * (x - x0)) / hy) ** 2
    heart = 1.5 * hx * np.sqrt(np.clip(1 - q, 0, None))
    wide = a.widening * bump(y, 0.30 * a.height, 0.24 * a.height)
    right = a.mediastinum - 4 + 4 * bump(y, 0.6 * a.height, 30) + wide
    left = a.mediastinum - 5 + 9 * bump(y, 0.31 * a.height, 14) + 5 * bump(y, 0.46 * a.height, 16) + wide
    column = 0.5 * a.depth * edge(np.minimum(right + x, left - x), 16)
    solid = np.maximum(heart, column)

    spine_x = x - a.scoliosis * np.sin(y / 90)
    vertebrae = 1 - 0.35 * smooth(0.1 - np.abs((y / a.rib_spacing) % 1 - 0.5), 0.03)
    bone = 9 * edge(17 - np.abs(spine_x), 4) * vertebrae
    bone += 4 * edge(3.5 - np.abs(spine_x), 3) * smooth(0.25 - np.abs((y / a.rib_spacing + 0.3) % 1 - 0.5), 0.05)
    bone += _ribs(a, y, u, wall)
    for s in SIGN.values():  # clavicle, then the humeral head
        along = np.clip((s * x - 14) / 130, 0, 1)
        axis = 24 - 40 * along - 6 * np.sin(along * 2 * np.pi)
        bone += 9 * edge(6.5 - np.abs(y - axis), 4) * smooth(s * x - 14, 4) * smooth(150 - s * x, 4)
        bone += 22 * np.sqrt(np.clip(1 - ((s * x - 178) ** 2 + (y - 22) ** 2) / 24**2, 0, None))
    return body, lungs, solid, bone


def _frontal_lung(a: Anatomy, side: str, y: Array, u: Array, wall: Array, sunk: float = 0.0) -> Array:
    """Depth of a lung; `sunk` mm is how far a pneumothorax lets its apex and side fall in."""
    return a.depth * (0.42 + 0.3 * np.clip(y / a.height, 0, 1)) * _product(lung_margins(a, side, y, u, wall, sunk))


def lung_margins(
    a: Anatomy, side: str, y: Array, u: Array, wall: Array, sunk: float = 0.0
) -> list[tuple[Array, float]]:
    """Distances in mm from the lung's borders, each with the radius that rounds it: side, midline, apex, diaphragm."""
    centre = 0.40 * a.half_width
    falls = sunk * np.exp(-(np.clip(y / (0.75 * a.height), 0, None) ** 2))
    apex = y - 1.1 * sunk - 0.012 * (u - centre) ** 2
    top = 0.5 * a.half_width
    outwards = np.clip((u - top) / (a.half_width - top), 0, None)
    inwards = np.clip((top - u) / top, 0, None)
    floor = a.dome(side) + 0.19 * a.height * outwards**2.2 + 0.05 * a.height * inwards**2
    return [(wall - falls - u, 38.0), (u - 10 - 0 * y, 14.0), (apex, 26.0), (floor - y, 9.0)]


def _product(margins: Sequence[tuple[Array, float]]) -> Array:
    result = edge(*margins[0])
    for distance, radius in margins[1:]:
        result = result * edge(distance, radius)
    return result


def _ribs(a: Anatomy, y: Array, u: Array, wall: Array) -> Array:
    """All ribs at once: a rib is where the phase, one per rib spacing, passes its middle."""
    inside = smooth(wall + 6 - u, 5) * smooth(u - 20, 8)
    behind = (y - a.rib_at(u, 0)) / a.rib_spacing
    bone = 5.5 * _band(behind, a.rib_spacing, RIB_HALF_HEIGHT) * ((behind > -0.5) & (behind < 9.5))
    bone *= 1 + 1.2 * np.clip(u / wall, 0, 1.1) ** 8  # seen end on, a rib is thicker
    in_front = (y - a.rib_start - 0.62 * (a.half_width - u) - 0.30 * a.height) / (1.12 * a.rib_spacing)
    front = 3.2 * _band(in_front, 1.12 * a.rib_spacing, 7.0) * ((in_front > -1.5) & (in_front < 5.5))
    return inside * (bone + front * smooth(u - 0.42 * a.half_width, 25))


def _band(phase: Array, spacing: float, half: float) -> Array:
    """A rib's cross-section, its cortex denser than its marrow."""
    off = np.abs(phase - np.rint(phase)) * np.float32(spacing)
    rib: Array = edge(half - off, 2.5) * (0.75 + 0.5 * smooth(off - half + 2.2, 1))
    return rib


def _lateral(a: Anatomy, y: Array, z: Array) -> tuple[Array, dict[str, Array], Array, Array]:
    level = np.clip(y / a.height, 0, 1.1)
    front = a.depth * (0.03 + 0.24 * np.clip(1 - level, 0, 1) ** 1.2)
    back = a.depth * (1.0 - 0.13 * np.clip(1 - level, 0, 1) ** 2)
    neck = np.clip(-y / 60, 0, 1)
    border = np.minimum(z - front + a.wall * 0.8 + 8, back + a.wall + 22 - z) - 25 * neck
    body = (1.25 * a.half_width + 0.5 * a.wall_at(y) + a.wall) * edge(border, 60)
    lungs = {s: _lateral_lung(a, s, y, z, front, back) for s in ("right", "left")}
    hx = a.heart_half_width()
    hz, hy = 0.62 * hx + 8, 0.52 * hx + 24
    z0, y0 = front + hz - 2, a.domes[1] - 0.70 * hy
    q = ((z - z0) / hz) ** 2 + ((y - y0 - 0.35 * (z - z0)) / hy) ** 2
    heart = 1.5 * hx * np.sqrt(np.clip(1 - q, 0, None))
    axis = 0.53 * a.depth
    vessels_width = (20 + 0.6 * a.widening) * (1 - 0.5 * smooth(y - 0.5 * a.height, 40))
    column = (1.7 * a.mediastinum + 1.4 * a.widening) * edge(vessels_width - np.abs(z - axis), 14)
    spine = back - 10 - z
    vertebrae = 1 - 0.55 * smooth(0.12 - np.abs((y / a.rib_spacing) % 1 - 0.5), 0.03)
    bone = 20 * edge(16 - np.abs(spine), 4) * vertebrae + 6 * edge(5 - np.abs(spine + 26), 5) * vertebrae
    bone += 14 * edge(5 - np.abs(z - front + 6), 3) * smooth(y - 0.12 * a.height, 8) * smooth(0.72 * a.height - y, 8)
    for offset in (0.0, 0.37):  # the two sides' ribs do not coincide
        run = (a.depth - z) / a.depth
        phase = (y - a.rib_start - 1.1 * a.rib_spacing * (offset + 3.2 * run - 0.6 * run**2)) / (1.1 * a.rib_spacing)
        bone += 3.0 * _band(phase, 1.1 * a.rib_spacing, 5.0) * smooth(border - 22, 10) * ((phase > 0) & (phase < 9.5))
    return body, lungs, np.maximum(heart, column), bone


def _lateral_lung(a: Anatomy, side: str, y: Array, z: Array, front: Array, back: Array) -> Array:
    return (
        0.60
        * a.wall_at(y)
        * _product(
            [
                (z - front, 22.0),
                (back - z, 28.0),
                (y - 0.012 * (z - 0.6 * a.depth) ** 2, 24.0),
                (lateral_floor(a, side, z) - y, 9.0),
            ]
        )
    )


def lateral_floor(a: Anatomy, side: str, z: Array) -> Array:
    """y of the diaphragm from the front to the posterior sulcus, its deepest point."""
    behind = z / a.depth - 0.42
    rise = np.clip(-behind, 0, None) / 0.42
    return a.dome(side) + a.height * (0.10 * rise**1.6 + 0.30 * (np.clip(behind, 0, None) / 0.55) ** 2)
