"""Protocols: cleaning, vocabulary, references, hypotheses, the best constant, METEOR's driver."""

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu

from rrg.errors import UsageError
from rrg.evaluate import meteor as driver
from rrg.evaluate.constant import ConstantBleu, best_constant
from rrg.evaluate.language import language_scores
from rrg.evaluate.meteor import MeteorUnavailable
from rrg.evaluate.protocol import PROTOCOLS, RULES, Protocol, clean, protocol_for, rules_for
from test_evaluate_meteor import meteor

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs java")
WORDS = ["the", "lungs", "are", "clear", "no", "acute", "effusion", "heart", "is", "normal", ".", "mild", "left"]


def texts(n: int, seed: int, longest: int = 23) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, longest))) + " ." for _ in range(n)]


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("Heart is normal. Lungs clear.", "heart is normal . lungs clear ."),
        ("A 3.5 cm mass.", "a 35 cm mass ."),
        ("PA/lateral views", "palateral views ."),
        ("x-ray; T>L @ a=b <c>", "x-ray tl  ab c ."),
        ("1. Clear. 2. No effusion.", "clear . no effusion ."),
        ('It\'s "XXXX" [a] {b} (c)', "its xxxx a b c ."),
        ("", " ."),
    ],
)
def test_cleaning_reproduces_the_published_oddities(raw: str, cleaned: str) -> None:
    assert clean(raw, RULES["iu"]) == cleaned


def test_only_mimic_rules_collapse_underscores_newlines_and_spaces() -> None:
    raw = "No   change\nfrom ___."
    assert clean(raw, RULES["mimic"]) == "no change from  ."
    assert clean(raw, RULES["iu"]) == "no   change\nfrom  ."


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("IMPRESSION: Heart <1 cm.", "impression : heart <1 cm ."),
        ("Ratio 2:1 @ a=b [c] A-B.\nClear.", "ratio 2 :1 @ a=b c a-b . clear ."),
        ("Seen :  ___ on", "seen  :  on ."),
        ("", "."),
    ],
)
def test_r2gengpt_keeps_colons_apart_and_other_marks_on_mimic(raw: str, cleaned: str) -> None:
    form = protocol_for("r2gengpt", {"name": "MIMIC-CXR"}, None, [], "findings")
    assert form.reference(raw) == cleaned
    assert not raw or form.hypothesis(cleaned) == form.hypothesis(raw) == cleaned


def test_r2gengpt_neither_cuts_nor_drops_rare_words_and_is_r2gen_on_iu() -> None:
    form = protocol_for("r2gengpt", {"name": "CheXpert Plus"}, None, ["a."] * 3, "findings")
    assert form.reference("Lungs " * 200) == "lungs " * 200 + "."
    assert form.signature.startswith(
        "r2gengpt|clean:mimic|vocab:none|refs:clean,uncut|hyps:clean,uncut|target:findings|"
    )
    on_iu = protocol_for("r2gengpt", {"name": "iu-xray"}, None, [], "findings")
    assert on_iu.reference("T>L: 3.5 cm.") == clean("T>L: 3.5 cm.", RULES["iu"]) == "tl 35 cm ."


def test_raw_changes_nothing_but_white_space() -> None:
    form = protocol_for("raw", None, None, None, "reference")
    assert (
        form.reference(" Heart:\u2028 3.5 cm.\n\n[X]") == form.hypothesis("Heart: 3.5 cm. [X]") == "Heart: 3.5 cm. [X]"
    )
    assert form.signature.startswith("raw|clean:none,one-space|vocab:none|refs:uncut|hyps:uncut|target:reference|")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_report_without_text_stays_empty(name: str) -> None:
    assert protocol_for(name, {"name": "phantom"}, None, ["a."], "findings").hypothesis(" \n") == ""


@pytest.mark.parametrize("name", PROTOCOLS)
@given(st.text(st.sampled_from("aB .:,<>/'\"-[]1_\n\t"), max_size=40))
def test_a_cleaned_report_is_left_as_it_is(name: str, text: str) -> None:
    form = protocol_for(name, {"name": "mimic-cxr"}, None, ["a."], "findings")
    once = form.hypothesis(text)
    assert form.hypothesis(once) == once


@pytest.mark.parametrize(
    ("name", "rules"), [("iu-xray", "iu"), ("IU X-Ray", "iu"), ("phantom", "iu"), ("MIMIC-CXR 2.0", "mimic")]
)
def test_the_card_chooses_the_rules(name: str, rules: str) -> None:
    assert rules_for({"name": name}) is RULES[rules]


def test_an_unknown_data_set_needs_its_rules_said() -> None:
    assert rules_for({"name": "ours"}, "mimic") is RULES["mimic"]
    with pytest.raises(UsageError, match="no cleaning rules for data set 'ours'; choose with --rules iu"):
        rules_for({"name": "ours"})
    with pytest.raises(UsageError, match="named 'iuu'"):
        rules_for({"name": "phantom"}, "iuu")


