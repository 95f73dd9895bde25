"""Films for a page that holds everything itself: downscaled JPEGs, placeholders, attention laid over them."""

from dataclasses import dataclass

import numpy as np

from rrg.data.films import read_film
from rrg.data.study import StudyFolder
from rrg.errors import RRGError
from rrg.report.cases import Case
from rrg.report.markup import heat, jpeg, plain, text

LARGEST, SMALLEST = 512, 160
BUDGET = 8_000_000
"""Bytes that all films of a page may take together, about; a film's side in pixels follows."""
BYTES_A_PIXEL = 0.2  # of a chest film as JPEG of quality 80 in base64
FULL = 3.0
"""Times an even share of attention at which a patch has the full colour."""


def side_of(films: int) -> int:
    """The longer side, in pixels, at which so many films fit into a page."""
    fits = (BUDGET / max(films, 1) / BYTES_A_PIXEL) ** 0.5
    return int(min(max(fits, SMALLEST), LARGEST))


@dataclass(frozen=True)
class Film:
    """A film of the page. case: where it stands. error: why there is none, else ""."""

    key: str
    label: str
    case: str = ""
    uri: str = ""
    width: int = 1
    height: int = 1
    error: str = ""

    @property
    def html(self) -> str:
        if self.error:
            return f'<div class="film gone" role="img" aria-label="No film">{text(self.error)}</div>'
        return (  # a link to itself: what the address names fills the window, until the second link is followed
            f'<div class="zoom" id="zoom-{self.key}"><a href="#zoom-{self.key}">'
            f'<svg class="film" viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{plain(self.label)}">'
            f'<image id="{self.key}" width="{self.width}" height="{self.height}" href="{self.uri}"/></svg></a>'
            f'<a class="close" href="#{self.case}">close</a></div>'
        )

    def under(self, shares: np.ndarray, even: float, label: str) -> str:
        """The film again, with attention (rows columns) over it; `even` is the share of a patch if all were alike."""
        picture = heat((shares / even - 1) / (FULL - 1))
        size = f'width="{self.width}" height="{self.height}"'
        return (
            f'<svg class="film" viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{plain(label)}">'
            f'<use href="#{self.key}"/><image {size} preserveAspectRatio="none" href="{picture}"/></svg>'
        )


def films_of(case: Case, number: int, folder: StudyFolder, side: int) -> list[Film]:
    """The films of a case, or what is wrong with them."""
    if case.study is None:
        return [Film("", "", error=f"study {case.id} is not in the data folder")]
    films = []
    names = case.study.file_names
    for i in range(len(names)):
        view = f", {case.study.views[i]}" if case.study.views else ""
        label = f"Film {i + 1} of {len(names)}{view}, study {case.id}"
        try:
            uri, width, height = jpeg(read_film(folder.film_path(case.study, i)), side)
            films.append(Film(f"film-{number}-{i}", label, f"case-{number}", uri, width, height))
        except RRGError as error:
            films.append(Film("", label, error=error.message.removeprefix(f"{folder.path}/")))
    return films
