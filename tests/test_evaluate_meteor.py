"""METEOR: the corpus score of any reports from the jar's statistics, equal to the jar's own; and what makes it hang."""

import random
import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from rrg.evaluate.meteor import Pair, _statistics, meteor_statistics
from rrg.evaluate.statistics import Statistics

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs java")
# What the jar answered for five pairs: two alike, others with stems, a paraphrase, no hypothesis, another order.
RECORDED = """\
5 5 3 3 2 2 3 3 0 0 0 0 0 0 0 0 0 0 0 0 1 5 5
8 6 5 1 1 1 0 0 0 0 0 0 0 0 0 0 1 2 2 1 3 4 4
5 5 3 4 1 1 2 2 0 0 0 0 0 0 0 0 0 0 0 0 2 3 3
0 5 0 3 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
10 11 6 6 4 4 6 6 0 0 0 0 0 0 0 0 0 0 0 0 5 10 10"""
SEGMENTS = [1.0, 0.1936440416380908, 0.3059830500760023, 0.0, 0.41839678425313187]
CORPUS = 0.3162186421377712

# Words that match exactly, by stem (lung, lungs), by synonym (big, large) and in paraphrases (no evidence of, without).
WORDS = ["the", "lungs", "lung", "are", "clear", "no", "evidence", "of", "without", "effusion", "effusions", "big"]
WORDS += ["large", "heart", "is", "enlarged", ".", ",", "3.5", "cm"]


def meteor(tables: dict[str, list[Pair]]) -> dict[str, float]:
    """Corpus METEOR of each table."""
    return {name: found.scores()["meteor"] for name, found in meteor_statistics(tables).items()}


def pairs(n: int, seed: int) -> list[Pair]:
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(0, 25))) for _ in range(2 * n)]
    mixed = list(zip(texts[:n], texts[n:], strict=True))
    return [*mixed, *[(h, h) for h, _ in mixed[:3]], ("", "the heart"), ("the heart", ""), ("", ""), ("heart", "lung")]


def jar(requests: Sequence[str]) -> list[str]:
    """What the jar itself answers, line by line."""
    spec = find_spec("pycocoevalcap")
    assert spec
    folder = Path((spec.submodule_search_locations or [""])[0]) / "meteor"
    command = ["java", "-Xmx2G", "-Duser.language=en", "-Duser.country=US", "-jar", "meteor-1.5.jar"]
    done = subprocess.run(
        [*command, "-", "-", "-stdio", "-l", "en", "-norm"],
        cwd=folder,
        input="\n".join(requests) + "\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout.splitlines()


def test_the_jars_numbers_give_the_jars_scores() -> None:
    found = _statistics([[float(number) for number in row.split()] for row in RECORDED.splitlines()])
    assert found.score(found.values)["meteor"] == pytest.approx(SEGMENTS, abs=1e-12)
    assert found.scores()["meteor"] == pytest.approx(CORPUS, abs=1e-12)


REFERENCE, BREAKS = "the lungs are clear .", ["\n", "\r", "\r\n", "\u2028", "\x0b", "\x0c", "\x85"]
TABLES = {
    "random": pairs(300, 0),
    "breaks": [(REFERENCE, REFERENCE), *((f"the lungs{mark}are clear .", REFERENCE) for mark in BREAKS)],
    "after them": [("no effusion", "heart")],
    "empty": [("", "the heart ."), ("the heart .", ""), ("", "")],
}


@pytest.fixture(scope="module")
def found() -> dict[str, Statistics]:
    return meteor_statistics(TABLES)


@needs_java
@pytest.mark.slow
def test_scores_of_sums_are_the_jars_own(found: dict[str, Statistics]) -> None:
    ours, rng = found["random"], np.random.default_rng(0)
    requests = [f"SCORE ||| {reference} ||| {hypothesis} " for hypothesis, reference in TABLES["random"]]
    raw = jar(requests)
    drawn = [rng.integers(len(raw), size=size) for size in (1, 2, 5, 40, 400)]
    scores = iter(float(text) for text in jar(["EVAL ||| " + " ||| ".join(raw[i] for i in rows) for rows in drawn]))
    for rows in drawn:
        own = [next(scores) for _ in rows]
        assert ours.score(ours.values[rows])["meteor"] == pytest.approx(own, abs=1e-6)
        assert ours.of(rows).scores()["meteor"] == pytest.approx(next(scores), abs=1e-6)
    assert (ours.values[:, 4:20].reshape(-1, 4, 4).sum(axis=(0, 2)) > 0).all()  # every kind of match occurs


@needs_java
@pytest.mark.slow
def test_the_corpus_score_is_not_the_mean_of_its_reports(found: dict[str, Statistics]) -> None:
    each = found["random"].score(found["random"].values)["meteor"]
    assert abs(each.mean() - found["random"].scores()["meteor"]) > 0.01


@needs_java
@pytest.mark.slow
def test_line_breaks_of_every_kind_are_spaces(found: dict[str, Statistics]) -> None:
    assert (found["breaks"].values == found["breaks"].values[0]).all()
    assert found["after them"].scores()["meteor"] == 0


@needs_java
@pytest.mark.slow
def test_an_empty_text_matches_nothing_and_keeps_the_others_length(found: dict[str, Statistics]) -> None:
    empty = found["empty"]
    assert empty.values[:, :2].tolist() == [[0, 3], [3, 0], [0, 0]]
    assert (empty.values[:, 4:] == 0).all()
    assert empty.score(empty.values)["meteor"].tolist() == [0, 0, 0]


@needs_java
@pytest.mark.slow
def test_a_locale_with_decimal_commas_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"all": pairs(5, 2)}
    plain = meteor(table)
    for name in ("LANG", "LC_ALL", "LC_NUMERIC"):
        monkeypatch.setenv(name, "de_DE.UTF-8")
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=tr -Duser.country=TR")
    assert meteor(table) == plain


@needs_java
@pytest.mark.slow
def test_a_failure_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an exception half way, the next call answers."""

    class Stop(Exception):
        pass

    def broken(*_: object) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr("rrg.evaluate.meteor._read", broken)
        with pytest.raises(Stop):
            meteor({"all": [("a b", "a b")]})
    assert meteor({"all": [("a b c", "a b c")]})["all"] > 0.9
