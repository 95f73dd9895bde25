"""`evaluate`: score predictions against a data folder by a named protocol, beside null baselines on its studies."""

import random
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from rrg.data.study import Study, StudyFolder
from rrg.errors import DataError, UsageError
from rrg.evaluate.clinical import AVERAGE, UNCERTAIN_POLICY, clinical, positives
from rrg.evaluate.constant import best_constant
from rrg.evaluate.language import language_scores
from rrg.evaluate.meteor import MeteorUnavailable, meteor
from rrg.evaluate.predictions import Prediction
from rrg.evaluate.protocol import PROTOCOLS, Protocol, rules_for
from rrg.evaluate.scores import Row, Scores, Subset
from rrg.labels import Labeler, get_labeler
from rrg.observations import OBSERVATIONS

MODEL, CONSTANT, RANDOM, RETRIEVED = "model", "best constant", "random train report", "copy the retrieved"
SHOWN = 5


@dataclass(frozen=True)
class _Candidate:
    """Reports from one source, one per study in order: as strings to score and as (studies, 14) positives."""

    hypotheses: list[str]
    positives: np.ndarray


def evaluate(
    predictions: Sequence[Prediction],
    folder: StudyFolder,
    protocol: str = "r2gen",
    *,
    split: str = "test",
    rules: str | None = None,
    labeler: str = "chexpert",
    seed: int = 0,
) -> Scores:
    """Score `predictions` against the findings of `folder`'s studies of that split.

    Baselines are computed each time: the best constant (chosen on validation), a random training report per study
    (`seed`), and the retrieved report where every prediction has an exemplar. `rules` names the cleaning rules where
    the data set is not a known one.

    Raises: UsageError for an unknown protocol, split, labeler or data set; DataError where an id is not of the split
    or given twice, there is no prediction, or the training split is empty.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"no protocol is named {protocol!r}; there are: {', '.join(PROTOCOLS)}")
    label = get_labeler(labeler)
    in_split, train, notes = folder.split(split), folder.split("train"), []
    if not train:
        raise DataError(f"{folder.path}: no training studies, and the vocabulary comes from train")
    studies = _studies_of(predictions, folder, split)
    if len(studies) < len(in_split):
        notes.append(f"only {len(studies)} of the split's {len(in_split)} studies have a prediction and are scored")
    notes += _differing_references(predictions, studies)

    form = Protocol.of((s.findings for s in train), rules_for(folder.card, rules))
    references = [form.reference(s.findings) for s in studies]
    exact = folder.card["labels"] == "exact"
    truth = positives(_labels_of(studies) if exact else label([s.findings for s in studies]))
    abnormal = np.flatnonzero(~truth[:, OBSERVATIONS.index("No Finding")])

    sources, val_bleu = _sources(predictions, folder, form, seed, notes)
    candidates = {name: _candidate(reports, form, label) for name, reports in sources.items()}
    subsets = [subset for subset in (np.arange(len(studies)), abnormal) if len(subset)]
    rows = _rows(candidates, references, truth, subsets, notes)

    in_train = {form.hypothesis(s.findings) for s in train}
    made = candidates[MODEL].hypotheses
    return Scores(
        protocol=protocol,
        signature=form.signature,
        data=str(folder.card["name"]),
        split=split,
        n=len(studies),
        n_split=len(in_split),
        labeler=label.name,
        reference_labels="exact" if exact else f"by {label.name} on the reference reports",
        uncertain=UNCERTAIN_POLICY,
        average=AVERAGE,
        rows=rows[0],
        abnormal=Subset(len(abnormal), rows[1] if len(abnormal) else {}),
        distinct=len(set(made)),
        verbatim=sum(text in in_train for text in made) / len(made),
        constant=candidates[CONSTANT].hypotheses[0],
        constant_val_bleu_4=val_bleu,
        seed=seed,
        notes=notes,
    )


def _studies_of(predictions: Sequence[Prediction], folder: StudyFolder, split: str) -> list[Study]:
    """The predictions' studies, in their order."""
    if not predictions:
        raise DataError("there are no predictions to evaluate")
    known = {s.id: s for s in folder.studies}
    ids = [p.id for p in predictions]
    unknown = [i for i in ids if i not in known]
    elsewhere = [f"{i} is of split {known[i].split}" for i in ids if i in known and known[i].split != split]
    twice = [i for i, n in Counter(ids).items() if n > 1]
    problems = [*(f"{i} is not in the data" for i in unknown[:SHOWN]), *elsewhere[:SHOWN]]
    problems += [f"{i} is given more than once" for i in twice[:SHOWN]]
    if problems:
        raise DataError(
            f"{len(unknown) + len(elsewhere) + len(twice)} of {len(ids)} predictions do not fit split {split} of "
            f"{folder.path}; name the folder and split they were made from (--data, --split). The first are:",
            problems,
        )
    return [known[i] for i in ids]


