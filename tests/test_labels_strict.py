"""Mode `strict`: what a reader takes from lists, from names with values, and from where a denial or a doubt ends."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrg.labels.rules import RuleLabeler
from rrg.labels.text import sentences, statements

LABELER = RuleLabeler("strict")
KINDS: dict[str, dict[str, dict[str, int | None]]] = {
    "a name and its value": {
        "Pneumothorax - none; pleural effusion - small, left-sided; consolidation - absent": {
            "Pneumothorax": 0,
            "Pleural Effusion": 1,
            "Consolidation": 0,
        },
        "Pneumothorax (none), effusion (trace, right), consolidation (none)": {
            "Pneumothorax": 0,
            "Pleural Effusion": 1,
            "Consolidation": 0,
        },
        "Heart: Normal in size. Lungs: Clear. Pleura: No effusion or pneumothorax.": {
            "Cardiomegaly": 0,
            "Pleural Effusion": 0,
            "Pneumothorax": 0,
        },
        "Lines and tubes: None.": {"Support Devices": 0},
        "Pulmonary nodule: suspected.": {"Lung Lesion": -1},
        "Left effusion: resolved.": {"Pleural Effusion": 0},
        "Heart - enlarged.": {"Cardiomegaly": 1},
        "Consolidation: questionable at the left base.": {"Consolidation": -1},
        "PTX: neg. Effusion: neg.": {"Pneumothorax": 0, "Pleural Effusion": 0},
        "Pneumothorax: Resolved. Chest tube: Unchanged.": {"Pneumothorax": 0, "Support Devices": 1},
        "Heart: within normal limits. Effusion: no.": {"Cardiomegaly": 0, "Pleural Effusion": 0},
        "Cardiomegaly? Yes. Edema? No.": {"Cardiomegaly": 1, "Edema": 0},
        "Heart: mildly enlarged; aorta: tortuous": {"Cardiomegaly": 1},
        "NODULES: NONE. MASSES: NONE. EFFUSIONS: TRACE LEFT.": {"Lung Lesion": 0, "Pleural Effusion": 1},
        "Pleural thickening: none; pleural effusion: yes": {"Pleural Other": 0, "Pleural Effusion": 1},
        "Chest tube: in situ; pneumothorax: not visible": {"Support Devices": 1, "Pneumothorax": 0},
        "Infection: unlikely.": {"Pneumonia": -1},
        "Effusion -> none; pneumothorax -> small": {"Pleural Effusion": 0, "Pneumothorax": 1},
        "Heart is: enlarged": {"Cardiomegaly": 1},
        "Pneumothorax: No, Effusion: Yes, Edema: Possible": {"Pneumothorax": 0, "Pleural Effusion": 1, "Edema": -1},
        "Any fracture? None seen.": {"Fracture": 0},
        "Consolidation: right lower lobe; Edema: mild; Heart: enlarged; Lines: left PICC": {
            "Consolidation": 1,
            "Edema": 1,
            "Cardiomegaly": 1,
            "Support Devices": 1,
        },
        "Mediastinal width: normal. Heart: not enlarged.": {"Enlarged Cardiomediastinum": 0, "Cardiomegaly": 0},
        "Atelectasis: none; Opacities: none; Nodules: one, 6 mm, RUL": {
            "Atelectasis": 0,
            "Lung Opacity": 0,
            "Lung Lesion": 1,
        },
        "Pneumothorax: (none)": {"Pneumothorax": 0},
        "Lines: ETT 3 cm above carina, NG tube in stomach. Pneumothorax: none": {
            "Support Devices": 1,
            "Pneumothorax": 0,
        },
        "Heart size: stable, mildly enlarged": {"Cardiomegaly": 1},
        "Edema (mild), effusion (small, bilateral), pneumothorax (absent)": {
            "Edema": 1,
            "Pleural Effusion": 1,
            "Pneumothorax": 0,
        },
        "Acute consolidation: No acute consolidation.": {"Consolidation": 0},
        "[x] Cardiomegaly [ ] Effusion": {"Cardiomegaly": 1, "Pleural Effusion": 0},
        "Edema is: absent. Is the heart enlarged? No.": {"Edema": 0, "Cardiomegaly": 0},
    },
    "lines, bullets and numbers": {
        "• No focal consolidation\n• Moderate right pleural effusion\n• Stable cardiomegaly": {
            "Consolidation": 0,
            "Pleural Effusion": 1,
            "Cardiomegaly": 1,
        },
        "No nodule larger than 5. Mild edema.": {"Lung Lesion": 0, "Edema": 1},
        "no pneumothorax\nsmall left effusion\ncardiomegaly": {
            "Pneumothorax": 0,
            "Pleural Effusion": 1,
            "Cardiomegaly": 1,
        },
        "1 - No pneumothorax\n2 - Small effusion": {"Pneumothorax": 0, "Pleural Effusion": 1},
        "* No effusion * Fracture of the left clavicle": {"Pleural Effusion": 0, "Fracture": 1},
        "1. No pneumonia, 2. Mild edema, 3. Small effusions": {"Pneumonia": 0, "Edema": 1, "Pleural Effusion": 1},
        "No evidence of:\n- pneumothorax\n- effusion": {"Pneumothorax": 0, "Pleural Effusion": 0},
        "A) No edema\nB) Cardiomegaly": {"Edema": 0, "Cardiomegaly": 1},
        "NO FOCAL CONSOLIDATION\nMILD PULMONARY EDEMA\nENDOTRACHEAL TUBE IN PLACE": {
            "Consolidation": 0,
            "Edema": 1,
            "Support Devices": 1,
        },
        "Chest: No effusion.\nMild edema.\nHeart enlarged.": {"Pleural Effusion": 0, "Edema": 1, "Cardiomegaly": 1},
        "• No edema • Small nodule • Old fracture": {"Edema": 0, "Lung Lesion": 1, "Fracture": 1},
    },
    "where a denial ends": {
        "No pneumothorax is identified, with persistent left lower lobe consolidation.": {
            "Pneumothorax": 0,
            "Consolidation": 1,
        },
        "No new consolidation, stable right effusion.": {"Consolidation": 0, "Pleural Effusion": 1},
        "No effusion, right-sided chest tube remains.": {"Pleural Effusion": 0, "Support Devices": 1},
        "No pneumothorax has developed and bilateral effusions have increased.": {
            "Pneumothorax": 0,
            "Pleural Effusion": 1,
        },
        "Absence of pneumothorax with increasing effusion.": {"Pneumothorax": 0, "Pleural Effusion": 1},
        "The endotracheal tube has been removed, without pneumothorax, with stable effusions.": {
            "Support Devices": 0,
            "Pneumothorax": 0,
            "Pleural Effusion": 1,
        },
        "No pneumothorax related to the PICC placement.": {"Pneumothorax": 0, "Support Devices": 1},
        "Small effusion, pneumothorax not seen.": {"Pleural Effusion": 1, "Pneumothorax": 0},
        "No pneumothorax (small effusion is present).": {"Pneumothorax": 0, "Pleural Effusion": 1},
        "No consolidation given the extensive atelectasis.": {"Atelectasis": 1},
        "No pneumothorax, pacemaker leads intact.": {"Pneumothorax": 0, "Support Devices": 1},
        "No pneumothorax with the left-sided pacemaker in place.": {"Pneumothorax": 0, "Support Devices": 1},
        "No pneumothorax, left basal atelectasis and effusion.": {
            "Pneumothorax": 0,
            "Atelectasis": 1,
            "Pleural Effusion": 1,
        },
        "Neither edema nor consolidation, just a trace effusion.": {
            "Edema": 0,
            "Consolidation": 0,
            "Pleural Effusion": 1,
        },
        "Right effusion has resolved, left effusion persists.": {"Pleural Effusion": 1},
        "No pneumothorax post right thoracentesis, small residual effusion.": {
            "Pneumothorax": 0,
            "Pleural Effusion": 1,
        },
        "No pneumothorax, and the PICC terminates in the SVC.": {"Pneumothorax": 0, "Support Devices": 1},
        "No pneumothorax or effusion; lungs hyperinflated; heart enlarged.": {
            "Pneumothorax": 0,
            "Pleural Effusion": 0,
            "Cardiomegaly": 1,
        },
        "No pneumothorax, bilateral effusions and atelectasis.": {
            "Pneumothorax": 0,
            "Pleural Effusion": 1,
            "Atelectasis": 1,
        },
        "No pneumothorax seen, right chest tube noted.": {"Pneumothorax": 0, "Support Devices": 1},
        "No pneumothorax is visible, the left lower lobe remains collapsed.": {"Pneumothorax": 0, "Atelectasis": 1},
        "No pulmonary edema or pneumonia, with bibasilar atelectasis again seen.": {
            "Edema": 0,
            "Pneumonia": 0,
            "Atelectasis": 1,
        },
        "No pneumothorax is associated with the rib fractures.": {"Pneumothorax": 0, "Fracture": 1},
        "There is consolidation, no effusion, and a pacemaker.": {
            "Consolidation": 1,
            "Pleural Effusion": 0,
            "Support Devices": 1,
        },
        "No overt edema, unchanged cardiomegaly and pacemaker.": {"Edema": 0, "Cardiomegaly": 1, "Support Devices": 1},
    },
    "a change, a degree, a likelihood": {
        "No improvement in the pulmonary edema.": {"Edema": 1},
        "Pneumonia is unlikely.": {"Pneumonia": -1},
        "Nearly resolved pulmonary edema.": {"Edema": 1},
        "No resolution of the pneumothorax.": {"Pneumothorax": 1},
        "No more than trace pleural effusion.": {"Pleural Effusion": 1},
        "No decrease in size of the right pneumothorax.": {"Pneumothorax": 1},
        "Near-complete resolution of the edema.": {"Edema": 1},
        "No acute changes of congestive heart failure.": {"Edema": 0},
        "Partial resolution of the right effusion.": {"Pleural Effusion": 1},
        "Consolidation has not cleared.": {"Consolidation": 1},
        "No longer evident is the right pneumothorax.": {"Pneumothorax": 0},
        "Right effusion virtually resolved.": {"Pleural Effusion": 1},
        "The atelectasis has mostly cleared.": {"Atelectasis": 1},
        "No significant interval change in small right effusion or left consolidation.": {
            "Pleural Effusion": 1,
            "Consolidation": 1,
        },
        "Without evidence of improvement in the pneumonia.": {"Pneumonia": 1},
        "Effusion has not reaccumulated.": {"Pleural Effusion": 0},
        "Pneumothorax is improbable.": {"Pneumothorax": -1},
        "Residual pneumothorax, almost resolved.": {"Pneumothorax": 1},
        "There is no increase of the left effusion.": {"Pleural Effusion": 1},
    },
    "doubt and request": {
        "Please correlate clinically for pneumonia.": {"Pneumonia": -1},
        "Evaluate for pneumothorax.": {"Pneumothorax": -1},
        "Left basilar pneumonia?": {"Pneumonia": -1},
        "Tiny apical pneumothorax questioned.": {"Pneumothorax": -1},
        "Follow-up advised to exclude malignancy.": {"Lung Lesion": -1},
        "Small effusion likely.": {"Pleural Effusion": -1},
        "Left effusion, possible.": {"Pleural Effusion": -1},
        "Infection is a consideration.": {"Pneumonia": -1},
        "Would correlate for infection.": {"Pneumonia": -1},
        "Mild edema, probable.": {"Edema": -1},
        "Needs follow up to exclude pneumonia.": {"Pneumonia": -1},
        "Follow-up radiograph is advised to rule out pneumonia.": {"Pneumonia": -1},
        "Left basilar opacity, pneumonia not excluded.": {"Lung Opacity": 1, "Pneumonia": -1},
        "Pneumonia and edema are both possible.": {"Pneumonia": -1, "Edema": -1},
        "Masslike opacity in the right hilum.": {"Lung Lesion": 1, "Lung Opacity": 1},
        "Opacity, ?infection.": {"Lung Opacity": 1, "Pneumonia": -1},
        "Early pneumonia, please correlate clinically.": {"Pneumonia": -1},
        "Lung cancer in the left upper lobe.": {"Lung Lesion": 1},
        "Indication: possible effusion. Findings: No effusion.": {"Pleural Effusion": 0},
    },
    "the past": {
        "Evidence of previous granulomatous infection.": {"Pneumonia": None},
        "Changes of old infection.": {"Pneumonia": None},
        "Scarring from prior infection.": {"Lung Opacity": 1, "Pneumonia": None},
        "Related to previous pneumonia.": {"Pneumonia": None},
        "Findings of prior granulomatous infection.": {"Pneumonia": None},
        "History of pneumothorax, no pneumothorax currently.": {"Pneumothorax": 0},
        "Past history of pulmonary edema.": {"Edema": None},
        "Remote history of pneumothorax.": {"Pneumothorax": None},
    },
}
CASES = [(sentence, expected) for kind in KINDS.values() for sentence, expected in kind.items()]
WHOLLY_DENIED = [
    "No pneumothorax, pleural effusion or consolidation.",
    "No consolidation, pleural effusion, pneumothorax.",
    "There is no focal consolidation, pneumothorax, or large pleural effusion.",
    "No focal consolidation, large pleural effusion or pneumothorax.",
    "Neither consolidation nor pleural effusion nor pneumothorax is seen.",
    "Without pneumothorax, consolidation, or pleural effusion.",
    "No acute, focal consolidation, small pleural effusion, or pneumothorax.",
    "Pneumothorax, pleural effusion, and consolidation are not seen.",
    "Pneumothorax, pleural effusion, consolidation: none.",
    "There is no: consolidation, pneumothorax, pleural effusion.",
    "The consolidation, the pneumothorax and the pleural effusion have resolved.",
    "There is no evidence of consolidation,\npneumothorax or pleural\neffusion.",
    "NO EVIDENCE OF FOCAL CONSOLIDATION OR PLEURAL EFFUSION, AND NO\nPNEUMOTHORAX IS IDENTIFIED.",
]
NAMES = {
    "Pneumothorax": "Pneumothorax",
    "pleural effusion": "Pleural Effusion",
    "EDEMA": "Edema",
    "Rib fracture": "Fracture",
}
SEPARATED = ["{}: {}", "{} - {}", "{} – {}", "{} ({})", "{} [{}]", "{}? {}", "{} = {}", "{}\t{}", "{} ..... {}"]
VALUES = {
    **dict.fromkeys(
        ["none", "None seen", "no", "absent", "negative", "not present", "nil", "resolved", "no evidence"], 0
    ),
    **dict.fromkeys(["yes", "present", "mild", "small, left-sided", "unchanged", "improved", "trace on the left"], 1),
    **dict.fromkeys(["possible", "suspected", "probable, small", "cannot be excluded", "questionable"], -1),
}
ITEMS = {
    "No pneumothorax": ("Pneumothorax", 0),
    "Small left pleural effusion": ("Pleural Effusion", 1),
    "No focal consolidation": ("Consolidation", 0),
    "Stable cardiomegaly": ("Cardiomegaly", 1),
    "Possible nodule in the lingula": ("Lung Lesion", -1),
    "Old rib fractures": ("Fracture", 1),
    "Right PICC in place": ("Support Devices", 1),
}
STYLES = [
    "{}",
    "- {}",
    "-{}",
    "• {}",
    "* {}",
    "{n}. {}",
    "{n}.{}",
    "{n}) {}",
    "({n}) {}",
    "{n} - {}",
    "{letter}. {}",
    "{}.",
]


@pytest.mark.parametrize(("sentence", "expected"), CASES)
def test_a_sentence_is_read_as_a_clinician_would(sentence: str, expected: dict[str, int | None]) -> None:
    found = LABELER.label(sentence)
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize("sentence", WHOLLY_DENIED)
def test_a_list_that_is_denied_stays_denied_to_its_end(sentence: str) -> None:
    found = LABELER.label(sentence)
    assert found == {"Consolidation": 0, "Pneumothorax": 0, "Pleural Effusion": 0, "No Finding": 1}


@pytest.mark.parametrize("separated", SEPARATED)
@pytest.mark.parametrize("value", VALUES)
def test_a_name_has_its_value_whatever_stands_between_them(separated: str, value: str) -> None:
    told = {observation: separated.format(name, value) for name, observation in NAMES.items()}
    found = LABELER.label(". ".join(told.values()) + ".")
    assert {name: found.get(name) for name in told} == dict.fromkeys(told, VALUES[value])


@settings(max_examples=100)
@given(st.permutations(list(ITEMS)), st.integers(2, len(ITEMS)), st.sampled_from(STYLES))
def test_an_item_of_a_list_stands_for_itself(items: list[str], count: int, style: str) -> None:
    told = items[:count]
    text = "\n".join(style.format(item, n=i + 1, letter="abcdefg"[i]) for i, item in enumerate(told))
    assert {name: value for name, value in LABELER.label(text).items() if name != "No Finding"} == dict(
        ITEMS[item] for item in told
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No mass in the\nleft lung.\nLarge heart", ["no mass in the left lung", "large heart"]),
        ("No mass\nLarge heart", ["no mass", "large heart"]),
        ("no mass\nlarge heart", ["no mass", "large heart"]),
        ("1.No mass.2.A 3.5 cm cyst 3) T12 is 4. Clear", ["no mass", "a 3.5 cm cyst", "t12 is", "clear"]),
        ("Mass? No. Cyst?\n?Edema", ["mass: no", "cyst ?", "?edema"]),
        ("No mass seen No cyst via the Swan-Ganz", ["no mass seen", "no cyst via the swan-ganz"]),
        ("Negative for:\n- mass\n- cyst\nHeart:\n- large", ["negative for mass", "negative for cyst", "heart: large"]),
        ("w/o mass, s/p repair, heart/lungs", ["without mass, status post repair, heart or lungs"]),
        ("Reason for exam: mass? Findings: 3 . 5 cm cyst", ["findings: 3.5 cm cyst"]),
        ("HISTORY: Cyst.\nMass of 5.\nSeen by Dr. Roe", ["mass of 5", "seen by dr. roe"]),
        (
            "NO MASS IS SEEN IN EITHER LUNG AND THE HEART IS\nNOT LARGE. NO CYST.",
            ["no mass is seen in either lung and the heart is not large", "no cyst"],
        ),
        ("", []),
        (" \n- \n2.\n", []),
    ],
)
def test_what_stands_by_itself_is_a_statement(text: str, expected: list[str]) -> None:
    assert statements(text) == expected


def test_mode_chexpert_joins_lines_as_the_original_does() -> None:
    assert sentences("- No mass\n- Large heart") == ["- no mass - large heart"]
    assert RuleLabeler("chexpert").label("- No pneumothorax\n- Small effusion")["Pleural Effusion"] == 0


@pytest.mark.parametrize(
    ("text", "name", "label"),
    [
        ("No pneumothorax post biopsy of the left upper lobe mass.", "Lung Lesion", 1),
        ("No pleural effusion.<br/>No pneumothorax.<br/>Bibasal atelectasis.", "Atelectasis", 1),
        ("Absence of consolidation, presence of a small right effusion.", "Pleural Effusion", 1),
        ("None of the following is present: fracture, edema, effusion.", "Edema", 0),
        ("Absent: fracture, edema, effusion. Present: cardiomegaly.", "Edema", 0),
        ("A nodule at the left base can neither be confirmed nor excluded.", "Lung Lesion", -1),
        ("No enlargement of the 8 mm left lower lobe nodule.", "Lung Lesion", 1),
        ("No tension component of the right pneumothorax.", "Pneumothorax", 1),
        ("Neither progression nor improvement of the edema.", "Edema", 1),
        ("No evidence that the consolidation has improved.", "Consolidation", 1),
        ("There is no longer any pneumothorax.", "Pneumothorax", 0),
        ("There is no longer a large effusion.", "Pleural Effusion", 1),
        ("Little if any change in the right basal opacity.", "Lung Opacity", 1),
        ("Previous CHF, now no edema.", "Edema", 0),
        ("The prior study showed a large effusion, and no effusion is seen now.", "Pleural Effusion", 0),
        ("Compared with the prior exam, which showed a left effusion, no effusion is seen.", "Pleural Effusion", 0),
        ("Fluid is seen in the left pleural space.", "Pleural Effusion", 1),
        ("Lytic bone metastases.", "Lung Lesion", None),
    ],
)
def test_what_ends_or_does_not_deny(text: str, name: str, label: int | None) -> None:
    assert LABELER.label(text).get(name) == label
