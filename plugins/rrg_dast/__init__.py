"""DAST: a disease-aware dual-stage framework for chest X-ray report generation."""

import rrg

# Not by the bare name yet: the method's own encoder (VMamba) and its contrastive loss (eq. 3) are still missing.


@rrg.hookimpl
def rrg_encoders() -> list[rrg.Piece]:
    target = "rrg_dast.tokens:DiseaseTokens"
    return [rrg.Piece("dast.tokens", target, "one token per observation asks the patches (stage 1)", default=False)]


@rrg.hookimpl
def rrg_connectors() -> list[rrg.Piece]:
    return [rrg.Piece("dast.dvaf", "rrg_dast.dvaf:DVAF", "disease-visual attention fusion (eq. 5-7)", default=False)]


@rrg.hookimpl
def rrg_losses() -> list[rrg.Piece]:
    return [rrg.Piece("dast.cls", "rrg_dast.cls:Classification", "multi-label cross-entropy (eq. 4)", default=False)]


@rrg.hookimpl
def rrg_retrievers() -> list[rrg.Piece]:
    return [rrg.Piece("dast.dmsr", "rrg_dast.dmsr:DMSR", "exemplars by visual and disease similarity (eq. 8)")]


@rrg.hookimpl
def rrg_stages() -> list[rrg.Piece]:
    return [
        rrg.Piece("dast.stage-1", "rrg_dast.stages:Stage1", "encoder, tokens, heads; no language model", default=False),
        rrg.Piece("dast.stage-2", "rrg_dast.stages:Stage2", "DVAF and projection, with exemplars", default=False),
    ]
