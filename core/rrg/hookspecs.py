"""The six hooks. A plugin implements any of them; each returns descriptions, so that nothing heavy is imported here.

    import rrg

    @rrg.hookimpl
    def rrg_losses():
        return [rrg.Piece("mine.margin", "my_package.margin:Margin", "margin loss on the disease logits")]

The order in which plugins register decides nothing: the recipe does.
"""

import pluggy

from rrg.pieces import Piece

hookspec = pluggy.HookspecMarker("rrg")
hookimpl = pluggy.HookimplMarker("rrg")


@hookspec
def rrg_encoders() -> list[Piece]:  # type: ignore[empty-body]
    """Modules that compute signals from a study or from other signals: film to `patch_tokens`, tokens to logits."""


@hookspec
def rrg_connectors() -> list[Piece]:  # type: ignore[empty-body]
    """Modules that end in `visual_embeds`, what the language model reads."""


@hookspec
def rrg_injectors() -> list[Piece]:  # type: ignore[empty-body]
    """Modules that map `hidden` to `hidden` before or after chosen decoder layers."""


@hookspec
def rrg_losses() -> list[Piece]:  # type: ignore[empty-body]
    """Modules that give a scalar, added to the language-model loss with a weight."""


@hookspec
def rrg_retrievers() -> list[Piece]:  # type: ignore[empty-body]
    """Modules that give each study a key; the best inner product among the training studies is its exemplar."""


@hookspec
def rrg_stages() -> list[Piece]:  # type: ignore[empty-body]
    """Training stages, data only: what trains, which losses and exemplars take part, how long."""


KINDS = {
    "rrg_encoders": "encoder",
    "rrg_connectors": "connector",
    "rrg_injectors": "injector",
    "rrg_losses": "loss",
    "rrg_retrievers": "retriever",
    "rrg_stages": "stage",
}
