"""VDGen: visual and diagnostic representation calibration for radiology report generation."""

import rrg

PROMPT = (
    "Human: <img>{visual}</img> {exemplar}Generate a comprehensive and detailed diagnosis report for this chest X-ray "
    "image.\nAssistant:"
)


@rrg.hookimpl
def rrg_encoders() -> list[rrg.Piece]:
    return [
        rrg.Piece("vdgen.swin", "rrg_vdgen.swin:Swin", "Swin Transformer, or any timm model", sets={"image.size": 224})
    ]


@rrg.hookimpl
def rrg_losses() -> list[rrg.Piece]:
    return [
        rrg.Piece("vdgen.vse", "rrg_vdgen.vse:VSE", "vision self-equilibration: films against each other (eq. 3)"),
        rrg.Piece("vdgen.did", "rrg_vdgen.did:DID", "disease information distillation: films and reports (eq. 4-6)"),
    ]


@rrg.hookimpl
def rrg_stages() -> list[rrg.Piece]:
    settings = {"host.prompt": PROMPT, "generation.max_new_tokens": 100}
    return [rrg.Piece("vdgen.train", "rrg_vdgen.train:Train", "all of VDGen, the host by LoRA", sets=settings)]
