"""`evaluate`: score reports by a named protocol, beside null baselines on the same studies."""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from rrg.data.label_files import LabelFile
from rrg.data.study import Study, StudyFolder
from rrg.errors import DataError, UsageError
from rrg.evaluate.baselines import CONSTANT, Source, baselines
from rrg.evaluate.clinical import AVERAGE, PRESETS, UNCERTAIN_POLICY, clinical, positives, preset_scores
from rrg.evaluate.language import cider_weighs, language_statistics
from rrg.evaluate.meteor import MeteorUnavailable, meteor_statistics
from rrg.evaluate.predictions import Prediction
from rrg.evaluate.protocol import SECTIONS, Protocol, protocol_for, section_of
from rrg.evaluate.radgraph import Annotation, Overlap, mean, radgraph_scores
from rrg.evaluate.repetition import Repetition
from rrg.evaluate.reports import scored_reports
from rrg.evaluate.scores import COLUMNS, MODEL, RadGraph, Repeated, Row, Scores, Subset
from rrg.evaluate.statistics import check_seed, clinical_statistics, intervals, join
from rrg.labels import Labeler, get_labeler
from rrg.observations import OBSERVATIONS

SHOWN = 5
Annotations = Mapping[str, Annotation]


@dataclass(frozen=True)
class _Cases:
    """The studies that are scored, in the predictions' order: raw references, and exact labels where there are some."""

    ids: list[str]
    patients: list[str | None]
    references: list[str]
    exact: np.ndarray | None
    n_split: int | None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Candidate:
    """Reports from one source, one per study: strings to score, and (studies, 14) labels in {1, 0, -1, nan}."""

    hypotheses: list[str]
    labels: np.ndarray


def evaluate(
    predictions: Sequence[Prediction],
    folder: StudyFolder | None,
    protocol: str = "r2gen",
    *,
    split: str = "test",
    rules: str | None = None,
    section: str = "findings",
    labeler: Labeler | str | None = None,
    labels: LabelFile | None = None,
    reference_labels: LabelFile | None = None,
    radgraph: tuple[Annotations, Annotations] | None = None,
    seed: int = 0,
) -> Scores:
    """Score `predictions` against that section of `folder`'s studies of that split.

    Without a folder they are scored against their own references; what needs the training split (vocabulary,
    baselines, the share found in train) is then left out, and a note says so.

    Baselines: the best constant (chosen on validation), a random training report per study (`seed`), and the retrieved
    report where every prediction has an exemplar.

    rules: the cleaning rules where the data set is not a known one. labels, reference_labels: another tool's labels of
    the generated and of the reference reports; where they are None the labeler reads them (or the data set's are
    exact). radgraph: annotations of the generated and of the reference reports.

    Raises: UsageError for an unknown protocol, split, section, labeler or data set, or a negative seed; DataError where
    an id is not of the split or given twice, there is no prediction or reference, the training split is empty, or
    labels are missing.
    """
    label = get_labeler(labeler) if isinstance(labeler, str) else labeler or get_labeler()
    if section not in SECTIONS:
        raise UsageError(f"no section {section!r}; there are: {', '.join(SECTIONS)}")
    if not predictions:
        raise DataError("there are no predictions to evaluate")
    check_seed(seed)
    if folder is None:
        form = protocol_for(protocol, None, rules, None, "reference")
        cases, train = _own_references(predictions), []
    else:
        train = [text for study in folder.split("train") if (text := section_of(study, section))]
        if not train:
            raise DataError(f"{folder.path}: no training studies with {section}, and the vocabulary comes from train")
        form = protocol_for(protocol, folder.card, rules, train, section)
        cases = _cases(predictions, folder, split, section)
    notes = cases.notes
    if empty := sum(not p.report for p in predictions):
        said = "state nothing (empty, or such as 'nan') and count as empty"
        notes.append(f"{empty} of {len(predictions)} reports {said}")
    references = [form.reference(text) for text in cases.references]
    truth, truth_by = _reference_labels(cases, label, reference_labels)

    sources, val_bleu = baselines(predictions, folder, form, seed, notes) if folder else ({}, None)
    made = Source([p.report for p in predictions], cases.ids)
    candidates = {MODEL: _candidate(made, form, label, labels)}
    candidates |= {name: _candidate(s, form, label, _covering(reference_labels, s)) for name, s in sources.items()}
    notes += _mixed_labels(label, labels, reference_labels, sources)

    abnormal = np.flatnonzero(~positives(truth)[:, OBSERVATIONS.index("No Finding")])
    subsets = [subset for subset in (np.arange(len(cases.ids)), abnormal) if len(subset)]
    rows = _rows(candidates, references, truth, subsets, cases.patients if folder else None, seed, notes)
    overlaps = radgraph_scores(cases.ids, *radgraph) if radgraph else None

    hypotheses = candidates[MODEL].hypotheses
    in_train = {form.hypothesis(text) for text in train}
    model_by = labels.name if labels else label.name
    return Scores(
        protocol=protocol,
        signature=form.signature,
        data=str(folder.card["name"]) if folder else "the predictions' own references",
        split=split if folder else None,
        n=len(cases.ids),
        n_split=cases.n_split,
        labeler=model_by,
        reference_labels=truth_by,
        uncertain=UNCERTAIN_POLICY,
        average=AVERAGE,
        presets={name: preset.signature(model_by, truth_by) for name, preset in PRESETS.items()},
        rows=rows[0],
        abnormal=Subset(len(abnormal), rows[1] if len(abnormal) else {}),
        radgraph=_radgraph(overlaps, abnormal),
        distinct=len(set(hypotheses)),
        repeated=Repeated.of(hypotheses),
        repetition=Repetition.of([p.report for p in predictions]),
        reference_repetition=Repetition.of(cases.references),
        verbatim=sum(text in in_train for text in hypotheses) / len(hypotheses) if folder else None,
        constant=candidates[CONSTANT].hypotheses[0] if folder else None,
        constant_val_bleu_4=val_bleu,
        seed=seed,
        notes=notes,
        reports=scored_reports(
            predictions, cases.patients, hypotheses, references, candidates[MODEL].labels, truth, overlaps
        ),
    )


