"""What tells the report is there in training alone: no setting of a composition brings it into what is written."""

# ruff: noqa: F811  (the fixture `install` is imported)

import sys
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fake_distributions import Install, install  # noqa: F401  (install is a fixture)
from rrg.composing.composition import compose
from rrg.data.study import StudyFolder
from rrg.errors import UsageError
from rrg.feed.batch import Item
from rrg.generate.reporter import Reporter
from rrg.model.model import RRGModel
from rrg.observations import OBSERVATIONS
from rrg.plan.counting import plan
from rrg.retrieve.index import keys_of
from rrg.signals import SIGNALS
from rrg.testing.data import batch_of, items

ALONE = [name for name, signal in SIGNALS.items() if signal.training]
HEAD = """
    from typing import NamedTuple

    import rrg
    import torch
    from jaxtyping import Bool, Float, Int
    from rrg import PieceConfig
    from rrg.axes import Axes
    from rrg.config import InjectorConfig, LossConfig
    from torch import Tensor, nn

    seen = []

    class Base(nn.Module):
        def __init__(self, config: PieceConfig, axes: Axes) -> None:
            super().__init__()
            self.vision, self.host = axes.vision, axes.host
            self.weight = nn.Parameter(torch.zeros(1))

        def note(self, values):
            seen.append({name for name, value in values.items() if value is not None})
"""
HEADS = """
    class Given(NamedTuple):
        disease_logits: Float[Tensor, "batch diseases"]

    class Thing(Base):
        def forward(self, {reads}) -> Given:
            return Given(disease_labels)
"""
# By kind: source of a piece that reads `{reads}`, the hook that registers it, and what to compose it with.
KINDS = {
    "encoder": (
        """
    class Given(NamedTuple):
        patch_tokens: Float[Tensor, "batch patches vision"]
        patch_mask: Bool[Tensor, "batch patches"]

    class Thing(Base):
        def __init__(self, config: PieceConfig, axes: Axes) -> None:
            super().__init__(config, axes)
            self.vision = 6

        def forward(self, pixel_values: Float[Tensor, "batch views channels height width"], {reads}) -> Given:
            self.note(locals())
            tokens = pixel_values.flatten(1)[:, :24].unflatten(1, (4, 6)) + self.weight
            return Given(tokens, tokens[..., 0] > -9)
""",
        "rrg_encoders", "core.connector",
    ),
    "connector": (
        """
    class Given(NamedTuple):
        visual_embeds: Float[Tensor, "batch slots host"]

    class Thing(Base):
        def forward(self, patch_tokens: Float[Tensor, "batch patches vision"], {reads}) -> Given:
            self.note(locals())
            return Given((patch_tokens[..., :1] + self.weight).expand(-1, -1, self.host))
""",
        "rrg_connectors", "core.encoder",
    ),
    "injector": (
        """
    class Ready(NamedTuple):
        shift: Float[Tensor, "batch vision"]

    class Thing(Base):
        def __init__(self, config: InjectorConfig, axes: Axes, layer: int, first: "Thing | None") -> None:
            super().__init__(config, axes)

        def prepare(self, visual_mean: Float[Tensor, "batch vision"], {reads}) -> Ready:
            self.note(locals())
            return Ready(visual_mean)

        def forward(
            self, hidden: Float[Tensor, "batch text host"], shift: Float[Tensor, "batch vision"]
        ) -> Float[Tensor, "batch text host"]:
            return hidden + self.weight * shift.mean(dim=1)[:, None, None]
""",
        "rrg_injectors", "core.encoder",
    ),
    "retriever": (
        """
    class Thing(Base):
        def forward(
            self, visual_mean: Float[Tensor, "batch vision"], {reads}
        ) -> Float[Tensor, "batch key"]:
            self.note(locals())
            return visual_mean + self.weight
""",
        "rrg_retrievers", "core.encoder",
    ),
}  # fmt: skip


def annotated(signals: Sequence[str], default: str = "") -> str:
    none = " | None" if default else ""
    return ", ".join(f'{n}: {SIGNALS[n].dtype}[Tensor, "{SIGNALS[n].axes}"]{none}{default}' for n in signals)


def install_source(install: Install, hook: str, source: str) -> None:
    piece = 'rrg.Piece("spy.thing", "spy:Thing", "for a test")'
    install("spy", f"{HEAD}{source}\n    @rrg.hookimpl\n    def {hook}():\n        return [{piece}]\n")


