"""The sections of MIMIC-CXR's reports: each quirk of their headers, and what holds whatever the text is."""

import re
from dataclasses import asdict
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrg.data.sections import Sections, read_sections

WHOLE = """\
                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman with cough  // r/o pneumonia

 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  ___

 FINDINGS:

 The lungs are
 clear.  Size 3.5 x ___ cm.

 No pneumothorax.

 IMPRESSION:

 1.  No acute process.
 2.  Stable.

 NOTIFICATION:  Dr. ___ was called.
"""


def read(text: str) -> Sections:
    return read_sections(dedent(text))


def test_a_whole_report() -> None:
    assert read_sections(WHOLE) == Sections(
        findings="The lungs are clear. Size 3.5 x ___ cm. No pneumothorax.",
        impression="1. No acute process. 2. Stable.",
        indication="___ year old woman with cough // r/o pneumonia",
        comparison="___",
    )


def test_windows_line_ends_read_the_same() -> None:
    assert read_sections(WHOLE.replace("\n", "\r\n")) == read_sections(WHOLE)


@pytest.mark.parametrize(
    ("header", "section"),
    [
        ("FINDING", "findings"), ("CONCLUSION", "impression"), ("IMPRESSIONS", "impression"),
        ("CLINICAL INDICATION", "indication"), ("REASON FOR EXAM", "indication"),
        ("REASON FOR EXAMINATION", "indication"), ("REASON FOR THIS EXAMINATION", "indication"),
        ("CLINICAL HISTORY", "history"), ("CLINICAL INFORMATION", "history"), ("PAST MEDICAL HISTORY", "history"),
        ("COMPARISONS", "comparison"), ("REFERENCE EXAM", "comparison"),
    ],
)  # fmt: skip
def test_headers_that_mean_the_same(header: str, section: str) -> None:
    found = asdict(read(f"\n {header}:  Something\n said.\n\n TECHNIQUE: AP.\n"))
    assert found.pop(section) == "Something said."
    assert set(found.values()) == {""}


@pytest.mark.parametrize("header", ["FIDINGS", "FINDINDGS", "FINIDNGS"])
def test_a_misspelt_header(header: str) -> None:
    assert read(f" {header}: Clear.").findings == "Clear."
    assert read(" NDICATION: Cough.").indication == "Cough."


@pytest.mark.parametrize(
    "text",
    [
        "Findings: Clear.\n Impresion: Normal.\n",
        "Findngs:\n Clear.\n\n Imprssion\n\n Normal.\n",
        "FINDINGS: Clear. Impresson: Normal.\n",
        "FINDINGS: CLEAR. IMPRESSON: NORMAL.\n",
        "FINDINGS: Clear.\n Findings and Impresion: Normal.\n",
        "FINDINGS; Clear.\n IMPRESSION - Normal.\n",
    ],
)
def test_a_header_that_is_misspelt_in_any_case_keeps_the_impression_out_of_the_findings(text: str) -> None:
    found = read(f" {text}")
    assert (found.findings.lower(), found.impression.lower()) == ("clear.", "normal.")


PROSE = [
    "IN COMPARISON WITH THE PRIOR STUDY: LUNGS ARE CLEAR.",
    "COMPARED TO THE PREVIOUS\n EXAM: NO CHANGE.",
    "IN COMPARISON WITH THE PRIOR\n STUDY A NODULE IS SEEN.",
    "ON TODAY'S STUDY: the lungs are clear.",
    "LUNGS ARE CLEAR ON THE LATERAL EXAMINATION: NO EFFUSION.",
    "ON FOLLOW-UP STUDY: CLEAR.",
    "NO NEW FINDINGS: LUNGS CLEAR.",
    "PATIENT WITH A SMOKING HISTORY: EMPHYSEMA.",
    "COMPARISON WITH THE PRIOR STUDY: CLEAR.",
    "CLEAR FOR\n COMPARISON of ___ was used.",
    "In the interim.\n Other findings: none.\n Bones: intact.",
]


@pytest.mark.parametrize("text", PROSE)
@pytest.mark.parametrize(
    "header", ["FINDINGS: ", "FINDINGS:\n\n Clear before.\n\n ", "IMPRESSION: ", "CHEST, TWO VIEWS: "]
)
def test_a_word_of_the_headers_within_a_sentence_cuts_nothing(header: str, text: str) -> None:
    found = read(f" {header}{text}\n\n TECHNIQUE: AP.\n")
    expected = " ".join(text.split())
    assert (found.findings or found.impression).removeprefix("Clear before. ") == expected
    assert found.comparison == found.history == ""


