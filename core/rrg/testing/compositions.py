"""Checks that need a whole composition on a tiny host: losses beside the others, stages as they train."""

import contextlib
import io
import tempfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

from rrg.composing.composition import compose
from rrg.composing.contract import Contract, contract_of
from rrg.composing.plugins import Plugins
from rrg.composing.recipe import Recipe
from rrg.data.study import StudyFolder
from rrg.errors import RRGError
from rrg.model.hosts.build import learn_tokenizer
from rrg.model.model import RRGModel, build
from rrg.signals import SIGNALS
from rrg.testing.case import Case
from rrg.testing.checks import REPEATS, broken, check
from rrg.testing.data import FINDINGS, batch_of, items, noise_folder
from rrg.testing.hosts import TEXT
from rrg.train.trainer import StageTrainer
from rrg.train.training import train

# Settings under which a composition on the host `tiny` builds in milliseconds.
SMALL: dict[str, Any] = {
    "host.config": {k: TEXT[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    | {"num_attention_heads": 3, "num_key_value_heads": 3, "attention_dropout": 0.0},
    "host.vocab_size": 320,
    "image.size": 32,
    "image.augment": 0.0,
    "text.report": 12,
    "generation.max_new_tokens": 6,
}
ENCODER = {
    "core.encoder.model": "resnet10t",
    "core.encoder.options": {"channels": [8, 8, 16, 16], "stem_width": 4},
    "core.encoder.dropout": 0.0,
}


def expression_of(case: Case) -> str:
    """The piece and what it needs beside it: a stage its method's default pieces, any other piece its providers."""
    plugins, chosen = case.plugins, [case.name]
    if case.kind == "stage":
        stage: Any = case.contract.config()
        method = case.piece.piece.method
        if method != "core":
            chosen += [r.name for r in plugins.of_method(method) if r.piece.default and r.kind != "stage"]
        if not stage.report and not _of_kind(chosen, "loss", plugins):
            chosen += _any("loss", plugins)
        if stage.exemplars and not _of_kind(chosen, "retriever", plugins):
            chosen += _any("retriever", plugins)
    for name in chosen:  # grows while it is read
        chosen += [provider for provider in _providers(name, chosen, plugins) if provider not in chosen]
    return "+".join(dict.fromkeys(chosen))


def _of_kind(names: list[str], kind: str, plugins: Plugins) -> list[str]:
    return [name for name in names if plugins.pieces[name].kind == kind]


def _any(kind: str, plugins: Plugins) -> list[str]:
    return sorted(name for name in _readable(plugins) if plugins.pieces[name].kind == kind)[:1]


def _readable(plugins: Plugins) -> dict[str, Contract]:
    """Installed pieces whose contract can be read: a broken one of another plugin is no help, and no hindrance."""
    found = {}
    for name, piece in plugins.pieces.items():
        with contextlib.suppress(RRGError):
            found[name] = contract_of(piece)
    return found


def _providers(name: str, chosen: list[str], plugins: Plugins) -> list[str]:
    """Installed pieces for the signals that nobody gives yet and that have no default; of the same method first."""
    if plugins.pieces[name].kind == "stage":
        return []
    found, readable = [], _readable(plugins)
    given = {port.signal for other in chosen for port in readable[other].gives}
    for port in readable[name].reads:
        known = SIGNALS.get(port.signal)
        if port.signal in given or port.optional or (known and (known.source == "data" or known.default)):
            continue
        method = name.partition(".")[0]
        for other in sorted(readable, key=lambda n: (n.partition(".")[0] != method, n)):
            if any(given.signal == port.signal for given in readable[other].gives):
                found.append(other)
                break
    return found


def small_recipe(case: Case, **settings: Any) -> Recipe:
    expression = expression_of(case)
    encoder = ENCODER if "core.encoder" in compose(expression, plugins=case.plugins).pieces else {}
    return compose(expression, settings={**SMALL, **encoder, **settings}, plugins=case.plugins)


def small_model(case: Case, **settings: Any) -> RRGModel:
    recipe = small_recipe(case, **settings)
    torch.manual_seed(0)
    model = build(recipe, plugins=case.plugins, tokenizer=learn_tokenizer(FINDINGS * 5, 320))
    return model.to(case.device).eval()


def a_batch(model: RRGModel, case: Case) -> dict[str, Any]:
    shown = dict.fromkeys(("s0", "s1"), FINDINGS[0])
    return {name: tensor.to(case.device) for name, tensor in batch_of(model, items([1, 2]), exemplars=shown).items()}


@check("loss", needs=REPEATS)
def weight_zero(case: Case) -> None:
    """with weight 0 is as if it were not there"""
    model = small_model(case, **{f"{case.name}.weight": 0.0})
    weight = model.configs[case.name].weight
    broken(f"weight=0 becomes {weight}" if weight != 0 else None)
    batch = a_batch(model, case)
    with_it = model(**dict(batch))["loss"]
    del model.kinds[case.name], model.modules_by_piece[case.name]
    same = torch.equal(with_it, model(**dict(batch))["loss"])
    broken(None if same else f"{expression_of(case)}: the loss with weight 0 is {float(with_it)}, without it another")


@check("loss")
def reads_only(case: Case) -> None:
    """sends no gradient to what it doesn't read"""
    model = small_model(case).train()
    values = model.signals(a_batch(model, case))
    upstream, more = {case.name}, True
    while more:
        feeders = {p for key, p in model.recipe.wire.items() if key.rpartition(".")[0] in upstream}
        more = not feeders <= upstream
        upstream |= feeders
    part = model.modules_by_piece[case.name](**model.arguments(case.name, values))
    if part.requires_grad:
        part.backward()
    own = {id(p) for name in upstream & model.kinds.keys() for _, p in model.piece_parameters(name)}
    reached = [n for n, p in model.named_parameters() if p.grad is not None and p.grad.any() and id(p) not in own]
    broken(f"{expression_of(case)}: a gradient reaches {reached[0]}" if reached else None)


@check("stage", needs=())
def patterns(case: Case) -> None:
    """selects something by every pattern, and trains something"""
    stage: Any = case.contract.config()
    try:
        model = small_model(case)
        model.begin(case.name)
    except RRGError as error:
        broken(f"{expression_of(case)}: {error}")
    names = [name for name, kind in model.kinds.items() if kind != "stage"]
    idle = [p for p in [*(stage.pieces or []), *stage.losses] if p != "*" and not any(fnmatch(n, p) for n in names)]
    broken(f"{expression_of(case)}: {idle[0]} matches nothing" if idle else None)
    trains = any(parameter.requires_grad for parameter in model.parameters())
    broken(None if trains else f"{expression_of(case)}: nothing trains")


@check("stage", needs=("patterns",))
def freezes(case: Case) -> None:
    """leaves what it says is frozen as it is, bit for bit, statistics too"""
    stated = case.contract.config().model_dump()["llm"]  # the host `tiny` has another word for all stages
    model = small_model(case, **({} if stated is None else {f"{case.name}.llm": stated}))
    model.begin(case.name)
    model.train()
    said = model.configs[case.name].model_dump()
    held = _held(model, said)
    before = {name: tensor.clone() for name, tensor in held.items()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        model(**a_batch(model, case))["loss"].backward()
        optimizer.step()
    moved = [name for name, tensor in before.items() if not torch.equal(tensor, held[name])]
    broken(f"{expression_of(case)}: {moved[0]} changes, and the stage says frozen" if moved else None)


def _held(model: RRGModel, said: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Parameters and buffers of what a stage says is frozen."""
    held: dict[str, torch.Tensor] = {}
    if said["llm"] != "full" or not said["report"]:
        held |= {name: p for name, p in model.host.language_parameters() if "lora_" not in name}
    for name in [*model.modules_by_piece, *model.injection.pieces]:
        gives = {port.signal for port in model.contracts[name].gives}
        if "patch_tokens" in gives:
            frozen = said["vision"] == "frozen"
        elif "visual_embeds" in gives:
            frozen = said["connector"] == "frozen" or not said["report"]
        elif name == model.text_encoder and hasattr(model.modules_by_piece[name], "frozen"):  # it says so itself
            frozen = bool(model.modules_by_piece[name].frozen)
        else:
            frozen = not any(fnmatch(name, pattern) for pattern in said["pieces"])
        if frozen:
            held |= dict([*model.piece_parameters(name), *model.piece_buffers(name)])
    return held


class Stopped(BaseException):
    """Stands for the end of the process."""


@check("stage", needs=("patterns",))
def resumes(case: Case) -> None:
    """ends the same when it was stopped between two epochs and resumed"""
    settings = {"stages.batch_size": 2, "stages.accumulation": 1, "stages.epochs": 1, f"{case.name}.epochs": 2}
    recipe = small_recipe(case, **settings)
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
        folder, runs = noise_folder(Path(place) / "data", {"train": 5, "val": 2}), Path(place)
        train(recipe, folder, runs / "whole")
        _stop_after_an_epoch(case, recipe, folder, runs / "parts")
        train(recipe, folder, runs / "parts", resume=True)
        whole, parts = (_files(runs / name) for name in ("whole", "parts"))
    other = [name for name in whole if whole[name] != parts.get(name)]
    broken(f"{expression_of(case)}: resumed, {other[0]} differs" if other else None)


def _files(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*.safetensors"))}


def _stop_after_an_epoch(case: Case, recipe: Recipe, folder: StudyFolder, out: Path) -> None:
    alive, left = StageTrainer.training_step, [3]  # 5 studies, 2 a step

    def step(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self._name == case.name:
            left[0] -= 1
            if left[0] < 0:
                raise Stopped
        return alive(self, *args, **kwargs)

    StageTrainer.training_step = step  # type: ignore[method-assign]
    try:
        with contextlib.suppress(Stopped):
            train(recipe, folder, out)
    finally:
        StageTrainer.training_step = alive  # type: ignore[method-assign]
