"""`rrg report`: a page that stands whatever the data hold, and the command that writes it."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from report_pages import BIDI, HOSTILE, Page, page_of
from report_runs import TEXTS, change, write_run
from rrg.cli import main
from rrg.errors import RRGError, UsageError
from rrg.report import write_page
from rrg.report.films import LARGEST, SMALLEST, side_of
from rrg.report.markup import plain, shown


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
    assert "0 reports repeat themselves (0 references do)" in page.text
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
    rows[bad] = {**rows["model"], "presets": {bad: {bad: rows["model"]["clinical"]["macro"]}}}
    changes = {"signature": bad, "notes": [bad], "rows": rows, "presets": {bad: bad}, "data": bad}
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
    assert "images/missed-1.png: n" in page.text  # no such film; none of JPEG, PNG and DICOM
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
        (lambda run: (run / "predictions.jsonl").write_text("3\n"), 1, "1 of its lines are not predictions"),
        (lambda run: (run / "metrics.json").unlink(), 1, "no such file; `rrg evaluate "),
        (lambda run: (run / "metrics.json").write_text("[]"), 1, "not what this version of rrg evaluate writes: "),
        (lambda run: change(run / "metrics.json", rows={}), 1, '"rows" has no scores of "model"; `rrg evaluate '),
        (lambda run: change(run / "metrics.json", n="6"), 1, "writes: n: Input should be a valid integer; `rrg "),
        (lambda run: change(run / "metrics.json", version=2), 1, "writes: version: "),
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
