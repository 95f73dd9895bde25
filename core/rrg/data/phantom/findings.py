"""The observations as things with a place, a size and a severity: chosen at random, and drawn into a chest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rrg.data.phantom.anatomy import (
    SIGN,
    Anatomy,
    Array,
    Canvas,
    Layers,
    Stroke,
    bezier,
    bump,
    edge,
    lateral_floor,
    lung_margins,
    smooth,
)
from rrg.observations import OBSERVATIONS

LOBES = {  # side; centre as fractions of half width, height and depth
    "right upper lobe": ("right", 0.50, 0.30, 0.52),
    "right middle lobe": ("right", 0.56, 0.66, 0.32),
    "right lower lobe": ("right", 0.58, 0.83, 0.72),
    "left upper lobe": ("left", 0.54, 0.32, 0.50),
    "left lingula": ("left", 0.70, 0.64, 0.32),
    "left lower lobe": ("left", 0.70, 0.84, 0.72),
}
DEGREES = {"extent": ("small", "moderate", "large"), "severity": ("mild", "moderate", "severe")}
DEVICES = ("pacemaker", "central venous catheter", "chest tube", "endotracheal tube", "sternotomy wires")
FAINT = 0.5  # how much of an uncertain finding's attenuation or extent is drawn


@dataclass(frozen=True)
class Finding:
    """One observation as drawn and as reported."""

    observation: str
    seed: int  # draws its shape
    certain: bool = True
    side: str = ""  # right, left or bilateral
    place: str = ""  # a lobe, part of the pleura or of a rib, or a device
    degree: int = 0  # 0, 1, 2: index into DEGREES
    size: int = 0  # mm
    ribs: tuple[int, ...] = ()  # counted from 1

    @property
    def strength(self) -> float:
        return 1.0 if self.certain else FAINT


def sample_findings(rng: np.random.Generator) -> list[Finding]:
    """No finding in 22 % of studies, else one to four that do not hide one another; devices in 17 %, by themselves."""
    chosen: list[str] = []
    if rng.random() > 0.22:
        diseases = [o for o in OBSERVATIONS if o not in ("No Finding", "Support Devices")]
        chosen = [
            str(o) for o in rng.choice(diseases, rng.choice([1, 2, 3, 4], p=[0.17, 0.34, 0.3, 0.19]), replace=False)
        ]
    sides = {zone: list(rng.permutation(["right", "left"])) for zone in ("apex", "base")}
    lobes = list(rng.permutation(list(LOBES)))
    findings = []
    for observation in chosen:
        certain, seed = bool(rng.random() > 0.13), int(rng.integers(2**31))
        # Two findings at one base, or at one apex, would hide each other.
        zone = "apex" if observation == "Pneumothorax" else "base"
        side = place = ""
        size = 0
        ribs: tuple[int, ...] = ()
        degree = int(rng.integers(3)) if certain else int(rng.integers(2))
        if observation in ("Pneumothorax", "Atelectasis", "Pleural Effusion", "Pneumonia"):
            side = sides[zone][0]
            sides[zone].reverse()
        if observation == "Pneumonia":
            place = f"{side} lower lobe"
            lobes = [lobe for lobe in lobes if lobe != place]
        elif observation in ("Lung Opacity", "Lung Lesion", "Consolidation"):
            place = next(
                lobe for lobe in lobes if observation != "Consolidation" or "lower" not in lobe or len(chosen) == 1
            )
            lobes.remove(place)
            side = LOBES[place][0]
            size = int(rng.choice([14, 18, 22, 26] if not certain or rng.random() < 0.55 else [34, 40, 48]))
        elif observation == "Pleural Other":
            side, place = str(rng.choice(["right", "left"])), str(rng.choice(["apical", "lateral"]))
            if place == "apical" and "Pneumothorax" in chosen:
                place = "lateral"
        elif observation == "Fracture":
            side, place = str(rng.choice(["right", "left"])), str(rng.choice(["posterior", "lateral"]))
            first = int(rng.integers(4, 8))
            ribs = (first,) if not certain or rng.random() < 0.4 else (first, first + 1)
        elif (
            observation == "Pleural Effusion" and not {"Atelectasis", "Pneumonia"} & set(chosen) and rng.random() < 0.25
        ):
            side = "bilateral"
        findings.append(Finding(observation, seed, certain, str(side), place, degree, size, ribs))
    if rng.random() < 0.17:
        for device in rng.choice(DEVICES, rng.choice([1, 2], p=[0.6, 0.4]), replace=False):
            side = str(rng.choice(["right", "left"])) if "tube" not in device or "chest" in device else ""
            seed, size = int(rng.integers(2**31)), int(rng.choice([3, 4, 5, 6]))
            findings.append(Finding("Support Devices", seed, True, side, str(device), size=10 * size))
    return findings


def alter(anatomy: Anatomy, findings: Sequence[Finding]) -> Anatomy:
    """The chest whose heart, mediastinum and diaphragm the findings have moved."""
    for finding in findings:
        if finding.observation == "Cardiomegaly":
            ratio = (0.57, 0.63, 0.70)[finding.degree] if finding.certain else 0.52
            anatomy = replace(anatomy, heart_ratio=ratio)
        elif finding.observation == "Enlarged Cardiomediastinum":
            anatomy = replace(anatomy, widening=(16.0, 23.0, 31.0)[finding.degree] if finding.certain else 9.0)
        elif finding.observation == "Atelectasis":
            up = (10.0, 17.0, 25.0)[finding.degree] * finding.strength
            right = finding.side == "right"
            anatomy = replace(anatomy, raised=(up, 0.0) if right else (0.0, up))
    return anatomy


def paint(canvas: Canvas, layers: Layers, anatomy: Anatomy, finding: Finding) -> None:
    """Add a finding to the layers. Cardiomegaly and a wide mediastinum are anatomy, and add nothing here."""
    if finding.observation in _PAINTERS:
        _PAINTERS[finding.observation](canvas, layers, anatomy, finding, np.random.default_rng(finding.seed))


def _blank(layers: Layers) -> Array:
    return np.zeros_like(layers.haze)


def _within(layers: Layers, side: str) -> Array:
    """0 to 1: where this side's lung is."""
    return smooth(layers.lungs[side] - 12, 24)


