"""Checks of injectors: within one layer, and in tiny language models of four families."""

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rrg.model.inject import Injection, prepared
from rrg.testing.case import Case, Example, differs, shaken
from rrg.testing.checks import REPEATS, broken, check, declared
from rrg.testing.hosts import HOSTS, LAYERS, WIDTH, tiny_model

IDS = torch.tensor([[1, 40, 41, 42, 43], [1, 50, 51, 52, 53]])
SIZES = {"batch": 2, "patches": 3, "slots": 3, "report": 3, "views": 2, "channels": 1, "text": 5, "vision": 5, "key": 4}
SIZES |= {"reference": 3, "phrase": 3, "language": 5}
SIZES |= {"host": WIDTH, "height": 32, "width": 32, "diseases": 14, "layers": LAYERS}
END = 319  # a token that ends nothing here: every row runs to its full length


class Hosted:
    """A tiny language model with the piece in every layer, and signals for two studies."""

    def __init__(self, case: Case, kind: str, lora: bool = False) -> None:
        self.case, self.kind = case, kind
        self.example = Example(case.sizes(SIZES), seed=3)
        case.where = f"on {kind}: {self.example}"
        self.model: Any = tiny_model(kind, width=self.example.sizes["host"]).to(case.device)
        self.base = copy.deepcopy(self.model)
        if lora:
            from peft import LoraConfig, get_peft_model

            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for an older name
                get_peft_model(self.model, LoraConfig(r=2, target_modules="all-linear"))
        self.injection = Injection(self.model, self.model.get_decoder().layers)
        self.modules: dict[int, nn.Module] = {}
        for layer in range(LAYERS):
            module = shaken(case.build(case.axes(self.example), layer, self.modules.get(0), seed=layer), seed=layer)
            self.modules[layer] = module.to(case.device).eval()
        self.injection.add(case.name, self.modules, case.contract.config().where)  # type: ignore[attr-defined]
        self.signals = {name: t for name, t in case.tensors(self.example).items() if name != "hidden"}
        self.ids = IDS.to(case.device)

    def prepare(self, rows: slice = slice(None)) -> None:
        self.injection.prepare({self.case.name: {name: tensor[rows] for name, tensor in self.signals.items()}})


def hosts(case: Case, **options: Any) -> Iterator[Hosted]:
    for kind in HOSTS:
        yield Hosted(case, kind, **options)


@check("injector", needs=REPEATS)
def causal(case: Case) -> None:
    """lets a token see nothing of the tokens behind it"""

    def body(example: Example) -> None:
        module, tensors = case.module(example), case.tensors(example)
        cut = example.sizes["text"] // 2
        later = {**tensors, "hidden": tensors["hidden"].clone()}
        later["hidden"][:, cut:] += 1.0
        with torch.no_grad():
            before, after = (case.call(module, given)["result"][:, :cut] for given in (tensors, later))
        change = differs({"hidden": before}, {"hidden": after})
        broken(f"a change from token {cut} on changes tokens before it: {change}" if change else None)

    case.forall(body, ordinary=True, text=(2, 5))


@check("injector", needs=REPEATS)
def layers(case: Case) -> None:
    """keeps what one layer prepared apart from what another did"""

    def body(example: Example) -> None:
        first = case.fresh(example)
        second = shaken(case.build(case.axes(example), 1, first, seed=1), seed=1).to(case.device).eval()
        tensors = case.tensors(example)
        signals = {name: tensor for name, tensor in tensors.items() if name != "hidden"}
        others = {name: -tensor if tensor.is_floating_point() else tensor for name, tensor in signals.items()}
        with torch.no_grad():
            for own, other in ((first, second), (second, first)):
                alone = own(tensors["hidden"], **prepared(own, signals))
                prepared(other, others)
                memory = prepared(own, signals)
                prepared(other, others)
                change = differs({"hidden": alone}, {"hidden": own(tensors["hidden"], **memory)})
                broken(f"a layer acts otherwise once another has prepared: {change}" if change else None)

    case.forall(body, ordinary=True)


@check("injector", applies=declared("close"), needs=REPEATS)
def closed(case: Case) -> None:
    """closed, leaves the logits of every tiny host as they are, bit for bit, in float32 and bfloat16"""
    for hosted in hosts(case):
        for module in hosted.modules.values():
            module.close()  # type: ignore[operator]
        for dtype in (torch.float32, torch.bfloat16):
            hosted.model.to(dtype)
            hosted.signals = {n: t.to(dtype) if t.is_floating_point() else t for n, t in hosted.signals.items()}
            with torch.no_grad():
                base = hosted.base.to(dtype)(input_ids=hosted.ids).logits
                hosted.prepare()
                same = torch.equal(hosted.model(input_ids=hosted.ids).logits, base)
            broken(None if same else f"closed, it changes the logits in {dtype}")


@check("injector", needs=(*REPEATS, "rows", "causal"))
def cached(case: Case) -> None:
    """decodes with the key-value cache as in one full pass, on every tiny host"""
    for hosted in hosts(case):
        with torch.no_grad():
            hosted.prepare()
            out = hosted.model.generate(
                input_ids=hosted.ids, max_new_tokens=4, do_sample=False, eos_token_id=END, output_logits=True,
                return_dict_in_generate=True,
            )  # fmt: skip
            full = hosted.model(input_ids=out.sequences).logits
        start = hosted.ids.shape[1]
        for step, logits in enumerate(out.logits):
            change = differs({"logits": logits}, {"logits": full[:, start + step - 1]})
            broken(f"token {step} decoded with the cache differs from the full pass: {change}" if change else None)


