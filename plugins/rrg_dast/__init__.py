"""DAST: a disease-aware dual-stage framework for chest X-ray report generation; its retrieval, DMSR."""

import rrg


@rrg.hookimpl
def rrg_retrievers() -> list[rrg.Piece]:
    return [rrg.Piece("dast.dmsr", "rrg_dast.dmsr:DMSR", "exemplars by visual and disease similarity (eq. 8)")]