def _sides(finding: Finding) -> tuple[str, ...]:
    return ("right", "left") if finding.side == "bilateral" else (finding.side,)


def _lobe_centre(anatomy: Anatomy, lobe: str, rng: np.random.Generator, spread: float) -> Array:
    side, *centre = LOBES[lobe]
    return anatomy.at(side, *centre) + rng.uniform(-spread, spread, 3).astype(np.float32)


def _opacity(canvas: Canvas, layers: Layers, a: Anatomy, f: Finding, rng: np.random.Generator) -> None:
    """An ill-defined haze without texture."""
    radius, patch = (30, 38, 46)[f.degree], _blank(layers)
    centre = _lobe_centre(a, f.place, rng, 8)
    for _ in range(3):
        offset = rng.uniform(-0.35, 0.35, 3).astype(np.float32) * radius
        radii = radius * rng.uniform(0.75, 1.1, 3)
        canvas.ellipsoid(patch, centre + offset, tuple(radii), 25 * f.strength, soft=True)
    layers.haze += patch * _within(layers, f.side)


def _lesion(canvas: Canvas, layers: Layers, a: Anatomy, f: Finding, rng: np.random.Generator) -> None:
    """A sharp sphere, a little denser than soft tissue."""
    sphere, radius = _blank(layers), f.size / 2
    centre = _lobe_centre(a, f.place, rng, 12)
    canvas.ellipsoid(
        sphere, centre, (radius, radius * rng.uniform(0.85, 1.0), radius), (24 + 0.8 * f.size) * f.strength
    )
    layers.soft += sphere * smooth(layers.lungs[f.side], 10)


