"""The phantom data set: deterministic, exactly labelled, varied, and visible where the report says."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rrg.data.phantom import make_phantom, plan_studies
from rrg.data.phantom.anatomy import sample_anatomy
from rrg.data.phantom.film import Technique, draw_film, sample_technique
from rrg.data.phantom.findings import LOBES, Finding, sample_findings
from rrg.data.phantom.reports import write_report
from rrg.data.study import StudyFolder
from rrg.errors import UsageError
from rrg.labels import get_labeler
from rrg.observations import OBSERVATIONS

ANATOMY = sample_anatomy(np.random.default_rng(3))
TECHNIQUE = Technique(
    rows=240,
    columns=232,
    field=1.2,
    shift=(0.0, 0.0),
    rotation=0.0,
    exposure=0.0,
    contrast=1.5,
    scatter=0.004,
    blur=0.1,
    photons=2e5,
    quality=0,
)


def film(*findings, view="frontal"):
    return draw_film(ANATOMY, findings, view, TECHNIQUE, seed=5)


def change(*findings, view="frontal"):
    return film(*findings, view=view) - film(view=view)


def centroid(difference):
    """Row and column of a change's middle, as fractions of the film."""
    weight = np.abs(difference) * (np.abs(difference) > 0.3 * np.abs(difference).max())
    rows, columns = np.indices(weight.shape)
    return (rows * weight).sum() / weight.sum() / weight.shape[0], (
        columns * weight
    ).sum() / weight.sum() / weight.shape[1]


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("phantom") / "a", studies=36, seed=7, workers=2, progress=False)


@pytest.fixture(scope="module")
def reports():
    made = []
    for seed in range(2500):
        rng = np.random.default_rng(seed)
        findings = sample_findings(rng)
        made.append((findings, write_report(findings, rng)))
    return made


@pytest.fixture(scope="module")
def labels(reports):
    """(reports, 14) with nan for what is not mentioned."""
    return np.array([[report.labels[name] for name in OBSERVATIONS] for _, report in reports], np.float32)


def test_the_same_seed_gives_the_same_bytes_with_one_worker_and_with_two(phantom, tmp_path):
    alone = make_phantom(tmp_path / "b", studies=36, seed=7, workers=1, progress=False)
    assert contents(phantom.path) == contents(alone.path)


def test_another_seed_gives_other_studies(phantom, tmp_path):
    other = make_phantom(tmp_path / "b", studies=36, seed=8, workers=1, progress=False)
    assert [s.findings for s in phantom.studies] != [s.findings for s in other.studies]


def test_the_folder_opens_and_its_card_says_how_it_was_made(phantom):
    folder = StudyFolder.open(phantom.path)
    assert len(folder.studies) == 36
    assert not folder.warnings
    assert {key: folder.card[key] for key in ("name", "labels", "seed")} == {
        "name": "phantom",
        "labels": "exact",
        "seed": 7,
    }
    assert folder.card["generator"]


def test_films_are_8_bit_grey_of_several_sizes_and_not_always_square(phantom):
    shapes, formats = set(), set()
    for study in phantom.studies:
        for i in range(len(study.file_names)):
            with Image.open(phantom.film_path(study, i)) as image:
                assert image.mode == "L"
                assert all(224 <= n <= 320 for n in image.size)
                shapes.add(image.size)
                formats.add(image.format)
    assert len(shapes) > 10
    assert any(width != height for width, height in shapes)
    assert formats == {"PNG", "JPEG"}


def test_most_studies_have_a_frontal_film_and_about_half_a_lateral_one(phantom):
    views = [study.views for study in phantom.studies]
    assert np.mean(["frontal" in v for v in views]) > 0.85
    assert 0.3 < np.mean(["lateral" in v for v in views]) < 0.7


def test_exposures_differ():
    rng = np.random.default_rng(0)
    means = [draw_film(ANATOMY, (), "frontal", sample_technique(rng), 0).mean() for _ in range(12)]
    assert np.std(means) > 0.02


def test_a_patient_never_crosses_splits_and_splits_are_70_10_20():
    plans = plan_studies(1999, seed=4)
    assert len(plans) == 1999
    splits: dict[int, set[str]] = {}
    for plan in plans:
        splits.setdefault(plan.patient, set()).add(plan.split)
    assert all(len(s) == 1 for s in splits.values())
    assert len(splits) < 1999
    share = {name: np.mean([plan.split == name for plan in plans]) for name in ("train", "val", "test")}
    assert share == pytest.approx({"train": 0.7, "val": 0.1, "test": 0.2}, abs=0.005)


