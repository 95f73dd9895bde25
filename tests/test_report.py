"""`rrg report`: which cases, how sentences are marked, which numbers; a page that stands whatever the data holds."""

# ruff: noqa: F811  (the fixtures `scored` and `_scored` are imported)

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from report_runs import NORMAL, SICK, TEXTS, _scored, change, scored, write_run  # noqa: F401  (fixtures)
from rrg.cli import main
from rrg.errors import DataError, RRGError, UsageError
from rrg.evaluate import read_predictions
from rrg.labels import get_labeler
from rrg.report import write_page
from rrg.report.cases import Case, Tag, cases_of, chosen, marked, split
from rrg.report.films import LARGEST, SMALLEST, side_of
from rrg.report.markup import plain, shown
from rrg.report.page import read_studies
from rrg.report.scores import MODEL, Cell, read_metrics

BIDI = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u061c"


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


def every_case(run: Path) -> dict[str, Case]:
    predictions = read_predictions(run / "predictions.jsonl")
    folder = read_studies(run.parent / "data", predictions)
    return {case.id: case for case in cases_of(predictions, folder, get_labeler())}


def test_findings_are_agreed_missed_or_hallucinated(scored: Path) -> None:
    cases = every_case(scored)
    assert cases["right"].findings == {"Cardiomegaly": "agreed", "Pleural Effusion": "agreed"}
    assert cases["missed"].findings == {"Cardiomegaly": "missed", "Pleural Effusion": "missed"}
    assert cases["half"].findings == {"Cardiomegaly": "agreed", "Pleural Effusion": "missed"}
    assert cases["invented"].findings == {"Pneumothorax": "hallucinated"}
    assert cases["clear"].findings == {}
    assert [name for name, case in cases.items() if case.called_normal] == ["missed"]


def test_cases_are_in_the_order_of_what_went_wrong(scored: Path) -> None:
    cases = every_case(scored)
    assert list(cases) == ["missed", "half", "invented", "made-up", "right", "clear"]  # fewer shared words first
    assert [case.kind for case in cases.values()] == ["missed"] * 2 + ["hallucinated"] * 2 + ["other"] * 2


def test_exact_labels_count_where_the_card_has_them(scored: Path) -> None:
    change(scored.parent / "data" / "dataset.json", labels="exact")
    findings = every_case(scored)["right"].findings  # the labels mention nothing
    assert findings == {"Cardiomegaly": "hallucinated", "Pleural Effusion": "hallucinated"}


def test_sentences_carry_the_findings_that_they_mention_or_deny(scored: Path) -> None:
    case, labeler = every_case(scored)["missed"], get_labeler()
    assert [s.tags for s in marked(case.prediction.report, case, labeler)] == [
        [],
        [Tag("missed", "Pleural Effusion", "absent")],
    ]
    assert [s.tags for s in marked(case.reference, case, labeler)] == [
        [Tag("missed", "Pleural Effusion")],
        [Tag("missed", "Cardiomegaly")],
    ]


def test_list_numbers_and_abbreviations_end_no_sentence() -> None:
    report = "1. Lungs clear. 2. Seen by Dr. Ray at 3.5 cm.\n\nHeart normal"
    assert split(report) == ["1. Lungs clear.", "2. Seen by Dr. Ray at 3.5 cm.", "Heart normal"]
    assert split(" \n ") == []


@given(st.text(max_size=300))
def test_splitting_loses_nothing_but_spaces(report: str) -> None:
    assert "".join("".join(split(report)).split()) == "".join(report.split())


def test_of_an_endless_report_the_beginning_is_shown() -> None:
    *parts, last = split("a " * 15_000)
    assert sum(map(len, parts)) == 20_000
    assert last == "[and 10,000 more characters]"


def test_at_most_so_many_cases_are_taken_the_worst_of_each_kind(scored: Path) -> None:
    cases = list(every_case(scored).values())
    assert [case.id for case in chosen(cases, 3)] == ["missed", "half", "invented"]
    assert [case.id for case in chosen(cases, 4)] == ["missed", "half", "invented", "made-up"]
    assert [case.id for case in chosen(cases, 1)] == ["missed"]
    assert chosen(cases, 6) == chosen(cases, 99) == cases


def test_a_seed_draws_cases_at_random(scored: Path) -> None:
    cases = list(every_case(scored).values())
    draws = {tuple(case.id for case in chosen(cases, 3, seed)) for seed in range(20)}
    assert len(draws) > 5
    assert chosen(cases, 3, 7) == chosen(cases, 3, 7)
    for seed in range(20):
        taken = chosen(cases, 3, seed)
        assert taken == sorted(taken, key=lambda case: case.order)