def _consolidation(canvas: Canvas, layers: Layers, a: Anatomy, f: Finding, rng: np.random.Generator) -> None:
    """A dense lobar patch that ends straight at a fissure; air bronchograms are dark along the airways in it."""
    radius, patch = (34, 42, 50)[f.degree], _blank(layers)
    centre = _lobe_centre(a, f.place, rng, 6)
    for _ in range(5):
        offset = rng.uniform(-0.5, 0.5, 3).astype(np.float32) * radius
        radii = radius * rng.uniform(0.6, 0.9, 3)
        canvas.ellipsoid(patch, centre + offset, tuple(radii), 0.8, soft=True)
    upper = "upper" in f.place
    fissure = centre[1] + (0.45 if upper else -0.45) * radius
    across = centre[0] if canvas.view == "frontal" else centre[2]
    line = fissure + 0.12 * (canvas.h - across)
    patch = np.clip(2.2 * patch - 0.6, 0, 1) * smooth((line - canvas.y) if upper else (canvas.y - line), 4)
    root = a.at(f.side, 0.24, 0.46, 0.55)
    airways = [
        (bezier(root, (root + tip) / 2 + rng.uniform(-9, 9, 3).astype(np.float32), tip), 3.6, 1.0)
        for tip in centre + rng.uniform(-0.9, 0.9, (7, 3)).astype(np.float32) * radius
    ]
    patch *= (1 - 0.75 * canvas.strokes(airways)) * _within(layers, f.side)
    layers.haze += 68 * f.strength * patch
    layers.soft -= layers.vessels * patch


def _pneumonia(canvas: Canvas, layers: Layers, a: Anatomy, f: Finding, rng: np.random.Generator) -> None:
    """A segmental cluster of small rounded foci."""
    foci = _blank(layers)
    centre = _lobe_centre(a, f.place, rng, 5)
    reach = np.array([0.30 * a.half_width, 0.17 * a.height, 0.16 * a.depth], np.float32) * (0.85, 1.0, 1.15)[f.degree]
    for offset in rng.uniform(-1, 1, (12 + 4 * f.degree, 3)).astype(np.float32):
        radius = rng.uniform(6.5, 9.5)
        canvas.ellipsoid(foci, centre + offset * reach, (radius,) * 3, 26 * f.strength)
    layers.haze += foci * _within(layers, f.side)


def _edema(canvas: Canvas, layers: Layers, a: Anatomy, f: Finding, rng: np.random.Generator) -> None:
    """Perihilar haze on both sides, vessels that look wider, and Kerley B lines at the lower wall."""
    strength = (0.7, 1.0, 1.3)[f.degree] * f.strength
    septa: list[Stroke] = []
    for side in ("right", "left"):
        haze = _blank(layers)
        wings = tuple(np.array([0.42 * a.half_width, 0.30 * a.height, 0.25 * a.depth]) * (0.9, 1.0, 1.1)[f.degree])
        canvas.ellipsoid(haze, a.at(side, 0.36, 0.50, 0.52), wings, 34 * strength, soft=True)
        layers.haze += haze * _within(layers, side)
        for down in np.linspace(0.62, 0.98, 8):
            back = rng.uniform(0.25, 0.85)
            outer = a.at(side, 0.95, down + rng.uniform(-0.01, 0.01), back)
            inner = outer - np.array([SIGN[side] * rng.uniform(14, 22), 0, rng.uniform(12, 18)], np.float32)
            septa.append((np.stack([outer, inner]), 1.8, 7 * strength))
    layers.soft += canvas.strokes(septa) + 0.8 * strength * layers.vessels


def _atelectasis(canvas: Canvas, layers: Layers, a: Anatomy, f: Finding, rng: np.random.Generator) -> None:
    """Plate-like bands above a raised hemidiaphragm."""
    bands: list[Stroke] = []
    floor = a.dome(f.side) / a.height
    for i in range(2 + (f.degree > 0)):
        down, tilt = floor - 0.07 - 0.075 * i + rng.uniform(-0.01, 0.01), rng.uniform(-0.06, 0.03)
        ends = rng.uniform(0.28, 0.36), rng.uniform(0.84, 0.92)
        back = rng.uniform(0.5, 0.6)
        inner, outer = a.at(f.side, ends[0], down - tilt, back - 0.22), a.at(f.side, ends[1], down + tilt, back + 0.22)
        bow = (inner + outer) / 2 - np.array([0, rng.uniform(2, 8), 0], np.float32)
        bands.append((bezier(inner, bow, outer), rng.uniform(5.0, 7.5), 30 * f.strength))
    layers.haze += canvas.strokes(bands) * _within(layers, f.side)