@pytest.mark.parametrize("studies", [1, 2, 5])
def test_a_few_studies_are_planned_with_a_training_split(studies):
    assert "train" in {plan.split for plan in plan_studies(studies, seed=0)}


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_every_observation_is_common_enough_to_learn_and_rare_enough_to_matter(labels, name):
    present = np.mean(labels[:, OBSERVATIONS.index(name)] == 1)
    low, high = (0.20, 0.25) if name == "No Finding" else (0.11, 0.20)
    assert low <= present <= high


@pytest.mark.parametrize("name", [o for o in OBSERVATIONS if o not in ("No Finding", "Support Devices")])
def test_every_disease_is_also_hedged_and_denied(labels, name):
    column = labels[:, OBSERVATIONS.index(name)]
    assert 0.005 < np.mean(column == -1) < 0.05
    assert np.mean(column == 0) > 0.02
    assert np.mean(np.isnan(column)) > 0.2


def test_labels_are_what_was_drawn(reports):
    for findings, report in reports:
        drawn = {f.observation: 1 if f.certain else -1 for f in findings}
        stated = {name: value for name, value in report.labels.items() if value in (1, -1) and name != "No Finding"}
        assert stated == drawn
        disease = any(name != "Support Devices" for name in drawn)
        assert report.labels["No Finding"] == (None if disease else 1)


def test_the_labeler_reads_the_exact_labels(reports, labels):
    read = get_labeler("chexpert")([report.findings for _, report in reports])
    assert np.mean(read[labels == 1] == 1) >= 0.98
    assert np.mean(labels[read == 1] == 1) >= 0.98
    assert np.mean(read[labels == -1] == -1) >= 0.98
    assert np.mean(read[labels == 0] == 0) >= 0.98


def test_the_impression_agrees_with_the_findings(reports, labels):
    read = get_labeler("chexpert")([f"{report.findings} {report.impression}" for _, report in reports])
    assert np.mean(read[labels == 1] == 1) >= 0.98
    assert np.mean(read[labels == -1] == -1) >= 0.98


def test_reports_have_three_to_seven_sentences_of_few_words(reports):
    assert {len(re.findall(r"\.(?: |$)", report.findings)) for _, report in reports} <= set(range(3, 8))
    words = {word for _, report in reports for word in re.findall(r"[\w-]+", report.findings.lower())}
    assert len(words) < 300


def test_reports_are_varied(reports):
    assert len({report.findings for _, report in reports}) > 0.9 * len(reports)


def test_no_sentence_contradicts_the_findings(reports):
    for findings, report in reports:
        drawn = {f.observation for f in findings}
        assert not ("Fracture" in drawn and "bones are intact" in report.findings)
        assert not ("clear" in report.findings and drawn & {"Edema", "Consolidation", "Pneumonia", "Lung Opacity"})


def test_a_report_names_place_size_and_severity():
    lesion = Finding("Lung Lesion", 1, side="right", place="right upper lobe", size=26)
    effusion = Finding("Pleural Effusion", 1, side="bilateral", degree=2)
    for seed in range(10):
        text = write_report([lesion, effusion], np.random.default_rng(seed)).findings
        assert re.search(r"26 mm.*right upper lobe|right upper lobe.*26 mm", text)
        assert re.search(r"[Ll]arge bilateral pleural effusions", text)


def test_a_constant_report_cannot_score_well(labels):
    present = labels == 1
    prevalence = present.mean(0)
    names_everything = 2 * prevalence / (1 + prevalence)
    assert names_everything.mean() < 0.30
    best_true = max(names_everything[row].sum() / len(OBSERVATIONS) for row in np.unique(present, axis=0))
    assert best_true < 0.15


def test_bones_are_white_and_lungs_dark():
    picture = film()
    lung, middle, outside = picture[90:130, 50:80].mean(), picture[90:130, 112:120].mean(), picture[150:, :4].mean()
    assert outside < 0.25 < lung < 0.6 < 0.75 < middle