@given(st.text())
def test_nothing_shown_can_become_markup_or_turn_the_page_around(content: str) -> None:
    for written in (plain(content + BIDI), shown(content + BIDI)):
        assert not set(BIDI) & set(written)
        written.encode()
    assert not set("<>\"'") & set(plain(content))
    page = Page(f"<p>{shown(content)}</p>")
    assert {tag for tag, _ in page.elements} <= {"p", "span"}


def test_invisible_characters_are_shown_by_their_code() -> None:
    assert shown("a\u202eb\x00") == 'a<span class="control">U+202E</span>b<span class="control">U+0000</span>'
    assert plain("a\ud800<") == "a[U+D800]&lt;"
    assert shown("a\r\nb\tc") == "a\nb\tc"


def test_films_shrink_where_there_are_many() -> None:
    assert side_of(0) == side_of(80) == LARGEST
    assert SMALLEST < side_of(1200) < LARGEST
    assert side_of(1200) ** 2 * 1200 * 0.2 < 10e6
    assert side_of(10**6) == SMALLEST


def test_the_page_has_every_source_and_says_how_it_was_measured(scored: Path) -> None:
    metrics = json.loads((scored / "metrics.json").read_text())
    page = page_of(scored)
    for part in ("model", "best constant", "random train report", "copy the retrieved", metrics["signature"]):
        assert part in page.text
    for value in (metrics["rows"]["model"]["bleu_4"], metrics["rows"]["best constant"]["clinical"]["macro"]["f1"]):
        assert f"{value:.3f}" in page.text
    assert "METEOR not computed: no java" in page.text
    assert "6 distinct reports" in page.text
    assert "All 6 cases, worst first." in page.text
    assert "Without the model's internals, as asked for." in page.text


def test_the_page_shows_cases_with_films_texts_and_probabilities(scored: Path) -> None:
    page = page_of(scored)
    assert len(page.all("article")) == len(TEXTS)
    films = [a for a in page.all("svg") if a.get("class") == "film"]
    assert len(films) == 2 * len(TEXTS)
    assert {a["aria-label"] for a in films} >= {"Film 2 of 2, lateral, study missed"}
    assert all(str(a["href"]).startswith("data:image/jpeg;base64,") for a in page.all("image"))
    assert "Missed findings 2 " in page.text
    assert page.text.count(", a training study.") == len(TEXTS)
    assert "missed Pleural Effusion absent" in page.text
    assert "reads as normal, the reference does not" in page.text
    assert "Word for word the generated report." in page.text


def test_a_part_of_the_cases_is_called_a_part(scored: Path) -> None:
    assert "3 of 6 cases, worst first." in page_of(scored, cases=3).text
    assert "Hallucinated findings 1 of 2" in page_of(scored, cases=3).text
    assert "3 of 6 cases, drawn at random (seed 5), worst first." in page_of(scored, cases=3, seed=5).text