def test_a_header_right_behind_findings_on_its_line_is_text() -> None:
    assert read(" FINDINGS: COMPARISON: ___. Clear.\n") == Sections("COMPARISON: ___. Clear.")


def test_capitals_without_a_full_stop_still_have_headers() -> None:
    found = read(" HISTORY: FALL COMPARISON: NONE FINDINGS: CLEAR LUNGS IMPRESSION: NORMAL\n")
    assert found == Sections("CLEAR LUNGS", "NORMAL", history="FALL", comparison="NONE")


def test_of_two_views_the_last_with_text_counts() -> None:
    text = " CHEST, TWO VIEWS: First.\n\n CHEST, PORTABLE: Second.\n\n LATERAL VIEW:\n\n IMPRESSION: Normal.\n"
    assert read(text) == Sections("Second.", "Normal.")


def test_a_view_below_an_empty_findings_is_no_text() -> None:
    assert read(" FINDINGS:\n\n CHEST, TWO VIEWS: Clear.\n\n IMPRESSION: Normal.\n") == Sections("Clear.", "Normal.")


def test_an_impression_may_begin_with_what_it_is_of() -> None:
    found = read(" CHEST, TWO VIEWS: Clear.\n\n IMPRESSION:\n\n CHEST: Normal.\n\n RIGHT KNEE: Normal.\n")
    assert found == Sections("Clear.", "CHEST: Normal. RIGHT KNEE: Normal.")


def test_parts_of_the_chest_below_a_view_are_no_views() -> None:
    found = read(" CHEST, TWO VIEWS: Clear.\n\n CHEST WALL: Normal.\n\n RIBS: Intact.\n\n CHEST TUBES: None.\n")
    assert found.findings == "Clear. CHEST WALL: Normal. RIBS: Intact. CHEST TUBES: None."


def test_other_findings_do_not_replace_the_findings() -> None:
    found = read(" FINDINGS: Clear.\n\n OTHER FINDINGS: Old scar.\n\n IMPRESSION: Normal.\n\n NEW FINDINGS: None.\n")
    assert found == Sections("Clear. OTHER FINDINGS: Old scar.", "Normal.")


def test_without_any_header_nothing_is_findings() -> None:
    text = " FINAL REPORT\n CHEST, PA AND LATERAL.\n\n The lungs are clear.  The heart is normal.\n"
    assert read(text) == Sections()


def test_prose_below_the_last_header_is_neither_findings_nor_comparison() -> None:
    found = read(" HISTORY:  Cough.\n\n COMPARISON:  ___\n at 9 am.\n\n The lungs are clear.\n\n Heart is normal.\n")
    assert found == Sections(history="Cough.", comparison="___ at 9 am.")


def test_of_several_findings_the_last_with_text_counts() -> None:
    text = " FINDINGS:\n\n First.\n\n FINDINGS: Second.\n\n FINDINGS:\n\n IMPRESSION: Normal.\n"
    assert read(text) == Sections(findings="Second.", impression="Normal.")


@pytest.mark.parametrize(
    "header", ["FINDINGS AND IMPRESSION", "FINDINGS/IMPRESSION", "Findings / Impression", "IMPRESSION AND FINDINGS"]
)
def test_joint_findings_and_impression_are_an_impression(header: str) -> None:
    assert read(f" HISTORY: Fall.\n\n {header}: Clear.\n") == Sections(history="Fall.", impression="Clear.")


def test_headers_in_mixed_case() -> None:
    found = read(" Clinical History: Fall.\n Findings: Clear.\n Impression: Normal.\n Recommendation(s): None.\n")
    assert found == Sections(history="Fall.", findings="Clear.", impression="Normal.")


def test_headers_without_a_colon() -> None:
    found = read(" INDICATION Cough.\n FINDINGS\n\n Clear.\n\n Impression\n\n Normal.\n")
    assert found == Sections(indication="Cough.", findings="Clear.", impression="Normal.")


def test_headers_within_a_line() -> None:
    found = read(" REASON FOR EXAM: Cough. FINDINGS: PA view COMPARISON: ___. Findings:  Clear.  Impression: Normal.\n")
    assert found == Sections(indication="Cough.", comparison="___.", findings="Clear.", impression="Normal.")