@pytest.mark.parametrize(
    ("finding", "rows"),
    [
        (Finding("Lung Opacity", 1, side="right", place="right upper lobe", degree=1), (0.1, 0.5)),
        (Finding("Lung Lesion", 1, side="right", place="right upper lobe", size=26), (0.1, 0.5)),
        (Finding("Consolidation", 1, side="right", place="right upper lobe", degree=1), (0.1, 0.5)),
        (Finding("Pneumonia", 1, side="right", place="right lower lobe", degree=1), (0.5, 0.9)),
        (Finding("Atelectasis", 1, side="right", degree=1), (0.5, 0.95)),
        (Finding("Pneumothorax", 1, side="right", degree=1), (0.0, 0.7)),
        (Finding("Pleural Effusion", 1, side="right", degree=1), (0.5, 1.0)),
        (Finding("Pleural Other", 1, side="right", place="lateral", degree=1), (0.2, 0.9)),
        (Finding("Fracture", 1, side="right", place="lateral", ribs=(5, 6)), (0.2, 0.8)),
        (Finding("Support Devices", 1, side="right", place="chest tube"), (0.1, 0.9)),
    ],
    ids=lambda value: value.observation if isinstance(value, Finding) else "",
)
def test_a_finding_of_the_right_side_changes_that_side_alone(finding, rows):
    difference = change(finding)
    width = difference.shape[1]
    right, left = difference[:, : width // 2], difference[:, width // 2 + 2 :]
    assert np.abs(right).max() > 0.05
    assert not left.any()
    middle, _ = centroid(right)
    assert rows[0] < middle < rows[1]


@pytest.mark.parametrize("lobe", LOBES)
def test_a_lesion_lies_in_its_lobe_and_as_high_on_the_lateral_film(lobe):
    lesion = Finding("Lung Lesion", 2, side=LOBES[lobe][0], place=lobe, size=40)
    row, column = centroid(change(lesion))
    assert (column < 0.5) == lobe.startswith("right")
    assert (row < 0.47) == ("upper" in lobe)
    row_aside, column_aside = centroid(change(lesion, view="lateral"))
    assert row_aside == pytest.approx(row, abs=0.04)
    assert (column_aside > 0.58) == ("lower" in lobe)


def test_a_pneumothorax_darkens_the_apex():
    apex = change(Finding("Pneumothorax", 1, side="left", degree=2))[:60]
    assert np.median(apex[np.abs(apex) > 0.05]) < -0.05


def test_an_effusion_whitens_the_base():
    base = change(Finding("Pleural Effusion", 1, side="left", degree=1))
    assert np.median(base[np.abs(base) > 0.05]) > 0.1


def test_an_effusion_fills_the_posterior_sulcus_of_the_lateral_film():
    row, column = centroid(change(Finding("Pleural Effusion", 1, side="left"), view="lateral"))
    assert row > 0.6
    assert column > 0.6


def test_edema_is_on_both_sides():
    difference = change(Finding("Edema", 1, degree=1))
    width = difference.shape[1]
    left, right = difference[:, : width // 2].sum(), difference[:, width // 2 :].sum()
    assert left == pytest.approx(right, rel=0.35)
    assert min(left, right) > 20


def test_cardiomegaly_widens_the_heart_and_a_wide_mediastinum_lies_above_it():
    heart, mediastinum = (
        change(Finding("Cardiomegaly", 1, degree=1)),
        change(Finding("Enlarged Cardiomediastinum", 1, degree=1)),
    )
    assert centroid(heart)[0] > 0.5 > centroid(mediastinum)[0]
    assert heart.max() > 0.2
    assert mediastinum.max() > 0.2


@pytest.mark.parametrize("observation", ["Lung Opacity", "Pneumonia", "Edema", "Pleural Effusion", "Cardiomegaly"])
def test_an_uncertain_finding_is_fainter(observation):
    finding = Finding(observation, 1, side="right", place="right lower lobe", degree=1)
    assert 0 < np.abs(change(replace(finding, certain=False))).sum() < 0.8 * np.abs(change(finding)).sum()


def test_noise_is_all_that_a_films_seed_changes():
    one, two = (draw_film(ANATOMY, (), "frontal", TECHNIQUE, seed) for seed in (1, 2))
    assert 0 < np.abs(one - two).mean() < 0.03


@pytest.mark.parametrize(
    "arguments", [{"studies": 0}, {"studies": -3}, {"studies": 10**9}, {"seed": -1}, {"workers": 0}]
)
def test_absurd_arguments_are_refused_before_anything_is_written(tmp_path, arguments):
    with pytest.raises(UsageError, match=str(next(iter(arguments.values())))):
        make_phantom(tmp_path / "phantom", progress=False, **arguments)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="no empty folder"):
        make_phantom(tmp_path, studies=3, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
