"""Core's plain pieces, for hosts and compositions without their own."""

from rrg.hookspecs import hookimpl
from rrg.pieces import Piece


@hookimpl
def rrg_encoders() -> list[Piece]:
    return [
        Piece(
            "core.encoder", "rrg.core_pieces.encoder:Encoder", "films to patch_tokens by a timm or Hugging Face model"
        ),
        Piece("core.pool", "rrg.core_pieces.pool:Pool", "mean patch vector of a study"),
        Piece("core.text", "rrg.core_pieces.text:TextEncoder", "reports and phrases to vectors, in training alone"),
    ]


@hookimpl
def rrg_connectors() -> list[Piece]:
    return [Piece("core.connector", "rrg.core_pieces.connector:Connector", "linear projection and LayerNorm")]


@hookimpl
def rrg_stages() -> list[Piece]:
    return [
        Piece(
            "core.pretrain",
            "rrg.core_pieces.stages:Pretrain",
            "encoders by auxiliary losses, without the language model",
        ),
        Piece("core.train", "rrg.core_pieces.stages:Train", "everything trains, the language model by LoRA"),
        Piece("core.exemplars", "rrg.core_pieces.stages:Exemplars", "go on with retrieved reports in the prompt"),
    ]