@check("injector", needs=(*REPEATS, "rows"))
def beams(case: Case) -> None:
    """gives a study the same beams and returned sequences alone and in a batch"""
    hosted = Hosted(case, "llama")
    for beams, returned in ((3, 1), (3, 2)):
        options = {"max_new_tokens": 4, "num_beams": beams, "num_return_sequences": returned}
        options |= {"do_sample": False, "eos_token_id": END}
        with torch.no_grad():
            hosted.prepare()
            found = hosted.model.generate(input_ids=hosted.ids, **options)
            for study in range(2):
                hosted.prepare(slice(study, study + 1))
                alone = hosted.model.generate(input_ids=hosted.ids[study : study + 1], **options)
                same = torch.equal(alone, found[study * returned : (study + 1) * returned])
                what = f"{beams} beams, {returned} returned: study {study} differs in the batch and alone"
                broken(None if same else what)


@check("injector", needs=REPEATS)
def checkpointing(case: Case) -> None:
    """has the same gradients with activation checkpointing, on every tiny host"""
    for hosted in hosts(case):
        found = []
        hosted.model.train()
        for enabled in (False, True):
            if enabled:
                hosted.model.activation_checkpointing_enable({"use_reentrant": False})
            hosted.model.zero_grad()
            leaves = {n: t.clone().requires_grad_(t.is_floating_point()) for n, t in hosted.signals.items()}
            hosted.injection.prepare({case.name: leaves})
            torch.manual_seed(0)
            hosted.model(input_ids=hosted.ids, labels=hosted.ids).loss.backward()
            grads = [*leaves.values(), *(p for module in hosted.modules.values() for p in module.parameters())]
            found.append([tensor.grad.clone() for tensor in grads if tensor.grad is not None])
        lost = len(found[0]) != len(found[1])
        same = not lost and all(torch.allclose(a, b, atol=1e-5, rtol=1e-3) for a, b in zip(*found, strict=True))
        broken(None if same else "checkpointing loses a gradient" if lost else "checkpointing changes a gradient")


@check("injector", needs=REPEATS)
def after_lora(case: Case) -> None:
    """is neither adapted nor frozen by adapters that are there before it"""
    for hosted in hosts(case, lora=True):
        own = [name for module in hosted.modules.values() for name, _ in module.named_parameters()]
        adapted = [name for name in own if "lora_" in name]
        frozen = [n for m in hosted.modules.values() for n, p in m.named_parameters() if not p.requires_grad]
        plain = {n for n, p in case.fresh(hosted.example).named_parameters() if p.requires_grad}
        broken(f"{adapted[0]} is an adapter" if adapted else None)
        broken(f"{frozen[0]} is frozen after LoRA" if set(frozen) & plain else None)
        with torch.no_grad():  # adapters start at zero
            hosted.prepare()
            plainly = Hosted(case, hosted.kind)
            plainly.prepare()
            logits = [each.model(input_ids=hosted.ids).logits for each in (hosted, plainly)]
        change = differs({"logits": logits[0]}, {"logits": logits[1]})
        broken(f"fresh adapters change the logits: {change}" if change else None)


@check("injector")
def base_keys(case: Case) -> None:
    """leaves the language model's own weights and their names as they are"""
    for hosted in hosts(case):
        with torch.no_grad():
            hosted.prepare()
            hosted.model(input_ids=hosted.ids)
        before, after = hosted.base.state_dict(), hosted.model.state_dict()
        lost = sorted(before.keys() - after.keys())
        strange = sorted(name for name in after.keys() - before.keys() if ".rrg." not in name)
        changed = [name for name in before if name in after and not torch.equal(before[name], after[name])]
        for what, names in (("is gone", lost), ("is new", strange), ("changed", changed)):
            broken(f"{names[0]} {what}" if names else None)


class Twice(nn.Module):
    """hidden · 2 + 1: commutes with hardly anything."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * 2.0 + 1.0


@check("injector", needs=REPEATS)
def order(case: Case) -> None:
    """acts before what is injected after it, and after what was injected before it"""
    for after in (False, True):
        hosted = Hosted(case, "llama")
        model = copy.deepcopy(hosted.base)
        injection = Injection(model, model.get_decoder().layers)
        piece, twice = hosted.modules[1], Twice()
        where = case.contract.config().where  # type: ignore[attr-defined]
        for name, module in [(case.name, piece), ("test.twice", twice)][:: -1 if after else 1]:
            injection.add(name, {1: module}, where)
        injection.prepare({case.name: hosted.signals, "test.twice": {}})
        layer: Any = injection.layers[1]
        hidden = case.tensors(hosted.example)["hidden"]
        with torch.no_grad():
            found = layer.rrg.apply_to(getattr(layer.rrg, where), hidden, layer.rrg.memory)
            memory = prepared(piece, hosted.signals)
            expected = piece(twice(hidden), **memory) if after else twice(piece(hidden, **memory))
        change = differs({"hidden": found}, {"hidden": expected})
        broken(f"it doesn't act in the order of injection: {change}" if change else None)
