"""Text, numbers and small drawings as HTML. Whatever comes from data passes `plain`, `shown` or `text`."""

import base64
import html
import io
import math
import re

import numpy as np
from PIL import Image

# Control and format characters, the bidirectional ones among them, and what UTF-8 cannot hold.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff"
    "\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)
HEAT = (255, 176, 0)  # amber: seen on film's greys with every kind of colour vision


def plain(text: object) -> str:
    """For an attribute or a title: escaped, invisible characters as [U+202E]."""
    return html.escape(_HIDDEN.sub(lambda m: f"[U+{ord(m[0]):04X}]", str(text)))


def shown(text: object) -> str:
    """For the inside of an element: escaped, invisible characters as marked codes."""
    escaped = html.escape(str(text).replace("\r\n", "\n"))
    return _HIDDEN.sub(lambda m: f'<span class="control">U+{ord(m[0]):04X}</span>', escaped)


def text(content: object) -> str:
    """Text from data that cannot change the order of what stands around it."""
    return f"<bdi>{shown(content)}</bdi>"


def number(value: float | None) -> str:
    """Three decimals, so that a column aligned right is aligned at the point; a dash where there is no number."""
    known = value is not None and math.isfinite(value)
    return f"{value:.3f}" if known else '<abbr title="not computed">–</abbr>'


def bar(value: float | None, tick: float | None = None) -> str:
    """A bar for a value in [0, 1]; `tick` is a value to compare with."""
    width = _within(value)
    mark = "" if tick is None else f'<path d="M{_within(tick):.1f} 0v6"/>'
    return (
        '<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="rail" width="100" height="6"/><rect width="{width:.1f}" height="6"/>{mark}</svg>'
    )


def histogram(counts: np.ndarray, first: float, last: float) -> str:
    """Counts as bars; first, last: what the left edges of the first and the last bar stand for."""
    heights = 100 * counts / max(counts.max(), 1)
    bars = "".join(f"M{i} 100v{-height:.1f}h.9v{height:.1f}z" for i, height in enumerate(heights) if height)
    return (
        f'<svg class="histogram" viewBox="0 0 {len(counts)} 100" preserveAspectRatio="none" aria-hidden="true">'
        f'<path d="{bars}"/></svg><p class="ends"><span>{first:g}</span><span>{last:g} +</span></p>'
    )


def _within(value: float | None) -> float:
    return 100 * min(max(value, 0), 1) if value is not None and math.isfinite(value) else 0.0


def column(values: np.ndarray, largest: float) -> str:
    """One token's values (layers) as a column of cells, the first layer on top; `largest` has the full colour."""
    levels = np.clip(np.rint(9 * np.nan_to_num(values) / (largest or 1)), 0, 9).astype(int)
    paths = [
        f'<path class="l{level}" d="{"".join(f"M0 {row}.5h1" for row in np.flatnonzero(levels == level))}"/>'
        for level in np.unique(levels)
    ]
    return (
        f'<svg viewBox="0 0 1 {len(values)}" preserveAspectRatio="none" aria-hidden="true" '
        f'height="{max(28, 5 * len(values))}">{"".join(paths)}</svg>'
    )


def jpeg(grey: np.ndarray, side: int) -> tuple[str, int, int]:
    """A film (height width) in [0, 1] as a data URI, at most `side` pixels wide and high; its width and height."""
    image = Image.fromarray(np.rint(255 * grey).astype(np.uint8))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _uri(image, "jpeg", quality=80, optimize=True), image.width, image.height


def heat(values: np.ndarray) -> str:
    """Values (rows columns) in [0, 1] as a picture of that many pixels, transparent at 0, as a data URI."""
    pixels = np.empty((*values.shape, 4), np.uint8)
    pixels[..., :3] = HEAT
    pixels[..., 3] = np.rint(190 * values.clip(0, 1))
    return _uri(Image.fromarray(pixels), "png", optimize=True)


def _uri(image: Image.Image, kind: str, **options: object) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