def _own_references(predictions: Sequence[Prediction]) -> _Cases:
    """The predictions' own references."""
    if lost := [p.id for p in predictions if not p.reference.strip()]:
        raise DataError(
            f"{len(lost)} of {len(predictions)} predictions have no reference, such as {', '.join(lost[:SHOWN])}; "
            "add --data DIR, or references"
        )
    ids = _each_once(predictions)
    note = "no data are given, so vocabulary, null baselines and the share found word for word in train are left out"
    return _Cases(ids, [None] * len(ids), [p.reference for p in predictions], None, None, [note])


def _each_once(predictions: Sequence[Prediction]) -> list[str]:
    ids = [p.id for p in predictions]
    if twice := [i for i, n in Counter(ids).items() if n > 1]:
        raise DataError(f"{len(twice)} ids are given more than once, such as {', '.join(twice[:SHOWN])}")
    return ids


def _cases(predictions: Sequence[Prediction], folder: StudyFolder, split: str, section: str) -> _Cases:
    studies, in_split = _studies_of(predictions, folder, split), folder.split(split)
    references = [section_of(study, section) for study in studies]
    if empty := [study.id for study, text in zip(studies, references, strict=True) if not text]:
        raise DataError(f"{len(empty)} studies have no {section}, such as {', '.join(empty[:SHOWN])}")
    notes = []
    if len(studies) < len(in_split):
        notes.append(f"only {len(studies)} of the split's {len(in_split)} studies have a prediction and are scored")
    given = [(p.reference.split(), text.split()) for p, text in zip(predictions, references, strict=True)]
    if differing := sum(bool(own) and own != text for own, text in given):
        notes.append(f"{differing} predictions carry another reference than the data's {section}, which count")
    exact = folder.card["labels"] == "exact"
    return _Cases(
        [study.id for study in studies],
        [study.patient for study in studies],
        references,
        np.array([[study.labels[name] for name in OBSERVATIONS] for study in studies], np.float32) if exact else None,
        len(in_split),
        notes,
    )


def _studies_of(predictions: Sequence[Prediction], folder: StudyFolder, split: str) -> list[Study]:
    """The predictions' studies, in their order."""
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


