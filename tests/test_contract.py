"""A piece's contract is read from its annotations; what contradicts the signal table or the kind is refused."""

from typing import Any, NamedTuple

import pytest
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rrg.axes import Axes
from rrg.composing.contract import Contract, Port, contract_of
from rrg.config import InjectorConfig, LossConfig, PieceConfig, StageConfig
from rrg.errors import UsageError
from rrg.pieces import Piece, Registered
from rrg.signals import signal_of


class Logits(NamedTuple):
    disease_logits: Float[Tensor, "batch diseases"]
    margin: Float[Tensor, "batch 3"]


class Good(nn.Module):
    def __init__(self, config: PieceConfig, axes: Axes) -> None:
        super().__init__()

    def forward(
        self,
        patch_tokens: Float[Tensor, "batch patches vision"],
        other__margin: Float[Tensor, "batch host"],
        patch_mask: Bool[Tensor, "batch patches"] | None = None,
    ) -> Logits:
        raise NotImplementedError


class GoodInjector(nn.Module):
    def __init__(self, config: InjectorConfig, axes: Axes, layer: int, first: Any) -> None:
        super().__init__()

    def forward(
        self, hidden: Float[Tensor, "batch text host"], disease_logits: Float[Tensor, "batch diseases"]
    ) -> Float[Tensor, "batch text host"]:
        raise NotImplementedError


class GoodLoss(nn.Module):
    def __init__(self, config: LossConfig, axes: Axes) -> None:
        super().__init__()

    def forward(self, disease_logits: Float[Tensor, "batch diseases"]) -> Float[Tensor, ""]:
        raise NotImplementedError


def contract(cls: Any, kind: str = "encoder") -> Contract:
    registered = Registered(Piece("mine.piece", "absent:Piece", ""), kind, "mine")
    registered.__dict__["cls"] = cls  # what importing the target would give
    return contract_of(registered)


def refused(cls: Any, kind: str = "encoder") -> str:
    with pytest.raises(UsageError) as raised:
        contract(cls, kind)
    assert str(raised.value).startswith("piece mine.piece: ")
    return str(raised.value)


def encoder(**hints: Any) -> type:
    """`Good` with other annotations of its forward."""
    names = [name for name in hints if name != "result"]
    space: dict[str, Any] = {}
    exec(f"def forward(self, {', '.join(names)}): ...", space)
    space["forward"].__annotations__ = {
        **{n: hints[n] for n in names if hints[n] is not None},
        "return": hints["result"],
    }
    return type("Changed", (Good,), {"forward": space["forward"]})


def test_reads_and_gives_by_argument_names() -> None:
    found = contract(Good)
    assert found.reads == (
        Port("patch_tokens", "patch_tokens", "batch patches vision", "Float"),
        Port("other__margin", "other.margin", "batch host", "Float"),
        Port("patch_mask", "patch_mask", "batch patches", "Bool", optional=True),
    )
    assert found.gives == (
        Port("disease_logits", "disease_logits", "batch diseases", "Float"),
        Port("margin", "mine.margin", "batch 3", "Float"),
    )
    assert found.config is PieceConfig


def test_an_injector_reads_what_forward_takes_beside_hidden() -> None:
    assert [port.signal for port in contract(GoodInjector, "injector").reads] == ["disease_logits"]


def test_an_injector_with_prepare_reads_what_prepare_takes() -> None:
    class Prepared(NamedTuple):
        disease_logits: Float[Tensor, "batch diseases"]

    class Preparing(GoodInjector):
        def prepare(self, visual_mean: Float[Tensor, "batch vision"]) -> Prepared:
            raise NotImplementedError

    assert [port.signal for port in contract(Preparing, "injector").reads] == ["visual_mean"]


def test_prepare_must_give_what_forward_takes() -> None:
    class Prepared(NamedTuple):
        disease_logits: Float[Tensor, "batch diseases"]
        extra: Float[Tensor, "batch host"]

    class Preparing(GoodInjector):
        def prepare(self, visual_mean: Float[Tensor, "batch vision"]) -> Prepared:
            raise NotImplementedError

    assert refused(Preparing, "injector").endswith("these differ: extra")


def test_an_argument_without_annotation() -> None:
    assert "argument patch_tokens of forward has no annotation" in refused(encoder(patch_tokens=None, result=Logits))


def test_an_argument_that_is_no_jaxtyping_type() -> None:
    assert "expected a jaxtyping type" in refused(encoder(patch_tokens=Tensor, result=Logits))


def test_axes_that_contradict_the_signal_table() -> None:
    said = refused(encoder(patch_tokens=Float[Tensor, "batch vision"], result=Logits))
    assert (
        'patch_tokens is annotated Float[Tensor, "batch vision"]; the signal patch_tokens is Float[Tensor, "batch '
        in said
    )


