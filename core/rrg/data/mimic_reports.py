"""The reports of MIMIC-CXR, from the archive as downloaded or from text files."""

import os
import re
import stat
from collections.abc import Callable, Collection

from tqdm import tqdm

from rrg.data.archives import is_archive, members
from rrg.data.importing import Unsound
from rrg.data.mimic_layout import Layout, study_folder
from rrg.data.sections import Sections, read_sections

MAX_REPORT_BYTES = 1 << 20
_REPORT = re.compile(r"(?:.*/)?p\d\d/p(\d{8})/s(\d{8})\.txt")


def reports(layout: Layout, studies: Collection[str]) -> Callable[[str, str], Sections]:
    """The sections of a study's report, by its patient and id; the call raises Unsound.

    Reports in an archive are read here, those of `studies` in one pass; others when they are asked for. Raises
    DataError for an archive that cannot be read or has a member of more than 1 MiB.
    """
    folder = layout.reports
    assert folder is not None, "find_layout() found reports"
    if not is_archive(folder):
        root = os.path.realpath(layout.src)
        return lambda patient, study: _sections(_report(root, f"{folder}/{study_folder(patient, study)}.txt"))
    found: dict[tuple[str, str], Sections | Unsound] = {}
    bar = tqdm(
        members(folder, limit=MAX_REPORT_BYTES), "reports", len(studies), unit="report", leave=False, disable=None
    )
    for name, content in bar:
        if (match := _REPORT.fullmatch(name)) and match[2] in studies:
            try:
                found[match[1], match[2]] = _sections(content)
            except Unsound as error:
                found[match[1], match[2]] = error

    def of(patient: str, study: str) -> Sections:
        sections = found.get((patient, study), Unsound("missing report", f"no report s{study}.txt in {folder}"))
        if isinstance(sections, Unsound):
            raise sections
        return sections

    return of


def _report(root: str, path: str) -> bytes:
    try:
        real = os.path.realpath(path)
        if not real.startswith(root.rstrip("/") + "/"):
            raise Unsound("unsafe path", f"report {path} leads out of {root}, to {real}")
        status = os.stat(real)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_REPORT_BYTES:
            raise Unsound("malformed entry", f"report {path} is no plain file of at most {MAX_REPORT_BYTES >> 20} MiB")
        with open(real, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise Unsound("missing report", f"report {path} is missing") from None
    except OSError as error:
        raise Unsound("missing report", f"report {path} cannot be read: {error.strerror}") from None


def _sections(content: bytes) -> Sections:
    try:
        return read_sections(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise Unsound("malformed entry", f"the report is not UTF-8 (byte {byte:#04x} at {error.start})") from None
