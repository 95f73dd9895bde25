"""Sizes that contradict each other along the wires are refused, from the pieces' source text where that says them."""

# ruff: noqa: F811  (the fixture `install` is imported)

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fake_distributions import Install, install  # noqa: F401  (install is a fixture)
from rrg.cli import main
from rrg.composing import composition
from rrg.composing.composition import compose
from rrg.composing.contract import contract_of
from rrg.composing.plugins import find
from rrg.composing.sketch import sketch_of
from rrg.errors import UsageError
from rrg.generate.reporter import _probabilities

PLUGIN = """
    import rrg

    @rrg.hookimpl
    def rrg_encoders():
        return [rrg.Piece(f"mine.{name.lower()}", f"mine_code:{name}", "", default=False)
                for name in ("Tower", "Film", "One", "Two")]

    @rrg.hookimpl
    def rrg_connectors():
        return [rrg.Piece("mine.connector", "mine_code:Connector", "", default=False)]

    @rrg.hookimpl
    def rrg_injectors():
        return [rrg.Piece("mine.injector", "mine_code:Injector", "", default=False)]

    @rrg.hookimpl
    def rrg_losses():
        return [rrg.Piece("mine.loss", "mine_code:Loss", "", default=False)]
"""

CODE = """
    from typing import NamedTuple

    import torch
    from jaxtyping import Bool, Float
    from torch import Tensor, nn

    from rrg import PieceConfig
    from rrg.axes import Axes
    from rrg.config import InjectorConfig, LossConfig


    class Plain(nn.Module):
        def __init__(self, config: PieceConfig, axes: Axes) -> None:
            super().__init__()
            self.vision = 512


    class Prefix(NamedTuple):
        visual_embeds: Float[Tensor, "batch slots CONNECTOR"]


    class Connector(nn.Module):
        def __init__(self, config: PieceConfig, axes: Axes) -> None:
            super().__init__()
            self.project = nn.Linear(axes.vision, CONNECTOR)

        def forward(self, patch_tokens: Float[Tensor, "batch patches vision"]) -> Prefix:
            return Prefix(self.project(patch_tokens))


    class Loss(nn.Module):
        def __init__(self, config: LossConfig, axes: Axes) -> None:
            super().__init__()

        def forward(self, disease_logits: Float[Tensor, "batch LOSS"]) -> Float[Tensor, ""]:
            return disease_logits.square().mean()


    class Injector(nn.Module):
        def __init__(self, config: InjectorConfig, axes: Axes, layer: int, first: object) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(INJECTOR))

        def forward(self, hidden: Float[Tensor, "batch text INJECTOR"]) -> Float[Tensor, "batch text INJECTOR"]:
            return hidden * self.scale


    class Patches(NamedTuple):
        patch_tokens: Float[Tensor, "batch patches 512"]
        patch_mask: Bool[Tensor, "batch patches"]


    class Tower(Plain):
        def forward(self, pixel_values: Float[Tensor, "batch views channels height width"]) -> Patches:
            raise NotImplementedError


    class Film(Plain):
        def forward(self, pixel_values: Float[Tensor, "batch views CHANNELS HEIGHT HEIGHT"]) -> Patches:
            raise NotImplementedError


    class Score(NamedTuple):
        score: Float[Tensor, "batch"]


    class One(Plain):
        def forward(self, patch_tokens: Float[Tensor, "batch patches 384"]) -> Score:
            raise NotImplementedError


    class Two(Plain):
        def forward(self, visual_mean: Float[Tensor, "batch 768"]) -> Score:
            raise NotImplementedError
"""
SIZES = {"CONNECTOR": 256, "LOSS": 14, "INJECTOR": 256, "CHANNELS": 1, "HEIGHT": 96}

Mine = Callable[..., None]
Early = Callable[..., list[str]]


@pytest.fixture
def mine(install: Install) -> Mine:
    """Install the stranger's package, built for the sizes given."""

    def make(code: str = CODE, **sizes: int) -> None:
        for word, size in {**SIZES, **sizes}.items():
            code = code.replace(word, str(size))
        install("mine", PLUGIN, mine_code=code)

    return make


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> Early:
    """The problems of a composition, told before the module of any piece is imported."""

    def run(expression: str, **options: Any) -> list[str]:
        with monkeypatch.context() as patch:
            patch.setattr(composition, "contract_of", lambda piece: pytest.fail(f"{piece.name} was imported"))
            with pytest.raises(UsageError) as raised:
                compose(expression, **options)
        return raised.value.problems

    return run


def test_a_connector_of_another_hosts_width(mine: Mine, early: Early) -> None:
    mine(CONNECTOR=768)
    assert early("mine.connector") == [
        'mine.connector gives visual_embeds with host = 768 (annotated "batch slots 768"), the language model reads '
        "visual_embeds with host = 256 (tiny's hidden width); settle it with --drop mine.connector"
    ]