def _pneumothorax(canvas: Canvas, layers: Layers, a: Anatomy, f: Finding, rng: np.random.Generator) -> None:
    """Air without vessels around an apex that has fallen in, and the visceral pleura as a thin line."""
    sunk = (22.0, 32.0, 44.0)[f.degree] * (1.0 if f.certain else 0.75)
    lung = layers.lungs[f.side]
    if canvas.view == "frontal":
        margins = lung_margins(a, f.side, canvas.y, canvas.h * SIGN[f.side], a.wall_at(canvas.y), sunk)
        inside = np.minimum(margins[0][0], margins[2][0])
    else:
        inside = canvas.y - 1.1 * sunk - 0.012 * (canvas.h - 0.6 * a.depth) ** 2
    free = smooth(-inside, 2) * smooth(lung - 2, 4)
    layers.air += free * lung
    layers.soft -= free * layers.vessels
    pleura = np.clip(1 - np.abs(inside) / 1.6, 0, 1) * smooth(lung - 4, 4) * smooth(0.8 * a.height - canvas.y, 30)
    layers.soft += 14 * f.strength * pleura
    layers.haze += 0.12 * (1 - free) * _within(layers, f.side) * lung * f.strength


def _effusion(canvas: Canvas, layers: Layers, a: Anatomy, f: Finding, rng: np.random.Generator) -> None:
    """Fluid under a meniscus: it blunts the lateral angle from the front, the posterior sulcus from the side."""
    for side in _sides(f):
        height = (0.24, 0.40, 0.62)[f.degree] * a.height * (1.0 if f.certain else 0.65) * rng.uniform(0.92, 1.08)
        if canvas.view == "frontal":
            out = np.clip(canvas.h * SIGN[side] / a.half_width, 0, 1.1)
            deepest = a.dome(side) + 0.19 * a.height
        else:
            out = np.clip(canvas.h / a.depth, 0, 1.1)
            deepest = float(lateral_floor(a, side, np.array(0.97 * a.depth)))
            height *= 1.15
        level = deepest - height * (0.55 + 0.45 * out**4)
        layers.haze += layers.lungs[side] * edge(canvas.y - level, 14) * (1.0 if f.certain else 0.7)


def _pleural_other(canvas: Canvas, layers: Layers, a: Anatomy, f: Finding, rng: np.random.Generator) -> None:
    """A rind of soft tissue over the apex or along the side wall, with calcium in it."""
    thick, y = (8.0, 11.0, 14.0)[f.degree], canvas.y
    wave = 1 + 0.25 * np.sin(y / rng.uniform(7, 11) + rng.uniform(0, 6))
    apical = f.place == "apical"
    if canvas.view == "frontal":
        margins = lung_margins(a, f.side, y, canvas.h * SIGN[f.side], a.wall_at(y))
        inside = np.minimum(margins[0][0], margins[2][0]) if apical else margins[0][0]
    else:
        inside = y - 0.012 * (canvas.h - 0.6 * a.depth) ** 2
    extent = (
        smooth(0.20 * a.height - y, 20) if apical else bump(y, 0.58 * a.height, (0.17 + 0.03 * f.degree) * a.height)
    )
    if apical or canvas.view == "frontal":
        rind = smooth(thick * wave * (2.0 if apical else extent) - inside, 2.5) * np.sqrt(extent)
        layers.haze += 55 * f.strength * rind * smooth(layers.lungs[f.side] - 1, 2)
    for _ in range(7):
        down = rng.uniform(0.03, 0.12) if apical else rng.uniform(0.45, 0.72)
        at_wall = float(a.wall_at(np.array(down * a.height))) / a.half_width
        across = rng.uniform(0.30, 0.5) if apical else at_wall - rng.uniform(2, thick) / a.half_width
        centre = a.at(f.side, across, down, rng.uniform(0.3, 0.8))
        canvas.ellipsoid(layers.bone, centre, (rng.uniform(2, 4), rng.uniform(2, 5), 3), 7 * f.strength)