def test_a_type_that_contradicts_the_signal_table() -> None:
    said = refused(encoder(patch_mask=Float[Tensor, "batch patches"], result=Logits))
    assert 'the signal patch_mask is Bool[Tensor, "batch patches"]' in said


def test_a_number_stands_for_a_name() -> None:
    changed = encoder(patch_tokens=Float[Tensor, "batch patches 384"], result=Logits)
    assert contract(changed).reads[0].axes == "batch patches 384"


@pytest.mark.parametrize("axes", ["4 patches vision", "batch 384", "batch vision 7"])
def test_a_number_stands_for_no_other_axis_and_not_for_the_batch(axes: str) -> None:
    said = refused(encoder(patch_tokens=Float[Tensor, axes], result=Logits))
    assert "the signal patch_tokens is Float[Tensor, " in said


def test_an_injector_has_a_hidden_of_its_own_width() -> None:
    class Narrow(GoodInjector):
        def forward(self, hidden: Float[Tensor, "batch text 512"]) -> Float[Tensor, "batch text host"]:  # type: ignore[override]
            raise NotImplementedError

    assert [port.axes for port in contract(Narrow, "injector").hidden] == ["batch text 512", "batch text host"]


def test_an_axis_that_is_not_in_the_vocabulary() -> None:
    assert "has the axes pixels; known axes are batch" in refused(
        encoder(own=Float[Tensor, "batch pixels"], result=Logits)
    )


def test_an_argument_that_may_be_none_without_default() -> None:
    said = refused(encoder(visual_mean=Float[Tensor, "batch vision"] | None, result=Logits))
    assert "may be None, so give it the default None" in said


def test_a_result_without_names() -> None:
    said = refused(encoder(visual_mean=Float[Tensor, "batch vision"], result=Float[Tensor, "batch vision"]))
    assert "NamedTuple" in said


def test_arguments_without_names() -> None:
    class Loose(Good):
        def forward(self, *tokens: Float[Tensor, "batch vision"]) -> Logits:  # type: ignore[override]
            raise NotImplementedError

    assert "forward takes *tokens; arguments are signals" in refused(Loose)


@pytest.mark.parametrize("kind", ["injector", "loss", "retriever"])
def test_a_result_that_is_not_its_kind(kind: str) -> None:
    base = {"injector": GoodInjector, "loss": GoodLoss, "retriever": Good}[kind]

    class Wrong(base):  # type: ignore[misc,valid-type]
        def forward(self, hidden: Float[Tensor, "batch text host"]) -> Float[Tensor, "batch host"]:
            raise NotImplementedError

    assert f"the result of a {kind}'s forward is annotated Float[Tensor, " in refused(Wrong, kind)


def test_an_injector_without_hidden() -> None:
    class Blind(GoodInjector):
        def forward(self, disease_logits: Float[Tensor, "batch diseases"]) -> Float[Tensor, "batch text host"]:  # type: ignore[override]
            raise NotImplementedError

    assert "forward of an injector takes `hidden`" in refused(Blind, "injector")


@pytest.mark.parametrize(("kind", "base"), [("injector", "InjectorConfig"), ("loss", "LossConfig")])
def test_settings_that_lack_what_the_kind_needs(kind: str, base: str) -> None:
    class Plain(GoodInjector):
        def __init__(self, config: PieceConfig, axes: Axes, layer: int = 0, first: Any = None) -> None: ...

    assert f"annotate `config` of its __init__ with a subclass of rrg.config.{base}" in refused(Plain, kind)


def test_a_stage_that_is_no_stage() -> None:
    assert "a subclass of rrg.config.StageConfig" in refused(LossConfig, "stage")
    assert contract(StageConfig, "stage") == Contract((), (), StageConfig)


def test_a_setting_without_default() -> None:
    class Needy(PieceConfig):
        width: int

    class Piece(Good):
        def __init__(self, config: Needy, axes: Axes) -> None: ...

    Piece.__init__.__annotations__["config"] = Needy
    assert refused(Piece).endswith("every setting needs a default that is valid; these have none: width")


def test_an_init_of_another_form() -> None:
    class Odd(Good):
        def __init__(self, config: PieceConfig) -> None: ...

    assert "__init__ must take (config, axes), as for every encoder" in refused(Odd)


def test_annotations_that_cannot_be_read() -> None:
    assert "annotations of forward cannot be read" in refused(encoder(visual_mean="Absent", result=Logits))


def test_a_signal_of_a_method_with_a_hyphen() -> None:
    assert signal_of("two_view__score", "mine") == "two-view.score"