def install_piece(install: Install, kind: str, reads: str) -> str:
    """Install the plugin `spy` with one piece of a kind; the expression that composes it."""
    source, hook, beside = KINDS[kind]
    install_source(install, hook, source.replace("{reads}", reads))
    return f"{beside}+spy.thing+core.train"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("signal", ["disease_labels", "report_embed", "phrase_tokens", "reference_ids"])
def test_a_piece_that_writes_and_needs_it_is_refused(install: Install, kind: str, signal: str) -> None:
    expression = install_piece(install, kind, annotated([signal]))
    with pytest.raises(UsageError) as error:
        compose(expression)
    said = str(error.value)
    assert f"{signal}, which training alone has" in said or f"by spy.thing from {signal}" in said
    assert "must run when a report is written; give its argument the default None, or --drop" in said


def test_what_is_made_of_labels_is_refused_where_a_report_is_written(install: Install) -> None:
    install_source(install, "rrg_encoders", HEADS.replace("{reads}", annotated(["disease_labels"])))
    with pytest.raises(UsageError, match=r"dast.dmsr reads disease_logits, which training alone has by spy.thing from"):
        compose("core.train+spy.thing+dast.dmsr")
    assert "spy.thing" in compose("core.train+spy.thing+lead.bce").pieces  # a loss may learn from it


@pytest.mark.parametrize("kind", KINDS)
def test_a_piece_that_may_read_it_has_it_in_training_alone(
    install: Install, composed: Callable[..., RRGModel], folder: StudyFolder, kind: str
) -> None:
    asked = [name for name in ALONE if SIGNALS[name].source == "data" or name == "report_embed"]
    expression = install_piece(install, kind, annotated(asked, " = None"))
    model = composed(f"{expression}+vdgen.did", **{"core.train.contexts": []})
    seen: list[set[str]] = sys.modules["spy"].seen
    wired = {f"spy.thing.{name}" for name in asked} & model.recipe.wire.keys()
    assert "spy.thing.disease_labels" in wired
    if kind != "retriever":  # whose keys are made for an index, and never for a loss
        model.begin("core.train")
        model(**batch_of(model, items([1, 2])))
        assert "disease_labels" in set().union(*seen)
    seen.clear()
    batch = batch_of(model, items([1, 2]), learn=False)
    whole = batch_of(model, items([1, 2]))
    model.generate(batch | {name: whole[name] for name in ALONE if name in whole})
    if kind == "retriever":
        keys_of(model, folder, folder.split("train")[:2], "index", model.keys)
    assert seen
    assert not set().union(*seen) & {*ALONE}


def test_the_plan_says_what_training_alone_has(install: Install) -> None:
    expression = install_piece(install, "connector", annotated(["disease_labels"], " = None"))
    table = plan(compose(f"{expression}+lead.experts+lead.bce")).table()
    marked = [line.split()[:4] for line in table.splitlines() if line.endswith("in training alone")]
    assert ["spy.thing", "<-", "data", "disease_labels"] in marked
    assert ["lead.bce", "<-", "data", "disease_labels"] in marked


names = st.text("abcdefghij-", min_size=1, max_size=30)
told = st.fixed_dictionaries({"findings": st.text(max_size=300), "id": names, "patient": names})
labels = st.lists(st.sampled_from([None, 0.0, 1.0, -1.0]), min_size=14, max_size=14)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(told, min_size=3, max_size=3, unique_by=lambda d: d["id"]), labels, st.sampled_from(["val", "train"]))
def test_reports_hang_on_films_alone(
    reporter: Reporter, others: list[dict[str, str]], row: list[float | None], split: str
) -> None:
    """Whatever a study says beside its films: its report, labels, names, patient and split."""
    known = items([1, 2, 1])
    changed = []
    for item, other in zip(known, others, strict=True):
        own = {**other, "id": f"x{other['id']}", "patient": f"x{other['patient']}", "split": split}
        study = item.study.model_copy(
            update={**own, "labels": dict(zip(OBSERVATIONS, row, strict=True)), "file_names": ["pneumonia.png"]}
        )
        changed.append(Item(study, item.films))
    config = reporter.recipe.generation
    assert reporter._reports(changed, config) == reporter._reports(known, config)


def test_a_batch_for_writing_holds_films_and_prompt_alone(composed: Callable[..., RRGModel]) -> None:
    model = composed("lead+vdgen.did")
    written = batch_of(model, items([1, 2]), learn=False)
    assert written.keys() == {"pixel_values", "view_mask", "before_ids", "input_ids", "attention_mask"}
    longer = [Item(i.study.model_copy(update={"findings": "No pneumothorax. " * 9}), i.films) for i in items([1, 2])]
    other = batch_of(model, longer, learn=False)
    assert all(torch.equal(tensor, other[name]) for name, tensor in written.items())
