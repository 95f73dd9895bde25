"""Key phrases for a data folder's studies: RadGraph's where a file has them, else by rule; refined where asked."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from rrg.data.phrases import key_phrases, read_annotations, text_key
from rrg.data.study import MAX_PHRASE, MAX_PHRASES, METADATA, Study, StudyFolder
from rrg.errors import DataError

CACHE = ".phrases.refined.jsonl"
Refiner = Callable[[Sequence[list[str]]], list[list[str]]]


def attach_phrases(
    folder: StudyFolder, *, annotations: Path | None = None, refine: Refiner | None = None, by: str = "", batch: int = 8
) -> dict[str, int]:
    """Write each study's key phrases into the folder's metadata.jsonl, which changes at once or not at all.

    annotations: a RadGraph file, whose reports are found by study id, or where it is a list by the findings' text.
    refine: from batches of phrases to better ones; what it has done is kept in the folder until all is done, so that an
    interrupted refinement goes on. by: its model, so that another's work is not taken for it.

    Gives the counts: studies by source, and phrases. Raises DataError where no annotation is of any study.
    """
    reports = read_annotations(annotations) if annotations else {}
    keys = {study.id: study.id if study.id in reports else text_key(study.findings) for study in folder.studies}
    known = {name: reports[key] for name, key in keys.items() if key in reports}
    if annotations and not known:
        some, ours = next(iter(reports), "none"), folder.studies[0].id
        raise DataError(f"{annotations}: its reports, such as {some!r}, are none of {folder.path}'s, such as {ours!r}")
    phrases = {study.id: known.get(study.id, key_phrases(study.findings)) for study in folder.studies}
    if refine is not None:
        phrases |= _refined(folder, phrases, refine, by, batch)
    phrases = {name: _fitting(found) for name, found in phrases.items()}
    studies = [Study.model_validate({**study.model_dump(), "phrases": phrases[study.id]}) for study in folder.studies]
    _rewrite(folder.path, studies)
    (folder.path / CACHE).unlink(missing_ok=True)
    by_file = sum(study.id in known for study in studies)
    counts = {"annotated": by_file, "by rule": len(studies) - by_file, "phrases": sum(map(len, phrases.values()))}
    return counts | {"studies without a phrase": sum(not found for found in phrases.values())}


def _fitting(phrases: Sequence[str]) -> list[str]:
    """What a study's line can hold: so many phrases of such a length, in characters that UTF-8 has."""
    known = (phrase.encode(errors="ignore").decode() for phrase in phrases)
    return [phrase for phrase in known if 0 < len(phrase) <= MAX_PHRASE][:MAX_PHRASES]


def _refined(
    folder: StudyFolder, phrases: dict[str, list[str]], refine: Refiner, by: str, batch: int
) -> dict[str, list[str]]:
    """Refined phrases of the studies that training shows, by id."""
    cache = folder.path / CACHE
    done = {i: new for model, i, old, new in _cached(cache) if model == by and phrases.get(i) == old}
    left = [s.id for s in folder.studies if s.split != "test" and phrases[s.id] and s.id not in done]
    with cache.open("a", encoding="utf-8") as file:
        for start in tqdm(range(0, len(left), batch), desc="refine", unit="batch", disable=None):
            names = left[start : start + batch]
            for name, new in zip(names, refine([phrases[name] for name in names]), strict=True):
                done[name] = new
                file.write(json.dumps([by, name, phrases[name], new]) + "\n")
            file.flush()
    return done


def _cached(path: Path) -> Iterator[tuple[str, str, list[str], list[str]]]:
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            by, name, old, new = json.loads(line)
        except ValueError:  # the line in which a refinement was interrupted
            continue
        yield by, name, old, new


def _rewrite(path: Path, studies: Sequence[Study]) -> None:
    partial = path / f".{METADATA}.{os.getpid()}"
    try:
        partial.write_text("".join(study.model_dump_json() + "\n" for study in studies), encoding="utf-8")
        os.replace(partial, path / METADATA)
    finally:
        partial.unlink(missing_ok=True)
