"""Reports that say what was drawn, and the labels that follow from what they say.

Every sentence is a template beside the observations that it mentions, so labels are read off the choice of sentences,
not off the text. Wording follows the CheXpert ontology (Irvin et al., AAAI 2019): one observation a finding, no word
that names another one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rrg.data.phantom.findings import DEGREES, Finding
from rrg.observations import OBSERVATIONS

Labels = dict[str, float | None]
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
SYSTEMS = {
    "devices": ("Support Devices",),
    "heart": ("Cardiomegaly", "Enlarged Cardiomediastinum"),
    "lungs": ("Edema", "Consolidation", "Pneumonia", "Lung Opacity", "Lung Lesion", "Atelectasis"),
    "pleura": ("Pleural Effusion", "Pneumothorax", "Pleural Other"),
    "bones": ("Fracture",),
}
ORDERS = (
    ("devices", "heart", "lungs", "pleura", "bones"),
    ("heart", "lungs", "pleura", "bones", "devices"),
    ("lungs", "pleura", "heart", "bones", "devices"),
    ("devices", "lungs", "heart", "pleura", "bones"),
)
BY_EXTENT = ("Lung Opacity", "Consolidation", "Pneumothorax", "Pleural Effusion", "Atelectasis")

PRESENT = {
    "Enlarged Cardiomediastinum": (
        "The mediastinum is {degree}ly widened.",
        "There is {degree} widening of the mediastinum.",
        "{Degree} mediastinal widening is present.",
    ),
    "Cardiomegaly": (
        "There is {degree} cardiomegaly.",
        "The heart is {degree}ly enlarged.",
        "{Degree} enlargement of the cardiac silhouette.",
    ),
    "Lung Opacity": (
        "There is a {degree} hazy opacity in the {place}.",
        "A {degree} hazy opacity is seen in the {place}.",
        "{Degree} ill-defined opacity in the {place}.",
    ),
    "Lung Lesion": (
        "There is a {size} mm {lesion} in the {place}.",
        "A {size} mm {lesion} is seen in the {place}.",
        "A round {lesion} in the {place} measures {size} mm.",
    ),
    "Edema": (
        "There is {degree} pulmonary edema.",
        "Perihilar haze is consistent with {degree} pulmonary edema.",
        "{Degree} pulmonary edema is present on both sides.",
    ),
    "Consolidation": (
        "There is a {degree} dense consolidation in the {place}.",
        "{Degree} consolidation in the {place} with air bronchograms.",
        "A {degree} area of consolidation is seen in the {place}.",
    ),
    "Pneumonia": (
        "Patchy foci in the {place} are consistent with pneumonia.",
        "There is {degree} pneumonia in the {place}.",
        "{Degree} patchy pneumonia is seen in the {place}.",
    ),
    "Atelectasis": (
        "There is {degree} linear atelectasis at the {side} base.",
        "Bands of {degree} atelectasis are seen at the {side} base.",
        "{Degree} {side} basilar atelectasis with volume loss.",
    ),
    "Pneumothorax": (
        "There is a {degree} {side} apical pneumothorax.",
        "A {degree} {side} pneumothorax is seen.",
        "{Degree} {side} pneumothorax is present.",
    ),
    "Pleural Effusion": (
        "There is a {degree} {side} pleural effusion.",
        "A {degree} {side} pleural effusion is seen.",
        "{Degree} {side} pleural effusion is present.",
    ),
    "Pleural Other": (
        "There is {degree} {side} {place} pleural thickening.",
        "{Degree} calcified pleural thickening is seen on the {side} {place} side.",
        "{Degree} {side} {place} pleural thickening is present.",
    ),
    "Fracture": (
        "There is a displaced fracture of the {side} {place} {ribs}.",
        "A displaced fracture of the {side} {place} {ribs} is seen.",
        "Fracture of the {side} {place} {ribs}.",
    ),
}
UNCERTAIN = {
    "Enlarged Cardiomediastinum": ("The mediastinum may be widened.", "Mediastinal widening cannot be excluded."),
    "Cardiomegaly": ("The heart may be enlarged.", "Cardiomegaly cannot be excluded.", "Possible cardiomegaly."),
    "Lung Opacity": ("Possible faint opacity in the {place}.", "A faint opacity in the {place} cannot be excluded."),
    "Lung Lesion": ("Possible {size} mm {lesion} in the {place}.", "A {lesion} in the {place} cannot be excluded."),
    "Edema": ("Possible {degree} pulmonary edema.", "Faint perihilar haze may represent pulmonary edema."),
    "Consolidation": ("Possible consolidation in the {place}.", "Consolidation in the {place} cannot be excluded."),
    "Pneumonia": ("Faint foci in the {place} may represent pneumonia.", "Possible pneumonia in the {place}."),
    "Atelectasis": (
        "Possible atelectasis at the {side} base.",
        "Faint bands at the {side} base may represent atelectasis.",
    ),
    "Pneumothorax": ("Possible {degree} {side} pneumothorax.", "A {degree} {side} pneumothorax cannot be excluded."),
    "Pleural Effusion": ("Possible {degree} {side} pleural effusion.", "A {side} pleural effusion cannot be excluded."),
    "Pleural Other": ("Possible {side} {place} pleural thickening.", "There may be {side} {place} pleural thickening."),
    "Fracture": (
        "Possible fracture of the {side} {place} {ribs}.",
        "A fracture of the {side} {place} {ribs} cannot be excluded.",
    ),
}
DEVICES = {
    "pacemaker": "{a_side} chest pacemaker has a lead in the right ventricle",
    "central venous catheter": "{a_side} central venous catheter ends in the superior vena cava",
    "chest tube": "{a_side} chest tube ends at the apex",
    "endotracheal tube": "an endotracheal tube ends {size} mm above the carina",
    "sternotomy wires": "sternotomy wires and hardware are in the midline",
}
IN_SHORT = {
    "Enlarged Cardiomediastinum": "mediastinal widening",
    "Cardiomegaly": "cardiomegaly",
    "Lung Opacity": "hazy opacity in the {place}",
    "Lung Lesion": "{lesion} in the {place}",
    "Edema": "pulmonary edema",
    "Consolidation": "consolidation in the {place}",
    "Pneumonia": "pneumonia in the {place}",
    "Atelectasis": "{side} basilar atelectasis",
    "Pneumothorax": "{side} pneumothorax",
    "Pleural Effusion": "{side} pleural effusion",
    "Pleural Other": "{side} pleural thickening",
    "Fracture": "{side} rib fracture",
}
# What a sentence denies without naming it; it is not said where one of these is there.
ALSO_DENIED = {
    "The lungs are clear.": SYSTEMS["lungs"],
    "Both lungs are clear.": SYSTEMS["lungs"],
    "No focal opacity is seen.": ("Consolidation", "Pneumonia", "Lung Lesion"),
    "The bones are intact.": ("Fracture",),
}
ABSENT: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {  # system: sentence, what it negates
    "devices": (),
    "heart": (
        ("Heart size is normal.", ("Cardiomegaly",)),
        ("The heart is normal in size.", ("Cardiomegaly",)),
        ("The mediastinal contours are normal.", ("Enlarged Cardiomediastinum",)),
        ("Heart size and mediastinal contours are normal.", ("Cardiomegaly", "Enlarged Cardiomediastinum")),
        ("The mediastinum is not widened.", ("Enlarged Cardiomediastinum",)),
    ),
    "lungs": (
        ("No focal consolidation.", ("Consolidation",)),
        ("No pulmonary edema.", ("Edema",)),
        ("There is no evidence of pneumonia.", ("Pneumonia",)),
        ("No consolidation or pulmonary edema is seen.", ("Consolidation", "Edema")),
        ("No pulmonary nodule or mass.", ("Lung Lesion",)),
        ("No atelectasis is seen.", ("Atelectasis",)),
        ("No focal opacity is seen.", ("Lung Opacity",)),
        ("The lungs are clear.", ()),
        ("Both lungs are clear.", ()),
    ),
    "pleura": (
        ("No pleural effusion or pneumothorax.", ("Pleural Effusion", "Pneumothorax")),
        ("There is no pleural effusion.", ("Pleural Effusion",)),
        ("There is no pneumothorax.", ("Pneumothorax",)),
        ("No pleural thickening.", ("Pleural Other",)),
        ("No pneumothorax or pleural effusion is seen.", ("Pleural Effusion", "Pneumothorax")),
    ),
    "bones": (
        ("No acute fracture.", ("Fracture",)),
        ("The bones are intact.", ()),
        ("No rib fracture is seen.", ("Fracture",)),
    ),
}
INDICATIONS = (
    "Cough.", "Shortness of breath.", "Chest pain.", "Fever and cough.", "Fall.", "Preoperative examination.",
    "Follow-up examination.", "Weakness.", "Chest pain after a fall.", "Shortness of breath and cough.",
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """A report and the 14 labels that it states: 1 present, 0 negated, -1 hedged, None not mentioned."""

    findings: str
    impression: str
    indication: str
    labels: Labels


def write_report(findings: Sequence[Finding], rng: np.random.Generator) -> Report:
    """Three to seven sentences: each finding, the devices together, and some of what is absent."""
    labels: Labels = dict.fromkeys(OBSERVATIONS)
    said: dict[str, list[str]] = {system: [] for system in SYSTEMS}
    for system, observations in SYSTEMS.items():
        for finding in findings:
            if finding.observation in observations:
                labels[finding.observation] = 1.0 if finding.certain else -1.0
                if system != "devices":
                    templates = (PRESENT if finding.certain else UNCERTAIN)[finding.observation]
                    said[system].append(_fill(str(rng.choice(templates)), finding))
    if devices := [finding for finding in findings if finding.observation == "Support Devices"]:
        said["devices"] = [_sentence(" and ".join(_fill(DEVICES[d.place], d) for d in devices))]
    wanted = max(int(rng.integers(3, 6)), 1 + sum(map(len, said.values())))
    for system in rng.permutation([s for s in SYSTEMS if ABSENT[s]]):
        if sum(map(len, said.values())) < wanted and (sentence := _negate(str(system), labels, rng)):
            said[system].append(sentence)
    labels["No Finding"] = 1.0 if all(f.observation == "Support Devices" for f in findings) else None
    order = ORDERS[rng.integers(len(ORDERS))]
    text = " ".join(sentence for system in order for sentence in said[system])
    return Report(text, _impression(findings), str(rng.choice(INDICATIONS)), labels)


def _negate(system: str, labels: Labels, rng: np.random.Generator) -> str:
    """A sentence that denies only what is not there, its labels set to 0; empty where none would be true."""
    true = [
        (text, names)
        for text, names in ABSENT[system]
        if not any(labels[name] for name in (*names, *ALSO_DENIED.get(text, ())))
    ]
    if not true:
        return ""
    text, names = true[rng.integers(len(true))]
    labels.update(dict.fromkeys(names, 0.0))
    return text


def _impression(findings: Sequence[Finding]) -> str:
    stated = [
        _sentence(("" if finding.certain else "possible ") + _fill(IN_SHORT[finding.observation], finding))
        for finding in findings
        if finding.observation != "Support Devices"
    ]
    return " ".join(stated) or "No acute disease."


def _fill(template: str, f: Finding) -> str:
    degree = DEGREES["extent" if f.observation in BY_EXTENT else "severity"][f.degree]
    ribs = " and ".join(ORDINALS[rib - 1] for rib in f.ribs) + (" ribs" if len(f.ribs) > 1 else " rib")
    text = template.format(
        degree=degree,
        Degree=degree.capitalize(),
        side=f.side,
        a_side=f"a {f.side}",
        place=f.place,
        size=f.size,
        lesion="mass" if f.size > 30 else "nodule",
        ribs=ribs,
    )
    return text if f.side != "bilateral" else _plural(text)


def _plural(text: str) -> str:
    """Bilateral effusions are two."""
    for one, many in (("There is a ", "There are "), ("effusion is", "effusions are"), ("effusion", "effusions")):
        if one in text and many not in text:
            text = text.replace(one, many)
    return text[2:].capitalize() if text.startswith("A ") else text


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
