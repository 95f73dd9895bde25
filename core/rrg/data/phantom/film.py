"""From path lengths to a film: exposure, scatter, blur, noise and grey scale."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from rrg.data.phantom.anatomy import Anatomy, Array, Canvas, project_chest, vascular_tree
from rrg.data.phantom.findings import Finding, alter, paint

# Linear attenuation per mm, near a chest tube's effective energy (NIST XCOM orders of magnitude).
SOFT, LUNG, BONE, METAL = 0.020, 0.006, 0.040, 0.30
LATERAL_BEAM = 0.72  # the side view's harder beam


@dataclass(frozen=True)
class Technique:
    """How one film was taken."""

    rows: int
    columns: int
    field: float  # width of the film over the inner thorax's
    shift: tuple[float, float]  # mm, down and across
    rotation: float  # degrees
    exposure: float  # attenuation shown mid-grey, less what the patient's depth accounts for
    contrast: float
    scatter: float  # share of the beam
    blur: float  # weight of each neighbour pixel
    photons: float  # per pixel behind no patient
    quality: int  # JPEG quality; 0 writes PNG


def sample_technique(rng: np.random.Generator) -> Technique:
    """A film of 224 to 320 pixels a side, not always square."""
    rows, columns = (int(n) for n in rng.integers(28, 41, 2) * 8)
    if rng.random() < 0.4:
        columns = rows
    columns = max(columns, rows * 7 // 8)  # a taller film would show the neck and the abdomen
    return Technique(
        rows=rows,
        columns=columns,
        field=rng.uniform(1.14, 1.30),
        shift=(rng.uniform(-10, 10), rng.uniform(-10, 10)),
        rotation=rng.normal(0, 1.5),
        exposure=rng.uniform(-0.25, 0.25),
        contrast=rng.uniform(1.25, 1.75),
        scatter=rng.uniform(0.002, 0.008),
        blur=rng.uniform(0.0, 0.2),
        photons=rng.uniform(0.6e5, 3e5),
        quality=int(rng.choice([0, 88, 95], p=[0.3, 0.35, 0.35])),
    )


def draw_film(anatomy: Anatomy, findings: Sequence[Finding], view: str, technique: Technique, seed: int) -> Array:
    """A "frontal" or "lateral" film (rows columns) float32 in [0, 1], bones white. `seed` draws the noise alone."""
    t, side = technique, view == "lateral"
    margin = 12  # pixels, so that a rotated film has no empty corners
    anatomy_now = alter(anatomy, findings)
    width = t.field * (1.08 * (anatomy.depth + 2 * anatomy.wall) if side else 2 * anatomy.half_width)
    pixel = max(width / t.columns, 1.32 * anatomy.height / t.rows)  # the whole chest is on the film
    middle = (0.58 * anatomy.height + t.shift[0], t.shift[1] + (0.52 * anatomy.depth if side else 0.0))
    canvas = Canvas(view, t.rows + 2 * margin, t.columns + 2 * margin, pixel, middle)
    layers = project_chest(canvas, anatomy_now, vascular_tree(anatomy))
    for finding in findings:
        paint(canvas, layers, anatomy_now, finding)

    lung = np.maximum(layers.lungs["right"] + layers.lungs["left"] - layers.solid, 0)
    filled = np.clip(layers.haze, 0, lung)
    soft = np.maximum(layers.body - lung + layers.soft + filled, 0)
    aerated = np.maximum(lung - filled - layers.air, 0)
    attenuation = SOFT * soft + LUNG * aerated + BONE * layers.bone + METAL * layers.metal
    if side:
        attenuation *= np.float32(LATERAL_BEAM)
    beam = np.exp(-attenuation) + np.float32(t.scatter)
    turned = Image.fromarray(beam.astype(np.float32)).rotate(t.rotation, Image.Resampling.BILINEAR)
    beam = _blur(np.asarray(turned), t.blur)[margin:-margin, margin:-margin]
    noise = np.random.default_rng(seed).standard_normal(beam.shape, np.float32)
    beam = np.maximum(beam + noise * np.sqrt(beam / np.float32(t.photons)), np.float32(1e-4))
    density = -np.log(beam) - np.float32(0.75 * SOFT * anatomy.depth - 0.1 + t.exposure)
    film: Array = 1 / (1 + np.exp(np.float32(-t.contrast) * density))
    return film


def _blur(beam: Array, weight: float) -> Array:
    """Three taps along each axis."""
    for axis in (0, 1):
        padded = np.pad(beam, [(1, 1) if axis == i else (0, 0) for i in (0, 1)], mode="edge")
        ends = np.take(padded, range(beam.shape[axis]), axis) + np.take(padded, range(2, beam.shape[axis] + 2), axis)
        beam = (1 - 2 * np.float32(weight)) * beam + np.float32(weight) * ends
    return beam


def encode(film: Array, technique: Technique) -> tuple[str, bytes]:
    """8-bit grey: the file's extension and its bytes."""
    image = Image.fromarray((film * 255 + 0.5).astype(np.uint8))
    file = io.BytesIO()
    if technique.quality:
        image.save(file, "JPEG", quality=technique.quality)
        return "jpg", file.getvalue()
    image.save(file, "PNG", compress_level=1)
    return "png", file.getvalue()
