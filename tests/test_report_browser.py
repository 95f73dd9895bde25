"""The page of `rrg report` in a real browser: nothing runs, nothing is fetched, nothing overflows."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from chromium import CHROMIUM, Chromium, chromium
from report_pages import HOSTILE
from report_runs import TEXTS, write_run
from rrg.report import write_page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")

OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
WIDTHS = (400, 1400)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of hostile texts, one of whose films is missing."""
    run = write_run(tmp_path_factory.mktemp("hostile"), HOSTILE)
    (run.parent / "data" / "images" / "script-0.png").unlink()
    return write_page(run, internals=False)


def test_the_browser_sees_scripts_requests_and_overflow(tmp_path: Path, browser: Chromium) -> None:
    """Otherwise the tests below would mean nothing."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><script>alert(1)</script><img src='http://127.0.0.1:9/x.png'>"
        f"<p>{'effusion' * 1250}</p><p style='width:10px'>x</p>"
    )
    browser.open(bad, 400)
    assert browser.happened("Page.javascriptDialogOpening")
    assert browser.requests == ["http://127.0.0.1:9/x.png"]
    assert browser.evaluate(OVERFLOW) > 1000


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_hostile_texts_run_nothing_and_keep_the_layout(
    hostile: Path, browser: Chromium, width: int, scheme: str
) -> None:
    browser.open(hostile, width, scheme)
    assert browser.evaluate("document.querySelectorAll('article').length") == len(HOSTILE)
    assert browser.evaluate("document.scripts.length + document.querySelectorAll('img, [onerror]').length") == 0
    assert not browser.happened("Page.javascriptDialogOpening")
    assert not browser.happened("Runtime.consoleAPICalled")
    assert not browser.happened("Log.entryAdded")  # a refused style or script would be logged
    assert browser.requests == []
    assert browser.evaluate(OVERFLOW) <= 0


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_within_a_case_is_wider_than_the_case(hostile: Path, browser: Chromium, width: int) -> None:
    browser.open(hostile, width)
    wider = browser.evaluate(
        "[...document.querySelectorAll('article')].flatMap(a => [...a.querySelectorAll('*')].filter(e => "
        "e.getBoundingClientRect().right > a.getBoundingClientRect().right + 1).map(e => e.outerHTML.slice(0, 80)))"
    )
    assert wider == []


def test_a_long_report_scrolls_in_its_cell(hostile: Path, browser: Chromium) -> None:
    browser.open(hostile, 1400)
    bodies = browser.evaluate(
        "[...document.querySelectorAll('.body')]"
        ".map(b => [b.clientHeight, b.scrollHeight, b.scrollWidth - b.clientWidth])"
    )
    assert max(height for height, _, _ in bodies) <= 720
    assert max(whole for _, whole, _ in bodies) > 1000
    assert max(over for _, _, over in bodies) <= 0


def test_right_to_left_text_moves_nothing_around_it(tmp_path: Path, browser: Chromium) -> None:
    """A tag's parts stand in the order in which they were written, whatever the study is called."""
    run = write_run(tmp_path, {"עברית\u202e": TEXTS["missed"], "plain": TEXTS["missed"]})
    browser.open(write_page(run, internals=False), 1400)
    lefts = browser.evaluate(
        "[...document.querySelectorAll('h4')].map(h => { const [n, b] = h.children;"
        "return b.getBoundingClientRect().left - n.getBoundingClientRect().right })"
    )
    assert len(lefts) == 2
    assert lefts[0] == pytest.approx(lefts[1], abs=1)
    assert browser.evaluate("getComputedStyle(document.querySelector('bdi')).unicodeBidi") == "isolate"


def test_the_style_of_the_page_is_applied(hostile: Path, browser: Chromium) -> None:
    """Its hash in the policy is right."""
    browser.open(hostile, 1400, "light")
    light = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    browser.open(hostile, 1400, "dark")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") != light
    assert browser.evaluate("getComputedStyle(document.querySelector('article')).display") == "grid"


def test_a_film_fills_the_window_when_it_is_followed(hostile: Path, browser: Chromium) -> None:
    browser.open(hostile, 1400)
    width = "document.querySelector('svg.film').getBoundingClientRect().width"
    small = browser.evaluate(width)
    browser.evaluate("document.querySelector('.zoom a').click()")
    assert browser.evaluate(width) == 1400 > 2 * small
    browser.evaluate("document.querySelector('.zoom:target .close').click()")
    assert browser.evaluate(width) == small


def test_films_are_decoded(hostile: Path, browser: Chromium) -> None:
    browser.open(hostile, 1400)
    boxes = browser.evaluate(
        "[...document.querySelectorAll('svg.film image')].map(i => i.getBoundingClientRect().width)"
    )
    assert len(boxes) == 2 * len(HOSTILE) - 1
    assert min(boxes) > 50
    assert browser.evaluate("document.querySelectorAll('.film.gone').length") == 1