def test_a_loss_of_five_diseases_beside_experts_of_14(mine: Mine, early: Early) -> None:
    mine(LOSS=5)
    assert early("lead+mine.loss") == [
        'mine.loss reads disease_logits with diseases = 5 (annotated "batch 5"), lead.experts gives disease_logits '
        "with diseases = 14 (the observations); settle it with --drop mine.loss"
    ]


def test_an_injector_of_another_hosts_width_and_the_hosts_that_settle_it(mine: Mine, early: Early) -> None:
    mine(INJECTOR=4096)
    [said] = early("mine.injector")
    assert said == (
        'mine.injector reads hidden with host = 4096 (annotated "batch text 4096"), the language model gives hidden '
        "with host = 256 (tiny's hidden width); settle it with --host vicuna-7b or --host llama2-7b or "
        "--host qwen3-vl-8b or --drop mine.injector"
    )
    for host in re.findall(r"--host (\S+)", said):
        assert compose("mine.injector", host=host).host.name == host


def test_an_injector_that_gives_another_width_than_it_takes(mine: Mine, early: Early) -> None:
    mine(CODE.replace('-> Float[Tensor, "batch text INJECTOR"]', '-> Float[Tensor, "batch text 512"]'))
    [said] = early("mine.injector")
    assert said.startswith('mine.injector gives hidden with host = 512 (annotated "batch text 512"), the language')


def test_sizes_that_agree_compose_and_can_be_planned(mine: Mine, capsys: pytest.CaptureFixture[str]) -> None:
    mine()
    assert main(["compose", "lead+mine.connector+mine.loss+mine.injector"]) == 0, capsys.readouterr().err


def test_the_width_of_a_changed_host_counts(mine: Mine, early: Early) -> None:
    mine(CONNECTOR=768)
    settings = {"host.config.hidden_size": 768}
    recipe = compose("mine.connector", settings=settings)
    assert recipe.visual_embeds == "mine.connector"
    assert compose(start=recipe).hash == recipe.hash
    settings = {"host.config.hidden_size": 512}
    assert "with host = 512 (tiny's hidden width)" in early("mine.connector", settings=settings)[0]


def test_qwens_width_is_its_language_models(mine: Mine, early: Early) -> None:
    mine(CONNECTOR=2048)
    assert compose("mine.connector", host="qwen3-vl-2b").visual_embeds == "mine.connector"
    assert "with host = 2560 (qwen3-vl-4b's hidden width)" in early("mine.connector", host="qwen3-vl-4b")[0]


def test_a_hosts_own_tower_has_a_width(mine: Mine, early: Early) -> None:
    mine()
    assert early("mine.one", host="qwen3-vl-2b") == [
        'mine.one reads patch_tokens with vision = 384 (annotated "batch patches 384"), host gives patch_tokens with '
        "vision = 1024 (qwen3-vl-2b's vision tower); settle it with --drop mine.one"
    ]


def test_a_vision_width_that_a_reader_fixes_otherwise_than_its_provider(mine: Mine, early: Early) -> None:
    mine()
    assert early("mine.tower+mine.one") == [
        'mine.one reads patch_tokens with vision = 384 (annotated "batch patches 384"), mine.tower gives patch_tokens '
        'with vision = 512 (annotated "batch patches 512"); settle it with --drop mine.one or --drop mine.tower'
    ]


def test_two_readers_that_contradict_each_other_by_way_of_their_provider(mine: Mine, early: Early) -> None:
    mine()
    assert early("mine.one+mine.two+core.encoder") == [
        'mine.two reads visual_mean with vision = 768 (annotated "batch 768"), mine.one reads patch_tokens with '
        'vision = 384 (annotated "batch patches 384"); they are one size by way of core.encoder and core.pool; '
        "settle it with --drop mine.two or --drop mine.one"
    ]


def test_films_have_one_channel(mine: Mine, early: Early) -> None:
    mine(CHANNELS=3)
    [said] = early("mine.film")
    assert "mine.film reads pixel_values with channels = 3" in said
    assert "data gives pixel_values with channels = 1 (films are grey)" in said


def test_films_of_another_size_and_the_setting_that_settles_it(mine: Mine, early: Early) -> None:
    mine(HEIGHT=224)
    said = early("mine.film")
    assert len(said) == 2  # height and width
    assert all("= 96 (image.size); settle it with --set image.size=224 or --drop mine.film" in line for line in said)
    assert compose("mine.film", settings={"image.size": 224}).image.size == 224