def _labels_of(studies: Sequence[Study]) -> np.ndarray:
    """(studies, 14) float32, nan where not mentioned."""
    return np.array([[study.labels[name] for name in OBSERVATIONS] for study in studies], np.float32)


def _differing_references(predictions: Sequence[Prediction], studies: Sequence[Study]) -> list[str]:
    differing = sum(
        bool(p.reference) and p.reference.split() != s.findings.split()
        for p, s in zip(predictions, studies, strict=True)
    )
    return (
        [f"{differing} predictions carry another reference than the data's findings, which count"] if differing else []
    )


def _sources(
    predictions: Sequence[Prediction], folder: StudyFolder, form: Protocol, seed: int, notes: list[str]
) -> tuple[dict[str, list[str]], float | None]:
    """Reports by source, one per prediction, and the best constant's BLEU-4 on validation."""
    train, val = ([s.findings for s in folder.split(name)] for name in ("train", "val"))
    sources = {MODEL: [p.report for p in predictions]}
    if not val:
        notes.append("no validation studies, so the best constant was chosen on train")
    index, bleu = best_constant([form.hypothesis(t) for t in train], [form.reference(t) for t in val or train])
    sources[CONSTANT] = [train[index]] * len(predictions)
    # One draw per study id: the same report whatever the order or number of predictions.
    sources[RANDOM] = [random.Random(f"{seed} {p.id}").choice(train) for p in predictions]
    exemplars = [p.exemplar.report for p in predictions if p.exemplar is not None]
    if len(exemplars) == len(predictions):
        sources[RETRIEVED] = exemplars
    elif exemplars:
        notes.append(f"only {len(exemplars)} predictions have an exemplar, so '{RETRIEVED}' is left out")
    return sources, bleu if val else None


def _candidate(reports: list[str], form: Protocol, label: Labeler) -> _Candidate:
    distinct = list(dict.fromkeys(reports))
    place = {text: i for i, text in enumerate(distinct)}
    order = [place[text] for text in reports]
    hypotheses, found = [form.hypothesis(text) for text in distinct], positives(label(distinct))
    return _Candidate([hypotheses[i] for i in order], found[order])


def _rows(
    candidates: dict[str, _Candidate],
    references: list[str],
    truth: np.ndarray,
    subsets: list[np.ndarray],
    notes: list[str],
) -> list[dict[str, Row]]:
    """A table per subset of studies. METEOR runs in Java meanwhile, for all tables at once."""
    tables = {
        f"{k} {name}": [(candidate.hypotheses[i], references[i]) for i in subset]
        for k, subset in enumerate(subsets)
        for name, candidate in candidates.items()
    }
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(meteor, tables)
        language = {key: language_scores(*map(list, zip(*pairs, strict=True))) for key, pairs in tables.items()}
        try:
            meteors = waiting.result()
        except MeteorUnavailable as error:
            meteors = {}
            notes.append(f"METEOR not computed: {error}")
    return [
        {
            name: Row(
                **language[f"{k} {name}"],
                meteor=meteors.get(f"{k} {name}"),
                clinical=clinical(candidate.positives[subset], truth[subset]),
            )
            for name, candidate in candidates.items()
        }
        for k, subset in enumerate(subsets)
    ]