def _reference_labels(cases: _Cases, label: Labeler, file: LabelFile | None) -> tuple[np.ndarray, str]:
    """(studies, 14) labels of the references, and what they are by."""
    if file is not None:
        return file.rows(cases.ids), file.name
    if cases.exact is not None:
        return cases.exact, "exact"
    return _distinct(cases.references, label), f"by {label.name} on the reference reports"


def _covering(file: LabelFile | None, source: Source) -> LabelFile | None:
    return file if file is not None and file.covers(source.ids) else None


def _mixed_labels(
    label: Labeler, labels: LabelFile | None, references: LabelFile | None, sources: Mapping[str, Source]
) -> list[str]:
    """What a reader must know where rows are labelled by different tools."""
    read = [name for name, source in sources.items() if _covering(references, source) is None]
    if read and (labels or references):
        return [f"labels of {', '.join(read)} are by {label.name}: compare their P, R and F1 with care"]
    return []


def _candidate(source: Source, form: Protocol, label: Labeler, file: LabelFile | None) -> _Candidate:
    hypotheses = {text: form.hypothesis(text) for text in dict.fromkeys(source.reports)}
    found = _distinct(source.reports, label) if file is None else file.rows(source.ids)
    return _Candidate([hypotheses[text] for text in source.reports], found)


def _distinct(reports: Sequence[str], label: Labeler) -> np.ndarray:
    """(reports, 14) labels; a report that stands several times is read once."""
    place = {text: i for i, text in enumerate(dict.fromkeys(reports))}
    return label(list(place))[[place[text] for text in reports]]


def _radgraph(overlaps: Sequence[Mapping[str, Overlap]] | None, abnormal: np.ndarray) -> RadGraph | None:
    if overlaps is None:
        return None
    return RadGraph(mean(overlaps), mean([overlaps[i] for i in abnormal]) if len(abnormal) else {})


def _rows(
    candidates: dict[str, _Candidate],
    references: list[str],
    truth: np.ndarray,
    subsets: list[np.ndarray],
    patients: Sequence[str | None] | None,
    seed: int,
    notes: list[str],
) -> list[dict[str, Row]]:
    """A table per subset of studies. METEOR runs in Java meanwhile, for all tables at once.

    patients: are drawn whole for the intervals; None: every study is drawn alone.
    """
    tables = {
        f"{k} {name}": [(candidate.hypotheses[i], references[i]) for i in subset]
        for k, subset in enumerate(subsets)
        for name, candidate in candidates.items()
    }
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(meteor_statistics, tables)
        language = {key: language_statistics(*map(list, zip(*pairs, strict=True))) for key, pairs in tables.items()}
        try:
            meteors = waiting.result()
        except MeteorUnavailable as error:
            meteors = {}
            notes.append(f"METEOR not computed: {error}")
    rows: list[dict[str, Row]] = []
    for k, subset in enumerate(subsets):
        clusters = None if patients is None else [patients[i] for i in subset]
        weighs = cider_weighs([references[i] for i in subset])
        if not weighs:
            kind = "abnormal reference" if k else "reference"
            why = f"there is one {kind}" if len(subset) == 1 else f"all {kind}s are alike"
            notes.append(f"CIDEr not computed: it weighs words by how few references have them, and {why}")
        rows.append({})
        for name, candidate in candidates.items():
            found, given = candidate.labels[subset], truth[subset]
            parts = [language[f"{k} {name}"], clinical_statistics(positives(found), positives(given))]
            parts += [meteors[f"{k} {name}"]] if meteors else []
            statistics = join(parts)
            bounds = intervals(statistics, clusters, seed)
            bounds.pop("f1_example", None)  # a figure of presets alone
            if not weighs:
                bounds.pop("cider", None)
            scores = {key: value for key, value in statistics.scores().items() if key in COLUMNS.values()}
            cider = scores.pop("cider")
            rows[k][name] = Row(
                meteor=scores.pop("meteor", None),
                cider=cider if weighs else None,
                **scores,
                clinical=clinical(positives(found), positives(given)),
                presets=preset_scores(found, given),
                intervals=bounds,
            )
    return rows
