"""S2D-Align: shallow-to-deep auxiliary learning for anatomically grounded radiology report generation."""

import rrg


@rrg.hookimpl
def rrg_encoders() -> list[rrg.Piece]:
    target, what = "rrg_s2d_align.rad_dino:RadDino", "RAD-DINO, a DINOv2 of chest films, or any other encoder"
    return [rrg.Piece("s2d-align.rad-dino", target, what, sets={"image.size": 518})]


@rrg.hookimpl
def rrg_connectors() -> list[rrg.Piece]:
    target, what = (
        "rrg_s2d_align.sma:SMA",
        "shallow-to-deep memory adapter: one shared memory (eq. 6), table 4's others",
    )
    text = {"core.text.model": "microsoft/BiomedVLP-CXR-BERT-specialized"}
    return [rrg.Piece("s2d-align.sma", target, what, sets=text)]


@rrg.hookimpl
def rrg_stages() -> list[rrg.Piece]:
    stages = "rrg_s2d_align.stages"
    return [
        rrg.Piece("s2d-align.pag-1", f"{stages}:Pag1", "film and report: the adapter alone (eq. 9)"),
        rrg.Piece("s2d-align.pag-2", f"{stages}:Pag2", "with a reference report, and LoRA (eq. 10)"),
        rrg.Piece("s2d-align.pag-3", f"{stages}:Pag3", "with key phrases too (eq. 11)"),
        rrg.Piece("s2d-align.joint", f"{stages}:Joint", "all three at once (table 3)", default=False),
    ]
