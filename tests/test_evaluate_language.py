"""BLEU, ROUGE-L and CIDEr-D: equal to pycocoevalcap, report by report and over any of them."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from rrg.evaluate.language import language_scores, language_statistics

ROUGE, CIDER = 9, 10
WORDS = ["the", "lungs", "are", "clear", "no", "effusion", ".", "<unk>", "x-xxxx", "é", "\u4e2d"]
# Double and outer spaces, and what str.split takes for white space where a single space is not.
SPACES = [" "] * 8 + ["  ", "\t", "\n", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\xa0", "\u2028", "\u2029", "\u3000"]
TEXTS = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(SPACES)), max_size=12).map(
    lambda parts: "".join(word + space for word, space in parts)
)


def peer(hypotheses: Sequence[str], references: Sequence[str]) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """pycocoevalcap's corpus scores, and ROUGE-L and CIDEr per report."""
    given = {i: [text] for i, text in enumerate(references)}
    made = {i: [text] for i, text in enumerate(hypotheses)}
    bleu, _ = Bleu(4).compute_score(given, made, verbose=0)
    rouge, rouges = Rouge().compute_score(given, made)
    cider, ciders = Cider().compute_score(given, made)
    scores = {f"bleu_{n}": value for n, value in enumerate(bleu, 1)} | {"rouge_l": rouge, "cider": cider}
    return scores, rouges, ciders


def odd_texts(rng: random.Random, n: int, longest: int) -> list[str]:
    words = [*WORDS, *(f"word{i}" for i in range(rng.choice([1, 30, 300])))]
    parts = [rng.choices(words, k=rng.randint(0, longest)) for _ in range(n)]
    return ["".join(word + rng.choice(SPACES) for word in text) for text in parts]


def assert_equal_to_the_peer(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    scores, rouges, ciders = peer(hypotheses, references)
    found = language_statistics(hypotheses, references)
    assert found.scores() == pytest.approx(scores, rel=0, abs=1e-9)
    assert found.values[:, ROUGE] == pytest.approx(rouges, rel=0, abs=1e-9)
    assert found.values[:, CIDER] == pytest.approx(ciders, rel=0, abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8).filter(lambda pairs: any(r.split() for _, r in pairs)))
def test_any_texts_score_as_by_pycocoevalcap(pairs: list[tuple[str, str]]) -> None:
    assert_equal_to_the_peer(*zip(*pairs, strict=True))


@pytest.mark.parametrize("seed", range(8))
def test_thousands_of_pairs_score_as_by_pycocoevalcap(seed: int) -> None:
    rng = random.Random(seed)
    hypotheses = odd_texts(rng, 500, longest=10 + 8 * seed)
    # Some are equal, some nearly so, the rest are strangers.
    references = [rng.choice([h, f"{h} no effusion .", *odd_texts(rng, 3, 40)]) for h in hypotheses]
    assert_equal_to_the_peer(hypotheses, references)


def test_a_text_longer_than_a_machine_word_has_bits() -> None:
    rng = random.Random(1)
    first, second = (" ".join(rng.choices(WORDS, k=700)) for _ in range(2))
    assert_equal_to_the_peer([first, "a b", second], [second, "b a", second])


def test_ngrams_that_every_reference_has_weigh_nothing() -> None:
    assert_equal_to_the_peer(["a b c", "a b c", "a b"], ["a b c", "a b c", "a b c d"])
    assert language_scores(["a b c"] * 3, ["a b c"] * 3)["cider"] == 0


def test_cider_of_one_pair_is_0_by_construction() -> None:
    assert language_scores(["the lungs are clear ."], ["the lungs are clear ."])["cider"] == 0
    assert_equal_to_the_peer(["the lungs are clear ."], ["the lungs are clear ."])


def test_double_spaces_change_rouge_and_nothing_else() -> None:
    references = ["the lungs are clear .", "no effusion is seen ."]
    single = language_scores(["the lungs clear .", "no effusion ."], references)
    double = language_scores(["the  lungs clear .", "no effusion ."], references)
    assert double.pop("rouge_l") < single.pop("rouge_l")
    assert double == single


@pytest.mark.parametrize("mark", ["\u2028", "\x0b", "\x0c", "\r", "\x85"])
def test_line_separators_shift_no_other_report(mark: str) -> None:
    references = ["the lungs are clear .", "no effusion is seen .", "the heart is normal ."]
    plain = language_statistics(references, references)
    marked = language_statistics([references[0], f"no effusion{mark}is seen .", references[2]], references)
    assert (marked.values[[0, 2]] == plain.values[[0, 2]]).all()
    assert (marked.values[1, :9] == plain.values[1, :9]).all()  # BLEU splits there; ROUGE-L does not
    assert marked.values[1, ROUGE] < plain.values[1, ROUGE]


def test_an_empty_hypothesis_scores_0() -> None:
    scores = language_scores(["", " "], ["the lungs are clear .", "no effusion ."])
    assert scores == pytest.approx(dict.fromkeys(scores, 0), abs=1e-12)


def test_sums_over_some_reports_give_their_corpus_bleu_and_mean_rouge() -> None:
    rng = random.Random(2)
    hypotheses, references = odd_texts(rng, 60, 20), odd_texts(rng, 60, 20)
    found = language_statistics(hypotheses, references)
    drawn = rng.choices(range(60), k=40)  # with repetition, as a resample has them
    expected, _, _ = peer([hypotheses[i] for i in drawn], [references[i] for i in drawn])
    part = found.of(np.array(drawn)).scores()
    assert part.pop("cider") == pytest.approx(found.values[drawn, CIDER].mean())  # of all references' frequencies
    assert part == pytest.approx({name: expected[name] for name in part}, rel=0, abs=1e-9)


def test_many_sums_are_scored_at_once() -> None:
    rng = random.Random(3)
    found = language_statistics(odd_texts(rng, 9, 20), odd_texts(rng, 9, 20))
    sums = np.stack([found.values[:4].sum(0), found.values[4:].sum(0)]).reshape(2, 1, -1)
    together = found.score(sums)
    for i, part in enumerate((found.of(np.arange(4)), found.of(np.arange(4, 9)))):
        assert part.scores() == {name: pytest.approx(values[i, 0]) for name, values in together.items()}


@pytest.mark.parametrize(("hypotheses", "references"), [([], []), (["a"], ["a", "b"]), (["a", "b"], ["a"])])
def test_numbers_of_texts_must_match(hypotheses: list[str], references: list[str]) -> None:
    with pytest.raises(ValueError, match=f"{len(hypotheses)} hypotheses and {len(references)} references"):
        language_scores(hypotheses, references)