def test_headings_descend_one_level_at_a_time(scored: Path) -> None:
    levels = [int(tag[1]) for tag, _ in page_of(scored).elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_the_policy_allows_no_script_and_only_the_pages_own_style(scored: Path) -> None:
    content = write_page(scored, internals=False).read_text(encoding="utf-8")
    [policy] = [str(a["content"]) for a in Page(content).all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "style=" not in content.partition("</style>")[2]  # it would be refused
    assert "<script" not in content


HOSTILE = {
    "script": ("</script><script>alert(1)</script>", "</style></p><img src=x onerror=alert(2)>"),
    "\"><b id='x'>": ("<!-- \u202ereversed\u202c \u2067 עברית ערבית", SICK),
    "long": ("effusion" * 1250, "word " * 2000),
    "silent": (" ", "\u202e\u200f.\x00"),
}


def test_hostile_texts_stay_text(tmp_path: Path) -> None:
    run = write_run(tmp_path / "</title><script>alert(3)</script>\u202e".replace("/", "∕"), HOSTILE)
    page = page_of(run)
    assert not {"script", "img", "b id='x'"} & {tag for tag, _ in page.elements}
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert not set(BIDI) & set("".join(page.words))
    assert "</script><script>alert(1)</script>" in page.text
    assert "U+202E reversed" in page.text
    assert "effusion" * 1250 in page.text
    assert len(page.all("article")) == 4


def test_metrics_and_recipe_are_escaped_too(scored: Path) -> None:
    bad = "<script>alert(1)</script>\u202e"
    rows = json.loads((scored / "metrics.json").read_text())["rows"]
    changes = {"signature": bad, "notes": [bad], "rows": {**rows, bad: {bad: 0.5}}, bad: bad, "data": bad}
    change(scored / "metrics.json", **changes)
    change(scored / "run.json", finished=bad)
    page = page_of(scored)
    assert not page.all("script")
    assert not set(BIDI) & set("".join(page.words))
    assert page.text.count("<script>alert(1)</script>") >= 6


@pytest.mark.parametrize("spoil", [lambda film: film.unlink(), lambda film: film.write_bytes(b"GIF89a")])
def test_a_film_that_cannot_be_shown_leaves_a_placeholder_with_its_name(
    scored: Path, spoil: Callable[[Path], object]
) -> None:
    spoil(scored.parent / "data" / "images" / "missed-1.png")
    page = page_of(scored)
    assert len([a for a in page.all("div") if a.get("class") == "film gone"]) == 1
    assert "images/missed-1.png: n" in page.text  # no such film; neither a JPEG nor a PNG
    assert str(scored.parent) not in page.text


def test_a_study_that_is_gone_is_said(scored: Path) -> None:
    path = scored.parent / "data" / "metadata.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines() if '"id": "half"' not in line))
    page = page_of(scored)
    assert "1 of the predicted studies are not in the data folder" in page.text
    assert "study half is not in the data folder" in page.text


def test_a_run_whose_model_cannot_be_loaded_still_gets_a_page(scored: Path) -> None:
    page = page_of(scored, internals=True)
    assert "Without the model's internals: the run could not be loaded." in page.text
    assert "recipe.toml: no such recipe" in page.text
    assert len(page.all("article")) == 6


def test_an_interval_of_macro_f1_goes_with_it(scored: Path) -> None:
    change(scored / "metrics.json", intervals={MODEL: {"f1_macro": [0.3, 0.4]}})
    table = read_metrics(scored / "metrics.json").tables[""]
    assert table.cells[("clinical", "macro", "f1")][MODEL].interval == (0.3, 0.4)
    assert ("f1_macro",) not in table.cells


def test_intervals_are_shown(scored: Path) -> None:
    path = scored / "metrics.json"
    content = json.loads(path.read_text())
    content["rows"]["model"]["intervals"] = {"bleu_4": [0.1, 0.25]}
    path.write_text(json.dumps(content))
    cell = read_metrics(path).tables[""].cells[("bleu_4",)][MODEL]
    assert cell.interval == (0.1, 0.25)
    assert cell.value is not None
    assert "0.100 – 0.250" in page_of(scored).text


def test_further_presets_and_facts_are_folded_up_and_long_lists_are_not_shown(scored: Path) -> None:
    path = scored / "metrics.json"
    content = json.loads(path.read_text())
    for number, name in enumerate(content["rows"]):
        content["rows"][name]["presets"] = {"promptmrg": {"example-14|uncertain->0": {"f1": number + 0.125}}}
    content |= {
        "presets": {"promptmrg": "reports:rules|paper:CheXbert"},
        "radgraph": {"all": {"simple": {"f1": 0.321}}},
        "repeated": {"report": "the heart .", "count": 17},
        "per_report": {f"s{i}": {"model": {"bleu_1": 0.987}} for i in range(300)},
        "matrix": [[1, 0]] * 6,
    }
    path.write_text(json.dumps(content))
    metrics = read_metrics(path)
    way = ("presets", "promptmrg", "example-14|uncertain->0", "f1")
    assert metrics.tables[""].cells[way][MODEL] == Cell(0.125)
    assert way not in metrics.tables[""].metrics
    page = page_of(scored)
    assert len(page.all("details")) == 2
    assert "promptmrg, example-14|uncertain->0, f1 0.125 1.125 2.125 3.125" in page.text
    assert "presets promptmrg reports:rules|paper:CheXbert" in page.text
    assert "radgraph all simple f1 0.321" in page.text
    assert "17 times the most frequent report" in page.text
    assert "0.987" not in page.text


def test_labels_and_scores_of_each_report_are_those_of_the_metrics(scored: Path) -> None:
    labels = {"Edema": 1, "Cardiomegaly": -1, "No Finding": 0}
    report = {"id": "right", "labels": labels, "reference_labels": {"Fracture": 1}, "bleu_4": 0.4321, "cider": None}
    change(scored / "metrics.json", reports=[report, {"id": 3}, "x"])
    predictions, metrics = read_predictions(scored / "predictions.jsonl"), read_metrics(scored / "metrics.json")
    folder = read_studies(scored.parent / "data", predictions)
    cases = {case.id: case for case in cases_of(predictions, folder, get_labeler(), metrics.reports)}
    assert cases["right"].findings == {"Edema": "hallucinated", "Fracture": "missed"}
    assert cases["right"].scores == {"bleu_4": 0.4321}
    assert cases["half"].findings == every_case(scored)["half"].findings
    assert "This report alone: BLEU-4 0.432" in page_of(scored).text


def test_numbers_that_are_none_or_nan_are_dashes(scored: Path) -> None:
    content = json.loads((scored / "metrics.json").read_text())
    content["rows"]["model"]["cider"] = float("nan")
    content["verbatim"] = None
    (scored / "metrics.json").write_text(json.dumps(content))
    text = page_of(scored).text
    assert re.search(r"METEOR – – – –", text)
    assert re.search(r"CIDEr – \d", text)
    assert "nan" not in text.replace("sources", "")


def test_metrics_of_other_predictions_are_said(scored: Path) -> None:
    change(scored / "metrics.json", n=9)
    assert "metrics.json scores 9 studies, predictions.jsonl has 6; score anew" in page_of(scored).text


def test_an_unknown_labeler_is_replaced_and_that_is_said(scored: Path) -> None:
    change(scored / "metrics.json", labeler="someone's")
    ours = get_labeler().name
    assert f"marked by the labeler {ours}, not by someone's, which made the scores" in page_of(scored).text


def test_the_command_writes_the_page_and_says_where(
    scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(scored), "--no-internals", "--cases", "2"]) == 0
    assert capsys.readouterr().out.startswith(f"wrote {scored / 'report.html'} (0.")
    out = tmp_path / "else.html"
    assert main(["report", str(scored), "--no-internals", "-o", str(out), "--seed", "3"]) == 0
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["else.html", "scored"]


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        (lambda run: (run / "run.json").unlink(), 2, "holds no run; make one with: rrg train"),
        (lambda run: (run / "run.json").write_text("{"), 1, "cannot be read as JSON"),
        (lambda run: (run / "predictions.jsonl").unlink(), 1, "no such file; `rrg generate` writes it"),
        (lambda run: (run / "predictions.jsonl").write_text("{}\n"), 1, "1 of its lines are not predictions"),
        (lambda run: (run / "metrics.json").unlink(), 1, "no such file; `rrg evaluate "),
        (lambda run: (run / "metrics.json").write_text("[]"), 1, 'expected an object with "rows"'),
        (lambda run: (run / "metrics.json").write_bytes(b"\xff"), 1, "cannot be read as JSON"),
        (lambda run: (run.parent / "data").rename(run.parent / "moved"), 1, "is gone; give --data"),
        (lambda run: (run.parent / "data" / "dataset.json").unlink(), 1, "give the run's data folder with --data"),
        (
            lambda run: (run.parent / "data" / "metadata.jsonl").write_text(""),
            1,
            "none of the 6 predicted studies",
        ),
        (lambda run: (run.parent / "data" / "metadata.jsonl").write_text("{}"), 1, "no data folder of rrg"),
    ],
)
def test_the_command_says_what_is_wrong(
    scored: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], object], code: int, message: str
) -> None:
    spoil(scored)
    assert main(["report", str(scored), "--no-internals"]) == code
    assert message in capsys.readouterr().err
    assert not (scored / "report.html").exists()


def test_data_elsewhere_is_named(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = (scored.parent / "data").rename(scored.parent / "moved")
    assert main(["report", str(scored), "--no-internals", "--data", str(moved)]) == 0
    capsys.readouterr()


def test_no_cases_are_refused(scored: Path) -> None:
    with pytest.raises(UsageError, match="--cases 0: give 1 or more"):
        write_page(scored, cases=0)


def test_a_page_that_cannot_be_written_leaves_the_old_one(scored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write_page(scored, internals=False).read_text(encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(RRGError, match="No space left on device; name another file"):
        write_page(scored, internals=False, cases=1)
    assert (scored / "report.html").read_text(encoding="utf-8") == before
    assert not list(scored.glob(".*.partial"))


def test_a_metrics_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metrics\.json: no such file; `rrg evaluate .*` writes it"):
        read_metrics(tmp_path / "metrics.json")


def test_a_normal_report_of_a_normal_film_has_no_marks(scored: Path) -> None:
    case = every_case(scored)["clear"]
    assert case.reference == NORMAL
    assert all(not s.tags for s in marked(NORMAL, case, get_labeler()))
    assert np.isclose(case.overlap, 1)
