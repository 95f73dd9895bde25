"""A page of `rrg report` as its tests read it, and texts that try to break it."""

from html.parser import HTMLParser
from pathlib import Path

from report_runs import SICK
from rrg.report import write_page

BIDI = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u061c"


HOSTILE = {
    "script": ("</script><script>alert(1)</script>", "</style></p><img src=x onerror=alert(2)>"),
    "\"><b id='x'>": ("<!-- \u202ereversed\u202c \u2067 עברית ערבית", SICK),
    "long": ("effusion" * 1250, "word " * 2000),
    "silent": (" ", "\u202e\u200fa.\x00"),
}


class Page(HTMLParser):
    """A page's elements in order with their attributes, and its text."""

    VOID = ("meta", "link", "image", "rect", "path", "use", "br", "img")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(run: Path, **options: object) -> Page:
    return Page(write_page(run, **{"internals": False, **options}).read_text(encoding="utf-8"))  # type: ignore[arg-type]