def test_the_refusal_comes_without_torch(mine: Mine) -> None:
    mine(CONNECTOR=768)
    script = """
        import sys
        from rrg.cli import main
        code = main(["compose", "lead+mine.connector"])
        print(code, "mine_code" in sys.modules, "torch" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.split() == ["2", "False", "False"]
    assert "mine.connector gives visual_embeds with host = 768" in done.stderr


def test_other_problems_are_told_with_it(mine: Mine) -> None:
    mine(LOSS=5)
    with pytest.raises(UsageError) as raised:
        compose("lead+mine.loss+nope", settings={"lead.gate.fusin": 1})
    first, second, third = raised.value.problems
    assert first.startswith("nope is unknown")
    assert second.startswith("--set lead.gate.fusin")
    assert third.startswith("mine.loss reads disease_logits with diseases = 5")


def test_an_unknown_host_has_no_width_to_contradict(mine: Mine) -> None:
    mine(CONNECTOR=768)
    with pytest.raises(UsageError) as raised:
        compose("mine.connector", host="nonsense")
    assert len(raised.value.problems) == 1


def test_two_methods_that_fix_their_own_signal_otherwise(mine: Mine, early: Early) -> None:
    mine(CODE.replace('visual_mean: Float[Tensor, "batch 768"]', 'lead__expert_embedding: Float[Tensor, "batch 768"]'))
    [said] = early("lead+mine.two")
    assert said.startswith(
        'mine.two reads lead__expert_embedding with host = 768 (annotated "batch 768"), lead.experts'
    )


def test_probabilities_are_those_of_the_14_observations() -> None:
    five, all_14 = torch.zeros(1, 5), torch.zeros(1, 14)
    assert _probabilities({("mine.five", "disease_logits"): five}, 1) == [None]
    [found] = _probabilities({("mine.five", "disease_logits"): five, ("lead.experts", "disease_logits"): all_14}, 1)
    assert found is not None
    assert found["No Finding"] == 0.5


def test_what_the_source_does_not_say_is_refused_by_the_contract(mine: Mine) -> None:
    mine(CODE.replace('"batch LOSS"', '" ".join(["batch", "LOSS"])'), LOSS=5)
    with pytest.raises(UsageError, match="its source cannot be read"):
        sketch_of(find().pieces["mine.loss"])
    with pytest.raises(UsageError) as raised:
        compose("lead+mine.loss")
    assert raised.value.problems == [
        'mine.loss reads disease_logits with diseases = 5 (annotated "batch 5"), lead.experts gives disease_logits '
        "with diseases = 14 (the observations); settle it with --drop mine.loss"
    ]


FORMS = {
    "alias": (
        'Logits = Float[Tensor, "batch 5"]',
        "class Loss(nn.Module):\n    def forward(self, disease_logits: Logits)",
    ),
    "text": ("", "class Loss(nn.Module):\n    def forward(self, disease_logits: 'Float[Tensor, \"batch 5\"]')"),
    "default": (
        "",
        'class Loss(nn.Module):\n    def forward(self, *, disease_logits: Float[Tensor, "batch 5"] | None = None)',
    ),
    "base": (
        "",
        'class Base(nn.Module):\n    def forward(self, disease_logits: Float[Tensor, "batch 5"])',
    ),
}
END = ' -> Float[Tensor, ""]:\n        raise NotImplementedError\n'
INIT = "    def __init__(self, config: LossConfig, axes: Axes) -> None:\n        super().__init__()\n"


def loss(install: Install, before: str, code: str, after: str = "") -> Any:
    """A stranger's loss as registered; its module is not imported yet."""
    imports = textwrap.dedent(CODE).split("class Plain")[0]
    install("mine", PLUGIN, mine_code="\n".join([imports, before, code + END + INIT, after]))
    return find().pieces["mine.loss"]


@pytest.mark.parametrize("form", FORMS)
def test_the_source_says_what_the_contract_says(form: str, install: Install) -> None:
    before, code = FORMS[form]
    piece = loss(install, before, code, "class Loss(Base):\n    pass\n" if form == "base" else "")
    sketch = sketch_of(piece)
    assert "mine_code" not in sys.modules
    assert [port.axes for port in sketch.reads] == ["batch 5"]
    assert sketch.reads == contract_of(piece).reads


@pytest.mark.parametrize(
    "changed",
    [
        'if 1 > 0:\n    Logits = Float[Tensor, "batch 14"]',
        'Logits = Float[Tensor, "batch 14"]',
        "from elsewhere import Logits",
        "Loss = type('Loss', (Loss,), {})",
        "from elsewhere import Base\nclass Loss(Base):\n    pass",
    ],
)
def test_what_is_not_settled_by_one_plain_statement_is_not_read(changed: str, install: Install) -> None:
    before, code = FORMS["alias"]
    with pytest.raises(UsageError, match="its source cannot be read"):
        sketch_of(loss(install, before, code, changed))


def test_the_source_of_every_bundled_piece_says_what_its_contract_says() -> None:
    for piece in find().pieces.values():
        sketch, contract = sketch_of(piece), contract_of(piece)
        assert (sketch.reads, sketch.gives, sketch.hidden) == (contract.reads, contract.gives, contract.hidden)