def test_words_of_prose_are_no_headers() -> None:
    text = "Clear. Findings are\nfindings, the impression\nComparison is made; history: unknown.\nStudy is limited."
    assert read(f"FINDINGS: {text}").findings == " ".join(text.split())


def test_the_name_of_a_view_heads_findings() -> None:
    assert read(" CHEST, TWO VIEWS: Clear.\n\n IMPRESSION: Normal.\n").findings == "Clear."
    assert read(" PA AND LATERAL CHEST:\n\n INDICATION: Cough.\n").findings == ""
    assert read(" CHEST, 2 VIEWS: Rotated.\n\n FINDINGS: Clear.\n").findings == "Clear."


def test_organs_within_findings_are_no_sections() -> None:
    found = read(" FINDINGS:\n\n LUNGS:  Clear.\n\n CHEST WALL:  Normal.\n\n IMPRESSION: No change.\n")
    assert found == Sections(findings="LUNGS: Clear. CHEST WALL: Normal.", impression="No change.")


def test_an_unknown_header_ends_what_was_known_before() -> None:
    assert read(" HISTORY: Fall.\n ATTENDING: ___\n FINDINGS: Clear.") == Sections(history="Fall.", findings="Clear.")


WET_READ = "                                 WET READ: ___ ___ 8:12 PM\n  FINDINGS: Pneumonia.\n WET READ VERSION #1\n"


def test_a_wet_read_is_dropped() -> None:
    assert read_sections(WET_READ + "_" * 78 + "\n" + WHOLE) == read_sections(WHOLE)
    assert read(" WET READ: Pneumonia.\n\n FINDINGS: Clear.\n\n WET READ: Pneumonia.\n") == Sections("Clear.")


ADDENDUM = "                                 FINAL ADDENDUM\n ADDENDUM:  IMPRESSION: New nodule.\n"


def test_an_addendum_before_the_report_is_dropped() -> None:
    assert read_sections(ADDENDUM + "_" * 78 + "\n" + WHOLE) == read_sections(WHOLE)
    assert read(" ADDENDUM\n\n Called to Dr. ___.\n\n FINDINGS: Clear.\n") == Sections("Clear.")


def test_an_addendum_after_the_report_is_dropped() -> None:
    assert read_sections(WHOLE + "\n\n" + ADDENDUM) == read_sections(WHOLE)
    assert read_sections(WHOLE + " ADDENDUM:  Seen.\n\n IMPRESSION: New nodule.") == read_sections(WHOLE)


def test_a_rule_ends_a_section_and_marks_of_anonymity_do_not() -> None:
    found = read(f" FINDINGS: Seen by ___ on\n ___\n at ___.\n {'_' * 40}\n Signed.\n")
    assert found == Sections("Seen by ___ on ___ at ___.")


@pytest.mark.parametrize(
    "header", ["NOTIFICATION:", "RECOMMENDATION(S):", "TECHNIQUE:", "EXAMINATION:", "Recommendation:", "WET READ:"]
)
def test_leftovers_of_dictation_end_the_section_before(header: str) -> None:
    assert read(f" IMPRESSION: Normal.\n\n {header} Dr. ___.\n") == Sections(impression="Normal.")


def test_a_closing_title_is_not_the_beginning_of_the_report() -> None:
    assert read(" FINDINGS: Clear.\n\n FINAL REPORT\n") == Sections("Clear. FINAL REPORT")


PARTS = [
    "FINDINGS", "Findings", "IMPRESSION", "COMPARISON", "CLINICAL HISTORY", "FINAL REPORT", "ADDENDUM", "WET READ",
    "CHEST, TWO VIEWS", "LUNGS", ":", "\n", " ", "\n\n", "_" * 12, "___", "/", "1.", "clear", "Lungs", "\r\n",
]  # fmt: skip


@given(st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=6)), max_size=40).map("".join))
def test_a_section_stands_in_its_report_word_for_word(text: str) -> None:
    report = "".join(text.split())
    for section in asdict(read_sections(text)).values():
        assert "".join(section.split()) in report
        assert section == " ".join(section.split())


@pytest.mark.parametrize("part", ["FINDINGS", " ", "\n", "_", "A ", "FINAL REPORT\n", "FINDINGS/", "A,", "a. "])
def test_a_long_text_is_read_in_time_linear_in_its_length(part: str) -> None:
    text = part * ((1 << 20) // len(part))
    assert re.sub(r"\s", "", read_sections(text).findings) in re.sub(r"\s", "", text)
