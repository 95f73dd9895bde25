"""Open-i's own form of IU X-Ray: an XML file for each report, in a folder or in the archive NLMCXR_reports.tgz."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from rrg.data.archives import Member
from rrg.data.importing import Entries, Film, Unsound
from rrg.data.listing import contents
from rrg.data.voids import stated

REPORTS = "ecgen-radiology"
MAX_XML_BYTES = 1 << 20  # the collection's largest report has 9 kB


@dataclass(frozen=True)
class Report:
    """A report of IU X-Ray. films: ids, such as CXR1_1_IM-0001-3001; views: none, or one for each film.

    sections: a label that stands several times has all its texts, in order, each once.
    """

    where: str
    uid: str
    sections: dict[str, str]
    films: list[str]
    views: list[str] = field(default_factory=list)

    @property
    def findings(self) -> str:
        return stated(self.sections.get("findings", ""))


def report_files(files: Mapping[str, Film]) -> dict[str, Film]:
    """The XML files of one folder, unpacked ones first and of those ecgen-radiology, in the order of their numbers."""
    groups: dict[tuple[bool, bool, str], dict[str, Film]] = {}
    for where in sorted(files, key=lambda where: (len(where), where)):
        folder, _, name = where.rpartition("/")
        if name.lower().endswith(".xml"):
            place = (isinstance(files[where], Member), folder != REPORTS, folder)
            groups.setdefault(place, {})[where] = files[where]
    return groups[min(groups)] if groups else {}


def read_reports(src: Path, files: Mapping[str, Film], entries: Entries) -> list[Report]:
    """The reports in these files; what is wrong with one goes to `entries`."""
    reports = []
    found = dict(contents(src, files, MAX_XML_BYTES))
    for where in files:
        try:
            reports.append(_read(where, found[where]))
        except Unsound as error:
            entries.reject(where, error.kind, error.text)
    return reports


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a DTD at its first line, before any entity is declared: no expansion bombs, no outside files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise Unsound("malformed entry", "the XML declares a DTD or entities, which is refused (Open-i's has none)")


def _read(where: str, content: bytes | Unsound) -> Report:
    if isinstance(content, Unsound):
        raise content
    try:
        root = ElementTree.fromstring(content, ElementTree.XMLParser(target=_NoDoctype()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise Unsound("malformed entry", f"not XML: {error}") from None
    element = root.find("uId")
    uid = "" if element is None else element.get("id", "")
    if not re.fullmatch(r"CXR\d+", uid):
        raise Unsound("malformed entry", f'no <uId id="CXR…"> of Open-i (found {uid!r})')
    texts: dict[str, list[str]] = {}
    for element in root.iter("AbstractText"):
        of_label = texts.setdefault(element.get("Label", "").strip(" :").lower(), [])
        text = " ".join("".join(element.itertext()).split())
        if stated(text, True) and text not in of_label:
            of_label.append(text)
    sections = {label: " ".join(of_label) for label, of_label in texts.items()}
    return Report(where, uid, sections, [image.get("id", "") for image in root.iter("parentImage")])
