"""RadGraph F1 from annotation files: do two reports hold the same entities, and the same relations between them?

Jain et al., NeurIPS Datasets 2021 (entities, relations); Delbrouck et al., EMNLP Findings 2022 (the rewards) and ACL
Findings 2024 (RadGraph-XL). The three levels are those of the `radgraph` package's rewards; each compares two sets:

- simple: (tokens, label) of every entity;
- partial: also whether the entity has a relation;
- complete: (tokens, label, relation, tokens of its target) for each relation, with tokens in lower case, and
  (tokens, label) for an entity without one.

A report's precision, recall and F1 are of these sets; it scores 0 where either side has no entity. The score of a data
set is the mean over reports.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from rrg.errors import DataError

LEVELS = ("simple", "partial", "complete")
SHOWN = 5


class Entity(BaseModel):
    """An entity; `relations` are (type, key of the target entity)."""

    model_config = ConfigDict(frozen=True)

    tokens: str
    label: str
    relations: tuple[tuple[str, str], ...] = ()


class Annotation(BaseModel):
    """A report's entities by key."""

    model_config = ConfigDict(frozen=True)

    entities: dict[str, Entity]


@dataclass(frozen=True)
class Overlap:
    """Precision, recall and F1 of one report's sets, or their means."""

    precision: float
    recall: float
    f1: float


_FILE = TypeAdapter(dict[str, Annotation])


def read_annotations(path: Path) -> dict[str, Annotation]:
    """A JSON object of study id → {"entities": {key: {"tokens", "label", "relations"}}}, as RadGraph's files have it.

    Raises DataError where it is no such file or a relation points to an entity that is not there.
    """
    try:
        found = _FILE.validate_python(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise DataError(
            f"{path}: no RadGraph annotations: {'.'.join(map(str, first['loc']))}: {first['msg']}; expected an object "
            'of study id → {"entities": {…}}'
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON in UTF-8: {error}") from None
    for study, annotation in found.items():
        for key, entity in annotation.entities.items():
            if lost := [target for _, target in entity.relations if target not in annotation.entities]:
                raise DataError(f"{path}: {study}: entity {key} has a relation to {lost[0]}, which is not there")
    return found


def radgraph_scores(
    ids: Sequence[str], generated: Mapping[str, Annotation], reference: Mapping[str, Annotation]
) -> list[dict[str, Overlap]]:
    """Each study's overlap by level. Raises DataError where a study is not annotated on both sides."""
    for side, annotations in (("generated", generated), ("reference", reference)):
        if missing := [i for i in ids if i not in annotations]:
            raise DataError(
                f"RadGraph annotations of the {side} reports: none for {len(missing)} of {len(ids)} studies, such as "
                f"{', '.join(missing[:SHOWN])}; key them by study id (found: {', '.join(list(annotations)[:SHOWN])})"
            )
    return [{level: overlap(generated[i], reference[i], level) for level in LEVELS} for i in ids]


def mean(overlaps: Sequence[Mapping[str, Overlap]]) -> dict[str, Overlap]:
    """The means over reports, by level."""
    n = len(overlaps)
    return {
        level: Overlap(*(sum(getattr(o[level], key) for o in overlaps) / n for key in ("precision", "recall", "f1")))
        for level in LEVELS
    }


def overlap(generated: Annotation, reference: Annotation, level: str) -> Overlap:
    """Of one report, at one level."""
    made, there = _facts(generated, level), _facts(reference, level)
    if not made or not there:
        return Overlap(0.0, 0.0, 0.0)
    hits = len(made & there)
    return Overlap(hits / len(made), hits / len(there), 2 * hits / (len(made) + len(there)))


def _facts(annotation: Annotation, level: str) -> set[tuple[str | bool, ...]]:
    facts: set[tuple[str | bool, ...]] = set()
    for entity in annotation.entities.values():
        plain = (entity.tokens, entity.label)
        if level == "simple" or not entity.relations:
            facts.add(plain)
        elif level == "partial":
            facts.add((*plain, True))
        else:
            targets = ((kind, annotation.entities[key].tokens.lower()) for kind, key in entity.relations)
            facts |= {(entity.tokens.lower(), entity.label, *target) for target in targets}
    return facts