def test_the_vocabulary_keeps_words_seen_often_enough_in_train() -> None:
    form = Protocol.of(["Rare clear.", "Clear lungs.", "Lungs clear", "lungs."], RULES["iu"])
    assert form.vocabulary == {"clear", "lungs", ".", "<unk>"}


def test_references_lose_rare_words_and_are_cut() -> None:
    form = Protocol.of(["Lungs clear."] * 3, RULES["iu"])
    assert form.reference("Lungs very clear.") == "lungs <unk> clear ."
    assert form.reference("lungs " * 100).split() == ["lungs"] * 59


def test_raw_hypotheses_are_cleaned_and_neither_cut_nor_robbed_of_words() -> None:
    form = Protocol.of(["Lungs clear."] * 3, RULES["iu"])
    assert form.hypothesis("The Lungs, are\u2028clear.\x0b No\r\neffusion.") == "the lungs are clear . no effusion ."
    assert len(form.hypothesis("lungs " * 100).split()) == 101


@pytest.mark.parametrize(
    "generated",
    [
        "heart size is normal . lungs are clear .",
        "the <unk> is normal . no <unk> effusion .",
        "the heart is normal . there is no",
        "xxxx x-xxxx . 35 cm mass .",
        "a .",
        *texts(9, 4),
    ],
)
def test_text_in_the_protocols_form_is_scored_as_published(generated: str) -> None:
    form = Protocol.of(["Lungs clear."] * 3, RULES["iu"])
    assert form.hypothesis(generated) == " ".join(generated.replace(".", " .").lower().split())


def test_the_signature_names_what_was_done() -> None:
    form = Protocol.of(["Lungs clear."] * 3, RULES["iu"])
    assert form.signature.startswith("r2gen|clean:iu|vocab:train,min3,4|refs:clean,unk,cut59|hyps:clean,uncut|")


@pytest.mark.parametrize("seed", range(7))
def test_bleu_of_a_constant_equals_pycocoevalcap(seed: int) -> None:
    references, hypothesis = texts(31, seed), texts(1, 100 + seed, longest=3 + 5 * seed)[0]
    given = {i: [text] for i, text in enumerate(references)}
    expected, _ = Bleu(4).compute_score(given, {i: [hypothesis] for i in given}, verbose=0)
    assert ConstantBleu(references)(hypothesis) == pytest.approx(expected[3], rel=1e-12)


def test_the_best_constant_is_the_first_of_the_highest() -> None:
    candidates, references = texts(53, 1), texts(17, 2)
    candidates += candidates
    index, bleu = best_constant(candidates, references)
    scores = [ConstantBleu(references)(text) for text in candidates]
    assert (index, bleu) == (scores.index(max(scores)), max(scores))


def test_perfect_reports_score_one() -> None:
    scores = language_scores(same := ["a b c d e .", "f g h i j ."], same)
    assert scores.pop("cider") == pytest.approx(10)
    assert scores == {name: pytest.approx(1) for name in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l")}


@needs_java
def test_meteor_survives_odd_characters() -> None:
    odd = [("a\u2028b\r\n\x0b\x0cc ||| d", "a b c d"), ("\ud800 heart", "heart"), ("|||", "|||")]
    scores = meteor({"odd": odd, "empty": [("", "the heart")], "same": [("a b", "a b")] * 3})
    assert scores["empty"] == 0 < scores["odd"] < scores["same"]


@needs_java
@pytest.mark.slow
def test_meteor_equals_pycocoevalcap() -> None:
    """pycocoevalcap's own driver runs in a process of its own, since it never closes its pipes."""
    hypotheses, references = texts(13, 5), texts(13, 6)
    scores = meteor({"all": list(zip(hypotheses, references, strict=True))})
    code = (
        "from pycocoevalcap.meteor.meteor import Meteor\n"
        f"h, r = {hypotheses!r}, {references!r}\n"
        "print(Meteor().compute_score({i: [t] for i, t in enumerate(r)}, {i: [t] for i, t in enumerate(h)})[0])"
    )
    peer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert scores["all"] == float(peer.stdout)


def test_meteor_without_java_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MeteorUnavailable, match="no java"):
        meteor({"all": [("a", "a")]})


def _fake_java(folder: Path, script: str) -> None:
    java = folder / "java"
    java.write_text(f"#!/bin/sh\n{script}\n")
    java.chmod(0o755)


def test_a_java_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _fake_java(tmp_path, "echo 'Could not reserve enough space' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(MeteorUnavailable, match="java failed: Could not reserve enough space"):
        meteor({"all": [("a", "a")]})


def test_a_java_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _fake_java(tmp_path, "exec sleep 60")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(driver, "START_S", 0.3)
    with pytest.raises(MeteorUnavailable, match="longer than"):
        meteor({"all": [("a", "a")]})
