"""DAST: a disease-aware dual-stage framework for chest X-ray report generation."""

import rrg


@rrg.hookimpl
def rrg_encoders() -> list[rrg.Piece]:
    return [
        rrg.Piece("dast.vmamba", "rrg_dast.vmamba:VMamba", "VMamba-T/S/B (eq. 1, 2)", sets={"image.size": 224}),
        rrg.Piece(
            "dast.tokens", "rrg_dast.tokens:DiseaseTokens", "one token per observation asks the patches (stage 1)"
        ),
    ]


@rrg.hookimpl
def rrg_connectors() -> list[rrg.Piece]:
    return [rrg.Piece("dast.dvaf", "rrg_dast.dvaf:DVAF", "disease-visual attention fusion (eq. 5-7)")]


@rrg.hookimpl
def rrg_losses() -> list[rrg.Piece]:
    target, text = "rrg_dast.contrastive:Contrastive", {"core.text.model": "emilyalsentzer/Bio_ClinicalBERT"}
    return [
        rrg.Piece("dast.cls", "rrg_dast.cls:Classification", "multi-label cross-entropy (eq. 4)"),
        rrg.Piece("dast.contrastive", target, "films and reports aligned (eq. 3)", sets=text),
    ]


@rrg.hookimpl
def rrg_retrievers() -> list[rrg.Piece]:
    return [rrg.Piece("dast.dmsr", "rrg_dast.dmsr:DMSR", "exemplars by visual and disease similarity (eq. 8)")]


@rrg.hookimpl
def rrg_stages() -> list[rrg.Piece]:
    return [
        rrg.Piece("dast.stage-1", "rrg_dast.stages:Stage1", "encoder, tokens, heads; no language model"),
        rrg.Piece("dast.stage-2", "rrg_dast.stages:Stage2", "DVAF and projection, with exemplars"),
    ]