def _fracture(canvas: Canvas, layers: Layers, a: Anatomy, f: Finding, rng: np.random.Generator) -> None:
    """A gap, the outer fragment stepped down, and dense ends."""
    for rib in f.ribs:
        start = (0.45 if f.place == "posterior" else 0.68) * a.half_width + rng.uniform(-4, 4)
        u = np.linspace(start, start + 30, 12, dtype=np.float32)
        back = 0.96 if f.place == "posterior" else 0.75
        middle = a.rib_at(u, rib - 1)
        step = rng.uniform(8, 11) * np.linspace(1, 0.25, 12)
        if canvas.view == "frontal":
            out = canvas.h * SIGN[f.side]
            gap = smooth(np.minimum(out - start + 7, start + 30 - out), 2) * (
                np.abs(canvas.y - a.rib_at(out, rib - 1)) < 7.5
            )
            layers.bone *= 1 - gap
            points = np.stack([SIGN[f.side] * u, middle + step, np.full_like(u, back * a.depth)], axis=1)
            layers.bone += canvas.strokes([(points.astype(np.float32), 11.0, 8 * f.strength)])
        for x, y in ((start - 7, middle[0]), (start, middle[0] + step[0])):
            end = np.array([SIGN[f.side] * x, y, back * a.depth], np.float32)
            canvas.ellipsoid(layers.bone, end, (5, 8, 5), 11 * f.strength)


def _device(canvas: Canvas, layers: Layers, a: Anatomy, f: Finding, rng: np.random.Generator) -> None:
    side = f.side or "right"
    strokes: list[Stroke] = []
    cava = a.at("right", 0.15, 0.42, 0.48)
    if f.place == "pacemaker":
        box = a.at(side, 0.62, 0.16, 0.17)
        canvas.ellipsoid(layers.metal, box, (21, 18, 5), 9)
        tip = a.at("left", 0.30, 0.90, 0.30)
        lead = bezier(box, a.at(side, 0.2, 0.0, 0.3), cava, a.at("right", 0.30, 0.75, 0.45), tip)
        strokes = [(lead, 3.0, 6.0), (np.stack([lead[-2], lead[-1]]), 5.0, 9.0)]
    elif f.place == "central venous catheter":
        entry = a.at(side, 0.42, -0.22, 0.35)
        strokes = [(bezier(entry, a.at(side, 0.30, 0.02, 0.35), a.at("right", 0.12, 0.10, 0.45), cava), 3.2, 4.0)]
    elif f.place == "chest tube":
        entry, tip = a.at(side, 1.12, 0.72, 0.6), a.at(side, 0.5, 0.16, 0.55)
        path = bezier(entry, a.at(side, 0.7, 0.72, 0.6), a.at(side, 0.78, 0.3, 0.55), tip)
        strokes = [(path, 9.0, 1.6), (path, 3.0, 4.5)]
    elif f.place == "endotracheal tube":
        top = np.array([a.trachea, -95, 0.45 * a.depth], np.float32)
        carina = np.array([a.trachea, 0.40 * a.height, 0.55 * a.depth], np.float32)
        tip = carina + (top - carina) * (f.size / float(np.linalg.norm(top - carina)))
        strokes = [(np.stack([top, tip]), 10.0, 1.8), (np.stack([top, tip]), 3.4, 5.0)]
    else:
        turn = np.linspace(0, 2 * np.pi, 14)
        for down in np.linspace(0.18, 0.80, 6):
            loop = a.at("left", 0.0, down + rng.uniform(-0.01, 0.01), 0.03 + 0.2 * (1 - down))
            ring = np.stack([9 * np.cos(turn), 6 * np.sin(turn), 4 * np.sin(turn)], axis=1)
            strokes.append(((loop + ring).astype(np.float32), 2.4, 6.0))
    layers.metal += canvas.strokes(strokes)


_PAINTERS: dict[str, Callable[[Canvas, Layers, Anatomy, Finding, np.random.Generator], None]] = {
    "Lung Opacity": _opacity,
    "Lung Lesion": _lesion,
    "Edema": _edema,
    "Consolidation": _consolidation,
    "Pneumonia": _pneumonia,
    "Atelectasis": _atelectasis,
    "Pneumothorax": _pneumothorax,
    "Pleural Effusion": _effusion,
    "Pleural Other": _pleural_other,
    "Fracture": _fracture,
    "Support Devices": _device,
}
