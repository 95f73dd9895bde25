"""The page of `rrg data check`: it shows the findings and their films, and nothing in it runs, fetches or overflows."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from chromium import CHROMIUM, Chromium, chromium
from data_folders import clean, noise, save, study, write_folder
from rrg.check import check_folder
from rrg.check.page import write_check
from rrg.cli import main
from rrg.errors import RRGError

OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\x00\x1b\u202e"


def hostile_folder(path: Path) -> Path:
    """Faults of every kind, in texts that mean harm."""
    same = {"patient": EVIL, "date": "2180-05-06"}
    studies = [
        *clean(),
        study("twin-a", "train", 2, findings=EVIL, **same),
        study("twin-b", "test", 2, findings=EVIL, views=[EVIL, "lateral"], **same),
        study(EVIL, file_names=["images/gone.png"]),
        study("l" + "ong" * 80, file_names=["images/" + "wide" * 55 + ".png"], findings="effusion" * 1000),
        study("silent", "val", findings=" . "),
    ]
    write_folder(path, studies, name=EVIL, licence=EVIL, split=EVIL)
    (path / "images/gone.png").unlink()
    save(path / "images/twin-b-0.png", noise("images/twin-a-0.png"))
    save(path / "images/twin-b-1.png", noise("images/twin-a-1.png"), compress_level=0)
    save(path / "images/val0-0.png", np.full((80, 70), 9, np.uint8))
    save(path / "images/val1-0.png", noise("strip", 20, 300))
    with (path / "metadata.jsonl").open("a") as file:
        file.write(EVIL + "\n")
    return path


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile")
    write_check(check_folder(hostile_folder(path / "data"), progress=False), path / "check.html")
    return path / "check.html"


def test_the_command_writes_the_page_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_folder(tmp_path / "data", clean())
    assert main(["data", "check", str(path), "--html", str(tmp_path / "check.html"), "--quick", "--examples", "9"]) == 0
    assert f"wrote {tmp_path / 'check.html'} (" in capsys.readouterr().out
    page = (tmp_path / "check.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 18
    assert "No film was opened" in page


def test_a_page_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    check = check_folder(write_folder(tmp_path / "data", clean()), progress=False)
    with pytest.raises(RRGError, match="could not be written: No such file or directory"):
        write_check(check, tmp_path / "none" / "check.html")


def test_a_folder_without_studies_has_a_page(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", [study("a")])
    (tmp_path / "data/metadata.jsonl").write_text("")
    write_check(check_folder(tmp_path / "data", progress=False), tmp_path / "check.html")
    assert "holds no study" in (tmp_path / "check.html").read_text(encoding="utf-8")


def test_the_page_has_no_script_and_nothing_from_elsewhere(hostile: Path) -> None:
    page = hostile.read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<img" not in page
    assert "default-src 'none'; img-src data:" in page
    assert not {"\x00", "\x1b", "\u202e"} & set(page)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_hostile_texts_run_nothing_and_keep_the_layout(
    hostile: Path, browser: Chromium, width: int, scheme: str
) -> None:
    browser.open(hostile, width, scheme)
    assert browser.evaluate("document.scripts.length + document.querySelectorAll('img, [onerror]').length") == 0
    assert not browser.happened("Page.javascriptDialogOpening")
    assert not browser.happened("Log.entryAdded")  # a refused style or script would be logged
    assert browser.requests == []
    assert browser.evaluate(OVERFLOW) <= 0
    assert browser.evaluate("getComputedStyle(document.querySelector('.maps')).display") == "grid"


def test_the_worst_findings_come_first(hostile: Path, browser: Chromium) -> None:
    browser.open(hostile, 1400)
    levels = browser.evaluate("[...document.querySelectorAll('.finding .tag')].map(tag => tag.textContent)")
    assert levels == sorted(levels, key=["error", "warning", "note"].index)
    assert levels.count("error") == 7
    assert "Identical films, splits" in browser.evaluate("document.querySelector('#findings').textContent")


@pytest.mark.parametrize("width", [400, 1400])
def test_a_pair_stands_side_by_side(hostile: Path, browser: Chromium, width: int) -> None:
    browser.open(hostile, width)
    tops = browser.evaluate(
        "[...document.querySelectorAll('.finding')].find(f => f.textContent.includes('Identical films, splits'))"
        ".querySelectorAll('.film').values().map(f => f.getBoundingClientRect().top).toArray()"
    )
    assert len(tops) == 2
    assert tops[0] == tops[1]


def test_films_are_decoded_and_fill_the_window_when_followed(hostile: Path, browser: Chromium) -> None:
    browser.open(hostile, 1400)
    width = "document.querySelector('.finding svg.film').getBoundingClientRect().width"
    small = browser.evaluate(width)
    assert small > 100
    browser.evaluate("document.querySelector('.finding .zoom a').click()")
    assert browser.evaluate(width) == 1400
    browser.evaluate("document.querySelector('.zoom:target .close').click()")
    assert browser.evaluate(width) == small
    assert browser.evaluate("document.querySelectorAll('.film.gone').length") >= 1


def test_a_histogram_of_each_split_has_its_bars(hostile: Path, browser: Chromium) -> None:
    browser.open(hostile, 1400)
    boxes = browser.evaluate(
        "[...document.querySelectorAll('.histogram path')].map(p => p.getBoundingClientRect().height)"
    )
    assert len(boxes) == 3
    assert min(boxes) > 100
