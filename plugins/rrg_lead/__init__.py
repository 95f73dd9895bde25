"""LEAD: Layer-wise Expert-aligned Decoding for Faithful Radiology Report Generation (Yang et al., arXiv 2602.04617)."""

import rrg


@rrg.hookimpl
def rrg_encoders() -> list[rrg.Piece]:
    return [
        rrg.Piece("lead.experts", "rrg_lead.experts:Experts", "one binary classifier per observation (section 2.2)")
    ]


@rrg.hookimpl
def rrg_injectors() -> list[rrg.Piece]:
    return [
        rrg.Piece("lead.gate", "rrg_lead.gate:Gate", "gated fusion of the experts at every decoder layer (eq. 1, 2)")
    ]


@rrg.hookimpl
def rrg_losses() -> list[rrg.Piece]:
    return [rrg.Piece("lead.bce", "rrg_lead.bce:BCE", "the experts' multi-label cross-entropy, times 4 (eq. 4, 5)")]


@rrg.hookimpl
def rrg_stages() -> list[rrg.Piece]:
    return [
        rrg.Piece("lead.train", "rrg_lead.train:Train", "vision, connector and LEAD's modules in full, LoRA (2.4, 3.3)")
    ]
